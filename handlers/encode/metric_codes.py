"""Codes for our numbers: scheme 99HILUM, as no standard scheme has Dice, Hausdorff and their kin.

A figure that the table knows bears its definition in the meaning. One that it does not know still
gets a code of its own, made from its key, and its unit from the key's suffix: nothing that was
computed is left out of a report for want of a code.

Read first: DICOM PS3.3 8.8 (code sequence macro), PS3.16 8.2 (private coding schemes).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from handlers.encode.identity import MANUFACTURER, derive_uid
from handlers.encode.text import LO_LENGTH, LT_LENGTH, SH_LENGTH, legal_text

SCHEME = "99HILUM"
"""Coding Scheme Designator of our private codes: begins with 99, at most 16 characters."""

DIGEST_LENGTH = 6
"""Digits by which code values are told apart that had to be cut."""

SCHEME_NAME = "Hilum private codes"
SCHEME_UID = derive_uid(MANUFACTURER, "coding scheme")

UNITS: Mapping[str, Code] = {
    "_mm": Code("mm", "UCUM", "millimeter"),
    "_mm2": Code("mm2", "UCUM", "square millimeter"),
    "_mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "_cm3": Code("cm3", "UCUM", "cubic centimeter"),
    "_deg": Code("deg", "UCUM", "degree"),
    "_s": Code("s", "UCUM", "second"),
    "_gy": Code("Gy", "UCUM", "gray"),
    "_percent": Code("%", "UCUM", "percent"),
    "_hu": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
}
"""UCUM unit by suffix of a key; without a suffix a number is dimensionless."""

NO_UNITS: Code = Code("1", "UCUM", "no units")
"""Unit of a dimensionless figure."""

MEANINGS = {
    "dsc": ("DSC", "Dice similarity coefficient, voxels"),
    "jaccard": ("JACCARD", "Jaccard index, voxels"),
    "hd_mm": ("HD100", "Hausdorff distance, symmetric"),
    "hd95_mm": ("HD95", "Hausdorff distance 95th percentile, larger of both directed"),
    "hd95_pooled_mm": ("HD95_POOLED", "Hausdorff distance 95th percentile, both directions pooled"),
    "mean_surface_distance_mm": ("MSD", "Mean surface distance, symmetric"),
    "mean_distance_to_agreement_mm": ("MDA", "Mean of both directed mean surface distances"),
    "surface_dsc_1mm": ("SDSC_1MM", "Surface Dice at a tolerance of 1 mm, by area"),
    "surface_dsc_2mm": ("SDSC_2MM", "Surface Dice at a tolerance of 2 mm, by area"),
    "sensitivity": ("SENSITIVITY", "Part of the drawn target within the refined, voxels"),
    "over_contour": ("OVER_CONTOUR", "Part of the refined target outside the drawn, voxels"),
    "added_path_length_mm": ("APL", "Added path length, border pixels refined but not drawn"),
    "added_path_slices": ("APL_SLICES", "Slices on which path is added"),
    "volume_slices_reference_cm3": ("VOL_REF_SLICES", "Volume of the drawn target, sum of slices"),
    "volume_slices_evaluated_cm3": ("VOL_EVAL_SLICES", "Volume of the refined target, by slices"),
    "volume_mesh_reference_cm3": ("VOL_REF_MESH", "Volume of the drawn target, within its surface"),
    "volume_mesh_evaluated_cm3": ("VOL_EVAL_MESH", "Volume of the refined target, by its surface"),
    "volume_change_percent": ("VOLDIFFPCT", "Volume refined minus drawn, part of the drawn"),
    "volume_reference_cm3": ("VOL_REF", "Volume of the drawn target, voxels"),
    "volume_evaluated_cm3": ("VOL_EVAL", "Volume of the refined target, voxels"),
    "volume_difference_cm3": ("VOLDIFF", "Volume refined minus drawn"),
    "volume_ratio": ("VOLRATIO", "Volume refined over drawn"),
    "centroid_shift_mm": ("COMSHIFT", "Distance of centroids, refined from drawn"),
    "centroid_shift_x_mm": ("COMSHIFT_X", "Shift of centroid to the left, refined minus drawn"),
    "centroid_shift_y_mm": ("COMSHIFT_Y", "Shift of centroid to the back, refined minus drawn"),
    "centroid_shift_z_mm": ("COMSHIFT_Z", "Shift of centroid to the head, refined minus drawn"),
    "removed_cm3": ("REMOVED", "Volume drawn but not in the refined target"),
    "added_cm3": ("ADDED", "Volume of the refined target outside the drawn"),
    "cause_removed_cm3": ("REMOVED_BY", "Volume taken from the drawn target, by cause"),
    "cause_added_cm3": ("ADDED_BY", "Volume added to the drawn target, by cause"),
    "proposal_confidence": ("PROPOSAL_CONF", "Confidence in the proposed target, 0 to 1"),
    "surface_inward_mm": ("SURF_IN_MAX", "Largest inward displacement of the drawn surface"),
    "surface_outward_mm": ("SURF_OUT_MAX", "Largest outward displacement of the drawn surface"),
    "surface_mean_absolute_mm": ("SURF_MEAN", "Mean absolute displacement of the drawn surface"),
    "surface_inward_share": ("SURF_IN", "Part of the drawn surface moved inward over 0.5 mm"),
    "surface_outward_share": ("SURF_OUT", "Part of the drawn surface moved outward over 0.5 mm"),
    "cause_surface_share": ("SURF_BY", "Part of the drawn surface that moved, by cause"),
    "cause_surface_mean_mm": ("SURF_MEAN_BY", "Mean displacement by cause, positive outward"),
    "found_cm3": ("FOUND", "Volume of a structure found around the target"),
    "organ_overlap_cm3": ("ORGAN_OVERLAP", "Volume of the target that lies in an organ"),
    "content_cm3": ("CONTENT", "Volume of the target that is vessel, duct or bowel"),
    "organ_distance_mm": ("ORGAN_DIST", "Smallest distance from the target to an organ"),
    "translation_x_mm": ("TRANS_X", "MR to CT translation to the left, at the targets"),
    "translation_y_mm": ("TRANS_Y", "MR to CT translation to the back, at the targets"),
    "translation_z_mm": ("TRANS_Z", "MR to CT translation to the head, at the targets"),
    "rotation_x_deg": ("ROT_X", "MR to CT rotation about x, R = Rz Ry Rx"),
    "rotation_y_deg": ("ROT_Y", "MR to CT rotation about y, R = Rz Ry Rx"),
    "rotation_z_deg": ("ROT_Z", "MR to CT rotation about z, R = Rz Ry Rx"),
    "uncertainty_mm": ("REG_UNCERT", "Uncertainty of the registration at the targets"),
    "daily_shift_x_mm": ("DAILY_SHIFT_X", "Patient lies off plan along IEC 61217 fixed X"),
    "daily_shift_y_mm": ("DAILY_SHIFT_Y", "Patient lies off plan along IEC 61217 fixed Y"),
    "daily_shift_z_mm": ("DAILY_SHIFT_Z", "Patient lies off plan along IEC 61217 fixed Z"),
    "daily_rotation_x_deg": ("DAILY_ROT_X", "Patient is turned about IEC 61217 fixed X"),
    "daily_rotation_y_deg": ("DAILY_ROT_Y", "Patient is turned about IEC 61217 fixed Y"),
    "daily_rotation_z_deg": ("DAILY_ROT_Z", "Patient is turned about IEC 61217 fixed Z"),
    "largest_displacement_mm": ("DEF_LARGEST", "Largest displacement beside the rigid map"),
    "jacobian_min": ("JACOBIAN_MIN", "Smallest Jacobian determinant of the deformation"),
    "jacobian_max": ("JACOBIAN_MAX", "Largest Jacobian determinant of the deformation"),
    "prescription_gy": ("PRESCRIPTION", "Dose that the plan was measured by"),
    "structure_cm3": ("VOL_SOLID", "Volume of the solid that the contours enclose"),
    "coverage_percent": ("COVERAGE", "Part of the target that gets the prescription"),
    "ci_rtog": ("CI_RTOG", "RTOG conformity: prescription isodose volume over target"),
    "ci_paddick": ("CI_PADDICK", "Paddick conformity index"),
    "gradient_index": ("GI", "Gradient index: half over full prescription isodose volume"),
    "r50": ("R50", "R50%: half prescription isodose volume over target"),
    "hi_icru83": ("HI_ICRU83", "Homogeneity index of ICRU 83: (D2 - D98) / D50"),
    "prior_dose_shift_mm": ("PRIOR_SHIFT", "Size of the shifts of the prior dose"),
    "eqd2_worst_case_gy": ("EQD2_WORST", "Sum of the EQD2 maxima of all courses, not co-located"),
    "eqd2_remaining_gy": ("EQD2_LEFT", "EQD2 that the cumulative limit leaves"),
    "dose_remaining_gy": ("DOSE_LEFT", "Physical dose that the cumulative limit leaves"),
    "eqd2_limit_gy": ("EQD2_LIMIT", "Cumulative limit that the department has set"),
}
"""Code value (at most 16 characters) and meaning (at most 64) by key."""


STANDARD = {
    "mean_gy": codes.DCM.MeanAbsorbedRadiationDose,
    "max_gy": codes.DCM.MaximumAbsorbedRadiationDose,
    "min_gy": codes.DCM.MinimumAbsorbedRadiationDose,
    "d50_gy": codes.DCM.MedianAbsorbedRadiationDose,
}
"""Codes of the standard, by key (PS3.16 CID 10061)."""


@dataclass(frozen=True, slots=True)
class MetricCode:
    """How a named figure is coded: its concept name and its unit."""

    name: Code
    unit: Code


def metric_code(key: str) -> MetricCode:
    """Return name and unit for a figure.

    Example:
        >>> metric_code("hd95_mm").name.value, metric_code("hd95_mm").unit.value
        ('HD95', 'mm')
        >>> metric_code("peak_width_mm").name.value
        'PEAK_WIDTH_MM'
    """
    if key in STANDARD:
        return MetricCode(STANDARD[key], unit_of(key))
    value, meaning = MEANINGS.get(key, ("", ""))
    if not value:
        value = _short_value(legal_text(key, LT_LENGTH, []).upper().replace(" ", "_"))
        meaning = legal_text(key.replace("_", " "), LO_LENGTH, [])
    return MetricCode(Code(value, SCHEME, meaning), unit_of(key))


def _short_value(name: str) -> str:
    """Return a code value for Code Value (0008,0100), cut and marked by a digest if too long.

    Long Code Value would hold it whole, but readers of groups that hold one fall over it
    (highdicom 0.28: `referenced_segment`).
    """
    if len(name) <= SH_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_LENGTH].upper()
    return f"{name[: SH_LENGTH - DIGEST_LENGTH - 1]}_{digest}"


def unit_of(key: str) -> Code:
    """Return the UCUM unit that the suffix of a key names."""
    for suffix, unit in UNITS.items():
        if key.endswith(suffix):
            return unit
    return NO_UNITS


def private_code(value: str, meaning: str) -> Code:
    """Return a code of our scheme."""
    return Code(value, SCHEME, meaning)


def coding_scheme_item() -> Dataset:
    """Return the item of Coding Scheme Identification Sequence that tells whose scheme it is."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeUID = SCHEME_UID
    item.CodingSchemeName = SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item
