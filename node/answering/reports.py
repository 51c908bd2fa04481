"""Sends the reports that are owed for storage commitment (N-EVENT-REPORT, PS3.4 J.3.3).

Over the association of the request while its peer stays and says nothing; else over any later one
on which the peer offers the SOP class; else over one of our own, in the reversed role, where the
peer has a host and port. Tried with pauses that grow, until `node.commitment_timeout_h` is over. A
report is owed until the peer has answered it with success, whatever happens to this process.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import build_context

from node.answering.commitment import SYNTAXES, Verdicts, report_of
from node.association import CLOSING_GRACE_S, open_association
from node.config import ANY_AE_TITLE, Config, Peer
from node.conformance import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, SUCCESS
from node.errors import DeliveryError
from node.exchange import Exchange, encoded, is_quiet, next_answer
from node.index.promises import Promise, PromiseBook, PromiseState
from node.pauses import pause

LOGGER = logging.getLogger(__name__)

QUIET_S = 1.0
"""A peer that says nothing for so long after the answer waits for the report."""

LOOK_EVERY_S = 1.0
"""How often it is looked whether a report is due."""

FILING_S = 30.0
"""How long a report waits for objects that were promised a moment ago to be in the index."""

_STOPPING_S = 3.0
"""How long `stop` waits for a report to be broken off; a thread that calls a dead host is left."""


class Reports:
    """The reports of one process.

    Args:
        config: Peers, waiting times, our AE title.
        promises: What is owed.
        verdicts: Says what is held.
        clock: The time, aware.
        is_leading: Tells whether it is for this process to call peers, of those that share the
            index; over an association of the peer each reports that has it.
    """

    def __init__(
        self,
        config: Config,
        promises: PromiseBook,
        verdicts: Verdicts,
        clock: Callable[[], datetime],
        is_leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._is_leading = is_leading
        self._promises = promises
        self._verdicts = verdicts
        self._clock = clock
        self._wait_until_filed: Callable[[float], bool] = lambda _limit_s: True
        self._under_way: set[int] = set()
        self._choosing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment-reports", daemon=True)
        self._callable = {
            p.name: p for p in config.peer if p.port is not None and p.ae_title != ANY_AE_TITLE
        }

    def start(self, wait_until_filed: Callable[[float], bool]) -> None:
        """Begin to report; the argument waits until the index has what was promised."""
        self._wait_until_filed = wait_until_filed
        self._thread.start()

    def stop(self) -> None:
        """Report no more; what is owed stays owed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOPPING_S)

    # --- over an association of the peer -------------------------------------------------------

    def report_after(self, exchange: Exchange) -> None:
        """Report over the association of a request, if its peer waits for that."""
        self.report_over(exchange.assoc, exchange.peer)

    def report_over(self, assoc: Association, peer: Peer) -> None:
        """Report all that is owed to a peer over its association, if it is quiet.

        Ask in the association's own thread only.
        """
        owed = self._promises.owed_to(peer.name)
        if not owed or not is_quiet(assoc, QUIET_S):
            return
        context = next(
            (
                cx
                for cx in assoc.accepted_contexts
                if cx.abstract_syntax == STORAGE_COMMITMENT and cx.as_scp
            ),
            None,
        )
        if context is None:
            return
        was_paused = assoc._is_paused
        assoc._is_paused = True
        try:
            with self._chosen(owed) as chosen:
                for at, promise in enumerate(chosen):
                    if self._stopping.is_set() or not self._report(assoc, context, promise, at + 1):
                        return
        finally:
            assoc._is_paused = was_paused

    # --- over an association of our own --------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            if not self._is_leading():
                continue
            try:
                self._give_up()
                due = self._promises.due(list(self._callable), self._clock())
                for name in dict.fromkeys(promise.peer for promise in due):
                    self._call(self._callable[name], [p for p in due if p.peer == name])
            except Exception:
                if self._stopping.is_set():
                    return  # what it works with is being closed
                LOGGER.exception("commitment.interrupted")

    def _give_up(self) -> None:
        for promise in self._promises.spent(self._clock()):
            self._promises.settle(promise, PromiseState.GIVEN_UP, "time is spent")
            LOGGER.warning("commitment.given_up", extra={"peer": promise.peer})

    def _call(self, peer: Peer, owed: Sequence[Promise]) -> None:
        timeout_s = self._config.node.network_timeout_s
        taken = [build_context(STORAGE_COMMITMENT, list(SYNTAXES))]
        with self._chosen(owed) as chosen:
            if not chosen:
                return
            reported, reason = 0, "the peer ended the association"
            try:
                with open_association(
                    peer, self._config.node.ae_title, (), timeout_s, self._config.tls, taken=taken
                ) as opened:
                    context = next((cx for cx in opened.assoc.accepted_contexts if cx.as_scp), None)
                    if context is None:
                        reason = "the peer does not take reports as SCU of Storage Commitment"
                        chosen_now: Sequence[Promise] = ()
                    else:
                        chosen_now = chosen
                    opened.assoc.dimse_timeout = timeout_s
                    for promise in chosen_now:
                        with (
                            opened.connection.cut_after(timeout_s + CLOSING_GRACE_S),
                            _reactor_paused(opened.assoc),
                        ):
                            if not self._report(opened.assoc, context, promise, reported + 1):
                                break
                        reported += 1
            except DeliveryError as error:
                reason = str(error)
            for promise in chosen[reported:]:
                self._put_off(promise, reason)

    def _put_off(self, promise: Promise, reason: str) -> None:
        next_try_at = self._clock() + pause(self._config.node, promise.attempt)
        self._promises.put_off(promise, next_try_at, reason)
        LOGGER.warning("commitment.put_off", extra={"peer": promise.peer, "reason": reason})

    # --- one report ----------------------------------------------------------------------------

    @contextmanager
    def _chosen(self, owed: Sequence[Promise]) -> Iterator[list[Promise]]:
        """Give those of the reports that nobody else sends at this moment."""
        with self._choosing:
            chosen = [p for p in owed if p.row_id not in self._under_way]
            self._under_way |= {p.row_id for p in chosen}
        try:
            yield chosen
        finally:
            with self._choosing:
                self._under_way -= {p.row_id for p in chosen}

    def _report(self, assoc: Any, context: Any, promise: Promise, message_id: int) -> bool:
        """Send one report; tell whether the peer took it."""
        if not self._wait_until_filed(FILING_S):
            return False
        failures = self._verdicts.failures(promise)
        event_type, content = report_of(promise, failures)
        request = N_EVENT_REPORT()
        request.MessageID = message_id
        request.AffectedSOPClassUID = STORAGE_COMMITMENT
        request.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
        request.EventTypeID = event_type
        request.EventInformation = BytesIO(encoded(content, context.transfer_syntax[0]))
        if not assoc.is_established:
            return False
        assoc.dimse.send_msg(request, context.context_id)
        answer = next_answer(assoc, self._stopping.is_set)
        is_answer = isinstance(answer, N_EVENT_REPORT) and answer.is_valid_response
        status = answer.Status if is_answer else None
        fields = {"peer": promise.peer, "objects": len(promise.references)}
        fields |= {"not_committed": len(failures)}
        if status != SUCCESS:
            told = "none" if status is None else f"0x{status:04X}"
            LOGGER.info("commitment.not_taken", extra={**fields, "status": told})
            return False
        self._promises.settle(promise, PromiseState.REPORTED)
        LOGGER.info("commitment.reported", extra=fields)
        return True


@contextmanager
def _reactor_paused(assoc: Any) -> Iterator[None]:
    """Keep pynetdicom's own thread from taking the answer, as its `send_` methods do."""
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused and assoc.is_alive():
        threading.Event().wait(0.0005)
    try:
        yield
    finally:
        assoc._reactor_checkpoint.set()
