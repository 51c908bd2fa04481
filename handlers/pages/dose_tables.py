"""Tables of dose: targets, organs, limits, two plans compared, and all courses together."""

from collections.abc import Collection, Mapping, Sequence

from handlers.dose_results import (
    CumulativeDose,
    DoseMeasures,
    EndCap,
    LimitStatus,
    LimitVerdict,
    OrganCumulative,
    PlanMeasures,
    StructureDose,
)
from handlers.pages.content import Beside, Block, Section, Statement, Table, Tone, table_of
from handlers.pages.dvh_figure import curves_of, dvh_figure
from handlers.pages.plans_compared import plans_compared
from handlers.pages.words import (
    NONE,
    bare,
    count,
    heading_of,
    joined,
    label_of,
    name,
    number,
    sentence,
)

TARGET_KEYS = (
    "coverage_percent", "v95_percent", "d98_gy", "d95_gy", "d50_gy", "d2_gy", "d35mm3_gy",
    "mean_gy", "ci_paddick", "ci_rtog", "gradient_index", "r50", "d2cm_percent", "hi_icru83",
)  # fmt: skip
"""Figures of targets that stand on the page, where they are known; the structured report has all.
"""

ORGAN_KEYS = ("mean_gy", "max_gy", "d0.03cc_gy", "d0.1cc_gy", "d1cc_gy", "d5cc_gy")
"""Likewise of organs."""

SHORT_ORGAN_KEYS = ("mean_gy", "d0.03cc_gy", "d1cc_gy")
"""Likewise of organs, in a table beside the curves."""

MOST_ORGANS_BESIDE = 22
"""Organs whose table is no longer than the curves are high, nearly."""

PLOT_SHARE = 0.58
"""Part of the width for the curves, if the organs stand beside them."""

CUMULATIVE_KEYS = ("eqd2_d0.03cc_gy", "eqd2_d1cc_gy", "eqd2_mean_gy")

LIMITED_KEY = "eqd2_d0.03cc_gy"
"""On which cumulative limits are set."""

_ORDER = {LimitStatus.EXCEEDED: 0, LimitStatus.NOT_EVALUABLE: 1, LimitStatus.MET: 2}
"""What a reader must see first."""


def dose_sections(dose: DoseMeasures, bodies: Collection[str]) -> list[Section]:
    """Return one section for each plan, one that compares them, and one for all courses.

    Args:
        dose: What was measured.
        bodies: Names of what encloses or carries the patient.
    """
    sections = [_plan(plan, dose, bodies) for plan in dose.plans]
    if (compared := plans_compared(dose)) is not None:
        sections.append(compared)
    if dose.cumulative is not None:
        sections.append(_cumulative(dose.cumulative))
    return sections


def _plan(plan: PlanMeasures, dose: DoseMeasures, bodies: Collection[str]) -> Section:
    title = f"plan {name(plan.label)}" if plan.label else "the plan"
    blocks: list[Block] = [Statement(sentence(reason), Tone.CAUTION) for reason in plan.reasons]
    curves = curves_of(plan, bodies)
    keys = {id(curve.structure): curve.key for curve in curves}
    targets = [s for s in plan.structures if s.version is not None]
    organs = [s for s in plan.structures if s.version is None]
    if curves and 0 < len(organs) <= MOST_ORGANS_BESIDE:
        figure = dvh_figure(plan, curves, title, has_legend=False)
        table = _figures("Organs: dose in Gy", organs, SHORT_ORGAN_KEYS, keys)
        blocks.append(Beside(((figure,), (table,)), (PLOT_SHARE, 1 - PLOT_SHARE)))
        organs = []
    elif curves:
        blocks.append(dvh_figure(plan, curves, title, has_legend=True))
    if targets:
        blocks.append(_figures("Targets: dose in Gy", targets, TARGET_KEYS, keys))
    if organs:
        blocks.append(_figures("Organs: dose in Gy", organs, ORGAN_KEYS, keys))
    blocks += _reasons(plan.structures)
    blocks += _limits(plan, dose.end_cap)
    return Section(f"Dose, {title}: {_prescribed(plan)}", tuple(blocks))


_END_CAPS: Mapping[EndCap, str] = {
    EndCap.HALF_SLICE: "half a slice beyond their first and last contour",
    EndCap.NONE: "on their first and last contour",
    EndCap.TAPERED: "beyond their first and last contour as the areas of their contours lead on",
}


def _prescribed(plan: PlanMeasures) -> str:
    if plan.prescribed is None:
        return "prescription not known"
    fractions = plan.prescribed.fractions
    given = "" if fractions is None else f" in {count(fractions, 'fraction')}"
    return f"{number(plan.prescribed.dose_gy, 2)} Gy{given}, as the {plan.prescribed.said_by} says"


def _figures(
    caption: str,
    structures: Sequence[StructureDose],
    keys: Sequence[str],
    letters: Mapping[int, str],
) -> Table:
    shown = [key for key in keys if any(key in s.figures for s in structures)]
    headings = ["structure", "curve", "cm³", *(_heading(key) for key in shown)]
    rows = (
        (
            _called(s),
            letters.get(id(s), ""),
            NONE if s.dvh is None else bare("_cm3", s.dvh.structure_cm3),
            *(bare(key, s.figures.get(key)) for key in shown),
        )
        for s in structures
    )
    return table_of(caption, headings, rows, words=(0, 1))


def _heading(key: str) -> str:
    """Return what a figure is called where doses are in Gy."""
    return label_of(key) if key.endswith("_gy") else heading_of(key)


def _called(structure: StructureDose) -> str:
    if structure.version is None:
        return name(structure.name)
    return f"{name(structure.name)}, {structure.version}"


def _reasons(structures: Sequence[StructureDose]) -> list[Block]:
    """Return why figures are absent, each reason once with the structures that it holds for."""
    whose: dict[str, list[str]] = {}
    for structure in structures:
        for reason in structure.reasons:
            whose.setdefault(sentence(reason), []).append(_called(structure))
    return _notes(whose)


def _notes(whose: Mapping[str, Sequence[str]]) -> list[Block]:
    """Return sentences, each with what it holds for, as one note."""
    told = [f"{joined(list(names))}: {reason}" for reason, names in whose.items()]
    return [Statement(" ".join(told), Tone.NOTE)] if told else []


# --- limits ---------------------------------------------------------------------------------------


def _limits(plan: PlanMeasures, end_cap: EndCap) -> list[Block]:
    """Return verdicts, and what is not judged and why."""
    of_organs = [verdict for verdict in plan.limits if verdict.roi_name]
    measured = sorted(
        (v for v in of_organs if v.value is not None), key=lambda verdict: _ORDER[verdict.status]
    )
    blocks: list[Block] = []
    words = [f"Structures end {_END_CAPS[end_cap]}."]
    if measured:
        sources = list(dict.fromkeys(_source(verdict) for verdict in measured))
        blocks.append(_limit_table(measured, sources))
        if len(sources) > 1:
            words[:0] = [f"[{at}] {source}." for at, source in enumerate(sources, start=1)]
    blocks += _notes(_why_not([v for v in of_organs if v.value is None]))
    absent = list(dict.fromkeys(v.limit.organ for v in plan.limits if not v.roi_name))
    if absent:
        words.append(f"No ROI is named like the organ of these limits: {joined(absent)}.")
    whose: dict[str, list[str]] = {}
    for roi_name, reason in plan.unmatched.items():
        whose.setdefault(reason, []).append(name(roi_name))
    words += [f"No limit for {joined(names)}: {reason}." for reason, names in whose.items()]
    return [*blocks, Statement(" ".join(words), Tone.NOTE)]


def _why_not(verdicts: Sequence[LimitVerdict]) -> dict[str, list[str]]:
    """Return the limits of which nothing was measured, by reason."""
    whose: dict[str, list[str]] = {}
    for verdict in verdicts:
        reason = sentence(verdict.reason) or "Not evaluable."
        called = f"{name(verdict.roi_name)} {_wanted(verdict)}"
        if called not in whose.setdefault(reason, []):
            whose[reason].append(called)
    return whose


def _limit_table(measured: Sequence[LimitVerdict], sources: Sequence[str]) -> Table:
    """Return the verdicts; a source that all share stands in the caption, several below."""
    headings = ["organ", "limit", "value", "verdict"]
    rows = [_limit_row(verdict) for verdict in measured]
    caption = "Organ limits"
    if len(sources) == 1:
        caption = f"Organ limits: {sources[0]}"
    else:
        rows = [
            (organ, f"{wanted} [{sources.index(_source(verdict)) + 1}]", *rest)
            for (organ, wanted, *rest), verdict in zip(rows, measured, strict=True)
        ]
    tones = {
        index: Tone.CAUTION
        for index, verdict in enumerate(measured)
        if verdict.status is LimitStatus.EXCEEDED
    }
    return table_of(caption, headings, rows, words=(0, 1, 3), whole=(1,), tones=tones)


def _source(verdict: LimitVerdict) -> str:
    limit = verdict.limit
    given = "" if limit.fractions is None else f", {count(limit.fractions, 'fraction')}"
    return f"{limit.source}{given} ({limit.certainty})"


def _wanted(verdict: LimitVerdict) -> str:
    limit = verdict.limit
    sign = "≥" if limit.metric.startswith("CV") else "≤"
    return f"{limit.metric} {sign} {limit.bound:g} {limit.unit.replace('cm3', 'cm³')}"


def _limit_row(verdict: LimitVerdict) -> tuple[str, ...]:
    limit = verdict.limit
    is_spared = limit.metric.startswith("CV")
    unit = limit.unit.replace("cm3", "cm³")
    organ = name(verdict.roi_name)
    if limit.organ != verdict.roi_name:
        organ += f" ({limit.organ})"
    value = NONE
    if verdict.value is not None:
        bound = ("≤ " if is_spared else "≥ ") if verdict.is_bound else ""
        value = f"{bound}{number(verdict.value, 2)} {unit}"
    said = str(verdict.status)
    if verdict.excess is not None:
        word = "MISSED" if is_spared else "EXCEEDED"
        said = f"{word} by {number(verdict.excess, 2)} {unit}"
    if verdict.reason:
        said += f": {sentence(verdict.reason)}"
    return organ, _wanted(verdict), value, said


# --- all courses ---------------------------------------------------------------------------------


def _cumulative(cumulative: CumulativeDose) -> Section:
    headings = ["course", "which", "fractions", "as says the", "days before the current CT"]
    rows = (
        (
            name(course.label),
            "prior" if course.is_prior else "current",
            str(course.fractions),
            course.fractions_said_by,
            NONE if course.interval_days is None else str(course.interval_days),
        )
        for course in cumulative.courses
    )
    blocks: list[Block] = [table_of("Courses", headings, rows, words=(0, 1, 3))]
    blocks += [Statement(sentence(reason), Tone.CAUTION) for reason in cumulative.reasons]
    if cumulative.organs:
        blocks.append(_organs_of_courses(cumulative))
    whose: dict[str, list[str]] = {}
    for organ in cumulative.organs:
        for reason in organ.reasons:
            whose.setdefault(sentence(reason), []).append(name(organ.name))
    blocks += _notes(whose)
    blocks.append(
        Statement(
            "In brackets: lowest and highest value while the prior dose is shifted by "
            f"{number(cumulative.shift_mm, 1)} mm along each axis, for the uncertainty of the "
            "registration. Worst case: the maxima of all courses added, wherever they lie, without "
            "recovery. Recovery: part of the prior EQD2 that is forgiven. Remaining: EQD2 that the "
            "limit leaves to this course, in brackets the physical dose in its fractions.",
            Tone.NOTE,
        )
    )
    return Section("All courses together, as EQD2", tuple(blocks))


def _organs_of_courses(cumulative: CumulativeDose) -> Table:
    shown = [k for k in CUMULATIVE_KEYS if any(k in o.figures for o in cumulative.organs)]
    headings = [
        "structure", "α/β", "as says the", "recovery (%)",
        *(label_of(key.removeprefix("eqd2_")) for key in shown),
        "worst case", "limit", "remaining",
    ]  # fmt: skip
    tones = {
        index: Tone.CAUTION
        for index, organ in enumerate(cumulative.organs)
        if is_above_limit(organ)
    }
    rows = (
        (
            name(organ.name),
            f"{organ.alpha_beta_gy:g}",
            organ.alpha_beta_said_by,
            number(100 * organ.recovery, 0),
            *(_cumulative_figure(organ, key) for key in shown),
            bare("_gy", organ.worst_case_gy),
            bare("_gy", organ.limit_gy),
            _remaining(organ),
        )
        for organ in cumulative.organs
    )
    caption = "EQD2 of all courses in Gy"
    words = (0, 2, len(headings) - 1)
    return table_of(caption, headings, rows, words=words, tones=tones)


def is_above_limit(organ: OrganCumulative) -> bool:
    """Tell whether all courses together exceed the department's limit in an organ."""
    reached = organ.figures.get(LIMITED_KEY)
    return organ.limit_gy is not None and reached is not None and reached > organ.limit_gy


def _remaining(organ: OrganCumulative) -> str:
    """Return what a limit leaves for the current course, or by how much it is exceeded."""
    told = ""
    if organ.remaining is not None:
        left = organ.remaining
        told = f"{number(left.eqd2_gy, 2)} ({number(left.dose_gy, 2)} in {left.fractions})"
    if is_above_limit(organ):
        over = organ.figures[LIMITED_KEY] - (organ.limit_gy or 0.0)
        return f"{told} EXCEEDED by {number(over, 2)}".strip()
    return told or NONE


def _cumulative_figure(organ: OrganCumulative, key: str) -> str:
    """Return a figure; that on which limits are set with its range over the shifts."""
    value = bare(key, organ.figures.get(key))
    if key not in organ.figures:
        return value
    if organ.is_at_least:
        value = f"≥ {value}"
    if key != LIMITED_KEY or key not in organ.low or key not in organ.high:
        return value
    return f"{value} ({bare(key, organ.low[key])} to {bare(key, organ.high[key])})"
