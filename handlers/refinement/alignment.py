"""Whether an MR series lies where the CT says it should, right at the target.

A second line behind the registration's own judgement: small shifts of the series are tried, and if
one of several millimetres fits the CT better, the series does not move a contour. Registers nothing
and moves nothing.

Read first: Studholme et al. 1999, Pattern Recognition 32:71-86 (normalised mutual information).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Shift = tuple[float, float, float]

REACH_MM = 10.0
"""Farthest shift tried along each axis."""

COARSE_MM = 4.0
FINE_MM = (2.0, 1.0)
"""Steps of the grid of shifts, and of the climbs from its best."""

BINS = 24
POINT_LIMIT = 10_000
"""Voxels that are compared; of more every n-th is taken."""

LEAST_OVERLAP = 0.6
"""A shift that leaves fewer of them on the series is not tried."""

HU_RANGE = (-200.0, 300.0)

GAS_HU = -300.0
"""Below this the CT shows gas, which lies elsewhere on another day."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a series fits best.

    Attributes:
        shift_mm: Length of the shift that fits best.
        gain: Similarity there over that without any shift; at least 1.
        similarity: Normalised mutual information without any shift, less one: 0 means none.
    """

    shift_mm: float
    gain: float
    similarity: float


def best_offset(
    hu: npt.NDArray[np.float32],
    signal: npt.NDArray[np.float32],
    where: Bools,
    valid: Bools,
    spacing_mm: Sequence[float],
) -> Offset:
    """Return how far a series must be shifted to fit the CT best.

    Args:
        hu: The CT.
        signal: The series, on its grid.
        where: Voxels of the CT that are compared; holds one at least, and valid ones only.
        valid: Voxels that the series covers.
        spacing_mm: Of the grid.
    """
    at = np.argwhere(where).astype(np.float64)
    at = at[:: -(-len(at) // POINT_LIMIT)]
    hu_bins = _bins(hu[where][:: -(-np.count_nonzero(where) // POINT_LIMIT)], *HU_RANGE)
    low, high = np.percentile(signal[where], (1, 99))
    scaled = np.clip((signal - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    size = np.array(hu.shape)[:, None]
    known: dict[Shift, float] = {}

    def similarity(shift: Shift) -> float:
        if shift not in known:
            points = (at + np.array(shift) / spacing_mm).T
            moved = ndimage.map_coordinates(scaled, points, order=1, mode="nearest")
            cells = np.rint(points).astype(int)
            inside = np.all((cells >= 0) & (cells < size), axis=0)
            inside[inside] = valid[tuple(cells[:, inside])]
            if np.count_nonzero(inside) < LEAST_OVERLAP * len(at):
                known[shift] = 0.0
            else:
                bins = _bins(moved[inside], 0.0, 1.0)
                known[shift] = _shared_information(hu_bins[inside], bins)
        return known[shift]

    steps = np.arange(-REACH_MM, REACH_MM + 0.1, COARSE_MM)
    grid: list[Shift] = list(product(steps.tolist(), repeat=3))
    still: Shift = (0.0, 0.0, 0.0)
    # to stay counts among the starts: the grid need not hold it
    best = max((still, *grid), key=similarity)
    for step in FINE_MM:
        best = _climbed(best, step, similarity)
    least = max(similarity(still), 1e-6)
    return Offset(
        float(np.linalg.norm(best)), max(similarity(best) / least, 1.0), similarity(still)
    )


def _climbed(start: Shift, step: float, similarity: Callable[[Shift], float]) -> Shift:
    best = start
    while True:
        z, y, x = best
        near = [
            (z + step, y, x),
            (z - step, y, x),
            (z, y + step, x),
            (z, y - step, x),
            (z, y, x + step),
            (z, y, x - step),
        ]
        inside = [s for s in near if max(abs(v) for v in s) <= REACH_MM + COARSE_MM / 2]
        better = max(inside, key=similarity)
        if similarity(better) <= similarity(best):
            return best
        best = better


def _bins(values: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.int64]:
    share = (np.clip(values, low, high) - low) / (high - low)
    return np.asarray(np.minimum(share * BINS, BINS - 1), dtype=np.int64)


def _shared_information(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Return (H(a) + H(b)) / H(a, b) - 1 of two images given as bins; 0 where both are flat."""
    counts = np.bincount(first * BINS + second, minlength=BINS * BINS).reshape(BINS, BINS)
    joint = counts / counts.sum()
    both = _entropy(joint.ravel())
    if both <= 0:
        return 0.0
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / both - 1.0


def _entropy(shares: Array) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
