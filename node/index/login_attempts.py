"""Who tried to log in of late, as all processes that show the page count it together.

Knows no rule: it is told what an attempt counts against, and how much is too much. Whoever is over
a limit costs one look at the database and no writing: strangers must not hold up what is received.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from node.index import Index
from node.index.attempt_rows import LOGIN_ATTEMPTS

_COUNTING_LOCK = 0x48494C554C
"""Key of the advisory lock for counting (PostgreSQL 13.3.5)."""

_AT = LOGIN_ATTEMPTS.c.at
_ID = LOGIN_ATTEMPTS.c.id


class Counted(NamedTuple):
    """What an attempt counts against: of which kind, and which one, in at most 64 characters."""

    kind: str
    who: str


@dataclass(frozen=True, slots=True)
class Limit:
    """How much is too much.

    Attributes:
        counted: Against what.
        since: Older attempts count no longer, and are forgotten.
        until: Likewise later ones: they were noted while a clock was wrong.
        most: So many attempts are enough; None: they are counted only.
    """

    counted: Counted
    since: datetime
    until: datetime
    most: int | None


class AttemptBook:
    """The attempts to log in of one index; safe for many threads and processes.

    Args:
        index: Whose tables exist.
        most_rows: Rows that are kept of each kind, the newest.
    """

    def __init__(self, index: Index, most_rows: int) -> None:
        self._index = index
        self._most_rows = most_rows

    def note_unless_over(self, limits: Sequence[Limit], now: datetime) -> tuple[Limit, ...]:
        """Count an attempt against every limit; or, where one is reached, none, and return these.

        Raises:
            StorageFullError: It cannot be written; it does not count.
        """
        with self._index.read() as connection:
            if over := _over(connection, limits):
                return over
        with self._index.begin() as connection:
            _take_turns(connection)
            if over := _over(connection, limits):  # others may have tried meanwhile
                return over
            self._note(connection, limits, now)
        return ()

    def nth_newest(self, limit: Limit) -> datetime | None:
        """Return when the oldest attempt was made that makes a limit reached; None: it is not."""
        with self._index.read() as connection:
            return _nth_newest(connection, limit)

    def is_known(self, counted: Counted, since: datetime, until: datetime) -> bool:
        """Tell whether anything was noted of it between two times."""
        return self.nth_newest(Limit(counted, since, until, most=1)) is not None

    def forgive(self, all_of: Counted, last_of: Counted, known: Limit, now: datetime) -> None:
        """Forget attempts because somebody was the right one, and note where they are known.

        Args:
            all_of: All attempts that count against this are forgotten.
            last_of: The newest one that counts against this is.
            known: Noted once, in place of what was noted before.
            now: The time, aware.

        Raises:
            StorageFullError: It cannot be written.
        """
        newest = sa.select(sa.func.max(_ID)).where(_is_of(last_of)).scalar_subquery()
        with self._index.begin() as connection:
            _take_turns(connection)
            for is_meant in (_is_of(all_of), _is_of(known.counted), newest == _ID):
                connection.execute(LOGIN_ATTEMPTS.delete().where(is_meant))
            self._note(connection, [known], now)

    def _note(self, connection: sa.Connection, limits: Sequence[Limit], now: datetime) -> None:
        """Write rows, and remove of their kinds what counts no longer or is too much."""
        rows = [{**one.counted._asdict(), "at": now} for one in limits]
        connection.execute(LOGIN_ATTEMPTS.insert(), rows)
        for one in limits:
            is_kind = LOGIN_ATTEMPTS.c.kind == one.counted.kind
            connection.execute(LOGIN_ATTEMPTS.delete().where(is_kind, ~_counts(one)))
            surplus = (
                sa.select(_AT).where(is_kind).order_by(_AT.desc()).offset(self._most_rows).limit(1)
            )
            if (newest_surplus := connection.scalar(surplus)) is not None:
                connection.execute(LOGIN_ATTEMPTS.delete().where(is_kind, newest_surplus >= _AT))


def _is_of(counted: Counted) -> sa.ColumnElement[bool]:
    return sa.and_(LOGIN_ATTEMPTS.c.kind == counted.kind, LOGIN_ATTEMPTS.c.who == counted.who)


def _counts(limit: Limit) -> sa.ColumnElement[bool]:
    return sa.and_(limit.since < _AT, limit.until >= _AT)


def _over(connection: sa.Connection, limits: Sequence[Limit]) -> tuple[Limit, ...]:
    return tuple(one for one in limits if _nth_newest(connection, one) is not None)


def _nth_newest(connection: sa.Connection, limit: Limit) -> datetime | None:
    if limit.most is None:
        return None
    query = (
        sa.select(_AT)
        .where(_is_of(limit.counted), _counts(limit))
        .order_by(_AT.desc())
        .offset(limit.most - 1)
        .limit(1)
    )
    return connection.scalar(query)


def _take_turns(connection: sa.Connection) -> None:
    """Let one transaction at a time count. SQLite has the whole database locked already."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_COUNTING_LOCK)))
