"""Storage commitment as the index keeps it: what was asked, what was reported, what follows.

A transaction is written before it is sent, and a report is written before it is answered: whatever
dies in between is taken up. Nothing here knows the network.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_labels import tell_worst
from node.index.case_rows import (
    DELIVERIES,
    IS_ANSWER_TO_RESULT,
    RECEIPTS,
    RESULTS,
    case_row,
    utc_text,
)
from node.index.deliveries import TAKEN, DeliveryKey, is_of, is_start
from node.index.peer_rows import COMMITMENTS
from node.index.states import (
    COMMITMENT_REFUSED,
    COMMITTED,
    FOUND,
    LOST,
    UNCONFIRMED,
    DeliveryState,
)

NOT_HELD = "not_held"
"""Outcome in a receipt: taken once, and not there any more, so it is owed again."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a peer reported of a transaction: objects it keeps, and those it does not, with why."""

    committed: frozenset[str]
    failed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One request for storage commitment.

    Attributes:
        objects: SOP Class UID by SOP Instance UID.
        answer_by: When the peer's report is no longer waited for.
        is_asked: Whether the peer accepted the request.
        report: What it reported, None as long as it did not.
    """

    uid: str
    objects: Mapping[str, str]
    answer_by: datetime
    is_asked: bool
    report: Report | None


class CommitmentBook:
    """The storage commitments of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def open_transaction(self, key: DeliveryKey) -> Transaction | None:
        """Return the transaction that a delivery waits for, or is to ask for."""
        query = (
            sa.select(COMMITMENTS)
            .where(is_of(key, COMMITMENTS), COMMITMENTS.c.state == "open")
            .order_by(COMMITMENTS.c.created_at.desc())
        )
        with self._index.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _transaction(row)

    def uncommitted(self, key: DeliveryKey) -> dict[str, str]:
        """Return path by SOP Instance UID of what the peer took and has not yet committed to."""
        query = (
            sa.select(RECEIPTS.c.sop_instance_uid, RESULTS.c.path)
            .join(RESULTS, IS_ANSWER_TO_RESULT)
            .where(is_of(key, RECEIPTS), RECEIPTS.c.outcome.in_(TAKEN), RECEIPTS.c.commitment == "")
            .order_by(RESULTS.c.path)
        )
        with self._index.read() as connection:
            return {row.sop_instance_uid: row.path for row in connection.execute(query)}

    def refusals(self, key: DeliveryKey) -> list[str]:
        """Return why the peer will not keep objects, each reason once."""
        query = (
            sa.select(RECEIPTS.c.commitment_reason)
            .where(is_of(key, RECEIPTS), RECEIPTS.c.commitment == COMMITMENT_REFUSED)
            .distinct()
            .order_by(RECEIPTS.c.commitment_reason)
        )
        with self._index.read() as connection:
            return list(connection.scalars(query))

    def failures(self, key: DeliveryKey, *, without: Collection[int]) -> Counter[str]:
        """Return in how many reports each object was not kept, for other reasons than these.

        An object that a report does not name was not kept.
        """
        query = sa.select(COMMITMENTS.c.objects, COMMITMENTS.c.report).where(
            is_of(key, COMMITMENTS), COMMITMENTS.c.report != ""
        )
        found: Counter[str] = Counter()
        with self._index.read() as connection:
            for row in connection.execute(query):
                report = _report(row.report)
                found.update(
                    uid
                    for uid in set(json.loads(row.objects)) - report.committed
                    if report.failed.get(uid) not in without
                )
        return found

    def begin(
        self,
        key: DeliveryKey,
        transaction_uid: str,
        objects: Mapping[str, str],
        answer_by: datetime,
        now: datetime,
    ) -> Transaction:
        """Write down a transaction that is about to be asked for."""
        with self._index.begin() as connection:
            connection.execute(
                COMMITMENTS.insert().values(
                    transaction_uid=transaction_uid,
                    case_id=key.case_id,
                    revision=key.revision,
                    peer=key.peer,
                    objects=json.dumps(dict(objects)),
                    state="open",
                    created_at=utc_text(now),
                    answer_by=utc_text(answer_by),
                    report="",
                )
            )
        return Transaction(transaction_uid, objects, answer_by, is_asked=False, report=None)

    def mark_asked(self, transaction_uid: str, now: datetime, answer_by: datetime) -> None:
        """Record that the peer accepted the request."""
        with self._index.begin() as connection:
            connection.execute(
                COMMITMENTS.update()
                .where(COMMITMENTS.c.transaction_uid == transaction_uid)
                .values(asked_at=utc_text(now), answer_by=utc_text(answer_by))
            )

    def close(self, transaction_uid: str) -> None:
        """Wait for a transaction no longer; a report that comes all the same is still kept."""
        with self._index.begin() as connection:
            _close(connection, transaction_uid)

    def record_report(
        self, peers: Iterable[str], transaction_uid: str, report: Report, now: datetime
    ) -> bool:
        """Keep a peer's report, and have its delivery looked at; tell whether it was asked for.

        The first report of a transaction counts. One that comes when nobody waits for it any more
        still says what became of objects that were settled without a word.

        Args:
            peers: Names under which the caller is known.
            transaction_uid: As reported.
            report: What it says.
            now: The time, aware.
        """
        with self._index.begin() as connection:
            query = sa.select(COMMITMENTS).where(
                COMMITMENTS.c.transaction_uid == transaction_uid,
                COMMITMENTS.c.peer.in_(list(peers)),
            )
            asked = connection.execute(query).first()
            if asked is None:
                return False
            case = case_row(connection, asked.case_id)  # first of all locks, as wherever one ends
            row = connection.execute(query.with_for_update()).first()
            if row is None:
                return False
            if row.report:
                return True
            told = {"committed": sorted(report.committed), "failed": dict(report.failed)}
            connection.execute(
                COMMITMENTS.update()
                .where(COMMITMENTS.c.transaction_uid == transaction_uid)
                .values(report=json.dumps(told), reported_at=utc_text(now))
            )
            key = DeliveryKey(row.case_id, row.revision, row.peer, 0)
            if row.state == "open":
                connection.execute(
                    DELIVERIES.update()
                    .where(is_of(key, DELIVERIES), DELIVERIES.c.state == DeliveryState.COMMITTING)
                    .values(next_try_at=utc_text(now))
                )
            else:
                _take_late(connection, key, json.loads(row.objects), report)
                if case is not None:
                    tell_worst(connection, case, key.revision)
        return True

    def act_on(
        self,
        key: DeliveryKey,
        transaction_uid: str,
        *,
        committed: Collection[str] = (),
        not_held: Mapping[str, str] | None = None,
        refused: Mapping[str, str] | None = None,
        found: Collection[str] = (),
        unconfirmed: Collection[str] = (),
        reason: str = "",
    ) -> None:
        """Write what follows from a report or from its absence, and close the transaction.

        Args:
            key: The delivery.
            transaction_uid: Of the transaction that has come to its end.
            committed: Objects that the peer keeps.
            not_held: Objects that must be sent again, with why.
            refused: Objects that the peer will not keep, with why.
            found: Objects that the peer holds by its answer to a query.
            unconfirmed: Objects of which nothing more is known.
            reason: Why, for `found` and `unconfirmed`.
        """
        with self._index.begin() as connection:
            case_row(connection, key.case_id)  # first, as in `record_report`: no deadlock of both
            for kind, uids in ((COMMITTED, committed), (FOUND, found), (UNCONFIRMED, unconfirmed)):
                why = "" if kind == COMMITTED else reason
                _mark(connection, key, uids, commitment=kind, commitment_reason=why)
            for uid, why in (refused or {}).items():
                changes = {"commitment": COMMITMENT_REFUSED, "commitment_reason": why}
                _mark(connection, key, [uid], **changes)
            for uid, why in (not_held or {}).items():
                _mark(connection, key, [uid], outcome=NOT_HELD, reason=why)
            _close(connection, transaction_uid)

    def wait_for_report(
        self, key: DeliveryKey, transaction: Transaction, reason: str, now: datetime
    ) -> None:
        """End an attempt that waits for a report; if it has just come, the next one is due."""
        with self._index.begin() as connection:
            case = case_row(connection, key.case_id)
            text = connection.scalar(
                sa.select(COMMITMENTS.c.report)
                .where(COMMITMENTS.c.transaction_uid == transaction.uid)
                .with_for_update()
            )
            connection.execute(
                DELIVERIES.update()
                .where(
                    is_start(key),
                    DELIVERIES.c.state == DeliveryState.COMMITTING,
                )
                .values(
                    attempt=key.attempt + 1,
                    next_try_at=utc_text(now if text else transaction.answer_by),
                    reason=reason,
                    updated_at=utc_text(now),
                )
            )
            if case is not None:
                tell_worst(connection, case, key.revision)


def _transaction(row: sa.Row[Any]) -> Transaction:
    return Transaction(
        uid=row.transaction_uid,
        objects=json.loads(row.objects),
        answer_by=datetime.fromisoformat(row.answer_by),
        is_asked=row.asked_at is not None,
        report=_report(row.report) if row.report else None,
    )


def _report(text: str) -> Report:
    told = json.loads(text)
    return Report(frozenset(told["committed"]), told["failed"])


def _close(connection: sa.Connection, transaction_uid: str) -> None:
    connection.execute(
        COMMITMENTS.update()
        .where(COMMITMENTS.c.transaction_uid == transaction_uid)
        .values(state="closed")
    )


def _mark(
    connection: sa.Connection, key: DeliveryKey, uids: Collection[str], **changes: Any
) -> None:
    if uids:
        parameter: sa.BindParameter[str] = sa.bindparam("uid")
        connection.execute(
            RECEIPTS.update()
            .where(is_of(key, RECEIPTS), RECEIPTS.c.sop_instance_uid == parameter)
            .values(**changes),
            [{"uid": uid} for uid in uids],
        )


def _take_late(
    connection: sa.Connection, key: DeliveryKey, objects: Mapping[str, str], report: Report
) -> None:
    """Correct what was settled without a report; what was sent again since is left alone."""
    settled = (FOUND, UNCONFIRMED)
    query = sa.select(RECEIPTS.c.sop_instance_uid).where(
        is_of(key, RECEIPTS), RECEIPTS.c.commitment.in_(settled)
    )
    open_uids = set(connection.scalars(query)) & set(objects)
    kept = open_uids & report.committed - set(report.failed)
    _mark(connection, key, sorted(kept), commitment=COMMITTED, commitment_reason="")
    for uid in sorted(open_uids & set(report.failed)):
        why = f"failure reason 0x{report.failed[uid]:04X}"
        _mark(connection, key, [uid], commitment=LOST, commitment_reason=why)
