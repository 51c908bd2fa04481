"""A drawing on a page of the PDF: pictures as they are, lines and words as lines and words."""

import io
from typing import Any

from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.platypus import Flowable

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
from handlers.pages.fonts import BOLD, PLAIN, pieces, width_of
from handlers.pages.svg import HALO_OPACITY


class DrawnFigure(Flowable):  # type: ignore[misc]
    """A drawing in the flow of a page, no wider than a column."""

    def __init__(self, drawing: Drawing, column_width: float) -> None:
        super().__init__()
        self._drawing = drawing
        self._scale = min(1.0, column_width / (drawing.width_mm * mm))
        self.width = drawing.width_mm * mm * self._scale
        self.height = drawing.height_mm * mm * self._scale
        self.hAlign = "LEFT"

    def wrap(self, *_: float) -> tuple[float, float]:
        """Return its size, whatever room there is."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw it, its origin at the upper left corner, in mm."""
        canvas = self.canv
        canvas.saveState()
        canvas.translate(0, self.height)
        canvas.scale(mm * self._scale, mm * self._scale)
        canvas.setLineJoin(1)
        for part in self._drawing.parts:
            _part(canvas, part)
        canvas.restoreState()


def _part(canvas: Any, part: Part) -> None:
    if isinstance(part, Clip):
        canvas.saveState()
        window = canvas.beginPath()
        window.rect(*_place(part.box))
        canvas.clipPath(window, stroke=0, fill=0)
        for each in part.parts:
            _part(canvas, each)
        canvas.restoreState()
    elif isinstance(part, Raster):
        canvas.drawImage(ImageReader(io.BytesIO(part.jpeg)), *_place(part.box))
    elif isinstance(part, Stroke):
        _stroke(canvas, part)
    elif isinstance(part, Area):
        canvas.setDash()
        canvas.setLineWidth(part.width_mm)
        canvas.setStrokeColorRGB(*_color(part.edge))
        if part.fill is not None:
            canvas.setFillColorRGB(*_color(part.fill))
        outline = _path(canvas, part.points, is_closed=True)
        canvas.drawPath(outline, stroke=1, fill=int(part.fill is not None))
    else:
        _words(canvas, part)


def _stroke(canvas: Any, stroke: Stroke) -> None:
    path = _path(canvas, stroke.points, is_closed=stroke.is_closed)
    canvas.setDash(list(stroke.dash_mm) if stroke.dash_mm else [])
    if stroke.halo_mm:
        canvas.setStrokeColorRGB(0, 0, 0, alpha=HALO_OPACITY)
        canvas.setLineWidth(stroke.width_mm + 2 * stroke.halo_mm)
        canvas.drawPath(path, stroke=1, fill=0)
    canvas.setStrokeColorRGB(*_color(stroke.color), alpha=1)
    canvas.setLineWidth(stroke.width_mm)
    canvas.drawPath(path, stroke=1, fill=0)


def _words(canvas: Any, words: Words) -> None:
    font = BOLD if words.is_bold else PLAIN
    width = width_of(words.text, font, words.size_mm)
    left = words.x - {"start": 0.0, "middle": width / 2, "end": width}[words.anchor]
    canvas.setFillColorRGB(*_color(words.color))
    if words.halo_mm:
        canvas.setDash()
        canvas.setStrokeColorRGB(0, 0, 0, alpha=HALO_OPACITY)
        canvas.setLineWidth(2 * words.halo_mm)
        _line(canvas, words, font, left, mode=1)
    _line(canvas, words, font, left, mode=0)


def _line(canvas: Any, words: Words, font: str, left: float, *, mode: int) -> None:
    for part, chosen in pieces(words.text, font):
        canvas.setFont(chosen, words.size_mm)
        canvas.drawString(left, -words.y, part, mode=mode)
        left += canvas.stringWidth(part, chosen, words.size_mm)


def _path(canvas: Any, points: Floats, *, is_closed: bool) -> Any:
    path = canvas.beginPath()
    (x, y), *rest = points.tolist()
    path.moveTo(x, -y)
    for x, y in rest:
        path.lineTo(x, -y)
    if is_closed:
        path.close()
    return path


def _place(box: Box) -> tuple[float, float, float, float]:
    return box.left, -box.top - box.height, box.width, box.height


def _color(color: Rgb) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255
