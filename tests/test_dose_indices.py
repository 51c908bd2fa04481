"""Isodose volumes and the hottest dose at a distance, against closed forms worked out by hand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from handlers.decode.dose import decode_dose
from handlers.dosimetry.indices import Isodose, hottest_beyond, isodose
from handlers.geometry import Geometry
from handlers.values import DoseGrid
from tests.grids import FACINGS, grid

Array = npt.NDArray[np.float64]

PEAK_GY = 50.0


def centred(spacing_mm: float, reach_mm: float, facing: str = "head first supine") -> Geometry:
    """Return a cubic grid round a point that is none of its voxel centres."""
    count = 2 * int(reach_mm / spacing_mm) + 2
    axes = FACINGS[facing]
    away = np.array([0.37, -0.21, 0.44]) * spacing_mm - (count - 1) / 2 * spacing_mm
    steps = (spacing_mm, spacing_mm, spacing_mm)
    return grid(steps, (count, count, count), axes, axes @ away)


def points(geometry: Geometry) -> Array:
    at = np.indices(geometry.shape).reshape(3, -1).T
    return geometry.points_from_indices(at)


def gaussian(geometry: Geometry, sigma_mm: float) -> DoseGrid:
    away = geometry.distances_mm((0.0, 0.0, 0.0))
    return dose_of(geometry, PEAK_GY * np.exp(-(away**2) / (2 * sigma_mm**2)))


def dose_of(geometry: Geometry, values: npt.ArrayLike) -> DoseGrid:
    return DoseGrid(geometry, np.asarray(values, dtype=np.float32).reshape(geometry.shape))


def ball_of_points(radius_mm: float, step_mm: float = 0.5) -> Array:
    line = np.arange(-radius_mm, radius_mm + step_mm / 2, step_mm)
    at = np.stack(np.meshgrid(line, line, line), axis=-1).reshape(-1, 3)
    return at[np.linalg.norm(at, axis=1) <= radius_mm]


def sphere_of_points(radius_mm: float, count: int = 6000) -> Array:
    """Return points spread evenly over a sphere: a golden spiral."""
    at = np.arange(count) + 0.5
    z = 1 - 2 * at / count
    turn = np.pi * (1 + np.sqrt(5)) * at
    across = np.sqrt(1 - z**2)
    return radius_mm * np.column_stack((across * np.cos(turn), across * np.sin(turn), z))


def whole(found: Isodose) -> float:
    return found.cm3(found.parts)


@pytest.mark.parametrize("facing", ["head first supine", "oblique"])
@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("radius_mm", [8.0, 12.0, 25.0])
def test_isodose_of_a_gaussian_dose_is_the_ball_of_the_closed_form(
    radius_mm: float, spacing_mm: float, facing: str
) -> None:
    """To 0.2 %, once what linear interpolation does to a curved dose is taken into account.

    Over a cell it changes the dose by h^2/12 of its Laplacian on average, which moves the surface
    by that over the slope: h^2/12 (r/s^2 - 3/r) for a Gaussian.
    """
    sigma_mm = radius_mm / 1.2
    found = isodose(
        gaussian(centred(spacing_mm, radius_mm + 5, facing), sigma_mm),
        PEAK_GY * np.exp(-(1.2**2) / 2),
    )
    shift_mm = spacing_mm**2 / 12 * (radius_mm / sigma_mm**2 - 3 / radius_mm)
    expected = 4 / 3 * np.pi * (radius_mm + shift_mm) ** 3 / 1000
    assert whole(found) == pytest.approx(expected, rel=0.002)
    assert len(found.parts) == 1
    assert not found.reaches_rim(found.parts)


def test_isodose_of_a_linear_dose_is_exact_and_told_to_reach_the_rim() -> None:
    """Half-space in a box of 38 x 38 x 38 mm, from x = 4.3 mm on: nothing but arithmetic."""
    geometry = grid((2.0, 2.0, 2.0), (20, 20, 20), origin_mm=(-19.0, -19.0, -19.0))
    found = isodose(dose_of(geometry, 100 + points(geometry)[:, 0]), 104.3)
    assert whole(found) == pytest.approx(38 * 38 * (19 - 4.3) / 1000, rel=1e-5)
    assert found.reaches_rim(found.parts)


def test_uniform_dose_lies_in_its_own_isodose() -> None:
    """Stored doses are rounded: 0.1 Gy times 400 is not 40 Gy to the last bit."""
    geometry = grid((2.0, 2.0, 2.0), (10, 10, 10))
    stored = np.full(geometry.shape, 400) * np.float32(0.1)
    assert whole(isodose(dose_of(geometry, stored), 40.0)) == pytest.approx(18**3 / 1000)


def test_isodose_nowhere_reached_has_no_part_and_no_volume() -> None:
    found = isodose(gaussian(centred(2.0, 20.0), 8.0), PEAK_GY + 1)
    assert found.parts == frozenset()
    assert whole(found) == 0.0
    assert not found.parts_at(centred(2.0, 20.0), np.zeros((1, 3)), np.array([PEAK_GY]))


def test_parts_of_an_isodose_belong_to_who_touches_them() -> None:
    """Two balls of dose 60 mm apart, of 10 and 6 mm: each point finds its own."""
    geometry = grid((2.0, 2.0, 2.0), (31, 31, 61), origin_mm=(-30.0, -30.0, -30.0))
    left = geometry.distances_mm((0.0, 0.0, 0.0))
    right = geometry.distances_mm((60.0, 0.0, 0.0))
    # linear in the radius, through 25 Gy at 10 and at 6 mm
    values = np.maximum(25 + (10 - left), 25 + (6 - right))
    found = isodose(dose_of(geometry, np.maximum(values, 0)), 25.0)
    at = np.array([[0.0, 0.0, 0.0], [59.0, 1.0, 0.0]])
    here = found.parts_at(geometry, at[:1], np.array([35.0]))
    there = found.parts_at(geometry, at[1:], np.array([30.0]))
    assert found.parts == here | there
    assert not here & there
    # linear interpolation takes h^2/12 of the Laplacian 2/r from such a dose: h^2/6r of the radius
    for parts, radius_cm in ((here, 1.0 - 0.4 / 60), (there, 0.6 - 0.4 / 36)):
        assert found.cm3(parts) == pytest.approx(4 / 3 * np.pi * radius_cm**3, rel=0.005)
    # a point that gets less than the dose touches nothing
    assert not found.parts_at(geometry, at[:1], np.array([24.0]))


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
def test_hottest_dose_at_two_centimetres_of_a_ball(spacing_mm: float) -> None:
    """Dose that falls evenly with the distance from a ball: what it has at 20 mm, to 0.3 mm."""
    radius_mm = 10.0
    geometry = centred(spacing_mm, radius_mm + 25)
    away = geometry.distances_mm((0.0, 0.0, 0.0)) - radius_mm
    found = hottest_beyond(
        dose_of(geometry, 60 - away), ball_of_points(radius_mm), sphere_of_points(radius_mm), 20.0
    )
    assert found is not None
    assert not found.is_bound
    assert found.dose_gy == pytest.approx(40.0, abs=0.3)


def test_hottest_dose_at_two_centimetres_when_it_lies_on_one_side() -> None:
    """A beam's tail along +x: the hottest far point is found on that axis, none on the others."""
    geometry = centred(2.0, 45.0)
    x, y, z = points(geometry).T
    tail = 30 * np.exp(-(y**2 + z**2) / (2 * 12.0**2)) * (1 + 0.01 * x)
    found = hottest_beyond(
        dose_of(geometry, np.where(x > 0, tail, 0)),
        ball_of_points(10.0),
        sphere_of_points(10.0),
        20,
    )
    assert found is not None
    # the tail rises along x, so its hottest place is where the grid ends
    assert found.dose_gy == pytest.approx(30 * (1 + 0.01 * x.max()), rel=0.01)


def test_hottest_dose_inside_a_wide_target_never_counts_as_far_away() -> None:
    """The middle of a ball of 30 mm is 30 mm from its surface, and no far place all the same."""
    geometry = centred(3.0, 60.0)
    away = geometry.distances_mm((0.0, 0.0, 0.0))
    found = hottest_beyond(
        dose_of(geometry, 150 - away), ball_of_points(30.0, 1.5), sphere_of_points(30.0), 20.0
    )
    assert found is not None
    assert found.dose_gy == pytest.approx(100.0, abs=0.5)


def test_hottest_dose_is_a_bound_where_the_dose_grid_ends_too_near() -> None:
    geometry = centred(2.0, 40.0)
    near_side = geometry.crop((0, 0, 10), (geometry.shape[0], geometry.shape[1], 30))
    away = near_side.distances_mm((0.0, 0.0, 0.0))
    surface = sphere_of_points(10.0)
    found = hottest_beyond(dose_of(near_side, 80 - away), ball_of_points(10.0), surface, 20.0)
    assert found is not None
    assert found.is_bound
    small = centred(2.0, 14.0)
    nothing = hottest_beyond(
        dose_of(small, np.ones(small.shape)), ball_of_points(12.0), sphere_of_points(12.0), 20.0
    )
    assert nothing is None


@pytest.mark.real_data
def test_isodose_of_a_clinical_dose_is_what_counting_finds(real_data: Path) -> None:
    """rt-dose-plan, 14 Gy and 7 Gy: against counting the points of a grid eight times as fine.

    Counts with ever finer grids rise to 59.46 cm3 for 14 Gy; this one has 59.44.
    """
    ds = pydicom.dcmread(real_data / "rt-dose-plan" / "rtdose.dcm")
    dose, _ = decode_dose(ds, str(ds.FrameOfReferenceUID))
    assert dose is not None
    fine = 8
    for threshold_gy, least_cm3 in ((14.0, 50.0), (7.0, 150.0)):
        hot = np.argwhere(dose.dose_gy >= threshold_gy)
        around = tuple(map(slice, hot.min(axis=0) - 1, hot.max(axis=0) + 2))
        values = dose.dose_gy[around].astype(np.float64)
        z, y, x = ((np.arange((n - 1) * fine) + 0.5) / fine for n in values.shape)
        count = 0
        for at in z:
            layer = between(values[int(at)], values[int(at) + 1], at)
            if layer.max() >= threshold_gy:
                rows = np.array([between(layer[int(j)], layer[int(j) + 1], j) for j in y])
                low = x.astype(int)
                points = between(rows[:, low], rows[:, low + 1], x)
                count += int(np.count_nonzero(points >= threshold_gy))
        counted_cm3 = count * dose.geometry.voxel_volume_mm3 / fine**3 / 1000
        assert counted_cm3 > least_cm3
        assert whole(isodose(dose, threshold_gy)) == pytest.approx(counted_cm3, rel=0.002)


def between(low: Array, high: Array, at: npt.ArrayLike) -> Array:
    """Return what lies between two neighbours, at the fractional part of an index."""
    part = np.asarray(at) % 1.0
    return np.asarray((1 - part) * low + part * high)
