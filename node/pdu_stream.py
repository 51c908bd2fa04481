"""Reads PDUs from a connection without copying what is large, and gives every wait an end.

Knows the frames of PS3.8 section 9.3 (PDU, presentation data value) and of PS3.7 section 6.3 (the
command sets of C-STORE and C-ECHO), no association and no pynetdicom. What it hands out of a data
set are views of one buffer, valid until the next read.
"""

import mmap
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from node.pace import Pace

FIRST_BUFFER_BYTES = 16 << 10
DATA_BUFFER_BYTES = 576 << 10
"""Before and after an association is established: what it costs, whatever its peer sends.

A CT slice of 512 x 512 fits, so that it is written with one call.
"""

PDU_HEADER = struct.Struct(">BxL")
PDV_HEADER = struct.Struct(">LBB")
"""PDU type and length; length, presentation context ID and message control header."""

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = 0x04, 0x05, 0x06, 0x07
"""PDU types (PS3.8 table 9-11 and following)."""
PDU_TYPES = range(0x01, 0x08)

UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 1, 2, 6
"""Reasons of an A-ABORT by the service provider (PS3.8 table 9-26)."""

IS_COMMAND, IS_LAST = 1, 2
"""Bits of the message control header (PS3.8 E.2)."""

C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030
IS_RESPONSE = 0x8000
NO_DATA_SET = 0x0101
"""Command Field and Command Data Set Type (PS3.7 E.1)."""

LONGEST_COMMAND_BYTES = 16 << 10
LONGEST_UID = 64
"""PS3.5 9.1; more of one is not repeated in an answer."""

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_ABORT_PDU = struct.Struct(">BxLxxBB")
_TIMEVAL = struct.Struct("@ll")
"""Seconds and microseconds, as Linux takes them for SO_RCVTIMEO (socket(7))."""


class ProtocolError(Exception):
    """What a peer must not send; `reason` is that of the A-ABORT which answers it."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class LineEndedError(Exception):
    """The connection is closed or broken."""


class PduStream:
    """One connection, buffered; used by one thread, but for `wake`.

    Args:
        line: Connected; TLS or not.
        silence_s: How long the peer may neither send nor take anything.

    Attributes:
        has_received: Whether a byte came.
        is_within_pdu: Whether `send_pdus` was interrupted: what follows would be taken for data.
        before_refill: Called before the buffer, and with it every view of it, is written anew.
    """

    def __init__(self, line: socket.socket, silence_s: float) -> None:
        self.line = line
        self.has_received = self.is_within_pdu = self._is_woken = False
        self.before_refill: Callable[[], None] | None = None
        self._silence_s = self._limit_s = silence_s
        self._deadline_s: float | None = None
        self._is_secured = isinstance(line, ssl.SSLSocket)
        self._buffer: bytearray | mmap.mmap = bytearray(FIRST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        if not self._is_secured:
            line.settimeout(None)  # the system ends the waits
        self._let_wait(silence_s)

    def set_deadline(self, within_s: float | None) -> None:
        """Let everything until the next call end within that time; None: only silence ends it."""
        self._deadline_s = None if within_s is None else time.monotonic() + within_s
        self._let_wait(self._silence_s)

    def expect_data(self) -> None:
        """Make the buffer as large as data sets need it.

        It is mapped, so that its memory goes back to the system with the association: the C library
        would keep it, once for each of its arenas.
        """
        rest = bytes(self._view[self._start : self._end])
        self._buffer = mmap.mmap(-1, DATA_BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    @property
    def is_ready_for_data(self) -> bool:
        """Whether `expect_data` was called."""
        return len(self._buffer) == DATA_BUFFER_BYTES

    def next_pdu(self) -> tuple[int, int]:
        """Return type and length of the next PDU; its content is read with the other methods.

        Raises:
            ProtocolError: No PDU type begins so.
            LineEndedError: The connection ended; TimeoutError: nothing came.
        """
        self._need(PDU_HEADER.size)
        pdu_type, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if pdu_type not in PDU_TYPES:
            raise ProtocolError(UNRECOGNISED_PDU, "no PDU type")
        self._start += PDU_HEADER.size
        return pdu_type, length

    def next_pdv(self) -> tuple[int, int, int]:
        """Return length of the fragment, context and control header of the next PDV."""
        self._need(PDV_HEADER.size)
        length, context_id, control = PDV_HEADER.unpack_from(self._buffer, self._start)
        self._start += PDV_HEADER.size
        return length - 2, context_id, control

    def is_readable(self, within_s: float) -> bool:
        """Tell whether something is there to read, the end too, or comes within that time."""
        if self._start < self._end or (
            isinstance(self.line, ssl.SSLSocket) and self.line.pending()
        ):
            return True
        waiting = select.poll()
        waiting.register(self.line, select.POLLIN)
        return bool(waiting.poll(within_s * 1000))

    def take(self, longest: int) -> memoryview:
        """Return a view of what is there of the next bytes, at least one."""
        if self._start == self._end:
            self._refill()
        stop = min(self._end, self._start + longest)
        piece = self._view[self._start : stop]
        self._start = stop
        return piece

    def read(self, length: int) -> bytes:
        """Return a copy of the next bytes, all of them."""
        pieces = []
        while length:
            piece = self.take(length)
            pieces.append(bytes(piece))
            length -= len(piece)
        return b"".join(pieces)

    def send(self, content: bytes) -> None:
        """Send; raises as `next_pdu` where the peer takes nothing or is gone."""
        view = memoryview(content)
        try:
            while len(view):  # `sendall` would count the time of all, however well it goes
                self._limit_wait()
                view = view[self.line.send(view) :]
        except TimeoutError:
            raise
        except BlockingIOError as error:
            raise TimeoutError from error
        except OSError as error:
            raise LineEndedError from error

    def send_pdus(self, pdus: bytes | memoryview, pace: Pace | None = None) -> None:
        """Send whole PDUs, which may be large; notice when the peer ends the association meanwhile.

        Raises:
            LineEndedError: The connection ended, or an abort or a release waits to be read;
                TimeoutError: the peer takes nothing more. `is_within_pdu` tells what arrived.
        """
        view = memoryview(pdus)
        self.is_within_pdu = True
        try:
            while len(view):
                granted = len(view) if pace is None else pace.take(len(view))
                self._await_room()
                sent = self._send_some(view[:granted])
                if pace is not None:
                    pace.give_back(granted - sent)
                view = view[sent:]
        except TimeoutError:
            raise
        except OSError as error:
            raise LineEndedError from error
        self.is_within_pdu = False

    def _send_some(self, view: memoryview) -> int:
        """Send what the connection takes at once, if anything."""
        if self._is_secured:
            return self.line.send(view)
        try:
            return self.line.send(view, socket.MSG_DONTWAIT)
        except BlockingIOError:  # it is full again
            return 0

    def _await_room(self) -> None:
        """Wait until the connection takes more; a peer that ended need not take anything."""
        self._limit_wait()
        if self._is_secured:
            return  # what is readable may be no PDU, and cannot be looked at without taking it
        waiting = select.poll()
        waiting.register(self.line, select.POLLIN | select.POLLOUT)
        events = waiting.poll(self._limit_s * 1000)
        if not events:
            raise TimeoutError
        if events[0][1] & select.POLLOUT:
            return
        first = socket.socket.recv(self.line, 1, socket.MSG_PEEK)
        if not first or first[0] in (RELEASE_RQ, ABORT):
            raise LineEndedError
        # an answer before its time: it is read after the request

    def wake(self) -> None:
        """Let the thread that reads find the end of the connection; sending stays possible."""
        self._is_woken = True
        with suppress(OSError):  # closed already
            socket.socket.shutdown(self.line, socket.SHUT_RD)  # TLS would forget its keys

    def cut(self) -> None:
        """End every wait for the peer, to send as well."""
        with suppress(OSError):  # closed already
            socket.socket.shutdown(self.line, socket.SHUT_RDWR)

    def close(self, within_s: float) -> None:
        """Say that nothing more comes, wait a while for the peer to close, and close.

        A connection closed at once may take the last PDU with it before the peer has read it.
        """
        with suppress(OSError, ValueError, LineEndedError):
            end_s = time.monotonic() + within_s
            if isinstance(self.line, ssl.SSLSocket):
                self.line.settimeout(within_s)
                self.line.unwrap()
            socket.socket.shutdown(self.line, socket.SHUT_WR)
            while (left_s := end_s - time.monotonic()) > 0:
                self._let_wait(left_s)
                if not socket.socket.recv_into(self.line, self._buffer):
                    break
        self.line.close()
        self._view.release()
        self._buffer = bytearray()

    def _need(self, length: int) -> None:
        """See to it that so many bytes stand in the buffer in one piece."""
        while self._end - self._start < length:
            if self._start and self._start + length > len(self._buffer):
                if self.before_refill is not None:
                    self.before_refill()
                rest = bytes(self._view[self._start : self._end])
                self._view[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            self._refill()

    def _refill(self) -> None:
        if self._start == self._end:
            if self.before_refill is not None:
                self.before_refill()
            self._start = self._end = 0
        self._limit_wait()
        try:
            count = self.line.recv_into(self._view[self._end :])
        except TimeoutError:
            raise
        except BlockingIOError as error:
            raise TimeoutError from error
        except OSError as error:
            raise LineEndedError from error
        if not count or self._is_woken:
            raise LineEndedError
        self.has_received = True
        self._end += count

    def _limit_wait(self) -> None:
        if self._deadline_s is not None:
            left_s = self._deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._let_wait(left_s)

    def _let_wait(self, seconds: float) -> None:
        """Let one wait for the peer take so long at most.

        Of plain TCP the system limits it: Python's own time-outs ask before each call whether it
        would wait, which costs a call of the system for each.
        """
        self._limit_s = seconds
        if self._is_secured:
            self.line.settimeout(seconds)
            return
        limit = _TIMEVAL.pack(int(seconds), max(1, int(seconds % 1 * 1e6)))  # zero is for ever
        try:
            for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self.line.setsockopt(socket.SOL_SOCKET, direction, limit)
        except OSError as error:
            raise LineEndedError from error


@dataclass(frozen=True, slots=True)
class Command:
    """A command set (PS3.7 6.3); absent elements are empty or None."""

    command_field: int | None
    message_id: int | None
    data_set_type: int | None
    sop_class_uid: str
    sop_instance_uid: str

    @property
    def is_store(self) -> bool:
        """Whether it is a C-STORE-RQ that has all that it needs."""
        return (
            self.command_field == C_STORE_RQ
            and self.message_id is not None
            and self.data_set_type not in (None, NO_DATA_SET)
            and bool(self.sop_class_uid and self.sop_instance_uid)
        )

    @property
    def is_echo(self) -> bool:
        """Whether it is a C-ECHO-RQ that has all that it needs."""
        return (
            self.command_field == C_ECHO_RQ
            and self.message_id is not None
            and self.data_set_type == NO_DATA_SET
        )


def read_command(encoded: bytes) -> Command:
    """Return a command set as it is encoded: Implicit VR Little Endian.

    Raises:
        ProtocolError: It ends within an element.
    """
    values = command_elements(encoded)
    return Command(
        _number(values.get(0x0100)),
        _number(values.get(0x0110)),
        _number(values.get(0x0800)),
        _uid(values.get(0x0002)),
        _uid(values.get(0x1000)),
    )


def command_elements(encoded: bytes) -> dict[int, bytes]:
    """Return the values of a command set by element number.

    Raises:
        ProtocolError: It ends within an element.
    """
    values: dict[int, bytes] = {}
    position = 0
    while position < len(encoded):
        if position + _ELEMENT.size > len(encoded):
            raise ProtocolError(INVALID_PARAMETER, "a command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, position)
        position += _ELEMENT.size + length
        if group or position > len(encoded):
            raise ProtocolError(INVALID_PARAMETER, "a command set ends within an element")
        values[element] = encoded[position - length : position]
    return values


def command_set(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Return a command set as it is encoded, its group length first (PS3.7 6.3.1)."""
    body = b"".join(_ELEMENT.pack(0, tag, len(value)) + value for tag, value in elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def response_pdu(request: Command, context_id: int, status: int, comment: str = "") -> bytes:
    """Return the P-DATA-TF PDU that answers a C-STORE or C-ECHO (PS3.7 9.3.1.2 and 9.3.5.2).

    Args:
        request: What is answered.
        context_id: Its presentation context.
        status: Status (0000,0900).
        comment: Error Comment (0000,0902), or empty.
    """
    elements = [
        (0x0002, _even(request.sop_class_uid, b"\0")),
        (0x0100, _US.pack((request.command_field or 0) | IS_RESPONSE)),
        (0x0120, _US.pack(request.message_id or 0)),
        (0x0800, _US.pack(NO_DATA_SET)),
        (0x0900, _US.pack(status)),
    ]
    if comment:
        elements.append((0x0902, _even(comment, b" ")))
    if request.sop_instance_uid:
        elements.append((0x1000, _even(request.sop_instance_uid, b"\0")))
    command = command_set(elements)
    pdv = PDV_HEADER.pack(len(command) + 2, context_id, IS_COMMAND | IS_LAST)
    return PDU_HEADER.pack(P_DATA_TF, len(pdv) + len(command)) + pdv + command


def abort_pdu(source: int, reason: int) -> bytes:
    """Return an A-ABORT PDU (PS3.8 9.3.8)."""
    return _ABORT_PDU.pack(ABORT, 4, source, reason)


def _number(value: bytes | None) -> int | None:
    return None if value is None or len(value) != _US.size else int(_US.unpack(value)[0])


def _uid(value: bytes | None) -> str:
    return "" if value is None else value.decode("ascii", "replace").rstrip("\0 ")


def _even(text: str, padding: bytes) -> bytes:
    encoded = text[:LONGEST_UID].encode("ascii", "replace")
    return encoded + padding if len(encoded) % 2 else encoded
