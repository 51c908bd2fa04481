"""The signs of life of the processes that work on one index."""

import os
import socket
from datetime import datetime

from node.index import Index
from node.index.case_rows import HEARTBEATS, utc_text


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
                connection.execute(
                    HEARTBEATS.insert().values(process=self._process, beat_at=utc_text(now))
                )
