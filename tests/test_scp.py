"""C-STORE over real sockets: what is answered, kept and refused."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, uid
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node import conformance
from node.element_reader import encoded_from_file
from node.index.tables import INSTANCES
from node.storage import DiskCalls
from tests.receiving_node import (
    Node,
    answer_to,
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
    """Written, synced, renamed, directory synced, row committed, and only then 0x0000."""
    calls: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: object) -> Any:
            calls.append(name)
            return call(*arguments)

        return run

    names = ("write", "sync", "rename", "sync_directory")
    disk = replace(DiskCalls(), **{n: noting(n, getattr(DiskCalls(), n)) for n in names})
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        sa.event.listen(node.index.engine, "commit", lambda _c: calls.append("commit"))
        assert status_of(assoc, encoded(ct(1)), ct(1)) == 0x0000
        calls.clear()
        assert status_of(assoc, encoded(ct(2)), ct(2)) == 0x0000
        calls.append("answer")
        kept = list(calls)
    assert kept == ["write", "write", "sync", "rename", "sync_directory", "commit", "answer"]


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

    def write(descriptor: int, part: bytes | memoryview) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, part)

    disk = replace(DiskCalls(), write=write)
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        is_full.set()
        assert status_of(assoc, encoded(ct()), ct()) == 0xA700
        assert node.objects() == []
        is_full.clear()
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        assert node.stored_data_sets() == [encoded(ct())]


def test_reserve_of_the_disk_is_kept(tmp_path: Path) -> None:
    """More must stay free than this disk has: nothing is accepted."""
    with running(tmp_path, min_free_bytes=1 << 60) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0xA700


def test_unforeseen_failure_is_answered_and_logged(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """0x0110; success never stands for a row that is not there."""
    with associated(node) as assoc, node.index.begin() as connection:
        connection.execute(sa.text("ALTER TABLE instances RENAME TO elsewhere"))
        connection.commit()
        assert status_of(assoc, encoded(ct()), ct()) == 0x0110
    (record,) = [r for r in caplog.records if r.message == "store.failed"]
    assert record.exc_info
    with node.index.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO instances"))
    with associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000


def test_failing_listener_changes_no_answer(tmp_path: Path) -> None:
    """What happens after the object is safe is not the sender's concern."""

    def fail() -> None:
        raise ValueError("a mistake")

    with running(tmp_path, listener=fail) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
