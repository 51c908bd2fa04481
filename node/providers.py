"""What stands where pynetdicom expects its upper layer and its DIMSE provider, without threads.

With `node.transport` the only module that uses private names of pynetdicom on the accepting side;
so pynetdicom is pinned, and `check_pynetdicom` looks at start-up whether every name is there.
"""

from typing import Any

import pynetdicom
from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE, P_DATA

from node.errors import NodeError
from node.pdu_stream import INVALID_PARAMETER, UNEXPECTED_PDU, PduStream, ProtocolError

PYNETDICOM = "3.0.4"
"""The version whose private names these are."""

_NAMES = {
    Association: "_abort_blocking _serve_request _accepted_cx _handlers _sent_abort _kill",
    ACSE: "negotiate_association send_release send_reject",
    DIMSEServiceProvider: "receive_primitive get_msg cancel_req message msg_queue",
    DULServiceProvider: "send_pdu stop_dul",
}

MOST_WAITING = 4
"""Requests that may come while another one is served; nobody who keeps to PS3.7 sends any."""


def check_pynetdicom() -> None:
    """Do nothing if pynetdicom is the one that this module was written for.

    Raises:
        NodeError: It is another version, or lacks a name.
    """
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in _NAMES.items()
        for name in names.split()
        if name not in _names_of(kind)
    ]
    if pynetdicom.__version__ != PYNETDICOM or missing:
        raise NodeError(
            f"the fast transport needs pynetdicom {PYNETDICOM}, found {pynetdicom.__version__}"
            + (f" without {', '.join(missing)}" if missing else ""),
            hint='install that version, or set node.transport = "plain"',
        )


def _names_of(kind: type) -> set[str]:
    """Return the attributes of a class, those that its constructor sets included."""
    return set(dir(kind)) | set(kind.__init__.__code__.co_names)  # type: ignore[misc]


class UpperLayer(DULServiceProvider):
    """Stands where pynetdicom expects its upper layer: sends at once, has no thread of its own."""

    def __init__(self, assoc: Association, stream: PduStream) -> None:
        super().__init__(assoc)
        self.stream = stream

    def send_pdu(self, primitive: Any) -> None:
        """Send a primitive's PDU."""
        if not isinstance(primitive, P_DATA):
            evt.trigger(self.assoc, evt.EVT_ACSE_SENT, {"primitive": primitive})
        self.stream.send(_pdu_of(primitive).encode())

    def stop_dul(self) -> bool:
        """Tell that no thread runs."""
        return True


def _pdu_of(primitive: Any) -> Any:
    if isinstance(primitive, P_DATA):
        return P_DATA_TF(primitive)
    if isinstance(primitive, A_ASSOCIATE):
        return A_ASSOCIATE_AC(primitive) if primitive.result == 0 else A_ASSOCIATE_RJ(primitive)
    if isinstance(primitive, A_RELEASE):
        return A_RELEASE_RQ(primitive) if primitive.result is None else A_RELEASE_RP(primitive)
    return A_ABORT_RQ(primitive)


class Messages(DIMSEServiceProvider):
    """Takes messages apart, in the association's thread alone.

    pynetdicom's own serves N-EVENT-REPORT in another thread, which would send while this one reads,
    and waits for what its upper layer's thread brings.
    """

    assoc: Any

    def receive_primitive(self, primitive: Any) -> None:
        """Take a fragment; a message that is complete waits in `msg_queue`, or in `cancel_req`.

        Raises:
            ProtocolError: It is not valid.
        """
        if self.message is None:
            self.message = DIMSEMessage()
        try:
            if not self.message.decode_msg(primitive, self.assoc):
                return
            message: Any = self.message.message_to_primitive()
        except Exception as error:
            # whatever pynetdicom's decoder raises means this
            raise ProtocolError(INVALID_PARAMETER, "a message cannot be decoded") from error
        evt.trigger(self.assoc, evt.EVT_DIMSE_RECV, {"message": self.message})
        context_id: Any = self.message.context_id
        self.message = None
        if isinstance(message, C_CANCEL):
            cancelled: Any = message.MessageIDBeingRespondedTo
            self.cancel_req = {cancelled: message}
        elif self.msg_queue.qsize() >= MOST_WAITING:
            raise ProtocolError(UNEXPECTED_PDU, "too many requests come at once")
        else:
            self.msg_queue.put((context_id, message))

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message and its context; with `block` it is waited for."""
        if block:
            self.assoc.wait_for_message()
        return super().get_msg(block=False)
