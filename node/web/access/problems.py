"""How something that went wrong is told: a page for people, problem JSON (RFC 9457) for programs.

Tells a sentence of ours and never what was sent: input may hold identifiers, and comes from anyone.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from node.errors import NodeError, StorageFullError
from node.web.access.calls import wants_page

LOGGER = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"

PageMaker = Callable[[Request, "Problem"], Response]


class Problem(BaseModel):
    """What went wrong with a request (RFC 9457).

    Attributes:
        title: The status in words.
        status: HTTP status.
        detail: What was wrong, in a sentence.
        hint: What to do about it; may be empty.
    """

    title: str
    status: int
    detail: str
    hint: str = ""


_TOLD = {
    400: "the request cannot be understood",
    401: "nobody is logged in, or the token does not count",
    403: "this actor may not do that",
    404: "there is no such thing",
    405: "not with this method",
    409: "not in the present state",
    413: "the request is too large",
    415: "not in this form",
    421: "the host that is asked for is not this one",
    422: "a parameter cannot be used",
    429: "too many attempts",
    503: "not now: the disk is full, or too much is asked at once",
}

EVERY_ROUTE: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status, text in _TOLD.items()
}
"""What any route may answer beside its own: for the description of the API."""


def problem_of(status: int, detail: str, hint: str = "") -> Problem:
    """Return a problem; without a sentence of its own it is told in that of its status."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    told = detail if detail and detail != title else _TOLD.get(status, title.lower())
    return Problem(title=title, status=status, detail=told, hint=hint)


class ProblemTeller:
    """Answers requests that went wrong.

    Args:
        page: Makes the page for people.
    """

    def __init__(self, page: PageMaker) -> None:
        self._page = page

    def answer(
        self, request: Request, problem: Problem, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return a problem in the form that whoever asks can read."""
        if wants_page(request.headers, request.url.path):
            found = self._page(request, problem)
            found.headers.update(headers or {})
            return found
        return JSONResponse(
            problem.model_dump(), problem.status, headers=headers, media_type=PROBLEM_TYPE
        )

    def unforeseen(self, request: Request, error: Exception) -> Response:
        """Return the answer to a request that met an error of ours, and log its place alone."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        LOGGER.error(
            "web.internal_error",
            extra={
                "error": type(error).__name__,
                "place": f"{Path(place.filename).name}:{place.lineno}",
                "route": route_of(request),
            },
        )
        text = "something went wrong in here; the log has its place (web.internal_error)"
        return self.answer(request, problem_of(500, text))

    def install(self, app: FastAPI) -> None:
        """Let the application tell its errors so."""

        @app.exception_handler(HTTPException)
        def refused(request: Request, error: HTTPException) -> Response:
            problem = problem_of(error.status_code, str(error.detail))
            return self.answer(request, problem, error.headers)

        @app.exception_handler(RequestValidationError)
        def unusable(request: Request, error: RequestValidationError) -> Response:
            return self.answer(request, problem_of(422, _wrong_parameters(error)))

        @app.exception_handler(NodeError)
        def impossible(request: Request, error: NodeError) -> Response:
            status = 503 if isinstance(error, StorageFullError) else 409
            return self.answer(request, problem_of(status, str(error), error.hint))


def route_of(request: Request) -> str:
    """Return the pattern of the address that was asked for: it holds nothing that was typed."""
    return str(getattr(request.scope.get("route"), "path", "unknown"))


def _wrong_parameters(error: RequestValidationError) -> str:
    """Return which parameters are wrong and why, without what they held."""
    told = []
    for item in error.errors():
        where, *names = [str(part) for part in item["loc"]]
        is_ours = where in ("path", "query") and names and item["type"] != "extra_forbidden"
        name = f"{where} parameter {names[0]!r}" if is_ours else f"the {where} of the request"
        told.append(f"{name}: {_REASONS.get(item['type'], 'is not of the form that is wanted')}")
    return "; ".join(dict.fromkeys(told))


_REASONS = {
    "missing": "is missing",
    "string_too_long": "is too long",
    "string_too_short": "is too short",
    "int_parsing": "is no whole number",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "enum": "is none of the known values",
    "literal_error": "is none of the known values",
}
