"""Gives received objects their rows in the index; behind the answers, or after a crash.

Decodes no pixel data and talks to no peer.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from node.errors import UnfitObjectError
from node.header import InstanceHeader
from node.index.instances import Added, Arrival, InstanceBook, patient_key_of
from node.log import IDENTIFIERS
from node.receipt import Receipt, header_of
from node.storage import ObjectStore, StoredFile

LOGGER = logging.getLogger(__name__)

BATCH = 128
"""How many objects are recorded in one transaction at most."""

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
class Promised:
    """An object that the journal promises, with its place in it."""

    sequence: int
    receipt: Receipt
    carrier: Carrier
    header: InstanceHeader | None = None
    """Where it was read already."""


class Recorder:
    """Records what one process received.

    Args:
        store: Where the files are.
        instances: Where rows go.
        node_run: Names that process towards the index.
    """

    def __init__(self, store: ObjectStore, instances: InstanceBook, node_run: str) -> None:
        self._store = store
        self._instances = instances
        self._node_run = node_run

    def record_all(self, promised: Sequence[Promised]) -> None:
        """Record any number of objects; errors as of `record`."""
        for start in range(0, len(promised), BATCH):
            self.record(promised[start : start + BATCH])

    def record(self, batch: Sequence[Promised]) -> None:
        """Record objects in one transaction, in the order of the journal; one copy stays of each.

        What is gone, or cannot be read, is told to the log and holds up no other.

        Raises:
            StorageFullError: The database or the disk refuses for now: nothing is recorded.
        """
        found = [(one, self._arrival(one)) for one in batch]
        there = [(one, arrival) for one, arrival in found if arrival is not None]
        arrivals = [arrival for _, arrival in there]
        try:
            added = self._instances.add_instances(arrivals, (self._node_run, batch[-1].sequence))
        except UnfitObjectError:
            if len(batch) > 1:  # one of them: the others must not wait for it
                middle = len(batch) // 2
                self.record(batch[:middle])
                self.record(batch[middle:])
            else:
                LOGGER.exception("instance.not_filed", extra={"path": batch[0].receipt.path})
            return
        for (one, arrival), what in zip(there, added, strict=True):
            one.carrier.note(arrival.header, is_new=what.is_new)
            one.carrier.counts["stored" if what.is_new else "known"] += 1
            one.carrier.counts["replaced"] += what.replaces_other_content
            self._keep_one_copy(one.receipt, what)

    def _arrival(self, promised: Promised) -> Arrival | None:
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
