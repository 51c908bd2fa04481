"""Sends instances to a peer (C-STORE SCU) and asks whether it answers (C-ECHO SCU).

Every instance gets an outcome of its own, taken from the peer's answer; an instance without an
answer is not delivered. Knows no queue, no database and no waiting time between attempts: the
durable workflow decides when to try again, this module only says whether it can help. Read PS3.4
Annex B first.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydicom.datadict import keyword_for_tag
from pydicom.uid import (
    UID,
    AdvancedBlendingPresentationStateStorage,
    DeformableSpatialRegistrationStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
)
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, Status

from node.config import Peer, TlsSection
from node.errors import DeliveryError, UnfitObjectError
from node.fragments import DataSource, FileData, MemoryData
from node.negotiation import request
from node.outgoing import (
    MAX_CONTEXTS as MAX_CONTEXTS,
)
from node.outgoing import (
    UNCOMPRESSED as UNCOMPRESSED,
)
from node.outgoing import (
    Outgoing,
    encoded_as,
    leading_batch,
    needed_contexts,
    read_outgoing,
)
from node.peer_line import PeerLine
from node.requesting import (
    MAX_MESSAGE_ID as MAX_MESSAGE_ID,
)
from node.requesting import Answer, RequestedAssociation, UnansweredError

_LOG = logging.getLogger(__name__)

SLOWEST_LINK_BYTES_PER_S = 125_000
"""1 Mbit/s: what a poor line between two hospitals still carries."""

MOST_UNANSWERED_IN_A_ROW = 2
MOST_UNANSWERED = 4
"""Instances without an answer, after which a peer is sent nothing more: each may take its time."""

MOST_NAMED = 5
"""Offending elements that are repeated in a reason."""

DELIVERED_WITH_WARNING = frozenset({0xB000, 0xB006, 0xB007})
"""Coerced, elements discarded, does not match the SOP class; stored all the same (PS3.4 B.2.3)."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Refused for want of room (PS3.4 B.2.3)."""

TRANSIENT_FAILURES = frozenset({0x0110, 0x0210, 0x0213})
"""Processing failure, duplicate invocation, resource limitation (PS3.7 Annex C): may pass."""


DISPENSABLE = frozenset(
    {
        AdvancedBlendingPresentationStateStorage,
        DeformableSpatialRegistrationStorage,
        EncapsulatedPDFStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
        ParametricMapStorage,
    }
)
"""Few planning systems take these; the rigid registration and the resampled MR say what they need,
a probability is for review, pictures, presentation states and the PDF are for people. A peer that
negotiates none of them still has its result set."""


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


def send_instances(
    peer: Peer,
    calling_ae: str,
    paths: Sequence[Path],
    *,
    timeout_s: float,
    on_result: Callable[[InstanceDelivery], None] | None = None,
    slowest_bytes_per_s: float = SLOWEST_LINK_BYTES_PER_S,
    tls: TlsSection | None = None,
    line: PeerLine | None = None,
) -> tuple[InstanceDelivery, ...]:
    """Return what became of each instance, in the order of `paths`.

    Only the presentation contexts that the instances need are proposed; more than 128 are spread
    over several associations, one after the other. An association that was aborted, or on which
    an answer did not come in time, is not used again: that instance is NOT_ATTEMPTED, and those
    after it go over a new one, so that an object which a peer cannot stand holds up no other. A
    peer that leaves two in a row without an answer is sent nothing more. Objects are read from the
    disk one at a time.

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
        line: A line to `peer` that outlives this call and may hold an association from an earlier
            one; it knows `calling_ae` and `tls` itself. Without one, nothing is kept.

    Raises:
        DeliveryError: No association could be opened, so nothing was sent.
        UnreadableObjectError: A file is no DICOM file. Nothing was sent.
        UnfitObjectError: A file contradicts itself. Nothing was sent.
    """
    outgoing = [
        read_outgoing(path, f"file {at + 1} of {len(paths)}") for at, path in enumerate(paths)
    ]
    if not outgoing:
        return ()
    used = PeerLine(peer, calling_ae, tls=tls, idle_s=0) if line is None else line
    start_s = time.perf_counter()
    with used.held():
        sending = _Sending(used, timeout_s, slowest_bytes_per_s, on_result)
        sending.send(outgoing)
    counts = Counter(delivery.outcome.value for delivery in sending.deliveries)
    seconds = round(time.perf_counter() - start_s, 3)
    _LOG.info("delivery.batch", extra={"peer": peer.name, "seconds": seconds, **counts})
    return tuple(sending.deliveries)


class _Sending:
    """One call of `send_instances`: what became of the instances so far, in order."""

    def __init__(
        self,
        line: PeerLine,
        timeout_s: float,
        slowest_bytes_per_s: float,
        on_result: Callable[[InstanceDelivery], None] | None,
    ) -> None:
        self.deliveries: list[InstanceDelivery] = []
        self._line = line
        self._timeout_s = timeout_s
        self._slowest_bytes_per_s = slowest_bytes_per_s
        self._on_result = on_result
        self._unanswered = self._unanswered_in_a_row = 0

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send until all have an outcome.

        Raises:
            DeliveryError: The first association did not come about.
        """
        while left := outgoing[len(self.deliveries) :]:
            batch = leading_batch(left)
            try:
                assoc = self._line.association(needed_contexts(batch), self._timeout_s)
            except DeliveryError as error:
                if not self.deliveries:
                    raise
                self.deliveries += [_unconfirmed(item, str(error)) for item in left]
                return
            reason = self._send_batch(assoc, batch)
            if (
                self._unanswered_in_a_row >= MOST_UNANSWERED_IN_A_ROW
                or self._unanswered >= MOST_UNANSWERED
            ):
                left = outgoing[len(self.deliveries) :]
                self.deliveries += [_unconfirmed(item, reason) for item in left]
                return

    def _send_batch(self, assoc: RequestedAssociation, batch: Sequence[Outgoing]) -> str:
        """Send until the batch or the association ends; return why the association did."""
        was_kept = assoc.answers > 0
        for item in batch:
            try:
                delivery = self._send_instance(assoc, item)
            except UnansweredError as error:
                self._line.abort()
                if was_kept and not error.is_late:
                    return ""  # it ended while nobody looked: the same again, on a new one
                reason = f"peer {assoc.peer.name} {error}"
                self.deliveries.append(_unconfirmed(item, reason))
                self._unanswered += 1
                self._unanswered_in_a_row += 1
                return reason
            was_kept = False
            self._unanswered_in_a_row = 0
            self.deliveries.append(delivery)
            if delivery.outcome is not InstanceOutcome.NOT_ATTEMPTED and self._on_result:
                self._on_result(delivery)
            if not assoc.is_open:
                break
        return ""

    def _send_instance(self, assoc: RequestedAssociation, item: Outgoing) -> InstanceDelivery:
        """Send one instance; return its outcome.

        Raises:
            UnansweredError: There is none, and the association has ended.
        """
        accepted = [s for s in item.syntaxes if (item.sop_class_uid, s) in assoc.accepted]
        if not accepted:
            return _no_context(assoc, item)
        syntax = accepted[0]
        try:
            if syntax == item.transfer_syntax_uid:
                with FileData(item.path, item.start, item.size_bytes) as source:
                    answer = self._store(assoc, item, syntax, source)
            else:
                answer = self._store(assoc, item, syntax, MemoryData(encoded_as(item, syntax)))
        except OSError:
            return _unconfirmed(item, "our file of the object cannot be read")
        except UnfitObjectError as error:
            uid = str(item.sop_instance_uid)
            return InstanceDelivery(uid, InstanceOutcome.REFUSED_PERMANENT, None, str(error))
        outcome, reason = _judge(answer)
        return InstanceDelivery(str(item.sop_instance_uid), outcome, answer.status, reason)

    def _store(
        self, assoc: RequestedAssociation, item: Outgoing, syntax: UID, source: DataSource
    ) -> Answer:
        pace = self._line.pace
        limit_s = self._timeout_s + source.size_bytes / self._slowest_bytes_per_s
        if pace is not None:
            limit_s += source.size_bytes / pace.bytes_per_s
        return assoc.store(
            item.sop_class_uid, item.sop_instance_uid, syntax, source, limit_s=limit_s, pace=pace
        )


def echo(
    peer: Peer, calling_ae: str, *, timeout_s: float, tls: TlsSection | None = None
) -> EchoResult:
    """Return how fast a peer answers C-ECHO.

    Raises:
        DeliveryError: It cannot be reached, rejects us, or does not answer with success.
    """
    context = (Verification, ImplicitVRLittleEndian)
    assoc = request(peer, calling_ae, (context,), timeout_s, tls)
    try:
        if context not in assoc.accepted:
            raise DeliveryError(
                f"peer {peer.name} does not offer Verification (C-ECHO)",
                hint="ask its administrator whether this port is a DICOM SCP",
                is_retryable=False,
            )
        start_s = time.perf_counter()
        answer = assoc.echo(*context, limit_s=timeout_s)
        seconds = time.perf_counter() - start_s
    except UnansweredError as error:
        raise DeliveryError(
            f"peer {peer.name} accepts the association but does not answer C-ECHO: it {error}",
            hint="look into its log; a firewall may cut idle connections",
            is_retryable=True,
        ) from error
    finally:
        assoc.release()
    if answer.status != Status.SUCCESS:
        raise DeliveryError(
            f"peer {peer.name} answers C-ECHO with status 0x{answer.status:04X}",
            hint="look into its log",
            is_retryable=True,
        )
    return EchoResult(seconds)


def _no_context(assoc: RequestedAssociation, item: Outgoing) -> InstanceDelivery:
    """Return the outcome of an instance that the peer does not negotiate."""
    reason = (
        f"peer {assoc.peer.name} accepts {item.sop_class_uid.name} in none of the transfer"
        f" syntaxes offered ({', '.join(syntax.name for syntax in item.syntaxes)})"
    )
    is_dispensable = item.sop_class_uid in DISPENSABLE
    outcome = InstanceOutcome.LEFT_OUT if is_dispensable else InstanceOutcome.REFUSED_PERMANENT
    return InstanceDelivery(str(item.sop_instance_uid), outcome, None, reason)


def _judge(answer: Answer) -> tuple[InstanceOutcome, str]:
    """Return the outcome behind a C-STORE status, and its words; unknown means not delivered."""
    status = answer.status
    if status == Status.SUCCESS:
        return InstanceOutcome.SENT, ""
    words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "not a status of C-STORE"))[1]
    reason = f"status 0x{status:04X}: {words}{_details(answer)}"
    if status in DELIVERED_WITH_WARNING:
        return InstanceOutcome.WARNED, reason
    if status in OUT_OF_RESOURCES or status in TRANSIENT_FAILURES:
        return InstanceOutcome.REFUSED_TRANSIENT, reason
    return InstanceOutcome.REFUSED_PERMANENT, reason


def _details(answer: Answer) -> str:
    """Return the attributes that the peer names, by keyword, and its error number.

    Tags that the dictionary does not have are not repeated: a peer may write anything there.
    """
    keywords = [keyword_for_tag(tag) for tag in answer.offending[:MOST_NAMED]]
    details = list(dict.fromkeys(keyword or "an unknown element" for keyword in keywords))
    if answer.error_id is not None:
        details.append(f"error ID {answer.error_id}")
    return f" ({', '.join(details)})" if details else ""


def _unconfirmed(item: Outgoing, reason: str) -> InstanceDelivery:
    uid = str(item.sop_instance_uid)
    return InstanceDelivery(uid, InstanceOutcome.NOT_ATTEMPTED, None, reason)
