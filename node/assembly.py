"""Which objects make a case, and is it complete: a pure function of the index and the clock.

Evidence decides (every listed slice is here, slices are evenly spaced, no association is open);
time only confirms (the quiet period) or ends a wait that evidence cannot end (`Patience`). Objects
are joined by what they refer to; MR alone is joined by patient, since nothing in DICOM refers from
a structure set to it. Nothing here opens a file, reads a clock, remembers an earlier answer or
judges pixel data (that is `handlers.decode`). No text in here holds a patient's identity.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from operator import attrgetter

from handlers.values import Severity
from node.completeness import (
    NOTHING_KNOWN,
    Elsewhere,
    Question,
    Standing,
    ask_elsewhere,
    subject_of,
    texts_of,
)
from node.config import Protocol
from node.header import InstanceHeader
from node.holdings import (
    AssemblyFinding,
    Holdings,
    Series,
    StoredInstance,
    conflicting_attributes,
    ct_without_structure_set,
    identity_of,
    is_drawn_elsewhere,
    take_holdings,
)
from node.other_ct import JoinedCt, OtherCt, choose_other_ct
from node.planned import Planned, doses_without_ct, planned_on
from node.protocol_fit import choose_protocol, rank

__all__ = ["AssemblyFinding", "CaseProposal", "Patience", "StoredInstance", "assemble"]

LEAST_MR_IMAGES = 3
"""Fewer images are no volume that could be registered, or a series that is still arriving."""

ASK_AGAIN_S = 2.0
"""How soon to look again at a case whose objects come over an open association."""

NO_CHOICE: Mapping[str, str] = {}
"""Every structure set falls under the protocol that fits it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a case waits. Units in the names."""

    incomplete_s: float
    mr_wait_h: float


@dataclass(frozen=True, slots=True)
class CaseProposal:
    """A case as it stands now.

    Attributes:
        case_id: Stable: derived from planning CT series, structure set and protocol.
        protocol_name: Which protocol applies.
        ct_series_uid: The planning CT, or empty while unknown.
        structure_set_uid: SOP Instance UID of the structure set, or empty while none has come.
        mr_series_uids: The MR series, preferred ones first.
        instances: Every object of the case (CT, structure set, MR, dose, plan, registrations, and
            the other CT with what belongs to them).
        waiting_for: What is missing or still moving, in sentences; empty when the case is ready.
        rejection: Why it will never be computed unless new objects come, or empty.
        findings: What was noticed.
        fingerprint: Of the objects' contents and the protocol's name: another fingerprint makes
            another revision.
        next_look_at: When the clock alone may change the answer, or None.
        other_ct: CT beside the planning CT, with what was drawn and planned on them.
        questions: What peers are to be asked about it (`node.completeness`).
        dose_uids: RT Doses that were planned on the planning CT.
        plan_uids: Their RT Plans.
    """

    case_id: str
    protocol_name: str
    ct_series_uid: str
    structure_set_uid: str
    mr_series_uids: tuple[str, ...]
    instances: tuple[StoredInstance, ...]
    waiting_for: tuple[str, ...]
    rejection: str
    findings: tuple[AssemblyFinding, ...]
    fingerprint: str
    next_look_at: datetime | None
    other_ct: tuple[OtherCt, ...] = ()
    questions: tuple[Question, ...] = ()
    dose_uids: tuple[str, ...] = ()
    plan_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Joined:
    """Objects found for a case, and what was noticed; `forming` may still become part of it."""

    series: tuple[Series, ...] = ()
    instances: tuple[StoredInstance, ...] = ()
    forming: tuple[StoredInstance, ...] = ()
    findings: tuple[AssemblyFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the clock makes of a case."""

    waiting_for: tuple[str, ...] = ()
    rejection: str = ""
    findings: tuple[AssemblyFinding, ...] = ()
    next_look_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Missing:
    """What has not arrived, in sentences."""

    slices: Sequence[str]
    ct: Sequence[str]
    mr: Sequence[str]
    elsewhere: Standing


def assemble(
    instances: Sequence[StoredInstance],
    protocols: Sequence[Protocol],
    patience: Patience,
    now: datetime,
    elsewhere: Elsewhere = NOTHING_KNOWN,
    chosen: Mapping[str, str] = NO_CHOICE,
) -> tuple[CaseProposal, ...]:
    """Return every case that the objects of one patient, or of a study, form or begin to form.

    One case for each structure set that was drawn on a CT (or on a series that has not arrived)
    and to which a protocol applies; a placeholder, never ready, for each CT that waits for a
    structure set. A case that was proposed earlier and is absent now has lost its reason: the
    structure set came, or the series it names turned out not to be a CT.

    Args:
        instances: Newest versions, in any order, together with the image series and structure
            sets that refer to each other, whatever patient identity those carry.
        protocols: In order of preference.
        patience: When waiting ends.
        now: The time, aware UTC.
        elsewhere: What peers said of these objects' series; what was fetched from them as a prior
            starts no case of its own.
        chosen: Protocol by SOP Instance UID of those structure sets for which an operator chose.

    Returns:
        The cases by CT series and structure set; the same for any order of `instances`.
    """
    held = take_holdings([one for one in instances if not one.header.is_ours])
    cases: list[CaseProposal] = []
    for structure_set in held.structure_sets:
        if structure_set.header.series_instance_uid in elsewhere.prior_series:
            continue
        drawn_on = held.drawn_on[structure_set.header.sop_instance_uid]
        protocol, objection = choose_protocol(structure_set.header, protocols, chosen)
        if protocol is not None and not is_drawn_elsewhere(drawn_on):
            about = structure_set, protocol, objection, drawn_on
            case = _case(*about, held, elsewhere, patience, now)
            cases.append(case)
    if protocols:
        joined = {other.series_uid for case in cases for other in case.other_ct}
        cases += [
            _placeholder(ct, protocols[0], now)
            for ct in ct_without_structure_set(held)
            if ct.uid not in joined and ct.uid not in elsewhere.prior_series
        ]
    return tuple(sorted(cases, key=attrgetter("ct_series_uid", "structure_set_uid")))


def _case(
    structure_set: StoredInstance,
    protocol: Protocol,
    objection: str,
    drawn_on: Sequence[Series],
    held: Holdings,
    elsewhere: Elsewhere,
    patience: Patience,
    now: datetime,
) -> CaseProposal:
    ct = drawn_on[0] if len(drawn_on) == 1 and drawn_on[0].images else None
    header = structure_set.header
    planning = (*(ct.images if ct else ()), structure_set)
    stranger = _stranger(ct, header)
    mr = linked = _Joined()
    other, planned = JoinedCt(), Planned()
    lonely: tuple[AssemblyFinding, ...] = ()
    if not stranger:
        mr = _choose_mr(ct, header, protocol, held)
        other = choose_other_ct(ct, protocol, held)
        planned = planned_on(ct, header, held)
        linked = _linked(ct, header, (*mr.series, *other.series), planned, held)
        joined = {one.header.sop_instance_uid for one in (*planned.doses, *other.instances)}
        lonely = doses_without_ct(ct, joined, held)
    objections = [text for text in (objection, stranger, _ambiguity(header, drawn_on)) if text]
    objects = (*planning, *mr.instances, *linked.instances, *other.instances)
    used = tuple({one.header.sop_instance_uid: one for one in objects}.values())
    standing = _Standing(rejection="; ".join(objections))
    asked = Standing()
    if not objections:
        if protocol.fetch:
            subject = subject_of(structure_set, ct, mr.series, held)
            asked = ask_elsewhere(subject, protocol, elsewhere, now)
        missing = _Missing(
            _missing_slices(header, ct, held), _missing_ct(header, ct), _missing_mr(mr), asked
        )
        moving = (*used, *mr.forming, *other.forming)
        standing = _ask_clock(
            missing, planning, moving, patience, now, can_do_without_mr=bool(other.series)
        )
    used_series = (ct, *mr.series, *other.series) if ct else mr.series
    return CaseProposal(
        # the reference, not the series found: it stays the same before and after the CT comes
        case_id=_case_id(header.referenced_series_uid, header.sop_instance_uid, protocol.name),
        protocol_name=protocol.name,
        ct_series_uid=ct.uid if ct else header.referenced_series_uid,
        structure_set_uid=header.sop_instance_uid,
        mr_series_uids=tuple(series.uid for series in mr.series),
        instances=used,
        waiting_for=standing.waiting_for,
        rejection=standing.rejection,
        findings=(
            *_noticed(used, used_series),
            *linked.findings,
            *mr.findings,
            *other.findings,
            *lonely,
            *standing.findings,
        ),
        fingerprint=_fingerprint(used, protocol.name),
        next_look_at=min(
            (at for at in (standing.next_look_at, asked.next_look_at) if at), default=None
        ),
        other_ct=other.chosen,
        questions=asked.questions,
        dose_uids=_uids(planned.doses),
        plan_uids=_uids(planned.plans),
    )


def _uids(instances: Sequence[StoredInstance]) -> tuple[str, ...]:
    return tuple(one.header.sop_instance_uid for one in instances)


def _placeholder(ct: Series, protocol: Protocol, now: datetime) -> CaseProposal:
    missing = f"no structure set drawn on this CT has arrived ({ct.placed_count} CT slices here)"
    is_moving = any(image.association_is_open for image in ct.images)
    return CaseProposal(
        case_id=_case_id(ct.uid, "", protocol.name),
        protocol_name=protocol.name,
        ct_series_uid=ct.uid,
        structure_set_uid="",
        mr_series_uids=(),
        instances=ct.images,
        waiting_for=(missing,),
        rejection="",
        findings=_noticed(ct.images, (ct,)),
        fingerprint=_fingerprint(ct.images, protocol.name),
        next_look_at=now + timedelta(seconds=ASK_AGAIN_S) if is_moving else None,
    )


def _stranger(ct: Series | None, header: InstanceHeader) -> str:
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


# What belongs together


def _ambiguity(header: InstanceHeader, drawn_on: Sequence[Series]) -> str:
    if len(drawn_on) < 2:
        return ""
    if header.referenced_sop_instance_uids:
        return f"the structure set lists images of {len(drawn_on)} series alike and names none"
    return (
        "the structure set names neither series nor images, and "
        f"{len(drawn_on)} CT series lie in its frame of reference"
    )


def _choose_mr(
    ct: Series | None, header: InstanceHeader, protocol: Protocol, held: Holdings
) -> _Joined:
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
    return _Joined(series, images, tuple(forming), tuple(findings))


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


def _linked(
    ct: Series | None,
    header: InstanceHeader,
    moved: Sequence[Series],
    planned: Planned,
    held: Holdings,
) -> _Joined:
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
    return _Joined(instances=tuple(kept), findings=tuple(findings))


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


# Is it complete


def _missing_slices(header: InstanceHeader, ct: Series | None, held: Holdings) -> list[str]:
    if ct is None:
        return []
    listed = set(header.referenced_sop_instance_uids)
    missing = sum(uid not in held.series_of_image for uid in listed)
    if not missing:
        return [ct.gap] if ct.gap else []
    text = f"{missing} of {len(listed)} CT slices that the structure set lists have not arrived"
    if listed.isdisjoint(image.header.sop_instance_uid for image in ct.images):
        # a publisher who made new UIDs of slices, but not of the references to them
        text += f"; none of the {len(ct.images)} that are here is listed"
    return [text, ct.gap] if ct.gap else [text]


def _missing_ct(header: InstanceHeader, ct: Series | None) -> list[str]:
    if ct is not None:
        return []
    count = len(set(header.referenced_sop_instance_uids))
    listed = f" ({count} slices listed)" if count else ""
    return [f"no CT that the structure set was drawn on has arrived{listed}"]


def _missing_mr(mr: _Joined) -> list[str]:
    if mr.series:
        return []
    if mr.findings:
        out = f"{len(mr.findings)} left out, see the findings"
        return [f"no MR series that the protocol wants has arrived ({out})"]
    return ["no MR series of this patient has arrived"]


def _ask_clock(
    missing: _Missing,
    planning: Sequence[StoredInstance],
    moving: Sequence[StoredInstance],
    patience: Patience,
    now: datetime,
    *,
    can_do_without_mr: bool,
) -> _Standing:
    """Return what is still waited for.

    Missing slices, and peers that owe an answer or objects, end the waiting with a warning; missing
    series with a rejection (MR with a warning, where another CT is there to be registered); either
    only while no association is open, and never before the quiet period has passed.
    """
    newest = max(one.received_at for one in moving)
    quiet_end = newest + timedelta(seconds=max(one.quiet_s for one in moving))
    awaited = missing.elsewhere.awaited
    waiting = [*missing.slices, *missing.ct, *missing.mr, *texts_of(awaited)]
    if any(one.association_is_open for one in moving):
        waiting.append("an association that carries objects of this case is still open")
        # no clock tells when it ends: ask again soon
        return _Standing(tuple(waiting), next_look_at=now + timedelta(seconds=ASK_AGAIN_S))
    findings = list(missing.elsewhere.findings)
    if missing.ct or missing.mr:
        newest_planning = max(one.received_at for one in planning)
        end = max(newest_planning + timedelta(hours=patience.mr_wait_h), quiet_end)
        if now < end:
            return _Standing(tuple(waiting), findings=tuple(findings), next_look_at=end)
        within = f" arrived within {patience.mr_wait_h:g} h"
        sentences = [text.replace(" has arrived", within) for text in (*missing.ct, *missing.mr)]
        if missing.ct or not can_do_without_mr:
            return _Standing(rejection="; ".join(sentences), findings=tuple(findings))
        text = f"{sentences[0]}: only CT are registered, no target is refined"
        findings.append(AssemblyFinding("no_mr", Severity.WARNING, text))
    end = newest + timedelta(seconds=patience.incomplete_s)
    if (missing.slices or awaited) and now < end:
        return _Standing(tuple(waiting), findings=tuple(findings), next_look_at=end)
    findings += [
        AssemblyFinding("ct_incomplete", Severity.WARNING, f"{text}; waiting has ended")
        for text in missing.slices
    ]
    findings += [one.finding for one in awaited]
    if now < quiet_end:
        left_s = math.ceil((quiet_end - now).total_seconds())
        text = f"quiet period: {left_s} s left"
        return _Standing((text,), findings=tuple(findings), next_look_at=quiet_end)
    return _Standing(findings=tuple(findings))


# What is said about it


def _noticed(
    used: Iterable[StoredInstance], used_series: Iterable[Series]
) -> tuple[AssemblyFinding, ...]:
    findings: list[AssemblyFinding] = []
    replaced = Counter(one.header.modality for one in used if one.replaces_other_content)
    if replaced:
        which = ", ".join(f"{count} {modality}" for modality, count in sorted(replaced.items()))
        text = (
            f"received twice with different content under one SOP Instance UID: {which} objects; "
            "the newest counts"
        )
        findings.append(AssemblyFinding("replaced_content", Severity.WARNING, text))
    for each in used_series:
        if each.localizers:
            text = f"{each.localizers} localizer images of {each.name} left out"
            findings.append(AssemblyFinding("localizer_left_out", Severity.INFO, text))
    return tuple(findings)


def _case_id(series_uid: str, structure_set_uid: str, protocol_name: str) -> str:
    named = "\n".join((series_uid, structure_set_uid, protocol_name))
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _fingerprint(used: Iterable[StoredInstance], protocol_name: str) -> str:
    lines = sorted(f"{one.header.sop_instance_uid} {one.sha256}" for one in used)
    return hashlib.sha256("\n".join((protocol_name, *lines)).encode()).hexdigest()
