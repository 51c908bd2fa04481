"""The record of what was received: appended and synced before a sender is told "success".

Entries of associations that wait at the same moment are written and synced together (group
commit). The index is filled from the journal, behind the answer; after a crash it is what tells
which files were promised. Knows nothing of DICOM and of what an entry says; never rewrites one.

A segment is a file of zeros, written and synced beforehand so that an entry's sync has only data
to write. An entry is length, checksum, sequence number and payload; a segment ends at the first
that is not whole. Read `Journal.append` first.
"""

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from node.disk import DiskCalls

SEGMENT_BYTES = 8 << 20
"""Room of a segment; an entry takes some hundred bytes."""

FIRST_ROOM_BYTES = 64 << 10
"""Room of the first segment after a failure; that of the next ones is twice as large each."""

LARGEST_PAYLOAD_BYTES = 1 << 16

_FRONT = struct.Struct("<LLQ")
"""Length of the payload, CRC-32 of sequence number and payload, sequence number."""

_SUFFIX = ".journal"

FOLDER_PREFIX = "journal-"


def journal_folder(data: Path, process: str) -> Path:
    """Return where in the data folder a receiving process has its journal."""
    return data / f"{FOLDER_PREFIX}{process}"


@dataclass(slots=True)
class _Entry:
    """What one thread waits to see on stable storage; guarded by the journal's lock."""

    payload: bytes
    then: Callable[[int], None]
    sequence: int = 0
    failure: BaseException | None = None
    is_settled: bool = False


@dataclass(slots=True)
class _Segment:
    path: Path
    descriptor: int
    room_bytes: int = 0
    used_bytes: int = 0
    last_sequence: int = 0
    """Of its newest entry; 0 while it has none."""


@dataclass(slots=True)
class Journal:
    """The journal of one node, in a folder of its own; safe for many threads.

    Attributes:
        folder: Made if absent. One process at a time may use it.
        disk: The system calls to use.
        segment_bytes: Room of a segment.
    """

    folder: Path
    disk: DiskCalls = field(default_factory=DiskCalls)
    segment_bytes: int = SEGMENT_BYTES
    _waiting: list[_Entry] = field(default_factory=list, repr=False)
    _enter: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Guards `_waiting`."""
    _commit: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held by the thread that writes for all who wait; guards what follows."""
    _next_sequence: int = 1
    _room_bytes: int = 0
    """Of the next segment: less than `segment_bytes` after a failure."""
    _segment: _Segment | None = field(default=None, repr=False)
    _full: list[_Segment] = field(default_factory=list, repr=False)
    """Segments that take no more entries, oldest first; their descriptors are closed."""

    def __post_init__(self) -> None:
        self._room_bytes = self.segment_bytes

    def open(self, above: int) -> Iterator[tuple[int, bytes]]:
        """Return what an earlier process wrote: sequence numbers and payloads, oldest first.

        To be called once, and read to its end, before anything is appended.

        Args:
            above: New entries are numbered above this, and above those found.

        Raises:
            OSError: The folder cannot be made or read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.disk.sync_directory(self.folder.parent)
        self._next_sequence = above + 1
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            segment = _Segment(path, descriptor=-1)
            for sequence, payload in _entries(path):
                segment.last_sequence = sequence
                self._next_sequence = max(self._next_sequence, sequence + 1)
                yield sequence, payload
            if segment.last_sequence:
                self._full.append(segment)
            else:
                path.unlink()  # nothing in it was ever promised

    def look(self) -> Iterator[tuple[int, bytes]]:
        """Return what another process wrote by now, as `open` does; changes nothing.

        It may be alive, and write, or remove what it has filed itself.
        """
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            with suppress(FileNotFoundError):
                yield from list(_entries(path))

    def make_ready(self) -> None:
        """Make room for the first entry, so that it need not wait for that.

        Raises:
            OSError: The disk refuses.
        """
        with self._commit:
            try:
                self._with_room(0)
            except BaseException:
                self._give_up_segment()
                raise

    def append(self, payload: bytes, then: Callable[[int], None]) -> None:
        """Return once an entry survives a power cut.

        Whoever comes while another thread syncs waits, and the next to go writes for all who wait.

        Args:
            payload: What the entry says, at most `LARGEST_PAYLOAD_BYTES`.
            then: Called with the entry's sequence number when it is on stable storage, in the
                order of these numbers, perhaps by another thread; must be quick and not raise.

        Raises:
            OSError: It could not be written or synced. It counts as not appended, but may come
                back from `open` after a power cut.
        """
        if not 0 < len(payload) <= LARGEST_PAYLOAD_BYTES:
            raise ValueError("the payload is empty or longer than an entry may be")
        entry = _Entry(payload, then)
        with self._enter:
            self._waiting.append(entry)
        with self._commit:
            if not entry.is_settled:
                with self._enter:
                    batch, self._waiting = self._waiting, []
                self._settle(batch)
        if isinstance(entry.failure, OSError):
            raise OSError(entry.failure.errno, entry.failure.strerror) from entry.failure
        if entry.failure is not None:
            raise RuntimeError("the journal failed") from entry.failure

    def last_written_s(self) -> float:
        """Return when an earlier process last wrote, in seconds since 1970; 0 if there was none."""
        with self._commit:
            return max((s.path.stat().st_mtime for s in self._full), default=0.0)

    def may_forget(self, up_to_sequence: int) -> bool:
        """Tell whether `forget` would remove something."""
        with self._commit:
            return any(s.last_sequence <= up_to_sequence for s in self._full)

    def forget(self, up_to_sequence: int) -> None:
        """Remove the segments of which every entry is filed."""
        with self._commit:
            done = [s for s in self._full if s.last_sequence <= up_to_sequence]
            self._full = [s for s in self._full if s.last_sequence > up_to_sequence]
        for segment in done:
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the open segment back; what is in it stays."""
        with self._commit:
            self._retire()

    def _settle(self, batch: list[_Entry]) -> None:
        try:
            self._write(batch)
        except BaseException as error:
            for entry in batch:
                entry.failure, entry.is_settled = error, True
            # the system may call the lost pages written: never sync this segment again
            self._give_up_segment()
            if not isinstance(error, OSError):
                raise
            return
        for entry in batch:
            entry.is_settled = True
            entry.then(entry.sequence)

    def _write(self, batch: list[_Entry]) -> None:
        parts = []
        for entry in batch:
            entry.sequence = self._next_sequence
            self._next_sequence += 1
            parts += [_front(entry.sequence, entry.payload), entry.payload]
        block = b"".join(parts)
        segment = self._with_room(len(block))
        rest = memoryview(block)
        while rest:
            rest = rest[self.disk.write(segment.descriptor, rest) :]
        self.disk.sync(segment.descriptor)
        segment.used_bytes += len(block)
        segment.last_sequence = batch[-1].sequence

    def _with_room(self, size_bytes: int) -> _Segment:
        segment = self._segment
        # behind the last entry a front of zeros must fit: it ends the segment
        if segment is not None and (
            segment.used_bytes + size_bytes + _FRONT.size <= segment.room_bytes
        ):
            return segment
        self._retire()
        path = self.folder / f"{self._next_sequence:020d}{_SUFFIX}"
        room_bytes = max(self._room_bytes, size_bytes + _FRONT.size)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._segment = _Segment(path, descriptor, room_bytes)
        zeros = memoryview(bytes(room_bytes))
        while zeros:
            zeros = zeros[self.disk.write(descriptor, zeros) :]
        self.disk.sync(descriptor)
        self.disk.sync_directory(self.folder)
        os.lseek(descriptor, 0, os.SEEK_SET)
        self._room_bytes = min(2 * self._room_bytes, self.segment_bytes)
        return self._segment

    def _give_up_segment(self) -> None:
        """Retire the open segment after a failure, without the entries that were refused.

        They are cut off, so that after a crash they are not taken for promises, if the disk allows
        it. The next segment is small: a disk that fails is not asked to take much for each try.
        """
        segment = self._segment
        if segment is not None:
            with suppress(OSError):
                os.ftruncate(segment.descriptor, segment.used_bytes)
        self._retire()
        self._room_bytes = min(FIRST_ROOM_BYTES, self.segment_bytes)

    def _retire(self) -> None:
        """Write no more into the open segment; one that promises nothing is removed."""
        segment, self._segment = self._segment, None
        if segment is not None:
            with suppress(OSError):  # what counts was synced
                os.close(segment.descriptor)
            if segment.last_sequence:
                self._full.append(segment)
            else:
                with suppress(OSError):  # then `open` removes it
                    segment.path.unlink(missing_ok=True)


def payloads_in(segment: Path) -> Iterator[bytes]:
    """Yield what the whole entries of one file say, oldest first."""
    for _sequence, payload in _entries(segment):
        yield payload


def _front(sequence: int, payload: bytes) -> bytes:
    return _FRONT.pack(len(payload), _checksum(sequence, payload), sequence)


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(sequence.to_bytes(8, "little")))


def _entries(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read a segment up to the first entry that is not whole."""
    content = path.read_bytes()
    position = 0
    while position + _FRONT.size <= len(content):
        length, checksum, sequence = _FRONT.unpack_from(content, position)
        start = position + _FRONT.size
        payload = content[start : start + length]
        is_whole = 0 < length <= LARGEST_PAYLOAD_BYTES and len(payload) == length
        if not is_whole or _checksum(sequence, payload) != checksum:
            return
        yield sequence, payload
        position = start + length
