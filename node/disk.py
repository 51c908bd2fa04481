"""The system calls on which durability rests, and the errors of a disk that is full or fails."""

import array
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node.errors import StorageFullError

AWAY = frozenset(
    {
        errno.ENOTCONN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
    }
)
"""Errors of a network file system that cannot reach its server: no file is gone because of them."""

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a process or machine that is short of something: they tell nothing of a file."""

REFUSALS = AWAY | SCARCE | {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}
"""Errors with which nothing can be written now: time or the operator must act."""

NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
FILE_MODE = 0o640
"""How files of patients are made: new ones only, and not for everybody."""

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOPDIR = 0x00020000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of linux/fs.h, on machines of 64 bits."""

WORTH_STARTING_BYTES = 64 << 10
"""Less than that is left to the sync."""

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """Size of a file system and what of it is free, in bytes."""

    free_bytes: int
    total_bytes: int


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to stable storage: what was renamed stays renamed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def spread_folders_within(path: Path) -> None:
    """Let ext4 place each folder that is made in this one elsewhere on the disk (chattr +T).

    Other file systems, which do not know this, are left alone.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = array.array("l", [0])
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            flags[0] |= _TOPDIR
            fcntl.ioctl(descriptor, _SET_FLAGS, flags)
        finally:
            os.close(descriptor)


def start_writing(descriptor: int, start: int, size_bytes: int) -> None:
    """Let the disk begin with what was written there, so that the sync finds most of it done.

    Linux begins to write what is not needed again, and keeps in memory what it is still writing.
    Of a few pages the sync makes as little.
    """
    if size_bytes < WORTH_STARTING_BYTES:
        return
    with suppress(OSError):  # only advice: what fails is told by the sync
        os.posix_fadvise(descriptor, start, size_bytes, os.POSIX_FADV_DONTNEED)


def _room(path: Path) -> DiskRoom:
    found = os.statvfs(path)
    return DiskRoom(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


@dataclass(frozen=True, slots=True)
class DiskCalls:
    """The calls on which durability rests; tests put failing or recording ones in their place."""

    write: Callable[[int, Piece], int] = os.write
    write_pieces: Callable[[int, Sequence[Piece]], int] = os.writev
    sync: Callable[[int], None] = os.fdatasync
    rename: Callable[[Path | str, Path | str], None] = os.replace
    sync_directory: Callable[[Path], None] = sync_folder
    room: Callable[[Path], DiskRoom] = _room


@contextmanager
def mapped(descriptor: int, size_bytes: int, start: int) -> Iterator[memoryview]:
    """Give a file from a place on, for a block; pages are read as they are used."""
    if size_bytes <= start:
        yield memoryview(b"")
        return
    with mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ) as file:
        whole = memoryview(file)
        part = whole[start:]
        try:
            yield part
        finally:
            part.release()
            whole.release()


def read_at_once(descriptor: int, size_bytes: int) -> bytes:
    """Return the next bytes of a file, all of them.

    Raises:
        OSError: They cannot be read, or the file is shorter.
    """
    found = os.read(descriptor, size_bytes)
    while len(found) < size_bytes:  # some network file systems give less at a time
        more = os.read(descriptor, size_bytes - len(found))
        if not more:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found += more
    return found


def refusal(error: OSError) -> StorageFullError:
    """Return our error for one of the disk's."""
    return StorageFullError(
        f"the disk refuses to write: {os.strerror(error.errno or 0)}",
        hint="look at the disk's room, quota and health, then let the sender try again",
    )
