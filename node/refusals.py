"""Says why an association with a peer did not come about, and what the operator may do about it.

Tells a permanent rejection from a transient one. Makes what shows the peer who we are, for that can
fail, too. Opens no connection. Read PS3.8 section 9.3.4 first.
"""

import errno
import socket
from typing import Any

from pynetdicom.pdu_primitives import UserIdentityNegotiation

from node.admission import IdentityType
from node.config import ANY_AE_TITLE, Peer, TlsSection
from node.errors import ConfigError, DeliveryError
from node.tls import CallingContext, client_context, why_no_tls

ACCEPTED = 0
REJECTED_PERMANENT = 1
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

_OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM})
"""What the system says when this machine, not the peer, is the reason."""


def port_to_call(peer: Peer) -> int:
    """Return the port of a peer that can be called.

    Raises:
        DeliveryError: The configuration does not say where or whom to call.
    """
    if peer.port is None or peer.ae_title == ANY_AE_TITLE:
        raise DeliveryError(
            f"peer {peer.name} has no {'port' if peer.port is None else 'AE title'} to call",
            hint=f"complete [[peer]] {peer.name} in the configuration",
            is_retryable=False,
        )
    return peer.port


def credentials(peer: Peer, tls: TlsSection | None) -> tuple[CallingContext | None, list[Any]]:
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


def not_called(peer: Peer, error: OSError | UnicodeError) -> DeliveryError:
    """Return what to tell when no connection could even be tried."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return DeliveryError(
            f"the host of peer {peer.name} is unknown",
            hint="check host in the configuration, and the name service",
            is_retryable=True,
        )
    return DeliveryError(
        f"no connection to peer {peer.name} can be tried: {error.strerror}",
        hint="check the limits and the network of this machine",
        is_retryable=True,
    )


def not_connected(peer: Peer, error: OSError | UnicodeError, took_s: float) -> DeliveryError:
    """Return what to tell about a connection that could not be made."""
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno in _OUR_LIMITS:
        return not_called(peer, error)
    return unreachable(peer, took_s)


def unreachable(peer: Peer, took_s: float) -> DeliveryError:
    """Return what to tell when nobody accepts connections."""
    return DeliveryError(
        f"peer {peer.name} does not accept connections at its host and port (tried {took_s:.1f} s)",
        hint="is it running? check host, port and the firewalls on the way",
        is_retryable=True,
    )


def no_tls(peer: Peer, failure: OSError) -> DeliveryError:
    """Return what to tell about a connection that could not be encrypted.

    It may be tried again: certificates are renewed on both sides without a restart.
    """
    found = why_no_tls(failure)
    return DeliveryError(
        f"peer {peer.name} accepts the connection but not TLS: {found.what}",
        hint=found.mend,
        is_retryable=True,
    )


def unanswered(peer: Peer, took_s: float) -> DeliveryError:
    """Return what to tell when the answer to an association request is none."""
    return DeliveryError(
        f"peer {peer.name} accepts the connection but not the association"
        f" (no answer, or an abort, after {took_s:.1f} s)",
        hint="it may not take our certificate: look into its log"
        if peer.tls
        else "is it a DICOM SCP? does it want TLS? look into its log",
        is_retryable=True,
    )


def rejected(peer: Peer, calling_ae: str, result: int, cause: tuple[int, int]) -> DeliveryError:
    """Return what to tell about an A-ASSOCIATE-RJ, given its result, and its source and reason."""
    hints = {
        _CALLING_AE_UNKNOWN: f"ask its administrator to add our AE title {calling_ae}",
        _CALLED_AE_UNKNOWN: f"correct ae_title of [[peer]] {peer.name} in the configuration",
    }
    if peer.username is not None:
        hints[_IDENTITY_REFUSED] = f"check username and passcode of [[peer]] {peer.name}"
    is_permanent = result == REJECTED_PERMANENT
    return DeliveryError(
        f"peer {peer.name} rejects the association"
        f" {'for good' if is_permanent else 'for now'}:"
        f" {_REJECTION_REASONS.get(cause, 'for an unknown reason')}",
        hint=hints.get(cause, "look into its log"),
        is_retryable=not is_permanent,
    )


def tiny_pdu(peer: Peer, longest_pdu_bytes: int) -> DeliveryError:
    """Return what to tell about a peer that takes PDUs in which nothing has room."""
    return DeliveryError(
        f"peer {peer.name} takes PDUs of {longest_pdu_bytes} bytes only: no message fits",
        hint="let its administrator set a maximum PDU length of 16384 or more",
        is_retryable=False,
    )
