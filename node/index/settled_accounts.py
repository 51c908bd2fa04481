"""What came of one delivery, by the receipts of its objects. Reads only."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import IS_ANSWER_TO_RESULT, RECEIPTS, RESULTS, REVISIONS
from node.index.deliveries import TAKEN


@dataclass(frozen=True, slots=True)
class SettledAccount:
    """What came of one delivery.

    Attributes:
        outcomes: How many objects ended how.
        taken_paths: Of the objects that the peer took, relative to the data folder.
        adopted_at: When the result set was there; None: it is not known.
    """

    outcomes: dict[str, int]
    taken_paths: tuple[str, ...]
    adopted_at: datetime | None


def settled_account(index: Index, case_id: str, revision: int, peer: str) -> SettledAccount:
    """Return what came of a delivery."""
    answers = (
        sa.select(RECEIPTS.c.outcome, RESULTS.c.path)
        .join(RESULTS, IS_ANSWER_TO_RESULT, isouter=True)
        .where(
            RECEIPTS.c.case_id == case_id,
            RECEIPTS.c.revision == revision,
            RECEIPTS.c.peer == peer,
        )
    )
    finished = sa.select(REVISIONS.c.finished_at).where(
        REVISIONS.c.case_id == case_id, REVISIONS.c.revision == revision
    )
    with index.read() as connection:
        rows = connection.execute(answers).all()
        text = connection.scalar(finished)
    taken = (row.path for row in rows if row.outcome in TAKEN and row.path is not None)
    return SettledAccount(
        outcomes=dict(Counter(row.outcome for row in rows)),
        taken_paths=tuple(taken),
        adopted_at=datetime.fromisoformat(text) if text else None,
    )
