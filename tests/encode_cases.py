"""Small cases built by hand, for the tests of `handlers.encode`: sources, result, authorship."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from io import BytesIO

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
)

from handlers.encode import Authorship, Sources, encode_result_set
from handlers.encode.identity import ResultSet
from handlers.encode.sr import encode_report
from handlers.geometry import Geometry, RigidTransform
from handlers.results import (
    CaseResult,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    TargetResult,
    TargetStatus,
)
from handlers.sampling import contours_from_mask
from handlers.values import Case, Finding, Image, Mask, Roi, Severity, StructureSet

CT_FRAME, MR_FRAME, MR_FRAME_B = "1.2.826.0.1.10", "1.2.826.0.1.20", "1.2.826.0.1.30"
CT_STUDY, MR_STUDY = "1.2.826.0.1.11", "1.2.826.0.1.21"
CT_SERIES, MR_SERIES, MR_SERIES_B = "1.2.826.0.1.12", "1.2.826.0.1.22", "1.2.826.0.1.32"
STRUCTURE_SET = "1.2.826.0.1.13.1"
PATIENT_NAME = "Müller^Jürgen"
SHAPE = (14, 48, 40)
SPACING_MM = (2.5, 1.25, 1.5)
LONG_REASON = (
    "The second contrast shows the target's border on less than half of its surface, so that its "
    "neighbours could not be told from it; the drawn contour stands. " * 4
).strip()

AUTHORSHIP = Authorship(
    created=datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC),
    software_version="0.1.0",
    uid_seed="fingerprint of a test",
    parameters="max_outward_mm=5, bins=32",
)


@dataclass(frozen=True, slots=True, eq=False)
class EncodeCase:
    """What `encode_result_set` is called with."""

    result: CaseResult
    sources: Sources
    authorship: Authorship = AUTHORSHIP
    document: bytes | None = None

    def with_result(self, **changes: object) -> "EncodeCase":
        """Return the case with some fields of its result replaced."""
        return replace(self, result=replace(self.result, **changes))  # type: ignore[arg-type]


def written(case: EncodeCase, *, until: str | None = None, below: str = "") -> dict[str, Dataset]:
    """Return the result set of a case as a receiver reads it, by file name.

    Args:
        case: Any.
        until: Make the objects up to this one only: what comes after it costs the most.
        below: Write those only whose names begin so.
    """
    return _read(files_of(case, until=until, below=below))


def files_of(case: EncodeCase, *, until: str | None = None, below: str = "") -> dict[str, bytes]:
    """Return the files of a result set as they are written, by name; all else as in `written`."""
    files = {}
    for name, ds in encode_result_set(case.result, case.sources, case.authorship, case.document):
        if name.startswith(below):
            files[name] = bytes_of(ds)
        if name == until:
            break
    return files


def standard_results(*, is_prone_oblique: bool = False) -> dict[str, Dataset]:
    """Return what `written` gives of `build_case`: made once in a process, read anew each time."""
    return _read(_standard_files(is_prone_oblique))


def report_of(case: EncodeCase) -> Dataset:
    """Return the structured report of a case as a receiver reads it, made by itself."""
    result_set = ResultSet(case.result, case.sources, case.authorship)
    return dcmread(BytesIO(bytes_of(encode_report(result_set))))


@cache
def _standard_files(is_prone_oblique: bool) -> dict[str, bytes]:
    return files_of(build_case(is_prone_oblique=is_prone_oblique))


def _read(files: Mapping[str, bytes]) -> dict[str, Dataset]:
    return {name: dcmread(BytesIO(content)) for name, content in files.items()}


def texts_of(item: Dataset) -> list[str]:
    """Return all text values below a content item, in order."""
    texts = [item.TextValue] if item.get("ValueType") == "TEXT" else []
    for nested in item.get("ContentSequence", None) or ():
        texts += texts_of(nested)
    return texts


def changed(ds: Dataset, character_sets: list[str] | None, name: str) -> Dataset:
    """Return a copy with another character set and patient's name."""
    copy = as_received(ds)
    copy.decode()
    copy.ReferringPhysicianName = ""
    copy.PatientName = name
    if character_sets is None:
        del copy.SpecificCharacterSet
    else:
        copy.SpecificCharacterSet = character_sets
    return copy


def axes(*, is_prone_oblique: bool) -> np.ndarray:
    """Return row direction, column direction and normal as rows of a 3 x 3."""
    if not is_prone_oblique:
        return np.eye(3)
    angle = np.deg2rad(12.0)
    tilt = np.array(
        [
            [1, 0, 0],
            [0, np.cos(angle), -np.sin(angle)],
            [0, np.sin(angle), np.cos(angle)],
        ]
    )
    return np.asarray(np.diag([-1.0, -1.0, 1.0]) @ tilt.T)


def bytes_of(ds: Dataset) -> bytes:
    """Return a dataset as the bytes of its file."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def as_received(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return a dataset as it comes from a file: nothing of it parsed yet."""
    ds = ds.copy()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return dcmread(BytesIO(bytes_of(ds)))


def patient(ds: Dataset, study: str, series: str) -> None:
    """Give a dataset the patient of all cases, a study and a series."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = PATIENT_NAME
    ds.PatientID = "4711"
    ds.IssuerOfPatientID = "CLINIC"
    ds.PatientBirthDate = "19500102"
    ds.PatientSex = "M"
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = series
    ds.StudyDate, ds.StudyTime = "20260301", "101112.5"
    ds.StudyID, ds.AccessionNumber = "S1", "A1"
    ds.ReferringPhysicianName = "Arzt^Ä"
    ds.Manufacturer = "Scanner works"
    ds.ManufacturerModelName = "Model 1"


def ct_dataset(index: int, directions: np.ndarray, position: str) -> Dataset:
    """Return one CT slice, its numbers written in an unusual but legal way."""
    ds = Dataset()
    patient(ds, CT_STUDY, CT_SERIES)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{CT_SERIES}.{index + 1}"
    ds.Modality = "CT"
    ds.FrameOfReferenceUID = CT_FRAME
    origin = np.array([-40.123456789, -30.5, 100.0]) + directions[2] * SPACING_MM[0] * index
    ds.ImagePositionPatient = [f"{value:.9f}"[:16] for value in origin]
    ds.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in (*directions[0], *directions[1])]
    ds.PixelSpacing = [f"{SPACING_MM[1]:.6f}", f"{SPACING_MM[2]:.6f}"]
    ds.SliceThickness = "2.50"
    ds.PatientPosition = position
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.InstanceNumber = index + 1
    return as_received(ds)


def mr_dataset(index: int) -> Dataset:
    """Return one slice of a classic MR series of another study."""
    ds = Dataset()
    patient(ds, MR_STUDY, MR_SERIES)
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = f"{MR_SERIES}.{index + 1}"
    ds.Modality = "MR"
    ds.FrameOfReferenceUID = MR_FRAME
    ds.ScanningSequence = ["GR", "IR"]
    ds.SequenceVariant = "SP"
    ds.MRAcquisitionType = "3D"
    ds.EchoTime, ds.RepetitionTime, ds.FlipAngle = "2.40", "5.1", "9"
    ds.InversionTime = f"{800 + index}"  # differs: must not be copied
    ds.MagneticFieldStrength = "3"
    ds.AcquisitionDate = "20260228"
    ds.LossyImageCompression = "01" if index == 1 else "00"
    if index == 1:
        ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "5", "ISO_10918_1"
    return as_received(ds)


def enhanced_mr_dataset() -> Dataset:
    """Return an enhanced MR header: what matters stands in its functional groups."""
    ds = Dataset()
    patient(ds, MR_STUDY, MR_SERIES_B)
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = f"{MR_SERIES_B}.1"
    ds.Modality = "MR"
    ds.FrameOfReferenceUID = MR_FRAME_B
    ds.NumberOfFrames = 2
    ds.EchoPulseSequence = "SPIN"
    ds.EchoPlanarPulseSequence = "NO"
    ds.MRAcquisitionType = "2D"
    timing, echo = Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, timing.RFEchoTrainLength = 4200.0, 150.0, 16
    echo.EffectiveEchoTime = 92.5
    shared, frame = Dataset(), Dataset()
    shared.MRTimingAndRelatedParametersSequence = [timing]
    frame.MREchoSequence = [echo]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [frame, frame]
    return as_received(ds)


def ball(geometry: Geometry, centre_mm: Sequence[float], radius_mm: float) -> Mask:
    """Return the voxels whose centres lie within a ball."""
    indices = np.indices(geometry.shape).reshape(3, -1).T
    apart = np.linalg.norm(geometry.points_from_indices(indices) - np.array(centre_mm), axis=1)
    return Mask(geometry, (apart <= radius_mm).reshape(geometry.shape))


def structure_set_dataset(
    rois: Mapping[int, tuple[str, str, Mask]], ct: Sequence[Dataset]
) -> Dataset:
    """Return an approved structure set with habits of its own in how numbers are written."""
    ds = Dataset()
    patient(ds, CT_STUDY, "1.2.826.0.1.13")
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, STRUCTURE_SET
    ds.Modality = "RTSTRUCT"
    ds.StructureSetLabel = "PLAN"
    ds.ApprovalStatus = "APPROVED"
    ds.ReviewDate, ds.ReviewTime, ds.ReviewerName = "20260302", "120000", "Chef^Arzt"
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    ds.RTROIObservationsSequence = []
    for number, (name, kind, mask) in rois.items():
        roi, contours, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = CT_FRAME
        roi.ROIGenerationAlgorithm = "MANUAL"
        contours.ReferencedROINumber = number
        contours.ContourSequence = []
        for contour in contours_from_mask(mask):
            item, image = Dataset(), Dataset()
            item.ContourGeometricType = "CLOSED_PLANAR"
            index = round(float(mask.geometry.indices_from_points(contour.points)[0, 0]))
            image.ReferencedSOPClassUID = CTImageStorage
            image.ReferencedSOPInstanceUID = ct[index].SOPInstanceUID
            item.ContourImageSequence = [image]
            item.NumberOfContourPoints = len(contour.points)
            item.ContourData = [f"{value:+.4f}0" for value in contour.points.ravel()]
            contours.ContourSequence.append(item)
        observation.ObservationNumber = number
        observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = kind
        observation.ROIInterpreter = None
        block = roi.private_block(0x3287, "SOME TPS", create=True)
        block.add_new(0x01, "LO", "of its own")
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(contours)
        ds.RTROIObservationsSequence.append(observation)
    return as_received(ds, ImplicitVRLittleEndian)


def registration(
    frame: str, series: Sequence[str], status: RegistrationStatus, reasons: tuple[str, ...] = ()
) -> Registration:
    """Return a registration with a rotation and a translation that no axis swap leaves alike."""
    ct_from_mr = RigidTransform.from_parameters(
        rotation_deg=(3.0, -2.0, 7.5),
        translation_mm=(11.0, -23.5, 4.25),
        to_frame_uid=CT_FRAME,
        from_frame_uid=frame,
    )
    return Registration(
        ct_from_mr=ct_from_mr,
        status=status,
        reasons=reasons,
        uncertainty_mm=1.25,
        quality={"nmi": 1.125, "peak_width_mm": 3.5, "engines_apart_mm": 0.75},
        leading_series_uid=series[0],
        series_uids=tuple(series),
        centre_mm=(-5.0, 5.0, 125.0),
    )


def build_case(*, is_prone_oblique: bool = False) -> EncodeCase:
    """Return a case of two targets (one refined, one abstained) and two MR series (pass, warn)."""
    directions = axes(is_prone_oblique=is_prone_oblique)
    position = "HFP" if is_prone_oblique else "HFS"
    ct = tuple(ct_dataset(i, directions, position) for i in range(SHAPE[0]))
    matrix = np.eye(4)
    # slice, row and column index grow along the normal, the columns and the rows of the image
    matrix[:3, :3] = directions[::-1].T * np.array(SPACING_MM)
    matrix[:3, 3] = [float(x) for x in ct[0].ImagePositionPatient]
    grid = Geometry(CT_FRAME, matrix, SHAPE)
    gtv, lump, bowel = grid.points_from_indices([(7, 24, 18), (3, 10, 30), (7, 42, 18)])
    drawn = {
        3: ("GTVn1", "GTV", ball(grid, gtv, 10.0)),
        5: ("GTVp", "", ball(grid, lump, 5.0)),
        8: ("Größe_Darm", "ORGAN", ball(grid, bowel, 6.0)),
    }
    rois = tuple(Roi(n, name, kind, contours_from_mask(m)) for n, (name, kind, m) in drawn.items())
    structures = StructureSet(STRUCTURE_SET, CT_FRAME, "PLAN", rois)
    ct_image = Image(grid, np.zeros(SHAPE, dtype=np.float32), "CT", CT_SERIES)
    resampled = resampled_mr(grid)
    result = CaseResult(
        case=Case(ct_image, structures, tuple(r.image for r in resampled)),
        registrations=tuple(r.registration for r in resampled),
        resampled=resampled,
        targets=(
            refined_target(rois[0], drawn[3][2], ball(grid, gtv, 8.0)),
            abstained_target(rois[1], drawn[5][2]),
        ),
        findings=(Finding("mr.old", Severity.WARNING, "The MR is 9 days old.", {"age_days": 9.0}),),
        timing_s={"registration": 1.5},
    )
    mr = {
        MR_SERIES: tuple(mr_dataset(i) for i in range(3)),
        MR_SERIES_B: (enhanced_mr_dataset(),),
    }
    return EncodeCase(result, Sources(ct, structure_set_dataset(drawn, ct), mr))


def resampled_mr(grid: Geometry) -> tuple[ResampledMr, ...]:
    """Return a T1 whose registration passed and a T2 that is to be checked, both with a margin."""
    noise = np.random.default_rng(1).normal(300, 90, (2, *SHAPE)).astype(np.float32)
    valid = np.zeros(SHAPE, dtype=bool)
    valid[2:12, 5:45, 4:36] = True
    good = registration(MR_FRAME, [MR_SERIES], RegistrationStatus.PASS)
    doubtful = registration(
        MR_FRAME_B, [MR_SERIES_B], RegistrationStatus.WARN, ("Engines differ by 2.9 mm.",)
    )
    t1 = Image(grid, noise[0], "MR", MR_SERIES, "t1 vibe tra", "T1")
    t2 = Image(grid, noise[1], "MR", MR_SERIES_B, "t2 tse über alles, " * 6, "T2")
    return (
        ResampledMr(t1, Mask(grid, valid), good),
        ResampledMr(t2, Mask(grid, valid), doubtful),
    )


def refined_target(roi: Roi, drawn: Mask, refined: Mask) -> TargetResult:
    """Return a refined target with known, unknown and infinite figures."""
    return TargetResult(
        source_roi=roi,
        drawn=drawn,
        refinement=Refinement(
            TargetStatus.REFINED, refined, ("Border seen on T1.",), {"sharpness": 0.625}
        ),
        refined_roi_name="GTVn1_CT1MR1",
        metrics={
            "dsc": 0.7341234567890123,
            "hd95_mm": 2.25,
            "mean_surface_distance_mm": 1.875,
            "centroid_shift_x_mm": -0.125,
            "some_quite_long_new_figure_percent": 12.5,
            "jaccard": float("nan"),
        },
        organ_distances_mm={"Größe_Darm": 4.75},
    )


def abstained_target(roi: Roi, drawn: Mask) -> TargetResult:
    """Return a target that was left alone, for a long reason."""
    return TargetResult(
        source_roi=roi,
        drawn=drawn,
        refinement=Refinement(TargetStatus.ABSTAINED, None, (LONG_REASON,)),
        refined_roi_name=None,
        metrics={},
        organ_distances_mm={"Größe_Darm": 21.5},
    )
