"""What a reader is told about the structure is true: import rules, code map, documents, locks."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from node.__main__ import app
from node.audit.section import AuditSection, AuditSyslog
from node.commands.cases import cases_app
from node.config import (
    Config,
    NodeSection,
    Peer,
    Prescription,
    Protocol,
    SecondOpinionSection,
    TlsSection,
    WebSection,
    read_config,
)
from node.notify.section import MailSection, NotifySection, WebhookSection
from node.protocol import (
    MARGIN_KEYS,
    ClipRule,
    DerivedRule,
    DoseRules,
    FetchRule,
    GeudRule,
    OrganRule,
    OutputRule,
    ReirradiationOrgan,
    ReirradiationRules,
    TargetSwitch,
)
from node.statement import conformance_statement

ROOT = Path(__file__).resolve().parent.parent


def modules() -> list[str]:
    """Return every module of the product as the code map names it."""
    found = []
    for package in ("handlers", "node"):
        for path in sorted((ROOT / package).iterdir()):
            if path.suffix == ".py" and path.name != "__init__.py":
                found.append(f"{package}/{path.name}")
            elif (path / "__init__.py").exists():
                found.append(f"{package}/{path.name}/")
    return found


def test_imports_when_checked_obey_the_contracts() -> None:
    """STYLE 4.1: who may import whom."""
    program = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-3000:]


def test_code_map_when_compared_names_every_module() -> None:
    """STYLE 4.5: the code map of the README is complete and names nothing that is gone."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row.split(" | ")[0] for row in readme.splitlines() if row.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`((?:handlers|node)/[^`]+)`", row)}
    assert told == set(modules())


def test_commands_when_compared_stand_in_the_readme() -> None:
    """Every command is documented where a newcomer looks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
    assert names
    assert [name for name in names if f"`hilum {name}" not in readme] == []
    subcommands = [
        c.name or c.callback.__name__ for c in cases_app.registered_commands if c.callback
    ]
    (line,) = (row for row in readme.splitlines() if "hilum cases" in row and row.startswith("|"))
    assert [name for name in subcommands if name not in line] == []


def test_conformance_statement_when_compared_is_current() -> None:
    """The document in `deploy/` is what the running tables say."""
    told = (ROOT / "deploy" / "conformance.md").read_text(encoding="utf-8")
    assert told == conformance_statement(read_config(None))


def test_example_configuration_when_read_is_valid_and_names_every_key() -> None:
    """Every key stands in the example with the default that the program has."""
    path = ROOT / "deploy" / "hilum.example.toml"
    config = read_config(path)
    text = path.read_text(encoding="utf-8")
    sections: list[type[BaseModel]] = [
        NodeSection, TlsSection, WebSection, SecondOpinionSection, Peer, Protocol, Prescription,
        TargetSwitch, DerivedRule, ClipRule, OutputRule, FetchRule, DoseRules,
        ReirradiationRules, ReirradiationOrgan, OrganRule, GeudRule, AuditSection, AuditSyslog,
        NotifySection, MailSection, WebhookSection,
    ]  # fmt: skip
    for section in sections:
        for name, given in section.model_fields.items():
            key = given.alias or name
            told = rf"^(# )?({key} = |\[{{1,2}}[a-z.]+\.{key}\])"
            assert re.search(told, text, flags=re.MULTILINE), key
    assert [key for key in MARGIN_KEYS if f"{key} = " not in text] == []
    defaults = NodeSection()
    for key in NodeSection.model_fields:
        if key not in ("data", "incomplete_s", "database"):
            assert getattr(config.node, key) == getattr(defaults, key), key
    assert config.web == Config().web
    assert config.audit == Config().audit
    assert config.notify == Config().notify


def lock(name: str) -> str:
    return (ROOT / "deploy" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock"])
def test_lock_when_read_has_hashes_and_no_addresses(name: str) -> None:
    """Issue 2: a lock file with hashes and without index addresses."""
    text = lock(name)
    assert "://" not in text
    assert "--index-url" not in text
    pins = re.findall(r"^([A-Za-z0-9_.\[\]-]+)==", text, flags=re.MULTILINE)
    assert len(pins) > 20
    assert text.count("--hash=sha256:") >= len(pins)


def test_locks_when_compared_with_the_project_hold_every_dependency() -> None:
    """A dependency that is not locked would be fetched in whatever version there is."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = {
        "requirements.lock": project["project"]["dependencies"] + extras["build"],
        "requirements-test.lock": project["project"]["dependencies"] + extras["test"],
    }
    for name, requirements in wanted.items():
        pinned = set(
            re.findall(r"^([A-Za-z0-9_.-]+)(?:\[\w+\])?==", lock(name), flags=re.MULTILINE)
        )
        names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in requirements}
        assert names <= pinned, name


def test_top_of_the_repository_when_listed_holds_nothing_unexpected() -> None:
    """Issue 2: nothing else at the top."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/", 1)[0] for line in listed.stdout.splitlines()}
    assert top == {
        ".ci",
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "deploy",
        "handlers",
        "node",
        "pyproject.toml",
        "tests",
    }
