"""A smooth local change of place, on a grid of its own: what a deformable step adds to a rigid map.

Holds, evaluates, judges and inverts a field; never estimates one, and never moves an image.

Read first: DICOM PS3.3 C.20.3 (Deformable Spatial Registration), which has the same direction.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import RegistrationFailedError
from handlers.geometry import Geometry, Points

INVERSE_TOLERANCE_MM = 0.001
"""The inverse is iterated until it returns to the point this closely; 0.01 mm is what we promise,
and the error of the place is at most the miss over one minus the steepness of the field."""

INVERSE_STEPS = 100
"""Fields that we accept need fewer than 15; one that needs more is too steep."""


@dataclass(frozen=True, slots=True, eq=False)
class DisplacementField:
    """Displacements u(x) of points x of the planning CT: the MR point is `mr_from_ct(x + u(x))`.

    The grid is the region of validity. On its border u is zero, beyond it the rigid map stands, so
    there is no step between both.

    Attributes:
        geometry: Grid of the vectors, in the CT's frame of reference.
        vectors_mm: float32, shape (slices, rows, columns, 3): x, y, z in LPS mm.
    """

    geometry: Geometry
    vectors_mm: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors_mm, dtype=np.float32)
        if vectors.shape != (*self.geometry.shape, 3):
            raise ValueError(
                f"vectors_mm has shape {vectors.shape}, its grid {self.geometry.shape}"
            )
        if not np.all(np.isfinite(vectors)):
            raise ValueError("vectors_mm holds a value that is not finite")
        border = np.ones(self.geometry.shape, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        if np.any(vectors[border] != 0):
            raise ValueError("a displacement field must be zero on the border of its grid")
        vectors.setflags(write=False)
        object.__setattr__(self, "vectors_mm", vectors)

    @classmethod
    def blended(
        cls, geometry: Geometry, vectors_mm: npt.NDArray[np.floating], rim_mm: float
    ) -> "DisplacementField":
        """Return the field that falls to zero towards the border of its grid, without a step.

        Args:
            geometry: Its grid.
            vectors_mm: Shape (slices, rows, columns, 3), LPS mm; stays as it is.
            rim_mm: Width of the rim in which the vectors fall, as a raised cosine along each axis.

        Raises:
            ValueError: `rim_mm` is not positive or the shapes differ.
        """
        if rim_mm <= 0:
            raise ValueError("the rim must be wider than zero")
        vectors = np.array(vectors_mm, dtype=np.float64)
        if vectors.shape != (*geometry.shape, 3):
            raise ValueError(f"vectors_mm has shape {vectors.shape}, its grid {geometry.shape}")
        for axis, (n, spacing) in enumerate(zip(geometry.shape, geometry.spacing_mm, strict=True)):
            at = np.arange(n)
            depth_mm = np.minimum(at, n - 1 - at) * spacing
            weight = 0.5 - 0.5 * np.cos(np.pi * np.clip(depth_mm / rim_mm, 0.0, 1.0))
            shape = [1, 1, 1, 1]
            shape[axis] = n
            vectors *= weight.reshape(shape)
        return cls(geometry, vectors.astype(np.float32))

    @property
    def largest_mm(self) -> float:
        """Length of the longest vector in mm."""
        return float(np.linalg.norm(self.vectors_mm, axis=-1).max())

    def at(self, points: npt.ArrayLike) -> Points:
        """Return u in mm, shape (n, 3), at LPS points (n, 3): trilinear, zero outside the grid."""
        indices = self.geometry.indices_from_points(points).T
        found = [
            ndimage.map_coordinates(self.vectors_mm[..., k], indices, order=1, mode="constant")
            for k in range(3)
        ]
        return np.stack(found, axis=1).astype(np.float64)

    def apply(self, points: npt.ArrayLike) -> Points:
        """Return x + u(x) for LPS points x (n, 3)."""
        at = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        return at + self.at(at)

    def undo(self, points: npt.ArrayLike) -> Points:
        """Return the LPS points x (n, 3) whose x + u(x) are `points` (n, 3).

        Accuracy:
            `apply(undo(p))` is p within `INVERSE_TOLERANCE_MM`.

        Raises:
            RegistrationFailedError: The field is too steep to be undone (it may fold).
        """
        wanted = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        found = wanted - self.at(wanted)
        for _ in range(INVERSE_STEPS):
            miss = wanted - self.apply(found)
            if len(miss) == 0 or float(np.abs(miss).max()) <= INVERSE_TOLERANCE_MM / 2.0:
                return found
            found = found + miss
        raise RegistrationFailedError(
            f"the displacement field cannot be undone to {INVERSE_TOLERANCE_MM} mm",
            hint="The field is too steep or folds; use the rigid registration.",
        )

    def jacobian(self) -> npt.NDArray[np.float64]:
        """Return det(I + grad u) at the voxels, shape of the grid: local volume after over before.

        By central differences. 1 keeps volumes, 0 and less folds.
        """
        slopes = np.stack([np.gradient(self.vectors_mm, axis=k) for k in range(3)], axis=-1)
        return self._determinants(slopes)

    def jacobian_bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest det(I + grad u) of the trilinear field.

        Unlike central differences, the differences to either neighbour see a field that jumps to
        and fro from voxel to voxel.
        """
        steps = [np.diff(self.vectors_mm, axis=k) for k in range(3)]
        low, high = np.inf, -np.inf
        for ends in product((False, True), repeat=3):  # the eight corners of every cell
            slopes = []
            for axis, step in enumerate(steps):
                corner = [slice(1, None) if end else slice(None, -1) for end in ends]
                corner[axis] = slice(None)
                slopes.append(step[tuple(corner)])
            found = self._determinants(np.stack(slopes, axis=-1))
            low, high = min(low, float(found.min())), max(high, float(found.max()))
        return low, high

    def _determinants(self, slopes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return det(I + grad u) for slopes per voxel, shape (..., component, axis of the grid)."""
        index_from_patient = np.linalg.inv(self.geometry.patient_from_index[:3, :3])
        gradient = slopes.astype(np.float64) @ index_from_patient
        return np.asarray(np.linalg.det(gradient + np.eye(3)))
