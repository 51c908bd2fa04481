"""Damages data sets at random, by the hundred thousand, and judges what is read of each.

    python -m tests.fuzz.data_sets [--cases 1000000] [--seed 1] [--longest-s 5] [--real FOLDER]

Run by hand, from the project's folder. Prints how many cases a second were read, the distinct
outcomes, the slowest case and the peak memory of the process; writes each case that breaks a rule
of `tests.damaged_objects.outcome_of`, or takes too long, to a file, and exits 1 if there is one.
A case depends on seed and number alone: `--first N --cases 1` repeats case N.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from node.element_reader import encoded_from_file
from node.errors import UnreadableObjectError
from tests.damaged_objects import Original, damaged, originals, outcome_of

LARGEST_REAL_BYTES = 1 << 20
SHOWN_OUTCOMES = 60


@dataclass(slots=True)
class Run:
    """What came of many cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    slowest_s: float = 0.0
    slowest_case: int = 0
    seconds: float = 0.0


def real_originals(folder: Path) -> list[Original]:
    """Return real objects, the first of each folder, cut to none: small ones only."""
    found = []
    for one in sorted({path.parent for path in folder.rglob("*.dcm")}):
        path = min(one.glob("*.dcm"))
        if path.stat().st_size <= LARGEST_REAL_BYTES:
            try:
                syntax, raw = encoded_from_file(path)
            except UnreadableObjectError:
                continue
            found.append(Original(raw, syntax))
    return found


def fuzz(first: int, cases: int, seed: int, longest_s: float, some: list[Original]) -> Run:
    """Run the cases; keep those that fail in a folder whose name is printed."""
    run, folder = Run(), Path(tempfile.mkdtemp(prefix="hilum-fuzz-"))
    begin_s = time.perf_counter()
    for number in range(first, first + cases):
        case = damaged(random.Random(f"{seed}-{number}"), some)
        start_s = time.process_time()
        try:
            run.outcomes[outcome_of(case).text] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            run.failures += 1
            _keep(folder, number, case, traceback.format_exc())
        took_s = time.process_time() - start_s
        if took_s > run.slowest_s:
            run.slowest_s, run.slowest_case = took_s, number
        if took_s > longest_s:
            run.failures += 1
            _keep(folder, number, case, f"took {took_s:.1f} s")
    run.seconds = time.perf_counter() - begin_s
    return run


def _keep(folder: Path, number: int, case: Original, why: str) -> None:
    path = folder / f"case-{number}"
    path.write_bytes(case.raw)
    print(f"case {number}: {path} ({case.syntax})\n{why}", flush=True)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=5.0)
    parser.add_argument("--real", type=Path, help="a folder of real objects, damaged as well")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, of odd character sets
    some = originals() + (real_originals(asked.real) if asked.real else [])
    run = fuzz(asked.first, asked.cases, asked.seed, asked.longest_s, some)
    for text, count in run.outcomes.most_common(SHOWN_OUTCOMES):
        print(f"{count:9}  {text}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{asked.cases} cases of {len(some)} originals, seed {asked.seed}: "
        f"{asked.cases / run.seconds:.0f} cases/s, {len(run.outcomes)} outcomes, "
        f"{run.failures} failures; slowest {run.slowest_s:.3f} s (case {run.slowest_case}); "
        f"peak {peak_mib:.0f} MiB"
    )
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
