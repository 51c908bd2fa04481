"""What is removed, by age and for room: views first, then results, then objects, oldest first.

Never removed is what is not delivered (and committed, where a peer was asked to), what a case that
waits or runs may use, and what came, or came again, within the time that it is kept. Rows go before
files (`node.index.removals`); a removal that was broken off is finished before anything else. What
may go, the index decides (`node.index.removable`); this module counts, and removes files.
"""

import fcntl
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from node.audit.events import AuditEvent, Kind, Tell, untold
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, RESULTS_FOLDER
from node.config import Config
from node.disk import DiskCalls
from node.forgetting import Forgetting
from node.index import Index
from node.index.history_pruning import prune_history
from node.index.removable import NEVER, Cutoffs, Kept
from node.index.removals import OBJECTS, RESULTS, VIEW, Removal, RemovalBook, Tally
from node.ownership import give_to_owner
from node.view_files import VIEW_FOLDER

LOGGER = logging.getLogger(__name__)

MOST_AT_ONCE = 20
"""So many patients and so many result sets are removed in one round at most."""

AGE, ROOM = "age", "room"
"""Why something is removed."""

LOCK_FILE = "retention.lock"
"""In the data folder: held by whoever removes, and by a backup, during which nothing is removed."""

BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What may be removed now, and what keeps the rest.

    Attributes:
        objects: Of all patients, by reason.
        results: Of all result sets, by reason.
        free_bytes: On the disk of the data folder; `total_bytes` likewise.
        wanted_bytes: How much is to stay free by `make_room_below_mib`; 0: nothing is removed
            for room.
        names_due: Of how many patients names may go; `cases_due` likewise.
    """

    objects: tuple[Tally, ...]
    results: tuple[Tally, ...]
    free_bytes: int
    total_bytes: int
    wanted_bytes: int
    names_due: int = 0
    cases_due: int = 0

    @property
    def is_short(self) -> bool:
        """Whether room is to be made."""
        return self.free_bytes < self.wanted_bytes


@dataclass(frozen=True, slots=True)
class Round:
    """What one round removed: counts by kind, the room it made, whether more is due."""

    counts: dict[str, int]
    freed_bytes: int
    is_more_due: bool


class Retention:
    """Removes what the configuration allows.

    Args:
        config: `[retention]`, and the data folder.
        index: Of the node.
        clock: The time, aware.
        disk: The system calls to use.
        audit: The audit trail.
    """

    def __init__(
        self,
        config: Config,
        index: Index,
        clock: Callable[[], datetime],
        disk: DiskCalls | None = None,
        audit: Tell = untold,
    ) -> None:
        self._audit = audit
        self._section = config.retention
        self._data = config.node.data
        self._index = index
        self._book = RemovalBook(index)
        self._forgetting = Forgetting(config, index, audit)
        self._clock = clock
        self._disk = disk or DiskCalls()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End a round soon; what it began is finished by the next."""
        self._stopping.set()

    def survey(self) -> Survey:
        """Count what may be removed now, and what keeps the rest; changes nothing."""
        now = self._clock()
        room = self._disk.room(self._data)
        is_short = room.free_bytes < self._wanted_bytes
        because = ROOM if is_short else AGE
        names_due, cases_due = self._forgetting.due(now)
        return Survey(
            objects=tuple(self._book.count_objects(self._cutoffs(OBJECTS, because, now))),
            results=tuple(self._book.count_results(RESULTS, self._cutoffs(RESULTS, because, now))),
            free_bytes=room.free_bytes,
            total_bytes=room.total_bytes,
            wanted_bytes=self._wanted_bytes,
            names_due=names_due,
            cases_due=cases_due,
        )

    def finish_unfinished(self) -> int:
        """Remove the files of removals that were broken off; return how many these were.

        To be called before anything is received: a file without row counts as received then.
        """
        removals = self._book.unfinished()
        for removal in removals:
            self._remove_files(removal)
        return len(removals)

    def run(self) -> Round:
        """Remove what is due, a bounded part of it; then what is needed for room.

        Nothing while a backup is being made, or another process removes.
        """
        with _turn(self._data, waits=False) as is_ours:
            return self._round() if is_ours else Round({}, 0, is_more_due=False)

    def _round(self) -> Round:
        freed = sum(self._remove_files(removal) for removal in self._book.unfinished())
        counts: dict[str, int] = {}
        is_more_due = False
        now = self._clock()
        for because, kind in ((AGE, RESULTS), (AGE, OBJECTS), (ROOM, VIEW), (ROOM, RESULTS),
                              (ROOM, OBJECTS)):  # fmt: skip
            found = 0
            for removal in self._removals(because, kind, now):
                found += 1
                self._tell(removal, because)
                freed += self._remove_files(removal)
                counts[kind] = counts.get(kind, 0) + 1
                if self._stopping.is_set():
                    return Round(counts, freed, is_more_due=False)
            is_more_due |= found == MOST_AT_ONCE
        if counts:
            told = {f"removed_{kind}": count for kind, count in counts.items()}
            LOGGER.info("retention.removed", extra={**told, "freed_bytes": freed})
        elif self._is_short():
            LOGGER.warning(
                "retention.no_room",
                extra={"reason": "less room than retention.make_room_below_mib, and nothing that "
                       "may be removed: `hilum retention --dry-run` says why"},
            )  # fmt: skip
        forgotten, is_more_to_forget = self._forgetting.run(now)
        if self._section.keep_history_days is not None:
            self._prune(now)
        return Round(counts | forgotten, freed, is_more_due or is_more_to_forget)

    def _tell(self, removal: Removal, because: str) -> None:
        """Tell the audit trail what goes; pictures are made of results that stay."""
        count = f"={removal.objects}"
        if removal.kind == OBJECTS:
            what = {"patient_key": removal.patient_key, "study": " ".join(removal.studies)}
            what |= {"sop_classes": count, "action": f"retention by {because}"}
            self._audit(AuditEvent(Kind.STUDY_DELETED, what=what))
        elif removal.kind == RESULTS:
            what = {"case_id": removal.case_id, "sop_classes": count, "event_action": "D"}
            what |= {"action": f"retention by {because}"}
            self._audit(AuditEvent(Kind.ACCESSED, what=what))

    def _removals(self, because: str, kind: str, now: datetime) -> Iterator[Removal]:
        """Yield what was just forgotten in the index, until enough, or until there is room."""
        cutoffs = self._cutoffs(kind, because, now)
        is_idle = self._stopping.is_set() or cutoffs == Cutoffs(NEVER, NEVER)
        if is_idle or (because == ROOM and not self._is_short()):
            return
        if kind == OBJECTS:
            for patient_key in self._book.patients_due(cutoffs, MOST_AT_ONCE):
                if removal := self._book.remove_patient(patient_key, cutoffs, because, now):
                    yield removal
                if because == ROOM and not self._is_short():
                    return
            return
        for case_id, revision in self._book.results_due(kind, cutoffs, MOST_AT_ONCE):
            removal = self._book.remove_results(kind, case_id, revision, cutoffs, because, now)
            if removal is not None:
                yield removal
            if because == ROOM and not self._is_short():
                return

    def _cutoffs(self, kind: str, because: str, now: datetime) -> Cutoffs:
        """Return before when something must have rested. For room, what is delivered only."""
        keep = self._section

        def before(days: float | None) -> datetime:
            return NEVER if days is None else now - timedelta(days=days)

        if because == ROOM:
            by_age = self._cutoffs(kind, AGE, now)
            return Cutoffs(max(by_age.delivered, before(keep.least_days)), by_age.unfinished)
        days = keep.keep_objects_days if kind == OBJECTS else keep.keep_results_days
        return Cutoffs(before(days), before(keep.keep_unfinished_days))

    @property
    def _wanted_bytes(self) -> int:
        return int((self._section.make_room_below_mib or 0.0) * BYTES_PER_MIB)

    def _is_short(self) -> bool:
        return self._disk.room(self._data).free_bytes < self._wanted_bytes

    def _remove_files(self, removal: Removal) -> int:
        """Remove the files of a removal and record it; return how much room that made."""
        folder = self._data / RESULTS_FOLDER / removal.case_id / str(removal.revision)
        if removal.kind == OBJECTS:
            for path in removal.paths:
                self._data.joinpath(path).unlink(missing_ok=True)
            freed = removal.size_bytes
        elif removal.kind == VIEW:
            freed = _emptied(folder / VIEW_FOLDER, keep=())
        else:
            # a few kilobytes that name nobody, and all that `hilum cohort` needs
            freed = _emptied(folder, keep=(f"{OUTPUT_FOLDER}/{METRICS_FILE}",))
        self._book.finish(removal, freed)
        return freed

    def _prune(self, now: datetime) -> None:
        keep = self._section
        longest = max(
            keep.keep_history_days or 0.0,
            keep.keep_objects_days or 0.0,
            keep.keep_unfinished_days or 0.0,
            keep.least_days,
        )
        pruned = prune_history(self._index, now - timedelta(days=longest))
        if any(pruned.values()):
            LOGGER.info(
                "retention.history_pruned", extra={f"pruned_{k}": n for k, n in pruned.items()}
            )


def _emptied(folder: Path, *, keep: tuple[str, ...]) -> int:
    """Remove a folder but for some files; return how many bytes of files went."""
    kept = {folder / name for name in keep if (folder / name).is_file()}
    freed = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path in one.parents for one in kept):
                with suppress(OSError):  # likewise
                    path.rmdir()
        elif path not in kept:
            with suppress(FileNotFoundError):  # another machine was quicker
                size = path.lstat().st_size
                path.unlink()
                freed += size
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
    return freed


@contextmanager
def paused(data: Path) -> Iterator[None]:
    """Let nothing be removed from a data folder meanwhile; waits for a round that goes on."""
    with _turn(data, waits=True):
        yield


@contextmanager
def _turn(data: Path, *, waits: bool) -> Iterator[bool]:
    """Tell whether it is this process's turn to decide what is removed."""
    with (data / LOCK_FILE).open("a", encoding="utf-8") as file:
        give_to_owner(data, data / LOCK_FILE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def reasons(tallies: tuple[Tally, ...]) -> list[Tally]:
    """Return what keeps anything, without what may go."""
    return [one for one in tallies if one.kept is not Kept.DUE]
