"""When something happens: looking at what arrived, starting what is due, the heartbeat.

APScheduler decides the times; what a case is decides `assembly`, that work is finished `workflow`.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from node.assembly import CaseProposal, Patience, assemble
from node.case_job import case_job
from node.completeness import NOTHING_KNOWN
from node.config import Config
from node.fetching import Fetching
from node.index import Index
from node.index.cases import CaseBook
from node.index.heartbeats import Heartbeats
from node.index.instances import InstanceBook
from node.workflow import Workflow

LOGGER = logging.getLogger(__name__)

TICK_S = 1.0
"""How often new objects and due times are looked for."""

LOOK_AGAIN_S = 2.0
"""A patient whom a full disk kept from being looked at is looked at again after this."""

HEARTBEAT_S = 10.0
"""How often this process says that it lives."""


class Schedule:
    """The clockwork of one process."""

    def __init__(
        self,
        config: Config,
        index: Index,
        workflow: Workflow,
        clock: Callable[[], datetime],
        fetching: Fetching | None = None,
    ) -> None:
        self._config = config
        self._instances = InstanceBook(index)
        self._cases = CaseBook(index)
        self._heartbeats = Heartbeats(index)
        self._workflow = workflow
        self._fetching = fetching
        self._clock = clock
        self._last_row = self._noted_row = 0
        self._due: dict[str, datetime] = {}
        self._scheduler = BackgroundScheduler(timezone=UTC)

    def start(self) -> None:
        """Begin to look and to start what is due."""
        self.resume()
        for job, seconds in ((self._tick, TICK_S), (self._beat, HEARTBEAT_S)):
            self._scheduler.add_job(
                job,
                "interval",
                seconds=seconds,
                next_run_time=self._clock(),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        self._scheduler.start()

    def resume(self) -> None:
        """Take up where an earlier process stopped.

        Only what came since its last look is news: a changed configuration does not compute old
        cases again.
        """
        self._last_row = self._noted_row = self._instances.looked_row()
        self._due = dict.fromkeys(self._cases.patients_who_wait(), self._clock())

    def stop(self) -> None:
        """Stop after the job that is running."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _tick(self) -> None:
        try:
            self.look()
            self._workflow.start_what_is_due()
        except Exception:
            # the boundary of the scheduler's thread: logged, and tried again with the next tick
            LOGGER.exception("schedule.tick_failed")

    def _beat(self) -> None:
        try:
            self._heartbeats.beat(self._clock())
        except Exception:
            LOGGER.exception("schedule.heartbeat_failed")

    def look(self) -> None:
        """Bring the cases of every patient with news, or with a time that has come, up to date."""
        now = self._clock()
        changed, newest_row = self._instances.patient_keys_since(self._last_row)
        if self._fetching is not None:
            changed |= self._fetching.take_news()
        for patient_key in changed | self._cases.patients_to_look_at():
            self._due[patient_key] = now
        self._last_row = newest_row
        is_complete = True
        for patient_key in [key for key, at in self._due.items() if at <= now]:
            try:
                proposals = self._look_at(patient_key, now)
            except Exception:
                # one patient's trouble (a full disk, say) must neither stop nor forget anybody
                LOGGER.exception("schedule.look_failed")
                self._due[patient_key] = now + timedelta(seconds=LOOK_AGAIN_S)
                is_complete = False
            else:
                del self._due[patient_key]
                self._note_next_look(patient_key, proposals, now)
        if is_complete and newest_row > self._noted_row:
            self._instances.note_looked(newest_row)
            self._noted_row = newest_row

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
        proposals = assemble(group, self._config.protocol, patience, now, elsewhere)
        jobs: dict[str, str] = {}
        for proposal in proposals:
            protocol = self._config.protocol_named(proposal.protocol_name)
            if protocol is None or proposal.waiting_for or proposal.rejection:
                continue
            # of the objects, not of the clock: computed again, a case gives the same bytes
            created = max(i.received_at for i in proposal.instances)
            root = str(node.data.resolve())
            job = case_job(proposal, protocol, self._config, root=root, created=created)
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
