"""Outlines between two convex ones: those of the least convex body that holds both, and a bulge.

A tip that draws back from plane to plane (the end of a lying cone) keeps its point; between the
depths of two outlines it would be blunt, for depths grow slowly within a point and fast beside it.
The bulge follows, direction by direction, how the neighbouring planes draw back. Deliberately knows
no areas between planes: the caller says which are wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from handlers.dosimetry.planes import Plane

Floats = npt.NDArray[np.float64]

LEAST_FULL = 0.985
"""An outline that fills so much of its convex hull is taken for convex."""

MOST_SLENDER = 3.0
"""Outlines more elongated are left to the depth field: to widen them evenly would lengthen them."""


@dataclass(frozen=True, slots=True, eq=False)
class ConvexPair:
    """Two convex outlines as edges in the order of their directions.

    Attributes:
        lowest: Smallest coordinates of each, shape (2, 2).
        edges: Of both, shape (n, 2), turning counter-clockwise.
        is_second: Of which each edge is, shape (n,).
        normals: Outward unit vectors at the ends of the edges, shape (n, 2).
        bends: How far the body reaches in these directions, as second derivative by height, at
            most 0, per mm; shape (n,).
        gap_mm: Between both planes.
    """

    lowest: Floats
    edges: Floats
    is_second: npt.NDArray[np.bool_]
    normals: Floats
    bends: Floats
    gap_mm: float

    def ring(self, part: float, area_mm2: float) -> Floats:
        """Return the outline at a part of the way from the first to the second, of an area.

        Args:
            part: 0 to 1.
            area_mm2: What the outline is widened or narrowed to, about its middle.
        """
        weights = np.where(self.is_second, part, 1.0 - part)
        corners = np.cumsum(self.edges * weights[:, None], axis=0)
        lowest = (1.0 - part) * self.lowest[0] + part * self.lowest[1]
        corners += lowest - corners.min(axis=0)
        bulge_mm = -self.bends * part * (1.0 - part) * self.gap_mm**2 / 2.0
        corners += np.minimum(bulge_mm, self.gap_mm / 2.0)[:, None] * self.normals
        after = np.roll(corners, -1, axis=0)
        cross = corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]
        middle = cross @ (corners + after) / (3.0 * cross.sum())
        scale = np.sqrt(2.0 * area_mm2 / cross.sum())
        return np.asarray(middle + scale * (corners - middle))


def convex_pair(
    heights_mm: Sequence[float], hulls: Sequence[Floats | None], i: int
) -> ConvexPair | None:
    """Return what lies between a plane and the next, or None if an outline of them is not convex.

    Args:
        heights_mm: Of the planes of a stack, ascending.
        hulls: Their outlines as of `hull_of`.
        i: Which plane.
    """
    first, second = hulls[i], hulls[i + 1]
    if first is None or second is None:
        return None
    edges = [np.roll(hull, -1, axis=0) - hull for hull in (first, second)]
    together = np.concatenate(edges)
    order = np.argsort(np.arctan2(together[:, 1], together[:, 0]), kind="stable")
    is_second = np.arange(len(together)) >= len(edges[0])
    normals = _normals(together[order])
    reach = {
        j: (heights_mm[j], (normals @ hull.T).max(axis=1))
        for j in range(max(i - 1, 0), min(i + 3, len(hulls)))
        if (hull := hulls[j]) is not None
    }
    return ConvexPair(
        np.array([hull.min(axis=0) for hull in (first, second)]),
        together[order],
        is_second[order],
        normals,
        _bends(reach, i),
        heights_mm[i + 1] - heights_mm[i],
    )


def _normals(edges: Floats) -> Floats:
    """Return the outward directions at the ends of edges that turn counter-clockwise."""
    outward = np.column_stack((edges[:, 1], -edges[:, 0]))
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    both = outward + np.roll(outward, -1, axis=0)
    size = np.linalg.norm(both, axis=1)[:, None]
    return np.asarray(np.where(size > 1e-6, both / np.maximum(size, 1e-6), outward))


def _bends(reach: Mapping[int, tuple[float, Floats]], i: int) -> Floats:
    """Return the second derivatives between plane i and the next: the weaker of both ends'."""
    found = []
    for middle in (i, i + 1):
        if middle - 1 in reach and middle + 1 in reach:
            (a, low), (b, here), (c, high) = (reach[j] for j in (middle - 1, middle, middle + 1))
            rise = (high - here) / (c - b) - (here - low) / (b - a)
            found.append(np.minimum(2.0 * rise / (c - a), 0.0))
    return np.max(found, axis=0) if found else np.zeros(len(reach[i][1]))


def hull_of(plane: Plane) -> Floats | None:
    """Return the corners of a plane's only outline, counter-clockwise; None if it is not convex."""
    if len(plane.rings) != 1:
        return None
    spread = plane.spread_mm2
    if not np.isfinite(spread).all():
        return None
    least, most = np.linalg.eigvalsh(spread)
    if not 0.0 < most <= MOST_SLENDER**2 * least:
        return None
    (ring,) = plane.rings
    hull = ConvexHull(ring)
    if plane.shoelace_mm2 < LEAST_FULL * hull.volume:
        return None
    return np.asarray(ring[hull.vertices])
