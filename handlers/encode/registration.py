"""Registration -> Spatial Registration Storage: MR (or CT, CBCT) to planning CT, one matrix.

The registered coordinate system is the CT's: its item holds the identity, the MR's item holds
`ct_from_mr`, which is what the standard asks for (source to registered, PS3.3 C.20.2). Where both
share one frame of reference, both items name the same frame and only their Referenced Image
Sequences tell them apart, as the standard allows (the matrix then holds for the images listed).

Never composes matrices: of readers that meet several, some multiply in the wrong order.
"""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SpatialRegistrationStorage
from pydicom.valuerep import DSfloat

from handlers.encode.identity import (
    CREATOR_NAME,
    SERIES_NUMBER_REG,
    Reference,
    ResultSet,
    code_item,
)
from handlers.encode.text import LO_LENGTH
from handlers.errors import EncodingError
from handlers.results import Registration, RegistrationStatus

ROLE = "REG"
"""Role of these objects in a result set: gives their UIDs."""

LABELS = {"mr": "CTMR", "ct": "CTCT", "cbct": "CBCT"}
"""Content Label (0070,0080), first part, by kind: what a person meets first in a list."""

LABEL_ENDS = {
    RegistrationStatus.PASS: "RIGID",
    RegistrationStatus.WARN: "RIGID",
    RegistrationStatus.FAIL: "FAILED",
}
"""Content Label, second part."""

KINDS = {"mr": "MR", "ct": "CT", "cbct": "CBCT"}
"""How people call what is moved."""

ORTHONORMALITY_TOLERANCE = 1e-6
"""Largest entry of |R Rt - I| that importers of rigid registrations were seen to accept."""

VERDICTS = {
    RegistrationStatus.PASS: "{} to planning CT, rigid: passed its checks",
    RegistrationStatus.WARN: "{} to planning CT, rigid: CHECK, see report",
    RegistrationStatus.FAIL: "FAILED ITS CHECKS, MUST NOT BE USED ({} to planning CT, rigid)",
}
"""Content Description (0070,0081), at most 64 characters."""


def encode_registration(result_set: ResultSet, index: int) -> Dataset:
    """Return the Spatial Registration object of one registration.

    Raises:
        EncodingError: The rotation is not orthonormal enough to be called rigid.
    """
    registration = result_set.result.registrations[index]
    kind = registration.kind_in(result_set.result.case)
    verdict = VERDICTS[registration.status].format(KINDS[kind])
    ds = result_set.dataset(
        sop_class_uid=SpatialRegistrationStorage,
        role=ROLE,
        index=index,
        modality="REG",
        series_number=SERIES_NUMBER_REG + index + 1,
        series_description=verdict,
    )
    result_set.add_frame_of_reference(ds)
    result_set.add_body_part(ds)
    ds.ContentLabel = f"{LABELS[kind]}_{LABEL_ENDS[registration.status]}"
    ds.ContentDescription = verdict
    ds.ContentCreatorName = CREATOR_NAME
    ct_references = result_set.ct_references()
    moved_references = result_set.moved_references(unshifted_series(registration))
    ds.RegistrationSequence = [
        _registration_item(
            str(result_set.ct.FrameOfReferenceUID),
            ct_references,
            np.eye(4),
            code=codes.DCM.FrameOfReferenceIdentity,
            comment="planning CT: the registered frame of reference",
        ),
        _registration_item(
            registration.ct_from_mr.from_frame_uid,
            moved_references,
            registration.ct_from_mr.matrix,
            code=codes.DCM.ImageContentBasedAlignment,
            comment=verdict,
        ),
    ]
    result_set.add_instance_references(ds, ct_references + moved_references)
    return ds


def registration_reference(result_set: ResultSet, registration: Registration) -> Reference:
    """Return the reference to the object that holds a registration."""
    index = result_set.registration_index(registration)
    return result_set.reference(SpatialRegistrationStorage, ROLE, index)


def unshifted_series(registration: Registration) -> list[str]:
    """Return the series for which the transform holds as it stands.

    Those with a shift of their own are not listed: one frame of reference with two matrices would
    be read differently by different importers. Their resampled images hold the shift.
    """
    return [uid for uid in registration.series_uids if uid not in registration.series_shifts_mm]


def _registration_item(
    frame_uid: str,
    references: list[Reference],
    registered_from_source: npt.NDArray[np.float64],
    *,
    code: Code,
    comment: str,
) -> Dataset:
    matrix = Dataset()
    matrix.FrameOfReferenceTransformationMatrix = _matrix_values(registered_from_source)
    matrix.FrameOfReferenceTransformationMatrixType = "RIGID"
    registration = Dataset()
    registration.FrameOfReferenceTransformationComment = comment[:LO_LENGTH]
    registration.RegistrationTypeCodeSequence = [code_item(code)]
    registration.MatrixSequence = [matrix]
    item = Dataset()
    item.FrameOfReferenceUID = frame_uid
    item.ReferencedImageSequence = [reference.item() for reference in references]
    item.MatrixRegistrationSequence = [registration]
    return item


def _matrix_values(matrix: npt.NDArray[np.float64]) -> list[DSfloat]:
    values = [DSfloat(float(value) + 0.0, auto_format=True) for value in matrix.ravel()]
    written = np.array([float(str(value)) for value in values]).reshape(4, 4)
    rotation = written[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > ORTHONORMALITY_TOLERANCE:
        raise EncodingError(
            f"the rotation of a registration is off orthonormal by {error:.1e}, "
            f"more than {ORTHONORMALITY_TOLERANCE:.0e}: it cannot be written as RIGID"
        )
    return values
