"""A planning system that misbehaves as it is told: a Storage SCP on plain sockets.

`node.receiver` is the honest one. This one follows a script for each association and each object,
so it can do what no library would, and it looks closely at what it is sent: PDUs longer than it
announced, fragments of odd length, contexts that were not accepted.
"""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Self

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.tls import ServerTls
from tests.hostile_peer import APPLICATION_CONTEXT, element, item

RELEASE_RQ, RELEASE_RP, ABORT = 5, 6, 7
SUCCESS = 0x0000
C_ECHO_RQ = 0x0030
NO_DATA_SET = 0x0101
USUAL_PDU_BYTES = 16_384
WAIT_S = 60.0
"""Longer than any test: the stub must not be what ends a wait."""


class Deed(Enum):
    """What is done behind the first fragment of an object (IN_DATA), or instead of answering."""

    STOP_READING = auto()
    CLOSE_IN_DATA = auto()
    RESET_IN_DATA = auto()
    ABORT_IN_DATA = auto()
    RELEASE_IN_DATA = auto()
    ABORT = auto()
    CLOSE = auto()
    RELEASE = auto()
    SILENCE = auto()


_IN_DATA = (
    Deed.STOP_READING,
    Deed.CLOSE_IN_DATA,
    Deed.RESET_IN_DATA,
    Deed.ABORT_IN_DATA,
    Deed.RELEASE_IN_DATA,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and how it lies.

    Attributes:
        status: None leaves it out.
        message_id: Added to the right one.
        field: Command Field.
        instance: Instead of the right SOP instance.
        more: Further elements.
        late_s: After which time it comes.
        raw: Sent instead of the PDU.
        cut: Bytes of the PDU that are kept back for ever.
        context: Added to the right presentation context.
    """

    status: int | None = SUCCESS
    message_id: int = 0
    field: int = 0x8001
    instance: bytes | None = None
    more: bytes = b""
    late_s: float = 0.0
    raw: bytes | None = None
    cut: int = 0
    context: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the object is stored."""
        return self.status in (SUCCESS, 0xB000, 0xB006, 0xB007)


@dataclass(frozen=True, slots=True)
class Welcome:
    """How an association request is answered.

    Attributes:
        rejection: Result, source and reason of a rejection.
        syntaxes: The transfer syntaxes accepted; None accepts every one.
        longest_pdu_bytes: Announced; None announces none.
        raw: Sent instead; empty: nothing, for ever.
        is_closed: Whether the connection is closed behind that.
    """

    rejection: tuple[int, int, int] | None = None
    syntaxes: tuple[str, ...] | None = None
    longest_pdu_bytes: int | None = USUAL_PDU_BYTES
    raw: bytes | None = None
    is_closed: bool = False


Script = Callable[[str, int], Reply | Deed]
"""What is done with an object: its SOP Instance UID, and how often it has been begun."""


class StubTps:
    """Listens while used as a context.

    Attributes:
        script: For each object.
        welcome: For each association.
        port: Where it listens.
        kept: Data sets of each SOP instance that were answered as stored, in order.
        begun: How often each SOP instance was begun.
        proposed: SOP class and transfer syntax of each context, by association.
        wrongs: What it was sent and should not have been.
        aborts: Associations that the sender aborted.
    """

    def __init__(
        self,
        script: Script | None = None,
        welcome: Welcome | None = None,
        *,
        tls: ServerTls | None = None,
        is_narrow: bool = False,
    ) -> None:
        """Prepare to listen.

        Args:
            script: For each object; None: all are stored.
            welcome: For each association; None: each is accepted.
            tls: What it talks TLS with.
            is_narrow: Whether its line holds less than 200 kB that nobody has read.
        """
        self.script = script or (lambda _uid, _times: Reply())
        self.welcome = welcome or Welcome()
        self.kept: dict[str, list[bytes]] = {}
        self.begun: Counter[str] = Counter()
        self.proposed: list[list[tuple[str, str]]] = []
        self.wrongs: list[str] = []
        self.releases = self.aborts = 0
        self._tls = tls
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._listener = socket.socket()
        # small, so that who is not read soon notices
        buffer_bytes = 8192 if is_narrow else 65_536
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        if is_narrow:  # the sender's buffer grows with the length of a segment
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1024)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._lines: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def calls_with_objects(self) -> int:
        """Return how many associations offered objects: the node's echoes by the clock do not."""
        verification = str(Verification)
        return sum(any(c != verification for c, _ in contexts) for contexts in self.proposed)

    def wait_for(self, condition: Callable[[], bool], *, timeout_s: float = 20.0) -> bool:
        """Tell whether a condition on the stub comes true in time."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def end_associations(self, how: bytes = b"") -> None:
        """End whatever is open, with a PDU or without a word."""
        for line in self._lines:
            with suppress(OSError):
                if how:
                    line.sendall(how)
                else:
                    line.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._lines.append(line)
                thread = threading.Thread(target=self._serve, args=(line,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, line: socket.socket) -> None:
        with suppress(OSError):
            if self._tls is not None:
                line = self._tls.wrap(line)
                self._lines.append(line)
                line.do_handshake()
            with line:
                _Conversation(self, line).hold()


class _Conversation:
    """One association, in one thread."""

    def __init__(self, stub: StubTps, line: socket.socket) -> None:
        self.stub = stub
        self.line = line
        self.welcome = stub.welcome
        self.contexts: dict[int, tuple[str, str]] = {}

    def hold(self) -> None:
        if not self._negotiate():
            return
        command = b""
        for kind, content in self._pdus():
            if kind == RELEASE_RQ:
                self._count("releases")
                self.line.sendall(pdu(RELEASE_RP, bytes(4)))
                return
            if kind == ABORT:
                return
            for context, control, fragment in self._values(content):
                assert control & 1
                command += fragment
                if control & 2:
                    if not self._obey(context, command):
                        return
                    command = b""

    def _negotiate(self) -> bool:
        kind, content = self._pdu()
        assert kind == 1
        found = list(_contexts(content))
        with self.stub._changed:
            self.stub.proposed.append([(sop_class, syntax) for _, sop_class, syntax in found])
            self.stub._changed.notify_all()
        welcome = self.welcome
        if welcome.raw is not None:
            self.line.sendall(welcome.raw)
            if not welcome.is_closed:
                self.stub._stopping.wait(WAIT_S)
            return False
        if welcome.rejection is not None:
            self.line.sendall(pdu(3, bytes([0, *welcome.rejection])))
            self.line.recv(1)
            return False
        answers = b""
        for number, sop_class, syntax in found:
            is_taken = welcome.syntaxes is None or syntax in welcome.syntaxes
            if is_taken:
                self.contexts[number] = (sop_class, syntax)
            result = 0 if is_taken else 4  # transfer syntaxes not supported
            answers += item(0x21, bytes([number, 0, result, 0]) + item(0x40, syntax))
        user = item(0x52, "2.25.4711")
        if welcome.longest_pdu_bytes is not None:
            user = item(0x51, struct.pack(">I", welcome.longest_pdu_bytes)) + user
        body = content[:68] + item(0x10, APPLICATION_CONTEXT) + answers + item(0x50, user)
        self.line.sendall(pdu(2, body))
        return True

    def _obey(self, context: int, command: bytes) -> bool:
        """Take the object behind a command, and do what the script says; tell whether to go on."""
        values = dict(_elements(command))
        (message_id,) = struct.unpack("<H", values[0x0110])
        uid = values.get(0x1000, b"").rstrip(b"\0").decode()
        if struct.unpack("<H", values[0x0100])[0] == C_ECHO_RQ:
            self._reply(Reply(field=0x8030), context, message_id, values)
            return True
        if context not in self.contexts:
            self.stub.wrongs.append("a context that was not accepted")
        with self.stub._changed:
            self.stub.begun[uid] += 1
            self.stub._changed.notify_all()
        deed = self.stub.script(uid, self.stub.begun[uid])
        if deed in _IN_DATA:
            self._pdu()
            return self._do(deed)
        data_set = b"".join(self._data_set())
        if isinstance(deed, Deed):
            return self._do(deed)
        if deed.late_s:
            self.stub._stopping.wait(deed.late_s)
        if deed.is_kept:
            with self.stub._changed:
                self.stub.kept.setdefault(uid, []).append(data_set)
                self.stub._changed.notify_all()
        self._reply(deed, context, message_id, values)
        return True

    def _do(self, deed: Deed) -> bool:
        match deed:
            case Deed.STOP_READING | Deed.SILENCE:
                self.stub._stopping.wait(WAIT_S)
            case Deed.RESET_IN_DATA:
                self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Deed.ABORT_IN_DATA | Deed.ABORT:
                self.line.sendall(pdu(ABORT, bytes(4)))
                # as long as it takes the sender to notice: it is not closed from here
                self.stub._stopping.wait(0.0 if deed is Deed.ABORT else WAIT_S)
            case Deed.RELEASE_IN_DATA | Deed.RELEASE:
                self.line.sendall(pdu(RELEASE_RQ, bytes(4)))
                with suppress(ConnectionError):
                    while self.line.recv(65_536):
                        continue
            case Deed.CLOSE_IN_DATA | Deed.CLOSE:
                pass
        return False

    def _data_set(self) -> Iterator[bytes]:
        while True:
            kind, content = self._pdu()
            if kind == ABORT:
                raise ConnectionAbortedError
            assert kind == 4
            for _, control, fragment in self._values(content):
                assert not control & 1
                if len(fragment) % 2:
                    self.stub.wrongs.append("a fragment of odd length")
                yield fragment
                if control & 2:
                    return

    def _reply(self, reply: Reply, context: int, message_id: int, values: dict[int, bytes]) -> None:
        if reply.raw is not None:
            self.line.sendall(reply.raw)
            return
        elements = element(0x0002, values[0x0002]) + element(0x0100, reply.field)
        elements += element(0x0120, message_id + reply.message_id) + element(0x0800, NO_DATA_SET)
        if reply.status is not None:
            elements += element(0x0900, reply.status)
        elements += reply.more
        instance = values.get(0x1000) if reply.instance is None else reply.instance
        if instance:
            elements += element(0x1000, instance)
        command = element(0, struct.pack("<I", len(elements))) + elements
        value = struct.pack(">IBB", len(command) + 2, context + reply.context, 3) + command
        whole = pdu(4, value)
        self.line.sendall(whole[: len(whole) - reply.cut])
        if reply.cut:
            self.stub._stopping.wait(WAIT_S)

    def _values(self, content: bytes) -> Iterator[tuple[int, int, bytes]]:
        position = 0
        while position < len(content):
            length, context, control = struct.unpack_from(">IBB", content, position)
            yield context, control, content[position + 6 : position + 4 + length]
            position += 4 + length

    def _pdus(self) -> Iterator[tuple[int, bytes]]:
        while True:
            yield self._pdu()

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._bytes(6))
        longest = self.welcome.longest_pdu_bytes
        if kind == 4 and longest and length > longest:
            self.stub.wrongs.append("a PDU longer than announced")
        if kind == ABORT:
            self._count("aborts")
        return kind, self._bytes(length)

    def _count(self, what: str) -> None:
        with self.stub._changed:
            setattr(self.stub, what, getattr(self.stub, what) + 1)
            self.stub._changed.notify_all()

    def _bytes(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            some = self.line.recv(count - len(found))
            if not some:
                raise ConnectionResetError
            found += some
        return bytes(found)


def pdu(kind: int, content: bytes) -> bytes:
    """Return a PDU (PS3.8 9.3.1)."""
    return struct.pack(">BxI", kind, len(content)) + content


def usual(fault: Reply | Deed, *, at: str) -> Script:
    """Return a script that does one thing wrong once, with one object."""
    return lambda uid, times: fault if uid == at and times == 1 else Reply()


def always(fault: Reply | Deed, *, at: Sequence[str]) -> Script:
    """Return a script that does one thing wrong with some objects, whenever they come."""
    return lambda uid, _times: fault if uid in at else Reply()


def _contexts(request: bytes) -> Iterator[tuple[int, str, str]]:
    """Return number, SOP class and transfer syntax of the proposed contexts."""
    for kind, content in _items(request[68:]):
        if kind == 0x20:
            (_, sop_class), *syntaxes = _items(content[4:])
            assert len(syntaxes) == 1
            yield content[0], sop_class.decode(), syntaxes[0][1].decode()


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(content):
        kind, length = struct.unpack_from(">BxH", content, position)
        yield kind, content[position + 4 : position + 4 + length]
        position += 4 + length


def _elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(command):
        _, number, length = struct.unpack_from("<HHI", command, position)
        yield number, command[position + 8 : position + 8 + length]
        position += 8 + length


IMPLICIT_ONLY = Welcome(syntaxes=(ImplicitVRLittleEndian,))
