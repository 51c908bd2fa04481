"""All addresses of the API, under `/api/v1`."""

from fastapi import APIRouter

from node.web.api.associations import association_routes
from node.web.api.case_actions import case_action_routes
from node.web.api.case_document import case_document_routes
from node.web.api.case_list import case_list_routes
from node.web.api.log_lines import log_routes
from node.web.api.peers import peer_routes
from node.web.api.processes import process_routes
from node.web.api.protocols import protocol_routes
from node.web.api.results import result_routes
from node.web.api.storage import StorageFigures, storage_routes
from node.web.api.version import version_routes
from node.web.desk import Desk

API = "/api/v1"


def api_routes(desk: Desk, figures: StorageFigures) -> APIRouter:
    """Return the API.

    Args:
        desk: What it is about.
        figures: Of storage, shared with the page.
    """
    routes = APIRouter(prefix=API)
    for tag, part in (
        ("cases", case_list_routes(desk)),
        ("cases", case_document_routes(desk)),
        ("results", result_routes(desk)),
        ("orders", case_action_routes(desk)),
        ("peers", peer_routes(desk)),
        ("node", storage_routes(figures)),
        ("protocols", protocol_routes(desk)),
        ("node", association_routes(desk)),
        ("node", log_routes()),
        ("node", process_routes(desk)),
        ("node", version_routes(desk)),
    ):
        routes.include_router(part, tags=[tag])
    return routes
