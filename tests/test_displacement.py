"""Displacement fields: evaluated, undone, judged and used to resample; truth by formula."""

import numpy as np
import numpy.typing as npt
import pytest

from handlers.displacement import DisplacementField
from handlers.errors import GeometryMismatchError, RegistrationFailedError
from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import resample, resample_mask
from handlers.values import Image, Mask
from tests.grids import FACINGS, FRAME, grid

MR_FRAME = "9.9"
SLOPES = np.array([[0.10, 0.02, -0.03], [0.04, -0.12, 0.05], [-0.02, 0.06, 0.08]])


def cube(axes: npt.ArrayLike = FACINGS["oblique"]) -> Geometry:
    return grid((5.0, 4.0, 3.0), (15, 18, 24), axes)


def centred(geometry: Geometry) -> npt.NDArray[np.float64]:
    points = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    return np.asarray(points - geometry.centre_mm())


def swirl(geometry: Geometry, size_mm: float = 6.0) -> DisplacementField:
    """Return a smooth field that falls to zero towards the border."""
    offset = centred(geometry)
    near = np.exp(-0.5 * (offset**2).sum(axis=1) / 15.0**2)[:, None]
    vectors = size_mm * near * np.array([0.6, -0.64, 0.48])
    return DisplacementField.blended(geometry, vectors.reshape(*geometry.shape, 3), 10.0)


def test_at_when_between_voxels_interpolates() -> None:
    """At a voxel its vector, halfway the mean of two, far away nothing."""
    field = swirl(cube())
    one, other = field.vectors_mm[7, 9, 12], field.vectors_mm[7, 9, 13]
    places = [[7.0, 9.0, 12.0], [7.0, 9.0, 12.5], [99.0, 9.0, 12.0]]
    points = field.geometry.points_from_indices(places)
    assert np.allclose(field.at(points), [one, (one + other) / 2, (0, 0, 0)], atol=1e-5)


@pytest.mark.parametrize("axes", [FACINGS["head first supine"], FACINGS["oblique"]])
def test_undo_when_the_field_is_smooth_is_exact(axes: npt.NDArray[np.float64]) -> None:
    """Issue 3: transforms are invertible, exact to 0.01 mm."""
    field = swirl(cube(axes))
    start = field.geometry.centre_mm() + np.random.default_rng(1).uniform(-40, 40, (500, 3))
    ends = field.apply(start)
    assert np.linalg.norm(ends - start, axis=1).max() > 4.0
    assert np.linalg.norm(field.undo(ends) - start, axis=1).max() < 0.01
    assert field.undo(np.empty((0, 3))).shape == (0, 3)


def test_undo_when_the_field_folds_is_refused() -> None:
    """There is no inverse to return: an error says so, no point is made up."""
    field = swirl(cube(), size_mm=60.0)
    assert field.jacobian().min() < 0
    with pytest.raises(RegistrationFailedError, match="cannot be undone"):
        field.undo(field.geometry.centre_mm() + np.mgrid[-12:13:4, -12:13:4, 0:1].reshape(3, -1).T)


def test_jacobian_when_the_field_is_linear_is_its_determinant() -> None:
    """On an oblique grid with three spacings: det(I + A) of u = A x, deeper than the rim."""
    geometry = cube()
    vectors = centred(geometry) @ SLOPES.T
    field = DisplacementField.blended(geometry, vectors.reshape(*geometry.shape, 3), 7.0)
    expected = np.linalg.det(np.eye(3) + SLOPES)
    assert np.allclose(field.jacobian()[4:-4, 4:-4, 4:-4], expected, atol=1e-4)
    assert not np.isclose(expected, np.linalg.det(np.eye(3) - SLOPES), atol=0.01)


def test_jacobian_bounds_when_neighbours_jump_to_and_fro_see_the_fold() -> None:
    """Central differences are blind to it: every other voxel is pushed onto its neighbour."""
    vectors = np.zeros((*cube().shape, 3), dtype=np.float32)
    vectors[1:-1, 1:-1, 2:-2:2] = 4.0 * cube().axes[:, 2]
    field = DisplacementField(cube(), vectors)
    assert field.jacobian()[7, 9, 8:16].min() > 0.9
    assert field.jacobian_bounds()[0] < 0
    least, greatest = swirl(cube()).jacobian_bounds()
    assert 0.5 < least < 1 < greatest < 1.5


def test_blended_when_made_falls_to_zero_without_a_step() -> None:
    """Issue 3: outside the region rigid, blended without a step."""
    geometry = grid((2.0, 2.0, 2.0), (31, 31, 31))
    field = DisplacementField.blended(geometry, np.full((31, 31, 31, 3), 2.0), 20.0)
    line = field.vectors_mm[15, 15, :, 0]
    assert np.all(line[10:21] == 2.0)
    assert line[0] == line[-1] == 0.0
    assert np.all(np.diff(line[:11]) > 0)
    assert np.abs(np.diff(line)).max() < 2.0 * np.pi / 2 * 2.0 / 20.0
    assert field.largest_mm == pytest.approx(2.0 * np.sqrt(3))


def test_field_when_it_ends_with_a_step_is_refused() -> None:
    """A vector on the border, one that is no number, and a wrong shape are a programmer's error."""
    vectors = np.zeros((*cube().shape, 3), dtype=np.float32)
    for place, value in (((0, 5, 5, 0), 1.0), ((5, 5, 5, 1), np.nan)):
        spoilt = vectors.copy()
        spoilt[place] = value
        with pytest.raises(ValueError, match=r"border|not finite"):
            DisplacementField(cube(), spoilt)
    with pytest.raises(ValueError, match="shape"):
        DisplacementField(cube(), vectors[1:])
    with pytest.raises(ValueError, match="rim"):
        DisplacementField.blended(cube(), vectors, 0.0)


# --- resampling through a field ---


def ramp(geometry: Geometry) -> Image:
    """Return an image whose brightness is 3x - 2y + z: linear interpolation is exact on it."""
    points = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    voxels = (points @ (3.0, -2.0, 1.0)).reshape(geometry.shape)
    return Image(geometry, voxels.astype(np.float32), "MR", "1.2.3")


def pair() -> tuple[Image, Geometry, RigidTransform, DisplacementField]:
    """Return an MR in a frame of its own, a finer CT grid, the map between, and a field."""
    onto_from_image = RigidTransform.from_parameters(
        rotation_deg=(4, -7, 12), translation_mm=(5, -3, 9), to_frame_uid=FRAME,
        from_frame_uid=MR_FRAME,
    )  # fmt: skip
    onto = grid((3.0, 1.5, 1.5), (30, 60, 70))
    matrix = grid((4.0, 2.0, 2.0), (40, 70, 70)).patient_from_index.copy()
    centre = Geometry(MR_FRAME, matrix, (40, 70, 70)).centre_mm()
    matrix[:3, 3] += onto_from_image.inverse().apply(onto.centre_mm())[0] - centre
    image = ramp(Geometry(MR_FRAME, matrix, (40, 70, 70)))
    small = grid((4.0, 4.0, 4.0), (13, 13, 13), FACINGS["oblique"])
    moved = small.patient_from_index.copy()
    moved[:3, 3] += onto.centre_mm() - small.centre_mm()
    return image, onto, onto_from_image, swirl(Geometry(FRAME, moved, small.shape))


def test_resample_when_deformed_shows_the_point_of_x_plus_u() -> None:
    """By formula: at x stands what the image has at the inverse rigid map of x + u(x)."""
    image, onto, onto_from_image, field = pair()
    shown, covered = resample(image, onto, onto_from_image, field)
    points = onto.points_from_indices(np.indices(onto.shape).reshape(3, -1).T)
    ends = onto_from_image.inverse().apply(field.apply(points)) @ (3.0, -2.0, 1.0)
    known = covered.inside.ravel()
    # the outer half of border voxels continues the border's value
    assert known.mean() > 0.95
    assert np.percentile(np.abs(shown.voxels.ravel()[known] - ends[known]), 98) < 0.01
    rigid, _ = resample(image, onto, onto_from_image)
    far = ~field.geometry.contains(points).reshape(onto.shape)
    assert np.array_equal(shown.voxels[far], rigid.voxels[far])
    assert np.abs(shown.voxels - rigid.voxels).max() > 10.0


def test_resample_mask_when_deformed_moves_against_the_field() -> None:
    """A pull by +u shows at x what lies at x + u: the picture moves by -u."""
    geometry = grid((2.0, 2.0, 2.0), (31, 31, 31))
    inside = np.zeros(geometry.shape, dtype=bool)
    inside[13:18, 13:18, 13:18] = True
    field = DisplacementField.blended(geometry, np.full((31, 31, 31, 3), (6.0, 0.0, 0.0)), 10.0)
    same = RigidTransform(np.eye(4), FRAME, FRAME)
    result = resample_mask(Mask(geometry, inside), geometry, same, field)
    expected = np.zeros(geometry.shape, dtype=bool)
    expected[13:18, 13:18, 10:15] = True
    assert np.array_equal(result.inside, expected)


def test_resample_when_the_field_lies_in_another_frame_is_refused() -> None:
    """A field of the MR's frame is no field of the CT's."""
    image, onto, onto_from_image, field = pair()
    stray = Geometry(MR_FRAME, field.geometry.patient_from_index, field.geometry.shape)
    with pytest.raises(GeometryMismatchError, match="deformation"):
        resample(image, onto, onto_from_image, DisplacementField(stray, field.vectors_mm))
