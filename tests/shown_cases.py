"""A page over an index that the real books filled: cases of every state, their files, peers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI

from handlers.report import metrics_document
from node.assembly import CaseProposal, StoredInstance, assemble
from node.audit.events import AuditEvent
from node.case_job import case_job
from node.compute_job import OUTPUT_FOLDER, RESULTS_FOLDER
from node.config import Config
from node.index import Index
from node.index.cases import CaseBook
from node.index.deliveries import DeliveryBook
from node.index.instances import Arrival, InstanceBook, patient_key_of
from node.index.runs import RevisionKey, RunBook
from node.index.states import CaseState, DeliveryState
from node.outputs import OUTPUTS, output_of
from node.storage import StoredFile
from node.web.app import make_app
from node.web.desk import Desk
from tests.report_cases import ORGANS, dose_of, refined_case
from tests.stored_instances import PATIENCE, contours, ct, flat, linked, mr
from tests.web_clients import Browser

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
GIVE_UP = timedelta(hours=72)
FILES = ("RTSTRUCT.dcm", "MR_1/0001.dcm", "MR_1/0002.dcm", "SR.dcm")
CONFIGURATION: dict[str, Any] = {
    "peer": [
        {"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "roles": ["send"]},
        {
            "name": "tps",
            "ae_title": "TPS",
            "host": "127.0.0.1",
            "port": 104,
            "roles": ["receive", "commit"],
        },
    ],
    "protocol": [
        {"name": "liver", "targets": ["GTVn*", "GTV*"], "destinations": ["tps"]},
        {"name": "other", "targets": ["BODY"], "structure_sets": ["boost*"]},
        {"name": "hopeless", "targets": ["Nobody*"]},
    ],
}


def objects_of(number: int, name: str = "", **changes: Any) -> list[StoredInstance]:
    """Return CT, structure set, MR and dose of a patient, each number another."""
    patient = {
        "patient_id": f"ID-{number}",
        "patient_name": name or f"Family{number}^Given",
        "patient_birth_date": "19500102",
    }
    study = {"study_instance_uid": f"5.{number}", **patient}
    frame = {"frame_of_reference_uid": f"9.{number}"}
    drawn = contours(f"3.{number}", f"1.{number}", **{**frame, **study, **changes})
    moved = {"study_instance_uid": f"6.{number}", "frame_of_reference_uid": f"8.{number}"}
    dose = linked("RTDOSE", f"4.{number}", **frame, **study)
    return flat(
        [
            ct(f"1.{number}", **frame, **study),
            [drawn],
            mr(f"2.{number}", **moved, **patient, series_description="T2 axial"),
            [dose],
        ]
    )


@cache
def metrics_text() -> str:
    """Return `metrics.json` of a result with every kind of figure."""
    result = replace(refined_case(), dose=dose_of(ORGANS))
    return json.dumps(metrics_document(result, {"case_id": "c", "protocol": "liver"}))


@dataclass
class Page:
    """The page and what lies beneath it."""

    config: Config
    index: Index
    app: FastAPI
    told: list[AuditEvent] = field(default_factory=list)
    now: datetime = NOW

    def browser(self) -> Browser:
        """Return a browser at this machine."""
        return Browser(self.app)

    def store(self, objects: Sequence[StoredInstance], peer: str = "scanner") -> None:
        """Receive objects in one association."""
        book = InstanceBook(self.index)
        opened = book.open_association(
            calling_ae=peer.upper(),
            peer_name=peer,
            address="127.0.0.1",
            opened_at=self.now - timedelta(seconds=90),
            node_run="test",
        )
        book.add_instances(
            [
                Arrival(one.header, StoredFile(one.path, one.sha256, 1000), opened, peer, self.now)
                for one in objects
            ]
        )

    def propose(self, objects: Sequence[StoredInstance]) -> CaseProposal:
        """Let assembly and the index see the objects of one patient; return their only case."""
        at = self.now + timedelta(days=1)
        (found,) = assemble(objects, self.config.protocol, PATIENCE, at)
        protocol = self.config.protocol_named(found.protocol_name)
        assert protocol is not None
        jobs = {}
        if not found.waiting_for and not found.rejection:
            job = case_job(found, protocol, self.config, root="/", created=self.now)
            jobs[found.case_id] = job.model_dump_json()
        key = patient_key_of(objects[0].header)
        CaseBook(self.index).observe(key, [found], jobs, self.now)
        return found

    def propose_nothing(self, number: int) -> None:
        """Let assembly find no case of a patient any more."""
        key = patient_key_of(objects_of(number)[0].header)
        CaseBook(self.index).observe(key, [], {}, self.now)

    def case(self, number: int, state: CaseState, name: str = "") -> str:
        """Make a case of a state by the books that make them; return its id."""
        objects = objects_of(number, name)
        if state is CaseState.WAITING:
            objects = [one for one in objects if one.header.modality != "MR"]
        if state is CaseState.REJECTED:
            objects = objects_of(number, name, roi_names=("Liver",))
        self.store(objects)
        at, self.now = self.now, self.now + timedelta(seconds=number)
        proposal = self.propose(objects)
        if state is CaseState.WAITING or state is CaseState.REJECTED:
            self.now = at
            return proposal.case_id
        if state is not CaseState.READY:
            self._go_on(RevisionKey(proposal.case_id, 1, 0), state)
        self.now = at
        return proposal.case_id

    def _go_on(self, key: RevisionKey, state: CaseState) -> None:
        runs = RunBook(self.index)
        begun = runs.begin(key, self.now)
        assert begun is not None
        key = begun.key
        if state is CaseState.RUNNING:
            runs.note_step(key, "registration", self.now)
        elif state is CaseState.FAILED:
            runs.fail(key, "given up after 3 attempts: out of memory", self.now)
        elif state is CaseState.ABANDONED:
            CaseBook(self.index).abandon(key.case_id, self.now)
        else:
            self.adopt(key, owed={"tps": OUTPUTS})
        ended = {
            CaseState.DELIVERED: (DeliveryState.DELIVERED, ""),
            CaseState.UNDELIVERED: (DeliveryState.UNDELIVERED, "tps is no AE title there"),
        }
        if state in ended:
            deliveries = DeliveryBook(self.index)
            due = [each for each in deliveries.due(self.now) if each.case_id == key.case_id]
            deliveries.settle(due[0], *ended[state], self.now)

    def adopt(self, key: RevisionKey, owed: dict[str, Any]) -> None:
        """Leave the files of a result, and take them into the index."""
        folder = self.config.node.data / RESULTS_FOLDER / key.case_id / str(key.revision)
        texts = {"metrics.json": metrics_text(), "report.html": "<h1>Report</h1>"}
        texts |= {"report.pdf": "%PDF-1.7"} | {name: f"bytes of {name}" for name in FILES}
        for name, text in texts.items():
            path = folder / OUTPUT_FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        relative = folder.relative_to(self.config.node.data) / OUTPUT_FOLDER
        results = {
            f"2.25.{at}": (f"{relative}/{name}", output_of(name)) for at, name in enumerate(FILES)
        }
        told = json.loads(metrics_text())
        names = ("kind", "status", "uncertainty_mm", "reasons")
        summary = {
            "registrations": [{n: r[n] for n in names} for r in told["registrations"]],
            "targets": [
                {n: t[n] for n in ("source_roi", "refined_roi", "status", "reasons")}
                for t in told["targets"]
            ],
            "findings": [{"code": "x", "severity": "warning", "text": "a dose is cut off"}],
        }
        assert RunBook(self.index).adopt(key, results, summary, owed, GIVE_UP, self.now)


@contextmanager
def shown_page(folder: Path, tps_port: int = 104, database: str | None = None) -> Iterator[Page]:
    """Give a page over an index without cases; nobody is at the port of `tps`."""
    scanner, tps = CONFIGURATION["peer"]
    document = {**CONFIGURATION, "peer": [scanner, {**tps, "port": tps_port}]}
    config = Config.model_validate(
        {**document, "node": {"data": folder, "database": database, "quiet_s": 60.0}}
    )
    index = Index(config.node.database_url)
    index.create()
    made = Page(config, index, FastAPI())
    made.app = make_app(Desk(config, index, lambda: made.now, made.told.append))
    try:
        yield made
    finally:
        index.close()


@contextmanager
def counted_statements(index: Index) -> Iterator[list[str]]:
    """Give a list that gets every statement that is executed within."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        found.append(statement)

    sa.event.listen(index.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(index.engine, "before_cursor_execute", note)
