"""What the review view is told of a case: volumes, outlines, roles, the MR before registration."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from handlers.decode.structures import decode_structures
from handlers.geometry import Geometry, RigidTransform
from handlers.report import metrics_document
from handlers.results import CaseResult, RegistrationStatus, ResampledMr
from handlers.sampling import mask_from_roi, resample
from handlers.values import (
    CtRole,
    DoseGrid,
    DoseKind,
    Image,
    Plan,
    PlanDose,
    Roi,
    StructureSet,
)
from handlers.viewing import OnCt, ShownVolume, view_of
from handlers.viewing.before import AROUND_MM, AS_TOLD, SENT, SHARED
from handlers.viewing.structures import contours_document, rois_document, targets_document
from node.viewing import moved_ct_of_result, on_ct_of_result
from tests.encode_cases import CT_FRAME, MR_FRAME, MR_SERIES, build_case, written
from tests.picture_cases import case_of, grid_of, registration_of

SHIFT_MM = (10.0, -6.25, 9.0)
"""From the MR's coordinates to the CT's, in whole voxels: what registration found."""


def moved(position: str = "HFS", *, mr_frame: str = MR_FRAME) -> CaseResult:
    """Return a case whose MR is bright in a ball at the target, and lay `SHIFT_MM` beside it."""
    grid = grid_of(position)
    result = case_of(grid, status=RegistrationStatus.PASS)
    matrix = grid.patient_from_index.copy()
    matrix[:3, 3] -= np.array(SHIFT_MM)
    own = Geometry(mr_frame, matrix, grid.shape)
    voxels = np.where(own.distances_mm(-np.array(SHIFT_MM)) < 12.0, 800.0, 100.0)
    source = Image(own, voxels.astype(np.float32), "MR", MR_SERIES, "t1 vibe", "T1")
    found = RigidTransform.from_parameters(
        rotation_deg=(0, 0, 0),
        translation_mm=SHIFT_MM,
        to_frame_uid=CT_FRAME,
        from_frame_uid=mr_frame,
    )
    registration = replace(registration_of(RegistrationStatus.PASS), ct_from_mr=found)
    image, valid = resample(source, grid, found)
    return replace(
        result,
        case=replace(result.case, mr=(source,)),
        registrations=(registration,),
        resampled=(ResampledMr(image, valid, registration),),
    )


def volumes_of(result: CaseResult) -> Mapping[str, ShownVolume]:
    metrics = metrics_document(result, {})
    view = view_of(
        result.case,
        on_ct_of_result(result),
        moved_ct_of_result(result),
        result.case.structure_set,
        metrics,
    )
    return {volume.document["key"]: volume for volume in view.volumes}


def values_of(volume: ShownVolume) -> np.ndarray:
    told = volume.document
    return np.asarray(volume.stored * told["slope"] + told["intercept"])


def test_ct_when_shown_is_in_hu() -> None:
    """Whole HU, and nothing beyond what sixteen bits hold."""
    grid = grid_of()
    voxels = np.linspace(-1024.4, 70000, int(np.prod(grid.shape)), dtype=np.float32)
    result = case_of(grid, voxels=voxels.reshape(grid.shape), status=None)
    shown = volumes_of(result)["ct"]
    expected = np.minimum(np.rint(result.case.ct.voxels), 32767)
    assert np.array_equal(shown.stored, expected.astype(np.int16))
    assert shown.document["windows"][0] == {"name": "abdomen", "center": 40.0, "width": 400.0}


def test_mr_when_shown_keeps_its_values_to_a_step() -> None:
    """What is read at the cross-hair is the MR's own value; where there is none stands 0."""
    result = build_case().result
    for number, item in enumerate(result.resampled, start=1):
        shown = volumes_of(result)[f"mr{number}"]
        inside = item.valid.inside
        assert np.array_equal(shown.stored > 0, inside)
        off = np.abs(values_of(shown) - item.image.voxels)[inside]
        assert off.max() <= 0.51 * shown.document["slope"]
        low, high = item.image.voxels[inside].min(), item.image.voxels[inside].max()
        assert shown.document["slope"] == pytest.approx((high - low) / 4094)
        assert shown.document["status"] == ("pass", "warn")[number - 1]


def test_mr_of_one_value_when_shown_is_that_value() -> None:
    """An empty range divides by nothing."""
    result = case_of(grid_of())
    (item,) = result.resampled
    flat = replace(item.image, voxels=np.full(item.image.geometry.shape, 7.0, np.float32))
    result = replace(result, resampled=(replace(item, image=flat),))
    assert np.allclose(values_of(volumes_of(result)["mr1"]), 7.0)


@pytest.mark.parametrize("position", ["HFS", "HFP"])
def test_mr_before_when_shown_lies_where_its_coordinates_say(position: str) -> None:
    """Before and after: the same ball, as far apart as the registration moved it."""
    result = moved(position)
    shown = volumes_of(result)
    grid = result.case.ct.geometry
    before = shown["before1"].document
    assert (before["of"], before["placed_by"]) == ("mr1", AS_TOLD)
    block = grid.crop(tuple(before["start"]), tuple(before["shape"]))
    centres = []
    for geometry, volume in ((grid, shown["mr1"]), (block, shown["before1"])):
        bright = np.argwhere(values_of(volume) > 450.0)
        centres.append(geometry.points_from_indices(bright).mean(axis=0))
    assert np.allclose(centres[0], 0.0, atol=0.2)
    assert np.allclose(centres[0] - centres[1], SHIFT_MM, atol=0.2)


def test_mr_before_when_a_registration_was_received_lies_as_it_says() -> None:
    """What came with the images is what people saw before."""
    result = moved()
    sent = RigidTransform.from_parameters(
        rotation_deg=(0, 0, 0),
        translation_mm=(4.0, 0.0, 0.0),
        to_frame_uid=CT_FRAME,
        from_frame_uid=MR_FRAME,
    )
    result = replace(result, case=replace(result.case, registrations=(sent,)))
    shown = volumes_of(result)["before1"]
    assert shown.document["placed_by"] == SENT
    told = shown.document
    block = result.case.ct.geometry.crop(tuple(told["start"]), tuple(told["shape"]))
    bright = np.argwhere(values_of(shown) > 450.0)
    middle = block.points_from_indices(bright).mean(axis=0)
    assert np.allclose(middle, np.array((4.0, 0.0, 0.0)) - SHIFT_MM, atol=0.2)


def test_mr_before_when_in_the_frame_of_the_ct_lies_by_it() -> None:
    """One frame of reference is what was believed before."""
    assert volumes_of(moved(mr_frame=CT_FRAME))["before1"].document["placed_by"] == SHARED


def test_mr_before_when_it_is_far_away_is_left_out() -> None:
    """Numbers of another frame may mean any place: nothing is shown rather than nothing black."""
    result = moved()
    (source,) = result.case.mr
    matrix = source.geometry.patient_from_index.copy()
    matrix[:3, 3] += 5000.0
    far = replace(source, geometry=Geometry(MR_FRAME, matrix, source.geometry.shape))
    result = replace(result, case=replace(result.case, mr=(far,)))
    assert set(volumes_of(result)) == {"ct", "mr1"}


def test_block_around_targets_when_shown_holds_them_with_their_surroundings() -> None:
    """Around the targets only, and never beyond the CT."""
    result = moved()
    told = volumes_of(result)["before1"].document
    grid = result.case.ct.geometry
    block = grid.crop(tuple(told["start"]), tuple(told["shape"]))
    corners = block.corners_mm()
    wanted = 12.0 + AROUND_MM
    reached = grid.corners_mm()
    for axis in range(3):
        assert corners[:, axis].min() <= max(-wanted, reached[:, axis].min()) + 1e-6
        assert corners[:, axis].max() >= min(wanted, reached[:, axis].max()) - 1e-6


@cache
def structure_set_of(is_prone_oblique: bool) -> tuple[CaseResult, StructureSet]:
    """Return a result and its structure set as a receiver reads it."""
    case = build_case(is_prone_oblique=is_prone_oblique)
    dataset = written(case, until="RTSTRUCT.dcm")["RTSTRUCT.dcm"]
    slices = {str(ds.SOPInstanceUID): i for i, ds in enumerate(case.sources.ct)}
    decoded = decode_structures(dataset, case.result.case.ct.geometry, slices).structure_set
    assert decoded is not None
    return case.result, decoded


@pytest.mark.parametrize("is_prone_oblique", [False, True])
def test_outlines_when_told_rasterize_to_the_masks(is_prone_oblique: bool) -> None:
    """The outlines shown are those of the result set: drawn and refined, to a voxel."""
    result, structures = structure_set_of(is_prone_oblique)
    geometry = result.case.ct.geometry
    told = contours_document(structures, geometry)["contours"]
    rois = {roi["name"]: roi for roi in rois_document(structures, metrics_document(result, {}))}
    target = result.targets[0]
    assert target.refinement.refined is not None
    for name, mask in (
        (target.source_roi.name, target.drawn),
        (str(target.refined_roi_name), target.refinement.refined),
    ):
        number = rois[name]["number"]
        inside = np.zeros(geometry.shape, dtype=bool)
        for index, points in told[str(number)]:
            flat = geometry.indices_from_points(np.array(points).reshape(-1, 3))
            assert np.abs(flat[:, 0] - index).max() < 0.02
            inside[index] ^= even_odd(flat[:, 1:], geometry.shape[1:])
        assert np.count_nonzero(inside ^ mask.inside) <= 2


def even_odd(ring: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which pixel centres lie in a ring of (row, column)."""
    inside = np.zeros(shape, dtype=bool)
    columns = np.arange(shape[1])
    for (r1, c1), (r2, c2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        for row in range(shape[0]):
            if (r1 <= row) != (r2 <= row):
                inside[row] ^= columns > c1 + (row - r1) * (c2 - c1) / (r2 - r1)
    return inside


def test_rois_when_told_have_their_roles_and_targets() -> None:
    """Which outline is drawn, which a proposal, which an organ."""
    result, structures = structure_set_of(False)
    rois = {r["name"]: r for r in rois_document(structures, metrics_document(result, {}))}
    refined = str(result.targets[0].refined_roi_name)
    assert {name: (roi["role"], roi["target"]) for name, roi in rois.items()} == {
        "GTVn1": ("drawn", 3),
        "GTVp": ("drawn", 5),
        "Größe_Darm": ("organ", None),
        refined: ("refined", 3),
    }
    assert len({tuple(rois[name]["color"]) for name in ("GTVn1", refined, "Größe_Darm")}) == 3


def test_rois_that_enclose_the_patient_when_told_are_no_organs() -> None:
    """An outline of the body must not hide under the organs."""
    (contour, *_) = case_of(grid_of()).case.structure_set.rois[0].contours
    rois = (
        Roi(1, "External", "EXTERNAL", (contour,)),
        Roi(2, "PTV2", "PTV", (contour,)),
        Roi(3, "Liver", "", (contour,)),
        Roi(4, "never drawn", "ORGAN", ()),
    )
    structures = StructureSet("1.2", CT_FRAME, "PLAN", rois)
    told = rois_document(structures, {"targets": []})
    assert [(roi["name"], roi["role"]) for roi in told] == [
        ("External", "body"),
        ("PTV2", "other"),
        ("Liver", "organ"),
    ]


def test_targets_when_told_lie_where_they_are_drawn() -> None:
    """A jump to a target ends in it."""
    result, structures = structure_set_of(True)
    geometry = result.case.ct.geometry
    told = targets_document(structures, metrics_document(result, {}), geometry)
    assert [target["name"] for target in told] == ["GTVn1", "GTVp"]
    for target, roi in zip(told, structures.rois, strict=False):
        inside = mask_from_roi(roi, geometry).inside
        voxel = np.rint(geometry.indices_from_points(target["middle_mm"])[0]).astype(int)
        assert inside[tuple(voxel)]
    assert (told[0]["refined"], told[1]["refined"]) == (result.targets[0].refined_roi_name, None)


def test_mr_of_a_result_when_listed_names_its_registration() -> None:
    """The verdict beside a picture is that of its own registration."""
    result = build_case().result
    listed: list[Any] = [(each.registration, each.image) for each in on_ct_of_result(result)]
    assert listed == [(n, item.image) for n, item in enumerate(result.resampled, start=1)]
    assert isinstance(on_ct_of_result(result)[0], OnCt)


def with_other_ct(result: CaseResult, role: CtRole, status: RegistrationStatus) -> CaseResult:
    """Return a result with a CT that lay `SHIFT_MM` beside, bright in a ball at the target."""
    matrix = result.case.ct.geometry.patient_from_index.copy()
    matrix[:3, 3] -= np.array(SHIFT_MM)
    own = Geometry("1.9.9", matrix, result.case.ct.geometry.shape)
    voxels = np.where(own.distances_mm(-np.array(SHIFT_MM)) < 12.0, 3000.0, -1000.0)
    voxels[0] = -3024.0  # what some scanners fill with
    other = Image(
        own, voxels.astype(np.float32), "CT", "1.9.8", "head", role=role, taken_on="20250311"
    )
    found = RigidTransform.from_parameters(
        rotation_deg=(0, 0, 0),
        translation_mm=SHIFT_MM,
        to_frame_uid=CT_FRAME,
        from_frame_uid="1.9.9",
    )
    registration = replace(
        registration_of(status),
        ct_from_mr=found,
        leading_series_uid="1.9.8",
        series_uids=("1.9.8",),
    )
    return replace(
        result,
        case=replace(result.case, other_ct=(other,)),
        registrations=(*result.registrations, registration),
    )


@pytest.mark.parametrize(
    ("role", "label"),
    [
        (CtRole.CBCT, "CBCT of 2025-03-11: head"),
        (CtRole.PRIOR, "Earlier CT of 2025-03-11: head"),
        (CtRole.FURTHER, "Further CT of 2025-03-11: head"),
    ],
)
def test_other_ct_when_shown_lies_as_its_registration_says(role: CtRole, label: str) -> None:
    """Issue 8: of a CBCT or an earlier CT, in HU, after and before registration, as of an MR."""
    result = with_other_ct(moved(), role, RegistrationStatus.PASS)
    shown = volumes_of(result)
    told = shown["other1"].document
    assert (told["kind"], told["label"], told["registration"]) == ("other", label, 2)
    assert told["windows"][0]["name"] == "abdomen"
    values = values_of(shown["other1"])
    grid = result.case.ct.geometry
    bright = np.argwhere(np.abs(values - 3000.0) < 1.0)
    assert np.allclose(grid.points_from_indices(bright).mean(axis=0), 0.0, atol=0.2)
    assert values[shown["other1"].stored > 0].min() == -1024.0
    (before,) = (v for v in shown.values() if v.document.get("of") == "other1")
    assert before.document["key"] == "before2", "no number is given twice"
    block = grid.crop(tuple(before.document["start"]), tuple(before.document["shape"]))
    apart = np.argwhere(values_of(before) > 2000.0)
    middle = block.points_from_indices(apart).mean(axis=0)
    assert np.allclose(middle, -np.array(SHIFT_MM), atol=0.3)


def test_other_ct_when_its_registration_failed_is_not_shown() -> None:
    """As an MR whose registration failed: a wrong place is worse than none."""
    result = with_other_ct(moved(), CtRole.CBCT, RegistrationStatus.FAIL)
    assert "other1" not in volumes_of(result)


def test_dose_when_shown_is_in_gray_where_it_was_planned() -> None:
    """Issue 8: to 0.01 Gy at the cross-hair; beyond the dose grid nothing is known."""
    result = moved()
    grid = result.case.ct.geometry
    steps = np.diag([6.0, 6.0, 6.0, 1.0])
    steps[:3, 3] = -24.0
    own = Geometry(CT_FRAME, steps, (9, 9, 9))
    centres = own.points_from_indices(np.argwhere(np.ones(own.shape)))
    gray = (20.0 + 0.25 * centres[:, 0]).reshape(own.shape)
    dose = DoseGrid(own, gray.astype(np.float32), "1.7.7")
    result = replace(result, case=replace(result.case, plan_doses=(PlanDose(dose, ("1.7.7",)),)))
    shown = volumes_of(result)["dose1"]
    told = shown.document
    assert (told["kind"], told["label"], told["prescribed_gy"]) == ("dose", "Dose 1", 0.0)
    assert told["largest_gy"] == pytest.approx(float(gray.max()))
    block = grid.crop(tuple(told["start"]), tuple(told["shape"]))
    at = np.argwhere(shown.stored > 0)
    points = block.points_from_indices(at)
    assert np.abs(points).max() <= 27.0 + 1e-6
    inner = np.abs(points).max(axis=1) <= 24.0
    expected = 20.0 + 0.25 * points[inner, 0]
    assert np.abs(values_of(shown)[tuple(at[inner].T)] - expected).max() <= 0.0051


def test_dose_when_it_lies_beside_the_ct_is_not_shown() -> None:
    """A dose grid that meets no voxel of the CT has nothing to be laid over."""
    result = moved()
    steps = np.diag([6.0, 6.0, 6.0, 1.0])
    steps[:3, 3] = 5000.0
    dose = DoseGrid(Geometry(CT_FRAME, steps, (3, 3, 3)), np.ones((3, 3, 3), np.float32), "1.7.7")
    result = replace(result, case=replace(result.case, plan_doses=(PlanDose(dose, ("1.7.7",)),)))
    assert "dose1" not in volumes_of(result)


def test_doses_of_plans_with_one_label_when_shown_are_told_apart() -> None:
    """Physical and effective dose of one plan are both in Gy; the number is that of the figures."""
    result = moved()
    gray = np.ones((9, 9, 9), np.float32)
    steps = np.diag([6.0, 6.0, 6.0, 1.0])
    steps[:3, 3] = -24.0
    own = Geometry(CT_FRAME, steps, gray.shape)
    plan = Plan("1.7.1", "SBRT")
    doses = tuple(
        PlanDose(DoseGrid(own, gray, uid, kind=kind), (uid,), plan)
        for uid, kind in (("1.7.7", DoseKind.PHYSICAL), ("1.7.8", DoseKind.EFFECTIVE))
    )
    shown = volumes_of(replace(result, case=replace(result.case, plan_doses=doses)))
    labels = [shown[key].document["label"] for key in ("dose1", "dose2")]
    assert labels == ["Plan 1: SBRT", "Plan 2: SBRT (effective dose)"]
