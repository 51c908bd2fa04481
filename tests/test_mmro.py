"""Self-test after IHE-RO MMRO: positions, MR planes and frames of reference, file to file.

| position                           | MR plane                        | frame       | transform  |
|------------------------------------|---------------------------------|-------------|------------|
| HFS, HFP, FFS, FFP, HFDL, HFDR     | axial, sagittal, coronal, oblique | other, same | as sent  |
| HFS                                | axial                           | other       | registered |
| HFP                                | sagittal                        | same        | registered |
| FFS                                | coronal                         | other       | registered |
| FFP                                | oblique                         | same        | registered |

As sent (48 cells): a known matrix arrives in a REG made by hand. Registered (4 cells): the whole
registration finds the truth in the images of the smallest phantom; `python -m tests.bench.mmro`
does that for all 32 cells of the four positions lying on back and belly.

Each transform is written as our REG and read back by `registration_reader`, which knows the
standard and nothing of us. Positions of pixels are reckoned from the attributes by hand. Each cell
prints its error at the target (`pytest -rP`): as sent at most 0.01 mm, registered at most 1 mm, a
quarter of that phantom's voxels.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.encode import Authorship, Sources, encode_result_set
from handlers.encode.deformable import encode_deformable_registration
from handlers.encode.identity import ResultSet
from handlers.geometry import RigidTransform
from handlers.registration import RegistrationSettings, register_frame
from handlers.results import CaseResult, Registration, RegistrationStatus
from handlers.sampling import mask_from_roi, resample
from node.phantom import PhantomOptions, make_study
from node.phantom.options import MrPlane, PatientPosition
from tests import datasets
from tests.datasets import AXIAL, CORONAL, SAGITTAL
from tests.encode_cases import AUTHORSHIP, build_case, bytes_of
from tests.registration_reader import SpatialRegistration, read_registration, source_points
from tests.test_encode_deformable import shared_points, with_field

Array = npt.NDArray[np.float64]
Frame = Literal["other", "same"]

POSITIONS: dict[str, Sequence[float]] = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, 1, 0, -1, 0, 0),
    "HFDR": (0, -1, 0, 1, 0, 0),
}
"""Image Orientation (Patient) of a planning CT, by Patient Position (PS3.3 C.7.3.1.1.2)."""

PLANES: dict[str, Sequence[float]] = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    # by hand: unit and perpendicular, tilted against all axes
    "oblique": (0.8, 0.36, 0.48, -0.6, 0.48, 0.64),
}

TARGET_MM = np.array([5.0, -8.0, 40.0])
"""Middle of the CT and place of the target, in the CT's frame."""

CT_FROM_MR = RigidTransform.from_parameters(
    rotation_deg=(6.0, -4.0, 9.0),
    translation_mm=(14.0, -21.0, 33.0),
    to_frame_uid=datasets.CT_FRAME,
    from_frame_uid=datasets.MR_FRAME,
).matrix
"""The truth of the cells as sent."""

SENT_MM = 0.01
REGISTERED_MM = 1.0


def series_about(
    centre_mm: Array, orientation: Sequence[float], modality: str, frame: str, position: str
) -> list[Dataset]:
    """Return a series of 12 x 14 x 16 voxels about a point."""
    spacing, shape = (3.0, 2.0, 1.5), (12, 14, 16)
    rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
    axes = np.array([np.cross(rows, columns), columns, rows])
    origin = centre_mm - (np.array(spacing) * (np.array(shape) - 1) / 2) @ axes
    return datasets.series(
        modality=modality,
        slices=shape[0],
        rows=shape[1],
        columns=shape[2],
        spacing_mm=spacing,
        origin_mm=[round(float(x), 6) for x in origin],
        orientation=orientation,
        patient_position=position,
        FrameOfReferenceUID=frame,
        StudyInstanceUID="1.2.826.0.9.1",
        **({"ScanningSequence": "GR", "SequenceVariant": "SP"} if modality == "MR" else {}),
    )


def pixel_mm(ds: Dataset, row: float, column: float) -> Array:
    """Return where a pixel of a slice lies (PS3.3 C.7.6.2.1.1): the first value is along a row."""
    along_row, along_column = np.reshape([float(v) for v in ds.ImageOrientationPatient], (2, 3))
    between_rows, between_columns = (float(v) for v in ds.PixelSpacing)
    first = np.array([float(v) for v in ds.ImagePositionPatient])
    return np.asarray(
        first + along_row * between_columns * column + along_column * between_rows * row
    )


def moved(matrix: Array, points: Array) -> Array:
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def small_case(position: str, plane: str, frame_uid: str) -> DecodedCase:
    """Return CT, MR and target, with a REG of others that tells how the MR lies."""
    ct = series_about(TARGET_MM, POSITIONS[position], "CT", datasets.CT_FRAME, position)
    mr_middle = moved(np.linalg.inv(CT_FROM_MR), TARGET_MM)
    mr = series_about(mr_middle, PLANES[plane], "MR", frame_uid, position)
    heights = sorted(float(ds.ImagePositionPatient[2]) for ds in ct)[5:7]
    x, y, _ = TARGET_MM
    target = datasets.structure_set(
        {"GTV": [datasets.square(z, corner=(x - 4, y - 4), side_mm=8.0) for z in heights]}
    )
    target.StudyInstanceUID, target.SeriesInstanceUID = "1.2.826.0.9.1", "1.2.826.0.3"
    sent = datasets.registration(
        datasets.CT_FRAME,
        datasets.registration_item(
            datasets.CT_FRAME, np.eye(4), images=[d.SOPInstanceUID for d in ct]
        ),
        datasets.registration_item(frame_uid, CT_FROM_MR, images=[d.SOPInstanceUID for d in mr]),
    )
    return decode_case(CaseDatasets(ct, target, {datasets.MR_SERIES: mr}, registrations=[sent]))


def sources_of(decoded: DecodedCase) -> Sources:
    return Sources(decoded.ct, decoded.structure_set, decoded.mr)


def read_back(
    result: CaseResult, sources: Sources, authorship: Authorship = AUTHORSHIP
) -> SpatialRegistration:
    """Return the first registration of a result as a stranger reads it from the file."""
    name, ds = next(iter(encode_result_set(result, sources, authorship)))
    assert name == "REG_1.dcm"
    return read_registration(bytes_of(ds))


def registration_of(decoded: DecodedCase, transform: RigidTransform) -> Registration:
    return Registration(
        ct_from_mr=transform,
        status=RegistrationStatus.PASS,
        reasons=(),
        uncertainty_mm=1.0,
        quality={},
        leading_series_uid=datasets.MR_SERIES,
        series_uids=(datasets.MR_SERIES,),
        centre_mm=(5.0, -8.0, 40.0),
    )


@pytest.mark.parametrize("frame", get_args(Frame))
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("position", POSITIONS)
def test_transform_comes_back_when_it_is_sent(position: str, plane: str, frame: Frame) -> None:
    """MMRO: read from a REG, written as ours, read by a stranger: the target lies where it did."""
    frame_uid = datasets.CT_FRAME if frame == "same" else datasets.MR_FRAME
    decoded = small_case(position, plane, frame_uid)
    (transform,) = decoded.case.registrations
    result = CaseResult(decoded.case, (registration_of(decoded, transform),), (), (), (), {})
    found = read_back(result, sources_of(decoded))
    assert found.registered_frame == datasets.CT_FRAME
    # every pixel of the MR's first and last slice, as its attributes say where it lies
    errors = []
    for ds in (decoded.mr[datasets.MR_SERIES][0], decoded.mr[datasets.MR_SERIES][-1]):
        corners = np.array([pixel_mm(ds, row, column) for row in (0, 13) for column in (0, 15)])
        points = np.concatenate((corners, [moved(np.linalg.inv(CT_FROM_MR), TARGET_MM)]))
        there = found.registered_points(
            points, image_uid=str(ds.SOPInstanceUID), frame_uid=frame_uid
        )
        errors += list(np.linalg.norm(there - moved(CT_FROM_MR, points), axis=1))
    # the CT itself stays, also where both share their frame of reference
    at_target = found.registered_points(
        TARGET_MM[None], image_uid=str(decoded.ct[0].SOPInstanceUID), frame_uid=datasets.CT_FRAME
    )
    assert np.array_equal(at_target[0], TARGET_MM)
    print(f"as sent     {position:4} {plane:8} {frame:5} frame: {errors[4]:.6f} mm at the target")
    assert max(errors) < SENT_MM
    check_voxels(decoded, transform, found, frame_uid)


def check_voxels(
    decoded: DecodedCase, transform: RigidTransform, found: SpatialRegistration, frame_uid: str
) -> None:
    """Check that the resampled MR shows at CT pixels what the file says that lies there.

    The MR's values are `row * 10 + column + slice`, linear in space: between pixels they are known.
    """
    image = decoded.case.mr[0]
    voxels, valid = resample(image, decoded.case.ct.geometry, transform)
    slices = decoded.mr[datasets.MR_SERIES]
    axes = np.array(
        [pixel_mm(slices[0], *at) for at in ((1, 0), (0, 1))] + [pixel_mm(slices[1], 0, 0)]
    )
    steps = (axes - pixel_mm(slices[0], 0, 0)).T
    first = slices[0]
    compared = 0
    for index in (5, 6):
        for row, column in ((6, 7), (7, 8), (6, 9)):
            if not valid.inside[index, row, column]:
                continue
            in_ct = pixel_mm(decoded.ct[index], row, column)
            # undo the matrix of the file
            origin, *ends = found.registered_points(
                np.concatenate((np.zeros((1, 3)), np.eye(3))),
                image_uid=str(first.SOPInstanceUID),
                frame_uid=frame_uid,
            )
            in_mr = np.linalg.solve(np.array(ends).T - origin[:, None], in_ct - origin)
            r, c, s = np.linalg.solve(steps, in_mr - pixel_mm(first, 0, 0))
            stored = first.pixel_array[0, 0]
            step = float(slices[1].pixel_array[0, 0]) - float(stored)
            expected = float(stored) + 10 * r + c + step * s
            assert voxels.voxels[index, row, column] == pytest.approx(expected, abs=0.01)
            compared += 1
    assert compared >= 4


CELLS: list[tuple[PatientPosition, MrPlane, Frame]] = [
    ("HFS", "axial", "other"),
    ("HFP", "sagittal", "same"),
    ("FFS", "coronal", "other"),
    ("FFP", "oblique", "same"),
]


def error_of_found_mm(position: PatientPosition, plane: MrPlane, frame: Frame) -> float:
    """Return how far the target lies off, registered, written as ours and read by a stranger."""
    study = make_study(
        PhantomOptions(
            seed=3,
            size="tiny",
            patient_position=position,
            mr_plane=plane,
            shares_frame_of_reference=frame == "same",
            contrasts=("T1",),
            with_dose=False,
        )
    )
    series = str(study.mr["T1"][0].SeriesInstanceUID)
    decoded = decode_case(CaseDatasets(study.ct, study.structure_set, {series: study.mr["T1"]}))
    (target,) = (roi for roi in decoded.case.structure_set.rois if roi.name.startswith("GTV"))
    drawn = mask_from_roi(target, decoded.case.ct.geometry)
    registration = register_frame(
        decoded.case.ct, decoded.case.mr, (drawn,), RegistrationSettings()
    )
    assert registration.status is not RegistrationStatus.FAIL, registration.reasons
    result = CaseResult(decoded.case, (registration,), (), (), (), {})
    found = read_back(result, sources_of(decoded))
    inside = np.argwhere(study.true_target.inside)
    in_ct = study.true_target.geometry.points_from_indices(inside)
    there = found.registered_points(
        study.mr_points(in_ct),
        image_uid=str(study.mr["T1"][0].SOPInstanceUID),
        frame_uid=str(study.mr["T1"][0].FrameOfReferenceUID),
    )
    assert (study.mr["T1"][0].FrameOfReferenceUID == found.registered_frame) == (frame == "same")
    return float(np.linalg.norm(there - in_ct, axis=1).max())


@pytest.mark.parametrize(("position", "plane", "frame"), CELLS)
def test_transform_comes_back_when_it_is_found_in_the_images(
    position: PatientPosition, plane: MrPlane, frame: Frame
) -> None:
    """MMRO: registered, written as ours, read by a stranger: the target lies where the truth is."""
    error_mm = error_of_found_mm(position, plane, frame)
    print(f"registered  {position:4} {plane:8} {frame:5} frame: {error_mm:.3f} mm at the target")
    assert error_mm < REGISTERED_MM


@pytest.mark.parametrize("is_left_handed", [False, True])
@pytest.mark.parametrize("is_prone_oblique", [False, True])
def test_deformation_comes_back_when_a_stranger_reads_the_file(
    is_prone_oblique: bool, is_left_handed: bool
) -> None:
    """Issue 6, 3: the MR point of a CT point, from the file alone, within 0.01 mm."""
    case = with_field(build_case(is_prone_oblique=is_prone_oblique), is_left_handed=is_left_handed)
    registration = case.result.registrations[0]
    assert registration.deformation is not None
    points = shared_points(case, registration, case.result.case)
    displaced = points + registration.deformation.at(points)
    expected = registration.ct_from_mr.inverse().apply(displaced)
    result_set = ResultSet(case.result, case.sources, case.authorship)
    found = source_points(bytes_of(encode_deformable_registration(result_set, 0)), points)
    errors = np.linalg.norm(found - expected, axis=1)
    print(f"deformed    {len(points)} points: {errors.max():.6f} mm")
    assert len(points) > 1000
    assert errors.max() < SENT_MM


def test_series_of_one_frame_are_told_apart_by_their_images_alone() -> None:
    """PS3.3 C.20.2: where CT and MR share a frame, who looks at frames only learns nothing."""
    decoded = small_case("HFS", "axial", datasets.CT_FRAME)
    (transform,) = decoded.case.registrations
    result = CaseResult(decoded.case, (registration_of(decoded, transform),), (), (), (), {})
    _, ds = next(iter(encode_result_set(result, sources_of(decoded), AUTHORSHIP)))
    fixed, moving = ds.RegistrationSequence
    assert fixed.FrameOfReferenceUID == moving.FrameOfReferenceUID == ds.FrameOfReferenceUID
    listed = [
        {str(i.ReferencedSOPInstanceUID) for i in item.ReferencedImageSequence}
        for item in (fixed, moving)
    ]
    assert listed == [
        {str(d.SOPInstanceUID) for d in decoded.ct},
        {str(d.SOPInstanceUID) for d in decoded.mr[datasets.MR_SERIES]},
    ]
    # both series stand in the Common Instance Reference module, too
    named = {str(i.SeriesInstanceUID) for i in ds.ReferencedSeriesSequence}
    assert named == {datasets.CT_SERIES, datasets.MR_SERIES}
