"""The overview of a target: each plane twice, CT with MR and contours beside what is beneath.

Left the CT under the MR with all contours; right the CT alone with the drawn and refined contour,
thin, so that everybody can see what they rest on. What cannot be shown is said in words. No word
comes from the patient's attributes; names of ROIs are shown as far as the font goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.pictures.canvas import Canvas, drawable
from handlers.pictures.choice import PANEL_PIXELS, ChosenPlane, planes_of
from handlers.pictures.colors import (
    CAUTION,
    DRAWN,
    ORGAN,
    REFINED,
    SOFT_TISSUE,
    TEXT,
    Floats,
    Picture,
    Rgb,
    Window,
    blend,
    in_grey,
)
from handlers.pictures.outlines import Slices, rings_by_slice, rings_of_contours, rings_of_mask
from handlers.pictures.planes import Plane
from handlers.results import CaseResult, RegistrationStatus, ResampledMr, TargetResult
from handlers.values import Roi

GAP_PIXELS = 4
HEADER_PIXELS, FOOTER_PIXELS = 62, 24
"""Room above and below the pictures."""

LARGE, SMALL = 15, 13
"""Heights of the letters in pixels."""

DASH_PIXELS = (7.0, 5.0)
"""Stroke and gap of the refined contour."""

MR_PERCENTILES = (2.0, 99.5)
"""MR values from darkest to brightest color, in percent of what the views show."""

DIFFUSION = frozenset({"DWI", "ADC"})
"""Contrasts that show anatomy badly."""

COVERAGE_STEPS = 20
"""Coverage of a target by different MR is the same if it is within so many steps of the whole."""

NOT_APPROVED = "Hilum proposal, not approved"

BODY_TYPES = frozenset({"EXTERNAL", "SUPPORT", "BOLUS", "FIXATION", "DOSE_REGION", "CONTROL"})
"""RT ROI Interpreted Types that are no organs."""

TARGET_TYPES = frozenset({"GTV", "CTV", "PTV", "ITV", "IRRAD_VOLUME", "TREATED_VOLUME"})

LONGEST_NAME = 40
"""Longest part of an ROI name that is shown, in characters."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        pixels: uint8, shape (rows, columns, 3).
        label: Plane and position in short, at most 16 characters.
        words: Every line that is written on it.
    """

    pixels: npt.NDArray[np.uint8]
    label: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """The pictures of one target, all of one size and scale.

    Attributes:
        frames: At least one.
        pixel_mm: Distance of pixels within each of the two parts of a picture.
        fused: The MR that is shown over the CT, or None.
    """

    frames: tuple[Frame, ...]
    pixel_mm: float
    fused: ResampledMr | None


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What all frames of a target share."""

    result: CaseResult
    target: TargetResult
    fused: ResampledMr | None
    fused_window: Window
    drawn: Slices
    organs: Sequence[Slices]
    verdict: tuple[str, Rgb]
    beneath: str


def target_overview(result: CaseResult, index: int) -> Overview | None:
    """Return the overview of a target, or None if it has no voxel, drawn or refined."""
    target = result.targets[index]
    chosen = planes_of(target)
    if not chosen:
        return None
    fused = fused_mr(result, target)
    geometry = result.case.ct.geometry
    organs = [roi for roi in result.case.structure_set.rois if _is_organ(roi)]
    scene = _Scene(
        result=result,
        target=target,
        fused=fused,
        fused_window=Window(0.0, 1.0) if fused is None else _mr_window(fused, chosen),
        drawn=rings_by_slice(target.source_roi, geometry),
        organs=[rings_by_slice(roi, geometry) for roi in organs],
        verdict=_verdict(result, fused),
        beneath=_name_of_mr(result, fused),
    )
    frames = tuple(
        _frame(scene, each, f"{number}/{len(chosen)}")
        for number, each in enumerate(chosen, start=1)
    )
    return Overview(frames, chosen[0].plane.pixel_mm, fused)


def fused_mr(result: CaseResult, target: TargetResult) -> ResampledMr | None:
    """Return the MR to be shown over the CT at a target, or None.

    Never one whose registration failed, or that covers nothing of the target. One whose
    registration passed comes before one that is to be checked, then what covers more of the target,
    then contrasts that show anatomy before diffusion, then the series that was registered itself.
    """
    drawn = target.drawn.inside
    best: tuple[tuple[bool, int, bool, bool], ResampledMr] | None = None
    for resampled in result.resampled:
        registration, image = resampled.registration, resampled.image
        covered = int(np.count_nonzero(resampled.valid.inside[drawn]))
        if registration.status is RegistrationStatus.FAIL or covered == 0:
            continue
        rank = (
            registration.status is RegistrationStatus.PASS,
            round(COVERAGE_STEPS * covered / int(np.count_nonzero(drawn))),
            image.contrast not in DIFFUSION,
            image.series_instance_uid == registration.leading_series_uid,
        )
        if best is None or rank > best[0]:
            best = (rank, resampled)
    return None if best is None else best[1]


def _is_organ(roi: Roi) -> bool:
    kind = roi.interpreted_type.strip().upper()
    return bool(roi.contours) and kind not in BODY_TYPES and kind not in TARGET_TYPES


def _mr_window(fused: ResampledMr, chosen: Sequence[ChosenPlane]) -> Window:
    shown = []
    for plane in (each.plane for each in chosen):
        inside = plane.cut(fused.valid.inside).astype(np.bool_)
        shown.append(plane.cut(fused.image.voxels)[inside])
    values = np.concatenate(shown)
    if not len(values):
        return Window(0.0, 1.0)
    low, high = np.percentile(values, MR_PERCENTILES)
    return Window(float(low + high) / 2, max(float(high - low), 1e-6))


def _verdict(result: CaseResult, fused: ResampledMr | None) -> tuple[str, Rgb]:
    """Return what is said of the registration, and in which color."""
    if fused is not None:
        registration = fused.registration
        words = f"registration: {registration.status}, {registration.uncertainty_mm:.1f} mm (95 %)"
        if registration.status is RegistrationStatus.PASS:
            return words, TEXT
        return f"{words}, CHECK", CAUTION
    of_mr = [r for r in result.registrations if r.kind_in(result.case) == "mr"]
    if not of_mr:
        return "no MR: CT alone", CAUTION
    if all(r.status is RegistrationStatus.FAIL for r in of_mr):
        return "registration: FAIL, so no MR is fused", CAUTION
    return "no registered MR covers this target: CT alone", CAUTION


def _name_of_mr(result: CaseResult, fused: ResampledMr | None) -> str:
    for number, resampled in enumerate(result.resampled, start=1):
        if resampled is fused:
            contrast = (
                f" ({drawable(resampled.image.contrast)})" if resampled.image.contrast else ""
            )
            return f"CT + MR {number}{contrast}"
    return "CT alone, no MR fused"


def _frame(scene: _Scene, chosen: ChosenPlane, number: str) -> Frame:
    plane = chosen.plane
    canvas = Canvas(HEADER_PIXELS + PANEL_PIXELS + FOOTER_PIXELS, 2 * PANEL_PIXELS + GAP_PIXELS)
    values, has_ct = plane.sample(scene.result.case.ct.voxels)
    ct = np.where(has_ct, SOFT_TISSUE.apply(values), 0.0)
    fused, title = _fused(scene, plane, ct)
    drawn, refined = _target_rings(scene, plane)
    organs = [ring for organ in scene.organs for ring in rings_of_contours(organ, plane)]
    second = PANEL_PIXELS + GAP_PIXELS
    for left, picture, words, thick in (
        (0, fused, title, 2.0),
        (second, in_grey(ct), "CT alone", 1.0),
    ):
        box = (left, HEADER_PIXELS, PANEL_PIXELS, PANEL_PIXELS)
        canvas.put(picture, left, HEADER_PIXELS)
        if left == 0:
            canvas.lines(_closed(organs, plane), box=box, color=ORGAN, width=0.8)
        canvas.lines(_closed(drawn, plane), box=box, color=DRAWN, width=thick)
        dashed = _closed(refined, plane)
        canvas.lines(dashed, box=box, color=REFINED, width=thick, dash=DASH_PIXELS)
        _letters(canvas, plane, box)
        canvas.text(words, left + 6, HEADER_PIXELS + 5, color=TEXT, size=SMALL)
    _scale_bar(canvas, plane, second)
    axis, at_mm = plane.position
    _header(canvas, scene, f"{plane.name}, {axis} = {at_mm:.1f} mm ({chosen.why})", number)
    _footer(canvas, scene)
    short = {"axial": "AX", "sagittal": "SAG", "coronal": "COR"}[plane.name.split()[-1]]
    return Frame(canvas.finished(), f"{short} {axis} {at_mm:.1f}"[:16], tuple(canvas.words))


def _fused(scene: _Scene, plane: Plane, ct: Floats) -> tuple[Picture, str]:
    """Return the picture of CT and MR, and its title."""
    if scene.fused is None:
        return in_grey(ct), scene.beneath
    values, _ = plane.sample(scene.fused.image.voxels)
    covered, has = plane.sample(scene.fused.valid.inside)
    is_covered = has & (covered > 0.999)
    picture = blend(ct, scene.fused_window.apply(values), is_covered)
    if not is_covered.any():
        return picture, f"CT alone: {scene.beneath.removeprefix('CT + ')} does not reach here"
    return picture, scene.beneath


def _target_rings(scene: _Scene, plane: Plane) -> tuple[list[Floats], list[Floats]]:
    """Return the drawn and the refined contour on a plane, in in-plane indices."""
    target = scene.target
    drawn = rings_of_mask(target.drawn, None, plane)
    if plane.axis == 0 and target.source_roi.contours:
        drawn = rings_of_contours(scene.drawn, plane)
    refinement = target.refinement
    if refinement.refined is None:
        return drawn, []
    return drawn, rings_of_mask(refinement.refined, refinement.level, plane)


def _closed(rings: Sequence[Floats], plane: Plane) -> list[Floats]:
    """Return rings as closed lines in pixels of the picture."""
    return [plane.pixels_from_indices(np.concatenate([ring, ring[:1]])) for ring in rings]


def _letters(canvas: Canvas, plane: Plane, box: tuple[int, int, int, int]) -> None:
    left, top, columns, rows = box
    middle_x, middle_y = left + columns / 2, top + rows / 2
    places = (
        (left + 5, middle_y, "lm"),
        (left + columns - 6, middle_y, "rm"),
        (middle_x, top + 5, "ma"),
        (middle_x, top + rows - 6, "md"),
    )
    for letters, (x, y, anchor) in zip(plane.letters, places, strict=True):
        canvas.text(letters, x, y, color=CAUTION, size=LARGE, anchor=anchor)


def _scale_bar(canvas: Canvas, plane: Plane, left: int) -> None:
    """Draw a bar of whole centimetres, at most a third of the picture long, at its lower right."""
    view_cm = PANEL_PIXELS * plane.pixel_mm / 10
    length_cm = max(cm for cm in (1, 2, 5, 10) if cm == 1 or cm <= view_cm / 3)
    length = length_cm * 10 / plane.pixel_mm
    x1, y = PANEL_PIXELS - 12.0, PANEL_PIXELS - 14.0
    bar = [np.array([[x1 - length, y], [x1, y]])]
    for cm in range(length_cm + 1):
        x = x1 - cm * 10 / plane.pixel_mm
        bar.append(np.array([[x, y - 4], [x, y]]))
    box = (left, HEADER_PIXELS, PANEL_PIXELS, PANEL_PIXELS)
    canvas.lines(bar, box=box, color=TEXT, width=1.0)
    at = (left + x1 - length / 2, HEADER_PIXELS + y - 6)
    canvas.text(f"{length_cm} cm", *at, color=TEXT, size=SMALL, anchor="md")


def _header(canvas: Canvas, scene: _Scene, place: str, number: str) -> None:
    width = canvas.pixels.shape[1]
    target = scene.target
    name = _short(target.source_roi.name) or "target"
    if target.refined_roi_name is not None:
        became, color = f"refined as {_short(target.refined_roi_name)}", TEXT
    else:
        became, color = "abstained: drawn contour stands", CAUTION
    words = f"{name} (ROI {target.source_roi.number})"
    canvas.text(words, 6, 4, color=TEXT, size=LARGE, width=width * 0.66)
    canvas.text(
        NOT_APPROVED, width - 6, 4, color=CAUTION, size=LARGE, anchor="ra", width=width * 0.33
    )
    canvas.text(became, 6, 23, color=color, size=SMALL, width=width * 0.5)
    canvas.text(
        scene.verdict[0],
        width - 6,
        23,
        color=scene.verdict[1],
        size=SMALL,
        anchor="ra",
        width=width * 0.48,
    )
    canvas.text(place, 6, 41, color=TEXT, size=SMALL, width=width * 0.8)
    canvas.text(number, width - 6, 41, color=TEXT, size=SMALL, anchor="ra")


def _footer(canvas: Canvas, scene: _Scene) -> None:
    width = canvas.pixels.shape[1]
    top = HEADER_PIXELS + PANEL_PIXELS
    box = (0, top, width, FOOTER_PIXELS)
    x = 8.0
    entries: list[tuple[str, Rgb, float, tuple[float, float] | None]] = [
        ("drawn", DRAWN, 2.0, None)
    ]
    if scene.target.refinement.refined is not None:
        entries.append(("refined", REFINED, 2.0, DASH_PIXELS))
    if scene.organs:
        entries.append(("organs", ORGAN, 0.8, None))
    for words, color, thick, dash in entries:
        line = np.array([[x, 12.0], [x + 36.0, 12.0]])
        canvas.lines([line], box=box, color=color, width=thick, dash=dash)
        canvas.text(words, x + 42, top + 12, color=TEXT, size=SMALL, anchor="lm")
        x += 110.0
    window = f"CT: C {SOFT_TISSUE.center:.0f} W {SOFT_TISSUE.width:.0f} HU"
    canvas.text(window, width - 6, top + 12, color=TEXT, size=SMALL, anchor="rm")


def _short(name: str) -> str:
    words = drawable(name)
    return words if len(words) <= LONGEST_NAME else f"{words[: LONGEST_NAME - 3]}..."
