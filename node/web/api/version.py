"""What answers."""

from fastapi import APIRouter

from node.case_job import software_version
from node.web.access.actor import Viewer
from node.web.api.documents import Document
from node.web.desk import Desk


class Version(Document):
    """What answers, who asks, and what they may do."""

    version: str
    ae_title: str
    actor: str
    role: str


def version_routes(desk: Desk) -> APIRouter:
    """Return the address that tells what answers."""
    routes = APIRouter()

    @routes.get("/version", summary="What answers")
    def version(actor: Viewer) -> Version:
        """Return the version of the node, its AE title, and as whom you ask."""
        return Version(
            version=software_version(),
            ae_title=desk.config.node.ae_title,
            actor=actor.name,
            role=str(actor.role),
        )

    return routes
