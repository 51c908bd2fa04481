"""The head of the report: of whom it speaks, what was done, and the verdicts, a sentence each."""

from collections.abc import Sequence

from handlers.dose_results import (
    COVERAGE_GOAL_PERCENT,
    CumulativeDose,
    LimitStatus,
    LimitVerdict,
    PlanMeasures,
    StructureDose,
    TargetVersion,
)
from handlers.pages.about import About
from handlers.pages.content import Beside, Block, Facts, Section, Statement, Tone
from handlers.pages.dose_tables import is_above_limit
from handlers.pages.words import NONE, count, joined, name, number, sentence, short_uid
from handlers.results import (
    CaseResult,
    Registration,
    RegistrationStatus,
    TargetResult,
)
from handlers.values import Severity

KINDS = {"mr": "MR", "ct": "CT", "cbct": "CBCT"}
"""What a registration brought to the planning CT, by `Registration.kind_in`."""

STATUS_WORDS = {
    RegistrationStatus.PASS: "passed its checks",
    RegistrationStatus.WARN: "TO BE CHECKED by a person, so it changed no contour",
    RegistrationStatus.FAIL: "FAILED its checks and was not used",
}

MOST_EXCEEDED = 3
"""Exceeded limits that are named in the verdict; the table names all."""


def summary(result: CaseResult, about: About) -> list[Section]:
    """Return who, what and the verdicts."""
    verdicts: list[Block] = [_of_target(result, target) for target in result.targets]
    verdicts += [_of_registration(result, each) for each in result.registrations]
    if not any(each.kind_in(result.case) == "mr" for each in result.registrations):
        lead = "No MR was registered."
        verdicts.append(Statement("Everything rests on the CT.", Tone.CAUTION, lead))
    if result.dose is not None:
        several = len(result.dose.plans) > 1
        for plan in result.dose.plans:
            verdicts += _of_plan(plan, several=several)
        if result.dose.cumulative is not None:
            verdicts.append(_of_courses(result.dose.cumulative))
    noted = [f for f in result.findings if f.severity is not Severity.INFO]
    if not result.findings:
        verdicts.append(Statement("There are no findings beside this."))
    elif noted:
        words = f"{count(len(noted), 'finding')} to be read at the end of this report."
        verdicts.append(Statement(words))
    return [
        Section("", (Beside((_patient(about), _made(result, about)), (0.42, 0.58)),)),
        Section("Verdict", tuple(verdicts)),
    ]


def _patient(about: About) -> tuple[Facts]:
    return (
        Facts(
            (
                ("Patient", about.patient_name or NONE),
                ("Patient ID", about.patient_id or NONE),
                ("Born, sex", f"{about.birth_date or NONE}, {about.sex or NONE}"),
                ("Planning CT of", about.study_date or NONE),
            ),
            0.3,
        ),
    )


def _made(result: CaseResult, about: About) -> tuple[Facts]:
    used = joined([f"{source.what} {short_uid(source.uid)}" for source in about.sources])
    return (
        Facts(
            (
                ("Protocol", about.protocol or NONE),
                ("Made by", f"Hilum {about.software_version}, {about.created_date} "
                            f"{about.created_time} UTC"),
                ("Done", _done(result)),
                ("From", used or NONE),
            ),
            0.16,
        ),
    )  # fmt: skip


def _done(result: CaseResult) -> str:
    series = sum(len(r.series_uids) for r in result.registrations)
    frames = len(result.registrations)
    refined = sum(t.refinement.refined is not None for t in result.targets)
    parts = []
    if series:
        parts.append(
            f"{count(series, 'series', 'series')} in {count(frames, 'frame')} of reference "
            "registered to the planning CT"
        )
    parts.append(f"{refined} of {count(len(result.targets), 'target')} refined")
    if result.dose is not None:
        parts.append(f"dose of {count(len(result.dose.plans), 'plan')} measured")
        if result.dose.cumulative is not None:
            parts.append(f"{count(len(result.dose.cumulative.courses), 'course')} summed")
    return sentence("; ".join(parts))


def _of_target(result: CaseResult, target: TargetResult) -> Statement:
    called = f"{name(target.source_roi.name)} (ROI {target.source_roi.number})"
    drawn_cm3, refined_cm3 = target.drawn_cm3, target.refined_cm3
    if refined_cm3 is None:
        why = sentence("; ".join(target.refinement.reasons)) or "No reason is told."
        lead = (
            f"{called}: no change is proposed, the drawn contour of {number(drawn_cm3, 2)} cm³ "
            "stands."
        )
        return Statement(why, Tone.CAUTION, lead)
    change = refined_cm3 - drawn_cm3
    percent = f" ({number(100 * change / drawn_cm3, 0, is_signed=True)} %)" if drawn_cm3 else ""
    lead = (
        f"{called}: a refined contour is proposed as {name(target.refined_roi_name or '')}: "
        f"{number(drawn_cm3, 2)} to {number(refined_cm3, 2)} cm³, "
        f"{number(change, 2, is_signed=True)} cm³{percent}."
    )
    confidence = target.refinement.confidence
    told = [] if confidence is None else [f"Confidence {number(confidence, 2)} of 1."]
    told += [_coverage(plan, target) for plan in _plans(result)]
    return Statement(" ".join(each for each in told if each), Tone.STRONG, lead)


def _plans(result: CaseResult) -> Sequence[PlanMeasures]:
    return () if result.dose is None else result.dose.plans


def _coverage(plan: PlanMeasures, target: TargetResult) -> str:
    """Return how much of the drawn and the refined target gets what is prescribed."""
    told = []
    for version in (TargetVersion.DRAWN, TargetVersion.REFINED):
        for structure in plan.structures:
            if structure.version is version and structure.target == target.source_roi.name:
                told += _covered(structure)
    if not told or plan.prescribed is None:
        return ""
    return f"{number(plan.prescribed.dose_gy, 1)} Gy cover {joined(told)}."


def _covered(structure: StructureDose) -> list[str]:
    percent = structure.figures.get("coverage_percent")
    if percent is None:
        return []
    below = "" if percent >= COVERAGE_GOAL_PERCENT else f" (BELOW {COVERAGE_GOAL_PERCENT:.0f} %)"
    return [f"{number(percent, 1)} %{below} as {structure.version}"]


def _of_registration(result: CaseResult, registration: Registration) -> Statement:
    at = 1 + [each is registration for each in result.registrations].index(True)
    kind = KINDS[registration.kind_in(result.case)]
    what = f"{count(len(registration.series_uids), 'series', 'series')} of {kind}"
    words = STATUS_WORDS[registration.status]
    why = " ".join(sentence(reason) for reason in registration.reasons)
    lead = f"Registration {at} ({what} to the planning CT) {words}."
    within = f"Expected within {number(registration.uncertainty_mm, 1)} mm (95 %) at the targets."
    is_good = registration.status is RegistrationStatus.PASS
    return Statement(f"{within} {why}".strip(), Tone.PLAIN if is_good else Tone.CAUTION, lead)


def _of_plan(plan: PlanMeasures, *, several: bool) -> list[Block]:
    called = f"Plan {name(plan.label)}" if several or plan.label else "The plan"
    by_status = {status: [v for v in plan.limits if v.status is status] for status in LimitStatus}
    exceeded = by_status[LimitStatus.EXCEEDED]
    blocks: list[Block] = []
    if plan.prescribed is None:
        lead = f"{called}: nobody says what is prescribed."
        blocks.append(Statement("Nothing is measured against it.", Tone.CAUTION, lead))
    if plan.limits:
        lead = (
            f"{called}: of {count(len(plan.limits), 'organ limit')} "
            f"{len(by_status[LimitStatus.MET])} met, {len(exceeded)} exceeded, "
            f"{len(by_status[LimitStatus.NOT_EVALUABLE])} not evaluable."
        )
        named = [_exceeded(verdict) for verdict in exceeded[:MOST_EXCEEDED]]
        if len(exceeded) > MOST_EXCEEDED:
            named.append(f"{len(exceeded) - MOST_EXCEEDED} more")
        words = f"EXCEEDED: {joined(named)}." if named else ""
        blocks.append(Statement(words, Tone.CAUTION if exceeded else Tone.PLAIN, lead))
    return blocks


def _exceeded(verdict: LimitVerdict) -> str:
    limit = verdict.limit
    unit = limit.unit.replace("cm3", "cm³")
    excess = "" if verdict.excess is None else f" by {number(verdict.excess, 2)} {unit}"
    return f"{name(verdict.roi_name)} {limit.metric}{excess}"


def _of_courses(cumulative: CumulativeDose) -> Statement:
    prior = sum(course.is_prior for course in cumulative.courses)
    above = [name(organ.name) for organ in cumulative.organs if is_above_limit(organ)]
    words = (
        f"{count(prior, 'prior course')} summed with the current one as EQD2 in "
        f"{count(len(cumulative.organs), 'structure')}."
    )
    if above:
        told = f"Above the cumulative limit: {joined(above)}."
        return Statement(told, Tone.CAUTION, words)
    return Statement("", lead=words)
