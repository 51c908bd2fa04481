"""What peers answered to what they were sent: for the counts, the log and the audit trail."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from node.audit.events import AuditEvent, Kind, Tell, untold
from node.config import Peer
from node.delivery import InstanceDelivery, InstanceOutcome
from node.index import Index
from node.index.deliveries import DeliveryKey
from node.index.settled_accounts import settled_account
from node.index.states import DeliveryState
from node.monitoring.counts import (
    COUNTS,
    DELIVERED_BYTES,
    DELIVERED_OBJECTS,
    DELIVERIES,
    DELIVERY_INTERRUPTIONS,
    DELIVERY_SECONDS,
    Counts,
)

LOGGER = logging.getLogger(__name__)

_CLASSES = (
    (range(0x0001), "success"),
    (range(0xB000, 0xC000), "warning"),
    (range(0xA700, 0xA800), "out_of_resources"),
    (range(0xA900, 0xAA00), "does_not_match"),
    (range(0xC000, 0xD000), "cannot_understand"),
)
"""Statuses of C-STORE by their meaning (PS3.4 table B.2-1)."""


def status_class(answer: InstanceDelivery) -> str:
    """Return the class of a peer's status; without one, what became of the object."""
    if answer.status is None:
        return str(answer.outcome)
    known = (name for statuses, name in _CLASSES if answer.status in statuses)
    return next(known, "refused")


class DeliveryWatch:
    """Is told what happens to deliveries; tells nobody what to do.

    Args:
        data: The data folder.
        index: Receipts and results.
        clock: The time, aware.
        audit: The audit trail.
        counts: Where it is counted.
    """

    def __init__(
        self,
        data: Path,
        index: Index,
        clock: Callable[[], datetime],
        audit: Tell = untold,
        counts: Counts = COUNTS,
    ) -> None:
        self._data = data
        self._index = index
        self._clock = clock
        self._audit = audit
        self._counts = counts

    def begins(self, key: DeliveryKey, peer: Peer, objects: int) -> None:
        """Note that objects are about to be sent."""
        self._tell(Kind.BEGIN_SENDING, key, peer, objects)

    def not_sent(self, key: DeliveryKey, peer: Peer, objects: int, reason: str) -> None:
        """Note that no association came about."""
        self._tell(Kind.SENT, key, peer, objects, reason=reason)

    def answered(
        self,
        key: DeliveryKey,
        peer: Peer,
        answers: Sequence[InstanceDelivery],
        paths: Mapping[str, str],
    ) -> None:
        """Note what the peer answered in one attempt.

        Args:
            key: The attempt.
            peer: Who.
            answers: About each object.
            paths: Of the objects in the data folder, by SOP Instance UID.
        """
        for answer in answers:
            self._counts.add(DELIVERED_OBJECTS, peer.name, status_class(answer))
        taken = [paths[a.sop_instance_uid] for a in answers if a.outcome.is_delivered]
        missed = [a for a in answers if not _is_settled(a.outcome)]
        if taken:
            self._counts.add(DELIVERED_BYTES, peer.name, amount=self._bytes_of(taken))
            self._tell(Kind.SENT, key, peer, len(taken))
        if missed:
            self._tell(Kind.SENT, key, peer, len(missed), reason=missed[0].reason or "no answer")

    def put_off(self, key: DeliveryKey) -> None:
        """Note that an attempt must be repeated."""
        self._counts.add(DELIVERY_INTERRUPTIONS, key.peer)

    def settled(self, key: DeliveryKey, state: DeliveryState) -> dict[str, object]:
        """Note how a delivery ended; return what its line in the log tells besides.

        Returns:
            `attempt` (from 0), `objects` that the peer took, `outcomes` (objects by outcome),
            `bytes` of those taken, `seconds` since the result set was there.
        """
        self._counts.add(DELIVERIES, key.peer, str(state))
        try:
            account = settled_account(self._index, key.case_id, key.revision, key.peer)
        except Exception:
            # it is settled: that not all can be told of it changes nothing
            LOGGER.exception("delivery.not_accounted", extra={"case_id": key.case_id})
            return {"attempt": key.attempt}
        seconds = 0.0
        if account.adopted_at is not None:
            seconds = max(0.0, (self._clock() - account.adopted_at).total_seconds())
            self._counts.observe(DELIVERY_SECONDS, seconds, key.peer)
        return {
            "attempt": key.attempt,
            "objects": len(account.taken_paths),
            "outcomes": account.outcomes,
            "bytes": self._bytes_of(account.taken_paths),
            "seconds": round(seconds, 2),
        }

    def _tell(
        self, kind: Kind, key: DeliveryKey, peer: Peer, objects: int, *, reason: str = ""
    ) -> None:
        what = {
            "case_id": key.case_id,
            "peer": peer.name,
            "ae_title": peer.ae_title,
            "sop_classes": f"={objects}",
            **({"reason": reason} if reason else {}),
        }
        self._audit(AuditEvent(kind, "", peer.host, "failure" if reason else "success", what))

    def _bytes_of(self, paths: Sequence[str]) -> int:
        total = 0
        for path in paths:
            try:
                total += (self._data / path).stat().st_size
            except OSError:  # removed meanwhile: what is told of it is a figure, no more
                continue
        return total


def _is_settled(outcome: InstanceOutcome) -> bool:
    """Tell whether a peer holds an object, or was not to get it."""
    return outcome.is_delivered or outcome is InstanceOutcome.LEFT_OUT
