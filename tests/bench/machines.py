"""Two serves and two workers on one PostgreSQL and one folder: what is lost, doubled, and how fast.

    python -m tests.bench.machines [--cases 50] [--limit-s 20] [--few 6] [--only PART]

Alone on the machine, about seven minutes on two cores. Three parts:

kill      cases come in through two serves at once; a serve is killed while they come, a worker
          while it computes; senders go on with the other serve; later both are started again.
speed     so many cases are computed by one worker, then by two, each bound to a core of its own.
overhead  one `hilum serve` computes and delivers cases with SQLite and with PostgreSQL.
"""

import argparse
import json
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from node.errors import DeliveryError
from node.receiver import StandInReceiver
from tests.machines import CheapCases, HilumProcess, Machines
from tests.nodes import wait_for
from tests.postgres import PostgresServer, postgres_server

SENDERS = 4
TRIES = 20
LONG_S = 1200.0


class Sending:
    """Sends cases through several serves at once; what a serve does not take goes to another.

    Attributes:
        answered: SOP Instance UIDs that were answered with success.
        sent: How many cases are through.
    """

    def __init__(self, cases: Sequence[Sequence[Path]]) -> None:
        self.answered: set[str] = set()
        self.sent = 0
        self._cases: Queue[Sequence[Path]] = Queue()
        for case in cases:
            self._cases.put(case)
        self._lock = threading.Lock()
        self.failed = 0

    def through(self, serves: Sequence[HilumProcess]) -> list[threading.Thread]:
        """Begin to send; return the threads."""
        threads = [threading.Thread(target=self._work, args=(serves, n)) for n in range(SENDERS)]
        for thread in threads:
            thread.start()
        return threads

    def _work(self, serves: Sequence[HilumProcess], number: int) -> None:
        while True:
            try:
                case = self._cases.get_nowait()
            except Empty:
                return
            for attempt in range(TRIES):
                serve = serves[(number + attempt) % len(serves)]
                if self._send(serve, case):
                    break
                time.sleep(0.5)
            else:
                self.failed += 1
            self.sent += 1

    def _send(self, serve: HilumProcess, case: Sequence[Path]) -> bool:
        try:
            answered = serve.send(case)
        except DeliveryError:
            return False
        with self._lock:
            self.answered.update(answered)
        return len(answered) == len(case)


@contextmanager
def running(
    folder: Path, database: str, **given: Any
) -> Iterator[tuple[Machines, StandInReceiver]]:
    """Give processes to launch, and a receiver for their results."""
    with StandInReceiver(folder / "tps", "TPS") as receiver:
        machines = Machines(folder / "node", database, receiver.port, **given)
        try:
            yield machines, receiver
        finally:
            machines.end()


def kill_run(server: PostgresServer, folder: Path, cases: int, limit_s: float) -> dict[str, Any]:
    """Return what became of many cases while a serve and a worker were killed."""
    cheap = CheapCases()
    files = [cheap.write(folder / "cases" / str(n), n) for n in range(cases)]
    with running(folder, server.database(), compute=False, heartbeat_limit_s=limit_s) as (
        machines,
        receiver,
    ):
        serves = [machines.serve("a"), machines.serve("b")]
        workers = [machines.worker("c"), machines.worker("d")]
        for process in machines.processes:
            process.wait_until_ready()
        start_s = time.monotonic()
        sending = Sending(files)
        threads = sending.through(serves)
        wait_for(lambda: sending.sent >= cases // 3, timeout_s=LONG_S, what="a third to be sent")
        serves[0].end(signal.SIGKILL)
        killed_s = time.monotonic()
        taken_over_s, begun_again_s = kill_worker(machines, workers[0])
        machines.processes += [again(serves[0]), again(workers[0])]
        for thread in threads:
            thread.join(LONG_S)
        machines.wait_until_delivered(cases, timeout_s=LONG_S)
        return {
            "cases": cases,
            "seconds": round(time.monotonic() - start_s, 1),
            "limit_s": limit_s,
            "case_back_in_its_queue_after_s": taken_over_s,
            "case_begun_again_after_s": begun_again_s,
            "seconds_after_kill": round(time.monotonic() - killed_s, 1),
            "not_sent": sending.failed,
            **account(machines, receiver, sending.answered),
        }


def kill_worker(machines: Machines, worker: HilumProcess) -> tuple[float, float]:
    """Kill a worker while it computes.

    Returns:
        After how many seconds its case was in its queue again, and after how many one of the
        others, which may be computing other cases, had begun it.
    """
    log = worker.log

    def computing() -> str:
        lines = [json.loads(x) for x in log.read_text().splitlines() if x.startswith("{")]
        begun = [x["case_id"] for x in lines if x["event"] == "case.step"]
        ended = {x["case_id"] for x in lines if x["event"] == "case.finished"}
        return begun[-1] if begun and begun[-1] not in ended else ""

    case = wait_for(computing, timeout_s=LONG_S, what="the worker to compute")
    worker.end(signal.SIGKILL)
    start_s = time.monotonic()
    told = f'"{worker.config.stem}.worker-1"'

    def is_taken_over() -> bool:
        logs = [process.log.read_text() for process in machines.processes]
        lines = [line for text in logs for line in text.splitlines()]
        return any("process.taken_over" in line and told in line for line in lines)

    wait_for(is_taken_over, timeout_s=LONG_S, what="the takeover")
    taken_over_s = time.monotonic() - start_s
    query = f"SELECT begun FROM revisions WHERE case_id = '{case}'"  # noqa: S608 - ours
    wait_for(lambda: machines.rows(query)[0][0] > 1, timeout_s=LONG_S, what="another to begin")
    return round(taken_over_s, 1), round(time.monotonic() - start_s, 1)


def again(process: HilumProcess) -> HilumProcess:
    """Start a process anew, as its supervisor does."""
    return HilumProcess(process.role, process.config, process.port).launch()


def account(machines: Machines, receiver: StandInReceiver, answered: set[str]) -> dict[str, Any]:
    """Return what was lost or doubled."""
    indexed = [uid for (uid,) in machines.rows("SELECT sop_instance_uid FROM instances")]
    made = {uid for (uid,) in machines.rows("SELECT sop_instance_uid FROM results")}
    versions = receiver.receipts
    found = machines.cases()
    return {
        "delivered": sum(case.state == "delivered" for case in found),
        "further_revisions": sum(case.revision - 1 for case in found),
        "answered_objects": len(answered),
        "lost_objects": len(answered - set(indexed)),
        "indexed_twice": len(indexed) - len(set(indexed)),
        "result_objects": len(made),
        "results_not_received": len(made - set(receiver.kept)),
        "received_under_other_uids": len(set(receiver.kept) - made),
        "received_more_than_once": sum(len(found) > 1 for found in versions.values()),
        "received_with_other_bytes": sum(len(set(found)) > 1 for found in versions.values()),
    }


def speed_run(server: PostgresServer, folder: Path, cases: int) -> dict[str, Any]:
    """Return how fast one worker and two compute, each bound to a core of its own."""
    seconds = {}
    for workers in (1, 2):
        cheap, here = CheapCases(), folder / f"workers-{workers}"
        files = [cheap.write(here / "cases" / str(n), n) for n in range(cases)]
        with running(here, server.database(), compute=False) as (machines, _):
            serve = machines.serve("a").wait_until_ready()
            for case in files:
                serve.send(case)
            wait_for(lambda: machines.states() == {"ready": cases}, timeout_s=LONG_S, what="cases")
            for n in range(workers):
                machines.worker(f"w{n}", ("taskset", "-c", str(n)))
            machines.wait_until_delivered(cases, timeout_s=LONG_S)
            seconds[workers] = computing_seconds(machines)
    return {
        "cases": cases,
        "one_worker_s": seconds[1],
        "two_workers_s": seconds[2],
        "times_faster": round(seconds[1] / seconds[2], 2),
    }


def computing_seconds(machines: Machines) -> float:
    """Return the time from the first case that was begun to the last that was computed."""
    begun = [at for (at,) in machines.rows("SELECT min(at) FROM history WHERE state = 'running'")]
    ended = [at for (at,) in machines.rows("SELECT max(finished_at) FROM revisions")]
    span = datetime.fromisoformat(ended[0]) - datetime.fromisoformat(begun[0])
    return round(span.total_seconds(), 1)


def overhead_run(server: PostgresServer, folder: Path, cases: int) -> dict[str, Any]:
    """Return what a case costs one `hilum serve` with SQLite and with PostgreSQL."""
    found: dict[str, list[tuple[float, float]]] = {"sqlite": [], "postgresql": []}
    for at, kind in enumerate(("sqlite", "postgresql", "postgresql", "sqlite")):
        database = server.database() if kind == "postgresql" else ""
        found[kind].append(one_serve(folder / f"{at}-{kind}", database, cases))
    wall = {kind: min(wall_s for wall_s, _ in runs) for kind, runs in found.items()}
    cpu = {kind: min(cpu_s for _, cpu_s in runs) for kind, runs in found.items()}
    return {
        "cases": cases,
        "s_per_case": {kind: round(s / cases, 2) for kind, s in wall.items()},
        "cpu_s_per_case": {kind: round(s / cases, 2) for kind, s in cpu.items()},
        "overhead_percent": round(100 * (wall["postgresql"] / wall["sqlite"] - 1), 1),
        "cpu_overhead_percent": round(100 * (cpu["postgresql"] / cpu["sqlite"] - 1), 1),
    }


def one_serve(folder: Path, database: str, cases: int) -> tuple[float, float]:
    """Return the seconds from the first case to the last delivered, and the CPU of the serve."""
    cheap = CheapCases()
    files = [cheap.write(folder / "cases" / str(n), n) for n in range(cases)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with running(folder, database) as (machines, _):
        serve = machines.serve("a").wait_until_ready()
        for case in files:
            serve.send(case)
        machines.wait_until_delivered(cases, timeout_s=LONG_S)
        rows = machines.rows("SELECT min(at), max(at) FROM history WHERE state <> 'waiting'")
        serve.end()
    first, last = (datetime.fromisoformat(at) for at in rows[0])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (last - first).total_seconds(), cpu_s


def main() -> None:
    """Run the parts and print what they found, as JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    options.add_argument("--cases", type=int, default=50, help="cases of the part kill")
    options.add_argument("--limit-s", type=float, default=20.0, help="heartbeat_limit_s there")
    options.add_argument("--few", type=int, default=6, help="cases of the other parts")
    options.add_argument("--only", choices=("kill", "speed", "overhead"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, postgres_server() as server:
        folder = Path(name)
        parts = {
            "kill": lambda: kill_run(server, folder / "kill", chosen.cases, chosen.limit_s),
            "speed": lambda: speed_run(server, folder / "speed", chosen.few),
            "overhead": lambda: overhead_run(server, folder / "overhead", chosen.few),
        }
        for part, run in parts.items():
            if chosen.only in (None, part):
                print(json.dumps({part: run()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
