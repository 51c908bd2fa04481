"""C-MOVE and C-GET as SCP over our results (PS3.4 C.4.2 and C.4.3).

C-MOVE sends over a new association, to a configured peer only; C-GET over the association of the
request, in the contexts in which its peer took the role of the SCP. Each object counts once, by
what the receiver answered; an object that was not answered has failed.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydicom import Dataset
from pydicom.uid import UID

from node.answering.catalogue import ResultReader
from node.answering.identifier import Query, read_query, require_unique_keys
from node.answering.keys import MOST_RETRIEVED, MOVES_PER_PEER, Level
from node.audit.events import AuditEvent, Kind, Tell, untold
from node.compute_job import RESULTS_FOLDER
from node.config import Config, Peer, Role
from node.conformance import (
    CANCELLED,
    DESTINATION_UNKNOWN,
    DOES_NOT_MATCH_SOP_CLASS,
    NOT_AUTHORISED,
    PENDING,
    SOME_FAILED,
    SUCCESS,
    UNABLE_TO_COUNT,
    UNABLE_TO_PERFORM,
)
from node.delivery import (
    DELIVERED_WITH_WARNING,
    InstanceDelivery,
    InstanceOutcome,
    send_instances,
)
from node.errors import DeliveryError, NodeError, UnfitObjectError, UnreadableObjectError
from node.exchange import MAX_MESSAGE_ID, Exchange, SubOperations, caller_of
from node.index.catalogue import Catalogue, ResultObject
from node.outgoing import Outgoing, encoded_as, read_outgoing
from node.peer_line import PeerLine

LOGGER = logging.getLogger(__name__)


def case_of_path(path: str) -> str:
    """Return the case that a result belongs to, by its path in the data folder."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 1 and parts[0] == RESULTS_FOLDER else ""


class _CancelledError(Exception):
    """The peer wants no more, or is gone."""


@dataclass(slots=True)
class _Progress:
    """What became of the objects so far."""

    exchange: Exchange
    total: int
    completed: int = 0
    warned: int = 0
    taken: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    @property
    def done(self) -> SubOperations:
        """The counts of a response."""
        count = self.completed + self.warned + len(self.failed)
        return SubOperations(self.total - count, self.completed, len(self.failed), self.warned)

    def note(self, sop_instance_uid: str, outcome: InstanceOutcome) -> None:
        """Count one object and tell the peer.

        Raises:
            _CancelledError: It wants no more.
        """
        if outcome is InstanceOutcome.SENT:
            self.completed += 1
        elif outcome is InstanceOutcome.WARNED:
            self.warned += 1
        else:
            self.failed.append(sop_instance_uid)
        if outcome.is_delivered:
            self.taken.add(sop_instance_uid)
        if not self.done.remaining:
            return
        if self.exchange.is_cancelled():
            raise _CancelledError
        self.exchange.respond(PENDING, done=self.done)

    def finish(self, *, is_cancelled: bool, comment: str = "") -> int:
        """Give the last response; return its status."""
        if is_cancelled:
            status = CANCELLED
        elif self.total and len(self.failed) == self.total:
            status = UNABLE_TO_PERFORM
        else:
            status = SOME_FAILED if self.failed or self.warned else SUCCESS
        identifier = None
        if status != SUCCESS:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = self.failed
        self.exchange.respond(status, identifier, done=self.done, comment=comment)
        return status


class Retriever:
    """Answers C-MOVE and C-GET.

    Args:
        config: Peers, time limits, our AE title.
        catalogue: Our results.
        reader: Brings it up to date.
        audit: The audit trail.
    """

    def __init__(
        self, config: Config, catalogue: Catalogue, reader: ResultReader, audit: Tell = untold
    ) -> None:
        self._config = config
        self._audit = audit
        self._catalogue = catalogue
        self._reader = reader
        self._busy: Counter[str] = Counter()
        self._lines: set[PeerLine] = set()
        self._is_stopping = False
        self._counting = threading.Lock()
        """Guards the three above."""

    def stop(self) -> None:
        """Break off what is being sent to destinations; their peers are told that it failed."""
        with self._counting:
            self._is_stopping = True
            lines = list(self._lines)
        for line in lines:
            line.cut()

    def serve_move(self, exchange: Exchange) -> None:
        """Answer one C-MOVE."""
        title = str(exchange.request.MoveDestination or "").strip()
        destination = next(
            (p for p in self._config.peer if p.ae_title == title and Role.RECEIVE in p.roles), None
        )

        def move(objects: Sequence[ResultObject], progress: _Progress) -> str:
            assert destination is not None  # noqa: S101 - looked at before
            return self._send(destination, objects, progress)

        refusal = DESTINATION_UNKNOWN if destination is None else None
        self._serve(exchange, move, refusal, destination or exchange.peer)

    def serve_get(self, exchange: Exchange) -> None:
        """Answer one C-GET."""
        self._serve(exchange, self._give, None, exchange.peer)

    def _serve(
        self,
        exchange: Exchange,
        send: Callable[[Sequence[ResultObject], _Progress], str],
        refusal: int | None,
        receiver: Peer,
    ) -> None:
        peer = exchange.peer
        fields: dict[str, object] = {"peer": peer.name}
        if Role.RECEIVE not in peer.roles:
            exchange.respond(NOT_AUTHORISED, comment="the role receive is needed")
            return
        if refusal is not None:
            exchange.respond(refusal, comment="no configured peer with the role receive")
            LOGGER.info("retrieval.refused", extra={**fields, "status": f"0x{refusal:04X}"})
            return
        try:
            objects = self._wanted(exchange)
        except (UnreadableObjectError, UnfitObjectError) as error:
            exchange.respond(DOES_NOT_MATCH_SOP_CLASS, comment=str(error))
            LOGGER.info("retrieval.refused", extra={**fields, "reason": str(error)})
            return
        if len(objects) > MOST_RETRIEVED:
            exchange.respond(UNABLE_TO_COUNT, comment=f"more than {MOST_RETRIEVED} objects")
            return
        with self._turn(peer) as has_turn:
            if not has_turn:
                exchange.respond(UNABLE_TO_PERFORM, comment="too many retrievals of this peer")
                LOGGER.warning("retrieval.refused", extra={**fields, "reason": "too many"})
                return
            progress = _Progress(exchange, len(objects))
            is_cancelled, comment = False, ""
            self._tell(Kind.BEGIN_SENDING, exchange, receiver, objects)
            try:
                comment = send(objects, progress) if objects else ""
            except _CancelledError:
                is_cancelled = True
            status = progress.finish(is_cancelled=is_cancelled, comment=comment)
        counts = {"completed": progress.completed + progress.warned, "failed": len(progress.failed)}
        LOGGER.info("retrieval.ended", extra={**fields, **counts, "status": f"0x{status:04X}"})
        taken = [one for one in objects if one.sop_instance_uid in progress.taken]
        missed = [one for one in objects if one.sop_instance_uid not in progress.taken]
        self._tell(Kind.SENT, exchange, receiver, taken)
        self._tell(Kind.SENT, exchange, receiver, missed, reason=f"status 0x{status:04X}")

    def _tell(
        self,
        kind: Kind,
        exchange: Exchange,
        receiver: Peer,
        objects: Sequence[ResultObject],
        *,
        reason: str = "",
    ) -> None:
        """Tell the audit trail what goes to whom, case by case."""
        asker, address = caller_of(exchange)
        is_asker = receiver is exchange.peer
        by_case: dict[str, Counter[str]] = {}
        for one in objects:
            by_case.setdefault(case_of_path(one.path), Counter())[one.sop_class_uid] += 1
        for case_id, classes in by_case.items():
            what = {
                "case_id": case_id,
                "peer": receiver.name,
                "ae_title": asker if is_asker else receiver.ae_title,
                "sop_classes": " ".join(f"{uid}={count}" for uid, count in classes.items()),
                **({"reason": reason} if reason else {}),
            }
            place = address if is_asker else receiver.host
            self._audit(AuditEvent(kind, asker, place, "failure" if reason else "success", what))

    @contextmanager
    def _turn(self, peer: Peer) -> Iterator[bool]:
        with self._counting:
            has_turn = self._busy[peer.name] < MOVES_PER_PEER
            self._busy[peer.name] += has_turn
        try:
            yield has_turn
        finally:
            with self._counting:
                self._busy[peer.name] -= has_turn

    def _wanted(self, exchange: Exchange) -> list[ResultObject]:
        """Return the objects that a request names, each once.

        Raises:
            UnreadableObjectError: Its identifier cannot be parsed.
            UnfitObjectError: It names nothing.
        """
        raw, model = exchange.request.Identifier, exchange.sop_class_uid
        encoded = b"" if raw is None else raw.getvalue()
        query = read_query(encoded, exchange.transfer_syntax, model)
        require_unique_keys(query, model, is_retrieval=True)
        self._reader.catch_up()
        found = {one.sop_instance_uid: one for one in self._objects(query)}
        return list(found.values())

    def _objects(self, query: Query) -> Iterator[ResultObject]:
        studies, series = query.uids("StudyInstanceUID"), query.uids("SeriesInstanceUID")
        uids = query.uids("SOPInstanceUID") if query.level is Level.IMAGE else None
        patients = query.uids("PatientID")
        if patients is not None:
            rows = self._catalogue.series(patient_ids=patients, studies=studies, series=series)
            series = tuple({row.series for row in rows})
        for _, one in self._catalogue.objects(
            studies=studies, series=series, sop_instance_uids=uids
        ):
            yield one

    # --- C-MOVE --------------------------------------------------------------------------------

    def _send(self, to: Peer, objects: Sequence[ResultObject], progress: _Progress) -> str:
        """Send to a destination; return what to tell of it, or an empty text.

        Raises:
            _CancelledError: The peer wants no more.
        """
        paths = [self._path(one) for one in objects if self._is_sound(one)]
        decided: set[str] = set()

        def note(answer: InstanceDelivery) -> None:
            decided.add(answer.sop_instance_uid)
            progress.note(answer.sop_instance_uid, answer.outcome)

        comment = "" if len(paths) == len(objects) else "some results cannot be read"
        try:
            with self._line(to) as line:
                send_instances(
                    to,
                    self._config.node.ae_title,
                    paths,
                    timeout_s=self._config.node.network_timeout_s,
                    on_result=note,
                    line=line,
                )
        except (DeliveryError, UnreadableObjectError, UnfitObjectError) as error:
            comment = str(error)
            LOGGER.warning("retrieval.not_sent", extra={"peer": to.name, "reason": comment})
        uids = (one.sop_instance_uid for one in objects)
        progress.failed += [uid for uid in uids if uid not in decided]  # no answer, at any place
        return comment

    @contextmanager
    def _line(self, to: Peer) -> Iterator[PeerLine]:
        """Give a line to a destination that `stop` can cut."""
        line = PeerLine(to, self._config.node.ae_title, tls=self._config.tls, idle_s=0)
        with self._counting:
            self._lines.add(line)
            is_stopping = self._is_stopping
        if is_stopping:
            line.cut()
        try:
            yield line
        finally:
            with self._counting:
                self._lines.discard(line)

    def _is_sound(self, one: ResultObject) -> bool:
        """Tell whether a file can be sent: one that cannot must not keep back the others."""
        try:
            read_outgoing(self._path(one), "a result")
        except (UnreadableObjectError, UnfitObjectError) as error:
            fields = {"path": one.path, "reason": str(error)}
            LOGGER.warning("retrieval.not_sent", extra=fields)
            return False
        return True

    def _path(self, one: ResultObject) -> Path:
        return self._config.node.data / one.path

    # --- C-GET ---------------------------------------------------------------------------------

    def _give(self, objects: Sequence[ResultObject], progress: _Progress) -> str:
        """Send over the association of the request.

        Raises:
            _CancelledError: The peer wants no more, or is gone.
        """
        exchange = progress.exchange
        for at, one in enumerate(objects):
            message_id = (exchange.request.MessageID + at) % MAX_MESSAGE_ID + 1
            outcome = self._give_one(exchange, one, message_id)
            progress.note(one.sop_instance_uid, outcome)
        return ""

    def _give_one(self, exchange: Exchange, one: ResultObject, message_id: int) -> InstanceOutcome:
        """Send one object in the syntax in which it lies, else re-encoded, where that is taken."""
        taken = exchange.contexts_to_send(one.sop_class_uid)
        try:
            item = read_outgoing(self._path(one), "a result")
            syntax = next((each for each in item.syntaxes if each in taken), None)
            if syntax is None:
                return InstanceOutcome.NOT_ATTEMPTED
            content = _content(item, syntax)
        except (OSError, UnreadableObjectError, UnfitObjectError) as error:
            reason = str(error) if isinstance(error, NodeError) else "a file cannot be read"
            LOGGER.warning("retrieval.not_sent", extra={"path": one.path, "reason": reason})
            return InstanceOutcome.NOT_ATTEMPTED
        status = exchange.store(
            item.sop_class_uid, item.sop_instance_uid, content, taken[syntax], message_id
        )
        if status is None:
            raise _CancelledError
        if status == SUCCESS:
            return InstanceOutcome.SENT
        if status in DELIVERED_WITH_WARNING:
            return InstanceOutcome.WARNED
        return InstanceOutcome.REFUSED_PERMANENT


def _content(item: Outgoing, syntax: UID) -> bytes:
    if syntax != item.transfer_syntax_uid:
        return encoded_as(item, syntax)
    with item.path.open("rb") as file:
        file.seek(item.start)
        return file.read()
