"""C-MOVE and C-GET SCU: objects of real archives arrive, and odd peers end in an error."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE

from node.config import NodeSection, Peer
from node.errors import QueryError
from node.index.tables import ASSOCIATIONS, INSTANCES
from node.query.dialog import ReceivedObject
from node.query.retrieve import (
    GET_MODELS,
    MOVE_MODELS,
    Line,
    Retrieved,
    Wanted,
    get,
    move,
    storage_contexts,
)
from tests.archives import fill
from tests.nodes import free_port, write_datasets
from tests.odd_archive import PENDING, Silent, always, encoded, odd_archive, respond, send_on_line
from tests.receiving_node import ct, running
from tests.receiving_node import encoded as data_set_of
from tests.test_query_find import ARCHIVES, OURS, SERIES, STUDY, slices

WHOLE = Wanted(STUDY, SERIES, patient_id="MARKED-4711")
UIDS = tuple(str(ds.SOPInstanceUID) for ds in slices())


def nothing_moves() -> int:
    return 0


def line_to(peer: Peer, timeout_s: float = 20.0, calling_ae: str = OURS) -> Line:
    return Line(peer, calling_ae, timeout_s)


@pytest.mark.parametrize("name", ARCHIVES)
def test_objects_when_moved_or_got_are_kept_as_those_that_are_pushed(
    name: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, item 7: C-MOVE to our listener, C-GET on our line; in part, and whole."""
    port = free_port()
    files = write_datasets(slices(), tmp_path / "files")
    with ARCHIVES[name](peer_program, tmp_path / name, {OURS: port}) as archive:
        fill(archive, files)
        (tmp_path / "node").mkdir()
        settings = {"section": NodeSection(port=port), "peers": (archive,)}
        with running(tmp_path / "node", **settings) as node:
            some = Wanted(STUDY, SERIES, UIDS[1:3])
            assert move(line_to(archive), some, moved=nothing_moves).completed == 2
            assert {row.sop_instance_uid for row in node.rows(INSTANCES)} == set(UIDS[1:3])
            with node.scp.taking_from(archive) as store:
                got = get(line_to(archive), Wanted(STUDY, SERIES, UIDS[3:4]), store=store)
                assert got == Retrieved(completed=1)
            assert {row.sop_instance_uid for row in node.rows(INSTANCES)} == set(UIDS[1:4])
            with node.scp.taking_from(archive) as store:
                assert get(line_to(archive), WHOLE, store=store).completed == 5
            assert move(line_to(archive), WHOLE, moved=nothing_moves).completed == 5
            rows = node.rows(INSTANCES)
            assert {row.sop_instance_uid for row in rows} == set(UIDS)
            assert len(rows) == 5, "the same object twice is one object"
            assert {row.peer for row in rows} == {archive.name}
            ends = {row.outcome for row in node.rows(ASSOCIATIONS)}
    assert ends == {"released"}


@pytest.mark.parametrize("name", ARCHIVES)
def test_move_when_the_archive_does_not_know_us_is_told(
    name: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """The usual fault of a first set-up ends in a hint that names what to add where."""
    files = write_datasets(slices(2), tmp_path / "files")
    with ARCHIVES[name](peer_program, tmp_path / name, {OURS: free_port()}) as archive:
        fill(archive, files)
        with pytest.raises(QueryError) as caught:
            move(line_to(archive, calling_ae="STRANGER"), WHOLE, moved=nothing_moves)
    assert "STRANGER" in caught.value.hint


def test_object_when_it_cannot_be_kept_is_refused_on_the_line() -> None:
    """C-GET: what our intake refuses is answered with its status, and nothing else breaks."""
    statuses: list[int] = []
    got: list[ReceivedObject] = []

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        for number, ds in enumerate(slices(2), start=1):
            uid = str(ds.SOPInstanceUID)
            send_on_line(assoc, CTImageStorage, uid, data_set_of(ds), number)
        respond(assoc, request, context_id, 0xB000, None, Completed=1, Failed=1)

    def store(received: ReceivedObject) -> tuple[int, str]:
        got.append(received)
        statuses.append(0 if len(got) == 1 else 0xA700)
        return statuses[-1], "no room"

    with odd_archive(serve) as peer:
        found = get(line_to(peer), WHOLE, store=store)
    assert statuses == [0, 0xA700]
    assert [one.data_set for one in got] == [data_set_of(ds) for ds in slices(2)]
    assert (found.completed, found.failed) == (1, 1)


def test_object_when_nobody_asked_for_it_is_kept_like_any_other(tmp_path: Path) -> None:
    """A peer that sends other UIDs than were asked for loses nothing, and proves nothing."""
    stranger = ct(77)

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        uid = str(stranger.SOPInstanceUID)
        send_on_line(assoc, CTImageStorage, uid, data_set_of(stranger), 1)
        respond(assoc, request, context_id, 0, None, Completed=1)

    with odd_archive(serve) as peer, running(tmp_path, peers=(peer,)) as node:
        with node.scp.taking_from(peer) as store:
            assert get(line_to(peer), WHOLE, store=store).completed == 1
        (row,) = node.rows(INSTANCES)
    assert row.sop_instance_uid == stranger.SOPInstanceUID


def test_failures_when_the_peer_lists_them_are_returned() -> None:
    """0xB000: the sub-operations' counts and the list of failed instances."""
    raw = encoded(FailedSOPInstanceUIDList=list(UIDS[:2]))

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        respond(assoc, request, context_id, PENDING, None, Remaining=3, Completed=2)
        respond(assoc, request, context_id, 0xB000, raw, Completed=2, Failed=2, Warning=1)

    with odd_archive(serve) as peer:
        found = move(line_to(peer), WHOLE, moved=nothing_moves)
    assert found == Retrieved(completed=2, warned=1, failed=2, failed_uids=UIDS[:2])


@pytest.mark.parametrize(
    ("status", "is_retryable"),
    [
        (0xA701, True),
        (0xA702, True),
        (0xA801, False),
        (0xA900, False),
        (0xC001, True),
        (0x0122, False),
        (0xFE00, True),
    ],
)
@pytest.mark.parametrize("service", ["move", "get"])
def test_failure_when_answered_ends_in_an_error_with_a_mend(
    service: str, status: int, is_retryable: bool
) -> None:
    """Statuses of PS3.4 C.4.2.1.5 and C.4.3.1.4, each told with what helps."""
    serve = always((PENDING, None), (status, None))
    with odd_archive(serve) as peer, pytest.raises(QueryError) as caught:
        retrieve(service, peer)
    assert f"0x{status:04X}" in str(caught.value)
    assert caught.value.is_retryable is is_retryable
    assert caught.value.hint


def retrieve(service: str, peer: Peer, timeout_s: float = 20.0) -> Retrieved:
    line = line_to(peer, timeout_s)
    if service == "get":
        return get(line, WHOLE, store=lambda _received: (0, ""))
    return move(line, WHOLE, moved=nothing_moves)


@pytest.mark.parametrize("service", ["move", "get"])
def test_peer_when_it_falls_silent_is_waited_for_no_longer_than_told(service: str) -> None:
    """Without an answer, an object or any progress a retrieval ends."""
    start_s = time.monotonic()
    with odd_archive(Silent()) as peer, pytest.raises(QueryError, match="did not answer within"):
        retrieve(service, peer, timeout_s=6.0)
    assert time.monotonic() - start_s < 60


@pytest.mark.parametrize("service", ["move", "get"])
def test_peer_when_it_aborts_in_the_middle_ends_in_an_error(service: str) -> None:
    """A broken line is noticed at once, and worth another attempt."""

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        respond(assoc, request, context_id, PENDING, None, Remaining=3, Completed=2)
        assoc.abort()

    with odd_archive(serve) as peer, pytest.raises(QueryError, match="broke off") as caught:
        retrieve(service, peer, timeout_s=20.0)
    assert caught.value.is_retryable


def test_move_when_the_peer_says_nothing_but_objects_arrive_goes_on() -> None:
    """Pending answers are optional: only silence on both lines is a time-out."""
    started = time.monotonic()

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        while time.monotonic() - started < 7:
            time.sleep(0.1)
        respond(assoc, request, context_id, 0, None, Completed=5)

    with odd_archive(serve) as peer:
        found = move(line_to(peer, timeout_s=3.0), WHOLE, moved=time.monotonic)
    assert found.completed == 5


@pytest.mark.parametrize("what", ["pending answers", "objects"])
def test_retrieval_when_it_never_ends_is_broken_off(what: str) -> None:
    """A peer that sends without end neither fills the disk nor holds the thread for ever."""

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        number = 0
        while assoc.is_established and not assoc.acse.is_aborted():
            number += 1
            if what == "objects":
                raw = data_set_of(ct(number))
                send_on_line(assoc, CTImageStorage, f"1.2.826.0.1.{number}", raw, number)
            else:
                respond(assoc, request, context_id, PENDING, None, Remaining=1, Completed=number)
                time.sleep(0.05)

    start_s = time.monotonic()
    with odd_archive(serve) as peer:
        line = Line(peer, OURS, 20.0, longest_s=2.0)
        with pytest.raises(QueryError, match="does not come to an end"):
            get(line, WHOLE, store=lambda _received: (0, ""))
    assert time.monotonic() - start_s < 60


def test_retrieval_when_the_node_stops_is_not_waited_for() -> None:
    """A stop takes moments, whatever a peer does."""
    silent = Silent()
    with odd_archive(silent) as peer:
        line = Line(peer, OURS, 60.0, is_stopping=silent.asked.is_set)
        with pytest.raises(QueryError, match="the node stops"):
            move(line, WHOLE, moved=nothing_moves)


@pytest.mark.parametrize("service", ["move", "get"])
def test_peer_when_it_does_not_offer_the_service_is_told(service: str) -> None:
    """The hint names the key of the configuration that helps."""
    offered = GET_MODELS if service == "move" else MOVE_MODELS
    with odd_archive(Silent(), offered) as peer, pytest.raises(QueryError) as caught:
        retrieve(service, peer)
    assert f"does not offer C-{service.upper()}" in str(caught.value)
    assert not caught.value.is_retryable
    assert "`by`" in caught.value.hint


@pytest.mark.parametrize("service", ["move", "get"])
def test_many_instances_when_wanted_are_asked_for_in_portions(service: str) -> None:
    """A list of UIDs stays below what databases take; the patient root names the patient."""
    asked: list[int] = []
    wanted = Wanted(STUDY, SERIES, tuple(f"1.2.{n}" for n in range(250)), "MARKED-4711")

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        assert isinstance(request, C_MOVE | C_GET)
        raw = request.Identifier.getvalue() if request.Identifier else b""
        assert b"MARKED-4711" in raw
        asked.append(raw.count(b"\\") + 1)
        respond(assoc, request, context_id, 0, None, Completed=asked[-1])

    models = (MOVE_MODELS if service == "move" else GET_MODELS)[1:]
    with odd_archive(serve, models) as peer:
        line = line_to(peer)
        if service == "get":
            found = get(line, wanted, store=lambda _received: (0, ""))
        else:
            found = move(line, wanted, moved=nothing_moves)
    assert asked == [100, 100, 50]
    assert found.completed == 250


def test_contexts_when_all_are_proposed_stay_below_the_limit() -> None:
    """PS3.8 9.3.2.2: 128 presentation contexts; two syntaxes of two models come on top."""
    assert len(storage_contexts()) + 4 <= 128


def test_wanted_objects_when_printed_do_not_name_the_patient() -> None:
    """What may stand in a traceback holds no identifier."""
    assert "MARKED" not in repr(WHOLE)
