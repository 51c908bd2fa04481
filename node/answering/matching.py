"""How a value that is asked for matches one that is held (PS3.4 C.2.2.2). Pure.

An empty value, or only asterisks, matches everything; every other one only what has a value.
Values of several parts, as Modalities in Study, match if one of them does.
"""

import unicodedata
from collections.abc import Callable

from node.answering.keys import Matching


def matches(matching: Matching, wanted: str, held: str) -> bool:
    """Tell whether a held value is what a query wants.

    Args:
        matching: How to compare.
        wanted: Of the query; a backslash stands between several.
        held: Of the object; a backslash stands between several.

    Example:
        >>> matches(Matching.TEXT, "MR*", "MR T2"), matches(Matching.RANGE, "2020-", "20191231")
        (True, False)
    """
    if is_universal(wanted) or matching is Matching.NONE:
        return True
    one = _ONE[matching]
    return any(
        one(part, each)
        for part in wanted.split("\\")
        if part
        for each in held.split("\\")
        if each or matching is Matching.TEXT
    )


def is_universal(wanted: str) -> bool:
    """Tell whether a value matches everything."""
    return not wanted.strip("* ")


def globs(pattern: str, text: str) -> bool:
    """Tell whether a text is what a pattern of `*` and `?` describes, in time of their product."""
    at = place = 0
    star, resumed = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resumed = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at += 1
            place += 1
        elif star >= 0:
            resumed += 1
            at, place = star + 1, resumed
        else:
            return False
    return not pattern[at:].strip("*")


def _is_name(wanted: str, held: str) -> bool:
    """Compare as PS3.4 C.2.2.2.1 allows: each component group, without case and empty ends."""
    pattern = _folded(wanted)
    return globs(pattern, _folded(held)) or any(
        globs(pattern, _folded(group)) for group in held.split("=")
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip().rstrip("^= ")


def _is_in_range(wanted: str, held: str) -> bool:
    """Compare dates or times; what a partial value leaves open may be anything."""
    first, dash, last = wanted.partition("-")
    if not dash:
        last = first
    value = _digits(held, "0")
    after = not first or _digits(first, "0") <= value
    return after and (not last or value <= _digits(last, "9"))


_LONGEST_RANGED = 12
"""HHMMSSFFFFFF; a date is shorter."""


def _digits(text: str, padding: str) -> str:
    return "".join(filter(str.isdigit, text))[:_LONGEST_RANGED].ljust(_LONGEST_RANGED, padding)


def _is_number(wanted: str, held: str) -> bool:
    try:
        return int(wanted) == int(held)
    except ValueError:
        return wanted.strip() == held.strip()


_ONE: dict[Matching, Callable[[str, str], bool]] = {
    Matching.UIDS: lambda wanted, held: wanted.strip(" \0") == held.strip(" \0"),
    Matching.TEXT: lambda wanted, held: globs(wanted.strip(), held.strip()),
    Matching.NAME: _is_name,
    Matching.RANGE: _is_in_range,
    Matching.NUMBER: _is_number,
}
