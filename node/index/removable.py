"""What may be removed, as queries: of each patient and each result set, what keeps it.

A patient's objects are removed together or not at all: assembly would take what is left of them for
another case. Decides by states and times of the index only; removes nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from node.index.case_rows import CASES, DELIVERIES, RESULTS, REVISIONS, utc_text
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.removal_rows import REMOVALS
from node.index.states import UNSETTLED, CaseState, DeliveryState
from node.index.tables import ASSOCIATIONS, INSTANCES, SERIES_CARRIED

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""A cutoff before anything was received: everything is younger."""

AT_WORK = (
    CaseState.RECEIVING,
    CaseState.WAITING,
    CaseState.READY,
    CaseState.RUNNING,
    CaseState.DELIVERING,
)
UNFINISHED = (
    CaseState.REJECTED,
    CaseState.FAILED,
    CaseState.UNDELIVERED,
    CaseState.ABANDONED,
)
"""States that an operator or new objects may still leave."""


class Kept(StrEnum):
    """Why something stays, in words for people; DUE: nothing keeps it."""

    AT_WORK = "a case waits, runs or is being delivered"
    FETCHED = "an archive is asked, or sends"
    NEWEST = "holds the newest object of the node"
    SHARED = "structures of another patient are drawn on it"
    NOT_DELIVERED = "not delivered to every destination"
    UNFINISHED = (
        "rejected, failed, undelivered, abandoned or without destination, not for long enough"
    )
    NO_CASE = "belongs to no case, not for long enough"
    YOUNG = "younger than what is kept"
    DUE = "may be removed"


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """Before when something must have rested to be removed; `NEVER` keeps it.

    Attributes:
        delivered: Of patients and result sets all of which is delivered.
        unfinished: Of those that are not, and of objects without a case.
    """

    delivered: datetime
    unfinished: datetime


def patients(cutoffs: Cutoffs, patient_key: str | None = None) -> sa.Subquery:
    """Return all patients of whom there are objects, with `kept`.

    Columns: patient_key, objects, size_bytes, newest, kept (a name of `Kept`).
    """
    query = sa.select(
        INSTANCES.c.patient_key,
        sa.func.count().label("objects"),
        sa.func.sum(INSTANCES.c.size_bytes).label("size_bytes"),
        sa.func.max(INSTANCES.c.received_at).label("newest"),
        sa.func.max(INSTANCES.c.id).label("newest_id"),
    ).group_by(INSTANCES.c.patient_key)
    if patient_key is not None:
        query = query.where(INSTANCES.c.patient_key == patient_key)
    held = query.subquery("held")
    return sa.select(held, _what_keeps(held, cutoffs).label("kept")).subquery("patients")


def _what_keeps(held: sa.Subquery, cutoffs: Cutoffs) -> sa.Case[str]:
    """Return the first reason that holds; the cheap ones are asked first."""
    is_theirs = CASES.c.patient_key == held.c.patient_key
    their_cases = sa.exists().where(is_theirs)
    theirs = sa.join(DELIVERIES, CASES, DELIVERIES.c.case_id == CASES.c.case_id)
    unsettled = sa.exists().select_from(theirs).where(is_theirs, DELIVERIES.c.state.in_(UNSETTLED))
    undelivered = (
        sa.exists()
        .select_from(theirs)
        .where(is_theirs, DELIVERIES.c.state == DeliveryState.UNDELIVERED)
    )
    is_unfinished = sa.or_(sa.exists().where(is_theirs, CASES.c.state.in_(UNFINISHED)), undelivered)
    newest_of_all = sa.select(sa.func.max(INSTANCES.c.id)).scalar_subquery()
    return sa.case(
        (sa.exists().where(is_theirs, CASES.c.state.in_(AT_WORK)), Kept.AT_WORK.name),
        (unsettled, Kept.NOT_DELIVERED.name),
        (_is_fetched(held), Kept.FETCHED.name),
        (sa.and_(~their_cases, _is_young(held, cutoffs.unfinished)), Kept.NO_CASE.name),
        (sa.and_(is_unfinished, _is_young(held, cutoffs.unfinished)), Kept.UNFINISHED.name),
        (
            sa.and_(their_cases, ~is_unfinished, _is_young(held, cutoffs.delivered)),
            Kept.YOUNG.name,
        ),
        # SQLite gives the id of a last row anew, and `patient_keys_since` would miss what gets it
        (held.c.newest_id == newest_of_all, Kept.NEWEST.name),
        (_is_drawn_on_by_others(held), Kept.SHARED.name),
        else_=Kept.DUE.name,
    )


def _is_young(held: sa.Subquery, cutoff: datetime) -> sa.ColumnElement[bool]:
    """Tell whether anything happened since: objects came, came again, or a case moved."""
    is_theirs = CASES.c.patient_key == held.c.patient_key
    own = INSTANCES.alias("own")
    carried = (
        sa.exists()
        .select_from(
            sa.join(SERIES_CARRIED, own, own.c.series == SERIES_CARRIED.c.series).join(
                ASSOCIATIONS, ASSOCIATIONS.c.id == SERIES_CARRIED.c.association_id
            )
        )
        .where(
            own.c.patient_key == held.c.patient_key,
            sa.or_(ASSOCIATIONS.c.closed_at.is_(None), ASSOCIATIONS.c.closed_at >= cutoff),
        )
    )
    return sa.or_(
        held.c.newest >= cutoff,
        sa.exists().where(is_theirs, CASES.c.updated_at >= utc_text(cutoff)),
        carried,
    )


def _is_fetched(held: sa.Subquery) -> sa.ColumnElement[bool]:
    return sa.or_(
        *(
            sa.exists().where(table.c.patient_key == held.c.patient_key, table.c.state == "open")
            for table in (QUESTIONS, FETCHES)
        )
    )


def _is_drawn_on_by_others(held: sa.Subquery) -> sa.ColumnElement[bool]:
    own, other = INSTANCES.alias("own"), INSTANCES.alias("other")
    return (
        sa.exists()
        .select_from(sa.join(own, other, other.c.referenced_series == own.c.series))
        .where(
            own.c.patient_key == held.c.patient_key,
            other.c.patient_key != held.c.patient_key,
            own.c.series != "",
        )
    )


def result_sets(kind: str, cutoffs: Cutoffs) -> sa.Subquery:
    """Return the finished revisions of which a kind of files was not removed yet, with `kept`.

    Columns: case_id, revision, patient_key, finished_at, objects, kept (a name of `Kept`).

    Args:
        kind: "results", or "view" for what only the page needs.
        cutoffs: As of `patients`.
    """
    is_gone = sa.exists().where(
        REMOVALS.c.case_id == REVISIONS.c.case_id,
        REMOVALS.c.revision == REVISIONS.c.revision,
        REMOVALS.c.kind.in_(("results", kind)),
    )
    objects = (
        sa.select(sa.func.count())
        .select_from(RESULTS)
        .where(RESULTS.c.case_id == REVISIONS.c.case_id, RESULTS.c.revision == REVISIONS.c.revision)
        .scalar_subquery()
    )
    return (
        sa.select(
            REVISIONS.c.case_id,
            REVISIONS.c.revision,
            CASES.c.patient_key,
            REVISIONS.c.finished_at,
            objects.label("objects"),
            _what_keeps_results(cutoffs).label("kept"),
        )
        .join(CASES, CASES.c.case_id == REVISIONS.c.case_id)
        .where(REVISIONS.c.finished_at.is_not(None), ~is_gone)
        .subquery("result_sets")
    )


def _what_keeps_results(cutoffs: Cutoffs) -> sa.Case[str]:
    def delivery_is(*states: DeliveryState) -> sa.ColumnElement[bool]:
        return sa.exists().where(
            DELIVERIES.c.case_id == REVISIONS.c.case_id,
            DELIVERIES.c.revision == REVISIONS.c.revision,
            DELIVERIES.c.state.in_(states),
        )

    def is_young(cutoff: datetime) -> sa.ColumnElement[bool]:
        text = utc_text(cutoff)
        return sa.or_(REVISIONS.c.finished_at >= text, CASES.c.updated_at >= text)

    is_unfinished = sa.or_(
        CASES.c.state.in_(UNFINISHED),
        delivery_is(DeliveryState.UNDELIVERED),
        ~delivery_is(DeliveryState.DELIVERED),  # what nobody got is here only
    )
    return sa.case(
        (CASES.c.state.in_(AT_WORK), Kept.AT_WORK.name),
        (delivery_is(*UNSETTLED), Kept.NOT_DELIVERED.name),
        (sa.and_(is_unfinished, is_young(cutoffs.unfinished)), Kept.UNFINISHED.name),
        (sa.and_(~is_unfinished, is_young(cutoffs.delivered)), Kept.YOUNG.name),
        else_=Kept.DUE.name,
    )


def tally(found: sa.Subquery) -> sa.Select[Any]:
    """Select, for each reason, how many units and objects it keeps, and their bytes if known."""
    size = found.c.size_bytes if "size_bytes" in found.c else sa.literal(0)
    return sa.select(
        found.c.kept,
        sa.func.count().label("units"),
        sa.func.sum(found.c.objects).label("objects"),
        sa.func.sum(size).label("size_bytes"),
    ).group_by(found.c.kept)
