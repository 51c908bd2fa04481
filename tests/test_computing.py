"""Where a result set lies when it is adopted, and when nobody adopts it; the child is played."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.case_job import case_job
from node.compute_job import OUTCOME_FILE, OUTPUT_FOLDER, RESULTS_FOLDER, Outcome
from node.computing import Computing
from node.config import Config, NodeSection
from node.index import Index
from node.index.cases import CaseBook, CaseRecord
from node.index.runs import RunBook
from tests.owed_results import proposal
from tests.stored_instances import LIVER, START, contours, ct, look, mr

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REPORT = "SR.dcm"


class Bench:
    """A process that computes one case, `c1`; what its child leaves is a report of one file."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.index = Index(f"sqlite:///{root / 'index.sqlite'}")
        self.index.create()
        self.runs, self.cases = RunBook(self.index), CaseBook(self.index)
        config = Config(node=NodeSection(data=root))
        self.computing = Computing(config, self.runs, lambda: NOW, root / "work")
        self.final = root / RESULTS_FOLDER / "c1" / "1"
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while the child works."""
        (case,) = look(ct(), mr(), contours())
        self._job = case_job(case, LIVER, config, root="/", created=START).model_dump_json()
        patch.setattr(self.computing._children, "run", self._run)

    def _run(self, _job: object, folder: Path, **_limits: Any) -> Outcome:
        outcome = Outcome(kind="done", results={"2.25.1": REPORT})
        shutil.rmtree(folder, ignore_errors=True)
        (folder / OUTPUT_FOLDER).mkdir(parents=True)
        (folder / OUTPUT_FOLDER / REPORT).write_bytes(b"x")
        (folder / OUTCOME_FILE).write_text(outcome.model_dump_json())
        self.meanwhile()
        return outcome

    def compute(self) -> CaseRecord:
        """Assemble the case, and try once to compute it."""
        self.cases.observe("p", [proposal("c1")], {"c1": self._job}, NOW)
        (key,) = self.runs.due(NOW)
        self.computing.attempt(key)
        found = self.cases.case("c1")
        assert found is not None
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.index.close()


def test_figures_left_of_a_forgotten_case_hold_up_no_new_one(bench: Bench) -> None:
    """A crash while the case was forgotten; later the same structure set comes again."""
    (bench.final / OUTPUT_FOLDER).mkdir(parents=True)
    (bench.final / OUTPUT_FOLDER / "metrics.json").write_text(json.dumps({}))
    case = bench.compute()
    assert (case.state, case.reason) == ("delivered", "no destination")
    assert {p.name for p in (bench.final / OUTPUT_FOLDER).iterdir()} == {REPORT}


def test_result_set_of_another_process_is_taken_as_it_is(bench: Bench) -> None:
    """Both computed the revision; the other one was faster, and its files are those of the case."""

    def others() -> None:
        (bench.final / OUTPUT_FOLDER).mkdir(parents=True)
        (bench.final / OUTPUT_FOLDER / REPORT).write_bytes(b"theirs")
        outcome = Outcome(kind="done", results={"2.25.1": REPORT})
        (bench.final / OUTCOME_FILE).write_text(outcome.model_dump_json())

    bench.meanwhile = others
    assert bench.compute().state == "delivered"
    assert (bench.final / OUTPUT_FOLDER / REPORT).read_bytes() == b"theirs"


def test_result_set_of_a_case_abandoned_meanwhile_is_not_kept(bench: Bench) -> None:
    """It names a patient, and no row would tell retention of it."""
    bench.meanwhile = lambda: bench.cases.abandon("c1", NOW)
    assert bench.compute().state == "abandoned"
    assert not bench.final.exists()


def test_result_set_that_a_killed_process_left_of_an_abandoned_case_goes(bench: Bench) -> None:
    """Killed before it was adopted; abandoned before the process was there again."""

    def killed(*_arguments: object) -> bool:
        raise SystemExit

    (adopt, bench.runs.adopt) = (bench.runs.adopt, killed)  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        bench.compute()
    bench.runs.adopt = adopt  # type: ignore[method-assign]
    assert bench.final.exists()
    (key,) = bench.runs.due(NOW)
    bench.cases.abandon("c1", NOW)
    bench.computing.attempt(key)
    assert not bench.final.exists()


def test_result_set_of_a_start_that_was_taken_over_stays(bench: Bench) -> None:
    """The process that took it over is about to adopt these files."""

    def taken_over() -> None:
        (key,) = bench.runs.due(NOW)
        assert bench.runs.begin(key, NOW) is not None

    bench.meanwhile = taken_over
    assert bench.compute().state == "running"
    assert (bench.final / OUTPUT_FOLDER / REPORT).exists()
