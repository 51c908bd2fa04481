"""Associations that peers opened."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from node.index.association_lists import association_page
from node.web.access.actor import Viewer
from node.web.api.documents import Document, PageSize
from node.web.desk import Desk

PAGE = 50


class AssociationRow(Document):
    """An association; `outcome` is null while it is open."""

    id: int
    peer: str
    calling_ae: str
    address: str
    opened_at: datetime
    closed_at: datetime | None
    outcome: str | None
    objects: int


class AssociationList(Document):
    """A page of associations, newest first; `older` is to be given for the next one."""

    associations: tuple[AssociationRow, ...]
    older: int | None


def association_list(
    desk: Desk,
    *,
    peer: str = "",
    only_open: bool = False,
    older: int | None = None,
    size: int = PAGE,
) -> AssociationList:
    """Return a page of associations; arguments as of `association_page`."""
    page = association_page(desk.index, peer=peer, only_open=only_open, older=older, size=size)
    rows = tuple(AssociationRow.model_validate(line) for line in page.lines)
    return AssociationList(associations=rows, older=page.older)


def association_routes(desk: Desk) -> APIRouter:
    """Return the address of associations."""
    routes = APIRouter()

    @routes.get("/associations", summary="Associations, newest first")
    def list_associations(
        actor: Viewer,  # noqa: ARG001
        peer: Annotated[str, Query(max_length=32)] = "",
        open: bool = False,
        older: Annotated[int | None, Query(ge=1, le=2**62)] = None,
        size: PageSize = PAGE,
    ) -> AssociationList:
        """Return a page of the associations that peers opened; `open`: only those open now."""
        return association_list(desk, peer=peer, only_open=open, older=older, size=size)

    return routes
