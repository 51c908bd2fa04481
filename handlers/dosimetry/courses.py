"""Which doses of a case are courses of the patient, in how many fractions, and how they come here.

Never guesses: a dose whose fractions nobody tells, that is no physical dose, that is a sum of plans
already, or whose CT was not registered soundly, is left out, and a sentence says why.

Adds nothing; see `accumulation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import numpy.typing as npt

from handlers.dose_results import Array, Course
from handlers.dosimetry.histogram import dose_at
from handlers.dosimetry.reirradiation import ReirradiationSettings
from handlers.geometry import Points
from handlers.results import Registration, RegistrationStatus
from handlers.values import Case, CtRole, DoseGrid, DoseKind, Finding, PlanDose, Severity

SUM_OF_PLANS = "MULTI_PLAN"
"""Dose Summation Type of a dose that several plans make up."""

REJECTED = "REJECTED"
"""Approval Status of a plan that was refused, and so was surely not delivered."""

UID_TAIL = 8
"""Last characters of a UID by which a dose is told in sentences."""


@dataclass(frozen=True, slots=True, eq=False)
class CourseDose:
    """A course with its dose.

    Attributes:
        name: How sentences call it.
        course: Who it is.
        dose: Physical, of all fractions, in the frame in which it was planned.
        registration: Brings points of that frame to the planning CT; None: it is the same frame.
        plan_uids: SOP Instance UIDs of its RT Plans.
    """

    name: str
    course: Course
    dose: DoseGrid
    registration: Registration | None
    plan_uids: tuple[str, ...]

    def places_of(self, points: Points) -> Points:
        """Return where points (n, 3) of the planning CT lie in the frame of this course.

        Through the deformation, where the registration has one, then through its rigid map.
        """
        if self.registration is None:
            return points
        deformation = self.registration.deformation
        moved = points if deformation is None else deformation.apply(points)
        return self.registration.ct_from_mr.inverse().apply(moved)

    def step_there(self, step_mm: npt.ArrayLike) -> Array:
        """Return a step (x, y, z) along the axes of the planning CT as it is in this frame."""
        step = np.asarray(step_mm, dtype=np.float64)
        if self.registration is None:
            return step
        return np.asarray(self.registration.ct_from_mr.matrix[:3, :3].T @ step)

    def physical_at(self, places: Points) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the physical dose at places (n, 3) of its own frame, and where it is known."""
        return dose_at(self.dose, places)


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """The courses of a case.

    Attributes:
        current: None: it cannot be told what the patient gets now.
        prior: Those that can be added.
        left_out: Which course is not in the sum, and why, in sentences.
        reasons: What must be known besides, in sentences.
        findings: Both, for the case.
    """

    current: CourseDose | None
    prior: tuple[CourseDose, ...]
    left_out: tuple[str, ...]
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """The `number`-th dose that may be a prior course, and the CT series that it was planned on."""

    number: int
    series_uid: str
    plan: PlanDose

    @property
    def name(self) -> str:
        """How sentences about it begin."""
        return f"Prior course {self.number} (RT Dose {_tail(self.plan)})"


def find_courses(
    case: Case, registrations: Sequence[Registration], settings: ReirradiationSettings
) -> Courses | None:
    """Return the current course and the prior ones of a case; None if no dose was planned before.

    A dose was planned before if it lies on an earlier planning CT of the patient, or on the current
    one but is handed over among the others. Of several plans on one earlier CT all count.
    """
    candidates, notes = _candidates(case)
    if not candidates:
        return None
    elsewhere = doses_elsewhere(case)
    left_out: list[str] = []
    warnings = _several_plans(candidates)
    current = _current(case, settings.current_fractions)
    if isinstance(current, str):
        left_out.append(f"Current course: {current}.")
    elif len(case.plan_doses) > 1:
        notes.append(
            f"Of {len(case.plan_doses)} plans on the planning CT the first whose dose can be "
            "converted counts as the current course; the others are taken for alternatives."
        )
    if not isinstance(current, str):
        warnings += _doubts(current, case.plan_doses)
    silent = sum(_told_fractions(each.plan) is None for each in candidates)
    prior = []
    for candidate in candidates:
        found = _prior(candidate, case, registrations, settings, silent=silent)
        if isinstance(found, str):
            left_out.append(f"{candidate.name}: {found.removesuffix('.')}.")
            continue
        prior.append(found)
        warnings += _doubts(found, [candidate.plan])
        notes += [f"{candidate.name}: {told}" for told in _notes_of(found)]
        way = found.registration
        if way is not None and way.status is RegistrationStatus.WARN:
            warnings.append(f"{candidate.name}: check its registration: {' '.join(way.reasons)}")
    return Courses(
        None if isinstance(current, str) else current,
        tuple(prior),
        tuple(left_out),
        (*warnings, *notes, *(f"{finding.text}." for finding in elsewhere)),
        (
            *elsewhere,
            *(Finding("reirradiation.left_out", Severity.WARNING, text) for text in left_out),
            *(Finding("reirradiation.course", Severity.WARNING, text) for text in warnings),
            *(Finding("reirradiation.course", Severity.INFO, text) for text in notes),
        ),
    )


def is_sum_of_plans(dose: DoseGrid) -> bool:
    """Tell whether several plans make up a dose, by its type or by the plans that it names."""
    return dose.summation_type == SUM_OF_PLANS or len(dose.plan_uids) > 1


def doses_elsewhere(case: Case) -> tuple[Finding, ...]:
    """Return what is told of doses on CT that are not known to be of an earlier plan."""
    roles = {image.series_instance_uid: image.role for image in case.other_ct}
    return tuple(
        Finding(
            "reirradiation.not_counted",
            Severity.INFO if role is CtRole.CBCT else Severity.WARNING,
            f"RT Dose {_tail(plan)} counts as no course: nothing says that its CT is an earlier "
            "planning CT (it needs a structure set and an earlier date)",
        )
        for series_uid, plans in case.other_plan_doses.items()
        if (role := roles.get(series_uid)) in (CtRole.CBCT, CtRole.FURTHER)
        for plan in plans
    )


def _candidates(case: Case) -> tuple[list[_Candidate], list[str]]:
    """Return the doses that were planned before, and which others do not count."""
    series = [image.series_instance_uid for image in case.other_ct if image.role is CtRole.PRIOR]
    series.append(case.ct.series_instance_uid)
    planned = [(uid, plan) for uid in series for plan in case.other_plan_doses.get(uid, ())]
    known = {
        uid
        for plan in (*case.plan_doses, *(plan for _, plan in planned))
        if not is_sum_of_plans(plan.dose)
        for uid in _plan_uids(plan)
    }
    candidates: list[_Candidate] = []
    notes = []
    for uid, plan in planned:
        if plan.plan is not None and plan.plan.approval == REJECTED:
            notes.append(f"The plan of RT Dose {_tail(plan)} is REJECTED: it does not count.")
        elif is_sum_of_plans(plan.dose) and known.issuperset(_plan_uids(plan) or "?"):
            notes.append(f"RT Dose {_tail(plan)} is the sum of plans that are here: not added.")
        else:
            candidates.append(_Candidate(len(candidates) + 1, uid, plan))
    return candidates, notes


def _current(case: Case, fallback: int | None) -> CourseDose | str:
    """Return the course that is planned now: the first whose dose is a plan's, and physical."""
    problems = [_problem_of(plan) for plan in case.plan_doses]
    if not problems:
        return "no dose that was planned on the planning CT came"
    fit = [plan for plan, problem in zip(case.plan_doses, problems, strict=True) if not problem]
    if not fit:
        return problems[0]
    return _course(fit[0], fallback, None, key="prescription.fractions", is_prior=False)


def _prior(
    candidate: _Candidate,
    case: Case,
    registrations: Sequence[Registration],
    settings: ReirradiationSettings,
    *,
    silent: int,
) -> CourseDose | str:
    """Return a prior course, or why it cannot be added; `silent` of them tell no fractions."""
    plan = candidate.plan
    problem = _problem_of(plan)
    if problem:
        return problem
    registration = None
    if candidate.series_uid != case.ct.series_instance_uid:
        found = _registration_of(candidate, registrations)
        if isinstance(found, str):
            return found
        registration = found
    fallback = settings.prior_fractions
    if silent > 1 and fallback is not None and _told_fractions(plan) is None:
        return (
            f"no RT Plan tells its fractions, and of {silent} such courses nothing says which is "
            "meant by reirradiation.prior_fractions; send the RT Plans"
        )
    course = _course(
        plan, fallback, registration, key="reirradiation.prior_fractions", is_prior=True
    )
    if isinstance(course, str):
        return course
    days = _days_before(candidate.series_uid, case)
    name = f"prior course {candidate.number}"
    return replace(course, name=name, course=replace(course.course, interval_days=days))


def _days_before(series_uid: str, case: Case) -> int | None:
    """Return how many days before the planning CT an earlier one was taken; None if not told."""
    taken_on = [
        image.taken_on for image in case.other_ct if image.series_instance_uid == series_uid
    ]
    try:
        return (date.fromisoformat(case.ct.taken_on) - date.fromisoformat(taken_on[0])).days
    except (ValueError, IndexError):
        return None


def _registration_of(
    candidate: _Candidate, registrations: Sequence[Registration]
) -> Registration | str:
    found = next((r for r in registrations if candidate.series_uid in r.series_uids), None)
    if found is None:
        return "its planning CT was not registered to the current one"
    if found.status is RegistrationStatus.FAIL:
        return "the registration of its planning CT failed: " + " ".join(found.reasons)
    frame = candidate.plan.dose.geometry.frame_of_reference_uid
    if frame != found.ct_from_mr.from_frame_uid:
        return "it does not lie in the frame of reference of its planning CT"
    return found


def _problem_of(plan: PlanDose) -> str:
    """Return why a dose has no EQD2, whatever its fractions; empty if it may have one."""
    if plan.dose.kind is DoseKind.EFFECTIVE:
        return "its dose is EFFECTIVE, already corrected for its biological effect; never converted"
    if is_sum_of_plans(plan.dose):
        return (
            "its dose is a sum of several plans, which have no one number of fractions; send the "
            "dose of each plan"
        )
    if plan.plan is not None and plan.is_too_low:
        return (
            f"its hottest voxel has {float(plan.dose.dose_gy.max()):.2f} Gy, its plan prescribes "
            f"{plan.plan.largest_prescription_gy:g} Gy: it may be the dose of one fraction, or of "
            "a part of the beams; send the dose of the whole plan"
        )
    if plan.plan is not None and plan.plan.has_several_groups:
        return (
            f"its plan has {plan.plan.fraction_groups} fraction groups, so no one number of "
            "fractions holds for its dose; plan and send each group as a plan of its own"
        )
    return ""


def _course(
    plan: PlanDose,
    fallback: int | None,
    registration: Registration | None,
    *,
    key: str,
    is_prior: bool,
) -> CourseDose | str:
    told = _told_fractions(plan)
    fractions = fallback if told is None else told
    if fractions is None:
        return (
            "its number of fractions is not known, so there is no EQD2: no RT Plan tells it; send "
            f"the plan, or give {key} in the protocol"
        )
    course = Course(
        label=plan.plan.label if plan.plan is not None else "",
        dose_uids=plan.dose_uids,
        fractions=fractions,
        fractions_said_by="plan" if told is not None else "protocol",
        is_prior=is_prior,
    )
    return CourseDose("the current course", course, plan.dose, registration, _plan_uids(plan))


def _plan_uids(plan: PlanDose) -> tuple[str, ...]:
    return plan.dose.plan_uids if plan.plan is None else (plan.plan.sop_instance_uid,)


def _told_fractions(plan: PlanDose) -> int | None:
    return None if plan.plan is None else plan.plan.fractions


def _doubts(course: CourseDose, plans: Sequence[PlanDose]) -> list[str]:
    """Return what is doubtful of a course whose plan came, but told no number of fractions."""
    has_plan = any(each.dose is course.dose and each.plan is not None for each in plans)
    if not has_plan or course.course.fractions_said_by == "plan":
        return []
    return [
        f"The RT Plan of {course.name} tells no number of fractions; {course.course.fractions} of "
        "the protocol were taken."
    ]


def _notes_of(course: CourseDose) -> list[str]:
    registration = course.registration
    if registration is None:
        return ["it was planned on the same CT, so it was added where it lies."]
    notes = [
        "its registration was judged at the targets "
        f"(uncertainty {registration.uncertainty_mm:.1f} mm); far from them its error is not known."
    ]
    if registration.deformation is not None:
        notes.append("near the targets its dose was brought here through the deformation.")
    return notes


def _several_plans(candidates: Sequence[_Candidate]) -> list[str]:
    series = [each.series_uid for each in candidates if not _problem_of(each.plan)]
    return [
        f"On one earlier planning CT {series.count(uid)} plans are known; all of them count as "
        "delivered in full. What was not delivered must not be sent, or be REJECTED."
        for uid in dict.fromkeys(series)
        if series.count(uid) > 1
    ]


def _tail(plan: PlanDose) -> str:
    return ", ".join(f"…{uid[-UID_TAIL:]}" for uid in plan.dose_uids)
