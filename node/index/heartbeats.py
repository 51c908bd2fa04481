"""The signs of life of the processes that work on one index."""

import socket
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import HEARTBEATS, utc_text

KEPT = timedelta(days=1)
"""How long the last sign of life of a process that is gone is kept."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Who gives a sign of life.

    Attributes:
        name: The same after a restart, and of no other process.
        role: `serve` or `worker`.
        version: Of the program.
    """

    name: str
    role: str
    version: str
    host: str = socket.gethostname()[:64]


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a process.

    Attributes:
        beats: Grows with each sign.
        beat_at: When it was given, by the clock of that process.
    """

    identity: ProcessIdentity
    beats: int
    beat_at: datetime


class Heartbeats:
    """One row for each process.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def beat(self, who: ProcessIdentity, now: datetime) -> None:
        """Say that a process lives."""
        is_it = HEARTBEATS.c.process == who.name
        values = {
            "beat_at": utc_text(now),
            "role": who.role,
            "host": who.host,
            "version": who.version[:40],
        }
        with self._index.begin() as connection:
            grown = {**values, "beats": HEARTBEATS.c.beats + 1}
            if connection.execute(HEARTBEATS.update().where(is_it).values(**grown)).rowcount:
                return
            forgotten = HEARTBEATS.c.beat_at < utc_text(now - KEPT)
            connection.execute(HEARTBEATS.delete().where(forgotten))
            connection.execute(HEARTBEATS.insert().values(process=who.name, beats=1, **values))

    def forget(self, name: str) -> None:
        """Remove a process that ends in order."""
        with self._index.begin() as connection:
            connection.execute(HEARTBEATS.delete().where(HEARTBEATS.c.process == name))

    def signs(self) -> list[Sign]:
        """Return the last sign of life of each process, by name."""
        query = sa.select(HEARTBEATS).order_by(HEARTBEATS.c.process)
        with self._index.read() as connection:
            return [
                Sign(
                    ProcessIdentity(row.process, row.role, row.version, row.host),
                    row.beats,
                    datetime.fromisoformat(row.beat_at),
                )
                for row in connection.execute(query)
            ]

    def last(self) -> datetime | None:
        """Return when any process last said that it lives, or None."""
        with self._index.read() as connection:
            text = connection.scalar(sa.select(sa.func.max(HEARTBEATS.c.beat_at)))
        return datetime.fromisoformat(text) if text else None

    def clock_offset(self, now: datetime) -> timedelta | None:
        """Return by how much our clock is ahead of the database's; None: it has ours (SQLite)."""
        if not self._index.is_shared:
            return None
        with self._index.read() as connection:
            theirs = connection.scalar(sa.select(sa.func.clock_timestamp()))
        return now - datetime.fromisoformat(str(theirs))
