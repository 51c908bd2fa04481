"""When something happens: news are looked at, trouble is survived, nobody is forgotten."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from node.config import Config, NodeSection, Protocol
from node.errors import StorageFullError
from node.index import Index
from node.index.cases import CaseBook
from node.index.instances import InstanceBook
from node.index.states import CaseState
from node.schedule import Schedule
from node.storage import StoredFile
from tests.stored_instances import ct

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Trouble(Index):
    """An index whose disk can be full."""

    is_full = False

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        if self.is_full:
            raise StorageFullError("no room")
        with super().begin() as connection:
            yield connection


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Trouble]:
    found = Trouble(f"sqlite:///{tmp_path / 'index.sqlite'}")
    found.create()
    yield found
    found.close()


def schedule(index: Index, clock: Clock, tmp_path: Path, **protocol: Any) -> Schedule:
    config = Config(
        node=NodeSection(data=tmp_path, quiet_s=10.0, incomplete_s=100.0),
        protocol=(Protocol(name="liver", targets=("GTV*",), **protocol),),
    )
    return Schedule(config, index, cast("Any", None), clock)


def store_ct(index: Index, clock: Clock) -> None:
    """Receive a CT without structure set."""
    for number, one in enumerate(ct()):
        file = StoredFile(f"objects/{number}", f"{number:064}", 1)
        InstanceBook(index).add_instance(one.header, file, None, "scanner", clock())


def test_news_when_they_come_make_a_case_that_says_what_it_waits_for(
    index: Trouble, tmp_path: Path
) -> None:
    """A CT without structure set waits, and says so."""
    clock = Clock()
    store_ct(index, clock)
    schedule(index, clock, tmp_path).look()
    (record,) = CaseBook(index).cases()
    assert record.state is CaseState.WAITING
    assert "no structure set" in record.reason


def test_patient_when_the_disk_was_full_is_looked_at_again(index: Trouble, tmp_path: Path) -> None:
    """A look that fails forgets nobody: it comes again by itself when there is room."""
    clock = Clock()
    work = schedule(index, clock, tmp_path)
    store_ct(index, clock)
    index.is_full = True
    work.look()
    index.is_full = False
    assert CaseBook(index).cases() == []
    clock.turn(5)
    work.look()
    assert len(CaseBook(index).cases()) == 1


def test_node_when_started_again_leaves_old_patients_alone(index: Trouble, tmp_path: Path) -> None:
    """A changed configuration does not compute again what was there before."""
    clock = Clock()
    store_ct(index, clock)
    schedule(index, clock, tmp_path).look()
    (before,) = CaseBook(index).cases()
    with index.begin() as connection:
        connection.execute(sa.text("UPDATE cases SET state = 'delivered', revision = 1"))
    again = schedule(index, clock, tmp_path)
    again.resume()
    again.look()
    (after,) = CaseBook(index).cases()
    assert (after.state, after.updated_at) == (CaseState.DELIVERED, before.updated_at)


def test_node_when_started_again_goes_on_waiting(index: Trouble, tmp_path: Path) -> None:
    """What waited for time or objects before the restart waits on."""
    clock = Clock()
    store_ct(index, clock)
    schedule(index, clock, tmp_path).look()
    with index.begin() as connection:
        connection.execute(sa.text("UPDATE cases SET reason = 'old'"))
    again = schedule(index, clock, tmp_path)
    again.resume()
    again.look()
    (record,) = CaseBook(index).cases()
    assert "no structure set" in record.reason
