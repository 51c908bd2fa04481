"""Cases of the commissioning kit: a truth that the images bear out, variety, and files for others.

Where an image shows something is judged by SimpleITK's reading of the files; the truth is read from
`truth.json` as a stranger would, with numpy alone.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual short name
from pydicom import dcmread
from scipy import ndimage

from handlers.geometry import RigidTransform
from node.errors import NodeError
from node.phantom import PhantomOptions, PhantomStudy, export, make_study, signals
from node.phantom.patient import Patient, make_patient

CONTRASTS = ("T1", "T2", "DWI", "ADC")

Points = npt.NDArray[np.float64]


def _tiny(seed: int, *, hard: bool = False, **changes: Any) -> PhantomOptions:
    options = PhantomOptions.for_seed(seed, hard=hard, small=True)
    return dataclasses.replace(options, size="tiny", **changes)


def _patient(options: PhantomOptions) -> Patient:
    pose = RigidTransform.from_parameters(
        rotation_deg=options.mr_rotation_deg,
        translation_mm=options.mr_translation_mm,
        to_frame_uid="1.2",
        from_frame_uid="1.3",
    )
    return make_patient(options, pose)


@pytest.fixture(scope="module")
def clear() -> PhantomStudy:
    """A case with hardly any noise, blur, ghost and bias, on small grids with thin slices."""
    options = PhantomOptions.for_seed(6, small=True)
    assert options.variety is not None
    variety = dataclasses.replace(
        options.variety, blur_mm=0.01, ghost=0.0, bias=0.0, mr_slice_mm=(2.5, 2.5, 2.5)
    )
    return make_study(
        dataclasses.replace(
            options, variety=variety, noise=0.1, contrasts=("T1", "T2", "DWI"), with_dose=False
        )
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("kit") / "case"
    export.write_study(make_study(_tiny(8)), out)
    return out


def _truth(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "truth/truth.json").read_text(encoding="utf-8"))
    return document


def _itk_image(study: PhantomStudy, contrast: str, folder: Path) -> sitk.Image:
    folder.mkdir()
    for number, ds in enumerate(study.mr[contrast]):
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image: sitk.Image = reader.Execute()
    return image


def _values_at(image: sitk.Image, points: Points) -> npt.NDArray[np.float64]:
    at = np.array([image.TransformPhysicalPointToContinuousIndex(p.tolist()) for p in points])
    signal = sitk.GetArrayFromImage(image).astype(np.float64)
    found = ndimage.map_coordinates(signal, at[:, ::-1].T, order=1, mode="nearest")
    return np.asarray(found, dtype=np.float64)


def _still_points(study: PhantomStudy) -> Points:
    """Return voxels of the CT within 45 mm of the target that hold no bowel or stomach."""
    grid = study.true_target.geometry
    points = grid.points_from_indices(np.argwhere(np.ones(grid.shape, dtype=bool)))
    near = np.linalg.norm(points - study.target_centre_mm, axis=1) < 45
    points = points[near][::7]
    passing = {"gas", "fluid", "stool", "stomach_wall", "bowel_wall", "air"}
    kept = [t not in passing for t in study.patient.tissues_at(points)]
    return np.asarray(points[kept])


@pytest.mark.parametrize("contrast", ["T1", "T2", "DWI"])
def test_image_shows_each_point_where_the_truth_says_when_painted(
    contrast: str, clear: PhantomStudy, tmp_path: Path
) -> None:
    """The MR, read by ITK and looked up at `mr_points`, is the patient at rest; off it is worse.

    The patient at rest is painted on the CT's grid, where no motion takes part.
    """
    points = _still_points(clear)
    grid, patient = clear.true_target.geometry, clear.patient
    (rest,) = signals.paint(
        (*patient.anatomy.layers, *patient.anatomy.mr_gas),
        grid,
        patient.look,
        [contrast.lower()],
        sub_slices=2,
        warps=patient.ct_warps,
    )
    expected = ndimage.map_coordinates(rest, grid.indices_from_points(points).T, order=1)
    image = _itk_image(clear, contrast, tmp_path / contrast)

    def mismatch(offset_mm: tuple[float, float, float]) -> float:
        there = clear.mr_points(points, contrast) + np.array(offset_mm)
        return float(1 - np.corrcoef(_values_at(image, there), expected)[0, 1])

    still = mismatch((0, 0, 0))
    assert still < 0.02
    for axis in range(3):
        step = np.eye(3)[axis] * 1.5
        ahead, behind = mismatch(tuple(step)), mismatch(tuple(-step))
        assert min(ahead, behind) > still
        # the vertex of the parabola through three mismatches: how far off the best place is
        off_mm = 1.5 * (behind - ahead) / (2 * (ahead + behind - 2 * still))
        assert abs(off_mm) < 0.2, (axis, off_mm)


def test_node_lies_where_the_truth_says_when_found_by_its_brightness(
    clear: PhantomStudy, tmp_path: Path
) -> None:
    """The bright node of the DWI, distortion included, against `mr_points` of the true node."""
    image = _itk_image(clear, "DWI", tmp_path / "dwi")
    true = clear.true_target
    in_ct = true.geometry.points_from_indices(np.argwhere(true.inside))
    expected = clear.mr_points(in_ct, "DWI").mean(axis=0)
    signal = sitk.GetArrayFromImage(image)
    labels, count = ndimage.label(
        signal > 0.5 * np.percentile(_values_at(image, in_ct * 0 + expected), 50)
    )
    assert count
    at = image.TransformPhysicalPointToIndex(expected.tolist())
    centre = ndimage.center_of_mass(labels == labels[at[::-1]])
    found = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in reversed(centre)])
    assert np.linalg.norm(found - expected) < 1.5
    rigid = clear.ct_from_mr.inverse().apply(in_ct).mean(axis=0)
    assert np.linalg.norm(found - rigid) > 4.0, "nothing moved: the test would prove nothing"


@pytest.mark.parametrize(("seed", "hard"), [(1, False), (9, False), (5, True), (9, True)])
def test_organs_breathe_and_bones_do_not_when_the_kit_draws_a_case(seed: int, hard: bool) -> None:
    """4 to 18 mm at the dome of the liver, mostly along the body; spine and wall stay exactly."""
    options = PhantomOptions.for_seed(seed, hard=hard)
    patient = _patient(options)
    rng = np.random.default_rng(1)
    points = rng.uniform((-150, -110, -60), (150, 110, 80), (30_000, 3))
    tissues = np.array(patient.tissues_at(points))
    bone = points[np.isin(tissues, ("cortical", "marrow", "disc", "rib", "cord"))]
    assert len(bone) > 300
    np.testing.assert_allclose(patient.seen_in_mr(bone, "T1"), bone, atol=1e-9)
    liver = points[(tissues == "liver") & (points[:, 2] > 10)]
    moved = patient.seen_in_mr(liver, "T1") - liver
    median = np.sort(moved, axis=0)[len(moved) // 2]
    # what is called lower lies at smaller z
    assert 4 <= abs(options.breathing_mm) <= 18
    assert np.sign(median[2]) == -np.sign(options.breathing_mm)
    assert 0.6 < abs(median[2] / options.breathing_mm) < 1.3
    assert abs(median[2]) > 1.5 * max(abs(median[0]), abs(median[1]))


@pytest.mark.parametrize(("seed", "hard"), [(1, False), (1, True), (5, True), (11, True)])
def test_motion_folds_nowhere_when_drawn(seed: int, hard: bool) -> None:
    """By finite differences: every map keeps the order of points, so the truth is unique."""
    patient = _patient(PhantomOptions.for_seed(seed, hard=hard))
    steps = [np.arange(-reach, reach + 1, 12.0) for reach in (168, 108, 132)]
    axes = np.meshgrid(*steps, indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, 3)

    def before(places: Points, contrast: str) -> Points:
        x, y, z = places.T
        for warp in patient.mr_warps(contrast):
            x, y, z = warp.before(x, y, z)
        return np.stack([x, y, z], axis=1)

    for contrast in CONTRASTS[:3]:
        columns = [
            (before(points + d, contrast) - before(points - d, contrast)) / 0.01
            for d in np.eye(3) * 0.005
        ]
        assert np.linalg.det(np.stack(columns, axis=-1)).min() > 0.15


def test_series_have_their_own_breath_hold_when_drawn() -> None:
    """T2 and DWI lie a few mm off T1 at the target; DWI and ADC are one acquisition."""
    patient = _patient(PhantomOptions.for_seed(2))
    seen = {contrast: patient.seen_in_mr(patient.centre, contrast)[0] for contrast in CONTRASTS}
    for contrast in ("T2", "DWI"):
        assert 0.5 < np.linalg.norm(seen[contrast] - seen["T1"]) < 6
    np.testing.assert_array_equal(seen["DWI"], seen["ADC"])


def test_truth_is_the_rigid_pose_when_nothing_is_varied() -> None:
    """The plain patient: rigid without breathing, and with it lower by 10 mm at the front."""
    still = make_study(PhantomOptions(size="tiny", contrasts=(), with_dose=False))
    points = np.random.default_rng(1).uniform(-80, 80, (50, 3))
    there = still.mr_points(points, "T2")
    np.testing.assert_allclose(there, still.ct_from_mr.inverse().apply(points), atol=1e-9)
    breathing = PhantomOptions(size="tiny", contrasts=(), with_dose=False, breathing_mm=10.0)
    moved = make_study(breathing)
    at_front = np.array([[0.0, -80.0, 0.0]])
    seen = moved.ct_from_mr.apply(moved.mr_points(at_front))
    np.testing.assert_allclose(seen - at_front, [[0, 0, -10]], atol=0.01)


def test_cases_differ_when_the_seed_does() -> None:
    """Over forty seeds every kind of case occurs, and hard ones have a useless MR now and then."""
    for hard in (False, True):
        cases = [PhantomOptions.for_seed(seed, hard=hard) for seed in range(40)]
        assert len({repr(case) for case in cases}) == 40
        assert cases[3] == PhantomOptions.for_seed(3, hard=hard)
        varieties = [case.variety for case in cases if case.variety]
        assert {v.ct_phase for v in varieties} == {"native", "arterial", "portal", "delayed"}
        assert {v.mr_phase for v in varieties} == {"arterial", "portal", "hepatobiliary"}
        assert len({v.ct_slice_mm for v in varieties}) >= 3
        assert {v.lobes for v in varieties} >= {1, 2, 3}
        assert np.ptp([v.fat_mm for v in varieties]) > 25
        useless = sum(not v.is_mr_useful for v in varieties)
        assert (4 <= useless <= 20) if hard else useless == 0
        assert max(abs(a) for case in cases for a in case.mr_rotation_deg) > (4 if hard else 2)


@pytest.mark.parametrize("seed", [1, 5, 9, 11])
def test_node_touches_what_it_should_when_drawn(seed: int) -> None:
    """The node lies at the portal vein without filling it, one lobe at the duodenum if told."""
    options = PhantomOptions.for_seed(seed, hard=True)
    assert options.variety is not None
    anatomy = _patient(options).anatomy
    low, high = np.array(anatomy.node.lowest), np.array(anatomy.node.highest)
    axes = [np.arange(a, b, 1.0, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = anatomy.node.distance(x, y, z) < 0
    sizes = np.bincount(ndimage.label(inside)[0][inside])
    assert sizes.max() > 0.97 * inside.sum(), "one node, not several"
    from_vein = anatomy.organs["V_Portal"].distance(x, y, z)[inside]
    assert -0.01 <= from_vein.min() < 1.5
    if options.variety.touches_duodenum:
        assert anatomy.organs["Duodenum"].distance(x, y, z)[inside].min() < 1.5


def test_textures_of_ct_and_mr_are_mostly_their_own_when_drawn() -> None:
    """In the liver, piecewise constant before: both have texture, and little of it in common."""
    look = _patient(PhantomOptions.for_seed(1)).look
    x, y, z = np.random.default_rng(1).uniform(-90, 90, (3, 4000)).astype(np.float32)
    fields = look.fields(("hu", "t1", "t2"), x, y, z)
    grains = [grain for grain, _ in fields]
    assert all(0.5 < grain.std() < 1.3 for grain in grains)
    alike = np.atleast_2d(np.corrcoef(np.array(grains)))
    assert 0.2 < alike[0, 1] < 0.7
    assert 0.2 < alike[1, 2] < 0.7
    assert all(sheet is not None and 0 <= sheet.min() < sheet.max() <= 1 for _, sheet in fields)


def test_stranger_can_measure_errors_when_reading_the_truth_alone(written: Path) -> None:
    """Issue 3: 300 landmarks within 40 mm, each series' own shift, the rigid truth of the bones."""
    truth = _truth(written)
    matrix = np.array(truth["ct_from_mr"])
    centre = np.array(truth["target"]["centre_mm"])
    landmarks, bones = truth["landmarks"], truth["bone_landmarks"]
    ct = np.array(landmarks["ct"])
    assert len(ct) >= 300
    assert np.linalg.norm(ct - centre, axis=1).max() <= 40.01
    assert set(landmarks["mr"]) == set(CONTRASTS) == set(truth["series"])
    placed = {c: np.array(p) @ matrix[:3, :3].T + matrix[:3, 3] for c, p in landmarks["mr"].items()}
    assert np.median(np.linalg.norm(placed["T1"] - ct, axis=1)) > 2.0
    near = np.linalg.norm(ct - centre, axis=1) < 12
    for contrast, series in truth["series"].items():
        rest = placed[contrast][near] + series["shift_mm"] - ct[near]
        assert np.abs(np.median(rest, axis=0)).max() < 1.0
    bone_ct = np.array(bones["ct"])
    bone_t1 = np.array(bones["mr"]["T1"]) @ matrix[:3, :3].T + matrix[:3, 3]
    assert len(bone_ct) >= 50
    assert np.abs(bone_t1 - bone_ct).max() < 0.001
    assert truth["case"]["mr_useful"] is True
    assert np.mean(landmarks["in_field_of_view"]["T1"]) > 0.9


def test_true_node_is_the_same_in_each_form_when_written(written: Path) -> None:
    """Mask, contours and document agree on the node's volume and place; drawn is not true."""
    truth = _truth(written)
    target = truth["target"]
    arrays = np.load(written / "truth/truth.npz")
    node, matrix = arrays["node"], arrays["node_patient_from_index"]
    volume = node.sum() * abs(np.linalg.det(matrix[:3, :3])) / 1000
    assert volume == pytest.approx(target["true_volume_cm3"], rel=0.05)
    where = np.argwhere(node).mean(axis=0) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(where, target["centroid_mm"], atol=0.2)
    structures = dcmread(written / "truth/RTSTRUCT_truth.dcm")
    (roi,) = structures.StructureSetROISequence
    assert roi.ROIName == target["true_roi"]
    rings = [
        np.array(ring.ContourData, float).reshape(-1, 3)
        for ring in structures.ROIContourSequence[0].ContourSequence
    ]
    assert np.linalg.norm(np.vstack(rings).mean(axis=0) - where) < 4.0
    assert 0.5 < target["drawn_dsc"] < 0.9
    lattice = arrays["lattice_ct"]
    assert lattice.shape == arrays["lattice_T1"].shape == (17**3, 3)
    # the lattice holds the target's centre
    middle = len(lattice) // 2
    np.testing.assert_allclose(lattice[middle], target["centre_mm"], atol=1e-3)
    at = np.array(truth["ct_from_mr"])[:3, :3] @ arrays["lattice_T1"][middle]
    shift = lattice[middle] - at - np.array(truth["ct_from_mr"])[:3, 3]
    np.testing.assert_allclose(shift, truth["series"]["T1"]["shift_mm"], atol=1e-3)


def test_folders_are_those_of_a_department_when_written(written: Path) -> None:
    """What would be sent lies in `study`, and nothing of the truth does."""
    study = written / "study"
    assert sorted(p.name for p in study.iterdir()) == [
        *("CT", "MR_ADC", "MR_DWI", "MR_T1", "MR_T2"),
        *("RTDOSE.dcm", "RTPLAN.dcm", "RTSTRUCT.dcm"),
    ]
    names = {r.ROIName for r in dcmread(study / "RTSTRUCT.dcm").StructureSetROISequence}
    assert "GTVn" in names
    assert not any("true" in name.lower() for name in names)
    assert len({dcmread(p).PatientID for p in sorted(study.rglob("*.dcm"))[::9]}) == 1


def test_bytes_are_the_same_when_written_again(written: Path, tmp_path: Path) -> None:
    """Everything follows from the seed and the options: every file, the truth included."""
    again = tmp_path / "again"
    export.write_study(make_study(_tiny(8)), again)
    files = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert [f for f in files if (written / f).read_bytes() != (again / f).read_bytes()] == []


def test_writing_is_refused_when_the_folder_holds_something(tmp_path: Path) -> None:
    """Nothing is overwritten, and nothing is written beside what is there."""
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(NodeError, match="not empty"):
        export.check_folder(tmp_path)
    with pytest.raises(NodeError, match="is a file"):
        export.check_folder(tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def _hilum(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *arguments]
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_writes_a_study_or_says_why_not(tmp_path: Path) -> None:
    """DESIGN 6: exits 0, 1 when the thing failed, 2 when called wrongly; no traceback."""
    out = tmp_path / "case"
    done = _hilum("phantom", "--seed", "8", "--out", str(out), "--small", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    files = list((out / "study").rglob("*.dcm"))
    assert told["objects"] == len(files) > 100
    assert told["features"] == _truth(out)["case"]["features"]
    again = _hilum("phantom", "--seed", "8", "--out", str(out), "--small")
    assert again.returncode == 1
    assert "not empty" in again.stderr
    assert "Traceback" not in again.stderr
    for wrong in (("--seed", "-1"), ()):
        refused = _hilum("phantom", *wrong, "--out", str(tmp_path / "other"))
        assert refused.returncode == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.peers
@pytest.mark.parametrize(("seed", "hard"), [(8, False), (9, True)])
def test_dciodvfy_finds_no_error_when_it_reads_a_case(
    seed: int, hard: bool, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Every object of a case is legal for its IOD; the dose of 32 bits aborts that program."""
    program = peer_program("dciodvfy")
    export.write_study(make_study(_tiny(seed, hard=hard)), tmp_path / "case")
    paths = sorted(p for p in (tmp_path / "case").rglob("*.dcm") if p.name != "RTDOSE.dcm")
    assert len(paths) > 60
    for path in paths:
        done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines() + done.stdout.splitlines()
        assert not [line for line in lines if line.startswith("Error")], (path.name, lines)
        assert done.returncode == 0, lines
