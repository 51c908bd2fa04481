"""Cohorts: the statistics against closed forms, and the command on delivered cases."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from handlers.cohort import cohort_rows, describe, summarize
from handlers.report import metrics_document
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, RESULTS_FOLDER
from node.receiver import StandInReceiver
from tests.encode_cases import build_case
from tests.nodes import free_port, hilum_here
from tests.owed_results import owing, receiver


def target(name: str, drawn: float, refined: float | None, **between: float) -> dict[str, Any]:
    return {
        "source_roi": name,
        "refined_roi": None if refined is None else f"{name}_CT1MR1",
        "drawn_volume_cm3": drawn,
        "refined_volume_cm3": refined,
        "metrics": between,
    }


def document(case_id: str, *targets: dict[str, Any], protocol: str = "liver") -> dict[str, Any]:
    return {
        "case": {"case_id": case_id, "protocol": protocol},
        "targets": list(targets),
        "dose": None,
    }


def dosed(told: dict[str, Any], conformity: dict[str, float]) -> dict[str, Any]:
    """Return a document with two plans; of the second nothing may be taken."""
    structures = [
        {"name": "?", "target": "GTVn", "version": version, "figures": {"ci_paddick": value}}
        for version, value in conformity.items()
    ]
    worse = [{**each, "figures": {"ci_paddick": 0.1}} for each in structures]
    return {**told, "dose": {"plans": [{"structures": structures}, {"structures": worse}]}}


def test_statistics_when_all_targets_shrink_are_those_of_the_closed_form() -> None:
    """Six differences of one sign: p = 2 / 2^6, whatever their size; agreement by hand."""
    drawn = [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
    less = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
    rows = cohort_rows(
        document(f"c{n}", target("GTVn", volume, volume - by))
        for n, (volume, by) in enumerate(zip(drawn, less, strict=True))
    )
    (volume,) = summarize(rows)
    assert volume.p == pytest.approx(2 / 2**6)
    assert (volume.pairs, volume.drawn.median, volume.difference.median) == (6, 15.0, -3.5)
    assert (volume.drawn.low, volume.drawn.high) == (12.5, 17.5)
    assert volume.bias == pytest.approx(-4.0)
    # squares of the deviations 3, 2, 1, 0, 1, 5 add up to 40: variance 8
    assert volume.agreement == pytest.approx((-4 - 1.96 * 8**0.5, -4 + 1.96 * 8**0.5))


def test_statistics_when_pairs_are_few_or_equal_make_no_test() -> None:
    """Five pairs cannot reach 0.05, and pairs without a difference do not count."""
    five = cohort_rows(document(f"c{n}", target("GTVn", 10.0, 9.0 - n)) for n in range(5))
    assert summarize(five)[0].p is None
    equal = cohort_rows(document(f"c{n}", target("GTVn", 10.0, 10.0)) for n in range(9))
    assert summarize(equal)[0].p is None
    (alone,) = summarize(cohort_rows([document("c", target("GTVn", 10.0, 8.0))]))
    assert (alone.bias, alone.agreement) == (-2.0, None)


def test_targets_when_left_as_drawn_are_listed_but_are_no_pair() -> None:
    """An abstention would count as perfect agreement."""
    rows = cohort_rows(
        [
            document("c1", target("GTVn", 10.0, 8.0, dsc=0.8), target("GTVp", 5.0, None)),
            document("c2", target("GTVn", 6.0, None)),
        ]
    )
    assert [(r.case_id, r.target, r.is_refined) for r in rows] == [
        ("c1", "GTVn", True),
        ("c1", "GTVp", False),
        ("c2", "GTVn", False),
    ]
    assert summarize(rows)[0].pairs == 1
    count, spread = describe(rows)["dsc"]
    assert (count, spread.median) == (1, 0.8)


def test_conformity_when_two_plans_came_is_that_of_the_first() -> None:
    rows = cohort_rows(
        [
            dosed(document("c1", target("GTVn", 4.0, 3.0)), {"drawn": 0.5, "refined": 0.75}),
            dosed(document("c2", target("GTVn", 4.0, 3.0)), {"drawn": 0.5, "derived": 0.9}),
        ]
    )
    conformity = {each.key: each for each in summarize(rows)}["ci_paddick"]
    assert (conformity.pairs, conformity.difference.median) == (1, 0.25)


def test_vessels_inside_when_told_are_added_up_before_and_after() -> None:
    told = target("GTVn", 4.0, 3.0)
    told["contents"] = [
        {"cause": "vessel", "drawn_cm3": 0.75, "final_cm3": 0.25},
        {"cause": "bowel", "drawn_cm3": 0.5, "final_cm3": 0.0},
    ]
    inside = {each.key: each for each in summarize(cohort_rows([document("c", told)]))}
    assert inside["vessels_cm3"].drawn.median == 1.25
    assert inside["vessels_cm3"].refined.median == 0.25


def test_row_when_a_real_metrics_document_is_read_holds_its_numbers() -> None:
    """The keys are those that are written, not only those of this file."""
    case = build_case()
    identity = {"case_id": "c1", "protocol": "liver"}
    rows = cohort_rows([metrics_document(case.result, identity)])
    first, abstained = rows
    before = case.result.targets[0]
    assert before.refinement.refined is not None
    assert first.drawn["volume_cm3"] == before.drawn.volume_cm3
    assert first.refined["volume_cm3"] == before.refinement.refined.volume_cm3
    assert first.drawn["vessels_cm3"] == 0.0
    assert first.between["hd95_mm"] == before.metrics["hd95_mm"]
    assert not abstained.is_refined


class Department:
    """A node's data folder with delivered cases, and the command on it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.config = folder / "hilum.toml"
        text = f'[node]\ndata = "{self.data}"\n\n[[protocol]]\nname = "liver"\ntargets = ["GTV*"]\n'
        self.config.write_text(text)

    def cohort(self, *arguments: str) -> Any:
        return hilum_here("cohort", "--config", str(self.config), *arguments)


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Department:
    """Seven cases are delivered, one of them lost its files; of one more nothing is delivered."""
    there = Department(tmp_path_factory.mktemp("department"))
    with StandInReceiver(there.data.parent / "tps", "TPS") as tps:
        peers = receiver("tps", tps.port), receiver("away", free_port())
        with owing(there.data, *peers) as node:
            for n in range(8):
                node.owe(f"c{n}", **({"away": ("report",)} if n == 7 else {"tps": ("report",)}))
                told = document(f"c{n}", target("=GTVn", 10.0 + n, 8.5 + 0.5 * n, dsc=0.9))
                folder = there.data / RESULTS_FOLDER / f"c{n}" / "1" / OUTPUT_FOLDER
                if n != 6:
                    (folder / METRICS_FILE).write_text(json.dumps(told))
            node.run_due()
    return there


def test_command_when_cases_are_delivered_tells_them(department: Department) -> None:
    """Issue 7, 7: only delivered cases, those without files told, all statistics named."""
    answer = department.cohort()
    assert answer.returncode == 0, answer.stderr
    assert "6 targets of 6 cases: 6 refined, 0 left as drawn" in answer.stdout
    assert "Volume (cm3)" in answer.stdout
    assert "0.0312" in answer.stdout
    assert "not corrected for several tests" in answer.stdout
    assert "1 delivered cases left out: their result files are gone" in answer.stderr
    told = json.loads(department.cohort("--json").stdout)
    assert [row["case_id"] for row in told["rows"]] == [f"c{n}" for n in range(6)]
    assert told["paired"][0]["p"] == pytest.approx(2 / 2**6)


def test_command_when_files_are_asked_for_writes_them(
    department: Department, tmp_path: Path
) -> None:
    table, plot = tmp_path / "cohort.csv", tmp_path / "cohort.png"
    answer = department.cohort("--csv", str(table), "--plot", str(plot))
    assert answer.returncode == 0, answer.stderr
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["refined_volume_cm3"]) for line in lines] == [
        8.5 + 0.5 * n for n in range(6)
    ]
    assert {line["target"] for line in lines} == {"'=GTVn"}, "no spreadsheet runs it"
    assert {line["drawn_ci_paddick"] for line in lines} == {""}
    with Picture.open(plot) as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plot", "cohort.bmp"], "no format of a plot"),
        (["--protocol", "brain"], "no delivered case of protocol 'brain'"),
        (["--csv", "/nowhere/cohort.csv"], "cannot be written"),
    ],
)
def test_command_when_it_cannot_answer_says_why(
    department: Department, arguments: list[str], told: str
) -> None:
    answer = department.cohort(*arguments)
    assert answer.returncode == 1
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr
