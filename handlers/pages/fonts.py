"""The letters of the PDF: DejaVu Sans, embedded as far as it is used.

The files come with matplotlib, which brings them under a free licence and is not imported: that
would take seconds and memory. No other file is read.
"""

import io
import unicodedata
from functools import cache
from importlib.util import find_spec
from typing import Protocol, cast

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

PLAIN, BOLD = "HilumSans", "HilumSans-Bold"
"""Names under which the fonts are known while a page is set."""

_FILES = {PLAIN: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf"}
_FOLDER = "mpl-data/fonts/ttf"

UNKNOWN = "?"
"""Stands for a character that the font does not have."""

_FROM_THE_RIGHT = ("R", "AL")
"""Bidirectional classes of letters that are read from right to left (Unicode Annex 9)."""


class _Loader(Protocol):
    def get_data(self, path: str) -> bytes: ...


@cache
def register_fonts() -> None:
    """Make both fonts known to reportlab, under their names."""
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations or spec.loader is None:
        raise ImportError("matplotlib, which brings the fonts, is not installed")
    folder = spec.submodule_search_locations[0]
    for font, file in _FILES.items():
        letters = cast("_Loader", spec.loader).get_data(f"{folder}/{_FOLDER}/{file}")
        pdfmetrics.registerFont(TTFont(font, io.BytesIO(letters)))
    pdfmetrics.registerFontFamily(PLAIN, normal=PLAIN, bold=BOLD, italic=PLAIN, boldItalic=BOLD)


def printable(text: str) -> str:
    """Return a text as this font can print it, from left to right.

    Characters that it does not have (as of Chinese) become question marks. Words that are read from
    right to left are turned round; Arabic letters are not joined.

    Example:
        >>> printable("Żółć Ἀθῆναι Мария 大"), printable("GTV אב")
        ('Żółć Ἀθῆναι Мария ?', 'GTV בא')
    """
    register_fonts()
    known = _known()
    line = unicodedata.normalize("NFC", text)
    line = "".join(c if ord(c) in known else UNKNOWN for c in line)
    return _turned(line)


@cache
def _known() -> frozenset[int]:
    faces = [pdfmetrics.getFont(font).face.charToGlyph for font in _FILES]
    return frozenset(faces[0]).intersection(*faces[1:])


def _turned(line: str) -> str:
    """Return a line with each run of words from the right turned round."""
    is_right = [unicodedata.bidirectional(c) in _FROM_THE_RIGHT for c in line]
    if not any(is_right):
        return line
    parts: list[str] = []
    at = 0
    while at < len(line):
        if not is_right[at]:
            parts.append(line[at])
            at += 1
            continue
        end = last = at
        while end < len(line) and (is_right[end] or not line[end].isalnum()):
            last = end if is_right[end] else last
            end += 1
        parts.append(line[at : last + 1][::-1])
        at = last + 1
    return "".join(parts)
