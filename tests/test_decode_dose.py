"""One RT Dose: where its planes lie and what they hold, and every way in which it is unfit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset

from handlers.decode import DecodedCase
from handlers.values import DoseGrid, DoseKind, Severity
from tests import datasets
from tests.decoding import codes, decode

ORIGIN_MM = (-10.0, 20.0, -30.0)
SLOPE_GY_PER_MM = np.array([0.011, 0.017, 0.023])
AT_ORIGIN_GY = 3.0

ORIENTATIONS = {
    "HFS": datasets.AXIAL,
    "FFS": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "HFP": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "FFP": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "HFDR": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
    "sagittal": datasets.SAGITTAL,
    "coronal": datasets.CORONAL,
    "oblique": (0.96, 0.28, 0.0, -0.168, 0.576, 0.8),
}


def planned(dose: Dataset, **plan: Any) -> DecodedCase:
    """Decode a case with one plan and its dose."""
    return decode(doses=[dose], plans=[datasets.plan(**plan)])


def only_dose(decoded: DecodedCase) -> DoseGrid:
    (one,) = decoded.case.plan_doses
    return one.dose


def linear_gy(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the dose of the test at LPS points: 3 Gy at the origin of the grid, linear."""
    return AT_ORIGIN_GY + (np.asarray(points) - ORIGIN_MM) @ SLOPE_GY_PER_MM


def linear_dose(
    orientation: Sequence[float], offsets_mm: Sequence[float], bits: int = 16, z_mm: float = 0.0
) -> Dataset:
    """Return a dose that is linear in space; each value is worked out voxel by voxel.

    `z_mm` is added to each offset as it is written: the z of the position makes them absolute.
    """
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(along_row, along_column)
    stored = np.empty((len(offsets_mm), 4, 3))
    for plane, row, column in np.ndindex(stored.shape):
        point = (
            np.array(ORIGIN_MM)
            + normal * (offsets_mm[plane] - offsets_mm[0])
            + along_column * 2.0 * row
            + along_row * 1.5 * column
        )
        stored[plane, row, column] = linear_gy(point)
    step = 1e-4 if bits == 16 else 1e-8
    return datasets.dose(
        offsets_mm=np.add(offsets_mm, z_mm).tolist(),
        ImageOrientationPatient=list(orientation),
        PixelSpacing=[2.0, 1.5],
        DoseGridScaling=step,
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelData=np.rint(stored / step).astype("<u2" if bits == 16 else "<u4").tobytes(),
    )


def check_linear(dose: DoseGrid, step_gy: float = 1e-4) -> None:
    """Check each voxel of a grid against the dose at its place in the patient."""
    indices = np.argwhere(np.ones(dose.geometry.shape, dtype=bool))
    expected = linear_gy(dose.geometry.points_from_indices(indices))
    assert np.abs(dose.dose_gy.ravel() - expected).max() <= step_gy


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("offsets_mm", [(0.0, 2.5, 5.0), (0.0, -2.5, -5.0)])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_dose_lies_where_it_was_calculated(
    orientation: Sequence[float], offsets_mm: Sequence[float], bits: int
) -> None:
    """PS3.3 C.8.8.3.2: offsets run along row x column, for any patient position and plane."""
    decoded = planned(linear_dose(orientation, offsets_mm, bits))
    dose = only_dose(decoded)
    check_linear(dose, 1e-4 if bits == 16 else 1e-6)
    assert dose.geometry.spacing_mm == pytest.approx((2.5, 2.0, 1.5))
    assert codes(decoded) == {}


@pytest.mark.parametrize("offsets_mm", [(0.0, 2.5, 5.0), (0.0, -2.5, -5.0)])
def test_absolute_offsets_are_the_z_of_axial_planes(offsets_mm: Sequence[float]) -> None:
    """PS3.3 C.8.8.3.2 (b): the first is the z of the position, and rows and columns are x and y."""
    check_linear(only_dose(planned(linear_dose(datasets.AXIAL, offsets_mm, z_mm=-30.0))))
    others = (values for name, values in ORIENTATIONS.items() if name != "HFS")
    for orientation in others:
        decoded = planned(linear_dose(orientation, offsets_mm, z_mm=-30.0))
        assert decoded.case.plan_doses == ()
        assert codes(decoded) == {"dose.offsets": Severity.WARNING}


def test_values_are_scaled_and_the_object_is_named() -> None:
    """Stored 100 * plane + 10 * row + column, scaled by 0.01 Gy."""
    dose = only_dose(planned(datasets.dose()))
    assert dose.dose_gy[2, 3, 1] == pytest.approx(2.31)
    assert dose.geometry.points_from_indices([2, 3, 1])[0].tolist() == [-7.5, 27.5, -25.0]
    assert (dose.summation_type, dose.kind) == ("PLAN", DoseKind.PHYSICAL)
    assert (dose.sop_instance_uid, dose.plan_uids) == (datasets.DOSE, (datasets.PLAN,))


@pytest.mark.parametrize(
    ("offsets_mm", "step_mm", "planes"),
    [
        ((0.0, 3.0, 9.0, 12.0), 3.0, 5),
        ((0.0, 2.0, 4.0, 7.0, 10.0), 1.0, 11),
        ((0.0, -3.0, -5.0, -9.0), 1.0, 10),
        ((0.0, 2.5, 7.5, 9.0), 0.5, 19),
    ],
)
def test_uneven_planes_of_a_finer_even_grid_are_filled(
    offsets_mm: Sequence[float], step_mm: float, planes: int
) -> None:
    """A plane left out, or wider planes at the ends: straight lines change no interpolation."""
    decoded = planned(linear_dose(datasets.AXIAL, offsets_mm))
    dose = only_dose(decoded)
    assert dose.geometry.shape == (planes, 4, 3)
    assert dose.geometry.spacing_mm[0] == pytest.approx(step_mm)
    check_linear(dose, 1.1e-4)
    assert codes(decoded) == {"dose.planes_filled": Severity.INFO}


def test_filled_planes_lie_on_the_line_between_their_neighbours() -> None:
    """Not linear as a whole: 0, 1, 2, 3 Gy at 0, 3, 9 and 12 mm have 1.5 Gy at 6 mm."""
    dose = only_dose(planned(datasets.dose(offsets_mm=(0.0, 3.0, 9.0, 12.0))))
    np.testing.assert_allclose(dose.dose_gy[:, 0, 0], [0, 1, 1.5, 2, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DoseUnits": "RELATIVE"}, "dose.units"),
        ({"DoseUnits": ""}, "dose.units"),
        ({"DoseType": "ERROR", "PixelRepresentation": 1}, "dose.type"),
        ({"DoseType": ""}, "dose.type"),
        ({"DoseGridScaling": 0}, "dose.scaling"),
        ({"DoseGridScaling": -1}, "dose.scaling"),
        ({"FrameOfReferenceUID": "1.9"}, "dose.frame_of_reference"),
        ({"FrameOfReferenceUID": ""}, "dose.frame_of_reference"),
        ({"GridFrameOffsetVector": [7.0, 9.5, 12.0]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2.5]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2.5, 5.0, 7.5]}, "dose.offsets"),
        ({"GridFrameOffsetVector": None}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 5.0, 2.5]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 0.0, 2.5]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 0.5, 1e6]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2500.0, 5000.0]}, "dose.offsets"),
        ({"GridFrameOffsetVector": [0.0, 2.5, 6.1]}, "dose.uneven_planes"),
        ({"PixelSpacing": None}, "dose.geometry"),
        ({"PixelSpacing": [2.5, -2.5]}, "dose.geometry"),
        ({"ImagePositionPatient": [0, 0]}, "dose.geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "dose.geometry"),
        ({"PixelData": b"\0" * 7}, "dose.pixel_data"),
        ({"PixelData": b"\0" * 72}, "dose.values"),
        ({"PixelData": b"\xff" * 72, "PixelRepresentation": 1}, "dose.values"),
        ({"Modality": "CT"}, "dose.modality"),
    ],
)
def test_unfit_dose_is_left_out(changes: Mapping[str, Any], code: str) -> None:
    """A dose that cannot be trusted costs the dose, not the case, and is no number."""
    decoded = planned(datasets.dose(**changes))
    assert decoded.case.plan_doses == ()
    assert codes(decoded) == {code: Severity.WARNING}
    (finding,) = decoded.case.findings
    assert "it is left out" in finding.text


def test_dose_of_another_patient_is_left_out() -> None:
    """Whatever plan it names, it is none of that plan's doses."""
    decoded = planned(datasets.dose(PatientID="other"))
    assert decoded.case.plan_doses == ()
    assert set(codes(decoded)) == {"dose.other_patient", "plan.without_dose"}


def test_every_reason_is_told_at_once() -> None:
    """Who exports the dose again corrects all of it."""
    decoded = planned(datasets.dose(DoseUnits="RELATIVE", DoseGridScaling=0, PixelSpacing=None))
    assert set(codes(decoded)) == {"dose.units", "dose.scaling", "dose.geometry"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DoseType": "EFFECTIVE"}, "dose.effective"),
        ({"SpatialTransformOfDose": "RIGID"}, "dose.transformed"),
        ({"DoseGridScaling": 0.0075}, "dose.below_prescription"),
        ({"DoseGridScaling": 0.04}, "dose.above_prescription"),
    ],
)
def test_doubtful_dose_is_kept_and_told(changes: Mapping[str, Any], code: str) -> None:
    """2 Gy are prescribed, the hottest voxel stores 232."""
    decoded = planned(datasets.dose(**changes))
    assert codes(decoded) == {code: Severity.WARNING}
    kind = DoseKind.EFFECTIVE if "DoseType" in changes else DoseKind.PHYSICAL
    assert only_dose(decoded).kind is kind
