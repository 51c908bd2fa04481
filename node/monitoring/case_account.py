"""What computing one revision took and brought: for its line in the log, and for the counts."""

import time
from collections.abc import Callable

from node.compute_job import Outcome
from node.monitoring.counts import (
    CASE_SECONDS,
    COMPUTED,
    COUNTS,
    FINDINGS,
    PUT_OFF,
    QUEUE_SECONDS,
    REGISTRATIONS,
    STEP_SECONDS,
    TARGETS,
    Counts,
)

BEFORE_THE_FIRST = "start"
"""The step until the child tells its first one: it starts, and imports."""


class CaseAccount:
    """Is told each step as it begins; a step lasts until the next one, or the end.

    Args:
        queue_s: For how long the revision had been due when it began.
        seconds: Seconds that never go back.
        counts: Where all of it is counted.
    """

    def __init__(
        self,
        queue_s: float,
        seconds: Callable[[], float] = time.monotonic,
        counts: Counts = COUNTS,
    ) -> None:
        self._queue_s = queue_s
        self._seconds = seconds
        self._counts = counts
        self._step = BEFORE_THE_FIRST
        self._begun_s = self._since_s = seconds()
        self._taken_s: dict[str, float] = {}

    def begin(self, step: str) -> None:
        """Note that a step begins; one that comes several times has the sum of its times."""
        now_s = self._seconds()
        self._taken_s[self._step] = self._taken_s.get(self._step, 0.0) + now_s - self._since_s
        self._step, self._since_s = step, now_s

    def close(self, outcome: Outcome, *, is_counted: bool) -> dict[str, object]:
        """Count how it ended; return what is told of it besides.

        Args:
            outcome: How it ended.
            is_counted: False where another process has done the same work.

        Returns:
            `seconds`, `steps_s` (seconds by step, in their order) and `queue_s`.
        """
        self.begin("")
        total_s = self._seconds() - self._begun_s
        if is_counted:
            self._count(outcome, total_s)
        steps = {step: round(taken_s, 2) for step, taken_s in self._taken_s.items()}
        return {"seconds": round(total_s, 2), "steps_s": steps, "queue_s": round(self._queue_s, 2)}

    def _count(self, outcome: Outcome, total_s: float) -> None:
        counts, summary = self._counts, outcome.summary
        counts.add(COMPUTED, outcome.kind)
        counts.observe(CASE_SECONDS, total_s)
        counts.observe(QUEUE_SECONDS, self._queue_s)
        for step, taken_s in self._taken_s.items():
            counts.observe(STEP_SECONDS, taken_s, step)
        for found in summary.get("registrations", ()):
            counts.add(REGISTRATIONS, str(found.get("kind", "mr")), str(found["status"]))
        for target in summary.get("targets", ()):
            counts.add(TARGETS, str(target["status"]))
        for finding in summary.get("findings", ()):
            counts.add(FINDINGS, str(finding["severity"]))


def count_interruption(counts: Counts = COUNTS) -> None:
    """Count an attempt that left no outcome and comes again."""
    counts.add(PUT_OFF)
