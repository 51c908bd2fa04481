"""`/health`, `/ready` and `/metrics`: what a supervisor asks, without logging in.

`/health` and `/ready` are open to everybody: they say what is stuck and hold no secret. `/metrics`
is open on this machine and to `web.metrics_open_to`; who else asks needs a token or a login.
"""

import ipaddress
from typing import Literal

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, status
from pydantic import BaseModel

from node.case_job import software_version
from node.monitoring.collector import CONTENT_TYPE, NodeCollector, make_registry, metrics_text
from node.web.access.actor import Actor
from node.web.desk import Desk
from node.web.section import WebSection

METRICS = "/metrics"


class Health(BaseModel):
    """Whether the process lives."""

    status: Literal["alive", "stuck"]
    troubles: dict[str, str]


class Readiness(BaseModel):
    """Whether the process takes work."""

    status: Literal["ready", "not ready"]
    troubles: dict[str, str]


def monitoring_routes(desk: Desk) -> APIRouter:
    """Return the routes that tell how the process fares."""
    routes = APIRouter(tags=["monitoring"])
    vitals = desk.vitals
    registry = make_registry(NodeCollector(desk.config, desk.index, desk.clock, vitals))

    @routes.get("/health", response_model=Health, responses={503: {"model": Health}})
    def health(response: Response) -> Health:
        """Tell that this process answers and that its threads come round."""
        troubles = vitals.troubles_of_life()
        if troubles:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Health(status="stuck" if troubles else "alive", troubles=troubles)

    @routes.get("/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    def ready(response: Response) -> Readiness:
        """Tell that this process takes objects, or computes: else send them elsewhere for now."""
        troubles = vitals.troubles()
        if troubles:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Readiness(status="not ready" if troubles else "ready", troubles=troubles)

    @routes.get(
        METRICS,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
    )
    def metrics(request: Request) -> Response:
        """Tell everything that is measured, in the text format of Prometheus."""
        client = request.client
        if not isinstance(getattr(request.state, "actor", None), Actor) and not may_read_metrics(
            getattr(request.state, "address", client.host if client else ""), desk.config.web
        ):
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "give a token, or let this address in with web.metrics_open_to",
            )
        return Response(metrics_text(registry), media_type=CONTENT_TYPE)

    return routes


def may_read_metrics(address: str, section: WebSection) -> bool:
    """Tell whether an address may read the metrics without login.

    This machine may, unless a reverse proxy stands before us: then everybody may seem to be here.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.is_loopback and not section.behind_proxy:
        return True
    return any(found in ipaddress.ip_network(network) for network in section.metrics_open_to)


def make_monitoring_app(desk: Desk) -> FastAPI:
    """Return the three routes alone: for a process that has no page."""
    app = FastAPI(title="Hilum", version=software_version(), openapi_url=None)
    app.include_router(monitoring_routes(desk))
    return app
