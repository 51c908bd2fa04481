"""Fills the index with what was received, behind the answers, in the order of the journal.

An object is promised when its journal entry is on stable storage; its row follows here, some
moments later, together with those of others (`node.recording`). What a stopped process left unfiled
is filed at the next start (`node.recovery`). Talks to no peer. Read `Filing.promise` first.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.errors import StorageFullError
from node.header import InstanceHeader
from node.index.instances import AssociationOutcome, InstanceBook
from node.journal import Journal
from node.receipt import Receipt
from node.recording import BATCH, Carrier, Promised, Recorder
from node.storage import ObjectStore

LOGGER = logging.getLogger(__name__)

BACKLOG = 20_000
LONGEST_WAIT_S = 10.0
"""How many promised objects may wait to be filed; then senders wait, too, but not longer."""

PAUSE_S = 0.02
"""Filing waits for such a pause of the senders, whose answers it would delay, ..."""

LONGEST_DELAY_S = 5.0
MOST_DELAYED = 2_000
"""... but no longer than that, and for no more objects than that."""

RETRY_S = 1.0
"""How long to wait after the database refused."""


@dataclass(frozen=True, slots=True)
class _Ended:
    carrier: Carrier
    outcome: AssociationOutcome
    closed_at: datetime
    on_filed: Callable[[], None]


class Filing:
    """Files what one process receives.

    Args:
        store: Where the files are.
        journal: Of this process; opened by `Recovery.recover`.
        instances: Where rows go.
        node_run: Names this process towards the index; the same after a restart.
    """

    def __init__(
        self, store: ObjectStore, journal: Journal, instances: InstanceBook, node_run: str
    ) -> None:
        self._store = store
        self._journal = journal
        self._instances = instances
        self._recorder = Recorder(store, instances, node_run)
        self._news = threading.Condition()
        self._queue: deque[Promised | _Ended] = deque()
        self._is_stopping = self._is_refusing = False
        self._is_filing = self._is_idle = False
        self._in_a_hurry = 0
        """How many wait until everything is filed."""
        self._came_round_s = time.monotonic()
        """When the filing thread last took something up, or found nothing to do."""
        self._waiting_since_s = self._last_promise_s = 0.0
        self._due = 0
        """How many of the queue are to be filed without another pause."""
        self._thread = threading.Thread(target=self._run, name="filing", daemon=True)

    # --- what the receiving side calls ---------------------------------------------------------

    def start(self) -> None:
        """Begin to file.

        Raises:
            StorageFullError: The disk refuses.
        """
        with self._store.refusals:
            self._journal.make_ready()
        self._store.make_ready()
        self._thread.start()

    def promise(
        self, receipt: Receipt, carrier: Carrier, header: InstanceHeader | None = None
    ) -> None:
        """Return when an object that is on stable storage will be filed, whatever happens.

        Args:
            receipt: What the journal is to say of it.
            carrier: The association that brought it.
            header: Its header, if it was read already.

        Raises:
            StorageFullError: The journal cannot be written; the object is not promised.
        """

        def queue(sequence: int) -> None:
            self._queue.append(Promised(sequence, receipt, carrier, header))

        if len(self._queue) >= BACKLOG:
            self._wait_for_room()
        with self._store.refusals:
            self._journal.append(receipt.to_bytes(), queue)
        self._last_promise_s = time.monotonic()
        if self._is_idle:
            with self._news:
                self._news.notify_all()

    def _wait_for_room(self) -> None:
        with self._news:
            self._news.wait_for(
                lambda: len(self._queue) < BACKLOG or self._is_refusing, LONGEST_WAIT_S
            )
            if len(self._queue) >= BACKLOG:
                raise StorageFullError(
                    "too many objects wait for the database", hint="look at the database"
                )

    def why_closed(self) -> str:
        """Return why no more objects should come now, or an empty text."""
        is_full = len(self._queue) >= BACKLOG
        return "too many objects wait for the database" if is_full else ""

    def unfiled(self) -> tuple[int, datetime | None]:
        """Return how much waits to be filed, and when the oldest of it came."""
        try:
            oldest = self._queue[0]
        except IndexError:
            return 0, None
        if isinstance(oldest, _Ended):
            return len(self._queue), oldest.closed_at
        return len(self._queue), datetime.fromisoformat(oldest.receipt.received_at)

    def why_stuck(self, limit_s: float) -> str:
        """Return that nobody files any more, or an empty text.

        A database that refuses is no such trouble: the thread tries it again and again.
        """
        if self._is_stopping:
            return ""
        if not self._thread.is_alive():
            return "the thread that files what was received has ended"
        age_s = time.monotonic() - self._came_round_s
        if (self._queue or self._is_filing) and age_s > limit_s:
            return f"the thread that files what was received has been stuck for {age_s:.0f} s"
        return ""

    def refuse_more(self) -> None:
        """Let nobody wait for room any longer: the node is stopping."""
        with self._news:
            self._is_refusing = True
            self._news.notify_all()

    def end(
        self,
        carrier: Carrier,
        outcome: AssociationOutcome,
        closed_at: datetime,
        on_filed: Callable[[], None],
    ) -> None:
        """Record the end of an association after its objects, and then call `on_filed`."""
        with self._news:
            self._queue.append(_Ended(carrier, outcome, closed_at, on_filed))
            self._news.notify_all()

    def wait_until_filed(self, timeout_s: float) -> bool:
        """Wait until nothing is left to file; tell whether that came about in time."""
        with self._news:
            self._in_a_hurry += 1
            self._news.notify_all()
            try:
                return self._news.wait_for(
                    lambda: not self._queue and not self._is_filing, timeout_s
                )
            finally:
                self._in_a_hurry -= 1

    def stop(self, timeout_s: float) -> None:
        """File what is left within the time, and stop; the rest is filed at the next start."""
        if self._thread.is_alive():
            self.wait_until_filed(timeout_s)
            with self._news:
                self._is_stopping = True
                self._news.notify_all()
            self._thread.join(timeout_s)
        self._journal.close()
        self._store.close()

    # --- the filing thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            while not self._is_stopping:
                self._came_round_s = time.monotonic()
                try:
                    self._file_all(batch)
                    break
                except StorageFullError as error:
                    LOGGER.warning("filing.waits", extra={"reason": str(error)})
                except Exception:
                    # the boundary of this thread: logged, and tried again
                    LOGGER.exception("filing.failed")
                time.sleep(RETRY_S)

    def _next_batch(self) -> list[Promised | _Ended]:
        """Wait for something to file; nothing means that the thread is to end."""
        with self._news:
            self._is_filing = False
            self._news.notify_all()
            self._is_idle = True  # before the queue is looked at: who adds to it then sees this
            self._news.wait_for(lambda: self._queue or self._is_stopping)
            self._came_round_s = time.monotonic()
            self._is_idle = False
            if not self._due:
                self._waiting_since_s = time.monotonic()
                while not self._is_time():
                    self._news.wait(PAUSE_S)
                self._due = len(self._queue)
            if self._is_stopping:
                return []
            self._is_filing = True
            self._due = max(0, self._due - BATCH)
            return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]

    def _is_time(self) -> bool:
        """Tell whether to file now, or to let the senders go first."""
        now_s = time.monotonic()
        return (
            self._is_stopping
            or self._in_a_hurry > 0
            or len(self._queue) > MOST_DELAYED
            or now_s - self._last_promise_s > PAUSE_S
            or now_s - self._waiting_since_s > LONGEST_DELAY_S
        )

    def _file_all(self, batch: list[Promised | _Ended]) -> None:
        """File a batch and empty it; what raises leaves in it what is not filed yet."""
        while batch:
            promised: list[Promised] = []
            for one in batch:
                if isinstance(one, _Ended):
                    break
                promised.append(one)
            if promised:
                self._recorder.record(promised)
                del batch[: len(promised)]
                self._forget_filed(promised[-1].sequence)
            elif isinstance(ended := batch[0], _Ended):
                self._close(ended)
                del batch[0]

    def _close(self, ended: _Ended) -> None:
        association_id = ended.carrier.association_id
        if association_id is not None:
            self._instances.close_association(association_id, ended.outcome, ended.closed_at)
        ended.on_filed()

    def _forget_filed(self, sequence: int) -> None:
        if self._journal.may_forget(sequence):
            self._store.sync_names()  # until then the journal is what knows of the renames
            self._journal.forget(sequence)
