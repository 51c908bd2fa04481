"""One C-STORE, from its command to the promise that the object survives a power cut.

Streams the data set into a file, looks it through, and answers with a status: success
only when file and journal entry are on stable storage. Knows no sockets, and what a case is not.
"""

import logging
import struct
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from node import conformance
from node.config import NodeSection, Peer, Role
from node.disk import Piece
from node.element_reader import PREAMBLE_BYTES, PREFIX
from node.errors import NodeError, StorageFullError, UnfitObjectError, UnreadableObjectError
from node.filing import Filing
from node.header import (
    REFERRING_CLASSES,
    InstanceHeader,
    ScannedObject,
    header_from_bytes,
    scan,
)
from node.log import IDENTIFIERS
from node.monitoring.counts import BYTES, COUNTS, OBJECTS, REFUSALS
from node.receipt import Receipt
from node.recording import Carrier
from node.storage import ObjectStore, ReceivedFile

LOGGER = logging.getLogger(__name__)

ERROR_COMMENT_CHARACTERS = 64
"""Longest Error Comment (0000,0902), VR LO."""

HEAD_BYTES = 8 << 10
"""Of a data set this much is kept in memory to look through; it rarely takes more."""

_MIB = 1 << 20


@dataclass(slots=True)
class Session:
    """One association; used by its own thread, and by others once that has ended.

    Attributes:
        opened_at: ISO 8601.
        identifiers: Of the patient of its latest object, for the log's mask.
        token: Names it in the journal.
        counts: `refused` objects and `echoes`; of kept objects the carrier knows.
    """

    peer: Peer
    calling_ae: str
    address: str
    opened_at: str
    started_s: float = field(default_factory=time.monotonic)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    identifiers: tuple[str, ...] = field(default=(), repr=False)
    is_established: bool = False
    is_connection_lost: bool = False
    objects: int = 0
    size_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    carrier: Carrier = field(default_factory=Carrier)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a C-STORE-RQ and its presentation context say of the data set that follows."""

    sop_class_uid: str
    sop_instance_uid: str
    context_class_uid: str
    transfer_syntax_uid: str


class Intake:
    """Makes a sink for each C-STORE.

    Args:
        limits: Object size and number of objects.
        store: Where files go.
        filing: What promises.
        clock: The time, aware.
    """

    def __init__(
        self,
        limits: NodeSection,
        store: ObjectStore,
        filing: Filing,
        clock: Callable[[], datetime],
    ) -> None:
        self.limits = limits
        self.store = store
        self.filing = filing
        self.clock = clock

    def begin(self, session: Session, announced: Announcement) -> "IncomingObject":
        """Return what takes the data set; never raises, what is wrong is answered at the end."""
        return IncomingObject(self, session, announced)


class IncomingObject:
    """The sink of one C-STORE: `write` what comes, then `finish`, or else `abandon`."""

    def __init__(self, intake: Intake, session: Session, announced: Announcement) -> None:
        self._intake = intake
        self._session = session
        self._announced = announced
        self._file: ReceivedFile | None = None
        self._refusal: tuple[int, str] | None = None
        self._front = self._head = b""
        self._start = 0
        session.objects += 1
        with self._refusing():
            self._begin()

    def _begin(self) -> None:
        limits, session = self._intake.limits, self._session
        if Role.SEND not in session.peer.roles:
            self._refusal = conformance.NOT_AUTHORISED, "this peer may not send"
            return
        longest = limits.max_objects_per_association
        if longest is not None and session.objects > longest:
            raise StorageFullError("more objects than node.max_objects_per_association")
        self._file = self._intake.store.receive(self._announced.sop_instance_uid)
        self._front = file_front(self._announced)
        self._start = len(self._front)

    def write(self, pieces: Sequence[Piece]) -> None:
        """Take the next bytes; after a refusal they are let pass."""
        if self._file is None:
            return
        for piece in pieces:
            if len(self._head) == HEAD_BYTES:
                break
            self._head += bytes(piece[: HEAD_BYTES - len(self._head)])
        with self._refusing():
            self._file.write(pieces if self._file.size_bytes else [self._front, *pieces])
            if self._file.size_bytes - self._start > self._intake.limits.max_object_mib * _MIB:
                raise StorageFullError("the object is larger than node.max_object_mib")

    def finish(self) -> tuple[int, str]:
        """Return status and Error Comment; success when the object survives a power cut."""
        if self._file is not None:
            with self._refusing():
                self._keep(self._file)
        peer = self._session.peer.name
        if self._refusal is None:
            COUNTS.add(OBJECTS, peer)
            return conformance.SUCCESS, ""
        status, why = self._refusal
        self._session.counts["refused"] += 1
        COUNTS.add(REFUSALS, peer, f"0x{status:04X}")
        fields = {"status": f"0x{status:04X}", "reason": why, "peer": peer}
        LOGGER.warning("store.refused", extra=fields)
        return status, why[:ERROR_COMMENT_CHARACTERS]

    def abandon(self) -> None:
        """Remove what was written: the data set will not be completed."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _keep(self, file: ReceivedFile) -> None:
        announced, session = self._announced, self._session
        found = self._scanned(file)
        identifiers = found.patient_name, found.patient_id, found.patient_birth_date
        if identifiers != session.identifiers:
            IDENTIFIERS.remember(*identifiers)
            session.identifiers = identifiers
        if found.sop_class_uid != announced.context_class_uid:
            raise UnfitObjectError("SOP class differs from the presentation context")
        if found.sop_class_uid != announced.sop_class_uid:
            raise UnfitObjectError("SOP class differs from the command")
        if found.sop_instance_uid != announced.sop_instance_uid:
            raise UnfitObjectError("SOP Instance UID differs from the command")
        receipt = Receipt(
            spare=file.spare,
            path=file.path,
            start=self._start,
            sop_instance_uid=found.sop_instance_uid,
            sop_class_uid=found.sop_class_uid,
            transfer_syntax_uid=announced.transfer_syntax_uid,
            association=session.token,
            calling_ae=session.calling_ae,
            peer_name=session.peer.name,
            address=session.address,
            opened_at=session.opened_at,
            received_at=self._intake.clock().isoformat(),
        )
        file.keep()
        header = found if isinstance(found, InstanceHeader) else None
        self._intake.filing.promise(receipt, session.carrier, header)
        self._intake.store.note_recovery()
        session.size_bytes += file.size_bytes - self._start
        COUNTS.add(BYTES, session.peer.name, amount=file.size_bytes - self._start)

    def _scanned(self, file: ReceivedFile) -> ScannedObject | InstanceHeader:
        """Look the data set through: its top level, and where that joins objects, all of it."""
        if self._announced.sop_class_uid in REFERRING_CLASSES:
            with file.content(self._start) as content:
                return header_from_bytes(content, self._announced.transfer_syntax_uid)
        syntax, size_bytes = self._announced.transfer_syntax_uid, file.size_bytes - self._start
        try:
            return scan(self._head, syntax, size_bytes=size_bytes)
        except UnreadableObjectError:  # or more must be looked at than the beginning
            with file.content(self._start) as content:
                return scan(content, syntax)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Remember why the object is not kept, and remove it; the association lives on."""
        try:
            yield
        except NodeError as error:
            self._refusal = conformance.status_of(error), str(error)
            self.abandon()
        except Exception:
            LOGGER.exception("store.failed", extra={"peer": self._session.peer.name})
            self._refusal = conformance.PROCESSING_FAILURE, "see the log of the node"
            self.abandon()


def file_front(announced: Announcement) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 7.1)."""
    elements = b"".join(
        (
            _long_element(0x0001, b"OB", b"\0\1"),
            _short_element(0x0002, b"UI", announced.sop_class_uid),
            _short_element(0x0003, b"UI", announced.sop_instance_uid),
            _short_element(0x0010, b"UI", announced.transfer_syntax_uid),
            _short_element(0x0012, b"UI", conformance.IMPLEMENTATION_CLASS_UID),
            _short_element(0x0013, b"SH", conformance.IMPLEMENTATION_VERSION_NAME),
        )
    )
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements))
    return b"\0" * PREAMBLE_BYTES + PREFIX + length + elements


def _short_element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _long_element(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sxxL", 2, element, vr, len(value)) + value
