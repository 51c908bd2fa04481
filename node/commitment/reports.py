"""Takes the reports of storage commitment that peers send (N-EVENT-REPORT), and always answers.

A report is answered with success once it is in the index. It is matched by its Transaction UID and
by the peer that sends it. Read PS3.4 J.3.3 and PS3.7 10.1.1 first.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StorageCommitmentPushModel,
)

from node.commitment.verdicts import PROCESSING_FAILURE
from node.config import Config, Peer
from node.index.commitments import CommitmentBook, Report
from node.offered import Service

LOGGER = logging.getLogger(__name__)

ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 J.3.3)."""

SUCCESS = 0x0000
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT = 0x0115
"""Of N-EVENT-REPORT (PS3.7 10.1.1.1.8); the last also for a transaction that is not ours."""

MOST_REMEMBERED = 64
"""Transactions that were just reported, for whoever waits on the association."""


class ReportDesk:
    """Where reports arrive, over whatever association.

    Args:
        config: The peers.
        book: Where reports are kept.
        clock: The time, aware.
    """

    def __init__(self, config: Config, book: CommitmentBook, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._book = book
        self._clock = clock
        self._arrived = threading.Condition()
        self._reported: list[str] = []

    def service(self) -> Service:
        """Return what our listener offers: peers may report on associations that they open."""
        return Service(
            UID(StorageCommitmentPushModel),
            (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
            ((evt.EVT_N_EVENT_REPORT, self.take),),
            is_user=True,
        )

    def take(self, event: Any, peer: Peer) -> tuple[int, None]:
        """Keep a report; return the status to answer, whatever happens."""
        try:
            return self._taken(event, peer), None
        except Exception:
            # the boundary of a foreign thread: the peer must get an answer, and may come again
            LOGGER.exception("commitment.not_recorded", extra={"peer": peer.name})
            return PROCESSING_FAILURE, None

    def wait_for(self, transaction_uid: str, timeout_s: float) -> bool:
        """Wait for the report of a transaction; tell whether it came."""
        with self._arrived:
            return self._arrived.wait_for(lambda: transaction_uid in self._reported, timeout_s)

    def _taken(self, event: Any, peer: Peer) -> int:
        if event.event_type not in (ALL_COMMITTED, FAILURES_EXIST):
            return self._refused(peer, "an event type that storage commitment does not have")
        try:
            ds = event.event_information
            transaction_uid, report = str(ds.TransactionUID), read_report(ds)
        except Exception:  # noqa: BLE001 - whatever pydicom raises means this
            self._refused(peer, "a report that cannot be read")
            return INVALID_ARGUMENT
        names = [
            p.name for p in self._config.peer if (p.ae_title, p.host) == (peer.ae_title, peer.host)
        ]
        if not self._book.record_report(names, transaction_uid, report, self._clock()):
            self._refused(peer, "a transaction that we did not ask this peer for")
            return INVALID_ARGUMENT
        with self._arrived:
            self._reported = [*self._reported[-MOST_REMEMBERED:], transaction_uid]
            self._arrived.notify_all()
        counts = {"committed": len(report.committed), "failed": len(report.failed)}
        LOGGER.info("commitment.reported", extra={"peer": peer.name, **counts})
        return SUCCESS

    def _refused(self, peer: Peer, what: str) -> int:
        LOGGER.warning("commitment.report_refused", extra={"peer": peer.name, "reason": what})
        return NO_SUCH_EVENT_TYPE


def read_report(ds: Dataset) -> Report:
    """Return what an event information says (PS3.4 table J.3-2).

    An object that is named as failed is not committed, whatever else is said; a failure without a
    reason is a processing failure.
    """
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in _items(ds, "FailedSOPSequence")
    }
    kept = {str(item.ReferencedSOPInstanceUID) for item in _items(ds, "ReferencedSOPSequence")}
    return Report(frozenset(kept - set(failed)), failed)


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    return ds.get(keyword) or ()
