"""EQD2 of all courses -> RT Dose Storage: EFFECTIVE, MULTI_PLAN, one object for each alpha/beta.

Written on request only, for a planning system that shows it beside the plan: it says what it is in
Dose Type, Derivation Code Sequence, Dose Comment and Series Description, for a reader that looks at
one of them only. It names every dose and plan that it is made of, and the registration by which
prior dose came here.

Stored in 16 bits, which every importer reads: at 150 Gy in steps of 2.3 mGy. Never converts, never
sums; holds no recovery, which is a matter of organs.

Read first: DICOM PS3.3 C.8.8.3 (RT Dose Module), PS3.16 CID 7220 and 7221.
"""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.coding import Code
from pydicom.uid import RTDoseStorage, RTPlanStorage
from pydicom.valuerep import DSfloat

from handlers.dose_results import CumulativeDose
from handlers.encode.deformable import deformable_reference
from handlers.encode.identity import SERIES_NUMBER_RTDOSE, Reference, ResultSet, code_item
from handlers.encode.registration import registration_reference
from handlers.encode.text import LO_LENGTH
from handlers.errors import EncodingError
from handlers.geometry import Geometry
from handlers.values import DoseGrid

ROLE = "RTDOSE"
"""Role of these objects in a result set: gives their UIDs and their file names."""

BITS = 16
"""Bits Allocated and Stored; 32 are legal (PS3.3 C.8.8.3.4.3), but not all validators read them."""

LEAST_PLANS = 2
"""A MULTI_PLAN dose names two plans or more (PS3.3 C.8.8.3)."""

PRIOR_DOSES = Code("121370", "DCM", "Composed from prior doses")
RADIOBIOLOGICAL = Code("121377", "DCM", "Composed with radiobiological effects")
SOURCE_DOSE = Code("121372", "DCM", "Source dose for composing current dose")
"""CID 7220 and 7221."""


def summed_doses(result_set: ResultSet) -> list[tuple[float, DoseGrid]]:
    """Return the sums that are written, each with its alpha/beta in Gy, ascending."""
    dose = result_set.result.dose
    if dose is None or dose.cumulative is None:
        return []
    return sorted(dose.cumulative.sums.items())


def encode_summed_dose(result_set: ResultSet, index: int) -> Dataset:
    """Return the EQD2 of all courses by one alpha/beta as an RT Dose.

    Raises:
        EncodingError: It is not made of two plans at least, or lies in another frame of reference
            than the planning CT.
    """
    cumulative = _cumulative(result_set)
    ratio, dose = summed_doses(result_set)[index]
    if len(dose.plan_uids) < LEAST_PLANS:
        raise EncodingError("a summed dose must name the RT Plans of at least two courses")
    if dose.geometry.frame_of_reference_uid != str(result_set.ct.FrameOfReferenceUID):
        raise EncodingError("a summed dose does not lie in the frame of reference of the CT")
    told = f"EQD2, alpha/beta {ratio:g} Gy, {len(cumulative.courses)} courses, no recovery"
    ds = result_set.dataset(
        sop_class_uid=RTDoseStorage,
        role=ROLE,
        index=index,
        modality="RTDOSE",
        series_number=SERIES_NUMBER_RTDOSE + index + 1,
        series_description=told,
    )
    result_set.add_frame_of_reference(ds)
    ds.OperatorsName = None
    ds.DoseUnits = "GY"
    ds.DoseType = "EFFECTIVE"
    ds.DoseSummationType = "MULTI_PLAN"
    ds.DoseComment = result_set.text(told, LO_LENGTH)
    _add_grid(ds, dose)
    _add_origin(ds, result_set, cumulative, dose)
    return ds


def _cumulative(result_set: ResultSet) -> CumulativeDose:
    measures = result_set.result.dose
    if measures is None or measures.cumulative is None:
        raise EncodingError("there is no dose of several courses")
    return measures.cumulative


def _add_grid(ds: Dataset, dose: DoseGrid) -> None:
    geometry, dose_gy = _along_normal(dose)
    slices, rows, columns = geometry.shape
    slice_mm, row_mm, column_mm = geometry.spacing_mm
    most = 2**BITS - 1
    step_gy = DSfloat(float(dose_gy.max()) / most or 1.0, auto_format=True)
    stored = np.clip(np.rint(dose_gy.astype(np.float64) / float(str(step_gy))), 0, most)
    axes = geometry.axes
    ds.ImagePositionPatient = _decimals(geometry.patient_from_index[:3, 3])
    ds.ImageOrientationPatient = _decimals(np.concatenate((axes[:, 2], axes[:, 1])))
    ds.PixelSpacing = _decimals(np.array([row_mm, column_mm]))
    ds.SliceThickness = DSfloat(slice_mm, auto_format=True)
    ds.GridFrameOffsetVector = _decimals(slice_mm * np.arange(slices))
    ds.NumberOfFrames = slices
    ds.FrameIncrementPointer = tag_for_keyword("GridFrameOffsetVector")
    ds.DoseGridScaling = step_gy
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = ds.BitsStored = BITS
    ds.HighBit = BITS - 1
    ds.PixelRepresentation = 0
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _along_normal(dose: DoseGrid) -> tuple[Geometry, npt.NDArray[np.float32]]:
    """Return the dose with its slices counted along row x column, as offsets are read."""
    geometry = dose.geometry
    axes = geometry.patient_from_index[:3, :3]
    if np.cross(axes[:, 2], axes[:, 1]) @ axes[:, 0] > 0:
        return geometry, dose.dose_gy
    matrix = geometry.patient_from_index.copy()
    matrix[:3, 0] = -axes[:, 0]
    matrix[:3, 3] = geometry.points_from_indices((geometry.shape[0] - 1, 0, 0))[0]
    turned = Geometry(geometry.frame_of_reference_uid, matrix, geometry.shape)
    return turned, dose.dose_gy[::-1]


def _add_origin(
    ds: Dataset, result_set: ResultSet, cumulative: CumulativeDose, dose: DoseGrid
) -> None:
    """Tell of which doses and plans it is made, and how those of other frames came here."""
    plans = [_plan_reference(result_set, uid) for uid in dose.plan_uids]
    ds.ReferencedRTPlanSequence = [plan.item() for plan in plans]
    uids = [uid for course in cumulative.courses for uid in course.dose_uids]
    held = {str(each.SOPInstanceUID): each for each in result_set.sources.radiotherapy}
    ds.DerivationCodeSequence = [code_item(PRIOR_DOSES), code_item(RADIOBIOLOGICAL)]
    ds.ReferencedInstanceSequence = [_source_item(uid) for uid in uids]
    registrations = [result_set.result.registrations[i] for i in cumulative.registration_indices]
    deformed = [deformable_reference(result_set, each) for each in registrations]
    ways = [
        registration_reference(result_set, each) if bent is None else bent
        for each, bent in zip(registrations, deformed, strict=True)
    ]
    ds.SpatialTransformOfDose = "NONE"
    if ways:
        ds.SpatialTransformOfDose = "NON_RIGID" if any(deformed) else "RIGID"
        ds.ReferencedSpatialRegistrationSequence = [way.item() for way in ways]
    sources = [Reference.of(held[uid]) for uid in (*uids, *dose.plan_uids) if uid in held]
    result_set.add_instance_references(ds, [*sources, *ways])


def _source_item(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = RTDoseStorage
    item.ReferencedSOPInstanceUID = uid
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_DOSE)]
    return item


def _plan_reference(result_set: ResultSet, uid: str) -> Reference:
    """Return the reference to a plan: as it is held, or as a dose that is held names it."""
    for each in result_set.sources.radiotherapy:
        if str(each.SOPInstanceUID) == uid:
            return Reference.of(each)
        for item in each.get("ReferencedRTPlanSequence", None) or ():
            if str(item.get("ReferencedSOPInstanceUID", "")) == uid:
                return Reference(str(item.ReferencedSOPClassUID), uid, "", "")
    return Reference(str(RTPlanStorage), uid, "", "")


def _decimals(values: npt.ArrayLike) -> list[DSfloat]:
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in np.asarray(values)]
