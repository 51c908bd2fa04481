"""How often somebody may try to log in: by address, and by user.

An address that keeps guessing is put off, whoever it guesses; nobody else is. A user who is guessed
at from many addresses is put off, too, but not where they logged in before: nobody can lock a user
out of their own desk. All processes with a page count together, in the index. Everything is
forgotten after a while, and what is kept is bounded, whatever comes.
"""

import hashlib
import ipaddress
from collections.abc import Callable
from datetime import datetime, timedelta

from node.index import Index
from node.index.login_attempts import AttemptBook, Counted, Limit

WINDOW = timedelta(minutes=5)
"""Failures older than this count no longer."""

MOST_BY_ADDRESS = 10
"""Failures of one address within the window; more is guessing."""

MOST_BY_USER = 30
"""Failures for one user within the window, from wherever."""

MOST_REMEMBERED = 10_000
"""Attempts by address, attempts by user, and users' desks of which something is remembered."""

DESK_KNOWN = timedelta(days=30)
"""So long an address counts as a user's own after they logged in there."""


class Attempts:
    """Failed logins of late, on all processes. May be used from several threads; blocks.

    Args:
        index: Whose tables exist.
        clock: The time, aware.
        most_remembered: Bounds what is kept.
    """

    def __init__(
        self,
        index: Index,
        clock: Callable[[], datetime],
        most_remembered: int = MOST_REMEMBERED,
    ) -> None:
        self._clock = clock
        self._book = AttemptBook(index, most_remembered)

    def try_now(self, user: str, address: str) -> timedelta | None:
        """Return how long this user must wait at this address; None: they may try, and did.

        The attempt counts before its password is looked at: many at a time gain nothing.

        Raises:
            StorageFullError: The attempt cannot be counted, and is not made.
        """
        now, place = self._clock(), _place(address)
        is_their_desk = self._book.is_known(_desk(user, place), now - DESK_KNOWN, now + WINDOW)
        by_user = None if is_their_desk else MOST_BY_USER
        limits = (
            Limit(Counted("address", place), now - WINDOW, now + WINDOW, MOST_BY_ADDRESS),
            Limit(_user(user), now - WINDOW, now + WINDOW, by_user),
        )
        over = self._book.note_unless_over(limits, now)
        if not over:
            return None
        counting = (self._book.nth_newest(one) for one in over)
        # the clock of another machine may be ahead of ours
        waits = (min(at + WINDOW - now, WINDOW) for at in counting if at is not None)
        return max(waits, default=timedelta())

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of an address: the right one sits there.

        Raises:
            StorageFullError: It cannot be written.
        """
        now, place = self._clock(), _place(address)
        known = Limit(_desk(user, place), now - DESK_KNOWN, now + WINDOW, None)
        self._book.forgive(Counted("address", place), _user(user), known, now)


def _user(name: str) -> Counted:
    return Counted("user", _hashed(name))


def _desk(name: str, place: str) -> Counted:
    return Counted("desk", _hashed(name, place))


def _place(address: str) -> str:
    """Return an address, or of IPv6 the network of one household (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return _hashed(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _hashed(*parts: str) -> str:
    """Return what stands for something that somebody typed."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
