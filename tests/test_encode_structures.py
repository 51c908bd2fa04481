"""The structure set: originals untouched, refined targets added, names kept, never approved."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import ImplicitVRLittleEndian

from handlers.encode import encode_result_set
from handlers.errors import EncodingError
from handlers.margins import Margins, Shape, grow, shape_of
from handlers.values import (
    DerivedTarget,
    Mask,
    Refinement,
    TargetStatus,
    VoxelField,
)
from tests.encode_cases import (
    CT_FRAME,
    PATIENT_NAME,
    SHAPE,
    SPACING_MM,
    STRUCTURE_SET,
    EncodeCase,
    as_received,
    build_case,
    changed,
    written,
)


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    """The axial case."""
    return build_case()


@pytest.fixture(scope="module")
def objects(case: EncodeCase) -> dict[str, Dataset]:
    """Its result set, as received."""
    return written(case)


@pytest.fixture(scope="module")
def oblique() -> EncodeCase:
    """The case of a prone patient on tilted slices."""
    return build_case(is_prone_oblique=True)


def check_refused(case: EncodeCase, words: str) -> None:
    """Check that a case is refused with an error that says so and names no patient."""
    with pytest.raises(EncodingError, match=words) as refusal:
        for _ in encode_result_set(case.result, case.sources, case.authorship):
            pass
    assert PATIENT_NAME not in str(refusal.value)
    assert "4711" not in str(refusal.value)


CONTOUR_TEXT = "(3006,0040)[0](3006,0050)"
"""Path of the first contour's data below an item of ROI Contour Sequence."""


def raw_values(ds: Dataset) -> Iterator[tuple[str, Any]]:
    """Yield every element below a dataset by path, values as the bytes that were received."""
    for tag in list(ds.keys()):
        # the dictionary is asked, not the element: a look at that would decode it
        if dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ":
            for number, item in enumerate(ds[tag].value):
                for path, value in raw_values(item):
                    yield f"{tag}[{number}]{path}", value
        else:
            yield str(tag), ds.get_item(tag).value


def test_original_rois_are_copied_element_for_element(case: EncodeCase) -> None:
    """DESIGN 7.2: contour text, private elements and all else of an original ROI stay as sent."""
    source = as_received(case.sources.structure_set, ImplicitVRLittleEndian)
    ds = written(case)["RTSTRUCT.dcm"]
    # signs and trailing zeros as no library would write them: the text itself is compared
    assert b"000\\+" in dict(raw_values(source.ROIContourSequence[0]))[CONTOUR_TEXT]
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        assert len(ds[keyword].value) == 4
        for before, after in zip(source[keyword].value, ds[keyword].value, strict=False):
            assert dict(raw_values(before)) == dict(raw_values(after))


def test_a_refined_roi_is_added_with_all_that_a_tps_wants(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """Peers 3.4: number, name, type, frame, image references, algorithm; never approved."""
    ds = objects["RTSTRUCT.dcm"]
    roi, contours = ds.StructureSetROISequence[-1], ds.ROIContourSequence[-1]
    observation = ds.RTROIObservationsSequence[-1]
    assert [roi.ROINumber, contours.ReferencedROINumber, observation.ReferencedROINumber] == [9] * 3
    assert (roi.ROIName, observation.ROIObservationLabel) == ("GTVn1_CT1MR1", "GTVn1_CT1MR1")
    assert (observation.RTROIInterpretedType, observation.ObservationNumber) == ("GTV", 9)
    assert (roi.ROIGenerationAlgorithm, roi.ReferencedFrameOfReferenceUID) == (
        "SEMIAUTOMATIC",
        CT_FRAME,
    )
    algorithm = roi.ROIDerivationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmVersion, algorithm.AlgorithmParameters) == (
        "0.1.0",
        "max_outward_mm=5, bins=32",
    )
    assert ds.ApprovalStatus == "UNAPPROVED"
    assert not {"ReviewDate", "ReviewTime", "ReviewerName"} & set(ds.dir())
    assert ds.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == STRUCTURE_SET
    assert ds.StructureSetLabel == "HILUM_REFINED"
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(series.ContourImageSequence) == SHAPE[0]


@pytest.mark.parametrize("which", ["case", "oblique"])
def test_new_contours_lie_on_the_slices_that_they_name(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Peers 3.4: coplanar with the named CT slice within 0.01 mm; area by the shoelace formula."""
    case: EncodeCase = request.getfixturevalue(which)
    slices = {ds.SOPInstanceUID: ds for ds in case.sources.ct}
    volume_mm3 = 0.0
    for item in written(case)["RTSTRUCT.dcm"].ROIContourSequence[-1].ContourSequence:
        ct = slices[item.ContourImageSequence[0].ReferencedSOPInstanceUID]
        orientation = np.array(ct.ImageOrientationPatient, dtype=float)
        rows, columns = orientation[:3], orientation[3:]
        points = np.array(item.ContourData, dtype=float).reshape(-1, 3)
        assert len(points) == item.NumberOfContourPoints
        offset = points - np.array(ct.ImagePositionPatient, dtype=float)
        assert np.abs(offset @ np.cross(rows, columns)).max() < 0.01
        u, v = offset @ rows, offset @ columns
        area = abs(float(u @ np.roll(v, -1) - v @ np.roll(u, -1))) / 2
        volume_mm3 += area * SPACING_MM[0]
    refined = case.result.targets[0].refinement.refined
    assert refined is not None
    assert volume_mm3 / 1000 == pytest.approx(refined.volume_cm3, rel=0.02)


def test_structure_set_is_written_when_all_targets_abstained(case: EncodeCase) -> None:
    """The TPS gets an answer in any case: the copies, under a label that says unchanged."""
    abstained = replace(
        case.result.targets[0],
        refinement=Refinement(TargetStatus.ABSTAINED, None, ("No MR.",)),
        refined_roi_name=None,
        metrics={},
    )
    case = case.with_result(targets=(abstained,), registrations=(), resampled=(), findings=())
    objects = written(case)
    assert list(objects) == ["SEG.dcm", "RTSTRUCT.dcm", "SR.dcm"]
    assert objects["RTSTRUCT.dcm"].StructureSetLabel == "HILUM_UNCHANGED"
    assert len(objects["RTSTRUCT.dcm"].StructureSetROISequence) == 3


@pytest.mark.parametrize(
    ("ct_sets", "source_sets", "name", "expected"),
    [
        ("ISO_IR 100", "ISO_IR 192", "Müller^J", "ISO_IR 100"),
        ("ISO_IR 101", "ISO_IR 192", "Kowalski^Żaneta", "ISO_IR 101"),
        (None, "ISO_IR 192", "Mueller^J", "ISO_IR 192"),
        ("ISO_IR 144", "ISO_IR 100", "Люкceмбypг", "ISO_IR 192"),
    ],
)
def test_names_survive_when_ct_and_structure_set_use_other_character_sets(
    case: EncodeCase, ct_sets: str | None, source_sets: str, name: str, expected: str
) -> None:
    """One object has one character set: the CT's, unless an ROI name does not fit it."""
    ct = tuple(
        as_received(changed(d, [ct_sets] if ct_sets else None, name)) for d in case.sources.ct
    )
    source = as_received(changed(case.sources.structure_set, [source_sets], "Mueller^J"))
    ds = written(replace(case, sources=replace(case.sources, ct=ct, structure_set=source)))[
        "RTSTRUCT.dcm"
    ]
    assert ds.SpecificCharacterSet == expected
    assert str(ds.PatientName) == name
    assert [r.ROIName for r in ds.StructureSetROISequence][2] == "Größe_Darm"


def test_a_taken_name_is_refused(case: EncodeCase) -> None:
    """Peers 3.4: ROI names are unique, ignoring case; renaming is not the encoder's choice."""
    target = replace(case.result.targets[0], refined_roi_name="gtvP")
    check_refused(case.with_result(targets=(target,)), "taken")


def ball_shape(case: EncodeCase, radius_mm: float) -> Shape:
    """Return a ball round the first target whose level is its exact distance."""
    geometry = case.result.case.ct.geometry
    centre = geometry.points_from_indices([(7, 24, 18)])[0]
    level = (radius_mm - geometry.distances_mm(centre)).astype(np.float32)
    return shape_of(Mask(geometry, level > 0), VoxelField(geometry, (0, 0, 0), level))


@pytest.fixture(scope="module")
def enriched(case: EncodeCase) -> EncodeCase:
    """The case with a level, a CTV and a PTV, and structures found round both targets."""
    refined, abstained = case.result.targets
    gtv, ptv = ball_shape(case, 8.0), grow(ball_shape(case, 8.0), Margins.even(4.0))
    assert refined.refinement.refined is not None
    bowel = Mask(gtv.mask.geometry, np.roll(abstained.drawn.inside, 4, axis=2))
    found = {"zVessel_MR": abstained.drawn, "zBowel_MR": bowel}
    refined = replace(
        refined,
        refinement=replace(refined.refinement, refined=gtv.mask, level=gtv.level, found=found),
        derived=(
            DerivedTarget("CTVn_u", "CTV", gtv.mask, "Union of both."),
            DerivedTarget("PTVn_u", "PTV", ptv.mask, "Margin 4 mm on all sides.", ptv.level),
        ),
    )
    abstained = replace(
        abstained, refinement=replace(abstained.refinement, found={"zVessel_MR": bowel})
    )
    return case.with_result(targets=(refined, abstained), review=frozenset({"structures"}))


@pytest.fixture(scope="module")
def enriched_set(enriched: EncodeCase) -> Dataset:
    """Its structure set, as received."""
    return written(enriched)["RTSTRUCT.dcm"]


def test_derived_rois_follow_the_refined_and_say_what_they_are(
    enriched: EncodeCase, enriched_set: Dataset
) -> None:
    """Issue 5, point 5: type, description, volume, how they were made; found ones on request."""
    ds = enriched_set
    new = ds.StructureSetROISequence[3:]
    observed = ds.RTROIObservationsSequence[3:]
    names = ["GTVn1_CT1MR1", "CTVn_u", "PTVn_u", "zVessel_MR", "zBowel_MR"]
    assert [roi.ROIName for roi in new] == names
    assert [roi.ROINumber for roi in new] == [9, 10, 11, 12, 13]
    assert [o.ReferencedROINumber for o in observed] == [9, 10, 11, 12, 13]
    assert [o.RTROIInterpretedType for o in observed] == ["GTV", "CTV", "PTV", "", ""]
    generated = [roi.ROIGenerationAlgorithm for roi in new]
    assert generated == ["SEMIAUTOMATIC"] * 3 + ["AUTOMATIC"] * 2
    assert new[2].ROIDescription.startswith("Margin 4 mm on all sides.")
    assert float(new[2].ROIVolume) == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.02)
    assert "no clinical organ" in new[3].ROIDescription
    # of one name round two targets: one ROI of both
    lump_cm3 = enriched.result.targets[1].drawn.volume_cm3
    assert 1.2 * lump_cm3 < float(new[3].ROIVolume) <= 2 * lump_cm3
    assert ds.ApprovalStatus == "UNAPPROVED"


def test_found_structures_are_written_on_request_only(enriched: EncodeCase) -> None:
    """Issue 5, point 3: as extra ROIs on request; a name that is taken gets a number."""
    quiet = written(enriched.with_result(review=frozenset()))["RTSTRUCT.dcm"]
    assert [r.ROIName for r in quiet.StructureSetROISequence[3:]] == [
        "GTVn1_CT1MR1",
        "CTVn_u",
        "PTVn_u",
    ]
    target = enriched.result.targets[0]
    derived = replace(target.derived[0], name="zvessel_mr")
    targets = (replace(target, derived=(derived,)), enriched.result.targets[1])
    ds = written(enriched.with_result(targets=targets))["RTSTRUCT.dcm"]
    assert [r.ROIName for r in ds.StructureSetROISequence[4:6]] == ["zvessel_mr", "zVessel_MR1"]


def test_label_says_what_was_added(enriched: EncodeCase) -> None:
    """A set without a refined target must not claim to have one."""
    target = enriched.result.targets[0]
    refinement = Refinement(TargetStatus.ABSTAINED, None, ("No MR.",))
    stays = replace(target, refinement=refinement, refined_roi_name=None, metrics={})
    ds = written(enriched.with_result(targets=(stays,), review=frozenset()))["RTSTRUCT.dcm"]
    assert ds.StructureSetLabel == "HILUM_ADDED"


def test_contours_of_a_level_have_no_staircase(enriched: EncodeCase, enriched_set: Dataset) -> None:
    """Issue 5, point 1: sub-voxel surfaces. The level is a ball of 8 mm, as are the contours."""
    centre = enriched.result.case.ct.geometry.points_from_indices([(7, 24, 18)])[0]
    refined, union = (
        np.concatenate(
            [np.array(c.ContourData, dtype=float).reshape(-1, 3) for c in item.ContourSequence]
        )
        for item in enriched_set.ROIContourSequence[3:5]
    )
    assert np.abs(np.linalg.norm(refined - centre, axis=1) - 8.0).max() < 0.15
    assert np.abs(np.linalg.norm(union - centre, axis=1) - 8.0).max() > 0.2


@pytest.mark.peers
def test_dciodvfy_accepts_derived_and_found_rois(
    enriched_set: Dataset, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """An outside judge finds no error in the structure set with everything in it."""
    dciodvfy = peer_program("dciodvfy")
    path = tmp_path / "RTSTRUCT.dcm"
    enriched_set.save_as(path, enforce_file_format=True)
    answer = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
    told = (answer.stdout + answer.stderr).splitlines()
    assert [line for line in told if line.startswith("Error")] == []
    assert "RTStructureSet" in "".join(told)
