"""Two CT made comparable though the grey values of one mean nothing: what stands out from around.

A cone beam's values are off by hundreds of HU, differently in the middle than at the rim (scatter,
a body wider than what is seen), and it may show a cylinder within the body. Such faults change
slowly from place to place; borders and bones do not. So of both CT the mean of the surroundings is
taken away, and what is compared is what remains. Moves nothing.

Bones do not bend and are seen by every CT however noisy, so they say how the patient lay; they say
nothing of organs that breathe. What looks around the target therefore leaves them out.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.registration.prepare import Prepared

Bools = npt.NDArray[np.bool_]

SURROUNDINGS_MM = 15.0
"""Width (sigma) of the surroundings whose mean is taken away: about half a vertebra."""

RIM_MM = 6.0
"""Outermost of what a cone beam shows: its reconstruction ends in a bright ring."""

AIR_RIM_MM = 8.0
"""How much of the air around the body the planning CT is compared in, to show its outline."""

BONE_HU = 180.0
"""CT brighter than this is bone, or filled with contrast agent."""

NEAR_BONE_MM = 6.0
"""How far around bone the second engine looks, and the measures around the target do not."""

GAS_HU = -200.0
"""CT darker than this is gas, which moves between two scans."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The planning CT as each part of the registration is to see it.

    Attributes:
        whole: By the search, the engine on brightness and the judgement.
        second: By the second engine.
        around: By the measures around the target.
    """

    whole: Prepared
    second: Prepared
    around: Prepared


def views_for_ct(ct: Prepared) -> Views:
    """Return the planning CT (in HU, bounded) as it is to be compared with a levelled other CT."""
    outside_mm = _distances_mm(~ct.body, ct)
    whole = levelled(ct, ct.valid & (outside_mm <= AIR_RIM_MM))
    bone = ndimage.binary_opening(ct.body & (ct.voxels > BONE_HU))
    near_bone = _distances_mm(~bone, ct) <= NEAR_BONE_MM
    gas = ndimage.binary_dilation(ct.body & (ct.voxels < GAS_HU))
    second = replace(whole, valid=whole.valid & near_bone)
    around = replace(whole, valid=whole.valid & ~near_bone & ~gas)
    return Views(whole, second, around)


def levelled_moving(other: Prepared) -> Prepared:
    """Return another CT levelled, without the rim of what it shows, cut to what is left."""
    inner = _distances_mm(np.pad(other.valid, 1), other)[1:-1, 1:-1, 1:-1] > RIM_MM
    made = levelled(other, inner)
    shown = np.argwhere(inner)
    return made.cropped(made.geometry.points_from_indices(shown), 0.0) if len(shown) else made


def levelled(volume: Prepared, valid: Bools) -> Prepared:
    """Return what stands out from the mean of its surroundings, as far as these are data.

    Args:
        volume: Grey values in any unit.
        valid: The voxels that are to count as data in the result.
    """
    sigma = [SURROUNDINGS_MM / s for s in volume.geometry.spacing_mm]

    def spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(ndimage.gaussian_filter(values, sigma, truncate=3.0, mode="constant"))

    known = volume.valid.astype(np.float32)
    around = spread(volume.voxels * known) / np.maximum(spread(known), 1e-3)
    voxels = np.asarray((volume.voxels - around) * valid, dtype=np.float32)
    return Prepared(volume.geometry, voxels, valid, volume.body & valid, is_levelled=True)


def _distances_mm(inside: Bools, like: Prepared) -> npt.NDArray[np.float32]:
    """Return each voxel's distance to the nearest one that is not inside; without such: far."""
    if inside.all():
        return np.full(inside.shape, np.inf, dtype=np.float32)
    distances = ndimage.distance_transform_edt(inside, sampling=like.geometry.spacing_mm)
    return np.asarray(distances, dtype=np.float32)
