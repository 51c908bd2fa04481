"""What the index knows of objects that are named by their UIDs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from node.header import InstanceHeader
from node.index import Index
from node.index.tables import INSTANCES

_CHUNK = 500
"""Values in one IN list; databases limit them."""


@dataclass(frozen=True, slots=True)
class HeldObject:
    """The newest content of a received SOP instance.

    Attributes:
        path: Of its file, as the store knows it.
        size_bytes: Of the whole file.
    """

    sop_class_uid: str
    path: str
    size_bytes: int


def sent_by(index: Index, peer: str, sop_instance_uids: Sequence[str]) -> list[InstanceHeader]:
    """Return the headers of those SOP instances whose newest content came from a peer."""
    found: list[InstanceHeader] = []
    with index.read() as connection:
        for start in range(0, len(sop_instance_uids), _CHUNK):
            some = sop_instance_uids[start : start + _CHUNK]
            query = sa.select(INSTANCES.c.header).where(
                INSTANCES.c.is_newest,
                INSTANCES.c.peer == peer,
                INSTANCES.c.sop_instance_uid.in_(some),
            )
            found += (InstanceHeader.from_json(json.loads(h)) for h in connection.scalars(query))
    return found


def held_objects(index: Index, sop_instance_uids: Sequence[str]) -> dict[str, HeldObject]:
    """Return what is held of SOP instances, by UID; what is not held is absent."""
    columns = (
        INSTANCES.c.sop_instance_uid,
        INSTANCES.c.header,
        INSTANCES.c.path,
        INSTANCES.c.size_bytes,
    )
    found: dict[str, HeldObject] = {}
    with index.read() as connection:
        for start in range(0, len(sop_instance_uids), _CHUNK):
            some = sop_instance_uids[start : start + _CHUNK]
            query = sa.select(*columns).where(
                INSTANCES.c.is_newest, INSTANCES.c.sop_instance_uid.in_(some)
            )
            for uid, header, path, size_bytes in connection.execute(query):
                sop_class_uid = str(json.loads(header).get("sop_class_uid", ""))
                found[uid] = HeldObject(sop_class_uid, path, size_bytes)
    return found
