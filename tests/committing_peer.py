"""A peer that stores, and that commits (or not) as a test tells it to: the SCP of PS3.4 Annex J."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.association import CallingEntity
from node.receiver import ALL_STORAGE_CLASSES

LONG_S = 60.0


@dataclass
class Behavior:
    """What the peer does with a request for commitment.

    Attributes:
        action_status: What it answers to N-ACTION; a function gets the association and may do
            anything with it before it answers.
        reports: When and how it reports: `same`, `before` (its answer), `new` (an association of
            its own), `never`.
        times: How often it sends the report.
        failures: Failure Reason by SOP Instance UID, or what returns it for the objects asked for.
        transaction_uid: Reported instead of the right one.
        role: SCU and SCP role that it asks for when it calls (PS3.7 D.3.3.4); None: it does not.
        leaves_out: Whether it names no object at all.
        event_type: Instead of the right one.
        spoil: What it does to its report before it sends it.
    """

    action_status: int | Callable[[Any], int] = 0x0000
    reports: str = "same"
    times: int = 1
    failures: Mapping[str, int] | Callable[[list[str]], Mapping[str, int]] = field(
        default_factory=dict
    )
    transaction_uid: str | None = None
    role: tuple[bool, bool] | None = (False, True)
    leaves_out: bool = False
    event_type: int | None = None
    spoil: Callable[[Dataset], None] = lambda _ds: None


class CommittingPeer:
    """Storage and storage commitment SCP.

    Attributes:
        port: Where it listens.
        behavior: May be changed between requests.
        node_port: Where it reports when it opens an association.
        stored: How often each object came, by SOP Instance UID.
        asked: Transaction UID and SOP Instance UIDs of each request, in order.
        answers: Status of each answer to its reports, None where there was none.
    """

    def __init__(self, ae_title: str = "TPS", behavior: Behavior | None = None) -> None:
        self.ae_title = ae_title
        self.behavior = behavior or Behavior()
        self.node_port = 0
        self.port = 0
        self.stored: dict[str, int] = {}
        self.asked: list[tuple[str, list[str]]] = []
        self.classes: dict[str, str] = {}
        self.answers: list[int | None] = []
        self.on_commitment_request: Callable[[], None] | None = None
        """Called when an association for commitment is requested, before it is accepted."""
        self.reports_sent = 0
        self._arrived = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.ssl_context: SSLContext | None = None
        """Set before it listens: what it talks TLS with."""
        self.tls_args: tuple[SSLContext, str] | None = None
        """What it calls the node with over TLS."""
        self._ae = AE(ae_title)
        for sop_class in ALL_STORAGE_CLASSES:
            self._ae.add_supported_context(sop_class)
        self._ae.add_supported_context(StorageCommitmentPushModel)

    def __enter__(self) -> Self:
        server = self._ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=self.ssl_context,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._action),
            ],
        )
        assert server is not None
        self.port = int(server.server_address[1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ae.shutdown()
        for thread in self._threads:
            thread.join(LONG_S)

    def wait_for_answers(self, count: int) -> list[int | None]:
        """Wait until so many reports were answered, or not."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.answers) >= count, LONG_S)
            return list(self.answers)

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests for commitment have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.asked) >= count, LONG_S)

    def report_on_new_association(
        self, transaction_uid: str, uids: list[str], *, caller: str | None = None
    ) -> int | None:
        """Call the node and report; return the status of its answer."""
        negotiation = []
        if self.behavior.role is not None:
            role = SCP_SCU_RoleSelectionNegotiation()
            role.sop_class_uid = StorageCommitmentPushModel
            role.scu_role, role.scp_role = self.behavior.role
            negotiation.append(role)
        ae = CallingEntity(caller or self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = LONG_S
        ae.add_requested_context(StorageCommitmentPushModel)
        assoc = ae.associate(
            "127.0.0.1",
            self.node_port,
            ae_title="HILUM",
            ext_neg=negotiation,
            tls_args=self.tls_args,
        )
        if not assoc.is_established:
            return None
        if self.behavior.role is not None:
            (context,) = assoc.accepted_contexts
            assert context.as_scp, "the node must grant the role of the SCP"
        status = self._send_report(assoc, transaction_uid, uids)
        assoc.release()
        ae.connection.disarm()
        return status

    # --- handlers ------------------------------------------------------------------------------

    def _requested(self, event: Any) -> None:
        contexts = event.assoc.requestor.requested_contexts
        is_commitment = StorageCommitmentPushModel in {c.abstract_syntax for c in contexts}
        if is_commitment and self.on_commitment_request is not None:
            self.on_commitment_request()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._arrived:
            self.stored[uid] = self.stored.get(uid, 0) + 1
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        ds = event.action_information
        uids = [str(i.ReferencedSOPInstanceUID) for i in ds.ReferencedSOPSequence]
        self.classes = {
            str(i.ReferencedSOPInstanceUID): str(i.ReferencedSOPClassUID)
            for i in ds.ReferencedSOPSequence
        }
        transaction_uid = str(ds.TransactionUID)
        with self._arrived:
            self.asked.append((transaction_uid, uids))
            self._arrived.notify_all()
        behavior, assoc = self.behavior, event.assoc
        given = behavior.action_status
        status = given if isinstance(given, int) else given(assoc)
        if behavior.reports == "before":
            self._note(self._send_report(assoc, transaction_uid, uids))
        elif behavior.reports in ("same", "new"):
            thread = threading.Thread(target=self._report, args=(assoc, transaction_uid, uids))
            self._threads.append(thread)
            thread.start()
        return status, None

    def _report(self, assoc: Any, transaction_uid: str, uids: list[str]) -> None:
        for _ in range(self.behavior.times):
            if self.behavior.reports == "same":
                self._note(self._send_report(assoc, transaction_uid, uids))
            else:
                self._note(self.report_on_new_association(transaction_uid, uids))

    def _send_report(self, assoc: Any, transaction_uid: str, uids: list[str]) -> int | None:
        behavior = self.behavior
        failures = behavior.failures(uids) if callable(behavior.failures) else behavior.failures
        failures = {uid: reason for uid, reason in failures.items() if uid in uids}
        ds = Dataset()
        ds.TransactionUID = behavior.transaction_uid or transaction_uid
        kept = [] if behavior.leaves_out else [uid for uid in uids if uid not in failures]
        if kept:
            ds.ReferencedSOPSequence = [self._item(uid) for uid in kept]
        if failures:
            ds.FailedSOPSequence = [self._item(uid, reason) for uid, reason in failures.items()]
        behavior.spoil(ds)
        self.reports_sent += 1
        try:
            status, _ = assoc.send_n_event_report(
                ds,
                behavior.event_type or (2 if failures else 1),
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
        except (RuntimeError, AttributeError):  # the association has just ended
            return None
        return int(status.Status) if "Status" in status else None

    def _item(self, uid: str, reason: int | None = None) -> Dataset:
        item = Dataset()
        item.ReferencedSOPClassUID = self.classes.get(uid, "1.2.840.10008.5.1.4.1.1.2")
        item.ReferencedSOPInstanceUID = uid
        if reason is not None:
            item.FailureReason = reason
        return item

    def _note(self, status: int | None) -> None:
        with self._arrived:
            self.answers.append(status)
            self._arrived.notify_all()


@contextmanager
def committing(behavior: Behavior | None = None, ae_title: str = "TPS") -> Iterator[CommittingPeer]:
    """Run such a peer."""
    with CommittingPeer(ae_title, behavior) as peer:
        yield peer


def foreign_uid() -> str:
    """Return a Transaction UID that nobody asked with."""
    return str(generate_uid())
