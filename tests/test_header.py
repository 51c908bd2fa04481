"""What is read from an object's header, and which objects are refused.

Whatever is answered to a sender is asked of `scan` and of `header_from_bytes` alike.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate

from node.element_reader import encoded_from_file
from node.errors import NodeError, UnfitObjectError, UnreadableObjectError
from node.header import InstanceHeader, header_from_bytes, header_from_file, scan
from tests import receiving_node
from tests.header_objects import (
    SYNTAXES,
    encoded,
    image,
    item,
    open_sequences,
    references,
    structure_set,
)


def header_and_scan(raw: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> InstanceHeader:
    """Return the header; the scan must agree with it."""
    header, scanned = header_from_bytes(raw, syntax), scan(raw, syntax)
    for name in ("sop_class_uid", "sop_instance_uid", "patient_name", "patient_id"):
        assert getattr(scanned, name) == getattr(header, name)
    assert scanned.patient_birth_date == header.patient_birth_date
    return header


def read(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> InstanceHeader:
    return header_and_scan(encoded(ds, syntax), syntax)


def check_refused(
    kind: type[NodeError],
    raw: bytes,
    *reasons: str,
    syntax: str = uid.ExplicitVRLittleEndian,
) -> None:
    """Both refuse, in the same words, and without the patient's."""
    texts = set()
    for look in (scan, header_from_bytes):
        with pytest.raises(kind) as caught:
            look(raw, syntax)
        texts.add(str(caught.value))
    (text,) = texts
    for reason in reasons:
        assert reason in text
    assert "Muster" not in text


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
    check_refused(UnfitObjectError, encoded(ds), *reasons)


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


@pytest.mark.parametrize(
    "illegal",
    ["../../etc/passwd", "1.2.03", "1..2", ".1", "1.", "abc", "1" * 65, "1.2" * 100, "1.2\0.3",
     " 1.2", "1.2\n", "1.2\\1.3", "1.2/../3", "1.²", "-1.2"],
)  # fmt: skip
def test_illegal_sop_instance_uid_is_refused(illegal: str) -> None:
    """Others refer to this UID, and text from a peer must not spread."""
    ds = image()
    ds.add_new("SOPInstanceUID", "LT", illegal)
    raw = encoded(ds, uid.ImplicitVRLittleEndian)
    reason = "SOPInstanceUID is not a legal UID"
    check_refused(UnfitObjectError, raw, reason, syntax=uid.ImplicitVRLittleEndian)


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
            accepted.append(header_and_scan(raw[:length], syntax))
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
    assert header_and_scan(raw, uid.JPEGLSLossless).rows == 2
    start = raw.index(b"\xe0\x7f\x10\x00")
    for length in range(start + 1, len(raw)):
        check_refused(UnreadableObjectError, raw[:length], syntax=uid.JPEGLSLossless)


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
    check_refused(UnreadableObjectError, raw, syntax=syntax)


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
    text += repr(scan(encoded(image()), uid.ExplicitVRLittleEndian))
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


def test_header_written_before_a_key_existed_is_read() -> None:
    """Rows of an older version lack the keys that came later."""
    document = read(image()).to_json()
    del document["lossy_image_compression"]
    assert InstanceHeader.from_json(document) == read(image())


@pytest.mark.parametrize("told", ["00", "01", ""])
def test_lossy_compression_is_told(told: str) -> None:
    """Whoever computes with the pixels must be able to say that they lost something."""
    ds = image()
    ds.LossyImageCompression = told
    assert read(ds).lossy_image_compression == told


def test_damage_within_a_sequence_is_found_by_the_whole_header() -> None:
    """The scan steps over a sequence whose length is told; the index looks inside."""
    raw = encoded(structure_set())
    name = raw.index(b"GTVn")
    broken = raw[: name - 2] + b"\xff\xff" + raw[name:]
    assert scan(broken, uid.ExplicitVRLittleEndian).sop_instance_uid == "1.2.826.0.1.7"
    with pytest.raises(UnreadableObjectError, match=r"ends within element \(3006,0026\)"):
        header_from_bytes(broken, uid.ExplicitVRLittleEndian)


@pytest.mark.real_data
def test_real_headers_agree_with_pydicom(real_data: Path) -> None:
    """Objects of eight makers: pydicom, a reader by others, sees the same values."""
    paths = sorted(real_data.rglob("*.dcm"))[::10]
    assert paths
    for path in paths:
        syntax, raw = encoded_from_file(path)
        header, ds = header_from_file(path), dcmread(path, stop_before_pixels=True)
        assert header_and_scan(raw, syntax) == header
        assert header.sop_instance_uid == ds.SOPInstanceUID
        assert header.series_instance_uid == ds.SeriesInstanceUID
        assert header.patient_name == str(ds.PatientName)
        assert header.rows == ds.get("Rows")
        if header.modality in ("CT", "MR"):
            assert header.position_mm == tuple(float(x) for x in ds.ImagePositionPatient)


def test_beginning_of_a_data_set_is_enough_or_is_refused() -> None:
    """Receiving looks at what it holds in memory first, and must be told no less for that."""
    ds = receiving_node.ct(SeriesDescription="x" * 60)
    whole = receiving_node.encoded(ds)
    pixels = len(whole) - len(ds.PixelData)
    expected = scan(whole, uid.ExplicitVRLittleEndian)
    for size in (*range(1, pixels + 20), len(whole)):
        try:
            found = scan(whole[:size], uid.ExplicitVRLittleEndian, size_bytes=len(whole))
        except UnreadableObjectError:
            assert size < pixels
        else:
            assert found == expected
            assert size >= pixels
    for wrong in (len(whole) - 2, len(whole) + 2):
        with pytest.raises(UnreadableObjectError):
            scan(whole[:pixels], uid.ExplicitVRLittleEndian, size_bytes=wrong)
