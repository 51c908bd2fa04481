"""The tables of what is known about peers: whether they answer, and what they were asked to keep.

Names columns only; `standings` and `commitments` hold the statements.
"""

import sqlalchemy as sa

from node.index.tables import METADATA

STANDINGS = sa.Table(
    "standings",
    METADATA,
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("open_since", sa.String(40)),
    sa.Column("probe_at", sa.String(40)),
    sa.Column("last_success_at", sa.String(40)),
    sa.Column("last_failure_at", sa.String(40)),
    sa.Column("last_failure", sa.Text, nullable=False),
)
"""One row for each peer that was called: `failures` in a row, and its breaker (`open_since` is
empty while it is closed)."""

COMMITMENTS = sa.Table(
    "commitments",
    METADATA,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("case_id", sa.String(32), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("peer", sa.String(32), nullable=False),
    sa.Column("objects", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("answer_by", sa.String(40), nullable=False),
    sa.Column("asked_at", sa.String(40)),
    sa.Column("reported_at", sa.String(40)),
    sa.Column("report", sa.Text, nullable=False),
    sa.Index("ix_commitments_delivery", "case_id", "revision", "peer"),
)
"""One row for each storage commitment that was, or was to be, asked for. `objects`: SOP Class UID
by SOP Instance UID, as JSON; `report`: what the peer reported, as JSON, or empty. A row is written
before its Transaction UID is sent."""
