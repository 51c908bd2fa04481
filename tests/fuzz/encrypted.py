"""Sends damaged TLS, and damaged PDUs within sound TLS, to a running node, by the ten thousand.

    python -m tests.fuzz.encrypted [--cases 20000] [--seed 1] [--first 0]

Run by hand, from the project's folder; needs the openssl program. A third of the cases are
associations as of `tests.fuzz.associations`, over TLS; in a third the client's first message is
damaged, in a third the records behind a sound handshake. The node must end each within `ENDING_S`,
and answer an honest C-ECHO over TLS every `CHECKED_EVERY` cases, with no thread of an association
left. Prints the distinct endings, the slowest case and the growth of memory; exits 1 if a rule was
broken. A case depends on seed and number alone, but for what TLS itself draws at random.
"""

import random
import shutil
import socket
import ssl
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.authority import Authority
from tests.fuzz.associations import (
    PATIENT,
    REQUESTS,
    ending_of,
    fuzz,
    parser_of,
    whole_messages,
)
from tests.hostile_peer import (
    ENDING_S,
    HostilePeer,
    damaged,
    echo_command,
    request,
)
from tests.raw_sender import ASSOCIATE_AC, DATA_TF, RELEASE_RP, RELEASE_RQ, pdu
from tests.receiving_node import Node, running

RECORD_BYTES = 1 << 16


def damaged_hello(node: Node, rng: random.Random, secure: ssl.SSLContext) -> str:
    """Send a damaged ClientHello; return how the node ended it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = secure.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(("127.0.0.1", node.port), ENDING_S) as line:
        return f"hello: {_answer_to(line, damaged(rng, outgoing.read()))}"


def damaged_records(
    node: Node, rng: random.Random, secure: ssl.SSLContext, whole: list[bytes]
) -> str:
    """Shake hands, then send damaged records; return how the node ended it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = secure.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", node.port), ENDING_S) as line:
        while True:
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            line.sendall(outgoing.read())
            incoming.write(line.recv(RECORD_BYTES))
        handshake = outgoing.read()
        client.write(rng.choice(whole[:REQUESTS]) + rng.choice(whole[REQUESTS:]))
        line.sendall(handshake)
        return f"records: {_answer_to(line, damaged(rng, outgoing.read()))}"


def _answer_to(line: socket.socket, content: bytes) -> str:
    """Send bytes and nothing more; return how the node ended the connection.

    Raises:
        TimeoutError: It did not.
    """
    received = 0
    with suppress(ConnectionError):
        line.sendall(content)
        with suppress(OSError):  # reset already
            line.shutdown(socket.SHUT_WR)
        while some := line.recv(RECORD_BYTES):
            received += len(some)
        return "closed" if not received else "answered and closed"
    return "reset"


def echoes(node: Node, secure: ssl.SSLContext) -> bool:
    """Tell whether an honest peer is served over TLS."""
    with HostilePeer(node.port, secure) as peer:
        peer.send(request())
        kinds = [peer.receive()[0]]
        peer.send(echo_command())
        kinds.append(peer.receive()[0])
        peer.send(pdu(RELEASE_RQ))
        kinds.append(peer.receive()[0])
    return kinds == [ASSOCIATE_AC, DATA_TF, RELEASE_RP]


def ending_over_tls(
    node: Node, rng: random.Random, secure: ssl.SSLContext, whole: list[bytes]
) -> str:
    """Send one case; return how the node ended it."""
    kind = rng.randrange(3)
    if kind == 0:
        return ending_of(node, rng, whole, secure)
    if kind == 1:
        return damaged_hello(node, rng, secure)
    return damaged_records(node, rng, secure, whole)


def main() -> int:
    """Run what the command line asks for."""
    parser = parser_of(__doc__, cases=20_000)
    asked = parser.parse_args()
    openssl = shutil.which("openssl")
    if openssl is None:
        parser.error("the openssl program is needed")
    whole = whole_messages()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder / "authority", openssl)
        own, peer = authority.issue("hilum"), authority.issue("scanner")
        secure = ssl.create_default_context(cafile=str(authority.certificate))
        secure.check_hostname = False
        secure.load_cert_chain(peer.certificate, peer.key)
        settings = authority.settings(own, require=True)
        (folder / "node").mkdir()
        with running(folder / "node", section=PATIENT, tls=settings) as node:
            failures = fuzz(
                lambda rng: ending_over_tls(node, rng, secure, whole),
                lambda: echoes(node, secure),
                asked,
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
