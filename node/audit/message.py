"""One event as the XML of PS3.15 A.5: which message of A.5.3 it becomes, and who takes part.

Pure: knows no clock, file, network or index. Read A.5.1 (the schema) and A.5.3 first.
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from xml.etree import ElementTree as ET

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.audit import codes
from node.audit.codes import Code
from node.audit.events import AuditEvent, Kind

SUCCEEDED, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
"""EventOutcomeIndicator."""

PERSON, SYSTEM = "1", "2"
"""ParticipantObjectTypeCode."""

IS_PATIENT, IS_REPORT, IS_SECURITY_RESOURCE = "1", "3", "13"
"""ParticipantObjectTypeCodeRole."""

MACHINE_NAME, IP_ADDRESS = "1", "2"
"""NetworkAccessPointTypeCode."""

APPLICATION_SERVER = "4"
"""AuditSourceTypeCode."""

LONGEST_TEXT = 500
"""Of any text that came from outside; a message must fit what collectors take (32768 octets)."""

MOST_CLASSES = 50
"""SOP classes that are told of one study."""


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports: this process.

    Attributes:
        name: Identifies this node among the sources of the site.
        site: Of the department or hospital; may be empty.
        ae_title: Ours.
        host: Name of this machine.
        process: Its process ID.
    """

    name: str
    site: str
    ae_title: str
    host: str
    process: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an event is about, as the trail may name them.

    Attributes:
        patient_id: The identifier, or a pseudonym; empty: nobody is known.
        patient_name: Empty unless the trail may hold it.
        studies: Study Instance UIDs.
    """

    patient_id: str = ""
    patient_name: str = ""
    studies: tuple[str, ...] = ()


class _Form(NamedTuple):
    """The message that a kind of event becomes.

    Attributes:
        action: EventActionCode: create, read, update, delete, execute.
        we_are: Our role beside the other side's, where there is one.
    """

    event: Code
    action: str
    type: Code | None = None
    we_are: Code | None = None
    failure: str = SERIOUS_FAILURE


_FORMS: dict[str, _Form] = {
    Kind.STARTED: _Form(codes.APPLICATION_ACTIVITY, "E", codes.APPLICATION_START),
    Kind.STOPPED: _Form(codes.APPLICATION_ACTIVITY, "E", codes.APPLICATION_STOP),
    Kind.LOGIN: _Form(codes.USER_AUTHENTICATION, "E", codes.LOGIN, failure=MINOR_FAILURE),
    Kind.LOGOUT: _Form(codes.USER_AUTHENTICATION, "E", codes.LOGOUT),
    Kind.REQUEST: _Form(codes.SECURITY_ALERT, "E", codes.RESTRICTED_FUNCTION),
    Kind.ACCOUNT_CHANGED: _Form(codes.SECURITY_ALERT, "E", codes.USER_ATTRIBUTES_CHANGED),
    Kind.CASE_CHANGED: _Form(codes.PROCEDURE_RECORD, "U", failure=MINOR_FAILURE),
    Kind.ACCESSED: _Form(codes.INSTANCES_ACCESSED, "R", failure=MINOR_FAILURE),
    Kind.EXPORTED: _Form(codes.EXPORT, "R", failure=MINOR_FAILURE),
    Kind.BEGIN_SENDING: _Form(codes.BEGIN_TRANSFERRING, "E", we_are=codes.SOURCE),
    Kind.SENT: _Form(codes.INSTANCES_TRANSFERRED, "R", we_are=codes.SOURCE, failure=MINOR_FAILURE),
    Kind.RECEIVED: _Form(
        codes.INSTANCES_TRANSFERRED, "C", we_are=codes.DESTINATION, failure=MINOR_FAILURE
    ),
    Kind.QUERY_ANSWERED: _Form(codes.QUERY, "E", we_are=codes.DESTINATION, failure=MINOR_FAILURE),
    Kind.QUERY_ASKED: _Form(codes.QUERY, "E", we_are=codes.SOURCE, failure=MINOR_FAILURE),
    Kind.PEER_REJECTED: _Form(codes.SECURITY_ALERT, "E", codes.NODE_AUTHENTICATION),
    Kind.STUDY_DELETED: _Form(codes.STUDY_DELETED, "D"),
}

_BY_STUDY = (
    Kind.CASE_CHANGED, Kind.ACCESSED, Kind.EXPORTED, Kind.BEGIN_SENDING, Kind.SENT, Kind.RECEIVED,
    Kind.STUDY_DELETED,
)  # fmt: skip
"""Kinds whose messages tell of patient and studies."""

_ALERTS = (Kind.REQUEST, Kind.ACCOUNT_CHANGED, Kind.PEER_REJECTED)
_TOLD_OF_ALERTS = ("action", "method", "route", "status", "user", "peer", "reason")


def audit_message(event: AuditEvent, at: datetime, source: AuditSource, subject: Subject) -> str:
    """Return the message, one line of XML without declaration."""
    kind = _kind_of(event)
    form = _FORMS[kind]
    root = ET.Element("AuditMessage")
    _identify_event(root, event, form, at)
    _add_participants(root, event, kind, form, source)
    told = ET.SubElement(root, "AuditSourceIdentification", {"AuditSourceID": source.name})
    if source.site:
        told.set("AuditEnterpriseSiteID", source.site)
    ET.SubElement(told, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    if kind in _BY_STUDY:
        _add_subject(root, event, subject)
    elif kind in (Kind.QUERY_ANSWERED, Kind.QUERY_ASKED):
        _add_query(root, event)
    elif kind in _ALERTS:
        _add_alert(root, event, source)
    return ET.tostring(root, encoding="unicode").replace("\n", " ").replace("\r", " ")


def _kind_of(event: AuditEvent) -> str:
    """Return the kind whose message fits best: a request about a case changed that case."""
    if event.kind not in _FORMS:
        return Kind.REQUEST
    is_done = event.kind == Kind.REQUEST and event.outcome == "success"
    return Kind.CASE_CHANGED if is_done and event.what.get("case_id") else event.kind


def _identify_event(root: ET.Element, event: AuditEvent, form: _Form, at: datetime) -> None:
    is_done = event.outcome == "success"
    action = event.what.get("event_action", form.action)
    told = ET.SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": action,
            "EventDateTime": at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "EventOutcomeIndicator": SUCCEEDED if is_done else form.failure,
        },
    )
    _add_code(told, "EventID", form.event)
    if form.type is not None:
        _add_code(told, "EventTypeCode", form.type)
    if not is_done and event.what.get("reason"):
        ET.SubElement(told, "EventOutcomeDescription").text = _clean(event.what["reason"])


def _add_participants(
    root: ET.Element, event: AuditEvent, kind: str, form: _Form, source: AuditSource
) -> None:
    """Add who takes part: this process, and the other side or the person."""
    is_alert, has_actor = kind in _ALERTS, bool(event.actor) or kind in (Kind.LOGIN, Kind.LOGOUT)
    role = codes.APPLICATION if kind in (Kind.STARTED, Kind.STOPPED) else form.we_are
    ours = {
        "UserID": source.process,
        "AlternativeUserID": f"AETITLES={source.ae_title}",
        "UserIsRequestor": _truth(is_alert or not has_actor),
        "NetworkAccessPointID": source.host,
        "NetworkAccessPointTypeCode": MACHINE_NAME,
    }
    _add_participant(root, ours, codes.SOURCE if kind == Kind.EXPORTED else role)
    if kind == Kind.PEER_REJECTED:
        _add_peer(root, event, None, is_requestor=False)
    elif form.we_are is not None:
        opposite = codes.SOURCE if form.we_are is codes.DESTINATION else codes.DESTINATION
        _add_peer(root, event, opposite, is_requestor=bool(event.actor))
    elif has_actor:
        # whoever an alert is about performed what it tells, and did not ask for the alert
        _add_person(root, event, kind, source, is_requestor=not is_alert)


def _add_person(
    root: ET.Element, event: AuditEvent, kind: str, source: AuditSource, *, is_requestor: bool
) -> None:
    place = _access_point(event.address or source.host)
    person = {
        "UserID": _clean(event.actor) or "unknown",
        "UserIsRequestor": _truth(is_requestor),
        **place,
    }
    _add_participant(root, person, codes.SOURCE if kind == Kind.EXPORTED else None)
    if kind == Kind.EXPORTED:  # what it is written to stands where the person sits
        media = {"UserID": place["NetworkAccessPointID"], "UserIsRequestor": "false", **place}
        _add_participant(root, media, codes.DESTINATION_MEDIA)


def _add_peer(
    root: ET.Element, event: AuditEvent, role: Code | None, *, is_requestor: bool
) -> None:
    """Add the other side of an association; and who asked for it, if that is somebody else."""
    asker = _clean(event.actor)
    title = _clean(event.what.get("ae_title", "")) or asker or "unknown"
    theirs = {
        "UserID": title,
        "AlternativeUserID": f"AETITLES={title}",
        "UserIsRequestor": _truth(is_requestor and title == asker),
        **_access_point(event.address),
    }
    _add_participant(root, theirs, role)
    if asker and title != asker:  # C-MOVE
        fields = {"UserID": asker, "AlternativeUserID": f"AETITLES={asker}"}
        _add_participant(root, fields | {"UserIsRequestor": _truth(is_requestor)}, None)


def _add_participant(root: ET.Element, fields: Mapping[str, str], role: Code | None) -> None:
    told = ET.SubElement(root, "ActiveParticipant", dict(fields))
    if role is not None:
        _add_code(told, "RoleIDCode", role)


def _add_subject(root: ET.Element, event: AuditEvent, subject: Subject) -> None:
    """Add the studies and the patient; a study that is not known is told as the case."""
    case_id = event.what.get("case_id", "")
    for study in subject.studies or ("",):
        told = _object(root, study or case_id or "unknown", SYSTEM, IS_REPORT, codes.STUDY_UID)
        name = f"case {case_id}" if case_id else "study"
        ET.SubElement(told, "ParticipantObjectName").text = name
        for detail in ("case_id", "action", "route", "protocol", "file"):
            if event.what.get(detail):
                _add_detail(told, detail, event.what[detail])
        classes = event.what.get("sop_classes", "")
        if event.kind == Kind.BEGIN_SENDING:  # A.5.3.3
            for uid in _class_uids(classes):
                _add_detail(told, "ContainsSOPClass", uid)
        _add_classes(told, classes)
    told = _object(root, subject.patient_id or "unknown", PERSON, IS_PATIENT, codes.PATIENT_NUMBER)
    ET.SubElement(told, "ParticipantObjectName").text = subject.patient_name or "withheld"


def _class_uids(counts: str) -> list[str]:
    uids = (pair.partition("=")[0] for pair in counts.split()[:MOST_CLASSES])
    return [uid for uid in uids if uid]


def _add_classes(told: ET.Element, counts: str) -> None:
    """Add SOP classes with the number of their instances, of a text like `UID=count UID=count`."""
    pairs = [pair.partition("=") for pair in counts.split()[:MOST_CLASSES]]
    if not pairs:
        return
    about = ET.SubElement(told, "ParticipantObjectDescription")
    for uid, _, count in pairs:
        named = {"UID": _clean(uid)} if uid else {}
        ET.SubElement(about, "SOPClass", {**named, "NumberOfInstances": str(int(count or 0))})


def _add_query(root: ET.Element, event: AuditEvent) -> None:
    """Add what was asked: the level and the keys, never their values, which may name a patient."""
    sop_class = event.what.get("sop_class") or "unknown"
    told = _object(root, sop_class, SYSTEM, IS_REPORT, codes.SOP_CLASS_UID)
    asked = _keys_alone(event.what.get("level", ""), event.what.get("keys", ""))
    query = ET.SubElement(told, "ParticipantObjectQuery")
    query.text = base64.b64encode(asked).decode("ascii")
    _add_detail(told, "TransferSyntax", ExplicitVRLittleEndian)
    for name in ("matches", "status"):
        if event.what.get(name):
            _add_detail(told, name, event.what[name])


def _keys_alone(level: str, keywords: str) -> bytes:
    """Return a query's identifier with its keys, empty but for the level (explicit VR)."""
    ds = Dataset()
    if level:
        ds.QueryRetrieveLevel = level
    for keyword in keywords.split():
        if tag_for_keyword(keyword) is not None and keyword not in ds:
            setattr(ds, keyword, None)
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, False
    write_dataset(written, ds)
    return written.getvalue()


def _add_alert(root: ET.Element, event: AuditEvent, source: AuditSource) -> None:
    told = _object(root, source.name, SYSTEM, IS_SECURITY_RESOURCE, codes.NODE_ID)
    ET.SubElement(told, "ParticipantObjectName").text = source.ae_title
    pairs = (f"{k}: {event.what[k]}" for k in _TOLD_OF_ALERTS if event.what.get(k))
    _add_detail(told, "Alert Description", "; ".join(pairs) or event.kind)


def _object(root: ET.Element, name: str, type_code: str, role: str, id_type: Code) -> ET.Element:
    told = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": _clean(name),
            "ParticipantObjectTypeCode": type_code,
            "ParticipantObjectTypeCodeRole": role,
        },
    )
    _add_code(told, "ParticipantObjectIDTypeCode", id_type)
    return told


def _add_detail(told: ET.Element, name: str, value: str) -> None:
    ET.SubElement(told, "ParticipantObjectDetail", {"type": name, "value": _base64(value)})


def _add_code(told: ET.Element, name: str, code: Code) -> None:
    fields = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    ET.SubElement(told, name, fields)


def _access_point(address: str) -> dict[str, str]:
    if not address:
        return {}
    try:
        ipaddress.ip_address(address)
        kind = IP_ADDRESS
    except ValueError:
        kind = MACHINE_NAME
    return {"NetworkAccessPointID": _clean(address), "NetworkAccessPointTypeCode": kind}


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _base64(text: str) -> str:
    return base64.b64encode(text[:LONGEST_TEXT].encode("utf-8", "replace")).decode("ascii")


def _clean(text: str) -> str:
    """Return a text from outside without what XML cannot hold, and not longer than it may be."""
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST_TEXT].strip()
