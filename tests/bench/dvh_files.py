"""The DICOM files of the histogram bench: written for every engine, read back for ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTDoseStorage,
    RTStructureSetStorage,
    generate_uid,
)

from handlers.geometry import Geometry
from handlers.values import Contour, DoseGrid

FRAME = "1.2.3"
STUDY = "1.2.4"
AXIAL = [1, 0, 0, 0, 1, 0]
CT_PIXELS = 100


def write_ct(folder: Path, step_mm: float, start_mm: float) -> None:
    """Write a CT of 1 mm pixels about the origin, with slices at start + k step."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[str(folder.name), str(step_mm), str(start_mm)])
    count = int(30 / step_mm)
    for k in range(-count, count + 1):
        ds = _object(CTImageStorage, "CT", series)
        ds.FrameOfReferenceUID, ds.InstanceNumber = FRAME, k + count + 1
        ds.ImageOrientationPatient, ds.PixelSpacing = AXIAL, [1, 1]
        ds.ImagePositionPatient = [-49.5, -49.5, round(start_mm + k * step_mm, 4)]
        ds.SliceThickness = step_mm
        ds.RescaleIntercept, ds.RescaleSlope = 0, 1
        _set_pixels(ds, np.zeros((CT_PIXELS, CT_PIXELS), dtype=np.uint16))
        ds.save_as(folder / f"{k + count:03}.dcm", enforce_file_format=True)


def write_outlines(path: Path, rois: Mapping[str, Sequence[Contour]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = _object(RTStructureSetStorage, "RTSTRUCT", "1.2.5")
    ds.StructureSetLabel = "bodies"
    frame = Dataset()
    frame.FrameOfReferenceUID = FRAME
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    ds.StructureSetROISequence = DicomSequence()
    ds.ROIContourSequence = DicomSequence()
    ds.RTROIObservationsSequence = DicomSequence()
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, FRAME
        drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        observed.ObservationNumber, observed.RTROIInterpretedType = number, "ORGAN"
        drawn.ROIDisplayColor = [255, 0, 0]
        drawn.ContourSequence = DicomSequence()
        for contour in contours:
            item = Dataset()
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(contour.points)
            item.ContourData = [f"{value:.4f}" for value in contour.points.ravel()]
            drawn.ContourSequence.append(item)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(observed)
    ds.save_as(path, enforce_file_format=True)


def write_dose(path: Path, dose: DoseGrid) -> None:
    """Write an axial dose with 32 bits a voxel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = _object(RTDoseStorage, "RTDOSE", "1.2.6")
    ds.FrameOfReferenceUID = FRAME
    spacing = dose.geometry.spacing_mm
    first = dose.geometry.patient_from_index[:3, 3]
    ds.ImagePositionPatient = [f"{value:.4f}" for value in first]
    ds.ImageOrientationPatient, ds.PixelSpacing = AXIAL, list(spacing[1:])
    ds.SliceThickness = spacing[0]
    ds.GridFrameOffsetVector = [k * spacing[0] for k in range(dose.geometry.shape[0])]
    ds.FrameIncrementPointer = pydicom.tag.Tag("GridFrameOffsetVector")
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    ds.DoseGridScaling = "1e-6"
    _set_pixels(ds, np.round(dose.dose_gy.astype(np.float64) * 1e6).astype(np.uint32))
    ds.NumberOfFrames = dose.geometry.shape[0]
    ds.save_as(path, enforce_file_format=True)


def read_outlines(path: Path) -> dict[int, list[Contour]]:
    ds = pydicom.dcmread(path)
    return {
        int(item.ReferencedROINumber): [
            Contour(np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3))
            for contour in item.ContourSequence
        ]
        for item in ds.ROIContourSequence
    }


def read_dose(path: Path) -> DoseGrid:
    ds = pydicom.dcmread(path)
    offsets = ds.GridFrameOffsetVector
    matrix = np.eye(4)
    steps = (float(offsets[1] - offsets[0]), *(float(side) for side in ds.PixelSpacing))
    matrix[:3, :3] = np.eye(3)[:, ::-1] * steps
    matrix[:3, 3] = ds.ImagePositionPatient
    values = ds.pixel_array * float(ds.DoseGridScaling)
    return DoseGrid(Geometry(FRAME, matrix, values.shape), values.astype(np.float32))


def _object(sop_class: str, modality: str, series: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, series
    ds.Modality, ds.PatientID, ds.PatientName = modality, "BENCH", "Bench"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber = "20260101", "120000", "1", 1
    return ds


def _set_pixels(ds: Dataset, stored: np.ndarray) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    ds.PixelData = stored.tobytes()
