"""The figure of a signed distance map: how far the refined surface lies from the drawn one.

Dark is inside, bright is outside, and brightness always rises, so that a grey print says the same;
lines and numbers say it again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from handlers.pages.content import Figure
from handlers.pages.drawing import (
    BLACK,
    WHITE,
    Area,
    Box,
    Drawing,
    Floats,
    Part,
    Rgb,
    Stroke,
    Words,
    raster,
    rectangle,
    thinned,
)
from handlers.pages.surface_views import PIXELS, SIDES, Side, seen_from
from handlers.pages.words import MINUS, name, number
from handlers.results import SurfaceMap, TargetResult
from handlers.surface_figures import MOVED_MM

# scikit-image tells no types
_find_contours: Callable[..., list[Floats]] = find_contours

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the six views stand: so many in a row, each so wide in mm."""

    in_a_row: int
    side_mm: float


WIDE, NARROW = Layout(6, 26.5), Layout(3, 14.6)
"""Across a page, and in a column of 48 mm beside the pictures of a target."""

GAP_MM, TITLE_MM, ROW_GAP_MM = 1.5, 3.0, 0.8
"""Between two views, above a view, and below a row of them."""

LETTER_MM, LARGEST_LETTER_MM = 1.8, 2.1
LINE_MM, HALO_MM = 0.18, 0.25
DASH_MM = (0.8, 0.6)
"""Stroke and gap where the surface lies outside, as of the refined contour."""

MARGIN = 1.28
"""Side of a view, in lengths of the target."""

LEAST_RING = 12
"""Pixels round what must have moved to be worth a line."""

STOPS: tuple[tuple[float, Rgb], ...] = (
    (0.0, (0, 34, 92)),
    (0.5, (128, 128, 124)),
    (1.0, (255, 234, 90)),
)
"""Colors from farthest inside to farthest outside."""

RANGES_MM = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
WITHIN_RANGE = 0.98
"""That part of the surface, at least, lies within the range of the colors."""

BAR_MM, BAR_ROW_MM = 2.0, 4.2
"""Height of the bar that explains the colors, and of the room for it."""

BAR_SHARE = 0.5
"""Part of the width that it takes."""


def surface_figure(target: TargetResult, layout: Layout) -> Figure | None:
    """Return the picture of a surface map; None if there is none, or nothing moved."""
    surface = target.surface_map
    if surface is None or np.abs(surface.distance_mm).max() < MOVED_MM:
        return None
    center = (surface.corners_mm.min(axis=0) + surface.corners_mm.max(axis=0)) / 2.0
    size_mm = MARGIN * float(np.ptp(surface.corners_mm, axis=0).max())
    range_mm = _range_mm(surface)
    side_mm, row_mm = layout.side_mm, TITLE_MM + layout.side_mm + ROW_GAP_MM
    parts: list[Part] = []
    for at, side in enumerate(SIDES):
        row, column = divmod(at, layout.in_a_row)
        box = Box(column * (side_mm + GAP_MM), row * row_mm + TITLE_MM, side_mm, side_mm)
        parts += _view(box, side, *seen_from(side, surface, center, size_mm), range_mm)
    width_mm = layout.in_a_row * (side_mm + GAP_MM) - GAP_MM
    top = len(SIDES) // layout.in_a_row * row_mm
    parts += _bar(Box(5.0, top + 1.0, BAR_SHARE * width_mm, BAR_MM), range_mm)
    parts += _length(10.0 * side_mm / size_mm, width_mm, top + 1.0 + BAR_MM)
    called = name(target.source_roi.name)
    low, high = (float(some(surface.distance_mm)) for some in (np.min, np.max))
    return Figure(
        Drawing(width_mm, top + BAR_ROW_MM, tuple(parts)),
        f"{called} as drawn, from six sides: mm to the refined surface. Dark, {MINUS}: inside "
        f"(line at {MOVED_MM}); bright, +: outside (dashed). Numbers: farthest of each side.",
        f"Signed distance from the drawn to the refined surface of {called}, "
        f"{number(low, 1)} to {number(high, 1, is_signed=True)} mm, seen from six sides.",
    )


def _range_mm(surface: SurfaceMap) -> float:
    """Return the distance at which colors end."""
    size = np.abs(surface.distance_mm)
    order = np.argsort(size)
    part = np.cumsum(surface.areas_mm2[order]) / surface.areas_mm2.sum()
    wanted = float(size[order[min(int(np.searchsorted(part, WITHIN_RANGE)), len(order) - 1)]])
    return next((mm for mm in RANGES_MM if mm >= wanted), RANGES_MM[-1])


def _view(box: Box, side: Side, seen: Bools, distance_mm: Floats, range_mm: float) -> list[Part]:
    pixels = np.where(seen[..., None], _colors(distance_mm, range_mm), np.uint8(255))
    parts: list[Part] = [raster(box, pixels)]
    parts += _lines(box, seen.astype(np.float64), 0.5, ())
    # beyond the surface nothing moved
    moved = np.where(seen, distance_mm, 0.0)
    parts += _lines(box, -moved, MOVED_MM, ())
    parts += _lines(box, moved, MOVED_MM, DASH_MM)
    parts += _farthest(box, moved)
    letter_mm = _letter_mm(box)
    middle_x, middle_y = box.left + box.width / 2, box.top + box.height / 2 + letter_mm / 3
    parts.append(Words(side.title, middle_x, box.top - 0.9, letter_mm, anchor="middle"))
    left, right, top, bottom = side.letters
    for text, x, y, anchor in (
        (left, box.left, middle_y, "start"),
        (right, box.left + box.width, middle_y, "end"),
        (top, middle_x, box.top + 0.8 * letter_mm, "middle"),
        (bottom, middle_x, box.top + box.height, "middle"),
    ):
        parts.append(Words(text, x, y, letter_mm, BLACK, anchor, is_bold=True))
    return parts


def _letter_mm(box: Box) -> float:
    """Return the size of letters on a view."""
    return LETTER_MM if box.width < WIDE.side_mm else LARGEST_LETTER_MM


def _colors(distance_mm: Floats, range_mm: float) -> npt.NDArray[np.uint8]:
    at = np.clip(distance_mm / range_mm, -1.0, 1.0) / 2.0 + 0.5
    stops = [stop for stop, _ in STOPS]
    channels = [np.interp(at, stops, [color[i] for _, color in STOPS]) for i in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _lines(box: Box, values: Floats, level: float, dash_mm: tuple[float, ...]) -> list[Part]:
    """Return where values on the pixels of a view pass a level."""
    scale = box.width / PIXELS
    corner = np.array([box.left, box.top])
    return [
        Stroke(thinned(corner + (ring[:, ::-1] + 0.5) * scale), BLACK, LINE_MM, dash_mm)
        for ring in _find_contours(np.pad(values, 1, mode="constant"), level)
        if len(ring) >= LEAST_RING
    ]


def _farthest(box: Box, moved: Floats) -> list[Part]:
    """Return the largest distance inside and outside as numbers where they are."""
    scale, letter_mm = box.width / PIXELS, _letter_mm(box)
    words: list[Part] = []
    for at in (int(moved.argmin()), int(moved.argmax())):
        value = float(moved.flat[at])
        if abs(value) < MOVED_MM:
            continue
        row, column = divmod(at, PIXELS)
        x = float(np.clip(column * scale, 4.0, box.width - 4.0)) + box.left
        y = float(np.clip(row * scale, 3.0 * letter_mm, box.height - 1.5 * letter_mm)) + box.top
        text = number(value, 1, is_signed=True)
        words.append(Words(text, x, y, letter_mm, WHITE, "middle", is_bold=True, halo_mm=HALO_MM))
    return words


def _length(length: float, right: float, y: float) -> list[Part]:
    """Return a bar of 1 cm, `length` long, that ends at a place."""
    left = right - length
    ends = [(left, y - 0.8), (left, y), (right, y), (right, y - 0.8)]
    words = Words("1 cm", left - 0.6, y, LETTER_MM, BLACK, "end")
    return [Stroke(np.array(ends), BLACK, LINE_MM), words]


def _bar(box: Box, range_mm: float) -> list[Part]:
    """Return the colors from far inside to far outside, with their ends in mm."""
    steps = np.linspace(-range_mm, range_mm, 96)[None]
    y = box.top + box.height - 0.3
    low, high = (number(value, 0, is_signed=True) for value in (-range_mm, range_mm))
    return [
        raster(box, _colors(np.repeat(steps, 8, axis=0), range_mm)),
        Area(rectangle(box), BLACK, None, LINE_MM),
        Words(low, box.left - 0.6, y, LETTER_MM, BLACK, "end"),
        Words(f"{high} mm", box.left + box.width + 0.6, y, LETTER_MM),
    ]
