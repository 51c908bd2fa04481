"""Which processes share the work, and which of them have fallen silent.

Each gives signs of life, counted in the index. A process is silent when its count stood still for
as long as this process has looked, by its own steady clock: that the hosts' clocks differ does not
matter, and a database that was away makes nobody silent. A process that is only slow, stopped or
cut off may be taken for dead: what it does later is refused where it is written (`RevisionKey`,
`DeliveryKey`), so that is harmless.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from node.case_job import software_version
from node.config import Config
from node.index import Index
from node.index.heartbeats import Heartbeats, ProcessIdentity, Sign

LOGGER = logging.getLogger(__name__)

BEATS_IN_LIMIT = 6
"""How many signs of life a process gives within `node.heartbeat_limit_s`."""

SILENT_AFTER = 3 / BEATS_IN_LIMIT
"""Share of the limit after which it is silent: the rest is for noticing it, and for taking over."""

LONGEST_BEAT_S = 10.0

SERVE, WORKER = "serve", "worker"
"""Roles of processes."""


@dataclass(frozen=True, slots=True)
class _Seen:
    beats: int
    since_s: float
    role: str


class Membership:
    """This process among the others.

    Args:
        book: The signs of life.
        identity: Of this process.
        limit_s: Within which time the work of one that died is to be taken over.
        clock: The time, aware.
        steady_s: Seconds that nobody sets.
    """

    def __init__(
        self,
        book: Heartbeats,
        identity: ProcessIdentity,
        limit_s: float,
        clock: Callable[[], datetime],
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._book = book
        self._clock = clock
        self._steady_s = steady_s
        self._silent_after_s = limit_s * SILENT_AFTER
        self.beat_every_s = min(limit_s / BEATS_IN_LIMIT, LONGEST_BEAT_S)
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._looked_s = self._steady_s()

    def beat(self) -> None:
        """Give a sign of life."""
        self._book.beat(self.identity, self._clock())

    def leave(self) -> None:
        """Give the last one: this process ends in order."""
        self._book.forget(self.identity.name)

    def look(self, others: Iterable[str] = ()) -> bool:
        """See who lives; tell whether a process has ended, or fallen silent, since the last look.

        Args:
            others: Processes of which something is left, whether they ever gave a sign or not.
        """
        before = self._living()
        self._see(others)
        return not before <= self._living()

    def _living(self) -> set[str]:
        with self._lock:
            return set(self._seen) - set(self._silent())

    def _see(self, others: Iterable[str]) -> None:
        signs = self._book.signs()  # fails while the database is away
        now_s = self._steady_s()
        with self._lock:
            was_away = now_s - self._looked_s > self._silent_after_s / 2
            self._looked_s = now_s
            found = {s.identity.name: _Seen(s.beats, now_s, s.identity.role) for s in signs}
            for name in others:
                found.setdefault(name, _Seen(0, now_s, ""))
            for name, seen in found.items():
                known = self._seen.get(name)
                # who did not look for so long cannot say that the others were silent meanwhile
                if known is not None and known.beats == seen.beats and not was_away:
                    found[name] = known
            self._seen = found

    def silent(self) -> dict[str, int]:
        """Return who had fallen silent when this process last looked, and with which count."""
        with self._lock:
            return self._silent()

    def _silent(self) -> dict[str, int]:
        return {
            name: seen.beats
            for name, seen in self._seen.items()
            if name != self.identity.name and self._looked_s - seen.since_s >= self._silent_after_s
        }

    def is_alive(self, name: str) -> bool:
        """Tell whether a process is this one, or gave signs of life when this one last looked."""
        return name == self.identity.name or name in self._living()

    def works_elsewhere(self, version: str) -> bool:
        """Tell whether another process that is not silent runs a version of the program."""
        not_asked = {self.identity.name, *self.silent()}
        return any(
            sign.identity.version == version and sign.identity.name not in not_asked
            for sign in self._book.signs()
        )

    def is_first(self) -> bool:
        """Tell whether this process is the first by name of those of its role that are not silent.

        What one process is to do is done by that one. Two may think so for a moment.
        """
        with self._lock:
            silent = self._silent()
            return not any(
                name < self.identity.name
                for name, seen in self._seen.items()
                if seen.role == self.identity.role and name not in silent
            )


def versions_at_work(
    signs: Iterable[Sign], now: datetime, limit_s: float
) -> dict[str, tuple[str, ...]]:
    """Return which processes work, by the version that they run.

    One whose last sign of life is older than `limit_s` works no more.
    """
    found: dict[str, tuple[str, ...]] = {}
    for sign in signs:
        if (now - sign.beat_at).total_seconds() <= limit_s:
            version = sign.identity.version
            found[version] = (*found.get(version, ()), sign.identity.name)
    return dict(sorted(found.items()))


def membership_of(
    config: Config, index: Index, name: str, role: str, clock: Callable[[], datetime]
) -> Membership:
    """Return what makes a process of that name one of those that share an index."""
    identity = ProcessIdentity(name, role, software_version())
    return Membership(Heartbeats(index), identity, config.node.heartbeat_limit_s, clock)
