"""`hilum limits`: what it prints of the tables, and what it refuses."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from node.__main__ import app
from node.errors import NodeError
from node.limit_tables import limits_of
from node.protocol import SHIPPED_LIMITS
from tests.test_limit_tables import OWN, written


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["limits", *arguments])


def rows(*arguments: str) -> list[dict[str, Any]]:
    answer = asked(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    found: list[dict[str, Any]] = json.loads(answer.stdout)["limits"]
    return found


def test_limits_when_listed_are_all_with_source_and_certainty() -> None:
    """Issue 7.3: tables as data, with source, endpoint, fraction count and how sure."""
    found = rows()
    assert len(found) == len(limits_of(SHIPPED_LIMITS, {}, unchecked=True))
    for row in found:
        assert row["source"], row
        assert row["endpoint"], row
        assert row["certainty"], row
    text = asked().stdout
    assert text.count("recalled *") == sum(row["certainty"] == "recalled" for row in found)
    for source in {row["source"] for row in found}:
        assert source in text


def test_limits_when_chosen_are_those_asked_for() -> None:
    assert {row["table"] for row in rows("--table", "hytec")} == {"hytec"}
    five = rows("--fractions", "5", "--organ", "duo*")
    assert {(row["organ"], row["fractions"]) for row in five} == {("Duodenum", 5)}
    assert {row["fractions"] for row in rows("--fractions", "conventional")} == {None}
    line = next(x for x in asked("--organ", "Duodenum").stdout.splitlines() if "18 Gy" in x)
    assert line.split() == [
        *("tg101", "Duodenum", "D5cc", "<", "18", "Gy", "5", "secondary", "copy", "ulceration"),
    ]
    assert "CV9.1Gy >= 700 cm3" in asked("--organ", "Liver").stdout
    assert asked("--fractions", "7").stdout.splitlines()[-1].startswith("0 limits")


def test_limits_when_a_department_has_its_own_are_among_them(tmp_path: Path) -> None:
    path = written(tmp_path, "[protocol.dose]\nlimits = ['own.toml']\n", own=OWN)
    found = rows("--config", str(path), "--table", "own")
    assert [(row["organ"], row["certainty"]) for row in found] == [
        ("Duodenum", "department"),
        ("cHBT", "verified"),
    ]


def test_limits_when_asked_wrongly_are_refused() -> None:
    """Wrong use ends with 2; an unknown table with an error that names those there are."""
    for text in ("0", "-1", "five", "5.5"):
        assert asked("--fractions", text).exit_code == 2
    answer = asked("--table", "tg102")
    assert answer.exit_code == 1
    assert isinstance(answer.exception, NodeError)
    assert "tg101, quantec, hytec" in answer.exception.hint
