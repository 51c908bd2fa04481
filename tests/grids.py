"""Grids of any orientation and the sphere on them, for tests of what makes voxels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry, RigidTransform
from handlers.values import Mask

FRAME = "1.2"
HFS = np.eye(3)[:, ::-1]  # slices to the head, rows to the back, columns to the left
FACINGS = {
    "head first supine": HFS,
    "head first prone": HFS * (1, -1, -1),
    "feet first supine": HFS * (-1, 1, -1),
    "sagittal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "oblique": RigidTransform.from_parameters(
        rotation_deg=(20, -35, 50), translation_mm=(0, 0, 0), to_frame_uid="", from_frame_uid=""
    ).matrix[:3, :3]
    @ HFS,
}


def grid(
    spacing_mm: Sequence[float] = (3.0, 1.0, 1.0),
    shape: tuple[int, int, int] = (5, 20, 24),
    axes: npt.ArrayLike = HFS,
    origin_mm: Sequence[float] = (-12.345, 6.78, -101.123),
) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(axes) * np.asarray(spacing_mm)
    matrix[:3, 3] = origin_mm
    return Geometry(FRAME, matrix, shape)


def sphere(geometry: Geometry, radius_mm: float) -> tuple[Mask, npt.NDArray[np.float64]]:
    """Return the voxels of a sphere near the grid's centre and their distances from its surface."""
    indices = np.indices(geometry.shape).reshape(3, -1).T
    centre = geometry.centre_mm() + 0.3
    away = np.linalg.norm(geometry.points_from_indices(indices) - centre, axis=1) - radius_mm
    return Mask(geometry, away.reshape(geometry.shape) < 0), away.reshape(geometry.shape)
