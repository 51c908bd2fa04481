"""Speaks on an association that we requested: one request, one answer, each in its time.

The calling thread itself writes to the connection and reads from it; there is no other. Whatever is
not a proper answer ends the association: it is aborted, closed, and never used again. Knows what a
C-STORE-RQ and a C-ECHO-RQ look like, not what their statuses mean.

Read PS3.8 section 9.2 (states) and PS3.7 section 9.3 first.
"""

import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass

from pydicom.uid import UID

from node.config import Peer
from node.fragments import DataSource, Fragments
from node.pace import Pace
from node.pdu_stream import (
    ABORT,
    C_ECHO_RQ,
    C_STORE_RQ,
    INVALID_PARAMETER,
    IS_COMMAND,
    IS_LAST,
    IS_RESPONSE,
    LONGEST_COMMAND_BYTES,
    NO_DATA_SET,
    P_DATA_TF,
    PDU_HEADER,
    PDV_HEADER,
    RELEASE_RP,
    RELEASE_RQ,
    UNEXPECTED_PDU,
    LineEndedError,
    PduStream,
    ProtocolError,
    abort_pdu,
    command_elements,
    command_set,
)

CLOSING_GRACE_S = 2.0
"""How long an association may take to say goodbye before the connection is cut."""

ANSWER_PDU_BYTES = 16_384
"""Longest PDU that we take, announced: answers are short."""

LONGEST_OTHER_BYTES = 64
"""Of a release, an abort or a rejection, which have four."""

MAX_MESSAGE_ID = 65_535
"""Message IDs are unsigned 16-bit numbers (PS3.7 9.3.1.1)."""

_HAS_DATA_SET = 0x0001
_MEDIUM = 0x0000
"""Command Data Set Type and Priority of a C-STORE-RQ (PS3.7 9.3.1.1)."""

_SOP_CLASS, _COMMAND_FIELD, _MESSAGE_ID, _ANSWERED_ID = 0x0002, 0x0100, 0x0110, 0x0120
_PRIORITY, _DATA_SET_TYPE, _STATUS = 0x0700, 0x0800, 0x0900
_OFFENDING_ELEMENT, _ERROR_ID, _SOP_INSTANCE = 0x0901, 0x0903, 0x1000
"""Elements of command sets (PS3.7 E.1)."""

_US = struct.Struct("<H")
_TAG = struct.Struct("<HH")

USER, _PROVIDER = 0, 2
"""Source of an A-ABORT (PS3.8 table 9-26)."""


class UnansweredError(Exception):
    """A request that got no proper answer; the text says why, with the peer as its subject.

    Attributes:
        is_late: Whether the time was over, not the association.
    """

    def __init__(self, text: str, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answers to a request. Its Error Comment is not read: it may hold a name.

    Attributes:
        offending: Tags that it names as the reason.
        error_id: A number of its own making, if it gives one.
    """

    status: int
    offending: tuple[int, ...] = ()
    error_id: int | None = None


class RequestedAssociation:
    """An association that a peer accepted, used by one thread at a time; see `node.negotiation`.

    Attributes:
        peer: Who accepted it.
        proposed: SOP class and transfer syntax of each presentation context that was proposed.
        accepted: Those that the peer took, with their identifiers.
        answers: How many requests it answered.
        is_open: Whether it can still be used, as far as we know.
    """

    def __init__(
        self,
        peer: Peer,
        stream: PduStream,
        proposed: frozenset[tuple[UID, UID]],
        accepted: dict[tuple[UID, UID], int],
        longest_pdu_bytes: int,
    ) -> None:
        self.peer = peer
        self.proposed = proposed
        self.accepted = accepted
        self.answers = 0
        self.is_open = True
        self._stream = stream
        self._fragments = Fragments(longest_pdu_bytes)
        self._requests = 0

    # --- requests ------------------------------------------------------------------------------

    def store(
        self,
        sop_class_uid: UID,
        sop_instance_uid: UID,
        transfer_syntax_uid: UID,
        source: DataSource,
        *,
        limit_s: float,
        pace: Pace | None = None,
    ) -> Answer:
        """Send an object in an accepted context (C-STORE) and return the answer.

        Args:
            sop_class_uid: What it is; with `transfer_syntax_uid` a key of `accepted`.
            sop_instance_uid: Which it is.
            transfer_syntax_uid: How it is encoded.
            source: Its data set.
            limit_s: For the object and its answer together.
            pace: How fast it may go.

        Raises:
            UnansweredError: There is no answer, and no association any more.
            OSError: The data set cannot be read. If some of it was sent, the association is gone.
        """
        context_id = self.accepted[sop_class_uid, transfer_syntax_uid]
        message_id = self._next_message_id()
        command = command_set(
            [
                (_SOP_CLASS, _even(sop_class_uid)),
                (_COMMAND_FIELD, _US.pack(C_STORE_RQ)),
                (_MESSAGE_ID, _US.pack(message_id)),
                (_PRIORITY, _US.pack(_MEDIUM)),
                (_DATA_SET_TYPE, _US.pack(_HAS_DATA_SET)),
                (_SOP_INSTANCE, _even(sop_instance_uid)),
            ]
        )
        left = source.size_bytes
        pdus, size = self._fragments.of_data(context_id, source, left)
        self._stream.set_deadline(limit_s)
        is_sent = False
        try:
            first = self._fragments.of_command(context_id, command)
            if len(pdus) < _WORTH_JOINING_BYTES:
                self._stream.send_pdus(first + pdus, pace)
            else:
                self._stream.send_pdus(first, pace)
                self._stream.send_pdus(pdus, pace)
            while left := left - size:
                pdus, size = self._fragments.of_data(context_id, source, left)
                self._stream.send_pdus(pdus, pace)
            is_sent = True
            answer = self._answer(C_STORE_RQ, context_id, message_id, sop_instance_uid)
        except (TimeoutError, LineEndedError, ProtocolError) as error:
            raise self._given_up(error, limit_s, is_sent=is_sent) from error
        except OSError:
            self.abort()
            raise
        return answer

    def echo(self, sop_class_uid: UID, transfer_syntax_uid: UID, *, limit_s: float) -> Answer:
        """Ask in an accepted context whether the peer hears us (C-ECHO); return the answer.

        Raises:
            UnansweredError: There is no answer, and no association any more.
        """
        context_id = self.accepted[sop_class_uid, transfer_syntax_uid]
        message_id = self._next_message_id()
        command = command_set(
            [
                (_SOP_CLASS, _even(sop_class_uid)),
                (_COMMAND_FIELD, _US.pack(C_ECHO_RQ)),
                (_MESSAGE_ID, _US.pack(message_id)),
                (_DATA_SET_TYPE, _US.pack(NO_DATA_SET)),
            ]
        )
        self._stream.set_deadline(limit_s)
        try:
            self._stream.send_pdus(self._fragments.of_command(context_id, command))
            return self._answer(C_ECHO_RQ, context_id, message_id, None)
        except (TimeoutError, LineEndedError, ProtocolError) as error:
            raise self._given_up(error, limit_s, is_sent=True) from error

    def _next_message_id(self) -> int:
        self._requests += 1
        return (self._requests - 1) % MAX_MESSAGE_ID + 1

    # --- answers -------------------------------------------------------------------------------

    def _answer(
        self, request: int, context_id: int, message_id: int, sop_instance_uid: UID | None
    ) -> Answer:
        elements = command_elements(self._message(context_id))
        named = elements.get(_SOP_INSTANCE, b"").rstrip(b"\0 ")
        if _number(elements, _COMMAND_FIELD) != request | IS_RESPONSE:
            raise ProtocolError(UNEXPECTED_PDU, "answers something that was not asked")
        if _number(elements, _ANSWERED_ID) != message_id:
            raise ProtocolError(UNEXPECTED_PDU, "answers another message than was sent")
        if named and sop_instance_uid is not None and named != sop_instance_uid.encode():
            raise ProtocolError(UNEXPECTED_PDU, "answers for another object than was sent")
        status = _number(elements, _STATUS)
        if status is None:
            raise ProtocolError(INVALID_PARAMETER, "answers without a status")
        self.answers += 1
        self._stream.set_deadline(None)
        offending = elements.get(_OFFENDING_ELEMENT, b"")
        tags = _TAG.iter_unpack(offending[: len(offending) // _TAG.size * _TAG.size])
        return Answer(
            status,
            tuple(group << 16 | element for group, element in tags),
            _number(elements, _ERROR_ID),
        )

    def _message(self, context_id: int) -> bytes:
        """Return the next command set; none that follows a request has a data set."""
        encoded = b""
        stream = self._stream
        while True:
            pdu_type, length = stream.next_pdu()
            if pdu_type == ABORT:
                raise LineEndedError("aborted the association")
            if pdu_type == RELEASE_RQ:
                stream.read(min(length, LONGEST_OTHER_BYTES))
                self._send_release(RELEASE_RP)
                raise LineEndedError("released the association before it answered")
            if pdu_type != P_DATA_TF:
                raise ProtocolError(UNEXPECTED_PDU, "sends what has no place in an association")
            if length > ANSWER_PDU_BYTES:
                raise ProtocolError(INVALID_PARAMETER, "sends a longer PDU than was agreed")
            while length > 0:
                size, context, control = stream.next_pdv()
                length -= size + PDV_HEADER.size
                if size < 0 or length < 0 or len(encoded) + size > LONGEST_COMMAND_BYTES:
                    raise ProtocolError(INVALID_PARAMETER, "sends a fragment of a wrong length")
                if context != context_id or not control & IS_COMMAND:
                    raise ProtocolError(INVALID_PARAMETER, "sends what is no answer")
                encoded += stream.read(size)
                if control & IS_LAST:
                    if length:
                        raise ProtocolError(INVALID_PARAMETER, "sends more than its answer")
                    return encoded

    # --- the end -------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Tell whether it can be used, as far as this end of the connection can know.

        Between requests a peer has nothing to say: whatever is there to be read is an end.
        """
        return self.is_open and not self._stream.is_readable(0.0)

    def release(self) -> None:
        """Release it if it still stands; return within the grace time."""
        if not self.is_open:
            return
        self.is_open = False
        with suppress(TimeoutError, LineEndedError, ProtocolError):
            self._stream.set_deadline(CLOSING_GRACE_S)
            self._send_release(RELEASE_RQ)
            while True:
                pdu_type, length = self._stream.next_pdu()
                self._stream.read(min(length, LONGEST_OTHER_BYTES))
                if pdu_type != RELEASE_RQ:
                    break
                self._send_release(RELEASE_RP)  # both ends at once (PS3.8 7.2.2.7)
        self._close()

    def cut(self) -> None:
        """Cut the connection, whatever the thread that uses it waits for; any thread may ask."""
        self._stream.cut()

    def abort(self) -> None:
        """Abort it if it still stands; return within the grace time."""
        if self.is_open:
            self._abort(USER, 0)

    def _abort(self, source: int, reason: int) -> None:
        self.is_open = False
        if self._stream.is_within_pdu:
            # an A-ABORT would be taken for data; a reset also drops what is still on its way
            with suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                self._stream.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._stream.line.close()
            return
        with suppress(TimeoutError, LineEndedError):
            self._stream.set_deadline(CLOSING_GRACE_S)
            self._stream.send(abort_pdu(source, reason))
        self._close()

    def _given_up(self, error: Exception, limit_s: float, *, is_sent: bool) -> UnansweredError:
        """End the association as the reason demands; return what to tell."""
        if isinstance(error, ProtocolError):
            self._abort(_PROVIDER, error.reason)
            return UnansweredError(f"{error}; the association was aborted")
        if isinstance(error, LineEndedError):
            self.is_open = False
            self._close()
            return UnansweredError(str(error) or "ended the association, or the connection broke")
        self.abort()
        what = "answer" if is_sent else "take the object"
        return UnansweredError(f"did not {what} within {limit_s:.0f} s", is_late=True)

    def _send_release(self, pdu_type: int) -> None:
        self._stream.send(PDU_HEADER.pack(pdu_type, 4) + bytes(4))

    def _close(self) -> None:
        line = self._stream.line
        with suppress(OSError, ValueError):
            if isinstance(line, ssl.SSLSocket):  # say that it ends here, wait for no answer
                line.setblocking(False)
                line.unwrap()
        with suppress(OSError):
            socket.socket.shutdown(line, socket.SHUT_WR)
        line.close()


_WORTH_JOINING_BYTES = 1 << 20
"""A command goes in one piece with the data behind it, unless copying these costs more."""


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int(_US.unpack(value)[0]) if len(value) == _US.size else None


def _even(uid: UID) -> bytes:
    encoded = uid.encode("ascii", "replace")
    return encoded + b"\0" if len(encoded) % 2 else encoded
