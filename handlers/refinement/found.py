"""Structures around a target that nobody contoured and that are no target: found by themselves.

Vessels with contrast or with a flow void, bile duct and fluid, gas and bowel lumen, fat. What is
found may be taken from a target, so each class needs evidence of its own that no node gives, and
gives nothing without it: a vessel is a tube *and* brighter than all soft tissue on CT, or shown by
two MR contrasts; fluid is brighter than fat and target on T2 and as dark as water on CT. What looks
like the target on two kinds of MR is never taken.

Deliberately not done here: nothing is named as an organ, nothing is learned from other patients,
no liver is assumed. Vessels at a bone, or thinner than the voxels, are not found, nor are walls of
bowel; whatever lies within the target alone (necrosis, calcium) is left to it.

Read first: Sato et al. 1998 (see `handlers.refinement.tubes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.refinement.alignment import GAS_HU
from handlers.refinement.evidence import FAT_HU, Channel
from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings
from handlers.refinement.surroundings import Surroundings, look_around
from handlers.refinement.vessels import MAX_SHARE_INSIDE, find_vessels
from handlers.results import MoveCause
from handlers.roi_names import matches
from handlers.values import Image

Bools = npt.NDArray[np.bool_]

DOUBT_PER_IMAGE = 0.6
"""Share of the remaining doubt that one image takes away if it shows a structure plainly."""

FLUID_HU = (-40.0, 45.0)
ORAL_HU = 110.0
"""Contrast agent in the bowel; blood as bright would be no brighter than fat on T2."""
FAT_SPREADS = 1.5
"""So far above the median of fat on T2, in its upper spreads, fat is rare."""
FLUID_RATIO = 1.15
"""Fluid's height on T2 over that of fat and target, both above the darkest of the image."""
FLUID_RATIO_T2_ALONE = 1.3
"""Likewise where no diffusion can confirm it: the fat about an inflammation is bright, too."""
FLUID_RIM_MM = 2.0
WATER_HU = -15.0
"""Least median of a duct, which the fat around it may darken; hazy fat is darker."""
MIN_FLUID_CM3 = 0.1
LUMEN_MM = 5.0
"""Fluid so close to gas is the lumen of bowel or stomach."""

GAS_RIM_MM = 2.0
GAS_RIM_HU = -60.0
MIN_GAS_CM3 = 0.02
LUNG_HU = -900.0
LUNG_CM3 = 30.0
"""A body of gas as large and no darker is lung."""
CELL_PIXELS = 4
"""The air around the patient is told in cells of so many pixels: no thin wall is passed."""

SMEAR_MM = 4.0
"""So near to gas the CT may be too dark: what the MR shows as target there is not fat."""
MIN_FAT_CM3 = 0.1
FATTY_CORE = 0.05
"""Where more of the core than this is fat, fat is part of the target."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundStructure:
    """A structure that nobody contoured.

    Attributes:
        name: Proposed ROI name; the ending tells which image showed it.
        cause: What it means for a target's surface.
        inside: Its voxels, shape of the region.
        confidence: 0 to 1, not calibrated: how much of the possible evidence there was.
    """

    name: str
    cause: MoveCause
    inside: Bools
    confidence: float


def find_structures(
    region: Region,
    ct: Image,
    channels: Sequence[Channel],
    valid: Bools,
    settings: RefinementSettings,
) -> tuple[FoundStructure, ...]:
    """Return what is found around a target, at most one structure of each kind.

    Structures do not overlap each other, and end `shell_mm` from the target. What lies in a
    contoured vessel, duct or hollow organ is not found again.

    Args:
        region: The target and its surroundings.
        ct: The planning CT, with or without contrast.
        channels: MR channels over the region; may be none.
        valid: Voxels that all channels cover, shape of the region.
        settings: How far around the target is looked, and which contours bar it.

    Returns:
        Empty where there is no sound evidence of anything.
    """
    scene = look_around(region, ct, channels, valid, settings)
    gas = _gas(scene, ct)
    duct, lumen = _fluids(scene, gas.inside)
    taken = gas.inside | duct.inside | lumen.inside
    vessels = _vessels(scene, taken)
    fat = _fat(scene, taken | vessels.inside)
    wanted = scene.near.copy()
    for name, inside in region.structures.items():
        if matches(name, settings.exclude_patterns):
            wanted &= ~inside
    kept = [
        FoundStructure(each.name, each.cause, each.inside & wanted, each.confidence)
        for each in (vessels, duct, lumen, gas, fat)
    ]
    return tuple(each for each in kept if each.inside.any())


def _vessels(scene: Surroundings, taken: Bools) -> FoundStructure:
    inside, shown = find_vessels(scene, taken)
    doubt = float(np.prod([1 - DOUBT_PER_IMAGE * share for share in shown.values()]))
    by_ct = shown and max(shown, key=lambda name: shown[name]) == "CT"
    name = "zVessel_CT" if by_ct else "zVessel_MR"
    return FoundStructure(name, MoveCause.VESSEL, inside, 1 - doubt)


def _gas(scene: Surroundings, ct: Image) -> FoundStructure:
    """Return gas within the body with its blurred rim.

    Gas moves: where the MR shows the target in its place, it is not taken.
    """
    gas = scene.raw_hu < GAS_HU
    gas &= ~_outside(scene, ct, gas)
    pieces = scene.pieces(gas)
    sizes = pieces.cm3()
    is_lung = (sizes >= LUNG_CM3) & (pieces.median(scene.raw_hu) > LUNG_HU)
    gas = pieces.only((sizes >= MIN_GAS_CM3) & ~is_lung)
    rim = scene.within_mm(gas, GAS_RIM_MM) & (scene.raw_hu < GAS_RIM_HU)
    inside = gas | rim
    inside &= ~scene.like_target(inside, is_doubt_enough=True)
    darkness = -float(np.mean(scene.raw_hu[gas])) / 1000.0 if gas.any() else 0.0
    return FoundStructure("zGas_CT", MoveCause.GAS, inside, min(darkness, 1.0))


def _outside(scene: Surroundings, ct: Image, gas: Bools) -> Bools:
    """Return the gas of the region that is joined to the rim of the CT's slices."""
    slices, rows, columns = scene.region.block
    if not gas.any():
        return gas
    densest = ct.voxels[slices]
    for axis, size in ((1, ct.geometry.shape[1]), (2, ct.geometry.shape[2])):
        densest = np.maximum.reduceat(densest, np.arange(0, size, CELL_PIXELS), axis=axis)
    labels, _ = ndimage.label(densest < GAS_HU)
    rims = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    at_rim = np.unique(np.concatenate([rim.ravel() for rim in rims]))
    open_air = np.isin(labels, at_rim[at_rim > 0])
    at = np.ix_(
        np.arange(open_air.shape[0]),
        np.arange(rows.start, rows.stop) // CELL_PIXELS,
        np.arange(columns.start, columns.stop) // CELL_PIXELS,
    )
    pieces, count = ndimage.label(gas)  # not over corners: walls may be thin
    is_open = np.isin(np.arange(count + 1), pieces[open_air[at] & gas])
    return np.asarray(is_open[pieces] & gas)


def _fluids(scene: Surroundings, gas: Bools) -> tuple[FoundStructure, FoundStructure]:
    """Return duct and other fluid, and the lumen of bowel: what of it lies at gas or is opaque."""
    nothing = np.zeros_like(gas)
    empty = (
        FoundStructure("zDuct_MR", MoveCause.DUCT, nothing, 0.0),
        FoundStructure("zBowel_MR", MoveCause.BOWEL, nothing, 0.0),
    )
    if "T2" not in scene.mr:
        return empty
    hu = scene.ct.values
    is_water = (hu >= FLUID_HU[0]) & (hu <= FLUID_HU[1])
    plain, bright = _bright_on_t2(scene)
    bright &= scene.within_mm(plain, FLUID_RIM_MM)
    bright &= (is_water | (hu >= ORAL_HU)) & ~gas & ~scene.bone
    bright &= ~scene.like_target(bright)
    if "DWI" in scene.mr:
        dwi = scene.mr["DWI"]
        bright &= dwi.values < dwi.target - dwi.spread
    pieces = scene.pieces(bright)
    median_hu = pieces.median(hu)
    sizes = pieces.cm3()
    inside_share = pieces.cm3(within=scene.region.drawn) / np.maximum(sizes, 1e-9)
    wanted = (sizes >= MIN_FLUID_CM3) & (inside_share <= MAX_SHARE_INSIDE)
    wanted &= (pieces.cm3(within=scene.region.core) == 0) & (median_hu >= WATER_HU)
    wanted &= pieces.cm3(within=plain) >= MIN_FLUID_CM3
    if "ADC" in scene.mr:
        adc = scene.mr["ADC"]
        wanted &= pieces.median(adc.values) > adc.target + adc.spread
    at_gas = pieces.cm3(within=scene.within_mm(gas, LUMEN_MM)) > 0
    is_lumen = at_gas | (median_hu >= ORAL_HU)
    voices = 1 + sum(name in scene.mr for name in ("ADC", "DWI"))
    confidence = 1 - (1 - DOUBT_PER_IMAGE) ** voices
    duct, lumen = pieces.only(wanted & ~is_lumen), pieces.only(wanted & is_lumen)
    return (
        FoundStructure("zDuct_MR", MoveCause.DUCT, duct, confidence),
        FoundStructure("zBowel_MR", MoveCause.BOWEL, lumen, confidence),
    )


def _bright_on_t2(scene: Surroundings) -> tuple[Bools, Bools]:
    """Return what is plainly brighter on T2 than target and fat, and what is at least as bright."""
    t2 = scene.mr["T2"]
    known = scene.near & scene.valid
    fat = known & (scene.ct.values >= FAT_HU[0]) & (scene.ct.values <= FAT_HU[1])
    brightest = t2.target + t2.spread
    if np.count_nonzero(fat) * scene.region.voxel_cm3 >= MIN_FAT_CM3:
        usual, bright = np.percentile(t2.values[fat], (50, 84))
        brightest = max(brightest, float(usual + FAT_SPREADS * (bright - usual)))
    darkest = float(np.percentile(t2.values[known], 1)) if known.any() else brightest
    ratio = FLUID_RATIO if {"ADC", "DWI"} & set(scene.mr) else FLUID_RATIO_T2_ALONE
    plain = scene.valid & (t2.values > darkest + ratio * (brightest - darkest))
    return plain, scene.valid & (t2.values > brightest)


def _fat(scene: Surroundings, taken: Bools) -> FoundStructure:
    """Return fat by its HU; none of the target's own where the target is fatty itself."""
    hu = scene.ct.values
    fat = (hu >= FAT_HU[0]) & (hu <= FAT_HU[1]) & ~taken
    fat &= ~scene.like_target(fat & scene.within_mm(scene.raw_hu < GAS_HU, SMEAR_MM))
    core = scene.region.core
    pieces = scene.pieces(fat)
    sizes = pieces.cm3()
    is_own = pieces.cm3(within=scene.region.drawn) >= sizes
    fat = pieces.only((sizes >= MIN_FAT_CM3) & ~is_own)
    if np.count_nonzero(fat & core) > FATTY_CORE * np.count_nonzero(core):
        fat &= ~scene.region.drawn
    fat &= ~core
    plain = (scene.raw_hu >= FAT_HU[0]) & (scene.raw_hu <= FAT_HU[1])
    confidence = float(plain[fat].mean()) if fat.any() else 0.0
    return FoundStructure("zFat_CT", MoveCause.FAT, fat, confidence)
