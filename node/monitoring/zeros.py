"""Series that are shown as zero before anything was counted.

Prometheus sees growth only between two values of a series: one that begins with its first failure
would never show it to an alert. Only those whose growth alerts ask about; what a label may be else
is not known beforehand.
"""

from collections.abc import Mapping
from itertools import product

from node.config import Config, Role
from node.monitoring.counts import COMPUTED, DELIVERED_OBJECTS, OBJECTS, Counted

OUTCOMES = ("done", "rejected", "failed")
"""Of computing."""

REFUSALS_BY_PEERS = ("refused", "does_not_match", "cannot_understand", "refused_permanent")


def zeros_of(config: Config) -> Mapping[Counted, tuple[tuple[str, ...], ...]]:
    """Return, for counts with labels, the labels' values that are shown from the start."""
    receivers = [peer.name for peer in config.peer if Role.RECEIVE in peer.roles]
    senders = [peer.name for peer in config.peer if Role.SEND in peer.roles]
    return {
        COMPUTED: tuple((outcome,) for outcome in OUTCOMES),
        DELIVERED_OBJECTS: tuple(product(receivers, REFUSALS_BY_PEERS)),
        OBJECTS: tuple((name,) for name in senders),
    }
