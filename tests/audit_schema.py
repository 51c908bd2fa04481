"""Checks audit messages against the schema of PS3.15 A.5.1, written down here once more as tables.

Independent of `node.audit`: element order, how often each may stand, attributes, value sets.
"""

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime
from xml.etree import ElementTree as ET


def one_of(*values: str) -> str:
    return "|".join(re.escape(value) for value in values)


TOKEN = r"\S(?:.*\S)?"  # noqa: S105 - a type of XML Schema
ANY = r".*"
CODED = {"csd-code": TOKEN, "codeSystemName": TOKEN, "originalText": TOKEN, "displayName?": TOKEN}


@dataclass(frozen=True)
class Element:
    """What an element may hold: children as a pattern of their names, attributes, its text."""

    children: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""


SCHEMA = {
    "AuditMessage": Element(
        "EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*"
    ),
    "EventIdentification": Element(
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
        {
            "EventActionCode?": one_of("C", "R", "U", "D", "E"),
            "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
            "EventOutcomeIndicator": one_of("0", "4", "8", "12"),
        },
    ),
    "EventID": Element(attributes=CODED),
    "EventTypeCode": Element(attributes=CODED),
    "EventOutcomeDescription": Element(text=ANY),
    "ActiveParticipant": Element(
        "(RoleIDCode )*(MediaIdentifier )?",
        {
            "UserID": ANY,
            "AlternativeUserID?": ANY,
            "UserName?": ANY,
            "UserIsRequestor": one_of("true", "false"),
            "NetworkAccessPointID?": TOKEN,
            "NetworkAccessPointTypeCode?": one_of("1", "2", "3", "4", "5"),
        },
    ),
    "RoleIDCode": Element(attributes=CODED),
    "AuditSourceIdentification": Element(
        "(AuditSourceTypeCode )*", {"AuditEnterpriseSiteID?": TOKEN, "AuditSourceID": TOKEN}
    ),
    "AuditSourceTypeCode": Element(attributes={"csd-code": "[1-9]"}),
    "ParticipantObjectIdentification": Element(
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
        {
            "ParticipantObjectID": TOKEN,
            "ParticipantObjectTypeCode?": one_of("1", "2", "3", "4"),
            "ParticipantObjectTypeCodeRole?": one_of(*map(str, range(1, 27))),
            "ParticipantObjectDataLifeCycle?": one_of(*map(str, range(1, 16))),
            "ParticipantObjectSensitivity?": TOKEN,
        },
    ),
    "ParticipantObjectIDTypeCode": Element(attributes=CODED),
    "ParticipantObjectName": Element(text=TOKEN),
    "ParticipantObjectQuery": Element(text="base64"),
    "ParticipantObjectDetail": Element(attributes={"type": TOKEN, "value": "base64"}),
    "ParticipantObjectDescription": Element(
        "(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?(Encrypted )?"
        "(Anonymized )?"
    ),
    "SOPClass": Element("(Instance )*", {"UID?": r"[0-9.]{1,64}", "NumberOfInstances": r"\d+"}),
}


def parsed(message: str) -> ET.Element:
    """Return a message of ours as a tree."""
    return ET.fromstring(message)  # noqa: S314 - made by this very program


def schema_problems(message: str) -> list[str]:
    """Return what is wrong with a message; nothing: it is valid."""
    root = parsed(message)
    if root.tag != "AuditMessage":
        return [f"the root is {root.tag}"]
    return _problems(root)


def _problems(element: ET.Element) -> list[str]:
    known = SCHEMA.get(element.tag)
    if known is None:
        return [f"{element.tag} is no element"]
    problems = []
    children = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(known.children, children):
        problems.append(f"{element.tag} holds {children}")
    allowed = {name.rstrip("?"): pattern for name, pattern in known.attributes.items()}
    required = {name for name in known.attributes if not name.endswith("?")}
    problems += [f"{element.tag} lacks {name}" for name in required - set(element.attrib)]
    for name, value in element.attrib.items():
        if name not in allowed:
            problems.append(f"{element.tag} has {name}")
        elif not _fits(allowed[name], value):
            problems.append(f"{element.tag} {name} is {value!r}")
    if known.text and not _fits(known.text, element.text or ""):
        problems.append(f"{element.tag} says {element.text!r}")
    for child in element:
        problems += _problems(child)
    return problems


def _fits(pattern: str, value: str) -> bool:
    if pattern == "base64":
        return base64.b64decode(value, validate=True) is not None
    return re.fullmatch(pattern, value, flags=re.DOTALL) is not None


@dataclass(frozen=True)
class SyslogMessage:
    """A line of RFC 5424, taken apart."""

    priority: int
    at: datetime
    host: str
    app: str
    process: str
    message_id: str
    message: str


_LINE = re.compile(
    r"<(\d{1,3})>1 (\S+) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - \ufeff(.*)"
)


def syslog_message(line: str) -> SyslogMessage:
    """Take a line apart, or fail."""
    found = _LINE.fullmatch(line)
    assert found is not None, line
    return SyslogMessage(
        int(found[1]), datetime.fromisoformat(found[2]), *(found[n] for n in range(3, 8))
    )


def summary(message: str) -> tuple[str, str, str]:
    """Return what a message tells in short: event, action, outcome."""
    event = parsed(message).find("EventIdentification")
    assert event is not None
    name = event.find("EventID")
    assert name is not None
    return (
        name.attrib["originalText"],
        event.attrib["EventActionCode"],
        event.attrib["EventOutcomeIndicator"],
    )
