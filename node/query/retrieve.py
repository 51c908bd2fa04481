"""Has a peer send what it holds: to our own listener (C-MOVE), or back on the same line (C-GET).

Tells what the peer says of its sub-operations; whether the objects really came is told by the
index alone, and whoever calls looks there. Read PS3.4 C.4.2 and C.4.3 first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from node.config import Peer, TlsSection
from node.element_reader import read_elements
from node.errors import QueryError, UnreadableObjectError
from node.query.dialog import Answer, Store, open_dialog
from node.query.find import add_patient_id
from node.query.statuses import failure_of, is_pending
from node.storage_classes import ACCEPTED, KEPT
from node.wanted_elements import wanted_elements

MOVE_MODELS = (
    StudyRootQueryRetrieveInformationModelMove,
    PatientRootQueryRetrieveInformationModelMove,
)
GET_MODELS = (
    StudyRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelGet,
)
"""The patient root is asked only where a peer takes no other."""

_PATIENT_ROOT = (MOVE_MODELS[1], GET_MODELS[1])

UIDS_AT_ONCE = 100
"""SOP Instance UIDs that one retrieval lists: some 6 kB, which every peer's database takes."""

LONGEST_RETRIEVAL_S = 4 * 3600.0
"""A retrieval that still goes on after this time is broken off: no series takes so long."""

_READ = wanted_elements("FailedSOPInstanceUIDList")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be sent: a series, or some of its instances.

    Attributes:
        sop_instance_uids: Empty: all of the series.
        patient_id: For a peer that takes the patient root only.
    """

    study_uid: str
    series_uid: str
    sop_instance_uids: tuple[str, ...] = ()
    patient_id: str = ""

    def __repr__(self) -> str:
        """Return a text without the patient's identifier."""
        return f"Wanted({len(self.sop_instance_uids) or 'all'} of a series)"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the peer says that it sent; numbers of sub-operations.

    Attributes:
        failed_uids: SOP Instance UIDs that it names as failed; it need not name any.
    """

    completed: int = 0
    warned: int = 0
    failed: int = 0
    failed_uids: tuple[str, ...] = ()

    def __add__(self, other: "Retrieved") -> "Retrieved":
        """Return both together."""
        return Retrieved(
            self.completed + other.completed,
            self.warned + other.warned,
            self.failed + other.failed,
            self.failed_uids + other.failed_uids,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """How a peer is called for a retrieval.

    Attributes:
        calling_ae: Our AE title, and where C-MOVE sends to.
        timeout_s: How long nothing may move.
        is_stopping: Ends every wait.
        longest_s: When a retrieval is broken off, however much comes.
    """

    peer: Peer
    calling_ae: str
    timeout_s: float
    tls: TlsSection | None = None
    is_stopping: Callable[[], bool] = lambda: False
    longest_s: float = LONGEST_RETRIEVAL_S


def move(line: Line, wanted: Wanted, *, moved: Callable[[], object]) -> Retrieved:
    """Have a peer send objects to our listener (C-MOVE).

    Args:
        line: To the peer; it must know our AE title, host and port.
        wanted: What.
        moved: Something that changes with each object that arrives: a peer need not report
            progress, and only silence on both lines is a time-out.

    Raises:
        DeliveryError: The peer cannot be called.
        QueryError: It refuses, or does not come to an end; some objects may have arrived.
    """
    return _retrieve(line, wanted, C_MOVE, MOVE_MODELS, moved=moved)


def get(line: Line, wanted: Wanted, *, store: Store) -> Retrieved:
    """Have a peer send objects on the association on which we ask (C-GET).

    Args:
        line: To the peer.
        wanted: What.
        store: Keeps each object before the peer is answered.

    Raises:
        DeliveryError: The peer cannot be called.
        QueryError: It refuses, or does not come to an end; some objects may have arrived.
    """
    return _retrieve(line, wanted, C_GET, GET_MODELS, store=store)


def storage_contexts() -> list[PresentationContext]:
    """Return the contexts in which objects are taken on our own association.

    One for each storage SOP class with all its transfer syntaxes, from which the peer chooses:
    that leaves room below the limit of 128.
    """
    return [
        build_context(row.sop_class_uid, list(row.transfer_syntaxes)) for row in ACCEPTED + KEPT
    ]


def _retrieve(
    line: Line,
    wanted: Wanted,
    request: type[C_MOVE] | type[C_GET],
    models: Sequence[UID],
    *,
    store: Store | None = None,
    moved: Callable[[], object] = lambda: None,
) -> Retrieved:
    """Retrieve in portions of `UIDS_AT_ONCE` instances, one after the other."""
    uids = wanted.sop_instance_uids
    portions = [uids[at : at + UIDS_AT_ONCE] for at in range(0, len(uids), UIDS_AT_ONCE)] or [()]
    total = Retrieved()
    with open_dialog(
        line.peer,
        line.calling_ae,
        models,
        timeout_s=line.timeout_s,
        tls=line.tls,
        taken=storage_contexts() if store is not None else (),
        is_stopping=line.is_stopping,
    ) as dialog:
        model = dialog.accepted_model(models)
        if model is None:
            raise QueryError(
                f"peer {line.peer.name} does not offer {_SERVICE[request]}",
                hint="change `by` of the protocol's fetch rule, or ask its administrator",
                is_retryable=False,
            )
        for portion in portions:
            identifier = _identifier(wanted, portion, is_patient_root=model in _PATIENT_ROOT)
            primitive = request()
            if isinstance(primitive, C_MOVE):
                primitive.MoveDestination = line.calling_ae
            asked = dialog.ask(
                primitive, model, identifier, store=store, moved=moved, longest_s=line.longest_s
            )
            with closing(asked) as answers:
                total += _outcome(answers, line)
    return total


def _outcome(answers: Iterator[Answer], line: Line) -> Retrieved:
    """Return what the final answer says.

    Raises:
        QueryError: It is a failure.
    """
    answer = next(one for one in answers if not is_pending(one.status))
    error = failure_of(line.peer, answer.status, line.calling_ae)
    if error is not None:
        raise error
    return Retrieved(answer.completed, answer.warned, answer.failed, _failed_uids(answer))


def _failed_uids(answer: Answer) -> tuple[str, ...]:
    if not answer.identifier:
        return ()
    try:
        found = read_elements(answer.identifier, answer.transfer_syntax_uid, _READ)
    except UnreadableObjectError:
        return ()
    return tuple(filter(None, found.uid("FailedSOPInstanceUIDList").split("\\")))


def _identifier(wanted: Wanted, portion: Sequence[str], *, is_patient_root: bool) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE" if portion else "SERIES"
    if is_patient_root:
        add_patient_id(identifier, wanted.patient_id)
    identifier.StudyInstanceUID = wanted.study_uid
    identifier.SeriesInstanceUID = wanted.series_uid
    if portion:
        identifier.SOPInstanceUID = list(portion)
    return identifier


_SERVICE: dict[type, str] = {C_MOVE: "C-MOVE", C_GET: "C-GET"}
