"""Instance files: written into a spare file, synced, renamed; immutable ever after.

A file's name is a hash of SOP Instance UID and a random text, never text from a peer. Knows no
DICOM beyond the order of preamble, header and data set, no index, no journal and no network.

Spare files are empty, open files whose names are on stable storage already, made many at a time and
ahead of need. So the sync of its data is all that an object needs before it is renamed; what is
lost of the rename in a power cut is told by the journal (`ObjectStore.finish_rename`). Read
`ReceivedFile` first.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from node.disk import (
    AWAY,
    FILE_MODE,
    NEW_FILE,
    REFUSALS,
    SCARCE,
    DiskCalls,
    Piece,
    mapped,
    read_at_once,
    refusal,
    start_writing,
)
from node.errors import StorageFullError
from node.spare_files import Spare, SpareFiles

LOGGER = logging.getLogger(__name__)

ROOM_LOOKED_AT_S = 0.05
"""How long what was seen of the disk's free room is believed."""

PROBE_S = 1.0
"""How often a disk that failed is tried again when nobody writes."""

READ_AT_ONCE_BYTES = 1 << 20
"""A file that is larger is mapped after it was read through, piece by piece."""

ROOM_CHECK_BYTES = 16 << 20
"""After so many bytes of one object the free room is looked at again."""


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


class ReceivedFile:
    """An object on its way to the disk: `write` what comes, then `keep`, or else `discard`.

    Used by one thread; made by `ObjectStore.receive`.

    Attributes:
        spare: Where it is written, relative to the store's root.
        path: Where `keep` puts it, likewise.
        size_bytes: What was written.
    """

    def __init__(self, store: "ObjectStore", spare: Spare, sop_instance_uid: str) -> None:
        self.spare = spare.path.removeprefix(f"{store.root}/")
        name = hashlib.sha256(f"{sop_instance_uid}\n{self.spare}".encode()).hexdigest()
        self.path = f"{ObjectStore.OBJECTS}/{name[:2]}/{name}{store.suffix}"
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
        start_writing(self._descriptor, self.size_bytes, size_bytes)
        self.size_bytes += size_bytes

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._store.disk.write(self._descriptor, rest) :]

    @contextmanager
    def content(self, start: int) -> Iterator[memoryview]:
        """Give what was written, from a place on, for a block; pages are read as they are used."""
        with mapped(self._descriptor, self.size_bytes, start) as found:
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
        with suppress(OSError):
            self._close()
        with suppress(OSError):  # then `recover` removes it
            Path(self._spare).unlink(missing_ok=True)
            (self._store.root / self.path).unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)  # whatever it says: closed again, it would be another file's


class ObjectStore:
    """The objects of a node, one file each; safe for many threads.

    Args:
        root: The data folder; made if absent.
        min_free_bytes: What must stay free on the disk.
        min_free_share: Which share of the disk must stay free, 0 to 1.
        disk: The system calls to use.
        owner: The process that receives into it, where several share the folder: it has spare
            files of its own and signs what it names. Empty: there is only one.

    Attributes:
        root: The data folder.
        disk: The system calls in use.
        suffix: How the files end that this process names.
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
        owner: str = "",
    ) -> None:
        self.root = root
        self.disk = disk or DiskCalls()
        self.suffix = f"-{owner}.dcm" if owner else ".dcm"
        self._spare_folder = root / self.SPARE / owner
        self._objects = root / self.OBJECTS
        self._min_free_bytes = min_free_bytes
        self._min_free_share = min_free_share
        self._stock = SpareFiles(self._spare_folder, self.disk)
        self.refusals = Refusals(self)
        self._failed_at_s: float | None = None
        self._room_seen_at_s = -ROOM_LOOKED_AT_S
        try:
            for folder in (self._spare_folder, *self._object_folders()):
                folder.mkdir(parents=True, exist_ok=True)
            for made in (self._spare_folder, root / self.SPARE, self._objects, root, root.parent):
                self.disk.sync_directory(made)
        except OSError as error:
            raise refusal(error) from error

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
        """Give what a file holds from a place on, for a block.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        descriptor = os.open(self.read_path(relative), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes <= READ_AT_ONCE_BYTES:
                yield memoryview(read_at_once(descriptor, size_bytes))[start:]
                return
            # a bad sector is an error here; within a mapping it would end the process (SIGBUS)
            for at in range(0, size_bytes, READ_AT_ONCE_BYTES):
                read_at_once(descriptor, min(READ_AT_ONCE_BYTES, size_bytes - at))
            with mapped(descriptor, size_bytes, start) as found:
                yield found
        finally:
            os.close(descriptor)

    def require_there(self, error: OSError) -> None:
        """Do nothing if an error of reading concerns one file, not all of them.

        Raises:
            StorageFullError: The folder is away: its server is out of reach, or it is not mounted.
                Or this process is short of file descriptors or memory.
        """
        if error.errno in SCARCE:
            raise StorageFullError(
                f"what was received cannot be read: {error.strerror}",
                hint="raise the limit of open files or of memory, or end what else takes them",
            ) from error
        if error.errno not in AWAY:
            try:
                self._objects.stat()
            except OSError as of_all:
                error = of_all
            else:
                return
        raise StorageFullError(
            f"the data folder is away: {error.strerror}",
            hint="look at the network, and at what serves and mounts the folder; it goes on then",
        ) from error

    def finish_rename(self, spare: str, path: str) -> bool:
        """Give a promised object its name if a power cut took that; tell whether it is there."""
        final, written = self.read_path(path), PurePosixPath(spare)
        if ".." in written.parts or written.parts[:1] != (self.SPARE,):
            raise ValueError("the path leads out of the store")
        if not final.exists() and (self.root / written).exists():
            self.disk.rename(self.root / written, final)
        return final.exists()

    def remove_repetition(self, path: str) -> None:
        """Remove a file whose very bytes are kept under another name."""
        self.read_path(path).unlink(missing_ok=True)

    def was_interrupted(self) -> bool:
        """Tell whether an earlier process ended without `close`."""
        return any(self._spares_left())

    def kept_since(self, seconds: float) -> list[str]:
        """Return the paths of objects that got their name after a time, in seconds since 1970.

        Only of those that this process named.
        """
        return [
            f"{self.OBJECTS}/{folder.name}/{entry.name}"
            for folder in self._object_folders()
            for entry in os.scandir(folder)
            if entry.name.endswith(self.suffix) and entry.stat().st_ctime >= seconds
        ]

    def sync_names(self) -> None:
        """Bring the names of all objects to stable storage: no rename needs the journal then."""
        used = self._stock.used_lots()  # from now on a rename may empty another, and not be synced
        for folder in self._object_folders():
            self.disk.sync_directory(folder)
        self._stock.remove_lots(used)

    def recover(self) -> int:
        """Remove what was never promised; return how many half-written files that was.

        To be called when the promised renames are finished, and before anything is received.
        """
        half_written = 0
        for path in self._spares_left():
            half_written += path.stat().st_size > 0
            path.unlink()
        for path in self._spare_folder.iterdir():
            with suppress(OSError):  # the spare files of another process
                path.unlink() if path.is_file() else path.rmdir()
        return half_written

    def close(self) -> None:
        """Remove the spare files."""
        self._stock.close()

    def _probe(self) -> None:
        path = self._spare_folder / uuid.uuid4().hex
        descriptor = os.open(path, NEW_FILE, FILE_MODE)
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

    def _spares_left(self) -> Iterator[Path]:
        """Yield the spare files of this process; to be called while it makes none."""
        return (path for path in self._spare_folder.glob("*/*") if path.is_file())

    def _object_folders(self) -> list[Path]:
        return [self._objects / f"{number:02x}" for number in range(256)]


def spares_of(root: Path, owner: str) -> set[str]:
    """Return the spare files of a process that shares the folder, relative to the store's root.

    With a receipt of that name, one of them is an object of which a power cut took the rename.
    """
    lots = os.walk(root / ObjectStore.SPARE / owner)  # unlike `glob`, bears that some go meanwhile
    return {
        Path(lot, name).relative_to(root).as_posix() for lot, _, names in lots for name in names
    }


class Refusals:
    """Turns the errors of a disk that takes nothing now into ours, and remembers that it failed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            self._store.note_failure(error)
            raise refusal(error) from error
