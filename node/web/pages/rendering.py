"""Templates and what all of them are given."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from node.case_job import software_version
from node.web.access.actor import Actor, WebRole
from node.web.assets import own_stamp
from node.web.desk import Desk
from node.web.pages.tones import TONES

TEMPLATES = Path(__file__).parent.parent / "templates"

PLACES = (
    ("cases", "/", "Cases"),
    ("peers", "/peers", "Peers"),
    ("storage", "/storage", "Storage"),
    ("protocols", "/protocols", "Protocols"),
    ("associations", "/associations", "Associations"),
    ("log", "/log", "Log"),
)
"""What the navigation leads to: key, address, name."""

_MINUTE = "%Y-%m-%d %H:%M"


class Pages:
    """Makes pages from the templates, in the frame that all of them share.

    Args:
        desk: What the pages are about.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["tones"] = TONES
        self._environment.globals["assets"] = own_stamp()
        self._environment.filters.update(
            minute=_minute, age=self._age, number=_number, size=size_text, count=count_text
        )

    def page(
        self,
        request: Request,
        template: str,
        *,
        here: str = "",
        told: tuple[Literal["good", "bad"], str] | None = None,
        status_code: int = 200,
        **content: Any,
    ) -> HTMLResponse:
        """Return a page.

        Args:
            request: Which page is asked for, and by whom.
            template: Name of the template; it extends `frame.html`.
            here: Key of the place in the navigation that is marked as the present one.
            told: What is said at the top: good or bad, and a sentence.
            status_code: Of the answer.
            content: What the template shows.
        """
        actor = getattr(request.state, "actor", None)
        found = self._environment.get_template(template)
        text = found.render(
            ae_title=self._desk.config.node.ae_title,
            version=software_version(),
            places=PLACES,
            here=here,
            actor=actor,
            may_operate=isinstance(actor, Actor) and actor.role is WebRole.OPERATE,
            has_session=bool(getattr(request.state, "has_session", False)),
            csrf_token=getattr(request.state, "csrf_token", ""),
            told=None if told is None else {"kind": told[0], "text": told[1]},
            **content,
        )
        return HTMLResponse(text, status_code=status_code)

    def _age(self, at: datetime | str | None) -> str:
        """Return how long ago something was, for people."""
        if not at:
            return ""
        then = datetime.fromisoformat(at) if isinstance(at, str) else at
        return age_text((self._desk.clock() - then).total_seconds())


def age_text(seconds: float) -> str:
    """Return a length of time in one unit, as it is told in lists.

    Example:
        >>> age_text(59.9), age_text(3 * 3600 + 59), age_text(-5)
        ('59 s', '3 h', '0 s')
    """
    left = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if left >= size:
            return f"{left // size} {unit}"
    return f"{left} s"


def size_text(size_bytes: float | None) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_text(512), size_text(5.5 * 1024**2), size_text(None)
        ('512 B', '5.5 MiB', '')
    """
    if size_bytes is None:
        return ""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def count_text(number: int | None) -> str:
    """Return a whole number with its thousands apart.

    Example:
        >>> count_text(1234567).split()
        ['1', '234', '567']
    """
    return "" if number is None else f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def _minute(at: datetime | str | None) -> str:
    """Return a time in UTC, to the minute."""
    if not at:
        return ""
    then = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{then.astimezone(UTC).strftime(_MINUTE)} UTC"


def _number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of digits, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"
