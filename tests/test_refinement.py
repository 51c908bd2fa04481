"""Refinement: bounded where it acts, abstaining with reasons where it must not.

The scene is a ball in fat beside a liver and a vessel, with signals of our own choice; the phantom
and public data come on top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from scipy import ndimage, stats

from handlers.contour_metrics import compare
from handlers.decode import CaseDatasets, decode_case
from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform
from handlers.refinement import RefinementSettings, refine
from handlers.refinement.appearance import StudentT, area_under_roc
from handlers.refinement.evidence import blur_mm, variance_explained
from handlers.refinement.region import make_region, matches, tidy
from handlers.sampling import mask_from_roi, resample
from handlers.values import (
    Case,
    Image,
    Mask,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    TargetStatus,
)
from node.phantom import PhantomOptions, make_study

SETTINGS = RefinementSettings()
SPACING_MM = (2.0, 1.5, 1.5)
SHAPE = (34, 46, 46)

# signals of fat, liver, vessel, node; CT in HU
SIGNALS = {
    "CT": (-100.0, 110.0, 150.0, 70.0),
    "T1": (80.0, 420.0, 700.0, 310.0),
    "T2": (560.0, 170.0, 40.0, 350.0),
    "DWI": (20.0, 100.0, 10.0, 400.0),
    "ADC": (200.0, 1300.0, 400.0, 900.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A planner's view of one target, and the truth."""

    truth: Mask
    drawn: Mask
    ct: Image
    mr: tuple[ResampledMr, ...]
    organs: Mapping[str, Mask]


def _geometry() -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.array(SPACING_MM)
    return Geometry("1.2", matrix, SHAPE)


def _registration(
    status: RegistrationStatus = RegistrationStatus.PASS, uncertainty_mm: float = 1.0
) -> Registration:
    reasons = () if status is RegistrationStatus.PASS else ("two engines differ by 7 mm",)
    still = RigidTransform(np.eye(4), "1.2", "1.2")
    return Registration(still, status, reasons, uncertainty_mm, {}, "1.2.9", (), (0.0, 0.0, 0.0))


@cache
def _scene(seed: int = 1, *, radius_mm: float = 11.0, drawn_mm: float = 3.0) -> Scene:
    """Return a node of `radius_mm`, drawn with a margin of `drawn_mm`, 1.5 mm onto the vessel."""
    grid, rng = _geometry(), np.random.default_rng(seed)
    points = grid.points_from_indices(np.indices(SHAPE).reshape(3, -1).T) - grid.centre_mm()
    x, y, _ = points.T.reshape(3, *SHAPE)
    vessel = np.hypot(x - radius_mm - 5.0, y) < 7.0
    ball = np.linalg.norm(points, axis=1).reshape(SHAPE)
    node = (ball < radius_mm) & ~vessel
    liver = (y > radius_mm + 4.0) & ~vessel
    moved = np.linalg.norm(points - (1.5, 0.0, 0.0), axis=1).reshape(SHAPE)
    tissue = np.select([node, vessel, liver], [3, 2, 1], 0)
    images = {
        name: (np.take(levels, tissue) * (1 + 0.05 * rng.standard_normal(SHAPE))).astype(np.float32)
        for name, levels in SIGNALS.items()
    }
    everywhere = np.ones(SHAPE, dtype=bool)
    smooth = {name: ndimage.gaussian_filter(values, 0.5) for name, values in images.items()}
    series = tuple(
        ResampledMr(
            Image(grid, smooth[name], "MR", f"1.2.{number}", contrast=name),
            Mask(grid, everywhere.copy()),
            _registration(),
        )
        for number, name in enumerate(("T1", "T2", "DWI", "ADC"), start=1)
    )
    organs = {
        "V_Portal": Mask(grid, vessel),
        "Liver": Mask(grid, liver),
        "External": Mask(grid, everywhere),
        "PTV_High": Mask(grid, moved < radius_mm + 12.0),
    }
    drawn = Mask(grid, moved < radius_mm + drawn_mm)
    return Scene(Mask(grid, node), drawn, Image(grid, smooth["CT"], "CT", "1.2.0"), series, organs)


def _run(scene: Scene, settings: RefinementSettings = SETTINGS) -> Refinement:
    return refine(scene.drawn, scene.ct, scene.mr, scene.organs, settings)


def _only(scene: Scene, *contrasts: str) -> Scene:
    return replace(scene, mr=tuple(s for s in scene.mr if s.image.contrast in contrasts))


def _with_voxels(scene: Scene, voxels: Sequence[npt.NDArray[np.float32]]) -> Scene:
    series = zip(scene.mr, voxels, strict=True)
    return replace(scene, mr=tuple(replace(s, image=replace(s.image, voxels=v)) for s, v in series))


def _registered(scene: Scene, registration: Registration) -> Scene:
    return replace(scene, mr=tuple(replace(s, registration=registration) for s in scene.mr))


def _dsc(first: Mask, second: Mask) -> float:
    common = np.count_nonzero(first.inside & second.inside)
    return 2.0 * common / (np.count_nonzero(first.inside) + np.count_nonzero(second.inside))


def _refined(answer: Refinement) -> Mask:
    assert answer.status is TargetStatus.REFINED, answer.reasons
    assert answer.refined is not None
    return answer.refined


def check_bounds(drawn: Mask, refined: Mask, organs: Mapping[str, Mask], outward_mm: float) -> None:
    """Expect the hard limits, measured with our own distance transforms."""
    spacing = drawn.geometry.spacing_mm
    outward = ndimage.distance_transform_edt(~drawn.inside, sampling=spacing)
    assert outward[refined.inside].max() <= outward_mm
    vessels = np.zeros(drawn.inside.shape, dtype=bool)
    for name, organ in organs.items():
        if name.startswith(("V_", "A_", "BileDuct", "Duodenum", "Stomach")):
            vessels |= organ.inside
    assert not (refined.inside & vessels).any()
    remaining = drawn.inside & ~vessels
    depth = ndimage.distance_transform_edt(remaining, sampling=spacing)
    assert refined.inside[depth >= 0.6 * depth.max()].all()
    labels, count = ndimage.label(refined.inside)
    assert all(drawn.inside[labels == piece].any() for piece in range(1, count + 1))
    assert np.array_equal(ndimage.binary_fill_holes(refined.inside) & ~vessels, refined.inside)


def check_abstention(answer: Refinement, *words: str) -> None:
    """Expect no contour, and each of the words in some reason."""
    assert answer.status is TargetStatus.ABSTAINED
    assert answer.refined is None
    for word in words:
        assert any(word in reason for reason in answer.reasons), (word, answer.reasons)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("contrasts", [("T1", "T2"), ("T1", "T2", "DWI", "ADC"), ("T2", "ADC")])
def test_contour_gets_better_within_its_bounds_when_the_mr_shows_the_node(
    seed: int, contrasts: tuple[str, ...]
) -> None:
    """A generous contour that reaches into the vein comes close to the truth."""
    scene = _only(_scene(seed), *contrasts)
    answer = _run(scene)
    refined = _refined(answer)
    check_bounds(scene.drawn, refined, scene.organs, SETTINGS.max_outward_mm)
    assert _dsc(scene.drawn, scene.truth) < 0.75
    assert _dsc(refined, scene.truth) > 0.92
    change = answer.numbers["added_cm3"] - answer.numbers["removed_cm3"]
    assert change == pytest.approx(refined.volume_cm3 - scene.drawn.volume_cm3)
    assert answer.numbers["separation"] > 0.9


@pytest.mark.parametrize("outward_mm", [0.0, 3.0, 5.0])
def test_contour_grows_no_farther_than_allowed_when_drawn_too_small(outward_mm: float) -> None:
    """The refiner does not assume shrinkage, and `max_outward_mm` is a hard limit."""
    scene = _scene(drawn_mm=-2.0)
    settings = replace(SETTINGS, max_outward_mm=outward_mm)
    answer = _run(scene, settings)
    if outward_mm == 0.0:
        if answer.refined is not None:
            assert answer.numbers["added_cm3"] == 0.0
        return
    refined = _refined(answer)
    check_bounds(scene.drawn, refined, scene.organs, outward_mm)
    assert refined.volume_cm3 > 1.2 * scene.drawn.volume_cm3
    assert _dsc(refined, scene.truth) > _dsc(scene.drawn, scene.truth) + 0.08


def test_good_contour_stays_when_the_changes_lie_within_the_registration_uncertainty() -> None:
    """What the uncertainty alone could explain is not changed."""
    scene = _scene()
    good = replace(scene, drawn=scene.truth)
    doubtful = _registered(good, _registration(uncertainty_mm=2.5))
    check_abstention(_run(doubtful), "nothing differs from the drawn contour")


def test_answer_is_the_same_when_asked_twice() -> None:
    """Deterministic: no random numbers, no order of threads."""
    first, second = _run(_scene()), _run(_scene())
    assert np.array_equal(_refined(first).inside, _refined(second).inside)
    assert first.numbers == second.numbers


def test_only_the_vessel_goes_when_t1_is_alone_and_the_target_overlaps_it() -> None:
    """One contrast moves no contour; contoured anatomy needs no MR, and the reasons say so."""
    scene = _only(_scene(), "T1")
    answer = _run(scene)
    expected = scene.drawn.inside & ~scene.organs["V_Portal"].inside
    assert np.array_equal(_refined(answer).inside, expected)
    assert any("only its overlap with V_Portal was removed" in r for r in answer.reasons)
    assert any("fewer than 2 kinds of MR contrast can be used (T1)" in r for r in answer.reasons)


@pytest.mark.parametrize("contrasts", [("T1",), ("DWI", "ADC")])
def test_abstains_when_fewer_than_two_contrasts_and_nothing_overlaps(
    contrasts: tuple[str, ...],
) -> None:
    """DWI and ADC come from the same echoes: one kind of evidence."""
    scene = _only(_scene(), *contrasts)
    free = replace(scene, organs={"Liver": scene.organs["Liver"]})
    check_abstention(_run(free), "fewer than 2 kinds", "overlaps no contoured vessel")


def test_abstains_when_the_contrasts_are_unknown() -> None:
    """A series that does not tell its contrast is no evidence."""
    scene = _scene()
    series = tuple(replace(s, image=replace(s.image, contrast="")) for s in scene.mr)
    answer = _run(replace(scene, mr=series, organs={}))
    check_abstention(answer, "4 MR series do not tell their contrast", "(none)")


@pytest.mark.parametrize("status", [RegistrationStatus.WARN, RegistrationStatus.FAIL])
def test_abstains_when_the_registration_did_not_pass(status: RegistrationStatus) -> None:
    """Only `pass` lets the MR change a contour; no vessel is removed instead."""
    answer = _run(_registered(_scene(), _registration(status)))
    check_abstention(answer, f"'{status}', not 'pass'", "two engines differ by 7 mm")


def test_series_is_set_aside_when_its_own_registration_did_not_pass() -> None:
    """The others go on, and the reasons name the series."""
    scene = _scene()
    failed = replace(scene.mr[2], registration=_registration(RegistrationStatus.FAIL))
    answer = _run(replace(scene, mr=(*scene.mr[:2], failed)))
    assert answer.numbers["series_used"] == 2
    assert any(reason.startswith("DWI (series 3 of 3)") for reason in answer.reasons)
    _refined(answer)


def test_abstains_when_the_registration_is_too_uncertain() -> None:
    """Beyond `max_uncertainty_mm` the MR says nothing about millimetres."""
    answer = _run(_registered(_scene(), _registration(uncertainty_mm=4.0)))
    check_abstention(answer, "uncertain by 4.0 mm, more than 3.0 mm")


def test_abstains_when_there_is_no_mr() -> None:
    """Nothing to refine with."""
    check_abstention(_run(replace(_scene(), mr=())), "no MR series was given")


def test_abstains_when_the_mr_does_not_cover_the_target() -> None:
    """The target and a margin must lie within the MR: slices that end 2 mm after it do not do."""
    scene = _scene()
    last = int(np.flatnonzero(scene.drawn.inside.any(axis=(1, 2)))[-1])
    covered = np.ones(SHAPE, dtype=bool)
    covered[last + 2 :] = False
    valid = Mask(scene.drawn.geometry, covered)
    cut = replace(scene, mr=tuple(replace(s, valid=valid) for s in scene.mr))
    check_abstention(_run(cut), "of the target with 5 mm around it, not all")


@pytest.mark.parametrize("grain_voxels", [0.0, 0.6, 1.0])
def test_abstains_when_the_mr_is_noise(grain_voxels: float) -> None:
    """Noise, white or interpolated, shows none of the structures of the CT."""
    scene, rng = _scene(), np.random.default_rng(7)
    noise = [
        ndimage.gaussian_filter(rng.standard_normal(SHAPE), grain_voxels).astype(np.float32)
        for _ in scene.mr
    ]
    check_abstention(_run(_with_voxels(scene, noise)), "does not show the structures of the CT")


@pytest.mark.parametrize("sigma_mm", [4.5, 6.0])
def test_abstains_when_the_detail_of_the_mr_is_blurred_away(sigma_mm: float) -> None:
    """Coarse shapes remain and fit the CT, yet no border can be placed."""
    scene = _scene()
    sigma = [sigma_mm / step for step in SPACING_MM]
    blurred = [ndimage.gaussian_filter(series.image.voxels, sigma) for series in scene.mr]
    check_abstention(_run(_with_voxels(scene, blurred)), "detail is blurred away")


def test_abstains_when_the_node_looks_like_its_surroundings() -> None:
    """A sharp, well registered MR in which only the vessel differs does not tell where to stop."""
    scene, rng = _scene(), np.random.default_rng(5)
    vessel = scene.organs["V_Portal"].inside
    same = [
        (100.0 + 300.0 * vessel + 40.0 * rng.standard_normal(SHAPE)).astype(np.float32)
        for _ in scene.mr
    ]
    check_abstention(_run(_with_voxels(scene, same)), "hardly tells the target")


def test_abstains_with_all_reasons_when_the_target_is_tiny_and_the_mr_unfit() -> None:
    """Two voxels across: no evidence can be drawn from it; the other fault is told as well."""
    scene = _registered(
        _scene(radius_mm=4.0, drawn_mm=-2.0), _registration(RegistrationStatus.WARN)
    )
    check_abstention(_run(scene), "voxels across", "smaller than 0.20 cm3", "not 'pass'")


def test_abstains_when_the_result_would_be_implausible() -> None:
    """A volume far from the drawn one is told, not written."""
    answer = _run(_scene(), replace(SETTINGS, min_volume_ratio=0.95))
    check_abstention(answer, "times the drawn volume, outside 0.95 to 1.90")


def test_context_bars_nothing_when_a_structure_holds_the_target() -> None:
    """Body and a thrombosed vein hold the target: they are its surroundings, and that is told."""
    scene = _scene()
    around = Mask(scene.drawn.geometry, ndimage.binary_dilation(scene.drawn.inside, iterations=4))
    inside_vein = replace(scene, organs={"External": around, "V_Porta_Thromb": around})
    answer = _run(inside_vein)
    _refined(answer)
    assert any("lies within V_Porta_Thromb" in reason for reason in answer.reasons)
    assert not any("External" in reason for reason in answer.reasons)


def test_core_and_vessel_stay_when_told_not_to_remove_overlap() -> None:
    """With `removes_overlap` off the drawn overlap may stay, but nothing grows into the vessel."""
    scene = _scene()
    answer = _run(scene, replace(SETTINGS, removes_overlap=False))
    if answer.refined is not None:
        new = answer.refined.inside & ~scene.drawn.inside
        assert not (new & scene.organs["V_Portal"].inside).any()


def test_tidy_fills_holes_and_drops_islands() -> None:
    """Islands without core or drawn voxels go, small ones too; a hole within is filled."""
    scene = _scene()
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
    ],
)
def test_structure_names_are_sorted_by_pattern(name: str, excluded: bool, ignored: bool) -> None:
    """TG-263 names, in any case."""
    assert matches(name, SETTINGS.exclude_patterns) is excluded
    assert matches(name, SETTINGS.ignore_patterns) is ignored


def test_settings_are_refused_when_out_of_bounds() -> None:
    """All wrong values are told together."""
    with pytest.raises(ValueError, match=r"max_outward_mm.*min_separation"):
        RefinementSettings(max_outward_mm=-1.0, min_separation=0.2)


def test_unfit_input_is_refused() -> None:
    """An empty target, or anything off the CT's grid, is a clear error."""
    scene = _scene()
    nothing = Mask(scene.drawn.geometry, np.zeros(SHAPE, dtype=bool))
    with pytest.raises(EmptyStructureError):
        _run(replace(scene, drawn=nothing))
    other = scene.drawn.geometry.crop((0, 0, 0), (5, 5, 5))
    with pytest.raises(GeometryMismatchError):
        _run(replace(scene, organs={"Liver": Mask(other, np.ones((5, 5, 5), dtype=bool))}))


@pytest.mark.parametrize("sigma_mm", [0.0, 1.0, 2.0, 3.0])
def test_blur_of_a_step_is_measured(sigma_mm: float) -> None:
    """A step blurred by a known Gaussian on 1 mm voxels."""
    step = np.zeros((40, 40, 40))
    step[:, :, 20:] = 100.0
    blurred = ndimage.gaussian_filter(step, sigma_mm).astype(np.float32)
    found = blur_mm(blurred, np.ones(step.shape, dtype=bool), (1.0, 1.0, 1.0))
    assert found == pytest.approx(sigma_mm, abs=0.6)


def test_figures_of_evidence_by_hand() -> None:
    """Area under the curve, explained variance, and the t density against SciPy's."""
    assert area_under_roc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 3.5 / 4
    values, labels = np.array([0.0, 2.0, 10.0, 12.0]), np.array([1, 1, 2, 2])
    assert variance_explained(values, labels) == pytest.approx(25 / 26, abs=0.01)
    mean, scale = np.array([1.0, -2.0]), np.array([[2.0, 0.3], [0.3, 0.5]])
    at = np.array([[0.0, 0.0], [1.0, -2.0], [5.0, 3.0]])
    expected = stats.multivariate_t(mean, scale, df=4).logpdf(at)
    assert StudentT(mean, scale, 4.0).log_density(at) == pytest.approx(expected)


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
        ResampledMr(*resample(image, case.ct.geometry, ct_from_mr), _registration())
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
    refined = _refined(_run(scene))
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
    check_abstention(_run(scene), "fewer than 2 kinds of MR contrast can be used (T1)")
