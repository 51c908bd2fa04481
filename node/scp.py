"""The receiving side: C-ECHO and C-STORE.

Success is answered only when file and index row survive a power cut. Bytes are kept as sent; no
data set is decoded here. What belongs to an association is kept by association, never on the
server. Knows nothing of cases: it tells `on_change` that something changed.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import A_P_ABORT

from node import conformance
from node.config import Config, Peer, Role
from node.element_reader import PREAMBLE_BYTES, PREFIX
from node.errors import NodeError, UnfitObjectError
from node.header import InstanceHeader, header_from_bytes
from node.index import Index
from node.index.instances import Added, AssociationOutcome, InstanceBook
from node.log import IDENTIFIERS
from node.storage import ObjectStore

LOGGER = logging.getLogger(__name__)

SINGLE_NODE = "node"
"""Names the receiving process where there is only one; the same after a restart."""

CALLING_AE_UNKNOWN = (1, 1, 3)
CALLED_AE_UNKNOWN = (1, 1, 7)
CONGESTED = (2, 3, 1)
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

SWEEP_S = 1.0
"""How often associations that ended without a word are looked for."""

WRITING_GRACE_S = 10.0
"""How long `stop` waits for each object that is being written."""

ERROR_COMMENT_CHARACTERS = 64
"""Longest Error Comment (0000,0902), VR LO."""

_Event = Any
"""A pynetdicom event: its attributes are made at run time and differ by event."""

_NO_PROVIDER_REASON = 0
"""Reason of the A-P-ABORT that pynetdicom issues when the connection is gone."""


@dataclass(slots=True)
class _Session:
    """One association; used by its own thread, and by the sweep once that thread has ended."""

    peer: Peer
    calling_ae: str
    address: str
    opened_at: datetime
    started_s: float
    association_id: int | None = None
    is_established: bool = False
    is_connection_lost: bool = False
    size_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class StoreScp:
    """The node as Storage and Verification SCP.

    Args:
        config: AE title, address, limits and peers.
        store: Where files go.
        index: Where rows go; its tables exist.
        clock: Gives the time, aware.
        on_change: Called after an object was added and after an association ended; must be quick.
        node_run: Names this process towards the index. It must be the same after a restart, so
            that associations left open by a crash are closed, and another one in each process
            that shares the index.
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        index: Index,
        clock: Callable[[], datetime],
        on_change: Callable[[], None],
        *,
        node_run: str = SINGLE_NODE,
    ) -> None:
        self._config = config
        self._store = store
        self._instances = InstanceBook(index)
        self._clock = clock
        self._on_change = on_change
        self._node_run = node_run
        self._sessions: dict[Association, _Session] = {}
        self._refusing = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Condition()
        self._ae = _application_entity(config)
        self._server: Any = None
        self._sweeper = threading.Thread(target=self._sweep, name="scp-sweep", daemon=True)

    def start(self) -> int:
        """Listen; return the port, which the system chooses if the configured one is 0.

        Raises:
            NodeError: The address or port cannot be used.
        """
        node = self._config.node
        closed = self._instances.close_abandoned_associations(self._node_run, self._clock())
        if closed:
            LOGGER.warning("associations.abandoned", extra={"count": closed})
        try:
            self._server = self._ae.start_server(
                (node.host, node.port), block=False, evt_handlers=self._handlers()
            )
        except OSError as error:
            raise NodeError(
                f"cannot listen on {node.host}, port {node.port}: {error.strerror}",
                hint="choose another node.host or node.port, or stop what uses it",
            ) from error
        self._sweeper.start()
        port = int(self._server.server_address[1])
        LOGGER.info("scp.listening", extra={"host": node.host, "port": port})
        return port

    def stop(self, grace_s: float = 0.0) -> None:
        """Reject new associations, then abort the open ones, and listen no longer.

        Objects that are being written are finished.

        Args:
            grace_s: How long open associations may end by themselves.
        """
        self._refusing.set()
        with self._ended:
            self._ended.wait_for(lambda: not self._sessions, grace_s)
        self._stopping.set()
        self._abort_established()
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        self._abort_established()  # those that were being negotiated meanwhile
        for assoc in list(self._sessions):
            assoc.join(WRITING_GRACE_S)
        if self._sweeper.is_alive():
            self._sweeper.join(WRITING_GRACE_S)
        for assoc in list(self._sessions):
            self._end(assoc, AssociationOutcome.NODE_STOPPED)
        LOGGER.info("scp.stopped")

    def _abort_established(self) -> None:
        # not AE.shutdown: it also aborts what is being rejected, which breaks its state machine
        for assoc in [a for a in list(self._sessions) if a.is_established]:
            assoc.abort()

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_REQUESTED, self._handle_requested),
            (evt.EVT_ESTABLISHED, self._handle_established),
            (evt.EVT_REJECTED, self._handle_rejected),
            (evt.EVT_C_ECHO, self._handle_echo),
            (evt.EVT_C_STORE, self._handle_store),
            (evt.EVT_ACSE_RECV, self._handle_primitive),
            (evt.EVT_RELEASED, self._handle_released),
            (evt.EVT_ABORTED, self._handle_aborted),
        ]

    # --- associations --------------------------------------------------------------------------

    def _handle_requested(self, event: _Event) -> None:
        assoc, request = event.assoc, event.assoc.requestor.primitive
        calling_ae, address = request.calling_ae_title.strip(), assoc.requestor.address
        peer = self._config.peer_for(calling_ae, address)
        if self._refusing.is_set():
            _reject(assoc, CONGESTED, "the node is stopping", calling_ae, address)
        elif request.called_ae_title.strip() != self._config.node.ae_title:
            _reject(assoc, CALLED_AE_UNKNOWN, "called AE title is not ours", calling_ae, address)
        elif peer is None:
            _reject(assoc, CALLING_AE_UNKNOWN, "no peer is so called", calling_ae, address)
        else:
            self._sessions[assoc] = _Session(
                peer, calling_ae, address, self._clock(), time.monotonic()
            )

    def _handle_established(self, event: _Event) -> None:
        self._sessions[event.assoc].is_established = True

    def _handle_rejected(self, event: _Event) -> None:
        session = self._sessions.pop(event.assoc, None)  # by pynetdicom: too many associations
        if session is not None:
            _log_rejected("too many associations", session.calling_ae, session.address)

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
        if session is None or not session.is_established:
            return
        with self._ended:
            self._ended.notify_all()
        try:
            if session.association_id is not None:
                now = self._clock()
                self._instances.close_association(session.association_id, outcome, now)
        except Exception:
            LOGGER.exception("association.not_closed")
        LOGGER.info("association.closed", extra=_summary(session, outcome))
        self._tell()

    def _tell(self) -> None:
        try:
            self._on_change()
        except Exception:
            LOGGER.exception("scp.listener_failed")

    # --- services ------------------------------------------------------------------------------

    def _handle_echo(self, event: _Event) -> int:
        self._sessions[event.assoc].counts["echoes"] += 1
        return conformance.SUCCESS

    def _handle_store(self, event: _Event) -> int | Dataset:
        """Answer one C-STORE; whatever happens, the association lives on.

        The promise: `_keep` returns when the object is on stable storage, and only then is success
        answered.
        """
        session = self._sessions.get(event.assoc)
        if session is None or Role.SEND not in session.peer.roles:
            return _refused(session, conformance.NOT_AUTHORISED, "this peer may not send")
        try:
            added = self._keep(event, session)
        except NodeError as error:
            return _refused(session, conformance.status_of(error), str(error))
        except Exception:
            LOGGER.exception("store.failed", extra={"peer": session.peer.name})
            return _refused(session, conformance.PROCESSING_FAILURE, "see the log of the node")
        if added.is_new:
            self._tell()
        return conformance.SUCCESS

    def _keep(self, event: _Event, session: _Session) -> Added:
        """Return when the object survives a power cut: file synced and renamed, row committed."""
        encoded = event.encoded_dataset(include_meta=False)
        header = header_from_bytes(encoded, event.context.transfer_syntax)
        IDENTIFIERS.remember(header.patient_name, header.patient_id, header.patient_birth_date)
        _refuse_mismatch(header, event)
        stored = self._store.write(_file_header(header), encoded, header.sop_instance_uid)
        association_id, now = self._recorded(session), self._clock()
        added = self._instances.add_instance(header, stored, association_id, session.peer.name, now)
        session.size_bytes += len(encoded)
        session.counts["stored" if added.is_new else "known"] += 1
        session.counts["replaced"] += added.replaces_other_content
        return added

    def _recorded(self, session: _Session) -> int:
        """Return the association's row, written when its first object comes."""
        if session.association_id is None:
            session.association_id = self._instances.open_association(
                calling_ae=session.calling_ae,
                peer_name=session.peer.name,
                address=session.address,
                opened_at=session.opened_at,
                node_run=self._node_run,
            )
        return session.association_id


def _application_entity(config: Config) -> AE:
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    ae = AE(config.node.ae_title)
    ae.maximum_associations = config.node.max_associations
    ae.maximum_pdu_size = conformance.MAX_PDU_BYTES
    ae.implementation_class_uid = conformance.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = conformance.IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = config.node.network_timeout_s
    ae.dimse_timeout = config.node.network_timeout_s
    ae.network_timeout = config.node.network_timeout_s
    ae.add_supported_context(conformance.VERIFICATION, list(conformance.SENT_SYNTAXES))
    for row in conformance.ACCEPTED:
        ae.add_supported_context(row.sop_class_uid, list(row.transfer_syntaxes))
    return ae


def _send_at_once(event: _Event) -> None:
    """Send responses without waiting for more to send: senders wait for each of them."""
    connection = event.assoc.dul.socket.socket
    with suppress(OSError):  # gone already
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reject(
    assoc: Association, how: tuple[int, int, int], why: str, calling_ae: str, address: str
) -> None:
    _log_rejected(why, calling_ae, address)
    assoc.acse.send_reject(*how)
    assoc.kill()  # returns when the rejection is sent and the connection closed


def _log_rejected(why: str, calling_ae: str, address: str) -> None:
    fields = {"reason": why, "calling_ae": calling_ae, "address": address}
    LOGGER.warning("association.rejected", extra=fields)


def _refuse_mismatch(header: InstanceHeader, event: _Event) -> None:
    if header.sop_class_uid != event.context.abstract_syntax:
        raise UnfitObjectError("SOP class differs from the presentation context")
    if header.sop_class_uid != event.request.AffectedSOPClassUID:
        raise UnfitObjectError("SOP class differs from the command")
    if header.sop_instance_uid != event.request.AffectedSOPInstanceUID:
        raise UnfitObjectError("SOP Instance UID differs from the command")


def _file_header(header: InstanceHeader) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 7.1)."""
    meta = create_file_meta(
        sop_class_uid=UID(header.sop_class_uid),
        sop_instance_uid=UID(header.sop_instance_uid),
        transfer_syntax=UID(header.transfer_syntax_uid),
        implementation_uid=conformance.IMPLEMENTATION_CLASS_UID,
        implementation_version=conformance.IMPLEMENTATION_VERSION_NAME,
    )
    return b"\0" * PREAMBLE_BYTES + PREFIX + encode_file_meta(meta)


def _refused(session: _Session | None, status: int, why: str) -> Dataset:
    if session is not None:
        session.counts["refused"] += 1
    peer_name = session.peer.name if session is not None else ""
    fields = {"status": f"0x{status:04X}", "reason": why, "peer": peer_name}
    LOGGER.warning("store.refused", extra=fields)
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = why[:ERROR_COMMENT_CHARACTERS]
    return answer


def _summary(session: _Session, outcome: AssociationOutcome) -> dict[str, object]:
    names: Iterable[str] = ("stored", "known", "replaced", "refused", "echoes")
    return {
        "outcome": str(outcome),
        "calling_ae": session.calling_ae,
        "peer": session.peer.name,
        "address": session.address,
        **{name: session.counts[name] for name in names},
        "bytes": session.size_bytes,
        "seconds": round(time.monotonic() - session.started_s, 3),
        "association_id": session.association_id,
    }
