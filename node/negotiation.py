"""Requests an association with a peer: connection, TLS, identity, presentation contexts.

pynetdicom encodes the association request and decodes its answer. Whatever does not lead to an
association ends in a `DeliveryError` that says why, in the words of `node.refusals`. Read PS3.8
section 9.3.2 first.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from node import conformance, refusals
from node.config import Peer, TlsSection
from node.errors import DeliveryError
from node.fragments import SHORTEST_PDU_BYTES
from node.pdu_stream import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    INVALID_PARAMETER,
    PDU_HEADER,
    LineEndedError,
    PduStream,
    ProtocolError,
    abort_pdu,
)
from node.requesting import ANSWER_PDU_BYTES, LONGEST_OTHER_BYTES, USER, RequestedAssociation

LONGEST_ACCEPTANCE_BYTES = 256 << 10
"""Of an A-ASSOCIATE-AC: 128 presentation contexts take a twentieth of it."""


def request(
    peer: Peer,
    calling_ae: str,
    wanted: Sequence[tuple[UID, UID]],
    timeout_s: float,
    tls: TlsSection | None = None,
) -> RequestedAssociation:
    """Return an association with a peer; the caller releases or aborts it.

    Args:
        peer: Whom to call; it needs a port and an AE title.
        calling_ae: Our AE title.
        wanted: SOP class and transfer syntax of each presentation context, at most 128.
        timeout_s: Limit for the connection, for TLS, and for the answer to the request.
        tls: Our certificate and whom we trust; needed for a peer that is called over TLS.

    Raises:
        DeliveryError: The association did not come about.
    """
    port = refusals.port_to_call(peer)
    encrypted, identity = refusals.credentials(peer, tls)
    start_s = time.perf_counter()
    try:
        line = socket.create_connection((peer.host, port), timeout_s)
    except (OSError, UnicodeError) as error:
        raise refusals.not_connected(peer, error, time.perf_counter() - start_s) from error
    try:
        # a small PDU goes at once: the peer may delay its ACK by 40 ms
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if encrypted is not None:
            line = encrypted.wrap_socket(
                line, server_hostname=peer.host, do_handshake_on_connect=False
            )
            line.settimeout(timeout_s)
            line.do_handshake()
        stream = PduStream(line, timeout_s)
        stream.set_deadline(timeout_s)
        try:
            stream.send(_request_pdu(peer, calling_ae, wanted, identity))
        except LineEndedError:
            if encrypted is None:
                raise
            # why is there to be read: in TLS 1.3 a peer refuses our certificate that late
        pdu_type, length = stream.next_pdu()
        if pdu_type == ASSOCIATE_RJ and length <= LONGEST_OTHER_BYTES:
            _, result, *cause = stream.read(length).ljust(4, b"\0")
            raise refusals.rejected(peer, calling_ae, result, (cause[0], cause[1]))
        if pdu_type != ASSOCIATE_AC or length > LONGEST_ACCEPTANCE_BYTES:
            raise LineEndedError  # noqa: TRY301 - joins the others below
        accepted, longest_pdu_bytes = _accepted(stream.read(length), wanted)
        stream.set_deadline(None)
        if 0 < longest_pdu_bytes < SHORTEST_PDU_BYTES:
            stream.send(abort_pdu(USER, 0))
            raise refusals.tiny_pdu(peer, longest_pdu_bytes)
    except DeliveryError:
        line.close()
        raise
    except (OSError, LineEndedError, ProtocolError) as error:
        line.close()
        failure = None if encrypted is None else encrypted.failure or _tls_failure(error)
        if failure is not None:
            raise refusals.no_tls(peer, failure) from error
        raise refusals.unanswered(peer, time.perf_counter() - start_s) from error
    return RequestedAssociation(peer, stream, frozenset(wanted), accepted, longest_pdu_bytes)


def _tls_failure(error: Exception) -> OSError | None:
    """Return what TLS says; in TLS 1.3 a peer refuses our certificate behind the handshake."""
    told = error.__cause__ if isinstance(error, LineEndedError) else error
    return told if isinstance(told, ssl.SSLError) else None


def _request_pdu(
    peer: Peer, calling_ae: str, wanted: Sequence[tuple[UID, UID]], identity: Sequence[Any]
) -> bytes:
    longest = MaximumLengthNotification()
    longest.maximum_length_received = ANSWER_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = conformance.IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = conformance.IMPLEMENTATION_VERSION_NAME
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1  # odd (PS3.8 9.3.2.2)
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT_NAME)
    primitive.calling_ae_title = calling_ae
    primitive.called_ae_title = peer.ae_title
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = [longest, implementation, version, *identity]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def _accepted(
    content: bytes, wanted: Sequence[tuple[UID, UID]]
) -> tuple[dict[tuple[UID, UID], int], int]:
    """Return the contexts of an A-ASSOCIATE-AC, and the longest PDU that the peer takes.

    A context counts only if its one transfer syntax comes back: no other was proposed.

    Raises:
        ProtocolError: It cannot be decoded.
    """
    pdu = A_ASSOCIATE_AC()
    accepted = {}
    try:
        pdu.decode(PDU_HEADER.pack(ASSOCIATE_AC, len(content)) + content)
        primitive = pdu.to_primitive()
        for context in primitive.presentation_context_definition_results_list:
            number, is_odd = divmod(context.context_id or 0, 2)
            if is_odd and number < len(wanted) and context.result == refusals.ACCEPTED:
                if context.transfer_syntax != [wanted[number][1]]:
                    continue
                accepted[wanted[number]] = context.context_id or 0
        longest_pdu_bytes = primitive.maximum_length_received or 0
    except Exception as error:
        # whatever pynetdicom's decoder raises means this
        raise ProtocolError(INVALID_PARAMETER, "its acceptance cannot be decoded") from error
    return accepted, longest_pdu_bytes
