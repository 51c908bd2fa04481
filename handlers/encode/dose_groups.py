"""Dose measures -> measurement groups of the report: plans, structures, limits, both courses.

One group for each plan (what it was measured by, and what could not be told), one for each
structure in it: a target's bears the tracking UID that it has in the segmentation. What an organ's
limit says stands beside the number that was measured for it, as modifiers: the limit in words, the
verdict as a code. One group for the courses together, one for each organ in their sum.

Measures nothing, judges nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.coding import Code

from handlers.dose_results import (
    Course,
    CumulativeDose,
    DoseMeasures,
    Limit,
    LimitStatus,
    LimitVerdict,
    OrganCumulative,
    PlanMeasures,
    StructureDose,
    TargetVersion,
)
from handlers.encode.group_texts import COMMENT, algorithm, append_texts
from handlers.encode.identity import ResultSet
from handlers.encode.measurements import measurements_of
from handlers.encode.metric_codes import private_code
from handlers.encode.text import LO_LENGTH

DOSE_NAME = "Hilum dose measures"
"""Algorithm Name of whatever is measured on dose."""

LIMIT = private_code("ORGAN_LIMIT", "Limit that the value is compared with")
LIMIT_VERDICT = private_code("LIMIT_VERDICT", "Verdict on the limit")
LIMIT_VALUES = {
    LimitStatus.MET: private_code("LIMIT_MET", "The limit is met"),
    LimitStatus.EXCEEDED: private_code("LIMIT_EXCEEDED", "The limit is exceeded"),
    LimitStatus.NOT_EVALUABLE: private_code("LIMIT_UNKNOWN", "The limit cannot be evaluated"),
}
TARGET_VERSION = private_code("TARGET_VERSION", "Which contour of the target was measured")
VERSION_VALUES = {
    TargetVersion.DRAWN: private_code("AS_DRAWN", "Target as drawn"),
    TargetVersion.REFINED: private_code("AS_REFINED", "Target as refined"),
    TargetVersion.DERIVED: private_code("AS_DERIVED", "Region derived from the target"),
}
ALPHA_BETA = private_code("ALPHA_BETA", "Alpha/beta and where it comes from")
PART_OF_SUM = private_code("PART_OF_SUM", "What the value is of the courses together")
DIFFERENCE = private_code("DIFFERENCE", "What was subtracted from what")
"""Names and values of our evaluations and modifiers."""

UNIT_SUFFIX = {"Gy": "_gy", "%": "_percent", "cm3": "_cm3"}
"""Suffix of a figure's key by the unit of a limit."""


def dose_groups(result_set: ResultSet) -> list[Any]:
    """Return all groups that speak of dose; none where no dose was measured."""
    dose = result_set.result.dose
    if dose is None:
        return []
    groups: list[Any] = []
    for index, plan in enumerate(dose.plans):
        groups.append(_plan_group(result_set, index, plan))
        groups += [
            _structure_group(result_set, index, plan, structure) for structure in plan.structures
        ]
    groups += [_comparison_group(result_set, dose, index) for index in range(len(dose.comparisons))]
    if dose.cumulative is not None:
        groups.append(_courses_group(result_set, dose.cumulative))
        groups += [
            _cumulative_group(result_set, dose.cumulative, organ)
            for organ in dose.cumulative.organs
        ]
    return groups


def measured_objects(result_set: ResultSet) -> list[Dataset]:
    """Return the RT Plans and RT Doses on which the dose groups rest."""
    dose = result_set.result.dose
    if dose is None:
        return []
    used = {uid for plan in dose.plans for uid in (plan.plan_uid, *plan.dose_uids)}
    if dose.cumulative is not None:
        used |= {uid for course in dose.cumulative.courses for uid in course.dose_uids}
    return [ds for ds in result_set.sources.radiotherapy if str(ds.SOPInstanceUID) in used]


# --- one plan -------------------------------------------------------------------------------------


def _plan_group(result_set: ResultSet, index: int, plan: PlanMeasures) -> Any:
    figures: dict[str, float] = {}
    texts = [f"RT Plan {plan.plan_uid}" if plan.plan_uid else "No RT Plan came with this dose."]
    texts += [f"RT Dose {uid}" for uid in plan.dose_uids]
    if plan.prescribed is None:
        texts.append("No prescription is known.")
    else:
        figures["prescription_gy"] = plan.prescribed.dose_gy
        if plan.prescribed.fractions is not None:
            figures["fractions"] = float(plan.prescribed.fractions)
        texts.append(f"Prescription as the {plan.prescribed.said_by} says.")
    measured = {structure.name for structure in plan.structures}
    texts += [
        f"{LIMIT_VALUES[verdict.status].meaning}: {_in_words(verdict.limit)}. {verdict.reason}"
        for verdict in plan.limits
        if verdict.value is None or verdict.roi_name not in measured
    ]
    texts += [f"No limit for {name}: {reason}." for name, reason in plan.unmatched.items()]
    texts += plan.reasons
    return _group(
        result_set,
        uid=result_set.uid("dose plan", index),
        name=_plan_name(plan, index),
        figures=[(figures, ())],
        texts=texts,
        with_parameters=True,
    )


def _structure_group(
    result_set: ResultSet, index: int, plan: PlanMeasures, structure: StructureDose
) -> Any:
    figures: list[tuple[Mapping[str, float], Iterable[Any]]] = [(structure.figures, ())]
    if structure.dvh is not None:
        figures.insert(0, ({"structure_cm3": structure.dvh.structure_cm3}, ()))
    figures += [
        ({_key_of(verdict.limit): verdict.value}, _limit_modifiers(result_set, verdict))
        for verdict in plan.limits
        if verdict.roi_name == structure.name and verdict.value is not None
    ]
    evaluations = []
    if structure.version is not None:
        value = VERSION_VALUES[structure.version]
        evaluations.append(hd.sr.QualitativeEvaluation(TARGET_VERSION, value))
    told = f"{structure.name}, {_plan_name(plan, index)}"
    return _group(
        result_set,
        uid=_structure_uid(result_set, index, structure),
        name=told,
        figures=figures,
        texts=[f"Measured on {_plan_name(plan, index)}.", *structure.reasons],
        evaluations=evaluations,
    )


def _structure_uid(result_set: ResultSet, index: int, structure: StructureDose) -> str:
    """Return the tracking UID: that of the segment for a drawn or refined target."""
    if structure.version in (TargetVersion.DRAWN, TargetVersion.REFINED):
        for at, target in enumerate(result_set.result.targets):
            if target.source_roi.name == structure.target:
                is_refined = structure.version is TargetVersion.REFINED
                return result_set.tracking_uid(at, is_refined=is_refined)
    return str(result_set.uid(f"dose structure {structure.name}", index))


def _plan_name(plan: PlanMeasures, index: int) -> str:
    return f"plan {index + 1}" + (f" ({plan.label})" if plan.label else "")


def _comparison_group(result_set: ResultSet, dose: DoseMeasures, index: int) -> Any:
    """Return the differences of two structures, or of one in two plans; both stand elsewhere."""
    comparison = dose.comparisons[index]
    first, second = (
        f"{structure}, {_plan_name(dose.plans[plan], plan)}"
        for structure, plan in zip(comparison.structures, comparison.plans, strict=True)
    )
    modifier = _text_modifier(result_set, DIFFERENCE, f"{second} minus {first}")
    differences = {key: after - before for key, (before, after) in comparison.figures.items()}
    return _group(
        result_set,
        uid=result_set.uid("dose comparison", index),
        name=f"Difference {index + 1}: {second}",
        figures=[(differences, [modifier])],
        texts=[f"Differences: {second} minus {first}."],
    )


# --- limits ---------------------------------------------------------------------------------------


def _key_of(limit: Limit) -> str:
    """Return the key of what a limit is compared with, as figures bear it."""
    named = {"Dmax": "d0.035cc", "Dpoint": "max"}
    metric = named.get(limit.metric, limit.metric.lower().replace("%", ""))
    return f"{metric}{UNIT_SUFFIX[limit.unit]}"


def _in_words(limit: Limit) -> str:
    is_spared = limit.metric.startswith("CV")
    fractions = "" if limit.fractions is None else f" in {limit.fractions} fractions"
    relation = "at least" if is_spared else "at most"
    return (
        f"{limit.organ} {limit.metric} {relation} {limit.bound:g} {limit.unit}{fractions}, "
        f"{limit.endpoint} ({limit.source}; {limit.certainty})"
    )


def _limit_modifiers(result_set: ResultSet, verdict: LimitVerdict) -> list[Any]:
    words = _in_words(verdict.limit)
    if verdict.is_bound:
        words += "; the dose does not cover the whole organ, so the value is a bound"
    if verdict.reason:
        words += f"; {verdict.reason}"
    return [
        _text_modifier(result_set, LIMIT, words),
        hd.sr.CodeContentItem(
            name=LIMIT_VERDICT,
            value=LIMIT_VALUES[verdict.status],
            relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
        ),
    ]


# --- both courses ---------------------------------------------------------------------------------


def _courses_group(result_set: ResultSet, cumulative: CumulativeDose) -> Any:
    texts = [_course_in_words(course) for course in cumulative.courses]
    texts += [
        f"A prior course came here by registration {index + 1}."
        for index in cumulative.registration_indices
    ]
    return _group(
        result_set,
        uid=result_set.uid("courses"),
        name="Courses together",
        figures=[({"prior_dose_shift_mm": cumulative.shift_mm}, ())],
        texts=[*texts, *cumulative.reasons],
        with_parameters=True,
    )


def _course_in_words(course: Course) -> str:
    when = "prior course" if course.is_prior else "current course"
    days = "" if course.interval_days is None else f", {course.interval_days} days before"
    return (
        f"{course.label or 'Unnamed'}: {when}, {course.fractions} fractions as the "
        f"{course.fractions_said_by} says{days}; RT Dose {', '.join(course.dose_uids)}"
    )


def _cumulative_group(
    result_set: ResultSet, cumulative: CumulativeDose, organ: OrganCumulative
) -> Any:
    conversion = _text_modifier(
        result_set,
        ALPHA_BETA,
        f"alpha/beta {organ.alpha_beta_gy:g} Gy ({organ.alpha_beta_said_by}), "
        f"{100.0 * organ.recovery:g} % recovery of prior courses",
    )
    figures: list[tuple[Mapping[str, float], Iterable[Any]]] = [(organ.figures, [conversion])]
    parts = [
        (f"lowest over shifts of the prior dose by {cumulative.shift_mm:g} mm", organ.low),
        (f"highest over shifts of the prior dose by {cumulative.shift_mm:g} mm", organ.high),
        ("sum without recovery", organ.without_recovery),
        *(
            (f"course {number} alone, without recovery", values)
            for number, values in enumerate(organ.by_course, start=1)
        ),
    ]
    figures += [
        (values, [conversion, _text_modifier(result_set, PART_OF_SUM, words)])
        for words, values in parts
    ]
    further = {
        "eqd2_worst_case_gy": organ.worst_case_gy,
        "eqd2_limit_gy": organ.limit_gy,
    }
    if organ.remaining is not None:
        further["eqd2_remaining_gy"] = organ.remaining.eqd2_gy
        further["dose_remaining_gy"] = organ.remaining.dose_gy
    told = {key: value for key, value in further.items() if value is not None}
    figures.append((told, [conversion]))
    texts = ["Each sum is at least the value told."] if organ.is_at_least else []
    if organ.remaining is not None:
        texts.append(f"What remains is told for {organ.remaining.fractions} fractions.")
    return _group(
        result_set,
        uid=result_set.uid(f"cumulative dose {organ.name}"),
        name=f"{organ.name}, courses together",
        figures=figures,
        texts=[*texts, *organ.reasons],
    )


# --- a group --------------------------------------------------------------------------------------


def _group(
    result_set: ResultSet,
    *,
    uid: str,
    name: str,
    figures: Iterable[tuple[Mapping[str, float], Iterable[Any]]],
    texts: Iterable[str],
    evaluations: Iterable[Any] = (),
    with_parameters: bool = False,
) -> Any:
    measurements: list[Any] = []
    sentences = list(texts)
    for values, modifiers in figures:
        made, unmeasured = measurements_of(values, about=name, modifiers=tuple(modifiers))
        measurements += made
        sentences += unmeasured
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=uid, identifier=result_set.text(name, LO_LENGTH) or "unnamed"
        ),
        algorithm_id=algorithm(result_set, DOSE_NAME, with_parameters=with_parameters),
        measurements=measurements or None,
        qualitative_evaluations=list(evaluations) or None,
    )
    append_texts(result_set, group, [(COMMENT, text) for text in sentences])
    return group


def _text_modifier(result_set: ResultSet, name: Code, value: str) -> Any:
    return hd.sr.TextContentItem(
        name=name,
        value=result_set.text(value, 1024) or "none",
        relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
