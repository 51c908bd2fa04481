"""The protocols as a page, and which of them objects fall under."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from node.web.access.actor import Viewer
from node.web.api.protocols import matches, patient_rows, protocol_rows
from node.web.desk import Desk
from node.web.pages.rendering import Pages

Text = Annotated[str, Query(max_length=200)]


def protocol_pages(desk: Desk, pages: Pages) -> APIRouter:
    """Return the page of protocols."""
    routes = APIRouter()

    @routes.get("/protocols", response_class=HTMLResponse)
    def protocols_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        text: Text = "",
        patient: Text = "",
    ) -> HTMLResponse:
        """Show every protocol; with `text` the patients it finds, with `patient` what matches."""
        protocols = [(row.name, list(setting_lines(row.settings))) for row in protocol_rows(desk)]
        return pages.page(
            request,
            "protocols.html",
            here="protocols",
            protocols=protocols,
            text=text,
            patients=patient_rows(desk, text) if text else (),
            patient=patient,
            structure_sets=matches(desk, patient) if patient else (),
        )

    return routes


def setting_lines(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Give every setting as key and text, keys of tables joined by dots.

    Example:
        >>> list(setting_lines({"a": {"b": 2.0}, "c": ["x", "y"], "d": None, "e": []}))
        [('a.b', '2'), ('c', 'x, y'), ('d', 'not set'), ('e', 'none')]
    """
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from setting_lines(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            for number, each in enumerate(value, start=1):
                yield from setting_lines(each, f"{name}[{number}].")
        else:
            yield name, _told(value)


def _told(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_told, value)) or "none"
    return str(value)
