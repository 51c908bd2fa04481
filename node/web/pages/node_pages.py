"""The pages about the node itself: peers, storage, associations, log."""

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from node.web.access.actor import Operator, Viewer
from node.web.api.associations import association_list
from node.web.api.documents import PeerName
from node.web.api.log_lines import log_lines
from node.web.api.peers import echo_now, peer_rows, resume_peer
from node.web.api.processes import process_rows
from node.web.api.storage import StorageFigures
from node.web.desk import Desk
from node.web.pages.rendering import Pages

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_TOLD: Mapping[str, tuple[Literal["good", "bad"], str]] = {
    "echoed": ("good", "The peer was asked; its line says what it answered."),
    "resumed": ("good", "The peer is tried again: what waits for it goes at once."),
}

Text = Annotated[str, Query(max_length=200)]


def node_pages(desk: Desk, pages: Pages, figures: StorageFigures) -> APIRouter:
    """Return the pages about the node."""
    routes = APIRouter()
    _add_peers(routes, desk, pages)
    _add_associations(routes, desk, pages)

    @routes.get("/storage", response_class=HTMLResponse)
    def storage_page(request: Request, actor: Viewer) -> HTMLResponse:  # noqa: ARG001
        """Show what room there is, and who works in it."""
        return pages.page(
            request,
            "storage.html",
            here="storage",
            storage=figures.storage(),
            work=process_rows(desk),
        )

    @routes.get("/log", response_class=HTMLResponse)
    def log_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        level: Text = "INFO",
        text: Text = "",
    ) -> HTMLResponse:
        """Show the last lines of the log."""
        level = level if level in LEVELS else "INFO"
        lines = log_lines(level, text)
        return pages.page(
            request, "log.html", here="log", lines=lines, levels=LEVELS, level=level, text=text
        )

    return routes


def _add_peers(routes: APIRouter, desk: Desk, pages: Pages) -> None:
    @routes.get("/peers", response_class=HTMLResponse)
    def peers_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        told: Annotated[str, Query(max_length=32)] = "",
    ) -> HTMLResponse:
        """Show how the peers fare."""
        return pages.page(
            request,
            "peers.html",
            here="peers",
            told=_TOLD.get(told),
            peers=peer_rows(desk),
            echo_every_min=desk.config.node.echo_every_min,
        )

    @routes.post("/peers/{peer}/echo")
    def echo(peer: PeerName, actor: Operator) -> RedirectResponse:  # noqa: ARG001
        echo_now(desk, peer)
        return RedirectResponse(f"/peers?told=echoed#{peer}", 303)

    @routes.post("/peers/{peer}/resume")
    def resume(peer: PeerName, actor: Operator) -> RedirectResponse:  # noqa: ARG001
        resume_peer(desk, peer)
        return RedirectResponse(f"/peers?told=resumed#{peer}", 303)


def _add_associations(routes: APIRouter, desk: Desk, pages: Pages) -> None:
    @routes.get("/associations", response_class=HTMLResponse)
    def associations_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        peer: Text = "",
        older: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    ) -> HTMLResponse:
        """Show associations: those open now, and those that were."""
        recent = association_list(desk, peer=peer, older=older)
        kept = {"peer": peer} if peer else {}
        return pages.page(
            request,
            "associations.html",
            here="associations",
            opened=association_list(desk, peer=peer, only_open=True, size=200).associations,
            recent=recent.associations,
            peer=peer,
            peers=[each.name for each in desk.config.peer],
            older=f"/associations?{urlencode({**kept, 'older': recent.older})}"
            if recent.older
            else "",
            is_first=older is None,
        )
