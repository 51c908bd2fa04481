"""Our histograms, those of dicompyler-core and of plastimatch against closed forms: one table.

Run by hand, from the project's folder:

    export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1    # as in the node's own children
    python -m tests.bench.dvh [--peer-python INTERPRETER] [--only accuracy|speed] [--every N]

All read the same DICOM files: CT, RTSTRUCT and RTDOSE of bodies in linear and Gaussian doses, over
slice spacings and dose grids of 1 to 3 mm, with half of the dose grids shifted by half a voxel and
half of the round bodies by a quarter slice. Flat ends lie half a slice beyond their last outline.

dicompyler-core needs an older pydicom: without `--peer-python` an environment of its own is made in
a temporary folder with pip (`dicompyler-core==0.5.6`, `pydicom<3`, `scikit-image`). It runs with
its defaults, and with resampling to a quarter of a dose voxel and three planes between two slices.
plastimatch is a Debian package; it runs on the CT's grid with bins of 0.02 Gy. What is not there is
left out, and a line says so. Errors of doses are told in percent of the true dose.

The second table is of time: 20 structures of a CT of 512 x 512 x 200 with a dose of 2 mm, each one
CPU thread, files already read; the errors beside it are those of the same run.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from handlers.dose_results import EndCap
from handlers.dosimetry.histogram import histogram
from handlers.dosimetry.solids import solid_from_contours
from handlers.geometry import Geometry
from handlers.values import Contour, DoseGrid
from tests.analytic_shapes import (
    Body,
    ball,
    box,
    cone,
    cylinder_across,
    cylinder_along,
    dose_grid,
    outlines,
    peaked,
    rising,
    rotation,
)
from tests.bench.dvh_files import read_dose, read_outlines, write_ct, write_dose, write_outlines

METRICS = ("volume", "D95", "D5", "D0.03cc")
MIDDLE_GY = 30.0
SIGMA_MM, TOP_GY = 18.0, 60.0
PEER_NEEDS = ("dicompyler-core==0.5.6", "pydicom<3", "scikit-image")
LYING = rotation(90, 0, 0)
TWO_MM = 2.0

PEER_SCRIPT = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import pydicom
from dicompylercore import dvhcalc
answers, read = [], {}
for case in json.load(open(sys.argv[1])):
    for path in (case["structures"], case["dose"]):
        if path not in read:
            read[path] = pydicom.dcmread(path)
            if "PixelData" in read[path]:
                read[path].pixel_array
            for item in read[path].get("ROIContourSequence", []):
                [contour.ContourData for contour in item.ContourSequence]
    start = time.process_time()
    try:
        dvh = dvhcalc.get_dvh(
            read[case["structures"]], read[case["dose"]], case["roi"], **case["options"]
        )
        found = {
            "volume": float(dvh.volume),
            "D95": float(dvh.dose_constraint(95).value),
            "D5": float(dvh.dose_constraint(5).value),
            "D0.03cc": float(dvh.dose_constraint(0.03, "cm3").value),
        }
    except Exception as error:
        found = {"failed": type(error).__name__ + ": " + str(error)[:80]}
    answers.append(dict(found, seconds=time.process_time() - start))
json.dump(answers, open(sys.argv[2], "w"))
"""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One body in one dose, where its files are, and the truth by metric."""

    name: str
    step_mm: float
    grid_mm: float
    structures: Path
    dose: Path
    roi: int
    truth: Mapping[str, float]


def linear_truth(body: Body) -> dict[str, float]:
    def dose(part: float) -> float:
        return MIDDLE_GY + body.place_of(part)

    volume = body.volume_cm3
    return {"volume": volume, "D95": dose(0.95), "D5": dose(0.05), "D0.03cc": dose(0.03 / volume)}


def peaked_truth(body: Body) -> dict[str, float]:
    radius, volume = body.reach[1], body.volume_cm3

    def dose(part: float) -> float:
        return float(TOP_GY * np.exp(-((part ** (1 / 3) * radius) ** 2) / (2 * SIGMA_MM**2)))

    return {"volume": volume, "D95": dose(0.95), "D5": dose(0.05), "D0.03cc": dose(0.03 / volume)}


def bodies() -> Iterator[tuple[str, Body, str, bool]]:
    """Yield name, body, dose (`z`, `y` or `peak`) and whether slices may cut it anywhere."""
    for radius in (6.0, 12.0, 20.0):
        yield f"ball {radius:g}", ball(radius), "z", True
        yield f"ball {radius:g}", ball(radius, (0, 1, 0)), "y", True
        yield f"ball {radius:g}", ball(radius), "peak", True
    yield "cylinder", cylinder_along(12, 24), "z", False
    yield "cylinder", cylinder_across(12, 24), "y", False
    yield "lying cylinder", cylinder_across(12, 24).turned(LYING), "z", True
    yield "lying cylinder", cylinder_along(12, 24).turned(LYING.T), "y", True
    yield "cone", moved(cone(12, 24), -12.0), "z", False
    yield "cone upside down", moved(cone(12, 24).turned(LYING @ LYING), 12.0), "-z", False
    yield "lying cone", cone(12, 24).turned(LYING.T), "y", True
    yield "box", box((20, 26, 24), 2), "z", False
    yield "box", box((20, 26, 24), 1), "y", False


def moved(body: Body, z_mm: float) -> Body:
    """Return a body that was moved along z, and along its dose as far."""
    by = z_mm * float(body.along[2])
    low, high = body.reach
    return Body(
        np.asarray(body.corners) + np.array([0.0, 0.0, z_mm]),
        body.volume_cm3,
        body.along,
        lambda s: body.hotter(s - by),
        (low + by, high + by),
    )


def make_cases(folder: Path) -> list[Case]:
    directions = {"z": (0, 0, 1), "-z": (0, 0, -1), "y": (0, 1, 0)}
    found = []
    for i, step in enumerate((1.0, 2.0, 3.0)):
        for shifted in (False, True):
            start = step / 2 + (step / 4 if shifted else 0.0)
            place = folder / f"slices_{step:g}_{start:g}"
            write_ct(place / "ct", step, start)
            chosen = [b for b in bodies() if b[3] or not shifted]
            drawn = {f"{n}|{d}": outlines(b, step, start) for n, b, d, _ in chosen}
            write_outlines(place / "structures.dcm", drawn)
        for j, grid in enumerate((1.0, 2.0, 3.0)):
            half = grid / 2 if (i + j) % 2 else 0.0
            for field in ("z", "-z", "y", "peak"):
                path = folder / f"dose_{grid:g}_{half:g}_{field}.dcm"
                value = (
                    peaked(SIGMA_MM, top_gy=TOP_GY)
                    if field == "peak"
                    else rising(np.array(directions[field], dtype=float), middle_gy=MIDDLE_GY)
                )
                if not path.exists():
                    write_dose(path, dose_grid(value, grid, half, reach_mm=30.0))
            for k, (name, body, field, anywhere) in enumerate(bodies()):
                shifted = anywhere and (i + j + k) % 2 == 1
                start = step / 2 + (step / 4 if shifted else 0.0)
                path = folder / f"slices_{step:g}_{start:g}" / "structures.dcm"
                names = [n for n, _, d, a in bodies() if a or not shifted]
                fields = [d for _, _, d, a in bodies() if a or not shifted]
                roi = list(zip(names, fields, strict=True)).index((name, field)) + 1
                truth = peaked_truth(body) if field == "peak" else linear_truth(body)
                dose = folder / f"dose_{grid:g}_{half:g}_{field}.dcm"
                found.append(Case(f"{name} {field}", step, grid, path, dose, roi, truth))
    return found


def ours(cap: EndCap) -> Callable[[Sequence[Case]], list[dict[str, Any]]]:
    """Return our engine with an end cap as a function of cases."""

    def measure(cases: Sequence[Case]) -> list[dict[str, Any]]:
        structures = {path: read_outlines(path) for path in {case.structures for case in cases}}
        doses = {path: read_dose(path) for path in {case.dose for case in cases}}
        return [measured(structures[c.structures][c.roi], doses[c.dose], cap) for c in cases]

    return measure


def measured(contours: Sequence[Contour], dose: DoseGrid, cap: EndCap) -> dict[str, Any]:
    start = time.process_time()
    solid = solid_from_contours(contours, ct_of(dose), cap)
    dvh = histogram(solid, dose)
    if dvh is None:
        return {"failed": "not covered", "seconds": 0.0}
    found = (dvh.structure_cm3, dvh.dose_to_percent(95), dvh.dose_to_percent(5))
    answer = dict(zip(METRICS, (*found, dvh.dose_to_cm3(0.03)), strict=True))
    return {**answer, "seconds": time.process_time() - start}


def ct_of(dose: DoseGrid) -> Geometry:
    """Return a grid that faces as the CT does; of several planes nothing else of it counts."""
    return dose.geometry


def peer(python: str, *, best: bool) -> Callable[[Sequence[Case]], list[dict[str, Any]]]:
    def measure(cases: Sequence[Case]) -> list[dict[str, Any]]:
        asked = []
        for case in cases:
            options: dict[str, Any] = {}
            if best:
                options = {
                    "interpolation_resolution": case.grid_mm / 4,
                    "interpolation_segments_between_planes": 3,
                    "use_structure_extents": True,
                }
            asked.append(
                {
                    "structures": str(case.structures),
                    "dose": str(case.dose),
                    "roi": case.roi,
                    "options": options,
                }
            )
        with tempfile.TemporaryDirectory() as folder:
            script, question, answer = (Path(folder) / n for n in ("peer.py", "in", "out"))
            script.write_text(PEER_SCRIPT)
            question.write_text(json.dumps(asked))
            subprocess.run([python, script, question, answer], check=True)
            return list(json.loads(answer.read_text()))

    return measure


def plastimatch(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return what `plastimatch dvh` says, made once for each pair of structures and dose."""
    tables: dict[tuple[Path, Path], dict[int, dict[str, Any]]] = {}
    for case in cases:
        key = case.structures, case.dose
        if key not in tables:
            tables[key] = _plastimatch_table(*key)
    return [tables[case.structures, case.dose][case.roi] for case in cases]


def _plastimatch_table(structures: Path, dose: Path) -> dict[int, dict[str, Any]]:
    made = structures.parent / "ss.nrrd"
    names = structures.parent / "ss.txt"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if not made.exists():
        subprocess.run(
            ["plastimatch", "convert", "--input", structures, "--referenced-ct",
             structures.parent / "ct", "--output-ss-img", made, "--output-ss-list", names],
            **quiet,
        )  # fmt: skip
    image = dose.with_suffix(".nrrd")
    if not image.exists():
        subprocess.run(
            ["plastimatch", "convert", "--input", dose, "--output-dose-img", image], **quiet
        )
    table = structures.parent / "dvh.csv"
    start = time.perf_counter()
    subprocess.run(
        ["plastimatch", "dvh", "--input-ss-img", made, "--input-ss-list", names, "--input-dose",
         image, "--output-csv", table, "--cumulative", "--normalization", "vox", "--bin-width",
         "0.02", "--num-bins", "4000", "--dose-units", "gy"],
        **quiet,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    header = table.read_text().splitlines()[0].split(",")[1:]
    rows = np.genfromtxt(table, delimiter=",", skip_header=1)
    voxel_cm3 = float(np.prod(_spacing_of(made))) / 1000.0
    numbers = [int(line.split("|")[0]) for line in names.read_text().splitlines() if "|" in line]
    order = _rois_by_name(structures)
    found = {}
    for column, name in enumerate(header[: len(numbers)]):
        volumes = rows[:, column + 1] * voxel_cm3
        whole = float(volumes[0])

        def dose_of(volume: float, volumes: Any = volumes) -> float:
            return float(rows[max(int(np.sum(volumes >= volume)) - 1, 0), 0])

        found[order[name.strip()]] = {
            "volume": whole,
            "D95": dose_of(0.95 * whole),
            "D5": dose_of(0.05 * whole),
            "D0.03cc": dose_of(0.03),
            "seconds": seconds / len(numbers),
        }
    return found


def _rois_by_name(structures: Path) -> dict[str, int]:
    ds = pydicom.dcmread(structures)
    return {str(item.ROIName): int(item.ROINumber) for item in ds.StructureSetROISequence}


def _spacing_of(image: Path) -> tuple[float, ...]:
    import SimpleITK

    return tuple(SimpleITK.ReadImage(str(image)).GetSpacing())


def print_accuracy(cases: Sequence[Case], answers: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    print(f"\n{len(cases)} cases; error in percent of the truth, median / worst")
    print(f"{'':34}" + "".join(f"{metric:>18}" for metric in METRICS) + "   failed")
    for engine, found in answers.items():
        errors = _errors(cases, found)
        cells = "".join(
            f"{np.nanmedian(errors[:, m]):9.2f} /{np.nanmax(errors[:, m]):7.2f}" for m in range(4)
        )
        print(f"{engine:34}{cells}   {sum('failed' in answer for answer in found)}")
    first = _errors(cases, answers["ours, tapered"])
    print("\nour worst cases (tapered):")
    for m, metric in enumerate(METRICS):
        worst = int(np.nanargmax(first[:, m]))
        case = cases[worst]
        print(
            f"  {metric:8} {first[worst, m]:6.2f} %  {case.name}, slices {case.step_mm:g} mm, "
            f"dose {case.grid_mm:g} mm"
        )
    for engine, found in answers.items():
        if engine.startswith("ours"):
            continue
        theirs = _errors(cases, found)
        better = [int(np.sum(theirs[:, m] < first[:, m] - 0.1)) for m in range(4)]
        print(f"{engine}: nearer to the truth than ours by more than 0.1 % in {better} cases")


def _errors(cases: Sequence[Case], answers: Sequence[dict[str, Any]]) -> Any:
    return np.array(
        [
            [100.0 * abs(answer.get(m, np.nan) / case.truth[m] - 1.0) for m in METRICS]
            for case, answer in zip(cases, answers, strict=True)
        ]
    )


def speed_cases(folder: Path) -> list[Case]:
    """Return 20 ellipsoids of 5 cm3 to 20 000 cm3 on slices of 3 mm, in a linear dose of 2 mm."""
    rng = np.random.default_rng(7)
    along = np.array([0.0, 1.0, 0.0])
    count = np.array([300, 150, 220])
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, ::-1] * TWO_MM
    matrix[:3, 3] = matrix[:3, :3] @ (-(count - 1) / 2.0)
    geometry = Geometry("1.2.3", matrix, (300, 150, 220))
    row = np.arange(150) * TWO_MM - 149.0
    values = np.broadcast_to((60.0 + 0.3 * row)[None, :, None], geometry.shape)
    dose = folder / "dose.dcm"
    write_dose(dose, DoseGrid(geometry, values.astype(np.float32)))
    drawn, truths = {}, []
    for k in range(20):
        size = np.array([200.0, 135.0, 290.0]) if k == 0 else rng.uniform(10, 75, 3)
        middle = np.zeros(3) if k == 0 else rng.uniform(-40, 40, 3)
        rings = []
        for z in np.arange(-298.5, 300.0, 3.0):
            width = 1.0 - ((z - middle[2]) / size[2]) ** 2
            if width > 1e-3:
                turn = np.arange(200) * 2 * np.pi / 200
                xy = middle[:2] + np.sqrt(width) * size[:2] * np.column_stack(
                    (np.cos(turn), np.sin(turn))
                )
                rings.append(Contour(np.column_stack((xy, np.full(200, z)))))
        drawn[f"roi {k}"] = rings
        unit = ball(1.0)
        volume = float(4 / 3 * np.pi * np.prod(size)) / 1000.0
        truth = {"volume": volume}
        for name, part in (("D95", 0.95), ("D5", 0.05), ("D0.03cc", 0.03 / volume)):
            place = middle[1] + size[1] * unit.place_of(part)
            truth[name] = 60.0 + 0.3 * float(place * along[1])
        truths.append(truth)
    structures = folder / "structures.dcm"
    write_outlines(structures, drawn)
    return [
        Case(f"roi {k}", 3.0, TWO_MM, structures, dose, k + 1, truth)
        for k, truth in enumerate(truths)
    ]


def print_speed(cases: Sequence[Case], answers: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    print("\n20 structures, CT 512 x 512 x 200, dose 2 mm: CPU seconds; median / worst error in %")
    own = sum(answer["seconds"] for answer in answers["ours, tapered"])
    for engine, found in answers.items():
        seconds = sum(answer["seconds"] for answer in found)
        errors = _errors(cases, found)
        cells = "".join(
            f"{np.nanmedian(errors[:, m]):9.2f} /{np.nanmax(errors[:, m]):7.2f}" for m in range(4)
        )
        print(f"{engine:34}{seconds:8.1f} s ({seconds / own:5.1f} x ours){cells}")


def peer_python(given: str | None, folder: Path) -> str | None:
    """Return the interpreter that has dicompyler-core; None if it cannot be had."""
    if given:
        return given
    made = subprocess.run([sys.executable, "-m", "venv", folder], check=False)
    python = folder / "bin" / "python"
    if made.returncode == 0:
        asked = [python, "-m", "pip", "install", "--quiet", *PEER_NEEDS]
        if subprocess.run(asked, check=False).returncode == 0:
            return str(python)
    print("dicompyler-core could not be installed: left out")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python")
    parser.add_argument("--only", choices=("accuracy", "speed"))
    parser.add_argument("--every", type=int, default=1, help="take every so manieth case only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = {f"ours, {cap}": ours(cap) for cap in (EndCap.TAPERED, EndCap.HALF_SLICE)}
        python = peer_python(given.peer_python, folder / "peer")
        fast = dict(engines)
        if python:
            fast["dicompyler-core, defaults"] = peer(python, best=False)
            engines = {**fast, "dicompyler-core, finest": peer(python, best=True)}
        if shutil.which("plastimatch"):
            engines["plastimatch dvh"] = plastimatch
        else:
            print("plastimatch is not installed: left out")
        if given.only != "speed":
            cases = make_cases(folder / "accuracy")[:: given.every]
            print_accuracy(cases, {name: run(cases) for name, run in engines.items()})
        if given.only != "accuracy":
            cases = speed_cases(folder / "speed")
            print_speed(cases, {name: run(cases) for name, run in fast.items()})


if __name__ == "__main__":
    main()
