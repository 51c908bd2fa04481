"""What a peer holds: its studies of a patient, their series, their instances (C-FIND SCU).

Never believes more than an answer says: what cannot be read, is of another level or was not asked
for is left out and counted. Values of answers are patient identifiers; none is logged, and none
stands in an exception. Read PS3.4 C.4.1 and C.6.2 (Study Root) first.
"""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from node.attributes import Attributes
from node.config import Peer, TlsSection
from node.element_reader import read_elements
from node.errors import QueryError, UnreadableObjectError
from node.log import IDENTIFIERS
from node.query.dialog import Answer, Dialog, open_dialog
from node.query.statuses import failure_of, is_pending
from node.wanted_elements import Wanted, wanted_elements

LOGGER = logging.getLogger(__name__)

FIND_MODELS = (
    StudyRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelFind,
)
"""The patient root is asked only where a peer takes no other."""

MOST_ANSWERS = 5_000
"""More matches of one question are cut off: no series of a planning study has so many images."""

LONGEST_QUESTION_S = 300.0
"""A peer that still answers after this time is told to stop."""

_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
RETURNED = {
    "STUDY": "StudyInstanceUID StudyDate PatientID IssuerOfPatientID PatientName PatientBirthDate "
    "PatientSex ModalitiesInStudy",
    "SERIES": "SeriesInstanceUID Modality SeriesDescription Manufacturer "
    "NumberOfSeriesRelatedInstances",
    "IMAGE": "SOPInstanceUID SOPClassUID",
}
"""Keys asked for at each level; a peer may leave out all but the unique ones (PS3.4 C.6.2.1)."""

_LEGAL_UID = re.compile(r"[0-9.]{1,64}")
_WILDCARDS = re.compile(r"[*?\\]")
_READ: dict[str, Wanted] = {
    level: wanted_elements(
        f"SpecificCharacterSet QueryRetrieveLevel StudyInstanceUID SeriesInstanceUID {keys}"
    )
    for level, keys in RETURNED.items()
}


@dataclass(frozen=True, slots=True)
class Match:
    """One answer: values by keyword, as text without padding; absent ones are empty."""

    values: Mapping[str, str] = field(repr=False)

    def __getitem__(self, keyword: str) -> str:
        return self.values.get(keyword, "")

    @property
    def count(self) -> int | None:
        """Number of Series Related Instances, or None if it is not told."""
        text = self["NumberOfSeriesRelatedInstances"]
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


@dataclass(frozen=True, slots=True)
class Found:
    """The matches of a question.

    Attributes:
        matches: Each unique key once, in the order of the answers.
        unfit: Answers that could not be read, or that fit another question.
        is_cut: The peer had more to say than is listened to.
    """

    matches: tuple[Match, ...]
    unfit: int = 0
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class InstanceName:
    """Where an instance stands in the hierarchy, as a question about it must say."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as far as anybody may be told of it.

    Attributes:
        keys: Keywords of what is asked for or must match, without the values.
    """

    sop_class_uid: str
    level: str
    keys: tuple[str, ...]


OnAsked = Callable[[Asked], None]


class Questions:
    """Questions to one peer, on one association.

    Args:
        dialog: The association, on which `FIND_MODELS` were proposed.
        calling_ae: Our AE title, for hints.
        on_asked: Is told each question before it is put.
    """

    def __init__(
        self, dialog: Dialog, calling_ae: str, on_asked: OnAsked = lambda _asked: None
    ) -> None:
        self._dialog = dialog
        self._calling_ae = calling_ae
        self._on_asked = on_asked

    def studies(self, patient_id: str) -> Found:
        """Return the studies of a Patient ID, whosever they are: who asks compares identities.

        Raises:
            QueryError: The peer did not answer, or the Patient ID cannot be asked for.
        """
        found = self._find("STUDY", {}, patient_id)
        mine = [match for match in found.matches if match["PatientID"] == patient_id]
        return Found(tuple(mine), found.unfit + len(found.matches) - len(mine), found.is_cut)

    def series(self, study_uid: str, patient_id: str = "", series_uid: str = "") -> Found:
        """Return the series of a study, or the one series that is named.

        Raises:
            QueryError: The peer did not answer.
        """
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        return self._find("SERIES", keys, patient_id)

    def images(self, study_uid: str, series_uid: str, patient_id: str = "") -> Found:
        """Return the instances of a series.

        Raises:
            QueryError: The peer did not answer.
        """
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        return self._find("IMAGE", keys, patient_id)

    def _find(self, level: str, keys: Mapping[str, str], patient_id: str) -> Found:
        model = self._dialog.accepted_model(FIND_MODELS)
        if model is None:
            raise QueryError(
                f"peer {self._dialog.peer.name} takes no question (C-FIND) in a model that we know",
                hint='take the role "query" from it, or ask its administrator',
                is_retryable=False,
            )
        is_patient_root = model == PatientRootQueryRetrieveInformationModelFind
        identifier = _identifier(level, keys, patient_id, is_patient_root=is_patient_root)
        self._on_asked(Asked(str(model), level, tuple(e.keyword for e in identifier)))
        with closing(self._dialog.ask(C_FIND(), model, identifier)) as answers:
            found, is_open = self._listen(answers, level, keys)
            if is_open:
                self._dialog.cancel(model)
        return found

    def _listen(
        self, answers: Iterator[Answer], level: str, keys: Mapping[str, str]
    ) -> tuple[Found, bool]:
        """Return the matches, and whether the peer still has more to say."""
        matches: dict[str, Match] = {}
        unfit = 0
        end_s = time.monotonic() + LONGEST_QUESTION_S
        for answer in answers:
            if not is_pending(answer.status):
                error = failure_of(self._dialog.peer, answer.status, self._calling_ae)
                if error is not None:
                    raise error
                break
            match = _match_in(answer, level, keys)
            if match is None:
                unfit += 1
            else:
                matches.setdefault(match[_UNIQUE[level]], match)
            if len(matches) + unfit >= MOST_ANSWERS or time.monotonic() > end_s:
                return Found(tuple(matches.values()), unfit, is_cut=True), True
        return Found(tuple(matches.values()), unfit), False


@contextmanager
def open_questions(
    peer: Peer,
    calling_ae: str,
    *,
    timeout_s: float,
    tls: TlsSection | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    on_asked: OnAsked = lambda _asked: None,
) -> Iterator[Questions]:
    """Open an association to ask a peer; arguments and errors as of `open_dialog`, `Questions`."""
    opened = open_dialog(
        peer, calling_ae, FIND_MODELS, timeout_s=timeout_s, tls=tls, is_stopping=is_stopping
    )
    with opened as dialog:
        yield Questions(dialog, calling_ae, on_asked)


def held_by(
    peer: Peer,
    calling_ae: str,
    instances: Iterable[InstanceName],
    *,
    timeout_s: float,
    tls: TlsSection | None = None,
) -> frozenset[str]:
    """Return which of these instances a peer says it holds, by SOP Instance UID.

    One question at IMAGE level for each series. An instance that is not among the answers is not
    held, or the peer cannot tell: it is never taken for held.

    Raises:
        DeliveryError: The peer cannot be called or does not answer; nothing is known then.
    """
    by_series: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in instances:
        key = one.study_instance_uid, one.series_instance_uid, one.patient_id
        by_series[key].add(one.sop_instance_uid)
    held: set[str] = set()
    if by_series:
        with open_questions(peer, calling_ae, timeout_s=timeout_s, tls=tls) as questions:
            for (study_uid, series_uid, patient_id), uids in by_series.items():
                found = questions.images(study_uid, series_uid, patient_id)
                held |= uids & {match["SOPInstanceUID"] for match in found.matches}
    return frozenset(held)


def _identifier(
    level: str, keys: Mapping[str, str], patient_id: str, *, is_patient_root: bool
) -> Dataset:
    """Return the question: unique keys of the levels above, keys wanted of this one.

    Raises:
        QueryError: It cannot be asked.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword in RETURNED[level].split():
        setattr(identifier, keyword, "")
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    if level == "STUDY" or is_patient_root:
        add_patient_id(identifier, patient_id)
    return identifier


def is_askable(patient_id: str) -> bool:
    """Tell whether a Patient ID can be asked for without matching those of others."""
    return bool(patient_id) and not _WILDCARDS.search(patient_id)


def add_patient_id(identifier: Dataset, patient_id: str) -> None:
    """Name the patient in a question or retrieval.

    Raises:
        QueryError: There is no Patient ID, or it would match those of others.
    """
    if not patient_id:
        raise QueryError(
            "without a Patient ID this peer cannot be asked",
            hint="correct the objects at their sender",
            is_retryable=False,
        )
    if _WILDCARDS.search(patient_id):
        raise QueryError(
            "the Patient ID holds a sign (*, ? or backslash) that matches other patients, too: "
            "not asked",
            hint="correct the objects at their sender",
            is_retryable=False,
        )
    if not patient_id.isascii():
        identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.PatientID = patient_id


def _match_in(answer: Answer, level: str, keys: Mapping[str, str]) -> Match | None:
    """Return what an answer says; None if it cannot be read, or answers another question."""
    try:
        found = read_elements(answer.identifier, answer.transfer_syntax_uid, _READ[level])
    except UnreadableObjectError:
        return None
    wanted = ("QueryRetrieveLevel", *RETURNED[level].split(), *keys)
    values = {keyword: _text(found, keyword) for keyword in wanted}
    identifiers = (values.get(k, "") for k in ("PatientName", "PatientID", "PatientBirthDate"))
    IDENTIFIERS.remember(*filter(None, identifiers))
    if values["QueryRetrieveLevel"] not in ("", level):
        return None
    if not _LEGAL_UID.fullmatch(values[_UNIQUE[level]]):
        return None
    # a peer that overlooks a key answers with what was not asked for
    if any(value and values[keyword] not in ("", value) for keyword, value in keys.items()):
        return None
    return Match(values)


def _text(found: Attributes, keyword: str) -> str:
    return found.uid(keyword) if keyword.endswith("UID") else found.text(keyword)


__all__ = [
    "Found",
    "InstanceName",
    "Match",
    "Questions",
    "add_patient_id",
    "held_by",
    "is_askable",
    "open_questions",
]
