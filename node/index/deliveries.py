"""What is owed to peers, what they answered, and when a delivery is settled."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import (
    DELIVERIES,
    RECEIPTS,
    RESULTS,
    IllegalMoveError,
    case_row,
    move_case,
    utc_text,
)
from node.index.states import CaseState, DeliveryState

ANSWERED = ("sent", "warned", "left_out")
"""Outcomes after which an object need not be sent again: taken, or left out for good."""

REFUSED = "refused_permanent"
"""Outcome with which a peer will never take an object."""


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """One attempt to bring one result set to one peer; attempts are numbered from 0."""

    case_id: str
    revision: int
    peer: str
    attempt: int


class DeliveryBook:
    """The deliveries of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def due(self, now: datetime) -> list[DeliveryKey]:
        """Return the attempts whose time has come, oldest result set first."""
        columns = (
            DELIVERIES.c.case_id,
            DELIVERIES.c.revision,
            DELIVERIES.c.peer,
            DELIVERIES.c.attempt,
        )
        query = (
            sa.select(*columns)
            .where(
                DELIVERIES.c.state == DeliveryState.PENDING,
                DELIVERIES.c.next_try_at <= utc_text(now),
            )
            .order_by(DELIVERIES.c.updated_at, DELIVERIES.c.case_id)
        )
        with self._index.read() as connection:
            return [DeliveryKey(*row) for row in connection.execute(query)]

    def owed(self, key: DeliveryKey) -> tuple[dict[str, str], datetime] | None:
        """Return what the peer has neither confirmed nor refused for good, and until when to try.

        Returns:
            Paths by SOP Instance UID in the order of sending, and the time at which to give up;
            None when this attempt is over, or the delivery settled.
        """
        answered = sa.select(RECEIPTS.c.sop_instance_uid).where(
            RECEIPTS.c.case_id == key.case_id,
            RECEIPTS.c.revision == key.revision,
            RECEIPTS.c.peer == key.peer,
            RECEIPTS.c.outcome.in_((*ANSWERED, REFUSED)),
        )
        with self._index.read() as connection:
            entry = connection.execute(sa.select(DELIVERIES).where(_is_delivery(key))).first()
            if entry is None or entry.attempt != key.attempt:
                return None
            if entry.state != DeliveryState.PENDING:
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
        return owed, datetime.fromisoformat(entry.give_up_at)

    def record_receipt(
        self,
        key: DeliveryKey,
        sop_instance_uid: str,
        outcome: str,
        status: int | None,
        reason: str,
        now: datetime,
    ) -> None:
        """Keep what a peer answered for one object; the newest answer counts."""
        identity = {
            "case_id": key.case_id,
            "revision": key.revision,
            "peer": key.peer,
            "sop_instance_uid": sop_instance_uid,
        }
        answer = {"status": status, "outcome": outcome, "reason": reason, "at": utc_text(now)}
        with self._index.begin() as connection:
            conditions = [RECEIPTS.c[name] == value for name, value in identity.items()]
            changed = connection.execute(RECEIPTS.update().where(*conditions).values(**answer))
            if not changed.rowcount:
                connection.execute(RECEIPTS.insert().values(**identity, **answer))

    def refusals(self, key: DeliveryKey) -> list[str]:
        """Return why the peer refused objects for good, each reason once."""
        query = (
            sa.select(RECEIPTS.c.reason)
            .where(
                RECEIPTS.c.case_id == key.case_id,
                RECEIPTS.c.revision == key.revision,
                RECEIPTS.c.peer == key.peer,
                RECEIPTS.c.outcome == REFUSED,
            )
            .distinct()
            .order_by(RECEIPTS.c.reason)
        )
        with self._index.read() as connection:
            return [row.reason for row in connection.execute(query)]

    def put_off(self, key: DeliveryKey, reason: str, next_try_at: datetime, now: datetime) -> None:
        """End an attempt that must be repeated, and say when and why."""
        with self._index.begin() as connection:
            connection.execute(
                DELIVERIES.update()
                .where(_is_delivery(key), DELIVERIES.c.attempt == key.attempt)
                .values(
                    attempt=key.attempt + 1,
                    next_try_at=utc_text(next_try_at),
                    reason=reason,
                    updated_at=utc_text(now),
                )
            )

    def settle(self, key: DeliveryKey, state: DeliveryState, reason: str, now: datetime) -> None:
        """End a delivery; the last one to end decides the state of its case."""
        with self._index.begin() as connection:
            connection.execute(
                DELIVERIES.update()
                .where(_is_delivery(key), DELIVERIES.c.state == DeliveryState.PENDING)
                .values(state=state, reason=reason, updated_at=utc_text(now))
            )
            row = case_row(connection, key.case_id)
            if row is None or row.revision != key.revision:
                return
            if CaseState(row.state) is not CaseState.DELIVERING:
                return
            entries = connection.execute(
                sa.select(DELIVERIES).where(
                    DELIVERIES.c.case_id == key.case_id,
                    DELIVERIES.c.revision == key.revision,
                )
            ).all()
            if any(entry.state == DeliveryState.PENDING for entry in entries):
                return
            unmet = [e for e in entries if e.state != DeliveryState.DELIVERED]
            if unmet:
                text = "; ".join(f"{e.peer}: {e.reason}" for e in unmet)
                move_case(connection, row, CaseState.UNDELIVERED, text, now)
            else:
                move_case(connection, row, CaseState.DELIVERED, "", now)

    def reopen(self, case_id: str, give_up: timedelta, now: datetime) -> None:
        """Owe again what the newest revision of an undelivered case did not deliver.

        Raises:
            IllegalMoveError: The case is not undelivered.
        """
        with self._index.begin() as connection:
            row = case_row(connection, case_id)
            if row is None or CaseState(row.state) is not CaseState.UNDELIVERED:
                raise IllegalMoveError(f"case {case_id} has no delivery to begin again")
            connection.execute(
                DELIVERIES.update()
                .where(
                    DELIVERIES.c.case_id == case_id,
                    DELIVERIES.c.revision == row.revision,
                    DELIVERIES.c.state != DeliveryState.DELIVERED,
                )
                .values(
                    state=DeliveryState.PENDING,
                    attempt=DELIVERIES.c.attempt + 1,
                    next_try_at=utc_text(now),
                    give_up_at=utc_text(now + give_up),
                    updated_at=utc_text(now),
                )
            )
            connection.execute(
                RECEIPTS.delete().where(
                    RECEIPTS.c.case_id == case_id,
                    RECEIPTS.c.revision == row.revision,
                    RECEIPTS.c.outcome == REFUSED,
                )
            )
            move_case(connection, row, CaseState.DELIVERING, "retried by operator", now)


def _is_delivery(key: DeliveryKey) -> sa.ColumnElement[bool]:
    return sa.and_(
        DELIVERIES.c.case_id == key.case_id,
        DELIVERIES.c.revision == key.revision,
        DELIVERIES.c.peer == key.peer,
    )
