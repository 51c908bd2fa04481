"""Rules on an RT Structure Set beside the images it was drawn on: frame, study, slices, field."""

from collections.abc import Iterator

import numpy as np
from pydicom.uid import RTStructureSetStorage

from handlers.lint.reading import text
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.structure_set import frames_of_rois
from handlers.lint.subject import Stack, Subject, Together

_SETS = (RTStructureSetStorage,)

OTHER_FRAME = Rule(
    "struct.frame-differs",
    Level.ERROR,
    "no ROI lies in the frame of reference of the images it was drawn on",
    "PS3.3 C.8.8.5; qurit/rt-utils#29; OHIF/Viewers#3537",
    "copy Frame of Reference UID from the planning CT, everywhere",
    _SETS,
)
OTHER_STUDY = Rule(
    "struct.study-differs",
    Level.WARNING,
    "the structure set is in another study than its images: some importers do not find them",
    "pytrip/pytrip#254, #266; OHIF/Viewers#1782",
    "copy Study Instance UID from the planning CT",
    _SETS,
)
ABSENT_IMAGE = Rule(
    "contour.image-absent",
    Level.ERROR,
    "a contour names a slice that its series does not have",
    "PS3.3 C.8.8.6; pytrip/pytrip#188",
    "name the slice on whose plane the contour lies",
    _SETS,
)
OTHER_SLICE = Rule(
    "contour.wrong-slice",
    Level.ERROR,
    "a contour names another slice than the one on whose plane it lies",
    "PS3.3 C.8.8.6",
    "name the slice on whose plane the contour lies",
    _SETS,
)
OFF_SLICE = Rule(
    "contour.off-slice",
    Level.WARNING,
    "a contour lies on no slice: readers move it to one, or drop it",
    "PS3.3 C.8.8.6; e0404/matRad#910",
    "write contours at the positions of the slices",
    _SETS,
)
OUTSIDE = Rule(
    "contour.outside-image",
    Level.WARNING,
    "points of a contour lie outside the images",
    "PS3.3 C.7.6.2; microsoft/InnerEye-DICOM-RT#6",
    "cut the contour at the edge, or check position and orientation of the images",
    _SETS,
)

ON_SLICE_MM = 0.1
"""How far off its slice a contour counts as lying on it: coarsest rounding in use."""

EDGE_VOXELS = 1.0
"""How far outside the outermost voxel centres a point still counts as inside."""


@looks_for(OTHER_FRAME, OTHER_STUDY, ABSENT_IMAGE, OTHER_SLICE, OFF_SLICE, OUTSIDE)
def on_images(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Compare a structure set with each series it was drawn on, as far as that was given."""
    listed = set(subject.listed_images)
    held = {uid: together.stacks[uid] for uid in listed if uid in together.stacks}
    if not held:
        yield NotChecked("contours beside their images: give the CT too")
        return
    for stack in held.values():
        image = stack.subjects[0]
        frames = frames_of_rois(subject)
        if frames and image.frame_uid not in frames:
            place = Place.of("StructureSetROISequence", 1, "ReferencedFrameOfReferenceUID")
            yield Broken(place, rule=OTHER_FRAME)
        if text(image.ds, "StudyInstanceUID") != text(subject.ds, "StudyInstanceUID"):
            yield Broken(Place.of("StudyInstanceUID"), rule=OTHER_STUDY)
    series_of = {s.sop_instance_uid: uid for uid, stack in held.items() for s in stack.subjects}
    for uid in held:
        if subject.listed_images[uid] - series_of.keys():
            absent = len(subject.listed_images[uid] - series_of.keys())
            yield NotChecked(f"{absent} listed images: give the whole CT")
    yield from _contours(subject, held, series_of)


def _contours(
    subject: Subject, held: dict[str, Stack], series_of: dict[str, str]
) -> Iterator[Broken | NotChecked]:
    listed = {uid for images in subject.listed_images.values() for uid in images}
    is_all_given = listed <= series_of.keys() and len(held) == len(subject.listed_images)
    only = next(iter(held.values())) if len(held) == 1 else None
    at_mm = {
        s.sop_instance_uid: depth
        for stack in held.values()
        for s, depth in zip(stack.subjects, stack.at_mm, strict=True)
    }
    for contour in subject.contours:
        place = Place((*contour.place.steps, *Place.of("ContourImageSequence").steps))
        if is_all_given and any(uid not in series_of for uid in contour.images):
            yield Broken(place, rule=ABSENT_IMAGE)
        known = [uid for uid in contour.images if uid in series_of]
        stack = held[series_of[known[0]]] if known else only
        if stack is None or contour.points is None:
            continue
        depth = contour.points @ stack.normal
        middle = float(depth.mean())
        nearest = int(np.abs(stack.at_mm - middle).argmin())
        off_mm = abs(float(stack.at_mm[nearest]) - middle)
        if contour.kind.startswith("CLOSED") and np.ptp(depth) < 2 * ON_SLICE_MM:
            named_mm = min((abs(at_mm[uid] - middle) for uid in known), default=off_mm)
            if off_mm > ON_SLICE_MM and is_all_given:
                yield Broken(contour.of_points, f"{off_mm:.2f} mm off", OFF_SLICE)
            elif off_mm <= ON_SLICE_MM < named_mm:
                yield Broken(place, f"{named_mm:.2f} mm away", OTHER_SLICE)
        margin = EDGE_VOXELS * float(stack.spacing_mm.max())
        across = stack.in_plane_mm(contour.points)
        size = np.array([stack.shape[1] - 1, stack.shape[0] - 1]) * stack.spacing_mm[::-1]
        out = ((across < -margin) | (across > size + margin)).any(axis=1)
        if out.any():
            yield Broken(
                contour.of_points, f"{int(out.sum())} of {len(contour.points)} points", OUTSIDE
            )
