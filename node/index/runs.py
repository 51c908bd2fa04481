"""Computing as the index keeps it: which revision is due, begun, put off, and how it ended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_labels import verdict_columns
from node.index.case_rows import (
    CASES,
    DELIVERIES,
    RESULTS,
    REVISIONS,
    case_row,
    move_case,
    utc_text,
)
from node.index.states import CaseState, DeliveryState
from node.outputs import Output


@dataclass(frozen=True, slots=True)
class RevisionKey:
    """One attempt to compute one revision of a case; attempts are numbered from 0.

    Attributes:
        begun: Which start of the attempt; 0: none yet. A process that is thought dead may be
            alive: what it says of a start that another one has followed changes nothing.
    """

    case_id: str
    revision: int
    attempt: int
    begun: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A revision that may be computed now.

    Attributes:
        job: What to compute, as JSON.
        key: With the start that was counted.
        queue_s: For how long it had been due.
    """

    job: str
    key: RevisionKey
    queue_s: float = 0.0


class RunBook:
    """The revisions of one index, as work to be done. Every transition is one transaction.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def due(self, now: datetime) -> list[RevisionKey]:
        """Return the attempts to compute whose time has come, oldest revision first.

        Those that run are among them: to begin what runs is harmless, and what was broken off
        without a word to the index would be forgotten.
        """
        query = (
            sa.select(REVISIONS.c.case_id, REVISIONS.c.revision, REVISIONS.c.attempt)
            .join(CASES, CASES.c.case_id == REVISIONS.c.case_id)
            .where(
                CASES.c.state.in_((CaseState.READY, CaseState.RUNNING)),
                CASES.c.revision == REVISIONS.c.revision,
                REVISIONS.c.next_try_at <= utc_text(now),
            )
            .order_by(REVISIONS.c.created_at)
        )
        with self._index.read() as connection:
            return [RevisionKey(*row) for row in connection.execute(query)]

    def begin(self, key: RevisionKey, now: datetime) -> Begun | None:
        """Mark a revision as running and count the start.

        Returns:
            None when there is nothing to compute any more (finished, abandoned or overtaken).
        """
        with self._index.begin() as connection:
            row = case_row(connection, key.case_id)
            entry = self._revision(connection, key)
            if row is None or entry is None or row.revision != key.revision:
                return None
            if entry.attempt != key.attempt:
                return None
            if CaseState(row.state) not in (CaseState.READY, CaseState.RUNNING):
                return None
            connection.execute(
                REVISIONS.update()
                .where(_is_revision(key))
                .values(begun=entry.begun + 1, step="", step_at=None)
            )
            if CaseState(row.state) is CaseState.READY:
                move_case(connection, row, CaseState.RUNNING, "", now)
            due = now - datetime.fromisoformat(entry.next_try_at)
            queue_s = max(0.0, due.total_seconds())
            return Begun(entry.job, replace(key, begun=entry.begun + 1), queue_s)

    def is_void(self, key: RevisionKey) -> bool:
        """Tell whether nobody has adopted a revision, nor will: it was abandoned or overtaken."""
        query = (
            sa.select(CASES.c.state, CASES.c.revision, REVISIONS.c.finished_at)
            .join(REVISIONS, REVISIONS.c.case_id == CASES.c.case_id)
            .where(_is_revision(key))
        )
        with self._index.read() as connection:
            row = connection.execute(query).first()
        if row is None or row.finished_at is not None:
            return False
        may_run = CaseState(row.state) in (CaseState.READY, CaseState.RUNNING)
        return row.revision != key.revision or not may_run

    def note_step(self, key: RevisionKey, step: str, now: datetime) -> None:
        """Note what a revision is at, for whoever watches it."""
        with self._index.begin() as connection:
            connection.execute(
                REVISIONS.update()
                .where(_is_revision(key), REVISIONS.c.finished_at.is_(None))
                .values(step=step, step_at=utc_text(now))
            )

    def put_off(
        self,
        key: RevisionKey,
        reason: str,
        next_try_at: datetime,
        now: datetime,
        *,
        most_failures: int | None,
        prepare_anew: bool = False,
    ) -> None:
        """End an attempt that left no outcome: it comes again, or the revision has failed.

        Args:
            key: The attempt.
            reason: Why, in a sentence.
            next_try_at: When to try again.
            now: The time, aware.
            most_failures: With how many such attempts the revision has failed; None where the
                case is not to blame, but the machine (no room) or the operator (a stop).
            prepare_anew: Have the case assembled again: nobody can read what was prepared.
        """
        with self._index.begin() as connection:
            row = case_row(connection, key.case_id)
            entry = self._revision(connection, key)
            if row is None or entry is None or not _is_start(entry, key):
                return
            failures = entry.failures + (most_failures is not None)
            connection.execute(
                REVISIONS.update()
                .where(_is_revision(key))
                .values(
                    attempt=key.attempt + 1,
                    next_try_at=utc_text(next_try_at),
                    begun=entry.begun - 1,
                    failures=failures,
                )
            )
            if CaseState(row.state) is not CaseState.RUNNING:
                return
            if prepare_anew:
                is_this = CASES.c.case_id == key.case_id
                connection.execute(
                    CASES.update().where(is_this).values(look_again=True, fingerprint="")
                )
            if most_failures is not None and failures >= most_failures:
                reason = f"given up after {failures} attempts: {reason}"
                move_case(connection, row, CaseState.FAILED, reason, now)
            else:
                move_case(connection, row, CaseState.READY, reason, now)

    def adopt(
        self,
        key: RevisionKey,
        results: Mapping[str, tuple[str, Output]],
        summary: Mapping[str, Any],
        destinations: Mapping[str, Sequence[Output]],
        give_up: timedelta,
        now: datetime,
    ) -> bool:
        """Take a whole result set into the index and owe it to its destinations.

        Args:
            key: The revision.
            results: Path relative to the data folder, and kind, by SOP Instance UID.
            summary: What `hilum cases show` tells about the result.
            destinations: Which kinds of objects each peer receives, by the peer's name.
            give_up: How long delivery may take.
            now: The time, aware.

        Returns:
            False when this start is not the one that counts: overtaken, abandoned or taken over.
        """
        with self._index.begin() as connection:
            row = self._running_row(connection, key)
            if row is None:
                return False
            connection.execute(RESULTS.delete().where(_is_result_of(key)))
            connection.execute(
                RESULTS.insert(),
                [
                    {
                        "case_id": key.case_id,
                        "revision": key.revision,
                        "sop_instance_uid": uid,
                        "path": path,
                        "output": output,
                    }
                    for uid, (path, output) in results.items()
                ],
            )
            self._finish(connection, key, summary, now)
            _owe(connection, key, destinations, now + give_up, now)
            if destinations:
                move_case(connection, row, CaseState.DELIVERING, "", now)
            else:
                move_case(connection, row, CaseState.DELIVERED, "no destination", now)
        return True

    def reject(self, key: RevisionKey, reasons: Sequence[str], now: datetime) -> bool:
        """Record that the input was unfit; False as of `adopt`."""
        return self._end(
            key, CaseState.REJECTED, "; ".join(reasons), {"reasons": list(reasons)}, now
        )

    def fail(self, key: RevisionKey, reason: str, now: datetime) -> bool:
        """Record that computing was given up; False as of `adopt`."""
        return self._end(key, CaseState.FAILED, reason, {"reasons": [reason]}, now)

    def _end(
        self,
        key: RevisionKey,
        state: CaseState,
        reason: str,
        summary: Mapping[str, Any],
        now: datetime,
    ) -> bool:
        with self._index.begin() as connection:
            row = self._running_row(connection, key)
            if row is None:
                return False
            self._finish(connection, key, summary, now)
            move_case(connection, row, state, reason, now)
        return True

    def _running_row(self, connection: sa.Connection, key: RevisionKey) -> sa.Row[Any] | None:
        """Return the locked row of a case if it is this start that runs."""
        row = case_row(connection, key.case_id)
        if row is None or row.revision != key.revision:
            return None
        entry = self._revision(connection, key)
        is_running = CaseState(row.state) is CaseState.RUNNING
        return row if is_running and entry is not None and _is_start(entry, key) else None

    def _finish(
        self,
        connection: sa.Connection,
        key: RevisionKey,
        summary: Mapping[str, Any],
        now: datetime,
    ) -> None:
        connection.execute(
            REVISIONS.update()
            .where(_is_revision(key))
            .values(summary=json.dumps(summary), finished_at=utc_text(now))
        )
        told = {k: v for k, v in verdict_columns(summary).items() if v}
        if told:
            is_this = CASES.c.case_id == key.case_id
            connection.execute(CASES.update().where(is_this).values(**told))

    def _revision(self, connection: sa.Connection, key: RevisionKey) -> sa.Row[Any] | None:
        return connection.execute(sa.select(REVISIONS).where(_is_revision(key))).first()


def _is_start(entry: sa.Row[Any], key: RevisionKey) -> bool:
    return (entry.attempt, entry.begun) == (key.attempt, key.begun)


def _owe(
    connection: sa.Connection,
    key: RevisionKey,
    destinations: Mapping[str, Sequence[Output]],
    give_up_at: datetime,
    now: datetime,
) -> None:
    for peer, outputs in destinations.items():
        connection.execute(
            DELIVERIES.insert().values(
                case_id=key.case_id,
                revision=key.revision,
                peer=peer,
                attempt=0,
                next_try_at=utc_text(now),
                state=DeliveryState.PENDING,
                reason="",
                give_up_at=utc_text(give_up_at),
                updated_at=utc_text(now),
                outputs=json.dumps(list(outputs)),
            )
        )


def _is_result_of(key: RevisionKey) -> sa.ColumnElement[bool]:
    return sa.and_(RESULTS.c.case_id == key.case_id, RESULTS.c.revision == key.revision)


def _is_revision(key: RevisionKey) -> sa.ColumnElement[bool]:
    return sa.and_(REVISIONS.c.case_id == key.case_id, REVISIONS.c.revision == key.revision)
