"""A process that only computes, for those that receive: `hilum worker`.

It delivers nothing, for peers know the hosts of those that receive; and it makes no cases. It needs
the data folder and PostgreSQL, nothing else. In the place of the page it answers supervisors.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps

from apscheduler.schedulers.background import BackgroundScheduler

from node.computing import Computing, work_folder
from node.config import Config
from node.errors import ConfigError, NodeError
from node.index.deliveries import DeliveryBook
from node.index.instances import InstanceBook
from node.index.runs import RunBook
from node.membership import WORKER, membership_of
from node.monitoring.node_vitals import worker_vitals
from node.process_name import worker_name
from node.schedule import TICK_S
from node.shared_folder import open_index
from node.takeover import Takeover
from node.web.desk import Desk
from node.web.monitoring import make_monitoring_app
from node.web.server import WebServer
from node.workflow import Workflow

LOGGER = logging.getLogger(__name__)


class Worker:
    """A computing process, one of several.

    Args:
        config: That of the processes which receive.
        clock: The time, aware.

    Attributes:
        name: Names this process.

    Raises:
        ConfigError: The database is not one that several processes can share.
        NodeError: The data folder or the database cannot be used.
    """

    def __init__(
        self, config: Config, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        require_shared(config)
        self._held = worker_name(config.node)
        self.name = self._held.name
        self._index = open_index(config.node, self._held)
        runs, work = RunBook(self._index), work_folder(config.node, self.name)
        self._membership = membership_of(config, self._index, self.name, WORKER, clock)
        self._workflow = Workflow(
            config,
            runs,
            DeliveryBook(self._index),
            computing=Computing(config, runs, clock, work, self._membership.works_elsewhere),
            delivering=None,
            clock=clock,
            process=self.name,
        )
        instances = InstanceBook(self._index)
        self._takeover = Takeover(self._membership, self._workflow, instances, None, clock)
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._ticked_s = self._beaten_s = time.monotonic()
        self.web_port = 0
        """Where supervisors are answered, once started; 0: nowhere."""
        self._web: WebServer | None = None
        if config.web.enabled:
            vitals = worker_vitals(
                lambda: time.monotonic() - self._ticked_s,
                lambda: time.monotonic() - self._beaten_s,
            )
            desk = Desk(config, self._index, clock, vitals=vitals)
            self._web = WebServer(make_monitoring_app(desk), config.web)

    def start(self) -> None:
        """Begin to compute."""
        self._membership.beat()
        self._workflow.launch()
        beat_s = self._membership.beat_every_s
        jobs: tuple[tuple[Callable[[], object], float], ...] = (
            (self._tick, TICK_S),
            (self._beat, beat_s),
            (self._takeover.look, beat_s),
        )
        for job, seconds in jobs:
            self._scheduler.add_job(
                _logging_trouble(job),
                "interval",
                seconds=seconds,
                next_run_time=datetime.now(UTC),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        self._scheduler.start()
        self._answer_supervisors()
        LOGGER.info("worker.started", extra={"worker": self.name})

    def _tick(self) -> None:
        try:
            self._workflow.start_what_is_due()
        finally:
            self._ticked_s = time.monotonic()

    def _beat(self) -> None:
        self._membership.beat()
        self._beaten_s = time.monotonic()

    def _answer_supervisors(self) -> None:
        """Listen where the page would, if nobody else does: on the machine of a serve it does."""
        if self._web is None:
            return
        try:
            self.web_port = self._web.start()
        except NodeError as error:
            LOGGER.warning("worker.not_watched", extra={"reason": error.with_hint})
            self._web = None

    def stop(self) -> None:
        """Stop computing; what is unfinished is taken up by others, or at the next start."""
        if self._web is not None:
            self._web.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        self._workflow.stop()
        _logging_trouble(self._membership.leave)()
        self._index.close()
        self._held.release()
        LOGGER.info("worker.stopped", extra={"worker": self.name})


def require_shared(config: Config) -> None:
    """Do nothing if workers can share the work of this configuration.

    Raises:
        ConfigError: They cannot.
    """
    if not config.node.is_shared:
        problem = (
            "node.database: workers need PostgreSQL, which several processes can share; "
            "with SQLite `hilum serve` computes by itself"
        )
        raise ConfigError([problem])


def _logging_trouble(job: Callable[[], object]) -> Callable[[], None]:
    """Return a job that ends in the log whatever happens: it comes again."""

    @wraps(job)
    def run() -> None:
        try:
            job()
        except Exception:
            LOGGER.exception("worker.job_failed")

    return run
