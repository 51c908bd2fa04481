"""Dose at points, histograms of samples, and what is read from a histogram: worked out by hand."""

import numpy as np
import pytest

from handlers.dose_results import Dvh
from handlers.dosimetry.histogram import STEPS, dose_at, histogram_of
from handlers.values import DoseGrid
from tests.grids import FACINGS, grid

HALVES = histogram_of([10.0, 20.0], [3.0, 1.0], 4.0)
"""3 cm3 with 10 Gy, 1 cm3 with 20 Gy."""


def test_dose_of_a_part_of_the_volume() -> None:
    assert HALVES.dose_to_percent(100) == 10.0
    assert HALVES.dose_to_percent(25.1) == 10.0
    assert HALVES.dose_to_percent(25) == 20.0
    assert HALVES.dose_to_cm3(0.03) == 20.0
    assert HALVES.dose_to_cm3(1.01) == 10.0
    assert (HALVES.min_gy, HALVES.max_gy, HALVES.mean_gy) == (10.0, 20.0, 12.5)


def test_volume_of_a_dose() -> None:
    assert [HALVES.volume_at(d) for d in (0.0, 10.0, 10.1, 20.0, 20.1)] == [4.0, 4.0, 1.0, 1.0, 0.0]


def test_samples_of_one_dose_are_one_step() -> None:
    dvh = histogram_of(np.full(1000, 7.0), np.full(1000, 0.002), 2.0)
    assert len(dvh.dose_gy) == 1
    assert (dvh.dose_to_percent(95), dvh.dose_to_cm3(0.03), dvh.geud(4.0)) == (7.0, 7.0, 7.0)


def test_partly_covered_structure_has_bounds_and_no_guess() -> None:
    """Half of 4 cm3 is covered: its hottest quarter is known at least, its D95 not at all."""
    dvh = histogram_of([10.0, 20.0], [1.0, 1.0], 4.0)
    assert (dvh.covered_cm3, dvh.covered_fraction) == (2.0, 0.5)
    assert dvh.dose_to_percent(25) == 20.0
    assert dvh.dose_to_percent(50) == 10.0
    assert dvh.dose_to_percent(95) is None
    assert dvh.dose_to_cm3(2.1) is None


def test_geud_between_its_limits() -> None:
    assert HALVES.geud(1.0) == pytest.approx(12.5)
    assert HALVES.geud(2.0) == pytest.approx(np.sqrt(0.75 * 100 + 0.25 * 400))
    assert HALVES.geud(-10.0) == pytest.approx((0.75 * 10.0**-10 + 0.25 * 20.0**-10) ** -0.1)
    assert HALVES.geud(500.0) == pytest.approx(20.0, rel=0.01)
    assert HALVES.geud(-500.0) == pytest.approx(10.0, rel=0.01)
    assert histogram_of([0.0, 20.0], [1.0, 1.0], 2.0).geud(-5.0) == 0.0


def test_what_makes_no_sense_is_refused() -> None:
    for percent in (0.0, -1.0, 100.1, np.nan):
        with pytest.raises(ValueError, match="part of a structure"):
            HALVES.dose_to_percent(percent)
    for volume in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="volume above zero"):
            HALVES.dose_to_cm3(volume)
    with pytest.raises(ValueError, match="exponent"):
        HALVES.geud(0.0)
    with pytest.raises(ValueError, match="must rise"):
        Dvh(np.array([2.0, 1.0]), np.array([2.0, 1.0]), 2.0, 1.5)
    with pytest.raises(ValueError, match="not finite"):
        Dvh(np.array([1.0, np.nan]), np.array([2.0, 1.0]), 2.0, 1.5)


def test_few_steps_tell_what_all_samples_tell() -> None:
    """A million samples, most of them cold: D_x within 0.1 % of the span, D0.03cc in volume."""
    rng = np.random.default_rng(1)
    doses = 60.0 * rng.random(1_000_000) ** 6
    volumes = rng.uniform(0.5, 1.5, doses.size) * 1e-3
    dvh = histogram_of(doses, volumes, float(volumes.sum()))
    assert len(dvh.dose_gy) <= STEPS
    order = np.argsort(-doses)
    hottest = np.cumsum(volumes[order])
    for volume in (0.03, 0.1, 1.0, 5.0, *np.linspace(0.02, 0.98, 9) * hottest[-1]):
        exact = doses[order][np.searchsorted(hottest, volume)]
        assert exact - 0.06 <= dvh.dose_to_cm3(volume) <= exact + 1e-9
    for dose in (0.01, 1.0, 30.0, 59.0):
        exact = volumes[doses >= dose].sum()
        assert dvh.volume_at(dose) == pytest.approx(exact, rel=0.01, abs=0.001 * hottest[-1])
    assert (dvh.min_gy, dvh.max_gy) == (doses.min(), doses.max())
    assert dvh.mean_gy == pytest.approx(float(np.average(doses, weights=volumes)))
    assert dvh.geud(3.0) == pytest.approx(
        float(np.average(doses**3, weights=volumes) ** (1 / 3)), rel=0.005
    )


@pytest.mark.parametrize("facing", FACINGS)
def test_dose_at_points_of_any_grid(facing: str) -> None:
    """A linear dose is met exactly between voxel centres; beyond the outermost is none."""
    geometry = grid((3.0, 2.0, 2.5), (6, 7, 8), FACINGS[facing])
    slope = np.array([0.3, -0.2, 0.5])

    def linear(points: np.ndarray) -> np.ndarray:
        return 100.0 + points @ slope

    voxels = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    dose = DoseGrid(geometry, linear(voxels).reshape(geometry.shape).astype(np.float32))
    within = np.random.default_rng(0).uniform(0, 1, (50, 3)) * (np.array(geometry.shape) - 1)
    points = geometry.points_from_indices(within)
    found, covered = dose_at(dose, points)
    assert covered.all()
    assert found == pytest.approx(linear(points), abs=1e-4)
    assert dose_at(dose, geometry.corners_mm())[1].all()
    beyond = geometry.points_from_indices([[-0.1, 3, 3], [5.4, 3, 3], [2, 6.01, 3], [2, 3, 7.2]])
    found, covered = dose_at(dose, beyond)
    assert not covered.any()
    assert (found == 0.0).all()


def test_dose_of_a_single_plane_covers_that_plane_alone() -> None:
    geometry = grid((3.0, 2.0, 2.0), (1, 5, 5))
    dose = DoseGrid(geometry, np.ones(geometry.shape, dtype=np.float32))
    points = geometry.points_from_indices([[0, 2, 2], [0.2, 2, 2]])
    assert dose_at(dose, points)[1].tolist() == [True, False]
