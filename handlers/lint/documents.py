"""Rules on reports, segmentations, pictures, presentation states and encapsulated documents."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import (
    AdvancedBlendingPresentationStateStorage,
    BlendingSoftcopyPresentationStateStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    PseudoColorSoftcopyPresentationStateStorage,
    SegmentationStorage,
)

from handlers.lint.reading import element, items, tag_of, text, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

_REPORTS = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
_STATES = (
    GrayscaleSoftcopyPresentationStateStorage,
    ColorSoftcopyPresentationStateStorage,
    PseudoColorSoftcopyPresentationStateStorage,
    BlendingSoftcopyPresentationStateStorage,
    AdvancedBlendingPresentationStateStorage,
)
_SEGMENTS = (SegmentationStorage,)

NO_VALUE = Rule(
    "sr.value-missing",
    Level.ERROR,
    "a content item has not the value that its value type asks for, or no concept name",
    "PS3.3 C.17.3.2",
    "write name and value of each content item",
    _REPORTS,
)
NOT_EVIDENCE = Rule(
    "sr.not-evidence",
    Level.ERROR,
    "an object that the content refers to is not listed as evidence",
    "PS3.3 C.17.2.3",
    "list it in Current Requested Procedure Evidence or Pertinent Other Evidence Sequence",
    _REPORTS,
)
UNVERIFIED = Rule(
    "sr.verified-by-nobody",
    Level.ERROR,
    "a report that is VERIFIED names no verifying observer",
    "PS3.3 C.17.2 (type 1C)",
    "write Verifying Observer Sequence, or UNVERIFIED",
    _REPORTS,
)
PRIVATE_SCHEME = Rule(
    "sr.scheme-unidentified",
    Level.WARNING,
    "codes of a private coding scheme are used, and nothing says whose they are",
    "PS3.3 C.12.1 (Coding Scheme Identification Sequence)",
    "identify each coding scheme that begins with 99",
    _REPORTS,
)
SEGMENT_NUMBERS = Rule(
    "seg.numbers",
    Level.ERROR,
    "segments are not numbered 1, 2, 3 and on",
    "PS3.3 C.8.20.2",
    "number the segments from 1, in steps of 1",
    _SEGMENTS,
)
SEGMENT_UNKNOWN = Rule(
    "seg.unknown-segment",
    Level.ERROR,
    "a frame belongs to a segment that is not described",
    "PS3.3 C.8.20.3.1",
    "name a Segment Number of Segment Sequence",
    _SEGMENTS,
)
SEGMENT_BITS = Rule(
    "seg.bits",
    Level.ERROR,
    "a BINARY segmentation is stored in 1 bit, a FRACTIONAL one in 8",
    "PS3.3 C.8.20.2",
    "write Bits Allocated, Bits Stored and High Bit 1, 1, 0 or 8, 8, 7",
    _SEGMENTS,
)
FRAME_COUNT = Rule(
    "frames.count",
    Level.ERROR,
    "there is not one item of Per-Frame Functional Groups for each frame",
    "PS3.3 C.7.6.16",
    "write an item for each frame",
)
NO_TARGET = Rule(
    "state.no-images",
    Level.ERROR,
    "a presentation state refers to no image",
    "PS3.3 C.11.11",
    "write the series and images that it shows",
    _STATES,
)
NOT_PDF = Rule(
    "pdf.not-pdf",
    Level.ERROR,
    "the encapsulated document does not begin as a PDF does",
    "PS3.3 C.24.2; ISO 32000-1 7.5.2",
    "encapsulate the PDF file as it is",
    (EncapsulatedPDFStorage,),
)

VALUE_OF = {
    "TEXT": "TextValue", "CODE": "ConceptCodeSequence", "NUM": "MeasuredValueSequence",
    "DATETIME": "DateTime", "DATE": "Date", "TIME": "Time", "UIDREF": "UID",
    "PNAME": "PersonName", "COMPOSITE": "ReferencedSOPSequence",
    "IMAGE": "ReferencedSOPSequence", "SCOORD": "GraphicType", "SCOORD3D": "GraphicType",
}  # fmt: skip
"""Attribute that holds the value of a content item, by Value Type (PS3.3 C.17.3.2)."""

NAMELESS = ("IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER")
"""Value types that need no concept name (PS3.3 C.17.3.2, type 1C)."""


@looks_for(NO_VALUE, NOT_EVIDENCE, UNVERIFIED, PRIVATE_SCHEME)
def report(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at a structured report."""
    evidence = set()
    for keyword in (
        "CurrentRequestedProcedureEvidenceSequence",
        "PertinentOtherEvidenceSequence",
    ):
        for study in items(subject.ds, keyword):
            for series in items(study, "ReferencedSeriesSequence"):
                evidence |= {
                    text(i, "ReferencedSOPInstanceUID")
                    for i in items(series, "ReferencedSOPSequence")
                }
    schemes: dict[str, Place] = {}
    for place, item in _content(subject.ds, Place()):
        yield from _value(item, place, evidence)
        for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
            for code in items(item, keyword):
                schemes.setdefault(text(code, "CodingSchemeDesignator"), place)
    told = items(subject.ds, "CodingSchemeIdentificationSequence")
    known = {text(item, "CodingSchemeDesignator") for item in told}
    for scheme, place in schemes.items():
        if scheme.startswith("99") and scheme not in known:
            yield Broken(place, rule=PRIVATE_SCHEME)
    is_verified = text(subject.ds, "VerificationFlag") == "VERIFIED"
    if is_verified and not items(subject.ds, "VerifyingObserverSequence"):
        yield Broken(Place.of("VerificationFlag"), rule=UNVERIFIED)


def _content(ds: Dataset, place: Place) -> Iterator[tuple[Place, Dataset]]:
    here = place.element(tag_of("ContentSequence"))
    for number, item in enumerate(items(ds, "ContentSequence"), start=1):
        yield here.item(number), item
        yield from _content(item, here.item(number))


def _value(item: Dataset, place: Place, evidence: set[str]) -> Iterator[Broken]:
    if "ReferencedContentItemIdentifier" in item:
        return  # by reference: the value stands elsewhere
    kind = text(item, "ValueType")
    wanted = VALUE_OF.get(kind)
    is_named = kind in NAMELESS or bool(items(item, "ConceptNameCodeSequence"))
    # a measurement may have no value, if it says why (type 2)
    if not is_named or (wanted is not None and wanted not in item) or not kind:
        yield Broken(place, kind if kind in VALUE_OF else "", NO_VALUE)
    if kind in ("IMAGE", "COMPOSITE"):
        for reference in items(item, "ReferencedSOPSequence"):
            if text(reference, "ReferencedSOPInstanceUID") not in evidence:
                yield Broken(place, rule=NOT_EVIDENCE)


@looks_for(SEGMENT_NUMBERS, SEGMENT_UNKNOWN, SEGMENT_BITS)
def segmentation(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at a segmentation."""
    numbers = [whole(item, "SegmentNumber") for item in items(subject.ds, "SegmentSequence")]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Broken(Place.of("SegmentSequence"), f"{len(numbers)} segments", SEGMENT_NUMBERS)
    told = [whole(subject.ds, k) for k in ("BitsAllocated", "BitsStored", "HighBit")]
    wanted = {"BINARY": [1, 1, 0], "FRACTIONAL": [8, 8, 7]}.get(
        text(subject.ds, "SegmentationType")
    )
    if wanted is not None and told != wanted:
        yield Broken(Place.of("BitsAllocated"), rule=SEGMENT_BITS)
    keyword = "PerFrameFunctionalGroupsSequence"
    for index, frame in enumerate(items(subject.ds, keyword), start=1):
        for segment in items(frame, "SegmentIdentificationSequence"):
            if whole(segment, "ReferencedSegmentNumber") not in numbers:
                yield Broken(Place.of(keyword, index), rule=SEGMENT_UNKNOWN)


@looks_for(FRAME_COUNT)
def frames(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Count frames and their functional groups."""
    held = len(items(subject.ds, "PerFrameFunctionalGroupsSequence"))
    told = whole(subject.ds, "NumberOfFrames")
    if held and told is not None and held != told:
        place = Place.of("PerFrameFunctionalGroupsSequence")
        yield Broken(place, f"{held} items, {told} frames")


@looks_for(NO_TARGET)
def presentation_state(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look for the images of a presentation state."""
    if not subject.referenced_instances:
        yield Broken(Place.of("ReferencedSeriesSequence"))


@looks_for(NOT_PDF)
def document(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the first bytes of an encapsulated document."""
    found = element(subject.ds, tag_of("EncapsulatedDocument"))
    if found is not None:
        value = subject.ds[found.tag].value or b""
        if bytes(value[:64]).lstrip()[:5] != b"%PDF-":
            yield Broken(Place.of("EncapsulatedDocument"), f"{len(value)} bytes")
