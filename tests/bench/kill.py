"""SIGKILL of the node at random moments under load from four senders; nothing answered is lost.

    python -m tests.bench.kill [--kills 200] [--seed 1] [--longest-s 1.5] [--node-keys KEYS]

Run by hand, from the project's folder. Each time the node is started, what it kept so far is
judged, four senders push distinct objects, and the node is killed: in turn the process alone and,
with `kill -9` of the group, everything that it started. Every third time the kill comes already
while the node recovers. Prints what was answered and kept, and exits 1 if a promise was broken. A
kill leaves to the kernel what was written: what a power cut leaves is in tests/bench/power_cut.py.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.sending_load import SendingLoad
from tests.serve_process import (
    ServeProcess,
    Verdict,
    beside_objects,
    end_in_order_when_terminated,
    index_count,
    verdict_on,
)

JUDGED_EVERY = 10
"""After so many kills everything is read and compared; and after the last."""


@dataclass(slots=True)
class KillReport:
    """What came of a number of kills."""

    kills: int = 0
    answered: int = 0
    begun: int = 0
    kept_unanswered: int = 0
    unindexed: int = 0
    recovery_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    beside: dict[str, int] = field(default_factory=dict)


def kill_often(
    node: ServeProcess, *, kills: int, longest_s: float, seed: int, at_least: int = 0
) -> KillReport:
    """Kill a node under load again and again and judge what it kept.

    Args:
        node: Not started yet.
        kills: How often.
        longest_s: Longest time of load before a kill.
        seed: Of the moments.
        at_least: How many objects are answered before each kill, however long that takes.
    """
    moments, load, report = random.Random(seed), SendingLoad(), KillReport()
    for number in range(kills):
        began = time.monotonic()
        node.start()
        report.recovery_s.append(time.monotonic() - began)
        if number % JUDGED_EVERY == 0:
            _judge(node, load, report)
        load.start(node.port)
        load.wait_for_answers(at_least)
        time.sleep(moments.uniform(0.0, longest_s))
        if load.errors:
            report.problems.append(f"a sender ended before the kill: {load.errors}")
        (node.kill, node.kill_group)[number % 2]()
        load.join()
        node.kill_group()
        report.kills += 1
        if number % 3 == 2:
            _kill_in_recovery(node, moments)
    node.start()
    last = _judge(node, load, report)
    report.kept_unanswered = last.indexed - len(load.answered)
    report.unindexed = len(last.unindexed)
    report.answered, report.begun = len(load.answered), len(load.sent)
    report.problems += [f"refused with 0x{status:04X}" for status in load.refused]
    report.beside = beside_objects(node.data)
    return report


def _judge(node: ServeProcess, load: SendingLoad, report: KillReport) -> Verdict:
    verdict = verdict_on(node.data, load.sent, load.answered)
    report.problems += [f"after {report.kills} kills: {text}" for text in verdict.problems]
    return verdict


def _kill_in_recovery(node: ServeProcess, moments: random.Random) -> None:
    """Kill a node that was just started, as early as its interpreter or as late as its listener."""
    node.launch()
    time.sleep(moments.uniform(0.0, 2.0))
    node.kill_group()


def main() -> int:
    """Kill, and print what was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=1.5)
    parser.add_argument(
        "--node-keys", default="", help="more keys of [node], as 'transport = \"plain\"'"
    )
    options = parser.parse_args()
    end_in_order_when_terminated()
    with (
        tempfile.TemporaryDirectory() as folder,
        ServeProcess(Path(folder) / "node", node_keys=options.node_keys).ending() as node,
    ):
        report = kill_often(
            node, kills=options.kills, longest_s=options.longest_s, seed=options.seed
        )
        indexed = index_count(node.data)
    slowest = max(report.recovery_s)
    print(f"kills {report.kills}, objects begun {report.begun}, answered {report.answered}")
    print(f"indexed {indexed}, of them never answered {report.kept_unanswered}")
    print(f"whole files of objects never answered, not indexed: {report.unindexed}")
    print(f"start until it listens: slowest {slowest:.1f} s")
    print("in the data folder beside objects:", report.beside)
    print("\n".join(report.problems) or "nothing answered was lost, nothing was torn, no leavings")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
