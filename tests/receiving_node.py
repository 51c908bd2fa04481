"""A receiving node in a folder, and senders that may be careless, for tests over real sockets."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import Dataset, uid
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from node.association import CallingEntity
from node.audit.events import Tell, untold
from node.config import Config, NodeSection, Peer, Role, TlsSection
from node.disk import DiskCalls
from node.element_reader import encoded_from_file
from node.index import Index
from node.index.tables import ASSOCIATIONS, INSTANCES
from node.scp import StoreScp
from node.storage import ObjectStore

PEERS = (
    Peer(name="ct", ae_title="CT1", host="127.0.0.1", roles=(Role.SEND,)),
    Peer(name="mr", ae_title="MR1", host="127.0.0.1", roles=(Role.SEND,)),
    Peer(name="tps", ae_title="TPS", host="127.0.0.1", port=104, roles=(Role.RECEIVE,)),
    Peer(name="far", ae_title="FAR", host="192.0.2.1", roles=(Role.SEND,)),
)
LONG_S = 60.0


@dataclass
class Node:
    """A receiving node in a folder."""

    root: Path
    section: NodeSection = field(default_factory=lambda: NodeSection(port=0, network_timeout_s=30))
    disk: DiskCalls = field(default_factory=DiskCalls)
    min_free_bytes: int = 0
    tls: TlsSection | None = None
    peers: tuple[Peer, ...] = PEERS
    port: int = 0
    audit: Tell = untold

    def __post_init__(self) -> None:
        self.index = Index(f"sqlite:///{self.root / 'index.sqlite'}")
        self.index.create()
        self.store = ObjectStore(self.root, self.min_free_bytes, disk=self.disk)
        self.scp = StoreScp(
            Config(node=self.section, peer=self.peers, tls=self.tls),
            self.store,
            self.index,
            lambda: datetime.now(UTC),
            audit=self.audit,
        )

    def rows(self, table: sa.Table) -> list[Any]:
        """Return the rows of a table when the index has all that was answered."""
        self.scp.wait_until_filed(LONG_S)
        with self.index.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.id)).all())

    def outcomes(self) -> list[str | None]:
        return [row.outcome for row in self.rows(ASSOCIATIONS)]

    def wait_for_outcomes(self, *expected: str) -> None:
        deadline = time.monotonic() + LONG_S
        while self.outcomes() != list(expected) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.outcomes() == list(expected)

    def stored_data_sets(self) -> list[bytes]:
        paths = [self.store.read_path(row.path) for row in self.rows(INSTANCES)]
        return [encoded_from_file(path)[1] for path in paths]

    def objects(self) -> list[Path]:
        """Return what lies in the folder of an object: whole files, and begun ones."""
        whole = list((self.root / "objects").rglob("*.dcm"))
        spare = [p for p in (self.root / "spare").rglob("*") if p.is_file()]
        return whole + [p for p in spare if p.stat().st_size]


@contextmanager
def running(root: Path, **settings: Any) -> Iterator[Node]:
    node = Node(root, **settings)
    node.port = node.scp.start()
    try:
        yield node
    finally:
        node.scp.stop()
        node.index.close()


def ct(number: int = 1, **changes: Any) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.CTImageStorage, f"1.2.826.0.1.{number}"
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "MARKEDNAME^Anna", "MARKED-4711"
    ds.PatientBirthDate = "19510203"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    ds.ImagePositionPatient, ds.PixelSpacing = [0, 0, number], [1, 1]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.Rows, ds.Columns = "1.2.826.0.4", 64, 64
    ds.BitsAllocated = 16
    ds.PixelData = bytes(range(256)) * 32
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> bytes:
    found = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert found is not None
    return found


@contextmanager
def associated(
    node: Node,
    calling_ae: str = "CT1",
    called_ae: str = "HILUM",
    *,
    sop_classes: tuple[str, ...] = (uid.CTImageStorage,),
    syntax: str = uid.ExplicitVRLittleEndian,
) -> Iterator[Association]:
    ae = CallingEntity(calling_ae)  # pynetdicom's own misses a rejection that comes at once
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = LONG_S
    for sop_class in sop_classes:
        ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", node.port, ae_title=called_ae)
    ae.connection.disarm()
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        if assoc.ident:  # a rejected one never starts
            assoc.join(LONG_S)


def ask(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> None:
    """Send bytes as they are, as a careless sender would."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = uid.UID(command.get("sop_class", ds.SOPClassUID))
    request.AffectedSOPInstanceUID = uid.UID(command.get("instance", ds.SOPInstanceUID))
    request.DataSet = BytesIO(raw)
    context_id: Any = assoc.accepted_contexts[0].context_id
    assoc.dimse.send_msg(request, context_id)


def answer_to(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> C_STORE:
    """Return the response to what `ask` sends."""
    assoc._reactor_checkpoint.clear()  # as `Association.send_c_store` does
    ask(assoc, raw, ds, **command)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert isinstance(response, C_STORE)
    return response


def status_of(assoc: Association, raw: bytes, ds: Dataset, **command: str) -> int:
    status = answer_to(assoc, raw, ds, **command).Status
    assert status is not None
    return int(status)


def cut(ds: Dataset) -> bytes:
    """Return a data set that ends early."""
    return encoded(ds)[:-100]


def without(keyword: str) -> Callable[[Dataset], bytes]:
    """Return an encoder that leaves an attribute out."""

    def make(ds: Dataset) -> bytes:
        delattr(ds, keyword)
        return encoded(ds)

    return make
