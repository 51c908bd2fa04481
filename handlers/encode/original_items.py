"""Sequence items of a source -> copies that are written byte for byte.

A library that reads numbers as text and writes them again tidies them: blanks go, values get
shorter, what it cannot read it refuses. Here an element that nobody has looked at stays the bytes
that came. Only what would mean something else in Implicit VR Little Endian is read and written
anew: items within items, and the binary numbers of a big endian source.

Read first: DICOM PS3.5 6.2 (value representations) and 7.1 (data elements).
"""

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence as ItemSequence

SWAPPED_VRS = frozenset(
    ["AT", "FD", "FL", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "US", "UV"]
)
"""Value representations whose bytes depend on the byte order (PS3.5 7.3)."""


def copied_items(items: Iterable[Dataset], source: Dataset) -> ItemSequence:
    """Return copies of a dataset's items, to be written in Implicit VR Little Endian.

    Args:
        items: Of the source, or of an item in it; they are not changed.
        source: By its Specific Character Set, text is read where it must be.
    """
    encodings = convert_encodings(source.get("SpecificCharacterSet", None) or default_encoding)
    return ItemSequence([_copied(item, encodings) for item in items])


def _copied(item: Dataset, encodings: list[str]) -> Dataset:
    own = item.get("SpecificCharacterSet", None)
    encodings = convert_encodings(own) if own else encodings
    copy = Dataset(parent_encoding=encodings)
    for tag in list(item.keys()):
        element = item.get_item(tag)
        if isinstance(element, RawDataElement):
            vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
            is_swapped = vr in SWAPPED_VRS and not element.is_little_endian
            if vr != "SQ" and not is_swapped:
                copy[tag] = element
                continue
            element = item[tag]
        if element.VR == "SQ":
            nested = ItemSequence([_copied(each, encodings) for each in element.value])
            copy[tag] = DataElement(tag, "SQ", nested)
        else:
            copy[tag] = element
    # the elements are as if read from such a file: so they are passed on as they are
    copy.set_original_encoding(True, True, encodings)
    return copy
