"""Refinement of the target: the tables that show whether it is closer to the truth, and safe.

    python tests/bench/refinement.py kit --seeds 12 --first N [--hard]
    python tests/bench/refinement.py faults --seeds 12 --first N [--hard] [--through-registration]
    python tests/bench/refinement.py hidden --seeds 12 --first N [--by gas scar]
    python tests/bench/refinement.py ablation --seeds 12 --first N [--hard]
    HILUM_REAL_DATA=FOLDER python tests/bench/refinement.py sarcoma --out PICTURES

All make their own cases (a minute each, kept in --cache), every case is refined in a process of its
own, and --jobs of them run at once. The seconds are CPU seconds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from node.phantom.options import HiddenBy
from tests.bench import refinement_ablation as ablation
from tests.bench import refinement_faults as faults
from tests.bench import refinement_sarcoma as sarcoma
from tests.bench.refinement_cases import KitSpec, in_own_processes, load, prepare
from tests.bench.refinement_measures import HARM_DSC, SIMPLE_ANSWERS, Row, measured

MOST_THROUGH_REGISTRATION = 6
CACHE = Path(tempfile.gettempdir()) / "hilum-refinement-cases"

HEADING = (
    f"{'case':12s} {'MR':7s} {'answer':9s} {'DSC':11s} {'HD95 mm':9s} {'surface mm':10s} "
    f"{'volume %':9s} {'vessel cm3':10s} {'CPU s':>5s} {'MiB':>5s} {'error of stated mm':18s} "
    "registration"
)
"""Figures of the drawn contour, then of the answer; the error is that of the worst contrast."""


def measured_file(path: Path) -> Row:
    """Return what was measured on a kept case."""
    return measured(load(path))


def line(row: Row) -> str:
    """Return the line of one case."""
    drawn, now = row.figures["drawn"], row.figures["refined"]
    return (
        f"{row.name:12s} {'useful' if row.is_useful else 'useless':7s} "
        f"{'refined' if row.is_refined else 'abstained':9s} {drawn.dsc:.3f} {now.dsc:.3f} "
        f"{drawn.hd95_mm:4.1f} {now.hd95_mm:4.1f} {drawn.surface_mm:4.2f} {now.surface_mm:4.2f}  "
        f"{drawn.volume_percent:+4.0f} {now.volume_percent:+4.0f} {drawn.vessel_cm3:4.2f} "
        f"{now.vessel_cm3:4.2f}  {row.cpu_s:5.1f} {row.peak_mib:5.0f}  {row.error_mm:4.1f} of "
        f"{row.uncertainty_mm:4.1f}       {row.registration}"
        f"{'  WORSE THAN DRAWN' if row.is_harmed else ''}"
    )


def comparison(rows: Sequence[Row]) -> None:
    """Print the answer beside the simple ones: mean and worst."""
    print(
        f"\n{'answer':16s} {'DSC mean worst':>14s} {'HD95 mean worst':>16s} "
        f"{'surface mean worst':>19s} {'volume bias, mean |error|, worst %':>35s} "
        f"{'vessel mean worst':>18s} {'worse than drawn':>17s}"
    )
    for name in ("refined", *SIMPLE_ANSWERS):
        found = [row.figures[name] for row in rows]
        volume = np.array([one.volume_percent for one in found])
        worse = sum(row.figures[name].dsc < row.figures["drawn"].dsc - HARM_DSC for row in rows)
        dsc, hd95, surface, vessel = (
            np.array([getattr(one, key) for one in found])
            for key in ("dsc", "hd95_mm", "surface_mm", "vessel_cm3")
        )
        print(
            f"{name:16s} {dsc.mean():8.3f} {dsc.min():5.3f} {hd95.mean():10.2f} "
            f"{hd95.max():5.2f} {surface.mean():13.2f} {surface.max():5.2f} "
            f"{volume.mean():+16.1f} {np.abs(volume).mean():9.1f} "
            f"{np.abs(volume).max():8.1f} {vessel.mean():12.3f} {vessel.max():5.2f} "
            f"{worse:10d} of {len(rows)}"
        )


def bars(rows: Sequence[Row]) -> None:
    """Print every figure of the issue with its bar and aim; `rows` are of useful MR."""
    now = [row.figures["refined"] for row in rows]
    volume = np.array([one.volume_percent for one in now])
    abstained = sum(not row.is_refined for row in rows)
    told: list[tuple[str, float, float, float]] = [
        ("DSC, mean (at least)", float(np.mean([one.dsc for one in now])), 0.87, 0.90),
        ("cases worse than drawn by > 0.01", sum(row.is_harmed for row in rows), 0, 0),
        ("HD95, mean, mm", float(np.mean([one.hd95_mm for one in now])), 2.5, 2.0),
        ("surface distance, mean, mm", float(np.mean([one.surface_mm for one in now])), 0.60, 0.45),
        ("volume error, mean of |error|, %", float(np.abs(volume).mean()), 15, 10),
        ("volume error, |bias|, %", float(abs(volume.mean())), 8, 3),
        ("vessel left, mean, cm3", float(np.mean([one.vessel_cm3 for one in now])), 0.08, 0.04),
        ("false abstentions of 12", 12.0 * abstained / len(rows), 1, 0),
        ("CPU seconds, worst", max(row.cpu_s for row in rows), 5, 3),
        ("memory of the process, worst, GiB", max(row.peak_mib for row in rows) / 1024, 1, 1),
    ]
    print(f"\n{'figure, useful MR only':36s} {'measured':>8s} {'bar':>6s}          {'aim':>6s}")
    for name, value, bar, aim in told:
        sign = -1 if "at least" in name else 1
        verdicts = ["met" if sign * value <= sign * limit else "NOT met" for limit in (bar, aim)]
        print(f"{name:36s} {value:8.3f} {bar:6.2f} {verdicts[0]:8s} {aim:6.2f} {verdicts[1]}")
    best = max(np.mean([row.figures[name].dsc for row in rows]) for name in SIMPLE_ANSWERS)
    better = "met" if np.mean([one.dsc for one in now]) > best else "NOT met"
    print(f"{'DSC, mean, best of the simple answers':36s} {best:7.3f}  must be better: {better}")


def kit(arguments: argparse.Namespace) -> None:
    """The table of the kit."""
    paths = prepare(specs(arguments), arguments.cache, arguments.jobs)
    print(HEADING)
    rows = []
    for row in in_own_processes(measured_file, paths, arguments.jobs):
        rows.append(row)
        print(line(row), flush=True)
        if not row.is_refined:
            for reason in row.reasons[:4]:
                print(f"{'':13s}{reason[:136]}")
    useless = [row for row in rows if not row.is_useful]
    useful = [row for row in rows if row.is_useful]
    if useful:
        comparison(useful)
        bars(useful)
    if useless:
        kept = sum(not row.is_refined for row in useless)
        is_met = "met" if kept == len(useless) else "NOT met"
        print(f"useless MR: abstained on {kept} of {len(useless)}: {is_met}")


def planted(arguments: argparse.Namespace) -> None:
    """The table of the planted faults."""
    wanted = specs(arguments)
    if arguments.through_registration:
        wanted = wanted[:MOST_THROUGH_REGISTRATION]
        answers = in_own_processes(faults.through_registration, wanted, arguments.jobs)
    else:
        paths = prepare(wanted, arguments.cache, arguments.jobs)
        given = [(path, arguments.directions, tuple(arguments.only)) for path in paths]
        answers = in_own_processes(faults.outcomes, given, arguments.jobs)
    found: list[faults.Outcome] = []
    for spec, answer in zip(wanted, answers, strict=True):
        print(f"{spec.name}: {len(answer) or 'no'} tries", flush=True)
        if not answer:
            print(f"{'':13s}abstains without any fault: planted ones would show nothing")
        found += answer
    if found:
        faults.table(found)
        faults.verdict(found)


def hidden(arguments: argparse.Namespace) -> None:
    """The table of nodes of which the CT hides a part."""
    for by in arguments.by:
        paths = prepare(specs(arguments, by), arguments.cache, arguments.jobs)
        print(f"\nhidden by {by}\n{HEADING}")
        rows = []
        for row in in_own_processes(measured_file, paths, arguments.jobs):
            print(line(row), flush=True)
            if not row.is_refined:
                print(f"{'':13s}{row.reasons[0][:136]}")
            if row.hidden:
                rows.append(row)
                shares = ", ".join(f"{name} {share:.2f}" for name, share in row.hidden.items())
                print(f"{'':13s}found of the hidden part: {shares}")
            else:
                print(f"{'':13s}nothing is hidden")
        useful = [row for row in rows if row.is_useful]
        if useful:
            comparison(useful)
            hidden_bars(useful, by)


def hidden_bars(rows: Sequence[Row], by: str) -> None:
    """Print the sensitivity on the hidden part; the bar is that of gas."""
    for name in ("refined", *SIMPLE_ANSWERS):
        found = [row.hidden[name] for row in rows]
        print(
            f"hidden by {by}: {name:16s} found of the hidden part: mean {np.mean(found):.3f}, "
            f"worst {min(found):.3f}"
        )
    mean = float(np.mean([row.hidden["refined"] for row in rows]))
    if by == "gas":
        verdicts = ["met" if mean >= limit else "NOT met" for limit in (0.85, 0.92)]
        print(f"sensitivity {mean:.3f}: bar 0.85 {verdicts[0]}, aim 0.92 {verdicts[1]}")
    harmed = sum(row.is_harmed for row in rows)
    print(f"worse than drawn: {harmed} of {len(rows)}: {'NOT met' if harmed else 'met'}")


def without_each(arguments: argparse.Namespace) -> None:
    """The table of what earns its place, on useful MR."""
    paths = prepare(specs(arguments), arguments.cache, arguments.jobs)
    useful = [path for path in paths if load(path).is_useful]
    found: list[ablation.Trial] = []
    for path, trials in zip(
        useful, in_own_processes(ablation.trials, useful, arguments.jobs), strict=True
    ):
        print(f"{path.stem}: {len(trials)} variants", flush=True)
        found += trials
    if found:
        ablation.table(found)


def pairs(arguments: argparse.Namespace) -> None:
    """The table of the real pairs, and their pictures."""
    if "HILUM_REAL_DATA" not in os.environ:
        raise SystemExit("set HILUM_REAL_DATA to the folder that holds sarcoma-ct-mr")
    root = Path(os.environ["HILUM_REAL_DATA"])
    names = sorted(path.name for path in root.glob("sarcoma-ct-mr/STS_*"))
    if not names:
        raise SystemExit(f"{root} holds no sarcoma-ct-mr/STS_*")
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = [sarcoma.SarcomaSpec(root, name) for name in names]
    paths = prepare(wanted, arguments.cache, arguments.jobs)
    given = [(path, arguments.out, arguments.t1_twice) for path in paths]
    rows = []
    for row in in_own_processes(sarcoma.pair, given, arguments.jobs):
        rows.append(row)
        print(sarcoma.line(row), flush=True)
        for reason in row.reasons[:3]:
            print(f"{'':9s}{reason[:140]}")
    sarcoma.verdict(rows)
    print(f"pictures: {arguments.out}")


def specs(arguments: argparse.Namespace, hidden_by: HiddenBy = "nothing") -> list[KitSpec]:
    """Return the cases that the command line asks for."""
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return [KitSpec(seed, hard=arguments.hard, hidden_by=hidden_by) for seed in seeds]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--jobs", type=int, default=2, help="cases at once")
    shared.add_argument("--cache", type=Path, default=CACHE, help="where made cases are kept")
    seeds = argparse.ArgumentParser(add_help=False)
    seeds.add_argument("--seeds", type=int, default=12, help="how many")
    seeds.add_argument("--first", type=int, required=True, help="the first seed")
    seeds.add_argument("--hard", action="store_true", help="from the hard ranges")
    whole = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(required=True)
    one = commands.add_parser("kit", parents=[shared, seeds], help=kit.__doc__)
    one.set_defaults(run=kit)
    one = commands.add_parser("faults", parents=[shared, seeds], help=planted.__doc__)
    one.add_argument("--through-registration", action="store_true", help="wrong poses as sent")
    one.add_argument("--directions", type=int, default=2, help="per misregistration")
    one.add_argument("--only", nargs="*", default=[], help="faults with one of these words")
    one.set_defaults(run=planted)
    one = commands.add_parser("hidden", parents=[shared, seeds], help=hidden.__doc__)
    one.add_argument("--by", nargs="+", choices=("gas", "scar"), default=["gas", "scar"])
    one.set_defaults(run=hidden)
    one = commands.add_parser("ablation", parents=[shared, seeds], help=without_each.__doc__)
    one.set_defaults(run=without_each)
    one = commands.add_parser("sarcoma", parents=[shared], help=pairs.__doc__)
    one.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    one.add_argument("--t1-twice", action="store_true", help="as an experiment, T1 as T2 too")
    one.set_defaults(run=pairs)
    return whole


def main() -> None:
    """Print the tables that are asked for."""
    arguments = parser().parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
