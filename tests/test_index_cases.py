"""Cases, revisions and deliveries in a real SQLite database, and in a real PostgreSQL."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.assembly import CaseProposal
from node.index import Index
from node.index.case_rows import IllegalMoveError, case_row, move_case
from node.index.cases import CaseBook
from node.index.commitments import CommitmentBook
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.delivery_orders import DeliveryOrders
from node.index.runs import RevisionKey, RunBook
from node.index.states import TRANSITIONS, CaseState, DeliveryState
from node.outputs import OUTPUTS, Output

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GIVE_UP = timedelta(hours=1)


@pytest.fixture
def sqlite_index(tmp_path: Path) -> Iterator[Index]:
    found = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    found.create()
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgres"])
def index(request: pytest.FixtureRequest) -> Index:
    found: Index = request.getfixturevalue(f"{request.param}_index")
    return found


def proposal(
    *,
    case_id: str = "c1",
    waiting_for: tuple[str, ...] = (),
    rejection: str = "",
    fingerprint: str = "f1",
) -> CaseProposal:
    return CaseProposal(
        case_id=case_id,
        protocol_name="liver",
        ct_series_uid="1.2",
        structure_set_uid="1.3",
        mr_series_uids=("1.4",),
        instances=(),
        waiting_for=waiting_for,
        rejection=rejection,
        findings=(),
        fingerprint=fingerprint,
        next_look_at=None,
    )


def observe(cases: CaseBook, *proposals: CaseProposal, now: datetime = NOW) -> None:
    cases.observe("patient", proposals, {p.case_id: '{"job": 1}' for p in proposals}, now)


def state_of(cases: CaseBook, case_id: str = "c1") -> CaseState:
    record = cases.case(case_id)
    assert record is not None
    return record.state


def running(index: Index) -> RevisionKey:
    observe(CaseBook(index), proposal())
    (key,) = RunBook(index).due(NOW)
    begun = RunBook(index).begin(key, NOW)
    assert begun is not None
    return begun.key


def delivering(index: Index, *peers: str) -> tuple[RevisionKey, list[DeliveryKey]]:
    key = running(index)
    results: dict[str, tuple[str, Output]] = {
        "2.25.1": ("results/a.dcm", "report"),
        "2.25.2": ("results/b.dcm", "structure-set"),
    }
    owed = dict.fromkeys(peers, OUTPUTS)
    RunBook(index).adopt(key, results, {"targets": []}, owed, GIVE_UP, NOW)
    return key, [DeliveryKey(key.case_id, key.revision, peer, 0) for peer in peers]


def test_every_pair_of_states_when_moved_obeys_the_table(index: Index) -> None:
    """DESIGN 3: the table of allowed transitions is data, and nothing else is allowed."""
    cases = CaseBook(index)
    for number, (before, after) in enumerate(itertools.permutations(CaseState, 2)):
        case_id = f"pair{number}"
        observe(cases, proposal(case_id=case_id, waiting_for=("x",)))
        with index.begin() as connection:
            row = case_row(connection, case_id)
            assert row is not None
            forced = _Forced(row.case_id, before, "", row.revision)
            if after in TRANSITIONS[before]:
                move_case(connection, forced, after, "", NOW)
            else:
                with pytest.raises(IllegalMoveError):
                    move_case(connection, forced, after, "", NOW)


class _Forced:
    """A row of the cases table in a state of the test's choice."""

    def __init__(self, case_id: str, state: CaseState, reason: str, revision: int) -> None:
        self.case_id = case_id
        self.state = state
        self.reason = reason
        self.revision = revision


def test_every_state_when_entered_has_an_exit() -> None:
    """DESIGN 3: every state has an exit."""
    assert all(TRANSITIONS[state] - {state} for state in CaseState)


def test_case_when_waiting_tells_for_what(index: Index) -> None:
    """Issue: what a waiting case waits for can be read off `hilum cases show`."""
    cases = CaseBook(index)
    observe(cases, proposal(waiting_for=("3 of 212 CT slices",)))
    record = cases.case("c1")
    assert record is not None
    assert record.state is CaseState.WAITING
    assert record.reason == "3 of 212 CT slices"


def test_same_objects_when_observed_again_make_no_second_revision(index: Index) -> None:
    """Observing twice is harmless."""
    cases = CaseBook(index)
    observe(cases, proposal())
    observe(cases, proposal())
    assert [key.revision for key in RunBook(index).due(NOW)] == [1]


def test_late_object_when_delivered_makes_the_next_revision(index: Index) -> None:
    """DESIGN 2: objects that arrive later make revision n+1."""
    cases = CaseBook(index)
    key, _ = delivering(index)
    assert state_of(cases) is CaseState.DELIVERED
    observe(cases, proposal(fingerprint="f2"))
    (newer,) = RunBook(index).due(NOW)
    assert (key.revision, newer.revision) == (1, 2)


def test_new_object_when_running_waits_for_the_end_of_the_run(index: Index) -> None:
    """A run is never overtaken in the middle."""
    cases = CaseBook(index)
    key = running(index)
    observe(cases, proposal(fingerprint="f2"))
    assert state_of(cases) is CaseState.RUNNING
    assert cases.patients_to_look_at() == set()
    RunBook(index).fail(key, "broken", NOW)
    assert cases.patients_to_look_at() == {"patient"}, "also after a crash"
    observe(cases, proposal(fingerprint="f2"))
    assert state_of(cases) is CaseState.READY


def test_begin_when_repeated_after_a_crash_gives_the_job_again(index: Index) -> None:
    """Work begun is finished: a second begin of a running revision is a recovery."""
    key = running(index)
    begun = RunBook(index).begin(key, NOW)
    assert begun is not None
    assert (json.loads(begun.job), begun.key.begun) == ({"job": 1}, 2)


def test_begin_when_settled_gives_nothing(index: Index) -> None:
    """Work finished is not begun again, whatever the workflow engine repeats."""
    key, _ = delivering(index, "tps")
    assert RunBook(index).begin(key, NOW) is None


def test_adopt_when_repeated_owes_each_object_once(index: Index) -> None:
    """A crash between adopting and recording that must not double a delivery."""
    deliveries = DeliveryBook(index)
    key, (owed,) = delivering(index, "tps")
    RunBook(index).adopt(
        key, {"2.25.9": ("results/c.dcm", "report")}, {}, {"tps": OUTPUTS}, GIVE_UP, NOW
    )
    assert deliveries.due(NOW) == [owed]
    remaining = deliveries.owed(owed)
    assert remaining is not None
    assert sorted(remaining[0]) == ["2.25.1", "2.25.2"]


def test_owed_when_part_is_confirmed_leaves_the_rest(index: Index) -> None:
    """What a peer confirmed is not sent again."""
    deliveries = DeliveryBook(index)
    _, (key,) = delivering(index, "tps")
    deliveries.record_receipt(key, "2.25.1", "refused_transient", 0xA700, "full", NOW)
    deliveries.record_receipt(key, "2.25.1", "sent", 0, "", NOW)
    remaining = deliveries.owed(key)
    assert remaining is not None
    assert remaining[0] == {"2.25.2": "results/b.dcm"}


def test_case_when_the_last_delivery_settles_is_delivered(index: Index) -> None:
    """A case is delivered when every destination has everything."""
    cases, deliveries = CaseBook(index), DeliveryBook(index)
    _, (first, second) = delivering(index, "pacs", "tps")
    deliveries.settle(first, DeliveryState.DELIVERED, "", NOW)
    assert state_of(cases) is CaseState.DELIVERING
    deliveries.settle(second, DeliveryState.DELIVERED, "", NOW)
    assert state_of(cases) is CaseState.DELIVERED


def test_undelivered_case_when_reopened_sends_what_was_refused(index: Index) -> None:
    """An operator can retry; what arrived stays confirmed."""
    cases, deliveries = CaseBook(index), DeliveryBook(index)
    _, (key,) = delivering(index, "tps")
    deliveries.record_receipt(key, "2.25.1", "sent", 0, "", NOW)
    deliveries.record_receipt(key, "2.25.2", "refused_permanent", 0xA900, "mismatch", NOW)
    assert deliveries.refusals(key) == ["mismatch"]
    deliveries.settle(key, DeliveryState.UNDELIVERED, "mismatch", NOW)
    record = cases.case("c1")
    assert record is not None
    assert (record.state, record.reason) == (CaseState.UNDELIVERED, "tps: mismatch")
    DeliveryOrders(index).reopen("c1", GIVE_UP, NOW)
    (again,) = deliveries.due(NOW)
    assert again.attempt == 1
    remaining = deliveries.owed(again)
    assert remaining is not None
    assert list(remaining[0]) == ["2.25.2"]
    assert deliveries.owed(key) is None, "the earlier attempt is over"


def test_rejected_case_when_retried_is_looked_at_anew(index: Index) -> None:
    """An operator can have a case begun again: from its present objects and settings."""
    cases = CaseBook(index)
    key = running(index)
    RunBook(index).reject(key, ["the CT has a gap", "no MR"], NOW)
    record = cases.case("c1")
    assert record is not None
    assert (record.state, record.reason) == (CaseState.REJECTED, "the CT has a gap; no MR")
    observe(cases, proposal())
    assert state_of(cases) is CaseState.REJECTED, "the same objects alone change nothing"
    cases.ask_again("c1", NOW)
    assert cases.patients_to_look_at() == {"patient"}
    observe(cases, proposal())
    assert RunBook(index).due(NOW) == [RevisionKey("c1", 2, 0)]
    assert cases.patients_to_look_at() == set()


def test_retried_case_when_its_objects_form_it_no_longer_says_so(index: Index) -> None:
    """A changed configuration must not leave a case waiting for ever."""
    cases = CaseBook(index)
    RunBook(index).fail(running(index), "broken", NOW)
    cases.ask_again("c1", NOW)
    observe(cases)
    record = cases.case("c1")
    assert record is not None
    assert record.state is CaseState.REJECTED
    assert "no longer" in record.reason


def test_attempt_when_put_off_comes_again_at_its_time(index: Index) -> None:
    """What the machine is to blame for comes again for ever, and holds nobody else up."""
    cases = CaseBook(index)
    key = running(index)
    later = NOW + timedelta(seconds=30)
    RunBook(index).put_off(key, "no room", later, NOW, most_failures=None)
    record = cases.case("c1")
    assert record is not None
    assert (record.state, record.reason) == (CaseState.READY, "no room")
    assert RunBook(index).due(NOW) == []
    assert RunBook(index).due(later) == [RevisionKey("c1", 1, 1)]
    assert RunBook(index).begin(key, later) is None, "the earlier attempt is over"
    begun = RunBook(index).begin(RevisionKey("c1", 1, 1), later)
    assert begun is not None
    assert begun.key.begun == 1, "only starts that end with the node's death count"


def test_attempts_when_they_die_too_often_are_a_failure(index: Index) -> None:
    """A case that kills its computing process does so a bounded number of times."""
    cases = CaseBook(index)
    observe(cases, proposal())
    for _ in range(3):
        (key,) = RunBook(index).due(NOW)
        begun = RunBook(index).begin(key, NOW)
        assert begun is not None
        RunBook(index).put_off(begun.key, "ended by SIGKILL", NOW, NOW, most_failures=3)
    record = cases.case("c1")
    assert record is not None
    assert record.state is CaseState.FAILED
    assert record.reason == "given up after 3 attempts: ended by SIGKILL"


def test_delivery_when_put_off_comes_again_at_its_time(index: Index) -> None:
    """Back-off is in the index: durable, and in nobody's way."""
    deliveries = DeliveryBook(index)
    _, (key,) = delivering(index, "tps")
    later = NOW + timedelta(seconds=30)
    deliveries.put_off(key, "peer away", later, NOW)
    assert deliveries.due(NOW) == []
    assert deliveries.due(later) == [DeliveryKey("c1", 1, "tps", 1)]
    assert deliveries.owed(key) is None


def test_delivery_when_abandoned_is_not_settled_by_what_was_under_way(index: Index) -> None:
    """An abandoned delivery never becomes a delivered one."""
    cases, deliveries = CaseBook(index), DeliveryBook(index)
    _, (key,) = delivering(index, "tps")
    cases.abandon("c1", NOW)
    deliveries.settle(key, DeliveryState.DELIVERED, "", NOW)
    record = cases.case("c1")
    assert record is not None
    assert [d["state"] for d in record.deliveries] == ["abandoned"]


def test_waiting_case_when_abandoned_stays_so_until_objects_come(index: Index) -> None:
    """Also a case that was never computed can be abandoned."""
    cases = CaseBook(index)
    waiting = proposal(waiting_for=("no MR",))
    observe(cases, waiting)
    cases.abandon("c1", NOW)
    observe(cases, waiting)
    assert state_of(cases) is CaseState.ABANDONED
    observe(cases, proposal(waiting_for=("no MR",), fingerprint="f2"))
    assert state_of(cases) is CaseState.WAITING


def test_delivered_case_when_retried_is_refused(index: Index) -> None:
    """Nothing to retry is an error with its reason, not a silent success."""
    cases = CaseBook(index)
    delivering(index)
    with pytest.raises(IllegalMoveError, match="nothing to begin again"):
        cases.ask_again("c1", NOW)


def test_abandoned_case_when_new_objects_come_revives(index: Index) -> None:
    """Abandoning stops deliveries; only other objects begin again."""
    cases, deliveries = CaseBook(index), DeliveryBook(index)
    delivering(index, "tps")
    cases.abandon("c1", NOW)
    assert deliveries.due(NOW) == []
    observe(cases, proposal())
    assert state_of(cases) is CaseState.ABANDONED
    observe(cases, proposal(fingerprint="f2"))
    assert state_of(cases) is CaseState.READY


def test_placeholder_when_no_longer_proposed_vanishes(index: Index) -> None:
    """A CT without structure set is shown as waiting, until the structure set makes a case."""
    cases = CaseBook(index)
    observe(cases, proposal(case_id="ct-only", waiting_for=("no structure set",)))
    observe(cases, proposal(case_id="real", waiting_for=("quiet period",)))
    assert [record.case_id for record in cases.cases()] == ["real"]


def test_revision_when_it_runs_is_still_due(index: Index) -> None:
    """What a stop broke off without a word to the index is begun again by the next process."""
    key = running(index)
    assert RunBook(index).due(NOW) == [replace(key, begun=0)]
    RunBook(index).fail(key, "broken", NOW)
    assert RunBook(index).due(NOW) == []


def test_delivery_when_begun_again_is_not_settled_by_the_attempt_before(index: Index) -> None:
    """An operator's retry outlives the attempt that was under way, and so does its commitment."""
    deliveries, commitments = DeliveryBook(index), CommitmentBook(index)
    _, (earlier,) = delivering(index, "tps")
    DeliveryOrders(index).reopen_for("c1", "tps", GIVE_UP, "operator", NOW)
    (key,) = deliveries.due(NOW)
    commitments.begin(key, "1.2.3", {}, NOW, NOW)
    deliveries.begin_committing(earlier, NOW)
    assert not deliveries.settle(earlier, DeliveryState.DELIVERED, "", NOW)
    owed = deliveries.owed(key)
    assert owed is not None
    assert owed.state is DeliveryState.PENDING
    assert commitments.open_transaction(key) is not None
    assert state_of(CaseBook(index)) is CaseState.DELIVERING
    assert deliveries.settle(key, DeliveryState.DELIVERED, "", NOW)
    assert state_of(CaseBook(index)) is CaseState.DELIVERED


def test_peer_when_given_up_gets_no_earlier_result_set_either(index: Index) -> None:
    """`cases abandon --peer`: nothing more of the case is sent to it, of whatever revision."""
    cases, deliveries, orders = CaseBook(index), DeliveryBook(index), DeliveryOrders(index)
    delivering(index, "tps")
    observe(cases, proposal(fingerprint="f2"))
    (newer,) = RunBook(index).due(NOW)
    assert newer.revision == 2
    with pytest.raises(IllegalMoveError, match="a newer result set"):
        orders.reopen_for("c1", "tps", GIVE_UP, "operator", NOW)
    orders.abandon_for("c1", "tps", "operator", NOW)
    assert deliveries.due(NOW) == []
    assert state_of(cases) is CaseState.READY, "the newer one is computed all the same"


def test_case_when_abandoned_waits_for_no_commitment(index: Index) -> None:
    """What is given up is asked for no more."""
    _, (key,) = delivering(index, "tps")
    commitments = CommitmentBook(index)
    commitments.begin(key, "1.2.3", {}, NOW, NOW)
    CaseBook(index).abandon("c1", NOW)
    assert commitments.open_transaction(key) is None
