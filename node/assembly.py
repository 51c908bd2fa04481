"""Which objects make a case, and is it complete: a pure function of the index and the clock.

Evidence decides (every listed slice is here, slices are evenly spaced, no association is open);
time only confirms (the quiet period) or ends a wait that evidence cannot end (`Patience`). What
belongs together is in `node.joining`, what is still waited for in `node.readiness`. Nothing here
opens a file, reads a clock, remembers an earlier answer or judges pixel data (that is
`handlers.decode`). No text in here holds a patient's identity.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter

from handlers.values import Severity
from node.completeness import (
    NOTHING_KNOWN,
    Elsewhere,
    Question,
    Standing,
    ask_elsewhere,
    subject_of,
)
from node.config import Protocol
from node.holdings import (
    AssemblyFinding,
    Holdings,
    Series,
    StoredInstance,
    ct_without_structure_set,
    is_drawn_elsewhere,
    take_holdings,
)
from node.joining import Joined, ambiguity_reason, choose_mr, linked_to, stranger_reason
from node.other_ct import JoinedCt, OtherCt, choose_other_ct
from node.planned import Planned, doses_without_ct, planned_on
from node.protocol_fit import choose_protocol
from node.readiness import (
    ASK_AGAIN_S,
    Patience,
    Readiness,
    ask_clock,
    missing_of,
)

__all__ = ["AssemblyFinding", "CaseProposal", "Patience", "StoredInstance", "assemble"]

NO_CHOICE: Mapping[str, str] = {}
"""Every structure set falls under the protocol that fits it."""


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
class _Gathered:
    """What belongs together with a structure set, or why nothing can.

    Attributes:
        ct: What it was drawn on, as far as that is here and no doubt.
        planning: Images of the CT, and the structure set.
        stranger: Why CT and structure set are not one patient's, or empty.
        mr: The MR series.
        other: The other CT.
        planned: Plans and doses on the planning CT.
        beside: Everything beside `planning`.
        findings: What was noticed.
    """

    ct: Series | None
    planning: tuple[StoredInstance, ...]
    stranger: str
    mr: Joined = field(default_factory=Joined)
    other: JoinedCt = field(default_factory=JoinedCt)
    planned: Planned = field(default_factory=Planned)
    beside: tuple[StoredInstance, ...] = ()
    findings: tuple[AssemblyFinding, ...] = ()

    @property
    def used(self) -> tuple[StoredInstance, ...]:
        """All objects, each once."""
        every = (*self.planning, *self.beside)
        return tuple({one.header.sop_instance_uid: one for one in every}.values())


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
    header = structure_set.header
    found = _gathered(structure_set, drawn_on, protocol, held)
    ct, mr, other = found.ct, found.mr, found.other
    objections = (objection, found.stranger, ambiguity_reason(header, drawn_on))
    rejection = "; ".join(text for text in objections if text)
    ready, asked = Readiness(rejection=rejection), Standing()
    if not rejection:
        if protocol.fetch:
            subject = subject_of(structure_set, ct, mr.series, held)
            asked = ask_elsewhere(subject, protocol, elsewhere, now)
        ready = ask_clock(
            missing_of(header, ct, mr, held, asked),
            found.planning,
            (*found.used, *mr.forming, *other.forming),
            patience,
            now,
            can_do_without_mr=bool(other.series),
        )
    used_series = (ct, *mr.series, *other.series) if ct else mr.series
    return CaseProposal(
        # the reference, not the series found: it stays the same before and after the CT comes
        case_id=_case_id(header.referenced_series_uid, header.sop_instance_uid, protocol.name),
        protocol_name=protocol.name,
        ct_series_uid=ct.uid if ct else header.referenced_series_uid,
        structure_set_uid=header.sop_instance_uid,
        mr_series_uids=tuple(series.uid for series in mr.series),
        instances=found.used,
        waiting_for=ready.waiting_for,
        rejection=ready.rejection,
        findings=(*_noticed(found.used, used_series), *found.findings, *ready.findings),
        fingerprint=_fingerprint(found.used, protocol.name),
        next_look_at=min(
            (at for at in (ready.next_look_at, asked.next_look_at) if at), default=None
        ),
        other_ct=other.chosen,
        questions=asked.questions,
        dose_uids=_uids(found.planned.doses),
        plan_uids=_uids(found.planned.plans),
    )


def _gathered(
    structure_set: StoredInstance,
    drawn_on: Sequence[Series],
    protocol: Protocol,
    held: Holdings,
) -> _Gathered:
    ct = drawn_on[0] if len(drawn_on) == 1 and drawn_on[0].images else None
    header = structure_set.header
    planning = (*(ct.images if ct else ()), structure_set)
    if stranger := stranger_reason(ct, header):
        return _Gathered(ct, planning, stranger)
    mr = choose_mr(ct, header, protocol, held)
    other = choose_other_ct(ct, protocol, held)
    planned = planned_on(ct, header, held)
    linked = linked_to(ct, header, (*mr.series, *other.series), planned, held)
    joined = {one.header.sop_instance_uid for one in (*planned.doses, *other.instances)}
    findings = (
        *linked.findings,
        *mr.findings,
        *other.findings,
        *doses_without_ct(ct, joined, held),
    )
    beside = (*mr.instances, *linked.instances, *other.instances)
    return _Gathered(ct, planning, "", mr, other, planned, beside, findings)


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
