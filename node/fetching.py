"""Asks peers what they hold and fetches what a case lacks: one thread for each peer that is asked.

What is asked and fetched is kept by `node.index.fetches`, so that a stop or a crash only delays it;
what it means for a case is said by `node.completeness`. Objects come in by the same way as those
that a peer pushes. A peer that is down keeps nobody waiting but its own thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from node.assembly import CaseProposal
from node.audit.events import AuditEvent, Kind, Tell, untold
from node.completeness import NOTHING_KNOWN, Elsewhere
from node.config import Config, Peer
from node.errors import DeliveryError, QueryError
from node.header import InstanceHeader
from node.index import Index
from node.index.fetches import Fetch, FetchBook, OpenQuestion
from node.index.instances import InstanceBook
from node.log import IDENTIFIERS
from node.pauses import pause
from node.query.dialog import Store
from node.query.find import Asked, Found, Match, Questions, is_askable, open_questions
from node.query.priors import OtherSeries, choose_series, choose_studies, limited
from node.query.retrieve import Line, Retrieved, Wanted, get, move

LOGGER = logging.getLogger(__name__)

POLL_S = 1.0
"""How often a thread looks whether something is due."""

STOP_GRACE_S = 3.0
"""How long `stop` waits for exchanges to be broken off, which takes half a second."""

TROUBLE_PAUSE_S = 10.0
"""How long a thread rests after trouble of ours, such as a full disk."""

MOST_QUESTION_ATTEMPTS = 6
"""So often a question is put before it is given up: pauses double, from one quiet period on."""

MOST_FETCH_ATTEMPTS = 6
"""So often a series is fetched before it is given up."""

LEAST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 3600.0
"""Bounds of the pause after a question that was not answered."""

MOST_STUDIES_SEARCHED = 50
"""Studies in which a series is looked for that is not where its structure set says."""

FILED_WITHIN_S = 60.0
"""How long objects that were received may take until the index has them."""


OTHERS_FILE_WITHIN_S = 10.0
"""How long objects that another process received may take: what does not come by then is fetched
again."""


def asked_event(peer: Peer, asked: Asked) -> AuditEvent:
    """Return what the audit trail is told of a question that we put to a peer."""
    what = {
        "peer": peer.name,
        "ae_title": peer.ae_title,
        "sop_class": asked.sop_class_uid,
        "level": asked.level,
        "keys": " ".join(asked.keys),
    }
    return AuditEvent(Kind.QUERY_ASKED, "", peer.host, "success", what)


class Receiving(Protocol):
    """What takes in objects: `node.scp.StoreScp`."""

    def taking_from(self, peer: Peer) -> AbstractContextManager[Store]:
        """Give what keeps objects that come on an association which we opened."""
        ...

    def wait_until_filed(self, timeout_s: float) -> bool:
        """Wait until the index has all that was received."""
        ...


class Fetching:
    """The questions and fetches of one process.

    Args:
        config: Peers, rules, waiting times.
        index: Where they are kept.
        receiving: What takes in objects.
        clock: The time, aware.
        is_leading: Tells whether it is for this process to ask and fetch, of those that share the
            index. It asks in vain at most, for another may have asked a moment ago.
        audit: The audit trail.
    """

    def __init__(
        self,
        config: Config,
        index: Index,
        receiving: Receiving,
        clock: Callable[[], datetime],
        is_leading: Callable[[], bool] = lambda: True,
        audit: Tell = untold,
    ) -> None:
        self._config = config
        self._audit = audit
        self._book = FetchBook(index)
        self._instances = InstanceBook(index)
        self._receiving = receiving
        self._clock = clock
        self._is_leading = is_leading
        self._is_shared = index.is_shared
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._news: set[str] = set()
        self._guard = threading.Lock()
        names = dict.fromkeys(rule.peer for p in config.protocol for rule in p.fetch)
        self._threads = [
            threading.Thread(target=self._work, args=(peer,), name=f"fetch-{name}", daemon=True)
            for name in names
            if (peer := config.peer_named(name)) is not None
        ]

    # --- what the schedule calls ---------------------------------------------------------------

    def start(self) -> None:
        """Begin with what an earlier process left open."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Break off; what is open goes on at the next start."""
        self._stopping.set()
        self._wake.set()
        deadline_s = time.monotonic() + STOP_GRACE_S
        for thread in self._threads:
            if thread.ident is not None:  # one that is just calling a dead host is left behind
                thread.join(max(0.0, deadline_s - time.monotonic()))

    def elsewhere(self, patient_key: str) -> Elsewhere:
        """Return what is known of peers that concerns a patient."""
        return self._book.elsewhere(patient_key) if self._threads else NOTHING_KNOWN

    def want(self, patient_key: str, proposals: Sequence[CaseProposal]) -> None:
        """Put the questions that cases raise."""
        raised = {p.case_id: (p.fingerprint, p.questions) for p in proposals}
        if self._book.want(patient_key, raised, self._clock()):
            self._wake.set()

    def take_news(self) -> set[str]:
        """Return the patients of whom something became known since this was last asked."""
        with self._guard:
            news, self._news = self._news, set()
        return news

    # --- the thread of a peer ------------------------------------------------------------------

    def _work(self, peer: Peer) -> None:
        while not self._stopping.is_set():
            try:
                is_idle = not (self._is_leading() and self.work_once(peer))
            except Exception:
                if self._stopping.is_set():
                    return  # what it works with is being closed
                # the boundary of this thread: logged, and taken up again after a pause
                LOGGER.exception("fetching.failed", extra={"peer": peer.name})
                self._stopping.wait(TROUBLE_PAUSE_S)
                is_idle = True
            if is_idle:
                self._wake.wait(POLL_S)
                self._wake.clear()

    def work_once(self, peer: Peer) -> bool:
        """Put all questions that are due and fetch one series; tell whether anything was due."""
        now = self._clock()
        questions = self._book.due_questions(peer.name, now)
        if questions:
            self._ask(peer, questions)
        fetches = self._book.due_fetches(peer.name, now)
        if fetches and not self._stopping.is_set():
            self._attempt(peer, fetches[0])
        return bool(questions or fetches)

    def _ask(self, peer: Peer, due: Sequence[OpenQuestion]) -> None:
        """Put questions on one association; each is answered, put off or given up."""
        left = list(due)
        try:
            with self._questions(peer) as questions:
                while left and not self._stopping.is_set():
                    self._ask_one(questions, left[0])
                    left.pop(0)
        except QueryError as error:
            if not self._stopping.is_set():
                self._put_off_question(left[0], error)  # the others are asked anew
        except DeliveryError as error:
            for asked in left:
                self._put_off_question(asked, error)

    def _ask_one(self, questions: Questions, asked: OpenQuestion) -> None:
        """Put one question.

        Raises:
            QueryError: It was not answered, and the association may be of no use any more.
        """
        question = asked.question
        own = self._book.patient_of(question.about)
        if question.kind == "count":
            self._count(questions, asked, own)
        elif own is None:
            self._book.answer(question, self._clock())
        else:
            self._find_priors(questions, asked, own)
        self._tell(asked.patient_key)
        fields = {"peer": question.peer, "question": question.kind}
        LOGGER.info("query.answered", extra=fields)

    def _count(self, questions: Questions, asked: OpenQuestion, own: InstanceHeader | None) -> None:
        question = asked.question
        patient_id = "" if own is None else own.patient_id.strip()
        study_uid, match = _look_for(questions, question.study_uid, question.subject, patient_id)
        count = 0 if match is None else match.count
        if match is not None and not count:
            listed = questions.images(study_uid, question.subject, patient_id)
            count = None if listed.unfit or listed.is_cut else len(listed.matches)
        fetches = []
        if match is not None and count and count > question.held:
            fetch = Fetch(
                peer=question.peer,
                series_uid=question.subject,
                study_uid=study_uid,
                patient_key=asked.patient_key,
                about=question.about,
                by=question.by,
                modality=match["Modality"][:16],
            )
            fetches.append(fetch)
        self._book.answer(question, self._clock(), count=count, fetches=fetches)

    def _find_priors(self, questions: Questions, asked: OpenQuestion, own: InstanceHeader) -> None:
        question, patient_id = asked.question, own.patient_id.strip()
        IDENTIFIERS.remember(own.patient_name, own.patient_id, own.patient_birth_date)
        studies = questions.studies(patient_id)
        chosen, notes = choose_studies(own, studies.matches, question)
        wanted: list[OtherSeries] = []
        unfit = studies.unfit
        for study in chosen:
            found = questions.series(study.study_uid, patient_id)
            unfit += found.unfit
            uids = [match["SeriesInstanceUID"] for match in found.matches]
            held = {uid: self._book.count_in_series(uid) for uid in uids}
            wanted += choose_series(study, found.matches, held)
        kept, told = limited(wanted, question.peer)
        notes += told
        if unfit:
            notes.append(f"{unfit} answers of {question.peer} could not be used")
        fetches = [
            Fetch(
                peer=question.peer,
                series_uid=one.series_uid,
                study_uid=one.study_uid,
                patient_key=asked.patient_key,
                about=question.about,
                by=question.by,
                modality=one.modality,
                is_prior=True,
            )
            for one in kept
        ]
        self._book.answer(question, self._clock(), fetches=fetches, notes=notes)

    def _put_off_question(self, asked: OpenQuestion, error: DeliveryError) -> None:
        now, reason = self._clock(), error.with_hint
        is_last = asked.attempts + 1 >= MOST_QUESTION_ATTEMPTS or not error.is_retryable
        quiet_s = max(asked.question.quiet_s, LEAST_PAUSE_S) * 2.0**asked.attempts
        next_try_at = None if is_last else now + timedelta(seconds=min(quiet_s, LONGEST_PAUSE_S))
        self._book.put_off_question(asked.question, reason, next_try_at, now)
        self._tell(asked.patient_key)
        fields = {"peer": asked.question.peer, "question": asked.question.kind}
        LOGGER.warning("query.put_off", extra={**fields, "reason": reason, "is_last": is_last})

    # --- fetching ------------------------------------------------------------------------------

    def _attempt(self, peer: Peer, fetch: Fetch) -> None:
        """Fetch a series once; whatever goes wrong, it is here, or comes again, or is given up."""
        start_s = time.monotonic()
        try:
            came = self._fetch(peer, fetch)
        except DeliveryError as error:
            if self._stopping.is_set():
                return
            now, reason = self._clock(), error.with_hint
            is_last = fetch.attempts + 1 >= MOST_FETCH_ATTEMPTS or not error.is_retryable
            next_try_at = None if is_last else now + pause(self._config.node, fetch.attempts)
            self._book.put_off(fetch, reason, next_try_at, now)
            fields = {"peer": peer.name, "reason": reason, "is_last": is_last}
            LOGGER.warning("fetch.put_off", extra=fields)
        else:
            self._book.order(self._led_to(fetch), self._clock())
            self._book.finish(fetch, self._clock())
            seconds = round(time.monotonic() - start_s, 2)
            fields = {"peer": peer.name, "objects": came, "seconds": seconds}
            LOGGER.info("fetch.finished", extra=fields)
        self._tell(fetch.patient_key)

    def _fetch(self, peer: Peer, fetch: Fetch) -> int:
        """Fetch what is missing of a series; return how many objects came.

        Raises:
            DeliveryError: Not all of it is here now.
        """
        own = self._book.patient_of(fetch.about)
        patient_id = "" if own is None else own.patient_id.strip()
        with self._questions(peer) as questions:
            study_uid, match = _look_for(questions, fetch.study_uid, fetch.series_uid, patient_id)
            listed = questions.images(study_uid, fetch.series_uid, patient_id)
        uids = [one["SOPInstanceUID"] for one in listed.matches]
        if not uids:
            raise QueryError(
                f"peer {peer.name} does not list the images of a series that it has"
                if match is not None
                else f"peer {peer.name} has no such series",
                hint="look into its log",
                is_retryable=match is not None,
            )
        if self._instances.is_known_result(uids[0]):
            return 0  # a series that was made here: the peer got it from us
        held = self._instances.find_paths(uids)
        missing = tuple(uid for uid in uids if uid not in held)
        if missing:
            # some archives retrieve no lists of instances: every other attempt asks for all
            is_whole = not held or fetch.attempts % 2 == 1
            asked_for = Wanted(study_uid, fetch.series_uid, () if is_whole else missing, patient_id)
            retrieved = self._retrieve(peer, fetch, asked_for)
            self._receiving.wait_until_filed(FILED_WITHIN_S)
            if self._is_shared:
                self._wait_for_others(missing)
            self._require(peer, missing, retrieved)
        self._require_as_many(peer, fetch, match, listed)
        return len(missing)

    def _wait_for_others(self, uids: Sequence[str]) -> None:
        """Wait a while for objects that a peer sent to another process of ours."""
        deadline_s = time.monotonic() + OTHERS_FILE_WITHIN_S
        while time.monotonic() < deadline_s and not self._stopping.is_set():
            if len(self._instances.find_paths(uids)) == len(set(uids)):
                return
            self._stopping.wait(POLL_S)

    def _retrieve(self, peer: Peer, fetch: Fetch, wanted: Wanted) -> Retrieved:
        node = self._config.node
        line = Line(
            peer, node.ae_title, node.network_timeout_s, self._config.tls, self._stopping.is_set
        )
        if fetch.by == "get":
            with self._receiving.taking_from(peer) as store:
                return get(line, wanted, store=store)
        return move(line, wanted, moved=lambda: self._book.count_in_series(fetch.series_uid))

    def _require(self, peer: Peer, uids: Sequence[str], retrieved: Retrieved) -> None:
        """Raise unless these instances are here now: the index is believed, not the peer."""
        here = self._instances.find_paths(uids)
        if left := len([uid for uid in uids if uid not in here]):
            failed = retrieved.failed + retrieved.warned
            said = f" ({failed} failures by its own count)" if failed else ""
            raise QueryError(
                f"peer {peer.name} was to send {len(uids)} images, {left} did not come{said}",
                hint="look into its log, and into ours for what was refused",
                is_retryable=True,
            )

    def _require_as_many(
        self, peer: Peer, fetch: Fetch, match: Match | None, listed: Found
    ) -> None:
        """Raise if the peer counts more images than it lists: they cannot be asked for."""
        count = None if match is None else match.count
        here = self._book.count_in_series(fetch.series_uid)
        if count is not None and count > max(here, len(listed.matches)):
            raise QueryError(
                f"peer {peer.name} counts {count} images of a series and lists "
                f"{len(listed.matches)}",
                hint="ask its administrator to repair its index",
                is_retryable=False,
            )

    def _led_to(self, fetch: Fetch) -> list[Fetch]:
        """Return what a structure set of another study was drawn on, if nothing of it is here."""
        if not fetch.is_prior or fetch.modality != "RTSTRUCT":
            return []
        headers = self._book.headers_of_series(fetch.series_uid)
        drawn_on = dict.fromkeys(one.referenced_series_uid for one in headers)
        return [
            replace(fetch, series_uid=uid, modality="CT", attempts=0)
            for uid in drawn_on
            if uid and not self._book.count_in_series(uid)
        ]

    # --- both ----------------------------------------------------------------------------------

    def _questions(self, peer: Peer) -> AbstractContextManager[Questions]:
        node = self._config.node
        return open_questions(
            peer,
            node.ae_title,
            timeout_s=node.network_timeout_s,
            tls=self._config.tls,
            is_stopping=self._stopping.is_set,
            on_asked=lambda asked: self._audit(asked_event(peer, asked)),
        )

    def _tell(self, patient_key: str) -> None:
        with self._guard:
            self._news.add(patient_key)


def _look_for(
    questions: Questions, study_uid: str, series_uid: str, patient_id: str
) -> tuple[str, Match | None]:
    """Return the study that holds a series and what the peer says of it, or None.

    Looked for where it should be, else in the patient's other studies: a structure set names the
    series, and may lie in a study of its own.

    Raises:
        QueryError: The peer did not answer so that it could be understood.
    """
    found = questions.series(study_uid, patient_id, series_uid)
    unfit = found.unfit
    if found.matches:
        return study_uid, found.matches[0]
    if is_askable(patient_id):
        for match in questions.studies(patient_id).matches[:MOST_STUDIES_SEARCHED]:
            other_uid = match["StudyInstanceUID"]
            if other_uid != study_uid:
                found = questions.series(other_uid, patient_id, series_uid)
                unfit += found.unfit
                if found.matches:
                    return other_uid, found.matches[0]
    if unfit:
        raise QueryError(
            "the peer's answers cannot be understood", hint="look into its log", is_retryable=True
        )
    return study_uid, None
