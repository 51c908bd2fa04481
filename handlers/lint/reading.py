"""Elements of a dataset as they were sent: nothing is repaired, nothing is raised.

The other modules of this package ask here, never the dataset itself: pydicom converts when asked,
which costs time on long contours and fails (or quotes the value) on what is malformed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue

Floats = npt.NDArray[np.float64]

TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Text in the object's character set (PS3.5 6.1.2.3)."""

STRING_VRS = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
"""Whose values are characters (PS3.5 6.2)."""


ESCAPE = b"\x1b"
"""Begins a change of the character repertoire (ISO 2022; PS3.5 6.1.2.5)."""


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword")
    return tag


def element(ds: Dataset, tag: int) -> DataElement | RawDataElement | None:
    """Return an element as it lies there; what was left in the file stays there."""
    return ds.get_item(tag, keep_deferred=True)


def vr_of(found: DataElement | RawDataElement) -> str:
    """Return the VR that was sent, or that of the dictionary; empty where nobody knows."""
    told = found.VR
    if told and not (told == "UN" and dictionary_has_tag(found.tag)):
        return str(told)
    return str(dictionary_VR(found.tag)) if dictionary_has_tag(found.tag) else ""


def bytes_of(found: DataElement | RawDataElement) -> bytes:
    """Return the value of an element of characters, without what pads it to even length."""
    if isinstance(found, RawDataElement):
        return (found.value or b"").rstrip(b" \0")
    value = found.value
    if value is None:
        return b""
    many = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return "\\".join(str(v) for v in many).encode("latin-1", "replace").rstrip(b" \0")


def length_of(found: DataElement | RawDataElement) -> int:
    """Return how many bytes a value has (1 for anything that is no bytes and not empty)."""
    if isinstance(found, RawDataElement):
        return found.length
    if isinstance(found.value, (bytes, bytearray)):
        return len(found.value)
    if vr_of(found) in STRING_VRS:
        return len(bytes_of(found))
    return 0 if found.is_empty else 1


def is_empty(ds: Dataset, tag: int) -> bool:
    """Return whether an element is there and has no value."""
    found = element(ds, tag)
    if found is None:
        return False
    if isinstance(found, RawDataElement) and found.length in (0, 0xFFFFFFFF):
        return found.length == 0
    if isinstance(found, RawDataElement) and found.value is None:
        return False  # left in the file, so there is something
    if vr_of(found) in STRING_VRS:
        return not bytes_of(found).strip()
    return found.length == 0 if isinstance(found, RawDataElement) else bool(found.is_empty)


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; none where it is absent or unreadable."""
    return items_of(ds, tag_of(keyword))


def items_of(ds: Dataset, tag: int) -> Sequence[Dataset]:
    """Return the items of the sequence of a tag, as `items` does."""
    if tag not in ds:
        return ()
    try:
        value = ds[tag].value
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for what is malformed
        return ()
    return tuple(value) if ds[tag].VR == "SQ" and value else ()


def texts(ds: Dataset, keyword: str) -> list[str]:
    """Return the values of an element of characters, byte for character."""
    found = element(ds, tag_of(keyword))
    if found is None or vr_of(found) not in STRING_VRS:
        return []
    raw = bytes_of(found)
    return [part.decode("latin-1").strip() for part in raw.split(b"\\")] if raw else []


def text(ds: Dataset, keyword: str) -> str:
    """Return the first value of an element of characters; empty where there is none."""
    return (texts(ds, keyword) or [""])[0]


def characters(ds: Dataset, keyword: str) -> str:
    """Return the text of an element, decoded: two objects may say it in two character sets.

    What cannot be decoded is told byte for character.
    """
    found = element(ds, tag_of(keyword))
    if found is None:
        return ""
    if isinstance(found, RawDataElement) and found.value and is_plain(found.value):
        return bytes_of(found).decode("ascii").strip()
    try:
        return str(ds[found.tag].value or "").rstrip("\0 ").lstrip()
    except Exception:  # noqa: BLE001 - whatever cannot be decoded
        return bytes_of(found).decode("latin-1").strip()


def parts_of(ds: Dataset, found: DataElement | RawDataElement) -> list[bytes]:
    """Return the values of an element of characters, as bytes.

    In some character sets a byte of a letter is that of a backslash (PS3.5 6.1.2.5.3): there the
    library parts the text, after decoding; each part comes in UTF-8.
    """
    raw = bytes_of(found)
    if vr_of(found) not in TEXT_VRS or b"\\" not in raw or is_plain(raw):
        return raw.split(b"\\")
    try:
        value = ds[found.tag].value
    except Exception:  # noqa: BLE001 - whatever cannot be decoded
        return raw.split(b"\\")
    many = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return [str(each).encode() for each in many]


def is_plain(raw: bytes) -> bool:
    """Return whether bytes are ASCII and nothing else: an escape begins another repertoire."""
    return raw.isascii() and ESCAPE not in raw


def numbers(ds: Dataset, keyword: str) -> Floats | None:
    """Return the numbers of an element; None where it is absent, empty or not all numbers."""
    found = element(ds, tag_of(keyword))
    if found is None:
        return None
    try:
        if vr_of(found) in ("DS", "IS"):
            raw = bytes_of(found)
            parts = np.array(raw.split(b"\\"))
            return parts.astype(np.float64) if raw else None
        value = ds[found.tag].value
        if value is None:
            return None
        told = np.asarray(value, dtype=np.float64).ravel()
    except Exception:  # noqa: BLE001 - whatever is no number
        return None
    return told if told.size else None


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element; None where there is none."""
    told = numbers(ds, keyword)
    return None if told is None else float(told[0])


def whole(ds: Dataset, keyword: str) -> int | None:
    """Return the first number of an element if it is an integer."""
    told = number(ds, keyword)
    return int(told) if told is not None and np.isfinite(told) and told == int(told) else None


def vector(ds: Dataset, keyword: str, size: int) -> Floats | None:
    """Return exactly so many finite numbers, or None."""
    told = numbers(ds, keyword)
    good = told is not None and told.size == size and bool(np.isfinite(told).all())
    return told if good else None
