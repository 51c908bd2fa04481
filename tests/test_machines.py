"""Several processes on one PostgreSQL and one folder: each case once, whoever dies.

The processes are real, and so are the signals. Fifty cases: tests/bench/machines.py.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.receiver import StandInReceiver
from tests.machines import CheapCases, HilumProcess, Machines
from tests.nodes import hilum_here, wait_for
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def cases() -> CheapCases:
    return CheapCases()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[StandInReceiver]:
    with StandInReceiver(tmp_path / "tps", "TPS") as found:
        yield found


@pytest.fixture
def machines(
    postgres: PostgresServer, receiver: StandInReceiver, tmp_path: Path
) -> Iterator[Machines]:
    # whoever is alive must not be taken for dead because the machine is busy
    limit_s = 30.0
    found = Machines(
        tmp_path / "node",
        postgres.database(),
        receiver.port,
        compute=False,
        heartbeat_limit_s=limit_s,
    )
    yield found
    found.end()


@pytest.mark.timeout(600)
def test_cases_when_workers_and_a_serve_die_are_delivered_once(
    machines: Machines, receiver: StandInReceiver, cases: CheapCases, tmp_path: Path
) -> None:
    """Issue 8, point 7: a serve killed, a worker stopped and waking later, another one killed.

    Two cases come in through two serves. One serve is killed when it has answered and before it
    filed anything: the other one files for it. Two workers compute. One is stopped; the other
    takes its case, too, and is killed over it. The stopped one wakes: what it made by itself is not
    believed, and then it takes up its own case.
    """
    first, second = machines.serve("a"), machines.serve("b")
    for process in machines.processes:
        process.wait_until_ready()
    with filing_held_up(machines):
        answered = first.send(cases.write(tmp_path / "case-1", 1))
        first.end(signal.SIGKILL)
    answered += second.send(cases.write(tmp_path / "case-2", 2))
    assert len(answered) == 2 * cases.objects
    wait_for(lambda: machines.states() == {"ready": 2}, timeout_s=480, what="both cases")
    workers = [machines.worker("c"), machines.worker("d")]
    wait_for(
        lambda: all(begun_by(w) for w in workers), timeout_s=480, what="both cases to be computed"
    )
    killed, stopped = sorted(workers, key=lambda w: min(begun_by(w).values()))
    stopped.send_signal(signal.SIGSTOP)
    wait_for(
        lambda: begun_by(stopped).keys() <= begun_by(killed).keys(),
        timeout_s=480,
        what="the stopped worker's case to be taken over",
    )
    killed.end(signal.SIGKILL)
    stopped.send_signal(signal.SIGCONT)
    wait_for(lambda: "case.overtaken" in log_of(stopped), timeout_s=480, what="it to be refused")
    machines.wait_until_delivered(2)
    assert second.end() == 0
    assert stopped.end(signal.SIGHUP) == 0, "as after the loss of its terminal"
    check_each_once(machines, receiver, answered)
    left = list((machines.data / "work").glob(f"{stopped.config.stem}.worker-1/*"))
    assert left == [], "it left nothing lying about"
    assert "receiving.taken_over" in log_of(second)
    assert "process.taken_over" in log_of(killed) + log_of(second)
    dead = ["a.serve", f"{killed.config.stem}.worker-1"]
    assert machines.lives() == dead, "the dead have not left"


@contextmanager
def filing_held_up(machines: Machines) -> Iterator[None]:
    """Let nobody write into the index what was received, for a block."""
    with machines.index() as index, index.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE instances IN EXCLUSIVE MODE")
        yield


def check_each_once(machines: Machines, receiver: StandInReceiver, answered: list[str]) -> None:
    """Check that nothing is lost, doubled, or delivered under two UIDs."""
    indexed = [uid for (uid,) in machines.rows("SELECT sop_instance_uid FROM instances")]
    assert sorted(indexed) == sorted(answered)
    closed = {outcome for (outcome,) in machines.rows("SELECT outcome FROM associations")}
    assert closed == {"node stopped", "released"}, "no association is left open"
    found = machines.cases()
    assert [(case.state, case.revision) for case in found] == [("delivered", 1)] * len(found)
    for case in found:
        assert [page["state"] for page in case.history].count("delivering") == 1
    made = {uid for (uid,) in machines.rows("SELECT sop_instance_uid FROM results")}
    assert set(receiver.kept) == made
    assert all(len(set(versions)) == 1 for versions in receiver.receipts.values())


def test_worker_with_sqlite_is_refused(tmp_path: Path) -> None:
    """SQLite is for one process: a clear line and exit code 2."""
    config = Machines(tmp_path, "", 11113).configured("w", 0)
    refused = hilum_here("worker", "--config", str(config))
    assert refused.returncode == 2
    assert "node.database: workers need PostgreSQL" in refused.stderr


def begun_by(process: HilumProcess) -> dict[str, str]:
    """Return when a worker began to compute which cases."""
    whole = [line for line in log_of(process).splitlines() if line.endswith("}")]
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    # the first step of each stands: later ones come before it here
    return {x["case_id"]: x["time"] for x in reversed(lines) if x["event"] == "case.step"}


def log_of(process: HilumProcess) -> str:
    return process.log.read_text(encoding="utf-8")
