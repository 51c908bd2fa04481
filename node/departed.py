"""Removes what processes left in the shared data folder that never came back.

A container or a host that is replaced takes its name with it; its journal, its spare files and its
folder for computing stay. They go when nobody has the name or gives signs of life under it, nothing
was written there for long, and everything that was promised there is in the index. What is in doubt
stays.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from node.computing import work_folder
from node.config import NodeSection
from node.index.instances import InstanceBook
from node.journal import FOLDER_PREFIX, Journal, journal_folder
from node.process_name import LOCK_FOLDER, free_name
from node.receipt import Receipt
from node.storage import ObjectStore, spares_of

LOGGER = logging.getLogger(__name__)

LONG_GONE = timedelta(days=30)
"""After this a process does not come back under its name."""


class Departed:
    """What others left.

    Args:
        node: Whose data folder they share.
        instances: The index of what was received.
        is_alive: Tells whether a process gives signs of life: some file servers forget a lock.
        clock: The time, aware.
    """

    def __init__(
        self,
        node: NodeSection,
        instances: InstanceBook,
        is_alive: Callable[[str], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._node = node
        self._instances = instances
        self._is_alive = is_alive
        self._clock = clock

    def remove(self) -> list[str]:
        """Remove what those left who are long gone; return their names.

        Raises:
            OSError: The folder cannot be read or written.
        """
        return [name for name in sorted(self._names()) if self._remove_left_by(name)]

    def _names(self) -> set[str]:
        data = self._node.data
        journals = {p.name.removeprefix(FOLDER_PREFIX) for p in data.glob(f"{FOLDER_PREFIX}*")}
        locks = {p.stem for p in (data / LOCK_FOLDER).glob("*.lock")}
        return {name for name in journals | locks if not self._is_alive(name)}

    def _remove_left_by(self, name: str) -> bool:
        before_s = (self._clock() - LONG_GONE).timestamp()
        if any(time_s > before_s for time_s in _written_s(self._left_by(name))):
            return False
        held = free_name(self._node, name)
        if held is None:  # it lives, and only does nothing
            return False
        try:
            if self._owes(name):
                LOGGER.warning("process.owes", extra={"promised_by": name})
                return False
            for path in self._folders(name):
                with suppress(FileNotFoundError):
                    shutil.rmtree(path)
            self._instances.forget_journal(name)
            held.path.unlink(missing_ok=True)
        finally:
            held.release()
        LOGGER.info("process.forgotten", extra={"processes": [name]})
        return True

    def _folders(self, name: str) -> tuple[Path, ...]:
        data = self._node.data
        journal, spare = journal_folder(data, name), data / ObjectStore.SPARE / name
        return journal, spare, work_folder(self._node, name)

    def _left_by(self, name: str) -> Iterator[Path]:
        yield self._node.data / LOCK_FOLDER / f"{name}.lock"
        for folder in self._folders(name):
            yield folder
            yield from folder.rglob("*")

    def _owes(self, name: str) -> bool:
        """Tell whether anything that was promised under a name is not in the index yet.

        Or lies among the spare files: a power cut took its rename (`Recovery.file_for` mends that).
        """
        filed = self._instances.filed_up_to(name)
        spares = spares_of(self._node.data, name)
        entries = Journal(journal_folder(self._node.data, name)).look()
        return any(
            sequence > filed or Receipt.from_bytes(payload).spare in spares
            for sequence, payload in entries
        )


def _written_s(paths: Iterator[Path]) -> Iterator[float]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.lstat().st_mtime
