"""Organ limits of a plan: which rows of the tables hold for it, and what became of each.

A limit is met only where that is sure. Physical dose, in the number of fractions that a row was
made for, is compared; nothing is converted, nothing lies between two rows. A value that lies
exactly on its bound does not keep it, as the sources write "<"; a spared volume ("at least") does.

Read first: Benedict et al. 2010, Med Phys 37:4078 (AAPM TG-101), section on normal tissue limits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from handlers.dose_results import Dvh, Limit, LimitStatus, LimitVerdict, Prescribed
from handlers.limit_metrics import (
    Measured,
    MetricKind,
    Truth,
    measured,
    metric_of,
    summed,
)
from handlers.organ_names import OrganNames
from handlers.values import DoseKind

CONVENTIONAL_GY = (1.8, 2.2)
"""Dose per fraction, both ends included, for which rows of conventional fractionation hold."""

ROUNDING_GY = 1e-6
"""Doses per fraction are quotients."""

PAIRED = " + "
"""Stands between the names of two ROIs that a limit is judged on together."""

NO_ROI = "no ROI is this organ by its name"

NO_FRACTIONS = (
    "no one number of fractions, or no dose, is known: neither by an RT Plan (one of several "
    "fraction groups has none) nor by the protocol ([protocol.prescription])"
)

EFFECTIVE = "the dose is an effective one, and limits are made for physical dose"


class _Relation(StrEnum):
    """What an ROI is to the organ of a limit."""

    ITSELF = "itself"
    PART = "part"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """What a limit is judged on: an ROI, or a pair of them."""

    roi_name: str
    dvh: Dvh
    organ: str
    relation: _Relation = _Relation.ITSELF


def judge_limits(
    limits: Sequence[Limit],
    organs: Mapping[str, Dvh],
    names: OrganNames,
    prescribed: Prescribed | None,
    kind: DoseKind,
) -> tuple[tuple[LimitVerdict, ...], tuple[str, ...]]:
    """Return the verdict on each limit that a plan is held to, and the ROIs that no limit is for.

    Rows for another number of fractions than the plan's do not hold for it. Where no row of an
    organ in a table holds for the plan, or the organ has no ROI, that is told once, with the first
    row in question; where both is so, nothing is told.

    An organ that is a pair is the sum of its two ROIs where it has none of its own. Where it has
    neither, a limit is judged on what holds the organ (dose and volumes there are the most that it
    can have) or on its parts (the least); no share and no mean is.

    Args:
        limits: Rows of the tables, in their order.
        organs: Histograms of one plan by ROI name, `Liver-GTV` and its like among them.
        names: What ROIs are by their names.
        prescribed: What the plan is to give, in how many fractions.
        kind: What the numbers of the dose are.

    Returns:
        Verdicts in the order of the tables, and the names of ROIs in the order of `organs`.
    """
    organ_of = {roi_name: names.organ_of(roi_name) for roi_name in organs}
    drawn: dict[str, dict[str, Dvh]] = {}
    for roi_name, organ in organ_of.items():
        drawn.setdefault(organ, {})[roi_name] = organs[roi_name]
    rows_of: dict[tuple[str, str], list[Limit]] = {}
    for limit in limits:
        rows_of.setdefault((limit.table, limit.organ), []).append(limit)
    verdicts: list[LimitVerdict] = []
    for (_, organ), rows in rows_of.items():
        holding = [row for row in rows if _holds(row, prescribed, kind)]
        subjects, absence = _subjects(organ, drawn, names)
        if holding and subjects:
            verdicts += [_verdict(row, each) for row in holding for each in subjects]
        elif holding:
            verdicts.append(_not_evaluable(holding[0], "", absence))
        elif subjects:
            reason = _hindrance(rows, prescribed, kind)
            verdicts.append(_not_evaluable(rows[0], subjects[0].roi_name, reason))
    asked = {each for _, organ in rows_of for each in _related(organ, names)}
    return tuple(verdicts), tuple(name for name in organs if organ_of[name] not in asked)


def _holds(limit: Limit, prescribed: Prescribed | None, kind: DoseKind) -> bool:
    """Tell whether a row was made for such a plan."""
    if kind is not DoseKind.PHYSICAL or prescribed is None or not prescribed.fractions:
        return False
    if limit.fractions is not None:
        return limit.fractions == prescribed.fractions
    least, most = CONVENTIONAL_GY
    fraction_gy = prescribed.dose_gy / prescribed.fractions
    return least - ROUNDING_GY <= fraction_gy <= most + ROUNDING_GY


def _hindrance(rows: Iterable[Limit], prescribed: Prescribed | None, kind: DoseKind) -> str:
    """Return why no row holds for a plan."""
    if kind is not DoseKind.PHYSICAL:
        return EFFECTIVE
    if prescribed is None or not prescribed.fractions:
        return NO_FRACTIONS
    numbers = sorted({row.fractions for row in rows if row.fractions is not None})
    told = [f"{', '.join(map(str, numbers))} fractions"] if numbers else []
    if any(row.fractions is None for row in rows):
        least, most = CONVENTIONAL_GY
        told.append(f"{least:g} to {most:g} Gy per fraction")
    fraction_gy = prescribed.dose_gy / prescribed.fractions
    return (
        f"its limits are for {' and for '.join(told)}, the plan has {prescribed.fractions} of "
        f"{fraction_gy:.2f} Gy: nothing is converted"
    )


def _subjects(
    organ: str, drawn: Mapping[str, Mapping[str, Dvh]], names: OrganNames
) -> tuple[list[_Subject], str]:
    """Return what the limits of an organ are judged on; else nothing, and why."""
    if found := _drawn(organ, drawn, names):
        return found, ""
    halves = [drawn.get(half, {}) for half in names.pair(organ) or ()]
    if doubled := [name for half in halves if len(half) > 1 for name in half]:
        told = ", ".join(f"'{name}'" for name in doubled)
        return [], f"several ROIs are one and the same half of it: {told}"
    for whole in names.holders(organ):
        if found := _drawn(whole, drawn, names):
            return [replace(each, relation=_Relation.WHOLE) for each in found], ""
    found = [
        _Subject(name, dvh, part, _Relation.PART)
        for part in (*(names.pair(organ) or ()), *names.held(organ))
        for name, dvh in drawn.get(part, {}).items()
    ]
    return found, "" if found else NO_ROI


def _drawn(organ: str, drawn: Mapping[str, Mapping[str, Dvh]], names: OrganNames) -> list[_Subject]:
    """Return the ROIs that are an organ, or the sum of both that are a pair; empty: it has none."""
    if organ in drawn:
        return [_Subject(name, dvh, organ) for name, dvh in drawn[organ].items()]
    halves = [drawn.get(half, {}) for half in names.pair(organ) or ()]
    if not halves or any(len(half) != 1 for half in halves):
        return []
    both = {name: dvh for half in halves for name, dvh in half.items()}
    return [_Subject(PAIRED.join(both), summed(list(both.values())), organ)]


def _related(organ: str, names: OrganNames) -> set[str]:
    """Return all organs on which the limits of one may be judged."""
    whole = (organ, *names.holders(organ))
    halves = (half for each in whole for half in names.pair(each) or ())
    return {*whole, *halves, *names.held(organ)}


def _verdict(limit: Limit, subject: _Subject) -> LimitVerdict:
    metric = metric_of(limit.metric)
    reasons = _relation_told(subject, limit.organ)
    if subject.relation is not _Relation.ITSELF and (metric.is_relative or limit.unit == "%"):
        reasons.append("no share and no mean can be told from that")
        return _not_evaluable(limit, subject.roi_name, "; ".join(reasons))
    found = measured(metric, limit.unit, subject.dvh)
    if found.value is None:
        reasons.append(found.reason)
        return _not_evaluable(limit, subject.roi_name, "; ".join(reasons))
    if found.truth is not Truth.EQUAL:
        reasons.append(f"the dose covers {_percent_told(subject.dvh)} % of the ROI")
    worse = Truth.AT_MOST if metric.kind is MetricKind.SPARED else Truth.AT_LEAST
    truth = _truth(found, subject.relation)
    is_kept = found.value < limit.bound
    if metric.kind is MetricKind.SPARED:
        is_kept = found.value >= limit.bound
    status = _status(is_kept, truth, worse, subject.relation)
    if limit.unit == "cm3" and subject.dvh.structure_cm3 < limit.bound:
        status = LimitStatus.NOT_EVALUABLE
        reasons.append(
            f"the ROI has {subject.dvh.structure_cm3:.1f} cm3 in all, less than the bound: is the "
            "organ wholly contoured?"
        )
    return LimitVerdict(
        limit,
        subject.roi_name,
        status,
        found.value,
        is_bound=truth is worse,
        reason="; ".join(reasons),
    )


def _truth(found: Measured, relation: _Relation) -> Truth | None:
    """Return where the truth of an organ lies beside what was measured on an ROI; None: anywhere.

    Every metric that is not relative grows with the structure, so that a part has at most, a whole
    at least as much as the organ.
    """
    beside = {
        _Relation.ITSELF: Truth.EQUAL,
        _Relation.PART: Truth.AT_LEAST,
        _Relation.WHOLE: Truth.AT_MOST,
    }[relation]
    ways = {beside, found.truth} - {Truth.EQUAL}
    if len(ways) > 1:
        return None
    return ways.pop() if ways else Truth.EQUAL


def _status(is_kept: bool, truth: Truth | None, worse: Truth, relation: _Relation) -> LimitStatus:
    """Return the verdict: met only where that is sure.

    What exceeds a limit in all that holds the organ counts as exceeded, though it may lie beside
    the organ; a part that spares too little leaves open what the rest spares.

    Args:
        is_kept: Whether the value keeps the limit.
        truth: Where the truth lies beside the value; None: anywhere.
        worse: The side on which the truth is worse than the value.
        relation: Of what the value is.
    """
    if truth is Truth.EQUAL:
        return LimitStatus.MET if is_kept else LimitStatus.EXCEEDED
    if is_kept:
        return LimitStatus.NOT_EVALUABLE if truth in (None, worse) else LimitStatus.MET
    is_sure = truth is worse or relation is _Relation.WHOLE
    return LimitStatus.EXCEEDED if is_sure else LimitStatus.NOT_EVALUABLE


def _relation_told(subject: _Subject, organ: str) -> list[str]:
    if subject.relation is _Relation.WHOLE:
        return [f"judged on {subject.organ}, which holds {organ}"]
    if subject.relation is _Relation.PART:
        return [f"{subject.organ} is only a part of {organ}"]
    return []


def _percent_told(dvh: Dvh) -> str:
    return f"{math.floor(1000.0 * dvh.covered_fraction) / 10.0:g}"


def _not_evaluable(limit: Limit, roi_name: str, reason: str) -> LimitVerdict:
    return LimitVerdict(limit, roi_name, LimitStatus.NOT_EVALUABLE, None, reason=reason)
