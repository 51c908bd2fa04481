"""Instance files: temporary file, synced, renamed, directory synced; immutable ever after.

A file's name is a hash of SOP Instance UID and content, never text from a peer. Knows no DICOM
beyond the order of preamble, header and data set, no index and no network. Deletes nothing but
its own left-over temporary files.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from node.errors import StorageFullError

_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Errors of a disk that is full or fails: time or the operator must act."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_TEMPORARY_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store.

    Attributes:
        path: Relative to the store's root, with slashes.
        sha256: Of the data set, without preamble and file meta information.
        size_bytes: Of the whole file.
    """

    path: str
    sha256: str
    size_bytes: int


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to stable storage: what was renamed stays renamed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@dataclass(frozen=True, slots=True)
class DiskCalls:
    """The calls on which durability rests; tests put failing or recording ones in their place."""

    write: Callable[[int, bytes | memoryview], int] = os.write
    sync: Callable[[int], None] = os.fdatasync
    rename: Callable[[Path, Path], None] = os.replace
    sync_directory: Callable[[Path], None] = sync_folder
    free_bytes: Callable[[Path], int] = _free_bytes


class ObjectStore:
    """The objects of a node, one file each, safe for many threads and processes.

    Args:
        root: The data folder; made if absent.
        min_free_bytes: What must stay free on the disk.
        disk: The system calls to use.

    Raises:
        StorageFullError: The folder cannot be made or written.
    """

    def __init__(self, root: Path, min_free_bytes: int, disk: DiskCalls | None = None) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._objects = root / "objects"
        self._min_free_bytes = min_free_bytes
        self._disk = disk or DiskCalls()
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            for number in range(256):
                (self._objects / f"{number:02x}").mkdir(parents=True, exist_ok=True)
            for made in (self._objects, root, root.parent):
                self._disk.sync_directory(made)
        except OSError as error:
            raise _refusal(error) from error

    def write(self, file_header: bytes, encoded: bytes, sop_instance_uid: str) -> StoredFile:
        """Return the file that holds an object once it survives a power cut.

        The same UID and data set again give the same file and write nothing.

        Args:
            file_header: Preamble, prefix and file meta information (PS3.10 7.1).
            encoded: The data set as sent.
            sop_instance_uid: Only hashed.

        Raises:
            StorageFullError: No room, or the disk refuses. Nothing is left behind.
        """
        sha256 = hashlib.sha256(encoded).hexdigest()
        name = hashlib.sha256(f"{sop_instance_uid}\n{sha256}".encode()).hexdigest()
        path = self._objects / name[:2] / f"{name}.dcm"
        relative = path.relative_to(self._root).as_posix()
        size_bytes = len(file_header) + len(encoded)
        try:
            if path.exists():  # only whole files get this name; the entry may not be synced yet
                self._disk.sync_directory(path.parent)
                return StoredFile(relative, sha256, path.stat().st_size)
            self._require_room(size_bytes)
            self._write_new(path, (file_header, encoded))
        except OSError as error:
            if error.errno in _REFUSALS:
                raise _refusal(error) from error
            raise
        return StoredFile(relative, sha256, size_bytes)

    def read_path(self, relative: str) -> Path:
        """Return where a file of the store lies.

        Raises:
            ValueError: The path leads out of the store.
        """
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("the path leads out of the store")
        found = self._root / path
        if not found.resolve().is_relative_to(self._objects.resolve()):
            raise ValueError("the path leads out of the store")
        return found

    def recover(self) -> int:
        """Remove what a stopped process left half written; return how many files it was.

        To be called before anything is received, and only where no other process uses the folder.
        """
        left_over = list(self._incoming.glob(f"*{_TEMPORARY_SUFFIX}"))
        for path in left_over:
            path.unlink()
        return len(left_over)

    def _require_room(self, size_bytes: int) -> None:
        if self._disk.free_bytes(self._root) - size_bytes < self._min_free_bytes:
            raise StorageFullError(
                "the disk has less free room than node.min_free_mib demands",
                hint="make room, or lower node.min_free_mib",
            )

    def _write_new(self, path: Path, parts: tuple[bytes, ...]) -> None:
        temporary = self._incoming / f"{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
        descriptor = os.open(temporary, _NEW_FILE, 0o640)
        try:
            try:
                for part in parts:
                    self._write_all(descriptor, part)
                self._disk.sync(descriptor)
            finally:
                os.close(descriptor)
            self._disk.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._disk.sync_directory(path.parent)

    def _write_all(self, descriptor: int, part: bytes) -> None:
        rest = memoryview(part)
        while rest:
            rest = rest[self._disk.write(descriptor, rest) :]


def _refusal(error: OSError) -> StorageFullError:
    return StorageFullError(
        f"the disk refuses to write: {os.strerror(error.errno or 0)}",
        hint="look at the disk's room, quota and health, then let the sender try again",
    )
