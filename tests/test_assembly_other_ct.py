"""CT beside the planning CT: which join a case, which make their own, which are left out."""

from typing import Any

import pytest

from node.other_ct import MOST_WITHOUT_CONTOURS, OtherCt
from tests.stored_instances import (
    LATER_S,
    LIVER,
    WEEK_S,
    check_only_case,
    contours,
    ct,
    flat,
    linked,
    look,
    mr,
    stored,
)

CBCT: dict[str, Any] = {"acquisition_date": "20260310"}
"""In the planning CT's frame (9.1), nine days later."""

EARLIER: dict[str, Any] = {"frame_of_reference_uid": "9.3", "acquisition_date": "20240301"}


def check_other(*objects: Any, expected: list[OtherCt], **situation: Any) -> None:
    """Check which other CT the case of structure set 3.1 has, and that their objects are its."""
    (case,) = (c for c in look(*objects, **situation) if c.structure_set_uid == "3.1")
    assert list(case.other_ct) == expected
    held = {one.header.series_instance_uid for one in case.instances}
    assert {other.series_uid for other in expected} == held & {
        one.header.series_instance_uid
        for one in flat(objects)
        if one.header.modality == "CT" and one.header.series_instance_uid != "1.1"
    }


@pytest.mark.parametrize(
    "given",
    [
        CBCT,
        {**CBCT, "frame_of_reference_uid": "9.8", "study_instance_uid": "5.9"},
        {"frame_of_reference_uid": "9.8", "acquisition_date": "20260201"},
        {"study_date": "", "acquisition_date": ""},
    ],
    ids=["CBCT in the frame", "CBCT in its own frame", "a month earlier", "date not told"],
)
def test_ct_without_contours_joins_and_waits_for_no_structure_set(given: dict[str, Any]) -> None:
    """Issue 3: like an MR, by patient and window; it is no planning CT of its own."""
    objects = ct(), mr(), contours(), ct("1.2", **given)
    assert len(look(*objects)) == 1
    check_other(*objects, expected=[OtherCt("1.2")])


def test_new_ct_makes_a_new_revision() -> None:
    """Each CBCT is a new question."""
    (before,) = look(ct(), mr(), contours())
    (after,) = look(ct(), mr(), contours(), ct("1.2", **CBCT))
    assert before.case_id == after.case_id
    assert before.fingerprint != after.fingerprint


def test_earlier_planning_ct_joins_with_contours_and_dose_and_stays_a_case() -> None:
    """Re-irradiation: the earlier plan is part of the later case; the later is none of its."""
    prior = [
        *ct("1.2", **EARLIER),
        contours("3.2", series="1.2", frame_of_reference_uid="9.3"),
        linked("RTPLAN", "4.1", "3.2"),
        linked("RTDOSE", "4.2", "4.1", frame_of_reference_uid="9.3"),
    ]
    objects = ct(), mr(), contours(), prior
    check_other(*objects, expected=[OtherCt("1.2", "3.2", ("4.2",), ("4.1",))])
    cases = {case.structure_set_uid: case for case in look(*objects)}
    assert set(cases) == {"3.1", "3.2"}
    assert cases["3.2"].ct_series_uid == "1.2"
    assert cases["3.2"].other_ct == ()
    assert "other_ct_left_out" in [finding.code for finding in cases["3.2"].findings]


def test_later_planning_ct_does_not_join() -> None:
    """A new plan is a case of its own, which the earlier one does not care about."""
    later: dict[str, Any] = {"frame_of_reference_uid": "9.3", "acquisition_date": "20260320"}
    new = ct("1.2", **later), contours("3.2", series="1.2", frame_of_reference_uid="9.3")
    check_other(ct(), mr(), contours(), *new, expected=[])


def test_cbct_on_which_organs_are_drawn_joins_with_them() -> None:
    """Real shape (pancreas-ct): in the planning CT's frame, with a structure set of its own."""
    drawn = contours("3.2", series="1.2", roi_names=("Stomach_CBCT",))
    objects = ct(), mr(), contours(), ct("1.2", **CBCT), drawn
    check_other(*objects, expected=[OtherCt("1.2", "3.2")])
    target_too = contours("3.2", series="1.2")
    cases = {c.structure_set_uid: c for c in look(ct(), contours(), ct("1.2", **CBCT), target_too)}
    assert cases["3.1"].other_ct == (OtherCt("1.2", "3.2"),)
    assert cases["3.2"].other_ct == (), "the planning CT is no comparison for the CBCT's case"


@pytest.mark.parametrize(
    ("objects", "protocol", "severity"),
    [
        (ct("1.2", acquisition_date="20250101"), {}, "info"),
        (
            [*ct("1.2", **EARLIER), contours("3.2", series="1.2")],
            {"prior_window_days": 30.0},
            "info",
        ),
        (ct("1.2", **CBCT, series_description="CBCT"), {"other_ct": ("prior*",)}, "info"),
        (ct("1.2", **CBCT), {"other_ct": ()}, "info"),
        (ct("1.2", count=2, **CBCT), {}, "info"),
        (ct("1.2", **CBCT, patient_sex="M"), {}, "warning"),
    ],
    ids=["window", "window of priors", "description", "none wanted", "two slices", "sex"],
)
def test_ct_is_left_out_with_its_reason(
    objects: list[Any], protocol: dict[str, Any], severity: str
) -> None:
    """Nothing is dropped silently, nothing of a doubtful identity is taken."""
    protocols = [LIVER.model_copy(update=protocol)]
    given = ct(), mr(), contours(), objects
    check_other(*given, expected=[], protocols=protocols)
    (case,) = (c for c in look(*given, protocols=protocols) if c.structure_set_uid == "3.1")
    told = [(f.code, f.severity) for f in case.findings]
    assert told == [("other_ct_left_out", severity)]


def test_ct_of_another_patient_is_never_mentioned() -> None:
    """No join, and nothing told about the other."""
    objects = ct(), mr(), contours(), ct("1.2", **CBCT, patient_id="OTHER")
    check_other(*objects, expected=[])
    case = next(c for c in look(*objects) if c.structure_set_uid)
    assert case.findings == ()


def test_only_the_newest_ct_are_registered_when_there_are_many() -> None:
    """Dozens of CBCT: the last ones count, and people are told."""
    many = [ct(f"1.{20 + i}", acquisition_date=f"202603{10 + i}") for i in range(6)]
    newest = [OtherCt(f"1.{25 - i}") for i in range(MOST_WITHOUT_CONTOURS)]
    objects = [*ct(), *mr(), contours(), *flat(many)]
    check_other(*objects, expected=sorted(newest, key=lambda other: other.series_uid))
    (case,) = look(*objects)
    assert [f.text for f in case.findings] == [
        "3 older CT series on which nothing is drawn left out"
    ]


def test_case_without_mr_goes_on_when_another_ct_is_there_and_patience_has_ended() -> None:
    """A CBCT is a question of its own; MR is waited for all the same."""
    objects = ct(), contours(), ct("1.2", **CBCT)
    missing = "no MR series of this patient has arrived"
    check_only_case(*objects, waiting=[missing], next_look_s=WEEK_S, at_s=LATER_S)
    check_only_case(*objects, findings=["no_mr"], at_s=WEEK_S + 1)


def test_registration_of_another_ct_joins() -> None:
    """A REG between CBCT and planning CT is a candidate like one of an MR."""
    cbct = ct("1.2", **{**CBCT, "frame_of_reference_uid": "9.8"})
    reg = stored("REG", "4.4", registered_frame_uids=("9.1", "9.8"))
    (case,) = look(ct(), mr(), contours(), cbct, reg)
    assert "4.4" in [one.header.sop_instance_uid for one in case.instances]
