"""The tables of associations and instances, and the metadata that all tables share.

Names columns and constraints only; every statement is elsewhere. The SQL works on SQLite and on
PostgreSQL.
"""

from datetime import UTC, datetime

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

READ_ONLY = "hilum_read_only"
"""Execution option of a connection that must not write, and locks nothing."""

SCHEMA_VERSION = 3
"""Of the tables; a database of another version is refused."""


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A time in UTC: aware on both sides, whatever the database makes of it."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self,
        value: datetime | None,
        dialect: sa.Dialect,  # noqa: ARG002
    ) -> datetime | None:
        """Return the time in UTC; a time without zone is a programmer's mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(
        self,
        value: datetime | None,
        dialect: sa.Dialect,  # noqa: ARG002
    ) -> datetime | None:
        """Return an aware time; SQLite gives it without zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_UID = sa.String(64)

SCHEMA = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, primary_key=True))

ASSOCIATIONS = sa.Table(
    "associations",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("peer", sa.String(32), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False),
    sa.Column("closed_at", UtcTime, index=True),
    sa.Column("outcome", sa.String(16)),
    sa.Column("node_run", sa.String(64), nullable=False),
    sa.Column("objects", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_associations_newest_by_peer", "peer", "id"),
)
"""`objects`: how many it carried, repeated ones included, as far as they are filed."""

INSTANCES = sa.Table(
    "instances",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("sop_instance_uid", _UID, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("series", _UID, nullable=False, index=True),
    sa.Column("study", _UID, nullable=False, index=True),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("patient_key", sa.String(200), nullable=False),
    sa.Column("referenced_series", _UID, nullable=False, index=True),
    sa.Column("header", sa.Text, nullable=False),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("transfer_syntax", _UID, nullable=False),
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("peer", sa.String(32), nullable=False),
    sa.Column("association_id", sa.ForeignKey("associations.id"), index=True),
    sa.Column("is_newest", sa.Boolean, nullable=False),
    sa.Column("is_ours", sa.Boolean, nullable=False),
    sa.UniqueConstraint("sop_instance_uid", "sha256"),
    # with what retention adds up of each patient, so that it reads no row for it
    sa.Index("ix_instances_patient", "patient_key", "received_at", "size_bytes", "id"),
)
"""One row for each content of each SOP instance."""

LOOKED = sa.Table(
    "looked",
    METADATA,
    sa.Column("only", sa.Integer, primary_key=True),
    sa.Column("row_id", sa.Integer, nullable=False),
)
"""One row: up to which instance row the cases are brought up to date."""

FILED = sa.Table(
    "filed",
    METADATA,
    sa.Column("node_run", sa.String(64), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
"""Up to which entry the journal of a receiving process is in the index."""

SERIES_CARRIED = sa.Table(
    "series_carried",
    METADATA,
    sa.Column("association_id", sa.ForeignKey("associations.id"), primary_key=True),
    sa.Column("series", _UID, primary_key=True, index=True),
)
"""Which series came over which association, repeated objects included: a series is still moving
while such an association is open."""
