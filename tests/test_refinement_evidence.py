"""What the refinement says of its own answer, and what it does not let itself be told."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from handlers.refinement import RefinementSettings
from handlers.refinement.alignment import best_offset
from handlers.refinement.region import make_region, without_found
from handlers.results import MoveCause, Refinement
from handlers.sampling import contours_from_level
from handlers.values import Image, Mask
from tests.refinement_scene import (
    SETTINGS,
    SHAPE,
    SPACING_MM,
    Scene,
    check_abstention,
    dsc,
    refined_of,
    registered,
    registration,
    run_refine,
    scene_of,
    with_voxels,
)

STILL_RADIUS_MM = 11.0
OTHER_TISSUE = MoveCause.OTHER_TISSUE


def _shifted(scene: Scene, shift_mm: tuple[float, float, float], *numbers: int) -> Scene:
    """Return the scene with some of its series moved in the image, their registration as before."""
    voxels = [
        ndimage.shift(series.image.voxels, np.array(shift_mm) / SPACING_MM, order=1, mode="nearest")
        if number in numbers
        else series.image.voxels
        for number, series in enumerate(scene.mr)
    ]
    return with_voxels(scene, [v.astype(np.float32) for v in voxels])


def _from_centre_mm() -> npt.NDArray[np.float64]:
    grid = scene_of().drawn.geometry
    points = grid.points_from_indices(np.indices(SHAPE).reshape(3, -1).T) - grid.centre_mm()
    return np.asarray(points.T.reshape(3, *SHAPE))


def _changes(answer: Refinement) -> dict[tuple[MoveCause, str], tuple[float, float]]:
    return {(c.cause, c.structure): (c.removed_cm3, c.added_cm3) for c in answer.changes}


@pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (6.0, 0.0, 0.0), (-4.0, 3.0, 4.5)])
def test_offset_of_a_shifted_image_is_found(shift_mm: tuple[float, float, float]) -> None:
    """A known shift, in steps that the search does not use."""
    scene = scene_of()
    moved = _shifted(scene, shift_mm, 0).mr[0].image.voxels
    everywhere = np.ones(SHAPE, dtype=bool)
    found = best_offset(scene.ct.voxels, moved, everywhere, everywhere, SPACING_MM)
    assert found.shift_mm == pytest.approx(float(np.linalg.norm(shift_mm)), abs=1.2)
    assert (found.gain > 1.1) is any(shift_mm)


@pytest.mark.parametrize("shift_mm", [(5.0, 0.0, 0.0), (0.0, -3.5, 3.6), (0.0, 0.0, 8.0)])
def test_abstains_when_the_mr_lies_elsewhere_though_its_registration_passed(
    shift_mm: tuple[float, float, float],
) -> None:
    """A second line behind the registration's own judgement."""
    answer = run_refine(_shifted(scene_of(), shift_mm, 0, 1, 2, 3))
    check_abstention(answer, "it lies elsewhere", "T1 (series 1 of 4)", "DWI (series 3 of 4)")


def test_only_the_displaced_series_is_set_aside() -> None:
    """One that lies elsewhere is named; the others move the contour as without it."""
    scene = scene_of()
    answer = run_refine(_shifted(scene, (0.0, 6.0, 0.0), 2))
    assert any(r.startswith("DWI (series 3 of 4): it fits the CT") for r in answer.reasons)
    assert answer.numbers["series_used"] == 3
    assert dsc(refined_of(answer), scene.truth) > 0.92


def test_volumes_are_told_by_cause() -> None:
    """What lay in the contoured vein, in fat, and what came: each voxel once."""
    scene = scene_of()
    answer = run_refine(scene)
    changes, refined = _changes(answer), refined_of(answer)
    vessel = scene.drawn.inside & scene.organs["V_Portal"].inside
    voxel_cm3 = scene.drawn.geometry.voxel_volume_mm3 / 1000.0
    assert changes[MoveCause.VESSEL, "V_Portal"] == pytest.approx((vessel.sum() * voxel_cm3, 0.0))
    assert changes[MoveCause.FAT, ""][0] > 1.0
    removed = np.count_nonzero(scene.drawn.inside & ~refined.inside) * voxel_cm3
    added = np.count_nonzero(refined.inside & ~scene.drawn.inside) * voxel_cm3
    assert sum(r for r, _ in changes.values()) == pytest.approx(removed)
    assert sum(a for _, a in changes.values()) == pytest.approx(added)


def test_surface_moves_tell_way_and_cause() -> None:
    """Drawn 3 mm too large, 1.5 mm off towards the vein: the far side went in by about 1.5."""
    answer = run_refine(scene_of())
    moves = answer.moves
    assert moves is not None
    assert moves.points_mm.shape == (len(moves.causes), 3)
    centre = scene_of().drawn.geometry.centre_mm() + np.array((1.5, 0.0, 0.0))
    away = moves.points_mm - centre
    assert np.linalg.norm(away, axis=1) == pytest.approx(STILL_RADIUS_MM + 3.0, abs=1.2)
    left = away[:, 0] < -0.8 * np.linalg.norm(away, axis=1)
    assert np.median(moves.displacement_mm[left]) == pytest.approx(-1.5, abs=0.5)
    towards = np.array([c is MoveCause.VESSEL for c in moves.causes])
    assert away[towards, 0].min() > 0
    assert np.median(moves.displacement_mm[towards]) < -2.0


def test_surface_lies_between_the_voxels() -> None:
    """The contours follow the true ball, not the voxels, where the vein does not cut it."""
    scene = scene_of()
    answer = run_refine(scene)
    assert answer.level is not None
    refined = refined_of(answer)
    assert np.array_equal(answer.level.values > 0, refined.inside[answer.level.block])
    assert not np.any(answer.level.values == 0)
    points = np.concatenate([c.points for c in contours_from_level(answer.level, refined)])
    off = points - scene.drawn.geometry.centre_mm()
    free = (off[:, 0] < 4.0) & (np.abs(off[:, 2]) < 8.0)
    radial = np.linalg.norm(off[free], axis=1) - STILL_RADIUS_MM
    assert np.abs(radial).mean() < 0.6
    assert np.ptp(radial) < 3.0


def test_confidence_falls_with_the_registration_uncertainty() -> None:
    """Expected overlap: high where all is clear, lower where the place is doubtful."""
    sure = run_refine(registered(scene_of(), registration(uncertainty_mm=0.5))).confidence
    doubtful = run_refine(registered(scene_of(), registration(uncertainty_mm=2.9))).confidence
    assert sure is not None
    assert doubtful is not None
    assert 0.5 < doubtful < sure - 0.05
    assert sure < 1.0


def test_probability_is_given_even_when_nothing_is_changed() -> None:
    """A physicist can see why: the map comes with an abstention that looked at the MR."""
    answer = run_refine(scene_of(), replace(SETTINGS, min_volume_ratio=0.95))
    check_abstention(answer, "times the drawn volume")
    assert answer.probability is not None
    assert answer.probability.values.min() >= 0
    assert answer.probability.values.max() <= 1


def test_living_rim_stays_when_the_core_has_died() -> None:
    """The rim looks neither like the core nor like anything around: it is not taken for fat."""
    scene = scene_of(radius_mm=13.0, drawn_mm=-1.0)
    distance = np.linalg.norm(_from_centre_mm(), axis=0)
    dead = {"T1": 120.0, "T2": 700.0, "DWI": 110.0, "ADC": 2300.0}
    rng = np.random.default_rng(3)
    voxels = [
        np.where(
            distance < 9.0,
            dead[s.image.contrast] * (1 + 0.05 * rng.standard_normal(SHAPE)),
            s.image.voxels,
        ).astype(np.float32)
        for s in scene.mr
    ]
    changed = with_voxels(scene, voxels)
    answer = run_refine(changed)
    kept = scene.drawn.inside if answer.refined is None else answer.refined.inside
    rim = scene.drawn.inside & scene.truth.inside & (distance > 9.5)
    assert np.count_nonzero(rim & kept) > 0.95 * np.count_nonzero(rim)


def test_only_contoured_structures_go_when_much_of_the_target_is_not_understood() -> None:
    """What looks like neither core nor anything with a name may be target: not much of it goes."""
    wide = scene_of(drawn_mm=6.0)
    scene = replace(wide, organs={"V_Portal": wide.organs["V_Portal"]})  # the liver is not drawn
    loose = replace(SETTINGS, min_volume_ratio=0.1)
    lost = sum(c.removed_cm3 for c in run_refine(scene, loose).changes if c.cause is OTHER_TISSUE)
    assert 0.0 < lost < 0.2 * scene.drawn.volume_cm3
    answer = run_refine(scene, replace(loose, max_unnamed_share=0.0))
    expected = scene.drawn.inside & ~scene.organs["V_Portal"].inside
    assert np.array_equal(refined_of(answer).inside, expected)
    assert "nor like anything with a name" in answer.reasons[0]
    # a vessel that is only found is not taken either: the MR moves nothing
    guessed = replace(scene, organs={"External": scene_of().organs["External"]})
    assert run_refine(guessed, loose).found
    stays = run_refine(guessed, replace(loose, max_unnamed_share=0.0))
    check_abstention(stays, "nothing differs from the drawn contour")
    none = run_refine(
        replace(scene, organs={}), replace(loose, max_unnamed_share=0.0, finds_structures=False)
    )
    check_abstention(none, "nothing differs from the drawn contour", "nor like anything")


def test_node_hidden_by_gas_is_recovered() -> None:
    """Gas on the CT day hides one side; the contour stops there, the MR shows the node whole."""
    scene = scene_of(drawn_mm=0.0)
    z, y, _ = _from_centre_mm()[::-1]
    hidden = scene.truth.inside & (y < -6.5)
    gas = (np.hypot(y + 12.0, z) < 4.5) & (y < -6.5)
    hu = np.where(gas, np.float32(-900), scene.ct.voxels)
    spoiled = replace(
        scene,
        ct=Image(scene.ct.geometry, hu.astype(np.float32), "CT", "1.2.0"),
        drawn=Mask(scene.drawn.geometry, scene.drawn.inside & ~hidden),
    )
    refined = refined_of(run_refine(spoiled))
    assert np.count_nonzero(refined.inside & hidden) > 0.7 * np.count_nonzero(hidden)


def test_vessel_that_nobody_contoured_is_found_and_taken() -> None:
    """Bright on CT and T1, void on T2: removed, told by cause, and returned as `zVessel`."""
    scene = scene_of()
    bare = replace(scene, organs={"External": scene.organs["External"]})
    answer = run_refine(bare)
    vein = scene.organs["V_Portal"].inside
    before = np.count_nonzero(scene.drawn.inside & vein)
    assert np.count_nonzero(refined_of(answer).inside & vein) < 0.25 * before
    (name,) = [n for n in answer.found if n.startswith("zVessel")]
    assert np.count_nonzero(answer.found[name].inside & vein) > 0.5 * np.count_nonzero(
        answer.found[name].inside
    )
    assert (MoveCause.VESSEL, name) in _changes(answer)
    without = run_refine(bare, RefinementSettings(finds_structures=False))
    assert not without.found


@pytest.mark.parametrize("may_enter", [False, True])
def test_target_grows_into_an_organ_only_where_allowed(*, may_enter: bool) -> None:
    """Nothing into a contoured organ unless it was overlapped as drawn and the protocol allows."""
    scene = scene_of(drawn_mm=-1.8)
    _, y, _ = _from_centre_mm()[::-1]
    # an organ whose contour takes in a side of the node by mistake
    organ = Mask(scene.drawn.geometry, y > 7.0)
    patterns = ("Pancreas*",) if may_enter else ()
    overlapped = replace(scene, organs={**scene.organs, "Pancreas": organ})
    answer = run_refine(overlapped, replace(SETTINGS, may_enter_patterns=patterns))
    grown = refined_of(answer).inside & ~scene.drawn.inside & organ.inside
    assert bool(grown.any()) is may_enter


def test_abstains_when_the_ct_shows_nothing_to_find_the_place_by() -> None:
    """A CT of one value, or of gas alone, cannot tell whether the MR lies in its place."""
    scene = scene_of()
    rng = np.random.default_rng(1)
    for hu, words in (
        (np.full(SHAPE, 40.0), "too little in common"),
        (rng.normal(40.0, 10.0, SHAPE), "too little in common"),
        (np.full(SHAPE, -900.0), "nothing but gas"),
    ):
        flat = replace(scene, ct=replace(scene.ct, voxels=hu.astype(np.float32)))
        check_abstention(run_refine(flat), words)


@pytest.mark.parametrize("uncertainty_mm", [float("nan"), -1.0, float("inf")])
def test_abstains_when_the_uncertainty_is_no_length(uncertainty_mm: float) -> None:
    """What is not known is not taken for zero."""
    doubtful = registered(scene_of(), registration(uncertainty_mm=uncertainty_mm))
    check_abstention(run_refine(doubtful), "its registration is uncertain by")


def test_all_series_of_a_wrong_registration_are_set_aside() -> None:
    """T1 and DWI lie elsewhere: T2 came the same way and does not move the contour alone."""
    scene = scene_of()
    one = registration()
    shared = registered(scene, one)
    answer = run_refine(_shifted(shared, (0.0, 6.0, 0.0), 0))
    check_abstention(
        answer, "T2 (series 2 of 4): it was brought here by the registration of series 1"
    )


@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_one_image_under_two_names_is_one_contrast(factor: float) -> None:
    """A T1 sent again as T2, inverted or not, is no second kind of evidence."""
    scene = scene_of()
    first, second = scene.mr[0], scene.mr[1]
    copied = replace(second.image, voxels=(factor * first.image.voxels).astype(np.float32))
    twice = replace(scene, mr=(first, replace(second, image=copied)))
    answer = run_refine(twice)
    assert any("T2 (series 2 of 2): it shows the same as T1" in r for r in answer.reasons)
    assert answer.refined is None


def test_blur_is_seen_when_the_mr_ends_near_the_target() -> None:
    """The end of the image is no sharp edge."""
    scene = scene_of()
    last = int(np.flatnonzero(scene.drawn.inside.any(axis=(0, 2)))[-1])
    covered = np.ones(SHAPE, dtype=bool)
    covered[:, last + 5 :] = False
    series = []
    for each in scene.mr:
        blurred = ndimage.gaussian_filter(each.image.voxels, [4.5 / step for step in SPACING_MM])
        voxels = np.where(covered, blurred, np.float32(0.0))
        image = replace(each.image, voxels=voxels.astype(np.float32))
        series.append(replace(each, image=image, valid=Mask(scene.drawn.geometry, covered.copy())))
    check_abstention(run_refine(replace(scene, mr=tuple(series))), "detail is blurred away")


def test_piece_stays_when_a_found_vessel_would_take_all_of_it() -> None:
    """What was drawn as target is not wholly given up for what was found."""
    region = make_region(scene_of().drawn, {}, SETTINGS)
    taken = without_found(region, {"zVessel_MR": region.drawn.copy()})
    assert np.array_equal(taken.core, region.core)
    assert np.array_equal(taken.allowed, region.allowed)
    half = region.drawn.copy()
    half[: half.shape[0] // 2] = False
    taken = without_found(region, {"zVessel_MR": half})
    assert taken.core.any()
    assert not (taken.core & half).any()
    assert (taken.allowed & half).sum() < half.sum()


def test_target_that_fills_the_grid_has_a_surface() -> None:
    """A crop with no outside: its rim is its surface."""
    scene = scene_of()
    full = replace(scene, drawn=Mask(scene.drawn.geometry, np.ones(SHAPE, dtype=bool)))
    answer = run_refine(replace(full, mr=full.mr[:1]))
    assert answer.moves is not None
    assert len(answer.moves.causes) > 100
