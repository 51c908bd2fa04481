"""A case's life as durable work: what was begun is finished, once, after any crash.

One DBOS workflow computes a revision, one delivers a result set to a peer; the ids of the workflows
are those of the revision and the delivery, so that starting one twice is harmless. *When* anything
begins is decided in `schedule`, what a case is in `assembly`.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID

from node.compute_job import OUTCOME_FILE, OUTPUT_FOLDER, Job, Outcome, summary_lines
from node.config import Config, Peer
from node.delivery import InstanceDelivery, InstanceOutcome, send_instances
from node.errors import ComputeError, DeliveryError, UnfitObjectError, UnreadableObjectError
from node.index.cases import CaseBook, RevisionKey
from node.index.deliveries import DeliveryBook, DeliveryKey
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

_SETTLED = "settled"
_AGAIN = "again"


class Workflow:
    """The durable work of one process.

    Args:
        config: Limits, peers, waiting times.
        cases: The cases of the index.
        deliveries: What is owed to peers.
        clock: The time, aware.
        on_settled: Is called when a case or delivery came to an end, with the case's patient key
            where it is known.
    """

    def __init__(
        self,
        config: Config,
        cases: CaseBook,
        deliveries: DeliveryBook,
        *,
        clock: Callable[[], datetime],
        on_settled: Callable[[str], None],
    ) -> None:
        self._config = config
        self._cases = cases
        self._deliveries = deliveries
        self._clock = clock
        self._on_settled = on_settled
        self._children = ChildProcesses()
        self._started: set[str] = set()
        self._compute: Callable[..., Any] | None = None
        self._hand_over: Callable[..., Any] | None = None

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
        self._define()
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
        self._children.stop()
        DBOS.destroy()

    def start_what_is_due(self) -> None:
        """Hand ready revisions and pending deliveries to their queues; repeats are harmless."""
        for revision in self._cases.ready_revisions():
            self._enqueue(
                f"compute.{revision.case_id}.{revision.revision}",
                COMPUTE_QUEUE,
                self._compute,
                revision.case_id,
                revision.revision,
            )
        for owed in self._deliveries.pending():
            if self._config.peer_named(owed.peer) is None:
                self._settle(owed, DeliveryState.UNDELIVERED, "the peer is no longer configured")
                continue
            self._enqueue(
                f"deliver.{owed.case_id}.{owed.revision}.{owed.peer}.{owed.run}",
                _delivery_queue(owed.peer),
                self._hand_over,
                owed.case_id,
                owed.revision,
                owed.peer,
                owed.run,
            )

    def _enqueue(
        self, workflow_id: str, queue: str, function: Callable[..., Any] | None, *arguments: Any
    ) -> None:
        if workflow_id in self._started or function is None:
            return
        with SetWorkflowID(workflow_id):
            DBOS.enqueue_workflow(queue, function, *arguments)
        self._started.add(workflow_id)

    def _define(self) -> None:
        node = self._config.node

        def pauses() -> Iterator[float]:
            wait_s = node.delivery_retry_s
            while True:
                yield wait_s
                wait_s = min(2 * wait_s, node.delivery_retry_cap_s)

        @DBOS.step(name="compute_once")
        def compute_once(case_id: str, revision: int) -> str:
            return self._compute_once(RevisionKey(case_id, revision))

        @DBOS.workflow(name="compute")
        def compute(case_id: str, revision: int) -> None:
            for wait_s in pauses():
                if compute_once(case_id, revision) != _AGAIN:
                    return
                DBOS.sleep(wait_s)

        @DBOS.step(name="deliver_once")
        def deliver_once(case_id: str, revision: int, peer: str, run: int) -> str:
            return self._deliver_once(DeliveryKey(case_id, revision, peer, run))

        @DBOS.workflow(name="deliver")
        def deliver(case_id: str, revision: int, peer: str, run: int) -> None:
            for wait_s in pauses():
                if deliver_once(case_id, revision, peer, run) != _AGAIN:
                    return
                DBOS.sleep(wait_s)

        self._compute = compute
        self._hand_over = deliver

    # --- computing -----------------------------------------------------------------------------

    def _compute_once(self, key: RevisionKey) -> str:
        """Compute a revision; whatever goes wrong, the work is settled or comes again."""
        try:
            return self._compute_revision(key)
        except Exception:
            # the boundary of the workflow: an exception that left it would end the work for good
            LOGGER.exception("case.interrupted", extra={"case_id": key.case_id})
            return _AGAIN

    def _compute_revision(self, key: RevisionKey) -> str:
        begun = self._cases.begin(key, self._clock())
        if begun is None:
            return _SETTLED
        if begun.times > MOST_STARTS:
            self._cases.fail(key, f"begun {begun.times} times without an end", self._clock())
        else:
            try:
                outcome = self._outcome(key, Job.model_validate_json(begun.job))
            except ComputeError as error:
                if not self._is_given_up(key, error):
                    return _AGAIN
            except Exception:
                self._cases.give_back(key)  # not the node's end: it may go on for ever
                raise
            else:
                self._conclude(key, outcome)
        self._on_settled(begun.patient_key)
        return _SETTLED

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
        return Outcome.model_validate_json((final / OUTCOME_FILE).read_text(encoding="utf-8"))

    def _is_given_up(self, key: RevisionKey, error: ComputeError) -> bool:
        """Count that the child left no outcome; tell whether that was once too often."""
        self._cases.give_back(key)
        if self._children.is_stopped:
            return False  # not the case's fault; it is taken up again at the next start
        failures = self._cases.count_failure(key)
        LOGGER.warning(
            "case.attempt_failed",
            extra={"case_id": key.case_id, "failures": failures, "reason": str(error)},
        )
        if failures < self._config.node.compute_attempts:
            return False
        reason = f"given up after {failures} attempts: {error}"
        self._cases.fail(key, f"{reason} ({error.hint})" if error.hint else reason, self._clock())
        return True

    def _conclude(self, key: RevisionKey, outcome: Outcome) -> None:
        if outcome.kind == "done":
            out = self._result_folder(key) / OUTPUT_FOLDER
            record = self._cases.case(key.case_id)
            protocol = self._config.protocol_named(record.protocol) if record else None
            self._cases.adopt(
                key,
                {
                    uid: str((out / name).relative_to(self._config.node.data))
                    for uid, name in outcome.results.items()
                },
                outcome.summary,
                protocol.destinations if protocol else (),
                timedelta(hours=self._config.node.delivery_give_up_h),
                self._clock(),
            )
        elif outcome.kind == "rejected":
            self._cases.reject(key, outcome.reasons, self._clock())
        else:
            self._cases.fail(key, "; ".join(outcome.reasons), self._clock())
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

    # --- delivering ----------------------------------------------------------------------------

    def _deliver_once(self, key: DeliveryKey) -> str:
        """Send what a peer is owed; whatever goes wrong, the delivery is settled or comes again."""
        try:
            return self._deliver(key)
        except (UnreadableObjectError, UnfitObjectError) as error:
            reason = f"a result file cannot be sent: {error} (`hilum cases retry` computes it anew)"
            return self._settle(key, DeliveryState.UNDELIVERED, reason)
        except Exception:
            LOGGER.exception("delivery.interrupted", extra={"case_id": key.case_id})
            return _AGAIN

    def _deliver(self, key: DeliveryKey) -> str:
        owed = self._deliveries.owed(key)
        peer = self._config.peer_named(key.peer)
        if owed is None or peer is None:
            return _SETTLED
        paths, give_up_at = owed
        reason = self._send(key, peer, list(paths.values())) if paths else ""
        if reason is None:
            return _SETTLED
        owed = self._deliveries.owed(key)
        if owed is None or not owed[0]:
            refusals = self._deliveries.refusals(key)
            state = DeliveryState.UNDELIVERED if refusals else DeliveryState.DELIVERED
            return self._settle(key, state, "; ".join(refusals))
        if self._clock() >= give_up_at:
            return self._settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        self._deliveries.note_attempt(key, reason, self._clock())
        LOGGER.warning(
            "delivery.waits", extra={"case_id": key.case_id, "peer": key.peer, "reason": reason}
        )
        return _AGAIN

    def _send(self, key: DeliveryKey, peer: Peer, paths: Sequence[str]) -> str | None:
        """Send files; return why not all were answered, or None if the peer refuses us for good."""
        try:
            answers = send_instances(
                peer,
                self._config.node.ae_title,
                [self._config.node.data / path for path in paths],
                timeout_s=self._config.node.network_timeout_s,
                on_result=lambda answer: self._record(key, answer),
            )
        except DeliveryError as error:
            reason = f"{error} ({error.hint})" if error.hint else str(error)
            if error.is_retryable:
                return reason
            self._settle(key, DeliveryState.UNDELIVERED, reason)
            return None
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

    def _settle(self, key: DeliveryKey, state: DeliveryState, reason: str) -> str:
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
        return _SETTLED

    # --- places --------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self._config.node.data / name

    def _result_folder(self, key: RevisionKey) -> Path:
        return self._folder(RESULTS_FOLDER) / key.case_id / str(key.revision)


_UNANSWERED = (InstanceOutcome.NOT_ATTEMPTED, InstanceOutcome.REFUSED_TRANSIENT)


def _delivery_queue(peer: str) -> str:
    return f"deliver.{peer}"
