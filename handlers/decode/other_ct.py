"""CT of the patient beside the planning CT, with what is drawn and planned on them.

Nothing here rejects a case: what is unfit is left out with a finding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom import Dataset

from handlers.decode.attributes import day_of, failure, has_failure, note, tail, text_of, warning
from handlers.decode.images import DecodedSeries, decode_series, slice_index_of_instances
from handlers.decode.plan_doses import CtPlans, decode_plan_doses
from handlers.decode.roles import role_of_ct
from handlers.decode.structures import check_structures, decode_structures
from handlers.values import CtRole, Finding, Image, PlanDose, Severity, StructureSet


@dataclass(frozen=True, slots=True, eq=False)
class OtherCtDatasets:
    """The objects, by Series Instance UID of the CT that they are, or were drawn or planned on."""

    series: Mapping[str, Sequence[Dataset]]
    structure_sets: Mapping[str, Dataset]
    doses: Mapping[str, Sequence[Dataset]]
    plans: Mapping[str, Sequence[Dataset]]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedOtherCt:
    """What was read, by Series Instance UID, and what was found."""

    series: Mapping[str, DecodedSeries]
    structure_sets: Mapping[str, StructureSet]
    plan_doses: Mapping[str, tuple[PlanDose, ...]]
    findings: tuple[Finding, ...]


def decode_other_ct(
    given: OtherCtDatasets, planning_ct: Dataset, patient: frozenset[str]
) -> DecodedOtherCt:
    """Return the other CT of a case, each with its role."""
    series: dict[str, DecodedSeries] = {}
    structure_sets: dict[str, StructureSet] = {}
    plan_doses: dict[str, tuple[PlanDose, ...]] = {}
    found: list[Finding] = []
    for uid, datasets in given.series.items():
        decoded = decode_series(datasets, "CT")
        own = list(decoded.findings)
        if datasets and frozenset(text_of(ds, "PatientID") for ds in datasets) != patient:
            text = f"CT series {tail(uid)}: it belongs to another patient (Patient ID differs)"
            own.append(failure("other_ct.other_patient", text))
        if decoded.image is None or has_failure(own):
            found += [_softened(finding, "the series is left out") for finding in own]
            continue
        role = role_of_ct(
            decoded.datasets[0], planning_ct, has_structure_set=uid in given.structure_sets
        )
        image = replace(decoded.image, role=role)
        series[uid] = replace(decoded, image=image)
        found += [*own, note("other_ct.role", f"CT series {tail(uid)}: {_IN_WORDS[role]}")]
        if uid in given.structure_sets:
            structures, told = _structures(given.structure_sets[uid], series[uid], patient)
            found += told
            if structures is not None:
                structure_sets[uid] = structures
        planned, told = _planned(given, image, patient)
        found += told
        if planned:
            plan_doses[uid] = planned
            found += _about_time(image, role, day_of(planning_ct))
    return DecodedOtherCt(series, structure_sets, plan_doses, tuple(found))


_IN_WORDS = {
    CtRole.CBCT: "a cone beam CT of the treatment machine; it tells how the patient lay",
    CtRole.PRIOR: "an earlier planning CT",
    CtRole.FURTHER: "a further CT; nothing says whether it is a cone beam or an earlier plan's",
}


def _structures(
    ds: Dataset, series: DecodedSeries, patient: frozenset[str]
) -> tuple[StructureSet | None, list[Finding]]:
    image = series.image
    if image is None or frozenset((text_of(ds, "PatientID"),)) != patient:
        text = f"Structure set {tail(text_of(ds, 'SOPInstanceUID'))}: it is another patient's"
        return None, [_softened(failure("other_ct.other_patient", text), "it is left out")]
    found = check_structures(ds, image.geometry.frame_of_reference_uid)
    read = None
    if not has_failure(found):
        read = decode_structures(ds, image.geometry, slice_index_of_instances(series.datasets))
        found = [*found, *read.findings]
    where = f"on CT series {tail(image.series_instance_uid)}"
    kept = [_softened(f, f"what is drawn {where} is left out") for f in found]
    return (None if read is None or has_failure(found) else read.structure_set), [
        f for f in kept if f.severity is not Severity.INFO
    ]


def _planned(
    given: OtherCtDatasets, image: Image, patient: frozenset[str]
) -> tuple[tuple[PlanDose, ...], list[Finding]]:
    """Return what was planned on a CT; the texts say on which."""
    uid = image.series_instance_uid
    drawn = given.structure_sets.get(uid)
    planned, found = decode_plan_doses(
        given.doses.get(uid, ()),
        given.plans.get(uid, ()),
        CtPlans(
            image.geometry.frame_of_reference_uid,
            "" if drawn is None else text_of(drawn, "SOPInstanceUID"),
            patient,
            is_planning=False,
        ),
    )
    return planned, [replace(f, text=f"CT series {tail(uid)}: {f.text}") for f in found]


def _about_time(image: Image, role: CtRole, planned_on: str) -> list[Finding]:
    """Return that a dose is in no sum of courses, unless it is of an earlier planning CT."""
    if role is CtRole.PRIOR:
        return []
    text = f"CT series {tail(image.series_instance_uid)}: a dose was planned on it, but it is not "
    text += "known to be an earlier planning CT: that dose is added to no other"
    if image.taken_on and planned_on and image.taken_on >= planned_on:
        return [note("other_ct.dose_not_prior", text)]
    return [warning("other_ct.dose_not_prior", text)]


def _softened(finding: Finding, consequence: str) -> Finding:
    """Return a failure of something dispensable as the warning that it is for the case."""
    if finding.severity is not Severity.FAILURE:
        return finding
    return replace(finding, severity=Severity.WARNING, text=f"{finding.text}; {consequence}")


__all__ = ["DecodedOtherCt", "OtherCtDatasets", "decode_other_ct"]
