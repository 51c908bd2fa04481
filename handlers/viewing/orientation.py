"""The three planes of a grid as people look at them, whatever way its voxels are stored.

Radiological: the patient's right at the left of axial and coronal pictures, the front at the top of
axial ones and at the left of sagittal ones, the head at the top of the others. All of it follows
from the grid's own axes, never from a Patient Position. What steps through the planes goes towards
left, back and head.

Read first: DICOM PS3.3 C.7.6.2.1.1 (image position and orientation).
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry
from handlers.pictures.planes import TILTED, direction_letters

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Coordinate (x, y or z) along which each plane is stepped through."""

ACROSS = {"sagittal": (1, 1), "coronal": (0, 1), "axial": (0, 1)}
DOWN = {"sagittal": (2, -1), "coronal": (2, -1), "axial": (1, 1)}
"""Coordinate, and its sense, from left to right and from top to bottom of each plane."""


@dataclass(frozen=True, slots=True)
class ShownPlane:
    """How planes of one kind are cut out of an array of the grid, and laid before a reader.

    Attributes:
        name: `axial`, `sagittal` or `coronal`: the one that it is nearest to.
        steps: Array axis that the planes are stepped through along, and +1 or -1 for its sense.
        down: Array axis from top to bottom, likewise.
        across: Array axis from left to right, likewise.
    """

    name: str
    steps: tuple[int, int]
    down: tuple[int, int]
    across: tuple[int, int]


def shown_planes(geometry: Geometry) -> dict[str, ShownPlane]:
    """Return how each of the three planes of a grid is shown, by name."""
    axes = geometry.axes
    # which array axis is nearest to x, y and z: all three together, so that none is taken twice
    best = max(
        permutations(range(3)), key=lambda order: sum(abs(axes[i, order[i]]) for i in range(3))
    )

    def along(coordinate: int, sense: int) -> tuple[int, int]:
        axis = best[coordinate]
        return axis, sense if axes[coordinate, axis] > 0 else -sense

    return {
        name: ShownPlane(name, along(AXES[name], 1), along(*DOWN[name]), along(*ACROSS[name]))
        for name in ("axial", "sagittal", "coronal")
    }


def planes_document(geometry: Geometry) -> dict[str, Any]:
    """Return the planes as plain values.

    Returns:
        `planes`: by name the number of planes (`count`), `rows` and `columns`; `origin_mm`, the
        centre of the first pixel of plane 0 (top left) in LPS mm, and from there the steps to the
        next plane, row and column; `letters` of the patient's directions at the four sides;
        `is_tilted`; and how it lies in the stored array (`axes`: steps, down, across).
        `slice_plane`: the plane that the CT's slices are.
    """
    shown = shown_planes(geometry)
    (slice_plane,) = (name for name, plane in shown.items() if plane.steps[0] == 0)
    planes = {name: _plane_document(geometry, plane) for name, plane in shown.items()}
    return {"planes": planes, "slice_plane": slice_plane}


def _plane_document(geometry: Geometry, plane: ShownPlane) -> dict[str, Any]:
    first = np.zeros(3)
    for axis, sense in (plane.steps, plane.down, plane.across):
        first[axis] = 0 if sense > 0 else geometry.shape[axis] - 1
    down, across = _step_mm(geometry, plane.down), _step_mm(geometry, plane.across)
    normal = np.abs(geometry.axes[:, plane.steps[0]])
    return {
        "count": geometry.shape[plane.steps[0]],
        "rows": geometry.shape[plane.down[0]],
        "columns": geometry.shape[plane.across[0]],
        "origin_mm": geometry.points_from_indices(first)[0].tolist(),
        "step_mm": _step_mm(geometry, plane.steps).tolist(),
        "row_step_mm": down.tolist(),
        "column_step_mm": across.tolist(),
        "letters": {
            side: direction_letters(direction / np.linalg.norm(direction))
            for side, direction in (
                ("left", -across),
                ("right", across),
                ("top", -down),
                ("bottom", down),
            )
        },
        "is_tilted": bool(normal.max() < 1.0 - TILTED**2 / 2),
        "axes": [list(plane.steps), list(plane.down), list(plane.across)],
    }


def _step_mm(geometry: Geometry, along: tuple[int, int]) -> npt.NDArray[np.float64]:
    axis, sense = along
    return np.asarray(geometry.patient_from_index[:3, axis] * sense)
