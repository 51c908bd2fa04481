"""Decodes the values that were kept of a data set: text, UIDs, numbers.

What is absent or malformed is empty or None, never guessed. Parses no data set.
"""

import math
from collections.abc import Iterable
from typing import Any

from pydicom.charset import decode_bytes, default_encoding, python_encoding

MOST_ESCAPES = 64
"""Text that changes its character set more often is read as if it did not.

A name does so 30 times at most, and each bad change would cost a line in the log.
"""

_ESCAPE = b"\x1b"
_BACKSLASH_AND_CARET = {0x5C, 0x5E}
_DECIMAL_CHARACTERS = frozenset("0123456789+-.eE\\ ")

Values = dict[Any, Any]
"""Raw values by keyword: bytes; a list of items for a sequence; True; or, of a sequence, the
distinct bytes that stand within, as keys."""


class Attributes:
    """The values that were kept, and what they say."""

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
        if _ESCAPE in raw and raw.count(_ESCAPE) <= MOST_ESCAPES:
            return decode_bytes(raw, self._codecs, _BACKSLASH_AND_CARET).strip(" \0")
        return raw.decode(self._codecs[0], "replace").strip(" \0")

    def number(self, keyword: str) -> int | None:
        """Return an unsigned short."""
        raw = self.values.get(keyword, b"")
        return int.from_bytes(raw, self._order) if len(raw) == 2 else None

    def decimals(self, keyword: str, count: int) -> Any:
        """Return exactly `count` decimals, or None."""
        text = self.text(keyword)
        if not _DECIMAL_CHARACTERS.issuperset(text) or text.count("\\") != count - 1:
            return None
        try:
            numbers = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            return None
        return numbers if all(map(math.isfinite, numbers)) else None


def uid_of(values: Values, keyword: str) -> str:
    """Return a UID of an item as sent, or an empty string."""
    raw: bytes = values.get(keyword, b"")
    return raw.decode("ascii", "replace").rstrip(" \0")


def distinct_uids(*collected: Iterable[bytes]) -> tuple[str, ...]:
    """Return the distinct UIDs among what was kept of sequences, in order."""
    raw = dict.fromkeys(one for some in collected for one in some)
    uids = (one.decode("ascii", "replace").rstrip(" \0") for one in raw)
    return tuple(dict.fromkeys(one for one in uids if one))


def descend(items: Iterable[Values], keywords: tuple[str, ...]) -> Iterable[Values]:
    """Return the items of sequences within sequences of the given items."""
    for keyword in keywords:
        items = [inner for item in items for inner in item.get(keyword, ())]
    return items
