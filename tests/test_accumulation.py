"""Two courses that were made by hand: their sum against closed forms; what is left out, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from handlers.displacement import DisplacementField
from handlers.dose_results import CumulativeDose, OrganCumulative
from handlers.dosimetry.accumulation import accumulate
from handlers.dosimetry.reirradiation import OrganRule, ReirradiationSettings
from handlers.dosimetry.solids import Solid
from handlers.geometry import RigidTransform
from handlers.results import Registration, RegistrationStatus
from handlers.values import (
    Case,
    CtRole,
    DoseKind,
    Finding,
    PlanDose,
    PlannedTarget,
    Roi,
    Severity,
)
from tests import two_courses as scene

PLAIN = ReirradiationSettings()
STILL = ReirradiationSettings(shift_mm=0.0)
ORGAN = "Myelon"
BOX = scene.box()


def summed(
    case: Case,
    registrations: Sequence[Registration] = (scene.registration(),),
    settings: ReirradiationSettings = STILL,
    organs: Mapping[str, Solid] | None = None,
    **further: object,
) -> CumulativeDose:
    found, _ = accumulate(
        case, registrations, organs or {ORGAN: BOX}, settings, **further  # type: ignore[arg-type]
    )  # fmt: skip
    assert found is not None
    return found


def organ_of(found: CumulativeDose, name: str = ORGAN) -> OrganCumulative:
    return next(organ for organ in found.organs if organ.name == name)


def findings(
    case: Case,
    registrations: Sequence[Registration] = (scene.registration(),),
    settings: ReirradiationSettings = STILL,
) -> tuple[Finding, ...]:
    return accumulate(case, registrations, {ORGAN: BOX}, settings)[1]


@pytest.fixture(scope="module")
def current() -> PlanDose:
    return scene.current_plan()


@pytest.fixture(scope="module")
def prior() -> PlanDose:
    return scene.prior_plan()


@pytest.fixture(scope="module")
def twice(current: PlanDose, prior: PlanDose) -> Case:
    return scene.case([current], {scene.PRIOR_SERIES: [prior]})


@pytest.fixture(scope="module")
def found(twice: Case) -> CumulativeDose:
    return summed(twice, settings=PLAIN)


def check_figures(told: Mapping[str, float], truth: scene.Truth, percent: float = 0.5) -> None:
    wanted = truth.figures()
    assert set(told) == set(wanted)
    for key, value in wanted.items():
        assert told[key] == pytest.approx(value, rel=percent / 100.0), key


# --- the sum --------------------------------------------------------------------------------------


def test_sum_when_prior_ct_lies_turned_and_shifted_is_the_closed_form(
    found: CumulativeDose,
) -> None:
    """Issue 7: the voxel sum of a hand-made two-course phantom, shifted by a known registration."""
    organ = organ_of(found)
    check_figures(organ.figures, scene.Truth(3.0))
    assert organ.alpha_beta_gy == 3.0
    assert "convention" in organ.alpha_beta_said_by
    assert not organ.is_at_least
    assert organ.dvh is not None
    assert organ.dvh.structure_cm3 == pytest.approx(9.6)
    for volume_cm3 in (2.0, 4.0, 8.0):
        told = organ.dvh.dose_to_cm3(volume_cm3)
        assert told == pytest.approx(scene.Truth(3.0).hottest(volume_cm3), rel=0.005)


def test_ranges_when_prior_dose_is_shifted_are_those_of_shifts_along_the_gradient(
    found: CumulativeDose,
) -> None:
    """Only what is moved along x changes anything: the ends are moved by 3 mm there and back."""
    organ = organ_of(found)
    check_figures(organ.low, scene.Truth(3.0, step_mm=3.0))
    check_figures(organ.high, scene.Truth(3.0, step_mm=-3.0))
    assert found.shift_mm == 3.0


def test_courses_when_summed_are_told_current_first(found: CumulativeDose) -> None:
    told = [(c.dose_uids, c.fractions, c.fractions_said_by, c.is_prior) for c in found.courses]
    assert told == [
        ((scene.DOSE_UID,), 5, "plan", False),
        ((scene.PRIOR_DOSE_UID,), 10, "plan", True),
    ]
    assert found.registration_indices == (0,)
    assert found.sums == {}


def test_worst_case_when_maxima_meet_is_their_sum(found: CumulativeDose) -> None:
    """Both are hottest at the same end here, so the worst case is the highest sum."""
    organ = organ_of(found)
    now, before = organ.by_course
    edge_mm = scene.BOX_MM[0, 1]
    assert now["eqd2_max_gy"] == pytest.approx(
        float(scene.worth_gy(scene.now_gy(edge_mm), 5, 3.0)), rel=0.005
    )
    assert before["eqd2_max_gy"] == pytest.approx(
        float(scene.worth_gy(scene.before_gy(edge_mm), 10, 3.0)), rel=0.005
    )
    assert organ.worst_case_gy == now["eqd2_max_gy"] + before["eqd2_max_gy"]


def test_worst_case_when_maxima_lie_apart_is_above_the_highest_sum(
    twice: Case, current: PlanDose
) -> None:
    grid = current.dose.geometry
    falling = scene.dose_on(grid, lambda p: scene.now_gy(80.0 - p[:, 0]), scene.DOSE_UID)
    case = replace(twice, plan_doses=(replace(current, dose=falling),))
    organ = organ_of(summed(case))
    assert organ.worst_case_gy is not None
    assert organ.worst_case_gy > organ.figures["eqd2_max_gy"] + 3.0


def test_sum_when_boxes_are_coarse_finds_the_hottest_0_03_cm3(twice: Case) -> None:
    """A large organ has boxes that hold more than the volume that is asked for."""
    organ = organ_of(summed(twice, organs={ORGAN: scene.box(5.0)}))
    truth = scene.Truth(3.0)
    assert organ.figures["eqd2_d0.03cc_gy"] == pytest.approx(truth.hottest(0.03), rel=0.01)


def test_sum_when_registration_has_a_deformation_follows_it(twice: Case) -> None:
    """Inside of its rim the field is a step of 4 mm along x, so the prior dose lies 4 mm back."""
    grid = scene.geometry(scene.FRAME, 5.0, (0.0, 0.0, 0.0), (80.0, 80.0, 75.0))
    vectors = np.zeros((*grid.shape, 3), dtype=np.float32)
    vectors[1:-1, 1:-1, 1:-1, 0] = 4.0
    bent = scene.registration(deformation=DisplacementField(grid, vectors))
    found = summed(twice, [bent], PLAIN)
    check_figures(organ_of(found).figures, scene.Truth(3.0, step_mm=-4.0))
    check_figures(organ_of(found).low, scene.Truth(3.0, step_mm=-1.0))
    assert "through the deformation" in " ".join(found.reasons)


def test_sum_when_planned_again_on_the_same_ct_needs_no_registration(current: PlanDose) -> None:
    grid = scene.geometry(scene.FRAME, 3.0)
    dose = scene.dose_on(
        grid, lambda p: np.maximum(scene.before_gy(p[:, 0]), 0.0), scene.PRIOR_DOSE_UID
    )
    before = scene.plan_dose(dose, scene.PRIOR_PLAN_UID, scene.PRIOR_FRACTIONS)
    found = summed(scene.case([current], {scene.CT_SERIES: [before]}), [])
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert found.registration_indices == ()
    assert "on the same CT" in " ".join(found.reasons)


def test_sum_when_there_were_two_prior_courses_holds_both(twice: Case, prior: PlanDose) -> None:
    again = scene.plan_dose(
        replace(prior.dose, sop_instance_uid="1.2.42"), "1.2.43", scene.PRIOR_FRACTIONS
    )
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: (prior, again)})
    found = summed(case)
    check_figures(organ_of(found).figures, scene.Truth(3.0, kept=2.0))
    assert len(found.courses) == 3
    assert any("2 plans are known" in text for text in found.reasons)
    assert any(f.severity is Severity.WARNING and "2 plans" in f.text for f in findings(case))


def test_sum_on_the_dose_grid_when_wanted_is_the_closed_form_voxel_by_voxel(twice: Case) -> None:
    """One for each alpha/beta, within 1 % in every voxel."""
    settings = replace(STILL, is_sum_wanted=True)
    names = {ORGAN: "SpinalCord"}
    organs = {ORGAN: BOX, "Leber": BOX, "Haut": BOX}
    found = summed(twice, settings=settings, organs=organs, names=names)
    assert sorted(found.sums) == [2.0, 3.0]
    for ratio, dose in found.sums.items():
        grid = twice.plan_doses[0].dose.geometry
        assert dose.geometry is grid
        points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
        now = scene.worth_gy(np.maximum(scene.now_gy(points[:, 0]), 0.0), 5, ratio)
        before = scene.worth_gy(np.maximum(scene.before_gy(points[:, 0]), 0.0), 10, ratio)
        assert np.abs(dose.dose_gy.ravel() / (now + before) - 1.0).max() < 0.01
        assert dose.kind is DoseKind.EFFECTIVE
        assert dose.summation_type == "MULTI_PLAN"
        assert dose.plan_uids == (scene.PLAN_UID, scene.PRIOR_PLAN_UID)


def test_sum_on_the_dose_grid_when_a_course_names_no_plan_is_not_made(
    twice: Case, prior: PlanDose
) -> None:
    """An object of several plans must name them all: without their UIDs it is told, not written."""
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: (replace(prior, plan=None),)})
    settings = replace(STILL, is_sum_wanted=True, prior_fractions=scene.PRIOR_FRACTIONS)
    found = summed(case, settings=settings)
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert found.sums == {}
    assert any("send the RT Plans" in text for text in found.reasons)
    noticed = findings(case, settings=settings)
    assert any(f.code == "reirradiation.no_sum" for f in noticed)


def test_sum_when_dose_is_no_line_agrees_with_converting_voxel_by_voxel(current: PlanDose) -> None:
    """A Gaussian prior dose on a grid of 2.5 mm: closed form in every voxel within 1 %."""
    grid = scene.geometry(scene.FRAME, 2.5)
    centre = np.array([52.0, 41.0, 37.0])

    def bump(points: np.ndarray) -> np.ndarray:
        return 40.0 * np.exp(-np.sum((points - centre) ** 2, axis=1) / (2.0 * 20.0**2))

    way = scene.registration()
    there = scene.prior_plan().dose.geometry
    dose = scene.dose_on(there, lambda p: bump(scene.TURN.apply(p)), scene.PRIOR_DOSE_UID)
    before = scene.plan_dose(dose, scene.PRIOR_PLAN_UID, scene.PRIOR_FRACTIONS)
    case = scene.case([current], {scene.PRIOR_SERIES: [before]})
    found = summed(case, [way], replace(STILL, is_sum_wanted=True))
    points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
    truth = scene.worth_gy(scene.now_gy(points[:, 0]), 5, 3.0)
    truth = truth + scene.worth_gy(bump(points), 10, 3.0)
    assert np.abs(found.sums[3.0].dose_gy.ravel() / truth - 1.0).max() < 0.01


# --- what is not known ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def low_prior(current: PlanDose) -> PlanDose:
    """A prior dose on the same CT whose grid ends at z = 36 mm, halfway up the box."""
    grid = scene.geometry(scene.FRAME, 3.0, (-30.0, -30.0, -30.0), (111.0, 111.0, 36.0))
    dose = scene.dose_on(
        grid, lambda p: np.maximum(scene.before_gy(p[:, 0]), 0.0), scene.PRIOR_DOSE_UID
    )
    return scene.plan_dose(dose, scene.PRIOR_PLAN_UID, scene.PRIOR_FRACTIONS)


def test_sum_when_prior_grid_ends_within_the_organ_is_told_as_at_least(
    current: PlanDose, low_prior: PlanDose
) -> None:
    """Half of the box is known of both, so its hottest part is: the figures are bounds."""
    case = scene.case([current], {scene.CT_SERIES: [low_prior]})
    rule = OrganRule("*", limit_gy=500.0)
    found = summed(case, [], replace(STILL, organs=(rule,)))
    organ = organ_of(found)
    truth = scene.Truth(3.0)
    assert organ.is_at_least
    assert "eqd2_mean_gy" not in organ.figures
    assert organ.figures["eqd2_max_gy"] == pytest.approx(truth.at(50.0), rel=0.005)
    assert organ.figures["eqd2_d1cc_gy"] == pytest.approx(truth.hottest(2.0), rel=0.005)
    assert any("known in 50.0 %" in text for text in organ.reasons)
    assert any("not evaluable" in text and "500 Gy" in text for text in organ.reasons)
    assert organ.remaining is None
    noticed = findings(case, [], STILL)
    assert any(f.code == "reirradiation.at_least" and ORGAN in f.text for f in noticed)


def test_sum_when_prior_dose_does_not_reach_the_organ_is_not_told(
    current: PlanDose, low_prior: PlanDose
) -> None:
    high = scene.box(1.0, [[30, 50], [30, 50], [60, 80]])
    case = scene.case([current], {scene.CT_SERIES: [low_prior]})
    found = summed(case, [], PLAIN, {ORGAN: BOX, "Hirn": high})
    organ = organ_of(found, "Hirn")
    assert (organ.dvh, organ.figures, organ.low, organ.high) == (None, {}, {}, {})
    assert organ.worst_case_gy is None
    assert organ.by_course[0]
    assert organ.by_course[1] == {}
    assert any("prior course 1 is not known anywhere" in text for text in organ.reasons)
    assert organ_of(found).figures


def test_sum_when_current_dose_does_not_reach_the_organ_is_not_told(twice: Case) -> None:
    far = scene.box(2.0, [[30, 50], [30, 50], [-60, -40]])
    organ = organ_of(summed(twice, organs={ORGAN: far}))
    assert organ.figures == {}
    assert any("current course is not known anywhere" in text for text in organ.reasons)


def test_sum_on_the_grid_when_prior_dose_ends_is_what_the_current_one_gave(
    current: PlanDose, low_prior: PlanDose
) -> None:
    """Never zero in silence: the part of the grid where it is only a bound is told."""
    case = scene.case([current], {scene.CT_SERIES: [low_prior]})
    found = summed(case, [], replace(STILL, is_sum_wanted=True))
    dose = found.sums[3.0]
    top = dose.geometry.points_from_indices([(dose.geometry.shape[0] - 1, 20, 28)])[0]
    assert dose.dose_gy[-1, 20, 28] == pytest.approx(
        float(scene.worth_gy(scene.now_gy(top[0]), 5, 3.0)), rel=1e-5
    )
    (told,) = [text for text in found.reasons if "summed dose" in text]
    z = dose.geometry.points_from_indices([(i, 0, 0) for i in range(dose.geometry.shape[0])])[:, 2]
    percent = 100.0 * np.mean((z > 36.0 + 1e-6) | (z < -30.0 - 1e-6))
    assert float(told.split(" %")[0].split()[-1]) == pytest.approx(percent, abs=0.06)


def changed(plan: PlanDose, **changes: object) -> PlanDose:
    return replace(plan, dose=replace(plan.dose, **changes))  # type: ignore[arg-type]


def planned(plan: PlanDose, **changes: object) -> PlanDose:
    assert plan.plan is not None
    return replace(plan, plan=replace(plan.plan, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: changed(p, kind=DoseKind.EFFECTIVE), "EFFECTIVE"),
        (lambda p: changed(p, summation_type="MULTI_PLAN"), "sum of several plans"),
        (lambda p: changed(p, plan_uids=("1.2.41", "1.2.42")), "sum of several plans"),
        (lambda p: planned(p, fractions=None), "reirradiation.prior_fractions"),
        (lambda p: planned(p, fractions=None, fraction_groups=2), "2 fraction groups"),
        (lambda p: planned(p, targets=(PlannedTarget(1, 500.0),)), "prescribes 500 Gy"),
        (lambda p: replace(p, plan=None), "reirradiation.prior_fractions"),
    ],
)
def test_prior_course_when_it_has_no_eqd2_is_left_out_with_the_reason(
    current: PlanDose, prior: PlanDose, spoil: object, told: str
) -> None:
    assert callable(spoil)
    case = scene.case([current], {scene.PRIOR_SERIES: [spoil(prior)]})
    found = summed(case)
    assert found.organs == ()
    assert [course.is_prior for course in found.courses] == [False]
    assert any(told in text for text in found.reasons)
    noticed = findings(case)
    assert any(f.severity is Severity.WARNING and told in f.text for f in noticed)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: changed(p, kind=DoseKind.EFFECTIVE), "EFFECTIVE"),
        (lambda p: planned(p, fractions=None), "prescription.fractions"),
        (lambda p: planned(p, fractions=None, fraction_groups=2), "2 fraction groups"),
    ],
)
def test_current_course_when_it_has_no_eqd2_stops_the_sum(
    current: PlanDose, prior: PlanDose, spoil: object, told: str
) -> None:
    assert callable(spoil)
    found = summed(scene.case([spoil(current)], {scene.PRIOR_SERIES: [prior]}))
    assert found.organs == ()
    assert [course.is_prior for course in found.courses] == [True]
    assert any("Current course" in text and told in text for text in found.reasons)


def test_current_course_when_no_dose_came_stops_the_sum(prior: PlanDose) -> None:
    found = summed(scene.case([], {scene.PRIOR_SERIES: [prior]}))
    assert found.organs == ()
    assert any("no dose that was planned on the planning CT came" in t for t in found.reasons)


def test_current_course_when_several_plans_came_is_the_first(
    twice: Case, current: PlanDose
) -> None:
    other = changed(current, sop_instance_uid="1.2.99", dose_gy=current.dose.dose_gy * 2.0)
    found = summed(replace(twice, plan_doses=(current, other)))
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert any("Of 2 plans" in text for text in found.reasons)


def test_registration_when_it_failed_is_never_used(twice: Case) -> None:
    failed = scene.registration(status=RegistrationStatus.FAIL, reasons=("Engines disagree.",))
    found = summed(twice, [failed])
    assert found.organs == ()
    assert any("failed: Engines disagree." in text for text in found.reasons)
    assert found.registration_indices == ()


def test_registration_when_it_is_doubtful_is_used_with_its_reason(twice: Case) -> None:
    doubtful = scene.registration(
        status=RegistrationStatus.WARN, reasons=("Bone is cut.",), uncertainty_mm=4.2
    )
    found = summed(twice, [doubtful], PLAIN)
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert any("Bone is cut." in text for text in found.reasons)
    assert any("4.2 mm, more than the shifts of 3 mm" in text for text in found.reasons)
    noticed = findings(twice, [doubtful])
    assert any(f.severity is Severity.WARNING and "Bone is cut." in f.text for f in noticed)


def test_registration_when_there_is_none_leaves_the_course_out(twice: Case) -> None:
    other = scene.registration(series=scene.OTHER_SERIES)
    found = summed(twice, [other])
    assert found.organs == ()
    assert any("was not registered" in text for text in found.reasons)


def test_registration_when_it_is_of_another_frame_leaves_the_course_out(twice: Case) -> None:
    other = scene.registration(RigidTransform(scene.TURN.matrix, scene.FRAME, "1.2.77"))
    found = summed(twice, [other])
    assert found.organs == ()
    assert any("does not lie in the frame of reference" in text for text in found.reasons)


def test_one_of_two_prior_courses_when_left_out_makes_the_sum_a_bound(
    twice: Case, prior: PlanDose
) -> None:
    again = changed(prior, sop_instance_uid="1.2.42", kind=DoseKind.EFFECTIVE)
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: (prior, again)})
    rule = OrganRule("*", limit_gy=500.0)
    organ = organ_of(summed(case, settings=replace(STILL, organs=(rule,))))
    check_figures(organ.figures, scene.Truth(3.0))
    assert organ.is_at_least
    assert organ.remaining is None


def test_rejected_plan_when_among_the_prior_ones_does_not_count(
    twice: Case, prior: PlanDose
) -> None:
    refused = planned(prior, approval="REJECTED", sop_instance_uid="1.2.43")
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: (refused, prior)})
    found = summed(case)
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert not organ_of(found).is_at_least
    assert any("REJECTED" in text for text in found.reasons)


def test_sum_of_plans_when_its_plans_are_here_too_is_not_added_again(
    twice: Case, prior: PlanDose
) -> None:
    total = replace(
        changed(prior, summation_type="MULTI_PLAN", plan_uids=(scene.PRIOR_PLAN_UID,)), plan=None
    )
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: (prior, total)})
    organ = organ_of(summed(case))
    check_figures(organ.figures, scene.Truth(3.0))
    assert not organ.is_at_least


def test_dose_when_its_ct_is_not_known_to_be_an_earlier_plans_is_no_course(
    current: PlanDose, prior: PlanDose
) -> None:
    """A dose on a CBCT, or on a CT of unknown purpose, was perhaps never delivered: it is told."""
    for role, severity in ((CtRole.FURTHER, Severity.WARNING), (CtRole.CBCT, Severity.INFO)):
        case = scene.case([current], {scene.PRIOR_SERIES: [prior]}, role)
        found, noticed = accumulate(case, [scene.registration()], {ORGAN: BOX}, PLAIN)
        assert found is None
        assert [(f.code, f.severity) for f in noticed] == [("reirradiation.not_counted", severity)]


def test_cumulative_dose_when_there_is_no_prior_course_is_none(current: PlanDose) -> None:
    assert accumulate(scene.case([current], {}), [], {ORGAN: BOX}, PLAIN) == (None, ())


# --- what the protocol says -----------------------------------------------------------------------


def test_fractions_when_no_plan_tells_them_are_those_of_the_protocol(
    twice: Case, current: PlanDose, prior: PlanDose
) -> None:
    case = scene.case(
        [replace(current, plan=None)], {scene.PRIOR_SERIES: [planned(prior, fractions=None)]}
    )
    found = summed(case, settings=replace(STILL, current_fractions=5, prior_fractions=10))
    check_figures(organ_of(found).figures, scene.Truth(3.0))
    assert [course.fractions_said_by for course in found.courses] == ["protocol", "protocol"]
    doubts = [text for text in found.reasons if "tells no number of fractions" in text]
    assert len(doubts) == 1, "a plan of the prior course came, none of the current one"
    assert "prior course 1" in doubts[0]


def test_fractions_when_a_plan_tells_them_are_not_those_of_the_protocol(twice: Case) -> None:
    settings = replace(STILL, current_fractions=1, prior_fractions=1)
    check_figures(organ_of(summed(twice, settings=settings)).figures, scene.Truth(3.0))


def test_fractions_of_the_protocol_when_two_prior_courses_lack_them_are_not_used(
    twice: Case, prior: PlanDose
) -> None:
    silent = [
        planned(changed(prior, sop_instance_uid=uid), sop_instance_uid=f"{uid}.1", fractions=None)
        for uid in ("1.2.41", "1.2.42")
    ]
    case = replace(twice, other_plan_doses={scene.PRIOR_SERIES: tuple(silent)})
    found = summed(case, settings=replace(STILL, prior_fractions=10))
    assert found.organs == ()
    assert sum("nothing says which is meant" in text for text in found.reasons) == 2


def test_alpha_beta_when_the_organ_is_known_is_its_own(twice: Case) -> None:
    """The department's word first, then the table by TG-263 name, then the generic late one."""
    organs = {"Myelon": BOX, "Darm": BOX, "GTV": BOX, "Krempel": BOX, "Niere": BOX}
    names = {"Myelon": "SpinalCord", "Darm": "Bowel_Small"}
    rules = (
        OrganRule("niere*", alpha_beta_gy=2.5),
        OrganRule("bowel_*", alpha_beta_gy=4.0),
    )
    found = summed(
        twice,
        settings=replace(STILL, organs=rules),
        organs=organs,
        names=names,
        targets={"GTV"},
    )
    told = {organ.name: organ.alpha_beta_gy for organ in found.organs}
    assert told == {"Myelon": 2.0, "Darm": 4.0, "GTV": 10.0, "Krempel": 3.0, "Niere": 2.5}
    for organ in found.organs:
        check_figures(organ.figures, scene.Truth(organ.alpha_beta_gy))
    assert organ_of(found, "Niere").alpha_beta_said_by == "protocol"
    assert "verified" in organ_of(found, "Myelon").alpha_beta_said_by
    tracked = {
        o.name: any("Not anatomically tracked" in t for t in o.reasons) for o in found.organs
    }
    assert [name for name, is_told in tracked.items() if is_told] == ["Darm"]


def test_structure_when_drawn_as_target_or_body_is_taken_for_that(twice: Case) -> None:
    """By RT ROI Interpreted Type: a target has 10 Gy, the outline of the body is no organ."""
    rois = (Roi(1, "Boost", "PTV", ()), Roi(2, "Haut", "EXTERNAL", ()), Roi(3, "Darm", "ORGAN", ()))
    case = replace(twice, structure_set=replace(twice.structure_set, rois=rois))
    found = summed(case, organs={"Boost": BOX, "Haut": BOX, "Darm": BOX})
    assert {o.name: o.alpha_beta_gy for o in found.organs} == {"Boost": 10.0, "Darm": 3.0}


def test_organ_when_drawn_as_target_by_mistake_keeps_its_own_alpha_beta(twice: Case) -> None:
    """With that of tumors the sum in it would be told too low."""
    rois = (Roi(1, "Myelon", "CTV", ()), Roi(2, "Boost", "CTV", ()))
    case = replace(twice, structure_set=replace(twice.structure_set, rois=rois))
    organs, names = {"Myelon": BOX, "Boost": BOX}, {"Myelon": "SpinalCord"}
    told = {o.name: o.alpha_beta_gy for o in summed(case, organs=organs, names=names).organs}
    assert told == {"Myelon": 2.0, "Boost": 10.0}


def test_recovery_when_configured_is_told_with_and_without(twice: Case) -> None:
    rule = OrganRule("*", recovery=0.25, recovery_because="6 months, cord")
    organ = organ_of(summed(twice, settings=replace(PLAIN, organs=(rule,))))
    check_figures(organ.figures, scene.Truth(3.0, kept=0.75))
    check_figures(organ.low, scene.Truth(3.0, kept=0.75, step_mm=3.0))
    check_figures(organ.without_recovery, scene.Truth(3.0))
    assert any("25 % recovery" in text and "6 months, cord" in text for text in organ.reasons)
    full = organ_of(summed(twice))
    assert full.recovery == 0.0
    assert full.without_recovery == {}
    assert organ.worst_case_gy == full.worst_case_gy
    assert organ.by_course == full.by_course


def test_limit_when_configured_is_judged_and_tells_what_it_leaves(twice: Case) -> None:
    """Left for the current course: by hand, limit - EQD2 of the prior course, solved for d."""
    before = float(scene.worth_gy(scene.before_gy(50.0 - 30.0 / scene.CROSS_SECTION_MM2), 10, 3.0))
    rule = OrganRule("*", limit_gy=60.0, limit_source="Department 2026")
    organ = organ_of(summed(twice, settings=replace(STILL, organs=(rule,))))
    assert organ.limit_gy == 60.0
    assert organ.remaining is not None
    assert organ.remaining.eqd2_gy == pytest.approx(60.0 - before, abs=0.005 * before)
    assert organ.remaining.fractions == 5
    back = scene.worth_gy(organ.remaining.dose_gy, 5, 3.0)
    assert float(back) == pytest.approx(organ.remaining.eqd2_gy, abs=1e-6)
    excess = scene.Truth(3.0).hottest(0.03) - 60.0
    (told,) = [text for text in organ.reasons if "Cumulative limit" in text]
    assert "Department 2026" in told
    assert float(told.split("exceeded by ")[1].split()[0]) == pytest.approx(excess, abs=0.2)
    noticed = findings(twice, settings=replace(STILL, organs=(rule,)))
    assert any(f.code == "reirradiation.limit" for f in noticed)


def test_limit_when_prior_courses_alone_exceed_it_leaves_nothing(twice: Case) -> None:
    rule = OrganRule("*", limit_gy=10.0)
    organ = organ_of(summed(twice, settings=replace(STILL, organs=(rule,))))
    assert organ.remaining is not None
    assert organ.remaining.eqd2_gy < 0.0
    assert organ.remaining.dose_gy == 0.0


def test_limit_when_there_is_room_is_met(twice: Case) -> None:
    rule = OrganRule("*", limit_gy=500.0)
    organ = organ_of(summed(twice, settings=replace(STILL, organs=(rule,))))
    assert any(text.endswith("met.") for text in organ.reasons)


@pytest.mark.parametrize(
    ("limit_gy", "verdict"), [(500.0, "not evaluable, for some contours"), (10.0, "exceeded by")]
)
def test_limit_when_contours_of_the_organ_are_lost_is_not_met(
    twice: Case, limit_gy: float, verdict: str
) -> None:
    """What is lost may have got more than what is left; what exceeds a limit exceeds it."""
    settings = replace(STILL, organs=(OrganRule("*", limit_gy=limit_gy),))
    organ = organ_of(summed(twice, settings=settings, doubtful=(ORGAN,)))
    (told,) = [text for text in organ.reasons if "Cumulative limit" in text]
    assert verdict in told
    assert organ.remaining is None


def test_limit_when_only_a_shift_exceeds_it_is_met_with_a_warning(twice: Case) -> None:
    value = scene.Truth(3.0).hottest(0.03)
    highest = scene.Truth(3.0, step_mm=-3.0).hottest(0.03)
    rule = OrganRule("*", limit_gy=(value + highest) / 2.0)
    organ = organ_of(summed(twice, settings=replace(PLAIN, organs=(rule,))))
    (told,) = [text for text in organ.reasons if "Cumulative limit" in text]
    assert "met, but exceeded by up to" in told
    excess = float(told.split("up to ")[1].split()[0])
    assert excess == pytest.approx((highest - value) / 2.0, abs=0.2)


def test_small_organ_when_measured_lacks_the_figures_that_need_more(twice: Case) -> None:
    tiny = scene.box(0.25, [[40, 41], [40, 42], [30, 32]])  # 0.004 cm3
    rule = OrganRule("*", limit_gy=500.0)
    organ = organ_of(summed(twice, settings=replace(PLAIN, organs=(rule,)), organs={ORGAN: tiny}))
    assert set(organ.figures) == {"eqd2_max_gy", "eqd2_mean_gy"}
    assert organ.remaining is None
    assert any("not evaluable" in text for text in organ.reasons)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: OrganRule("*", alpha_beta_gy=0.0), "alpha/beta"),
        (lambda: OrganRule("*", recovery=0.5), "justification"),
        (lambda: OrganRule("*", recovery=1.5, recovery_because="x"), "between 0 and 1"),
        (lambda: OrganRule("*", limit_gy=-1.0), "limit"),
        (lambda: ReirradiationSettings(prior_fractions=0), "fraction"),
        (lambda: ReirradiationSettings(shift_mm=-1.0), "shifts"),
    ],
)
def test_settings_when_senseless_are_refused(make: object, told: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=told):
        make()
