"""The vitals of the two kinds of processes: what lives in each, and what each shows of itself."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from node.audit.trail import AuditTrail
from node.monitoring.vitals import NOT_WRITTEN_S, STALLED_S, Measured, Sign, Vitals, too_old
from node.schedule import Schedule
from node.scp import StoreScp

Values = Mapping[tuple[str, ...], float]


def serve_vitals(
    scp: StoreScp,
    schedule: Schedule,
    trail: AuditTrail | None,
    clock: Callable[[], datetime],
    stalled_s: float = STALLED_S,
) -> Vitals:
    """Return the vitals of a process that receives."""
    of_all = worker_vitals(schedule.tick_age_s, schedule.beat_age_s, trail, stalled_s)
    receiving = Sign("receiving", lambda: scp.why_stuck(stalled_s))
    closed = Sign("storage", scp.why_closed)

    def oldest() -> Values:
        _, since = scp.unfiled()
        return {(): 0.0 if since is None else max(0.0, (clock() - since).total_seconds())}

    return Vitals(
        life=(*of_all.life, receiving),
        readiness=(*of_all.readiness, closed),
        measures=(
            *of_all.measures,
            Measured(
                "hilum_associations_open",
                "Associations that are open now.",
                ("peer",),
                lambda: {(peer,): float(n) for peer, n in scp.open_associations().items()},
            ),
            Measured(
                "hilum_unfiled_objects",
                "Objects that were answered with success and are not in the index yet.",
                (),
                lambda: {(): float(scp.unfiled()[0])},
            ),
            Measured(
                "hilum_unfiled_oldest_seconds", "How long ago the oldest of them came.", (), oldest
            ),
        ),
    )


def worker_vitals(
    tick_age_s: Callable[[], float],
    beat_age_s: Callable[[], float],
    trail: AuditTrail | None = None,
    stalled_s: float = STALLED_S,
) -> Vitals:
    """Return the vitals of a process that computes.

    Args:
        tick_age_s: How long ago it last looked for what is due.
        beat_age_s: How long ago the index last took its sign of life.
        trail: Its audit trail.
        stalled_s: How long ago either may be.
    """
    started_s = time.monotonic()

    def unwritten() -> str:
        return too_old(beat_age_s(), NOT_WRITTEN_S, "the index has taken nothing")

    return Vitals(
        life=(
            Sign(
                "schedule",
                lambda: too_old(tick_age_s(), stalled_s, "the schedule has stood still"),
            ),
            *(() if trail is None else (Sign("audit", lambda: trail.why_stuck(stalled_s)),)),
        ),
        readiness=(Sign("index", unwritten),),
        measures=(
            Measured(
                "hilum_schedule_age_seconds",
                "How long ago the schedule last came round.",
                (),
                lambda: {(): tick_age_s()},
            ),
            Measured(
                "hilum_uptime_seconds",
                "How long this process has run.",
                (),
                lambda: {(): time.monotonic() - started_s},
            ),
            *(() if trail is None else trail.measures()),
        ),
    )
