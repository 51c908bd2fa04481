"""How often somebody may guess, and what a password must be."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.errors import NodeError
from node.index import Index
from node.index.attempt_rows import LOGIN_ATTEMPTS
from node.web.access.attempts import (
    MOST_BY_ADDRESS,
    MOST_BY_USER,
    MOST_REMEMBERED,
    WINDOW,
    Attempts,
)
from node.web.access.passwords import hashed_password, is_password, password_problems
from tests.postgres import PostgresServer
from tests.web_clients import scene

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Guesser:
    """Tries to log in, at a clock that the test moves."""

    def __init__(self, index: Index, most_remembered: int = MOST_REMEMBERED) -> None:
        self.now = NOON
        self.index = index
        self.attempts = Attempts(index, lambda: self.now, most_remembered)

    def tries(self, user: str, address: str, count: int = 1) -> int:
        """Return how many of so many attempts were let through."""
        return sum(self.attempts.try_now(user, address) is None for _ in range(count))


@pytest.fixture
def guesser(tmp_path: Path) -> Iterator[Guesser]:
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    yield Guesser(index)
    index.close()


def test_address_when_it_keeps_guessing_is_put_off_for_the_window(guesser: Guesser) -> None:
    """Whoever it guesses; others are not touched, and after the window it may try again."""
    users = [f"user{n}" for n in range(50)]
    assert sum(guesser.tries(user, "10.0.0.1") for user in users) == MOST_BY_ADDRESS
    assert guesser.attempts.try_now("ann", "10.0.0.1") == WINDOW
    assert guesser.tries("ann", "10.0.0.2") == 1
    guesser.now += WINDOW
    assert guesser.tries("ann", "10.0.0.1", 50) == MOST_BY_ADDRESS


def test_address_when_the_right_one_logs_in_is_free_again(guesser: Guesser) -> None:
    """Ten people behind one address do not put each other off by logging in."""
    for _ in range(5 * MOST_BY_ADDRESS):
        assert guesser.tries("ann", "10.0.0.1") == 1
        guesser.attempts.succeeded("ann", "10.0.0.1")


def test_address_when_it_is_of_ipv6_counts_as_its_network(guesser: Guesser) -> None:
    """One household has 2^64 addresses."""
    found = sum(guesser.tries("ann", f"2001:db8:1:2::{n:x}") for n in range(50))
    assert found == MOST_BY_ADDRESS
    assert guesser.tries("bob", "2001:db8:1:3::1") == 1


def test_user_when_guessed_from_everywhere_can_log_in_at_their_own_desk(guesser: Guesser) -> None:
    """An attacker locks nobody out: not where they logged in before, and elsewhere not for ever."""
    guesser.tries("ann", "10.0.0.1")
    guesser.attempts.succeeded("ann", "10.0.0.1")
    let = sum(guesser.tries("ann", f"10.9.{n}.1") for n in range(200))
    assert let == MOST_BY_USER
    assert guesser.tries("ann", "10.0.0.2") == 0
    assert guesser.tries("ann", "10.0.0.1") == 1
    guesser.now += WINDOW
    assert guesser.tries("ann", "10.0.0.2") == 1


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_processes_with_a_page_count_together(
    backend: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    """Issue 8, access: two serves let nobody guess twice as often; nor do many calls at once."""
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    url = url if backend == "sqlite" else postgres.database()
    first, second = Guesser(Index(url)), Guesser(Index(url))
    first.index.create()
    with ThreadPoolExecutor(8) as pool:
        asked = [first, second] * (2 * MOST_BY_ADDRESS)
        let = list(pool.map(lambda one: one.tries("ann", "10.0.0.1"), asked))
    assert sum(let) == MOST_BY_ADDRESS
    second.now += timedelta(minutes=1)  # its machine's clock is ahead
    assert second.tries("ann", "10.0.0.1") == 0
    assert second.tries("bob", "10.0.0.2") == 1
    first.attempts.succeeded("ann", "10.0.0.1")
    assert second.tries("ann", "10.0.0.1") == 1
    for one in (first, second):
        one.index.close()


def test_what_is_remembered_is_bounded_and_forgotten(tmp_path: Path) -> None:
    """Names and addresses are anyone's to invent; what was typed for a name stands nowhere."""
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    guesser = Guesser(index, most_remembered=20)
    for n in range(60):
        guesser.now += timedelta(seconds=1)
        guesser.tries(f"my password {n}", f"10.0.0.{n}")
        guesser.attempts.succeeded(f"user{n}", f"10.0.1.{n}")
    with index.read() as connection:
        rows = connection.execute(sa.select(LOGIN_ATTEMPTS)).all()
    assert Counter(row.kind for row in rows) == {"address": 20, "user": 20, "desk": 20}
    assert not any("password" in row.who for row in rows)
    guesser.now += timedelta(days=31)
    guesser.tries("ann", "10.0.0.1")
    guesser.attempts.succeeded("ann", "10.0.0.1")
    with index.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(LOGIN_ATTEMPTS)) == 1
    index.close()


def test_attempts_noted_while_a_clock_was_wrong_lock_nobody_out(guesser: Guesser) -> None:
    """A machine that began in another year, until its clock was set."""
    guesser.now += timedelta(days=400)
    guesser.tries("ann", "10.0.0.1", MOST_BY_ADDRESS)
    for n in range(MOST_BY_USER):
        guesser.tries("ann", f"10.0.1.{n}")
    guesser.now = NOON
    assert guesser.tries("ann", "10.0.0.1", 2 * MOST_BY_ADDRESS) == MOST_BY_ADDRESS
    with guesser.index.read() as connection:
        latest = connection.scalar(sa.select(sa.func.max(LOGIN_ATTEMPTS.c.at)))
    assert latest == NOON


def test_attempts_count_whose_machine_is_a_little_ahead(guesser: Guesser) -> None:
    """The machines count together: their clocks differ by seconds."""
    guesser.now += timedelta(seconds=20)
    guesser.tries("ann", "10.0.0.1", MOST_BY_ADDRESS)
    guesser.now = NOON
    assert guesser.tries("ann", "10.0.0.1") == 0


def test_who_is_over_the_limit_writes_nothing(guesser: Guesser) -> None:
    """A stranger's flood must not hold up those who write the index: receiving does."""
    guesser.tries("ann", "10.0.0.1", MOST_BY_ADDRESS)
    with guesser.index.begin() as connection:  # has the write lock of the whole database
        assert connection.in_transaction()
        assert guesser.tries("ann", "10.0.0.1", 3) == 0


def test_form_when_guessed_says_how_long_to_wait(tmp_path: Path) -> None:
    """The limit stands before the comparing: the right password does not pass it either."""
    made = scene(tmp_path)
    made.add_users("ann")
    browser = made.browser()
    for _ in range(MOST_BY_ADDRESS):
        assert browser.log_in("ann", "").status_code == 422  # not tried: does not count
    answers = [browser.log_in("ann", "wrong").status_code for _ in range(MOST_BY_ADDRESS)]
    assert set(answers) == {401}
    late = browser.log_in("ann")
    assert (late.status_code, late.headers["retry-after"]) == (429, "360")
    assert "Try again in 6 min" in late.text
    made.now += timedelta(minutes=6)
    assert browser.log_in("ann").status_code == 303
    made.index.close()


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("elevenchars", "it has 11 characters, at least 12 are needed"),
        ("x" * 300, "more than 256"),
        ("with a \x07 bell inside", "cannot be seen"),
        ("ann-physicist-1", "hardly more than the name"),
        ("abababababab", "same few characters"),
    ],
)
def test_password_when_weak_is_refused_with_every_reason(password: str, problem: str) -> None:
    """Length and not the user's name; nothing silly."""
    user = "ann-physicist"
    assert any(problem in found for found in password_problems(password, user))
    with pytest.raises(NodeError, match="cannot be used"):
        hashed_password(password, user)


@pytest.mark.parametrize("password", ["ἄνθρωπος μέγας ἦν", "ann goes to the sea again"])
def test_password_when_long_enough_is_taken_in_any_script(password: str) -> None:
    """And only the same one is recognized; what is kept is argon2id with a salt of its own."""
    kept = hashed_password(password, "ann")
    assert kept.startswith("$argon2id$")
    assert kept != hashed_password(password, "ann")
    assert is_password(password, kept)
    assert not is_password(password + " ", kept)


def test_comparing_when_there_is_no_such_user_does_the_same_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time tells nobody which users there are: a hash of the same cost is compared."""
    from node.web.access import passwords

    kept = hashed_password("correct horse battery", "ann")
    nobodys = passwords._NOBODYS
    assert nobodys.split("$")[1:4] == kept.split("$")[1:4]
    assert not is_password("nobody has this password, but comparing it takes as long", None)
    assert not is_password("correct horse battery", "no hash at all")
