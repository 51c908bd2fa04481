"""The tables of what retention removed: what, when and why, and which files are still to go."""

import sqlalchemy as sa

from node.index.tables import METADATA

REMOVALS = sa.Table(
    "removals",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("patient_key", sa.String(200), nullable=False, index=True),
    sa.Column("case_id", sa.String(32), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("objects", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("because", sa.String(16), nullable=False),
    sa.Column("removed_at", sa.String(40), nullable=False, index=True),
    sa.Column("is_done", sa.Boolean, nullable=False, index=True),
)
"""`kind`: objects of a patient (then without case), view or results of a revision, names of a case
(then without revision). `because`: age or room. Not done yet: files may still be there."""

DOOMED_FILES = sa.Table(
    "doomed_files",
    METADATA,
    sa.Column("removal_id", sa.ForeignKey("removals.id"), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
)
"""Files whose rows are gone and that are to be removed themselves, relative to the data folder."""
