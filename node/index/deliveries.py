"""What is owed to peers, what they answered, and when a delivery is settled."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from node.errors import NodeError
from node.index import Index
from node.index.case_labels import tell_worst
from node.index.case_rows import (
    DELIVERIES,
    RECEIPTS,
    RESULTS,
    case_row,
    move_case,
    utc_text,
)
from node.index.peer_rows import COMMITMENTS, STANDINGS
from node.index.states import UNSETTLED, CaseState, DeliveryState

LEFT_OUT = "left_out"
"""Outcome of an object that the peer does not negotiate and can do without."""

ANSWERED = ("sent", "warned", LEFT_OUT)
"""Outcomes after which an object need not be sent again: taken, or left out for good."""

TAKEN = ("sent", "warned")
"""Outcomes with which a peer holds an object by its own word."""

REFUSED = "refused_permanent"
"""Outcome with which a peer will never take an object."""


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """One attempt to bring one result set to one peer; attempts are numbered from 0.

    Attributes:
        begun: Which start of an attempt, counted over all attempts; 0: none yet. What a process
            says of a start that another one has followed changes nothing.
    """

    case_id: str
    revision: int
    peer: str
    attempt: int
    begun: int = 0


class OvertakenError(NodeError):
    """Another process has begun the same delivery anew: this one must not go on with it."""


class Owed(NamedTuple):
    """What one attempt is to do.

    Attributes:
        paths: Of the objects to send, by SOP Instance UID, in the order of sending.
        give_up_at: Until when to try.
        state: What is to be done: to send, or to have it committed.
    """

    paths: dict[str, str]
    give_up_at: datetime
    state: DeliveryState


class DeliveryBook:
    """The deliveries of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def index(self) -> Index:
        """Whose deliveries these are."""
        return self._index

    def due(self, now: datetime) -> list[DeliveryKey]:
        """Return the attempts whose time has come, oldest result set first.

        Of a peer whose breaker is open there is only the one that tries whether it is back, when
        that is due, those whose time is spent, and those that wait for nothing but us: their
        report is here. What was written later than `now`, by a clock that has been put back
        since, is due at once.
        """
        columns = (
            DELIVERIES.c.case_id,
            DELIVERIES.c.revision,
            DELIVERIES.c.peer,
            DELIVERIES.c.attempt,
        )
        has_report = sa.exists().where(
            COMMITMENTS.c.case_id == DELIVERIES.c.case_id,
            COMMITMENTS.c.revision == DELIVERIES.c.revision,
            COMMITMENTS.c.peer == DELIVERIES.c.peer,
            COMMITMENTS.c.state == "open",
            COMMITMENTS.c.report != "",
        )
        query = (
            sa.select(
                *columns,
                has_report.label("has_report"),
                STANDINGS.c.open_since,
                STANDINGS.c.probe_at,
                STANDINGS.c.last_failure_at,
                (DELIVERIES.c.give_up_at <= utc_text(now)).label("is_spent"),
            )
            .join(STANDINGS, STANDINGS.c.peer == DELIVERIES.c.peer, isouter=True)
            .where(
                DELIVERIES.c.state.in_(UNSETTLED),
                sa.or_(
                    DELIVERIES.c.next_try_at <= utc_text(now),
                    DELIVERIES.c.updated_at > utc_text(now),
                ),
            )
            .order_by(DELIVERIES.c.updated_at, DELIVERIES.c.case_id)
        )
        found, probed = [], set()
        with self._index.read() as connection:
            for row in connection.execute(query):
                if row.open_since is not None and not (row.is_spent or row.has_report):
                    is_probed = row.probe_at > utc_text(now) >= row.last_failure_at
                    if is_probed or row.peer in probed:
                        continue
                    probed.add(row.peer)
                found.append(DeliveryKey(row.case_id, row.revision, row.peer, row.attempt))
        return found

    def begin(self, key: DeliveryKey) -> DeliveryKey | None:
        """Begin an attempt; return it with the number of its start.

        Returns:
            None when the attempt is over, or the delivery settled.
        """
        with self._index.begin() as connection:
            changed = connection.execute(
                DELIVERIES.update()
                .where(
                    is_of(key, DELIVERIES),
                    DELIVERIES.c.attempt == key.attempt,
                    DELIVERIES.c.state.in_(UNSETTLED),
                )
                .values(begun=DELIVERIES.c.begun + 1)
            )
            if not changed.rowcount:
                return None
            begun = connection.scalar(sa.select(DELIVERIES.c.begun).where(is_of(key, DELIVERIES)))
        return replace(key, begun=begun or 0)

    def owed(self, key: DeliveryKey) -> Owed | None:
        """Return what the peer has neither confirmed nor refused for good, and until when to try.

        Returns:
            None when this attempt is over, or the delivery settled.
        """
        answered = sa.select(RECEIPTS.c.sop_instance_uid).where(
            is_of(key, RECEIPTS),
            RECEIPTS.c.outcome.in_((*ANSWERED, REFUSED)),
        )
        with self._index.read() as connection:
            entry = connection.execute(sa.select(DELIVERIES).where(is_of(key, DELIVERIES))).first()
            if entry is None or (entry.attempt, entry.begun) != (key.attempt, key.begun):
                return None
            if entry.state not in UNSETTLED:
                return None
            query = (
                sa.select(RESULTS.c.sop_instance_uid, RESULTS.c.path)
                .where(
                    RESULTS.c.case_id == key.case_id,
                    RESULTS.c.revision == key.revision,
                    RESULTS.c.output.in_(json.loads(entry.outputs)),
                    RESULTS.c.sop_instance_uid.not_in(answered),
                )
                .order_by(RESULTS.c.path)
            )
            owed = {row.sop_instance_uid: row.path for row in connection.execute(query)}
        return Owed(owed, datetime.fromisoformat(entry.give_up_at), DeliveryState(entry.state))

    def record_receipt(
        self,
        key: DeliveryKey,
        sop_instance_uid: str,
        outcome: str,
        status: int | None,
        reason: str,
        now: datetime,
    ) -> None:
        """Keep what a peer answered for one object; the newest answer counts.

        Raises:
            OvertakenError: Another process has begun the delivery anew.
        """
        identity = {
            "case_id": key.case_id,
            "revision": key.revision,
            "peer": key.peer,
            "sop_instance_uid": sop_instance_uid,
        }
        answer = {"status": status, "outcome": outcome, "reason": reason, "at": utc_text(now)}
        answer |= {"commitment": "", "commitment_reason": ""}
        with self._index.begin() as connection:
            begun = connection.scalar(sa.select(DELIVERIES.c.begun).where(is_of(key, DELIVERIES)))
            if begun != key.begun:
                raise OvertakenError("another process has begun this delivery anew")
            conditions = [RECEIPTS.c[name] == value for name, value in identity.items()]
            changed = connection.execute(RECEIPTS.update().where(*conditions).values(**answer))
            if not changed.rowcount:
                connection.execute(RECEIPTS.insert().values(**identity, **answer))

    def refusals(self, key: DeliveryKey) -> list[str]:
        """Return why the peer refused objects for good, each reason once."""
        query = (
            sa.select(RECEIPTS.c.reason)
            .where(
                is_of(key, RECEIPTS),
                RECEIPTS.c.outcome == REFUSED,
            )
            .distinct()
            .order_by(RECEIPTS.c.reason)
        )
        with self._index.read() as connection:
            return [row.reason for row in connection.execute(query)]

    def only_left_out(self, key: DeliveryKey) -> list[str]:
        """Return why objects were left out, if nothing else became of any of them."""
        query = (
            sa.select(RECEIPTS.c.outcome, RECEIPTS.c.reason)
            .where(
                is_of(key, RECEIPTS),
            )
            .distinct()
            .order_by(RECEIPTS.c.reason)
        )
        with self._index.read() as connection:
            found = connection.execute(query).all()
        return [] if any(f.outcome != LEFT_OUT for f in found) else [f.reason for f in found]

    def put_off(
        self,
        key: DeliveryKey,
        reason: str,
        next_try_at: datetime,
        now: datetime,
        *,
        state: DeliveryState | None = None,
    ) -> None:
        """End an attempt that must be repeated, and say when and why.

        Args:
            key: The attempt.
            reason: Why, in a sentence.
            next_try_at: When to try again.
            now: The time, aware.
            state: What is to be done then; None: the same.
        """
        changes: dict[str, Any] = {} if state is None else {"state": state}
        with self._index.begin() as connection:
            row = case_row(connection, key.case_id)
            connection.execute(
                DELIVERIES.update()
                .where(
                    is_start(key),
                    DELIVERIES.c.state.in_(UNSETTLED),
                )
                .values(
                    attempt=key.attempt + 1,
                    next_try_at=utc_text(next_try_at),
                    reason=reason,
                    updated_at=utc_text(now),
                    **changes,
                )
            )
            if row is not None:
                tell_worst(connection, row, key.revision)

    def begin_committing(self, key: DeliveryKey, now: datetime) -> None:
        """Record that everything was sent, and that the peer is now asked to keep it."""
        with self._index.begin() as connection:
            connection.execute(
                DELIVERIES.update()
                .where(
                    is_start(key),
                    DELIVERIES.c.state == DeliveryState.PENDING,
                )
                .values(state=DeliveryState.COMMITTING, reason="", updated_at=utc_text(now))
            )

    def settle(self, key: DeliveryKey, state: DeliveryState, reason: str, now: datetime) -> bool:
        """End a delivery; the last one to end decides the state of its case.

        Returns:
            False when this attempt is over or the delivery settled: an operator has begun it again
            or given it up meanwhile. Nothing is changed then.
        """
        with self._index.begin() as connection:
            row = case_row(connection, key.case_id)
            changed = connection.execute(
                DELIVERIES.update()
                .where(
                    is_start(key),
                    DELIVERIES.c.state.in_(UNSETTLED),
                )
                .values(state=state, reason=reason, updated_at=utc_text(now))
            )
            if not changed.rowcount:
                return False
            close_transactions(connection, key.case_id, key.revision, key.peer)
            if row is None or row.revision != key.revision:
                return True
            tell_worst(connection, row, key.revision)
            if CaseState(row.state) is CaseState.DELIVERING:
                follow_deliveries(connection, row, now)
        return True


def is_of(key: DeliveryKey, table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that picks the rows of a delivery, whatever its attempt."""
    return sa.and_(
        table.c.case_id == key.case_id,
        table.c.revision == key.revision,
        table.c.peer == key.peer,
    )


def is_start(key: DeliveryKey) -> sa.ColumnElement[bool]:
    """Return the condition that picks a delivery if no other start has followed this one."""
    return sa.and_(
        is_of(key, DELIVERIES),
        DELIVERIES.c.attempt == key.attempt,
        DELIVERIES.c.begun == key.begun,
    )


def close_transactions(connection: sa.Connection, case_id: str, revision: int, peer: str) -> None:
    """Wait for no report any more; one that comes all the same is still kept."""
    connection.execute(
        COMMITMENTS.update()
        .where(
            COMMITMENTS.c.case_id == case_id,
            COMMITMENTS.c.revision == revision,
            COMMITMENTS.c.peer == peer,
        )
        .values(state="closed")
    )


def follow_deliveries(connection: sa.Connection, row: sa.Row[Any], now: datetime) -> None:
    """Move a case to where its deliveries are, once none of them goes on."""
    entries = connection.execute(
        sa.select(DELIVERIES)
        .where(DELIVERIES.c.case_id == row.case_id, DELIVERIES.c.revision == row.revision)
        .order_by(DELIVERIES.c.peer)
    ).all()
    if any(entry.state in UNSETTLED for entry in entries):
        return
    unmet = [e for e in entries if e.state == DeliveryState.UNDELIVERED]
    given_up = [e for e in entries if e.state == DeliveryState.ABANDONED]
    text = "; ".join(f"{e.peer}: {e.reason}" for e in (unmet or given_up))
    if unmet:
        move_case(connection, row, CaseState.UNDELIVERED, text, now)
    elif len(given_up) == len(entries):
        move_case(connection, row, CaseState.ABANDONED, text, now)
    else:
        move_case(connection, row, CaseState.DELIVERED, text, now)
