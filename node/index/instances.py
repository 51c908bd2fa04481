"""What was received: associations and instances, and which objects may belong together.

Decides nothing about cases: it returns candidates, `node.assembly` judges them. Deletes nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from node.assembly import StoredInstance
from node.header import InstanceHeader
from node.index import Index
from node.index.case_rows import RESULTS
from node.index.tables import ASSOCIATIONS, FILED, INSTANCES, LOOKED, SERIES_CARRIED
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
class Arrival:
    """An object as it came.

    Attributes:
        association_id: Row of the association that carried it, or None.
    """

    header: InstanceHeader
    stored_file: StoredFile
    association_id: int | None
    peer_name: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Added:
    """What an object was to the index.

    Attributes:
        is_new: False if these bytes of this SOP instance were known and counted.
        replaces_other_content: The SOP instance counted with other content.
        path: Of the file that holds these bytes; another than the arrival's if they were known.
    """

    is_new: bool
    replaces_other_content: bool
    path: str


@dataclass(frozen=True, slots=True)
class _Content:
    """One content of a SOP instance in the index."""

    path: str
    is_newest: bool


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

    def open_associations(self, node_run: str) -> list[int]:
        """Return the associations that a process has not closed."""
        query = sa.select(ASSOCIATIONS.c.id).where(
            ASSOCIATIONS.c.node_run == node_run, ASSOCIATIONS.c.closed_at.is_(None)
        )
        with self._index.read() as connection:
            return list(connection.scalars(query))

    def add_instance(
        self,
        header: InstanceHeader,
        stored_file: StoredFile,
        association_id: int | None,
        peer_name: str,
        received_at: datetime,
    ) -> Added:
        """Record one object; as of `add_instances`."""
        arrival = Arrival(header, stored_file, association_id, peer_name, received_at)
        return self.add_instances([arrival])[0]

    def add_instances(
        self, arrivals: Sequence[Arrival], filed: tuple[str, int] | None = None
    ) -> list[Added]:
        """Record objects in one transaction that is on stable storage when this returns.

        The same SOP instance with the same bytes adds nothing. With other bytes both contents are
        kept, and the one received last counts: also where it is an older content that came again,
        as after an undo in the TPS.

        Args:
            arrivals: The objects in the order in which they came.
            filed: The process from whose journal they are, and up to which entry the journal is in
                the index with them.

        Raises:
            StorageFullError: No room for them.
        """
        uids = [one.header.sop_instance_uid for one in arrivals]
        with self._index.begin() as connection:
            take_turns_adding(connection)
            known = _known_contents(connection, uids)
            results = _results_among(connection, uids)
            _carry_series(connection, arrivals)
            _count_objects(connection, arrivals)
            found: list[Added] = []
            rows: list[dict[str, object]] = []
            for one in arrivals:
                uid, sha256 = one.header.sop_instance_uid, one.stored_file.sha256
                contents = known.setdefault(uid, {})
                same = contents.get(sha256)
                path = one.stored_file.path if same is None else same.path
                is_new = same is None or not same.is_newest
                found.append(Added(is_new, is_new and bool(contents), path))
                if not is_new:
                    continue
                if contents:
                    _insert(connection, rows)  # the rows that are outdated may be among them
                    _outdate(connection, uid, sha256)
                    contents.update({k: replace(c, is_newest=False) for k, c in contents.items()})
                contents[sha256] = _Content(path, is_newest=True)
                is_ours = one.header.is_ours or uid in results
                rows.append({**_columns(one), "path": path, "is_ours": is_ours})
            _insert(connection, rows)
            if filed is not None:
                _note_filed(connection, *filed)
        return found

    def filed_up_to(self, node_run: str) -> int:
        """Return up to which entry the journal of a process is in the index."""
        query = sa.select(FILED.c.sequence).where(FILED.c.node_run == node_run)
        with self._index.read() as connection:
            return connection.scalar(query) or 0

    def forget_journal(self, node_run: str) -> None:
        """Forget up to where the journal of a process is in the index: there is none any more."""
        with self._index.begin() as connection:
            connection.execute(FILED.delete().where(FILED.c.node_run == node_run))

    def is_path_of(self, sop_instance_uid: str, path: str) -> bool:
        """Tell whether a file holds one of the contents of a SOP instance."""
        query = sa.select(INSTANCES.c.id).where(
            INSTANCES.c.sop_instance_uid == sop_instance_uid, INSTANCES.c.path == path
        )
        with self._index.read() as connection:
            return connection.scalar(query) is not None

    def known_among(self, paths: Sequence[str]) -> set[str]:
        """Return those paths under which the index has an object."""
        known: set[str] = set()
        with self._index.read() as connection:
            for some in _chunks(paths):
                query = sa.select(INSTANCES.c.path).where(INSTANCES.c.path.in_(some))
                known.update(connection.scalars(query))
        return known

    def move(self, sop_instance_uid: str, path: str, new_path: str) -> None:
        """Record that a content of a SOP instance lies elsewhere."""
        is_this = INSTANCES.c.sop_instance_uid == sop_instance_uid
        with self._index.begin() as connection:
            connection.execute(
                INSTANCES.update().where(is_this, INSTANCES.c.path == path).values(path=new_path)
            )

    def path_of(self, sop_instance_uid: str, sha256: str) -> str | None:
        """Return which file holds a content of a SOP instance, or None."""
        query = sa.select(INSTANCES.c.path).where(
            INSTANCES.c.sop_instance_uid == sop_instance_uid, INSTANCES.c.sha256 == sha256
        )
        with self._index.read() as connection:
            return connection.scalar(query)

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
        columns = INSTANCES.c.patient_key, INSTANCES.c.series, INSTANCES.c.referenced_series
        is_new = (INSTANCES.c.id > instance_row_id) & ~INSTANCES.c.is_ours
        with self._index.read() as connection:
            newest = connection.scalar(sa.select(sa.func.max(INSTANCES.c.id))) or 0
            new = connection.execute(sa.select(*columns).distinct().where(is_new)).all()
            keys = {row.patient_key for row in new}
            # by their own indexes: in one condition they would have the whole table looked through
            drawn_on = {row.referenced_series for row in new} - {""}
            keys |= _patients_with(connection, INSTANCES.c.series, drawn_on)
            keys |= _patients_with(
                connection, INSTANCES.c.referenced_series, {row.series for row in new}
            )
        return keys, max(newest, instance_row_id)

    def has_any(self) -> bool:
        """Tell whether anything was ever received."""
        with self._index.read() as connection:
            return connection.scalar(sa.select(INSTANCES.c.id).limit(1)) is not None

    def looked_row(self) -> int:
        """Return up to which instance row the cases were brought up to date."""
        with self._index.read() as connection:
            return connection.scalar(sa.select(LOOKED.c.row_id)) or 0

    def note_looked(self, instance_row_id: int) -> None:
        """Keep up to which instance row the cases are up to date."""
        with self._index.begin() as connection:
            noted = connection.scalar(sa.select(LOOKED.c.row_id).with_for_update())
            if noted is None:
                connection.execute(LOOKED.insert().values(only=1, row_id=instance_row_id))
            elif noted < instance_row_id:  # else another process has looked farther
                connection.execute(LOOKED.update().values(row_id=instance_row_id))

    def all_patient_keys(self) -> set[str]:
        """Return every patient of whom there is an object that is not our own."""
        query = sa.select(INSTANCES.c.patient_key).distinct().where(~INSTANCES.c.is_ours)
        with self._index.read() as connection:
            return set(connection.scalars(query))

    def find_paths(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Return the paths of the newest versions by SOP Instance UID; unknown ones are absent."""
        found: dict[str, str] = {}
        with self._index.read() as connection:
            for some in _chunks(list(dict.fromkeys(sop_instance_uids))):
                query = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.path).where(
                    INSTANCES.c.is_newest, INSTANCES.c.sop_instance_uid.in_(some)
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


def _columns(arrival: Arrival) -> dict[str, object]:
    header = arrival.header
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "sha256": arrival.stored_file.sha256,
        "series": header.series_instance_uid,
        "study": header.study_instance_uid,
        "modality": header.modality,
        "patient_key": patient_key_of(header),
        "referenced_series": header.referenced_series_uid,
        "header": json.dumps(header.to_json()),
        "size_bytes": arrival.stored_file.size_bytes,
        "transfer_syntax": header.transfer_syntax_uid,
        "received_at": arrival.received_at,
        "peer": arrival.peer_name,
        "association_id": arrival.association_id,
        "is_newest": True,
    }


def _known_contents(
    connection: sa.Connection, uids: Sequence[str]
) -> dict[str, dict[str, _Content]]:
    """Return what the index has of SOP instances: by UID, then by SHA-256."""
    columns = INSTANCES.c.sop_instance_uid, INSTANCES.c.sha256, INSTANCES.c.path
    found: dict[str, dict[str, _Content]] = {}
    for some in _chunks(uids):
        query = sa.select(*columns, INSTANCES.c.is_newest).where(columns[0].in_(some))
        for uid, sha256, path, is_newest in connection.execute(query):
            found.setdefault(uid, {})[sha256] = _Content(path, bool(is_newest))
    return found


def _results_among(connection: sa.Connection, uids: Sequence[str]) -> set[str]:
    """Return which SOP instances are results that this node made."""
    uid = RESULTS.c.sop_instance_uid
    return {
        one
        for some in _chunks(uids)
        for one in connection.scalars(sa.select(uid).where(uid.in_(some)))
    }


def _insert(connection: sa.Connection, rows: list[dict[str, object]]) -> None:
    if rows:
        connection.execute(INSTANCES.insert(), rows)
        rows.clear()


def _outdate(connection: sa.Connection, sop_instance_uid: str, sha256: str) -> None:
    """Let no row of a SOP instance count any more, and none have this content."""
    is_this = INSTANCES.c.sop_instance_uid == sop_instance_uid
    connection.execute(INSTANCES.delete().where(is_this, INSTANCES.c.sha256 == sha256))
    connection.execute(INSTANCES.update().where(is_this).values(is_newest=False))


def _note_filed(connection: sa.Connection, node_run: str, sequence: int) -> None:
    is_this = FILED.c.node_run == node_run
    noted = connection.scalar(sa.select(FILED.c.sequence).where(is_this).with_for_update())
    if noted is None:
        connection.execute(FILED.insert().values(node_run=node_run, sequence=sequence))
    elif noted < sequence:  # else who filed in its stead was faster
        connection.execute(FILED.update().where(is_this).values(sequence=sequence))


def _patients_with(
    connection: sa.Connection, column: sa.Column[str], values: Iterable[str]
) -> set[str]:
    """Return the patients who have an instance with one of the values."""
    return {
        key
        for some in _chunks(sorted(values))
        for key in connection.scalars(
            sa.select(INSTANCES.c.patient_key).distinct().where(column.in_(some))
        )
    }


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def take_turns_adding(connection: sa.Connection) -> None:
    """Let one transaction at a time add instances, until it ends.

    So two versions of one SOP instance cannot both become the newest, and row ids are committed in
    their order, on which `patient_keys_since` relies. SQLite has the whole database locked already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADDING_LOCK)))


def _carry_series(connection: sa.Connection, arrivals: Sequence[Arrival]) -> None:
    """Note which association carried which series, once."""
    carried = {
        (one.association_id, one.header.series_instance_uid)
        for one in arrivals
        if one.association_id is not None
    }
    for association_id in {one for one, _ in carried}:
        query = sa.select(SERIES_CARRIED.c.series).where(
            SERIES_CARRIED.c.association_id == association_id
        )
        carried -= {(association_id, series) for series in connection.scalars(query)}
    if carried:
        pairs = [{"association_id": one, "series": series} for one, series in sorted(carried)]
        connection.execute(SERIES_CARRIED.insert(), pairs)


def _count_objects(connection: sa.Connection, arrivals: Sequence[Arrival]) -> None:
    """Count what each association carried, repeated objects included."""
    counts = Counter(one.association_id for one in arrivals if one.association_id is not None)
    for association_id, count in sorted(counts.items()):
        connection.execute(
            ASSOCIATIONS.update()
            .where(ASSOCIATIONS.c.id == association_id)
            .values(objects=ASSOCIATIONS.c.objects + count)
        )


def _is_result(connection: sa.Connection, sop_instance_uid: str) -> bool:
    query = sa.select(RESULTS.c.path).where(RESULTS.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).first() is not None
