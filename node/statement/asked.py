"""Section 3.3: what peers may ask of us, and how it is answered."""

from collections.abc import Sequence

from pydicom.uid import UID

from node.answering import commitment, identifier, keys, reports
from node.answering.keys import FIND_CLASSES, GET_CLASSES, KEYS, LEVELS_OF, MOVE_CLASSES, Level
from node.config import Config
from node.conformance import (
    CANCELLED,
    CANNOT_UNDERSTAND,
    CLASS_INSTANCE_CONFLICT,
    CLASS_NOT_SUPPORTED,
    DESTINATION_UNKNOWN,
    DOES_NOT_MATCH_SOP_CLASS,
    DUPLICATE_TRANSACTION,
    INVALID_ARGUMENT,
    MISSING_ATTRIBUTE,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_WITHOUT_SOME_KEYS,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SENT_SYNTAXES,
    SOME_FAILED,
    STORAGE_COMMITMENT,
    SUCCESS,
    UNABLE_TO_COUNT,
    UNABLE_TO_PERFORM,
    VERIFICATION,
)
from node.statement.markdown import set_name, status, table
from node.storage_classes import (
    IMAGE_SYNTAXES,
    KEPT_SYNTAXES,
    OTHERS,
    PERHAPS_LOSSY,
    SENT,
    SYNTAX_SETS,
    accepted,
)

STORE_STATUSES: Sequence[tuple[int, str, str]] = (
    (SUCCESS, "Success", "file and journal record are on stable storage; also for an object "
     "received before, and for another content under a known SOP Instance UID (both versions are "
     "kept, the newest counts)"),
    (OUT_OF_RESOURCES, "Refused: out of resources", "no room, or the disk refuses to write: send "
     "again later; the object is larger, or the association longer, than the configuration allows"),
    (DOES_NOT_MATCH_SOP_CLASS, "Error: data set does not match SOP class", "SOP class or instance "
     "differ from command or presentation context; a UID is missing or illegal; Modality is not "
     "that of the SOP class; a CT lacks frame of reference, position, orientation or spacing; a CT "
     "or MR has no pixel data; a structure set has no ROI"),
    (CANNOT_UNDERSTAND, "Error: cannot understand", "the data set cannot be parsed or ends early"),
    (NOT_AUTHORISED, "Refused: not authorised", "the peer's roles lack `send`"),
    (PROCESSING_FAILURE, "Failure: processing failure", "anything unforeseen; the node's log has "
     "the cause"),
)  # fmt: skip
ACTION_STATUSES: Sequence[tuple[int, str]] = (
    (SUCCESS, "the request is on stable storage: a report will follow"),
    (NO_SUCH_INSTANCE, "the SOP instance is not the well-known one"),
    (INVALID_ARGUMENT, "the request cannot be parsed, or a UID in it is none"),
    (MISSING_ATTRIBUTE, "Transaction UID or Referenced SOP Sequence is missing"),
    (NO_SUCH_ACTION, "the Action Type ID is not 1"),
    (NOT_AUTHORISED, "the peer's roles lack `send`"),
    (RESOURCE_LIMITATION, f"more than {commitment.MOST_REFERENCES} objects; too many reports that "
     "the peer did not take; no room"),
)  # fmt: skip
FAILURE_REASONS: Sequence[tuple[int, str]] = (
    (NO_SUCH_INSTANCE, "the object is not held, or its file is not there with its size"),
    (CLASS_INSTANCE_CONFLICT, "an object of another SOP class is held under this UID"),
    (CLASS_NOT_SUPPORTED, "objects of this SOP class are not taken"),
    (DUPLICATE_TRANSACTION, "another request of the peer with this Transaction UID is still in "
     "progress; the same request again is one with the first"),
)  # fmt: skip
FIND_STATUSES: Sequence[tuple[int, str]] = (
    (PENDING, "a match"),
    (PENDING_WITHOUT_SOME_KEYS, "a match; the request had keys that are not supported"),
    (SUCCESS, "no more matches"),
    (OUT_OF_RESOURCES, f"there are more than {keys.MOST_MATCHES} matches: that many were sent"),
    (DOES_NOT_MATCH_SOP_CLASS, "the identifier cannot be parsed, has another level than the "
     "information model, lacks a unique key above its level, or has a value that its VR does not "
     "allow; Error Comment names the key"),
    (CANCELLED, "cancelled by C-CANCEL"),
    (NOT_AUTHORISED, "the peer's roles lack `receive`, and it does not ask for its own objects"),
    (PROCESSING_FAILURE, "anything unforeseen"),
)  # fmt: skip
RETRIEVE_STATUSES: Sequence[tuple[int, str]] = (
    (PENDING, "an object was answered, more are to come; with counts"),
    (SUCCESS, "all objects were stored, or nothing matched"),
    (SOME_FAILED, "some failed or were stored with a warning; Failed SOP Instance UID List"),
    (UNABLE_TO_COUNT, f"more than {keys.MOST_RETRIEVED} objects match"),
    (UNABLE_TO_PERFORM, "none was stored: no association with the destination, no accepted "
     f"context, refused; or the peer has {keys.MOVES_PER_PEER} retrievals under way"),
    (DESTINATION_UNKNOWN, "C-MOVE: the destination is no configured peer with the role `receive`"),
    (DOES_NOT_MATCH_SOP_CLASS, "as of C-FIND"),
    (CANCELLED, "cancelled by C-CANCEL; with counts"),
    (NOT_AUTHORISED, "the peer's roles lack `receive`"),
    (PROCESSING_FAILURE, "anything unforeseen"),
)  # fmt: skip


def activities_as_scp(config: Config) -> str:
    """Return what peers may ask of us."""
    sections = (
        "### 3.3 Activities as SCP",
        _verification(),
        _storage(config),
        _commitment(config),
        _query(),
        _retrieval(),
    )
    return "\n\n".join(sections)


def contexts(sop_classes: Sequence[UID], syntaxes: Sequence[UID], role: str, more: str) -> str:
    """Return a table of presentation contexts."""
    columns = ("SOP class", "UID", "transfer syntaxes", "our role", "role selection")
    named = ", ".join(syntax.name for syntax in syntaxes)
    rows = [(UID(one).name, one, named, role, more) for one in sop_classes]
    return table(columns, rows)


def _verification() -> str:
    return (
        "#### 3.3.1 Verification\n\n"
        + contexts((VERIFICATION,), SENT_SYNTAXES, "SCP", "no")
        + f"\n\nC-ECHO of an admitted peer is answered with {status(SUCCESS)}."
    )


def _storage(config: Config) -> str:
    rows = [
        (
            row.sop_class_uid.name,
            row.modality or "any",
            set_name(row.transfer_syntaxes),
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
        "#### 3.3.2 Storage\n\nOf the transfer syntaxes that the peer proposes in a "
        "presentation context the one is taken that stands first below, whatever the peer's order "
        "is: a lossy one only where there is no other. An object is kept byte for byte as it was "
        "sent, and decoded only when a case is computed with it. What is kept only never changes a "
        f"case and is never sent on. {also}\n\n"
        + table(("SOP class", "Modality", "transfer syntaxes", "what for", "use"), rows)
        + "\n\n**Transfer syntaxes**, in the node's order of preference; the sets are those that "
        "tables of presentation contexts name.\n\n"
        + _transfer_syntaxes(config)
        + "\n\nA case that is computed with an image that was compressed with loss, or perhaps "
        "was, says so in a finding, whether the transfer syntax tells it or Lossy Image "
        "Compression (0028,2110). 32-bit pixel data in Explicit VR Big Endian are read as words "
        "of 16 bits, the less significant first (PS3.5 8.1.1); an object that was evidently "
        "written otherwise is not computed with.\n\n"
        "**Statuses of C-STORE.** A refused object never ends the association. Error "
        "Comment (0000,0902) says why.\n\n"
        + table(
            ("status", "meaning", "when"), [(status(n), what, w) for n, what, w in STORE_STATUSES]
        )
    )


def _transfer_syntaxes(config: Config) -> str:
    rows_in_force = (*accepted(config), *SENT)
    used = {s for row in rows_in_force for s in row.transfer_syntaxes}
    named = {set_name(row.transfer_syntaxes) for row in rows_in_force}
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
    return table(("transfer syntax", "UID", *sets, "decoded"), rows)


def _decoding(syntax: UID) -> str:
    if syntax not in IMAGE_SYNTAXES:
        return "no"
    return "yes; lossy, or perhaps" if syntax in PERHAPS_LOSSY else "yes"


def _commitment(config: Config) -> str:
    node = config.node
    return (
        "#### 3.3.3 Storage commitment\n\n"
        + contexts((STORAGE_COMMITMENT,), commitment.SYNTAXES, "SCP", "accepted")
        + "\n\nN-ACTION (Request Storage Commitment) is kept on stable storage before it is "
        "answered, and survives the end of the process. The report says of each object whether it "
        "is held **at that moment**: the newest content under its SOP Instance UID is in the "
        "index, its file is there with the size that it had when it was promised, and its SOP "
        "class is the one asked for. The bytes are not read again. Objects that were answered with "
        "success a moment before are waited for. Whoever sent an object may not be who asks.\n\n"
        "**Duration.** What is committed is kept until an operator deletes it; the program deletes "
        "nothing that it received. It is no archive all the same: do not take the commitment for "
        "the right to delete the only copy. Retrieve AE Title is not told, since what was received "
        "cannot be retrieved from here.\n\n"
        f"**Report.** If the peer says nothing for {reports.QUIET_S:g} s after the answer, it gets "
        "the report over the same association. Else, and whenever that fails, "
        f"{commitment.OWN_ASSOCIATION_AFTER_S:g} s after the request over an association that we "
        "open with the peer's host and port, where we propose the SCP role (SCU 0, SCP 1); and "
        "over any later association on which the peer proposes the SOP class. It is tried again, "
        f"with pauses from {node.delivery_retry_s:g} s to {node.delivery_retry_cap_s:g} s, until "
        f"the peer answers it with success, at most {node.commitment_timeout_h:g} h.\n\n"
        + table(("status of N-ACTION", "when"), [(status(n), when) for n, when in ACTION_STATUSES])
        + "\n\n"
        + table(("failure reason", "when"), [(status(n), when) for n, when in FAILURE_REASONS])
    )


def _query() -> str:
    models = [(one.name, ", ".join(LEVELS_OF[one]), "hierarchical") for one in FIND_CLASSES]
    rows = [
        (level, key.keyword, key.kind, key.matching)
        for level in Level
        for key in KEYS
        if key.level is level
    ]
    return (
        "#### 3.3.4 Query\n\n"
        + contexts(FIND_CLASSES, keys.SYNTAXES, "SCP", "no")
        + "\n\nWhat is found: our own results, of each case the newest result set that was "
        "computed, also while a newer one is being computed; no earlier ones, and nothing that was "
        "received. Whoever has the role `receive` may ask, and is answered for all cases. A peer "
        "with the role `send` may ask at IMAGE level, by SOP Instance UID, for objects that it "
        f"sent itself; of those {', '.join(keys.SENT_KEYS)} are told, and Instance Availability "
        "OFFLINE: they cannot be retrieved.\n\n"
        + table(("information model", "levels", "queries"), models)
        + "\n\nThe unique keys above the level of a query must be single values, unless the query "
        "names the unique key of its own level. With the Study Root the patient's keys belong to "
        "the study. Keys:\n\n"
        + table(("level", "key", "kind", "matching"), rows)
        + "\n\nA query may use the keys of its level and of those above. Besides them every answer "
        f"has {', '.join(keys.ALWAYS_RETURNED)}; other keys, sequences and private elements are "
        "left out. Several values, parted by a backslash, match if one does. Dates and times match "
        "independently, partial times as ranges; Timezone Offset From UTC is ignored. Names match "
        "without regard to case; there is no phonetic matching. The list of UIDs may be as long as "
        f"an element (64 kB), an identifier {identifier.LARGEST_BYTES >> 20} MB. The answer is in "
        "the Specific Character Set of the request if that has the letters, else in ISO_IR 192; "
        "without it if plain ASCII does.\n\n"
        + table(("status of C-FIND", "when"), [(status(n), when) for n, when in FIND_STATUSES])
    )


def _retrieval() -> str:
    return (
        "#### 3.3.5 Retrieval\n\n"
        + contexts((*MOVE_CLASSES, *GET_CLASSES), keys.SYNTAXES, "SCP", "no")
        + "\n\nWhat can be found can be retrieved, by the unique keys at any level; other keys "
        "are ignored. C-MOVE sends as 3.4.2 does, over a new association, with Move Originator "
        "left out. For C-GET the peer takes the role of the SCP (SCU 0, SCP 1) in the storage "
        "classes of 3.4.2, by role selection; objects are encoded as the accepted transfer syntax "
        "says, Implicit VR Little Endian being preferred for structure sets. An object with a "
        "value too long for Explicit VR is not sent in that.\n\n"
        + table(
            ("status of C-MOVE, C-GET", "when"),
            [(status(n), when) for n, when in RETRIEVE_STATUSES],
        )
    )
