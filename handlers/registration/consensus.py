"""Poses compared and averaged at the target. Never looks at an image."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from handlers.geometry import Points, RigidTransform


def box_corners(centre_mm: npt.ArrayLike, half_mm: float) -> Points:
    """Return the eight corners, shape (8, 3), LPS mm, of the cube around a point."""
    corners = np.array(list(product((-1.0, 1.0), repeat=3)))
    return np.asarray(np.asarray(centre_mm, dtype=np.float64) + half_mm * corners)


def mean_pose(poses: Sequence[RigidTransform], centre_mm: Points) -> RigidTransform:
    """Return the pose amid several: mean place of the centre, and the rotation nearest to the mean.

    Args:
        poses: One at least, all between the same frames.
        centre_mm: Where the mean is taken, LPS mm in the frame in which the poses begin.
    """
    left, _, right = np.linalg.svd(sum(pose.matrix[:3, :3] for pose in poses))
    matrix = np.eye(4)
    matrix[:3, :3] = left @ right
    place = np.mean([pose.apply(centre_mm)[0] for pose in poses], axis=0)
    matrix[:3, 3] = place - matrix[:3, :3] @ np.asarray(centre_mm)
    return RigidTransform(matrix, poses[0].to_frame_uid, poses[0].from_frame_uid)


def median_distance_mm(one: RigidTransform, other: RigidTransform, points: Points) -> float:
    """Return how far apart two poses send LPS points (n, 3), as the median in mm."""
    return float(np.median(np.linalg.norm(one.apply(points) - other.apply(points), axis=1)))


def shifted(pose: RigidTransform, shift_mm: npt.ArrayLike) -> RigidTransform:
    """Return the pose that sends x to where `pose` sends x + shift."""
    step = np.eye(4)
    step[:3, 3] = shift_mm
    return pose @ RigidTransform(step, pose.from_frame_uid, pose.from_frame_uid)


def moved_by(
    pose: RigidTransform, parameters: npt.ArrayLike, centre_mm: npt.ArrayLike
) -> RigidTransform:
    """Return the pose after a motion in its own frame: x, y, z angles in degrees, x, y, z in mm."""
    angles_and_shift = np.asarray(parameters, dtype=np.float64)
    return pose @ RigidTransform.from_parameters(
        rotation_deg=angles_and_shift[:3],
        translation_mm=angles_and_shift[3:],
        centre_mm=centre_mm,
        to_frame_uid=pose.from_frame_uid,
        from_frame_uid=pose.from_frame_uid,
    )
