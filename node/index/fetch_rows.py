"""The tables of what peers are asked and what is fetched from them."""

import sqlalchemy as sa

from node.index.tables import METADATA

QUESTIONS = sa.Table(
    "questions",
    METADATA,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("subject", sa.String(64), primary_key=True),
    sa.Column("patient_key", sa.String(200), nullable=False, index=True),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("asked_at", sa.String(40)),
    sa.Column("instances", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
)
"""`state`: open, answered, given up. `instances`: how many the peer has. `notes`: a JSON list."""

FETCHES = sa.Table(
    "fetches",
    METADATA,
    sa.Column("peer", sa.String(32), primary_key=True),
    sa.Column("series", sa.String(64), primary_key=True, index=True),
    sa.Column("patient_key", sa.String(200), nullable=False, index=True),
    sa.Column("study", sa.String(64), nullable=False),
    sa.Column("about", sa.String(64), nullable=False, index=True),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("send_by", sa.String(8), nullable=False),
    sa.Column("is_prior", sa.Boolean, nullable=False),
    sa.Column("came_otherwise", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
)
"""One row for each series of a peer. `state`: open, done, given up. `about`: the structure set for
whose case it is fetched. `came_otherwise`: something of it was here before it was asked for, or was
sent to us later: it is no mere prior."""
