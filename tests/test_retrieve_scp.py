"""C-GET and C-MOVE of our results, over sockets, on both transports (issue 6, 7)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE, build_role, evt

from node.answering import keys
from node.answering.keys import (
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from node.config import Role
from tests.answering_node import (
    MR_SERIES,
    PATIENT,
    STUDY,
    Transport,
    answering,
    asking,
    find,
    identifier,
    peer,
    result,
    structure_set,
    taking,
)
from tests.nodes import free_port
from tests.stub_tps import Deed, StubTps, usual

BOTH = pytest.mark.parametrize("transport", ["fast", "plain"])
GIVEN = (uid.MRImageStorage, uid.RTStructureSetStorage)


# --- C-GET -------------------------------------------------------------------------------------


@BOTH
def test_study_is_got_over_the_same_association(transport: Transport, tmp_path: Path) -> None:
    """Issue 6, 7: C-GET with role selection, every object as it lies, long contours whole."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        objects = [result(1), result(2), structure_set()]
        node.adopt(*objects)
        with asking(node, STUDY_ROOT_GET, given=GIVEN, handlers=taking(taken)) as assoc:
            answers = list(
                assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET)
            )
    final = answers[-1][0]
    assert [s.Status for s, _ in answers] == [0xFF00, 0xFF00, 0]
    assert (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (3, 0)
    by_uid = {ds.SOPInstanceUID: ds for ds in taken}
    assert set(by_uid) == {ds.SOPInstanceUID for ds in objects}
    for ds in objects:
        assert by_uid[ds.SOPInstanceUID] == ds
        assert by_uid[ds.SOPInstanceUID].file_meta.TransferSyntaxUID in (
            ds.file_meta.TransferSyntaxUID,
        )


@BOTH
def test_objects_are_encoded_as_the_peer_takes_them(transport: Transport, tmp_path: Path) -> None:
    """An object that lies in Explicit VR goes to a peer that knows Implicit VR only."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        ae = AE("TPS")
        ae.add_requested_context(STUDY_ROOT_GET, uid.ImplicitVRLittleEndian)
        ae.add_requested_context(uid.MRImageStorage, uid.ImplicitVRLittleEndian)
        assoc = ae.associate(
            "127.0.0.1",
            node.port,
            ae_title="HILUM",
            ext_neg=[build_role(uid.MRImageStorage, scp_role=True)],
            evt_handlers=list(taking(taken)),
        )
        wanted = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES)
        statuses = [s.Status for s, _ in assoc.send_c_get(wanted, STUDY_ROOT_GET)]
        assoc.release()
    assert statuses == [0]
    assert taken[0].file_meta.TransferSyntaxUID == uid.ImplicitVRLittleEndian
    assert taken[0] == result(1)


@BOTH
@pytest.mark.parametrize(
    ("given", "answer", "status", "failed"),
    [
        ((uid.MRImageStorage,), 0x0000, 0xB000, 1),  # no context for the structure set
        (GIVEN, 0xA700, 0xA702, 2),
        (GIVEN, 0xB000, 0xB000, 0),  # stored with a warning
        ((), 0x0000, 0xA702, 2),
    ],
)
def test_failures_of_a_retrieval_are_counted_and_listed(
    given: tuple[str, ...],
    answer: int,
    status: int,
    failed: int,
    transport: Transport,
    tmp_path: Path,
) -> None:
    """PS3.4 C.4.3.1.4: counts, and the Failed SOP Instance UID List."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1), structure_set())
        with asking(node, STUDY_ROOT_GET, given=given, handlers=taking([], answer)) as assoc:
            answers = list(
                assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET)
            )
    final, listed = answers[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (status, failed)
    names = listed.get("FailedSOPInstanceUIDList") or []
    assert len([names] if isinstance(names, str) else names) == failed


@BOTH
def test_get_that_is_cancelled_ends(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 C.4.3.3.1: nothing more is sent, and the rest is told as remaining."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        node.adopt(*(result(n) for n in range(1, 200)))
        with asking(
            node, STUDY_ROOT_GET, given=(uid.MRImageStorage,), handlers=taking(taken)
        ) as assoc:
            wanted = identifier("STUDY", StudyInstanceUID=STUDY)
            statuses = []
            for status, _ in assoc.send_c_get(wanted, STUDY_ROOT_GET, msg_id=9):
                statuses.append(status)
                if len(statuses) == 2:
                    assoc.send_c_cancel(9, query_model=STUDY_ROOT_GET)
    final = statuses[-1]
    assert final.Status == 0xFE00
    assert len(taken) < 199
    assert final.NumberOfRemainingSuboperations == 199 - final.NumberOfCompletedSuboperations


@BOTH
def test_peer_that_aborts_in_the_middle_of_a_get_leaves_the_node_well(
    transport: Transport, tmp_path: Path
) -> None:
    """A sender that is gone costs nothing: the next request is served."""
    with answering(tmp_path, transport) as node:
        node.adopt(*(result(n) for n in range(1, 20)))

        def abort(event: Any) -> int:
            event.assoc.dimse_timeout = 0.1  # pynetdicom would wait for the node after that
            event.assoc.abort()
            return 0

        with asking(
            node,
            STUDY_ROOT_GET,
            given=(uid.MRImageStorage,),
            handlers=((evt.EVT_C_STORE, abort),),
        ) as assoc:
            list(assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET))
        taken: list[Dataset] = []
        with asking(
            node, STUDY_ROOT_GET, given=(uid.MRImageStorage,), handlers=taking(taken)
        ) as assoc:
            list(assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET))
        assert len(taken) == 19


# --- C-MOVE ------------------------------------------------------------------------------------


@BOTH
def test_study_is_moved_to_a_configured_peer(transport: Transport, tmp_path: Path) -> None:
    """Issue 6, 7: over a new association, with a pending answer for each object but the last."""
    taken: list[Dataset] = []
    port = free_port()
    ae = AE("ARCHIVE")
    for sop_class in GIVEN:
        ae.add_supported_context(
            sop_class, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
        )
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=list(taking(taken)))
    peers = (peer("tps", Role.RECEIVE, port=1), peer("archive", Role.RECEIVE, port=port))
    try:
        with answering(tmp_path, transport, peers) as node:
            node.adopt(result(1), result(2), structure_set())
            with asking(node, PATIENT_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", PatientID=PATIENT["PatientID"], StudyInstanceUID=STUDY)
                answers = list(assoc.send_c_move(wanted, "ARCHIVE", PATIENT_ROOT_MOVE))
                none = list(
                    assoc.send_c_move(
                        identifier("STUDY", StudyInstanceUID="1.2.3"), "ARCHIVE", PATIENT_ROOT_MOVE
                    )
                )
    finally:
        server.shutdown()
    assert [s.Status for s, _ in answers] == [0xFF00, 0xFF00, 0]
    assert [s.get("NumberOfRemainingSuboperations") for s, _ in answers] == [2, 1, None]
    assert answers[-1][0].NumberOfCompletedSuboperations == 3
    assert len(taken) == 3
    assert [(s.Status, s.NumberOfCompletedSuboperations) for s, _ in none] == [(0, 0)]


@BOTH
@pytest.mark.parametrize(
    ("destination", "status", "failed"),
    [("NOBODY", 0xA801, None), ("SCANNER", 0xA801, None), ("TPS", 0xA702, 1)],
)
def test_move_to_nobody_we_know_or_reach_is_refused(
    destination: str, status: int, failed: int | None, transport: Transport, tmp_path: Path
) -> None:
    """PS3.4 C.4.2.1.5: results go to configured peers with the role receive only."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        with asking(node, STUDY_ROOT_MOVE) as assoc:
            wanted = identifier("STUDY", StudyInstanceUID=STUDY)
            ((final, _),) = list(assoc.send_c_move(wanted, destination, STUDY_ROOT_MOVE))
    assert final.Status == status
    assert final.get("NumberOfFailedSuboperations") == failed
    assert final.ErrorComment


@BOTH
def test_move_that_is_cancelled_ends(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 C.4.2.3.1: nothing more is sent, and the association with the destination ends."""
    taken: list[Dataset] = []
    ended = threading.Event()
    handlers = [
        *taking(taken),
        (evt.EVT_ABORTED, lambda _event: ended.set()),
        (evt.EVT_RELEASED, lambda _event: ended.set()),
        (evt.EVT_CONN_CLOSE, lambda _event: ended.set()),
    ]
    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    peers = (peer("tps", Role.RECEIVE, port=port),)
    try:
        with answering(tmp_path, transport, peers) as node:
            node.adopt(*(result(n) for n in range(1, 300)))
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                statuses = []
                for status, _ in assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE, msg_id=9):
                    statuses.append(status)
                    if len(statuses) == 2:
                        assoc.send_c_cancel(9, query_model=STUDY_ROOT_MOVE)
                assert ended.wait(60)
                final = statuses[-1]
                assert final.Status == 0xFE00
                assert len(taken) < 299
                done = final.NumberOfCompletedSuboperations
                assert final.NumberOfRemainingSuboperations == 299 - done
                assert assoc.is_established
    finally:
        server.shutdown()


def test_flood_of_moves_is_bounded(tmp_path: Path) -> None:
    """One peer's requests do not take every association: the third at once gets 0xA702."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def store(_event: Any) -> int:
        begun.release()
        go_on.wait(120)
        return 0

    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    wanted = identifier("STUDY", StudyInstanceUID=STUDY)

    def move(node: Any) -> int:
        with asking(node, STUDY_ROOT_MOVE) as assoc:
            return int(list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1][0].Status)

    try:
        with (
            answering(tmp_path, "fast", (peer("tps", Role.RECEIVE, port=port),)) as node,
            ThreadPoolExecutor(keys.MOVES_PER_PEER) as pool,
        ):
            node.adopt(result(1))
            moving = [pool.submit(move, node) for _ in range(keys.MOVES_PER_PEER)]
            for _ in moving:
                assert begun.acquire(timeout=60)
            assert move(node) == 0xA702
            go_on.set()
            assert [one.result(60) for one in moving] == [0, 0]
            assert move(node) == 0
    finally:
        go_on.set()
        server.shutdown()


@BOTH
def test_object_without_an_answer_in_the_middle_of_a_move_is_the_one_that_is_named(
    transport: Transport, tmp_path: Path
) -> None:
    """PS3.4 C.4.2.3.1: the list tells what did not arrive, wherever in the order it stands."""
    lost = f"{MR_SERIES}.2"
    with StubTps(usual(Deed.ABORT, at=lost)) as stub:
        with answering(tmp_path, transport, (peer("tps", Role.RECEIVE, port=stub.port),)) as node:
            node.adopt(*(result(n) for n in range(1, 6)))
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                final, listed = list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1]
        kept = set(stub.kept)
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xB000, 1)
    assert listed.FailedSOPInstanceUIDList == lost
    assert kept == {f"{MR_SERIES}.{n}" for n in (1, 3, 4, 5)}


def test_result_that_is_damaged_keeps_back_no_other_in_a_move(tmp_path: Path) -> None:
    """One file that the disk lost is one failed object."""
    with StubTps() as stub:
        with answering(tmp_path, peers=(peer("tps", Role.RECEIVE, port=stub.port),)) as node:
            node.adopt(*(result(n) for n in range(1, 4)))
            with asking(node, STUDY_ROOT_MOVE, STUDY_ROOT_FIND) as assoc:
                assert find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID=STUDY)[1]
                (damaged,) = tmp_path.glob(f"results/**/{MR_SERIES}.2.dcm")
                damaged.write_bytes(b"")
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                final, listed = list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1]
        kept = set(stub.kept)
    assert final.Status == 0xB000
    assert (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (2, 1)
    assert listed.FailedSOPInstanceUIDList == f"{MR_SERIES}.2"
    assert kept == {f"{MR_SERIES}.{n}" for n in (1, 3)}


@BOTH
@pytest.mark.parametrize("service", ["move", "get"])
def test_node_that_stops_waits_for_no_slow_receiver(
    service: str, transport: Transport, tmp_path: Path
) -> None:
    """A stop takes seconds, whoever is being sent to and does not answer."""
    begun, go_on = threading.Event(), threading.Event()

    def store(_event: Any) -> int:
        begun.set()
        go_on.wait(120)
        return 0

    slow = ((evt.EVT_C_STORE, store),)
    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=list(slow))
    wanted = identifier("STUDY", StudyInstanceUID=STUDY)

    def ask(node: Any) -> None:
        if service == "move":
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))
        else:
            given = (uid.MRImageStorage,)
            with asking(node, STUDY_ROOT_GET, given=given, handlers=slow) as assoc:
                list(assoc.send_c_get(wanted, STUDY_ROOT_GET))

    peers = (peer("tps", Role.RECEIVE, port=port),)
    try:
        with answering(tmp_path, transport, peers) as node, ThreadPoolExecutor(1) as pool:
            node.adopt(*(result(n) for n in range(1, 20)))
            asked = pool.submit(ask, node)
            assert begun.wait(60)
            start_s = time.monotonic()
            node.answering.stop()
            node.scp.stop()
            took_s = time.monotonic() - start_s
            go_on.set()
            asked.result(120)
    finally:
        go_on.set()
        server.shutdown()
    assert took_s < 60
