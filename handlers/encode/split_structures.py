"""ROIs that a source drew in other frames of reference -> structure sets of their own, one a frame.

Planning systems refuse a structure set of several frames of reference, and others write such. What
the planning CT's set (`rtstruct`) leaves out goes back here, element for element, so that nothing
is lost. Where a registration of this result brings the frame to the planning CT, the description
names it. Moves no contour from one frame to another.

Read first: DICOM PS3.3 C.8.8.5 (Structure Set Module, Referenced Frame of Reference Sequence).
"""

from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from handlers.encode.identity import MANUFACTURER, SERIES_NUMBER_RTSTRUCT, ResultSet
from handlers.encode.registration import registration_reference
from handlers.encode.rtstruct import ROLE, choose_character_set, copy_original_rois, stamp_copy
from handlers.encode.text import LO_LENGTH, ST_LENGTH
from handlers.results import RegistrationStatus

LABEL_SPLIT = "HILUM_SPLIT"
"""Structure Set Label (3006,0002), before its number."""


def frames_elsewhere(result_set: ResultSet) -> tuple[str, ...]:
    """Return the further frames of reference of the source, in the order of its ROIs."""
    return tuple(dict.fromkeys(result_set.result.case.structure_set.frames_elsewhere.values()))


def encode_split_structure_set(result_set: ResultSet, index: int) -> Dataset:
    """Return the structure set of one further frame: number `index + 2` of the result set."""
    frame_uid = frames_elsewhere(result_set)[index]
    source = result_set.sources.structure_set
    frames = result_set.result.case.structure_set.frames_elsewhere
    ds = result_set.dataset(
        sop_class_uid=RTStructureSetStorage,
        role=ROLE,
        index=index + 1,
        modality="RTSTRUCT",
        series_number=SERIES_NUMBER_RTSTRUCT + index + 1,
        series_description=f"Copy of ROIs that lie in another frame of reference ({MANUFACTURER})",
        transfer_syntax_uid=ImplicitVRLittleEndian,
    )
    ds.FrameOfReferenceUID = frame_uid
    ds.PositionReferenceIndicator = None
    stamp_copy(result_set, ds, f"{LABEL_SPLIT}_{index + 2}")
    ds.StructureSetName = result_set.text(
        f"{MANUFACTURER} from {source.get('StructureSetLabel', '') or 'structure set'}", LO_LENGTH
    )
    ds.StructureSetDescription = result_set.text(
        f"The ROIs of the structure set {source.SOPInstanceUID} that lie in this frame of "
        f"reference, unchanged; those of the planning CT's are in a set of their own. "
        f"{_relation(result_set, frame_uid)}",
        ST_LENGTH,
    )
    ds.ReferencedFrameOfReferenceSequence = _frame_items(source, frame_uid)
    copy_original_rois(ds, source, lambda number: frames.get(number) == frame_uid)
    choose_character_set(ds, source)
    return ds


def _relation(result_set: ResultSet, frame_uid: str) -> str:
    for registration in result_set.result.registrations:
        is_usable = registration.status is not RegistrationStatus.FAIL
        if is_usable and registration.ct_from_mr.from_frame_uid == frame_uid:
            reference = registration_reference(result_set, registration)
            return f"Spatial Registration {reference.sop_instance_uid} brings one to the other."
    return "No registration between them is known."


def _frame_items(source: Dataset, frame_uid: str) -> ItemSequence:
    named = [
        item.copy()
        for item in source.get("ReferencedFrameOfReferenceSequence", None) or ()
        if str(item.get("FrameOfReferenceUID", "")) == frame_uid
    ]
    if named:
        return ItemSequence(named[:1])
    item = Dataset()
    item.FrameOfReferenceUID = frame_uid
    return ItemSequence([item])
