"""What is owed to peers: outputs, statuses, retries, the breaker, and what operators can do."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ParametricMapStorage

from node.config import NodeSection
from node.index.case_rows import IllegalMoveError
from node.index.states import CaseState
from node.outputs import OUTPUTS
from node.pauses import pause
from node.receiver import Fault, Rejection, StandInReceiver
from tests.nodes import free_port
from tests.owed_results import (
    GIVE_UP_H,
    KINDS,
    START,
    Clock,
    kinds_of,
    owing,
    receiver,
    status_with,
)


@pytest.fixture
def tps(tmp_path: Path) -> Iterator[StandInReceiver]:
    with StandInReceiver(tmp_path / "tps", "TPS") as found:
        yield found


def test_destinations_when_they_want_different_kinds_get_just_these(tmp_path: Path) -> None:
    """Issue 6, 1 d: per destination the protocol says which objects go."""
    with (
        StandInReceiver(tmp_path / "tps", "TPS") as tps,
        StandInReceiver(tmp_path / "pacs", "PACS") as pacs,
        owing(tmp_path / "n", receiver("tps", tps.port), receiver("pacs", pacs.port)) as node,
    ):
        results = node.owe(tps=("structure-set", "registration", "report"), pacs=OUTPUTS)
        node.run_due()
        assert kinds_of(results, list(tps.kept)) == ["registration", "report", "structure-set"]
        assert kinds_of(results, list(pacs.kept)) == sorted(KINDS)
        assert node.case().state is CaseState.DELIVERED


def test_warning_when_answered_is_success_with_a_finding(
    tmp_path: Path, tps: StandInReceiver
) -> None:
    """Issue 6, 5: 0xB000, 0xB006, 0xB007 are success, and a person is told."""
    answers = iter([0xB000, 0xB000, 0xB007, 0x0000, 0xB006])

    def status_for(_uid: str, _times: int) -> Dataset:
        return status_with(next(answers), OffendingElement=[0x00200010])

    with (
        StandInReceiver(tmp_path / "warning", "TPS", status_for=status_for) as peer,
        owing(tmp_path / "n", receiver("tps", peer.port)) as node,
    ):
        node.owe()
        node.run_due()
        case = node.case()
        assert node.listed_worst() == "warning", "the list of cases says so as well"
    assert case.state is CaseState.DELIVERED
    texts = [f["text"] for f in case.delivery_findings]
    assert [f["severity"] for f in case.delivery_findings] == ["warning"] * 3
    told = texts[0]
    assert told.startswith("peer tps stored 2 objects with a warning: status 0xB000")
    assert "(StudyID)" in told
    counted = {(r["output"], r["status"]): r["objects"] for r in case.receipts}
    assert counted[("mr", 0xB000)] == 2
    assert sum(counted.values()) == len(KINDS)


def test_refusals_when_they_may_pass_are_tried_until_they_do(tmp_path: Path) -> None:
    """Issue 6, 5: 0xA700 is transient: all comes at last, nothing that was taken is sent again."""
    full = True

    def status_for(_uid: str, times: int) -> int:
        return 0xA700 if full and len(tps.kept) >= 2 else 0x0000

    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=status_for) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port)) as node,
    ):
        node.owe()
        node.run_due()
        assert node.delivery("tps")["state"] == "pending"
        assert "0xA700" in node.case().reason, "why it waits is told"
        full = False
        node.run_until_settled(step_s=5)
        assert node.case().state is CaseState.DELIVERED
        times = sorted(len(digests) for digests in tps.receipts.values())
        assert times == [1, 1, 2, 2, 2]


def test_time_limit_when_spent_ends_in_undelivered(tmp_path: Path) -> None:
    """Issue 6, 5: a time limit; with its reason, for an operator."""
    with owing(tmp_path, receiver("tps", free_port()), breaker_failures=1000) as node:
        node.owe()
        node.run_until_settled(limit=100, step_s=1200)
        case = node.case()
    assert case.state is CaseState.UNDELIVERED
    assert "time is spent: peer tps does not accept connections" in case.reason
    assert node.clock() - START >= timedelta(hours=GIVE_UP_H)


def test_pause_when_repeated_doubles_to_a_cap_and_is_spread() -> None:
    """Exponential back-off with a cap; what failed together comes back one by one."""
    node = NodeSection(delivery_retry_s=5, delivery_retry_cap_s=300)
    plain = [pause(node, n).total_seconds() for n in range(9)]
    assert plain == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    spread = {pause(node, 8, f"case {n}.tps").total_seconds() for n in range(50)}
    assert len(spread) > 20
    assert 240 <= min(spread) <= max(spread) <= 300
    assert pause(node, 8, "a") == pause(node, 8, "a")


# --- the breaker ---------------------------------------------------------------------------------


def test_breaker_when_attempts_come_to_nothing_opens_and_others_wait_untried(
    tmp_path: Path,
) -> None:
    """Issue 6, 5: a breaker per peer; the others wait and are told why and since when."""
    with owing(tmp_path, receiver("tps", free_port())) as node:
        for n in range(6):
            node.owe(f"c{n}")
        assert len(node.run_due()) == 6
        standing = node.standings.standing("tps")
        assert standing.failures == 3, "after three nobody tried any more"
        assert standing.open_since == "2026-03-01T12:00:00.000+00:00"
        assert standing.deliveries_waiting == 6
        node.clock.advance(seconds=30)
        assert node.run_due() == [], "also what is due by its own pause waits"
        reason = node.case("c5").reason
    assert "left alone since 2026-03-01 12:00 UTC" in reason
    assert "does not accept connections" in reason


def test_breaker_when_its_pause_is_over_lets_one_delivery_try(tmp_path: Path) -> None:
    """Half-open: one probe; success closes it, and all go at once."""
    port = free_port()
    with owing(tmp_path / "n", receiver("tps", port)) as node:
        for n in range(5):
            node.owe(f"c{n}")
        node.run_due()
        node.clock.advance(seconds=61)
        assert len(node.run_due()) == 1
        assert node.standings.standing("tps").failures == 4
        assert node.run_due() == [], "the failed probe opens it again"
        with StandInReceiver(tmp_path / "tps", "TPS", port) as tps:
            node.clock.advance(seconds=61)
            assert len(node.run_due()) == 1
            assert node.standings.standing("tps").open_since is None
            assert len(node.run_due()) == 4, "the others at once, whatever their own pauses"
            assert len(tps.kept) == 5 * len(KINDS)
            assert len(tps.associations) == 1, "one association for all that go together"
        assert {node.case(f"c{n}").state for n in range(5)} == {CaseState.DELIVERED}


def test_breaker_when_the_node_restarts_is_still_open(tmp_path: Path) -> None:
    """It is in the index: a restart does not begin to hammer."""
    peer, clock = receiver("tps", free_port()), Clock()
    with owing(tmp_path, peer, clock=clock) as node:
        for n in range(3):
            node.owe(f"c{n}")
        node.run_due()
    clock.advance(seconds=50)
    with owing(tmp_path, peer, clock=clock) as again:
        assert again.run_due() == []
        assert again.standings.standing("tps").open_since is not None


def test_breaker_when_open_does_not_stop_the_time_limit(tmp_path: Path) -> None:
    """Time limits keep counting while the breaker is open."""
    with owing(tmp_path, receiver("tps", free_port())) as node:
        for n in range(4):
            node.owe(f"c{n}")
        node.run_due()
        node.clock.advance(hours=GIVE_UP_H, seconds=-10)
        node.run_due()  # the probe, which opens it again
        node.clock.advance(seconds=11)
        assert node.run_due()
        node.clock.advance(seconds=60)
        node.run_due()
        states = {node.case(f"c{n}").state for n in range(4)}
        reason = node.case("c3").reason
        failures = node.standings.standing("tps").failures
    assert states == {CaseState.UNDELIVERED}
    assert "time is spent" in reason
    assert failures <= 3 + 3, "what was given up was not tried each time"


def test_breaker_when_the_peer_refuses_everything_for_now_opens_too(tmp_path: Path) -> None:
    """Transient refusals of everything are attempts that came to nothing; one success is not."""
    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=lambda _u, _n: 0xA700) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port)) as node,
    ):
        for n in range(3):
            node.owe(f"c{n}")
        node.run_due()
        assert node.standings.standing("tps").open_since is not None


def test_breaker_when_a_peer_rejects_for_good_stays_closed(
    tmp_path: Path, tps: StandInReceiver
) -> None:
    """Permanent refusals are apart from transient ones: a person acts, nothing is tried again."""
    tps.rejection = Rejection.CALLING_AE_UNKNOWN
    with owing(tmp_path / "n", receiver("tps", tps.port)) as node:
        for n in range(4):
            node.owe(f"c{n}")
        node.run_due()
        standing = node.standings.standing("tps")
        assert (standing.failures, standing.open_since) == (0, None)
        assert "does not know our AE title" in standing.last_failure
        assert node.case("c0").state is CaseState.UNDELIVERED
        assert len(tps.associations) == 4


def test_breaker_when_resumed_by_hand_lets_everything_go(
    tmp_path: Path,
) -> None:
    """`hilum peers resume`: the operator knows that the peer is back."""
    port = free_port()
    with owing(tmp_path / "n", receiver("tps", port)) as node:
        for n in range(4):
            node.owe(f"c{n}")
        node.run_due()
        with StandInReceiver(tmp_path / "tps", "TPS", port):
            assert node.standings.resume("tps", node.clock())
            assert len(node.run_due()) == 4
        assert {node.case(f"c{n}").state for n in range(4)} == {CaseState.DELIVERED}
        assert not node.standings.resume("tps", node.clock()), "it was closed already"


def test_breaker_of_one_peer_when_open_leaves_the_others_alone(
    tmp_path: Path, tps: StandInReceiver
) -> None:
    """Each destination has its own queue and breaker."""
    away = receiver("pacs", free_port())
    with owing(tmp_path / "n", receiver("tps", tps.port), away) as node:
        for n in range(5):
            node.owe(f"c{n}")
        node.run_due()
        assert node.standings.standing("pacs").open_since is not None
        assert {node.delivery("tps", f"c{n}")["state"] for n in range(5)} == {"delivered"}


# --- operators -----------------------------------------------------------------------------------


def test_delivery_when_given_up_for_one_peer_lets_the_case_follow_the_others(
    tmp_path: Path, tps: StandInReceiver
) -> None:
    """`hilum cases abandon CASE --peer`: delivered if the others are; who gave up what is told."""
    away = receiver("pacs", free_port())
    with owing(tmp_path / "n", receiver("tps", tps.port), away) as node:
        node.owe()
        node.run_due()
        assert node.case().state is CaseState.DELIVERING
        node.orders.abandon_for("c1", "pacs", "operator anna", node.clock())
        case = node.case()
        assert case.state is CaseState.DELIVERED
        assert case.reason == "pacs: given up by operator anna"
        assert node.delivery("pacs")["state"] == "abandoned"
        pages = [page["reason"] for page in case.history]
        assert "delivery to pacs given up by operator anna" in pages
        node.clock.advance(hours=1)
        assert node.run_due() == []


def test_delivery_when_given_up_for_the_only_peer_abandons_the_case(tmp_path: Path) -> None:
    """Nothing was delivered: the case must not say so."""
    with owing(tmp_path, receiver("tps", free_port())) as node:
        node.owe()
        node.orders.abandon_for("c1", "tps", "operator", node.clock())
        assert node.case().state is CaseState.ABANDONED


def test_delivery_when_given_up_and_retried_is_made(tmp_path: Path, tps: StandInReceiver) -> None:
    """`hilum cases retry CASE --peer`: also what was given up; nobody else gets it twice."""
    port = free_port()
    with owing(tmp_path / "n", receiver("tps", tps.port), receiver("pacs", port)) as node:
        node.owe()
        node.run_due()
        node.orders.abandon_for("c1", "pacs", "operator", node.clock())
        patience = timedelta(hours=1)
        node.orders.reopen_for("c1", "pacs", patience, "operator anna", node.clock())
        assert node.case().state is CaseState.DELIVERING
        with StandInReceiver(tmp_path / "pacs", "PACS", port) as pacs:
            node.run_due()
            assert len(pacs.kept) == len(KINDS)
        case = node.case()
        assert case.state is CaseState.DELIVERED
        assert "delivery to pacs retried by operator anna" in [p["reason"] for p in case.history]
        assert {len(d) for d in tps.receipts.values()} == {1}


def test_undelivered_peer_when_retried_alone_leaves_what_was_given_up(tmp_path: Path) -> None:
    """A retry of the whole case owes again what failed, not what an operator gave up."""
    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=lambda _u, _n: 0xC000) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port), receiver("pacs", free_port())) as node,
    ):
        node.owe()
        node.run_due()
        node.orders.abandon_for("c1", "pacs", "operator", node.clock())
        case = node.case()
        assert case.state is CaseState.UNDELIVERED
        assert "0xC000" in case.reason
        node.orders.reopen("c1", timedelta(hours=1), node.clock())
        assert node.delivery("tps")["state"] == "pending"
        assert node.delivery("pacs")["state"] == "abandoned"


@pytest.mark.parametrize(
    ("peer", "told"),
    [("nobody", "has no delivery to 'nobody'"), ("tps", "is delivered to tps")],
)
def test_retry_when_there_is_nothing_to_retry_says_so(
    tmp_path: Path, tps: StandInReceiver, peer: str, told: str
) -> None:
    """Every bad input ends in a clear error."""
    with owing(tmp_path / "n", receiver("tps", tps.port)) as node:
        node.owe()
        node.run_due()
        with pytest.raises(IllegalMoveError, match=told):
            node.orders.reopen_for("c1", peer, timedelta(hours=1), "op", node.clock())


def test_objects_when_all_are_left_out_are_not_delivered(tmp_path: Path) -> None:
    """A peer that took nothing has no result; once it is mended, a retry brings all."""
    classes = [str(CTImageStorage)]
    with owing(tmp_path / "n", receiver("tps", free_port())) as node:
        node.owe()
        for path in (tmp_path / "n/results").rglob("*.dcm"):
            ds = pydicom.dcmread(path)
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ParametricMapStorage
            ds.save_as(path)
        port = node.peers[0].port or 0
        with StandInReceiver(tmp_path / "narrow", "TPS", port, sop_classes=classes):
            node.run_due()
        case = node.case()
        assert case.state is CaseState.UNDELIVERED
        assert "it takes none of the objects: peer tps accepts Parametric Map" in case.reason
        assert node.listed_worst() == "info", "that they were left out"
        node.orders.reopen("c1", timedelta(hours=1), node.clock())
        assert node.listed_worst() == "", "they are offered again"
        with StandInReceiver(tmp_path / "mended", "TPS", port) as mended:
            node.run_due()
            assert node.case().state is CaseState.DELIVERED
            assert len(mended.kept) == len(KINDS)


def test_delivery_when_the_clock_is_put_back_waits_for_no_time_that_was_written(
    tmp_path: Path,
) -> None:
    """A clock that was a year ahead, and is corrected, holds nothing up for a year."""
    with owing(tmp_path / "n", receiver("tps", free_port()), breaker_failures=1) as node:
        node.clock.advance(days=365)
        node.owe("c1")
        node.owe("c2")
        node.run_due()
        assert node.standings.standing("tps").open_since is not None
        node.clock.advance(days=-365)
        with StandInReceiver(tmp_path / "tps", "TPS", node.peers[0].port or 0):
            node.run_due()
            node.run_due()
        assert {d["state"] for d in node.all_deliveries()} == {"delivered"}


def test_attempt_when_the_node_stops_is_put_off_and_held_against_nobody(tmp_path: Path) -> None:
    """A stop interrupts a peer that does not answer; the next process goes on at once."""
    came = threading.Event()

    def never(_uid: str, _times: int) -> Fault:
        came.set()
        return Fault.STALL

    with owing(tmp_path / "n", receiver("tps", free_port()), breaker_failures=1) as node:
        results, port = node.owe(), node.peers[0].port or 0
        with StandInReceiver(tmp_path / "silent", "TPS", port, status_for=never):
            thread = threading.Thread(target=node.run_due)
            thread.start()
            assert came.wait(60)
            node.lines.close()
            thread.join(60)
        assert node.delivery("tps")["reason"] == "the node stopped"
        assert node.standings.standing("tps").failures == 0
    with (
        StandInReceiver(tmp_path / "tps", "TPS", port) as tps,
        owing(tmp_path / "n", *node.peers) as again,
    ):
        again.run_due()
        assert again.case().state is CaseState.DELIVERED
        assert set(tps.kept) == set(results)


def test_operator_when_the_case_is_unknown_is_told(tmp_path: Path) -> None:
    """Likewise."""
    with (
        owing(tmp_path, receiver("tps", free_port())) as node,
        pytest.raises(IllegalMoveError, match="no case c9"),
    ):
        node.orders.abandon_for("c9", "tps", "op", node.clock())


def test_abort_when_it_comes_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """What was confirmed before an abort is not sent again; the rest is."""
    aborts = iter([False, False, True])

    def abort_third(_uid: str, _times: int) -> int | Fault:
        return Fault.ABORT if next(aborts, False) else 0x0000

    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=abort_third) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port)) as node,
    ):
        results = node.owe()
        node.run_until_settled(step_s=10)
        assert node.case().state is CaseState.DELIVERED
        assert set(tps.kept) == set(results)
        assert sorted(len(d) for d in tps.receipts.values()) == [1, 1, 1, 1, 2]
