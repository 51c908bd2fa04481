"""The engine that compares structure: self-similarity descriptors, whatever the brightness.

A descriptor tells for twelve pairs of neighbouring patches how alike they are, so it sees edges and
texture and no grey value. It fails on other images than mutual information does: on the seven
sarcoma pairs with a good reference both end 0.9 to 4.0 mm apart around the target, on the three
hard ones 5.2 to 6.5 mm. Gauss-Newton on seeded points, one thread.

Read first: Heinrich et al. 2012, Med Image Anal 16:1423-1435; 2013, LNCS 8149:187-194.
"""

from itertools import combinations, product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import RegistrationFailedError
from handlers.geometry import Geometry, Points, RigidTransform
from handlers.registration.consensus import moved_by
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings

Volume = npt.NDArray[np.float32]

NEIGHBOURS = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
PATCH_SIGMA = 0.8
"""Width, in voxels, of the patches that are compared."""

GAS_HU = -200.0
"""CT darker than this is gas, which moves between two scans; it and its border are left out."""

CT_MARGIN_MM = 15.0
"""CT compared around the MR's extent."""

OUTLIER = 1.5
"""Points whose descriptors differ by more than this times the median count less."""

STEPS = 25
LEAST_STEP_MM = 0.02
LEAST_STEP_DEG = 0.02
"""Most Gauss-Newton steps on a level, and the step at which it ends."""

LEAST_POINTS = 1000
LEAST_PLANES = 4
"""Fewer points, or planes, show no structure."""


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
    """Return the pose (from CT to MR) at which structures fit best near `start`.

    Args:
        ct: The planning CT.
        mr: The MR.
        start: Where to begin.
        centre_mm: The middle of what is compared, LPS mm in the CT frame.
        settings: Reach, grids, number of points, seed.
        levels: Which of `settings.structure_spacings_mm` to climb.

    Raises:
        RegistrationFailedError: The images do not overlap enough, or show no structure.
    """
    near = ct.cropped(np.reshape(centre_mm, (1, 3)), settings.structure_reach_mm)
    pose = start
    for spacing_mm in settings.structure_spacings_mm[levels]:
        pose = _climbed(near, mr, pose, centre_mm, spacing_mm, settings)
    return pose


def _climbed(
    ct: Prepared,
    mr: Prepared,
    pose: RigidTransform,
    centre_mm: Points,
    spacing_mm: float,
    settings: RegistrationSettings,
) -> RigidTransform:
    near = ct.cropped(pose.inverse().apply(mr.geometry.corners_mm()), CT_MARGIN_MM)
    lattice = near.lattice(spacing_mm)
    if min(lattice.shape) < LEAST_PLANES:
        raise RegistrationFailedError("the planning CT is too thin there to show structure")
    points = lattice.points_from_indices(np.indices(lattice.shape).reshape(3, -1).T)
    ct_voxels, inside = near.smoothed(spacing_mm / 2).at(points)
    mr_voxels, seen = mr.smoothed(spacing_mm / 2).at(pose.apply(points))
    gas = ndimage.binary_dilation(ct_voxels.reshape(lattice.shape) < GAS_HU).ravel()
    usable = np.flatnonzero(inside & seen & ~gas)
    if len(usable) < LEAST_POINTS:
        raise RegistrationFailedError("the images overlap too little to be compared")
    random = np.random.default_rng(settings.seed)
    chosen = random.permutation(usable)[: settings.structure_points]
    wanted = descriptors(ct_voxels.reshape(lattice.shape)).reshape(-1, 12)[chosen]
    offered = descriptors(mr_voxels.reshape(lattice.shape))
    is_seen = ndimage.binary_erosion(seen.reshape(lattice.shape))
    step = best_motion(lattice, points[chosen], wanted, offered, is_seen, np.asarray(centre_mm))
    return pose @ RigidTransform(step, pose.from_frame_uid, pose.from_frame_uid)


def best_motion(
    lattice: Geometry,
    points: Points,
    wanted: Volume,
    offered: Volume,
    is_seen: npt.NDArray[np.bool_],
    centre_mm: Points,
) -> npt.NDArray[np.float64]:
    """Return the motion (4 x 4) of the points that brings what is offered to what is wanted.

    Args:
        lattice: On which `offered` and `is_seen` are given.
        points: Points of the lattice's frame, LPS mm, shape (n, 3).
        wanted: Channels at the points, shape (n, channels).
        offered: Channels on the lattice, shape (slices, rows, columns, channels).
        is_seen: Where something is offered.
        centre_mm: About what turns are counted.

    Raises:
        RegistrationFailedError: What is offered is the same everywhere.
    """
    frame = lattice.frame_of_reference_uid
    motion = RigidTransform(np.eye(4), frame, frame)
    for _ in range(STEPS):
        there = motion.apply(points)
        found, slopes, weights = _interpolated(lattice, there, offered, is_seen)
        residuals = found - wanted
        lengths = np.sqrt(np.mean(residuals**2, axis=1))
        usual = OUTLIER * float(np.median(lengths)) or 1.0
        weights = weights * np.minimum(1.0, usual / np.maximum(lengths, 1e-6))
        normal, drive = np.zeros((6, 6)), np.zeros(6)
        arms = there - centre_mm
        for channel in range(wanted.shape[1]):
            slope = slopes[:, channel]
            jacobian = np.concatenate([np.cross(arms, slope), slope], axis=1)
            weighted = jacobian * weights[:, None]
            normal += weighted.T @ jacobian
            drive += weighted.T @ residuals[:, channel]
        if not np.trace(normal) > 0:
            raise RegistrationFailedError("the image shows no structure")
        step = -np.linalg.solve(normal + 1e-6 * np.trace(normal) * np.eye(6), drive)
        parameters = np.concatenate([np.rad2deg(step[:3]), step[3:]])
        motion = moved_by(RigidTransform(np.eye(4), frame, frame), parameters, centre_mm) @ motion
        if (
            np.abs(parameters[:3]).max() < LEAST_STEP_DEG
            and np.abs(parameters[3:]).max() < LEAST_STEP_MM
        ):
            break
    return motion.matrix


def _interpolated(
    lattice: Geometry, points: Points, volume: Volume, is_seen: npt.NDArray[np.bool_]
) -> tuple[Volume, Volume, npt.NDArray[np.float64]]:
    """Return trilinear values (n, channels), slopes per mm (n, channels, 3: x y z), and weights.

    Slopes are those of the nearest voxel over its neighbours: they reach farther than the exact
    slope between two voxels. The weight of a point beyond the lattice, or where the MR shows
    nothing, is zero.
    """
    at = lattice.indices_from_points(points)
    last = np.array(lattice.shape) - 1
    inside = np.all((at >= 0) & (at < last), axis=1)
    at = np.clip(at, 0, last - 1e-6)
    low = at.astype(np.int64)
    part = (at - low).astype(np.float32)
    values = np.zeros((len(at), volume.shape[-1]), dtype=np.float32)
    for corner in product((0, 1), repeat=3):
        shares = np.where(np.array(corner) == 1, part, 1 - part).prod(axis=1)
        values += shares[:, None] * volume[tuple((low + corner).T)]
    nearest = np.rint(at).astype(np.int64)
    slopes = np.empty((len(at), volume.shape[-1], 3), dtype=np.float32)
    for axis in range(3):
        step = np.eye(3, dtype=np.int64)[axis]
        after = np.clip(nearest + step, 0, last)
        before = np.clip(nearest - step, 0, last)
        width_mm = lattice.spacing_mm[axis] * 2
        rise = volume[tuple(after.T)] - volume[tuple(before.T)]
        slopes[..., 2 - axis] = rise / np.float32(width_mm)
    weights = (inside & is_seen[tuple(nearest.T)]).astype(np.float64)
    return values, slopes, weights
