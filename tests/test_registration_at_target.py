"""What the registration says of the target: local shifts, series beside the leader, verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK

from handlers.geometry import Points, RigidTransform
from handlers.registration import RegistrationSettings, register_frame
from handlers.registration.consensus import box_corners, moved_by
from handlers.results import Registration, RegistrationStatus
from handlers.values import Image
from tests.bodies import CT_FRAME, grid, motion, mr_series, planning_ct, target, tissue

SETTINGS = RegistrationSettings()
AS_SENT = replace(SETTINGS, use_as_sent=True)
TRUTH = motion((30.0, -20.0, 60.0))
ORIGIN_MM = (-140.0, -70.0, -138.0)


def _breathed(points: Points) -> Points:
    """Return the tissue that is seen where the organs lie 6 mm lower, spine and wall do not."""
    inner = np.clip(1.3 - np.linalg.norm((points - (0, -10, 0)) / (95, 55, 130), axis=1), 0, 1)
    return points + np.outer(np.minimum(1.0, 2 * inner), (0.0, 0.0, 6.0))


def _places(registration: Registration) -> Points:
    """Return where the box around the target lies in the MR, by what was found."""
    return registration.ct_from_mr.inverse().apply(box_corners(registration.centre_mm, 15.0))


@pytest.fixture(scope="module")
def ct() -> Image:
    """The planning CT."""
    return planning_ct()


@pytest.fixture(scope="module")
def mr() -> Image:
    """An MR without any motion but the pose."""
    return mr_series(TRUTH, ORIGIN_MM)


@pytest.fixture(scope="module")
def found(ct: Image, mr: Image) -> Registration:
    """What is found where nothing was sent."""
    return register_frame(ct, [mr], [target(ct)], SETTINGS)


def test_register_is_right_at_the_target_when_only_the_organs_moved(ct: Image) -> None:
    """Bone stays, organs lie 6 mm lower: what counts is the place of the target."""
    mr = mr_series(TRUTH, ORIGIN_MM, seen=_breathed)
    registration = register_frame(ct, [mr], [target(ct)], SETTINGS)
    centre = np.array([registration.centre_mm])
    # the MR shows the target's tissue where _breathed leads to it
    lower = centre.copy()
    for _ in range(20):
        lower += centre - _breathed(lower)
    true_place = TRUTH.inverse().apply(lower)
    error_mm = np.linalg.norm(registration.ct_from_mr.inverse().apply(centre) - true_place)
    assert error_mm < 1.0
    assert error_mm < registration.uncertainty_mm


def test_series_is_shifted_onto_the_leading_one_when_it_lies_a_little_beside(
    ct: Image, mr: Image
) -> None:
    """A breath-hold of its own, 3 mm along z, is taken back; more than 5 mm is left and told."""
    step = np.array([0.0, 0.0, 3.0])
    beside = mr_series(TRUTH, ORIGIN_MM, uid="2.2", seen=lambda points: points - step)
    far = mr_series(TRUTH, ORIGIN_MM, uid="2.3", seen=lambda points: points - 3 * step)
    registration = register_frame(ct, [mr, beside, far], [target(ct)], SETTINGS)
    assert registration.leading_series_uid == "2.1"
    assert set(registration.series_shifts_mm) == {"2.2"}
    np.testing.assert_allclose(registration.series_shifts_mm["2.2"], -step, atol=0.7)
    moved = registration.ct_from_series("2.2").apply(TRUTH.inverse().apply([[0.0, 0.0, 3.0]]))
    np.testing.assert_allclose(moved, [[0.0, 0.0, 0.0]], atol=1.0)
    assert any(
        "9" in note and "left as the scanner placed it" in note for note in registration.notes
    )


@pytest.mark.parametrize(
    ("push", "is_passed"),
    [
        ((0, 0, 0, 0, 0, 0), True),
        ((0, 0, 0, 3.5, -3.5, 1.0), False),
        # less is noticed already: the row above
        pytest.param((0, 0, 0, 0, 0, -10.0), False, marks=pytest.mark.slow),
        pytest.param((15.0, 0, 0, 0, 0, 0), False, marks=pytest.mark.slow),
    ],
)
def test_sent_registration_is_judged_when_the_protocol_orders_its_use(
    ct: Image, mr: Image, push: tuple[float, ...], is_passed: bool
) -> None:
    """A right one passes; 5 mm, 10 mm or 15 degrees off does not; it is used as it is."""
    sent = moved_by(TRUTH.inverse(), push, (10.0, -5.0, 5.0)).inverse()
    registration = register_frame(ct, [mr], [target(ct)], AS_SENT, sent=[sent])
    assert (registration.status is RegistrationStatus.PASS) is is_passed, registration.reasons
    np.testing.assert_allclose(registration.ct_from_mr.matrix, sent.matrix, atol=1e-9)
    assert registration.quality["uncertainty_mm"] == registration.uncertainty_mm
    assert is_passed or registration.uncertainty_mm >= 5.0  # what is doubted claims little


def test_sent_registration_changes_nothing_when_it_is_wrong_and_only_a_candidate(
    ct: Image, mr: Image, found: Registration
) -> None:
    """A candidate is tried like any other start: 40 mm off, it leaves the result where it was."""
    sent = moved_by(TRUTH.inverse(), (0, 0, 0, 40.0, 0, 0), (0.0, 0.0, 0.0)).inverse()
    registration = register_frame(ct, [mr], [target(ct)], SETTINGS, sent=[sent])
    np.testing.assert_allclose(_places(registration), _places(found), atol=0.5)
    assert registration.status is RegistrationStatus.PASS


@pytest.mark.slow
def test_result_is_the_same_when_run_again_with_more_threads(
    ct: Image, mr: Image, found: Registration
) -> None:
    """The same inputs give the same transform to 0.01 mm, whatever the number of threads."""
    threads = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads + 3)
    try:
        again = register_frame(ct, [mr], [target(ct)], SETTINGS)
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    corners = mr.geometry.corners_mm()
    assert again.ct_from_mr.largest_distance_mm(found.ct_from_mr, corners) < 0.01
    assert again.quality == pytest.approx(found.quality, abs=0.01)
    assert again.status is found.status


def test_other_ct_is_brought_to_the_planning_ct_when_it_is_the_moving_image(ct: Image) -> None:
    """A cone beam: a cylinder of other HU within padding, moved by a shift known in advance."""
    truth = RigidTransform.from_parameters(
        rotation_deg=(0.0, 0.0, 2.0),
        translation_mm=(6.0, -4.0, 8.0),
        to_frame_uid=CT_FRAME,
        from_frame_uid="1.2.826.0.1.3",
    )
    geometry = grid("1.2.826.0.1.3", (3.0, 3.0, 3.0), (50, 80, 80), (-120.0, -118.0, -75.0))
    points = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    hu = tissue(truth.apply(points)) * 0.9 + 30.0
    hu += np.random.default_rng(9).normal(0.0, 25.0, len(hu))
    hu[np.hypot(points[:, 0], points[:, 1]) > 115.0] = -1024.0
    cone_beam = Image(geometry, hu.reshape(geometry.shape).astype(np.float32), "CT", "3.1")
    registration = register_frame(ct, [cone_beam], [target(ct)], SETTINGS)
    centre = np.array([registration.centre_mm])
    apart = registration.ct_from_mr.inverse().apply(centre) - truth.inverse().apply(centre)
    assert np.linalg.norm(apart) < 1.0
    assert registration.status is RegistrationStatus.PASS, registration.reasons
