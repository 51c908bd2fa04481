"""The last part of retention: cases lose their names, and go, when nothing else is left of them.

As `[retention]` says: `keep_names_days`, `keep_cases_days`. Names stand in objects and results,
too, so they go with those at the earliest. The audit trail has a time of its own
(`audit.keep_days`).
"""

import logging
from contextlib import suppress
from datetime import datetime, timedelta

from node.audit.events import AuditEvent, Kind, Tell
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, RESULTS_FOLDER
from node.config import Config
from node.index import Index
from node.index.forgetting import ForgettingBook, Forgotten

LOGGER = logging.getLogger(__name__)

MOST_AT_ONCE = 100
"""So many patients are forgotten in one round at most."""

MOST_COUNTED = 100_000


class Forgetting:
    """Forgets what the configuration allows.

    Args:
        config: `[retention]`, and the data folder.
        index: Of the node.
        audit: The audit trail.
    """

    def __init__(self, config: Config, index: Index, audit: Tell) -> None:
        self._section = config.retention
        self._data = config.node.data
        self._book = ForgettingBook(index)
        self._audit = audit

    def due(self, now: datetime) -> tuple[int, int]:
        """Return of how many patients names may go now, and of how many the cases."""
        names, cases = self._before(now)
        return (
            0 if names is None else len(self._book.names_due(names, MOST_COUNTED)),
            0 if cases is None else len(self._book.cases_due(cases, MOST_COUNTED)),
        )

    def run(self, now: datetime) -> tuple[dict[str, int], bool]:
        """Forget what is due, a bounded part of it.

        Returns:
            Of how many cases the names went ("names"), and how many went ("cases"), where any did;
            and whether more is due.
        """
        names, cases = self._before(now)
        counts = {"names": 0, "cases": 0}
        is_more_due = False
        if cases is not None:
            due = self._book.cases_due(cases, MOST_AT_ONCE)
            is_more_due |= len(due) == MOST_AT_ONCE
            for key in due:
                if found := self._book.forget_cases(key, cases):
                    self._tell(found, "D", "case removed by age")
                    self._remove_figures(found)
                    counts["cases"] += len(found.revisions)
        if names is not None:
            due = self._book.names_due(names, MOST_AT_ONCE)
            is_more_due |= len(due) == MOST_AT_ONCE
            for key in due:
                if found := self._book.forget_names(key, names, now):
                    self._tell(found, "U", "names removed by age")
                    counts["names"] += len(found.revisions)
        if any(counts.values()):
            told = {f"removed_{what}": count for what, count in counts.items()}
            LOGGER.info("retention.forgotten", extra=told)
        self._remove_old_copies(now)
        return {what: count for what, count in counts.items() if count}, is_more_due

    def _before(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """Return before when a case must have changed last to lose its names, and to go."""

        def before(days: float | None) -> datetime | None:
            return None if days is None else now - timedelta(days=days)

        return before(self._section.keep_names_days), before(self._section.keep_cases_days)

    def _tell(self, found: Forgotten, event_action: str, action: str) -> None:
        for case_id in found.revisions:
            what = {"case_id": case_id, "patient_key": found.patient_key, "action": action}
            what["event_action"] = event_action
            self._audit(AuditEvent(Kind.CASE_CHANGED, what=what))

    def _remove_figures(self, found: Forgotten) -> None:
        """Remove what retention leaves of result sets: their figures, and empty folders.

        A revision that begins meanwhile has another folder: a file is removed by its name only.
        """
        for case_id, revisions in found.revisions.items():
            folder = self._data / RESULTS_FOLDER / case_id
            for revision in revisions:
                out = folder / str(revision) / OUTPUT_FOLDER
                (out / METRICS_FILE).unlink(missing_ok=True)
                for empty in (out, out.parent):
                    with suppress(OSError):
                        empty.rmdir()
            with suppress(OSError):
                folder.rmdir()

    def _remove_old_copies(self, now: datetime) -> None:
        """Remove the copy of an earlier version's index, in which all names still stand."""
        times = [before for before in self._before(now) if before is not None]
        if not times:
            return
        for copy in self._data.glob("index.sqlite.version-*"):
            with suppress(FileNotFoundError):
                if copy.stat().st_mtime < max(times).timestamp():
                    copy.unlink()
                    LOGGER.info("retention.copy_removed", extra={"path": copy.name})
