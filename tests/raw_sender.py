"""A C-STORE sender on a plain socket: quick, and able to misbehave at any byte.

Encodes PDUs by itself (PS3.8 9.3, PS3.7 9.3), so that a sender costs little beside the node, and so
that an object can be stopped, repeated or mixed wherever a test wants. Proposes one storage class
and Verification in one transfer syntax. Does not retry.
"""

import hashlib
import random
import socket
import struct
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import NamedTuple, Self

from pydicom import Dataset, uid
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

VERIFICATION = uid.UID("1.2.840.10008.1.1")
SUCCESS = 0x0000

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
"""PDU types (PS3.8 9.3)."""
COMMAND_FRAGMENT, LAST_FRAGMENT = 1, 2
"""Bits of the message control header (PS3.8 E.2)."""
C_STORE_RQ, C_ECHO_RQ, NO_DATA_SET = 0x0001, 0x0030, 0x0101
"""Command Field and Command Data Set Type (PS3.7 E.1)."""
STORE_CONTEXT, ECHO_CONTEXT = 1, 3
"""Presentation context IDs."""
OWN_MAX_PDU_BYTES = 16384
_PLACEHOLDER = "2.25." + "7" * 30


class NotAcceptedError(Exception):
    """The node rejected the association or the presentation context."""


class Answer(NamedTuple):
    """A response: to which message, and its status."""

    message_id: int
    status: int


@dataclass(frozen=True, slots=True)
class SentObject:
    """A SOP instance in Explicit VR Little Endian, as it goes over the line."""

    sop_class_uid: str
    sop_instance_uid: str
    data_set: bytes

    @property
    def sha256(self) -> str:
        """Hash of the data set, as the index has it."""
        return hashlib.sha256(self.data_set).hexdigest()


class ObjectMaker:
    """Makes MR slices that differ in SOP Instance UID and pixels, thousands in a second.

    Args:
        series: Number of study, series and patient.
        columns: The picture has as many rows: 2 * columns^2 bytes.
    """

    def __init__(self, series: int = 1, columns: int = 128) -> None:
        ds = Dataset()
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SOPClassUID, ds.SOPInstanceUID = uid.MRImageStorage, _PLACEHOLDER
        ds.StudyDate, ds.Modality, ds.Manufacturer = "20260102", "MR", "PROOF"
        ds.PatientName, ds.PatientID = "Proof^Patient", f"PROOF-{series}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.1{series:09}", f"2.25.2{series:09}"
        ds.FrameOfReferenceUID = f"2.25.3{series:09}"
        ds.ImagePositionPatient, ds.PixelSpacing = [0, 0, 0], [1, 1]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = columns
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = bytes(2 * columns * columns)
        ds["PixelData"].VR = "OW"
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        self._whole = buffer.getvalue()
        self._uid_at = self._whole.index(_PLACEHOLDER.encode())
        self._pixels_at = len(self._whole) - 2 * columns * columns

    def object(self, number: int) -> SentObject:
        """Return the object of a number; the same number gives the same bytes."""
        instance = f"2.25.{10**29 + number}"
        content = bytearray(self._whole)
        content[self._uid_at : self._uid_at + len(instance)] = instance.encode()
        some = random.Random(number).randbytes(4096)
        for at in range(self._pixels_at, len(content), len(some)):
            content[at : at + len(some)] = some[: len(content) - at]
        return SentObject(uid.MRImageStorage, instance, bytes(content))


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _context(number: int, sop_class_uid: str) -> bytes:
    names = _item(0x30, sop_class_uid.encode()) + _item(0x40, uid.ExplicitVRLittleEndian.encode())
    return _item(0x20, bytes([number, 0, 0, 0]) + names)


def associate_request(calling_ae: str, called_ae: str, sop_class_uid: str) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU (PS3.8 9.3.2)."""
    user = _item(0x51, struct.pack(">I", OWN_MAX_PDU_BYTES)) + _item(0x52, b"2.25.4711")
    content = (
        struct.pack(">Hxx16s16s32x", 1, called_ae.ljust(16).encode(), calling_ae.ljust(16).encode())
        + _item(0x10, b"1.2.840.10008.3.1.1.1")  # application context (PS3.7 A.2.1)
        + _context(STORE_CONTEXT, sop_class_uid)
        + _context(ECHO_CONTEXT, VERIFICATION)
        + _item(0x50, user)
    )
    return pdu(ASSOCIATE_RQ, content)


def pdu(kind: int, content: bytes = bytes(4)) -> bytes:
    """Return a PDU; without content as of A-RELEASE and A-ABORT."""
    return struct.pack(">BxI", kind, len(content)) + content


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value


def _command(field: int, sop_class_uid: str, message_id: int, rest: bytes, data: int) -> bytes:
    """Return a command set (PS3.7 6.3), in Implicit VR Little Endian."""
    found = (
        _element(0x0002, _even(sop_class_uid))
        + _element(0x0100, struct.pack("<H", field))
        + _element(0x0110, struct.pack("<H", message_id))
        + rest[:10]  # Priority (0000,0700) comes before the Command Data Set Type
        + _element(0x0800, struct.pack("<H", data))
        + rest[10:]
    )
    return _element(0x0000, struct.pack("<I", len(found))) + found


def _even(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def data_pdu(context: int, control: int, fragment: bytes | memoryview) -> bytes:
    """Return a P-DATA-TF PDU with one presentation data value (PS3.8 9.3.5)."""
    head = struct.pack(">IBB", len(fragment) + 2, context, control)
    return pdu(DATA_TF, head + fragment)


def store_pdus(sent: SentObject, message_id: int, max_pdu_bytes: int) -> list[bytes]:
    """Return a C-STORE-RQ as PDUs: the command first, then the data set in fragments."""
    rest = _element(0x0700, struct.pack("<H", 0)) + _element(0x1000, _even(sent.sop_instance_uid))
    command = _command(C_STORE_RQ, sent.sop_class_uid, message_id, rest, 1)
    whole, step = memoryview(sent.data_set), max_pdu_bytes - 6
    starts = range(0, len(whole), step)
    return [
        data_pdu(STORE_CONTEXT, COMMAND_FRAGMENT | LAST_FRAGMENT, command),
        *(
            data_pdu(
                STORE_CONTEXT,
                LAST_FRAGMENT if at + step >= len(whole) else 0,
                whole[at : at + step],
            )
            for at in starts
        ),
    ]


def answers_in(stream: bytes) -> list[Answer]:
    """Return the responses in what a node sent; other PDUs are passed over."""
    at, found = 0, []
    while at + 12 <= len(stream):
        kind, length = struct.unpack_from(">BxI", stream, at)
        if kind == DATA_TF and at + 6 + length <= len(stream):
            found.append(_answer(stream[at + 12 : at + 6 + length]))
        at += 6 + length
    return found


def _answer(command: bytes) -> Answer:
    reader, values = BytesIO(command), {}
    while head := reader.read(8):
        group, element, length = struct.unpack("<HHI", head)
        values[group, element] = reader.read(length)
    numbers = [struct.unpack("<H", values[0, e])[0] for e in (0x0120, 0x0900)]
    return Answer(*numbers)


class RawAssociation:
    """An association with a node, open while used as a context.

    Args:
        port: Of the node, on the loopback address.
        timeout_s: How long a send or an answer may take.

    Raises:
        NotAcceptedError: Rejected, or the node does not take the SOP class.
    """

    def __init__(
        self,
        port: int,
        *,
        calling_ae: str = "SCANNER",
        called_ae: str = "HILUM",
        sop_class_uid: str = uid.MRImageStorage,
        timeout_s: float = 60.0,
    ) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.local_port = int(self.line.getsockname()[1])
        self.max_pdu_bytes = OWN_MAX_PDU_BYTES
        try:
            self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.line.sendall(associate_request(calling_ae, called_ae, sop_class_uid))
            self._negotiated(*self.receive())
        except BaseException:
            self.line.close()
            raise

    def _negotiated(self, kind: int, content: bytes) -> None:
        if kind != ASSOCIATE_AC:
            raise NotAcceptedError(f"PDU {kind}, result, source, reason {tuple(content[1:4])}")
        at, accepted = 68, set()
        while at + 4 <= len(content):
            item, length = struct.unpack_from(">BxH", content, at)
            body = content[at + 4 : at + 4 + length]
            if item == 0x21 and body[2] == 0:
                accepted.add(body[0])
            if item == 0x50 and body[0] == 0x51:  # maximum length comes first (PS3.8 D.1)
                self.max_pdu_bytes = struct.unpack_from(">I", body, 4)[0] or OWN_MAX_PDU_BYTES
            at += 4 + length
        if STORE_CONTEXT not in accepted:
            raise NotAcceptedError("the storage class is not accepted")

    def receive(self) -> tuple[int, bytes]:
        """Return type and content of the next PDU.

        Raises:
            ConnectionError: The node closed the connection.
        """
        kind, length = struct.unpack(">BxI", self._bytes(6))
        return kind, self._bytes(length)

    def _bytes(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            some = self.line.recv(count - len(found))
            if not some:
                raise ConnectionResetError("the node closed the connection")
            found += some
        return bytes(found)

    def answer(self) -> Answer:
        """Return the next response.

        Raises:
            ConnectionError: The association ended instead.
        """
        kind, content = self.receive()
        if kind != DATA_TF:
            raise ConnectionAbortedError(f"PDU {kind} instead of an answer: {content.hex()}")
        return _answer(content[6:])

    def store(self, sent: SentObject, message_id: int = 1) -> int:
        """Send an object and return the status of the answer."""
        self.line.sendall(b"".join(store_pdus(sent, message_id, self.max_pdu_bytes)))
        return self.answer().status

    def echo(self, message_id: int = 1) -> int:
        """Send a C-ECHO and return the status of the answer."""
        command = _command(C_ECHO_RQ, VERIFICATION, message_id, b"", NO_DATA_SET)
        self.line.sendall(data_pdu(ECHO_CONTEXT, COMMAND_FRAGMENT | LAST_FRAGMENT, command))
        return self.answer().status

    def release(self) -> None:
        """End the association in order."""
        self.line.sendall(pdu(RELEASE_RQ))
        kind, _ = self.receive()
        assert kind == RELEASE_RP
        self.line.close()

    def abort(self) -> None:
        """End the association as a sender that gives up (A-ABORT, source user)."""
        self.line.sendall(pdu(ABORT))
        self.line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        if kind is None and self.line.fileno() >= 0:
            self.release()
        self.line.close()
