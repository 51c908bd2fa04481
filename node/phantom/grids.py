"""The voxel grids of a phantom: where the slices of CT, MR and dose lie in their frames.

Makes geometry only. Slice order is the order of the Instance Number.
"""

import math

import numpy as np

from handlers.geometry import Geometry, RigidTransform
from node.phantom.options import (
    CT_AXES,
    CT_GRIDS,
    MR_AXES,
    MR_CONTRASTS,
    MR_GRIDS,
    MrGridSize,
    PhantomOptions,
    Vector,
)
from node.phantom.variety import Variety

DOSE_SPACING_MM = 3.0

PLANNING_CENTRE_MM = (0.0, 0.0, 0.0)
"""Centre of the CT in its frame: on the midline at the height of the liver hilum."""

MR_CENTRE_MM = (-8.0, -3.0, 7.0)
"""Centre of the MR volume, told in the CT's frame; the hilum lies near it."""

MISS_MM = 45.0
"""An MR that misses the target begins this far above the hilum."""


def ct_geometry(options: PhantomOptions, frame_uid: str) -> Geometry:
    """Return the planning CT's grid; rows and columns follow the patient position."""
    size = CT_GRIDS[options.size]
    shape, spacing = size.shape, size.spacing_mm
    if options.variety:
        thickness = options.variety.ct_slice_mm
        shape = (round(shape[0] * spacing[0] / thickness), *shape[1:])
        spacing = (thickness, *spacing[1:])
    return _centred(
        frame_uid, CT_AXES[options.patient_position], shape, spacing, PLANNING_CENTRE_MM
    )


def dose_geometry(ct: Geometry) -> Geometry:
    """Return a dose grid of `DOSE_SPACING_MM` with the CT's axes, that covers the CT's voxels.

    So it covers what is drawn on the outermost slices, too, which reaches beyond their middles.
    """
    extent = [n * s for n, s in zip(ct.shape, ct.spacing_mm, strict=True)]
    s, r, c = (math.ceil(length / DOSE_SPACING_MM) + 1 for length in extent)
    x, y, z = ct.centre_mm()
    axes = (_vector(ct.axes[:, 2]), _vector(ct.axes[:, 1]))
    spacing = (DOSE_SPACING_MM,) * 3
    return _centred(ct.frame_of_reference_uid, axes, (s, r, c), spacing, (x, y, z))


def mr_geometry(options: PhantomOptions, contrast: str, ct_from_mr: RigidTransform) -> Geometry:
    """Return the grid of one MR series in the MR's own frame of reference."""
    size, middle = MR_GRIDS[options.size][contrast], MR_CENTRE_MM
    if options.variety:
        size, middle = _varied(size, contrast, options.variety)
    row, column = MR_AXES[options.mr_plane]
    centre = _vector(ct_from_mr.inverse().apply(middle)[0])
    # scanners place slices at rounded table positions
    x, y, z = (round(v, 1) for v in centre)
    spacing = (size.slice_mm, size.pixel_mm, size.pixel_mm)
    return _centred(
        ct_from_mr.from_frame_uid, (row, column), _mr_shape(size, row, column), spacing, (x, y, z)
    )


def _varied(size: MrGridSize, contrast: str, variety: Variety) -> tuple[MrGridSize, Vector]:
    """Return the grid of a case of the kit, and its centre in the CT's frame."""
    slice_mm = variety.mr_slice_mm[min(MR_CONTRASTS.index(contrast), 2)]
    extent = _vector(np.multiply(size.extent_mm, variety.mr_field))
    middle = _vector(np.add(MR_CENTRE_MM, variety.mr_offset_mm))
    if variety.flaw == "misses":
        middle = (middle[0], middle[1], extent[2] / 2 + MISS_MM)
    return MrGridSize(slice_mm, size.pixel_mm, extent), middle


def _mr_shape(size: MrGridSize, row: Vector, column: Vector) -> tuple[int, int, int]:
    along_row, along_column = (
        size.extent_mm[int(np.argmax(np.abs(direction)))] for direction in (row, column)
    )
    # whatever the plane, a breath hold is no longer than that of the axial slab
    slices = int(size.extent_mm[2] / size.slice_mm)
    return slices, math.ceil(along_column / size.pixel_mm), math.ceil(along_row / size.pixel_mm)


def _centred(
    frame_uid: str,
    axes: tuple[Vector, Vector],
    shape: tuple[int, int, int],
    spacing_mm: Vector,
    centre_mm: Vector,
) -> Geometry:
    row, column = (np.array(direction) for direction in axes)
    matrix = np.eye(4)
    # a step to the next column goes along a row, and the other way about
    for n, direction in enumerate((np.cross(row, column), column, row)):
        matrix[:3, n] = direction * spacing_mm[n]
    matrix[:3, 3] = np.array(centre_mm) - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(frame_uid, matrix, shape)


def _vector(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
