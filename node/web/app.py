"""The application: guards first, then the routes of each part."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from node.case_job import software_version
from node.web.desk import Desk
from node.web.monitoring import monitoring_routes

STATIC = Path(__file__).parent / "static"


def make_app(desk: Desk) -> FastAPI:
    """Return the page and its API, as an application that a server runs."""
    app = FastAPI(
        title="Hilum",
        version=software_version(),
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(monitoring_routes(desk))
    return app
