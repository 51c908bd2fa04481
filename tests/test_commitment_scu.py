"""Storage commitment as SCU against a scripted peer: every way to report, and every failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from pydicom import Dataset

from node.commitment.verdicts import verdict_on
from node.config import NodeSection, Role
from node.index.commitments import Report
from node.index.peer_rows import COMMITMENTS
from node.index.states import CaseState
from node.receiver import StandInReceiver
from node.scp import StoreScp
from node.storage import ObjectStore
from tests.committing_peer import Behavior, CommittingPeer, committing, foreign_uid
from tests.nodes import free_port
from tests.owed_results import COMMITMENT_H, GIVE_UP_H, KINDS, OwedResults, owing, receiver

ROUND_S = 70.0
"""Longer than any pause between attempts."""


@contextmanager
def asking(root: Path, peer: CommittingPeer, *more: Role) -> Iterator[OwedResults]:
    """Give a delivering side for a committing peer."""
    with owing(root, receiver("tps", peer.port, Role.COMMIT, *more)) as node:
        yield node


@contextmanager
def listening(node: OwedResults, transport: str = "fast") -> Iterator[int]:
    """Let the node listen, too; give its port."""
    section = NodeSection(port=0, transport=transport, network_timeout_s=10.0)  # type: ignore[arg-type]
    config = node.config.model_copy(update={"node": section})
    store = ObjectStore(node.root / "received", 0)
    scp = StoreScp(config, store, node.index, node.clock, services=(node.desk.service(),))
    port = scp.start()
    try:
        yield port
    finally:
        scp.stop()


# --- ways to report ------------------------------------------------------------------------------


def test_commitment_when_reported_on_the_same_association_delivers(tmp_path: Path) -> None:
    """Issue 6, 6: N-EVENT-REPORT on the same association; all that was sent is asked for."""
    with committing() as peer, asking(tmp_path, peer) as node:
        results = node.owe()
        node.run_due()
        ((_, asked),) = peer.asked
        assert sorted(asked) == sorted(results)
        assert peer.wait_for_answers(1) == [0x0000]
        node.run_due()
        case = node.case()
    assert case.state is CaseState.DELIVERED
    assert case.delivery_findings == ()
    assert {r["commitment"] for r in case.receipts} == {"committed"}
    (path, *_) = (tmp_path / "results").rglob("*.dcm")
    ds = pydicom.dcmread(path)
    assert peer.classes[ds.SOPInstanceUID] == ds.SOPClassUID


def test_commitment_when_reported_before_the_answer_delivers(tmp_path: Path) -> None:
    """A report that overtakes the N-ACTION response is taken, and the response, too."""
    with committing(Behavior(reports="before")) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert peer.answers == [0x0000]
        assert len(peer.asked) == 1
        assert node.case().state is CaseState.DELIVERED


@pytest.mark.parametrize("transport", ["fast", "plain"])
@pytest.mark.parametrize("role", [None, (False, True), (True, True)])
def test_commitment_when_reported_on_a_new_association_delivers(
    tmp_path: Path, transport: str, role: tuple[bool, bool] | None
) -> None:
    """Issue 6, 6: on another association, with SCP/SCU role selection on our SCP and without."""
    behavior = Behavior(reports="new", role=role)
    with (
        committing(behavior) as peer,
        asking(tmp_path, peer) as node,
        listening(node, transport) as peer.node_port,
    ):
        node.owe()
        node.run_due()
        assert peer.wait_for_answers(1) == [0x0000]
        node.run_due()
        assert node.case().state is CaseState.DELIVERED


def test_case_when_its_commitment_is_awaited_is_still_delivering(tmp_path: Path) -> None:
    """The case is not delivered before the peer committed; what is waited for is told."""
    with committing(Behavior(reports="never")) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        case = node.case()
        assert case.state is CaseState.DELIVERING
        assert "storage commitment is waited for until 2026-03-01T14:00" in case.reason
        assert node.delivery("tps")["state"] == "committing"
        assert node.standings.standing("tps").commitments_waiting == 1
        node.clock.advance(minutes=30)
        assert node.run_due() == [], "nobody asks again meanwhile"


def test_report_when_it_comes_twice_counts_once(tmp_path: Path) -> None:
    """A repeated report is answered with success and changes nothing."""
    behavior = Behavior(reports="new", times=2)
    with (
        committing(behavior) as peer,
        asking(tmp_path, peer) as node,
        listening(node) as peer.node_port,
    ):
        node.owe()
        node.run_due()
        assert peer.wait_for_answers(2) == [0x0000, 0x0000]
        node.run_due()
        assert node.case().state is CaseState.DELIVERED
        assert len(peer.asked) == 1


def test_report_when_of_a_foreign_transaction_is_answered_and_not_believed(
    tmp_path: Path,
) -> None:
    """Always answered; a transaction that is not ours commits nothing."""
    behavior = Behavior(reports="new", transaction_uid=foreign_uid())
    with (
        committing(behavior) as peer,
        asking(tmp_path, peer) as node,
        listening(node) as peer.node_port,
    ):
        node.owe()
        node.run_due()
        assert peer.wait_for_answers(1) == [0x0115]
        node.run_due()
        assert node.case().state is CaseState.DELIVERING


def test_report_when_another_peer_sends_it_is_not_believed(tmp_path: Path) -> None:
    """Matched by Transaction UID and peer: nobody commits in another one's name."""
    with (
        committing(Behavior(reports="never")) as peer,
        owing(
            tmp_path,
            receiver("tps", peer.port, Role.COMMIT),
            receiver("pacs", free_port(), Role.COMMIT),
        ) as node,
        listening(node) as peer.node_port,
    ):
        node.owe(tps=("mr",))
        node.run_due()
        ((transaction_uid, uids),) = peer.asked
        assert peer.report_on_new_association(transaction_uid, uids, caller="PACS") == 0x0115
        assert node.run_due() == []
        assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
        node.run_due()
        assert node.case().state is CaseState.DELIVERED


def test_report_when_it_names_no_object_commits_to_nothing(tmp_path: Path) -> None:
    """When in doubt, abstain: success without a list is no commitment; it is asked for again."""
    with committing(Behavior(leaves_out=True)) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert node.case().state is CaseState.DELIVERING
        peer.behavior = Behavior()
        node.clock.advance(seconds=ROUND_S)
        node.run_due()
        first, second = (uid for uid, _ in peer.asked)
        assert first != second
        assert node.case().state is CaseState.DELIVERED


def without_transaction(ds: Dataset) -> None:
    del ds.TransactionUID


def without_instance(ds: Dataset) -> None:
    del ds.ReferencedSOPSequence[0].ReferencedSOPInstanceUID


def with_empty_transaction(ds: Dataset) -> None:
    ds.TransactionUID = ""


@pytest.mark.parametrize("spoil", [without_transaction, without_instance, with_empty_transaction])
def test_report_when_it_cannot_be_read_is_answered_and_changes_nothing(
    tmp_path: Path, spoil: Callable[[Dataset], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Always answered, never a traceback; the report is still waited for."""
    with committing(Behavior(spoil=spoil)) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert peer.wait_for_answers(1) == [0x0115]
        node.run_due()
        assert node.case().state is CaseState.DELIVERING
    assert [r for r in caplog.records if r.exc_info] == []


def test_report_when_of_another_event_type_is_answered_as_such(tmp_path: Path) -> None:
    """No such event type (PS3.7 10.1.1.1.8)."""
    with committing(Behavior(event_type=3)) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert peer.wait_for_answers(1) == [0x0113]
        assert node.case().state is CaseState.DELIVERING


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "times_asked", "times_stored"),
    [(0x0110, 3, 2), (0x0112, 3, 3), (0x0213, 3, 1), (0x0131, 3, 1), (0x0999, 3, 2)],
)
def test_failure_when_it_can_be_mended_is_acted_on_as_the_table_says(
    tmp_path: Path, reason: int, times_asked: int, times_stored: int
) -> None:
    """Handbook A.3: 0110 ask again, then send again; 0112 send again; 0213 and 0131 ask again.

    One object fails twice for this reason, then the peer commits to it.
    """
    reports = 0

    def failing(uids: list[str]) -> dict[str, int]:
        nonlocal reports
        reports += 1
        return {sorted(uids)[0]: reason} if reports < 3 else {}

    with committing(Behavior(failures=failing)) as peer, asking(tmp_path, peer) as node:
        results = node.owe()
        bad = sorted(results)[0]
        for _ in range(6):
            node.run_due()
            node.clock.advance(seconds=ROUND_S)
        assert node.case().state is CaseState.DELIVERED
    asked = [uids for _, uids in peer.asked]
    assert len(asked) == times_asked
    assert asked[1] == asked[2] == [bad], "only what failed is asked for again"
    assert len({uid for uid, _ in peer.asked}) == times_asked, "each under a UID of its own"
    assert peer.stored.pop(bad) == times_stored
    assert set(peer.stored.values()) == {1}


@pytest.mark.parametrize(("reason", "told"), [(0x0122, "role `commit`"), (0x0119, "same UID")])
def test_failure_when_it_cannot_be_mended_ends_in_undelivered_with_a_hint(
    tmp_path: Path, reason: int, told: str
) -> None:
    """Handbook A.3: 0122 configuration error; 0119 alert, do not retry."""

    def failing(uids: list[str]) -> dict[str, int]:
        return {sorted(uids)[0]: reason}

    with committing(Behavior(failures=failing)) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        case = node.case()
        assert case.state is CaseState.UNDELIVERED
        assert f"0x{reason:04X}" in case.reason
        assert told in case.reason
        node.clock.advance(hours=1)
        assert node.run_due() == []
    assert len(peer.asked) == 1
    assert set(peer.stored.values()) == {1}


def test_failures_when_they_go_on_for_ever_end_with_the_time_limit(tmp_path: Path) -> None:
    """Every way ends: a peer that never keeps an object does not keep us busy for ever."""

    def failing(uids: list[str]) -> dict[str, int]:
        return dict.fromkeys(uids, 0x0112)

    with committing(Behavior(failures=failing)) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_until_settled(limit=40, step_s=1800)
        case = node.case()
    assert case.state is CaseState.UNDELIVERED
    assert "time is spent" in case.reason
    assert "0x0112" in case.reason


@pytest.mark.parametrize("status", [0x0110, 0x0213, 0x0131])
def test_request_when_refused_for_now_is_made_again(tmp_path: Path, status: int) -> None:
    """A failing N-ACTION response: after a pause, under a new Transaction UID if that is taken."""
    behavior = Behavior(action_status=status, reports="never")
    with committing(behavior) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert f"0x{status:04X}" in node.case().reason
        assert node.run_due() == []
        peer.behavior = Behavior()
        node.clock.advance(seconds=ROUND_S)
        node.run_due()
        assert node.case().state is CaseState.DELIVERED
        first, second = (uid for uid, _ in peer.asked)
        assert (first == second) is (status != 0x0131)


def test_request_when_always_called_a_duplicate_ends_with_the_time_limit(tmp_path: Path) -> None:
    """Asked under new Transaction UIDs for ever, no time-out would ever be reached."""
    with (
        committing(Behavior(action_status=0x0131, reports="never")) as peer,
        asking(tmp_path, peer) as node,
    ):
        node.owe()
        node.run_until_settled(step_s=3600.0, limit=int(GIVE_UP_H) + 5)
        case = node.case()
    assert case.state is CaseState.DELIVERED
    ((finding),) = case.delivery_findings
    assert finding["code"] == "commitment-unconfirmed"
    assert "time is spent" in finding["text"]


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0x0211])
def test_request_when_refused_for_good_is_a_matter_for_a_person(
    tmp_path: Path, status: int
) -> None:
    """SOP class not supported, not authorized, unrecognized operation: with what to do."""
    behavior = Behavior(action_status=status, reports="never")
    with committing(behavior) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        case = node.case()
        assert case.state is CaseState.UNDELIVERED
        assert f"0x{status:04X}" in case.reason
        assert "role `commit`" in case.reason


def test_peer_when_it_has_no_commitment_is_a_matter_for_a_person(tmp_path: Path) -> None:
    """A wrong role in the configuration is told as such; after its correction a retry delivers."""
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        with owing(tmp_path / "n", receiver("tps", tps.port, Role.COMMIT)) as node:
            node.owe()
            node.run_due()
            case = node.case()
            assert case.state is CaseState.UNDELIVERED
            assert "does not offer storage commitment" in case.reason
            assert len(tps.kept) == len(KINDS)
        with owing(tmp_path / "n", receiver("tps", tps.port), clock=node.clock) as node:
            node.orders.reopen_for("c1", "tps", timedelta(hours=1), "op", node.clock())
            node.run_due()
            assert node.case().state is CaseState.DELIVERED
        assert {len(d) for d in tps.receipts.values()} == {1}, "nothing was sent twice"


def test_peer_when_it_hangs_up_is_asked_later_under_the_same_transaction(tmp_path: Path) -> None:
    """No answer to N-ACTION: the transaction was written down, and is asked for again."""

    def hang_up(assoc: Any) -> int:
        assoc.abort()
        return 0x0000

    behavior = Behavior(action_status=hang_up, reports="never")
    with committing(behavior) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        assert node.delivery("tps")["state"] == "committing"
        assert "gives no answer" in node.case().reason
        assert node.standings.standing("tps").failures == 1
        peer.behavior = Behavior()
        node.clock.advance(seconds=ROUND_S)
        node.run_due()
        assert node.case().state is CaseState.DELIVERED
        first, second = peer.asked
    assert first == second
    assert set(peer.stored.values()) == {1}


class PowerCutError(Exception):
    """The moment at which a process dies."""


class Dying:
    """A delivery whose process dies as soon as it is to say what comes next."""

    def settle(self, *_: object) -> None:
        raise PowerCutError

    def put_off(self, *_: object, **_named: object) -> None:
        raise PowerCutError


def test_process_when_it_dies_between_verdict_and_deed_loses_no_object(tmp_path: Path) -> None:
    """The report is acted on, the next step is not written: the lost object is still sent again."""
    with committing(Behavior(reports="never")) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        ((transaction_uid, uids),) = peer.asked
        report = Report(frozenset(uids[1:]), {uids[0]: 0x0112})
        assert node.commitments.record_report(["tps"], transaction_uid, report, node.clock())
        (due,) = node.deliveries.due(node.clock())
        key = node.deliveries.begin(due)
        assert key is not None
        owed = node.deliveries.owed(key)
        assert owed is not None
        with pytest.raises(PowerCutError):
            node.committing.step(key, node.peers[0], owed.give_up_at, Dying())
        peer.behavior = Behavior()
        node.run_until_settled(step_s=10)
        assert node.case().state is CaseState.DELIVERED
    assert peer.stored.pop(uids[0]) == 2
    assert set(peer.stored.values()) == {1}
    assert [asked for _, asked in peer.asked[1:]] == [[uids[0]]]


# --- no report -----------------------------------------------------------------------------------


def test_time_out_when_nothing_can_be_asked_delivers_with_a_finding(tmp_path: Path) -> None:
    """Issue 6, 6: without report and without the role query it is delivered, not confirmed."""
    with committing(Behavior(reports="never")) as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_due()
        node.clock.advance(hours=COMMITMENT_H, seconds=1)
        node.run_due()
        case = node.case()
    assert case.state is CaseState.DELIVERED
    ((text, severity),) = ((f["text"], f["severity"]) for f in case.delivery_findings)
    assert severity == "warning"
    assert text.startswith("peer tps took 5 objects and did not confirm that it keeps them")
    assert "no storage commitment within 2 h" in text


def test_report_when_it_comes_after_the_time_out_still_counts(tmp_path: Path) -> None:
    """Late is better than never: the finding goes; what is reported lost is told."""
    with (
        committing(Behavior(reports="never")) as peer,
        asking(tmp_path, peer) as node,
        listening(node) as peer.node_port,
    ):
        node.owe()
        node.run_due()
        node.clock.advance(hours=COMMITMENT_H, seconds=1)
        node.run_due()
        ((transaction_uid, uids),) = peer.asked
        unconfirmed = node.listed_worst()
        peer.behavior = Behavior(failures={uids[0]: 0x0112})
        assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
        case = node.case()
        lost = node.listed_worst()
    assert case.state is CaseState.DELIVERED
    ((text, severity),) = ((f["text"], f["severity"]) for f in case.delivery_findings)
    assert severity == "failure"
    assert (unconfirmed, lost) == ("warning", "failure"), "the list says so as well"
    assert text == "peer tps reports that it does not keep 1 object: failure reason 0x0112"


def test_breaker_when_open_lets_a_waiting_report_in(tmp_path: Path) -> None:
    """What has been asked for needs no call: it is not held back by the breaker."""
    with (
        committing(Behavior(reports="never")) as peer,
        asking(tmp_path, peer) as node,
        listening(node) as peer.node_port,
    ):
        node.owe()
        node.run_due()
        now, pause = node.clock(), timedelta(hours=1)
        assert node.standings.came_to_nothing("tps", "gone", now, most=1, pause=pause)
        ((transaction_uid, uids),) = peer.asked
        assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
        node.run_due()
        assert node.case().state is CaseState.DELIVERED


# --- the table as data ---------------------------------------------------------------------------


def test_verdict_when_an_object_is_named_twice_takes_the_failure() -> None:
    """What is named as failed is not committed, whatever else the report says."""
    report = Report(frozenset({"1", "2"}), {"1": 0x0112})
    verdict = verdict_on(report, {"1": "c", "2": "c"}, {})
    assert verdict.committed == {"2"}
    assert set(verdict.not_held) == {"1"}


def test_verdict_when_strangers_are_named_leaves_them_out() -> None:
    """Only what was asked for is committed."""
    verdict = verdict_on(Report(frozenset({"1", "9"}), {"8": 0x0119}), {"1": "c"}, {})
    assert verdict.committed == {"1"}
    assert (verdict.refused, verdict.not_held, verdict.ask_again) == ({}, {}, frozenset())


def transactions(node: OwedResults) -> list[str]:
    """Return the state of every transaction."""
    with node.index.read() as connection:
        return list(connection.scalars(sa.select(COMMITMENTS.c.state)))


def test_transactions_when_settled_are_closed(tmp_path: Path) -> None:
    """No transaction is left waiting for ever."""
    with committing() as peer, asking(tmp_path, peer) as node:
        node.owe()
        node.run_until_settled(step_s=10)
        assert set(transactions(node)) == {"closed"}
