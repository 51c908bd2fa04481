"""Of whom a report speaks, who made it and from what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One object or series that a result was made from, or that it became.

    Attributes:
        what: For people, as `Planning CT, series`.
        uid: Its SOP or Series Instance UID.
    """

    what: str
    uid: str


@dataclass(frozen=True, slots=True)
class About:
    """What stands at the head and at the end of a report.

    The patient's identity stands on the page as it stands in every object of the result: a report
    that cannot be laid to its patient is dangerous. It never becomes part of a file's name.

    Attributes:
        patient_name: For people; empty if the CT has none.
        patient_id: Likewise.
        birth_date: As YYYY-MM-DD; empty if not told.
        sex: As the CT has it.
        study_date: Of the planning CT, as YYYY-MM-DD; empty if not told.
        created_date: Of the result, as YYYY-MM-DD.
        created_time: As HH:MM:SS, UTC.
        software_version: Version of the software.
        protocol: Name of the protocol.
        settings_digest: SHA-256 of the settings, in hexadecimal digits.
        fingerprint: What all UIDs of the result follow from.
        sources: What it was made from.
        proposals: What it became: the objects that a person is to look at.
    """

    patient_name: str
    patient_id: str
    birth_date: str
    sex: str
    study_date: str
    created_date: str
    created_time: str
    software_version: str
    protocol: str
    settings_digest: str
    fingerprint: str
    sources: tuple[Source, ...] = ()
    proposals: tuple[Source, ...] = ()
