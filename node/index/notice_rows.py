"""The tables of what people are to be told.

Names columns only; `notices` holds the statements.
"""

import sqlalchemy as sa

from node.index.tables import METADATA

NOTICES = sa.Table(
    "notices",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("case_id", sa.String(32), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("peer", sa.String(32), nullable=False),
    sa.Column("noticed_at", sa.String(40), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("settled_at", sa.String(40)),
    sa.UniqueConstraint("channel", "subject"),
    sa.Index("ix_notices_state", "state", "channel", "next_try_at"),
    sa.Index("ix_notices_settled", "settled_at"),
)
"""One row for each thing on each channel. `subject`: what it is about, so that it is told once;
`state`: owed, told, given up; `case_id` and `peer` are empty where there is none."""

NOTICED = sa.Table(
    "noticed",
    METADATA,
    sa.Column("only", sa.Integer, primary_key=True),
    sa.Column("begun_at_id", sa.Integer, nullable=False),
    sa.Column("history_id", sa.Integer, nullable=False),
)
"""One row: up to which page of the cases' history was looked for what people are to be told; what
stands up to `begun_at_id` was there before anybody wanted to know."""
