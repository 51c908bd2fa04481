"""Further plans of the phantom: an earlier course with its truth, a second plan, doses of beams."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.geometry import Geometry
from handlers.sampling import mask_from_roi
from handlers.values import CtRole, DoseGrid, StructureSet
from node.assembly import StoredInstance
from node.config import Protocol
from node.header import header_from_file
from node.other_ct import OtherCt
from node.phantom import PhantomOptions, PhantomStudy, export, make_study
from node.phantom.courses import BEAMS, PriorCourse
from tests.decoding import codes
from tests.stored_instances import START, look

Points = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def plain() -> PhantomStudy:
    return make_study(PhantomOptions(size="tiny", contrasts=(), seed=5))


@pytest.fixture(scope="module")
def full() -> PhantomStudy:
    """The same patient with all that can be asked for."""
    return make_study(
        PhantomOptions(
            size="tiny", contrasts=(), seed=5, prior=True, dose_by_beam=True, second_plan=True
        )
    )


@pytest.fixture(scope="module")
def decoded(full: PhantomStudy) -> DecodedCase:
    """The case as a node would read it."""
    assert full.plan is not None
    assert full.second is not None
    prior = prior_of(full)
    series = str(prior.ct[0].SeriesInstanceUID)
    return decode_case(
        CaseDatasets(
            ct=full.ct,
            structure_set=full.structure_set,
            mr={},
            doses=[*full.beam_doses, full.second[1]],
            plans=[full.plan, full.second[0]],
            other_ct={series: prior.ct},
            other_structure_sets={series: prior.structure_set},
            other_doses={series: [prior.dose]},
            other_plans={series: [prior.plan]},
        )
    )


def prior_of(study: PhantomStudy) -> PriorCourse:
    assert study.prior is not None
    return study.prior


def centre_of(structures: StructureSet, name: str, geometry: Geometry) -> tuple[Points, float]:
    """Return the centroid of an ROI in LPS mm and its volume in cm3."""
    (roi,) = (one for one in structures.rois if one.name == name)
    mask = mask_from_roi(roi, geometry)
    points = geometry.points_from_indices(np.argwhere(mask.inside))
    return points.mean(axis=0), mask.volume_cm3


def hottest_mm(dose: DoseGrid) -> Points:
    """Return the centroid of all voxels with at least 95 % of the largest dose."""
    hot = np.argwhere(dose.dose_gy >= 0.95 * dose.dose_gy.max())
    return dose.geometry.points_from_indices(hot).mean(axis=0)


def test_further_plans_change_nothing_of_the_rest(plain: PhantomStudy, full: PhantomStudy) -> None:
    """The CT and what is drawn on it are the same; no object bears the UID of another."""
    assert (*plain.ct, plain.structure_set) == (*full.ct, full.structure_set)
    count = len(full.ct)
    uids = [str(ds.SOPInstanceUID) for study in (plain, full) for ds in study.instances()]
    assert len(uids) == (count + 3) + (count + 1) + (1 + BEAMS) + 2 + (count + 3)
    assert len(set(uids)) == len(uids) - (count + 1)


def test_earlier_ct_shows_the_patient_where_the_truth_says(
    full: PhantomStudy, decoded: DecodedCase
) -> None:
    """Sampled through the known map it is the planning CT but for noise; as it lies it is not."""
    ct, (earlier,) = decoded.case.ct, decoded.case.other_ct
    assert earlier.role is CtRole.PRIOR
    assert (ct.taken_on, earlier.taken_on) == ("20250311", "20230214")
    inner = np.stack(np.meshgrid(*(np.arange(8, n - 8) for n in ct.geometry.shape)), -1)
    indices = inner.reshape(-1, 3)
    points, here = ct.geometry.points_from_indices(indices), ct.voxels[tuple(indices.T)]

    def likeness(there: Points) -> float:
        at = earlier.geometry.indices_from_points(there)
        found = ndimage.map_coordinates(earlier.voxels, at.T, order=1, mode="nearest")
        return float(np.corrcoef(here, found)[0, 1])

    assert likeness(prior_of(full).ct_from_prior.inverse().apply(points)) > 0.95
    assert likeness(points) < 0.85


@pytest.mark.parametrize("organ", ["Liver", "Kidney_R", "Duodenum"])
def test_organs_of_the_earlier_ct_are_drawn_where_the_truth_says(
    organ: str, full: PhantomStudy, decoded: DecodedCase
) -> None:
    """Each corner, sent to the planning CT's frame, lies on the organ's surface there."""
    (earlier,) = decoded.case.other_ct
    drawn = decoded.case.other_structure_sets[earlier.series_instance_uid]
    (roi,) = (one for one in drawn.rois if one.name == organ)
    corners = np.vstack([contour.points for contour in roi.contours])
    there = prior_of(full).ct_from_prior.apply(corners).astype(np.float32)
    solid = full.patient.in_ct(full.patient.anatomy.organs[organ])
    apart_mm = np.abs(solid.distance(*there.T))
    assert len(corners) > 50
    assert np.quantile(apart_mm, 0.95) < 0.5
    # where they stand, they do not
    assert np.quantile(np.abs(solid.distance(*corners.astype(np.float32).T)), 0.5) > 2.0


def test_earlier_course_is_read_with_its_prescription(
    full: PhantomStudy, decoded: DecodedCase
) -> None:
    """50.4 Gy in 28 fractions to a target beside the node; the hottest dose lies in its middle."""
    (earlier,) = decoded.case.other_ct
    (planned,) = decoded.case.other_plan_doses[earlier.series_instance_uid]
    assert planned.plan is not None
    assert (planned.plan.label, planned.plan.fractions) == ("First", 28)
    (target,) = planned.plan.targets
    drawn = decoded.case.other_structure_sets[earlier.series_instance_uid]
    name = next(roi.name for roi in drawn.rois if roi.number == target.roi_number)
    assert (name, target.prescription_gy) == ("CTV_5040", 50.4)
    centre, volume_cm3 = centre_of(drawn, name, earlier.geometry)
    # an ellipsoid of 17, 15 and 19 mm, 20 mm to the right of, 8 behind and 16 above the node
    assert volume_cm3 == pytest.approx(4 / 3 * np.pi * 1.7 * 1.5 * 1.9, rel=0.06)
    offset = prior_of(full).ct_from_prior.apply(centre)[0] - full.target_centre_mm
    np.testing.assert_allclose(offset, (-20.0, 8.0, 16.0), atol=1.0)
    assert np.linalg.norm(hottest_mm(planned.dose) - centre) < 2.0
    assert 1.2 * 50.4 < planned.dose.dose_gy.max() < 1.35 * 50.4


def test_doses_of_the_beams_sum_up_to_the_plan_s(plain: PhantomStudy, decoded: DecodedCase) -> None:
    """Each is rounded to 1e-6 Gy for itself, and each is a part that no other beam has."""
    assert plain.dose is not None
    assert plain.plan is not None
    whole = decode_case(
        CaseDatasets(plain.ct, plain.structure_set, {}, [plain.dose], [plain.plan])
    ).case.plan_doses[0]
    summed = decoded.case.plan_doses[1]
    assert len(summed.dose_uids) == BEAMS
    assert summed.dose.geometry.coincides_with(whole.dose.geometry)
    np.testing.assert_allclose(summed.dose.dose_gy, whole.dose.dose_gy, atol=1e-5)
    told = {code for code in codes(decoded) if code.startswith(("dose", "plan"))}
    assert told == {"dose.summed"}


def test_second_plan_irradiates_the_node_as_it_is(decoded: DecodedCase) -> None:
    """As planned on the MR: the hot volume is smaller than that about the drawn target."""
    second, first = decoded.case.plan_doses
    assert first.plan is not None
    assert second.plan is not None
    assert [first.plan.label, second.plan.label] == ["SBRT", "SBRT MR"]
    assert first.plan.structure_set_uid == second.plan.structure_set_uid
    hot = [np.count_nonzero(one.dose.dose_gy >= 40.0) for one in (first, second)]
    assert 0.4 * hot[0] < hot[1] < 0.9 * hot[0]


@pytest.fixture(scope="module")
def written(full: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("courses") / "out"
    export.write_study(full, out)
    return out


def test_earlier_course_is_written_beside_the_study(full: PhantomStudy, written: Path) -> None:
    """With its truth, by which others can judge."""
    folder = written / "study"
    assert len(list(full.instances())) == len(list(folder.rglob("*.dcm")))
    assert {path.name for path in folder.glob("*.dcm")} == {
        *(f"RTDOSE_BEAM_{n}.dcm" for n in range(1, BEAMS + 1)),
        *("RTSTRUCT.dcm", "RTPLAN.dcm", "RTPLAN_2.dcm", "RTDOSE_2.dcm"),
        *("PRIOR_RTSTRUCT.dcm", "PRIOR_RTPLAN.dcm", "PRIOR_RTDOSE.dcm"),
    }
    truth = json.loads((written / "truth" / "truth.json").read_text())
    np.testing.assert_allclose(
        truth["prior"]["ct_from_prior"], prior_of(full).ct_from_prior.matrix, atol=1e-9
    )


def test_node_joins_each_plan_and_dose_to_its_ct(full: PhantomStudy, written: Path) -> None:
    """From the headers of the files alone: who refers to whom."""
    held = [
        StoredInstance(header_from_file(path), path.name, path.name, START, False, 60.0)
        for path in sorted((written / "study").rglob("*.dcm"))
    ]
    prior = prior_of(full)
    protocols = [Protocol(name="liver", targets=("GTVn",))]
    drawn_uid = full.structure_set.SOPInstanceUID
    (case,) = (c for c in look(held, protocols=protocols) if c.structure_set_uid == drawn_uid)
    assert full.plan is not None
    assert full.second is not None
    assert set(case.plan_uids) == {full.plan.SOPInstanceUID, full.second[0].SOPInstanceUID}
    beams = {ds.SOPInstanceUID for ds in full.beam_doses}
    assert set(case.dose_uids) == {*beams, full.second[1].SOPInstanceUID}
    assert case.other_ct == (
        OtherCt(
            prior.ct[0].SeriesInstanceUID,
            prior.structure_set.SOPInstanceUID,
            (prior.dose.SOPInstanceUID,),
            (prior.plan.SOPInstanceUID,),
        ),
    )
    assert case.findings == ()


def test_further_plans_need_a_dose() -> None:
    """A phantom without dose has no plan that another could stand beside."""
    with pytest.raises(ValueError, match="need with_dose"):
        PhantomOptions(with_dose=False, prior=True)
