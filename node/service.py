"""The node as a whole: built from a configuration, started, stopped."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from node.answering.services import Answering
from node.audit.events import AuditEvent, Kind, Tell, untold
from node.audit.received import tell_of_cut
from node.audit.trail import trail_of
from node.case_job import software_version
from node.commitment.committing import Committing
from node.commitment.holding import held_results
from node.commitment.reports import ReportDesk
from node.computing import Computing, work_folder
from node.config import Config
from node.delivering import Delivering
from node.errors import NodeError
from node.fetching import Fetching
from node.index.case_labels import label_old_cases
from node.index.commitments import CommitmentBook
from node.index.deliveries import DeliveryBook
from node.index.instances import InstanceBook
from node.index.runs import RunBook
from node.index.standings import StandingBook
from node.membership import SERVE, membership_of
from node.monitoring.node_vitals import serve_vitals
from node.peer_line import PeerLines
from node.process_name import serve_name
from node.schedule import Schedule
from node.scp import StoreScp
from node.shared_folder import open_index
from node.storage import ObjectStore
from node.takeover import Takeover
from node.workflow import ONLY_PROCESS, Workflow

if TYPE_CHECKING:
    from node.web.server import WebServer

LOGGER = logging.getLogger(__name__)


class Node:
    """A receiving, computing and delivering node in this process, perhaps one of several.

    Args:
        config: What it does.
        clock: The time, aware.
    """

    def __init__(
        self, config: Config, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._config = config
        self._clock = clock
        data, is_shared = config.node.data, config.node.is_shared
        self._name = serve_name(config.node)
        self.web_port = 0
        """Where the page listens, once started; 0: nowhere."""
        self.index = open_index(config.node, self._name)
        label_old_cases(self.index)
        self._store = ObjectStore(
            data,
            int(config.node.min_free_mib * 1024 * 1024),
            min_free_share=config.node.min_free_percent / 100,
            owner=self._name.name if is_shared else "",
        )
        self._trail = trail_of(config, self.index, clock)
        audit = untold if self._trail is None else self._trail.tell
        self._membership = membership_of(config, self.index, self._name.name, SERVE, clock)
        leads = self._membership.is_first
        deliveries, commitments = DeliveryBook(self.index), CommitmentBook(self.index)
        reports = ReportDesk(config, commitments, clock)
        committing = Committing(config, commitments, reports, clock, partial(held_results, config))
        self._lines = PeerLines(config.node.ae_title, tls=config.tls)
        standings = StandingBook(self.index)
        delivering = Delivering(
            config, deliveries, standings, committing, self._lines, clock, audit
        )
        runs = RunBook(self.index)
        work = work_folder(config.node, self._name.name)
        computing = Computing(config, runs, clock, work, self._membership.works_elsewhere)
        self._workflow = Workflow(
            config,
            runs,
            deliveries,
            computing=computing if config.node.compute else None,
            delivering=delivering,
            clock=clock,
            process=self._name.name if is_shared else ONLY_PROCESS,
        )
        self._answering = Answering(config, self._store, self.index, clock, leads, audit)
        services = (reports.service(), *self._answering.services)
        name = self._name.name
        self._scp = StoreScp(
            config, self._store, self.index, clock, node_run=name, services=services, audit=audit
        )
        self._fetching = Fetching(config, self.index, self._scp, clock, leads, audit)
        takeover = Takeover(
            self._membership,
            self._workflow,
            InstanceBook(self.index),
            self._store,
            clock,
            on_cut=partial(tell_of_cut, self.index, audit),
        )
        self._schedule = Schedule(
            config,
            self.index,
            self._workflow,
            clock,
            self._fetching,
            self._membership,
            takeover if is_shared else None,
            audit,
        )
        self._web = self._page(clock, audit) if config.web.enabled else None

    def _page(self, clock: Callable[[], datetime], audit: Tell) -> "WebServer":
        # imports that a node without the page starts without
        from node.web.access.doors import check_way_in
        from node.web.app import make_app
        from node.web.desk import Desk
        from node.web.server import WebServer

        check_way_in(self._config.web, self.index)
        vitals = serve_vitals(self._scp, self._schedule, self._trail, clock)
        desk = Desk(self._config, self.index, clock, audit, vitals)
        return WebServer(make_app(desk), self._config.web)

    def start(self) -> int:
        """Recover what an earlier process left, then work; return the port that listens."""
        if self._trail is not None:
            self._trail.start()
        self._membership.beat()  # before anything of an earlier process of this name is touched
        self._schedule.finish_removals()
        self._scp.recover()
        self._workflow.launch()
        self._schedule.start()
        try:
            port = self._scp.start()
            self.web_port = 0 if self._web is None else self._web.start()
        except NodeError:
            self.stop()
            raise
        self._fetching.start()
        self._answering.start(self._scp.wait_until_filed)
        if self._trail is not None:
            self._trail.tell(AuditEvent(Kind.STARTED))
        LOGGER.info(
            "node.started",
            extra={
                "version": software_version(),
                "ae_title": self._config.node.ae_title,
                "host": self._config.node.host,
                "port": port,
            },
        )
        return port

    def stop(self) -> None:
        """Take no more associations, then stop; unfinished work goes on at the next start."""
        if self._web is not None:
            self._web.stop()
        self._answering.stop()
        self._fetching.stop()
        self._scp.stop()
        self._schedule.stop()
        self._lines.close()  # a slow peer, or a limited rate, would hold up the stop for hours
        self._workflow.stop()
        self._leave()
        if self._trail is not None:
            self._trail.tell(AuditEvent(Kind.STOPPED))
            self._trail.stop()
        self.index.close()
        self._name.release()
        LOGGER.info("node.stopped")

    def _leave(self) -> None:
        if not self._config.node.is_shared:
            return
        try:
            self._membership.leave()
        except Exception:
            LOGGER.exception("node.left_without_a_word")  # then the others wait for a while
