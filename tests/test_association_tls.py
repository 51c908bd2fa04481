"""Calls over TLS: DCMTK as peer, and peers that must not be trusted; user identity as caller."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node.config import Peer, Role, TlsSection
from node.delivery import InstanceOutcome, echo, send_instances
from node.errors import DeliveryError
from node.tls import ServerTls
from tests.authority import Authority, Certified
from tests.nodes import free_port
from tests.receiving_node import ct
from tests.stub_tps import Deed, Reply, StubTps, Welcome, usual
from tests.test_delivery import write_object

LONG_S = 60.0


@pytest.fixture
def settings(authority: Authority) -> TlsSection:
    return authority.settings(authority.issue("hilum"))


def peer_at(port: int, **changes: object) -> Peer:
    usual = {"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "tls": True}
    return Peer.model_validate({**usual, "port": port, "roles": (Role.RECEIVE,), **changes})


def check_told(
    peer: Peer, settings: TlsSection | None, what: str, mend: str, *, is_retryable: bool = True
) -> None:
    """The echo fails, and says so in these words; `what` is told of the peer by its name."""
    with pytest.raises(DeliveryError) as failed:
        echo(peer, "HILUM", timeout_s=LONG_S, tls=settings)
    assert peer.name in str(failed.value)
    assert what in str(failed.value)
    assert mend in failed.value.hint
    assert failed.value.is_retryable is is_retryable


# A peer of another make


@contextmanager
def storescp(
    program: str, folder: Path, own: Certified, trusted: Path, *options: str
) -> Iterator[int]:
    """Run DCMTK's storescp over TLS, which wants a certificate of its caller."""
    folder.mkdir()
    port = free_port()
    command = [
        program, "+tls", own.key, own.certificate, "+cf", trusted, *options,
        "-aet", "TPS", "-od", folder, str(port),
    ]  # fmt: skip
    with (folder.parent / "storescp.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    try:
        for _ in range(6000):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), LONG_S):
                break
            threading.Event().wait(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.peers
@pytest.mark.parametrize("profile", ["+py", "+pz"])
@pytest.mark.parametrize("kind", ["rsa:2048", "rsa:3072"])
def test_objects_reach_dcmtk_over_tls(
    authority: Authority,
    settings: TlsSection,
    tmp_path: Path,
    peer_program: Callable[[str], str],
    profile: str,
    kind: str,
) -> None:
    """Issue 4, 12: the calling direction, with the BCP 195 profiles of another make."""
    path = tmp_path / "ct.dcm"
    ds = ct()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    own = authority.issue("tps", new_key=(kind,))
    with storescp(
        peer_program("storescp"), tmp_path / "kept", own, authority.certificate, profile
    ) as port:
        for peer in (peer_at(port), peer_at(port, certificate=str(own.certificate))):
            assert echo(peer, "HILUM", timeout_s=LONG_S, tls=settings).seconds < LONG_S
        (delivery,) = send_instances(peer_at(port), "HILUM", [path], timeout_s=LONG_S, tls=settings)
    assert delivery.outcome is InstanceOutcome.SENT
    (kept,) = (tmp_path / "kept").iterdir()
    assert bytes(ds.PixelData) in kept.read_bytes()
    # the one who looked whether it listens did not speak TLS; we did, to a proper end
    assert (tmp_path / "storescp.log").read_text().count("TLS error") <= 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Deed.STOP_READING, "did not take the object"),
        (Deed.SILENCE, "did not answer within"),
        (Deed.CLOSE_IN_DATA, "ended the association"),
        (Deed.RESET_IN_DATA, "ended the association"),
        (Deed.ABORT, "aborted the association"),
        (Deed.RELEASE, "released the association"),
        (Reply(message_id=1), "another message"),
        (Reply(raw=b"\xff" * 64), "no PDU type"),
    ],
)
def test_fault_when_a_peer_does_it_over_tls_is_reported_and_loses_nothing(
    fault: Deed | Reply,
    words: str,
    authority: Authority,
    settings: TlsSection,
    tmp_path: Path,
) -> None:
    """Issue 6: the faults of tests.test_peer_faults that meet the connection itself."""
    paths = [
        write_object(tmp_path / str(at), at, pixels=bytes(size))
        for at, size in ((1, 300_000), (2, 12 << 20), (3, 300_000))
    ]
    tls = ServerTls(authority.settings(authority.issue("tps")))
    with StubTps(usual(fault, at="1.2.3.2"), Welcome(longest_pdu_bytes=40_000), tls=tls) as stub:
        outcomes, reasons = [], []
        for sent in (paths, paths[1:2]):
            began_s = time.monotonic()
            found = send_instances(
                peer_at(stub.port),
                "HILUM",
                sent,
                timeout_s=4.0,
                slowest_bytes_per_s=5e6,
                tls=settings,
            )
            assert time.monotonic() - began_s < LONG_S
            outcomes.append([delivery.outcome for delivery in found])
            reasons += [delivery.reason for delivery in found]
        assert outcomes == [
            [InstanceOutcome.SENT, InstanceOutcome.NOT_ATTEMPTED, InstanceOutcome.SENT],
            [InstanceOutcome.SENT],
        ]
        assert words in reasons[1]
        assert stub.wrongs == []
        for path in paths:
            copies = set(stub.kept[f"1.2.3.{path.stem}"])
            assert len(copies) == 1
            assert path.read_bytes().endswith(copies.pop())


@pytest.mark.peers
def test_dcmtk_does_not_trust_us(
    authority: Authority, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """The peer's refusal is told as what it is, in TLS 1.3 too, where it comes late."""
    stranger = Authority(tmp_path / "other", authority.openssl)
    own = stranger.issue("hilum")
    settings = authority.settings(own)
    with storescp(
        peer_program("storescp"), tmp_path / "kept", authority.issue("tps"), authority.certificate
    ) as port:
        check_told(peer_at(port), settings, "does not trust our certificate", "administrator")


# Peers that must not be trusted


@contextmanager
def peer_with(
    own: Certified, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, suites: str = "ALL"
) -> Iterator[int]:
    """Listen with this certificate, shake hands with who comes, and go when it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    context.load_cert_chain(own.certificate, own.key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                line, _ = server.accept()
                line.settimeout(LONG_S)
                with suppress(OSError), context.wrap_socket(line, server_side=True) as encrypted:
                    encrypted.recv(1000)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(LONG_S)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "what", "mend"),
    [
        ("expired", "its certificate has expired", "renew"),
        (
            "stranger",
            "its certificate is signed by no authority that we trust",
            "tls.peer_authorities",
        ),
        ("self-signed", "its certificate is self-signed and not trusted", "tls.peer_authorities"),
        ("other host", "its certificate is for another address", "correct host"),
        ("client", "its certificate is not made for this use", "Extended Key Usage"),
        ("short", "its certificate has too short a key", "2048"),
    ],
)
def test_peer_without_a_good_certificate_gets_nothing(
    authority: Authority, settings: TlsSection, tmp_path: Path, kind: str, what: str, mend: str
) -> None:
    """Each fault of its certificate is told by name, with what to do."""
    made: dict[str, Callable[[], Certified]] = {
        "expired": lambda: authority.issue("tps", days=-1),
        "stranger": lambda: Authority(tmp_path / "other", authority.openssl).issue("tps"),
        "self-signed": lambda: authority.self_signed("tps"),
        "other host": lambda: authority.issue("tps", hosts="DNS:tps.example,IP:10.0.0.1"),
        "client": lambda: authority.issue("tps", usage="clientAuth"),
        "short": lambda: authority.issue("tps", new_key=("rsa:1024",)),
    }
    with peer_with(made[kind]()) as port:
        check_told(peer_at(port), settings, f"accepts the connection but not TLS: {what}", mend)


@pytest.mark.peers
def test_peer_is_told_by_its_host_name(authority: Authority, settings: TlsSection) -> None:
    """Without a certificate of its own configured, a peer must be who its certificate says."""
    with peer_with(authority.issue("tps", hosts="DNS:localhost")) as port:
        named = peer_at(port, host="localhost")
        check_told(named, settings, "not the association", "certificate")  # it goes
        check_told(peer_at(port), settings, "for another", "correct host")
    with peer_with(authority.issue("tps", hosts="DNS:tps.example")) as port:
        check_told(peer_at(port, host="localhost"), settings, "another host name", "correct host")


@pytest.mark.peers
def test_peer_with_another_certificate_than_configured_gets_nothing(
    authority: Authority, settings: TlsSection
) -> None:
    """Issue 4, 12: certificate per peer, in the calling direction too; then no host name counts."""
    own = authority.issue("tps", hosts="DNS:elsewhere.example")
    other = authority.issue("other")
    for certificate in (str(own.certificate), f"sha256:{authority.fingerprint(own.certificate)}"):
        with peer_with(own) as port:
            check_told(peer_at(port, certificate=certificate), settings, "not the association", "")
        with peer_with(other) as port:
            check_told(
                peer_at(port, certificate=certificate),
                settings,
                "its certificate is not the one configured for it",
                "[[peer]] certificate",
            )


@pytest.mark.peers
@pytest.mark.parametrize(
    ("newest", "suites"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA:DHE-RSA-AES128-SHA:ECDHE-RSA-AES128-SHA"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_peer_that_speaks_weakly_gets_nothing(
    authority: Authority, settings: TlsSection, newest: ssl.TLSVersion, suites: str
) -> None:
    """RFC 8996 and 9325: no lower version and no weak cipher, whoever we call."""
    own = authority.issue("tps", new_key=("rsa:2048",))
    with peer_with(own, newest=newest, suites=suites) as port:
        check_told(peer_at(port), settings, "not TLS", "BCP 195")


@pytest.mark.peers
def test_peer_that_speaks_plain_dicom_is_told_so(settings: TlsSection) -> None:
    """A wrong port, or a peer that was not switched to TLS."""
    ae = AE("TPS")
    ae.add_supported_context(Verification)
    ae.network_timeout = ae.acse_timeout = 5
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        port = int(server.server_address[1])
        check_told(peer_at(port), settings, "TLS", "")
    finally:
        ae.shutdown()


@pytest.mark.peers
def test_peer_that_stalls_in_the_handshake_is_given_up(settings: TlsSection) -> None:
    """The time limit holds for the handshake too."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = peer_at(int(mute.getsockname()[1]))
        with pytest.raises(DeliveryError, match="does not end the TLS handshake"):
            echo(peer, "HILUM", timeout_s=0.5, tls=settings)


def test_peer_that_is_away_is_told_as_ever(settings: TlsSection) -> None:
    """No TLS is blamed for a connection that was never made."""
    check_told(peer_at(free_port()), settings, "does not accept connections", "firewall")


def test_peer_cannot_be_called_without_files_of_our_own(
    authority: Authority, settings: TlsSection
) -> None:
    """Told at the call, and worth another attempt: the files may be mended meanwhile."""
    peer = peer_at(104, certificate="/absent.pem")
    check_told(peer, None, "needs the section [tls]", "doctor")
    settings.key.unlink()
    check_told(peer, settings, "tls.key", "doctor")
    check_told(peer, settings, "'tps': certificate: /absent.pem: No such file", "doctor")
    assert authority.key.exists()


# User identity


@contextmanager
def identifying_peer(*, is_right: bool) -> Iterator[tuple[int, list[tuple[int, bytes, bytes]]]]:
    """An SCP that notes the user identity of its callers, and finds it right or not."""
    seen: list[tuple[int, bytes, bytes]] = []

    def judge(event: Any) -> tuple[bool, None]:
        seen.append((event.user_id_type, event.primary_field, event.secondary_field))
        return is_right, None

    ae = AE("TPS")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_USER_ID, judge)])
    assert server is not None
    try:
        yield int(server.server_address[1]), seen
    finally:
        ae.shutdown()


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ({}, []),
        ({"username": "hilüm"}, [(1, "hilüm".encode(), b"")]),
        ({"username": "hilum", "passcode": "geheim"}, [(2, b"hilum", b"geheim")]),
    ],
)
def test_peer_is_told_the_configured_user_identity(
    identity: dict[str, object], expected: list[tuple[int, bytes, bytes]]
) -> None:
    """PS3.7 D.3.3.7: username, or username and passcode, in UTF-8; nothing where none is asked."""
    with identifying_peer(is_right=True) as (port, seen):
        echo(peer_at(port, tls=False, **identity), "HILUM", timeout_s=LONG_S)
    assert seen == expected


def test_refused_identity_is_told_as_such(tmp_path: Path) -> None:
    """The rejection has no words of its own for this; we know that an identity was given."""
    passcode = tmp_path / "passcode"
    passcode.write_text("geheim\n")
    with identifying_peer(is_right=False) as (port, seen):
        peer = peer_at(port, tls=False, username="hilum", passcode_file=passcode)
        check_told(peer, None, "gives no reason", "username and passcode of [[peer]] tps")
        assert seen == [(2, b"hilum", b"geheim")]
        passcode.unlink()
        check_told(peer, None, "passcode_file", "doctor")
