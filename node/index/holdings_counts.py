"""How much the index holds, and whose it is: for people who look for a study, or for room."""

import hashlib
import json
from dataclasses import dataclass

import sqlalchemy as sa

from node.header import InstanceHeader
from node.index import Index
from node.index.case_labels import words_of
from node.index.case_list_rows import CASE_WORDS
from node.index.case_rows import CASES
from node.index.tables import INSTANCES

MOST_PATIENTS = 20
"""That one search tells of."""

_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class ObjectCount:
    """Received objects, every content of each."""

    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KnownPatient:
    """A patient of whom there are objects; `patient_key` tells no identifier."""

    patient_key: str
    header: InstanceHeader


def object_count(index: Index) -> ObjectCount:
    """Count what was received. Goes through the whole table: not for every look at a page."""
    query = sa.select(sa.func.count(), sa.func.sum(INSTANCES.c.size_bytes)).select_from(INSTANCES)
    with index.read() as connection:
        objects, size_bytes = connection.execute(query).one()
    return ObjectCount(objects, int(size_bytes or 0))


def case_count(index: Index) -> int:
    """Count the cases."""
    with index.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(CASES)) or 0


def find_patients(index: Index, text: str) -> list[KnownPatient]:
    """Return the patients that a text finds, at most `MOST_PATIENTS`, newest objects first.

    A whole Patient ID; a whole UID of an object, a series or a study; words, as in the list of
    cases.
    """
    wanted = text.strip()
    if not wanted:
        return []
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:32]
    keys = {f"patient:{digest}", f"study:{wanted}"}
    with index.read() as connection:
        for column in (INSTANCES.c.sop_instance_uid, INSTANCES.c.series, INSTANCES.c.study):
            query = sa.select(INSTANCES.c.patient_key).where(column == wanted).limit(1)
            keys.update(connection.scalars(query))
        keys.update(connection.scalars(_by_words(wanted)))
        newest = (
            sa.select(INSTANCES.c.patient_key, sa.func.max(INSTANCES.c.id).label("sample"))
            .where(INSTANCES.c.patient_key.in_(sorted(keys)), ~INSTANCES.c.is_ours)
            .group_by(INSTANCES.c.patient_key)
            .order_by(sa.func.max(INSTANCES.c.id).desc())
            .limit(MOST_PATIENTS)
            .subquery()
        )
        query = (
            sa.select(newest.c.patient_key, INSTANCES.c.header)
            .join(INSTANCES, INSTANCES.c.id == newest.c.sample)
            .order_by(newest.c.sample.desc())
        )
        return [
            KnownPatient(key, InstanceHeader.from_json(json.loads(header)))
            for key, header in connection.execute(query)
        ]


def _by_words(text: str) -> sa.Select[tuple[str]]:
    query = sa.select(CASES.c.patient_key).distinct().limit(MOST_PATIENTS)
    for word in words_of(text):
        found = sa.select(CASE_WORDS.c.case_id).where(
            CASE_WORDS.c.word >= word, CASE_WORDS.c.word < word + _LAST
        )
        query = query.where(CASES.c.case_id.in_(found))
    return query
