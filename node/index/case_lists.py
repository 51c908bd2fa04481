"""Cases as lists show them: filtered, searched, a page at a time, however many there are.

Reads only, and only columns that have an index, at most a page of them.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.errors import NodeError
from node.index import Index
from node.index.case_labels import words_of
from node.index.case_list_rows import CASE_WORDS
from node.index.case_rows import CASES, DELIVERIES, REVISIONS
from node.index.delivery_accounts import waiting_reasons
from node.index.states import CaseState

MOST_WORDS = 6
"""Of a search; those after it do not count."""

LARGEST_PAGE = 200

MOST_COUNTED = 1000
"""Cases of one state that are counted: who looks for work needs to know no more."""

_LAST = "\U0010ffff"
"""Comes after every character: the end of the range of words with one beginning."""


class UnknownPlaceError(NodeError):
    """A list was to be continued from a place that no list gave."""


@dataclass(frozen=True, slots=True)
class CaseFilter:
    """Which cases are shown; an empty text, or None, leaves all.

    Attributes:
        severity: Of the worst finding.
        peer: That a result of the case is, or was, owed to.
        text: Words; each is the beginning of a part of the patient's name, of the Patient ID, of
            a UID or of the case's own id.
    """

    state: CaseState | None = None
    protocol: str = ""
    severity: str = ""
    peer: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class CaseLine:
    """A case in a list; times are ISO 8601 texts in UTC.

    Attributes:
        reason: What it waits for, or why it is where it is.
        registration: Worst status of a registration: `pass`, `warn`, `fail`, or empty.
        target: `refined`, `partly refined`, `abstained`, or empty.
        worst: Severity of the worst finding, of deliveries too (as of the end of the last attempt),
            or empty.
        step: What it is at while it runs, since `step_at`.
    """

    case_id: str
    patient_name: str
    patient_id: str
    protocol: str
    state: CaseState
    reason: str
    revision: int
    registration: str
    target: str
    worst: str
    created_at: str
    updated_at: str
    step: str
    step_at: str | None


@dataclass(frozen=True, slots=True)
class CasePage:
    """A part of a list of cases, newest change first.

    Attributes:
        older: Where the next page begins, to be given back as it is; None: this is the last.
    """

    lines: tuple[CaseLine, ...]
    older: str | None


class CaseLists:
    """The cases of one index, as lists.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def page(self, shown: CaseFilter, *, older: str | None = None, size: int = 50) -> CasePage:
        """Return a page of the cases that fit a filter.

        Args:
            shown: Which cases.
            older: `CasePage.older` of the page before; None: the first page.
            size: How many at most.

        Raises:
            UnknownPlaceError: `older` is not what a page gave.
        """
        size = min(size, LARGEST_PAGE)
        query = _query(shown, older).limit(size + 1)
        with self._index.read() as connection:
            rows = connection.execute(query).all()
            moving = [r.case_id for r in rows if r.state == CaseState.DELIVERING]
            waiting = waiting_reasons(connection, moving) if moving else {}
        lines = tuple(_line(row, waiting.get(row.case_id, row.reason)) for row in rows[:size])
        is_last = len(rows) <= size
        return CasePage(lines, None if is_last else f"{lines[-1].updated_at}~{lines[-1].case_id}")

    def counts(self) -> dict[CaseState, int]:
        """Return how many cases are in each state that has any, counted up to `MOST_COUNTED`."""
        parts = []
        for state in CaseState:
            some = sa.select(CASES.c.case_id).where(CASES.c.state == state).limit(MOST_COUNTED)
            counted = sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery()
            parts.append(counted.label(state.name))
        with self._index.read() as connection:
            found = connection.execute(sa.select(*parts)).one()
        return {state: many for state, many in zip(CaseState, found, strict=True) if many}

    def of_structure_set(self, structure_set_uid: str) -> tuple[CaseLine, ...]:
        """Return the cases of one structure set, under whatever protocols, oldest first."""
        if not structure_set_uid:
            return ()
        query = (
            _lines_query()
            .where(CASES.c.structure_set_uid == structure_set_uid)
            .order_by(CASES.c.created_at, CASES.c.case_id)
            .limit(LARGEST_PAGE)
        )
        with self._index.read() as connection:
            return tuple(_line(row, row.reason) for row in connection.execute(query))

    def only(self, case_id: str) -> tuple[CaseLine, ...]:
        """Return one case, or none."""
        query = _lines_query().where(CASES.c.case_id == case_id)
        with self._index.read() as connection:
            return tuple(_line(row, row.reason) for row in connection.execute(query))


def _query(shown: CaseFilter, older: str | None) -> sa.Select[Any]:
    query = _lines_query()
    if shown.state is not None:
        query = query.where(CASES.c.state == shown.state)
    if shown.protocol:
        query = query.where(CASES.c.protocol == shown.protocol)
    if shown.severity:
        query = query.where(CASES.c.worst == shown.severity)
    if shown.peer:
        # asked of each case in turn: a peer may be owed almost all of them
        is_owed = (DELIVERIES.c.case_id == CASES.c.case_id) & (DELIVERIES.c.peer == shown.peer)
        query = query.where(sa.exists().where(is_owed))
    for word in words_of(shown.text)[:MOST_WORDS]:
        found = sa.select(CASE_WORDS.c.case_id).where(
            CASE_WORDS.c.word >= word, CASE_WORDS.c.word < word + _LAST
        )
        query = query.where(CASES.c.case_id.in_(found))
    if older is not None:
        updated_at, separator, case_id = older.partition("~")
        if not separator or "\0" in older:
            raise UnknownPlaceError("no list continues there", hint="begin with the first page")
        place = sa.tuple_(sa.literal(updated_at), sa.literal(case_id))
        query = query.where(sa.tuple_(CASES.c.updated_at, CASES.c.case_id) < place)
    return query.order_by(CASES.c.updated_at.desc(), CASES.c.case_id.desc())


def _lines_query() -> sa.Select[Any]:
    is_newest = (REVISIONS.c.case_id == CASES.c.case_id) & (
        REVISIONS.c.revision == CASES.c.revision
    )
    columns = [CASES.c[name] for name in CaseLine.__slots__ if name in CASES.c]
    return sa.select(*columns, REVISIONS.c.step, REVISIONS.c.step_at).join(
        REVISIONS, is_newest, isouter=True
    )


def _line(row: sa.Row[Any], reason: str) -> CaseLine:
    found = {**row._mapping, "reason": reason, "state": CaseState(row.state)}
    is_running = row.state == CaseState.RUNNING
    found["step"] = (row.step or "") if is_running else ""
    found["step_at"] = row.step_at if is_running else None
    return CaseLine(**found)
