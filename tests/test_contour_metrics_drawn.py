"""Contour metrics of drawn contours against shapes whose answers are known by formula."""

import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from handlers.contour_metrics import (
    Structure,
    compare,
    compared,
    overlap_cm3,
    smallest_distance_mm,
)
from handlers.contour_metrics.targets import measured_target
from handlers.dose_results import EndCap
from handlers.geometry import Geometry
from handlers.refinement.account import cause_of_structure
from handlers.results import DerivedTarget, Refinement, TargetResult, TargetStatus, VoxelField
from handlers.values import Mask, Roi
from tests.drawn_shapes import ball, box, ellipsoid, structure
from tests.grids import FACINGS, grid

AXIAL, OBLIQUE = FACINGS["head first supine"], FACINGS["oblique"]
WITHIN_MM = 0.1


def _grid(slice_mm: float, *, axes: npt.ArrayLike = AXIAL) -> Geometry:
    return grid((slice_mm, 1.0, 1.0), (math.ceil(58 / slice_mm), 58, 58), axes)


@pytest.mark.parametrize(
    ("axes", "slice_mm", "radius_mm", "step_mm"),
    [
        (AXIAL, 1.0, 5.0, 2.0),
        (OBLIQUE, 1.0, 8.0, -3.0),
        (AXIAL, 1.0, 20.0, 4.0),
        (OBLIQUE, 2.0, 8.0, 3.0),
        (AXIAL, 3.0, 8.0, -2.0),
        (OBLIQUE, 3.0, 12.0, 4.0),
    ],
)
def test_distances_of_concentric_balls_are_the_difference_of_their_radii(
    axes: npt.ArrayLike, slice_mm: float, radius_mm: float, step_mm: float
) -> None:
    """Every distance, on any grid and wherever the slices lie, within 0.1 mm."""
    geometry = _grid(slice_mm, axes=axes)
    centre = (28.0 + 0.37 * slice_mm, 28.3, 27.6)
    pair = ball(geometry, centre, radius_mm), ball(geometry, centre, radius_mm + step_mm)
    figures = compare(*pair)
    for key in (
        "hd_mm",
        "hd95_mm",
        "hd95_pooled_mm",
        "mean_surface_distance_mm",
        "mean_distance_to_agreement_mm",
    ):
        assert figures[key] == pytest.approx(abs(step_mm), abs=WITHIN_MM), key
    assert figures["centroid_shift_mm"] == pytest.approx(0.0, abs=0.02)
    for name, radius in (("reference", radius_mm), ("evaluated", radius_mm + step_mm)):
        true_cm3 = 4 / 3 * math.pi * radius**3 / 1000
        assert figures[f"volume_mesh_{name}_cm3"] == pytest.approx(true_cm3, rel=0.012)
    assert figures["surface_dsc_1mm"] == 0.0
    if abs(step_mm) > 2.0:
        assert figures["surface_dsc_2mm"] == 0.0


def _distances_between(radius_mm: float, shift_mm: float) -> npt.NDArray[np.float64]:
    """How far the points of a sphere lie from the same sphere shifted, evenly by area."""
    # by Archimedes, the cosine of the angle to the shift is spread evenly over a sphere
    cosine = np.linspace(-1.0, 1.0, 100_001)
    apart = np.sqrt(radius_mm**2 + shift_mm**2 - 2.0 * radius_mm * shift_mm * cosine)
    return np.abs(apart - radius_mm)


@pytest.mark.parametrize(
    ("axes", "slice_mm", "radius_mm", "shift_mm"),
    [
        (AXIAL, 1.0, 5.0, (0.6, -1.1, 0.9)),
        (OBLIQUE, 1.0, 8.0, (2.1, 1.4, -1.7)),
        (AXIAL, 1.0, 14.0, (-1.5, 0.0, 4.0)),
        (OBLIQUE, 2.0, 10.0, (1.3, -2.2, 0.4)),
        (AXIAL, 3.0, 10.0, (2.0, 1.0, 2.0)),
    ],
)
def test_distances_of_shifted_balls(
    axes: npt.ArrayLike, slice_mm: float, radius_mm: float, shift_mm: tuple[float, float, float]
) -> None:
    """Each figure from the distribution of the distance over a sphere, within 0.1 mm."""
    geometry = _grid(slice_mm, axes=axes)
    centre = np.array((28.0 + 0.37 * slice_mm, 28.3, 27.6))
    figures = compare(
        ball(geometry, centre, radius_mm), ball(geometry, centre + shift_mm, radius_mm)
    )
    shift = math.dist(shift_mm, (0, 0, 0))
    apart = _distances_between(radius_mm, shift)
    for key, value in (
        ("hd_mm", shift),
        ("hd95_mm", np.quantile(apart, 0.95)),
        ("hd95_pooled_mm", np.quantile(apart, 0.95)),
        ("mean_surface_distance_mm", apart.mean()),
        ("mean_distance_to_agreement_mm", apart.mean()),
    ):
        assert figures[key] == pytest.approx(float(value), abs=WITHIN_MM), key
    for tolerance in (1, 2):
        share = float((apart <= tolerance).mean())
        assert figures[f"surface_dsc_{tolerance}mm"] == pytest.approx(share, abs=0.03)
    dsc = 1 - 3 * shift / (4 * radius_mm) + shift**3 / (16 * radius_mm**3)
    assert figures["dsc"] == pytest.approx(dsc, abs=0.02 if slice_mm == 1.0 else 0.04)
    in_lps = geometry.axes @ np.array(shift_mm)
    for axis, value in zip("xyz", in_lps, strict=True):
        assert figures[f"centroid_shift_{axis}_mm"] == pytest.approx(value, abs=0.02)


def test_all_figures_of_a_box_grown_on_one_face() -> None:
    """A cube of 20 mm and one that is 4 mm longer: every figure worked out by hand."""
    geometry = _grid(2.0)
    slices = range(9, 19)
    reference = box(geometry, slices, (17.5, 17.5), (37.5, 37.5))
    evaluated = box(geometry, slices, (17.5, 17.5), (37.5, 41.5))
    there = 4.0 * 400 + 4 * (80 * 2.0)  # the new face, and the four strips beside it
    back = (8000 - 1728) / 6  # the old face: min(4 mm, way to its rim)
    areas = 2400.0, 2720.0
    expected = {
        "volume_reference_cm3": (8.0, 1e-9),
        "volume_evaluated_cm3": (9.6, 1e-9),
        "volume_difference_cm3": (1.6, 1e-9),
        "volume_change_percent": (20.0, 1e-9),
        "volume_slices_reference_cm3": (8.0, 0.02),
        "volume_slices_evaluated_cm3": (9.6, 0.02),
        "volume_mesh_reference_cm3": (8.0, 0.05),
        "volume_mesh_evaluated_cm3": (9.6, 0.05),
        "dsc": (16 / 17.6, 1e-9),
        "jaccard": (20 / 24, 1e-9),
        "sensitivity": (1.0, 0.0),
        "over_contour": (4 / 24, 1e-9),
        "added_cm3": (1.6, 1e-9),
        "removed_cm3": (0.0, 0.0),
        "hd_mm": (4.0, 0.1),
        "hd95_mm": (4.0, 0.1),
        "hd95_pooled_mm": (4.0, 0.1),
        "mean_surface_distance_mm": ((there + back) / sum(areas), 0.03),
        "mean_distance_to_agreement_mm": ((there / areas[1] + back / areas[0]) / 2, 0.03),
        # farther than 2 mm: the new face and half of the strips; the middle 16 x 16 of the old one
        "surface_dsc_2mm": (1 - (400 + 160 + 256) / sum(areas), 0.01),
        "centroid_shift_x_mm": (2.0, 0.02),
        "centroid_shift_y_mm": (0.0, 0.02),
        "centroid_shift_z_mm": (0.0, 0.02),
        # of a slice: the new face's 20 pixels, and 2 x 3 beside it, and the 2 corners that were
        "added_path_length_mm": (10 * (20 + 2 * 3), 1e-9),
        "added_path_slices": (10, 0),
    }
    figures = compare(reference, evaluated)
    for key, (value, tolerance) in expected.items():
        assert figures[key] == pytest.approx(value, abs=tolerance), key


def test_added_path_counts_border_pixels_of_slices_that_differ() -> None:
    """Two of five slices are redrawn 2 mm aside: 20 new border pixels each, of 0.8 x 1.25 mm."""
    geometry = grid((3.0, 0.8, 1.25), (9, 60, 60))
    inside = np.zeros(geometry.shape, dtype=bool)
    inside[2:7, 20:30, 20:30] = True
    moved = inside.copy()
    moved[3:5, 20:30, 20:30] = False
    moved[3:5, 20:30, 22:32] = True
    figures = compare(Mask(geometry, inside), Mask(geometry, moved))
    assert figures["added_path_length_mm"] == pytest.approx(2 * 20 * 1.0)
    assert figures["added_path_slices"] == 2
    same = compare(Mask(geometry, inside.copy()), Mask(geometry, inside.copy()))
    assert same["added_path_length_mm"] == same["added_path_slices"] == 0


def test_the_two_95th_percentiles_differ_as_their_definitions_do() -> None:
    """A cube with a thin fin: far away is a share of one surface, and half of it of both."""
    geometry = _grid(2.0)
    cube = box(geometry, range(9, 19), (17.5, 17.5), (37.5, 37.5))
    fin = box(geometry, range(11, 17), (26.0, 37.0), (30.0, 47.5))
    figures = compare(cube, structure(geometry, [*cube.contours, *fin.contours]))
    # a fin 10 mm long, 4 x 12 mm across: 320 mm2 of sides, evenly along it, 48 mm2 of end
    tenth = 10  # samples per mm2
    fin_mm = np.concatenate((np.linspace(0, 10, 320 * tenth), np.full(48 * tenth, 10.0)))
    larger = np.concatenate((np.zeros((2400 - 48) * tenth), fin_mm))
    pooled = np.concatenate((np.zeros(2400 * tenth), larger))
    assert figures["hd95_mm"] == pytest.approx(np.quantile(larger, 0.95), abs=0.8)
    assert figures["hd95_pooled_mm"] == pytest.approx(np.quantile(pooled, 0.95), abs=0.8)
    assert figures["hd_mm"] == pytest.approx(10.0, abs=0.2)


def test_surface_map_tells_outward_and_inward_where_they_are() -> None:
    """A ball moved 2 mm to the left: +2 mm on its left side, -2 mm on its right, 0 between."""
    geometry = _grid(2.0, axes=OBLIQUE)
    centre = geometry.axes.T @ np.array((2.0, 0.0, 0.0))  # a shift along x, in the grid's axes
    start = np.array((28.4, 28.3, 27.6))
    comparison = compared(ball(geometry, start, 10.0), ball(geometry, start + centre, 10.0))
    found = comparison.surface_map
    middle = geometry.points_from_indices(start / geometry.spacing_mm)[0]
    direction = (found.points_mm - middle) / 10.0
    # |x - shift| - radius with the other sign: how far the moved ball lies beyond the point
    expected = 10.0 - np.linalg.norm(direction * 10.0 - (2.0, 0.0, 0.0), axis=1)
    assert np.abs(found.distance_mm - expected).max() < WITHIN_MM
    assert float(found.areas_mm2.sum()) == pytest.approx(400 * math.pi, rel=0.01)


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE])
def test_smallest_distance_between_drawn_balls(slice_mm: float, axes: npt.ArrayLike) -> None:
    """Centres 21 mm apart along a diagonal, radii 9 and 5: 7 mm, either way round."""
    geometry = _grid(slice_mm, axes=axes)
    first = ball(geometry, (20.3, 19.0, 20.0), 9.0)
    second = ball(geometry, (34.3, 33.0, 27.0), 5.0)
    assert smallest_distance_mm(first, second) == pytest.approx(7.0, abs=WITHIN_MM)
    assert smallest_distance_mm(second, first) == pytest.approx(7.0, abs=WITHIN_MM)


def test_distance_between_boxes_and_to_a_wall_around() -> None:
    """Faces 3.25 mm apart, between two pixel centres; a ring around a box keeps its gap."""
    geometry = _grid(2.0)
    first = box(geometry, range(9, 15), (15.0, 15.0), (25.0, 25.0))
    second = box(geometry, range(9, 15), (15.0, 28.25), (25.0, 36.0))
    assert smallest_distance_mm(first, second) == pytest.approx(3.25, abs=0.05)
    wall = structure(
        geometry,
        [
            *box(geometry, range(6, 18), (5, 5), (35, 35)).contours,
            *box(geometry, range(6, 18), (11.6, 11.6), (28.4, 28.4)).contours,
        ],
    )
    assert smallest_distance_mm(first, wall) == pytest.approx(3.4, abs=0.05)
    assert overlap_cm3(first, wall) == 0.0
    beside = box(geometry, range(9, 15), (15.0, 25.0), (25.0, 30.0))
    assert smallest_distance_mm(first, beside) == pytest.approx(0.0, abs=0.05)


def _target(
    drawn: Structure, refined: Structure | None, **more: object
) -> tuple[TargetResult, Roi]:
    roi = Roi(1, "GTVn", "GTV", tuple(drawn.contours))
    if refined is None:
        refinement = Refinement(TargetStatus.ABSTAINED, None, ("why",))
    else:
        refinement = Refinement(TargetStatus.REFINED, refined.mask, (), **more)  # type: ignore[arg-type]
    return TargetResult(roi, drawn.mask, refinement, "GTVn_CT1MR1", {}, {}), roi


def test_target_is_measured_against_all_that_is_around() -> None:
    """A box with a vessel in its side: volumes, overlap and distance before and after, by hand."""
    geometry = _grid(2.0)
    slices = range(9, 19)
    drawn = box(geometry, slices, (17.5, 17.5), (37.5, 37.5))
    refined = box(geometry, slices, (17.5, 17.5), (37.5, 33.5))
    found = box(geometry, range(9, 11), (17.5, 31.5), (37.5, 39.5)).mask
    organs = {
        "V_Portal": box(geometry, slices, (17.5, 33.5), (37.5, 45.5)),
        "Stomach": box(geometry, slices, (17.5, 48.0), (37.5, 55.0)),
        "Kidney_L": structure(geometry, []),
    }
    target, _ = _target(drawn, refined, found={"zVessel_CT": found})
    measured = measured_target(target, organs, cause_of_structure, EndCap.HALF_SLICE)
    portal, stomach = measured.neighbours
    assert (portal.name, stomach.name) == ("V_Portal", "Stomach")
    assert portal.drawn_overlap_cm3 == pytest.approx(20 * 20 * 4 / 1000)
    assert (portal.drawn_distance_mm, portal.overlap_cm3) == (0.0, 0.0)
    assert portal.distance_mm == pytest.approx(0.0, abs=0.3)  # refined contours come from voxels
    assert stomach.drawn_distance_mm == pytest.approx(10.5, abs=0.05)
    assert stomach.distance_mm == pytest.approx(14.5, abs=0.3)
    assert measured.organ_distances_mm == {
        "V_Portal": portal.distance_mm,
        "Stomach": stomach.distance_mm,
    }
    (vessels,) = measured.contents
    assert (vessels.cause, vessels.structures) == ("vessel", ("V_Portal", "zVessel_CT"))
    # the portal vein's 4 mm, and 2 mm more of the found one on two of ten slices
    assert vessels.drawn_cm3 == pytest.approx((20 * 20 * 4 + 4 * 20 * 2) / 1000)
    assert vessels.final_cm3 == pytest.approx(4 * 20 * 2 / 1000)
    assert measured.volumes_cm3["voxels"] == pytest.approx(8.0)
    assert measured.volumes_cm3["slices"] == pytest.approx(8.0, rel=3e-3)
    assert measured.metrics["removed_cm3"] == pytest.approx(1.6)
    assert measured.surface_map is not None
    assert measured.surface_map.distance_mm.min() == pytest.approx(-4.0, abs=0.3)


def test_target_that_stays_has_its_volumes_and_its_surroundings() -> None:
    """After an abstention the final target is the drawn one; nothing is compared."""
    geometry = _grid(2.0)
    drawn = box(geometry, range(9, 19), (17.5, 17.5), (37.5, 37.5))
    organs = {"Duodenum": box(geometry, range(9, 19), (17.5, 35.5), (37.5, 50.5))}
    target, _ = _target(drawn, None)
    margin = ellipsoid(geometry, (28.0, 27.5, 27.5), (14.0, 14.0, 14.0))
    target = TargetResult(
        target.source_roi,
        target.drawn,
        target.refinement,
        None,
        {},
        {},
        (DerivedTarget("PTV", "PTV", margin.mask, "a margin"),),
    )
    measured = measured_target(target, organs, cause_of_structure, EndCap.NONE)
    assert (measured.metrics, measured.surface_map) == ({}, None)
    assert measured.volumes_cm3["slices"] == pytest.approx(18 * 400 / 1000, rel=3e-3)
    (duodenum,) = measured.neighbours
    assert duodenum.overlap_cm3 == duodenum.drawn_overlap_cm3 == pytest.approx(0.8)
    (bowel,) = measured.contents
    assert (bowel.cause, bowel.drawn_cm3, bowel.final_cm3) == ("bowel", 0.8, 0.8)
    (derived,) = measured.derived
    assert derived.metrics["volume_evaluated_cm3"] == pytest.approx(margin.mask.volume_cm3)
    assert derived.neighbours[0].overlap_cm3 > 0.8


def test_refined_level_is_measured_finer_than_its_voxels() -> None:
    """A level that is the distance to a sphere of 9 mm inside a drawn one of 12 mm: 3 mm."""
    geometry = _grid(1.0)
    centre = np.array((28.4, 28.3, 27.6))
    at = np.indices(geometry.shape).reshape(3, -1).T * geometry.spacing_mm
    values = (9.0 - np.linalg.norm(at - centre, axis=1)).reshape(geometry.shape)
    level = VoxelField(geometry, (0, 0, 0), values.astype(np.float32))
    refined = Structure(Mask(geometry, values > 0))
    target, _ = _target(ball(geometry, centre, 12.0), refined, level=level)
    metrics = measured_target(target, {}, cause_of_structure, EndCap.HALF_SLICE).metrics
    for key in ("hd_mm", "hd95_mm", "mean_surface_distance_mm"):
        assert metrics[key] == pytest.approx(3.0, abs=WITHIN_MM), key


def test_ten_organs_of_a_whole_planning_ct_come_within_seconds() -> None:
    """512 x 512 x 200, a node of 2 cm before and after, organs up to the size of a liver."""
    geometry = grid((2.0, 0.9, 0.9), (200, 512, 512))
    node = ball(geometry, (200.3, 230.2, 230.4), 10.0)
    refined = ball(geometry, (200.3, 231.2, 230.4), 9.0)
    organs = {}
    for number in range(10):
        centre = (200.0 + 5 * (number % 4), 60.0 + 32 * number, 130.0 + 30 * (number % 8))
        radii: Sequence[float] = (70.0, 60.0, 60.0) if number % 5 == 0 else (25.0, 15.0, 18.0)
        organs[f"Organ{number}"] = ellipsoid(geometry, centre, radii)
    target, _ = _target(node, refined)
    begin = time.process_time()
    measured = measured_target(target, organs, cause_of_structure, EndCap.HALF_SLICE)
    spent_s = time.process_time() - begin
    assert len(measured.neighbours) == 10
    assert spent_s < 4.0
