"""The last lines of this process's log."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from node.log import recent_lines
from node.web.access.actor import Viewer
from node.web.api.documents import Document

LevelName = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
SHOWN_LINES = 200
_OWN = ("line", "time", "level", "event", "logger")


class LogLine(Document):
    """A line of the log, without patient identifiers; `line` counts those of this process."""

    line: int
    time: str
    level: str
    event: str
    logger: str
    fields: dict[str, Any]


def log_lines(level: str = "INFO", text: str = "", limit: int = SHOWN_LINES) -> list[LogLine]:
    """Return the newest lines that fit, oldest of them first.

    Args:
        level: The least severity.
        text: What must stand in a line.
        limit: How many at most.
    """
    found = recent_lines(least_level=level, contains=text, limit=limit)
    return [
        LogLine(
            **{name: line[name] for name in _OWN},
            fields={name: value for name, value in line.items() if name not in _OWN},
        )
        for line in found
    ]


def log_routes() -> APIRouter:
    """Return the address of the log."""
    routes = APIRouter()

    @routes.get("/log", summary="Last lines of the log")
    def list_lines(
        actor: Viewer,  # noqa: ARG001
        level: LevelName = "INFO",
        text: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=2000)] = SHOWN_LINES,
    ) -> list[LogLine]:
        """Return the newest lines of the process that answers, oldest of them first."""
        return log_lines(level, text, limit)

    return routes
