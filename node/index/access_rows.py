"""The tables of who may look at the page: users, their sessions, and tokens of programs.

Names columns only; `access` holds the statements. No password, session or token can be read from
them: passwords are argon2id hashes, the other two SHA-256 of random numbers.
"""

import sqlalchemy as sa

from node.index.tables import METADATA, UtcTime

LONGEST_NAME = 64
"""Characters of the name of a user or token."""

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("name", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("password_at", UtcTime, nullable=False),
    sa.Column("seen_at", UtcTime),
)
"""One row for each person who may log in; names are in lower case."""

SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("secret_hash", sa.String(64), primary_key=True),
    sa.Column(
        "user_name", sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False, index=True),
    sa.Column("used_at", UtcTime, nullable=False, index=True),
)
"""One row for each login that still counts, or has ended since the last login of anybody."""

TOKENS = sa.Table(
    "tokens",
    METADATA,
    sa.Column("name", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Column("used_at", UtcTime),
)
"""One row for each program that may ask."""
