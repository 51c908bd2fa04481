"""Surfaces of structures as triangles in mm, and distances between them.

A surface comes from contours where there are any, else from the voxels of a mask, which no longer
tell where between two voxel centres it lay. Every triangle weighs by its area, so that nothing
hangs on a grid's spacing or orientation.

Read first: Podobnik and Vrtovec 2024, arXiv 2410.02630 (why implementations of these disagree).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from handlers.contour_metrics.body import Level

SMOOTHING_VOXELS = 1.0
"""Standard deviation of the Gaussian, in voxels of each axis, that takes the stairs off a mask."""

CENTRE_CLEARANCE = 0.02
"""How far the smoothed occupancy stays from one half at every voxel centre, on its own side: so no
piece, not even a single voxel, is smoothed away, and no gap is closed."""

NEAREST_TRIANGLES = 10
"""Triangles, by nearness of their centres, among which the nearest point of a mesh is sought."""

CHUNK_POINTS = 10_000
"""Points handled at once: bounds the memory, does not change a result."""

PAD_VOXELS = 6
"""What is smoothed is embedded in so many voxels of outside."""

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Faces = npt.NDArray[np.int64]

_marching_cubes: Callable[..., tuple[npt.NDArray[np.generic], ...]] = marching_cubes


@dataclass(frozen=True, eq=False)  # without slots: what is searched again and again is kept
class Surface:
    """A closed surface, in mm along a CT's axes from the CT's first voxel centre.

    Attributes:
        triangles: Shape (n, 3 corners, 3).
        areas_mm2: Of the triangles.
        corners: All corners, each once.
        faces: Which of them each triangle has, shape (n, 3).
        level: What it is the zero of.
    """

    triangles: Array
    areas_mm2: Array
    corners: Array
    faces: Faces
    level: Level

    @cached_property
    def middles(self) -> Array:
        """Centres of the triangles, shape (n, 3)."""
        return np.asarray(self.triangles.mean(axis=1))

    @cached_property
    def middle_tree(self) -> cKDTree:
        """`middles`, made ready to be searched."""
        return cKDTree(self.middles)

    @cached_property
    def corner_tree(self) -> cKDTree:
        """`corners`, made ready to be searched."""
        return cKDTree(self.corners)

    @property
    def volume_cm3(self) -> float:
        """Volume that it encloses: the sum of the pyramids from one point to all triangles."""
        return abs(float(self._pyramids_mm3.sum())) / 1000.0

    @property
    def centroid_mm(self) -> Array:
        """Centre of what it encloses, shape (3,)."""
        tops = (self.triangles.sum(axis=1) + self.corners[0]) / 4.0
        weights = self._pyramids_mm3
        return np.asarray(weights @ tops / weights.sum())

    @property
    def _pyramids_mm3(self) -> Array:
        """Volumes, with sign, between its first corner and each triangle."""
        first, second, third = (self.triangles[:, n] - self.corners[0] for n in range(3))
        return np.asarray(np.einsum("ij,ij->i", first, np.cross(second, third)) / 6.0)

    def encloses(self, points: Array) -> Bools:
        """Tell for each point (n, 3), in mm along the axes, whether it lies inside."""
        level = self.level
        at = (points - level.start_mm) / level.step_mm
        lowest = float(level.values.min())
        found = ndimage.map_coordinates(level.values, at.T, order=1, cval=lowest)
        return np.asarray(found > 0)


def surface_of_level(level: Level) -> Surface:
    """Return the zero of a level; what reaches the border of its grid ends there."""
    values = np.pad(level.values, 1, constant_values=min(float(level.values.min()), -1.0))
    corners, faces = _marching_cubes(values, 0.0, spacing=tuple(level.step_mm))[:2]
    corners = corners.astype(np.float64) + level.start_mm - level.step_mm
    triangles = corners[faces]
    edges = triangles[:, 1:] - triangles[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2.0
    return Surface(triangles, areas, corners, faces.astype(np.int64), level)


def surface_of_voxels(inside: Bools, spacing_mm: Array, start_mm: Array) -> Surface:
    """Return a surface that parts the inside voxel centres of a cropped mask from all others.

    Args:
        inside: Holds at least one voxel inside; beyond it is outside.
        spacing_mm: Of the voxels.
        start_mm: Place of its first voxel centre.

    Accuracy:
        No mask tells where between two voxel centres the border lay. For balls of 5 to 20 mm at
        1 mm voxels the surface is off by up to 0.5 mm where it is parallel to the grid.
    """
    padded = np.pad(inside, PAD_VOXELS)
    once = ndimage.gaussian_filter(padded.astype(np.float32), SMOOTHING_VOXELS)
    # a Gaussian shrinks what is round; 2 G - G G has no second moment and so does not
    field = 2.0 * once - ndimage.gaussian_filter(once, SMOOTHING_VOXELS) - 0.5
    field = np.where(
        padded,
        np.maximum(field, CENTRE_CLEARANCE),
        np.minimum(field, -CENTRE_CLEARANCE),
    )
    return surface_of_level(Level(field, start_mm - PAD_VOXELS * spacing_mm, spacing_mm))


def distances_mm(points: Array, surface: Surface) -> Array:
    """Return the distance of each point (n, 3) from the nearest triangle, in mm."""
    tree = surface.middle_tree
    count = min(NEAREST_TRIANGLES, len(surface.triangles))
    parts = []
    for start in range(0, len(points), CHUNK_POINTS):
        chunk = points[start : start + CHUNK_POINTS]
        _, near = tree.query(chunk, k=count)
        used, near = np.unique(near, return_inverse=True)
        faces = _faces(surface.triangles[used])[near.reshape(len(chunk), count)]
        parts.append(_point_face_mm(chunk, faces))
    return np.concatenate(parts)


def largest_distance_mm(here: Surface, there: Surface, middles_mm: Array) -> float:
    """Return the largest distance of a point of one surface from another.

    Args:
        here: The surface whose points are taken.
        there: The other one.
        middles_mm: Distances of the middles of the triangles of `here`.
    """
    apart = here.triangles - here.middles[:, None]
    reach = np.sqrt((apart**2).sum(axis=-1).max(axis=-1))
    # no corner is farther than its triangle's middle by more than what lies between them
    may_be = middles_mm + reach >= middles_mm.max()
    return float(distances_mm(here.triangles[may_be].reshape(-1, 3), there).max())


def smallest_distance_between_mm(first: Surface, second: Surface, bound_mm: float) -> float:
    """Return the smallest distance of a corner of one surface from the other, either way.

    Args:
        first: One surface.
        second: The other.
        bound_mm: What the distance is surely not above; what lies farther is not looked at.
    """
    least = np.inf
    for here, there in ((first, second), (second, first)):
        apart, _ = there.corner_tree.query(here.corners, distance_upper_bound=bound_mm)
        if not np.isfinite(apart).any():
            apart, _ = there.corner_tree.query(here.corners)
        edges = there.triangles - np.roll(there.triangles, 1, axis=1)
        # the nearest triangle has a corner no farther than its edge from the nearest point
        may_be = apart <= apart.min() + np.sqrt((edges**2).sum(axis=-1).max())
        least = min(least, float(distances_mm(here.corners[may_be], there).min()))
    return least


def _faces(triangles: Array) -> Array:
    """Return for each triangle ten vectors, shape (n, 10, 3): what a distance from it takes.

    Three corners; three edges, each over its squared length; the edges' normals that look inward in
    the plane; the unit normal.
    """
    edges = np.roll(triangles, -1, axis=1) - triangles
    normal = np.cross(edges[:, 0], -edges[:, 2])
    tiny = np.finfo(np.float64).tiny
    unit = normal / np.maximum(np.linalg.norm(normal, axis=1), tiny)[:, None]
    squares = np.maximum((edges**2).sum(axis=-1), tiny)
    inward = np.cross(unit[:, None], edges)
    return np.concatenate((triangles, edges / squares[..., None], inward, unit[:, None]), axis=1)


def _point_face_mm(points: Array, faces: Array) -> Array:
    """Return distances of points (n, 3) from the nearest of their faces (n, k, 10, 3)."""
    best = np.full(faces.shape[:2], np.inf)
    # a triangle without area has no inside
    over_face = faces[..., 9, :].any(axis=-1)
    for corner in range(3):
        start, along = faces[..., corner, :], faces[..., 3 + corner, :]
        offset = points[:, None] - start
        part = np.clip(_dot(offset, along), 0.0, 1.0)
        # the edge itself is its direction over its squared length, over the square of that
        edge = along / np.maximum(_dot(along, along), np.finfo(np.float64).tiny)[..., None]
        gap = offset - part[..., None] * edge
        best = np.minimum(best, _dot(gap, gap))
        over_face &= _dot(offset, faces[..., 6 + corner, :]) >= 0
    to_plane = _dot(points[:, None] - faces[..., 0, :], faces[..., 9, :])
    return np.asarray(np.sqrt(np.where(over_face, to_plane**2, best).min(axis=1)))


def _dot(one: Array, other: Array) -> Array:
    return np.asarray(np.einsum("...i,...i->...", one, other))
