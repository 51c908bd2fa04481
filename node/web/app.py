"""The application: guards first, then the routes of each part."""

from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

from node.case_job import software_version
from node.web.access.guard import guard
from node.web.access.login import login_routes
from node.web.access.problems import EVERY_ROUTE, Problem, ProblemTeller
from node.web.api.routes import api_routes
from node.web.api.storage import StorageFigures
from node.web.assets import STATIC
from node.web.desk import Desk
from node.web.monitoring import monitoring_routes
from node.web.pages.rendering import Pages
from node.web.pages.routes import page_routes
from node.web.review.routes import review_routes


def make_app(desk: Desk) -> FastAPI:
    """Return the page and its API, as an application that a server runs."""
    app = FastAPI(
        title="Hilum",
        version=software_version(),
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would lead to whatever host the request names
        responses=EVERY_ROUTE,
    )
    pages = Pages(desk)
    teller = ProblemTeller(partial(_error_page, pages))
    teller.install(app)
    guard(app, desk, teller)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(login_routes(desk, pages))
    app.include_router(monitoring_routes(desk))
    figures = StorageFigures(desk)
    app.include_router(api_routes(desk, figures))
    app.include_router(page_routes(desk, pages, figures))
    app.include_router(review_routes(desk, pages))
    return app


def _error_page(pages: Pages, request: Request, problem: Problem) -> Response:
    return pages.page(request, "error.html", status_code=problem.status, problem=problem)
