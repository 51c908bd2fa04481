"""Brings the tables of an earlier version up to date, one step for each version.

`schema_version` is the only record of what a database has: programs of every version read it before
they touch anything else, so Alembic's own table of versions would say the same a second time.
Alembic writes the statements (`Operations`) and, in the tests, compares what the steps lead to with
`METADATA`. A step is frozen once it was released: it names its tables itself.

Steps only add: an older program that is still running beside a newer one (a rolling upgrade) goes
on with the columns that it knows.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from node.index.migrations import to_3
from node.index.tables import METADATA, SCHEMA, SCHEMA_VERSION

if TYPE_CHECKING:
    from alembic.operations import Operations

STEPS: "Mapping[int, Callable[[Operations], None]]" = {2: to_3.upgrade}
"""By the version that a step begins with; it ends with the next one."""

_LOCK = 0x48494C554E
"""Key of the advisory lock for making and changing tables (PostgreSQL 13.3.5)."""

LOCK_TIMEOUT_S = 60
"""How long to wait for those who use a table that is to be changed (PostgreSQL)."""


def version_of(connection: sa.Connection) -> int | None:
    """Return the version of the tables, or None where there are none."""
    if not sa.inspect(connection).has_table(SCHEMA.name):
        return None
    found = connection.scalar(sa.select(SCHEMA.c.version))
    return None if found is None else int(found)


def can_migrate(version: int) -> bool:
    """Tell whether steps lead from a version to the present one."""
    return all(step in STEPS for step in range(version, SCHEMA_VERSION))


def take_turns(connection: sa.Connection) -> None:
    """Let one process at a time make or change tables, until the transaction ends.

    SQLite has the whole database locked already.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def make_tables(connection: sa.Connection) -> None:
    """Make all tables in an empty database."""
    METADATA.create_all(connection)
    connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring the tables from a version to the present one, in the transaction of `connection`."""
    from alembic.migration import MigrationContext  # no command but the first start needs it
    from alembic.operations import Operations

    options = {"target_metadata": METADATA}  # the convention by which constraints are named
    operations = Operations(MigrationContext.configure(connection, opts=options))
    for step in range(version, SCHEMA_VERSION):
        STEPS[step](operations)
    connection.execute(SCHEMA.update().values(version=SCHEMA_VERSION))
