"""How fast the node receives, beside Orthanc, DCMTK's storescp and plain pynetdicom: one table.

    python -m tests.bench.receive --judge FOLDER [--rounds 10] [--only ROWS] [--transport plain]

Run by hand, from the project's folder, on an otherwise idle machine. The judge is bench.py in
FOLDER (or HILUM_RECEIVE_BENCH), with its corpora, its sender and its plain pynetdicom; it is no
part of the project. Each round starts every target afresh, in a shuffled order; ratios are paired
by round, and their medians are judged. After each run of ours check.py of the judge compares what
is stored, byte for byte. Only the node and Orthanc sync an object before they answer and keep an
index; storescp and plain pynetdicom sync nothing.

The index is filled behind the answers: a second table says how long and with how much CPU. Rows of
`--only`: the names in the first column, with commas; `deferred`, `memory` and `echo-latency` too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.receive_extra import deferred_lines, echo_latency_line, memory_lines
from tests.serve_process import end_in_order_when_terminated

TARGET = Path(__file__).with_name("receive_target.py")
OTHER_ROWS = ("deferred", "memory", "echo-latency")
TIME_LIMIT_S = 7200.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What is demanded: our rate divided by that of another."""

    against: str
    bar: float
    aim: float


@dataclass(frozen=True, slots=True)
class Work:
    """A row: what is sent, how, and what is demanded.

    Attributes:
        corpus: Folder of the corpora.
        arguments: For bench.py.
        beside: Targets that are run, too, without a demand.
    """

    name: str
    title: str
    corpus: str
    arguments: tuple[str, ...]
    bars: tuple[Bar, ...]
    beside: tuple[str, ...] = ()


WORKS = (
    Work(
        "ct-1",
        "CT 0.5 MB, 1 association",
        "ct",
        ("--sender", "raw", "--senders", "1"),
        (Bar("orthanc", 2.2, 3.0), Bar("storescp", 0.65, 1.0)),
        ("pynetdicom",),
    ),
    Work(
        "ct-4",
        "CT 0.5 MB, 4 associations",
        "ct",
        ("--sender", "raw", "--senders", "4"),
        (Bar("orthanc", 1.7, 2.5), Bar("storescp", 0.75, 1.0)),
        ("pynetdicom",),
    ),
    Work(
        "ct-storescu",
        "CT 0.5 MB, storescu sends",
        "ct",
        ("--sender", "storescu", "--senders", "1"),
        (Bar("storescp", 0.9, 1.0),),
    ),
    Work(
        "rt",
        "RTSTRUCT 2 MB + RTDOSE 20 MB",
        "rt",
        ("--sender", "raw", "--senders", "1", "--repeat", "4"),
        (Bar("storescp", 1.3, 1.7),),
    ),
    Work(
        "mr",
        "MR 0.2 MB",
        "mr",
        ("--sender", "raw", "--senders", "1", "--repeat", "2"),
        (Bar("storescp", 0.5, 1.0),),
    ),
    Work(
        "small",
        "34 kB objects",
        "small",
        ("--sender", "raw", "--senders", "1", "--repeat", "4"),
        (Bar("storescp", 0.35, 1.0),),
    ),
    Work(
        "associations",
        "associations (connect, C-ECHO, release)",
        "small",
        ("--sender", "echo", "--echo", "200"),
        (Bar("pynetdicom", 2.5, 10.0),),
        ("storescp", "orthanc"),
    ),
)


def outside_path() -> str:
    """Return PATH without our interpreter's folder: pynetdicom has programs named as DCMTK's."""
    ours = Path(sys.executable).parent.resolve()
    folders = [folder for folder in os.get_exec_path() if Path(folder).resolve() != ours]
    return os.pathsep.join(folders)


def target_commands(judge: Path, keep: Path, transport: str) -> dict[str, str]:
    """Return the commands of all targets, with bench.py's place holders."""
    fast, python = "env TCP_NODELAY=1", sys.executable
    return {
        "hilum": f"{python} {TARGET} {{port}} {{out}} --transport {transport} --keep {keep}",
        "storescp": f"{fast} storescp --fork -od {{out}} {{port}}",
        "orthanc": f"{fast} {judge}/run_orthanc.sh {{port}} {{out}}",
        "pynetdicom": f"{python} {judge}/naive.py --port {{port}} --out {{out}} --mode encoded",
    }


def make_corpora(judge: Path, folder: Path) -> None:
    """Let the judge make its corpora; some half a minute."""
    subprocess.run([sys.executable, str(judge / "gen_corpus.py"), str(folder)], check=True)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is that the rows need."""

    judge: Path
    corpora: Path
    work: Path
    transport: str

    def runs(self, work: Work, rounds: int) -> list[dict[str, Any]]:
        """Return every run of a row, as the judge reports it; what was stored is compared."""
        keep = self.work / "kept"
        keep.mkdir(exist_ok=True)
        commands = target_commands(self.judge, keep, self.transport)
        names = ["hilum", *(bar.against for bar in work.bars), *work.beside]
        targets = [part for name in names for part in ("--target", f"{name}={commands[name]}")]
        corpus = self.corpora / work.corpus
        command = [sys.executable, str(self.judge / "bench.py"), "--corpus", str(corpus), *targets]
        command += ["--rounds", str(rounds), "--work", str(self.work), *work.arguments]
        found = []
        for line in self._lines(command):
            run = json.loads(line)
            if "target" in run:
                found.append(run)
                if run["target"] == "hilum" and "--echo" not in work.arguments:
                    run["is_identical"] = self._is_identical(corpus, keep)
        return found

    def _lines(self, command: Sequence[str]) -> Iterator[str]:
        environment = {**os.environ, "PATH": outside_path()}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as bench:
            assert bench.stdout is not None
            yield from bench.stdout
        if bench.returncode:
            raise SystemExit(f"the judge ended with {bench.returncode}")

    def _is_identical(self, corpus: Path, keep: Path) -> bool:
        stored = next(keep.iterdir(), None)
        if stored is None:
            return False  # the node did not end in time, and the judge removed what it stored
        command = [
            sys.executable,
            str(self.judge / "check.py"),
            str(corpus),
            str(stored / "objects"),
        ]
        answer = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(stored)
        return answer.returncode == 0


def rate(run: dict[str, Any]) -> float | None:
    """Return objects or associations in a second, or None if the run failed in part."""
    if run.get("error") or run.get("ok", run.get("n")) != run.get("n"):
        return None
    found = run.get("assoc_s", run.get("inst_s"))
    return None if found is None else float(found)


def rates_of(runs: list[dict[str, Any]], target: str) -> dict[int, float]:
    """Return rates by round."""
    found = {run["round"]: rate(run) for run in runs if run["target"] == target}
    return {number: value for number, value in found.items() if value is not None}


def reached(value: float, bar: float, aim: float, *, is_less_better: bool = False) -> str:
    """Return which of bar and aim a value reaches."""
    sign = -1 if is_less_better else 1
    if sign * value >= sign * aim:
        return "aim"
    return "bar" if sign * value >= sign * bar else "NO"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return median and range as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


def lines_of(work: Work, runs: list[dict[str, Any]]) -> list[str]:
    """Return a row for each bar, and one for each target that is only looked at."""
    ours, lines = rates_of(runs, "hilum"), []
    for bar in (*work.bars, *(Bar(name, 0.0, 0.0) for name in work.beside)):
        theirs = rates_of(runs, bar.against)
        pairs = [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]
        if not pairs:
            lines.append(
                f"| {work.name} | {work.title} | {bar.against} | no pair of runs | | | | |"
            )
            continue
        demand = f"{bar.bar:g} | {bar.aim:g}" if bar.bar else "- | -"
        verdict = reached(statistics.median(pairs), bar.bar, bar.aim) if bar.bar else "-"
        lines.append(
            f"| {work.name} | {work.title} | {bar.against} | {spread(list(ours.values()))} | "
            f"{spread(list(theirs.values()))} | {spread(pairs, 2)} | {demand} | {verdict} |"
        )
    failed = [run for run in runs if rate(run) is None]
    lines += [f"FAILED {run['target']}: {run}" for run in failed]
    differing = [run for run in runs if run.get("is_identical") is False]
    lines += [f"NOT IDENTICAL in round {run['round']}" for run in differing]
    return lines


def main() -> int:
    """Run the rows and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--judge", type=Path, default=os.environ.get("HILUM_RECEIVE_BENCH"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="names of rows, with commas")
    parser.add_argument("--transport", default="fast")
    parser.add_argument("--corpora", type=Path, help="those of an earlier run; else they are made")
    options = parser.parse_args()
    end_in_order_when_terminated()
    if options.judge is None:
        parser.error("name the judge's folder with --judge or HILUM_RECEIVE_BENCH")
    known = [work.name for work in WORKS] + list(OTHER_ROWS)
    wanted = options.only.split(",") if options.only else known
    if unknown := set(wanted) - set(known):
        parser.error(f"no rows {sorted(unknown)}; there are {known}")
    with tempfile.TemporaryDirectory(dir=options.corpora and options.corpora.parent) as name:
        corpora = options.corpora or Path(name) / "corpora"
        if not corpora.exists():
            make_corpora(options.judge, corpora)
        bench = Bench(Path(options.judge).resolve(), corpora, Path(name), options.transport)
        load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
        print(f"load before: {load}; {os.cpu_count()} CPUs; {options.rounds} rounds\n")
        print("| row | work | against | ours/s | theirs/s | ratio, paired | bar | aim | reached |")
        print("|---|---|---|---|---|---|---|---|---|")
        is_wrong = False
        for work in (work for work in WORKS if work.name in wanted):
            lines = lines_of(work, bench.runs(work, options.rounds))
            print("\n".join(lines), flush=True)
            is_wrong |= any("NO" in line or "FAILED" in line for line in lines)
        for row, lines_for in (
            ("deferred", deferred_lines),
            ("memory", memory_lines),
            ("echo-latency", echo_latency_line),
        ):
            if row in wanted:
                print("\n".join(lines_for(bench.judge, corpora, bench.work, options.transport)))
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
