"""Hostile and odd data sets: lengths, nesting, VRs, repetitions, sizes, deflation.

The bytes are made by hand here, after PS3.5 section 7: no writer makes such things.
"""

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from mmap import PROT_READ, mmap
from pathlib import Path

import pytest
from pydicom import uid

from node.attributes import MOST_ESCAPES
from node.errors import NodeError, UnfitObjectError, UnreadableObjectError
from node.header import header_from_bytes, scan

EXPLICIT, IMPLICIT = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian
BIG, DEFLATED = uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian
LONG_VRS = ("OB", "OW", "SQ", "UN", "UT", "UC")
UNDEFINED = 0xFFFFFFFF
OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

LIMIT_S = 20.0
"""For what takes a second or less on an idle machine."""


def element(tag: int, vr: str, value: bytes = b"", length: int | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian; `length` may lie."""
    size = len(value) if length is None else length
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return start + struct.pack("<xxL" if vr in LONG_VRS else "<H", size) + value


def implicit(tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, size) + value


def item(content: bytes = b"") -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


SOP_CLASS = (0x00080016, "UI", uid.RTStructureSetStorage.encode() + b"\0")
INSTANCE = (0x00080018, "UI", b"1.2.826.0.1.7\0")
MODALITY = (0x00080060, "CS", b"RTSTRUCT")
STUDY, SERIES = (0x0020000D, "UI", b"1.2.826.0.2\0"), (0x0020000E, "UI", b"1.2.826.0.3\0")
ROIS = (0x30060020, "SQ", item(element(0x30060026, "LO", b"GTVn")))
WHOLE = (SOP_CLASS, INSTANCE, MODALITY, STUDY, SERIES, ROIS)

LIST, ROI_NAME = 0x30060020, 0x30060026
DRAWN, CONTOURS, IMAGES, REFERENCE = 0x30060039, 0x30060040, 0x30060016, 0x00081155
PIXEL_DATA = 0x7FE00010


def explicit(*elements: tuple[int, str, bytes]) -> bytes:
    return b"".join(element(*one) for one in elements)


BASE = explicit(*WHOLE)
IMPLICIT_BASE = b"".join(
    implicit(tag, item(implicit(ROI_NAME, b"GTVn")) if vr == "SQ" else value)
    for tag, vr, value in WHOLE
)


def deflated(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(raw) + packer.flush()


def check_read(raw: bytes, syntax: str = EXPLICIT) -> None:
    """Both read it as the same object."""
    header = header_from_bytes(raw, syntax)
    assert header.sop_instance_uid == scan(raw, syntax).sop_instance_uid == "1.2.826.0.1.7"
    assert header.roi_names == ("GTVn",)


def check_unreadable(raw: bytes, reason: str, syntax: str = EXPLICIT) -> None:
    """Both refuse it for that reason, soon."""
    for look in (scan, header_from_bytes):
        start_s = time.process_time()
        with pytest.raises(UnreadableObjectError, match=reason):
            look(raw, syntax)
        assert time.process_time() - start_s < LIMIT_S


def peak_bytes(look: Callable[[], object]) -> int:
    """Return what a call allocates beyond what was there before."""
    tracemalloc.start()
    try:
        with pytest.raises(NodeError):
            look()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("raw", "syntax"),
    [(BASE, EXPLICIT), (IMPLICIT_BASE, IMPLICIT), (deflated(BASE), DEFLATED),
     (deflated(BASE) + b"\0", DEFLATED)],
)  # fmt: skip
def test_undamaged_object_is_read(raw: bytes, syntax: str) -> None:
    """What the hostile objects are made from is none."""
    check_read(raw, syntax)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(element(0x00080000, "UL", b"\xff\xff\xff\x7f"), id="wrong group length"),
        pytest.param(element(0x30060000, "UL", b"\0\0\0\0"), id="group length of zero"),
        pytest.param(element(0x00080000, "LO", b"odd"), id="group length of odd VR and size"),
        pytest.param(element(0x00080005, "CS", b"ISO_IR 9"), id="unknown character set"),
        pytest.param(element(0x00100010, "PN", b"\xff\xfe"), id="undeclared characters"),
        pytest.param(element(0x00090010, "LO", b"\0" * 9), id="private, out of order, odd length"),
        pytest.param(element(0x00091001, "UN", EMPTY_ITEM[:4] * 9), id="items in what is unknown"),
        pytest.param(element(0x00081111, "SQ", b"\xff" * 99), id="unneeded sequence"),
        pytest.param(element(0x00081111, "SQ", SEQUENCE_END, UNDEFINED), id="open and empty"),
        pytest.param(
            element(0x00091001, "UN", OPEN_ITEM + implicit(0x00100010, b"ab") + ITEM_END
                    + SEQUENCE_END, UNDEFINED), id="unknown, implicit within"),
        pytest.param(
            element(0x00091001, "OB", EMPTY_ITEM * 2 + SEQUENCE_END, UNDEFINED), id="fragments"),
        pytest.param(
            element(PIXEL_DATA, "OB", EMPTY_ITEM * 3 + SEQUENCE_END, UNDEFINED),
            id="fragments of length zero"),
    ],
)  # fmt: skip
def test_odd_but_unequivocal_object_is_read(more: bytes) -> None:
    """What every reader understands alike is taken, wherever in the object it stands."""
    check_read(BASE + more)
    check_read(more + BASE)


@pytest.mark.parametrize("order", [WHOLE[::-1], (ROIS, *WHOLE[:-1])])
def test_elements_out_of_order_are_read(order: tuple[tuple[int, str, bytes], ...]) -> None:
    """PS3.5 7.1 wants them in order; pydicom and DCMTK take them in any, and so do we."""
    check_read(explicit(*order))


@pytest.mark.parametrize("twice", WHOLE)
@pytest.mark.parametrize("vr", ["", "OB", "FD"])
def test_wanted_element_that_stands_twice_is_refused(
    twice: tuple[int, str, bytes], vr: str
) -> None:
    """DCMTK takes the first, pydicom the last: two nodes would see two objects."""
    again = (twice[0], vr or twice[1], twice[2])
    check_unreadable(BASE + element(*again), "stands twice")
    check_unreadable(element(*again) + BASE, "stands twice")


def test_roi_with_two_names_is_refused() -> None:
    """The same within a sequence; only the whole header looks there."""
    name = element(ROI_NAME, "LO", b"GTVn")
    raw = explicit(*WHOLE[:-1], (LIST, "SQ", item(name + name)))
    with pytest.raises(UnreadableObjectError, match=r"\(3006,0026\) stands twice"):
        header_from_bytes(raw, EXPLICIT)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (element(0x00104000, "LT", b"ab", 3), r"ends within element \(0010,4000\)"),
        (element(0x00104000, "LT", b"", 0xFFFF), r"ends within element \(0010,4000\)"),
        (element(PIXEL_DATA, "OW", bytes(200), 0xFFFFFFFE), r"ends within element \(7FE0,0010\)"),
        (element(0x00081111, "SQ", b"", 8), r"ends within element \(0008,1111\)"),
        (element(0x00100010, "PN", b"", 0xFFFF), r"ends within element \(0010,0010\)"),
        (element(0x00104000, "LT")[:-1], "ends within an element"),
        (element(PIXEL_DATA, "OW")[:-1], "ends within an element"),
        (b"\0", "ends within an element"),
        (element(0x00104000, "UT", SEQUENCE_END, UNDEFINED), r"\(0010,4000\) has no length"),
        (element(0x00091001, "UC", SEQUENCE_END, UNDEFINED), r"\(0009,1001\) has no length"),
        (element(0x00100010, "UN", SEQUENCE_END, UNDEFINED), r"\(0010,0010\) is too long"),
        (element(0x00104000, "ZZ", b"ab"), r"element \(0010,4000\) has no known VR"),
        (element(0x00104000, "lt", b"ab"), "has no known VR"),
        (element(0x00104000, "\0\0", b"ab"), "has no known VR"),
        (element(0x00104000, "  ", b"ab"), "has no known VR"),
        (EMPTY_ITEM, "stands where none may"),
        (ITEM_END, "stands where none may"),
        (SEQUENCE_END, "stands where none may"),
        (OPEN_ITEM, "stands where none may"),
        (element(0x00081111, "SQ", EMPTY_ITEM, UNDEFINED), "ends within a sequence"),
        (element(0x00081111, "SQ", OPEN_ITEM, UNDEFINED), "ends within a sequence item"),
        (element(0x00081111, "SQ", OPEN_ITEM + ITEM_END[:4] + b"UL\0\0" + SEQUENCE_END, UNDEFINED),
         "stands where none may"),
        (element(0x00081111, "SQ", OPEN_ITEM + SEQUENCE_END, UNDEFINED), "stands where none may"),
        (element(0x00081111, "SQ", item(ITEM_END) + SEQUENCE_END, UNDEFINED),
         "stands where none may"),
        (element(0x00081111, "SQ", ITEM_END + SEQUENCE_END, UNDEFINED), "else than whole items"),
        (element(0x00081111, "SQ", SEQUENCE_END[:4] + b"\2\0\0\0ab", UNDEFINED),
         "else than whole items"),
        (element(0x00081111, "SQ", element(0x00080060, "CS", b"CT"), UNDEFINED),
         "else than whole items"),
        (element(0x00081111, "SQ", struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFE) + SEQUENCE_END,
                 UNDEFINED), "else than whole items"),
        (element(PIXEL_DATA, "OB", EMPTY_ITEM, UNDEFINED), "ends within encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", OPEN_ITEM + SEQUENCE_END, UNDEFINED), "encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", EMPTY_ITEM[:-4] + b"\xfe\xff\xff\xff" + SEQUENCE_END, UNDEFINED),
         "encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", ITEM_END, UNDEFINED), "encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", ITEM_END + SEQUENCE_END, UNDEFINED), "encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", bytes(8) + SEQUENCE_END, UNDEFINED), "encapsulated pixel data"),
        (element(PIXEL_DATA, "OB", SEQUENCE_END[:4] + b"\1\0\0\0\0", UNDEFINED),
         "encapsulated pixel data"),
    ],
)  # fmt: skip
def test_lengths_and_marks_that_lie_are_refused(more: bytes, reason: str) -> None:
    """Issue 4, point 9: what cannot be stepped over is 0xC000, and nothing else happens."""
    check_unreadable(BASE + more, reason)
    check_unreadable(deflated(BASE + more), reason, DEFLATED)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (implicit(0x00104000, b"ab", 3), r"ends within element \(0010,4000\)"),
        (implicit(PIXEL_DATA, bytes(200), 0xFFFFFFFE), r"ends within element \(7FE0,0010\)"),
        (implicit(0x00081111, OPEN_ITEM, UNDEFINED), "ends within a sequence item"),
        (implicit(0x00104000, b"abcdefgh", UNDEFINED), "else than whole items"),
        (implicit(0x00100010, bytes(1 << 17)), r"\(0010,0010\) is too long"),
        (ITEM_END, "stands where none may"),
        (SEQUENCE_END, "stands where none may"),
    ],
)
def test_lengths_that_lie_without_vr_are_refused(more: bytes, reason: str) -> None:
    """The same in Implicit VR Little Endian."""
    check_unreadable(IMPLICIT_BASE + more, reason, IMPLICIT)


@pytest.mark.parametrize(
    ("level", "syntax"),
    [
        (element(0x00081111, "SQ", OPEN_ITEM, UNDEFINED), EXPLICIT),
        (implicit(0x00081111, OPEN_ITEM, UNDEFINED), IMPLICIT),
        (implicit(0x00091001, OPEN_ITEM, UNDEFINED), IMPLICIT),
        (struct.pack(">HH2sxxLHHL", 8, 0x1111, b"SQ", UNDEFINED, 0xFFFE, 0xE000, UNDEFINED), BIG),
    ],
)
def test_ten_thousand_levels_are_refused(level: bytes, syntax: str) -> None:
    """Issue 4, point 9: no recursion without end."""
    check_unreadable(level * 10_000, "nested too deeply", syntax)
    if syntax == IMPLICIT:  # as it is within what has VR UN
        unknown = element(0x00091001, "UN", OPEN_ITEM + level * 10_000, UNDEFINED)
        check_unreadable(unknown, "nested too deeply")


def test_levels_of_defined_length_are_refused_where_they_are_looked_at() -> None:
    """Ten thousand levels that each tell their length: the scan steps over all of them at once."""
    nested = b""
    for _ in range(1000):
        nested = element(0x00081111, "SQ", item(nested))
    check_read(BASE + nested)
    for _ in range(100):
        nested = element(LIST, "SQ", item(nested))
    raw = explicit(*WHOLE[:-1]) + nested
    assert scan(raw, EXPLICIT).sop_class_uid == uid.RTStructureSetStorage
    assert header_from_bytes(raw, EXPLICIT).roi_names == ("",)  # of no wanted sequence any more


@pytest.mark.parametrize(
    ("tag", "vr", "reason"),
    [
        (0x00080016, "FD", "SOPClassUID is missing"),
        (0x00080018, "OB", "SOPInstanceUID is missing"),
        (0x00080060, "SQ", "Modality is not RTSTRUCT"),
        (0x30060020, "OB", "StructureSetROISequence is missing or empty"),
        (0x30060020, "LO", "StructureSetROISequence is missing or empty"),
    ],
)
def test_wanted_element_of_odd_vr_counts_as_empty(tag: int, vr: str, reason: str) -> None:
    """Another VR than the dictionary's is another meaning; none is guessed."""
    raw = explicit(*((one[0], vr if one[0] == tag else one[1], one[2]) for one in WHOLE))
    for look in (scan, header_from_bytes):
        with pytest.raises(UnfitObjectError, match=reason):
            look(raw, EXPLICIT)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (element(0x00280010, "US", b"\x00\x02"), {"rows": 512}),
        (element(0x00280010, "IS", b"12"), {"rows": None}),
        (element(0x00280010, "US", b"\1\2\3\4"), {"rows": None}),
        (element(0x00280010, "US"), {"rows": None}),
        (element(0x00280008, "IS", b"-5"), {"number_of_frames": 1}),
        (element(0x00280008, "IS", b"9" * 40), {"number_of_frames": 1}),
        (element(0x00280008, "IS", b"1e9 "), {"number_of_frames": 1}),
        (element(0x00200032, "DS", b"1e999\\0\\0"), {"position_mm": None}),
        (element(0x00200032, "DS", b"-inf\\0\\0 "), {"position_mm": None}),
        (element(0x00200032, "DS", b"0\\0\\--1 "), {"position_mm": None}),
        (element(0x00200032, "DS", b"1\\" * 30000), {"position_mm": None}),
        (element(0x00080008, "CS", b"\\" * 60000), {"image_type": ()}),
        (element(0x00081030, "LO", b"\0" * 60000), {"series_description": ""}),
    ],
)
def test_absurd_values_are_absent(more: bytes, expected: dict[str, object]) -> None:
    """A number that cannot be is no number; nothing else changes."""
    header = header_from_bytes(BASE + more, EXPLICIT)
    assert {name: getattr(header, name) for name in expected} == expected


@pytest.mark.parametrize("named", [b"1.2\0.3", b"9" * 300, b"../../x\0"])
def test_reference_that_is_no_uid_is_absent(named: bytes) -> None:
    """The index searches by it, and not every database takes such text."""
    series = element(0x0020000E, "UI", named)
    study = element(0x30060014, "SQ", item(series))
    frame = element(0x30060012, "SQ", item(study))
    header = header_from_bytes(BASE + element(0x30060010, "SQ", item(frame)), EXPLICIT)
    assert header.referenced_series_uid == ""


def test_modality_that_is_no_code_is_absent() -> None:
    """A class that is only kept may have any Modality (PS3.5 6.2: 16 characters at most)."""
    kept = uid.SecondaryCaptureImageStorage.encode() + b"\0"
    for modality, expected in ((b"OT", "OT"), (b"O\0T ", ""), (b"O" * 18, "")):
        raw = explicit((0x00080016, "UI", kept), INSTANCE, (0x00080060, "CS", modality))
        assert header_from_bytes(raw + explicit(STUDY, SERIES), EXPLICIT).modality == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("charset", [b"ISO 2022 IR 87", b"ISO_IR 192", b"\\ISO 2022 IR 149", b"?"])
def test_text_of_escapes_only_is_read_without_a_warning(charset: bytes) -> None:
    """Thousands of changes of the character set would be thousands of lines in the log."""
    name = b"\x1b$" * (MOST_ESCAPES + 1)
    raw = element(0x00080005, "CS", charset) + element(0x00100010, "PN", name) + BASE
    assert scan(raw, EXPLICIT).patient_name == header_from_bytes(raw, EXPLICIT).patient_name
    assert len(scan(raw, EXPLICIT).patient_name) <= len(name)


def test_more_elements_than_the_bound_are_refused() -> None:
    """A hundred megabytes of nothing: at the top, as items, as fragments."""
    many = 13_000_000
    for raw in (
        element(0x00091001, "LO") * many,
        element(0x00081111, "SQ", b"", UNDEFINED) + EMPTY_ITEM * many,
        element(PIXEL_DATA, "OB", b"", UNDEFINED) + EMPTY_ITEM * many,
    ):
        with pytest.raises(UnreadableObjectError, match="more than 5000000 elements"):
            scan(raw, EXPLICIT)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(element(LIST, "SQ", EMPTY_ITEM * 500_000), id="empty ROIs"),
        pytest.param(
            element(LIST, "SQ", item(element(ROI_NAME, "LO", b"ab")) * 300_000), id="ROIs"),
        pytest.param(
            element(LIST, "SQ", item(element(ROI_NAME, "LO", bytes(60_000))) * 1500),
            id="long names"),
        pytest.param(
            element(DRAWN, "SQ", item(element(CONTOURS, "SQ", item(element(IMAGES, "SQ", b"".join(
                item(element(REFERENCE, "UI", b"1.2.%07d" % n)) for n in range(200_000))))))),
            id="references"),
    ],
)  # fmt: skip
def test_more_items_than_the_bound_are_refused(content: bytes) -> None:
    """A hundred megabytes of items must not become gigabytes of Python objects."""
    raw = explicit(*WHOLE[:-1]) + content

    def look() -> None:
        with pytest.raises(UnreadableObjectError, match="too many items or references") as caught:
            header_from_bytes(raw, EXPLICIT)
        raise caught.value

    assert peak_bytes(look) < 64 << 20


def test_repeated_references_are_kept_once() -> None:
    """A structure set names each image for each contour: that costs nothing, however often."""
    again = item(element(REFERENCE, "UI", b"1.2.3.4\0")) * 300_000
    drawn = item(element(CONTOURS, "SQ", item(element(IMAGES, "SQ", again))))
    raw = BASE + element(DRAWN, "SQ", drawn)
    assert header_from_bytes(raw, EXPLICIT).referenced_sop_instance_uids == ("1.2.3.4",)


def bomb(size_bytes: int) -> bytes:
    """Return zeros, deflated, a thousandth of the size; made in a moment."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size_bytes >> 20) + packer.flush()


@pytest.mark.parametrize(
    ("deflated_bytes", "reason"),
    [
        (bomb(1100 << 20), "the deflated data set is too large"),
        (deflated(BASE)[:-4], "the deflated data set ends early"),
        (deflated(BASE) + b"\0\0", "something follows the deflated data set"),
        (deflated(BASE) * 2, "something follows the deflated data set"),
        (bomb(4 << 20) + bytes(40), "something follows the deflated data set"),
        (zlib.compress(BASE), "cannot be inflated"),
        (BASE, "cannot be inflated"),
        (deflated(b""), "the data set is empty"),
    ],
)
def test_deflated_data_set_that_lies_is_refused(deflated_bytes: bytes, reason: str) -> None:
    """Issue 4, point 9: a bomb is refused at the bound and never held."""

    def look() -> None:
        with pytest.raises(UnreadableObjectError, match=reason) as caught:
            scan(deflated_bytes, DEFLATED)
        raise caught.value

    assert peak_bytes(look) < 3 << 20


@pytest.mark.parametrize("size_mib", [2, 100])
def test_deflated_pixel_data_are_not_held(size_mib: int) -> None:
    """A large deflated object is accepted, checked to its end, in a window of memory."""
    pixels = element(PIXEL_DATA, "OW", b"", size_mib << 20)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = packer.compress(BASE + pixels) + packer.flush(zlib.Z_FULL_FLUSH)
    behind = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    tail = behind.compress(element(0xFFFCFFFC, "OB", b"\0\0")) + behind.flush()
    zeros = [bomb(mib << 20)[: -len(deflated(b""))] for mib in (size_mib, size_mib // 2)]
    tracemalloc.start()
    try:
        check_read(head + zeros[0] + tail, DEFLATED)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    check_unreadable(head + zeros[0] + tail[:-1], "ends early", DEFLATED)
    check_unreadable(head + zeros[1] + tail, "ends within element", DEFLATED)


def test_mapped_file_of_four_gigabytes_is_not_read(tmp_path: Path) -> None:
    """The scan touches the pages of the header only (PS3.5 7.1: the pixels come last)."""
    path = tmp_path / "large"
    size = 0xFFFFFFFE
    pixels = element(PIXEL_DATA, "OW", b"", size)
    path.write_bytes(BASE + pixels)
    with path.open("r+b") as file:
        file.truncate(len(BASE + pixels) + size)  # a hole: it takes no room
        with closing(mmap(file.fileno(), 0, prot=PROT_READ)) as content:
            check_read(content)  # type: ignore[arg-type]
            assert _resident_bytes(path) < 1 << 20
            with memoryview(content) as view:
                check_unreadable(view[:-1], "ends within element")  # type: ignore[arg-type]


def _resident_bytes(path: Path) -> int:
    """Return how much of a mapped file is in memory (proc(5), smaps)."""
    of_file = Path("/proc/self/smaps").read_text(encoding="ascii").split(str(path))[1]
    line = next(one for one in of_file.splitlines() if one.startswith("Rss:"))
    return int(line.split()[1]) << 10
