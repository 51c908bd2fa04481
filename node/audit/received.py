"""What the audit trail is told of an association that brought objects."""

from collections.abc import Iterator

from node.audit.events import AuditEvent, Kind
from node.index.instances import AssociationOutcome
from node.intake import Session


def received_events(session: Session, outcome: AssociationOutcome) -> Iterator[AuditEvent]:
    """Yield what the audit trail is told of an association: an event for each study it brought."""
    told = {"peer": session.peer.name, "ae_title": session.calling_ae}
    actor, address = session.calling_ae, session.address
    for (patient_key, study, is_new), classes in session.carrier.contents.items():
        what = {
            **told,
            "patient_key": patient_key,
            "study": study,
            "sop_classes": " ".join(f"{uid}={count}" for uid, count in classes.items()),
            # what we held already was left as it is (PS3.15 A.5.3.7)
            "event_action": "C" if is_new else "R",
        }
        yield AuditEvent(Kind.RECEIVED, actor, address, "success", what)
    refused = session.counts["refused"]
    if refused or outcome is not AssociationOutcome.RELEASED:
        reason = f"{refused} objects were refused; the association ended: {outcome}"
        what = {**told, "sop_classes": f"={refused}", "reason": reason}
        yield AuditEvent(Kind.RECEIVED, actor, address, "failure", what)
