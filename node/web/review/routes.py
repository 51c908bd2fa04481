"""The addresses of the review view: its page, and the pictures and figures that it asks for.

Paths of files are made of what the index holds; what a request names only chooses among that.
"""

import gzip
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response, status
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from node.audit.events import AuditEvent, Kind
from node.index.computed import computed_revision
from node.web.access.actor import Viewer
from node.web.access.headers import sandboxed
from node.web.desk import Desk
from node.web.pages.rendering import Pages
from node.web.review.figures import figures_of
from node.web.review.remaking import Remaking
from node.web.review.shown import NotShownError, PlaneName, ShownRevision

PRIVATE = {"Cache-Control": "private, no-store"}
"""Pictures of patients stay in no cache."""

CaseId = Annotated[str, Path(max_length=32, description="As the list of cases tells it.")]
Revision = Annotated[
    int | None,
    Query(ge=1, le=1_000_000_000, description="Left out: the newest that has results."),
]
SeriesKey = Annotated[
    str,
    Path(
        pattern=r"^(ct|(mr|other|before|dose)[1-9][0-9]{0,2})$",
        description="`key` of a volume in the document of the review.",
    ),
]
RegistrationNumber = Annotated[int, Path(ge=1, le=999, description="As in the metrics, from 1.")]
PlaneIndex = Annotated[int, Path(ge=0, le=100_000, description="From 0; towards left, back, head.")]

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
RAW: dict[int | str, dict[str, Any]] = {
    200: {
        "content": _BYTES,
        "description": "Rows from the top left, int16 little-endian; `X-Rows` and `X-Columns`.",
    },
    304: {"description": "What the caller holds (`If-None-Match`) is still so."},
}


class PicturesState(BaseModel):
    """Whether the pictures of a revision are there.

    Attributes:
        state: `ready`; `absent`, and nobody asked for them; `waiting` or `working`: they are being
            made again; `failed`.
        reason: Why that failed; else empty.
    """

    state: Literal["ready", "absent", "waiting", "working", "failed"]
    reason: str = ""


def review_routes(desk: Desk, pages: Pages) -> APIRouter:
    """Return the routes of the review view."""
    routes = APIRouter(tags=["review"])

    def shown(case_id: CaseId, revision: Revision = None) -> ShownRevision:
        computed = computed_revision(desk.index, case_id, revision)
        if computed is None:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND, "nothing was computed under this case and revision"
            )
        return ShownRevision.of(desk.config, computed)

    wanted = Depends(shown)
    _add_page(routes, wanted, pages)
    _add_documents(routes, wanted, desk)
    _add_images(routes, wanted)
    _add_report_pictures(routes, wanted)
    _add_remaking(routes, wanted, Remaking(desk.config))
    return routes


def _add_page(routes: APIRouter, wanted: Any, pages: Pages) -> None:
    @routes.get("/cases/{case_id}/review", include_in_schema=False, response_class=HTMLResponse)
    def review_page(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        found: ShownRevision = wanted,
    ) -> HTMLResponse:
        """Show the review view."""
        try:
            figures = figures_of(found.metrics())
            pictures = found.registration_pictures()
        except NotShownError as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error
        return pages.page(
            request,
            "review.html",
            here="cases",
            computed=found.computed,
            figures=figures,
            pictures=pictures,
        )


def _add_documents(routes: APIRouter, wanted: Any, desk: Desk) -> None:
    @routes.get("/api/v1/cases/{case_id}/review")
    def review_document(
        request: Request,
        response: Response,
        actor: Viewer,
        found: ShownRevision = wanted,
    ) -> dict[str, Any]:
        """Return geometry, planes, volumes, targets and ROIs; 409 if the pictures are not there."""
        response.headers.update(PRIVATE)
        document = found.document()
        # whoever looks at pictures asks for this once before
        what = {"case_id": found.computed.case_id, "action": "review"}
        desk.audit(AuditEvent(Kind.ACCESSED, actor.name, request.state.address, "success", what))
        return document

    @routes.get("/api/v1/cases/{case_id}/contours", response_model=dict[str, Any])
    def contours(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        found: ShownRevision = wanted,
    ) -> Response:
        """Return the outlines of all ROIs in LPS mm: by ROI number, [slice, [x, y, z, ...]]."""
        packed, headers = found.contours(), dict(PRIVATE)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
        else:
            packed = gzip.decompress(packed)
        return Response(packed, media_type="application/json", headers=headers)

    @routes.get("/api/v1/cases/{case_id}/dvh")
    def dvh(
        response: Response,
        actor: Viewer,  # noqa: ARG001
        found: ShownRevision = wanted,
    ) -> dict[str, Any]:
        """Return what the metrics say of dose: histograms and limits of each plan, or null."""
        response.headers.update(PRIVATE)
        try:
            return found.dose()
        except NotShownError as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error


def _add_images(routes: APIRouter, wanted: Any) -> None:
    @routes.get(
        "/api/v1/cases/{case_id}/images/{series}/{plane}/{index}",
        response_class=Response,
        responses=RAW,
    )
    def image(
        request: Request,
        actor: Viewer,  # noqa: ARG001
        series: SeriesKey,
        plane: PlaneName,
        index: PlaneIndex,
        found: ShownRevision = wanted,
    ) -> Response:
        """Return one plane of a volume as stored values."""
        tag = f'"{found.stamp()}.{series}.{plane}.{index}"'
        headers = {**PRIVATE, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
        try:
            shown = found.plane(series, plane, index)
        except NotShownError as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error
        headers |= {"X-Rows": str(shown.shape[0]), "X-Columns": str(shown.shape[1])}
        return Response(shown.tobytes(), media_type="application/octet-stream", headers=headers)


def _add_report_pictures(routes: APIRouter, wanted: Any) -> None:
    @routes.get(
        "/api/v1/cases/{case_id}/registrations/{number}/picture",
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {}}}},
    )
    def registration_picture(
        actor: Viewer,  # noqa: ARG001
        number: RegistrationNumber,
        found: ShownRevision = wanted,
    ) -> Response:
        """Return checkerboard and contour transfer of a registration, as in the report."""
        picture = found.registration_pictures().get(number)
        if picture is None:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND, "the report has no picture of that registration"
            )
        headers = {**PRIVATE, **sandboxed()}
        return Response(picture.svg, media_type="image/svg+xml", headers=headers)


def _add_remaking(routes: APIRouter, wanted: Any, remaking: Remaking) -> None:
    @routes.get("/api/v1/cases/{case_id}/pictures")
    def pictures(
        actor: Viewer,  # noqa: ARG001
        found: ShownRevision = wanted,
    ) -> PicturesState:
        """Tell whether the pictures of a revision are there, or being made."""
        if found.has_pictures():
            return PicturesState(state="ready")
        made = remaking.state(found)
        return PicturesState(state=made.state, reason=made.reason)

    @routes.post("/api/v1/cases/{case_id}/pictures", status_code=status.HTTP_202_ACCEPTED)
    def make_pictures(
        actor: Viewer,  # noqa: ARG001
        found: ShownRevision = wanted,
    ) -> PicturesState:
        """Have the pictures of a revision made again; nothing else of it changes."""
        if found.has_pictures():
            return PicturesState(state="ready")
        made = remaking.want(found)
        return PicturesState(state=made.state, reason=made.reason)
