"""A synthetic patient irradiated twice, through DICOM: found, converted, summed, as made."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from handlers.decode import CaseDatasets, decode_case
from handlers.dose_results import CumulativeDose, EndCap, OrganCumulative
from handlers.dosimetry.accumulation import accumulate
from handlers.dosimetry.reirradiation import OrganRule, ReirradiationSettings
from handlers.dosimetry.solids import Solid, solid_from_contours
from handlers.geometry import Geometry
from handlers.results import Registration, RegistrationStatus
from handlers.values import Case
from node.compute import pipeline_settings
from node.compute_job import ComputeSettings
from node.config import Protocol, read_config
from node.errors import ConfigError
from node.phantom import radiotherapy
from node.phantom.courses import (
    PRIOR_FRACTIONS,
    PRIOR_PRESCRIPTION_GY,
    PRIOR_TARGET_OFFSET_MM,
    PRIOR_TARGET_RADII_MM,
)
from node.phantom.options import PhantomOptions
from node.phantom.solids import as_point, ellipsoid
from node.phantom.study import PhantomStudy, make_study

TARGET = "GTVn"
ORGANS = (TARGET, "Liver", "V_Portal", "V_Venacava_I")
FINE_MM = 1.5
BELOW_SKIN_MM = 8.0
"""The phantom's dose ends within 3 mm at the skin, which no grid of 3 mm shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Twice:
    """The patient as made and as decoded, and what was summed."""

    study: PhantomStudy
    case: Case
    registration: Registration
    organs: dict[str, Solid]
    summed: CumulativeDose

    def organ(self, name: str) -> OrganCumulative:
        return next(each for each in self.summed.organs if each.name == name)


@pytest.fixture(scope="module")
def twice() -> Twice:
    study = make_study(PhantomOptions(seed=2, size="tiny", contrasts=(), prior=True))
    prior = study.prior
    assert prior is not None
    assert study.dose is not None
    assert study.plan is not None
    uid = str(prior.ct[0].SeriesInstanceUID)
    case = decode_case(
        CaseDatasets(
            ct=study.ct,
            structure_set=study.structure_set,
            mr={},
            doses=[study.dose],
            plans=[study.plan],
            other_ct={uid: prior.ct},
            other_structure_sets={uid: prior.structure_set},
            other_doses={uid: [prior.dose]},
            other_plans={uid: [prior.plan]},
        )
    ).case
    registration = Registration(
        prior.ct_from_prior, RegistrationStatus.PASS, (), 1.0, {}, uid, (uid,), (0.0, 0.0, 0.0)
    )
    organs = {
        roi.name: solid_from_contours(roi.contours, case.ct.geometry, EndCap.HALF_SLICE)
        for roi in case.structure_set.rois
        if roi.name in ORGANS
    }
    settings = ReirradiationSettings(is_sum_wanted=True)
    summed, _ = accumulate(case, [registration], organs, settings, targets=[TARGET])
    assert summed is not None
    return Twice(study, case, registration, organs, summed)


def worth(dose_gy: npt.NDArray[np.float64], fractions: int, ratio: float) -> np.ndarray:
    return (dose_gy**2 / fractions + dose_gy * ratio) / (2.0 + ratio)


def truth(study: PhantomStudy, grid: Geometry, ratio: float) -> np.ndarray:
    """Return the EQD2 of both courses as they were made, from formulas, at the voxels of a grid."""
    patient, options = study.patient, study.options
    body = patient.in_ct(patient.anatomy.organs["External"])
    now = radiotherapy.dose_gy(grid, study.drawn, body, patient.centre, options.prescription_gy)
    centre = as_point(np.add(patient.centre, PRIOR_TARGET_OFFSET_MM))
    target = ellipsoid(centre, PRIOR_TARGET_RADII_MM)
    before = radiotherapy.dose_gy(grid, target, body, centre, PRIOR_PRESCRIPTION_GY)
    return worth(now, options.fractions, ratio) + worth(before, PRIOR_FRACTIONS, ratio)


def fine_grid(frame: str, points: npt.NDArray[np.float64]) -> Geometry:
    """Return a fine grid around points."""
    low, high = points.min(axis=0) - FINE_MM, points.max(axis=0) + FINE_MM
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, ::-1] * FINE_MM
    matrix[:3, 3] = low
    columns, rows, slices = np.ceil((high - low) / FINE_MM).astype(int) + 1
    return Geometry(frame, matrix, (int(slices), int(rows), int(columns)))


def test_courses_when_decoded_are_found_with_fractions_and_interval(twice: Twice) -> None:
    """The earlier planning CT, its dose and its plan are found among what came."""
    now, before = twice.summed.courses
    assert (now.fractions, now.fractions_said_by, now.is_prior) == (5, "plan", False)
    assert (before.fractions, before.fractions_said_by, before.is_prior) == (28, "plan", True)
    assert before.label == "First"
    assert before.interval_days is not None
    assert 700 < before.interval_days < 800
    assert twice.summed.registration_indices == (0,)


@pytest.mark.parametrize("ratio", [2.0, 3.0])
def test_summed_grid_when_compared_with_formulas_agrees_voxel_by_voxel(
    twice: Twice, ratio: float
) -> None:
    """Below the skin, where both doses are known: median within 0.2 %, 98 of 100 within 3 %.

    The prior dose lies on a grid of 3 mm, between whose points it is taken as linear.
    """
    dose = twice.summed.sums[ratio]
    wanted = truth(twice.study, dose.geometry, ratio)
    points = dose.geometry.points_from_indices(np.indices(dose.geometry.shape).reshape(3, -1).T)
    prior = next(iter(twice.case.other_plan_doses.values()))[0].dose
    there = twice.registration.ct_from_mr.inverse().apply(points)
    at = prior.geometry.indices_from_points(there)
    known = np.all((at >= 0) & (at <= np.array(prior.geometry.shape) - 1), axis=1)
    patient = twice.study.patient
    body = patient.in_ct(patient.anatomy.organs["External"])
    known &= body.distance(*points.T.astype(np.float32)) < -BELOW_SKIN_MM
    told, wanted = dose.dose_gy.ravel()[known], wanted.ravel()[known]
    seen = wanted > 0.5
    assert np.count_nonzero(seen) > 10_000
    off = np.abs(told[seen] / wanted[seen] - 1.0)
    assert np.median(off) < 0.002
    assert np.quantile(off, 0.98) < 0.03


@pytest.mark.parametrize("name", [TARGET, "Liver", "V_Portal"])
def test_organ_when_compared_with_formulas_on_a_fine_grid_agrees(twice: Twice, name: str) -> None:
    """The organ as it was made, not as it was drawn: contours lie 4 mm apart."""
    organ = twice.organ(name)
    grid = fine_grid(twice.case.ct.geometry.frame_of_reference_uid, twice.organs[name].centres_mm)
    patient = twice.study.patient
    solid = twice.study.drawn if name == TARGET else patient.in_ct(patient.anatomy.organs[name])
    points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T).astype(np.float32)
    inside = solid.distance(*points.T) < 0
    falling = np.sort(truth(twice.study, grid, organ.alpha_beta_gy).ravel()[inside])[::-1]
    for key, volume_cm3 in (("eqd2_d0.1cc_gy", 0.1), ("eqd2_d1cc_gy", 1.0)):
        place = round(volume_cm3 * 1000.0 / FINE_MM**3)
        assert organ.figures[key] == pytest.approx(float(falling[place]), rel=0.06), key
    if name == TARGET:
        assert organ.figures["eqd2_mean_gy"] == pytest.approx(float(falling.mean()), rel=0.02)


def test_organ_when_the_registration_is_wrong_is_within_what_the_shifts_tell(twice: Twice) -> None:
    """A registration that is off by 3 mm along an axis gives what the ranges announced."""
    for axis in range(3):
        matrix = twice.registration.ct_from_mr.matrix.copy()
        matrix[axis, 3] += 3.0
        off = replace(twice.registration.ct_from_mr, matrix=matrix)
        wrong = replace(twice.registration, ct_from_mr=off)
        settings = ReirradiationSettings(shift_mm=0.0)
        found, _ = accumulate(twice.case, [wrong], twice.organs, settings, targets=[TARGET])
        assert found is not None
        for organ in found.organs:
            told = twice.organ(organ.name)
            for key, value in organ.figures.items():
                if key in told.low:
                    assert told.low[key] * 0.99 <= value <= told.high[key] * 1.01, (axis, key)


def test_findings_when_decoded_and_summed_hold_no_patient_identifier(twice: Twice) -> None:
    settings = ReirradiationSettings(shift_mm=0.0)
    _, found = accumulate(twice.case, [twice.registration], twice.organs, settings)
    text = " ".join(finding.text for finding in found)
    assert text
    for identifier in (twice.study.ct[0].PatientName, twice.study.ct[0].PatientID):
        assert str(identifier) not in text


# --- what the protocol says -----------------------------------------------------------------------

PROTOCOL = """
[[protocol]]
name = "twice"
targets = ["GTVn*"]
[protocol.prescription]
dose_gy = 40.0
fractions = 5
[protocol.reirradiation]
"""


def read(folder: Path, rules: str) -> Protocol:
    path = folder / "hilum.toml"
    path.write_text(PROTOCOL + rules, encoding="utf-8")
    return read_config(path).protocol[0]


def settings_of(protocol: Protocol) -> ReirradiationSettings:
    told = ComputeSettings(
        target_patterns=protocol.targets,
        max_outward_mm=protocol.max_outward_mm,
        prescription=protocol.prescription,
        reirradiation=protocol.reirradiation,
    )
    return pipeline_settings(told).dose.reirradiation


def test_protocol_when_it_says_nothing_gives_no_recovery_no_limit_no_fractions(
    tmp_path: Path,
) -> None:
    """0 % recovery unless configured; fractions and cumulative limits are never made up."""
    found = settings_of(read(tmp_path, ""))
    assert found == ReirradiationSettings(current_fractions=5)
    assert (found.prior_fractions, found.organs, found.is_sum_wanted) == (None, (), False)
    assert found.shift_mm == 3.0


def test_protocol_when_it_has_rules_hands_them_to_the_core(tmp_path: Path) -> None:
    rules = """prior_fractions = 25
shift_mm = 5.0
eqd2_dose = true
[[protocol.reirradiation.organ]]
name = "SpinalC*"
alpha_beta_gy = 2.5
recovery = 0.25
recovery_because = "tumor board"
limit_eqd2_gy = 60.0
limit_source = "SOP 12"
"""
    assert settings_of(read(tmp_path, rules)) == ReirradiationSettings(
        prior_fractions=25,
        current_fractions=5,
        organs=(OrganRule("SpinalC*", 2.5, 0.25, "tumor board", 60.0, "SOP 12"),),
        shift_mm=5.0,
        is_sum_wanted=True,
    )


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("prior_fractions = 0", "prior_fractions"),
        ("prior_fractions = 12.5", "prior_fractions"),
        ("shift_mm = -1.0", "shift_mm"),
        ("recovery = 0.5", "recovery: unknown key"),
        ('organ = [{name = "*", recovery = 0.5}]', "recovery needs recovery_because"),
        ('organ = [{name = "*", recovery = 50.0, recovery_because = "x"}]', "recovery"),
        ('organ = [{name = "*", limit_eqd2_gy = 60.0}]', "limit_eqd2_gy needs limit_source"),
        ('organ = [{name = "*", alpha_beta_gy = 0.0}]', "alpha_beta_gy"),
        ('organ = [{name = "*", alphabeta_gy = 3.0}]', "alphabeta_gy: unknown key"),
    ],
)
def test_protocol_when_a_rule_is_senseless_is_refused_by_its_key(
    tmp_path: Path, rules: str, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, rules)
    assert any(told in problem for problem in refused.value.problems), refused.value.problems
