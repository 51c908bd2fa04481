"""The states of a case and the moves between them, as data (DESIGN, section 3)."""

from enum import StrEnum


class CaseState(StrEnum):
    """Where a case stands; every state has an exit."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    REJECTED = "rejected"
    FAILED = "failed"
    ABANDONED = "abandoned"


_COLLECTING = frozenset(
    {CaseState.RECEIVING, CaseState.WAITING, CaseState.READY, CaseState.REJECTED}
)

TRANSITIONS: dict[CaseState, frozenset[CaseState]] = {
    CaseState.RECEIVING: _COLLECTING | {CaseState.ABANDONED},
    CaseState.WAITING: _COLLECTING | {CaseState.ABANDONED},
    CaseState.READY: _COLLECTING | {CaseState.RUNNING, CaseState.ABANDONED},
    CaseState.RUNNING: frozenset(
        {
            CaseState.READY,
            CaseState.DELIVERING,
            CaseState.DELIVERED,
            CaseState.REJECTED,
            CaseState.FAILED,
            CaseState.ABANDONED,
        }
    ),
    # new objects make a revision while the old result is still on its way
    CaseState.DELIVERING: _COLLECTING
    | {CaseState.DELIVERED, CaseState.UNDELIVERED, CaseState.ABANDONED},
    # an operator may owe a peer again what was given up for it
    CaseState.DELIVERED: _COLLECTING | {CaseState.DELIVERING},
    CaseState.UNDELIVERED: _COLLECTING
    | {CaseState.DELIVERING, CaseState.DELIVERED, CaseState.ABANDONED},
    CaseState.REJECTED: _COLLECTING | {CaseState.ABANDONED},
    CaseState.FAILED: _COLLECTING | {CaseState.ABANDONED},
    CaseState.ABANDONED: _COLLECTING,
}
"""From each state, the states it may move to."""

SETTLED = frozenset(
    {
        CaseState.READY,
        CaseState.RUNNING,
        CaseState.DELIVERING,
        CaseState.DELIVERED,
        CaseState.UNDELIVERED,
        CaseState.REJECTED,
        CaseState.FAILED,
        CaseState.ABANDONED,
    }
)
"""States that only other objects, or an operator, change: the same objects change nothing."""


class DeliveryState(StrEnum):
    """Where one result set stands on its way to one peer."""

    PENDING = "pending"
    COMMITTING = "committing"
    """Everything was sent; the peer is still to say that it keeps it (storage commitment)."""
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    ABANDONED = "abandoned"


UNSETTLED = (DeliveryState.PENDING, DeliveryState.COMMITTING)
"""A delivery on which work goes on."""

COMMITTED = "committed"
"""The peer reported that it keeps the object."""
COMMITMENT_REFUSED = "refused"
"""The peer will not keep it, whatever we do."""
FOUND = "found"
"""The peer holds it, says its answer to a query; it never committed to it."""
UNCONFIRMED = "unconfirmed"
"""The peer took it and said no more."""
LOST = "lost"
"""The peer reported, after all was settled, that it does not keep it."""
