"""The second opinion from the configuration file to the result: one case with it, one without."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from node.config import read_config
from node.phantom import PhantomOptions, make_study
from node.process import STEPS, process
from tests.nodes import write_datasets
from tests.outline_stand_in import RECORD, Bench

pytestmark = pytest.mark.slow

LOW_MM, HIGH_MM = (30.0, -30.0, -6.0), (38.0, -14.0, 10.0)
"""Centres of the first and last voxel of what the stand-in takes for the gallbladder, which nobody
drew: left of the target of this phantom, which ends at x = 7.0 mm, on the same slices and rows."""

GALLBLADDER = f"""
import SimpleITK
image = SimpleITK.ReadImage(str(told.image))
low, high = (image.TransformPhysicalPointToIndex(p) for p in ({LOW_MM}, {HIGH_MM}))
for label in told.roi_subset:
    mask = SimpleITK.Image(image.GetSize(), SimpleITK.sitkUInt8)
    mask.CopyInformation(image)
    if label == "gallbladder":
        mask[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1] = 1
    SimpleITK.WriteImage(mask, str(told.masks / (label + ".nii.gz")))
"""

CONFIGURATION = """
[node]
compute_memory_mib = 6000.0
[second_opinion]
weights = "weights"
program = "TotalSegmentator"
timeout_s = 100.0
[[protocol]]
name = "liver"
targets = ["GTV*"]
review = ["structures"]
"""


@dataclass(frozen=True)
class Computed:
    """A case that was computed, and what was told meanwhile."""

    out: Path
    document: dict[str, Any]
    structures: Dataset
    steps: list[str]

    @property
    def told(self) -> dict[str, str]:
        """Findings of the second opinion: text by code."""
        found = {f["code"]: f["text"] for f in self.document["findings"]}
        return {code: text for code, text in found.items() if code.startswith("second_opinion")}

    @property
    def distances_mm(self) -> dict[str, float]:
        (target,) = self.document["targets"]
        return dict(target["organ_distances_mm"])


def computed(bench: Bench, inputs: Path, name: str) -> Computed:
    out, steps = bench.folder / name, list[str]()
    config = bench.folder / "hilum.toml"
    config.write_text(CONFIGURATION, encoding="utf-8")
    outcome = process([inputs], out, read_config(config), on_step=steps.append)
    assert outcome.kind == "done", outcome.reasons
    document = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return Computed(out, document, pydicom.dcmread(out / "RTSTRUCT.dcm"), steps)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("department")
    made = Bench(folder, folder)
    made.settings(RECORD + GALLBLADDER)
    return made


@pytest.fixture(scope="module")
def cases(bench: Bench) -> tuple[Computed, Computed]:
    """Compute the phantom with the stand-in, and again when its weights are gone."""
    study = make_study(PhantomOptions(seed=5, size="tiny"))
    inputs = bench.folder / "in"
    # of one MR series: it moves no contour, and takes less time
    write_datasets([*study.ct, study.structure_set, *study.mr["T1"]], inputs)
    first = computed(bench, inputs, "with")
    bench.weights.rename(bench.folder / "put away")
    return first, computed(bench, inputs, "without")


def roi_numbers(structures: Dataset) -> dict[str, int]:
    return {str(r.ROIName): int(r.ROINumber) for r in structures.StructureSetROISequence}


def test_case_when_program_is_configured_is_measured_to_what_nobody_drew(
    cases: tuple[Computed, Computed], bench: Bench
) -> None:
    """What is outlined is an organ of the case; it is only asked for what nobody drew."""
    case, without = cases
    assert list(case.told) == ["second_opinion.used"]
    assert "Gallbladder_TS" in case.told["second_opinion.used"]
    # the target stays as drawn, to x = 7.0 mm; the block begins half a voxel before 30 mm
    assert abs(case.distances_mm["Gallbladder_TS"] - 21.0) < 2.0
    assert set(case.distances_mm) - set(without.distances_mm) == {"Gallbladder_TS"}
    assert set(without.distances_mm) > {"Liver", "Duodenum", "Stomach"}
    asked = bench.seen["arguments"]
    subset = asked[asked.index("--roi_subset") + 1 :]
    assert subset == ["small_bowel", "colon", "esophagus", "gallbladder"]
    assert case.steps == list(STEPS)
    assert case.document["timing_s"]["second opinion"] > 0.0


def test_program_when_run_by_the_computing_process_has_a_memory_limit_of_its_own(
    cases: tuple[Computed, Computed], bench: Bench
) -> None:
    """The limit of the computing process (6000 MiB) does not bound what it starts: 16384 MiB."""
    assert cases
    assert bench.seen["memory"] == 16384 * 1024 * 1024


def test_outlines_when_structures_are_asked_for_come_back_as_no_organs(
    cases: tuple[Computed, Computed],
) -> None:
    """`review = ["structures"]`: under a name that says so, of no type, on the very voxels."""
    case, without = cases
    numbers = roi_numbers(case.structures)
    assert "zGallbladder_TS" in numbers
    assert "zGallbladder_TS" not in roi_numbers(without.structures)
    number = numbers["zGallbladder_TS"]
    (roi,) = (r for r in case.structures.StructureSetROISequence if r.ROINumber == number)
    assert "TotalSegmentator" in roi.ROIDescription
    assert "reviewed by nobody" in roi.ROIDescription
    assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
    (observed,) = (
        o for o in case.structures.RTROIObservationsSequence if o.ReferencedROINumber == number
    )
    assert not observed.RTROIInterpretedType
    (contours,) = (c for c in case.structures.ROIContourSequence if c.ReferencedROINumber == number)
    points = np.concatenate(
        [np.reshape(np.array(c.ContourData, float), (-1, 3)) for c in contours.ContourSequence]
    )
    half_voxel_mm = np.array((2.0, 2.0, 0.0))
    assert np.allclose(points.min(axis=0), LOW_MM - half_voxel_mm, atol=1.0)
    assert np.allclose(points.max(axis=0), HIGH_MM + half_voxel_mm, atol=1.0)


def test_case_when_weights_are_absent_is_computed_without_and_says_so(
    cases: tuple[Computed, Computed],
) -> None:
    """Never required: the case finishes, under other UIDs, since its results are others."""
    case, without = cases
    assert list(without.told) == ["second_opinion.none"]
    assert "weights of task total are not in the configured folder" in str(without.told)
    assert without.structures.SOPInstanceUID != case.structures.SOPInstanceUID
    assert {p.name for p in without.out.iterdir()} == {p.name for p in case.out.iterdir()}


def test_results_when_read_name_no_folder_of_the_machine(
    cases: tuple[Computed, Computed], bench: Bench
) -> None:
    """How it was asked is told in every result; where it is concerns nobody else."""
    for case in cases:
        told = case.document["case"]["settings"]["second_opinion"]
        assert told == {"fast": False, "device": "cpu"}
        files = [path for path in case.out.rglob("*") if path.is_file()]
        assert len(files) > 5
        for path in files:
            assert str(bench.folder).encode() not in path.read_bytes(), path.name
