"""Images made ready for comparison: intensities bounded, voxels averaged, filler told from data.

Never moves anything: every image keeps its own frame of reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from handlers.geometry import Geometry, Points
from handlers.values import Image

CT_WINDOW_HU = (-300.0, 400.0)
"""HU are clipped to this: metal, table and filler values must not spend the histogram's bins."""

CT_BODY_HU = -290.0
"""CT voxels above this belong to the body (or the table)."""

MR_PERCENTILES = (0.5, 99.5)
"""MR is clipped to these: coils and flow give single voxels of any brightness."""

CT_PERCENTILES = (1.0, 99.0)
"""Another CT is clipped to these."""

MR_AIR_FRACTION = 0.12
"""MR voxels darker than this fraction of the 95th percentile are air (or bone, or gas)."""

MOST_VOXELS = 8_000_000
"""More show no more of where the target lies, and cost seconds."""

FILLER_RIM_MM = 8.0
"""How far beyond its non-zero voxels an MR counts as data: enough of the air around the body to
show its outline, little of a block of filler zeros."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume for comparison.

    Attributes:
        geometry: Its grid, in the frame of reference of its image.
        voxels: float32, bounded intensities.
        valid: Voxels that are data, not filler.
        body: Voxels that are not air.
        is_levelled: Whether the voxels tell what stands out from its surroundings (see `levelled`)
            and no longer HU or brightness.
    """

    geometry: Geometry
    voxels: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    body: npt.NDArray[np.bool_]
    is_levelled: bool = False

    def has_contrast(self) -> bool:
        """Tell whether the data are more than one grey value."""
        shown = self.voxels[self.valid]
        return shown.size > 0 and float(shown.max()) > float(shown.min())

    def shrunk(self, spacing_mm: float) -> "Prepared":
        """Return averages over whole blocks whose edges come close to `spacing_mm`."""
        blocks = [
            min(n, max(1, round(spacing_mm / s)))
            for s, n in zip(self.geometry.spacing_mm, self.geometry.shape, strict=True)
        ]
        if max(blocks) == 1:
            return self
        matrix = self.geometry.patient_from_index.copy()
        matrix[:3, 3] = self.geometry.points_from_indices((np.array(blocks) - 1) / 2.0)[0]
        matrix[:3, :3] *= blocks
        voxels = _block_means(self.voxels, blocks)
        geometry = Geometry(self.geometry.frame_of_reference_uid, matrix, voxels.shape)
        valid = _block_means(self.valid.astype(np.float32), blocks) >= 0.5
        body = _block_means(self.body.astype(np.float32), blocks) >= 0.5
        return Prepared(geometry, voxels, valid, body, self.is_levelled)

    def cropped(self, points: Points, margin_mm: float) -> "Prepared":
        """Return the block that holds the LPS points (n, 3) and a margin, as far as there is one.

        Returns the whole volume where the points lie outside.
        """
        at = self.geometry.indices_from_points(points)
        margin = margin_mm / np.array(self.geometry.spacing_mm)
        low = np.clip(np.floor(at.min(axis=0) - margin), 0, None).astype(int)
        high = np.minimum(np.ceil(at.max(axis=0) + margin) + 1, self.geometry.shape).astype(int)
        if np.any(high - low < 2):
            return self
        block = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        start = (int(low[0]), int(low[1]), int(low[2]))
        shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
        geometry = self.geometry.crop(start, shape)
        return Prepared(
            geometry, self.voxels[block], self.valid[block], self.body[block], self.is_levelled
        )

    def lattice(self, spacing_mm: float) -> Geometry:
        """Return a cubic lattice along LPS that spans the volume; its axes are z, y, x."""
        corners = self.geometry.corners_mm()
        low, high = corners.min(axis=0), corners.max(axis=0)
        matrix = np.eye(4)
        matrix[:3, :3] = np.fliplr(np.eye(3)) * spacing_mm
        matrix[:3, 3] = low
        counts = np.ceil((high - low) / spacing_mm).astype(int) + 1
        shape = (int(counts[2]), int(counts[1]), int(counts[0]))
        return Geometry(self.geometry.frame_of_reference_uid, matrix, shape)

    def smoothed(self, sigma_mm: float) -> "Prepared":
        """Return the volume under a Gaussian of `sigma_mm`."""
        sigma = [sigma_mm / s for s in self.geometry.spacing_mm]
        voxels = ndimage.gaussian_filter(self.voxels, sigma, truncate=3.0)
        return replace(self, voxels=voxels)

    def at(self, points: Points) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return voxels interpolated at LPS points (n, 3), and whether there is data there."""
        indices = self.geometry.indices_from_points(points).T
        voxels = ndimage.map_coordinates(self.voxels, indices, order=1, mode="nearest")
        nearest = np.rint(indices).astype(int)
        inside = np.all((nearest >= 0) & (self.geometry.shape > nearest.T).T, axis=0)
        valid = np.zeros(len(inside), dtype=bool)
        valid[inside] = self.valid[tuple(nearest[:, inside])]
        return voxels, valid


def prepared_ct(ct: Image, spacing_mm: float) -> Prepared:
    """Return the CT clipped to `CT_WINDOW_HU` on a grid of about `spacing_mm`.

    A grid of more than `MOST_VOXELS` is made coarser.
    """
    voxels = np.clip(ct.voxels, *CT_WINDOW_HU)
    everywhere = np.ones(voxels.shape, dtype=bool)
    return _ready(Prepared(ct.geometry, voxels, everywhere, voxels > CT_BODY_HU), spacing_mm)


def prepared_moving(image: Image, spacing_mm: float) -> Prepared:
    """Return an MR, or another CT, that is to be brought to the planning CT."""
    return _moving_ct(image, spacing_mm) if image.modality == "CT" else _mr(image, spacing_mm)


def _moving_ct(ct: Image, spacing_mm: float) -> Prepared:
    """Return another CT, its HU not believed: those of cone beams are off by hundreds.

    Its lowest value is filler. The cylinder that a cone beam shows may end within the body, so
    unlike an MR's filler nothing of it counts as air.
    """
    something = ct.voxels > float(ct.voxels.min())
    valid = np.stack([ndimage.binary_fill_holes(plane) for plane in something])
    shown = ct.voxels[something] if something.any() else ct.voxels
    low, high = np.percentile(shown, CT_PERCENTILES)
    voxels = np.clip(ct.voxels, low, high)
    is_body = valid & (voxels > threshold_otsu(np.clip(shown, low, high)) if high > low else valid)
    return _ready(Prepared(ct.geometry, voxels, valid, is_body), spacing_mm)


def _mr(mr: Image, spacing_mm: float) -> Prepared:
    """Return the MR clipped to its percentiles on a grid of about `spacing_mm`."""
    something = mr.voxels != 0
    shown = mr.voxels[something] if something.any() else mr.voxels
    low, high = np.percentile(shown, MR_PERCENTILES)
    voxels = np.clip(mr.voxels, min(float(low), 0.0), high)
    air = MR_AIR_FRACTION * float(np.percentile(shown, 95))
    valid = _grown(something, mr.geometry)
    return _ready(Prepared(mr.geometry, voxels, valid, voxels > air), spacing_mm)


def _grown(inside: npt.NDArray[np.bool_], geometry: Geometry) -> npt.NDArray[np.bool_]:
    size = [2 * int(np.ceil(FILLER_RIM_MM / s)) + 1 for s in geometry.spacing_mm]
    return np.asarray(ndimage.maximum_filter(inside, size=size, mode="constant"))


def _ready(volume: Prepared, spacing_mm: float) -> Prepared:
    """Return the volume on its grid, its body with what it encloses in each slice: gas, bone."""
    coarser = volume.shrunk(spacing_mm)
    while coarser.voxels.size > MOST_VOXELS:
        spacing_mm *= 1.2
        coarser = volume.shrunk(spacing_mm)
    return _filled(coarser)


def _filled(volume: Prepared) -> Prepared:
    plane = ndimage.generate_binary_structure(2, 1)
    body = np.stack(
        [
            ndimage.binary_fill_holes(ndimage.binary_closing(s, plane, iterations=2) | s)
            for s in volume.body
        ]
    )
    return replace(volume, body=body)


def _block_means(voxels: npt.NDArray[np.float32], blocks: Sequence[int]) -> npt.NDArray[np.float32]:
    for axis, block in enumerate(blocks):
        if block > 1:
            whole = voxels.shape[axis] // block * block
            lines = np.moveaxis(voxels, axis, 0)
            # sums of strided views are several times faster than a mean over a short axis
            sums = lines[0:whole:block].astype(np.float32)
            for k in range(1, block):
                sums += lines[k:whole:block]
            voxels = np.moveaxis(sums / np.float32(block), 0, axis)
    return np.ascontiguousarray(voxels, dtype=np.float32)
