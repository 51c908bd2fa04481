"""Sends instances to a peer (C-STORE SCU) and asks whether it answers (C-ECHO SCU).

Every instance gets an outcome of its own, taken from the peer's answer; an instance without an
answer is not delivered. Knows no queue, no database and no waiting time between attempts: the
durable workflow decides when to try again, this module only says whether it can help. Never
repairs an object: uncompressed data sets are re-encoded in another VR encoding if the peer wants
that, nothing else. Read PS3.4 Annex B and PS3.8 section 9.3 first.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from os import SEEK_END
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DeformableSpatialRegistrationStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
)
from pynetdicom import _config
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, Status

from node.association import CLOSING_GRACE_S, OpenAssociation, open_association
from node.config import Peer, TlsSection
from node.errors import DeliveryError, UnfitObjectError, UnreadableObjectError

_LOG = logging.getLogger(__name__)

MAX_CONTEXTS = 128
"""Presentation contexts in one association: their identifiers are odd bytes (PS3.8 9.3.2.2)."""

SLOWEST_LINK_BYTES_PER_S = 125_000
"""1 Mbit/s: what a poor line between two hospitals still carries."""

MAX_MESSAGE_ID = 65_535
"""Message IDs are unsigned 16-bit numbers (PS3.7 9.3.1.1)."""

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Syntaxes between which a data set can be re-encoded without touching a value."""

DELIVERED_WITH_WARNING = frozenset({0xB000, 0xB006, 0xB007})
"""Coerced, elements discarded, does not match the SOP class; stored all the same (PS3.4 B.2.3)."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Refused for want of room (PS3.4 B.2.3)."""

TRANSIENT_FAILURES = frozenset({0x0110, 0x0210, 0x0213})
"""Processing failure, duplicate invocation, resource limitation (PS3.7 Annex C): may pass."""


DISPENSABLE = frozenset({DeformableSpatialRegistrationStorage, ParametricMapStorage})
"""Few planning systems take these; the rigid registration and the resampled MR say what they need,
and a probability is for review. A peer that negotiates none of them still has its result set."""


class InstanceOutcome(StrEnum):
    """What became of one instance."""

    SENT = "sent"
    WARNED = "warned"
    """Stored by the peer, with a warning."""
    REFUSED_TRANSIENT = "refused_transient"
    """Refused for a reason that may pass: worth another attempt."""
    REFUSED_PERMANENT = "refused_permanent"
    """Refused for good: a person must act."""
    LEFT_OUT = "left_out"
    """The peer knows no such object and can do without it: see `DISPENSABLE`."""
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

    seconds: float


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
    tls: TlsSection | None = None,
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
        tls: Our certificate, for a peer that is called over TLS.

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
            with open_association(peer, calling_ae, _needed(batch), timeout_s, tls) as opened:
                deliveries += _send_batch(opened, batch, on_result)
        except DeliveryError as error:
            if not deliveries:
                raise
            deliveries += [_unconfirmed(item, str(error)) for item in batch]
        if deliveries[-1].outcome is InstanceOutcome.NOT_ATTEMPTED:
            reason = deliveries[-1].reason
            deliveries += [_unconfirmed(item, reason) for item in outgoing[len(deliveries) :]]
            break
    return tuple(deliveries)


def echo(
    peer: Peer, calling_ae: str, *, timeout_s: float, tls: TlsSection | None = None
) -> EchoResult:
    """Return how fast a peer answers C-ECHO.

    Raises:
        DeliveryError: It cannot be reached, rejects us, or does not answer with success.
    """
    with open_association(
        peer, calling_ae, ((Verification, ImplicitVRLittleEndian),), timeout_s, tls
    ) as opened:
        if not opened.accepted:
            raise DeliveryError(
                f"peer {peer.name} does not offer Verification (C-ECHO)",
                hint="ask its administrator whether this port is a DICOM SCP",
                is_retryable=False,
            )
        opened.assoc.dimse_timeout = timeout_s
        start_s = time.perf_counter()
        with opened.connection.cut_after(timeout_s + CLOSING_GRACE_S), suppress(RuntimeError):
            answer = opened.assoc.send_c_echo()
            seconds = time.perf_counter() - start_s
            if "Status" in answer and answer.Status == Status.SUCCESS:
                return EchoResult(seconds)
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
        if not all((*held, syntax)):
            raise ValueError("an empty UID")  # noqa: TRY301 - joins the others below
    except OSError as error:
        raise UnreadableObjectError(f"{place}: {error.strerror or 'cannot be read'}") from error
    except (InvalidDicomError, AttributeError, EOFError, TypeError, ValueError) as error:
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


def _send_batch(
    opened: OpenAssociation,
    batch: Sequence[_Outgoing],
    on_result: Callable[[InstanceDelivery], None] | None,
) -> list[InstanceDelivery]:
    """Send until the batch or the association ends; return an outcome for every instance."""
    deliveries: list[InstanceDelivery] = []
    start_s = time.perf_counter()
    for at, item in enumerate(batch):
        delivery = _send_instance(opened, item, at % MAX_MESSAGE_ID + 1)
        if delivery.outcome is InstanceOutcome.NOT_ATTEMPTED:
            opened.abort()
            deliveries += [_unconfirmed(left, delivery.reason) for left in batch[at:]]
            break
        deliveries.append(delivery)
        if on_result is not None:
            on_result(delivery)
    counts = Counter(delivery.outcome.value for delivery in deliveries)
    seconds = round(time.perf_counter() - start_s, 3)
    _LOG.info("delivery.batch", extra={"peer": opened.peer.name, "seconds": seconds, **counts})
    return deliveries


def _send_instance(opened: OpenAssociation, item: _Outgoing, message_id: int) -> InstanceDelivery:
    """Send one instance and read the answer; without an answer the line must not be used again."""
    uid = str(item.sop_instance_uid)
    accepted = [s for s in item.syntaxes if (item.sop_class_uid, s) in opened.accepted]
    if not accepted:
        reason = (
            f"peer {opened.peer.name} accepts {item.sop_class_uid.name} in none of the transfer"
            f" syntaxes offered ({', '.join(syntax.name for syntax in item.syntaxes)})"
        )
        if item.sop_class_uid in DISPENSABLE:
            return InstanceDelivery(uid, InstanceOutcome.LEFT_OUT, None, reason)
        return InstanceDelivery(uid, InstanceOutcome.REFUSED_PERMANENT, None, reason)
    start_s = time.perf_counter()
    try:
        answer = _exchange(opened, item, accepted[0], message_id)
    except OSError:
        return _unconfirmed(item, "our file of the object cannot be read")
    except ValueError:
        reason = f"the object cannot be encoded as {accepted[0].name}, which the peer asks for"
        return InstanceDelivery(uid, InstanceOutcome.REFUSED_PERMANENT, None, reason)
    if "Status" not in answer:
        if time.perf_counter() - start_s >= item.answer_limit_s:
            what = f"did not answer within {item.answer_limit_s:.0f} s"
        else:
            what = "ended the association, or the connection broke"
        return _unconfirmed(item, f"peer {opened.peer.name} {what}")
    outcome, reason = _judge(answer)
    return InstanceDelivery(uid, outcome, int(answer.Status), reason)


def _exchange(opened: OpenAssociation, item: _Outgoing, syntax: UID, message_id: int) -> Dataset:
    """Return the peer's answer, without a status if none came.

    Raises:
        OSError: The file cannot be read.
        ValueError: The object cannot be re-encoded.
    """
    # A path is sent as it lies on the disk. The switch concerns nothing but paths given to
    # send_c_store, and only this module does that.
    _config.STORE_SEND_CHUNKED_DATASET = True
    content = item.path if syntax == item.transfer_syntax_uid else dcmread(item.path)
    opened.assoc.dimse_timeout = item.answer_limit_s
    with opened.connection.cut_after(item.answer_limit_s + CLOSING_GRACE_S):
        if opened.assoc.is_established:
            with suppress(RuntimeError):  # the association has just ended
                return opened.assoc.send_c_store(content, msg_id=message_id)
    return Dataset()


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


def _unconfirmed(item: _Outgoing, reason: str) -> InstanceDelivery:
    uid = str(item.sop_instance_uid)
    return InstanceDelivery(uid, InstanceOutcome.NOT_ATTEMPTED, None, reason)
