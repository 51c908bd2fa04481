"""What PS3.5 says about values, as tables: lengths, forms, character sets, multiplicities."""

import re
from collections.abc import Mapping
from functools import lru_cache

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VM

MOST_CHARACTERS: Mapping[str, int] = {
    "AE": 16, "AS": 4, "CS": 16, "DA": 10, "DS": 16, "DT": 26, "IS": 12, "LO": 64, "LT": 10240,
    "PN": 64, "SH": 16, "ST": 1024, "TM": 16, "UI": 64,
}  # fmt: skip
"""Longest value by VR, of PN each group (PS3.5 6.2; DA and TM as ACR-NEMA wrote them, too)."""

FORMS: Mapping[str, re.Pattern[bytes]] = {
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "CS": re.compile(rb"[A-Z0-9 _]*"),
    "DA": re.compile(rb"\d{8}|\d{4}\.\d\d\.\d\d"),
    "DS": re.compile(rb" *[+-]?(\d+(\.\d*)?|\.\d+)([Ee][+-]?\d+)? *"),
    "IS": re.compile(rb" *[+-]?\d+ *"),
    "TM": re.compile(rb"\d\d(:?\d\d(:?\d\d(\.\d{1,6})?)?)? *"),
}
"""Form of one value by VR (PS3.5 6.2)."""

WHOLE_FORMS: Mapping[str, re.Pattern[bytes]] = {
    vr: re.compile(rb"(?:%b)?(?:\\(?:%b)?)*" % (form.pattern, form.pattern))
    for vr, form in FORMS.items()
}
"""Form of all values of an element at once: a long list is read once, not value by value."""

LEGAL_UID = re.compile(rb"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
"""Digits and periods, no component with a leading zero (PS3.5 9.1)."""

ONE_VALUE = frozenset({"LT", "ST", "UT", "UR"})
"""A backslash is text in these (PS3.5 6.2)."""

SHORT_LENGTH = MOST_CHARACTERS.keys() | {"AT", "FD", "FL", "SL", "SS", "UL", "US"}
"""With a length field of 16 bits in an explicit VR (PS3.5 7.1.2)."""

LONGEST_SHORT_VALUE = 65534
"""Bytes that fit behind an even length field of 16 bits (PS3.5 7.1.2)."""

CHARACTER_SETS = frozenset(python_encoding)
"""Defined terms of Specific Character Set (PS3.3 C.12.1.1.2), as the library lists them."""


@lru_cache(maxsize=4096)
def multiplicity(tag: int) -> tuple[int, int, int] | None:
    """Return the least and the largest number of values and the step; None where none is told.

    Example:
        >>> multiplicity(0x00200032), multiplicity(0x00080008), multiplicity(0x30060050)
        ((3, 3, 1), (2, 1000000000, 1), (3, 1000000000, 3))
    """
    try:
        told = dictionary_VM(tag)
    except KeyError:
        return None
    low, _, high = told.partition("-")
    if not low.isdigit():
        return None
    if not high:
        return int(low), int(low), 1
    if high.isdigit():
        return int(low), int(high), 1
    step = high.removesuffix("n")
    return int(low), 10**9, int(step) if step else 1
