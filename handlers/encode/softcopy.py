"""What presentation states share: the images they speak of, and an identity without chance.

Presentation states say how a viewer is to show images that it holds; they hold no pixels.

Read first: DICOM PS3.3 A.33, C.10.4, C.11.10.
"""

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import DSfloat

from handlers.encode.identity import PATIENT_KEYWORDS, STUDY_KEYWORDS, ResultSet
from handlers.encode.image import ROLE as MR_ROLE
from handlers.encode.image import image_uid
from handlers.encode.text import LO_LENGTH

RESCALE_KEYWORDS = ("RescaleIntercept", "RescaleSlope", "RescaleType")
"""Attributes of the Modality LUT of a CT slice (PS3.3 C.11.1)."""


def ct_stand_in(result_set: ResultSet, index: int) -> Dataset:
    """Return what highdicom must know of a CT slice: its place, matrix and Modality LUT."""
    source = result_set.sources.ct[index]
    ds = result_set.stand_in(source)
    ds.SamplesPerPixel = 1
    for keyword in RESCALE_KEYWORDS:
        if source.get(keyword) not in (None, ""):
            ds[keyword] = source[keyword]
    if "RescaleSlope" in ds and "RescaleIntercept" in ds:
        # PS3.3 C.8.2.1.1.2: what a CT says nothing about is HU
        ds.RescaleType = result_set.text(str(ds.get("RescaleType", "") or "HU"), LO_LENGTH)
    else:
        for keyword in RESCALE_KEYWORDS:
            ds.pop(keyword, None)
    return ds


def resampled_stand_in(result_set: ResultSet, index: int, slice_index: int) -> Dataset:
    """Return the same of an image of a resampled MR series."""
    ds = Dataset()
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if (PATIENT_KEYWORDS | STUDY_KEYWORDS)[keyword]:
            setattr(ds, keyword, "")
    reference = result_set.reference(MRImageStorage, MR_ROLE, index)
    ct_slice = result_set.sources.ct[slice_index]
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = image_uid(result_set, index, slice_index)
    ds.SeriesInstanceUID = reference.series_instance_uid
    ds.StudyInstanceUID = reference.study_instance_uid
    ds.FrameOfReferenceUID = ct_slice.FrameOfReferenceUID
    ds.Modality = "MR"
    ds.Rows, ds.Columns = ct_slice.Rows, ct_slice.Columns
    ds.SamplesPerPixel = 1
    return ds


def slices_by_rescale(stand_ins: Sequence[Dataset]) -> list[list[int]]:
    """Return the indices of CT slices in groups that share one Modality LUT.

    A presentation state has one Modality LUT for all its images; slices of a CT nearly always share
    theirs.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, ds in enumerate(stand_ins):
        key = tuple(str(ds.get(keyword, "")) for keyword in RESCALE_KEYWORDS)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def finish(ds: Dataset, result_set: ResultSet) -> None:
    """Replace what highdicom takes from the clock, state the scale, and stamp the identity."""
    result_set.stamp(ds)
    # Content Date and Time are no part of these IODs: Presentation Creation Date and Time are
    del ds.ContentDate, ds.ContentTime
    ds.PresentationCreationDate = result_set.authorship.date
    ds.PresentationCreationTime = result_set.authorship.time
    for item in ds.get("ContributingEquipmentSequence", None) or ():
        # highdicom names itself there, at the time of the clock; dcmpschk refuses a DT with a zone
        item.pop("ContributionDateTime", None)
    result_set.add_body_part(ds)
    for item in ds.DisplayedAreaSelectionSequence:
        # highdicom assumes square pixels, and names a choice that only tiled images have
        # the numbers may be longer in the CT than a DS may be
        item.PresentationPixelSpacing = [
            DSfloat(float(value), auto_format=True) for value in result_set.ct.PixelSpacing
        ]
        del item.PresentationPixelAspectRatio, item.PixelOriginInterpretation
