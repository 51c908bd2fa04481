"""Contours finer than the voxels: on the surface that the level tells, and back to the mask."""

import numpy as np
import pytest
from scipy import ndimage

from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry
from handlers.results import VoxelField
from handlers.sampling import contours_from_level, contours_from_mask, mask_from_roi
from handlers.values import Mask, Roi
from tests.grids import FACINGS, grid, sphere


def cropped(geometry: Geometry, values: np.ndarray) -> VoxelField:
    """Return the field on the least block round its positive voxels and one more each way."""
    places = [np.flatnonzero((values > 0).any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    start = tuple(max(int(at[0]) - 1, 0) for at in places)
    stop = tuple(min(int(at[-1]) + 2, n) for at, n in zip(places, values.shape, strict=True))
    size = tuple(b - a for a, b in zip(start, stop, strict=True))
    block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    z, y, x = start
    slices, rows, columns = size
    part = geometry.crop((z, y, x), (slices, rows, columns))
    return VoxelField(part, (z, y, x), values[block].astype(np.float32))


@pytest.mark.parametrize("facing", FACINGS)
def test_sphere_when_its_level_is_its_distance_is_drawn_without_staircase(facing: str) -> None:
    """Issue 5, point 1: 12 mm on pixels of 0.9 mm: points within 0.1 mm, volume within 1 %."""
    geometry = grid((2.0, 0.9, 0.9), (16, 36, 36), FACINGS[facing])
    mask, away_mm = sphere(geometry, 12.0)
    contours = contours_from_level(cropped(geometry, -away_mm), mask)
    centre = geometry.centre_mm() + 0.3
    volume_mm3 = 0.0
    for contour in contours:
        at = contour.points - centre
        assert np.abs(np.linalg.norm(at, axis=1) - 12.0).max() < 0.1
        twice = np.cross(at - at[0], np.roll(at, -1, axis=0) - at[0]).sum(axis=0)
        volume_mm3 += float(np.linalg.norm(twice)) / 2 * 2.0
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 12.0**3, rel=0.01)
    # what the mask alone tells is farther off: the level is worth its place
    traced = np.concatenate([c.points for c in contours_from_mask(mask)])
    assert np.abs(np.linalg.norm(traced - centre, axis=1) - 12.0).max() > 0.2


@pytest.mark.parametrize(("pixel_mm", "width"), [(0.2, 3.0), (0.98, 0.7), (0.98, 1.5), (1.3, 3.0)])
def test_level_when_of_any_shape_and_unit_rasterizes_back_to_its_mask(
    pixel_mm: float, width: float
) -> None:
    """Rings, islands, holes, edges of the grid, steps without a slope: `mask_from_roi` agrees."""
    rng = np.random.default_rng(11)
    geometry = grid((3.0, pixel_mm, pixel_mm), (2, 40, 44))
    values = ndimage.gaussian_filter(rng.normal(size=geometry.shape), (0.5, width, width))
    for level in (values, 1e-4 * values, np.where(values > 0, 1.0, -1.0)):
        mask = Mask(geometry, level > 0)
        field = VoxelField(geometry, (0, 0, 0), level.astype(np.float32))
        roi = Roi(1, "x", "", contours_from_level(field, mask))
        assert np.array_equal(mask_from_roi(roi, geometry).inside, mask.inside)


def test_level_when_not_of_its_mask_is_refused() -> None:
    """A contour must never be of another structure than the voxels that were judged."""
    geometry = grid()
    mask, away_mm = sphere(geometry, 6.0)
    level = cropped(geometry, -away_mm)
    other = Mask(geometry, np.roll(mask.inside, 1, axis=2))
    with pytest.raises(GeometryMismatchError, match="sign"):
        contours_from_level(level, other)
    outside = VoxelField(level.geometry, (0, 0, 20), level.values)
    with pytest.raises(GeometryMismatchError, match="beyond"):
        contours_from_level(outside, mask)
