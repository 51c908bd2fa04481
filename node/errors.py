"""Errors of the shell, sorted by who can act on them, and what each means to a peer.

Nothing else of ours is raised by `node`, except `ValueError` and `TypeError` for a programmer's
mistake. No text in here ever holds a patient's name, identifier or birth date.
"""

from collections.abc import Sequence


class NodeError(Exception):
    """Something the node cannot do; `hint` tells the operator what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def with_hint(self) -> str:
        """What went wrong, and what to do about it."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class ConfigError(NodeError):
    """The configuration cannot be used.

    Attributes:
        problems: Every problem that was found, each with the key's name.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class UnreadableObjectError(NodeError):
    """Bytes that are no DICOM object, or whose header cannot be understood: the sender must act."""


class UnfitObjectError(NodeError):
    """A readable object that cannot be what its SOP class says: the sender must act."""


class StorageFullError(NodeError):
    """No room, or the disk refuses to write: time or the operator must act; senders may retry."""


class ComputeError(NodeError):
    """The child process ended without an outcome: killed, out of memory, out of time.

    Attributes:
        is_retryable: Whether another attempt may end differently.
    """

    def __init__(self, message: str, *, hint: str = "", is_retryable: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.is_retryable = is_retryable


class DeliveryError(NodeError):
    """A peer did not take what it was sent.

    Attributes:
        is_retryable: False when the peer's answer is permanent (PS3.8 9.3.4): a person must act.
    """

    def __init__(self, message: str, *, hint: str = "", is_retryable: bool) -> None:
        super().__init__(message, hint=hint)
        self.is_retryable = is_retryable


class QueryError(DeliveryError):
    """A peer did not answer what it was asked, or did not send what was to be fetched."""
