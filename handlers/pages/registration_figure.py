"""Pictures by which a person judges a registration: checkerboards and contour transfer.

TG-132 asks for both: fields of CT and MR by turns, where edges that run through show that the two
fit; and the contours drawn on the CT laid over the MR.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from handlers.pages.content import Figure
from handlers.pages.drawing import Box, Drawing, Part, Words
from handlers.pages.scene import (
    PANEL_PIXELS,
    THIN_MM,
    Scene,
    in_grey,
    mr_in_grey,
    mr_window,
    panel,
    scale_bar,
    scene_of,
    short_place_of,
)
from handlers.pages.words import name
from handlers.pictures.planes import Plane
from handlers.results import CaseResult, Registration, ResampledMr

SIDE_MM, GAP_MM, TITLE_MM = 33.0, 1.2, 3.6

FIELD_MM = 20.0
"""Side of a field of the checkerboard."""

VIEW_MM = 200.0
"""Side of what is shown, at most."""


def registration_figure(result: CaseResult, registration: Registration) -> Figure | None:
    """Return the pictures of a registration; None if it brought no MR that may be shown."""
    of_it = [r for r in result.resampled if r.registration is registration]
    if not of_it or not result.targets:
        return None
    leading = [r for r in of_it if r.image.series_instance_uid == registration.leading_series_uid]
    planes = _planes(result, registration)
    scenes = _scenes(result, (leading or of_it)[0], planes)
    scene = scenes[0]
    parts: list[Part] = []
    titles = ("checkerboard", "checkerboard", "contours on MR", "contours on MR")
    for at, (plane, title) in enumerate(zip((*planes, *planes), titles, strict=True)):
        box = Box(at * (SIDE_MM + GAP_MM), TITLE_MM, SIDE_MM, SIDE_MM)
        bright, covered = scene.mr_grey(plane)
        mr = mr_in_grey(bright, covered)
        if title == "checkerboard":
            pixels = np.where(_is_ct(plane) | ~covered, in_grey(scene.ct_grey(plane)), mr)
            parts.append(panel(box, plane, pixels, label=short_place_of(plane)))
        else:
            rings = scene.rings(plane, width_mm=THIN_MM, with_organs=True)
            for other in scenes[1:]:
                rings += other.rings(plane, width_mm=THIN_MM, with_organs=False)
            parts.append(panel(box, plane, mr, rings))
        parts.append(Words(title, box.left, TITLE_MM - 1.0, 2.4, is_bold=True))
        if at == 0:
            parts += scale_bar(box, plane)
    drawing = Drawing(4 * SIDE_MM + 3 * GAP_MM, TITLE_MM + SIDE_MM, tuple(parts))
    number = 1 + [r is registration for r in result.registrations].index(True)
    series = name(scene.mr.image.description) if scene.mr and scene.mr.image.description else "MR"
    return Figure(
        drawing,
        f"Registration {number}, {series}: CT and MR by turns in fields of {FIELD_MM:.0f} mm, and "
        "contours of the CT on the MR. Edges must run on from field to field.",
        f"Checkerboard of CT and registered MR and contours of the CT on the MR, in an "
        f"{planes[0].name} and a {planes[1].name} plane through the targets.",
    )


def _planes(result: CaseResult, registration: Registration) -> tuple[Plane, Plane]:
    """Return an axial and a coronal plane through the centre of the targets."""
    geometry = result.case.ct.geometry
    at = geometry.indices_from_points([registration.centre_mm])[0]
    last = np.array(geometry.shape) - 1
    z, y, x = (float(v) for v in np.clip(at, 0, last))
    extent_mm = max(n * mm for n, mm in zip(geometry.shape, geometry.spacing_mm, strict=True))
    pixel_mm = min(VIEW_MM, extent_mm) / PANEL_PIXELS

    def through(axis: int, index: float) -> Plane:
        return Plane.through(
            geometry, axis, round(index), centre=(z, y, x), size=PANEL_PIXELS, pixel_mm=pixel_mm
        )

    return through(0, z), through(1, y)


def _scenes(result: CaseResult, mr: ResampledMr, planes: tuple[Plane, Plane]) -> list[Scene]:
    """Return a scene for each target, all with the MR of this registration."""
    window = mr_window(mr, planes)
    return [
        replace(scene_of(result, target, planes), mr=mr, mr_window=window)
        for target in result.targets
    ]


def _is_ct(plane: Plane) -> npt.NDArray[np.bool_]:
    """Return which pixels of a checkerboard show the CT: a field's corner is the centre."""
    at = np.floor((np.arange(plane.size) - (plane.size - 1) / 2) * plane.pixel_mm / FIELD_MM)
    return np.asarray((at[:, None] + at) % 2 == 0)
