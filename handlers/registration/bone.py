"""The second engine for another CT: bone on bone, whatever the grey values.

Of two levelled CT it compares only what lies near the planning CT's bones, by least squares of
standardised values (which is their correlation), with Gauss-Newton steps. It asks another question
than mutual information of all that is seen, and fails elsewhere: where bone is absent or looks
alike a vertebra further. Self-similarity, which serves MR, sees mostly noise in a cone beam.

Read first: `levelled`; `structure` for the steps.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings
from handlers.registration.structure import CT_MARGIN_MM, LEAST_POINTS, best_motion

Floats = npt.NDArray[np.float32]


def climb_bone(
    ct: Prepared,
    other: Prepared,
    start: RigidTransform,
    centre_mm: Points,
    settings: RegistrationSettings,
    *,
    levels: slice = slice(None),
) -> RigidTransform:
    """Return the pose (from CT to the other CT) at which bones fit best near `start`.

    Args:
        ct: The planning CT, levelled; its valid voxels are those near bone.
        other: The other CT, levelled.
        start: Where to begin.
        centre_mm: About what turns are counted, LPS mm in the CT frame.
        settings: Reach, grids, number of points, seed.
        levels: Which of `settings.structure_spacings_mm` to climb.

    Raises:
        RegistrationFailedError: Too little bone is seen by both.
    """
    near = ct.cropped(np.reshape(centre_mm, (1, 3)), settings.structure_reach_mm)
    pose = start
    for spacing_mm in settings.structure_spacings_mm[levels]:
        pose = _climbed(near, other, pose, centre_mm, spacing_mm, settings)
    return pose


def _climbed(
    ct: Prepared,
    other: Prepared,
    pose: RigidTransform,
    centre_mm: Points,
    spacing_mm: float,
    settings: RegistrationSettings,
) -> RigidTransform:
    near = ct.cropped(pose.inverse().apply(other.geometry.corners_mm()), CT_MARGIN_MM)
    lattice = near.lattice(spacing_mm)
    points = lattice.points_from_indices(np.indices(lattice.shape).reshape(3, -1).T)
    ct_voxels, is_near_bone = near.smoothed(spacing_mm / 2).at(points)
    other_voxels, seen = other.smoothed(spacing_mm / 2).at(pose.apply(points))
    usable = np.flatnonzero(is_near_bone & seen)
    if len(usable) < LEAST_POINTS:
        raise RegistrationFailedError("too little bone is seen by both CT")
    random = np.random.default_rng(settings.seed)
    chosen = random.permutation(usable)[: settings.structure_points]
    wanted = _standardised(ct_voxels, usable)[chosen, None]
    offered = _standardised(other_voxels, usable).reshape(*lattice.shape, 1)
    is_seen = ndimage.binary_erosion(seen.reshape(lattice.shape))
    step = best_motion(lattice, points[chosen], wanted, offered, is_seen, np.asarray(centre_mm))
    return pose @ RigidTransform(step, pose.from_frame_uid, pose.from_frame_uid)


def _standardised(voxels: Floats, among: npt.NDArray[np.int64]) -> Floats:
    shown = voxels[among]
    spread = max(float(shown.std()), 1e-6)
    return np.asarray((voxels - float(shown.mean())) / spread, dtype=np.float32)
