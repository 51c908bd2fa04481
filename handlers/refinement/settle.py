"""From probabilities to one surface: what the registration does not support stays as drawn.

The answer is a level: a smooth field whose zero is the surface, so that contours follow it between
the voxel centres. Its sign says which voxels are target.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.refinement.region import Region, stays, tidy
from handlers.refinement.settings import RefinementSettings
from handlers.sampling import signed_distance_of_array

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SLOPE_MM = 2.0
"""A level of 1 lies this far within a drawn surface, or from what bars the way."""

SMOOTHING_VOXELS = 0.7
"""Width (sigma), within the slices, of the Gaussian that takes steps from the surface."""

CLEARANCE = 0.02
"""Least size of a level at a voxel centre: the surface runs through no centre."""


def settled_level(
    likely: Floats,
    known: Bools,
    blind: Bools,
    region: Region,
    uncertainty_mm: float,
    settings: RefinementSettings,
) -> Floats:
    """Return the level of the refined surface.

    A change stands where it reaches farther from the drawn contour than the registration's
    uncertainty, and within twice the uncertainty of such a place, so that it joins the drawn
    contour without a step. What the CT alone tells needs no registration. Where the CT shows
    nothing, the contour was drawn blindly: it is no better than a registered MR, and every change
    stands.

    Args:
        likely: How much each voxel belongs to the target, 0 to 1.
        known: Drawn voxels that the CT alone shows to be no target.
        blind: Where gas or metal keeps the CT from showing anything.
        region: The target's surroundings.
        uncertainty_mm: Of the registration.
        settings: For the tidying of pieces.
    """
    new = 2.0 * likely - 1.0
    old = np.clip(-region.distance_mm / SLOPE_MM, -1.0, 1.0)
    changed = (new > 0) != region.drawn
    far = changed & (np.abs(region.distance_mm) > uncertainty_mm)
    trust = np.zeros(new.shape)
    if far.any():
        away_mm = ndimage.distance_transform_edt(~far, sampling=region.geometry.spacing_mm)
        reach_mm = max(uncertainty_mm, 1e-3)
        trust = np.clip(4.0 - 2.0 * away_mm / reach_mm, 0.0, 1.0)
    trust[(known & (new <= 0)) | blind] = 1.0
    return _bounded(trust * new + (1.0 - trust) * old, trust == 0, region, settings)


def drawn_level(region: Region, settings: RefinementSettings) -> Floats:
    """Return the level of the drawn surface without what is removed from it."""
    level = np.clip(-region.distance_mm / SLOPE_MM, -1.0, 1.0)
    return _bounded(level, np.ones(level.shape, dtype=bool), region, settings)


def _bounded(
    level: npt.NDArray[np.floating],
    as_drawn: Bools,
    region: Region,
    settings: RefinementSettings,
) -> Floats:
    """Return a level smoothed within the slices, held to the hard limits, in tidy pieces.

    Voxels `as_drawn` stay on their side of the surface, but for what bars the way.
    """
    smooth = _smooth(level.astype(np.float64))
    within, beyond = as_drawn & region.drawn, as_drawn & ~region.drawn
    smooth[within] = np.maximum(smooth[within], CLEARANCE)
    smooth[beyond] = np.minimum(smooth[beyond], -CLEARANCE)
    smooth = np.minimum(smooth, _distance_to_barred(region))
    smooth[~region.allowed] = np.minimum(smooth[~region.allowed], -CLEARANCE)
    fixed = stays(region, settings)
    smooth[fixed] = np.maximum(smooth[fixed], CLEARANCE)
    inside = smooth > 0
    kept = tidy(inside, region, settings)
    size = np.maximum(np.abs(smooth), CLEARANCE)
    return np.where(kept, size, -size)


def _distance_to_barred(region: Region) -> Floats:
    """Return how far each voxel lies from what may not be target, over `SLOPE_MM`; at most 1."""
    if region.allowed.all():
        return np.ones(region.allowed.shape)
    distance_mm = signed_distance_of_array(~region.allowed, region.geometry.spacing_mm)
    distance = np.minimum(_smooth(distance_mm.astype(np.float64) / SLOPE_MM), 1.0)
    return np.where(region.allowed, np.maximum(distance, CLEARANCE), distance)


def _smooth(values: Floats) -> Floats:
    """Return values smoothed within the slices without moving a curved surface inward."""
    sigma = (0.0, SMOOTHING_VOXELS, SMOOTHING_VOXELS)
    once = ndimage.gaussian_filter(values, sigma, mode="nearest")
    return np.asarray(2.0 * once - ndimage.gaussian_filter(once, sigma, mode="nearest"))
