"""Log lines: one event name and its fields, as JSON or as text, without patient identifiers.

Our own code never logs an identifier. Three nets lie beneath it: values that were remembered as
identifiers are masked wherever they occur; the text of foreign exceptions is left out, because it
may quote a value (their type and place remain); so is the text of what pydicom says. Configures
the standard `logging` and writes no file; the last lines are kept in memory (`recent_lines`).

Usage: `LOGGER.info("association.closed", extra={"outcome": "released"})`.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from handlers.errors import HandlerError
from node.errors import NodeError
from node.recent_lines import RecentLines

LOGGER = logging.getLogger(__name__)

CASE_ID: ContextVar[str | None] = ContextVar("case_id", default=None)
"""The case that the current work is for; every log line names it."""

MASK = "***"
"""Stands where an identifier stood."""

REMEMBERED_IDENTIFIERS = 4096
"""How many identifiers are masked at most; the oldest are forgotten first."""

SHORTEST_MASKED = 4
"""Shorter parts of names and shorter identifiers are not masked: they occur in ordinary words."""

OUR_LOGGERS = ("node", "handlers", "hilum")
QUIET_LOGGERS = ("pynetdicom", "pydicom", "highdicom", "sqlalchemy", "apscheduler", "dbos")
"""Foreign loggers whose chatter is kept below WARNING."""

_WITHHELD_LOGGERS = ("pydicom", "highdicom", "py.warnings")
_WORD = re.compile(r"\w+")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, other ends of lines, and marks that turn the direction of writing."""

_OUR_ERRORS = (NodeError, HandlerError)
_STANDARD_FIELDS = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)) | {"message": 0, "asctime": 0}
)


@contextmanager
def case_context(case_id: str) -> Iterator[None]:
    """Let every log line of the work within name the case."""
    token = CASE_ID.set(case_id)
    try:
        yield
    finally:
        CASE_ID.reset(token)


class IdentifierMask:
    """Remembers patient names, identifiers and birth dates, and masks them in text."""

    def __init__(self, capacity: int = REMEMBERED_IDENTIFIERS) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._by_beginning: dict[tuple[str, ...], set[str]] = {}
        """What is known by its first two words: no text is compared with all of it."""

    def remember(self, *values: str) -> None:
        """Mask these values from now on; of a name, also each of its components."""
        parts = {part for value in values for part in (value, *re.split(r"[\^=\s]+", value))}
        new = {part.strip().lower() for part in parts if len(part.strip()) >= SHORTEST_MASKED}
        with self._lock:
            if new <= self._known.keys():
                return
            self._known.update(dict.fromkeys(new))
            for known in new:
                self._by_beginning.setdefault(_beginning(known), set()).add(known)
            while len(self._known) > self._capacity:
                self._forget(self._known.popitem(last=False)[0])

    def _forget(self, known: str) -> None:
        beginning = _beginning(known)
        alike = self._by_beginning[beginning]
        alike.remove(known)
        if not alike:
            del self._by_beginning[beginning]

    def masked(self, text: str) -> str:
        """Return the text without what was remembered."""
        lowered = text.lower()
        words = _WORD.findall(lowered)
        places = {(), *((word,) for word in words), *pairwise(words)}
        with self._lock:
            begun = [self._by_beginning[place] for place in places & self._by_beginning.keys()]
            found = [known for alike in begun for known in alike if known in lowered]
        if not found:
            return text
        # of those that occur: a pattern of all takes milliseconds, and `re` keeps hundreds
        inner = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        # a number within a UID or a longer word is not the identifier
        pattern = re.compile(rf"(?<![\w.])(?:{inner})(?!\w|\.\w)", re.IGNORECASE)
        return pattern.sub(MASK, text)

    def masked_value(self, value: Any) -> Any:
        """Return a field's value without what was remembered, in a form that JSON can hold."""
        if isinstance(value, str):
            return self.masked(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.masked(str(k)): self.masked_value(v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.masked_value(item) for item in value]
        return self.masked(str(value))


def _beginning(known: str) -> tuple[str, ...]:
    """Return the first two words of what is masked, or one, or none if it begins otherwise.

    Whoever is masked stands in a text as whole words, so these words stand there as well.
    """
    words = _WORD.findall(known)[:2]
    return tuple(words) if _WORD.match(known) else ()


IDENTIFIERS = IdentifierMask()
"""The process's mask: whoever reads an object's header tells it the patient's values."""


class LineFormatter(logging.Formatter):
    """Turns a record into one line.

    Args:
        as_json: JSON, or `time level event key=value` for people.
        mask: What hides identifiers.
    """

    def __init__(self, *, as_json: bool, mask: IdentifierMask) -> None:
        super().__init__()
        self._as_json = as_json
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = self.fields(record)
        if self._as_json:
            return _seen(json.dumps(fields, ensure_ascii=False))
        time, level, event = fields.pop("time"), fields.pop("level"), fields.pop("event")
        trace = fields.pop("traceback", [])
        pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
        line = " ".join((time, f"{level:<7}", event, *pairs))
        return "\n".join(map(_seen, [line, *trace]))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what the line says, without identifiers, in a form that JSON can hold."""
        found: dict[str, Any] = self._mask.masked_value(_fields(record))
        return found


def _seen(line: str) -> str:
    """Return a line with what could steer a terminal, or feign a line, as JSON escapes it."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], line)


_RECENT_FORMATTER = LineFormatter(as_json=True, mask=IDENTIFIERS)
RECENT = RecentLines(_RECENT_FORMATTER.fields)
"""The process's last lines."""


def recent_lines(
    *, least_level: str = "DEBUG", contains: str = "", limit: int = 200
) -> list[dict[str, Any]]:
    """Return the newest lines of this process that fit, oldest first; see `RecentLines.lines`."""
    return RECENT.lines(least_level=least_level, contains=contains, limit=limit)


def configure_logging(
    level: str = "INFO", as_json: bool = True, stream: TextIO | None = None
) -> None:
    """Send every log line of the process to stderr; may be called again.

    Args:
        level: Of our own lines; those of libraries begin at WARNING.
        as_json: JSON lines, or text for people.
        stream: Another place than stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json, mask=IDENTIFIERS))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, LineFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.addHandler(RECENT)
    root.setLevel(logging.WARNING)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level)
    for name in QUIET_LOGGERS:
        foreign = logging.getLogger(name)
        foreign.setLevel(logging.WARNING)
        foreign.propagate = True
        foreign.handlers.clear()  # pydicom brings a handler of its own that knows no mask
    logging.captureWarnings(True)
    threading.excepthook = _log_dead_thread


def _log_dead_thread(failure: threading.ExceptHookArgs) -> None:
    """Log what ended a thread; Python itself would print the exception's text."""
    name = failure.thread.name if failure.thread is not None else ""
    error = failure.exc_value
    extra = {"thread_name": name}
    LOGGER.error("thread.died", exc_info=error, extra=extra)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    is_withheld = record.name.startswith(_WITHHELD_LOGGERS)
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "event": "text withheld" if is_withheld else record.getMessage(),
        "logger": record.name,
    }
    if is_withheld:
        fields["place"] = _place_of(record)
    case_id = CASE_ID.get()
    if case_id is not None:
        fields["case_id"] = case_id
    fields.update((k, v) for k, v in vars(record).items() if k not in _STANDARD_FIELDS)
    if record.exc_info and record.exc_info[1] is not None:
        fields["traceback"] = _traceback_lines(record.exc_info[1])
    return fields


def _place_of(record: logging.LogRecord) -> str:
    """Return file and line; a captured warning's text begins with those of the warning itself."""
    if record.name != "py.warnings":
        return f"{record.filename}:{record.lineno}"
    found = re.match(r"(?P<file>[^\n]*?):(?P<line>\d+): (?P<category>\w+)", record.getMessage())
    if found is None:
        return "unknown"
    return f"{Path(found['file']).name}:{found['line']} {found['category']}"


def _traceback_lines(error: BaseException) -> list[str]:
    """Return types and places; the text only of our own errors, which hold no identifier."""
    lines: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        text = type(current).__qualname__
        if isinstance(current, _OUR_ERRORS):
            text += f": {current}"
        elif isinstance(current, OSError) and current.errno is not None:
            text += f": errno {current.errno}, {current.strerror}"
        frames = traceback.extract_tb(current.__traceback__)
        lines.append(text)
        lines += [f"  {Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
        current = current.__cause__ or current.__context__
    return lines
