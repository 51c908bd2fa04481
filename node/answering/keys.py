"""Which information models, levels and keys a query may use, as tables (PS3.4 C.6).

The tables are data: `identifier` and `find` obey them, and `node.conformance` prints them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom.datadict import dictionary_VR
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052), from the top."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


LEVELS = tuple(Level)

PATIENT_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.1.1")
PATIENT_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.1.2")
PATIENT_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.1.3")
STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
"""SOP classes of the Query/Retrieve Service Class (PS3.4 C.6.1.3 and C.6.2.3)."""

FIND_CLASSES = (PATIENT_ROOT_FIND, STUDY_ROOT_FIND)
MOVE_CLASSES = (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE)
GET_CLASSES = (PATIENT_ROOT_GET, STUDY_ROOT_GET)

LEVELS_OF: Mapping[UID, tuple[Level, ...]] = {
    **dict.fromkeys((PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET), LEVELS),
    **dict.fromkeys((STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET), LEVELS[1:]),
}
"""The levels of each information model; with Study Root the patient's keys belong to the study."""

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Transfer syntaxes of requests and answers; the preferred one first."""


class Matching(StrEnum):
    """How a value that is asked for is compared (PS3.4 C.2.2.2)."""

    UIDS = "list of UID"
    TEXT = "single value, wildcard"
    NAME = "single value, wildcard; upper and lower case are alike"
    RANGE = "single value, range"
    NUMBER = "single value"
    NONE = "returned only"


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that a query may ask for.

    Attributes:
        level: Whose it is.
        kind: "unique", "required" or "optional" (PS3.4 C.6.1.1 and C.6.2.1).
        is_counted: Told by what the index holds, not by the header of an object.
    """

    keyword: str
    level: Level
    matching: Matching
    kind: str
    is_counted: bool = False


_MATCHING_OF_VR = {
    "UI": Matching.UIDS,
    "PN": Matching.NAME,
    "DA": Matching.RANGE,
    "TM": Matching.RANGE,
    "IS": Matching.NUMBER,
    "US": Matching.NUMBER,
}


def _keys(level: Level, kind: str, keywords: str) -> tuple[Key, ...]:
    return tuple(
        Key(k, level, _MATCHING_OF_VR.get(dictionary_VR(k), Matching.TEXT), kind)
        for k in keywords.split()
    )


def _counts(level: Level, keywords: str) -> tuple[Key, ...]:
    return tuple(
        Key(k, level, Matching.NONE, "optional", is_counted=True) for k in keywords.split()
    )


KEYS: tuple[Key, ...] = (
    *_keys(Level.PATIENT, "unique", "PatientID"),
    *_keys(Level.PATIENT, "required", "PatientName"),
    *_keys(Level.PATIENT, "optional", "IssuerOfPatientID PatientBirthDate PatientSex"),
    *_counts(
        Level.PATIENT,
        "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries "
        "NumberOfPatientRelatedInstances",
    ),
    *_keys(Level.STUDY, "unique", "StudyInstanceUID"),
    *_keys(Level.STUDY, "required", "StudyDate StudyTime AccessionNumber StudyID"),
    *_keys(Level.STUDY, "optional", "StudyDescription ReferringPhysicianName"),
    Key("ModalitiesInStudy", Level.STUDY, Matching.TEXT, "optional", is_counted=True),
    Key("SOPClassesInStudy", Level.STUDY, Matching.UIDS, "optional", is_counted=True),
    *_counts(Level.STUDY, "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"),
    *_keys(Level.SERIES, "unique", "SeriesInstanceUID"),
    *_keys(Level.SERIES, "required", "Modality SeriesNumber"),
    *_keys(
        Level.SERIES,
        "optional",
        "SeriesDescription SeriesDate SeriesTime BodyPartExamined Manufacturer OperatorsName "
        "FrameOfReferenceUID",
    ),
    *_counts(Level.SERIES, "NumberOfSeriesRelatedInstances"),
    *_keys(Level.IMAGE, "unique", "SOPInstanceUID"),
    *_keys(Level.IMAGE, "required", "InstanceNumber"),
    *_keys(
        Level.IMAGE,
        "optional",
        "SOPClassUID ContentDate ContentTime InstanceCreationDate InstanceCreationTime "
        "StructureSetLabel Rows Columns NumberOfFrames",
    ),
)
"""Every key that is obeyed; any other one is left out of the answer, whose status says so."""

KEY_OF: Mapping[str, Key] = {key.keyword: key for key in KEYS}

UNIQUE_OF: Mapping[Level, str] = {key.level: key.keyword for key in KEYS if key.kind == "unique"}
"""The unique key of each level."""

ALWAYS_RETURNED = ("QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability")
"""What stands in every answer, asked for or not; of character sets see `find`."""

MOST_MATCHES = 10_000
"""A query with more is ended after so many with 0xA700, and says so: to be asked more narrowly."""

MOST_RETRIEVED = 65_535
"""Sub-operations are counted in 16 bits (PS3.7 9.1.4.1.8)."""

SENT_KEYS = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SOPInstanceUID",
    "SOPClassUID",
)
"""What is told of objects that the peer itself sent, which are found by SOP Instance UID only."""

MOVES_PER_PEER = 2
"""C-MOVE and C-GET operations of one peer at once: a further one is refused with 0xA702."""


def keys_at(level: Level) -> tuple[Key, ...]:
    """Return the keys that a query at a level may use: those of the levels above, too."""
    above = LEVELS[: LEVELS.index(level) + 1]
    return tuple(key for key in KEYS if key.level in above)
