"""Cases, revisions, results and deliveries: every transition is one transaction.

Decides nothing about medicine or networks: it keeps what assembly, computing and delivery found,
and refuses a move that `states.TRANSITIONS` does not allow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from node.assembly import AssemblyFinding, CaseProposal
from node.index import Index
from node.index.case_labels import label_case, worst_of
from node.index.case_list_rows import CASE_WORDS
from node.index.case_rows import (
    CASES,
    DELIVERIES,
    FORGOTTEN,
    HISTORY,
    RESULTS,
    REVISIONS,
    IllegalMoveError,
    case_row,
    move_case,
    utc_text,
)
from node.index.delivery_accounts import delivery_findings, receipt_counts, waiting_reasons
from node.index.peer_rows import COMMITMENTS
from node.index.protocol_choices import refuse_other_choice
from node.index.states import SETTLED, UNSETTLED, CaseState, DeliveryState


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """A case as the index keeps it."""

    case_id: str
    protocol: str
    state: CaseState
    reason: str
    revision: int
    ct_series_uid: str
    structure_set_uid: str
    created_at: str
    updated_at: str
    findings: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    deliveries: tuple[Mapping[str, Any], ...] = ()
    results: tuple[str, ...] = ()
    delivery_findings: tuple[Mapping[str, Any], ...] = ()
    receipts: tuple[Mapping[str, Any], ...] = ()


class CaseBook:
    """The cases of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    # --- what assembly found -------------------------------------------------------------------

    def observe(
        self,
        patient_key: str,
        proposals: Sequence[CaseProposal],
        jobs: Mapping[str, str],
        now: datetime,
    ) -> None:
        """Bring the cases of a patient up to date with what assembly proposes.

        Args:
            patient_key: Whose objects were looked at.
            proposals: Every case they form.
            jobs: For each proposal that is ready, the computing job as JSON, by case id.
            now: The time, aware.
        """
        with self._index.begin() as connection:
            connection.execute(
                CASES.update().where(CASES.c.patient_key == patient_key).values(look_again=False)
            )
            for proposal in proposals:
                self._observe_one(connection, patient_key, proposal, jobs, now)
            self._drop_vanished(connection, patient_key, {p.case_id for p in proposals}, now)

    def _observe_one(
        self,
        connection: sa.Connection,
        patient_key: str,
        proposal: CaseProposal,
        jobs: Mapping[str, str],
        now: datetime,
    ) -> None:
        row = case_row(connection, proposal.case_id)
        if row is None:
            connection.execute(CASES.insert().values(**_new_case(patient_key, proposal, now)))
            row = case_row(connection, proposal.case_id)
            assert row is not None  # noqa: S101 - just inserted in this transaction
        if row.patient_key.startswith(FORGOTTEN):
            row = _taken_up(connection, row, patient_key)
        state = CaseState(row.state)
        if state is CaseState.RUNNING:
            if row.fingerprint != proposal.fingerprint:
                is_this = CASES.c.case_id == proposal.case_id
                connection.execute(CASES.update().where(is_this).values(look_again=True))
            return
        if row.revision and row.fingerprint == proposal.fingerprint and state in SETTLED:
            return
        if state is CaseState.ABANDONED and row.seen == proposal.fingerprint:
            return
        connection.execute(
            CASES.update()
            .where(CASES.c.case_id == proposal.case_id)
            .values(
                ct_series_uid=proposal.ct_series_uid,
                structure_set_uid=proposal.structure_set_uid,
                seen=proposal.fingerprint,
                **_noticed(proposal.findings),
            )
        )
        if row.seen != proposal.fingerprint:
            label_case(connection, proposal)
        if proposal.rejection:
            move_case(connection, row, CaseState.REJECTED, proposal.rejection, now)
        elif proposal.waiting_for:
            is_open = any(i.association_is_open for i in proposal.instances)
            to = CaseState.RECEIVING if is_open else CaseState.WAITING
            move_case(connection, row, to, "; ".join(proposal.waiting_for), now)
        else:
            self._open_revision(connection, row, proposal, jobs[proposal.case_id], now)

    def _open_revision(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        proposal: CaseProposal,
        job: str,
        now: datetime,
    ) -> None:
        revision = row.revision + 1
        connection.execute(
            REVISIONS.insert().values(
                case_id=row.case_id,
                revision=revision,
                fingerprint=proposal.fingerprint,
                attempt=0,
                next_try_at=utc_text(now),
                begun=0,
                failures=0,
                job=job,
                summary="{}",
                created_at=utc_text(now),
            )
        )
        connection.execute(
            CASES.update()
            .where(CASES.c.case_id == row.case_id)
            .values(
                revision=revision,
                fingerprint=proposal.fingerprint,
                registration="",
                target="",
            )
        )
        move_case(connection, row, CaseState.READY, "", now, revision=revision)

    def _drop_vanished(
        self, connection: sa.Connection, patient_key: str, proposed: set[str], now: datetime
    ) -> None:
        """Forget what was never computed and is no longer proposed; say it of the others."""
        rows = connection.execute(
            sa.select(CASES).where(
                CASES.c.patient_key == patient_key, CASES.c.state.in_(_COLLECTING_STATES)
            )
        ).all()
        for row in rows:
            if row.case_id in proposed:
                continue
            if row.revision:
                reason = "its objects form this case no longer, with the present protocols"
                move_case(connection, row, CaseState.REJECTED, reason, now)
            else:
                connection.execute(HISTORY.delete().where(HISTORY.c.case_id == row.case_id))
                connection.execute(CASE_WORDS.delete().where(CASE_WORDS.c.case_id == row.case_id))
                connection.execute(CASES.delete().where(CASES.c.case_id == row.case_id))

    def patients_to_look_at(self) -> set[str]:
        """Return the patients with a case that was overtaken while it ran, or is begun again."""
        query = (
            sa.select(CASES.c.patient_key)
            .where(CASES.c.look_again, CASES.c.state != CaseState.RUNNING)
            .distinct()
        )
        with self._index.read() as connection:
            return set(connection.scalars(query))

    def patients_who_wait(self) -> set[str]:
        """Return the patients with a case that time or an association's end may complete."""
        waiting = (CaseState.RECEIVING, CaseState.WAITING)
        query = sa.select(CASES.c.patient_key).where(CASES.c.state.in_(waiting)).distinct()
        with self._index.read() as connection:
            return set(connection.scalars(query))

    # --- operators -----------------------------------------------------------------------------

    def ask_again(self, case_id: str, now: datetime, operator: str = "operator") -> None:
        """Have a case assembled and computed again, from its present objects and settings.

        Args:
            case_id: The case.
            now: The time, aware.
            operator: Who orders it, for the history.

        Raises:
            IllegalMoveError: The case is unknown, or at work, or there is nothing to do again.
        """
        with self._index.begin() as connection:
            row = case_row(connection, case_id)
            if row is None:
                raise IllegalMoveError(f"no case {case_id}", hint="`hilum cases list` shows them")
            state = CaseState(row.state)
            if state not in _REPEATABLE:
                raise IllegalMoveError(
                    f"case {case_id} is {state}: there is nothing to begin again",
                    hint=f"only {', '.join(sorted(_REPEATABLE))} cases can be retried",
                )
            refuse_other_choice(connection, row)
            connection.execute(
                CASES.update()
                .where(CASES.c.case_id == case_id)
                .values(look_again=True, fingerprint="")
            )
            move_case(connection, row, CaseState.WAITING, f"retried by {operator}", now)

    def abandon(self, case_id: str, now: datetime, operator: str = "operator") -> None:
        """Stop all work on a case; new objects revive it. `operator`: who orders it.

        Raises:
            IllegalMoveError: The case is unknown or already at its end.
        """
        with self._index.begin() as connection:
            row = case_row(connection, case_id)
            if row is None:
                raise IllegalMoveError(f"no case {case_id}", hint="`hilum cases list` shows them")
            connection.execute(
                DELIVERIES.update()
                .where(
                    DELIVERIES.c.case_id == case_id,
                    DELIVERIES.c.state.in_(UNSETTLED),
                )
                .values(
                    state=DeliveryState.ABANDONED,
                    reason=f"abandoned by {operator}",
                    updated_at=utc_text(now),
                )
            )
            connection.execute(
                COMMITMENTS.update().where(COMMITMENTS.c.case_id == case_id).values(state="closed")
            )
            move_case(connection, row, CaseState.ABANDONED, f"abandoned by {operator}", now)

    # --- reading -------------------------------------------------------------------------------

    def cases(self, state: CaseState | None = None, most: int | None = None) -> list[CaseRecord]:
        """Return cases, newest change first, without history.

        Args:
            state: Only those in this state; None: in any.
            most: How many at most, which bounds the work; None: all.
        """
        query = sa.select(CASES).order_by(CASES.c.updated_at.desc(), CASES.c.case_id.desc())
        if state is not None:
            query = query.where(CASES.c.state == state)
        with self._index.read() as connection:
            rows = connection.execute(query.limit(most)).all()
            moving = [row.case_id for row in rows if row.state == CaseState.DELIVERING]
            waiting = waiting_reasons(connection, moving if most is not None else None)
            return [_record(row, waiting) for row in rows]

    def case(self, case_id: str) -> CaseRecord | None:
        """Return one case with its history, deliveries and result files, or None."""
        with self._index.read() as connection:
            row = case_row(connection, case_id)
            if row is None:
                return None
            entry = connection.execute(
                sa.select(REVISIONS).where(
                    REVISIONS.c.case_id == case_id, REVISIONS.c.revision == row.revision
                )
            ).first()
            history = connection.execute(
                sa.select(HISTORY).where(HISTORY.c.case_id == case_id).order_by(HISTORY.c.id)
            ).all()
            deliveries = connection.execute(
                sa.select(DELIVERIES)
                .where(DELIVERIES.c.case_id == case_id)
                .order_by(DELIVERIES.c.revision, DELIVERIES.c.peer)
            ).all()
            results = connection.execute(
                sa.select(RESULTS.c.path)
                .where(RESULTS.c.case_id == case_id, RESULTS.c.revision == row.revision)
                .order_by(RESULTS.c.path)
            ).all()
            waiting = waiting_reasons(connection, [case_id])
            findings = delivery_findings(connection, case_id, row.revision)
            receipts = receipt_counts(connection, case_id, row.revision)
        return _record(
            row,
            waiting,
            delivery_findings=findings,
            receipts=receipts,
            summary=json.loads(entry.summary) if entry is not None else {},
            history=tuple(dict(h._mapping) for h in history),
            deliveries=tuple(dict(d._mapping) for d in deliveries),
            results=tuple(r.path for r in results),
        )


_COLLECTING_STATES = (CaseState.RECEIVING, CaseState.WAITING, CaseState.REJECTED)

_REPEATABLE = (
    CaseState.REJECTED,
    CaseState.FAILED,
    CaseState.UNDELIVERED,
    CaseState.ABANDONED,
)
"""States that an operator may leave by asking for the case again."""


def _new_case(patient_key: str, proposal: CaseProposal, now: datetime) -> dict[str, Any]:
    return {
        "case_id": proposal.case_id,
        "patient_key": patient_key,
        "protocol": proposal.protocol_name,
        "ct_series_uid": proposal.ct_series_uid,
        "structure_set_uid": proposal.structure_set_uid,
        "state": CaseState.RECEIVING,
        "reason": "",
        "fingerprint": "",
        "revision": 0,
        "seen": "",
        "look_again": False,
        **_noticed(proposal.findings),
        "created_at": utc_text(now),
        "updated_at": utc_text(now),
    }


def _taken_up(connection: sa.Connection, row: sa.Row[Any], patient_key: str) -> sa.Row[Any]:
    """Return the row of a case that had lost its names, whose structure set came again.

    Its results are gone, so that it is computed anew, and named anew.
    """
    connection.execute(
        CASES.update()
        .where(CASES.c.case_id == row.case_id)
        .values(patient_key=patient_key, fingerprint="", seen="")
    )
    found = case_row(connection, row.case_id)
    assert found is not None  # noqa: S101 - locked by this transaction
    return found


def _record(row: sa.Row[Any], waiting: Mapping[str, str], **details: Any) -> CaseRecord:
    return CaseRecord(
        case_id=row.case_id,
        protocol=row.protocol,
        state=CaseState(row.state),
        reason=waiting.get(row.case_id, row.reason),
        revision=row.revision,
        ct_series_uid=row.ct_series_uid,
        structure_set_uid=row.structure_set_uid,
        created_at=row.created_at,
        updated_at=row.updated_at,
        findings=tuple(json.loads(row.findings)),
        **details,
    )


def _noticed(findings: Sequence[AssemblyFinding]) -> dict[str, str]:
    told = [{"code": f.code, "severity": f.severity, "text": f.text} for f in findings]
    return {"findings": json.dumps(told), "worst": worst_of(told)}
