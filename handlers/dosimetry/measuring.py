"""Plans against structures: figures, indices and limits of each, and what a person must notice.

Read first: `structures` (what is measured), `figures` (what is told), `prescription` (by what).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from handlers.dose_results import (
    DoseMeasures,
    Dvh,
    LimitStatus,
    LimitVerdict,
    PlanMeasures,
    Prescribed,
    StructureDose,
    TargetVersion,
)
from handlers.dosimetry.accumulation import accumulate
from handlers.dosimetry.comparison import comparisons
from handlers.dosimetry.courses import is_sum_of_plans
from handlers.dosimetry.figures import (
    Figures,
    Isodoses,
    Sample,
    dose_figures,
    far_figures,
    is_whole,
    isodose_figures,
    target_figures,
    wanted_figures,
)
from handlers.dosimetry.histogram import dose_at, histogram
from handlers.dosimetry.noticed import MeasuredPlan, findings_of_plan, unmeasured
from handlers.dosimetry.prescription import OF_A_SUM, Told, prescription_to
from handlers.dosimetry.settings import DoseSettings
from handlers.dosimetry.structures import (
    DOUBTFUL,
    OUTLINED,
    Structure,
    called,
    holds,
    less_gross_tumor,
    structures_of,
)
from handlers.organ_limits import PAIRED, judge_limits
from handlers.results import Registration, TargetResult
from handlers.values import Case, DoseKind, Finding, Mask, Plan, PlanDose, Roi

EFFECTIVE = (
    "The dose is EFFECTIVE, already corrected for its biological effect: it is compared neither "
    "with the prescription nor with limits."
)

TOO_LOW = (
    "The dose does not reach what is prescribed and may be of one fraction, or of a part of the "
    "beams, so no limit is surely met."
)

NO_LIMIT = "no table in use has a limit for this organ"
BODY_OUTLINE = "it is the outline of the body"
"""Why a known organ, or what may bear the name of one, has no limit."""

ALONE = "Limits are judged on this plan alone: they know nothing of the earlier course."
"""Told of every plan of a patient who was irradiated before."""


def measure_dose(
    case: Case,
    targets: Sequence[TargetResult],
    organs: Mapping[str, Mask],
    drawn: Mapping[str, Roi],
    registrations: Sequence[Registration],
    settings: DoseSettings,
) -> tuple[DoseMeasures | None, tuple[Finding, ...]]:
    """Return what every plan on the planning CT does to targets and organs.

    Args:
        case: Its plan doses.
        targets: What became of the targets.
        organs: All structures that are no target, drawn or outlined, on the grid of the CT.
        drawn: The ROIs of those that are drawn, by the same names.
        registrations: Those of the result, by which prior courses come here.
        settings: How it is measured.

    Returns:
        None where no dose came at all; without plans where only prior courses have one. And what a
        person should know.
    """
    if not case.plan_doses:
        cumulative, noticed = accumulate(case, registrations, {}, settings.reirradiation)
        if cumulative is None:
            return None, noticed
        return DoseMeasures((), cumulative, settings.end_cap), noticed
    structures = structures_of(case, targets, organs, drawn, settings.end_cap, settings.names)
    findings = unmeasured(structures)
    structures += less_gross_tumor(
        structures,
        {limit.organ for limit in settings.limits},
        case.structure_set.rois,
        settings.names,
    )
    rois = dict(zip(called(targets), (target.source_roi for target in targets), strict=True))
    plans = []
    for number, plan_dose in enumerate(case.plan_doses, start=1):
        named = _named_by(plan_dose.plan, drawn)
        plan = _measured(plan_dose, structures, (rois, named), settings)
        plans.append(plan.measures)
        # no label: it is free text, and findings are told where no such text may be
        findings += findings_of_plan(plan, f"plan {number}")
    cumulative, noticed = accumulate(
        case,
        registrations,
        {e.name: e.solid for e in structures if e.solid is not None and not e.is_body},
        settings.reirradiation,
        targets=[each.name for each in structures if each.target or each.is_irradiated],
        names=_organs_by_name(structures, settings),
        doubtful=[each.name for each in structures if each.is_doubtful],
    )
    compared = comparisons(plans)
    if cumulative is not None:
        plans = [replace(each, reasons=(*each.reasons, ALONE)) for each in plans]
    measures = DoseMeasures(tuple(plans), cumulative, settings.end_cap, compared)
    return measures, (*findings, *noticed)


def _named_by(plan: Plan | None, drawn: Mapping[str, Roi]) -> dict[str, Roi]:
    """Return the ROIs that a plan prescribes a dose to and that are no targets of the protocol."""
    numbers = {each.roi_number for each in plan.targets} if plan is not None else set()
    return {name: roi for name, roi in drawn.items() if roi.number in numbers}


def _organs_by_name(structures: Sequence[Structure], settings: DoseSettings) -> dict[str, str]:
    """Return the TG-263 names of organs that are known, by ROI name."""
    found = {
        each.name: settings.names.organ_of(each.name) for each in structures if not each.target
    }
    return {name: organ for name, organ in found.items() if organ}


@dataclass(frozen=True, slots=True, eq=False)
class _Irradiation:
    """One plan's dose and what is asked of it again and again."""

    plan_dose: PlanDose
    isodoses: Isodoses
    samples: Mapping[str, Sample]
    structures: Mapping[str, Structure]
    prescribed: Mapping[str, Told]


def _measured(
    plan_dose: PlanDose,
    structures: Sequence[Structure],
    targets: tuple[Mapping[str, Roi], Mapping[str, Roi]],
    settings: DoseSettings,
) -> MeasuredPlan:
    """Return what one plan does; `targets` are the protocol's, and those of the plan alone."""
    dose, plan = plan_dose.dose, plan_dose.plan
    is_sum = plan is None and is_sum_of_plans(dose)
    told, of_plan = (
        {
            name: OF_A_SUM if is_sum else prescription_to(roi, plan, settings.prescribed)
            for name, roi in rois.items()
        }
        for rois in targets
    )
    every = told | of_plan
    is_effective = dose.kind is DoseKind.EFFECTIVE
    dvhs = {each.name: histogram(each.solid, dose) for each in structures if each.solid is not None}
    irradiation = _Irradiation(
        plan_dose,
        Isodoses(dose),
        _samples(plan_dose, structures, dvhs, every),
        {each.name: each for each in structures},
        {name: Told(None) if is_effective else each for name, each in every.items()},
    )
    measured = tuple(
        _structure_dose(each, dvhs.get(each.name), irradiation, settings) for each in structures
    )
    prescribed, reasons = _of_plan(told)
    conflicts = tuple(dict.fromkeys(t for each in told.values() for t in each.conflicts))
    limits, unmatched = _judged(structures, dvhs, prescribed, dose.kind, settings)
    if plan_dose.is_too_low:
        limits = tuple(_unsure(verdict) for verdict in limits)
    measures = PlanMeasures(
        label=plan.label
        if plan is not None
        else f"{dose.summation_type} dose without a plan".strip(),
        plan_uid=plan.sop_instance_uid if plan is not None else "",
        dose_uids=plan_dose.dose_uids,
        prescribed=prescribed,
        structures=measured,
        limits=limits,
        unmatched=unmatched,
        reasons=(*([EFFECTIVE] if is_effective else []), *conflicts, *reasons),
    )
    untold = [
        f"'{name}': {' '.join(each.reasons)}"
        for name, each in told.items()
        if each.prescribed is None
    ]
    return MeasuredPlan(measures, conflicts, tuple(untold))


def _samples(
    plan_dose: PlanDose,
    structures: Sequence[Structure],
    dvhs: Mapping[str, Dvh | None],
    prescribed: Container[str],
) -> dict[str, Sample]:
    """Return what is to be irradiated as points with their dose, by name."""
    found = {}
    for each in structures:
        dvh = dvhs.get(each.name)
        is_wanted = each.is_irradiated or each.name in prescribed
        if is_wanted and each.solid is not None and dvh is not None:
            points = each.solid.points_mm
            dose_gy, covered = dose_at(plan_dose.dose, points)
            found[each.name] = Sample(points[covered], dose_gy[covered], dvh)
    return found


def _of_plan(told: Mapping[str, Told]) -> tuple[Prescribed | None, list[str]]:
    """Return what a plan is held to as a whole: of several prescriptions the highest."""
    every = [each.prescribed for each in told.values() if each.prescribed is not None]
    if not every:
        return None, []
    highest = max(every, key=lambda each: each.dose_gy)
    doses_gy = sorted({each.dose_gy for each in every})
    if len(doses_gy) == 1:
        return highest, []
    listed = ", ".join(f"{dose_gy:g}" for dose_gy in doses_gy)
    return highest, [
        f"The targets are prescribed {listed} Gy; where limits ask for the dose per fraction, the "
        "highest counts."
    ]


def _structure_dose(
    structure: Structure, dvh: Dvh | None, irradiation: _Irradiation, settings: DoseSettings
) -> StructureDose:
    reasons = list(structure.reasons)
    values: dict[str, float] = {}
    if structure.solid is not None and dvh is None:
        reasons.append("The dose covers nothing of it.")
    if dvh is not None:
        wanted = wanted_figures(dvh, settings.volumes_at_gy, settings.geud_a(structure.name))
        figures = [dose_figures(dvh), Figures(wanted)]
        if (structure.target or structure.name) in irradiation.prescribed:
            figures.append(_of_target(structure, dvh, figures[0], irradiation))
        for each in figures:
            values |= each.values
            reasons += each.reasons
    return StructureDose(
        structure.name, structure.target, structure.version, dvh, values, tuple(reasons)
    )


def _of_target(
    structure: Structure, dvh: Dvh, figures: Figures, irradiation: _Irradiation
) -> Figures:
    """Return the figures that only a target has."""
    told = irradiation.prescribed[structure.target or structure.name]
    prescribed_gy = None if told.prescribed is None else told.prescribed.dose_gy
    values = target_figures(dvh, figures.values, prescribed_gy)
    reasons = list(told.reasons)
    if prescribed_gy is None:
        reasons.append("Without a prescription there are no coverage and no conformity.")
    if not is_whole(dvh):
        return Figures(values, tuple(reasons))
    sample = irradiation.samples[structure.name]
    more = []
    if prescribed_gy is not None:
        others, apart = _others(structure, irradiation)
        more.append(isodose_figures(sample, irradiation.isodoses, prescribed_gy, others, apart))
    dose = irradiation.plan_dose.dose
    more.append(far_figures(dose, sample.points, [structure.outline], prescribed_gy))
    for each in more:
        values |= each.values
        reasons += each.reasons
    return Figures(values, tuple(reasons))


def _others(structure: Structure, irradiation: _Irradiation) -> tuple[dict[str, Sample], list[str]]:
    """Return the other targets of a case as drawn, and which of them lie apart from this one."""
    others = {
        name: sample
        for name, sample in irradiation.samples.items()
        if (other := irradiation.structures[name]).version in (None, TargetVersion.DRAWN)
        and (other.target or name) != (structure.target or structure.name)
    }
    own = irradiation.samples[structure.name].points
    apart = [name for name in others if not holds(irradiation.structures[name].mask, own).any()]
    return others, apart


def _judged(
    structures: Sequence[Structure],
    dvhs: Mapping[str, Dvh | None],
    prescribed: Prescribed | None,
    kind: DoseKind,
    settings: DoseSettings,
) -> tuple[tuple[LimitVerdict, ...], dict[str, str]]:
    """Return the verdicts on all organs; what a program outlined only where nobody drew one.

    And which ROIs bear no limit, with the reason.

    The outline of the body is none of them, though some systems call it skin.
    """
    organs = [each for each in structures if not (each.is_irradiated or each.is_body)]
    names = settings.names
    known = {names.organ_of(each.name) for each in organs if not each.is_outlined}
    chosen: dict[str, Dvh] = {}
    outlined: set[str] = set()
    for each in organs:
        dvh = dvhs.get(each.name)
        if dvh is None or (each.is_outlined and names.organ_of(each.name) in known - {""}):
            continue
        chosen[each.name] = dvh
        if each.is_outlined:
            outlined.add(each.name)
    verdicts, unmatched = judge_limits(settings.limits, chosen, names, prescribed, kind)
    untold = {name: names.named(name).reason or NO_LIMIT for name in unmatched}
    untold |= {e.name: BODY_OUTLINE for e in structures if e.is_body and e.name in dvhs}
    doubtful = {each.name for each in organs if each.is_doubtful}
    return tuple(_qualified(verdict, outlined, doubtful) for verdict in verdicts), untold


def _unsure(verdict: LimitVerdict) -> LimitVerdict:
    """Return a verdict on a dose that may be a part of what is given: such a one meets no limit."""
    if verdict.status is not LimitStatus.MET:
        return verdict
    reason = " ".join(part for part in (verdict.reason, TOO_LOW) if part)
    return replace(verdict, status=LimitStatus.NOT_EVALUABLE, reason=reason)


def _qualified(
    verdict: LimitVerdict, outlined: Container[str], doubtful: Container[str]
) -> LimitVerdict:
    """Return a verdict with what must be known of its ROIs; doubtful ones meet no limit."""
    rois = verdict.roi_name.split(PAIRED)
    told = [OUTLINED] if any(name in outlined for name in rois) else []
    status = verdict.status
    if any(name in doubtful for name in rois):
        told.append(DOUBTFUL)
        status = LimitStatus.NOT_EVALUABLE if status is LimitStatus.MET else status
    reason = " ".join(part for part in (verdict.reason, *told) if part)
    return replace(verdict, status=status, reason=reason)
