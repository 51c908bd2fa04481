"""How two structures differ: volumes, overlap, distances between their surfaces, in mm and cm3.

Volumes and overlap count voxels (a voxel is inside when its centre is). Distances run from surface
to surface: each mask becomes a triangle mesh that parts its inside voxel centres from the others,
and every triangle weighs by its area, so the answer does not hang on the voxel grid's spacing or
orientation. What reaches the border of the grid is taken to end there.

Deliberately not done here: nothing is resampled, no verdict is given (for nodes of 1-2 cm the DSC
only describes: judge by the millimetres), and polygons are not looked at.

Read first: Podobnik and Vrtovec 2024, arXiv 2410.02630 (why implementations of these disagree).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.values import Mask

SMOOTHING_VOXELS = 1.0
"""Standard deviation of the Gaussian, in voxels of each axis, that takes the stairs off a mask."""

CENTRE_CLEARANCE = 0.02
"""How far the smoothed occupancy stays from one half at every voxel centre, on its own side: so no
piece, not even a single voxel, is smoothed away, and no gap is closed."""

NEAREST_TRIANGLES = 12
"""Triangles, by nearness of their centres, among which the nearest point of a mesh is sought."""

CHUNK_POINTS = 50_000
"""Points handled at once: bounds the memory, does not change a result."""

_PAD_VOXELS = 6

Array = npt.NDArray[np.float64]
Block = tuple[slice, slice, slice]

_marching_cubes: Callable[..., tuple[npt.NDArray[np.generic], ...]] = marching_cubes


@dataclass(frozen=True, slots=True, eq=False)
class _Surface:
    """Triangles (n, 3 corners, 3) in mm along the grid's axes, their areas, all mesh corners."""

    triangles: Array
    areas_mm2: Array
    corners: Array


def compare(reference: Mask, evaluated: Mask) -> dict[str, float]:
    """Return how `evaluated` differs from `reference`, as named figures.

    Differences and shifts are evaluated minus reference; x, y, z are LPS. Keys:
    `volume_reference_cm3`, `volume_evaluated_cm3`, `volume_difference_cm3`,
    `volume_ratio` (evaluated / reference), `dsc`, `jaccard`,
    `hd_mm` (Hausdorff distance), `hd95_mm` (the larger of the two directed, area-weighted 95th
    percentiles), `mean_surface_distance_mm` (symmetric: both integrals over both areas),
    `centroid_shift_x_mm`, `centroid_shift_y_mm`, `centroid_shift_z_mm`, `centroid_shift_mm` (of the
    geometric centres), `removed_cm3` (in reference only), `added_cm3` (in evaluated only).

    Args:
        reference: What is compared with.
        evaluated: What is judged, on the same grid.

    Raises:
        GeometryMismatchError: The masks lie on different grids.
        EmptyStructureError: One of them has no voxel inside.

    Accuracy:
        A surface lies somewhere between neighbouring voxel centres, and no mask tells where. For
        concentric balls of 6 to 10 mm at 1 mm voxels (24 random places, two orientations) the mean
        surface distance was off by -0.01 to 0.05 mm, the 95th percentile by 0.14 to 0.23 mm, the
        Hausdorff distance, which a single voxel decides, by 0.35 to 0.72 mm; with 2 mm slices by
        -0.05 to 0.07, 0.27 to 0.46 and 0.82 to 0.97 mm. Shifts by whole voxels are found exactly.

    Sources:
        Definitions: Taha and Hanbury 2015, BMC Med Imaging 15:29; area weights: Nikolov et al.
        2021, J Med Internet Res 23:e26151.
    """
    _require_comparable(reference, evaluated)
    box = _union(_bounding_box(reference), _bounding_box(evaluated))
    first, second = reference.inside[box], evaluated.inside[box]
    voxel_cm3 = reference.geometry.voxel_volume_mm3 / 1000.0
    in_reference, in_evaluated = int(first.sum()), int(second.sum())
    in_both = int((first & second).sum())
    shift = _centroid_mm(evaluated, box) - _centroid_mm(reference, box)
    distances = _surface_distances(first, second, np.array(reference.geometry.spacing_mm))
    return {
        "volume_reference_cm3": in_reference * voxel_cm3,
        "volume_evaluated_cm3": in_evaluated * voxel_cm3,
        "volume_difference_cm3": (in_evaluated - in_reference) * voxel_cm3,
        "volume_ratio": in_evaluated / in_reference,
        "dsc": 2.0 * in_both / (in_reference + in_evaluated),
        "jaccard": in_both / (in_reference + in_evaluated - in_both),
        **distances,
        "centroid_shift_x_mm": float(shift[0]),
        "centroid_shift_y_mm": float(shift[1]),
        "centroid_shift_z_mm": float(shift[2]),
        "centroid_shift_mm": float(np.linalg.norm(shift)),
        "removed_cm3": (in_reference - in_both) * voxel_cm3,
        "added_cm3": (in_evaluated - in_both) * voxel_cm3,
    }


def smallest_distance_mm(first: Mask, second: Mask) -> float:
    """Return the smallest distance between the surfaces of two structures in mm, 0 if they overlap.

    Raises:
        GeometryMismatchError: The masks lie on different grids.
        EmptyStructureError: One of them has no voxel inside.

    Accuracy:
        For balls at 1 mm voxels off by -0.1 to 0.4 mm; edges and corners of a box are rounded, so
        distances between them come out up to half a voxel diagonal too long. Structures in
        neighbouring voxels touch: about 0.
    """
    _require_comparable(first, second)
    boxes = _bounding_box(first), _bounding_box(second)
    spacing = np.array(first.geometry.spacing_mm)
    if _overlap_voxels(first, second, *boxes):
        return 0.0
    nearby = _nearest_parts(first, second, boxes, spacing)
    surface, other = (_surface(inside, spacing, origin) for inside, origin in nearby)
    there = _distances_mm(surface.corners, other)
    back = _distances_mm(other.corners, surface)
    return float(min(there.min(), back.min()))


def overlap_cm3(first: Mask, second: Mask) -> float:
    """Return the volume common to both structures in cm3; 0 when one of them is empty.

    Raises:
        GeometryMismatchError: The masks lie on different grids.
    """
    _require_same_grid(first, second)
    if not first.inside.any() or not second.inside.any():
        return 0.0
    voxels = _overlap_voxels(first, second, _bounding_box(first), _bounding_box(second))
    return voxels * first.geometry.voxel_volume_mm3 / 1000.0


def _require_same_grid(first: Mask, second: Mask) -> None:
    if not first.geometry.coincides_with(second.geometry):
        raise GeometryMismatchError(
            "two structures on different voxel grids cannot be compared",
            hint="make both masks on the planning CT's grid",
        )


def _require_comparable(first: Mask, second: Mask) -> None:
    _require_same_grid(first, second)
    for mask, which in ((first, "first"), (second, "second")):
        if not mask.inside.any():
            raise EmptyStructureError(f"the {which} of two compared structures has no voxel inside")


def _bounding_box(mask: Mask) -> Block:
    block: list[slice] = [slice(None)] * 3
    for axis in range(3):  # each step looks only at what the step before has left
        others = tuple(other for other in range(3) if other != axis)
        at = np.flatnonzero(mask.inside[tuple(block)].any(axis=others))
        block[axis] = slice(int(at[0]), int(at[-1]) + 1)
    return block[0], block[1], block[2]


def _union(first: Block, second: Block) -> Block:
    i, j, k = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return i, j, k


def _overlap_voxels(first: Mask, second: Mask, box: Block, other_box: Block) -> int:
    common = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(box, other_box, strict=True)
    )
    if any(part.stop <= part.start for part in common):
        return 0
    return int((first.inside[common] & second.inside[common]).sum())


def _centroid_mm(mask: Mask, box: Block) -> Array:
    """Return the mean of the inside voxel centres, shape (3,), LPS mm."""
    start = np.array([part.start for part in box])
    indices = np.argwhere(mask.inside[box]).mean(axis=0) + start
    return np.asarray(mask.geometry.points_from_indices(indices)[0])


def _surface_distances(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], spacing: Array
) -> dict[str, float]:
    surfaces = [_surface(inside, spacing, np.zeros(3)) for inside in (first, second)]
    largest, percentiles, integrals, areas = [], [], [], []
    for here, there in (surfaces, surfaces[::-1]):
        distances = _distances_mm(here.triangles.mean(axis=1), there)
        largest.append(max(distances.max(), _distances_mm(here.corners, there).max()))
        percentiles.append(_weighted_percentile(distances, here.areas_mm2, 95.0))
        integrals.append(float(distances @ here.areas_mm2))
        areas.append(float(here.areas_mm2.sum()))
    return {
        "hd_mm": float(max(largest)),
        "hd95_mm": max(percentiles),
        "mean_surface_distance_mm": sum(integrals) / sum(areas),
    }


def _weighted_percentile(values: Array, weights: Array, percent: float) -> float:
    """Return the smallest value at which the accumulated weight reaches `percent` of the whole."""
    order = np.argsort(values)
    accumulated = np.cumsum(weights[order])
    at = np.searchsorted(accumulated, accumulated[-1] * percent / 100.0)
    return float(values[order[min(int(at), len(values) - 1)]])


def _surface(inside: npt.NDArray[np.bool_], spacing: Array, origin_mm: Array) -> _Surface:
    """Return the mesh of a cropped mask; `origin_mm` is the place of its first voxel centre."""
    padded = np.pad(inside, _PAD_VOXELS)
    once = ndimage.gaussian_filter(padded.astype(np.float32), SMOOTHING_VOXELS)
    # a Gaussian shrinks what is round; 2 G - G G has no second moment and so does not
    field = 2.0 * once - ndimage.gaussian_filter(once, SMOOTHING_VOXELS) - 0.5
    field = np.where(
        padded,
        np.maximum(field, CENTRE_CLEARANCE),
        np.minimum(field, -CENTRE_CLEARANCE),
    )
    mesh = _marching_cubes(field, 0.0, spacing=tuple(spacing))
    corners, faces = mesh[:2]
    corners = corners.astype(np.float64) + origin_mm - _PAD_VOXELS * spacing
    triangles = corners[faces]
    edges = triangles[:, 1:] - triangles[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2.0
    return _Surface(triangles, areas, corners)


def _distances_mm(points: Array, surface: _Surface) -> Array:
    """Return the distance of each point (n, 3) from the nearest triangle, in mm."""
    tree = cKDTree(surface.triangles.mean(axis=1))
    count = min(NEAREST_TRIANGLES, len(surface.triangles))
    parts = []
    for start in range(0, len(points), CHUNK_POINTS):
        chunk = points[start : start + CHUNK_POINTS]
        _, near = tree.query(chunk, k=count)
        triangles = surface.triangles[near.reshape(len(chunk), count)]
        parts.append(_point_triangle_mm(chunk[:, None], triangles).min(axis=1))
    return np.concatenate(parts)


def _point_triangle_mm(points: Array, triangles: Array) -> Array:
    """Return distances of points (n, 1, 3) from triangles (n, k, 3 corners, 3), shape (n, k)."""
    first, second, third = (triangles[..., corner, :] for corner in range(3))
    normal = np.cross(second - first, third - first)
    length = np.linalg.norm(normal, axis=-1)
    unit = normal / np.maximum(length, np.finfo(np.float64).tiny)[..., None]
    best = np.full(triangles.shape[:2], np.inf)
    over_face = length > 0
    for start, end in ((first, second), (second, third), (third, first)):
        edge = end - start
        offset = points - start
        along = (offset * edge).sum(-1) / np.maximum((edge * edge).sum(-1), np.finfo(float).tiny)
        gap = offset - np.clip(along, 0.0, 1.0)[..., None] * edge
        best = np.minimum(best, (gap * gap).sum(-1))
        over_face &= (np.cross(edge, offset) * unit).sum(-1) >= 0
    to_plane = np.abs(((points - first) * unit).sum(-1))
    return np.asarray(np.where(over_face, to_plane, np.sqrt(best)))


def _nearest_parts(
    first: Mask, second: Mask, boxes: tuple[Block, Block], spacing: Array
) -> list[tuple[npt.NDArray[np.bool_], Array]]:
    """Return, of both masks, the block that must hold the nearest point, and its place in mm.

    Voxel centres on the rim give the distance within one voxel diagonal, so nothing of a mask
    farther from the other than that can be nearest.
    """
    rims = [_rim_mm(mask, box, spacing) for mask, box in zip((first, second), boxes, strict=True)]
    reach = 2.0 * float(np.linalg.norm(spacing))
    there, _ = cKDTree(rims[1]).query(rims[0])
    nearest = float(there.min())
    back, _ = cKDTree(rims[0]).query(rims[1], distance_upper_bound=nearest + reach)
    chosen = rims[0][there <= nearest + reach], rims[1][back <= nearest + reach]
    parts = []
    for mask, points in zip((first, second), chosen, strict=True):
        low = np.maximum(np.rint(points.min(axis=0) / spacing).astype(int) - _PAD_VOXELS, 0)
        high = np.rint(points.max(axis=0) / spacing).astype(int) + _PAD_VOXELS + 1
        block = mask.inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        parts.append((block, low * spacing))
    return parts


def _rim_mm(mask: Mask, box: Block, spacing: Array) -> Array:
    """Return the inside voxel centres that have an outside neighbour, mm along the grid's axes."""
    inside = np.pad(mask.inside[box], 1)
    rim = inside & ~ndimage.binary_erosion(inside)
    start = np.array([part.start for part in box])
    return np.asarray((np.argwhere(rim) - 1 + start) * spacing, dtype=np.float64)
