"""Sections 3.1, 3.2 and 3.5: the application entity, its associations, its interfaces."""

from node.config import Config
from node.conformance import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.outgoing import MAX_CONTEXTS
from node.statement.markdown import table

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The DICOM application context name (PS3.7 A.2.1)."""

ACTIVITIES = (
    ("a peer sends objects", "C-STORE as SCP", "3.3.2", "anything the peer likes, in any order"),
    ("a peer asks for commitment", "N-ACTION as SCP, N-EVENT-REPORT", "3.3.3", "after sending"),
    ("a peer queries and retrieves results", "C-FIND, C-MOVE, C-GET as SCP", "3.3.4, 3.3.5",
     "after a case was computed"),
    ("a case lacks images, or wants priors", "C-FIND, C-MOVE, C-GET as SCU", "3.4.4",
     "before a case is computed, if a protocol says so"),
    ("a case was computed", "C-STORE as SCU", "3.4.2", "to each destination of its protocol"),
    ("results were sent", "N-ACTION as SCU", "3.4.3", "to destinations with the role `commit`"),
    ("an operator checks a connection", "C-ECHO", "3.3.1, 3.4.1", "`hilum echo`"),
)  # fmt: skip
"""Real-world activities: what happens, by which operation, where it is told, and when."""


def application_entity(config: Config) -> str:
    """Return the implementation model and what holds for every association."""
    rows = [
        ("AE title", config.node.ae_title),
        ("Application context name", APPLICATION_CONTEXT),
        ("Maximum PDU size received", f"{config.node.max_pdu_bytes} bytes"),
        ("Associations accepted at once", config.node.max_associations),
        ("Presentation contexts proposed", f"those that are needed, at most {MAX_CONTEXTS}"),
        ("Asynchronous operations", "none (window 1, 1)"),
        ("Implementation class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation version name", IMPLEMENTATION_VERSION_NAME),
        ("SCP/SCU role selection", "Storage Commitment Push Model, and the storage classes of "
         "C-GET (3.3.5, 3.4.4)"),
        ("SOP class extended negotiation", "not used: no relational queries"),
        ("User identity negotiation", "username, with or without passcode; see 7"),
    ]  # fmt: skip
    columns = ("real-world activity", "operation", "section", "when")
    return (
        "## 3 Networking\n\n### 3.1 Implementation model\n\n"
        "One application entity receives, answers and calls.\n\n"
        + table(columns, ACTIVITIES)
        + "\n\n"
        + table(("property", "value"), rows)
    )


def association_policies(config: Config) -> str:
    """Return how associations are accepted, opened and ended."""
    permanent, transient = "1 permanent", "2 transient"
    user, presentation = "1 user", "3 presentation"
    rejections = [
        ("the called AE title is not ours", permanent, user, "7 called AE title"),
        ("calling AE title and address belong to no configured peer, or its certificate is not "
         "the peer's", permanent, user, "3 calling AE title"),
        ("the user identity is not the peer's", permanent, "2 ACSE provider", "1 no reason"),
        ("the application context name is not DICOM's", permanent, user,
         "2 application context name"),
        ("the protocol version is not 1", permanent, "2 ACSE provider", "2 protocol version"),
        ("the node is stopping, its disk has no room or is out of order, or too many objects wait "
         "for its database", transient, presentation, "1 temporary congestion"),
        ("too many associations, of this peer or in all", transient, presentation,
         "2 local limit"),
    ]  # fmt: skip
    node = config.node
    return (
        "### 3.2 Association policies\n\n"
        "A peer is known by its calling AE title together with its network address, or with its "
        "certificate.\n\n"
        + table(("an association is rejected when", "result", "source", "reason"), rejections)
        + "\n\nA connection without an association request is closed after "
        f"{node.negotiation_timeout_s:g} s, an association without traffic is aborted after "
        f"{node.network_timeout_s:g} s. A connection is closed unread while its address has had "
        f"more than {node.max_rejections_per_minute} rejections within the last minute.\n\n"
        "What is no association request is answered with an A-ABORT of the service user (PS3.8 "
        "9.2.3, AA-1), what has no place in an association with one of the service provider: "
        "reason 1 unrecognised PDU, 2 unexpected PDU, 6 invalid PDU parameter value.\n\n"
        "**An aborted association** (A-ABORT, A-P-ABORT, connection lost, time-out) undoes "
        "nothing and completes nothing: every object that was answered with success stays, an "
        "object that was not answered may or may not have been kept, and the case waits until "
        "what it refers to has arrived. The peer may send everything again: the same object with "
        "the same bytes is answered with success and changes nothing.\n\n"
        "The end of an association is not taken for the end of a series: a case is complete when "
        "its evidence says so and the peer has been quiet for a while.\n\n"
        "Associations are opened to configured peers only, with their AE title, host and port."
    )


def interfaces(config: Config) -> str:
    """Return the network interfaces."""
    return (
        "### 3.5 Network interfaces\n\nTCP/IP, IPv4 or IPv6, over any physical medium. The node "
        f"listens on {config.node.host}, port {config.node.port}."
    )
