"""Storage commitment as SCP: takes the request, and says of each object whether we hold it.

We commit to what the index has and the disk holds with the size it had when it was promised. The
bytes are not read again: that the disk still gives them back is not checked here. The request is
on stable storage before it is answered; the report is the business of `reports`. Read PS3.4 J.3.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.attributes import uid_of
from node.config import Config, Role
from node.conformance import (
    CLASS_INSTANCE_CONFLICT,
    CLASS_NOT_SUPPORTED,
    DUPLICATE_TRANSACTION,
    INVALID_ARGUMENT,
    MISSING_ATTRIBUTE,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    NOT_AUTHORISED,
    RESOURCE_LIMITATION,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    SUCCESS,
    accepted,
)
from node.element_reader import read_elements
from node.errors import StorageFullError, UnreadableObjectError
from node.exchange import Exchange
from node.index import Index
from node.index.lookups import held_objects
from node.index.promises import Promise, PromiseBook, TooManyOwedError
from node.storage import ObjectStore
from node.wanted_elements import wanted_elements

LOGGER = logging.getLogger(__name__)

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Transfer syntaxes of requests and reports; the preferred one first."""

REQUEST_COMMITMENT = 1
"""Action Type ID of Request Storage Commitment (PS3.4 J.3.2)."""

ALL_COMMITTED, SOME_NOT_COMMITTED = 1, 2
"""Event Type ID of the report (PS3.4 J.3.3)."""

MOST_REFERENCES = 20_000
"""Objects in one request: four whole studies."""

OWN_ASSOCIATION_AFTER_S = 3.0
"""How long a report waits for the association of the request before it gets one of its own."""

_UID_FORM = re.compile(r"[0-9.]{1,64}")
_WANTED = wanted_elements(
    "TransactionUID",
    ReferencedSOPSequence=wanted_elements("ReferencedSOPClassUID ReferencedSOPInstanceUID"),
)

Reference = tuple[str, str]
"""SOP class and SOP instance."""


class _RefusedError(Exception):
    """A request that is answered with a failure; `status` is that."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


class CommitmentRequests:
    """Answers N-ACTION of Storage Commitment.

    Args:
        config: Peers and time limits.
        promises: Where requests are kept.
        clock: The time, aware.
        then: Called after the answer, in the association's thread: may report at once.
    """

    def __init__(
        self,
        config: Config,
        promises: PromiseBook,
        clock: Callable[[], datetime],
        then: Callable[[Exchange], None],
    ) -> None:
        self._limit = timedelta(hours=config.node.commitment_timeout_h)
        self._promises = promises
        self._clock = clock
        self._then = then

    def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        request, peer = exchange.request, exchange.peer
        comment, count = "", 0
        try:
            count = self._take(exchange)
            status = SUCCESS
        except _RefusedError as refused:
            status, comment = refused.status, str(refused)
        except (StorageFullError, TooManyOwedError) as error:
            status, comment = RESOURCE_LIMITATION, "try again later"
            LOGGER.warning("commitment.full", extra={"peer": peer.name, "reason": str(error)})
        exchange.respond(
            status,
            comment=comment,
            AffectedSOPClassUID=STORAGE_COMMITMENT,
            AffectedSOPInstanceUID=request.RequestedSOPInstanceUID,
            ActionTypeID=request.ActionTypeID,
        )
        fields = {"peer": peer.name, "objects": count, "status": f"0x{status:04X}"}
        LOGGER.info("commitment.asked", extra={**fields, "reason": comment})
        if status == SUCCESS:
            self._then(exchange)

    def _take(self, exchange: Exchange) -> int:
        request, peer = exchange.request, exchange.peer
        if Role.SEND not in peer.roles:
            raise _RefusedError(NOT_AUTHORISED, "the role send is needed")
        if request.RequestedSOPInstanceUID != STORAGE_COMMITMENT_INSTANCE:
            raise _RefusedError(NO_SUCH_INSTANCE, "not the well-known SOP instance")
        if request.ActionTypeID != REQUEST_COMMITMENT:
            raise _RefusedError(NO_SUCH_ACTION, "Action Type ID must be 1")
        raw = request.ActionInformation
        encoded = b"" if raw is None else raw.getvalue()
        transaction_uid, references = read_request(encoded, exchange.transfer_syntax)
        now = self._clock()
        self._promises.accept(
            peer.name,
            transaction_uid,
            references,
            now=now,
            next_try_at=now + timedelta(seconds=OWN_ASSOCIATION_AFTER_S),
            give_up_at=now + self._limit,
        )
        return len(references)


def read_request(encoded: bytes, transfer_syntax: UID) -> tuple[str, tuple[Reference, ...]]:
    """Return the transaction UID and the distinct objects of a request."""
    try:
        values = read_elements(encoded, transfer_syntax, _WANTED)
    except UnreadableObjectError as error:
        raise _RefusedError(INVALID_ARGUMENT, str(error)) from error
    transaction_uid = values.uid("TransactionUID")
    items = values.items("ReferencedSOPSequence")
    if not transaction_uid or not items:
        missing = "ReferencedSOPSequence" if transaction_uid else "TransactionUID"
        raise _RefusedError(MISSING_ATTRIBUTE, f"{missing} is missing")
    if len(items) > MOST_REFERENCES:
        raise _RefusedError(RESOURCE_LIMITATION, f"more than {MOST_REFERENCES} objects")
    pairs = [
        (uid_of(item, "ReferencedSOPClassUID"), uid_of(item, "ReferencedSOPInstanceUID"))
        for item in items
    ]
    if not all(_UID_FORM.fullmatch(one) for pair in pairs for one in (transaction_uid, *pair)):
        raise _RefusedError(INVALID_ARGUMENT, "a UID is missing or none")
    return transaction_uid, tuple(dict.fromkeys(pairs))


class Verdicts:
    """Says of objects whether we hold them.

    Args:
        config: Which SOP classes are taken.
        index: What was received.
        store: Where it lies.
    """

    def __init__(self, config: Config, index: Index, store: ObjectStore) -> None:
        self._index = index
        self._store = store
        self._classes = {str(row.sop_class_uid) for row in accepted(config)}

    def failures(self, promise: Promise) -> dict[Reference, int]:
        """Return the failure reason of each object that we do not commit to."""
        references = promise.references
        if promise.is_duplicate:
            return dict.fromkeys(references, DUPLICATE_TRANSACTION)
        held = held_objects(self._index, [uid for _, uid in references])
        found: dict[Reference, int] = {}
        for sop_class_uid, uid in references:
            one = held.get(uid)
            if sop_class_uid not in self._classes:
                found[sop_class_uid, uid] = CLASS_NOT_SUPPORTED
            elif one is None or not self._is_on_disk(one.path, one.size_bytes):
                found[sop_class_uid, uid] = NO_SUCH_INSTANCE
            elif one.sop_class_uid != sop_class_uid:
                found[sop_class_uid, uid] = CLASS_INSTANCE_CONFLICT
        return found

    def _is_on_disk(self, path: str, size_bytes: int) -> bool:
        try:
            return self._store.read_path(path).stat().st_size == size_bytes
        except OSError:
            return False


def report_of(promise: Promise, failures: dict[Reference, int]) -> tuple[int, Dataset]:
    """Return the Event Type ID and the Event Information of a report."""
    report = Dataset()
    report.TransactionUID = promise.transaction_uid
    committed = [pair for pair in promise.references if pair not in failures]
    if committed:
        report.ReferencedSOPSequence = _items(committed)
    if not failures:
        return ALL_COMMITTED, report
    report.FailedSOPSequence = _items(list(failures))
    for item, reason in zip(report.FailedSOPSequence, failures.values(), strict=True):
        item.FailureReason = reason
    return SOME_NOT_COMMITTED, report


def _items(references: Sequence[Reference]) -> list[Dataset]:
    items = []
    for sop_class_uid, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
        items.append(item)
    return items
