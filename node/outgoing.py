"""Files that are to be sent: what negotiation needs of each, and its data set in another encoding.

Never repairs an object: uncompressed data sets are encoded in another VR encoding if the peer wants
that, nothing else, and only where every value fits. File names stay out of errors, a person chose
them. Read PS3.5 section 7.1 and PS3.10 section 7.1 first.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import SEEK_END
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_partial
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from node.element_reader import LONG_VRS, PREAMBLE_BYTES, PREFIX, UNDEFINED_LENGTH, read_elements
from node.errors import UnfitObjectError, UnreadableObjectError
from node.wanted_elements import wanted_elements

MAX_CONTEXTS = 128
"""Presentation contexts in one association: their identifiers are odd bytes (PS3.8 9.3.2.2)."""

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Syntaxes between which a data set can be re-encoded without touching a value."""

LONGEST_SHORT_VALUE_BYTES = 0xFFFE
"""What the two bytes for a length can say in Explicit VR, for most VRs (PS3.5 7.1.2)."""

_BEGINNING_BYTES = 4096
"""Enough of a file to see what it is; where it is not, pydicom looks."""

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<L")
_IMPLICIT = struct.Struct("<HHL")
"""Headers of elements (PS3.5 7.1.2 and 7.1.3)."""

_MEDIA_CLASS, _MEDIA_INSTANCE, _SYNTAX = 0x00020002, 0x00020003, 0x00020010
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_LAST_OF_META = 0x0002FFFF

_ANY = wanted_elements("SOPInstanceUID")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file that is to be sent; its data set begins at `start` and ends with the file."""

    path: Path
    sop_class_uid: UID
    sop_instance_uid: UID
    transfer_syntax_uid: UID
    start: int
    size_bytes: int

    @property
    def syntaxes(self) -> tuple[UID, ...]:
        """Transfer syntaxes in which it can be sent, its own first."""
        own = self.transfer_syntax_uid
        if own not in (*UNCOMPRESSED, DeflatedExplicitVRLittleEndian):
            return (own,)
        return (own, *(syntax for syntax in UNCOMPRESSED if syntax != own))


def read_outgoing(path: Path, place: str) -> Outgoing:
    """Return what is known of a file.

    Args:
        path: The file.
        place: What errors call it.

    Raises:
        UnreadableObjectError: It is no DICOM file.
        UnfitObjectError: It contradicts itself.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
            size_bytes = file.seek(0, SEEK_END)
        found = _seen(beginning)
        if found is None:
            found = _looked_up(path)
        start, syntax, named, held = found
        if not all((*held, syntax)) or start >= size_bytes:
            raise ValueError("an empty UID")  # noqa: TRY301 - joins the others below
    except OSError as error:
        raise UnreadableObjectError(f"{place}: {error.strerror or 'cannot be read'}") from error
    except (
        InvalidDicomError,
        AttributeError,
        EOFError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise UnreadableObjectError(
            f"{place} is no DICOM file (PS3.10) with SOP class, SOP instance and transfer syntax",
            hint="send only complete DICOM files",
        ) from error
    if named != held:
        raise UnfitObjectError(
            f"{place}: file meta information and data set name different SOP instances",
            hint="write the file again with the program that made it",
        )
    sop_class_uid, syntax_uid = _frequent_uid(held[0]), _frequent_uid(syntax)
    return Outgoing(path, sop_class_uid, UID(held[1]), syntax_uid, start, size_bytes - start)


@lru_cache(maxsize=64)
def _frequent_uid(text: str) -> UID:
    """Return a UID that many files name; to check it costs more than to read the file."""
    return UID(text)


@lru_cache(maxsize=64)
def _is_implicit(syntax: str) -> bool:
    return bool(UID(syntax).is_implicit_VR)


_Found = tuple[int, str, tuple[str, str], tuple[str, str]]
"""Where the data set begins; transfer syntax; SOP class and instance by meta information and data
set."""


def _seen(beginning: bytes) -> _Found | None:
    """Return what the beginning of a file says, None wherever more than a plain look is needed."""
    prefix_end = PREAMBLE_BYTES + len(PREFIX)
    if beginning[PREAMBLE_BYTES:prefix_end] != PREFIX:
        return None
    try:
        meta, start = _leading(beginning, prefix_end, _LAST_OF_META, is_implicit=False)
        syntax = meta[_SYNTAX]
        if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
            return None
        is_implicit = _is_implicit(syntax)
        held, _ = _leading(beginning, start, _SOP_INSTANCE, is_implicit=is_implicit)
        named = (meta[_MEDIA_CLASS], meta[_MEDIA_INSTANCE])
        return start, syntax, named, (held[_SOP_CLASS], held[_SOP_INSTANCE])
    except (KeyError, ValueError, struct.error):
        return None


def _leading(
    content: bytes, position: int, last: int, *, is_implicit: bool
) -> tuple[dict[int, str], int]:
    """Return the values of the elements up to one, and the place behind them.

    Raises:
        ValueError: They do not end within the content, or hold a sequence; struct.error likewise.
    """
    values: dict[int, str] = {}
    while True:
        if is_implicit:
            group, element, length = _IMPLICIT.unpack_from(content, position)
            start = position + _IMPLICIT.size
        else:
            group, element, vr, length = _SHORT.unpack_from(content, position)
            start = position + _SHORT.size
        tag = group << 16 | element
        if tag > last:
            return values, position
        if not is_implicit and vr in LONG_VRS:
            (length,) = _LONG.unpack_from(content, start)
            start += _LONG.size
        position = start + length
        if length == UNDEFINED_LENGTH or position > len(content):
            raise ValueError("not within the beginning")
        values[tag] = content[start:position].decode("latin-1").rstrip("\0 ")


def _looked_up(path: Path) -> _Found:
    """Return what pydicom finds in a file; raises whatever pydicom does."""
    with path.open("rb") as file:
        ds = read_partial(file, stop_when=lambda tag, _vr, _length: tag > Tag("SOPInstanceUID"))
        meta = ds.file_meta
        file.seek(PREAMBLE_BYTES + len(PREFIX))
        start = _behind_meta(file.read(1 << 20))
    named = (str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
    held = (str(ds.SOPClassUID), str(ds.SOPInstanceUID))
    return start, str(meta.TransferSyntaxUID), named, held


def _behind_meta(content: bytes) -> int:
    position = 0
    while content[position : position + 2] == b"\x02\x00":
        _, _, vr, length = _SHORT.unpack_from(content, position)
        position += _SHORT.size
        if vr in LONG_VRS:
            (length,) = _LONG.unpack_from(content, position)
            position += _LONG.size
        position += length
    return PREAMBLE_BYTES + len(PREFIX) + position


def encoded_as(item: Outgoing, syntax: UID) -> bytes:
    """Return the data set of a file in another VR encoding.

    Raises:
        OSError: The file cannot be read.
        UnfitObjectError: It cannot be encoded so without loss; its text says why.
    """
    try:
        # pydicom does not notice where a data set ends early, and would encode what is left
        read_elements(item.path.read_bytes()[item.start :], item.transfer_syntax_uid, _ANY)
        ds = dcmread(item.path)
        if ds.SOPInstanceUID != item.sop_instance_uid:
            raise UnfitObjectError("our file of the object has changed")  # noqa: TRY301 - likewise
        if syntax == ExplicitVRLittleEndian and _has_overlong_value(ds):
            raise UnfitObjectError(  # noqa: TRY301 - likewise
                f"the object holds a value too long for {syntax.name}, which the peer asks for"
            )
        buffer = DicomBytesIO()
        buffer.is_little_endian = True
        buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
        write_dataset(buffer, ds)
        return bytes(buffer.getvalue())
    except (OSError, UnfitObjectError):
        raise
    except Exception as error:
        # whatever pydicom raises for a data set that it cannot read or write
        raise UnfitObjectError(
            f"the object cannot be encoded as {syntax.name}, which the peer asks for"
        ) from error


def _has_overlong_value(ds: Dataset) -> bool:
    """Tell whether a value fits into no element of Explicit VR.

    PS3.5 6.2.2 lets such a value be called UN; a peer that reads it so has no contours.
    """
    for tag in ds.keys():  # noqa: SIM118 - the values of a Dataset are decoded elements
        raw = ds.get_item(tag)
        vr = raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if vr == "SQ":
            if any(map(_has_overlong_value, ds[tag].value)):
                return True
        elif (
            isinstance(raw, RawDataElement)
            and not EXPLICIT_VR_LENGTH_32.intersection(vr.split())
            and len(raw.value or b"") > LONGEST_SHORT_VALUE_BYTES
        ):
            return True
    return False


def needed_contexts(batch: Iterable[Outgoing]) -> tuple[tuple[UID, UID], ...]:
    """Return the pairs of SOP class and transfer syntax that files need, each once."""
    return tuple(dict.fromkeys((i.sop_class_uid, syntax) for i in batch for syntax in i.syntaxes))


def leading_batch(outgoing: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """Return as many files, from the first on, as one association can propose contexts for."""
    contexts: set[tuple[UID, UID]] = set()
    for at, item in enumerate(outgoing):
        contexts |= {(item.sop_class_uid, syntax) for syntax in item.syntaxes}
        if len(contexts) > MAX_CONTEXTS:
            return outgoing[:at]
    return outgoing
