"""The table of what peers answered to C-ECHO."""

import sqlalchemy as sa

from node.index.tables import METADATA

ECHOES = sa.Table(
    "echoes",
    METADATA,
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("asked_at", sa.String(40), nullable=False),
    sa.Column("answered_at", sa.String(40)),
    sa.Column("milliseconds", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
)
"""One row for each peer that was asked. `answered_at`, `milliseconds`: of the last echo that came
back, also where the last one asked for did not; `reason`: why not, or empty."""
