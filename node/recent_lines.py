"""The last lines of the log, in memory, for whoever looks at the page.

A ring: what is older than `KEPT_LINES` lines is forgotten here, not in the log itself. The lines
are those of the log, identifiers masked.
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

KEPT_LINES = 2000

LONGEST_CHARACTERS = 4000
"""Characters of a line beyond which its traceback is left out: the log itself has it."""


class RecentLines(logging.Handler):
    """Keeps the last lines; safe for many threads.

    Args:
        fields_of: Makes a line's fields of a record, masked and fit for JSON.
        capacity: How many lines are kept.
    """

    def __init__(
        self,
        fields_of: Callable[[logging.LogRecord], dict[str, Any]],
        capacity: int = KEPT_LINES,
    ) -> None:
        super().__init__()
        self._fields_of = fields_of
        self._kept: deque[dict[str, Any]] = deque(maxlen=capacity)
        self._guard = threading.Lock()
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        fields = self._fields_of(record)
        if len(str(fields)) > LONGEST_CHARACTERS:
            fields.pop("traceback", None)
        with self._guard:
            self._count += 1
            self._kept.append({**fields, "line": self._count})

    def lines(
        self, *, least_level: str = "DEBUG", contains: str = "", limit: int = 200
    ) -> list[dict[str, Any]]:
        """Return the newest lines that fit, oldest of them first.

        Args:
            least_level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
            contains: Text that must stand in the line, whatever its case.
            limit: How many at most.

        Returns:
            Fields by name: `line` counts the lines of this process, `time` is ISO 8601 in UTC,
            `level`, `event` and `logger` are always there.
        """
        least = logging.getLevelNamesMapping().get(least_level.upper(), logging.DEBUG)
        wanted = contains.lower()
        with self._guard:
            kept = list(self._kept)
        fitting = (line for line in reversed(kept) if _is_wanted(line, least, wanted))
        return list(islice(fitting, max(0, limit)))[::-1]


def _is_wanted(line: Mapping[str, Any], least: int, wanted: str) -> bool:
    level = logging.getLevelNamesMapping().get(line["level"], logging.CRITICAL)
    return level >= least and (not wanted or wanted in json.dumps(line, ensure_ascii=False).lower())
