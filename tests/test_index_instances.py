"""Associations and instances in a real SQLite database, and in a real PostgreSQL."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from node.errors import NodeError, StorageFullError, UnfitObjectError
from node.header import InstanceHeader
from node.index import Index
from node.index.case_rows import RESULTS
from node.index.instances import (
    Added,
    AssociationOutcome,
    InstanceBook,
    patient_key_of,
)
from node.index.tables import ASSOCIATIONS, INSTANCES, SCHEMA
from node.storage import StoredFile

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def sqlite_index(tmp_path: Path) -> Iterator[Index]:
    found = Index(f"sqlite:///{tmp_path / 'new' / 'index.sqlite'}")
    found.create()
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgres"])
def index(request: pytest.FixtureRequest) -> Index:
    found: Index = request.getfixturevalue(f"{request.param}_index")
    return found


@pytest.fixture
def book(index: Index) -> InstanceBook:
    return InstanceBook(index)


def header(uid: str, modality: str = "CT", series: str = "1.2", **given: Any) -> InstanceHeader:
    usual = {"patient_id": "P1", "patient_name": "MARKED^NAME"}
    return InstanceHeader(uid, "1.2.3", "1.2.4", modality, "1.1", series, **{**usual, **given})


def open_one(book: InstanceBook, node_run: str = "node") -> int:
    return book.open_association(
        calling_ae="CT1", peer_name="ct", address="10.0.0.1", opened_at=NOW, node_run=node_run
    )


def add(
    book: InstanceBook,
    one: InstanceHeader,
    content: str = "a",
    *,
    association_id: int | None = None,
    peer_name: str = "ct",
    at: datetime = NOW,
) -> Added:
    file = StoredFile(f"objects/{one.sop_instance_uid}-{content}", content, 10)
    return book.add_instance(one, file, association_id, peer_name, at)


def check_group(book: InstanceBook, one: InstanceHeader, *expected: str) -> None:
    group = book.instance_group(patient_key_of(one), {}, 60.0)
    assert [i.header.sop_instance_uid for i in group] == list(expected)


def test_object_comes_back_as_it_went_in(book: InstanceBook) -> None:
    """Assembly sees the header, where the file is, when it came, and how long to wait."""
    one = header("1.5", position_mm=(1.0, 2.0, 3.0), image_type=("A", "B"))
    association = open_one(book)
    at = NOW.astimezone(timezone(timedelta(hours=2)))
    assert add(book, one, association_id=association, at=at) == Added(True, False, "objects/1.5-a")
    (found,) = book.instance_group(patient_key_of(one), {"ct": 7.0}, 60.0)
    assert found.header == one
    assert (found.path, found.sha256, found.quiet_s) == ("objects/1.5-a", "a", 7.0)
    assert (found.received_at, found.received_at.utcoffset()) == (NOW, timedelta(0))
    assert found.association_is_open
    assert not found.replaces_other_content


def test_row_is_on_disk_when_adding_returns(sqlite_index: Index) -> None:
    """The promise of 0x0000: another process sees the row, and SQLite was told to sync it."""
    index = sqlite_index
    add(InstanceBook(index), header("1.5"))
    with index.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    other = Index(str(index.engine.url))
    with other.read() as connection:
        assert connection.scalar(sa.select(INSTANCES.c.sop_instance_uid)) == "1.5"
    other.close()


def test_same_bytes_again_change_nothing(book: InstanceBook) -> None:
    """A sender repeats itself after a lost answer."""
    one = header("1.5")
    add(book, one)
    assert add(book, one, at=NOW + timedelta(hours=1)) == Added(False, False, "objects/1.5-a")
    (found,) = book.instance_group(patient_key_of(one), {}, 60.0)
    assert found.received_at == NOW


def test_other_content_replaces_but_both_are_kept(index: Index, book: InstanceBook) -> None:
    """What was received last counts, an undo included; the other content stays."""
    one = header("1.5")
    add(book, one, "a")
    assert add(book, one, "b") == Added(True, True, "objects/1.5-b")
    _, before = book.patient_keys_since(0)
    assert add(book, one, "a") == Added(True, True, "objects/1.5-a")
    assert book.patient_keys_since(before)[0] == {patient_key_of(one)}, "an undo is news"
    (found,) = book.instance_group(patient_key_of(one), {}, 60.0)
    assert (found.sha256, found.replaces_other_content) == ("a", True)
    assert book.find_paths(["1.5", "1.6"]) == {"1.5": "objects/1.5-a"}
    with index.read() as connection:
        rows = connection.execute(sa.select(INSTANCES.c.sha256, INSTANCES.c.is_newest)).all()
    assert {tuple(row) for row in rows} == {("a", True), ("b", False)}


def test_one_newest_version_when_many_threads_add(index: Index, book: InstanceBook) -> None:
    """Several senders, one SOP instance, other content each."""
    one = header("1.5")
    start = threading.Barrier(6)
    results: list[Added] = []

    def send(content: str) -> None:
        start.wait(timeout=60)
        results.append(add(book, one, content))

    threads = [threading.Thread(target=send, args=(c,)) for c in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted((r.is_new, r.replaces_other_content) for r in results) == [
        (True, False),
        *[(True, True)] * 5,
    ]
    with index.read() as connection:
        newest = sa.select(sa.func.count()).where(INSTANCES.c.is_newest)
        assert connection.scalar(newest) == 1


def test_group_joins_what_references_join(book: InstanceBook) -> None:
    """A structure set filed under another patient is shown, so that assembly can refuse it."""
    ct = header("1.5", series="1.2")
    mr = header("1.6", "MR", "1.3")
    plan = header("1.7", "RTSTRUCT", "1.4", referenced_series_uid="1.2", patient_id="P2")
    stranger = header("1.8", "MR", "1.9", patient_id="P2")
    other_ct = header("1.10", series="1.11", patient_id="P3")
    for one in (ct, mr, plan, stranger, other_ct):
        add(book, one)
    check_group(book, ct, "1.5", "1.6", "1.7")
    check_group(book, plan, "1.5", "1.7", "1.8")
    check_group(book, other_ct, "1.10")


def test_structure_set_without_reference_joins_nobody(book: InstanceBook) -> None:
    """An empty reference must not match."""
    add(book, header("1.5"))
    add(book, header("1.6", "RTSTRUCT", "1.4", patient_id="P2"))
    check_group(book, header("1.5"), "1.5")


def test_our_own_objects_take_no_part(index: Index, book: InstanceBook) -> None:
    """Peers return our results: recognised by equipment, or by recorded UID if it was changed."""
    with index.begin() as connection:
        connection.execute(
            RESULTS.insert().values(
                case_id="c", revision=1, sop_instance_uid="1.6", path="p", output="mr"
            )
        )
    add(book, header("1.5", is_ours=True))
    add(book, header("1.6", "MR"))
    check_group(book, header("1.5"))
    assert book.patient_keys_since(0) == (set(), 2)
    assert book.all_patient_keys() == set()
    assert [book.is_known_result(u) for u in ("1.5", "1.6", "1.7")] == [True, True, False]


def test_series_is_moving_while_its_association_is_open(book: InstanceBook) -> None:
    """Also while a sender repeats what is known before it goes on with what is new."""
    one, other = header("1.5"), header("1.6", series="1.3")
    first = open_one(book)
    add(book, one, association_id=first)
    add(book, other, association_id=first)
    book.close_association(first, AssociationOutcome.ABORTED, NOW)
    second = open_one(book)
    add(book, one, association_id=second)
    add(book, one, association_id=second)
    group = book.instance_group(patient_key_of(one), {}, 60.0)
    assert [i.association_is_open for i in group] == [True, False]
    book.close_association(second, AssociationOutcome.RELEASED, NOW)
    group = book.instance_group(patient_key_of(one), {}, 60.0)
    assert not any(i.association_is_open for i in group)


def outcomes(index: Index) -> list[str | None]:
    with index.read() as connection:
        return list(connection.scalars(sa.select(ASSOCIATIONS.c.outcome).order_by("id")))


def test_first_outcome_of_an_association_counts(index: Index, book: InstanceBook) -> None:
    """An association ends once."""
    one = open_one(book)
    book.close_association(one, AssociationOutcome.CONNECTION_LOST, NOW)
    book.close_association(one, AssociationOutcome.RELEASED, NOW)
    assert outcomes(index) == ["connection lost"]


def test_abandoned_associations_are_closed_for_one_node(index: Index, book: InstanceBook) -> None:
    """A killed process must not let cases wait for ever, nor disturb its neighbours."""
    open_one(book, "a")
    open_one(book, "b")
    assert book.close_abandoned_associations("a", NOW) == 1
    assert book.close_abandoned_associations("a", NOW) == 0
    assert outcomes(index) == ["node stopped", None]


def test_changed_patients_since_a_row(book: InstanceBook) -> None:
    """Whose cases must be looked at again: also those whom a new object of another one touches."""
    ct = header("1.5", series="1.2")
    add(book, ct)
    keys, last = book.patient_keys_since(0)
    assert keys == {patient_key_of(ct)}
    assert book.patient_keys_since(last) == (set(), last)
    plan = header("1.7", "RTSTRUCT", "1.4", referenced_series_uid="1.2", patient_id="P2")
    add(book, plan)
    keys, last = book.patient_keys_since(last)
    assert keys == {patient_key_of(ct), patient_key_of(plan)}
    add(book, header("1.6", series="1.2"))
    keys, _ = book.patient_keys_since(last)
    assert keys == {patient_key_of(ct), patient_key_of(plan)}
    assert book.all_patient_keys() == keys


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"patient_id": " P1 "}, {"patient_id": "P1"}, True),
        ({"patient_id": "P1"}, {"patient_id": "p1"}, False),
        ({"patient_id": "P1", "issuer_of_patient_id": "A"}, {"patient_id": "P1"}, True),
        ({"patient_id": ""}, {"patient_id": "  "}, True),
        ({"patient_id": ""}, {"patient_id": "P1"}, False),
    ],
)
def test_patient_key(one: dict[str, str], other: dict[str, str], is_same: bool) -> None:
    """Patient ID makes a patient, whoever issued it; without one the study stands alone."""
    keys = [patient_key_of(header("1.5", **given)) for given in (one, other)]
    assert (keys[0] == keys[1]) is is_same
    assert not any("P1" in key for key in keys)


def test_patient_without_id_is_a_study() -> None:
    """Two anonymous studies must never be joined."""
    assert patient_key_of(header("1.5", patient_id="")) == "study:1.1"


def test_time_without_zone_is_refused(book: InstanceBook) -> None:
    """Local time would jump with daylight saving."""
    with pytest.raises(sa.exc.StatementError, match="without time zone"):
        add(book, header("1.5"), at=datetime(2026, 3, 1))  # noqa: DTZ001 - the mistake itself


def test_errors_of_the_database_hide_the_patient(sqlite_index: Index) -> None:
    """Exceptions reach the log."""
    with pytest.raises(UnfitObjectError) as caught, sqlite_index.begin() as connection:
        connection.execute(INSTANCES.insert().values(header="MARKED^NAME"))
    assert "MARKED" not in f"{caught.value} {caught.value.__cause__}"


def test_full_database_is_a_full_disk(sqlite_index: Index) -> None:
    """0xA700 and not a bug; and afterwards the object is welcome again."""
    index, book = sqlite_index, InstanceBook(sqlite_index)
    with index.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def limit(connection: Any, *_rest: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(index.engine, "connect", limit)
    index.engine.dispose()
    with pytest.raises(StorageFullError, match="database cannot write"):
        add(book, header("1.5", series_description="x" * 20000))
    sa.event.remove(index.engine, "connect", limit)
    index.engine.dispose()
    assert add(book, header("1.5")).is_new


def test_database_of_another_version_is_refused(sqlite_index: Index) -> None:
    """A newer or older program must not write into tables it does not know."""
    index = sqlite_index
    index.create()
    with index.begin() as connection:
        connection.execute(SCHEMA.update().values(version=99))
    with pytest.raises(NodeError, match="schema version 99"):
        index.create()
