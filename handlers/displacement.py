"""A smooth local change of place, on a grid of its own: what a deformable step adds to a rigid map.

Read first: DICOM PS3.3 C.20.3 (Deformable Spatial Registration), which has the same direction.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry, Points


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

    def at(self, points: npt.ArrayLike) -> Points:
        """Return u in mm, shape (n, 3), at LPS points (n, 3): trilinear, zero outside the grid."""
        indices = self.geometry.indices_from_points(points).T
        found = [
            ndimage.map_coordinates(self.vectors_mm[..., k], indices, order=1, mode="constant")
            for k in range(3)
        ]
        return np.stack(found, axis=1).astype(np.float64)
