"""Contours to voxels and back: truth by hand, by formula and by plastimatch."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import cKDTree

from handlers.decode import CaseDatasets, decode_case
from handlers.geometry import Geometry
from handlers.sampling import contours_from_mask, geometry_from_itk, mask_from_roi, slice_of_contour
from handlers.values import Contour, Mask, Roi
from tests.grids import FACINGS, grid, sphere


def ring(
    geometry: Geometry,
    corners: Sequence[tuple[float, float]],
    *,
    index: float = 2,
    is_exclusive_or: bool = False,
) -> Contour:
    """Return a contour through (row, column) corners at a fractional slice index."""
    at = [(index, row, column) for row, column in corners]
    return Contour(geometry.points_from_indices(at), is_exclusive_or=is_exclusive_or)


def box(low: float, high: float) -> list[tuple[float, float]]:
    """Return the corners of a square whose sides lie midway between pixel centres."""
    a, b = low - 0.5, high - 0.5
    return [(a, a), (a, b), (b, b), (b, a)]


def roi(*contours: Contour) -> Roi:
    return Roi(1, "GTV", "GTV", contours)


# --- contours to mask ---


@pytest.mark.parametrize("facing", FACINGS)
@pytest.mark.parametrize("step", [1, -1])
def test_voxels_of_a_triangle_in_any_orientation_and_winding(facing: str, step: int) -> None:
    """A voxel is inside when its centre is, whatever way the patient lies or the contour winds."""
    geometry = grid(axes=FACINGS[facing], spacing_mm=(3.0, 1.3, 0.7))
    corners = [(2.2, 3.1), (15.7, 8.4), (6.3, 20.9)][::step]
    inside = mask_from_roi(roi(ring(geometry, corners)), geometry).inside
    row, column = np.indices(geometry.shape[1:])
    sides = [
        (b[1] - a[1]) * (row - a[0]) - (b[0] - a[0]) * (column - a[1])
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)
    ]
    expected = np.all(np.array(sides) * step > 0, axis=0) | np.all(
        np.array(sides) * step < 0, axis=0
    )
    assert expected.sum() > 50
    assert np.array_equal(inside[2], expected)
    assert not inside[[0, 1, 3, 4]].any()


def test_centres_on_the_border_count_on_one_side_only() -> None:
    """Two squares that share an edge through pixel centres neither overlap nor leave a gap."""
    geometry = grid()
    left = [(4.0, 4.0), (4.0, 8.0), (8.0, 8.0), (8.0, 4.0)]
    right = [(4.0, 8.0), (4.0, 12.0), (8.0, 12.0), (8.0, 8.0)]
    first = mask_from_roi(roi(ring(geometry, left)), geometry).inside
    second = mask_from_roi(roi(ring(geometry, right)), geometry).inside
    assert first.sum() == second.sum() == 16
    assert not np.any(first & second)


KEYHOLE = [
    *[(1.5, 1.5), (1.5, 9.5), (9.5, 9.5), (9.5, 1.5), (5.0, 1.5)],
    *[(5.0, 3.5), (3.5, 3.5), (3.5, 7.5), (7.5, 7.5), (7.5, 3.5), (5.0, 3.5), (5.0, 1.5)],
]


@pytest.mark.parametrize(
    ("rings", "is_exclusive_or", "pixels"),
    [
        pytest.param([box(2, 6)], False, 16, id="square"),
        pytest.param([box(2, 6), box(10, 12)], False, 20, id="apart"),
        pytest.param([box(2, 6), box(4, 8)], False, 28, id="overlap is a union"),
        pytest.param([box(2, 6), box(2, 6)], False, 16, id="drawn twice"),
        pytest.param([box(2, 10), box(4, 8)], False, 48, id="hole by nesting"),
        pytest.param([box(4, 8), box(2, 10)], False, 48, id="hole drawn first"),
        pytest.param([box(2, 10), box(4, 8), box(5, 7)], False, 52, id="island in a hole"),
        pytest.param([box(2, 10), box(2, 8)], False, 28, id="hole that touches the ring"),
        pytest.param([box(2, 10), box(4, 8), box(12, 14)], False, 52, id="hole and neighbour"),
        pytest.param([box(2, 6), box(4, 8)], True, 24, id="overlap of XOR"),
        pytest.param([box(2, 10), box(4, 8)], True, 48, id="hole of XOR"),
        pytest.param([KEYHOLE], False, 48, id="keyhole"),
        pytest.param([KEYHOLE, box(5, 7)], False, 52, id="island in a keyhole's hole"),
        pytest.param([KEYHOLE[::-1]], False, 48, id="keyhole, other winding"),
    ],
)
def test_contours_of_one_plane_are_combined(
    rings: list[list[tuple[float, float]]], is_exclusive_or: bool, pixels: int
) -> None:
    """PS3.3 C.8.8.6.3: XOR if any is of that type, else nested rings are holes, else a union."""
    geometry = grid()
    contours = [ring(geometry, corners, is_exclusive_or=is_exclusive_or) for corners in rings]
    assert mask_from_roi(roi(*contours), geometry).inside.sum() == pixels


@pytest.mark.parametrize(
    ("index", "expected"),
    [(2.0, 2), (2.4, 2), (2.6, 3), (-0.4, 0), (-0.6, None), (4.4, 4), (4.6, None)],
)
def test_slab_of_a_contour(index: float, expected: int | None) -> None:
    """A contour counts on the nearest slice within half a spacing, and nowhere off the grid."""
    geometry = grid()
    contour = ring(geometry, box(2, 6), index=index)
    assert slice_of_contour(contour, geometry) == expected
    filled = np.flatnonzero(mask_from_roi(roi(contour), geometry).inside.any(axis=(1, 2)))
    assert filled.tolist() == ([] if expected is None else [expected])


def test_tilted_contour_lies_on_no_slice() -> None:
    """A contour that is not parallel to the slices is not forced onto one."""
    geometry = grid()
    tilted = geometry.points_from_indices([(1.9, 2, 2), (1.9, 2, 8), (2.1, 8, 8), (2.1, 8, 2)])
    assert slice_of_contour(Contour(tilted), geometry) is None
    assert not mask_from_roi(roi(Contour(tilted)), geometry).inside.any()


def test_nearest_plane_counts_when_several_lie_in_one_slab() -> None:
    """Planes of thinner slices are no rings of one plane: the nearest to the voxel centres wins."""
    geometry = grid()
    large, small = ring(geometry, box(2, 10), index=2.33), ring(geometry, box(4, 8), index=2.0)
    assert mask_from_roi(roi(large, small), geometry).inside.sum() == 16


def test_contour_that_leaves_the_grid_is_cut_at_its_border() -> None:
    """Parts beyond the image contribute nothing and wrap nowhere."""
    geometry = grid()
    contour = ring(geometry, [(-5, -5), (-5, 3.5), (2.5, 3.5), (2.5, -5)])
    inside = mask_from_roi(roi(contour), geometry).inside[2]
    assert inside[:3, :4].all()
    assert inside.sum() == 12
    assert not mask_from_roi(roi(ring(geometry, box(40, 50))), geometry).inside.any()


def test_roi_without_contours_is_empty() -> None:
    """An ROI may be named and not drawn."""
    assert mask_from_roi(roi(), grid()).volume_cm3 == 0


# --- mask to contours ---


def check_contours(mask: Mask) -> tuple[Contour, ...]:
    """Return the contours of a mask after checking what holds for all."""
    contours = contours_from_mask(mask)
    back = mask_from_roi(roi(*contours), mask.geometry)
    assert np.array_equal(back.inside, mask.inside)
    for contour in contours:
        following = np.roll(contour.points, -1, axis=0)
        assert len(contour.points) >= 3
        assert np.linalg.norm(following - contour.points, axis=1).min() > 0
        along = mask.geometry.indices_from_points(contour.points)[:, 0]
        assert np.abs(along - np.round(along)).max() * mask.geometry.spacing_mm[0] < 1e-5
    return contours


@settings(max_examples=40, deadline=None)
@given(arrays(np.bool_, (2, 9, 11)), st.sampled_from(sorted(FACINGS)))
def test_mask_comes_back_from_its_contours(inside: npt.NDArray[np.bool_], facing: str) -> None:
    """Mask to contours to mask is identity: holes, islands, diagonals and borders included."""
    check_contours(Mask(grid((3.0, 0.8, 1.1), (2, 9, 11), FACINGS[facing]), inside))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.98, 0.98), (2.0, 0.7, 1.2)])
def test_contours_of_a_sphere_are_faithful(spacing_mm: tuple[float, float, float]) -> None:
    """A sphere of 10 mm keeps its volume within 1 % and its surface within 0.3 mm on average."""
    geometry = grid(spacing_mm, (16, 30, 30))
    mask, _ = sphere(geometry, 5.0)
    contours = check_contours(mask)
    centre = geometry.centre_mm() + 0.3
    area_mm2 = 0.0
    apart: list[float] = []
    for contour in contours:
        x, y = contour.points[:, 0], contour.points[:, 1]
        area_mm2 += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        height = contour.points[0, 2] - centre[2]
        if abs(height) < 4.0:
            radius = np.linalg.norm(contour.points[:, :2] - centre[:2], axis=1)
            apart += list(np.abs(radius - np.sqrt(25.0 - height**2)))
    assert area_mm2 * spacing_mm[0] / 1000 == pytest.approx(mask.volume_cm3, rel=0.01)
    assert np.mean(apart) < 0.3


def test_contours_are_smoother_than_pixels() -> None:
    """The border of a disc of 10 mm is as long as its circle within 3 % (pixel edges: 27 %)."""
    mask, _ = sphere(grid((20.0, 1.0, 1.0), (1, 40, 40)), 10.004)
    (contour,) = check_contours(mask)
    length = np.linalg.norm(np.roll(contour.points, -1, axis=0) - contour.points, axis=1).sum()
    assert length == pytest.approx(2 * np.pi * 10.0, rel=0.03)


def test_coordinates_are_in_steps_of_a_hundredth_on_an_axial_grid() -> None:
    """Contour Data stays short; the plane is exactly the slice's, whatever its decimals."""
    mask, _ = sphere(grid(), 5.0)
    for contour in check_contours(mask):
        assert np.allclose(contour.points[:, :2], np.round(contour.points[:, :2], 2), atol=1e-9)
        heights = contour.points[:, 2] + 101.123
        assert np.allclose(heights / 3.0, np.round(heights / 3.0), atol=1e-6)


def test_holes_become_keyholes_and_islands_contours() -> None:
    """One contour for a ring with two holes, one for the island in the first hole."""
    inside = np.zeros((1, 30, 30), dtype=bool)
    inside[0, 2:28, 2:28] = True
    inside[0, 5:15, 5:15] = inside[0, 20:24, 20:24] = False
    inside[0, 8:11, 8:11] = True
    assert len(check_contours(Mask(grid(shape=(1, 30, 30)), inside))) == 2


@pytest.mark.parametrize(
    ("what", "count"), [("empty", 0), ("one voxel", 1), ("all", 5), ("one slice", 1)]
)
def test_contours_at_the_extremes(what: str, count: int) -> None:
    """Nothing, one voxel, and masks that touch every border of the grid."""
    inside = np.zeros(grid().shape, dtype=bool)
    if what == "one voxel":
        inside[0, 0, 0] = True
    elif what == "all":
        inside[:] = True
    elif what == "one slice":
        inside[4] = True
    assert len(check_contours(Mask(grid(), inside))) == count


def test_contours_lie_near_the_voxels_border() -> None:
    """No contour point is farther than half a pixel's diagonal from the border of the voxels."""
    mask, _ = sphere(grid((3.0, 1.0, 1.0), (8, 40, 40)), 8.0)
    borders = []
    for index in range(mask.geometry.shape[0]):
        plane = np.pad(mask.inside[index], 1)
        for axis in (0, 1):
            change = np.argwhere(np.diff(plane, axis=axis)).astype(float) - 1
            change[:, axis] += 0.5
            borders.append(np.column_stack((np.full(len(change), index), change)))
    tree = cKDTree(mask.geometry.points_from_indices(np.concatenate(borders)))
    points = np.concatenate([contour.points for contour in contours_from_mask(mask)])
    assert tree.query(points)[0].max() < 0.71


# --- against others ---


@pytest.mark.peers
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_volumes_agree_with_plastimatch(
    real_data: Path, peer_program: Callable[[str], str], tmp_path: Path
) -> None:
    """Of clinical contours (lungs, bowel, stomach; CT of 3 mm) volumes agree within 0.2 %."""
    ct_folder, rtstruct = (
        real_data / "pancreas-ct" / "CT",
        real_data / "pancreas-ct" / "RTSTRUCT.dcm",
    )
    command = [peer_program("plastimatch"), "convert", "--input", str(rtstruct)]
    command += ["--referenced-ct", str(ct_folder), "--output-prefix", str(tmp_path)]
    command += ["--prefix-format", "mha"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    decoded = decode_case(
        CaseDatasets(
            [pydicom.dcmread(path) for path in ct_folder.glob("*.dcm")],
            pydicom.dcmread(rtstruct),
            {},
        )
    )
    rois = decoded.case.structure_set.rois
    assert len(rois) == 5
    for drawn in rois:
        evaluated = mask_from_roi(drawn, decoded.case.ct.geometry)
        itk: Any = SimpleITK.ReadImage(str(tmp_path / f"{drawn.name}.mha"))
        assert geometry_from_itk(
            itk, decoded.case.ct.geometry.frame_of_reference_uid
        ).coincides_with(decoded.case.ct.geometry)
        reference = SimpleITK.GetArrayFromImage(itk) > 0
        assert evaluated.inside.sum() == pytest.approx(reference.sum(), rel=0.002)
        overlap = (
            2 * (evaluated.inside & reference).sum() / (evaluated.inside.sum() + reference.sum())
        )
        assert overlap > 0.999
