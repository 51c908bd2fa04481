"""Rules on RT Dose: its grid, its scaling, its plan."""

from collections.abc import Iterator

import numpy as np
from pydicom.uid import (
    CTImageStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
)

from handlers.lint.reading import element, items, number, numbers, tag_of, text, vector, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

_DOSES = (RTDoseStorage,)

BITS = Rule(
    "dose.bits",
    Level.ERROR,
    "dose is stored in 16 or 32 bits, all of them used",
    "PS3.3 C.8.8.3.4",
    "Bits Allocated 16 or 32, Bits Stored the same, High Bit one less",
    _DOSES,
)
SIGNED = Rule(
    "dose.signed",
    Level.ERROR,
    "dose is signed, but its type is not ERROR (or the other way round)",
    "PS3.3 C.8.8.3",
    "Pixel Representation 0, and 1 for an ERROR dose",
    _DOSES,
)
OFFSETS_COUNT = Rule(
    "dose.offsets-count",
    Level.ERROR,
    "Grid Frame Offset Vector has not one value for each frame",
    "PS3.3 C.8.8.3",
    "write as many offsets as Number of Frames",
    _DOSES,
)
OFFSETS_START = Rule(
    "dose.offsets-start",
    Level.ERROR,
    "the first offset is neither 0 nor the position of the first plane",
    "PS3.3 C.8.8.3.2",
    "write offsets relative to Image Position (Patient), from 0",
    _DOSES,
)
OFFSETS_ORDER = Rule(
    "dose.offsets-order",
    Level.ERROR,
    "the offsets of the planes neither grow nor fall all the way",
    "PS3.3 C.8.8.3.2",
    "sort the planes",
    _DOSES,
)
OFFSETS_UNEVEN = Rule(
    "dose.offsets-uneven",
    Level.WARNING,
    "the planes of the dose are not evenly spaced",
    "PS3.3 C.8.8.3.2; e0404/matRad#548",
    "resample to even planes",
    _DOSES,
)
SCALING = Rule(
    "dose.scaling",
    Level.ERROR,
    "Dose Grid Scaling is no positive number",
    "PS3.3 C.8.8.3",
    "write the dose of one stored unit",
    _DOSES,
)
FRAME_POINTER = Rule(
    "dose.frame-pointer",
    Level.ERROR,
    "Frame Increment Pointer of a dose of several frames is not (3004,000C)",
    "PS3.3 C.8.8.3",
    "point to Grid Frame Offset Vector",
    _DOSES,
)
NO_PLAN = Rule(
    "dose.no-plan",
    Level.ERROR,
    "a dose of a plan names no plan: planning systems do not connect it",
    "PS3.3 C.8.8.3 (type 1C); cerr/CERR#318",
    "write Referenced RT Plan Sequence with the plan's UID",
    _DOSES,
)
OTHER_FRAME = Rule(
    "dose.frame-differs",
    Level.WARNING,
    "the dose lies in another frame of reference than every image that was given",
    "PS3.3 C.7.4.1",
    "copy Frame of Reference UID from the planning CT",
    _DOSES,
)

OF_PLANS = ("PLAN", "MULTI_PLAN", "PLAN_OVERVIEW", "FRACTION", "BEAM", "BRACHY",
            "FRACTION_SESSION", "BEAM_SESSION", "BRACHY_SESSION", "CONTROL_POINT")  # fmt: skip
"""Dose Summation Types that require a plan (PS3.3 C.8.8.3)."""

EVEN_MM = 0.01


@looks_for(BITS, SIGNED, SCALING, FRAME_POINTER)
def stored(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at how dose is stored."""
    ds = subject.ds
    bits = whole(ds, "BitsAllocated")
    if bits is None:
        return  # a dose of DVHs or points alone has no grid
    if bits not in (16, 32) or whole(ds, "BitsStored") != bits or whole(ds, "HighBit") != bits - 1:
        yield Broken(Place.of("BitsAllocated"), rule=BITS)
    is_signed = whole(ds, "PixelRepresentation") == 1
    if is_signed != (text(ds, "DoseType") == "ERROR"):
        yield Broken(Place.of("PixelRepresentation"), rule=SIGNED)
    scaling = number(ds, "DoseGridScaling")
    if scaling is None or not scaling > 0:
        yield Broken(Place.of("DoseGridScaling"), rule=SCALING)
    if (whole(ds, "NumberOfFrames") or 1) > 1:
        pointer = element(ds, tag_of("FrameIncrementPointer"))
        told = None if pointer is None else ds[pointer.tag].value
        if told != tag_of("GridFrameOffsetVector"):
            yield Broken(Place.of("FrameIncrementPointer"), rule=FRAME_POINTER)


@looks_for(OFFSETS_COUNT, OFFSETS_START, OFFSETS_ORDER, OFFSETS_UNEVEN)
def offsets(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at where the planes lie."""
    frames = whole(subject.ds, "NumberOfFrames") or 1
    told = numbers(subject.ds, "GridFrameOffsetVector")
    place = Place.of("GridFrameOffsetVector")
    if told is None:
        if frames > 1:
            yield Broken(place, f"0 offsets, {frames} frames", OFFSETS_COUNT)
        return
    if told.size != frames:
        yield Broken(place, f"{told.size} offsets, {frames} frames", OFFSETS_COUNT)
    position = vector(subject.ds, "ImagePositionPatient", 3)
    starts = [0.0] if position is None else [0.0, float(position[2])]
    if min(abs(told[0] - start) for start in starts) > EVEN_MM:
        yield Broken(place, rule=OFFSETS_START)
    steps = np.diff(told)
    if steps.size and not ((steps > 0).all() or (steps < 0).all()):
        yield Broken(place, rule=OFFSETS_ORDER)
    elif steps.size and np.ptp(steps) > EVEN_MM:
        yield Broken(place, f"{np.abs(steps).min():.2f} to {np.abs(steps).max():.2f} mm",
                     OFFSETS_UNEVEN)  # fmt: skip


@looks_for(NO_PLAN, OTHER_FRAME)
def plan(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the plan and the frame of reference of a dose."""
    plans = [
        text(item, "ReferencedSOPInstanceUID")
        for item in items(subject.ds, "ReferencedRTPlanSequence")
    ]
    if text(subject.ds, "DoseSummationType") in OF_PLANS and not any(plans):
        yield Broken(Place.of("ReferencedRTPlanSequence"), rule=NO_PLAN)
    elif any(plans):
        held = {s.sop_instance_uid for s in together.of_class(RTPlanStorage, RTIonPlanStorage)}
        if not held.issuperset(plans):
            yield NotChecked("whether the planning system knows the dose's plan: give the RTPLAN")
    images = {s.frame_uid for s in together.of_class(CTImageStorage)}
    if images and subject.frame_uid not in images:
        yield Broken(Place.of("FrameOfReferenceUID"), rule=OTHER_FRAME)
