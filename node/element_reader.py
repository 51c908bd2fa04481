"""Steps through an encoded data set and keeps the few values that are asked for.

An element that nobody needs is stepped over, but its length is checked, so that a data set cut off
anywhere is noticed. Never touches pixel data, never writes, never guesses a transfer syntax, never
holds more than some tens of MB, whatever a data set claims. pydicom's own reader is not used here:
it does not notice a cut within a value it skips, and its warnings quote values. Read PS3.5
section 7 first.

Where readers differ, a data set is refused rather than read in one of two ways: a wanted element
that stands twice (pydicom takes the last, DCMTK the first), an item or delimiter where none may be,
a delimiter with a length. Elements out of order are accepted; group lengths are ignored.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import config, uid
from pydicom.uid import UID

from node.attributes import Attributes, Values, uid_of
from node.errors import UnreadableObjectError
from node.inflation import Inflated
from node.wanted_elements import (
    ITEM,
    ITEM_DELIMITER,
    NOTHING,
    SEQUENCE_DELIMITER,
    SEQUENCE_VRS,
    Keep,
    Rule,
    Wanted,
    swapped,
    wanted_elements,
)

PREAMBLE_BYTES = 128
PREFIX = b"DICM"
"""What a DICOM file begins with (PS3.10 7.1)."""

DEEPEST_NESTING = 32
"""Sequences within sequences beyond this are refused; real objects stay below ten."""

MOST_STEPS = 5_000_000
"""A data set with more elements, items and fragments is refused: seconds of work.

A structure set of 300,000 contours has three million.
"""

MOST_KEPT_BYTES = 32 << 20
"""A data set of which more would be kept, with Python's own share, is refused.

Enough for 100,000 referenced instances, or 50,000 ROIs.
"""

LONGEST_VALUE_BYTES = 1 << 16
"""A wanted value longer than this is refused: no VR of one allows so much."""

ITEM_COST_BYTES = 320
VALUE_COST_BYTES = 128
"""Python's share of a kept item and of a kept value, about."""

UNDEFINED_LENGTH = 0xFFFFFFFF

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a length of four, or of two bytes (PS3.5 7.1.2)."""

_FRAGMENTED_VRS = frozenset((b"OB", b"OW"))
_PIXEL_DATA = 0x7FE00010
_TAGS = (ITEM, ITEM_DELIMITER, SEQUENCE_DELIMITER, _PIXEL_DATA)
_MARKS = frozenset(_TAGS[:3]) | frozenset(map(swapped, _TAGS[:3]))
_FILE_META = wanted_elements("TransferSyntaxUID")

Encoded = bytes | bytearray | memoryview | mmap.mmap
"""An encoded data set; of a mapped file only the pages of the header are touched."""


def read_elements(
    encoded: Encoded, transfer_syntax_uid: str, wanted: Wanted, *, size_bytes: int | None = None
) -> Attributes:
    """Return the wanted values of a data set.

    Looks into the sequences of which something within is kept, and into those of undefined length,
    whose end is not known otherwise.

    Args:
        encoded: The data set, without file meta information.
        transfer_syntax_uid: How it is encoded.
        wanted: Made by `wanted_elements`.
        size_bytes: Length of the data set, if `encoded` is only its beginning. What lies behind
            that beginning is not looked at: if anything must be, the data set cannot be parsed.

    Raises:
        UnreadableObjectError: It cannot be parsed, ends early, or is beyond a limit.
    """
    layout = _layout_of(transfer_syntax_uid)
    if layout.is_deflated and size_bytes is not None:
        raise UnreadableObjectError("a beginning cannot be inflated")
    content = Inflated(encoded) if layout.is_deflated else encoded
    if not len(content):
        raise UnreadableObjectError("the data set is empty")
    values: Values = {}
    end = len(content) if size_bytes is None else size_bytes
    _Steps(content, layout, _Room()).whole(end, wanted, values)
    return Attributes(values, is_little_endian=layout.is_little_endian)


def encoded_from_file(path: Path) -> tuple[str, bytes]:
    """Return the transfer syntax and the encoded data set of a DICOM file (PS3.10).

    Raises:
        UnreadableObjectError: The file cannot be read, or is no DICOM file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error
    start = PREAMBLE_BYTES + len(PREFIX)
    if content[PREAMBLE_BYTES:start] != PREFIX:
        raise UnreadableObjectError("no DICOM file: the prefix DICM is missing")
    end = _behind_file_meta(content, start)
    meta: Values = {}
    _Steps(content[start:end], _layout_of(uid.ExplicitVRLittleEndian), _Room()).whole(
        end - start, _FILE_META, meta
    )
    syntax = uid_of(meta, "TransferSyntaxUID")
    if not syntax:
        raise UnreadableObjectError("the file meta information names no transfer syntax")
    return syntax, content[end:]


def _behind_file_meta(content: bytes, position: int) -> int:
    """Return where the data set begins, whatever the group length says."""
    layout = _layout_of(uid.ExplicitVRLittleEndian)
    try:
        while content[position : position + 2] == b"\x02\x00":
            _, vr, length = layout.header.unpack_from(content, position)
            position += 8
            if vr in LONG_VRS:
                length = layout.length.unpack_from(content, position)[0]
                position += 4
            position += length
    except struct.error as error:
        raise UnreadableObjectError("the data set ends within an element") from error
    return position


@dataclass(frozen=True, slots=True)
class _Layout:
    """How elements stand in a transfer syntax; a tag is one number in its byte order.

    Attributes:
        header: Tag and length; or tag, VR and short length.
        item: Tag and length of an item or delimiter.
        length: A long length.
    """

    is_implicit: bool
    is_little_endian: bool
    is_deflated: bool
    header: struct.Struct
    item: struct.Struct
    length: struct.Struct
    item_tag: int
    item_delimiter: int
    sequence_delimiter: int
    pixel_data: int


@lru_cache(maxsize=64)
def _layout_of(transfer_syntax_uid: str) -> _Layout:
    syntax = UID(transfer_syntax_uid, validation_mode=config.IGNORE)  # else it warns in words
    if not syntax.is_valid or syntax.is_private or not syntax.is_transfer_syntax:
        raise UnreadableObjectError("the transfer syntax is not known")
    order = "<" if syntax.is_little_endian else ">"
    item, item_end, sequence_end, pixel_data = (
        map(swapped, _TAGS) if syntax.is_little_endian else _TAGS
    )
    return _Layout(
        is_implicit=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
        is_deflated=syntax == uid.DeflatedExplicitVRLittleEndian,
        header=struct.Struct(order + ("LL" if syntax.is_implicit_VR else "L2sH")),
        item=struct.Struct(order + "LL"),
        length=struct.Struct(order + "L"),
        item_tag=item,
        item_delimiter=item_end,
        sequence_delimiter=sequence_end,
        pixel_data=pixel_data,
    )


class _Element(NamedTuple):
    """An element that must be looked at.

    Attributes:
        start: Where its value begins.
        stop: Where it ends; if `is_open` (undefined length), a delimiter must come before.
    """

    tag: int
    vr: bytes
    start: int
    stop: int
    is_open: bool


@dataclass(slots=True)
class _Room:
    """What a data set may still cost."""

    steps: int = MOST_STEPS
    kept_bytes: int = MOST_KEPT_BYTES

    def step(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            raise UnreadableObjectError(f"the data set has more than {MOST_STEPS} elements")

    def keep(self, size_bytes: int) -> None:
        self.kept_bytes -= size_bytes
        if self.kept_bytes < 0:
            raise UnreadableObjectError("the header has too many items or references")


class _Steps:
    """Steps through an encoded data set, keeps the wanted values, checks every length."""

    def __init__(self, content: Encoded | Inflated, layout: _Layout, room: _Room) -> None:
        self._content = content
        self._layout = layout
        self._room = room
        self._header = _unpacking(layout.header, content)
        self._item = _unpacking(layout.item, content)
        self._length = _unpacking(layout.length, content)

    def whole(self, end: int, wanted: Wanted, values: Values) -> None:
        """Step over all of a data set that ends there."""
        try:
            self._elements(0, end, wanted, values, is_open=False, depth=0)
        except struct.error as error:
            raise UnreadableObjectError("the data set ends within an element") from error

    def _elements(
        self, position: int, end: int, wanted: Wanted, values: Values, *, is_open: bool, depth: int
    ) -> int:
        """Step over the elements of a data set or item; return the place behind it.

        The loop that receiving waits for: most elements cost one turn and no call of ours.

        Args:
            position: Where the first element stands.
            end: Where the last one ends; if `is_open`, a delimiter must come before.
            wanted: What to keep.
            values: Gets what is kept.
            is_open: Whether an item delimiter ends it.
            depth: How many sequences it stands in.
        """
        content, header, is_implicit = self._content, self._header, self._layout.is_implicit
        rules = wanted.little if self._layout.is_little_endian else wanted.big
        tag, vr, turn = 0, b"", 0
        for turn in range(self._room.steps + 1):
            if position >= end:
                break
            start = position + 8
            if is_implicit:
                tag, length = header(content, position)
            else:
                tag, vr, length = header(content, position)
                if vr not in SHORT_VRS:
                    if vr in LONG_VRS:
                        length = self._length(content, start)[0]
                        start += 4
                    elif tag not in _MARKS:
                        raise UnreadableObjectError(f"element {self._name(tag)} has no known VR")
            if tag not in rules and length != UNDEFINED_LENGTH:
                position = start + length
            elif tag in _MARKS:
                self._room.step(turn + 1)
                return self._behind_delimiter(position, end, is_open=is_open)
            else:
                is_open_value = length == UNDEFINED_LENGTH
                stop = end if is_open_value else start + length
                if start > end or stop > end:
                    position = end + 1
                    break
                found = _Element(tag, vr, start, stop, is_open_value)
                position = self._keep(found, rules.get(tag), values, depth)
        self._room.step(turn + 1)
        if position > end:
            raise UnreadableObjectError(f"the data set ends within element {self._name(tag)}")
        if is_open:
            raise UnreadableObjectError("the data set ends within a sequence item")
        return position

    def _behind_delimiter(self, position: int, end: int, *, is_open: bool) -> int:
        tag, length = self._item(self._content, position)
        if not is_open or tag != self._layout.item_delimiter or length or position + 8 > end:
            raise UnreadableObjectError("an item or a delimiter stands where none may be")
        return position + 8

    def _keep(self, found: _Element, rule: Rule | None, values: Values, depth: int) -> int:
        """Keep what is wanted of an element, or only step over it; return the place behind it.

        A wanted element whose VR is none that it may have counts as empty.
        """
        if rule is None:
            return self._behind(found, depth)
        keyword, keep, is_fit = rule.keyword, rule.keep, found.vr in rule.vrs
        if keyword in values:
            raise UnreadableObjectError(f"element {self._name(found.tag)} stands twice")
        into: list[Values] | Values = values
        if keep is Keep.VALUE:
            values[keyword] = self._value(found) if is_fit else b""
        elif keep is Keep.EACH:
            if is_fit:
                values[self._value(found, known=values)] = None
        elif keep is Keep.PRESENCE:
            behind, delimiter = self._behind(found, depth), 8 * found.is_open
            values[keyword] = is_fit and behind - found.start > delimiter
            return behind
        elif keep is not Keep.WITHIN:
            values[keyword] = into = [] if keep is Keep.ITEMS else {}
        if is_fit and rule.inner is not NOTHING:
            return self._items(found, rule.inner, into, depth)
        return self._behind(found, depth)

    def _value(self, found: _Element, known: Values | None = None) -> bytes:
        size_bytes = found.stop - found.start
        if found.is_open or size_bytes > LONGEST_VALUE_BYTES:
            raise UnreadableObjectError(f"element {self._name(found.tag)} is too long")
        value = bytes(self._content[found.start : found.stop])
        if len(value) != size_bytes:
            raise UnreadableObjectError(f"the data set ends within element {self._name(found.tag)}")
        if known is None or value not in known:
            self._room.keep(VALUE_COST_BYTES + size_bytes)
        return value

    def _behind(self, found: _Element, depth: int) -> int:
        """Return the place behind an element of which nothing more is kept."""
        if not found.is_open:
            return found.stop
        if found.tag == self._layout.pixel_data or found.vr in _FRAGMENTED_VRS:
            return self._behind_fragments(found)
        if found.vr in SEQUENCE_VRS:
            return self._items(found, NOTHING, {}, depth)
        raise UnreadableObjectError(f"element {self._name(found.tag)} has no length")

    def _items(
        self, found: _Element, inner: Wanted, into: list[Values] | Values, depth: int
    ) -> int:
        """Step over the items of a sequence; return the place behind it.

        Args:
            found: The sequence.
            inner: What to keep of each item.
            into: Gets the items if it is a list, otherwise what is kept of all of them.
            depth: How many sequences it stands in.
        """
        if depth >= DEEPEST_NESTING:
            raise UnreadableObjectError("sequences are nested too deeply")
        if found.vr == b"UN":  # then it is implicit (PS3.5 6.2.2)
            implicit = _Steps(self._content, _layout_of(uid.ImplicitVRLittleEndian), self._room)
            return implicit._items(found._replace(vr=b""), inner, into, depth)
        _, _, position, stop, is_open = found
        while position < stop:
            tag, length = self._item(self._content, position)
            position += 8
            if is_open and tag == self._layout.sequence_delimiter and not length:
                break
            is_open_item = length == UNDEFINED_LENGTH
            behind = stop if is_open_item else position + length
            if tag != self._layout.item_tag or position > stop or behind > stop:
                raise UnreadableObjectError("a sequence holds something else than whole items")
            values: Values = {}
            if isinstance(into, dict):
                values = into
            else:
                self._room.keep(ITEM_COST_BYTES)
                into.append(values)
            position = self._elements(
                position, behind, inner, values, is_open=is_open_item, depth=depth + 1
            )
        else:
            if is_open:
                raise UnreadableObjectError("the data set ends within a sequence")
        if position > stop:
            raise UnreadableObjectError("the data set ends within a sequence")
        return position

    def _behind_fragments(self, found: _Element) -> int:
        """Return the place behind encapsulated pixel data (PS3.5 A.4)."""
        position = found.start
        while position + 8 <= found.stop:
            self._room.step(1)
            tag, length = self._item(self._content, position)
            position += 8
            if tag == self._layout.sequence_delimiter and not length:
                return position
            if tag != self._layout.item_tag:
                break
            position += length
        raise UnreadableObjectError("the data set ends within encapsulated pixel data")

    def _name(self, tag: int) -> str:
        tag = swapped(tag) if self._layout.is_little_endian else tag
        return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _unpacking(form: struct.Struct, content: Encoded | Inflated) -> Callable[[Any, int], Any]:
    """Return what unpacks a form at a place of the content."""
    if isinstance(content, Inflated):
        return lambda inflated, position: inflated.unpack(form, position)
    return form.unpack_from
