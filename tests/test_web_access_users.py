"""`hilum users` and `hilum tokens`, as an operator types them."""

import json
import os
import pty
import re
import subprocess
import sys
from base64 import b64decode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from node.__main__ import app
from node.config import read_config
from node.errors import NodeError
from node.index import Index
from node.index.access import AccessBook
from node.web.access.passwords import is_password

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "several quiet words"  # noqa: S105 - of nobody


class Clinic:
    """The command line of a node that has never run."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "hilum.toml"
        self.config.write_text(
            '[node]\ndata = "data"\n[[protocol]]\nname = "a"\ntargets = ["GTV*"]\n',
            encoding="utf-8",
        )

    def run(self, *arguments: str, typed: str = "") -> Result:
        """Run a command, which may fail."""
        line = [*arguments, "--config", str(self.config)]
        return CliRunner().invoke(app, line, input=typed)

    def did(self, *arguments: str, typed: str = "") -> str:
        """Run a command that must succeed; return what it says."""
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, result.exception
        return result.output

    def refused(self, *arguments: str, typed: str = "") -> str:
        """Run a command that must be refused; return why."""
        result = self.run(*arguments, typed=typed)
        assert isinstance(result.exception, NodeError), result.output
        return result.exception.with_hint

    def book(self) -> AccessBook:
        """Return what the index knows."""
        return AccessBook(Index(read_config(self.config).node.database_url))


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """Return a command line."""
    return Clinic(tmp_path)


def test_user_when_added_before_the_first_start_can_log_in(clinic: Clinic) -> None:
    """A node that is not on loopback refuses to start without users: they come first."""
    told = clinic.did(
        "users", "add", "Ann", "--role", "operate", "--password-stdin", typed=PASSWORD + "\n"
    )
    assert "from now on the page asks everybody to log in" in told
    (user,) = clinic.book().users()
    assert (user.name, user.role, user.seen_at) == ("ann", "operate", None)
    assert is_password(PASSWORD, user.password_hash)
    (listed,) = json.loads(clinic.did("users", "list", "--json"))
    assert listed["name"] == "ann"
    assert "password_hash" not in listed
    assert "ann" in clinic.did("users", "list")


def test_user_when_changed_or_removed_is_so(clinic: Clinic) -> None:
    """Role, password, end; names are told apart without regard to capitals."""
    clinic.did("users", "add", "ann", "--password-stdin", typed=PASSWORD)
    clinic.did("users", "role", "ANN", "operate")
    clinic.did("users", "password", "ann", "--password-stdin", typed="some other words\n")
    (user,) = clinic.book().users()
    assert (user.role, is_password("some other words", user.password_hash)) == ("operate", True)
    assert "whoever sits at this machine" in clinic.did("users", "remove", "ann")
    assert clinic.book().users() == []
    trail = "".join(p.read_text("utf-8") for p in clinic.config.parent.rglob("audit-*.log"))
    told = [b64decode(value).decode() for value in re.findall(r' value="([^"]+)"', trail)]
    for action in ("add user, view", "set role operate", "set password", "remove user"):
        assert f"action: {action}; user: ann" in told


@pytest.mark.parametrize(
    ("arguments", "typed", "why"),
    [
        (("users", "add", "a b", "--password-stdin"), PASSWORD, "letters, digits"),
        (("users", "add", "../x", "--password-stdin"), PASSWORD, "letters, digits"),
        (("users", "add", "bob", "--password-stdin"), "short\n", "at least 12"),
        (("users", "add", "bob", "--password-stdin"), "", "at least 12"),
        (("users", "add", "bob"), PASSWORD, "no terminal"),
        (("users", "add", "ann", "--password-stdin"), PASSWORD, "already"),
        (("users", "role", "bob", "view"), "", "no user 'bob'"),
        (("users", "password", "bob", "--password-stdin"), PASSWORD, "no user 'bob'"),
        (("users", "remove", "bob"), "", "no user 'bob'"),
        (("tokens", "add", "robot"), "", "already"),
        (("tokens", "revoke", "other"), "", "no token 'other'"),
    ],
)
def test_command_when_it_cannot_be_done_says_why_and_changes_nothing(
    clinic: Clinic, arguments: tuple[str, ...], typed: str, why: str
) -> None:
    """Each with what to do instead."""
    now = datetime.now(UTC)
    index = Index(read_config(clinic.config).node.database_url)
    index.create()
    AccessBook(index).add_user("ann", "view", "hash", now)
    AccessBook(index).add_token("robot", "view", "secret", now + timedelta(days=1), now)
    assert why in clinic.refused(*arguments, typed=typed)
    assert [user.name for user in clinic.book().users()] == ["ann"]
    assert [token.name for token in clinic.book().tokens()] == ["robot"]


def test_role_when_unknown_is_a_wrong_use(clinic: Clinic) -> None:
    """Exit 2, with the roles that there are."""
    result = clinic.run("users", "add", "bob", "--role", "admin", "--password-stdin")
    assert result.exit_code == 2


def test_password_when_typed_at_a_terminal_is_not_shown(clinic: Clinic) -> None:
    """And asked for twice. A real terminal: what it echoes is what a bystander sees."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "node", "users", "add", "ann", "--config", str(clinic.config)]
    with subprocess.Popen(
        line, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True
    ) as command:
        os.close(theirs)
        seen = b""
        for prompt in (b"assword: ", b"confirmation: "):
            while prompt not in seen.split(b"\n")[-1]:
                seen += os.read(ours, 1024)
            os.write(ours, PASSWORD.encode() + b"\n")
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 1024):
                seen += piece
    os.close(ours)
    assert command.returncode == 0, seen
    assert PASSWORD.encode() not in seen
    (user,) = clinic.book().users()
    assert is_password(PASSWORD, user.password_hash)


def test_token_when_made_is_shown_once_and_counts(clinic: Clinic) -> None:
    """It is nowhere in the index, nor in what is listed later."""
    told = clinic.did("tokens", "add", "Prometheus", "--days", "30")
    found = re.search(r"Authorization: Bearer (\S+)", told)
    assert found is not None
    secret = found[1]
    now = datetime.now(UTC)
    holder = clinic.book().token_holder(secret, now)
    assert holder is not None
    assert (holder.name, holder.role) == ("prometheus", "view")
    assert clinic.book().token_holder(secret, now + timedelta(days=30)) is None
    for path in (clinic.config.parent / "data").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert secret not in clinic.did("tokens", "list", "--json") + clinic.did("tokens", "list")
    clinic.did("tokens", "revoke", "prometheus")
    assert clinic.book().token_holder(secret, now) is None
    made = json.loads(clinic.did("tokens", "add", "b", "--role", "operate", "--json"))
    assert clinic.book().token_holder(made["token"], now) is not None
