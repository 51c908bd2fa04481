"""Audit messages: PS3.15 A.5, by its schema and by the tables of its messages."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom.filereader import read_dataset
from pydicom.sr._concepts_dict import concepts

from node.audit import codes
from node.audit.events import AuditEvent, Kind
from node.audit.message import AuditSource, Subject, audit_message
from node.audit.syslog import framed, syslog_line
from tests.audit_schema import parsed, schema_problems, summary, syslog_message

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
SOURCE = AuditSource("HILUM@node1", "Clinic", "HILUM", "node1", "4711")
SUBJECT = Subject("pseudonym1", "", ("1.2.3",))
PEER: Mapping[str, str] = {"peer": "tps", "ae_title": "TPS", "sop_classes": "1.2.840.1=3 =2"}
CASE: Mapping[str, str] = {"case_id": "c1", "action": "retry"}

SAMPLES = {
    Kind.STARTED: AuditEvent(Kind.STARTED),
    Kind.STOPPED: AuditEvent(Kind.STOPPED),
    Kind.LOGIN: AuditEvent(Kind.LOGIN, "anna", "10.0.0.1"),
    Kind.LOGOUT: AuditEvent(Kind.LOGOUT, "anna", "10.0.0.1"),
    Kind.REQUEST: AuditEvent(Kind.REQUEST, "anna", "10.0.0.1", "failure", {"status": "403"}),
    Kind.ACCOUNT_CHANGED: AuditEvent(Kind.ACCOUNT_CHANGED, "anna", "::1", what={"user": "eve"}),
    Kind.CASE_CHANGED: AuditEvent(Kind.CASE_CHANGED, "anna", "10.0.0.1", what=CASE),
    Kind.ACCESSED: AuditEvent(Kind.ACCESSED, "anna", "10.0.0.1", what=CASE),
    Kind.EXPORTED: AuditEvent(Kind.EXPORTED, "anna", "10.0.0.1", what=CASE),
    Kind.BEGIN_SENDING: AuditEvent(Kind.BEGIN_SENDING, "", "tps.clinic", what=PEER),
    Kind.SENT: AuditEvent(Kind.SENT, "", "tps.clinic", "failure", {**PEER, "reason": "no room"}),
    Kind.RECEIVED: AuditEvent(Kind.RECEIVED, "TPS", "10.0.0.9", what=PEER),
    Kind.QUERY_ANSWERED: AuditEvent(
        Kind.QUERY_ANSWERED, "TPS", "10.0.0.9", what={**PEER, "sop_class": "1.2.840.9"}
    ),
    Kind.QUERY_ASKED: AuditEvent(
        Kind.QUERY_ASKED, "", "pacs", what={"ae_title": "PACS", "sop_class": "1.2.840.9"}
    ),
    Kind.PEER_REJECTED: AuditEvent(
        Kind.PEER_REJECTED, "EVIL", "10.6.6.6", "failure", {"reason": "no peer has this AE title"}
    ),
    Kind.STUDY_DELETED: AuditEvent(Kind.STUDY_DELETED, what={"study": "1.2.3"}),
}


def message(event: AuditEvent, subject: Subject = SUBJECT) -> str:
    return audit_message(event, AT, SOURCE, subject)


def roles(text: str) -> list[tuple[str, str, str]]:
    """Return who takes part: name, role, whether they asked for it."""
    return [
        (
            who.attrib["UserID"],
            "" if (role := who.find("RoleIDCode")) is None else role.attrib["csd-code"],
            who.attrib["UserIsRequestor"],
        )
        for who in parsed(text).iter("ActiveParticipant")
    ]


def objects(text: str) -> dict[str, str]:
    """Return what a message is about: by type of its identifier."""
    found = {}
    for one in parsed(text).iter("ParticipantObjectIdentification"):
        kind = one.find("ParticipantObjectIDTypeCode")
        assert kind is not None
        found[kind.attrib["originalText"]] = one.attrib["ParticipantObjectID"]
    return found


@pytest.mark.parametrize("kind", list(Kind))
def test_message_of_every_kind_is_valid_by_the_schema(kind: Kind) -> None:
    """Issue 8, 5: RFC 3881 messages as PS3.15 A.5.1 has them."""
    assert schema_problems(message(SAMPLES[kind])) == []
    assert schema_problems(message(SAMPLES[kind], Subject())) == []


def test_codes_when_compared_are_those_of_dicom() -> None:
    """CID 400 to 402, compared with pydicom's table of them."""
    known = {code: name for names in concepts["DCM"].values() for code, (name, _) in names.items()}
    ours = [code for code in vars(codes).values() if isinstance(code, codes.Code)]
    compared = [code for code in ours if code.scheme == "DCM"]
    assert len(compared) > 20
    assert [code for code in compared if known.get(code.value) != code.meaning] == []


@pytest.mark.parametrize(
    ("kind", "told", "who"),
    [
        (Kind.STARTED, ("Application Activity", "E", "0"), [("4711", "110150", "true")]),
        (
            Kind.LOGIN,
            ("User Authentication", "E", "0"),
            [("4711", "", "false"), ("anna", "", "true")],
        ),
        (
            Kind.REQUEST,
            ("Security Alert", "E", "8"),
            [("4711", "", "true"), ("anna", "", "false")],
        ),
        (
            Kind.CASE_CHANGED,
            ("Procedure Record", "U", "0"),
            [("4711", "", "false"), ("anna", "", "true")],
        ),
        (
            Kind.EXPORTED,
            ("Export", "R", "0"),
            [
                ("4711", "110153", "false"),
                ("anna", "110153", "true"),
                ("10.0.0.1", "110154", "false"),
            ],
        ),
        (
            Kind.BEGIN_SENDING,
            ("Begin Transferring DICOM Instances", "E", "0"),
            [("4711", "110153", "true"), ("TPS", "110152", "false")],
        ),
        (
            Kind.SENT,
            ("DICOM Instances Transferred", "R", "4"),
            [("4711", "110153", "true"), ("TPS", "110152", "false")],
        ),
        (
            Kind.RECEIVED,
            ("DICOM Instances Transferred", "C", "0"),
            [("4711", "110152", "false"), ("TPS", "110153", "true")],
        ),
        (
            Kind.QUERY_ANSWERED,
            ("Query", "E", "0"),
            [("4711", "110152", "false"), ("TPS", "110153", "true")],
        ),
        (
            Kind.QUERY_ASKED,
            ("Query", "E", "0"),
            [("4711", "110153", "true"), ("PACS", "110152", "false")],
        ),
        (
            Kind.PEER_REJECTED,
            ("Security Alert", "E", "8"),
            [("4711", "", "true"), ("EVIL", "", "false")],
        ),
        (Kind.STUDY_DELETED, ("DICOM Study Deleted", "D", "0"), [("4711", "", "true")]),
    ],
)
def test_participants_are_those_of_the_messages_table(
    kind: Kind, told: tuple[str, str, str], who: list[tuple[str, str, str]]
) -> None:
    """PS3.15 A.5.3.1 to A.5.3.15: event, action, outcome; who takes part in which role."""
    text = message(SAMPLES[kind])
    assert summary(text) == told
    assert roles(text) == who


def test_patient_and_study_are_told_as_the_trail_may_name_them() -> None:
    """A.5.3.7: studies by UID, the patient by a number, how many objects of each class."""
    text = message(SAMPLES[Kind.RECEIVED])
    assert objects(text) == {"Study Instance UID": "1.2.3", "Patient Number": "pseudonym1"}
    classes = [(c.get("UID"), c.get("NumberOfInstances")) for c in parsed(text).iter("SOPClass")]
    assert classes == [("1.2.840.1", "3"), (None, "2")]
    named = message(SAMPLES[Kind.RECEIVED], Subject("4711", "Doe^Jane", ("1.2.3", "1.2.4")))
    assert "Doe^Jane" in named
    assert named.count('originalText="Study Instance UID"') == 2


def test_objects_that_were_held_already_are_read_not_created() -> None:
    """A.5.3.7: R if the receiver already holds them."""
    event = AuditEvent(Kind.RECEIVED, "TPS", "10.0.0.9", what={**PEER, "event_action": "R"})
    assert summary(message(event))[1] == "R"


def test_request_about_a_case_is_a_change_of_its_record() -> None:
    """Issue 8, 5: retry, abandon and re-run on the page; denied ones are alerts."""
    done = AuditEvent(Kind.REQUEST, "anna", "10.0.0.1", "success", {"case_id": "c1"})
    denied = AuditEvent(Kind.REQUEST, "anna", "10.0.0.1", "failure", {"case_id": "c1"})
    assert summary(message(done)) == ("Procedure Record", "U", "0")
    assert summary(message(denied)) == ("Security Alert", "E", "8")
    assert summary(message(AuditEvent("new kind", "anna")))[0] == "Security Alert"


def test_begin_of_sending_tells_which_classes_are_to_go() -> None:
    """A.5.3.3: element ContainsSOPClass, one for each."""
    what = {**PEER, "sop_classes": "1.2.840.1=3 1.2.840.2=1 =2"}
    found = parsed(message(AuditEvent(Kind.BEGIN_SENDING, what=what)))
    details = [d.get("value", "") for d in found.iter("ParticipantObjectDetail")]
    assert [base64.b64decode(value).decode() for value in details] == ["1.2.840.1", "1.2.840.2"]


@pytest.mark.parametrize("actor", ["anna", ""])
def test_login_was_asked_for_by_the_person_alone(actor: str) -> None:
    """A.5.3.12: also where nobody knows who it was; the node only looked at the password."""
    event = AuditEvent(Kind.LOGIN, actor, "10.0.0.9", "failure")
    assert roles(message(event)) == [("4711", "", "false"), (actor or "unknown", "", "true")]


def test_move_names_who_asked_beside_who_receives() -> None:
    """A.5.3.3: third parties that are the requestor."""
    event = AuditEvent(Kind.SENT, "VIEWER", "10.0.0.9", what={"ae_title": "TPS"})
    assert roles(message(event)) == [
        ("4711", "110153", "false"),
        ("TPS", "110152", "false"),
        ("VIEWER", "", "true"),
    ]


def test_query_is_told_with_its_keys_and_without_their_values() -> None:
    """A.5.3.10, and invariant 6: the query's identifier names nobody."""
    what = {"sop_class": "1.2.840.9", "level": "STUDY", "keys": "PatientID PatientName NoKeyword"}
    text = message(AuditEvent(Kind.QUERY_ANSWERED, "TPS", "10.0.0.9", what=what))
    query = parsed(text).find(".//ParticipantObjectQuery")
    assert query is not None
    raw = BytesIO(base64.b64decode(query.text or ""))
    ds = read_dataset(raw, is_implicit_VR=False, is_little_endian=True)
    assert ds.QueryRetrieveLevel == "STUDY"
    assert [e.keyword for e in ds if not e.value] == ["PatientName", "PatientID"]


@pytest.mark.parametrize(
    "title", ['<script>"&', "two\nlines", "nul\0byte", "\x1b[31mred", "x" * 5000, "\ud800", "Zoë"]
)
def test_message_when_a_stranger_chooses_its_words_stays_one_valid_line(title: str) -> None:
    """Peers 38, log injection: the trail cannot be forged by an AE title."""
    event = AuditEvent(Kind.PEER_REJECTED, title, "10.6.6.6", "failure", {"reason": title})
    line = syslog_line(message(event), AT, "node1", "4711")
    assert "\n" not in line
    assert "\r" not in line
    assert schema_problems(syslog_message(line).message) == []
    assert len(line.encode()) < 32_768  # PS3.15 A.6: what collectors take at least


def test_syslog_line_has_the_header_of_the_profile() -> None:
    """PS3.15 A.6, RFC 5424 section 6, RFC 5425 section 4.3."""
    text = message(SAMPLES[Kind.STARTED])
    found = syslog_message(syslog_line(text, AT, "node 1", "4711"))
    assert (found.priority, found.message_id) == (85, "DICOM+RFC3881")
    assert (found.host, found.app, found.process) == ("node1", "hilum", "4711")
    assert found.at == AT
    assert found.message == text
    assert framed("Zoë") == b"4 Zo\xc3\xab"
