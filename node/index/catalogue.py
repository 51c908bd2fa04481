"""What of our results can be found and fetched: their headers, level by level.

Of each case the newest result set that was adopted, and no other: a planning system that pulls must
not meet a proposal that was replaced. Filled from the files when a query comes, once for each
revision; a query reads series rows only, however many objects there are. Matches nothing itself:
values are narrowed by unique keys here, the rest is the business of `node.answering.find`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import RESULTS, REVISIONS
from node.index.catalogue_rows import CATALOGUED, RESULT_OBJECTS, RESULT_SERIES

_CHUNK = 500
"""Values in one IN list; databases limit them."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A finished revision that is not in the catalogue yet.

    Attributes:
        results: Paths by SOP Instance UID, relative to the data folder; none if it failed.
    """

    case_id: str
    revision: int
    finished_at: str
    results: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One object of a result set.

    Attributes:
        path: Relative to the data folder.
        values: Of its own level, by keyword; a backslash stands between several.
    """

    sop_instance_uid: str
    sop_class_uid: str
    path: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ResultSeries:
    """One series of a result set.

    Attributes:
        values: Of patient, study and series, by keyword.
        sop_classes: Of its objects, distinct.
        count: How many objects it has.
    """

    study: str
    series: str
    values: Mapping[str, str]
    sop_classes: tuple[str, ...]
    count: int


class Catalogue:
    """The results of one index; safe for many threads."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def missing(self) -> list[Adopted]:
        """Return the finished revisions that are not in the catalogue, oldest first."""
        is_there = sa.exists().where(
            CATALOGUED.c.case_id == REVISIONS.c.case_id,
            CATALOGUED.c.revision == REVISIONS.c.revision,
            CATALOGUED.c.finished_at == REVISIONS.c.finished_at,
        )
        query = (
            sa.select(REVISIONS.c.case_id, REVISIONS.c.revision, REVISIONS.c.finished_at)
            .where(REVISIONS.c.finished_at.is_not(None), ~is_there)
            .order_by(REVISIONS.c.finished_at)
        )
        with self._index.read() as connection:
            return [
                Adopted(*row, results=_results(connection, row.case_id, row.revision))
                for row in connection.execute(query).all()
            ]

    def add(
        self, adopted: Adopted, found: Sequence[tuple[ResultSeries, Sequence[ResultObject]]]
    ) -> None:
        """Let a result set be found instead of the case's earlier ones; one without any is noted.

        A set that a newer one of its case has overtaken meanwhile is noted only.
        """
        key = {"case_id": adopted.case_id, "revision": adopted.revision}
        with self._index.begin() as connection:
            is_noted = (CATALOGUED.c.case_id == adopted.case_id) & (
                CATALOGUED.c.revision == adopted.revision
            )
            connection.execute(CATALOGUED.delete().where(is_noted))
            newest = connection.scalar(
                sa.select(sa.func.max(RESULT_SERIES.c.revision)).where(
                    RESULT_SERIES.c.case_id == adopted.case_id
                )
            )
            if found and (newest is None or newest <= adopted.revision):
                for table in (RESULT_OBJECTS, RESULT_SERIES):
                    connection.execute(table.delete().where(table.c.case_id == adopted.case_id))
                for series, objects in found:
                    connection.execute(RESULT_SERIES.insert(), {**key, **_series_row(series)})
                    rows = [{**key, **_object_row(series, one)} for one in objects]
                    connection.execute(RESULT_OBJECTS.insert(), rows)
            noted = {**key, "finished_at": adopted.finished_at}
            connection.execute(CATALOGUED.insert(), noted)

    def series(
        self,
        *,
        patient_ids: Sequence[str] | None = None,
        studies: Sequence[str] | None = None,
        series: Sequence[str] | None = None,
        is_by_patient: bool = False,
    ) -> Iterator[ResultSeries]:
        """Yield the series that lie in one of the patients, of the studies, and are one of these.

        None stands for any. Those of a study follow one another, with `is_by_patient` those of a
        Patient ID.
        """
        table = RESULT_SERIES
        first = (table.c.patient_id,) if is_by_patient else ()
        query = sa.select(table).order_by(*first, table.c.study, table.c.series)
        columns = ((table.c.patient_id, patient_ids), (table.c.study, studies),
                   (table.c.series, series))  # fmt: skip
        for row in self._rows(query, columns):
            yield ResultSeries(
                row.study,
                row.series,
                json.loads(row.attributes),
                tuple(json.loads(row.sop_classes)),
                row.objects,
            )

    def objects(
        self,
        *,
        studies: Sequence[str] | None = None,
        series: Sequence[str] | None = None,
        sop_instance_uids: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, ResultObject]]:
        """Yield the objects, each with its Series Instance UID; arguments as of `series`."""
        table = RESULT_OBJECTS
        query = sa.select(table).order_by(table.c.series, table.c.path)
        columns = ((table.c.study, studies), (table.c.series, series),
                   (table.c.sop_instance_uid, sop_instance_uids))  # fmt: skip
        for row in self._rows(query, columns):
            values = json.loads(row.attributes)
            yield row.series, ResultObject(row.sop_instance_uid, row.sop_class, row.path, values)

    def _rows(
        self,
        query: sa.Select[Any],
        columns: Sequence[tuple[sa.Column[str], Sequence[str] | None]],
    ) -> Iterator[sa.Row[Any]]:
        """Yield rows; the longest list is split, since databases limit how many values it has.

        A second list that is too long is looked up here instead.
        """
        given = sorted(((c, v) for c, v in columns if v is not None), key=lambda cv: len(cv[1]))
        others: list[tuple[str, frozenset[str]]] = []
        for column, values in given[:-1]:
            if len(values) <= _CHUNK:
                query = query.where(column.in_(values))
            else:
                others.append((column.name, frozenset(values)))
        with self._index.read() as connection:
            if not given:
                yield from connection.execute(query)
                return
            column, values = given[-1]
            for start in range(0, len(values), _CHUNK):
                some = query.where(column.in_(values[start : start + _CHUNK]))
                for row in connection.execute(some):
                    if all(row._mapping[name] in values for name, values in others):
                        yield row


def _results(connection: sa.Connection, case_id: str, revision: int) -> dict[str, str]:
    query = sa.select(RESULTS.c.sop_instance_uid, RESULTS.c.path).where(
        RESULTS.c.case_id == case_id, RESULTS.c.revision == revision
    )
    return {row.sop_instance_uid: row.path for row in connection.execute(query)}


def _series_row(series: ResultSeries) -> dict[str, object]:
    return {
        "patient_id": series.values.get("PatientID", ""),
        "study": series.study,
        "series": series.series,
        "attributes": json.dumps(dict(series.values)),
        "sop_classes": json.dumps(series.sop_classes),
        "objects": series.count,
    }


def _object_row(series: ResultSeries, one: ResultObject) -> dict[str, object]:
    return {
        "study": series.study,
        "series": series.series,
        "sop_instance_uid": one.sop_instance_uid,
        "sop_class": one.sop_class_uid,
        "path": one.path,
        "attributes": json.dumps(dict(one.values)),
    }
