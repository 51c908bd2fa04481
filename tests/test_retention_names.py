"""When names go, and cases: what is left of a patient then, and what objects do that come later."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from node.audit.events import AuditEvent
from node.config import Config, NodeSection, Protocol
from node.disk import DiskCalls, DiskRoom
from node.errors import ConfigError
from node.index import Index
from node.index.case_list_rows import CASE_WORDS
from node.index.case_rows import CASES, HISTORY, REVISIONS
from node.index.cases import CaseBook, CaseRecord
from node.index.deliveries import DeliveryBook
from node.index.instances import Arrival, InstanceBook, patient_key_of
from node.index.removals import RemovalBook
from node.index.runs import RevisionKey, RunBook
from node.index.states import CaseState, DeliveryState
from node.index.tables import METADATA
from node.retention import Retention
from node.retention_section import RetentionSection
from node.schedule import Schedule
from node.storage import StoredFile
from node.workflow import Workflow
from tests.bench.grown_index import Pattern, newcomer, pattern
from tests.owed_results import Clock
from tests.postgres import PostgresServer

PATIENT, LATER = 7, 8
"""Numbers of patients."""

NAMES_DAYS, CASES_DAYS = 100.0, 200.0
RULES = RetentionSection(
    keep_objects_days=30.0,
    keep_results_days=30.0,
    keep_unfinished_days=60.0,
    keep_names_days=NAMES_DAYS,
    keep_cases_days=CASES_DAYS,
)
MARKS = (f"grown-{PATIENT}", f"grown^case{PATIENT}", f"case{PATIENT}")
"""What tells of the patient, in lower case."""


class Ward:
    """Receives, assembles and removes as the node does; computing and delivering are done at once.

    Args:
        root: The data folder.
        url: Of the index.
        one: What a case is made of.
    """

    def __init__(self, root: Path, url: str, one: Pattern) -> None:
        self.root, self.one, self.clock = root, one, Clock()
        protocol = Protocol(name="liver", targets=("GTV*",))
        self.config = Config(
            node=NodeSection(data=root, quiet_s=0.0), protocol=(protocol,), retention=RULES
        )
        self.index = Index(url)
        self.index.create()
        self.told: list[AuditEvent] = []
        self.schedule = Schedule(self.config, self.index, cast(Workflow, None), self.clock)
        self.schedule.resume()
        disk = DiskCalls(room=lambda _path: DiskRoom(1 << 40, 1 << 41))
        self.retention = Retention(self.config, self.index, self.clock, disk, self.told.append)

    def receive(self, arrivals: list[Arrival]) -> None:
        """Take objects, look, compute and deliver what is ready."""
        for one in arrivals:
            path = self.root / one.stored_file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        InstanceBook(self.index).add_instances(arrivals)
        self.clock.advance(minutes=1)
        self.schedule.look()
        runs, deliveries = RunBook(self.index), DeliveryBook(self.index)
        for key in runs.due(self.clock()):
            begun = runs.begin(key, self.clock())
            assert begun is not None
            out = self.root / "results" / key.case_id / str(key.revision) / "out"
            out.mkdir(parents=True)
            (out / "metrics.json").write_text("{}")
            (out / "SR.dcm").write_bytes(b"")
            paths = {f"9.{key.revision}": (str(out / "SR.dcm"), "report")}
            give_up = timedelta(days=3)
            to = {"tps": ("report",)}
            runs.adopt(begun.key, paths, {}, to, give_up, self.clock())  # type: ignore[arg-type]
        for owed in deliveries.due(self.clock()):
            attempt = deliveries.begin(owed)
            assert attempt is not None
            deliveries.settle(attempt, DeliveryState.DELIVERED, "", self.clock())

    def patient(self, number: int) -> list[Arrival]:
        """Return the objects of a patient, as they come now."""
        return newcomer(self.one, number, self.clock())

    def late_mr(self, number: int) -> Arrival:
        """Return one more MR of a patient, of a series that was not there before."""
        (mr, *_rest) = [a for a in self.patient(number) if a.header.modality == "MR"]
        changes = {"sop_instance_uid": "5.1", "series_instance_uid": "5", "study_instance_uid": "5"}
        stored = StoredFile("objects/late/1.dcm", "f" * 64, 100)
        return replace(mr, header=replace(mr.header, **changes), stored_file=stored)

    def rest(self, days: float) -> set[str]:
        """Let days pass, in which somebody else comes, and tidy up; return the kinds that went."""
        self.clock.advance(days=days)
        self.receive(self.patient(1000 + int(self.clock().timestamp())))
        done = self.retention.run()
        while done.is_more_due:
            done = self.retention.run()
        return set(done.counts)

    def case(self) -> CaseRecord:
        """Return the oldest case."""
        with self.index.read() as connection:
            oldest = connection.scalars(sa.select(CASES.c.case_id).order_by(CASES.c.created_at))
            found = CaseBook(self.index).case(oldest.first() or "")
        assert found is not None
        return found

    def rows(self) -> dict[str, list[str]]:
        """Return every row of every table, as text."""
        with self.index.read() as connection:
            return {
                table.name: [str(tuple(row)).casefold() for row in connection.execute(query)]
                for table in METADATA.sorted_tables
                for query in [sa.select(table)]
            }

    def tables_with(self, *marks: str) -> set[str]:
        """Return the tables in which any of some words stands."""
        return {
            name
            for name, rows in self.rows().items()
            if any(mark in row for row in rows for mark in marks)
        }


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Pattern:
    protocol = Protocol(name="liver", targets=("GTV*",))
    return pattern(tmp_path_factory.mktemp("pattern"), Config(protocol=(protocol,)))


@pytest.fixture
def ward(tmp_path: Path, one: Pattern) -> Iterator[Ward]:
    found = Ward(tmp_path, f"sqlite:///{tmp_path / 'index.sqlite'}", one)
    yield found
    found.index.close()


@pytest.fixture
def shared_ward(tmp_path: Path, one: Pattern, postgres: PostgresServer) -> Iterator[Ward]:
    found = Ward(tmp_path, postgres.database(), one)
    yield found
    found.index.close()


@pytest.mark.parametrize("kind", ["ward", "shared_ward"])
def test_names_and_then_cases_go_and_nothing_of_them_is_left(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """A data-protection officer asks: after that time, where does this patient still stand?"""
    ward: Ward = request.getfixturevalue(kind)
    ward.receive(ward.patient(PATIENT))
    case = ward.case()
    key = patient_key_of(ward.patient(PATIENT)[0].header)
    assert case.state is CaseState.DELIVERED
    assert ward.tables_with(*MARKS) == {"instances", "cases", "case_words"}
    ward.rest(days=NAMES_DAYS - 1)  # objects and results are gone, names not yet
    assert ward.tables_with(*MARKS) == {"cases", "case_words"}
    assert ward.retention.survey().names_due == 0
    assert ward.rest(days=2) == {"names"}
    assert ward.tables_with(*MARKS, key) == set()
    left = ward.case()
    assert (left.case_id, left.state, left.history) == (case.case_id, case.state, case.history)
    assert (ward.root / "results" / case.case_id / "1" / "out" / "metrics.json").exists()
    with ward.index.read() as connection:
        row = connection.execute(sa.select(CASES).where(CASES.c.case_id == case.case_id)).one()
    told = RemovalBook(ward.index).removed_of(case.case_id, row.patient_key)
    assert [one.kind for one in told] == ["results", "objects", "names"]
    assert ward.tables_with(case.structure_set_uid) >= {"cases", "case_words"}
    assert "cases" in ward.rest(days=CASES_DAYS - NAMES_DAYS)
    assert ward.tables_with(*MARKS, key, case.case_id, case.structure_set_uid) == set()
    assert not (ward.root / "results" / case.case_id).exists()
    actions = [e.what["action"] for e in ward.told if e.what.get("case_id") == case.case_id]
    assert actions == ["retention by age", "names removed by age", "case removed by age"]


def test_names_that_went_stand_in_no_page_of_the_file(tmp_path: Path, one: Pattern) -> None:
    """SQLite leaves what was deleted where it was, unless it is told otherwise."""
    ward = Ward(tmp_path, f"sqlite:///{tmp_path / 'index.sqlite'}", one)
    old_copy = tmp_path / "index.sqlite.version-2"
    old_copy.write_bytes(b"names")
    ward.receive(ward.patient(PATIENT))
    ward.clock.advance(days=20_000)  # the copy has the time of the machine
    ward.rest(days=NAMES_DAYS + 1)
    ward.index.close()
    content = (tmp_path / "index.sqlite").read_bytes().lower()
    assert f"case{PATIENT}".encode() not in content
    assert b"grown" in content  # the newcomer's
    assert not old_copy.exists()


def test_late_mr_of_a_patient_whose_names_are_gone_changes_no_case(ward: Ward) -> None:
    """It waits for a planning CT and structures like any MR that came first; the old case rests."""
    ward.receive(ward.patient(PATIENT))
    ward.rest(days=NAMES_DAYS + 1)
    before, cases = ward.case(), len(CaseBook(ward.index).cases())
    ward.receive([ward.late_mr(PATIENT)])
    assert ward.case() == before
    assert len(CaseBook(ward.index).cases()) == cases
    assert ward.tables_with(MARKS[0]) == {"instances"}


def test_patient_who_comes_again_after_the_names_went_goes_on_under_the_old_case(
    ward: Ward,
) -> None:
    """The same structure set is the same case: named again, and computed with the late MR."""
    ward.receive(ward.patient(PATIENT))
    before = ward.case()
    ward.rest(days=NAMES_DAYS + 1)
    ward.receive([*ward.patient(PATIENT), ward.late_mr(PATIENT)])
    after = ward.case()
    assert (after.case_id, after.revision) == (before.case_id, before.revision + 1)
    assert after.state is CaseState.DELIVERED
    assert ward.tables_with(MARKS[0]) == {"instances", "cases", "case_words"}
    ward.rest(days=NAMES_DAYS + 1)
    assert ward.tables_with(*MARKS) == set()


def test_patient_who_comes_again_unchanged_is_computed_again(ward: Ward) -> None:
    """The results went with the names: whoever sends the objects again wants them."""
    ward.receive(ward.patient(PATIENT))
    ward.rest(days=NAMES_DAYS + 1)
    ward.receive(ward.patient(PATIENT))
    after = ward.case()
    assert (after.revision, after.state) == (2, CaseState.DELIVERED)
    assert ward.tables_with(MARKS[0]) == {"instances", "cases", "case_words"}


def test_patient_who_comes_again_after_the_case_went_is_a_new_case(ward: Ward) -> None:
    """Nothing is known of the old one; it is computed from its beginning."""
    ward.receive(ward.patient(PATIENT))
    old = ward.case()
    ward.rest(days=CASES_DAYS + 1)
    ward.rest(days=1)
    ward.receive(ward.patient(PATIENT))
    new = CaseBook(ward.index).case(old.case_id)
    assert new is not None
    assert (new.revision, new.state) == (1, CaseState.DELIVERED)
    assert new.created_at > old.created_at
    assert (ward.root / "results" / old.case_id / "1" / "out" / "SR.dcm").exists()


def test_names_stay_while_anything_of_the_patient_is_here_or_at_work(ward: Ward) -> None:
    """Names stand in the objects, too: they go together, or not at all."""
    ward.receive(ward.patient(PATIENT))
    ward.clock.advance(days=NAMES_DAYS - 1)
    ward.receive([ward.late_mr(PATIENT)])
    ward.rest(days=2)
    assert ward.tables_with(MARKS[0]) == {"instances", "cases", "case_words"}
    ward.rest(days=30)
    assert ward.tables_with(MARKS[0]) == set()
    ward.receive(ward.patient(LATER))
    with ward.index.begin() as connection:
        is_theirs = CASES.c.patient_name.like(f"%{LATER}")
        connection.execute(CASES.update().where(is_theirs).values(state=CaseState.WAITING))
    ward.rest(days=CASES_DAYS + 1)
    assert ward.retention.survey().cases_due == 0
    assert "cases" in ward.tables_with(f"grown-{LATER}")


def test_revision_that_left_no_results_keeps_no_names(ward: Ward) -> None:
    """Unfit at first, delivered when it was retried: of the first there is nothing to remove."""
    ward.retention = Retention(
        ward.config.model_copy(
            update={"retention": RULES.model_copy(update={"keep_unfinished_days": None})}
        ),
        ward.index,
        ward.clock,
        DiskCalls(room=lambda _path: DiskRoom(1 << 40, 1 << 41)),
    )
    reject = RunBook.reject

    def unfit(book: RunBook, key: RevisionKey, *_results: object) -> bool:
        return reject(book, key, ["unfit"], ward.clock())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunBook, "adopt", unfit)
        ward.receive(ward.patient(PATIENT))
    assert ward.case().state is CaseState.REJECTED
    CaseBook(ward.index).ask_again(ward.case().case_id, ward.clock())
    ward.receive([])
    assert (ward.case().state, ward.case().revision) == (CaseState.DELIVERED, 2)
    ward.rest(days=NAMES_DAYS + 1)
    ward.rest(days=1)
    assert ward.tables_with(MARKS[0]) == set()


def test_patient_forgotten_meanwhile_needed_is_left(ward: Ward) -> None:
    """Between being found and being forgotten an object came."""
    from node.index.forgetting import ForgettingBook

    ward.receive(ward.patient(PATIENT))
    ward.rest(days=NAMES_DAYS - 1)
    ward.clock.advance(days=2)
    book, before = ForgettingBook(ward.index), ward.clock() - timedelta(days=NAMES_DAYS)
    (key,) = book.names_due(before, 10)
    ward.receive([ward.late_mr(PATIENT)])
    assert book.forget_names(key, before, ward.clock()) is None
    assert book.forget_cases(key, before) is None
    assert "cases" in ward.tables_with(MARKS[0])


def test_years_of_cases_leave_nothing_behind(ward: Ward) -> None:
    """Bullet 6: with these keys no table grows with the cases that ever were."""
    sizes = []
    for number in range(1, 7):
        ward.receive(ward.patient(number))
        ward.rest(days=450)
        sizes.append({name: len(rows) for name, rows in ward.rows().items()})
    # since the second round everything is there that ever is at one time
    assert [s for s in sizes[3:] if any(n > sizes[2][name] for name, n in s.items())] == []
    assert sizes[-1][CASES.name] <= 2
    for table in (CASE_WORDS, HISTORY, REVISIONS):
        assert sizes[-1][table.name] > 0  # the newcomer's: the tables are those in use


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("keep_names_days = 100.0", "need keep_objects_days and keep_results_days"),
        ("keep_cases_days = 100.0\nkeep_objects_days = 50.0", "need keep_objects_days and"),
        ("keep_cases_days = 10.0", "keep_cases_days"),
        (
            "keep_objects_days = 50.0\nkeep_results_days = 50.0\nkeep_names_days = 200.0\n"
            "keep_cases_days = 100.0",
            "shorter than keep_names_days",
        ),
    ],
)
def test_rule_by_which_no_name_would_ever_go_is_refused(
    tmp_path: Path, keys: str, words: str
) -> None:
    """Whoever sets a time for names must not find out years later that none went."""
    from node.config import read_config

    text = '[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n\n[retention]\n' + keys
    (tmp_path / "hilum.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "hilum.toml")
