"""Our registration against itk-elastix, greedy, antspyx and plastimatch: one table.

Run by hand, from the project's folder:

    HILUM_REAL_DATA=FOLDER python -m tests.bench.registration_engines [--motions 5] [--seeds 12]

The other engines are no dependency of the project. Install them by name from the package registry,
`itk-elastix`, `picsl_greedy` and `antspyx` into an environment of their own that also holds
`SimpleITK` and name its interpreter with `--peers-python`; plastimatch is a Debian package. An
engine that is not there is left out, and a line says so.

All see the same images: real pairs as delivered and after known motions, and T1 of phantoms that
breathe. Ours looks for its own start; the others start from the middles of the images on each
other, as their users would, and from the coordinates as they are (on phantoms, whose MR has a frame
of reference of its own, that says little). Each registration runs in a process of its own with one
thread; CPU seconds are without importing.

The error of a real pair is the median distance at the corners of the +-40 mm box from the nearer of
its two references; there is no exact truth, and the references came from greedy and elastix, which
flatters these two. That of a phantom is the median distance from the truth at points within 40 mm
of the target; it holds breathing, which no rigid map can follow.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handlers.decode.images import decode_series
from handlers.geometry import Points
from handlers.values import Image
from node.phantom import PhantomOptions, make_study
from tests.bench.real_pairs import moved, read_pair

PROJECT = Path(__file__).resolve().parents[2]
PEERS = ("elastix", "greedy", "ants", "plastimatch")
STARTS = ("middles", "coordinates")
FAILED_MM = 5.0
BOX_HALF_MM = 40.0
CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
LANDMARKS = 300
TIME_LIMIT_S = 900.0
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)
MOTIONS = (
    ((4.0, -3.0, 3.3), (7.0, -7.0, 6.5)),
    ((-7.0, 6.0, 8.0), (-18.0, 16.0, 18.0)),
    ((2.0, 5.0, -6.0), (25.0, 10.0, -30.0)),
    ((-9.0, -8.0, 10.0), (-20.0, -30.0, 25.0)),
    ((11.0, 12.0, -11.0), (35.0, -33.0, 36.0)),
)
"""Rotation about x, y, z in degrees and translation in mm: 12 mm and 6 degrees to 60 and 20."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One pair of images and where the points of the CT lie in the MR.

    Attributes:
        kind: `real` or `phantom`.
        name: For the reader.
        ct: The fixed image.
        mr: The moving image.
        inside: The target on the CT grid.
        points: LPS mm in the CT's frame, at which engines are judged.
        truths: Where these lie in the MR; several where two references compete.
    """

    kind: str
    name: str
    ct: Image
    mr: Image
    inside: Any
    points: Points
    truths: tuple[Points, ...]

    def error_mm(self, found: Points) -> float:
        """Return the median distance of the points from the nearer truth."""
        return float(min(np.median(np.linalg.norm(found - truth, axis=1)) for truth in self.truths))


@dataclass(frozen=True, slots=True)
class Run:
    """What an engine made of a case; an error without figures if it raised one."""

    kind: str
    case: str
    engine: str
    error_mm: float
    cpu_s: float = float("nan")
    peak_mb: float = float("nan")
    status: str = ""


def real_cases(root: Path, names: Sequence[str], motions: int) -> Iterator[Case]:
    """Yield the real pairs that have references, as delivered and moved."""
    listed = json.loads((root / "sarcoma-ct-mr/two_engines.json").read_text())
    for entry in listed:
        name = entry["case"]
        if names and name not in names:
            continue
        ct, mr, target = read_pair(root, name)
        corners = np.array(entry["box_centre_mm"]) + BOX_HALF_MM * CORNERS
        maps = [np.array(m) for m in entry["mr_from_ct"].values()]
        truths = [corners @ m[:3, :3].T + m[:3, 3] for m in maps]
        yield Case("real", name, ct, mr, target.inside, corners, tuple(truths))
        for number, (rotation_deg, translation_mm) in enumerate(MOTIONS[:motions], start=1):
            other, moved_from_mr = moved(mr, rotation_deg, translation_mm)
            after = tuple(moved_from_mr.apply(truth) for truth in truths)
            yield Case("real", f"{name} moved {number}", ct, other, target.inside, corners, after)


def phantom_cases(seeds: int, *, is_full_size: bool) -> Iterator[Case]:
    """Yield phantoms of the commissioning kit that breathe, with landmarks about the target."""
    for seed in range(1, seeds + 1):
        study = make_study(PhantomOptions.for_seed(seed, small=not is_full_size))
        ct = decode_series(study.ct, "CT").image
        mr = decode_series(study.mr["T1"], "MR").image
        if ct is None or mr is None:
            raise RuntimeError(f"the phantom of seed {seed} cannot be decoded")
        rng = np.random.default_rng(seed)
        ways = rng.normal(size=(LANDMARKS, 3))
        ways *= np.cbrt(rng.uniform(size=(LANDMARKS, 1))) / np.linalg.norm(
            ways, axis=1, keepdims=True
        )
        points = np.array(study.target_centre_mm) + BOX_HALF_MM * ways
        truth = study.mr_points(points, "T1")
        inside = study.true_target.inside
        yield Case("phantom", f"seed {seed}", ct, mr, inside, points, (truth,))


def start_of(case: Case, start: str) -> Any:
    """Return the 4 x 4 matrix mr_from_ct that an engine begins with."""
    matrix = np.eye(4)
    if start == "middles":
        matrix[:3, 3] = case.mr.geometry.centre_mm() - case.ct.geometry.centre_mm()
    return matrix


def run(case: Case, engine: str, start: str, python: str, folder: Path) -> Run:
    """Let an engine register a case in a process of its own."""
    source, destination = folder / "task.npz", folder / "answer.json"
    destination.unlink(missing_ok=True)
    np.savez(
        source,
        ct=case.ct.voxels,
        ct_matrix=case.ct.geometry.patient_from_index,
        mr=case.mr.voxels,
        mr_matrix=case.mr.geometry.patient_from_index,
        inside=case.inside,
        points=case.points,
        start=start_of(case, start),
    )
    label = engine if engine == "ours" else f"{engine}, {start}"
    command = [python, "-m", "tests.bench.one_engine", engine, str(source), str(destination)]
    environment = os.environ | ONE_THREAD
    try:
        subprocess.run(
            command,
            cwd=PROJECT,
            env=environment,
            check=True,
            capture_output=True,
            timeout=TIME_LIMIT_S,
        )
        told = json.loads(destination.read_text())
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        output = getattr(error, "stderr", None) or b""
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        print(f"  {case.name}: {label} gave no answer: {last or error}")
        return Run(case.kind, case.name, label, float("inf"))
    return Run(
        case.kind,
        case.name,
        label,
        case.error_mm(np.array(told["points"])),
        told["cpu_s"],
        told["peak_mb"],
        told["status"],
    )


def engines_there(wanted: Sequence[str], python: str) -> list[str]:
    """Return the wanted engines that can be run, and say which cannot."""
    there = []
    for engine in wanted:
        question = f"from tests.bench.one_engine import is_there; print(is_there({engine!r}))"
        asked = subprocess.run(
            [python, "-c", question], cwd=PROJECT, capture_output=True, check=False, text=True
        )
        if asked.stdout.strip() == "True":
            there.append(engine)
        else:
            print(f"left out: {engine} (not importable by {python})")
    return there


def print_table(title: str, runs: Sequence[Run]) -> None:
    """Print one line per engine and start, and how ours compares with it."""
    if not runs:
        return
    ours = [r for r in runs if r.engine == "ours"]
    our_error, our_cpu = median([r.error_mm for r in ours]), median([r.cpu_s for r in ours])
    print(f"\n{title}\n{'':26s} runs failed   median   worst   CPU s   MB peak   ours/engine")
    print(f"{'':61s}           error    CPU")
    for engine in dict.fromkeys(r.engine for r in runs):
        these = [r for r in runs if r.engine == engine]
        errors = [r.error_mm for r in these]
        failed = sum(error > FAILED_MM for error in errors)
        error, cpu = median(errors), median([r.cpu_s for r in these])
        peaks = [r.peak_mb for r in these if np.isfinite(r.peak_mb)]
        print(
            f"{engine:26s} {len(these):4d} {failed:6d} {error:8.2f} {max(errors):7.1f} {cpu:7.1f} "
            f"{max(peaks, default=float('nan')):9.0f} {our_error / error:9.2f} {our_cpu / cpu:6.2f}"
        )
    passed = [r for r in ours if r.status == "pass"]
    wrong = sum(r.error_mm > FAILED_MM for r in passed)
    print(f"ours: {len(passed)} of {len(ours)} passed its own judgement, {wrong} of them wrongly")


def median(values: Sequence[float]) -> float:
    """Return the median of what is not NaN; NaN of nothing."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.median(known)) if known else float("nan")


def arguments_given() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="*", default=(), help="default: all with two references")
    parser.add_argument("--motions", type=int, default=len(MOTIONS), help="per real pair")
    parser.add_argument("--seeds", type=int, default=12, help="phantoms; 0: none")
    parser.add_argument("--full-size", action="store_true", help="phantoms of full size")
    parser.add_argument("--no-real", action="store_true", help="phantoms only")
    parser.add_argument("--engines", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS)
    parser.add_argument("--peers-python", default=sys.executable, help="has the other engines")
    parser.add_argument("--out", type=Path, help="JSON file for every single run")
    return parser.parse_args()


def main() -> None:
    """Run all engines on all cases and print the tables."""
    given = arguments_given()
    peers = engines_there(given.engines, given.peers_python)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        for case in cases(given):
            asked = [("ours", "coordinates", sys.executable)]
            asked += [(e, start, given.peers_python) for e in peers for start in given.starts]
            for engine, start, python in asked:
                done = run(case, engine, start, python, Path(name))
                runs.append(done)
                print(
                    f"{case.name:18s} {done.engine:24s} {done.error_mm:7.2f} mm "
                    f"{done.cpu_s:6.1f} s {done.status}",
                    flush=True,
                )
    if given.out:
        given.out.write_text(
            json.dumps([{k: getattr(r, k) for k in Run.__slots__} for r in runs], indent=1)
        )
    for kind, title in (("real", "real pairs"), ("phantom", "phantoms")):
        print_table(title, [r for r in runs if r.kind == kind])


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Yield what the command line asks for."""
    if not given.no_real:
        yield from real_cases(Path(os.environ["HILUM_REAL_DATA"]), given.pairs, given.motions)
    yield from phantom_cases(given.seeds, is_full_size=given.full_size)


if __name__ == "__main__":
    main()
