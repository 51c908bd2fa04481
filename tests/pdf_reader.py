"""Words, pages and fonts of a PDF as reportlab writes them, read from its bytes alone."""

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

_OBJECT = re.compile(rb"(\d+) 0 obj(.*?)endobj", re.DOTALL)
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\n?endstream", re.DOTALL)
_TOKEN = re.compile(
    rb"/(F\d+(?:\+\d+)?) [\d.]+ Tf|\(((?:\\.|[^\\()])*)\) Tj|1 0 0 1 (\S+) (\S+) Tm", re.DOTALL
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


@dataclass(frozen=True)
class ReadPdf:
    """What was read: the words of each page in the order of drawing, and the fonts by name."""

    pages: tuple[str, ...]
    embedded: Mapping[str, bool]
    dates: tuple[str, ...]

    @property
    def text(self) -> str:
        """All pages, without any white space."""
        return "".join("".join(page.split()) for page in self.pages)


def read_pdf(pdf: bytes) -> ReadPdf:
    """Read a PDF."""
    objects = {int(number): body for number, body in _OBJECT.findall(pdf)}
    fonts: dict[str, dict[int, str] | None] = {}
    embedded = {}
    for body in objects.values():
        if b"/Type /Font " not in body.replace(b"\n", b" ") + b" ":
            continue
        name = _name(body, b"/Name")
        embedded[_name(body, b"/BaseFont")] = _is_embedded(body, objects)
        unicode_map = re.search(rb"/ToUnicode (\d+) 0 R", body)
        fonts[name] = _letters(_stream(objects[int(unicode_map[1])])) if unicode_map else {}
        if b"-UCS2-H" in body:  # left to the viewer: two bytes for each letter
            fonts[name] = None
    kids = re.search(
        rb"/Kids \[(.*?)\]", next(b for b in objects.values() if b"/Kids" in b), re.DOTALL
    )
    assert kids is not None
    pages = []
    for number in re.findall(rb"(\d+) 0 R", kids[1]):
        contents = re.search(rb"/Contents (\d+) 0 R", objects[int(number)])
        assert contents is not None
        pages.append(_words(_stream(objects[int(contents[1])]), fonts))
    dates = tuple(
        d.decode()
        for d in re.findall(rb"Date \((D:[^)]*)\)", pdf.replace(rb"\(", b"").replace(rb"\)", b""))
    )
    return ReadPdf(tuple(pages), embedded, dates)


def _name(body: bytes, key: bytes) -> str:
    found = re.search(key + rb" /([^\s/]+)", body)
    return "" if found is None else found[1].decode()


def _is_embedded(body: bytes, objects: Mapping[int, bytes]) -> bool:
    descriptor = re.search(rb"/FontDescriptor (\d+) 0 R", body)
    return descriptor is not None and b"/FontFile2" in objects[int(descriptor[1])]


def _stream(body: bytes) -> bytes:
    found = _STREAM.search(body)
    assert found is not None
    data = found[1]
    if b"ASCII85Decode" in body:
        data = base64.a85decode(data.strip().removesuffix(b"~>"))
    return zlib.decompress(data) if b"FlateDecode" in body else data


def _letters(table: bytes) -> dict[int, str]:
    letters: dict[int, str] = {}
    for block in re.findall(rb"beginbfrange(.*?)endbfrange", table, re.DOTALL):
        for first, _last, listed in re.findall(rb"<(\w+)> <(\w+)> \[(.*?)\]", block, re.DOTALL):
            for at, code in enumerate(re.findall(rb"<(\w+)>", listed)):
                letters[int(first, 16) + at] = bytes.fromhex(code.decode()).decode("utf-16-be")
    for block in re.findall(rb"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        for code, letter in re.findall(rb"<(\w+)> <(\w+)>", block):
            letters[int(code, 16)] = bytes.fromhex(letter.decode()).decode("utf-16-be")
    return letters


def _words(content: bytes, fonts: Mapping[str, Mapping[int, str] | None]) -> str:
    words: list[str] = []
    letters: Mapping[int, str] | None = {}
    for font, shown, *_ in _TOKEN.findall(content):
        if font:
            letters = fonts[font.decode()]
        elif shown:
            codes = _ESCAPE.sub(_escaped, shown)
            if letters is None:
                words.append(codes.decode("utf-16-be"))
            else:
                words.append("".join(letters.get(code, chr(code)) for code in codes))
    return " ".join(words)


def _escaped(found: re.Match[bytes]) -> bytes:
    if found[1][:1].isdigit():
        return bytes([int(found[1], 8)])
    return _NAMED.get(found[1], found[1])
