"""When something happens: looking at what arrived, starting what is due, the heartbeat.

APScheduler decides the times; what a case is decides `assembly`, that work is finished `workflow`.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from node.assembly import CaseProposal, Patience, assemble
from node.audit.events import Tell, untold
from node.case_job import case_job
from node.completeness import NOTHING_KNOWN
from node.config import Config
from node.departed import Departed
from node.echoing import Echoing
from node.fetching import Fetching
from node.index import Index
from node.index.cases import CaseBook
from node.index.instances import InstanceBook
from node.index.protocol_choices import ProtocolChoices
from node.membership import Membership
from node.notify.notifier import NOTIFY_S, Notifier
from node.retention import Retention
from node.takeover import Takeover
from node.workflow import Workflow

LOGGER = logging.getLogger(__name__)

TICK_S = 1.0
"""How often new objects and due times are looked for."""

LOOK_AGAIN_S = 2.0
"""A patient whom a full disk kept from being looked at is looked at again after this."""

FIRST_ECHO_S = 60.0
"""How long after the start the peers are first asked whether they hear us."""

FIRST_TIDY_S = 120.0
TIDY_S = 600.0
"""How long after the start, and how often, what retention allows is removed."""

MOST_ROUNDS = 30
"""Rounds of retention that follow one another at most."""

KEEP_ENDED = timedelta(days=7)
"""How long ended work is remembered: long after anything could still be told of it twice."""


class Schedule:
    """The clockwork of one process."""

    def __init__(
        self,
        config: Config,
        index: Index,
        workflow: Workflow,
        clock: Callable[[], datetime],
        fetching: Fetching | None = None,
        membership: Membership | None = None,
        takeover: Takeover | None = None,
        audit: Tell = untold,
    ) -> None:
        self._config = config
        self._index = index
        self._instances = InstanceBook(index)
        self._cases = CaseBook(index)
        self._choices = ProtocolChoices(index)
        self._echoing = Echoing(config, index, clock)
        self._membership = membership
        self._takeover = takeover
        self._somebody_ended = threading.Event()
        self._ticked_s = self._beaten_s = time.monotonic()
        self._retention = Retention(config, index, clock, audit=audit)
        self._notifier = Notifier(config, index, clock)
        self._workflow = workflow
        self._fetching = fetching
        self._clock = clock
        self._last_row = self._noted_row = 0
        self._due: dict[str, datetime] = {}
        self._scheduler = BackgroundScheduler(timezone=UTC)

    def start(self) -> None:
        """Begin to look and to start what is due."""
        self.resume()
        jobs = [(self._tick, TICK_S)]
        if self._membership is not None:
            jobs.append((self._beat, self._membership.beat_every_s))
        if self._membership is not None and self._takeover is not None:
            jobs.append((self._watch, self._membership.beat_every_s))
        if self._notifier.is_on:
            jobs.append((self._notify, NOTIFY_S))
        for job, seconds in jobs:
            self._scheduler.add_job(
                job,
                "interval",
                seconds=seconds,
                next_run_time=self._clock(),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        if self._config.node.echo_every_min:
            self._scheduler.add_job(
                self._echo,
                "interval",
                minutes=self._config.node.echo_every_min,
                next_run_time=self._clock() + timedelta(seconds=FIRST_ECHO_S),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        self._scheduler.add_job(
            self._tidy,
            "interval",
            seconds=TIDY_S,
            next_run_time=self._clock() + timedelta(seconds=FIRST_TIDY_S),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    def tick_age_s(self) -> float:
        """Return how long ago the schedule last came round, or got on with somebody's cases."""
        return time.monotonic() - self._ticked_s

    def beat_age_s(self) -> float:
        """Return how long ago the index last took a sign of life of this process."""
        return time.monotonic() - self._beaten_s

    def resume(self) -> None:
        """Take up where an earlier process stopped.

        Only what came since its last look is news: a changed configuration does not compute old
        cases again.
        """
        self._last_row = self._noted_row = self._instances.looked_row()
        self._due = dict.fromkeys(self._cases.patients_who_wait(), self._clock())

    def finish_removals(self) -> None:
        """Remove the files of what was forgotten, before they are taken for something received."""
        self._retention.finish_unfinished()

    def stop(self) -> None:
        """Stop after the job that is running."""
        self._echoing.stop()
        self._notifier.stop()
        self._retention.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _tick(self) -> None:
        try:
            self.look()
            self._workflow.start_what_is_due()
        except Exception:
            # the boundary of the scheduler's thread: logged, and tried again with the next tick
            LOGGER.exception("schedule.tick_failed")
        self._ticked_s = time.monotonic()

    def _beat(self) -> None:
        assert self._membership is not None  # noqa: S101 - else there is no such job
        try:
            self._membership.beat()
            self._beaten_s = time.monotonic()
        except Exception:
            LOGGER.exception("schedule.heartbeat_failed")

    def _is_leading(self) -> bool:
        """Tell whether what only one process is to do is for this one."""
        return self._membership is None or self._membership.is_first()

    def _notify(self) -> None:
        if not self._is_leading():
            return
        try:
            self._notifier.run()
        except Exception:
            LOGGER.exception("schedule.notify_failed")

    def _watch(self) -> None:
        assert self._takeover is not None  # noqa: S101 - else there is no such job
        try:
            if self._takeover.look():
                self._somebody_ended.set()
        except Exception:
            LOGGER.exception("schedule.watch_failed")

    def _echo(self) -> None:
        try:
            self._echoing.ask_all()
        except Exception:
            LOGGER.exception("schedule.echo_failed")

    def _tidy(self) -> None:
        if not self._is_leading():
            return
        try:
            for _ in range(MOST_ROUNDS):
                if not self._retention.run().is_more_due:
                    break
            self._workflow.forget_ended(self._clock() - KEEP_ENDED)
            if self._config.node.is_shared and self._membership is not None:
                is_alive = self._membership.is_alive
                Departed(self._config.node, self._instances, is_alive, self._clock).remove()
        except Exception:
            LOGGER.exception("schedule.tidy_failed")

    def look(self) -> None:
        """Bring the cases of every patient with news, or with a time that has come, up to date."""
        now = self._clock()
        if self._index.is_shared:
            self._join_the_others(now)
        changed, newest_row = self._instances.patient_keys_since(self._last_row)
        if self._fetching is not None:
            changed |= self._fetching.take_news()
        for patient_key in changed | self._cases.patients_to_look_at():
            self._due[patient_key] = now
        self._last_row = newest_row
        is_complete = True
        for patient_key in [key for key, at in self._due.items() if at <= now]:
            self._ticked_s = time.monotonic()
            try:
                with self._index.turn() as is_ours:
                    proposals = self._look_at(patient_key, now) if is_ours else None
            except Exception:
                # one patient's trouble (a full disk, say) must neither stop nor forget anybody
                LOGGER.exception("schedule.look_failed")
                self._due[patient_key] = now + timedelta(seconds=LOOK_AGAIN_S)
                is_complete = False
            else:
                if proposals is None:  # another process looks at somebody: with the next tick
                    is_complete = False
                    continue
                del self._due[patient_key]
                self._note_next_look(patient_key, proposals, now)
        if is_complete and newest_row > self._noted_row:
            self._instances.note_looked(newest_row)
            self._noted_row = newest_row

    def _join_the_others(self, now: datetime) -> None:
        """Leave out what another process has looked at, and wait in the stead of one that ended."""
        self._last_row = max(self._last_row, self._instances.looked_row())
        if self._somebody_ended.is_set():
            self._somebody_ended.clear()
            self._due |= dict.fromkeys(self._cases.patients_who_wait(), now)

    def _look_at(self, patient_key: str, now: datetime) -> tuple[CaseProposal, ...]:
        node = self._config.node
        group = self._instances.instance_group(
            patient_key,
            {p.name: p.quiet_s for p in self._config.peer if p.quiet_s is not None},
            node.quiet_s,
        )
        patience = Patience(incomplete_s=node.patience_s, mr_wait_h=node.mr_wait_h)
        fetching = self._fetching
        elsewhere = NOTHING_KNOWN if fetching is None else fetching.elsewhere(patient_key)
        drawn = [one.header.sop_instance_uid for one in group if one.header.modality == "RTSTRUCT"]
        chosen = self._choices.chosen_among(drawn)
        proposals = assemble(group, self._config.protocol, patience, now, elsewhere, chosen)
        jobs: dict[str, str] = {}
        for proposal in proposals:
            protocol = self._config.protocol_named(proposal.protocol_name)
            if protocol is None or proposal.waiting_for or proposal.rejection:
                continue
            # of the objects, not of the clock: computed again, a case gives the same bytes
            created = max(i.received_at for i in proposal.instances)
            root = str(node.data.resolve())
            job = case_job(
                proposal,
                protocol,
                self._config,
                root=root,
                created=created,
                with_view=self._config.web.enabled,
            )
            jobs[proposal.case_id] = job.model_dump_json()
        self._cases.observe(patient_key, proposals, jobs, now)
        if fetching is not None:
            fetching.want(patient_key, proposals)
        return proposals

    def _note_next_look(
        self, patient_key: str, proposals: tuple[CaseProposal, ...], now: datetime
    ) -> None:
        times = [p.next_look_at for p in proposals if p.next_look_at is not None]
        if times:
            soonest = now + timedelta(seconds=TICK_S)
            self._due[patient_key] = max(min(times), soonest)
