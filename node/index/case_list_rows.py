"""The tables beside the cases: by which words they are found, and which protocol was chosen."""

import sqlalchemy as sa

from node.index.tables import METADATA

WORD_LENGTH = 64
"""Longer words are found by their beginning."""

_WORD = sa.String(WORD_LENGTH).with_variant(sa.String(WORD_LENGTH, collation="C"), "postgresql")
"""Compared by code points in every database: only so a beginning is a range."""

CASE_WORDS = sa.Table(
    "case_words",
    METADATA,
    sa.Column("word", _WORD, primary_key=True),
    sa.Column("case_id", sa.String(32), primary_key=True, index=True),
)
"""By what a case is found, case-folded: parts of the patient's name, Patient ID, UIDs, case id."""

PROTOCOL_CHOICES = sa.Table(
    "protocol_choices",
    METADATA,
    sa.Column("structure_set_uid", sa.String(64), primary_key=True),
    sa.Column("protocol", sa.String(64), nullable=False),
    sa.Column("from_case_id", sa.String(32), nullable=False),
    sa.Column("chosen_by", sa.String(120), nullable=False),
    sa.Column("chosen_at", sa.String(40), nullable=False),
)
"""Under which protocol the case of a structure set is computed, where an operator has said so; and
for which case they said it."""
