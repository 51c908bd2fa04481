"""Masks and levels to contours, slice by slice; the only maker of contours.

What it draws rasterizes back to the mask that it came from: `contours.mask_from_roi` is the proof,
and where a finer drawing would not pass it, a plainer one is taken. Interpolates nothing between
slices, names no image instance.

Read first: DICOM PS3.3 C.8.8.6.3 (Representing Inner and Outer Contours).
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import find_contours

from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry
from handlers.results import VoxelField
from handlers.sampling.contours import (
    fill_slice,
    in_plane_mm,
    lies_within,
    nesting_depths,
    signed_area,
)
from handlers.sampling.distance import signed_distance_of_array
from handlers.sampling.keyholes import has_crossings, joined
from handlers.values import Contour, Mask

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# scikit-image tells no types
_find_contours: Callable[..., list[Floats]] = find_contours

COORDINATE_DECIMALS = 2
"""Contours are written in steps of 0.01 mm."""

SMOOTHING_PIXELS = 0.8
"""Width (sigma) of the Gaussian that takes the staircase from the border of a mask."""

MARGIN_PIXELS = 0.15
"""Least distance that the smoothed border keeps from any pixel centre, on the scale of the field;
thereby every pixel stays on its side and a contour rasterizes back to the mask it came from."""

AREA_CORRECTIONS = 8
"""How often the border is moved, at most, by what its area is off."""

AREA_TOLERANCE = 0.001
"""So near, as a part of it, the area of a slice's contours comes to that of its pixels."""

LEVEL_MARGIN_PIXELS = 0.06
"""The same for a level that is finer than the pixels: it is bent no more than it must be."""

SIMPLIFICATION_MM = 0.02
"""A point is left out of a contour when the contour moves by less than this (at most a twentieth of
a pixel): no more points than the border needs."""

COARSER_MM = (0.05, 0.1)
"""Simplifications to try for a contour of too many points; 0.1 mm is what decimation may cost."""

MOST_POINTS = 2400
"""Of a contour that is to fit the 65 534 bytes of an explicit DS (PS3.5 6.2.2), at three values of
eight characters and their separators a point."""


def contours_from_mask(mask: Mask, *, holes_as_xor: bool = False) -> tuple[Contour, ...]:
    """Return the border of a mask as contours, slice by slice, smooth below the size of a pixel.

    Marching squares on the slightly smoothed signed distance in the plane of each slice, kept from
    crossing a pixel centre. Holes are joined to their ring by a keyhole (the form that most systems
    import); an island in a hole is a contour of its own. No contour crosses itself. The contours
    name no image instance.

    Args:
        mask: Of any grid.
        holes_as_xor: Leave every ring a contour of its own; on a plane with a hole all of them are
            to be combined by exclusive-or (CLOSEDPLANAR_XOR).

    Returns:
        Contours in order of slice index; empty for an empty mask. Points lie on the slice's plane
        (1e-6 mm), other coordinates are in steps of 0.01 mm where the grid is aligned with LPS.

    Accuracy:
        `mask_from_roi` returns the same mask, for pixels of 0.1 mm or more.
    """
    found: list[Contour] = []
    for index in np.flatnonzero(mask.inside.any(axis=(1, 2))):
        found += _contours_of_slice(mask, int(index), holes_as_xor=holes_as_xor)
    return tuple(found)


def contours_from_level(
    level: VoxelField, mask: Mask, *, holes_as_xor: bool = False
) -> tuple[Contour, ...]:
    """Return the zero level of a field as contours, slice by slice, finer than the pixels.

    Marching squares on the level itself; a contour keeps off the pixel centres as it must to
    rasterize back. A slice in which it would not is traced as `contours_from_mask` does.

    Args:
        level: Above zero in the voxels of `mask`, below zero in all others; of any unit.
        mask: The structure that the contours are to give.
        holes_as_xor: As in `contours_from_mask`.

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
        rings = [ring + corner for ring in _trace_level(level.values[index - first])]
        most = LEVEL_MARGIN_PIXELS / 3
        drawn = _drawn(mask, int(index), rings, most_pixels=most, holes_as_xor=holes_as_xor)
        found += drawn or _contours_of_slice(mask, int(index), holes_as_xor=holes_as_xor)
    return tuple(found)


def _contours_of_slice(mask: Mask, index: int, *, holes_as_xor: bool) -> list[Contour]:
    rings = _trace(mask.inside[index], mask.geometry.spacing_mm[1:])
    drawn = _drawn(mask, index, rings, most_pixels=0.05, holes_as_xor=holes_as_xor)
    if drawn is None:  # pixels too fine for the steps of a coordinate: as near as these allow
        return _contours(mask.geometry, index, rings, holes_as_xor=holes_as_xor)
    return drawn


def _drawn(
    mask: Mask, index: int, rings: Sequence[Floats], *, most_pixels: float, holes_as_xor: bool
) -> list[Contour] | None:
    """Return the contours of one slice, of few points; None if they are not those of the mask.

    Args:
        mask: What the contours must rasterize to.
        index: Which slice.
        rings: Closed rings (n, 2) of fractional (row, column), as traced.
        most_pixels: How far the usual simplification may move a contour, in pixels.
        holes_as_xor: As in `contours_from_mask`.
    """
    pixel_mm = min(mask.geometry.spacing_mm[1:])
    usual = min(SIMPLIFICATION_MM / pixel_mm, most_pixels)
    best: list[Contour] | None = None
    for tolerance in (usual, *(coarse / pixel_mm for coarse in COARSER_MM)):
        simpler = [_simplified(ring, tolerance, mask.geometry.spacing_mm[1:]) for ring in rings]
        contours = _contours(mask.geometry, index, simpler, holes_as_xor=holes_as_xor)
        back = np.zeros(mask.geometry.shape[1:], dtype=np.bool_)
        fill_slice(back, contours, mask.geometry)
        if not np.array_equal(back, mask.inside[index]):
            break
        best = contours
        if all(len(contour.points) <= MOST_POINTS for contour in contours):
            break
    return best


def _simplified(ring: Floats, tolerance: float, spacing_mm: Sequence[float]) -> Floats:
    """Return a ring with fewer corners, as long as it does not come to cross itself."""
    few = _with_fewer_corners(np.concatenate((ring, ring[:1])), tolerance)[:-1]
    return few if len(few) >= 3 and not has_crossings(few * np.array(spacing_mm)) else ring


def _with_fewer_corners(line: Floats, tolerance: float) -> Floats:
    """Return those corners of a line from whose course none of the others lies farther off.

    scikit-image can do it, too, but brings all of `scipy.signal` with it: a third of the time in
    which the computing process starts.

    Sources:
        Douglas and Peucker 1973, Cartographica 10:112-122.
    """
    is_kept = np.zeros(len(line), dtype=bool)
    is_kept[[0, -1]] = True
    parts = [(0, len(line) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        away = _distances_to_segment(line[first + 1 : last], line[first], line[last])
        farthest = int(np.argmax(away))
        if away[farthest] > tolerance:
            corner = first + 1 + farthest
            is_kept[corner] = True
            parts += [(first, corner), (corner, last)]
    return line[is_kept]


def _distances_to_segment(points: Floats, start: Floats, end: Floats) -> Floats:
    """Return how far points lie from a segment, which may be as short as a point."""
    along, length_2 = end - start, float(np.dot(end - start, end - start))
    share = (points - start) @ along / length_2 if length_2 else np.zeros(len(points))
    nearest = start + np.clip(share, 0.0, 1.0)[:, None] * along
    return np.asarray(np.linalg.norm(points - nearest, axis=1))


def _contours(
    geometry: Geometry, index: int, traced: Sequence[Floats], *, holes_as_xor: bool
) -> list[Contour]:
    """Return the contours of one slice from closed rings (n, 2) of fractional (row, column)."""
    placed = [_points_on_slice(ring, index, geometry) for ring in traced]
    rings = [ring for ring in placed if ring is not None]
    depths = nesting_depths([Contour(ring.copy()) for ring in rings], geometry)
    if holes_as_xor:
        has_hole = any(depth % 2 for depth in depths)
        return [Contour(ring, is_exclusive_or=has_hole) for ring in rings]
    flat = [in_plane_mm(Contour(ring.copy()), geometry) for ring in rings]
    both = [np.column_stack(pair) for pair in zip(flat, rings, strict=True)]
    found = []
    for i, ring in enumerate(both):
        if depths[i] % 2 == 0:
            holes = [
                both[j]
                for j in range(len(rings))
                if depths[j] == depths[i] + 1 and lies_within(flat[j], flat[i])
            ]
            found.append(Contour(joined(ring, holes, geometry.spacing_mm[1:])[:, 2:]))
    return found


def _trace_level(values: npt.NDArray[np.float32]) -> list[Floats]:
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
    return [ring[:-1] - 1.0 for ring in _find_contours(bent, 0.0)]


def _trace(inside: Bools, spacing_mm: Sequence[float]) -> list[Floats]:
    """Return closed rings (n, 2) of fractional (row, column), the first point not repeated."""
    block = ndimage.find_objects(inside.astype(np.uint8))[0]
    pad = 5
    distance = signed_distance_of_array(np.pad(inside[block], pad), spacing_mm)
    field = np.asarray(-distance / min(spacing_mm), dtype=np.float64)
    smooth = ndimage.gaussian_filter(field, SMOOTHING_PIXELS)
    smooth = 2.0 * smooth - ndimage.gaussian_filter(smooth, SMOOTHING_PIXELS)  # less shrinking
    rings = _rings_of_area(field, smooth, spacing_mm)
    corner = np.array([side.start for side in block]) - pad
    return [ring[:-1] + corner for ring in rings]


def _rings_of_area(field: Floats, smooth: Floats, spacing_mm: Sequence[float]) -> list[Floats]:
    """Return the rings of `_zero_rings`, spread along the border until they hold the pixels' area.

    Rounded corners lose some of it; the rings of few pixels are held by these and keep what is off.
    """
    wanted_mm2 = np.count_nonzero(field > 0) * float(np.prod(spacing_mm))
    offset, best, least = 0.0, list[Floats](), np.inf
    short: tuple[float, float] | None = None
    beyond: tuple[float, float] | None = None
    for _ in range(AREA_CORRECTIONS):
        rings = _zero_rings(field, smooth + offset)
        in_mm = [ring * np.array(spacing_mm) for ring in rings]
        lost_mm2 = wanted_mm2 - abs(sum(signed_area(ring[:-1]) for ring in in_mm))
        if abs(lost_mm2) < least:
            best, least = rings, abs(lost_mm2)
        if least < AREA_TOLERANCE * wanted_mm2:
            break
        if lost_mm2 > 0:
            short = (offset, lost_mm2)
        else:
            beyond = (offset, lost_mm2)
        if short is not None and beyond is not None:
            offset = short[0] + (beyond[0] - short[0]) * short[1] / (short[1] - beyond[1])
        else:
            border_mm = sum(float(np.linalg.norm(np.diff(r, axis=0), axis=1).sum()) for r in in_mm)
            offset += lost_mm2 / border_mm / min(spacing_mm)
    return best


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
