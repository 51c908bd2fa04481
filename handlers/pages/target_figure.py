"""The figure of the first page: a target on CT, MR and fused, in three planes."""

from dataclasses import replace

import numpy as np

from handlers.pages.content import Figure
from handlers.pages.drawing import BLACK, Area, Box, Drawing, Part, Rgb, Stroke, Words, rectangle
from handlers.pages.scene import (
    DASH_MM,
    HAIR_MM,
    HALO_MM,
    PANEL_PIXELS,
    THICK_MM,
    THIN_MM,
    Scene,
    in_grey,
    mr_in_grey,
    panel,
    place_of,
    scale_bar,
    scene_of,
    short_place_of,
)
from handlers.pages.words import count, name, number
from handlers.pictures.choice import CENTER, CHANGE, ChosenPlane, planes_of
from handlers.pictures.colors import DRAWN, ORGAN, REFINED, SOFT_TISSUE
from handlers.pictures.planes import Plane
from handlers.results import CaseResult, TargetResult

SIDE_MM, GAP_MM = 40.5, 1.2
"""Of one picture, and between two."""

TITLE_MM = 4.0
"""Room above the pictures."""

LEGEND_MM, LEGEND_LETTER_MM = 44.0, 2.2
"""Width of the legend, and size of its letters."""

GROUND: Rgb = (70, 70, 70)
"""Behind the lines of the legend: they are made for pictures."""


def target_figure(result: CaseResult, target: TargetResult) -> tuple[Figure, Figure] | None:
    """Return the pictures of a target and their legend; None if it has no voxel at all.

    Rows are axial, sagittal and coronal, each where drawn and refined differ most, or through the
    center where nothing differs. Without an MR that may be shown there is the CT alone.
    """
    planes = _three(planes_of(target))
    if not planes:
        return None
    scene = scene_of(result, target, [each.plane for each in planes])
    columns = ["CT"] if scene.mr is None else ["CT", "MR", "MR over CT"]
    is_alone = scene.mr is None
    # without an MR the three planes stand side by side
    boxes = [
        [
            Box(
                (row if is_alone else column) * (SIDE_MM + GAP_MM),
                TITLE_MM + (column if is_alone else row) * (SIDE_MM + GAP_MM),
                SIDE_MM,
                SIDE_MM,
            )
            for column in range(len(columns))
        ]
        for row in range(3)
    ]
    parts: list[Part] = []
    for row, each in enumerate(planes):
        for column in range(len(columns)):
            parts.append(_panel(scene, each.plane, boxes[row][column], column))
    parts += scale_bar(boxes[-1][-1] if is_alone else boxes[0][-1], planes[0].plane)
    heads = [each.plane.name for each in planes] if is_alone else columns
    parts += [
        Words(head, at * (SIDE_MM + GAP_MM), TITLE_MM - 1.2, 2.6, is_bold=True)
        for at, head in enumerate(heads)
    ]
    rows = 1 if is_alone else 3
    drawing = Drawing(
        3 * SIDE_MM + 2 * GAP_MM, TITLE_MM + rows * SIDE_MM + (rows - 1) * GAP_MM, tuple(parts)
    )
    pictures = Figure(drawing, _caption(scene, planes), _alt(scene, planes))
    return pictures, _legend(scene)


def _three(chosen: tuple[ChosenPlane, ...]) -> list[ChosenPlane]:
    """Return the most telling plane of each axis, with the picture's own number of pixels."""
    kept = []
    for axis in (0, 2, 1):
        on_axis = [each for each in chosen if each.plane.axis == axis]
        for wanted in (CHANGE, CENTER):
            found = [each for each in on_axis if wanted in each.why]
            if found:
                plane = found[0].plane
                view_mm = plane.pixel_mm * plane.size
                finer = replace(plane, size=PANEL_PIXELS, pixel_mm=view_mm / PANEL_PIXELS)
                kept.append(ChosenPlane(finer, found[0].why))
                break
    return kept


def _panel(scene: Scene, plane: Plane, box: Box, column: int) -> Part:
    if column == 0:
        rings = scene.rings(plane, width_mm=THIN_MM, with_organs=True)
        return panel(box, plane, in_grey(scene.ct_grey(plane)), rings, short_place_of(plane))
    if column == 1:
        rings = scene.rings(plane, width_mm=THIN_MM, with_organs=False)
        bright, covered = scene.mr_grey(plane)
        label = "" if covered.any() else "the MR does not reach here"
        return panel(box, plane, mr_in_grey(bright, covered), rings, label)
    rings = scene.rings(plane, width_mm=THICK_MM, with_organs=True)
    return panel(box, plane, scene.fused(plane), rings)


def _legend(scene: Scene) -> Figure:
    """Return what the lines mean, and how the images are shown."""
    entries: list[tuple[str, Rgb, float, tuple[float, ...]]] = [("drawn", DRAWN, THICK_MM, ())]
    if scene.target.refinement.refined is not None:
        entries.append(("refined (proposal)", REFINED, THICK_MM, DASH_MM))
    if scene.organs:
        entries.append(("organs, as drawn", ORGAN, HAIR_MM, ()))
    parts: list[Part] = []
    y = TITLE_MM
    for words, color, width, dash in entries:
        ground = Box(0.0, y, 9.0, 3.8)
        parts.append(Area(rectangle(ground), BLACK, GROUND))
        line = np.array([[0.8, y + 1.9], [8.2, y + 1.9]])
        parts.append(Stroke(line, color, width, dash, halo_mm=HALO_MM))
        parts.append(Words(words, 10.5, y + 2.7, LEGEND_LETTER_MM))
        y += 4.8
    y += 2.0
    lines = _how_shown(scene)
    for line_ in lines:
        parts.append(Words(line_, 0.0, y, LEGEND_LETTER_MM))
        y += 3.1
    lines_meant = "; ".join(
        f"{words}: {'dashed' if dash else 'thin' if width == HAIR_MM else 'solid'}"
        for words, _, width, dash in entries
    )
    return Figure(Drawing(LEGEND_MM, y - 1.5, tuple(parts)), "", f"Legend. {lines_meant}.")


def _how_shown(scene: Scene) -> list[str]:
    ct = SOFT_TISSUE
    lines = [f"CT {ct.center:.0f} ± {ct.width / 2:.0f} HU"]
    if scene.mr is not None:
        at = [r is scene.mr for r in scene.result.resampled].index(True) + 1
        contrast = scene.mr.image.contrast
        lines[0] += f"; MR {at}" + (f", {contrast}" if contrast else "")
        registration = scene.mr.registration
        within = number(registration.uncertainty_mm, 1)
        lines.append(f"registration: {registration.status}, {within} mm (95 %)")
    return [*lines, "R right, L left, A front, P back,", "S head, I feet"]


def _caption(scene: Scene, planes: list[ChosenPlane]) -> str:
    where = "; ".join(f"{place_of(each.plane)} ({each.why})" for each in planes)
    beneath = "CT, MR and MR over CT" if scene.mr is not None else "CT alone, no MR is shown"
    return f"{name(scene.target.source_roi.name)}: {beneath}; {where}. Not for measuring."


def _alt(scene: Scene, planes: list[ChosenPlane]) -> str:
    what = "drawn contour solid" + (
        ", refined contour dashed" if scene.target.refinement.refined is not None else ""
    )
    shown = "CT, MR and MR over CT" if scene.mr is not None else "CT"
    return (
        f"{count(len(planes), 'plane')} through target {name(scene.target.source_roi.name)} on "
        f"{shown}; {what}."
    )
