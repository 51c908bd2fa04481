"""A Deformable Spatial Registration object that we made -> the field that it was made of.

To show again what a result was computed with; what others made is read by nobody.

Read first: DICOM PS3.3 C.20.3 (Deformable Spatial Registration).
"""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from handlers.displacement import DisplacementField
from handlers.errors import HandlerError
from handlers.geometry import Geometry, RigidTransform

NOTHING_MM = 0.01
"""On the border of the lattice the rigid map stands; what is left of numbers written as text."""


def decode_deformation(ds: Dataset, ct_from_mr: RigidTransform) -> DisplacementField:
    """Return what a deformable registration adds to its rigid map.

    Args:
        ds: The object.
        ct_from_mr: The rigid map, as it is told beside it.

    Raises:
        HandlerError: The object is not as we write it.
    """
    try:
        geometry, moved = written_grid(ds)
        slices, rows, columns = geometry.shape
        vectors = np.empty((slices, rows, columns, 3), dtype=np.float32)
        at = np.indices((1, rows, columns)).reshape(3, -1).T
        for i in range(slices):  # slice by slice: the points of a whole grid take much memory
            points = geometry.points_from_indices(at + np.array([i, 0, 0]))
            added = ct_from_mr.apply(points + moved[i].reshape(-1, 3)) - points
            vectors[i] = np.where(np.abs(added) < NOTHING_MM, 0.0, added).reshape(rows, columns, 3)
        return DisplacementField(geometry, vectors)
    except (AttributeError, TypeError, ValueError) as error:
        raise HandlerError("a deformable registration of the result cannot be read") from error


def written_grid(ds: Dataset) -> tuple[Geometry, npt.NDArray[np.float32]]:
    """Return the grid of a deformable registration, and what it adds to each of its points.

    Returns:
        The grid in the frame of reference that the object registers to, and vectors in mm, LPS,
        shape (slices, rows, columns, 3).

    Raises:
        AttributeError, TypeError, ValueError: The object is not as we write it.
    """
    (item,) = ds.DeformableRegistrationSequence
    (grid,) = item.DeformableRegistrationGridSequence
    columns, rows, slices = (int(n) for n in grid.GridDimensions)
    along_row, along_column, along_normal = (float(step) for step in grid.GridResolution)
    axes = np.array([float(v) for v in grid.ImageOrientationPatient]).reshape(2, 3)
    matrix = np.eye(4)
    matrix[:3, 0] = np.cross(axes[0], axes[1]) * along_normal
    matrix[:3, 1] = axes[1] * along_column
    matrix[:3, 2] = axes[0] * along_row
    matrix[:3, 3] = [float(v) for v in grid.ImagePositionPatient]
    vectors = np.frombuffer(grid.VectorGridData, dtype="<f4").reshape(slices, rows, columns, 3)
    return Geometry(str(ds.FrameOfReferenceUID), matrix, (slices, rows, columns)), vectors
