"""What the audit trail is told of an association that brought objects."""

from collections.abc import Iterator, Sequence

from node.audit.events import AuditEvent, Kind, Tell
from node.index import Index
from node.index.audit_lookups import CutAssociation, cut_association
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


def tell_of_cut(index: Index, tell: Tell, association_ids: Sequence[int]) -> None:
    """Tell of associations in which a process ended before it could tell of them itself.

    Args:
        index: What they brought is in it.
        tell: The audit trail.
        association_ids: Rows of the associations.
    """
    for association_id in association_ids:
        if (found := cut_association(index, association_id)) is not None:
            for event in _cut_events(found):
                tell(event)


def _cut_events(cut: CutAssociation) -> Iterator[AuditEvent]:
    told = {"peer": cut.peer, "ae_title": cut.calling_ae}
    for (patient_key, study), classes in cut.contents.items():
        counts = " ".join(f"{uid}={count}" for uid, count in classes.items())
        what = {**told, "patient_key": patient_key, "study": study, "sop_classes": counts}
        yield AuditEvent(Kind.RECEIVED, cut.calling_ae, cut.address, "success", what)
    if cut.known:
        what = {**told, "sop_classes": f"={cut.known}", "event_action": "R"}
        yield AuditEvent(Kind.RECEIVED, cut.calling_ae, cut.address, "success", what)
    reason = "the association was cut: the process that took its objects ended in it"
    what = {**told, "reason": reason}
    yield AuditEvent(Kind.RECEIVED, cut.calling_ae, cut.address, "failure", what)
