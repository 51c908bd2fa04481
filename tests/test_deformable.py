"""The local deformable step: does nothing without evidence, and finds a known warp with it."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from handlers.displacement import DisplacementField
from handlers.geometry import Geometry, Points, RigidTransform
from handlers.registration.deformable import (
    DeformableSettings,
    Deformation,
    find_deformation,
    objections,
)
from handlers.registration.prepare import Prepared
from tests.grids import FRAME, grid

MR_FRAME = "9.9"
SPACING_MM = 2.5
SHAPE = (44, 44, 44)
SETTINGS = replace(
    DeformableSettings(),
    half_mm=35.0,
    lattice_mm=12.5,
    lattice_radius_mm=35.0,
    field_half_mm=70.0,
    ball_mm=25.0,
)
"""A smaller neighbourhood than in use, for speed."""

MR_FROM_CT = RigidTransform.from_parameters(
    rotation_deg=(3.0, -2.0, 5.0),
    translation_mm=(40.0, -25.0, 300.0),
    to_frame_uid=MR_FRAME,
    from_frame_uid=FRAME,
)


def ct_geometry() -> Geometry:
    return grid((SPACING_MM,) * 3, SHAPE)


def texture(seed: int = 5) -> npt.NDArray[np.float32]:
    """Return smooth blobs of about 8 mm in a volume larger than the CT, mean 0, deviation 1."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal([n + 24 for n in SHAPE]), 2.0)
    return np.asarray(blobs / blobs.std(), dtype=np.float32)


def seen_at(blobs: npt.NDArray[np.float32], points: Points) -> npt.NDArray[np.float32]:
    """Return the texture at points of the CT's frame."""
    at = ct_geometry().indices_from_points(points) + 12.0
    return np.asarray(ndimage.map_coordinates(blobs, at.T, order=3), dtype=np.float32)


def prepared(geometry: Geometry, voxels: npt.NDArray[np.float32]) -> Prepared:
    everywhere = np.ones(geometry.shape, dtype=bool)
    return Prepared(geometry, voxels.reshape(geometry.shape), everywhere, everywhere)


def ct_volume(blobs: npt.NDArray[np.float32]) -> Prepared:
    points = ct_geometry().points_from_indices(np.indices(SHAPE).reshape(3, -1).T)
    return prepared(ct_geometry(), 40.0 + 60.0 * seen_at(blobs, points))


def warp(points: Points, size_mm: float) -> Points:
    """Return a smooth displacement whose largest length is about `size_mm`."""
    x, y, z = (points - ct_geometry().centre_mm()).T / 35.0
    waves = [0.7 + 0.3 * np.cos(y + 0.5), 0.5 * np.sin(z + x), -0.6 + 0.3 * np.sin(x - y)]
    return size_mm * np.stack(waves, axis=1)


def mr_volume(blobs: npt.NDArray[np.float32], size_mm: float, noise: float = 0.0) -> Prepared:
    """Return an MR of other contrast: the CT's point x lies at `MR_FROM_CT` of x + warp(x)."""
    matrix = MR_FROM_CT.matrix @ ct_geometry().patient_from_index
    geometry = Geometry(MR_FRAME, matrix, SHAPE)
    ends = ct_geometry().points_from_indices(np.indices(SHAPE).reshape(3, -1).T)
    begins = ends - warp(ends, size_mm)
    for _ in range(20):
        begins = ends - warp(begins, size_mm)
    brightness = 300.0 - 120.0 * np.tanh(seen_at(blobs, begins) + 0.3)
    noisy = brightness + noise * np.random.default_rng(8).standard_normal(brightness.shape)
    return prepared(geometry, noisy.astype(np.float32))


def ball() -> Points:
    steps = np.mgrid[-20:21:5, -20:21:5, -20:21:5].reshape(3, -1).T
    near = np.linalg.norm(steps, axis=1) <= 20.0
    return np.asarray(steps[near] + ct_geometry().centre_mm(), dtype=np.float64)


def sought(ct: Prepared, mr: Prepared, settings: DeformableSettings = SETTINGS) -> Deformation:
    return find_deformation(ct, mr, MR_FROM_CT, ct_geometry().centre_mm(), settings)


@pytest.fixture(scope="module")
def blobs() -> npt.NDArray[np.float32]:
    return texture()


@pytest.fixture(scope="module")
def warped(blobs: npt.NDArray[np.float32]) -> Deformation:
    return sought(ct_volume(blobs), mr_volume(blobs, 5.0, noise=15.0))


def test_find_deformation_when_the_mr_is_warped_beats_doing_nothing(warped: Deformation) -> None:
    """Issue 3: a known smooth warp of 5 mm is recovered, in the agreed direction."""
    assert warped.field is not None, warped.reason
    truth = warp(ball(), 5.0)
    nothing = np.median(np.linalg.norm(truth, axis=1))
    left = np.linalg.norm(warped.field.at(ball()) - truth, axis=1)
    assert nothing > 3.5
    assert np.median(left) < 0.3 * nothing
    assert left.max() < nothing


def test_find_deformation_when_accepted_tells_its_evidence(warped: Deformation) -> None:
    """The figures and the sentence that a person reads; the field ends in the rigid map."""
    assert warped.field is not None
    assert warped.figures["information_gain"] > 1.05 > warped.figures["opposite_gain"]
    assert warped.figures["median_mm"] == pytest.approx(
        np.median(np.linalg.norm(warp(ball(), 5.0), axis=1)), abs=1.0
    )
    assert f"{warped.figures['median_mm']:.1f} mm" in warped.reason
    corners = warped.field.geometry.corners_mm()
    assert np.all(warped.field.at(corners) == 0.0)
    assert np.linalg.norm(warped.field.undo(warped.field.apply(ball())) - ball(), axis=1).max() < (
        0.01
    )


def test_find_deformation_when_repeated_is_the_same(
    blobs: npt.NDArray[np.float32], warped: Deformation
) -> None:
    """Issue 3: the same inputs give the same result."""
    again = sought(ct_volume(blobs), mr_volume(blobs, 5.0, noise=15.0))
    assert again.field is not None
    assert warped.field is not None
    assert np.abs(again.field.vectors_mm - warped.field.vectors_mm).max() < 0.001


def test_find_deformation_when_aligned_does_nothing(blobs: npt.NDArray[np.float32]) -> None:
    """An already aligned pair keeps its rigid map: what is found is not worth it."""
    found = sought(ct_volume(blobs), mr_volume(blobs, 0.0, noise=15.0))
    assert found.field is None
    assert found.figures["median_mm"] < 0.3
    assert "rigid map is as good" in found.reason


@pytest.mark.parametrize("seed", [1, 2])
def test_find_deformation_when_the_mr_is_noise_does_nothing(
    blobs: npt.NDArray[np.float32], seed: int
) -> None:
    """No field is made from noise, nor from the texture of somebody else."""
    ct = ct_volume(blobs)
    random = np.random.default_rng(seed).uniform(0, 500, SHAPE).astype(np.float32)
    mr = mr_volume(texture(100 + seed), 0.0)
    assert sought(ct, prepared(mr.geometry, random)).field is None
    assert sought(ct, mr).field is None


def test_find_deformation_when_there_is_nothing_to_see_says_so(
    blobs: npt.NDArray[np.float32],
) -> None:
    """An empty MR, one that lies elsewhere, and a step that is switched off are refused."""
    ct, mr = ct_volume(blobs), mr_volume(blobs, 0.0)
    empty = prepared(mr.geometry, np.zeros(SHAPE, dtype=np.float32))
    matrix = mr.geometry.patient_from_index.copy()
    matrix[:3, 3] += 500.0
    elsewhere = prepared(Geometry(MR_FRAME, matrix, SHAPE), mr.voxels)
    for volume in (empty, elsewhere):
        found = sought(ct, volume)
        assert found.field is None
        assert "Too little" in found.reason
    off = sought(ct, mr, replace(SETTINGS, is_enabled=False))
    assert off.field is None
    assert off.figures == {}
    assert "switched off" in off.reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"median_mm": 0.4}, "only 0.4 mm"),
        ({"largest_mm": 40.0}, "40.0 mm is not believed"),
        ({"jacobian_least": 0.3}, "changes volumes"),
        ({"jacobian_greatest": 2.5}, "changes volumes"),
        ({"held_out_gain": -0.01}, "left out"),
        ({"halves_apart_mm": 4.0}, "Two halves"),
        ({"reverse_apart_mm": 4.0}, "comes back 4.0 mm off"),
        ({"information_gain": 1.0}, "brightness"),
        ({"information_gain": 1.3, "opposite_gain": 1.4}, "brightness"),
        ({"information_gain": float("nan")}, "brightness"),
    ],
)
def test_objections_when_one_figure_is_bad_name_it(
    warped: Deformation, changed: dict[str, float], words: str
) -> None:
    """Issue 3: accepted only with all of the evidence; the reason is said."""
    assert objections(warped.figures, SETTINGS) == ()
    (told,) = objections({**warped.figures, **changed}, SETTINGS)
    assert words in told


def test_objections_when_the_field_folds_refuse_it(warped: Deformation) -> None:
    """A field that turns space inside out fails by its own Jacobian."""
    geometry = grid((5.0, 5.0, 5.0), (13, 13, 13))
    offset = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    offset -= geometry.centre_mm()
    folded = -1.5 * offset * (np.linalg.norm(offset, axis=1) < 15.0)[:, None]
    field = DisplacementField(geometry, folded.reshape(*geometry.shape, 3).astype(np.float32))
    least, greatest = field.jacobian_bounds()
    figures = {**warped.figures, "jacobian_least": least, "jacobian_greatest": greatest}
    assert least < 0
    assert any("changes volumes" in told for told in objections(figures, SETTINGS))
