"""What was promised is filed, once, whatever moment a process ends at."""

import errno
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, uid

from node.errors import StorageFullError, UnfitObjectError
from node.filing import Filing
from node.index import Index
from node.index.instances import AssociationOutcome, InstanceBook
from node.index.tables import ASSOCIATIONS, INSTANCES
from node.intake import Announcement, file_front
from node.journal import Journal
from node.receipt import Receipt
from node.recording import BATCH, Carrier
from node.recovery import Recovery
from node.storage import ObjectStore
from tests.receiving_node import LONG_S, ct, encoded

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Process:
    """A receiving process without network; another one in the same folder is its successor."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = Index(f"sqlite:///{root / 'index.sqlite'}")
        self.index.create()
        self.store = ObjectStore(root, 0)
        self.journal = Journal(root / "journal-node", self.store.disk)
        self.recovery, self.filing = (
            kind(self.store, self.journal, InstanceBook(self.index), "node")
            for kind in (Recovery, Filing)
        )

    def keep(self, ds: Dataset, association: str = "a") -> Receipt:
        """Keep an object as the intake does, and return what the journal is to say of it."""
        syntax = uid.ExplicitVRLittleEndian
        announced = Announcement(ds.SOPClassUID, ds.SOPInstanceUID, ds.SOPClassUID, syntax)
        front = file_front(announced)
        file = self.store.receive(ds.SOPInstanceUID)
        file.write([front, encoded(ds)])
        file.keep()
        return Receipt(
            spare=file.spare,
            path=file.path,
            start=len(front),
            sop_instance_uid=ds.SOPInstanceUID,
            sop_class_uid=ds.SOPClassUID,
            transfer_syntax_uid=syntax,
            association=association,
            calling_ae="CT1",
            peer_name="ct",
            address="127.0.0.1",
            opened_at=NOW.isoformat(),
            received_at=NOW.isoformat(),
        )

    def promise(self, *objects: Dataset, association: str = "a") -> list[Receipt]:
        """Keep and promise objects; nothing files them, as if the process were killed."""
        receipts = [self.keep(ds, association) for ds in objects]
        for receipt in receipts:
            self.journal.append(receipt.to_bytes(), lambda _sequence: None)
        return receipts

    def rows(self, table: sa.Table = INSTANCES) -> list[Any]:
        with self.index.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.id)).all())

    def journaled(self) -> list[Receipt]:
        """Return what the journal says, as another process reads it."""
        return [Receipt.from_bytes(b) for _, b in Journal(self.journal.folder).open(0)]

    def files(self) -> list[str]:
        found = [p for p in (self.root / "objects").rglob("*") if p.is_file()]
        found += [p for p in (self.root / "spare").rglob("*") if p.is_file() and p.stat().st_size]
        return sorted(p.relative_to(self.root).as_posix() for p in found)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Any]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process(tmp_path))
        return made[-1]

    yield make
    for process in made:
        process.filing.stop(LONG_S)
        process.index.close()


def recovered(processes: Any) -> Process:
    process: Process = processes()
    process.recovery.recover(NOW)
    return process


def check_filed(process: Process, receipts: list[Receipt]) -> None:
    assert [row.path for row in process.rows()] == [receipt.path for receipt in receipts]
    assert process.files() == sorted(receipt.path for receipt in receipts)
    for receipt, row in zip(receipts, process.rows(), strict=True):
        assert row.sop_instance_uid == receipt.sop_instance_uid
        assert process.store.read_path(row.path).stat().st_size == row.size_bytes


def test_promised_is_filed_at_the_next_start_once(processes: Any) -> None:
    """Killed before anything was filed; and a second restart changes nothing."""
    receipts = recovered(processes).promise(*[ct(n) for n in range(BATCH + 3)])
    for _ in range(2):
        process = recovered(processes)
        check_filed(process, receipts)
        (association,) = process.rows(ASSOCIATIONS)
        assert (association.outcome, association.closed_at) == ("node stopped", NOW)
        assert {row.association_id for row in process.rows()} == {association.id}


def test_unfinished_rename_is_finished(processes: Any) -> None:
    """The power went between the journal's sync and the directory's."""
    process = recovered(processes)
    receipts = process.promise(ct(1), ct(2))
    process.store.read_path(receipts[1].path).rename(process.root / receipts[1].spare)
    check_filed(recovered(processes), receipts)


def test_half_an_object_is_removed(processes: Any) -> None:
    """No answer was given; its sender will send it again."""
    process = recovered(processes)
    (receipt,) = process.promise(ct(1))
    begun = process.store.receive("1.9")
    begun.write([b"half an object"])
    check_filed(recovered(processes), [receipt])


def test_whole_object_without_answer_is_filed(processes: Any) -> None:
    """Killed between the rename and the journal: it is no stray file, and a repetition finds it."""
    process = recovered(processes)
    (receipt,) = process.promise(ct(1))
    unanswered = process.keep(ct(2))
    process.store.receive("1.9")  # as a killed process leaves it: with spare files
    process = recovered(processes)
    check_filed(process, [receipt, unanswered])
    process.promise(ct(2))
    check_filed(recovered(processes), [receipt, unanswered])


def test_promised_file_that_is_gone_is_told(
    processes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is made up; the others are filed."""
    process = recovered(processes)
    receipts = process.promise(ct(1), ct(2), ct(3))
    process.store.read_path(receipts[1].path).unlink()
    check_filed(recovered(processes), [receipts[0], receipts[2]])
    (record,) = [r for r in caplog.records if r.message == "instance.lost"]
    assert record.__dict__["path"] == receipts[1].path


def end_before_removal(processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recover, and end the process between the row and the removal of the second file."""

    def end(_store: ObjectStore, _path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "remove_repetition", end)
        with pytest.raises(KeyboardInterrupt):
            recovered(processes)


def test_repetition_leaves_one_copy_wherever_the_process_ends(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes twice; killed between the row and the removal of the second file."""
    first, _second = recovered(processes).promise(ct(1), ct(1))
    end_before_removal(processes, monkeypatch)
    assert len(processes().files()) == 2
    check_filed(recovered(processes), [first])


def test_repetition_that_cannot_be_read_holds_up_no_start(
    processes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash kept it from being removed, and then its sector went bad: it is told, and left."""
    first, second = recovered(processes).promise(ct(1), ct(1))
    end_before_removal(processes, monkeypatch)
    path = processes().store.read_path(second.path)
    path.unlink()
    path.mkdir()
    assert [row.path for row in recovered(processes).rows()] == [first.path]
    (record,) = [r for r in caplog.records if r.message == "instance.unreadable"]
    assert record.__dict__["path"] == second.path


def test_repetition_takes_the_place_of_a_copy_that_is_gone(processes: Any) -> None:
    """A damaged disk lost the file: who sends it again mends that."""
    process = recovered(processes)
    (first,) = process.promise(ct(1))
    process = recovered(processes)
    process.store.read_path(first.path).unlink()
    (second,) = process.promise(ct(1))
    check_filed(recovered(processes), [second])


def test_unreadable_file_holds_up_no_start(
    processes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad sector, say: it is told, the node starts and files the rest."""
    process = recovered(processes)
    receipts = process.promise(ct(1), ct(2))
    path = process.store.read_path(receipts[0].path)
    path.unlink()
    path.mkdir()
    process = recovered(processes)
    assert [row.path for row in process.rows()] == [receipts[1].path]
    assert [r for r in caplog.records if r.message == "instance.lost"]


@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_file_server_that_is_away_makes_no_object_lost(
    processes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """The database is reachable again before the files are: what was promised waits for them."""
    receipts = recovered(processes).promise(ct(1), ct(2))

    def away(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "content", away)
        with pytest.raises(StorageFullError, match="data folder is away"):
            recovered(processes)
    check_filed(recovered(processes), receipts)
    assert not [r for r in caplog.records if r.message == "instance.lost"]


def test_process_short_of_descriptors_makes_no_object_lost(
    processes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many peers at a time take them all: that a file cannot be opened says nothing of it."""
    receipts = recovered(processes).promise(ct(1), ct(2))

    def short(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "content", short)
        with pytest.raises(StorageFullError, match="cannot be read") as raised:
            recovered(processes)
    assert "limit of open files" in raised.value.hint
    check_filed(recovered(processes), receipts)
    assert not [r for r in caplog.records if r.message == "instance.lost"]


def test_folder_that_is_not_mounted_makes_no_object_lost(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is absent then, and so is the folder of all."""
    receipts = recovered(processes).promise(ct(1), ct(2))
    process = processes()
    objects = process.root / ObjectStore.OBJECTS
    elsewhere = process.root / "elsewhere"
    begin = ObjectStore.sync_names

    def unmount(store: ObjectStore) -> None:
        begin(store)
        objects.rename(elsewhere)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "sync_names", unmount)
        patch.setattr(Recovery, "_unpromised", lambda *_args: [])
        with pytest.raises(StorageFullError, match="data folder is away"):
            process.recovery.recover(NOW)
    elsewhere.rename(objects)
    check_filed(recovered(processes), receipts)


def test_sender_waits_for_a_stuck_database_but_not_for_ever(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the backlog: refused for now, whoever comes is sent away, and stop is not held up."""
    monkeypatch.setattr("node.filing.BACKLOG", 2)
    monkeypatch.setattr("node.filing.LONGEST_WAIT_S", 0.2)
    process = recovered(processes)
    carrier = Carrier()
    for number in range(2):
        process.filing.promise(process.keep(ct(number)), carrier)
    receipt = process.keep(ct(2))
    with pytest.raises(StorageFullError, match="wait for the database"):
        process.filing.promise(receipt, carrier)
    assert "wait for the database" in process.filing.why_closed()
    assert [r.sop_instance_uid for r in process.journaled()] == [f"1.2.826.0.1.{n}" for n in (0, 1)]


def test_segments_are_forgotten_when_filed(processes: Any) -> None:
    """The journal does not grow; what it knew of renames is synced first."""
    process = recovered(processes)
    process.promise(ct(1))
    recovered(processes)
    assert list((process.root / "journal-node").iterdir()) == []


def test_filing_goes_on_when_the_disk_is_well_again(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full database delays rows and loses none; an association closes after its objects."""
    process = recovered(processes)
    is_full, tried = threading.Event(), threading.Event()
    add = InstanceBook.add_instances

    def add_instances(book: InstanceBook, *arguments: Any) -> Any:
        tried.set()
        if is_full.is_set():
            raise StorageFullError("full")
        return add(book, *arguments)

    monkeypatch.setattr(InstanceBook, "add_instances", add_instances)
    is_full.set()
    process.filing.start()
    carrier, closed = Carrier(), threading.Event()
    receipts = [process.keep(ct(n)) for n in range(3)]
    for receipt in receipts:
        process.filing.promise(receipt, carrier)
    process.filing.end(carrier, AssociationOutcome.RELEASED, NOW, closed.set)
    assert tried.wait(LONG_S)
    assert not closed.is_set()
    is_full.clear()
    assert closed.wait(LONG_S)
    check_filed(process, receipts)
    assert dict(carrier.counts) == {"stored": 3, "replaced": 0}
    (association,) = process.rows(ASSOCIATIONS)
    assert association.outcome == "released"


def test_object_that_the_database_refuses_holds_up_no_other(
    processes: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One row out of many is impossible: it is told, the others are filed."""
    process = recovered(processes)
    receipts = process.promise(*[ct(n) for n in range(5)])
    add = InstanceBook.add_instances

    def add_instances(book: InstanceBook, arrivals: Any, filed: Any) -> Any:
        if any(one.header.sop_instance_uid == receipts[3].sop_instance_uid for one in arrivals):
            raise UnfitObjectError("no")
        return add(book, arrivals, filed)

    monkeypatch.setattr(InstanceBook, "add_instances", add_instances)
    process = recovered(processes)
    assert [row.path for row in process.rows()] == [
        r.path for n, r in enumerate(receipts) if n != 3
    ]
    assert [r for r in caplog.records if r.message == "instance.not_filed"]
