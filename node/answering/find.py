"""C-FIND as SCP over our results (PS3.4 C.4.1).

Answers in the request's character set where it has the letters, else in Unicode. No value of a
query is logged.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.answering.catalogue import ResultReader
from node.answering.identifier import Query, read_query, require_unique_keys
from node.answering.keys import KEY_OF, MOST_MATCHES, Level
from node.answering.matching import matches
from node.audit.events import AuditEvent, Kind, Outcome, Tell, untold
from node.config import Role
from node.conformance import (
    CANCELLED,
    DOES_NOT_MATCH_SOP_CLASS,
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_WITHOUT_SOME_KEYS,
    SUCCESS,
)
from node.errors import UnfitObjectError, UnreadableObjectError
from node.exchange import Exchange, caller_of
from node.index import Index
from node.index.catalogue import Catalogue, ResultSeries
from node.index.lookups import sent_by

LOGGER = logging.getLogger(__name__)

UNICODE = "ISO_IR 192"
"""Specific Character Set of UTF-8 (PS3.3 C.12.1.1.2)."""

ONLINE, OFFLINE = "ONLINE", "OFFLINE"
"""Instance Availability (PS3.3 C.4.23.1.1): results can be retrieved from us; what a peer sent
itself cannot, but a person can bring it back."""

Values = Mapping[str, str]


class Finder:
    """Answers C-FIND.

    Args:
        index: What was received.
        catalogue: Our results.
        reader: Brings it up to date.
        ae_title: Ours, from which results can be retrieved.
        audit: The audit trail.
    """

    def __init__(
        self,
        index: Index,
        catalogue: Catalogue,
        reader: ResultReader,
        ae_title: str,
        audit: Tell = untold,
    ) -> None:
        self._index = index
        self._catalogue = catalogue
        self._reader = reader
        self._ae_title = ae_title
        self._audit = audit

    def serve(self, exchange: Exchange) -> None:
        """Answer one request: an answer for each match, and one at the end."""
        peer = exchange.peer
        try:
            query = _query_of(exchange)
        except (UnreadableObjectError, UnfitObjectError) as error:
            exchange.respond(DOES_NOT_MATCH_SOP_CLASS, comment=str(error))
            LOGGER.info("query.refused", extra={"peer": peer.name, "reason": str(error)})
            self._audit(asked_event(exchange, {"reason": str(error)}, "failure"))
            return
        uids = query.uids("SOPInstanceUID") if query.level is Level.IMAGE else None
        asks_for_own = uids is not None and Role.SEND in peer.roles
        if Role.RECEIVE not in peer.roles and not asks_for_own:
            exchange.respond(NOT_AUTHORISED, comment="the role receive is needed")
            denied = {"level": str(query.level), "reason": "the role receive is needed"}
            self._audit(asked_event(exchange, denied, "failure"))
            return
        sources: list[Iterator[tuple[Values, str]]] = []
        if Role.RECEIVE in peer.roles:
            self._reader.catch_up()
            sources.append((values, ONLINE) for values in self.matches(query))
        if asks_for_own:
            own = self._sent(peer.name, query, uids or ())
            sources.append((values, OFFLINE) for values in own)
        # none of the index is held while the answers travel
        told = _each_once(chain(*sources)) if asks_for_own else chain(*sources)
        found = list(islice(told, MOST_MATCHES + 1))
        self._tell(exchange, query, found)

    def _tell(self, exchange: Exchange, query: Query, found: Sequence[tuple[Values, str]]) -> None:
        pending = PENDING_WITHOUT_SOME_KEYS if query.has_unsupported else PENDING
        end, comment, count = SUCCESS, "", 0
        for values, availability in found[:MOST_MATCHES]:
            if exchange.is_cancelled():
                end = CANCELLED
                break
            exchange.respond(pending, self._answer(query, values, availability))
            count += 1
        if end == SUCCESS and len(found) > MOST_MATCHES:
            end, comment = OUT_OF_RESOURCES, f"more than {MOST_MATCHES} matches: narrow it"
        exchange.respond(end, comment=comment)
        fields = {"peer": exchange.peer.name, "level": str(query.level), "matches": count}
        LOGGER.info("query.answered", extra={**fields, "status": f"0x{end:04X}"})
        asked = {"level": str(query.level), "keys": " ".join(query.asked)}
        told = {**asked, "matches": str(count), "status": f"0x{end:04X}"}
        self._audit(asked_event(exchange, told, "success"))

    def _sent(self, peer: str, query: Query, uids: Sequence[str]) -> Iterator[Values]:
        """Yield what matches of the objects that a peer sent itself."""
        for header in sent_by(self._index, peer, uids):
            values = {
                "PatientID": header.patient_id,
                "StudyInstanceUID": header.study_instance_uid,
                "SeriesInstanceUID": header.series_instance_uid,
                "Modality": header.modality,
                "SOPInstanceUID": header.sop_instance_uid,
                "SOPClassUID": header.sop_class_uid,
            }
            if _is_match(query, values):
                yield values

    def matches(self, query: Query) -> Iterator[Values]:
        """Yield the values of what matches, each once."""
        found = self._objects(query) if query.level is Level.IMAGE else self._groups(query)
        for values in found:
            if _is_match(query, values):
                yield values

    def _groups(self, query: Query) -> Iterator[Values]:
        """Yield patients, studies or series, with what is counted in them."""
        by_patient = query.level is Level.PATIENT
        rows = self._catalogue.series(
            patient_ids=_exact(query, "PatientID"),
            studies=self._studies(query),
            is_by_patient=by_patient,
        )
        for _, group in groupby(rows, _patient_id if by_patient else _study):
            members = list(group)
            if by_patient:
                yield from _patients_of(members)
                continue
            values = {**members[0].values, **_counts_of_study(members)}
            if query.level is Level.STUDY:
                yield values
            else:
                yield from _series_of(members, values)

    def _studies(self, query: Query) -> tuple[str, ...] | None:
        """Return the studies in which matches lie, or None: any."""
        series = query.uids("SeriesInstanceUID")
        if query.level is not Level.SERIES or series is None:
            return query.uids("StudyInstanceUID")
        found = self._catalogue.series(studies=query.uids("StudyInstanceUID"), series=series)
        return tuple({row.study for row in found})

    def _objects(self, query: Query) -> Iterator[Values]:
        of_series = {
            row.series: row.values
            for row in self._catalogue.series(
                patient_ids=_exact(query, "PatientID"),
                studies=query.uids("StudyInstanceUID"),
                series=query.uids("SeriesInstanceUID"),
            )
        }
        seen: set[str] = set()
        for series, one in self._catalogue.objects(
            studies=query.uids("StudyInstanceUID"),
            series=query.uids("SeriesInstanceUID"),
            sop_instance_uids=query.uids("SOPInstanceUID"),
        ):
            if series in of_series and one.sop_instance_uid not in seen:
                seen.add(one.sop_instance_uid)
                yield {**of_series[series], **one.values}

    def _answer(self, query: Query, values: Values, availability: str) -> Dataset:
        answer = Dataset()
        asked = {keyword: values.get(keyword, "") for keyword in query.asked}
        for keyword, value in asked.items():
            answer.add(_element(keyword, value))
        answer.QueryRetrieveLevel = str(query.level)
        answer.RetrieveAETitle = self._ae_title if availability == ONLINE else None
        answer.InstanceAvailability = availability
        character_set = character_set_for("".join(asked.values()), query.character_set)
        if character_set:
            answer.SpecificCharacterSet = character_set
        return answer


def character_set_for(text: str, asked: str) -> str:
    """Return the Specific Character Set in which to answer; empty: the default repertoire does.

    Args:
        text: All that the answer says.
        asked: That of the request.
    """
    if text.isascii():
        return ""
    codec = python_encoding.get(asked.strip()) if "\\" not in asked else None
    if codec is not None:
        try:
            text.encode(codec)
        except (UnicodeEncodeError, LookupError):
            return UNICODE
        return asked.strip()
    return UNICODE


def asked_event(exchange: Exchange, what: Mapping[str, str], outcome: Outcome) -> AuditEvent:
    """Return what the audit trail is told of a query that a peer put to us."""
    title, address = caller_of(exchange)
    told = {**what, "peer": exchange.peer.name, "ae_title": title}
    told["sop_class"] = str(exchange.sop_class_uid)
    return AuditEvent(Kind.QUERY_ANSWERED, title, address, outcome, told)


def _each_once(found: Iterable[tuple[Values, str]]) -> Iterator[tuple[Values, str]]:
    """Yield each SOP instance once: a peer may have sent us a result of ours."""
    seen: set[str] = set()
    for values, availability in found:
        uid = values["SOPInstanceUID"]
        if uid not in seen:
            seen.add(uid)
            yield values, availability


def _query_of(exchange: Exchange) -> Query:
    raw = exchange.request.Identifier
    model = exchange.sop_class_uid
    query = read_query(b"" if raw is None else raw.getvalue(), exchange.transfer_syntax, model)
    require_unique_keys(query, model, is_retrieval=False)
    return query


def _exact(query: Query, keyword: str) -> tuple[str, ...] | None:
    """Return the values by which the index can narrow; None where a pattern is to be matched."""
    values = query.uids(keyword)
    return None if values is None or any(set("*?") & set(v) for v in values) else values


def _is_match(query: Query, values: Values) -> bool:
    return all(
        matches(KEY_OF[keyword].matching, wanted, values.get(keyword, ""))
        for keyword, wanted in query.wanted.items()
    )


def _patient_id(row: ResultSeries) -> str:
    return row.values.get("PatientID", "")


def _patients_of(members: Sequence[ResultSeries]) -> Iterator[Values]:
    """Yield the patients of one Patient ID: one for each issuer."""
    by_issuer: dict[str, list[ResultSeries]] = {}
    for row in members:
        by_issuer.setdefault(row.values.get("IssuerOfPatientID", ""), []).append(row)
    for rows in by_issuer.values():
        yield {**rows[0].values, **_counts_of_patient(rows)}


def _study(row: ResultSeries) -> str:
    return row.study


def _series_of(members: Sequence[ResultSeries], of_study: Values) -> Iterator[Values]:
    """Yield the series of a study; one that several result sets have counts once."""
    by_uid: dict[str, list[ResultSeries]] = {}
    for row in members:
        by_uid.setdefault(row.series, []).append(row)
    for rows in by_uid.values():
        count = str(sum(row.count for row in rows))
        yield {**of_study, **rows[0].values, "NumberOfSeriesRelatedInstances": count}


def _counts_of_study(rows: Sequence[ResultSeries]) -> dict[str, str]:
    return {
        "ModalitiesInStudy": _distinct(row.values.get("Modality", "") for row in rows),
        "SOPClassesInStudy": _distinct(one for row in rows for one in row.sop_classes),
        "NumberOfStudyRelatedSeries": str(len({row.series for row in rows})),
        "NumberOfStudyRelatedInstances": str(sum(row.count for row in rows)),
    }


def _counts_of_patient(rows: Sequence[ResultSeries]) -> dict[str, str]:
    return {
        "NumberOfPatientRelatedStudies": str(len({row.study for row in rows})),
        "NumberOfPatientRelatedSeries": str(len({row.series for row in rows})),
        "NumberOfPatientRelatedInstances": str(sum(row.count for row in rows)),
    }


def _distinct(values: Iterable[str]) -> str:
    return "\\".join(sorted(set(filter(None, values))))


def _element(keyword: str, value: str) -> DataElement:
    """Return an element of an answer; a value that its VR does not allow is told as it is held."""
    vr, tag = dictionary_VR(keyword), tag_for_keyword(keyword)
    assert tag is not None  # noqa: S101 - keys are attributes
    content: Any = value
    if vr in ("US", "IS"):
        content = int(value) if value.strip().lstrip("+-").isdigit() else None
    elif "\\" in value:
        content = value.split("\\")
    return DataElement(tag, vr, content, validation_mode=config.IGNORE)
