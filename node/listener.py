"""Listens for associations, and keeps count of those that are open.

A connection beyond the bound takes the place of the longest silent stranger, if there is one, so
that nobody is kept out by connections that say nothing. What happens on a connection is the
business of `node.transport`.
"""

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.pdu_stream import Command
from node.providers import check_pynetdicom
from node.transport import (
    CLOSING_S,
    AcceptedAssociation,
    Limits,
    ObjectSink,
    bound_handlers,
)

LOGGER = logging.getLogger(__name__)

BACKLOG = 128
"""Connections that the system holds until they are accepted."""

_TCP_INFO = struct.Struct("<8B5I")
_WAITING_PLACE = 12
"""Of what Linux tells of a TCP socket, its beginning: of one that listens, the field `tcpi_unacked`
says how many connections wait to be accepted (tcp(7))."""


class AssociationServer:
    """Listens on one address and serves every association in a thread of its own.

    Args:
        ae: Who is called; its supported contexts are offered.
        address: Host and port; port 0 lets the system choose.
        event_handlers: As pynetdicom's `start_server` takes them.
        limits: Bounds of every association.
        begin_store: Gives the sink for a C-STORE.
        may_connect: Whether an address may connect; else its connection is closed unread.
        on_refused: Called with an address that did not get as far as an association request.
        secure: Wraps a connection for TLS, without handshake; None for plain TCP.

    Raises:
        OSError: The address cannot be used.
    """

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        event_handlers: Sequence[tuple[Any, Callable[[Any], Any]]],
        limits: Limits,
        begin_store: Callable[[Association, PresentationContext, Command], ObjectSink],
        *,
        may_connect: Callable[[str], bool] = lambda _address: True,
        on_refused: Callable[[str], None] = lambda _address: None,
        secure: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        check_pynetdicom()
        self.ae = ae
        self.limits = limits
        self.begin_store = begin_store
        self.contexts = list(ae.supported_contexts)
        self._may_connect = may_connect
        self.on_refused = on_refused
        self._secure = secure
        self.handlers = bound_handlers(ae, event_handlers)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(
            address, family=family, backlog=BACKLOG, dualstack_ipv6=address[0] == "::"
        )
        self.address = self._listener.getsockname()
        self._lock = threading.Lock()
        self._open: dict[AcceptedAssociation, None] = {}  # the oldest first
        self._is_full = False
        self._is_stopping = False
        self._left_waiting_since_s: float | None = None
        self._thread = threading.Thread(target=self._accept_all, name="scp-accept", daemon=True)

    def start(self) -> int:
        """Listen; return the port."""
        self._thread.start()
        return int(self.address[1])

    def stop(self, within_s: float) -> None:
        """Listen no longer, and abort what is open.

        An object that is being kept is kept and answered. A peer that takes no answer is cut off
        after half of the time.
        """
        self._is_stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(CLOSING_S)
        self._listener.close()
        waiting = self.associations()
        for assoc in waiting:
            assoc.abort(block=False)
        for share in (within_s / 2, within_s / 2):
            deadline_s = time.monotonic() + share
            for assoc in waiting:
                if assoc.ident:
                    assoc.join(max(0.0, deadline_s - time.monotonic()))
            waiting = [assoc for assoc in waiting if assoc.is_alive()]
            for assoc in waiting:
                assoc.cut()

    def why_stuck(self, limit_s: float) -> str:
        """Return that nobody accepts connections any more, or an empty text.

        To be asked again and again: connections that wait at one look may be accepted by the next.
        """
        if self._is_stopping:
            return ""
        if not self._thread.is_alive():
            return "the thread that accepts associations has ended"
        now_s = time.monotonic()
        if not _waiting_connections(self._listener):
            self._left_waiting_since_s = None
        elif self._left_waiting_since_s is None:
            self._left_waiting_since_s = now_s
        elif now_s - self._left_waiting_since_s > limit_s:
            return "connections wait, and nobody accepts them"
        return ""

    def associations(self) -> list[AcceptedAssociation]:
        """Return those that are open, those that still negotiate included."""
        with self._lock:
            return list(self._open)

    def forget(self, assoc: AcceptedAssociation) -> None:
        """Take an association that has ended from the open ones."""
        with self._lock:
            self._open.pop(assoc, None)

    def _accept_all(self) -> None:
        while not self._is_stopping:
            try:
                line, address = self._listener.accept()
            except OSError:
                if not self._is_stopping:  # no file handle left, say
                    threading.Event().wait(0.1)
                continue
            try:
                self._accept(line, address)
            except Exception:
                LOGGER.exception("association.not_started")
                line.close()

    def _accept(self, line: socket.socket, address: Any) -> None:
        if not self._may_connect(address[0]) or not self._has_room():
            line.close()
            return
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = line if self._secure is None else self._secure(line)
        except OSError:  # gone already
            line.close()
            return
        assoc = AcceptedAssociation(self, secured, address)
        with self._lock:
            self._open[assoc] = None
        try:
            assoc.start()
        except RuntimeError:  # no thread left
            self.forget(assoc)
            raise

    def _has_room(self) -> bool:
        """Tell whether one more may come; for it the longest silent stranger may have to go."""
        with self._lock:
            is_full = len(self._open) >= self.limits.connections
            silent = next((assoc for assoc in self._open if assoc.is_requesting), None)
        if is_full != self._is_full:
            self._is_full = is_full
            if is_full:
                LOGGER.warning("connections.full", extra={"count": self.limits.connections})
        if is_full and silent is not None:
            silent.abort(block=False)
        return not is_full or silent is not None


def _waiting_connections(listener: socket.socket) -> int:
    """Return how many connections wait to be accepted; 0 where the system does not tell."""
    try:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return int(_TCP_INFO.unpack(told)[_WAITING_PLACE])
    except (OSError, AttributeError, struct.error):
        return 0
