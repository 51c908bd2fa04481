"""What the node offers beside Storage and Verification: query, retrieval, storage commitment."""

from collections.abc import Callable
from datetime import datetime

from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, N_ACTION

from node.answering.catalogue import ResultReader
from node.answering.commitment import SYNTAXES as COMMITMENT_SYNTAXES
from node.answering.commitment import CommitmentRequests, Verdicts
from node.answering.find import Finder
from node.answering.keys import FIND_CLASSES, GET_CLASSES, MOVE_CLASSES, SYNTAXES
from node.answering.reports import Reports
from node.answering.retrieve import Retriever
from node.audit.events import Tell, untold
from node.config import Config
from node.conformance import STORAGE_COMMITMENT
from node.index import Index
from node.index.catalogue import Catalogue
from node.index.promises import PromiseBook
from node.offered import Service
from node.storage import ObjectStore


class Answering:
    """The services of one process.

    Args:
        config: Peers and limits.
        store: Where received objects are.
        index: Whose tables exist.
        clock: The time, aware.
        is_leading: Tells whether it is for this process to call peers of its own accord.
        audit: The audit trail.
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        index: Index,
        clock: Callable[[], datetime],
        is_leading: Callable[[], bool] = lambda: True,
        audit: Tell = untold,
    ) -> None:
        catalogue = Catalogue(index)
        reader = ResultReader(catalogue, config.node.data)
        finder = Finder(index, catalogue, reader, config.node.ae_title, audit)
        self._retriever = retriever = Retriever(config, catalogue, reader, audit)
        promises = PromiseBook(index)
        verdicts = Verdicts(config, index, store)
        self._reports = Reports(config, promises, verdicts, clock, is_leading)
        requests = CommitmentRequests(config, promises, clock, self._reports.report_after)
        self.services: tuple[Service, ...] = (
            *(Service(one, SYNTAXES, serves=((C_FIND, finder.serve),)) for one in FIND_CLASSES),
            *(
                Service(one, SYNTAXES, serves=((C_MOVE, retriever.serve_move),))
                for one in MOVE_CLASSES
            ),
            *(
                Service(one, SYNTAXES, serves=((C_GET, retriever.serve_get),), sends_objects=True)
                for one in GET_CLASSES
            ),
            Service(
                STORAGE_COMMITMENT,
                COMMITMENT_SYNTAXES,
                serves=((N_ACTION, requests.serve),),
                is_user=True,
                on_established=self._reports.report_over,
            ),
        )

    def start(self, wait_until_filed: Callable[[float], bool]) -> None:
        """Begin to send the reports that are owed.

        Args:
            wait_until_filed: Waits until the index has what was promised to senders.
        """
        self._reports.start(wait_until_filed)

    def stop(self) -> None:
        """Send no results and no reports any more; reports that are owed stay owed."""
        self._retriever.stop()
        self._reports.stop()
