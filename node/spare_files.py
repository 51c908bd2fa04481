"""Empty, open files whose names are on stable storage, made ahead of need by a thread.

Each lot has a folder of its own, placed elsewhere on the disk. ext4 without a journal gives no
inode anew within minutes of its removal, and looks at all such in a part of the disk with each file
that is made there: after 600 files were removed, making one took 100 to 700 us instead of 13 to 20.

Each is synced once while it is empty, behind the sync of its folder. Otherwise ext4 without a
journal brings the folder to stable storage with the first sync of each file in it: one more wait
of each object for the disk, and of all associations for one block.
"""

import errno
import os
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node.disk import FILE_MODE, NEW_FILE, DiskCalls, spread_folders_within

SPARE_FILES = 64
"""How many spare files are made at a time, for one sync of their folder; two such lots are kept."""


@dataclass(frozen=True, slots=True)
class Spare:
    """One spare file; whoever takes it closes its descriptor.

    Its path is a text: to take `Path` objects apart costs more than all else that is done with it.
    """

    path: str
    descriptor: int


class SpareFiles:
    """A stock of spare files; safe for many threads.

    Args:
        folder: Where the folders of lots are made; it is there when the first file is taken.
        disk: The system calls to use.
    """

    def __init__(self, folder: Path, disk: DiskCalls) -> None:
        self._folder = folder
        self._disk = disk
        self._changed = threading.Condition()
        self._spares: deque[Spare] = deque()
        self._lots: set[Path] = set()
        """Their folders, but for those that were removed."""
        self._failure: OSError | None = None
        self._is_wanted = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to make spare files."""
        self._thread = threading.Thread(target=self._run, name="spare-files", daemon=True)
        self._thread.start()

    def take(self) -> Spare:
        """Return a spare file; wait for it if need be.

        Raises:
            OSError: None can be made, or the stock is closed.
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
                if self._is_closed:
                    raise OSError(errno.ESHUTDOWN, "the node is stopping")
                self._changed.wait_for(
                    lambda: self._spares or not self._is_wanted or self._is_closed
                )
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
        self.remove_lots(self.used_lots())

    def used_lots(self) -> list[Path]:
        """Return the folders of which every file was taken and renamed or removed."""
        with self._changed:
            lots, in_stock = list(self._lots), {Path(s.path).parent for s in self._spares}
        return [lot for lot in lots if lot not in in_stock and _is_empty(lot)]

    def remove_lots(self, lots: Sequence[Path]) -> None:
        """Remove folders of `used_lots`; not before what was renamed has its names for good."""
        for lot in lots:
            with suppress(OSError):
                lot.rmdir()
            with self._changed:
                self._lots.discard(lot)

    def _run(self) -> None:
        spread_folders_within(self._folder)
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

    def _made_lot(self) -> tuple[list[Spare], OSError | None]:
        lot, made = self._folder / uuid.uuid4().hex, list[Spare]()
        try:
            lot.mkdir()
            for number in range(SPARE_FILES):
                path = f"{lot}/{number:02x}"
                made.append(Spare(path, os.open(path, NEW_FILE, FILE_MODE)))
            self._disk.sync_directory(lot)
            self._disk.sync_directory(self._folder)
            for spare in made:
                os.fdatasync(spare.descriptor)  # no promise rests on it
        except (OSError, MemoryError) as error:  # whatever it is: who waits must be told
            for spare in made:
                _remove(spare)
            with suppress(OSError):  # then the next start removes it
                lot.rmdir()
            if isinstance(error, OSError):
                return [], error
            return [], OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        with self._changed:
            self._lots.add(lot)
        return made, None


def _is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing, as far as it can be looked at."""
    with suppress(OSError):
        return not any(folder.iterdir())
    return False


def _remove(spare: Spare) -> None:
    """Remove a spare file as far as the disk allows it; the next start removes the rest."""
    with suppress(OSError):
        os.close(spare.descriptor)
    with suppress(OSError):
        Path(spare.path).unlink(missing_ok=True)
