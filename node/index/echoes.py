"""What each peer last answered to C-ECHO."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import utc_text
from node.index.echo_rows import ECHOES


@dataclass(frozen=True, slots=True)
class Echo:
    """The last echo of a peer; times are ISO 8601 texts in UTC.

    Attributes:
        asked_at: When it was last asked.
        answered_at: When it last answered, maybe before; None: it never did.
        milliseconds: How long that answer took.
        reason: Why it did not answer when it was last asked; empty: it did.
    """

    asked_at: str
    answered_at: str | None
    milliseconds: float | None
    reason: str


class EchoBook:
    """The echoes of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def echoes(self) -> dict[str, Echo]:
        """Return the last echo of every peer that was ever asked, by its name."""
        with self._index.read() as connection:
            rows = connection.execute(sa.select(ECHOES)).all()
        return {
            row.peer: Echo(row.asked_at, row.answered_at, row.milliseconds, row.reason)
            for row in rows
        }

    def answered(self, peer: str, milliseconds: float, now: datetime) -> None:
        """Keep that a peer answered."""
        at = utc_text(now)
        self._write(peer, asked_at=at, answered_at=at, milliseconds=milliseconds, reason="")

    def came_to_nothing(self, peer: str, reason: str, now: datetime) -> None:
        """Keep why a peer did not answer; when it last did stays known."""
        self._write(peer, asked_at=utc_text(now), reason=reason)

    def _write(self, peer: str, **changes: Any) -> None:
        with self._index.begin() as connection:
            changed = connection.execute(
                ECHOES.update().where(ECHOES.c.peer == peer).values(**changes)
            )
            if not changed.rowcount:
                connection.execute(ECHOES.insert().values(peer=peer, **changes))
