"""Section 3.4: what we ask of peers, and what follows from their answers."""

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from node.answering.commitment import SYNTAXES as COMMITMENT_SYNTAXES
from node.commitment.asking import REPORT_WAIT_S
from node.commitment.verdicts import HOPELESS_REASONS, PATIENT_REASONS, REASONS
from node.config import Config, Role
from node.conformance import NO_SUCH_INSTANCE, SENT, STORAGE_COMMITMENT, VERIFICATION
from node.delivery import (
    DELIVERED_WITH_WARNING,
    DISPENSABLE,
    MOST_UNANSWERED,
    MOST_UNANSWERED_IN_A_ROW,
    OUT_OF_RESOURCES,
    TRANSIENT_FAILURES,
)
from node.query.dialog import SYNTAXES
from node.query.find import FIND_MODELS, LONGEST_QUESTION_S, MOST_ANSWERS, RETURNED
from node.query.priors import MOST_IMAGES, MOST_SERIES, MOST_STUDIES
from node.query.retrieve import GET_MODELS, LONGEST_RETRIEVAL_S, MOVE_MODELS, UIDS_AT_ONCE
from node.query.statuses import _FAILURES, MOVE_DESTINATION_UNKNOWN, PENDING, WITH_FAILURES
from node.statement.asked import contexts
from node.statement.markdown import set_name, status, table


def activities_as_scu(config: Config) -> str:
    """Return what we ask of peers."""
    sections = (
        "### 3.4 Activities as SCU",
        _verification(),
        _sending(config),
        _commitment(config),
        _fetching(config),
    )
    return "\n\n".join(sections)


def _verification() -> str:
    return "#### 3.4.1 Verification\n\n" + contexts(
        (VERIFICATION,), (ImplicitVRLittleEndian,), "SCU", "no"
    )


def _sending(config: Config) -> str:
    node = config.node
    rows = [
        (
            row.sop_class_uid.name,
            row.sop_class_uid,
            row.modality,
            set_name(row.transfer_syntaxes),
            row.use,
        )
        for row in SENT
    ]
    columns = ("SOP class", "UID", "Modality", "transfer syntaxes", "use")
    behavior = [
        (status(0), "delivered"),
        *(
            (status(one), f"delivered, with a finding: {STORAGE_SERVICE_CLASS_STATUS[one][1]}")
            for one in sorted(DELIVERED_WITH_WARNING)
        ),
        (f"{status(OUT_OF_RESOURCES[0])} to {status(OUT_OF_RESOURCES[-1])}",
         "out of resources: sent again later"),
        *((status(one), f"{STORAGE_SERVICE_CLASS_STATUS.get(one, ('', 'may pass'))[1]}: sent again "
           "later") for one in sorted(TRANSIENT_FAILURES)),
        ("every other one", "not sent again until an operator says so; the others of the set are"),
        ("no answer in time, connection lost", "the association is aborted; the object and those "
         f"after it go over a new one; {MOST_UNANSWERED_IN_A_ROW} in a row or {MOST_UNANSWERED} in "
         "all end the attempt"),
        ("no accepted presentation context", "as another failure; but left out where the peer can "
         "do without: " + ", ".join(sorted(UID(one).name for one in DISPENSABLE))),
        ("association rejected for good", "not tried again until an operator says so"),
        ("association rejected for now, no connection", "tried again later"),
    ]  # fmt: skip
    return (
        "#### 3.4.2 Storage of results\n\nOnly what a result set needs is proposed, one context "
        "for each SOP class and transfer syntax. An object is sent as it lies if the peer takes "
        "its transfer syntax, else re-encoded without loss; one with a value too long for Explicit "
        "VR is not sent in that.\n\n"
        + table(columns, rows)
        + "\n\n"
        + table(("the peer answers", "what follows"), behavior)
        + f"\n\nAgain: after {node.delivery_retry_s:g} s, then twice as long each time up to "
        f"{node.delivery_retry_cap_s:g} s, for {node.delivery_give_up_h:g} h (a protocol may say "
        f"otherwise). After {node.breaker_failures} attempts in a row that came to nothing the "
        "peer's other deliveries wait until one of them succeeds. SOP Instance UIDs stay the same "
        "whenever the same object is sent."
    )


def _commitment(config: Config) -> str:
    rows = [(status(reason), words, _reaction(reason)) for reason, words in sorted(REASONS.items())]
    asked = ", ".join(p.name for p in config.peer if Role.COMMIT in p.roles) or "nobody"
    return (
        "#### 3.4.3 Commitment to results\n\n"
        + contexts((STORAGE_COMMITMENT,), COMMITMENT_SYNTAXES, "SCU", "not proposed; accepted")
        + f"\n\nAsked of destinations with the role `commit`: {asked}. N-ACTION follows when all "
        "objects of a result set are sent; those that were left out are not among them. The report "
        f"(N-EVENT-REPORT) is taken over the same association for {REPORT_WAIT_S:g} s, later over "
        "one that the peer opens, with role selection (SCU 0, SCP 1) or without; it is matched by "
        f"Transaction UID and peer. After {config.node.commitment_timeout_h:g} h without a report "
        "the peer is asked by C-FIND at IMAGE level, if it has the role `query`.\n\n"
        + table(("failure reason", "meaning", "what follows"), rows)
    )


def _reaction(reason: int) -> str:
    if reason in HOPELESS_REASONS:
        return f"undelivered: {HOPELESS_REASONS[reason]}"
    if reason in PATIENT_REASONS:
        return "asked again later"
    return (
        "sent again, then asked again"
        if reason == NO_SUCH_INSTANCE
        else "asked again once, then sent again"
    )


def _fetching(config: Config) -> str:
    asked = ", ".join(p.name for p in config.peer if Role.QUERY in p.roles) or "nobody"
    returned = [(level, ", ".join(words.split())) for level, words in RETURNED.items()]
    statuses = [
        (", ".join(map(status, PENDING)), "more follows"),
        (status(WITH_FAILURES), "the objects that came count; the others are asked for again"),
        (status(MOVE_DESTINATION_UNKNOWN), "C-MOVE: the peer must know our AE title and address"),
        *(
            (status(number), f"{what}; {'tried again' if is_retryable else 'not tried again'}")
            for number, (what, _, is_retryable) in _FAILURES.items()
        ),
    ]
    return (
        "#### 3.4.4 Query and retrieval\n\n"
        + contexts((*FIND_MODELS, *MOVE_MODELS, *GET_MODELS), SYNTAXES, "SCU", "no")
        + f"\n\nAsked of peers with the role `query`, by protocol rule: {asked}. The Study Root is "
        "asked, the Patient Root where a peer takes no other. C-MOVE names our own AE title; for "
        "C-GET we take the role of the SCP (SCU 0, SCP 1) in storage classes of 3.3.2, and what "
        "comes is kept as by C-STORE there.\n\n"
        + table(("level", "keys asked for"), returned)
        + f"\n\nBounds: {MOST_ANSWERS} answers to one question, {LONGEST_QUESTION_S:g} s for it, "
        f"{UIDS_AT_ONCE} SOP Instance UIDs in one retrieval, {LONGEST_RETRIEVAL_S / 3600:g} h for "
        f"it; of priors {MOST_STUDIES} studies, {MOST_SERIES} series, {MOST_IMAGES} objects.\n\n"
        + table(("status", "what follows"), statuses)
    )
