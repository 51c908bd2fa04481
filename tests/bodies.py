"""A body of simple shapes as CT and MR show it: for tests of the registration.

Truth is the motion that the test chooses. Nothing here knows the registration.
"""

from collections.abc import Callable

import numpy as np

from handlers.geometry import Geometry, Points, RigidTransform
from handlers.values import Image, Mask

CT_FRAME = "1.2.826.0.1.1"
MR_FRAME = "1.2.826.0.1.2"


Move = Callable[[Points], Points]


def grid(
    frame: str,
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    origin_mm: tuple[float, float, float],
) -> Geometry:
    """Return an axial grid: spacing and shape as (slice, row, column), origin as (x, y, z)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.array(spacing_mm)
    matrix[:3, 3] = origin_mm
    return Geometry(frame, matrix, shape)


def tissue(points: np.ndarray) -> np.ndarray:
    """Return HU of an analytic body at LPS points: skin, fat, organs, spine, a gas bubble."""

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return np.asarray(np.sum(((points - centre) / np.array(radii)) ** 2, axis=1) < 1.0)

    hu = np.full(len(points), -1000.0)
    hu[ball((0, 0, 0), (120, 85, 150))] = -100.0
    hu[ball((0, 0, 0), (108, 74, 145))] = 40.0
    hu[ball((45, -15, 10), (42, 38, 48))] = 75.0
    hu[ball((-50, 5, -20), (24, 26, 40))] = -5.0
    hu[ball((0, 52, 0), (15, 14, 170))] = 350.0
    hu[ball((-15, -35, 30), (16, 12, 14))] = -900.0
    hu[ball((10, 5, -35), (9, 30, 9))] = 160.0
    hu[ball((-20, 20, 45), (25, 12, 10))] = 120.0
    return hu


def planning_ct() -> Image:
    """Return the body as a CT shows it, with noise."""
    geometry = grid(CT_FRAME, (4.0, 2.5, 2.5), (66, 80, 110), (-137.0, -99.0, -130.0))
    hu = tissue(geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T))
    noise = np.random.default_rng(5).normal(0.0, 12.0, len(hu))
    return Image(geometry, (hu + noise).reshape(geometry.shape).astype(np.float32), "CT", "1.1")


def mr_series(
    ct_from_mr: RigidTransform,
    origin_mm: tuple[float, float, float],
    *,
    uid: str = "2.1",
    seen: Move = lambda points: points,
) -> Image:
    """Return an MR of the same body, its grey values a non-monotonic map of HU.

    Args:
        ct_from_mr: Where the MR lies.
        origin_mm: First voxel, in the MR's frame.
        uid: Of the series.
        seen: Sends a point of the CT's frame to the point whose tissue the MR shows there.
    """
    geometry = grid(MR_FRAME, (4.5, 2.0, 2.0), (36, 90, 110), origin_mm)
    points = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    grey = np.interp(
        tissue(seen(ct_from_mr.apply(points))),
        (-1000.0, -900.0, -100.0, -5.0, 40.0, 75.0, 120.0, 160.0, 350.0),
        (5.0, 10.0, 900.0, 150.0, 380.0, 520.0, 700.0, 250.0, 120.0),
    )
    bias = 1.0 + 0.15 * (points[:, 0] - points[:, 0].mean()) / 100.0
    noise = np.random.default_rng(int(uid.rpartition(".")[2]) + 6).normal(0.0, 15.0, len(grey))
    return Image(
        geometry,
        np.abs(grey * bias + noise).reshape(geometry.shape).astype(np.float32),
        "MR",
        uid,
        "T1",
        "T1",
    )


def target(ct: Image) -> Mask:
    """Return a ball of 15 mm among the organs."""
    points = ct.geometry.points_from_indices(np.indices(ct.geometry.shape).reshape(3, -1).T)
    inside = np.linalg.norm(points - (10.0, -5.0, 5.0), axis=1) < 15.0
    return Mask(ct.geometry, inside.reshape(ct.geometry.shape))


def motion(translation_mm: tuple[float, float, float]) -> RigidTransform:
    """Return `ct_from_mr` of an MR turned a little and moved."""
    return RigidTransform.from_parameters(
        rotation_deg=(3.0, -2.0, 5.0),
        translation_mm=translation_mm,
        to_frame_uid=CT_FRAME,
        from_frame_uid=MR_FRAME,
    )
