"""Finishes what a process promised and did not file: its own at a start, or another's that died.

Read `Recovery.recover` first.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from node.element_reader import encoded_from_file
from node.errors import UnfitObjectError, UnreadableObjectError
from node.header import header_from_bytes
from node.index.instances import AssociationOutcome, InstanceBook
from node.journal import Journal
from node.receipt import Receipt
from node.recording import BATCH, Carrier, Promised, Recorder
from node.storage import ObjectStore, spares_of

LOGGER = logging.getLogger(__name__)

NEWLY_KEPT_S = 60.0
"""How long before the journal's last entry an object may have got its name and be unanswered."""


class Recovery:
    """What is done for a process that ended.

    Args:
        store: Where the files are.
        journal: Of that process; not yet open.
        instances: Where rows go.
        node_run: Names that process towards the index; the same after a restart.
        on_cut: Is told the rows of associations in which the process ended, before they are closed;
            what they brought is recorded by then.
    """

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        instances: InstanceBook,
        node_run: str,
        on_cut: Callable[[Sequence[int]], None] = lambda _rows: None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._instances = instances
        self._node_run = node_run
        self._on_cut = on_cut
        self._recorder = Recorder(store, instances, node_run)

    def recover(self, now: datetime) -> None:
        """File what an earlier process promised and did not file; remove what it never promised.

        Raises:
            StorageFullError: No room, or the disk refuses.
            OSError: The journal cannot be read.
        """
        position = self._instances.filed_up_to(self._node_run)
        carriers: dict[str, Carrier] = {}
        found: list[Promised] = []
        paths: set[str] = set()
        last = position
        for sequence, payload in self._journal.open(position):
            receipt = Receipt.from_bytes(payload)
            is_there = self._store.finish_rename(receipt.spare, receipt.path)
            paths.add(receipt.path)
            last = max(last, sequence)
            if sequence > position:
                carrier = carriers.setdefault(receipt.association, Carrier())
                found.append(Promised(sequence, receipt, carrier))
            elif is_there and sequence > position - BATCH:
                self._remove_if_repeated(receipt)
        self._store.sync_names()
        adopted = self._unpromised(paths, last, now)
        found += adopted
        self._recorder.record_all(found)
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
        found: list[Promised] = []
        left, has_renamed = spares_of(self._store.root, self._node_run), False
        for sequence, payload in self._journal.look():
            receipt = Receipt.from_bytes(payload)
            if sequence > position or receipt.spare in left:
                self._store.finish_rename(receipt.spare, receipt.path)
                has_renamed = True
            if sequence > position:
                carrier = carriers.setdefault(receipt.association, Carrier())
                found.append(Promised(sequence, receipt, carrier))
        if has_renamed:
            self._store.sync_names()
        self._recorder.record_all(found)
        mine = [c.association_id for c in carriers.values() if c.association_id is not None]
        ended = [*left_open, *mine] if is_silent() else mine
        self._on_cut(ended)
        for association_id in ended:
            self._instances.close_association(association_id, AssociationOutcome.NODE_STOPPED, now)
        return {"filed": len(found), "associations": len(left_open)}

    def _unpromised(self, promised: set[str], sequence: int, now: datetime) -> list[Promised]:
        """Return objects that were whole and named when a process ended, and never answered.

        They are filed like others: their senders will send them again, and find them known.
        """
        if not self._store.was_interrupted():
            return []
        since_s = self._journal.last_written_s() - NEWLY_KEPT_S
        candidates = [p for p in self._store.kept_since(since_s) if p not in promised]
        known = self._instances.known_among(candidates)
        carrier, token = Carrier(), uuid.uuid4().hex
        adopted: list[Promised] = []
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
            adopted.append(Promised(sequence, receipt, carrier))
        return adopted

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
