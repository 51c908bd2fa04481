"""What became of associations that others requested: for the counts, the log, the audit trail."""

import logging
import time
from collections.abc import Callable

from node.admission import Rejection
from node.audit.events import AuditEvent, Kind, Tell
from node.audit.received import received_events
from node.index.instances import AssociationOutcome
from node.intake import Session
from node.monitoring.counts import ASSOCIATIONS, COUNTS, REJECTIONS

LOGGER = logging.getLogger(__name__)


class AssociationWatch:
    """Is told how associations end; tells nobody what to do.

    Args:
        audit: The audit trail.
    """

    def __init__(self, audit: Tell) -> None:
        self._audit = audit

    def ended(self, session: Session, outcome: AssociationOutcome) -> Callable[[], None]:
        """Return what tells of an association that ends now, once its objects are filed."""
        summary = {
            "outcome": str(outcome),
            "calling_ae": session.calling_ae,
            "peer": session.peer.name,
            "address": session.address,
            "refused": session.counts["refused"],
            "echoes": session.counts["echoes"],
            "bytes": session.size_bytes,
            "seconds": round(time.monotonic() - session.started_s, 3),
        }

        def tell() -> None:
            COUNTS.add(ASSOCIATIONS, session.peer.name, str(outcome).replace(" ", "_"))
            counts = session.carrier.counts
            kept = {name: counts[name] for name in ("stored", "known", "replaced")}
            carried = {**kept, "association_id": session.carrier.association_id}
            LOGGER.info("association.closed", extra={**summary, **carried})
            for event in received_events(session, outcome):
                self._audit(event)

        return tell

    def rejected(self, how: Rejection, calling_ae: str, address: str) -> None:
        """Tell of an association that was rejected."""
        COUNTS.add(REJECTIONS, f"{how.source}.{how.reason}")
        fields = {"reason": how.why, "calling_ae": calling_ae, "address": address}
        LOGGER.warning("association.rejected", extra=fields)
        what = {"reason": how.why}
        self._audit(AuditEvent(Kind.PEER_REJECTED, calling_ae, address, "failure", what))
