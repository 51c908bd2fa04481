"""Contours to masks and back; interpolates nothing between slices.

Read first: DICOM PS3.3 C.8.8.6.3 (Representing Inner and Outer Contours).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry
from handlers.sampling.distance import signed_distance_of_array
from handlers.values import Contour, Mask, Roi, VoxelField

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# scikit-image tells no types
_find_contours: Callable[..., list[Floats]] = find_contours
_approximate_polygon: Callable[..., Floats] = approximate_polygon

PARALLEL_TOLERANCE_MM = 0.2
"""A contour is parallel to the slices when its points differ by no more along the slice normal;
contours of one slab that differ by less lie on one plane."""

ON_BORDER_MM = 0.02
"""A point this near to a polygon's edge counts as lying on it (contours come in steps of 0.01)."""

COORDINATE_DECIMALS = 2
"""Contours are written in steps of 0.01 mm."""

SMOOTHING_PIXELS = 0.8
"""Width (sigma) of the Gaussian that takes the staircase from the border of a mask."""

MARGIN_PIXELS = 0.15
"""Least distance that the smoothed border keeps from any pixel centre, on the scale of the field;
thereby every pixel stays on its side and a contour rasterizes back to the mask it came from."""

LEVEL_MARGIN_PIXELS = 0.06
"""The same for a level that is finer than the pixels: it is bent no more than it must be."""

SIMPLIFICATION_MM = 0.02
"""A point is left out of a contour when the contour moves by less than this (at most a twentieth of
a pixel): it keeps Contour Data below the 64 kB of an explicit DS."""

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
    rings = [_in_plane_mm(contour, geometry) for contour in contours]
    # a larger ring is never within a smaller one: spares half of the comparisons
    areas = [abs(_signed_area(ring)) for ring in rings]
    return tuple(
        sum(
            areas[i] < areas[j] and _lies_within(rings[i], rings[j])
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
        _fill_slice(inside[index], contours, geometry)
    return Mask(geometry, inside)


def _fill_slice(inside: Bools, contours: Sequence[Contour], geometry: Geometry) -> None:
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


def _in_plane_mm(contour: Contour, geometry: Geometry) -> Floats:
    return np.asarray(_in_plane_indices(contour, geometry) * geometry.spacing_mm[1:])


def _signed_area(ring: Floats) -> float:
    at = ring - ring[0]
    after = np.roll(at, -1, axis=0)
    return float(np.sum(at[:, 0] * after[:, 1] - at[:, 1] * after[:, 0]) / 2.0)


def _lies_within(inner: Floats, outer: Floats) -> bool:
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


def contours_from_mask(mask: Mask) -> tuple[Contour, ...]:
    """Return the border of a mask as contours, slice by slice, smooth below the size of a pixel.

    Marching squares on the slightly smoothed signed distance in the plane of each slice, kept from
    crossing a pixel centre. Holes are joined to their ring by a keyhole (the form that most systems
    import); an island in a hole is a contour of its own. The contours name no image instance.

    Returns:
        Contours in order of slice index; empty for an empty mask. Points lie on the slice's plane
        (1e-6 mm), other coordinates are in steps of 0.01 mm where the grid is aligned with LPS.

    Accuracy:
        `mask_from_roi` returns the same mask, for pixels of 0.1 mm or more.
    """
    found: list[Contour] = []
    for index in np.flatnonzero(mask.inside.any(axis=(1, 2))):
        found += _contours_of_slice(mask, int(index))
    return tuple(found)


def contours_from_level(level: VoxelField, mask: Mask) -> tuple[Contour, ...]:
    """Return the zero level of a field as contours, slice by slice, finer than the pixels.

    Marching squares on the level itself; a contour keeps off the pixel centres as it must to
    rasterize back. A slice in which it would not is traced as `contours_from_mask` does.

    Args:
        level: Above zero in the voxels of `mask`, below zero in all others; of any unit.
        mask: The structure that the contours are to give.

    Returns:
        As `contours_from_mask`, with the same promise: `mask_from_roi` returns the mask.

    Raises:
        GeometryMismatchError: The level does not have the sign of the mask.

    Accuracy:
        For a sphere whose level is its distance, points lie within 0.1 mm at pixels of 0.9 mm.
    """
    above = np.zeros(mask.geometry.shape, dtype=np.bool_)
    if not all(b.start >= 0 and b.stop <= n for b, n in zip(level.block, above.shape, strict=True)):
        raise GeometryMismatchError("a level reaches beyond the grid of its mask")
    above[level.block] = level.values > 0
    if not np.array_equal(above, mask.inside):
        raise GeometryMismatchError("the level of a structure does not have the sign of its mask")
    found: list[Contour] = []
    first, corner = level.start[0], np.array(level.start[1:])
    for index in np.flatnonzero(mask.inside.any(axis=(1, 2))):
        rings = _trace_level(level.values[index - first], mask.geometry.spacing_mm[1:])
        contours = _contours(mask.geometry, int(index), [ring + corner for ring in rings])
        drawn = np.zeros(mask.geometry.shape[1:], dtype=np.bool_)
        _fill_slice(drawn, contours, mask.geometry)
        is_exact = np.array_equal(drawn, mask.inside[index])
        found += contours if is_exact else _contours_of_slice(mask, int(index))
    return tuple(found)


def _contours_of_slice(mask: Mask, index: int) -> list[Contour]:
    rings = _trace(mask.inside[index], mask.geometry.spacing_mm[1:])
    return _contours(mask.geometry, index, rings)


def _contours(geometry: Geometry, index: int, traced: Sequence[Floats]) -> list[Contour]:
    """Return the contours of one slice from closed rings (n, 2) of fractional (row, column)."""
    placed = [_points_on_slice(ring, index, geometry) for ring in traced]
    rings = [ring for ring in placed if ring is not None]
    return [Contour(points) for points in _with_keyholes(rings, geometry)]


def _trace_level(values: npt.NDArray[np.float32], spacing_mm: Sequence[float]) -> list[Floats]:
    """Return the zero level of one slice as closed rings; beyond its block it is outside."""
    level = np.pad(values.astype(np.float64), 1, mode="edge")
    inside = np.pad(values > 0, 1)
    level = np.where(~inside, -np.abs(level), level)
    # how far the level rises or falls to a neighbour on the other side: what crosses there
    drop = np.zeros(level.shape)
    for axis in (0, 1):
        a, b = (np.moveaxis(array, axis, 0) for array in (level, inside))
        fall = np.abs(np.diff(a, axis=0)) * (b[1:] != b[:-1])
        there = np.moveaxis(drop, axis, 0)
        np.maximum(there[1:], fall, out=there[1:])
        np.maximum(there[:-1], fall, out=there[:-1])
    least = LEVEL_MARGIN_PIXELS * drop
    # a level of zero slope (and what the padding made of an inside) still needs a side
    least = np.maximum(least, 1e-6 * max(float(np.abs(values).max()), 1e-6))
    bent = np.where(inside, np.maximum(level, least), np.minimum(level, -least))
    tolerance = min(SIMPLIFICATION_MM / min(spacing_mm), LEVEL_MARGIN_PIXELS / 3)
    rings = _find_contours(bent, 0.0)
    simpler = [_approximate_polygon(ring, tolerance) for ring in rings]
    return [
        (few if len(few) > 3 else ring)[:-1] - 1.0 for few, ring in zip(simpler, rings, strict=True)
    ]


def _trace(inside: Bools, spacing_mm: Sequence[float]) -> list[Floats]:
    """Return closed rings (n, 2) of fractional (row, column), the first point not repeated."""
    block = ndimage.find_objects(inside.astype(np.uint8))[0]
    pad = 5
    distance = signed_distance_of_array(np.pad(inside[block], pad), spacing_mm)
    field = np.asarray(-distance / min(spacing_mm), dtype=np.float64)
    smooth = ndimage.gaussian_filter(field, SMOOTHING_PIXELS)
    smooth = 2.0 * smooth - ndimage.gaussian_filter(smooth, SMOOTHING_PIXELS)  # less shrinking
    rings = _zero_rings(field, smooth)
    # what rounded corners still lose of the area is spread along the border, once
    border = sum(float(np.linalg.norm(np.diff(ring, axis=0), axis=1).sum()) for ring in rings)
    lost = np.count_nonzero(field > 0) - abs(sum(_signed_area(ring[:-1]) for ring in rings))
    rings = _zero_rings(field, smooth + lost / border)
    corner = np.array([side.start for side in block]) - pad
    tolerance = min(SIMPLIFICATION_MM / min(spacing_mm), 0.05)
    simpler = [_approximate_polygon(ring, tolerance) for ring in rings]
    return [
        (few if len(few) > 3 else ring)[:-1] + corner
        for few, ring in zip(simpler, rings, strict=True)
    ]


def _zero_rings(field: Floats, smooth: Floats) -> list[Floats]:
    """Return where `smooth`, bent to have the sign of `field` at every pixel, is zero."""
    bent = np.where(
        field > 0, np.maximum(smooth, MARGIN_PIXELS), np.minimum(smooth, -MARGIN_PIXELS)
    )
    return _find_contours(bent, 0.0)


def _points_on_slice(ring: Floats, index: int, geometry: Geometry) -> Floats | None:
    """Return LPS points on the plane of a slice, rounded, or None if fewer than three remain."""
    points = geometry.points_from_indices(np.column_stack((np.full(len(ring), index), ring)))
    plane, normal = points[0], np.cross(geometry.axes[:, 1], geometry.axes[:, 2])
    rounded = np.round(points, COORDINATE_DECIMALS)
    rounded = np.round(rounded + np.outer((plane - rounded) @ normal, normal), 6)
    rounded = rounded[np.any(rounded != np.roll(rounded, 1, axis=0), axis=1)]
    return rounded if len(rounded) >= 3 else None


def _with_keyholes(rings: Sequence[Floats], geometry: Geometry) -> list[Floats]:
    """Return the outer rings of one slice, each joined with the holes directly inside it."""
    depths = nesting_depths([Contour(ring) for ring in rings], geometry)
    flat = [_in_plane_mm(Contour(ring), geometry) for ring in rings]
    joined = []
    for i, ring in enumerate(rings):
        if depths[i] % 2 == 0:
            holes = [
                rings[j]
                for j in range(len(rings))
                if depths[j] == depths[i] + 1 and _lies_within(flat[j], flat[i])
            ]
            joined.append(_join(ring, holes))
    return joined


def _join(ring: Floats, holes: list[Floats]) -> Floats:
    """Return one polygon that walks from the ring to each hole, round it and back the same way."""
    while holes:
        apart = [np.linalg.norm(ring[:, None] - hole[None], axis=2) for hole in holes]
        nearest = int(np.argmin([distances.min() for distances in apart]))
        at, start = np.unravel_index(int(apart[nearest].argmin()), apart[nearest].shape)
        hole = np.roll(holes.pop(nearest), -int(start), axis=0)
        ring = np.concatenate((ring[: at + 1], hole, hole[:1], ring[at:]))
    return ring
