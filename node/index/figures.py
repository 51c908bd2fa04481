"""Figures of the index for whoever watches the node: a few cheap statements, bounded in any index.

Counts by state go through the index columns of the states; what is settled is never looked at.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import CASES, DELIVERIES, HEARTBEATS, REVISIONS, utc_text
from node.index.notice_rows import NOTICES
from node.index.notices import NoticeState
from node.index.peer_rows import STANDINGS
from node.index.states import UNSETTLED, CaseState, DeliveryState

MOST_PROCESSES = 50
"""Heartbeats that are told, the newest first: a process that starts again has a new one."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What waits in one queue.

    Attributes:
        waiting: How many.
        oldest_s: How long the oldest has waited; 0 if none waits.
    """

    waiting: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """What the index says of all processes together.

    Attributes:
        cases: How many are in each state; every state is named.
        computing: What is due to be computed and has not begun.
        deliveries: What waits to be sent, by peer.
        commitments: What waits for a storage commitment, by peer.
        open_breakers: Whether the breaker is open, by peer that was ever called.
        heartbeats_s: How long ago each process said that it lives.
        notices_owed: What people have not been told yet, by channel.
        size_bytes: Of the database.
    """

    cases: dict[str, int]
    computing: QueueFigures
    deliveries: dict[str, QueueFigures]
    commitments: dict[str, QueueFigures]
    open_breakers: dict[str, bool]
    heartbeats_s: dict[str, float]
    notices_owed: dict[str, int]
    size_bytes: int


def index_figures(index: Index, now: datetime) -> IndexFigures:
    """Return the figures as one state of the index has them."""
    with index.read() as connection:
        cases = dict.fromkeys(map(str, CaseState), 0)
        counted = sa.select(CASES.c.state, sa.func.count()).group_by(CASES.c.state)
        cases.update((state, count) for state, count in connection.execute(counted))
        standings = sa.select(STANDINGS.c.peer, STANDINGS.c.open_since)
        return IndexFigures(
            cases=cases,
            computing=_computing(connection, now),
            deliveries=_waiting(connection, DeliveryState.PENDING, now),
            commitments=_waiting(connection, DeliveryState.COMMITTING, now),
            open_breakers={
                peer: since is not None for peer, since in connection.execute(standings)
            },
            heartbeats_s=_heartbeats(connection, now),
            notices_owed=_notices_owed(connection),
            size_bytes=_size_bytes(connection),
        )


def _computing(connection: sa.Connection, now: datetime) -> QueueFigures:
    due = (
        sa.select(sa.func.count(), sa.func.min(REVISIONS.c.next_try_at))
        .select_from(CASES)
        .join(
            REVISIONS,
            sa.and_(
                REVISIONS.c.case_id == CASES.c.case_id, REVISIONS.c.revision == CASES.c.revision
            ),
        )
        .where(CASES.c.state == CaseState.READY, REVISIONS.c.next_try_at <= utc_text(now))
    )
    count, oldest = connection.execute(due).one()
    return QueueFigures(count, _age_s(oldest, now))


def _waiting(
    connection: sa.Connection, state: DeliveryState, now: datetime
) -> dict[str, QueueFigures]:
    assert state in UNSETTLED  # noqa: S101 - of the others there may be any number
    query = (
        sa.select(DELIVERIES.c.peer, sa.func.count(), sa.func.min(REVISIONS.c.finished_at))
        .join(
            REVISIONS,
            sa.and_(
                REVISIONS.c.case_id == DELIVERIES.c.case_id,
                REVISIONS.c.revision == DELIVERIES.c.revision,
            ),
        )
        .where(DELIVERIES.c.state == state)
        .group_by(DELIVERIES.c.peer)
    )
    return {
        peer: QueueFigures(count, _age_s(oldest, now))
        for peer, count, oldest in connection.execute(query)
    }


def _heartbeats(connection: sa.Connection, now: datetime) -> dict[str, float]:
    query = (
        sa.select(HEARTBEATS.c.process, HEARTBEATS.c.beat_at)
        .order_by(HEARTBEATS.c.beat_at.desc())
        .limit(MOST_PROCESSES)
    )
    return {process: _age_s(beat_at, now) for process, beat_at in connection.execute(query)}


def _notices_owed(connection: sa.Connection) -> dict[str, int]:
    query = (
        sa.select(NOTICES.c.channel, sa.func.count())
        .where(NOTICES.c.state == NoticeState.OWED)
        .group_by(NOTICES.c.channel)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _size_bytes(connection: sa.Connection) -> int:
    if connection.dialect.name == "sqlite":
        pages, page_bytes = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "page_size")
        )
        return int(pages) * int(page_bytes)
    size: Any = connection.scalar(sa.select(sa.func.pg_database_size(sa.func.current_database())))
    return int(size)


def _age_s(text: str | None, now: datetime) -> float:
    if text is None:
        return 0.0
    return max(0.0, (now - datetime.fromisoformat(text)).total_seconds())
