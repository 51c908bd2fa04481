"""Clinical data of others: what a case is made of there, and what is refused."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from handlers.decode import CaseDatasets, decode_case
from handlers.sampling import mask_from_roi
from tests.decoding import check_rejected, codes, lost_contours


def read(folder: Path) -> list[Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the publisher's values are longer than their VR allows
        return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_sarcoma_cases_are_read(real_data: Path) -> None:
    """All ten are cases; the tenth's ROI names another frame of reference than its set."""
    contradictory = []
    for patient in sorted((real_data / "sarcoma-ct-mr").glob("STS_*")):
        mr = read(patient / "MR_T1" / "image")
        parts = (read(patient / "CT" / "image"), read(patient / "CT" / "mask")[0])
        decoded = decode_case(CaseDatasets(*parts, {mr[0].SeriesInstanceUID: mr}))
        if "structures.contradiction" in codes(decoded):
            contradictory.append(patient.name)
        assert [image.contrast for image in decoded.case.mr] == ["T1"]
        assert lost_contours(decoded) == {}
        target = mask_from_roi(decoded.case.structure_set.rois[0], decoded.case.ct.geometry)
        assert 40 < target.volume_cm3 < 2500
        assert set(codes(decoded)) <= {
            "contours.dangling_reference",
            "mr.contrast_from_description",
            "structures.contradiction",
        }
    assert contradictory == ["STS_046"]


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
    assert lost_contours(decoded) == {1: 8}
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
    structure_set, plan = (pydicom.dcmread(folder / f"{n}.dcm") for n in ("rtss", "rtplan"))
    check_rejected("one slice only", ct=[ct], structure_set=structure_set, doses=[dose])
    stack = [copy.deepcopy(ct) for _ in range(2)]
    stack[1].ImagePositionPatient[2] += 3
    decoded = decode_case(CaseDatasets(stack, structure_set, {}, [dose], [plan]))
    (planned,) = decoded.case.plan_doses
    assert planned.dose.geometry.shape == (98, 129, 194)
    assert planned.dose.geometry.spacing_mm == pytest.approx((3.0, 2.5, 2.5))
    assert planned.plan is not None
    assert planned.plan.fractions == 7
    # beside it the plan tells the dose of a calculation point, which is no prescription
    assert [target.prescription_gy for target in planned.plan.targets] == [14.0]
    assert not any(code.startswith(("dose", "plan")) for code in codes(decoded))
    stored = np.frombuffer(dose.PixelData, dtype="<u4").reshape(98, 129, 194)
    assert planned.dose.dose_gy[40, 60, 90] == pytest.approx(stored[40, 60, 90] * 1.4e-5)
    assert "contours.without_slice" in codes(decoded)
