"""What an index of a million instances and fifty thousand cases costs, beside an almost empty one.

    python -m tests.bench.growth [--cases 50000] [--rounds 5] [--folder DIR]

Run by hand, from the project's folder, on an otherwise idle machine with 6 GB of room. The small
index has as many cases as fill a page. Both are asked in turns; of each cost the least is taken, as
a ratio of the large index to the small one. What people and the schedule ask is asked here and told
as processor time, SQLite's included; receiving and starting are those of `hilum serve`, by the
clock. At last the memory of one that has nothing to do.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.config import read_config
from node.delivery import InstanceOutcome, send_instances
from node.index import Index
from node.index.case_rows import CASES
from node.index.deliveries import DeliveryBook
from node.index.instances import InstanceBook, patient_key_of
from node.index.runs import RunBook
from node.schedule import Schedule
from node.web.app import make_app
from node.web.desk import Desk
from node.workflow import Workflow
from tests.bench.grown_index import Pattern, case_id_of, fill, newcomer, pattern
from tests.nodes import wait_for, write_datasets
from tests.receiving_node import ct
from tests.serve_process import ServeProcess, end_in_order_when_terminated
from tests.web_clients import Browser

BAR = 1.3
"""Cost on the large index, as a multiple of that on the small one."""

MOST_MEMORY_MIB = 300.0
SMALL_CASES = 100
OBJECTS = 300
"""Sent in each round of receiving."""

TIMES = 25
"""How often a question is asked in a round."""

TOO_SHORT_S = 0.001
"""Nobody notices less: a difference below it breaks no bar."""


SETTLING_S = 15.0
"""After its start, until its memory is read."""

PEERS = """\
[[peer]]
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = 9
roles = ["receive"]

[[protocol]]"""


class Side:
    """One index, the node over it, and what things cost there.

    Args:
        folder: Gets configuration, data and log.
        cases: How many it has at first.

    Attributes:
        costs: In seconds, by what was measured.
    """

    def __init__(self, folder: Path, cases: int) -> None:
        self.folder, self.cases = folder, cases
        self.costs: dict[str, list[float]] = {}
        self.serve = ServeProcess(folder, node_keys="echo_every_min = 0")
        text = self.serve.config.read_text(encoding="utf-8")
        for old, new in (
            ("destinations = []", 'destinations = ["tps"]'),
            ("[[protocol]]", PEERS),
            ("enabled = false", "port = 0"),
            ("incomplete_s = 4.0", "incomplete_s = 1e7"),
        ):
            text = text.replace(old, new)
        self.serve.config.write_text(text, encoding="utf-8")
        self.config = read_config(self.serve.config)
        self.config = self.config.model_copy(
            update={"node": self.config.node.model_copy(update={"data": self.serve.data})}
        )

    def note(self, what: str, seconds: float) -> None:
        """Keep what something cost."""
        self.costs.setdefault(what, []).append(seconds)

    @contextmanager
    def index(self) -> Iterator[Index]:
        """Open the index."""
        index = Index(self.config.node.database_url)
        index.create()
        try:
            yield index
        finally:
            index.close()

    def fill(self, one: Pattern) -> None:
        """Write its cases, unless an earlier run has."""
        began = time.perf_counter()
        with self.index() as index:
            with index.read() as connection:
                if connection.scalar(sa.select(CASES.c.case_id).limit(1)) is not None:
                    return
            instances = fill(index, self.cases, one)
        spent = time.perf_counter() - began
        print(f"{self.cases} cases, {instances} instances: written in {spent:.0f} s", flush=True)

    # --- asked in this process ---------------------------------------------------------------

    def ask(self, seed: int) -> None:
        """Time what people and scripts look at."""
        middle = (self.cases // 2 + 7 * seed) % (self.cases - 60)
        with self.index() as index:
            browser = Browser(make_app(Desk(self.config, index, lambda: datetime.now(UTC))))
            older = browser.get("/api/v1/cases").json()["older"]
            case = case_id_of(middle)
            for what, address in (
                ("case list", "/api/v1/cases"),
                ("case list, by state", "/api/v1/cases?state=delivered"),
                ("case list, searched", f"/api/v1/cases?text=GROWN-{middle}"),
                ("case list, second page", f"/api/v1/cases?older={older}"),
                ("case list, as a page", "/"),
                ("case", f"/api/v1/cases/{case}"),
                ("case, as a page", f"/cases/{case}"),
                ("peers", "/api/v1/peers"),
                ("associations", "/api/v1/associations"),
            ):
                for time_ in range(TIMES):
                    began = time.process_time()
                    answer = browser.get(address)
                    spent = time.process_time() - began
                    if answer.status_code != HTTPStatus.OK:
                        raise AssertionError(f"{address}: {answer.status_code} {answer.text[:200]}")
                    if time_:  # the first one fills caches of the process
                        self.note(what, spent)

    def assemble(self, one: Pattern, number: int) -> None:
        """Time a look at what came: one new patient, then nobody."""
        with self.index() as index:
            workflow = cast(Workflow, None)  # of a look, nothing is started
            schedule = Schedule(self.config, index, workflow, lambda: datetime.now(UTC))
            began = time.process_time()
            schedule.resume()
            schedule.look()
            self.note("schedule at the start", time.process_time() - began)
            book = InstanceBook(index)
            arrivals = newcomer(one, number, datetime.now(UTC))
            began = time.process_time()
            book.add_instances(arrivals)
            self.note("filing of a case", time.process_time() - began)
            began = time.process_time()
            schedule.look()
            self.note("assembly of a new case", time.process_time() - began)
            with index.read() as connection:
                key = arrivals[0].header
                found = connection.scalar(
                    sa.select(sa.func.count()).where(CASES.c.patient_key == patient_key_of(key))
                )
            if found != 1:
                raise AssertionError(f"{found} cases were made of one")
            for _ in range(TIMES):
                began = time.process_time()
                schedule.look()
                RunBook(index).due(datetime.now(UTC))
                DeliveryBook(index).due(datetime.now(UTC))
                self.note("tick without news", time.process_time() - began)

    # --- the running node --------------------------------------------------------------------

    def run(self, paths: Sequence[Path]) -> None:
        """Time start and receiving."""
        began = time.perf_counter()
        with self.serve:
            self.note("start", time.perf_counter() - began)
            before = self._newest()
            began = time.perf_counter()
            answers = send_instances(self.serve.peer(), "SCANNER", list(paths), timeout_s=60)
            self.note("C-STORE of an object", (time.perf_counter() - began) / len(paths))
            if any(answer.outcome is not InstanceOutcome.SENT for answer in answers):
                raise AssertionError("an object was refused")
            wait_for(lambda: self._newest() >= before + len(paths), timeout_s=60, what="filing")
            self.note("C-STORE until it is filed", (time.perf_counter() - began) / len(paths))

    def _newest(self) -> int:
        with closing(
            sqlite3.connect(f"file:{self.serve.data / 'index.sqlite'}?mode=ro", uri=True)
        ) as db:
            return int(db.execute("SELECT coalesce(max(id), 0) FROM instances").fetchone()[0])

    def idle_memory_mib(self) -> float:
        """Return the resident memory of a node that has nothing to do."""
        with self.serve:
            time.sleep(SETTLING_S)
            status = Path(f"/proc/{self.serve.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


def objects_to_send(folder: Path, number: int) -> list[Path]:
    """Write the objects of one round: slices of a patient whom nobody has seen."""
    uids = {
        "StudyInstanceUID": f"1.2.826.0.7.{number}",
        "SeriesInstanceUID": f"1.2.826.0.8.{number}",
    }
    made = [
        ct(n, SOPInstanceUID=f"1.2.826.0.9.{number}.{n}", PatientID=f"NEW-{number}", **uids)
        for n in range(OBJECTS)
    ]
    for ds in made:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return write_datasets(made, folder)


def table(small: Side, large: Side) -> tuple[list[str], bool]:
    """Return the lines of the table, and whether every ratio keeps its bar."""
    lines = [f"{'':28} {'small ms':>9} {'large ms':>9} {'ratio':>7}"]
    is_met = True
    for what, costs in small.costs.items():
        # the least is the cost itself: what comes on top is the machine's other work
        few, many = min(costs), min(large.costs[what])
        is_within = many / few <= BAR or many - few < TOO_SHORT_S
        is_met &= is_within
        mark = "" if is_within else f"  above {BAR}"
        lines.append(f"{what:28} {few * 1e3:9.2f} {many * 1e3:9.2f} {many / few:7.2f}{mark}")
    return lines, is_met


def main() -> int:
    """Fill both indexes, ask them in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="keeps the indexes, and has those of an earlier run"
    )
    asked = parser.parse_args()
    end_in_order_when_terminated()
    with ExitStack() as stack:
        root = asked.folder
        if root is None:
            made = tempfile.TemporaryDirectory(prefix="hilum-growth-")
            root = Path(stack.enter_context(made))
        small, large = Side(root / "small", SMALL_CASES), Side(root / "large", asked.cases)
        with tempfile.TemporaryDirectory(prefix="hilum-pattern-") as name:
            one = pattern(Path(name), small.config)
        for side in (small, large):
            side.fill(one)
        first = int(time.time())  # a name for those who come now: nobody has seen them
        for turn in range(first, first + asked.rounds):
            for side in (small, large) if turn % 2 else (large, small):
                side.ask(turn - first)
                side.assemble(one, turn)
                side.run(objects_to_send(side.folder / f"new-{turn}", turn))
        lines, is_met = table(small, large)
        print("\n".join(lines))
        memory = large.idle_memory_mib()
        print(
            f"memory of an idle node over the large index: {memory:.0f} MiB "
            f"(bar {MOST_MEMORY_MIB:.0f})"
        )
    return 0 if is_met and memory < MOST_MEMORY_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
