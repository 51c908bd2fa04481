"""What operators order about deliveries: begin one again, give one up."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_labels import tell_worst
from node.index.case_rows import (
    DELIVERIES,
    RECEIPTS,
    IllegalMoveError,
    case_row,
    move_case,
    utc_text,
    write_history,
)
from node.index.deliveries import LEFT_OUT, REFUSED, close_transactions, follow_deliveries
from node.index.states import UNSETTLED, CaseState, DeliveryState

_DELIVERY_STATES = (CaseState.DELIVERING, CaseState.DELIVERED, CaseState.UNDELIVERED)
"""States of a case in which a single delivery can be begun again."""


class DeliveryOrders:
    """The deliveries of one index, as an operator directs them.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def reopen(
        self, case_id: str, give_up: timedelta, now: datetime, operator: str = "operator"
    ) -> None:
        """Owe again what the newest revision of an undelivered case did not deliver.

        Raises:
            IllegalMoveError: The case is not undelivered.
        """
        with self._index.begin() as connection:
            row = case_row(connection, case_id)
            if row is None or CaseState(row.state) is not CaseState.UNDELIVERED:
                raise IllegalMoveError(f"case {case_id} has no delivery to begin again")
            is_meant = sa.and_(
                DELIVERIES.c.case_id == case_id,
                DELIVERIES.c.revision == row.revision,
                DELIVERIES.c.state == DeliveryState.UNDELIVERED,
            )
            peers = connection.scalars(sa.select(DELIVERIES.c.peer).where(is_meant)).all()
            for peer in peers:
                _owe_again(connection, row, peer, give_up, now)
            move_case(connection, row, CaseState.DELIVERING, f"retried by {operator}", now)

    def reopen_for(
        self, case_id: str, peer: str, give_up: timedelta, operator: str, now: datetime
    ) -> None:
        """Owe one peer again what it did not take, or try at once what waits for it.

        Raises:
            IllegalMoveError: There is no such delivery, or nothing to begin again.
        """
        with self._index.begin() as connection:
            row, (*_, entry) = _operated(connection, case_id, peer)
            if entry.revision != row.revision:
                raise IllegalMoveError(
                    f"a newer result set of case {case_id} is on its way, and not owed to {peer}",
                    hint=f"`hilum cases show {case_id}` tells where it stands",
                )
            state = DeliveryState(entry.state)
            if state is DeliveryState.DELIVERED:
                raise IllegalMoveError(f"case {case_id} is delivered to {peer}")
            if CaseState(row.state) not in _DELIVERY_STATES:
                raise IllegalMoveError(
                    f"case {case_id} is {row.state}: its deliveries cannot be begun again alone",
                    hint=f"`hilum cases retry {case_id}` begins the whole case again",
                )
            told = f"delivery to {peer} retried by {operator}"
            if state is DeliveryState.COMMITTING:
                raise IllegalMoveError(
                    f"{peer} has everything of case {case_id} and is asked to commit to it",
                    hint="wait for its report, or give the delivery up with `cases abandon --peer`",
                )
            _owe_again(connection, row, peer, give_up, now)
            if CaseState(row.state) is CaseState.DELIVERING:
                write_history(connection, case_id, row.revision, CaseState.DELIVERING, told, now)
            else:
                move_case(connection, row, CaseState.DELIVERING, told, now)

    def abandon_for(self, case_id: str, peer: str, operator: str, now: datetime) -> None:
        """Give up one peer's deliveries; the others go on, and the case follows them.

        Those of earlier revisions are given up as well: nobody would expect them still to come.

        Raises:
            IllegalMoveError: There is no such delivery, or it is at its end.
        """
        with self._index.begin() as connection:
            row, entries = _operated(connection, case_id, peer)
            meant = [
                e
                for e in entries
                if e.state in UNSETTLED
                or (e.revision == row.revision and e.state == DeliveryState.UNDELIVERED)
            ]
            if not meant:
                entry = entries[-1]
                raise IllegalMoveError(
                    f"the delivery of case {case_id} to {peer} is {entry.state}: there is nothing"
                    " to give up"
                )
            told = f"delivery to {peer} given up by {operator}"
            for entry in meant:
                connection.execute(
                    DELIVERIES.update()
                    .where(
                        DELIVERIES.c.case_id == case_id,
                        DELIVERIES.c.revision == entry.revision,
                        DELIVERIES.c.peer == peer,
                    )
                    .values(
                        state=DeliveryState.ABANDONED,
                        reason=f"given up by {operator}",
                        updated_at=utc_text(now),
                    )
                )
                close_transactions(connection, case_id, entry.revision, peer)
            state = CaseState(row.state)
            write_history(connection, case_id, row.revision, state, told, now)
            if state in (CaseState.DELIVERING, CaseState.UNDELIVERED):
                follow_deliveries(connection, row, now)


def _operated(
    connection: sa.Connection, case_id: str, peer: str
) -> tuple[sa.Row[Any], Sequence[sa.Row[Any]]]:
    """Return a case and its deliveries to a peer, at least one, that of the newest revision last.

    Raises:
        IllegalMoveError: There is no such case or no such delivery.
    """
    row = case_row(connection, case_id)
    if row is None:
        raise IllegalMoveError(f"no case {case_id}", hint="`hilum cases list` shows them")
    query = (
        sa.select(DELIVERIES).where(DELIVERIES.c.case_id == case_id).order_by(DELIVERIES.c.revision)
    )
    every = connection.execute(query).all()
    entries = [entry for entry in every if entry.peer == peer]
    if not entries:
        known = ", ".join(sorted({entry.peer for entry in every})) or "nobody"
        raise IllegalMoveError(
            f"case {case_id} has no delivery to {peer!r}",
            hint=f"its results are owed to: {known}",
        )
    return row, entries


def _owe_again(
    connection: sa.Connection, row: sa.Row[Any], peer: str, give_up: timedelta, now: datetime
) -> None:
    """Let a delivery begin again: what arrived stays confirmed, all else is owed.

    What was left out is offered again: what the peer takes may have been mended meanwhile.
    """
    connection.execute(
        DELIVERIES.update()
        .where(
            DELIVERIES.c.case_id == row.case_id,
            DELIVERIES.c.revision == row.revision,
            DELIVERIES.c.peer == peer,
        )
        .values(
            state=DeliveryState.PENDING,
            reason="",
            attempt=DELIVERIES.c.attempt + 1,
            next_try_at=utc_text(now),
            give_up_at=utc_text(now + give_up),
            updated_at=utc_text(now),
        )
    )
    close_transactions(connection, row.case_id, row.revision, peer)
    of_peer = sa.and_(
        RECEIPTS.c.case_id == row.case_id,
        RECEIPTS.c.revision == row.revision,
        RECEIPTS.c.peer == peer,
    )
    connection.execute(
        RECEIPTS.delete().where(of_peer, RECEIPTS.c.outcome.in_((REFUSED, LEFT_OUT)))
    )
    connection.execute(
        RECEIPTS.update()
        .where(of_peer, RECEIPTS.c.commitment == "refused")
        .values(commitment="", commitment_reason="")
    )
    tell_worst(connection, row, row.revision)
