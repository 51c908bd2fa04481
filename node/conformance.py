"""What the node speaks: SOP classes, transfer syntaxes, statuses, and their rendering.

The tables are data; `scp` and `header` obey them and `conformance_statement` prints them, so that
the statement cannot differ from what runs. Opens no socket and knows no association.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import uid
from pydicom.uid import UID

from node.config import Config, Role
from node.errors import (
    NodeError,
    StorageFullError,
    UnfitObjectError,
    UnreadableObjectError,
)

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
"""The object is safe: file and index row survive a power cut."""
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

MAX_PDU_BYTES = 131072
"""Longest PDU that we receive: few, large reads."""

UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
LOSSLESS = (
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.RLELossless,
)
PERHAPS_LOSSY = (uid.JPEG2000, uid.JPEGBaseline8Bit)
"""Accepted as sent; whether a lossy image may be computed with is decided later."""

IMAGE_SYNTAXES = UNCOMPRESSED + LOSSLESS + PERHAPS_LOSSY
SENT_SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A storage SOP class in one direction.

    Attributes:
        modality: What Modality (0008,0060) must say.
        transfer_syntaxes: Those we accept, or propose.
        use: What for.
    """

    sop_class_uid: UID
    modality: str
    transfer_syntaxes: tuple[UID, ...]
    use: str


ACCEPTED = (
    StorageClass(uid.CTImageStorage, "CT", IMAGE_SYNTAXES, "planning CT"),
    StorageClass(uid.EnhancedCTImageStorage, "CT", IMAGE_SYNTAXES, "kept, not computed"),
    StorageClass(
        uid.LegacyConvertedEnhancedCTImageStorage, "CT", IMAGE_SYNTAXES, "kept, not computed"
    ),
    StorageClass(uid.MRImageStorage, "MR", IMAGE_SYNTAXES, "MR to register"),
    StorageClass(uid.EnhancedMRImageStorage, "MR", IMAGE_SYNTAXES, "MR to register"),
    StorageClass(uid.RTStructureSetStorage, "RTSTRUCT", UNCOMPRESSED, "targets and organs"),
    StorageClass(uid.RTDoseStorage, "RTDOSE", UNCOMPRESSED, "kept with its case"),
    StorageClass(uid.RTPlanStorage, "RTPLAN", UNCOMPRESSED, "kept with its case"),
    StorageClass(uid.RTIonPlanStorage, "RTPLAN", UNCOMPRESSED, "kept with its case"),
    StorageClass(uid.SpatialRegistrationStorage, "REG", UNCOMPRESSED, "where the MR may lie"),
    StorageClass(
        uid.DeformableSpatialRegistrationStorage, "REG", UNCOMPRESSED, "kept with its case"
    ),
    StorageClass(
        uid.SegmentationStorage, "SEG", (*UNCOMPRESSED, uid.RLELossless), "kept, not computed"
    ),
    StorageClass(
        uid.Comprehensive3DSRStorage, "SR", UNCOMPRESSED, "our own report, if a peer returns it"
    ),
)
"""Storage SOP classes as SCP."""

SENT = (
    StorageClass(uid.MRImageStorage, "MR", SENT_SYNTAXES, "MR resampled on the planning CT"),
    StorageClass(uid.SpatialRegistrationStorage, "REG", SENT_SYNTAXES, "MR frame to CT frame"),
    StorageClass(
        uid.DeformableSpatialRegistrationStorage,
        "REG",
        SENT_SYNTAXES,
        "CT frame to MR frame, where a deformation is used",
    ),
    StorageClass(
        uid.RTStructureSetStorage, "RTSTRUCT", SENT_SYNTAXES, "original and refined targets"
    ),
    StorageClass(uid.SegmentationStorage, "SEG", SENT_SYNTAXES, "what the report refers to"),
    StorageClass(uid.Comprehensive3DSRStorage, "SR", SENT_SYNTAXES, "measurements (TID 1500)"),
)
"""Storage SOP classes as SCU."""

MODALITY_OF: Mapping[str, str] = {row.sop_class_uid: row.modality for row in ACCEPTED}
"""The Modality that an accepted SOP class demands."""


def status_of(error: NodeError) -> int:
    """Return the C-STORE status that tells a sender of this error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def conformance_statement(config: Config) -> str:
    """Return the DICOM conformance statement in Markdown, in the order of PS3.2."""
    sections = (
        _overview(),
        _application_entity(config),
        _sop_classes(),
        _association_policies(config),
        _statuses(),
        _configuration(config),
        _security(config),
    )
    return "\n\n".join(sections) + "\n"


def _overview() -> str:
    rows = [
        (row.sop_class_uid.name, row.sop_class_uid, *_roles(row.sop_class_uid))
        for row in {r.sop_class_uid: r for r in (*ACCEPTED, *SENT)}.values()
    ]
    rows.append((VERIFICATION.name, VERIFICATION, "yes", "yes"))
    return (
        "# DICOM conformance statement of Hilum\n\n## 1 Overview\n\n"
        "Hilum receives CT, MR and RT Structure Sets, registers MR to the planning CT, proposes a "
        "refined target and sends the results to the peers that its configuration names. It is no "
        "archive: query/retrieve, storage commitment, worklist, media and DICOMweb are not "
        "supported.\n\n" + _table(("SOP class", "UID", "received (SCP)", "sent (SCU)"), rows)
    )


def _roles(sop_class_uid: UID) -> tuple[str, str]:
    is_received = any(row.sop_class_uid == sop_class_uid for row in ACCEPTED)
    is_sent = any(row.sop_class_uid == sop_class_uid for row in SENT)
    return "yes" if is_received else "no", "yes" if is_sent else "no"


def _application_entity(config: Config) -> str:
    rows = [
        ("AE title", config.node.ae_title),
        ("Application context name", "1.2.840.10008.3.1.1.1"),
        ("Maximum PDU size received", f"{MAX_PDU_BYTES} bytes"),
        ("Associations accepted at once", config.node.max_associations),
        ("Asynchronous operations", "none (window 1, 1)"),
        ("Implementation class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation version name", IMPLEMENTATION_VERSION_NAME),
        ("SCP/SCU role selection, extended negotiation, user identity", "not used"),
    ]
    return "## 2 AE specification\n\nOne application entity receives and sends.\n\n" + _table(
        ("property", "value"), rows
    )


def _sop_classes() -> str:
    columns = ("SOP class", "Modality", "transfer syntaxes", "use")
    received = [
        (row.sop_class_uid.name, row.modality, _syntax_names(row.transfer_syntaxes), row.use)
        for row in ACCEPTED
    ]
    sent = [
        (row.sop_class_uid.name, row.modality, _syntax_names(row.transfer_syntaxes), row.use)
        for row in SENT
    ]
    used = dict.fromkeys(s for row in (*ACCEPTED, *SENT) for s in row.transfer_syntaxes)
    return (
        "### 2.1 Storage as SCP\n\nOf the transfer syntaxes of a presentation context the first "
        "supported one in the peer's order is taken. An object is kept byte for byte as it was "
        "sent.\n\n"
        + _table(columns, received)
        + "\n\n### 2.2 Storage as SCU\n\nOnly what a result set needs is proposed.\n\n"
        + _table(columns, sent)
        + "\n\n### 2.3 Transfer syntaxes\n\n"
        + _table(("transfer syntax", "UID"), [(s.name, s) for s in used])
        + "\n\nVerification (C-ECHO) is accepted and proposed in Implicit VR Little Endian; it is "
        "accepted in Explicit VR Little Endian, too."
    )


def _syntax_names(syntaxes: tuple[UID, ...]) -> str:
    return "; ".join(syntax.name for syntax in syntaxes)


def _association_policies(config: Config) -> str:
    rejections = [
        ("the called AE title is not ours", "1 permanent", "1 user", "7 called AE title"),
        (
            "calling AE title and address belong to no configured peer",
            "1 permanent",
            "1 user",
            "3 calling AE title",
        ),
        ("the node is stopping", "2 transient", "3 presentation", "1 temporary congestion"),
        ("too many associations", "2 transient", "3 presentation", "2 local limit"),
    ]
    return (
        "### 2.4 Association policies\n\n"
        "A peer is known by its calling AE title together with its network address.\n\n"
        + _table(("an association is rejected when", "result", "source", "reason"), rejections)
        + "\n\nAn association without traffic is aborted after "
        f"{config.node.network_timeout_s:g} s.\n\n"
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
        (f"0x{SUCCESS:04X}", "Success", "file and index row are on stable storage; also for an "
         "object received before, and for another content under a known SOP Instance UID (both "
         "versions are kept, the newest counts)"),
        (f"0x{OUT_OF_RESOURCES:04X}", "Refused: out of resources",
         "no room, or the disk refuses to write; send again later"),
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
    return (
        "## 4 Security\n\nConnections are not encrypted (no TLS): use a protected network. A peer "
        f"may do only what its roles allow: {listed}. Patient names, identifiers and birth dates "
        "are not written to logs or file names; text from a peer is never part of a path."
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
