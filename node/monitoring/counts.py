"""What this process has counted since it started; the page of metrics shows it.

To count is to add to a dictionary under a lock, a microsecond or so: an object that is received
costs two of these. Labels are names from the configuration or words of our own,
never what a stranger says of itself, and a bound holds for each count all the same.
"""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_SERIES = 500
"""Of one count, by its labels; what comes beyond is counted under `OTHER`."""

OTHER = "other"


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """A number that only grows.

    Attributes:
        name: Of the metric; `_total` is added by the format.
        text: What it counts, for people.
        labels: Names of its labels.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Durations in seconds, by how many were at most as long as each bound."""

    name: str
    text: str
    bounds_s: tuple[float, ...]
    labels: tuple[str, ...] = ()


ASSOCIATIONS = Counted(
    "hilum_associations", "Associations of peers that ended, by how.", ("peer", "outcome")
)
REJECTIONS = Counted(
    "hilum_associations_rejected",
    "Association requests that were rejected; source and reason as in PS3.8 table 9-21.",
    ("reason",),
)
OBJECTS = Counted("hilum_objects_received", "Objects answered with success.", ("peer",))
BYTES = Counted("hilum_received_bytes", "Bytes of their data sets.", ("peer",))
REFUSALS = Counted(
    "hilum_store_refusals", "C-STORE requests answered with another status.", ("peer", "status")
)
COMPUTED = Counted("hilum_cases_computed", "Computations that ended, by how.", ("outcome",))
PUT_OFF = Counted(
    "hilum_compute_interruptions", "Attempts to compute that left no outcome and come again."
)
REGISTRATIONS = Counted("hilum_registrations", "Registrations, by kind and verdict.",
                        ("kind", "verdict"))  # fmt: skip
TARGETS = Counted("hilum_targets", "Targets, by what became of them.", ("outcome",))
FINDINGS = Counted("hilum_findings", "Findings on computed cases.", ("severity",))
DELIVERIES = Counted("hilum_deliveries", "Deliveries that were settled, by how.",
                     ("peer", "outcome"))  # fmt: skip
DELIVERY_INTERRUPTIONS = Counted(
    "hilum_delivery_interruptions", "Attempts to deliver that come again.", ("peer",)
)
DELIVERED_OBJECTS = Counted(
    "hilum_delivered_objects",
    "Objects offered to a peer, by class of its status (PS3.7 annex C).",
    ("peer", "status"),
)
DELIVERED_BYTES = Counted("hilum_delivered_bytes", "Bytes of the objects that a peer took.",
                          ("peer",))  # fmt: skip
AUDIT_MESSAGES = Counted("hilum_audit_messages", "Messages written to the audit trail.")
AUDIT_LOST = Counted("hilum_audit_lost", "Events that found no room and are not in the trail.")
NOTICES = Counted(
    "hilum_notices", "Notices for people, by what became of them.", ("channel", "outcome")
)
COUNTED = (
    ASSOCIATIONS, REJECTIONS, OBJECTS, BYTES, REFUSALS, COMPUTED, PUT_OFF, REGISTRATIONS, TARGETS,
    FINDINGS, DELIVERIES, DELIVERY_INTERRUPTIONS, DELIVERED_OBJECTS, DELIVERED_BYTES,
    AUDIT_MESSAGES, AUDIT_LOST, NOTICES,
)  # fmt: skip

_STEP_BOUNDS_S = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
_WAIT_BOUNDS_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600)

STEP_SECONDS = Timed("hilum_case_step_seconds", "Time that a step of a case took.",
                     _STEP_BOUNDS_S, ("step",))  # fmt: skip
CASE_SECONDS = Timed("hilum_case_seconds", "Time that computing a case took.", _STEP_BOUNDS_S)
QUEUE_SECONDS = Timed(
    "hilum_case_queue_seconds", "Time from when a case was due until it began.", _WAIT_BOUNDS_S
)
DELIVERY_SECONDS = Timed(
    "hilum_delivery_seconds",
    "Time from a result set's adoption until its delivery was settled.",
    _WAIT_BOUNDS_S,
    ("peer",),
)
TIMED = (STEP_SECONDS, CASE_SECONDS, QUEUE_SECONDS, DELIVERY_SECONDS)


@dataclass(slots=True)
class Durations:
    """How many durations were at most as long as each bound, one more for all longer ones."""

    counts: list[int]
    total_s: float = 0.0


@dataclass(slots=True)
class Counts:
    """The counts of one process; safe for many threads."""

    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _numbers: dict[Counted, dict[tuple[str, ...], float]] = field(default_factory=dict)
    _durations: dict[Timed, dict[tuple[str, ...], Durations]] = field(default_factory=dict)

    def add(self, what: Counted, *labels: str, amount: float = 1) -> None:
        """Count, under the values of the labels, in their order."""
        with self._guard:
            of_labels = self._numbers.setdefault(what, {})
            key = labels if labels in of_labels else _bounded(labels, len(of_labels))
            of_labels[key] = of_labels.get(key, 0) + amount

    def observe(self, what: Timed, seconds: float, *labels: str) -> None:
        """Count a duration."""
        with self._guard:
            of_labels = self._durations.setdefault(what, {})
            key = labels if labels in of_labels else _bounded(labels, len(of_labels))
            found = of_labels.setdefault(key, Durations([0] * (len(what.bounds_s) + 1)))
            found.counts[bisect_left(what.bounds_s, seconds)] += 1
            found.total_s += seconds

    def numbers(self, what: Counted) -> dict[tuple[str, ...], float]:
        """Return what was counted, by the values of the labels."""
        with self._guard:
            return dict(self._numbers.get(what, {}))

    def durations(self, what: Timed) -> dict[tuple[str, ...], Durations]:
        """Return the durations that were counted, by the values of the labels."""
        with self._guard:
            return {
                key: Durations(list(found.counts), found.total_s)
                for key, found in self._durations.get(what, {}).items()
            }


def _bounded(labels: Sequence[str], known: int) -> tuple[str, ...]:
    return tuple(labels) if known < MOST_SERIES else (OTHER,) * len(labels)


COUNTS = Counts()
"""Those of this process."""
