"""DICOM datasets to a case: geometry by hand, and every way in which real series are unfit."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEGBaseline8Bit

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.decode.contrast import contrast_of
from handlers.errors import InputRejectedError
from handlers.sampling import mask_from_roi
from handlers.values import Severity
from tests import datasets

MR = datasets.MR_SERIES
TARGET = {"GTV": [datasets.square(-30.0), datasets.square(-27.0)]}


def decode(
    *,
    ct: Sequence[Dataset] | None = None,
    structure_set: Dataset | None = None,
    mr: Mapping[str, Sequence[Dataset]] | None = None,
    dose: Dataset | None = None,
) -> DecodedCase:
    """Decode a case whose parts are small and sound unless given; no text tells the patient."""
    given = CaseDatasets(
        datasets.series() if ct is None else ct,
        datasets.structure_set(TARGET) if structure_set is None else structure_set,
        mr or {},
        dose,
    )
    try:
        decoded = decode_case(given)
    except InputRejectedError as error:
        check_anonymous([*error.reasons, error.hint])
        raise
    check_anonymous([finding.text for finding in decoded.case.findings])
    return decoded


def check_anonymous(texts: Sequence[str]) -> None:
    for text in texts:
        assert datasets.PATIENT_ID not in text
        assert "Secret" not in text


def check_rejected(*fragments: str, **parts: Any) -> None:
    """Check that a case is rejected and that each fragment stands in a reason of its own."""
    with pytest.raises(InputRejectedError) as caught:
        decode(**parts)
    for fragment in fragments:
        assert any(fragment in reason for reason in caught.value.reasons), caught.value.reasons
    assert len(caught.value.reasons) == len(fragments)
    assert caught.value.hint


def check_mr_left_out(code: str, mr: Sequence[Dataset], *, fragment: str = "") -> None:
    """Check that an unfit MR series becomes a warning and the case goes on without it."""
    decoded = decode(mr={MR: mr})
    assert decoded.case.mr == ()
    assert MR not in decoded.mr
    (finding,) = decoded.case.findings
    assert (finding.code, finding.severity) == (code, Severity.WARNING)
    assert fragment in finding.text
    assert finding.text.endswith("the series is left out")


def codes(decoded: DecodedCase) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in decoded.case.findings}


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


def test_lossy_compression_is_told() -> None:
    """Lossy once stays lossy (C.7.6.1.1.5)."""
    assert codes(decode(ct=datasets.series(LossyImageCompression="01"))) == {"ct.lossy": "info"}


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


# --- structure set ---


def test_structure_set_is_read_as_drawn() -> None:
    """Names, numbers, types and points; the target of two slices has the volume drawn."""
    decoded = decode()
    structure_set = decoded.case.structure_set
    assert (structure_set.label, structure_set.frame_of_reference_uid) == (
        "small",
        datasets.CT_FRAME,
    )
    (roi,) = structure_set.rois
    assert (roi.number, roi.name, roi.interpreted_type) == (1, "GTV", "GTV")
    assert np.array_equal(roi.contours[0].points, datasets.square(-30.0))
    mask = mask_from_roi(roi, decoded.case.ct.geometry)
    # centres at x -8.5, -7, -5.5 and y 22, 24 lie within -9..-5 and 21..25; 3 x 2 x 1.5 mm each
    assert mask.volume_cm3 == pytest.approx(2 * 6 * 9 / 1000)
    assert decoded.lost_contours == {}
    assert decoded.case.findings == ()


def other_frame() -> Dataset:
    return datasets.structure_set(TARGET, frame_of_reference_uid="1.2.3.99999999")


def roi_numbers_equal() -> Dataset:
    ds = datasets.structure_set({"A": [datasets.square(-30)], "B": []})
    ds.StructureSetROISequence[1].ROINumber = 1
    return ds


def no_frame() -> Dataset:
    ds = datasets.structure_set(TARGET)
    del ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    return ds


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda: datasets.structure_set({}), "holds no ROI"),
        (lambda: datasets.structure_set({"GTV": []}), "no ROI has a closed contour"),
        (other_frame, "frame of reference …99999999"),
        (no_frame, 'the frame of reference of "GTV" is not given'),
        (roi_numbers_equal, "ROI Number 1 is given to several"),
        (datasets.dose, "no RT Structure Set"),
    ],
)
def test_unfit_structure_set_is_rejected(make: Callable[[], Dataset], fragment: str) -> None:
    """Without contours in the CT's frame of reference there is no case."""
    check_rejected(fragment, structure_set=make())


def test_frame_of_reference_may_stand_in_the_referenced_sequence() -> None:
    """Where ROIs are silent, Referenced Frame of Reference Sequence tells."""
    ds = no_frame()
    frame = Dataset()
    frame.FrameOfReferenceUID = datasets.CT_FRAME
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    assert decode(structure_set=ds).case.findings == ()


def with_contour(**changes: Any) -> Dataset:
    """Return the small structure set with a third contour that has other attributes."""
    ds = datasets.structure_set({"GTV": [*TARGET["GTV"], datasets.square(-24.0)]})
    item = ds.ROIContourSequence[0].ContourSequence[2]
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return ds


def flat(points: npt.ArrayLike) -> list[float]:
    return [float(x) for x in np.asarray(points).ravel()]


SKEW = datasets.square(-24.0) + np.array([[0, 0, 0.0], [0, 0, 0], [0, 0, 0], [0, 0, 2]])
TILTED = datasets.square(-24.0) + np.array([[0, 0, 0.0], [0, 0, 0], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "code", "severity", "lost"),
    [
        ({"ContourGeometricType": "POINT"}, "contours.not_closed", "info", 0),
        ({"ContourGeometricType": "OPEN_PLANAR"}, "contours.not_closed", "info", 0),
        ({"ContourData": [1.0, 2.0, -24.0]}, "contours.too_few_points", "warning", 0),
        ({"ContourData": [1.0] * 10}, "contours.malformed", "warning", 1),
        ({"ContourData": flat(SKEW)}, "contours.not_planar", "warning", 1),
        ({"ContourData": flat(TILTED)}, "contours.not_parallel", "warning", 1),
        ({"ContourData": flat(datasets.square(-15.0))}, "contours.without_slice", "warning", 1),
        (
            {"ContourData": flat(datasets.square(-24.0, side_mm=50.0))},
            "contours.beyond_image",
            "warning",
            0,
        ),
        (
            {"ContourData": flat(datasets.square(-25.7))},
            "contours.several_planes",
            "warning",
            0,
        ),
        ({"ContourData": flat(datasets.square(-21.0))}, "contours.undrawn_slices", "info", 0),
        (
            {"ContourData": flat(datasets.square(-30.0, corner=(-8.0, 22.0), side_mm=2.0))},
            "contours.nested_rings",
            "info",
            0,
        ),
    ],
)
def test_contours_that_do_not_fit_are_told(
    changes: Mapping[str, Any], code: str, severity: str, lost: int
) -> None:
    """One finding for each ROI and kind; contours that do not count are named by ROI number."""
    decoded = decode(structure_set=with_contour(**changes))
    assert codes(decoded) == {code: severity}
    (finding,) = decoded.case.findings
    assert 'ROI "GTV"' in finding.text
    assert finding.numbers["count"] == 1
    assert decoded.lost_contours == ({1: lost} if lost else {})


@pytest.mark.parametrize(
    ("uid", "z", "expected"),
    [
        (f"{datasets.CT_SERIES}.3", -24.0, {}),
        ("1.9.9", -24.0, {"contours.dangling_reference": "info"}),
        (f"{datasets.CT_SERIES}.1", -24.0, {"contours.wrong_reference": "warning"}),
        (
            "1.9.9",
            -12.0,
            {"contours.without_slice": "warning", "contours.dangling_without_slice": "info"},
        ),
    ],
)
def test_where_a_contour_lies_is_told_by_its_points(
    uid: str, z: float, expected: Mapping[str, str]
) -> None:
    """References to CT instances only confirm; a dangling one is told."""
    image = Dataset()
    image.ReferencedSOPInstanceUID = uid
    ds = with_contour(
        ContourImageSequence=DicomSequence([image]), ContourData=flat(datasets.square(z))
    )
    assert codes(decode(structure_set=ds)) == expected


def test_closing_point_and_exclusive_or_type() -> None:
    """A repeated first point is dropped; CLOSEDPLANAR_XOR is kept in mind."""
    points = np.vstack((datasets.square(-30.0), datasets.square(-30.0)[:1]))
    ds = datasets.structure_set({"GTV": [points]}, geometric_type="CLOSEDPLANAR_XOR")
    (contour,) = decode(structure_set=ds).case.structure_set.rois[0].contours
    assert len(contour.points) == 4
    assert contour.is_exclusive_or


def test_contours_of_no_roi_and_equal_names_are_told() -> None:
    """Neither stops the case, both may mislead."""
    ds = datasets.structure_set({"GTV": TARGET["GTV"], "B": [], "C": [datasets.square(-30)]})
    ds.StructureSetROISequence[1].ROIName = "GTV"
    ds.ROIContourSequence[2].ReferencedROINumber = 77
    assert codes(decode(structure_set=ds)) == {
        "structures.same_name": "warning",
        "contours.without_roi": "warning",
    }


# --- dose ---


def test_dose_is_in_gray_at_its_place() -> None:
    """Stored 100 * plane + 10 * row + column, scaled by 0.01 Gy; planes 2.5 mm apart."""
    dose = decode(dose=datasets.dose()).case.dose
    assert dose is not None
    assert dose.dose_gy[2, 3, 1] == pytest.approx(2.31)
    assert dose.geometry.points_from_indices([2, 3, 1])[0].tolist() == [-7.5, 27.5, -25.0]
    assert dose.summation_type == "PLAN"


@pytest.mark.parametrize(
    "offsets_mm", [(-30.0, -27.5, -25.0), (0.0, 2.5, 5.0), (0.0, -2.5, -5.0), (-30.0, -32.5, -35.0)]
)
def test_offsets_relative_absolute_and_decreasing(offsets_mm: Sequence[float]) -> None:
    """PS3.3 C.8.8.3.2: relative if the first is 0, absolute if it is the z of the position."""
    dose = decode(dose=datasets.dose(offsets_mm=offsets_mm)).case.dose
    assert dose is not None
    for plane, offset in enumerate(offsets_mm):
        z = -30.0 + offset - offsets_mm[0]
        at = dose.geometry.indices_from_points([-10.0, 20.0, z])[0]
        assert dose.dose_gy[round(at[0]), 0, 0] == pytest.approx(plane)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DoseUnits": "RELATIVE"}, "dose.units"),
        ({"DoseType": "EFFECTIVE"}, "dose.type"),
        ({"DoseGridScaling": 0}, "dose.scaling"),
        ({"FrameOfReferenceUID": "1.9"}, "dose.frame_of_reference"),
        ({"GridFrameOffsetVector": [7.0, 9.5, 12.0]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2.5]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2.5, 6.0]}, "dose.uneven_planes"),
        ({"GridFrameOffsetVector": [0.0, 5.0, 2.5]}, "dose.uneven_planes"),
        ({"PixelSpacing": None}, "dose.geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "dose.geometry"),
        ({"PixelData": b"\0" * 7}, "dose.pixel_data"),
        ({"PixelData": b"\0" * 72}, "dose.values"),
        ({"PatientID": "other"}, "dose.other_patient"),
        ({"Modality": "CT"}, "dose.modality"),
    ],
)
def test_unfit_dose_is_left_out(changes: Mapping[str, Any], code: str) -> None:
    """A dose that cannot be trusted costs the dose, not the case."""
    decoded = decode(dose=datasets.dose(**changes))
    assert decoded.case.dose is None
    assert codes(decoded) == {code: Severity.WARNING}


def test_dose_of_one_beam_is_told() -> None:
    """It may not be the whole plan's."""
    decoded = decode(dose=datasets.dose(DoseSummationType="BEAM"))
    assert decoded.case.dose is not None
    assert codes(decoded) == {"dose.summation": Severity.WARNING}


# --- real data ---


def read(folder: Path) -> list[Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the publisher's values are longer than their VR allows
        return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_sarcoma_cases_are_read(real_data: Path) -> None:
    """Nine of ten are cases; the tenth's structure set lies in another frame of reference."""
    refused = []
    for patient in sorted((real_data / "sarcoma-ct-mr").glob("STS_*")):
        mr = read(patient / "MR_T1" / "image")
        parts = (read(patient / "CT" / "image"), read(patient / "CT" / "mask")[0])
        try:
            decoded = decode_case(CaseDatasets(*parts, {mr[0].SeriesInstanceUID: mr}))
        except InputRejectedError as error:
            refused.append((patient.name, "frame of reference" in error.reasons[0]))
            continue
        assert [image.contrast for image in decoded.case.mr] == ["T1"]
        assert decoded.lost_contours == {}
        target = mask_from_roi(decoded.case.structure_set.rois[0], decoded.case.ct.geometry)
        assert 40 < target.volume_cm3 < 2500
        assert set(codes(decoded)) <= {
            "contours.dangling_reference",
            "mr.contrast_from_description",
        }
    assert refused == [("STS_046", True)]


@pytest.mark.real_data
def test_pancreas_case_with_mr_of_a_stranger(real_data: Path) -> None:
    """Eight contours without a CT slice are named, and another patient's MR is left out.

    With identifiers made equal it is read, feet first and with its gaps.
    """
    ct, rtstruct = (
        read(real_data / "pancreas-ct" / "CT"),
        real_data / "pancreas-ct" / "RTSTRUCT.dcm",
    )
    mr = {name: read(real_data / "liver-mr" / name) for name in ("T2", "ADC")}
    structure_set = pydicom.dcmread(rtstruct)
    decoded = decode_case(CaseDatasets(ct, structure_set, mr))
    assert decoded.case.mr == ()
    assert codes(decoded)["mr.other_patient"] == "warning"
    assert decoded.lost_contours == {1: 8}
    for ds in (*mr["T2"], *mr["ADC"]):
        ds.PatientID = ct[0].PatientID
    decoded = decode_case(CaseDatasets(ct, structure_set, mr))
    assert [image.contrast for image in decoded.case.mr] == ["T2", "ADC"]
    assert [image.geometry.shape for image in decoded.case.mr] == [(33, 512, 584), (36, 288, 256)]
    assert decoded.case.mr[0].geometry.spacing_mm[0] == pytest.approx(8.0, abs=1e-4)
    assert decoded.case.ct.voxels.min() == -1000


@pytest.mark.real_data
def test_plan_with_one_ct_slice_is_rejected_and_its_dose_read(real_data: Path) -> None:
    """The reason is the missing slices; the dose itself (98 planes, 14 Gy plan) is sound."""
    folder = real_data / "rt-dose-plan"
    ct, dose = pydicom.dcmread(folder / "ct.0.dcm"), pydicom.dcmread(folder / "rtdose.dcm")
    structure_set = pydicom.dcmread(folder / "rtss.dcm")
    check_rejected("one slice only", ct=[ct], structure_set=structure_set, dose=dose)
    stack = [copy.deepcopy(ct) for _ in range(2)]
    stack[1].ImagePositionPatient[2] += 3
    decoded = decode_case(CaseDatasets(stack, structure_set, {}, dose))
    assert decoded.case.dose is not None
    assert decoded.case.dose.geometry.shape == (98, 129, 194)
    assert decoded.case.dose.geometry.spacing_mm == pytest.approx((3.0, 2.5, 2.5))
    stored = np.frombuffer(dose.PixelData, dtype="<u4").reshape(98, 129, 194)
    assert decoded.case.dose.dose_gy[40, 60, 90] == pytest.approx(stored[40, 60, 90] * 1.4e-5)
    assert "contours.without_slice" in codes(decoded)
