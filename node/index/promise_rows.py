"""The table of storage commitment that peers ask of us."""

import sqlalchemy as sa

from node.index.tables import METADATA

PROMISES = sa.Table(
    "promises",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("peer", sa.String(32), nullable=False, index=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("object_references", sa.Text, nullable=False),
    sa.Column("is_duplicate", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("give_up_at", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)
"""`object_references`: SOP class and SOP instance of each object, as a JSON list of pairs."""
