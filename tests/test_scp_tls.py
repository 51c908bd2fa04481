"""The node over TLS: DCMTK, Orthanc and openssl as callers; who gets in and who does not."""

import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from node.config import NodeSection, Peer, Role
from node.delivery import InstanceOutcome, echo, send_instances
from node.errors import DeliveryError, NodeError
from tests.authority import Authority, Certified
from tests.nodes import free_port
from tests.receiving_node import LONG_S, Node, ct, running

pytestmark = pytest.mark.peers

ASSOCIATE_AC, ASSOCIATE_RJ, ABORT = 2, 3, 7


@pytest.fixture
def scanner(authority: Authority) -> Certified:
    return authority.issue("scanner")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ct.dcm"
    slice_of(1).save_as(path, enforce_file_format=True)
    return path


def slice_of(number: int) -> Dataset:
    ds = ct(number)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def scanner_peer(**changes: Any) -> Peer:
    usual = {"name": "ct", "ae_title": "CT1", "host": "127.0.0.1", "roles": (Role.SEND,)}
    return Peer.model_validate({**usual, **changes})


@contextmanager
def encrypted_node(
    folder: Path,
    authority: Authority,
    *peers: Peer,
    own: Certified | None = None,
    tls: Mapping[str, object] = {},
    **node: object,
) -> Iterator[Node]:
    """Run a node that listens encrypted only, at `port`, unless told otherwise."""
    (folder / "node").mkdir()
    settings = authority.settings(own or authority.issue("hilum"), **{"require": True, **tls})
    section = NodeSection.model_validate({"port": 0, "network_timeout_s": 30, **node})
    with running(
        folder / "node", section=section, tls=settings, peers=peers or (scanner_peer(),)
    ) as found:
        yield found


def run_dcmtk(
    program: str, port: int, caller: Certified, authority: Authority, *arguments: object
) -> str:
    """Run echoscu or storescu as CT1 over TLS; return what it says, with its exit code first."""
    command = [
        program, "-aet", "CT1", "-aec", "HILUM", "+tls", caller.key, caller.certificate,
        "+cf", authority.certificate, *arguments[:-1], "127.0.0.1", port, *arguments[-1:],
    ]  # fmt: skip
    answer = subprocess.run(
        [str(part) for part in command if part != ""],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return f"{answer.returncode} {answer.stdout}{answer.stderr}"


@contextmanager
def associated_over_tls(
    node: Node, caller: Certified, authority: Authority
) -> Iterator[tuple[Any, ssl.SSLSocket]]:
    """Open an association as CT1; yield it and its connection."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(caller.certificate, caller.key)
    ae = AE("CT1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = LONG_S
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="HILUM", tls_args=(context, "127.0.0.1"))
    assert assoc.is_established
    line = assoc.dul.socket.socket  # type: ignore[union-attr]
    assert isinstance(line, ssl.SSLSocket)
    try:
        yield assoc, line
    finally:
        if assoc.is_established:
            assoc.release()
        assoc.join(LONG_S)


def said_in_log(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the reasons of all log lines of an event, once there is one."""
    end_s = time.monotonic() + LONG_S
    while time.monotonic() < end_s:
        found = [r for r in caplog.records if r.getMessage() == event]
        if found:
            return [str(vars(r)["reason"]) for r in found]
        time.sleep(0.01)
    raise AssertionError(f"nothing was logged as {event}")


def first_byte(line: socket.socket) -> int | None:
    """Return the type of the PDU that comes, None if the connection ends without one."""
    with suppress(ConnectionResetError, ssl.SSLError):
        got = line.recv(1)
        return got[0] if got else None
    return None


# DCMTK calls


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
@pytest.mark.parametrize("kind", ["rsa:2048", "ec"])
def test_dcmtk_sends_over_tls(
    tmp_path: Path,
    authority: Authority,
    peer_program: Callable[[str], str],
    image: Path,
    profile: str,
    kind: str,
) -> None:
    """Issue 4, 12: `storescu +tls` in each of its BCP 195 profiles; stored byte for byte."""
    made = authority.issue("rsa", new_key=("rsa:2048",)) if kind != "ec" else None
    caller = made or authority.issue("ec")
    with encrypted_node(tmp_path, authority, own=made) as node:
        told = run_dcmtk(peer_program("echoscu"), node.port, caller, authority, profile, "")
        assert told.startswith("0 "), told
        told = run_dcmtk(peer_program("storescu"), node.port, caller, authority, profile, image)
        assert told.startswith("0 "), told
        node.wait_for_outcomes("released")
        (kept,) = node.objects()
        assert dcmread(kept).PixelData == dcmread(image).PixelData


@pytest.mark.parametrize(
    ("changes", "shows", "expected"),
    [
        ({}, "own", "0 "),
        ({"certificate": "own"}, "own", "0 "),
        ({"certificate": "own", "host": "*"}, "own", "0 "),
        ({"certificate": "own"}, "other", "Calling AE Title Not Recognized"),
        ({"certificate": "own", "host": "*"}, "other", "Calling AE Title Not Recognized"),
        ({"host": "192.0.2.1"}, "own", "Calling AE Title Not Recognized"),
        ({"ae_title": "CT2"}, "own", "Calling AE Title Not Recognized"),
    ],
)
def test_trusted_caller_must_still_be_a_peer(
    tmp_path: Path,
    authority: Authority,
    scanner: Certified,
    peer_program: Callable[[str], str],
    changes: dict[str, Any],
    shows: str,
    expected: str,
) -> None:
    """Issue 4, 11: by AE title and address, or by AE title and the very certificate."""
    if "certificate" in changes:
        changes = {**changes, "certificate": str(scanner.certificate)}
    caller = scanner if shows == "own" else authority.issue("other")
    with encrypted_node(tmp_path, authority, scanner_peer(**changes)) as node:
        told = run_dcmtk(peer_program("echoscu"), node.port, caller, authority, "")
    assert expected in told


def test_peer_with_a_certificate_cannot_come_in_plain(
    tmp_path: Path, authority: Authority, scanner: Certified, peer_program: Callable[[str], str]
) -> None:
    """Both listeners are open; AE title and address do not replace the certificate."""
    peer = scanner_peer(certificate=str(scanner.certificate))
    port = free_port()
    with encrypted_node(tmp_path, authority, peer, tls={"require": False, "port": port}) as node:
        plain = [peer_program("echoscu"), "-aet", "CT1", "-aec", "HILUM", "127.0.0.1"]
        told = subprocess.run(
            [*plain, str(node.port)], capture_output=True, text=True, check=False, timeout=60
        )
        assert "Calling AE Title Not Recognized" in told.stderr
        told_tls = run_dcmtk(peer_program("echoscu"), port, scanner, authority, "")
        assert told_tls.startswith("0 ")


def test_plain_listener_is_closed_when_tls_is_required(
    tmp_path: Path, authority: Authority
) -> None:
    """`require` means that nobody talks to the node in plain text."""
    port = free_port()
    with (
        encrypted_node(tmp_path, authority, port=port),
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection(("127.0.0.1", port), LONG_S).close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-usr", "scanner", "-pwd", "geheim"), "0 "),
        (("-usr", "scanner", "-pwd", "geheim", "-rsp"), "0 "),
        (("-usr", "scanner", "-pwd", "falsch"), "No Reason"),
        (("-usr", "other", "-pwd", "geheim"), "No Reason"),
        (("-usr", "scanner", "-epw"), "No Reason"),
        (("-usr", "scanner"), "No Reason"),
        ((), "No Reason"),
    ],
)
def test_user_identity_of_dcmtk(
    tmp_path: Path,
    authority: Authority,
    scanner: Certified,
    peer_program: Callable[[str], str],
    image: Path,
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    expected: str,
) -> None:
    """Issue 4, 13: username and passcode where the peer has them, and nothing of it in the log."""
    peer = scanner_peer(username="scanner", passcode="geheim")
    with caplog.at_level(logging.DEBUG), encrypted_node(tmp_path, authority, peer) as node:
        told = run_dcmtk(peer_program("storescu"), node.port, scanner, authority, *options, image)
        assert expected in told
        if not told.startswith("0 "):
            assert "user identity" in said_in_log(caplog, "association.rejected")[0]
            assert node.objects() == []
    ours = [str(vars(r)) for r in caplog.records if r.name.startswith("node")]
    assert ours
    assert not [t for t in ours if "geheim" in t or "falsch" in t]


# Who does not get in


def test_caller_without_certificate_is_refused_and_logged(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4, 12: mutual authentication; the log tells the operator why."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with (
        encrypted_node(tmp_path, authority) as node,
        socket.create_connection(("127.0.0.1", node.port), LONG_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        assert first_byte(line) is None
    assert said_in_log(caplog, "association.no_tls") == ["it shows no certificate"]


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\xc8\x00\x01" + bytes(198)],
)
def test_plain_text_at_the_encrypted_port_ends_quickly(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    """No time-out has to run out for it, and no DICOM PDU comes back."""
    with (
        encrypted_node(tmp_path, authority, negotiation_timeout_s=60) as node,
        socket.create_connection(("127.0.0.1", node.port), LONG_S) as line,
    ):
        line.sendall(said)
        assert first_byte(line) not in (ASSOCIATE_AC, ASSOCIATE_RJ, ABORT)
        while line.recv(1000):
            pass
        assert said_in_log(caplog, "association.no_tls") == ["it does not speak TLS"]


@pytest.mark.parametrize("hello", [b"", bytes.fromhex("16030100c8010000c40303")])
def test_stalling_handshake_is_cut(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, hello: bytes
) -> None:
    """Issue 4, 10: negotiation_timeout_s counts from the connection."""
    with (
        encrypted_node(tmp_path, authority, negotiation_timeout_s=0.4) as node,
        socket.create_connection(("127.0.0.1", node.port), LONG_S) as line,
    ):
        start_s = time.monotonic()
        line.sendall(hello)
        with suppress(ConnectionResetError):
            while line.recv(1000):
                pass
        assert time.monotonic() - start_s < LONG_S / 2
        assert said_in_log(caplog, "association.no_tls") == ["it does not end the TLS handshake"]


def test_stalling_behind_the_handshake_is_cut(
    tmp_path: Path, authority: Authority, scanner: Certified
) -> None:
    """The association request must come within the same time."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(scanner.certificate, scanner.key)
    with (
        encrypted_node(tmp_path, authority, negotiation_timeout_s=1.0) as node,
        context.wrap_socket(
            socket.create_connection(("127.0.0.1", node.port), LONG_S),
            server_hostname="127.0.0.1",
        ) as line,
    ):
        start_s = time.monotonic()
        line.sendall(b"\1\0")
        assert first_byte(line) in (ABORT, None)
        assert time.monotonic() - start_s < LONG_S / 2


def test_address_with_many_failed_handshakes_is_shut_out(
    tmp_path: Path,
    authority: Authority,
    scanner: Certified,
    peer_program: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Issue 4, 11: beyond the rate its connections are closed unread, whatever it shows then."""
    with encrypted_node(tmp_path, authority, max_rejections_per_minute=2) as node:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", node.port), LONG_S) as line:
                line.sendall(b"no TLS at all")
                with suppress(ConnectionResetError):
                    while line.recv(1000):
                        pass
        assert said_in_log(caplog, "association.no_tls") == ["it does not speak TLS"] * 3
        told = run_dcmtk(peer_program("echoscu"), node.port, scanner, authority, "")
        assert not told.startswith("0 ")
        assert len(said_in_log(caplog, "association.no_tls")) == 3


# Certificates change


def test_certificate_is_renewed_under_an_open_association(
    tmp_path: Path, authority: Authority, scanner: Certified
) -> None:
    """Issue 4, 12: the open one goes on, the next one sees the new certificate."""
    first, second = authority.issue("first"), authority.issue("second")
    own = Certified(tmp_path / "hilum.pem", tmp_path / "hilum.key")

    def install(made: Certified) -> None:
        shutil.copy(made.key, own.key)
        shutil.copy(made.certificate, own.certificate)

    install(first)
    with (
        encrypted_node(tmp_path, authority, own=own) as node,
        associated_over_tls(node, scanner, authority) as (assoc, line),
    ):
        assert assoc.send_c_store(slice_of(1)).Status == 0x0000
        assert line.getpeercert(binary_form=True) == authority.der(first.certificate)
        install(second)
        with associated_over_tls(node, scanner, authority) as (other, other_line):
            assert other_line.getpeercert(binary_form=True) == authority.der(second.certificate)
            assert other.send_c_store(slice_of(2)).Status == 0x0000
        assert assoc.send_c_store(slice_of(3)).Status == 0x0000
        assoc.release()
        node.wait_for_outcomes("released", "released")
        assert len(node.objects()) == 3


def test_stop_tells_an_encrypted_peer(
    tmp_path: Path, authority: Authority, scanner: Certified
) -> None:
    """A-ABORT by the service user arrives inside the encryption, not a broken connection."""
    with encrypted_node(tmp_path, authority) as node:
        with associated_over_tls(node, scanner, authority) as (assoc, _):
            told: list[Any] = []
            assoc.bind(evt.EVT_PDU_RECV, lambda event: told.append(event.pdu))
            node.scp.stop()
            assoc.join(LONG_S)
        assert [type(pdu).__name__ for pdu in told] == ["A_ABORT_RQ"]
        assert (told[0].source, told[0].reason_diagnostic) == (0, 0)


def test_node_does_not_start_without_its_certificate(tmp_path: Path, authority: Authority) -> None:
    """Better not at all than in plain text."""
    own = authority.issue("hilum")
    own.certificate.unlink()
    with (
        pytest.raises(NodeError, match=r"tls\.certificate"),
        encrypted_node(tmp_path, authority, own=own),
    ):
        pass


# Our own calls, and Orthanc


def test_node_takes_what_the_node_sends(
    tmp_path: Path, authority: Authority, scanner: Certified, image: Path
) -> None:
    """Both directions of ours fit: certificate, user identity and all; rejections are told."""
    with encrypted_node(
        tmp_path,
        authority,
        scanner_peer(username="u", passcode="p"),
    ) as node:
        settings = authority.settings(scanner)

        def peer(**changes: object) -> Peer:
            usual = {"name": "node", "ae_title": "HILUM", "port": node.port, "tls": True}
            identity = {"username": "u", "passcode": "p"}
            return scanner_peer(**{**usual, **identity, **changes})

        assert echo(peer(), "CT1", timeout_s=LONG_S, tls=settings).seconds < LONG_S
        (answer,) = send_instances(peer(), "CT1", [image], timeout_s=LONG_S, tls=settings)
        assert answer.outcome is InstanceOutcome.SENT
        with pytest.raises(DeliveryError, match="for good") as refused:
            echo(peer(passcode="x"), "CT1", timeout_s=LONG_S, tls=settings)
        assert "check username and passcode of [[peer]] node" in refused.value.hint
        with pytest.raises(DeliveryError, match="does not know our AE title"):
            echo(peer(), "CT9", timeout_s=LONG_S, tls=settings)
        stranger = Authority(tmp_path / "other", authority.openssl).issue("scanner")
        with pytest.raises(DeliveryError, match=r"not TLS|not the association"):
            echo(peer(), "CT1", timeout_s=LONG_S, tls=authority.settings(stranger))
        with pytest.raises(DeliveryError, match="not the association"):
            echo(peer(tls=False), "CT1", timeout_s=LONG_S)


@contextmanager
def orthanc(
    program: str, folder: Path, own: Certified, authority: Authority, node_port: int
) -> Iterator[tuple[int, Callable[..., Any]]]:
    """Run Orthanc with TLS in both directions; yield its DICOM port and a caller of its REST."""
    dicom_port, http_port = free_port(), free_port()
    folder.mkdir()
    settings = {
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "DicomAet": "PACS",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(own.certificate),
        "DicomTlsPrivateKey": str(own.key),
        "DicomTlsTrustedCertificates": str(authority.certificate),
        "DicomModalities": {
            "hilum": {"AET": "HILUM", "Host": "127.0.0.1", "Port": node_port, "UseDicomTls": True}
        },
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))

    def ask(path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            f"http://127.0.0.1:{http_port}{path}", content, timeout=30
        ) as answer:
            return json.load(answer)

    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + 60
        while True:
            try:
                ask("/system")
                break
            except OSError:
                assert time.monotonic() < end_s, "Orthanc does not start"
                time.sleep(0.05)
        yield dicom_port, ask
    finally:
        process.terminate()
        process.wait()


def test_orthanc_speaks_tls_with_the_node_in_both_directions(
    tmp_path: Path, authority: Authority, peer_program: Callable[[str], str], image: Path
) -> None:
    """Issue 4, 12: Orthanc as judge. What we sent to it comes back from it, unchanged."""
    pacs = authority.issue("pacs")
    caller = Peer(
        name="pacs",
        ae_title="PACS",
        host="127.0.0.1",
        roles=(Role.SEND,),
        certificate=f"sha256:{authority.fingerprint(pacs.certificate)}",
    )
    with (
        encrypted_node(tmp_path, authority, caller) as node,
        orthanc(peer_program("Orthanc"), tmp_path / "orthanc", pacs, authority, node.port) as (
            port,
            ask,
        ),
    ):
        called = caller.model_copy(update={"port": port, "tls": True})
        settings = authority.settings(authority.issue("ours"))
        (answer,) = send_instances(called, "HILUM", [image], timeout_s=LONG_S, tls=settings)
        assert answer.outcome is InstanceOutcome.SENT
        assert ask("/modalities/hilum/echo", {}) == {}
        (instance,) = ask("/instances")
        assert ask("/modalities/hilum/store", [instance])["FailedInstancesCount"] == 0
        node.wait_for_outcomes("released")
        (kept,) = node.objects()
        assert dcmread(kept).PixelData == dcmread(image).PixelData


def test_name_of_the_patient_is_not_in_the_log(
    tmp_path: Path,
    authority: Authority,
    scanner: Certified,
    peer_program: Callable[[str], str],
    image: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """DESIGN 7.6, over TLS too; nor is what a certificate says of its holder."""
    peer = scanner_peer(certificate=f"sha256:{'00' * 32}")
    with caplog.at_level(logging.DEBUG), encrypted_node(tmp_path, authority, peer) as node:
        run_dcmtk(peer_program("storescu"), node.port, scanner, authority, image)
        assert said_in_log(caplog, "association.rejected") == ["another certificate"]
    ours = " ".join(str(vars(r)) for r in caplog.records if r.name.startswith("node"))
    assert not re.search(r"MARKED|CN ?= ?scanner", ours)
