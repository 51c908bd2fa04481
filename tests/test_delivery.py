"""C-STORE and C-ECHO SCU, against the stand-in receiver, DCMTK, and peers that misbehave."""

import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DeformableSpatialRegistrationStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
)

from node.config import Peer, Role
from node.delivery import (
    MAX_CONTEXTS,
    MOST_UNANSWERED,
    InstanceDelivery,
    InstanceOutcome,
    echo,
    send_instances,
)
from node.errors import DeliveryError, UnfitObjectError, UnreadableObjectError
from node.receiver import ALL_STORAGE_CLASSES, Fault, Rejection, StandInReceiver
from tests.nodes import free_port, wait_for

SENT = InstanceOutcome.SENT
WARNED = InstanceOutcome.WARNED
TRANSIENT = InstanceOutcome.REFUSED_TRANSIENT
PERMANENT = InstanceOutcome.REFUSED_PERMANENT
NOT_ATTEMPTED = InstanceOutcome.NOT_ATTEMPTED

LONG_S = 60.0
"""For what comes at once, on a machine that has time."""

MARK = "ZEBRAFINCH"
"""Stands for a patient's name: may appear nowhere but in the object."""

PIXELS = bytes(range(32))
"""4 x 4 pixels of 16 bits; every byte differs, so a swapped one shows."""


def write_object(
    path: Path,
    number: int,
    *,
    sop_class: str = CTImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    pixels: bytes = PIXELS,
) -> Path:
    """Write a tiny object with instance UID 1.2.3.<number>."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"1.2.3.{number}")
    ds.PatientName = MARK
    ds.PatientID = MARK
    ds.ImagePositionPatient = [1.5, -2.25, number]
    ds.add_new(0x00091010, "DS", "0.125")
    ds.add_new(0x00090010, "LO", "HILUM TEST")
    ds.SamplesPerPixel = 1
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.SmallestImagePixelValue = -3
    ds.PixelData = pixels
    if syntax == JPEG2000Lossless:
        ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


def write_objects(folder: Path, count: int, *, syntax: str = ExplicitVRLittleEndian) -> list[Path]:
    return [write_object(folder / f"{at}.dcm", at, syntax=syntax) for at in range(1, count + 1)]


def peer_at(port: int, ae_title: str = "TPS", host: str = "127.0.0.1") -> Peer:
    return Peer(name="tps", ae_title=ae_title, host=host, port=port, roles=(Role.RECEIVE,))


def check_outcomes(
    deliveries: Sequence[InstanceDelivery], expected: Sequence[InstanceOutcome]
) -> None:
    """One outcome for each instance, in order, and a reason exactly where there is one to give."""
    assert [d.outcome for d in deliveries] == list(expected)
    assert [d.sop_instance_uid for d in deliveries] == [
        f"1.2.3.{at + 1}" for at in range(len(expected))
    ]
    for delivery in deliveries:
        assert bool(delivery.reason) == (delivery.outcome is not SENT)
        assert MARK not in delivery.reason


def check_error(peer: Peer, path: Path, *, is_retryable: bool, words: str, hint: str) -> None:
    """Both services report an association that does not come about in the same way."""
    with pytest.raises(DeliveryError, match=words) as sent:
        send_instances(peer, "HILUM", [path], timeout_s=LONG_S)
    with pytest.raises(DeliveryError, match=words) as echoed:
        echo(peer, "HILUM", timeout_s=LONG_S)
    for caught in (sent, echoed):
        assert caught.value.is_retryable is is_retryable
        assert hint in caught.value.hint


def test_send_delivers_the_stored_bytes(tmp_path: Path) -> None:
    """Section 6: a result set reaches the peer as it was written, once, in order."""
    paths = write_objects(tmp_path, 5)
    results: list[InstanceDelivery] = []
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        deliveries = send_instances(
            peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S, on_result=results.append
        )
        assert receiver.wait_for(5, timeout_s=0)
        kept = receiver.kept
        assert [len(digests) for digests in receiver.receipts.values()] == [1] * 5
        (seen,) = receiver.associations
    check_outcomes(deliveries, [SENT] * 5)
    assert [d.status for d in deliveries] == [0x0000] * 5
    assert tuple(results) == deliveries
    assert (seen.calling_ae, seen.called_ae) == ("HILUM", "TPS")
    for path, copy in zip(paths, kept.values(), strict=True):
        assert _data_set_bytes(copy) == _data_set_bytes(path)
        assert "1.2.3" not in copy.name


def test_send_proposes_only_what_the_batch_needs(tmp_path: Path) -> None:
    """A.1: a context for each SOP class and syntax in the batch, one syntax in each context."""
    paths = [
        write_object(tmp_path / "1", 1),
        write_object(tmp_path / "2", 2),
        write_object(tmp_path / "3", 3, sop_class=MRImageStorage, syntax=ImplicitVRLittleEndian),
        write_object(tmp_path / "4", 4, syntax=JPEG2000Lossless, pixels=_encapsulated(PIXELS)),
    ]
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
        (seen,) = receiver.associations
    check_outcomes(deliveries, [SENT] * 4)
    assert sorted(seen.contexts) == sorted(
        [
            (CTImageStorage, (ExplicitVRLittleEndian,)),
            (CTImageStorage, (ImplicitVRLittleEndian,)),
            (CTImageStorage, (JPEG2000Lossless,)),
            (MRImageStorage, (ImplicitVRLittleEndian,)),
            (MRImageStorage, (ExplicitVRLittleEndian,)),
        ]
    )


STATUSES = [
    (0x0000, SENT),
    (0xB000, WARNED),
    (0xB006, WARNED),
    (0xB007, WARNED),
    (0xA700, TRANSIENT),
    (0xA7FF, TRANSIENT),
    (0x0110, TRANSIENT),
    (0x0210, TRANSIENT),
    (0x0213, TRANSIENT),
    (0xA900, PERMANENT),
    (0xA9FF, PERMANENT),
    (0xC000, PERMANENT),
    (0xCFFF, PERMANENT),
    (0x0111, PERMANENT),
    (0x0117, PERMANENT),
    (0x0122, PERMANENT),
    (0x0124, PERMANENT),
    (0xFE00, PERMANENT),  # not a status of C-STORE: not delivered
    (0xB123, PERMANENT),  # likewise
]


def test_send_judges_every_status(tmp_path: Path) -> None:
    """A.2: each instance's own status counts; only success and three warnings are a delivery."""
    paths = write_objects(tmp_path, len(STATUSES))
    answers = {f"1.2.3.{at + 1}": status for at, (status, _) in enumerate(STATUSES)}
    with StandInReceiver(tmp_path / "tps", "TPS", 0, lambda uid, _: answers[uid]) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
        assert len(receiver.associations) == 1
    check_outcomes(deliveries, [outcome for _, outcome in STATUSES])
    assert [d.status for d in deliveries] == [status for status, _ in STATUSES]
    assert sum(d.outcome.is_delivered for d in deliveries) == 4
    assert "0xA700" in deliveries[4].reason
    assert "Out of Resources" in deliveries[4].reason


def test_send_names_the_offending_attribute_and_leaves_out_the_comment(tmp_path: Path) -> None:
    """Invariant 6: what the peer writes about the patient goes into no reason."""
    status = Dataset()
    status.Status = 0xA900
    status.ErrorComment = f"{MARK} is unknown"
    status.OffendingElement = 0x00200052
    (path,) = write_objects(tmp_path, 1)
    with StandInReceiver(tmp_path / "tps", "TPS", 0, lambda *_: status) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", [path], timeout_s=LONG_S)
    check_outcomes(deliveries, [PERMANENT])
    assert "FrameOfReferenceUID" in deliveries[0].reason


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_send_re_encodes_when_the_peer_takes_implicit_only(tmp_path: Path, syntax: str) -> None:
    """A.1.1: Implicit VR Little Endian is what every peer must take; values stay what they are."""
    (path,) = write_objects(tmp_path, 1, syntax=syntax)
    with StandInReceiver(
        tmp_path / "tps", "TPS", transfer_syntaxes=[ImplicitVRLittleEndian]
    ) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", [path], timeout_s=LONG_S)
        copy = dcmread(receiver.kept["1.2.3.1"])
    check_outcomes(deliveries, [SENT])
    assert copy.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    _check_same_values(path, copy)


def test_send_re_encodes_when_the_peer_takes_explicit_only(tmp_path: Path) -> None:
    """As above, the other way; attributes of ambiguous VR get the one their pixels ask for."""
    (path,) = write_objects(tmp_path, 1, syntax=ImplicitVRLittleEndian)
    with StandInReceiver(
        tmp_path / "tps", "TPS", transfer_syntaxes=[ExplicitVRLittleEndian]
    ) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", [path], timeout_s=LONG_S)
        copy = dcmread(receiver.kept["1.2.3.1"])
    check_outcomes(deliveries, [SENT])
    assert copy.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert copy["SmallestImagePixelValue"].VR == "SS"
    _check_same_values(path, copy)


def test_send_refuses_what_has_no_context_and_sends_the_rest(tmp_path: Path) -> None:
    """peers.md 17: a SOP class the peer does not take must not stop the others."""
    paths = [
        write_object(tmp_path / "1", 1),
        write_object(tmp_path / "2", 2, sop_class=RTStructureSetStorage),
        write_object(tmp_path / "3", 3),
    ]
    results: list[InstanceDelivery] = []
    with StandInReceiver(tmp_path / "tps", "TPS", sop_classes=[CTImageStorage]) as receiver:
        deliveries = send_instances(
            peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S, on_result=results.append
        )
    check_outcomes(deliveries, [SENT, PERMANENT, SENT])
    assert tuple(results) == deliveries
    assert deliveries[1].status is None
    assert "RT Structure Set Storage" in deliveries[1].reason


def test_send_ends_when_no_context_is_accepted(tmp_path: Path) -> None:
    """peers.md 19: no dead loop; every instance gets its permanent refusal."""
    paths = write_objects(tmp_path, 3)
    with StandInReceiver(tmp_path / "tps", "TPS", sop_classes=[MRImageStorage]) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
        assert len(receiver.associations) == 1
    check_outcomes(deliveries, [PERMANENT] * 3)


@pytest.mark.parametrize("sop_class", [DeformableSpatialRegistrationStorage, ParametricMapStorage])
def test_dispensable_is_left_out_when_the_peer_knows_no_such_object(
    tmp_path: Path, sop_class: UID
) -> None:
    """A planning system without deformations or maps still gets its result set whole."""
    paths = write_objects(tmp_path, 2)
    dispensable = dcmread(paths[1])
    dispensable.SOPClassUID = sop_class
    dispensable.file_meta.MediaStorageSOPClassUID = sop_class
    dispensable.save_as(paths[1])
    with StandInReceiver(tmp_path / "tps", "TPS", sop_classes=[CTImageStorage]) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
    check_outcomes(deliveries, [SENT, InstanceOutcome.LEFT_OUT])
    assert not deliveries[1].outcome.is_delivered


def test_send_does_not_decompress(tmp_path: Path) -> None:
    """A compressed object goes as it is or not at all."""
    path = write_object(tmp_path / "1", 1, syntax=JPEG2000Lossless, pixels=_encapsulated(PIXELS))
    with StandInReceiver(
        tmp_path / "tps", "TPS", transfer_syntaxes=[ExplicitVRLittleEndian]
    ) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", [path], timeout_s=LONG_S)
    check_outcomes(deliveries, [PERMANENT])
    assert "JPEG 2000" in deliveries[0].reason


def test_send_splits_when_more_than_128_contexts_are_needed(tmp_path: Path) -> None:
    """PS3.8 9.3.2.2: identifiers are odd bytes; the rest goes over a second association."""
    classes = ALL_STORAGE_CLASSES[: MAX_CONTEXTS // 2 + 6]
    paths = [
        write_object(tmp_path / f"{at}", at + 1, sop_class=sop_class)
        for at, sop_class in enumerate(classes)
    ]
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
        seen = receiver.associations
    check_outcomes(deliveries, [SENT] * len(classes))
    assert [len(association.contexts) for association in seen] == [128, 12]


def test_send_keeps_what_was_confirmed_when_a_later_association_is_rejected(
    tmp_path: Path,
) -> None:
    """Nothing that the peer has confirmed is lost to an error; the rest is for the next attempt."""
    classes = ALL_STORAGE_CLASSES[: MAX_CONTEXTS // 2 + 2]
    paths = [
        write_object(tmp_path / f"{at}", at + 1, sop_class=sop_class)
        for at, sop_class in enumerate(classes)
    ]
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:

        def reject_the_next(_: InstanceDelivery) -> None:
            receiver.rejection = Rejection.CONGESTION

        deliveries = send_instances(
            peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S, on_result=reject_the_next
        )
    check_outcomes(deliveries, [SENT] * 64 + [NOT_ATTEMPTED] * 2)
    assert "congested" in deliveries[-1].reason


def test_send_opens_anew_when_the_peer_aborts_in_the_middle(tmp_path: Path) -> None:
    """peers.md 19: the association is not used again; the object holds up none behind it."""
    paths = write_objects(tmp_path, 4)
    results: list[InstanceDelivery] = []

    def answer(uid: str, times: int) -> int | Fault:
        return Fault.ABORT if uid == "1.2.3.3" and times == 1 else 0x0000

    with StandInReceiver(tmp_path / "tps", "TPS", 0, answer) as receiver:
        peer = peer_at(receiver.port)
        deliveries = send_instances(
            peer, "HILUM", paths, timeout_s=LONG_S, on_result=results.append
        )
        check_outcomes(deliveries, [SENT, SENT, NOT_ATTEMPTED, SENT])
        assert "aborted" in deliveries[2].reason
        assert tuple(results) == (*deliveries[:2], deliveries[3])
        assert len(receiver.associations) == 2
        (again,) = send_instances(peer, "HILUM", paths[2:3], timeout_s=LONG_S)
        assert again.outcome is SENT
        assert [len(d) for d in receiver.receipts.values()] == [1, 1, 2, 1]


def test_send_opens_anew_when_the_peer_stalls(tmp_path: Path) -> None:
    """peers.md 19: no answer in time aborts the association; the instance is not confirmed."""
    paths = write_objects(tmp_path, 3)
    with StandInReceiver(
        tmp_path / "tps", "TPS", 0, lambda uid, _: Fault.STALL if uid == "1.2.3.2" else 0
    ) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=6.0)
        assert len(receiver.associations) == 2
    check_outcomes(deliveries, [SENT, NOT_ATTEMPTED, SENT])
    assert "did not answer within 6 s" in deliveries[1].reason


def test_send_stops_when_two_instances_in_a_row_get_no_answer(tmp_path: Path) -> None:
    """A peer that is dead costs two time limits, not one for each object."""
    paths = write_objects(tmp_path, 6)
    with StandInReceiver(
        tmp_path / "tps", "TPS", 0, lambda uid, _: 0 if uid == "1.2.3.1" else Fault.STALL
    ) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=6.0)
        assert len(receiver.associations) == 2
    check_outcomes(deliveries, [SENT, *[NOT_ATTEMPTED] * 5])


def test_send_stops_when_every_second_instance_gets_no_answer(tmp_path: Path) -> None:
    """The time that a bad peer costs has a bound, whatever it does answer."""
    paths = write_objects(tmp_path, 12)

    def answer(uid: str, _: int) -> int | Fault:
        return Fault.ABORT if int(uid[6:]) % 2 else 0x0000

    with StandInReceiver(tmp_path / "tps", "TPS", 0, answer) as receiver:
        deliveries = send_instances(peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S)
        assert len(receiver.associations) == MOST_UNANSWERED
    sent_half = [NOT_ATTEMPTED, SENT] * MOST_UNANSWERED
    check_outcomes(deliveries, [*sent_half[:-1], *[NOT_ATTEMPTED] * 5])


def test_send_aborts_when_the_caller_cannot_persist(tmp_path: Path) -> None:
    """A result that could not be recorded ends the batch with the caller's own error."""
    paths = write_objects(tmp_path, 3)

    def persist(delivery: InstanceDelivery) -> None:
        raise LookupError(delivery.sop_instance_uid)

    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        with pytest.raises(LookupError, match=r"1\.2\.3\.1"):
            send_instances(
                peer_at(receiver.port), "HILUM", paths, timeout_s=LONG_S, on_result=persist
            )
        assert len(receiver.kept) == 1


@pytest.mark.parametrize(
    ("rejection", "is_retryable", "words", "hint"),
    [
        (Rejection.CALLING_AE_UNKNOWN, False, "for good: it does not know our AE", "add our AE"),
        (Rejection.CALLED_AE_UNKNOWN, False, "for good: it does not answer", "correct ae_title"),
        (Rejection.CONGESTION, True, "for now: it is congested", ""),
        (Rejection.LOCAL_LIMIT, True, "for now: it has as many associations", ""),
    ],
)
def test_send_and_echo_tell_rejections_apart(
    tmp_path: Path, rejection: Rejection, is_retryable: bool, words: str, hint: str
) -> None:
    """peers.md 13: a permanent rejection is for a person, a transient one for time."""
    (path,) = write_objects(tmp_path, 1)
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        receiver.rejection = rejection
        check_error(peer_at(receiver.port), path, is_retryable=is_retryable, words=words, hint=hint)
        receiver.rejection = None
        assert echo(peer_at(receiver.port), "HILUM", timeout_s=20.0).seconds < 20.0


def test_send_and_echo_report_a_peer_that_is_away(tmp_path: Path) -> None:
    """Nobody listens: worth another attempt."""
    (path,) = write_objects(tmp_path, 1)
    check_error(
        peer_at(free_port()),
        path,
        is_retryable=True,
        words="does not accept connections",
        hint="firewall",
    )


def test_send_and_echo_report_an_unknown_host(tmp_path: Path) -> None:
    """A name that cannot exist (RFC 6761): worth another attempt, name services fail too."""
    (path,) = write_objects(tmp_path, 1)
    for host in ("tps.invalid", "x" * 70 + ".invalid"):
        check_error(peer_at(104, host=host), path, is_retryable=True, words="unknown", hint="host")


def test_send_and_echo_need_a_port_and_an_ae_title(tmp_path: Path) -> None:
    """A peer that only sends to us cannot be called: the configuration must change."""
    (path,) = write_objects(tmp_path, 1)
    nowhere = Peer(name="tps", ae_title="TPS", host="127.0.0.1", roles=(Role.SEND,))
    anybody = Peer(name="tps", ae_title="*", host="127.0.0.1", port=104, roles=(Role.SEND,))
    check_error(nowhere, path, is_retryable=False, words="no port", hint="tps")
    check_error(anybody, path, is_retryable=False, words="no AE title", hint="tps")


def test_send_ends_when_the_peer_is_silent_from_the_start(tmp_path: Path) -> None:
    """A port that accepts connections and says nothing is no DICOM SCP."""
    (path,) = write_objects(tmp_path, 1)
    with _silent_listener(b"") as port, pytest.raises(DeliveryError, match="not the assoc") as e:
        send_instances(peer_at(port), "HILUM", [path], timeout_s=0.3)
    assert e.value.is_retryable


def test_send_ends_when_the_peer_answers_half_a_pdu(tmp_path: Path) -> None:
    """The rest of a PDU that never comes must not hold the sender for ever."""
    (path,) = write_objects(tmp_path, 1)
    half = b"\x02\x00\x00\x00\x01\x00\x00\x01"  # 8 bytes of an A-ASSOCIATE-AC of 262
    with _silent_listener(half) as port, pytest.raises(DeliveryError, match="not the assoc"):
        send_instances(peer_at(port), "HILUM", [path], timeout_s=0.3)


def test_send_ends_when_the_peer_stops_reading(tmp_path: Path) -> None:
    """A full TCP window blocks the sender inside the socket: the connection is cut."""
    path = write_object(tmp_path / "1", 1, pixels=bytes(8 << 20))
    with (
        StandInReceiver(tmp_path / "tps", "TPS") as receiver,
        _relay_that_jams(receiver.port, after_bytes=100_000) as port,
    ):
        deliveries = send_instances(
            peer_at(port), "HILUM", [path], timeout_s=6.0, slowest_bytes_per_s=1e9
        )
    check_outcomes(deliveries, [NOT_ATTEMPTED])
    assert "did not take the object within 6 s" in deliveries[0].reason


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(128) + b"DICM"])
def test_send_refuses_a_file_that_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    """Nothing is sent of a batch that cannot be read; the file's name stays out of the error."""
    bad = tmp_path / MARK
    bad.write_bytes(content)
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        with pytest.raises(UnreadableObjectError, match="file 2 of 2") as caught:
            send_instances(
                peer_at(receiver.port), "HILUM", [*write_objects(tmp_path, 1), bad], timeout_s=1.0
            )
        assert receiver.associations == ()
    assert MARK not in str(caught.value)


def test_send_of_nothing_calls_nobody() -> None:
    """An empty batch needs no association."""
    assert send_instances(peer_at(free_port()), "HILUM", [], timeout_s=1.0) == ()


def test_send_refuses_a_file_that_is_gone(tmp_path: Path) -> None:
    """As above."""
    with pytest.raises(UnreadableObjectError, match="file 1 of 1: No such file"):
        send_instances(peer_at(104), "HILUM", [tmp_path / "gone"], timeout_s=1.0)


def test_send_refuses_a_file_that_contradicts_itself(tmp_path: Path) -> None:
    """PS3.10 7.1: the media storage UID is the instance's UID; which is right is not guessed."""
    (path,) = write_objects(tmp_path, 1)
    content = path.read_bytes()
    assert content.count(b"1.2.3.1\0") == 2
    path.write_bytes(content.replace(b"1.2.3.1\0", b"1.2.3.9\0", 1))
    with pytest.raises(UnfitObjectError, match="different SOP instances"):
        send_instances(peer_at(104), "HILUM", [path], timeout_s=1.0)


def test_send_logs_no_identifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 6, at the most talkative level, for stored and for re-encoded objects."""
    caplog.set_level(logging.DEBUG)
    (path,) = write_objects(tmp_path, 1)
    with StandInReceiver(
        tmp_path / "tps", "TPS", transfer_syntaxes=[ImplicitVRLittleEndian]
    ) as receiver:
        send_instances(peer_at(receiver.port), "HILUM", [path], timeout_s=LONG_S)
    assert MARK not in caplog.text
    (line,) = [record for record in caplog.records if record.name == "node.delivery"]
    assert line.message == "delivery.batch"
    assert line.__dict__["sent"] == 1


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "syntax"),
    [((), ExplicitVRLittleEndian), (("+xi",), ImplicitVRLittleEndian)],
)
def test_send_to_dcmtk(
    tmp_path: Path, peer_program: Callable[[str], str], options: tuple[str, ...], syntax: str
) -> None:
    """An outside SCP stores what we send; one that takes implicit VR only gets that."""
    paths = write_objects(tmp_path, 3)
    with _storescp(peer_program, tmp_path / "tps", *options) as port:
        deliveries = send_instances(peer_at(port), "HILUM", paths, timeout_s=LONG_S)
    check_outcomes(deliveries, [SENT] * 3)
    copies = sorted((tmp_path / "tps").iterdir())
    assert len(copies) == 3
    for path, copy in zip(paths, copies, strict=True):
        ds = dcmread(copy)
        assert ds.file_meta.TransferSyntaxUID == syntax
        _check_same_values(path, ds)


@pytest.mark.peers
@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_send_to_dcmtk_that_aborts(
    tmp_path: Path, peer_program: Callable[[str], str], option: str
) -> None:
    """An outside SCP's abort ends the batch without a confirmation."""
    paths = write_objects(tmp_path, 2)
    with _storescp(peer_program, tmp_path / "tps", option) as port:
        deliveries = send_instances(peer_at(port), "HILUM", paths, timeout_s=LONG_S)
    check_outcomes(deliveries, [NOT_ATTEMPTED] * 2)


@pytest.mark.peers
def test_send_to_dcmtk_that_refuses(tmp_path: Path, peer_program: Callable[[str], str]) -> None:
    """An outside SCP's permanent rejection is permanent."""
    (path,) = write_objects(tmp_path, 1)
    with _storescp(peer_program, tmp_path / "tps", "--refuse", is_refusing=True) as port:
        check_error(
            peer_at(port), path, is_retryable=False, words="for good: it gives no", hint="log"
        )


@pytest.mark.peers
def test_receiver_serves_dcmtk(tmp_path: Path, peer_program: Callable[[str], str]) -> None:
    """The stand-in is a real SCP to an outside SCU: C-ECHO, C-STORE, and the same again."""
    paths = write_objects(tmp_path, 2)
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        where = ["-aec", "TPS", "127.0.0.1", str(receiver.port)]
        subprocess.run([peer_program("echoscu"), *where], check=True, timeout=LONG_S)
        for _ in range(2):
            store = [peer_program("storescu"), *where, *map(str, paths)]
            subprocess.run(store, check=True, timeout=LONG_S)
        assert receiver.wait_for(2, timeout_s=LONG_S)
        receipts = receiver.receipts
    assert [len(digests) for digests in receipts.values()] == [2, 2]
    assert all(first == second for first, second in receipts.values())


def test_receiver_tells_when_instances_do_not_come(tmp_path: Path) -> None:
    """Waiting has a limit and tells how it ended."""
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        assert not receiver.wait_for(1, timeout_s=0.05)


def _data_set_bytes(path: Path) -> bytes:
    """Return what follows the file meta information, whose length stands in its first element."""
    content = path.read_bytes()
    assert content[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00"
    return content[144 + int.from_bytes(content[140:144], "little") :]


def _check_same_values(path: Path, copy: Dataset) -> None:
    ds = dcmread(path)
    assert copy.PixelData == ds.PixelData == PIXELS
    assert copy.ImagePositionPatient == ds.ImagePositionPatient
    assert copy.SmallestImagePixelValue == -3
    assert [element.tag for element in copy] == [element.tag for element in ds]


def _encapsulated(frame: bytes) -> bytes:
    """Wrap bytes as one fragment after an empty offset table (PS3.5 A.4); content is arbitrary."""
    item, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
    return item + bytes(4) + item + len(frame).to_bytes(4, "little") + frame + end


@contextmanager
def _silent_listener(answer: bytes) -> Iterator[int]:
    """Accept one connection, send `answer`, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_lines: list[socket.socket] = []

        def serve() -> None:
            line, _ = server.accept()
            line.sendall(answer)
            open_lines.append(line)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(LONG_S)
        for line in open_lines:
            line.close()


@contextmanager
def _relay_that_jams(port: int, *, after_bytes: int) -> Iterator[int]:
    """Pass bytes on in both directions, and stop reading from the sender after so many."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        finished = threading.Event()

        def serve() -> None:
            near, _ = server.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                back = threading.Thread(target=_copy, args=(far, near))
                back.start()
                _copy(near, far, after_bytes)
                finished.wait(LONG_S)
                far.shutdown(socket.SHUT_RDWR)
                back.join(LONG_S)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        finished.set()
        thread.join(LONG_S)


def _copy(source: socket.socket, target: socket.socket, limit_bytes: int | None = None) -> None:
    passed = 0
    while limit_bytes is None or passed < limit_bytes:
        content = source.recv(4096)
        if not content:
            return
        target.sendall(content)
        passed += len(content)


@contextmanager
def _storescp(
    peer_program: Callable[[str], str], folder: Path, *options: str, is_refusing: bool = False
) -> Iterator[int]:
    """Run DCMTK's storescp until the end of the block."""
    folder.mkdir()
    port = free_port()
    command = [peer_program("storescp"), *options, "-od", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_peer(port, is_refusing=is_refusing)
            yield port
        finally:
            process.terminate()


def _await_peer(port: int, *, is_refusing: bool) -> None:
    def answers() -> bool:
        try:
            echo(peer_at(port), "HILUM", timeout_s=5.0)
        except DeliveryError as error:
            if error.is_retryable:
                return False
            assert is_refusing
        return True

    wait_for(answers, timeout_s=LONG_S, what="storescp to start")
