"""Accepts associations without polling: one thread each, which waits in the socket.

pynetdicom negotiates, and serves whatever is neither C-ECHO nor C-STORE; its events are triggered
as ever (the `request` of EVT_C_ECHO is our `Command`). What comes while a request is served (a
C-CANCEL, the answers to what is sent on the same association) is read by the thread that serves.
A C-STORE is streamed from the connection into whatever `ObjectSink` the node gives, and answered
with one segment. This is the only module that uses private names of pynetdicom on the accepting
side, with `node.providers`. Decides nothing: who may come is decided by handlers of EVT_REQUESTED,
what is kept by the sink.

Read PS3.8 section 9.2 (states) and `AcceptedAssociation.run_reactor` first.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom import AE, evt
from pynetdicom._globals import APPLICATION_CONTEXT_NAME, MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from node.association_request import examined
from node.pdu_stream import (
    ABORT,
    ASSOCIATE_RQ,
    INVALID_PARAMETER,
    IS_COMMAND,
    IS_LAST,
    LONGEST_COMMAND_BYTES,
    PDU_HEADER,
    PDV_HEADER,
    RELEASE_RQ,
    UNEXPECTED_PDU,
    Command,
    LineEndedError,
    PduStream,
    ProtocolError,
    abort_pdu,
    read_command,
    response_pdu,
)
from node.pdu_stream import (
    P_DATA_TF as P_DATA_TYPE,
)
from node.providers import Messages, UpperLayer
from node.tls import why_no_tls

LOGGER = logging.getLogger(__name__)

LONGEST_REQUEST_BYTES = 256 << 10
"""Of an A-ASSOCIATE-RQ: 128 presentation contexts of many transfer syntaxes take a fifth of it."""

LONGEST_OTHER_BYTES = 64
"""Of a release or an abort, which have four."""

LARGEST_IDENTIFIER_BYTES = 4 << 20
"""Of the data set of another message than a C-STORE, which is held in memory."""

MOST_PIECES = 512
"""Pieces of a data set that are written together: the system takes 1024 (IOV_MAX)."""

CLOSING_S = 2.0
"""How long the peer may take to close a connection that is done with."""


_CONGESTED = (2, 3, 1)
_CONTEXT_NAME_NOT_SUPPORTED = (1, 1, 2)
_VERSION_NOT_SUPPORTED = (1, 2, 2)
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

_USER, _PROVIDER = 0, 2
"""Source of an A-ABORT (PS3.8 table 9-26)."""
_ABORT_REASONS = (1, 2, 4, 5, 6)
"""Of the provider, where it gives one (the same table); pynetdicom takes no others."""


class ObjectSink(Protocol):
    """Takes the data set of one C-STORE."""

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Take the next bytes; the views are valid during the call only."""

    def finish(self) -> tuple[int, str]:
        """Return status and Error Comment once the data set is complete and, if so, kept."""

    def abandon(self) -> None:
        """Keep nothing: the data set will not be completed."""


class Server(Protocol):
    """What an association needs of the one that accepted it."""

    ae: AE
    address: Any
    contexts: list[PresentationContext]
    handlers: dict[Any, Any]
    limits: "Limits"
    begin_store: Callable[[Association, PresentationContext, Command], ObjectSink]
    on_refused: Callable[[str], None]

    def forget(self, assoc: "AcceptedAssociation") -> None:
        """Take an association that has ended from the open ones."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every association.

    Attributes:
        connections: How many may be open at once, those that still negotiate included.
        pdu_bytes: Longest P-DATA-TF PDU; announced.
        negotiation_s: From the connection to the association request.
        silence_s: How long a peer may neither send nor take anything.
    """

    connections: int
    pdu_bytes: int
    negotiation_s: float
    silence_s: float


def bound_handlers(
    ae: AE, event_handlers: Sequence[tuple[Any, Callable[[Any], Any]]]
) -> dict[Any, Any]:
    """Return what every association gets as its handlers, pynetdicom's own among them."""
    pattern = Association(ae, MODE_ACCEPTOR)
    for event, handler in event_handlers:
        pattern.bind(event, handler)
    return pattern._handlers


class AcceptedAssociation(Association):
    """An association that a peer requested, in one thread that waits in the socket.

    Attributes:
        certificate: The peer's, in DER, if it showed one.
        is_requesting: Whether its request is still to come.
        is_admitted: To be set by a handler of EVT_REQUESTED; else the association is rejected.
    """

    dul: UpperLayer
    dimse: Messages
    certificate: bytes | None = None
    is_requesting = True
    is_admitted = False

    def __init__(self, server: Server, line: socket.socket, address: Any) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.name = f"association {address[0]}:{address[1]}"
        self.daemon = True
        self._listening = server
        self._line = line
        self._stream = PduStream(line, server.limits.silence_s)
        self.dul = UpperLayer(self, self._stream)
        self.dimse = Messages(self)
        self._handlers = dict(server.handlers)
        self._has_spoken = self._is_version_known = False
        self._is_serving = self._is_awaiting = False
        self._sink: ObjectSink | None = None
        self._store_request: Command | None = None
        self._context_id = 0
        self._command = bytearray()
        self._identifier_bytes: int | None = None
        """Of another message's data set that is being received; None between messages."""
        self._pieces: list[memoryview] = []
        self.acceptor.maximum_length = server.limits.pdu_bytes
        self.acceptor.ae_title = server.ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(server.address)
        self.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        self.acceptor.implementation_version_name = server.ae.implementation_version_name
        self.acceptor.supported_contexts = server.contexts  # shared: negotiation reads them only
        self.requestor.address_info = AddressInformation.from_tuple(address)

    # --- the life of an association ------------------------------------------------------------

    def run_reactor(self) -> None:
        """Negotiate, serve, close; whatever happens, the connection is closed at the end."""
        try:
            self._live()
        except (ProtocolError, TimeoutError, LineEndedError) as error:
            self._end_for(error)
        except Exception:
            LOGGER.exception("association.failed")
            self._end_by_abort(_PROVIDER, 0)
        finally:
            self._abandon()
            self._kill = True
            self.is_established = False
            try:
                self._stream.close(CLOSING_S)
            finally:
                self._listening.forget(self)

    def _end_for(self, error: Exception) -> None:
        """End as what went wrong demands."""
        if isinstance(error, ProtocolError):
            fields = {"reason": str(error), "address": self.requestor.address}
            calling_ae = self.requestor.ae_title
            LOGGER.warning("association.protocol_error", extra={**fields, "calling_ae": calling_ae})
            if not self.is_requesting:
                self._end_by_abort(_PROVIDER, error.reason)
                return
        elif isinstance(error, LineEndedError) and not self._sent_abort:
            lost = A_P_ABORT()
            lost.provider_reason = 0
            self._mark_aborted(lost)
            return
        self._end_by_abort(_USER, 0)  # PS3.8 9.2.3, action AA-1; or `abort` woke this thread

    def _live(self) -> None:
        stream = self._stream
        stream.set_deadline(self._listening.limits.negotiation_s)
        try:
            self._shake_hands()
            self.requestor.primitive = self._request()
        except (ProtocolError, LineEndedError, TimeoutError):
            if self._has_spoken or stream.has_received:  # a balancer only looks who is there
                self._listening.on_refused(self.requestor.address)
            raise
        refusal = self._refusal()
        if refusal is not None:
            self.acse.send_reject(*refusal)
            return
        self.is_requesting = False
        evt.trigger(self, evt.EVT_REQUESTED, {})
        if not (self.is_admitted or self.is_aborted or self.is_rejected):
            self.acse.send_reject(*_CONGESTED)  # the handler failed: nobody comes in by that
        if self.is_admitted and not (self.is_rejected or self._sent_abort):
            self.acse.negotiate_association()
        if not self.is_established:
            return
        stream.set_deadline(None)
        stream.before_refill = self._flush
        while not (self._kill or self._sent_abort):
            self._take_pdu()
            self._serve_what_waits()

    def _take_pdu(self) -> None:
        pdu_type, length = self._stream.next_pdu()
        if pdu_type == P_DATA_TYPE:
            self._take_p_data(length)
        else:
            self._take_other(pdu_type, length)

    # --- while a request is served, in this thread ---------------------------------------------

    def take_what_came(self) -> None:
        """Take what is there already: a C-CANCEL, say, or an abort."""
        self._take_while(lambda: self._stream.is_readable(0.0))

    def wait_for_message(self) -> None:
        """Take what comes until a message is there or the association ends."""
        self._stream.set_deadline(self.dimse_timeout)
        self._is_awaiting = True
        self._take_while(self.dimse.msg_queue.empty)
        self._is_awaiting = False
        if not self._kill:
            self._stream.set_deadline(None)

    def is_quiet(self, for_s: float) -> bool:
        """Wait that long; tell whether the peer said nothing meanwhile, and stays."""
        return self.dimse.msg_queue.empty() and not self._stream.is_readable(for_s)

    def _take_while(self, condition: Callable[[], bool]) -> None:
        try:
            while not (self._kill or self._sent_abort) and condition():
                self._take_pdu()
        except (ProtocolError, TimeoutError, LineEndedError) as error:
            self._end_for(error)

    def _serve_what_waits(self) -> None:
        waiting = self.dimse.msg_queue
        while not (waiting.empty() or self._kill or self._sent_abort):
            context_id, message = self.dimse.get_msg()
            self._is_serving = True
            self._serve_request(message, context_id)
            self._is_serving = False
        if self.dimse.cancel_req:
            self.dimse.cancel_req.clear()  # what is cancelled has been answered already

    def _shake_hands(self) -> None:
        if not isinstance(self._line, ssl.SSLSocket):
            return
        try:
            self._line.settimeout(self._listening.limits.negotiation_s)
            self._line.do_handshake()
        except OSError as error:
            self._has_spoken = not isinstance(error, ssl.SSLEOFError | ConnectionError)
            fields = {"reason": why_no_tls(error).what, "address": self.requestor.address}
            LOGGER.warning("association.no_tls", extra=fields)
            raise LineEndedError from error
        self.certificate = self._line.getpeercert(binary_form=True)

    def _request(self) -> A_ASSOCIATE:
        pdu_type, length = self._stream.next_pdu()
        if pdu_type == ABORT:
            raise LineEndedError
        if pdu_type != ASSOCIATE_RQ:
            raise ProtocolError(UNEXPECTED_PDU, "something comes before an association request")
        if length > LONGEST_REQUEST_BYTES:
            raise ProtocolError(INVALID_PARAMETER, "an association request is too long")
        content = examined(self._stream.read(length))
        pdu = A_ASSOCIATE_RQ()
        try:
            pdu.decode(PDU_HEADER.pack(ASSOCIATE_RQ, len(content)) + content)
            primitive = pdu.to_primitive()
            self._is_version_known = bool(pdu.protocol_version & 1)
        except Exception as error:
            # whatever pynetdicom's decoder raises means this
            raise ProtocolError(
                INVALID_PARAMETER, "an association request cannot be decoded"
            ) from error
        return primitive

    def _refusal(self) -> tuple[int, int, int] | None:
        """Return how to reject what the request says of the protocol itself, if it is to be."""
        if not self._is_version_known:
            return _VERSION_NOT_SUPPORTED
        request = self.requestor.primitive
        if request is None or request.application_context_name != APPLICATION_CONTEXT_NAME:
            return _CONTEXT_NAME_NOT_SUPPORTED
        return None

    def _take_other(self, pdu_type: int, length: int) -> None:
        if pdu_type not in (RELEASE_RQ, ABORT):
            raise ProtocolError(UNEXPECTED_PDU, "this PDU has no place in an association")
        if length > LONGEST_OTHER_BYTES:
            raise ProtocolError(INVALID_PARAMETER, "a release or an abort is too long")
        content = self._stream.read(length)
        if pdu_type == RELEASE_RQ:
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            self._kill = True
            evt.trigger(self, evt.EVT_RELEASED, {})
            return
        if len(content) >= 4 and content[2] == _PROVIDER and content[3] in _ABORT_REASONS:
            aborted: Any = A_P_ABORT()
            aborted.provider_reason = content[3]
        else:
            aborted = A_ABORT()
            aborted.abort_source = 0
        self._mark_aborted(aborted)

    def _mark_aborted(self, primitive: Any) -> None:
        evt.trigger(self, evt.EVT_ACSE_RECV, {"primitive": primitive})
        self.is_aborted = True
        self.is_established = False
        self._kill = True
        evt.trigger(self, evt.EVT_ABORTED, {})

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: ARG002 - as pynetdicom calls it
        """Abort, at once in the association's own thread, else as soon as that thread can.

        An object that is being kept at the moment is kept and answered first.
        """
        if self._sent_abort or self.is_released:
            return
        self._sent_abort = True
        if threading.current_thread() is self:
            self._end_by_abort(_USER, 0)
        else:
            self._stream.wake()

    def cut(self) -> None:
        """Cut the connection, whatever its thread waits for."""
        self._sent_abort = True
        self._stream.cut()

    def _end_by_abort(self, source: int, reason: int) -> None:
        self._sent_abort = True
        with suppress(LineEndedError, TimeoutError):
            self._stream.set_deadline(CLOSING_S)
            self._stream.send(abort_pdu(source, reason))
        self.is_aborted = True
        self.is_established = False
        self._kill = True
        evt.trigger(self, evt.EVT_ABORTED, {})

    # --- messages ------------------------------------------------------------------------------

    def _take_p_data(self, length: int) -> None:
        if length > self._listening.limits.pdu_bytes:
            raise ProtocolError(INVALID_PARAMETER, "a PDU is longer than was negotiated")
        stream = self._stream
        while length > 0 and not self._kill:  # what pynetdicom was given may have ended it
            if length < PDV_HEADER.size:
                raise ProtocolError(INVALID_PARAMETER, "a PDU ends within a fragment's header")
            size, context_id, control = stream.next_pdv()
            length -= size + PDV_HEADER.size
            if size < 0 or length < 0:
                raise ProtocolError(INVALID_PARAMETER, "a fragment has an impossible length")
            if context_id not in self._accepted_cx:
                raise ProtocolError(INVALID_PARAMETER, "a presentation context is not accepted")
            if control & IS_COMMAND:
                self._take_command(context_id, control, size)
            else:
                self._take_data(context_id, control, size)

    def _take_command(self, context_id: int, control: int, size: int) -> None:
        if self._sink is not None or self._identifier_bytes is not None:
            raise ProtocolError(INVALID_PARAMETER, "a command comes within a data set")
        if len(self._command) + size > LONGEST_COMMAND_BYTES:
            raise ProtocolError(INVALID_PARAMETER, "a command set is too long")
        if self._command and context_id != self._context_id:
            raise ProtocolError(INVALID_PARAMETER, "a command changes its presentation context")
        self._context_id = context_id
        self._command += self._stream.read(size)
        if not control & IS_LAST:
            return
        encoded = bytes(self._command)
        self._command.clear()
        command = read_command(encoded)
        context = self._accepted_cx[context_id]
        if command.is_echo and command.sop_class_uid == context.abstract_syntax:
            attributes = {"request": command, "context": context.as_tuple}
            status = evt.trigger(self, evt.EVT_C_ECHO, attributes)
            self._stream.send(response_pdu(command, context_id, int(status or 0)))
        elif command.is_store:
            if self._is_serving and not self._is_awaiting:
                raise ProtocolError(UNEXPECTED_PDU, "an object comes before a request is answered")
            if not self._stream.is_ready_for_data:
                self._stream.expect_data()
            self._store_request = command
            self._sink = self._listening.begin_store(self, context, command)
        else:
            self._identifier_bytes = 0
            self._hand_on(control, encoded)

    def _take_data(self, context_id: int, control: int, size: int) -> None:
        if context_id != self._context_id:
            raise ProtocolError(INVALID_PARAMETER, "a data set changes its presentation context")
        if self._sink is None:
            if self._identifier_bytes is None:
                raise ProtocolError(INVALID_PARAMETER, "a data set comes without a command")
            self._identifier_bytes += size
            if self._identifier_bytes > LARGEST_IDENTIFIER_BYTES:
                raise ProtocolError(INVALID_PARAMETER, "a data set is too long for its message")
            self._hand_on(control, self._stream.read(size))
            return
        while size:
            piece = self._stream.take(size)
            size -= len(piece)
            self._pieces.append(piece)
            if len(self._pieces) >= MOST_PIECES:
                self._flush()
        if control & IS_LAST:
            self._answer()

    def _flush(self) -> None:
        if self._pieces and self._sink is not None:
            pieces, self._pieces = self._pieces, []
            self._sink.write(pieces)

    def _answer(self) -> None:
        self._flush()
        sink, request = self._sink, self._store_request
        assert sink is not None and request is not None  # noqa: S101, PT018 - a data set has both
        self._sink = self._store_request = None
        status, comment = sink.finish()
        self._stream.send(response_pdu(request, self._context_id, status, comment))

    def _hand_on(self, control: int, fragment: bytes) -> None:
        """Give pynetdicom a fragment of a message that is its to serve."""
        primitive: Any = P_DATA()
        primitive.presentation_data_value_list = [[self._context_id, control.to_bytes() + fragment]]
        self.dimse.receive_primitive(primitive)
        if self.dimse.message is None:  # no more fragments are to come
            self._identifier_bytes = None

    def _abandon(self) -> None:
        self._pieces.clear()
        self._stream.before_refill = None
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abandon()
