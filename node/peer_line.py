"""Keeps one association per peer between result sets, for a short while.

One caller at a time speaks to a peer: planning systems lose throughput, or objects, when two
associations send to them at once. An association is used again only if the peer still holds it, all
that is needed was proposed, and no answer ever failed to come; otherwise a new one is made. Decides
nothing about objects: that is `node.delivery`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.uid import UID

from node.config import Peer, Role, TlsSection
from node.errors import DeliveryError
from node.negotiation import request
from node.pace import Pace
from node.requesting import RequestedAssociation

ENDING_GRACE_S = 1.0
"""How long a line that ends waits for its present user: most objects are through by then."""

IDLE_S = 5.0
"""How long an association is kept without use: peers end idle ones after half a minute or more."""


class PeerLine:
    """The way to one peer; may be shared by threads.

    Args:
        peer: Whom to call.
        calling_ae: Our AE title.
        tls: Our certificate, for a peer that is called over TLS.
        idle_s: How long an association is kept for the next user; 0 keeps none.

    Attributes:
        pace: How fast the peer may be sent to, if the configuration limits that.
    """

    def __init__(
        self,
        peer: Peer,
        calling_ae: str,
        *,
        tls: TlsSection | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self.peer = peer
        self.pace = None if peer.max_mbit_per_s is None else Pace(peer.max_mbit_per_s)
        self._calling_ae = calling_ae
        self._tls = tls
        self._idle_s = idle_s
        # guards what follows
        self._lock = threading.Lock()
        self._assoc: RequestedAssociation | None = None
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._is_cut = False

    @contextmanager
    def held(self) -> Iterator["PeerLine"]:
        """Have the line to oneself for a block; an exception in it aborts the association."""
        with self._lock:
            self._stop_timer()
            try:
                yield self
            except BaseException:
                self.abort()
                raise
            if self._idle_s > 0 and not self._is_closed:
                self._keep()
            else:
                self._release()

    def association(
        self, needed: Sequence[tuple[UID, UID]], timeout_s: float
    ) -> RequestedAssociation:
        """Return an association for these contexts: the one that is kept, or a new one.

        Only for who holds the line. An association with `answers` is one that was kept.

        Raises:
            DeliveryError: It did not come about.
        """
        kept = self._assoc
        if kept is not None and kept.proposed.issuperset(needed) and kept.is_alive():
            return kept
        self._release()
        if not self._is_cut:
            self._assoc = request(self.peer, self._calling_ae, needed, timeout_s, self._tls)
        if self._assoc is None or self._is_cut:
            raise DeliveryError("this node stops", hint="try again later", is_retryable=True)
        return self._assoc

    def abort(self) -> None:
        """Abort the association, if there is one. Only for who holds the line."""
        assoc, self._assoc = self._assoc, None
        if assoc is not None:
            assoc.abort()

    def cut(self) -> None:
        """End what is under way at once, whoever holds the line, and call the peer no more."""
        self._is_cut = True
        assoc = self._assoc
        if assoc is not None:
            assoc.cut()

    def close(self) -> None:
        """Release what is kept, after its present user, and keep nothing from now on."""
        self._is_closed = True
        with self._lock:
            self._stop_timer()
            self._release()

    def end(self) -> None:
        """Call the peer no more: release what is kept, cut what somebody is using."""
        self._is_closed = True
        if not self._lock.acquire(timeout=ENDING_GRACE_S):
            self.cut()
            self._lock.acquire()
        try:
            self._is_cut = True
            self._stop_timer()
            self._release()
        finally:
            self._lock.release()

    def _keep(self) -> None:
        assoc = self._assoc
        if assoc is None or not assoc.is_open or not assoc.accepted:
            self._release()
            return
        self._timer = threading.Timer(self._idle_s, self._end_of_idleness)
        self._timer.daemon = True
        self._timer.start()

    def _end_of_idleness(self) -> None:
        if self._lock.acquire(blocking=False):  # else somebody uses it again
            try:
                if self._timer is threading.current_thread():
                    self._release()
            finally:
                self._lock.release()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _release(self) -> None:
        assoc, self._assoc = self._assoc, None
        if assoc is not None:
            assoc.release()


class PeerLines:
    """The ways to all peers; may be shared by threads.

    Args:
        calling_ae: Our AE title.
        tls: Our certificate, for peers that are called over TLS.
        idle_s: See `PeerLine`. Of a peer that is asked to commit nothing is kept: it is called
            again at once for that, and may allow one association only.

    Attributes:
        is_closed: Whether nobody is called any more.
    """

    def __init__(
        self, calling_ae: str, *, tls: TlsSection | None = None, idle_s: float = IDLE_S
    ) -> None:
        self._calling_ae = calling_ae
        self._tls = tls
        self._idle_s = idle_s
        self.is_closed = False
        self._lock = threading.Lock()
        self._lines: dict[str, PeerLine] = {}

    def to(self, peer: Peer) -> PeerLine:
        """Return the one line to a peer."""
        with self._lock:
            if peer.name not in self._lines:
                idle_s = 0.0 if Role.COMMIT in peer.roles else self._idle_s
                line = PeerLine(peer, self._calling_ae, tls=self._tls, idle_s=idle_s)
                if self.is_closed:
                    line.cut()
                self._lines[peer.name] = line
            return self._lines[peer.name]

    def close(self) -> None:
        """Call nobody any more; who is sending is interrupted."""
        with self._lock:
            self.is_closed = True
            lines = list(self._lines.values())
        for line in lines:
            line.end()
