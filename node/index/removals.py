"""Removing as the index keeps it: rows first, then files, so that no row ever lacks its file.

What is to go is written down in the transaction that removes its rows; whoever starts after a crash
finds the files that are still to be removed (`unfinished`). Touches no file.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import REVISIONS, utc_text
from node.index.catalogue_rows import RESULT_OBJECTS, RESULT_SERIES
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.instances import take_turns_adding
from node.index.removable import Cutoffs, Kept, patients, result_sets, tally
from node.index.removal_rows import DOOMED_FILES, REMOVALS
from node.index.tables import INSTANCES

OBJECTS, RESULTS, VIEW, NAMES = "objects", "results", "view", "names"
"""Kinds of what is removed."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How much one reason keeps, or nothing keeps.

    Attributes:
        units: Patients, for objects; result sets, for results.
        size_bytes: 0 where the index does not know it.
    """

    kept: Kept
    units: int
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Removal:
    """Something whose rows are gone, and whose files are to be removed now.

    Attributes:
        paths: Of its files, relative to the data folder; none for results and views, which are
            a folder each.
        patient_key: Whose objects these were, and of which studies; empty where files of a
            removal that was broken off are removed.
    """

    row_id: int
    kind: str
    case_id: str
    revision: int
    objects: int
    size_bytes: int
    paths: tuple[str, ...]
    patient_key: str = ""
    studies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed of a case, for whoever looks for it."""

    kind: str
    revision: int
    because: str
    removed_at: str


class RemovalBook:
    """The removals of one index; safe for many threads and processes.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def count_objects(self, cutoffs: Cutoffs) -> list[Tally]:
        """Return what keeps the objects of all patients."""
        return self._tallies(tally(patients(cutoffs)))

    def count_results(self, kind: str, cutoffs: Cutoffs) -> list[Tally]:
        """Return what keeps the files of all result sets."""
        return self._tallies(tally(result_sets(kind, cutoffs)))

    def _tallies(self, query: sa.Select[Any]) -> list[Tally]:
        with self._index.read() as connection:
            rows = connection.execute(query).all()
        found = (Tally(Kept[r.kept], r.units, int(r.objects), int(r.size_bytes)) for r in rows)
        return sorted(found, key=lambda one: list(Kept).index(one.kept))

    def patients_due(self, cutoffs: Cutoffs, most: int) -> list[str]:
        """Return patients whose objects may be removed, those that rested longest first."""
        found = patients(cutoffs)
        query = (
            sa.select(found.c.patient_key)
            .where(found.c.kept == Kept.DUE.name)
            .order_by(found.c.newest)
            .limit(most)
        )
        with self._index.read() as connection:
            return list(connection.scalars(query))

    def results_due(self, kind: str, cutoffs: Cutoffs, most: int) -> list[tuple[str, int]]:
        """Return result sets (case, revision) whose files may be removed, oldest first."""
        found = result_sets(kind, cutoffs)
        query = (
            sa.select(found.c.case_id, found.c.revision)
            .where(found.c.kept == Kept.DUE.name)
            .order_by(found.c.finished_at, found.c.case_id)
            .limit(most)
        )
        with self._index.read() as connection:
            return [(row.case_id, row.revision) for row in connection.execute(query)]

    def remove_patient(
        self, patient_key: str, cutoffs: Cutoffs, because: str, now: datetime
    ) -> Removal | None:
        """Forget the objects of a patient, unless something keeps them by now.

        On stable storage when this returns. Objects that come again later are new.
        """
        found = patients(cutoffs, patient_key)
        is_theirs = INSTANCES.c.patient_key == patient_key
        with self._index.begin() as connection:
            take_turns_adding(connection)
            row = connection.execute(sa.select(found)).first()
            if row is None or row.kept != Kept.DUE.name:
                return None
            paths = tuple(connection.scalars(sa.select(INSTANCES.c.path).where(is_theirs)))
            studies = connection.scalars(sa.select(INSTANCES.c.study).where(is_theirs).distinct())
            told = tuple(sorted(filter(None, studies)))
            size = int(row.size_bytes)
            row_id = _note(connection, OBJECTS, patient_key, "", 0, row.objects, size, because, now)
            doomed = [{"removal_id": row_id, "path": path} for path in dict.fromkeys(paths)]
            connection.execute(DOOMED_FILES.insert(), doomed)
            connection.execute(INSTANCES.delete().where(is_theirs))
            for table in (QUESTIONS, FETCHES):  # what was fetched once may be wanted again
                connection.execute(table.delete().where(table.c.patient_key == patient_key))
        return Removal(row_id, OBJECTS, "", 0, row.objects, size, paths, patient_key, told)

    def remove_results(
        self, kind: str, case_id: str, revision: int, cutoffs: Cutoffs, because: str, now: datetime
    ) -> Removal | None:
        """Let nobody find the files of a result set any more, unless something keeps them by now.

        On stable storage when this returns. That the objects are ours is still known.
        """
        found = result_sets(kind, cutoffs)
        query = sa.select(found).where(found.c.case_id == case_id, found.c.revision == revision)
        with self._index.begin() as connection:
            take_turns_adding(connection)
            row = connection.execute(query).first()
            if row is None or row.kept != Kept.DUE.name:
                return None
            key = row.patient_key
            row_id = _note(connection, kind, key, case_id, revision, row.objects, 0, because, now)
            if kind == RESULTS:
                for table in (RESULT_OBJECTS, RESULT_SERIES):
                    connection.execute(
                        table.delete().where(
                            table.c.case_id == case_id, table.c.revision == revision
                        )
                    )
                connection.execute(  # lists every object; only computing needs it
                    REVISIONS.update()
                    .where(REVISIONS.c.case_id == case_id, REVISIONS.c.revision == revision)
                    .values(job="{}")
                )
        return Removal(row_id, kind, case_id, revision, row.objects, 0, ())

    def unfinished(self) -> list[Removal]:
        """Return the removals of which files may be left, oldest first."""
        query = sa.select(REMOVALS).where(~REMOVALS.c.is_done).order_by(REMOVALS.c.id)
        with self._index.read() as connection:
            return [
                Removal(
                    row.id,
                    row.kind,
                    row.case_id,
                    row.revision,
                    row.objects,
                    row.size_bytes,
                    tuple(
                        connection.scalars(
                            sa.select(DOOMED_FILES.c.path).where(
                                DOOMED_FILES.c.removal_id == row.id
                            )
                        )
                    ),
                )
                for row in connection.execute(query).all()
            ]

    def finish(self, removal: Removal, size_bytes: int) -> None:
        """Record that the files are gone, and how much room that made."""
        with self._index.begin() as connection:
            is_of_it = DOOMED_FILES.c.removal_id == removal.row_id
            connection.execute(DOOMED_FILES.delete().where(is_of_it))
            connection.execute(
                REMOVALS.update()
                .where(REMOVALS.c.id == removal.row_id)
                .values(is_done=True, size_bytes=size_bytes)
            )

    def removed_of(self, case_id: str, patient_key: str) -> list[Removed]:
        """Return what was removed of a case and of its patient, oldest first."""
        is_meant = sa.or_(
            REMOVALS.c.case_id == case_id,
            sa.and_(REMOVALS.c.kind == OBJECTS, REMOVALS.c.patient_key == patient_key),
        )
        query = sa.select(REMOVALS).where(is_meant).order_by(REMOVALS.c.id)
        with self._index.read() as connection:
            return [
                Removed(row.kind, row.revision, row.because, row.removed_at)
                for row in connection.execute(query)
            ]

    def removed_since(self, since: datetime) -> tuple[int, int]:
        """Return how many objects and bytes were removed since a time."""
        query = sa.select(
            sa.func.coalesce(sa.func.sum(REMOVALS.c.objects), 0),
            sa.func.coalesce(sa.func.sum(REMOVALS.c.size_bytes), 0),
        ).where(REMOVALS.c.removed_at >= utc_text(since), REMOVALS.c.kind != VIEW)
        with self._index.read() as connection:
            objects, size_bytes = connection.execute(query).one()
        return int(objects), int(size_bytes)


def note_names(connection: sa.Connection, patient_key: str, case_id: str, now: datetime) -> None:
    """Note that a case has lost its names: `patient_key` is the one that it has from now on."""
    row_id = _note(connection, NAMES, patient_key, case_id, 0, 0, 0, "age", now)
    connection.execute(REMOVALS.update().where(REMOVALS.c.id == row_id).values(is_done=True))


def _note(
    connection: sa.Connection,
    kind: str,
    patient_key: str,
    case_id: str,
    revision: int,
    objects: int,
    size_bytes: int,
    because: str,
    now: datetime,
) -> int:
    result = connection.execute(
        REMOVALS.insert().values(
            kind=kind,
            patient_key=patient_key,
            case_id=case_id,
            revision=revision,
            objects=objects,
            size_bytes=size_bytes,
            because=because,
            removed_at=utc_text(now),
            is_done=False,
        )
    )
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 - one row was inserted
    return int(key[0])
