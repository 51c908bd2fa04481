"""Deliveries of a running node, and the commands with which an operator directs them."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.uid import ImplicitVRLittleEndian

from node.config import Role
from node.index.standings import StandingBook
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver
from tests.nodes import NodeProcess, free_port, hilum_here, run_hilum, wait_for, write_datasets
from tests.owed_results import KINDS, owing, receiver, status_with, write_object

CONFIGURATION = """\
[node]
port = 0
data = "{data}"
breaker_failures = 3

[[peer]]
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = {tps}
roles = ["receive", "commit"]

[[peer]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
roles = ["receive"]

[[protocol]]
name = "liver"
targets = ["GTV*"]
destinations = ["tps", "pacs"]
"""


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=7, size="tiny", contrasts=("T1",), with_dose=False))


def test_two_destinations_when_they_want_different_objects_get_them(
    study: PhantomStudy, tmp_path: Path
) -> None:
    """Issue 6, 1 d and 5: kinds per destination, the time limit of the protocol, retry of one peer.

    The TPS gets structure set, registration and report; the archive everything, but later: it is
    away until the protocol's time limit is spent and an operator begins its delivery again.
    """
    pacs_port = free_port()
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        node = NodeProcess(tmp_path / "node", {"tps": tps.port, "pacs": pacs_port})
        text = node.config.read_text()
        text += (
            "delivery_give_up_h = 0.002\n\n[[protocol.output]]\n"
            'peer = "tps"\nobjects = ["structure-set", "registration", "report"]\n'
        )
        node.config.write_text(text)
        with node:
            node.send(write_datasets(study.instances(), tmp_path / "study"))
            case = node.wait_for_state("undelivered", "delivered")
            assert case.state == "undelivered"
            assert case.reason.startswith("pacs: time is spent")
            states = {str(d["peer"]): d for d in case.deliveries}
            assert states["tps"]["state"] == "delivered"
            limit = datetime.fromisoformat(states["tps"]["give_up_at"]) - datetime.fromisoformat(
                states["tps"]["updated_at"]
            )
            assert limit < timedelta(hours=0.002)
            with StandInReceiver(tmp_path / "pacs", "PACS", pacs_port) as pacs:
                answer = node.hilum("cases", "retry", case.case_id, "--peer", "pacs")
                assert answer.returncode == 0, answer.stderr
                assert node.wait_for_state("delivered").revision == 1
                whole = {pydicom.dcmread(path).Modality for path in pacs.kept.values()}
                everything = set(pacs.kept)
        got = sorted(pydicom.dcmread(path).Modality for path in tps.kept.values())
    assert got == ["REG", "RTSTRUCT", "SR"]
    assert whole >= {"MR", "REG", "RTSTRUCT", "SR", "SEG"}
    assert set(tps.kept) < everything
    received = {str(ds.SOPInstanceUID) for ds in study.instances()}
    assert not received & everything, "no original is ever sent again"


@pytest.fixture
def operated(tmp_path: Path) -> Callable[..., "Operated"]:
    """Return a function that makes a delivering side with a configuration file for commands."""
    return lambda tps, pacs: Operated(tmp_path, tps, pacs)


class Operated:
    """A data folder, and commands on it."""

    def __init__(self, folder: Path, tps: int, pacs: int) -> None:
        self.data = folder / "data"
        self.config = folder / "hilum.toml"
        self.config.write_text(CONFIGURATION.format(data=self.data, tps=tps, pacs=pacs))
        self.peers = (receiver("tps", tps, Role.COMMIT), receiver("pacs", pacs))

    def hilum(self, *arguments: str) -> str:
        answer = hilum_here(*arguments, "--config", str(self.config))
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def refused(self, *arguments: str) -> str:
        answer = hilum_here(*arguments, "--config", str(self.config))
        assert answer.returncode == 1
        assert "Traceback" not in answer.stderr
        return answer.stderr


def test_commands_when_a_peer_is_away_tell_it_and_try_it_again(
    tmp_path: Path, operated: Callable[..., Operated]
) -> None:
    """Issue 6, 5: `hilum peers`, `peers resume`, and the reason in `cases list` and `show`."""
    away = operated(free_port(), free_port())
    with owing(away.data, *away.peers) as node:
        node.clock.now = datetime.now(UTC)  # the commands know no other
        since = f"{node.clock.now:%Y-%m-%d %H:%M} UTC"
        for n in range(4):
            node.owe(f"c{n}")
        node.run_due()
        peers = json.loads(away.hilum("peers", "--json"))
        assert [p["name"] for p in peers] == ["tps", "pacs"]
        assert {p["breaker"] for p in peers} == {"open"}
        assert {p["deliveries_waiting"] for p in peers} == {4}
        assert "does not accept connections" in peers[0]["last_failure"]
        told = away.hilum("peers")
        assert "tps: AE TPS at 127.0.0.1:" in told
        assert f"left alone since {since} after 3 failures in a row" in told
        assert "waiting: 4 deliveries, 0 storage commitments" in told
        for command in (("cases", "list"), ("cases", "show", "c3")):
            assert f"tps: left alone since {since}" in away.hilum(*command)
        assert "tried again" in away.hilum("peers", "resume", "tps")
        assert StandingBook(node.index).standing("tps").open_since is None
        due = [key.peer for key in node.deliveries.due(datetime.now(UTC))]
        assert due.count("tps") == 4, "all at once, whatever their pauses"
    assert "no peer 'nobody'" in away.refused("peers", "resume", "nobody")


def test_commands_when_answers_differ_tell_them_by_kind(
    tmp_path: Path, operated: Callable[..., Operated]
) -> None:
    """Issue 6, 5: `cases show --receipts`, and warnings as findings of the case."""

    def status_for(_uid: str, _times: int) -> Dataset:
        return status_with(0xB000 if len(pacs.kept) < 3 else 0xA900)

    with StandInReceiver(tmp_path / "pacs", "PACS", status_for=status_for) as pacs:
        there = operated(free_port(), pacs.port)
        with owing(there.data, *there.peers) as node:
            node.owe(pacs=("mr", "registration", "report"))
            node.run_due()
    shown = there.hilum("cases", "show", "c1", "--receipts")
    assert "warning: peer pacs stored 3 objects with a warning: status 0xB000" in shown
    assert "pacs  mr  2  status 0xB000, warned" in shown
    assert "pacs  report  1  status 0xA900, refused permanent" in shown
    document = json.loads(there.hilum("cases", "show", "c1", "--json"))
    assert document["delivery_findings"][0]["code"] == "delivery-warning"
    assert {r["status"] for r in document["receipts"]} == {0xB000, 0xA900}


def test_commands_when_one_peer_is_given_up_settle_the_case(
    tmp_path: Path, operated: Callable[..., Operated]
) -> None:
    """Issue 6, 5: abandon by an operator, for one peer."""
    with StandInReceiver(tmp_path / "pacs", "PACS") as pacs:
        there = operated(free_port(), pacs.port)
        with owing(there.data, *there.peers) as node:
            node.owe()
            node.run_due()
            assert len(pacs.kept) == len(KINDS)
            assert "is abandoned" in there.hilum("cases", "abandon", "c1", "--peer", "tps")
            assert node.case().state == "delivered"
    shown = there.hilum("cases", "show", "c1")
    assert "delivery to tps given up by operator" in shown
    told = there.refused("cases", "abandon", "c1", "--peer", "tps")
    assert "is abandoned: there is nothing to give up" in told
    assert "has no delivery to 'mars'" in there.refused("cases", "retry", "c1", "--peer", "mars")


def test_result_files_when_gone_are_said_by_a_retry_of_one_peer(
    tmp_path: Path, operated: Callable[..., Operated]
) -> None:
    """Every bad input ends in a clear error that says what to do."""
    there = operated(free_port(), free_port())
    with owing(there.data, *there.peers) as node:
        node.owe()
    next((there.data / "results").rglob("*.dcm")).unlink()
    told = there.refused("cases", "retry", "c1", "--peer", "tps")
    assert "result files of case c1 are gone" in told
    assert "computes them anew" in told
    assert "no case c9" in there.refused("cases", "retry", "c9", "--peer", "tps")


def test_send_when_values_are_odd_tells_none_of_them(
    tmp_path: Path, operated: Callable[..., Operated]
) -> None:
    """A birth date that is no date is sent as it is, also encoded anew, and shown to nobody."""
    syntaxes = [str(ImplicitVRLittleEndian)]
    with StandInReceiver(tmp_path / "pacs", "PACS", transfer_syntaxes=syntaxes) as pacs:
        there = operated(free_port(), pacs.port)
        path = tmp_path / "odd.dcm"
        write_object(path, 1)
        ds = pydicom.dcmread(path)
        ds.add(DataElement("PatientBirthDate", "DA", "19450101X", validation_mode=IGNORE))
        ds.save_as(path)
        answer = run_hilum("send", "pacs", str(path), "--config", str(there.config))
        assert answer.returncode == 0, answer.stderr
        assert "took 1 of 1" in answer.stdout
        assert answer.stderr == ""
        (kept,) = pacs.kept.values()
    assert b"19450101X" in kept.read_bytes()


@pytest.mark.parametrize("engine_noted_the_end", [True, False])
def test_delivery_when_its_end_cannot_be_recorded_goes_on_after_a_restart(
    tmp_path: Path, engine_noted_the_end: bool
) -> None:
    """An index that refuses while the node is stopped ends no work: the next process takes it up.

    DBOS takes the exception that leaves the attempt for the end of the work, and may have been
    stopped between its notes on the attempt and on the work: then it goes on with it, to that end.
    """
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        node = NodeProcess(tmp_path / "node", {"tps": tps.port})
        with owing(node.folder / "data", receiver("tps", tps.port)) as earlier:
            earlier.clock.now = datetime.now(UTC)
            results = earlier.owe()
            with earlier.index.begin() as connection:
                connection.exec_driver_sql(
                    "CREATE TRIGGER refusing BEFORE UPDATE ON deliveries"
                    " BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
        with node:
            wait_for(
                lambda: "workflow.not_recorded" in node.log.read_text(),
                timeout_s=480,
                what="the attempt",
            )
            node.stop()
            with owing(node.folder / "data") as between, between.index.begin() as connection:
                connection.exec_driver_sql("DROP TRIGGER refusing")
            if not engine_noted_the_end:
                with sqlite3.connect(node.folder / "data" / "workflow.sqlite") as engine:
                    changed = engine.execute("UPDATE workflow_status SET status = 'PENDING'")
                    assert changed.rowcount == 1
            node.start()
            assert node.wait_for_state("delivered").revision == 1
        assert set(tps.kept) == set(results)


def test_node_when_started_sends_and_commits_what_an_earlier_one_owed(tmp_path: Path) -> None:
    """The breaker of an earlier process holds; its probe brings the peer back; all is delivered."""
    port = free_port()
    node = NodeProcess(tmp_path / "node", {"tps": port}, node_keys="breaker_failures = 2")
    data = node.folder / "data"
    with owing(data, receiver("tps", port)) as earlier:
        earlier.clock.now = datetime.now(UTC)
        for n in range(3):
            earlier.owe(f"c{n}")
    with node:
        wait_for(
            lambda: all("left alone since" in r.reason for r in node.cases()),
            timeout_s=480,
            what="the breaker",
        )
        node.kill()
        node.start()
        assert all("left alone since" in r.reason for r in node.cases())
        with StandInReceiver(tmp_path / "tps", "TPS", port) as tps:
            wait_for(
                lambda: {r.state for r in node.cases()} == {"delivered"},
                timeout_s=480,
                what="the deliveries",
            )
            assert len(tps.kept) == 3 * len(KINDS)
