"""What was received: associations and instances, and which objects may belong together.

Decides nothing about cases: it returns candidates, `node.assembly` judges them. Deletes nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from node.assembly import StoredInstance
from node.header import InstanceHeader
from node.index import Index
from node.index.case_rows import RESULTS
from node.index.tables import ASSOCIATIONS, INSTANCES, LOOKED, SERIES_CARRIED
from node.storage import StoredFile

STRUCTURE_SET = "RTSTRUCT"
CT = "CT"
"""Modality (PS3.3 C.7.3.1.1.1)."""


class AssociationOutcome(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    ABORTED = "aborted"
    CONNECTION_LOST = "connection lost"
    NODE_STOPPED = "node stopped"


@dataclass(frozen=True, slots=True)
class Added:
    """What an object was to the index.

    Attributes:
        is_new: False if these bytes of this SOP instance were known.
        replaces_other_content: The SOP instance was known with other content.
    """

    is_new: bool
    replaces_other_content: bool


def patient_key_of(header: InstanceHeader) -> str:
    """Return what the objects of one patient have in common; no identifier can be read from it.

    Patient ID decides; an object without one belongs to its study alone. The issuer does not take
    part: planning systems drop it, and assembly tells patients of different issuers apart.
    """
    patient_id = header.patient_id.strip()
    if not patient_id:
        return f"study:{header.study_instance_uid}"
    return f"patient:{hashlib.sha256(patient_id.encode()).hexdigest()[:32]}"


class InstanceBook:
    """The associations and instances of one index; safe for many threads."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def open_association(
        self, *, calling_ae: str, peer_name: str, address: str, opened_at: datetime, node_run: str
    ) -> int:
        """Record an association and return its row id.

        `node_run` names the process that holds it; `close_abandoned_associations` goes by it.
        """
        row = {
            "calling_ae": calling_ae,
            "peer": peer_name,
            "address": address,
            "opened_at": opened_at,
            "node_run": node_run,
        }
        with self._index.begin() as connection:
            result = connection.execute(ASSOCIATIONS.insert().values(**row))
            key = result.inserted_primary_key
            assert key is not None  # noqa: S101 - one row was inserted
            return int(key[0])

    def close_association(
        self, association_id: int, outcome: AssociationOutcome, closed_at: datetime
    ) -> None:
        """Record how an association ended; the first record of its end counts."""
        with self._index.begin() as connection:
            connection.execute(
                ASSOCIATIONS.update()
                .where(ASSOCIATIONS.c.id == association_id, ASSOCIATIONS.c.closed_at.is_(None))
                .values(outcome=outcome, closed_at=closed_at)
            )

    def close_abandoned_associations(self, node_run: str, closed_at: datetime) -> int:
        """Close what a dead process left open, as `node stopped`; return how many it was."""
        with self._index.begin() as connection:
            result = connection.execute(
                ASSOCIATIONS.update()
                .where(ASSOCIATIONS.c.node_run == node_run, ASSOCIATIONS.c.closed_at.is_(None))
                .values(outcome=AssociationOutcome.NODE_STOPPED, closed_at=closed_at)
            )
            return result.rowcount

    def add_instance(
        self,
        header: InstanceHeader,
        stored_file: StoredFile,
        association_id: int | None,
        peer_name: str,
        received_at: datetime,
    ) -> Added:
        """Record an object in one transaction that is on stable storage when this returns.

        The same SOP instance with the same bytes adds nothing. With other bytes both contents are
        kept, and the one received last counts: also where it is an older content that came again,
        as after an undo in the TPS.

        Raises:
            StorageFullError: No room for it.
        """
        with self._index.begin() as connection:
            _take_turns(connection)
            is_this = INSTANCES.c.sop_instance_uid == header.sop_instance_uid
            known = {
                row.sha256: bool(row.is_newest)
                for row in connection.execute(
                    sa.select(INSTANCES.c.sha256, INSTANCES.c.is_newest).where(is_this)
                )
            }
            _carry_series(connection, association_id, header.series_instance_uid)
            if known.get(stored_file.sha256):
                return Added(is_new=False, replaces_other_content=False)
            if known:
                connection.execute(
                    INSTANCES.delete().where(is_this, INSTANCES.c.sha256 == stored_file.sha256)
                )
                connection.execute(INSTANCES.update().where(is_this).values(is_newest=False))
            connection.execute(
                INSTANCES.insert().values(
                    **_columns(header, stored_file),
                    peer=peer_name,
                    association_id=association_id,
                    received_at=received_at,
                    is_newest=True,
                    is_ours=header.is_ours or _is_result(connection, header.sop_instance_uid),
                )
            )
        return Added(is_new=True, replaces_other_content=bool(known))

    def instance_group(
        self, patient_key: str, quiet_s_by_peer: Mapping[str, float], default_quiet_s: float
    ) -> list[StoredInstance]:
        """Return every object that may belong to a case of this patient, oldest first.

        That is, in their newest versions and without our own: the objects of the patient; the image
        series that their structure sets refer to, whosever they are; and the structure sets, of any
        patient, that refer to one of their CT series. Objects of another patient are returned so
        that assembly can say that they do not fit.

        Args:
            patient_key: As of `patient_key_of`.
            quiet_s_by_peer: Quiet period of the peers that have one of their own.
            default_quiet_s: That of the others.
        """
        with self._index.read() as connection:
            rows = connection.execute(_group_query(patient_key)).all()
        return [
            StoredInstance(
                header=InstanceHeader.from_json(json.loads(row.header)),
                sha256=row.sha256,
                path=row.path,
                received_at=row.received_at,
                association_is_open=bool(row.is_moving),
                quiet_s=quiet_s_by_peer.get(row.peer, default_quiet_s),
                replaces_other_content=bool(row.has_older),
            )
            for row in rows
        ]

    def patient_keys_since(self, instance_row_id: int) -> tuple[set[str], int]:
        """Return the patients whose groups changed after an instance row, and the newest row id.

        Our own objects change nothing. Begin with 0.
        """
        new = INSTANCES.alias()
        is_new = (new.c.id > instance_row_id) & ~new.c.is_ours
        touches = (
            (INSTANCES.c.id == new.c.id)
            | ((new.c.referenced_series != "") & (INSTANCES.c.series == new.c.referenced_series))
            | (INSTANCES.c.referenced_series == new.c.series)
        )
        keys = (
            sa.select(INSTANCES.c.patient_key).distinct().where(sa.exists().where(is_new, touches))
        )
        with self._index.read() as connection:
            newest = connection.scalar(sa.select(sa.func.max(INSTANCES.c.id))) or 0
            if newest <= instance_row_id:
                return set(), max(newest, instance_row_id)
            return set(connection.scalars(keys)), newest

    def looked_row(self) -> int:
        """Return up to which instance row the cases were brought up to date."""
        with self._index.read() as connection:
            return connection.scalar(sa.select(LOOKED.c.row_id)) or 0

    def note_looked(self, instance_row_id: int) -> None:
        """Keep up to which instance row the cases are up to date."""
        with self._index.begin() as connection:
            if not connection.execute(LOOKED.update().values(row_id=instance_row_id)).rowcount:
                connection.execute(LOOKED.insert().values(only=1, row_id=instance_row_id))

    def all_patient_keys(self) -> set[str]:
        """Return every patient of whom there is an object that is not our own."""
        query = sa.select(INSTANCES.c.patient_key).distinct().where(~INSTANCES.c.is_ours)
        with self._index.read() as connection:
            return set(connection.scalars(query))

    def find_paths(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Return the paths of the newest versions by SOP Instance UID; unknown ones are absent."""
        wanted = list(dict.fromkeys(sop_instance_uids))
        found: dict[str, str] = {}
        with self._index.read() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.path).where(
                    INSTANCES.c.is_newest,
                    INSTANCES.c.sop_instance_uid.in_(wanted[start : start + _CHUNK]),
                )
                found.update((row.sop_instance_uid, row.path) for row in connection.execute(query))
        return found

    def is_known_result(self, sop_instance_uid: str) -> bool:
        """Tell whether an object is one of our results: made here, or received and ours."""
        own = sa.select(INSTANCES.c.id).where(
            INSTANCES.c.sop_instance_uid == sop_instance_uid, INSTANCES.c.is_ours
        )
        with self._index.read() as connection:
            return _is_result(connection, sop_instance_uid) or connection.scalar(own) is not None


_CHUNK = 500
"""Values in one IN list; databases limit them."""


_ADDING_LOCK = 0x48494C554D
"""Key of the advisory lock for adding instances (PostgreSQL 13.3.5): HILUM in ASCII."""


def _group_query(patient_key: str) -> sa.Select[Any]:
    """Select the rows of `instance_group`; of each, whether it is moving and has an older one."""
    counts = INSTANCES.c.is_newest & ~INSTANCES.c.is_ours
    own = counts & (INSTANCES.c.patient_key == patient_key)
    drawn_on = sa.select(INSTANCES.c.referenced_series).where(
        own, INSTANCES.c.modality == STRUCTURE_SET, INSTANCES.c.referenced_series != ""
    )
    own_ct = sa.select(INSTANCES.c.series).where(own, INSTANCES.c.modality == CT)
    moving = (
        sa.select(SERIES_CARRIED.c.series)
        .join(ASSOCIATIONS)
        .where(ASSOCIATIONS.c.closed_at.is_(None))
    )
    older = INSTANCES.alias()
    has_older = sa.exists().where(
        older.c.sop_instance_uid == INSTANCES.c.sop_instance_uid, older.c.id != INSTANCES.c.id
    )
    is_drawn_on_own_ct = (
        INSTANCES.c.modality == STRUCTURE_SET
    ) & INSTANCES.c.referenced_series.in_(own_ct)
    return (
        sa.select(
            INSTANCES,
            INSTANCES.c.series.in_(moving).label("is_moving"),
            has_older.label("has_older"),
        )
        .where(
            counts,
            (INSTANCES.c.patient_key == patient_key)
            | INSTANCES.c.series.in_(drawn_on)
            | is_drawn_on_own_ct,
        )
        .order_by(INSTANCES.c.id)
    )


def _columns(header: InstanceHeader, stored_file: StoredFile) -> dict[str, object]:
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "sha256": stored_file.sha256,
        "series": header.series_instance_uid,
        "study": header.study_instance_uid,
        "modality": header.modality,
        "patient_key": patient_key_of(header),
        "referenced_series": header.referenced_series_uid,
        "header": json.dumps(header.to_json()),
        "path": stored_file.path,
        "size_bytes": stored_file.size_bytes,
        "transfer_syntax": header.transfer_syntax_uid,
    }


def _take_turns(connection: sa.Connection) -> None:
    """Let one transaction at a time add instances, until it ends.

    So two versions of one SOP instance cannot both become the newest, and row ids are committed in
    their order, on which `patient_keys_since` relies. SQLite has the whole database locked already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADDING_LOCK)))


def _carry_series(connection: sa.Connection, association_id: int | None, series: str) -> None:
    if association_id is None:
        return
    pair = (SERIES_CARRIED.c.association_id == association_id) & (SERIES_CARRIED.c.series == series)
    if connection.scalar(sa.select(SERIES_CARRIED.c.series).where(pair)) is None:
        connection.execute(
            SERIES_CARRIED.insert().values(association_id=association_id, series=series)
        )


def _is_result(connection: sa.Connection, sop_instance_uid: str) -> bool:
    query = sa.select(RESULTS.c.path).where(RESULTS.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).first() is not None
