"""The engine that compares structure: self-similarity descriptors, whatever the brightness.

A descriptor tells for twelve pairs of neighbouring patches how alike they are, so it sees edges and
texture and no grey value. It fails on other images than mutual information does: on the seven
sarcoma pairs with a good reference both end 0.9 to 4.0 mm apart around the target, on the three
hard ones 5.2 to 6.5 mm.

Read first: Heinrich et al. 2012, Med Image Anal 16:1423-1435; 2013, LNCS 8149:187-194.
"""

from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.climbing import Compared, climb, grid_points
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings

Volume = npt.NDArray[np.float32]

NEIGHBOURS = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
PATCH_SIGMA = 0.8
"""Width, in voxels, of the patches that are compared."""

GAS_HU = -200.0
"""CT darker than this is gas, which moves between two scans; it and its border are left out."""

LEAST_PLANES = 4
"""Fewer planes show no structure."""


def descriptors(voxels: Volume) -> Volume:
    """Return twelve self-similarity channels in 0 to 1, shape (slices, rows, columns, 12)."""
    moved = {n: ndimage.shift(voxels, n, order=0, mode="nearest") for n in NEIGHBOURS}
    pairs = [(a, b) for a, b in combinations(NEIGHBOURS, 2) if np.any(np.add(a, b))]
    channels = np.empty((*voxels.shape, len(pairs)), dtype=np.float32)
    for k, (one, other) in enumerate(pairs):
        difference = (moved[one] - moved[other]) ** 2
        channels[..., k] = ndimage.gaussian_filter(difference, PATCH_SIGMA)
    channels -= channels.min(axis=-1, keepdims=True)
    scale = channels.mean(axis=-1, keepdims=True)
    usual = float(np.median(scale[scale > 0])) if np.any(scale > 0) else 1.0
    channels /= -np.clip(scale, usual * 1e-2, usual * 1e2)
    return np.exp(channels, out=channels)


def climb_structure(
    ct: Prepared,
    mr: Prepared,
    start: RigidTransform,
    centre_mm: Points,
    settings: RegistrationSettings,
    *,
    levels: slice = slice(None),
) -> RigidTransform:
    """Return the pose (from CT to MR) at which structures fit best near `start`; see `climb`."""
    return climb(ct, mr, start, centre_mm, settings, _compared, levels=levels)


def _compared(ct: Prepared, mr: Prepared, pose: RigidTransform, spacing_mm: float) -> Compared:
    lattice = ct.lattice(spacing_mm)
    if min(lattice.shape) < LEAST_PLANES:
        raise RegistrationFailedError("the planning CT is too thin there to show structure")
    points = grid_points(lattice)
    ct_voxels, inside = ct.smoothed(spacing_mm / 2).at(points)
    mr_voxels, seen = mr.smoothed(spacing_mm / 2).at(pose.apply(points))
    gas = ndimage.binary_dilation(ct_voxels.reshape(lattice.shape) < GAS_HU).ravel()
    return Compared(
        lattice,
        np.flatnonzero(inside & seen & ~gas),
        descriptors(ct_voxels.reshape(lattice.shape)).reshape(len(points), -1),
        descriptors(mr_voxels.reshape(lattice.shape)),
        seen.reshape(lattice.shape),
    )
