"""How well each place of the CT matches the MR around it: cost per place and displacement.

Compared are self-similarities, which say how a voxel's neighbours resemble each other, whatever
their brightness. Decides nothing and fits nothing.

Read first: Heinrich et al. 2013, MICCAI LNCS 8149:187-194 (self-similarity context).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry, Points, RigidTransform
from handlers.registration.prepare import Prepared

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

GAS_HU = -200.0
"""CT voxels of the body below this are gas or lung: gas has moved by the time of the MR."""

GAS_RIM = 2
"""Voxels around gas that do not count either, and voxels around the body that do (its outline)."""

PATCH_SIGMA = 1.0
"""Width in voxels of the patches whose resemblance is measured; neighbours are two voxels away."""

NEIGHBOUR = 2

LABELS_AT_ONCE = 16
"""Displacements summed in one go: many small products of matrices would keep threads waiting."""

LEAST_COVER = 0.3
"""A window counts when this fraction of it is data in both images at every displacement."""


@dataclass(frozen=True, slots=True, eq=False)
class LatticeCosts:
    """Mean squared difference of self-similarities in Gaussian windows around lattice points.

    Attributes:
        points: Lattice points, LPS mm, shape (n, 3).
        labels: Displacements that were tried, in steps along x, y, z, shape (m, 3).
        step_mm: Length of a step.
        costs: Shape (n, m), for the whole windows.
        halves: Likewise for two halves of the voxels: the blocks of a 3D chessboard.
    """

    points: Points
    labels: npt.NDArray[np.int64]
    step_mm: float
    costs: Floats
    halves: tuple[Floats, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One image on the cubic grid: its self-similarities and the voxels that count."""

    similarities: Floats
    counts: Bools


class Surroundings:
    """CT and MR around the targets' centre, seen on one cubic grid in the CT's frame.

    Where `displacements_mm` is given, the MR is seen as that field deforms it.
    """

    def __init__(
        self,
        ct: Prepared,
        mr: Prepared,
        mr_from_ct: RigidTransform,
        centre_mm: Points,
        *,
        half_mm: float,
        step_mm: float,
        reach_mm: float,
        displacements_mm: Callable[[Points], Points] | None = None,
    ) -> None:
        self._centre_mm = np.asarray(centre_mm, dtype=np.float64).reshape(3)
        self._step_mm = step_mm
        self._reach = round(reach_mm / step_mm)
        self._half = round(half_mm / step_mm)
        grid = cube(ct.geometry.frame_of_reference_uid, self._centre_mm, half_mm, step_mm)
        padded = grid.shape[0] + 2 * self._reach
        grid = grid.crop((-self._reach,) * 3, (padded,) * 3)
        points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
        self._ct = _seen_ct(ct, points, grid.shape)
        if displacements_mm is not None:
            points = points + displacements_mm(points)
        voxels, known = mr.at(mr_from_ct.apply(points))
        mr_known = ndimage.binary_erosion(known.reshape(grid.shape), iterations=NEIGHBOUR)
        self._mr = _Seen(self_similarities(voxels.reshape(grid.shape)), mr_known)

    def costs(self, window_mm: float, lattice_mm: float, radius_mm: float) -> LatticeCosts:
        """Return what a window of the CT costs at each displacement into the MR."""
        return self._costs(self._ct, self._mr, window_mm, lattice_mm, radius_mm)

    def reverse_costs(self, window_mm: float, lattice_mm: float, radius_mm: float) -> LatticeCosts:
        """Return what a window of the MR costs at each displacement into the CT."""
        return self._costs(self._mr, self._ct, window_mm, lattice_mm, radius_mm)

    def _costs(
        self, fixed: _Seen, moving: _Seen, window_mm: float, lattice_mm: float, radius_mm: float
    ) -> LatticeCosts:
        reach, n = self._reach, 2 * self._half + 1
        count = int(radius_mm / lattice_mm)
        along_mm = lattice_mm * np.arange(-count, count + 1, dtype=np.float64)
        voxel_mm = self._step_mm * np.arange(-self._half, self._half + 1)
        window = np.exp(-0.5 * ((along_mm[:, None] - voxel_mm) / window_mm) ** 2)
        window = window.astype(np.float32)
        labels = np.array(
            [
                d
                for d in product(range(-reach, reach + 1), repeat=3)
                if np.dot(d, d) <= reach**2 + 3
            ]  # those one step shorter then have all their 26 neighbours
        )
        middle = (slice(reach, reach + n),) * 3
        one = np.ascontiguousarray(fixed.similarities[middle])
        one_squared = np.einsum("zyxc,zyxc->zyx", one, one)
        other_squared = np.einsum("zyxc,zyxc->zyx", moving.similarities, moving.similarities)
        weight = fixed.counts[middle].astype(np.float32)
        board = _chessboard(n, max(1, round(1.5 * window_mm / self._step_mm)))
        sums = np.empty((len(labels), 2, 2, len(along_mm) ** 3), dtype=np.float32)
        for first in range(0, len(labels), LABELS_AT_ONCE):
            some = labels[first : first + LABELS_AT_ONCE]
            maps = np.empty((len(some), 2, 2, n, n, n), dtype=np.float32)
            for label, (squares, counted) in zip(some, maps, strict=True):
                there = tuple(slice(reach + k, reach + k + n) for k in label)
                counts = weight * moving.counts[there]
                product_sum = np.einsum("zyxc,zyxc->zyx", one, moving.similarities[there])
                apart = (one_squared + other_squared[there] - 2.0 * product_sum) * counts
                squares[:] = apart * board, apart * ~board
                counted[:] = counts * board, counts * ~board
            sums[first : first + len(some)] = _windowed(window, maps)
        whole = _windowed(window, np.ones_like(weight))
        return self._kept(along_mm, radius_mm, labels, sums, whole)

    def _kept(
        self,
        along_mm: npt.NDArray[np.float64],
        radius_mm: float,
        labels: npt.NDArray[np.int64],
        sums: Floats,
        whole: Floats,
    ) -> LatticeCosts:
        offsets = np.array(list(product(along_mm, repeat=3)))
        squares, weights = sums[:, 0], sums[:, 1]
        cover = (weights.sum(axis=1) / whole).min(axis=0)
        kept = (np.linalg.norm(offsets, axis=1) <= radius_mm) & (cover >= LEAST_COVER)
        channels = self._ct.similarities.shape[-1]

        def mean(total: Floats, weight: Floats) -> Floats:
            found = total[:, kept] / np.maximum(weight[:, kept], 1e-6) / channels
            return np.ascontiguousarray(found.T)

        return LatticeCosts(
            points=offsets[kept][:, ::-1] + self._centre_mm,
            labels=np.ascontiguousarray(labels[:, ::-1]),
            step_mm=self._step_mm,
            costs=mean(squares.sum(axis=1), weights.sum(axis=1)),
            halves=(
                mean(squares[:, 0], weights[:, 0]),
                mean(squares[:, 1], weights[:, 1]),
            ),
        )


def cube(frame_uid: str, centre_mm: Points, half_mm: float, step_mm: float) -> Geometry:
    """Return the cubic grid around a point; slices along z, rows along y, columns along x."""
    half = round(half_mm / step_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = step_mm * np.eye(3)[:, ::-1]
    matrix[:3, 3] = np.asarray(centre_mm, dtype=np.float64).reshape(3) - half * step_mm
    return Geometry(frame_uid, matrix, (2 * half + 1,) * 3)


def self_similarities(voxels: Floats) -> Floats:
    """Return twelve values of 0 to 1 per voxel, shape (..., 12).

    Each tells how alike two patches are that touch the voxel's patch on adjoining sides, measured
    by what is usual around that voxel; the best pair has 1.
    """
    sides = [tuple(s * (k == axis) for k in range(3)) for axis in range(3) for s in (-1, 1)]
    pairs = [(a, b) for i, a in enumerate(sides) for b in sides[i + 1 :] if np.dot(a, b) == 0]
    padded = np.pad(voxels, NEIGHBOUR, mode="edge")

    def side(direction: Sequence[int]) -> Floats:
        return padded[
            tuple(
                slice(NEIGHBOUR * (1 + k), NEIGHBOUR * (1 + k) + n)
                for k, n in zip(direction, voxels.shape, strict=True)
            )
        ]

    apart = np.empty((len(pairs), *voxels.shape), dtype=np.float32)
    for channel, (a, b) in enumerate(pairs):
        squares = (side(a) - side(b)) ** 2
        apart[channel] = ndimage.gaussian_filter(squares, PATCH_SIGMA, truncate=2.5)
    apart -= apart.min(axis=0)
    usual = apart.mean(axis=0)
    mean = max(float(usual.mean()), 1e-6)
    usual = np.clip(usual, 1e-3 * mean, 1e3 * mean)
    return np.ascontiguousarray(np.moveaxis(np.exp(-apart / usual), 0, -1))


def _seen_ct(ct: Prepared, points: Points, shape: tuple[int, int, int]) -> _Seen:
    at_points, known_at_points = ct.at(points)
    voxels, known = at_points.reshape(shape), known_at_points.reshape(shape)
    _, in_body = Prepared(ct.geometry, ct.voxels, ct.body, ct.body).at(points)
    body = in_body.reshape(shape)
    gas = ndimage.binary_dilation(body & (voxels < GAS_HU), iterations=GAS_RIM)
    known = ndimage.binary_erosion(known, iterations=NEIGHBOUR)
    near = ndimage.binary_dilation(body, iterations=GAS_RIM)
    return _Seen(self_similarities(voxels), known & near & ~gas)


def _chessboard(n: int, block: int) -> Bools:
    i = np.arange(n) // block
    return np.asarray((i[:, None, None] + i[:, None] + i) % 2 == 0)


def _windowed(window: Floats, voxels: Floats) -> Floats:
    """Return weighted sums over the last three axes, as one axis: slices, rows, columns."""
    sums = voxels
    for _ in range(3):  # each pass takes one axis away and puts that of the lattice last
        sums = np.tensordot(sums, window, axes=(sums.ndim - 3, 1))
    return np.asarray(sums.reshape(*voxels.shape[:-3], -1))
