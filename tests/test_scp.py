"""C-STORE over real sockets: what is answered, kept and refused."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, uid
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node import conformance
from node.config import NodeSection
from node.disk import DiskCalls, DiskRoom
from node.element_reader import encoded_from_file
from node.index.tables import INSTANCES
from node.storage import ROOM_LOOKED_AT_S
from tests.header_objects import structure_set
from tests.receiving_node import (
    Node,
    answer_to,
    ask,
    associated,
    ct,
    cut,
    encoded,
    running,
    status_of,
    without,
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
    ],
)
def test_bytes_on_disk_are_those_sent(tmp_path: Path, syntax: uid.UID) -> None:
    """C-STORE promise: kept as sent, in a readable DICOM file, with a row in the index."""
    ds = ct()
    raw = encoded(ds, syntax)
    with running(tmp_path) as node, associated(node, syntax=syntax) as assoc:
        assert status_of(assoc, raw, ds) == 0x0000
        (row,) = node.rows(INSTANCES)
        path = node.store.read_path(row.path)
        assert path.read_bytes()[-len(raw) :] == raw
        assert encoded_from_file(path) == (syntax, raw)
        meta = dcmread(path, stop_before_pixels=True).file_meta
        assert (meta.MediaStorageSOPInstanceUID, row.peer) == (ds.SOPInstanceUID, "ct")
        assert (row.sop_instance_uid, row.transfer_syntax) == (ds.SOPInstanceUID, syntax)
        assert row.size_bytes == path.stat().st_size


def test_success_is_answered_last(tmp_path: Path) -> None:
    """Data written, synced, renamed; journal entry written, synced; and only then 0x0000."""
    calls: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: object) -> Any:
            calls.append(name)
            return call(*arguments)

        return run

    names = ("write", "write_pieces", "sync", "rename")
    disk = replace(DiskCalls(), **{n: noting(n, getattr(DiskCalls(), n)) for n in names})
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct(1)), ct(1)) == 0x0000
        calls.clear()
        assert status_of(assoc, encoded(ct(2)), ct(2)) == 0x0000
        calls.append("answer")
        kept = list(calls)
    written = kept.index("sync")
    assert set(kept[:written]) == {"write_pieces"}
    assert kept[written:] == ["sync", "rename", "write", "sync", "answer"]


def test_answer_that_the_reactor_took_comes_back_to_its_caller(node: Node) -> None:
    """Pynetdicom's reactor may take an answer that comes at once; one that nobody awaits goes."""
    ds = ct()
    with associated(node) as assoc:
        assoc._reactor_checkpoint.clear()
        ask(assoc, encoded(ds), ds)
        context_id, answer = assoc.dimse.get_msg(block=True)
        assert context_id is not None
        assert answer is not None
        assoc._serve_request(answer, context_id)
        assert assoc.dimse.get_msg(block=True) == (context_id, answer)
        assoc._reactor_checkpoint.set()
        assoc._serve_request(answer, context_id)
        assert assoc.dimse.msg_queue.empty()


def test_repetition_and_other_content(node: Node) -> None:
    """The same bytes: success and nothing new. Other bytes: both kept, the last received counts."""
    other = ct(SeriesDescription="corrected")
    with associated(node) as assoc:
        for ds in (ct(), ct(), other, ct()):
            assert status_of(assoc, encoded(ds), ds) == 0x0000
    assert node.stored_data_sets() == [encoded(other), encoded(ct())]
    assert [row.is_newest for row in node.rows(INSTANCES)] == [False, True]
    assert len(node.objects()) == 2


def test_peer_without_the_role_may_not_send(node: Node) -> None:
    """A peer can do only what its roles allow; verification is for everyone known."""
    with associated(node, "TPS", sop_classes=(uid.CTImageStorage, Verification)) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0124
        assert assoc.send_c_echo().Status == 0x0000
    assert node.objects() == []


def _with(keyword: str, value: str) -> Callable[[Dataset], bytes]:
    def make(ds: Dataset) -> bytes:
        ds[keyword].VR = "LT"  # lets pydicom write anything; the reader looks at the tag
        ds[keyword].value = value
        return encoded(ds)

    return make


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, on both sides
@pytest.mark.parametrize(
    ("make", "command", "status", "comment"),
    [
        (cut, {}, 0xC000, "ends within element (7FE0,0010)"),
        (lambda _ds: b"no data set", {}, 0xC000, "no known VR"),
        (without("FrameOfReferenceUID"), {}, 0xA900, "FrameOfReferenceUID is missing"),
        (without("StudyInstanceUID"), {}, 0xA900, "StudyInstanceUID is missing"),
        (without("SOPInstanceUID"), {}, 0xA900, "SOPInstanceUID is missing"),
        (_with("Modality", "MR"), {}, 0xA900, "Modality is not CT"),
        (_with("SOPInstanceUID", "../../../tmp/evil"), {}, 0xA900, "not a legal UID"),
        (encoded, {"instance": "1.2.3"}, 0xA900, "SOP Instance UID differs"),
        (encoded, {"instance": "../../evil"}, 0xA900, "SOP Instance UID differs"),
        (encoded, {"sop_class": uid.MRImageStorage}, 0xA900, "differs from the command"),
    ],
)
def test_bad_object_is_refused_and_the_association_lives(
    node: Node, make: Callable[[Dataset], bytes], command: dict[str, str], status: int, comment: str
) -> None:
    """Handbook A.2; one bad object must not cost the sender the rest of its transfer."""
    with associated(node) as assoc:
        answer = answer_to(assoc, make(ct()), ct(), **command)
        assert answer.Status == status
        assert comment in str(answer.ErrorComment)
        assert node.objects() == []
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
    node.wait_for_outcomes("released")
    assert not list(node.root.rglob("*evil*"))


def test_object_of_another_class_than_the_context_is_refused(node: Node) -> None:
    """0xA900: an MR sent in the context of CT."""
    ds = ct(SOPClassUID=uid.MRImageStorage, Modality="MR")
    with associated(node) as assoc:
        answer = answer_to(assoc, encoded(ds), ds)
        assert answer.Status == 0xA900
        assert "presentation context" in str(answer.ErrorComment)


def test_class_that_is_not_accepted_gets_no_context(node: Node) -> None:
    """What is no object of ours is refused in the negotiation, before it is sent."""
    classes = (uid.UltrasoundImageStorage, uid.CTImageStorage)
    with associated(node, sop_classes=classes) as assoc:
        assert [cx.abstract_syntax for cx in assoc.accepted_contexts] == [uid.CTImageStorage]


def test_every_promised_context_is_accepted(node: Node) -> None:
    """The conformance statement is what runs."""
    promised = {
        (row.sop_class_uid, syntax)
        for row in conformance.ACCEPTED
        for syntax in row.transfer_syntaxes
    }
    accepted = set()
    for syntax in {syntax for _, syntax in promised}:
        classes = tuple(row.sop_class_uid for row in conformance.ACCEPTED)
        with associated(node, sop_classes=classes, syntax=syntax) as assoc:
            accepted |= {(cx.abstract_syntax, syntax) for cx in assoc.accepted_contexts}
    assert accepted == promised


def test_full_disk_is_told_and_passes(tmp_path: Path) -> None:
    """0xA700 while the disk is full, then the same association goes on."""
    is_full = threading.Event()

    def write_pieces(descriptor: int, pieces: Sequence[bytes | memoryview]) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.writev(descriptor, pieces)

    disk = replace(DiskCalls(), write_pieces=write_pieces)
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        is_full.set()
        assert status_of(assoc, encoded(ct()), ct()) == 0xA700
        assert node.objects() == []
        is_full.clear()
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        assert node.stored_data_sets() == [encoded(ct())]


def test_reserve_of_the_disk_is_kept(tmp_path: Path) -> None:
    """Below the floor: 0xA700 to who is there, who comes is rejected for now; then as before."""
    free_bytes = [100]
    disk = replace(DiskCalls(), room=lambda _path: DiskRoom(free_bytes[0], 1000))
    with running(tmp_path, disk=disk, min_free_bytes=50) as node, associated(node) as assoc:
        free_bytes[0] = 49
        time.sleep(ROOM_LOOKED_AT_S)
        assert status_of(assoc, encoded(ct()), ct()) == 0xA700
        with associated(node) as other:
            answer: Any = other.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
        free_bytes[0] = 50
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        with associated(node) as other:
            assert other.is_established


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_failing_disk_is_told_and_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """EIO, or remounted read-only: 0xA700, a line in the log, and good again by itself."""
    is_failing = threading.Event()

    def sync(descriptor: int) -> None:
        if is_failing.is_set():
            raise OSError(number, os.strerror(number))
        os.fdatasync(descriptor)

    disk = replace(DiskCalls(), sync=sync)
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct(1)), ct(1)) == 0x0000
        is_failing.set()
        assert status_of(assoc, encoded(ct(2)), ct(2)) == 0xA700
        with associated(node) as other:
            assert other.is_rejected
        is_failing.clear()
        assert status_of(assoc, encoded(ct(2)), ct(2)) == 0x0000
        with associated(node) as other:
            assert other.is_established
        assert node.stored_data_sets() == [encoded(ct(1)), encoded(ct(2))]
        assert len(node.objects()) == 2
    events = [r.message for r in caplog.records if r.message.startswith("disk.")]
    assert events == ["disk.refuses", "disk.recovered"]


def test_unforeseen_failure_is_answered_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """0x0110; success never stands for an object that is not there."""

    def rename(_spare: Path, _path: Path) -> None:
        raise ValueError("a mistake")

    with (
        running(tmp_path, disk=replace(DiskCalls(), rename=rename)) as node,
        associated(node) as assoc,
    ):
        assert status_of(assoc, encoded(ct()), ct()) == 0x0110
        assert node.objects() == []
    (record,) = [r for r in caplog.records if r.message == "store.failed"]
    assert record.exc_info


def test_database_that_fails_delays_rows_and_no_answer(node: Node) -> None:
    """The journal keeps the promise; the row comes when the database is well again."""
    with node.index.begin() as connection:
        connection.execute(sa.text("ALTER TABLE instances RENAME TO elsewhere"))
    with associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
    with node.index.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO instances"))
    assert node.stored_data_sets() == [encoded(ct())]


def test_limits_of_size_and_number(tmp_path: Path) -> None:
    """Too large: refused and not kept. Too many: refused. Either way the association lives."""
    section = NodeSection(port=0, max_object_mib=0.01, max_objects_per_association=3)
    large = ct(2, PixelData=bytes(20_000))
    large["PixelData"].VR = "OW"
    with running(tmp_path, section=section) as node, associated(node) as assoc:
        found = [status_of(assoc, encoded(ds), ds) for ds in (ct(1), large, ct(3), ct(4))]
        assert found == [0x0000, 0xA700, 0x0000, 0xA700]
        assert len(node.objects()) == len(node.rows(INSTANCES)) == 2


def test_plain_transport_receives_as_well(tmp_path: Path) -> None:
    """node.transport = "plain": pynetdicom does all of it, the promise is the same."""
    section = NodeSection(port=0, transport="plain")
    with running(tmp_path, section=section) as node, associated(node) as assoc:
        for raw, status in ((encoded(ct()), 0x0000), (cut(ct()), 0xC000)):
            assert status_of(assoc, raw, ct()) == status
        assert node.stored_data_sets() == [encoded(ct())]


def test_nested_garbage_is_kept_and_told(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The scan before the answer does not look into sequences; what is found behind is logged."""
    ds = ct()
    ds.add_new(0x30060010, "SQ", [Dataset()])  # ReferencedFrameOfReferenceSequence
    raw = encoded(ds)
    place = raw.index(b"\x06\x30\x10\x00SQ") + 12
    with associated(node) as assoc:
        broken = raw[:place] + b"\xff" * 8 + raw[place + 8 :]
        assert status_of(assoc, broken, ds) == 0x0000
    (row,) = node.rows(INSTANCES)
    assert (row.sop_instance_uid, row.modality) == (ds.SOPInstanceUID, "")
    assert node.store.read_path(row.path).read_bytes().endswith(broken)
    assert [r for r in caplog.records if r.message == "instance.unreadable"]


def test_structure_set_that_is_damaged_inside_is_refused(node: Node) -> None:
    """What joins objects to a case is looked into before the answer: its sender is told."""
    ds = structure_set()
    raw = encoded(ds)
    place = raw.index(b"\x06\x30\x20\x00SQ") + 12  # StructureSetROISequence
    broken = raw[:place] + b"\xff" * 8 + raw[place + 8 :]
    with associated(node, sop_classes=(uid.RTStructureSetStorage,)) as assoc:
        answer = answer_to(assoc, broken, ds)
        assert answer.Status == 0xC000
        assert "whole items" in str(answer.ErrorComment)
        assert status_of(assoc, raw, ds) == 0x0000
    (row,) = node.rows(INSTANCES)
    assert (row.sop_instance_uid, row.modality) == (ds.SOPInstanceUID, "RTSTRUCT")
