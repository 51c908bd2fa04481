"""What making an object safe costs, without network: file and journal, by one and by four threads.

    python -m tests.bench.durable_writes [--rounds 10] [--objects 600] [--beside FOLDER]

Run by hand, from the project's folder, on an otherwise idle machine; ten rounds take a minute or
two. Each round starts a process afresh that writes objects of the size of a CT slice as receiving
does: spare file, sync, rename, journal entry, sync. With `--beside` the sources in another folder
(an earlier commit, say) take turns with these, and ratios are paired by round. Prints medians of
objects a second, of CPU time, and of how often a thread waited for each object: that last figure
hardly depends on what else the machine does.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from node.journal import Journal
from node.storage import ObjectStore

OBJECT_BYTES = 530_000
ENTRY = b"x" * 540
"""As long as what the journal keeps of an object."""
THREADS = (1, 4)

Figures = tuple[float, float, float]
"""Objects a second; CPU microseconds and waits for each."""


def measured(threads: int, objects: int, folder: Path) -> Figures:
    """Write the objects and return what that took."""
    store, journal = ObjectStore(folder, 0), Journal(folder / "journal")
    list(journal.open(0))
    journal.make_ready()
    store.receive("1.1").discard()  # from now on there are spare files
    content, waits = os.urandom(OBJECT_BYTES), [0] * threads

    def work(own: int) -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for number in range(objects // threads):
            file = store.receive(f"1.2.{own}.{number}")
            file.write([content])
            file.keep()
            journal.append(ENTRY, lambda _sequence: None)
        waits[own] = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    workers = [threading.Thread(target=work, args=(own,)) for own in range(threads)]
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    store.close()
    journal.close()
    return objects / seconds, 1e6 * cpu_s / objects, sum(waits) / objects


def measured_with(sources: Path, threads: int, objects: int) -> Figures:
    """Return what the sources in a folder take, in a process of their own."""
    own = [str(Path(__file__).resolve()), "--threads", str(threads), "--objects", str(objects)]
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    answer = subprocess.run(
        [sys.executable, *own], check=True, capture_output=True, text=True, env=environment
    )
    rate, cpu_us, waits = map(float, answer.stdout.split())
    return rate, cpu_us, waits


def main() -> int:
    """Take turns and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--threads", type=int, help="only measure, here, and print the figures")
    asked = parser.parse_args()
    if asked.threads is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(*measured(asked.threads, asked.objects, Path(folder)))
        return 0
    ours = Path(__file__).resolve().parents[2]
    sides = [ours] if asked.beside is None else [ours, asked.beside.resolve()]
    print("| threads | sources | objects/s | CPU us/object | waits/object | rate, paired |")
    print("|---|---|---|---|---|---|")
    for threads in THREADS:
        found = [
            [measured_with(side, threads, asked.objects) for side in sides]
            for _ in range(asked.rounds)
        ]
        for at, side in enumerate(sides):
            rate, cpu_us, waits = (
                statistics.median(one[at][figure] for one in found) for figure in range(3)
            )
            paired = statistics.median(one[0][0] / one[at][0] for one in found)
            print(
                f"| {threads} | {side} | {rate:.0f} | {cpu_us:.0f} | {waits:.2f} | {paired:.2f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
