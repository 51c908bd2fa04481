"""All pages; they are no part of the API's description."""

from fastapi import APIRouter

from node.web.api.storage import StorageFigures
from node.web.desk import Desk
from node.web.pages.case import case_pages
from node.web.pages.cases import case_list_pages
from node.web.pages.node_pages import node_pages
from node.web.pages.protocols import protocol_pages
from node.web.pages.rendering import Pages


def page_routes(desk: Desk, pages: Pages, figures: StorageFigures) -> APIRouter:
    """Return the pages.

    Args:
        desk: What they are about.
        pages: Makes them.
        figures: Of storage, shared with the API.
    """
    routes = APIRouter(include_in_schema=False)
    routes.include_router(case_list_pages(desk, pages))
    routes.include_router(case_pages(desk, pages))
    routes.include_router(node_pages(desk, pages, figures))
    routes.include_router(protocol_pages(desk, pages))
    return routes
