"""The living rim of a node whose core has died: a second look of the target.

The target's look is learned from its core. Where the core has died, the rim looks otherwise: unlike
the core, unlike all that lies near, and like no blend of the two (a voxel that holds a little of
both is no tissue of its own). Where the drawn target holds enough of it, all around the core, its
look is learned, too. Ordinary targets have next to nothing of the kind: 0.4 % each of two drawn on
phantoms, on one side; of two whose core had died it was 12 and 38 %, all around.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from handlers.refinement.appearance import Look, fit_look
from handlers.refinement.evidence import Background, presence
from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

OWN_LOOK_SCALES = 3.0
"""So many scales of a class from every blend of it with the core, in some channel, a voxel is of
neither tissue."""

UNLIKE_CORE_SCALES = 3.0
"""So many scales from the core's look, in some channel, a voxel does not look like the core."""

LEAST_SHARE = 0.05
"""Of the drawn target: less is no rim."""

LEAST_OCTANTS = 6
"""Of the eight about the core's middle: what lies on one side only is a neighbour."""

LEAST_PRESENCE = 0.1
"""Share of the surroundings near a voxel that a class must make up to count there."""

OCTANT_SHARE = 0.03
"""So much of the rim an octant must hold to count."""


def rim_look(
    samples: Array,
    weights: Array,
    core_looks: Sequence[Look],
    background: Background,
    region: Region,
    valid: Bools,
    settings: RefinementSettings,
) -> Look | None:
    """Return the look of the living rim, or None where there is no sign of one.

    Args:
        samples: Channels over the region, (..., d); `weights` likewise.
        weights: How much each channel counts.
        core_looks: The modes of the target's core.
        background: The classes of the surroundings.
        region: The target.
        valid: Voxels that all channels cover.
        settings: For the fit.
    """
    around = region.drawn & region.allowed & ~region.core & valid
    if not background or not settings.learns_rim or not around.any():
        return None
    values, voices = samples[around], weights[around]
    near = presence(background, around, region, settings) >= LEAST_PRESENCE
    near |= ~near.any(axis=0)  # of many classes none may stand out: then all count
    own = np.full(len(values), np.inf)
    for (tissue, _), is_near in zip(background.values(), near, strict=True):
        for core in core_looks:
            beyond = _beyond_blends(values, voices, tissue, core)
            own = np.where(is_near, np.minimum(own, beyond), own)
    unlike = [
        np.where(voices > 0, np.abs(values - core.centre) / core.scale, 0.0).max(axis=1)
        for core in core_looks
    ]
    rim = np.zeros_like(around)
    rim[around] = (own > OWN_LOOK_SCALES) & (np.min(unlike, axis=0) > UNLIKE_CORE_SCALES)
    if rim.sum() < LEAST_SHARE * region.drawn.sum() or not _is_all_around(rim, region):
        return None
    return fit_look(samples[rim], settings)


def _beyond_blends(values: Array, voices: Array, tissue: Look, core: Look) -> Array:
    """Return how far voxels (n, d) lie from all between two looks, in scales of the tissue."""
    low, high = np.minimum(tissue.centre, core.centre), np.maximum(tissue.centre, core.centre)
    beyond = np.maximum(low - values, values - high) / tissue.scale
    return np.asarray(np.where(voices > 0, beyond, 0.0).max(axis=1))


def _is_all_around(rim: Bools, region: Region) -> bool:
    middle = np.argwhere(region.core).mean(axis=0)
    octants = (np.argwhere(rim) >= middle) @ np.array([4, 2, 1])
    shares = np.bincount(octants, minlength=8) / rim.sum()
    return int((shares >= OCTANT_SHARE).sum()) >= LEAST_OCTANTS
