"""How structures lie to each other: volume in common, smallest distance of their surfaces."""

import numpy as np

from handlers.contour_metrics.structure import (
    Array,
    Block,
    Structure,
    as_structure,
    require_comparable,
    require_same_grid,
)
from handlers.contour_metrics.surface import PAD_VOXELS, Surface, smallest_distance_between_mm
from handlers.values import Mask

NEAR_MM = 20.0
"""Structures farther apart are measured on surfaces that are no finer than `FAR_STEP_MM`."""

FAR_STEP_MM = 1.5


def smallest_distance_mm(first: Mask | Structure, second: Mask | Structure) -> float:
    """Return the smallest distance between the surfaces of two structures in mm, 0 if they overlap.

    Structures overlap if they have a voxel in common.

    Args:
        first: With its contours, if it has any: they tell its surface finer than its voxels.
        second: On the same grid.

    Raises:
        GeometryMismatchError: The structures lie on different grids.
        EmptyStructureError: One of them has no voxel inside.

    Accuracy:
        From contours of balls within 0.1 mm where they lie no farther apart than `NEAR_MM`, beyond
        that within 0.3 mm. From masks of balls at 1 mm voxels off by -0.1 to
        0.4 mm; edges and corners of a box are rounded, so distances between them come out up to
        half a voxel diagonal too long. Structures in neighbouring voxels touch: about 0.
    """
    first, second = as_structure(first), as_structure(second)
    require_comparable(first, second)
    if _common_voxels(first, second):
        return 0.0
    parts, bound_mm = _nearest_parts(first, second)
    return smallest_distance_between_mm(*parts, bound_mm)


def overlap_cm3(first: Mask | Structure, second: Mask | Structure) -> float:
    """Return the volume common to both structures in cm3, by voxels; 0 when one of them is empty.

    Raises:
        GeometryMismatchError: The structures lie on different grids.
    """
    first, second = as_structure(first), as_structure(second)
    require_same_grid(first, second)
    if first.is_empty or second.is_empty:
        return 0.0
    return _common_voxels(first, second) * first.mask.geometry.voxel_volume_mm3 / 1000.0


def _common_voxels(first: Structure, second: Structure) -> int:
    common = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(first.box, second.box, strict=True)
    )
    if any(part.stop <= part.start for part in common):
        return 0
    return int(np.count_nonzero(first.mask.inside[common] & second.mask.inside[common]))


def _nearest_parts(first: Structure, second: Structure) -> tuple[tuple[Surface, Surface], float]:
    """Return, of both structures, the surface of the part that must hold the nearest point.

    And a distance that theirs is surely not above.

    Voxel centres on the rim give the distance within one voxel diagonal, so nothing of a structure
    farther from the other than that can be nearest.
    """
    reach = 2.0 * float(np.linalg.norm(first.spacing_mm))
    there, _ = second.rim.query(first.rim_mm)
    nearest = float(there.min())
    back, _ = first.rim.query(second.rim_mm, distance_upper_bound=nearest + reach)
    least_step_mm = 0.0 if nearest <= NEAR_MM else FAR_STEP_MM
    near = first.rim_mm[there <= nearest + reach], second.rim_mm[back <= nearest + reach]
    surfaces = [
        structure.surface_within(_around(structure, points), least_step_mm=least_step_mm)
        for structure, points in zip((first, second), near, strict=True)
    ]
    return (surfaces[0], surfaces[1]), nearest + reach


def _around(structure: Structure, points: Array) -> Block:
    """Return the block of the grid that holds some points, in mm, and a few voxels around them."""
    spacing = structure.spacing_mm
    low = np.maximum(np.rint(points.min(axis=0) / spacing).astype(int) - PAD_VOXELS, 0)
    high = np.rint(points.max(axis=0) / spacing).astype(int) + PAD_VOXELS + 1
    high = np.minimum(high, structure.mask.geometry.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x
