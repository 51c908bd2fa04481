"""Is a case complete, and what is still waited for: a pure function of its objects and the clock.

Evidence decides (every listed slice is here, no association is open); time only confirms (the quiet
period) or ends a wait that evidence cannot end (`Patience`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from handlers.values import Severity
from node.completeness import Standing, texts_of
from node.header import InstanceHeader
from node.holdings import AssemblyFinding, Holdings, Series, StoredInstance
from node.joining import Joined

ASK_AGAIN_S = 2.0
"""How soon to look again at a case whose objects come over an open association."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a case waits. Units in the names."""

    incomplete_s: float
    mr_wait_h: float


@dataclass(frozen=True, slots=True)
class Readiness:
    """What the clock makes of a case."""

    waiting_for: tuple[str, ...] = ()
    rejection: str = ""
    findings: tuple[AssemblyFinding, ...] = ()
    next_look_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """What has not arrived, in sentences."""

    slices: Sequence[str]
    ct: Sequence[str]
    mr: Sequence[str]
    elsewhere: Standing


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


def _missing_mr(mr: Joined) -> list[str]:
    if mr.series:
        return []
    if mr.findings:
        out = f"{len(mr.findings)} left out, see the findings"
        return [f"no MR series that the protocol wants has arrived ({out})"]
    return ["no MR series of this patient has arrived"]


def missing_of(
    header: InstanceHeader, ct: Series | None, mr: Joined, held: Holdings, elsewhere: Standing
) -> Missing:
    """Return what has not arrived of a case.

    Args:
        header: Of the structure set.
        ct: What it was drawn on, as far as it is here.
        mr: The MR series that were chosen.
        held: Everything of the patient.
        elsewhere: What peers still owe.
    """
    return Missing(
        _missing_slices(header, ct, held), _missing_ct(header, ct), _missing_mr(mr), elsewhere
    )


def ask_clock(
    missing: Missing,
    planning: Sequence[StoredInstance],
    moving: Sequence[StoredInstance],
    patience: Patience,
    now: datetime,
    *,
    can_do_without_mr: bool,
) -> Readiness:
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
        return Readiness(tuple(waiting), next_look_at=now + timedelta(seconds=ASK_AGAIN_S))
    findings = list(missing.elsewhere.findings)
    if missing.ct or missing.mr:
        newest_planning = max(one.received_at for one in planning)
        end = max(newest_planning + timedelta(hours=patience.mr_wait_h), quiet_end)
        if now < end:
            return Readiness(tuple(waiting), findings=tuple(findings), next_look_at=end)
        within = f" arrived within {patience.mr_wait_h:g} h"
        sentences = [text.replace(" has arrived", within) for text in (*missing.ct, *missing.mr)]
        if missing.ct or not can_do_without_mr:
            return Readiness(rejection="; ".join(sentences), findings=tuple(findings))
        text = f"{sentences[0]}: only CT are registered, no target is refined"
        findings.append(AssemblyFinding("no_mr", Severity.WARNING, text))
    end = newest + timedelta(seconds=patience.incomplete_s)
    if (missing.slices or awaited) and now < end:
        return Readiness(tuple(waiting), findings=tuple(findings), next_look_at=end)
    findings += [
        AssemblyFinding("ct_incomplete", Severity.WARNING, f"{text}; waiting has ended")
        for text in missing.slices
    ]
    findings += [one.finding for one in awaited]
    if now < quiet_end:
        left_s = math.ceil((quiet_end - now).total_seconds())
        text = f"quiet period: {left_s} s left"
        return Readiness((text,), findings=tuple(findings), next_look_at=quiet_end)
    return Readiness(findings=tuple(findings))
