"""What peers are asked and what is fetched from them: durable, tried again, done once.

A question or a fetch that is open here is taken up after any crash. Decides nothing about cases:
`node.completeness` says what is asked, `node.fetching` asks. Holds no patient's identity: whose
question it is, is told by the structure set that is named.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from node.completeness import Elsewhere, Question, Told
from node.header import InstanceHeader
from node.index import Index
from node.index.case_rows import CASES, utc_text
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.states import SETTLED
from node.index.tables import ASSOCIATIONS, INSTANCES, SERIES_CARRIED

ASK_ANEW = timedelta(hours=1)
"""A question that was given up may be put again after this, where a case still raises it."""

OPEN, ANSWERED, DONE, GIVEN_UP = "open", "answered", "done", "given up"


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question that is due, and how often it was tried."""

    question: Question
    patient_key: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """A series that is to be fetched, in whole or in part.

    Attributes:
        about: SOP Instance UID of the structure set whose patient it is.
        modality: As the peer says, or empty.
        is_prior: Of another study than the case's; a structure set among it starts no case.
        attempts: How often it was tried.
    """

    peer: str
    series_uid: str
    study_uid: str
    patient_key: str
    about: str
    by: str
    modality: str = ""
    is_prior: bool = False
    attempts: int = 0


class FetchBook:
    """The questions and fetches of one index; safe for many threads.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    # --- what cases raise ----------------------------------------------------------------------

    def want(
        self,
        patient_key: str,
        questions: Mapping[str, tuple[str, Sequence[Question]]],
        now: datetime,
    ) -> bool:
        """Put questions that cases raise, each once; tell whether any is new.

        A case that is computed, and of which nothing has changed, raises none.

        Args:
            patient_key: Whose.
            questions: By case id: the fingerprint of its objects, and what it raises.
            now: The time, aware.
        """
        if not any(asked for _, asked in questions.values()):
            return False
        is_new = False
        with self._index.begin() as connection:
            for case_id, (fingerprint, asked) in questions.items():
                if asked and not _is_settled(connection, case_id, fingerprint):
                    put = [_put(connection, patient_key, one, now) for one in asked]
                    is_new = is_new or any(put)
        return is_new

    def elsewhere(self, patient_key: str) -> Elsewhere:
        """Return what is known of peers that concerns a patient."""
        with self._index.read() as connection:
            asked = connection.execute(
                sa.select(QUESTIONS).where(QUESTIONS.c.patient_key == patient_key)
            ).all()
            fetches = connection.execute(
                sa.select(FETCHES).where(FETCHES.c.patient_key == patient_key)
            ).all()
            prior = {row.series for row in fetches if row.is_prior}
            mere = frozenset(uid for uid in prior if not _came_otherwise(connection, uid))
        told = {
            (row.kind, row.peer, row.subject): _told(row, [f for f in fetches if _is_of(f, row)])
            for row in asked
        }
        return Elsewhere(told, mere)

    # --- what is done about it -----------------------------------------------------------------

    def due_questions(self, peer: str, now: datetime) -> list[OpenQuestion]:
        """Return the questions to a peer whose time has come, oldest first."""
        query = (
            sa.select(QUESTIONS)
            .where(
                QUESTIONS.c.state == OPEN,
                QUESTIONS.c.peer == peer,
                QUESTIONS.c.next_try_at <= utc_text(now),
            )
            .order_by(QUESTIONS.c.next_try_at, QUESTIONS.c.subject)
        )
        with self._index.read() as connection:
            return [
                OpenQuestion(_question(row), row.patient_key, row.attempts)
                for row in connection.execute(query)
            ]

    def due_fetches(self, peer: str, now: datetime) -> list[Fetch]:
        """Return the fetches from a peer whose time has come, those of cases before priors."""
        query = (
            sa.select(FETCHES)
            .where(
                FETCHES.c.state == OPEN,
                FETCHES.c.peer == peer,
                FETCHES.c.next_try_at <= utc_text(now),
            )
            .order_by(FETCHES.c.is_prior, FETCHES.c.next_try_at, FETCHES.c.series)
        )
        with self._index.read() as connection:
            return [_fetch(row) for row in connection.execute(query)]

    def answer(
        self,
        question: Question,
        now: datetime,
        *,
        count: int | None = None,
        fetches: Iterable[Fetch] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Keep an answer together with what is to be fetched because of it."""
        with self._index.begin() as connection:
            connection.execute(
                QUESTIONS.update()
                .where(*_is_question(question))
                .values(
                    state=ANSWERED,
                    asked_at=utc_text(now),
                    instances=count,
                    reason="",
                    notes=json.dumps(list(notes)),
                )
            )
            for fetch in fetches:
                _order(connection, fetch, now)

    def put_off_question(
        self, question: Question, reason: str, next_try_at: datetime | None, now: datetime
    ) -> None:
        """Keep that a question was asked in vain; None: it is given up."""
        values: dict[str, Any] = {"state": GIVEN_UP, "asked_at": utc_text(now), "reason": reason}
        if next_try_at is not None:
            values |= {"state": OPEN, "next_try_at": utc_text(next_try_at)}
        with self._index.begin() as connection:
            connection.execute(
                QUESTIONS.update()
                .where(*_is_question(question))
                .values(attempts=QUESTIONS.c.attempts + 1, **values)
            )

    def order(self, fetches: Iterable[Fetch], now: datetime) -> None:
        """Have more series fetched."""
        with self._index.begin() as connection:
            for fetch in fetches:
                _order(connection, fetch, now)

    def finish(self, fetch: Fetch, now: datetime) -> None:
        """Keep that a series is here."""
        self._set_fetch(fetch, now, state=DONE, reason="")

    def put_off(
        self, fetch: Fetch, reason: str, next_try_at: datetime | None, now: datetime
    ) -> None:
        """Keep that a series was fetched in vain, or in part; None: it is given up."""
        values: dict[str, Any] = {"state": GIVEN_UP, "reason": reason}
        if next_try_at is not None:
            values |= {"state": OPEN, "next_try_at": utc_text(next_try_at)}
        self._set_fetch(fetch, now, attempts=FETCHES.c.attempts + 1, **values)

    # --- what is here --------------------------------------------------------------------------

    def patient_of(self, structure_set_uid: str) -> InstanceHeader | None:
        """Return the structure set's header, with what only the CT tells of the patient; or None.

        Planning systems drop birth date, sex and issuer, which tell patients apart.
        """
        with self._index.read() as connection:
            is_it = INSTANCES.c.sop_instance_uid == structure_set_uid
            own = _newest_header(connection, is_it)
            if own is None or not own.referenced_series_uid:
                return own
            of_ct = INSTANCES.c.series == own.referenced_series_uid
            ct = _newest_header(connection, of_ct)
        if ct is None or ct.patient_id.strip() != own.patient_id.strip():
            return own
        lacking = {
            name: getattr(ct, name)
            for name in ("issuer_of_patient_id", "patient_birth_date", "patient_sex")
            if not getattr(own, name).strip()
        }
        return replace(own, **lacking)

    def headers_of_series(self, series_uid: str) -> list[InstanceHeader]:
        """Return the headers of a series, newest versions only."""
        query = sa.select(INSTANCES.c.header).where(
            INSTANCES.c.series == series_uid, INSTANCES.c.is_newest
        )
        with self._index.read() as connection:
            return [
                InstanceHeader.from_json(json.loads(text)) for text in connection.scalars(query)
            ]

    def count_in_series(self, series_uid: str) -> int:
        """Return how many SOP instances of a series are here."""
        query = sa.select(sa.func.count()).where(
            INSTANCES.c.series == series_uid, INSTANCES.c.is_newest
        )
        with self._index.read() as connection:
            return connection.scalar(query) or 0

    def fetch_states(self) -> list[tuple[str, str, str]]:
        """Return peer, series and state of every fetch, in that order."""
        query = sa.select(FETCHES.c.peer, FETCHES.c.series, FETCHES.c.state).order_by(
            FETCHES.c.peer, FETCHES.c.series
        )
        with self._index.read() as connection:
            return [(row.peer, row.series, row.state) for row in connection.execute(query)]

    def _set_fetch(self, fetch: Fetch, now: datetime, **values: Any) -> None:
        is_this = (FETCHES.c.peer == fetch.peer) & (FETCHES.c.series == fetch.series_uid)
        with self._index.begin() as connection:
            connection.execute(
                FETCHES.update().where(is_this).values(updated_at=utc_text(now), **values)
            )


def _is_settled(connection: sa.Connection, case_id: str, fingerprint: str) -> bool:
    query = sa.select(CASES.c.state, CASES.c.fingerprint, CASES.c.revision).where(
        CASES.c.case_id == case_id
    )
    row = connection.execute(query).first()
    is_same = row is not None and row.revision > 0 and row.fingerprint == fingerprint
    return is_same and row is not None and row.state in {str(one) for one in SETTLED}


def _newest_header(
    connection: sa.Connection, condition: sa.ColumnElement[bool]
) -> InstanceHeader | None:
    query = sa.select(INSTANCES.c.header).where(condition, INSTANCES.c.is_newest).limit(1)
    text = connection.scalar(query)
    return None if text is None else InstanceHeader.from_json(json.loads(text))


def _put(connection: sa.Connection, patient_key: str, question: Question, now: datetime) -> bool:
    """Put a question unless it is open already, or was put a moment ago."""
    query = sa.select(QUESTIONS).where(*_is_question(question))
    row = connection.execute(query).first()
    fresh: dict[str, Any] = {
        "patient_key": patient_key,
        "question": json.dumps(asdict(question)),
        "state": OPEN,
        "attempts": 0,
        "next_try_at": utc_text(now),
        "reason": "",
    }
    if row is None:
        key = {"kind": question.kind, "peer": question.peer, "subject": question.subject}
        connection.execute(QUESTIONS.insert().values(**key, **fresh, notes="[]"))
        return True
    if row.state == OPEN:
        return False
    asked_at = datetime.fromisoformat(row.asked_at or row.next_try_at)
    pause = ASK_ANEW if row.state == GIVEN_UP else timedelta(seconds=question.quiet_s)
    if row.state == GIVEN_UP and now < asked_at + pause:
        return False
    fresh["next_try_at"] = utc_text(max(now, asked_at + pause))
    connection.execute(QUESTIONS.update().where(*_is_question(question)).values(**fresh))
    return True


def _order(connection: sa.Connection, fetch: Fetch, now: datetime) -> None:
    """Open a fetch, or open it again where the peer has more than was fetched."""
    is_this = (FETCHES.c.peer == fetch.peer) & (FETCHES.c.series == fetch.series_uid)
    row = connection.execute(sa.select(FETCHES).where(is_this)).first()
    fresh: dict[str, Any] = {
        "state": OPEN,
        "attempts": 0,
        "next_try_at": utc_text(now),
        "reason": "",
        "updated_at": utc_text(now),
        "came_otherwise": _came_otherwise(connection, fetch.series_uid),
    }
    if row is None:
        connection.execute(
            FETCHES.insert().values(
                peer=fetch.peer,
                series=fetch.series_uid,
                patient_key=fetch.patient_key,
                study=fetch.study_uid,
                about=fetch.about,
                modality=fetch.modality,
                send_by=fetch.by,
                is_prior=fetch.is_prior,
                **fresh,
            )
        )
    elif row.state != OPEN:
        fresh["is_prior"] = bool(row.is_prior) and fetch.is_prior
        connection.execute(
            FETCHES.update().where(is_this).values(about=fetch.about, send_by=fetch.by, **fresh)
        )


def _came_otherwise(connection: sa.Connection, series_uid: str) -> bool:
    """Tell whether a series was here before anybody fetched it, or was sent to us afterwards."""
    rows = connection.execute(sa.select(FETCHES).where(FETCHES.c.series == series_uid)).all()
    if not rows:
        is_here = sa.select(INSTANCES.c.id).where(INSTANCES.c.series == series_uid).limit(1)
        return connection.scalar(is_here) is not None
    if any(row.came_otherwise for row in rows):
        return True
    if any(row.state == OPEN for row in rows):
        return False
    fetched_at = max(datetime.fromisoformat(row.updated_at) for row in rows)
    query = (
        sa.select(ASSOCIATIONS.c.id)
        .join(SERIES_CARRIED)
        .where(SERIES_CARRIED.c.series == series_uid, ASSOCIATIONS.c.opened_at > fetched_at)
        .limit(1)
    )
    return connection.scalar(query) is not None


def _is_question(question: Question) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        QUESTIONS.c.kind == question.kind,
        QUESTIONS.c.peer == question.peer,
        QUESTIONS.c.subject == question.subject,
    )


def _is_of(fetch: sa.Row[Any], question: sa.Row[Any]) -> bool:
    """Tell whether a series is fetched because of a question."""
    if fetch.peer != question.peer:
        return False
    if question.kind == "count":
        return bool(fetch.series == question.subject)
    return bool(fetch.is_prior)


def _question(row: sa.Row[Any]) -> Question:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(row.question).items()
    }
    return Question(**values)


def _told(row: sa.Row[Any], fetches: Sequence[sa.Row[Any]]) -> Told:
    reasons = sorted({one.reason for one in fetches if one.state == GIVEN_UP and one.reason})
    return Told(
        asked_at=datetime.fromisoformat(row.asked_at) if row.asked_at else None,
        is_answered=row.state == ANSWERED,
        is_given_up=row.state == GIVEN_UP,
        count=row.instances,
        held=_question(row).held,
        reason=row.reason,
        notes=tuple(json.loads(row.notes)),
        coming=sum(one.state == OPEN for one in fetches),
        not_come="; ".join(reasons),
    )


def _fetch(row: sa.Row[Any]) -> Fetch:
    return Fetch(
        peer=row.peer,
        series_uid=row.series,
        study_uid=row.study,
        patient_key=row.patient_key,
        about=row.about,
        by=row.send_by,
        modality=row.modality,
        is_prior=bool(row.is_prior),
        attempts=row.attempts,
    )
