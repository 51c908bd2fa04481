"""One case as a page, and what can be ordered there."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from node.audit.events import AuditEvent, Kind
from node.compute_job import REPORT_FILES, REPORT_PAGE
from node.index.case_stories import patient_key_of_case
from node.index.states import UNSETTLED, CaseState
from node.web.access.actor import Operator, Viewer
from node.web.api.case_actions import orders_of
from node.web.api.case_document import CaseDocument, case_document, metrics_of
from node.web.api.documents import CaseId, PeerName
from node.web.api.results import ResultFile, result_files, result_paths
from node.web.desk import Desk
from node.web.pages.rendering import Pages
from node.web.review.figures import figures_of
from node.web.review.report_pictures import ReportPicture, registration_pictures

_TOLD: Mapping[str, str] = {
    "retried": "The case is begun again; the running node takes it up within a few seconds.",
    "abandoned": "The case is abandoned. New objects revive it.",
    "rerun": "The objects are computed anew under the protocol that you chose.",
    "delivery": "The delivery is begun again.",
    "left-alone": "The delivery waits: that peer is left alone for now. Peers can resume it.",
    "given-up": "The delivery is given up.",
}
"""What is said after an order, by the word in the address."""

_RETRIED = (CaseState.REJECTED, CaseState.FAILED, CaseState.UNDELIVERED, CaseState.ABANDONED)
_NOT_ABANDONED = (CaseState.DELIVERED, CaseState.ABANDONED)

Protocol = Annotated[str, Form(max_length=64)]


def case_pages(desk: Desk, pages: Pages) -> APIRouter:
    """Return the page of a case, and the addresses that its forms are sent to."""
    routes = APIRouter(prefix="/cases/{case_id}")

    @routes.get("", response_class=HTMLResponse)
    def case_page(
        request: Request,
        case_id: CaseId,
        actor: Viewer,
        told: Annotated[str, Query(max_length=32)] = "",
    ) -> HTMLResponse:
        """Show a case."""
        found = case_document(desk, case_id)
        if found is None:
            raise HTTPException(404, "there is no case of that id")
        what = {"case_id": case_id, "patient_key": patient_key_of_case(desk.index, case_id) or ""}
        desk.audit(AuditEvent(Kind.ACCESSED, actor.name, request.state.address, "success", what))
        return pages.page(
            request,
            "case.html",
            here="cases",
            told=("good", _TOLD[told]) if told in _TOLD else None,
            case=found,
            **_shown(desk, found),
        )

    _add_orders(routes, desk)
    return routes


def _add_orders(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/retry")
    def retry(case_id: CaseId, actor: Operator) -> RedirectResponse:
        orders_of(desk, actor).retry(case_id)
        return _back(case_id, "retried")

    @routes.post("/abandon")
    def abandon(case_id: CaseId, actor: Operator) -> RedirectResponse:
        orders_of(desk, actor).abandon(case_id)
        return _back(case_id, "abandoned")

    @routes.post("/rerun")
    def rerun(case_id: CaseId, protocol: Protocol, actor: Operator) -> RedirectResponse:
        orders_of(desk, actor).rerun(case_id, protocol)
        return _back(case_id, "rerun")

    @routes.post("/deliveries/{peer}/retry")
    def deliver(case_id: CaseId, peer: PeerName, actor: Operator) -> RedirectResponse:
        is_tried = orders_of(desk, actor).retry_delivery(case_id, peer)
        return _back(case_id, "delivery" if is_tried else "left-alone")

    @routes.post("/deliveries/{peer}/abandon")
    def give_up(case_id: CaseId, peer: PeerName, actor: Operator) -> RedirectResponse:
        orders_of(desk, actor).abandon_delivery(case_id, peer)
        return _back(case_id, "given-up")


def _back(case_id: str, told: str) -> RedirectResponse:
    return RedirectResponse(f"/cases/{case_id}?told={told}", 303)


def _shown(desk: Desk, case: CaseDocument) -> dict[str, Any]:
    """Return what the template needs beside the case: its newest result, and what can be done."""
    state = case.row.state
    newest = next((each.revision for each in case.revisions if each.results), None)
    files = () if newest is None else result_files(desk, case.row.case_id, newest).files
    metrics = None if newest is None else metrics_of(desk, case.row.case_id, newest)
    return {
        "newest": newest,
        "reports": [each for each in files if each.name in REPORT_FILES],
        "files": [f for f in files if "/" not in f.name and f.name not in REPORT_FILES],
        "folders": _folders(files),
        "figures": None if metrics is None else figures_of(metrics),
        "pictures": {} if newest is None else _pictures(desk, case.row.case_id, newest),
        "timing": {} if metrics is None else metrics["timing_s"],
        "protocols": [each.name for each in desk.config.protocol],
        "may_retry": state in _RETRIED and not case.goes_on_as,
        "may_abandon": state not in _NOT_ABANDONED,
        "may_rerun": bool(case.structure_set_uid) and state is not CaseState.RUNNING,
        "unsettled": UNSETTLED,
    }


def _pictures(desk: Desk, case_id: str, revision: int) -> dict[int, ReportPicture]:
    report = result_paths(desk, case_id, revision).get(REPORT_PAGE)
    return {} if report is None else registration_pictures(report)


def _folders(files: tuple[ResultFile, ...]) -> list[tuple[str, int, int]]:
    """Return folders among files: name, number of files, bytes."""
    found: dict[str, tuple[int, int]] = {}
    for each in files:
        folder, separator, _ = each.name.partition("/")
        if separator:
            count, size_bytes = found.get(folder, (0, 0))
            found[folder] = count + 1, size_bytes + each.size_bytes
    return [(name, *values) for name, values in found.items()]
