"""Two versions of the program on one index: during an upgrade, after it, and on the way back.

With real programs of two versions: tests/bench/rolling_upgrade.py.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.__main__ import app
from node.case_job import as_computed_by, case_job, software_version
from node.compute_job import Job
from node.computing import MOST_UNREAD, Computing
from node.config import Config, NodeSection
from node.index import Index
from node.index.cases import CaseBook, CaseRecord
from node.index.heartbeats import Heartbeats, ProcessIdentity
from node.index.runs import RunBook
from node.membership import SERVE
from tests.owed_results import proposal
from tests.shown_cases import shown_page
from tests.stored_instances import LIVER, START, contours, ct, look, mr

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

UNHEARD_OF = json.dumps({"software_version": "9.9", "unheard_of": 1})
"""A job that another version has prepared, with a key that this one does not know."""


@dataclass
class Reader:
    """A process that computes, and cannot read what another version prepared."""

    index: Index
    folder: Path
    elsewhere: set[str] = field(default_factory=set)
    """Versions that other processes run."""

    def __post_init__(self) -> None:
        self.runs, self.cases = RunBook(self.index), CaseBook(self.index)
        config = Config(node=NodeSection(data=self.folder))
        self._computing = Computing(
            config, self.runs, lambda: NOW, self.folder / "work", self.elsewhere.__contains__
        )

    def observe(self) -> None:
        """Assemble the patient's case, as a schedule does."""
        self.cases.observe("p", [proposal("c1")], {"c1": UNHEARD_OF}, NOW)

    def attempt(self) -> None:
        """Try the case once, whenever it is due."""
        (key,) = self.runs.due(NOW + timedelta(days=2))
        self._computing.attempt(key)

    def case(self) -> CaseRecord:
        found = self.cases.case("c1")
        assert found is not None
        return found


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    yield Reader(index, tmp_path)
    index.close()


def test_case_that_another_version_prepared_is_left_to_one_that_knows_it(reader: Reader) -> None:
    """While machines are updated one by one; it is no failure of the case."""
    reader.elsewhere.add("9.9")
    reader.observe()
    for _ in range(MOST_UNREAD):
        reader.attempt()
    case = reader.case()
    assert (case.state, case.revision) == ("ready", 1)
    assert case.reason == f"another version of Hilum than {software_version()} has prepared it"
    assert reader.cases.patients_to_look_at() == set()
    reader.attempt()
    assert reader.cases.patients_to_look_at() == {"p"}, "not for ever: it may have been removed"


def test_case_that_nobody_can_read_is_prepared_anew(reader: Reader) -> None:
    """A department that went back to the old program, or took a step that drops a key."""
    reader.observe()
    reader.observe()
    assert reader.case().revision == 1
    reader.attempt()
    assert reader.cases.patients_to_look_at() == {"p"}
    reader.observe()
    case = reader.case()
    assert (case.state, case.revision, case.reason) == ("ready", 2, "")
    assert reader.cases.patients_to_look_at() == set()
    (key,) = reader.runs.due(NOW)
    assert (key.revision, key.attempt) == (2, 0)


@pytest.mark.parametrize("job", ["[]", '{"software_version": null}', "{}"])
def test_job_that_tells_no_version_is_prepared_anew(reader: Reader, job: str) -> None:
    """Whatever stands there, the case goes on."""
    reader.cases.observe("p", [proposal("c1")], {"c1": job}, NOW)
    reader.attempt()
    assert reader.cases.patients_to_look_at() == {"p"}


def job_of(version: str) -> Job:
    """Return the job of a case as a version would have prepared it."""
    (case,) = look(ct(), mr(), contours())
    return as_computed_by(case_job(case, LIVER, Config(), root="/", created=START), version)


def test_job_of_another_version_when_taken_is_as_if_prepared_here() -> None:
    """Results name the version that computed them; two versions never share a UID."""
    ours, theirs = job_of(software_version()), job_of("0.0.9")
    assert theirs.uid_seed != ours.uid_seed
    assert theirs.software_version == theirs.case["software_version"] == "0.0.9"
    assert as_computed_by(theirs, software_version()) == ours
    told = theirs.model_copy(update={"case": {**theirs.case, "settings": {"older": 1}}})
    assert as_computed_by(told, software_version()).case["settings"] == ours.case["settings"]


def test_processes_when_asked_for_tell_the_version_of_each(tmp_path: Path) -> None:
    """On the command line, on the page and by the API: what runs what, who is silent."""
    (tmp_path / "hilum.toml").write_text(
        '[node]\ndata = "."\n[[protocol]]\nname = "p"\ntargets = ["GTV"]\n', encoding="utf-8"
    )
    command = ["processes", "--config", str(tmp_path / "hilum.toml")]
    with shown_page(tmp_path) as page:
        book, now = Heartbeats(page.index), datetime.now(UTC)
        page.now = now
        assert "none works now" in CliRunner().invoke(app, command).stdout
        for name, version, ago in (("a", "1.0", 0), ("b", "1.1", 0), ("c", "0.9", 9000)):
            who = ProcessIdentity(f"{name}.serve", SERVE, version, "host")
            book.beat(who, now - timedelta(seconds=ago))
        browser = page.browser()
        document = browser.get("/api/v1/processes").json()
        shown = browser.get("/storage").text
        told = CliRunner().invoke(app, command).stdout
        printed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert document["versions"] == ["1.0", "1.1"]
    alive = [(each["name"], each["version"], each["alive"]) for each in document["processes"]]
    assert alive == [("a.serve", "1.0", True), ("b.serve", "1.1", True), ("c.serve", "0.9", False)]
    assert [(each["name"], each["version"], each["alive"]) for each in printed] == alive
    for text in (shown, told):
        assert all(name in text for name, _, _ in alive)
        assert "everal versions work" in text
        assert text.count("silent") == 1
