"""Which plans and doses belong to which CT: by reference, else by frame if one CT can be meant."""

from typing import Any

import pytest

from node.assembly import CaseProposal, StoredInstance
from node.case_job import case_job
from node.config import Config
from node.other_ct import OtherCt
from tests.stored_instances import LIVER, START, contours, ct, linked, look, mr

EARLIER: dict[str, Any] = {"frame_of_reference_uid": "9.3", "acquisition_date": "20240301"}
"""An earlier CT in a frame of its own."""

SAME_FRAME: dict[str, Any] = {"acquisition_date": "20260110"}
"""Seven weeks before the planning CT, in its frame."""

USUAL = (ct(), mr(), contours())
PLANNED = (linked("RTPLAN", "4.1", "3.1"), linked("RTDOSE", "4.2", "4.1"))


def case_of(*objects: Any, structure_set: str = "3.1") -> CaseProposal:
    (case,) = (one for one in look(*objects) if one.structure_set_uid == structure_set)
    return case


def drawn(uid: str, series: str, **given: Any) -> StoredInstance:
    """Return a structure set on another CT."""
    frame = {"frame_of_reference_uid": "9.3"} if series == "1.2" else {}
    return contours(uid, series=series, **{**frame, **given})


def check_planned(
    *objects: Any, doses: tuple[str, ...], plans: tuple[str, ...], findings: tuple[str, ...] = ()
) -> None:
    """Check what was planned on the planning CT, and that all of it is the case's."""
    case = case_of(*USUAL, *objects)
    assert (case.dose_uids, case.plan_uids) == (doses, plans)
    held = {one.header.sop_instance_uid for one in case.instances}
    assert {*doses, *plans} <= held
    assert tuple(finding.code for finding in case.findings) == findings


def test_all_doses_and_plans_of_the_structure_set_join() -> None:
    """Two plans of one patient, one of them beam by beam."""
    beams = [linked("RTDOSE", f"4.2.{n}", "4.1") for n in (1, 2, 3)]
    second = linked("RTPLAN", "4.5", "3.1"), linked("RTDOSE", "4.6", "4.5")
    plans, doses = ("4.1", "4.5"), ("4.2.1", "4.2.2", "4.2.3", "4.6")
    check_planned(PLANNED[0], beams, second, doses=doses, plans=plans)


def test_plan_of_another_structure_set_of_the_same_ct_joins() -> None:
    """It is compared, and decoding tells for which structure set it was made."""
    other = contours("3.2"), linked("RTPLAN", "4.5", "3.2"), linked("RTDOSE", "4.6", "4.5")
    check_planned(*PLANNED, *other, doses=("4.2", "4.6"), plans=("4.1", "4.5"))


def test_plan_whose_structure_set_has_not_come_joins_with_its_dose() -> None:
    """A planning system that made its own copy of what was drawn, and sent the dose alone."""
    other = linked("RTPLAN", "4.5", "3.9"), linked("RTDOSE", "4.6", "4.5")
    check_planned(*other, doses=("4.6",), plans=("4.5",))
    check_planned(other[0], doses=(), plans=())


def test_plan_of_a_structure_set_on_the_mr_joins_if_its_dose_lies_in_the_frame_of_the_ct() -> None:
    """The dose was calculated on the CT, whatever the target was drawn on."""
    on_mr = contours("3.5", series="2.1", frame_of_reference_uid="9.2")
    plan = linked("RTPLAN", "4.5", "3.5")
    check_planned(on_mr, plan, linked("RTDOSE", "4.6", "4.5"), doses=("4.6",), plans=("4.5",))


def test_dose_whose_plan_has_not_come_joins_by_its_frame() -> None:
    """peers.md 32: the frame of reference is the last resort; decoding tells that it was."""
    check_planned(linked("RTDOSE", "4.2", "4.1"), doses=("4.2",), plans=())


def test_dose_of_another_frame_joins_its_plan_to_be_refused_with_a_reason() -> None:
    """Bad input: it is not dropped silently."""
    dose = linked("RTDOSE", "4.2", "4.1", frame_of_reference_uid="9.7")
    check_planned(PLANNED[0], dose, doses=("4.2",), plans=("4.1",))


def test_dose_of_a_course_without_its_ct_is_told() -> None:
    """An earlier course of which only the dose has come would be missing in the sum."""
    lonely = linked("RTDOSE", "4.7", "4.8", frame_of_reference_uid="9.7")
    stranger = linked("RTDOSE", "4.9", frame_of_reference_uid="9.7", patient_id="OTHER")
    check_planned(lonely, stranger, doses=(), plans=(), findings=("dose_without_ct",))
    check_planned(stranger, doses=(), plans=())


@pytest.mark.parametrize(
    "dose",
    [
        [linked("RTDOSE", "4.7")],
        [linked("RTDOSE", "4.7", "4.8")],
        [linked("RTPLAN", "4.8", "3.9"), linked("RTDOSE", "4.7", "4.8")],
    ],
    ids=["no plan named", "plan not here", "structure set not here"],
)
def test_dose_that_two_ct_of_a_frame_could_have_is_left_out(dose: list[StoredInstance]) -> None:
    """Both were drawn on in one frame: on which it was planned is not guessed."""
    cbct = ct("1.3", acquisition_date="20260310"), contours("3.3", series="1.3")
    for structure_set in ("3.1", "3.3"):
        case = case_of(*USUAL, *cbct, dose, structure_set=structure_set)
        assert case.dose_uids == ()
        assert [f.code for f in case.findings].count("dose_without_plan") == 1
    # a CT on which nobody drew takes no dose from the one that was drawn on
    check_planned(cbct[0], dose, doses=("4.7",), plans=("4.8",) if len(dose) == 2 else ())


def test_dose_planned_on_a_ct_that_has_not_come_is_left_out() -> None:
    """The structure set of its plan names another CT of the frame."""
    elsewhere = contours("3.4", series="1.4"), linked("RTPLAN", "4.5", "3.4")
    check_planned(
        *elsewhere,
        linked("RTDOSE", "4.6", "4.5"),
        doses=(),
        plans=(),
        findings=("dose_without_plan",),
    )


def test_sum_of_plans_joins_the_ct_in_whose_frame_it_lies() -> None:
    """A composite of both courses, made on the current CT, is no dose of the earlier one."""
    prior = [*ct("1.2", **EARLIER), drawn("3.2", "1.2"), linked("RTPLAN", "4.5", "3.2")]
    case = case_of(*USUAL, *PLANNED, prior, linked("RTDOSE", "4.7", "4.1", "4.5"))
    assert case.dose_uids == ("4.2", "4.7")
    assert case.other_ct == (OtherCt("1.2", "3.2", (), ("4.5",)),)


# An earlier course


def prior_course(
    series: str = "1.2", plan: str = "4.5", doses: tuple[str, ...] = ("4.6",), **given: Any
) -> list[StoredInstance]:
    """Return an earlier CT with structure set, plan and doses."""
    at = {**EARLIER, **given}
    frame = {"frame_of_reference_uid": at["frame_of_reference_uid"]}
    return [
        *ct(series, **at),
        contours("3.2", series=series, **frame),
        linked("RTPLAN", plan, "3.2"),
        *(linked("RTDOSE", uid, plan, **frame) for uid in doses),
    ]


def test_all_doses_and_plans_of_an_earlier_course_join() -> None:
    """Its beams are summed by decoding; a second plan of it is a course of its own."""
    boost = (
        linked("RTPLAN", "4.8", "3.2"),
        linked("RTDOSE", "4.9", "4.8", frame_of_reference_uid="9.3"),
    )
    case = case_of(*USUAL, *PLANNED, prior_course(doses=("4.6", "4.7")), *boost)
    assert case.other_ct == (OtherCt("1.2", "3.2", ("4.6", "4.7", "4.9"), ("4.5", "4.8")),)
    assert (case.dose_uids, case.plan_uids) == (("4.2",), ("4.1",))


def test_structure_set_that_was_planned_on_stands_for_an_earlier_ct() -> None:
    """A later copy of its contours, on which nothing was planned, does not hide it."""
    copied = contours("3.8", series="1.2", frame_of_reference_uid="9.3", at_s=50.0)
    case = case_of(*USUAL, *PLANNED, prior_course(), copied)
    assert [other.structure_set_uid for other in case.other_ct] == ["3.2"]


def test_dose_of_an_earlier_course_joins_by_its_frame_alone() -> None:
    """Without plan and structure set reference: the only CT of that frame is meant."""
    loose = linked("RTDOSE", "4.6", frame_of_reference_uid="9.3")
    case = case_of(*USUAL, *PLANNED, ct("1.2", **EARLIER), drawn("3.2", "1.2"), loose)
    assert case.other_ct == (OtherCt("1.2", "3.2", ("4.6",)),)


def test_earlier_planned_ct_of_the_same_frame_joins_if_both_were_planned_on() -> None:
    """A new plan on a new CT that was aligned to the old one; a CBCT is not planned on."""
    prior = prior_course(frame_of_reference_uid="9.1", **SAME_FRAME)
    case = case_of(*USUAL, *PLANNED, prior)
    assert case.other_ct == (OtherCt("1.2", "3.2", ("4.6",), ("4.5",)),)
    assert (case.dose_uids, case.plan_uids) == (("4.2",), ("4.1",))
    later = case_of(*USUAL, *PLANNED, prior, structure_set="3.2")
    assert later.other_ct == (OtherCt("1.1", "3.1", ("4.2",), ("4.1",)),)
    unplanned = case_of(*USUAL, prior)
    assert unplanned.other_ct == ()


def test_earlier_course_that_is_left_out_is_a_warning() -> None:
    """What was given before and is in no sum must not stand among the trifles."""
    protocols = [LIVER.model_copy(update={"prior_window_days": 30.0})]
    (case,) = (
        one
        for one in look(*USUAL, *PLANNED, prior_course(), protocols=protocols)
        if one.structure_set_uid == "3.1"
    )
    (finding,) = case.findings
    assert (finding.code, finding.severity) == ("other_ct_left_out", "warning")
    assert "1 RT Dose planned on it" in finding.text
    undated = prior_course(acquisition_date="", study_date="")
    (finding,) = case_of(*USUAL, *PLANNED, undated).findings
    assert (finding.code, finding.severity) == ("other_ct_left_out", "warning")


def test_job_names_the_files_of_each_course() -> None:
    """What assembly found reaches the child, each under its CT."""
    case = case_of(*USUAL, *PLANNED, linked("RTDOSE", "4.3"), prior_course(doses=("4.6", "4.7")))
    job = case_job(case, LIVER, Config(), root="/", created=START)
    assert job.doses == ("objects/4.2", "objects/4.3")
    assert job.plans == ("objects/4.1",)
    prior = job.other_ct["1.2"]
    assert prior.structure_set == "objects/3.2"
    assert (prior.doses, prior.plans) == (("objects/4.6", "objects/4.7"), ("objects/4.5",))
