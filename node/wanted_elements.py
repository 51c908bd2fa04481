"""Says which elements of a data set are kept when its header is read, and what of them.

Tables only: `element_reader` obeys them. Knows no encoding beyond the byte order of tags.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from pydicom.datadict import dictionary_VR, tag_for_keyword

ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
"""PS3.5 7.5."""

TEXT_VRS = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT UN".split()) | {b""}
NUMBER_VRS = frozenset((b"US", b"UN", b""))
SEQUENCE_VRS = frozenset((b"SQ", b"UN", b""))
PIXEL_VRS = frozenset((b"OB", b"OW", b"UN", b""))
"""Where each kind of value may stand; b"" where the transfer syntax encodes no VR."""

_VRS_FOR = {"US": NUMBER_VRS, "SQ": SEQUENCE_VRS, "OB or OW": PIXEL_VRS}


class Keep(Enum):
    """What is kept of an element."""

    VALUE = auto()
    PRESENCE = auto()
    """Whether it has a value, or any item."""
    ITEMS = auto()
    DISTINCT = auto()
    """Of a sequence: the distinct values of one element further within."""
    WITHIN = auto()
    """A sequence on the way to that element."""
    EACH = auto()
    """That element."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept of one element; `inner` tells it of the items of a sequence."""

    keyword: str
    keep: Keep
    vrs: frozenset[bytes]
    inner: "Wanted"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept of a data set or item, by tag as it reads in either byte order.

    Items and delimiters are among the tags, without a rule: they must be looked at, too.
    """

    little: Mapping[int, Rule | None]
    big: Mapping[int, Rule | None]


def wanted_elements(keywords: str, *, present: str = "", **sequences: "Wanted | str") -> Wanted:
    """Return what is to be kept of a data set or item.

    Args:
        keywords: The elements that are no sequences.
        present: Of these only that they have a value, or any item.
        sequences: By keyword, what to keep of each item; or the way to one element further within
            (keywords from outside in), of which the distinct values are kept, and no items.
    """
    rules = [_rule(keyword, Keep.VALUE) for keyword in keywords.split()]
    rules += [_rule(keyword, Keep.PRESENCE) for keyword in present.split()]
    for keyword, inner in sequences.items():
        if isinstance(inner, Wanted):
            rules.append(_rule(keyword, Keep.ITEMS, inner))
        else:
            rules.append(_rule(keyword, Keep.DISTINCT, _way(inner.split())))
    return _wanted(rules)


def swapped(tag: int) -> int:
    """Return the number that the little endian bytes of a tag make when read as one."""
    return (tag & 0xFFFF) << 16 | tag >> 16


def _way(keywords: list[str]) -> Wanted:
    first, *others = keywords
    rule = _rule(first, Keep.WITHIN, _way(others)) if others else _rule(first, Keep.EACH)
    return _wanted([rule])


def _rule(keyword: str, keep: Keep, inner: Wanted | None = None) -> Rule:
    return Rule(keyword, keep, _VRS_FOR.get(dictionary_VR(keyword), TEXT_VRS), inner or NOTHING)


def _wanted(rules: Iterable[Rule]) -> Wanted:
    big: dict[int, Rule | None] = dict.fromkeys((ITEM, ITEM_DELIMITER, SEQUENCE_DELIMITER))
    for rule in rules:
        tag = tag_for_keyword(rule.keyword)
        if tag is None:
            raise ValueError(f"no element is called {rule.keyword}")
        big[tag] = rule
    return Wanted({swapped(tag): rule for tag, rule in big.items()}, big)


NOTHING = _wanted(())
