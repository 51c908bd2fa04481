"""Storage commitment that peers ask of us: what was asked, and whether the report is still owed.

Decides nothing about objects; sends nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from node.errors import NodeError
from node.index import Index
from node.index.case_rows import utc_text
from node.index.promise_rows import PROMISES

MOST_OWED = 1000
"""Reports that may be owed to one peer: a further request is refused."""


class PromiseState(StrEnum):
    """How far a request is."""

    OWED = "owed"
    REPORTED = "reported"
    GIVEN_UP = "given up"


class TooManyOwedError(NodeError):
    """A peer asks faster than it takes the reports."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One request for storage commitment.

    Attributes:
        references: SOP class and SOP instance of each object, in the order of the request.
        is_duplicate: Its transaction UID is that of another request still in progress.
        attempt: How many reports were tried over an association of our own.
    """

    row_id: int
    peer: str
    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    is_duplicate: bool
    attempt: int
    give_up_at: str


class PromiseBook:
    """The requests of one index; safe for many threads."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def accept(
        self,
        peer: str,
        transaction_uid: str,
        references: Sequence[tuple[str, str]],
        *,
        now: datetime,
        next_try_at: datetime,
        give_up_at: datetime,
    ) -> None:
        """Owe a report; what is asked again while it is owed is owed once.

        On stable storage when this returns.

        Raises:
            TooManyOwedError: The peer has too many reports to take.
            StorageFullError: No room.
        """
        text = json.dumps([list(pair) for pair in references])
        is_owed = (PROMISES.c.peer == peer) & (PROMISES.c.state == PromiseState.OWED)
        same = is_owed & (PROMISES.c.transaction_uid == transaction_uid)
        with self._index.begin() as connection:
            known = list(connection.scalars(sa.select(PROMISES.c.object_references).where(same)))
            if text in known:
                return
            count = connection.scalar(
                sa.select(sa.func.count()).select_from(PROMISES).where(is_owed)
            )
            if (count or 0) >= MOST_OWED:
                raise TooManyOwedError(f"peer {peer} has {count} reports to take")
            connection.execute(
                PROMISES.insert().values(
                    peer=peer,
                    transaction_uid=transaction_uid,
                    object_references=text,
                    is_duplicate=bool(known),
                    state=PromiseState.OWED,
                    attempt=0,
                    next_try_at=utc_text(next_try_at),
                    give_up_at=utc_text(give_up_at),
                    reason="",
                    created_at=utc_text(now),
                )
            )

    def owed_to(self, peer: str) -> list[Promise]:
        """Return what is owed to a peer, oldest first."""
        return self._select(PROMISES.c.peer == peer)

    def due(self, peers: Sequence[str], now: datetime) -> list[Promise]:
        """Return what is to be reported now to some peers, oldest first."""
        return self._select(
            PROMISES.c.peer.in_(list(peers)) & (PROMISES.c.next_try_at <= utc_text(now))
        )

    def spent(self, now: datetime) -> list[Promise]:
        """Return what is still owed although its time is over."""
        return self._select(PROMISES.c.give_up_at <= utc_text(now))

    def settle(self, promise: Promise, state: PromiseState, reason: str = "") -> None:
        """Let a report no longer be owed."""
        self._update(promise, {"state": state, "reason": reason})

    def put_off(self, promise: Promise, next_try_at: datetime, reason: str) -> None:
        """Let a report be tried again later."""
        changes = {"attempt": promise.attempt + 1, "next_try_at": utc_text(next_try_at)}
        self._update(promise, {**changes, "reason": reason})

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Promise]:
        query = (
            sa.select(PROMISES)
            .where(PROMISES.c.state == PromiseState.OWED, condition)
            .order_by(PROMISES.c.id)
        )
        with self._index.read() as connection:
            return [
                Promise(
                    row_id=row.id,
                    peer=row.peer,
                    transaction_uid=row.transaction_uid,
                    references=tuple((a, b) for a, b in json.loads(row.object_references)),
                    is_duplicate=bool(row.is_duplicate),
                    attempt=row.attempt,
                    give_up_at=row.give_up_at,
                )
                for row in connection.execute(query)
            ]

    def _update(self, promise: Promise, changes: dict[str, Any]) -> None:
        with self._index.begin() as connection:
            connection.execute(
                PROMISES.update()
                .where(PROMISES.c.id == promise.row_id, PROMISES.c.state == PromiseState.OWED)
                .values(**changes)
            )
