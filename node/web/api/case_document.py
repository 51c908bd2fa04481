"""One case: whose it is, where it stands, what came, what was computed, where it went."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from operator import attrgetter
from typing import Any

from fastapi import APIRouter, HTTPException

from node.compute_job import METRICS_FILE, summary_lines
from node.index.case_lists import CaseLists
from node.index.case_stories import CaseStory, case_story
from node.index.cases import CaseBook, CaseRecord
from node.index.removals import RemovalBook
from node.web.access.actor import Viewer
from node.web.api.case_list import CaseRow, case_row
from node.web.api.documents import CaseId, Document, Revision
from node.web.api.results import result_paths
from node.web.desk import Desk


class FindingNote(Document):
    """Something that a person should know: code, severity, text."""

    code: str
    severity: str
    text: str


class ReceivedGroup(Document):
    """The objects of one series that one peer sent.

    Attributes:
        is_of_case: Whether the case uses the series.
    """

    series: str
    modality: str
    description: str
    study_date: str
    peer: str
    objects: int
    size_bytes: int
    first_at: datetime
    last_at: datetime
    is_of_case: bool


class HistoryPage(Document):
    """A change of the case's state."""

    at: datetime
    revision: int
    state: str
    reason: str


class RevisionRow(Document):
    """One revision.

    Attributes:
        begun: How often computing was begun.
        failures: How often it left no outcome.
        results: Objects of its result set.
        predecessor: What it follows: a revision of the case, or a case under another protocol;
            empty for the first.
    """

    revision: int
    begun: int
    failures: int
    created_at: datetime
    finished_at: datetime | None
    verdicts: tuple[str, ...]
    results: int
    predecessor: str


class DeliveryRow(Document):
    """A result set on its way to a peer; `next_try_at` counts while it is not settled."""

    peer: str
    revision: int
    state: str
    attempts: int
    next_try_at: datetime
    updated_at: datetime
    reason: str


class ReceiptRow(Document):
    """How many objects of a kind a peer answered alike."""

    peer: str
    output: str
    objects: int
    outcome: str
    status: str
    reason: str
    commitment: str
    commitment_reason: str


class CommitmentRow(Document):
    """A storage commitment that a peer was asked for."""

    peer: str
    revision: int
    objects: int
    state: str
    asked_at: datetime | None
    answer_by: datetime
    reported_at: datetime | None


class RemovalRow(Document):
    """Something that was removed of a case or of its patient.

    Attributes:
        kind: `objects` of the patient; `results` of a revision, or its `view`, its pictures;
            `names`: the patient's name and ID.
        revision: Of results and views; 0 for the others.
        because: age or room.
    """

    kind: str
    revision: int
    because: str
    removed_at: datetime


class CaseDocument(Document):
    """All about a case.

    Attributes:
        row: As in the list.
        received: Objects of the patient, oldest first.
        revisions: Newest first.
        findings: Of the newest revision, and of its deliveries.
        related: Other cases of the same structure set, under other protocols.
        goes_on_as: Under which protocol an operator had it computed instead, or empty.
    """

    row: CaseRow
    ct_series_uid: str
    structure_set_uid: str
    received: tuple[ReceivedGroup, ...]
    history: tuple[HistoryPage, ...]
    revisions: tuple[RevisionRow, ...]
    findings: tuple[FindingNote, ...]
    deliveries: tuple[DeliveryRow, ...]
    receipts: tuple[ReceiptRow, ...]
    commitments: tuple[CommitmentRow, ...]
    removals: tuple[RemovalRow, ...]
    related: tuple[CaseRow, ...]
    goes_on_as: str


def case_document(desk: Desk, case_id: str) -> CaseDocument | None:
    """Return all about a case, or None if there is none of that id."""
    record, story = CaseBook(desk.index).case(case_id), case_story(desk.index, case_id)
    if record is None or story is None:
        return None
    lists = CaseLists(desk.index)
    lines = lists.of_structure_set(record.structure_set_uid) or lists.only(case_id)
    rows = [case_row(line) for line in lines]
    row = next((each for each in rows if each.case_id == case_id), None)
    if row is None:  # forgotten between two looks
        return None
    told = record.summary.get("findings") or record.findings
    choice = story.choice
    is_left = choice is not None and choice.protocol != record.protocol
    return CaseDocument(
        row=row.model_copy(update={"reason": record.reason}),
        ct_series_uid=record.ct_series_uid,
        structure_set_uid=record.structure_set_uid,
        received=_received(story),
        history=tuple(HistoryPage(**_only(HistoryPage, page)) for page in record.history),
        revisions=_revisions(record, story),
        findings=tuple(
            FindingNote(**_only(FindingNote, each)) for each in (*told, *record.delivery_findings)
        ),
        deliveries=tuple(
            DeliveryRow(**_only(DeliveryRow, {**each, "attempts": each["attempt"] + 1}))
            for each in record.deliveries
        ),
        receipts=tuple(ReceiptRow(**_receipt(each)) for each in record.receipts),
        commitments=tuple(CommitmentRow.model_validate(each) for each in story.commitments),
        removals=tuple(
            RemovalRow(**asdict(each))
            for each in RemovalBook(desk.index).removed_of(case_id, story.patient_key)
        ),
        related=tuple(each for each in rows if each.case_id != case_id),
        goes_on_as=choice.protocol if choice is not None and is_left else "",
    )


def metrics_of(desk: Desk, case_id: str, revision: int) -> Mapping[str, Any] | None:
    """Return `metrics.json` of a revision, or None where there is none (any more)."""
    path = result_paths(desk, case_id, revision).get(METRICS_FILE)
    if path is None:
        return None
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # removed this moment
        return None
    return found


def case_document_routes(desk: Desk) -> APIRouter:
    """Return the addresses of single cases."""
    routes = APIRouter()

    @routes.get("/cases/{case_id}", summary="One case")
    def one_case(case_id: CaseId, actor: Viewer) -> CaseDocument:  # noqa: ARG001
        """Return all about a case."""
        found = case_document(desk, case_id)
        if found is None:
            raise HTTPException(404, "there is no case of that id")
        return found

    @routes.get(
        "/cases/{case_id}/revisions/{revision}/metrics", summary="Every number of a revision"
    )
    def metrics(case_id: CaseId, revision: Revision, actor: Viewer) -> dict[str, Any]:  # noqa: ARG001
        """Return `metrics.json` (`deploy/measures.md` explains every number)."""
        record = CaseBook(desk.index).case(case_id)
        found = None if record is None else metrics_of(desk, case_id, revision)
        if found is None:
            raise HTTPException(404, "there is no such result, or it was removed")
        return dict(found)

    return routes


def _only(document: type[Document], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in document.model_fields}


def _receipt(receipt: Mapping[str, Any]) -> dict[str, Any]:
    status = receipt["status"]
    told = "" if status is None else f"0x{status:04X}"
    reason = receipt["reason"].removeprefix(f"status {told}: ")
    outcome = receipt["outcome"].replace("_", " ")
    changed = {**receipt, "status": told, "reason": reason, "outcome": outcome}
    return _only(ReceiptRow, changed)


def _received(story: CaseStory) -> tuple[ReceivedGroup, ...]:
    return tuple(
        ReceivedGroup(
            series=group.series,
            modality=group.modality,
            description=group.header.structure_set_label or group.header.series_description,
            study_date=group.header.study_date,
            peer=group.peer,
            objects=group.objects,
            size_bytes=group.size_bytes,
            first_at=group.first_at,
            last_at=group.last_at,
            is_of_case=group.is_of_case,
        )
        for group in sorted(story.groups, key=attrgetter("first_at"))
    )


def _revisions(record: CaseRecord, story: CaseStory) -> tuple[RevisionRow, ...]:
    from_case = ""
    if story.choice is not None and story.choice.protocol == record.protocol:
        other = story.choice.from_case_id
        from_case = "" if other == record.case_id else f"case {other}"
    return tuple(
        RevisionRow(
            revision=each.revision,
            begun=each.begun,
            failures=each.failures,
            created_at=datetime.fromisoformat(each.created_at),
            finished_at=None
            if each.finished_at is None
            else datetime.fromisoformat(each.finished_at),
            verdicts=_verdicts(each.summary),
            results=each.results,
            predecessor=f"revision {each.revision - 1}" if each.revision > 1 else from_case,
        )
        for each in story.revisions
    )


def _verdicts(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line for each verdict, or why there is none."""
    return tuple(summary_lines(summary)) or tuple(map(str, summary.get("reasons", ())))
