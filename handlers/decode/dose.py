"""One RT Dose -> `values.DoseGrid`, or the reasons why not.

A relative dose is never converted: what it is relative to stands nowhere in the object (PS3.3
C.8.8.3: an implicit reference value). What plan a dose is of is for `plan_doses`.
Read first: DICOM PS3.3 C.8.8.3 (RT Dose Module).
"""

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    failure,
    has_failure,
    items_of,
    number_of,
    tail,
    text_of,
    warning,
)
from handlers.decode.compression import compression_findings
from handlers.decode.dose_planes import dose_planes
from handlers.decode.pixels import PixelDataError, stored_values
from handlers.decode.planes import DECODE_ERRORS
from handlers.values import DoseGrid, DoseKind, Finding


def decode_dose(ds: Dataset, frame_of_reference_uid: str) -> tuple[DoseGrid | None, list[Finding]]:
    """Return the dose in Gy, or None with every reason.

    Args:
        ds: An RT Dose object with pixel data.
        frame_of_reference_uid: That of the planning CT, in which the dose must lie.
    """
    where = name_dose(ds)
    found = _check_attributes(ds, frame_of_reference_uid, where)
    planes, told = dose_planes(ds, where)
    found += told
    if has_failure(found) or planes is None:
        return None, found
    scaling = number_of(ds, "DoseGridScaling") or 0.0
    try:
        stored = np.asarray(stored_values(ds) * scaling, dtype=np.float32)
    except PixelDataError as error:
        return None, [*found, failure("dose.pixel_data", f"{where}: pixel data: {error}")]
    except DECODE_ERRORS as error:
        text = f"{where}: pixel data is truncated or cannot be decoded ({type(error).__name__})"
        return None, [*found, failure("dose.pixel_data", text)]
    if stored.shape != planes.size:
        text = f"{where}: pixel data has shape {stored.shape}, the header says {planes.size}"
        return None, [*found, failure("dose.pixel_data", text)]
    if not np.all(np.isfinite(stored)) or stored.min() < 0 or stored.max() == 0:
        text = f"{where}: it is negative somewhere, not finite, or zero everywhere"
        return None, [*found, failure("dose.values", text)]
    found += compression_findings([ds], "dose", where)
    grid = DoseGrid(
        planes.geometry,
        planes.fill(stored),
        text_of(ds, "SOPInstanceUID"),
        text_of(ds, "DoseSummationType").upper(),
        DoseKind(text_of(ds, "DoseType").lower()),
        plans_of_dose(ds),
    )
    return grid, found


def name_dose(ds: Dataset) -> str:
    """Return how texts call a dose: by the end of its UID."""
    return f"Dose {tail(text_of(ds, 'SOPInstanceUID'))}"


def plans_of_dose(ds: Dataset) -> tuple[str, ...]:
    """Return the SOP Instance UIDs of the plans that a dose refers to."""
    named = (
        text_of(item, "ReferencedSOPInstanceUID")
        for item in items_of(ds, "ReferencedRTPlanSequence")
    )
    return tuple(dict.fromkeys(uid for uid in named if uid))


def _check_attributes(ds: Dataset, frame_of_reference_uid: str, where: str) -> list[Finding]:
    found = []
    if text_of(ds, "Modality") != "RTDOSE":
        found.append(failure("dose.modality", f"{where}: the object is no RT Dose"))
    units = text_of(ds, "DoseUnits") or "not given"
    if units != "GY":
        text = f"{where}: its units are {units}, not GY"
        if units == "RELATIVE":
            text += ", and what it is relative to is not told"
        found.append(failure("dose.units", f"{text}; export the dose in Gy"))
    kind = text_of(ds, "DoseType") or "not given"
    if kind not in ("PHYSICAL", "EFFECTIVE"):
        text = f"{where}: its type is {kind}, neither PHYSICAL nor EFFECTIVE"
        found.append(failure("dose.type", text))
    scaling = number_of(ds, "DoseGridScaling")
    if scaling is None or scaling <= 0:
        text = f"{where}: Dose Grid Scaling is absent or not positive"
        found.append(failure("dose.scaling", text))
    own_frame_uid = text_of(ds, "FrameOfReferenceUID")
    if own_frame_uid != frame_of_reference_uid:
        text = f"{where}: it does not lie in the frame of reference of the CT"
        if not own_frame_uid:
            text = f"{where}: Frame of Reference UID is absent, so nobody can tell where it lies"
        found.append(failure("dose.frame_of_reference", text))
    if text_of(ds, "SpatialTransformOfDose") not in ("", "NONE"):
        text = f"{where}: it was moved here from another frame of reference by a spatial transform"
        found.append(warning("dose.transformed", text))
    return found


__all__ = ["decode_dose", "name_dose", "plans_of_dose"]
