"""What the journal keeps of an object, and the header that the index gets of it.

A receipt holds no identifier of a patient.
"""

import json
import logging
from dataclasses import dataclass
from typing import Any, Self

from node.errors import UnfitObjectError, UnreadableObjectError
from node.header import InstanceHeader, header_from_bytes

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the journal keeps of an object.

    Attributes:
        spare: Where it was written, and `path` where it was put, relative to the store's root.
        start: Where in the file the data set begins.
        association: Names the association that carried it; unique.
        opened_at: When that association was opened, ISO 8601; `received_at` likewise.
    """

    spare: str
    path: str
    start: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    association: str
    calling_ae: str
    peer_name: str
    address: str
    opened_at: str
    received_at: str

    def to_bytes(self) -> bytes:
        """Return a form for the journal."""
        return json.dumps({key: getattr(self, key) for key in self.__slots__}).encode()

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """Return what `to_bytes` wrote; keys of a later version are left out."""
        document: dict[str, Any] = json.loads(encoded)
        return cls(**{key: document[key] for key in cls.__slots__})


def header_of(encoded: memoryview, receipt: Receipt) -> InstanceHeader:
    """Return the whole header, or what was looked at before the answer if that is all there is."""
    try:
        return header_from_bytes(encoded, receipt.transfer_syntax_uid)
    except (UnreadableObjectError, UnfitObjectError) as error:
        fields = {"reason": str(error), "peer": receipt.peer_name}
        LOGGER.warning("instance.unreadable", extra=fields)
    return InstanceHeader(
        sop_instance_uid=receipt.sop_instance_uid,
        sop_class_uid=receipt.sop_class_uid,
        transfer_syntax_uid=receipt.transfer_syntax_uid,
        modality="",
        study_instance_uid="",
        series_instance_uid="",
    )
