"""Holds what is sent to a peer below a rate: a bucket of bytes that fills as time passes.

Knows no connection. Used by the one thread that sends.
"""

import time
from collections.abc import Callable

BITS_PER_MBIT = 1_000_000
_BURST_S = 0.05
"""So much of a second may be sent at once: short enough that a shared line stays usable."""

_LEAST_BURST_BYTES = 256
"""A slower line than that would need is not made slower still by single bytes."""

_SHORTEST_WAIT_S = 0.001
"""Shorter ones end late anyhow, or, at the limit of the clock's digits, never."""


class Pace:
    """A rate that nothing sent may exceed, measured over any second.

    Args:
        mbit_per_s: The rate, in 10^6 bits per second, PDU headers included, TCP and TLS not.
        clock: Seconds that never go back.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        mbit_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_s = mbit_per_s * BITS_PER_MBIT / 8
        self._burst_bytes = max(self.bytes_per_s * _BURST_S, _LEAST_BURST_BYTES)
        self._clock = clock
        self._sleep = sleep
        self._credit_bytes = 0.0
        self._filled_s = clock()

    def take(self, wanted_bytes: int) -> int:
        """Wait until some bytes may be sent; return how many, at most those wanted."""
        granted = min(wanted_bytes, int(self._burst_bytes))
        self._fill()
        while (missing := granted - self._credit_bytes) > 0:
            self._sleep(max(missing / self.bytes_per_s, _SHORTEST_WAIT_S))
            self._fill()
        self._credit_bytes -= granted
        return granted

    def give_back(self, unused_bytes: int) -> None:
        """Count bytes that were granted and not sent."""
        self._credit_bytes += unused_bytes

    def _fill(self) -> None:
        now_s = self._clock()
        more = (now_s - self._filled_s) * self.bytes_per_s
        self._credit_bytes = min(self._credit_bytes + more, self._burst_bytes)
        self._filled_s = now_s
