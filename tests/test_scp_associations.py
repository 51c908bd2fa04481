"""Associations over real sockets: who gets one, how they end, what is recorded and logged."""

import errno
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import dcmread, uid
from pydicom.dataset import FileMetaDataset
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node.association import open_association
from node.config import NodeSection, Peer, Role
from node.disk import DiskCalls, DiskRoom
from node.errors import DeliveryError, NodeError
from node.index.tables import ASSOCIATIONS, INSTANCES
from node.log import configure_logging
from node.scp import WRITING_GRACE_S
from node.storage import ROOM_LOOKED_AT_S
from tests import nodes
from tests.receiving_node import (
    LONG_S,
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


def test_rejection_that_comes_at_once_is_seen(tmp_path: Path) -> None:
    """As SCU: a permanent rejection must never be taken for a peer that gives no answer."""
    section = NodeSection(port=0, max_rejections_per_minute=1000)
    with running(tmp_path, section=section) as node:
        peer = Peer(
            name="x", ae_title="HILUM", host="127.0.0.1", port=node.port, roles=(Role.RECEIVE,)
        )
        wanted = [(uid.CTImageStorage, uid.ExplicitVRLittleEndian)]
        for _ in range(30):
            with (
                pytest.raises(DeliveryError, match="does not know our AE title") as caught,
                open_association(peer, "STRANGER", wanted, LONG_S),
            ):
                pass
            assert not caught.value.is_retryable


def test_too_many_associations_are_rejected_for_now(tmp_path: Path) -> None:
    """PS3.8: transient, local limit exceeded; and there is room again afterwards."""
    section = NodeSection(port=0, max_associations=1)
    with running(tmp_path, section=section) as node:
        with associated(node) as first, associated(node) as second:
            answer: Any = second.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
            assert status_of(first, encoded(ct()), ct()) == 0x0000
        node.wait_for_outcomes("released")


def test_silent_strangers_keep_nobody_out(tmp_path: Path) -> None:
    """Connections that say nothing: the longest silent gives way to who comes."""
    section = NodeSection(port=0, max_associations=1, negotiation_timeout_s=LONG_S)
    with running(tmp_path, section=section) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(60)]
        with associated(node) as assoc:
            assert status_of(assoc, encoded(ct()), ct()) == 0x0000
        for line in silent:
            line.close()


def test_nobody_comes_in_when_the_judgement_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pynetdicom goes on after a handler that raised; the door stays closed all the same."""
    is_broken = threading.Event()

    def room(path: Path) -> DiskRoom:
        if is_broken.is_set():
            raise PermissionError(errno.EACCES, "no")
        return DiskCalls().room(path)

    with running(tmp_path, disk=replace(DiskCalls(), room=room)) as node:
        is_broken.set()
        time.sleep(ROOM_LOOKED_AT_S)
        with associated(node, "STRANGER", "OTHER") as assoc:
            answer: Any = assoc.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
        is_broken.clear()
        with associated(node) as assoc:
            assert status_of(assoc, encoded(ct()), ct()) == 0x0000
    assert [r for r in caplog.records if r.message == "association.not_judged"]


def test_stop_ends_a_sender_that_does_not_wait(tmp_path: Path) -> None:
    """Objects come without pause, before the answers: what is begun is kept, no more is taken."""

    def write_pieces(descriptor: int, pieces: Sequence[bytes | memoryview]) -> int:
        time.sleep(0.05)  # else all may be taken before the stop
        return os.writev(descriptor, pieces)

    disk = replace(DiskCalls(), write_pieces=write_pieces)
    with running(tmp_path, disk=disk) as node, associated(node) as assoc:
        assert status_of(assoc, encoded(ct(0)), ct(0)) == 0x0000
        for number in range(1, 200):
            ask(assoc, encoded(ct(number)), ct(number))
        began = time.monotonic()
        node.scp.stop()
        assert time.monotonic() - began < WRITING_GRACE_S
        assert len(node.objects()) == len(node.rows(INSTANCES)) < 200


def test_idle_association_is_closed(tmp_path: Path) -> None:
    """Every state has a time limit (peers.md 2, item 4)."""
    section = NodeSection(port=0, network_timeout_s=3.0)
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
from tests import nodes
from tests.receiving_node import Node

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
            line: Any = assoc.dul.socket
            connection = line.socket
            for number in range(12):
                assert status_of(assoc, encoded(ct(number)), ct(number)) == 0x0000
                answered.append(encoded(ct(number)))
            ask(assoc, encoded(ct(99)), ct(99))  # and do not wait for the answer
            process.kill()
            process.wait(LONG_S)
        connection.close()  # pynetdicom leaves it open
    killed.index.close()
    with running(tmp_path) as node:
        stored = node.stored_data_sets()
        assert stored[:12] == answered
        assert stored[12:] in ([], [encoded(ct(99))])
        assert set(node.outcomes()) == {"node stopped"}
        assert len(node.objects()) == len(stored)


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
            for make in (encoded, encoded, cut, without("StudyInstanceUID")):
                answer_to(assoc, make(ct()), ct())
            with node.index.begin() as connection:
                connection.execute(sa.text("ALTER TABLE instances RENAME TO elsewhere"))
            assert status_of(assoc, encoded(ct(2)), ct(2)) == 0x0000
            nodes.wait_for(
                lambda: "filing.failed" in stream.getvalue(), timeout_s=LONG_S, what="a failure"
            )
            with node.index.begin() as connection:
                connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO instances"))
        node.wait_for_outcomes("released")
    text = stream.getvalue()
    for identifier in ("MARKEDNAME", "Anna", "MARKED-4711", "19510203"):
        assert identifier not in text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events.count("store.refused") == 2
    assert events.count("filing.failed") >= 1


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


def test_other_pynetdicom_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast transport rests on private names: another version is told at the start."""
    node = Node(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pynetdicom.__version__", "9.9")
        with pytest.raises(NodeError, match=r"needs pynetdicom 3\.0\.4, found 9\.9") as caught:
            node.scp.start()
        assert 'node.transport = "plain"' in caught.value.hint
    node.index.close()
    other = Node(tmp_path)
    with monkeypatch.context() as patch:
        patch.delattr("pynetdicom.association.Association._serve_request")
        with pytest.raises(NodeError, match=r"without Association\._serve_request"):
            other.scp.start()
    other.index.close()


def test_limit_of_one_peer_leaves_room_for_others(tmp_path: Path) -> None:
    """`max_associations_per_peer`: the second of one peer is rejected for now, not the other's."""
    section = NodeSection(port=0, max_associations_per_peer=1)
    with running(tmp_path, section=section) as node, associated(node, "CT1") as first:
        with associated(node, "CT1") as second:
            answer: Any = second.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        with associated(node, "MR1") as other:
            assert other.is_established
        assert status_of(first, encoded(ct()), ct()) == 0x0000


def test_address_that_is_rejected_too_often_is_shut_out(tmp_path: Path) -> None:
    """`max_rejections_per_minute`: beyond it a connection is closed unread."""
    section = NodeSection(port=0, max_rejections_per_minute=2)
    with running(tmp_path, section=section) as node:
        for _ in range(3):
            with associated(node, "STRANGER") as assoc:
                assert assoc.is_rejected
        with socket.create_connection(("127.0.0.1", node.port)) as line:
            line.settimeout(LONG_S)
            assert line.recv(1) == b""


def test_announced_pdu_size_is_that_of_the_configuration(tmp_path: Path) -> None:
    """`max_pdu_bytes` is what peers are told (PS3.8 D.1.1)."""
    section = NodeSection(port=0, max_pdu_bytes=20_000)
    with running(tmp_path, section=section) as node, associated(node) as assoc:
        assert assoc.acceptor.maximum_length == 20_000
        assert status_of(assoc, encoded(ct()), ct()) == 0x0000
