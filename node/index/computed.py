"""Which revisions of a case have a result set."""

from dataclasses import dataclass

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import CASES, RESULTS
from node.index.states import CaseState


@dataclass(frozen=True, slots=True)
class ComputedRevision:
    """A revision whose result set was adopted.

    Attributes:
        case_id: As the index knows it.
        revision: Its number.
        newest: Number of the case's newest revision that has a result set.
        protocol: By which the case is treated.
        state: Of the case now.
    """

    case_id: str
    revision: int
    newest: int
    protocol: str
    state: CaseState


def computed_revision(
    index: Index, case_id: str, revision: int | None = None
) -> ComputedRevision | None:
    """Return a revision that has a result set: the one asked for, or else the newest.

    Returns:
        None: there is no such case, or nothing was computed for it under that number.
    """
    of_case = RESULTS.c.case_id == case_id
    with index.read() as connection:
        row = connection.execute(sa.select(CASES).where(CASES.c.case_id == case_id)).first()
        if row is None:
            return None
        newest = connection.scalar(sa.select(sa.func.max(RESULTS.c.revision)).where(of_case))
        if newest is None:
            return None
        wanted = newest if revision is None else revision
        query = sa.select(sa.literal(1)).where(of_case, RESULTS.c.revision == wanted).limit(1)
        if connection.scalar(query) is None:
            return None
    return ComputedRevision(row.case_id, wanted, newest, row.protocol, CaseState(row.state))
