"""A case's life as durable work: what was begun is finished, once, after any crash.

One DBOS workflow computes a revision, one delivers a result set to a peer; the ids of the workflows
are those of the revision and the delivery, so that starting one twice is harmless. *When* anything
begins is decided in `schedule`, what a case is in `assembly`.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import astuple
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID

from node.compute_job import (
    OUTCOME_FILE,
    OUTPUT_FOLDER,
    RESULTS_FOLDER,
    Job,
    Outcome,
    summary_lines,
)
from node.config import Config
from node.delivering import Delivering
from node.disk import sync_folder
from node.errors import ComputeError, StorageFullError
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.runs import RevisionKey, RunBook
from node.outputs import output_of
from node.pauses import pause
from node.supervise import ChildProcesses

LOGGER = logging.getLogger(__name__)

WORK_FORMAT = "1"
"""Version of the durable records; raised only when recorded work cannot be taken up any more."""

COMPUTE_QUEUE = "compute"

POLL_S = 0.5
"""How often DBOS looks into a queue."""

MOST_STARTS = 50
"""A revision begun this often without an end is suspected of bringing the node down."""

WORK_FOLDER = "work"

_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
"""States of a workflow that DBOS does not take up again."""

OUTLAST_PAUSE_S = 5.0
"""Pause after the index could not record how an attempt ended."""


class Workflow:
    """The durable work of one process.

    Args:
        config: Limits, peers, waiting times.
        runs: The revisions of the index.
        deliveries: What is owed to peers.
        delivering: Brings it to them.
        clock: The time, aware.
    """

    def __init__(
        self,
        config: Config,
        runs: RunBook,
        deliveries: DeliveryBook,
        delivering: Delivering,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._runs = runs
        self._deliveries = deliveries
        self._clock = clock
        self._delivering = delivering
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
            _outlast(lambda: self._delivering.attempt(DeliveryKey(*key)), self._stopping)

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
                self._delivering.give_up(owed, "the peer is no longer configured")
                continue
            name = f"deliver.{owed.case_id}.{owed.revision}.{owed.peer}.{owed.attempt}"
            self._enqueue(name, _delivery_queue(owed.peer), self._deliver, *astuple(owed))

    def _enqueue(
        self, workflow_id: str, queue: str, function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Begin a workflow, once in this process.

        What is due although its workflow has ended was broken off by an exception: a stop, or a
        full disk, before the index could be told. It begins anew under another name. One that an
        earlier process left unfinished is DBOS's to go on with, and is looked at again: it may end
        at once, for the exception may be all that is left of it.
        """
        if workflow_id in self._started:
            return
        name, broken_off = workflow_id, 0
        while found := DBOS.get_workflow_status(name):
            if found.status not in _ENDED:
                return
            broken_off += 1
            name = f"{workflow_id}.{broken_off}"
        with SetWorkflowID(name):
            DBOS.enqueue_workflow(queue, function, *arguments)
        self._started.add(workflow_id)

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
            reason = error.with_hint
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
            key,
            reason,
            now + pause(self._config.node, key.attempt),
            now,
            most_failures=most_failures,
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
                    uid: (str((out / name).relative_to(self._config.node.data)), output_of(name))
                    for uid, name in outcome.results.items()
                },
                outcome.summary,
                job.destinations,
                self._patience(job),
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

    def _note_step(self, key: RevisionKey, step: str) -> None:
        LOGGER.info("case.step", extra={"case_id": key.case_id, "step": step})
        try:
            self._runs.note_step(key, step, self._clock())
        except Exception:
            # progress is for people: a case does not fail because nobody can watch it
            LOGGER.exception("case.step_not_noted", extra={"case_id": key.case_id})

    def _patience(self, job: Job) -> timedelta:
        """Return how long the delivery of a result may take."""
        hours = job.delivery_give_up_h
        return timedelta(hours=self._config.node.delivery_give_up_h if hours is None else hours)

    def _outcome(self, key: RevisionKey, job: Job) -> Outcome:
        """Return how the revision ended, computing it unless its whole result set is there."""
        final = self._result_folder(key)
        if not final.exists():
            folder = self._folder(WORK_FOLDER) / f"{key.case_id}.{key.revision}"
            outcome = self._children.run(
                job,
                folder,
                timeout_s=self._config.node.compute_timeout_s,
                on_step=lambda step: self._note_step(key, step),
            )
            if outcome.kind != "done":
                shutil.rmtree(folder, ignore_errors=True)
                return outcome
            final.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(final)
            for changed in (final.parent, final.parent.parent):
                sync_folder(changed)
        return Outcome.model_validate_json((final / OUTCOME_FILE).read_text(encoding="utf-8"))

    # --- places --------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self._config.node.data / name

    def _result_folder(self, key: RevisionKey) -> Path:
        return self._folder(RESULTS_FOLDER) / key.case_id / str(key.revision)


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
