"""What is read from an object's header, and which objects are refused."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate
from pynetdicom.dsutils import encode

from node.element_reader import encoded_from_file
from node.errors import NodeError, UnfitObjectError, UnreadableObjectError
from node.header import InstanceHeader, header_from_bytes, header_from_file

SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)


def image(sop_class: str = uid.CTImageStorage, modality: str = "CT") -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "1.2.826.0.1.7"
    ds.StudyDate, ds.AcquisitionDate, ds.Modality = "20260301", "20260302", modality
    ds.SeriesDescription = "Abdomen für Planung"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Muster^Jörg", " PID-77 ", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex = "19500102", "M"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    ds.ImagePositionPatient = [-100.5, "2e1", -30]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = "1.2.826.0.4"
    ds.Rows, ds.Columns, ds.PixelSpacing = 2, 3, [0.5, 0.75]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = bytes(12)
    ds["PixelData"].VR = "OW"
    return ds


def items(*children: Dataset, is_open: bool = False) -> list[Dataset]:
    for child in children:
        child.is_undefined_length_sequence_item = is_open
    return list(children)


def item(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def references(*uids: str) -> list[Dataset]:
    return [
        item(ReferencedSOPClassUID=uid.CTImageStorage, ReferencedSOPInstanceUID=one) for one in uids
    ]


def structure_set() -> Dataset:
    """Two listed series: an MR with one image, the CT with three; a contour names a fourth."""
    ds = image(uid.RTStructureSetStorage, "RTSTRUCT")
    del ds.PixelData, ds.FrameOfReferenceUID
    ds.StructureSetLabel = "PLAN"
    mr = item(SeriesInstanceUID="1.9.1", ContourImageSequence=references("1.9.1.1"))
    ct = item(
        SeriesInstanceUID="1.9.2", ContourImageSequence=references("1.9.2.1", "1.9.2.2", "1.9.2.3")
    )
    study = item(ReferencedSOPInstanceUID="1.9", RTReferencedSeriesSequence=[mr, ct])
    ds.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID="1.8", RTReferencedStudySequence=[study])
    ]
    ds.StructureSetROISequence = [
        item(ROINumber=1, ROIName="GTVn", ReferencedFrameOfReferenceUID="1.8"),
        item(ROINumber=2, ROIName="Magenwände", ReferencedFrameOfReferenceUID="1.8"),
    ]
    contours = [
        item(ContourImageSequence=references(one), ContourData=[0, 0, 0, 1, 0, 0, 1, 1, 0])
        for one in ("1.9.2.2", "1.9.2.4")
    ]
    ds.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=contours)]
    return ds


def encoded(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Encode with pydicom's writer, the outside judge of the encoding."""
    kind = uid.UID(syntax)
    found = encode(ds, kind.is_implicit_VR, kind.is_little_endian, kind.is_deflated)
    assert found is not None
    return found


def read(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> InstanceHeader:
    return header_from_bytes(encoded(ds, syntax), syntax)


def open_sequences(ds: Dataset) -> Dataset:
    """Give every sequence and item an undefined length."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for child in element.value:
                child.is_undefined_length_sequence_item = True
                open_sequences(child)
    return ds


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_ct_attributes_in_every_encoding(syntax: str) -> None:
    """Assembly needs these values whatever the transfer syntax."""
    assert read(image(), syntax) == InstanceHeader(
        sop_instance_uid="1.2.826.0.1.7",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid=syntax,
        modality="CT",
        study_instance_uid="1.2.826.0.2",
        series_instance_uid="1.2.826.0.3",
        patient_id="PID-77",
        issuer_of_patient_id="HOSPITAL",
        patient_name="Muster^Jörg",
        patient_birth_date="19500102",
        patient_sex="M",
        series_description="Abdomen für Planung",
        study_date="20260301",
        acquisition_date="20260302",
        frame_of_reference_uid="1.2.826.0.4",
        rows=2,
        columns=3,
        position_mm=(-100.5, 20.0, -30.0),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing_mm=(0.5, 0.75),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    )


@pytest.mark.parametrize("arrange", [lambda ds: ds, open_sequences])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_structure_set_references_in_every_encoding(
    syntax: str, arrange: Callable[[Dataset], Dataset]
) -> None:
    """Completeness rests on the union of listed and drawn instances, and on the larger series."""
    header = read(arrange(structure_set()), syntax)
    assert header.referenced_series_uid == "1.9.2"
    assert header.referenced_sop_instance_uids == (
        "1.9.1.1",
        "1.9.2.1",
        "1.9.2.2",
        "1.9.2.3",
        "1.9.2.4",
    )
    assert header.roi_names == ("GTVn", "Magenwände")
    assert header.frame_of_reference_uid == "1.8"
    assert header.structure_set_label == "PLAN"


def test_sequence_of_unknown_vr_is_read_as_implicit() -> None:
    """PS3.5 6.2.2: a sequence that an archive did not know has VR UN and implicit content."""
    ds = structure_set()
    names = Dataset()
    names.StructureSetROISequence = ds.StructureSetROISequence
    implicit = encoded(open_sequences(names), uid.ImplicitVRLittleEndian)
    del ds.StructureSetROISequence
    unknown = implicit[:4] + b"UN\0\0" + implicit[4:]
    header = header_from_bytes(encoded(ds) + unknown, uid.ExplicitVRLittleEndian)
    assert header.roi_names == ("GTVn", "Magenwände")


def test_references_of_dose_plan_and_registrations() -> None:
    """Dose names its plan, a plan its structure set, a registration the frames it maps."""
    dose = image(uid.RTDoseStorage, "RTDOSE")
    dose.ReferencedRTPlanSequence = references("1.5.1")
    plan = image(uid.RTPlanStorage, "RTPLAN")
    plan.ReferencedStructureSetSequence = references("1.5.2")
    rigid = image(uid.SpatialRegistrationStorage, "REG")
    rigid.RegistrationSequence = [
        item(FrameOfReferenceUID="1.6.1"),
        item(FrameOfReferenceUID="1.2.826.0.4"),
    ]
    deformable = image(uid.DeformableSpatialRegistrationStorage, "REG")
    deformable.DeformableRegistrationSequence = [item(SourceFrameOfReferenceUID="1.6.2")]
    assert read(dose).referenced_sop_instance_uids == ("1.5.1",)
    assert read(plan).referenced_sop_instance_uids == ("1.5.2",)
    assert read(rigid).registered_frame_uids == ("1.2.826.0.4", "1.6.1")
    assert read(deformable).registered_frame_uids == ("1.2.826.0.4", "1.6.2")


def test_mr_without_frame_of_reference_is_accepted() -> None:
    """The physicist is told of it later; the scanner cannot mend it."""
    ds = image(uid.MRImageStorage, "MR")
    del ds.FrameOfReferenceUID, ds.ImagePositionPatient
    header = read(ds)
    assert header.frame_of_reference_uid == ""
    assert header.position_mm is None


def check_unfit(ds: Dataset, *reasons: str) -> None:
    with pytest.raises(UnfitObjectError) as caught:
        read(ds)
    for reason in reasons:
        assert reason in str(caught.value)
    assert "Muster" not in str(caught.value)


@pytest.mark.parametrize(
    "keyword",
    [
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "PixelData",
    ],
)
def test_ct_is_refused_without(keyword: str) -> None:
    """Handbook A.2, 0xA900: a type 1 attribute is missing."""
    ds = image()
    delattr(ds, keyword)
    check_unfit(ds, f"{keyword} is missing")


def test_every_lack_is_named_at_once() -> None:
    """One correction by the sender must be enough."""
    ds = image(modality="MR")
    del ds.FrameOfReferenceUID, ds.StudyInstanceUID
    check_unfit(ds, "StudyInstanceUID", "FrameOfReferenceUID", "Modality is not CT")


@pytest.mark.parametrize("illegal", ["../../etc/passwd", "1.2.03", "1..2", "abc", "1" * 65])
def test_illegal_sop_instance_uid_is_refused(illegal: str) -> None:
    """Others refer to this UID, and text from a peer must not spread."""
    ds = image()
    ds.add_new("SOPInstanceUID", "LT", illegal)
    raw = encoded(ds, uid.ImplicitVRLittleEndian)
    with pytest.raises(UnfitObjectError, match="SOPInstanceUID is not a legal UID"):
        header_from_bytes(raw, uid.ImplicitVRLittleEndian)


@pytest.mark.parametrize("has_sequence", [False, True])
def test_structure_set_without_roi_is_refused(has_sequence: bool) -> None:
    """Handbook A.2, 0xA900: no StructureSetROISequence."""
    ds = structure_set()
    del ds.StructureSetROISequence
    if has_sequence:
        ds.StructureSetROISequence = []
    check_unfit(ds, "StructureSetROISequence is missing or empty")


@pytest.mark.parametrize("bad", [["nan", 0, 0], [1, 2], ["1_0", 2, 3]])
def test_malformed_position_is_no_position(bad: list[object]) -> None:
    """A value that is not three decimals is absent, never guessed."""
    raw = encoded(image(uid.MRImageStorage, "MR"))
    text = "\\".join(str(part) for part in bad).encode().ljust(13)
    broken = raw.replace(b"-100.5\\2e1\\-30", text + b" ")
    assert broken != raw
    header = header_from_bytes(broken, uid.ExplicitVRLittleEndian)
    assert header.position_mm is None


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("make", [image, lambda: open_sequences(structure_set())])
def test_object_cut_anywhere_is_refused(make: Callable[[], Dataset], syntax: str) -> None:
    """A truncated object must never count as received, wherever it was cut."""
    raw = encoded(make(), syntax)
    whole = header_from_bytes(raw, syntax)
    accepted = []
    for length in range(len(raw) - 1):
        try:
            accepted.append(header_from_bytes(raw[:length], syntax))
        except NodeError:
            continue
    # a structure set cut exactly behind a whole element is a legal, smaller object
    assert all(one.modality == "RTSTRUCT" and one != whole for one in accepted)
    assert len(accepted) <= 3


def test_cut_compressed_pixel_data_is_refused() -> None:
    """Encapsulated pixel data end with a delimiter or not at all."""
    ds = image()
    ds.PixelData = encapsulate([b"\x01\x02\x03\x04", b"\x05\x06"])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    raw = encoded(ds)
    assert header_from_bytes(raw, uid.JPEGLSLossless).rows == 2
    start = raw.index(b"\xe0\x7f\x10\x00")
    for length in range(start + 1, len(raw)):
        with pytest.raises(UnreadableObjectError):
            header_from_bytes(raw[:length], uid.JPEGLSLossless)


@pytest.mark.parametrize(
    ("raw", "syntax"),
    [
        (b"", uid.ExplicitVRLittleEndian),
        (b"this is no DICOM data set at all", uid.ExplicitVRLittleEndian),
        (b"this is no DICOM data set at all", uid.ImplicitVRLittleEndian),
        (b"this is no DICOM data set at all", uid.DeflatedExplicitVRLittleEndian),
        (b"\x08\x00\x60\x00CS\x02\x00CT", "1.2.3.4"),
        (b"\x08\x00\x60\x00CS\x02\x00CT", "../x"),
        (b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000,
         uid.ExplicitVRLittleEndian),
    ],
)  # fmt: skip
def test_no_data_set_is_unreadable(raw: bytes, syntax: str) -> None:
    """Handbook A.2, 0xC000; also for sequences nested without end."""
    with pytest.raises(UnreadableObjectError):
        header_from_bytes(raw, syntax)


@pytest.mark.filterwarnings("ignore:Found unknown escape", "ignore:Failed to decode")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_object_gives_a_header_or_our_error(data: st.DataObject) -> None:
    """Whatever a peer sends, nothing but our own errors may leave the reader."""
    raw = bytearray(encoded(open_sequences(structure_set())))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    answer = ""
    try:
        answer = header_from_bytes(bytes(raw), uid.ExplicitVRLittleEndian).sop_instance_uid
    except NodeError as error:
        answer = str(error)
    assert answer


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "Müller^Zoë"),
        ("ISO_IR 100", "Müller^Zoë"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_in_their_character_set(charset: object, name: str) -> None:
    """Equal patients must have equal names, whatever the character set."""
    ds = image()
    ds.SeriesDescription = "plain"
    ds.SpecificCharacterSet, ds.PatientName = charset, name
    assert read(ds).patient_name == name


def test_undeclared_characters_do_not_stop_an_object() -> None:
    """Scanners write Latin-1 without saying so; the image is still good."""
    ds = image()
    del ds.SpecificCharacterSet
    raw = encoded(ds).replace(b"ISO_IR 100", b"ISO_IR 999")
    assert header_from_bytes(raw, uid.ExplicitVRLittleEndian).modality == "CT"


@pytest.mark.parametrize(("manufacturer", "expected"), [("Hilum", True), ("Hilum Ltd", False)])
def test_our_objects_are_recognised(manufacturer: str, expected: bool) -> None:
    """A result that a peer returns must not start a case."""
    ds = image()
    ds.Manufacturer = manufacturer
    assert read(ds).is_ours is expected


def test_json_round_trip() -> None:
    """The index keeps headers as JSON text."""
    for ds in (image(), structure_set()):
        header = dataclasses.replace(read(ds), registered_frame_uids=("1.2",))
        assert InstanceHeader.from_json(json.loads(json.dumps(header.to_json()))) == header


def test_repr_hides_the_patient() -> None:
    """A header may come into an exception or a log line."""
    text = repr(read(image()))
    for hidden in ("Muster", "PID-77", "19500102", "HOSPITAL"):
        assert hidden not in text


def test_file_is_read_as_the_bytes_are(tmp_path: Path) -> None:
    """`hilum process` reads files, the network bytes: one answer."""
    path = tmp_path / "any.dcm"
    ds = image()
    ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    with pytest.raises(UnreadableObjectError, match="DICM"):
        header_from_file(path)
    ds.file_meta = item(TransferSyntaxUID=uid.ImplicitVRLittleEndian)  # type: ignore[assignment]
    ds.save_as(path, enforce_file_format=True)
    assert header_from_file(path) == read(image(), uid.ImplicitVRLittleEndian)
    assert encoded_from_file(path) == (
        uid.ImplicitVRLittleEndian,
        encoded(image(), uid.ImplicitVRLittleEndian),
    )
    with pytest.raises(UnreadableObjectError, match="cannot be read"):
        header_from_file(tmp_path / "absent.dcm")


def test_header_of_a_ct_is_quick() -> None:
    """Half a megabyte of pixels must not cost time: C-STORE waits for this (limit with margin)."""
    ds = image()
    ds.PixelData = bytes(512 * 512 * 2)
    raw = encoded(ds)
    best_s = min(
        _seconds(lambda: header_from_bytes(raw, uid.ExplicitVRLittleEndian)) for _ in range(20)
    )
    assert best_s < 0.005


def _seconds(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


@pytest.mark.real_data
def test_real_headers_agree_with_pydicom(real_data: Path) -> None:
    """Objects of eight makers: pydicom, a reader by others, sees the same values."""
    paths = sorted(real_data.rglob("*.dcm"))[::10]
    assert paths
    for path in paths:
        header, ds = header_from_file(path), dcmread(path, stop_before_pixels=True)
        assert header.sop_instance_uid == ds.SOPInstanceUID
        assert header.series_instance_uid == ds.SeriesInstanceUID
        assert header.patient_name == str(ds.PatientName)
        assert header.rows == ds.get("Rows")
        if header.modality in ("CT", "MR"):
            assert header.position_mm == tuple(float(x) for x in ds.ImagePositionPatient)
