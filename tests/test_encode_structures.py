"""The structure set: originals untouched, refined targets added, names kept, never approved."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from handlers.contour_metrics import measured_target
from handlers.contour_metrics.stack import slice_sum_cm3, stack_of
from handlers.dose_results import EndCap
from handlers.encode import encode_result_set
from handlers.encode.identity import ResultSet
from handlers.encode.rtstruct import encode_structure_set
from handlers.errors import EncodingError
from handlers.margins import Margins, Shape, grow, shape_of
from handlers.refinement.account import cause_of_structure
from handlers.report import metrics_document
from handlers.results import DerivedTarget, Refinement, TargetStatus, VoxelField
from handlers.roi_names import names_in_use, refined_name, unique_name
from handlers.sampling import mask_from_roi
from handlers.values import Contour, Mask, Roi
from node.compute import pipeline_settings
from node.compute_job import ComputeSettings
from node.protocol import Holes
from tests.encode_cases import (
    CT_FRAME,
    PATIENT_NAME,
    SHAPE,
    SPACING_MM,
    STRUCTURE_SET,
    EncodeCase,
    as_received,
    build_case,
    bytes_of,
    changed,
    standard_results,
    written,
)


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    """The axial case."""
    return build_case()


@pytest.fixture(scope="module")
def objects() -> dict[str, Dataset]:
    """Its result set, as received."""
    return standard_results()


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
    ds = written(case, until="RTSTRUCT.dcm")["RTSTRUCT.dcm"]
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
    ds = written(case, until="RTSTRUCT.dcm")["RTSTRUCT.dcm"]
    for item in ds.ROIContourSequence[-1].ContourSequence:
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
    computed = [name for name in objects if not name.startswith("fused/")]
    assert computed == ["SEG.dcm", "RTSTRUCT.dcm", "SR.dcm"]
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
    return written(enriched, until="RTSTRUCT.dcm")["RTSTRUCT.dcm"]


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
    quiet = structure_set_of(enriched.with_result(review=frozenset()))
    assert [r.ROIName for r in quiet.StructureSetROISequence[3:]] == [
        "GTVn1_CT1MR1",
        "CTVn_u",
        "PTVn_u",
    ]
    target = enriched.result.targets[0]
    derived = replace(target.derived[0], name="zvessel_mr")
    targets = (replace(target, derived=(derived,)), enriched.result.targets[1])
    ds = structure_set_of(enriched.with_result(targets=targets))
    assert [r.ROIName for r in ds.StructureSetROISequence[4:6]] == ["zvessel_mr", "zVessel_MR1"]


def test_label_says_what_was_added(enriched: EncodeCase) -> None:
    """A set without a refined target must not claim to have one."""
    target = enriched.result.targets[0]
    refinement = Refinement(TargetStatus.ABSTAINED, None, ("No MR.",))
    stays = replace(target, refinement=refinement, refined_roi_name=None, metrics={})
    ds = structure_set_of(enriched.with_result(targets=(stays,), review=frozenset()))
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


def test_volume_that_is_told_is_that_of_the_contours_that_are_sent(enriched: EncodeCase) -> None:
    """Issue 7, 1: by slices of what another system reads, not by the voxels behind it."""
    first, *others = enriched.result.targets
    measured = measured_target(first, {}, cause_of_structure, EndCap.HALF_SLICE)
    ds = structure_set_of(enriched.with_result(targets=(measured, *others)))
    report = metrics_document(enriched.with_result(targets=(measured, *others)).result, {})
    (told, _) = report["targets"]
    told_cm3 = [told["refined_volume_cm3"], *(each["volume_cm3"] for each in told["derived"])]
    for index, volume_cm3 in enumerate(told_cm3, start=3):
        contours = [
            Contour(np.array(item.ContourData, dtype=float).reshape(-1, 3))
            for item in ds.ROIContourSequence[index].ContourSequence
        ]
        stack = stack_of(contours, enriched.result.case.ct.geometry)
        assert volume_cm3 == pytest.approx(slice_sum_cm3(stack, EndCap.HALF_SLICE), rel=1e-3)
        roi = ds.StructureSetROISequence[index]
        assert float(roi.ROIVolume) == pytest.approx(volume_cm3)
        assert "Volume of its contours by slices" in roi.ROIDescription


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


ODD_NUMBERS = b"\\".join(
    [
        b"  +1.50",
        b"-0.0 ",
        b"1e1",
        b"12.345678901234567890123",
        b"2",
        b"0003",
        b"4.",
        b".5",
        b"6.00",
    ]
)
"""Contour data as some senders write them: blanks, signs, exponents, more than 16 bytes a value."""


def structure_set_of(case: EncodeCase) -> Dataset:
    """Return the structure set of a case alone, as a receiver reads it."""
    ds = encode_structure_set(ResultSet(case.result, case.sources, case.authorship))
    return dcmread(BytesIO(bytes_of(ds)))


def odd_source(case: EncodeCase, syntax: str) -> Dataset:
    """Return the case's structure set in a transfer syntax, with much that libraries would tidy."""
    source = as_received(case.sources.structure_set)
    source.decode()
    roi, inner = source.StructureSetROISequence[0], Dataset()
    block = roi.private_block(0x3287, "SOME TPS", create=True)
    block.add_new(0x02, "US", 258)
    block.add_new(0x03, "FD", 1.5)
    block.add_new(0x05, "OB", b"\x01\x02\x03\x04")
    inner.private_block(0x3289, "INNER", create=True).add_new(1, "LO", "Größe")
    block.add_new(0x06, "SQ", [inner])
    roi.ROIName = "Größe\u00a0 of\u00a0it"
    contour = source.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = ["1.1111111"] * 9
    contour.NumberOfContourPoints = 3
    stand_in = b"\\".join([b"1.1111111"] * 9)
    raw = bytearray(bytes_of(as_received(source, syntax)))
    assert raw.count(stand_in) == 1
    raw[:] = raw.replace(stand_in, ODD_NUMBERS.ljust(len(stand_in)))
    return dcmread(BytesIO(bytes(raw)))


@pytest.mark.filterwarnings("ignore:Value exceeds the maximum length:UserWarning")
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_original_rois_keep_their_bytes_when_the_source_is_odd(
    case: EncodeCase, syntax: str
) -> None:
    """Issue 6, 2: text byte for byte from file to file, whatever the transfer syntax was."""
    source = odd_source(case, syntax)
    ds = structure_set_of(replace(case, sources=replace(case.sources, structure_set=source)))
    source = odd_source(case, syntax)
    compared = 0
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        for before, after in zip(source[keyword].value, ds[keyword].value, strict=False):
            old, new = dict(raw_values(before)), dict(raw_values(after))
            assert old.keys() == new.keys()
            # private numbers change their byte order and private items their form, so see below
            same = {p for p in old if not p.startswith("(3287,10") or p == "(3287,1001)"}
            assert {p: old[p] or b"" for p in same} == {p: new[p] or b"" for p in same}
            compared += len(same)
    assert compared > 100
    data = dict(raw_values(ds.ROIContourSequence[0]))[CONTOUR_TEXT]
    assert data.startswith(ODD_NUMBERS)
    private = dict(raw_values(ds.StructureSetROISequence[0]))
    assert private["(3287,1002)"] == b"\x02\x01"
    assert private["(3287,1003)"] == np.array(1.5, dtype="<f8").tobytes()
    assert private["(3287,1005)"] == b"\x01\x02\x03\x04"
    assert "Größe".encode("latin-1") in private["(3287,1006)"]


def test_new_name_when_a_longer_one_is_cut_to_it_is_refused(case: EncodeCase) -> None:
    """Peers 3.4: a TPS keeps 16 characters; two ROIs must not become one there."""
    source = as_received(case.sources.structure_set, ImplicitVRLittleEndian)
    source.StructureSetROISequence[1].ROIName = "gtvn-left_ct1mr1 of last year"
    sources = replace(case.sources, structure_set=source)
    target = replace(case.result.targets[0], refined_roi_name="GTVn-left_CT1MR1")
    with pytest.raises(EncodingError, match="taken"):
        structure_set_of(replace(case, sources=sources).with_result(targets=(target,)))
    target = replace(target, refined_roi_name="GTVn-left_CT1MR1a")
    with pytest.raises(EncodingError, match="no usable name"):
        structure_set_of(case.with_result(targets=(target,)))


def test_new_name_when_a_longer_one_is_cut_to_it_gets_a_number() -> None:
    """TG-263: at most 16 characters, unique ignoring case, also against what a TPS leaves."""
    taken = names_in_use(["GTVn-left", "gtvn-left_ct1mr1 of last year", "GTVn-lef1_CT1MR1"])
    assert refined_name("GTVn-left", taken) == "GTVn-lef2_CT1MR1"
    assert unique_name("GTVn-left_CT1MR1 new", taken) == "GTVn-left_CT1MR2"


@pytest.mark.parametrize("as_xor", [False, True])
def test_hole_of_a_refined_target_is_written_as_the_protocol_says(
    case: EncodeCase, as_xor: bool
) -> None:
    """Issue 6, 2: keyhole by default, XOR by configuration; decoded again it is the same mask."""
    target = case.result.targets[0]
    refined = target.refinement.refined
    assert refined is not None
    hollow = hollowed(refined)
    target = replace(target, refinement=replace(target.refinement, refined=hollow))
    ds = structure_set_of(case.with_result(targets=(target,), holes_as_xor=as_xor))
    kinds: dict[str, set[str]] = {}
    contours = []
    for item in ds.ROIContourSequence[-1].ContourSequence:
        uid = item.ContourImageSequence[0].ReferencedSOPInstanceUID
        kinds.setdefault(uid, set()).add(item.ContourGeometricType)
        points = np.array(item.ContourData, dtype=float).reshape(-1, 3)
        is_xor = item.ContourGeometricType == "CLOSEDPLANAR_XOR"
        contours.append(Contour(points, is_exclusive_or=is_xor))
    assert all(len(of_plane) == 1 for of_plane in kinds.values())
    found = set().union(*kinds.values())
    assert found == ({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"} if as_xor else {"CLOSED_PLANAR"})
    back = mask_from_roi(Roi(1, "x", "", tuple(contours)), hollow.geometry)
    assert np.array_equal(back.inside, hollow.inside)


@pytest.mark.parametrize(("holes", "is_xor"), [("keyhole", False), ("xor", True)])
def test_holes_of_the_protocol_reach_the_core(holes: Holes, is_xor: bool) -> None:
    """The key of the protocol is what the encoder is told."""
    told = ComputeSettings(target_patterns=("GTV*",), max_outward_mm=5.0, holes=holes)
    assert pipeline_settings(told).holes_as_xor is is_xor


def hollowed(mask: Mask) -> Mask:
    """Return a mask with a hole in its middle slices, and an island in the hole."""
    inside = mask.inside.copy()
    slices, rows, columns = (int(np.median(at)) for at in np.nonzero(inside))
    inside[slices - 1 : slices + 2, rows - 3 : rows + 4, columns - 3 : columns + 4] = False
    inside[slices, rows - 1 : rows + 2, columns - 1 : columns + 2] = True
    return Mask(mask.geometry, inside)
