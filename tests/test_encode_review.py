"""What a refinement tells of itself, read back by highdicom: evidence in the report, probabilities.

Truth is worked out by hand on four points of a surface, or is the field that went in.
"""

from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from handlers.encode import encode_result_set
from handlers.errors import EncodingError
from handlers.results import DerivedTarget, MoveCause, SurfaceMoves, VolumeChange, VoxelField
from handlers.values import Mask
from tests.encode_cases import (
    CT_SERIES,
    SHAPE,
    EncodeCase,
    build_case,
    files_of,
    report_of,
    texts_of,
    written,
)

BOTH = frozenset({"probability-seg", "probability-map"})
START = (3, 12, 8)
BLOCK = (8, 21, 19)


def field(case: EncodeCase, *, seed: int = 5) -> VoxelField:
    """Return a probability on a block of the CT: noise, true zeros and ones, two empty slices."""
    values = np.random.default_rng(seed).uniform(0, 1, BLOCK).astype(np.float32)
    values[0, 0, :3] = (0.0, 1.0, 0.5)
    values[[1, 7]] = 0.001
    grid = case.result.case.ct.geometry.crop(START, BLOCK)
    return VoxelField(grid, START, values)


def with_evidence(case: EncodeCase, *, review: frozenset[str] = BOTH) -> EncodeCase:
    """Return the case with all that a refinement may tell: a refined target and an abstention."""
    refined, abstained = case.result.targets
    grid = case.result.case.ct.geometry
    few = np.zeros(SHAPE, dtype=bool)
    few[5, 20:24, 10:15] = True
    moves = SurfaceMoves(
        np.zeros((8, 3)),
        np.array([-3.0, -1.0, -0.5, 0.25, 0.0, 0.0, 0.75, 1.5]),
        (*[MoveCause.VESSEL] * 2, MoveCause.FAT, *[None] * 3, *[MoveCause.TARGET_SIGNAL] * 2),
    )
    refinement = replace(
        refined.refinement,
        probability=field(case),
        moves=moves,
        changes=(
            VolumeChange(MoveCause.VESSEL, "Größe_Darm", 1.25, 0.0),
            VolumeChange(MoveCause.TARGET_SIGNAL, "", 0.0, 0.5),
            VolumeChange(MoveCause.FAT, "", 0.0625, 0.125),
        ),
        confidence=0.8125,
        found={"zVessel_MR": Mask(grid, few)},
    )
    derived = DerivedTarget("PTVn1", "PTV", Mask(grid, few), "GTVn1_CT1MR1 with 5 mm.")
    targets = (
        replace(refined, refinement=refinement, derived=(derived,)),
        replace(
            abstained,
            refinement=replace(abstained.refinement, probability=field(case, seed=6)),
        ),
    )
    return case.with_result(targets=targets, review=review)


@pytest.fixture(scope="module", params=[False, True], ids=["axial", "prone-oblique"])
def case(request: pytest.FixtureRequest) -> EncodeCase:
    """Both cases."""
    return with_evidence(build_case(is_prone_oblique=request.param))


@pytest.fixture(scope="module")
def objects(case: EncodeCase) -> dict[str, Dataset]:
    """The result set, as received."""
    return written(case)


@pytest.fixture(scope="module")
def report(objects: dict[str, Dataset]) -> Any:
    """The report as highdicom reads it."""
    return hd.sr.Comprehensive3DSR.from_dataset(objects["SR.dcm"])


def modifiers_of(measurement: Any) -> tuple[str, ...]:
    """Return the concept modifiers of a measurement: code meanings and texts."""
    told = []
    for item in measurement[0].get("ContentSequence", None) or ():
        if item.RelationshipType == "HAS CONCEPT MOD":
            is_code = item.ValueType == "CODE"
            told.append(item.ConceptCodeSequence[0].CodeMeaning if is_code else item.TextValue)
    return tuple(told)


# --- evidence in the report -----------------------------------------------------------------------


def test_evidence_comes_back_from_the_report_by_cause(report: Any) -> None:
    """Issue 5, 2: volumes, shares and ways by cause, each with unit, cause and structure."""
    group = report.content.get_volumetric_roi_measurement_groups()[1]
    told = [
        (m.name.value, m.unit.value, *modifiers_of(m), m.value)
        for m in group.get_measurements()
        if m.name.value in EVIDENCE_CODES
    ]
    signal = "Tissue that looks like the target"
    assert told == [
        ("PROPOSAL_CONF", "1", 0.8125),
        ("REMOVED_BY", "cm3", "Blood Vessel", "Größe_Darm", 1.25),
        ("ADDED_BY", "cm3", signal, 0.5),
        ("REMOVED_BY", "cm3", "Fat", 0.0625),
        ("ADDED_BY", "cm3", "Fat", 0.125),
        # by hand: -3 and -1 lie beyond half a millimetre inward, 0.75 and 1.5 outward, of eight
        ("SURF_IN_MAX", "mm", 3.0),
        ("SURF_OUT_MAX", "mm", 1.5),
        ("SURF_MEAN", "mm", 7.0 / 8),
        ("SURF_IN", "1", 0.25),
        ("SURF_OUT", "1", 0.25),
        ("SURF_BY", "1", "Blood Vessel", 0.25),
        ("SURF_MEAN_BY", "mm", "Blood Vessel", -2.0),
        ("SURF_BY", "1", signal, 0.25),
        ("SURF_MEAN_BY", "mm", signal, 1.125),
        ("SURF_BY", "1", "Fat", 0.125),
        ("SURF_MEAN_BY", "mm", "Fat", -0.5),
        ("FOUND", "cm3", "zVessel_MR", pytest.approx(20 * 2.5 * 1.25 * 1.5 / 1000)),
    ]


EVIDENCE_CODES = {
    *("PROPOSAL_CONF", "REMOVED_BY", "ADDED_BY", "FOUND"),
    *("SURF_IN_MAX", "SURF_OUT_MAX", "SURF_MEAN", "SURF_IN", "SURF_OUT"),
    *("SURF_BY", "SURF_MEAN_BY"),
}


def test_every_cause_has_a_code_of_its_own_in_the_report() -> None:
    """No cause is told by the name of another."""
    case = with_evidence(build_case())
    target = case.result.targets[0]
    changes = tuple(VolumeChange(cause, "", 0.5, 0.0) for cause in MoveCause)
    target = replace(target, refinement=replace(target.refinement, changes=changes))
    report: Any = hd.sr.Comprehensive3DSR.from_dataset(
        report_of(case.with_result(targets=(target,)))
    )
    group = report.content.get_volumetric_roi_measurement_groups()[1]
    told = [modifiers_of(m) for m in group.get_measurements() if m.name.value == "REMOVED_BY"]
    assert len(set(told)) == len(told) == len(MoveCause)


def test_further_targets_have_a_group_of_their_own_in_the_report(report: Any) -> None:
    """Issue 5, 5: what the protocol made from a target is told with volume and origin."""
    groups = {g.tracking_identifier: g for g in report.content.get_image_measurement_groups()}
    (volume,) = groups["PTVn1"].get_measurements()
    assert (volume.name, volume.unit) == (codes.SCT.Volume, codes.UCUM.CubicCentimeter)
    assert volume.value == pytest.approx(20 * 2.5 * 1.25 * 1.5 / 1000)
    texts = texts_of(groups["PTVn1"][0])
    assert "GTVn1_CT1MR1 with 5 mm." in texts
    assert "Proposal, not approved: PTVn1 (PTV) of the new structure set." in texts


# --- probabilities --------------------------------------------------------------------------------


def full(case: EncodeCase, index: int) -> np.ndarray:
    """Return the probability of a target on the whole CT."""
    probability = case.result.targets[index].refinement.probability
    assert probability is not None
    values = np.zeros(SHAPE, dtype=np.float32)
    values[probability.block] = probability.values
    return values


def test_probabilities_are_written_only_on_request() -> None:
    """Issue 5, 6: on request; each kind by itself, numbered like its target."""
    seg, maps = ["PSEG_1.dcm", "PSEG_2.dcm"], ["PM_1.dcm", "PM_2.dcm"]
    rows: list[tuple[frozenset[str], list[str]]] = [
        (frozenset(), []),
        (frozenset({"probability-seg"}), seg),
        (frozenset({"probability-map"}), maps),
        (BOTH, [seg[0], maps[0], seg[1], maps[1]]),
    ]
    for review, expected in rows:
        made = written(with_evidence(build_case(), review=review), until="RTSTRUCT.dcm")
        assert [name for name in made if name.startswith("P")] == expected
        assert list(made)[-2:] == [(expected or ["SEG.dcm"])[-1], "RTSTRUCT.dcm"]


def test_probability_comes_back_from_the_fractional_segmentation(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """PS3.3 C.8.20.2: within half a step of 1/255 on the CT slices that the frames name."""
    for index in (0, 1):
        ds = objects[f"PSEG_{index + 1}.dcm"]
        assert (ds.SegmentationType, ds.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
        assert ds.MaximumFractionalValue == 255
        assert ds.NumberOfFrames == BLOCK[0] - 2, "what rounds to zero everywhere is left out"
        segmentation = hd.seg.Segmentation.from_dataset(ds)
        pixels = segmentation.get_pixels_by_source_instance(
            [f"{CT_SERIES}.{i + 1}" for i in range(SHAPE[0])],
            assert_missing_frames_are_empty=True,
        )[..., 0]
        assert np.abs(pixels - full(case, index)).max() <= 0.5 / 255 + 1e-6
        volume = segmentation.get_volume(segment_numbers=[1], rescale_fractional=True)
        check_places(case, volume, full(case, index), 0.5 / 255 + 1e-6)


def test_probability_comes_back_from_the_parametric_map(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """PS3.3 A.75: within half a step of 1/10000, unit 1, at the places where the voxels lie."""
    for index in (0, 1):
        ds = objects[f"PM_{index + 1}.dcm"]
        assert ds.SOPClassUID == ParametricMapStorage
        assert (ds.NumberOfFrames, ds.Rows, ds.Columns) == BLOCK
        (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
        (quantity,) = mapping.QuantityDefinitionSequence
        assert quantity.ConceptCodeSequence[0].CodeValue == "110854"
        parametric_map = hd.pm.ParametricMap.from_dataset(ds)
        volume = parametric_map.get_volume(apply_real_world_transform=True)
        check_places(case, volume, full(case, index), 0.5 / 10000 + 1e-7)
        # slice by slice: each frame says by itself where it lies, as the CT slice does
        places = [
            [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
            for frame in ds.PerFrameFunctionalGroupsSequence
        ]
        probability = case.result.targets[index].refinement.probability
        assert probability is not None
        at = probability.geometry.indices_from_points(places)
        assert sorted(np.rint(at[:, 0]).tolist()) == list(range(BLOCK[0]))
        assert np.abs(at - np.rint(at)).max() < 1e-4
        assert np.abs(at[:, 1:]).max() < 1e-4
        named = [
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            for frame in ds.PerFrameFunctionalGroupsSequence
        ]
        assert named == [f"{CT_SERIES}.{START[0] + round(k) + 1}" for k in at[:, 0]]


def check_places(case: EncodeCase, volume: Any, truth: np.ndarray, tolerance: float) -> None:
    """Check that every voxel of a volume has the value that the CT's grid has at its place."""
    array = volume.array.reshape(volume.spatial_shape)
    indices = np.argwhere(np.ones(array.shape, dtype=bool))
    points = volume.map_indices_to_reference(indices)
    at = case.result.case.ct.geometry.indices_from_points(points)
    assert np.abs(at - np.rint(at)).max() < 0.01
    there = np.rint(at).astype(int)
    assert np.abs(array[tuple(indices.T)] - truth[tuple(there.T)]).max() <= tolerance
    unseen = truth.copy()
    unseen[tuple(there.T)] = 0
    assert unseen.max() <= tolerance, "nothing lies outside of the volume"


def test_probabilities_refer_to_ct_target_and_report(objects: dict[str, Dataset]) -> None:
    """The segment is tracked like the target's own; CT and report name what belongs together."""
    tracking = {s.SegmentLabel: s.TrackingUID for s in objects["SEG.dcm"].SegmentSequence}
    slices = {f"{CT_SERIES}.{i + 1}" for i in range(START[0], START[0] + BLOCK[0])}
    report = hd.sr.Comprehensive3DSR.from_dataset(objects["SR.dcm"])
    evidence = {uid: (series, kind) for _, series, uid, kind in report.get_evidence()}
    texts = texts_of(objects["SR.dcm"])
    for index, name in enumerate(("GTVn1_CT1MR1", "GTVp")):
        ds = objects[f"PSEG_{index + 1}.dcm"]
        (segment,) = ds.SegmentSequence
        assert (segment.SegmentLabel, segment.TrackingUID) == (name, tracking[name])
        assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
        for name_of_file, kind in (("PSEG", SegmentationStorage), ("PM", ParametricMapStorage)):
            ds = objects[f"{name_of_file}_{index + 1}.dcm"]
            assert "not calibrated" in ds.SeriesDescription
            assert evidence[ds.SOPInstanceUID] == (ds.SeriesInstanceUID, kind)
            assert any(ds.SOPInstanceUID in text for text in texts)
            (series,) = ds.ReferencedSeriesSequence
            assert series.SeriesInstanceUID == CT_SERIES
            named = {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence}
            assert named <= slices
            assert len(named) == ds.NumberOfFrames


def test_bytes_of_review_objects_are_identical_when_encoded_twice() -> None:
    """DESIGN 6: not one byte comes from a clock or from chance; every UID is derived."""
    first, again = (files_of(with_evidence(build_case())) for _ in range(2))
    assert first == again
    assert len([name for name in first if name[0] in "PS"]) == 6
    objects_read = {name: dcmread(BytesIO(content)) for name, content in first.items()}
    uids = [str(ds.SOPInstanceUID) for ds in objects_read.values()]
    assert len(set(uids)) == len(uids)
    for name, ds in objects_read.items():
        if name.startswith("P"):
            (dimension,) = ds.DimensionOrganizationSequence
            assert dimension.DimensionOrganizationUID.startswith("2.25.")
            assert {d.DimensionOrganizationUID for d in ds.DimensionIndexSequence} == {
                dimension.DimensionOrganizationUID
            }


def test_no_segmentation_is_written_when_no_voxel_is_likely() -> None:
    """A SEG without a frame is not valid; the map, which has one per slice, says zero."""
    case = with_evidence(build_case())
    target = case.result.targets[0]
    nothing = replace(field(case), values=np.full(BLOCK, 0.001, dtype=np.float32))
    target = replace(target, refinement=replace(target.refinement, probability=nothing))
    names = list(written(case.with_result(targets=(target,)), until="RTSTRUCT.dcm"))
    assert [name for name in names if name.startswith("P")] == ["PM_1.dcm"]


def test_a_probability_that_cannot_be_right_is_refused() -> None:
    """Elsewhere than its voxels say, beyond the CT, or not within 0 to 1: each is named."""
    case = with_evidence(build_case())
    good = field(case)
    grid = case.result.case.ct.geometry
    beyond = (8, 12, 8)
    rows = [
        (replace(good, start=(4, 12, 8)), "grid of the CT"),
        (VoxelField(grid.crop(beyond, BLOCK), beyond, good.values), "grid of the CT"),
        (replace(good, values=good.values * 1.01), "within 0 to 1"),
        (replace(good, values=good.values - 0.01), "within 0 to 1"),
    ]
    for probability, words in rows:
        target = case.result.targets[0]
        target = replace(target, refinement=replace(target.refinement, probability=probability))
        wrong = case.with_result(targets=(target,))
        with pytest.raises(EncodingError, match=words):
            next(iter(encode_result_set(wrong.result, wrong.sources, wrong.authorship)))
        # what is not asked for cannot stop a result set
        silent = wrong.with_result(review=frozenset())
        assert "RTSTRUCT.dcm" in written(silent, until="RTSTRUCT.dcm")
