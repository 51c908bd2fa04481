"""Rules on CT, MR and PET images: geometry, pixels, the series as a stack, MR on the CT's grid."""

from collections.abc import Iterator

import numpy as np
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from handlers.lint.reading import element, length_of, tag_of, text, texts, vector, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import PLANES, Stack, Subject, Together

ORIENTATION = Rule(
    "image.orientation",
    Level.ERROR,
    "row and column directions are not two unit vectors at right angles",
    "PS3.3 C.7.6.2.1.1",
    "write direction cosines",
    PLANES,
)
SPACING = Rule(
    "image.spacing",
    Level.ERROR,
    "Pixel Spacing is not positive",
    "PS3.3 C.7.6.2, 10.7.1.1",
    "write the distances of rows and columns in mm",
    PLANES,
)
PIXELS = Rule(
    "image.pixels",
    Level.ERROR,
    "Pixel Data has not as many bytes as rows, columns, frames, samples and bits make",
    "PS3.5 8.1.1; PS3.3 C.7.6.3",
    "write the image whole",
)
PARTS = Rule(
    "series.parts",
    Level.WARNING,
    "images of one series differ in frame of reference, orientation, matrix or spacing: importers "
    "split or refuse it",
    "PS3.3 C.7.4.1; microsoft/InnerEye-DICOM-RT#6",
    "give each stack of slices a series of its own",
    PLANES,
)
FRAMES = Rule(
    "series.frames-several",
    Level.ERROR,
    "images of one series have different frames of reference",
    "PS3.3 A.1.2.5, C.7.4.1",
    "write one Frame of Reference UID throughout a series",
    PLANES,
)
SAME_PLACE = Rule(
    "series.same-position",
    Level.WARNING,
    "two images of a series lie at one position: importers take one of them, or none",
    "AustralianCancerDataNetwork/pydicer#76",
    "give repeats, phases and b-values series of their own",
    PLANES,
)
UNEVEN = Rule(
    "series.uneven",
    Level.WARNING,
    "the slices of a series are not evenly spaced (or one is missing)",
    "PS3.3 C.7.6.2; e0404/matRad#548",
    "send the missing slices; resample where the spacing really changes",
    PLANES,
)
RESCALE = Rule(
    "mr.rescale",
    Level.WARNING,
    "an MR Image has Rescale Slope or Intercept, which its IOD does not know: most readers ignore "
    "them",
    "PS3.3 A.4.3 (no Modality LUT module)",
    "write the scaled values",
    (MRImageStorage,),
)
OFF_GRID = Rule(
    "mr.off-ct-grid",
    Level.WARNING,
    "a derived MR in the CT's frame of reference does not lie on the CT's slices",
    "general knowledge: planning systems resample, or refuse, secondary images of another geometry",
    "resample on the grid of the CT, and copy its position, orientation and spacing",
    (MRImageStorage,),
    is_confirmed=False,
)

SAME_MM = 0.01
"""Positions that are nearer than this are one."""

UNEVEN_PART = 0.02
"""Part of the slice distance by which distances may differ (rounding to 0.1 mm at 5 mm)."""

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes in which the length of Pixel Data is that of the image."""


@looks_for(ORIENTATION, SPACING, RESCALE)
def geometry(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at one image."""
    axes = vector(subject.ds, "ImageOrientationPatient", 6)
    if axes is not None:
        both = axes.reshape(2, 3)
        off = float(np.abs(both @ both.T - np.eye(2)).max())
        if off > 1e-3:
            yield Broken(Place.of("ImageOrientationPatient"), f"off by {off:.2g}", ORIENTATION)
    spacing = vector(subject.ds, "PixelSpacing", 2)
    if spacing is not None and (spacing <= 0).any():
        yield Broken(Place.of("PixelSpacing"), rule=SPACING)
    if subject.sop_class_uid == MRImageStorage and together.leads(subject):
        for keyword in ("RescaleSlope", "RescaleIntercept"):
            if keyword in subject.ds:
                yield Broken(Place.of(keyword), rule=RESCALE)


@looks_for(PIXELS)
def pixels(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Compare the length of Pixel Data with what it should hold."""
    found = element(subject.ds, tag_of("PixelData"))
    if found is None or subject.transfer_syntax_uid not in NATIVE:
        return
    told = [whole(subject.ds, k) for k in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")]
    if any(value is None for value in told):
        return
    rows, columns, bits, samples = (int(value or 0) for value in told)
    if text(subject.ds, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    frames = whole(subject.ds, "NumberOfFrames") or 1
    wanted = (rows * columns * samples * frames * bits + 7) // 8
    length = length_of(found)
    if length not in (wanted, wanted + wanted % 2):
        yield Broken(Place.of("PixelData"), f"{length} bytes, {wanted} wanted")


@looks_for(PARTS, FRAMES, SAME_PLACE, UNEVEN)
def stack(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at a series as a stack of slices; told at its first image."""
    if not together.leads(subject):
        return
    members = [s for s in together.by_series.get(subject.series_uid, ()) if s is not subject]
    members = [subject, *(s for s in members if s.sop_class_uid in PLANES)]
    if len({s.frame_uid for s in members}) > 1:
        yield Broken(Place.of("FrameOfReferenceUID"), rule=FRAMES)
    shapes = {tuple(whole(s.ds, k) for k in ("Rows", "Columns")) for s in members}
    told = [vector(s.ds, "PixelSpacing", 2) for s in members]
    spacings = {tuple(np.round(spacing, 4)) for spacing in told if spacing is not None}
    stack = together.stacks.get(subject.series_uid)
    if len(shapes) > 1 or len(spacings) > 1 or (stack is None and len(members) > 1):
        yield Broken(Place.of("SeriesInstanceUID"), rule=PARTS)
        return
    if stack is None or len(stack.at_mm) < 2:
        return
    steps = np.diff(stack.at_mm)
    doubled = int((steps < SAME_MM).sum())
    if doubled:
        yield Broken(Place.of("ImagePositionPatient"), f"{doubled} positions", SAME_PLACE)
    elif np.ptp(steps) > max(UNEVEN_PART * float(np.median(steps)), SAME_MM):
        detail = f"{steps.min():.2f} to {steps.max():.2f} mm"
        yield Broken(Place.of("ImagePositionPatient"), detail, UNEVEN)


@looks_for(OFF_GRID)
def on_ct_grid(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Compare a derived MR with the CT in whose frame of reference it lies."""
    if not together.leads(subject) or "DERIVED" not in texts(subject.ds, "ImageType"):
        return
    mr = together.stacks.get(subject.series_uid)
    cts = [
        s
        for s in together.stacks.values()
        if s.subjects[0].sop_class_uid == CTImageStorage
        and s.subjects[0].frame_uid == subject.frame_uid
    ]
    if not cts:
        yield NotChecked("the derived MR beside the CT's grid: give the CT too")
    elif mr is not None and not any(_is_on_grid(mr, ct) for ct in cts):
        yield Broken(Place.of("ImagePositionPatient"))


def _is_on_grid(mr: Stack, ct: Stack) -> bool:
    apart = np.abs(mr.at_mm[:, None] - ct.at_mm[None, :]).min(axis=1)
    turned = np.abs(np.concatenate([mr.along_row - ct.along_row, mr.normal - ct.normal])).max()
    return bool(turned < 1e-3 and apart.max() < SAME_MM)
