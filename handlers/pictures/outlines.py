"""Where structures cross a plane, as rings of in-plane indices.

Contours that a person drew are shown as drawn on the planes they were drawn on; elsewhere the
voxels speak. Never smooths what was drawn.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from handlers.geometry import Geometry
from handlers.pictures.planes import Plane
from handlers.results import VoxelField
from handlers.sampling import contours_by_slice, signed_distance_of_array
from handlers.values import Mask, Roi

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Slices = Mapping[int, tuple[Floats, ...]]
"""Rings of fractional (row, column), shape (n, 2), by slice index."""


def rings_by_slice(roi: Roi, geometry: Geometry) -> Slices:
    """Return the contours of an ROI that lie on slices of a grid."""
    return {
        index: tuple(geometry.indices_from_points(contour.points)[:, 1:] for contour in contours)
        for index, contours in contours_by_slice(roi, geometry).items()
    }


def rings_of_contours(drawn: Slices, plane: Plane) -> list[Floats]:
    """Return where drawn contours cross a plane.

    Across the slices, a contour counts for the whole thickness of its slice, and contours of one
    slice are combined by the even-odd rule.
    """
    if plane.axis == 0:
        return list(drawn.get(plane.index, ()))
    slices, *shape = plane.geometry.shape
    inside = np.zeros((slices, shape[2 - plane.axis]), dtype=np.bool_)
    for slice_index, rings in drawn.items():
        for ring in rings:
            # the plane stands on rows (axis 1) or columns (axis 2): walk along the other
            fixed, along = ring[:, plane.axis - 1], ring[:, 2 - plane.axis]
            if not fixed.min() <= plane.index <= fixed.max():
                continue
            inside[slice_index] ^= _inside_on_line(fixed, along, plane.index, inside.shape[1])
    return rings_of_voxels(inside, _in_plane_spacing(plane))


def rings_of_mask(mask: Mask, level: VoxelField | None, plane: Plane) -> list[Floats]:
    """Return where the surface of a mask crosses a plane: at its zero level, if it has one."""
    inside = np.asarray(plane.cut(mask.inside), dtype=np.bool_)
    if not inside.any():
        return []
    if level is None:
        return rings_of_voxels(inside, _in_plane_spacing(plane))
    index = plane.index - level.start[plane.axis]
    values = np.take(level.values, index, axis=plane.axis).astype(np.float64)
    corner = [start for axis, start in enumerate(level.start) if axis != plane.axis]
    step = float(np.abs(values).max()) or 1.0
    rings = find_contours(np.pad(values, 1, constant_values=-step), 0.0)
    return [np.asarray(ring - 1.0 + corner) for ring in rings]


def rings_of_voxels(inside: Bools, spacing_mm: tuple[float, float]) -> list[Floats]:
    """Return the border of a plane of voxels, at the zero of its signed distance."""
    if not inside.any():
        return []
    filled = [np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0)]
    corner = [int(at[0]) for at in filled]
    block = inside[corner[0] : filled[0][-1] + 1, corner[1] : filled[1][-1] + 1]
    distance = signed_distance_of_array(np.pad(block, 2), spacing_mm)
    return [np.asarray(ring - 2.0 + corner) for ring in find_contours(distance, 0.0)]


def _in_plane_spacing(plane: Plane) -> tuple[float, float]:
    first, second = (s for axis, s in enumerate(plane.geometry.spacing_mm) if axis != plane.axis)
    return first, second


def _inside_on_line(fixed: Floats, along: Floats, at: int, count: int) -> Bools:
    """Return which whole places on the line `fixed` = `at` lie inside a ring."""
    after_fixed, after_along = np.roll(fixed, -1), np.roll(along, -1)
    crosses = (fixed <= at) != (after_fixed <= at)
    part = (at - fixed[crosses]) / (after_fixed[crosses] - fixed[crosses])
    crossing = along[crosses] + part * (after_along[crosses] - along[crosses])
    toggles = np.zeros(count + 1, dtype=np.int64)
    np.add.at(toggles, np.clip(np.ceil(crossing), 0, count).astype(np.intp), 1)
    return np.asarray(np.cumsum(toggles[:count]) % 2 == 1)
