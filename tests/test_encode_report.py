"""The structured report and the segmentation, read back by highdicom: numbers, masks, words."""

import math
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

from handlers.encode.metric_codes import metric_code
from handlers.results import Content, MoveCause, Neighbour
from handlers.values import Finding, Mask, Severity
from tests.encode_cases import (
    CT_SERIES,
    LONG_REASON,
    MR_SERIES,
    MR_SERIES_B,
    SHAPE,
    STRUCTURE_SET,
    EncodeCase,
    build_case,
    report_of,
    standard_results,
    texts_of,
    written,
)


@pytest.fixture(scope="module", params=[False, True], ids=["axial", "prone-oblique"])
def is_prone_oblique(request: pytest.FixtureRequest) -> bool:
    """How the patient lies, and the planes."""
    return bool(request.param)


@pytest.fixture(scope="module")
def case(is_prone_oblique: bool) -> EncodeCase:
    """Both cases."""
    return build_case(is_prone_oblique=is_prone_oblique)


@pytest.fixture(scope="module")
def objects(is_prone_oblique: bool) -> dict[str, Dataset]:
    """The result set, as received."""
    return standard_results(is_prone_oblique=is_prone_oblique)


@pytest.fixture(scope="module")
def report(objects: dict[str, Dataset]) -> Any:
    """The report as highdicom reads it."""
    return hd.sr.Comprehensive3DSR.from_dataset(objects["SR.dcm"])


def numbers_of(group: Any) -> dict[str, float]:
    """Return the numbers of a measurement group by code value, with the unit."""
    numbers = {}
    for measurement in group.get_measurements():
        code = measurement.name
        key = f"{code.value} {measurement.unit.value}"
        if "ORGAN_DIST" in key:
            continue
        numbers[key] = measurement.value
    return numbers


def test_numbers_of_targets_come_back_from_the_report(case: EncodeCase, report: Any) -> None:
    """TID 1411: each number with its unit, to the last bit; volumes by hand from voxel counts."""
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["GTVn1", "GTVn1_CT1MR1", "GTVp"]
    voxel_cm3 = 2.5 * 1.25 * 1.5 / 1000
    target = case.result.targets[0]
    assert target.refinement.refined is not None
    counts = [np.count_nonzero(m.inside) for m in (target.drawn, target.refinement.refined)]
    drawn, refined = (numbers_of(g) for g in groups[:2])
    assert drawn == {"118565006 cm3": pytest.approx(counts[0] * voxel_cm3, rel=1e-9)}
    (long_key,) = [key for key in refined if key.startswith("SOME_QUIT_")]
    # at most 16 characters: highdicom's reader of segments fails on a Long Code Value
    assert (len(long_key.split()[0]), refined.pop(long_key)) == (16, 12.5)
    assert refined == {
        "118565006 cm3": pytest.approx(counts[1] * voxel_cm3, rel=1e-9),
        "DSC 1": 0.7341234567890123,
        "HD95 mm": 2.25,
        "MSD mm": 1.875,
        "COMSHIFT_X mm": -0.125,
        "SHARPNESS 1": 0.625,
    }
    assert "Jaccard index, voxels: not a finite number" in texts_of(groups[1][0])


def test_numbers_of_registrations_come_back_from_the_report(case: EncodeCase, report: Any) -> None:
    """TID 1501: translation, rotation, uncertainty and quality, with verdict and reasons."""
    groups = report.content.get_image_measurement_groups()
    names = ["Registration 1", "Registration 2", "Findings of the case"]
    assert [g.tracking_identifier for g in groups] == names
    numbers = numbers_of(groups[0])
    translation = case.result.registrations[0].translation_mm
    assert [numbers[f"TRANS_{axis} mm"] for axis in "XYZ"] == list(translation)
    rotation = [numbers[f"ROT_{axis} deg"] for axis in "XYZ"]
    assert rotation == pytest.approx([3.0, -2.0, 7.5], abs=1e-9)
    assert (numbers["REG_UNCERT mm"], numbers["NMI 1"]) == (1.25, 1.125)
    assert numbers["PEAK_WIDTH_MM mm"] == 3.5
    verdicts = [g.get_qualitative_evaluations()[0].value.value for g in groups[:2]]
    assert verdicts == ["REG_PASS", "REG_WARN"]
    assert "Engines differ by 2.9 mm." in texts_of(groups[1][0])
    assert "0.1.0" in texts_of(groups[0][0])


def test_words_are_complete_in_the_report(objects: dict[str, Dataset]) -> None:
    """DESIGN 6: findings and abstentions in words, none cut short."""
    texts = texts_of(objects["SR.dcm"])
    assert len(LONG_REASON) > 600
    assert f"Abstained: {LONG_REASON}" in texts
    assert "warning [mr.old]: The MR is 9 days old. (age_days = 9)" in texts
    assert "max_outward_mm=5, bins=32" in texts
    distances = organ_distances(objects["SR.dcm"])
    assert distances == [("Größe_Darm", 4.75), ("Größe_Darm", 21.5)]


def test_refined_target_is_tracked_by_one_uid_in_every_object(
    objects: dict[str, Dataset], report: Any
) -> None:
    """Issue 7, 5: the structure set has no attribute for it, so its ROI Description tells it."""
    _, refined, _ = report.content.get_volumetric_roi_measurement_groups()
    uids = [str(s.TrackingUID) for s in objects["SEG.dcm"].SegmentSequence]
    assert refined.tracking_uid in uids
    (roi,) = [
        roi
        for roi in objects["RTSTRUCT.dcm"].StructureSetROISequence
        if roi.ROIName == refined.tracking_identifier
    ]
    assert roi.ROIDescription.startswith(f"Tracking UID {refined.tracking_uid}. From ROI ")


def test_surroundings_of_a_target_come_back_before_and_after() -> None:
    """Issue 7, 1: overlap and distance of both versions, and what of them is vessel."""
    case = build_case()
    target = replace(
        case.result.targets[0],
        volumes_cm3={"voxels": 4.0, "slices": 4.125, "mesh": 4.0625},
        neighbours=(Neighbour("Darm", 0.25, 0.0, 0.75, 1.5),),
        contents=(Content(MoveCause.VESSEL, ("V_Portal", "A_Hepatic"), 0.5, 0.125),),
    )
    changed = case.with_result(targets=(target, *case.result.targets[1:]))
    report: Any = hd.sr.Comprehensive3DSR.from_dataset(report_of(changed))
    drawn, refined, _ = report.content.get_volumetric_roi_measurement_groups()
    for group, expected in ((drawn, (0.75, 1.5, 0.5)), (refined, (0.25, 0.0, 0.125))):
        told = {m.name.value: m for m in group.get_measurements()}
        codes_in_order = ("ORGAN_OVERLAP", "ORGAN_DIST", "CONTENT")
        assert tuple(told[code].value for code in codes_in_order) == expected
        assert texts_of(told["ORGAN_OVERLAP"][0]) == ["Darm"]
        assert texts_of(told["CONTENT"][0]) == ["V_Portal, A_Hepatic"]
    methods = {
        m.method.value: m.value for m in drawn.get_measurements() if m.name == codes.SCT.Volume
    }
    assert {method: methods[method] for method in ("122503", "RNU0")} == {
        "122503": 4.125,
        "RNU0": 4.0625,
    }


def organ_distances(item: Dataset) -> list[tuple[str, float]]:
    """Return organ name and distance of all such numbers below a content item."""
    found = []
    for nested in item.get("ContentSequence", None) or ():
        name = nested.ConceptNameCodeSequence[0]
        if name.get("CodeValue") == "ORGAN_DIST":
            value = nested.MeasuredValueSequence[0].FloatingPointValue
            found.append((nested.ContentSequence[0].TextValue, value))
        found += organ_distances(nested)
    return found


def test_report_is_complete_but_never_verified(objects: dict[str, Dataset]) -> None:
    """DESIGN 7.2: nothing that we make is verified; the observer is the device."""
    ds = objects["SR.dcm"]
    flags = (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in ds
    scheme = ds.CodingSchemeIdentificationSequence[0]
    assert scheme.CodingSchemeDesignator == "99HILUM"
    content: Any = hd.sr.Comprehensive3DSR.from_dataset(ds).content
    observer = content.get_observer_contexts()[0]
    assert observer.observer_identifying_attributes.name == "Hilum"


def test_evidence_names_all_that_the_report_rests_on(objects: dict[str, Dataset]) -> None:
    """CT, MR, both structure sets, registrations and segmentation, by study and series."""
    report = hd.sr.Comprehensive3DSR.from_dataset(objects["SR.dcm"])
    instances = [str(uid) for _, _, uid, _ in report.get_evidence()]
    expected = [f"{CT_SERIES}.{i + 1}" for i in range(SHAPE[0])]
    expected += [f"{MR_SERIES}.{n}" for n in (1, 2, 3)] + [f"{MR_SERIES_B}.1", STRUCTURE_SET]
    names = ("REG_1.dcm", "REG_2.dcm", "SEG.dcm", "RTSTRUCT.dcm")
    expected += [str(objects[name].SOPInstanceUID) for name in names]
    assert sorted(instances) == sorted(expected)
    for _, series, uid, sop_class in report.get_evidence():
        for name in names:
            if objects[name].SOPInstanceUID == uid:
                assert objects[name].SeriesInstanceUID == series
                assert objects[name].SOPClassUID == sop_class


def test_masks_come_back_from_the_segmentation(
    case: EncodeCase, objects: dict[str, Dataset], report: Any
) -> None:
    """Highdicom puts the frames on the CT slices they name: the masks are the same, bit for bit."""
    segmentation = hd.seg.Segmentation.from_dataset(objects["SEG.dcm"])
    uids = [f"{CT_SERIES}.{i + 1}" for i in range(SHAPE[0])]
    pixels = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    target, abstained = case.result.targets
    assert target.refinement.refined is not None
    masks = [target.drawn, target.refinement.refined, abstained.drawn]
    for number, mask in enumerate(masks):
        assert np.array_equal(pixels[..., number].astype(bool), mask.inside)
    groups = report.content.get_volumetric_roi_measurement_groups()
    for segment, group in zip(segmentation.SegmentSequence, groups, strict=True):
        assert group.tracking_uid == segment.TrackingUID
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSegmentNumber == segment.SegmentNumber
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
    by_place = segmentation.get_volume(segment_numbers=[2], combine_segments=True)
    occupied = np.argwhere(by_place.array)
    places = by_place.map_indices_to_reference(occupied)
    truth = case.result.case.ct.geometry.points_from_indices(np.argwhere(masks[1].inside))
    assert np.abs(np.sort(places, axis=0) - np.sort(truth, axis=0)).max() < 0.01


@pytest.mark.parametrize(
    ("key", "value", "unit"),
    [
        ("dsc", "DSC", "1"),
        ("overlap_s", "OVERLAP_S", "s"),
        ("turn_deg", "TURN_DEG", "deg"),
        ("left_over_cm3", "LEFT_OVER_CM3", "cm3"),
        ("share_percent", "SHARE_PERCENT", "%"),
        ("reach_mm3", "REACH_MM3", "mm3"),
        ("bins", "BINS", "1"),
    ],
)
def test_a_code_is_made_for_any_figure(key: str, value: str, unit: str) -> None:
    """A figure that no table knows still has a code of its own and the unit of its suffix."""
    code = metric_code(key)
    assert (code.name.value, code.unit.value) == (value, unit)


def test_figures_of_refinement_and_metrics_are_kept_apart_when_named_alike() -> None:
    """Two different numbers never share a code in one group."""
    case = build_case()
    target = case.result.targets[0]
    refinement = replace(target.refinement, numbers={"dsc": 0.5, "gain": math.inf})
    target = replace(target, refinement=refinement)
    finding = Finding("x", Severity.INFO, "日本 and\nmore")
    ds = report_of(case.with_result(targets=(target,), findings=(finding,)))
    report: Any = hd.sr.Comprehensive3DSR.from_dataset(ds)
    numbers = numbers_of(report.content.get_volumetric_roi_measurement_groups()[1])
    assert (numbers["DSC 1"], numbers["REFINEMENT_DSC 1"]) == (0.7341234567890123, 0.5)
    texts = texts_of(ds)
    assert "gain: not a finite number" in texts
    assert "info [x]: ?? and more" in texts


def test_a_target_of_unknown_kind_is_tissue() -> None:
    """No clinical value is guessed: without type and TG-263 name a target is just tissue."""
    case = build_case()
    target = case.result.targets[1]
    roi = replace(target.source_roi, name="lump", interpreted_type="")
    grid = case.result.case.ct.geometry
    corner = np.zeros(SHAPE, dtype=bool)
    corner[0, 0, 0] = corner[-1, -1, -1] = True
    target = replace(target, source_roi=roi, drawn=Mask(grid, corner))
    ds = written(case.with_result(targets=(target,)), until="SEG.dcm")["SEG.dcm"]
    (segment,) = ds.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.SCT.Tissue.value
    assert ds.NumberOfFrames == 2
