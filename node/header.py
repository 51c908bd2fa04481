"""What the index knows of an object: the attributes by which cases are assembled.

Reads headers only. Never decodes pixel data, never judges whether an object is fit for computing
(that is `handlers.decode`); it refuses only what cannot be what its SOP class says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import uid

from node.attributes import Attributes, descend, distinct_uids, uid_of
from node.conformance import MANUFACTURER, MODALITY_OF
from node.element_reader import Encoded, encoded_from_file, read_elements
from node.errors import UnfitObjectError
from node.wanted_elements import wanted_elements

_INTEGER_STRING = re.compile(r"[0-9]{1,12}")
_CODE_STRING = re.compile(r"[ -~]{1,16}")
_LENIENT_UID = re.compile(r"[0-9.]{1,64}")
_LEGAL_UID = re.compile(r"(?=[0-9.]{1,64}\Z)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
"""PS3.5 9.1."""
_CHECKED = (
    "SpecificCharacterSet SOPClassUID SOPInstanceUID Modality PatientName PatientID "
    "PatientBirthDate StudyInstanceUID SeriesInstanceUID ImagePositionPatient "
    "ImageOrientationPatient FrameOfReferenceUID PixelSpacing"
)
_SCANNED = wanted_elements(_CHECKED, present="PixelData StructureSetROISequence")
_WANTED = wanted_elements(
    f"{_CHECKED} ImageType StudyDate AcquisitionDate Manufacturer SeriesDescription "
    "IssuerOfPatientID PatientSex NumberOfFrames Rows Columns StructureSetLabel "
    "LossyImageCompression",
    present="PixelData",
    StructureSetROISequence=wanted_elements("ROIName ReferencedFrameOfReferenceUID"),
    ReferencedFrameOfReferenceSequence=wanted_elements(
        "FrameOfReferenceUID",
        RTReferencedStudySequence=wanted_elements(
            "",
            RTReferencedSeriesSequence=wanted_elements(
                "SeriesInstanceUID", ContourImageSequence="ReferencedSOPInstanceUID"
            ),
        ),
    ),
    ROIContourSequence="ContourSequence ContourImageSequence ReferencedSOPInstanceUID",
    ReferencedRTPlanSequence="ReferencedSOPInstanceUID",
    ReferencedStructureSetSequence="ReferencedSOPInstanceUID",
    RegistrationSequence="FrameOfReferenceUID",
    DeformableRegistrationSequence="SourceFrameOfReferenceUID",
)
REFERRING_CLASSES = frozenset(
    {
        uid.RTStructureSetStorage,
        uid.RTDoseStorage,
        uid.RTPlanStorage,
        uid.RTIonPlanStorage,
        uid.SpatialRegistrationStorage,
        uid.DeformableSpatialRegistrationStorage,
    }
)
"""Their sequences join the objects of a case: damaged there, an object is of use to nobody."""

_CT_CLASSES = (
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
)
_IMAGE_CLASSES = (*_CT_CLASSES, uid.MRImageStorage, uid.EnhancedMRImageStorage)
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
        lossy_image_compression: Lossy Image Compression (0028,2110): "01" if the pixels went
            through a lossy compression at any time, "00" if not, or empty.
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
    lossy_image_compression: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a form that `json` can write."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "InstanceHeader":
        """Return the header that `to_json` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ScannedObject:
    """What the receiving side needs of an object before it answers.

    The patient's attributes are there for the log to hide, and empty where absent.
    """

    sop_class_uid: str
    sop_instance_uid: str
    patient_name: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)


def scan(
    encoded: Encoded, transfer_syntax_uid: str, *, size_bytes: int | None = None
) -> ScannedObject:
    """Make every check of a data set whose outcome its sender is told, quickly.

    Looks at the top level only: sequences of defined length are stepped over. What is damaged
    inside of them is found by `header_from_bytes`. Of a mapped file only the pages in which
    elements begin are touched.

    Args:
        encoded: The data set, without file meta information.
        transfer_syntax_uid: How it is encoded.
        size_bytes: Length of the data set, if `encoded` is only its beginning; see `read_elements`.

    Raises:
        UnreadableObjectError: It cannot be parsed, or ends early.
        UnfitObjectError: It lacks what its SOP class demands; every lack is named.
    """
    found = read_elements(encoded, transfer_syntax_uid, _SCANNED, size_bytes=size_bytes)
    _require_fit(found)
    return ScannedObject(
        sop_class_uid=found.uid("SOPClassUID"),
        sop_instance_uid=found.uid("SOPInstanceUID"),
        patient_name=found.text("PatientName"),
        patient_id=found.text("PatientID"),
        patient_birth_date=found.text("PatientBirthDate"),
    )


def header_from_bytes(encoded: Encoded, transfer_syntax_uid: str) -> InstanceHeader:
    """Return the header of a data set as a peer sends it, without file meta information.

    Looks into the sequences of which the header tells something.

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
    _require_fit(found)
    sop_class_uid = found.uid("SOPClassUID")
    frame_uid, series_uid, instance_uids = _references(found, sop_class_uid)
    frames = found.text("NumberOfFrames")
    return InstanceHeader(
        sop_instance_uid=found.uid("SOPInstanceUID"),
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        modality=_legal(found.text("Modality"), _CODE_STRING),
        study_instance_uid=found.uid("StudyInstanceUID"),
        series_instance_uid=found.uid("SeriesInstanceUID"),
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
        lossy_image_compression=found.text("LossyImageCompression"),
    )


def _require_fit(found: Attributes) -> None:
    """Refuse what cannot be what its SOP class says, and name all that it lacks."""
    sop_class_uid = found.uid("SOPClassUID")
    lacks = [
        *_bad_uid(found, "SOPClassUID", _LEGAL_UID),
        *_lacks_of_class(found, sop_class_uid),
        *_bad_uid(found, "SOPInstanceUID", _LEGAL_UID),
        *_bad_uid(found, "StudyInstanceUID", _LENIENT_UID),
        *_bad_uid(found, "SeriesInstanceUID", _LENIENT_UID),
    ]
    if lacks:
        raise UnfitObjectError("; ".join(lacks), hint="the sender must correct the object")


def _bad_uid(found: Attributes, keyword: str, legal: re.Pattern[str]) -> Iterable[str]:
    """Name a UID that is missing or illegal.

    The two that others refer to must be legal, the others free of other signs.
    """
    value = found.uid(keyword)
    if not legal.fullmatch(value):
        yield f"{keyword} is {'not a legal UID' if value else 'missing'}"


def _lacks_of_class(found: Attributes, sop_class_uid: str) -> Iterable[str]:
    """Name what the SOP class demands and the object lacks, and nothing that only computing needs.

    An MR without frame of reference passes: the physicist is told, not the scanner.
    """
    demanded = MODALITY_OF.get(sop_class_uid)
    if demanded and found.text("Modality") != demanded:  # kept classes may have any modality
        yield f"Modality is not {demanded}, as its SOP class demands"
    if sop_class_uid in _CT_CLASSES and not found.uid("FrameOfReferenceUID"):
        yield "FrameOfReferenceUID is missing"
    if sop_class_uid in _IMAGE_CLASSES and not found.values.get("PixelData"):
        yield "PixelData is missing"
    if sop_class_uid == uid.CTImageStorage:
        for keyword, count in _IMAGE_PLANE.items():
            if found.decimals(keyword, count) is None:
                yield f"{keyword} is missing or malformed"
    is_structure_set = sop_class_uid == uid.RTStructureSetStorage
    if is_structure_set and not found.values.get("StructureSetROISequence"):
        yield "StructureSetROISequence is missing or empty"


def _references(found: Attributes, sop_class_uid: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the frame of reference, the referenced series, and the referenced instances."""
    own_frame_uid = found.uid("FrameOfReferenceUID")
    kept = found.values.get
    if sop_class_uid == uid.RTDoseStorage:
        return own_frame_uid, "", distinct_uids(kept("ReferencedRTPlanSequence", ()))
    if sop_class_uid in (uid.RTPlanStorage, uid.RTIonPlanStorage):
        return own_frame_uid, "", distinct_uids(kept("ReferencedStructureSetSequence", ()))
    if sop_class_uid != uid.RTStructureSetStorage:
        return own_frame_uid, "", ()
    drawn = kept("ROIContourSequence", ())
    roi_frames = {
        uid_of(i, "ReferencedFrameOfReferenceUID") for i in found.items("StructureSetROISequence")
    }
    if len(roi_frames) == 1 and "" not in roi_frames:
        own_frame_uid = roi_frames.pop()
    series = [
        (one.get("ContourImageSequence", {}), frame, one)
        for frame in found.items("ReferencedFrameOfReferenceSequence")
        for one in descend([frame], ("RTReferencedStudySequence", "RTReferencedSeriesSequence"))
    ]
    if not series:
        return own_frame_uid, "", distinct_uids(drawn)
    _, frame, largest = max(series, key=lambda one: len(one[0]))
    return (
        own_frame_uid or uid_of(frame, "FrameOfReferenceUID"),
        _legal(uid_of(largest, "SeriesInstanceUID"), _LENIENT_UID),
        distinct_uids(*(listed for listed, _, _ in series), drawn),
    )


def _legal(text: str, form: re.Pattern[str]) -> str:
    """Return text that the index searches by; what no such value can be is absent."""
    return text if form.fullmatch(text) else ""


def _registered_frames(found: Attributes, sop_class_uid: str, own: str) -> tuple[str, ...]:
    if sop_class_uid == uid.SpatialRegistrationStorage:
        mapped = found.values.get("RegistrationSequence", {})
    elif sop_class_uid == uid.DeformableSpatialRegistrationStorage:
        mapped = found.values.get("DeformableRegistrationSequence", {})
    else:
        return ()
    return tuple(dict.fromkeys(one for one in (own, *distinct_uids(mapped)) if one))
