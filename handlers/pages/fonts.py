"""The letters of the PDF: DejaVu Sans, embedded as far as it is used.

The files come with matplotlib, which brings them under a free licence and is not imported: that
would take seconds and memory. No other file is read. Letters of Chinese, Japanese and Korean, which
no free font that we have holds, are left to the viewer: named by the standard fonts of PDF for
these languages, and only in documents that need them.
"""

import io
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from typing import Protocol, cast
from xml.sax.saxutils import escape

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont

PLAIN, BOLD = "HilumSans", "HilumSans-Bold"
"""Names under which the fonts are known while a page is set."""

_FILES = {PLAIN: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf"}
_FOLDER = "mpl-data/fonts/ttf"

CHINESE, JAPANESE, KOREAN = "STSong-Light", "HeiseiMin-W3", "HYSMyeongJo-Medium"
"""Fonts that viewers of PDF know by these names or replace (ISO 32000-1, 9.7.5.2); not bold."""

_KANA = ((0x3040, 0x30FF), (0x31F0, 0x31FF))
_HANGUL = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7A3))
_HAN = ((0x3000, 0x303F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF))
"""Code points of scripts that these fonts hold; the last one with its punctuation."""

UNKNOWN = "?"
"""Stands for a character that no font has."""

_FROM_THE_RIGHT = ("R", "AL")
"""Bidirectional classes of letters that are read from right to left (Unicode Annex 9)."""


class _Loader(Protocol):
    def get_data(self, path: str) -> bytes: ...


@cache
def register_fonts() -> None:
    """Make all fonts known to reportlab, under their names."""
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations or spec.loader is None:
        raise ImportError("matplotlib, which brings the fonts, is not installed")
    folder = spec.submodule_search_locations[0]
    for font, file in _FILES.items():
        letters = cast("_Loader", spec.loader).get_data(f"{folder}/{_FOLDER}/{file}")
        pdfmetrics.registerFont(TTFont(font, io.BytesIO(letters)))
    for font in (CHINESE, JAPANESE, KOREAN):
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    pdfmetrics.registerFontFamily(PLAIN, normal=PLAIN, bold=BOLD, italic=PLAIN, boldItalic=BOLD)


def printable(text: str) -> str:
    r"""Return a text as these fonts can print it, from left to right.

    Characters that none of them has become question marks. Words that are read from right to left
    are turned round; Arabic letters are not joined.

    Example:
        >>> printable("Żółć Ἀθῆναι Мария 大 \N{KHMER LETTER KA}"), printable("GTV אב")
        ('Żółć Ἀθῆναι Мария 大 ?', 'GTV בא')
    """
    register_fonts()
    known = _known()
    line = unicodedata.normalize("NFC", text)
    line = "".join(c if ord(c) in known or _is_eastern(c) else UNKNOWN for c in line)
    return _turned(line)


def pieces(text: str, font: str) -> Iterator[tuple[str, str]]:
    """Give a text as it is printed in pieces of one font, each with its font.

    Args:
        text: Any.
        font: `PLAIN` or `BOLD`: of all letters that it has.

    Example:
        >>> list(pieces("王 Wang", PLAIN)), list(pieces("やまだ", BOLD))
        ([('王', 'STSong-Light'), (' Wang', 'HilumSans')], [('やまだ', 'HeiseiMin-W3')])
    """
    line = printable(text)
    known = _known()
    han = JAPANESE if any(_is_of(c, _KANA) for c in line) else CHINESE

    def font_of(c: str) -> str:
        if ord(c) in known:
            return font
        return KOREAN if _is_of(c, _HANGUL) else han

    for chosen, letters in groupby(line, font_of):
        yield "".join(letters), chosen


def width_of(text: str, font: str, size: float) -> float:
    """Return how wide a text is printed, in units of `size`; arguments as of `pieces`."""
    return sum(float(pdfmetrics.stringWidth(part, f, size)) for part, f in pieces(text, font))


def marked(text: str) -> str:
    """Return a text as a paragraph takes it, all marks of its own made harmless."""
    return "".join(
        escape(part) if font == PLAIN else f'<font name="{font}">{escape(part)}</font>'
        for part, font in pieces(text, PLAIN)
    )


def _is_eastern(c: str) -> bool:
    return _is_of(c, _KANA) or _is_of(c, _HANGUL) or _is_of(c, _HAN)


def _is_of(c: str, blocks: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(c) <= last for first, last in blocks)


@cache
def _known() -> frozenset[int]:
    """Return the code points that both fonts of our own have."""
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
