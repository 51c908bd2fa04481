"""Source structure set + refined targets -> RT Structure Set Storage, for the TPS.

Every original ROI goes over as it came, byte for byte, faults included (`original_items`). New are
the identity, the label, the reference to the predecessor, and the ROIs that `new_rois` names.
Nothing is ever approved here, whatever the source was. What the source draws in other frames of
reference than the CT's is `split_structures`' part.

Written in Implicit VR Little Endian: Contour Data of more than 64 kB has no explicit form (PS3.5
6.2.2). Never draws: contours come from `sampling`.

Read first: DICOM PS3.3 A.19, C.8.8.5, C.8.8.6, C.8.8.8.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, DSfloat

from handlers.encode.identity import (
    MANUFACTURER,
    PATIENT_KEYWORDS,
    SERIES_NUMBER_RTSTRUCT,
    STUDY_KEYWORDS,
    Reference,
    ResultSet,
    code_item,
)
from handlers.encode.new_rois import REFINEMENT_FAMILY, REFINEMENT_NAME, NewRoi, new_rois
from handlers.encode.original_items import copied_items
from handlers.encode.text import (
    LO_LENGTH,
    LT_LENGTH,
    SH_LENGTH,
    ST_LENGTH,
    character_sets_of,
    is_writable,
    legal_text,
)
from handlers.errors import EncodingError
from handlers.roi_names import ROI_NAME_LENGTH, names_in_use
from handlers.sampling import contours_from_level, contours_from_mask, slice_of_contour
from handlers.values import Contour

# other modules name the refinement as this one does
__all__ = [
    "REFINEMENT_FAMILY",
    "REFINEMENT_NAME",
    "ROLE",
    "choose_character_set",
    "copy_original_rois",
    "encode_structure_set",
    "stamp_copy",
    "structure_set_reference",
]

ROLE = "RTSTRUCT"
"""Role of this object in a result set: gives its UIDs."""

LABEL_REFINED = "HILUM_REFINED"
LABEL_ADDED = "HILUM_ADDED"
LABEL_UNCHANGED = "HILUM_UNCHANGED"
"""Structure Set Labels (3006,0002): with refined targets, with other new ROIs, with copies only."""

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired class by which RT Referenced Study Sequence names a study (PS3.3 C.8.8.5)."""

UTF_8 = "ISO_IR 192"
"""Specific Character Set that holds every text."""

POINT_STEP_MM = 0.001
"""Contour points are written in these steps: far below any grid, short as text."""

ITEM_SEQUENCES = {
    "StructureSetROISequence": "ROINumber",
    "ROIContourSequence": "ReferencedROINumber",
    "RTROIObservationsSequence": "ReferencedROINumber",
}
"""The three sequences that describe ROIs, and the attribute that says of which."""


def encode_structure_set(result_set: ResultSet) -> Dataset:
    """Return the structure set: all original ROIs of the CT's frame, and the new ones.

    Raises:
        EncodingError: A new name is taken, a contour lies on no CT slice, or the source has no ROI.
    """
    rois = new_rois(result_set.result)
    ds = _new_dataset(result_set, label=_label(rois))
    source = result_set.sources.structure_set
    elsewhere = result_set.result.case.structure_set.frames_elsewhere
    copy_original_rois(ds, source, lambda number: number not in elsewhere)
    choose_character_set(ds, source)
    _require_new_names(source, rois)
    # new among all of the source's ROIs, in whichever structure set they go; contours that belong
    # to no ROI go over, too, and must not become those of a new one
    numbers = [
        _number(item, number)
        for keyword, number in ITEM_SEQUENCES.items()
        for item in source.get(keyword, None) or ()
    ]
    observations = [
        _number(item, "ObservationNumber")
        for item in source.get("RTROIObservationsSequence", None) or ()
    ]
    for index, roi in enumerate(rois):
        number = max([0, *numbers]) + 1 + index
        observation = max([0, *observations]) + 1 + index
        ds.StructureSetROISequence.append(_roi_item(result_set, roi, number))
        ds.ROIContourSequence.append(_contour_item(result_set, roi, number))
        ds.RTROIObservationsSequence.append(_observation_item(source, roi, number, observation))
    return ds


def copy_original_rois(ds: Dataset, source: Dataset, is_wanted: Callable[[int], bool]) -> None:
    """Give a structure set the items of the source's ROIs whose number is wanted, as they are.

    Items without a number count as -1.
    """
    for keyword, number in ITEM_SEQUENCES.items():
        originals = source.get(keyword, None) or ()
        kept = [item for item in originals if is_wanted(_number(item, number))]
        setattr(ds, keyword, copied_items(kept, source))


def _label(rois: Sequence[NewRoi]) -> str:
    if any(roi.algorithm[1] == REFINEMENT_NAME for roi in rois):
        return LABEL_REFINED
    return LABEL_ADDED if rois else LABEL_UNCHANGED


def structure_set_reference(result_set: ResultSet) -> Reference:
    """Return the reference to the new structure set."""
    return result_set.reference(RTStructureSetStorage, ROLE)


def _new_dataset(result_set: ResultSet, *, label: str) -> Dataset:
    source = result_set.sources.structure_set
    authorship = result_set.authorship
    ds = result_set.dataset(
        sop_class_uid=RTStructureSetStorage,
        role=ROLE,
        modality="RTSTRUCT",
        series_number=SERIES_NUMBER_RTSTRUCT,
        series_description=f"Structure set with targets refined by {MANUFACTURER}",
        transfer_syntax_uid=ImplicitVRLittleEndian,
    )
    result_set.add_frame_of_reference(ds)
    stamp_copy(result_set, ds, label)
    ds.StructureSetName = result_set.text(
        f"{MANUFACTURER} from {source.get('StructureSetLabel', '') or 'structure set'}", LO_LENGTH
    )
    ds.StructureSetDescription = result_set.text(
        f"All ROIs of the structure set {source.SOPInstanceUID}, unchanged, and what "
        f"{MANUFACTURER} {authorship.software_version} refined with MR or derived. "
        f"{authorship.parameters}",
        ST_LENGTH,
    )
    ds.ReferencedFrameOfReferenceSequence = _frame_items(result_set)
    return ds


def stamp_copy(result_set: ResultSet, ds: Dataset, label: str) -> None:
    """Say of a structure set how it is called, what it follows, and that nobody approved it."""
    # Content Date and Time are no part of this IOD
    del ds.ContentDate, ds.ContentTime
    ds.OperatorsName = None
    ds.StructureSetLabel = label
    ds.StructureSetDate = result_set.authorship.date
    ds.StructureSetTime = result_set.authorship.time
    ds.PredecessorStructureSetSequence = [Reference.of(result_set.sources.structure_set).item()]
    ds.ApprovalStatus = "UNAPPROVED"


def _frame_items(result_set: ResultSet) -> ItemSequence:
    source, frame_uid = result_set.sources.structure_set, str(result_set.ct.FrameOfReferenceUID)
    # one frame of reference a structure set: planning systems refuse several
    named = [
        item.copy()
        for item in source.get("ReferencedFrameOfReferenceSequence", None) or ()
        if str(item.get("FrameOfReferenceUID", "")) == frame_uid
        and item.get("RTReferencedStudySequence", None)
    ]
    if named:
        return ItemSequence(named)
    series = Dataset()
    series.SeriesInstanceUID = result_set.ct.SeriesInstanceUID
    series.ContourImageSequence = [reference.item() for reference in result_set.ct_references()]
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = result_set.ct.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = frame_uid
    frame.RTReferencedStudySequence = [study]
    return ItemSequence([frame])


def _require_new_names(source: Dataset, rois: Sequence[NewRoi]) -> None:
    taken = names_in_use(
        str(item.get("ROIName", "")) for item in source.get("StructureSetROISequence", None) or ()
    )
    for roi in rois:
        name = roi.name
        if not name or not name.isascii() or "\\" in name or len(name) > ROI_NAME_LENGTH:
            raise EncodingError(f"a new ROI has no usable name: {name!r}")
        if name.casefold() in taken:
            raise EncodingError(
                f"the name {name!r} of a new ROI is taken",
                hint="names of a structure set must be unique, ignoring case",
            )
        taken.add(name.casefold())


def _described(result_set: ResultSet, roi: NewRoi) -> str:
    """Return how an ROI came about; of a refined target first its tracking UID."""
    if roi.refines is None:
        return roi.description
    uid = result_set.tracking_uid(roi.refines, is_refined=True)
    return f"Tracking UID {uid}. {roi.description}"


def _roi_item(result_set: ResultSet, roi: NewRoi, number: int) -> Dataset:
    authorship = result_set.authorship
    family, name = roi.algorithm
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [code_item(family)]
    algorithm.AlgorithmName = name
    algorithm.AlgorithmVersion = result_set.text(authorship.software_version, LO_LENGTH)
    algorithm.AlgorithmParameters = result_set.text(authorship.parameters, LT_LENGTH)
    algorithm.AlgorithmSource = MANUFACTURER
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = result_set.ct.FrameOfReferenceUID
    item.ROIName = roi.name
    item.ROIDescription = result_set.text(_described(result_set, roi), ST_LENGTH)
    item.ROIVolume = DSfloat(roi.volume_cm3, auto_format=True)
    item.ROIGenerationAlgorithm = roi.generation
    item.ROIGenerationDescription = result_set.text(
        f"{MANUFACTURER} {authorship.software_version}, proposal, not approved", LO_LENGTH
    )
    item.ROIDerivationAlgorithmIdentificationSequence = [algorithm]
    return item


def _contour_item(result_set: ResultSet, roi: NewRoi, number: int) -> Dataset:
    ct_references = result_set.ct_references()
    items: list[Dataset] = []
    as_xor = result_set.result.holes_as_xor
    traced = (
        contours_from_mask(roi.mask, holes_as_xor=as_xor)
        if roi.level is None
        else contours_from_level(roi.level, roi.mask, holes_as_xor=as_xor)
    )
    for contour in traced:
        slice_index = slice_of_contour(contour, result_set.result.case.ct.geometry)
        if slice_index is None:
            raise EncodingError(f"a contour of {roi.name!r} lies on no slice of the planning CT")
        item = Dataset()
        item.ContourImageSequence = [ct_references[slice_index].item()]
        item.ContourGeometricType = (
            "CLOSEDPLANAR_XOR" if contour.is_exclusive_or else "CLOSED_PLANAR"
        )
        values = contour_values(contour)
        item.NumberOfContourPoints = len(values) // 3
        item.ContourNumber = len(items) + 1
        item.ContourData = values
        items.append(item)
    if not items:
        raise EncodingError(f"the new ROI {roi.name!r} has no contour")
    contours = Dataset()
    contours.ReferencedROINumber = number
    contours.ROIDisplayColor = list(roi.color)
    contours.ContourSequence = items
    return contours


def contour_values(contour: Contour) -> list[str]:
    """Return Contour Data: x, y, z of each corner as DS text, no corner twice in a row.

    Raises:
        EncodingError: Fewer than three corners are left.
    """
    points = np.round(contour.points / POINT_STEP_MM) * POINT_STEP_MM + 0.0
    is_new = np.any(np.abs(points - np.roll(points, 1, axis=0)) >= POINT_STEP_MM / 2, axis=1)
    points = points[is_new]
    if len(points) < 3:
        raise EncodingError("a contour is smaller than the step in which points are written")
    # without zeros that say nothing: it spares a sixth of Contour Data, which may fill 64 kB
    return [f"{value:.3f}".rstrip("0").rstrip(".") for value in points.ravel()]


def _observation_item(source: Dataset, roi: NewRoi, number: int, observation: int) -> Dataset:
    item = Dataset()
    item.ObservationNumber = observation
    item.ReferencedROINumber = number
    item.ROIObservationLabel = legal_text(roi.name, SH_LENGTH, [])
    item.RTROIInterpretedType = roi.interpreted_type
    item.ROIInterpreter = None
    if roi.observed_like is None:
        return item
    for original in source.get("RTROIObservationsSequence", None) or ():
        if _number(original, "ReferencedROINumber") == roi.observed_like.number:
            if original.get("RTROIInterpretedType"):
                item.RTROIInterpretedType = original.RTROIInterpretedType
            codes = original.get("RTROIIdentificationCodeSequence", None)
            if codes:
                item.RTROIIdentificationCodeSequence = ItemSequence([c.copy() for c in codes])
            break
    return item


def _number(item: Dataset, keyword: str) -> int:
    """Return a number of an original item, -1 if it has none: its faults are not ours to judge."""
    value = item.get(keyword, None)
    return int(value) if isinstance(value, int) else -1


def choose_character_set(ds: Dataset, source: Dataset) -> None:
    """Write copies and patient in one character set: the CT's, or UTF-8 if that is too small.

    pydicom passes text that nobody has looked at on as bytes. That is right as long as the source
    and the new object declare the same character set; otherwise the text must be decoded first.
    """
    source_sets, own_sets = character_sets_of(source), character_sets_of(ds)
    if source_sets == own_sets:
        return
    texts: list[str] = []
    for keyword in (*ITEM_SEQUENCES, "ReferencedFrameOfReferenceSequence"):
        for item in ds.get(keyword, None) or ():
            texts += _decoded_texts(item)
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if keyword in ds and ds[keyword].VR in CUSTOMIZABLE_CHARSET_VR:
            texts.append(str(ds[keyword].value))
    if not all(is_writable(text, own_sets) for text in texts):
        ds.SpecificCharacterSet = UTF_8


def _decoded_texts(item: Dataset) -> Iterable[str]:
    for tag in list(item.keys()):
        element = item.get_item(tag)
        if isinstance(element, RawDataElement):
            try:
                vr = element.VR or dictionary_VR(tag)
            except KeyError:
                continue
        else:
            vr = element.VR
        if vr == "SQ":
            for nested in item[tag].value:
                yield from _decoded_texts(nested)
        elif vr in CUSTOMIZABLE_CHARSET_VR:
            yield str(item[tag].value)
