"""RT Dose -> `values.DoseGrid`, or the reasons why not.

Never converts a relative dose, and never resamples uneven planes.
Read first: DICOM PS3.3 C.8.8.3 (RT Dose Module).
"""

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    Floats,
    failure,
    has_failure,
    number_of,
    numbers_of,
    text_of,
    warning,
)
from handlers.decode.compression import compression_findings
from handlers.decode.pixels import PixelDataError, stored_values
from handlers.decode.planes import COSINE_TOLERANCE, DECODE_ERRORS
from handlers.geometry import Geometry
from handlers.values import DoseGrid, Finding

OFFSET_TOLERANCE_MM = 0.01
"""A plane of the dose may lie this far from its even place; offsets nearer than this are equal."""


def decode_dose(ds: Dataset, frame_of_reference_uid: str) -> tuple[DoseGrid | None, list[Finding]]:
    """Return the dose in Gy, or None with every reason.

    Args:
        ds: An RT Dose object with pixel data.
        frame_of_reference_uid: That of the planning CT, in which the dose must lie.
    """
    found = _check_attributes(ds, frame_of_reference_uid)
    geometry, flaws = _geometry(ds)
    found += flaws
    if has_failure(found) or geometry is None:
        return None, found
    scaling = number_of(ds, "DoseGridScaling") or 0.0
    try:
        dose_gy = np.asarray(stored_values(ds) * scaling, dtype=np.float32)
    except PixelDataError as error:
        return None, [*found, failure("dose.pixel_data", f"Dose: pixel data: {error}")]
    except DECODE_ERRORS as error:
        text = f"Dose: pixel data is truncated or cannot be decoded ({type(error).__name__})"
        return None, [*found, failure("dose.pixel_data", text)]
    if dose_gy.shape != geometry.shape:
        text = f"Dose: pixel data has shape {dose_gy.shape}, the header says {geometry.shape}"
        return None, [*found, failure("dose.pixel_data", text)]
    if not np.all(np.isfinite(dose_gy)) or dose_gy.min() < 0 or dose_gy.max() == 0:
        text = "Dose: it is negative somewhere, not finite, or zero everywhere"
        return None, [*found, failure("dose.values", text)]
    offsets = numbers_of(ds, "GridFrameOffsetVector")
    if offsets is not None and offsets[0] > offsets[-1]:
        dose_gy = np.ascontiguousarray(dose_gy[::-1])
    summation = text_of(ds, "DoseSummationType")
    if summation not in ("PLAN", "MULTI_PLAN"):
        text = f"Dose: its summation type is {summation or 'not given'}, so it may not be the whole"
        found.append(warning("dose.summation", f"{text} plan's dose"))
    found += compression_findings([ds], "dose", "Dose")
    return DoseGrid(geometry, dose_gy, text_of(ds, "SOPInstanceUID"), summation), found


def _check_attributes(ds: Dataset, frame_of_reference_uid: str) -> list[Finding]:
    found = []
    if text_of(ds, "Modality") != "RTDOSE":
        found.append(failure("dose.modality", "Dose: the object is no RT Dose"))
    if text_of(ds, "DoseUnits") != "GY":
        units = text_of(ds, "DoseUnits") or "not given"
        text = f"Dose: its units are {units}, not GY; export the dose in Gy"
        found.append(failure("dose.units", text))
    if text_of(ds, "DoseType") != "PHYSICAL":
        kind = text_of(ds, "DoseType") or "not given"
        found.append(failure("dose.type", f"Dose: its type is {kind}, not PHYSICAL"))
    scaling = number_of(ds, "DoseGridScaling")
    if scaling is None or scaling <= 0:
        text = "Dose: Dose Grid Scaling is absent or not positive"
        found.append(failure("dose.scaling", text))
    if text_of(ds, "FrameOfReferenceUID") != frame_of_reference_uid:
        text = "Dose: it does not lie in the frame of reference of the planning CT"
        found.append(failure("dose.frame_of_reference", text))
    if text_of(ds, "SpatialTransformOfDose") not in ("", "NONE"):
        text = "Dose: it was moved here from another frame of reference by a spatial transform"
        found.append(warning("dose.transformed", text))
    return found


def _geometry(ds: Dataset) -> tuple[Geometry | None, list[Finding]]:
    position = numbers_of(ds, "ImagePositionPatient", 3)
    cosines = numbers_of(ds, "ImageOrientationPatient", 6)
    spacing = numbers_of(ds, "PixelSpacing", 2)
    offsets = numbers_of(ds, "GridFrameOffsetVector")
    rows, columns = number_of(ds, "Rows"), number_of(ds, "Columns")
    if position is None or cosines is None or spacing is None or not rows or not columns:
        text = "Dose: position, orientation, pixel spacing, rows or columns is absent or malformed"
        return None, [failure("dose.geometry", text)]
    if spacing.min() <= 0:
        return None, [failure("dose.geometry", "Dose: Pixel Spacing is not positive")]
    along_row, along_column = cosines.reshape(2, 3)
    if np.abs(cosines.reshape(2, 3) @ cosines.reshape(2, 3).T - np.eye(2)).max() > COSINE_TOLERANCE:
        text = "Dose: Image Orientation (Patient) is no pair of perpendicular directions"
        return None, [failure("dose.geometry", text)]
    relative_mm, flaws = _relative_offsets_mm(ds, offsets, position, cosines)
    if relative_mm is None:
        return None, flaws
    low_mm, high_mm = min(relative_mm[0], relative_mm[-1]), max(relative_mm[0], relative_mm[-1])
    normal = np.cross(along_row, along_column)
    matrix = np.eye(4)
    matrix[:3, 0] = normal / np.linalg.norm(normal) * (high_mm - low_mm) / (len(relative_mm) - 1)
    matrix[:3, 1] = along_column / np.linalg.norm(along_column) * spacing[0]
    matrix[:3, 2] = along_row / np.linalg.norm(along_row) * spacing[1]
    matrix[:3, 3] = position + normal / np.linalg.norm(normal) * low_mm
    shape = (len(relative_mm), int(rows), int(columns))
    return Geometry(text_of(ds, "FrameOfReferenceUID") or "unknown", matrix, shape), flaws


def _relative_offsets_mm(
    ds: Dataset, offsets: Floats | None, position: Floats, cosines: Floats
) -> tuple[Floats | None, list[Finding]]:
    """Return offsets of the planes from Image Position along row x column (PS3.3 C.8.8.3.2)."""
    frames = number_of(ds, "NumberOfFrames") or 1
    if offsets is None or len(offsets) < 2 or len(offsets) != frames:
        count = 0 if offsets is None else len(offsets)
        text = f"Dose: Grid Frame Offset Vector has {count} values for {frames:g} planes"
        return None, [failure("dose.offsets", f"{text}; at least two planes are needed")]
    is_axial = np.abs(cosines - (1, 0, 0, 0, 1, 0)).max() <= COSINE_TOLERANCE
    is_relative = abs(offsets[0]) <= OFFSET_TOLERANCE_MM
    is_absolute = is_axial and abs(offsets[0] - position[2]) <= OFFSET_TOLERANCE_MM
    if not (is_relative or is_absolute):
        text = "Dose: Grid Frame Offset Vector begins neither with 0 nor with the z of the position"
        return None, [failure("dose.offsets", f"{text}, so the planes cannot be placed")]
    relative = offsets - offsets[0]
    even = np.linspace(relative[0], relative[-1], len(relative))
    steps = np.diff(relative)
    is_monotonic = np.all(steps > 0) or np.all(steps < 0)
    if not is_monotonic or np.abs(relative - even).max() > OFFSET_TOLERANCE_MM:
        text = f"Dose: its planes are unevenly spaced ({np.abs(steps).min():.3f} to "
        text += f"{np.abs(steps).max():.3f} mm); calculate on an even grid"
        return None, [failure("dose.uneven_planes", text)]
    return relative, []
