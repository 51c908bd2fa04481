"""The whole index as one SQLite file, as it was at one moment, and back again.

The same file for SQLite and for PostgreSQL: so a backup needs no program of the database, and can
be restored into either. The database of the durable work is not in it: what was begun is due in the
index, too, and begins again.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.errors import NodeError
from node.index import Index
from node.index.migrations import version_of
from node.index.sqlite_copy import copy_database, sync_file
from node.index.tables import METADATA, SCHEMA, SCHEMA_VERSION

BATCH = 1000
"""Rows that are carried from one database to the other at a time."""


def take_snapshot(index: Index, target: Path) -> None:
    """Write the index to a new SQLite file; others go on writing.

    Raises:
        StorageFullError: No room.
        NodeError: The tables are not those of this program.
    """
    index.require_tables()
    url = index.engine.url
    if url.get_backend_name() == "sqlite" and url.database:
        copy_database(Path(url.database), target)
        return
    target.unlink(missing_ok=True)
    copy = Index(f"sqlite:///{target}")
    try:
        copy.create()
        reader = index.engine.execution_options(isolation_level="REPEATABLE READ")
        with reader.begin() as read, copy.begin() as write:
            if version_of(read) != SCHEMA_VERSION:
                raise NodeError("the tables were changed meanwhile", hint="begin the backup anew")
            _carry(read, write)
        with copy.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        copy.close()
    with closing(sqlite3.connect(target)) as alone:
        alone.execute("PRAGMA journal_mode = DELETE")
    sync_file(target)


def load_snapshot(snapshot: Path, index: Index) -> None:
    """Bring the rows of a snapshot into an index that has none yet, in one transaction.

    Raises:
        NodeError: The index holds something already, or the snapshot is of another version.
    """
    index.create()
    source = Index(f"sqlite:///{snapshot}")
    try:
        source.create()
        with source.read() as read, index.begin() as write:
            used = [
                t.name for t in METADATA.sorted_tables if t is not SCHEMA and _has_rows(write, t)
            ]
            if used:
                raise NodeError(
                    f"the database is not empty: {', '.join(used)}",
                    hint="restore into a database of its own",
                )
            _carry(read, write)
            _continue_numbering(write)
    finally:
        source.close()


def object_paths(snapshot: Path) -> Iterator[tuple[str, int]]:
    """Yield path and size of every object in a snapshot, in the order of the paths."""
    yield from _rows(
        snapshot, "SELECT path, max(size_bytes) FROM instances GROUP BY path ORDER BY path"
    )


def result_sets(snapshot: Path) -> Iterator[tuple[str, int]]:
    """Yield the finished revisions that have results, as case and revision, in order of text."""
    query = (
        "SELECT DISTINCT case_id, revision FROM results "
        "ORDER BY case_id || '/' || CAST(revision AS TEXT)"
    )
    yield from _rows(snapshot, query)


def removed_results(snapshot: Path) -> set[tuple[str, int]]:
    """Return the revisions whose results retention has removed."""
    query = "SELECT case_id, revision FROM removals WHERE kind = 'results'"
    return set(_rows(snapshot, query))


def problem_of(snapshot: Path) -> str:
    """Return what is wrong with a snapshot as a database, or an empty text."""
    try:
        with closing(sqlite3.connect(f"file:{snapshot}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        return type(error).__name__
    return "" if found == "ok" else "its pages are damaged"


def _rows(snapshot: Path, query: str) -> Iterator[Any]:
    with closing(sqlite3.connect(f"file:{snapshot}?mode=ro", uri=True)) as connection:
        yield from connection.execute(query)


def _has_rows(connection: sa.Connection, table: sa.Table) -> bool:
    return (
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None
    )


def _carry(read: sa.Connection, write: sa.Connection) -> None:
    for table in METADATA.sorted_tables:
        if table is SCHEMA:
            continue
        rows = read.execution_options(yield_per=BATCH).execute(sa.select(table))
        for some in rows.partitions(BATCH):
            write.execute(table.insert(), [dict(row._mapping) for row in some])


def _continue_numbering(connection: sa.Connection) -> None:
    """Let PostgreSQL number new rows behind those that were brought."""
    if connection.dialect.name != "postgresql":
        return
    for table in METADATA.sorted_tables:
        for column in _numbered(table):
            newest = sa.select(sa.func.coalesce(sa.func.max(column), 0)).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sa.select(sa.func.setval(sequence, newest + 1, False)))


def _numbered(table: sa.Table) -> Iterable[sa.Column[Any]]:
    column = table.autoincrement_column
    is_alone = column is not None and len(table.primary_key) == 1
    return [column] if column is not None and is_alone and not column.foreign_keys else []
