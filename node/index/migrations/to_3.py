"""From version 2 to version 3: the page, several machines, monitoring, retention.

Programs of version 2 know of no other process, and do not count their starts: none may work on
while newer ones do. Each holds the lock of a lone node, and newer ones refuse to start beside it
(`node.process_name`).
"""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from node.index.tables import UtcTime

if TYPE_CHECKING:
    from alembic.operations import Operations


def upgrade(op: "Operations") -> None:
    """Add what version 3 has more than version 2."""
    _add_access(op)
    _add_pages(op)
    _add_notices(op)
    _add_retention(op)
    _add_columns(op)
    _add_indexes(op)


def _add_access(op: "Operations") -> None:
    """Who may use the page."""
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column("used_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tokens")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_tokens_secret_hash")),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("password_at", UtcTime(), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    op.create_table(
        "sessions",
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=False),
        sa.Column("used_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_name"], ["users.name"], name=op.f("fk_sessions_user_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_opened_at"), "sessions", ["opened_at"], unique=False)
    op.create_index(op.f("ix_sessions_used_at"), "sessions", ["used_at"], unique=False)
    op.create_index(op.f("ix_sessions_user_name"), "sessions", ["user_name"], unique=False)
    op.create_table(
        "login_attempts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_attempts")),
    )
    op.create_index("ix_login_attempts_at", "login_attempts", ["kind", "at"], unique=False)
    op.create_index("ix_login_attempts_who", "login_attempts", ["kind", "who", "at"], unique=False)


def _add_pages(op: "Operations") -> None:
    """What the page finds cases by, how peers answered, what operators chose."""
    op.create_table(
        "case_words",
        sa.Column(
            "word",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("word", "case_id", name=op.f("pk_case_words")),
    )
    op.create_index(op.f("ix_case_words_case_id"), "case_words", ["case_id"], unique=False)
    op.create_table(
        "echoes",
        sa.Column("peer", sa.String(length=32), nullable=False),
        sa.Column("asked_at", sa.String(length=40), nullable=False),
        sa.Column("answered_at", sa.String(length=40), nullable=True),
        sa.Column("milliseconds", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("peer", name=op.f("pk_echoes")),
    )
    op.create_table(
        "protocol_choices",
        sa.Column("structure_set_uid", sa.String(length=64), nullable=False),
        sa.Column("protocol", sa.String(length=64), nullable=False),
        sa.Column("from_case_id", sa.String(length=32), nullable=False),
        sa.Column("chosen_by", sa.String(length=120), nullable=False),
        sa.Column("chosen_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("structure_set_uid", name=op.f("pk_protocol_choices")),
    )


def _add_notices(op: "Operations") -> None:
    """Of what people were notified."""
    op.create_table(
        "noticed",
        sa.Column("only", sa.Integer(), nullable=False),
        sa.Column("begun_at_id", sa.Integer(), nullable=False),
        sa.Column("history_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("only", name=op.f("pk_noticed")),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=160), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("peer", sa.String(length=32), nullable=False),
        sa.Column("noticed_at", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.String(length=40), nullable=False),
        sa.Column("settled_at", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("channel", "subject", name=op.f("uq_notices_channel_subject")),
    )
    op.create_index("ix_notices_settled", "notices", ["settled_at"], unique=False)
    op.create_index(
        "ix_notices_state", "notices", ["state", "channel", "next_try_at"], unique=False
    )


def _add_retention(op: "Operations") -> None:
    """What was removed, and which files are still to go."""
    op.create_table(
        "removals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("patient_key", sa.String(length=200), nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("objects", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("because", sa.String(length=16), nullable=False),
        sa.Column("removed_at", sa.String(length=40), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_removals")),
    )
    op.create_index(op.f("ix_removals_case_id"), "removals", ["case_id"], unique=False)
    op.create_index(op.f("ix_removals_is_done"), "removals", ["is_done"], unique=False)
    op.create_index(op.f("ix_removals_patient_key"), "removals", ["patient_key"], unique=False)
    op.create_index(op.f("ix_removals_removed_at"), "removals", ["removed_at"], unique=False)
    op.create_table(
        "doomed_files",
        sa.Column("removal_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["removal_id"], ["removals.id"], name=op.f("fk_doomed_files_removal_id")
        ),
        sa.PrimaryKeyConstraint("removal_id", "path", name=op.f("pk_doomed_files")),
    )


def _add_columns(op: "Operations") -> None:
    """What tables of version 2 tell more."""
    op.add_column(
        "associations", sa.Column("objects", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("cases", sa.Column("patient_name", sa.Text(), server_default="", nullable=False))
    op.add_column("cases", sa.Column("patient_id", sa.Text(), server_default="", nullable=False))
    op.add_column(
        "cases", sa.Column("registration", sa.String(length=16), server_default="", nullable=False)
    )
    op.add_column(
        "cases", sa.Column("target", sa.String(length=16), server_default="", nullable=False)
    )
    op.add_column(
        "cases", sa.Column("worst", sa.String(length=16), server_default="", nullable=False)
    )
    op.add_column(
        "deliveries", sa.Column("begun", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "heartbeats", sa.Column("beats", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "heartbeats", sa.Column("role", sa.String(length=16), server_default="", nullable=False)
    )
    op.add_column(
        "heartbeats", sa.Column("host", sa.String(length=64), server_default="", nullable=False)
    )
    op.add_column(
        "heartbeats", sa.Column("version", sa.String(length=40), server_default="", nullable=False)
    )
    op.add_column(
        "revisions", sa.Column("step", sa.String(length=40), server_default="", nullable=False)
    )
    op.add_column("revisions", sa.Column("step_at", sa.String(length=40), nullable=True))


def _add_indexes(op: "Operations") -> None:
    """By what rows are found that were few so far."""
    op.create_index("ix_associations_newest_by_peer", "associations", ["peer", "id"], unique=False)
    op.create_index("ix_cases_look_again", "cases", ["look_again", "patient_key"], unique=False)
    op.create_index("ix_cases_newest", "cases", ["updated_at", "case_id"], unique=False)
    op.create_index(
        "ix_cases_newest_by_protocol", "cases", ["protocol", "updated_at", "case_id"], unique=False
    )
    op.create_index(
        "ix_cases_newest_by_state", "cases", ["state", "updated_at", "case_id"], unique=False
    )
    op.create_index(
        "ix_cases_newest_by_worst", "cases", ["worst", "updated_at", "case_id"], unique=False
    )
    op.create_index("ix_cases_structure_set", "cases", ["structure_set_uid"], unique=False)
    op.create_index("ix_deliveries_peer", "deliveries", ["peer", "state", "case_id"], unique=False)
    op.drop_index(op.f("ix_instances_patient_key"), table_name="instances")
    op.create_index(
        op.f("ix_instances_association_id"), "instances", ["association_id"], unique=False
    )
    op.create_index(
        "ix_instances_patient",
        "instances",
        ["patient_key", "received_at", "size_bytes", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_instances_study"), "instances", ["study"], unique=False)
