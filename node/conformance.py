"""What the node is called and what it answers: names and statuses, as data.

What runs obeys the tables here, in `storage_classes` and in `answering.keys`; `node.statement`
prints them, so that the statement cannot differ from what runs. Opens no socket and knows no
association.
"""

from collections.abc import Mapping

from pydicom.uid import UID

from node.errors import (
    NodeError,
    StorageFullError,
    UnfitObjectError,
    UnreadableObjectError,
)
from node.storage_classes import ACCEPTED, MODALITY_OF, SENT, SENT_SYNTAXES, StorageClass, accepted

__all__ = [
    "ACCEPTED",
    "CANCELLED",
    "CANNOT_UNDERSTAND",
    "CLASS_INSTANCE_CONFLICT",
    "CLASS_NOT_SUPPORTED",
    "DESTINATION_UNKNOWN",
    "DOES_NOT_MATCH_SOP_CLASS",
    "DUPLICATE_TRANSACTION",
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "INVALID_ARGUMENT",
    "MANUFACTURER",
    "MISSING_ATTRIBUTE",
    "MODALITY_OF",
    "NOT_AUTHORISED",
    "NO_SUCH_ACTION",
    "NO_SUCH_INSTANCE",
    "OUT_OF_RESOURCES",
    "PENDING",
    "PENDING_WITHOUT_SOME_KEYS",
    "PROCESSING_FAILURE",
    "RESOURCE_LIMITATION",
    "SENT",
    "SENT_SYNTAXES",
    "SOME_FAILED",
    "STATUS_OF",
    "STORAGE_COMMITMENT",
    "STORAGE_COMMITMENT_INSTANCE",
    "SUCCESS",
    "UNABLE_TO_COUNT",
    "UNABLE_TO_PERFORM",
    "VERIFICATION",
    "StorageClass",
    "accepted",
    "status_of",
]

MANUFACTURER = "Hilum"
"""Manufacturer (0008,0070) of our own objects."""

IMPLEMENTATION_CLASS_UID = UID("2.25.88954070868025054545243061283437047646")
IMPLEMENTATION_VERSION_NAME = "HILUM"
"""Who wrote a file (PS3.10 7.1) and who speaks on the network (PS3.7 D.3.3.2).

These three repeat `handlers.encode.identity`, and a test compares them: to import them would bring
the numerical libraries, 180 MB of them, into every process that only talks.
"""

VERIFICATION = UID("1.2.840.10008.1.1")
"""Verification SOP class (PS3.4 Annex A); pydicom has no name for it."""

STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
STORAGE_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
"""Storage Commitment Push Model SOP class and its well-known instance (PS3.4 Annex J)."""

SUCCESS = 0x0000
"""Of C-STORE: the object is safe, its file and the journal record of it survive a power cut."""
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
MISSING_ATTRIBUTE = 0x0120
CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124
RESOURCE_LIMITATION = 0x0213
"""PS3.7 Annex C; some of them are failure reasons of Storage Commitment, too (PS3.3 C.14.1.1)."""
DUPLICATE_TRANSACTION = 0x0131
"""PS3.3 C.14.1.1."""
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000
"""PS3.4 table B.2-1 and, with nearly the same meaning, C.4-1, C.4-2 and C.4-3."""
UNABLE_TO_COUNT = 0xA701
UNABLE_TO_PERFORM = 0xA702
DESTINATION_UNKNOWN = 0xA801
SOME_FAILED = 0xB000
CANCELLED = 0xFE00
PENDING = 0xFF00
PENDING_WITHOUT_SOME_KEYS = 0xFF01
"""PS3.4 tables C.4-1 (C-FIND), C.4-2 (C-MOVE) and C.4-3 (C-GET)."""

STATUS_OF: Mapping[type[NodeError], int] = {
    UnreadableObjectError: CANNOT_UNDERSTAND,
    UnfitObjectError: DOES_NOT_MATCH_SOP_CLASS,
    StorageFullError: OUT_OF_RESOURCES,
    NodeError: PROCESSING_FAILURE,
}
"""C-STORE status for each error; an error of another class counts as its nearest ancestor here."""


def status_of(error: NodeError) -> int:
    """Return the C-STORE status that tells a sender of this error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
