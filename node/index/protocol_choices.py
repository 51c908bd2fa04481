"""Which protocol an operator chose for a structure set, and the order to compute it anew.

The case id is made of CT series, structure set and protocol: under another protocol it is another
case. The one before keeps its results, revisions and deliveries, and is named as the predecessor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.index import Index
from node.index.case_list_rows import PROTOCOL_CHOICES
from node.index.case_rows import (
    CASES,
    IllegalMoveError,
    case_row,
    move_case,
    utc_text,
    write_history,
)
from node.index.states import CaseState

_CHUNK = 500
"""Values in one IN list; databases limit them."""

_GIVEN_UP = (
    CaseState.RECEIVING,
    CaseState.WAITING,
    CaseState.READY,
    CaseState.REJECTED,
    CaseState.FAILED,
)
"""States of a case that is given up when its structure set goes on under another protocol."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator chose; `from_case_id` is the case for which they did."""

    protocol: str
    from_case_id: str
    chosen_by: str
    chosen_at: str


class ProtocolChoices:
    """The choices of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def chosen_among(self, structure_set_uids: Sequence[str]) -> dict[str, str]:
        """Return the protocols that were chosen for structure sets, by SOP Instance UID."""
        found: dict[str, str] = {}
        with self._index.read() as connection:
            for start in range(0, len(structure_set_uids), _CHUNK):
                query = sa.select(
                    PROTOCOL_CHOICES.c.structure_set_uid, PROTOCOL_CHOICES.c.protocol
                ).where(
                    PROTOCOL_CHOICES.c.structure_set_uid.in_(
                        structure_set_uids[start : start + _CHUNK]
                    )
                )
                found.update((row[0], row[1]) for row in connection.execute(query))
        return found

    def choice(self, structure_set_uid: str) -> Choice | None:
        """Return what was chosen for a structure set, or None."""
        with self._index.read() as connection:
            return read_choice(connection, structure_set_uid)

    def compute_under(self, case_id: str, protocol: str, operator: str, now: datetime) -> None:
        """Have the objects of a case computed anew under a protocol, and from now on.

        Under the case's own protocol this makes another revision. Under another one it makes
        another case; the one it comes from is abandoned, unless its results are on their way or
        have arrived: then it stays as it is.

        Args:
            case_id: The case that the operator looks at.
            protocol: Name of a protocol of the configuration; the caller has looked.
            operator: Who orders it.
            now: The time, aware.

        Raises:
            IllegalMoveError: The case is unknown, runs, or has no structure set.
        """
        with self._index.begin() as connection:
            row = case_row(connection, case_id)
            if row is None:
                raise IllegalMoveError(f"no case {case_id}", hint="`hilum cases list` shows them")
            if not row.structure_set_uid:
                raise IllegalMoveError(
                    f"case {case_id} has no structure set yet: there is nothing to compute",
                    hint=row.reason,
                )
            others = _cases_under(connection, row.structure_set_uid, protocol)
            for one in (row, *others):
                _refuse_running(one)
            _keep(connection, row, protocol, operator, now)
            told = f"computed anew under protocol {protocol} by {operator}"
            if row.protocol != protocol:
                _leave(connection, row, told, now)
            for one in others:
                _begin_again(connection, one, told, now)
            connection.execute(
                CASES.update().where(CASES.c.patient_key == row.patient_key).values(look_again=True)
            )


def read_choice(connection: sa.Connection, structure_set_uid: str) -> Choice | None:
    """Return what was chosen for a structure set, or None."""
    query = sa.select(PROTOCOL_CHOICES).where(
        PROTOCOL_CHOICES.c.structure_set_uid == structure_set_uid
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    return Choice(row.protocol, row.from_case_id, row.chosen_by, row.chosen_at)


def refuse_other_choice(connection: sa.Connection, row: sa.Row[Any]) -> None:
    """Refuse to begin again a case that an operator had computed under another protocol.

    Raises:
        IllegalMoveError: So it is.
    """
    query = sa.select(PROTOCOL_CHOICES.c.protocol).where(
        PROTOCOL_CHOICES.c.structure_set_uid == row.structure_set_uid
    )
    chosen = connection.scalar(query)
    if chosen not in (None, row.protocol):
        raise IllegalMoveError(
            f"the structure set of case {row.case_id} is computed under protocol {chosen} now",
            hint=f"`hilum cases rerun {row.case_id} --protocol {row.protocol}` changes it back",
        )


def _cases_under(
    connection: sa.Connection, structure_set_uid: str, protocol: str
) -> list[sa.Row[Any]]:
    """Return the cases of a structure set that are there under a protocol already."""
    query = (
        sa.select(CASES)
        .where(CASES.c.structure_set_uid == structure_set_uid, CASES.c.protocol == protocol)
        .with_for_update()
    )
    return list(connection.execute(query).all())


def _refuse_running(row: sa.Row[Any]) -> None:
    if row.state == CaseState.RUNNING:
        raise IllegalMoveError(
            f"case {row.case_id} is running",
            hint=f"wait until it has ended, or stop it: `hilum cases abandon {row.case_id}`",
        )


def _keep(
    connection: sa.Connection, row: sa.Row[Any], protocol: str, operator: str, now: datetime
) -> None:
    values: Mapping[str, str] = {
        "protocol": protocol,
        "from_case_id": row.case_id,
        "chosen_by": operator[:120],
        "chosen_at": utc_text(now),
    }
    is_this = PROTOCOL_CHOICES.c.structure_set_uid == row.structure_set_uid
    if not connection.execute(PROTOCOL_CHOICES.update().where(is_this).values(**values)).rowcount:
        connection.execute(
            PROTOCOL_CHOICES.insert().values(structure_set_uid=row.structure_set_uid, **values)
        )


def _leave(connection: sa.Connection, row: sa.Row[Any], told: str, now: datetime) -> None:
    """Give a case up for the one under another protocol; what was computed stays as it is."""
    state = CaseState(row.state)
    if state in _GIVEN_UP:
        move_case(connection, row, CaseState.ABANDONED, told, now)
    else:
        write_history(connection, row.case_id, row.revision, state, told, now)


def _begin_again(connection: sa.Connection, row: sa.Row[Any], told: str, now: datetime) -> None:
    """Let assembly make another revision of a case, from its present objects and settings."""
    connection.execute(
        CASES.update().where(CASES.c.case_id == row.case_id).values(fingerprint="", seen="")
    )
    move_case(connection, row, CaseState.WAITING, told, now)
