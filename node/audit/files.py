"""The files of the audit trail: appended to, synced, begun anew each day, removed after their time.

One line for each message, as syslog has it (RFC 5424). Several processes of one machine may append
to the same folder: each line is written whole, under a lock. A line that a power cut tore is ended
before the next one, and never mended.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from node.disk import FILE_MODE, sync_folder
from node.ownership import give_to_owner

LARGEST_BYTES = 16 << 20
"""A file that is as long as this takes no more lines: the next one is begun."""

_LOCK = "lock"
_NAME = re.compile(r"audit-(\d{4}-\d\d-\d\d)\.(\d{4})\.log")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the trail: a file's name, and how many of its bytes lie before."""

    file: str
    offset: int


class AuditFiles:
    """The trail of one machine, in a folder of its own.

    Args:
        folder: Made when something is first written; two folders down in the data folder.
        largest_bytes: Of one file.
    """

    def __init__(self, folder: Path, largest_bytes: int = LARGEST_BYTES) -> None:
        self._folder, self._data = folder, folder.parent.parent
        self._largest_bytes = largest_bytes

    def append(self, lines: Sequence[str], now: datetime) -> None:
        """Return once the lines survive a power cut.

        Args:
            lines: Without line ends.
            now: Decides the day, in UTC.

        Raises:
            OSError: The disk refuses.
        """
        with self._locked():
            path, is_new = self._current(now)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
            try:
                block = "".join(f"{line}\n" for line in lines).encode()
                rest = memoryview(_end_of_torn_line(descriptor) + block)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                give_to_owner(self._data, path)
                sync_folder(self._folder)

    def remove_before(self, day: date) -> int:
        """Remove the files of earlier days; return how many."""
        with self._locked():
            old = [path for path in self.files() if _day_of(path) < day]
            for path in old:
                path.unlink()
        return len(old)

    def files(self) -> list[Path]:
        """Return the files, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def lines_after(self, place: Place | None, most: int) -> Iterator[tuple[str, Place]]:
        """Yield whole lines after a place, each with the place behind it; None: from the first.

        Lines of a file that has been removed are gone; what follows is the next file.
        """
        count = 0
        for path in self.files():
            if place is not None and path.name < place.file:
                continue
            offset = place.offset if place is not None and path.name == place.file else 0
            try:
                file = path.open("rb")
            except FileNotFoundError:  # its time has come meanwhile
                continue
            with file:
                file.seek(offset)
                for raw in file:
                    if not raw.endswith(b"\n") or count >= most:
                        return
                    offset += len(raw)
                    count += 1
                    yield raw[:-1].decode("utf-8", "replace"), Place(path.name, offset)

    def bytes_after(self, place: Place | None) -> int:
        """Return how much of the trail lies after a place."""
        total = 0
        for path in self.files():
            if place is None or path.name > place.file:
                total += path.stat().st_size
            elif path.name == place.file:
                total += max(0, path.stat().st_size - place.offset)
        return total

    def _current(self, now: datetime) -> tuple[Path, bool]:
        """Return the file to append to, and whether it is to be made."""
        today = now.astimezone(UTC).date().isoformat()
        names = [path.name for path in self.files()]
        number = 0
        if names and (last := _NAME.fullmatch(names[-1])) and last[1] >= today:
            # a clock that was put back goes on in the newest file: the trail stays in order
            today, number = last[1], int(last[2])
            path = self._folder / names[-1]
            if path.stat().st_size < self._largest_bytes:
                return path, False
            number += 1
        return self._folder / f"audit-{today}.{number:04d}.log", True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, FILE_MODE)
        give_to_owner(self._data, self._folder.parent, self._folder, self._folder / _LOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _end_of_torn_line(descriptor: int) -> bytes:
    size_bytes = os.fstat(descriptor).st_size
    if not size_bytes:
        return b""
    return b"" if os.pread(descriptor, 1, size_bytes - 1) == b"\n" else b"\n"


def _day_of(path: Path) -> date:
    found = _NAME.fullmatch(path.name)
    assert found is not None  # noqa: S101 - `files` lists no others
    return date.fromisoformat(found[1])
