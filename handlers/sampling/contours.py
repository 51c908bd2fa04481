"""Contours to masks; interpolates nothing between slices. The way back is `tracing`.

Read first: DICOM PS3.3 C.8.8.6.3 (Representing Inner and Outer Contours).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry
from handlers.values import Contour, Mask, Roi

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PARALLEL_TOLERANCE_MM = 0.2
"""A contour is parallel to the slices when its points differ by no more along the slice normal;
contours of one slab that differ by less lie on one plane."""

ON_BORDER_MM = 0.02
"""A point this near to a polygon's edge counts as lying on it (contours come in steps of 0.01)."""

_INDEX_DECIMALS = 6
"""Contour points are rounded to this many decimals of a pixel: points drawn on pixel centres then
fall on the same side in every row, whatever the rounding of the matrix."""


def slice_of_contour(contour: Contour, geometry: Geometry) -> int | None:
    """Return the slice in whose slab a contour lies, or None if it lies in no slab.

    The slab of a slice reaches half a spacing to both sides. A contour that is not parallel to the
    slices (`PARALLEL_TOLERANCE_MM`) lies in none.
    """
    along = geometry.indices_from_points(contour.points)[:, 0]
    if np.ptp(along) * geometry.spacing_mm[0] > PARALLEL_TOLERANCE_MM:
        return None
    index = int(np.floor(round(float(along.mean()), _INDEX_DECIMALS) + 0.5))
    return index if 0 <= index < geometry.shape[0] else None


def contours_by_slice(roi: Roi, geometry: Geometry) -> Mapping[int, tuple[Contour, ...]]:
    """Return the contours that make an ROI's voxels, by slice index.

    Where contours of several planes lie in one slab (drawn on thinner slices than these), the plane
    nearest to the slice counts, since it is nearest to the voxel centres; of two equally near ones,
    the plane of lower index. Contours in no slab are left out.
    """
    slabs: dict[int, list[tuple[float, Contour]]] = defaultdict(list)
    for contour in roi.contours:
        index = slice_of_contour(contour, geometry)
        if index is not None:
            above = float(geometry.indices_from_points(contour.points)[:, 0].mean()) - index
            slabs[index].append((above * geometry.spacing_mm[0], contour))
    chosen = {}
    for index, members in sorted(slabs.items()):
        _, nearest = min((round(abs(above), 3), above) for above, _ in members)
        chosen[index] = tuple(
            contour for above, contour in members if abs(above - nearest) <= PARALLEL_TOLERANCE_MM
        )
    return chosen


def nesting_depths(contours: Sequence[Contour], geometry: Geometry) -> tuple[int, ...]:
    """Return for each contour of one plane how many of the others it lies within.

    A contour lies within another when no point of it is outside, one at least is properly inside,
    and it is smaller; two equal contours do not lie within each other.
    """
    rings = [in_plane_mm(contour, geometry) for contour in contours]
    # a larger ring is never within a smaller one: spares half of the comparisons
    areas = [abs(signed_area(ring)) for ring in rings]
    return tuple(
        sum(
            areas[i] < areas[j] and lies_within(rings[i], rings[j])
            for j in range(len(rings))
            if j != i
        )
        for i in range(len(rings))
    )


def mask_from_roi(roi: Roi, geometry: Geometry) -> Mask:
    """Return the voxels of a grid whose centres lie inside an ROI.

    Each contour belongs to the slice in whose slab it lies (`contours_by_slice`); nothing is filled
    in between slices. On one plane: if any contour is of type CLOSEDPLANAR_XOR, all are combined by
    exclusive-or; else rings within rings are, by their depth, alternately filled and cut out; all
    else is a union. Inside a polygon is decided by the even-odd rule, so a keyhole's channel
    vanishes and winding does not matter. Of the centres exactly on a border, those on the side of
    lower index count as inside. Parts off the grid contribute nothing.

    Args:
        roi: Contours in the frame of reference of `geometry`; may have none.
        geometry: Any orientation.
    """
    inside = np.zeros(geometry.shape, dtype=np.bool_)
    for index, contours in contours_by_slice(roi, geometry).items():
        fill_slice(inside[index], contours, geometry)
    return Mask(geometry, inside)


def fill_slice(inside: Bools, contours: Sequence[Contour], geometry: Geometry) -> None:
    """Add to the voxels of one slice (rows, columns) what the contours on its plane enclose."""
    rings = [_in_plane_indices(contour, geometry) for contour in contours]
    if any(contour.is_exclusive_or for contour in contours):
        for ring in rings:
            inside ^= _rasterize(ring, inside.shape)
        return
    depths = nesting_depths(contours, geometry) if len(contours) > 1 else (0,)
    for depth, ring in sorted(zip(depths, rings, strict=True), key=lambda pair: pair[0]):
        if depth % 2 == 0:
            inside |= _rasterize(ring, inside.shape)
        else:
            inside &= ~_rasterize(ring, inside.shape)


def _rasterize(ring: Floats, shape: tuple[int, ...]) -> Bools:
    """Return which whole (row, column) lie inside a polygon, by crossings to their left."""
    rows, columns = shape
    a, b = ring, np.roll(ring, -1, axis=0)
    lower, upper = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    first = np.clip(np.ceil(lower), 0, rows).astype(np.int64)
    count = np.clip(np.ceil(upper), 0, rows).astype(np.int64) - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (b[edge, 1] - a[edge, 1]) / (b[edge, 0] - a[edge, 0])
    crossing = np.round(a[edge, 1] + slope * (row - a[edge, 0]), _INDEX_DECIMALS)
    toggles = np.zeros((rows, columns + 1), dtype=np.int64)
    np.add.at(toggles, (row, np.clip(np.ceil(crossing), 0, columns).astype(np.int64)), 1)
    return np.asarray(np.cumsum(toggles[:, :columns], axis=1) % 2 == 1)


def _in_plane_indices(contour: Contour, geometry: Geometry) -> Floats:
    indices = geometry.indices_from_points(contour.points)[:, 1:]
    return np.asarray(np.round(indices, _INDEX_DECIMALS))


def in_plane_mm(contour: Contour, geometry: Geometry) -> Floats:
    """Return the points of a contour as (n, 2): millimetres along column and row direction."""
    return np.asarray(_in_plane_indices(contour, geometry) * geometry.spacing_mm[1:])


def signed_area(ring: Floats) -> float:
    """Return the area of a ring (n, 2) in the square of its unit; its sign tells the winding."""
    at = ring - ring[0]
    after = np.roll(at, -1, axis=0)
    return float(np.sum(at[:, 0] * after[:, 1] - at[:, 1] * after[:, 0]) / 2.0)


def lies_within(inner: Floats, outer: Floats) -> bool:
    """Tell whether no point of a ring is outside another, and one is properly inside it."""
    if np.any(inner.min(axis=0) < outer.min(axis=0) - ON_BORDER_MM) or np.any(
        inner.max(axis=0) > outer.max(axis=0) + ON_BORDER_MM
    ):
        return False
    inside, on_border = _points_in_ring(inner, outer)
    return bool(np.all(inside | on_border) and np.any(inside & ~on_border))


def _points_in_ring(points: Floats, ring: Floats) -> tuple[Bools, Bools]:
    """Return for each point (n, 2) whether it is inside by the even-odd rule, and on the border."""
    inside = np.zeros(len(points), dtype=np.bool_)
    on_border = np.zeros(len(points), dtype=np.bool_)
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        step = b - a
        length_squared = float(step @ step)
        if length_squared == 0:
            continue
        if step[0] != 0:
            crosses = (a[0] <= points[:, 0]) != (b[0] <= points[:, 0])
            at = a[1] + (points[:, 0] - a[0]) / step[0] * step[1]
            inside ^= crosses & (at <= points[:, 1])
        part = np.clip((points - a) @ step / length_squared, 0, 1)
        apart = points - a - part[:, None] * step
        on_border |= np.einsum("ij,ij->i", apart, apart) <= ON_BORDER_MM**2
    return inside, on_border
