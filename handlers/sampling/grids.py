"""From grid to grid, and to ITK's order of axes and back.

Never takes an image across frames of reference without the transform that leads there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from handlers.displacement import DisplacementField
from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform
from handlers.values import Image, Mask

Bools = npt.NDArray[np.bool_]


def resample(
    image: Image,
    onto: Geometry,
    onto_from_image: RigidTransform,
    deformation: DisplacementField | None = None,
) -> tuple[Image, Mask]:
    """Return an image on another grid, and which voxels of that grid it covers.

    Linear between the voxel centres; in the outer half of its border voxels the image is continued
    by the border's value. No smoothing goes before, even onto a coarser grid.

    Args:
        image: The source; stays as it is.
        onto: The grid of the result.
        onto_from_image: From the image's frame of reference to that of `onto`.
        deformation: In the frame of `onto`: what is shown at x is the image's point of x + u(x).

    Returns:
        The image on `onto` (same series, modality, description, contrast), 0 where nothing is
        known; and the mask of the voxels whose centres lie within the image's voxels.

    Raises:
        GeometryMismatchError: The transform does not lead from one frame to the other, or the
            deformation lies in another frame than `onto`.
    """
    voxels, covered = _pull(image.voxels, image.geometry, onto, onto_from_image, deformation)
    resampled = Image(
        onto,
        voxels,
        image.modality,
        image.series_instance_uid,
        image.description,
        image.contrast,
    )
    return resampled, Mask(onto, covered)


def resample_mask(
    mask: Mask,
    onto: Geometry,
    onto_from_mask: RigidTransform,
    deformation: DisplacementField | None = None,
) -> Mask:
    """Return a mask on another grid: the half level of the linearly interpolated mask.

    Args:
        mask: The source.
        onto: The grid of the result.
        onto_from_mask: From the mask's frame of reference to that of `onto`.
        deformation: As for `resample`.

    Raises:
        GeometryMismatchError: As for `resample`.
    """
    level, covered = _pull(
        mask.inside.view(np.uint8), mask.geometry, onto, onto_from_mask, deformation
    )
    return Mask(onto, (level >= 0.5) & covered)


def _pull(
    source: npt.NDArray[np.generic],
    geometry: Geometry,
    onto: Geometry,
    onto_from_source: RigidTransform,
    deformation: DisplacementField | None,
) -> tuple[npt.NDArray[np.float32], Bools]:
    frame = onto.frame_of_reference_uid
    if (
        onto_from_source.from_frame_uid != geometry.frame_of_reference_uid
        or onto_from_source.to_frame_uid != frame
    ):
        raise GeometryMismatchError(
            "the transform does not lead from the frame of reference of what is resampled to that "
            "of the grid"
        )
    if deformation is not None and deformation.geometry.frame_of_reference_uid != frame:
        raise GeometryMismatchError(
            "the deformation does not lie in the frame of reference of the grid"
        )
    source_from_onto = (
        np.linalg.inv(geometry.patient_from_index)
        @ onto_from_source.inverse().matrix
        @ onto.patient_from_index
    )
    # whole indices must not miss a border voxel by the rounding of a product of matrices
    source_from_onto = np.round(source_from_onto, 9)
    matrix, offset = source_from_onto[:3, :3], source_from_onto[:3, 3]
    values = np.empty(onto.shape, dtype=np.float32)
    ndimage.affine_transform(
        source, matrix, offset, onto.shape, output=values, order=1, mode="nearest"
    )
    covered = np.ones(onto.shape, dtype=np.bool_)
    for index in range(onto.shape[0]):  # slice by slice, to hold no coordinates of a whole volume
        for axis in range(3):
            at = (
                (offset[axis] + matrix[axis, 0] * index)
                + matrix[axis, 1] * np.arange(onto.shape[1])[:, None]
                + matrix[axis, 2] * np.arange(onto.shape[2])[None, :]
            )
            covered[index] &= (at >= -0.5) & (at <= geometry.shape[axis] - 0.5)
        values[index][~covered[index]] = 0.0
    if deformation is not None:
        _pull_deformed(source, onto, source_from_onto, deformation, values, covered)
    return values, covered


def _pull_deformed(
    source: npt.NDArray[np.generic],
    onto: Geometry,
    source_from_onto: npt.NDArray[np.float64],
    deformation: DisplacementField,
    values: npt.NDArray[np.float32],
    covered: Bools,
) -> None:
    """Overwrite `values` and `covered` where the deformation is valid, slice by slice."""
    corners = onto.indices_from_points(deformation.geometry.corners_mm())
    low = np.maximum(np.ceil(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.floor(corners.max(axis=0)) + 1, onto.shape).astype(int)
    if np.any(high <= low):
        return
    last = np.array(source.shape) - 0.5
    rows, columns = np.mgrid[low[1] : high[1], low[2] : high[2]]
    for index in range(low[0], high[0]):
        at = np.stack([np.full(rows.size, index), rows.ravel(), columns.ravel()], axis=1)
        u_mm = deformation.at(onto.points_from_indices(at))
        moved = np.flatnonzero(np.any(u_mm != 0.0, axis=1))
        if len(moved) == 0:
            continue
        u_index = u_mm[moved] @ np.linalg.inv(onto.patient_from_index[:3, :3]).T
        ends = (at[moved] + u_index) @ source_from_onto[:3, :3].T + source_from_onto[:3, 3]
        found = ndimage.map_coordinates(source, ends.T, output=np.float32, order=1, mode="nearest")
        is_covered = np.all((ends >= -0.5) & (ends <= last), axis=1)
        place = (index, rows.ravel()[moved], columns.ravel()[moved])
        values[place] = np.where(is_covered, found, 0.0)
        covered[place] = is_covered


def itk_image(image: Image) -> SimpleITK.Image:
    """Return the image for ITK: float32, axes (column, row, slice), points in LPS mm."""
    return _itk(image.voxels, image.geometry)


def itk_mask(mask: Mask) -> SimpleITK.Image:
    """Return the mask for ITK: uint8, 1 inside, axes (column, row, slice)."""
    return _itk(mask.inside.view(np.uint8), mask.geometry)


def geometry_from_itk(image: SimpleITK.Image, frame_of_reference_uid: str) -> Geometry:
    """Return the grid of a three-dimensional ITK image, in our order (slice, row, column)."""
    itk: Any = image  # its methods tell no types
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(itk.GetDirection()).reshape(3, 3) * itk.GetSpacing())[:, ::-1]
    matrix[:3, 3] = itk.GetOrigin()
    columns, rows, slices = itk.GetSize()
    return Geometry(frame_of_reference_uid, matrix, (slices, rows, columns))


def _itk(voxels: npt.NDArray[np.generic], geometry: Geometry) -> SimpleITK.Image:
    """ITK takes any direction matrix that is not singular, left-handed ones included."""
    image = SimpleITK.GetImageFromArray(voxels)
    itk: Any = image
    itk.SetSpacing(geometry.spacing_mm[::-1])
    itk.SetOrigin([float(x) for x in geometry.patient_from_index[:3, 3]])
    itk.SetDirection([float(x) for x in geometry.axes[:, ::-1].ravel()])
    return image
