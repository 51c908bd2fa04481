"""One association with a peer that is asked: requests go out, every answer comes back, or an end.

Reads answers itself instead of through pynetdicom's `send_c_find` and its kin: a peer that answers
without end, stops in the middle or sends what nobody asked for must end in an error that names it,
and a retrieval may go on for long as long as something moves. Uses some private names of
pynetdicom, which is therefore pinned.
"""

import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

from node.association import OpenAssociation, open_association
from node.config import Peer, TlsSection
from node.errors import QueryError
from node.query.statuses import is_pending

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""In which identifiers are sent and read, the preferred one first."""

POLL_S = 0.5
"""How often a wait for an answer looks whether anything moved meanwhile."""

CANCEL_GRACE_S = 5.0
"""How long a peer may take to stop after a C-CANCEL, before the association is aborted."""

MEDIUM_PRIORITY = 0
"""PS3.7 9.3.2.1: the usual priority."""

_PAUSED_LOOKS = 3
_PAUSE_LOOK_S = 0.002
"""The reactor counts as paused one step too early: it must be seen so several times in a row."""

Request = C_FIND | C_MOVE | C_GET


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """One response; `identifier` is still encoded, as `transfer_syntax_uid` says."""

    status: int
    identifier: bytes
    transfer_syntax_uid: str
    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warned: int = 0


@dataclass(frozen=True, slots=True)
class ReceivedObject:
    """An object that the peer sends on this association (C-GET)."""

    sop_class_uid: str
    sop_instance_uid: str
    context_class_uid: str
    transfer_syntax_uid: str
    data_set: bytes


Store = Callable[[ReceivedObject], tuple[int, str]]
"""Keeps an object and returns the status and comment of the answer (see `node.intake`)."""


class Dialog:
    """Requests and answers on one association.

    Args:
        opened: The association.
        timeout_s: How long an answer may take in which nothing moves.
        is_stopping: Tells that whoever waits wants to end.
    """

    def __init__(
        self, opened: OpenAssociation, timeout_s: float, is_stopping: Callable[[], bool]
    ) -> None:
        self.peer = opened.peer
        self._opened = opened
        self._assoc: Association = opened.assoc
        self._timeout_s = timeout_s
        self._is_stopping = is_stopping
        self._message_id = 0

    def accepted_model(self, models: Sequence[UID]) -> UID | None:
        """Return the first of these SOP classes that the peer took, or None."""
        taken = {context.abstract_syntax for context in self._assoc.accepted_contexts}
        return next((model for model in models if model in taken), None)

    def ask(
        self,
        request: Request,
        model: UID,
        identifier: Dataset,
        *,
        store: Store | None = None,
        moved: Callable[[], object] = lambda: None,
        longest_s: float = float("inf"),
    ) -> Generator[Answer, None, None]:
        """Send a request and yield each answer, the final one last.

        Whoever takes no more answers must `cancel` before the generator is closed, or let an
        exception abort the association.

        Args:
            request: Of the service; filled here.
            model: SOP class, as of `accepted_model`.
            identifier: What is asked.
            store: Where objects go that come on this association; None: they are refused.
            moved: Anything that changes while the peer works, though it says nothing.
            longest_s: When the request is broken off, however much moves.

        Raises:
            QueryError: The peer broke off, answered out of turn, or not in time.
        """
        context = self._context_of(model)
        syntax = context.transfer_syntax[0]
        raw = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, False)
        if raw is None:
            raise QueryError("the question cannot be encoded", is_retryable=False)
        self._message_id += 1
        request.MessageID = self._message_id
        request.AffectedSOPClassUID = model
        request.Priority = MEDIUM_PRIORITY
        attribute = "Identifier"
        setattr(request, attribute, BytesIO(raw))
        end_s = time.monotonic() + longest_s
        with _paused(self._assoc):
            self._assoc.dimse.send_msg(request, _id_of(context))
            while True:
                answer = self._answer(type(request), str(syntax), store, moved, end_s)
                yield answer
                if not is_pending(answer.status):
                    return

    def cancel(self, model: UID) -> None:
        """Ask the peer to stop answering the latest request (C-CANCEL), then wait no longer.

        The association is of no use afterwards: answers may still be under way.
        """
        request = C_CANCEL()
        request.MessageIDBeingRespondedTo = self._message_id
        with _paused(self._assoc):
            if self._assoc.is_established:
                self._assoc.dimse.send_msg(request, _id_of(self._context_of(model)))
            deadline_s = time.monotonic() + CANCEL_GRACE_S
            while time.monotonic() < deadline_s and not self._is_broken():
                message = self._message(POLL_S)
                status = getattr(message, "Status", None)
                if status is not None and not is_pending(int(status)):
                    return
        self._opened.abort()

    def _answer(
        self,
        kind: type,
        syntax: str,
        store: Store | None,
        moved: Callable[[], object],
        end_s: float,
    ) -> Answer:
        """Return the next response, keeping objects that come before it."""
        before = moved()
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            message = self._message(POLL_S)
            if time.monotonic() > end_s:
                raise self._error("does not come to an end of its sending")
            if message is None:
                if self._is_broken():
                    raise self._error("broke off the association in the middle of its answers")
                if self._is_stopping():
                    raise self._error("was not waited for: the node stops")
                now = moved()
                if now != before:
                    before, deadline_s = now, time.monotonic() + self._timeout_s
                if time.monotonic() > deadline_s:
                    raise self._error(f"did not answer within {self._timeout_s:g} s")
            elif isinstance(message, C_STORE) and message.is_valid_request:
                self._keep(message, store)
                deadline_s = time.monotonic() + self._timeout_s
            elif not isinstance(message, kind) or not getattr(message, "is_valid_response", False):
                raise self._error("answered with a message that is no answer to the question")
            elif getattr(message, "MessageIDBeingRespondedTo", None) == self._message_id:
                return _answer_in(message, syntax)

    def _message(self, wait_s: float) -> Any:
        try:
            _, message = self._assoc.dimse.msg_queue.get(timeout=wait_s)
        except queue.Empty:
            return None
        return message

    def _is_broken(self) -> bool:
        assoc = self._assoc
        return assoc.acse.is_aborted() or not assoc.is_established or not assoc.dul.is_alive()

    def _keep(self, request: C_STORE, store: Store | None) -> None:
        """Answer a C-STORE that came on our association."""
        response = C_STORE()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        context = self._assoc._accepted_cx.get(request._context_id or 0)
        if store is None or context is None:
            raise self._error("sent an object that was not asked for on this association")
        data_set = request.DataSet
        response.Status, comment = store(
            ReceivedObject(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(context.abstract_syntax),
                str(context.transfer_syntax[0]),
                b"" if data_set is None else data_set.getvalue(),
            )
        )
        if comment:
            response.ErrorComment = comment  # type: ignore[assignment]  # typed too narrowly
        self._assoc.dimse.send_msg(response, _id_of(context))

    def _context_of(self, model: UID) -> PresentationContext:
        for context in self._assoc.accepted_contexts:
            if context.abstract_syntax == model:
                return context
        raise QueryError(
            f"peer {self.peer.name} does not take the question: no presentation context for it",
            hint="look into its conformance statement: is it a query/retrieve SCP?",
            is_retryable=False,
        )

    def _error(self, what: str) -> QueryError:
        return QueryError(
            f"peer {self.peer.name} {what}", hint="look into its log", is_retryable=True
        )


@contextmanager
def open_dialog(
    peer: Peer,
    calling_ae: str,
    models: Sequence[UID],
    *,
    timeout_s: float,
    tls: TlsSection | None = None,
    taken: Sequence[PresentationContext] = (),
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Dialog]:
    """Open an association for questions in these models, and close it at the end.

    Args:
        peer: Who is asked.
        calling_ae: Our AE title.
        models: Information models (SOP classes) that are proposed.
        timeout_s: For the association, and for each answer in which nothing moves.
        tls: As of `open_association`.
        taken: Contexts in which the peer may send us objects on this association (C-GET).
        is_stopping: Ends every wait.

    Raises:
        DeliveryError: The association did not come about.
        QueryError: The dialog did not end as it should; the association was aborted.
    """
    wanted = [(model, syntax) for model in models for syntax in SYNTAXES]
    with open_association(peer, calling_ae, wanted, timeout_s, tls, taken=taken) as opened:
        yield Dialog(opened, timeout_s, is_stopping)


@contextmanager
def _paused(assoc: Association) -> Iterator[None]:
    """Keep pynetdicom's reactor from taking answers that are waited for here."""
    assoc._reactor_checkpoint.clear()
    try:
        seen = 0
        while seen < _PAUSED_LOOKS and assoc.is_alive():
            time.sleep(_PAUSE_LOOK_S)
            seen = seen + 1 if assoc._is_paused else 0
        yield
    finally:
        assoc._reactor_checkpoint.set()


def _id_of(context: PresentationContext) -> int:
    assert context.context_id is not None  # noqa: S101 - negotiated
    return context.context_id


def _answer_in(message: Any, syntax: str) -> Answer:
    identifier = message.Identifier
    counts = {
        field: int(getattr(message, f"NumberOf{word}Suboperations", None) or 0)
        for field, word in (
            ("remaining", "Remaining"),
            ("completed", "Completed"),
            ("failed", "Failed"),
            ("warned", "Warning"),
        )
    }
    raw = b"" if identifier is None else identifier.getvalue()
    return Answer(int(message.Status), raw, syntax, **counts)
