"""A query/retrieve peer that answers as a test tells it, however wrong that is."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from ssl import SSLContext
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode

from node.config import Peer
from node.query.find import FIND_MODELS
from node.query.retrieve import GET_MODELS, MOVE_MODELS
from node.storage_classes import ACCEPTED
from tests.archives import archive_peer

PENDING = 0xFF00
Serve = Callable[[Association, Any, int], None]


def encoded(**values: Any) -> bytes:
    """Return an identifier in Explicit VR Little Endian."""
    identifier = Dataset()
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    raw = encode(identifier, False, True)
    assert raw is not None
    return raw


def respond(
    assoc: Association,
    request: Any,
    context_id: int,
    status: int,
    raw: bytes | None = None,
    **counts: int,
) -> None:
    """Send one response to a request; `counts` are numbers of sub-operations."""
    answer = type(request)()
    answer.MessageIDBeingRespondedTo = request.MessageID
    answer.AffectedSOPClassUID = request.AffectedSOPClassUID
    answer.Status = status
    if raw is not None:
        answer.Identifier = BytesIO(raw)
    for word, count in counts.items():
        setattr(answer, f"NumberOf{word}Suboperations", count)
    assoc.dimse.send_msg(answer, context_id)


def send_on_line(assoc: Association, sop_class: str, uid: str, raw: bytes, number: int) -> None:
    """Send an object on the association of a C-GET, and let the answer pass."""
    (context,) = (c for c in assoc.accepted_contexts if c.abstract_syntax == sop_class)
    store = C_STORE()
    store.MessageID, store.Priority = number, 0
    store.AffectedSOPClassUID, store.AffectedSOPInstanceUID = UID(sop_class), UID(uid)
    store.DataSet = BytesIO(raw)
    assert context.context_id is not None
    assoc.dimse.send_msg(store, context.context_id)
    with suppress(queue.Empty):  # the caller has gone
        assoc.dimse.msg_queue.get(timeout=5)


@contextmanager
def odd_archive(
    serve: Serve,
    models: Sequence[str] = (*FIND_MODELS, *MOVE_MODELS, *GET_MODELS),
    *,
    ssl_context: SSLContext | None = None,
) -> Iterator[Peer]:
    """Run a peer whose every request is served by `serve(association, request, context id)`."""
    ae = AE("ODD")
    for model in models:
        ae.add_supported_context(model, ExplicitVRLittleEndian)
    for row in ACCEPTED:
        syntaxes = list(row.transfer_syntaxes)
        ae.add_supported_context(row.sop_class_uid, syntaxes, scu_role=True, scp_role=True)

    def accepted(event: Any) -> None:
        event.assoc._serve_request = lambda message, context_id: serve(
            event.assoc, message, context_id
        )

    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=ssl_context,
        evt_handlers=[(evt.EVT_ACCEPTED, accepted)],
    )
    assert server is not None
    try:
        yield archive_peer("odd", int(server.server_address[1]))
    finally:
        server.shutdown()


def always(*answers: tuple[int, bytes | None]) -> Serve:
    """Return what gives these answers (status, identifier) to every request."""

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        if isinstance(request, C_FIND | C_MOVE | C_GET):
            for status, raw in answers:
                respond(assoc, request, context_id, status, raw)

    return serve


class Silent:
    """Serves nothing; `asked` is set when something was asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, _assoc: Association, _request: Any, _context_id: int) -> None:
        self.asked.set()
