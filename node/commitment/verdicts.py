"""What follows from a failure reason, or from a refused request, as data. Pure.

Source of the reasons: PS3.3 C.14.1.1; of the statuses of N-ACTION: PS3.7 section 10.1.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.index.commitments import Report

PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT = 0x0112
CONFLICT = 0x0119
CLASS_NOT_SUPPORTED = 0x0122
DUPLICATE_TRANSACTION = 0x0131
RESOURCE_LIMITATION = 0x0213

REASONS = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_OBJECT: "no such object",
    CONFLICT: "it holds an object of another SOP class under this UID",
    CLASS_NOT_SUPPORTED: "it commits to no object of this SOP class",
    DUPLICATE_TRANSACTION: "the transaction UID is in use already",
    RESOURCE_LIMITATION: "resource limitation",
}
"""Failure reasons in words (PS3.3 C.14.1.1)."""

PATIENT_REASONS = frozenset({DUPLICATE_TRANSACTION, RESOURCE_LIMITATION})
"""Asked again as often as it takes: nothing is wrong with the object."""

HOPELESS_REASONS = {
    CLASS_NOT_SUPPORTED: "let its administrator allow it, or take the role `commit` from the peer",
    CONFLICT: "an object of another making bears the same UID: ask its administrator, and us",
}
"""Asking or sending again would change nothing; with what an operator can do."""

UNANSWERABLE_STATUSES = {
    0x0112: "it does not know the storage commitment instance",
    0x0118: "it does not know the SOP class",
    0x0122: "it does not support storage commitment",
    0x0123: "it does not know the action",
    0x0124: "it does not allow us to ask",
    0x0211: "it does not know the operation",
}
"""Statuses of N-ACTION (PS3.7 annex C) after which only its administrator, or ours, can help."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a report, by SOP Instance UID.

    Attributes:
        committed: Kept.
        not_held: To be sent again, with why.
        refused: Never to be kept, with why.
        ask_again: To be asked for again.
        reason: Of those that are asked for or sent again, in a sentence.
    """

    committed: frozenset[str] = frozenset()
    not_held: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    ask_again: frozenset[str] = frozenset()
    reason: str = ""


def failure_text(reason: int) -> str:
    """Return a failure reason with its code."""
    return f"0x{reason:04X}: {REASONS.get(reason, 'a reason that DICOM does not know')}"


def verdict_on(
    report: Report, asked: Mapping[str, str], failed_before: Mapping[str, int]
) -> Verdict:
    """Return what follows from a report.

    What the report does not name counts as failed in processing, and so does an unknown reason:
    asked again once, then sent again.

    Args:
        report: What the peer said.
        asked: The objects that it was asked for.
        failed_before: How often each failed in processing in earlier reports.
    """
    not_held, refused = {}, {}
    committed, ask_again, reasons = set(), set(), set()
    for uid in asked:
        if uid in report.committed and uid not in report.failed:
            committed.add(uid)
            continue
        reason = report.failed.get(uid, PROCESSING_FAILURE)
        told = failure_text(reason) if uid in report.failed else "it says nothing of the object"
        if reason in HOPELESS_REASONS:
            refused[uid] = f"{told} ({HOPELESS_REASONS[reason]})"
            continue
        reasons.add(told)
        is_patient = reason in PATIENT_REASONS
        if reason == NO_SUCH_OBJECT or (not is_patient and failed_before.get(uid, 0)):
            not_held[uid] = f"the peer does not commit to it: {told}"
        else:
            ask_again.add(uid)
    many = len(not_held) + len(ask_again)
    return Verdict(
        committed=frozenset(committed),
        not_held=not_held,
        refused=refused,
        ask_again=frozenset(ask_again),
        reason=f"it does not commit to {many} objects yet: {'; '.join(sorted(reasons))}"
        if many
        else "",
    )
