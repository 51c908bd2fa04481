"""Objects damaged at random, and what must hold of whatever is read of them.

Damage is drawn from a `random.Random`, so that Hypothesis and the offline fuzzing share it.
`outcome_of` judges: its outside judge is pydicom's reader, which knows nothing of ours.
"""

import random
import re
import struct
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset

from node.errors import NodeError, UnfitObjectError
from node.header import InstanceHeader, header_from_bytes, scan
from tests.header_objects import SYNTAXES, encoded, image, open_sequences, structure_set

SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
SECRETS = ("Muster", "PID-77", "19500102", "HOSPITAL")
"""The patient of `header_objects.image`: in no text of an error."""

Found = TypeVar("Found")

_ERRORS_OF_CHARACTER_SETS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    BytesLengthException,
)

_MARKS = [
    struct.pack(order + "HHL", 0xFFFE, element, length)
    for order in "<>"
    for element, length in (
        (0xE000, 0), (0xE000, 8), (0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE00D, 8), (0xE0DD, 0),
        (0xE0DD, 0xFFFFFFFF),
    )
]  # fmt: skip
_TAGS = (0x00080005, SOP_CLASS_UID, SOP_INSTANCE_UID, 0x00080060, 0x00100010, 0x00200032,
         0x00081111, 0x00091001, 0x30060020, 0x30060039, 0x7FE00010, 0x00080000)  # fmt: skip
_VRS = (b"UI", b"CS", b"PN", b"SQ", b"UN", b"OB", b"OW", b"US", b"UT", b"ZZ", b"\0\0", b"ui")
_NUMBERS = (0, 1, 2, 7, 8, 12, 0xFE, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE,
            0xFFFFFFFF)  # fmt: skip
_VALUES = (b"", b"1.2.3\0", b"1.2.3", b"../../x\0", b"1" * 300, b"\x1b$B\x1b(J" * 9, b"\xff" * 40,
           b"\\" * 99, b"CT", b"-1e99\\nan\\0 ", bytes(70_000))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Original:
    """An undamaged object; a deflated one is damaged before it is deflated, mostly."""

    raw: bytes
    syntax: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was read: the header, or our error; `text` counts alike what is alike."""

    text: str
    header: InstanceHeader | None = None


def originals() -> list[Original]:
    """Return objects of every encoding, with sequences of defined and of undefined length."""
    makers: tuple[Callable[[], Dataset], ...] = (
        image,
        structure_set,
        lambda: open_sequences(structure_set()),
    )
    found = [Original(encoded(make(), one), one) for make in makers for one in SYNTAXES]
    compressed = image()
    compressed.PixelData = encapsulate([b"\x01\x02\x03\x04", b"\x05\x06"])
    compressed["PixelData"].VR, compressed["PixelData"].is_undefined_length = "OB", True
    found.append(Original(encoded(compressed), uid.JPEGLSLossless))
    return found


def damaged(rng: random.Random, some: list[Original]) -> Original:
    """Return an object with one to four damages."""
    original = rng.choice(some)
    is_deflated = original.syntax == uid.DeflatedExplicitVRLittleEndian
    is_damaged_inside = is_deflated and rng.random() < 0.8
    raw = original.raw
    if is_damaged_inside:
        raw = zlib.decompress(raw, -zlib.MAX_WBITS)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        raw = rng.choice(_DAMAGES)(rng, raw, rng.choice(some).raw)
    if is_damaged_inside:
        packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        raw = packer.compress(raw) + packer.flush()
    return Original(raw, original.syntax)


def _place(rng: random.Random, raw: bytes) -> int:
    """Return any place, or likely one where an element begins."""
    at = rng.randint(0, len(raw))
    if rng.random() < 0.3:
        return at
    found = re.compile(rb"[A-Z]{2}|\xfe\xff|\x08\0|\x06\x30").search(raw, at)
    if found is None:
        return at
    return max(found.start() - 4, 0) if found[0].isalpha() else found.start()


def _flipped(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    if not raw:
        return raw
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def _set(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    at = max(_place(rng, raw) - rng.choice((0, 0, 1, 4)) + rng.choice((4, 6, 8)), 0)
    form = rng.choice(("<L", "<H", ">L", ">H", "B"))
    number = struct.pack(form, rng.choice(_NUMBERS) & (1 << 8 * struct.calcsize(form)) - 1)
    return raw[:at] + number + raw[at + len(number) :]


def _cut(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    return raw[: _place(rng, raw)]


def _deleted(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    start = _place(rng, raw)
    return raw[:start] + raw[start + rng.randint(0, 40) :]


def _spliced(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    at, start = _place(rng, raw), _place(rng, other)
    stop = _place(rng, other) if rng.random() < 0.5 else start + rng.randint(0, 60)
    return raw[:at] + other[start:stop] * rng.choice((1, 1, 2, 40)) + raw[at:]


def _marked(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    at = _place(rng, raw)
    return raw[:at] + rng.choice(_MARKS) * rng.choice((1, 1, 1, 500)) + raw[at:]


def _added(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    """Insert an element whose tag, VR, length or value is odd."""
    tag, vr, value = rng.choice(_TAGS), rng.choice(_VRS), rng.choice(_VALUES)
    length = len(value) if rng.random() < 0.7 else rng.choice(_NUMBERS)
    order = rng.choice("<<<>")
    added = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    kind = rng.randrange(3)
    if kind == 0:
        added += struct.pack(order + "L", length)
    elif kind == 1:
        added += vr + struct.pack(order + "H", length & 0xFFFF)
    else:
        added += vr + struct.pack(order + "xxL", length)
    at = _place(rng, raw)
    return raw[:at] + added + value + raw[at:]


def _nested(rng: random.Random, raw: bytes, _: bytes) -> bytes:
    """Insert sequences of undefined length within each other, closed or not."""
    depth, is_closed = rng.choice((1, 2, 30, 40, 10_000)), rng.random() < 0.7
    is_implicit, order = rng.random() < 0.4, rng.choice("<<<>")
    tag = rng.choice(_TAGS)
    start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + (b"" if is_implicit else b"SQ\0\0")
    level = start + b"\xff" * 4 + struct.pack(order + "HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = [struct.pack(order + "HHL", 0xFFFE, one, 0) for one in (0xE00D, 0xE0DD)]
    at = _place(rng, raw)
    return raw[:at] + level * depth + b"".join(ends) * depth * is_closed + raw[at:]


_DAMAGES = (_flipped, _set, _set, _cut, _deleted, _spliced, _spliced, _marked, _added, _nested)


def outcome_of(object_: Original) -> Outcome:
    """Return what both ways of reading make of an object.

    Raises:
        AssertionError: They disagree with each other or with pydicom, or tell of the patient.
        Exception: Whatever but a `NodeError` leaves them.
    """
    header, header_error = _read(header_from_bytes, object_)
    scanned, scan_error = _read(scan, object_)
    for error in (header_error, scan_error):
        assert not any(secret in str(error) for secret in SECRETS), "the patient is told"
    if scanned is None:
        assert header is None, "the header is read of what the scan refuses"
        if isinstance(scan_error, UnfitObjectError) and isinstance(header_error, UnfitObjectError):
            assert str(scan_error) == str(header_error), "one lack, two texts"
        return Outcome(_alike(scan_error))
    own = scanned.sop_class_uid, scanned.sop_instance_uid
    told = uids_by_pydicom(object_)
    assert told in (own, None), f"scan reads {own}, pydicom {told}"
    if header is None:
        return Outcome(f"scanned; {_alike(header_error)}")
    names = ("sop_class_uid", "sop_instance_uid", "patient_name", "patient_id")
    for name in (*names, "patient_birth_date"):
        assert getattr(scanned, name) == getattr(header, name), f"two values of {name}"
    return Outcome("header" if told else "header; pydicom reads nothing", header)


def _read(
    look: Callable[[bytes, str], Found], object_: Original
) -> tuple[Found | None, NodeError | None]:
    try:
        return look(object_.raw, object_.syntax), None
    except NodeError as error:
        return None, error


def uids_by_pydicom(object_: Original) -> tuple[str, str] | None:
    """Return SOP Class UID and SOP Instance UID as pydicom reads them.

    None where pydicom reads nothing, because a Specific Character Set somewhere is nonsense: it
    looks at each of them, and its errors of that are many.
    """
    syntax, raw = uid.UID(object_.syntax), object_.raw
    if syntax.is_deflated:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = read_dataset(BytesIO(raw), syntax.is_implicit_VR, syntax.is_little_endian)
        except _ERRORS_OF_CHARACTER_SETS as error:
            frames = traceback.extract_tb(error.__traceback__)
            places = tuple(frame.filename for frame in frames)
            if not any(place.endswith(("charset.py", "values.py", "hooks.py")) for place in places):
                raise
            return None
    first, second = (
        bytes(ds.get_item(tag).value or b"").decode("ascii", "replace").rstrip("\0 ")
        if tag in ds
        else ""
        for tag in (SOP_CLASS_UID, SOP_INSTANCE_UID)
    )
    return first, second


def _alike(error: NodeError | None) -> str:
    return re.sub(r"\([0-9A-F]{4},[0-9A-F]{4}\)", "(tag)", str(error))
