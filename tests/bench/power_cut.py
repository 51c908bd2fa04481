"""Power cuts, simulated at many moments of one recorded load; nothing answered is lost.

    python -m tests.bench.power_cut [--runs 4] [--cuts 50] [--seed 1] [--node-keys KEYS]

Run by hand, from the project's folder; needs a C compiler. In each run four senders push distinct
objects to a node whose changes of the disk and answers are recorded (tests/forgetful_disk.py).
Then the disk is made anew as it would be after a cut at a random point of the record, half of them
right behind an answer, under each of the rules in turn; a node is started on it and judged. The
node that recovers from a cut is recorded, too, and every fifth time cut again before it is judged.
Prints what was found by rule, and exits 1 if a promise was broken.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.forgetful_disk import (
    AS_KILLED,
    RULES,
    Record,
    Recorder,
    Rule,
    differences,
    lay_out,
    read_log,
    snapshot,
    surviving,
)
from tests.raw_sender import SUCCESS, answers_in
from tests.sending_load import SendingLoad
from tests.serve_process import ServeProcess, end_in_order_when_terminated, verdict_on

AGAIN_EVERY = 5
LOAD_AGAIN_S = 0.5
"""How long a node that recovered is under load before the second cut."""
SETTLE_S = 1.0
"""How long a node is idle before it is killed and the record read."""


@dataclass(frozen=True, slots=True)
class RecordedLoad:
    """What a node did with its data folder under load.

    Attributes:
        root: The data folder.
        before: What lay in it when the node began.
        records: What happened, in order.
        sent: SHA-256 by SOP Instance UID, of all that was begun, here or earlier.
        answered_at: Position in `records` at which Success was sent, by SOP Instance UID; -1 if
            before.
    """

    root: Path
    before: dict[str, tuple[int, bytes | None]]
    records: list[Record]
    sent: dict[str, str]
    answered_at: dict[str, int]

    def answered_before(self, cut: int) -> set[str]:
        """Return the objects whose Success was sent before a cut."""
        return {uid for uid, at in self.answered_at.items() if at < cut}


def record_load(
    folder: Path,
    recorder: Recorder,
    seconds: float,
    *,
    load: SendingLoad | None = None,
    answered: frozenset[str] = frozenset(),
    node_keys: str = "",
    at_least: int = 0,
) -> RecordedLoad:
    """Start a node on `folder`/data, as that lies there, send for some time, and read.

    `at_least` so many objects are answered, however long that takes.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    log, load = folder / "disk.log", load or SendingLoad()
    load.message_of.clear()
    log.unlink(missing_ok=True)
    before = snapshot(folder / "data")
    environment = recorder.environment(folder / "data", log)
    with ServeProcess(folder, node_keys=node_keys, environment=environment).ending() as node:
        node.start()
        load.start(node.port)
        load.wait_for_answers(at_least)
        time.sleep(seconds)
        load.stop()
        time.sleep(
            SETTLE_S
        )  # else a change may be carried out, and the kill come before its record
        node.kill_group()
    assert load.errors == []
    records, answered_at = read_log(log), dict.fromkeys(answered, -1)
    for position, record in enumerate(records):
        for answer in answers_in(record.content) if record.kind == "N" else ():
            uid = load.message_of.get((record.port, answer.message_id))
            if uid is not None and answer.status == SUCCESS:
                answered_at.setdefault(uid, position)
    assert load.answered <= set(answered_at), "an answer came that was not recorded"
    return RecordedLoad((folder / "data").resolve(), before, records, dict(load.sent), answered_at)


def unseen_changes(run: RecordedLoad) -> list[str]:
    """Return in which files the record, replayed, differs from what really lies there."""
    found = surviving(run.root, run.before, run.records, AS_KILLED, random.Random(0))
    return differences(found, run.root)


def cut_point(run: RecordedLoad, rng: random.Random) -> int:
    """Return a moment: half of the time any, else right behind an answer."""
    answers = [at for at in run.answered_at.values() if at >= 0]
    if answers and rng.random() < 0.5:
        return min(len(run.records), rng.choice(answers) + rng.randint(1, 3))
    return rng.randint(0, len(run.records))


def judge_cut(
    run: RecordedLoad, cut: int, rule: Rule, rng: random.Random, folder: Path, node_keys: str = ""
) -> list[str]:
    """Start a node on what a cut leaves and return how it breaks the promise."""
    lay_out(surviving(run.root, run.before, run.records[:cut], rule, rng), folder / "data")
    with ServeProcess(folder, node_keys=node_keys).ending() as node:
        node.start()
        verdict = verdict_on(node.data, run.sent, run.answered_before(cut))
    return [f"cut {cut} of {len(run.records)}, {rule}: {text}" for text in verdict.problems]


def judge_second_cut(
    run: RecordedLoad,
    rule: Rule,
    rng: random.Random,
    folder: Path,
    recorder: Recorder,
    node_keys: str = "",
) -> list[str]:
    """Cut, let a node recover and receive, cut that again, and judge."""
    cut = cut_point(run, rng)
    lay_out(surviving(run.root, run.before, run.records[:cut], rule, rng), folder / "data")
    load = SendingLoad(first_number=1_000_000)
    load.sent.update(run.sent)
    second = record_load(
        folder,
        recorder,
        LOAD_AGAIN_S,
        load=load,
        answered=frozenset(run.answered_before(cut)),
        node_keys=node_keys,
    )
    again = folder / "again"
    problems = judge_cut(second, cut_point(second, rng), rule, rng, again, node_keys)
    shutil.rmtree(again)
    return [f"second cut after {cut}: {text}" for text in problems]


def main() -> int:
    """Record, cut, judge, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--cuts", type=int, default=50, help="for each run")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of load, recorded, for each run"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--node-keys", default="", help="more keys of [node]")
    options = parser.parse_args()
    end_in_order_when_terminated()
    rng, cuts, problems = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        recorder = Recorder.compiled("cc", top)
        for number in range(options.runs):
            load = top / f"load-{number}"
            run = record_load(load, recorder, options.seconds, node_keys=options.node_keys)
            unseen = [f"not recorded: {text}" for text in unseen_changes(run)]
            print("\n".join(unseen), end="\n" if unseen else "")
            problems += unseen
            print(f"run {number}: {len(run.records)} records, {len(run.answered_at)} answers")
            for at in range(options.cuts):
                rule, folder = RULES[at % len(RULES)], top / "cut"
                if at % AGAIN_EVERY == AGAIN_EVERY - 1:
                    found = judge_second_cut(run, rule, rng, folder, recorder, options.node_keys)
                else:
                    found = judge_cut(
                        run, cut_point(run, rng), rule, rng, folder, options.node_keys
                    )
                shutil.rmtree(folder)
                cuts[str(rule)] += 1
                problems += found
                print("\n".join(found), end="\n" if found else "", flush=True)
            shutil.rmtree(load)
    for rule_name, count in cuts.items():
        print(f"{count:4} cuts: {rule_name}")
    print(f"{len(problems)} broken promises" if problems else "nothing answered was lost")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
