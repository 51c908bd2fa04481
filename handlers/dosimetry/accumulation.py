"""All courses of a patient together, as EQD2: in each organ, and on request as a dose grid.

Does not follow tissue: what fills, empties or moved by more than the registration tells was hit
elsewhere than the sum says. Classifies no kind of re-irradiation, and knows no tolerance: a
cumulative limit holds only where the protocol gives one.

Read first: Andratschke et al. 2022, Lancet Oncol 23:e469-e478 (ESTRO-EORTC consensus).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from handlers.dose_results import CumulativeDose, OrganCumulative
from handlers.dosimetry.biology import alpha_beta_of, eqd2
from handlers.dosimetry.courses import SUM_OF_PLANS, CourseDose, doses_elsewhere, find_courses
from handlers.dosimetry.cumulative_organ import LIMITED, SummedOrgan, measure_organ
from handlers.dosimetry.reirradiation import OrganRule, ReirradiationSettings
from handlers.dosimetry.solids import Solid
from handlers.results import Registration
from handlers.roi_names import matches
from handlers.values import Case, DoseGrid, DoseKind, Finding, Severity

OUTLINE = "EXTERNAL"
TARGETS = ("GTV", "CTV", "PTV")
"""RT ROI Interpreted Types of the outline of the body, and of what is to be irradiated."""


def accumulate(
    case: Case,
    registrations: Sequence[Registration],
    organs: Mapping[str, Solid],
    settings: ReirradiationSettings,
    *,
    targets: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    doubtful: Collection[str] = (),
) -> tuple[CumulativeDose | None, tuple[Finding, ...]]:
    """Return the EQD2 of all courses in each organ, or None where there is no prior course.

    Where a prior course is known but nothing can be summed, what is returned has no organs and
    says why.

    Args:
        case: Its plan doses are the current course, those of its earlier planning CT the prior
            ones.
        registrations: Those of the result, in its order.
        organs: By ROI name, on the current planning CT; targets included. The outline of the
            body is none.
        settings: Alpha/beta, recovery and limits by organ.
        targets: Which of `organs` are targets, besides those that are drawn as such.
        names: TG-263 name by ROI name, of those that are known; what is an organ by its name was
            not drawn as a target, whatever its type says.
        doubtful: Which of `organs` may not be what was drawn: they meet no limit.

    Accuracy:
        Physical dose is interpolated linearly and then converted. EQD2 is convex in dose, so
        between voxels this tells at most what converting first would, and both agree on them.
    """
    courses = find_courses(case, registrations, settings)
    if courses is None:
        return None, doses_elsewhere(case)
    used = [way for way in (course.registration for course in courses.prior) if way is not None]
    reasons = [*courses.left_out, *courses.reasons, *_wider_than(settings.shift_mm, used)]
    current, prior = courses.current, courses.prior
    told = tuple(each.course for each in (current, *prior) if each is not None)
    if current is None or not prior:
        reasons.append("Nothing was summed.")
        return CumulativeDose(told, (), (), settings.shift_mm, {}, tuple(reasons)), courses.findings
    kinds = {roi.name: roi.interpreted_type for roi in case.structure_set.rois}
    chosen = [
        _summed_organ(
            name,
            solid,
            (names or {}).get(name, name),
            settings,
            is_target=name in targets or (kinds.get(name) in TARGETS and name not in (names or {})),
            is_doubtful=name in doubtful,
        )
        for name, solid in organs.items()
        if kinds.get(name) != OUTLINE
    ]
    is_complete = not courses.left_out
    measured = tuple(
        measure_organ(organ, current, prior, settings.shift_mm, is_prior_complete=is_complete)
        for organ in chosen
    )
    sums, noticed = _wanted_sums(current, prior, chosen, settings)
    summed = CumulativeDose(
        courses=told,
        registration_indices=tuple(
            index for index, each in enumerate(registrations) if any(each is way for way in used)
        ),
        organs=measured,
        shift_mm=settings.shift_mm,
        sums=sums,
        reasons=(*reasons, *(finding.text for finding in noticed)),
    )
    return summed, (*courses.findings, *noticed, *_findings(measured))


def _wider_than(shift_mm: float, used: Sequence[Registration]) -> list[str]:
    return [
        f"A registration is uncertain by {way.uncertainty_mm:.1f} mm, more than the shifts of "
        f"{shift_mm:g} mm behind the ranges."
        for way in used
        if way.uncertainty_mm > shift_mm
    ]


def _summed_organ(
    name: str,
    solid: Solid,
    organ: str,
    settings: ReirradiationSettings,
    *,
    is_target: bool,
    is_doubtful: bool,
) -> SummedOrgan:
    fitting = (
        rule
        for rule in settings.organs
        if matches(name, [rule.pattern]) or matches(organ, [rule.pattern])
    )
    rule = next(fitting, OrganRule(name))
    row = alpha_beta_of(organ, is_target=is_target)
    ratio, said_by = row.gy, row.account
    if rule.alpha_beta_gy is not None:
        ratio, said_by = rule.alpha_beta_gy, "protocol"
    return SummedOrgan(name, organ, solid, ratio, said_by, rule, is_doubtful)


def _wanted_sums(
    current: CourseDose,
    prior: Sequence[CourseDose],
    organs: Sequence[SummedOrgan],
    settings: ReirradiationSettings,
) -> tuple[dict[float, DoseGrid], tuple[Finding, ...]]:
    """Return the sums as dose grids, as far as they are wanted and can be objects."""
    if not settings.is_sum_wanted:
        return {}, ()
    if not all(course.plan_uids for course in (current, *prior)):
        text = (
            "The summed dose cannot be made as an object, which must name the RT Plan of every "
            "course: send the RT Plans."
        )
        return {}, (Finding("reirradiation.no_sum", Severity.WARNING, text),)
    sums, unknown = _sums(current, prior, sorted({organ.alpha_beta_gy for organ in organs}))
    if not unknown:
        return sums, ()
    text = (
        f"In {100.0 * unknown:.1f} % of the voxels of the summed dose that of a prior course is "
        "not known: there the sum is only what the other courses gave, the truth is at least that."
    )
    return sums, (Finding("reirradiation.sum", Severity.WARNING, text),)


def _sums(
    current: CourseDose, prior: Sequence[CourseDose], ratios: Sequence[float]
) -> tuple[dict[float, DoseGrid], float]:
    """Return the EQD2 of all courses on the grid of the current dose, by alpha/beta.

    Beside them: in what part of the voxels a prior dose is not known.
    """
    geometry = current.dose.geometry
    total = {ratio: np.empty(geometry.shape, dtype=np.float32) for ratio in ratios}
    unknown = 0
    at = np.indices((1, *geometry.shape[1:])).reshape(3, -1).T
    for i in range(geometry.shape[0]):  # plane by plane: all points at once take much memory
        points = geometry.points_from_indices(at + np.array([i, 0, 0]))
        doses = [(current.dose.dose_gy[i].ravel(), current.course.fractions)]
        everywhere = np.ones(len(points), dtype=bool)
        for course in prior:
            dose_gy, known = course.physical_at(course.places_of(points))
            doses.append((np.where(known, dose_gy, 0.0), course.course.fractions))
            everywhere &= known
        unknown += int(np.count_nonzero(~everywhere))
        for ratio, plane in total.items():
            worth = sum(eqd2(d, fractions=n, alpha_beta_gy=ratio) for d, n in doses)
            plane[i] = np.asarray(worth).reshape(geometry.shape[1:])
    plan_uids = tuple(dict.fromkeys(uid for c in (current, *prior) for uid in c.plan_uids))
    return {
        ratio: DoseGrid(
            geometry,
            plane,
            summation_type=SUM_OF_PLANS,
            kind=DoseKind.EFFECTIVE,
            plan_uids=plan_uids,
        )
        for ratio, plane in total.items()
    }, unknown / current.dose.dose_gy.size


def _findings(organs: Sequence[OrganCumulative]) -> tuple[Finding, ...]:
    found = []
    for organ in organs:
        value = organ.figures.get(LIMITED)
        if organ.limit_gy is not None and value is not None and value > organ.limit_gy:
            text = (
                f"'{organ.name}': all courses together exceed the cumulative limit of "
                f"{organ.limit_gy:g} Gy EQD2 by {value - organ.limit_gy:.1f} Gy"
            )
            found.append(Finding("reirradiation.limit", Severity.WARNING, text))
    partly = [organ.name for organ in organs if organ.is_at_least and organ.figures]
    if partly:
        text = (
            "cumulative figures are only at least what is told, because a dose is not known in the "
            f"whole organ or a course is left out: {', '.join(partly)}"
        )
        found.append(Finding("reirradiation.at_least", Severity.WARNING, text))
    unsummed = [organ.name for organ in organs if not organ.figures]
    if unsummed:
        text = f"no cumulative dose, for lack of dose on one side: {', '.join(unsummed)}"
        found.append(Finding("reirradiation.not_summed", Severity.INFO, text))
    return tuple(found)
