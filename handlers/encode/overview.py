"""Pictures of a target -> Multi-frame True Color Secondary Capture, which any viewer shows.

For people only: nothing is to be measured or planned on it, and it has no place in the patient
(Secondary Capture has no geometry); what it was made from stands in its references.

Read first: DICOM PS3.3 A.8.5 (the IOD), C.8.6.3, C.8.6.4 (multi-frame secondary capture).
"""

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from handlers.encode.identity import (
    MANUFACTURER,
    SERIES_NUMBER_OVERVIEW,
    Reference,
    ResultSet,
    code_item,
)
from handlers.encode.image import REGISTRATION_IN_PLANNING, RESAMPLED_FROM
from handlers.encode.registration import registration_reference
from handlers.encode.rtstruct import structure_set_reference
from handlers.encode.text import ST_LENGTH
from handlers.pictures import NOT_APPROVED, Overview, target_overview

ROLE = "OVERVIEW"
"""Role of these objects in a result set: gives their UIDs and names."""

IMAGE_TYPE = ["DERIVED", "SECONDARY", "FUSED"]
"""Image Type (0008,0008): value 3 ours."""

FRAME_VECTORS = ("PageNumberVector", "FrameLabelVector")
"""What counts the frames (PS3.3 C.8.6.4): a number, and plane and position in words."""

BURNED_IN = "YES"
"""Burned In Annotation (0028,0301). We burn in no attribute of the patient and no date, so by the
letter of PS3.3 C.7.6.1 it could be NO. But names of ROIs are burned in, which strangers chose: only
a person can tell that they name nobody, and a program that removes identities must not pass over
these pixels."""

FACE_PARTS = frozenset({"BRAIN", "EAR", "EYE", "FACE", "HEAD", "HEADNECK", "JAW", "NOSE", "SKULL"})
"""Values of Body Part Examined (PS3.16 Annex L) with which a sagittal plane may show a profile."""


def encode_overview(result_set: ResultSet, index: int) -> Dataset | None:
    """Return the overview of a target, or None if the target has no voxel to show."""
    overview = target_overview(result_set.result, index)
    if overview is None:
        return None
    ds = result_set.dataset(
        sop_class_uid=MultiFrameTrueColorSecondaryCaptureImageStorage,
        role=ROLE,
        index=index,
        modality="OT",
        series_number=SERIES_NUMBER_OVERVIEW + index + 1,
        series_description=_description(result_set, index, overview),
    )
    ds.ConversionType = "WSD"
    ds.ImageType = IMAGE_TYPE
    # each frame has directions of its own: they are letters in the pictures
    ds.PatientOrientation = None
    ds.BurnedInAnnotation = BURNED_IN
    result_set.add_body_part(ds)
    if str(ds.get("BodyPartExamined", "")) in FACE_PARTS:
        # elsewhere it is left out, which says that nobody looked (PS3.3 C.7.6.1)
        ds.RecognizableVisualFeatures = "YES"
    _add_origin(ds, result_set, overview)
    _add_frames(ds, overview)
    return ds


def _description(result_set: ResultSet, index: int, overview: Overview) -> str:
    name = result_set.result.targets[index].source_roi.name
    shown = "CT and MR" if overview.fused is not None else "CT alone"
    return f"Overview {shown}, {NOT_APPROVED}: {name}"


def _add_origin(ds: Dataset, result_set: ResultSet, overview: Overview) -> None:
    """Tell what the pictures were made from."""
    sources = result_set.ct_references()
    others: list[Reference] = [structure_set_reference(result_set)]
    words = "Planes of the planning CT through a target, drawn and refined contours"
    if overview.fused is not None:
        sources += result_set.moved_references([overview.fused.image.series_instance_uid])
        registration = registration_reference(result_set, overview.fused.registration)
        item = registration.item()
        item.PurposeOfReferenceCodeSequence = [code_item(REGISTRATION_IN_PLANNING)]
        ds.ReferencedInstanceSequence = [item]
        others.append(registration)
        words += f"; registered MR in color over it ({overview.fused.registration.status})"
    items = []
    for reference in sources:
        item = reference.item()
        item.SpatialLocationsPreserved = "NO"
        item.PurposeOfReferenceCodeSequence = [code_item(RESAMPLED_FROM)]
        items.append(item)
    ds.SourceImageSequence = items
    ds.DerivationDescription = result_set.text(
        f"{words}. {NOT_APPROVED}. {MANUFACTURER} {result_set.authorship.software_version}",
        ST_LENGTH,
    )
    ds.DerivationCodeSequence = [
        code_item(Code("113085", "DCM", "Spatial resampling")),
        code_item(Code("113072", "DCM", "Multiplanar reformatting")),
    ]
    _add_lossy(ds, result_set, overview)
    result_set.add_instance_references(ds, [*sources, *others])


def _add_lossy(ds: Dataset, result_set: ResultSet, overview: Overview) -> None:
    """Pass on that a source was compressed with loss: once is for ever (PS3.3 C.7.6.1.1.5)."""
    sources = list(result_set.sources.ct)
    if overview.fused is not None:
        sources += result_set.sources.moved(overview.fused.image.series_instance_uid)
    lossy = [source for source in sources if source.get("LossyImageCompression") == "01"]
    ds.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if lossy and lossy[0].get(keyword):
            ds[keyword] = lossy[0][keyword]


def _add_frames(ds: Dataset, overview: Overview) -> None:
    frames = overview.frames
    ds.NumberOfFrames = len(frames)
    ds.FrameIncrementPointer = [Tag(tag_for_keyword(k) or 0) for k in FRAME_VECTORS]
    ds.PageNumberVector = list(range(1, len(frames) + 1))
    ds.FrameLabelVector = [frame.label for frame in frames]
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = frames[0].pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    # true within each part of a picture: a viewer's ruler works
    ds.PixelSpacing = [DSfloat(overview.pixel_mm, auto_format=True)] * 2
    pixels = b"".join(np.ascontiguousarray(frame.pixels).tobytes() for frame in frames)
    ds.PixelData = pixels + b"\x00" * (len(pixels) % 2)
    ds["PixelData"].VR = "OB"
