"""One image in every transfer syntax: the node keeps it as sent, and it decodes to one picture."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID

from handlers.decode import DecodedCase
from handlers.values import Severity
from node.conformance import SUCCESS
from node.element_reader import encoded_from_file
from node.storage_classes import IMAGE_SYNTAXES, PERHAPS_LOSSY
from tests import datasets
from tests.decoding import MR, check_rejected, codes, decode
from tests.encoded_images import (
    ENCODINGS,
    HTJ2K_IRREVERSIBLE,
    HTJ2K_LOSSLESS,
    Encoding,
    Program,
    dose_object,
    encoded_files,
    htj2k_picture,
    image_series,
    in_high_throughput,
    picture,
)
from tests.receiving_node import LONG_S, Node, answer_to, associated, running

pytestmark = pytest.mark.peers

ALL = set(ENCODINGS)
SIGNED = ALL - {"JPEG-LS near-lossless"}  # which DCMTK encodes for unsigned values only
WITHOUT_RESCALE = ALL - {"JPEG baseline", "JPEG extended, 8 bits"}  # 12 bits are too many for 8
LONG_VALUES = {"implicit", "explicit", "big endian", "deflated", "RLE"}
"""Nothing else holds 32 bits: JPEG ends at 16, OpenJPEG at 31."""


def unsigned_picture() -> npt.NDArray[np.int16]:
    """Return the picture from 0 on: DCMTK shifts an MR there, and has no intercept to tell it."""
    return np.array(picture() - picture().min(), dtype=np.int16)


def check_findings(decoded: DecodedCase, kind: str, encoding: Encoding) -> None:
    """Check that loss, and nothing else, is told as a warning that names the syntax's family."""
    expected = {f"{kind}.{encoding.finding}": Severity.WARNING} if encoding.finding else {}
    assert codes(decoded) == expected
    assert all("JPEG" in finding.text for finding in decoded.case.findings)


@pytest.mark.parametrize("name", sorted(SIGNED))
@pytest.mark.parametrize("bits", [16, 12])
def test_signed_ct_when_encoded_decodes_to_the_same_hounsfield_units(
    name: str, bits: int, tmp_path: Path, peer_program: Program
) -> None:
    """Issue 4, 14: negative values survive in each syntax, within its error where it has one."""
    encoding = ENCODINGS[name]
    series = image_series("CT", picture(), bits, signed=True)
    paths = encoded_files(series, encoding, tmp_path, peer_program)
    read = [pydicom.dcmread(path) for path in paths]
    assert {ds.file_meta.TransferSyntaxUID for ds in read} == {encoding.syntax}
    decoded = decode(ct=read)
    assert np.abs(decoded.case.ct.voxels - picture()).max() <= encoding.tolerance
    assert picture().min() < -1000
    check_findings(decoded, "ct", encoding)


@pytest.mark.parametrize("name", sorted(WITHOUT_RESCALE))
def test_12_bit_mr_when_encoded_decodes_to_the_same_values(
    name: str, tmp_path: Path, peer_program: Program
) -> None:
    """Issue 4, 14: 12 bits in 16, unsigned."""
    encoding, stored = ENCODINGS[name], unsigned_picture()
    series = image_series("MR", stored, 12, signed=False)
    read = [pydicom.dcmread(p) for p in encoded_files(series, encoding, tmp_path, peer_program)]
    decoded = decode(mr={MR: read})
    assert np.abs(decoded.case.mr[0].voxels - stored).max() <= encoding.tolerance
    check_findings(decoded, "mr", encoding)


@pytest.mark.parametrize("name", sorted(LONG_VALUES))
def test_32_bit_dose_when_encoded_decodes_to_the_same_dose(
    name: str, tmp_path: Path, peer_program: Program
) -> None:
    """Issue 4, 14: the words of a big endian dose are DICOM's, not the computer's."""
    (path,) = encoded_files([dose_object()], ENCODINGS[name], tmp_path, peer_program)
    plan = datasets.plan(prescriptions=[("SITE", None, 12.0)])
    decoded = decode(doses=[pydicom.dcmread(path)], plans=[plan])
    (planned,) = decoded.case.plan_doses
    # plane 2, row 63, column 47: 12 000 000 + 1 890 693 + 329 047
    assert planned.dose.dose_gy[2, 63, 47] == pytest.approx(14.21974)
    assert planned.dose.dose_gy[0, 0, 0] == pytest.approx(4.0)
    assert codes(decoded) == {}


@pytest.mark.parametrize("name", ["JPEG-LS near-lossless", "JPEG extended, 12 bits"])
def test_lossy_dose_is_told(name: str, tmp_path: Path, peer_program: Program) -> None:
    """Issue 4, 14: a dose, of several frames, is accepted with the same finding."""
    ds = dose_object()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    plane, row, column = np.indices((3, 64, 48))
    ds.PixelData = (1000 * plane + 20 * row + column).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.DoseGridScaling = 1e-3
    encoding = ENCODINGS[name]
    (path,) = encoded_files([ds], encoding, tmp_path, peer_program)
    decoded = decode(doses=[pydicom.dcmread(path)], plans=[datasets.plan()])
    (planned,) = decoded.case.plan_doses
    off_gy = (encoding.tolerance + 0.5) * 1e-3
    assert planned.dose.dose_gy[2, 63, 47] == pytest.approx(3.307, abs=off_gy)
    assert planned.dose.dose_gy[1, 10, 10] == pytest.approx(1.21, abs=off_gy)
    check_findings(decoded, "dose", encoding)


@pytest.mark.parametrize(
    ("syntax", "code_stream", "tolerance", "finding"),
    [
        (uid.HTJ2KLossless, HTJ2K_LOSSLESS, 0, {}),
        (uid.HTJ2KLosslessRPCL, HTJ2K_LOSSLESS, 0, {}),
        (uid.HTJ2K, HTJ2K_IRREVERSIBLE, 1, {"ct.perhaps_lossy": Severity.WARNING}),
    ],
)
def test_high_throughput_jpeg_2000_decodes(
    syntax: UID, code_stream: str, tolerance: int, finding: dict[str, Severity]
) -> None:
    """Issue 4, 14: OpenJPH encoded it, GDCM decodes it."""
    series = image_series("CT", htj2k_picture(), 16, signed=True)
    decoded = decode(ct=in_high_throughput(series, syntax, code_stream))
    assert np.abs(decoded.case.ct.voxels - htj2k_picture()).max() <= tolerance
    assert codes(decoded) == finding


@pytest.mark.parametrize("name", sorted(SIGNED - {"implicit", "explicit", "big endian"}))
def test_half_a_code_stream_when_decoded_rejects_the_case(
    name: str, tmp_path: Path, peer_program: Program
) -> None:
    """Issue 4, 14: what cannot be decoded is refused with the reason, never filled up."""
    series = image_series("CT", picture(), 16, signed=True)
    paths = encoded_files(series, ENCODINGS[name], tmp_path, peer_program)
    read = [pydicom.dcmread(path) for path in paths]
    if name == "deflated":
        read[1].PixelData = read[1].PixelData[: len(read[1].PixelData) // 2]
    else:
        (frame,) = generate_frames(read[1].PixelData, number_of_frames=1)
        read[1].PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
    check_rejected("cannot be decoded", ct=read)


@pytest.mark.parametrize(
    ("name", "allocated", "stored", "fragment"),
    [
        ("JPEG lossless, SV1", 8, 8, "has 16 bits, the header allocates 8"),
        ("JPEG lossless, SV1", 16, 10, "more bits than the 10 of Bits Stored"),
        ("JPEG-LS", 16, 10, "more bits than the 10 of Bits Stored"),
        ("RLE", 16, 10, "more bits than the 10 of Bits Stored"),
        ("JPEG extended, 12 bits", 16, 8, "more bits than the 8 of Bits Stored"),
        ("JPEG extended, 12 bits", 8, 8, "has 12 bits, the header allocates 8"),
        ("JPEG baseline", 16, 12, "has 8 bits, the header allocates 16"),
    ],
)
def test_code_stream_when_the_header_tells_other_bits_rejects_the_case(
    name: str, allocated: int, stored: int, fragment: str, tmp_path: Path, peer_program: Program
) -> None:
    """GDCM would narrow the values to what the header says, without a word."""
    series = image_series("CT", unsigned_picture(), 16, signed=False)
    paths = encoded_files(series, ENCODINGS[name], tmp_path, peer_program)
    read = [pydicom.dcmread(path) for path in paths]
    for ds in read:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    check_rejected(fragment, ct=read)


def test_fill_bytes_within_a_code_stream_are_passed_over(
    tmp_path: Path, peer_program: Program
) -> None:
    """ISO/IEC 10918-1 B.1.1.2: any marker may be preceded by them."""
    series = image_series("CT", picture(), 16, signed=True)
    encoding = ENCODINGS["JPEG lossless, SV1"]
    read = [pydicom.dcmread(p) for p in encoded_files(series, encoding, tmp_path, peer_program)]
    for ds in read:
        (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
        ds.PixelData = encapsulate([frame[:2] + b"\xff\xff" + frame[2:]])
    assert np.array_equal(decode(ct=read).case.ct.voxels, np.stack([picture()] * 2))


# --- what the header says of the bits ---


def with_raw(stored: list[int], bits_stored: int, *, signed: bool) -> list[Dataset]:
    """Return slices of 6 x 5 pixels of which the first ones hold given 16-bit patterns."""
    pixels = np.arange(30, dtype=np.uint16)
    pixels[: len(stored)] = stored
    series = datasets.series(slices=2, rows=6, columns=5, RescaleSlope=1, RescaleIntercept=0)
    for ds in series:
        ds.PixelData = pixels.astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits_stored, bits_stored - 1, signed
    return series


def first_values(series: list[Dataset], count: int) -> list[float]:
    values: list[float] = decode(ct=series).case.ct.voxels[0].ravel()[:count].tolist()
    return values


def test_sign_when_the_bits_above_are_empty_is_that_of_the_high_bit() -> None:
    """PS3.5 8.1.1: the sign stands in the high bit, wherever the cell ends."""
    series = with_raw([0x0FFF, 0x0800, 0xFFFF, 0x07FF], 12, signed=True)
    assert first_values(series, 4) == [-1, -2048, -1, 2047]


def test_overlay_in_the_upper_bits_is_no_pixel() -> None:
    """PS3.5 8.1.2: retired, but legal where an overlay plane says so."""
    series = with_raw([0x1005, 0x1FFF], 12, signed=False)
    check_rejected("more bits than the 12 of Bits Stored", ct=series)
    for ds in series:
        ds.add_new(0x60000102, "US", 12)
    assert first_values(series, 2) == [5, 4095]


def test_high_bit_when_not_the_last_shifts_the_values() -> None:
    """PS3.5 8.1.1: Bits Stored are counted down from High Bit."""
    series = with_raw([0x1230, 0x0010], 12, signed=False)
    for ds in series:
        ds.HighBit = 15
    assert first_values(series, 2) == [0x123, 1]


def test_bits_that_contradict_each_other_reject_the_case() -> None:
    """No value is guessed from a header that cannot be true."""
    series = with_raw([1], 12, signed=False)
    for ds in series:
        ds.HighBit = 7
    check_rejected("Bits Stored 12 and High Bit 7", ct=series)


def test_big_endian_dose_when_its_words_are_turned_round_is_left_out() -> None:
    """Some write the four bytes of a value in reverse: it is not guessed which was meant."""
    ds = dose_object()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    ds.PixelData = np.frombuffer(ds.PixelData, "<u4").astype(">u4").tobytes()
    decoded = decode(doses=[ds], plans=[datasets.plan()])
    assert decoded.case.plan_doses == ()
    (finding,) = decoded.case.findings
    assert (finding.code, finding.severity) == ("dose.pixel_data", Severity.WARNING)
    assert "little endian" in finding.text


# --- what the node keeps ---

STORESCU = {
    uid.ImplicitVRLittleEndian: "-xi",
    uid.ExplicitVRLittleEndian: "-xe",
    uid.RLELossless: "-xr",
    uid.JPEGLosslessSV1: "-xs",
    uid.JPEGLSLossless: "-xt",
    uid.JPEGLSNearLossless: "-xu",
    uid.JPEG2000Lossless: "-xv",
    uid.JPEG2000: "-xw",
    uid.JPEGExtended12Bit: "-xx",
    uid.JPEGBaseline8Bit: "-xy",
}
"""How storescu is asked to propose a transfer syntax; for the rest there is dcmsend."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("node")) as node:
        yield node


def send(node: Node, path: Path, syntax: UID, program: Program) -> None:
    """Send a file as it is over DICOM, by DCMTK."""
    names = ["-aet", "CT1", "-aec", "HILUM"]
    if syntax in STORESCU:
        command = [program("storescu"), STORESCU[syntax], *names]
    else:
        command = [program("dcmsend"), "--decompress-never", *names]
    subprocess.run(
        [*command, "127.0.0.1", str(node.port), path],
        check=True,
        capture_output=True,
        timeout=LONG_S,
    )


def kept(node: Node, sop_instance_uid: str) -> tuple[str, bytes]:
    """Return transfer syntax and data set of the one file on disk that holds an instance."""
    found = [
        encoded_from_file(path)
        for path in node.objects()
        if path.suffix == ".dcm"
        if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID == sop_instance_uid
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", sorted(ALL - {"big endian"}))
def test_image_when_sent_by_dcmtk_is_kept_byte_for_byte(
    node: Node, name: str, tmp_path: Path, peer_program: Program
) -> None:
    """Issue 4, 14: kept as sent."""
    encoding = ENCODINGS[name]
    is_signed = name in SIGNED
    stored = picture() if is_signed else unsigned_picture()
    ds = image_series("CT", stored, 16, signed=is_signed)[0]
    ds.SOPInstanceUID = f"1.2.826.0.7.{sorted(ALL).index(name)}"
    (encoded,) = encoded_files([ds], encoding, tmp_path, peer_program)
    path = tmp_path / "sent.dcm"  # as DCMTK writes what it reads: GDCM encodes lengths otherwise
    subprocess.run([peer_program("dcmconv"), encoded, path], check=True, capture_output=True)
    syntax, raw = encoded_from_file(path)
    assert syntax == encoding.syntax
    send(node, path, encoding.syntax, peer_program)
    if encoding.syntax == uid.DeflatedExplicitVRLittleEndian:
        raw += bytes(len(raw) % 2)  # DCMTK pads the stream when it sends, not in the file
    assert kept(node, ds.SOPInstanceUID) == (syntax, raw)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRBigEndian, uid.HTJ2KLossless, uid.HTJ2K])
def test_image_when_dcmtk_cannot_send_it_is_kept_byte_for_byte(
    node: Node, syntax: UID, tmp_path: Path
) -> None:
    """Issue 4, 14: DCMTK proposes little endian along with big, and knows no high throughput."""
    ds = image_series("CT", picture(), 16, signed=True)[0]
    ds.SOPInstanceUID = f"1.2.826.0.8{syntax.removeprefix('1.2.840.10008.1.2')}"
    if syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = picture().astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        in_high_throughput([ds], syntax, HTJ2K_LOSSLESS)
    pydicom.dcmwrite(tmp_path / "sent.dcm", ds, enforce_file_format=True)
    _, raw = encoded_from_file(tmp_path / "sent.dcm")
    with associated(node, syntax=syntax) as assoc:
        assert answer_to(assoc, raw, ds).Status == SUCCESS
    assert kept(node, ds.SOPInstanceUID) == (syntax, raw)


def test_lossy_syntax_when_another_is_proposed_is_not_taken(node: Node) -> None:
    """Issue 4, 14: of several syntaxes in one context a lossless one is taken, in our order."""
    proposals = [
        ([uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1], uid.JPEGLosslessSV1),
        ([uid.JPEG2000, uid.RLELossless, uid.ExplicitVRBigEndian], uid.ExplicitVRBigEndian),
        ([uid.JPEGLSLossless, uid.ImplicitVRLittleEndian], uid.ImplicitVRLittleEndian),
        ([uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit], uid.JPEGExtended12Bit),
        ([uid.JPEGBaseline8Bit], uid.JPEGBaseline8Bit),
    ]
    for proposed, taken in proposals:
        with associated(node, syntax=proposed) as assoc:  # type: ignore[arg-type]  # several
            (context,) = assoc.accepted_contexts
            assert context.transfer_syntax == [taken]


def test_every_syntax_that_is_accepted_is_decoded_here() -> None:
    """No syntax is promised that no test decodes."""
    tried = {encoding.syntax for encoding in ENCODINGS.values()}
    assert tried | {uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K} == set(IMAGE_SYNTAXES)
    lossy = {encoding.syntax for encoding in ENCODINGS.values() if encoding.finding}
    assert lossy | {uid.HTJ2K} == set(PERHAPS_LOSSY)
