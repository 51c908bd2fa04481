"""Is the registration of real pairs consistent? The MR is moved by a known motion and found again.

There is no exact truth for these pairs; the proof is that the map found for a pair as it is, and
the map found after the MR was moved and given a frame of reference of its own, agree once the known
motion is taken out. Both go through `hilum process`: header, registration and encoding take part.

    python -m tests.bench.moved_mr FOLDER [STS_010 ...]

prints, for each pair, the largest distance between both maps at the corners of a +-40 mm box around
the target, and both verdicts. FOLDER holds the public soft-tissue sarcoma pairs.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset

from handlers.geometry import RigidTransform
from tests.nodes import run_hilum, write_datasets

TRANSLATION_MM = (15.0, -10.0, 20.0)
ROTATION_DEG = (5.0, -4.0, 6.0)
HALF_BOX_MM = 40.0
BAR_MM = 3.0
PAIRS = ("STS_010", "STS_020", "STS_023")


def moved(series: Sequence[Dataset], frame_uid: str) -> RigidTransform:
    """Move an MR series in place; return the motion, from its old frame to its new one."""
    positions = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in series])
    motion = RigidTransform.from_parameters(
        rotation_deg=ROTATION_DEG,
        translation_mm=TRANSLATION_MM,
        centre_mm=positions.mean(axis=0),
        to_frame_uid=frame_uid,
        from_frame_uid=str(series[0].FrameOfReferenceUID),
    )
    for ds in series:
        position = motion.apply([float(v) for v in ds.ImagePositionPatient])[0]
        axes = np.array([float(v) for v in ds.ImageOrientationPatient]).reshape(2, 3)
        turned = axes @ motion.matrix[:3, :3].T
        ds.ImagePositionPatient = [f"{v:.9f}"[:16] for v in position]
        ds.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in turned.ravel()]
        ds.FrameOfReferenceUID = frame_uid
    return motion


def read_series(folder: Path) -> list[Dataset]:
    """Return the datasets of a folder."""
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def registration(inputs: Sequence[Path], out: Path) -> dict[str, object]:
    """Run `hilum process` and return the only registration of its metrics."""
    answer = run_hilum("process", *map(str, inputs), "--out", str(out))
    if answer.returncode:
        raise SystemExit(answer.stderr)
    (found,) = json.loads((out / "metrics.json").read_text())["registrations"]
    assert isinstance(found, dict)
    return found


def consistency_mm(patient: Path, folder: Path) -> tuple[float, str, str]:
    """Return how far both maps of a pair are apart at worst, and their verdicts."""
    series = read_series(patient / "MR_T1" / "image")
    motion = moved(series, "2.25.202603011")
    write_datasets(series, folder / "moved")
    ct, structures = patient / "CT" / "image", patient / "CT" / "mask"
    plain = registration([ct, structures, patient / "MR_T1" / "image"], folder / "plain-out")
    again = registration([ct, structures, folder / "moved"], folder / "moved-out")
    ct_from_mr = np.array(plain["ct_from_mr"])
    ct_from_moved = np.array(again["ct_from_mr"])
    centre = np.array(plain["at_mm"])
    corners = centre + HALF_BOX_MM * np.array(list(itertools.product((-1, 1), repeat=3)))
    in_ct = np.column_stack([corners, np.ones(8)])
    there_and_back = ct_from_moved @ motion.matrix @ np.linalg.inv(ct_from_mr)
    apart = np.linalg.norm((in_ct @ there_and_back.T - in_ct)[:, :3], axis=1)
    return float(apart.max()), str(plain["status"]), str(again["status"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pairs", nargs="*", default=PAIRS)
    arguments = parser.parse_args()
    print(f"{'pair':10}{'worst corner, mm':>18}{'bar':>6}  as it is / moved")
    for name in arguments.pairs:
        with tempfile.TemporaryDirectory() as temporary:
            worst, plain, again = consistency_mm(arguments.folder / name, Path(temporary))
        verdict = "met" if worst <= BAR_MM else "NOT"
        print(f"{name:10}{worst:18.2f}{verdict:>6}  {plain} / {again}")


if __name__ == "__main__":
    main()
