"""Whether a peer answers: its breaker, its last success and its last failure.

After so many attempts in a row that came to nothing the breaker opens: nothing more is tried until
a pause is over, then one delivery tries whether the peer is back. It is in the index, so that a
restart neither forgets it nor begins to hammer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import DELIVERIES, REVISIONS, utc_text
from node.index.peer_rows import COMMITMENTS, STANDINGS
from node.index.states import UNSETTLED, DeliveryState


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one peer; times are ISO 8601 texts in UTC.

    Attributes:
        failures: Attempts in a row that came to nothing.
        open_since: Since when its breaker is open; None: it is closed.
        probe_at: When the next delivery may try it.
        deliveries_waiting: Deliveries that are still to send something.
        commitments_waiting: Deliveries that wait for its storage commitment.
        oldest_waiting_at: When the oldest result set that waits for it was finished, or None.
    """

    peer: str
    failures: int = 0
    open_since: str | None = None
    probe_at: str | None = None
    last_success_at: str | None = None
    last_failure_at: str | None = None
    last_failure: str = ""
    deliveries_waiting: int = 0
    commitments_waiting: int = 0
    oldest_waiting_at: str | None = None


class StandingBook:
    """The standings of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def standing(self, peer: str) -> Standing:
        """Return what is known of a peer; one that was never called has a clean sheet."""
        return self.standings([peer])[peer]

    def standings(self, peers: Sequence[str]) -> dict[str, Standing]:
        """Return what is known of peers, by name, in their order."""
        waiting = (
            sa.select(
                DELIVERIES.c.peer,
                DELIVERIES.c.state,
                sa.func.count().label("many"),
                sa.func.min(REVISIONS.c.finished_at).label("oldest"),
            )
            .join(
                REVISIONS,
                (REVISIONS.c.case_id == DELIVERIES.c.case_id)
                & (REVISIONS.c.revision == DELIVERIES.c.revision),
                isouter=True,
            )
            .where(DELIVERIES.c.peer.in_(peers), DELIVERIES.c.state.in_(UNSETTLED))
            .group_by(DELIVERIES.c.peer, DELIVERIES.c.state)
        )
        found: dict[str, dict[str, Any]] = {peer: {"peer": peer} for peer in peers}
        with self._index.read() as connection:
            known = sa.select(STANDINGS).where(STANDINGS.c.peer.in_(peers))
            for row in connection.execute(known):
                found[row.peer] = dict(row._mapping)
            for row in connection.execute(waiting):
                told = found[row.peer]
                is_pending = row.state == DeliveryState.PENDING
                told["deliveries_waiting" if is_pending else "commitments_waiting"] = row.many
                times = [at for at in (told.get("oldest_waiting_at"), row.oldest) if at]
                told["oldest_waiting_at"] = min(times, default=None)
        return {peer: Standing(**told) for peer, told in found.items()}

    def open_until(self, peer: str, now: datetime, pause: timedelta) -> datetime | None:
        """Tell whether a peer may be tried now: None; else when it may.

        Whoever gets None while the breaker is open is the one that tries: nobody else may before
        another `pause` is over.
        """
        with self._index.begin() as connection:
            row = _locked(connection, peer)
            if row is None or row.open_since is None:
                return None
            if row.probe_at > utc_text(now) >= row.last_failure_at:  # else the clock was put back
                return datetime.fromisoformat(row.probe_at)
            _write(connection, peer, probe_at=utc_text(now + pause))
        return None

    def came_to_nothing(
        self, peer: str, reason: str, now: datetime, *, most: int, pause: timedelta
    ) -> bool:
        """Count an attempt without any success; tell whether that opened the breaker.

        Args:
            peer: The peer's name.
            reason: Why, in a sentence.
            now: The time, aware.
            most: With how many in a row the breaker opens.
            pause: How long nobody tries while it is open.
        """
        with self._index.begin() as connection:
            row = _locked(connection, peer)
            failures = 1 if row is None else row.failures + 1
            is_open = row is not None and row.open_since is not None
            opens = failures >= most and not is_open
            changes: dict[str, Any] = {
                "failures": failures,
                "last_failure_at": utc_text(now),
                "last_failure": reason,
            }
            if opens:
                changes["open_since"] = utc_text(now)
            if opens or is_open:
                changes["probe_at"] = utc_text(now + pause)
            _write(connection, peer, **changes)
        return opens

    def refused(self, peer: str, reason: str, now: datetime) -> None:
        """Keep that a peer sent us away for good: it is there, so its breaker has no part in it."""
        with self._index.begin() as connection:
            _write(connection, peer, last_failure_at=utc_text(now), last_failure=reason)

    def answered(self, peer: str, now: datetime) -> bool:
        """Keep that a peer did what it was asked; tell whether that closed its breaker.

        If so, all that waited for it may go at once.
        """
        with self._index.begin() as connection:
            row = _locked(connection, peer)
            was_open = row is not None and row.open_since is not None
            _write(connection, peer, last_success_at=utc_text(now), **_CLOSED)
            if was_open:
                _hurry(connection, peer, now)
        return was_open

    def resume(self, peer: str, now: datetime) -> bool:
        """Close a breaker by hand; tell whether it was open. What waits for the peer is tried."""
        with self._index.begin() as connection:
            row = _locked(connection, peer)
            was_open = row is not None and row.open_since is not None
            if row is not None:
                _write(connection, peer, **_CLOSED)
            _hurry(connection, peer, now)
        return was_open


_CLOSED: dict[str, Any] = {"failures": 0, "open_since": None, "probe_at": None}


def _locked(connection: sa.Connection, peer: str) -> sa.Row[Any] | None:
    query = sa.select(STANDINGS).where(STANDINGS.c.peer == peer).with_for_update()
    return connection.execute(query).first()


def _write(connection: sa.Connection, peer: str, **changes: Any) -> None:
    changed = connection.execute(
        STANDINGS.update().where(STANDINGS.c.peer == peer).values(**changes)
    )
    if not changed.rowcount:
        first = {"failures": 0, "last_failure": "", **changes}
        connection.execute(STANDINGS.insert().values(peer=peer, **first))


def _hurry(connection: sa.Connection, peer: str, now: datetime) -> None:
    """Let everything that waits for a peer come at once, but what waits for its report."""
    is_asked = sa.exists().where(
        COMMITMENTS.c.case_id == DELIVERIES.c.case_id,
        COMMITMENTS.c.revision == DELIVERIES.c.revision,
        COMMITMENTS.c.peer == DELIVERIES.c.peer,
        COMMITMENTS.c.state == "open",
        COMMITMENTS.c.asked_at.is_not(None),
    )
    connection.execute(
        DELIVERIES.update()
        .where(
            DELIVERIES.c.peer == peer,
            DELIVERIES.c.next_try_at > utc_text(now),
            sa.or_(
                DELIVERIES.c.state == DeliveryState.PENDING,
                sa.and_(DELIVERIES.c.state == DeliveryState.COMMITTING, ~is_asked),
            ),
        )
        .values(next_try_at=utc_text(now))
    )
