"""What a case teaches beyond its core: how generously it was drawn, a living rim; blocks in MR."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from handlers.refinement.appearance import fit_look
from handlers.refinement.fitness import block_mm
from handlers.refinement.prior import drawn_log_odds, drawn_offset_mm
from handlers.refinement.region import Region, make_region, stays
from handlers.refinement.rim import rim_look
from handlers.refinement.settle import settled_level
from handlers.values import Mask
from tests.refinement_scene import (
    SETTINGS,
    SHAPE,
    SPACING_MM,
    Scene,
    check_abstention,
    dsc,
    refined_of,
    run_refine,
    scene_of,
    with_voxels,
)

Bools = npt.NDArray[np.bool_]

DEAD = {"CT": 25.0, "T1": 80.0, "T2": 1100.0, "DWI": 30.0, "ADC": 2600.0}
"""Signals of a core that has died: living node looks more like fat than like this."""

STRANGE = {"CT": 40.0, "T1": 560.0, "T2": 900.0, "DWI": 700.0, "ADC": 300.0}
"""Signals of a neighbour that looks like nothing else."""

RIM_TOLD = "a rim that does not look like its core"
OFFSET_TOLD = "within the drawn contour in the mean"


def region_of(scene: Scene) -> Region:
    return make_region(scene.drawn, scene.organs, SETTINGS)


def from_middle_mm(scene: Scene) -> npt.NDArray[np.float64]:
    grid = scene.ct.geometry
    points = grid.points_from_indices(np.indices(SHAPE).reshape(3, -1).T) - grid.centre_mm()
    return np.asarray(points.T.reshape(3, *SHAPE))


def painted(scene: Scene, where: Bools, signals: dict[str, float]) -> Scene:
    """Return the scene with another tissue at `where`, as noisy as the rest."""
    rng = np.random.default_rng(7)

    def paint(voxels: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
        noisy = signals[name] * (1 + 0.04 * rng.standard_normal(voxels.shape))
        return np.where(where, noisy, voxels).astype(np.float32)

    ct = replace(scene.ct, voxels=paint(scene.ct.voxels, "CT"))
    voxels = [paint(series.image.voxels, series.image.contrast) for series in scene.mr]
    return with_voxels(replace(scene, ct=ct), voxels)


@pytest.mark.parametrize("true_mm", [0.0, 1.0, 2.0])
def test_offset_is_that_of_the_border_which_the_looks_tell(true_mm: float) -> None:
    """Voxels that say nothing, most of them here, have no part in it; it leans inward a little."""
    region = region_of(scene_of())
    speaks = np.random.default_rng(1).random(region.drawn.shape) < 0.4
    looks = np.where(region.distance_mm < -true_mm, 5.0, -5.0) * speaks
    near = np.abs(region.distance_mm + true_mm) < 4.0
    assert drawn_offset_mm(looks, near, region, SETTINGS) == pytest.approx(true_mm + 0.5, abs=0.6)


def test_offset_is_none_where_the_border_lies_farther_out_or_nothing_speaks() -> None:
    """What nothing shows is not grown into; without evidence the contour counts as drawn."""
    region = region_of(scene_of())
    beyond = np.where(region.distance_mm < 2.0, 5.0, -5.0)
    everywhere = np.ones(region.drawn.shape, dtype=bool)
    assert drawn_offset_mm(beyond, everywhere, region, SETTINGS) == 0.0
    assert drawn_offset_mm(np.zeros(region.drawn.shape), everywhere, region, SETTINGS) == 0.0
    assert drawn_offset_mm(beyond, ~everywhere, region, SETTINGS) == 0.0


def test_what_was_drawn_blindly_has_no_offset_and_is_believed_less() -> None:
    """Behind gas the planner may as well have drawn too little."""
    region = region_of(scene_of())
    seen = np.ones(region.drawn.shape, dtype=bool)
    plain, moved = (drawn_log_odds(region, seen, offset, SETTINGS) for offset in (0.0, 2.0))
    blind, blind_moved = (drawn_log_odds(region, ~seen, each, SETTINGS) for each in (0.0, 2.0))
    assert (moved < plain).all()
    assert np.array_equal(blind, blind_moved)
    assert np.abs(blind).max() < 0.2 * np.abs(plain).max()


def test_border_moves_in_also_where_nothing_shows_it_when_it_does_so_elsewhere() -> None:
    """A margin that was drawn all around is believed nowhere."""
    scene = scene_of()
    _, y, z = from_middle_mm(scene)
    hazy = scene.drawn.inside & ~scene.truth.inside & (y < 0) & (z > 0)
    hazy &= ~scene.organs["V_Portal"].inside
    halves = {"CT": -15.0, "T1": 195.0, "T2": 455.0, "DWI": 210.0, "ADC": 550.0}
    doubtful = painted(scene, hazy, halves)
    told = run_refine(doubtful)
    as_drawn = run_refine(doubtful, replace(SETTINGS, max_drawn_offset_mm=0.0))
    left, left_as_drawn = (
        np.count_nonzero(refined_of(answer).inside & hazy) for answer in (told, as_drawn)
    )
    assert left < 0.8 * left_as_drawn
    assert dsc(refined_of(told), scene.truth) > dsc(refined_of(as_drawn), scene.truth)
    assert told.numbers["drawn_offset_mm"] >= 1.0
    assert any(OFFSET_TOLD in reason for reason in told.reasons)
    assert not any(OFFSET_TOLD in reason for reason in as_drawn.reasons)
    assert not any(RIM_TOLD in reason for reason in told.reasons)


def dead_within(scene: Scene, radius_mm: float) -> Scene:
    return painted(scene, np.linalg.norm(from_middle_mm(scene), axis=0) < radius_mm, DEAD)


def test_living_rim_is_found_when_the_core_has_died_and_the_target_was_drawn_too_small() -> None:
    """The core alone teaches the look of dead tissue only."""
    scene = dead_within(scene_of(drawn_mm=-1.5), 6.5)
    both = run_refine(scene)
    alone = run_refine(scene, replace(SETTINGS, learns_rim=False))
    core_only = dsc(alone.refined or scene.drawn, scene.truth)
    assert dsc(refined_of(both), scene.truth) > max(core_only, dsc(scene.drawn, scene.truth)) + 0.03
    assert any(RIM_TOLD in reason for reason in both.reasons)


def test_strange_neighbour_on_one_side_is_no_rim() -> None:
    """What lies beside the core, however strange, teaches no look of the target."""
    scene = scene_of()
    x, y, _ = from_middle_mm(scene)
    beside = scene.drawn.inside & (x < -8.0) & (np.abs(y) < 8.0)
    answer = run_refine(painted(scene, beside, STRANGE))
    assert not any(RIM_TOLD in reason for reason in answer.reasons)


@pytest.mark.parametrize("classes", [2, 12])
def test_blend_of_core_and_surroundings_is_no_rim_however_many_classes_there_are(
    classes: int,
) -> None:
    """Where none of many classes stands out, far from all of them, a blend with any is a blend."""
    region = region_of(scene_of())
    settings = replace(SETTINGS, presence_mm=1.0)
    core, tissue = fit_look(np.zeros((9, 1)), settings), fit_look(np.full((9, 1), 10.0), settings)
    samples = np.where(region.core, 0.0, np.where(region.drawn, 5.0, 10.0))[..., None]
    far = region.shell & (region.distance_mm > 8.0)
    background = {f"organ {number}": (tissue, far) for number in range(classes)}
    everywhere = np.ones(region.drawn.shape, dtype=bool)
    weights = np.ones(samples.shape)
    found = rim_look(samples, weights, (core,), background, region, everywhere, settings)
    assert found is None
    own = np.where(region.drawn[..., None] & (samples > 0), -9.0, samples)
    assert rim_look(own, weights, (core,), background, region, everywhere, settings) is not None


def blocks_of(values: npt.NDArray[np.float32], edges: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return an image averaged over blocks of so many voxels, at its own size."""
    for axis, edge in enumerate(edges):
        starts = np.arange(0, values.shape[axis], edge)
        sums = np.add.reduceat(values, starts, axis=axis)
        sizes = np.diff([*starts, values.shape[axis]])
        shape = [-1 if a == axis else 1 for a in range(3)]
        values = np.repeat(sums / sizes.reshape(shape), sizes, axis=axis)
    return values.astype(np.float32)


def test_abstains_when_the_mr_is_made_of_coarse_blocks() -> None:
    """Sharp edges of blocks are no detail: 8 mm voxels show no node of 22 mm."""
    scene = scene_of()
    coarse = [blocks_of(series.image.voxels, (4, 5, 5)) for series in scene.mr]
    check_abstention(
        run_refine(with_voxels(replace(scene, organs={}), coarse)), "made of blocks of"
    )


@pytest.mark.parametrize(
    ("edges", "expected_mm"),
    [((1, 1, 1), 1.5), ((1, 2, 2), 3.0), ((2, 2, 2), 3.0), ((4, 5, 5), 7.5)],
)
def test_blocks_are_as_large_as_the_runs_of_equal_voxels(
    edges: tuple[int, int, int], expected_mm: float
) -> None:
    """Voxels that were doubled on a finer grid are told as small blocks; noise as none."""
    noise = np.random.default_rng(3).normal(100.0, 10.0, SHAPE).astype(np.float32)
    found = block_mm(blocks_of(noise, edges), np.ones(SHAPE, dtype=bool), SPACING_MM)
    assert found == pytest.approx(expected_mm, rel=0.1)


def test_masked_air_is_no_block() -> None:
    """Scanners set the air around the patient to one value."""
    noise = np.random.default_rng(3).normal(100.0, 10.0, SHAPE).astype(np.float32)
    noise[:, :38] = 0.0
    assert block_mm(noise, np.ones(SHAPE, dtype=bool), SPACING_MM) < 2.5


def test_small_change_stands_only_where_the_ct_is_blind() -> None:
    """What was drawn blindly is no better than a registered MR."""
    region = region_of(scene_of())
    likely = np.clip(0.5 - (region.distance_mm.astype(np.float64) - 1.5) / 4.0, 0.0, 1.0)
    nothing = np.zeros(region.drawn.shape, dtype=bool)
    seen = settled_level(likely, nothing, nothing, region, 3.0, SETTINGS) > 0
    rows = np.indices(region.drawn.shape)[1]
    blind = rows < np.median(np.nonzero(region.drawn)[1])
    half = settled_level(likely, nothing, blind, region, 3.0, SETTINGS) > 0
    assert np.array_equal(seen, region.drawn & region.allowed)
    assert np.count_nonzero(half & blind & ~region.drawn) > 100
    assert not (half & ~region.drawn)[rows > np.median(np.nonzero(region.drawn)[1]) + 3].any()


def test_tissue_too_deep_to_go_stays_where_smoothing_would_take_it() -> None:
    """A pillar of one voxel's width between vessels is deep, though no core: a hard limit holds."""
    scene, settings = scene_of(), replace(SETTINGS, max_inward_mm=2.0)
    across, along = SHAPE[1] // 2, np.indices(SHAPE)[0]
    vessel = along > SHAPE[0] // 2
    vessel[:, across, across] = False
    organs = {"A_Hepatic": Mask(scene.drawn.geometry, vessel)}
    region = make_region(scene.drawn, organs, settings)
    deep = scene.drawn.inside & (along > SHAPE[0] // 2 + 2) & ~vessel
    pillar = deep[region.block] & (region.distance_mm < -settings.max_inward_mm)
    assert pillar.any()
    assert not (pillar & region.core).any()
    nothing = np.zeros(region.drawn.shape, dtype=bool)
    likely = stays(region, settings).astype(np.float64)
    level = settled_level(likely, nothing, nothing, region, 1.0, settings)
    assert (level[pillar] > 0).all()
