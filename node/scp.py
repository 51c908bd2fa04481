"""The receiving side: who gets an association, and what happens to it.

C-ECHO and C-STORE. What belongs to an association is kept by association, never on the server.
What becomes of an object is the business of `node.intake`, how bytes travel that of
`node.transport`. Knows nothing of cases.
"""

import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_P_ABORT, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext

from node import conformance
from node.admission import LOCAL_LIMIT_EXCEEDED, Admission, Caller, Rejection
from node.audit.events import Tell, untold
from node.audit.received import tell_of_cut
from node.config import Config, Peer, Role
from node.errors import NodeError
from node.exchange import Exchange
from node.filing import Filing
from node.index import Index
from node.index.instances import AssociationOutcome, InstanceBook
from node.intake import Announcement, IncomingObject, Intake, Session
from node.journal import Journal, journal_folder
from node.listener import AssociationServer
from node.monitoring.association_watch import AssociationWatch
from node.offered import Service, application_entity, contexts_for
from node.pdu_stream import Command, LineEndedError
from node.process_name import SINGLE_NODE
from node.query.dialog import ReceivedObject
from node.recovery import Recovery
from node.storage import ObjectStore
from node.tls import ServerTls
from node.transport import Limits

LOGGER = logging.getLogger(__name__)

CONGESTED = (2, 3, 1)
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

SWEEP_S = 1.0
"""How often associations that ended without a word are looked for (plain transport)."""

WRITING_GRACE_S = 10.0
"""How long `stop` waits for objects that are being written, and for what is to be filed."""

NEGOTIATING_AT_ONCE = 32
"""Connections beyond `max_associations` that may negotiate, to be told that there are too many."""

_Event = Any
"""A pynetdicom event: its attributes are made at run time and differ by event."""

_NO_PROVIDER_REASON = 0
"""Reason of the A-P-ABORT that is issued when the connection is gone."""


class StoreScp:
    """The node as Storage and Verification SCP.

    Args:
        config: AE title, address, limits and peers.
        store: Where files go.
        index: Where rows go; its tables exist.
        clock: Gives the time, aware.
        node_run: Names this process towards the index. It must be the same after a restart, so
            that what a crash left is taken up, and another one in each process that shares the
            index.
        services: What is offered besides Storage and Verification.
        audit: The audit trail.

    Raises:
        ConfigError: Certificates or passcodes cannot be used.
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        index: Index,
        clock: Callable[[], datetime],
        *,
        node_run: str = SINGLE_NODE,
        services: Sequence[Service] = (),
        audit: Tell = untold,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._watch = AssociationWatch(audit)
        journal = Journal(journal_folder(store.root, node_run), store.disk)
        of_this_process = store, journal, InstanceBook(index), node_run
        self._recovery = Recovery(*of_this_process, partial(tell_of_cut, index, audit))
        self._filing = Filing(*of_this_process)
        self._intake = Intake(config.node, store, self._filing, clock)
        self._admission = Admission(config)
        self._tls = None if config.tls is None else ServerTls(config.tls)
        self._sessions: dict[Association, Session] = {}
        self._admitting = threading.Lock()
        """One at a time: who is admitted counts for the next."""
        self._is_recovered = False
        self._refusing = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Condition()
        self._services = tuple(services)
        self._ae = application_entity(config, self._services)
        self._servers: list[AssociationServer] = []
        self._plain_server: Any = None
        self._sweeper = threading.Thread(target=self._sweep, name="scp-sweep", daemon=True)

    def recover(self) -> None:
        """Take up what an earlier process promised, remove what it did not promise.

        Raises:
            NodeError: The disk or the database refuses.
        """
        try:
            self._recovery.recover(self._clock())
        except OSError as error:
            raise NodeError(
                f"the journal of what was received cannot be read: {error.strerror}",
                hint="look at the data folder's rights and the disk's health",
            ) from error
        self._is_recovered = True

    def start(self) -> int:
        """Listen; return the port, which the system chooses if the configured one is 0.

        Raises:
            NodeError: The address or port cannot be used, or the disk refuses.
        """
        if not self._is_recovered:
            self.recover()
        node, tls = self._config.node, self._config.tls
        self._filing.start()
        try:
            port = 0
            if self._tls is None or tls is None or not tls.require:
                port = self._listen(node.port, None)
            if self._tls is not None and tls is not None:
                tls_port = self._listen(tls.port, self._tls)
                port = port or tls_port
        except NodeError:
            self.stop()
            raise
        return port

    def _listen(self, port: int, tls: ServerTls | None) -> int:
        node = self._config.node
        try:
            if node.transport == "fast":
                found = self._listen_fast(port, tls)
            else:
                found = self._listen_plain(port)
        except OSError as error:
            key = "node.port" if tls is None else "tls.port"
            raise NodeError(
                f"cannot listen on {node.host}, port {port}: {error.strerror}",
                hint=f"choose another node.host or {key}, or stop what uses it",
            ) from error
        fields = {"host": node.host, "port": found, "transport": node.transport}
        LOGGER.info("scp.listening", extra={**fields, "tls": tls is not None})
        return found

    def _listen_fast(self, port: int, tls: ServerTls | None) -> int:
        node = self._config.node
        limits = Limits(
            connections=node.max_associations + NEGOTIATING_AT_ONCE,
            pdu_bytes=node.max_pdu_bytes,
            negotiation_s=node.negotiation_timeout_s,
            silence_s=node.network_timeout_s,
        )
        self._ae.maximum_associations = sys.maxsize  # `Admission` counts, and whom it should
        server = AssociationServer(
            self._ae,
            (node.host, port),
            self._handlers(),
            limits,
            self._begin_store,
            may_connect=self._admission.may_connect,
            on_refused=self._admission.count_rejection,
            secure=None if tls is None else tls.wrap,
        )
        self._servers.append(server)
        return server.start()

    def _listen_plain(self, port: int) -> int:
        handlers: list[Any] = [
            *self._handlers(),
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_C_STORE, self._handle_store),
        ]
        self._plain_server = self._ae.start_server(
            (self._config.node.host, port), block=False, evt_handlers=handlers
        )
        self._sweeper.start()
        return int(self._plain_server.server_address[1])

    def why_closed(self) -> str:
        """Return why no associations are admitted now, or an empty text."""
        if self._refusing.is_set():
            return "the node is stopping"
        return self._store.why_closed() or self._filing.why_closed()

    def why_stuck(self, limit_s: float) -> str:
        """Return what of the receiving side no longer works, or an empty text."""
        if self._refusing.is_set():
            return ""
        listeners = (server.why_stuck(limit_s) for server in list(self._servers))
        return self._filing.why_stuck(limit_s) or next(filter(None, listeners), "")

    def open_associations(self) -> Counter[str]:
        """Return how many associations each peer has open, by its name."""
        return Counter(session.peer.name for session in list(self._sessions.values()))

    def unfiled(self) -> tuple[int, datetime | None]:
        """Return how much of what came is not in the index yet, and since when the oldest is."""
        return self._filing.unfiled()

    def wait_until_filed(self, timeout_s: float) -> bool:
        """Wait until the index has all that was promised; tell whether that came about in time."""
        return self._filing.wait_until_filed(timeout_s)

    @contextmanager
    def taking_from(self, peer: Peer) -> Iterator[Callable[[ReceivedObject], tuple[int, str]]]:
        """Give what keeps objects that a peer sends on an association which we opened (C-GET).

        They come in as those of a C-STORE on our own listener: kept before the peer is answered.
        The peer need not have the role to send: it was asked to.
        """
        sender = peer.model_copy(update={"roles": (*peer.roles, Role.SEND)})
        session = Session(sender, peer.ae_title, peer.host, self._clock().isoformat())
        outcome = AssociationOutcome.ABORTED

        def keep(received: ReceivedObject) -> tuple[int, str]:
            announced = Announcement(
                received.sop_class_uid,
                received.sop_instance_uid,
                received.context_class_uid,
                received.transfer_syntax_uid,
            )
            incoming = self._intake.begin(session, announced)
            incoming.write([received.data_set])
            return incoming.finish()

        try:
            yield keep
            outcome = AssociationOutcome.RELEASED
        finally:
            tell = self._watch.ended(session, outcome)
            self._filing.end(session.carrier, outcome, self._clock(), tell)

    def stop(self, grace_s: float = 0.0) -> None:
        """Reject new associations, then abort the open ones, and listen no longer.

        Objects that are being written are finished, and what was promised is filed.

        Args:
            grace_s: How long open associations may end by themselves.
        """
        self._refusing.set()
        with self._ended:
            self._ended.wait_for(lambda: not self._sessions, grace_s)
        self._stopping.set()
        self._filing.refuse_more()
        for server in self._servers:
            server.stop(WRITING_GRACE_S)
        if self._plain_server is not None:
            self._abort_established()
            self._plain_server.shutdown()
            self._plain_server = None
            self._abort_established()  # those that were being negotiated meanwhile
            deadline_s = time.monotonic() + WRITING_GRACE_S
            for assoc in list(self._sessions):
                assoc.join(max(0.0, deadline_s - time.monotonic()))
        if self._sweeper.is_alive():
            self._sweeper.join(WRITING_GRACE_S)
        for assoc in list(self._sessions):
            self._end(assoc, AssociationOutcome.NODE_STOPPED)
        self._filing.stop(WRITING_GRACE_S)
        LOGGER.info("scp.stopped")

    def _abort_established(self) -> None:
        # not AE.shutdown: it also aborts what is being rejected, which breaks its state machine
        for assoc in [a for a in list(self._sessions) if a.is_established]:
            assoc.abort()

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._handle_requested),
            (evt.EVT_ESTABLISHED, self._handle_established),
            (evt.EVT_REJECTED, self._handle_rejected),
            (evt.EVT_C_ECHO, self._handle_echo),
            (evt.EVT_ACSE_RECV, self._handle_primitive),
            (evt.EVT_RELEASED, self._handle_released),
            (evt.EVT_ABORTED, self._handle_aborted),
            *((event, self._served(serve)) for s in self._services for event, serve in s.handlers),
        ]

    def _served(self, serve: Callable[[_Event, Peer], Any]) -> Callable[[_Event], Any]:
        return lambda event: serve(event, self._sessions[event.assoc].peer)

    # --- associations --------------------------------------------------------------------------

    def _handle_requested(self, event: _Event) -> None:
        """Admit or reject; pynetdicom goes on whatever this raises, so nothing may be raised."""
        try:
            self._admit(event.assoc)
        except Exception:
            LOGGER.exception("association.not_judged")
            self._sessions.pop(event.assoc, None)
            self._reject(event.assoc, Rejection(*CONGESTED, "see the log"), _caller(event.assoc))

    def _admit(self, assoc: Any) -> None:
        caller = _caller(assoc)
        why = self.why_closed()
        if why:
            self._reject(assoc, Rejection(*CONGESTED, why), caller)
            return
        with self._admitting:
            admitted = self._admission.admit(caller, self.open_associations())
            if isinstance(admitted, Peer):
                now = self._clock().isoformat()
                session = Session(admitted, caller.calling_ae, caller.address, now)
                self._sessions[assoc] = session
        if isinstance(admitted, Rejection):
            self._reject(assoc, admitted, caller)
        else:
            _confirm_identity(assoc)
            assoc.acceptor.supported_contexts = contexts_for(assoc)
            assoc._serve_request = partial(self._serve_request, assoc)
            assoc.is_admitted = True

    def _handle_established(self, event: _Event) -> None:
        session = self._sessions[event.assoc]
        session.is_established = True
        taken = {context.abstract_syntax for context in event.assoc.accepted_contexts}
        for service in self._services:
            if service.on_established is not None and service.sop_class_uid in taken:
                service.on_established(event.assoc, session.peer)

    def _handle_rejected(self, event: _Event) -> None:
        session = self._sessions.pop(event.assoc, None)  # by pynetdicom: too many associations
        if session is not None:
            how = Rejection(*LOCAL_LIMIT_EXCEEDED, "too many associations")
            self._watch.rejected(how, session.calling_ae, session.address)

    def _handle_primitive(self, event: _Event) -> None:
        session = self._sessions.get(event.assoc)
        if session is not None and isinstance(event.primitive, A_P_ABORT):
            session.is_connection_lost = event.primitive.provider_reason == _NO_PROVIDER_REASON

    def _handle_released(self, event: _Event) -> None:
        self._end(event.assoc, AssociationOutcome.RELEASED)

    def _handle_aborted(self, event: _Event) -> None:
        session = self._sessions.get(event.assoc)
        if session is None or self._stopping.is_set():
            return  # `stop` ends them when their threads have ended
        is_lost = session.is_connection_lost
        outcome = AssociationOutcome.CONNECTION_LOST if is_lost else AssociationOutcome.ABORTED
        self._end(event.assoc, outcome)

    def _sweep(self) -> None:
        """End what no event ended: a thread that finds its connection gone may die silently."""
        while not self._stopping.wait(SWEEP_S):
            for assoc in [a for a in list(self._sessions) if a.ident and not a.is_alive()]:
                self._end(assoc, AssociationOutcome.CONNECTION_LOST)

    def _end(self, assoc: Association, outcome: AssociationOutcome) -> None:
        session = self._sessions.pop(assoc, None)
        if session is None:
            return
        with self._ended:
            self._ended.notify_all()
        if not session.is_established:
            return
        tell = self._watch.ended(session, outcome)
        self._filing.end(session.carrier, outcome, self._clock(), tell)

    def _reject(self, assoc: Association, how: Rejection, caller: Caller) -> None:
        self._watch.rejected(how, caller.calling_ae, caller.address)
        assoc.acse.send_reject(how.result, how.source, how.reason)
        assoc.kill()  # returns when the rejection is sent and the connection closed

    # --- services ------------------------------------------------------------------------------

    def _serve_request(self, assoc: Any, message: Any, context_id: int) -> None:
        """Serve a request ourselves where a service says so, else let pynetdicom do it."""
        context, session = assoc._accepted_cx.get(context_id), self._sessions.get(assoc)
        serve = next(
            (
                serve
                for service in self._services
                for kind, serve in service.serves
                if context is not None
                and service.sop_class_uid == context.abstract_syntax
                and isinstance(message, kind)
            ),
            None,
        )
        if serve is None or session is None or not message.is_valid_request:
            Association._serve_request(assoc, message, context_id)
            return
        exchange = Exchange(assoc, session.peer, message, context)
        assoc.dimse.cancel_req = {}  # one that came too late names an ID that may be used again
        assoc._is_paused = True  # what we send over it waits for that
        try:
            serve(exchange)
        except (LineEndedError, TimeoutError):
            raise
        except Exception as error:
            LOGGER.exception("request.failed", extra={"peer": session.peer.name})
            exchange.respond(
                conformance.status_of(error)
                if isinstance(error, NodeError)
                else conformance.PROCESSING_FAILURE
            )
        finally:
            assoc._is_paused = False
            assoc.dimse.cancel_req = {}

    def _handle_echo(self, event: _Event) -> int:
        self._sessions[event.assoc].counts["echoes"] += 1
        return conformance.SUCCESS

    def _begin_store(
        self, assoc: Association, context: PresentationContext, command: Command
    ) -> IncomingObject:
        announced = Announcement(
            command.sop_class_uid,
            command.sop_instance_uid,
            str(context.abstract_syntax),
            str(context.transfer_syntax[0]),
        )
        return self._intake.begin(self._sessions[assoc], announced)

    def _handle_store(self, event: _Event) -> Dataset:
        """Answer one C-STORE that pynetdicom received (plain transport)."""
        request, context = event.request, event.context
        announced = Announcement(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(context.abstract_syntax),
            str(context.transfer_syntax),
        )
        incoming = self._intake.begin(self._sessions[event.assoc], announced)
        incoming.write([event.encoded_dataset(include_meta=False)])
        answer = Dataset()
        answer.Status, comment = incoming.finish()
        if comment:
            answer.ErrorComment = comment
        return answer


def _send_at_once(event: _Event) -> None:
    """Send responses without waiting for more to send: senders wait for each of them."""
    connection = event.assoc.dul.socket.socket
    with suppress(OSError):  # gone already
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _caller(assoc: Any) -> Caller:
    request, identity = assoc.requestor.primitive, assoc.requestor.user_identity
    return Caller(
        calling_ae=request.calling_ae_title.strip(),
        called_ae=request.called_ae_title.strip(),
        address=assoc.requestor.address,
        certificate=getattr(assoc, "certificate", None),
        username=None if identity is None else identity.primary_field,
        passcode=None if identity is None else identity.secondary_field,
        identity_type=None if identity is None else identity.user_identity_type,
    )


def _confirm_identity(assoc: Any) -> None:
    """Answer a user identity that wants to be answered (PS3.7 D.3.3.7.2)."""
    identity = assoc.requestor.user_identity
    if identity is not None and identity.positive_response_requested:
        answer = UserIdentityNegotiation()
        answer.server_response = b""
        assoc.acceptor.add_negotiation_item(answer)
