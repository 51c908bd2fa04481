"""Structure sets: read as drawn, and every way in which they do not fit the CT."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from handlers.sampling import mask_from_roi
from handlers.values import Severity
from tests import datasets
from tests.decoding import TARGET, check_rejected, codes, decode, lost_contours

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
    assert lost_contours(decoded) == {}
    assert decoded.case.findings == ()


def other_frame() -> Dataset:
    return datasets.structure_set(TARGET, frame_of_reference_uid="1.2.3.99999999")


def contradictory_frames() -> Dataset:
    ds, frame = other_frame(), Dataset()
    frame.FrameOfReferenceUID = datasets.CT_FRAME
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    return ds


def test_roi_of_its_own_mind_is_believed_less_than_the_set() -> None:
    """An ROI that alone names another frame than its set (real exports have it) is a warning."""
    decoded = decode(structure_set=contradictory_frames())
    assert codes(decoded) == {"structures.contradiction": Severity.WARNING}
    assert decoded.case.structure_set.frame_of_reference_uid == datasets.CT_FRAME


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
    assert lost_contours(decoded) == ({1: lost} if lost else {})


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
