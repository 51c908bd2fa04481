"""Which processes work for the node, and which version of the program each runs."""

from datetime import datetime

from fastapi import APIRouter

from node.index.heartbeats import Heartbeats
from node.membership import versions_at_work
from node.web.access.actor import Viewer
from node.web.api.documents import Document
from node.web.desk import Desk


class ProcessRow(Document):
    """A process, by its last sign of life; `alive`: it gave one within the limit."""

    name: str
    role: str
    host: str
    version: str
    beat_at: datetime
    alive: bool


class Processes(Document):
    """All of them; `versions`: those that work now, more than one during an upgrade."""

    processes: tuple[ProcessRow, ...]
    versions: tuple[str, ...]


def process_rows(desk: Desk) -> Processes:
    """Return who works for the node."""
    limit_s, now = desk.config.node.heartbeat_limit_s, desk.clock()
    signs = Heartbeats(desk.index).signs()
    working = versions_at_work(signs, now, limit_s)
    alive = {name for names in working.values() for name in names}
    return Processes(
        processes=tuple(
            ProcessRow(
                name=sign.identity.name,
                role=sign.identity.role,
                host=sign.identity.host,
                version=sign.identity.version,
                beat_at=sign.beat_at,
                alive=sign.identity.name in alive,
            )
            for sign in signs
        ),
        versions=tuple(working),
    )


def process_routes(desk: Desk) -> APIRouter:
    """Return the address that tells who works."""
    routes = APIRouter()

    @routes.get("/processes", summary="Who works for the node, and which version each runs")
    def processes(actor: Viewer) -> Processes:  # noqa: ARG001
        """Return the processes by name, and the versions that work now."""
        return process_rows(desk)

    return routes
