"""Asks a peer for storage commitment (N-ACTION), and hears its report if it comes at once.

The report may come before the answer to the request, after it on the same association, or on an
association that the peer opens later: this module serves the first two, our listener the third.
Decides nothing about what follows. Read PS3.4 J.3.2 and PS3.7 10.1.4 first.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.association import CLOSING_GRACE_S, OpenAssociation, open_association
from node.commitment.reports import ReportDesk
from node.config import Peer, TlsSection
from node.errors import DeliveryError

REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 J.3.2)."""

REPORT_WAIT_S = 5.0
"""How long the association is kept for a report after the request was accepted. Peers that check
at once report within a second or two; all others open an association of their own."""

_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_LOOK_S = 0.1


def ask(
    peer: Peer,
    calling_ae: str,
    transaction_uid: str,
    objects: Mapping[str, str],
    *,
    timeout_s: float,
    tls: TlsSection | None,
    desk: ReportDesk,
    on_accepted: Callable[[], None],
    report_wait_s: float = REPORT_WAIT_S,
) -> int | None:
    """Return the status with which a peer answers the request, None if it gave no answer.

    Args:
        peer: Whom to ask.
        calling_ae: Our AE title.
        transaction_uid: Already written down.
        objects: SOP Class UID by SOP Instance UID.
        timeout_s: Limit for the connection, the association and the answer.
        tls: Our certificate, for a peer that is called over TLS.
        desk: Takes the report.
        on_accepted: Called when the request was accepted, before the report is waited for.
        report_wait_s: How long to wait for it here.

    Raises:
        DeliveryError: No association, or one without storage commitment.
    """
    wanted = tuple((StorageCommitmentPushModel, syntax) for syntax in _SYNTAXES)
    with open_association(peer, calling_ae, wanted, timeout_s, tls) as opened:
        if not opened.accepted:
            raise DeliveryError(
                f"peer {peer.name} does not offer storage commitment",
                hint="let its administrator switch it on, or take the role `commit` from the peer",
                is_retryable=False,
            )
        opened.assoc.bind(evt.EVT_N_EVENT_REPORT, lambda event: desk.take(event, peer))
        status = _exchange(opened, _request(opened, transaction_uid, objects), timeout_s)
        if status is None:
            opened.abort()
            return None
        if _is_accepted(status):
            on_accepted()
            end_s = time.monotonic() + report_wait_s
            while opened.assoc.is_established and time.monotonic() < end_s:
                if desk.wait_for(transaction_uid, _LOOK_S):
                    break
    return status


def _is_accepted(status: int) -> bool:
    """Tell success and warnings from failures (PS3.7 annex C)."""
    return status == 0 or status == 1 or 0xB000 <= status <= 0xBFFF


def _request(
    opened: OpenAssociation, transaction_uid: str, objects: Mapping[str, str]
) -> tuple[N_ACTION, int]:
    """Return the request, and the presentation context that it goes in."""
    context = opened.assoc.accepted_contexts[0]
    syntax = context.transfer_syntax[0]
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_item(uid, sop_class) for uid, sop_class in objects.items()]
    request = N_ACTION()
    request.MessageID = 1
    request.RequestedSOPClassUID = StorageCommitmentPushModel
    request.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
    request.ActionTypeID = REQUEST_COMMITMENT
    encoded = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    request.ActionInformation = BytesIO(encoded or b"")
    return request, int(context.context_id or 0)


def _item(sop_instance_uid: str, sop_class_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _exchange(opened: OpenAssociation, request: tuple[N_ACTION, int], limit_s: float) -> int | None:
    """Send a request; serve what the peer asks meanwhile; return its answer's status.

    pynetdicom's own `send_n_action` takes a report that comes first for a wrong answer.
    """
    assoc: Any = opened.assoc
    end_s = time.monotonic() + limit_s
    with opened.connection.cut_after(limit_s + CLOSING_GRACE_S), suppress(RuntimeError):
        assoc._reactor_checkpoint.clear()
        try:
            while not assoc._is_paused and assoc.is_established:
                time.sleep(0.0001)
            assoc.dimse.send_msg(*request)
            while assoc.is_established and time.monotonic() < end_s:
                assoc.dimse_timeout = max(0.01, end_s - time.monotonic())
                context_id, message = assoc.dimse.get_msg(block=True)
                if message is None:
                    return None
                if message.is_valid_request:
                    assoc._serve_request(message, context_id)
                    assoc._is_paused = True
                elif isinstance(message, N_ACTION) and message.is_valid_response:
                    return int(message.Status or 0)
                else:
                    return None
        finally:
            assoc._reactor_checkpoint.set()
    return None
