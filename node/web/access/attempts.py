"""How often somebody may try to log in: by address, and by user.

An address that keeps guessing is put off, whoever it guesses. A user who is guessed at from many
addresses is put off, too, but not where they logged in before: nobody can lock a user out of their
own desk. Everything is forgotten after a while; memory is bounded, whatever comes.
"""

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=5)
"""Failures older than this count no longer."""

MOST_BY_ADDRESS = 10
"""Failures of one address within the window; more is guessing."""

MOST_BY_USER = 30
"""Failures for one user within the window, from wherever."""

MOST_REMEMBERED = 10_000
"""Addresses, users and their desks of which something is remembered, each."""

DESK_KNOWN = timedelta(days=30)
"""So long an address counts as a user's own after they logged in there."""


class Attempts:
    """Failed logins of late, in this process. May be used from several threads.

    Args:
        clock: The time, aware.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_address: OrderedDict[Hashable, list[datetime]] = OrderedDict()
        self._by_user: OrderedDict[Hashable, list[datetime]] = OrderedDict()
        self._desks: OrderedDict[Hashable, list[datetime]] = OrderedDict()

    def try_now(self, user: str, address: str) -> timedelta | None:
        """Return how long this user must wait at this address; None: they may try, and did.

        The attempt counts before its password is looked at: many at a time gain nothing.
        """
        now, place = self._clock(), _place(address)
        with self._lock:
            by_address = _recent(self._by_address, place, now, WINDOW)
            by_user = _recent(self._by_user, user, now, WINDOW)
            is_their_desk = bool(_recent(self._desks, (user, place), now, DESK_KNOWN))
            over = []
            if len(by_address) >= MOST_BY_ADDRESS:
                over.append(by_address[-MOST_BY_ADDRESS])
            if len(by_user) >= MOST_BY_USER and not is_their_desk:
                over.append(by_user[-MOST_BY_USER])
            if over:
                return max(at + WINDOW - now for at in over)
            _remember(self._by_address, place, now, MOST_BY_ADDRESS)
            _remember(self._by_user, user, now, MOST_BY_USER)
        return None

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of an address: the right one sits there."""
        place = _place(address)
        with self._lock:
            self._by_address.pop(place, None)
            if failures := self._by_user.get(user):
                failures.pop()
            _remember(self._desks, (user, place), self._clock(), 1)


def _place(address: str) -> str:
    """Return an address, or of IPv6 the network of one household (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _recent(
    known: OrderedDict[Hashable, list[datetime]], key: Hashable, now: datetime, within: timedelta
) -> list[datetime]:
    return [at for at in known.get(key, ()) if now - within < at <= now]


def _remember(
    known: OrderedDict[Hashable, list[datetime]], key: Hashable, now: datetime, most: int
) -> None:
    known[key] = [*known.get(key, ()), now][-most:]
    known.move_to_end(key)
    while len(known) > MOST_REMEMBERED:
        known.popitem(last=False)
