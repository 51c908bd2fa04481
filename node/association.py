"""Opens an association with a peer, and sees to it that every exchange on it ends.

Calls over TLS, and tells the peer a username and passcode, where the configuration says so. Knows
no service; objects are sent over `node.requesting` instead, which is faster. Uses some private
names of pynetdicom, which is therefore pinned. Read PS3.8 section 9.3 first.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, build_role
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import T_CONNECT, AssociationSocket

from node import refusals
from node.config import Peer, TlsSection
from node.requesting import CLOSING_GRACE_S as CLOSING_GRACE_S


class PeerConnection(AssociationSocket):
    """pynetdicom's connection, with an end to every exchange and a close that closes.

    pynetdicom's own time-outs cannot end a send that the peer no longer reads, nor a half
    received PDU: both block in the socket, and an abort waits behind them for ever.
    """

    was_made = False
    _timer: threading.Timer | None = None
    _is_open = False

    @property
    def _is_connected(self) -> bool:
        """As pynetdicom's, but only its own thread is told that the connection ended.

        The thread that negotiates asks this before it looks for an answer. A rejection that comes
        at once ends the connection before, and would be taken for no answer at all.
        """
        is_reader = threading.current_thread() is self.assoc.dul
        return self._is_open or (self.was_made and not is_reader)

    @_is_connected.setter
    def _is_connected(self, is_open: bool) -> None:
        self._is_open = is_open
        self.was_made |= is_open

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, and limit the negotiation; `disarm` ends that."""
        super().connect(primitive)
        if self.socket is not None:
            # a small PDU goes at once: the peer may delay its ACK by 40 ms
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.arm((self.assoc.acse_timeout or 0.0) + CLOSING_GRACE_S)

    def arm(self, limit_s: float) -> None:
        """Cut the connection after that time, unless disarmed."""
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Let the connection live."""
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def cut_after(self, limit_s: float) -> Iterator[None]:
        """Cut the connection if the block takes longer."""
        self.arm(limit_s)
        try:
            yield
        finally:
            self.disarm()

    def _cut(self) -> None:
        line = self.socket
        if line is not None:
            with suppress(OSError):  # already closed: what was wanted
                # not SSLSocket.shutdown: it lets a thread that reads go on in plain text
                socket.socket.shutdown(line, socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        if isinstance(self.socket, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # say that it ends here, wait for no answer
                self.socket.setblocking(False)
                self.socket.unwrap()
        self._cut()
        if self.socket is not None:  # pynetdicom leaves it open if the shutdown fails
            self.socket.close()


class CallingEntity(AE):
    """An application entity that calls one peer over a `PeerConnection`."""

    connection: PeerConnection

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> PeerConnection:
        self.connection = PeerConnection(assoc, address=address)
        self.connection.tls_args = tls_args
        assoc._serve_request = partial(_serve_or_give_back, assoc)  # type: ignore[method-assign]
        return self.connection


def _serve_or_give_back(assoc: Association, message: Any, context_id: int) -> None:
    """Serve a request; give an answer back to the caller that waits for it.

    pynetdicom's reactor is told to pause before a request is sent, but counts as paused one step
    before it is. An answer that comes within that step is taken by it and, as no request, dropped.
    """
    is_awaited = not assoc._reactor_checkpoint.is_set()
    if is_awaited and not message.is_valid_request:
        assoc.dimse.msg_queue.put((context_id, message))
    else:
        Association._serve_request(assoc, message, context_id)


@dataclass(frozen=True, slots=True)
class OpenAssociation:
    """An association that the peer accepted.

    Attributes:
        accepted: SOP class and transfer syntax of each context the peer took. If it took none,
            pynetdicom has already aborted the association.
    """

    peer: Peer
    assoc: Association
    connection: PeerConnection
    accepted: frozenset[tuple[UID, UID]]

    def abort(self) -> None:
        """Send A-ABORT if the association still stands; return within the grace time."""
        if self.assoc.is_established:
            with self.connection.cut_after(CLOSING_GRACE_S):
                self.assoc.abort()

    def release(self) -> None:
        """Release the association if it still stands; return within the grace time."""
        if self.assoc.is_established:
            with self.connection.cut_after(CLOSING_GRACE_S):
                self.assoc.release()


@contextmanager
def open_association(
    peer: Peer,
    calling_ae: str,
    wanted: Sequence[tuple[UID, UID]],
    timeout_s: float,
    tls: TlsSection | None = None,
    *,
    taken: Sequence[PresentationContext] = (),
) -> Iterator[OpenAssociation]:
    """Open an association for a block, release it at its end, abort it after an exception.

    Args:
        peer: Whom to call; it needs a port and an AE title.
        calling_ae: Our AE title.
        wanted: SOP class and transfer syntax of each presentation context, at most 128.
        timeout_s: Limit for the connection, and for the answer to the association request.
        tls: Our certificate and whom we trust; needed for a peer that is called over TLS.
        taken: Further contexts, in which the peer sends and we take (C-GET, PS3.7 D.3.3.4).

    Raises:
        DeliveryError: The association did not come about.
    """
    port = refusals.port_to_call(peer)
    ae = CallingEntity(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
    ae.network_timeout = None  # the caller may take its time between two instances
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    roles = [build_role(one.abstract_syntax or "", scp_role=True) for one in taken]
    encrypted, identity = refusals.credentials(peer, tls)
    start_s = time.perf_counter()
    try:
        assoc = ae.associate(
            peer.host,
            port,
            [*contexts, *taken],
            ae_title=peer.ae_title,
            ext_neg=[*identity, *roles],
            tls_args=None if encrypted is None else (encrypted, peer.host),
        )
    except (OSError, UnicodeError) as error:
        raise refusals.not_called(peer, error) from error
    ae.connection.disarm()
    answer = assoc.acceptor.primitive
    if answer is None or answer.result != refusals.ACCEPTED:
        took_s = time.perf_counter() - start_s
        if answer is not None:
            cause = (answer.result_source or 0, answer.diagnostic or 0)
            raise refusals.rejected(peer, calling_ae, answer.result or 0, cause)
        if encrypted is not None and encrypted.failure is not None:
            raise refusals.no_tls(peer, encrypted.failure)
        if not ae.connection.was_made:
            raise refusals.unreachable(peer, took_s)
        raise refusals.unanswered(peer, took_s)
    accepted = frozenset(_syntax_pairs(assoc.accepted_contexts))
    opened = OpenAssociation(peer, assoc, ae.connection, accepted)
    try:
        yield opened
    except BaseException:
        opened.abort()
        raise
    opened.release()


def _syntax_pairs(contexts: Iterable[PresentationContext]) -> Iterator[tuple[UID, UID]]:
    for context in contexts:
        if context.abstract_syntax is not None:
            yield context.abstract_syntax, context.transfer_syntax[0]
