"""A syslog collector over TLS, as a hospital has one, that can hang up when a test wants it to."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.authority import Authority


@dataclass
class SyslogCollector:
    """Takes messages framed as RFC 5425 has it.

    Attributes:
        lines: What came, whole messages only.
        hang_ups: After how many messages the first connections are cut; later ones are not.
    """

    context: ssl.SSLContext
    port: int = 0
    hang_ups: tuple[int, ...] = ()
    lines: list[str] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer."""
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain, suppress(OSError, ValueError):
                plain.settimeout(60)
                with self.context.wrap_socket(plain, server_side=True) as line:
                    self.connections += 1
                    self._take(line, dict(enumerate(self.hang_ups, 1)).get(self.connections))

    def _take(self, line: ssl.SSLSocket, most: int | None) -> None:
        stream = line.makefile("rb")
        count = 0
        while not self._stopping:
            digits = b""
            while not digits.endswith(b" "):
                one = stream.read(1)
                if not one:
                    line.unwrap()  # RFC 5425 section 4.4: who receives says so, too
                    return
                digits += one
            content = stream.read(int(digits))
            self.lines.append(content.decode())
            count += 1
            if count == most:
                return


@contextmanager
def collecting(
    authority: Authority,
    *,
    port: int = 0,
    asks_certificate: bool = False,
    **settings: tuple[int, ...],
) -> Iterator[SyslogCollector]:
    """Give a collector whose certificate this authority issued."""
    own = authority.issue(f"collector{port}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    if asks_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)
    collector = SyslogCollector(context, port, **settings)
    try:
        yield collector
    finally:
        collector.stop()
