"""What the index knows of an object: the attributes by which cases are assembled.

Reads headers only. Never decodes pixel data, never judges whether an object is fit for computing
(that is `handlers.decode`); it refuses only what cannot be what its SOP class says.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.uid import RE_VALID_UID

from node.conformance import MANUFACTURER, MODALITY_OF
from node.element_reader import (
    Attributes,
    Values,
    descend,
    encoded_from_file,
    read_elements,
    uid_of,
    wanted_elements,
)
from node.errors import UnfitObjectError

_INTEGER_STRING = re.compile(r"[0-9]{1,12}")
_LENIENT_UID = re.compile(r"[0-9.]{1,64}")
_WANTED = wanted_elements(
    "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence "
    "ContourImageSequence StructureSetROISequence ROIContourSequence ContourSequence "
    "ReferencedRTPlanSequence ReferencedStructureSetSequence RegistrationSequence "
    "DeformableRegistrationSequence "
    "SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate AcquisitionDate "
    "Modality Manufacturer SeriesDescription PatientName PatientID IssuerOfPatientID "
    "PatientBirthDate PatientSex StudyInstanceUID SeriesInstanceUID ImagePositionPatient "
    "ImageOrientationPatient FrameOfReferenceUID NumberOfFrames Rows Columns PixelSpacing "
    "ReferencedSOPInstanceUID ROIName ReferencedFrameOfReferenceUID SourceFrameOfReferenceUID "
    "StructureSetLabel"
)
_CT_CLASSES = (
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
)
_MR_CLASSES = (uid.MRImageStorage, uid.EnhancedMRImageStorage)
_IMAGE_PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
"""Type 1 in the Image Plane module (PS3.3 C.7.6.2), with their number of values."""


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """The header of one SOP instance. Absent values are empty strings or None, never guessed.

    Attributes:
        study_date: YYYYMMDD as sent, or empty; `acquisition_date` likewise.
        frame_of_reference_uid: Structure set: the frame that its contours are drawn in.
        position_mm: Image Position (Patient), or None.
        orientation: Image Orientation (Patient), six cosines, or None.
        pixel_spacing_mm: Row and column spacing, or None.
        referenced_series_uid: Structure set: the image series it was drawn on, or empty.
        referenced_sop_instance_uids: Structure set: the image instances that it lists or that a
            contour names. Dose: the plan. Plan: the structure set.
        roi_names: Structure set: ROI names in order.
        registered_frame_uids: Registration: the frames of reference it maps, its own first.
        is_ours: Made by Hilum (equipment module).
        structure_set_label: Structure set: Structure Set Label, or empty.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str = field(default="", repr=False)
    issuer_of_patient_id: str = field(default="", repr=False)
    patient_name: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = ""
    series_description: str = ""
    study_date: str = ""
    acquisition_date: str = ""
    frame_of_reference_uid: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    position_mm: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    image_type: tuple[str, ...] = ()
    referenced_series_uid: str = ""
    referenced_sop_instance_uids: tuple[str, ...] = ()
    roi_names: tuple[str, ...] = ()
    registered_frame_uids: tuple[str, ...] = ()
    is_ours: bool = False
    structure_set_label: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a form that `json` can write."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "InstanceHeader":
        """Return the header that `to_json` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document.items()
        }
        return cls(**values)


def header_from_bytes(encoded: bytes, transfer_syntax_uid: str) -> InstanceHeader:
    """Return the header of a data set as a peer sends it, without file meta information.

    Args:
        encoded: The data set.
        transfer_syntax_uid: How it is encoded.

    Raises:
        UnreadableObjectError: It cannot be parsed, or ends early.
        UnfitObjectError: It lacks what its SOP class demands; every lack is named.
    """
    return _header(read_elements(encoded, transfer_syntax_uid, _WANTED), transfer_syntax_uid)


def header_from_file(path: Path) -> InstanceHeader:
    """Return the header of a DICOM file (PS3.10); errors as of `header_from_bytes`."""
    transfer_syntax_uid, encoded = encoded_from_file(path)
    return header_from_bytes(encoded, transfer_syntax_uid)


def _header(found: Attributes, transfer_syntax_uid: str) -> InstanceHeader:
    lacks: list[str] = []
    sop_class_uid = _requireduid_of(found, "SOPClassUID", lacks)
    modality = found.text("Modality")
    _check_class(found, sop_class_uid, modality, lacks)
    frame_uid, series_uid, instance_uids = _references(found, sop_class_uid)
    sop_instance_uid = _requireduid_of(found, "SOPInstanceUID", lacks)
    study_uid = _requireduid_of(found, "StudyInstanceUID", lacks)
    own_series_uid = _requireduid_of(found, "SeriesInstanceUID", lacks)
    if lacks:
        raise UnfitObjectError("; ".join(lacks), hint="the sender must correct the object")
    frames = found.text("NumberOfFrames")
    return InstanceHeader(
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        modality=modality,
        study_instance_uid=study_uid,
        series_instance_uid=own_series_uid,
        patient_id=found.text("PatientID"),
        issuer_of_patient_id=found.text("IssuerOfPatientID"),
        patient_name=found.text("PatientName"),
        patient_birth_date=found.text("PatientBirthDate"),
        patient_sex=found.text("PatientSex"),
        series_description=found.text("SeriesDescription"),
        study_date=found.text("StudyDate"),
        acquisition_date=found.text("AcquisitionDate"),
        frame_of_reference_uid=frame_uid,
        rows=found.number("Rows"),
        columns=found.number("Columns"),
        number_of_frames=int(frames) if _INTEGER_STRING.fullmatch(frames) else 1,
        position_mm=found.decimals("ImagePositionPatient", 3),
        orientation=found.decimals("ImageOrientationPatient", 6),
        pixel_spacing_mm=found.decimals("PixelSpacing", 2),
        image_type=tuple(part.strip() for part in found.text("ImageType").split("\\") if part),
        referenced_series_uid=series_uid,
        referenced_sop_instance_uids=instance_uids,
        roi_names=tuple(found.text("ROIName", i) for i in found.items("StructureSetROISequence")),
        registered_frame_uids=_registered_frames(found, sop_class_uid, frame_uid),
        is_ours=found.text("Manufacturer") == MANUFACTURER,
        structure_set_label=found.text("StructureSetLabel"),
    )


def _requireduid_of(found: Attributes, keyword: str, lacks: list[str]) -> str:
    """Return a UID; the two that others refer to must be legal, the others free of other signs."""
    value = found.uid(keyword)
    is_legal = bool(_LENIENT_UID.fullmatch(value))
    if keyword.startswith("SOP"):
        is_legal = is_legal and re.fullmatch(RE_VALID_UID, value) is not None
    if not is_legal:
        lacks.append(f"{keyword} is {'not a legal UID' if value else 'missing'}")
    return value


def _check_class(found: Attributes, sop_class_uid: str, modality: str, lacks: list[str]) -> None:
    """Name what the SOP class demands and the object lacks, and nothing that only computing needs.

    An MR without frame of reference passes: the physicist is told, not the scanner.
    """
    demanded = MODALITY_OF.get(sop_class_uid)
    if demanded is not None and modality != demanded:
        lacks.append(f"Modality is not {demanded}, as its SOP class demands")
    if sop_class_uid in _CT_CLASSES and not found.uid("FrameOfReferenceUID"):
        lacks.append("FrameOfReferenceUID is missing")
    if sop_class_uid in (*_CT_CLASSES, *_MR_CLASSES) and "PixelData" not in found.values:
        lacks.append("PixelData is missing")
    if sop_class_uid == uid.CTImageStorage:
        lacks += [
            f"{keyword} is missing or malformed"
            for keyword, count in _IMAGE_PLANE.items()
            if found.decimals(keyword, count) is None
        ]
    if sop_class_uid == uid.RTStructureSetStorage and not found.items("StructureSetROISequence"):
        lacks.append("StructureSetROISequence is missing or empty")


def _references(found: Attributes, sop_class_uid: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the frame of reference, the referenced series, and the referenced instances."""
    own_frame_uid = found.uid("FrameOfReferenceUID")
    if sop_class_uid == uid.RTDoseStorage:
        return own_frame_uid, "", _named(found.items("ReferencedRTPlanSequence"))
    if sop_class_uid in (uid.RTPlanStorage, uid.RTIonPlanStorage):
        return own_frame_uid, "", _named(found.items("ReferencedStructureSetSequence"))
    if sop_class_uid != uid.RTStructureSetStorage:
        return own_frame_uid, "", ()
    series = [
        (len(one.get("ContourImageSequence", ())), frame, one)
        for frame in found.items("ReferencedFrameOfReferenceSequence")
        for one in descend([frame], ("RTReferencedStudySequence", "RTReferencedSeriesSequence"))
    ]
    listed = descend((one for _, _, one in series), ("ContourImageSequence",))
    drawn = found.items("ROIContourSequence", "ContourSequence", "ContourImageSequence")
    roi_frames = {
        uid_of(i, "ReferencedFrameOfReferenceUID") for i in found.items("StructureSetROISequence")
    }
    if len(roi_frames) == 1 and "" not in roi_frames:
        own_frame_uid = roi_frames.pop()
    if not series:
        return own_frame_uid, "", _named(drawn)
    _, frame, largest = max(series, key=lambda one: one[0])
    return (
        own_frame_uid or uid_of(frame, "FrameOfReferenceUID"),
        uid_of(largest, "SeriesInstanceUID"),
        _named([*listed, *drawn]),
    )


def _named(items: Iterable[Values]) -> tuple[str, ...]:
    """Return the instances that items refer to, each once, in order."""
    uids = (uid_of(item, "ReferencedSOPInstanceUID") for item in items)
    return tuple(dict.fromkeys(one for one in uids if one))


def _registered_frames(found: Attributes, sop_class_uid: str, own: str) -> tuple[str, ...]:
    if sop_class_uid == uid.SpatialRegistrationStorage:
        mapped = [uid_of(i, "FrameOfReferenceUID") for i in found.items("RegistrationSequence")]
    elif sop_class_uid == uid.DeformableSpatialRegistrationStorage:
        items = found.items("DeformableRegistrationSequence")
        mapped = [uid_of(i, "SourceFrameOfReferenceUID") for i in items]
    else:
        return ()
    return tuple(dict.fromkeys(one for one in (own, *mapped) if one))
