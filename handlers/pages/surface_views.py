"""A surface with a number on each triangle, seen from six sides of the patient.

A side shows what is nearest to the eye: a fold behind another stays hidden. Knows no colors.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.pages.drawing import Floats
from handlers.results import SurfaceMap

PIXELS = 200
"""Rows and columns of one view."""

CELLS = 80
"""Of a view before it is made smooth, at most."""

LEAST_CELLS = 8

TRIANGLES = 1.5
"""Width of a cell, at least, in widths of a triangle: hardly a cell is missed by all."""

SMOOTHING_CELLS = 0.6


@dataclass(frozen=True, slots=True)
class Side:
    """A direction to look from.

    Attributes:
        title: In words.
        right: The patient's direction (LPS) that points to the right on the view.
        up: That which points up.
        letters: Of left, right, top and bottom of the view.
    """

    title: str
    right: tuple[int, int, int]
    up: tuple[int, int, int]
    letters: tuple[str, str, str, str]


SIDES = (
    Side("front", (1, 0, 0), (0, 0, 1), ("R", "L", "H", "F")),
    Side("left", (0, 1, 0), (0, 0, 1), ("A", "P", "H", "F")),
    Side("back", (-1, 0, 0), (0, 0, 1), ("L", "R", "H", "F")),
    Side("right", (0, -1, 0), (0, 0, 1), ("P", "A", "H", "F")),
    Side("head", (-1, 0, 0), (0, -1, 0), ("L", "R", "A", "P")),
    Side("feet", (1, 0, 0), (0, -1, 0), ("R", "L", "A", "P")),
)


def seen_from(
    side: Side, surface: SurfaceMap, center: Floats, size_mm: float
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return where a square view shows a surface, and the signed distance that it shows there.

    Args:
        side: Where the eye is, infinitely far.
        surface: What is seen.
        center: What lies in the middle of the view, LPS mm.
        size_mm: Side of the view.

    Returns:
        Two arrays of `PIXELS` rows from top to bottom and as many columns; the distance is told
        beyond the surface, too, where it means nothing.
    """
    triangle_mm = float(np.sqrt(2.0 * np.median(surface.areas_mm2)))
    count = int(np.clip(size_mm / (TRIANGLES * triangle_mm), LEAST_CELLS, CELLS))
    points = (surface.points_mm - center) / size_mm
    right, up = (np.array(axis, dtype=np.float64) for axis in (side.right, side.up))
    column, row = (
        np.clip(((along + 0.5) * count).astype(np.int64), 0, count - 1)
        for along in (points @ right, -(points @ up))
    )
    nearest_last = np.argsort(points @ np.cross(right, up), kind="stable")
    front = np.full((count, count), -1)
    front[row[nearest_last], column[nearest_last]] = nearest_last
    is_hit = front >= 0
    closed = ndimage.binary_closing(np.pad(is_hit, 2))[2:-2, 2:-2]
    at = ndimage.distance_transform_edt(~is_hit, return_distances=False, return_indices=True)
    shown = _finer(ndimage.binary_fill_holes(closed).astype(np.float64))
    return shown > 0.5, _finer(surface.distance_mm[front[tuple(at)]])


def _finer(cells: Floats) -> Floats:
    smooth = ndimage.gaussian_filter(cells, SMOOTHING_CELLS, mode="nearest")
    factor = PIXELS / len(cells)
    return np.asarray(ndimage.zoom(smooth, factor, order=1, mode="nearest", grid_mode=True))
