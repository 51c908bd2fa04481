"""How the drawn contour is believed: as a border that was drawn with an error.

One part of the error is the same all around: planners draw generously. It is estimated from the
case itself: where the images put the border farther in nearly everywhere, it is expected there also
where they say nothing. The opposite is not done: what nothing shows is never grown into. Knows no
image, only what the looks of voxels are worth.

Read first: Casella 1985, The American Statistician 39:83-87 (empirical Bayes).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

UNSEEN_ERROR = 10.0
"""So much larger is the error of a contour where gas or metal hides what is drawn."""

OFFSET_STEP_MM = 0.25


def drawn_log_odds(
    region: Region, ct_shows: Bools, offset_mm: float, settings: RefinementSettings
) -> Array:
    """Return log p(target) - log p(not) by the drawn contour alone, shape of the region.

    Args:
        region: The target and its surroundings.
        ct_shows: Where the CT shows what lies there: what was drawn blindly is believed less, and
            has no offset.
        offset_mm: How far within the drawn contour the border is expected.
        settings: Tell the error that is left.
    """
    error_mm = np.where(ct_shows, 1.0, UNSEEN_ERROR) * settings.drawn_error_mm
    outside_mm = region.distance_mm.astype(np.float64) + np.where(ct_shows, offset_mm, 0.0)
    outside = outside_mm / error_mm
    return np.asarray(log_ndtr(-outside) - log_ndtr(outside))


def drawn_offset_mm(
    odds: Array, where: Bools, region: Region, settings: RefinementSettings
) -> float:
    """Return how far within the drawn contour the images put the border, in the mean.

    It is the offset under which the looks of the voxels are likeliest. Those that say nothing
    (log-odds of 0) have no part in it. As more voxels lie outside of a border than within, it
    comes out some half a millimetre too large, which the error that is left (3 mm) hardly feels.

    Args:
        odds: Log-odds of the look of each voxel, shape of the region.
        where: Voxels that count: those that may change and that CT and MR show.
        region: The target and its surroundings.
        settings: Tell the error that is left, and the largest offset.

    Returns:
        Millimetres, 0 to `max_drawn_offset_mm`; 0 without any voxel.
    """
    looks, distance_mm = odds[where], region.distance_mm[where].astype(np.float64)
    offsets = np.arange(0.0, settings.max_drawn_offset_mm + OFFSET_STEP_MM / 2, OFFSET_STEP_MM)
    support = [round(_support(looks, distance_mm, each, settings), 6) for each in offsets.tolist()]
    return float(offsets[int(np.argmax(support))])


def _support(
    looks: Array, distance_mm: Array, offset_mm: float, settings: RefinementSettings
) -> float:
    outside = (distance_mm + offset_mm) / settings.drawn_error_mm
    return float(np.logaddexp(log_ndtr(-outside) + looks, log_ndtr(outside)).sum())
