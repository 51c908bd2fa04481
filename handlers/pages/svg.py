"""A drawing as SVG, to stand in a page."""

import base64
from html import escape

import numpy as np

from handlers.pages.drawing import (
    Area,
    Box,
    Clip,
    Drawing,
    Floats,
    Part,
    Raster,
    Rgb,
    Stroke,
    Words,
)

HALO_OPACITY = 0.75
"""Of the dark seam of lines and letters."""

LARGEST = 1.6
"""How many times larger than on paper a drawing may be shown."""


def svg_of(drawing: Drawing, alt: str, mark: str) -> str:
    """Return a drawing as an element of HTML.

    Args:
        drawing: What to show.
        alt: What it shows, in words.
        mark: Distinguishes the element's names from those of others on the page.
    """
    inside = [_part(part, f"{mark}-{at}") for at, part in enumerate(drawing.parts)]
    size = f"{drawing.width_mm:.2f} {drawing.height_mm:.2f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{mark}-title" '
        f'viewBox="0 0 {size}" style="max-width:{LARGEST * drawing.width_mm:.0f}mm">'
        f'<title id="{mark}-title">{escape(alt)}</title>{"".join(inside)}</svg>'
    )


def _part(part: Part, mark: str) -> str:
    if isinstance(part, Clip):
        inside = "".join(_part(each, f"{mark}-{at}") for at, each in enumerate(part.parts))
        return (
            f'<clipPath id="{mark}"><rect {_place(part.box)}/></clipPath>'
            f'<g clip-path="url(#{mark})">{inside}</g>'
        )
    if isinstance(part, Raster):
        data = base64.b64encode(part.jpeg).decode("ascii")
        return (
            f'<image {_place(part.box)} preserveAspectRatio="none" '
            f'href="data:image/jpeg;base64,{data}"/>'
        )
    if isinstance(part, Stroke):
        return _stroke(part)
    if isinstance(part, Area):
        fill = "none" if part.fill is None else _color(part.fill)
        return (
            f'<path d="{_path(part.points)}Z" fill="{fill}" stroke="{_color(part.edge)}" '
            f'stroke-width="{part.width_mm}"/>'
        )
    return _words(part)


def _stroke(stroke: Stroke) -> str:
    path = _path(stroke.points) + ("Z" if stroke.is_closed else "")
    dash = " ".join(f"{mm:g}" for mm in stroke.dash_mm)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    line = (
        f'<path d="{path}" fill="none" stroke="{_color(stroke.color)}" '
        f'stroke-width="{stroke.width_mm}"{dashed}/>'
    )
    if not stroke.halo_mm:
        return line
    halo = (
        f'<path d="{path}" fill="none" stroke="#000" stroke-opacity="{HALO_OPACITY}" '
        f'stroke-width="{stroke.width_mm + 2 * stroke.halo_mm:.2f}"{dashed}/>'
    )
    return halo + line


def _words(words: Words) -> str:
    weight = ' font-weight="bold"' if words.is_bold else ""
    place = (
        f'<text x="{words.x:.2f}" y="{words.y:.2f}" font-size="{words.size_mm:.2f}" '
        f'text-anchor="{words.anchor}"{weight}'
    )
    text = f"{escape(words.text)}</text>"
    letters = f'{place} fill="{_color(words.color)}">{text}'
    if not words.halo_mm:
        return letters
    halo = (
        f'{place} stroke="#000" stroke-opacity="{HALO_OPACITY}" stroke-linejoin="round" '
        f'stroke-width="{2 * words.halo_mm:g}">{text}'
    )
    return halo + letters


def _place(box: Box) -> str:
    return f'x="{box.left:.2f}" y="{box.top:.2f}" width="{box.width:.2f}" height="{box.height:.2f}"'


def _path(points: Floats) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in np.asarray(points))


def _color(color: Rgb) -> str:
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"
