"""What peers say of the series of a case: is it complete, what is asked, what is still to come.

Pure: says which questions a case raises and what the answers mean. That they are asked is the
business of `node.fetching`, the answers are kept in `node.index.fetches`. Knows no clock but the
one that is passed in, and no patient's identity.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from handlers.values import Severity
from node.holdings import AssemblyFinding, Holdings, Series, StoredInstance
from node.protocol import FetchRule, Protocol

Kind = Literal["count", "priors"]


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """A series of a case as far as counting goes.

    Attributes:
        name: For people.
        study_uid: Where a peer is likely to have it.
        count: SOP instances that are here, localizers included.
        changed_at: When the latest of them came; of a series that is not here, when it was named.
        quiet_s: Quiet period of the peer that sent them.
        is_moving: An association that carries it is open.
    """

    uid: str
    name: str
    study_uid: str
    count: int
    changed_at: datetime
    quiet_s: float
    is_moving: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a peer is to be asked.

    Attributes:
        kind: `count`: how many instances a series has; `priors`: what there is of earlier studies.
        subject: Series Instance UID; for priors the SOP Instance UID of the structure set.
        about: SOP Instance UID of the structure set whose patient it is.
        by: How the peer is to send what is missing.
        held: How many instances of the series are here.
        known_studies: Priors: the studies of the case itself.
        taken_on: Priors: date of the planning CT, YYYYMMDD.
        modalities: Priors: what is wanted.
        window_days: Priors: no study farther from the CT; MR have a window of their own.
        quiet_s: No peer is asked the same again before this has passed.
    """

    kind: Kind
    peer: str
    subject: str
    study_uid: str
    about: str
    by: Literal["move", "get"]
    held: int = 0
    known_studies: tuple[str, ...] = ()
    taken_on: str = ""
    modalities: tuple[str, ...] = ()
    window_days: float = 0.0
    mr_window_days: float = 0.0
    quiet_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a question.

    Attributes:
        asked_at: When it was last tried to ask, or None.
        is_answered: The peer answered.
        is_given_up: It will not be asked again by itself.
        count: How many instances the peer has; None: it was asked for priors, or cannot tell.
        held: How many were here when the question was put.
        reason: Why there is no answer, in words.
        notes: What is to be told of the answer.
        coming: How many series are still being fetched.
        not_come: Why series are not fetched any more, in words.
    """

    asked_at: datetime | None
    is_answered: bool
    is_given_up: bool = False
    count: int | None = None
    held: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()
    coming: int = 0
    not_come: str = ""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is known of peers; nothing, where none is asked.

    Attributes:
        told: By kind, peer and subject of the question.
        prior_series: Series that are here only because they were fetched as priors: they start no
            case of their own.
    """

    told: Mapping[tuple[str, str, str], Told] = field(default_factory=dict)
    prior_series: frozenset[str] = frozenset()


NOTHING_KNOWN = Elsewhere()


@dataclass(frozen=True, slots=True)
class Awaited:
    """Something that patience, not evidence, ends: what is told meanwhile, and what afterwards."""

    text: str
    finding: AssemblyFinding


@dataclass(frozen=True, slots=True)
class Standing:
    """What the peers' answers, or the lack of them, mean for a case.

    Attributes:
        questions: What is to be asked now.
        awaited: What the case waits for within its patience.
        findings: What is certain.
        next_look_at: When a question falls due, or None.
    """

    questions: tuple[Question, ...] = ()
    awaited: tuple[Awaited, ...] = ()
    findings: tuple[AssemblyFinding, ...] = ()
    next_look_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The case that is asked about.

    Attributes:
        structure_set_uid: SOP Instance UID.
        study_uids: Of planning CT and structure set.
        taken_on: Date of the planning CT, YYYYMMDD; empty: unknown.
        series: Planning CT and MR of the case; a series that is named and not here counts none.
        planning_changed_at: When the latest object of CT and structure set came.
        quiet_s: Longest quiet period of these.
        has_ct: The planning CT is here.
        is_moving: An association that carries one of these is open.
    """

    structure_set_uid: str
    study_uids: tuple[str, ...]
    taken_on: str
    series: tuple[HeldSeries, ...]
    planning_changed_at: datetime
    quiet_s: float
    has_ct: bool
    is_moving: bool


def subject_of(
    structure_set: StoredInstance, ct: Series | None, mr: Sequence[Series], held: Holdings
) -> Subject:
    """Return what peers can be asked about a case."""
    header = structure_set.header
    series = [
        HeldSeries(
            uid=each.uid,
            name=each.name,
            study_uid=min(each.study_uids),
            count=held.instance_counts[each.uid],
            changed_at=max(image.received_at for image in each.images),
            quiet_s=max(image.quiet_s for image in each.images),
            is_moving=any(image.association_is_open for image in each.images),
        )
        for each in (*([ct] if ct else []), *mr)
        if each.images
    ]
    if ct is None and header.referenced_series_uid:
        named = HeldSeries(
            uid=header.referenced_series_uid,
            name="the CT that the structure set was drawn on",
            study_uid=header.study_instance_uid,
            count=0,
            changed_at=structure_set.received_at,
            quiet_s=structure_set.quiet_s,
            is_moving=structure_set.association_is_open,
        )
        series.append(named)
    planning = (*(ct.images if ct else ()), structure_set)
    studies = {header.study_instance_uid, *(ct.study_uids if ct else ())}
    return Subject(
        structure_set_uid=header.sop_instance_uid,
        study_uids=tuple(sorted(studies)),
        taken_on=f"{ct.taken_on:%Y%m%d}" if ct and ct.taken_on else "",
        series=tuple(series),
        planning_changed_at=max(one.received_at for one in planning),
        quiet_s=max(one.quiet_s for one in planning),
        has_ct=ct is not None,
        is_moving=any(one.association_is_open for one in planning),
    )


def ask_elsewhere(
    subject: Subject, protocol: Protocol, elsewhere: Elsewhere, now: datetime
) -> Standing:
    """Return what peers are to be asked about a case, and what they have answered.

    A question falls due when the quiet period of what it is about has passed: asked earlier, the
    peer might still be receiving, too. An answer counts until something of the series arrives.
    """
    parts: list[Standing] = []
    for rule in protocol.fetch:
        if rule.missing:
            parts += [_count(series, subject, rule, elsewhere, now) for series in subject.series]
        if rule.priors and subject.has_ct:
            parts.append(_priors(subject, protocol, rule, elsewhere, now))
    times = [part.next_look_at for part in parts if part.next_look_at is not None]
    return Standing(
        questions=tuple(question for part in parts for question in part.questions),
        awaited=tuple(one for part in parts for one in part.awaited),
        findings=tuple(finding for part in parts for finding in part.findings),
        next_look_at=min(times, default=None),
    )


def _count(
    series: HeldSeries, subject: Subject, rule: FetchRule, elsewhere: Elsewhere, now: datetime
) -> Standing:
    """Ask how many instances a series has, and compare."""
    told = elsewhere.told.get(("count", rule.peer, series.uid))
    is_current = told is not None and _is_current(told, series)
    if told is not None and is_current and told.is_answered:
        return _compared(series, rule, told)
    question = Question(
        "count",
        rule.peer,
        series.uid,
        series.study_uid,
        subject.structure_set_uid,
        rule.by,
        held=series.count,
        quiet_s=series.quiet_s,
    )
    what = f"how many images {series.name} has"
    due_at = series.changed_at + timedelta(seconds=series.quiet_s)
    return _unanswered(question, told if is_current else None, what, due_at, now, series.is_moving)


def _is_current(told: Told, series: HeldSeries) -> bool:
    """Tell whether nothing of a series came since it was asked about.

    An image that came again with other content is nothing more: some archives stamp the time into
    whatever they send, and would be asked, and send, without end.
    """
    if told.asked_at is None:
        return False
    is_as_many = told.is_answered and told.held == series.count > 0
    return told.asked_at >= series.changed_at or is_as_many


def _compared(series: HeldSeries, rule: FetchRule, told: Told) -> Standing:
    """Return what a peer's count means beside what is here."""
    if told.count is None:
        text = f"peer {rule.peer} cannot tell how many images {series.name} has"
        return Standing(findings=(_unknown(text),))
    if told.count == 0:
        text = f"peer {rule.peer} does not hold {series.name}: it cannot say whether it is complete"
        return Standing(findings=(AssemblyFinding("not_at_peer", Severity.INFO, text),))
    if told.count <= series.count:
        text = f"all {told.count} images of {series.name} that peer {rule.peer} holds are here"
        return Standing(findings=(AssemblyFinding("complete_at_peer", Severity.INFO, text),))
    many = f"{told.count - series.count} of {told.count} images of {series.name}"
    text = f"{many} are still at {rule.peer}"
    if told.coming:
        awaited = Awaited(f"{text}: being fetched", _short(f"{text}; waiting has ended"))
        return Standing(awaited=(awaited,))
    return Standing(findings=(_short(f"{text}: not fetched: {told.not_come or 'not sent'}"),))


def _priors(
    subject: Subject, protocol: Protocol, rule: FetchRule, elsewhere: Elsewhere, now: datetime
) -> Standing:
    """Ask what there is of earlier studies, and wait for what is fetched of them."""
    told = elsewhere.told.get(("priors", rule.peer, subject.structure_set_uid))
    if told is None or not told.is_answered:
        question = Question(
            "priors",
            rule.peer,
            subject.structure_set_uid,
            subject.study_uids[0] if subject.study_uids else "",
            subject.structure_set_uid,
            rule.by,
            known_studies=subject.study_uids,
            taken_on=subject.taken_on,
            modalities=tuple(rule.priors),
            window_days=rule.priors_window_days,
            mr_window_days=protocol.mr_window_days,
            quiet_s=subject.quiet_s,
        )
        due_at = subject.planning_changed_at + timedelta(seconds=subject.quiet_s)
        what = "what there is of other studies"
        return _unanswered(question, told, what, due_at, now, subject.is_moving)
    findings = [AssemblyFinding("priors", Severity.WARNING, note) for note in told.notes]
    if told.not_come:
        text = f"series of other studies were not fetched from {rule.peer}: {told.not_come}"
        findings.append(AssemblyFinding("priors_not_fetched", Severity.WARNING, text))
    awaited: tuple[Awaited, ...] = ()
    if told.coming:
        text = f"{told.coming} series of other studies are being fetched from {rule.peer}"
        late = f"{told.coming} series of other studies did not come from {rule.peer} in time"
        finding = AssemblyFinding("priors_not_fetched", Severity.WARNING, late)
        awaited = (Awaited(text, finding),)
    return Standing(awaited=awaited, findings=tuple(findings))


def _unanswered(
    question: Question,
    told: Told | None,
    what: str,
    due_at: datetime,
    now: datetime,
    is_moving: bool,
) -> Standing:
    """Return that a question is open: not due, being asked, or without success so far."""
    failed = f"peer {question.peer} could not be asked {what}"
    if told is not None and told.is_given_up:
        return Standing(questions=(question,), findings=(_unknown(f"{failed}: {told.reason}"),))
    reason = "" if told is None else told.reason
    is_due = not is_moving and now >= due_at
    asked = f"peer {question.peer} is {'being' if is_due else 'to be'} asked {what}"
    text = f"{failed} yet: {reason}" if reason else asked
    awaited = Awaited(text, _unknown(f"{failed} in time{': ' if reason else ''}{reason}"))
    if not is_due:
        return Standing(awaited=(awaited,), next_look_at=None if is_moving else due_at)
    return Standing(questions=(question,), awaited=(awaited,))


def _unknown(text: str) -> AssemblyFinding:
    return AssemblyFinding("completeness_unknown", Severity.WARNING, text)


def _short(text: str) -> AssemblyFinding:
    return AssemblyFinding("series_incomplete", Severity.WARNING, text)


def texts_of(awaited: Iterable[Awaited]) -> list[str]:
    """Return what is told while a case waits."""
    return [one.text for one in awaited]


__all__ = [
    "NOTHING_KNOWN",
    "Awaited",
    "Elsewhere",
    "HeldSeries",
    "Question",
    "Standing",
    "Subject",
    "Told",
    "ask_elsewhere",
    "subject_of",
    "texts_of",
]
