"""A deflated data set as if it were inflated, without ever holding more than a window of it.

Inflates twice: once to know the length and that the stream is whole, once while it is read. Reading
goes forwards only. Knows nothing of elements, never inflates beyond a bound.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from node.errors import UnreadableObjectError

LARGEST_INFLATED_BYTES = 1 << 30
"""A deflated data set that grows beyond this is refused: no object of radiotherapy is so large."""

_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 18
_MOST_PADDING_BYTES = 1
"""A deflated stream is padded to even length with one NUL (PS3.5 A.5)."""


class Inflated:
    """An inflated data set that is read from front to back.

    Args:
        deflated: The data set as sent (PS3.5 A.5).

    Raises:
        UnreadableObjectError: It is damaged, ends early, or grows beyond
            `LARGEST_INFLATED_BYTES`.
    """

    def __init__(self, deflated: bytes | bytearray | memoryview | mmap.mmap) -> None:
        self._size_bytes = 0
        for part in _inflating(deflated):
            self._size_bytes += len(part)
            if self._size_bytes > LARGEST_INFLATED_BYTES:
                raise UnreadableObjectError("the deflated data set is too large")
        self._parts = _inflating(deflated)
        self._window = b""
        self._window_start = 0

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, place: slice) -> bytes:
        """Return the bytes between two places, fewer where the data set ends before."""
        start, stop = place.start, min(place.stop, self._size_bytes)
        while self._window_start + len(self._window) < stop:
            rest = self._window[max(start - self._window_start, 0) :]
            self._window_start += len(self._window) - len(rest)
            self._window = rest + next(self._parts)
        if start < self._window_start:
            raise ValueError("an inflated data set is read forwards only")
        return self._window[start - self._window_start : stop - self._window_start]

    def unpack(self, form: struct.Struct, start: int) -> tuple[Any, ...]:
        """Return what stands at a place; `struct.error` where the data set ends before."""
        return form.unpack(self[start : start + form.size])


def _inflating(deflated: bytes | bytearray | memoryview | mmap.mmap) -> Iterator[bytes]:
    """Yield the inflated data set in parts; raise where it is not whole."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    behind = 0
    try:
        while behind < len(deflated) and not inflater.eof:
            start, behind = behind, min(behind + _INPUT_BYTES, len(deflated))
            part, rest = b"", bytes(deflated[start:behind])
            # a full part may leave more inside, and what follows the end is never consumed
            while not inflater.eof and (rest or len(part) == _OUTPUT_BYTES):
                part = inflater.decompress(rest, _OUTPUT_BYTES)
                rest = inflater.unconsumed_tail
                yield part
    except zlib.error as error:
        raise UnreadableObjectError("the deflated data set cannot be inflated") from error
    if not inflater.eof:
        raise UnreadableObjectError("the deflated data set ends early")
    if len(inflater.unused_data) + len(deflated) - behind > _MOST_PADDING_BYTES:
        raise UnreadableObjectError("something follows the deflated data set")
