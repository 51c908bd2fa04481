"""The only maker of voxels: contours to masks and back, grid to grid, distances, ITK.

Deliberately knows no DICOM dataset.
"""

from handlers.sampling.contours import (
    contours_by_slice,
    mask_from_roi,
    nesting_depths,
    slice_of_contour,
)
from handlers.sampling.distance import signed_distance_mm, signed_distance_of_array
from handlers.sampling.grids import (
    geometry_from_itk,
    itk_image,
    itk_mask,
    resample,
    resample_mask,
)
from handlers.sampling.tracing import contours_from_level, contours_from_mask

__all__ = [
    "contours_by_slice",
    "contours_from_level",
    "contours_from_mask",
    "geometry_from_itk",
    "itk_image",
    "itk_mask",
    "mask_from_roi",
    "nesting_depths",
    "resample",
    "resample_mask",
    "signed_distance_mm",
    "signed_distance_of_array",
    "slice_of_contour",
]
