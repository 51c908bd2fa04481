"""Drawn and refined targets -> Segmentation Storage (BINARY) on the grid of the planning CT.

The report measures what lies in here. A segment per drawn target and per refined one; empty masks
are left out, and with nothing to show there is no object. Only frames with content are written.

Never labels organs, and never smooths a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from handlers.encode.identity import (
    CREATOR_NAME,
    DEVICE_SERIAL_NUMBER,
    MANUFACTURER,
    MODEL_NAME,
    SERIES_NUMBER_SEG,
    Reference,
    ResultSet,
)
from handlers.encode.rtstruct import REFINEMENT_FAMILY, REFINEMENT_NAME
from handlers.encode.text import LO_LENGTH, LT_LENGTH
from handlers.results import TargetResult
from handlers.values import Mask

ROLE = "SEG"
"""Role of this object in a result set: gives its UIDs."""

LABEL = "TARGETS"
"""Content Label (0070,0080)."""

RT_TARGET = Code("130041", "DCM", "RT Target")
"""Property category of targets (PS3.16 CID 9580)."""

PROPERTY_TYPES = {
    "GTV": Code("228791009", "SCT", "GTV"),
    "CTV": Code("228792002", "SCT", "CTV"),
    "PTV": Code("228793007", "SCT", "PTV"),
    "ITV": Code("130056", "DCM", "ITV"),
}
NODAL_PROPERTY_TYPES = {
    "GTV": Code("130051", "DCM", "GTV Nodal"),
    "CTV": Code("130049", "DCM", "CTV Nodal"),
    "PTV": Code("130053", "DCM", "PTV Nodal"),
}
"""Property types by interpreted type or, where that is empty, TG-263 name (CID 9534)."""

NODAL_CLASSIFIER = "n"
"""What follows the type in the TG-263 name of a nodal target, as in GTVn1."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One segment to be written: a target, drawn or refined.

    Attributes:
        number: Segment Number, from 1.
        target_index: Place of the target in the result.
        name: ROI name.
        mask: Its voxels; never empty.
        is_refined: Refined, not drawn.
        property_category: Code of the property category.
        property_type: Code of the property type.
        tracking_uid: Shared by the segment and its measurement group.
    """

    number: int
    target_index: int
    name: str
    mask: Mask
    is_refined: bool
    property_category: Code
    property_type: Code
    tracking_uid: str


def segments_of(result_set: ResultSet) -> tuple[Segment, ...]:
    """Return the segments of a result in order: each target drawn, then refined."""
    segments: list[Segment] = []
    for index, target in enumerate(result_set.result.targets):
        category, kind = property_codes(target)
        masks = (
            (False, target.source_roi.name, target.drawn),
            (True, target.refined_roi_name or "", target.refinement.refined),
        )
        for is_refined, name, mask in masks:
            if mask is None or not mask.inside.any():
                continue
            segments.append(
                Segment(
                    number=len(segments) + 1,
                    target_index=index,
                    name=result_set.text(name, LO_LENGTH) or f"target {index + 1}",
                    mask=mask,
                    is_refined=is_refined,
                    property_category=category,
                    property_type=kind,
                    tracking_uid=result_set.tracking_uid(index, is_refined=is_refined),
                )
            )
    return tuple(segments)


def standing_segment(result_set: ResultSet, target_index: int) -> Segment | None:
    """Return the segment of a target as it stands in the end: refined, or drawn, or None."""
    own = [each for each in segments_of(result_set) if each.target_index == target_index]
    return own[-1] if own else None


def property_codes(target: TargetResult) -> tuple[Code, Code]:
    """Return property category and type of a target; tissue, where nothing says what it is."""
    name = target.source_roi.name.strip()
    kind = target.source_roi.interpreted_type.strip().upper()
    if kind not in PROPERTY_TYPES:
        kind = next((prefix for prefix in PROPERTY_TYPES if name.startswith(prefix)), "")
    if not kind:
        return codes.SCT.Tissue, codes.SCT.Tissue
    if name.startswith(f"{kind}{NODAL_CLASSIFIER}") and kind in NODAL_PROPERTY_TYPES:
        return RT_TARGET, NODAL_PROPERTY_TYPES[kind]
    return RT_TARGET, PROPERTY_TYPES[kind]


def segmentation_reference(result_set: ResultSet) -> Reference:
    """Return the reference to the segmentation."""
    return result_set.reference(SegmentationStorage, ROLE)


def series_arguments(
    result_set: ResultSet, reference: Reference, series_number: int
) -> dict[str, Any]:
    """Return what highdicom is told of every object that is alone in its series."""
    return {
        "series_instance_uid": reference.series_instance_uid,
        "series_number": series_number,
        "sop_instance_uid": reference.sop_instance_uid,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": result_set.text(result_set.authorship.software_version, LO_LENGTH),
        "device_serial_number": DEVICE_SERIAL_NUMBER,
        "content_creator_name": CREATOR_NAME,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def encode_segmentation(result_set: ResultSet) -> Dataset | None:
    """Return the segmentation, or None if no target has a voxel."""
    segments = segments_of(result_set)
    if not segments:
        return None
    occupied = np.flatnonzero(
        np.any([segment.mask.inside.any(axis=(1, 2)) for segment in segments], axis=0)
    )
    frames = np.stack(
        [segment.mask.inside[occupied].astype(np.uint8) for segment in segments], axis=-1
    )
    reference = segmentation_reference(result_set)
    ds = hd.seg.Segmentation(
        source_images=[result_set.stand_in(result_set.sources.ct[i]) for i in occupied],
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=describe_segments(result_set, segments),
        **series_arguments(result_set, reference, SERIES_NUMBER_SEG),
        content_label=LABEL,
        content_description="Targets as drawn and as refined with MR",
        series_description="Targets, drawn and refined, on the planning CT",
    )
    make_repeatable(ds, result_set, ROLE)
    return ds


def describe_segments(
    result_set: ResultSet, segments: Sequence[Segment], *, is_computed: bool = False
) -> list[hd.seg.SegmentDescription]:
    """Return the descriptions of segments, numbered from 1.

    Args:
        result_set: Whose segments they are.
        segments: In order.
        is_computed: What is shown of them comes from the algorithm even where a person drew them.
    """
    authorship = result_set.authorship
    algorithm = hd.AlgorithmIdentificationSequence(
        name=REFINEMENT_NAME,
        family=REFINEMENT_FAMILY,
        version=result_set.text(authorship.software_version, LO_LENGTH),
        source=MANUFACTURER,
    )
    algorithm[0].AlgorithmParameters = result_set.text(authorship.parameters, LT_LENGTH)
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name,
            segmented_property_category=segment.property_category,
            segmented_property_type=segment.property_type,
            algorithm_type="SEMIAUTOMATIC" if segment.is_refined or is_computed else "MANUAL",
            algorithm_identification=algorithm if segment.is_refined or is_computed else None,
            tracking_uid=segment.tracking_uid,
            tracking_id=segment.name,
        )
        for number, segment in enumerate(segments, start=1)
    ]


def make_repeatable(ds: Dataset, result_set: ResultSet, role: str) -> None:
    """Replace what highdicom draws at random or from the clock, and stamp the true identity."""
    result_set.stamp(ds)
    dimension_uid = result_set.uid(f"{role} dimension organization")
    for item in ds.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = dimension_uid
    for item in ds.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimension_uid
    for item in ds.get("ContributingEquipmentSequence", None) or ():
        item.ContributionDateTime = result_set.authorship.date_time
