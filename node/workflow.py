"""A case's life as durable work: what was begun is finished, once, after any crash.

One DBOS workflow computes a revision, one delivers a result set to a peer; the ids of the workflows
are those of the revision and the delivery, so that starting one twice is harmless. *When* anything
begins is decided in `schedule`, what a case is in `assembly`.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID

from node.compute_job import OUTCOME_FILE, OUTPUT_FOLDER, Job, Outcome, summary_lines
from node.config import Config, Peer
from node.delivery import InstanceDelivery, InstanceOutcome, send_instances
from node.disk import sync_folder
from node.errors import (
    ComputeError,
    DeliveryError,
    StorageFullError,
    UnfitObjectError,
    UnreadableObjectError,
)
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.runs import RevisionKey, RunBook
from node.index.states import DeliveryState
from node.supervise import ChildProcesses

LOGGER = logging.getLogger(__name__)

WORK_FORMAT = "1"
"""Version of the durable records; raised only when recorded work cannot be taken up any more."""

COMPUTE_QUEUE = "compute"

POLL_S = 0.5
"""How often DBOS looks into a queue."""

MOST_STARTS = 50
"""A revision begun this often without an end is suspected of bringing the node down."""

RESULTS_FOLDER = "results"
WORK_FOLDER = "work"

MOST_DOUBLINGS = 20
"""Pauses double no further: the cap has long been reached."""

OUTLAST_PAUSE_S = 5.0
"""Pause after the index could not record how an attempt ended."""


class Workflow:
    """The durable work of one process.

    Args:
        config: Limits, peers, waiting times.
        runs: The revisions of the index.
        deliveries: What is owed to peers.
        clock: The time, aware.
    """

    def __init__(
        self,
        config: Config,
        runs: RunBook,
        deliveries: DeliveryBook,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._runs = runs
        self._deliveries = deliveries
        self._clock = clock
        self._children = ChildProcesses()
        self._stopping = threading.Event()
        self._started: set[str] = set()
        self._compute, self._deliver = self._workflows()

    def launch(self) -> None:
        """Begin to work, first on what an earlier process left unfinished."""
        shutil.rmtree(self._folder(WORK_FOLDER), ignore_errors=True)
        database = self._config.node.database or (
            f"sqlite:///{(self._config.node.data / 'workflow.sqlite').resolve()}"
        )
        DBOS(
            config={
                "name": "hilum",
                "system_database_url": database,
                "application_version": WORK_FORMAT,
                "executor_id": "local",
                "log_level": "WARNING",
            }
        )
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
        for peer in self._config.peer:
            DBOS.register_queue(
                _delivery_queue(peer.name),
                global_concurrency=1,
                polling_interval_sec=POLL_S,
                on_conflict="always_update",
            )

    def stop(self) -> None:
        """Stop working; what is unfinished goes on at the next launch."""
        self._stopping.set()
        self._children.stop()
        DBOS.destroy()

    def _workflows(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the workflows of one attempt each: recorded when begun, begun again after a crash.

        They are short: what must wait is put off in the index, so that no queue stands still behind
        it and a stop need not wait for it.
        """

        @DBOS.step(name="compute")
        def compute(*key: Any) -> None:
            _outlast(lambda: self._compute_attempt(RevisionKey(*key)), self._stopping)

        @DBOS.step(name="deliver")
        def deliver(*key: Any) -> None:
            _outlast(lambda: self._deliver_attempt(DeliveryKey(*key)), self._stopping)

        @DBOS.workflow(name="compute")
        def compute_workflow(*key: Any) -> None:
            compute(*key)

        @DBOS.workflow(name="deliver")
        def deliver_workflow(*key: Any) -> None:
            deliver(*key)

        return compute_workflow, deliver_workflow

    def start_what_is_due(self) -> None:
        """Hand what is due to its queue; to do so twice is harmless."""
        now = self._clock()
        for revision in self._runs.due(now):
            name = f"compute.{revision.case_id}.{revision.revision}.{revision.attempt}"
            self._enqueue(name, COMPUTE_QUEUE, self._compute, *astuple(revision))
        for owed in self._deliveries.due(now):
            if self._config.peer_named(owed.peer) is None:
                self._settle(owed, DeliveryState.UNDELIVERED, "the peer is no longer configured")
                continue
            name = f"deliver.{owed.case_id}.{owed.revision}.{owed.peer}.{owed.attempt}"
            self._enqueue(name, _delivery_queue(owed.peer), self._deliver, *astuple(owed))

    def _enqueue(
        self, workflow_id: str, queue: str, function: Callable[..., Any], *arguments: Any
    ) -> None:
        if workflow_id in self._started:
            return
        with SetWorkflowID(workflow_id):
            DBOS.enqueue_workflow(queue, function, *arguments)
        self._started.add(workflow_id)

    def _pause(self, attempt: int) -> timedelta:
        """Return how long to wait after an attempt: twice as long each time, up to a cap."""
        node = self._config.node
        pause_s = node.delivery_retry_s * 2.0 ** min(attempt, MOST_DOUBLINGS)
        return timedelta(seconds=min(pause_s, node.delivery_retry_cap_s))

    # --- computing -----------------------------------------------------------------------------

    def _compute_attempt(self, key: RevisionKey) -> None:
        """Compute a revision once; whatever goes wrong, it is settled or comes again."""
        begun = self._runs.begin(key, self._clock())
        if begun is None:
            return
        if begun.times > MOST_STARTS:
            self._runs.fail(key, f"begun {begun.times} times without an end", self._clock())
            return
        most_failures = None
        try:
            self._conclude(key, Job.model_validate_json(begun.job))
        except ComputeError as error:
            if not self._children.is_stopped:  # a stop is not the case's fault
                most_failures = self._config.node.compute_attempts
            reason = f"{error} ({error.hint})" if error.hint else str(error)
        except (OSError, StorageFullError) as error:
            reason = f"the machine is in trouble: {error}"
        except Exception as error:
            LOGGER.exception("case.interrupted", extra={"case_id": key.case_id})
            most_failures = self._config.node.compute_attempts
            reason = f"internal error {type(error).__name__}"
        else:
            return
        LOGGER.warning("case.put_off", extra={"case_id": key.case_id, "reason": reason})
        now = self._clock()
        self._runs.put_off(
            key, reason, now + self._pause(key.attempt), now, most_failures=most_failures
        )

    def _conclude(self, key: RevisionKey, job: Job) -> None:
        """Compute a revision and record how it ended.

        Raises:
            ComputeError: The child left no outcome.
        """
        outcome = self._outcome(key, job)
        if outcome.kind == "done":
            out = self._result_folder(key) / OUTPUT_FOLDER
            self._runs.adopt(
                key,
                {
                    uid: str((out / name).relative_to(self._config.node.data))
                    for uid, name in outcome.results.items()
                },
                outcome.summary,
                job.destinations,
                timedelta(hours=self._config.node.delivery_give_up_h),
                self._clock(),
            )
        elif outcome.kind == "rejected":
            self._runs.reject(key, outcome.reasons, self._clock())
        else:
            self._runs.fail(key, "; ".join(outcome.reasons), self._clock())
        LOGGER.info(
            "case.finished",
            extra={
                "case_id": key.case_id,
                "revision": key.revision,
                "outcome": outcome.kind,
                "objects": len(outcome.results),
                "verdicts": summary_lines(outcome.summary) or list(outcome.reasons),
            },
        )

    def _outcome(self, key: RevisionKey, job: Job) -> Outcome:
        """Return how the revision ended, computing it unless its whole result set is there."""
        final = self._result_folder(key)
        if not final.exists():
            folder = self._folder(WORK_FOLDER) / f"{key.case_id}.{key.revision}"
            outcome = self._children.run(
                job,
                folder,
                timeout_s=self._config.node.compute_timeout_s,
                on_step=lambda step: LOGGER.info(
                    "case.step", extra={"case_id": key.case_id, "step": step}
                ),
            )
            if outcome.kind != "done":
                shutil.rmtree(folder, ignore_errors=True)
                return outcome
            final.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(final)
            for changed in (final.parent, final.parent.parent):
                sync_folder(changed)
        return Outcome.model_validate_json((final / OUTCOME_FILE).read_text(encoding="utf-8"))

    # --- delivering ----------------------------------------------------------------------------

    def _deliver_attempt(self, key: DeliveryKey) -> None:
        """Send once what a peer is owed; whatever goes wrong, it is settled or comes again."""
        owed = self._deliveries.owed(key)
        peer = self._config.peer_named(key.peer)
        if owed is None or peer is None:
            return
        paths, give_up_at = owed
        try:
            reason = self._send(key, peer, list(paths.values())) if paths else ""
        except DeliveryError as error:
            reason = f"{error} ({error.hint})" if error.hint else str(error)
            if not error.is_retryable:
                self._settle(key, DeliveryState.UNDELIVERED, reason)
                return
        except (UnreadableObjectError, UnfitObjectError) as error:
            reason = f"a result file cannot be sent: {error} (`hilum cases retry` computes it anew)"
            self._settle(key, DeliveryState.UNDELIVERED, reason)
            return
        except Exception as error:
            LOGGER.exception("delivery.interrupted", extra={"case_id": key.case_id})
            reason = f"internal error {type(error).__name__}"
        left = self._deliveries.owed(key)
        if left is None:
            return
        if not left[0]:
            refusals = self._deliveries.refusals(key)
            state = DeliveryState.UNDELIVERED if refusals else DeliveryState.DELIVERED
            self._settle(key, state, "; ".join(refusals))
        elif self._clock() >= give_up_at:
            self._settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        else:
            now = self._clock()
            self._deliveries.put_off(key, reason, now + self._pause(key.attempt), now)
            LOGGER.warning(
                "delivery.put_off",
                extra={"case_id": key.case_id, "peer": key.peer, "reason": reason},
            )

    def _send(self, key: DeliveryKey, peer: Peer, paths: Sequence[str]) -> str:
        """Send files, keep every answer; return why some must be sent again, or an empty text.

        Raises:
            DeliveryError: No association came about.
        """
        answers = send_instances(
            peer,
            self._config.node.ae_title,
            [self._config.node.data / path for path in paths],
            timeout_s=self._config.node.network_timeout_s,
            on_result=lambda answer: self._record(key, answer),
            tls=self._config.tls,
        )
        return next((a.reason for a in answers if a.outcome in _UNANSWERED), "")

    def _record(self, key: DeliveryKey, answer: InstanceDelivery) -> None:
        self._deliveries.record_receipt(
            key,
            answer.sop_instance_uid,
            str(answer.outcome),
            answer.status,
            answer.reason,
            self._clock(),
        )

    def _settle(self, key: DeliveryKey, state: DeliveryState, reason: str) -> None:
        self._deliveries.settle(key, state, reason, self._clock())
        LOGGER.info(
            "delivery.finished",
            extra={
                "case_id": key.case_id,
                "revision": key.revision,
                "peer": key.peer,
                "outcome": str(state),
                "reason": reason,
            },
        )

    # --- places --------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self._config.node.data / name

    def _result_folder(self, key: RevisionKey) -> Path:
        return self._folder(RESULTS_FOLDER) / key.case_id / str(key.revision)


_UNANSWERED = (InstanceOutcome.NOT_ATTEMPTED, InstanceOutcome.REFUSED_TRANSIENT)


def _delivery_queue(peer: str) -> str:
    return f"deliver.{peer}"


def _outlast(attempt: Callable[[], None], stopping: threading.Event) -> None:
    """Repeat an attempt whose end could not be recorded, until it can be or the node stops.

    An exception that left the workflow would end the work for good.
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
