"""The phantom: legal objects, one patient seen twice, and a truth that outside readers confirm.

Where things lie is judged by SimpleITK and by hand, never by the grids the phantom was made with.
"""

import dataclasses
import io
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual short name
from pydicom.dataset import Dataset
from scipy import ndimage
from skimage.measure import points_in_poly

from node.phantom import PhantomOptions, PhantomStudy, make_study

ALL_CONTRASTS = ("T1", "T2", "DWI", "ADC")

ORGANS = {
    *("Liver", "Duodenum", "Stomach", "Kidney_L", "Kidney_R", "SpinalCanal", "V_Portal"),
    *("A_Hepatic", "A_Aorta", "V_Venacava_I", "BileDuct_Common", "External"),
}


@pytest.fixture(scope="module")
def tiny() -> PhantomStudy:
    return make_study(PhantomOptions(size="tiny", contrasts=ALL_CONTRASTS))


def _write(instances: Iterable[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(instances):
        paths.append(folder / f"{number:04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def _read_series(instances: Iterable[Dataset], folder: Path) -> sitk.Image:
    """Return the series as ITK reads and sorts it."""
    _write(instances, folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    image: sitk.Image = reader.Execute()
    return image


def _centroid_of_nearest_part(
    image: sitk.Image, part: npt.NDArray[np.bool_], to_point: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return the LPS centroid of that connected part (over 2 cm3) which lies nearest to a point."""
    labels, count = ndimage.label(part)
    voxel_mm3 = float(np.prod(image.GetSpacing()))
    centroids = [
        image.TransformContinuousIndexToPhysicalPoint([float(v) for v in reversed(centre)])
        for n, centre in enumerate(
            ndimage.center_of_mass(part, labels, range(1, count + 1)), start=1
        )
        if np.count_nonzero(labels == n) * voxel_mm3 > 2000
    ]
    apart = np.linalg.norm(np.array(centroids) - to_point, axis=1)
    return np.array(centroids[int(np.argmin(apart))])


def _node_in_mr(series: Iterable[Dataset], folder: Path) -> npt.NDArray[np.float64]:
    """Return where the bright node of a DWI lies: the bright part nearest to the middle."""
    image = _read_series(series, folder)
    signal = sitk.GetArrayFromImage(image)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    return _centroid_of_nearest_part(image, signal > 0.5 * np.percentile(signal, 99.9), middle)


def _node_in_ct(study: PhantomStudy, folder: Path) -> npt.NDArray[np.float64]:
    """Return where the node lies in the CT: unenhanced soft tissue near the drawn target."""
    image = _read_series(study.ct, folder)
    hu = ndimage.gaussian_filter(sitk.GetArrayFromImage(image).astype(float), 0.5)
    soft = ndimage.binary_opening((hu > 20) & (hu < 118))
    drawn = np.vstack(_polygons(study, "GTVn")).mean(axis=0)
    return _centroid_of_nearest_part(image, soft, drawn)


def _polygons(study: PhantomStudy, name: str) -> list[npt.NDArray[np.float64]]:
    ds = study.structure_set
    numbers = {roi.ROIName: roi.ROINumber for roi in ds.StructureSetROISequence}
    (item,) = (i for i in ds.ROIContourSequence if i.ReferencedROINumber == numbers[name])
    return [np.array(ring.ContourData, float).reshape(-1, 3) for ring in item.ContourSequence]


def _drawn_voxels(study: PhantomStudy, name: str = "GTVn") -> npt.NDArray[np.bool_]:
    """Return the voxels of the CT whose centres lie in the polygons of a ROI."""
    grid = study.true_target.geometry
    inside = np.zeros(grid.shape, dtype=bool)
    rows, columns = np.indices(grid.shape[1:]).reshape(2, -1)
    for polygon in _polygons(study, name):
        indices = grid.indices_from_points(polygon)
        found = points_in_poly(np.column_stack([rows, columns]), indices[:, 1:])
        inside[round(indices[0, 0])] |= found.reshape(grid.shape[1:])
    return inside


def check_node_is_at_the_same_place(study: PhantomStudy, folder: Path) -> None:
    """Check that the node, found by its signal alone, is one point of the patient in CT and MR."""
    in_ct = _node_in_ct(study, folder / "ct")
    in_mr = study.ct_from_mr.apply(_node_in_mr(study.mr["DWI"], folder / "mr"))[0]
    assert np.linalg.norm(in_ct - study.target_centre_mm) < 1.8
    assert np.linalg.norm(in_mr - study.target_centre_mm) < 1.5
    assert np.linalg.norm(in_mr - in_ct) < 2.0


@pytest.mark.parametrize(
    ("position", "axes"),
    [
        ("HFS", [1, 0, 0, 0, 1, 0]),
        ("HFP", [-1, 0, 0, 0, -1, 0]),
        ("FFS", [-1, 0, 0, 0, 1, 0]),
        ("FFP", [1, 0, 0, 0, -1, 0]),
    ],
)
def test_node_is_found_at_its_place_when_the_patient_lies_differently(
    position: Literal["HFS", "HFP", "FFS", "FFP"], axes: list[int], tmp_path: Path
) -> None:
    """Rows and columns turn with the patient on the table (by hand); the node stays in place."""
    options = PhantomOptions(size="tiny", patient_position=position, contrasts=("DWI",), noise=0.3)
    study = make_study(options)
    assert study.dose is not None
    for ds in (study.ct[0], study.dose):
        assert list(ds.ImageOrientationPatient) == axes
    assert study.ct[0].PatientPosition == position
    check_node_is_at_the_same_place(study, tmp_path)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique"])
def test_node_is_found_at_its_place_when_mr_slices_are_turned(
    plane: Literal["axial", "sagittal", "coronal", "oblique"], tmp_path: Path
) -> None:
    """The MR's geometry and the stated pose agree for every plane, here with a large pose."""
    options = PhantomOptions(
        size="tiny",
        mr_plane=plane,
        mr_rotation_deg=(-9.0, 6.0, 12.0),
        mr_translation_mm=(-40.0, 30.0, 300.0),
        contrasts=("DWI",),
        with_dose=False,
        noise=0.3,
    )
    check_node_is_at_the_same_place(make_study(options), tmp_path)


def test_breathing_lowers_the_abdomen_when_asked_for(tmp_path: Path) -> None:
    """By 10 mm at the front, as told; the option's default leaves the truth rigid."""
    options = PhantomOptions(
        size="tiny", breathing_mm=10.0, contrasts=("DWI",), with_dose=False, noise=0.3
    )
    study = make_study(options)
    moved = study.ct_from_mr.apply(_node_in_mr(study.mr["DWI"], tmp_path))[0]
    np.testing.assert_allclose(moved - study.target_centre_mm, (0, 0, -10), atol=1.5)


def test_bytes_are_the_same_when_the_options_are() -> None:
    """The phantom is a function of its options; another seed gives another patient."""

    def content(options: PhantomOptions) -> list[bytes]:
        written = []
        for ds in make_study(options).instances():
            buffer = io.BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            written.append(buffer.getvalue())
        return written

    options = PhantomOptions(size="tiny", seed=3, contrasts=("T1", "ADC"))
    first = content(options)
    assert content(dataclasses.replace(options)) == first
    other = content(dataclasses.replace(options, seed=4))
    assert len(other) == len(first)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_drawn_target_holds_more_than_the_node_when_made(seed: int) -> None:
    """Dice of drawn and true target is 0.75 to 0.82, the drawn one larger, on vein and fat."""
    options = PhantomOptions(seed=seed, size="small", contrasts=(), with_dose=False)
    study = make_study(options)
    drawn, true = _drawn_voxels(study), study.true_target.inside
    dsc = 2 * np.count_nonzero(drawn & true) / (np.count_nonzero(drawn) + np.count_nonzero(true))
    assert 0.75 <= dsc <= 0.82
    assert np.count_nonzero(drawn & true) > 0.97 * np.count_nonzero(true)
    assert np.count_nonzero(drawn & _drawn_voxels(study, "V_Portal")) > 10
    assert 20 < 2 * np.cbrt(study.true_target.volume_cm3 * 1000 * 3 / 4 / np.pi) < 30


def test_dose_covers_the_drawn_target_when_planned() -> None:
    """At least 95 % of GTVn gets the prescription; the dose falls steeply and is 0 in air."""
    study = make_study(PhantomOptions(size="small", contrasts=()))
    ds = study.dose
    assert ds is not None
    stored = np.frombuffer(ds.PixelData, "<u4").reshape(ds.NumberOfFrames, ds.Rows, ds.Columns)
    dose = stored * float(ds.DoseGridScaling)
    # HFS: the offsets of the frames run along +z, columns along +x, rows along +y
    voxels = np.argwhere(_drawn_voxels(study))
    points = study.true_target.geometry.points_from_indices(voxels)
    x, y, z = np.array(ds.ImagePositionPatient, float)
    at = np.column_stack([points[:, 2] - z, points[:, 1] - y, points[:, 0] - x]) / 3.0
    in_target = ndimage.map_coordinates(dose, at.T, order=1)
    assert np.mean(in_target >= 40.0) >= 0.95
    assert 44 < in_target.max() < 56
    assert np.diff(np.array(ds.GridFrameOffsetVector, float)) == pytest.approx(3.0)
    centre = np.array(study.target_centre_mm)
    far = centre + np.array([[0, 0, 60.0], [0, 60, 0], [-60, 0, 0]])
    at = np.column_stack([far[:, 2] - z, far[:, 1] - y, far[:, 0] - x]) / 3.0
    assert np.all(ndimage.map_coordinates(dose, at.T, order=1) < 12.0)
    assert dose[:, 0, 0].max() == 0.0


def test_organs_are_contoured_on_their_slices_when_made(tiny: PhantomStudy) -> None:
    """TG-263 names, closed planar rings of three or more points, each on the slice it names."""
    ds = tiny.structure_set
    names = {roi.ROIName for roi in ds.StructureSetROISequence}
    assert ORGANS | {"GTVn"} <= names
    assert all(len(name) <= 16 for name in names)
    types = {
        roi.ROIName: observation.RTROIInterpretedType
        for roi, observation in zip(
            ds.StructureSetROISequence, ds.RTROIObservationsSequence, strict=True
        )
    }
    assert (types["GTVn"], types["External"], types["Liver"]) == ("GTV", "EXTERNAL", "ORGAN")
    heights = {ct.SOPInstanceUID: float(ct.ImagePositionPatient[2]) for ct in tiny.ct}
    for item in ds.ROIContourSequence:
        for ring in item.ContourSequence:
            points = np.array(ring.ContourData, float).reshape(-1, 3)
            assert len(points) == ring.NumberOfContourPoints >= 3
            assert not np.array_equal(points[0], points[-1])
            (reference,) = ring.ContourImageSequence
            height = heights[reference.ReferencedSOPInstanceUID]
            np.testing.assert_allclose(points[:, 2], height, atol=0.01)


def test_sections_have_the_area_of_the_shape_when_traced(tiny: PhantomStudy) -> None:
    """The aorta is a tube of radius 10 mm at z = 0: its section has 314 mm2."""
    rings = [p for p in _polygons(tiny, "A_Aorta") if abs(p[0, 2]) < 2.1]
    assert len(rings) == 2
    for ring in rings:
        a, b = ring[:, 0], ring[:, 1]
        area = abs(np.sum(a * np.roll(b, -1) - np.roll(a, -1) * b)) / 2
        assert area == pytest.approx(314.0, rel=0.03)


def test_tissues_have_their_brightness_when_looked_at(tmp_path: Path) -> None:
    """Handbook G.1 in the slices through the node: order of brightness in CT, T1, T2, DWI, ADC."""
    study = make_study(PhantomOptions(size="small", contrasts=ALL_CONTRASTS, with_dose=False))
    core = {"node": ndimage.binary_erosion(study.true_target.inside, iterations=2)}
    for roi, name in (("liver", "Liver"), ("vein", "V_Portal"), ("kidney", "Kidney_L")):
        voxels = _drawn_voxels(study, name)
        core[roi] = ndimage.binary_erosion(voxels, iterations=1 if roi == "vein" else 2)
    grid = study.true_target.geometry
    images = {"CT": _read_series(study.ct, tmp_path / "CT")}
    images |= {name: _read_series(series, tmp_path / name) for name, series in study.mr.items()}
    mean: dict[tuple[str, str], float] = {}
    for tissue, voxels in core.items():
        points = grid.points_from_indices(np.argwhere(voxels))
        points = points[:: max(1, len(points) // 400)]
        for name, image in images.items():
            there = points if name == "CT" else study.ct_from_mr.inverse().apply(points)
            at = np.array(
                [image.TransformPhysicalPointToContinuousIndex(p.tolist()) for p in there]
            )
            signal = sitk.GetArrayFromImage(image).astype(float)
            mean[name, tissue] = float(
                ndimage.map_coordinates(signal, at[:, ::-1].T, order=1, mode="nearest").mean()
            )
    assert mean["CT", "node"] == pytest.approx(88, abs=6)
    assert mean["CT", "liver"] == pytest.approx(112, abs=6)
    assert mean["CT", "vein"] > mean["CT", "node"] + 35
    assert mean["T1", "vein"] > 1.5 * mean["T1", "node"]
    assert mean["T2", "node"] > 1.5 * mean["T2", "liver"] > 2 * mean["T2", "vein"]
    assert mean["DWI", "node"] > 2.5 * mean["DWI", "liver"]
    assert mean["ADC", "node"] == pytest.approx(920, rel=0.05)
    assert mean["ADC", "kidney"] > mean["ADC", "liver"] > mean["ADC", "node"]


def test_objects_belong_together_when_sent(tiny: PhantomStudy) -> None:
    """One patient, MR earlier in a study and frame of its own, references that are kept."""
    objects = list(tiny.instances())
    assert len({ds.SOPInstanceUID for ds in objects}) == len(objects)
    assert {ds.PatientID for ds in objects} == {"HILUM-PHANTOM-1"}
    assert not any(ds.Manufacturer == "Hilum" for ds in objects)
    ct, structures, plan, dose = tiny.ct[0], tiny.structure_set, tiny.plan, tiny.dose
    assert plan is not None
    assert dose is not None
    for mr in (series[0] for series in tiny.mr.values()):
        assert mr.FrameOfReferenceUID == tiny.ct_from_mr.from_frame_uid != ct.FrameOfReferenceUID
        assert mr.StudyInstanceUID != ct.StudyInstanceUID
        assert mr.StudyDate < ct.StudyDate
        assert mr.BodyPartExamined == "ABDOMEN"
    assert float(tiny.mr["DWI"][0].DiffusionBValue) == 800.0
    assert tiny.mr["ADC"][0].ImageType[0] == "DERIVED"
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    listed = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    assert listed == [ds.SOPInstanceUID for ds in tiny.ct]
    (planned_on,) = plan.ReferencedStructureSetSequence
    assert planned_on.ReferencedSOPInstanceUID == structures.SOPInstanceUID
    assert plan.FractionGroupSequence[0].NumberOfFractionsPlanned == 5
    assert plan.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamDose == 8
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID


def test_frame_is_shared_but_not_the_pose_when_asked_for() -> None:
    """A shared frame of reference UID is no proof of alignment: the pose stays as told."""
    options = PhantomOptions(
        size="tiny", shares_frame_of_reference=True, contrasts=("T2",), with_dose=False
    )
    study = make_study(options)
    assert study.mr["T2"][0].FrameOfReferenceUID == study.ct[0].FrameOfReferenceUID
    assert study.ct_from_mr.rotation_deg == pytest.approx((4.0, -3.0, 5.0))
    assert (study.plan, study.dose) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"contrasts": ("T3",)},
        {"size": "huge"},
        {"patient_position": "HFDL"},
        {"mr_plane": "curved"},
        {"fractions": 0},
        {"drawn_dsc": 1.0},
        {"node_diameter_mm": 50.0},
    ],
)
def test_options_are_refused_when_out_of_range(wrong: dict[str, object]) -> None:
    """An unknown choice is a programmer's mistake and is named."""
    with pytest.raises(ValueError, match=r"must|none of"):
        PhantomOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.peers
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_dciodvfy_finds_no_error_when_it_reads_the_objects(
    size: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Every object is legal for its IOD (PS3.3) in the eyes of dicom3tools.

    Its Debian build aborts on any pixel data of 32 bits, so the dose is checked as a copy of 16.
    """
    program = peer_program("dciodvfy")
    study = make_study(PhantomOptions(size=size, contrasts=ALL_CONTRASTS))  # type: ignore[arg-type]
    assert study.dose is not None
    dose = study.dose
    half = np.frombuffer(dose.PixelData, "<u4") >> 11
    dose.PixelData = half.astype("<u2").tobytes()
    dose.DoseGridScaling = float(dose.DoseGridScaling) * 2**11
    dose.BitsAllocated, dose.BitsStored, dose.HighBit = 16, 16, 15
    paths = _write(study.instances(), tmp_path)
    assert len(paths) > 100
    for path in paths:
        done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines() + done.stdout.splitlines()
        assert not [line for line in lines if line.startswith("Error")], lines
        assert done.returncode == 0, lines
        assert any("Image" in line or "RT" in line for line in lines), "it named no IOD"


@pytest.mark.parametrize(("size", "limit_s"), [("tiny", 3.0), ("small", 18.0)])
def test_study_is_made_quickly_when_tests_need_it(size: str, limit_s: float) -> None:
    """Three times the budget of one idle core (1 s, 6 s), so that only a real slip fails."""
    start = time.process_time()
    make_study(PhantomOptions(size=size))  # type: ignore[arg-type]
    assert time.process_time() - start < limit_s
