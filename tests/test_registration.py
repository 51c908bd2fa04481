"""Registration: truth is a motion that the test itself applied, or a pair that must not match."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from skimage.draw import polygon2mask

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform
from handlers.registration import RegistrationSettings, register_frame
from handlers.registration.consensus import box_corners
from handlers.registration.judgement import LIMITS, Limit, judge
from handlers.registration.leading import by_preference, leading_series
from handlers.results import Registration, RegistrationStatus
from handlers.values import Image, Mask
from tests.bodies import MR_FRAME, grid, motion, mr_series, planning_ct, target

SETTINGS = RegistrationSettings()
MOTION = {"translation_mm": (15.0, -10.0, 20.0), "rotation_deg": (5.0, -4.0, 6.0)}


@pytest.fixture(scope="module")
def ct() -> Image:
    return planning_ct()


@pytest.fixture(scope="module")
def found(ct: Image) -> tuple[RigidTransform, Image, Registration]:
    """The true motion, 400 mm away along z, with a partly overlapping MR, and what was found."""
    truth = motion((30.0, -20.0, -400.0))
    mr = mr_series(truth, (-140.0, -70.0, 322.0))
    return truth, mr, register_frame(ct, [mr], [target(ct)], SETTINGS)


def test_register_recovers_a_known_motion_when_the_mr_lies_400_mm_away(
    found: tuple[RigidTransform, Image, Registration],
) -> None:
    """Bar 3: the synthetic pair is recovered within 1 mm at every corner of the box."""
    truth, _, registration = found
    corners = truth.inverse().apply(box_corners(registration.centre_mm, 40.0))
    assert registration.ct_from_mr.largest_distance_mm(truth, corners) < 1.0
    assert registration.status is RegistrationStatus.PASS, registration.reasons
    assert registration.reasons == ()
    assert registration.leading_series_uid == "2.1"


@pytest.mark.slow
def test_register_does_not_pass_when_the_mr_is_mirrored_head_to_feet(
    ct: Image, found: tuple[RigidTransform, Image, Registration]
) -> None:
    """A mirror image is no motion of the same body: it must not pass."""
    _, mr, _ = found
    mirrored = Image(mr.geometry, mr.voxels[::-1].copy(), "MR", "2.2", "T1", "T1")
    registration = register_frame(ct, [mirrored], [target(ct)], SETTINGS)
    assert registration.status is not RegistrationStatus.PASS
    assert registration.reasons


@pytest.mark.parametrize("what", ["noise", "constant", "zero", "one slice"])
def test_register_does_not_pass_when_the_mr_shows_nothing(ct: Image, what: str) -> None:
    """Noise and blanks end in a verdict with reasons, never in an error or a pass."""
    geometry = grid(MR_FRAME, (5.0, 3.0, 3.0), (30, 60, 70), (0.0, 0.0, 0.0))
    voxels = {
        "noise": np.random.default_rng(3).uniform(0, 500, geometry.shape),
        "constant": np.full(geometry.shape, 300.0),
        "zero": np.zeros(geometry.shape),
        "one slice": np.random.default_rng(3).uniform(0, 500, geometry.shape),
    }[what].astype(np.float32)
    if what == "one slice":
        geometry = geometry.crop((0, 0, 0), (1, 60, 70))
        voxels = voxels[:1].copy()
    mr = Image(geometry, voxels, "MR", "2.3", "", "T1")
    registration = register_frame(ct, [mr], [target(ct)], SETTINGS)
    assert registration.status is not RegistrationStatus.PASS
    assert all(reason.endswith(".") for reason in registration.reasons)
    assert registration.reasons
    assert np.isfinite(registration.uncertainty_mm)


def test_register_refuses_when_frames_or_targets_are_unfit(ct: Image) -> None:
    """Programmer's mistakes and an empty target are told at once."""
    mr = mr_series(motion((0.0, 0.0, 0.0)), (-110.0, -90.0, -80.0))
    other = Image(ct.geometry, ct.voxels, "MR", "2.9")
    nothing = Mask(ct.geometry, np.zeros(ct.geometry.shape, dtype=bool))
    with pytest.raises(EmptyStructureError):
        register_frame(ct, [mr], [nothing], SETTINGS)
    with pytest.raises(GeometryMismatchError):
        register_frame(ct, [mr, other], [target(ct)], SETTINGS)
    with pytest.raises(ValueError, match="without a series"):
        register_frame(ct, [], [target(ct)], SETTINGS)


def _series(uid: str, contrast: str, spacing_mm: float) -> Image:
    geometry = grid(MR_FRAME, (spacing_mm,) * 3, (4, 4, 4), (0.0, 0.0, 0.0))
    return Image(geometry, np.ones(geometry.shape, np.float32), "MR", uid, "", contrast)


def test_leading_series_is_t1_when_it_shows_the_target() -> None:
    """T1 leads T2 leads the rest, diffusion last; a series that misses the target gives way."""
    series = [
        _series("adc", "ADC", 1.0),
        _series("dwi", "DWI", 1.0),
        _series("coarse", "T1", 3.0),
        _series("fine", "T1", 1.0),
        _series("t2", "T2", 1.0),
        _series("unknown", "", 1.0),
    ]
    ordered = by_preference(series)
    uids = [image.series_instance_uid for image in ordered]
    assert uids == ["fine", "coarse", "t2", "unknown", "dwi", "adc"]
    everywhere = dict.fromkeys(uids, 1.0)
    assert leading_series(ordered, everywhere)[0].series_instance_uid == "fine"
    chosen, why = leading_series(ordered, {**everywhere, "fine": 0.3, "coarse": 0.2})
    assert chosen.series_instance_uid == "t2"
    assert "0.98" not in why
    assert "1.00 of the target" in why


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (1.0, RegistrationStatus.PASS),
        (5.0, RegistrationStatus.WARN),
        (12.0, RegistrationStatus.FAIL),
        (float("nan"), RegistrationStatus.FAIL),
    ],
)
def test_judge_gives_the_worst_verdict_when_a_figure_crosses_a_limit(
    value: float, status: RegistrationStatus
) -> None:
    """A figure at a limit counts as crossed; a figure that is no number counts as bad."""
    limits = (
        Limit("apart_mm", 5.0, 10.0, True, "Apart {value:.1f} mm."),
        Limit("shown", 0.9, 0.5, False, "Shown {value:.2f}."),
    )
    verdict = judge({"apart_mm": value, "shown": 1.0}, limits)
    assert verdict.status is status
    assert bool(verdict.reasons) is (status is not RegistrationStatus.PASS)
    worse = judge({"apart_mm": value, "shown": 0.1}, limits)
    assert worse.status is RegistrationStatus.FAIL


def test_limits_are_ordered_so_that_fail_lies_beyond_warn() -> None:
    """A limit whose fail were milder than its warn could never warn."""
    assert all((limit.fail > limit.warn) is limit.is_upper for limit in LIMITS)


def _read(folder: Path, modality: str) -> Image:
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    first, last = slices[0], slices[-1]
    begin = np.array(first.ImagePositionPatient, dtype=float)
    matrix = np.eye(4)
    matrix[:3, 0] = (np.array(last.ImagePositionPatient, dtype=float) - begin) / (len(slices) - 1)
    matrix[:3, 1] = (0.0, float(first.PixelSpacing[0]), 0.0)
    matrix[:3, 2] = (float(first.PixelSpacing[1]), 0.0, 0.0)
    matrix[:3, 3] = begin
    voxels = np.stack(
        [
            ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
            for ds in slices
        ]
    ).astype(np.float32)
    geometry = Geometry(str(first.FrameOfReferenceUID), matrix, voxels.shape)
    contrast = "T1" if modality == "MR" else ""
    return Image(geometry, voxels, modality, str(first.SeriesInstanceUID), "", contrast)


def _drawn(path: Path, name: str, ct: Image) -> Mask:
    ds = pydicom.dcmread(path)
    number = next(int(r.ROINumber) for r in ds.StructureSetROISequence if r.ROIName == name)
    inside = np.zeros(ct.geometry.shape, dtype=bool)
    for roi in ds.ROIContourSequence:
        if int(roi.ReferencedROINumber) == number:
            for contour in roi.ContourSequence:
                corners = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
                at = ct.geometry.indices_from_points(corners)
                inside[round(at[0, 0])] ^= polygon2mask(ct.geometry.shape[1:], at[:, 1:])
    return Mask(ct.geometry, inside)


def _moved(mr: Image) -> tuple[Image, RigidTransform]:
    """Return the MR moved by `MOTION` about its centre, in a frame of its own, and the motion."""
    moved_from_mr = RigidTransform.from_parameters(
        **MOTION,
        centre_mm=mr.geometry.centre_mm(),
        to_frame_uid=MR_FRAME,
        from_frame_uid=mr.geometry.frame_of_reference_uid,
    )
    geometry = Geometry(
        MR_FRAME, moved_from_mr.matrix @ mr.geometry.patient_from_index, mr.geometry.shape
    )
    return Image(geometry, mr.voxels, "MR", mr.series_instance_uid, "", "T1"), moved_from_mr


@pytest.mark.real_data
def test_register_follows_a_known_motion_when_the_mr_is_real(real_data: Path) -> None:
    """Bar 1: as it is, and moved by a known motion into a frame of its own: within 3 mm."""
    folder = real_data / "sarcoma-ct-mr" / "STS_010"
    ct, mr = _read(folder / "CT/image", "CT"), _read(folder / "MR_T1/image", "MR")
    mass = _drawn(folder / "CT/mask/RS.dcm", "GTV_Mass_CT", ct)
    plain = register_frame(ct, [mr], [mass], SETTINGS)
    moved, moved_from_mr = _moved(mr)
    again = register_frame(ct, [moved], [mass], SETTINGS)
    corners = plain.ct_from_mr.inverse().apply(box_corners(plain.centre_mm, 40.0))
    taken_out = again.ct_from_mr @ moved_from_mr
    assert taken_out.largest_distance_mm(plain.ct_from_mr, corners) < 3.0
    assert plain.status is RegistrationStatus.PASS, plain.reasons


def test_register_survives_when_the_mr_is_zero_outside_a_block(
    ct: Image, found: tuple[RigidTransform, Image, Registration]
) -> None:
    """Bar 6: filler zeros around a cropped MR are no tissue and do not pull the result away."""
    truth, mr, _ = found
    voxels = mr.voxels.copy()
    voxels[:, :, :25] = 0.0
    voxels[:, :20] = 0.0
    cropped = Image(mr.geometry, voxels, "MR", "2.4", "", "T1")
    registration = register_frame(ct, [cropped], [target(ct)], SETTINGS)
    corners = truth.inverse().apply(box_corners(registration.centre_mm, 40.0))
    assert registration.ct_from_mr.largest_distance_mm(truth, corners) < 2.0
