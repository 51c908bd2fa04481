"""Lines and words on a picture, without jagged edges.

Pillow draws masks of ink several times larger than the picture; they are shrunk and laid over it.
Words use the font that Pillow carries inside, so no font file is looked for: it knows ASCII and a
little more, and what it does not know becomes the bare letter or a question mark.
"""

import math
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handlers.pictures.colors import Picture, Rgb

Floats = npt.NDArray[np.float64]

FINER = 3
"""How many times finer lines are drawn than the picture."""

HALO_PIXELS = 1.0
"""Dark seam at both sides of a line, for bright grounds."""

HALO_STROKE = 2
"""Likewise for letters, in whole pixels."""

HALO_OPACITY = 0.75

ELLIPSIS = "..."

_SPELLED = {"ß": "ss", "Ø": "O", "ø": "o", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ł": "L"}
_SPELLED |= {"ł": "l", "Đ": "D", "đ": "d", "µ": "u", "–": "-", "—": "-", "−": "-"}
"""Letters that do not fall apart into a bare letter and its accent."""

_UNKNOWN = "\U0010ffff"
"""No character: what the font draws for it stands for all that it does not know."""


class Canvas:
    """A picture of RGB values from 0 to 255 that is drawn on; `words` are those written so far."""

    def __init__(self, rows: int, columns: int) -> None:
        self.pixels: Picture = np.zeros((rows, columns, 3), dtype=np.float32)
        self.words: list[str] = []

    def put(self, picture: Picture, left: int, top: int) -> None:
        """Place a picture (rows, columns, 3)."""
        rows, columns = picture.shape[:2]
        self.pixels[top : top + rows, left : left + columns] = picture

    def finished(self) -> npt.NDArray[np.uint8]:
        """Return the picture as bytes, shape (rows, columns, 3)."""
        return np.rint(np.clip(self.pixels, 0, 255)).astype(np.uint8)

    def text(
        self,
        words: str,
        left: float,
        top: float,
        *,
        color: Rgb,
        size: int,
        anchor: str = "la",
        width: float | None = None,
    ) -> None:
        """Write one line, at most `width` pixels long.

        Args:
            words: Any text; see `drawable`.
            left: Where the anchor lies.
            top: Likewise.
            color: Of the letters.
            size: Height of the font in pixels.
            anchor: As Pillow's: horizontally l, m or r, then vertically a, m or d.
            width: Longer words are cut, and end in dots.
        """
        line = fitting(drawable(words), size, width)
        if not line:
            return
        self.words.append(line)
        for stroke, ink_color, opacity in ((HALO_STROKE, (0, 0, 0), HALO_OPACITY), (0, color, 1.0)):
            ink, (x, y) = _written(line, size, anchor, stroke)
            self._lay(ink, ink_color, opacity, (round(left) + x, round(top) + y))

    def lines(
        self,
        polylines: Sequence[Floats],
        *,
        box: tuple[int, int, int, int],
        color: Rgb,
        width: float,
        dash: tuple[float, float] | None = None,
    ) -> None:
        """Draw open polylines, points (n, 2) as (x, y) in pixels of a box, cut at its border.

        Args:
            polylines: Centres of pixels are whole.
            box: Left, top, columns and rows of the part of the picture.
            color: Of the lines.
            width: In pixels.
            dash: Lengths of stroke and gap in pixels, or None for solid lines.
        """
        left, top, columns, rows = box
        strokes = [
            s for line in polylines for s in ([line] if dash is None else _dashed(line, dash))
        ]
        part = _part_with(strokes, width / 2 + HALO_PIXELS, (columns, rows))
        if part is None:
            return
        x0, y0, x1, y1 = part
        inks = []
        for wide in (width + 2 * HALO_PIXELS, width):
            ink = Image.new("L", ((x1 - x0) * FINER, (y1 - y0) * FINER))
            draw = ImageDraw.Draw(ink)
            for stroke in strokes:
                # the centre of pixel 0 lies half a pixel from the border
                at = (stroke + 0.5) * FINER - 0.5 - (x0 * FINER, y0 * FINER)
                draw.line(
                    [(float(x), float(y)) for x, y in at],
                    fill=255,
                    width=max(1, round(wide * FINER)),
                    joint="curve",
                )
            inks.append(np.asarray(ink.reduce(FINER)))
        self._lay(inks[0], (0, 0, 0), HALO_OPACITY, (left + x0, top + y0))
        self._lay(inks[1], color, 1.0, (left + x0, top + y0))

    def _lay(
        self, ink: npt.NDArray[np.uint8], color: Rgb, opacity: float, at: tuple[int, int]
    ) -> None:
        """Lay ink (255: full) over the picture, its corner at (x, y); what is off it is lost."""
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        if not len(rows):
            return
        y0, x0 = max(rows[0], -at[1]), max(columns[0], -at[0])
        y1 = min(rows[-1] + 1, self.pixels.shape[0] - at[1])
        x1 = min(columns[-1] + 1, self.pixels.shape[1] - at[0])
        if y0 >= y1 or x0 >= x1:
            return
        cover = ink[y0:y1, x0:x1, None] * np.float32(opacity / 255.0)
        part = self.pixels[at[1] + y0 : at[1] + y1, at[0] + x0 : at[0] + x1]
        part *= 1.0 - cover
        part += cover * np.array(color, dtype=np.float32)


def drawable(words: str) -> str:
    r"""Return a text as one line that the font can draw.

    Accents are taken off, what stays unknown (other alphabets, control characters, marks that turn
    the direction of writing) becomes a question mark.

    Example:
        >>> drawable("GTV\u202e\u00fc\nD\u00e4rme \u5927")
        'GTV?u Darme ?'
    """
    line = " ".join(words.split())
    return "".join(_drawable(character) for character in line)


def fitting(line: str, size: int, width: float | None) -> str:
    """Return a drawable line, cut with dots at its end if it is longer than `width` pixels."""
    font = _font(size)
    if width is None or font.getlength(line) <= width:
        return line
    # no letter is narrower than this: what lies beyond cannot fit, however long the text
    line = line[: max(0, int(width))]
    while line and font.getlength(line + ELLIPSIS) > width:
        line = line[:-1]
    return line + ELLIPSIS if line else ""


@lru_cache(maxsize=512)
def _written(
    line: str, size: int, anchor: str, stroke: int
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Return the ink of a line, and where its corner lies from the anchor."""
    font = _font(size)
    x0, y0, x1, y1 = font.getbbox(line, anchor=anchor, stroke_width=stroke)
    corner = (math.floor(x0) - 1, math.floor(y0) - 1)
    ink = Image.new("L", (math.ceil(x1) + 1 - corner[0], math.ceil(y1) + 1 - corner[1]))
    ImageDraw.Draw(ink).text(
        (-corner[0], -corner[1]), line, fill=255, font=font, anchor=anchor, stroke_width=stroke
    )
    return np.asarray(ink), corner


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType: no letters can be drawn")
    return font


@cache
def _known() -> frozenset[str]:
    font = _font(12)
    unknown = bytes(font.getmask(_UNKNOWN))
    printable = (chr(code) for code in range(0x20, 0x250))
    return frozenset(
        c for c in printable if c.isprintable() and (c == " " or bytes(font.getmask(c)) != unknown)
    )


def _drawable(character: str) -> str:
    if character in _known():
        return character
    if character in _SPELLED:
        return _SPELLED[character]
    if unicodedata.combining(character):
        return ""
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if c in _known())
    return bare or "?"


def _part_with(
    strokes: Sequence[Floats], reach: float, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the columns and rows, first and end of each, that strokes can touch; None: none."""
    if not strokes:
        return None
    points = np.concatenate(strokes)
    # a corner may stick out, and all is rounded: three pixels more
    low = np.maximum(0, np.floor(points.min(axis=0) - reach) - 3).astype(int)
    high = np.minimum(size, np.ceil(points.max(axis=0) + reach) + 4).astype(int)
    if (low >= high).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _dashed(line: Floats, dash: tuple[float, float]) -> list[Floats]:
    """Return the strokes of a dashed polyline."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    on, off = dash
    count = max(1, round(float(lengths[-1]) / (on + off)))
    period = float(lengths[-1]) / count
    strokes = []
    for number in range(count):
        begin, end = number * period, number * period + period * on / (on + off)
        between = lengths[(lengths > begin) & (lengths < end)]
        at = np.concatenate([[begin], between, [end]])
        strokes.append(np.stack([np.interp(at, lengths, line[:, i]) for i in (0, 1)], axis=-1))
    return strokes
