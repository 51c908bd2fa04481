"""Room: what is free, what the node's folders hold, what is removed and when."""

import logging
import os
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from fastapi import APIRouter

from node.compute_job import RESULTS_FOLDER
from node.computing import WORK_FOLDER
from node.disk import DiskCalls
from node.index.holdings_counts import case_count, object_count
from node.index.removals import Tally
from node.retention import Retention
from node.storage import ObjectStore
from node.web.access.actor import Viewer
from node.web.api.documents import Document
from node.web.desk import Desk

LOGGER = logging.getLogger(__name__)

COUNTED_EVERY = timedelta(minutes=10)
"""How old counts may be: to count a million objects takes seconds."""


class RemovalCount(Document):
    """How much goes or stays for one reason; `units` are patients of objects, or result sets."""

    reason: str
    units: int
    objects: int
    size_bytes: int


class Counts(Document):
    """What takes time to count, as it was at a time.

    Attributes:
        objects: Received, every content of each.
        result_bytes: Of all result sets, views included.
        work_bytes: Of what is being computed.
        other_bytes: The rest of the data folder: index, journal, spare files, copies.
        removable_objects: What retention would remove of received objects, and what keeps the rest.
        removable_results: The same of result sets.
    """

    counted_at: datetime
    objects: int
    object_bytes: int
    cases: int
    result_bytes: int
    work_bytes: int
    other_bytes: int
    removable_objects: tuple[RemovalCount, ...]
    removable_results: tuple[RemovalCount, ...]


class Storage(Document):
    """The room of the node.

    Attributes:
        least_free_bytes: Below this nothing is received any more.
        removes: Whether the configuration lets anything be removed.
        keep: The keys of `[retention]`, as they hold.
        counts: Null until they were counted for the first time since the start.
    """

    folder: str
    free_bytes: int
    total_bytes: int
    least_free_bytes: int
    removes: bool
    keep: dict[str, float | None]
    counts: Counts | None


class StorageFigures:
    """The figures of one process: counted in a thread of their own, and kept for a while.

    Args:
        desk: Whose room it is.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._guard = threading.Lock()
        self._counts: Counts | None = None
        self._counter: threading.Thread | None = None

    def storage(self) -> Storage:
        """Return the figures at once; counts that are too old are counted anew behind it."""
        node, section = self._desk.config.node, self._desk.config.retention
        room = DiskCalls().room(node.data)
        with self._guard:
            counts = self._counts
            is_old = counts is None or self._desk.clock() - counts.counted_at > COUNTED_EVERY
            if is_old and (self._counter is None or not self._counter.is_alive()):
                self._counter = threading.Thread(
                    target=self._count_quietly, name="storage-count", daemon=True
                )
                self._counter.start()
        share = node.min_free_percent / 100
        least = max(node.min_free_mib * 1024 * 1024, share * room.total_bytes)
        return Storage(
            folder=str(node.data),
            free_bytes=room.free_bytes,
            total_bytes=room.total_bytes,
            least_free_bytes=int(least),
            removes=section.removes,
            keep=section.model_dump(),
            counts=counts,
        )

    def wait(self, timeout_s: float) -> None:
        """Wait until what is being counted is counted."""
        with self._guard:
            counter = self._counter
        if counter is not None:
            counter.join(timeout_s)

    def _count_quietly(self) -> None:
        try:
            counts = self._count()
        except Exception:
            # the boundary of the thread: the page goes on to say that nothing is counted yet
            LOGGER.exception("storage.count_failed")
            return
        with self._guard:
            self._counts = counts

    def _count(self) -> Counts:
        desk, data = self._desk, self._desk.config.node.data
        received = object_count(desk.index)
        survey = Retention(desk.config, desk.index, desk.clock).survey()
        results, work = _size_of(data / RESULTS_FOLDER), _size_of(data / WORK_FOLDER)
        parts = [
            entry
            for entry in data.iterdir()
            if entry.name not in (RESULTS_FOLDER, WORK_FOLDER, ObjectStore.OBJECTS)
        ]
        return Counts(
            counted_at=desk.clock(),
            objects=received.objects,
            object_bytes=received.size_bytes,
            cases=case_count(desk.index),
            result_bytes=results,
            work_bytes=work,
            other_bytes=sum(map(_size_of, parts)),
            removable_objects=_removals(survey.objects),
            removable_results=_removals(survey.results),
        )


def storage_routes(figures: StorageFigures) -> APIRouter:
    """Return the address of storage."""
    routes = APIRouter()

    @routes.get("/storage", summary="Room, and what is removed")
    def storage(actor: Viewer) -> Storage:  # noqa: ARG001
        """Return what is free and used; `counts` are at most ten minutes old."""
        return figures.storage()

    return routes


def _removals(tallies: Sequence[Tally]) -> tuple[RemovalCount, ...]:
    return tuple(
        RemovalCount(
            reason=str(each.kept),
            units=each.units,
            objects=each.objects,
            size_bytes=each.size_bytes,
        )
        for each in tallies
    )


def _size_of(path: Path) -> int:
    """Return how many bytes files hold; what goes away meanwhile counts nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        total, folders = 0, [str(path)]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
    return total
