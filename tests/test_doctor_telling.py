"""The doctor on who is told, and whose the files are: each fault made for real."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.config import Config
from node.doctor_ownership import check_ownership
from node.doctor_telling import check_telling
from tests.authority import Authority
from tests.nodes import hilum_here

HOOK = {"url": "https://hook.clinic.example/"}


def findings(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return status and words of each check; there is one finding of each kind."""
    checks = check_telling(Config.model_validate(document))
    assert all(check.mend or check.status == "ok" for check in checks)
    found = {check.name: (str(check.status), check.text + check.mend) for check in checks}
    assert len(found) == len(checks)
    return found


def test_nobody_configured_is_no_fault_and_is_said() -> None:
    """By default nobody is told, and the trail is kept."""
    found = findings({})
    assert found["notification"] == (
        "ok",
        "nobody is told when something needs a person; see [notify]",
    )
    assert found["audit trail"][0] == "ok"
    assert "kept for 365 days" in found["audit trail"][1]
    assert "none is kept" in findings({"audit": {"enabled": False}})["audit trail"][1]


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda path: path.exists(), "fail", "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "fail", "cannot be read (no text)"),
        (lambda path: path.touch(mode=0o600), "fail", "is empty"),
        (lambda path: path.write_text("secret"), "warn", "others on this machine"),
    ],
)
def test_secret_of_the_webhook_that_cannot_be_used_is_named(
    make: Callable[[Path], object], status: str, words: str, tmp_path: Path
) -> None:
    """Found before something has gone wrong and nobody hears of it."""
    secret = tmp_path / "secret"
    make(secret)
    if status == "warn":
        secret.chmod(0o644)
    found = findings({"notify": {"webhook": {**HOOK, "secret_file": str(secret)}}})
    assert found["notification"][0] == status
    assert words in found["notification"][1]
    assert "notify.webhook.secret_file" in found["notification"][1]


def test_secrets_in_order_are_told_with_the_command_that_tries_them(
    tmp_path: Path, authority: Authority
) -> None:
    """Whether a message comes, only a message can say."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    mail = {"host": "mail.clinic.example", "sender": "h@clinic.example", "to": ["p@clinic.example"]}
    mail |= {"username": "hilum", "password_file": str(secret)}
    mail |= {"authorities": str(authority.certificate)}
    hook = {**HOOK, "secret_file": str(secret)}
    found = findings({"notify": {"mail": mail, "webhook": hook}})
    assert found["notification"] == ("ok", "by mail and webhook; `hilum notify test` tries it")
    mail["authorities"] = str(secret)
    found = findings({"notify": {"mail": mail}})
    assert found["notification"][0] == "fail"
    assert "notify.mail.authorities" in found["notification"][1]


def test_certificates_for_the_collector_that_do_not_fit_are_named(
    tmp_path: Path, authority: Authority
) -> None:
    """Else the trail would wait in its files for ever, and only the log would say so."""
    own, other = authority.issue("node"), authority.issue("other")
    own.key.chmod(0o600)
    other.key.chmod(0o600)
    syslog = {"host": "syslog.clinic.example", "authorities": str(authority.certificate)}
    syslog |= {"certificate": str(own.certificate), "key": str(own.key)}
    fit = findings({"audit": {"syslog": syslog}})["audit trail"]
    assert fit[0] == "ok"
    assert "sent to syslog.clinic.example:6514" in fit[1]
    for key, path in (("authorities", tmp_path / "absent"), ("key", other.key)):
        found = findings({"audit": {"syslog": {**syslog, key: str(path)}}})["audit trail"]
        assert found[0] == "fail"
        assert str(path) in found[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_file_that_a_command_run_as_root_left_is_named(tmp_path: Path) -> None:
    """`sudo hilum cases retry` on a node of another user: its trail, and the database's log."""
    assert check_ownership(tmp_path / "absent") == ()
    data = tmp_path / "data"
    for name in ("index.sqlite-wal", "audit/host/audit-2026-01-01.1.log", "objects/00/a.dcm"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    (check,) = check_ownership(data)
    assert check.status == "ok"
    for path in (data, *data.rglob("*")):
        if path.suffix != ".log":
            os.chown(path, 65534, 65534)
    (check,) = check_ownership(data)
    assert check.status == "warn"
    assert "1 to root (audit/host/audit-2026-01-01.1.log)" in check.text
    assert f"chown -R nobody: {data}" in check.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_commands_that_root_runs_leave_nothing_that_the_node_cannot_write(tmp_path: Path) -> None:
    """`sudo hilum users add` before the first start, `sudo hilum retention` on a running node."""
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    config = tmp_path / "hilum.toml"
    text = f'[node]\ndata = "{data}"\n[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n'
    config.write_text(text)
    made = hilum_here("tokens", "add", "monitor", "--config", str(config))
    assert made.returncode == 0, made.stderr
    assert hilum_here("retention", "--config", str(config)).returncode == 0
    names = {path.name for path in data.rglob("*")}
    assert names >= {"index.sqlite", "audit.secret", "retention.lock", "audit"}
    assert [path for path in data.rglob("*") if path.stat().st_uid != 65534] == []
    assert (data / "index.sqlite").stat().st_mode & 0o007 == 0
    (check,) = check_ownership(data)
    assert check.status == "ok"
