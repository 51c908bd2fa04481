"""TLS of incoming connections: openssl is the judge of what is spoken and of whom is let in.

The listener here does nothing but greet whom it lets in; associations over TLS with the node
itself are in `test_scp_tls`, calls to peers in `test_association_tls`.
"""

import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from node.config import TlsSection
from node.errors import ConfigError
from node.tls import ServerTls, why_no_tls
from tests.authority import CURVE, Authority, Certified

pytestmark = pytest.mark.peers

GREETING = b"let in"
LONG_S = 60.0
HANDSHAKE_S = 5.0

RSA = ("rsa:2048",)
EVERY_SUITE = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
SUITES = {
    "ec": {
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    },
    "rsa:2048": {
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    },
}
"""RFC 9325 4.2, and ChaCha20 (RFC 7905): ephemeral, AEAD; of the kind of the server's key."""


class Listener:
    """Shakes hands with who comes, greets, and stays until the other end goes."""

    def __init__(self, settings: TlsSection, handshake_s: float = HANDSHAKE_S) -> None:
        self.tls = ServerTls(settings)
        self.handshake_s = handshake_s
        self.failures: list[str] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.server.getsockname()[1])
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self.server.accept()
                self.threads.append(threading.Thread(target=self._serve, args=[line], daemon=True))
                self.threads[-1].start()

    def _serve(self, line: socket.socket) -> None:
        with suppress(OSError), self.tls.wrap(line) as encrypted:
            encrypted.settimeout(self.handshake_s)
            try:
                encrypted.do_handshake()
            except OSError as error:
                self.failures.append(why_no_tls(error).what)
                return
            encrypted.settimeout(LONG_S)
            encrypted.sendall(GREETING)
            while heard := encrypted.recv(100):
                encrypted.sendall(heard)

    def stop(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for thread in self.threads:
            thread.join(LONG_S)


@contextmanager
def listening(settings: TlsSection, handshake_s: float = HANDSHAKE_S) -> Iterator[Listener]:
    listener = Listener(settings, handshake_s)
    try:
        yield listener
    finally:
        listener.stop()


def told_by_openssl(
    authority: Authority, port: int, caller: Certified | None, *options: str, said: str = ""
) -> str:
    """Return what `openssl s_client` shows of a connection; it goes after the greeting."""
    own = ["-cert", str(caller.certificate), "-key", str(caller.key)] if caller else []
    command = [
        authority.openssl, "s_client", "-connect", f"127.0.0.1:{port}",
        "-CAfile", str(authority.certificate), *own, *options,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        watch = threading.Timer(LONG_S, process.kill)
        watch.start()
        assert process.stdin is not None
        assert process.stdout is not None
        output, heard = process.stdout.fileno(), b""
        while GREETING not in heard and (part := os.read(output, 1 << 16)):
            heard += part
        if said and GREETING in heard:
            process.stdin.write(said.encode())
            process.stdin.flush()
            heard += os.read(output, 1 << 16)
        with suppress(OSError):  # refused and gone
            process.stdin.close()
        while part := os.read(output, 1 << 16):
            heard += part
    watch.cancel()
    return heard.decode(errors="replace")


def check_refused(listener: Listener, told: str, alert: str, why: str) -> None:
    """The caller was not let in; it got this alert, and we know why."""
    assert GREETING.decode() not in told
    assert alert in told
    with suppress(IndexError):
        listener.threads[1].join(LONG_S)
    assert listener.failures, "the handshake was not refused"
    assert why in listener.failures[-1]


# What is spoken


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_current_tls_is_spoken(authority: Authority, version: str) -> None:
    """PS3.15 B.12: both ends show certificates; nothing that BCP 195 warns of."""
    caller = authority.issue("caller")
    with listening(authority.settings(authority.issue("hilum"))) as listener:
        told = told_by_openssl(authority, listener.port, caller, f"-tls{version}")
    assert GREETING.decode() in told
    assert f"New, TLSv{version.replace('_', '.')}, Cipher is" in told
    assert "Verification: OK" in told
    assert "Compression: NONE" in told
    assert "No ALPN negotiated" in told
    assert "session ticket" not in told.lower()
    assert listener.failures == []


def test_newest_version_is_preferred(authority: Authority) -> None:
    """PS3.15 B.12: servers shall prefer TLS 1.3."""
    with listening(authority.settings(authority.issue("hilum"))) as listener:
        told = told_by_openssl(authority, listener.port, authority.issue("caller"))
    assert "New, TLSv1.3" in told


def take_everything(listener: Listener, own: Certified) -> None:
    """Let a listener take whatever this OpenSSL can: shows that the judge can speak it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers(EVERY_SUITE)
    context.load_cert_chain(own.certificate, own.key)
    listener.tls.wrap = lambda line: context.wrap_socket(  # type: ignore[method-assign]
        line, server_side=True, do_handshake_on_connect=False
    )


@pytest.mark.parametrize("version", ["1", "1_1"])
def test_outdated_version_is_refused(authority: Authority, version: str) -> None:
    """RFC 8996: TLS 1.0 and 1.1 must not be used. The judge can speak them, as a server shows."""
    own, caller = authority.issue("hilum", new_key=RSA), authority.issue("caller")
    options = (f"-tls{version}", "-cipher", EVERY_SUITE)
    with listening(authority.settings(own)) as listener:
        told = told_by_openssl(authority, listener.port, caller, *options)
        check_refused(listener, told, "alert protocol version", "outdated version")
        take_everything(listener, own)
        told = told_by_openssl(authority, listener.port, caller, *options)
        assert GREETING.decode() in told
        assert f"Protocol  : TLSv{version.replace('_', '.')}" in told


def test_ssl_3_is_refused(authority: Authority) -> None:
    """RFC 9325 3.1.1; openssl no longer speaks it, so the ClientHello is written by hand."""
    body = bytes.fromhex("0300") + bytes(32) + b"\0" + bytes.fromhex("0004002f000a") + b"\1\0"
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    hello = bytes.fromhex("160300") + len(handshake).to_bytes(2, "big") + handshake
    with listening(authority.settings(authority.issue("hilum"))) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), LONG_S) as line:
            line.sendall(hello)
            answer = line.recv(100)
        check_refused(listener, "alert", "alert", "outdated version")
    assert answer[0] == 21, "an alert (RFC 8446 5.1)"
    assert answer[5] == 2, "a fatal one (RFC 8446 6)"


@pytest.mark.parametrize("kind", list(SUITES))
def test_only_strong_ciphers_are_taken(authority: Authority, kind: str) -> None:
    """RFC 9325 4: of every suite that openssl has, one by one, these and no other.

    That the judge can really speak the weak ones is shown by a server that takes them.
    """
    own = authority.issue("hilum", new_key=CURVE if kind == "ec" else (kind,))
    caller = authority.issue("caller")
    listed = authority.run("ciphers", "-s", "-tls1_2", EVERY_SUITE).strip().split(":")
    suites = [name for name in listed if not name.startswith("TLS_")]
    assert len(suites) > 40

    def taken(listener: Listener) -> set[str]:
        found = set()
        for suite in suites:
            options = ("-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")
            told = told_by_openssl(authority, listener.port, caller, *options)
            if GREETING.decode() in told:
                assert f"Cipher is {suite}" in told
                found.add(suite)
        return found

    with listening(authority.settings(own)) as listener:
        assert taken(listener) == SUITES[kind]
        assert set(listener.failures) == {"it offers weak ciphers only"}
        take_everything(listener, own)
        assert len(taken(listener) - SUITES[kind]) > 3


def test_renegotiation_is_refused(authority: Authority) -> None:
    """RFC 9325 3.5: a caller that asks for it (R) is told no, and the connection ends."""
    caller = authority.issue("caller")
    with listening(authority.settings(authority.issue("hilum"))) as listener:
        told = told_by_openssl(authority, listener.port, caller, "-tls1_2", said="R\n")
    assert "RENEGOTIATING" in told
    assert "no renegotiation" in told


# Who is let in


@pytest.mark.parametrize("version", ["1_2", "1_3"])
@pytest.mark.parametrize(
    ("kind", "alert", "why"),
    [
        ("none", "alert", "shows no certificate"),
        ("stranger", "alert unknown ca", "no authority that we trust"),
        ("self-signed", "alert unknown ca", "self-signed"),
        ("expired", "alert certificate expired", "has expired"),
        ("server", "alert", "not made for this use"),
        ("short", "alert", "too short a key"),
    ],
)
def test_caller_without_a_good_certificate_is_refused(
    authority: Authority, tmp_path: Path, version: str, kind: str, alert: str, why: str
) -> None:
    """PS3.15 B.12, mutual authentication: a missing, foreign, old or weak certificate."""
    made: dict[str, Callable[[], Certified | None]] = {
        "none": lambda: None,
        "stranger": lambda: Authority(tmp_path / "other", authority.openssl).issue("caller"),
        "self-signed": lambda: authority.self_signed("caller"),
        "expired": lambda: authority.issue("caller", days=-1),
        "server": lambda: authority.issue("caller", usage="serverAuth"),
        "short": lambda: authority.issue("caller", new_key=("rsa:1024",)),
    }
    options = (f"-tls{version}", "-cipher", "ALL:@SECLEVEL=0")
    with listening(authority.settings(authority.issue("hilum"))) as listener:
        told = told_by_openssl(authority, listener.port, made[kind](), *options)
        check_refused(listener, told, alert, why)


def test_self_signed_certificate_is_let_in_when_it_is_listed(authority: Authority) -> None:
    """Hospital peers often have no authority; then their own certificate is listed."""
    caller = authority.self_signed("caller")
    settings = authority.settings(authority.issue("hilum"), peer_authorities=caller.certificate)
    with listening(settings) as listener:
        assert GREETING.decode() in told_by_openssl(authority, listener.port, caller)
        told = told_by_openssl(authority, listener.port, authority.issue("other"))
        check_refused(listener, told, "alert unknown ca", "no authority that we trust")


def test_listed_certificate_is_let_in_but_not_others_of_its_authority(
    authority: Authority,
) -> None:
    """A certificate listed by itself is trusted by itself."""
    caller = authority.issue("caller")
    settings = authority.settings(authority.issue("hilum"), peer_authorities=caller.certificate)
    with listening(settings) as listener:
        assert GREETING.decode() in told_by_openssl(authority, listener.port, caller)
        told = told_by_openssl(authority, listener.port, authority.issue("other"))
        check_refused(listener, told, "alert unknown ca", "no authority that we trust")


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00" + (200).to_bytes(4, "big") + b"\x00\x01" + bytes(198),  # A-ASSOCIATE-RQ
        b"\x16\x03\x01\xff\xff" + bytes(100),
    ],
)
def test_plain_text_ends_quickly(authority: Authority, said: bytes) -> None:
    """A caller that does not speak TLS is not waited for."""
    with (
        listening(authority.settings(authority.issue("hilum")), LONG_S) as listener,
        socket.create_connection(("127.0.0.1", listener.port), LONG_S / 4) as line,
    ):
        line.sendall(said)
        with suppress(ConnectionResetError):
            while line.recv(100):
                pass
        listener.threads[1].join(LONG_S)
    assert listener.failures == ["it does not speak TLS"]


@pytest.mark.parametrize("pace_s", [None, 0.05])
def test_stalling_handshake_is_cut(authority: Authority, pace_s: float | None) -> None:
    """The limit is for the whole handshake: neither silence nor single bytes stretch it."""
    limit_s = 0.5
    going = threading.Event()
    with (
        listening(authority.settings(authority.issue("hilum")), limit_s) as listener,
        socket.create_connection(("127.0.0.1", listener.port), LONG_S) as line,
    ):
        for byte in bytes.fromhex("16030100c8010000c40303") + bytes(100):
            try:
                line.sendall(bytes([byte]))
            except OSError:
                break
            if pace_s is None or going.wait(pace_s):
                break
        with suppress(ConnectionResetError):
            assert line.recv(100) == b""
        listener.threads[1].join(LONG_S)
    assert listener.failures == ["it does not end the TLS handshake"]


# Files that change


def test_renewed_certificate_counts_from_the_next_connection_on(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4, 12: reload without dropping what is open; broken files leave the old in force."""
    first, second, caller = (authority.issue(n) for n in ("first", "second", "caller"))
    own = Certified(tmp_path / "hilum.pem", tmp_path / "hilum.key")

    def install(made: Certified) -> None:
        shutil.copy(made.key, own.key)
        shutil.copy(made.certificate, own.certificate)

    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(caller.certificate, caller.key)

    def connected(port: int) -> ssl.SSLSocket:
        line = socket.create_connection(("127.0.0.1", port), LONG_S)
        return context.wrap_socket(line, server_hostname="127.0.0.1")

    def presented(port: int) -> bytes | None:
        with connected(port) as line:
            assert line.recv(100) == GREETING
            return line.getpeercert(binary_form=True)

    install(first)
    with (
        caplog.at_level(logging.INFO),
        listening(authority.settings(own)) as listener,
        connected(listener.port) as open_line,
    ):
        assert open_line.recv(100) == GREETING
        assert presented(listener.port) == authority.der(first.certificate)
        install(second)
        assert presented(listener.port) == authority.der(second.certificate)
        own.key.write_text("no key")
        assert presented(listener.port) == authority.der(second.certificate)
        assert presented(listener.port) == authority.der(second.certificate)
        own.certificate.unlink()
        assert presented(listener.port) == authority.der(second.certificate)
        install(first)
        assert presented(listener.port) == authority.der(first.certificate)
        open_line.sendall(b"still here")
        assert open_line.recv(100) == b"still here"
        assert listener.failures == []
    errors = [r for r in caplog.records if r.getMessage() == "certificates.not_reloaded"]
    assert len(errors) == 2


def test_withdrawn_authority_counts_from_the_next_connection_on(
    authority: Authority, tmp_path: Path
) -> None:
    """A caller cannot take up an earlier session of an authority that is trusted no more."""
    caller, trusted = authority.issue("caller"), tmp_path / "trusted.pem"
    session = tmp_path / "session"
    shutil.copy(authority.certificate, trusted)
    settings = authority.settings(authority.issue("hilum"), peer_authorities=trusted)
    with listening(settings) as listener:
        told = told_by_openssl(
            authority, listener.port, caller, "-tls1_2", "-sess_out", str(session)
        )
        assert GREETING.decode() in told
        shutil.copy(Authority(tmp_path / "other", authority.openssl).certificate, trusted)
        options = ("-tls1_2", "-sess_in", str(session)) if session.exists() else ("-tls1_2",)
        told = told_by_openssl(authority, listener.port, caller, *options)
        check_refused(listener, told, "alert unknown ca", "no authority that we trust")


# Files that cannot be used


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda own: own.certificate.unlink(), r"tls\.certificate: .*No such file"),
        (lambda own: own.certificate.write_text("x"), r"tls\.certificate: .*holds no certificate"),
        (lambda own: own.key.unlink(), r"tls\.key: .*No such file"),
        (lambda own: own.key.write_text("x"), r"tls\.key: .*no unencrypted key.*openssl pkey"),
        (
            lambda own: own.key.write_text(
                "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"
            ),
            r"tls\.key: .*holds no key that can be used.*openssl pkey",
        ),
    ],
)
def test_node_does_not_start_with_files_that_cannot_be_used(
    authority: Authority, break_it: Callable[[Certified], object], problem: str
) -> None:
    """Each is named with its key, its path and what to do."""
    own = authority.issue("hilum")
    settings = authority.settings(own)
    ServerTls(settings)
    break_it(own)
    with pytest.raises(ConfigError) as refused:
        ServerTls(settings)
    (told,) = refused.value.problems
    assert re.match(problem, told)


def test_every_unusable_file_is_named_at_once(authority: Authority, tmp_path: Path) -> None:
    """DESIGN 6."""
    absent = {key: tmp_path / key for key in ("certificate", "key", "peer_authorities")}
    with pytest.raises(ConfigError) as refused:
        ServerTls(authority.settings(authority.issue("hilum"), **absent))
    assert [told.split(":")[0] for told in refused.value.problems] == [
        f"tls.{key}" for key in absent
    ]


def test_key_of_another_certificate_is_refused(authority: Authority) -> None:
    """The commonest slip when certificates are renewed."""
    own, other = authority.issue("hilum"), authority.issue("other")
    rsa = authority.issue("rsa", new_key=RSA)
    for key in (other.key, rsa.key):
        with pytest.raises(ConfigError, match=r"tls\.key: .* does not belong to tls\.certificate"):
            ServerTls(authority.settings(own, key=key))


def test_key_with_a_passphrase_is_refused_and_nobody_is_asked(authority: Authority) -> None:
    """A service has no terminal to ask at."""
    own, locked = authority.issue("hilum"), authority.folder / "locked.key"
    authority.run("pkey", "-in", own.key, "-aes256", "-passout", "pass:x", "-out", locked)
    with pytest.raises(ConfigError, match="no unencrypted key"):
        ServerTls(authority.settings(own, key=locked))


def test_weak_certificate_of_our_own_is_refused(authority: Authority) -> None:
    """RFC 9325 4.1: RSA keys of at least 2048 bits."""
    with pytest.raises(ConfigError, match="too weak"):
        ServerTls(authority.settings(authority.issue("hilum", new_key=("rsa:1024",))))


def test_commands_of_the_operator_guide_make_certificates_that_work(
    authority: Authority, tmp_path: Path
) -> None:
    """What the guide tells to type is typed here, and a peer gets in with what comes out."""
    guide = Path(__file__).parent.parent / "deploy" / "operations.md"
    blocks = re.findall(r"```sh\n(openssl .+?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    (commands,) = blocks
    made = tmp_path / "made"
    made.mkdir()
    answer = subprocess.run(
        ["bash", "-euc", commands], cwd=made, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "sha256 Fingerprint=" in answer.stdout
    hilum, tps = (Certified(made / f"{n}.pem", made / f"{n}.key") for n in ("hilum", "tps"))
    trusted = made / "authorities.pem"
    with listening(authority.settings(hilum, peer_authorities=trusted)) as listener:
        told = told_by_openssl(
            authority, listener.port, tps, "-CAfile", str(trusted), "-verify_return_error"
        )
        assert GREETING.decode() in told, told
        assert "Verification: OK" in told
