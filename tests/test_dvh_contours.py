"""Solids of odd outlines: holes, keyholes, crossings, gaps, islands, single planes, masks."""

import numpy as np
import numpy.typing as npt
import pytest

from handlers.dose_results import EndCap
from handlers.dosimetry.histogram import histogram
from handlers.dosimetry.solids import slice_sum_cm3, solid_from_contours, solid_from_mask
from handlers.errors import EmptyStructureError, InputRejectedError
from handlers.results import VoxelField
from handlers.values import Contour, Mask
from tests.analytic_shapes import FRAME, ball, dose_grid, outlines, rising, rotation, slices
from tests.grids import grid, sphere

CT = slices(3.0)
HEIGHTS = (0.0, 3.0, 6.0, 9.0)
LENGTH_MM = 12.0  # four slices of 3 mm, half a slice beyond the end ones


def square(side: float, x: float = 0.0, y: float = 0.0) -> npt.NDArray[np.float64]:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2 + (x, y)


def at(flat: npt.NDArray[np.float64], z: float, *, is_xor: bool = False) -> Contour:
    return Contour(np.column_stack((flat, np.full(len(flat), z))), is_exclusive_or=is_xor)


def drawn(*rings: npt.NDArray[np.float64], is_xor: bool = False) -> list[Contour]:
    """Return the same rings on each of `HEIGHTS`."""
    return [at(ring, z, is_xor=is_xor) for z in HEIGHTS for ring in rings]


def keyhole(outer: float, inner: float) -> npt.NDArray[np.float64]:
    return np.concatenate(
        (
            square(outer),
            square(outer)[:1],
            np.roll(square(inner)[::-1], 1, axis=0)[[0, 1, 2, 3, 0]],
        )
    )


CASES = {
    "a ring in a ring": (drawn(square(20), square(10)), 300.0),
    "an island in a hole": (drawn(square(20), square(10), square(4)), 316.0),
    "exclusive-or": (drawn(square(20), square(10), is_xor=True), 300.0),
    "exclusive-or of overlapping rings": (
        drawn(square(20), square(20, x=10), is_xor=True),
        400.0,
    ),
    "a keyhole": (drawn(keyhole(20, 10)), 300.0),
    "two rings side by side": (drawn(square(10), square(10, x=10)), 200.0),
    "two rings apart": (drawn(square(10), square(6, x=40)), 136.0),
    "rings that overlap": (drawn(square(20), square(20, x=10)), 600.0),
    "a ring drawn twice": (drawn(square(10), square(10)), 100.0),
    "winding the other way": (drawn(square(10)[::-1]), 100.0),
    "a ring that crosses itself": (
        drawn(np.array([[-10.0, -10], [10, 10], [10, -10], [-10, 10]])),
        200.0,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cap", [EndCap.HALF_SLICE, EndCap.TAPERED])
def test_area_of_odd_outlines(name: str, cap: EndCap) -> None:
    contours, area = CASES[name]
    solid = solid_from_contours(contours, CT, cap)
    expected = area * LENGTH_MM / 1000.0
    assert solid.volume_cm3 == pytest.approx(expected, rel=0.005)
    assert slice_sum_cm3(contours, CT, cap) == pytest.approx(expected, rel=0.005)


def test_hole_of_a_keyhole_gets_no_dose_of_the_structure() -> None:
    """The hottest place is the hole: the histogram does not know it."""
    dvh = histogram(
        solid_from_contours(drawn(keyhole(20, 10)), CT, EndCap.HALF_SLICE),
        dose_grid(lambda p: 50.0 - np.abs(p[:, :2]).max(axis=1), 1.0),
    )
    assert dvh is not None
    assert dvh.max_gy == pytest.approx(45.0, abs=0.3)
    assert dvh.min_gy == pytest.approx(40.0, abs=0.3)
    assert dvh.dose_to_percent(50) == pytest.approx(50.0 - np.sqrt(250.0) / 2.0, abs=0.05)


def test_crossing_and_double_outlines_are_told() -> None:
    crossing, _ = CASES["a ring that crosses itself"]
    assert "cross themselves" in solid_from_contours(crossing, CT, EndCap.TAPERED).reasons[0]
    double, _ = CASES["a ring drawn twice"]
    assert "twice" in solid_from_contours(double, CT, EndCap.TAPERED).reasons[0]
    plain, _ = CASES["a keyhole"]
    assert solid_from_contours(plain, CT, EndCap.TAPERED).reasons == ()


def test_single_plane_is_as_thick_as_a_slice_of_the_ct() -> None:
    one = [at(square(10), 1.0)]
    for cap in (EndCap.HALF_SLICE, EndCap.TAPERED):
        assert solid_from_contours(one, CT, cap).volume_cm3 == pytest.approx(0.3)
    with pytest.raises(EmptyStructureError, match="one plane alone"):
        solid_from_contours(one, CT, EndCap.NONE)
    assert slice_sum_cm3(one, CT, EndCap.NONE) == 0.0
    across = [Contour(np.roll(one[0].points, 1, axis=1))]
    with pytest.raises(EmptyStructureError, match="one plane alone"):
        solid_from_contours(across, CT, EndCap.HALF_SLICE)


def test_nothing_drawn_is_refused() -> None:
    with pytest.raises(EmptyStructureError, match="no contour"):
        solid_from_contours([], CT, EndCap.TAPERED)
    line = np.array([[0.0, 0], [10, 0], [20, 0], [10, 0]])
    with pytest.raises(EmptyStructureError, match="encloses an area"):
        solid_from_contours(drawn(line), CT, EndCap.TAPERED)


def test_line_among_outlines_is_left_out_and_told() -> None:
    line = np.array([[0.0, 20], [10, 20], [20, 20]])
    solid = solid_from_contours(drawn(square(10), line), CT, EndCap.TAPERED)
    assert solid.volume_cm3 == pytest.approx(1.2)
    assert "enclose no area" in solid.reasons[0]


def test_planes_that_are_not_parallel_are_refused() -> None:
    tilted = Contour(at(square(10), 20.0).points @ rotation(30, 0, 0).T)
    with pytest.raises(InputRejectedError, match="parallel"):
        solid_from_contours([*drawn(square(10)), tilted], CT, EndCap.TAPERED)


@pytest.mark.parametrize(("step_mm", "is_told"), [(3.0, False), (6.0, True), (18.0, True)])
def test_contours_that_leave_out_slices_of_the_ct_are_told(step_mm: float, is_told: bool) -> None:
    """Two squares far apart are still one body, which nobody drew in between."""
    contours = [at(square(20), z) for z in (0.0, step_mm)]
    reasons = solid_from_contours(contours, CT, EndCap.HALF_SLICE).reasons
    assert (
        any(f"{step_mm:.1f} mm apart on CT slices of 3.0 mm" in each for each in reasons) == is_told
    )


@pytest.mark.parametrize("cap", [EndCap.HALF_SLICE, EndCap.TAPERED])
def test_gap_between_planes_is_no_body(cap: EndCap) -> None:
    """Seven planes of 3 mm, one of them missing in the middle: two bodies of three."""
    contours = [at(square(10), z) for z in (0.0, 3, 6, 12, 15, 18)]
    solid = solid_from_contours(contours, CT, cap)
    assert solid.volume_cm3 == pytest.approx(1.8)
    assert "gap" in solid.reasons[0]
    heights = solid.centres_mm[:, 2]
    assert not np.any((heights > 7.5) & (heights < 10.5))


def test_uneven_planes_share_what_lies_between_them() -> None:
    contours = [at(square(10), z) for z in (0.0, 3.0, 6.9, 9.9)]
    solid = solid_from_contours(contours, CT, EndCap.HALF_SLICE)
    assert solid.volume_cm3 == pytest.approx(1.29)


def test_contours_between_the_slices_of_the_ct() -> None:
    """Drawn on planes of 2 mm on a CT of 3 mm: the planes count, not the slices."""
    contours = outlines(ball(12.0), 2.0, 0.3)
    solid = solid_from_contours(contours, slices(3.0), EndCap.TAPERED)
    assert solid.volume_cm3 == pytest.approx(ball(12.0).volume_cm3, rel=0.002)


def test_branch_and_island_keep_their_slice() -> None:
    """On two of four planes a second piece is drawn: it is as thick as its slices."""
    contours = [*drawn(square(20)), at(square(6, x=30), 3.0), at(square(6, x=30), 6.0)]
    solid = solid_from_contours(contours, CT, EndCap.TAPERED)
    island = solid.centres_mm[:, 0] > 20
    assert solid.volumes_mm3[island].sum() == pytest.approx(36.0 * 6.0, rel=0.02)
    assert solid.volumes_mm3[~island].sum() == pytest.approx(400.0 * 12.0, rel=0.01)


def test_boxes_lie_within_the_outline_and_are_small() -> None:
    contours = outlines(ball(6.0), 3.0, 0.4)
    solid = solid_from_contours(contours, CT, EndCap.TAPERED)
    assert solid.widths_mm.max() <= 0.5
    assert len(solid.volumes_mm3) > 10_000
    assert np.linalg.norm(solid.points_mm, axis=1).max() < 6.4
    assert solid.volumes_mm3.min() > 0
    for array in (solid.centres_mm, solid.volumes_mm3):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_dose_that_ends_within_the_structure_covers_a_part() -> None:
    """The dose reaches up to z = 4: 5.5 of 12 mm."""
    solid = solid_from_contours(drawn(square(10)), CT, EndCap.HALF_SLICE)
    part = dose_grid(rising(np.array([0.0, 0.0, 1.0])), 1.0, reach_mm=4.0)
    wide = dose_grid(rising(np.array([0.0, 0.0, 1.0])), 1.0, reach_mm=20.0)
    covered = histogram(solid, part)
    whole = histogram(solid, wide)
    assert covered is not None
    assert whole is not None
    assert covered.covered_fraction == pytest.approx(0.8 * 0.8 * 5.5 / 12, rel=0.01)
    assert covered.dose_to_percent(95) is None
    assert covered.max_gy == pytest.approx(49.0, abs=0.3)
    assert whole.covered_fraction == pytest.approx(1.0)
    far = dose_grid(rising(np.array([0.0, 0.0, 1.0])), 1.0, shift_mm=100.0, reach_mm=5.0)
    assert histogram(solid, far) is None


def test_mask_and_level() -> None:
    geometry = grid((3.0, 1.0, 1.0), (11, 40, 40))
    mask, away = sphere(geometry, 10.0)
    by_voxels = solid_from_mask(mask)
    assert by_voxels.volume_cm3 == pytest.approx(mask.volume_cm3)
    level = VoxelField(geometry, (0, 0, 0), (-away).astype(np.float32))
    by_level = solid_from_mask(mask, level)
    assert by_level.volume_cm3 == pytest.approx(4 / 3 * np.pi, rel=0.02)
    along = geometry.axes[:, 0]
    middle = float((geometry.centre_mm() + 0.3) @ along)
    dose = dose_grid(lambda p: np.maximum(60 + p @ along - middle, 0), 2.0, reach_mm=160.0)
    dvh = histogram(by_level, dose)
    assert dvh is not None
    assert dvh.dose_to_percent(50) == pytest.approx(60.0, abs=0.2)
    assert dvh.dose_to_percent(95) == pytest.approx(60.0 - 7.293, abs=0.4)
    with pytest.raises(EmptyStructureError, match="no voxel"):
        solid_from_mask(Mask(geometry, np.zeros(geometry.shape, dtype=np.bool_)))
    assert geometry.frame_of_reference_uid != FRAME


def test_large_mask_is_few_boxes_of_the_same_volume() -> None:
    """A body of 1.4 million voxels in a dose that rises to the back."""
    geometry = grid((3.0, 1.0, 1.0), (40, 199, 202), origin_mm=(-100.0, -99.0, -60.0))
    inside = np.zeros(geometry.shape, dtype=np.bool_)
    inside[1:39, 3:194, 3:198] = True
    solid = solid_from_mask(Mask(geometry, inside))
    assert len(solid.volumes_mm3) < 500_000
    assert solid.volume_cm3 == pytest.approx(38 * 191 * 195 * 3.0 / 1000.0)
    dose = dose_grid(lambda p: 200.0 + p[:, 1], 4.0, reach_mm=112.0)
    dvh = histogram(solid, dose)
    assert dvh is not None
    middle = 200.0 - 99.0 + (3 + 193) / 2.0
    assert dvh.mean_gy == pytest.approx(middle, abs=0.1)
    assert dvh.dose_to_percent(95) == pytest.approx(middle - 0.45 * 191, abs=0.3)
