"""What people are to be told: found in the cases' history, kept until it was told or given up.

Decides what is worth telling; sends nothing. Holds no name, identifier or birth date of a patient,
nor any text of a finding: codes and case ids only.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import HISTORY, REVISIONS, utc_text
from node.index.notice_rows import NOTICED, NOTICES
from node.index.peer_rows import STANDINGS
from node.index.states import CaseState

FAILURE, WARNING, INFO = "failure", "warning", "info"

MOST_PAGES = 500
"""Pages of history that are looked at in one transaction."""

LOOKED_AT_AGAIN = 100
"""Pages before the last that were looked at: on PostgreSQL one may come to light late."""

NEWS = timedelta(days=1)
"""What is older is no news: notification was off, or nobody was there to tell."""

KEPT = timedelta(days=30)
"""How long it is remembered what was told; longer than `NEWS`, or it would be told again."""

LEASE = timedelta(minutes=5)
LONGEST_LEASE = timedelta(hours=1)
"""How long a process that took notices may take to tell them, before they count as untold. Twice as
long with each attempt: where telling brings the process down, nobody is told without end."""

MOST_AT_ONCE = 200
"""Notices in one message; of more there is only the number."""

_TOLD_STATES = {
    CaseState.FAILED: ("case-failed", FAILURE),
    CaseState.REJECTED: ("case-rejected", FAILURE),
    CaseState.UNDELIVERED: ("case-undelivered", FAILURE),
}
_COMPUTED = (CaseState.DELIVERING, CaseState.DELIVERED)


class NoticeState(StrEnum):
    """Whether something was told."""

    OWED = "owed"
    TOLD = "told"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class News:
    """Something that people should know.

    Attributes:
        subject: What it is about; the same subject is told once.
        code: A word for it.
        severity: `failure`, `warning` or `info`.
    """

    subject: str
    code: str
    severity: str
    case_id: str = ""
    revision: int = 0
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """News that a channel owes; times are ISO 8601 texts in UTC."""

    row_id: int
    news: News
    noticed_at: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Owed:
    """What a channel is to tell now; `more` are owed beside the notices."""

    notices: tuple[Notice, ...]
    more: int


class NoticeBook:
    """The notices of one index; safe for many threads and processes.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def look(self, channels: Sequence[str], now: datetime) -> int:
        """Find what is new in the history of the cases and at the peers; return how much it was.

        Found and remembered in one transaction: nothing is missed, nothing is owed twice.
        """
        with self._index.begin() as connection:
            cursor = connection.execute(sa.select(NOTICED).with_for_update()).first()
            newest = connection.scalar(sa.select(sa.func.max(HISTORY.c.id))) or 0
            if cursor is None:
                first = {"only": 1, "begun_at_id": newest, "history_id": newest}
                connection.execute(NOTICED.insert().values(**first))
                return 0
            last = cursor.history_id
            above = max(cursor.begun_at_id, last - LOOKED_AT_AGAIN)
            pages = connection.execute(
                sa.select(HISTORY)
                .where(HISTORY.c.id > above, HISTORY.c.at > utc_text(now - NEWS))
                .order_by(HISTORY.c.id)
                .limit(MOST_PAGES + LOOKED_AT_AGAIN)
            ).all()
            news = [found for page in pages for found in _news_of(connection, page)]
            news += _open_breakers(connection)
            count = _owe(connection, news, channels, now)
            looked = pages[-1].id if len(pages) == MOST_PAGES + LOOKED_AT_AGAIN else newest
            if looked > last:
                connection.execute(NOTICED.update().values(history_id=looked))
        return count

    def owe(self, news: Iterable[News], channels: Sequence[str], now: datetime) -> int:
        """Owe news that is not in the index; return how much of it is new."""
        with self._index.begin() as connection:
            return _owe(connection, list(news), channels, now)

    def take(self, channel: str, now: datetime) -> Owed:
        """Return what a channel is to tell now, and count the attempt before it is made.

        Nobody else gets it for a while; if this process dies meanwhile, somebody else tells it.
        """
        is_due = (
            (NOTICES.c.channel == channel)
            & (NOTICES.c.state == NoticeState.OWED)
            & (NOTICES.c.next_try_at <= utc_text(now))
        )
        query = (
            sa.select(NOTICES)
            .where(is_due)
            .order_by(NOTICES.c.id)
            .limit(MOST_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        with self._index.begin() as connection:
            rows = connection.execute(query).all()
            if not rows:
                return Owed((), 0)
            doublings = min(row.attempts for row in rows)
            lease = min(LEASE * 2 ** min(doublings, 10), LONGEST_LEASE)
            connection.execute(
                NOTICES.update()
                .where(NOTICES.c.id.in_([row.id for row in rows]))
                .values(attempts=NOTICES.c.attempts + 1, next_try_at=utc_text(now + lease))
            )
            count = sa.select(sa.func.count()).select_from(NOTICES).where(is_due)
            more = connection.scalar(count) or 0
        return Owed(tuple(_notice_of(row) for row in rows), more)

    def settle(self, notices: Sequence[Notice], state: NoticeState, now: datetime) -> None:
        """Owe these no longer."""
        self._update(notices, {"state": state, "settled_at": utc_text(now)})

    def put_off(self, notices: Sequence[Notice], next_try_at: datetime) -> None:
        """Let these be told later."""
        self._update(notices, {"next_try_at": utc_text(next_try_at)})

    def last_told(self, channel: str) -> datetime | None:
        """Return when a channel last told something, or None."""
        query = sa.select(sa.func.max(NOTICES.c.settled_at)).where(
            NOTICES.c.channel == channel, NOTICES.c.state == NoticeState.TOLD
        )
        with self._index.read() as connection:
            text = connection.scalar(query)
        return datetime.fromisoformat(text) if text else None

    def forget(self, channels: Sequence[str], now: datetime) -> None:
        """Forget what was settled long ago, and what channels owe that are there no more."""
        with self._index.begin() as connection:
            connection.execute(
                NOTICES.delete().where(
                    sa.or_(
                        NOTICES.c.settled_at < utc_text(now - KEPT),
                        sa.and_(
                            NOTICES.c.state == NoticeState.OWED,
                            NOTICES.c.channel.not_in(list(channels)),
                        ),
                    )
                )
            )

    def _update(self, notices: Sequence[Notice], changes: dict[str, Any]) -> None:
        with self._index.begin() as connection:
            connection.execute(
                NOTICES.update()
                .where(
                    NOTICES.c.id.in_([notice.row_id for notice in notices]),
                    NOTICES.c.state == NoticeState.OWED,
                )
                .values(**changes)
            )


def _news_of(connection: sa.Connection, page: sa.Row[Any]) -> list[News]:
    """Return what a page of history has to tell: a state, or the findings of a computation."""
    if page.state in _TOLD_STATES:
        code, severity = _TOLD_STATES[CaseState(page.state)]
        subject = f"history:{page.id}"
        return [News(subject, code, severity, page.case_id, page.revision)]
    if page.state not in _COMPUTED:
        return []
    summary = connection.scalar(
        sa.select(REVISIONS.c.summary).where(
            REVISIONS.c.case_id == page.case_id, REVISIONS.c.revision == page.revision
        )
    )
    findings = json.loads(summary).get("findings", ()) if summary else ()
    codes = {str(f["code"])[:64] for f in findings if f.get("severity") == FAILURE}
    return [
        News(
            f"finding:{page.case_id}:{page.revision}:{code}",
            code,
            FAILURE,
            page.case_id,
            page.revision,
        )
        for code in sorted(codes)
    ]


def _open_breakers(connection: sa.Connection) -> list[News]:
    query = sa.select(STANDINGS.c.peer, STANDINGS.c.open_since).where(
        STANDINGS.c.open_since.is_not(None)
    )
    return [
        News(f"breaker:{peer}:{since}", "peer-left-alone", WARNING, peer=peer)
        for peer, since in connection.execute(query)
    ]


def _owe(
    connection: sa.Connection, news: Sequence[News], channels: Sequence[str], now: datetime
) -> int:
    """Write what is not known yet; return how much news that was."""
    if not news:
        return 0
    subjects = [one.subject for one in news]
    query = sa.select(NOTICES.c.channel, NOTICES.c.subject).where(NOTICES.c.subject.in_(subjects))
    known = {(row.channel, row.subject) for row in connection.execute(query)}
    rows = [
        {
            "channel": channel,
            "subject": one.subject,
            "code": one.code,
            "severity": one.severity,
            "case_id": one.case_id,
            "revision": one.revision,
            "peer": one.peer,
            "noticed_at": utc_text(now),
            "state": NoticeState.OWED,
            "attempts": 0,
            "next_try_at": utc_text(now),
        }
        for one in {one.subject: one for one in news}.values()
        for channel in channels
        if (channel, one.subject) not in known
    ]
    if rows:
        connection.execute(NOTICES.insert(), rows)
    return len({row["subject"] for row in rows})


def _notice_of(row: sa.Row[Any]) -> Notice:
    news = News(row.subject, row.code, row.severity, row.case_id, row.revision, row.peer)
    return Notice(row.id, news, row.noticed_at, row.attempts)
