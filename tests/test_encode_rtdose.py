"""The sum of courses as RT Dose: what it says, what outside judges say, and that it reads back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeformableSpatialRegistrationStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    SpatialRegistrationStorage,
)

from handlers.decode.dose import decode_dose
from handlers.dose_results import Course, CumulativeDose, DoseMeasures, EndCap
from handlers.encode.deformable import encode_deformable_registration
from handlers.encode.identity import ResultSet
from handlers.encode.rtdose import encode_summed_dose, summed_doses
from handlers.errors import EncodingError
from handlers.geometry import Geometry
from handlers.lint import Subject, lint
from handlers.lint.rule import Level
from handlers.values import DoseGrid, DoseKind
from node.outputs import output_of
from tests.encode_cases import (
    CT_FRAME,
    CT_STUDY,
    EncodeCase,
    as_received,
    axes,
    build_case,
    bytes_of,
    written,
)
from tests.grids import HFS
from tests.test_encode_deformable import field
from tests.test_encode_other_ct import with_other_ct
from tests.test_encode_peers import PeerProgram, errors_of

PLAN_UID, PRIOR_PLAN_UID = "1.2.826.0.1.60.1", "1.2.826.0.1.61.1"
DOSE_UID, PRIOR_DOSE_UID = "1.2.826.0.1.62.1", "1.2.826.0.1.63.1"
PRIOR_STUDY = "1.2.826.0.1.69"
PRIOR_REGISTRATION = 3
"""Behind two MR and a CBCT."""

HALF_STEP_GY = 0.5 * 130.0 / 65535.0
"""The highest dose here is 130 Gy."""


def radiotherapy(sop_class_uid: str, uid: str, study: str = CT_STUDY, plan: str = "") -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{uid}.9"
    if plan:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = RTIonPlanStorage, plan
        ds.ReferencedRTPlanSequence = [item]
    return ds


def grid(directions: np.ndarray) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = directions * (2.5, 1.75, 2.0)
    matrix[:3, 3] = (-31.0625, -20.3333, 104.5)
    return Geometry(CT_FRAME, matrix, (5, 9, 7))


def with_sums(
    case: EncodeCase, directions: np.ndarray = HFS, *, is_same_ct: bool = False
) -> EncodeCase:
    """Return a case of two courses with sums by two alpha/beta; its prior CT comes last."""
    geometry = grid(directions)
    rng = np.random.default_rng(5)
    sums = {
        ratio: DoseGrid(
            geometry,
            rng.uniform(0.0, 130.0, geometry.shape).astype(np.float32),
            summation_type="MULTI_PLAN",
            kind=DoseKind.EFFECTIVE,
            plan_uids=(PLAN_UID, PRIOR_PLAN_UID),
        )
        for ratio in (3.0, 2.0)
    }
    cumulative = CumulativeDose(
        courses=(
            Course("now", (DOSE_UID,), 5, "plan", is_prior=False),
            Course("before", (PRIOR_DOSE_UID,), 10, "plan", is_prior=True),
        ),
        registration_indices=() if is_same_ct else (len(case.result.registrations) - 1,),
        organs=(),
        shift_mm=3.0,
        sums=sums,
    )
    held = (
        radiotherapy(RTPlanStorage, PLAN_UID),
        radiotherapy(RTDoseStorage, DOSE_UID),
        radiotherapy(RTDoseStorage, PRIOR_DOSE_UID, PRIOR_STUDY, plan=PRIOR_PLAN_UID),
    )
    changed = case.with_result(dose=DoseMeasures((), cumulative, EndCap.HALF_SLICE))
    return replace(changed, sources=replace(case.sources, radiotherapy=held))


def with_bent_prior() -> EncodeCase:
    """Return the case whose earlier planning CT was registered with a deformation."""
    case = with_other_ct()
    maps = list(case.result.registrations)
    maps[PRIOR_REGISTRATION] = replace(maps[PRIOR_REGISTRATION], deformation=field(case))
    return case.with_result(registrations=tuple(maps))


def sum_of(case: EncodeCase, index: int = 0) -> Dataset:
    """Return one sum as a receiver reads it, without the rest of the result set."""
    result_set = ResultSet(case.result, case.sources, case.authorship)
    return as_received(encode_summed_dose(result_set, index))


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    return with_sums(with_other_ct())


@pytest.fixture(scope="module")
def objects(case: EncodeCase) -> dict[str, Dataset]:
    return written(case)


def test_sums_when_written_are_one_object_for_each_alpha_beta(
    objects: dict[str, Dataset],
) -> None:
    """By ascending alpha/beta, each in a series of its own, and a kind that can be chosen."""
    names = [name for name in objects if name.startswith("RTDOSE")]
    assert names == ["RTDOSE_1.dcm", "RTDOSE_2.dcm"]
    assert {output_of(name) for name in names} == {"dose"}
    two, three = (objects[name] for name in names)
    assert two.DoseComment == "EQD2, alpha/beta 2 Gy, 2 courses, no recovery"
    assert three.SeriesDescription == "EQD2, alpha/beta 3 Gy, 2 courses, no recovery"
    assert two.SeriesInstanceUID != three.SeriesInstanceUID


def test_sums_when_not_asked_for_are_none() -> None:
    case = build_case()
    assert summed_doses(ResultSet(case.result, case.sources, case.authorship)) == []


def test_object_when_read_says_what_it_is(objects: dict[str, Dataset]) -> None:
    """A biologically weighted sum of plans, brought here by a rigid registration."""
    ds = objects["RTDOSE_1.dcm"]
    assert (ds.DoseUnits, ds.DoseType, ds.DoseSummationType) == ("GY", "EFFECTIVE", "MULTI_PLAN")
    assert [item.CodeValue for item in ds.DerivationCodeSequence] == ["121370", "121377"]
    assert ds.SpatialTransformOfDose == "RIGID"
    (way,) = ds.ReferencedSpatialRegistrationSequence
    registration = objects[f"REG_{PRIOR_REGISTRATION + 1}.dcm"]
    assert way.ReferencedSOPInstanceUID == registration.SOPInstanceUID
    assert way.ReferencedSOPClassUID == SpatialRegistrationStorage
    plans = [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in ds.ReferencedRTPlanSequence
    ]
    assert plans == [(RTPlanStorage, PLAN_UID), (RTIonPlanStorage, PRIOR_PLAN_UID)]
    sources = [
        (item.ReferencedSOPInstanceUID, item.PurposeOfReferenceCodeSequence[0].CodeValue)
        for item in ds.ReferencedInstanceSequence
    ]
    assert sources == [(DOSE_UID, "121372"), (PRIOR_DOSE_UID, "121372")]
    (other,) = ds.StudiesContainingOtherReferencedInstancesSequence
    assert other.StudyInstanceUID == PRIOR_STUDY


def test_object_when_the_prior_ct_was_deformed_names_that_registration() -> None:
    case = with_sums(with_bent_prior())
    ds = sum_of(case)
    assert ds.SpatialTransformOfDose == "NON_RIGID"
    (way,) = ds.ReferencedSpatialRegistrationSequence
    result_set = ResultSet(case.result, case.sources, case.authorship)
    bent = encode_deformable_registration(result_set, PRIOR_REGISTRATION)
    assert way.ReferencedSOPInstanceUID == bent.SOPInstanceUID
    assert way.ReferencedSOPClassUID == DeformableSpatialRegistrationStorage


def test_object_when_all_was_planned_on_one_ct_was_not_transformed() -> None:
    ds = sum_of(with_sums(build_case(), is_same_ct=True))
    assert ds.SpatialTransformOfDose == "NONE"
    assert "ReferencedSpatialRegistrationSequence" not in ds


@pytest.mark.parametrize(
    "directions",
    [HFS, HFS * (-1, 1, 1), axes(is_prone_oblique=True)[::-1].T],
    ids=["slices up", "slices down", "oblique"],
)
def test_object_when_read_back_is_the_dose_where_it_was(directions: np.ndarray) -> None:
    """Every voxel within half a step of 2 mGy, at its place within 0.001 mm."""
    case = with_sums(build_case(), directions, is_same_ct=True)
    assert case.result.dose is not None
    assert case.result.dose.cumulative is not None
    told = case.result.dose.cumulative.sums[2.0]
    read, found = decode_dose(sum_of(case), CT_FRAME)
    assert read is not None, [finding.text for finding in found]
    assert read.kind is DoseKind.EFFECTIVE
    assert read.plan_uids == (PLAN_UID, PRIOR_PLAN_UID)
    indices = np.indices(told.geometry.shape).reshape(3, -1).T
    at = read.geometry.indices_from_points(told.geometry.points_from_indices(indices))
    nearest = np.rint(at).astype(int)
    assert np.abs((at - nearest) * read.geometry.spacing_mm).max() < 0.001
    values = read.dose_gy[tuple(nearest.T)]
    assert np.abs(values - told.dose_gy[tuple(indices.T)]).max() <= HALF_STEP_GY * 1.01


def test_object_when_made_twice_has_equal_bytes(case: EncodeCase) -> None:
    result_set = ResultSet(case.result, case.sources, case.authorship)
    first, second = (bytes_of(encode_summed_dose(result_set, 1)) for _ in range(2))
    assert first == second


def test_lint_when_run_on_the_sum_finds_no_error(objects: dict[str, Dataset]) -> None:
    """The export gate: rules of the standard and of planning systems."""
    report = lint([Subject(name, ds) for name, ds in objects.items()], ["eclipse", "raystation"])
    errors = [
        (problem.rule.id, problem.place)
        for problem in report.problems
        if problem.rule.level is Level.ERROR and problem.name.startswith("RTDOSE")
    ]
    assert errors == []
    assert ("RTDOSE_1.dcm", "dose.no-plan") in _broken(objects, "ReferencedRTPlanSequence")
    assert ("RTDOSE_1.dcm", "dose.scaling") in _broken(objects, "DoseGridScaling")


def _broken(objects: dict[str, Dataset], without: str) -> set[tuple[str, str]]:
    """Return what the gate tells of a sum that lacks an attribute: it is awake."""
    ds = as_received(objects["RTDOSE_1.dcm"])
    delattr(ds, without)
    return {(p.name, p.rule.id) for p in lint([Subject("RTDOSE_1.dcm", ds)]).problems}


def test_dciodvfy_when_run_on_the_sum_finds_no_error(
    objects: dict[str, Dataset], tmp_path: Path, peer_program: PeerProgram
) -> None:
    """And the judge is awake: without its units it complains."""
    dciodvfy = peer_program("dciodvfy")
    ds = objects["RTDOSE_1.dcm"]
    path = tmp_path / "sum.dcm"
    path.write_bytes(bytes_of(ds))
    assert errors_of(dciodvfy, path) == set()
    broken = as_received(ds)
    del broken.DoseUnits
    path.write_bytes(bytes_of(broken))
    assert errors_of(dciodvfy, path) != set()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"plan_uids": (PLAN_UID,)}, "at least two courses"),
        ({"geometry": Geometry("1.2.3", grid(HFS).patient_from_index, (5, 9, 7))}, "frame"),
    ],
)
def test_object_when_it_cannot_be_valid_is_refused(
    case: EncodeCase, spoil: dict[str, object], told: str
) -> None:
    assert case.result.dose is not None
    assert case.result.dose.cumulative is not None
    cumulative = case.result.dose.cumulative
    broken = replace(cumulative.sums[2.0], **spoil)  # type: ignore[arg-type]
    changed = replace(cumulative, sums={2.0: broken})
    with pytest.raises(EncodingError, match=told):
        sum_of(case.with_result(dose=replace(case.result.dose, cumulative=changed)))
