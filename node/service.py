"""The node as a whole: built from a configuration, started, stopped."""

import fcntl
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO

from node.answering.services import Answering
from node.case_job import software_version
from node.commitment.committing import Committing
from node.commitment.holding import held_results
from node.commitment.reports import ReportDesk
from node.config import Config
from node.delivering import Delivering
from node.errors import NodeError
from node.fetching import Fetching
from node.index import Index
from node.index.commitments import CommitmentBook
from node.index.deliveries import DeliveryBook
from node.index.runs import RunBook
from node.index.standings import StandingBook
from node.peer_line import PeerLines
from node.schedule import Schedule
from node.scp import StoreScp
from node.storage import ObjectStore
from node.web.app import make_app
from node.web.desk import Desk
from node.web.server import WebServer
from node.workflow import Workflow

LOGGER = logging.getLogger(__name__)

LOCK_FILE = "node.lock"


class Node:
    """A receiving, computing and delivering node in this process.

    Args:
        config: What it does.
        clock: The time, aware.
    """

    def __init__(
        self, config: Config, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._config = config
        self._clock = clock
        data = config.node.data
        try:
            data.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(data / LOCK_FILE)
        except OSError as error:
            raise NodeError(
                f"the data folder {data} cannot be used: {error.strerror}",
                hint="name another with node.data, or give this user the right to write there",
            ) from error
        self.web_port = 0
        """Where the page listens, once started; 0: nowhere."""
        self.index = Index(config.node.database_url)
        self.index.create()
        self._store = ObjectStore(
            data,
            int(config.node.min_free_mib * 1024 * 1024),
            min_free_share=config.node.min_free_percent / 100,
        )
        deliveries, commitments = DeliveryBook(self.index), CommitmentBook(self.index)
        reports = ReportDesk(config, commitments, clock)
        committing = Committing(config, commitments, reports, clock, partial(held_results, config))
        self._lines = PeerLines(config.node.ae_title, tls=config.tls)
        standings = StandingBook(self.index)
        delivering = Delivering(config, deliveries, standings, committing, self._lines, clock)
        self._workflow = Workflow(config, RunBook(self.index), deliveries, delivering, clock=clock)
        self._answering = Answering(config, self._store, self.index, clock)
        services = (reports.service(), *self._answering.services)
        self._scp = StoreScp(config, self._store, self.index, clock, services=services)
        self._fetching = Fetching(config, self.index, self._scp, clock)
        self._schedule = Schedule(config, self.index, self._workflow, clock, self._fetching)
        self._web: WebServer | None = None
        if config.web.enabled:
            self._web = WebServer(make_app(Desk(config, self.index, clock)), config.web)

    def start(self) -> int:
        """Recover what an earlier process left, then work; return the port that listens."""
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
        self.index.close()
        self._lock.close()
        LOGGER.info("node.stopped")


def _locked(path: Path) -> IO[str]:
    """Return the open lock file; two nodes in one folder would each compute the other's cases."""
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise NodeError(
            f"another node already works in {path.parent}",
            hint="stop it, or give this node another `node.data` folder",
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
