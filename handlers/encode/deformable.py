"""Deformation -> Deformable Spatial Registration Storage: where the MR holds each point of the CT.

The grid holds the whole displacement from a CT point to its MR point, rigid part included, and
there is no matrix beside it. So nobody can go wrong by leaving a matrix out or by inverting it, as
importers were seen to do. The price is that beyond the grid, where the standard defines nothing,
not even the rigid part is left: the grid therefore reaches as far as CT and MR overlap, beyond
which there is nothing of the MR to show. It continues the lattice of the deformation itself: linear
interpolation between its points gives the rigid part exactly and the deformation as it was made, so
that nothing is lost to a coarser grid.

Writes nothing where the rigid registration stands alone.

Read first: DICOM PS3.3 C.20.3 (Deformable Spatial Registration Module), C.20.3.1.1 to C.20.3.1.3.
"""

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import DeformableSpatialRegistrationStorage
from pydicom.valuerep import DSfloat

from handlers.displacement import DisplacementField
from handlers.encode.identity import (
    CREATOR_NAME,
    SERIES_NUMBER_DEFREG,
    Reference,
    ResultSet,
    code_item,
)
from handlers.encode.registration import KINDS, LABELS, unshifted_series
from handlers.encode.text import LO_LENGTH
from handlers.errors import EncodingError
from handlers.geometry import Geometry, Points
from handlers.results import Registration, RegistrationStatus

ROLE = "DEFREG"
"""Role of these objects in a result set: gives their UIDs."""

MOST_GRID_BYTES = 100_000_000
"""Larger grids were refused by importers: the reach beyond the deformation is then cut short."""

BYTES_PER_VECTOR = 12
"""Three 32 bit floats (PS3.3 C.20.3.1.3)."""

REACH_STEPS = 20
"""Steps in which the reach is cut short until the grid is small enough."""

VERDICTS = {
    RegistrationStatus.PASS: "{} to planning CT, deformable: passed its checks",
    RegistrationStatus.WARN: "{} to planning CT, deformable: CHECK, see report",
}
"""Content Description (0070,0081), at most 64 characters. A failed one is never written."""


def encode_deformable_registration(result_set: ResultSet, index: int) -> Dataset:
    """Return the Deformable Spatial Registration object of one registration.

    Raises:
        EncodingError: The registration failed, or has no deformation.
    """
    registration = result_set.result.registrations[index]
    deformation = registration.deformation
    if deformation is None or registration.status is RegistrationStatus.FAIL:
        raise EncodingError("a registration that failed or stands rigid has no deformation to tell")
    kind = registration.kind_in(result_set.result.case)
    verdict = VERDICTS[registration.status].format(KINDS[kind])
    ds = result_set.dataset(
        sop_class_uid=DeformableSpatialRegistrationStorage,
        role=ROLE,
        index=index,
        modality="REG",
        series_number=SERIES_NUMBER_DEFREG + index + 1,
        series_description=verdict,
    )
    result_set.add_frame_of_reference(ds)
    result_set.add_body_part(ds)
    ds.ContentLabel = f"{LABELS[kind]}_DEFORMABLE"
    ds.ContentDescription = verdict
    ds.ContentCreatorName = CREATOR_NAME
    references = result_set.moved_references(unshifted_series(registration))
    lattice = covering_lattice(
        deformation.geometry,
        result_set.result.case.ct.geometry.corners_mm(),
        _corners_of_mr(result_set, registration),
        most_bytes=MOST_GRID_BYTES,
    )
    item = Dataset()
    item.SourceFrameOfReferenceUID = registration.ct_from_mr.from_frame_uid
    item.ReferencedImageSequence = [reference.item() for reference in references]
    item.FrameOfReferenceTransformationComment = verdict[:LO_LENGTH]
    item.RegistrationTypeCodeSequence = [code_item(codes.DCM.ImageContentBasedAlignment)]
    item.DeformableRegistrationGridSequence = [_grid_item(lattice, registration, deformation)]
    ds.DeformableRegistrationSequence = [item]
    result_set.add_instance_references(ds, result_set.ct_references() + references)
    return ds


def deformable_reference(result_set: ResultSet, registration: Registration) -> Reference | None:
    """Return the reference to the object that holds a deformation, None where there is none."""
    if registration.deformation is None:
        return None
    index = result_set.registration_index(registration)
    return result_set.reference(DeformableSpatialRegistrationStorage, ROLE, index)


def covering_lattice(
    lattice: Geometry, ct_corners: Points, mr_corners: Points, *, most_bytes: int
) -> Geometry:
    """Return the lattice continued, by whole steps, over all that CT and MR share.

    Args:
        lattice: Grid of the deformation, in the CT's frame.
        ct_corners: Corners of the CT, shape (n, 3), LPS mm.
        mr_corners: Corners of the MR where they come to lie in the CT's frame, shape (n, 3);
            without any the lattice stays as it is.
        most_bytes: Size of the vectors above which the reach is shortened, on all sides alike.
    """
    if not len(mr_corners):
        return lattice
    ct, mr = (lattice.indices_from_points(corners) for corners in (ct_corners, mr_corners))
    last = np.array(lattice.shape) - 1.0
    low = np.minimum(0.0, np.floor(np.maximum(ct.min(axis=0), mr.min(axis=0)) - 1.0))
    high = np.maximum(last, np.ceil(np.minimum(ct.max(axis=0), mr.max(axis=0)) + 1.0))
    start, shape = low, high - low + 1
    for part in np.linspace(1.0, 0.0, REACH_STEPS + 1):
        start = np.ceil(low * part)
        shape = np.floor(last + (high - last) * part) - start + 1
        if np.prod(shape) * BYTES_PER_VECTOR <= most_bytes:
            break
    first, count = start.astype(int), shape.astype(int)
    return lattice.crop(
        (int(first[0]), int(first[1]), int(first[2])), (int(count[0]), int(count[1]), int(count[2]))
    )


def _corners_of_mr(result_set: ResultSet, registration: Registration) -> Points:
    """Return where the corners of the series that the deformation moves lie in the CT's frame."""
    wanted = unshifted_series(registration)
    corners = [
        registration.ct_from_mr.apply(image.geometry.corners_mm())
        for image in (*result_set.result.case.mr, *result_set.result.case.other_ct)
        if image.series_instance_uid in wanted
    ]
    return np.concatenate(corners) if corners else np.zeros((0, 3))


def _grid_item(
    lattice: Geometry, registration: Registration, deformation: DisplacementField
) -> Dataset:
    lattice = _right_handed(lattice)
    slices, rows, columns = lattice.shape
    axes = lattice.patient_from_index[:3, :3]
    steps = np.linalg.norm(axes, axis=0)
    along_row, along_column = axes[:, 2] / steps[2], axes[:, 1] / steps[1]
    mr_from_ct = registration.ct_from_mr.inverse()
    vectors = np.empty((slices, rows, columns, 3), dtype="<f4")
    at = np.indices((1, rows, columns)).reshape(3, -1).T
    for i in range(slices):  # slice by slice: the points of a whole grid would take much memory
        points = lattice.points_from_indices(at + np.array([i, 0, 0]))
        moved = mr_from_ct.apply(points + deformation.at(points)) - points
        vectors[i] = moved.reshape(rows, columns, 3)
    item = Dataset()
    item.ImageOrientationPatient = _decimals([*along_row, *along_column])
    item.ImagePositionPatient = _decimals(list(lattice.patient_from_index[:3, 3]))
    item.GridDimensions = [columns, rows, slices]
    item.GridResolution = [float(steps[2]), float(steps[1]), float(steps[0])]
    item.VectorGridData = vectors.tobytes()
    return item


def _right_handed(lattice: Geometry) -> Geometry:
    """Return the same lattice with slices counted along row x column, as the standard has it."""
    axes = lattice.patient_from_index[:3, :3]
    if np.cross(axes[:, 2], axes[:, 1]) @ axes[:, 0] > 0:
        return lattice
    matrix = lattice.patient_from_index.copy()
    matrix[:3, 0] = -axes[:, 0]
    matrix[:3, 3] = lattice.points_from_indices((lattice.shape[0] - 1, 0, 0))[0]
    return Geometry(lattice.frame_of_reference_uid, matrix, lattice.shape)


def _decimals(values: list[float]) -> list[DSfloat]:
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in values]
