"""How far each voxel lies from a structure's border."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import EmptyStructureError
from handlers.values import Mask

Bools = npt.NDArray[np.bool_]


def signed_distance_mm(mask: Mask) -> npt.NDArray[np.float32]:
    """Return for each voxel centre its distance to the mask's border in mm, negative inside.

    From the distance to the nearest voxel centre on the other side, that voxel's half extent in
    this direction (of the ellipsoid within the voxel) is taken off. Zero lies therefore midway
    between two neighbours on different sides, along each axis, with any spacing. Beyond the grid is
    outside.

    Costs about 40 bytes per voxel while it runs: crop the mask first where the far field is of no
    interest.

    Returns:
        float32, shape of the grid.

    Raises:
        EmptyStructureError: The mask has no voxel inside.

    Accuracy:
        Exact for borders along the axes. For a digitised sphere of 5-10 mm and voxels of 1 mm the
        mean error is below 0.05 mm near the border and 0.35 mm towards zero far from it.
    """
    if not mask.inside.any():
        raise EmptyStructureError("an empty structure has no border to measure from")
    return signed_distance_of_array(np.pad(mask.inside, 1), mask.geometry.spacing_mm)[
        1:-1, 1:-1, 1:-1
    ]


def signed_distance_of_array(inside: Bools, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the same for an array of any dimension that holds both sides; no grid, no margin."""
    return _distance_to(inside, spacing_mm) - _distance_to(~inside, spacing_mm)


def _distance_to(target: Bools, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the distance from voxel centres to the nearest target voxel's border; 0 inside it."""
    nearest = ndimage.distance_transform_edt(
        ~target, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    squared_mm = np.zeros(target.shape, dtype=np.float32)
    squared_voxels = np.zeros(target.shape, dtype=np.float32)
    for axis, spacing in enumerate(spacing_mm):
        here = np.arange(target.shape[axis]).reshape(
            np.where(np.arange(target.ndim) == axis, -1, 1)
        )
        step = np.abs(nearest[axis] - here).astype(np.float32)
        squared_voxels += step**2
        squared_mm += (step * np.float32(spacing)) ** 2
    # a step of n voxels and d mm leaves the ellipsoid within its last voxel after d / (2 n) mm
    share_outside = 1.0 - 0.5 / np.sqrt(np.maximum(squared_voxels, 1.0))
    return np.asarray(np.sqrt(squared_mm) * share_outside, dtype=np.float32)
