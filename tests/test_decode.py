"""Images to voxels: geometry by hand, and every way in which real series are unfit."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import JPEGBaseline8Bit

from handlers.decode.contrast import contrast_of
from handlers.errors import InputRejectedError
from tests import datasets
from tests.decoding import MR, check_mr_left_out, check_rejected, codes, decode


def moved(series: list[Dataset], index: int, *by_mm: float) -> list[Dataset]:
    """Return a series of which one slice is shifted by x, y, z in mm."""
    at = np.array([float(v) for v in series[index].ImagePositionPatient]) + by_mm
    series[index].ImagePositionPatient = at.tolist()
    return series


# --- images ---


@pytest.mark.parametrize(
    ("orientation", "position"),
    [
        ((1, 0, 0, 0, 1, 0), "HFS"),
        ((-1, 0, 0, 0, -1, 0), "HFP"),
        ((-1, 0, 0, 0, 1, 0), "FFS"),
        ((1, 0, 0, 0, -1, 0), "FFP"),
        (datasets.SAGITTAL, "HFS"),
        (datasets.CORONAL, "HFS"),
        ((0.8, 0.6, 0, 0, 0, -1), "HFS"),
    ],
)
def test_every_stored_value_is_found_at_its_place(
    orientation: Sequence[float], position: str
) -> None:
    """Any patient position and plane: HU at the point that Image Plane (C.7.6.2.1.1) gives it."""
    ct = datasets.series(orientation=orientation, patient_position=position)
    image = decode(ct=ct[::-1]).case.ct
    row_step, column_step = np.array(orientation[3:]) * 2.0, np.array(orientation[:3]) * 1.5
    assert image.geometry.shape == (4, 6, 5)
    for index, row, column in [(0, 0, 0), (3, 5, 4), (1, 4, 2)]:
        origin = np.array([float(v) for v in ct[index].ImagePositionPatient])
        point = origin + row * row_step + column * column_step
        at = np.round(image.geometry.indices_from_points(point)[0]).astype(int)
        assert np.allclose(image.geometry.points_from_indices(at)[0], point)
        assert image.voxels[tuple(at)] == (row * 10 + column + index) * 2 - 1000


def test_slices_are_sorted_and_datasets_with_them() -> None:
    """Order of arrival and Instance Number do not matter; datasets follow the image's order."""
    ct = datasets.series(slices=5)
    decoded = decode(ct=[ct[i] for i in (3, 0, 4, 1, 2)])
    assert [ds.SOPInstanceUID for ds in decoded.ct] == [ds.SOPInstanceUID for ds in ct]
    assert decoded.case.ct.voxels[:, 0, 0].tolist() == [-1000, -998, -996, -994, -992]
    assert decoded.case.ct.geometry.spacing_mm == pytest.approx((3.0, 2.0, 1.5))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda _: [], "there are no images"),
        (lambda s: s[:1], "one slice only"),
        (
            lambda s: s[:2] + s[4:],
            "9.00 mm instead of 3.00 mm between the slices at -27.00 and "
            "-18.00 mm along the slice normal: 2 slices are missing",
        ),
        (lambda s: moved(s, -1, 0, 0, 0.5), "spacing is uneven"),
        (lambda s: moved(s, 2, 0.5, 0, 0), "shifted sideways by up to 0.50 mm"),
        (lambda s: s + moved(datasets.series(), 0, 0, 0, 3.0)[:1], "several different images"),
    ],
)
def test_ct_is_rejected_when_its_slices_make_no_even_stack(
    change: Callable[[list[Dataset]], list[Dataset]], fragment: str
) -> None:
    """Gaps are named with place and size; nothing is interpolated."""
    check_rejected(fragment, ct=change(datasets.series(slices=8)))


def test_ct_is_rejected_when_its_gantry_was_tilted() -> None:
    """The slices step sideways: refused with the angle, and the attribute as a hint."""
    ct = datasets.series(GantryDetectorTilt=10)
    for i, ds in enumerate(ct):
        ds.ImagePositionPatient = [-10, 20 + 3 * i * np.tan(np.radians(10)), -30 + 3 * i]
    check_rejected("stacked at 10.00 degrees to their normal (Gantry/Detector Tilt says 10", ct=ct)


def test_tilt_attribute_alone_is_a_hint() -> None:
    """Positions decide; a stray Gantry/Detector Tilt is told."""
    assert codes(decode(ct=datasets.series(GantryDetectorTilt=5)))["ct.tilt_attribute"] == "info"


def test_slices_may_jitter_by_a_hundredth_of_a_millimetre() -> None:
    """Real series do (positions are written with few digits)."""
    assert decode(ct=moved(datasets.series(), 1, 0.001, 0, 0.01)).case.findings == ()


def first(keyword: str, value: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    """Return a change of one attribute of the first slice; None removes it."""

    def change(series: list[Dataset]) -> list[Dataset]:
        if value is None:
            delattr(series[0], keyword)
        else:
            setattr(series[0], keyword, value)
        return series

    return change


@pytest.mark.parametrize(
    ("keyword", "value", "fragment"),
    [
        ("FrameOfReferenceUID", None, "Frame of Reference UID is absent"),
        ("FrameOfReferenceUID", "1.9", "2 frames of reference"),
        ("SeriesInstanceUID", "1.9", "do not belong to one series"),
        ("Modality", "PT", "1 of modality PT"),
        ("ImagePositionPatient", None, "Image Position (Patient) is absent or malformed in 1 of 4"),
        ("ImagePositionPatient", [1, 2], "Image Position (Patient) is absent or malformed"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "no pair of perpendicular directions"),
        ("ImageOrientationPatient", list(datasets.CORONAL), "face another way"),
        ("PixelSpacing", [2.0, 1.6], "another Pixel Spacing"),
        ("PixelSpacing", [0, 0], "Pixel Spacing is absent or not positive"),
        ("Rows", 5, "images of different size: 5 x 5, 6 x 5"),
        ("SamplesPerPixel", 3, "Samples per Pixel is not 1"),
        ("PhotometricInterpretation", "PALETTE COLOR", "not monochrome"),
        ("RescaleSlope", None, "Rescale Slope or Rescale Intercept is absent"),
        ("RescaleSlope", 0, "Rescale Slope or Rescale Intercept is absent, not a number or zero"),
        ("RescaleType", "ED", "no Hounsfield units"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizers"),
        ("PixelData", None, "there is no pixel data in 1 of 4 slices"),
        ("PixelData", b"\0" * 10, "truncated or cannot be decoded"),
        ("PatientID", "other", "several patients"),
    ],
)
def test_ct_is_rejected_when_one_slice_is_unfit(keyword: str, value: Any, fragment: str) -> None:
    """Each flaw is named with what is wrong; counts tell where."""
    check_rejected(fragment, ct=first(keyword, value)(datasets.series()))


def test_ct_is_rejected_when_its_transfer_syntax_is_unknown() -> None:
    """Pixel data without a transfer syntax is not guessed to be uncompressed."""
    ct = datasets.series()
    del ct[0].file_meta.TransferSyntaxUID
    check_rejected("the transfer syntax is unknown", ct=ct)


def test_ct_is_rejected_when_every_pixel_is_equal() -> None:
    """A constant image is no image."""
    ct = datasets.series()
    for ds in ct:
        datasets.set_pixels(ds, np.zeros((6, 5), dtype=np.int16))
    check_rejected("every pixel has the same value", ct=ct)


def test_all_reasons_are_told_at_once() -> None:
    """One correction must be enough: CT and structure set are both checked to the end."""
    ct = first("FrameOfReferenceUID", None)(first("PixelSpacing", None)(datasets.series()))
    structure_set = datasets.structure_set({})
    structure_set.PatientID = "other"
    check_rejected(
        "Frame of Reference UID is absent",
        "Pixel Spacing is absent",
        "it holds no ROI",
        "different patients",
        ct=ct,
        structure_set=structure_set,
    )


def test_equal_slices_are_used_once() -> None:
    """A slice that came twice with equal pixels is dropped and told."""
    ct = datasets.series()
    again = copy.deepcopy(ct[1])
    again.SOPInstanceUID = "1.9"
    decoded = decode(ct=[*ct, again])
    assert decoded.case.ct.geometry.shape[0] == len(decoded.ct) == 4
    assert codes(decoded) == {"ct.duplicate_slices": "info"}


@pytest.mark.parametrize(
    ("given", "code", "fragment"),
    [
        ({"LossyImageCompression": "01"}, "ct.lossy", "4 of 4 slices were compressed with loss: "),
        (
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionRatio": ["4.5", "12.25"],
                "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
            },
            "ct.lossy",
            "(JPEG, JPEG 2000, ratio up to 12.2 to 1): values and edges are not",
        ),
        ({"LossyImageCompression": "00"}, "", ""),
        ({"LossyImageCompressionRatio": "5"}, "", ""),
    ],
)
def test_loss_is_told_when_the_image_was_decompressed_since(
    given: dict[str, Any], code: str, fragment: str
) -> None:
    """Issue 4, 14: lossy once stays lossy (C.7.6.1.1.5), with what is known of how."""
    decoded = decode(ct=datasets.series(**given))
    assert codes(decoded) == ({code: "warning"} if code else {})
    assert all(fragment in finding.text for finding in decoded.case.findings)


def test_loss_of_some_slices_is_counted() -> None:
    """The physicist is told how much of the series it is, each series for itself."""
    mr = first("LossyImageCompression", "01")(datasets.series(modality="MR"))
    decoded = decode(mr={MR: mr})
    (finding,) = decoded.case.findings
    assert (finding.code, finding.numbers) == ("mr.lossy", {"count": 1})
    assert "1 of 4 slices were" in finding.text


@pytest.mark.filterwarnings("ignore:The number of bytes of compressed pixel data")
def test_native_data_under_a_compressed_syntax_is_refused() -> None:
    """A decoder's error is a reason, not a crash."""
    ct = datasets.series()
    ct[2].file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    check_rejected("cannot be decoded", ct=ct)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"]
)
def test_compressed_pixel_data_equals_uncompressed(name: str) -> None:
    """RLE, JPEG-LS and JPEG 2000 (gdcm) give the values of the same image uncompressed."""
    mr = []
    for i in range(3):
        ds = pydicom.dcmread(str(get_testdata_file(name)))
        ds.PatientID = datasets.PATIENT_ID
        ds.ImagePositionPatient = [0, 0, 5 * i]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.FrameOfReferenceUID = datasets.MR_FRAME
        mr.append(ds)
    (image,) = decode(mr={MR: mr}).case.mr
    expected = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array
    assert np.array_equal(image.voxels, np.stack([expected] * 3))


# --- MR ---


def test_mr_keeps_its_gaps_frame_and_rescale() -> None:
    """Slices of 3 mm every 8 mm are a normal MR; slope and intercept apply if present."""
    mr = datasets.series(modality="MR", spacing_mm=(8.0, 1.0, 1.0), SliceThickness=3)
    for ds in mr:
        ds.RescaleSlope, ds.RescaleIntercept = 0.5, 1
    decoded = decode(mr={MR: mr})
    (image,) = decoded.case.mr
    assert image.geometry.spacing_mm == pytest.approx((8.0, 1.0, 1.0))
    assert image.geometry.frame_of_reference_uid == datasets.MR_FRAME
    assert image.voxels[1, 2, 3] == (2 * 10 + 3 + 1) * 0.5 + 1
    assert [ds.SOPInstanceUID for ds in decoded.mr[MR]] == [ds.SOPInstanceUID for ds in mr]
    plain = decode(mr={MR: datasets.series(modality="MR")}).case.mr[0]
    assert plain.voxels[1, 2, 3] == 24


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (first("FrameOfReferenceUID", None), "mr.no_frame_of_reference"),
        (first("PatientID", "other"), "mr.other_patient"),
        (first("Modality", "CT"), "mr.modality"),
        (first("SamplesPerPixel", 3), "mr.unusable_attribute"),
        (first("RescaleSlope", "1"), "mr.unusable_attribute"),
        (first("NumberOfFrames", 4), "mr.unusable_attribute"),
        (first("PixelData", b"12"), "mr.pixel_data"),
        (first("ImageOrientationPatient", list(datasets.SAGITTAL)), "mr.mixed_orientations"),
        (lambda s: s[:1], "mr.single_slice"),
        (lambda _: [], "mr.no_images"),
        (lambda s: s[:2] + s[3:], "mr.gap"),
    ],
)
def test_unfit_mr_is_left_out(change: Callable[[list[Dataset]], list[Dataset]], code: str) -> None:
    """An MR series that is unfit costs that series, not the case."""
    check_mr_left_out(code, change(datasets.series(modality="MR", slices=6)))


def test_mr_with_several_echoes_is_left_out() -> None:
    """Two different images at each position: nobody knows which is meant."""
    late = datasets.series(modality="MR")
    for ds in late:
        datasets.set_pixels(ds, ds.pixel_array * 2)
    check_mr_left_out(
        "mr.several_images_per_position",
        [*datasets.series(modality="MR"), *late],
        fragment="echoes, b-values",
    )


def test_enhanced_mr_is_sorted_by_position_with_each_frames_rescale() -> None:
    """Functional groups, shared and per frame, tell geometry and rescale (C.7.6.16)."""
    ds = datasets.enhanced_mr([6.0, 0.0, 3.0], slopes=[1.0, 10.0, 100.0])
    decoded = decode(mr={MR: [ds]})
    (image,) = decoded.case.mr
    assert image.geometry.spacing_mm == pytest.approx((3.0, 2.0, 1.5))
    assert image.geometry.points_from_indices([0, 1, 2])[0].tolist() == [-7.0, 22.0, 0.0]
    assert image.voxels[:, 1, 2].tolist() == [130.0, 1400.0, 12.0]
    assert decoded.mr[MR] == (ds, ds, ds)


@pytest.mark.parametrize(
    ("positions", "stacks", "code"),
    [
        ([0.0, 3.0, 6.0], ["1", "1", "2"], "mr.several_stacks"),
        ([0.0, 3.0, 0.0], [], "mr.several_images_per_position"),
        ([0.0, 3.0, 9.0, 12.0], [], "mr.gap"),
    ],
)
def test_enhanced_mr_of_several_stacks_or_echoes_is_left_out(
    positions: list[float], stacks: list[str], code: str
) -> None:
    """Only one stack with one image for each position is a volume."""
    ds = datasets.enhanced_mr(positions, slopes=[1.0] * len(positions), stacks=stacks)
    check_mr_left_out(code, [ds])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "ADC"], "DiffusionBValue": 500.0}, ("ADC", False)),
        ({"DiffusionBValue": 50.0, "EchoTime": 80}, ("DWI", False)),
        ({"ScanningSequence": ["EP", "SE"], "EchoTime": 80}, ("DWI", False)),
        ({"ScanningSequence": "SE", "EchoTime": 90, "RepetitionTime": 4000}, ("T2", False)),
        ({"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 600}, ("T1", False)),
        ({"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 3000}, ("", False)),
        ({"ScanningSequence": "GR", "EchoTime": 2, "SequenceVariant": ["SK", "SP"]}, ("T1", False)),
        ({"ScanningSequence": ["GR", "IR"], "EchoTime": 3}, ("T1", False)),
        ({"ScanningSequence": "GR", "EchoTime": 2, "SequenceVariant": "SS"}, ("", False)),
        ({"ScanningSequence": "GR", "EchoTime": 20, "SequenceVariant": "SP"}, ("", False)),
        ({"SeriesDescription": "liver_T2W_tra"}, ("T2", True)),
        ({"SeriesDescription": "eADC DWI b800"}, ("DWI", True)),
        ({"SeriesDescription": "T1 and T2"}, ("", True)),
        ({"SeriesDescription": "T2* map"}, ("", True)),
        ({"SeriesDescription": "T2", "EchoTime": 40, "ScanningSequence": "SE"}, ("", False)),
    ],
)
def test_contrast_by_rule(attributes: Mapping[str, Any], expected: tuple[str, bool]) -> None:
    """Attributes decide; words of the description only if no echo time is given."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    assert contrast_of(ds) == expected


def test_contrast_from_the_description_is_told() -> None:
    """A guess from words is a finding."""
    decoded = decode(mr={MR: datasets.series(modality="MR", SeriesDescription="T1 tra")})
    assert decoded.case.mr[0].contrast == "T1"
    assert codes(decoded) == {"mr.contrast_from_description": "info"}


def test_enhanced_ct_is_rejected() -> None:
    """Contours and results name slices of the planning CT, which a multi-frame object has not."""
    ds = datasets.enhanced_mr([0.0, 3.0, 6.0], slopes=[1.0, 1.0, 1.0])
    ds.Modality, ds.PatientID = "CT", datasets.PATIENT_ID
    with pytest.raises(InputRejectedError) as caught:
        decode(ct=[ds])
    assert any("multi-frame" in reason for reason in caught.value.reasons)
