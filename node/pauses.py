"""How long to wait before something is tried again: longer each time, up to a cap."""

import hashlib
from datetime import timedelta

from node.config import NodeSection

MOST_DOUBLINGS = 20
"""Pauses double no further: the cap has long been reached."""

JITTER = 0.2
"""By how much of itself a pause may be shorter: what failed together comes back one by one."""


def pause(node: NodeSection, attempt: int, of: str = "") -> timedelta:
    """Return how long to wait after an attempt: twice as long each time, up to a cap.

    Args:
        node: Shortest and longest pause.
        attempt: Number of the attempt, from 0.
        of: Whose pause; shortens it by up to a fifth, always alike. Empty: not at all.
    """
    pause_s = node.delivery_retry_s * 2.0 ** min(attempt, MOST_DOUBLINGS)
    pause_s = min(pause_s, node.delivery_retry_cap_s)
    if of:
        digest = hashlib.sha256(f"{of}.{attempt}".encode()).digest()
        pause_s *= 1.0 - JITTER * digest[0] / 256
    return timedelta(seconds=pause_s)
