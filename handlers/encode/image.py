"""Resampled MR -> MR Image Storage: one series on the slices of the planning CT.

Where the slices lie is copied from the CT as text, so that both series coincide to the last digit;
how the MR was acquired is copied from the MR where all its instances agree. MR Image Storage has no
Modality LUT, so real values are mapped linearly to stored ones and the map is told in words.

Never resamples, and never writes an MR whose registration failed.

Read first: DICOM PS3.3 A.4 (MR Image IOD), C.7.6.1.1.2 (derived images).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import DSfloat

from handlers.encode.acquisition import add_acquisition
from handlers.encode.deformable import deformable_reference
from handlers.encode.identity import (
    MANUFACTURER,
    MODEL_NAME,
    SERIES_NUMBER_MR,
    Reference,
    ResultSet,
    code_item,
)
from handlers.encode.registration import registration_reference
from handlers.encode.text import LO_LENGTH, SH_LENGTH, ST_LENGTH
from handlers.errors import EncodingError
from handlers.results import RegistrationStatus, ResampledMr

ROLE = "MR"
"""Role of these objects in a result set: gives their UIDs."""

IMAGE_TYPE = ["DERIVED", "SECONDARY", "MPR", "RESAMPLED"]
"""Image Type (0008,0008): values 1 to 3 as C.8.3.1.1.1 defines them, value 4 ours."""

PADDING = 0
"""Pixel Padding Value: voxels of the CT grid that the MR does not cover."""

STORED_MINIMUM = 1
STORED_MAXIMUM = 32767
"""Range of stored values of the MR: apart from the padding, the same read signed or unsigned."""

WINDOW_PERCENTILES = (1.0, 99.0)
"""Real values between which the window spans, in percent of the covered voxels."""

RESAMPLED_FROM = Code("121322", "DCM", "Source image for image processing operation")
TREATMENT_PLANNING = Code("129201", "DCM", "Image used for Treatment Planning")
REGISTRATION_IN_PLANNING = Code("129210", "DCM", "Registration used in Planning")
"""Purposes of reference (PS3.16 CID 7202, 7201, 7022)."""

SCANNER_KEYWORDS = {
    "ManufacturerModelName": LO_LENGTH,
    "StationName": SH_LENGTH,
    "DeviceSerialNumber": LO_LENGTH,
}
"""What is told of the scanner, and how long it may be."""

COPIED_FROM_SLICE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "PatientPosition",
)
"""Where the slice lies: the CT's, text for text."""


@dataclass(frozen=True, slots=True)
class StoredFromReal:
    """The map of real to stored values: stored = (real - offset) * scale + STORED_MINIMUM."""

    offset: float
    scale: float

    @classmethod
    def spanning(cls, values: npt.NDArray[np.float32]) -> "StoredFromReal":
        """Return the map that uses the whole range for the given real values, at least one."""
        low, high = float(values.min()), float(values.max())
        scale = (STORED_MAXIMUM - STORED_MINIMUM) / (high - low) if high > low else 1.0
        return cls(low, scale)

    def apply(self, real: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return stored values, not rounded."""
        return (np.asarray(real, dtype=np.float64) - self.offset) * self.scale + STORED_MINIMUM

    def in_words(self) -> str:
        """Return how a reader gets real values back."""
        slope = 1.0 / self.scale
        intercept = self.offset - STORED_MINIMUM * slope
        return f"source value = stored value * {slope:.9g} + {intercept:.9g}"


def encode_resampled_mr(result_set: ResultSet, index: int) -> Iterator[Dataset]:
    """Yield the images of one resampled MR series, in the slice order of the CT.

    Raises:
        EncodingError: Its registration failed, or it covers no voxel of the CT.
    """
    resampled = result_set.result.resampled[index]
    if resampled.registration.status is RegistrationStatus.FAIL:
        raise EncodingError("a resampled MR whose registration failed must not be written")
    if not resampled.valid.inside.any():
        raise EncodingError(
            f"the resampled MR series {index + 1} covers no voxel of the planning CT",
            hint="leave MR series out that lie outside the planning CT",
        )
    covered = resampled.image.voxels[resampled.valid.inside]
    stored_from_real = StoredFromReal.spanning(covered)
    window = stored_from_real.apply(np.percentile(covered, WINDOW_PERCENTILES))
    alike = _alike_in_series(result_set, index, stored_from_real)
    alike.WindowCenter = DSfloat(float(window.mean()), auto_format=True)
    alike.WindowWidth = DSfloat(max(1.0, float(window[1] - window[0])), auto_format=True)
    for slice_index in range(resampled.image.geometry.shape[0]):
        ds = Dataset()
        ds.update(alike)
        ds.file_meta = copy.deepcopy(alike.file_meta)
        _place(ds, result_set, index, slice_index)
        _add_pixels(ds, resampled, slice_index, stored_from_real)
        yield ds


def image_uid(result_set: ResultSet, index: int, slice_index: int) -> str:
    """Return the SOP Instance UID of an image of a resampled MR series."""
    return result_set.uid(f"{ROLE} {index} image", slice_index)


def series_description(resampled: ResampledMr) -> str:
    """Return what lists show of the series: that it is not original stands before the source."""
    caution = "CHECK " if resampled.registration.status is RegistrationStatus.WARN else ""
    contrast = f"{resampled.image.contrast} " if resampled.image.contrast else ""
    return f"MR {caution}{contrast}reg CT {resampled.image.description}".strip()


def _alike_in_series(
    result_set: ResultSet, index: int, stored_from_real: StoredFromReal
) -> Dataset:
    """Return what all images of the series share, made once: hundreds of references among it."""
    resampled = result_set.result.resampled[index]
    series_uid = resampled.image.series_instance_uid
    ds = result_set.dataset(
        sop_class_uid=MRImageStorage,
        role=ROLE,
        index=index,
        modality="MR",
        series_number=SERIES_NUMBER_MR + index + 1,
        series_description=series_description(resampled),
    )
    ds.ImageType = IMAGE_TYPE
    ds.BurnedInAnnotation = "NO"
    result_set.add_frame_of_reference(ds)
    result_set.add_body_part(ds)
    _add_derivation(ds, result_set, resampled, stored_from_real)
    add_acquisition(ds, result_set.sources.mr[series_uid], result_set.character_sets)
    sources = [
        _with_purpose(reference, RESAMPLED_FROM)
        for reference in result_set.moved_references([series_uid])
    ]
    for item in sources:
        item.SpatialLocationsPreserved = "NO"
    ds.SourceImageSequence = sources
    ds.ReferencedInstanceSequence = [
        _with_purpose(reference, REGISTRATION_IN_PLANNING)
        for reference in _registration_references(result_set, resampled)
    ]
    return ds


def _place(ds: Dataset, result_set: ResultSet, index: int, slice_index: int) -> None:
    """Make a dataset the image of one slice: its UID, its place, the CT slice beneath it."""
    ds.SOPInstanceUID = UID(image_uid(result_set, index, slice_index))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.InstanceNumber = slice_index + 1
    ct_slice = result_set.sources.ct[slice_index]
    for keyword in COPIED_FROM_SLICE:
        if keyword in ct_slice:
            ds[keyword] = ct_slice[keyword]
    for keyword in ("SliceThickness", "PatientPosition"):
        if keyword not in ds:
            setattr(ds, keyword, None)
    resampled = result_set.result.resampled[index]
    ct_reference = Reference.of(ct_slice)
    ds.ReferencedImageSequence = [_with_purpose(ct_reference, TREATMENT_PLANNING)]
    registrations = _registration_references(result_set, resampled)
    mr_references = result_set.moved_references([resampled.image.series_instance_uid])
    result_set.add_instance_references(ds, [ct_reference, *registrations, *mr_references])


def _registration_references(result_set: ResultSet, resampled: ResampledMr) -> list[Reference]:
    rigid = registration_reference(result_set, resampled.registration)
    deformable = deformable_reference(result_set, resampled.registration)
    return [rigid] if deformable is None else [rigid, deformable]


def _add_derivation(
    ds: Dataset, result_set: ResultSet, resampled: ResampledMr, stored_from_real: StoredFromReal
) -> None:
    reasons = " ".join(resampled.registration.reasons)
    words = (
        f"Resampled on the grid of the planning CT after {_kind_in_words(resampled)} "
        f"({resampled.registration.status}), linear interpolation. {stored_from_real.in_words()}; "
        f"{PADDING} = not covered by the MR. "
        f"{MANUFACTURER} {result_set.authorship.software_version}. {reasons}"
    )
    ds.DerivationDescription = result_set.text(words, ST_LENGTH)
    ds.DerivationCodeSequence = [
        code_item(Code("113085", "DCM", "Spatial resampling")),
        code_item(Code("113072", "DCM", "Multiplanar reformatting")),
    ]
    source = result_set.sources.mr[resampled.image.series_instance_uid][0]
    node = _equipment_item(codes.DCM.ProcessingEquipment, MANUFACTURER)
    node.ManufacturerModelName = MODEL_NAME
    node.SoftwareVersions = ds.SoftwareVersions
    node.ContributionDateTime = result_set.authorship.date_time
    node.ContributionDescription = "Registered to the planning CT and resampled"
    items = [node]
    scanner_manufacturer = result_set.text(str(source.get("Manufacturer", "") or ""), LO_LENGTH)
    if scanner_manufacturer:
        scanner = _equipment_item(codes.DCM.AcquisitionEquipment, scanner_manufacturer)
        for keyword, length in SCANNER_KEYWORDS.items():
            if source.get(keyword):
                setattr(scanner, keyword, result_set.text(str(source.get(keyword)), length))
        items.insert(0, scanner)
    ds.ContributingEquipmentSequence = items


def _kind_in_words(resampled: ResampledMr) -> str:
    registration = resampled.registration
    words = "rigid registration"
    if registration.deformation is not None:
        words += " and local deformation near the targets"
    shift = registration.series_shifts_mm.get(resampled.image.series_instance_uid)
    if shift is not None:
        x, y, z = shift
        words += f" and a shift of this series by {x:.1f}, {y:.1f}, {z:.1f} mm (x, y, z)"
    return words


def _equipment_item(purpose: Any, manufacturer: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(purpose)]
    item.Manufacturer = manufacturer
    return item


def _with_purpose(reference: Reference, purpose: Code) -> Dataset:
    item = reference.item()
    item.PurposeOfReferenceCodeSequence = [code_item(purpose)]
    return item


def _add_pixels(
    ds: Dataset, resampled: ResampledMr, slice_index: int, stored_from_real: StoredFromReal
) -> None:
    inside = resampled.valid.inside[slice_index]
    stored = np.rint(stored_from_real.apply(resampled.image.voxels[slice_index]))
    # beyond the valid voxels the image may hold anything: the clip keeps the cast defined
    stored = np.clip(stored, STORED_MINIMUM, STORED_MAXIMUM)
    pixels = np.where(inside, stored, PADDING).astype("<u2")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = 16
    ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.PixelPaddingValue = PADDING
    ds.PixelData = pixels.tobytes()
