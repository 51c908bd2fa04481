"""What is told about deliveries: why one waits, what peers answered, what a person should know.

Reads only. Everything is made from the receipts whenever it is asked for, so that it is never older
than they are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from node.index.case_rows import CASES, DELIVERIES, IS_ANSWER_TO_RESULT, RECEIPTS, RESULTS
from node.index.peer_rows import STANDINGS
from node.index.states import FOUND, LOST, UNCONFIRMED, UNSETTLED, CaseState

_LEFT_OUT = "left_out"
_WARNED = "warned"

_TEXT_LENGTH = len("2026-03-01T12:00")


def waiting_reasons(
    connection: sa.Connection, case_ids: Sequence[str] | None = None
) -> dict[str, str]:
    """Return why cases that are being delivered are not delivered yet, by case id.

    Args:
        connection: Sees one state of the index.
        case_ids: Only these cases; None: all.
    """
    query = (
        sa.select(
            DELIVERIES.c.case_id,
            DELIVERIES.c.peer,
            DELIVERIES.c.reason,
            STANDINGS.c.open_since,
            STANDINGS.c.probe_at,
            STANDINGS.c.last_failure,
        )
        .join(
            CASES,
            sa.and_(
                CASES.c.case_id == DELIVERIES.c.case_id, CASES.c.revision == DELIVERIES.c.revision
            ),
        )
        .join(STANDINGS, STANDINGS.c.peer == DELIVERIES.c.peer, isouter=True)
        .where(CASES.c.state == CaseState.DELIVERING, DELIVERIES.c.state.in_(UNSETTLED))
        .order_by(DELIVERIES.c.peer)
    )
    if case_ids is not None:
        query = query.where(CASES.c.case_id.in_(case_ids))
    found: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(query):
        if row.open_since is not None:
            found[row.case_id].append(
                f"{row.peer}: left alone since {utc_minute(row.open_since)}, tried again at "
                f"{utc_minute(row.probe_at)}, because it fails: {row.last_failure}"
            )
        elif row.reason:
            found[row.case_id].append(f"{row.peer}: {row.reason}")
    return {case: "; ".join(reasons) for case, reasons in found.items()}


def delivery_findings(
    connection: sa.Connection, case_id: str, revision: int
) -> tuple[Mapping[str, Any], ...]:
    """Return what a person should know of how the peers took a result set."""
    count = sa.func.count().label("objects")
    kinds = (RECEIPTS.c.peer, RECEIPTS.c.outcome, RECEIPTS.c.reason)
    commitments = (RECEIPTS.c.commitment, RECEIPTS.c.commitment_reason)
    is_of_case = sa.and_(RECEIPTS.c.case_id == case_id, RECEIPTS.c.revision == revision)
    answered = (
        sa.select(*kinds, count)
        .where(is_of_case, RECEIPTS.c.outcome.in_((_WARNED, _LEFT_OUT)))
        .group_by(*kinds)
        .order_by(*kinds)
    )
    settled = (
        sa.select(RECEIPTS.c.peer, *commitments, count)
        .where(is_of_case, RECEIPTS.c.commitment.in_((FOUND, UNCONFIRMED, LOST)))
        .group_by(RECEIPTS.c.peer, *commitments)
        .order_by(RECEIPTS.c.peer, *commitments)
    )
    found = [
        _finding(row.outcome, row.peer, row.objects, row.reason)
        for row in connection.execute(answered)
    ]
    found += [
        _finding(row.commitment, row.peer, row.objects, row.commitment_reason)
        for row in connection.execute(settled)
    ]
    return tuple(found)


def receipt_counts(
    connection: sa.Connection, case_id: str, revision: int
) -> tuple[Mapping[str, Any], ...]:
    """Return how many objects of each kind each peer answered alike: status, outcome, reason."""
    columns = (
        RECEIPTS.c.peer,
        RESULTS.c.output,
        RECEIPTS.c.outcome,
        RECEIPTS.c.status,
        RECEIPTS.c.reason,
        RECEIPTS.c.commitment,
        RECEIPTS.c.commitment_reason,
    )
    query = (
        sa.select(*columns, sa.func.count().label("objects"))
        .join(RESULTS, IS_ANSWER_TO_RESULT)
        .where(RECEIPTS.c.case_id == case_id, RECEIPTS.c.revision == revision)
        .group_by(*columns)
        .order_by(*columns)
    )
    return tuple(dict(row._mapping) for row in connection.execute(query))


def utc_minute(text: str) -> str:
    """Return a time of the index for people."""
    return f"{text[:_TEXT_LENGTH].replace('T', ' ')} UTC"


_TOLD = {
    _WARNED: ("delivery-warning", "warning", "stored {objects} with a warning: {reason}"),
    _LEFT_OUT: (
        "delivery-left-out",
        "info",
        "was not sent {objects} that it can do without: {reason}",
    ),
    FOUND: (
        "commitment-found",
        "warning",
        "holds {objects} but did not commit to keep them: {reason}",
    ),
    UNCONFIRMED: (
        "commitment-unconfirmed",
        "warning",
        "took {objects} and did not confirm that it keeps them: {reason}",
    ),
    LOST: ("commitment-lost", "failure", "reports that it does not keep {objects}: {reason}"),
}


def _finding(kind: str, peer: str, objects: int, reason: str) -> Mapping[str, Any]:
    code, severity, text = _TOLD[kind]
    many = f"{objects} object{'' if objects == 1 else 's'}"
    told = text.format(objects=many, reason=reason)
    return {"code": code, "severity": severity, "text": f"peer {peer} {told}"}
