"""The table of who tried to log in of late.

Names columns only; `login_attempts` holds the statements.
"""

import sqlalchemy as sa

from node.index.tables import METADATA, UtcTime

LOGIN_ATTEMPTS = sa.Table(
    "login_attempts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Index("ix_login_attempts_who", "kind", "who", "at"),
    sa.Index("ix_login_attempts_at", "kind", "at"),
)
"""One row for each attempt and each thing that it counts against. `who` is a hash: what somebody
typed for a user's name may be their password."""
