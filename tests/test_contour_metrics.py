"""Contour metrics against shapes whose answers are known by formula."""

import math
import time

import numpy as np
import numpy.typing as npt
import pytest

from handlers.contour_metrics import compare, overlap_cm3, smallest_distance_mm
from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform
from handlers.values import Mask

AXIAL = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
OBLIQUE = (
    RigidTransform.from_parameters(
        rotation_deg=(25, -40, 70), translation_mm=(0, 0, 0), to_frame_uid="1", from_frame_uid="1"
    ).matrix[:3, :3]
    @ AXIAL
)


def _grid(
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
    *,
    size_mm: float = 52.0,
    axes: npt.NDArray[np.float64] = AXIAL,
) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.array(spacing_mm)
    matrix[:3, 3] = (-301.3, 17.0, 925.25)
    counts = [round(size_mm / step) for step in spacing_mm]
    return Geometry("1.2.3", matrix, (counts[0], counts[1], counts[2]))


def _ball(grid: Geometry, radius_mm: float, offset_mm: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Mask:
    """A ball whose centre lies `offset_mm` (LPS) from the grid's centre."""
    points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
    apart = np.linalg.norm(points - grid.centre_mm() - np.asarray(offset_mm), axis=1)
    return Mask(grid, (apart <= radius_mm).reshape(grid.shape))


def _box(grid: Geometry, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Mask:
    inside = np.zeros(grid.shape, dtype=bool)
    inside[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return Mask(grid, inside)


def check_figures(
    reference: Mask, evaluated: Mask, expected: dict[str, tuple[float, float]]
) -> None:
    """Compare and expect each named figure within its tolerance."""
    figures = compare(reference, evaluated)
    for name, (value, tolerance) in expected.items():
        assert figures[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize(
    ("grid", "radius_mm", "step_mm", "tolerance_mm"),
    [
        (_grid(), 6.0, 3.0, 0.25),
        (_grid(), 11.0, 4.0, 0.25),
        (_grid((2.0, 1.0, 1.0)), 10.0, 4.0, 0.45),
        (_grid((1.0, 1.0, 1.0), axes=OBLIQUE), 11.0, 4.0, 0.25),
        (_grid((2.0, 1.0, 1.0), axes=OBLIQUE), 10.0, 4.0, 0.45),
        (_grid((0.5, 0.5, 0.5), size_mm=24.0), 6.0, 2.2, 0.15),
    ],
)
def test_distances_are_the_radius_difference_for_concentric_balls(
    grid: Geometry, radius_mm: float, step_mm: float, tolerance_mm: float
) -> None:
    """Every surface distance equals the difference of the radii, on any grid."""
    smaller, larger = _ball(grid, radius_mm), _ball(grid, radius_mm + step_mm)
    for reference, evaluated in ((smaller, larger), (larger, smaller)):
        check_figures(
            reference,
            evaluated,
            {
                "hd_mm": (step_mm, 2.5 * tolerance_mm),  # one voxel decides it
                "hd95_mm": (step_mm, tolerance_mm),
                "mean_surface_distance_mm": (step_mm, tolerance_mm),
                "centroid_shift_mm": (0.0, 0.01),
            },
        )


@pytest.mark.parametrize("radius_mm", [7.5, 15.0])
@pytest.mark.parametrize("shift_mm", [(2.0, 0.0, 0.0), (1.7, -2.1, 1.4)])
@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE])
def test_overlap_and_shift_for_shifted_balls(
    radius_mm: float, shift_mm: tuple[float, float, float], axes: npt.NDArray[np.float64]
) -> None:
    """DSC = 1 - 3d/4R + d^3/16R^3; HD = d; half the surface's |cos| is the mean distance, d/2."""
    grid = _grid(axes=axes)
    d = math.dist(shift_mm, (0, 0, 0))
    dsc = 1 - 3 * d / (4 * radius_mm) + d**3 / (16 * radius_mm**3)
    volume_cm3 = 4 / 3 * math.pi * radius_mm**3 / 1000
    check_figures(
        _ball(grid, radius_mm),
        _ball(grid, radius_mm, shift_mm),
        {
            "dsc": (dsc, 0.012),
            "jaccard": (dsc / (2 - dsc), 0.02),
            "hd_mm": (d, 0.6 if any(step % 1 for step in shift_mm) or axes is OBLIQUE else 0.01),
            "hd95_mm": (0.95 * d, 0.15),
            "mean_surface_distance_mm": (d / 2, 0.1),
            "centroid_shift_x_mm": (shift_mm[0], 0.05),
            "centroid_shift_y_mm": (shift_mm[1], 0.05),
            "centroid_shift_z_mm": (shift_mm[2], 0.05),
            "centroid_shift_mm": (d, 0.05),
            "volume_reference_cm3": (volume_cm3, 0.02 * volume_cm3),
            "volume_ratio": (1.0, 0.03),
        },
    )


def test_volumes_and_distances_for_boxes() -> None:
    """A 20 mm cube grown by 4 mm on one face: all figures by hand, anisotropic voxels."""
    grid = _grid((2.0, 1.0, 1.0))
    check_figures(
        _box(grid, (5, 10, 10), (15, 30, 30)),
        _box(grid, (5, 10, 10), (15, 30, 34)),
        {
            "volume_reference_cm3": (8.0, 1e-9),
            "volume_evaluated_cm3": (9.6, 1e-9),
            "volume_difference_cm3": (1.6, 1e-9),
            "added_cm3": (1.6, 1e-9),
            "removed_cm3": (0.0, 1e-9),
            "dsc": (16 / 17.6, 1e-9),
            "jaccard": (20 / 24, 1e-9),
            "hd_mm": (4.0, 0.15),
            "centroid_shift_x_mm": (2.0, 1e-9),
        },
    )


def test_hausdorff_distance_counts_a_single_stray_voxel() -> None:
    """One voxel 20 mm away decides the HD and hardly the 95th percentile."""
    grid = _grid()
    drawn = _box(grid, (10, 10, 10), (20, 20, 20))
    strayed = drawn.inside.copy()
    strayed[15, 15, 39] = True
    figures = compare(drawn, Mask(grid, strayed))
    assert figures["hd_mm"] == pytest.approx(20.0, abs=0.6)
    assert figures["hd95_mm"] < 0.2


def test_figures_when_both_are_the_same_or_one_voxel_or_touch_the_border() -> None:
    """Extreme masks have finite, exact figures: nothing is lost at the border of the grid."""
    grid = _grid((3.0, 1.0, 1.0), size_mm=30.0)
    one = _box(grid, (4, 8, 8), (5, 9, 9))
    same = {"dsc": (1.0, 0), "hd_mm": (0.0, 1e-5), "mean_surface_distance_mm": (0.0, 1e-5)}
    check_figures(one, one, same)
    check_figures(one, _box(grid, (4, 8, 13), (5, 9, 14)), {"dsc": (0, 0), "hd_mm": (5.0, 1e-3)})
    whole = _box(grid, (0, 0, 0), grid.shape)
    check_figures(whole, whole, same)
    corner = _box(grid, (0, 0, 0), (4, 10, 10))
    check_figures(corner, _box(grid, (0, 0, 0), (4, 10, 12)), {"hd_mm": (2.0, 0.15)})


def test_comparison_is_refused_when_grids_differ_or_a_mask_is_empty() -> None:
    """Unfit input ends in the error that names what is wrong."""
    grid, other = _grid(), _grid((2.0, 1.0, 1.0))
    ball, empty = _ball(grid, 6.0), Mask(grid, np.zeros(grid.shape, dtype=bool))
    for refuse in (compare, smallest_distance_mm):
        with pytest.raises(GeometryMismatchError):
            refuse(ball, _ball(other, 6.0))
        with pytest.raises(EmptyStructureError, match="second"):
            refuse(ball, empty)
        with pytest.raises(EmptyStructureError, match="first"):
            refuse(empty, ball)
    with pytest.raises(GeometryMismatchError):
        overlap_cm3(ball, _ball(other, 6.0))
    assert overlap_cm3(ball, empty) == 0.0


@pytest.mark.parametrize(
    ("grid", "tolerance_mm"),
    [(_grid(), 0.4), (_grid(axes=OBLIQUE), 0.4), (_grid((2.0, 1.0, 1.0), axes=OBLIQUE), 0.8)],
)
def test_smallest_distance_between_balls(grid: Geometry, tolerance_mm: float) -> None:
    """Centres 21 mm apart, radii 9 and 5: 7 mm between the surfaces, either way round."""
    first, second = _ball(grid, 9.0, (-8, 0, 0)), _ball(grid, 5.0, (10.0, 10.8, 0.7))
    assert smallest_distance_mm(first, second) == pytest.approx(7.0, abs=tolerance_mm)
    assert smallest_distance_mm(second, first) == pytest.approx(7.0, abs=tolerance_mm)


def test_smallest_distance_and_overlap_when_structures_touch_overlap_or_enclose() -> None:
    """Overlap is distance 0; neighbours touch; a ring around a box keeps its gap of 3 mm."""
    grid = _grid()
    box = _box(grid, (20, 20, 20), (30, 30, 30))
    crossing = _box(grid, (25, 25, 28), (40, 40, 40))
    assert smallest_distance_mm(box, crossing) == 0.0
    assert overlap_cm3(box, crossing) == pytest.approx(5 * 5 * 2 / 1000)
    beside = _box(grid, (20, 20, 30), (30, 30, 40))
    assert smallest_distance_mm(box, beside) == pytest.approx(0.0, abs=0.05)
    assert overlap_cm3(box, beside) == 0.0
    hollow = _box(grid, (10, 10, 10), (40, 40, 40)).inside.copy()
    hollow[17:33, 17:33, 17:33] = False
    assert smallest_distance_mm(box, Mask(grid, hollow)) == pytest.approx(3.0, abs=0.1)


def test_figures_come_quickly_when_the_grid_is_a_whole_planning_ct() -> None:
    """A node on 512 x 512 x 200 takes well below a second; a liver beside it too."""
    matrix = np.eye(4)
    matrix[:3, :3] = AXIAL * np.array((2.0, 0.9, 0.9))
    grid = Geometry("1.2.3", matrix, (200, 512, 512))
    node = _box(grid, (90, 200, 200), (100, 222, 222))
    drawn = _box(grid, (91, 202, 200), (101, 224, 224))
    organ = _box(grid, (40, 200, 230), (140, 410, 450))
    begin = time.process_time()
    compare(node, drawn)
    assert smallest_distance_mm(node, organ) == pytest.approx(8 * 0.9, abs=0.15)
    assert time.process_time() - begin < 2.0
