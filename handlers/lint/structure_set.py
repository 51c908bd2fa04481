"""Rules on an RT Structure Set by itself: its lists of ROIs agree, it names its images."""

from collections import Counter
from collections.abc import Iterator

from pydicom.uid import RTStructureSetStorage

from handlers.lint.reading import items, text, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

_SETS = (RTStructureSetStorage,)

NUMBERS = Rule(
    "roi.number-not-unique",
    Level.ERROR,
    "two ROIs have the same number",
    "PS3.3 C.8.8.5",
    "number the ROIs anew, in all three sequences",
    _SETS,
)
UNKNOWN_ROI = Rule(
    "roi.unknown",
    Level.ERROR,
    "contours or an observation belong to an ROI that is not in the structure set",
    "PS3.3 C.8.8.6, C.8.8.8",
    "name an ROI Number of Structure Set ROI Sequence",
    _SETS,
)
UNOBSERVED = Rule(
    "roi.unobserved",
    Level.WARNING,
    "an ROI has no observation: importers do not learn its type",
    "PS3.3 C.8.8.8",
    "write one item of RT ROI Observations Sequence for each ROI",
    _SETS,
)
NAMELESS = Rule(
    "roi.name-empty",
    Level.WARNING,
    "an ROI has no name",
    "PS3.3 C.8.8.5 (type 2); pytrip/pytrip#266",
    "give each ROI a name",
    _SETS,
)
SAME_NAME = Rule(
    "roi.name-not-unique",
    Level.WARNING,
    "two ROIs have the same name, ignoring case and spaces around it",
    "AAPM TG-263; brianmanderson/Dicom_RT_and_Images_to_Mask#15",
    "give each ROI a name of its own",
    _SETS,
)
NO_CONTOUR = Rule(
    "roi.no-contour",
    Level.WARNING,
    "an ROI has no contour: some readers stop there",
    "e0404/matRad#529, #910",
    "leave out ROIs in which nothing is drawn",
    _SETS,
)
UNKNOWN_FRAME = Rule(
    "roi.frame-unknown",
    Level.ERROR,
    "an ROI lies in a frame of reference that the structure set does not list",
    "PS3.3 C.8.8.5; qurit/rt-utils#29",
    "list the frame in Referenced Frame of Reference Sequence, with its images",
    _SETS,
)
FRAMES = Rule(
    "struct.frames-several",
    Level.WARNING,
    "the structure set spans several frames of reference",
    "pymedphys/pymedphys#1950",
    "write one structure set for each frame of reference",
    _SETS,
)
NO_IMAGES = Rule(
    "struct.no-images",
    Level.WARNING,
    "the structure set does not list the images it was drawn on",
    "PS3.3 C.8.8.5; pytrip/pytrip#188",
    "list every slice of the planning CT in Contour Image Sequence (3006,0016)",
    _SETS,
)
NO_REFERENCE = Rule(
    "contour.no-image",
    Level.WARNING,
    "a contour does not name the slice it was drawn on",
    "PS3.3 C.8.8.6; pytrip/pytrip#188; OHIF/Viewers#2102",
    "write Contour Image Sequence with the slice in each contour",
    _SETS,
)
NOT_LISTED = Rule(
    "contour.image-not-listed",
    Level.WARNING,
    "a contour names a slice that the structure set does not list",
    "PS3.3 C.8.8.5; OHIF/Viewers#1782",
    "name the slice of the listed series, or list its series",
    _SETS,
)
UNREVIEWED = Rule(
    "approval.incomplete",
    Level.ERROR,
    "an approved or rejected object does not say who reviewed it, and when",
    "PS3.3 C.8.8.16 (type 2C)",
    "write Review Date, Review Time and Reviewer Name, or UNAPPROVED",
)


@looks_for(NUMBERS, UNKNOWN_ROI, UNOBSERVED)
def roi_numbers(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Compare the ROI numbers of the three sequences."""
    told = [whole(i, "ROINumber") for i in items(subject.ds, "StructureSetROISequence")]
    for number, count in Counter(told).items():
        if count > 1:
            place = Place.of("StructureSetROISequence", told.index(number) + 1, "ROINumber")
            yield Broken(place, f"ROI {number}", NUMBERS)
    observed = set()
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        for index, item in enumerate(items(subject.ds, keyword), start=1):
            number = whole(item, "ReferencedROINumber")
            if keyword == "RTROIObservationsSequence":
                observed.add(number)
            if number not in told:
                place = Place.of(keyword, index, "ReferencedROINumber")
                yield Broken(place, f"ROI {number}", UNKNOWN_ROI)
    for index, number in enumerate(told, start=1):
        if number not in observed:
            place = Place.of("StructureSetROISequence", index)
            yield Broken(place, f"ROI {number}", UNOBSERVED)


@looks_for(NAMELESS, SAME_NAME, NO_CONTOUR)
def roi_names(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look for ROIs without a name, with another's, or without a contour."""
    drawn = {contour.roi for contour in subject.contours}
    seen: dict[str, int] = {}
    for index, item in enumerate(items(subject.ds, "StructureSetROISequence"), start=1):
        number = whole(item, "ROINumber")
        name = text(item, "ROIName").casefold()
        place = Place.of("StructureSetROISequence", index, "ROIName")
        if not name:
            yield Broken(place, f"ROI {number}", NAMELESS)
        elif name in seen:
            yield Broken(place, f"ROI {number}, as item {seen[name]}", SAME_NAME)
        seen.setdefault(name, index)
        if number not in drawn:
            yield Broken(Place.of("StructureSetROISequence", index), f"ROI {number}", NO_CONTOUR)


@looks_for(UNKNOWN_FRAME, FRAMES, NO_IMAGES)
def frames(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the frames of reference that are listed, and at those of the ROIs."""
    listed = [
        text(item, "FrameOfReferenceUID")
        for item in items(subject.ds, "ReferencedFrameOfReferenceSequence")
    ]
    used = frames_of_rois(subject)
    if len(set(listed) | used) > 1:
        count = f"{len(set(listed) | used)} frames"
        yield Broken(Place.of("ReferencedFrameOfReferenceSequence"), count, FRAMES)
    if not any(subject.listed_images.values()):
        yield Broken(Place.of("ReferencedFrameOfReferenceSequence"), rule=NO_IMAGES)
    if listed:
        for index, item in enumerate(items(subject.ds, "StructureSetROISequence"), start=1):
            frame = text(item, "ReferencedFrameOfReferenceUID")
            if frame and frame not in listed:
                place = Place.of("StructureSetROISequence", index, "ReferencedFrameOfReferenceUID")
                yield Broken(place, f"ROI {whole(item, 'ROINumber')}", UNKNOWN_FRAME)


@looks_for(NO_REFERENCE, NOT_LISTED)
def contour_images(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the slices that contours name."""
    listed = {uid for images in subject.listed_images.values() for uid in images}
    for contour in subject.contours:
        if not contour.images and contour.kind != "POINT":
            yield Broken(contour.place, rule=NO_REFERENCE)
        elif listed and not listed.issuperset(contour.images):
            place = Place((*contour.place.steps, *Place.of("ContourImageSequence").steps))
            yield Broken(place, rule=NOT_LISTED)


@looks_for(UNREVIEWED)
def approval(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look whether a review that is claimed is told."""
    if text(subject.ds, "ApprovalStatus") in ("APPROVED", "REJECTED"):
        for keyword in ("ReviewDate", "ReviewTime", "ReviewerName"):
            if keyword not in subject.ds:
                yield Broken(Place.of(keyword))


def frames_of_rois(subject: Subject) -> set[str]:
    """Return the frames of reference that a structure set's ROIs name."""
    sequence = items(subject.ds, "StructureSetROISequence")
    return {text(item, "ReferencedFrameOfReferenceUID") for item in sequence} - {""}
