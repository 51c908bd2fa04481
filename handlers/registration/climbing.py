"""Climbs to the pose at which two images agree, in the eyes of whoever says what is compared.

Gauss-Newton steps on seeded points, from coarse grids to fine ones; one thread. What is compared
(`structure`, `bone`) is a function from two images and a pose to channels on a grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import RegistrationFailedError
from handlers.geometry import Geometry, Points, RigidTransform
from handlers.registration.consensus import moved_by
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings

Volume = npt.NDArray[np.float32]

CT_MARGIN_MM = 15.0
"""CT compared around the extent of the other image."""

OUTLIER = 1.5
"""Points that differ by more than this times the median count less."""

STEPS = 25
LEAST_STEP_MM = 0.02
LEAST_STEP_DEG = 0.02
"""Most Gauss-Newton steps on a level, and the step at which it ends."""

LEAST_POINTS = 1000
"""Fewer points are no overlap."""


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Two images on one grid, the moving one brought there by a pose.

    Attributes:
        lattice: The grid, in the frame of the planning CT.
        usable: Which of its points may be compared, as flat indices.
        wanted: Channels of the planning CT at all points, shape (n, channels).
        offered: Channels of the moving image, shape (slices, rows, columns, channels).
        is_seen: Where the moving image shows something, shape (slices, rows, columns).
    """

    lattice: Geometry
    usable: npt.NDArray[np.int64]
    wanted: Volume
    offered: Volume
    is_seen: npt.NDArray[np.bool_]


Compare = Callable[[Prepared, Prepared, RigidTransform, float], Compared]
"""From planning CT, moving image, pose (from CT to the moving image) and grid spacing in mm."""


def climb(
    ct: Prepared,
    moving: Prepared,
    start: RigidTransform,
    centre_mm: Points,
    settings: RegistrationSettings,
    compare: Compare,
    *,
    levels: slice = slice(None),
) -> RigidTransform:
    """Return the pose (from CT to the moving image) near `start` at which they agree best.

    Args:
        ct: The planning CT.
        moving: The other image.
        start: Where to begin.
        centre_mm: The middle of what is compared, LPS mm in the CT frame.
        settings: Reach, grids, number of points, seed.
        compare: What is compared.
        levels: Which of `settings.structure_spacings_mm` to climb.

    Raises:
        RegistrationFailedError: The images do not overlap enough, or show nothing to go by.
    """
    near = ct.cropped(np.reshape(centre_mm, (1, 3)), settings.structure_reach_mm)
    pose = start
    for spacing_mm in settings.structure_spacings_mm[levels]:
        shown = near.cropped(pose.inverse().apply(moving.geometry.corners_mm()), CT_MARGIN_MM)
        compared = compare(shown, moving, pose, spacing_mm)
        if len(compared.usable) < LEAST_POINTS:
            raise RegistrationFailedError("the images overlap too little to be compared")
        random = np.random.default_rng(settings.seed)
        chosen = random.permutation(compared.usable)[: settings.structure_points]
        step = _best_motion(compared, chosen, np.asarray(centre_mm))
        pose = pose @ RigidTransform(step, pose.from_frame_uid, pose.from_frame_uid)
    return pose


def grid_points(lattice: Geometry) -> Points:
    """Return the points of a grid, LPS mm, shape (n, 3), slices slowest."""
    return lattice.points_from_indices(np.indices(lattice.shape).reshape(3, -1).T)


def _best_motion(
    compared: Compared, chosen: npt.NDArray[np.int64], centre_mm: Points
) -> npt.NDArray[np.float64]:
    """Return the motion (4 x 4) of the chosen points to where what is wanted is offered."""
    lattice, wanted = compared.lattice, compared.wanted[chosen]
    points = grid_points(lattice)[chosen]
    is_seen = ndimage.binary_erosion(compared.is_seen)
    frame = lattice.frame_of_reference_uid
    motion = RigidTransform(np.eye(4), frame, frame)
    for _ in range(STEPS):
        there = motion.apply(points)
        found, slopes, weights = _interpolated(lattice, there, compared.offered, is_seen)
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
        each = np.where(np.array(corner) == 1, part, 1 - part)
        shares = each[:, 0] * each[:, 1] * each[:, 2]
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
