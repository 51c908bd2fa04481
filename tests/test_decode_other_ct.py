"""CT beside the planning CT as values: roles by attributes, contours, doses, what is left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.decode.roles import is_cbct
from handlers.values import CtRole, Severity
from tests import datasets
from tests.decoding import TARGET, check_anonymous, codes
from tests.test_decode_registrations import CT_FROM_MR, CT_POINT, MR_POINT

OTHER = "1.2.826.0.2.9"
OTHER_FRAME = "1.2.826.0.1.9"


def other_series(**given: Any) -> list[Dataset]:
    """Return a CT of an own frame, a year before the planning CT."""
    usual = {
        "SeriesInstanceUID": OTHER,
        "FrameOfReferenceUID": OTHER_FRAME,
        "AcquisitionDate": "20250301",
    }
    made = datasets.series(**{**usual, **given})
    for i, ds in enumerate(made):
        ds.SOPInstanceUID = f"{OTHER}.{i + 1}"
    return made


def decode(
    other: Sequence[Dataset],
    *,
    structure_set: Dataset | None = None,
    doses: Sequence[Dataset] = (),
    plans: Sequence[Dataset] = (),
    registrations: Sequence[Dataset] = (),
) -> DecodedCase:
    """Decode a sound case with another CT."""
    structures: Mapping[str, Dataset] = {} if structure_set is None else {OTHER: structure_set}
    decoded = decode_case(
        CaseDatasets(
            ct=datasets.series(AcquisitionDate="20260301"),
            structure_set=datasets.structure_set(TARGET),
            mr={},
            registrations=registrations,
            other_ct={OTHER: other},
            other_structure_sets=structures,
            other_doses={OTHER: doses},
            other_plans={OTHER: plans},
        )
    )
    check_anonymous([finding.text for finding in decoded.case.findings])
    return decoded


def structures_on_other(frame: str = OTHER_FRAME) -> Dataset:
    return datasets.structure_set(
        {"Stomach": [datasets.square(-30.0), datasets.square(-27.0)]}, frame_of_reference_uid=frame
    )


@pytest.mark.parametrize(
    ("given", "is_drawn", "role"),
    [
        ({}, True, CtRole.PRIOR),
        ({}, False, CtRole.FURTHER),
        ({"AcquisitionDate": "20260301"}, True, CtRole.FURTHER),
        ({"AcquisitionDate": "20260401"}, True, CtRole.FURTHER),
        ({"AcquisitionDate": ""}, True, CtRole.FURTHER),
        ({"SeriesDescription": "CBCT fx 3"}, True, CtRole.CBCT),
    ],
)
def test_role_of_another_ct(given: dict[str, Any], is_drawn: bool, role: CtRole) -> None:
    """Issue 3: prior, CBCT, and what cannot be told is a further CT."""
    decoded = decode(
        other_series(**given), structure_set=structures_on_other() if is_drawn else None
    )
    (image,) = decoded.case.other_ct
    assert (image.role, image.series_instance_uid) == (role, OTHER)
    assert decoded.case.ct.role is CtRole.PLANNING
    assert image.patient_position == decoded.case.ct.patient_position == "HFS"
    assert [ds.SOPInstanceUID for ds in decoded.other_ct[OTHER]] == [
        f"{OTHER}.{i}" for i in (1, 2, 3, 4)
    ]
    assert codes(decoded) == {"other_ct.role": Severity.INFO}


LINAC = {"DistanceSourceToPatient": "1000.0", "DistanceSourceToDetector": "1500.0"}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CBCT"]}, True),
        ({"ManufacturerModelName": "On-Board Imager"}, True),
        (LINAC, True),
        ({"ProtocolName": "Pelvis cone-beam"}, True),
        ({"SeriesDescription": "Aligned CBCT_02"}, True),
        ({"SeriesDescription": "Aligned resampled CB02"}, False),
        ({"Manufacturer": "Varian Medical Systems"}, False),
        ({**LINAC, "DistanceSourceToPatient": "645"}, False),
        ({**LINAC, "DistanceSourceToDetector": "1100"}, False),
        ({"DistanceSourceToPatient": "1000"}, False),
        ({"SeriesDescription": "CBCTX"}, False),
        ({}, False),
    ],
)
def test_cbct_is_told_by_attributes_alone(attributes: dict[str, Any], expected: bool) -> None:
    """Never guessed: a manufacturer who also sells planning software is no sign."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    assert is_cbct(ds) is expected


@pytest.mark.real_data
def test_real_cbct_is_told_from_the_real_planning_ct(real_data: Path) -> None:
    """pancreas-ct: a Varian CBCT, resampled and aligned by its publisher; a Philips CT."""
    for folder, expected in (("CBCT", True), ("CT", False)):
        path = next((real_data / "pancreas-ct" / folder).iterdir())
        assert is_cbct(dcmread(path, stop_before_pixels=True)) is expected


def test_contours_and_dose_of_a_prior_come_with_it() -> None:
    """Re-irradiation needs what was drawn and given before, in the prior's own frame."""
    dose, plan = datasets.dose(FrameOfReferenceUID=OTHER_FRAME), datasets.plan()
    decoded = decode(
        other_series(), structure_set=structures_on_other(), doses=[dose], plans=[plan]
    )
    case = decoded.case
    structures, (given,) = case.other_structure_sets[OTHER], case.other_plan_doses[OTHER]
    assert [roi.name for roi in structures.rois] == ["Stomach"]
    assert structures.frame_of_reference_uid == OTHER_FRAME
    assert given.dose.geometry.frame_of_reference_uid == OTHER_FRAME
    assert given.dose.dose_gy[2, 3, 2] == pytest.approx(2.32)
    assert given.plan is not None
    assert (given.plan.fractions, given.plan.targets[0].roi_number) == (5, 1)
    assert case.plan_doses == ()
    assert codes(decoded) == {"other_ct.role": Severity.INFO}
    assert (case.ct.taken_on, case.other_ct[0].taken_on) == ("20260301", "20250301")


@pytest.mark.parametrize(
    ("given", "severity"),
    [
        ({"AcquisitionDate": ""}, Severity.WARNING),
        ({"SeriesDescription": "CBCT fx 3"}, Severity.WARNING),
        ({"AcquisitionDate": "20260401"}, Severity.INFO),
    ],
    ids=["date not told", "cone beam", "later"],
)
def test_dose_that_is_not_known_to_be_of_an_earlier_course_is_told(
    given: dict[str, str], severity: Severity
) -> None:
    """Re-irradiation: a course that is in no sum must not be missed."""
    dose, plan = datasets.dose(FrameOfReferenceUID=OTHER_FRAME), datasets.plan()
    decoded = decode(
        other_series(**given), structure_set=structures_on_other(), doses=[dose], plans=[plan]
    )
    assert len(decoded.case.other_plan_doses[OTHER]) == 1
    assert codes(decoded) == {
        "other_ct.role": Severity.INFO,
        "other_ct.dose_not_prior": severity,
    }


def test_earlier_plan_of_another_structure_set_is_no_doubt() -> None:
    """Its dose lies where it was given, whatever was drawn; its ROI numbers are none of ours."""
    dose = datasets.dose(FrameOfReferenceUID=OTHER_FRAME)
    plan = datasets.plan(structure_set_uid="1.2.3.4")
    decoded = decode(
        other_series(), structure_set=structures_on_other(), doses=[dose], plans=[plan]
    )
    (planned,) = decoded.case.other_plan_doses[OTHER]
    assert planned.plan is not None
    assert [target.roi_number for target in planned.plan.targets] == [None]
    assert codes(decoded) == {
        "other_ct.role": Severity.INFO,
        "plan.other_structure_set": Severity.INFO,
    }


def test_findings_about_an_earlier_dose_name_its_ct() -> None:
    """Of several courses the reader must know which."""
    dose = datasets.dose(FrameOfReferenceUID=OTHER_FRAME, DoseUnits="RELATIVE")
    decoded = decode(
        other_series(), structure_set=structures_on_other(), doses=[dose], plans=[datasets.plan()]
    )
    (finding,) = (f for f in decoded.case.findings if f.code == "dose.units")
    assert finding.text.startswith("CT series …26.0.2.9: Dose ")


@pytest.mark.parametrize(
    ("other", "structure_set", "dose", "code"),
    [
        (other_series(PatientID="X"), None, None, "other_ct.other_patient"),
        (other_series()[::2] + other_series()[1:2], None, None, "ct.gap"),
        (other_series(), structures_on_other("1.2.3"), None, "structures.frame_of_reference"),
        (other_series(), None, datasets.dose(), "dose.frame_of_reference"),
        (other_series(), None, datasets.dose(DoseUnits="RELATIVE"), "dose.units"),
    ],
)
def test_unfit_part_is_left_out_and_the_case_goes_on(
    other: list[Dataset], structure_set: Dataset | None, dose: Dataset | None, code: str
) -> None:
    """A prior that is unfit never stops the planning of today."""
    if code == "ct.gap":
        other = other_series(slices=5)
        del other[2]
    doses = [] if dose is None else [dose]
    decoded = decode(other, structure_set=structure_set, doses=doses)
    assert codes(decoded)[code] is Severity.WARNING
    assert not decoded.case.other_structure_sets
    assert not decoded.case.other_plan_doses
    is_whole = code.startswith(("dose", "structures"))
    assert len(decoded.case.other_ct) == len(decoded.other_ct) == int(is_whole)


def test_registration_of_another_ct_is_read() -> None:
    """A REG of a CBCT in a frame of its own is a candidate; within the CT's frame it is not read.

    There it would be taken for the map of an MR that shares the frame.
    """
    sent = datasets.registration(
        datasets.CT_FRAME, datasets.registration_item(OTHER_FRAME, CT_FROM_MR)
    )
    (only,) = decode(other_series(), registrations=[sent]).case.registrations
    np.testing.assert_allclose(only.apply(MR_POINT), [CT_POINT])
    images = [f"{OTHER}.{i}" for i in (1, 2, 3, 4)]
    within = datasets.registration(
        datasets.CT_FRAME,
        datasets.registration_item(datasets.CT_FRAME, CT_FROM_MR, images=images),
    )
    shared = decode(other_series(FrameOfReferenceUID=datasets.CT_FRAME), registrations=[within])
    assert shared.case.registrations == ()
    assert codes(shared)["reg.unrelated"] is Severity.INFO
