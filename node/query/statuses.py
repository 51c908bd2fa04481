"""What the statuses of query and retrieve mean, as a table with mends (PS3.4 C.4.1 to C.4.3)."""

from node.config import Peer
from node.errors import QueryError

SUCCESS = 0x0000
CANCELED = 0xFE00
WITH_FAILURES = 0xB000
"""C-MOVE, C-GET: sub-operations complete, one or more failures or warnings."""

PENDING = (0xFF00, 0xFF01)
"""0xFF01: some optional keys are not supported for matching."""

MOVE_DESTINATION_UNKNOWN = 0xA801

_ASK_ITS_ADMINISTRATOR = "ask its administrator, and look into its conformance statement"

_FAILURES: dict[int, tuple[str, str, bool]] = {
    0x0110: ("processing failure", "look into its log", True),
    0x0122: ("it does not offer this service", _ASK_ITS_ADMINISTRATOR, False),
    0x0124: ("we are not authorized to ask it", "ask its administrator to allow our AE", False),
    0x0211: ("it does not know this operation", _ASK_ITS_ADMINISTRATOR, False),
    0x0212: ("it does not understand the request", _ASK_ITS_ADMINISTRATOR, False),
    0xA700: ("out of resources", "time may help; else look into its log", True),
    0xA701: ("it cannot tell how many objects match", "time may help; else see its log", True),
    0xA702: ("it cannot send the objects", "can it call our AE, host and port? see its log", True),
    0xA900: ("the question does not fit its model", _ASK_ITS_ADMINISTRATOR, False),
    CANCELED: ("it canceled the operation", "look into its log", True),
}
"""Status: what it means, what helps, and whether another attempt may."""

_UNABLE_TO_PROCESS = range(0xC000, 0xD000)


def is_pending(status: int) -> bool:
    """Tell whether more answers follow."""
    return status in PENDING


def failure_of(peer: Peer, status: int, calling_ae: str) -> QueryError | None:
    """Return the error that a final status is, or None for success and for 0xB000."""
    if status in (SUCCESS, WITH_FAILURES):
        return None
    if status == MOVE_DESTINATION_UNKNOWN:
        what, is_retryable = "it does not know us as a destination", False
        hint = f"ask its administrator to add our AE title {calling_ae} with our host and port"
    elif status in _UNABLE_TO_PROCESS:
        what, is_retryable = "unable to process", True
        hint = f"look into its log; for C-MOVE it must know our AE title {calling_ae} and address"
    else:
        unknown = ("a failure that the standard does not name", "look into its log", True)
        what, hint, is_retryable = _FAILURES.get(status, unknown)
    return QueryError(
        f"peer {peer.name} answers 0x{status:04X}: {what}", hint=hint, is_retryable=is_retryable
    )
