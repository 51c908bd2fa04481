"""The part of the metrics document that speaks of dose.

Makes plain values only (what `json` can write). Keys carry their unit; a figure that could not be
told is absent, and a reason says why.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.dose_results import (
    COVERAGE_GOAL_PERCENT,
    Comparison,
    Course,
    CumulativeDose,
    DoseMeasures,
    Dvh,
    LimitVerdict,
    OrganCumulative,
    PlanMeasures,
    StructureDose,
)

CURVE_POINTS = 200
"""Most points of a histogram in the document: enough to draw it, too few to read D0.03cc from."""


def dose_document(dose: DoseMeasures | None) -> dict[str, Any] | None:
    """Return what was measured of dose as plain values; None where nothing was.

    Returns:
        `end_cap`, `coverage_goal_percent`, `plans`, `comparison`, `cumulative` (null without a
        prior course). Plans are numbered from 1. A histogram is a curve of at most `CURVE_POINTS`
        points, no farther apart than 1 % of its range in dose and in volume together; all figures
        come from the whole one.
    """
    if dose is None:
        return None
    return {
        "end_cap": str(dose.end_cap),
        "coverage_goal_percent": COVERAGE_GOAL_PERCENT,
        "plans": [_plan(plan, number) for number, plan in enumerate(dose.plans, start=1)],
        "comparison": [_comparison(each, dose) for each in dose.comparisons],
        "cumulative": None if dose.cumulative is None else _cumulative(dose.cumulative),
    }


def _plan(plan: PlanMeasures, number: int) -> dict[str, Any]:
    prescribed = plan.prescribed
    return {
        "plan": number,
        "label": plan.label,
        "plan_uid": plan.plan_uid or None,
        "dose_uids": list(plan.dose_uids),
        "prescription": None
        if prescribed is None
        else {
            "dose_gy": prescribed.dose_gy,
            "fractions": prescribed.fractions,
            "said_by": prescribed.said_by,
        },
        "structures": [_structure(structure) for structure in plan.structures],
        "limits": [_limit(verdict) for verdict in plan.limits],
        "unmatched_rois": list(plan.unmatched),
        "unmatched_reasons": dict(plan.unmatched),
        "reasons": list(plan.reasons),
    }


def _structure(structure: StructureDose) -> dict[str, Any]:
    return {
        "name": structure.name,
        "target": structure.target or None,
        "version": None if structure.version is None else str(structure.version),
        "volume_cm3": None if structure.dvh is None else structure.dvh.structure_cm3,
        "figures": dict(structure.figures),
        "reasons": list(structure.reasons),
        "dvh": _curve(structure.dvh),
    }


def _curve(dvh: Dvh | None) -> dict[str, list[float]] | None:
    """Return a cumulative histogram thinned for drawing, evenly along its line."""
    if dvh is None:
        return None
    dose, volume = dvh.dose_gy, dvh.volume_cm3
    if len(dose) > CURVE_POINTS:
        along = np.abs(np.diff(dose, prepend=dose[0])) / max(float(np.ptp(dose)), 1e-9)
        along += np.abs(np.diff(volume, prepend=volume[0])) / max(float(np.ptp(volume)), 1e-9)
        wanted = np.linspace(0.0, 1.0, CURVE_POINTS) * float(along.sum())
        chosen = np.unique(np.searchsorted(np.cumsum(along), wanted).clip(0, len(dose) - 1))
        chosen[0], chosen[-1] = 0, len(dose) - 1
        dose, volume = dose[chosen], volume[chosen]
    return {
        "dose_gy": [round(float(each), 4) for each in dose],
        "volume_cm3": [round(float(each), 5) for each in volume],
    }


def _limit(verdict: LimitVerdict) -> dict[str, Any]:
    limit = verdict.limit
    return {
        "organ": limit.organ,
        "roi": verdict.roi_name or None,
        "metric": limit.metric,
        "bound": limit.bound,
        "unit": limit.unit,
        "fractions": limit.fractions,
        "status": str(verdict.status),
        "value": verdict.value,
        "excess": verdict.excess,
        "is_bound": verdict.is_bound,
        "reason": verdict.reason or None,
        "endpoint": limit.endpoint,
        "source": limit.source,
        "certainty": limit.certainty,
        "table": limit.table,
    }


def _comparison(comparison: Comparison, dose: DoseMeasures) -> dict[str, Any]:
    sides = {
        which: {"plan": plan + 1, "label": dose.plans[plan].label, "structure": structure}
        for which, plan, structure in zip(
            ("first", "second"), comparison.plans, comparison.structures, strict=True
        )
    }
    figures = {
        key: {"first": first, "second": second, "difference": second - first}
        for key, (first, second) in comparison.figures.items()
    }
    return {**sides, "figures": figures}


def _cumulative(cumulative: CumulativeDose) -> dict[str, Any]:
    return {
        "courses": [_course(course) for course in cumulative.courses],
        "registrations": [index + 1 for index in cumulative.registration_indices],
        "shift_mm": cumulative.shift_mm,
        "organs": [_organ(organ) for organ in cumulative.organs],
        "eqd2_sums_alpha_beta_gy": sorted(cumulative.sums),
        "reasons": list(cumulative.reasons),
    }


def _course(course: Course) -> dict[str, Any]:
    return {
        "label": course.label,
        "dose_uids": list(course.dose_uids),
        "fractions": course.fractions,
        "fractions_said_by": course.fractions_said_by,
        "is_prior": course.is_prior,
        "interval_days": course.interval_days,
    }


def _organ(organ: OrganCumulative) -> dict[str, Any]:
    return {
        "name": organ.name,
        "alpha_beta_gy": organ.alpha_beta_gy,
        "alpha_beta_said_by": organ.alpha_beta_said_by,
        "recovery": organ.recovery,
        "figures": dict(organ.figures),
        "is_at_least": organ.is_at_least,
        "low": dict(organ.low),
        "high": dict(organ.high),
        "by_course": [dict(figures) for figures in organ.by_course],
        "without_recovery": dict(organ.without_recovery),
        "eqd2_worst_case_gy": organ.worst_case_gy,
        "eqd2_limit_gy": organ.limit_gy,
        "remaining": _remaining(organ),
        "reasons": list(organ.reasons),
        "dvh": _curve(organ.dvh),
    }


def _remaining(organ: OrganCumulative) -> Mapping[str, Any] | None:
    if organ.remaining is None:
        return None
    return {
        "eqd2_gy": organ.remaining.eqd2_gy,
        "dose_gy": organ.remaining.dose_gy,
        "fractions": organ.remaining.fractions,
    }
