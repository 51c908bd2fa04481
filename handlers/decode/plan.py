"""RT Plan and RT Ion Plan -> `values.Plan`, and which doses its whole dose is made of.

Reads what a plan says of its dose; never its beams' geometry. What is not told, or told in two
ways, is absent: no number of fractions is guessed from doses, no prescription from a label.
Read first: DICOM PS3.3 C.8.8.9 (General Plan), C.8.8.10 (Prescription), C.8.8.13 (Fraction Scheme).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from handlers.decode.attributes import (
    failure,
    has_failure,
    items_of,
    note,
    number_of,
    tail,
    text_of,
    warning,
)
from handlers.values import Finding, Plan, PlannedTarget

BeamKey = tuple[int, int]
"""Fraction Group Number and Beam Number."""

WITHOUT_DOSE = frozenset(("SETUP", "OPEN_PORTFILM", "TRMT_PORTFILM"))
"""Treatment Delivery Types of beams that are planned without dose (PS3.3 C.8.8.14)."""

POINTS = frozenset(("POINT", "COORDINATES"))
"""Dose Reference Structure Types of doses at a point (PS3.3 C.8.8.10)."""

PARTICLES = frozenset(("PROTON", "NEUTRON", "ION"))
"""Radiation Types whose effect is another than that of as much photon dose (PS3.3 C.8.8.14)."""

NOT_FOR_PATIENTS = frozenset(("VERIFICATION", "MACHINE_QA", "SERVICE"))
"""Plan Intents whose dose no patient gets."""


@dataclass(frozen=True, slots=True)
class DecodedPlan:
    """A plan, and what its doses are joined by.

    Attributes:
        plan: The value.
        made_at: Plan Date and Time as one text that sorts; empty if not told.
        groups: Fraction Group Numbers.
        beams: Those that give dose, in all groups.
        setups: How many brachytherapy application setups there are.
    """

    plan: Plan
    made_at: str
    groups: frozenset[int]
    beams: frozenset[BeamKey]
    setups: int


def decode_plan(
    ds: Dataset, structure_set_uid: str, patient: frozenset[str]
) -> tuple[DecodedPlan | None, list[Finding]]:
    """Return a plan, or None with every reason.

    Args:
        ds: An RT Plan or RT Ion Plan.
        structure_set_uid: SOP Instance UID of the structure set of the case. The ROI numbers of a
            plan that was made for another one are left out: there they name other ROIs.
        patient: Patient ID of the case.
    """
    uid = text_of(ds, "SOPInstanceUID")
    where = f"Plan {tail(uid)}"
    found = _check(ds, where, patient)
    if has_failure(found):
        return None, found
    groups = _groups(ds)
    fractions, told = _fractions(ds, where)
    made_for = _structure_set_of(ds)
    targets = _targets(ds, names_our_rois=bool(made_for) and made_for == structure_set_uid)
    found += told
    if not targets:
        text = f"{where}: it tells no prescribed dose (Target Prescription Dose)"
        found.append(note("plan.prescription", text))
    plan = Plan(
        uid,
        text_of(ds, "RTPlanLabel"),
        made_for,
        text_of(ds, "ApprovalStatus").upper(),
        targets,
        fractions,
        text_of(ds, "RTPlanDate"),
        len(_group_items(ds)),
    )
    made_at = f"{text_of(ds, 'RTPlanDate')} {text_of(ds, 'RTPlanTime')}".strip()
    setups = sum(
        int(number_of(g, "NumberOfBrachyApplicationSetups") or 0) for g in _group_items(ds)
    )
    return DecodedPlan(plan, made_at, groups, _beams(ds), setups), found


def _check(ds: Dataset, where: str, patient: frozenset[str]) -> list[Finding]:
    found = []
    if text_of(ds, "Modality") != "RTPLAN":
        found.append(failure("plan.modality", f"{where}: the object is no RT Plan"))
    if frozenset((text_of(ds, "PatientID"),)) != patient:
        text = f"{where}: it belongs to another patient (Patient ID differs)"
        found.append(failure("plan.other_patient", text))
    intent = text_of(ds, "PlanIntent").upper()
    if intent in NOT_FOR_PATIENTS:
        text = f"{where}: its intent is {intent}, so it treats nobody"
        found.append(failure("plan.intent", text))
    if text_of(ds, "ApprovalStatus").upper() == "REJECTED":
        text = f"{where}: it was rejected (Approval Status); its dose is measured all the same"
        found.append(warning("plan.rejected", text))
    kinds = {text_of(beam, "RadiationType").upper() for beam in _described(ds)}
    if kinds & PARTICLES or items_of(ds, "IonBeamSequence"):
        text = f"{where}: it is of particles; limits and EQD2 are made for photons, and of its "
        text += "physical dose they tell too little effect"
        found.append(warning("plan.particles", text))
    return found


def _structure_set_of(ds: Dataset) -> str:
    items = items_of(ds, "ReferencedStructureSetSequence")
    return text_of(items[0], "ReferencedSOPInstanceUID") if len(items) == 1 else ""


def _targets(ds: Dataset, *, names_our_rois: bool) -> tuple[PlannedTarget, ...]:
    """Return what is prescribed; to points only where it is prescribed to nothing else.

    Planning systems write the dose of a reference point beside the prescription, in like items.
    """
    targets, points = [], []
    for item in items_of(ds, "DoseReferenceSequence"):
        dose_gy = number_of(item, "TargetPrescriptionDose")
        if text_of(item, "DoseReferenceType") != "TARGET" or dose_gy is None or dose_gy <= 0:
            continue
        structure_type = text_of(item, "DoseReferenceStructureType")
        if structure_type in POINTS:
            points.append(PlannedTarget(None, dose_gy))
            continue
        is_named = structure_type == "VOLUME" and names_our_rois
        number = number_of(item, "ReferencedROINumber") if is_named else None
        targets.append(PlannedTarget(None if number is None else int(number), dose_gy))
    return tuple(targets or points)


def _fractions(ds: Dataset, where: str) -> tuple[int | None, list[Finding]]:
    """Return the number of fractions, if one number holds for all that the plan gives."""
    items = _group_items(ds)
    if len(items) > 1:
        text = f"{where}: it has {len(items)} fraction groups, so no one number of fractions holds"
        return None, [warning("plan.fraction_groups", f"{text} for its dose")]
    planned = number_of(items[0], "NumberOfFractionsPlanned") if items else None
    if planned is None or planned < 1 or planned != int(planned):
        text = f"{where}: it does not tell how many fractions are planned"
        return None, [warning("plan.fractions", text)]
    return int(planned), []


def _group_items(ds: Dataset) -> Sequence[Dataset]:
    return items_of(ds, "FractionGroupSequence")


def _groups(ds: Dataset) -> frozenset[int]:
    numbers = (number_of(item, "FractionGroupNumber") for item in _group_items(ds))
    return frozenset(int(n) for n in numbers if n is not None)


def _described(ds: Dataset) -> Sequence[Dataset]:
    return (*items_of(ds, "BeamSequence"), *items_of(ds, "IonBeamSequence"))


def _beams(ds: Dataset) -> frozenset[BeamKey]:
    idle = {
        number_of(beam, "BeamNumber")
        for beam in _described(ds)
        if text_of(beam, "TreatmentDeliveryType").upper() in WITHOUT_DOSE
    }
    return frozenset(
        (int(group), int(beam))
        for item in _group_items(ds)
        if (group := number_of(item, "FractionGroupNumber")) is not None
        for referenced in items_of(item, "ReferencedBeamSequence")
        if (beam := number_of(referenced, "ReferencedBeamNumber")) is not None and beam not in idle
    )
