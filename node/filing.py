"""Fills the index with what was received, behind the answers, in the order of the journal.

An object is promised when its journal entry is on stable storage; its row follows here, some
moments later, together with those of others. What a stopped process left unfiled is filed at the
next start. Decodes no pixel data and talks to no peer. Read `Filing.promise` and `recover` first.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from node.element_reader import encoded_from_file
from node.errors import StorageFullError, UnfitObjectError, UnreadableObjectError
from node.header import InstanceHeader, header_from_bytes
from node.index.instances import (
    Added,
    Arrival,
    AssociationOutcome,
    InstanceBook,
    patient_key_of,
)
from node.journal import Journal
from node.log import IDENTIFIERS
from node.receipt import Receipt, header_of
from node.storage import ObjectStore, StoredFile, spares_of

LOGGER = logging.getLogger(__name__)

BATCH = 128
"""How many objects are recorded in one transaction at most."""

BACKLOG = 20_000
LONGEST_WAIT_S = 10.0
"""How many promised objects may wait to be filed; then senders wait, too, but not longer."""

PAUSE_S = 0.02
"""Filing waits for such a pause of the senders, whose answers it would delay, ..."""

LONGEST_DELAY_S = 5.0
MOST_DELAYED = 2_000
"""... but no longer than that, and for no more objects than that."""

NEWLY_KEPT_S = 60.0
"""How long before the journal's last entry an object may have got its name and be unanswered."""

RETRY_S = 1.0
"""How long to wait after the database refused."""

MOST_STUDIES = 200
"""Studies of one association that are told apart."""


@dataclass(slots=True)
class Carrier:
    """An association, as far as filing is concerned; used by the filing thread only.

    Attributes:
        association_id: Its row, once one of its objects is filed.
        counts: Of its objects: `stored`, `known` and `replaced`.
        contents: How many objects of each SOP class it brought, by patient key, study, and whether
            they were new; beyond `MOST_STUDIES` under empty names.
    """

    association_id: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    contents: dict[tuple[str, str, bool], Counter[str]] = field(default_factory=dict)

    def note(self, header: InstanceHeader, *, is_new: bool) -> None:
        """Note an object that was filed."""
        key = patient_key_of(header), header.study_instance_uid, is_new
        if key not in self.contents and len(self.contents) >= MOST_STUDIES:
            key = "", "", is_new
        self.contents.setdefault(key, Counter())[header.sop_class_uid] += 1


@dataclass(frozen=True, slots=True)
class _Promised:
    sequence: int
    receipt: Receipt
    carrier: Carrier
    header: InstanceHeader | None = None
    """Where it was read already."""


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
        journal: Of this process; not yet open.
        instances: Where rows go.
        node_run: Names this process towards the index; the same after a restart.
        on_cut: Is told the rows of associations in which a process ended, before they are closed;
            what they brought is filed by then.
    """

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        instances: InstanceBook,
        node_run: str,
        on_cut: Callable[[Sequence[int]], None] = lambda _rows: None,
    ) -> None:
        self._on_cut = on_cut
        self._store = store
        self._journal = journal
        self._instances = instances
        self._node_run = node_run
        self._news = threading.Condition()
        self._queue: deque[_Promised | _Ended] = deque()
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

    def recover(self, now: datetime) -> None:
        """File what an earlier process promised and did not file; remove what it never promised.

        Raises:
            StorageFullError: No room, or the disk refuses.
            OSError: The journal cannot be read.
        """
        position = self._instances.filed_up_to(self._node_run)
        carriers: dict[str, Carrier] = {}
        found: list[_Promised] = []
        paths: set[str] = set()
        last = position
        for sequence, payload in self._journal.open(position):
            receipt = Receipt.from_bytes(payload)
            is_there = self._store.finish_rename(receipt.spare, receipt.path)
            paths.add(receipt.path)
            last = max(last, sequence)
            if sequence > position:
                carrier = carriers.setdefault(receipt.association, Carrier())
                found.append(_Promised(sequence, receipt, carrier))
            elif is_there and sequence > position - BATCH:
                self._remove_if_repeated(receipt)
        self._store.sync_names()
        adopted = self._unpromised(paths, last, now)
        found += adopted
        for start in range(0, len(found), BATCH):
            self._file(found[start : start + BATCH])
        self._on_cut(self._instances.open_associations(self._node_run))
        closed = self._instances.close_abandoned_associations(self._node_run, now)
        removed = self._store.recover()
        self._journal.forget(last)
        counts = {
            "filed": len(found),
            "unanswered": len(adopted),
            "associations": closed,
            "half_written": removed,
        }
        if any(counts.values()):
            LOGGER.warning("receiving.recovered", extra=counts)

    def file_for(self, is_silent: Callable[[], bool], now: datetime) -> dict[str, int]:
        """File what another process promised and did not file; return how many of what that was.

        Objects of which a power cut took the rename get their names, filed or not.

        Filing for the process that `journal` and `node_run` name, which gives no sign of life. Its
        journal is left as it is: it may be alive and go on, and files are filed once, whoever does.

        Args:
            is_silent: Tells whether that is still so.
            now: The time, aware.

        Raises:
            StorageFullError: No room, or the disk refuses.
            OSError: The journal cannot be read.
        """
        left_open = self._instances.open_associations(self._node_run)
        position = self._instances.filed_up_to(self._node_run)
        carriers: dict[str, Carrier] = {}
        found: list[_Promised] = []
        left = spares_of(self._store.root, self._node_run)
        for sequence, payload in self._journal.look():
            receipt = Receipt.from_bytes(payload)
            if sequence > position or receipt.spare in left:
                self._store.finish_rename(receipt.spare, receipt.path)
            if sequence > position:
                carrier = carriers.setdefault(receipt.association, Carrier())
                found.append(_Promised(sequence, receipt, carrier))
        if found:
            self._store.sync_names()
        for start in range(0, len(found), BATCH):
            self._file(found[start : start + BATCH])
        mine = [c.association_id for c in carriers.values() if c.association_id is not None]
        ended = [*left_open, *mine] if is_silent() else mine
        self._on_cut(ended)
        for association_id in ended:
            self._instances.close_association(association_id, AssociationOutcome.NODE_STOPPED, now)
        return {"filed": len(found), "associations": len(left_open)}

    def _unpromised(self, promised: set[str], sequence: int, now: datetime) -> list[_Promised]:
        """Return objects that were whole and named when a process ended, and never answered.

        They are filed like others: their senders will send them again, and find them known.
        """
        if not self._store.was_interrupted():
            return []
        since_s = self._journal.last_written_s() - NEWLY_KEPT_S
        candidates = [p for p in self._store.kept_since(since_s) if p not in promised]
        known = self._instances.known_among(candidates)
        carrier, token = Carrier(), uuid.uuid4().hex
        adopted: list[_Promised] = []
        for path in candidates:
            if path in known:
                continue
            try:
                syntax, encoded = encoded_from_file(self._store.read_path(path))
                header = header_from_bytes(encoded, syntax)
            except (UnreadableObjectError, UnfitObjectError) as error:
                LOGGER.warning("instance.unreadable", extra={"reason": str(error), "path": path})
                continue
            size_bytes = self._store.read_path(path).stat().st_size
            receipt = Receipt(
                spare="",
                path=path,
                start=size_bytes - len(encoded),
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=syntax,
                association=token,
                calling_ae="",
                peer_name="",
                address="",
                opened_at=now.isoformat(),
                received_at=now.isoformat(),
            )
            adopted.append(_Promised(sequence, receipt, carrier))
        return adopted

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
            self._queue.append(_Promised(sequence, receipt, carrier, header))

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

    def _next_batch(self) -> list[_Promised | _Ended]:
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

    def _file_all(self, batch: list[_Promised | _Ended]) -> None:
        """File a batch and empty it; what raises leaves in it what is not filed yet."""
        while batch:
            promised: list[_Promised] = []
            for one in batch:
                if isinstance(one, _Ended):
                    break
                promised.append(one)
            if promised:
                self._file(promised)
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

    def _file(self, batch: Sequence[_Promised]) -> None:
        found = [(one, self._arrival(one)) for one in batch]
        there = [(one, arrival) for one, arrival in found if arrival is not None]
        arrivals = [arrival for _, arrival in there]
        try:
            added = self._instances.add_instances(arrivals, (self._node_run, batch[-1].sequence))
        except UnfitObjectError:
            if len(batch) > 1:  # one of them: the others must not wait for it
                middle = len(batch) // 2
                self._file(batch[:middle])
                self._file(batch[middle:])
            else:
                LOGGER.exception("instance.not_filed", extra={"path": batch[0].receipt.path})
            return
        for (one, arrival), what in zip(there, added, strict=True):
            one.carrier.note(arrival.header, is_new=what.is_new)
            one.carrier.counts["stored" if what.is_new else "known"] += 1
            one.carrier.counts["replaced"] += what.replaces_other_content
            self._keep_one_copy(one.receipt, what)

    def _arrival(self, promised: _Promised) -> Arrival | None:
        receipt, carrier = promised.receipt, promised.carrier
        try:
            with self._store.content(receipt.path, receipt.start) as encoded:
                sha256 = hashlib.sha256(encoded).hexdigest()
                size_bytes = len(encoded) + receipt.start
                header = promised.header or header_of(encoded, receipt)
        except OSError as error:
            self._store.require_there(error)
            # gone, or on a bad sector: it must hold up no other
            fields = {"path": receipt.path, "reason": error.strerror}
            LOGGER.error("instance.lost", extra=fields)  # noqa: TRY400 - no bug
            return None
        IDENTIFIERS.remember(header.patient_name, header.patient_id, header.patient_birth_date)
        if carrier.association_id is None:
            carrier.association_id = self._instances.open_association(
                calling_ae=receipt.calling_ae,
                peer_name=receipt.peer_name,
                address=receipt.address,
                opened_at=datetime.fromisoformat(receipt.opened_at),
                node_run=self._node_run,
            )
        return Arrival(
            header,
            StoredFile(receipt.path, sha256, size_bytes),
            carrier.association_id,
            receipt.peer_name,
            datetime.fromisoformat(receipt.received_at),
        )

    def _keep_one_copy(self, receipt: Receipt, added: Added) -> None:
        if added.path == receipt.path:
            return
        if self._store.read_path(added.path).exists():
            self._store.remove_repetition(receipt.path)
        else:  # the first copy is gone; this one takes its place
            self._instances.move(receipt.sop_instance_uid, added.path, receipt.path)

    def _remove_if_repeated(self, receipt: Receipt) -> None:
        """Remove a repetition that a crash kept from being removed."""
        if self._instances.is_path_of(receipt.sop_instance_uid, receipt.path):
            return
        try:
            with self._store.content(receipt.path, receipt.start) as encoded:
                sha256 = hashlib.sha256(encoded).hexdigest()
        except OSError as error:  # on a bad sector: it must not keep the node from starting
            fields = {"path": receipt.path, "reason": error.strerror}
            LOGGER.warning("instance.unreadable", extra=fields)
            return
        kept = self._instances.path_of(receipt.sop_instance_uid, sha256)
        if kept and self._store.read_path(kept).exists():
            self._store.remove_repetition(receipt.path)

    def _forget_filed(self, sequence: int) -> None:
        if self._journal.may_forget(sequence):
            self._store.sync_names()  # until then the journal is what knows of the renames
            self._journal.forget(sequence)
