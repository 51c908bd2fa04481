"""Which ROIs a result adds to the structure set, in order, and what each of them says of itself.

First the refined targets, then what the protocol derives from the targets, then, for review, the
structures that were found and the organs that an outside program outlined. Draws nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.sr.coding import Code

from handlers.errors import EncodingError
from handlers.results import CONTOURS_CM3, CaseResult, TargetResult, VoxelField
from handlers.roi_names import names_in_use, unique_name
from handlers.values import Mask, Roi

REFINEMENT_FAMILY = Code("123101", "DCM", "Neighborhood Analysis")
"""Algorithm family of the refinement (PS3.16 CID 7162)."""

REFINEMENT_NAME = "Hilum target refinement"
"""Algorithm Name of the refinement, in all our objects."""

DERIVATION_FAMILY = Code("123104", "DCM", "Morphological Operations")
"""Algorithm family of unions, intersections and margins (PS3.16 CID 7162)."""

DERIVATION_NAME = "Hilum target derivation"
FINDING_NAME = "Hilum structure finding"

OUTLINE_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
"""Algorithm family of the second opinion (PS3.16 CID 7162)."""

OUTLINE_NAME = "Hilum second opinion"
"""Ours, as its version is: we ask another program, and cut what it says at the drawn targets."""

NO_ORGAN_PREFIX = "z"
"""TG-263: a structure that is none for dose evaluation; the refinement ignores it if it returns."""

REVIEW_STRUCTURES = "structures"
"""The wish, in `CaseResult.review`, to have found structures and outlined organs written."""

TARGET_COLORS = ((255, 128, 0), (0, 200, 255), (255, 0, 255), (128, 255, 0))
"""ROI Display Colors of refined targets, in turn: none of the reds that targets usually have."""

DERIVED_COLORS = ((255, 190, 120), (120, 225, 255), (255, 140, 255), (190, 255, 120))
FOUND_COLORS = ((150, 150, 150), (150, 150, 190), (150, 190, 150))
OUTLINE_COLORS = ((110, 110, 110), (110, 110, 140), (110, 140, 110))


@dataclass(frozen=True, slots=True, eq=False)
class NewRoi:
    """An ROI that is to be added.

    Attributes:
        name: ROI Name.
        mask: Its voxels on the CT grid.
        level: Its surface, finer than the voxels, or None.
        volume_cm3: ROI Volume.
        description: How it came about.
        interpreted_type: RT ROI Interpreted Type; empty if none is true of it.
        generation: ROI Generation Algorithm.
        algorithm: Family and name of what made it.
        color: ROI Display Color.
        observed_like: The original ROI whose observation it shares, or None.
        refines: Place in the result's targets of the target that it is the refined version of; None
            for all else.
    """

    name: str
    mask: Mask
    level: VoxelField | None
    volume_cm3: float
    description: str
    interpreted_type: str
    generation: str
    algorithm: tuple[Code, str]
    color: tuple[int, int, int]
    observed_like: Roi | None = None
    refines: int | None = None


def new_rois(result: CaseResult) -> tuple[NewRoi, ...]:
    """Return the ROIs to add.

    Raises:
        EncodingError: A refined target has no name, or a mask does not lie on the grid of the CT.
    """
    kept = [i for i, t in enumerate(result.targets) if t.refinement.refined is not None]
    refined = [_refined(result.targets[i], i, turn) for turn, i in enumerate(kept)]
    rois = [*refined, *_derived(result)]
    if REVIEW_STRUCTURES in result.review:
        drawn = (roi.name for roi in result.case.structure_set.rois)
        taken = names_in_use([*drawn, *(roi.name for roi in rois)])
        rois += _found(result, taken)
        rois += _outlined(result, taken)
    grid = result.case.ct.geometry
    off_grid = [roi.name for roi in rois if not roi.mask.geometry.coincides_with(grid)]
    if off_grid:
        raise EncodingError(f"{', '.join(off_grid)}: not on the grid of the CT")
    return tuple(rois)


def _refined(target: TargetResult, index: int, turn: int) -> NewRoi:
    refinement, volume_cm3 = target.refinement, target.refined_cm3
    if refinement.refined is None or volume_cm3 is None or not target.refined_roi_name:
        raise EncodingError("a refined target has no usable ROI name")
    return NewRoi(
        name=target.refined_roi_name,
        mask=refinement.refined,
        level=refinement.level,
        volume_cm3=volume_cm3,
        description=f"From ROI {target.source_roi.number}, refined with MR. "
        f"{_volume_by(target.metrics)} {'; '.join(refinement.reasons)}",
        interpreted_type=target.source_roi.interpreted_type,
        generation="SEMIAUTOMATIC",
        algorithm=(REFINEMENT_FAMILY, REFINEMENT_NAME),
        color=TARGET_COLORS[turn % len(TARGET_COLORS)],
        observed_like=target.source_roi,
        refines=index,
    )


def _volume_by(metrics: Mapping[str, float]) -> str:
    """Return how the volume of a new ROI was measured, in a sentence."""
    is_of_contours = CONTOURS_CM3 in metrics
    return "Volume of its contours by slices." if is_of_contours else "Volume by voxel summation."


def _derived(result: CaseResult) -> list[NewRoi]:
    every = [derived for target in result.targets for derived in target.derived]
    return [
        NewRoi(
            name=derived.name,
            mask=derived.mask,
            level=derived.level,
            volume_cm3=derived.volume_cm3,
            description=f"{derived.description} {_volume_by(derived.metrics)}",
            interpreted_type=derived.interpreted_type,
            generation="SEMIAUTOMATIC",
            algorithm=(DERIVATION_FAMILY, DERIVATION_NAME),
            color=DERIVED_COLORS[index % len(DERIVED_COLORS)],
        )
        for index, derived in enumerate(every)
    ]


def _found(result: CaseResult, taken: set[str]) -> list[NewRoi]:
    """Return the found structures; what was found of one name round several targets is one ROI.

    The names chosen are added to `taken`.
    """
    merged: dict[str, Mask] = {}
    for target in result.targets:
        for name, mask in target.refinement.found.items():
            before = merged.get(name)
            inside = mask.inside if before is None else np.logical_or(before.inside, mask.inside)
            merged[name] = Mask(mask.geometry, inside)
    rois: list[NewRoi] = []
    for name, mask in merged.items():
        if not mask.inside.any():
            continue
        unique = unique_name(name, taken)
        taken.add(unique.casefold())
        roi = NewRoi(
            name=unique,
            mask=mask,
            level=None,
            volume_cm3=mask.volume_cm3,
            description="Found automatically around a target, no clinical organ: for review only.",
            # PS3.3 C.8.8.8 lets it be empty where it is not known. Each defined term would make a
            # planning system do something: ORGAN and AVOIDANCE spare it, CONTROL steers the dose
            interpreted_type="",
            generation="AUTOMATIC",
            algorithm=(REFINEMENT_FAMILY, FINDING_NAME),
            color=FOUND_COLORS[len(rois) % len(FOUND_COLORS)],
        )
        rois.append(roi)
    return rois


def _outlined(result: CaseResult, taken: set[str]) -> list[NewRoi]:
    """Return the organs that nobody drew and an outside program outlined."""
    rois: list[NewRoi] = []
    for name, mask in result.outlined.items():
        if not mask.inside.any():
            continue
        unique = unique_name(f"{NO_ORGAN_PREFIX}{name}", taken)
        taken.add(unique.casefold())
        roi = NewRoi(
            name=unique,
            mask=mask,
            level=None,
            volume_cm3=mask.volume_cm3,
            description=f"Outlined by {result.outlined_by or 'an outside program'}, reviewed by "
            "nobody, no clinical organ: for review only.",
            # as for found structures: any term would make a planning system act on it
            interpreted_type="",
            generation="AUTOMATIC",
            algorithm=(OUTLINE_FAMILY, OUTLINE_NAME),
            color=OUTLINE_COLORS[len(rois) % len(OUTLINE_COLORS)],
        )
        rois.append(roi)
    return rois
