"""Takes up what a process left that has fallen silent: its durable work, and what it promised.

Every living process does so, at the same time as others; each step is done once, whoever is first.
The silent one may be alive: nothing of its own is removed. Read `node.membership` first.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from node.errors import StorageFullError
from node.index.instances import InstanceBook
from node.journal import FOLDER_PREFIX, Journal, journal_folder
from node.membership import Membership
from node.recovery import Recovery
from node.storage import ObjectStore
from node.workflow import Workflow

LOGGER = logging.getLogger(__name__)


class Takeover:
    """What this process does for others.

    Args:
        membership: Who lives.
        workflow: The durable work.
        instances: The index of what was received.
        store: Where the objects are; None: this process does not receive, and files for nobody.
        clock: The time, aware.
        on_cut: As of `Recovery`.
    """

    def __init__(
        self,
        membership: Membership,
        workflow: Workflow,
        instances: InstanceBook,
        store: ObjectStore | None,
        clock: Callable[[], datetime],
        on_cut: Callable[[Sequence[int]], None] = lambda _rows: None,
    ) -> None:
        self._on_cut = on_cut
        self._membership = membership
        self._workflow = workflow
        self._instances = instances
        self._store = store
        self._clock = clock
        self._filed: dict[str, tuple[int, float]] = {}
        """For whom was filed: their count of signs, and when their journal was last written."""

    def look(self) -> bool:
        """See who lives, and take up what the silent ones left; tell whether one has ended.

        Raises:
            StorageFullError: No room; to be tried again, as after any other error.
        """
        owners, working = self._journal_owners(), self._workflow.workers()
        has_ended = self._membership.look(owners | working)
        silent = self._membership.silent()
        if left := working & set(silent):
            count = self._workflow.take_over(left)
            if count:
                fields = {"processes": sorted(left), "workflows": count}
                LOGGER.warning("process.taken_over", extra=fields)
        for name in sorted(owners & set(silent)):
            self._file_for(name, silent[name])
        return has_ended

    def _journal_owners(self) -> set[str]:
        if self._store is None:
            return set()
        found = {
            p.name.removeprefix(FOLDER_PREFIX) for p in self._store.root.glob(f"{FOLDER_PREFIX}*")
        }
        return found - {self._membership.identity.name}

    def _file_for(self, name: str, beats: int) -> None:
        assert self._store is not None  # noqa: S101 - else nobody owns a journal
        folder = journal_folder(self._store.root, name)
        stamp = (beats, _written_s(folder))
        if self._filed.get(name) == stamp:
            return
        journal = Journal(folder, self._store.disk)
        recovery = Recovery(self._store, journal, self._instances, name, self._on_cut)
        try:
            counts = recovery.file_for(partial(self._is_silent, name), self._clock())
        except OSError as error:
            raise StorageFullError(
                f"the journal of {name} cannot be read: {error.strerror}",
                hint="look at the data folder's rights and the disk's health",
            ) from error
        # slow disks make it doubtful whether it is silent: then its associations are still open
        if self._is_silent(name):
            self._filed[name] = stamp
        if any(counts.values()):
            LOGGER.warning("receiving.taken_over", extra={"promised_by": name, **counts})

    def _is_silent(self, name: str) -> bool:
        self._membership.look([name])
        return name in self._membership.silent()


def _written_s(folder: Path) -> float:
    """Return when a journal was last written, in seconds since 1970; 0: never."""
    times = []
    for path in folder.glob("*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue  # its owner has filed it
    return max(times, default=0.0)
