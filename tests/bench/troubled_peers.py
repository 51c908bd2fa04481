"""Peers of a department that each fail in a way of their own, by the hour of a simulated day.

The ways are those that users of other nodes tell of: a rejection for good, no room for two days, a
peer that accepts a connection and says nothing, one that stops in the middle, one that accepts no
context, one that never reports a commitment, one that is down at night, one that aborts.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from node.config import Peer, Role
from node.receiver import Fault, Rejection, StandInReceiver
from tests.committing_peer import Behavior, CommittingPeer
from tests.nodes import free_port
from tests.owed_results import START, receiver

NIGHT_BEGINS_H, NIGHT_ENDS_H = 20, 6
FULL_FROM, FULL_FOR = timedelta(days=3), timedelta(days=2)
OUT_OF_RESOURCES = 0xA700
"""Refused: out of resources (PS3.4 table B.2-1)."""

ABORTS_AT = 7
"""One object in so many is answered with an abort."""


class Mute:
    """Takes every connection, says nothing, and lets go of it when the caller does."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Mute":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while connection.recv(65536):
                    pass


class Nightly:
    """A receiver that is switched off at night.

    Args:
        receiver: Started and stopped by `follow`.
    """

    def __init__(self, receiver: StandInReceiver) -> None:
        self._receiver = receiver
        self._is_on = False

    def follow(self, now: datetime) -> None:
        """Switch it on or off, as the hour demands."""
        is_day = NIGHT_ENDS_H <= now.hour < NIGHT_BEGINS_H
        if is_day and not self._is_on:
            self._receiver.start()
        elif self._is_on and not is_day:
            self._receiver.stop()
        self._is_on = is_day

    def close(self) -> None:
        """Switch it off for good."""
        if self._is_on:
            self._receiver.stop()


@contextmanager
def troubled_peers(
    folder: Path, clock: Callable[[], datetime]
) -> Iterator[tuple[list[Peer], Callable[[datetime], None]]]:
    """Give peers, the good one first, and what tells them the time."""
    count = 0

    def full(_uid: str, _times: int) -> int:
        since = clock() - START
        return OUT_OF_RESOURCES if FULL_FROM <= since < FULL_FROM + FULL_FOR else 0x0000

    def stalling(_uid: str, times: int) -> int | Fault:
        return Fault.STALL if times <= 1 else 0x0000

    def abrupt(_uid: str, _times: int) -> int | Fault:
        nonlocal count
        count += 1
        return Fault.ABORT if count % ABORTS_AT == 0 else 0x0000

    with ExitStack() as stack:
        good = stack.enter_context(CommittingPeer("GOOD"))
        strict = stack.enter_context(StandInReceiver(folder / "strict", "STRICT"))
        strict.rejection = Rejection.CALLING_AE_UNKNOWN
        ports = {"strict": strict.port}
        for name, answer in (("full", full), ("stalling", stalling), ("abrupt", abrupt)):
            one = StandInReceiver(folder / name, name.upper(), status_for=answer)
            ports[name] = stack.enter_context(one).port
        ports["mute"] = stack.enter_context(Mute()).port
        narrow = StandInReceiver(folder / "narrow", "NARROW", sop_classes=())
        ports["narrow"] = stack.enter_context(narrow).port
        never = CommittingPeer("SILENT", Behavior(reports="never"))
        silent = receiver("silent", stack.enter_context(never).port, Role.COMMIT)
        nightly = Nightly(StandInReceiver(folder / "nightly", "NIGHTLY", free_port_of(ports)))
        stack.callback(nightly.close)
        peers = [
            receiver("good", good.port, Role.COMMIT),
            *(receiver(name, port) for name, port in ports.items()),
            silent,
        ]
        nightly.follow(clock())
        yield peers, nightly.follow


def free_port_of(ports: dict[str, int]) -> int:
    """Choose a port for the peer that is off now and then, and note it."""
    ports["nightly"] = free_port()
    return ports["nightly"]
