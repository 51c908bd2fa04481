"""The smallest CT, MR, RTSTRUCT and RTDOSE datasets with known geometry, for tests of the core.

No anatomy: values are `row * 10 + column + slice`, so that any mix-up of axes shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

CT_FRAME = "1.2.826.0.1.1"
MR_FRAME = "1.2.826.0.1.2"
CT_SERIES = "1.2.826.0.2.1"
MR_SERIES = "1.2.826.0.2.2"
STRUCTURE_SET = "1.2.826.0.3.1"
DOSE = "1.2.826.0.4.1"
PLAN = "1.2.826.0.6.1"
PATIENT_ID = "HIDDEN-4711"
PATIENT_NAME = "Secret^Person"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def ramp(index: int, rows: int, columns: int) -> npt.NDArray[np.int16]:
    """Return stored values of slice `index`: row * 10 + column + slice."""
    row, column = np.indices((rows, columns))
    return (row * 10 + column + index).astype(np.int16)


def series(
    *,
    modality: str = "CT",
    slices: int = 4,
    rows: int = 6,
    columns: int = 5,
    spacing_mm: tuple[float, float, float] = (3.0, 2.0, 1.5),
    origin_mm: Sequence[float] = (-10.0, 20.0, -30.0),
    orientation: Sequence[float] = AXIAL,
    patient_position: str = "HFS",
    **overrides: Any,
) -> list[Dataset]:
    """Return a series whose slice i lies at origin + i * spacing along row x column direction.

    `spacing_mm` is that of slices, rows and columns; `overrides` are attributes of every dataset,
    of which None removes one. Instance numbers run against the positions.
    """
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(along_row, along_column)
    made = []
    for i in range(slices):
        ds = _object(CTImageStorage if modality == "CT" else MRImageStorage, modality)
        ds.SOPInstanceUID = f"{CT_SERIES if modality == 'CT' else MR_SERIES}.{i + 1}"
        ds.SeriesInstanceUID = CT_SERIES if modality == "CT" else MR_SERIES
        ds.FrameOfReferenceUID = CT_FRAME if modality == "CT" else MR_FRAME
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesDescription = "small"
        ds.PatientPosition = patient_position
        ds.InstanceNumber = slices - i
        ds.ImagePositionPatient = [
            float(x) for x in np.array(origin_mm) + normal * spacing_mm[0] * i
        ]
        ds.ImageOrientationPatient = list(orientation)
        ds.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
        set_pixels(ds, ramp(i, rows, columns))
        if modality == "CT":
            ds.RescaleSlope, ds.RescaleIntercept = 2, -1000
        for keyword, value in overrides.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        made.append(ds)
    return made


def set_pixels(ds: Dataset, stored: npt.NDArray[np.int16]) -> None:
    """Give a dataset stored values, shape (rows, columns) or (frames, rows, columns)."""
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1
    ds.PixelData = stored.astype("<i2").tobytes()


def structure_set(
    rois: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    frame_of_reference_uid: str = CT_FRAME,
    geometric_type: str = "CLOSED_PLANAR",
) -> Dataset:
    """Return an RTSTRUCT of ROIs numbered from 1, each a list of contours (n, 3) in LPS mm."""
    ds = _object(RTStructureSetStorage, "RTSTRUCT")
    ds.SOPInstanceUID, ds.StructureSetLabel = STRUCTURE_SET, "small"
    ds.StructureSetROISequence, ds.ROIContourSequence = DicomSequence(), DicomSequence()
    ds.RTROIObservationsSequence = DicomSequence()
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = frame_of_reference_uid
        drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType = "GTV"
        drawn.ContourSequence = DicomSequence(
            _contour(points, geometric_type) for points in contours
        )
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(observed)
    return ds


def square(
    z: float, *, corner: tuple[float, float] = (-9.0, 21.0), side_mm: float = 4.0
) -> npt.NDArray[np.float64]:
    """Return an axial square (4, 3) from a corner to growing x and y."""
    x, y = corner
    right, back = x + side_mm, y + side_mm
    return np.array([[x, y, z], [right, y, z], [right, back, z], [x, back, z]])


def dose(
    *,
    offsets_mm: Sequence[float] = (0.0, 2.5, 5.0),
    origin_mm: Sequence[float] = (-10.0, 20.0, -30.0),
    plan_uids: Sequence[str] = (PLAN,),
    groups: Mapping[int, Sequence[int]] | None = None,
    **overrides: Any,
) -> Dataset:
    """Return an RTDOSE of 4 rows x 3 columns, stored 100 * plane + 10 * row + column.

    `groups` are the fraction groups that it names, each with the beams that it names.
    """
    ds = _object(RTDoseStorage, "RTDOSE")
    ds.SOPInstanceUID, ds.FrameOfReferenceUID = DOSE, CT_FRAME
    plane, row, column = np.indices((len(offsets_mm), 4, 3))
    set_pixels(ds, (100 * plane + 10 * row + column).astype(np.int16))
    ds.PixelRepresentation, ds.NumberOfFrames = 0, len(offsets_mm)
    ds.ImagePositionPatient, ds.ImageOrientationPatient = list(origin_mm), list(AXIAL)
    ds.PixelSpacing = [2.5, 2.5]
    ds.GridFrameOffsetVector = list(offsets_mm)
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    ds.DoseGridScaling = 0.01
    ds.ReferencedRTPlanSequence = DicomSequence(_referenced(uid) for uid in plan_uids)
    if groups is not None:
        ds.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = DicomSequence(
            _named_group(number, beams) for number, beams in groups.items()
        )
    for keyword, value in overrides.items():
        setattr(ds, keyword, value)
    return ds


def plan(
    *,
    prescriptions: Sequence[tuple[str, int | None, float]] = (("VOLUME", 1, 2.0),),
    groups: Mapping[int, Sequence[int]] | None = None,
    structure_set_uid: str = STRUCTURE_SET,
    **overrides: Any,
) -> Dataset:
    """Return an RTPLAN of five fractions of beams 1 and 2, which prescribes 2 Gy to ROI 1.

    `prescriptions` are Dose Reference Structure Type, ROI Number and dose of each; `groups` the
    beams of each fraction group.
    """
    ds = _object(RTPlanStorage, "RTPLAN")
    ds.SOPInstanceUID, ds.RTPlanLabel, ds.ApprovalStatus = PLAN, "small", "APPROVED"
    ds.RTPlanDate, ds.RTPlanTime = "20260302", "101500"
    ds.ReferencedStructureSetSequence = DicomSequence([_referenced(structure_set_uid)])
    ds.DoseReferenceSequence, ds.FractionGroupSequence = DicomSequence(), DicomSequence()
    for kind, number, dose_gy in prescriptions:
        item = Dataset()
        item.DoseReferenceStructureType, item.DoseReferenceType = kind, "TARGET"
        item.TargetPrescriptionDose = dose_gy
        if number is not None:
            item.ReferencedROINumber = number
        ds.DoseReferenceSequence.append(item)
    for number, beams in ({1: (1, 2)} if groups is None else groups).items():
        item = Dataset()
        item.FractionGroupNumber, item.NumberOfFractionsPlanned = number, 5
        item.NumberOfBeams, item.NumberOfBrachyApplicationSetups = len(beams), 0
        item.ReferencedBeamSequence = DicomSequence(_named_beam(beam) for beam in beams)
        ds.FractionGroupSequence.append(item)
    for keyword, value in overrides.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def _referenced(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    return item


def _named_group(number: int, beams: Sequence[int]) -> Dataset:
    item = Dataset()
    item.ReferencedFractionGroupNumber = number
    if beams:
        item.ReferencedBeamSequence = DicomSequence(_named_beam(beam) for beam in beams)
    return item


def _named_beam(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedBeamNumber = number
    return item


def enhanced_mr(
    positions_mm: Sequence[float], *, slopes: Sequence[float], stacks: Sequence[str] = ()
) -> Dataset:
    """Return an axial Enhanced MR; its frame i lies at z = positions_mm[i] and holds `ramp(i)`."""
    ds = _object(EnhancedMRImageStorage, "MR")
    ds.SOPInstanceUID, ds.SeriesInstanceUID = f"{MR_SERIES}.1", MR_SERIES
    ds.FrameOfReferenceUID = MR_FRAME
    ds.NumberOfFrames = len(positions_mm)
    set_pixels(ds, np.stack([ramp(i, 6, 5) for i in range(len(positions_mm))]))
    shared, facing, measures = Dataset(), Dataset(), Dataset()
    facing.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing = [2.0, 1.5]
    shared.PlaneOrientationSequence = DicomSequence([facing])
    shared.PixelMeasuresSequence = DicomSequence([measures])
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence()
    for i, z in enumerate(positions_mm):
        own, place, scale, content = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10.0, 20.0, z]
        scale.RescaleSlope, scale.RescaleIntercept = slopes[i], 0
        content.StackID = stacks[i] if stacks else "1"
        own.PlanePositionSequence = DicomSequence([place])
        own.PixelValueTransformationSequence = DicomSequence([scale])
        own.FrameContentSequence = DicomSequence([content])
        ds.PerFrameFunctionalGroupsSequence.append(own)
    return ds


def registration_item(
    frame: str | None,
    *matrices: npt.NDArray[np.float64],
    images: Sequence[str] = (),
    kind: str = "RIGID",
) -> Dataset:
    """Return an item of Registration Sequence."""
    made, moved = Dataset(), Dataset()
    moved.MatrixSequence = DicomSequence()
    for matrix in matrices:
        one = Dataset()
        one.FrameOfReferenceTransformationMatrix = [f"{v:.12g}" for v in matrix.ravel()]
        one.FrameOfReferenceTransformationMatrixType = kind
        moved.MatrixSequence.append(one)
    made.MatrixRegistrationSequence = [moved]
    if frame is not None:
        made.FrameOfReferenceUID = frame
    if images:
        made.ReferencedImageSequence = DicomSequence()
        for uid in images:
            image = Dataset()
            image.ReferencedSOPInstanceUID = uid
            made.ReferencedImageSequence.append(image)
    return made


def registration(registered: str, *items: Dataset, **given: Any) -> Dataset:
    """Return a Spatial Registration into the frame `registered`."""
    ds = _object(SpatialRegistrationStorage, "REG")
    ds.SOPInstanceUID = "1.2.826.0.5.1"
    ds.FrameOfReferenceUID = registered
    ds.ContentDate, ds.ContentTime = "20260301", "120000"
    ds.RegistrationSequence = DicomSequence(items)
    for keyword, value in given.items():
        setattr(ds, keyword, value)
    return ds


def _object(sop_class_uid: str, modality: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.Modality = sop_class_uid, modality
    ds.PatientID, ds.PatientName = PATIENT_ID, PATIENT_NAME
    return ds


def _contour(points: npt.ArrayLike, geometric_type: str) -> Dataset:
    item = Dataset()
    at = np.asarray(points, dtype=np.float64)
    item.ContourGeometricType, item.NumberOfContourPoints = geometric_type, len(at)
    item.ContourData = [float(x) for x in at.ravel()]
    return item
