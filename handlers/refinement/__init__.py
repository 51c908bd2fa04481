"""The target contour, made better with the MR or left alone.

The drawn contour is believed unless at least two kinds of MR contrast, registered and sharp, say
otherwise. What target and surroundings look like is learned from the drawn target's core, its rim
where the core has died, and from what is contoured or known by HU around it; the answer is
regularised in space (a random walker with priors), drawn towards the drawn contour, and bounded by
hard limits: a largest way outward and inward, a core that stays, contoured organs that are never
grown into. Everything else abstains, with every reason.

Deliberately not done here: nothing is registered or resampled, no organ is named, no calibrated
probability is given, and nothing was validated on patients: the defaults come from a synthetic
abdomen, those of the place and sharpness of the MR from public sarcoma pairs too.

Read first: Grady 2005, CVPR, "Multilabel random walker image segmentation using prior models".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.refinement.account import confidence, reasons_of, surface_moves, volume_changes
from handlers.refinement.evidence import (
    Evidence,
    background_places,
    believed,
    ct_channel,
    gather,
    known_by_ct,
    separation,
)
from handlers.refinement.found import FoundStructure, find_structures
from handlers.refinement.region import Region, make_region, without_found
from handlers.refinement.settings import RefinementSettings
from handlers.refinement.settle import drawn_level, settled_level
from handlers.refinement.walk import Model, agreement, probability
from handlers.results import MoveCause, Refinement, ResampledMr, TargetStatus, VoxelField
from handlers.values import Image, Mask

__all__ = ["RefinementSettings", "refine"]

Bools = npt.NDArray[np.bool_]

LEAST_TOLD_MM = 0.5
"""A smaller offset of the drawn contour is not worth a sentence."""

NEVER_TARGET = (MoveCause.VESSEL, MoveCause.DUCT, MoveCause.BOWEL)
"""What is found and belongs to one of these is taken from the target; gas and fat the CT tells."""


def refine(
    target: Mask,
    ct: Image,
    mr: Sequence[ResampledMr],
    organs: Mapping[str, Mask],
    settings: RefinementSettings,
) -> Refinement:
    """Return a better contour for one target, or the reasons why none is proposed.

    Series whose registration did not pass, that do not cover the target or do not show it, are set
    aside; too few kinds of contrast left is an abstention. Where there never were enough (T1 only),
    at most the overlap with contoured vessels, ducts and hollow organs is removed; without any MR
    nothing is. Changes that nowhere nearby reach farther than the registration's uncertainty are
    undone, unless the CT alone shows them or is blind there.

    Args:
        target: The target as drawn, on the planning CT's grid.
        ct: The planning CT.
        mr: MR series on the CT's grid, the preferred ones first.
        organs: All other structures, on the CT's grid, by ROI name.
        settings: Limits and tunables.

    Returns:
        A refinement whose numbers tell the volumes in cm3 and the evidence; never an empty mask.

    Raises:
        GeometryMismatchError: Something does not lie on the CT's grid.
        EmptyStructureError: The target has no voxel inside.
    """
    _require_one_grid(target, ct, mr, organs)
    if not target.inside.any():
        raise EmptyStructureError("a target without any voxel cannot be refined")
    region = make_region(target, organs, settings)
    numbers = {"drawn_cm3": target.volume_cm3}
    ct_shows = believed(ct, region)
    places = background_places(region, ct, ct_shows, settings)
    evidence = gather(region, ct, mr, places, settings)
    numbers |= {"series_given": len(mr), "series_used": len(evidence.channels)}
    reasons = _too_small(region, settings)
    if not mr:
        return _abstain([*reasons, "no MR series was given"], numbers)
    if len(evidence.kinds) < settings.min_contrasts:
        return _without_mr(target, region, evidence, reasons, numbers, settings)
    if reasons:
        return _abstain([*reasons, *evidence.faults], numbers)
    return _with_mr(target, region, ct, ct_shows, evidence, numbers, settings)


def _require_one_grid(
    target: Mask, ct: Image, mr: Sequence[ResampledMr], organs: Mapping[str, Mask]
) -> None:
    grids = [ct.geometry, *(organ.geometry for organ in organs.values())]
    grids += [grid for series in mr for grid in (series.image.geometry, series.valid.geometry)]
    if not all(target.geometry.coincides_with(grid) for grid in grids):
        raise GeometryMismatchError(
            "target, CT, MR and organs must lie on one grid", hint="resample onto the planning CT"
        )


def _too_small(region: Region, settings: RefinementSettings) -> list[str]:
    volume_cm3 = np.count_nonzero(region.drawn) * region.voxel_cm3
    reasons = []
    if volume_cm3 < settings.min_volume_cm3:
        reasons.append(
            f"the target of {volume_cm3:.2f} cm3 is smaller than {settings.min_volume_cm3:.2f} cm3"
        )
    across = min(int(np.ptp(at)) + 1 for at in np.nonzero(region.drawn))
    if across < settings.min_voxels_across:
        reasons.append(
            f"the target is only {across} voxels across, fewer than {settings.min_voxels_across}: "
            "too small for the resolution"
        )
    return reasons


def _abstain(reasons: Sequence[str], numbers: Mapping[str, float]) -> Refinement:
    return Refinement(TargetStatus.ABSTAINED, None, tuple(reasons), numbers)


def _without_mr(
    target: Mask,
    region: Region,
    evidence: Evidence,
    too_small: Sequence[str],
    numbers: dict[str, float],
    settings: RefinementSettings,
) -> Refinement:
    """Answer where fewer than two kinds of contrast can be used."""
    have = ", ".join(evidence.kinds) or "none"
    reasons = [
        *too_small,
        f"fewer than {settings.min_contrasts} kinds of MR contrast can be used ({have}): "
        "the MR moves no contour",
    ]
    if evidence.unknown:
        reasons.append(f"{evidence.unknown} MR series do not tell their contrast")
    reasons += evidence.faults
    if evidence.faults or too_small:
        return _abstain(reasons, numbers)
    if not region.removed.any():
        reasons.append("the target overlaps no contoured vessel, duct or hollow organ")
        return _abstain(reasons, numbers)
    if not (region.drawn & ~region.removed).any():
        reasons.append(f"{', '.join(region.removed_names)} cover the whole target")
        return _abstain(reasons, numbers)
    reasons.append(f"only its overlap with {', '.join(region.removed_names)} was removed")
    level = drawn_level(region, settings)
    return _answer(target, region, level, {}, reasons, numbers, settings)


def _with_mr(
    target: Mask,
    region: Region,
    ct: Image,
    ct_shows: Bools,
    evidence: Evidence,
    numbers: dict[str, float],
    settings: RefinementSettings,
) -> Refinement:
    if not region.core.any():
        reason = f"contoured structures ({', '.join(region.removed_names)}) cover the whole target"
        return _abstain([reason], numbers)
    as_contoured, found = region, _found(region, ct, evidence, settings)
    region = without_found(
        region, {each.name: each.inside for each in found if each.cause in NEVER_TARGET}
    )
    places = background_places(region, ct, ct_shows, settings)
    channels = (*evidence.channels, ct_channel(ct, region, ct_shows))
    model = Model.learn(channels, region, places, evidence.valid, settings)
    doubt = _doubt(model, region, places, evidence, numbers, settings)
    if doubt:
        return _abstain([doubt, *evidence.faults], numbers)
    likely, offset_mm = probability(model, region, evidence.valid, ct_shows, settings)
    numbers["drawn_offset_mm"] = offset_mm
    uncertainty_mm = max(channel.uncertainty_mm for channel in evidence.channels)
    tissue = known_by_ct(ct, region, ct_shows)
    fat, blind = tissue[MoveCause.FAT], evidence.valid & ~ct_shows
    level = settled_level(likely, fat, blind, region, uncertainty_mm, settings)
    reasons = [f"used: {', '.join(c.name for c in evidence.channels)} and the CT"]
    reasons += [f"the target lies within {name}, which bars nothing" for name in region.context]
    if region.removed_names:
        reasons.append(f"the overlap with {', '.join(region.removed_names)} was removed")
    reasons += evidence.faults
    learned = _learned(model, offset_mm)
    answer = _answer(target, region, level, tissue, [*reasons, *learned], dict(numbers), settings)
    unnamed = sum(c.removed_cm3 for c in answer.changes if c.cause is MoveCause.OTHER_TISSUE)
    share = unnamed / target.volume_cm3
    if share > settings.max_unnamed_share:
        reasons[0] = (
            f"{100 * share:.0f} % of the target look neither like its core nor like anything with "
            f"a name, more than {100 * settings.max_unnamed_share:.0f} %: the MR moves no contour"
        )
        level = drawn_level(as_contoured, settings)
        answer = _answer(target, as_contoured, level, {}, reasons, numbers, settings)
    answer = replace(
        answer,
        probability=_field(likely, region),
        found={each.name: _whole(each.inside, target, region) for each in found},
    )
    if answer.refined is None:
        return answer
    sure = confidence(level > 0, likely, region, uncertainty_mm)
    return replace(answer, confidence=sure)


def _learned(model: Model, offset_mm: float) -> list[str]:
    """Return what the case itself taught beyond the look of the target's core."""
    learned = []
    if model.rim is not None:
        learned.append("the target has a rim that does not look like its core: both were learned")
    if offset_mm >= LEAST_TOLD_MM:
        learned.append(
            f"the images put the border {offset_mm:.1f} mm within the drawn contour in the mean: "
            "it is expected there also where they do not show it"
        )
    return learned


def _doubt(
    model: Model,
    region: Region,
    places: dict[str, Bools],
    evidence: Evidence,
    numbers: dict[str, float],
    settings: RefinementSettings,
) -> str:
    """Return why the MR does not tell the target from its surroundings; put down the figures."""
    told_apart = separation(evidence, region, places, settings)
    if told_apart is None:
        return (
            f"the target's core has only {int(region.core.sum())} voxels: too small for the "
            "resolution to prove that the MR tells it from its surroundings"
        )
    numbers["separation"] = told_apart
    if told_apart < settings.min_separation:
        return (
            f"the MR hardly tells the target from its surroundings: {told_apart:.2f} of 1, needed "
            f"are {settings.min_separation:.2f} (0.5 is chance)"
        )
    numbers["core_agreement"] = agreement(model, region)
    if numbers["core_agreement"] < settings.min_core_agreement:
        return (
            f"only {100 * numbers['core_agreement']:.0f} % of the target's core look like the "
            f"target, fewer than {100 * settings.min_core_agreement:.0f} %"
        )
    return ""


def _found(
    region: Region, ct: Image, evidence: Evidence, settings: RefinementSettings
) -> tuple[FoundStructure, ...]:
    if not settings.finds_structures:
        return ()
    return find_structures(region, ct, evidence.channels, evidence.valid, settings)


def _whole(inside: Bools, target: Mask, region: Region) -> Mask:
    full = np.zeros(target.geometry.shape, dtype=bool)
    full[region.block] = inside
    return Mask(target.geometry, full)


def _field(values: npt.NDArray[np.floating], region: Region) -> VoxelField:
    return VoxelField(region.geometry, region.start, values.astype(np.float32))


def _answer(
    target: Mask,
    region: Region,
    level: npt.NDArray[np.float64],
    tissue: Mapping[MoveCause, Bools],
    reasons: Sequence[str],
    numbers: dict[str, float],
    settings: RefinementSettings,
) -> Refinement:
    """Return the refinement, or an abstention if it is implausible or changes nothing."""
    inside = level > 0
    ratio = int(inside.sum()) / int(region.drawn.sum())
    numbers |= {
        "refined_cm3": int(inside.sum()) * region.voxel_cm3,
        "removed_cm3": int((region.drawn & ~inside).sum()) * region.voxel_cm3,
        "added_cm3": int((inside & ~region.drawn).sum()) * region.voxel_cm3,
        "volume_ratio": ratio,
    }
    if not settings.min_volume_ratio <= ratio <= settings.max_volume_ratio:
        reason = (
            f"the result would have {ratio:.2f} times the drawn volume, outside "
            f"{settings.min_volume_ratio:.2f} to {settings.max_volume_ratio:.2f}"
        )
        return _abstain([reason, *reasons], numbers)
    if np.array_equal(inside, region.drawn):
        return _abstain(["nothing differs from the drawn contour", *reasons], numbers)
    why = reasons_of(inside, region, tissue)
    return Refinement(
        TargetStatus.REFINED,
        _whole(inside, target, region),
        tuple(reasons),
        numbers,
        level=_field(level, region),
        moves=surface_moves(inside, why, region),
        changes=volume_changes(why, region),
    )
