"""The second engine for another CT: bone on bone, whatever the grey values.

Of two levelled CT it compares only what lies near the planning CT's bones, by least squares of
standardised values (which is their correlation), with Gauss-Newton steps. It asks another question
than mutual information of all that is seen, and fails elsewhere: where bone is absent or looks
alike a vertebra further. Self-similarity, which serves MR, sees mostly noise in a cone beam.

Read first: `levelled`; `climbing` for the steps.
"""

import numpy as np
import numpy.typing as npt

from handlers.errors import RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.climbing import LEAST_POINTS, Compared, climb, grid_points
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings

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

    See `climb`. Both CT are levelled; the valid voxels of the planning CT are those near bone.
    """
    return climb(ct, other, start, centre_mm, settings, _compared, levels=levels)


def _compared(ct: Prepared, other: Prepared, pose: RigidTransform, spacing_mm: float) -> Compared:
    lattice = ct.lattice(spacing_mm)
    points = grid_points(lattice)
    ct_voxels, is_near_bone = ct.smoothed(spacing_mm / 2).at(points)
    other_voxels, seen = other.smoothed(spacing_mm / 2).at(pose.apply(points))
    usable = np.flatnonzero(is_near_bone & seen)
    if len(usable) < LEAST_POINTS:
        raise RegistrationFailedError("too little bone is seen by both CT")
    return Compared(
        lattice,
        usable,
        _standardised(ct_voxels, usable)[:, None],
        _standardised(other_voxels, usable).reshape(*lattice.shape, 1),
        seen.reshape(lattice.shape),
    )


def _standardised(voxels: Floats, among: npt.NDArray[np.int64]) -> Floats:
    shown = voxels[among]
    spread = max(float(shown.std()), 1e-6)
    return np.asarray((voxels - float(shown.mean())) / spread, dtype=np.float32)
