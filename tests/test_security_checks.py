"""What programs can find: patterns that are dangerous, licences, known vulnerabilities."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "deploy" / "requirements.lock"
PROGRAMS = Path(sys.executable).parent

PERMISSIVE = (
    r"(?i)\b(MIT|MIT-0|MIT-CMU|0?BSD|BSD-[23]-Clause|Apache|ISC|ISCL|PSF|Zlib|CC0|HPND|Kiwi|"
    r"Python Software Foundation|LGPL|Lesser General Public)\b"
)
"""Licences under which a department may use and pass on what is installed by default."""

FORBIDDEN = r"(?i)\b(A?GPL|(Affero )?General Public License)"
"""Taken out of a text before: the lesser one."""

VULNERABLE = "jinja2==2.4.1"
"""A release with vulnerabilities that every list knows: whether a list can be asked at all."""

AUDIT_S = 240


def locked() -> list[str]:
    """Return the names of what is installed by default."""
    return re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[\w,-]+\])?==", LOCK.read_text(), re.MULTILINE)


def licence_of(name: str) -> str:
    """Return what a distribution says of its licence, in the newest form that it has."""
    told = metadata(name)
    if expression := told.get("License-Expression"):
        return str(expression)
    classes = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier", []) if "License ::" in c]
    return "; ".join(classes) or (told.get("License") or "").splitlines()[0]


def is_permissive(licence: str) -> bool:
    """Tell whether a licence is permissive, or the lesser GPL."""
    rest = re.sub(r"(?i)LGPL|Lesser General Public License", "", licence)
    return bool(re.search(PERMISSIVE, licence)) and not re.search(FORBIDDEN, rest)


def test_code_when_looked_through_by_bandit_is_clean() -> None:
    """Issue 8: bandit over all of the product; what is skipped, and why, stands in pyproject."""
    command: list[str | Path] = [PROGRAMS / "bandit", "-c", "pyproject.toml", "-q", "-f", "json"]
    command += ["-r", "node", "handlers"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(answer.stdout)
    found = [f"{r['filename']}:{r['line_number']} {r['issue_text']}" for r in report["results"]]
    assert found == []
    assert report["errors"] == []
    assert report["metrics"]["_totals"]["loc"] > 10_000


def test_bandit_when_it_skips_leaves_what_matters() -> None:
    """Shells, eval, unsafe loading, weak ciphers, SQL and templates are looked for everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    skipped = set(project["tool"]["bandit"]["skips"])
    assert not skipped & {"B102", "B301", "B307", "B314", "B324", "B506", "B602", "B605", "B608"}
    assert "exclude_dirs" not in project["tool"]["bandit"]


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("LGPL-3.0-only", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("GPL-3.0-or-later", False),
        ("GNU Affero General Public License v3", False),
        ("AGPL-3.0", False),
        ("MIT AND GPL-2.0-only", False),
        ("Commons Clause", False),
        ("", False),
    ],
)
def test_licence_when_judged_is_told_apart(licence: str, is_allowed: bool) -> None:
    """The judge of the next test."""
    assert is_permissive(licence) is is_allowed


def test_licences_when_listed_are_permissive() -> None:
    """Default dependencies: permissive licences, or the lesser GPL; what is not here, says so."""
    known, absent = {}, []
    for name in dict.fromkeys(locked()):
        try:
            known[name] = licence_of(name)
        except PackageNotFoundError:
            absent.append(name)
    assert len(known) > 40
    assert absent in ([], ["colorama"])  # of Windows
    assert {name: told for name, told in known.items() if not is_permissive(told)} == {}


def test_dependencies_when_audited_have_no_known_vulnerability(tmp_path: Path) -> None:
    """Issue 8: pip-audit where reachable; a list that does not know an old sin is none."""
    canary = tmp_path / "vulnerable.txt"
    canary.write_text(f"{VULNERABLE}\n", encoding="utf-8")
    if not audited(canary)[1]:
        pytest.skip("no list of vulnerabilities can be asked from here")
    count, found = audited(LOCK)
    assert count > 40
    assert found == []


def audited(requirements: Path) -> tuple[int, list[str]]:
    """Return how many releases pip-audit could ask about, and what it found."""
    answer = subprocess.run(
        [PROGRAMS / "pip-audit", "-r", requirements, "--disable-pip", "--no-deps", "-f", "json",
         "--progress-spinner", "off", "--timeout", "10"],
        capture_output=True, text=True, check=False, timeout=AUDIT_S,
    )  # fmt: skip
    try:
        told = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 0, []
    asked = [each for each in told if "vulns" in each]
    return len(asked), [f"{each['name']}: {v['id']}" for each in asked for v in each["vulns"]]
