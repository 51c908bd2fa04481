"""Contours to bodies: what lies between and beyond the planes, against formulas."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from handlers.contour_metrics import Structure, volumes_cm3
from handlers.contour_metrics.stack import slice_sum_cm3, stack_of
from handlers.dose_results import EndCap
from handlers.geometry import Geometry
from handlers.values import Contour
from tests.drawn_shapes import ball, box, drawn, ellipsoid, prism, rectangle, structure
from tests.grids import FACINGS, grid

OBLIQUE = FACINGS["oblique"]


def _grid(slice_mm: float, *, axes: npt.ArrayLike = FACINGS["head first supine"]) -> Geometry:
    return grid((slice_mm, 1.0, 1.0), (math.ceil(54 / slice_mm), 56, 56), axes)


def _off_surface_mm(what: Structure, centre_mm: Sequence[float], radius_mm: float) -> npt.NDArray:
    surface = what.contour_surface
    assert surface is not None
    return np.linalg.norm(surface.corners - np.array(centre_mm), axis=1) - radius_mm


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("radius_mm", [5.0, 20.0])
@pytest.mark.parametrize("offset", [0.23, 0.5])
def test_surface_of_a_ball_lies_where_it_was_drawn(
    slice_mm: float, radius_mm: float, offset: float
) -> None:
    """At any place between the slices, poles included, all of it is within 0.06 mm."""
    centre = (27.0 + offset * slice_mm, 27.3, 28.1)
    off_mm = _off_surface_mm(ball(_grid(slice_mm), centre, radius_mm), centre, radius_mm)
    assert np.abs(off_mm).max() < 0.06


@pytest.mark.parametrize("axes", [OBLIQUE, FACINGS["sagittal"], FACINGS["feet first supine"]])
def test_surface_does_not_hang_on_the_orientation(axes: npt.ArrayLike) -> None:
    """The same on any grid."""
    centre = (27.4, 27.3, 28.1)
    off_mm = _off_surface_mm(ball(_grid(2.0, axes=axes), centre, 9.0), centre, 9.0)
    assert np.abs(off_mm).max() < 0.05


@pytest.mark.parametrize(
    ("slice_mm", "most_mm", "worst_mm"), [(1.0, 0.05, 0.2), (2.0, 0.1, 0.4), (3.0, 0.2, 0.5)]
)
def test_flat_and_long_ellipsoids_keep_their_shape(
    slice_mm: float, most_mm: float, worst_mm: float
) -> None:
    """6 x 12 x 8 mm on 12 to 4 slices, and 14 x 6 x 6 mm; volume within 1 %."""
    for radii in ((6.0, 12.0, 8.0), (14.0, 6.0, 6.0)):
        centre = np.array((27.4, 27.3, 28.1))
        what = ellipsoid(_grid(slice_mm), centre, radii)
        surface = what.contour_surface
        assert surface is not None
        # how far off along the normal: the formula's value over its slope
        at = (surface.corners - centre) / radii
        slope = np.linalg.norm(2.0 * at / radii, axis=1)
        off_mm = np.abs((at**2).sum(axis=1) - 1.0) / slope
        assert np.percentile(off_mm, 90) < most_mm
        assert off_mm.max() < worst_mm
        volume_cm3 = 4 / 3 * math.pi * math.prod(radii) / 1000
        assert surface.volume_cm3 == pytest.approx(volume_cm3, rel=0.01)


def test_straight_walls_end_half_a_step_beyond_the_last_contour() -> None:
    """A cylinder of 10 mm radius drawn on 11 slices 2 mm apart is 22 mm long; 20 mm by `NONE`."""
    geometry = _grid(2.0)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 27.0 + 10.0 * np.column_stack((np.sin(angles), np.cos(angles)))
    what = prism(geometry, range(8, 19), lambda _: [circle])
    area_cm2 = math.pi
    assert volumes_cm3(what, EndCap.HALF_SLICE)["slices"] == pytest.approx(2.2 * area_cm2, rel=2e-3)
    tapered = volumes_cm3(what, EndCap.TAPERED)["slices"]
    assert tapered == volumes_cm3(what, EndCap.HALF_SLICE)["slices"]
    assert volumes_cm3(what, EndCap.NONE)["slices"] == pytest.approx(2.0 * area_cm2, rel=2e-3)
    assert volumes_cm3(what)["mesh"] == pytest.approx(2.2 * area_cm2, rel=5e-3)
    surface = what.contour_surface
    assert surface is not None
    along = surface.corners[:, 0]
    assert (along.min(), along.max()) == pytest.approx((15.0, 37.0), abs=0.02)


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0])
def test_slice_sum_is_the_sum_by_hand_for_a_ball(slice_mm: float) -> None:
    """Areas of the slices that the ball meets, times the step; half of it less at both ends."""
    radius, centre = 9.0, 27.0 + 0.37 * slice_mm
    what = ball(_grid(slice_mm), (centre, 27.3, 28.1), radius)
    heights = np.arange(60) * slice_mm - centre
    areas = np.pi * np.maximum(radius**2 - heights**2, 0.0)
    met = areas[areas > 0]
    whole = met.sum() * slice_mm / 1000
    assert what.stack is not None
    assert slice_sum_cm3(what.stack, EndCap.HALF_SLICE) == pytest.approx(whole, rel=2e-3)
    ends = (met[0] + met[-1]) * slice_mm / 2 / 1000
    assert slice_sum_cm3(what.stack, EndCap.NONE) == pytest.approx(whole - ends, rel=2e-3)


def test_gap_in_the_drawing_stays_a_gap() -> None:
    """Four slices without a contour part a box in two; each part ends for itself."""
    geometry = _grid(2.0)
    slices = [*range(5, 9), *range(13, 17)]
    what = box(geometry, slices, (20, 20), (30, 30))
    volumes = volumes_cm3(what)
    assert volumes["slices"] == pytest.approx(8 * 2 * 100 / 1000, rel=2e-3)
    assert volumes["mesh"] == pytest.approx(8 * 2 * 100 / 1000, rel=0.02)
    surface = what.contour_surface
    assert surface is not None
    assert not surface.encloses(np.array([[21.0, 25.0, 25.0]]))[0]
    assert surface.encloses(np.array([[12.0, 25.0, 25.0], [30.0, 25.0, 25.0]])).all()


def test_hole_is_the_same_as_rings_as_xor_and_as_a_keyhole() -> None:
    """A hole of 8 mm in a box of 20 mm, drawn in three ways: one volume, one surface."""
    geometry = _grid(2.0)
    places = np.arange(6, 16) * 2.0
    outer, inner = rectangle((18, 18), (38, 38)), rectangle((24, 24), (32, 32))
    keyhole = [outer[0], *outer[1:], outer[0], inner[0], *inner[:0:-1], inner[0]]
    ways = {
        "rings": [drawn(geometry, p, ring) for p in places for ring in (outer, inner)],
        "xor": [
            Contour(drawn(geometry, p, ring).points.copy(), is_exclusive_or=True)
            for p in places
            for ring in (outer, inner)
        ],
        "keyhole": [drawn(geometry, p, keyhole) for p in places],
    }
    wanted = 20 * (400 - 64) / 1000
    for way, contours in ways.items():
        what = structure(geometry, contours)
        assert volumes_cm3(what)["slices"] == pytest.approx(wanted, rel=3e-3), way
        assert volumes_cm3(what)["mesh"] == pytest.approx(wanted, rel=0.015), way
        surface = what.contour_surface
        assert surface is not None
        # on the keyhole's channel there is target, in the hole there is none
        assert surface.encloses(np.array([[21.0, 21.0, 21.0]]))[0], way
        assert not surface.encloses(np.array([[21.0, 28.0, 28.0]]))[0], way


def test_branches_and_ends_of_branches_hold_together() -> None:
    """A trunk of 24 x 10 mm parts into two of 10 x 10 mm, one of which ends earlier."""
    geometry = _grid(2.0)

    def rings(index: int) -> list[list[tuple[float, float]]]:
        left, right = rectangle((20, 16), (30, 26)), rectangle((20, 30), (30, 40))
        if index < 10:
            return [rectangle((20, 16), (30, 40))]
        return [left, right] if index < 14 else [left]

    what = prism(geometry, range(6, 18), rings)
    by_hand = (4 * 240 + 4 * 200 + 4 * 100) * 2 / 1000
    volumes = volumes_cm3(what)
    assert volumes["slices"] == pytest.approx(by_hand, rel=3e-3)
    assert volumes["mesh"] == pytest.approx(by_hand, rel=0.02)
    surface = what.contour_surface
    assert surface is not None
    along = surface.corners[surface.corners[:, 2] > 31.0][:, 0]
    assert along.max() == pytest.approx(13 * 2.0 + 1.0, abs=0.2)


def test_single_slice_and_crossed_rings_have_a_finite_body() -> None:
    """One contour is a plate of one step; a figure of eight is filled by the even-odd rule."""
    geometry = _grid(3.0)
    plate = volumes_cm3(box(geometry, [7], (20, 20), (30, 30)))
    assert plate["slices"] == pytest.approx(0.3, rel=3e-3)
    assert plate["mesh"] == pytest.approx(0.3, rel=0.05)
    eight = [(20.0, 20.0), (30.0, 30.0), (20.0, 30.0), (30.0, 20.0)]
    crossed = prism(geometry, range(6, 10), lambda _: [eight])
    assert volumes_cm3(crossed)["slices"] == pytest.approx(4 * 3 * 50 / 1000, rel=5e-3)


def test_planes_between_the_slices_count_and_strangers_do_not() -> None:
    """Contours every 1 mm on a CT of 3 mm slices all count; one off the CT or askew does not."""
    geometry, fine = _grid(3.0), _grid(1.0)
    contours = [
        drawn(fine, place, rectangle((20, 20), (30, 30))) for place in np.arange(15.0, 26.0)
    ]
    stack = stack_of(contours, geometry)
    assert (len(stack.planes), stack.step_mm) == (11, pytest.approx(1.0))
    assert slice_sum_cm3(stack, EndCap.HALF_SLICE) == pytest.approx(1.1, rel=3e-3)
    askew = contours[0].points.copy()
    askew[:2] += geometry.axes[:, 0] * 1.5
    far = drawn(geometry, -40.0, rectangle((20, 20), (30, 30)))
    assert len(stack_of([*contours, far, Contour(askew)], geometry).planes) == 11
    assert structure(geometry, [far]).stack is None
