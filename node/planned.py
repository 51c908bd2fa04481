"""Which RT Plans and RT Doses belong to a CT: a pure function of what is held.

A dose is joined by the plan that it names, a plan by the structure set that it names, a structure
set by the CT that it was drawn on. Where that chain is broken (no reference, or an object that has
not come) the frame of reference joins, but only if one CT alone can be meant. Judges no dose: that
is `handlers.decode`.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from operator import attrgetter

from handlers.values import Severity
from node.header import InstanceHeader
from node.holdings import (
    AssemblyFinding,
    Holdings,
    Identity,
    Series,
    StoredInstance,
    conflicting_attributes,
    identity_of,
)


@dataclass(frozen=True, slots=True)
class Planned:
    """Plans and doses in the order of their UIDs, and what was noticed.

    Attributes:
        of_another: How many further objects carry another patient's identity.
    """

    plans: tuple[StoredInstance, ...] = ()
    doses: tuple[StoredInstance, ...] = ()
    of_another: int = 0
    findings: tuple[AssemblyFinding, ...] = ()


def planned_on(ct: Series | None, drawn: InstanceHeader | None, held: Holdings) -> Planned:
    """Return what was planned on a CT, whichever of its structure sets a plan was made for.

    Args:
        ct: The CT, or None if it has not come.
        drawn: The structure set of the case, or one that is drawn on `ct`; None if there is none.
        held: All objects of the patient.
    """
    frames = {drawn.frame_of_reference_uid if drawn else "", ct.frame_uid if ct else ""} - {""}
    drawn_here, drawn_elsewhere, known = _structure_sets(ct, drawn, held)
    ours = {_uid(one) for one in held.plans if _names(one) & drawn_here}
    others = {_uid(one) for one in held.plans if _names(one) & drawn_elsewhere} - ours
    # of a plan whose structure set has not come, or lies on an MR, the doses tell where it was made
    homeless = {_uid(one) for one in held.plans if not _names(one) & known}
    is_sole = all(_may_be_meant(frame, held) in ((), (ct,)) for frame in frames)
    doses, unclear = [], 0
    for dose in held.doses:
        named, is_here = _names(dose), dose.header.frame_of_reference_uid in frames
        if named & ours and (is_here or len(named) == 1):
            doses.append(dose)
        elif is_here and not named & others:
            if is_sole and (named & held.plan_uids) <= homeless:
                doses.append(dose)
            else:
                unclear += 1
    joined = ours | ({uid for dose in doses for uid in _names(dose)} & homeless)
    plans = [one for one in held.plans if _uid(one) in joined]
    identities = {identity_of(drawn)} if drawn else set()
    identities |= set(ct.identities) if ct else set()
    kept_plans, kept_doses = _of_patient(plans, identities), _of_patient(doses, identities)
    findings = []
    if unclear:
        text = f"{unclear} RT Dose of this frame of reference not used: nothing held tells on which"
        text += " of its CT they were planned; send their plan, its structure set and its CT"
        findings.append(AssemblyFinding("dose_without_plan", Severity.WARNING, text))
    lost = len(plans) + len(doses) - len(kept_plans) - len(kept_doses)
    return Planned(kept_plans, kept_doses, lost, tuple(findings))


def doses_without_ct(
    ct: Series | None, used: Set[str], held: Holdings
) -> tuple[AssemblyFinding, ...]:
    """Return a finding about doses of the CT's patient in whose frame no CT is held.

    An earlier course may be among them, which then is in no sum.

    Args:
        ct: The planning CT.
        used: SOP Instance UIDs of the objects of the case.
        held: All objects.
    """
    patient_ids = {each.patient_id for each in ct.identities} - {""} if ct else set()
    lonely = [
        dose
        for dose in held.doses
        if dose.header.frame_of_reference_uid not in held.ct_by_frame
        and identity_of(dose.header).patient_id in patient_ids
        and _uid(dose) not in used
    ]
    if not lonely:
        return ()
    text = f"{len(lonely)} RT Dose of this patient not used: no CT of their frame of reference is "
    text += "here; send the planning CT and structure set of that course with them"
    return (AssemblyFinding("dose_without_ct", Severity.WARNING, text),)


def _structure_sets(
    ct: Series | None, drawn: InstanceHeader | None, held: Holdings
) -> tuple[set[str], set[str], set[str]]:
    """Return the UIDs of structure sets drawn on a CT, on other CT, and on any, here or not."""
    here = {drawn.sop_instance_uid} if drawn else set()
    elsewhere: set[str] = set()
    missing: set[str] = set()
    for uid, series in held.drawn_on.items():
        if ct is not None and series == (ct,):
            here.add(uid)
        elif any(each.modality == "CT" for each in series):
            elsewhere.add(uid)
        elif not series:
            missing.add(uid)
    return here, elsewhere - here, here | elsewhere | missing


def _uid(one: StoredInstance) -> str:
    return one.header.sop_instance_uid


def _names(one: StoredInstance) -> set[str]:
    return set(one.header.referenced_sop_instance_uids)


def _may_be_meant(frame_uid: str, held: Holdings) -> tuple[Series, ...]:
    """Return the CT of a frame of reference that were drawn on, or all if none was."""
    in_frame = tuple(held.ct_by_frame.get(frame_uid, ()))
    drawn_on = {series.uid for found in held.drawn_on.values() for series in found}
    return tuple(series for series in in_frame if series.uid in drawn_on) or in_frame


def _of_patient(
    found: Sequence[StoredInstance], identities: Set[Identity]
) -> tuple[StoredInstance, ...]:
    kept = [
        one for one in found if not conflicting_attributes({*identities, identity_of(one.header)})
    ]
    return tuple(sorted(kept, key=attrgetter("header.sop_instance_uid")))


__all__ = ["Planned", "doses_without_ct", "planned_on"]
