"""What the report tells of dose, read back by highdicom: numbers, verdicts, both courses."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import RTDoseStorage, RTPlanStorage

from handlers.dose_results import (
    Comparison,
    Course,
    CumulativeDose,
    DoseMeasures,
    Dvh,
    EndCap,
    Limit,
    LimitStatus,
    LimitVerdict,
    OrganCumulative,
    PlanMeasures,
    Prescribed,
    RemainingDose,
    StructureDose,
    TargetVersion,
)
from tests.encode_cases import EncodeCase, build_case, report_of, texts_of

DUODENUM_5CC = Limit(
    "Duodenum", "D5cc", 18.0, "Gy", 5, "ulceration", "TG-101 Table III", "secondary copy", "tg101"
)
DUODENUM_MAX = Limit(
    "Duodenum", "Dmax", 32.0, "Gy", 5, "ulceration", "TG-101 Table III", "secondary copy", "tg101"
)
LIVER_SPARED = Limit(
    "Liver", "CV19.2Gy", 700.0, "cm3", 3, "liver function", "TG-101", "secondary copy", "tg101"
)


def histogram(volume_cm3: float) -> Dvh:
    return Dvh(np.array([1.0, 20.0]), np.array([volume_cm3, 0.5]), volume_cm3, 7.5)


def measures() -> DoseMeasures:
    plan = PlanMeasures(
        label="Hilum 40/5",
        plan_uid="1.2.3.4",
        dose_uids=("1.2.3.5", "1.2.3.6"),
        prescribed=Prescribed(40.0, 5, "plan"),
        structures=(
            StructureDose(
                "GTVn1",
                "GTVn1",
                TargetVersion.DRAWN,
                histogram(4.25),
                {"d95_gy": 38.5, "mean_gy": 43.21, "coverage_percent": 93.75, "d0.03cc_gy": 47.5},
            ),
            StructureDose(
                "GTVn1_CT1MR1",
                "GTVn1",
                TargetVersion.REFINED,
                histogram(3.5),
                {"d95_gy": 40.25, "ci_paddick": 0.8125, "v95_percent": float("nan")},
                ("The isodose reaches the rim of the dose grid: no gradient index.",),
            ),
            StructureDose("Duodenum", "", None, histogram(60.0), {"max_gy": 33.5, "d50_gy": 6.25}),
        ),
        limits=(
            LimitVerdict(DUODENUM_5CC, "Duodenum", LimitStatus.MET, 12.125),
            LimitVerdict(DUODENUM_MAX, "Duodenum", LimitStatus.EXCEEDED, 33.0, is_bound=True),
            LimitVerdict(
                LIVER_SPARED, "", LimitStatus.NOT_EVALUABLE, None, reason="no ROI is the liver"
            ),
        ),
        unmatched={"Krempel": "no organ is known by this name"},
    )
    organ = OrganCumulative(
        name="Duodenum",
        alpha_beta_gy=3.0,
        alpha_beta_said_by="late reacting, generic",
        recovery=0.0,
        dvh=None,
        figures={"eqd2_d0.03cc_gy": 61.5},
        low={"eqd2_d0.03cc_gy": 58.25},
        high={"eqd2_d0.03cc_gy": 66.75},
        worst_case_gy=92.5,
        limit_gy=75.0,
        is_at_least=True,
        by_course=({"eqd2_d0.03cc_gy": 41.5}, {"eqd2_d0.03cc_gy": 22.5}),
        remaining=RemainingDose(52.5, 27.25, 5),
        reasons=("Bowel moves: the sum is not tracked anatomically.",),
    )
    cumulative = CumulativeDose(
        courses=(
            Course("Hilum 40/5", ("1.2.3.5",), 5, "plan", is_prior=False),
            Course("Earlier", ("1.2.3.9",), 3, "protocol", is_prior=True, interval_days=400),
        ),
        registration_indices=(1,),
        organs=(organ,),
        shift_mm=3.0,
    )
    comparison = Comparison((0, 0), ("GTVn1", "GTVn1_CT1MR1"), {"d95_gy": (38.5, 40.25)})
    return DoseMeasures((plan,), cumulative, EndCap.HALF_SLICE, (comparison,))


def radiotherapy(case: EncodeCase, sop_class_uid: str, uid: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, uid
    ds.StudyInstanceUID = case.sources.ct[0].StudyInstanceUID
    ds.SeriesInstanceUID = f"{uid}.1"
    return ds


def with_dose(case: EncodeCase) -> EncodeCase:
    """Return a case with dose; one of its sources was not used."""
    used = [radiotherapy(case, RTPlanStorage, "1.2.3.4")]
    used += [radiotherapy(case, RTDoseStorage, f"1.2.3.{n}") for n in (5, 6, 7, 9)]
    sources = replace(case.sources, radiotherapy=tuple(used))
    return replace(case.with_result(dose=measures()), sources=sources)


@pytest.fixture(scope="module")
def ds() -> Dataset:
    return report_of(with_dose(build_case()))


@pytest.fixture(scope="module")
def groups(ds: Dataset) -> dict[str, Any]:
    """The groups that bear no segment, by tracking identifier."""
    report: Any = hd.sr.Comprehensive3DSR.from_dataset(ds)
    return {g.tracking_identifier: g for g in report.content.get_image_measurement_groups()}


def numbers(group: Any) -> Iterator[tuple[str, str, float]]:
    for measurement in group.get_measurements():
        yield measurement.name.value, measurement.unit.value, measurement.value


def modifiers_of(group: Any, code: str) -> list[list[str]]:
    """Return, for each measurement of that code, its modifiers as words."""
    return [
        [
            str(item.get("TextValue") or item.ConceptCodeSequence[0].CodeValue)
            for item in measurement[0].ContentSequence
            if item.RelationshipType == "HAS CONCEPT MOD"
        ]
        for measurement in group.get_measurements()
        if measurement.name.value == code
    ]


def test_figures_of_structures_come_back_with_standard_codes_where_they_exist(
    groups: dict[str, Any],
) -> None:
    """Handbook A.10.2: mean, maximum and median are DCM's, all else is ours; to the last bit."""
    drawn = set(numbers(groups["GTVn1, plan 1 (Hilum 40/5)"]))
    assert drawn == {
        ("VOL_SOLID", "cm3", 4.25),
        ("D95_GY", "Gy", 38.5),
        ("128533", "Gy", 43.21),
        ("COVERAGE", "%", 93.75),
        ("D0.03CC_GY", "Gy", 47.5),
    }
    organ = set(numbers(groups["Duodenum, plan 1 (Hilum 40/5)"]))
    assert {("128531", "Gy", 33.5), ("128539", "Gy", 6.25)} <= organ
    refined = groups["GTVn1_CT1MR1, plan 1 (Hilum 40/5)"]
    assert ("CI_PADDICK", "1", 0.8125) in set(numbers(refined))
    told = " ".join(texts_of(refined[0]))
    assert "no gradient index" in told
    assert "not a finite number" in told, "nothing is left out in silence"


def test_target_has_the_tracking_uid_of_its_segment(ds: Dataset, groups: dict[str, Any]) -> None:
    """Issue 7, 5: tracking identifiers are shared with the segmentation."""
    report: Any = hd.sr.Comprehensive3DSR.from_dataset(ds)
    segments = {
        g.tracking_identifier: g.tracking_uid
        for g in report.content.get_volumetric_roi_measurement_groups()
    }
    for name in ("GTVn1", "GTVn1_CT1MR1"):
        assert groups[f"{name}, plan 1 (Hilum 40/5)"].tracking_uid == segments[name]


def test_evidence_holds_every_object_that_was_measured(ds: Dataset) -> None:
    """Issue 7, 5: evidence of every object used, and of no other."""
    named = {
        str(item.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert {uid for uid in named if uid.startswith("1.2.3.") and len(uid) == 7} == {
        "1.2.3.4",
        "1.2.3.5",
        "1.2.3.6",
        "1.2.3.9",
    }


def test_limits_stand_beside_what_was_measured_for_them(groups: dict[str, Any]) -> None:
    """Issue 7, 3: met, exceeded, and why something cannot be evaluated, each with its source."""
    organ = groups["Duodenum, plan 1 (Hilum 40/5)"]
    ((words, verdict),) = modifiers_of(organ, "D5CC_GY")
    assert words.startswith("Duodenum D5cc at most 18 Gy in 5 fractions, ulceration")
    assert "TG-101 Table III; secondary copy" in words
    assert verdict == "LIMIT_MET"
    ((words, verdict),) = modifiers_of(organ, "D0.035CC_GY")
    assert (verdict, "the value is a bound" in words) == ("LIMIT_EXCEEDED", True)
    plan = groups["plan 1 (Hilum 40/5)"]
    told = " ".join(texts_of(plan[0]))
    assert "cannot be evaluated: Liver CV19.2Gy at least 700 cm3 in 3 fractions" in told
    assert "no ROI is the liver" in told
    assert "No limit for Krempel: no organ is known by this name." in told
    assert {("PRESCRIPTION", "Gy", 40.0), ("FRACTIONS", "1", 5.0)} == set(numbers(plan))


def test_courses_together_come_back_with_their_conversion(groups: dict[str, Any]) -> None:
    """Issue 7, 4: sum, shift envelope and worst case, with alpha/beta beside each number."""
    organ = groups["Duodenum, courses together"]
    values = [value for code, _, value in numbers(organ) if code == "EQD2_D0.03CC_GY"]
    assert values == [61.5, 58.25, 66.75, 41.5, 22.5]
    middle, lowest, highest, first, _ = modifiers_of(organ, "EQD2_D0.03CC_GY")
    assert first[1] == "course 1 alone, without recovery"
    assert middle == ["alpha/beta 3 Gy (late reacting, generic), 0 % recovery of prior courses"]
    assert lowest[1] == "lowest over shifts of the prior dose by 3 mm"
    assert highest[1].startswith("highest")
    assert {
        ("EQD2_WORST", "Gy", 92.5),
        ("EQD2_LIMIT", "Gy", 75.0),
        ("EQD2_LEFT", "Gy", 52.5),
        ("DOSE_LEFT", "Gy", 27.25),
    } <= set(numbers(organ))
    assert "Each sum is at least" in " ".join(texts_of(organ[0]))
    assert "not tracked anatomically" in " ".join(texts_of(organ[0]))
    told = " ".join(texts_of(groups["Courses together"][0]))
    assert "prior course, 3 fractions as the protocol says, 400 days before" in told
    assert "registration 2" in told


def test_difference_of_drawn_and_refined_is_told_with_its_direction(groups: dict[str, Any]) -> None:
    """Issue 7, 2: side by side; the second less the first."""
    (group,) = [g for name, g in groups.items() if name.startswith("Difference 1: GTVn1_CT1MR1")]
    assert list(numbers(group)) == [("D95_GY", "Gy", 1.75)]
    ((words,),) = modifiers_of(group, "D95_GY")
    assert words == "GTVn1_CT1MR1, plan 1 (Hilum 40/5) minus GTVn1, plan 1 (Hilum 40/5)"
