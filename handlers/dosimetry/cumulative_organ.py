"""All courses in one organ: their sum as EQD2, its figures and ranges, and what a limit leaves.

The boxes of the organ are taken to where they lay in each course, the physical dose is read there
and converted: an exact pull-back, without a grid in between. Where the dose of a course is not
known, the others are summed, and every figure says "at least": unknown dose is never zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from handlers.dose_results import COVERED_TOLERANCE, Array, OrganCumulative, RemainingDose
from handlers.dosimetry.biology import LARGE_FRACTION_GY, dose_of_eqd2, eqd2, is_organ
from handlers.dosimetry.courses import CourseDose
from handlers.dosimetry.histogram import COARSE_MM, HOTTEST_BOXES, MOST_PARTS, histogram_of
from handlers.dosimetry.reirradiation import OrganRule
from handlers.dosimetry.solids import Solid
from handlers.geometry import Points

Known = npt.NDArray[np.bool_]
Step = tuple[float, float, float]

HOTTEST_CM3 = {
    "eqd2_d0.03cc_gy": 0.03,
    "eqd2_d0.1cc_gy": 0.1,
    "eqd2_d1cc_gy": 1.0,
    "eqd2_d5cc_gy": 5.0,
}
"""Hottest volumes whose lowest dose is told, by the key of the figure."""

MEAN = "eqd2_mean_gy"

LIMITED = "eqd2_d0.03cc_gy"
"""The figure that a cumulative limit bounds."""

LEAST_BOXES = 20_000
"""So many boxes tell what a shift changes, at least, if there are as many."""

HOLLOW = ("Duodenum", "Bowel", "Bowel_Small", "Bowel_Large", "Bowel_Bag", "Spc_Bowel", "SmallBowel",
          "Jejunum", "Ileum", "Cecum", "Colon", "Rectum", "Stomach")  # fmt: skip
"""TG-263 names of organs that lie and are filled otherwise every day."""


@dataclass(frozen=True, slots=True, eq=False)
class SummedOrgan:
    """An organ, and how it is summed.

    Attributes:
        name: ROI name.
        organ: TG-263 name, or the ROI name where none is known.
        solid: On the planning CT.
        alpha_beta_gy: By which it is converted.
        alpha_beta_said_by: Where that comes from.
        rule: What the protocol says about it.
        is_doubtful: Contours of it are malformed or lie on no CT slice: it meets no limit, and what
            a limit leaves of it is not told.
    """

    name: str
    organ: str
    solid: Solid
    alpha_beta_gy: float
    alpha_beta_said_by: str
    rule: OrganRule
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Worth:
    """EQD2 at some boxes: of one course, or a sum.

    Attributes:
        gy: Of what is known; 0 where nothing is.
        known: Where a course at least is known.
        whole: Where all of them are.
        volumes_cm3: Of the boxes.
    """

    gy: Array
    known: Known
    whole: Known
    volumes_cm3: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Term:
    """A course in a sum, at some places.

    Attributes:
        course: Which.
        places: In the frame of the course, shape (n, 3).
        gy: EQD2 there, 0 where it is not known.
        known: Where it is.
        kept: What part of it counts.
        step_mm: By how much its dose is moved on the planning CT.
    """

    course: CourseDose
    places: Points
    gy: Array
    known: Known
    kept: float
    step_mm: Step = (0.0, 0.0, 0.0)


def measure_organ(
    organ: SummedOrgan,
    current: CourseDose,
    prior: Sequence[CourseDose],
    shift_mm: float,
    *,
    is_prior_complete: bool,
) -> OrganCumulative:
    """Return what all courses did to one organ.

    Args:
        organ: On the current planning CT.
        current: The course that is planned now.
        prior: Those before, at least one.
        shift_mm: The prior doses are moved, together, by this much to and fro along each axis of
            the patient, and along two and three axes at once: 26 shifts. 0: none.
        is_prior_complete: Every prior course of the patient that is known is among `prior`.
    """
    kept = 1.0 - organ.rule.recovery
    points = organ.solid.points_mm
    now = _term(organ, current, current.places_of(points))
    in_full = [_term(organ, each, each.places_of(points)) for each in prior]
    before = [replace(each, kept=kept) for each in in_full]
    alone = [_worth(organ, [term]) for term in (now, *in_full)]
    by_course = tuple(_figures(each) for each in alone)
    reasons = _told_of_courses(organ, alone, (current, *prior))
    if not alone[0].known.any() or not any(each.known.any() for each in alone[1:]):
        reasons.append("Nothing was summed: the dose of one side is not known anywhere in it.")
        return replace(_unsummed(organ), by_course=by_course, reasons=tuple(reasons))
    summed = _worth(organ, [now, *before])
    figures = _figures(summed)
    low, high = _ranges(organ, figures, current, prior, kept, shift_mm)
    if MEAN in figures and MEAN not in low:
        reasons.append("Moved, prior dose is not known in all of it: the ranges are at least so.")
    is_whole = is_prior_complete and bool(summed.whole.all())
    is_prior_known = is_prior_complete and all(each.whole.all() for each in alone[1:])
    before_only = _figures(_worth(organ, before)) if is_prior_known else {}
    return replace(
        _unsummed(organ),
        dvh=histogram_of(
            summed.gy[summed.known], summed.volumes_cm3[summed.known], organ.solid.volume_cm3
        ),
        figures=figures,
        low=low,
        high=high,
        worst_case_gy=_worst_case(by_course),
        reasons=(*reasons, *_told_of_limit(organ, figures, high, is_whole=is_whole)),
        is_at_least=not is_whole,
        by_course=by_course,
        without_recovery=_figures(_worth(organ, [now, *in_full])) if kept < 1.0 else {},
        remaining=_remaining(organ, before_only, current.course.fractions),
    )


def _ranges(
    organ: SummedOrgan,
    figures: Mapping[str, float],
    current: CourseDose,
    prior: Sequence[CourseDose],
    kept: float,
    shift_mm: float,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures at their smallest and largest over the shifts; those always known.

    By how much a shift changes them is taken at fewer boxes where these are finer than doses are.

    Accuracy:
        Within 0.5 % of what all boxes tell, 1 % for the maximum (structures of a phantom).
    """
    if shift_mm <= 0:
        return dict(figures), dict(figures)
    fewer = replace(organ, solid=_thinned(organ.solid))
    points = fewer.solid.points_mm
    now = _term(fewer, current, current.places_of(points))
    before = [_term(fewer, each, each.places_of(points), kept) for each in prior]
    still = _figures(_worth(fewer, [now, *before]))
    spread = [dict(figures)]
    for step in _shifts(shift_mm):
        shifted = [_term(fewer, each.course, each.places, kept, step) for each in before]
        moved = _figures(_worth(fewer, [now, *shifted]))
        both = figures.keys() & moved.keys() & still.keys()
        spread.append({key: figures[key] + moved[key] - still[key] for key in both})
    told = [key for key in figures if all(key in each for each in spread)]
    return (
        {key: max(0.0, min(each[key] for each in spread)) for key in told},
        {key: max(each[key] for each in spread) for key in told},
    )


def _thinned(solid: Solid) -> Solid:
    """Return a structure of as many boxes as cubes of `COARSE_MM` fill it, chosen by lot."""
    count = len(solid.volumes_mm3)
    wanted = max(LEAST_BOXES, round(solid.volume_cm3 * 1000.0 / COARSE_MM**3))
    if count <= wanted:
        return solid
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:wanted])
    volumes = solid.volumes_mm3[chosen]
    share = float(solid.volumes_mm3.sum() / volumes.sum())
    return Solid(solid.centres_mm[chosen], volumes * share, solid.axes, solid.widths_mm[chosen])


def _term(
    organ: SummedOrgan,
    course: CourseDose,
    places: Points,
    kept: float = 1.0,
    step_mm: Step = (0.0, 0.0, 0.0),
) -> _Term:
    """Return what a course gave to places of its own frame, its dose moved by a step."""
    at = places - course.step_there(step_mm) if any(step_mm) else places
    dose_gy, known = course.physical_at(at)
    fractions = course.course.fractions
    gy = eqd2(dose_gy, fractions=fractions, alpha_beta_gy=organ.alpha_beta_gy)
    return _Term(course, places, np.where(known, gy, 0.0), known, kept, step_mm)


def _worth(organ: SummedOrgan, terms: Sequence[_Term]) -> _Worth:
    """Return the sum of some courses in an organ; the hottest of boxes that are coarse are parted.

    Args:
        organ: The organ.
        terms: At the points of its boxes.
    """
    solid = organ.solid
    worth = _summed(terms, solid.volumes_mm3 / 1000.0)
    if float(solid.widths_mm.max()) <= COARSE_MM:
        return worth
    count = min(HOTTEST_BOXES, len(worth.gy))
    boxes = np.argpartition(worth.gy, -count)[-count:]
    widest = solid.widths_mm[boxes].max(axis=0)
    parts = [int(n) for n in np.clip(np.ceil(widest / COARSE_MM), 1, MOST_PARTS)]
    points = solid.parted(boxes, parts).reshape(-1, 3)
    many = int(np.prod(parts))
    finer = _summed(
        [_term(organ, t.course, t.course.places_of(points), t.kept, t.step_mm) for t in terms],
        np.repeat(worth.volumes_cm3[boxes] / many, many),
    )
    rest = np.ones(len(worth.gy), dtype=np.bool_)
    rest[boxes] = False
    return _Worth(
        np.concatenate((worth.gy[rest], finer.gy)),
        np.concatenate((worth.known[rest], finer.known)),
        np.concatenate((worth.whole[rest], finer.whole)),
        np.concatenate((worth.volumes_cm3[rest], finer.volumes_cm3)),
    )


def _summed(terms: Sequence[_Term], volumes_cm3: Array) -> _Worth:
    gy = np.zeros(len(volumes_cm3))
    for term in terms:
        gy += term.kept * term.gy
    known = np.logical_or.reduce([term.known for term in terms])
    whole = np.logical_and.reduce([term.known for term in terms])
    return _Worth(gy, known, whole, volumes_cm3)


def _figures(worth: _Worth) -> dict[str, float]:
    """Return the figures that can be told: a mean only of an organ that is known as a whole."""
    if not worth.known.any():
        return {}
    volumes_cm3, gy = worth.volumes_cm3[worth.known], worth.gy[worth.known]
    figures = {"eqd2_max_gy": float(gy.max())}
    covered_cm3 = float(volumes_cm3.sum())
    hot = _hottest(gy, volumes_cm3, max(HOTTEST_CM3.values()))
    # no histogram: this is asked for every organ and every shift
    falling = hot[np.argsort(-gy[hot])]
    reached_cm3 = np.cumsum(volumes_cm3[falling])
    for key, volume_cm3 in HOTTEST_CM3.items():
        if volume_cm3 <= covered_cm3 * (1.0 + COVERED_TOLERANCE):
            at = min(int(np.searchsorted(reached_cm3, volume_cm3)), len(falling) - 1)
            figures[key] = float(gy[falling[at]])
    if worth.whole.all():
        figures[MEAN] = float(gy @ volumes_cm3 / covered_cm3)
    return figures


def _hottest(gy: Array, volumes_cm3: Array, wanted_cm3: float) -> npt.NDArray[np.intp]:
    """Return the indices of the hottest boxes that have twice the wanted volume, or all."""
    count = int(2.0 * wanted_cm3 / volumes_cm3.mean()) + 1
    while count < len(gy):
        hot = np.argpartition(gy, -count)[-count:]
        if float(volumes_cm3[hot].sum()) >= 2.0 * wanted_cm3:
            return np.asarray(hot)
        count *= 2
    return np.arange(len(gy))


def _shifts(shift_mm: float) -> list[tuple[float, float, float]]:
    if shift_mm <= 0:
        return []
    steps = (-shift_mm, 0.0, shift_mm)
    return [(x, y, z) for x, y, z in product(steps, steps, steps) if x or y or z]


def _worst_case(by_course: Sequence[Mapping[str, float]]) -> float | None:
    """Return the sum of the maxima; None where that of a course is not known."""
    if not all(by_course):
        return None
    return sum(figures["eqd2_max_gy"] for figures in by_course)


def _unsummed(organ: SummedOrgan) -> OrganCumulative:
    return OrganCumulative(
        name=organ.name,
        alpha_beta_gy=organ.alpha_beta_gy,
        alpha_beta_said_by=organ.alpha_beta_said_by,
        recovery=organ.rule.recovery,
        dvh=None,
        figures={},
        low={},
        high={},
        worst_case_gy=None,
        limit_gy=organ.rule.limit_gy,
    )


def _remaining(
    organ: SummedOrgan, before: Mapping[str, float], fractions: int
) -> RemainingDose | None:
    """Return what the limit leaves after the prior courses; None if they are not known in full."""
    if organ.rule.limit_gy is None or LIMITED not in before or organ.is_doubtful:
        return None
    left_gy = organ.rule.limit_gy - before[LIMITED]
    dose_gy = dose_of_eqd2(
        max(0.0, left_gy), fractions=fractions, alpha_beta_gy=organ.alpha_beta_gy
    )
    return RemainingDose(left_gy, float(dose_gy), fractions)


# --- sentences ------------------------------------------------------------------------------------


def _told_of_limit(
    organ: SummedOrgan,
    figures: Mapping[str, float],
    high: Mapping[str, float],
    *,
    is_whole: bool,
) -> list[str]:
    limit_gy, value = organ.rule.limit_gy, figures.get(LIMITED)
    if limit_gy is None:
        return []
    if value is None:
        verdict = "not evaluable, for the organ, or what is known of it, is smaller"
    elif value > limit_gy:
        verdict = f"exceeded by {'' if is_whole else 'at least '}{value - limit_gy:.1f} Gy"
    elif organ.is_doubtful:
        verdict = (
            "not evaluable, for some contours of the organ are malformed or lie on no CT slice"
        )
    elif is_whole and high.get(LIMITED, value) > limit_gy:
        excess_gy = high[LIMITED] - limit_gy
        verdict = f"met, but exceeded by up to {excess_gy:.1f} Gy within the shifts"
    elif is_whole:
        verdict = "met"
    else:
        verdict = f"not evaluable, for the truth is only known to be at least {value:.1f} Gy"
    source = organ.rule.limit_source.strip()
    return [
        f"Cumulative limit of {limit_gy:g} Gy EQD2 on the hottest 0.03 cm3"
        f"{f' ({source})' if source else ''}: {verdict}."
    ]


def _told_of_courses(
    organ: SummedOrgan, alone: Sequence[_Worth], courses: Sequence[CourseDose]
) -> list[str]:
    reasons = []
    for worth, course in zip(alone, courses, strict=True):
        if not worth.known.any():
            reasons.append(f"The dose of {course.name} is not known anywhere in it.")
        elif not worth.known.all():
            known_cm3 = float(worth.volumes_cm3[worth.known].sum())
            percent = 100.0 * known_cm3 / organ.solid.volume_cm3
            reasons.append(
                f"The dose of {course.name} is known in {percent:.1f} % of it only: at least so."
            )
        largest_gy = _largest_fraction_gy(worth, course, organ)
        if largest_gy > LARGE_FRACTION_GY:
            reasons.append(
                f"Up to {largest_gy:.1f} Gy per fraction in {course.name}: the model tells too much"
                " effect."
            )
    if organ.rule.recovery:
        reasons.append(
            f"{100.0 * organ.rule.recovery:g} % recovery from prior courses, because: "
            f"{organ.rule.recovery_because.strip().removesuffix('.')}."
        )
    if is_organ(organ.organ, HOLLOW):
        reasons.append(
            "Not anatomically tracked: it lies and is filled otherwise every day, so the sum adds "
            "what two places got, not what one piece of its wall got."
        )
    return reasons


def _largest_fraction_gy(worth: _Worth, course: CourseDose, organ: SummedOrgan) -> float:
    """Return the largest dose per fraction in the organ, from its EQD2."""
    fractions = course.course.fractions
    largest_gy = dose_of_eqd2(
        float(worth.gy.max()), fractions=fractions, alpha_beta_gy=organ.alpha_beta_gy
    )
    return float(largest_gy) / fractions
