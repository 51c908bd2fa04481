"""How often somebody may guess, and what a password must be."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.errors import NodeError
from node.web.access.attempts import (
    MOST_BY_ADDRESS,
    MOST_BY_USER,
    MOST_REMEMBERED,
    WINDOW,
    Attempts,
)
from node.web.access.passwords import hashed_password, is_password, password_problems
from tests.web_clients import scene

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Guesser:
    """Tries to log in, at a clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOON
        self.attempts = Attempts(lambda: self.now)

    def tries(self, user: str, address: str, count: int = 1) -> int:
        """Return how many of so many attempts were let through."""
        return sum(self.attempts.try_now(user, address) is None for _ in range(count))


def test_address_when_it_keeps_guessing_is_put_off_for_the_window() -> None:
    """Whoever it guesses; others are not touched, and after the window it may try again."""
    guesser = Guesser()
    users = [f"user{n}" for n in range(50)]
    assert sum(guesser.tries(user, "10.0.0.1") for user in users) == MOST_BY_ADDRESS
    assert guesser.attempts.try_now("ann", "10.0.0.1") == WINDOW
    assert guesser.tries("ann", "10.0.0.2") == 1
    guesser.now += WINDOW
    assert guesser.tries("ann", "10.0.0.1", 50) == MOST_BY_ADDRESS


def test_address_when_the_right_one_logs_in_is_free_again() -> None:
    """Ten people behind one address do not put each other off by logging in."""
    guesser = Guesser()
    for _ in range(5 * MOST_BY_ADDRESS):
        assert guesser.tries("ann", "10.0.0.1") == 1
        guesser.attempts.succeeded("ann", "10.0.0.1")


def test_address_when_it_is_of_ipv6_counts_as_its_network() -> None:
    """One household has 2^64 addresses."""
    guesser = Guesser()
    found = sum(guesser.tries("ann", f"2001:db8:1:2::{n:x}") for n in range(50))
    assert found == MOST_BY_ADDRESS
    assert guesser.tries("bob", "2001:db8:1:3::1") == 1


def test_user_when_guessed_from_everywhere_can_log_in_at_their_own_desk() -> None:
    """An attacker locks nobody out: not where they logged in before, and elsewhere not for ever."""
    guesser = Guesser()
    guesser.tries("ann", "10.0.0.1")
    guesser.attempts.succeeded("ann", "10.0.0.1")
    let = sum(guesser.tries("ann", f"10.9.{n}.1") for n in range(200))
    assert let == MOST_BY_USER
    assert guesser.tries("ann", "10.0.0.2") == 0
    assert guesser.tries("ann", "10.0.0.1") == 1
    guesser.now += WINDOW
    assert guesser.tries("ann", "10.0.0.2") == 1


def test_memory_when_everybody_guesses_is_bounded() -> None:
    """Names and addresses are anyone's to invent."""
    guesser = Guesser()
    for n in range(MOST_REMEMBERED + 100):
        guesser.tries(f"user{n}", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    sizes = [len(known) for known in vars(guesser.attempts).values() if hasattr(known, "popitem")]
    assert max(sizes) == MOST_REMEMBERED


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
