"""What is told to the audit trail: one value for each event, without a patient's identifiers.

Events name a patient by the index's key only; what becomes of that in the trail is the business of
`node.audit.patients`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Outcome = Literal["success", "failure"]


class Kind(StrEnum):
    """What happened. Each kind becomes one message of PS3.15 A.5.3; see `node.audit.message`."""

    STARTED = "application.started"
    STOPPED = "application.stopped"
    LOGIN = "login"
    LOGOUT = "logout"
    REQUEST = "request"
    """Something was to be changed through the page; a failure: it was denied."""
    ACCOUNT_CHANGED = "account.changed"
    """A user or a token was made, changed or removed."""
    CASE_CHANGED = "case.changed"
    """A case was computed again, delivered again or abandoned, because somebody asked for it."""
    ACCESSED = "instances.accessed"
    """Somebody looked at images or results of a case."""
    EXPORTED = "instances.exported"
    """Somebody took files of a case away."""
    BEGIN_SENDING = "instances.begin_sending"
    SENT = "instances.sent"
    RECEIVED = "instances.received"
    QUERY_ANSWERED = "query.answered"
    QUERY_ASKED = "query.asked"
    PEER_REJECTED = "peer.rejected"
    """An association was refused."""
    STUDY_DELETED = "study.deleted"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened.

    Attributes:
        kind: A value of `Kind`; one that is unknown is told as a request.
        actor: Who did it: a user, a token's name, an AE title; empty: this node by itself.
        address: Where from, IP address or host; empty: here.
        outcome: Whether it was done.
        what: More about it. `case_id`, `patient_key`, `study` (UIDs, separated by spaces), `peer`,
            `ae_title` (of the other side), `sop_classes` (`UID=count`, separated by spaces);
            `sop_class`, `level` and `keys` (keywords) of a query; `action`, `reason`. Never a
            patient's name, identifier or birth date.
    """

    kind: str
    actor: str = ""
    address: str = ""
    outcome: Outcome = "success"
    what: Mapping[str, str] = field(default_factory=dict)


Tell = Callable[[AuditEvent], None]
"""Takes an event at once and never raises: the work of whoever tells goes on."""


def untold(event: AuditEvent) -> None:
    """Take an event where there is no audit trail: in tests of single parts."""
