"""What a person should notice of a plan, as findings."""

from collections.abc import Sequence
from dataclasses import dataclass

from handlers.dose_results import (
    COVERAGE_GOAL_PERCENT,
    LimitStatus,
    LimitVerdict,
    PlanMeasures,
    StructureDose,
    TargetVersion,
)
from handlers.dosimetry.figures import is_whole, told_percent
from handlers.dosimetry.structures import Structure
from handlers.values import Finding, Severity


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPlan:
    """A plan as it was measured, and what was said of its prescription.

    Attributes:
        measures: What was measured.
        conflicts: In what plan and protocol contradict each other, in sentences.
        untold: Of which targets the prescription is not known, and why.
    """

    measures: PlanMeasures
    conflicts: tuple[str, ...]
    untold: tuple[str, ...]


def unmeasured(structures: Sequence[Structure]) -> list[Finding]:
    """Return what keeps structures from being measured, or measured as drawn."""
    findings = []
    for each in structures:
        if each.solid is None:
            text = f"dose: '{each.name}' is left out. {' '.join(each.reasons)}"
            findings.append(Finding("dose.structure", Severity.WARNING, text))
        elif each.reasons and not each.is_outlined:
            text = f"dose: of '{each.name}': {' '.join(each.reasons)}"
            severity = Severity.WARNING if each.is_irradiated else Severity.INFO
            findings.append(Finding("dose.contours", severity, text))
    return findings


def findings_of_plan(plan: MeasuredPlan, called: str) -> list[Finding]:
    """Return what a person should notice of a plan."""
    measures = plan.measures
    findings = [
        Finding("dose.prescription_differs", Severity.WARNING, f"{called}: {text}")
        for text in plan.conflicts
    ]
    findings += [
        Finding("dose.prescription_unknown", Severity.WARNING, f"{called}: target {text}")
        for text in plan.untold
    ]
    findings += _coverage(measures, called)
    findings += _partly_covered(measures, called)
    findings += [
        Finding(
            "dose.limit_exceeded",
            Severity.WARNING,
            f"{called}: '{verdict.roi_name}' {_in_words(verdict)}",
            {"value": float(verdict.value or 0.0), "bound": verdict.limit.bound},
        )
        for verdict in measures.limits
        if verdict.status is LimitStatus.EXCEEDED
    ]
    return findings


def _in_words(verdict: LimitVerdict) -> str:
    limit = verdict.limit
    side = "falls short of" if limit.metric.startswith("CV") else "exceeds"
    bound = "at least " if verdict.is_bound else ""
    return (
        f"{limit.metric} of {bound}{verdict.value:.4g} {limit.unit} {side} {limit.bound:g} "
        f"{limit.unit} by {verdict.excess:.3g} {limit.unit} ({limit.endpoint}; {limit.source}; "
        f"{limit.certainty})"
    )


def _coverage(measures: PlanMeasures, called: str) -> list[Finding]:
    """Return one finding for each target of which a version misses the goal of coverage."""
    groups: dict[str, list[StructureDose]] = {}
    for each in measures.structures:
        if "coverage_percent" in each.figures:
            groups.setdefault(each.target or each.name, []).append(each)
    findings = []
    for versions in groups.values():
        if min(each.figures["coverage_percent"] for each in versions) >= COVERAGE_GOAL_PERCENT:
            continue
        listed = ", ".join(
            f"{told_percent(each.figures['coverage_percent'])} % of '{each.name}' "
            f"({each.version or TargetVersion.DRAWN})"
            for each in versions
        )
        dose_gy = versions[0].figures["prescription_gy"]
        numbers = {
            f"{each.version}_percent": each.figures["coverage_percent"]
            for each in versions
            if each.version in (TargetVersion.DRAWN, TargetVersion.REFINED)
        }
        text = f"{called}: {dose_gy:g} Gy cover {listed}; at least {COVERAGE_GOAL_PERCENT:g} % are "
        findings.append(Finding("dose.coverage", Severity.WARNING, f"{text}the goal", numbers))
    return findings


def _partly_covered(measures: PlanMeasures, called: str) -> list[Finding]:
    """Return which structures the dose does not cover: each target, and the organs together."""
    parts = {
        each.name: (each, 0.0 if each.dvh is None else 100.0 * each.dvh.covered_fraction)
        for each in measures.structures
        if each.dvh is None or not is_whole(each.dvh)
    }
    findings = [
        Finding(
            "dose.partial",
            Severity.WARNING,
            f"{called}: the dose covers {told_percent(percent)} % of '{name}': no coverage told",
            {"covered_percent": percent},
        )
        for name, (each, percent) in parts.items()
        if each.target
    ]
    organs = [f"'{n}' ({told_percent(p)} %)" for n, (each, p) in parts.items() if not each.target]
    if organs:
        text = f"{called}: the dose covers only a part of {', '.join(organs)}"
        findings.append(Finding("dose.partial_organs", Severity.INFO, text))
    return findings
