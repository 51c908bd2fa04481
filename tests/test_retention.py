"""What retention removes, and above all what it does not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.config import RetentionSection
from node.disk import DiskCalls, DiskRoom
from node.errors import ConfigError
from node.index import Index
from node.index.case_rows import DELIVERIES, HISTORY, RECEIPTS, REVISIONS
from node.index.cases import CaseBook
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.instances import InstanceBook, patient_key_of
from node.index.removable import Kept
from node.index.removals import RemovalBook
from node.index.states import DeliveryState
from node.index.tables import ASSOCIATIONS, SERIES_CARRIED
from node.retention import Survey
from node.retention_section import RetentionSection as Section
from tests.nodes import run_hilum
from tests.owed_results import proposal
from tests.postgres import PostgresServer
from tests.shelf import DAYS, Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    yield Shelf(tmp_path, index)
    index.close()


def kept(survey: Survey) -> dict[str, int]:
    """Return how many patients stay for each reason, but for the one with the newest object."""
    return {t.kept.name: t.units for t in survey.objects if t.kept is not Kept.NEWEST}


def newcomer(shelf: Shelf) -> None:
    """Receive somebody else today: the newest object of the node."""
    shelf.store("NEW", "1")


def test_nothing_is_removed_unless_configured(shelf: Shelf) -> None:
    """Retention is off by default: however old everything is."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=5000)
    newcomer(shelf)
    done = shelf.retention(RetentionSection(keep_history_days=None)).run()
    assert (done.counts, shelf.objects_of("A"), len(shelf.files("results"))) == ({}, 2, 3)


def test_delivered_patient_goes_when_its_time_is_over(shelf: Shelf) -> None:
    """Rows, files and results go together; the case, its history and its numbers stay."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS - 1)
    newcomer(shelf)
    keeper = shelf.retention()
    assert keeper.run().counts == {}
    shelf.clock.advance(days=1.1)
    done = keeper.run()
    assert done.counts == {"results": 1, "objects": 1}
    assert done.freed_bytes == 2 * 1000 + 5000 + 9000
    assert shelf.objects_of("A") == 0
    assert shelf.files("results") == ["results/a/1/out/metrics.json"]
    assert len(shelf.files("objects")) == shelf.objects_of("NEW") == 1
    case = CaseBook(shelf.index).case("a")
    assert case is not None
    assert [page["state"] for page in case.history][-1] == "delivered"
    told = RemovalBook(shelf.index).removed_of("a", patient_key_of(shelf.header("A", "1")))
    assert [(one.kind, one.because) for one in told] == [("results", "age"), ("objects", "age")]
    assert shelf.count(REVISIONS, REVISIONS.c.job == "{}") == 1
    assert keeper.run().counts == {}


def carried_again(shelf: Shelf) -> None:
    shelf.clock.advance(days=DAYS - 1)
    assert shelf.store("A", "1")
    shelf.clock.advance(days=2 - DAYS)


def another_revision(shelf: Shelf, *, settled: bool) -> None:
    shelf.compute("A", "a", "f2")
    if settled:
        shelf.settle("a")


def change(shelf: Shelf, table: sa.Table, **values: object) -> None:
    with shelf.index.begin() as connection:
        connection.execute(table.update().values(**values))


def ask_archive(shelf: Shelf, table: sa.Table) -> None:
    """Leave a question or a fetch of the patient open."""
    known = {c.name: "" for c in table.columns if isinstance(c.type, sa.String | sa.Text)}
    flags = {c.name: False for c in table.columns if isinstance(c.type, sa.Boolean)}
    key = patient_key_of(shelf.header("A", "1"))
    row = {**known, **flags, "patient_key": key, "state": "open", "attempts": 0}
    with shelf.index.begin() as connection:
        connection.execute(table.insert().values(**row))


def observe(shelf: Shelf, **changes: object) -> None:
    key = patient_key_of(shelf.header("A", "1"))
    found = replace(proposal("b"), **changes)  # type: ignore[arg-type]
    CaseBook(shelf.index).observe(key, [found], {"b": "{}"}, shelf.clock())


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (carried_again, "YOUNG"),
        (lambda s: s.store("A", "3"), "YOUNG"),
        (lambda s: s.store("A", "1", closes=False), "YOUNG"),
        (lambda s: another_revision(s, settled=False), "AT_WORK"),
        (lambda s: another_revision(s, settled=True), "YOUNG"),
        (lambda s: observe(s, waiting_for=("MR",)), "AT_WORK"),
        (lambda s: observe(s), "AT_WORK"),
        (lambda s: change(s, DELIVERIES, state="committing"), "NOT_DELIVERED"),
        (lambda s: change(s, DELIVERIES, state="pending"), "NOT_DELIVERED"),
        (lambda s: change(s, DELIVERIES, state="undelivered"), "UNFINISHED"),
        (lambda s: observe(s, rejection="no target"), "UNFINISHED"),
        (lambda s: ask_archive(s, QUESTIONS), "FETCHED"),
        (lambda s: ask_archive(s, FETCHES), "FETCHED"),
        (lambda s: s.store("B", "9", modality="RTSTRUCT", series_instance_uid="1.B",
                           referenced_series_uid="1.A"), "SHARED"),
    ],
)  # fmt: skip
def test_patient_stays_while_anything_needs_its_objects(
    shelf: Shelf, trouble: Callable[[Shelf], object], reason: str
) -> None:
    """Bullet 6: never what is not delivered and committed, nor what a case could still use."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    trouble(shelf)
    newcomer(shelf)
    keeper = shelf.retention()
    before = shelf.files("objects")
    assert kept(keeper.survey()).pop(reason) == 1
    assert keeper.run().counts.get("objects", 0) == 0
    assert shelf.files("objects") == before


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_unfinished_and_orphaned_patients_have_a_time_of_their_own(
    backend: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    """Rejected, undelivered, and without a case: kept longer, then removed; on both databases."""
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    index = Index(url if backend == "sqlite" else postgres.database())
    index.create()
    shelf = Shelf(tmp_path, index)
    shelf.store("O", "1")
    shelf.store("U", "1")
    shelf.compute("U", "u")
    shelf.settle("u", DeliveryState.UNDELIVERED)
    shelf.delivered("D", "d")
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    keeper = shelf.retention()
    assert kept(keeper.survey()) == {"NO_CASE": 2, "UNFINISHED": 1, "DUE": 1}  # O and NEW
    keeper.run()
    assert (shelf.objects_of("O"), shelf.objects_of("U"), shelf.objects_of("D")) == (1, 1, 0)
    assert "results/u/1/out/RTSTRUCT.dcm" in shelf.files("results")
    shelf.clock.advance(days=DAYS)
    keeper.run()
    assert shelf.objects_of("O") == shelf.objects_of("U") == 0
    assert "results/u/1/out/RTSTRUCT.dcm" not in shelf.files("results")
    index.close()


def test_results_that_nobody_got_are_not_removed_as_delivered(shelf: Shelf) -> None:
    """A case without destination is called delivered; its results lie here and nowhere else."""
    shelf.store("A", "1")
    shelf.compute("A", "a", has_destination=False)
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    case = CaseBook(shelf.index).case("a")
    assert case is not None
    assert case.state == "delivered"
    shelf.retention().run()
    shelf.retention(RetentionSection(make_room_below_mib=9e6)).run()
    assert "results/a/1/out/RTSTRUCT.dcm" in shelf.files("results")
    shelf.clock.advance(days=DAYS)
    shelf.retention().run()
    assert "results/a/1/out/RTSTRUCT.dcm" not in shelf.files("results")


def test_patient_with_the_newest_object_stays(shelf: Shelf) -> None:
    """SQLite would give the next object the same row id, and no case would be looked at for it."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    keeper = shelf.retention()
    assert [t.kept for t in keeper.survey().objects] == [Kept.NEWEST]
    keeper.run()
    row = InstanceBook(shelf.index).patient_keys_since(0)[1]
    newcomer(shelf)
    keeper.run()
    assert shelf.objects_of("A") == 0
    assert InstanceBook(shelf.index).patient_keys_since(row)[0]


def test_removed_object_that_comes_again_is_new(shelf: Shelf) -> None:
    """What was promised anew is kept anew, and forms cases anew."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    shelf.retention().run()
    book = InstanceBook(shelf.index)
    row = book.patient_keys_since(0)[1]
    shelf.store("A", "1")
    assert shelf.objects_of("A") == 1
    assert book.patient_keys_since(row)[0] == {patient_key_of(shelf.header("A", "1"))}
    shelf.retention().run()
    assert shelf.objects_of("A") == 1


def test_removal_broken_off_after_the_index_is_finished_at_the_next_start(shelf: Shelf) -> None:
    """A crash between rows and files leaves files, never rows; the files go before anything."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    book, keeper = RemovalBook(shelf.index), shelf.retention()
    cutoffs = keeper._cutoffs("objects", "age", shelf.clock())
    key = patient_key_of(shelf.header("A", "1"))
    assert book.remove_patient(key, cutoffs, "age", shelf.clock()) is not None
    assert book.remove_results("results", "a", 1, cutoffs, "age", shelf.clock()) is not None
    assert len(shelf.files("objects")) == 3  # here the process dies
    assert shelf.retention().finish_unfinished() == 2
    assert len(shelf.files("objects")) == 1
    assert shelf.files("results") == ["results/a/1/out/metrics.json"]
    assert shelf.retention().finish_unfinished() == 0


def test_patient_that_comes_again_meanwhile_is_not_removed(shelf: Shelf) -> None:
    """Between being found and being removed an association brought the objects once more."""
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    book, keeper = RemovalBook(shelf.index), shelf.retention()
    cutoffs = keeper._cutoffs("objects", "age", shelf.clock())
    (key,) = book.patients_due(cutoffs, 10)
    shelf.store("A", "1", closes=False)
    assert book.remove_patient(key, cutoffs, "age", shelf.clock()) is None
    assert shelf.objects_of("A") == 2


def test_room_is_made_of_views_first_then_results_then_objects(shelf: Shelf) -> None:
    """Oldest first, no more than needed, and nothing younger than `least_days`."""
    for number, patient in enumerate("ABC"):
        shelf.delivered(patient, patient.lower())
        shelf.clock.advance(days=10 if number < 2 else 31)
    shelf.delivered("Y", "y")
    newcomer(shelf)
    base_mib = 10_000.0

    def room(_path: Path) -> DiskRoom:
        used = sum(p.stat().st_size for p in shelf.root.rglob("*") if p.is_file() and
                   p.suffix in (".dcm", ".bricks"))  # fmt: skip
        return DiskRoom(int(base_mib * (1 << 20)) - used, 1 << 40)

    shelf.disk = DiskCalls(room=room)

    def run_until_free(lacking_bytes: int) -> dict[str, int]:
        wanted = (room(shelf.root).free_bytes + lacking_bytes) / (1 << 20)
        return shelf.retention(RetentionSection(make_room_below_mib=wanted)).run().counts

    assert run_until_free(9_500) == {"view": 2}
    assert [f for f in shelf.files("results") if "view" in f] == [
        "results/c/1/view/ct.bricks",
        "results/y/1/view/ct.bricks",
    ]
    assert run_until_free(9_000 + 1) == {"view": 1, "results": 1}
    assert "results/a/1/out/RTSTRUCT.dcm" not in shelf.files("results")
    assert "results/b/1/out/RTSTRUCT.dcm" in shelf.files("results")
    assert run_until_free(10_000 + 1) == {"results": 2, "objects": 1}
    assert [shelf.objects_of(p) for p in "ABCY"] == [0, 2, 2, 2]
    assert run_until_free(1 << 30) == {"objects": 2}
    assert [shelf.objects_of(p) for p in "ABCY"] == [0, 0, 0, 2]
    assert "results/y/1/view/ct.bricks" in shelf.files("results")


def test_lack_of_room_that_nothing_can_mend_is_told(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk of undelivered cases: nothing goes, and the log says where to look."""
    shelf.store("U", "1")
    shelf.compute("U", "u")
    shelf.settle("u", DeliveryState.UNDELIVERED)
    shelf.clock.advance(days=5000)
    newcomer(shelf)
    keeper = shelf.retention(RetentionSection(make_room_below_mib=9e6, keep_history_days=None))
    with caplog.at_level("INFO"):
        assert keeper.run().counts == {}
    assert [r.message for r in caplog.records if r.name == "node.retention"] == [
        "retention.no_room"
    ]
    assert keeper.survey().is_short


def test_history_of_what_rests_is_pruned_and_nothing_else(shelf: Shelf) -> None:
    """Nothing grows without bound; of work that goes on, and of what is kept, nothing is lost."""
    shelf.delivered("A", "a")
    shelf.store("W", "1")
    shelf.compute("W", "w")
    shelf.clock.advance(days=DAYS + 1)
    newcomer(shelf)
    shelf.retention().run()
    assert shelf.count(RECEIPTS) == 1
    shelf.clock.advance(days=500)
    shelf.retention().run()
    pages = shelf.count(HISTORY, HISTORY.c.case_id == "a")
    assert (pages, shelf.count(HISTORY, HISTORY.c.case_id == "w")) == (1, 3)
    shelf.retention().run()
    assert shelf.count(RECEIPTS) == 0
    assert shelf.count(ASSOCIATIONS) == shelf.count(SERIES_CARRIED) == 0
    assert shelf.objects_of("W") == shelf.objects_of("NEW") == 1
    case = CaseBook(shelf.index).case("a")
    assert case is not None
    assert case.state == "delivered"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("keep_objects_days = 0.5", "keep_objects_days"),
        ("keep_history_days = 3.0", "keep_history_days"),
        ("make_room_below_mib = 500.0", "node.min_free_mib"),
        ("make_room_below_mib = 5000.0\nkeep_results_days = 10.0", "least_days"),
    ],
)
def test_contradictory_retention_is_refused(tmp_path: Path, keys: str, words: str) -> None:
    """The node does not start with a rule that would remove too soon, or never."""
    from node.config import read_config

    text = '[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n\n[retention]\n' + keys
    (tmp_path / "hilum.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "hilum.toml")


def test_command_tells_what_would_go_and_removes_it(tmp_path: Path) -> None:
    """`hilum retention --dry-run` says what and why not; without it the same is removed."""
    index = Index(f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}")
    index.create()
    shelf = Shelf(tmp_path / "data", index)
    shelf.clock.now -= timedelta(days=3000)  # long before the clock of the command
    shelf.delivered("A", "a")
    shelf.store("O", "1")
    newcomer(shelf)
    config = tmp_path / "hilum.toml"
    keys = "[node]\nmin_free_mib = 1\n[retention]\nkeep_objects_days = 30\nkeep_results_days = 30\n"
    config.write_text(keys + '[[protocol]]\nname = "p"\ntargets = ["GTV*"]\ndestinations = []\n')
    config.write_text(config.read_text().replace("min_free", 'data = "data"\nmin_free'))
    told = run_hilum("retention", "--dry-run", "--config", str(config))
    assert told.returncode == 0, told.stderr
    assert "patients 1 2 0 may be removed" in " ".join(told.stdout.split())
    assert "belongs to no case" in told.stdout
    assert shelf.objects_of("A") == 2
    done = run_hilum("retention", "--config", str(config))
    assert "removed: results of 1, objects of 1" in done.stdout, done.stderr
    assert (shelf.objects_of("A"), shelf.objects_of("O")) == (0, 1)
    index.close()


def test_section_says_whether_anything_is_ever_removed() -> None:
    """The page and the doctor ask this."""
    assert not Section().removes
    assert Section(keep_results_days=10.0).removes
    assert Section(make_room_below_mib=5000.0).removes
