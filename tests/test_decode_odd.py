"""Odd but legal encodings: what decoding makes of them is what a plain object would give."""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, uid
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from handlers.decode import DecodedCase
from tests import datasets
from tests.decoding import MR, TARGET, codes, decode

LONG_VRS = ("OB", "OW", "SQ", "UC", "UN", "UR", "UT")


def element(keyword_or_tag: str | int, vr: str, value: bytes) -> tuple[int, bytes]:
    """Return an element in Explicit VR Little Endian, its value neither padded nor checked."""
    tag = keyword_or_tag if isinstance(keyword_or_tag, int) else tag_for_keyword(keyword_or_tag)
    assert tag is not None
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    length = struct.pack("<HL", 0, len(value)) if vr in LONG_VRS else struct.pack("<H", len(value))
    return tag, start + length + value


def read_back(ds: Dataset, *raw: tuple[int, bytes], syntax: UID | None = None) -> Dataset:
    """Write a data set, some elements of it as given bytes, and read it as the node does."""
    syntax = syntax or uid.ExplicitVRLittleEndian
    given = dict(raw)
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    for one in ds:
        if one.tag not in given:
            file = DicomBytesIO()
            file.is_little_endian, file.is_implicit_VR = True, syntax.is_implicit_VR
            write_data_element(file, one, [])
            given[int(one.tag)] = file.getvalue()
    meta = ds.file_meta
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    file = DicomBytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, meta)
    file.write(b"".join(given[tag] for tag in sorted(given)))
    return pydicom.dcmread(BytesIO(file.getvalue()))


def implicit(ds: Dataset) -> bytes:
    """Return a data set in Implicit VR Little Endian, as stands within a UN sequence."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, True
    write_dataset(file, ds)
    return file.getvalue()


def check_plain(decoded: DecodedCase) -> None:
    """Check that the CT is the plain one of `datasets.series`, and nothing was noticed."""
    assert decoded.case.ct.geometry.spacing_mm == pytest.approx((3.0, 2.0, 1.5))
    assert np.allclose(decoded.case.ct.geometry.points_from_indices((0, 0, 0)), [[-10, 20, -30]])
    assert decoded.case.ct.voxels[2, 5, 4] == (5 * 10 + 4 + 2) * 2 - 1000
    assert codes(decoded) == {}


def position(ds: Dataset) -> str:
    return "\\".join(f"{float(v):g}" for v in ds.ImagePositionPatient)


# --- values ---


def test_odd_lengths_are_read() -> None:
    """Without their padding: some toolkits forget it, and nothing is lost."""
    ct = [
        read_back(
            ds,
            element("RescaleIntercept", "DS", b"-1000"),
            element("RescaleSlope", "DS", b"2"),
            element("PixelSpacing", "DS", b"2.0\\1.500"),
            element("FrameOfReferenceUID", "UI", datasets.CT_FRAME.encode()),
            element("PatientID", "LO", datasets.PATIENT_ID.encode()),
        )
        for ds in datasets.series()
    ]
    assert len(b"-1000") % 2 == len(datasets.CT_FRAME) % 2 == 1
    check_plain(decode(ct=ct))


def test_odd_number_of_pixel_bytes_is_read() -> None:
    """An 8-bit image of 5 x 5 pixels, not padded."""
    mr = []
    for i, ds in enumerate(datasets.series(modality="MR", rows=5, columns=5)):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        del ds.PixelData
        mr.append(read_back(ds, element("PixelData", "OB", bytes(range(i, i + 25)))))
    (image,) = decode(mr={MR: mr}).case.mr
    assert image.voxels[3].ravel().tolist() == list(range(3, 28))


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("PixelSpacing", " +2.0 \\ 15e-1"),
        ("PixelSpacing", "2.00000000000\\1.50000000000"),
        ("RescaleIntercept", "-1.0E+03 "),
        ("ImageOrientationPatient", "1\\-0\\0.000\\0\\1\\-0"),
        ("PatientID", f" {datasets.PATIENT_ID}  "),
        ("FrameOfReferenceUID", f"{datasets.CT_FRAME} "),
        ("Modality", "CT\0\0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # blanks and NUL where none belong
def test_spellings_of_one_value_are_equal(keyword: str, text: str) -> None:
    """PS3.5 6.2: blanks, signs, exponents; a UID padded with a blank instead of NUL."""
    vr = pydicom.datadict.dictionary_VR(keyword)
    ct = [read_back(ds, element(keyword, vr, text.encode())) for ds in datasets.series()]
    check_plain(decode(ct=ct))


@pytest.mark.filterwarnings("ignore:Value exceeds the maximum length of 16")
def test_decimals_longer_than_allowed_are_read() -> None:
    """DS ends at 16 characters, the printed digits of a double do not."""
    ct = [
        read_back(ds, element("PixelSpacing", "DS", b"2.000000000000000001\\1.50000000000000001"))
        for ds in datasets.series()
    ]
    check_plain(decode(ct=ct))


# --- what others add ---


def test_private_tags_change_nothing() -> None:
    """With and without creator, with sequences, with pixel data of their own."""
    ct = datasets.series()
    for ds in ct:
        block = ds.private_block(0x0029, "ACME 1.1", create=True)
        nested = Dataset()
        nested.RescaleSlope, nested.PixelSpacing = 99, [9, 9]
        nested.private_block(0x0031, "INNER", create=True).add_new(0x01, "OB", b"\1\2\3\4")
        block.add_new(0x10, "SQ", [nested, Dataset()])
        block.add_new(0x11, "OW", b"\0" * 60)
        block.add_new(0x12, "DS", "12.5")
        ds.add(DataElement(0x00091001, "UN", b"no creator"))
        ds.add(DataElement(0x7FE11010, "OB", b"\7" * 60))
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        check_plain(decode(ct=[read_back(ds, syntax=syntax) for ds in ct]))


def test_pictures_within_the_object_are_not_taken_for_it() -> None:
    """An icon and an overlay plane have rows, columns and pixels of their own."""
    ct = datasets.series()
    for ds in ct:
        icon = Dataset()
        datasets.set_pixels(icon, np.full((2, 2), 7, dtype=np.int16))
        icon["PixelData"].VR = "OW"
        ds.IconImageSequence = DicomSequence([icon])
        ds.add_new(0x60000010, "US", 6)  # Overlay Rows, Columns, Type, Origin, Bits, Position, Data
        ds.add_new(0x60000011, "US", 5)
        ds.add_new(0x60000040, "CS", "G")
        ds.add_new(0x60000050, "SS", [1, 1])
        ds.add_new(0x60000100, "US", 1)
        ds.add_new(0x60000102, "US", 0)
        ds.add_new(0x60003000, "OW", b"\xff" * 4)
        ds.DataSetTrailingPadding = b"\0" * 10
    check_plain(decode(ct=[read_back(ds) for ds in ct]))


def test_group_lengths_are_passed_over() -> None:
    """Retired (PS3.5 7.2), still written, and here even wrong."""
    ct = [
        read_back(
            ds,
            element(0x00080000, "UL", struct.pack("<L", 1)),
            element(0x00280000, "UL", struct.pack("<L", 99999)),
        )
        for ds in datasets.series()
    ]
    check_plain(decode(ct=ct))


# --- UN ---

UNKNOWN = {
    "PatientID": datasets.PATIENT_ID.encode(),
    "Modality": b"CT",
    "FrameOfReferenceUID": datasets.CT_FRAME.encode() + b"\0",
    "ImageOrientationPatient": b"1\\0\\0\\0\\1\\0 ",
    "PixelSpacing": b"2.0\\1.5 ",
    "RescaleSlope": b"2 ",
    "RescaleIntercept": b"-1000 ",
    "Rows": struct.pack("<H", 6),
    "PixelRepresentation": struct.pack("<H", 1),
}


@pytest.mark.parametrize("keyword", [*UNKNOWN, "all"])
def test_known_attributes_of_unknown_vr_are_read(keyword: str) -> None:
    """PS3.5 6.2.2: a relay that did not know them wrote UN; the dictionary knows them."""
    names = UNKNOWN if keyword == "all" else [keyword]
    ct = [
        read_back(ds, *(element(name, "UN", UNKNOWN[name]) for name in names))
        for ds in datasets.series()
    ]
    check_plain(decode(ct=ct))


@pytest.mark.parametrize("is_delimited", [True, False])
@pytest.mark.parametrize("keyword", ["ROIContourSequence", "StructureSetROISequence"])
def test_sequence_of_unknown_vr_is_read(keyword: str, is_delimited: bool) -> None:
    """PS3.5 6.2.2 note: UN of undefined length is a sequence in Implicit VR Little Endian."""
    ds = datasets.structure_set(TARGET)
    items = b""
    for item in ds[keyword].value:
        encoded = implicit(item)
        items += struct.pack("<HHL", 0xFFFE, 0xE000, len(encoded)) + encoded
    tag, raw = element(keyword, "UN", items)
    if is_delimited:
        raw = raw[:8] + struct.pack("<L", 0xFFFFFFFF) + items
        raw += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    decoded = decode(structure_set=read_back(ds, (tag, raw)))
    (roi,) = decoded.case.structure_set.rois
    assert roi.name == "GTV"
    assert [contour.points.tolist() for contour in roi.contours] == [
        points.tolist() for points in TARGET["GTV"]
    ]


# --- sequences ---


def test_empty_sequences_count_as_absent() -> None:
    """Type 2 sequences come empty; so do some that should be absent."""
    ct = datasets.series()
    for ds in ct:
        for keyword in ("ReferencedImageSequence", "PerFrameFunctionalGroupsSequence"):
            setattr(ds, keyword, DicomSequence())
    structures = datasets.structure_set({**TARGET, "Bladder": []})
    structures.ReferencedFrameOfReferenceSequence = DicomSequence()
    structures.RTROIObservationsSequence = DicomSequence()
    structures.ROIContourSequence[1].ContourSequence = DicomSequence()
    for contour in structures.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = DicomSequence()
    empty = Dataset()
    structures.ROIContourSequence.append(empty)
    decoded = decode(ct=[read_back(ds) for ds in ct], structure_set=read_back(structures))
    check_plain(decoded)
    drawn = {roi.name: len(roi.contours) for roi in decoded.case.structure_set.rois}
    assert drawn == {"GTV": 2, "Bladder": 0}


def test_sequences_and_items_of_undefined_length_are_read() -> None:
    """PS3.5 7.5: delimiters instead of lengths, at every depth."""
    ds = datasets.structure_set(TARGET)

    def open_ended(of: Dataset) -> None:
        of.is_undefined_length_sequence_item = True
        for one in of:
            if one.VR == "SQ":
                one.is_undefined_length = True
                for item in one.value:
                    open_ended(item)

    open_ended(ds)
    read = read_back(ds)
    assert read["ROIContourSequence"].is_undefined_length
    assert len(decode(structure_set=read).case.structure_set.rois[0].contours) == 2


# --- character sets ---


@pytest.mark.parametrize(
    ("character_set", "codec", "name"),
    [
        ("ISO_IR 100", "latin-1", "Lésion à gauche"),
        ("ISO_IR 101", "iso8859_2", "Guz wątroby"),
        ("ISO_IR 144", "iso8859_5", "Опухоль"),
        ("ISO_IR 126", "iso8859_7", "Όγκος"),
        ("ISO_IR 166", "iso8859_11", "เนื้องอก"),
        ("ISO_IR 13", "shift_jis", "ｼｭﾖｳ"),
        ("ISO_IR 192", "utf-8", "Tumör 腫瘍"),
        ("GB18030", "gb18030", "肿瘤"),
        ("GB18030", "gb18030", "乗乗"),  # whose second byte is that of a backslash
        ("GBK", "gbk", "肿瘤"),
        ("\\ISO 2022 IR 87", "iso2022_jp", "腫瘍"),
        ("ISO 2022 IR 100\\ISO 2022 IR 144", "", "Tumör Опухоль"),
        ("\\ISO 2022 IR 149", "", "종양"),
    ],
)
def test_roi_name_when_in_another_character_set_is_read(
    character_set: str, codec: str, name: str
) -> None:
    """PS3.3 C.12.1.1.2: a target's name must be shown as it was typed."""
    escaped = {
        "Tumör Опухоль": "Tumör ".encode("latin-1") + b"\x1b-L" + "Опухоль".encode("iso8859_5"),
        "종양": b"\x1b$)C" + "종양".encode("euc_kr"),
    }
    encoded = escaped[name] if name in escaped else name.encode(codec)
    assert read_with_name(character_set, encoded).case.structure_set.rois[0].name == name


def read_with_name(character_set: str, name: bytes) -> DecodedCase:
    """Return the case of a structure set whose only ROI has a name in given bytes."""
    ds = datasets.structure_set(TARGET)
    parts: Mapping[str, tuple[str, bytes]] = {
        "ROINumber": ("IS", b"1 "),
        "ReferencedFrameOfReferenceUID": ("UI", datasets.CT_FRAME.encode() + b"\0"),
        "ROIName": ("LO", name),
    }
    item = b"".join(element(keyword, *value)[1] for keyword, value in parts.items())
    sequence = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    return decode(
        structure_set=read_back(
            ds,
            element("SpecificCharacterSet", "CS", character_set.encode()),
            element("StructureSetROISequence", "SQ", sequence),
        )
    )


@pytest.mark.parametrize(
    ("character_set", "name", "shown"),
    [
        ("", "Tumör".encode("latin-1"), "Tum"),
        ("ISO_IR 4711", b"GTV 1", "GTV 1"),
        ("ISO_IR 192", b"GTV \xff\xfe", "GTV "),
        ("\\ISO 2022 IR 87", b"GTV \x1b$B\x42", "GTV"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # they quote the name: the child process hides them
def test_roi_name_when_its_character_set_is_wrong_does_not_stop_the_case(
    character_set: str, name: bytes, shown: str
) -> None:
    """What can be read of a name is kept; contours do not depend on it."""
    (roi,) = read_with_name(character_set, name).case.structure_set.rois
    assert roi.name.startswith(shown)
    assert len(roi.contours) == 2


def test_series_description_of_another_character_set_stands_in_the_findings() -> None:
    """Findings name a series as the scanner's user typed it."""
    mr: list[Any] = [
        read_back(
            ds,
            element("SpecificCharacterSet", "CS", b"ISO_IR 100"),
            element("SeriesDescription", "LO", "Abdomen, Atemstopp für Leber".encode("latin-1")),
        )
        for ds in datasets.series(modality="MR", LossyImageCompression="01")
    ]
    (finding,) = decode(mr={MR: mr}).case.findings
    assert '"Abdomen, Atemstopp für Leber"' in finding.text
