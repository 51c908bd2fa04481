"""C-STORE and C-ECHO over real sockets: what is answered, kept, recorded and logged."""

import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node import conformance
from node.config import Config, NodeSection, Peer, Role
from node.element_reader import encoded_from_file
from node.errors import NodeError
from node.index import Index
from node.index.tables import ASSOCIATIONS, INSTANCES
from node.log import configure_logging
from node.scp import StoreScp
from node.storage import DiskCalls, ObjectStore

PEERS = (
    Peer(name="ct", ae_title="CT1", host="127.0.0.1", roles=(Role.SEND,)),
    Peer(name="mr", ae_title="MR1", host="127.0.0.1", roles=(Role.SEND,)),
    Peer(name="tps", ae_title="TPS", host="127.0.0.1", port=104, roles=(Role.RECEIVE,)),
    Peer(name="far", ae_title="FAR", host="192.0.2.1", roles=(Role.SEND,)),
)
LONG_S = 20.0


@dataclass
class Node:
    """A receiving node in a folder."""

    root: Path
    section: NodeSection = field(default_factory=lambda: NodeSection(port=0, network_timeout_s=30))
    disk: DiskCalls = field(default_factory=DiskCalls)
    min_free_bytes: int = 0
    listener: Callable[[], None] | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.index = Index(f"sqlite:///{self.root / 'index.sqlite'}")
        self.index.create()
        self.store = ObjectStore(self.root, self.min_free_bytes, self.disk)
        self.changed = threading.Condition()
        self.scp = StoreScp(
            Config(node=self.section, peer=PEERS),
            self.store,
            self.index,
            lambda: datetime.now(UTC),
            self.listener or self.on_change,
        )

    def on_change(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def rows(self, table: sa.Table) -> list[Any]:
        with self.index.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.id)).all())

    def outcomes(self) -> list[str | None]:
        return [row.outcome for row in self.rows(ASSOCIATIONS)]

    def wait_for_outcomes(self, *expected: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.outcomes() == list(expected), LONG_S)
        assert self.outcomes() == list(expected)

    def stored_data_sets(self) -> list[bytes]:
        paths = [self.store.read_path(row.path) for row in self.rows(INSTANCES)]
        return [encoded_from_file(path)[1] for path in paths]

    def objects(self) -> list[Path]:
        return [p for p in self.root.rglob("*") if p.suffix in (".dcm", ".part")]


@contextmanager
def running(root: Path, **settings: Any) -> Iterator[Node]:
    node = Node(root, **settings)
    node.port = node.scp.start()
    try:
        yield node
    finally:
        node.scp.stop()
        node.index.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path) as found:
        yield found


def ct(number: int = 1, **changes: Any) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.CTImageStorage, f"1.2.826.0.1.{number}"
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "MARKEDNAME^Anna", "MARKED-4711"
    ds.PatientBirthDate = "19510203"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    ds.ImagePositionPatient, ds.PixelSpacing = [0, 0, number], [1, 1]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.Rows, ds.Columns = "1.2.826.0.4", 64, 64
    ds.BitsAllocated = 16
    ds.PixelData = bytes(range(256)) * 32
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> bytes:
    found = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert found is not None
    return found


@contextmanager
def associated(
    node: Node,
    calling_ae: str = "CT1",
    called_ae: str = "HILUM",
    *,
    sop_classes: tuple[str, ...] = (uid.CTImageStorage,),
    syntax: str = uid.ExplicitVRLittleEndian,
) -> Iterator[Association]:
    ae = AE(calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = LONG_S
    for sop_class in sop_classes:
        ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", node.port, ae_title=called_ae)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        if assoc.ident:  # a rejected one never starts
            assoc.join(LONG_S)


def ask(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> None:
    """Send bytes as they are, as a careless sender would."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = uid.UID(command.get("sop_class", ds.SOPClassUID))
    request.AffectedSOPInstanceUID = uid.UID(command.get("instance", ds.SOPInstanceUID))
    request.DataSet = BytesIO(raw)
    context_id: Any = assoc.accepted_contexts[0].context_id
    assoc.dimse.send_msg(request, context_id)


def answer_to(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> C_STORE:
    """Return the response to what `ask` sends."""
    assoc._reactor_checkpoint.clear()  # as `Association.send_c_store` does
    ask(assoc, raw, ds, **command)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert isinstance(response, C_STORE)
    return response


def status_of(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> int:
    status = answer_to(assoc, raw, ds, **command).Status
    assert status is not None
    return int(status)


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


def test_two_senders_at_once_are_kept_apart(node: Node) -> None:
    """State belongs to the association (peers.md 2, item 9)."""
    with associated(node, "CT1") as first, associated(node, "MR1") as second:
        for number in range(10):
            for assoc, offset in ((first, 0), (second, 100)):
                ds = ct(number + offset)
                assert status_of(assoc, encoded(ds), ds) == 0x0000
        first.abort()
    node.wait_for_outcomes("aborted", "released")
    of_association = [row.peer for row in node.rows(ASSOCIATIONS)]
    assert of_association == ["ct", "mr"]
    rows = node.rows(INSTANCES)
    assert [row.peer for row in rows] == ["ct", "mr"] * 10
    assert [row.association_id for row in rows] == [1, 2] * 10


def test_abort_keeps_what_was_answered(node: Node) -> None:
    """An aborted association completes nothing and undoes nothing (peers.md 2, item 5)."""
    with associated(node) as assoc:
        for number in range(3):
            assert status_of(assoc, encoded(ct(number)), ct(number)) == 0x0000
        assoc.abort()
    node.wait_for_outcomes("aborted")
    assert node.stored_data_sets() == [encoded(ct(number)) for number in range(3)]


def test_lost_connection_is_recorded(node: Node) -> None:
    """A cable that is pulled ends the association, too."""
    with associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        connection: Any = assoc.dul.socket
        connection._shutdown_socket()
    node.wait_for_outcomes("connection lost")
    assert len(node.rows(INSTANCES)) == 1


def test_repetition_and_other_content(node: Node) -> None:
    """The same bytes: success and nothing new. Other bytes: both kept, the newest counts."""
    other = ct(SeriesDescription="corrected")
    with associated(node) as assoc:
        for ds in (ct(), ct(), other, ct()):
            assert status_of(assoc, encoded(ds), ds) == 0x0000
    assert node.stored_data_sets() == [encoded(ct()), encoded(other)]
    assert [row.is_newest for row in node.rows(INSTANCES)] == [False, True]
    assert len(node.objects()) == 2


@pytest.mark.parametrize(
    ("calling_ae", "called_ae", "expected"),
    [
        ("STRANGER", "HILUM", (1, 1, 3)),
        ("FAR", "HILUM", (1, 1, 3)),
        ("CT1", "OTHER", (1, 1, 7)),
    ],
)
def test_strangers_are_rejected(
    node: Node, calling_ae: str, called_ae: str, expected: tuple[int, int, int]
) -> None:
    """PS3.8 table 9-21: unknown title, known title from another address, wrong called title."""
    with associated(node, calling_ae, called_ae) as assoc:
        assert assoc.is_rejected
        answer: Any = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == expected
    with associated(node) as assoc:
        assert assoc.is_established


def test_too_many_associations_are_rejected_for_now(tmp_path: Path) -> None:
    """PS3.8: transient, local limit exceeded; and there is room again afterwards."""
    section = NodeSection(port=0, max_associations=1)
    with running(tmp_path, section=section) as node:
        with associated(node) as first, associated(node) as second:
            answer: Any = second.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
            assert status_of(first, encoded(ct()), ct()) == 0x0000
        node.wait_for_outcomes("released")


def test_peer_without_the_role_may_not_send(node: Node) -> None:
    """A peer can do only what its roles allow; verification is for everyone known."""
    with associated(node, "TPS", sop_classes=(uid.CTImageStorage, Verification)) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0124
        assert assoc.send_c_echo().Status == 0x0000
    assert node.objects() == []


def _cut(ds: Dataset) -> bytes:
    return encoded(ds)[:-100]


def _without(keyword: str) -> Callable[[Dataset], bytes]:
    def make(ds: Dataset) -> bytes:
        delattr(ds, keyword)
        return encoded(ds)

    return make


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
        (_cut, {}, 0xC000, "ends within element (7FE0,0010)"),
        (lambda _ds: b"no data set", {}, 0xC000, "no known VR"),
        (_without("FrameOfReferenceUID"), {}, 0xA900, "FrameOfReferenceUID is missing"),
        (_without("StudyInstanceUID"), {}, 0xA900, "StudyInstanceUID is missing"),
        (_without("SOPInstanceUID"), {}, 0xA900, "SOPInstanceUID is missing"),
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


def test_idle_association_is_closed(tmp_path: Path) -> None:
    """Every state has a time limit (peers.md 2, item 4)."""
    section = NodeSection(port=0, network_timeout_s=0.5)
    with running(tmp_path, section=section) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        node.wait_for_outcomes("aborted")


def test_quick_associations(node: Node) -> None:
    """Senders that open one association for each file (peers.md 2, item 20)."""
    for number in range(20):
        with associated(node) as assoc:
            assert status_of(assoc, encoded(ct(number)), ct(number)) == 0x0000
    node.wait_for_outcomes(*["released"] * 20)
    assert len(node.rows(INSTANCES)) == 20


def test_stop_aborts_and_records(tmp_path: Path) -> None:
    """A stopped node leaves no association open in its index."""
    with running(tmp_path) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        node.scp.stop()
        assert node.outcomes() == ["node stopped"]
        assoc.join(LONG_S)
        assert assoc.is_aborted


def test_stopping_node_rejects_new_and_lets_old_ones_end(tmp_path: Path) -> None:
    """PS3.8: transient, temporary congestion."""
    with running(tmp_path) as node:
        with associated(node) as old:
            assert status_of(old, encoded(ct(1)), ct(1)) == 0x0000
            stopper = threading.Thread(target=node.scp.stop, args=(LONG_S,))
            stopper.start()
            for _ in range(100):  # until the stop has begun
                with associated(node) as new:
                    answer: Any = new.acceptor.primitive
                if answer.result:
                    break
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
            assert status_of(old, encoded(ct(2)), ct(2)) == 0x0000
        stopper.join(LONG_S)
        assert not stopper.is_alive()
        assert node.outcomes() == ["released"]


def test_start_closes_what_a_killed_process_left_open(tmp_path: Path) -> None:
    """Otherwise its series would count as moving for ever."""
    killed = Node(tmp_path)
    with killed.index.begin() as connection:
        row = {"calling_ae": "CT1", "peer": "ct", "address": "127.0.0.1", "node_run": "node"}
        connection.execute(ASSOCIATIONS.insert().values(**row, opened_at=datetime.now(UTC)))
    killed.index.close()
    with running(tmp_path) as node:
        assert node.outcomes() == ["node stopped"]


KILLED_NODE = """
import sys, threading
from datetime import UTC, datetime
from pathlib import Path
from tests.test_scp import Node

node = Node(Path(sys.argv[1]))
print(node.scp.start(), flush=True)
threading.Event().wait()
"""


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """Invariant 1, as far as a process can show it: SIGKILL in the middle of a transfer."""
    command = [sys.executable, "-c", KILLED_NODE, str(tmp_path)]
    project = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        killed = Node(tmp_path)
        killed.port = int(process.stdout.readline())
        answered = []
        with associated(killed) as assoc:
            for number in range(12):
                assert status_of(assoc, encoded(ct(number)), ct(number)) == 0x0000
                answered.append(encoded(ct(number)))
            ask(assoc, encoded(ct(99)), ct(99))  # and do not wait for the answer
            process.kill()
        process.wait(LONG_S)
    killed.index.close()
    with running(tmp_path) as node:
        node.store.recover()
        stored = node.stored_data_sets()
        assert stored[:12] == answered
        assert stored[12:] in ([], [encoded(ct(99))])
        assert node.outcomes() == ["node stopped"]
        assert not list(tmp_path.rglob("*.part"))


def test_port_in_use_is_explained(node: Node, tmp_path: Path) -> None:
    """The operator learns what to change."""
    other = Node(tmp_path, section=NodeSection(port=node.port))
    with pytest.raises(NodeError, match=f"port {node.port}"):
        other.scp.start()
    other.index.close()


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("node")
    kept = root.level, list(root.handlers), ours.level
    hook = threading.excepthook
    configure_logging("DEBUG", as_json=True, stream=stream)
    try:
        yield stream
    finally:
        threading.excepthook = hook
        logging.captureWarnings(False)
        root.setLevel(kept[0])
        root.handlers[:] = kept[1]
        ours.setLevel(kept[2])


def test_no_identifier_in_any_log_line(node: Node) -> None:
    """Invariant 6: a marked patient goes through success, refusal and failure."""
    with captured_log() as stream:
        with associated(node, sop_classes=(uid.CTImageStorage,)) as assoc:
            for make in (encoded, encoded, _cut, _without("StudyInstanceUID")):
                answer_to(assoc, make(ct()), ct())
            with node.index.begin() as connection:
                connection.execute(sa.text("ALTER TABLE instances RENAME TO elsewhere"))
            assert status_of(assoc, encoded(ct(2)), ct(2)) == 0x0110
            with node.index.begin() as connection:
                connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO instances"))
        node.wait_for_outcomes("released")
    text = stream.getvalue()
    for identifier in ("MARKEDNAME", "Anna", "MARKED-4711", "19510203"):
        assert identifier not in text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events.count("store.refused") == 3
    assert events.count("store.failed") == 1


def test_one_canonical_line_for_each_association(node: Node) -> None:
    """STYLE 4.6: counts, bytes, seconds, outcome, calling AE title."""
    other = ct(SeriesDescription="corrected")
    with captured_log() as stream:
        with associated(node, sop_classes=(uid.CTImageStorage, Verification)) as assoc:
            for raw in (encoded(ct()), encoded(ct()), encoded(other), b"bad"):
                answer_to(assoc, raw, ct())
            assoc.send_c_echo()
        node.wait_for_outcomes("released")
        node.scp.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [one for one in lines if one["event"] == "association.closed"]
    assert line.pop("seconds") >= 0
    del line["time"], line["logger"]
    assert line == {
        "level": "INFO",
        "event": "association.closed",
        "outcome": "released",
        "calling_ae": "CT1",
        "peer": "ct",
        "address": "127.0.0.1",
        "stored": 2,
        "known": 1,
        "replaced": 1,
        "refused": 1,
        "echoes": 1,
        "bytes": 2 * len(encoded(ct())) + len(encoded(other)),
        "association_id": 1,
    }


def dcmtk(program: str, node: Node, *arguments: str, titles: str = "CT1 HILUM") -> str:
    """Run a program of DCMTK with a calling and a called AE title; return what it prints."""
    calling_ae, called_ae = titles.split()
    command = [program, "-v", "-aet", calling_ae, "-aec", called_ae, "127.0.0.1", str(node.port)]
    found = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return f"{found.stdout}{found.stderr}exit {found.returncode}"


@pytest.fixture
def ct_files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "sent"
    folder.mkdir()
    for number in range(5):
        ds = ct(number)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.peers
def test_dcmtk_sends(node: Node, ct_files: list[str], peer_program: Callable[[str], str]) -> None:
    """DCMTK, by others: its objects arrive whole, and twice is once."""
    for _ in range(2):
        assert "exit 0" in dcmtk(peer_program("storescu"), node, *ct_files)
    node.wait_for_outcomes("released", "released")
    received = [dcmread(node.store.read_path(row.path)) for row in node.rows(INSTANCES)]
    assert received == [dcmread(path) for path in ct_files]


@pytest.mark.peers
def test_dcmtk_aborts(node: Node, ct_files: list[str], peer_program: Callable[[str], str]) -> None:
    """DCMTK ends with A-ABORT: everything stays, the association is marked."""
    dcmtk(peer_program("storescu"), node, "--abort", *ct_files)
    node.wait_for_outcomes("aborted")
    assert len(node.rows(INSTANCES)) == 5


@pytest.mark.peers
@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        ("CT1 HILUM", "exit 0"),
        ("STRANGER HILUM", "Calling AE Title Not Recognized"),
        ("CT1 OTHER", "Called AE Title Not Recognized"),
    ],
)
def test_dcmtk_echoes(
    node: Node, peer_program: Callable[[str], str], titles: str, expected: str
) -> None:
    """The reason for a rejection is what the other side's administrator reads."""
    assert expected in dcmtk(peer_program("echoscu"), node, titles=titles)
