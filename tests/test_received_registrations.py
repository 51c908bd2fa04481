"""A Spatial Registration from elsewhere on its whole way: candidate or order, never a loop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from handlers.geometry import RigidTransform
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver
from tests import datasets
from tests.nodes import NodeProcess, run_hilum, write_datasets

AS_SENT = """\
[[protocol]]
name = "p"
targets = ["GTV*"]
registration = "as-sent"
"""


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=6, size="tiny", contrasts=("T1",), with_dose=False))


@pytest.fixture(scope="module")
def folder(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    write_datasets(study.instances(), path)
    return path


def off_by(study: PhantomStudy, shift_mm: tuple[float, float, float]) -> RigidTransform:
    """Return the true pose, shifted."""
    truth = study.ct_from_mr
    matrix = truth.matrix.copy()
    matrix[:3, 3] += shift_mm
    return RigidTransform(matrix, truth.to_frame_uid, truth.from_frame_uid)


def sent(study: PhantomStudy, ct_from_mr: RigidTransform, *, into: str = "ct") -> Dataset:
    """Return the REG that a TPS would send, with the CT or the MR as the registered frame."""
    if into == "ct":
        item = datasets.registration_item(ct_from_mr.from_frame_uid, ct_from_mr.matrix)
    else:
        item = datasets.registration_item(ct_from_mr.to_frame_uid, ct_from_mr.inverse().matrix)
    made = datasets.registration(
        ct_from_mr.to_frame_uid if into == "ct" else ct_from_mr.from_frame_uid, item
    )
    made.SOPInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate"):
        setattr(made, keyword, study.ct[0].get(keyword))
    made.PatientSex = study.ct[0].get("PatientSex")
    made.Manufacturer = "Some TPS"
    return made


def computed(folder: Path, reg: Dataset, tmp_path: Path, config: str = "") -> dict[str, Any]:
    """Return the metrics of the study in `folder` with a registration beside it."""
    (reg_path,) = write_datasets([reg], tmp_path / "reg")
    arguments = ["process", str(folder), str(reg_path), "--out", str(tmp_path / "out")]
    if config:
        (tmp_path / "own.toml").write_text(config)
        arguments += ["--config", str(tmp_path / "own.toml")]
    answer = run_hilum(*arguments)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    document: dict[str, Any] = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["case"]["registration_uids"] == [reg.SOPInstanceUID]
    assert [f["severity"] for f in document["findings"] if f["code"] == "reg.used"] == ["info"]
    return document


def farthest_mm(document: dict[str, Any], expected: RigidTransform, study: PhantomStudy) -> float:
    """Return how far the result lies from a pose within 30 mm of the target, at worst."""
    (found,) = document["registrations"]
    frames = expected.to_frame_uid, expected.from_frame_uid
    pose = RigidTransform(np.array(found["ct_from_mr"]), *frames)
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * 60.0 - 30.0 + study.target_centre_mm
    return pose.largest_distance_mm(expected, expected.inverse().apply(corners))


@pytest.mark.slow
def test_wrong_registration_when_received_is_only_a_candidate(
    study: PhantomStudy, folder: Path, tmp_path: Path
) -> None:
    """Issue 3: a REG that arrived is judged like any other start."""
    reg = sent(study, off_by(study, (0.0, 25.0, 0.0)))
    document = computed(folder, reg, tmp_path)
    assert farthest_mm(document, study.ct_from_mr, study) < 3.0, "voxels measure 4 mm"


@pytest.mark.parametrize("into", [pytest.param("ct", marks=pytest.mark.slow), "mr"])
def test_registration_when_the_protocol_orders_it_is_used_as_sent(
    study: PhantomStudy, folder: Path, tmp_path: Path, into: str
) -> None:
    """Issue 3: used as it is, whichever frame is the registered one; and what is sent says so."""
    pose = off_by(study, (1.5, -2.0, 1.0))
    document = computed(folder, sent(study, pose, into=into), tmp_path, AS_SENT)
    assert farthest_mm(document, pose, study) < 0.001
    ours = pydicom.dcmread(tmp_path / "out" / "REG_1.dcm")
    (item,) = (i for i in ours.RegistrationSequence if i.FrameOfReferenceUID == pose.from_frame_uid)
    matrix = item.MatrixRegistrationSequence[0].MatrixSequence[0]
    values = np.reshape([float(v) for v in matrix.FrameOfReferenceTransformationMatrix], (4, 4))
    np.testing.assert_allclose(values, pose.matrix, atol=1e-6)


def test_registration_when_it_arrives_later_makes_a_new_revision_and_ours_does_not(
    study: PhantomStudy, folder: Path, tmp_path: Path
) -> None:
    """DESIGN 3: later objects make revision n+1; our own REG that comes back makes none."""
    (reg_path,) = write_datasets([sent(study, study.ct_from_mr)], tmp_path / "reg")
    with (
        StandInReceiver(tmp_path / "tps", "TPS") as tps,
        NodeProcess(tmp_path / "node", {"tps": tps.port}) as node,
    ):
        node.send(sorted(folder.glob("*.dcm")))
        assert node.wait_for_state("delivered", "failed", "rejected").state == "delivered"
        node.send(p for p in tps.kept.values() if pydicom.dcmread(p).Modality == "REG")
        node.send([reg_path])
        case = node.wait_for_revision(2)
    assert case.revision == 2
