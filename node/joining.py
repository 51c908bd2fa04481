"""Which objects belong together with a structure set and the CT it was drawn on: pure.

They are joined by what they refer to; MR alone is joined by patient, since nothing in DICOM refers
from a structure set to it. Whatever is left out is told with its reason.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date
from operator import attrgetter

from handlers.values import Severity
from node.config import Protocol
from node.header import InstanceHeader
from node.holdings import (
    AssemblyFinding,
    Holdings,
    Series,
    StoredInstance,
    conflicting_attributes,
    identity_of,
)
from node.planned import Planned
from node.protocol_fit import rank

LEAST_MR_IMAGES = 3
"""Fewer images are no volume that could be registered, or a series that is still arriving."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Objects found for a case, and what was noticed; `forming` may still become part of it."""

    series: tuple[Series, ...] = ()
    instances: tuple[StoredInstance, ...] = ()
    forming: tuple[StoredInstance, ...] = ()
    findings: tuple[AssemblyFinding, ...] = ()


def stranger_reason(ct: Series | None, header: InstanceHeader) -> str:
    """Return why CT and structure set are not one patient's, or an empty string."""
    if ct is None:
        return ""
    if mixed := conflicting_attributes(ct.identities):
        return (
            f"the images of the planning CT carry more than one patient identity ({mixed} differ): "
            "correct them at the sender and send the series again"
        )
    if different := conflicting_attributes({*ct.identities, identity_of(header)}):
        return (
            "the structure set and the CT it was drawn on carry different patient identities "
            f"({different} differ): correct them at the sender and send both again"
        )
    return ""


def ambiguity_reason(header: InstanceHeader, drawn_on: Sequence[Series]) -> str:
    """Return why nobody can say which CT a structure set was drawn on, or an empty string."""
    if len(drawn_on) < 2:
        return ""
    if header.referenced_sop_instance_uids:
        return f"the structure set lists images of {len(drawn_on)} series alike and names none"
    return (
        "the structure set names neither series nor images, and "
        f"{len(drawn_on)} CT series lie in its frame of reference"
    )


def choose_mr(
    ct: Series | None, header: InstanceHeader, protocol: Protocol, held: Holdings
) -> Joined:
    """Return the MR series of the patient that the protocol wants, preferred ones first.

    Args:
        ct: The planning CT, as far as it is here; without it the structure set says whose they are.
        header: Of the structure set.
        protocol: Which MR it wants, and from how many days around the CT.
        held: Everything of the patient.

    Returns:
        `forming` are images of series that are too few still to be a volume.
    """
    identities = ct.identities if ct else frozenset({identity_of(header)})
    studies = ct.study_uids if ct else frozenset({header.study_instance_uid})
    patient_ids = {each.patient_id for each in identities}
    accepted: list[tuple[int, str, str, Series]] = []
    forming: list[StoredInstance] = []
    findings: list[AssemblyFinding] = []
    for mr in held.series.values():
        if mr.modality != "MR" or patient_ids.isdisjoint({i.patient_id for i in mr.identities}):
            continue
        if patient_ids == {""} and studies.isdisjoint(mr.study_uids):
            continue  # without a Patient ID only the study says that it is the same patient
        if different := conflicting_attributes(
            {*identities, *mr.identities}, issuer_may_lack=ct is None
        ):
            text = f"{mr.name} left out: it has the CT's Patient ID, but {different} differ"
            findings.append(AssemblyFinding("mr_identity_conflict", Severity.WARNING, text))
            continue
        place = rank((mr.description,), protocol.mr)
        if reason := _unfit_mr(mr, place, ct.taken_on if ct else None, protocol):
            text = f"{mr.name} left out: {reason}"
            findings.append(AssemblyFinding("mr_left_out", Severity.INFO, text))
            continue
        if mr.placed_count < LEAST_MR_IMAGES:
            forming += mr.images
            text = f"{mr.name} left out: {mr.placed_count} images with a position are no volume"
            findings.append(AssemblyFinding("mr_left_out", Severity.INFO, text))
            continue
        if ct and mr.name_words and ct.name_words and mr.name_words.isdisjoint(ct.name_words):
            text = f"{mr.name}: Patient ID agrees with the CT's, the patient's name does not at all"
            findings.append(AssemblyFinding("mr_name_differs", Severity.WARNING, text))
        accepted.append((place or 0, mr.description, mr.uid, mr))
    series = tuple(row[-1] for row in sorted(accepted, key=lambda row: row[:3]))
    images = tuple(image for each in series for image in each.images)
    return Joined(series, images, tuple(forming), tuple(findings))


def _unfit_mr(mr: Series, place: int | None, ct_taken_on: date | None, protocol: Protocol) -> str:
    if not mr.images:
        return "it holds localizers only"
    if place is None:
        return f"its description matches none of {', '.join(protocol.mr)}"
    if mr.taken_on and ct_taken_on:
        days = abs((mr.taken_on - ct_taken_on).days)
        if days > protocol.mr_window_days:
            return f"{days} days from the CT, the protocol allows {protocol.mr_window_days:g}"
    return ""


def linked_to(
    ct: Series | None,
    header: InstanceHeader,
    moved: Sequence[Series],
    planned: Planned,
    held: Holdings,
) -> Joined:
    """Return the plans, doses and registrations of a structure set; never waited for."""
    ct_frame = ct.frame_uid if ct else header.frame_of_reference_uid
    registrations, unrelated = _registrations(ct_frame, {each.frame_uid for each in moved}, held)
    identities = {identity_of(header), *(ct.identities if ct else ())}
    kept = [
        one
        for one in registrations
        if not conflicting_attributes({*identities, identity_of(one.header)})
    ]
    findings = list(planned.findings)
    if unrelated:
        text = f"{unrelated} registrations not used: they relate no MR of this case to its CT"
        findings.append(AssemblyFinding("registration_unrelated", Severity.INFO, text))
    if lost := planned.of_another + len(registrations) - len(kept):
        text = f"{lost} plan, dose or registration objects left out: of another patient identity"
        findings.append(AssemblyFinding("linked_identity_conflict", Severity.WARNING, text))
    kept += [*planned.plans, *planned.doses]
    kept.sort(key=attrgetter("header.modality", "header.sop_instance_uid"))
    return Joined(instances=tuple(kept), findings=tuple(findings))


def _registrations(
    ct_frame: str, mr_frames: Set[str], held: Holdings
) -> tuple[list[StoredInstance], int]:
    """Return the registrations between the CT's frame and an MR's, and how many it has to others.

    One that names a single frame may list images of both: whether it does is told by decoding.
    """
    related: dict[str, StoredInstance] = {}
    unrelated: set[str] = set()
    for frame in sorted({ct_frame, *mr_frames} - {""}):
        for one in held.registrations_by_frame.get(frame, ()):
            named = set(one.header.registered_frame_uids)
            if len(named) == 1 or (ct_frame in named and not mr_frames.isdisjoint(named)):
                related[one.header.sop_instance_uid] = one
            elif ct_frame in named:
                unrelated.add(one.header.sop_instance_uid)
    return list(related.values()), len(unrelated)
