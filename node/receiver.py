"""A stand-in TPS: a Storage SCP that keeps what it gets in a folder, for `hilum demo` and tests.

Accepts every storage SOP class in every transfer syntax unless told otherwise, from any calling
AE title, so it listens on the loopback address only by default. Not a product: nothing is synced
to the disk and nothing is indexed. The node's own receiving side is `node.scp`.
"""

import hashlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, Status, code_to_category

ALL_STORAGE_CLASSES = tuple(str(c.abstract_syntax) for c in AllStoragePresentationContexts)

MAX_PDU_BYTES = 131_072
"""Large PDUs save the sender work."""


class Fault(Enum):
    """What a receiver may do instead of answering."""

    ABORT = "abort"
    STALL = "stall"
    """No answer until the sender gives up or the receiver stops."""


class Rejection(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    CALLING_AE_UNKNOWN = (1, 1, 3)
    CALLED_AE_UNKNOWN = (1, 1, 7)
    CONGESTION = (2, 3, 1)
    LOCAL_LIMIT = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class AssociationSeen:
    """An association request that reached the receiver."""

    calling_ae: str
    called_ae: str
    contexts: tuple[tuple[str, tuple[str, ...]], ...]
    """SOP class and transfer syntaxes of each presentation context proposed."""


class StandInReceiver:
    """A Storage SCP whose behavior a test can choose.

    Attributes:
        port: The port it listens on, chosen by the system if it was 0; valid after `start`.
        rejection: While set, every association is rejected with it.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str,
        port: int = 0,
        status_for: Callable[[str, int], int | Dataset | Fault] | None = None,
        *,
        host: str = "127.0.0.1",
        sop_classes: Sequence[str] = ALL_STORAGE_CLASSES,
        transfer_syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES),
    ) -> None:
        """Prepare a receiver; nothing listens before `start`.

        Args:
            folder: Where objects are kept; made if absent.
            ae_title: Its AE title; it answers to any, see `associations`.
            port: 0 lets the system choose.
            status_for: Gets a SOP Instance UID and how often it has come (1 for the first time),
                returns the status to answer (a dataset adds Error Comment and the like), or a
                fault. An object is kept if the status is success or a warning. Default: success.
            host: The address to listen on.
            sop_classes: The SOP classes accepted, besides Verification.
            transfer_syntaxes: The transfer syntaxes accepted.
        """
        self.port = port
        self.rejection: Rejection | None = None
        self._folder = folder
        self._host = host
        self._status_for = status_for
        self._ae = AE(ae_title=ae_title)
        self._ae.maximum_pdu_size = MAX_PDU_BYTES
        self._ae.add_supported_context(Verification)
        for sop_class in sop_classes:
            self._ae.add_supported_context(sop_class, list(transfer_syntaxes))
        self._stopping = threading.Event()
        # guards what follows: the handlers run in a thread for each association
        self._arrived = threading.Condition()
        self._receipts: dict[str, list[str]] = {}
        self._kept: dict[str, Path] = {}
        self._unanswered: dict[int, int] = {}
        self._associations: list[AssociationSeen] = []
        self._lines: dict[int, socket.socket] = {}

    def start(self) -> Self:
        """Listen, and return."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stopping.clear()
        server = self._ae.start_server(
            (self._host, self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._handle_open),
                (evt.EVT_CONN_CLOSE, self._handle_close),
                (evt.EVT_REQUESTED, self._handle_requested),
                (evt.EVT_C_STORE, self._handle_store),
                (evt.EVT_PDU_SENT, self._handle_sent),
            ],
        )
        if server is not None:  # None only for block=True
            self.port = int(server.server_address[1])
        return self

    def stop(self) -> None:
        """Abort what is open and give the port back."""
        self._stopping.set()
        self._ae.shutdown()
        with self._arrived:
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_for(self, instances: int, *, timeout_s: float) -> bool:
        """Tell whether at least so many different instances are kept before the time is over."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self._kept) >= instances, timeout_s)

    def wait_until_answered(self, *, timeout_s: float) -> bool:
        """Tell whether all that came on open associations is answered before the time is over.

        What is kept may not be answered yet: who stops then cuts its sender off.
        """
        with self._arrived:
            return self._arrived.wait_for(lambda: not self._unanswered, timeout_s)

    @property
    def kept(self) -> dict[str, Path]:
        """The newest file of each instance, by SOP Instance UID, in order of first arrival."""
        with self._arrived:
            return dict(self._kept)

    @property
    def receipts(self) -> dict[str, tuple[str, ...]]:
        """SHA-256 of each data set that came, kept or not, in order, by SOP Instance UID."""
        with self._arrived:
            return {uid: tuple(digests) for uid, digests in self._receipts.items()}

    @property
    def associations(self) -> tuple[AssociationSeen, ...]:
        """The association requests, in order, rejected ones included."""
        with self._arrived:
            return tuple(self._associations)

    def _handle_open(self, event: evt.Event) -> None:
        """Keep hold of the socket: pynetdicom does not close one whose shutdown fails."""
        connection = event.assoc.dul.socket
        if connection is not None and connection.socket is not None:
            with self._arrived:
                self._lines[id(event.assoc)] = connection.socket

    def _handle_close(self, event: evt.Event) -> None:
        with self._arrived:
            line = self._lines.pop(id(event.assoc), None)
            self._unanswered.pop(id(event.assoc), None)
            self._arrived.notify_all()
        if line is not None:
            line.close()

    def _handle_requested(self, event: evt.Event) -> None:
        contexts = tuple(
            (str(c.abstract_syntax), tuple(str(s) for s in c.transfer_syntax))
            for c in event.assoc.requestor.requested_contexts
        )
        request = cast(A_ASSOCIATE, event.assoc.requestor.primitive)
        seen = AssociationSeen(request.calling_ae_title, request.called_ae_title, contexts)
        with self._arrived:
            self._associations.append(seen)
        if self.rejection is not None:
            event.assoc.acse.send_reject(*self.rejection.value)
            event.assoc.kill()  # waits until the rejection is on its way

    def _handle_store(self, event: evt.Event) -> Dataset:
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        content = cast(BytesIO, request.DataSet).getvalue()
        with self._arrived:
            digests = self._receipts.setdefault(uid, [])
            digests.append(hashlib.sha256(content).hexdigest())
            times = len(digests)
            self._unanswered[id(event.assoc)] = self._unanswered.get(id(event.assoc), 0) + 1
        answer = Status.SUCCESS if self._status_for is None else self._status_for(uid, times)
        if answer is Fault.ABORT:
            event.assoc.abort()
            return _status(Status.SUCCESS)  # never sent: the association is gone
        if answer is Fault.STALL:
            self._stopping.wait()
            return _status(Status.SUCCESS)  # likewise
        if not isinstance(answer, Dataset):
            answer = _status(int(answer))
        if code_to_category(answer.Status) in (STATUS_SUCCESS, STATUS_WARNING):
            self._keep(uid, event.encoded_dataset())
        return answer

    def _handle_sent(self, event: evt.Event) -> None:
        if not isinstance(event.pdu, P_DATA_TF):
            return
        with self._arrived:
            left = self._unanswered.pop(id(event.assoc), 0) - 1
            if left > 0:
                self._unanswered[id(event.assoc)] = left
            self._arrived.notify_all()

    def _keep(self, uid: str, content: bytes) -> None:
        path = self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"
        partial = path.with_suffix(f".{threading.get_ident()}")
        partial.write_bytes(content)
        partial.replace(path)
        with self._arrived:
            self._kept[uid] = path
            self._arrived.notify_all()


def _status(code: int) -> Dataset:
    status = Dataset()
    status.Status = code
    return status
