"""Reads the identifier of a C-FIND, C-MOVE or C-GET request against the table of keys. Pure.

Nothing of a peer's values is repeated in an error. Values that cannot be of their VR, a level that
the information model has not, a unique key that is missing: each is an error that names the key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from node.answering.keys import KEY_OF, KEYS, LEVELS, LEVELS_OF, UNIQUE_OF, Level
from node.answering.matching import is_universal
from node.attributes import Attributes
from node.element_reader import read_elements
from node.errors import UnfitObjectError, UnreadableObjectError
from node.wanted_elements import wanted_elements

LARGEST_BYTES = 1 << 20
"""An identifier of more is refused: 10,000 UIDs take two thirds of it."""

LONGEST_TEXT = 1024
"""Of one value that is no UID; no VR of a key allows more than a few hundred characters."""

_WANTED = wanted_elements(
    " ".join(("SpecificCharacterSet QueryRetrieveLevel", *(key.keyword for key in KEYS)))
)
_SELF_EVIDENT = ("SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle",
                 "InstanceAvailability", "TimezoneOffsetFromUTC")  # fmt: skip
_IGNORED = frozenset(tag_for_keyword(keyword) for keyword in _SELF_EVIDENT)
"""No keys, or told in every answer: they make no query one with unsupported keys."""

_FORM_OF_VR = {
    "UI": re.compile(r"[0-9.]{1,64}"),
    "DA": re.compile(r"(?:[0-9]{4}(?:[0-9]{2}){0,2})?(?:-(?:[0-9]{4}(?:[0-9]{2}){0,2})?)?"),
    "TM": re.compile(r"(?:[0-9:]{2,8}(?:\.[0-9]{1,6})?)?(?:-(?:[0-9:]{2,8}(?:\.[0-9]{1,6})?)?)?"),
    "IS": re.compile(r"\s*[+-]?[0-9]{1,12}\s*"),
    "US": re.compile(r"[0-9]{1,5}"),
}
"""How a single value of a query must look, where it is no free text (PS3.5 6.2, PS3.4 C.2.2.2.5)"""


@dataclass(frozen=True, slots=True)
class Query:
    """What a peer asks.

    Attributes:
        level: The Query/Retrieve Level.
        wanted: By keyword: what must match; keys that match everything are left out.
        asked: Keywords of the keys that are to be returned.
        has_unsupported: Whether there were keys that nobody here obeys.
        character_set: Specific Character Set of the request.
    """

    level: Level
    wanted: Mapping[str, str]
    asked: tuple[str, ...]
    has_unsupported: bool
    character_set: str

    def uids(self, keyword: str) -> tuple[str, ...] | None:
        """Return the distinct values that a unique key may have, or None: any."""
        value = self.wanted.get(keyword)
        return None if value is None else tuple(dict.fromkeys(filter(None, value.split("\\"))))


def read_query(encoded: bytes, transfer_syntax: str, model: UID) -> Query:
    """Return what an identifier asks.

    Args:
        encoded: The identifier.
        transfer_syntax: How it is encoded.
        model: The SOP class, which tells the information model.

    Raises:
        UnreadableObjectError: It cannot be parsed, or is too large.
        UnfitObjectError: It does not fit the information model.
    """
    if len(encoded) > LARGEST_BYTES:
        raise UnreadableObjectError("the identifier is too large")
    values = read_elements(encoded, transfer_syntax, _WANTED)
    syntax = UID(transfer_syntax)
    present = read_dataset(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian).keys()
    level = _level(values, model)
    above = LEVELS[: LEVELS.index(level) + 1]
    asked = tuple(k.keyword for k in KEYS if k.keyword in values.values and k.level in above)
    known = {tag_for_keyword(keyword) for keyword in asked} | _IGNORED
    wanted = {keyword: _value(values, keyword) for keyword in asked}
    return Query(
        level=level,
        wanted={k: v for k, v in wanted.items() if not is_universal(v)},
        asked=asked,
        has_unsupported=any(tag.element and tag not in known for tag in present),
        character_set=values.text("SpecificCharacterSet"),
    )


def require_unique_keys(query: Query, model: UID, *, is_retrieval: bool) -> None:
    """Do nothing if a request names what its level lies in (PS3.4 C.4.1.2.1 and C.4.2.2.1).

    The unique keys above the level must be single values. That is not asked for where the request
    names its objects, series or studies by their own unique key.

    Raises:
        UnfitObjectError: It does not.
    """
    own = UNIQUE_OF[query.level]
    if query.uids(own) is not None:
        return
    if is_retrieval:
        raise UnfitObjectError(f"{own} is missing")
    levels = LEVELS_OF[model]
    for level in levels[: levels.index(query.level)]:
        keyword = UNIQUE_OF[level]
        values = query.uids(keyword)
        if level is Level.PATIENT and query.uids(UNIQUE_OF[Level.STUDY]):
            continue
        if values is None or len(values) != 1:
            raise UnfitObjectError(f"{keyword} must be a single value")


def _level(values: Attributes, model: UID) -> Level:
    text = values.text("QueryRetrieveLevel")
    try:
        level = Level(text)
    except ValueError:
        raise UnfitObjectError("QueryRetrieveLevel is missing or unknown") from None
    if level not in LEVELS_OF[model]:
        raise UnfitObjectError("QueryRetrieveLevel is not in the information model")
    return level


def _value(values: Attributes, keyword: str) -> str:
    vr = dictionary_VR(keyword)
    if vr == "US":
        number = values.number(keyword)
        return "" if number is None else str(number)
    text = values.text(keyword)
    if is_universal(text):
        return ""
    form = _FORM_OF_VR.get(vr)
    parts = text.split("\\")
    if form is not None and not all(form.fullmatch(part.strip(" \0")) for part in parts if part):
        raise UnfitObjectError(f"{keyword} has no value of its VR ({vr})")
    if KEY_OF[keyword].kind != "unique" and len(text) > LONGEST_TEXT:
        raise UnfitObjectError(f"{keyword} is too long")
    return text
