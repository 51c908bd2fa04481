"""Where things are: voxel grids and rigid maps, in LPS millimetres.

The two conventions of the product are fixed here and nowhere else: arrays are indexed (slice, row,
column), points are (x, y, z) in the patient's LPS system (x to the left, y to the back, z to the
head), in millimetres. An ordinary axial grid therefore has a negative determinant.

Read first: DICOM PS3.3 C.7.6.2 (Image Plane Module).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.errors import GeometryMismatchError

Points = npt.NDArray[np.float64]
"""Points of shape (n, 3): x, y, z in LPS millimetres."""

ORTHOGONALITY_TOLERANCE = 1e-3
"""Largest cosine between two axes of a grid: beyond it a gantry is tilted or a matrix sheared."""

RIGID_TOLERANCE = 1e-4
"""Largest entry of |R Rt - I| that still counts as a rotation (PS3.3 C.20.2)."""

GRID_TOLERANCE_MM = 0.01
"""Two grids coincide when none of their corners is farther apart than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A regular voxel grid in a frame of reference.

    Attributes:
        frame_of_reference_uid: The frame in which `patient_from_index` speaks.
        patient_from_index: 4 x 4, maps (slice, row, column, 1) to (x, y, z, 1); voxel centres have
            whole indices.
        shape: Numbers of slices, rows and columns.
    """

    frame_of_reference_uid: str
    patient_from_index: npt.NDArray[np.float64]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        matrix = np.array(self.patient_from_index, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise ValueError("patient_from_index must be a finite 4 x 4 matrix")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three positive numbers, not {self.shape}")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if np.any(lengths <= 0):
            raise ValueError("patient_from_index has an axis of length zero")
        axes = matrix[:3, :3] / lengths
        if np.abs(axes.T @ axes - np.eye(3)).max() > ORTHOGONALITY_TOLERANCE:
            raise ValueError("the axes of a grid must be orthogonal")
        matrix.setflags(write=False)
        object.__setattr__(self, "patient_from_index", matrix)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between neighbouring slices, rows and columns in mm."""
        slices, rows, columns = np.linalg.norm(self.patient_from_index[:3, :3], axis=0)
        return float(slices), float(rows), float(columns)

    @property
    def axes(self) -> npt.NDArray[np.float64]:
        """Unit vectors in LPS along growing slice, row and column index, as columns of a 3 x 3."""
        return np.asarray(self.patient_from_index[:3, :3] / np.array(self.spacing_mm))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return math.prod(self.spacing_mm)

    def points_from_indices(self, indices: npt.ArrayLike) -> Points:
        """Return LPS points (n, 3) for fractional (slice, row, column) indices (n, 3)."""
        at = np.asarray(indices, dtype=np.float64).reshape(-1, 3)
        return at @ self.patient_from_index[:3, :3].T + self.patient_from_index[:3, 3]

    def indices_from_points(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return fractional (slice, row, column) indices (n, 3) for LPS points (n, 3)."""
        at = np.asarray(points, dtype=np.float64).reshape(-1, 3) - self.patient_from_index[:3, 3]
        return np.asarray(at @ np.linalg.inv(self.patient_from_index[:3, :3]).T)

    def corners_mm(self) -> Points:
        """Return the eight outermost voxel centres, shape (8, 3), LPS mm."""
        last = np.array(self.shape) - 1
        indices = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * last
        return self.points_from_indices(indices)

    def centre_mm(self) -> Points:
        """Return the centre of the grid, shape (3,), LPS mm."""
        return np.asarray(self.points_from_indices((np.array(self.shape) - 1) / 2.0)[0])

    def distances_mm(self, point: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the distance of every voxel centre from an LPS point in mm; shape of the grid."""
        offset = self.patient_from_index[:3, 3] - np.asarray(point, dtype=np.float64)
        lengths_mm = np.array(self.spacing_mm)
        from_first = offset @ self.axes
        squares = [
            (from_first[axis] + lengths_mm[axis] * np.arange(self.shape[axis])) ** 2
            for axis in range(3)
        ]
        along, across, over = np.ix_(*squares)
        return np.asarray(np.sqrt(along + across + over))

    def contains(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell for each LPS point (n, 3) whether it lies between the outermost voxel borders."""
        at = self.indices_from_points(points)
        return np.asarray(np.all((at >= -0.5) & (at <= np.array(self.shape) - 0.5), axis=1))

    def coincides_with(self, other: "Geometry", *, tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Tell whether both are the same grid in the same frame of reference."""
        if self.frame_of_reference_uid != other.frame_of_reference_uid or self.shape != other.shape:
            return False
        apart = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1)
        return bool(apart.max() <= tolerance_mm)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Geometry":
        """Return the grid of the block that begins at voxel `start` and has `shape` voxels."""
        matrix = self.patient_from_index.copy()
        matrix[:3, 3] = self.points_from_indices(start)[0]
        return Geometry(self.frame_of_reference_uid, matrix, shape)


@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """A rotation and translation from one frame of reference to another.

    Variables are named `target_from_source`: `ct_from_mr.apply(points_in_mr)` are points in CT.

    Attributes:
        matrix: 4 x 4, acts on (x, y, z, 1) in LPS mm.
        to_frame_uid: Frame of reference of the results.
        from_frame_uid: Frame of reference of the arguments.
    """

    matrix: npt.NDArray[np.float64]
    to_frame_uid: str
    from_frame_uid: str

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise ValueError("a rigid transform needs a finite 4 x 4 matrix")
        rotation = matrix[:3, :3]
        if (
            np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID_TOLERANCE
            or np.linalg.det(rotation) < 0
            or not np.allclose(matrix[3], (0, 0, 0, 1))
        ):
            raise ValueError("the matrix is not a rotation and translation")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_parameters(
        cls,
        *,
        rotation_deg: npt.ArrayLike,
        translation_mm: npt.ArrayLike,
        centre_mm: npt.ArrayLike = (0.0, 0.0, 0.0),
        to_frame_uid: str,
        from_frame_uid: str,
    ) -> "RigidTransform":
        """Return x -> R (x - centre) + centre + translation, R = Rz Ry Rx, angles in degrees."""
        ax, ay, az = np.deg2rad(np.asarray(rotation_deg, dtype=np.float64))
        rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
        ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
        rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
        centre = np.asarray(centre_mm, dtype=np.float64)
        matrix = np.eye(4)
        matrix[:3, :3] = rz @ ry @ rx
        matrix[:3, 3] = centre + np.asarray(translation_mm) - matrix[:3, :3] @ centre
        return cls(matrix, to_frame_uid, from_frame_uid)

    def apply(self, points: npt.ArrayLike) -> Points:
        """Return the images of LPS points (n, 3)."""
        at = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        return at @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inverse(self) -> "RigidTransform":
        """Return the map in the opposite direction."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.matrix[:3, :3].T
        matrix[:3, 3] = -self.matrix[:3, :3].T @ self.matrix[:3, 3]
        return RigidTransform(matrix, self.from_frame_uid, self.to_frame_uid)

    def __matmul__(self, first: "RigidTransform") -> "RigidTransform":
        """Return `self` after `first`: `a_from_c = a_from_b @ b_from_c`.

        Raises:
            GeometryMismatchError: `first` does not end in the frame in which `self` begins.
        """
        if self.from_frame_uid != first.to_frame_uid:
            raise GeometryMismatchError("transforms of unrelated frames of reference were chained")
        return RigidTransform(self.matrix @ first.matrix, self.to_frame_uid, first.from_frame_uid)

    @property
    def rotation_deg(self) -> tuple[float, float, float]:
        """Angles about x, y and z in degrees, for R = Rz Ry Rx (rotation about x acts first)."""
        r = self.matrix[:3, :3]
        ax = math.atan2(r[2, 1], r[2, 2])
        ay = math.atan2(-r[2, 0], math.hypot(r[2, 1], r[2, 2]))
        az = math.atan2(r[1, 0], r[0, 0])
        return math.degrees(ax), math.degrees(ay), math.degrees(az)

    @property
    def rotation_angle_deg(self) -> float:
        """The single angle about the rotation axis, 0 to 180 degrees."""
        cosine = (float(np.trace(self.matrix[:3, :3])) - 1.0) / 2.0
        return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))

    def largest_distance_mm(self, other: "RigidTransform", points: npt.ArrayLike) -> float:
        """Return how far apart both send the LPS points (n, 3), at worst, in mm."""
        apart = np.linalg.norm(self.apply(points) - other.apply(points), axis=1)
        return float(apart.max())
