"""Brings a result set to a peer: sends what is owed, keeps every answer, decides what comes next.

*That* an attempt once begun is finished is the business of `workflow`, how an object travels that
of `delivery`, what a peer is asked to keep that of `commitment`.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from node.audit.events import Tell, untold
from node.commitment.committing import Committing
from node.config import Config, Peer, Role
from node.delivery import InstanceDelivery, InstanceOutcome, send_instances
from node.errors import DeliveryError, UnfitObjectError, UnreadableObjectError
from node.index.deliveries import DeliveryBook, DeliveryKey, OvertakenError, Owed
from node.index.standings import StandingBook
from node.index.states import DeliveryState
from node.monitoring.delivery_watch import DeliveryWatch
from node.pauses import pause
from node.peer_line import PeerLines

LOGGER = logging.getLogger(__name__)

_UNANSWERED = (InstanceOutcome.NOT_ATTEMPTED, InstanceOutcome.REFUSED_TRANSIENT)


class Delivering:
    """The deliveries of one process.

    Args:
        config: Peers and waiting times.
        deliveries: What is owed to peers.
        standings: Whether peers answer.
        committing: Has the peers commit to what they got.
        lines: The ways to the peers.
        clock: The time, aware.
        audit: The audit trail.
    """

    def __init__(
        self,
        config: Config,
        deliveries: DeliveryBook,
        standings: StandingBook,
        committing: Committing,
        lines: PeerLines,
        clock: Callable[[], datetime],
        audit: Tell = untold,
    ) -> None:
        self._config = config
        self._deliveries = deliveries
        self._standings = standings
        self._committing = committing
        self._lines = lines
        self._clock = clock
        self._watch = DeliveryWatch(config.node.data, deliveries.index, clock, audit)

    def attempt(self, key: DeliveryKey) -> None:
        """Do once what a peer is owed; whatever goes wrong, it is settled or comes again."""
        begun = self._deliveries.begin(key)
        if begun is not None:
            self._attempt(begun)

    def _attempt(self, key: DeliveryKey) -> None:
        owed = self._deliveries.owed(key)
        peer = self._config.peer_named(key.peer)
        if owed is None or peer is None:
            return
        if owed.state is DeliveryState.COMMITTING and owed.paths:
            # what the peer does not hold any more: an earlier process died before it said so
            now, reason = self._clock(), "what the peer does not hold is sent again"
            self._deliveries.put_off(key, reason, now, now, state=DeliveryState.PENDING)
            return
        if self._is_held_back(key, peer, owed):
            return
        try:
            reason = self._step(key, peer, owed)
        except OvertakenError:
            LOGGER.warning("delivery.overtaken", extra={"case_id": key.case_id, "peer": key.peer})
            return
        except DeliveryError as error:
            reason = error.with_hint
            if not error.is_retryable:
                self._standings.refused(key.peer, reason, self._clock())
                self.settle(key, DeliveryState.UNDELIVERED, reason)
                return
            self._count_failure(peer, reason)
        except (UnreadableObjectError, UnfitObjectError) as error:
            reason = f"a result file cannot be sent: {error} (`hilum cases retry` computes it anew)"
            self.settle(key, DeliveryState.UNDELIVERED, reason)
            return
        except Exception as error:
            LOGGER.exception("delivery.interrupted", extra={"case_id": key.case_id})
            reason = f"internal error {type(error).__name__}"
        left = self._deliveries.owed(key)
        if left is None:
            return
        if self._lines.is_closed and left.paths:
            now = self._clock()
            self._deliveries.put_off(key, "the node stopped", now, now)
        elif left.state is DeliveryState.COMMITTING:
            reason = reason or "more is to be said about its storage commitment"
            self.put_off(key, reason, state=DeliveryState.COMMITTING)
        elif not left.paths:
            self._all_answered(key)
        elif self._clock() >= left.give_up_at:
            self.settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        else:
            self.put_off(key, reason, state=DeliveryState.PENDING)

    def give_up(self, key: DeliveryKey, reason: str) -> None:
        """End a delivery that cannot be made."""
        begun = self._deliveries.begin(key)
        if begun is not None:
            self.settle(begun, DeliveryState.UNDELIVERED, reason)

    def put_off(self, key: DeliveryKey, reason: str, *, state: DeliveryState) -> None:
        """End an attempt that must be repeated after a pause."""
        now = self._clock()
        wait = pause(self._config.node, key.attempt, f"{key.case_id}.{key.peer}")
        self._deliveries.put_off(key, reason, now + wait, now, state=state)
        self._watch.put_off(key)
        fields = {"case_id": key.case_id, "peer": key.peer, "reason": reason}
        LOGGER.warning("delivery.put_off", extra=fields)

    def settle(self, key: DeliveryKey, state: DeliveryState, reason: str) -> None:
        """End a delivery, unless an operator has directed it otherwise meanwhile."""
        if not self._deliveries.settle(key, state, reason, self._clock()):
            return
        LOGGER.info(
            "delivery.finished",
            extra={
                "case_id": key.case_id,
                "revision": key.revision,
                "peer": key.peer,
                "outcome": str(state),
                "reason": reason,
                **self._watch.settled(key, state),
            },
        )

    # --- one attempt ---------------------------------------------------------------------------

    def _is_held_back(self, key: DeliveryKey, peer: Peer, owed: Owed) -> bool:
        """Put a delivery off, untried, while the breaker of its peer is open."""
        is_committing = owed.state is DeliveryState.COMMITTING
        if is_committing and not self._committing.needs_peer(key, peer):
            return False
        now, pause_s = self._clock(), self._config.node.delivery_retry_cap_s
        until = self._standings.open_until(key.peer, now, timedelta(seconds=pause_s))
        if until is None:
            return False
        standing = self._standings.standing(key.peer)
        reason = f"not tried, because peer {key.peer} fails: {standing.last_failure}"
        if now < owed.give_up_at:
            next_try_at = min(until, owed.give_up_at)
            self._deliveries.put_off(key, reason, next_try_at, now)
        elif is_committing:
            self._committing.conclude_unasked(key, self, f"time is spent: {reason}")
        else:
            self.settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        return True

    def _step(self, key: DeliveryKey, peer: Peer, owed: Owed) -> str:
        """Send, or have committed; return why some objects must be sent again, or nothing.

        Raises:
            DeliveryError: No association came about.
        """
        if owed.state is DeliveryState.PENDING:
            reason = self._send(key, peer, owed.paths) if owed.paths else ""
            left = self._deliveries.owed(key)
            if reason or left is None or left.paths or Role.COMMIT not in peer.roles:
                return reason
            if self._deliveries.refusals(key) or not self._committing.has_uncommitted(key):
                return reason
            self._deliveries.begin_committing(key, self._clock())
        calls = self._committing.needs_peer(key, peer)
        self._committing.step(key, peer, owed.give_up_at, self)
        if calls:
            self._note_answer(peer)
        return ""

    def _send(self, key: DeliveryKey, peer: Peer, paths: Mapping[str, str]) -> str:
        """Send files, keep every answer; return why some must be sent again, or an empty text.

        Raises:
            DeliveryError: No association came about.
        """
        self._watch.begins(key, peer, len(paths))
        try:
            answers = send_instances(
                peer,
                self._config.node.ae_title,
                [self._config.node.data / path for path in paths.values()],
                timeout_s=self._config.node.network_timeout_s,
                on_result=lambda answer: self._record(key, answer),
                tls=self._config.tls,
                line=self._lines.to(peer),
            )
        except DeliveryError as error:
            self._watch.not_sent(key, peer, len(paths), str(error))
            raise
        self._watch.answered(key, peer, answers, paths)
        reason = next((a.reason for a in answers if a.outcome in _UNANSWERED), "")
        if all(a.outcome in _UNANSWERED for a in answers):
            self._count_failure(peer, reason)
        else:
            self._note_answer(peer)
        return reason

    def _all_answered(self, key: DeliveryKey) -> None:
        refusals = [*self._deliveries.refusals(key), *self._committing.refusals(key)]
        if not refusals and (left_out := self._deliveries.only_left_out(key)):
            refusals = ["it takes none of the objects: " + "; ".join(left_out)]
        state = DeliveryState.UNDELIVERED if refusals else DeliveryState.DELIVERED
        self.settle(key, state, "; ".join(refusals))

    def _count_failure(self, peer: Peer, reason: str) -> None:
        if self._lines.is_closed:
            return  # a stop is not the peer's fault
        node = self._config.node
        is_opened = self._standings.came_to_nothing(
            peer.name,
            reason,
            self._clock(),
            most=node.breaker_failures,
            pause=timedelta(seconds=node.delivery_retry_cap_s),
        )
        if is_opened:
            LOGGER.warning("breaker.opened", extra={"peer": peer.name, "reason": reason})

    def _note_answer(self, peer: Peer) -> None:
        if self._standings.answered(peer.name, self._clock()):
            LOGGER.info("breaker.closed", extra={"peer": peer.name})

    def _record(self, key: DeliveryKey, answer: InstanceDelivery) -> None:
        self._deliveries.record_receipt(
            key,
            answer.sop_instance_uid,
            str(answer.outcome),
            answer.status,
            answer.reason,
            self._clock(),
        )
