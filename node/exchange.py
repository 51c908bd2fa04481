"""One request of a peer that the node serves itself, and the answers to it.

pynetdicom's own service classes answer some mistakes of ours in their way and open associations by
themselves; here every status is ours. The association's own thread serves, on either transport.
Read PS3.7 section 9.1 first.
"""

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

from node.config import Peer

LONGEST_COMMENT = 64
"""Of Error Comment (0000,0902), a long string."""

MAX_MESSAGE_ID = 65_535
"""Message IDs are unsigned 16-bit numbers (PS3.7 9.3.1.1)."""

MEDIUM_PRIORITY = 0
"""Priority (0000,0700) of a C-STORE (PS3.7 9.3.1.1)."""

LOOK_EVERY_S = 0.02
"""How often the plain transport is asked whether something came."""

LOOK_FOR_END_S = 0.25
"""How often a wait for an answer looks whether the association, or the node, has ended."""

MOST_CROSSING = 4
"""Requests that may come while an answer is awaited; who keeps to PS3.7 sends one."""


@dataclass(frozen=True, slots=True)
class SubOperations:
    """How many objects of a retrieval are done (PS3.7 9.1.3 and 9.1.4)."""

    remaining: int
    completed: int
    failed: int
    warned: int


class Exchange:
    """A request and its answers.

    Args:
        assoc: The association that brought it.
        peer: Whose it is.
        request: pynetdicom's primitive.
        context: Its presentation context.
    """

    def __init__(
        self, assoc: Association, peer: Peer, request: Any, context: PresentationContext
    ) -> None:
        self.assoc = assoc
        self.peer = peer
        self.request = request
        self._context = context

    @property
    def sop_class_uid(self) -> UID:
        """The abstract syntax."""
        return UID(self._context.abstract_syntax or "")

    @property
    def transfer_syntax(self) -> UID:
        """How identifiers are encoded."""
        return self._context.transfer_syntax[0]

    @property
    def is_open(self) -> bool:
        """Whether the association stands, so that an answer can reach the peer."""
        return bool(self.assoc.is_established)

    def is_cancelled(self) -> bool:
        """Tell whether the peer asked to cancel this request, or is gone."""
        look = getattr(self.assoc, "take_what_came", None)
        if look is not None and self.is_open:
            look()
        is_asked = self.request.MessageID in self.assoc.dimse.cancel_req
        return is_asked or not self.is_open

    def respond(
        self,
        status: int,
        identifier: Dataset | None = None,
        *,
        comment: str = "",
        done: SubOperations | None = None,
        **fields: object,
    ) -> None:
        """Send a response if the association stands.

        Args:
            status: Status (0000,0900).
            identifier: Its data set, or None.
            comment: Error Comment; cut to what the standard allows.
            done: Counts of sub-operations.
            fields: Further elements of the command set, by keyword.
        """
        if not self.is_open:
            return
        response = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.Status = status
        for keyword, value in fields.items():
            setattr(response, keyword, value)
        if "AffectedSOPClassUID" not in fields:
            response.AffectedSOPClassUID = self.sop_class_uid
        if comment:
            response.ErrorComment = comment[:LONGEST_COMMENT]
        if done is not None:
            if done.remaining:
                response.NumberOfRemainingSuboperations = done.remaining
            response.NumberOfCompletedSuboperations = done.completed
            response.NumberOfFailedSuboperations = done.failed
            response.NumberOfWarningSuboperations = done.warned
        if identifier is not None:
            response.Identifier = BytesIO(encoded(identifier, self.transfer_syntax))
        context_id = self._context.context_id
        assert context_id is not None  # noqa: S101 - an accepted context has one
        self.assoc.dimse.send_msg(response, context_id)

    def contexts_to_send(self, sop_class_uid: str) -> dict[UID, int]:
        """Return in which contexts we may send objects of a class: their IDs by transfer syntax."""
        return {
            UID(context.transfer_syntax[0]): context.context_id or 0
            for context in reversed(self.assoc.accepted_contexts)
            if context.as_scu and context.abstract_syntax == sop_class_uid
        }

    def store(
        self,
        sop_class_uid: UID,
        sop_instance_uid: UID,
        content: bytes,
        context_id: int,
        message_id: int,
    ) -> int | None:
        """Send an object over the association; return the status of the answer.

        None: there is none, and the association has ended.
        """
        if not self.is_open:
            return None
        request = C_STORE()
        request.MessageID, request.Priority = message_id, MEDIUM_PRIORITY
        request.AffectedSOPClassUID = sop_class_uid
        request.AffectedSOPInstanceUID = sop_instance_uid
        request.DataSet = BytesIO(content)
        self.assoc.dimse.send_msg(request, context_id)
        answer = next_answer(self.assoc)
        if isinstance(answer, C_STORE) and answer.is_valid_response:
            return answer.Status
        if self.is_open:
            self.assoc.abort(block=False)
        return None


def caller_of(exchange: Exchange) -> tuple[str, str]:
    """Return AE title and address of who made a request."""
    requestor = exchange.assoc.requestor
    title = "" if requestor.primitive is None else requestor.primitive.calling_ae_title
    return title.strip(), requestor.address or ""


def encoded(ds: Dataset, syntax: UID) -> bytes:
    """Return a data set as it goes over the network."""
    content = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if content is None:
        raise ValueError("a data set of ours cannot be encoded")
    return content


def next_answer(assoc: Any, is_stopping: Callable[[], bool] = lambda: False) -> Any:
    """Wait for the answer on an association that nobody else reads; None: none came in time.

    What the peer asks meanwhile (its next object may cross with our report) is served afterwards.

    Args:
        assoc: The association.
        is_stopping: Ends the wait, but on an association of the fast transport: that is aborted.
    """
    asked: list[tuple[int, Any]] = []
    try:
        while len(asked) <= MOST_CROSSING:
            context_id, message = _next_message(assoc, is_stopping)
            if not getattr(message, "is_valid_request", False):
                return message
            asked.append((context_id, message))
        return None
    finally:
        for one in asked:
            assoc.dimse.msg_queue.put(one)


def _next_message(assoc: Any, is_stopping: Callable[[], bool]) -> tuple[int, Any]:
    if hasattr(assoc, "wait_for_message"):
        context_id, message = assoc.dimse.get_msg(block=True)
        return context_id or 0, message
    end_s = time.monotonic() + (assoc.dimse_timeout or float("inf"))
    while assoc.is_established and time.monotonic() < end_s and not is_stopping():
        with suppress(queue.Empty):
            context_id, message = assoc.dimse.msg_queue.get(timeout=LOOK_FOR_END_S)
            return context_id or 0, message
    return 0, None


def is_quiet(assoc: Association, for_s: float) -> bool:
    """Wait that long; tell whether the peer said nothing meanwhile, and the association stands.

    Ask in the association's own thread only.
    """
    own = getattr(assoc, "is_quiet", None)
    if own is not None:
        return bool(assoc.is_established and own(for_s))
    end_s = time.monotonic() + for_s
    while time.monotonic() < end_s:
        has_come = not assoc.dimse.msg_queue.empty() or assoc.dul.peek_next_pdu() is not None
        if has_come or not assoc.is_established or not assoc.dul.is_alive():
            return False
        time.sleep(LOOK_EVERY_S)
    return True
