"""RT Doses and RT Plans of one CT -> `values.PlanDose`: the whole dose of each plan, once.

A dose of the whole plan is preferred; where only parts came (fraction groups, beams) they are
summed if they are all parts of the plan, on one grid. What is not a whole is left out and told:
a sum with a part missing would be a wrong number.
Read first: DICOM PS3.3 C.8.8.3 (RT Dose Module: Dose Summation Type).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    has_failure,
    note,
    tail,
    text_of,
    warning,
)
from handlers.decode.dose import decode_dose, name_dose, plans_of_dose
from handlers.decode.dose_parts import PARTS, WHOLE, newest, sum_of_parts
from handlers.decode.plan import DecodedPlan, decode_plan
from handlers.values import DoseGrid, DoseKind, Finding, PlanDose, Severity

HIGH_MULTIPLE = 4.0
"""A plan's hottest dose above this multiple of its largest prescription is told to be doubtful:
stereotactic plans prescribed to their 40 % line have 2.5."""

APART_PERCENT = 1.0
"""So far, in percent of its maximum, may a plan's dose be from the sum of its beams' anywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class CtPlans:
    """What the doses of one CT must fit.

    Attributes:
        frame_of_reference_uid: Of the CT.
        structure_set_uid: SOP Instance UID of the structure set drawn on it, or empty.
        patient: Patient ID of the case.
        is_planning: It is the planning CT of the case.
    """

    frame_of_reference_uid: str
    structure_set_uid: str
    patient: frozenset[str]
    is_planning: bool = True


def decode_plan_doses(
    doses: Sequence[Dataset], plans: Sequence[Dataset], ct: CtPlans
) -> tuple[tuple[PlanDose, ...], list[Finding]]:
    """Return what was planned on a CT, and what was noticed; nothing here is a failure.

    Args:
        doses: RT Doses, with pixel data, in any order.
        plans: The RT Plans that came, with dose or without.
        ct: What they must fit.

    Returns:
        One item for each plan and dose type (and for each dose without a plan): plans of the CT's
        structure set first, physical before effective dose, newest plan first.
    """
    known, refused, found = _plans(plans, ct)
    groups, told = _grouped(doses, refused, ct)
    found += told
    made: list[PlanDose] = []
    for (plan_uid, _), members in groups.items():
        plan_dose, told = _dose_of_plan(members, known.get(plan_uid), ct)
        found += [_left_out(finding, "it is left out") for finding in told]
        if plan_dose is not None:
            made.append(plan_dose)
    found += _about_plans(known, {uid for uid, _ in groups}, made, ct)
    made.sort(key=lambda one: one.dose_uids)
    made.sort(key=lambda one: _made_at(one, known), reverse=True)
    made.sort(key=lambda one: (not _is_ours(one, ct), one.dose.kind is not DoseKind.PHYSICAL))
    return tuple(made), found


def _made_at(one: PlanDose, known: Mapping[str, DecodedPlan]) -> str:
    return "" if one.plan is None else known[one.plan.sop_instance_uid].made_at


def _is_ours(one: PlanDose, ct: CtPlans) -> bool:
    made_for = "" if one.plan is None else one.plan.structure_set_uid
    return bool(made_for) and made_for == ct.structure_set_uid


def _plans(
    plans: Sequence[Dataset], ct: CtPlans
) -> tuple[dict[str, DecodedPlan], set[str], list[Finding]]:
    """Return plans by UID, UIDs of those that are refused, and what was found."""
    known: dict[str, DecodedPlan] = {}
    refused: set[str] = set()
    found: list[Finding] = []
    for ds in plans:
        decoded, told = decode_plan(ds, ct.structure_set_uid, ct.patient)
        found += [_left_out(finding, "it is left out, and its doses") for finding in told]
        if decoded is None:
            refused.add(text_of(ds, "SOPInstanceUID"))
        else:
            known[decoded.plan.sop_instance_uid] = decoded
    return known, refused, found


def _about_plans(
    known: Mapping[str, DecodedPlan], with_dose: set[str], made: Sequence[PlanDose], ct: CtPlans
) -> list[Finding]:
    found: list[Finding] = []
    for uid, decoded in known.items():
        if uid not in with_dose:
            text = f"Plan {tail(uid)}: no dose of it has come, so nothing is measured of it"
            found.append(warning("plan.without_dose", text))
            continue
        made_for = decoded.plan.structure_set_uid
        if made_for != ct.structure_set_uid:
            text = f"Plan {tail(uid)}: it was made for another structure set of this CT "
            text += f"({tail(made_for) or 'none is named'})"
            if not ct.is_planning:
                found.append(note("plan.other_structure_set", text))
                continue
            text += "; its dose is measured in the structures of this one, and taken for that of "
            text += "another plan, not of an earlier course"
            found.append(warning("plan.other_structure_set", text))
    for one in made:
        if one.dose.kind is DoseKind.EFFECTIVE:
            text = f"Dose {tail(one.dose_uids[0])}: it is an effective dose, corrected for its "
            text += "biological effect: it is compared with no limit and converted to no EQD2"
            found.append(warning("dose.effective", text))
        if one.plan is not None and one.plan.targets:
            found += _against_prescription(one, one.plan.largest_prescription_gy)
    return found


def _against_prescription(one: PlanDose, prescribed_gy: float) -> list[Finding]:
    """Return a doubt about a dose that is far from what its plan prescribes."""
    hottest_gy = float(one.dose.dose_gy.max())
    text = f"Dose of plan {tail(one.dose.plan_uids[0])}: its hottest voxel has {hottest_gy:.2f} Gy,"
    text += f" {prescribed_gy:g} Gy are prescribed; is it"
    numbers = {"hottest_gy": hottest_gy, "prescribed_gy": prescribed_gy}
    if one.is_too_low:
        text += " the dose of one fraction, or of a part of the beams?"
        return [warning("dose.below_prescription", text, **numbers)]
    if hottest_gy > HIGH_MULTIPLE * prescribed_gy:
        text += " in another unit, or of more than this plan?"
        return [warning("dose.above_prescription", text, **numbers)]
    return []


# Which doses are of which plan


def _grouped(
    doses: Sequence[Dataset], refused: set[str], ct: CtPlans
) -> tuple[dict[tuple[str, str], list[Dataset]], list[Finding]]:
    """Return doses by plan and dose type, those that stand alone by their own UID."""
    groups: dict[tuple[str, str], list[Dataset]] = defaultdict(list)
    found: list[Finding] = []
    for ds in sorted(doses, key=lambda one: text_of(one, "SOPInstanceUID")):
        where, uids = name_dose(ds), plans_of_dose(ds)
        summation = text_of(ds, "DoseSummationType").upper()
        if frozenset((text_of(ds, "PatientID"),)) != ct.patient:
            text = f"{where}: it belongs to another patient (Patient ID differs); it is left out"
            found.append(warning("dose.other_patient", text))
        elif refused.intersection(uids):
            text = f"{where}: its plan is left out, and so is it"
            found.append(warning("dose.of_refused_plan", text))
        elif summation == "MULTI_PLAN" or (summation == WHOLE and len(uids) != 1):
            groups[text_of(ds, "SOPInstanceUID"), ""].append(ds)
        elif summation in (WHOLE, *PARTS) and len(uids) == 1:
            groups[uids[0], text_of(ds, "DoseType").upper()].append(ds)
        else:
            found.append(_not_whole(where, summation))
    return groups, found


def _not_whole(where: str, summation: str) -> Finding:
    text = f"{where}: its summation type is {summation or 'not given'}"
    if summation in PARTS:
        text += " and it names no plan, so nobody can tell what else belongs to it"
    else:
        text += ", so it is not known to be the whole dose of a plan"
    return warning("dose.not_whole", f"{text}; it is left out: export the dose of the plan")


def _dose_of_plan(
    members: Sequence[Dataset], decoded: DecodedPlan | None, ct: CtPlans
) -> tuple[PlanDose | None, list[Finding]]:
    """Return the whole dose of one plan from its doses of one type."""
    by_type: dict[str, list[Dataset]] = defaultdict(list)
    for ds in members:
        by_type[text_of(ds, "DoseSummationType").upper()].append(ds)
    whole = [ds for kind in (WHOLE, "MULTI_PLAN") for ds in by_type[kind]]
    if whole:
        chosen, found = newest(whole, ct.frame_of_reference_uid)
        if chosen is None:
            return None, found
        dose, told = decode_dose(chosen, ct.frame_of_reference_uid)
        found += told
        if dose is None or has_failure(found):
            return None, found
        if len(members) > len(whole):
            found.append(_beside_parts(dose, by_type, decoded, ct.frame_of_reference_uid))
        uids = (dose.sop_instance_uid,)
        return PlanDose(dose, uids, None if decoded is None else decoded.plan), [
            *found,
            *_without_plan(chosen, decoded),
        ]
    found = []
    for kind in PARTS:
        if by_type[kind]:
            plan_dose, told = sum_of_parts(kind, by_type[kind], decoded, ct.frame_of_reference_uid)
            found += told
            if plan_dose is not None:
                return plan_dose, found
    return None, found


def _beside_parts(
    dose: DoseGrid,
    by_type: Mapping[str, Sequence[Dataset]],
    decoded: DecodedPlan | None,
    frame_uid: str,
) -> Finding:
    """Return how the dose of a whole plan fits those of its beams or groups, which are not used."""
    parts = {kind: by_type[kind] for kind in PARTS if by_type.get(kind)}
    where = f"Dose {tail(dose.sop_instance_uid)}: it is the whole plan's;"
    unused = f"{sum(map(len, parts.values()))} doses of beams or fraction groups of it are not used"
    for kind, members in parts.items():
        summed, _ = sum_of_parts(kind, members, decoded, frame_uid)
        if summed is None or not summed.dose.geometry.coincides_with(dose.geometry):
            continue
        apart_gy = float(np.abs(summed.dose.dose_gy - dose.dose_gy).max())
        percent = 100.0 * apart_gy / float(dose.dose_gy.max())
        if percent > APART_PERCENT:
            text = f"{where} {unused}, and their sum differs from it by up to {apart_gy:.2f} Gy "
            text += f"({percent:.1f} % of its maximum): is one of them of an earlier calculation?"
            return warning("dose.parts_differ", text, apart_gy=apart_gy, percent=percent)
        return note("dose.parts_unused", f"{where} {unused}; their sum is the same dose")
    return note("dose.parts_unused", f"{where} {unused}, and make no sum that it could be held to")


def _without_plan(ds: Dataset, decoded: DecodedPlan | None) -> list[Finding]:
    if decoded is not None:
        return []
    where, uids = name_dose(ds), plans_of_dose(ds)
    if len(uids) > 1 or text_of(ds, "DoseSummationType").upper() == "MULTI_PLAN":
        text = f"{where}: it is a sum of {len(uids) or 'several'} plans: kept as a dose of its own,"
        return [warning("dose.several_plans", f"{text} with no plan's fractions")]
    text = f"{where}: it names no plan" if not uids else f"{where}: its plan has not come"
    text += ", so neither a prescription nor a number of fractions is known of it"
    return [warning("dose.without_plan", text)]


def _left_out(finding: Finding, consequence: str) -> Finding:
    """Return a failure of something dispensable as the warning that it is for the case."""
    if finding.severity is not Severity.FAILURE:
        return finding
    return replace(finding, severity=Severity.WARNING, text=f"{finding.text}; {consequence}")


__all__ = ["CtPlans", "decode_plan_doses"]
