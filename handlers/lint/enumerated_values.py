"""Attributes whose values the standard enumerates, as one table, and the rules that read it.

Enumerated values admit no others; of defined terms (also in the table) a sender may add its own,
which importers then do not know.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeformableSpatialRegistrationStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
)

from handlers.lint.reading import element, items, numbers, tag_of, texts, vr_of
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

NOT_ENUMERATED = Rule(
    "value.enumerated",
    Level.ERROR,
    "a value is none of those that the standard enumerates for this attribute",
    "PS3.3, the module of the attribute",
    "write one of the enumerated values",
)
NOT_DEFINED = Rule(
    "value.defined-term",
    Level.WARNING,
    "a value is none of the standard's defined terms: importers may not know it",
    "PS3.3, the module of the attribute",
    "write a defined term where one fits",
)


@dataclass(frozen=True, slots=True)
class Values:
    """What one attribute may be.

    Attributes:
        path: Keywords of the sequences around it.
        values: What it may be; numbers as text.
        position: Which value of several is meant, from 0; None: each.
        objects: SOP Class UIDs; none: every object.
        is_closed: Enumerated values; otherwise defined terms.
    """

    keyword: str
    values: frozenset[str]
    path: tuple[str, ...] = ()
    position: int | None = None
    objects: tuple[str, ...] = ()
    is_closed: bool = True


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PLANES = (CTImageStorage, MRImageStorage)
_REPORTS = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
_SETS = (RTStructureSetStorage,)
_MATRIX = ("MatrixRegistrationSequence", "MatrixSequence")

TABLE: tuple[Values, ...] = (
    # PS3.3 C.7.3.1 and the series modules: the modality of an object
    Values("Modality", _set("CT"), objects=(CTImageStorage,)),
    Values("Modality", _set("MR"), objects=(MRImageStorage,)),
    Values("Modality", _set("RTSTRUCT"), objects=_SETS),
    Values("Modality", _set("RTDOSE"), objects=(RTDoseStorage,)),
    Values("Modality", _set("REG"), objects=(SpatialRegistrationStorage,)),
    Values("Modality", _set("REG"), objects=(DeformableSpatialRegistrationStorage,)),
    Values("Modality", _set("SR"), objects=_REPORTS),
    Values("Modality", _set("SEG"), objects=(SegmentationStorage,)),
    # C.7.1.1, C.7.6.1, C.7.6.3
    Values("PatientSex", _set("M F O")),
    Values("ImageType", _set("ORIGINAL DERIVED"), position=0),
    Values("ImageType", _set("PRIMARY SECONDARY"), position=1),
    Values("PixelRepresentation", _set("0 1")),
    Values("PlanarConfiguration", _set("0 1")),
    Values("LossyImageCompression", _set("00 01")),
    Values("BurnedInAnnotation", _set("YES NO")),
    Values("PhotometricInterpretation", _set("MONOCHROME1 MONOCHROME2"), objects=_PLANES),
    # C.7.3.1.1.2
    Values(
        "PatientPosition",
        _set("HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL"),
        is_closed=False,
    ),
    # C.8.3.1
    Values("ScanningSequence", _set("SE IR GR EP RM"), objects=(MRImageStorage,)),
    Values(
        "SequenceVariant",
        _set("SK MTC SS TRSS SP MP OSP NONE"),
        objects=(MRImageStorage,),
        is_closed=False,
    ),
    Values("MRAcquisitionType", _set("2D 3D"), objects=(MRImageStorage,)),
    # C.8.8.5, C.8.8.6, C.8.8.8, C.8.8.16
    Values(
        "ROIGenerationAlgorithm",
        _set("AUTOMATIC SEMIAUTOMATIC MANUAL"),
        ("StructureSetROISequence",),
        objects=_SETS,
        is_closed=False,
    ),
    Values(
        "ContourGeometricType",
        _set("POINT OPEN_PLANAR OPEN_NONPLANAR CLOSED_PLANAR CLOSEDPLANAR_XOR"),
        ("ROIContourSequence", "ContourSequence"),
        objects=_SETS,
    ),
    Values(
        "RTROIInterpretedType",
        _set(
            "EXTERNAL PTV CTV GTV TREATED_VOLUME IRRAD_VOLUME BOLUS AVOIDANCE ORGAN MARKER "
            "REGISTRATION ISOCENTER CONTRAST_AGENT CAVITY BRACHY_CHANNEL BRACHY_ACCESSORY "
            "BRACHY_SRC_APP BRACHY_CHNL_SHLD SUPPORT FIXATION DOSE_REGION CONTROL "
            "DOSE_MEASUREMENT"
        ),
        ("RTROIObservationsSequence",),
        objects=_SETS,
        is_closed=False,
    ),
    Values("ApprovalStatus", _set("APPROVED UNAPPROVED REJECTED")),
    # C.8.8.3
    Values("DoseUnits", _set("GY RELATIVE"), objects=(RTDoseStorage,)),
    Values("DoseType", _set("PHYSICAL EFFECTIVE ERROR"), objects=(RTDoseStorage,), is_closed=False),
    Values(
        "DoseSummationType",
        _set(
            "PLAN MULTI_PLAN PLAN_OVERVIEW FRACTION BEAM BRACHY FRACTION_SESSION BEAM_SESSION "
            "BRACHY_SESSION CONTROL_POINT RECORD"
        ),
        objects=(RTDoseStorage,),
        is_closed=False,
    ),
    # C.20.2, C.20.3
    Values(
        "FrameOfReferenceTransformationMatrixType",
        _set("RIGID RIGID_SCALE AFFINE"),
        ("RegistrationSequence", *_MATRIX),
        objects=(SpatialRegistrationStorage,),
    ),
    *(
        Values(
            "FrameOfReferenceTransformationMatrixType",
            _set("RIGID RIGID_SCALE AFFINE"),
            ("DeformableRegistrationSequence", f"{when}DeformationMatrixRegistrationSequence"),
            objects=(DeformableSpatialRegistrationStorage,),
        )
        for when in ("Pre", "Post")
    ),
    # C.17.2
    Values("CompletionFlag", _set("PARTIAL COMPLETE"), objects=_REPORTS),
    Values("VerificationFlag", _set("VERIFIED UNVERIFIED"), objects=_REPORTS),
    Values("ValueType", _set("CONTAINER"), objects=_REPORTS),
    # C.8.20.2, C.8.6, C.24.2
    Values("SegmentationType", _set("BINARY FRACTIONAL"), objects=(SegmentationStorage,)),
    Values("PhotometricInterpretation", _set("MONOCHROME2"), objects=(SegmentationStorage,)),
    Values(
        "SamplesPerPixel", _set("3"), objects=(MultiFrameTrueColorSecondaryCaptureImageStorage,)
    ),
    Values(
        "MIMETypeOfEncapsulatedDocument",
        _set("application/pdf"),
        objects=(EncapsulatedPDFStorage,),
    ),
)
"""Enumerated values and defined terms of the attributes on which importers act."""


@looks_for(NOT_ENUMERATED, NOT_DEFINED)
def enumerated_values(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Compare the object with the table."""
    for row in TABLE:
        if row.objects and subject.sop_class_uid not in row.objects:
            continue
        for place, ds in _at(subject.ds, row.path, Place()):
            told = _values(ds, row.keyword)
            if row.position is not None:
                told = told[row.position : row.position + 1]
            if any(value and value not in row.values for value in told):
                rule = NOT_ENUMERATED if row.is_closed else NOT_DEFINED
                yield Broken(place.element(tag_of(row.keyword)), rule=rule)


def _at(ds: Dataset, path: tuple[str, ...], place: Place) -> Iterator[tuple[Place, Dataset]]:
    if not path:
        yield place, ds
        return
    here = place.element(tag_of(path[0]))
    for number, item in enumerate(items(ds, path[0]), start=1):
        yield from _at(item, path[1:], here.item(number))


def _values(ds: Dataset, keyword: str) -> list[str]:
    found = element(ds, tag_of(keyword))
    if found is None:
        return []
    if vr_of(found) in ("US", "SS", "UL", "SL"):
        told = numbers(ds, keyword)
        return [] if told is None else [str(int(value)) for value in told]
    return texts(ds, keyword)
