"""Shapes with known formulas, contoured slice by slice as a planning system draws them.

Places are millimetres along slices, rows and columns of the grid, from its first voxel centre.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from handlers.contour_metrics import Structure
from handlers.geometry import Geometry
from handlers.sampling import mask_from_roi
from handlers.values import Contour, Roi

CORNERS = 90
"""Points of a drawn ellipse."""

Floats = npt.NDArray[np.float64]


def slice_places(geometry: Geometry) -> Floats:
    """Return where the slices lie, in mm."""
    return np.arange(geometry.shape[0]) * geometry.spacing_mm[0]


def drawn(geometry: Geometry, place_mm: float, ring: npt.ArrayLike) -> Contour:
    """Return a ring (n, 2) of (row, column) places as a contour on a plane."""
    flat = np.asarray(ring, dtype=np.float64)
    at = np.column_stack((np.full(len(flat), place_mm), flat)) / np.array(geometry.spacing_mm)
    return Contour(geometry.points_from_indices(at))


def structure(geometry: Geometry, contours: Sequence[Contour]) -> Structure:
    """Return a structure with its voxels from its contours."""
    roi = Roi(1, "GTV", "GTV", tuple(contours))
    return Structure(mask_from_roi(roi, geometry), roi.contours)


def ellipsoid(
    geometry: Geometry, centre_mm: Sequence[float], radii_mm: Sequence[float]
) -> Structure:
    """Return an ellipsoid whose axes are the grid's, drawn on every slice that it meets."""
    angles = np.linspace(0.0, 2.0 * np.pi, CORNERS, endpoint=False)
    circle = np.column_stack((np.sin(angles), np.cos(angles)))
    # a polygon of the same area as the ellipse
    swell = np.sqrt(2.0 * np.pi / CORNERS / np.sin(2.0 * np.pi / CORNERS))
    contours = []
    for place in slice_places(geometry):
        rest = 1.0 - ((place - centre_mm[0]) / radii_mm[0]) ** 2
        if rest > 0:
            half = np.array(radii_mm[1:]) * np.sqrt(rest) * swell
            contours.append(drawn(geometry, place, np.array(centre_mm[1:]) + circle * half))
    return structure(geometry, contours)


def ball(geometry: Geometry, centre_mm: Sequence[float], radius_mm: float) -> Structure:
    """Return a ball, drawn on every slice that it meets."""
    return ellipsoid(geometry, centre_mm, [radius_mm] * 3)


def rectangle(low: Sequence[float], high: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of a rectangle, in order."""
    return [(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])]


def prism(
    geometry: Geometry,
    slices: Sequence[int],
    rings_of: Callable[[int], Sequence[npt.ArrayLike]],
) -> Structure:
    """Return what is drawn slice by slice: `rings_of` a slice are its rings."""
    places = slice_places(geometry)
    return structure(
        geometry,
        [drawn(geometry, places[index], ring) for index in slices for ring in rings_of(index)],
    )


def box(
    geometry: Geometry, slices: Sequence[int], low: Sequence[float], high: Sequence[float]
) -> Structure:
    """Return a box with straight walls: the same rectangle on some slices."""
    return prism(geometry, slices, lambda _: [rectangle(low, high)])
