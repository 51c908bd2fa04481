"""A case's life as durable work: what was begun is finished, once, after any crash.

One DBOS workflow computes a revision, one delivers a result set to a peer; the ids of the workflows
are those of the revision and the delivery, so that starting one twice is harmless, in however many
processes. *When* anything begins is decided in `schedule`, what a case is in `assembly`.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import astuple
from datetime import datetime
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from node.computing import Computing
from node.config import Config
from node.delivering import Delivering
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.runs import RevisionKey, RunBook

LOGGER = logging.getLogger(__name__)

WORK_FORMAT = "1"
"""Version of the durable records; raised only when recorded work cannot be taken up any more."""

ONLY_PROCESS = "local"
"""Names the process towards DBOS where there is only one."""

COMPUTE_QUEUE = "compute"

POLL_S = 0.5
"""How often DBOS looks into a queue."""

CONNECTIONS = 5
"""How many connections to PostgreSQL DBOS keeps in one process."""

ENQUEUED_S = 30.0
FOUND_S = 5.0
"""How long work that was enqueued here, or found to be begun, is believed to be under way, unless
it is done before: then it is looked whether it was broken off."""

STOPPING_S = 10
"""How long a stop waits until what was broken off is recorded, where others share the work."""

_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
"""States of a workflow that DBOS does not take up again."""

OUTLAST_PAUSE_S = 5.0
"""Pause after the index could not record how an attempt ended."""


class Workflow:
    """The durable work of one process.

    Args:
        config: Peers, the database.
        runs: The revisions of the index.
        deliveries: What is owed to peers.
        computing: Computes a revision; None: not in this process.
        delivering: Brings results to peers; None: not in this process.
        clock: The time, aware.
        process: Names this process towards DBOS; the same after a restart.
    """

    def __init__(
        self,
        config: Config,
        runs: RunBook,
        deliveries: DeliveryBook,
        *,
        computing: Computing | None,
        delivering: Delivering | None,
        clock: Callable[[], datetime],
        process: str = ONLY_PROCESS,
    ) -> None:
        self._config = config
        self._runs = runs
        self._deliveries = deliveries
        self._clock = clock
        self._computing = computing
        self._delivering = delivering
        self._process = process
        self._stopping = threading.Event()
        self._look_at_s: dict[str, float] = {}
        """When to look again at what is under way and still due (monotonic time)."""
        self._compute, self._deliver = self._workflows()

    def launch(self) -> None:
        """Begin to work, first on what an earlier process of this name left unfinished."""
        if self._computing is not None:
            self._computing.clear()
        DBOS(config=self._engine())
        queues = [_delivery_queue(peer.name) for peer in self._config.peer]
        listened = [] if self._delivering is None else list(queues)
        if self._computing is not None:
            listened.append(COMPUTE_QUEUE)
        DBOS.listen_queues(listened)
        DBOS.launch()
        # its own handler would write past our formatter and its net for identifiers
        engine_logger = logging.getLogger("dbos")
        engine_logger.handlers.clear()
        engine_logger.propagate = True
        DBOS.register_queue(
            COMPUTE_QUEUE,
            worker_concurrency=1,
            polling_interval_sec=POLL_S,
            on_conflict="always_update",
        )
        for queue in queues:
            DBOS.register_queue(
                queue,
                global_concurrency=1,
                polling_interval_sec=POLL_S,
                on_conflict="always_update",
            )

    def _engine(self) -> DBOSConfig:
        node = self._config.node
        local = f"sqlite:///{(node.data / 'workflow.sqlite').resolve()}"
        config: DBOSConfig = {
            "name": "hilum",
            "system_database_url": local if node.database is None else node.database_url,
            "application_version": WORK_FORMAT,
            "executor_id": self._process,
            "log_level": "WARNING",
        }
        if node.is_shared:
            config["sys_db_pool_size"] = CONNECTIONS
            config["sys_db_idle_transaction_timeout_sec"] = node.heartbeat_limit_s
        return config

    def stop(self) -> None:
        """Stop working; what is unfinished goes on at the next launch."""
        self._stopping.set()
        if self._computing is not None:
            self._computing.stop()
        # others would wait for a sign of life before they took up what is not recorded as ended
        wait_s = STOPPING_S if self._config.node.is_shared else 0
        DBOS.destroy(workflow_completion_timeout_sec=wait_s)

    def forget_ended(self, before: datetime, most: int = 1000) -> int:
        """Forget workflows that ended before a time, a bounded number; return how many."""
        ended = DBOS.list_workflows(
            status=list(_ENDED),
            completed_before=before.isoformat(),
            limit=most,
            load_input=False,
            load_output=False,
        )
        if ended:
            DBOS.delete_workflows([one.workflow_id for one in ended])
        return len(ended)

    def _workflows(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the workflows of one attempt each: recorded when begun, begun again after a crash.

        They are short: what must wait is put off in the index, so that no queue stands still behind
        it and a stop need not wait for it.
        """

        @DBOS.step(name="compute")
        def compute(*key: Any) -> None:
            assert self._computing is not None  # noqa: S101 - else its queue is not listened to
            attempt = self._computing.attempt
            _outlast(lambda: attempt(RevisionKey(*key)), self._stopping)

        @DBOS.step(name="deliver")
        def deliver(*key: Any) -> None:
            assert self._delivering is not None  # noqa: S101 - likewise
            attempt = self._delivering.attempt
            _outlast(lambda: attempt(DeliveryKey(*key)), self._stopping)

        @DBOS.workflow(name="compute")
        def compute_workflow(*key: Any) -> None:
            compute(*key)

        @DBOS.workflow(name="deliver")
        def deliver_workflow(*key: Any) -> None:
            deliver(*key)

        return compute_workflow, deliver_workflow

    # --- what is due ---------------------------------------------------------------------------

    def start_what_is_due(self) -> None:
        """Hand what is due to its queue; to do so twice is harmless."""
        now = self._clock()
        due: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...]]] = {}
        for revision in self._runs.due(now):
            name = f"compute.{revision.case_id}.{revision.revision}.{revision.attempt}"
            due[name] = (COMPUTE_QUEUE, self._compute, astuple(revision))
        delivering = self._delivering
        for owed in [] if delivering is None else self._deliveries.due(now):
            if delivering is not None and self._config.peer_named(owed.peer) is None:
                delivering.give_up(owed, "the peer is no longer configured")
                continue
            name = f"deliver.{owed.case_id}.{owed.revision}.{owed.peer}.{owed.attempt}"
            due[name] = (_delivery_queue(owed.peer), self._deliver, astuple(owed))
        self._look_at_s = {name: at for name, at in self._look_at_s.items() if name in due}
        for name, (queue, function, arguments) in due.items():
            self._enqueue(name, queue, function, *arguments)

    def _enqueue(
        self, workflow_id: str, queue: str, function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Begin a workflow, unless it was begun.

        What is due although its workflow has ended was broken off by an exception: a stop, or a
        full disk, before the index could be told. It begins anew under another name. One that a
        process left unfinished is DBOS's to go on with, and is looked at again: it may end
        at once, for the exception may be all that is left of it.
        """
        now_s = time.monotonic()
        if now_s < self._look_at_s.get(workflow_id, now_s):
            return
        name, broken_off = workflow_id, 0
        while found := DBOS.get_workflow_status(name):
            if found.status not in _ENDED:
                self._look_at_s[workflow_id] = now_s + FOUND_S
                return
            broken_off += 1
            name = f"{workflow_id}.{broken_off}"
        with SetWorkflowID(name):
            DBOS.enqueue_workflow(queue, function, *arguments)
        self._look_at_s[workflow_id] = now_s + ENQUEUED_S

    # --- other processes -----------------------------------------------------------------------

    def workers(self) -> set[str]:
        """Return the processes that began work which has not ended, this one excepted."""
        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {one.executor_id for one in found if one.executor_id} - {self._process}

    def take_over(self, processes: Collection[str]) -> int:
        """Give what some processes began back to its queues; return how much that was.

        What they do of it all the same is not believed: see `RevisionKey` and `DeliveryKey`.
        """
        return len(DBOS._recover_pending_workflows(sorted(processes)))


def _delivery_queue(peer: str) -> str:
    return f"deliver.{peer}"


def _outlast(attempt: Callable[[], None], stopping: threading.Event) -> None:
    """Repeat an attempt whose end could not be recorded, until it can be or the node stops.

    An exception that leaves the workflow ends it for DBOS; the next launch begins it anew.
    """
    while True:
        try:
            attempt()
        except Exception:
            LOGGER.exception("workflow.not_recorded")
            if stopping.wait(OUTLAST_PAUSE_S):
                raise
        else:
            return
