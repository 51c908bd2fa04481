"""The index: one engine, its tables, its transactions. Only this package imports SQLAlchemy.

SQLite (the default) commits to stable storage: WAL with `synchronous=FULL`. Every transaction
takes the write lock when it begins, so that none fails half-way because another one wrote; only
`Index.read` does without. PostgreSQL needs nothing of that.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import node.index.access_rows
import node.index.attempt_rows
import node.index.case_list_rows
import node.index.case_rows
import node.index.catalogue_rows
import node.index.echo_rows
import node.index.fetch_rows
import node.index.notice_rows
import node.index.peer_rows
import node.index.promise_rows
import node.index.removal_rows  # noqa: F401 - all, so that `create` knows every table
from node.errors import NodeError, StorageFullError, UnfitObjectError
from node.index.migrations import can_migrate, make_tables, migrate, take_turns, version_of
from node.index.opening import cannot_open
from node.index.sqlite_copy import copy_database
from node.index.tables import READ_ONLY, SCHEMA_VERSION

LOGGER = logging.getLogger(__name__)

IDLE_TIMEOUT_S = 30
"""How long a transaction may do nothing (PostgreSQL): a process that was stopped in one must not
keep its locks from the others for ever."""

BUSY_TIMEOUT_S = 30.0
"""How long a transaction waits for another one's write lock (SQLite)."""

_TURN_LOCK = 0x48494C554F
"""Key of the advisory lock of `Index.turn` (PostgreSQL 13.3.5)."""

_SQLITE_REFUSALS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
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
            self.engine = sa.create_engine(self._url, hide_parameters=True, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise NodeError(
                "node.database is no address of a database that can be used here",
                hint='leave it out for SQLite; PostgreSQL needs the extra "postgres"',
            ) from error
        if self._url.get_backend_name() == "sqlite":
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            sa.event.listen(self.engine, "connect", _prepare_postgresql)
        reading: dict[str, Any] = {READ_ONLY: True}
        if self.is_shared:  # all queries of a transaction see the same; SQLite gives that anyway
            reading["isolation_level"] = "REPEATABLE READ"
        self._reader = self.engine.execution_options(**reading)
        self._turn = threading.local()
        """`connection`: that of the turn which this thread has, if it has one."""

    def create(self) -> None:
        """Make the tables, or bring those of an earlier version up to date.

        All or nothing, and once, however many processes start at the same time. A SQLite database
        is copied beside itself first (`index.sqlite.version-2`); the copy is kept until the next.

        Raises:
            NodeError: The database cannot be opened, or has tables of a later version.
            StorageFullError: No room.
        """
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        with _opened():
            if self.version() == SCHEMA_VERSION:
                return
            with self.begin() as connection:
                take_turns(connection)
                found = version_of(connection)  # another process may have been first
                if found is None:
                    make_tables(connection)
                elif found != SCHEMA_VERSION:
                    _require_steps(found)
                    self._keep_copy(found)
                    migrate(connection, found)
                    LOGGER.info(
                        "index.migrated", extra={"version": SCHEMA_VERSION, "from_version": found}
                    )

    def version(self) -> int | None:
        """Return the version of the tables, or None where there are none."""
        with self.read() as connection:
            return version_of(connection)

    def checked_version(self) -> int | None:
        """Return the version of the tables, None where there are none; changes nothing.

        Raises:
            NodeError: The database cannot be opened, or is of a version that cannot be used.
        """
        with _opened():
            found = self.version()
        if found not in (None, SCHEMA_VERSION):
            _require_steps(found)
        return found

    def require_tables(self) -> None:
        """Do nothing if the tables are of this program's version; changes nothing.

        Raises:
            NodeError: The database cannot be opened, or they are not.
        """
        with _opened():
            found = self.version()
        if found is None:
            raise NodeError("the database has no tables yet", hint="start the node once")
        if found < SCHEMA_VERSION and can_migrate(found):
            raise NodeError(
                f"the database has schema version {found}, this program needs {SCHEMA_VERSION}",
                hint="start the node of this version: it brings the database up to date",
            )
        if found != SCHEMA_VERSION:
            _require_steps(found)

    def _keep_copy(self, version: int) -> None:
        if self._url.get_backend_name() != "sqlite" or not self._url.database:
            return
        path = Path(self._url.database)
        kept = path.with_name(f"{path.name}.version-{version}")
        copy_database(path, kept)
        for older in path.parent.glob(f"{path.name}.version-*"):
            if older != kept:
                older.unlink()

    @property
    def is_shared(self) -> bool:
        """Whether other processes may work on it, too (PostgreSQL)."""
        return self._url.get_backend_name() == "postgresql"

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is committed at the end, or rolled back.

        Raises:
            StorageFullError: No room, or the disk refuses; nothing was changed.
        """
        connection = getattr(self._turn, "connection", None)
        with (
            _translated(),
            self.engine.begin() if connection is None else connection.begin_nested() as begun,
        ):
            yield begun if connection is None else connection

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Have a block to this process alone; tell whether it has the turn, or another one now.

        All that this thread writes in the block is one transaction: a process that was stopped in
        its turn until the database ended that has written nothing. Reading goes by `read`, and sees
        what others have written. SQLite has one process only, whose turn it always is.

        Raises:
            StorageFullError: As of `begin`.
        """
        if not self.is_shared:
            yield True
            return
        with self.begin() as connection:
            take = sa.select(sa.func.pg_try_advisory_xact_lock(_TURN_LOCK))
            if not connection.scalar(take):
                yield False
                return
            self._turn.connection = connection
            try:
                yield True
            finally:
                del self._turn.connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database, blocks nobody, must not write."""
        with self._reader.begin() as connection:
            yield connection


def _require_steps(version: int) -> None:
    if version <= SCHEMA_VERSION and can_migrate(version):
        return
    mend = "start the version of Hilum that made it, or restore a matching backup"
    if version > SCHEMA_VERSION:
        mend = "a newer version of Hilum has worked on it: update this one, or restore a backup"
    raise NodeError(
        f"the database has schema version {version}, this program needs {SCHEMA_VERSION}",
        hint=mend,
    )


@contextmanager
def _opened() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise cannot_open(error) from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without the extended part
        if code == sqlite3.SQLITE_READONLY:
            raise StorageFullError(
                "the database cannot be written: its files are another user's, or its disk takes "
                "no writing",
                hint="`hilum doctor` names them (ownership): give them to the user of the node",
            ) from error
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
    cursor.execute("PRAGMA secure_delete = ON")  # a name that was removed stands in no free page
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'")
    connection.commit()  # else it would be undone when the connection is given back


def _begin_sqlite(connection: sa.Connection) -> None:
    is_read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
