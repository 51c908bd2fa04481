"""Errors of the core, sorted by who can act on them.

Nothing else of ours is raised by `handlers`, except `ValueError` and `TypeError` for a programmer's
mistake. No text in here ever holds a patient's name, identifier or birth date.
"""

from collections.abc import Sequence


class HandlerError(Exception):
    """Something that the core refuses or could not do; `hint` tells the operator what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputRejectedError(HandlerError):
    """The objects of a case are unfit: the sender or the physicist must act.

    Attributes:
        reasons: Every reason that was found, not only the first, so that one correction is enough.
    """

    def __init__(self, reasons: Sequence[str], *, hint: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons), hint=hint)


class RegistrationFailedError(HandlerError):
    """An optimiser ended without any usable transform; the registration then counts as `fail`."""


class GeometryMismatchError(HandlerError):
    """Two values that must lie on the same grid, or in the same frame of reference, do not."""


class EmptyStructureError(HandlerError):
    """A structure that must have an inside has none."""


class EncodingError(HandlerError):
    """A result cannot be written as a valid DICOM object."""
