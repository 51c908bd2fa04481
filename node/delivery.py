"""Sends instances to a peer (C-STORE SCU) and asks whether it answers (C-ECHO SCU).

Every instance gets an outcome of its own, taken from the peer's answer; an instance without an
answer is not delivered. Knows no queue, no database and no waiting time between attempts: the
durable workflow decides when to try again, this module only says whether it can help. Never
repairs an object: uncompressed data sets are re-encoded in another VR encoding if the peer wants
that, nothing else. Read PS3.4 Annex B and PS3.8 section 9.3 first.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from os import SEEK_END
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, Status
from pynetdicom.transport import T_CONNECT, AssociationSocket

from node.config import ANY_AE_TITLE, Peer
from node.errors import DeliveryError, UnfitObjectError, UnreadableObjectError

_LOG = logging.getLogger(__name__)

MAX_CONTEXTS = 128
"""Presentation contexts in one association: their identifiers are odd bytes (PS3.8 9.3.2.2)."""

SLOWEST_LINK_BYTES_PER_S = 125_000
"""1 Mbit/s: what a poor line between two hospitals still carries."""

MAX_MESSAGE_ID = 65_535
"""Message IDs are unsigned 16-bit numbers (PS3.7 9.3.1.1)."""

CLOSING_GRACE_S = 2.0
"""How long an association may take to say goodbye before the connection is cut."""

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Syntaxes between which a data set can be re-encoded without touching a value."""

DELIVERED_WITH_WARNING = frozenset({0xB000, 0xB006, 0xB007})
"""Coerced, elements discarded, does not match the SOP class; stored all the same (PS3.4 B.2.3)."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Refused for want of room (PS3.4 B.2.3)."""

TRANSIENT_FAILURES = frozenset({0x0110, 0x0210, 0x0213})
"""Processing failure, duplicate invocation, resource limitation (PS3.7 Annex C): may pass."""

REJECTED_PERMANENT = 1
"""Result of an A-ASSOCIATE-RJ (PS3.8 table 9-21); 2 is transient."""

CALLING_AE_UNKNOWN = (1, 3)
CALLED_AE_UNKNOWN = (1, 7)
REJECTION_REASONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    CALLING_AE_UNKNOWN: "it does not know our AE title",
    CALLED_AE_UNKNOWN: "it does not answer to the AE title that it is called by",
    (2, 1): "it gives no reason",
    (2, 2): "it does not know the protocol version",
    (3, 1): "it is congested",
    (3, 2): "it has as many associations as it allows",
}
"""Source and reason of an A-ASSOCIATE-RJ in words (PS3.8 table 9-21)."""


class InstanceOutcome(StrEnum):
    """What became of one instance."""

    SENT = "sent"
    WARNED = "warned"
    """Stored by the peer, with a warning."""
    REFUSED_TRANSIENT = "refused_transient"
    """Refused for a reason that may pass: worth another attempt."""
    REFUSED_PERMANENT = "refused_permanent"
    """Refused for good: a person must act."""
    NOT_ATTEMPTED = "not_attempted"
    """Not confirmed: never sent, or sent and never answered."""

    @property
    def is_delivered(self) -> bool:
        """Whether the peer holds the instance by its own word."""
        return self in (InstanceOutcome.SENT, InstanceOutcome.WARNED)


@dataclass(frozen=True, slots=True)
class InstanceDelivery:
    """The outcome of one instance.

    Attributes:
        status: The peer's C-STORE status, None if it gave none.
        reason: Why, in words without identifiers; empty for a plain success. The peer's own
            error comment is left out: it may hold a patient's name.
    """

    sop_instance_uid: str
    outcome: InstanceOutcome
    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class EchoResult:
    """A peer that answered C-ECHO; seconds from request to answer, association not included."""

    round_trip_s: float


@dataclass(frozen=True, slots=True)
class _Outgoing:
    path: Path
    sop_class_uid: UID
    sop_instance_uid: UID
    transfer_syntax_uid: UID
    answer_limit_s: float

    @property
    def syntaxes(self) -> tuple[UID, ...]:
        """Transfer syntaxes in which it can be sent, its own first."""
        own = self.transfer_syntax_uid
        if own not in (*UNCOMPRESSED, DeflatedExplicitVRLittleEndian):
            return (own,)
        return (own, *(syntax for syntax in UNCOMPRESSED if syntax != own))


def send_instances(
    peer: Peer,
    calling_ae: str,
    paths: Sequence[Path],
    *,
    timeout_s: float,
    on_result: Callable[[InstanceDelivery], None] | None = None,
    slowest_bytes_per_s: float = SLOWEST_LINK_BYTES_PER_S,
) -> tuple[InstanceDelivery, ...]:
    """Return what became of each instance, in the order of `paths`.

    Only the presentation contexts that the instances need are proposed; more than 128 are spread
    over several associations, one after the other. An association that was aborted, or on which
    an answer did not come in time, is not used again: that instance and those after it are
    NOT_ATTEMPTED. Objects are read from the disk one at a time.

    Args:
        peer: Where to; it needs a port.
        calling_ae: Our AE title.
        paths: DICOM files.
        timeout_s: Limit for the connection, for the answer to the association request, and for
            the answer to each instance; there the time for its transfer is added.
        on_result: Called at once for each instance about which the peer has decided, in order,
            so that the caller can persist it; not called for NOT_ATTEMPTED.
        slowest_bytes_per_s: A transfer slower than this counts as stalled.

    Raises:
        DeliveryError: No association could be opened, so nothing was sent.
        UnreadableObjectError: A file is no DICOM file. Nothing was sent.
        UnfitObjectError: A file contradicts itself. Nothing was sent.
    """
    outgoing = [
        _read_outgoing(
            path,
            f"file {at + 1} of {len(paths)}",
            lambda size_bytes: timeout_s + size_bytes / slowest_bytes_per_s,
        )
        for at, path in enumerate(paths)
    ]
    deliveries: list[InstanceDelivery] = []
    for batch in _batches(outgoing):
        try:
            with _open_association(peer, calling_ae, _needed(batch), timeout_s) as line:
                deliveries += _send_batch(line, batch, on_result)
        except DeliveryError as error:
            if not deliveries:
                raise
            deliveries += _not_attempted(batch, str(error))
        if deliveries[-1].outcome is InstanceOutcome.NOT_ATTEMPTED:
            deliveries += _not_attempted(outgoing[len(deliveries) :], deliveries[-1].reason)
            break
    return tuple(deliveries)


def echo(peer: Peer, calling_ae: str, *, timeout_s: float) -> EchoResult:
    """Return how fast a peer answers C-ECHO.

    Raises:
        DeliveryError: It cannot be reached, rejects us, or does not answer with success.
    """
    with _open_association(
        peer, calling_ae, ((Verification, ImplicitVRLittleEndian),), timeout_s
    ) as line:
        if not line.accepted:
            raise DeliveryError(
                f"peer {peer.name} does not offer Verification (C-ECHO)",
                hint="ask its administrator whether this port is a DICOM SCP",
                is_retryable=False,
            )
        line.assoc.dimse_timeout = timeout_s
        start_s = time.perf_counter()
        with line.connection.cut_after(timeout_s + CLOSING_GRACE_S), suppress(RuntimeError):
            answer = line.assoc.send_c_echo()
            round_trip_s = time.perf_counter() - start_s
            if "Status" in answer and answer.Status == Status.SUCCESS:
                return EchoResult(round_trip_s)
            if "Status" in answer:
                raise DeliveryError(
                    f"peer {peer.name} answers C-ECHO with status 0x{answer.Status:04X}",
                    hint="look into its log",
                    is_retryable=True,
                )
    raise DeliveryError(
        f"peer {peer.name} accepts the association but does not answer C-ECHO",
        hint="look into its log; a firewall may cut idle connections",
        is_retryable=True,
    )


def _read_outgoing(path: Path, place: str, limit_s: Callable[[int], float]) -> _Outgoing:
    """Return what the negotiation needs; file names stay out of errors, a person chose them."""
    try:
        with path.open("rb") as file:
            ds = read_partial(file, stop_when=lambda tag, _vr, _length: tag > Tag("SOPInstanceUID"))
            file_bytes = file.seek(0, SEEK_END)
        meta = ds.file_meta
        syntax = UID(meta.TransferSyntaxUID)
        named = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
        held = (UID(ds.SOPClassUID), UID(ds.SOPInstanceUID))
    except OSError as error:
        raise UnreadableObjectError(f"{place}: {error.strerror or 'cannot be read'}") from error
    except (InvalidDicomError, AttributeError, EOFError, ValueError) as error:
        raise UnreadableObjectError(
            f"{place} is no DICOM file (PS3.10) with SOP class, SOP instance and transfer syntax",
            hint="send only complete DICOM files",
        ) from error
    if named != held:
        raise UnfitObjectError(
            f"{place}: file meta information and data set name different SOP instances",
            hint="write the file again with the program that made it",
        )
    return _Outgoing(path, *held, syntax, limit_s(file_bytes))


def _needed(batch: Iterable[_Outgoing]) -> tuple[tuple[UID, UID], ...]:
    """Return the pairs of SOP class and transfer syntax that a batch needs, each once."""
    return tuple(dict.fromkeys((i.sop_class_uid, syntax) for i in batch for syntax in i.syntaxes))


def _batches(outgoing: Sequence[_Outgoing]) -> Iterator[list[_Outgoing]]:
    """Split, in order, wherever one association could not propose all contexts."""
    batch: list[_Outgoing] = []
    contexts: set[tuple[UID, UID]] = set()
    for item in outgoing:
        more = {(item.sop_class_uid, syntax) for syntax in item.syntaxes}
        if len(contexts | more) > MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts |= more
    if batch:
        yield batch


class _Connection(AssociationSocket):
    """pynetdicom's connection, with an end to every exchange and a close that closes.

    pynetdicom's own time-outs cannot end a send that the peer no longer reads, nor a half
    received PDU: both block in the socket, and an abort waits behind them for ever.
    """

    was_made = False
    _timer: threading.Timer | None = None

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, and limit the negotiation; `disarm` ends that."""
        super().connect(primitive)
        if self.socket is not None:
            self.was_made = True
            # a small PDU goes at once: the peer may delay its ACK by 40 ms
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.arm((self.assoc.acse_timeout or 0.0) + CLOSING_GRACE_S)

    def arm(self, limit_s: float) -> None:
        """Cut the connection after that time, unless disarmed."""
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def cut_after(self, limit_s: float) -> Iterator[None]:
        self.arm(limit_s)
        try:
            yield
        finally:
            self.disarm()

    def _cut(self) -> None:
        line = self.socket
        if line is not None:
            with suppress(OSError):  # already closed: what was wanted
                line.shutdown(socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        self._cut()
        if self.socket is not None:  # pynetdicom leaves it open if the shutdown fails
            self.socket.close()


class _CallingEntity(AE):
    """An application entity that calls one peer over a `_Connection`."""

    connection: _Connection

    def _create_socket(self, assoc: Association, address: Any, _tls_args: Any) -> _Connection:
        self.connection = _Connection(assoc, address=address)
        return self.connection


@dataclass(frozen=True, slots=True)
class _Line:
    """An open association. `accepted` may be empty: pynetdicom has then aborted it."""

    peer: Peer
    assoc: Association
    connection: _Connection
    accepted: frozenset[tuple[UID, UID]]

    def abort(self) -> None:
        if self.assoc.is_established:
            with self.connection.cut_after(CLOSING_GRACE_S):
                self.assoc.abort()

    def release(self) -> None:
        if self.assoc.is_established:
            with self.connection.cut_after(CLOSING_GRACE_S):
                self.assoc.release()


@contextmanager
def _open_association(
    peer: Peer, calling_ae: str, wanted: Sequence[tuple[UID, UID]], timeout_s: float
) -> Iterator[_Line]:
    """Open an association, release it at the end, abort it after an exception."""
    if peer.port is None or peer.ae_title == ANY_AE_TITLE:
        raise DeliveryError(
            f"peer {peer.name} has no {'port' if peer.port is None else 'AE title'} to call",
            hint=f"complete [[peer]] {peer.name} in the configuration",
            is_retryable=False,
        )
    ae = _CallingEntity(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
    ae.network_timeout = None  # the caller may take its time between two instances
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    start_s = time.perf_counter()
    try:
        assoc = ae.associate(peer.host, peer.port, contexts, ae_title=peer.ae_title)
    except (OSError, UnicodeError) as error:
        raise DeliveryError(
            f"the host of peer {peer.name} is unknown",
            hint="check host in the configuration, and the name service",
            is_retryable=True,
        ) from error
    ae.connection.disarm()
    answer = assoc.acceptor.primitive
    if answer is None or answer.result != Status.SUCCESS:
        took_s = time.perf_counter() - start_s
        raise _refused_association(peer, calling_ae, answer, took_s, ae.connection.was_made)
    accepted = frozenset(_syntax_pairs(assoc.accepted_contexts))
    line = _Line(peer, assoc, ae.connection, accepted)
    try:
        yield line
    except BaseException:
        line.abort()
        raise
    line.release()


def _syntax_pairs(contexts: Iterable[PresentationContext]) -> Iterator[tuple[UID, UID]]:
    for context in contexts:
        if context.abstract_syntax is not None:
            yield context.abstract_syntax, context.transfer_syntax[0]


def _refused_association(
    peer: Peer,
    calling_ae: str,
    answer: A_ASSOCIATE | None,
    took_s: float,
    is_connected: bool,
) -> DeliveryError:
    """Return what to tell about an association that did not come about."""
    if answer is None and not is_connected:
        return DeliveryError(
            f"peer {peer.name} does not accept connections at its host and port"
            f" (tried {took_s:.1f} s)",
            hint="is it running? check host, port and the firewalls on the way",
            is_retryable=True,
        )
    if answer is None:
        return DeliveryError(
            f"peer {peer.name} accepts the connection but not the association"
            f" (no answer, or an abort, after {took_s:.1f} s)",
            hint="is it a DICOM SCP? look into its log",
            is_retryable=True,
        )
    cause = (answer.result_source or 0, answer.diagnostic or 0)
    hints = {
        CALLING_AE_UNKNOWN: f"ask its administrator to add our AE title {calling_ae}",
        CALLED_AE_UNKNOWN: f"correct ae_title of [[peer]] {peer.name} in the configuration",
    }
    is_permanent = answer.result == REJECTED_PERMANENT
    return DeliveryError(
        f"peer {peer.name} rejects the association"
        f" {'for good' if is_permanent else 'for now'}:"
        f" {REJECTION_REASONS.get(cause, 'for an unknown reason')}",
        hint=hints.get(cause, "look into its log"),
        is_retryable=not is_permanent,
    )


def _send_batch(
    line: _Line,
    batch: Sequence[_Outgoing],
    on_result: Callable[[InstanceDelivery], None] | None,
) -> list[InstanceDelivery]:
    """Send until the batch or the association ends; return an outcome for every instance."""
    deliveries: list[InstanceDelivery] = []
    start_s = time.perf_counter()
    for at, item in enumerate(batch):
        delivery = _send_instance(line, item, at % MAX_MESSAGE_ID + 1)
        if delivery.outcome is InstanceOutcome.NOT_ATTEMPTED:
            line.abort()
            deliveries += _not_attempted(batch[at:], delivery.reason)
            break
        deliveries.append(delivery)
        if on_result is not None:
            on_result(delivery)
    counts = Counter(delivery.outcome.value for delivery in deliveries)
    seconds = round(time.perf_counter() - start_s, 3)
    _LOG.info("delivery.batch", extra={"peer": line.peer.name, "seconds": seconds, **counts})
    return deliveries


def _send_instance(line: _Line, item: _Outgoing, message_id: int) -> InstanceDelivery:
    """Send one instance and read the answer; without an answer the line must not be used again."""
    uid = str(item.sop_instance_uid)
    accepted = [s for s in item.syntaxes if (item.sop_class_uid, s) in line.accepted]
    if not accepted:
        reason = (
            f"peer {line.peer.name} accepts {item.sop_class_uid.name} in none of the transfer"
            f" syntaxes offered ({', '.join(syntax.name for syntax in item.syntaxes)})"
        )
        return InstanceDelivery(uid, InstanceOutcome.REFUSED_PERMANENT, None, reason)
    line.assoc.dimse_timeout = item.answer_limit_s
    # A path is sent as it lies on the disk; the switch concerns nothing but paths given to
    # send_c_store, which only this module does.
    _config.STORE_SEND_CHUNKED_DATASET = True
    start_s = time.perf_counter()
    answer = Dataset()
    try:
        is_as_stored = accepted[0] == item.transfer_syntax_uid
        content = item.path if is_as_stored else dcmread(item.path)
        with (
            line.connection.cut_after(item.answer_limit_s + CLOSING_GRACE_S),
            suppress(RuntimeError),
        ):
            # RuntimeError: the association ended before this instance
            answer = line.assoc.send_c_store(content, msg_id=message_id)
    except OSError:
        return InstanceDelivery(
            uid, InstanceOutcome.NOT_ATTEMPTED, None, "our file of the object cannot be read"
        )
    except ValueError:
        reason = f"the object cannot be encoded as {accepted[0].name}, which the peer asks for"
        return InstanceDelivery(uid, InstanceOutcome.REFUSED_PERMANENT, None, reason)
    if "Status" not in answer:
        is_late = time.perf_counter() - start_s >= item.answer_limit_s
        return InstanceDelivery(
            uid,
            InstanceOutcome.NOT_ATTEMPTED,
            None,
            f"peer {line.peer.name} did not answer within {item.answer_limit_s:.0f} s"
            if is_late
            else f"peer {line.peer.name} ended the association, or the connection broke",
        )
    outcome, reason = _judge(answer)
    return InstanceDelivery(uid, outcome, int(answer.Status), reason)


def _judge(answer: Dataset) -> tuple[InstanceOutcome, str]:
    """Return the outcome behind a C-STORE status, and its words; unknown means not delivered."""
    status = int(answer.Status)
    if status == Status.SUCCESS:
        return InstanceOutcome.SENT, ""
    words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "not a status of C-STORE"))[1]
    reason = f"status 0x{status:04X}: {words}{_offending(answer)}"
    if status in DELIVERED_WITH_WARNING:
        return InstanceOutcome.WARNED, reason
    if status in OUT_OF_RESOURCES or status in TRANSIENT_FAILURES:
        return InstanceOutcome.REFUSED_TRANSIENT, reason
    return InstanceOutcome.REFUSED_PERMANENT, reason


def _offending(answer: Dataset) -> str:
    """Return the attributes that the peer names, by keyword; their values are not in there."""
    named = answer.get("OffendingElement")
    if named is None:
        return ""
    tags = [Tag(tag) for tag in (named if isinstance(named, MultiValue | list) else [named])]
    return f" ({', '.join(keyword_for_tag(tag) or str(tag) for tag in tags)})"


def _not_attempted(items: Iterable[_Outgoing], reason: str) -> list[InstanceDelivery]:
    return [
        InstanceDelivery(str(item.sop_instance_uid), InstanceOutcome.NOT_ATTEMPTED, None, reason)
        for item in items
    ]
