"""The report for people -> Encapsulated PDF, and what that report tells of its result.

The patient's identity stands on the pages, as it stands in every object of the result; so Burned In
Annotation is YES, and a program that removes identities must drop the document.

Read first: DICOM PS3.3 A.45.1 (the IOD), C.24.2 (Encapsulated Document).
"""

import hashlib

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from handlers.encode.dose_groups import measured_objects
from handlers.encode.identity import (
    SERIES_NUMBER_PDF,
    Authorship,
    Reference,
    ResultSet,
    Sources,
    code_item,
)
from handlers.encode.overview import FACE_PARTS
from handlers.encode.registration import registration_reference
from handlers.encode.rtstruct import structure_set_reference
from handlers.encode.text import ST_LENGTH
from handlers.pages.about import About, Source
from handlers.results import CaseResult
from handlers.values import Image

ROLE = "PDF"
"""Role of this object in a result set: gives its UIDs and name."""

MIME_TYPE = "application/pdf"

TITLE = "Review of targets, registration and dose. Proposal, not approved"
"""Document Title (0042,0010)."""

MODALITIES = {"RTDOSE": "RT Dose", "RTPLAN": "RT Plan"}
"""What the objects of radiotherapy are called on the page."""


def encode_document(result_set: ResultSet, pdf: bytes) -> Dataset:
    """Return the report as a DICOM object.

    Args:
        result_set: What it reports on.
        pdf: The report, a PDF file as it is.
    """
    ds = result_set.dataset(
        sop_class_uid=EncapsulatedPDFStorage,
        role=ROLE,
        modality="DOC",
        series_number=SERIES_NUMBER_PDF,
        series_description="Report for people, not approved",
    )
    ds.ConversionType = "WSD"
    ds.AcquisitionDateTime = None
    ds.BurnedInAnnotation = "YES"
    if str(result_set.ct.get("BodyPartExamined", "")) in FACE_PARTS:
        ds.RecognizableVisualFeatures = "YES"
    ds.SourceInstanceSequence = [reference.item() for reference in _shown(result_set)]
    ds.DocumentTitle = result_set.text(TITLE, ST_LENGTH)
    ds.ConceptNameCodeSequence = [code_item(codes.DCM.ImagingMeasurementReport)]
    ds.VerificationFlag = "UNVERIFIED"
    ds.MIMETypeOfEncapsulatedDocument = MIME_TYPE
    ds.EncapsulatedDocumentLength = len(pdf)
    ds.EncapsulatedDocument = pdf + b"\x00" * (len(pdf) % 2)
    return ds


def about_result(
    result: CaseResult, sources: Sources, authorship: Authorship, protocol: str
) -> About:
    """Return what a report tells of the patient, the authors and the objects of a result.

    Args:
        result: What was computed.
        sources: The datasets that it was computed from.
        authorship: When, by which version and with which settings.
        protocol: Name of the protocol.
    """
    result_set = ResultSet(result, sources, authorship)
    ct = result_set.ct
    digest = hashlib.sha256(authorship.parameters.encode()).hexdigest()
    return About(
        patient_name=_name_in_words(ct),
        patient_id=str(ct.get("PatientID", "") or ""),
        birth_date=_date(str(ct.get("PatientBirthDate", "") or "")),
        sex=str(ct.get("PatientSex", "") or ""),
        study_date=_date(str(ct.get("StudyDate", "") or "")),
        created_date=_date(authorship.date),
        created_time=":".join(authorship.time[at : at + 2] for at in (0, 2, 4)),
        software_version=authorship.software_version,
        protocol=protocol,
        settings_digest=digest,
        fingerprint=authorship.uid_seed,
        sources=tuple(_sources(result_set)),
        proposals=tuple(_proposals(result_set)),
    )


def _shown(result_set: ResultSet) -> list[Reference]:
    """Return every object that something on the pages comes from."""
    series_uids = dict.fromkeys(u for r in result_set.result.registrations for u in r.series_uids)
    return [
        *result_set.ct_references(),
        *result_set.moved_references(series_uids),
        Reference.of(result_set.sources.structure_set),
        *(Reference.of(ds) for ds in measured_objects(result_set)),
    ]


def _sources(result_set: ResultSet) -> list[Source]:
    case = result_set.result.case
    used = [
        Source("Planning CT", case.ct.series_instance_uid),
        Source("Structure set", case.structure_set.sop_instance_uid),
    ]
    used += [Source(_called("MR", image), image.series_instance_uid) for image in case.mr]
    used += [
        Source(_called(f"{image.role or 'further'} CT", image), image.series_instance_uid)
        for image in case.other_ct
    ]
    used += [
        Source(MODALITIES.get(str(ds.Modality), str(ds.Modality)), str(ds.SOPInstanceUID))
        for ds in measured_objects(result_set)
    ]
    return used


def _called(kind: str, image: Image) -> str:
    kind = kind[0].upper() + kind[1:]
    return f"{kind} {image.contrast}" if image.contrast else kind


def _proposals(result_set: ResultSet) -> list[Source]:
    made = [Source("New structure set", structure_set_reference(result_set).sop_instance_uid)]
    for number, registration in enumerate(result_set.result.registrations, start=1):
        uid = registration_reference(result_set, registration).sop_instance_uid
        made.append(Source(f"New registration {number}", uid))
    return made


def _name_in_words(ct: Dataset) -> str:
    """Return the patient's name as family name, then given names."""
    name = ct.get("PatientName", None)
    if not name:
        return ""
    family = str(getattr(name, "family_name", "") or "")
    given = [
        str(getattr(name, part, "") or "") for part in ("given_name", "middle_name", "name_suffix")
    ]
    rest = " ".join(each for each in given if each)
    words = ", ".join(each for each in (family, rest) if each)
    return words or str(name)


def _date(digits: str) -> str:
    """Return a DA as YYYY-MM-DD, and what is none as it is."""
    if len(digits) == 8 and digits.isdigit():
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    return digits
