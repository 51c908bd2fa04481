"""One attribute at a time, read without trust; and the findings that tell what was wrong.

A malformed value counts as absent (None or empty): what absence means is for the caller to say.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from handlers.values import Finding, Severity

Floats = npt.NDArray[np.float64]

UID_TAIL = 8
"""So many last characters of a UID are shown to people."""


def text_of(ds: Dataset, keyword: str) -> str:
    """Return an attribute as text without surrounding blanks, or an empty string."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, NotImplementedError):
        return ""
    return "" if value is None else str(value).strip().strip("\0")


def day_of(ds: Dataset) -> str:
    """Return when an image was taken, YYYYMMDD as sent: acquisition, else series, else study."""
    days = (text_of(ds, f"{name}Date") for name in ("Acquisition", "Series", "Study"))
    return next((day for day in days if day), "")


def texts_of(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return a multi-valued attribute as upper-case texts; empty if absent."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, NotImplementedError):
        return ()
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) else list(value)
    return tuple(str(v).strip().upper() for v in values)


def numbers_of(ds: Dataset, keyword: str, count: int | None = None) -> Floats | None:
    """Return an attribute as finite numbers (n,), or None if absent, malformed or not `count`."""
    try:
        value = ds.get(keyword)
        if value is None or value == "":
            return None
        numbers = np.array([float(v) for v in np.atleast_1d(np.asarray(value, dtype=object))])
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return None
    if not np.all(np.isfinite(numbers)) or (count is not None and len(numbers) != count):
        return None
    return numbers


def number_of(ds: Dataset, keyword: str) -> float | None:
    """Return an attribute as one finite number, or None."""
    numbers = numbers_of(ds, keyword, 1)
    return None if numbers is None else float(numbers[0])


def items_of(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence; empty if it is absent."""
    value = ds.get(keyword)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def tail(uid: str) -> str:
    """Return the end of a UID, enough to find the object by."""
    return f"…{uid[-UID_TAIL:]}" if len(uid) > UID_TAIL else uid


def failure(code: str, text: str, **numbers: float) -> Finding:
    """Return a finding that makes what it is about unfit."""
    return Finding(code, Severity.FAILURE, text, numbers)


def warning(code: str, text: str, **numbers: float) -> Finding:
    """Return a finding that a person must weigh."""
    return Finding(code, Severity.WARNING, text, numbers)


def note(code: str, text: str, **numbers: float) -> Finding:
    """Return a finding for information."""
    return Finding(code, Severity.INFO, text, numbers)


def has_failure(findings: Sequence[Finding]) -> bool:
    """Tell whether anything found makes its object unfit."""
    return any(finding.severity is Severity.FAILURE for finding in findings)
