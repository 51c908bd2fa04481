"""The tables of cases and processes, and the one function that moves a case from state to state."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from node.errors import NodeError
from node.index.states import TRANSITIONS, CaseState
from node.index.tables import METADATA, READ_ONLY

CASES = sa.Table(
    "cases",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("patient_key", sa.String(200), nullable=False, index=True),
    sa.Column("protocol", sa.String(64), nullable=False),
    sa.Column("ct_series_uid", sa.String(64), nullable=False),
    sa.Column("structure_set_uid", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("seen", sa.String(64), nullable=False),
    sa.Column("look_again", sa.Boolean, nullable=False),
    sa.Column("findings", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("patient_name", sa.Text, nullable=False, server_default=""),
    sa.Column("patient_id", sa.Text, nullable=False, server_default=""),
    sa.Column("registration", sa.String(16), nullable=False, server_default=""),
    sa.Column("target", sa.String(16), nullable=False, server_default=""),
    sa.Column("worst", sa.String(16), nullable=False, server_default=""),
    sa.Index("ix_cases_newest", "updated_at", "case_id"),
    sa.Index("ix_cases_newest_by_state", "state", "updated_at", "case_id"),
    sa.Index("ix_cases_newest_by_protocol", "protocol", "updated_at", "case_id"),
    sa.Index("ix_cases_newest_by_worst", "worst", "updated_at", "case_id"),
    sa.Index("ix_cases_structure_set", "structure_set_uid"),
    sa.Index("ix_cases_look_again", "look_again", "patient_key"),
)
"""What lists show stands in columns: whose it is, and of the newest revision the worst status of a
registration, what became of the targets (`refined`, `partly refined`, `abstained`) and the worst
severity of a finding, of its deliveries too; empty where nothing is known. See
`node.index.case_labels`."""

REVISIONS = sa.Table(
    "revisions",
    METADATA,
    sa.Column("case_id", sa.ForeignKey("cases.case_id"), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("begun", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("finished_at", sa.String(40)),
    sa.Column("step", sa.String(40), nullable=False, server_default=""),
    sa.Column("step_at", sa.String(40)),
)
"""`step`: what a revision that is being computed is at, since `step_at`."""

RESULTS = sa.Table(
    "results",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True, index=True),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("output", sa.String(16), nullable=False),
)
DELIVERIES = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("give_up_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("outputs", sa.Text, nullable=False),
    sa.Column("begun", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_deliveries_peer", "peer", "state", "case_id"),
)
"""`outputs`: the kinds of objects that the peer gets, as a JSON list; `begun`: how often an attempt
was begun, all together: what an earlier start says is not believed."""

RECEIPTS = sa.Table(
    "receipts",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("status", sa.Integer),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("commitment", sa.String(16), nullable=False),
    sa.Column("commitment_reason", sa.Text, nullable=False),
)
"""`commitment`: whether the peer keeps the object, as far as it was asked; see
`node.index.commitments`."""

IS_ANSWER_TO_RESULT = sa.and_(
    RESULTS.c.case_id == RECEIPTS.c.case_id,
    RESULTS.c.revision == RECEIPTS.c.revision,
    RESULTS.c.sop_instance_uid == RECEIPTS.c.sop_instance_uid,
)
"""Joins what a peer answered to the object that it answered about."""

HISTORY = sa.Table(
    "history",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("case_id", sa.String(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)


HEARTBEATS = sa.Table(
    "heartbeats",
    METADATA,
    sa.Column("process", sa.String(120), primary_key=True),
    sa.Column("beat_at", sa.String(40), nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("role", sa.String(16), nullable=False, server_default=""),
    sa.Column("host", sa.String(64), nullable=False, server_default=""),
    sa.Column("version", sa.String(40), nullable=False, server_default=""),
)
"""`beats`: grows with each sign of life, and is what others go by: their clocks may differ."""


FORGOTTEN = "forgotten:"
"""What the key of a case's patient begins with once the names are gone; a random number follows."""


class IllegalMoveError(NodeError):
    """A case cannot go from where it is to where it was asked to go."""


def case_row(connection: sa.Connection, case_id: str) -> sa.Row[Any] | None:
    """Return the row of a case, locked for this transaction if it may write, where that can be."""
    query = sa.select(CASES).where(CASES.c.case_id == case_id)
    if not connection.get_execution_options().get(READ_ONLY, False):
        query = query.with_for_update()
    return connection.execute(query).first()


def move_case(
    connection: sa.Connection,
    row: sa.Row[Any],
    to: CaseState,
    reason: str,
    now: datetime,
    *,
    revision: int | None = None,
) -> None:
    """Move a case and write a page of its history.

    Raises:
        IllegalMoveError: `TRANSITIONS` does not allow the move.
    """
    state = CaseState(row.state)
    if to is state and reason == row.reason:
        return
    if to is not state and to not in TRANSITIONS[state]:
        raise IllegalMoveError(f"case {row.case_id} cannot go from {state} to {to}")
    connection.execute(
        CASES.update()
        .where(CASES.c.case_id == row.case_id)
        .values(state=to, reason=reason, updated_at=utc_text(now))
    )
    if to is state:
        return  # another count of missing objects is no new page of history
    write_history(
        connection, row.case_id, row.revision if revision is None else revision, to, reason, now
    )


def write_history(
    connection: sa.Connection,
    case_id: str,
    revision: int,
    state: CaseState,
    reason: str,
    now: datetime,
) -> None:
    """Write a page of a case's history, also of what does not change its state."""
    connection.execute(
        HISTORY.insert().values(
            case_id=case_id, revision=revision, state=state, reason=reason, at=utc_text(now)
        )
    )


def utc_text(at: datetime) -> str:
    """Return an aware time as ISO 8601 text in UTC, which sorts as time does."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
