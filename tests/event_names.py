"""Reads the log's events out of the program's own source."""

import ast
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGGERS = ("LOGGER", "_LOG")
LEVELS = {"exception": "ERROR"}


@dataclass
class Event:
    """One event: where it is logged at which levels, and fields that can be read off the source."""

    levels: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def events_in_code() -> dict[str, Event]:
    """Return the events by name."""
    found: dict[str, Event] = defaultdict(Event)
    for package in ("node", "handlers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if not any(f"{name}." in source for name in LOGGERS):
                continue
            for call in ast.walk(ast.parse(source)):
                if isinstance(call, ast.Call) and _is_logging(call):
                    _note(found, call, str(path.relative_to(ROOT)))
    return dict(found)


def _is_logging(call: ast.Call) -> bool:
    target = call.func
    return (
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id in LOGGERS
        and target.attr in ("debug", "info", "warning", "error", "exception", "critical")
    )


def _note(found: dict[str, Event], call: ast.Call, place: str) -> None:
    assert isinstance(call.func, ast.Attribute)
    level = LEVELS.get(call.func.attr, call.func.attr.upper())
    first = call.args[0]
    if isinstance(first, ast.IfExp):
        branches: list[ast.expr] = [first.body, first.orelse]
    else:
        branches = [first]
    for name in branches:
        assert isinstance(name, ast.Constant), f"{place}:{call.lineno}: an event has a fixed name"
        event = found[str(name.value)]
        event.levels.add(level)
        event.places.add(place)
        for keyword in call.keywords:
            if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
                keys = [key for key in keyword.value.keys if isinstance(key, ast.Constant)]
                event.fields |= {str(key.value) for key in keys}
