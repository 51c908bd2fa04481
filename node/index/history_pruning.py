"""What the index forgets of what rests for long, so that nothing grows without bound.

Cases, their revisions and what was removed of them stay, a few kilobytes each, until they go
themselves (`node.index.forgetting`). Of work that is not at its end nothing is forgotten.
"""

from datetime import datetime

import sqlalchemy as sa

from node.index import Index
from node.index.access_rows import SESSIONS, TOKENS
from node.index.case_rows import CASES, DELIVERIES, HISTORY, RECEIPTS, RESULTS, utc_text
from node.index.echo_rows import ECHOES
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.peer_rows import COMMITMENTS
from node.index.promise_rows import PROMISES
from node.index.removable import AT_WORK
from node.index.removal_rows import REMOVALS
from node.index.states import UNSETTLED
from node.index.tables import ASSOCIATIONS, INSTANCES, SERIES_CARRIED

MOST_AT_ONCE = 2_000
"""So many rows of a table go in one transaction at most: receiving waits for it."""


def prune_history(index: Index, before: datetime) -> dict[str, int]:
    """Forget, a bounded number of rows at a time, what ended before a time.

    Returns:
        How many rows went, by table.
    """
    text = utc_text(before)
    rested = sa.select(CASES.c.case_id).where(
        CASES.c.updated_at < text, CASES.c.state.not_in(AT_WORK)
    )
    in_work = sa.select(DELIVERIES.c.case_id).where(DELIVERIES.c.state.in_(UNSETTLED))
    pruned = {
        "associations": _prune_associations(index, before),
        "history": _prune(
            index, HISTORY, HISTORY.c.at < text, HISTORY.c.case_id.in_(rested), ~_is_last_page()
        ),
        "commitments": _prune(
            index, COMMITMENTS, COMMITMENTS.c.created_at < text, COMMITMENTS.c.state == "closed"
        ),
        "promises": _prune(
            index, PROMISES, PROMISES.c.created_at < text, PROMISES.c.state != "owed"
        ),
        "questions": _prune(
            index, QUESTIONS, QUESTIONS.c.next_try_at < text, QUESTIONS.c.state != "open"
        ),
        "fetches": _prune(index, FETCHES, FETCHES.c.updated_at < text, FETCHES.c.state != "open"),
        "removals": _prune(index, REMOVALS, REMOVALS.c.removed_at < text, *_tells_of_no_case()),
        "echoes": _prune(index, ECHOES, ECHOES.c.asked_at < text),
        "sessions": _prune(index, SESSIONS, SESSIONS.c.used_at < before),
        "tokens": _prune(index, TOKENS, TOKENS.c.expires_at < before),
    }
    are_gone = sa.exists().where(
        REMOVALS.c.case_id == RESULTS.c.case_id,
        REMOVALS.c.revision == RESULTS.c.revision,
        REMOVALS.c.kind == "results",
        REMOVALS.c.removed_at < text,
    )
    pruned["results"] = _prune(index, RESULTS, are_gone, RESULTS.c.case_id.in_(rested))
    has_results = sa.exists().where(
        RESULTS.c.case_id == RECEIPTS.c.case_id, RESULTS.c.revision == RECEIPTS.c.revision
    )
    pruned["receipts"] = _prune(
        index,
        RECEIPTS,
        RECEIPTS.c.at < text,
        ~has_results,
        RECEIPTS.c.case_id.in_(rested),
        RECEIPTS.c.case_id.not_in(in_work),
    )
    return pruned


def _tells_of_no_case() -> tuple[sa.ColumnElement[bool], ...]:
    """Tell of a removal that it is done, and that no case is left on whose page it would stand."""
    is_of_case = sa.or_(
        CASES.c.case_id == REMOVALS.c.case_id, CASES.c.patient_key == REMOVALS.c.patient_key
    )
    return REMOVALS.c.is_done, ~sa.exists().where(is_of_case)


def _is_last_page() -> sa.ColumnElement[bool]:
    """Tell whether a page of history is its case's last: when it came to where it stands."""
    later = HISTORY.alias("later")
    return ~sa.exists().where(later.c.case_id == HISTORY.c.case_id, later.c.id > HISTORY.c.id)


def _prune_associations(index: Index, before: datetime) -> int:
    """Forget associations that ended, and what they carried; objects no longer name them."""
    old = (
        sa.select(ASSOCIATIONS.c.id)
        .where(ASSOCIATIONS.c.closed_at < before)
        .order_by(ASSOCIATIONS.c.closed_at)
        .limit(MOST_AT_ONCE // 10)
    )
    with index.begin() as connection:
        ids = list(connection.scalars(old))
        if ids:
            is_old = INSTANCES.c.association_id.in_(ids)
            connection.execute(INSTANCES.update().where(is_old).values(association_id=None))
            carried = SERIES_CARRIED.c.association_id.in_(ids)
            connection.execute(SERIES_CARRIED.delete().where(carried))
            connection.execute(ASSOCIATIONS.delete().where(ASSOCIATIONS.c.id.in_(ids)))
    return len(ids)


def _prune(index: Index, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
    keys = list(table.primary_key)
    with index.begin() as connection:
        rows = connection.execute(sa.select(*keys).where(*conditions).limit(MOST_AT_ONCE)).all()
        if rows:
            is_meant = sa.and_(*(key == sa.bindparam(f"key_{key.name}") for key in keys))
            values = [{f"key_{key.name}": value for key, value in zip(keys, row, strict=True)}
                      for row in rows]  # fmt: skip
            connection.execute(table.delete().where(is_meant), values)
    return len(rows)
