"""What pictures of a target share: its planes, its MR, how bright each is, and all contours.

Shows the same pixels and rings as the pictures for viewers (`handlers.pictures`), as drawings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.pages.drawing import Box, Clip, Raster, Rgb, Stroke, Words, raster, thinned
from handlers.pages.words import number
from handlers.pictures.colors import DRAWN, ORGAN, REFINED, SOFT_TISSUE, Window, blend
from handlers.pictures.outlines import Slices, rings_by_slice, rings_of_contours, rings_of_mask
from handlers.pictures.overview import BODY_TYPES, MR_PERCENTILES, TARGET_TYPES, fused_mr
from handlers.pictures.planes import Plane
from handlers.results import CaseResult, ResampledMr, TargetResult
from handlers.values import Roi

Floats = npt.NDArray[np.float64]

PANEL_PIXELS = 360
"""Rows and columns of one picture: 200 dots per inch at 46 mm."""

THICK_MM, THIN_MM, HAIR_MM = 0.42, 0.28, 0.16
"""Widths of lines: contours of targets, those on pictures to be read, organs."""

HALO_MM, FINE_HALO_MM = 0.16, 0.06
"""Dark seams of lines and letters; fine: of organs."""

DASH_MM = (1.5, 1.0)
"""Stroke and gap of the refined contour."""

LETTER_MM, LABEL_MM = 2.8, 2.2
"""Sizes of the letters of directions, and of other words on pictures."""

MEAN_LETTER = 0.6
"""Mean width of a letter, in sizes of the font."""

LETTER_COLOR: Rgb = (255, 205, 60)
LABEL_COLOR: Rgb = (235, 235, 235)

SHORT_NAMES = {"axial": "ax", "sagittal": "sag", "coronal": "cor"}
"""Of planes, tilted or not."""

EMPTY_GREY = 40
"""Where an MR does not reach."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What all planes of a target share.

    Attributes:
        result: Of the case.
        target: The target.
        mr: That is shown; None: the CT alone.
        mr_window: How bright it is shown.
        drawn: The target's drawn contours, by slice.
        organs: Those of the organs.
    """

    result: CaseResult
    target: TargetResult
    mr: ResampledMr | None
    mr_window: Window
    drawn: Slices
    organs: Sequence[Slices]

    def ct_grey(self, plane: Plane) -> Floats:
        """Return the CT's brightness from 0 to 1 on a plane."""
        values, has_ct = plane.sample(self.result.case.ct.voxels)
        return np.where(has_ct, SOFT_TISSUE.apply(values), 0.0)

    def mr_grey(self, plane: Plane) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return the MR's brightness from 0 to 1 on a plane, and where there is any."""
        if self.mr is None:
            shape = (plane.size, plane.size)
            return np.zeros(shape), np.zeros(shape, dtype=np.bool_)
        values, _ = plane.sample(self.mr.image.voxels)
        covered, has = plane.sample(self.mr.valid.inside)
        return self.mr_window.apply(values), has & (covered > 0.999)

    def fused(self, plane: Plane) -> npt.NDArray[np.uint8]:
        """Return RGB of MR over CT on a plane."""
        bright, covered = self.mr_grey(plane)
        return np.rint(np.clip(blend(self.ct_grey(plane), bright, covered), 0, 255)).astype(
            np.uint8
        )

    def rings(
        self, plane: Plane, *, width_mm: float, with_organs: bool
    ) -> list[tuple[Floats, Stroke]]:
        """Return contours on a plane in pixels, each with a stroke as its pattern."""
        found: list[tuple[Floats, Stroke]] = []
        nothing = np.zeros((0, 2))
        if with_organs:
            pattern = Stroke(nothing, ORGAN, HAIR_MM, halo_mm=FINE_HALO_MM, is_closed=True)
            for organ in self.organs:
                found += [(ring, pattern) for ring in rings_of_contours(organ, plane)]
        drawn, refined = self.target_rings(plane)
        solid = Stroke(nothing, DRAWN, width_mm, halo_mm=HALO_MM, is_closed=True)
        dashed = Stroke(nothing, REFINED, width_mm, DASH_MM, halo_mm=HALO_MM, is_closed=True)
        found += [(ring, solid) for ring in drawn]
        found += [(ring, dashed) for ring in refined]
        return [(plane.pixels_from_indices(ring), pattern) for ring, pattern in found]

    def target_rings(self, plane: Plane) -> tuple[list[Floats], list[Floats]]:
        """Return the drawn and the refined contour on a plane, in in-plane indices."""
        target = self.target
        drawn = rings_of_mask(target.drawn, None, plane)
        if plane.axis == 0 and target.source_roi.contours:
            drawn = rings_of_contours(self.drawn, plane)
        refined = target.refinement.refined
        if refined is None:
            return drawn, []
        return drawn, rings_of_mask(refined, target.refinement.level, plane)


def scene_of(result: CaseResult, target: TargetResult, planes: Sequence[Plane]) -> Scene:
    """Return what the pictures of a target on some planes share."""
    mr = fused_mr(result, target)
    geometry = result.case.ct.geometry
    return Scene(
        result=result,
        target=target,
        mr=mr,
        mr_window=Window(0.0, 1.0) if mr is None else mr_window(mr, planes),
        drawn=rings_by_slice(target.source_roi, geometry),
        organs=[
            rings_by_slice(roi, geometry) for roi in result.case.structure_set.rois if is_organ(roi)
        ],
    )


def is_organ(roi: Roi) -> bool:
    """Return whether an ROI is drawn, and neither a target nor the outside of the patient."""
    kind = roi.interpreted_type.strip().upper()
    return bool(roi.contours) and kind not in BODY_TYPES and kind not in TARGET_TYPES


def body_names(result: CaseResult) -> frozenset[str]:
    """Return the names of the ROIs that enclose or carry the patient."""
    rois = result.case.structure_set.rois
    return frozenset(r.name for r in rois if r.interpreted_type.strip().upper() in BODY_TYPES)


def mr_window(mr: ResampledMr, planes: Sequence[Plane]) -> Window:
    """Return how bright to show an MR on some planes, by what they hold of it."""
    shown = [
        plane.cut(mr.image.voxels)[plane.cut(mr.valid.inside).astype(bool)] for plane in planes
    ]
    values = np.concatenate(shown) if shown else np.zeros(0)
    if not len(values):
        return Window(0.0, 1.0)
    low, high = np.percentile(values, MR_PERCENTILES)
    return Window(float(low + high) / 2, max(float(high - low), 1e-6))


def in_grey(brightness: Floats) -> npt.NDArray[np.uint8]:
    """Return brightness from 0 to 1 as pixels."""
    return np.rint(np.clip(brightness, 0, 1) * 255).astype(np.uint8)


def mr_in_grey(bright: Floats, covered: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return an MR's brightness as pixels; dark grey where there is none."""
    return np.where(covered, in_grey(bright), np.uint8(EMPTY_GREY))


def panel(
    box: Box,
    plane: Plane,
    pixels: npt.NDArray[np.uint8],
    rings: Sequence[tuple[Floats, Stroke]] = (),
    label: str = "",
) -> Clip:
    """Return one square picture with its contours, the patient's directions and a label."""
    scale = box.width / plane.size
    corner = np.array([box.left, box.top])
    parts: list[Raster | Stroke | Words] = [raster(box, pixels)]
    for ring, pattern in rings:
        # the centre of pixel 0 lies half a pixel from the border
        points = thinned(corner + (ring + 0.5) * scale)
        parts.append(
            Stroke(
                points,
                pattern.color,
                pattern.width_mm,
                pattern.dash_mm,
                halo_mm=pattern.halo_mm,
                is_closed=pattern.is_closed,
            )
        )
    parts += _letters(box, plane)
    if label:
        # beside the letter at the top, or below it if the label is too long
        is_short = len(label) * MEAN_LETTER * LABEL_MM < box.width / 2 - LETTER_MM
        parts.append(_label(label, box.left + 1.2, box.top + (2.8 if is_short else 5.8)))
    return Clip(box, tuple(parts))


def scale_bar(box: Box, plane: Plane) -> tuple[Stroke | Words, ...]:
    """Return a bar of whole centimetres, at most a third of a picture, at its lower right."""
    view_cm = plane.size * plane.pixel_mm / 10
    length_cm = max(cm for cm in (1, 2, 5, 10) if cm == 1 or cm <= view_cm / 3)
    length = length_cm / view_cm * box.width
    right, y = box.left + box.width - 2.0, box.top + box.height - 2.2
    ticks = []
    for cm in range(length_cm + 1):
        x = right - cm * length / length_cm
        ticks += [(x, y), (x, y - 0.9), (x, y)]
    bar = Stroke(np.array(ticks), LABEL_COLOR, 0.25, halo_mm=HALO_MM)
    words = _label(f"{length_cm} cm", right, y - 1.6, anchor="end")
    return bar, words


def _letters(box: Box, plane: Plane) -> list[Words]:
    left, right, top, bottom = plane.letters
    middle_x, middle_y = box.left + box.width / 2, box.top + box.height / 2 + LETTER_MM / 3
    ends = (
        (left, box.left + 0.8, middle_y, "start"),
        (right, box.left + box.width - 0.8, middle_y, "end"),
        (top, middle_x, box.top + LETTER_MM, "middle"),
        (bottom, middle_x, box.top + box.height - 0.9, "middle"),
    )
    return [
        Words(text, x, y, LETTER_MM, LETTER_COLOR, anchor, is_bold=True, halo_mm=HALO_MM)
        for text, x, y, anchor in ends
    ]


def _label(text: str, x: float, y: float, anchor: str = "start") -> Words:
    return Words(text, x, y, LABEL_MM, LABEL_COLOR, anchor, halo_mm=HALO_MM)


def place_of(plane: Plane) -> str:
    """Return where a plane lies, as `axial, z = 12.5 mm`."""
    axis, at_mm = plane.position
    return f"{plane.name}, {axis} = {number(at_mm, 1)} mm"


def short_place_of(plane: Plane) -> str:
    """Return where a plane lies in few letters, for a corner of its picture."""
    axis, at_mm = plane.position
    return f"{SHORT_NAMES[plane.name.split()[-1]]} {axis} {number(at_mm, 1)}"
