"""Asks peers whether they hear us (C-ECHO), by the clock or at once; keeps what they answered."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from node.config import Config, Peer, Role
from node.delivery import echo
from node.errors import NodeError
from node.index import Index
from node.index.echoes import EchoBook

LOGGER = logging.getLogger(__name__)

ECHO_TIMEOUT_S = 10.0
"""A peer that takes longer is as good as silent; a person waits for it."""

AT_ONCE = 4
"""Peers that are asked at the same time."""

_EARLY = 0.9
"""Part of the pause after which a peer is asked again: the clock of the schedule is not exact."""


class Echoing:
    """The echoes of one process.

    Args:
        config: The peers, and how often each is asked.
        index: Keeps the answers; its tables exist.
        clock: The time, aware.
    """

    def __init__(self, config: Config, index: Index, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._book = EchoBook(index)
        self._clock = clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin no further echo of `ask_all`."""
        self._stopping.set()

    def ask_all(self) -> None:
        """Ask every peer that we call, unless another process asked it a moment ago."""
        known = self._book.echoes()
        pause = timedelta(minutes=_EARLY * self._config.node.echo_every_min)
        latest = self._clock() - pause
        due = [
            peer
            for peer in self._config.peer
            if is_called(peer)
            and (
                peer.name not in known
                or datetime.fromisoformat(known[peer.name].asked_at) <= latest
            )
        ]
        if not due:
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="echo") as threads:
            list(threads.map(self._ask_quietly, due))

    def ask(self, peer: Peer) -> bool:
        """Ask a peer now, keep what it answered, and tell whether it did."""
        timeout_s = min(ECHO_TIMEOUT_S, self._config.node.network_timeout_s)
        try:
            found = echo(
                peer, self._config.node.ae_title, timeout_s=timeout_s, tls=self._config.tls
            )
        except NodeError as error:
            self._book.came_to_nothing(peer.name, str(error), self._clock())
            return False
        self._book.answered(peer.name, 1000 * found.seconds, self._clock())
        return True

    def _ask_quietly(self, peer: Peer) -> None:
        if self._stopping.is_set():
            return
        try:
            self.ask(peer)
        except Exception:
            # one peer's trouble must not keep the others from being asked
            LOGGER.exception("echo.failed", extra={"peer": peer.name})


def is_called(peer: Peer) -> bool:
    """Tell whether a peer is one that this node calls: it has a port, and receives or is asked."""
    return peer.port is not None and not {Role.RECEIVE, Role.QUERY}.isdisjoint(peer.roles)
