"""Brings a result set to a peer: sends what is owed, keeps every answer, decides what comes next.

*That* an attempt once begun is finished is the business of `workflow`, how an object travels that
of `delivery`.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from node.config import Config, NodeSection, Peer
from node.delivery import InstanceDelivery, InstanceOutcome, send_instances
from node.errors import DeliveryError, UnfitObjectError, UnreadableObjectError
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.states import DeliveryState

LOGGER = logging.getLogger(__name__)

MOST_DOUBLINGS = 20
"""Pauses double no further: the cap has long been reached."""

_UNANSWERED = (InstanceOutcome.NOT_ATTEMPTED, InstanceOutcome.REFUSED_TRANSIENT)


def pause(node: NodeSection, attempt: int) -> timedelta:
    """Return how long to wait after an attempt: twice as long each time, up to a cap."""
    pause_s = node.delivery_retry_s * 2.0 ** min(attempt, MOST_DOUBLINGS)
    return timedelta(seconds=min(pause_s, node.delivery_retry_cap_s))


class Delivering:
    """The deliveries of one process.

    Args:
        config: Peers and waiting times.
        deliveries: What is owed to peers.
        clock: The time, aware.
    """

    def __init__(
        self, config: Config, deliveries: DeliveryBook, clock: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._deliveries = deliveries
        self._clock = clock

    def attempt(self, key: DeliveryKey) -> None:
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
            self._deliveries.put_off(key, reason, now + pause(self._config.node, key.attempt), now)
            LOGGER.warning(
                "delivery.put_off",
                extra={"case_id": key.case_id, "peer": key.peer, "reason": reason},
            )

    def give_up(self, key: DeliveryKey, reason: str) -> None:
        """End a delivery that cannot be made."""
        self._settle(key, DeliveryState.UNDELIVERED, reason)

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
