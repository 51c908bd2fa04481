"""The tables of departments that upgrade: all of them, and nothing of what was begun is lost."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from node.case_job import software_version
from node.errors import NodeError
from node.index import Index
from node.index.cases import CaseBook
from node.index.migrations import STEPS
from node.index.tables import METADATA, SCHEMA, SCHEMA_VERSION
from node.phantom import make_study
from node.receiver import StandInReceiver
from tests.nodes import NodeProcess, wait_for
from tests.postgres import PostgresServer
from tests.version_2 import (
    DELIVERING,
    OTHER_STUDY,
    RUNNING,
    STATES,
    STUDY,
    restore_folder,
    restore_index,
)


def sqlite_of_version_2(folder: Path) -> Index:
    restore_index(folder / "index.sqlite")
    return Index(f"sqlite:///{folder / 'index.sqlite'}")


def postgres_of_version_2(postgres: PostgresServer, folder: Path) -> Index:
    """Make the tables of version 2 in PostgreSQL, with the rows of the SQLite dump."""
    old = sqlite_of_version_2(folder)
    tables = sa.MetaData()
    tables.reflect(old.engine)
    index = Index(postgres.database())
    typed = sa.MetaData(naming_convention=METADATA.naming_convention)
    for table in tables.tables.values():
        table.to_metadata(typed)
    with old.read() as read, index.engine.begin() as write:
        for table in typed.tables.values():
            for column in table.columns:
                if isinstance(column.type, sa.DateTime):
                    column.type = sa.DateTime(timezone=True)
        typed.create_all(write)
        for table in typed.sorted_tables:
            rows = [
                dict(row._mapping) for row in read.execute(sa.select(tables.tables[table.name]))
            ]
            if rows:
                write.execute(table.insert(), rows)
    old.close()
    return index


@pytest.fixture(params=["sqlite", "postgresql"])
def old_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    if request.param == "sqlite":
        index = sqlite_of_version_2(tmp_path)
    else:
        index = postgres_of_version_2(request.getfixturevalue("postgres"), tmp_path)
    yield index
    index.close()


def differences(index: Index) -> list[str]:
    """Return what is other than in `METADATA`, each in words."""
    with index.read() as connection:
        # SQLite knows the length of no text: there only the kind of a type is compared
        options: dict[str, Any] = {
            "compare_type": connection.dialect.name != "sqlite",
            # DBOS keeps its tables in a schema of its own, or in a file of its own
            "include_schemas": False,
        }
        context = MigrationContext.configure(connection, opts=options)
        found = [str(difference) for difference in compare_metadata(context, METADATA)]
        inspector = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            if not inspector.has_table(table.name):
                continue
            keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
            if set(keys) != {column.name for column in table.primary_key}:
                found.append(f"primary key of {table.name}: {keys}")
            for column in inspector.get_columns(table.name):
                default = (column["default"] or "").partition("::")[0].strip("'()")
                wanted = _default_of(table.columns.get(column["name"]))
                if column.get("autoincrement") is not True and default != wanted:
                    found.append(f"default of {table.name}.{column['name']}: {default!r}")
    return found


def _default_of(column: "sa.Column[Any] | None") -> str:
    """Return the default that the database fills in, as plain text; empty: none."""
    found = None if column is None else column.server_default
    argument = found.arg if isinstance(found, sa.DefaultClause) else ""
    return str(getattr(argument, "text", argument))


def test_migrated_tables_are_those_of_a_fresh_database(old_index: Index) -> None:
    """Bullet 6: what the steps lead to is what a new department gets; each difference is named."""
    assert old_index.version() == 2
    assert differences(old_index), "the tables of version 2 differ, or this test sees nothing"
    old_index.create()
    assert old_index.version() == SCHEMA_VERSION
    assert differences(old_index) == [], "add this to the step in node/index/migrations"


def test_steps_lead_from_the_first_to_the_present_version_without_a_gap() -> None:
    """A version without a step would leave a department with a node that does not start."""
    assert sorted(STEPS) == list(range(2, SCHEMA_VERSION))


def test_migration_keeps_every_case(old_index: Index) -> None:
    """What stood there stands there, in its state and with its history."""
    old_index.create()
    book = CaseBook(old_index)
    assert {case.case_id: str(case.state) for case in book.cases()} == STATES
    running = book.case(RUNNING)
    assert running is not None
    assert [page["state"] for page in running.history] == ["waiting", "ready", "running"]


def test_copy_of_the_old_index_is_kept_until_the_next(tmp_path: Path) -> None:
    """A department that goes back to the old program finds its index as it was."""
    index = sqlite_of_version_2(tmp_path)
    (tmp_path / "index.sqlite.version-1").write_bytes(b"of an earlier upgrade")
    index.create()
    index.create()
    index.close()
    (kept,) = tmp_path.glob("index.sqlite.version-*")
    with closing(sqlite3.connect(kept)) as copy:
        assert copy.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
        assert copy.execute("SELECT count(*) FROM cases").fetchone() == (len(STATES),)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_interrupted_migration_leaves_the_old_tables(old_index: Index) -> None:
    """All or nothing: a power cut in the middle leaves an index that the old program reads."""

    def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE schema_version"):
            raise OSError("the power is cut")

    sa.event.listen(old_index.engine, "before_cursor_execute", fail)
    with pytest.raises(OSError, match="power"):
        old_index.create()
    sa.event.remove(old_index.engine, "before_cursor_execute", fail)
    assert old_index.version() == 2
    with old_index.read() as connection:
        columns = {c["name"] for c in sa.inspect(connection).get_columns("revisions")}
    assert "step" not in columns
    old_index.create()
    assert old_index.version() == SCHEMA_VERSION


def test_processes_that_start_together_migrate_once(old_index: Index) -> None:
    """Several machines start the new version at the same moment, on one database."""
    starts = 4
    barrier = threading.Barrier(starts)
    url = old_index.engine.url.render_as_string(hide_password=False)

    def start(_number: int) -> int | None:
        index = Index(url)
        barrier.wait()
        index.create()
        version = index.version()
        index.close()
        return version

    with ThreadPoolExecutor(starts) as pool:
        assert list(pool.map(start, range(starts))) == [SCHEMA_VERSION] * starts
    with old_index.read() as connection:
        assert connection.execute(sa.select(SCHEMA)).all() == [(SCHEMA_VERSION,)]


def test_processes_that_start_together_on_an_empty_database_make_it_once(
    postgres: PostgresServer,
) -> None:
    """The same, on a new installation."""
    url, starts = postgres.database(), 4
    barrier = threading.Barrier(starts)

    def start(_number: int) -> None:
        index = Index(url)
        barrier.wait()
        index.create()
        index.close()

    with ThreadPoolExecutor(starts) as pool:
        list(pool.map(start, range(starts)))
    index = Index(url)
    assert differences(index) == []
    index.close()


@pytest.mark.parametrize(
    ("version", "mend"),
    [(1, "start the version of Hilum that made it"), (99, "update this one")],
)
def test_version_without_a_way_is_refused(tmp_path: Path, version: int, mend: str) -> None:
    """Older than any step, or newer than this program: nothing is touched, and the mend is told."""
    index = sqlite_of_version_2(tmp_path)
    with index.begin() as connection:
        connection.execute(SCHEMA.update().values(version=version))
    for call in (index.create, index.require_tables):
        with pytest.raises(NodeError, match=f"schema version {version}") as raised:
            call()
        assert mend in raised.value.hint
    assert not list(tmp_path.glob("*.version-*"))
    index.close()


def test_commands_change_no_tables(tmp_path: Path) -> None:
    """A command of the new version beside the running old node must not migrate under it."""
    index = sqlite_of_version_2(tmp_path)
    with pytest.raises(NodeError, match="schema version 2") as raised:
        index.require_tables()
    assert "start the node" in raised.value.hint
    assert index.version() == 2
    index.close()


def test_work_begun_before_the_upgrade_is_finished_once(tmp_path: Path) -> None:
    """Bullet 6: a case that ran and one that was delivered go on under the new version."""
    study = make_study(STUDY)
    objects = [*study.instances(), *make_study(OTHER_STUDY).instances()]
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        node = NodeProcess(tmp_path, {"tps": tps.port})
        restore_folder(tmp_path / "data", objects)
        with closing(sqlite3.connect(tmp_path / "data" / "index.sqlite")) as index:
            told = "UPDATE revisions SET job = json_set(job, '$.software_version', '0.0.9')"
            assert index.execute(f"{told} WHERE case_id = ?", (RUNNING,)).rowcount == 1
            index.commit()
        with node:

            def states() -> dict[str, str]:
                return {case.case_id: str(case.state) for case in node.cases()}

            wait_for(
                lambda: states()[RUNNING] == states()[DELIVERING] == "delivered",
                timeout_s=480,
                what="both cases to be delivered",
            )
            after = states()
        results = tps.receipts
        software = {pydicom.dcmread(path).get("SoftwareVersions") for path in tps.kept.values()}
    assert all(len(versions) == 1 for versions in results.values())
    left_alone = {k: v for k, v in STATES.items() if v not in ("running", "delivering", "waiting")}
    assert {case: after[case] for case in left_alone} == left_alone
    assert set(after) == set(STATES)
    assert software_version() in software, "results name the version that computed them"
    assert "0.0.9" not in software
