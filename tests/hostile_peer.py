"""A peer that sends whatever bytes it likes, and tells how the node ended it.

Builds what `tests.raw_sender` does not: association requests and commands that lie.
"""

import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from pydicom import uid

from node.transport import AcceptedAssociation
from tests.raw_sender import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND_FRAGMENT,
    LAST_FRAGMENT,
    NO_DATA_SET,
    VERIFICATION,
    data_pdu,
    pdu,
)
from tests.receiving_node import Node

ENDING_S = 60.0
STORE_CONTEXT, ECHO_CONTEXT = 1, 3
WHOLE_COMMAND = COMMAND_FRAGMENT | LAST_FRAGMENT
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1


def item(kind: int, content: bytes | str, length: int | None = None) -> bytes:
    """Return an item of an association request (PS3.8 9.3.2); `length` may lie."""
    body = content.encode("latin-1") if isinstance(content, str) else content
    return struct.pack(">BxH", kind, len(body) if length is None else length) + body


def context(number: int, sop_class: str, *syntaxes: str) -> bytes:
    """Return a proposed presentation context (PS3.8 9.3.2.2)."""
    names = item(0x30, sop_class) + b"".join(item(0x40, one) for one in syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + names)


STORE = context(STORE_CONTEXT, uid.CTImageStorage, uid.ExplicitVRLittleEndian)
ECHO = context(ECHO_CONTEXT, VERIFICATION, uid.ImplicitVRLittleEndian)


def user(longest_pdu: int = 16384, *more: bytes) -> bytes:
    """Return user information (PS3.7 D.3.3)."""
    content = item(0x51, struct.pack(">I", longest_pdu)) + item(0x52, "2.25.4711")
    return item(0x50, content + b"".join(more))


def request(
    *contexts: bytes,
    user_item: bytes | None = None,
    application: bytes | None = None,
    called: bytes = b"HILUM",
    calling: bytes = b"CT1",
    version: int = 1,
    length: int | None = None,
) -> bytes:
    """Return an A-ASSOCIATE-RQ; what is not said is right."""
    content = (
        struct.pack(">Hxx16s16s32x", version, called.ljust(16), calling.ljust(16))
        + (item(0x10, APPLICATION_CONTEXT) if application is None else application)
        + b"".join(contexts or (STORE, ECHO))
        + (user() if user_item is None else user_item)
    )
    head = struct.pack(">BxI", ASSOCIATE_RQ, len(content) if length is None else length)
    return head + content


def element(number: int, value: bytes | int, length: int | None = None) -> bytes:
    """Return an element of a command set; `length` may lie."""
    body = struct.pack("<H", value) if isinstance(value, int) else value
    return struct.pack("<HHI", 0, number, len(body) if length is None else length) + body


def command(field: int, **values: bytes | int | None) -> bytes:
    """Return a command set for the CT of a test; None leaves an element out."""
    told: dict[str, bytes | int | None] = {
        "sop_class": uid.CTImageStorage.encode() + b"\0",
        "message": 7,
        "priority": 0,
        "data": 1,
        "instance": b"1.2.826.0.1.1\0",
        **values,
    }
    numbers = {"sop_class": 2, "message": 0x110, "priority": 0x700, "data": 0x800,
               "instance": 0x1000}  # fmt: skip
    found = element(0x100, field)
    for name, value in told.items():
        if value is not None:
            found += element(numbers[name], value)
    return element(0, struct.pack("<I", len(found))) + found


def store_command(**values: bytes | int | None) -> bytes:
    """Return a P-DATA-TF PDU with a C-STORE-RQ."""
    return data_pdu(STORE_CONTEXT, WHOLE_COMMAND, command(C_STORE_RQ, **values))


def echo_command(**values: bytes | int | None) -> bytes:
    """Return a P-DATA-TF PDU with a C-ECHO-RQ."""
    told: dict[str, bytes | int | None] = {
        "sop_class": VERIFICATION.encode() + b"\0",
        "data": NO_DATA_SET,
        "priority": None,
        "instance": None,
        **values,
    }
    return data_pdu(ECHO_CONTEXT, WHOLE_COMMAND, command(C_ECHO_RQ, **told))


def pdv(number: int, control: int, fragment: bytes, length: int | None = None) -> bytes:
    """Return a presentation data value (PS3.8 9.3.5.1); `length` may lie."""
    size = len(fragment) + 2 if length is None else length
    return struct.pack(">IBB", size, number, control) + fragment


def abort_reason(pdus: Sequence[tuple[int, bytes]]) -> tuple[int, int] | None:
    """Return source and reason of the A-ABORT that ended it (PS3.8 9.3.8), if one did."""
    kind, content = pdus[-1] if pdus else (0, b"")
    return (content[2], content[3]) if kind == ABORT else None


class HostilePeer:
    """A connection to a node, open while used as a context; over TLS if it says how."""

    def __init__(self, port: int, secure: ssl.SSLContext | None = None) -> None:
        line = socket.create_connection(("127.0.0.1", port), ENDING_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line = line if secure is None else secure.wrap_socket(line)

    def __enter__(self) -> "HostilePeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def associate(self) -> None:
        """Negotiate as an honest peer would."""
        self.send(request())
        kind, _ = self.receive()
        assert kind == ASSOCIATE_AC

    def send(self, content: bytes) -> None:
        """Send; a node that has closed already does not matter."""
        with suppress(ConnectionError, ssl.SSLError):
            self.line.sendall(content)

    def finish(self) -> None:
        """Send nothing more."""
        with suppress(OSError):
            socket.socket.shutdown(self.line, socket.SHUT_WR)  # TLS stays able to read

    def receive(self) -> tuple[int, bytes]:
        """Return type and content of the next PDU.

        Raises:
            ConnectionError: The node closed the connection.
        """
        kind, length = struct.unpack(">BxI", self._bytes(6))
        return kind, self._bytes(length)

    def ending(self) -> list[tuple[int, bytes]]:
        """Return every PDU until the node closes the connection.

        Raises:
            TimeoutError: It does not.
        """
        found = []
        with suppress(ConnectionError, ssl.SSLError):
            while True:
                found.append(self.receive())
        return found

    def _bytes(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            some = self.line.recv(count - len(found))
            if not some:
                raise ConnectionResetError("the node closed the connection")
            found += some
        return found


def echo_status(port: int) -> bool:
    """Tell whether an honest peer gets its C-ECHO answered and its association released."""
    with HostilePeer(port) as peer:
        peer.associate()
        peer.send(echo_command())
        _, content = peer.receive()
        peer.send(pdu(5))
        kinds = [kind for kind, _ in peer.ending()]
        return element(0x0900, 0) in content and kinds == [6]


def association_threads() -> list[threading.Thread]:
    """Return the threads of associations, once they ended or `ENDING_S` have passed."""
    deadline_s = time.monotonic() + ENDING_S
    while True:
        found = [one for one in threading.enumerate() if isinstance(one, AcceptedAssociation)]
        if not found or time.monotonic() > deadline_s:
            return list(found)
        found[0].join(ENDING_S)


def check_unharmed(node: Node) -> None:
    """The node serves, keeps nothing, and has no thread left over."""
    assert echo_status(node.port)
    assert association_threads() == []
    assert node.objects() == []


def damaged(rng: random.Random, stream: bytes) -> bytes:
    """Return PDUs with one to three damages."""
    numbers = (0, 1, 2, 3, 5, 6, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x20001, 0x7FFFFFFF, 0xFFFFFFFF)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randint(0, len(stream))
        match rng.randrange(7):
            case 0:
                stream = stream[:at]
            case 1:
                stream = stream[:at] + rng.randbytes(rng.choice((1, 2, 6, 40))) + stream[at:]
            case 2:
                stream = stream[:at] + stream[at + rng.randint(1, 30) :]
            case 3:
                start = rng.randint(0, len(stream))
                stream = stream[:at] + stream[start : start + rng.randint(1, 200)] + stream[at:]
            case 4:
                form = rng.choice((">I", ">H", "<I", "<H", "B"))
                mask = (1 << 8 * struct.calcsize(form)) - 1
                number = struct.pack(form, rng.choice(numbers) & mask)
                stream = stream[:at] + number + stream[at + len(number) :]
            case _:
                if stream:
                    at = min(at, len(stream) - 1)
                    flipped = bytes([stream[at] ^ 1 << rng.randrange(8)])
                    stream = stream[:at] + flipped + stream[at + 1 :]
    return stream
