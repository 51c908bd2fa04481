"""What a case went through: which objects came, every revision, what peers were asked to keep.

Reads only; a number of statements that does not depend on how much there is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.header import InstanceHeader
from node.index import Index
from node.index.case_rows import CASES, RESULTS, REVISIONS
from node.index.peer_rows import COMMITMENTS
from node.index.protocol_choices import Choice, read_choice
from node.index.tables import INSTANCES

MOST_GROUPS = 200
"""Groups of objects of one patient that are told; the newest ones."""


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """The objects of one series that one peer sent; times are aware.

    Attributes:
        header: Of one of them.
        is_of_case: Whether the newest revision, or what is known so far, uses the series.
    """

    series: str
    modality: str
    peer: str
    objects: int
    size_bytes: int
    first_at: datetime
    last_at: datetime
    header: InstanceHeader
    is_of_case: bool


@dataclass(frozen=True, slots=True)
class RevisionStory:
    """One revision; times are ISO 8601 texts in UTC.

    Attributes:
        begun: How often computing was begun.
        failures: How often it left no outcome.
        summary: Verdicts, as computing left them.
        results: Objects of its result set.
    """

    revision: int
    begun: int
    failures: int
    next_try_at: str
    created_at: str
    finished_at: str | None
    step: str
    step_at: str | None
    summary: Mapping[str, Any]
    results: int


@dataclass(frozen=True, slots=True)
class AskedCommitment:
    """A storage commitment that a peer was asked for; times are ISO 8601 texts in UTC.

    Attributes:
        objects: How many.
        state: `open` while its report is waited for.
    """

    revision: int
    peer: str
    objects: int
    state: str
    asked_at: str | None
    answer_by: str
    reported_at: str | None


@dataclass(frozen=True, slots=True)
class CaseStory:
    """All of it.

    Attributes:
        patient_key: Whose case it is; no identifier can be read from it.
        groups: Of the patient, oldest first.
        revisions: Newest first.
        choice: What an operator chose for its structure set, or None.
    """

    patient_key: str
    groups: tuple[ObjectGroup, ...]
    revisions: tuple[RevisionStory, ...]
    commitments: tuple[AskedCommitment, ...]
    choice: Choice | None


def case_story(index: Index, case_id: str) -> CaseStory | None:
    """Return what a case went through, or None if there is no such case."""
    columns = (CASES.c.patient_key, CASES.c.ct_series_uid, CASES.c.structure_set_uid)
    with index.read() as connection:
        row = connection.execute(sa.select(*columns).where(CASES.c.case_id == case_id)).first()
        if row is None:
            return None
        revisions = _revisions(connection, case_id)
        return CaseStory(
            patient_key=row.patient_key,
            groups=_groups(connection, row, revisions[0].job if revisions else "{}"),
            revisions=tuple(_revision(each) for each in revisions),
            commitments=_commitments(connection, case_id),
            choice=read_choice(connection, row.structure_set_uid),
        )


def patient_key_of_case(index: Index, case_id: str) -> str | None:
    """Return whose case it is, or None if there is no such case."""
    with index.read() as connection:
        return connection.scalar(sa.select(CASES.c.patient_key).where(CASES.c.case_id == case_id))


def _revisions(connection: sa.Connection, case_id: str) -> Sequence[sa.Row[Any]]:
    results = (
        sa.select(sa.func.count())
        .select_from(RESULTS)
        .where(RESULTS.c.case_id == REVISIONS.c.case_id, RESULTS.c.revision == REVISIONS.c.revision)
        .scalar_subquery()
    )
    query = (
        sa.select(REVISIONS, results.label("results"))
        .where(REVISIONS.c.case_id == case_id)
        .order_by(REVISIONS.c.revision.desc())
        .limit(MOST_GROUPS)
    )
    return connection.execute(query).all()


def _revision(row: sa.Row[Any]) -> RevisionStory:
    known = {name: getattr(row, name) for name in RevisionStory.__slots__ if name != "summary"}
    return RevisionStory(**known, summary=json.loads(row.summary))


def _groups(connection: sa.Connection, case: Any, job: str) -> tuple[ObjectGroup, ...]:
    last_at = sa.func.max(INSTANCES.c.received_at).label("last_at")
    query = (
        sa.select(
            INSTANCES.c.series,
            INSTANCES.c.modality,
            INSTANCES.c.peer,
            sa.func.count().label("objects"),
            sa.func.sum(INSTANCES.c.size_bytes).label("size_bytes"),
            sa.func.min(INSTANCES.c.received_at).label("first_at"),
            last_at,
            sa.func.max(INSTANCES.c.id).label("sample"),
        )
        .where(
            INSTANCES.c.patient_key == case.patient_key,
            INSTANCES.c.is_newest,
            ~INSTANCES.c.is_ours,
        )
        .group_by(INSTANCES.c.series, INSTANCES.c.modality, INSTANCES.c.peer)
        .order_by(last_at.desc())
        .limit(MOST_GROUPS)
    )
    rows = connection.execute(query).all()
    samples = sa.select(INSTANCES.c.id, INSTANCES.c.header).where(
        INSTANCES.c.id.in_([row.sample for row in rows])
    )
    headers = {
        row.id: InstanceHeader.from_json(json.loads(row.header))
        for row in connection.execute(samples)
    }
    used = _used_series(connection, case, json.loads(job))
    return tuple(
        ObjectGroup(
            **{name: getattr(row, name) for name in ObjectGroup.__slots__ if name in row._fields},
            header=headers[row.sample],
            is_of_case=row.series in used,
        )
        for row in reversed(rows)
    )


def _used_series(connection: sa.Connection, case: Any, job: Mapping[str, Any]) -> set[str]:
    """Return the series whose objects the newest revision uses, or the case as far as it is."""
    told = job.get("case", {})
    used = {case.ct_series_uid, *told.get("mr_series_uids", ())}
    used.update(told.get("other_ct_series_uids", ()))
    paths = [job.get("structure_set"), *job.get("doses", ()), *job.get("plans", ())]
    paths += job.get("registrations", ())
    for other in job.get("other_ct", {}).values():
        paths += [other.get("structure_set"), *other.get("doses", ()), *other.get("plans", ())]
    is_single = INSTANCES.c.sop_instance_uid == case.structure_set_uid
    if wanted := [path for path in paths if path][:MOST_GROUPS]:
        is_single |= (INSTANCES.c.patient_key == case.patient_key) & INSTANCES.c.path.in_(wanted)
    used.update(connection.scalars(sa.select(INSTANCES.c.series).where(is_single)))
    return used


def _commitments(connection: sa.Connection, case_id: str) -> tuple[AskedCommitment, ...]:
    query = (
        sa.select(COMMITMENTS)
        .where(COMMITMENTS.c.case_id == case_id)
        .order_by(COMMITMENTS.c.created_at.desc())
        .limit(MOST_GROUPS)
    )
    return tuple(
        AskedCommitment(
            revision=row.revision,
            peer=row.peer,
            objects=len(json.loads(row.objects)),
            state=row.state,
            asked_at=row.asked_at,
            answer_by=row.answer_by,
            reported_at=row.reported_at,
        )
        for row in connection.execute(query)
    )
