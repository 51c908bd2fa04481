"""What operators order about cases, from the command line and from the page alike."""

from collections.abc import Callable
from datetime import datetime, timedelta

from node.config import Config
from node.errors import NodeError
from node.index import Index
from node.index.cases import CaseBook, CaseRecord
from node.index.delivery_orders import DeliveryOrders
from node.index.protocol_choices import ProtocolChoices
from node.index.standings import StandingBook
from node.index.states import CaseState


class CaseOrders:
    """The orders of one operator; the running node carries them out, the history tells of them.

    Every order is refused with `IllegalMoveError` (the case is unknown, or stands where it makes no
    sense) or `NodeError`, each with a hint.

    Args:
        config: The node's.
        index: Of that node.
        clock: The time, aware.
        operator: Who orders, for the history.
    """

    def __init__(
        self, config: Config, index: Index, clock: Callable[[], datetime], operator: str
    ) -> None:
        self._config = config
        self._index = index
        self._clock = clock
        self._operator = operator

    def retry(self, case_id: str) -> None:
        """Begin again what was rejected, failed, abandoned or not delivered."""
        record, now = CaseBook(self._index).case(case_id), self._clock()
        is_undelivered = record is not None and record.state is CaseState.UNDELIVERED
        if is_undelivered and self._has_files(record):
            give_up = self._patience(record)
            DeliveryOrders(self._index).reopen(case_id, give_up, now, self._operator)
        else:
            CaseBook(self._index).ask_again(case_id, now, self._operator)

    def retry_delivery(self, case_id: str, peer: str) -> bool:
        """Owe a peer again what it did not take; tell whether it will be tried at once.

        It will not while the peer's breaker is open.
        """
        record = CaseBook(self._index).case(case_id)
        if record is not None and not self._has_files(record):
            raise NodeError(
                f"result files of case {case_id} are gone",
                hint=f"`hilum cases retry {case_id}` computes them anew",
            )
        give_up = self._patience(record)
        orders = DeliveryOrders(self._index)
        orders.reopen_for(case_id, peer, give_up, self._operator, self._clock())
        return StandingBook(self._index).standing(peer).open_since is None

    def abandon(self, case_id: str) -> None:
        """Stop all work on a case; new objects revive it."""
        CaseBook(self._index).abandon(case_id, self._clock(), self._operator)

    def abandon_delivery(self, case_id: str, peer: str) -> None:
        """Give up the deliveries of a case to one peer; the others go on."""
        orders = DeliveryOrders(self._index)
        orders.abandon_for(case_id, peer, self._operator, self._clock())

    def rerun(self, case_id: str, protocol: str) -> None:
        """Compute the objects of a case anew, under a protocol of the configuration."""
        if self._config.protocol_named(protocol) is None:
            known = ", ".join(each.name for each in self._config.protocol) or "none"
            raise NodeError(f"no protocol {protocol!r}", hint=f"the configuration has: {known}")
        choices = ProtocolChoices(self._index)
        choices.compute_under(case_id, protocol, self._operator, self._clock())

    def _has_files(self, record: CaseRecord | None) -> bool:
        """Tell whether every result file of the newest revision is there."""
        folder = self._config.node.data
        return record is not None and all((folder / path).exists() for path in record.results)

    def _patience(self, record: CaseRecord | None) -> timedelta:
        """Return how long a delivery that is begun again may take."""
        protocol = None if record is None else self._config.protocol_named(record.protocol)
        hours = None if protocol is None else protocol.delivery_give_up_h
        return timedelta(hours=self._config.node.delivery_give_up_h if hours is None else hours)
