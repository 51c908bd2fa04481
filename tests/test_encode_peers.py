"""Outside judges on our objects: dciodvfy, DCMTK, plastimatch; and a real patient's attributes."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from pydicom import Dataset, dcmread

from handlers.contour_metrics import compare
from handlers.decode import CaseDatasets, decode_case
from handlers.encode import Sources
from handlers.encode.identity import ResultSet
from handlers.encode.rtstruct import encode_structure_set
from handlers.geometry import Geometry, RigidTransform
from handlers.results import (
    CaseResult,
    Refinement,
    RegistrationStatus,
    ResampledMr,
    TargetResult,
    TargetStatus,
    VoxelField,
)
from handlers.sampling import mask_from_roi, resample
from handlers.values import Case, Contour, Image, Mask, Roi, StructureSet
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.phantom.options import MrPlane, PatientPosition
from tests.encode_cases import (
    AUTHORSHIP,
    CT_FRAME,
    MR_SERIES,
    EncodeCase,
    build_case,
    bytes_of,
    files_of,
    registration,
    report_of,
    written,
)
from tests.test_encode_deformable import with_field
from tests.test_encode_dose import with_dose
from tests.test_encode_review import BOTH, with_evidence
from tests.test_encode_structures import hollowed

PeerProgram = Callable[[str], str]

pytestmark = pytest.mark.peers


def write(case: EncodeCase, folder: Path) -> list[Path]:
    """Write a result set into a folder and return the files."""
    paths = []
    for name, content in files_of(case).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def output_of(*arguments: str | Path) -> str:
    """Run a program and return all it printed."""
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, timeout=120, check=False
    )
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def errors_of(dciodvfy: str, path: Path) -> set[str]:
    """Return the lines in which dciodvfy calls something an error."""
    return {line for line in output_of(dciodvfy, path).splitlines() if line.startswith("Error")}


def all_abstained() -> EncodeCase:
    """Return the case of which nothing came: a failed registration in the CT's own frame."""
    case = build_case()
    failed = registration(CT_FRAME, [MR_SERIES], RegistrationStatus.FAIL, ("No overlap.",))
    return case.with_result(registrations=(failed,), resampled=(), targets=case.result.targets[1:])


@pytest.mark.parametrize(
    "build",
    [
        build_case,
        lambda: build_case(is_prone_oblique=True),
        all_abstained,
        lambda: with_field(build_case()),
        lambda: with_evidence(build_case()),
        lambda: with_evidence(build_case(is_prone_oblique=True)),
        lambda: with_dose(build_case()),
    ],
    ids=["axial", "prone-oblique", "abstained", "deformed", "review", "review-oblique", "dose"],
)
def test_dciodvfy_and_dcmdump_accept_every_object(
    build: Callable[[], EncodeCase], tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Peers 3.4: an IOD validator finds no error in what we send, DCMTK reads every byte."""
    dciodvfy, dcmdump = peer_program("dciodvfy"), peer_program("dcmdump")
    paths = write(build(), tmp_path)
    alone = (tmp_path, tmp_path / "fused")
    kinds = [p for p in paths if p.parent in alone or p.name in ("0001.dcm", "0010.dcm")]
    for path in kinds:
        assert errors_of(dciodvfy, path) == set(), path.name
        assert subprocess.run([dcmdump, "-q", str(path)], capture_output=True).returncode == 0


def test_dciodvfy_finds_an_error_when_there_is_one(
    tmp_path: Path, peer_program: PeerProgram
) -> None:
    """The judge is awake: without a type 1 attribute it complains."""
    ds = written(build_case(), until="RTSTRUCT.dcm")["RTSTRUCT.dcm"]
    del ds.StructureSetLabel
    ds.save_as(tmp_path / "RTSTRUCT.dcm")
    assert errors_of(peer_program("dciodvfy"), tmp_path / "RTSTRUCT.dcm")


def test_dsrdump_renders_the_report(tmp_path: Path, peer_program: PeerProgram) -> None:
    """DCMTK's SR parser, which checks relationships, reads the document to its end."""
    report = tmp_path / "SR.dcm"
    report.write_bytes(bytes_of(report_of(build_case())))
    text = output_of(peer_program("dsrdump"), "+Pl", report)
    assert "Dice similarity coefficient" in text
    assert "The MR is 9 days old." in text
    assert not [line for line in text.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.parametrize("holes", ["none", "keyhole", "xor"])
def test_plastimatch_finds_the_refined_volume_in_the_structure_set(
    holes: str, tmp_path: Path, peer_program: PeerProgram
) -> None:
    """C.2: the volume that another program makes of our contours is the mask's within 1 %.

    plastimatch 1.9 leaves contours out whose type it does not know, and CLOSEDPLANAR_XOR is one:
    of that form it is shown the rings under the type it knows, and told to combine them by XOR.
    """
    case = build_case()
    target = case.result.targets[0]
    refined = target.refinement.refined
    assert refined is not None
    if holes != "none":
        refined = hollowed(refined)
        target = replace(target, refinement=replace(target.refinement, refined=refined))
        case = case.with_result(targets=(target,), holes_as_xor=holes == "xor")
    ds = encode_structure_set(ResultSet(case.result, case.sources, case.authorship))
    structures = tmp_path / "RTSTRUCT.dcm"
    kinds = {c.ContourGeometricType for c in ds.ROIContourSequence[-1].ContourSequence}
    assert ("CLOSEDPLANAR_XOR" in kinds) == (holes == "xor")
    for contour in ds.ROIContourSequence[-1].ContourSequence:
        contour.ContourGeometricType = "CLOSED_PLANAR"
    structures.write_bytes(bytes_of(ds))
    grid = case.result.case.ct.geometry
    # a grid four times finer in plane: what is measured is the polygon, not plastimatch's pixels
    fixed = SimpleITK.Image(
        grid.shape[2] * 4, grid.shape[1] * 4, grid.shape[0], SimpleITK.sitkInt16
    )
    slice_mm, row_mm, column_mm = grid.spacing_mm
    fixed.SetSpacing((column_mm / 4, row_mm / 4, slice_mm))
    origin = grid.points_from_indices([(0, -0.375, -0.375)])[0]
    fixed.SetOrigin([float(x) for x in origin])
    SimpleITK.WriteImage(fixed, str(tmp_path / "fixed.mha"))
    output_of(
        *(peer_program("plastimatch"), "convert", "--input", structures),
        *("--fixed", tmp_path / "fixed.mha"),
        *("--output-prefix", tmp_path / "masks", "--prefix-format", "mha"),
        *(["--xor-contours"] if holes == "xor" else []),
    )
    image = SimpleITK.ReadImage(str(tmp_path / "masks" / "GTVn1_CT1MR1.mha"))
    inside = np.count_nonzero(SimpleITK.GetArrayFromImage(image))
    volume_cm3 = inside * float(np.prod(image.GetSpacing())) / 1000
    print(f"holes: {holes}: {volume_cm3 / refined.volume_cm3 - 1:+.3%} by plastimatch")
    assert volume_cm3 == pytest.approx(refined.volume_cm3, rel=0.01)


XOR_UNKNOWN = (
    "Error - Unrecognized enumerated value <CLOSEDPLANAR_XOR> for value 1 of attribute "
    "<Contour Geometric Type>"
)
"""What dciodvfy says of a type that PS3.3 C.8.8.6.3 holds (2024c): it knows an older edition."""

PHANTOMS: list[tuple[PatientPosition, MrPlane]] = [
    ("HFS", "axial"),
    ("HFP", "sagittal"),
    ("FFS", "coronal"),
    ("FFP", "axial"),
]


def case_of_truth(study: PhantomStudy, *, holes_as_xor: bool) -> EncodeCase:
    """Return a phantom's case as it were if everything had been found exactly, hole and all."""
    series = str(study.mr["T1"][0].SeriesInstanceUID)
    decoded = decode_case(CaseDatasets(study.ct, study.structure_set, {series: study.mr["T1"]}))
    (mr,), ct = decoded.case.mr, decoded.case.ct
    found = registration(study.ct_from_mr.from_frame_uid, [series], RegistrationStatus.PASS)
    found = replace(found, ct_from_mr=study.ct_from_mr)
    moved, valid = resample(mr, ct.geometry, study.ct_from_mr)
    (roi,) = (r for r in decoded.case.structure_set.rois if r.name.startswith("GTV"))
    drawn, refined = mask_from_roi(roi, ct.geometry), study.true_target
    hollow = Mask(refined.geometry, refined.inside & ~middle_of(refined))
    target = TargetResult(
        source_roi=roi,
        drawn=drawn,
        refinement=Refinement(TargetStatus.REFINED, hollow, ("The truth.",)),
        refined_roi_name="GTVn_CT1MR1",
        metrics=compare(drawn, hollow),
        organ_distances_mm={},
    )
    resampled = ResampledMr(moved, valid, found)
    result = CaseResult(
        decoded.case, (found,), (resampled,), (target,), (), {}, holes_as_xor=holes_as_xor
    )
    return EncodeCase(result, Sources(decoded.ct, decoded.structure_set, decoded.mr))


def middle_of(mask: Mask) -> npt.NDArray[np.bool_]:
    """Return the one voxel in the middle of a mask."""
    alone = np.zeros_like(mask.inside)
    slices, rows, columns = (int(np.median(at)) for at in np.nonzero(mask.inside))
    alone[slices, rows, columns] = True
    return alone


@pytest.mark.parametrize(("position", "plane"), PHANTOMS)
def test_every_judge_reads_every_output_of_a_phantom(
    position: PatientPosition, plane: MrPlane, tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Issue 6: four positions, three planes; dciodvfy, dcmdump, dsrdump, highdicom, pydicom."""
    study = make_study(
        PhantomOptions(
            seed=3,
            size="tiny",
            patient_position=position,
            mr_plane=plane,
            contrasts=("T1",),
            with_dose=False,
        )
    )
    case = case_of_truth(study, holes_as_xor=plane == "sagittal")
    paths = write(case, tmp_path)
    images = [path for path in paths if path.parent.name.startswith("MR_")]
    others = [path for path in paths if path not in images]
    assert {path.name.partition(".")[0].partition("_")[0] for path in others} >= {
        *("REG", "RTSTRUCT", "SEG", "SR"),
    }
    dciodvfy, dcmdump = peer_program("dciodvfy"), peer_program("dcmdump")
    # the slices of a series differ in place and pixels alone
    for path in (*others, *images[:1], *images[-1:]):
        is_newer = case.result.holes_as_xor and path.name == "RTSTRUCT.dcm"
        assert errors_of(dciodvfy, path) == ({XOR_UNKNOWN} if is_newer else set()), path.name
    dumped = subprocess.run([dcmdump, "-q", *map(str, paths)], capture_output=True, check=False)
    assert dumped.returncode == 0
    report = output_of(peer_program("dsrdump"), tmp_path / "SR.dcm")
    assert not [line for line in report.splitlines() if line.startswith(("E:", "F:"))]
    segmentation = highdicom.seg.segread(tmp_path / "SEG.dcm")
    assert segmentation.number_of_segments >= 1
    assert highdicom.sr.srread(tmp_path / "SR.dcm").content


def real_case(folder: Path) -> EncodeCase:
    """Return a case whose attributes are a patient's; what was computed is made up."""
    ct, mr = (_slices(folder / which / "image") for which in ("CT", "MR_T1"))
    source = dcmread(folder / "CT" / "mask" / "RS.dcm")
    grid = _grid(ct)
    contours = tuple(
        Contour(np.array(item.ContourData, dtype=float).reshape(-1, 3))
        for item in source.ROIContourSequence[0].ContourSequence
        if int(item.NumberOfContourPoints) >= 3
    )
    roi = Roi(1, source.StructureSetROISequence[0].ROIName, "GTV", contours)
    drawn = mask_from_roi(roi, grid)
    target = TargetResult(
        source_roi=roi,
        drawn=drawn,
        refinement=Refinement(
            TargetStatus.REFINED,
            Mask(grid, drawn.inside & np.roll(drawn.inside, 2, axis=2)),
            ("Shifted.",),
            probability=probability_of(drawn),
        ),
        refined_roi_name="GTV_CT1MR1",
        metrics={"dsc": 0.9},
        organ_distances_mm={},
    )
    series = str(mr[0].SeriesInstanceUID)
    frame = str(mr[0].FrameOfReferenceUID)
    there = registration(frame, [series], RegistrationStatus.WARN, ("Same frame of reference.",))
    matrix = RigidTransform(np.eye(4), grid.frame_of_reference_uid, frame)
    there = replace(there, ct_from_mr=matrix)
    voxels = np.tile(np.arange(grid.shape[2], dtype=np.float32), (*grid.shape[:2], 1))
    image = Image(grid, voxels, "MR", series, str(mr[0].SeriesDescription))
    structures = StructureSet(str(source.SOPInstanceUID), grid.frame_of_reference_uid, "", (roi,))
    ct_image = Image(grid, np.zeros_like(voxels), "CT", str(ct[0].SeriesInstanceUID))
    everywhere = Mask(grid, np.ones(grid.shape, dtype=bool))
    result = CaseResult(
        case=Case(ct_image, structures, (image,)),
        registrations=(there,),
        resampled=(ResampledMr(image, everywhere, there),),
        targets=(target,),
        findings=(),
        timing_s={},
        review=BOTH,
    )
    return EncodeCase(result, Sources(ct, source, {series: mr}), AUTHORSHIP)


def probability_of(drawn: Mask) -> VoxelField:
    """Return a probability around a target: half inside, little elsewhere."""
    at = np.nonzero(drawn.inside)
    z, y, x = (int(each.min()) for each in at)
    depth, rows, columns = (int(np.ptp(each)) + 1 for each in at)
    grid = drawn.geometry.crop((z, y, x), (depth, rows, columns))
    field = VoxelField(grid, (z, y, x), np.full(grid.shape, 0.125, dtype=np.float32))
    return replace(field, values=np.where(drawn.inside[field.block], np.float32(0.5), field.values))


def _grid(ct: tuple[Dataset, ...]) -> Geometry:
    first, second = (np.array(ds.ImagePositionPatient, dtype=float) for ds in ct[:2])
    rows, columns = np.array(ct[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    matrix = np.eye(4)
    matrix[:3, 0] = second - first
    matrix[:3, 1] = columns * float(ct[0].PixelSpacing[0])
    matrix[:3, 2] = rows * float(ct[0].PixelSpacing[1])
    matrix[:3, 3] = first
    return Geometry(ct[0].FrameOfReferenceUID, matrix, (len(ct), ct[0].Rows, ct[0].Columns))


def _slices(folder: Path) -> tuple[Dataset, ...]:
    datasets = [dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
    return tuple(sorted(datasets, key=lambda ds: float(ds.ImagePositionPatient[2])))


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_objects_of_a_real_patient_have_no_error(
    real_data: Path, tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Real attributes (STS_010, TCIA): even a Study ID that is too long is not passed on."""
    dciodvfy = peer_program("dciodvfy")
    folder = real_data / "sarcoma-ct-mr" / "STS_010"
    assert any("Study ID" in line for line in errors_of(dciodvfy, folder / "CT/image/000000.dcm"))
    for path in write(real_case(folder), tmp_path):
        if path.parent in (tmp_path, tmp_path / "fused") or path.name == "0001.dcm":
            assert errors_of(dciodvfy, path) == set(), path.name
    source, ours = dcmread(folder / "CT" / "mask" / "RS.dcm"), dcmread(tmp_path / "RTSTRUCT.dcm")
    for before, after in zip(source.ROIContourSequence, ours.ROIContourSequence, strict=False):
        for old, new in zip(before.ContourSequence, after.ContourSequence, strict=True):
            assert old.get_item("ContourData").value == new.get_item("ContourData").value
