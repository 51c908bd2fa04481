"""A CBCT from file to metrics: recognised, registered, and the patient's position told."""

import copy
import json
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.phantom import PhantomOptions, PhantomStudy, make_study
from tests.nodes import run_hilum, write_datasets

SHIFT_MM = (3.0, -2.0, 6.0)
"""How far the patient lies to the left, back and head: IEC X 3, Y 6, Z 2 in HFS."""


def cbct_of(study: PhantomStudy) -> list[Dataset]:
    """Return the planning CT once more as a linac's imager would send it, the patient shifted."""
    series = generate_uid()
    made = []
    for ds in study.ct:
        one = copy.deepcopy(ds)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.SeriesInstanceUID, one.SeriesDescription = series, "CBCT"
        one.DistanceSourceToPatient, one.DistanceSourceToDetector = 1000, 1500
        one.ImagePositionPatient = [
            float(x) + shift for x, shift in zip(one.ImagePositionPatient, SHIFT_MM, strict=True)
        ]
        made.append(one)
    return made


def test_shift_of_the_patient_is_found_without_any_mr(tmp_path: Path) -> None:
    """Issue 3: a shift known in advance is recovered within 1 mm, in IEC 61217."""
    study = make_study(PhantomOptions(seed=8, size="tiny"))
    write_datasets([*study.ct, study.structure_set], tmp_path / "in")
    write_datasets(cbct_of(study), tmp_path / "cbct")
    out = tmp_path / "out"
    answer = run_hilum("process", str(tmp_path / "in"), str(tmp_path / "cbct"), "--out", str(out))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    document = json.loads((out / "metrics.json").read_text())
    (found,) = document["registrations"]
    assert found["kind"] == "cbct"
    assert found["status"] != "fail", found["reasons"]
    shift = found["daily_position"]["shift_mm"]
    assert [shift[axis] for axis in "xyz"] == pytest.approx([3.0, 6.0, 2.0], abs=1.0)
    assert [target["status"] for target in document["targets"]] == ["abstained"]
    assert (out / "REG_1.dcm").exists()
