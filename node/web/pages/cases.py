"""The list of cases as a page."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from handlers.values import Severity
from node.index.case_lists import CaseFilter, UnknownPlaceError
from node.index.states import CaseState
from node.web.access.actor import Viewer
from node.web.api.case_list import case_list
from node.web.desk import Desk
from node.web.pages.rendering import Pages

Text = Annotated[str, Query(max_length=200)]


def case_list_pages(desk: Desk, pages: Pages) -> APIRouter:
    """Return the page of the list."""
    routes = APIRouter()

    @routes.get("/", response_class=HTMLResponse)
    def cases_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        state: Text = "",
        protocol: Text = "",
        severity: Text = "",
        peer: Text = "",
        text: Text = "",
        older: Text = "",
    ) -> HTMLResponse:
        """Show a page of the cases that fit; what no filter knows leaves all."""
        known = next((each for each in CaseState if each == state), None)
        shown = CaseFilter(known, protocol, severity, peer, text)
        try:
            found = case_list(desk, shown, older or None)
        except UnknownPlaceError:
            found = case_list(desk, shown)
        wanted = {
            "text": text,
            "state": known or "",
            "protocol": protocol,
            "severity": severity,
            "peer": peer,
        }
        kept = {name: value for name, value in wanted.items() if value}
        return pages.page(
            request,
            "cases.html",
            here="cases",
            found=found,
            wanted=wanted,
            is_filtered=bool(kept),
            is_first=not older,
            newest=f"/?{urlencode(kept)}",
            older=f"/?{urlencode({**kept, 'older': found.older})}" if found.older else "",
            states=list(CaseState),
            protocols=[each.name for each in desk.config.protocol],
            severities=list(Severity),
            peers=[each.name for each in desk.config.peer],
        )

    return routes
