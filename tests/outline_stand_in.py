"""A stand-in for TotalSegmentator, its weights, and an image on which truth is known.

The stand-in takes the options of the real program and outlines by level: organ number n of `LABELS`
is what has the value 100 n. Truth is the array that the test itself filled.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry
from handlers.values import Image
from node.outline_program import SecondOpinionSettings
from tests.grids import grid

LABELS = [
    *("liver", "portal_vein_and_splenic_vein", "inferior_vena_cava", "aorta", "duodenum"),
    *("stomach", "small_bowel", "colon", "esophagus", "gallbladder", "pancreas", "spleen"),
    *("kidney_left", "kidney_right"),
]
"""Class names of the program's tasks `total` and `total_mr`, typed from its class maps."""

CT_WEIGHTS = [
    "Dataset291_TotalSegmentator_part1_organs_1559subj",
    "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
    "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
    "Dataset294_TotalSegmentator_part4_muscles_1559subj",
    "Dataset295_TotalSegmentator_part5_ribs_1559subj",
    "Dataset298_TotalSegmentator_total_6mm_1559subj",
]
CT_FAST_WEIGHTS = ["Dataset297_TotalSegmentator_total_3mm_1559subj", CT_WEIGHTS[-1]]
MR_WEIGHTS = [
    "Dataset850_TotalSegMRI_part1_organs_1088subj",
    "Dataset851_TotalSegMRI_part2_muscles_1088subj",
    "Dataset852_TotalSegMRI_total_3mm_1088subj",
]
MR_FAST_WEIGHTS = MR_WEIGHTS[-1:]

PARSE = """#!{python}
import argparse, json, os, pathlib, resource, subprocess, sys, time
options = argparse.ArgumentParser()
options.add_argument("-i", dest="image", type=pathlib.Path, required=True)
options.add_argument("-o", dest="masks", type=pathlib.Path, required=True)
options.add_argument("--task", choices=["total", "total_mr"], required=True)
options.add_argument("--device", choices=["cpu", "gpu"], required=True)
options.add_argument("--fast", action="store_true")
options.add_argument("--quiet", action="store_true")
options.add_argument("--nr_thr_saving", type=int)
options.add_argument("--roi_subset", nargs="+")
told = options.parse_args()
seen = pathlib.Path({seen!r})
"""

OUTLINE = """
import SimpleITK as sitk
image = sitk.ReadImage(str(told.image))
labels = {labels!r}
for label in told.roi_subset:
    level = {step} * (labels.index(label) + 1)
    mask = sitk.BinaryThreshold(sitk.Cast(image, sitk.sitkInt32), level, level)
    sitk.WriteImage(mask, str(told.masks / (label + ".nii.gz")))
"""

RECORD = """
home = pathlib.Path(os.environ["TOTALSEG_HOME_DIR"])
seen.write_text(json.dumps({
    "arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd(),
    "files": sorted(str(p.relative_to(".")) for p in pathlib.Path(".").rglob("*")),
    "header": told.image.read_bytes()[:352].hex(),
    "config": json.loads((home / "config.json").read_text()),
    "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
    "network": os.readlink("/proc/self/ns/net"),
}))
"""

HANG = """
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
near, far = subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)
(told.masks / "half.nii.gz").write_bytes(b"half")
part = seen.with_suffix(".part")
part.write_text(json.dumps([os.getpid(), near.pid, far.pid]))
part.rename(seen)
time.sleep(600)
"""


class Bench:
    """Weights, a stand-in, and a folder for temporary files that must be empty afterwards."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.temporary = temporary
        self.weights = folder / "weights"
        self.program = folder / "TotalSegmentator"
        self.seen_file = folder / "seen.json"
        self.lay_weights(CT_WEIGHTS)

    @property
    def seen(self) -> Any:
        return json.loads(self.seen_file.read_text())

    def lay_weights(self, names: list[str], checkpoint: bytes = b"weights") -> None:
        for name in names:
            fold = self.weights / name / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
            fold.mkdir(parents=True)
            (fold / "checkpoint_final.pth").write_bytes(checkpoint)

    def settings(self, what: str = OUTLINE, *, step: int = 100) -> SecondOpinionSettings:
        """Write a stand-in that does `what` and return settings that name it."""
        start = PARSE.format(python=sys.executable, seen=str(self.seen_file))
        body = what.replace("{labels!r}", repr(LABELS)).replace("{step}", str(step))
        self.program.write_text(start + body)
        self.program.chmod(0o755)
        return SecondOpinionSettings(weights=self.weights, program=self.program, timeout_s=120.0)


def levels(geometry: Geometry) -> npt.NDArray[np.float32]:
    """Return voxels in which organ n has a block of its own of the value 100 n, none symmetric."""
    voxels = np.full(geometry.shape, -1000.0, dtype=np.float32)
    for n in range(1, len(LABELS) + 1):
        start = (n % geometry.shape[0], 1 + n, n)
        block = tuple(slice(at, at + size) for at, size in zip(start, (1, 2, 3), strict=True))
        voxels[block] = 100.0 * n
    return voxels


def ct(geometry: Geometry | None = None) -> Image:
    geometry = geometry or grid()
    return Image(geometry, levels(geometry), "CT", "1.2.3", description="DOE^JANE 1960")
