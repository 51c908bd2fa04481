"""Where an MR may lie on the planning CT, found from content alone.

Coordinates of two frames of reference have nothing to do with each other, so every offset at which
enough of the MR meets the CT is tried, for a few rotations. The joint histograms of all offsets
come from correlations of class maps (FFT), so the search is exhaustive and has no optimiser that
could end beside the mark. It is coarse by design: `coarse` makes the best candidates comparable.

Read first: Viola and Wells 1997, Int J Comput Vis 24:137-154 (mutual information).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from handlers.geometry import RigidTransform
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings

Volume = npt.NDArray[np.float32]

CT_CLASS_CENTRES_HU = (-300.0, -190.0, -90.0, 0.0, 60.0, 250.0)
"""Air, its border, fat, water, soft tissue, bone: voxels between two share their weight."""

MR_CLASS_PERCENTILES = (10.0, 35.0, 60.0, 85.0, 97.0)
"""Centres of the MR's classes among its body voxels; air is a class of its own."""

LEVELLED_CLASS_PERCENTILES = (3.0, 15.0, 40.0, 65.0, 85.0, 97.0)
"""The same of images that are levelled: HU mean nothing there, and air is no class."""

TURNED_DEG = 60.0
"""Poses turned by more than this contradict the orientation labels."""

PEAK_DISTANCE = 3
"""Two candidates of one rotation lie at least this many grid steps apart."""

PEAKS_PER_ROTATION = 3
"""Candidates kept of each rotation."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A rough pose and how much it explains.

    Attributes:
        mr_from_ct: The pose.
        information: Mutual information times the overlap, weighted; for ranking only.
    """

    mr_from_ct: RigidTransform
    information: float


def find_starts(
    ct: Prepared, mr: Prepared, settings: RegistrationSettings
) -> tuple[Candidate, ...]:
    """Return rough poses, the best first; empty when the images nowhere overlap enough.

    Args:
        ct: The planning CT, at least as fine as the search grid.
        mr: The MR, likewise.
        settings: Grid, rotations and least overlap of the search.
    """
    spacing_mm = settings.start_spacing_mm
    ct_lattice = _Lattice.over(ct, np.eye(3), spacing_mm)
    if not np.any(mr.body & mr.valid) or not np.any(ct.body):
        return ()
    ct_classes = _ct_classes(ct, ct_lattice)
    mr_centres = _moving_class_centres(mr)
    found: list[Candidate] = []
    for angles_deg in settings.start_rotations_deg:
        turn = RigidTransform.from_parameters(
            rotation_deg=angles_deg,
            translation_mm=(0.0, 0.0, 0.0),
            to_frame_uid=mr.geometry.frame_of_reference_uid,
            from_frame_uid=ct.geometry.frame_of_reference_uid,
        )
        mr_lattice = _Lattice.over(mr, turn.matrix[:3, :3], spacing_mm)
        information = _information(
            ct_classes, _mr_classes(mr, mr_lattice, mr_centres), settings.least_start_overlap
        )
        for step, value in _peaks(information):
            steps = np.array(step) - np.array(mr_lattice.shape) + 1
            begin = ct_lattice.origin + steps[::-1] * spacing_mm
            offset = mr_lattice.rotation @ (mr_lattice.origin - begin)
            matrix = turn.matrix.copy()
            matrix[:3, 3] = offset
            pose = RigidTransform(matrix, turn.to_frame_uid, turn.from_frame_uid)
            found.append(Candidate(pose, value * label_weight(pose, settings)))
    return tuple(sorted(found, key=lambda c: -c.information))


def label_weight(mr_from_ct: RigidTransform, settings: RegistrationSettings) -> float:
    """Return the factor by which a pose counts, given that orientation labels are mostly right."""
    return settings.turned_weight if mr_from_ct.rotation_angle_deg > TURNED_DEG else 1.0


class Explained:
    """How much of the CT an MR explains at any pose: the search's own measure, without its grid."""

    def __init__(self, ct: Prepared, mr: Prepared, settings: RegistrationSettings) -> None:
        lattice = _Lattice.over(ct, np.eye(3), settings.start_spacing_mm)
        self._settings = settings
        self._points = lattice.points()
        self._ct_shares = _ct_classes(ct, lattice)
        self._ct_shares = self._ct_shares.reshape(len(self._ct_shares), -1)
        self._mr = mr
        self._centres = _moving_class_centres(mr)

    def nats(self, mr_from_ct: RigidTransform) -> float:
        """Return mutual information times the overlap, weighted by `label_weight`."""
        voxels, valid = self._mr.at(mr_from_ct.apply(self._points))
        mr_shares = _shares(voxels[valid], self._centres)
        joint = self._ct_shares[:, valid] @ mr_shares.T
        weight = label_weight(mr_from_ct, self._settings)
        return weight * float(
            _n_log_n(joint).sum()
            - _n_log_n(joint.sum(axis=0)).sum()
            - _n_log_n(joint.sum(axis=1)).sum()
            + _n_log_n(joint.sum())
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Lattice:
    """Cubic lattice, axes turned by `rotation` from LPS; array order (z, y, x).

    `origin` (x, y, z) is told along the lattice's own axes.
    """

    rotation: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    shape: tuple[int, int, int]
    spacing_mm: float

    @classmethod
    def over(
        cls, volume: Prepared, rotation: npt.NDArray[np.float64], spacing_mm: float
    ) -> "_Lattice":
        turned = volume.geometry.corners_mm() @ rotation
        low, high = turned.min(axis=0), turned.max(axis=0)
        size = np.maximum(np.floor((high - low) / spacing_mm).astype(int) + 1, 1)
        origin = (low + high) / 2 - (size - 1) / 2 * spacing_mm
        return cls(rotation, origin, (int(size[2]), int(size[1]), int(size[0])), spacing_mm)

    def points(self) -> npt.NDArray[np.float64]:
        grid = np.indices(self.shape).reshape(3, -1).T[:, ::-1]
        return (grid * self.spacing_mm + self.origin) @ self.rotation.T


def _shares(voxels: Volume, centres: npt.NDArray[np.float64]) -> Volume:
    """Return the weight of each class (first axis) at each voxel; the weights sum to one."""
    at = np.interp(voxels, centres, np.arange(len(centres), dtype=float))
    classes = np.arange(len(centres)).reshape(-1, *([1] * voxels.ndim))
    return np.asarray(np.clip(1.0 - np.abs(at - classes), 0.0, None), dtype=np.float32)


def _ct_classes(ct: Prepared, lattice: _Lattice) -> Volume:
    voxels, valid = ct.at(lattice.points())
    centres = _levelled_centres(ct) if ct.is_levelled else np.array(CT_CLASS_CENTRES_HU)
    shares = _shares(voxels, centres) * valid
    return np.asarray(shares.reshape(-1, *lattice.shape), dtype=np.float32)


def _levelled_centres(volume: Prepared) -> npt.NDArray[np.float64]:
    shown = volume.voxels[volume.body & volume.valid]
    centres = np.percentile(shown if shown.size else volume.voxels, LEVELLED_CLASS_PERCENTILES)
    return np.asarray(centres + np.arange(len(centres)) * 1e-6 * (1.0 + np.abs(centres).max()))


def _moving_class_centres(mr: Prepared) -> npt.NDArray[np.float64]:
    if mr.is_levelled:
        return _levelled_centres(mr)
    shown = mr.voxels[mr.body & mr.valid]
    centres = np.percentile(shown if shown.size else mr.voxels, MR_CLASS_PERCENTILES)
    centres = np.concatenate([[min(0.0, float(centres[0]) - 1.0)], centres])
    return np.asarray(centres + np.arange(len(centres)) * 1e-6 * (1.0 + abs(centres[-1])))


def _mr_classes(mr: Prepared, lattice: _Lattice, centres: npt.NDArray[np.float64]) -> Volume:
    voxels, valid = mr.at(lattice.points())
    return np.asarray((_shares(voxels, centres) * valid).reshape(-1, *lattice.shape), np.float32)


def _information(ct_classes: Volume, mr_classes: Volume, least_overlap: float) -> Volume:
    """Return mutual information times overlap for every offset of the MR lattice.

    Entry (k, j, i) belongs to the MR lattice beginning at CT index (k, j, i) - (MR shape - 1).

    Raises:
        MemoryError: The machine has too little.
    """
    try:
        return _information_at_all_offsets(ct_classes, mr_classes, least_overlap)
    except RuntimeError as error:  # how scipy tells that its threads got no memory
        raise MemoryError from error


def _information_at_all_offsets(
    ct_classes: Volume, mr_classes: Volume, least_overlap: float
) -> Volume:
    full = [a + b - 1 for a, b in zip(ct_classes.shape[1:], mr_classes.shape[1:], strict=True)]
    size = [fft.next_fast_len(n, real=True) for n in full]
    axes = (1, 2, 3)
    ct_spectra = fft.rfftn(ct_classes, size, axes=axes, workers=-1)
    mr_spectra = fft.rfftn(mr_classes[:, ::-1, ::-1, ::-1], size, axes=axes, workers=-1)
    inside = tuple(slice(0, n) for n in full)
    ct_sums = np.zeros((len(ct_classes), *full), dtype=np.float32)
    nats = np.zeros(full, dtype=np.float32)
    bodies = np.zeros(full, dtype=np.float32)
    for k, mr_spectrum in enumerate(mr_spectra):
        counts = fft.irfftn(ct_spectra * mr_spectrum, size, axes=axes, workers=-1)[
            (slice(None), *inside)
        ]
        counts = np.maximum(counts, 0.0)
        ct_sums += counts
        # N * MI = sum n log n (joint) - sum n log n (rows) - sum n log n (columns) + N log N
        nats += _n_log_n(counts).sum(axis=0) - _n_log_n(counts.sum(axis=0))
        if k > 0:
            bodies += counts[1:].sum(axis=0)
    nats += _n_log_n(ct_sums.sum(axis=0)) - _n_log_n(ct_sums).sum(axis=0)
    smaller = min(float(ct_classes[1:].sum()), float(mr_classes[1:].sum()))
    nats[bodies < least_overlap * smaller] = -np.inf
    return nats


def _n_log_n(counts: npt.ArrayLike) -> Volume:
    array = np.asarray(counts)
    return np.asarray(array * np.log(np.maximum(array, 1e-3)), dtype=np.float32)


def _peaks(information: Volume) -> list[tuple[tuple[int, int, int], float]]:
    """Return index and value of the highest local maxima."""
    highest = ndimage.maximum_filter(information, size=2 * PEAK_DISTANCE + 1, mode="nearest")
    at = np.argwhere((information == highest) & np.isfinite(information))
    values = information[tuple(at.T)]
    best = np.argsort(-values, kind="stable")[:PEAKS_PER_ROTATION]
    return [((int(at[i][0]), int(at[i][1]), int(at[i][2])), float(values[i])) for i in best]
