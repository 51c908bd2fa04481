"""Opens an association with a peer, and sees to it that every exchange on it ends.

Tells a permanent rejection from a transient one and puts both into words for the operator. Calls
over TLS, and tells the peer a username and passcode, where the configuration says so. Knows no
service: what is said on the association is the business of `node.delivery`. Uses some private
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
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import T_CONNECT, AssociationSocket

from node.admission import IdentityType
from node.config import ANY_AE_TITLE, Peer, TlsSection
from node.errors import ConfigError, DeliveryError
from node.tls import CallingContext, client_context, why_no_tls

CLOSING_GRACE_S = 2.0
"""How long an association may take to say goodbye before the connection is cut."""

_ACCEPTED = 0
_REJECTED_PERMANENT = 1
"""Result of an association request (PS3.8 table 9-21); 2 is a transient rejection."""

_CALLING_AE_UNKNOWN = (1, 3)
_CALLED_AE_UNKNOWN = (1, 7)
_IDENTITY_REFUSED = (2, 1)
_REJECTION_REASONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    _CALLING_AE_UNKNOWN: "it does not know our AE title",
    _CALLED_AE_UNKNOWN: "it does not answer to the AE title that it is called by",
    _IDENTITY_REFUSED: "it gives no reason",
    (2, 2): "it does not know the protocol version",
    (3, 1): "it is congested",
    (3, 2): "it has as many associations as it allows",
}
"""Source and reason of an A-ASSOCIATE-RJ in words (PS3.8 table 9-21)."""


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
) -> Iterator[OpenAssociation]:
    """Open an association for a block, release it at its end, abort it after an exception.

    Args:
        peer: Whom to call; it needs a port and an AE title.
        calling_ae: Our AE title.
        wanted: SOP class and transfer syntax of each presentation context, at most 128.
        timeout_s: Limit for the connection, and for the answer to the association request.
        tls: Our certificate and whom we trust; needed for a peer that is called over TLS.

    Raises:
        DeliveryError: The association did not come about.
    """
    if peer.port is None or peer.ae_title == ANY_AE_TITLE:
        raise DeliveryError(
            f"peer {peer.name} has no {'port' if peer.port is None else 'AE title'} to call",
            hint=f"complete [[peer]] {peer.name} in the configuration",
            is_retryable=False,
        )
    ae = CallingEntity(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
    ae.network_timeout = None  # the caller may take its time between two instances
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    encrypted, identity = _credentials(peer, tls)
    start_s = time.perf_counter()
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts,
            ae_title=peer.ae_title,
            ext_neg=identity,
            tls_args=None if encrypted is None else (encrypted, peer.host),
        )
    except (socket.gaierror, UnicodeError) as error:
        raise DeliveryError(
            f"the host of peer {peer.name} is unknown",
            hint="check host in the configuration, and the name service",
            is_retryable=True,
        ) from error
    except OSError as error:
        raise DeliveryError(
            f"no connection to peer {peer.name} can be tried: {error.strerror}",
            hint="check the limits and the network of this machine",
            is_retryable=True,
        ) from error
    ae.connection.disarm()
    answer = assoc.acceptor.primitive
    if answer is None or answer.result != _ACCEPTED:
        took_s = time.perf_counter() - start_s
        if answer is None and encrypted is not None and encrypted.failure is not None:
            raise _no_tls(peer, encrypted.failure)
        raise _refused_association(peer, calling_ae, answer, took_s, ae.connection.was_made)
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


def _credentials(peer: Peer, tls: TlsSection | None) -> tuple[CallingContext | None, list[Any]]:
    """Return what shows the peer who we are: our certificate, and the username it knows us by.

    Raises:
        DeliveryError: A file cannot be used. Another attempt may find it mended.
    """
    try:
        encrypted = client_context(peer, tls) if peer.tls else None
        passcode = peer.read_passcode()
    except ConfigError as error:
        raise DeliveryError(
            f"peer {peer.name} cannot be called: {error}",
            hint="mend the file or the configuration; the doctor checks both",
            is_retryable=True,
        ) from error
    if peer.username is None:
        return encrypted, []
    identity = UserIdentityNegotiation()
    identity.user_identity_type = IdentityType.USERNAME
    # what a peer answers to an identity proves nothing: no positive response is asked for
    identity.positive_response_requested = False
    identity.primary_field = peer.username.encode()
    if passcode is not None:
        identity.user_identity_type = IdentityType.USERNAME_AND_PASSCODE
        identity.secondary_field = passcode.encode()
    return encrypted, [identity]


def _no_tls(peer: Peer, failure: OSError) -> DeliveryError:
    """Return what to tell about a connection that could not be encrypted.

    It may be tried again: certificates are renewed on both sides without a restart.
    """
    found = why_no_tls(failure)
    return DeliveryError(
        f"peer {peer.name} accepts the connection but not TLS: {found.what}",
        hint=found.mend,
        is_retryable=True,
    )


def _refused_association(
    peer: Peer,
    calling_ae: str,
    answer: A_ASSOCIATE | None,
    took_s: float,
    is_connected: bool,
) -> DeliveryError:
    """Return what to tell about an association that did not come about."""
    if answer is None and not is_connected:
        return DeliveryError(
            f"peer {peer.name} does not accept connections at its host and port"
            f" (tried {took_s:.1f} s)",
            hint="is it running? check host, port and the firewalls on the way",
            is_retryable=True,
        )
    if answer is None:
        return DeliveryError(
            f"peer {peer.name} accepts the connection but not the association"
            f" (no answer, or an abort, after {took_s:.1f} s)",
            hint="it may not take our certificate: look into its log"
            if peer.tls
            else "is it a DICOM SCP? does it want TLS? look into its log",
            is_retryable=True,
        )
    cause = (answer.result_source or 0, answer.diagnostic or 0)
    hints = {
        _CALLING_AE_UNKNOWN: f"ask its administrator to add our AE title {calling_ae}",
        _CALLED_AE_UNKNOWN: f"correct ae_title of [[peer]] {peer.name} in the configuration",
    }
    if peer.username is not None:
        hints[_IDENTITY_REFUSED] = f"check username and passcode of [[peer]] {peer.name}"
    is_permanent = answer.result == _REJECTED_PERMANENT
    return DeliveryError(
        f"peer {peer.name} rejects the association"
        f" {'for good' if is_permanent else 'for now'}:"
        f" {_REJECTION_REASONS.get(cause, 'for an unknown reason')}",
        hint=hints.get(cause, "look into its log"),
        is_retryable=not is_permanent,
    )
