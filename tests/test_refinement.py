"""Refinement: bounded where it acts, abstaining with reasons where it must not.

The scene is a ball in fat beside a liver and a vessel, with signals of our own choice; the phantom
and public data come on top.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage, stats

from handlers.contour_metrics import compare
from handlers.decode import CaseDatasets, decode_case
from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import RigidTransform
from handlers.refinement import RefinementSettings
from handlers.refinement.appearance import Look, area_under_roc
from handlers.refinement.fitness import blur_mm, variance_explained
from handlers.refinement.region import make_region, tidy
from handlers.results import RegistrationStatus, ResampledMr
from handlers.roi_names import matches
from handlers.sampling import mask_from_roi, resample
from handlers.values import Case, Mask
from node.phantom import PhantomOptions, make_study
from tests.refinement_scene import (
    SETTINGS,
    SHAPE,
    SPACING_MM,
    Scene,
    check_abstention,
    check_bounds,
    dsc,
    only,
    refined_of,
    registered,
    registration,
    run_refine,
    scene_of,
    with_voxels,
)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("contrasts", [("T1", "T2"), ("T1", "T2", "DWI", "ADC"), ("T2", "ADC")])
def test_contour_gets_better_within_its_bounds_when_the_mr_shows_the_node(
    seed: int, contrasts: tuple[str, ...]
) -> None:
    """A generous contour that reaches into the vein comes close to the truth."""
    scene = only(scene_of(seed), *contrasts)
    answer = run_refine(scene)
    refined = refined_of(answer)
    check_bounds(scene.drawn, refined, scene.organs, SETTINGS.max_outward_mm)
    assert dsc(scene.drawn, scene.truth) < 0.75
    assert dsc(refined, scene.truth) > 0.92
    change = answer.numbers["added_cm3"] - answer.numbers["removed_cm3"]
    assert change == pytest.approx(refined.volume_cm3 - scene.drawn.volume_cm3)
    assert answer.numbers["separation"] > 0.9


@pytest.mark.parametrize("outward_mm", [0.0, 3.0, 5.0])
def test_contour_grows_no_farther_than_allowed_when_drawn_too_small(outward_mm: float) -> None:
    """The refiner does not assume shrinkage, and `max_outward_mm` is a hard limit."""
    scene = scene_of(drawn_mm=-2.0)
    settings = replace(SETTINGS, max_outward_mm=outward_mm)
    answer = run_refine(scene, settings)
    if outward_mm == 0.0:
        if answer.refined is not None:
            assert answer.numbers["added_cm3"] == 0.0
        return
    refined = refined_of(answer)
    check_bounds(scene.drawn, refined, scene.organs, outward_mm)
    assert refined.volume_cm3 > 1.2 * scene.drawn.volume_cm3
    assert dsc(refined, scene.truth) > dsc(scene.drawn, scene.truth) + 0.08


def test_good_contour_stays_when_the_changes_lie_within_the_registration_uncertainty() -> None:
    """What the uncertainty alone could explain is not changed."""
    scene = scene_of()
    good = replace(scene, drawn=scene.truth)
    doubtful = registered(good, registration(uncertainty_mm=2.5))
    check_abstention(run_refine(doubtful), "nothing differs from the drawn contour")


def test_answer_is_the_same_when_asked_twice() -> None:
    """Deterministic: no random numbers, no order of threads."""
    first, second = run_refine(scene_of()), run_refine(scene_of())
    assert np.array_equal(refined_of(first).inside, refined_of(second).inside)
    assert first.numbers == second.numbers


def test_only_the_vessel_goes_when_t1_is_alone_and_the_target_overlaps_it() -> None:
    """One contrast moves no contour; contoured anatomy needs no MR, and the reasons say so."""
    scene = only(scene_of(), "T1")
    answer = run_refine(scene)
    expected = scene.drawn.inside & ~scene.organs["V_Portal"].inside
    assert np.array_equal(refined_of(answer).inside, expected)
    assert any("only its overlap with V_Portal was removed" in r for r in answer.reasons)
    assert any("fewer than 2 kinds of MR contrast can be used (T1)" in r for r in answer.reasons)


@pytest.mark.parametrize("contrasts", [("T1",), ("DWI", "ADC")])
def test_abstains_when_fewer_than_two_contrasts_and_nothing_overlaps(
    contrasts: tuple[str, ...],
) -> None:
    """DWI and ADC come from the same echoes: one kind of evidence."""
    scene = only(scene_of(), *contrasts)
    free = replace(scene, organs={"Liver": scene.organs["Liver"]})
    check_abstention(run_refine(free), "fewer than 2 kinds", "overlaps no contoured vessel")


def test_abstains_when_the_contrasts_are_unknown() -> None:
    """A series that does not tell its contrast is no evidence."""
    scene = scene_of()
    series = tuple(replace(s, image=replace(s.image, contrast="")) for s in scene.mr)
    answer = run_refine(replace(scene, mr=series, organs={}))
    check_abstention(answer, "4 MR series do not tell their contrast", "(none)")


@pytest.mark.parametrize("status", [RegistrationStatus.WARN, RegistrationStatus.FAIL])
def test_abstains_when_the_registration_did_not_pass(status: RegistrationStatus) -> None:
    """Only `pass` lets the MR change a contour; no vessel is removed instead."""
    answer = run_refine(registered(scene_of(), registration(status)))
    check_abstention(answer, f"'{status}', not 'pass'", "two engines differ by 7 mm")


def test_series_is_set_aside_when_its_own_registration_did_not_pass() -> None:
    """The others go on, and the reasons name the series."""
    scene = scene_of()
    failed = replace(scene.mr[2], registration=registration(RegistrationStatus.FAIL))
    answer = run_refine(replace(scene, mr=(*scene.mr[:2], failed)))
    assert answer.numbers["series_used"] == 2
    assert any(reason.startswith("DWI (series 3 of 3)") for reason in answer.reasons)
    refined_of(answer)


def test_abstains_when_the_registration_is_too_uncertain() -> None:
    """Beyond `max_uncertainty_mm` the MR says nothing about millimetres."""
    answer = run_refine(registered(scene_of(), registration(uncertainty_mm=4.0)))
    check_abstention(answer, "uncertain by 4.0 mm, more than 3.0 mm")


def test_abstains_when_there_is_no_mr() -> None:
    """Nothing to refine with."""
    check_abstention(run_refine(replace(scene_of(), mr=())), "no MR series was given")


def test_abstains_when_the_mr_does_not_cover_the_target() -> None:
    """The target and a margin must lie within the MR: slices that end 2 mm after it do not do."""
    scene = scene_of()
    last = int(np.flatnonzero(scene.drawn.inside.any(axis=(1, 2)))[-1])
    covered = np.ones(SHAPE, dtype=bool)
    covered[last + 2 :] = False
    valid = Mask(scene.drawn.geometry, covered)
    cut = replace(scene, mr=tuple(replace(s, valid=valid) for s in scene.mr))
    check_abstention(run_refine(cut), "of the target with 5 mm around it, not all")


@pytest.mark.parametrize("grain_voxels", [0.0, 0.6, 1.0])
def test_abstains_when_the_mr_is_noise(grain_voxels: float) -> None:
    """Noise, white or interpolated, shows none of the structures of the CT."""
    scene, rng = scene_of(), np.random.default_rng(7)
    noise = [
        ndimage.gaussian_filter(rng.standard_normal(SHAPE), grain_voxels).astype(np.float32)
        for _ in scene.mr
    ]
    check_abstention(
        run_refine(with_voxels(scene, noise)), "does not show the structures of the CT"
    )


@pytest.mark.parametrize("sigma_mm", [4.5, 6.0])
def test_abstains_when_the_detail_of_the_mr_is_blurred_away(sigma_mm: float) -> None:
    """Coarse shapes remain and fit the CT, yet no border can be placed."""
    scene = scene_of()
    sigma = [sigma_mm / step for step in SPACING_MM]
    blurred = [ndimage.gaussian_filter(series.image.voxels, sigma) for series in scene.mr]
    check_abstention(run_refine(with_voxels(scene, blurred)), "detail is blurred away")


def test_abstains_when_the_node_looks_like_its_surroundings() -> None:
    """A sharp MR in its place, in which only vessel and liver differ, cannot tell where to stop."""
    scene, rng = scene_of(), np.random.default_rng(5)
    others = 300.0 * scene.organs["V_Portal"].inside + 150.0 * scene.organs["Liver"].inside
    same = [
        (100.0 + others + 15.0 * rng.standard_normal(SHAPE)).astype(np.float32) for _ in scene.mr
    ]
    check_abstention(run_refine(with_voxels(scene, same)), "hardly tells the target")


def test_abstains_with_all_reasons_when_the_target_is_tiny_and_the_mr_unfit() -> None:
    """Two voxels across: no evidence can be drawn from it; the other fault is told as well."""
    scene = registered(
        scene_of(radius_mm=4.0, drawn_mm=-2.0), registration(RegistrationStatus.WARN)
    )
    check_abstention(run_refine(scene), "voxels across", "smaller than 0.20 cm3", "not 'pass'")


def test_abstains_when_the_result_would_be_implausible() -> None:
    """A volume far from the drawn one is told, not written."""
    answer = run_refine(scene_of(), replace(SETTINGS, min_volume_ratio=0.95))
    check_abstention(answer, "times the drawn volume, outside 0.95 to 1.90")


def test_context_bars_nothing_when_a_structure_holds_the_target() -> None:
    """Body and a thrombosed vein hold the target: they are its surroundings, and that is told."""
    scene = scene_of()
    around = Mask(scene.drawn.geometry, ndimage.binary_dilation(scene.drawn.inside, iterations=4))
    inside_vein = replace(scene, organs={"External": around, "V_Porta_Thromb": around})
    answer = run_refine(inside_vein)
    refined_of(answer)
    assert any("lies within V_Porta_Thromb" in reason for reason in answer.reasons)
    assert not any("External" in reason for reason in answer.reasons)


def test_core_and_vessel_stay_when_told_not_to_remove_overlap() -> None:
    """With `removes_overlap` off the drawn overlap may stay, but nothing grows into the vessel."""
    scene = scene_of()
    answer = run_refine(scene, replace(SETTINGS, removes_overlap=False))
    if answer.refined is not None:
        new = answer.refined.inside & ~scene.drawn.inside
        assert not (new & scene.organs["V_Portal"].inside).any()


def test_tidy_fills_holes_and_drops_islands() -> None:
    """Islands without core or drawn voxels go, small ones too; a hole within is filled."""
    scene = scene_of()
    region = make_region(scene.drawn, {}, SETTINGS)
    middle = tuple(int(np.median(at)) for at in np.nonzero(region.core))
    spoiled = region.drawn.copy()
    spoiled[middle] = False
    spoiled[2, 2, 2] = True
    assert np.array_equal(tidy(spoiled, region, SETTINGS), region.drawn)


@pytest.mark.parametrize(
    ("name", "excluded", "ignored"),
    [
        ("V_Portal", True, False),
        ("a_hepatic", True, False),
        ("BileDuct_Common", True, False),
        ("Bowel_sm_planCT", True, False),
        ("Liver", False, False),
        ("PTV_4000", False, True),
        ("zRing", False, True),
        ("Duodenum_PRV05", True, True),
        ("Liver-GTV", False, True),
        ("Bowel_Bag", True, True),
        ("BowelSpace", True, True),
        ("Bowel_PTV", True, True),
        ("V_20Gy", True, True),
        ("A_Avoid", True, True),
        ("Stomach+5mm", True, True),
        ("V_Portal (ROI 7)", True, False),
    ],
)
def test_structure_names_are_sorted_by_pattern(name: str, excluded: bool, ignored: bool) -> None:
    """TG-263 names, in any case."""
    assert matches(name, SETTINGS.exclude_patterns) is excluded
    assert matches(name, SETTINGS.ignore_patterns) is ignored


def test_hole_that_was_drawn_stays() -> None:
    """A cavity that the clinician left out is no gap to be filled."""
    scene = scene_of()
    middle = tuple(n // 2 for n in SHAPE)
    cavity = np.zeros(SHAPE, dtype=bool)
    cavity[middle[0] - 1 : middle[0] + 2, middle[1] - 2 : middle[1] + 3, middle[2] - 8] = True
    drawn = Mask(scene.drawn.geometry, scene.drawn.inside & ~cavity)
    region = make_region(drawn, {}, SETTINGS)
    assert not (tidy(region.drawn, region, SETTINGS) & cavity[region.block]).any()


def test_settings_are_refused_when_out_of_bounds() -> None:
    """All wrong values are told together."""
    with pytest.raises(ValueError, match=r"max_outward_mm.*min_separation"):
        RefinementSettings(max_outward_mm=-1.0, min_separation=0.2)


def test_unfit_input_is_refused() -> None:
    """An empty target, or anything off the CT's grid, is a clear error."""
    scene = scene_of()
    nothing = Mask(scene.drawn.geometry, np.zeros(SHAPE, dtype=bool))
    with pytest.raises(EmptyStructureError):
        run_refine(replace(scene, drawn=nothing))
    other = scene.drawn.geometry.crop((0, 0, 0), (5, 5, 5))
    with pytest.raises(GeometryMismatchError):
        run_refine(replace(scene, organs={"Liver": Mask(other, np.ones((5, 5, 5), dtype=bool))}))


@pytest.mark.parametrize("sigma_mm", [0.0, 1.0, 2.0, 3.0])
def test_blur_of_a_step_is_measured(sigma_mm: float) -> None:
    """A step blurred by a known Gaussian on 1 mm voxels."""
    step = np.zeros((40, 40, 40))
    step[:, :, 20:] = 100.0
    blurred = ndimage.gaussian_filter(step, sigma_mm).astype(np.float32)
    found = blur_mm(blurred, np.ones(step.shape, dtype=bool), (1.0, 1.0, 1.0))
    assert found == pytest.approx(sigma_mm, abs=0.6)


def test_figures_of_evidence_by_hand() -> None:
    """Area under the curve, explained variance, and the density of a look against SciPy's."""
    assert area_under_roc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 3.5 / 4
    values, labels = np.array([0.0, 2.0, 10.0, 12.0]), np.array([1, 1, 2, 2])
    assert variance_explained(values, labels) == pytest.approx(25 / 26, abs=0.01)
    centre, scale = np.array([1.0, -2.0]), np.array([2.0, 0.5])
    at = np.array([[0.0, 0.0], [1.0, -2.0], [5.0, 3.0]])
    likely = stats.t.pdf(at, df=4, loc=centre, scale=scale)
    expected = np.log(0.9 * likely + 0.1 * 0.1)
    look = Look(centre, scale, 4.0, 0.1)
    assert look.log_densities(at) == pytest.approx(expected)
    assert look.log_density(at, np.array([1.0, 0.0])) == pytest.approx(expected[:, 0])


def _case_from(datasets: CaseDatasets, ct_from_mr: RigidTransform) -> tuple[Case, Scene]:
    """Return a decoded case, and it as a scene without truth: the first GTV is the target."""
    case = decode_case(datasets).case
    masks = {
        roi.name: mask_from_roi(roi, case.ct.geometry)
        for roi in case.structure_set.rois
        if roi.contours
    }
    drawn = masks.pop(next(name for name in masks if name.startswith("GTV")))
    series = tuple(
        ResampledMr(*resample(image, case.ct.geometry, ct_from_mr), registration())
        for image in case.mr
    )
    return case, Scene(drawn, drawn, case.ct, series, masks)


@pytest.mark.parametrize("seed", [31, 32, 33])
def test_contour_of_the_phantom_gets_better_with_the_true_registration(seed: int) -> None:
    """Seeds on which nothing was tuned; the truth is the phantom's."""
    study = make_study(PhantomOptions(seed=seed, size="tiny", with_dose=False))
    mr = {series[0].SeriesInstanceUID: series for series in study.mr.values()}
    datasets = CaseDatasets(ct=study.ct, structure_set=study.structure_set, mr=mr)
    _, scene = _case_from(datasets, study.ct_from_mr)
    refined = refined_of(run_refine(scene))
    check_bounds(scene.drawn, refined, scene.organs, SETTINGS.max_outward_mm)
    before, after = (compare(study.true_target, mask) for mask in (scene.drawn, refined))
    assert after["dsc"] > before["dsc"] + 0.05
    assert after["hd95_mm"] < before["hd95_mm"]


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["STS_002", "STS_023"])
def test_abstains_when_a_real_patient_has_t1_only(real_data: Path, name: str) -> None:
    """Public sarcoma cases: one contrast, no contoured vessel."""
    files = [p for p in (real_data / "sarcoma-ct-mr" / name).rglob("*") if p.is_file()]
    read = [pydicom.dcmread(path) for path in files if path.suffix.lower() == ".dcm"]
    ct = [ds for ds in read if ds.Modality == "CT"]
    mr = [ds for ds in read if ds.Modality == "MR"]
    structures = next(
        ds
        for ds in read
        if ds.Modality == "RTSTRUCT"
        and ds.FrameOfReferenceUID == ct[0].FrameOfReferenceUID
        and any(roi.ROIName == "GTV_Mass_CT" for roi in ds.StructureSetROISequence)
    )
    still = RigidTransform(np.eye(4), ct[0].FrameOfReferenceUID, mr[0].FrameOfReferenceUID)
    datasets = CaseDatasets(ct=ct, structure_set=structures, mr={mr[0].SeriesInstanceUID: mr})
    _, scene = _case_from(datasets, still)
    check_abstention(run_refine(scene), "fewer than 2 kinds of MR contrast can be used (T1)")
