"""Grids and rigid maps: every expectation is worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform

# slices 3 mm towards the head, rows 2 mm to the back, columns 1 mm to the left
AXIAL = np.array([[0, 0, 1, -10], [0, 2, 0, 20], [3, 0, 0, -30], [0, 0, 0, 1.0]])

QUARTER_TURN = np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
"""About z by 90 degrees, then 5 mm to the left."""


def grid(
    matrix: npt.NDArray[np.float64] = AXIAL, shape: tuple[int, int, int] = (4, 5, 6)
) -> Geometry:
    return Geometry("1.2", matrix, shape)


def moved(matrix: npt.NDArray[np.float64], x_mm: float) -> npt.NDArray[np.float64]:
    result = matrix.copy()
    result[0, 3] += x_mm
    return result


def test_points_from_indices_of_an_axial_grid() -> None:
    """Arrays are (slice, row, column), points (x, y, z): the one convention of the product."""
    geometry = grid()
    assert geometry.points_from_indices([1, 2, 3]).tolist() == [[-7.0, 24.0, -27.0]]
    assert geometry.spacing_mm == (3.0, 2.0, 1.0)
    assert geometry.voxel_volume_mm3 == 6.0
    assert geometry.axes[:, 0].tolist() == [0, 0, 1]
    assert geometry.centre_mm().tolist() == [-7.5, 24.0, -25.5]
    assert np.linalg.det(geometry.patient_from_index[:3, :3]) < 0


@given(st.lists(st.floats(-1000, 1000), min_size=3, max_size=3), st.floats(-180, 180))
def test_indices_come_back_from_points_on_an_oblique_grid(
    index: list[float], angle_deg: float
) -> None:
    """Index to patient to index is identity for any orientation."""
    turn = RigidTransform.from_parameters(
        rotation_deg=(angle_deg, 0.3 * angle_deg, -angle_deg),
        translation_mm=(1, 2, 3),
        to_frame_uid="1.2",
        from_frame_uid="1.2",
    )
    geometry = grid(turn.matrix @ AXIAL)
    back = geometry.indices_from_points(geometry.points_from_indices(index))[0]
    assert np.allclose(back, index, atol=1e-8)


def test_contains_up_to_the_outer_border_of_voxels() -> None:
    """A grid reaches half a voxel beyond its outermost centres."""
    inside = grid().contains([[-10.4, 20, -30], [-10.6, 20, -30], [-4.6, 28.9, -19.6]])
    assert inside.tolist() == [True, False, True]


def test_crop_keeps_places() -> None:
    """Voxel (0, 0, 0) of the block is voxel (1, 2, 3) of the whole."""
    block = grid().crop((1, 2, 3), (2, 2, 2))
    assert block.points_from_indices([0, 0, 0]).tolist() == [[-7.0, 24.0, -27.0]]
    assert block.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Geometry("1.2", moved(AXIAL, 0.005), (4, 5, 6)), True),
        (Geometry("1.2", moved(AXIAL, 0.02), (4, 5, 6)), False),
        (Geometry("1.3", AXIAL, (4, 5, 6)), False),
        (Geometry("1.2", AXIAL, (4, 5, 7)), False),
    ],
)
def test_coincides_with_only_the_same_grid_in_the_same_frame(
    other: Geometry, expected: bool
) -> None:
    """Grids coincide within 0.01 mm, in one frame of reference."""
    assert grid().coincides_with(other) is expected


@pytest.mark.parametrize(
    ("matrix", "shape"),
    [
        (np.eye(3), (1, 1, 1)),
        (np.diag([1.0, 1.0, np.nan, 1.0]), (1, 1, 1)),
        (np.diag([1.0, 0.0, 1.0, 1.0]), (1, 1, 1)),
        (np.eye(4), (0, 1, 1)),
        (np.array([[1, 0.01, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), (1, 1, 1)),
    ],
)
def test_geometry_refuses_what_is_no_grid(
    matrix: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> None:
    """Singular, sheared, endless and empty grids cannot be made."""
    with pytest.raises(ValueError, match=r"matrix|shape|axis|orthogonal"):
        Geometry("1.2", matrix, shape)


def test_geometry_is_not_changed_with_the_array_it_came_from() -> None:
    """Values never change."""
    matrix = AXIAL.copy()
    geometry = grid(matrix)
    matrix[0, 3] = 99.0
    assert geometry.patient_from_index[0, 3] == -10.0
    with pytest.raises(ValueError, match="read-only"):
        geometry.patient_from_index[0, 3] = 1.0


def test_apply_inverse_and_chain() -> None:
    """`a_from_c = a_from_b @ b_from_c`: the right one acts first."""
    b_from_c = RigidTransform(QUARTER_TURN, "b", "c")
    assert b_from_c.apply([1, 0, 0]).tolist() == [[5.0, 1.0, 0.0]]
    assert b_from_c.inverse().apply([5, 1, 0]).tolist() == [[1.0, 0.0, 0.0]]
    a_from_b = RigidTransform(moved(np.eye(4), 10), "a", "b")
    a_from_c = a_from_b @ b_from_c
    assert a_from_c.apply([1, 0, 0]).tolist() == [[15.0, 1.0, 0.0]]
    assert (a_from_c.to_frame_uid, a_from_c.from_frame_uid) == ("a", "c")
    with pytest.raises(GeometryMismatchError):
        b_from_c @ a_from_b


def test_angles_of_a_quarter_turn() -> None:
    """Angles are told for R = Rz Ry Rx, in degrees."""
    turn = RigidTransform(QUARTER_TURN, "b", "c")
    assert np.allclose(turn.rotation_deg, (0, 0, 90))
    assert turn.rotation_angle_deg == pytest.approx(90)


def test_parameters_come_back() -> None:
    """The centre stays where it is but for the translation."""
    made = RigidTransform.from_parameters(
        rotation_deg=(10, -20, 30),
        translation_mm=(1, 2, 3),
        centre_mm=(50, 60, 70),
        to_frame_uid="b",
        from_frame_uid="c",
    )
    assert np.allclose(made.rotation_deg, (10, -20, 30))
    assert np.allclose(made.apply([50, 60, 70]), [[51, 62, 73]])


def test_largest_distance_between_two_maps() -> None:
    """The worst of the points counts: 2 sin(45 degrees) times 10 mm is 14.14 mm."""
    turn = QUARTER_TURN.copy()
    turn[0, 3] = 0
    distance = RigidTransform(turn, "b", "c").largest_distance_mm(
        RigidTransform(np.eye(4), "b", "c"), [[1, 0, 0], [10, 0, 0]]
    )
    assert distance == pytest.approx(14.142, abs=1e-3)


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.0, 1.0, -1.0, 1.0]),
        np.diag([1.01, 1.0, 1.0, 1.0]),
        np.full((4, 4), np.inf),
        np.eye(3),
    ],
)
def test_rigid_transform_refuses_mirrors_and_scales(matrix: npt.NDArray[np.float64]) -> None:
    """PS3.3 C.20.2: a RIGID matrix is a rotation and a translation."""
    with pytest.raises(ValueError, match=r"matrix"):
        RigidTransform(matrix, "b", "c")
