"""Rigid and deformable registration through DICOM and back, read by the standard's formula."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.uid import DeformableSpatialRegistrationStorage

from handlers.decode.deformations import decode_deformation
from handlers.displacement import DisplacementField
from handlers.encode.deformable import covering_lattice
from handlers.errors import HandlerError
from handlers.geometry import Geometry
from handlers.results import Registration, RegistrationStatus
from handlers.values import Case
from tests.encode_cases import (
    CT_FRAME,
    MR_FRAME,
    MR_FRAME_B,
    MR_SERIES,
    MR_SERIES_B,
    EncodeCase,
    axes,
    build_case,
    registration,
    report_of,
    texts_of,
    written,
)

Array = npt.NDArray[np.float64]

TOLERANCE_MM = 0.01
"""Issue 3: exact to 0.01 mm through the DICOM objects and back."""


def read_back(ds: Dataset, points: Array) -> Array:
    """Return MR points of CT points (n, 3) by PS3.3 C.20.3.1: the whole of this reader.

    x_source = M_post (M_pre x + D), D trilinear between the grid's points.
    """
    (item,) = ds.DeformableRegistrationSequence
    pre, post = (
        np.reshape([float(v) for v in item[kind][0].FrameOfReferenceTransformationMatrix], (4, 4))
        if kind in item
        else np.eye(4)
        for kind in ("PreDeformationMatrixRegistrationSequence",
                     "PostDeformationMatrixRegistrationSequence")
    )  # fmt: skip
    (grid,) = item.DeformableRegistrationGridSequence
    nx, ny, nz = grid.GridDimensions
    vectors = np.frombuffer(grid.VectorGridData, dtype="<f4").reshape(nz, ny, nx, 3)
    cosines = np.array([float(v) for v in grid.ImageOrientationPatient])
    row, column = cosines[:3], cosines[3:]
    steps = np.array([row, column, np.cross(row, column)]) * np.reshape(grid.GridResolution, (3, 1))
    at = (points - [float(v) for v in grid.ImagePositionPatient]) @ np.linalg.inv(steps)
    assert np.all((at >= 0) & (at <= [nx - 1, ny - 1, nz - 1])), (
        "beyond the grid nothing is defined"
    )
    below = np.minimum(np.floor(at).astype(int), [nx - 2, ny - 2, nz - 2])
    part = at - below
    moved = points @ pre[:3, :3].T + pre[:3, 3]
    for corner in np.indices((2, 2, 2)).reshape(3, -1).T:
        weight = np.prod(np.where(corner == 1, part, 1 - part), axis=1)
        i, j, k = (below + corner).T
        moved = moved + weight[:, None] * vectors[k, j, i]
    return np.asarray(moved @ post[:3, :3].T + post[:3, 3])


def field(case: EncodeCase, *, is_left_handed: bool = False) -> DisplacementField:
    """Return a smooth field of up to 6 mm on a lattice of its own, tilted against the CT."""
    along = np.linalg.qr(
        axes(is_prone_oblique=True).T @ np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])
    )[0]
    if np.linalg.det(along) < 0:
        along[:, 0] *= -1
    matrix = np.eye(4)
    # slice, row, column along z, y, x: right-handed for DICOM
    matrix[:3, :3] = along[:, ::-1] * (3.3, 2.7, 2.9)
    if is_left_handed:
        matrix[:3, 0] *= -1
    shape = (9, 11, 10)
    middle = case.result.case.ct.geometry.centre_mm()
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    k, j, i = np.indices(shape) / (np.reshape(shape, (3, 1, 1, 1)) - 1)
    bump = (np.sin(np.pi * k) * np.sin(np.pi * j) * np.sin(np.pi * i)) ** 2
    bump[[0, -1]] = bump[:, [0, -1]] = bump[:, :, [0, -1]] = 0
    vectors = bump[..., None] * np.array([4.0, -3.0, 3.3])
    return DisplacementField(Geometry(CT_FRAME, matrix, shape), vectors.astype(np.float32))


def with_field(case: EncodeCase, *, is_left_handed: bool = False) -> EncodeCase:
    """Return the case with a deformation in its first registration, and MR where MR lies."""
    result = case.result
    first, second = result.registrations
    first = replace(first, deformation=field(case, is_left_handed=is_left_handed))
    pairs = ((first, MR_FRAME), (second, MR_FRAME_B))
    images = []
    for image, (each, frame) in zip(result.case.mr, pairs, strict=True):
        mr_from_ct = each.ct_from_mr.inverse().matrix
        matrix = mr_from_ct @ image.geometry.patient_from_index
        # larger than the CT to the left and back, smaller on the other sides
        matrix[:3, 3] += 4.0 * matrix[:3, 2] + 3.0 * matrix[:3, 1]
        images.append(replace(image, geometry=Geometry(frame, matrix, image.geometry.shape)))
    resampled = tuple(
        replace(r, registration=each)
        for r, each in zip(result.resampled, (first, second), strict=True)
    )
    changed = replace(result.case, mr=tuple(images))
    return case.with_result(case=changed, registrations=(first, second), resampled=resampled)


def shared_points(case: EncodeCase, each: Registration, case_mr: Case) -> Array:
    """Return points of the CT at which the MR has voxels: 4000 random ones."""
    ct, mr = case_mr.ct.geometry, case_mr.mr[0].geometry
    rng = np.random.default_rng(3)
    points = ct.points_from_indices(rng.uniform(0, np.array(ct.shape) - 1, (4000, 3)))
    return points[mr.contains(each.ct_from_mr.inverse().apply(points))]


@pytest.mark.parametrize("is_prone_oblique", [False, True])
@pytest.mark.parametrize("is_left_handed", [False, True])
def test_deformation_comes_back_from_dicom_to_a_hundredth_of_a_millimetre(
    is_prone_oblique: bool, is_left_handed: bool
) -> None:
    """Issue 3, 4: the MR point of a CT point x is ct_from_mr.inverse()(x + u(x)), everywhere."""
    case = with_field(build_case(is_prone_oblique=is_prone_oblique), is_left_handed=is_left_handed)
    each = case.result.registrations[0]
    assert each.deformation is not None
    points = shared_points(case, each, case.result.case)
    u = each.deformation.at(points)
    assert np.linalg.norm(u, axis=1).max() > 5
    assert np.count_nonzero(np.all(u == 0, axis=1)) > 500, "rigid alone is looked at too"
    expected = each.ct_from_mr.inverse().apply(points + u)
    found = read_back(written(case, until="DEFREG_1.dcm")["DEFREG_1.dcm"], points)
    assert np.linalg.norm(found - expected, axis=1).max() < TOLERANCE_MM


@pytest.mark.parametrize("is_left_handed", [False, True])
def test_deformation_when_decoded_is_the_field_it_was_made_of(is_left_handed: bool) -> None:
    """The review shows an image again as it was computed, from the object alone."""
    case = with_field(build_case(is_prone_oblique=True), is_left_handed=is_left_handed)
    each = case.result.registrations[0]
    assert each.deformation is not None
    found = decode_deformation(written(case, until="DEFREG_1.dcm")["DEFREG_1.dcm"], each.ct_from_mr)
    points = shared_points(case, each, case.result.case)
    off = found.at(points) - each.deformation.at(points)
    assert np.linalg.norm(off, axis=1).max() < 2 * TOLERANCE_MM


def test_deformation_when_its_object_is_damaged_is_refused() -> None:
    """A vector too few, a grid too many: never a picture of something else."""
    case = with_field(build_case())
    each = case.result.registrations[0]
    ds = written(case, until="DEFREG_1.dcm")["DEFREG_1.dcm"]
    grid = ds.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
    grid.VectorGridData = grid.VectorGridData[:-12]
    with pytest.raises(HandlerError, match="cannot be read"):
        decode_deformation(ds, each.ct_from_mr)
    with pytest.raises(HandlerError, match="cannot be read"):
        decode_deformation(Dataset(), each.ct_from_mr)


def test_rigid_registration_comes_back_from_dicom_to_a_hundredth_of_a_millimetre() -> None:
    """Issue 3, 4: the matrix as sixteen decimals is still the map."""
    case = build_case()
    item = written(case, until="REG_1.dcm")["REG_1.dcm"].RegistrationSequence[1]
    text = item.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrix
    matrix = np.reshape([float(v) for v in text], (4, 4))
    points = np.random.default_rng(1).uniform(-1500, 1500, (1000, 3))
    sent = case.result.registrations[0].ct_from_mr.apply(points)
    found = points @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.linalg.norm(found - sent, axis=1).max() < TOLERANCE_MM


@pytest.fixture(scope="module")
def deformed() -> tuple[EncodeCase, dict[str, Dataset]]:
    """A case of which one registration has a deformation, and its result set as received."""
    case = with_field(build_case())
    return case, written(case)


def test_deformable_object_names_frames_images_and_verdict(
    deformed: tuple[EncodeCase, dict[str, Dataset]],
) -> None:
    """PS3.3 C.20.3: registered is the CT's frame, source the MR's; one item, no matrices."""
    case, objects = deformed
    assert [name for name in objects if name.startswith("DEFREG")] == ["DEFREG_1.dcm"]
    ds = objects["DEFREG_1.dcm"]
    assert ds.SOPClassUID == DeformableSpatialRegistrationStorage
    assert ds.FrameOfReferenceUID == CT_FRAME
    (item,) = ds.DeformableRegistrationSequence
    assert item.SourceFrameOfReferenceUID == MR_FRAME
    assert [i.ReferencedSOPInstanceUID for i in item.ReferencedImageSequence] == [
        d.SOPInstanceUID for d in case.sources.mr[MR_SERIES]
    ]
    assert "PreDeformationMatrixRegistrationSequence" not in item
    assert "PostDeformationMatrixRegistrationSequence" not in item
    assert "passed" in ds.ContentDescription
    grid = item.DeformableRegistrationGridSequence[0]
    assert len(grid.VectorGridData) == np.prod(grid.GridDimensions) * 12


def test_resampled_mr_and_report_name_the_deformation(
    deformed: tuple[EncodeCase, dict[str, Dataset]],
) -> None:
    """Issue 3: whoever reads MR or report learns that a deformation was used, and how large."""
    _, objects = deformed
    uid = objects["DEFREG_1.dcm"].SOPInstanceUID
    image, other = objects["MR_1/0001.dcm"], objects["MR_2/0001.dcm"]
    assert [i.ReferencedSOPInstanceUID for i in image.ReferencedInstanceSequence] == [
        objects["REG_1.dcm"].SOPInstanceUID,
        uid,
    ]
    assert "rigid registration and local deformation" in image.DerivationDescription
    assert len(other.ReferencedInstanceSequence) == 1
    assert "deformation" not in other.DerivationDescription
    texts = texts_of(objects["SR.dcm"])
    assert f"Deformable Spatial Registration {uid}" in texts
    assert texts.count("Rigid alone: no deformation is used.") == 1
    assert "DEF_LARGEST" in str(objects["SR.dcm"])


def test_shifted_series_is_told_but_not_listed_under_the_matrix() -> None:
    """A series of another breath-hold: the matrix of its frame does not hold for it."""
    case = build_case()
    both = registration(MR_FRAME, [MR_SERIES, MR_SERIES_B], RegistrationStatus.PASS)
    both = replace(both, series_shifts_mm={MR_SERIES_B: (0.0, -2.0, 4.5)})
    resampled = tuple(replace(r, registration=both) for r in case.result.resampled)
    case = case.with_result(registrations=(both,), resampled=resampled)
    objects = written(case, until="MR_2/0001.dcm")
    listed = objects["REG_1.dcm"].RegistrationSequence[1].ReferencedImageSequence
    own = [d.SOPInstanceUID for d in case.sources.mr[MR_SERIES]]
    assert [i.ReferencedSOPInstanceUID for i in listed] == own
    words = "shift of this series by 0.0, -2.0, 4.5 mm"
    assert words in objects["MR_2/0001.dcm"].DerivationDescription
    assert words not in objects["MR_1/0001.dcm"].DerivationDescription
    told = f"MR series {MR_SERIES_B}, shifted in the CT by 0.0, -2.0, 4.5 mm (x, y, z)"
    assert told in texts_of(report_of(case))


# --- the reach of the grid ----------------------------------------------------------------------

CUBE = Geometry(CT_FRAME, np.diag([2.0, 2.0, 2.0, 1.0]), (11, 11, 11))


def box(low: float, high: float) -> Array:
    return np.array([[low] * 3, [high] * 3], dtype=float)


@pytest.mark.parametrize(
    ("ct", "mr", "most_bytes", "low", "count"),
    [
        (box(-20, 60), box(-50, 40), 10**9, -22.0, 33),
        (box(5, 15), box(-50, 90), 10**9, 0.0, 11),
        (box(-20, 60), np.zeros((0, 3)), 10**9, 0.0, 11),
        (box(-20, 60), box(-50, 40), 12 * 20**3, -8.0, 19),
        (box(-20, 60), box(-50, 40), 1, 0.0, 11),
    ],
)
def test_grid_reaches_over_what_ct_and_mr_share_unless_it_were_too_large(
    ct: Array, mr: Array, most_bytes: int, low: float, count: int
) -> None:
    """By hand: whole steps of 2 mm, one beyond the overlap, never less than the deformation."""
    found = covering_lattice(CUBE, ct, mr, most_bytes=most_bytes)
    np.testing.assert_allclose(found.patient_from_index[:3, 3], [low] * 3)
    assert found.shape == (count, count, count)
    np.testing.assert_allclose(found.spacing_mm, [2.0] * 3)
