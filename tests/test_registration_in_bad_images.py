"""Coil shading and metal: registered right, or refused with a reason. Truth: the test's own motion.

One runs always; the others are slow.
"""

import numpy as np
import pytest

from handlers.geometry import Points
from handlers.registration import RegistrationSettings, register_frame
from handlers.registration.consensus import box_corners, median_distance_mm
from handlers.results import Registration, RegistrationStatus
from handlers.values import Image
from tests.bodies import motion, mr_series, planning_ct, target

TRUTH = motion((30.0, -20.0, 60.0))
ORIGIN_MM = (-140.0, -70.0, -138.0)
FRONT_MM = -85.0
"""Where the skin lies in front, on which the coil rests: y in the CT's frame."""

ONE_START = RegistrationSettings(
    start_rotations_deg=((0.0, 0.0, 0.0),), start_count=1, followed_count=1
)
"""For speed: the search for a start has tests of its own."""

METAL_HU = 8000.0
STREAK_HU = 600.0

Place = tuple[float, float, float]


@pytest.fixture(scope="module")
def ct() -> Image:
    return planning_ct()


@pytest.fixture(scope="module")
def mr() -> Image:
    return mr_series(TRUTH, ORIGIN_MM)


def places(image: Image) -> Points:
    """Return where the voxels lie in the frame of the image, LPS mm, shape (n, 3)."""
    return image.geometry.points_from_indices(np.indices(image.geometry.shape).reshape(3, -1).T)


def shaded(mr: Image, length_mm: float) -> Image:
    """Return the MR as a surface coil in front sees it: e times darker with each length behind."""
    depth_mm = TRUTH.apply(places(mr))[:, 1] - FRONT_MM
    share = np.exp(-depth_mm / length_mm).reshape(mr.geometry.shape)
    return _with_voxels(mr, 3.0 * mr.voxels * share)


def with_metal(image: Image, centre_mm: Place, radius_mm: float) -> Image:
    """Return CT or MR about an implant, its centre given in the CT's frame.

    The CT shows it half as wide, far brighter than bone and with streaks in its slices; the MR has
    a hole with a bright rim.
    """
    from_centre = (places(image) if image.modality == "CT" else TRUTH.apply(places(image))) - (
        np.array(centre_mm)
    )
    away_mm = np.linalg.norm(from_centre, axis=1)
    voxels = image.voxels.ravel().copy()
    if image.modality == "MR":
        voxels[(away_mm >= radius_mm) & (away_mm < radius_mm + 3.0)] *= 3.0
        voxels[away_mm < radius_mm] = 0.0
    else:
        x, y, z = from_centre.T
        rays = np.sin(12.0 * np.arctan2(y, x))
        in_slices = np.abs(z) < radius_mm
        voxels += STREAK_HU * in_slices * np.exp(-np.hypot(x, y) / 50.0) * rays
        voxels[away_mm < 0.5 * radius_mm] = METAL_HU
    return _with_voxels(image, voxels)


def _with_voxels(image: Image, voxels: np.ndarray) -> Image:
    shape = image.geometry.shape
    changed = voxels.reshape(shape).astype(np.float32)
    uid = image.series_instance_uid
    return Image(image.geometry, changed, image.modality, uid, "", image.contrast)


def registered(ct: Image, mr: Image, settings: RegistrationSettings = ONE_START) -> Registration:
    return register_frame(ct, [mr], [target(ct)], settings)


def error_mm(found: Registration) -> float:
    """Return the median distance from the truth at the corners of the box around the target."""
    corners = box_corners(found.centre_mm, 40.0)
    return median_distance_mm(found.ct_from_mr.inverse(), TRUTH.inverse(), corners)


@pytest.mark.slow
def test_register_is_right_when_a_coil_shades_the_mr_seventeen_times(ct: Image, mr: Image) -> None:
    """Behind the signal is 17 times weaker than in front: the pose passes and is right."""
    found = registered(ct, shaded(mr, 60.0))
    assert found.status is RegistrationStatus.PASS, found.reasons
    assert error_mm(found) < 1.5
    assert error_mm(found) < found.uncertainty_mm


def test_register_is_right_when_metal_lies_beside_the_target(ct: Image, mr: Image) -> None:
    """A clip of 15 mm across with streaks on CT, a hole twice as wide on MR, 25 mm away.

    Bins that the metal spends leave the measures at odds: then the uncertainty is 7 mm.
    """
    clip = ((30.0, 10.0, 5.0), 15.0)
    found = registered(with_metal(ct, *clip), with_metal(mr, *clip))
    assert found.status is RegistrationStatus.PASS, found.reasons
    assert error_mm(found) < 1.5
    assert error_mm(found) < found.uncertainty_mm < 4.0


@pytest.mark.slow
def test_register_refuses_when_a_coil_leaves_nothing_behind(ct: Image, mr: Image) -> None:
    """900 times weaker behind: noise alone there. The wrong pose that is found does not pass."""
    found = registered(ct, shaded(mr, 25.0), RegistrationSettings())
    assert error_mm(found) > 5.0
    assert found.status is RegistrationStatus.FAIL
    assert found.reasons


@pytest.mark.slow
@pytest.mark.parametrize(
    ("centre_mm", "radius_mm"),
    [((0.0, 52.0, 0.0), 25.0), ((0.0, 52.0, 0.0), 40.0), ((10.0, -5.0, 5.0), 12.0)],
)
def test_register_is_right_or_refuses_when_metal_hides_spine_or_target(
    ct: Image, mr: Image, centre_mm: Place, radius_mm: float
) -> None:
    """Screws in the spine, an implant that hides a third of the body, a marker in the target."""
    found = registered(with_metal(ct, centre_mm, radius_mm), with_metal(mr, centre_mm, radius_mm))
    if found.status is RegistrationStatus.PASS:
        assert error_mm(found) < min(2.0, found.uncertainty_mm)
    else:
        assert found.reasons
        assert error_mm(found) < found.uncertainty_mm
