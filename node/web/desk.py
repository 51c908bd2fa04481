"""What the page may look at and ask for: the one thing that every route is given."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.audit.events import AuditEvent, untold
from node.config import Config
from node.index import Index
from node.monitoring.vitals import NOTHING_SEEN, Vitals


@dataclass(frozen=True, slots=True)
class Desk:
    """The node as its page sees it.

    Attributes:
        config: What the node does.
        index: Cases, objects, peers; its tables exist.
        clock: The time, aware.
        audit: Takes what is to stand in the audit trail; may block, never raises.
        vitals: Whether this process lives and takes objects, for whoever watches it.
    """

    config: Config
    index: Index
    clock: Callable[[], datetime]
    audit: Callable[[AuditEvent], None] = untold
    vitals: Vitals = NOTHING_SEEN
