"""What the index forgets of patients of whom nothing is left but rows: first the names, then all.

A patient's cases are forgotten together. A forgotten name does not come back by itself: the key
that leads from the patient to the case is replaced by a random one, so that objects which come
later find no case of theirs, and only the same structure set takes the old case up again. Touches
no file.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from node.header import InstanceHeader
from node.index import Index
from node.index.case_labels import label_columns, write_words
from node.index.case_list_rows import PROTOCOL_CHOICES
from node.index.case_rows import CASES, DELIVERIES, FORGOTTEN, RESULTS, REVISIONS, utc_text
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.instances import take_turns_adding
from node.index.removable import AT_WORK
from node.index.removal_rows import REMOVALS
from node.index.removals import RESULTS as RESULT_FILES
from node.index.removals import note_names
from node.index.states import UNSETTLED
from node.index.tables import INSTANCES, METADATA

_NOBODY = InstanceHeader("", "", "", "", "", "")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten of a patient.

    Attributes:
        patient_key: As it was until now.
        revisions: Of each of their cases, by case id.
    """

    patient_key: str
    revisions: dict[str, tuple[int, ...]]


class ForgettingBook:
    """What one index may forget; safe for many threads and processes.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def names_due(self, before: datetime, most: int) -> list[str]:
        """Return the keys of patients whose names may go, those that rested longest first.

        Args:
            before: When their cases must have changed last.
            most: How many at most.
        """
        return self._due(before, most, ~_is_forgotten(CASES.c.patient_key))

    def cases_due(self, before: datetime, most: int) -> list[str]:
        """Return the keys of patients whose cases may go; as `names_due`."""
        return self._due(before, most)

    def _due(self, before: datetime, most: int, *conditions: sa.ColumnElement[bool]) -> list[str]:
        newest = sa.func.max(CASES.c.updated_at)
        query = (
            sa.select(CASES.c.patient_key)
            .where(CASES.c.updated_at < utc_text(before), ~_needs_names(before), *conditions)
            .group_by(CASES.c.patient_key)
            .order_by(newest, CASES.c.patient_key)
            .limit(most)
        )
        with self._index.read() as connection:
            return list(connection.scalars(query))

    def forget_names(self, patient_key: str, before: datetime, now: datetime) -> Forgotten | None:
        """Forget whose cases these are, unless something needs it by now.

        State, findings, figures and UIDs stay.
        """
        with self._index.begin() as connection:
            found = _rested(connection, patient_key, before)
            if found is None:
                return None
            key = f"{FORGOTTEN}{secrets.token_hex(16)}"
            is_theirs = CASES.c.patient_key == patient_key
            uids = sa.select(
                CASES.c.case_id, CASES.c.structure_set_uid, CASES.c.ct_series_uid
            ).where(is_theirs)
            for row in connection.execute(uids).all():
                planning = (row.structure_set_uid, row.ct_series_uid)
                write_words(connection, row.case_id, _NOBODY, planning)
                note_names(connection, key, row.case_id, now)
            connection.execute(
                CASES.update()
                .where(is_theirs)
                .values(patient_key=key, look_again=False, **label_columns(_NOBODY))
            )
            connection.execute(
                REMOVALS.update()
                .where(REMOVALS.c.patient_key == patient_key)
                .values(patient_key=key)
            )
            _forget_questions(connection, patient_key)
        return found

    def forget_cases(self, patient_key: str, before: datetime) -> Forgotten | None:
        """Forget the cases of a patient, all of them, unless something needs them by now."""
        with self._index.begin() as connection:
            found = _rested(connection, patient_key, before)
            if found is None:
                return None
            is_theirs = CASES.c.patient_key == patient_key
            drawn = sa.select(CASES.c.structure_set_uid).where(is_theirs)
            connection.execute(
                PROTOCOL_CHOICES.delete().where(PROTOCOL_CHOICES.c.structure_set_uid.in_(drawn))
            )
            theirs = sa.select(CASES.c.case_id).where(is_theirs)
            # whatever tells of a case, in whichever table; those that refer to others first
            for table in reversed(METADATA.sorted_tables):
                if "case_id" in table.c and table is not CASES:
                    connection.execute(table.delete().where(table.c.case_id.in_(theirs)))
            connection.execute(CASES.delete().where(is_theirs))
            connection.execute(REMOVALS.delete().where(REMOVALS.c.patient_key == patient_key))
            _forget_questions(connection, patient_key)
        return found


def _is_forgotten(key: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    return key.startswith(FORGOTTEN, autoescape=True)


def _needs_names(before: datetime) -> sa.ColumnElement[bool]:
    """Tell of a row of `CASES` whether anything of its patient is at work, or not yet removed."""
    own = CASES.alias("own")
    is_own = own.c.patient_key == CASES.c.patient_key
    is_at_work = sa.exists().where(
        is_own, sa.or_(own.c.updated_at >= utc_text(before), own.c.state.in_(AT_WORK))
    )
    is_owed = (
        sa.exists()
        .select_from(sa.join(DELIVERIES, own, DELIVERIES.c.case_id == own.c.case_id))
        .where(is_own, DELIVERIES.c.state.in_(UNSETTLED))
    )
    is_gone = sa.exists().where(
        REMOVALS.c.case_id == REVISIONS.c.case_id,
        REMOVALS.c.revision == REVISIONS.c.revision,
        REMOVALS.c.kind == RESULT_FILES,
        REMOVALS.c.is_done,
    )
    was_adopted = sa.exists().where(
        RESULTS.c.case_id == REVISIONS.c.case_id, RESULTS.c.revision == REVISIONS.c.revision
    )
    has_results = (
        sa.exists()
        .select_from(sa.join(REVISIONS, own, REVISIONS.c.case_id == own.c.case_id))
        .where(is_own, was_adopted, ~is_gone)
    )
    has_objects = sa.exists().where(INSTANCES.c.patient_key == CASES.c.patient_key)
    is_going = sa.exists().where(REMOVALS.c.patient_key == CASES.c.patient_key, ~REMOVALS.c.is_done)
    return sa.or_(is_at_work, has_objects, is_owed, has_results, is_going)


def _rested(connection: sa.Connection, patient_key: str, before: datetime) -> Forgotten | None:
    """Return the cases of a patient who may be forgotten, locked; None: something needs them."""
    take_turns_adding(connection)
    is_theirs = CASES.c.patient_key == patient_key
    cases = sa.select(CASES.c.case_id).where(is_theirs).order_by(CASES.c.case_id)
    ids = list(connection.scalars(cases.with_for_update()))
    needed = sa.select(CASES.c.case_id).where(is_theirs, _needs_names(before)).limit(1)
    if not ids or connection.execute(needed).first() is not None:
        return None
    revisions: dict[str, tuple[int, ...]] = dict.fromkeys(ids, ())
    query = sa.select(REVISIONS.c.case_id, REVISIONS.c.revision).where(
        REVISIONS.c.case_id.in_(sa.select(CASES.c.case_id).where(is_theirs))
    )
    for row in connection.execute(query):
        revisions[row.case_id] = (*revisions[row.case_id], row.revision)
    return Forgotten(patient_key, revisions)


def _forget_questions(connection: sa.Connection, patient_key: str) -> None:
    for table in (QUESTIONS, FETCHES):
        connection.execute(table.delete().where(table.c.patient_key == patient_key))
