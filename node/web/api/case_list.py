"""The list of cases."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from node.index.case_lists import CaseFilter, CaseLine, CaseLists
from node.index.states import CaseState
from node.web.access.actor import Viewer
from node.web.api.documents import Document, PageSize
from node.web.api.progress import Progress, progress_of
from node.web.desk import Desk

PAGE = 50
"""Cases on a page, unless more are asked for."""

SeverityName = Literal["", "info", "warning", "failure"]
Text = Annotated[str, Query(max_length=200)]


class CaseRow(Document):
    """A case in a list.

    Attributes:
        patient_name: For people: family name first.
        reason: What it waits for, or why it is where it is.
        registration: Worst status of a registration of the newest revision, or empty.
        target: What became of its targets: `refined`, `partly refined`, `abstained`, or empty.
        worst: Severity of the worst finding of assembly, computing or delivery, or empty; what a
            peer answers counts from the end of the attempt.
        updated_at: When its state last changed.
        progress: While it runs.
    """

    case_id: str
    patient_name: str
    patient_id: str
    protocol: str
    state: CaseState
    reason: str
    revision: int
    registration: str
    target: str
    worst: str
    created_at: datetime
    updated_at: datetime
    progress: Progress | None


class CaseList(Document):
    """A page of cases, newest change first.

    Attributes:
        older: To be given as `older` for the next page; null: there is none.
        counts: Of all cases of the node, by state; 1000 stands for as many or more.
    """

    cases: tuple[CaseRow, ...]
    older: str | None
    counts: dict[CaseState, int]


def case_list(
    desk: Desk, shown: CaseFilter, older: str | None = None, size: int = PAGE
) -> CaseList:
    """Return a page of the cases that fit a filter.

    Raises:
        UnknownPlaceError: `older` is none that a page gave.
    """
    lists = CaseLists(desk.index)
    page = lists.page(shown, older=older, size=size)
    return CaseList(
        cases=tuple(case_row(line) for line in page.lines), older=page.older, counts=lists.counts()
    )


def case_row(line: CaseLine) -> CaseRow:
    """Return a line of the index as the page shows it."""
    known = {name: getattr(line, name) for name in CaseRow.model_fields if name != "progress"}
    known["patient_name"] = readable_name(line.patient_name)
    is_running = line.state is CaseState.RUNNING
    progress = progress_of(line.step, line.step_at) if is_running else None
    return CaseRow(**known, progress=progress)


def readable_name(person_name: str) -> str:
    """Return a Person Name (PS3.5 6.2.1) for people: its first group that is not empty.

    Example:
        >>> readable_name("Curie^Marie^Sk^Prof"), readable_name("=山田^太郎"), readable_name("")
        ('Curie, Marie Sk Prof', '山田, 太郎', '')
    """
    group = next((each for each in person_name.split("=") if each.strip(" ^")), "")
    family, *others = [part.strip() for part in group.split("^")]
    given = " ".join(part for part in others if part)
    return f"{family}, {given}" if family and given else family or given


def case_list_routes(desk: Desk) -> APIRouter:
    """Return the address of the list."""
    routes = APIRouter()

    @routes.get("/cases", summary="Cases, newest change first")
    def list_cases(
        actor: Viewer,  # noqa: ARG001 - asked for, so that strangers are refused
        state: CaseState | None = None,
        protocol: Text = "",
        severity: SeverityName = "",
        peer: Text = "",
        text: Text = "",
        older: Annotated[str | None, Query(max_length=100)] = None,
        size: PageSize = PAGE,
    ) -> CaseList:
        """Return a page of the cases that fit.

        `severity` is that of the worst finding, `peer` one that results are owed to. `text` holds
        words, each the beginning of a part of the patient's name, of the Patient ID, of a UID or
        of the case's id.
        """
        return case_list(desk, CaseFilter(state, protocol, severity, peer, text), older, size)

    return routes
