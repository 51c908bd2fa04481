"""A node that is asked: a receiving node with results in its index, and what asks it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext
from typing import Any, Literal

from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.association import Association

from node.answering.services import Answering
from node.association import CallingEntity
from node.audit.events import Tell, untold
from node.config import Config, NodeSection, Peer, Role, TlsSection
from node.index import Index
from node.index.case_rows import CASES, RESULTS, REVISIONS, utc_text
from node.scp import StoreScp
from node.storage import ObjectStore
from tests.nodes import free_port

Transport = Literal["fast", "plain"]
LONG_S = 60.0
PATIENT = {
    "PatientID": "MARKED-4711",
    "PatientName": "MARKEDNAME^Anna",
    "PatientBirthDate": "19510203",
    "PatientSex": "F",
}
STUDY, MR_SERIES, RT_SERIES = "1.2.826.0.77.1", "1.2.826.0.77.2", "1.2.826.0.77.3"


def result(
    number: int = 1,
    *,
    sop_class: UID = uid.MRImageStorage,
    modality: str = "MR",
    series: str = MR_SERIES,
    study: str = STUDY,
    syntax: UID = uid.ExplicitVRLittleEndian,
    **changes: Any,
) -> Dataset:
    """Return an object as a result set holds it, with file meta information."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"{series}.{number}"
    for keyword, value in PATIENT.items():
        setattr(ds, keyword, value)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20240517", "101500.25", "S1"
    ds.AccessionNumber, ds.StudyDescription = "A77", "Planning abdomen"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, 9001, number
    ds.SeriesDescription, ds.Manufacturer = f"{modality} reg CT", "Hilum"
    ds.SeriesDate, ds.ContentDate, ds.ContentTime = "20240518", "20240518", "090000"
    if modality == "MR":
        ds.Rows, ds.Columns, ds.BitsAllocated = 16, 16, 16
        ds.PixelData = bytes(512)
        ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def structure_set(number: int = 1, **changes: Any) -> Dataset:
    """Return a structure set of a result set, with a contour that is too long for Explicit VR."""
    contour = Dataset()
    contour.ContourData = [f"{n / 7:.6f}" for n in range(9000)]
    roi = Dataset()
    roi.ContourSequence = [contour]
    return result(
        number,
        sop_class=uid.RTStructureSetStorage,
        modality="RTSTRUCT",
        series=RT_SERIES,
        syntax=uid.ImplicitVRLittleEndian,
        StructureSetLabel="REFINED",
        ROIContourSequence=[roi],
        **changes,
    )


@dataclass
class AnsweringNode:
    """A node with query, retrieval and storage commitment, without a schedule."""

    root: Path
    transport: Transport = "fast"
    peers: tuple[Peer, ...] = ()
    section: NodeSection | None = None
    tls: TlsSection | None = None
    port: int = 0
    audit: Tell = untold

    def __post_init__(self) -> None:
        self.index = Index(f"sqlite:///{self.root / 'index.sqlite'}")
        self.index.create()
        section = self.section or NodeSection(
            port=self.port,
            data=self.root,
            network_timeout_s=10,
            transport=self.transport,
            delivery_retry_s=0.5,
            delivery_retry_cap_s=1.0,
        )
        self.config = Config(node=section, peer=self.peers, tls=self.tls)
        self.store = ObjectStore(self.root, 0)
        now = lambda: datetime.now(UTC)  # noqa: E731
        self.answering = Answering(self.config, self.store, self.index, now, audit=self.audit)
        self.scp = StoreScp(
            self.config,
            self.store,
            self.index,
            now,
            services=self.answering.services,
            audit=self.audit,
        )

    def adopt(self, *objects: Dataset, case_id: str = "case-1", revision: int = 1) -> None:
        """Let objects be the result set of a revision."""
        folder = f"results/{case_id}/{revision}"
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        rows = []
        for ds in objects:
            path = f"{folder}/{ds.SOPInstanceUID}.dcm"
            ds.save_as(self.root / path, enforce_file_format=True)
            rows.append({"sop_instance_uid": ds.SOPInstanceUID, "path": path})
        key = {"case_id": case_id, "revision": revision}
        texts = ("patient_key", "protocol", "ct_series_uid", "structure_set_uid", "reason",
                 "fingerprint", "seen", "findings", "created_at", "updated_at")  # fmt: skip
        now = utc_text(datetime.now(UTC))
        with self.index.begin() as connection:
            if revision == 1:
                empty: dict[str, Any] = dict.fromkeys(texts, "")
                empty |= {"state": "delivered", "look_again": False, **key}
                connection.execute(CASES.insert().values(**empty))
            columns = dict.fromkeys(("fingerprint", "next_try_at", "job", "summary"), "")
            numbers = dict.fromkeys(("attempt", "begun", "failures"), 0)
            connection.execute(
                REVISIONS.insert().values(
                    **key, **columns, **numbers, created_at=now, finished_at=now
                )
            )
            if rows:
                connection.execute(RESULTS.insert(), [{**key, **r, "output": "mr"} for r in rows])

    def stop(self) -> None:
        """Stop and close."""
        self.answering.stop()
        self.scp.stop()
        self.index.close()


def peer(name: str, *roles: Role, port: int | None = None) -> Peer:
    """Return a peer on this machine, called by its name in capitals."""
    return Peer(name=name, ae_title=name.upper(), host="127.0.0.1", port=port, roles=roles)


@contextmanager
def answering(
    root: Path, transport: Transport = "fast", peers: tuple[Peer, ...] = (), **settings: Any
) -> Iterator[AnsweringNode]:
    """Give a node that runs; without peers, one that may receive and one that may send."""
    known = peers or (
        peer("tps", Role.RECEIVE, port=free_port()),
        peer("scanner", Role.SEND),
    )
    root.mkdir(parents=True, exist_ok=True)
    node = AnsweringNode(root, transport, known, **settings)
    node.port = node.scp.start()
    node.answering.start(node.scp.wait_until_filed)
    try:
        yield node
    finally:
        node.stop()


@contextmanager
def asking(
    node: AnsweringNode,
    *sop_classes: str,
    calling_ae: str = "TPS",
    given: tuple[str, ...] = (),
    reports: bool = False,
    syntaxes: tuple[str, ...] = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
    handlers: tuple[Any, ...] = (),
    tls_args: tuple[SSLContext, str] | None = None,
) -> Iterator[Association]:
    """Give an association of a peer.

    `given` are storage classes in which it takes the role of the SCP; with `reports` it proposes
    both roles for the others; `handlers` and `tls_args` are pynetdicom's, of its side.
    """
    ae = CallingEntity(calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = LONG_S
    for sop_class in (*sop_classes, *given):
        ae.add_requested_context(sop_class, list(syntaxes))
    roles: list[Any] = [build_role(one, scp_role=True) for one in given]
    if reports:
        roles += [build_role(one, scu_role=True, scp_role=True) for one in sop_classes]
    assoc = ae.associate(
        "127.0.0.1",
        node.port,
        ae_title="HILUM",
        ext_neg=roles,
        evt_handlers=list(handlers),
        tls_args=tls_args,
    )
    ae.connection.disarm()
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        assoc.join(LONG_S)


def find(
    assoc: Association, model: str, level: str, **keys: Any
) -> tuple[list[int], list[Dataset], str]:
    """Return the statuses, the answers and the last comment to a C-FIND."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(wanted, keyword, value)
    statuses, found, comment = [], [], ""
    for status, answer in assoc.send_c_find(wanted, model):
        statuses.append(int(status.Status))
        comment = str(status.get("ErrorComment", ""))
        if answer is not None:
            found.append(answer)
    return statuses, found, comment


def taking(taken: list[Dataset], status: int = 0) -> tuple[Any, ...]:
    """Return handlers of a peer that takes what is sent to it."""

    def store(event: Any) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        taken.append(ds)
        return status

    return ((evt.EVT_C_STORE, store),)


def run_program(*arguments: str, timeout_s: float = 60) -> str:
    """Run an outside program; return all that it says."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace"
    )
    return done.stdout + done.stderr


def told(text: str, keyword: str) -> list[str]:
    """Return the values of an attribute that DCMTK printed."""
    return re.findall(rf"\[(.*?)\s*\x00*\s*\].*\s{keyword}", text)


def identifier(level: str, **values: Any) -> Dataset:
    """Return a C-FIND, C-GET or C-MOVE identifier of that level."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds
