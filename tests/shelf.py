"""A data folder with its index, objects and cases, made without a node, for a clock that moves."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from node.audit.events import Tell, untold
from node.config import Config, NodeSection, Protocol, RetentionSection
from node.disk import DiskCalls
from node.header import InstanceHeader
from node.index import Index
from node.index.cases import CaseBook
from node.index.deliveries import DeliveryBook
from node.index.instances import AssociationOutcome, InstanceBook, patient_key_of
from node.index.runs import RunBook
from node.index.states import DeliveryState
from node.index.tables import INSTANCES
from node.retention import Retention
from node.storage import StoredFile
from tests.owed_results import Clock, proposal

OUTPUTS = ("report",)
DAYS = 100.0
RULES = RetentionSection(
    keep_objects_days=DAYS, keep_results_days=DAYS, keep_unfinished_days=2 * DAYS
)


@dataclass
class Shelf:
    """A data folder and its index; a clock that a test moves."""

    root: Path
    index: Index
    clock: Clock = field(default_factory=Clock)
    disk: DiskCalls = field(default_factory=DiskCalls)

    def retention(self, section: RetentionSection = RULES, audit: Tell = untold) -> Retention:
        protocol = Protocol(name="liver", targets=("GTV*",))
        config = Config(
            node=NodeSection(data=self.root, min_free_mib=0.0),
            protocol=(protocol,),
            retention=section,
        )
        return Retention(config, self.index, self.clock, self.disk, audit)

    def header(self, patient: str, uid: str, **given: str) -> InstanceHeader:
        usual = {"series_instance_uid": f"1.{patient}", "modality": "CT", **given}
        return InstanceHeader(
            f"1.{patient}.{uid}", "1.2.3", "1.2.4", usual["modality"], f"1.0.{patient}",
            usual["series_instance_uid"], patient_id=patient,
            referenced_series_uid=usual.get("referenced_series_uid", ""),
        )  # fmt: skip

    def store(self, patient: str, *uids: str, closes: bool = True, **given: str) -> int:
        """Receive objects of a patient over an association; return its row."""
        book = InstanceBook(self.index)
        association = book.open_association(
            calling_ae="CT1", peer_name="ct", address="10.0.0.1", opened_at=self.clock(),
            node_run="node",
        )  # fmt: skip
        for uid in uids:
            header = self.header(patient, uid, **given)
            name = hashlib.sha256(header.sop_instance_uid.encode()).hexdigest()
            file = StoredFile(f"objects/{name[:2]}/{name}.dcm", name, 1000)
            added = book.add_instance(header, file, association, "ct", self.clock())
            if added.is_new:
                (self.root / file.path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / file.path).write_bytes(bytes(1000))
        if closes:
            book.close_association(association, AssociationOutcome.RELEASED, self.clock())
        return association

    def compute(
        self, patient: str, case_id: str, fingerprint: str = "f1", *, has_destination: bool = True
    ) -> int:
        """Compute a case of a patient; return the revision."""
        key_of_patient = patient_key_of(self.header(patient, "1"))
        found, now = proposal(case_id, fingerprint), self.clock()
        CaseBook(self.index).observe(key_of_patient, [found], {case_id: '{"job": 1}'}, now)
        runs = RunBook(self.index)
        (key,) = [k for k in runs.due(now) if k.case_id == case_id]
        begun = runs.begin(key, now)
        assert begun is not None
        out = self.root / "results" / case_id / str(key.revision) / "out"
        out.mkdir(parents=True)
        (out / "RTSTRUCT.dcm").write_bytes(bytes(5000))
        (out / "metrics.json").write_text("{}")
        view = out.parent / "view"
        view.mkdir()
        (view / "ct.bricks").write_bytes(bytes(9000))
        path = str((out / "RTSTRUCT.dcm").relative_to(self.root))
        uid = f"9.{case_id.encode().hex()}.{key.revision}"
        results = {uid: (path, "report")}
        to = {"tps": OUTPUTS} if has_destination else {}
        runs.adopt(begun.key, results, {}, to, timedelta(days=3), now)  # type: ignore[arg-type]
        return key.revision

    def settle(self, case_id: str, state: DeliveryState = DeliveryState.DELIVERED) -> None:
        """End every delivery of a case."""
        book = DeliveryBook(self.index)
        for key in book.due(self.clock()):
            begun = book.begin(key) if key.case_id == case_id else None
            if begun is not None:
                for uid in getattr(book.owed(begun), "paths", {}):
                    book.record_receipt(begun, uid, "sent", 0, "", self.clock())
                book.settle(begun, state, "", self.clock())

    def delivered(self, patient: str, case_id: str) -> None:
        """Receive a patient, compute a case, deliver it."""
        self.store(patient, "1", "2")
        self.compute(patient, case_id)
        self.settle(case_id)

    def count(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
        with self.index.read() as connection:
            query = sa.select(sa.func.count()).select_from(table).where(*conditions)
            return connection.scalar(query) or 0

    def objects_of(self, patient: str) -> int:
        key = patient_key_of(self.header(patient, "1"))
        return self.count(INSTANCES, INSTANCES.c.patient_key == key)

    def files(self, folder: str) -> list[str]:
        """Return the files below a folder, relative to the root."""
        found = (self.root / folder).rglob("*")
        return sorted(str(p.relative_to(self.root)) for p in found if p.is_file())
