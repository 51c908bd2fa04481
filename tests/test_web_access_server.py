"""The page's listener, over real sockets: TLS, renewed certificates, callers that do not go on."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from node.errors import ConfigError
from node.web.access.bodies import LARGEST_BODY_BYTES
from node.web.patience import MOST_CONNECTIONS, SLOWEST_REQUEST_S
from node.web.section import WebSection
from node.web.server import WebServer
from tests.authority import Authority, Certified
from tests.web_clients import Scene, scene

LATE_S = 60.0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return a page on loopback."""
    made = scene(tmp_path_factory.mktemp("page"))
    yield made
    made.index.close()


@pytest.fixture(scope="module")
def plain(page: Scene) -> Iterator[int]:
    """Return the port of a listener without TLS."""
    server = WebServer(page.app, WebSection(port=0))
    yield server.start()
    server.stop()


def keys_of(own: Certified) -> dict[str, Any]:
    """Return the keys of `[web]` for TLS."""
    return {"port": 0, "certificate": own.certificate, "key": own.key}


def call(port: int, request: bytes, context: ssl.SSLContext | None = None) -> tuple[bytes, bytes]:
    """Return what is answered, and the certificate that is shown."""
    with socket.create_connection(("127.0.0.1", port), timeout=LATE_S) as line:
        if context is None:
            line.sendall(request)
            return _all(line), b""
        with context.wrap_socket(line, server_hostname="localhost") as wrapped:
            shown = wrapped.getpeercert(binary_form=True) or b""
            wrapped.sendall(request)
            return _all(wrapped), shown


def _all(line: socket.socket) -> bytes:
    found = b""
    while piece := line.recv(65536):
        found += piece
    return found


def get(path: str, *headers: str) -> bytes:
    """Return a request as bytes."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.peers
def test_page_when_it_speaks_tls_marks_cookies_and_takes_up_a_renewed_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    """Issue 8, access: TLS by certificate; renewed as for DICOM, without a restart."""
    first, second = authority.issue("first"), authority.issue("second")
    page = scene(tmp_path, **keys_of(first))
    server = WebServer(page.app, WebSection.model_validate(keys_of(first)))
    port = server.start()
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    try:
        answer, shown = call(port, get("/health"), trusting)
        assert answer.startswith(b"HTTP/1.1 200")
        assert shown == authority.der(first.certificate)
        page_head = call(port, get("/login", "Accept: text/html"), trusting)[0].lower()
        assert b"\r\nset-cookie: __host-hilum_visit=" in page_head
        assert b"; path=/; httponly; samesite=lax; secure\r\n" in page_head
        assert b"\r\nstrict-transport-security: max-age=" in page_head
        first.certificate.write_bytes(second.certificate.read_bytes())
        assert call(port, get("/health"), trusting)[1] == shown  # without its key: the old one
        first.key.write_bytes(second.key.read_bytes())
        answer, shown = call(port, get("/health"), trusting)
        assert answer.startswith(b"HTTP/1.1 200")
        assert shown == authority.der(second.certificate)
        old = ssl.create_default_context(cafile=str(authority.certificate))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            call(port, get("/health"), old)
        with contextlib.suppress(ConnectionResetError):
            assert call(port, get("/health"))[0] == b""
    finally:
        server.stop()
        page.index.close()


@pytest.mark.peers
def test_page_when_its_files_do_not_fit_does_not_start(authority: Authority) -> None:
    """Every problem with its key, before anything listens."""
    mixed = Certified(authority.issue("a").certificate, authority.issue("b").key)
    with pytest.raises(ConfigError, match=r"does not belong to web\.certificate"):
        WebServer(FastAPI(), WebSection.model_validate(keys_of(mixed)))
    absent = Certified(Path("/nowhere/a.pem"), Path("/nowhere/a.key"))
    with pytest.raises(ConfigError) as caught:
        WebServer(FastAPI(), WebSection.model_validate(keys_of(absent)))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "web.certificate",
        "web.key",
    ]


def test_callers_when_they_do_not_go_on_are_cut_off(plain: int) -> None:
    """Slow loris: a head, or a body, that comes drop by drop holds no connection for long."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-"
    body = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nuser="
    ended: dict[str, float] = {}
    lines = {}
    for name, first in (("silent", b""), ("head", head), ("body", body)):
        lines[name] = socket.create_connection(("127.0.0.1", plain), timeout=0.2)
        lines[name].sendall(first)
    start = time.monotonic()
    while len(ended) < len(lines) and time.monotonic() - start < LATE_S:
        for name, line in lines.items():
            if name in ended:
                continue
            try:
                if name != "silent":
                    line.sendall(b"a")
                is_over = line.recv(65536) == b""
            except TimeoutError:
                continue
            except OSError:
                is_over = True
            if is_over:
                ended[name] = time.monotonic() - start
    for line in lines.values():
        line.close()
    assert ended.keys() == lines.keys()
    assert max(ended.values()) < SLOWEST_REQUEST_S + 40


def test_caller_when_it_goes_on_is_answered_however_many_pieces_it_sends(plain: int) -> None:
    """And several requests on one connection, each with its own patience."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", plain), timeout=LATE_S) as line:
        for _ in range(3):
            for at in range(0, len(request), 7):
                line.sendall(request[at : at + 7])
            answer = HTTPResponse(line)
            answer.begin()
            assert (answer.status, bool(answer.read())) == (200, True)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /x\r\nInjected: y HTTP/1.1\r\n\r\n",
        b"POST /api/probe HTTP/1.1\r\nConnection: close\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_request_when_it_is_none_is_refused(plain: int, request_bytes: bytes) -> None:
    """Heads without end, two hosts, smuggled lengths, no HTTP at all: refused, and closed."""
    try:
        answer = call(plain, request_bytes)[0]
    except ConnectionResetError:  # closed while we still sent
        return
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401")), answer[:200]


def test_body_when_announced_too_long_is_not_waited_for(plain: int) -> None:
    """413 at once, and the connection ends."""
    length = LARGEST_BODY_BYTES + 1
    head = f"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    answer = call(plain, head.encode())[0]
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]
    assert b"connection: close" in answer.lower()


def test_connections_when_too_many_leave_the_node_its_file_handles(plain: int) -> None:
    """Those beyond the limit end at once; when others go, there is room again."""
    lines = [socket.create_connection(("127.0.0.1", plain), timeout=LATE_S)]
    lines += [socket.create_connection(("127.0.0.1", plain)) for _ in range(MOST_CONNECTIONS + 10)]
    lines[-1].settimeout(LATE_S)
    with contextlib.suppress(ConnectionResetError):
        assert lines[-1].recv(1) == b""
    for line in lines[1:]:
        line.close()
    lines[0].sendall(get("/health"))
    assert lines[0].recv(12) == b"HTTP/1.1 200"
    lines[0].close()
