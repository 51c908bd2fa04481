"""A folder of backups: whole ones, each in a folder of its own, unchanged files held in common.

Each backup can be used by itself: files that the one before has, too, are hard links to it, all
others are copies. `SHA256SUMS` lists every file as `sha256sum` does, in the order of the paths, so
that `sha256sum -c` checks a backup without us. A backup has its name only when it is whole: what
was broken off is removed by the next. Knows nothing of what the files are.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.disk import sync_folder
from node.errors import NodeError, StorageFullError

SUMS_FILE = "SHA256SUMS"
ABOUT_FILE = "backup.json"
LOCK_FILE = "backup.lock"
PART = ".part"

FORMAT = 1
"""Of a backup; another one is refused."""

_PIECE = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LINK = frozenset({errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})


class BackupError(NodeError):
    """A backup cannot be made, is damaged, or is none."""


@dataclass(frozen=True, slots=True)
class Summed:
    """A file of a backup, relative to its folder."""

    path: str
    sha256: str


def backups_in(folder: Path) -> list[Path]:
    """Return the whole backups in a folder, oldest first; the folder itself if it is one."""
    if (folder / ABOUT_FILE).is_file():
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix != PART and (p / ABOUT_FILE).is_file())


def newest_in(folder: Path) -> Path:
    """Return the newest whole backup in a folder, or the folder itself if it is one.

    Raises:
        BackupError: There is none.
    """
    found = backups_in(folder)
    if not found:
        raise BackupError(f"{folder} holds no backup", hint="`hilum backup FOLDER` makes one")
    return found[-1]


def read_about(backup: Path) -> dict[str, Any]:
    """Return what a backup says of itself.

    Raises:
        BackupError: It cannot be read, or is of another format.
    """
    try:
        about: dict[str, Any] = json.loads((backup / ABOUT_FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise BackupError(
                f"{backup} has the format {about['format']}, this program reads {FORMAT}",
                hint="restore it with the version of Hilum that made it",
            )
    except (OSError, ValueError, KeyError) as error:
        raise BackupError(f"{backup / ABOUT_FILE} cannot be read: it is damaged") from error
    return about


def sums_of(backup: Path) -> Iterator[Summed]:
    """Yield what a backup should hold, in the order of the paths.

    Raises:
        BackupError: The list cannot be read.
    """
    try:
        with (backup / SUMS_FILE).open(encoding="utf-8") as lines:
            for line in lines:
                sha256, mark, path = line.rstrip("\n").partition("  ")
                if not mark or len(sha256) != 64 or ".." in Path(path).parts or path[:1] == "/":
                    raise BackupError(f"{backup / SUMS_FILE} is damaged")
                yield Summed(path, sha256)
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(f"{backup / SUMS_FILE} cannot be read: it is damaged") from error


def damaged_in(backup: Path) -> Iterator[str]:
    """Yield, in a sentence each, what in a backup is not what it was when it was made."""
    about = read_about(backup)
    if _sha256_of(backup / SUMS_FILE) != about.get("sums_sha256"):
        yield f"{SUMS_FILE} is not the list that was written"
    count = 0
    for one in sums_of(backup):
        count += 1
        path = backup / one.path
        try:
            if _sha256_of(path) != one.sha256:
                yield f"{one.path} is damaged"
        except OSError as error:
            yield f"{one.path} cannot be read: {error.strerror}"
    if count != about.get("files"):
        yield f"{count} files are listed, {about.get('files')} were written"


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Let one process at a time work on a folder.

    Raises:
        BackupError: Another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BackupError(f"{what} {folder} already", hint="wait until it is done") from error
        yield


class BackupWriter:
    """Writes one backup; `finish` gives it its name.

    Args:
        folder: Of all backups.
        name: Of this one.
        floor_bytes: How much room must stay free on the disk of `folder`.
    """

    def __init__(self, folder: Path, name: str, floor_bytes: int) -> None:
        self._folder = folder
        self._final = folder / name
        self._floor_bytes = floor_bytes
        before = backups_in(folder)
        self._before = before[-1] if before else None
        self._known = _Lookup(sums_of(self._before) if self._before else iter(()))
        self.part = folder / f"{name}{PART}"
        self.copied = self.linked = self.copied_bytes = 0
        self._sums: list[str] = []
        if self._final.exists():
            raise BackupError(f"{self._final} exists already", hint="try again in a second")
        for stale in folder.glob(f"*{PART}"):
            shutil.rmtree(stale, ignore_errors=True)
        self.part.mkdir()

    def add_kept(self, source: Path, path: str) -> bool:
        """Add a file that never changes: linked where the backup before has it.

        To be called in the order of the paths.

        Returns:
            False where the file is gone; then it is saved only if the backup before has it.

        Raises:
            StorageFullError: No room.
        """
        sha256 = self._known.take(path)
        try:
            size_bytes = source.stat().st_size
        except FileNotFoundError:
            size_bytes = -1
        if sha256 is not None and self._link(path, sha256, size_bytes):
            return size_bytes >= 0
        if size_bytes < 0:
            return False
        self.add(source, path)
        return True

    def _link(self, path: str, sha256: str, size_bytes: int) -> bool:
        """Take a file of the backup before, if it has it, and in this size where that is known."""
        assert self._before is not None  # noqa: S101 - the sum is of its list
        earlier = self._before / path
        try:
            if size_bytes >= 0 and earlier.stat().st_size != size_bytes:
                return False
            self._place(path)
            os.link(earlier, self.part / path)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False  # it is copied
            raise _translated(error, self._folder) from error
        self._note(path, sha256)
        self.linked += 1
        return True

    def add(self, source: Path, path: str) -> None:
        """Add a copy of a file as it is now.

        Raises:
            FileNotFoundError: There is no such file.
            StorageFullError: No room.
        """
        with source.open("rb") as reading:
            self._require_room(os.fstat(reading.fileno()).st_size)
            digest = hashlib.sha256()
            try:
                with self._place(path).open("wb") as writing:
                    while piece := reading.read(_PIECE):
                        digest.update(piece)
                        writing.write(piece)
                        self.copied_bytes += len(piece)
            except OSError as error:
                raise _translated(error, self._folder) from error
        self._note(path, digest.hexdigest())
        self.copied += 1

    def note_made(self, path: str) -> None:
        """Add a file that was written into `part` directly."""
        self._note(path, _sha256_of(self.part / path))
        self.copied += 1
        self.copied_bytes += (self.part / path).stat().st_size

    def finish(self, about: dict[str, Any]) -> Path:
        """Bring the backup to stable storage and give it its name.

        Raises:
            StorageFullError: No room.
        """
        try:
            self._sums.sort(key=lambda line: line.partition("  ")[2])
            (self.part / SUMS_FILE).write_text("".join(self._sums), encoding="utf-8")
            told = {
                "format": FORMAT,
                **about,
                "files": len(self._sums),
                "copied": self.copied,
                "linked": self.linked,
                "sums_sha256": _sha256_of(self.part / SUMS_FILE),
            }
            text = json.dumps(told, indent=2) + "\n"
            (self.part / ABOUT_FILE).write_text(text, encoding="utf-8")
            os.sync()  # all of it at once: file by file would take hours
            self.part.rename(self._final)
            sync_folder(self._folder)
        except OSError as error:
            raise _translated(error, self._folder) from error
        return self._final

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.part, ignore_errors=True)

    def _place(self, path: str) -> Path:
        target = self.part / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _note(self, path: str, sha256: str) -> None:
        self._sums.append(f"{sha256}  {path}\n")

    def _require_room(self, size_bytes: int) -> None:
        if shutil.disk_usage(self._folder).free - size_bytes < self._floor_bytes:
            raise StorageFullError(
                f"the backup would leave less room in {self._folder} than must stay free",
                hint="make room there, keep fewer backups (--keep), or choose another disk",
            )


class _Lookup:
    """Finds sums by path in a sorted list that is read once, for paths asked in their order."""

    def __init__(self, sums: Iterator[Summed]) -> None:
        self._sums = sums
        self._next: Summed | None = next(sums, None)

    def take(self, path: str) -> str | None:
        """Return the sum of a path that is not before the last one asked for, or None."""
        while self._next is not None and self._next.path < path:
            self._next = next(self._sums, None)
        return self._next.sha256 if self._next is not None and self._next.path == path else None


def forget_older(folder: Path, keep: int) -> list[Path]:
    """Remove the oldest backups but for so many; return them."""
    old = backups_in(folder)[:-keep]
    for backup in old:
        gone = backup.with_name(f"{backup.name}{PART}")
        backup.rename(gone)  # from now on it is no backup
        shutil.rmtree(gone, ignore_errors=True)
    return old


def copy_checked(backup: Path, folder: Path, files: Iterable[Summed]) -> int:
    """Copy files of a backup, each checked while it is copied; return how many.

    Raises:
        BackupError: A file is damaged or missing; it is named.
        StorageFullError: No room.
    """
    count = 0
    for one in files:
        target = folder / one.path
        digest = hashlib.sha256()
        try:
            reading = (backup / one.path).open("rb")
        except OSError as error:
            raise _damaged(backup, one.path, error.strerror or "cannot be read") from error
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with reading, target.open("xb") as writing:
                while piece := reading.read(_PIECE):
                    digest.update(piece)
                    writing.write(piece)
        except OSError as error:
            raise _translated(error, folder) from error
        if digest.hexdigest() != one.sha256:
            raise _damaged(backup, one.path, "is not what was saved")
        count += 1
    return count


def _damaged(backup: Path, path: str, what: str) -> BackupError:
    return BackupError(
        f"{path} of the backup {backup} is damaged: {what}",
        hint="restore an earlier backup: name its folder; `hilum backup --verify` checks each",
    )


def _translated(error: OSError, folder: Path) -> NodeError:
    if error.errno in _FULL:
        return StorageFullError(f"no room left in {folder}", hint="make room, then begin anew")
    return BackupError(f"{folder}: {error.strerror}", hint="see who may write there")
