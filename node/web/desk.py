"""What the page may look at and ask for: the one thing that every route is given."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.config import Config
from node.index import Index


@dataclass(frozen=True, slots=True)
class Desk:
    """The node as its page sees it.

    Attributes:
        config: What the node does.
        index: Cases, objects, peers; its tables exist.
        clock: The time, aware.
    """

    config: Config
    index: Index
    clock: Callable[[], datetime]
