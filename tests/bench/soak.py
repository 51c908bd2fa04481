"""A long load of small objects over many associations: is everything flat?

    python -m tests.bench.soak [--objects 200000] [--associations 2000] [--parallel 4]

Run by hand, from the project's folder; the whole takes minutes to an hour. Every association
carries the slices of one patient; `--parallel` of them are open at a time. Prints for each tenth of
the objects the rate, the node's memory, threads and open files, and how far the index is behind.
Flat means: the last tenth is no slower than the first by more than 10 %, and memory, threads and
files have not grown since the second tenth beyond the allowances below. Exits 1 if it is not flat,
or if an object is lost.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.receive_extra import CALLED_AE, Served, served
from tests.raw_sender import SUCCESS, ObjectMaker, RawAssociation, store_pdus
from tests.serve_process import end_in_order_when_terminated, index_count

TENTHS = 10
SLOWER_ALLOWED = 0.10
MEMORY_ALLOWED_MIB = 20.0
THREADS_ALLOWED = 4
FILES_ALLOWED = 140
"""The stock of spare files, open beforehand, goes up and down by so many."""
COLUMNS = 128
"""33 kB objects."""


@dataclass(frozen=True, slots=True)
class Tenth:
    """What was seen at the end of a tenth."""

    objects: int
    seconds: float
    memory_mib: float
    own_mib: float
    threads: int
    files: int
    behind: int
    cpu_s: float

    @property
    def rate(self) -> float:
        """Objects answered in a second."""
        return self.objects / self.seconds


def send_association(task: tuple[int, int, int]) -> int:
    """Send one association; return how many objects were answered with success.

    Args:
        task: Port, number of the association, number of its objects.
    """
    port, number, count = task
    maker, good = ObjectMaker(series=number + 1, columns=COLUMNS), 0
    with RawAssociation(port, called_ae=CALLED_AE) as assoc:
        for at in range(count):
            one = maker.object(number * count + at)
            message = b"".join(store_pdus(one, at + 1, assoc.max_pdu_bytes))
            assoc.line.sendall(message)
            good += assoc.answer().status == SUCCESS
    return good


def soak(node: Served, objects: int, associations: int, parallel: int) -> Iterator[Tenth]:
    """Send everything and yield what is seen after each tenth."""
    count = objects // associations
    tasks = ((node.port, number, count) for number in range(associations))
    sent = 0
    with multiprocessing.get_context("spawn").Pool(parallel) as pool:
        pool.map(time.sleep, [0.5] * parallel, chunksize=1)  # until every sender is ready
        for _ in range(TENTHS):
            some = list(itertools.islice(tasks, associations // TENTHS))
            began, cpu_before = time.perf_counter(), node.cpu_s()
            good = sum(pool.imap_unordered(send_association, some))
            seconds = time.perf_counter() - began
            sent += good
            if good != count * len(some):
                raise SystemExit(f"{count * len(some) - good} objects were not answered 0x0000")
            memory = node.memory_mib()
            yield Tenth(
                good,
                seconds,
                memory["VmRSS"],
                memory["RssAnon"],
                node.threads(),
                node.descriptors(),
                sent - index_count(node.data),
                node.cpu_s() - cpu_before,
            )


def lacks_of(tenths: list[Tenth]) -> list[str]:
    """Return in what a soak is not flat."""
    first, second, last = tenths[0], tenths[1], tenths[-1]
    lacks = []
    if last.rate < (1 - SLOWER_ALLOWED) * first.rate:
        lacks.append(f"rate fell from {first.rate:.0f}/s to {last.rate:.0f}/s")
    if last.own_mib > second.own_mib + MEMORY_ALLOWED_MIB:
        lacks.append(f"memory grew from {second.own_mib:.0f} to {last.own_mib:.0f} MiB")
    if last.threads > second.threads + THREADS_ALLOWED:
        lacks.append(f"threads grew from {second.threads} to {last.threads}")
    if last.files > second.files + FILES_ALLOWED:
        lacks.append(f"open files grew from {second.files} to {last.files}")
    return lacks


def main() -> int:
    """Soak, print every tenth, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--associations", type=int, default=2000)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--transport", default="fast")
    parser.add_argument("--folder", type=Path, help="where the data go; 34 kB for each object")
    options = parser.parse_args()
    end_in_order_when_terminated()
    tenths: list[Tenth] = []
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        served(Path(folder) / "node", options.transport) as node,
    ):
        print(
            f"load before: {os.getloadavg()[0]:.2f}; before: {node.memory_mib()['VmRSS']:.0f} MiB, "
            f"{node.threads()} threads, {node.descriptors()} files"
        )
        print(
            "| tenth | objects/s | CPU ms/object | memory MiB | own MiB | threads | files | "
            "index behind |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for tenth in soak(node, options.objects, options.associations, options.parallel):
            tenths.append(tenth)
            print(
                f"| {len(tenths)} | {tenth.rate:.0f} | {1000 * tenth.cpu_s / tenth.objects:.2f} | "
                f"{tenth.memory_mib:.0f} | {tenth.own_mib:.0f} | {tenth.threads} | {tenth.files} | "
                f"{tenth.behind} |",
                flush=True,
            )
        total = sum(tenth.objects for tenth in tenths)
        began = time.perf_counter()
        while index_count(node.data) < total and time.perf_counter() < began + 600:
            time.sleep(0.05)
        indexed = index_count(node.data)
        late_s = time.perf_counter() - began
        print(f"indexed {indexed} of {total}, {late_s:.1f} s after the last answer")
    lacks = lacks_of(tenths) + ([f"{total - indexed} not indexed"] if indexed != total else [])
    print("flat" if not lacks else "NOT FLAT: " + "; ".join(lacks))
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main())
