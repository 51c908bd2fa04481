"""What the node speaks: statuses, names, and the conformance statement.

`scp` and `header` obey the tables here and in `storage_classes`, and `conformance_statement` prints
them, so that the statement cannot differ from what runs. Opens no socket and knows no association.
"""

from collections.abc import Mapping, Sequence

from pydicom.uid import UID

from node.config import Config, Role
from node.errors import (
    NodeError,
    StorageFullError,
    UnfitObjectError,
    UnreadableObjectError,
)
from node.storage_classes import (
    ACCEPTED,
    IMAGE_SYNTAXES,
    KEPT_SYNTAXES,
    MODALITY_OF,
    OTHERS,
    PERHAPS_LOSSY,
    SENT,
    SENT_SYNTAXES,
    SYNTAX_SETS,
    StorageClass,
    accepted,
)

__all__ = [
    "ACCEPTED",
    "MODALITY_OF",
    "SENT",
    "SENT_SYNTAXES",
    "StorageClass",
    "accepted",
    "conformance_statement",
    "status_of",
]

MANUFACTURER = "Hilum"
"""Manufacturer (0008,0070) of our own objects."""

IMPLEMENTATION_CLASS_UID = UID("2.25.88954070868025054545243061283437047646")
IMPLEMENTATION_VERSION_NAME = "HILUM"
"""Who wrote a file (PS3.10 7.1) and who speaks on the network (PS3.7 D.3.3.2).

These three repeat `handlers.encode.identity`, and a test compares them: to import them would bring
the numerical libraries, 180 MB of them, into every process that only talks.
"""

VERIFICATION = UID("1.2.840.10008.1.1")
"""Verification SOP class (PS3.4 Annex A); pydicom has no name for it."""

SUCCESS = 0x0000
"""The object is safe: its file and the journal record of it survive a power cut."""
PROCESSING_FAILURE = 0x0110
NOT_AUTHORISED = 0x0124
"""PS3.7 Annex C."""
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000
"""PS3.4 table B.2-1."""

STATUS_OF: Mapping[type[NodeError], int] = {
    UnreadableObjectError: CANNOT_UNDERSTAND,
    UnfitObjectError: DOES_NOT_MATCH_SOP_CLASS,
    StorageFullError: OUT_OF_RESOURCES,
    NodeError: PROCESSING_FAILURE,
}
"""C-STORE status for each error; an error of another class counts as its nearest ancestor here."""


def status_of(error: NodeError) -> int:
    """Return the C-STORE status that tells a sender of this error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def conformance_statement(config: Config) -> str:
    """Return the DICOM conformance statement in Markdown, in the order of PS3.2."""
    sections = (
        _overview(config),
        _application_entity(config),
        _received_classes(config),
        _sent_classes(),
        _transfer_syntaxes(config),
        _association_policies(config),
        _statuses(),
        _configuration(config),
        _security(config),
    )
    return "\n\n".join(sections) + "\n"


def _overview(config: Config) -> str:
    received = accepted(config)
    rows = [
        (row.sop_class_uid.name, row.sop_class_uid, *_roles(row.sop_class_uid, received))
        for row in {r.sop_class_uid: r for r in (*received, *SENT)}.values()
    ]
    rows.append((VERIFICATION.name, VERIFICATION, "yes", "yes"))
    return (
        "# DICOM conformance statement of Hilum\n\n## 1 Overview\n\n"
        "Hilum receives CT, MR and RT Structure Sets, registers MR to the planning CT, proposes a "
        "refined target and sends the results to the peers that its configuration names. It is no "
        "archive: query/retrieve, storage commitment, worklist, media and DICOMweb are not "
        "supported.\n\n" + _table(("SOP class", "UID", "received (SCP)", "sent (SCU)"), rows)
    )


def _roles(sop_class_uid: UID, received: Sequence[StorageClass]) -> tuple[str, str]:
    is_received = any(row.sop_class_uid == sop_class_uid for row in received)
    is_sent = any(row.sop_class_uid == sop_class_uid for row in SENT)
    return "yes" if is_received else "no", "yes" if is_sent else "no"


def _application_entity(config: Config) -> str:
    rows = [
        ("AE title", config.node.ae_title),
        ("Application context name", "1.2.840.10008.3.1.1.1"),
        ("Maximum PDU size received", f"{config.node.max_pdu_bytes} bytes"),
        ("Associations accepted at once", config.node.max_associations),
        ("Asynchronous operations", "none (window 1, 1)"),
        ("Implementation class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation version name", IMPLEMENTATION_VERSION_NAME),
        ("SCP/SCU role selection, extended negotiation", "not used"),
        ("User identity negotiation", "username, with or without passcode; see 4"),
    ]
    return "## 2 AE specification\n\nOne application entity receives and sends.\n\n" + _table(
        ("property", "value"), rows
    )


def _received_classes(config: Config) -> str:
    rows = [
        (
            row.sop_class_uid.name,
            row.modality or "any",
            _set_name(row.transfer_syntaxes),
            "computed with" if row.is_computed else "kept",
            row.use,
        )
        for row in accepted(config)
    ]
    also = (
        f'`accept = "all"` is in force: every storage SOP class is taken, {len(OTHERS)} of them '
        "beyond the usual ones."
        if config.node.accept == "all"
        else "Another SOP class is refused in negotiation, and the rest of the association goes "
        f'on; `accept = "all"` in the configuration adds the other {len(OTHERS)} storage SOP '
        "classes, which are then kept in any transfer syntax."
    )
    return (
        "### 2.1 Storage as SCP\n\nOf the transfer syntaxes that the peer proposes in a "
        "presentation context the one is taken that stands first in 2.3, whatever the peer's order "
        "is: a lossy one only where there is no other. An object is kept byte for byte as it was "
        "sent, and decoded only when a case is computed with it. What is kept only never changes a "
        f"case and is never sent on. {also}\n\n"
        + _table(("SOP class", "Modality", "transfer syntaxes", "what for", "use"), rows)
    )


def _sent_classes() -> str:
    rows = [
        (row.sop_class_uid.name, row.modality, _set_name(row.transfer_syntaxes), row.use)
        for row in SENT
    ]
    return "### 2.2 Storage as SCU\n\nOnly what a result set needs is proposed.\n\n" + _table(
        ("SOP class", "Modality", "transfer syntaxes", "use"), rows
    )


def _transfer_syntaxes(config: Config) -> str:
    rows_in_force = (*accepted(config), *SENT)
    used = {s for row in rows_in_force for s in row.transfer_syntaxes}
    named = {_set_name(row.transfer_syntaxes) for row in rows_in_force}
    sets = {name: those for name, those in SYNTAX_SETS.items() if name in named}
    rows = [
        (
            syntax.name,
            syntax,
            *("yes" if syntax in those else "no" for those in sets.values()),
            _decoding(syntax),
        )
        for syntax in sorted(used, key=KEPT_SYNTAXES.index)
    ]
    return (
        "### 2.3 Transfer syntaxes\n\nIn the node's order of preference; the sets are those that "
        "2.1 and 2.2 name.\n\n"
        + _table(("transfer syntax", "UID", *sets, "decoded"), rows)
        + "\n\nA case that is computed with an image that was compressed with loss, or perhaps "
        "was, says so in a finding, whether the transfer syntax tells it or Lossy Image "
        "Compression (0028,2110). 32-bit pixel data in Explicit VR Big Endian are read as words "
        "of 16 bits, the less significant first (PS3.5 8.1.1); an object that was evidently "
        "written otherwise is not computed with.\n\n"
        "Verification (C-ECHO) is accepted and proposed in Implicit VR Little Endian; it is "
        "accepted in Explicit VR Little Endian, too."
    )


def _decoding(syntax: UID) -> str:
    if syntax not in IMAGE_SYNTAXES:
        return "no"
    return "yes; lossy, or perhaps" if syntax in PERHAPS_LOSSY else "yes"


def _set_name(syntaxes: tuple[UID, ...]) -> str:
    return next(name for name, those in SYNTAX_SETS.items() if those == syntaxes)


def _association_policies(config: Config) -> str:
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
        "### 2.4 Association policies\n\n"
        "A peer is known by its calling AE title together with its network address, or with its "
        "certificate.\n\n"
        + _table(("an association is rejected when", "result", "source", "reason"), rejections)
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
        "its evidence says so and the peer has been quiet for a while."
    )


def _statuses() -> str:
    rows = [
        (f"0x{SUCCESS:04X}", "Success", "file and journal record are on stable storage; also for "
         "an object received before, and for another content under a known SOP Instance UID (both "
         "versions are kept, the newest counts)"),
        (f"0x{OUT_OF_RESOURCES:04X}", "Refused: out of resources",
         "no room, or the disk refuses to write: send again later; the object is larger, or the "
         "association longer, than the configuration allows"),
        (f"0x{DOES_NOT_MATCH_SOP_CLASS:04X}", "Error: data set does not match SOP class",
         "SOP class or instance differ from command or presentation context; a UID is missing or "
         "illegal; Modality is not that of the SOP class; a CT lacks frame of reference, position, "
         "orientation or spacing; a CT or MR has no pixel data; a structure set has no ROI"),
        (f"0x{CANNOT_UNDERSTAND:04X}", "Error: cannot understand",
         "the data set cannot be parsed or ends early"),
        (f"0x{NOT_AUTHORISED:04X}", "Refused: not authorised", "the peer's roles lack `send`"),
        (f"0x{PROCESSING_FAILURE:04X}", "Failure: processing failure",
         "anything unforeseen; the node's log has the cause"),
    ]  # fmt: skip
    return (
        "### 2.5 Statuses of C-STORE\n\nA refused object never ends the association. Error "
        "Comment (0000,0902) says why.\n\n" + _table(("status", "meaning", "when"), rows)
    )


def _configuration(config: Config) -> str:
    rows = [
        (peer.name, peer.ae_title, peer.host, peer.port or "", ", ".join(peer.roles))
        for peer in config.peer
    ]
    return (
        "## 3 Configuration\n\nAE title, address, port, limits and peers stand in one TOML file; "
        "the values in this statement are those in force.\n\n"
        + _table(("peer", "AE title", "host", "port", "roles"), rows)
        + f"\n\nThe node listens on {config.node.host}, port {config.node.port}. Character sets: "
        "every Specific Character Set of PS3.3 C.12.1.1.2 is kept as sent; headers are read with "
        "the one that the object declares."
    )


def _security(config: Config) -> str:
    listed = ", ".join(
        f"`{role}` ({', '.join(p.name for p in config.peer if role in p.roles) or 'nobody'})"
        for role in Role
    )
    named = ", ".join(p.name for p in config.peer if p.username is not None) or "nobody"
    return (
        f"## 4 Security\n\n{_encryption(config)} A peer may do only what its roles allow: "
        f"{listed}. User identity (PS3.7 D.3.3.7) is demanded of: {named}. Patient names, "
        "identifiers and birth dates are not written to logs or file names; text from a peer is "
        "never part of a path."
    )


def _encryption(config: Config) -> str:
    if config.tls is None:
        return (
            "Connections are not encrypted, since `[tls]` is not configured: use a protected "
            "network."
        )
    called = ", ".join(p.name for p in config.peer if p.tls) or "nobody"
    plain = "closed" if config.tls.require else f"open, too (port {config.node.port})"
    return (
        "TLS after the BCP 195 RFC 8996, 9325 secure transport connection profile (PS3.15 B.12), "
        f"TLS 1.2 and 1.3, both ends with a certificate, on port {config.tls.port}; the plain "
        f"listener is {plain}. Called over TLS: {called}."
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
