"""Rules that hold for every element of every object: lengths, forms, UIDs, character sets."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from handlers.lint.reading import (
    STRING_VRS,
    TEXT_VRS,
    bytes_of,
    element,
    is_plain,
    length_of,
    parts_of,
    texts,
    vr_of,
)
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together
from handlers.lint.value_limits import (
    CHARACTER_SETS,
    FORMS,
    LEGAL_UID,
    LONGEST_SHORT_VALUE,
    MOST_CHARACTERS,
    ONE_VALUE,
    SHORT_LENGTH,
    WHOLE_FORMS,
    multiplicity,
)

TOO_LONG = Rule(
    "value.too-long",
    Level.ERROR,
    "a value is longer than its value representation allows",
    "PS3.5 6.2; GSTT-CSC/TotalSegmentator-AIDE#11 (DS); pytrip/pytrip#285, #291 (SH)",
    "shorten the text, round the number (16 characters for DS and SH, 64 for LO)",
)
MALFORMED = Rule(
    "value.malformed",
    Level.ERROR,
    "a value does not have the form of its value representation",
    "PS3.5 6.2",
    "write numbers, dates, times and codes as the standard spells them",
)
MANY = Rule(
    "value.count",
    Level.ERROR,
    "an element has another number of values than the standard allows",
    "PS3.6 6 (value multiplicity)",
    "write as many values as the dictionary says",
)
ILLEGAL_UID = Rule(
    "uid.illegal",
    Level.ERROR,
    "a UID is not made of at most 64 digits and periods without leading zeros",
    "PS3.5 9.1",
    "make UIDs with a library; never cut or edit them",
)
ODD = Rule(
    "value.odd-length",
    Level.ERROR,
    "a value has an odd number of bytes",
    "PS3.5 7.1.1",
    "pad with a space, UIDs and bytes with a zero",
)
AS_UN = Rule(
    "value.written-as-un",
    Level.WARNING,
    "a value of more than 65534 bytes was written with VR UN, which some importers refuse",
    "PS3.5 6.2.2",
    "send in Implicit VR Little Endian, or write fewer points",
)
UNKNOWN_SET = Rule(
    "charset.unknown",
    Level.ERROR,
    "Specific Character Set is none that the standard defines",
    "PS3.3 C.12.1.1.2",
    "use ISO_IR 192 (UTF-8) or ISO_IR 100",
)
NOT_DECLARED = Rule(
    "charset.not-declared",
    Level.WARNING,
    "text holds other characters than ASCII, but no character set is declared: it is misread",
    "PS3.5 6.1.2.1",
    "write Specific Character Set (0008,0005)",
)

_CHARACTER_SET = Place.of("SpecificCharacterSet")


@looks_for(TOO_LONG, MALFORMED, MANY, ILLEGAL_UID, ODD, AS_UN, UNKNOWN_SET, NOT_DECLARED)
def elements(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at every element, also of nested items; private ones only for their length."""
    sets = texts(subject.ds, "SpecificCharacterSet")
    if any(name and name not in CHARACTER_SETS for name in sets):
        yield Broken(_CHARACTER_SET, rule=UNKNOWN_SET)
    is_explicit = subject.transfer_syntax_uid == ExplicitVRLittleEndian
    for tag in list(subject.ds.keys()):
        found = element(subject.ds, tag)
        is_sequence = isinstance(found, RawDataElement) and vr_of(found) == "SQ"
        sent = found.value if found is not None and is_sequence else None
        key = None if sent is None else (tag, sent, tuple(sets), is_explicit)
        if key is not None and key in together.clean:
            continue
        told = list(_element(subject.ds, tag, Place(), is_explicit, has_set=any(sets)))
        yield from told
        if key is not None and not told:
            together.clean.add(key)


def _element(
    ds: Dataset, tag: BaseTag, place: Place, is_explicit: bool, *, has_set: bool
) -> Iterator[Broken | NotChecked]:
    found = element(ds, tag)
    if found is None:
        return
    vr = vr_of(found)
    if vr == "SQ":
        yield from _items(ds, tag, place, is_explicit, has_set=has_set)
        return
    here = place.element(int(tag))
    if isinstance(found, RawDataElement) and found.length % 2 and found.length != 0xFFFFFFFF:
        yield Broken(here, f"{found.length} bytes", ODD)
    if is_explicit and found.VR == "UN" and vr in SHORT_LENGTH:
        length = length_of(found)
        if length > LONGEST_SHORT_VALUE:
            yield Broken(here, f"{length} bytes", AS_UN)
    if vr in STRING_VRS and not tag.is_private:
        yield from _value(ds, found, vr, here, has_set=has_set)


def _items(
    ds: Dataset, tag: int, place: Place, is_explicit: bool, *, has_set: bool
) -> Iterator[Broken | NotChecked]:
    here = place.element(int(tag))
    try:
        nested = ds[tag].value or ()
        for number, item in enumerate(nested, start=1):
            for each in list(item.keys()):
                yield from _element(item, each, here.item(number), is_explicit, has_set=has_set)
    except (AttributeError, TypeError, ValueError, KeyError, EOFError, NotImplementedError):
        yield Broken(here, "its items cannot be read", MALFORMED)


def _value(
    ds: Dataset, found: DataElement | RawDataElement, vr: str, here: Place, *, has_set: bool
) -> Iterator[Broken]:
    raw = bytes_of(found)
    if not raw.strip():
        return
    parts = [raw] if vr in ONE_VALUE else parts_of(ds, found)
    many = multiplicity(int(found.tag))
    if many is not None:
        low, high, step = many
        if not low <= len(parts) <= high or (step > 1 and (len(parts) - low) % step):
            yield Broken(here, f"{len(parts)} values", MANY)
    if vr == "UI":
        bad = sum(len(p) > 64 or LEGAL_UID.fullmatch(p) is None for p in parts if p)
        if bad:
            yield Broken(here, _of(bad, len(parts)), ILLEGAL_UID)
        return
    most = MOST_CHARACTERS.get(vr)
    if most is not None:
        longest = _longest(ds, found, vr, parts, most)
        if longest > most:
            yield Broken(here, f"{longest} characters, {vr} allows {most}", TOO_LONG)
    form = FORMS.get(vr)
    if form is not None and WHOLE_FORMS[vr].fullmatch(raw) is None:
        # a range of dates or times is for queries only; an empty value among others is legal
        bad = sum(form.fullmatch(p) is None for p in parts if p.strip())
        if bad:
            yield Broken(here, _of(bad, len(parts)), MALFORMED)
    if vr in TEXT_VRS and not has_set and not raw.isascii():
        yield Broken(here, rule=NOT_DECLARED)


def _longest(
    ds: Dataset,
    found: DataElement | RawDataElement,
    vr: str,
    parts: list[bytes],
    most: int,
) -> int:
    """Return the length of the longest value in characters.

    Bytes are counted where decoding cannot make them fewer.
    """
    split = [group for part in parts for group in (part.split(b"=") if vr == "PN" else [part])]
    longest = max(map(len, split))
    if longest <= most or vr not in TEXT_VRS or all(map(is_plain, parts)):
        return longest
    try:
        value = ds[found.tag].value
    except Exception:  # noqa: BLE001 - whatever cannot be decoded is judged by its bytes
        return longest
    many = [str(value)] if vr in ONE_VALUE or isinstance(value, str) else [str(v) for v in value]
    groups = [g for v in many for g in (v.split("=") if vr == "PN" else [v])]
    return max(map(len, groups), default=0)


def _of(bad: int, every: int) -> str:
    return "" if every == 1 else f"{bad} of {every} values"
