"""What our sender makes of a peer that misbehaves: the table of faults, against a stub TPS."""

import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.delivery import InstanceDelivery, InstanceOutcome, echo, send_instances
from node.errors import DeliveryError
from tests.hostile_peer import element
from tests.stub_tps import Deed, Reply, StubTps, Welcome, pdu, usual
from tests.test_delivery import MARK, peer_at, write_object

SENT = InstanceOutcome.SENT
WARNED = InstanceOutcome.WARNED
TRANSIENT = InstanceOutcome.REFUSED_TRANSIENT
PERMANENT = InstanceOutcome.REFUSED_PERMANENT
UNANSWERED = InstanceOutcome.NOT_ATTEMPTED

TIMEOUT_S = 3.0
"""Of the sender."""
BOUND_S = 60.0
"""For everything, on a busy machine; a hang takes longer."""
FAULTY = "1.2.3.2"
PIXEL_BYTES = 200_000
"""A dozen fragments of the usual length."""
TOO_MUCH_BYTES = 12 << 20
"""More than the connection holds when nobody reads."""


@dataclass(frozen=True)
class Fault:
    """A row: what the peer does with the second of three objects, the first time that it comes.

    Attributes:
        name: Of the row.
        does: What the peer does.
        outcome: What we report of that object.
        words: In the reason.
        associations: How many it takes to bring the other two; 2 where the first is lost.
        pixel_bytes: Size of the second object.
    """

    name: str
    does: Reply | Deed
    outcome: InstanceOutcome
    words: str
    associations: int = 1
    pixel_bytes: int = PIXEL_BYTES


NAME_IN_COMMENT = element(0x0902, MARK.encode())
TAGS = element(0x0901, struct.pack("<HH", 0x0020, 0x0052) + b"ZEBR")

FAULTS = (
    # answered: the association goes on
    Fault("out of resources", Reply(0xA700), TRANSIENT, "status 0xA700: "),
    Fault("processing failure", Reply(0x0110), TRANSIENT, "status 0x0110: "),
    Fault("resource limitation", Reply(0x0213), TRANSIENT, "status 0x0213: "),
    Fault("does not match its class", Reply(0xA900), PERMANENT, "status 0xA900: "),
    Fault("cannot understand", Reply(0xC000), PERMANENT, "status 0xC000: "),
    Fault("SOP class not supported", Reply(0x0122), PERMANENT, "status 0x0122: "),
    Fault("not authorized", Reply(0x0124), PERMANENT, "status 0x0124: "),
    Fault("an unknown status", Reply(0x1234), PERMANENT, "0x1234: not a status of C-STORE"),
    Fault("coerced", Reply(0xB000), WARNED, "status 0xB000: "),
    Fault("elements discarded", Reply(0xB006), WARNED, "status 0xB006: "),
    Fault("stored though it does not match", Reply(0xB007), WARNED, "status 0xB007: "),
    Fault("a name in the comment", Reply(0xA700, more=NAME_IN_COMMENT), TRANSIENT, "0xA700"),
    Fault(
        "an element is named, and an unknown one",
        Reply(0xA900, more=TAGS + element(0x0902, MARK.encode())),
        PERMANENT,
        "(FrameOfReferenceUID, an unknown element)",
    ),
    Fault("an error ID", Reply(0xC000, more=element(0x0903, 4711)), PERMANENT, "(error ID 4711)"),
    # not answered, or not properly: the association is lost, the object comes again
    Fault("silence", Deed.SILENCE, UNANSWERED, "did not answer within 3 s", 2),
    Fault("an answer after the limit", Reply(late_s=6.0), UNANSWERED, "did not answer", 2),
    Fault("stops reading", Deed.STOP_READING, UNANSWERED, "did not take", 2, TOO_MUCH_BYTES),
    Fault("abort", Deed.ABORT, UNANSWERED, "aborted the association", 2),
    Fault("close", Deed.CLOSE, UNANSWERED, "ended the association", 2),
    Fault("release", Deed.RELEASE, UNANSWERED, "released the association", 2),
    Fault("abort in the data", Deed.ABORT_IN_DATA, UNANSWERED, "ended", 2, TOO_MUCH_BYTES),
    Fault("abort in short data", Deed.ABORT_IN_DATA, UNANSWERED, "aborted", 2),
    Fault("close in the data", Deed.CLOSE_IN_DATA, UNANSWERED, "ended", 2, TOO_MUCH_BYTES),
    Fault("reset in the data", Deed.RESET_IN_DATA, UNANSWERED, "ended", 2, TOO_MUCH_BYTES),
    # noticed within the data or behind it: the peer goes on reading
    Fault("release in the data", Deed.RELEASE_IN_DATA, UNANSWERED, "the assoc", 2, TOO_MUCH_BYTES),
    Fault("release in short data", Deed.RELEASE_IN_DATA, UNANSWERED, "released", 2),
    Fault("another message is answered", Reply(message_id=1), UNANSWERED, "another message", 2),
    Fault("another object", Reply(instance=b"1.2.3.9\0"), UNANSWERED, "another object", 2),
    Fault("another context", Reply(context=2), UNANSWERED, "no answer", 2),
    Fault("a C-ECHO-RSP", Reply(field=0x8030), UNANSWERED, "was not asked", 2),
    Fault("no status", Reply(status=None), UNANSWERED, "without a status", 2),
    Fault("no PDU", Reply(raw=b"\xff" * 64), UNANSWERED, "no PDU type", 2),
    Fault("an HTTP answer", Reply(raw=b"HTTP/1.1 400 Bad\r\n\r\n"), UNANSWERED, "no PDU type", 2),
    Fault("a huge PDU", Reply(raw=b"\x04\x00\x7f\xff\xff\xff"), UNANSWERED, "longer PDU", 2),
    Fault("a fragment that lies", Reply(raw=pdu(4, b"\xff" * 6)), UNANSWERED, "wrong length", 2),
    Fault("an association request", Reply(raw=pdu(1, b"")), UNANSWERED, "no place in", 2),
    Fault("half an answer", Reply(cut=5), UNANSWERED, "did not answer", 2),
    Fault("a command that ends early", Reply(more=b"\0\0"), UNANSWERED, "ends within", 2),
)  # fmt: skip


def send(stub: StubTps, paths: list[Path]) -> tuple[InstanceDelivery, ...]:
    """Send within a bounded time; nothing that the peer says is repeated."""
    began_s = time.monotonic()
    deliveries = send_instances(
        peer_at(stub.port), "HILUM", paths, timeout_s=TIMEOUT_S, slowest_bytes_per_s=5e6
    )
    assert time.monotonic() - began_s < BOUND_S
    for delivery in deliveries:
        assert MARK not in delivery.reason
        assert "ZEBR" not in delivery.reason
    return deliveries


def check_kept(stub: StubTps, paths: list[Path]) -> None:
    """Every object is with the peer as it was written, none under a second name."""
    assert sorted(stub.kept) == [f"1.2.3.{path.stem}" for path in paths]
    for path in paths:
        copies = set(stub.kept[f"1.2.3.{path.stem}"])
        (copy,) = copies
        assert path.read_bytes().endswith(copy)
    assert stub.wrongs == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_when_a_peer_does_it_is_reported_and_loses_nothing(
    fault: Fault, tmp_path: Path
) -> None:
    """Issue 6: each ends as the table says, none loses or duplicates an object."""
    paths = [
        write_object(tmp_path / "1", 1, pixels=bytes(PIXEL_BYTES)),
        write_object(tmp_path / "2", 2, pixels=bytes(fault.pixel_bytes)),
        write_object(tmp_path / "3", 3, pixels=bytes(PIXEL_BYTES)),
    ]
    with StubTps(usual(fault.does, at=FAULTY)) as stub:
        deliveries = send(stub, paths)
        assert [d.outcome for d in deliveries] == [SENT, fault.outcome, SENT]
        assert fault.words in deliveries[1].reason
        assert len(stub.proposed) == fault.associations
        assert stub.begun == {"1.2.3.1": 1, FAULTY: 1, "1.2.3.3": 1}
        if fault.outcome in (TRANSIENT, UNANSWERED):  # the next attempt finds it mended
            (again,) = send(stub, paths[1:2])
            assert again.outcome is SENT
        elif fault.outcome is PERMANENT:
            paths.pop(1)
        check_kept(stub, paths)


def test_association_when_the_peer_stops_reading_is_cut_for_the_peer_too(tmp_path: Path) -> None:
    """fo-dicom 1359: nothing is left on its way that the peer might take for an object later."""
    path = write_object(tmp_path / "2", 2, pixels=bytes(TOO_MUCH_BYTES))
    with StubTps(usual(Deed.STOP_READING, at=FAULTY)) as stub:
        (delivery,) = send(stub, [path])
        assert delivery.outcome is UNANSWERED
        line = stub._lines[0]
        line.settimeout(BOUND_S)
        with pytest.raises(ConnectionResetError):
            _read_on(line)
        assert stub.kept == {}


def _read_on(line: socket.socket) -> None:
    while line.recv(1 << 20):
        continue


def test_association_when_an_answer_is_late_is_aborted(tmp_path: Path) -> None:
    """Between two PDUs an A-ABORT is understood, so it is sent."""
    path = write_object(tmp_path / "2", 2)
    with StubTps(usual(Reply(late_s=4.5), at=FAULTY)) as stub:
        (delivery,) = send(stub, [path])
        assert delivery.outcome is UNANSWERED
        assert stub.wait_for(lambda: stub.aborts == 1)


@dataclass(frozen=True)
class Refusal:
    """A row: how a peer answers an association request, and what we report."""

    name: str
    welcome: Welcome
    words: str
    is_retryable: bool = True
    hint: str = field(default="log")


REFUSALS = (
    Refusal("permanent", Welcome((1, 1, 1)), "for good: it gives no reason", False),
    Refusal("calling AE", Welcome((1, 1, 3)), "does not know our AE title", False, "add our AE"),
    Refusal("called AE", Welcome((1, 1, 7)), "does not answer to", False, "correct ae_title"),
    Refusal("transient", Welcome((2, 3, 1)), "for now: it is congested"),
    Refusal("limit", Welcome((2, 3, 2)), "for now: it has as many associations"),
    Refusal("a reason nobody knows", Welcome((2, 9, 9)), "for now: for an unknown reason"),
    Refusal("abort", Welcome(raw=pdu(7, bytes(4)), is_closed=True), "not the association"),
    Refusal("close", Welcome(raw=b"", is_closed=True), "not the association"),
    Refusal("silence", Welcome(raw=b""), "not the association"),
    Refusal("half an acceptance", Welcome(raw=b"\2\0\0\0\1\0\0\1"), "not the association"),
    Refusal("no DICOM", Welcome(raw=b"SSH-2.0-OpenSSH_9\r\n"), "not the association"),
    Refusal("a huge acceptance", Welcome(raw=b"\2\0\x7f\xff\xff\xff"), "not the association"),
    Refusal("an empty acceptance", Welcome(raw=pdu(2, b"")), "not the association"),
    Refusal("a damaged one", Welcome(raw=pdu(2, b"\xff" * 300)), "not the association"),
    Refusal("a data PDU", Welcome(raw=pdu(4, bytes(10))), "not the association"),
    Refusal("PDUs of one byte", Welcome(longest_pdu_bytes=1), "1 bytes only", False, "16384"),
    Refusal("PDUs of seven bytes", Welcome(longest_pdu_bytes=7), "no message fits", False, "16384"),
)  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_association_when_a_peer_does_not_accept_it_is_told_apart(
    refusal: Refusal, tmp_path: Path
) -> None:
    """peers.md 13: a permanent refusal is for a person, any other for another attempt."""
    path = write_object(tmp_path / "1", 1)
    with StubTps(welcome=refusal.welcome) as stub:
        began_s = time.monotonic()
        with pytest.raises(DeliveryError, match=refusal.words) as sent:
            send(stub, [path])
        with pytest.raises(DeliveryError, match=refusal.words):
            echo(peer_at(stub.port), "HILUM", timeout_s=TIMEOUT_S)
        assert time.monotonic() - began_s < BOUND_S
        assert sent.value.is_retryable is refusal.is_retryable
        assert refusal.hint in sent.value.hint
        assert stub.begun == {}
        stub.welcome = Welcome()
        assert [d.outcome for d in send(stub, [path])] == [SENT]
        check_kept(stub, [path])


@pytest.mark.parametrize("longest_pdu_bytes", [None, 0, 8, 9, 13, 129, 4096, 131_072, 2**32 - 1])
def test_pdus_when_a_peer_announces_a_length_are_never_longer(
    longest_pdu_bytes: int | None, tmp_path: Path
) -> None:
    """PS3.8 D.1: 0 and nothing announced say no limit; fragments stay even."""
    paths = [write_object(tmp_path / str(at), at, pixels=bytes(3_000)) for at in (1, 2)]
    with StubTps(welcome=Welcome(longest_pdu_bytes=longest_pdu_bytes)) as stub:
        assert [d.outcome for d in send(stub, paths)] == [SENT, SENT]
        check_kept(stub, paths)


def test_pdus_when_the_data_set_ends_with_a_fragment_are_not_followed_by_an_empty_one(
    tmp_path: Path,
) -> None:
    """The last fragment says that it is the last, at each possible remainder."""
    paths = [
        write_object(tmp_path / str(at), at, pixels=bytes(32_768 + 2 * at)) for at in range(1, 9)
    ]
    start = len(paths[0].read_bytes()) - len(_data_set(paths[0]))
    longest = (len(paths[3].read_bytes()) - start) // 2 + 6  # two fragments, exactly
    with StubTps(welcome=Welcome(longest_pdu_bytes=longest)) as stub:
        assert [d.outcome for d in send(stub, paths)] == [SENT] * 8
        check_kept(stub, paths)


def _data_set(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


@pytest.mark.parametrize("only", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("own", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_syntax_when_a_peer_accepts_one_only_is_that(own: str, only: str, tmp_path: Path) -> None:
    """A.1.1: in its own syntax the file goes as it lies, in the other with the same values."""
    path = write_object(tmp_path / "1", 1, syntax=own)
    with StubTps(welcome=Welcome(syntaxes=(only,))) as stub:
        assert [d.outcome for d in send(stub, [path])] == [SENT]
        (copy,) = stub.kept["1.2.3.1"]
        assert (copy == _data_set(path)) is (own == only)
    head = path.read_bytes()[: -len(_data_set(path))]
    other = tmp_path / "copy"
    other.write_bytes(head.replace(own.encode(), only.encode()) + copy)
    if len(own) == len(only):
        assert dcmread(other).PixelData == dcmread(path).PixelData


def test_contexts_when_a_peer_accepts_none_end_in_a_refusal(tmp_path: Path) -> None:
    """DICOM-RST 56: no dead loop; the association is released, nothing is sent."""
    paths = [write_object(tmp_path / str(at), at) for at in (1, 2)]
    with StubTps(welcome=Welcome(syntaxes=())) as stub:
        deliveries = send(stub, paths)
        assert [d.outcome for d in deliveries] == [PERMANENT] * 2
        assert "none of the transfer syntaxes" in deliveries[0].reason
        assert stub.wait_for(lambda: stub.releases == 1)
        assert (stub.begun, len(stub.proposed)) == ({}, 1)


def test_echo_when_a_peer_misbehaves_says_why() -> None:
    """The doctor's question goes the same way as objects do."""
    with StubTps() as stub:
        assert echo(peer_at(stub.port), "HILUM", timeout_s=TIMEOUT_S).seconds < BOUND_S
        assert stub.wait_for(lambda: stub.releases == 1)
        stub.welcome = Welcome(syntaxes=())
        with pytest.raises(DeliveryError, match="does not offer Verification"):
            echo(peer_at(stub.port), "HILUM", timeout_s=TIMEOUT_S)


def test_object_when_its_file_becomes_shorter_is_not_sent_as_a_whole(tmp_path: Path) -> None:
    """A data set that ends early is never ended as if it were complete."""
    paths = [write_object(tmp_path / str(at), at, pixels=bytes(3 << 20)) for at in (1, 2, 3)]

    def script(uid: str, _times: int) -> Reply | Deed:
        if uid == "1.2.3.1":
            with paths[1].open("r+b") as file:
                file.truncate(1 << 20)
        return Reply()

    with StubTps(script) as stub:
        deliveries = send(stub, paths)
        assert [d.outcome for d in deliveries] == [SENT, UNANSWERED, SENT]
        assert "our file" in deliveries[1].reason
        check_kept(stub, [paths[0], paths[2]])
