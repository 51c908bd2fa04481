"""The signs of life of the processes that work on one index."""

import os
import socket
from datetime import datetime, timedelta

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import HEARTBEATS, utc_text

KEPT = timedelta(days=1)
"""How long the last sign of life of a process that is gone is kept."""


class Heartbeats:
    """One row for each process.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._process = f"{socket.gethostname()}:{os.getpid()}"

    def beat(self, now: datetime) -> None:
        """Say that this process lives."""
        with self._index.begin() as connection:
            is_this = HEARTBEATS.c.process == self._process
            changed = connection.execute(
                HEARTBEATS.update().where(is_this).values(beat_at=utc_text(now))
            )
            if not changed.rowcount:
                forgotten = HEARTBEATS.c.beat_at < utc_text(now - KEPT)
                connection.execute(HEARTBEATS.delete().where(forgotten))
                connection.execute(
                    HEARTBEATS.insert().values(process=self._process, beat_at=utc_text(now))
                )

    def last(self) -> datetime | None:
        """Return when any process last said that it lives, or None."""
        with self._index.read() as connection:
            text = connection.scalar(sa.select(sa.func.max(HEARTBEATS.c.beat_at)))
        return datetime.fromisoformat(text) if text else None
