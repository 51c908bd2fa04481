"""Objects of a case, altered in a known way: moved, relabelled, spoilt, or registered wrongly.

Everything is done to DICOM datasets, as if a scanner or another program had sent them so. Reads
and writes files; the originals stay as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SpatialRegistrationStorage

from handlers.geometry import RigidTransform
from node.errors import NodeError
from node.phantom.objects import (
    IMPLEMENTATION_CLASS_UID,
    code_item,
    decimals,
    derived_uid,
    sequence_of,
)

IDENTITY_KEYWORDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "IssuerOfPatientID",
)

Voxels = npt.NDArray[np.generic]


def read_datasets(paths: Iterable[Path]) -> list[Dataset]:
    """Return the datasets of DICOM files, in the order of the paths."""
    return [pydicom.dcmread(path) for path in paths]


def write_datasets(datasets: Iterable[Dataset], folder: Path) -> Path:
    """Write datasets below a new folder and return it; names are numbers."""
    folder.mkdir(parents=True)
    for number, ds in enumerate(datasets, start=1):
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return folder


def move(
    series: Sequence[Dataset], rotation_deg: Sequence[float], translation_mm: Sequence[float]
) -> RigidTransform:
    """Move an MR series in place into a frame of reference of its own; return the motion.

    The rotation is about the middle of the positions of its images.

    Raises:
        NodeError: The objects are of several frames of reference or tell no position.
    """
    frames = {str(ds.get("FrameOfReferenceUID", "")) for ds in series}
    places = [e for ds in series for e in ds.iterall() if e.keyword == "ImagePositionPatient"]
    if len(frames) != 1 or not places:
        raise NodeError("the MR has several frames of reference, or images without a position")
    frame = derived_uid("commissioning", *frames, rotation_deg, translation_mm)
    positions = np.array([[float(v) for v in place.value] for place in places])
    motion = RigidTransform.from_parameters(
        rotation_deg=rotation_deg,
        translation_mm=translation_mm,
        centre_mm=positions.mean(axis=0),
        to_frame_uid=frame,
        from_frame_uid=frames.pop(),
    )
    for ds in series:
        ds.FrameOfReferenceUID = frame
        for element in ds.iterall():
            if element.keyword == "ImagePositionPatient":
                element.value = decimals(motion.apply([float(v) for v in element.value])[0])
            elif element.keyword == "ImageOrientationPatient":
                axes = np.array([float(v) for v in element.value]).reshape(2, 3)
                element.value = decimals(axes @ motion.matrix[:3, :3].T)
    return motion


def change_voxels(series: Sequence[Dataset], change: Callable[[Voxels], Voxels]) -> None:
    """Replace the pixels of every image in place; the header stays as it is."""
    for ds in series:
        stored = ds.pixel_array
        ds.PixelData = np.ascontiguousarray(change(stored).astype(stored.dtype)).tobytes()
        ds["PixelData"].VR = "OW"


def mirrored(pixels: Voxels) -> Voxels:
    """Return an image with left and right exchanged."""
    return pixels[:, ::-1]


def noise(seed: int) -> Callable[[Voxels], Voxels]:
    """Return what makes noise of any image."""
    rng = np.random.default_rng(seed)
    return lambda pixels: rng.integers(0, 500, pixels.shape)


def identify_as(series: Sequence[Dataset], patient: Dataset) -> None:
    """Give a series the identifiers of another patient, in place."""
    for ds in series:
        for keyword in IDENTITY_KEYWORDS:
            if keyword in patient:
                ds[keyword] = patient[keyword]
            elif keyword in ds:
                del ds[keyword]


def spatial_registration(ct: Dataset, ct_from_mr: RigidTransform) -> Dataset:
    """Return a Spatial Registration object as another program would send it.

    Args:
        ct: An image of the planning CT: patient, study and frame of reference are taken from it.
        ct_from_mr: The map that it tells.
    """
    ds = Dataset()
    key = ("commissioning REG", ct.SOPInstanceUID, ct_from_mr.matrix.tobytes().hex())
    for keyword in (*IDENTITY_KEYWORDS, "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"):
        if keyword in ct:
            ds[keyword] = ct[keyword]
    ds.SOPClassUID = SpatialRegistrationStorage
    ds.SOPInstanceUID = derived_uid(*key)
    ds.SeriesInstanceUID = derived_uid(*key, "series")
    ds.Modality, ds.Manufacturer = "REG", "Hilum commissioning"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.ContentDate, ds.ContentTime = ct.get("StudyDate", ""), ct.get("StudyTime", "")
    ds.FrameOfReferenceUID = ct_from_mr.to_frame_uid
    ds.PositionReferenceIndicator = ""
    ds.RegistrationSequence = sequence_of(
        _moved(ct_from_mr.to_frame_uid, np.eye(4)),
        _moved(ct_from_mr.from_frame_uid, ct_from_mr.matrix),
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = SpatialRegistrationStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = pydicom.uid.UID(IMPLEMENTATION_CLASS_UID)
    return ds


def _moved(frame_uid: str, registered_from_source: npt.NDArray[np.float64]) -> Dataset:
    matrix = Dataset()
    matrix.FrameOfReferenceTransformationMatrix = decimals(registered_from_source)
    matrix.FrameOfReferenceTransformationMatrixType = "RIGID"
    registration = Dataset()
    registration.RegistrationTypeCodeSequence = sequence_of(
        code_item("125021", "DCM", "Frame of Reference Identity")
        if np.array_equal(registered_from_source, np.eye(4))
        else code_item("125024", "DCM", "Image Content-based Alignment")
    )
    registration.MatrixSequence = sequence_of(matrix)
    item = Dataset()
    item.FrameOfReferenceUID = frame_uid
    item.MatrixRegistrationSequence = sequence_of(registration)
    return item


def off_by(
    pose: RigidTransform,
    at_mm: Sequence[float],
    *,
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
    turn_deg: Sequence[float] = (0.0, 0.0, 0.0),
) -> RigidTransform:
    """Return a pose, then shifted and turned about a point of the CT."""
    fault = RigidTransform.from_parameters(
        rotation_deg=turn_deg,
        translation_mm=shift_mm,
        centre_mm=at_mm,
        to_frame_uid=pose.to_frame_uid,
        from_frame_uid=pose.to_frame_uid,
    )
    return fault @ pose
