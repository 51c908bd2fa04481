"""What negotiation needs of a file, and data sets in another encoding."""

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RTStructureSetStorage,
)

from node.config import Peer, Role
from node.delivery import InstanceOutcome, send_instances
from node.errors import UnfitObjectError, UnreadableObjectError
from node.outgoing import encoded_as, read_outgoing
from tests.stub_tps import StubTps, Welcome

LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def written(
    path: Path, syntax: str, *, private_bytes: int = 0, before: Dataset | None = None
) -> bytes:
    """Write an object, perhaps with more in its meta information or before its UIDs.

    Returns its data set as it is encoded.
    """
    ds = Dataset()
    if before is not None:
        ds.update(before)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    if private_bytes:
        ds.file_meta.PrivateInformationCreatorUID = UID("1.2.3")
        ds.file_meta.PrivateInformation = bytes(private_bytes)
    ds.PatientName = "A"
    ds.Rows = 4
    ds.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def languages() -> Dataset:
    """Return a sequence that stands before the UIDs."""
    code = Dataset()
    code.CodeValue = "en"
    ds = Dataset()
    ds.LanguageCodeSequence = [code]
    return ds


@pytest.mark.parametrize("private_bytes", [0, 10_000])
@pytest.mark.parametrize(
    "syntax", [*LITTLE, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless]
)
@pytest.mark.parametrize("before", [None, languages()], ids=["plain", "sequence"])
def test_file_when_read_for_sending_tells_what_it_is(
    syntax: str, private_bytes: int, before: Dataset | None, tmp_path: Path
) -> None:
    """Whatever stands before it, the data set that is sent is all of the data set and no more."""
    path = tmp_path / "object"
    data_set = written(path, syntax, private_bytes=private_bytes, before=before)
    found = read_outgoing(path, "file 1 of 1")
    assert (found.sop_class_uid, found.sop_instance_uid) == (CTImageStorage, "1.2.3.4")
    assert found.transfer_syntax_uid == syntax
    assert path.read_bytes()[found.start :] == data_set
    assert found.size_bytes == len(data_set)


@pytest.mark.parametrize("kept", [100, 132, 140, 150, -1])
def test_file_when_cut_off_before_its_uids_is_refused(kept: int, tmp_path: Path) -> None:
    """No traceback, and no object without a name on the line."""
    path = tmp_path / "object"
    data_set = written(path, ExplicitVRLittleEndian)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - len(data_set)] if kept < 0 else content[:kept])
    with pytest.raises(UnreadableObjectError, match="file 1 of 1 is no DICOM file"):
        read_outgoing(path, "file 1 of 1")


def structures(path: Path, syntax: str, *, points: int) -> Path:
    """Write a structure set with one contour."""
    contour, roi, ds = Dataset(), Dataset(), Dataset()
    contour.ContourData = [f"{at / 16:.4f}" for at in range(3 * points)]
    contour.NumberOfContourPoints = points
    roi.ContourSequence = [contour]
    ds.ROIContourSequence = [roi]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("points", "is_long"), [(100, False), (4_000, True)])
@pytest.mark.parametrize("syntaxes", [LITTLE, LITTLE[:1]], ids=["both", "explicit only"])
def test_long_contour_when_a_peer_takes_explicit_only_is_refused_with_the_reason(
    syntaxes: tuple[str, ...], points: int, is_long: bool, tmp_path: Path
) -> None:
    """A.1.1: two bytes for a length are too few; as UN a peer would have no contour."""
    path = structures(tmp_path / "rs", ImplicitVRLittleEndian, points=points)
    with StubTps(welcome=Welcome(syntaxes=syntaxes)) as stub:
        peer = Peer(
            name="tps", ae_title="TPS", host="127.0.0.1", port=stub.port, roles=(Role.RECEIVE,)
        )
        (delivery,) = send_instances(peer, "HILUM", [path], timeout_s=5.0)
        kept = stub.kept.get("1.2.3.4", [])
    if is_long and len(syntaxes) == 1:
        assert delivery.outcome is InstanceOutcome.REFUSED_PERMANENT
        assert "too long for Explicit VR Little Endian" in delivery.reason
        assert kept == []
        return
    assert delivery.outcome is InstanceOutcome.SENT
    ds = read_dataset(
        DicomBytesIO(kept[0]), is_implicit_VR=len(syntaxes) == 2, is_little_endian=True
    )
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    assert contour["ContourData"].VR == "DS"
    assert contour.ContourData == dcmread(path).ROIContourSequence[0].ContourSequence[0].ContourData


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_object_when_cut_off_is_not_encoded_anew(syntax: str, tmp_path: Path) -> None:
    """Pydicom reads what is left; a peer would take that for the whole."""
    path = tmp_path / "object"
    written(path, syntax)
    item = read_outgoing(path, "file")
    assert encoded_as(item, ImplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UnfitObjectError, match="cannot be encoded as Implicit VR"):
        encoded_as(item, ImplicitVRLittleEndian)
