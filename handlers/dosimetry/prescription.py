"""What a target is to receive: what its plan says, else what the protocol says, else nothing.

Never guesses: of several doses none is chosen unless the plan, or the protocol together with the
plan, names the one that is meant.
"""

from dataclasses import dataclass

from handlers.dose_results import Prescribed
from handlers.values import Plan, Roi

SEVERAL_GROUPS = (
    "The plan has several fraction groups, so no one number of fractions holds for its dose, not "
    "the protocol's either."
)

BY_PLAN = "plan"
BY_PROTOCOL = "protocol"
"""Who says so, as `Prescribed.said_by` has it."""

SAME_DOSE_GY = 0.005
"""Prescriptions that differ by less are one."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a prescription.

    Attributes:
        prescribed: None: nobody says.
        reasons: Why not, or what must be known, in sentences.
        conflicts: In what plan and protocol contradict each other, in sentences.
    """

    prescribed: Prescribed | None
    reasons: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()


OF_A_SUM = Told(
    None, ("The dose is the sum of several plans: what all of them prescribe is not known.",)
)
"""What is known of the prescription that belongs to a dose of several plans."""


def prescription_to(roi: Roi, plan: Plan | None, by_protocol: Prescribed | None) -> Told:
    """Return what a drawn target is to receive from a plan.

    The plan's dose for this ROI counts. Else counts the plan's dose if there is but one; if there
    are several, the protocol's if it is one of them. A plan that tells no dose, or no plan at all,
    leaves it to the protocol. Where plan and protocol differ the plan counts.

    Args:
        roi: The target.
        plan: None: no plan came with the dose.
        by_protocol: What the protocol says, if it does.
    """
    planned = [] if plan is None else [t for t in plan.targets if t.prescription_gy > 0]
    named = _distinct([t.prescription_gy for t in planned if t.roi_number == roi.number])
    every = _distinct([t.prescription_gy for t in planned])
    if len(named) > 1:
        text = f"The plan prescribes {_listed(named)} to '{roi.name}': it is not clear which holds."
        return Told(None, (text,))
    if named:
        return _by_plan(named[0], plan, by_protocol)
    if len(every) == 1:
        told = _by_plan(every[0], plan, by_protocol)
        text = (
            f"The only dose that the plan prescribes, {every[0]:g} Gy, is taken for '{roi.name}'."
        )
        return Told(told.prescribed, (text, *told.reasons), told.conflicts)
    if not every:
        if by_protocol is None:
            whose = "No plan came with the dose" if plan is None else "The plan prescribes no dose"
            return Told(None, (f"{whose}, and the protocol tells no prescription.",))
        return _with_fractions(by_protocol.dose_gy, BY_PROTOCOL, plan, by_protocol)
    if by_protocol is not None and any(_is_same(by_protocol.dose_gy, gy) for gy in every):
        told = _with_fractions(by_protocol.dose_gy, BY_PROTOCOL, plan, by_protocol)
        text = (
            f"Of the plan's doses ({_listed(every)}) the one that the protocol prescribes counts."
        )
        return Told(told.prescribed, (text, *told.reasons), told.conflicts)
    text = f"The plan prescribes {_listed(every)}, none of them to '{roi.name}' by its ROI number."
    return Told(None, (text,))


def _by_plan(dose_gy: float, plan: Plan | None, by_protocol: Prescribed | None) -> Told:
    told = _with_fractions(dose_gy, BY_PLAN, plan, by_protocol)
    if by_protocol is None or _is_same(by_protocol.dose_gy, dose_gy):
        return told
    text = (
        f"The plan prescribes {dose_gy:g} Gy, the protocol {by_protocol.dose_gy:g} Gy: measured by "
        "the plan's."
    )
    return Told(told.prescribed, told.reasons, (text, *told.conflicts))


def _with_fractions(
    dose_gy: float, said_by: str, plan: Plan | None, by_protocol: Prescribed | None
) -> Told:
    """Return a prescription with the plan's number of fractions, else the protocol's."""
    planned = None if plan is None else plan.fractions
    configured = None if by_protocol is None else by_protocol.fractions
    if plan is not None and plan.has_several_groups:
        return Told(Prescribed(dose_gy, None, said_by), (SEVERAL_GROUPS,))
    fractions = configured if planned is None else planned
    reasons, conflicts = [], []
    if planned is not None and configured is not None and planned != configured:
        conflicts.append(
            f"The plan has {planned} fractions, the protocol {configured}: the plan's count."
        )
    if planned is None and configured is not None and said_by == BY_PLAN:
        reasons.append(f"The plan tells no number of fractions; the protocol says {configured}.")
    if fractions is None:
        reasons.append("Neither the plan nor the protocol tells the number of fractions.")
    return Told(Prescribed(dose_gy, fractions, said_by), tuple(reasons), tuple(conflicts))


def _distinct(doses_gy: list[float]) -> list[float]:
    found: list[float] = []
    for dose_gy in sorted(doses_gy):
        if not found or not _is_same(dose_gy, found[-1]):
            found.append(dose_gy)
    return found


def _is_same(first_gy: float, second_gy: float) -> bool:
    return abs(first_gy - second_gy) < SAME_DOSE_GY


def _listed(doses_gy: list[float]) -> str:
    return " and ".join(f"{dose_gy:g}" for dose_gy in doses_gy) + " Gy"
