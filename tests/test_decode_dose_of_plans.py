"""Which doses make the whole dose of a plan: preferred, summed, or left out with the reason."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from handlers.decode import DecodedCase
from handlers.values import DoseKind, Severity
from tests import datasets
from tests.decoding import codes, decode

GROUPS = {1: (1, 2), 2: (1,)}


def dose(uid: str, scaling: float = 0.01, **given: Any) -> Dataset:
    return datasets.dose(SOPInstanceUID=uid, DoseGridScaling=scaling, **given)


def beam(number: int, scaling: float, *, uid: str = "", group: int = 1, **given: Any) -> Dataset:
    """Return the dose of one beam."""
    usual: dict[str, Any] = {"groups": {group: (number,)}, "DoseSummationType": "BEAM"}
    return dose(uid or f"4.{group}.{number}", scaling, **{**usual, **given})


def fraction_group(number: int, scaling: float) -> Dataset:
    return dose(
        f"4.{number}", scaling, groups={number: ()}, DoseSummationType="FRACTION"
    )  # fmt: skip


def check_sum(decoded: DecodedCase, scaling: float, *uids: str) -> None:
    """Check the only dose of the only plan: that many Gy per stored value, from these objects."""
    (planned,) = decoded.case.plan_doses
    plane, row, column = np.indices((3, 4, 3))
    expected = scaling * (100 * plane + 10 * row + column)
    np.testing.assert_allclose(planned.dose.dose_gy, expected, rtol=1e-6)
    assert planned.dose_uids == uids
    assert planned.dose.summation_type == "PLAN"
    assert planned.dose.plan_uids == (datasets.PLAN,)
    assert planned.plan is not None


def check_none(decoded: DecodedCase, *expected: str) -> None:
    """Check that there is no dose, and that each code is told as a warning."""
    assert decoded.case.plan_doses == ()
    assert codes(decoded) == dict.fromkeys(expected, Severity.WARNING)


def test_doses_of_all_beams_are_summed() -> None:
    """0.004 + 0.007 Gy per stored value; five fractions each, for a beam's dose is of all."""
    decoded = decode(doses=[beam(1, 0.004), beam(2, 0.007)], plans=[datasets.plan()])
    check_sum(decoded, 0.011, "4.1.1", "4.1.2")
    (planned,) = decoded.case.plan_doses
    assert planned.dose.sop_instance_uid == ""
    assert codes(decoded) == {"dose.summed": Severity.INFO}


def test_one_dose_of_all_beams_is_the_whole() -> None:
    """Several beams may share one dose object."""
    whole = beam(1, 0.01, groups={1: (2, 1)})
    decoded = decode(doses=[whole], plans=[datasets.plan()])
    check_sum(decoded, 0.01, "4.1.1")
    assert codes(decoded) == {"dose.summed": Severity.INFO}


def test_beams_of_two_fraction_groups_are_told_apart() -> None:
    """Beam 1 of group 1 is not beam 1 of group 2."""
    plans = [datasets.plan(groups=GROUPS)]
    doses = [beam(1, 0.004), beam(2, 0.002), beam(1, 0.005, group=2)]
    decoded = decode(doses=doses, plans=plans)
    check_sum(decoded, 0.011, "4.1.1", "4.1.2", "4.2.1")
    check_none(
        decode(doses=doses[:2], plans=plans), "dose.parts_missing", "plan.fraction_groups"
    )  # fmt: skip


def test_fraction_group_that_is_not_named_is_the_only_one() -> None:
    """Some exports leave the number out: where there is one group it can be no other."""
    doses = [beam(1, 0.004), beam(2, 0.007)]
    for ds in doses:
        del (
            ds.ReferencedRTPlanSequence[0]
            .ReferencedFractionGroupSequence[0]
            .ReferencedFractionGroupNumber
        )
    check_sum(decode(doses=doses, plans=[datasets.plan()]), 0.011, "4.1.1", "4.1.2")


def test_dose_of_the_only_fraction_group_is_the_plan_s() -> None:
    """PS3.3 C.8.8.3: FRACTION is the entire delivery of a group, not one session."""
    decoded = decode(doses=[fraction_group(1, 0.01)], plans=[datasets.plan()])
    check_sum(decoded, 0.01, "4.1")


def test_doses_of_all_fraction_groups_are_summed() -> None:
    """A first series and a boost in one plan; no number of fractions holds for both."""
    plans = [datasets.plan(groups=GROUPS)]
    both = [fraction_group(1, 0.008), fraction_group(2, 0.003)]
    decoded = decode(doses=both, plans=plans)
    check_sum(decoded, 0.011, "4.1", "4.2")
    (planned,) = decoded.case.plan_doses
    assert planned.plan is not None
    assert planned.plan.fractions is None
    check_none(decode(doses=both[:1], plans=plans), "dose.parts_missing", "plan.fraction_groups")


@pytest.mark.parametrize(
    ("parts", "scaling", "expected"),
    [
        ([beam(1, 0.004), beam(2, 0.007)], 0.01105, {"dose.parts_unused": Severity.INFO}),
        ([beam(1, 0.004), beam(2, 0.007)], 0.0112, {"dose.parts_differ": Severity.WARNING}),
        ([fraction_group(1, 0.011)], 0.0112, {"dose.parts_differ": Severity.WARNING}),
        ([beam(1, 0.004)], 0.0112, {"dose.parts_unused": Severity.INFO}),
    ],
    ids=["the same", "another calculation", "another of the group", "a beam is missing"],
)
def test_dose_of_the_plan_is_preferred_to_its_parts_and_held_to_them(
    parts: list[Dataset], scaling: float, expected: dict[str, Severity]
) -> None:
    """Never both: that would count the dose twice. More than 1 % apart is told."""
    decoded = decode(doses=[*parts, dose("4.9", scaling)], plans=[datasets.plan()])
    check_sum(decoded, scaling, "4.9")
    assert codes(decoded) == expected
    if "dose.parts_differ" in expected:
        (told,) = decoded.case.findings
        assert told.numbers["percent"] == pytest.approx(100 * (1 - 0.011 / 0.0112), rel=1e-3)


def shifted(ds: Dataset) -> Dataset:
    ds.ImagePositionPatient = [-9.0, 20.0, -30.0]
    return ds


def setups(number: int) -> Dataset:
    ds = datasets.plan()
    ds.FractionGroupSequence[0].NumberOfBrachyApplicationSetups = number
    return ds


@pytest.mark.parametrize(
    ("doses", "plan", "code"),
    [
        ([beam(1, 0.01)], datasets.plan(), "dose.parts_missing"),
        ([beam(1, 0.01), beam(2, 0.01)], setups(1), "dose.parts_missing"),
        ([beam(1, 0.01), beam(2, 0.01), beam(7, 0.01)], datasets.plan(), "dose.parts_unknown"),
        (
            [beam(1, 0.01), beam(2, 0.01), beam(1, 0.01, uid="4.9", groups={1: (1, 2)})],
            datasets.plan(),
            "dose.parts_overlap",
        ),
        ([beam(1, 0.01), shifted(beam(2, 0.01))], datasets.plan(), "dose.grids_differ"),
        ([beam(1, 0.01), beam(2, 0.01, groups={})], datasets.plan(), "dose.parts_untold"),
        ([beam(1, 0.01), beam(2, 0.0)], datasets.plan(), "dose.scaling"),
        ([fraction_group(2, 0.01)], datasets.plan(), "dose.parts_missing"),
    ],
    ids=[
        "missing beam",
        "applicators",
        "beam of no plan",
        "beam twice",
        "grids",
        "untold",
        "unfit",
        "group",
    ],
)
def test_parts_that_make_no_whole_are_not_summed(
    doses: list[Dataset], plan: Dataset, code: str
) -> None:
    """A sum without one of its beams would be a wrong number."""
    decoded = decode(doses=doses, plans=[plan])
    assert decoded.case.plan_doses == ()
    assert codes(decoded)[code] is Severity.WARNING
    assert set(codes(decoded)) <= {code, "dose.parts_missing"}


def test_missing_beams_are_named() -> None:
    """Who exports again must know which."""
    plan = datasets.plan(groups={1: (1, 2, 5, 9)})
    decoded = decode(doses=[beam(2, 0.01)], plans=[plan])
    (finding,) = decoded.case.findings
    assert "beams 1, 5, 9" in finding.text


@pytest.mark.parametrize(
    "summation",
    [
        "FRACTION_SESSION",
        "BEAM_SESSION",
        "CONTROL_POINT",
        "RECORD",
        "BRACHY",
        "BRACHY_SESSION",
        "PLAN_OVERVIEW",
        "",
    ],
)
def test_dose_that_is_no_plan_s_is_left_out(summation: str) -> None:
    """One session, one control point, what was recorded, or what does not tell."""
    decoded = decode(doses=[datasets.dose(DoseSummationType=summation)], plans=[datasets.plan()])
    check_none(decoded, "dose.not_whole", "plan.without_dose")


@pytest.mark.parametrize("summation", ["BEAM", "FRACTION"])
def test_parts_of_a_plan_that_has_not_come_are_left_out(summation: str) -> None:
    """Only the plan tells which parts there are."""
    named = datasets.dose(DoseSummationType=summation, groups={1: (1,)})
    check_none(decode(doses=[named]), "dose.parts_without_plan")
    loose = datasets.dose(DoseSummationType=summation, plan_uids=())
    check_none(decode(doses=[loose]), "dose.not_whole")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "dose.without_plan"),
        ({"plan_uids": ()}, "dose.without_plan"),
        ({"plan_uids": ("6.1", "6.2"), "DoseSummationType": "MULTI_PLAN"}, "dose.several_plans"),
        ({"plan_uids": ("6.1", "6.2")}, "dose.several_plans"),
    ],
    ids=["plan not here", "no plan named", "sum of plans", "two plans named"],
)
def test_whole_dose_without_its_plan_is_kept_and_told(given: dict[str, Any], code: str) -> None:
    """It lies in the CT's frame; prescription and fractions are not known of it."""
    decoded = decode(doses=[datasets.dose(**given)])
    (planned,) = decoded.case.plan_doses
    assert planned.plan is None
    assert planned.dose_uids == (datasets.DOSE,)
    assert codes(decoded) == {code: Severity.WARNING}


def test_sum_of_plans_lends_its_dose_to_none_of_them() -> None:
    """The fractions of one plan do not hold for the sum of two."""
    both = datasets.dose(plan_uids=(datasets.PLAN, "6.2"), DoseSummationType="MULTI_PLAN")
    decoded = decode(doses=[both, dose("4.9", 0.0112)], plans=[datasets.plan()])
    assert [one.dose_uids for one in decoded.case.plan_doses] == [("4.9",), (datasets.DOSE,)]
    assert decoded.case.plan_doses[1].plan is None


def test_effective_dose_stands_beside_the_physical_one() -> None:
    """Proton systems export both; they are two doses of one plan, the physical first."""
    doses = [dose("4.1", 0.011, DoseType="EFFECTIVE"), dose("4.2", 0.01)]
    decoded = decode(doses=doses, plans=[datasets.plan()])
    kinds = [(one.dose.kind, one.dose_uids) for one in decoded.case.plan_doses]
    assert kinds == [(DoseKind.PHYSICAL, ("4.2",)), (DoseKind.EFFECTIVE, ("4.1",))]
    assert codes(decoded) == {"dose.effective": Severity.WARNING}


# Revisions


def made(day: str, time: str = "120000") -> dict[str, str]:
    return {"InstanceCreationDate": day, "InstanceCreationTime": time}


def test_dose_that_was_made_last_counts() -> None:
    """Of two doses of one plan the newer replaces the older, and people are told."""
    doses = [dose("4.2", 0.011, **made("20260301", "1300")), dose("4.8", 0.01, **made("20260301"))]
    for given in (doses, doses[::-1]):
        decoded = decode(doses=given, plans=[datasets.plan()])
        check_sum(decoded, 0.011, "4.2")
        assert codes(decoded) == {"dose.revisions": Severity.WARNING}


def test_beam_s_dose_that_was_made_last_counts() -> None:
    """Likewise for parts."""
    doses = [
        beam(1, 0.004, **made("20260301")),
        beam(1, 0.009, uid="4.7", **made("20260228")),
        beam(2, 0.007, **made("20260301")),
    ]
    check_sum(decode(doses=doses, plans=[datasets.plan()]), 0.011, "4.1.1", "4.1.2")


def test_equal_doses_count_once() -> None:
    """The same export sent twice under new UIDs."""
    decoded = decode(doses=[dose("4.1"), dose("4.2")], plans=[datasets.plan()])
    check_sum(decoded, 0.01, "4.1")
    assert codes(decoded) == {"dose.revisions": Severity.INFO}


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {}), (made("20260301"), {}), (made("20260301"), made("20260301"))],
    ids=["no dates", "one date", "one moment"],
)
def test_doses_that_do_not_tell_which_was_made_last_are_left_out(
    first: dict[str, str], second: dict[str, str]
) -> None:
    """Which of two differing doses a plan has is not guessed."""
    doses = [dose("4.1", 0.01, **first), dose("4.2", 0.011, **second)]
    check_none(decode(doses=doses, plans=[datasets.plan()]), "dose.ambiguous")


def test_newest_dose_that_is_unfit_is_not_replaced_by_an_older_one() -> None:
    """The older one was replaced for a reason."""
    doses = [
        dose("4.1", 0.01, **made("20260301")),
        dose("4.2", 0.01, **made("20260302"), DoseUnits="RELATIVE"),
        beam(1, 0.004),
        beam(2, 0.007),
    ]
    decoded = decode(doses=doses, plans=[datasets.plan()])
    assert decoded.case.plan_doses == ()
    assert codes(decoded)["dose.units"] is Severity.WARNING


# Several plans


def test_plans_of_the_structure_set_come_first_then_the_newest() -> None:
    """CT-planned and MR-planned are compared: each stands with its own dose."""
    plans = [
        datasets.plan(SOPInstanceUID="6.1", RTPlanDate="20260301"),
        datasets.plan(SOPInstanceUID="6.2", RTPlanDate="20260310"),
        datasets.plan(SOPInstanceUID="6.3", RTPlanDate="20260320", structure_set_uid="1.2.3"),
        datasets.plan(SOPInstanceUID="6.4", RTPlanDate="20260310", RTPlanTime="235959"),
    ]
    doses = [dose(f"4.{n}", plan_uids=(f"6.{n}",)) for n in (1, 2, 3, 4)]
    decoded = decode(doses=[*doses, dose("4.5", plan_uids=())], plans=plans)
    assert [one.dose_uids[0] for one in decoded.case.plan_doses] == [
        "4.4",
        "4.2",
        "4.1",
        "4.3",
        "4.5",
    ]
    assert codes(decoded) == {
        "plan.other_structure_set": Severity.WARNING,
        "dose.without_plan": Severity.WARNING,
    }
