"""Lays data sets out as P-DATA-TF PDUs of the length that a peer takes (PS3.8 9.3.5).

One buffer holds the PDUs of a part of a data set, their headers between the fragments, so that a
file is read straight into place and many PDUs leave in one piece. Knows no connection.
"""

import os
import struct
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from errno import EIO
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from node.pdu_stream import IS_COMMAND, IS_LAST, P_DATA_TF

_HEADERS = struct.Struct(">BxLLBB")
"""PDU type and length; length, presentation context and control header of its only value."""

_VALUE_HEADER_BYTES = 6
"""What a PDU holds besides the fragment: length, context and control header of the value."""

SHORTEST_PDU_BYTES = _VALUE_HEADER_BYTES + 2
"""A peer that takes less can be sent nothing: fragments have an even length (PS3.8 E.2)."""

LONGEST_PDU_BYTES = 256 << 10
"""We make none longer, whatever a peer takes: its buffers are its own affair."""

_BUFFER_BYTES = 1 << 20
_MOST_FRAGMENTS = 512
"""Pieces of a file that are read together: the system takes 1024 (IOV_MAX)."""


class DataSource(Protocol):
    """An encoded data set, read from its beginning to its end."""

    size_bytes: int

    @abstractmethod
    def read_into(self, places: Sequence[memoryview]) -> None:
        """Fill places with the next bytes.

        Raises:
            OSError: They cannot be read.
        """


class FileData:
    """The data set of a file, open while used as a context.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, start: int, size_bytes: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._position = start
        self.size_bytes = size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # it was only read
            os.close(self._file)

    def read_into(self, places: Sequence[memoryview]) -> None:
        """Fill places with the next bytes."""
        expected = sum(map(len, places))
        found = os.preadv(self._file, places, self._position)
        if found != expected:
            raise OSError(EIO, "the file has become shorter")
        self._position += found


class MemoryData:
    """A data set that was encoded anew."""

    def __init__(self, encoded: bytes) -> None:
        self._view = memoryview(encoded)
        self._position = 0
        self.size_bytes = len(encoded)

    def read_into(self, places: Sequence[memoryview]) -> None:
        """Fill places with the next bytes."""
        for place in places:
            stop = self._position + len(place)
            place[:] = self._view[self._position : stop]
            self._position = stop


class Fragments:
    """Makes PDUs for one association, used by one thread.

    Args:
        longest_pdu_bytes: What the peer takes, at least `SHORTEST_PDU_BYTES`; 0 says no limit.
    """

    def __init__(self, longest_pdu_bytes: int) -> None:
        longest = min(longest_pdu_bytes or LONGEST_PDU_BYTES, LONGEST_PDU_BYTES)
        self._fragment_bytes = (longest - _VALUE_HEADER_BYTES) & ~1
        pdu_bytes = _HEADERS.size + self._fragment_bytes
        self._count = max(1, min(_MOST_FRAGMENTS, _BUFFER_BYTES // pdu_bytes))
        self._content = memoryview(bytearray(self._count * pdu_bytes))
        starts = range(_HEADERS.size, len(self._content), pdu_bytes)
        self._places = [self._content[at : at + self._fragment_bytes] for at in starts]

    def of_command(self, context_id: int, command: bytes) -> bytes:
        """Return the PDUs of a command set."""
        pdus = b""
        for at in range(0, len(command), self._fragment_bytes):
            fragment = command[at : at + self._fragment_bytes]
            is_last = at + len(fragment) == len(command)
            control = IS_COMMAND | (IS_LAST if is_last else 0)
            pdus += _headers(len(fragment), context_id, control) + fragment
        return pdus

    def of_data(
        self, context_id: int, source: DataSource, left_bytes: int
    ) -> tuple[memoryview, int]:
        """Return PDUs with the next bytes of a data set, and how many these are.

        The PDUs are valid until the next call.

        Args:
            context_id: The presentation context.
            source: The data set.
            left_bytes: How much of it is still to be sent.

        Raises:
            OSError: It cannot be read.
        """
        size = min(left_bytes, self._count * self._fragment_bytes)
        whole, rest = divmod(size, self._fragment_bytes)
        places = self._places[:whole]
        if rest:
            places = [*places, self._places[whole][:rest]]
        source.read_into(places)
        position = 0
        for number, place in enumerate(places, 1):
            is_last = number == len(places) and size == left_bytes
            control = IS_LAST if is_last else 0
            header = _headers(len(place), context_id, control)
            self._content[position : position + _HEADERS.size] = header
            position += _HEADERS.size + len(place)
        return self._content[:position], size


def _headers(fragment_bytes: int, context_id: int, control: int) -> bytes:
    value_bytes = fragment_bytes + 2
    pdu_bytes = fragment_bytes + _VALUE_HEADER_BYTES
    return _HEADERS.pack(P_DATA_TF, pdu_bytes, value_bytes, context_id, control)
