"""Which CT of the patient beside the planning CT belong to a case: earlier plans, CBCT, others.

Joined by patient like MR, since nothing in DICOM refers from a structure set to them. A CT with
contours of its own is somebody's planning CT: it joins only if it is an earlier one in a frame of
reference of its own, or a later one in the case's, as a CBCT is that was drawn on. An earlier one
in the case's frame joins if both have a dose: it was planned on before.

Knows no clock and no pixel data; what a CT is (CBCT or not) is read by `handlers.decode`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter

from handlers.values import Severity
from node.config import Protocol
from node.holdings import (
    AssemblyFinding,
    Holdings,
    Series,
    StoredInstance,
    conflicting_attributes,
    identity_of,
)
from node.joining import Joined
from node.planned import planned_on

LEAST_IMAGES = 3
"""Fewer are no volume that could be registered."""

MOST_WITHOUT_CONTOURS = 3
"""So many CT on which nothing is drawn are registered, the newest: phases of a 4D CT come in tens,
CBCT in dozens, and each costs as much time as an MR."""


@dataclass(frozen=True, slots=True)
class OtherCt:
    """A CT beside the planning CT, with what was drawn and planned on it (UIDs, or empty).

    Doses and plans are all that are held.
    """

    series_uid: str
    structure_set_uid: str = ""
    dose_uids: tuple[str, ...] = ()
    plan_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinedCt(Joined):
    """Other CT of a case in the order of their UIDs, all their objects, and what was noticed."""

    chosen: tuple[OtherCt, ...] = ()


def choose_other_ct(ct: Series | None, protocol: Protocol, held: Holdings) -> JoinedCt:
    """Return the other CT of the case that is planned on `ct`."""
    if ct is None:
        return JoinedCt()
    own: list[tuple[Series, StoredInstance | None]] = []
    is_planned = bool(planned_on(ct, None, held).doses)
    forming: list[StoredInstance] = []
    findings: list[AssemblyFinding] = []
    for series in _of_same_patient(ct, held):
        drawn = _drawn_on(series, held)
        doses = planned_on(series, None, held).doses
        reason, severity = _objection(
            series, drawn, ct, protocol, are_both_planned=bool(doses) and is_planned
        )
        if reason:
            days = _days_after(series, ct)
            if doses and (days is None or days <= 0):
                reason += f"; so are {len(doses)} RT Dose planned on it, perhaps of an earlier "
                reason, severity = f"{reason}course", Severity.WARNING
            if series.placed_count < LEAST_IMAGES:
                forming += series.images
            text = f"{series.name} ({_tail(series.uid)}) left out: {reason}"
            findings.append(AssemblyFinding("other_ct_left_out", severity, text))
        else:
            own.append((series, drawn))
    kept, dropped = _newest(own)
    if dropped:
        text = f"{dropped} older CT series on which nothing is drawn left out"
        findings.append(AssemblyFinding("other_ct_left_out", Severity.INFO, text))
    chosen, instances = [], []
    for series, drawn in kept:
        planned = planned_on(series, None if drawn is None else drawn.header, held)
        instances += [*series.images, *([] if drawn is None else [drawn])]
        instances += [*planned.plans, *planned.doses]
        if series.frame_uid != ct.frame_uid:  # else it is told of the planning CT
            findings += planned.findings
        chosen.append(OtherCt(series.uid, _uid(drawn), _uids(planned.doses), _uids(planned.plans)))
    unique = {one.header.sop_instance_uid: one for one in instances}
    return JoinedCt(
        series=tuple(series for series, _ in kept),
        instances=tuple(unique.values()),
        forming=tuple(forming),
        findings=tuple(findings),
        chosen=tuple(chosen),
    )


def _of_same_patient(ct: Series, held: Holdings) -> list[Series]:
    """Return the other CT that claim to be of the CT's patient, no scouts or screen shots."""
    patient_ids = {each.patient_id for each in ct.identities}
    return [
        series
        for series in held.series.values()
        if series.modality == "CT"
        and series.uid != ct.uid
        and series.placed_count
        and not patient_ids.isdisjoint({each.patient_id for each in series.identities})
        # without a Patient ID only the study says that it is the same patient
        and (patient_ids != {""} or not ct.study_uids.isdisjoint(series.study_uids))
    ]


def _days_after(series: Series, ct: Series) -> int | None:
    return (series.taken_on - ct.taken_on).days if series.taken_on and ct.taken_on else None


def _objection(
    series: Series,
    drawn: StoredInstance | None,
    ct: Series,
    protocol: Protocol,
    *,
    are_both_planned: bool,
) -> tuple[str, Severity]:
    """Return why a CT does not join, or an empty string."""
    if different := conflicting_attributes({*ct.identities, *series.identities}):
        return f"it has the planning CT's Patient ID, but {different} differ", Severity.WARNING
    folded = series.description.strip().lower()
    if not any(fnmatchcase(folded, pattern.lower()) for pattern in protocol.other_ct):
        wanted = ", ".join(protocol.other_ct) or "nothing"
        return f"the protocol wants other CT described as {wanted}", Severity.INFO
    if series.placed_count < LEAST_IMAGES:
        return f"{series.placed_count} images with a position are no volume", Severity.INFO
    days = _days_after(series, ct)
    window = protocol.mr_window_days
    is_earlier = days is not None and days < 0
    if drawn is not None and series.frame_uid == ct.frame_uid and is_earlier:
        if are_both_planned:
            window = protocol.prior_window_days
        else:
            text = "contours are drawn on it, earlier in the same frame: this CT was aligned to it"
            return text, Severity.INFO
    if drawn is not None and series.frame_uid != ct.frame_uid:
        if not is_earlier:
            text = "contours are drawn on it and it is not known to be earlier: a case of its own"
            return text, Severity.INFO
        window = protocol.prior_window_days
    if days is not None and abs(days) > window:
        text = f"{abs(days)} days from the planning CT, the protocol allows {window:g}"
        return text, Severity.INFO
    return "", Severity.INFO


def _drawn_on(series: Series, held: Holdings) -> StoredInstance | None:
    """Return the structure set drawn on a CT alone: one that was planned on, received last."""
    found = [
        one
        for one in held.structure_sets
        if held.drawn_on[one.header.sop_instance_uid] == (series,)
        and not conflicting_attributes({identity_of(one.header), *series.identities})
    ]
    made_for = {
        uid
        for plan in planned_on(series, None, held).plans
        for uid in plan.header.referenced_sop_instance_uids
    }
    found = [one for one in found if one.header.sop_instance_uid in made_for] or found
    return max(found, key=attrgetter("received_at", "header.sop_instance_uid"), default=None)


def _newest(
    own: Sequence[tuple[Series, StoredInstance | None]],
) -> tuple[list[tuple[Series, StoredInstance | None]], int]:
    """Return all with contours and the newest without, and how many were dropped."""
    bare = [pair for pair in own if pair[1] is None]
    bare.sort(key=lambda pair: _age(pair[0]), reverse=True)
    kept = {series.uid for series, _ in bare[:MOST_WITHOUT_CONTOURS]}
    chosen = [pair for pair in own if pair[1] is not None or pair[0].uid in kept]
    return chosen, len(own) - len(chosen)


def _age(series: Series) -> tuple[str, str, str]:
    received = max(image.received_at for image in series.images)
    return str(series.taken_on or ""), received.isoformat(), series.uid


def _uid(one: StoredInstance | None) -> str:
    return "" if one is None else one.header.sop_instance_uid


def _uids(instances: Sequence[StoredInstance]) -> tuple[str, ...]:
    return tuple(one.header.sop_instance_uid for one in instances)


def _tail(uid: str) -> str:
    return f"...{uid[-8:]}"


__all__ = ["JoinedCt", "OtherCt", "choose_other_ct"]
