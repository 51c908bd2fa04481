"""What every search around a target needs: smoothed images, and how the target looks in them.

Finds nothing by itself but bone, which is kept out of all searches for vessels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from handlers.refinement.alignment import GAS_HU
from handlers.refinement.evidence import Channel
from handlers.refinement.fitness import KIND_OF_CONTRAST
from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings
from handlers.values import Image

Array = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CT_SMOOTH_MM = 0.8
MR_SMOOTH_MM = 0.6

SOFT_HU = (-10.0, 450.0)
"""Soft tissue with and without contrast: above lies bone, below fat."""

BONE_HU = 450.0
BONE_CM3 = 0.5
"""Smaller pieces are calcium, clips or noise."""
BONE_GAP_MM = 6.0
"""Gaps in the cortex that are closed; half of it is the margin around bone."""

LIKE_TARGET = 0.375
"""A voxel looks like a voxel of the core on an MR channel, whose spread around the target is 1, if
they are no farther apart than this: as a number, or as a share of the target's own value."""
CORE_SAMPLES = 400
"""So many voxels of the core, evenly spread, stand for it."""
CORE_SHARE = 0.1
"""A voxel must look like so many of them: a target drawn askew has a vessel in its core."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One image over the region, smoothed, and how the target looks in it.

    Attributes:
        values: CT in HU, MR as its channel is scaled.
        target: Median of the target's core.
        spread: Half of what holds the middle 68 % of the core.
    """

    values: Array
    target: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Connected pieces of a mask, numbered from 1."""

    labels: npt.NDArray[np.int32]
    count: int
    voxel_cm3: float

    def cm3(self, within: Bools | None = None) -> npt.NDArray[np.floating]:
        """Return the volume of each piece, or of its part within a mask; entry 0 is no piece."""
        where = self.labels if within is None else self.labels[within]
        return np.bincount(where.ravel(), minlength=self.count + 1) * self.voxel_cm3

    def median(self, values: Array) -> npt.NDArray[np.float64]:
        """Return the median of values in each piece; entry 0 is no piece."""
        numbers = np.arange(1, self.count + 1)
        medians = ndimage.median(values, self.labels, numbers) if self.count else []
        return np.concatenate([[0.0], medians])

    def only(self, wanted: Bools) -> Bools:
        """Return the mask of the wanted pieces, `wanted` by number."""
        return np.asarray((wanted & (np.arange(self.count + 1) > 0))[self.labels])


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """A target and what the images show around it; arrays have the shape of the region.

    Attributes:
        region: The target.
        raw_hu: The CT.
        ct: The CT, smoothed; `mr` likewise by contrast.
        valid: Where all MR channels are known.
        near: Voxels that references are taken from.
        soft: Of these, soft tissue away from gas.
        bone: Bone with its marrow and a margin.
        core: What the target's look was taken from.
    """

    region: Region
    raw_hu: Array
    ct: Sight
    mr: Mapping[str, Sight]
    valid: Bools
    near: Bools
    soft: Bools
    bone: Bools
    core: Bools

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of slices, rows and columns."""
        return self.region.geometry.spacing_mm

    def within_mm(self, what: Bools, distance_mm: float) -> Bools:
        """Return the voxels no farther than this from one of `what`."""
        if not what.any():
            return np.zeros_like(what)
        away_mm = ndimage.distance_transform_edt(~what, sampling=self.spacing_mm)
        return np.asarray(away_mm <= distance_mm)

    def like_target(self, where: Bools, *, is_doubt_enough: bool = False) -> Bools:
        """Return which voxels of `where` look like one in the target's core on MR.

        All contrasts must say so, or any two kinds of contrast if doubt is enough; there must be
        two kinds at least. A core may hold several tissues: its voxels are compared one by one.
        """
        by_kind: dict[str, list[Sight]] = {}
        for name, sight in self.mr.items():
            by_kind.setdefault(KIND_OF_CONTRAST[name], []).append(sight)
        like = np.zeros_like(where)
        at = where & self.valid
        if len(by_kind) < 2 or not at.any():
            return like
        wanted = 2 if is_doubt_enough else len(by_kind)
        for kinds in combinations(by_kind, wanted):
            like[at] |= self._is_near_core(at, [s for kind in kinds for s in by_kind[kind]])
        return like

    def _is_near_core(self, at: Bools, sights: Sequence[Sight]) -> Bools:
        units = [LIKE_TARGET * max(1.0, abs(sight.target)) for sight in sights]
        looks = [sight.values / unit for sight, unit in zip(sights, units, strict=True)]
        core = np.stack([look[self.core] for look in looks], axis=-1)
        core = core[:: -(-len(core) // CORE_SAMPLES)]
        voxels = np.stack([look[at] for look in looks], axis=-1)
        enough = int(np.ceil(CORE_SHARE * len(core)))
        apart, _ = cKDTree(core).query(voxels, k=[enough], p=np.inf, distance_upper_bound=1.0)
        return np.asarray(apart[:, 0] <= 1.0)

    def pieces(self, what: Bools) -> Pieces:
        """Return the pieces of a mask; voxels that share a corner belong together."""
        labels, count = ndimage.label(what, np.ones((3, 3, 3)))
        return Pieces(labels, count, self.region.voxel_cm3)


def look_around(
    region: Region,
    ct: Image,
    channels: Sequence[Channel],
    valid: Bools,
    settings: RefinementSettings,
) -> Surroundings:
    """Return what the images show around a target."""
    spacing_mm = region.geometry.spacing_mm
    raw_hu = ct.voxels[region.block]
    hu = _smoothed(raw_hu, CT_SMOOTH_MM, spacing_mm)
    near = region.distance_mm <= settings.shell_mm
    at_gas = ndimage.binary_dilation(raw_hu < GAS_HU, iterations=2)
    soft = near & (hu > SOFT_HU[0]) & (hu < SOFT_HU[1]) & ~at_gas
    core = region.core & soft
    if not core.any():
        core = region.core if region.core.any() else region.drawn
    mr = {
        each.name: _sight(_smoothed(each.scaled, MR_SMOOTH_MM, spacing_mm), core)
        for each in channels
    }
    return Surroundings(
        region=region,
        raw_hu=raw_hu,
        ct=_sight(hu, core),
        mr=mr,
        valid=valid,
        near=near,
        soft=soft,
        bone=_bone(hu, region),
        core=core,
    )


def _smoothed(
    values: npt.NDArray[np.floating], sigma_mm: float, spacing_mm: Sequence[float]
) -> Array:
    """Return values blurred along the axes whose voxels are fine enough for it."""
    sigma = [sigma_mm / step if step < 3 * sigma_mm else 0.0 for step in spacing_mm]
    return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), sigma))


def _sight(values: Array, core: Bools) -> Sight:
    low, middle, high = np.percentile(values[core], (16, 50, 84))
    return Sight(values, float(middle), float(high - low) / 2)


def _bone(hu: Array, region: Region) -> Bools:
    """Return bone, its marrow and some margin: its look is too much like contrast."""
    labels, count = ndimage.label(hu > BONE_HU)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * region.voxel_cm3
    is_big = (sizes >= BONE_CM3) & (np.arange(count + 1) > 0)
    hard = is_big[labels]
    if not hard.any():
        return np.asarray(hard)
    spacing_mm = region.geometry.spacing_mm
    grown = ndimage.distance_transform_edt(~hard, sampling=spacing_mm) <= BONE_GAP_MM
    filled = np.stack([ndimage.binary_fill_holes(part) for part in grown])
    depth_mm = ndimage.distance_transform_edt(filled, sampling=spacing_mm)
    return np.asarray(filled & (depth_mm > BONE_GAP_MM / 2))
