"""The images of a phantom as DICOM datasets: CT and MR as a scanner would send them.

Holds what all objects of a department share (patient, study, equipment, UIDs) and the two image
IODs; the planning system's objects are in `radiotherapy`. Reads and writes no file.

Read first: PS3.3 A.3 (CT Image IOD), A.4 (MR Image IOD), C.7.6.2 (Image Plane Module).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from handlers.geometry import Geometry

IMPLEMENTATION_CLASS_UID = "2.25.183647295104417226031774490271150012743"
MANUFACTURER = "Hilum phantom scanner"
PLANNING_MANUFACTURER = "Hilum phantom planning"


@dataclass(frozen=True, slots=True)
class Series:
    """What all instances of one series of the phantom have in common.

    Attributes:
        key: Text from which the series' UIDs are derived; different for different options.
        patient_id: A made-up identifier.
    """

    key: str
    patient_id: str
    study: str
    date: str
    time: str
    modality: str
    number: int
    description: str
    manufacturer: str = MANUFACTURER

    def instance_uid(self, number: int) -> str:
        """Return the SOP Instance UID of an instance."""
        return derived_uid(self.key, self.study, self.modality, self.number, number)

    @property
    def series_instance_uid(self) -> str:
        """The Series Instance UID."""
        return derived_uid(self.key, self.study, self.modality, self.number)

    @property
    def study_instance_uid(self) -> str:
        """The Study Instance UID."""
        return derived_uid(self.key, self.study)


def derived_uid(*parts: object) -> str:
    """Return a UID under 2.25 (PS3.5 B.2) that depends on the parts and on nothing else."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def decimals(values: npt.ArrayLike) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters; tiny rests become 0."""
    rounded = np.round(np.asarray(values, dtype=np.float64).ravel(), 10) + 0.0
    return [format_number_as_ds(float(v)) for v in rounded]


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return the item of a code sequence."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def new_instance(sop_class: UID, series: Series, number: int) -> Dataset:
    """Return a dataset with file meta, patient, study, series, equipment and SOP Common modules."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = series.instance_uid(number)
    ds.InstanceCreationDate, ds.InstanceCreationTime = series.date, series.time
    ds.StudyDate, ds.StudyTime = series.date, "080000"
    ds.SeriesDate, ds.SeriesTime = series.date, series.time
    ds.AccessionNumber = ""
    ds.Modality = series.modality
    ds.Manufacturer = series.manufacturer
    ds.ManufacturerModelName = "Phantom"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = series.study
    ds.SeriesDescription = series.description
    ds.PatientName = "Phantom^Hilum"
    ds.PatientID = series.patient_id
    ds.PatientBirthDate = "19500101"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = series.study_instance_uid
    ds.SeriesInstanceUID = series.series_instance_uid
    ds.StudyID = "1"
    ds.SeriesNumber = series.number
    ds.InstanceNumber = number
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    ds.file_meta = meta
    return ds


def ct_instances(
    series: Series, geometry: Geometry, hu: npt.NDArray[np.float32], patient_position: str
) -> tuple[Dataset, ...]:
    """Return one CT Image per slice; stored values are HU + 1024."""
    stored = np.clip(np.rint(hu + 1024.0), 0, 4095).astype("<u2")
    instances = []
    for n in range(geometry.shape[0]):
        ds = new_instance(CTImageStorage, series, n + 1)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP = "120"
        ds.AcquisitionNumber = 1
        ds.ConvolutionKernel = "SOFT"
        ds.XRayTubeCurrent, ds.ExposureTime = 200, 500
        ds.ContrastBolusAgent = "Iodine"
        ds.ContrastBolusRoute = "IV"
        ds.ReconstructionDiameter = decimals([geometry.shape[2] * geometry.spacing_mm[2]])[0]
        _image(ds, series, geometry, n, stored[n], patient_position)
        ds.BitsStored, ds.HighBit = 12, 11
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
        ds.WindowCenter, ds.WindowWidth = "50", "400"
        instances.append(ds)
    return tuple(instances)


def mr_instances(
    series: Series, geometry: Geometry, signal: npt.NDArray[np.float32], contrast: str
) -> tuple[Dataset, ...]:
    """Return one MR Image per slice, with the sequence parameters of the contrast."""
    stored = np.clip(np.rint(signal), 0, 4095).astype("<u2")
    low, high = np.percentile(stored, (1, 99.5))
    instances = []
    for n in range(geometry.shape[0]):
        ds = new_instance(MRImageStorage, series, n + 1)
        _sequence(ds, contrast)
        _image(ds, series, geometry, n, stored[n], "HFS")
        ds.SpacingBetweenSlices = decimals([geometry.spacing_mm[0]])[0]
        ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.0f}", f"{max(high - low, 1):.0f}"
        instances.append(ds)
    return tuple(instances)


MR_SEQUENCES: Mapping[str, Mapping[str, object]] = {
    "T1": {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "WATER"],
        "ScanningSequence": "GR",
        "SequenceVariant": ["SP", "MP"],
        "ScanOptions": "FS",
        "MRAcquisitionType": "3D",
        "RepetitionTime": "4",
        "EchoTime": "2",
        "FlipAngle": "10",
        "EchoTrainLength": 1,
        "ContrastBolusAgent": "Gadolinium",
        "ContrastBolusRoute": "IV",
    },
    "T2": {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "2200",
        "EchoTime": "90",
        "FlipAngle": "150",
        "EchoTrainLength": 128,
    },
    "DWI": {
        "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "ScanOptions": "FS",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "5000",
        "EchoTime": "60",
        "FlipAngle": "90",
        "EchoTrainLength": 64,
        "DiffusionBValue": 800.0,
    },
    "ADC": {
        "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION MAP", "ADC"],
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "ScanOptions": "FS",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "5000",
        "EchoTime": "60",
        "FlipAngle": "90",
        "EchoTrainLength": 64,
    },
}
"""Attributes of the MR Image module that tell the contrasts apart."""

MR_DESCRIPTIONS = {
    "T1": "T1 VIBE FS portal venous",
    "T2": "T2 HASTE",
    "DWI": "DWI b800",
    "ADC": "ADC (1e-6 mm2/s)",
}


def _sequence(ds: Dataset, contrast: str) -> None:
    for keyword, value in MR_SEQUENCES[contrast].items():
        setattr(ds, keyword, value)
    ds.ProtocolName = MR_DESCRIPTIONS[contrast]
    ds.MagneticFieldStrength = "1.5"
    ds.ImagingFrequency = "63.87"
    ds.ImagedNucleus = "1H"
    ds.NumberOfAverages = "1"
    ds.AcquisitionNumber = 1
    if contrast == "ADC":
        ds.DerivationDescription = "Apparent diffusion coefficient from b = 50 and 800 s/mm2"


def _image(
    ds: Dataset,
    series: Series,
    geometry: Geometry,
    n: int,
    stored: npt.NDArray[np.uint16],
    patient_position: str,
) -> None:
    """Fill General Acquisition, Frame of Reference, Image Plane and Image Pixel modules."""
    position = geometry.points_from_indices((n, 0, 0))[0]
    ds.AcquisitionDate, ds.AcquisitionTime = series.date, series.time
    ds.ContentDate, ds.ContentTime = series.date, series.time
    ds.BodyPartExamined = "ABDOMEN"
    ds.PatientPosition = patient_position
    ds.FrameOfReferenceUID = geometry.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.SliceThickness = decimals([geometry.spacing_mm[0]])[0]
    ds.ImagePositionPatient = decimals(position)
    ds.ImageOrientationPatient = decimals(geometry.axes.T[[2, 1]])
    ds.SliceLocation = decimals([position @ geometry.axes[:, 0]])[0]
    ds.PixelSpacing = decimals(geometry.spacing_mm[1:])
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"


def reference_item(sop_class: str, sop_instance: str) -> Dataset:
    """Return an item that names one instance."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item


def sequence_of(*items: Dataset) -> Sequence:
    """Return a DICOM sequence of the items."""
    return Sequence(items)
