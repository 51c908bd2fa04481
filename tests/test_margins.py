"""Margins: true in mm on any grid, cut at organs, never a shrinking; truth worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry
from handlers.margins import Margins, Shape, cut_out, grow, intersection, shape_of, union
from handlers.results import VoxelField
from handlers.values import Mask
from tests.grids import FACINGS

SIX = Margins(left_mm=3, right_mm=7, anterior_mm=0, posterior_mm=5, superior_mm=8, inferior_mm=2)


def grid(
    name: str = "head first supine",
    *,
    spacing_mm: tuple[float, float, float] = (2.5, 1.0, 1.0),
    extent_mm: float = 60.0,
) -> Geometry:
    """Return a grid of that orientation round the origin, which lies between the voxels."""
    matrix = np.eye(4)
    matrix[:3, :3] = FACINGS[name] * np.array(spacing_mm)
    slices, rows, columns = (round(extent_mm / mm) for mm in spacing_mm)
    middle = (np.array([slices, rows, columns]) - 1) / 2 + np.array([0.3, 0.2, 0.4])
    matrix[:3, 3] = -matrix[:3, :3] @ middle
    return Geometry("1.2", matrix, (slices, rows, columns))


def points(geometry: Geometry) -> npt.NDArray[np.float64]:
    return geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)


def ball(geometry: Geometry, radius_mm: float, centre_mm: tuple[float, ...] = (0, 0, 0)) -> Mask:
    return Mask(geometry, geometry.distances_mm(centre_mm) <= radius_mm)


def box(geometry: Geometry, half_mm: tuple[float, float, float]) -> Mask:
    inside = np.all(np.abs(points(geometry)) <= half_mm, axis=1)
    return Mask(geometry, inside.reshape(geometry.shape))


def radii_mm(shape: Shape) -> npt.NDArray[np.float64]:
    """Return how far the surface lies from the origin in 1000 directions, found on the level."""
    ways = np.random.default_rng(7).normal(size=(1000, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    radii = np.arange(4.0, 25.0, 0.05)
    at = shape.level.geometry.indices_from_points((ways[:, None] * radii[:, None]).reshape(-1, 3))
    found = ndimage.map_coordinates(shape.level.values, at.T, order=1, mode="nearest")
    return np.asarray(radii[(found.reshape(1000, -1) <= 0).argmax(axis=1)])


@pytest.mark.parametrize("name", FACINGS)
def test_ball_when_grown_evenly_is_a_larger_ball(name: str) -> None:
    """Issue 5, point 5: 10 mm and a margin of 5 mm are 15 mm: 0.2 mm and 1 % at 1 x 1 x 2.5 mm."""
    grown = grow(shape_of(ball(grid(name), 10.0)), Margins.even(5.0))
    assert np.abs(radii_mm(grown) - 15.0).mean() < 0.2
    assert grown.mask.volume_cm3 == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.01)


@pytest.mark.parametrize("name", FACINGS)
def test_box_when_grown_reaches_as_far_as_told_to_each_of_the_patients_sides(name: str) -> None:
    """LPS: left is +x, posterior +y, superior +z, however the grid lies; six different margins."""
    geometry = grid(name, spacing_mm=(1.0, 1.0, 1.0))
    half_mm = (8.0, 6.0, 7.0)
    grown = grow(shape_of(box(geometry, half_mm)), SIX)
    reached = points(geometry)[grown.mask.inside.ravel()]
    high, low = (8 + 3, 6 + 5, 7 + 8), (-8 - 7, -6 - 0, -7 - 2)
    # voxel centres: a step of 1 mm, seen across its corner where the grid is oblique
    slack = 1.0 if name != "oblique" else 1.3
    assert np.abs(reached.max(axis=0) - high).max() <= slack
    assert np.abs(reached.min(axis=0) - low).max() <= slack


@pytest.mark.parametrize("name", ["head first supine", "oblique"])
def test_ball_when_grown_unevenly_has_the_volume_of_its_minkowski_sum(name: str) -> None:
    """Six different margins: Steiner's formula V + S r + M r^2 + 4/3 pi r^3 of the margin's body.

    Volume and surface (Thomsen's formula, 1 %) are summed over the octants of eight ellipsoids; M
    is 4 pi times the mean of the support function.
    """
    radius_mm = 10.0
    grown = grow(shape_of(ball(grid(name), radius_mm)), SIX)
    sides = [(3.0, 7.0), (5.0, 0.0), (8.0, 2.0)]
    octants = [(a, b, c) for a in sides[0] for b in sides[1] for c in sides[2]]
    volume = sum(np.pi / 6 * a * b * c for a, b, c in octants)
    p = 1.6075
    surface = sum(
        np.pi / 2 * ((a**p * b**p + a**p * c**p + b**p * c**p) / 3) ** (1 / p)
        for a, b, c in octants
    )
    ways = np.random.default_rng(3).normal(size=(200_000, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    reach = [
        np.where(way > 0, up, down) * way for (up, down), way in zip(sides, ways.T, strict=True)
    ]
    mean_support = np.linalg.norm(reach, axis=0).mean()
    expected_mm3 = (
        volume
        + surface * radius_mm
        + 4 * np.pi * mean_support * radius_mm**2
        + 4 / 3 * np.pi * radius_mm**3
    )
    assert grown.mask.volume_cm3 * 1000 == pytest.approx(expected_mm3, rel=0.015)


def test_side_without_margin_when_the_others_have_one_keeps_its_surface() -> None:
    """A margin of zero adds no voxel on its side, and takes none."""
    geometry = grid()
    source = box(geometry, (8.0, 6.0, 7.0))
    grown = grow(shape_of(source), Margins(0, 5, 5, 5, 5, 5))
    x = points(geometry)[:, 0].reshape(geometry.shape)
    assert x[grown.mask.inside].max() == x[source.inside].max()
    assert grown.mask.inside[source.inside].all()
    assert x[grown.mask.inside].min() < x[source.inside].min() - 4


def test_shape_when_grown_by_nothing_is_the_same() -> None:
    """No margin is no change, to the voxel and below."""
    shape = shape_of(ball(grid(), 9.0))
    assert grow(shape, Margins.even(0.0)) is shape


def test_target_when_grown_at_the_border_ends_with_the_grid() -> None:
    """Nothing is written beyond the CT, and nothing is lost within it."""
    geometry = grid(extent_mm=30.0)
    source = ball(geometry, 10.0, (12.0, 0.0, 0.0))
    grown = grow(shape_of(source), Margins.even(5.0))
    expected = ball(geometry, 15.0, (12.0, 0.0, 0.0))
    wrong = np.count_nonzero(grown.mask.inside ^ expected.inside)
    assert wrong < 0.03 * np.count_nonzero(expected.inside)


def test_level_when_given_counts_below_the_voxels() -> None:
    """A ball of 10.4 mm, told by its level on coarse voxels, grows as itself, not as its voxels."""
    geometry = grid(spacing_mm=(3.0, 2.0, 2.0))
    for radius_mm in (10.0, 10.4, 10.8):
        values = (radius_mm - geometry.distances_mm((0, 0, 0))).astype(np.float32)
        # in another unit than mm, and flat where it does not matter
        level = VoxelField(geometry, (0, 0, 0), np.clip(values / 4.0, -1.0, 1.0))
        grown = grow(shape_of(Mask(geometry, values > 0), level), Margins.even(5.0))
        assert radii_mm(grown).mean() == pytest.approx(radius_mm + 5.0, abs=0.1)


def test_margin_when_an_organ_is_near_stays_out_and_the_target_is_never_cut() -> None:
    """Issue 5: clipped at organs; what it grew from stays even where it overlaps the organ."""
    geometry = grid(spacing_mm=(1.0, 1.0, 1.0))
    source = shape_of(ball(geometry, 10.0))
    x = points(geometry)[:, 0].reshape(geometry.shape)
    organ = Mask(geometry, x > 9.0)
    clipped = cut_out(grow(source, Margins.even(6.0)), organ, kept=source)
    assert clipped.mask.inside[source.mask.inside].all()
    outside_source = clipped.mask.inside & ~source.mask.inside
    assert not (outside_source & organ.inside).any()
    assert x[outside_source].max() > 7.9
    free = x < 6.0
    whole = grow(source, Margins.even(6.0)).mask.inside
    assert np.array_equal(clipped.mask.inside[free], whole[free])


def test_prv_when_asked_for_keeps_its_distance() -> None:
    """Issue 5: PRV rules. A plane at x = 12 mm and 3 mm: the margin ends at 9 mm."""
    geometry = grid(spacing_mm=(1.0, 1.0, 1.0))
    source = shape_of(ball(geometry, 7.0))
    x = points(geometry)[:, 0].reshape(geometry.shape)
    organ = Mask(geometry, x > 12.0)
    wall_mm = (x[organ.inside].min() + x[~organ.inside].max()) / 2
    clipped = cut_out(grow(source, Margins.even(8.0)), organ, kept=source, margin_mm=3.0)
    reached = x[clipped.mask.inside].max()
    assert wall_mm - 3.0 - 1.0 <= reached <= wall_mm - 3.0
    # an organ that is far away, or has no voxel, takes nothing
    empty = Mask(geometry, np.zeros(geometry.shape, dtype=bool))
    grown = grow(source, Margins.even(2.0))
    assert cut_out(grown, empty, kept=source, margin_mm=3.0) is grown


def test_union_and_intersection_when_made_are_those_of_the_masks() -> None:
    """Voxel by voxel; the levels go with them."""
    geometry = grid()
    first, second = (ball(geometry, r, (x, 0, 0)) for r, x in ((10.0, -3.0), (8.0, 6.0)))
    both = union(shape_of(first), shape_of(second))
    assert np.array_equal(both.mask.inside, first.inside | second.inside)
    shared = intersection(shape_of(first), shape_of(second))
    assert np.array_equal(shared.mask.inside, first.inside & second.inside)
    for shape in (both, shared):
        assert shape_of(shape.mask, shape.level).mask is shape.mask
    apart = intersection(shape_of(first), shape_of(ball(geometry, 4.0, (20, 0, 0))))
    assert not apart.mask.inside.any()


def test_bad_shapes_and_margins_when_given_are_refused() -> None:
    """A programmer's or a protocol's mistake ends in words, not in a wrong ROI."""
    geometry = grid()
    mask = ball(geometry, 5.0)
    with pytest.raises(EmptyStructureError):
        shape_of(Mask(geometry, np.zeros(geometry.shape, dtype=bool)))
    wrong = VoxelField(geometry, (0, 0, 0), np.ones(geometry.shape, dtype=np.float32))
    with pytest.raises(GeometryMismatchError, match="sign"):
        shape_of(mask, wrong)
    with pytest.raises(ValueError, match="zero or more"):
        Margins.even(-1.0)


def test_margins_when_told_are_words() -> None:
    """A person reads them in the ROI's description."""
    assert Margins.even(5.0).told() == "5 mm on all sides"
    assert SIX.told() == (
        "left 3 mm, right 7 mm, anterior 0 mm, posterior 5 mm, superior 8 mm, inferior 2 mm"
    )
