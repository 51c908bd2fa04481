"""Steps through an encoded data set and keeps the few values that are asked for.

An element that nobody needs is stepped over, but its length is checked, so that a data set cut off
anywhere is noticed. Never decodes pixel data, never writes, never guesses a transfer syntax.
pydicom's own reader is not used here: it does not notice a cut within a value it skips, and its
warnings quote values. Read PS3.5 section 7 first.
"""

import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydicom import config, uid
from pydicom.charset import decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID

from node.errors import UnreadableObjectError

PREAMBLE_BYTES = 128
PREFIX = b"DICM"
"""What a DICOM file begins with (PS3.10 7.1)."""

LARGEST_INFLATED_BYTES = 1 << 30
"""A deflated data set that grows beyond this is refused: no object of radiotherapy is so large."""

DEEPEST_NESTING = 32
"""Sequences within sequences beyond this are refused; real objects stay below ten."""

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
"""PS3.5 7.5."""

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a length of four, or of two bytes (PS3.5 7.1.2)."""

_ESCAPE = b"\x1b"
_BACKSLASH_AND_CARET = {0x5C, 0x5E}
_DECIMAL_CHARACTERS = frozenset("0123456789+-.eE\\ ")
_PIXEL_DATA = tag_for_keyword("PixelData")

Values = dict[str, Any]
"""Raw values by keyword: bytes, or a list of items for a sequence."""


def wanted_elements(keywords: str) -> dict[int, tuple[str, bool]]:
    """Return what `read_elements` is to keep, by tag: keyword, and whether it is a sequence."""
    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords.split()}
    return {
        tag: (keyword, dictionary_VR(tag) == "SQ")
        for keyword, tag in tags.items()
        if tag is not None
    }


def read_elements(
    encoded: bytes, transfer_syntax_uid: str, wanted: Mapping[int, tuple[str, bool]]
) -> "Attributes":
    """Return the wanted values of a data set, at whatever depth they stand.

    Args:
        encoded: The data set, without file meta information.
        transfer_syntax_uid: How it is encoded.
        wanted: Made by `wanted_elements`.

    Raises:
        UnreadableObjectError: It cannot be parsed, or ends early.
    """
    syntax = UID(transfer_syntax_uid, validation_mode=config.IGNORE)  # else it warns in words
    if not syntax.is_valid or syntax.is_private or not syntax.is_transfer_syntax:
        raise UnreadableObjectError("the transfer syntax is not known")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        encoded = _inflated(encoded)
    if not encoded:
        raise UnreadableObjectError("the data set is empty")
    is_little = syntax.is_little_endian
    steps = _Steps(encoded, wanted, is_implicit=syntax.is_implicit_VR, is_little_endian=is_little)
    values, _ = steps.dataset(0, len(encoded), is_delimited=False, depth=0)
    return Attributes(values, is_little_endian=is_little)


def encoded_from_file(path: Path) -> tuple[str, bytes]:
    """Return the transfer syntax and the encoded data set of a DICOM file (PS3.10).

    Raises:
        UnreadableObjectError: The file cannot be read, or is no DICOM file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error
    if content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] != PREFIX:
        raise UnreadableObjectError("no DICOM file: the prefix DICM is missing")
    start = PREAMBLE_BYTES + len(PREFIX)
    wanted = wanted_elements("TransferSyntaxUID")
    steps = _Steps(content, wanted, is_implicit=False, is_little_endian=True)
    meta, end = steps.file_meta(start)
    syntax = uid_of(meta, "TransferSyntaxUID")
    if not syntax:
        raise UnreadableObjectError("the file meta information names no transfer syntax")
    return syntax, content[end:]


def _inflated(encoded: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(encoded, LARGEST_INFLATED_BYTES)
    except zlib.error as error:
        raise UnreadableObjectError("the deflated data set cannot be inflated") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise UnreadableObjectError("the deflated data set ends early or is too large")
    return inflated


class _Steps:
    """Steps through an encoded data set, keeps the wanted values, checks every length."""

    def __init__(
        self,
        content: bytes,
        wanted: Mapping[int, tuple[str, bool]],
        *,
        is_implicit: bool,
        is_little_endian: bool,
    ) -> None:
        self._content = content
        self._wanted = wanted
        self._is_implicit = is_implicit
        order = "<" if is_little_endian else ">"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")

    def file_meta(self, position: int) -> tuple[Values, int]:
        """Return the values of group 0002 and the place where the data set begins."""
        values: Values = {}
        while self._content[position : position + 2] == b"\x02\x00":
            tag, _, length, position = self._element_header(position, len(self._content))
            if tag in self._wanted:
                values[self._wanted[tag][0]] = self._content[position : position + length]
            position += length
        return values, position

    def dataset(
        self, position: int, end: int, *, is_delimited: bool, depth: int
    ) -> tuple[Values, int]:
        """Return the wanted values of a data set or item, and the place behind it."""
        if depth > DEEPEST_NESTING:
            raise UnreadableObjectError("sequences are nested too deeply")
        values: Values = {}
        while position < end:
            tag, vr, length, position = self._element_header(position, end)
            if tag == ITEM_DELIMITER and is_delimited:
                return values, position
            keyword, is_sequence = self._wanted.get(tag, ("", False))
            value: Any
            if length == UNDEFINED_LENGTH:
                value, position = self._undefined(tag, vr, position, end, depth)
                is_kept = is_sequence
            else:
                stop = position + length
                if stop > end:
                    raise UnreadableObjectError(f"the data set ends within element {_name(tag)}")
                if is_sequence:
                    value, _ = self._within(vr)._items(
                        position, stop, is_delimited=False, depth=depth
                    )
                elif keyword:
                    value = self._content[position:stop]
                position = stop
                is_kept = bool(keyword)
            if is_kept:
                values[keyword] = value
            elif tag == _PIXEL_DATA:
                values["PixelData"] = b""  # that it is there; its value is nobody's business here
        if is_delimited:
            raise UnreadableObjectError("the data set ends within a sequence item")
        return values, position

    def _element_header(self, position: int, end: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty where none is encoded), length, and the place of the value."""
        vr = b""
        try:
            group, element = self._tag.unpack_from(self._content, position)
            tag = group << 16 | element
            if self._is_implicit or group == ITEM >> 16:
                length, value = self._long.unpack_from(self._content, position + 4)[0], position + 8
            else:
                vr = self._content[position + 4 : position + 6]
                if vr in SHORT_VRS:
                    length = self._short.unpack_from(self._content, position + 6)[0]
                    value = position + 8
                elif vr in LONG_VRS:
                    length = self._long.unpack_from(self._content, position + 8)[0]
                    value = position + 12
                else:
                    raise UnreadableObjectError(f"element {_name(tag)} has no known VR")
        except struct.error as error:
            raise UnreadableObjectError("the data set ends within an element") from error
        if value > end:
            raise UnreadableObjectError("the data set ends within an element")
        return tag, vr, length, value

    def _undefined(
        self, tag: int, vr: bytes, position: int, end: int, depth: int
    ) -> tuple[list[Values], int]:
        if tag == _PIXEL_DATA:
            return [], self._behind_fragments(position, end)
        return self._within(vr)._items(position, end, is_delimited=True, depth=depth)

    def _within(self, vr: bytes) -> "_Steps":
        """Return what steps through a sequence; of unknown VR it is implicit (PS3.5 6.2.2)."""
        if vr != b"UN":
            return self
        return _Steps(self._content, self._wanted, is_implicit=True, is_little_endian=True)

    def _items(
        self, position: int, end: int, *, is_delimited: bool, depth: int
    ) -> tuple[list[Values], int]:
        items: list[Values] = []
        while position < end:
            tag, _, length, position = self._element_header(position, end)
            if tag == SEQUENCE_DELIMITER and is_delimited:
                return items, position
            is_open = length == UNDEFINED_LENGTH
            stop = end if is_open else position + length
            if tag != ITEM or stop > end:
                raise UnreadableObjectError("a sequence holds something else than whole items")
            item, position = self.dataset(position, stop, is_delimited=is_open, depth=depth + 1)
            items.append(item)
        if is_delimited:
            raise UnreadableObjectError("the data set ends within a sequence")
        return items, position

    def _behind_fragments(self, position: int, end: int) -> int:
        while position < end:
            tag, _, length, position = self._element_header(position, end)
            if tag == SEQUENCE_DELIMITER:
                return position
            position += length
            if tag != ITEM or position > end:
                break
        raise UnreadableObjectError("the data set ends within encapsulated pixel data")


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Attributes:
    """The values that were kept; decodes them; what is absent or malformed is empty or None."""

    def __init__(self, values: Values, *, is_little_endian: bool) -> None:
        self.values = values
        self._order: Any = "little" if is_little_endian else "big"
        names = values.get("SpecificCharacterSet", b"").decode("ascii", "replace").split("\\")
        self._codecs = [python_encoding.get(n.strip(" \0"), default_encoding) for n in names]

    def items(self, *keywords: str) -> list[Values]:
        """Return all items of a sequence, or of sequences within sequences."""
        return list(descend([self.values], keywords))

    def uid(self, keyword: str) -> str:
        """Return a UID as sent, or an empty string."""
        return uid_of(self.values, keyword)

    def text(self, keyword: str, values: Values | None = None) -> str:
        """Return text of the data set, or of one of its items, in its character set."""
        raw: bytes = (self.values if values is None else values).get(keyword, b"")
        if _ESCAPE in raw:
            return decode_bytes(raw, self._codecs, _BACKSLASH_AND_CARET).strip(" \0")
        return raw.decode(self._codecs[0], "replace").strip(" \0")

    def number(self, keyword: str) -> int | None:
        """Return an unsigned short."""
        raw = self.values.get(keyword, b"")
        return int.from_bytes(raw, self._order) if len(raw) == 2 else None

    def decimals(self, keyword: str, count: int) -> Any:
        """Return exactly `count` decimals, or None."""
        text = self.text(keyword)
        if not _DECIMAL_CHARACTERS.issuperset(text):
            return None
        try:
            numbers = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            return None
        return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def uid_of(values: Values, keyword: str) -> str:
    """Return a UID of an item as sent, or an empty string."""
    raw: bytes = values.get(keyword, b"")
    return raw.decode("ascii", "replace").strip(" \0")


def descend(items: Iterable[Values], keywords: tuple[str, ...]) -> Iterable[Values]:
    """Return the items of sequences within sequences of the given items."""
    for keyword in keywords:
        items = [inner for item in items for inner in item.get(keyword, ())]
    return items
