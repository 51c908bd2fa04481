"""The tables of what can be found and fetched: series and objects of adopted result sets."""

import sqlalchemy as sa

from node.index.tables import METADATA

_UID = sa.String(64)

CATALOGUED = sa.Table(
    "catalogued",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("finished_at", sa.String(40), nullable=False),
)
"""The revisions that were looked at; one that was computed again is finished at another time."""

RESULT_SERIES = sa.Table(
    "result_series",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("series", _UID, primary_key=True, index=True),
    sa.Column("study", _UID, nullable=False, index=True),
    sa.Column("patient_id", sa.String(200), nullable=False, index=True),
    sa.Column("attributes", sa.Text, nullable=False),
    sa.Column("sop_classes", sa.Text, nullable=False),
    sa.Column("objects", sa.Integer, nullable=False),
)
RESULT_OBJECTS = sa.Table(
    "result_objects",
    METADATA,
    sa.Column("case_id", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sop_instance_uid", _UID, primary_key=True, index=True),
    sa.Column("series", _UID, nullable=False, index=True),
    sa.Column("study", _UID, nullable=False, index=True),
    sa.Column("sop_class", _UID, nullable=False),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("attributes", sa.Text, nullable=False),
)
"""`attributes`: values of keys by keyword, as a JSON object."""
