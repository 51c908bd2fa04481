"""What single planning systems refuse or misread, beyond the standard.

What nobody could confirm is told as such: no importer's source is open, and vendors' import guides
were not at hand. A rule without a read source is a warning.
"""

from collections.abc import Iterator

import numpy as np
from pydicom.uid import (
    CTImageStorage,
    DeformableSpatialRegistrationStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

from handlers.lint.reading import items, text, vector, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.structure_set import frames_of_rois
from handlers.lint.subject import Subject, Together

_SETS = (RTStructureSetStorage,)
_REGISTRATIONS = (SpatialRegistrationStorage, DeformableSpatialRegistrationStorage)

ECLIPSE_FRAMES = Rule(
    "eclipse.frames-several",
    Level.ERROR,
    "Eclipse takes one frame of reference in a structure set",
    "pymedphys/pymedphys#1950",
    "split the structure set by frame, and send the registration between them",
    _SETS,
    ("eclipse",),
)
ECLIPSE_NAME = Rule(
    "eclipse.name-length",
    Level.WARNING,
    "an ROI name has more than 16 characters: Eclipse cuts it, or asks",
    "AAPM TG-263 (names of at most 16 characters); that Eclipse cuts: general knowledge",
    "shorten the name",
    _SETS,
    ("eclipse",),
    is_confirmed=False,
)
ECLIPSE_SAME = Rule(
    "eclipse.name-not-unique",
    Level.WARNING,
    "two ROI names agree in their first 16 characters, ignoring case",
    "AAPM TG-263; general knowledge",
    "tell the ROIs apart in the first 16 characters",
    _SETS,
    ("eclipse",),
    is_confirmed=False,
)
ECLIPSE_STUDY_ID = Rule(
    "eclipse.study-id",
    Level.WARNING,
    "Study ID is empty; Varian's conformance statement asks for it",
    "pytrip/pytrip#255",
    "copy Study ID from the planning CT; if it has none, the department decides on one",
    (),
    ("eclipse",),
)
ECLIPSE_OBLIQUE = Rule(
    "eclipse.not-axial",
    Level.WARNING,
    "an image series is not axial; Eclipse wants axial images as secondary ones",
    "general knowledge",
    "resample on the grid of the planning CT",
    (CTImageStorage, MRImageStorage),
    ("eclipse",),
    is_confirmed=False,
)
RAYSTATION_EMPTY = Rule(
    "raystation.empty",
    Level.ERROR,
    "patient name, patient ID or the name of an ROI is empty: RayStation stops there",
    "pytrip/pytrip#266",
    "write a name and an ID",
    (),
    ("raystation",),
)
RAYSTATION_TYPE = Rule(
    "raystation.type-differs",
    Level.WARNING,
    "an ROI has the name of one in another structure set of the patient, but another type: "
    "RayStation renames it",
    "brianmanderson/Dicom_RT_and_Images_to_Mask#15",
    "copy RT ROI Interpreted Type from the source ROI, or give another name",
    _SETS,
    ("raystation",),
)
RAYSTATION_UNTYPED = Rule(
    "raystation.type-empty",
    Level.WARNING,
    "an ROI has no interpreted type: RayStation gives it one of its own",
    "brianmanderson/Dicom_RT_and_Images_to_Mask#15; general knowledge",
    "write RT ROI Interpreted Type",
    _SETS,
    ("raystation",),
    is_confirmed=False,
)
XOR = Rule(
    "tps.xor",
    Level.WARNING,
    "a contour is CLOSEDPLANAR_XOR, which older importers do not know",
    "PS3.3 C.8.8.6.3 (absent from the editions of 2018 and 2020); behaviour: general knowledge",
    'write holes as keyholes (`holes = "keyhole"`)',
    _SETS,
    ("eclipse", "raystation", "monaco", "pinnacle"),
    is_confirmed=False,
)
PINNACLE_REG = Rule(
    "pinnacle.registration-lost",
    Level.WARNING,
    "Pinnacle loses registrations of MR when it archives",
    "pymedphys/pymedphys#1811",
    "send the MR resampled on the CT's grid",
    _REGISTRATIONS,
    ("pinnacle",),
)
MONACO = Rule(
    "monaco.to-be-confirmed",
    Level.WARNING,
    "what Monaco refuses is not known to us beyond the standard",
    "Elekta LEDDCMFCLMON0001 (only its title page was read)",
    "import one result set on site, and tell us what was refused",
    _SETS,
    ("monaco",),
    is_confirmed=False,
)

NAME_LENGTH = 16
"""Longest ROI name that every planning system keeps (AAPM TG-263)."""

_ROI_NAMES = "StructureSetROISequence"


@looks_for(ECLIPSE_FRAMES, ECLIPSE_NAME, ECLIPSE_SAME)
def eclipse_structure_set(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at a structure set as Eclipse does."""
    frames = frames_of_rois(subject) | {
        text(item, "FrameOfReferenceUID")
        for item in items(subject.ds, "ReferencedFrameOfReferenceSequence")
    }
    if len(frames - {""}) > 1:
        place = Place.of("ReferencedFrameOfReferenceSequence")
        yield Broken(place, f"{len(frames - {''})} frames", ECLIPSE_FRAMES)
    seen: dict[str, str] = {}
    for index, item in enumerate(items(subject.ds, _ROI_NAMES), start=1):
        name = text(item, "ROIName")
        place = Place.of(_ROI_NAMES, index, "ROIName")
        if len(name) > NAME_LENGTH:
            yield Broken(place, f"{len(name)} characters", ECLIPSE_NAME)
        short = name[:NAME_LENGTH].casefold()
        if short and seen.get(short, name.casefold()) != name.casefold():
            yield Broken(place, f"ROI {whole(item, 'ROINumber')}", ECLIPSE_SAME)
        seen.setdefault(short, name.casefold())


@looks_for(ECLIPSE_STUDY_ID)
def eclipse_study(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look for the Study ID, once in each series."""
    if together.leads(subject) and not text(subject.ds, "StudyID"):
        yield Broken(Place.of("StudyID"))


@looks_for(ECLIPSE_OBLIQUE)
def eclipse_images(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look whether a series is axial."""
    axes = vector(subject.ds, "ImageOrientationPatient", 6)
    if axes is None or not together.leads(subject):
        return
    if np.abs(np.cross(axes[:3], axes[3:])[:2]).max() > 1e-3:
        yield Broken(Place.of("ImageOrientationPatient"))


@looks_for(RAYSTATION_EMPTY)
def raystation_texts(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look for empty texts on which RayStation stops."""
    if together.leads(subject):
        for keyword in ("PatientName", "PatientID"):
            if not text(subject.ds, keyword):
                yield Broken(Place.of(keyword))
    if subject.sop_class_uid == RTStructureSetStorage:
        for index, item in enumerate(items(subject.ds, _ROI_NAMES), start=1):
            if not text(item, "ROIName"):
                yield Broken(Place.of(_ROI_NAMES, index, "ROIName"))


@looks_for(RAYSTATION_TYPE, RAYSTATION_UNTYPED)
def raystation_types(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Compare the types of ROIs that have one name."""
    own = _types(subject)
    for name, (index, kind) in own.items():
        place = Place.of("RTROIObservationsSequence", index, "RTROIInterpretedType")
        if not kind:
            yield Broken(place, rule=RAYSTATION_UNTYPED)
        for other in together.of_class(RTStructureSetStorage):
            if other is subject or text(other.ds, "PatientID") != text(subject.ds, "PatientID"):
                continue
            theirs = _types(other).get(name)
            if theirs is not None and theirs[1] != kind:
                yield Broken(place, rule=RAYSTATION_TYPE)
                break


@looks_for(XOR)
def exclusive_or(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look for contours of the newer type, once in each ROI."""
    seen = set()
    for contour in subject.contours:
        if contour.kind == "CLOSEDPLANAR_XOR" and contour.roi not in seen:
            seen.add(contour.roi)
            yield Broken(contour.place, f"ROI {contour.roi}")


@looks_for(PINNACLE_REG)
def pinnacle(_subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Tell what becomes of any registration."""
    yield Broken(Place.of("SOPClassUID"))


@looks_for(MONACO)
def monaco(_subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Tell that the profile rests on no text: nothing more can be looked for."""
    yield NotChecked("Monaco's own rules: import one result set on site")


def _types(subject: Subject) -> dict[str, tuple[int, str]]:
    """Return by folded ROI name: item of the observation, and interpreted type."""
    name_of = {
        whole(item, "ROINumber"): text(item, "ROIName").casefold()
        for item in items(subject.ds, _ROI_NAMES)
    }
    found: dict[str, tuple[int, str]] = {}
    for index, item in enumerate(items(subject.ds, "RTROIObservationsSequence"), start=1):
        name = name_of.get(whole(item, "ReferencedROINumber"), "")
        if name:
            found.setdefault(name, (index, text(item, "RTROIInterpretedType")))
    return found
