"""Instance files: written into a spare file, synced, renamed; immutable ever after.

A file's name is a hash of SOP Instance UID and a random text, never text from a peer. Knows no
DICOM beyond the order of preamble, header and data set, no index, no journal and no network.

Spare files are empty, open files whose names are on stable storage already, made many at a time and
ahead of need. So the sync of its data is all that an object needs before it is renamed; what is
lost of the rename in a power cut is told by the journal (`ObjectStore.finish_rename`). Read
`ReceivedFile` first.
"""

import errno
import hashlib
import logging
import mmap
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from node.errors import StorageFullError

LOGGER = logging.getLogger(__name__)

SPARE_FILES = 64
"""How many spare files are made at a time, for one sync of their folder; two such lots are kept."""

ROOM_LOOKED_AT_S = 0.05
"""How long what was seen of the disk's free room is believed."""

PROBE_S = 1.0
"""How often a disk that failed is tried again when nobody writes."""

ROOM_CHECK_BYTES = 16 << 20
"""After so many bytes of one object the free room is looked at again."""

_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Errors of a disk that is full or fails: time or the operator must act."""

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FILE_MODE = 0o640

Piece = bytes | memoryview


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


@dataclass(frozen=True, slots=True)
class _Spare:
    path: Path
    descriptor: int


class ReceivedFile:
    """An object on its way to the disk: `write` what comes, then `keep`, or else `discard`.

    Used by one thread; made by `ObjectStore.receive`.

    Attributes:
        spare: Where it is written, relative to the store's root.
        path: Where `keep` puts it, likewise.
        size_bytes: What was written.
    """

    def __init__(self, store: "ObjectStore", spare: "_Spare", sop_instance_uid: str) -> None:
        name = hashlib.sha256(f"{sop_instance_uid}\n{spare.path.name}".encode()).hexdigest()
        self.spare = f"{ObjectStore.SPARE}/{spare.path.parent.name}/{spare.path.name}"
        self.path = f"{ObjectStore.OBJECTS}/{name[:2]}/{name}.dcm"
        self.size_bytes = 0
        self._store = store
        self._spare = spare.path
        self._looked_at_bytes = 0
        self._descriptor = spare.descriptor

    def write(self, pieces: Sequence[Piece]) -> None:
        """Append what came.

        Raises:
            StorageFullError: No room, or the disk refuses.
        """
        if self.size_bytes - self._looked_at_bytes > ROOM_CHECK_BYTES:
            self._store.require_room()
            self._looked_at_bytes = self.size_bytes
        size_bytes = sum(map(len, pieces))
        with self._store.refusals:
            written = self._store.disk.write_pieces(self._descriptor, pieces)
            if written < size_bytes:
                self._write_rest(memoryview(b"".join(pieces))[written:])
        self.size_bytes += size_bytes

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._store.disk.write(self._descriptor, rest) :]

    @contextmanager
    def content(self, start: int) -> Iterator[memoryview]:
        """Give what was written, from a place on, for a block; pages are read as they are used."""
        with _mapped(self._descriptor, self.size_bytes, start) as found:
            yield found

    def keep(self) -> None:
        """Bring the data to stable storage, then give the file its name.

        Raises:
            StorageFullError: The disk refuses. Nothing is left behind.
        """
        try:
            with self._store.refusals:
                self._store.disk.sync(self._descriptor)
                self._close()
                self._store.disk.rename(self._spare, f"{self._store.root}/{self.path}")
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written, kept or not."""
        self._close()
        with suppress(OSError):  # then `recover` removes it
            self._spare.unlink(missing_ok=True)
            (self._store.root / self.path).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ObjectStore:
    """The objects of a node, one file each; safe for many threads.

    Args:
        root: The data folder; made if absent.
        min_free_bytes: What must stay free on the disk.
        min_free_share: Which share of the disk must stay free, 0 to 1.
        disk: The system calls to use.

    Attributes:
        root: The data folder.
        disk: The system calls in use.
        refusals: For `with`; errors of a full or failing disk within become ours.

    Raises:
        StorageFullError: The folder cannot be made or written.
    """

    SPARE = "spare"
    OBJECTS = "objects"
    """Folders below the root."""

    def __init__(
        self,
        root: Path,
        min_free_bytes: int,
        *,
        min_free_share: float = 0.0,
        disk: DiskCalls | None = None,
    ) -> None:
        self.root = root
        self.disk = disk or DiskCalls()
        self._spare_folder = root / self.SPARE
        self._objects = root / self.OBJECTS
        self._min_free_bytes = min_free_bytes
        self._min_free_share = min_free_share
        self._stock = _Stock(self)
        self.refusals = Refusals(self)
        self._failed_at_s: float | None = None
        self._room_seen_at_s = -ROOM_LOOKED_AT_S
        try:
            for folder in (*self.spare_folders(), *self._object_folders()):
                folder.mkdir(parents=True, exist_ok=True)
            for made in (self._spare_folder, self._objects, root, root.parent):
                self.disk.sync_directory(made)
        except OSError as error:
            raise _refusal(error) from error

    def receive(self, sop_instance_uid: str) -> ReceivedFile:
        """Return a file to write an object into.

        Args:
            sop_instance_uid: Only hashed.

        Raises:
            StorageFullError: No room, or the disk refuses.
        """
        self.require_room()
        with self.refusals:
            return ReceivedFile(self, self._stock.take(), sop_instance_uid)

    def make_ready(self) -> None:
        """Make spare files, so that the first object need not wait for that."""
        self._stock.start()

    def why_closed(self) -> str:
        """Return why objects cannot be taken now, or an empty text; a disk that failed is tried."""
        try:
            self.require_room()
            failed_at_s = self._failed_at_s
            if failed_at_s is not None and time.monotonic() - failed_at_s > PROBE_S:
                with self.refusals:
                    self._probe()
            elif failed_at_s is not None:
                return "the disk refused to write"
        except StorageFullError as error:
            return str(error)
        return ""

    def require_room(self) -> None:
        """Do nothing if the disk has the room that it must keep.

        Raises:
            StorageFullError: It has not.
        """
        now_s = time.monotonic()
        if now_s - self._room_seen_at_s < ROOM_LOOKED_AT_S:
            return
        with self.refusals:
            room = self.disk.room(self.root)
        floor_bytes = max(self._min_free_bytes, self._min_free_share * room.total_bytes)
        if room.free_bytes < floor_bytes:
            raise StorageFullError(
                "the disk has less free room than node.min_free_mib and min_free_percent demand",
                hint="make room, or lower node.min_free_mib or node.min_free_percent",
            )
        self._room_seen_at_s = now_s

    def note_failure(self, error: OSError) -> None:
        """Remember that the disk failed, and tell it once."""
        if self._failed_at_s is None:
            LOGGER.warning("disk.refuses", extra={"reason": os.strerror(error.errno or 0)})
        self._failed_at_s = time.monotonic()

    def read_path(self, relative: str) -> Path:
        """Return where a file of the store lies.

        Raises:
            ValueError: The path leads out of the store.
        """
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("the path leads out of the store")
        if path.parts[:1] != (self.OBJECTS,):
            raise ValueError("the path leads out of the store")
        return self.root / path

    @contextmanager
    def content(self, relative: str, start: int) -> Iterator[memoryview]:
        """Give what a file holds from a place on, for a block; pages are read as they are used.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        descriptor = os.open(self.read_path(relative), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _mapped(descriptor, os.fstat(descriptor).st_size, start) as found:
                yield found
        finally:
            os.close(descriptor)

    def finish_rename(self, spare: str, path: str) -> bool:
        """Give a promised object its name if a power cut took that; tell whether it is there."""
        final = self.read_path(path)
        written = self._spare_folder.joinpath(*PurePosixPath(spare).parts[-2:])
        if not final.exists() and written.exists():
            self.disk.rename(written, final)
        return final.exists()

    def remove_repetition(self, path: str) -> None:
        """Remove a file whose very bytes are kept under another name."""
        self.read_path(path).unlink(missing_ok=True)

    def was_interrupted(self) -> bool:
        """Tell whether an earlier process ended without `close`."""
        return any(path for folder in self.spare_folders() for path in folder.iterdir())

    def kept_since(self, seconds: float) -> list[str]:
        """Return the paths of objects that got their name after a time, in seconds since 1970."""
        return [
            f"{self.OBJECTS}/{folder.name}/{entry.name}"
            for folder in self._object_folders()
            for entry in os.scandir(folder)
            if entry.stat().st_ctime >= seconds
        ]

    def sync_names(self) -> None:
        """Bring the names of all objects to stable storage: no rename needs the journal then."""
        for folder in self._object_folders():
            self.disk.sync_directory(folder)

    def recover(self) -> int:
        """Remove what was never promised; return how many half-written files that was.

        To be called when the promised renames are finished, before anything is received, and only
        where no other process uses the folder.
        """
        half_written = 0
        for folder in self.spare_folders():
            for path in folder.iterdir():
                half_written += path.stat().st_size > 0
                path.unlink()
        return half_written

    def close(self) -> None:
        """Remove the spare files."""
        self._stock.close()

    def _probe(self) -> None:
        path = self.spare_folders()[0] / uuid.uuid4().hex
        descriptor = os.open(path, _NEW_FILE, _FILE_MODE)
        try:
            self.disk.write(descriptor, b"\0")
            self.disk.sync(descriptor)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)
        self.note_recovery()

    def note_recovery(self) -> None:
        """Tell that the disk took something again."""
        if self._failed_at_s is not None:
            self._failed_at_s = None
            LOGGER.warning("disk.recovered")

    def spare_folders(self) -> list[Path]:
        """Return where spare files are made, in turn: making some must not hold up renaming."""
        return [self._spare_folder / "0", self._spare_folder / "1"]

    def _object_folders(self) -> list[Path]:
        return [self._objects / f"{number:02x}" for number in range(256)]


class Refusals:
    """Turns the errors of a full or failing disk into ours, and remembers that it failed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            self._store.note_failure(error)
            raise _refusal(error) from error


class _Stock:
    """Spare files, made ahead by a thread; safe for many threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._spares: deque[_Spare] = deque()
        self._lots = 0
        self._failure: OSError | None = None
        self._is_wanted = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to make spare files."""
        self._thread = threading.Thread(target=self._run, name="spare-files", daemon=True)
        self._thread.start()

    def take(self) -> _Spare:
        """Return a spare file; wait for it if need be.

        Raises:
            OSError: None can be made.
        """
        with self._changed:
            if self._thread is None:
                self.start()
            while True:
                if len(self._spares) <= SPARE_FILES and not self._is_wanted:
                    self._is_wanted = True
                    self._changed.notify_all()
                if self._spares:
                    return self._spares.popleft()
                self._changed.wait_for(lambda: self._spares or not self._is_wanted)
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure

    def close(self) -> None:
        """Remove what is in stock."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        while self._spares:
            _remove(self._spares.popleft())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted or self._is_closed)
                if self._is_closed:
                    return
            made, failure = self._made_lot()
            with self._changed:
                self._spares += made
                self._failure = failure
                self._is_wanted = False
                self._changed.notify_all()

    def _made_lot(self) -> tuple[list[_Spare], OSError | None]:
        folders = self._store.spare_folders()
        folder = folders[self._lots % len(folders)]
        self._lots += 1
        made: list[_Spare] = []
        try:
            for _ in range(SPARE_FILES):
                path = folder / uuid.uuid4().hex
                made.append(_Spare(path, os.open(path, _NEW_FILE, _FILE_MODE)))
            self._store.disk.sync_directory(folder)
        except OSError as error:
            for spare in made:
                _remove(spare)
            return [], error
        return made, None


@contextmanager
def _mapped(descriptor: int, size_bytes: int, start: int) -> Iterator[memoryview]:
    if size_bytes <= start:
        yield memoryview(b"")
        return
    with mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ) as mapped:
        whole = memoryview(mapped)
        part = whole[start:]
        try:
            yield part
        finally:
            part.release()
            whole.release()


def _remove(spare: _Spare) -> None:
    os.close(spare.descriptor)
    spare.path.unlink(missing_ok=True)


def _refusal(error: OSError) -> StorageFullError:
    return StorageFullError(
        f"the disk refuses to write: {os.strerror(error.errno or 0)}",
        hint="look at the disk's room, quota and health, then let the sender try again",
    )
