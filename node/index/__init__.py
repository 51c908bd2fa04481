"""The index: one engine, its tables, its transactions. Only this package imports SQLAlchemy.

SQLite (the default) commits to stable storage: WAL with `synchronous=FULL`. Every transaction
takes the write lock when it begins, so that none fails half-way because another one wrote; only
`Index.read` does without. PostgreSQL needs nothing of that.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import node.index.case_rows
import node.index.catalogue_rows
import node.index.fetch_rows
import node.index.peer_rows
import node.index.promise_rows  # noqa: F401 - all, so that `create` knows every table
from node.errors import NodeError, StorageFullError, UnfitObjectError
from node.index.tables import METADATA, SCHEMA, SCHEMA_VERSION

BUSY_TIMEOUT_S = 30.0
"""How long a transaction waits for another one's write lock (SQLite)."""

_READ_ONLY = "hilum_read_only"
_SQLITE_REFUSALS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
_POSTGRES_REFUSALS = frozenset({"53100", "58030"})
"""disk_full and io_error (PostgreSQL, appendix A)."""


class Index:
    """Owns the engine.

    Args:
        url: SQLAlchemy URL, of SQLite or PostgreSQL.

    Raises:
        NodeError: The URL is none, or of a database whose driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
            # parameters hold patient identifiers; PostgreSQL may quote them all the same, so the
            # text of foreign exceptions is kept out of the log, too (node.log)
            self.engine = sa.create_engine(self._url, hide_parameters=True)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise NodeError(
                "node.database is no address of a database that can be used here",
                hint='leave it out for SQLite; PostgreSQL needs the extra "postgres"',
            ) from error
        if self._url.get_backend_name() == "sqlite":
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        self._reader = self.engine.execution_options(**{_READ_ONLY: True})

    def create(self) -> None:
        """Make the tables that are absent.

        Raises:
            NodeError: The database cannot be opened, or has tables of another version.
            StorageFullError: No room.
        """
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.begin() as connection:
                METADATA.create_all(connection)
                found = connection.execute(sa.select(SCHEMA.c.version)).scalar()
                if found is None:
                    connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))
        except sa.exc.DBAPIError as error:
            raise NodeError(
                f"the database cannot be opened ({type(error.orig).__name__})",
                hint="see that it runs and that its file is undamaged; else restore a backup",
            ) from error
        if found not in (None, SCHEMA_VERSION):
            raise NodeError(
                f"the database has schema version {found}, this program needs {SCHEMA_VERSION}",
                hint="start the version of Hilum that made it, or restore a matching backup",
            )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is committed at the end, or rolled back.

        Raises:
            StorageFullError: No room, or the disk refuses; nothing was changed.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database, blocks nobody, must not write."""
        with self._reader.begin() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without the extended part
        if code in _SQLITE_REFUSALS or getattr(error.orig, "sqlstate", "") in _POSTGRES_REFUSALS:
            raise StorageFullError(
                "the database cannot write", hint="look at the room and health of its disk"
            ) from error
        if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):
            raise UnfitObjectError("the database refuses a value") from error
        raise


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy begins them
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    is_read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
