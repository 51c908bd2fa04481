"""How the patient lay on the day of a CBCT, in the axes of the treatment machine.

Turns a registration into what a therapist reads: shift and rotation in the IEC 61217 fixed system,
and how near the organs of the day come to the target. Decides nothing about moving the couch, and
reads no isocentre: planned coordinates are taken for places in the room only because CBCT and
planning CT say the same frame of reference, and where they do not, that is told.

Read first: IEC 61217 (fixed reference system), DICOM PS3.3 C.7.3.1.1.2 (Patient Position).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from handlers.geometry import RigidTransform
from handlers.results import DailyPosition, Registration
from handlers.roi_names import numbered
from handlers.sampling import mask_from_roi, resample_mask
from handlers.values import Image, Mask, StructureSet

IEC_FROM_LPS: Mapping[str, npt.NDArray[np.float64]] = {
    "HFS": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "HFP": np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "FFS": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "FFP": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
}
"""Directions X, Y, Z of the IEC fixed system (rows) by the patient's x, y, z (left, back, head)."""


def daily_position(
    registration: Registration,
    ct: Image,
    cbct: Image,
    organ_distances_mm: Mapping[str, Mapping[str, float]],
) -> DailyPosition | str:
    """Return where the patient lay, or the sentence why that cannot be said.

    Args:
        registration: Of the CBCT to the planning CT.
        ct: The planning CT.
        cbct: The CBCT, with the same Patient Position.
        organ_distances_mm: As the result is to hold them.
    """
    position = ct.patient_position
    if position not in IEC_FROM_LPS:
        named = position or "not told"
        return f"Patient Position of the planning CT is {named}: its axes cannot be turned to IEC's"
    if cbct.patient_position != position:
        named = cbct.patient_position or "not told"
        return f"the planning CT was taken {position}, the CBCT {named}: no shift compares both"
    iec_from_lps = IEC_FROM_LPS[position]
    cbct_from_ct = registration.ct_from_mr.inverse()
    planned = np.array(registration.centre_mm)
    shift = iec_from_lps @ (cbct_from_ct.apply(planned)[0] - planned)
    turned = np.eye(4)
    turned[:3, :3] = iec_from_lps @ cbct_from_ct.matrix[:3, :3] @ iec_from_lps.T
    frames = cbct_from_ct.to_frame_uid, cbct_from_ct.from_frame_uid
    return DailyPosition(
        shift_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
        rotation_deg=RigidTransform(turned, *frames).rotation_deg,
        at_mm=registration.centre_mm,
        patient_position=position,
        is_frame_shared=frames[0] == frames[1],
        organ_distances_mm=organ_distances_mm,
    )


def organs_of_the_day(
    structure_set: StructureSet, cbct: Image, ct: Image, registration: Registration
) -> dict[str, Mask]:
    """Return what is drawn on a CBCT on the planning CT's grid, by ROI name; no empty ones."""
    organs: dict[str, Mask] = {}
    for roi in structure_set.rois:
        if not roi.contours:
            continue
        drawn = mask_from_roi(roi, cbct.geometry)
        organ = resample_mask(drawn, ct.geometry, registration.ct_from_mr, registration.deformation)
        if organ.inside.any():
            name = roi.name if roi.name not in organs else numbered(roi.name, roi.number)
            organs[name] = organ
    return organs


__all__ = ["daily_position", "organs_of_the_day"]
