"""Structure sets of several frames of reference: read in the CT's, given back frame by frame."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage

from handlers.encode.identity import ResultSet
from handlers.encode.registration import registration_reference
from handlers.encode.rtstruct import encode_structure_set
from handlers.encode.split_structures import encode_split_structure_set, frames_elsewhere
from handlers.results import RegistrationStatus
from handlers.values import Severity
from tests import datasets
from tests.decoding import TARGET, check_rejected, codes, decode
from tests.encode_cases import (
    CT_FRAME,
    MR_FRAME,
    MR_SERIES,
    STRUCTURE_SET,
    EncodeCase,
    as_received,
    build_case,
    bytes_of,
    registration,
    written,
)
from tests.stored_instances import check_only_case, contours, ct, mr
from tests.test_encode_structures import raw_values

OTHER_FRAME = "1.2.826.0.1.99"
ITEMS = ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")

# --- what arrives --------------------------------------------------------------------------------


def frame_item(uid: str) -> Dataset:
    item = Dataset()
    item.FrameOfReferenceUID = uid
    return item


def of_two_frames(*, listed: bool = True) -> Dataset:
    """Return a set with a target on the CT, a tumor on the MR, and one more ROI of no contour."""
    drawn = {**TARGET, "Tumor_MR": [datasets.square(-30.0)], "Organ_MR": [], "Body": []}
    ds = datasets.structure_set(drawn)
    for index in (1, 2):
        ds.StructureSetROISequence[index].ReferencedFrameOfReferenceUID = datasets.MR_FRAME
    if listed:
        frames = [frame_item(datasets.CT_FRAME), frame_item(datasets.MR_FRAME)]
        ds.ReferencedFrameOfReferenceSequence = DicomSequence(frames)
    return ds


@pytest.mark.parametrize("listed", [True, False])
def test_set_of_several_frames_when_read_is_the_cts_part(listed: bool) -> None:
    """Issue 6, 2: the ROIs of the CT's frame make the case; a finding tells of the others."""
    decoded = decode(structure_set=of_two_frames(listed=listed))
    structure_set = decoded.case.structure_set
    assert [roi.name for roi in structure_set.rois] == ["GTV", "Body"]
    assert structure_set.frames_elsewhere == {2: datasets.MR_FRAME, 3: datasets.MR_FRAME}
    assert codes(decoded) == {
        "structures.several_frames": Severity.WARNING,
        "structures.split": Severity.INFO,
    }
    (told,) = (f for f in decoded.case.findings if f.code == "structures.several_frames")
    assert '"Tumor_MR"' in told.text
    assert '"Organ_MR"' not in told.text


def test_set_of_several_frames_when_none_is_the_cts_is_rejected() -> None:
    """Without a contour in the CT's frame of reference there is no case, as before."""
    ds = of_two_frames()
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = OTHER_FRAME
    check_rejected(
        f"frame of reference …{datasets.MR_FRAME[-8:]}",
        f"frame of reference …{OTHER_FRAME[-8:]}",
        structure_set=ds,
    )


def test_set_of_several_frames_when_an_roi_names_none_is_rejected() -> None:
    """What frame it lies in is never guessed."""
    ds = of_two_frames()
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = ""
    with_ct = datasets.structure_set({"Body": [datasets.square(-27.0)]})
    for keyword in ITEMS:
        item = with_ct[keyword].value[0]
        for number in ("ROINumber", "ReferencedROINumber"):
            if number in item:
                setattr(item, number, 9)
        ds[keyword].value.append(item)
    ds.ReferencedFrameOfReferenceSequence = DicomSequence()
    check_rejected(
        "not in that of the planning CT", 'the frame of reference of "GTV" is not given',
        structure_set=ds,
    )  # fmt: skip


def test_set_of_several_frames_makes_the_cts_case_when_it_names_the_mr_first() -> None:
    """The longest series that it lists may be the MR; the case is that of the CT all the same."""
    listed = tuple(one.header.sop_instance_uid for one in (*ct(), *mr()))
    given = contours(referenced_series_uid="2.1", referenced_sop_instance_uids=listed)
    case = check_only_case(ct(), mr(), given)
    assert (case.ct_series_uid, case.structure_set_uid) == ("1.1", "3.1")


# --- what goes back ------------------------------------------------------------------------------


def split_case(frames: dict[int, str]) -> EncodeCase:
    """Return the case with further ROIs: number, and the frame in which each is drawn."""
    case = build_case()
    source = case.sources.structure_set
    source.ReferencedFrameOfReferenceSequence = [frame_item(CT_FRAME)]
    for number, frame in frames.items():
        roi, contours, observed, contour = Dataset(), Dataset(), Dataset(), Dataset()
        roi.ROINumber = contours.ReferencedROINumber = observed.ReferencedROINumber = number
        roi.ReferencedFrameOfReferenceUID, roi.ROIName = frame, f"Größe_{number}"
        roi.ROIGenerationAlgorithm = "MANUAL"
        roi.private_block(0x3287, "SOME TPS", create=True).add_new(0x01, "LO", f"own {number}")
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
        contour.ContourData = ["+1.50", "2.0", "-3.00", "4", "5.0000", "-3", "1e1", "2.250", "-3"]
        image = Dataset()
        image.ReferencedSOPClassUID = MRImageStorage
        image.ReferencedSOPInstanceUID = f"{MR_SERIES}.1"
        contour.ContourImageSequence = [image]
        contours.ContourSequence = [contour]
        observed.ObservationNumber, observed.RTROIInterpretedType = number, "GTV"
        observed.ROIInterpreter = None
        # between the others, so that places in the sequences mean nothing
        for keyword, item in zip(ITEMS, (roi, contours, observed), strict=True):
            source[keyword].value.insert(1, item)
        known = {item.FrameOfReferenceUID for item in source.ReferencedFrameOfReferenceSequence}
        if frame not in known:
            source.ReferencedFrameOfReferenceSequence.append(frame_item(frame))
    structure_set = replace(case.result.case.structure_set, frames_elsewhere=frames)
    values = replace(case.result.case, structure_set=structure_set)
    sources = replace(case.sources, structure_set=as_received(source))
    return replace(case.with_result(case=values), sources=sources)


FRAMES = {20: MR_FRAME, 31: OTHER_FRAME, 22: MR_FRAME}


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    return split_case(FRAMES)


@pytest.fixture(scope="module")
def objects(case: EncodeCase) -> dict[str, Dataset]:
    return written(case)


def structure_sets(case: EncodeCase) -> dict[str, Dataset]:
    """Return the structure sets of a case alone, as a receiver reads them."""
    result_set = ResultSet(case.result, case.sources, case.authorship)
    sets = [encode_structure_set(result_set)]
    sets += [
        encode_split_structure_set(result_set, index)
        for index in range(len(frames_elsewhere(result_set)))
    ]
    names = ["RTSTRUCT.dcm", *(f"RTSTRUCT_{n}.dcm" for n in range(2, len(sets) + 1))]
    return {
        name: as_received(ds, ImplicitVRLittleEndian) for name, ds in zip(names, sets, strict=True)
    }


def by_number(ds: Dataset, keyword: str) -> dict[int, dict[str, object]]:
    number = "ROINumber" if keyword == "StructureSetROISequence" else "ReferencedROINumber"
    # an empty value is read as text or as bytes, by transfer syntax
    raw = [{p: v or b"" for p, v in raw_values(item)} for item in ds[keyword].value]
    return {
        int(item[number].value): each for item, each in zip(ds[keyword].value, raw, strict=True)
    }


def test_set_of_several_frames_goes_back_in_one_set_for_each(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """Peers 2.25: Eclipse takes one frame a set; every ROI is in one of them, byte for byte."""
    sets = {n: ds for n, ds in objects.items() if n.startswith("RTSTRUCT")}
    assert list(sets) == ["RTSTRUCT.dcm", "RTSTRUCT_2.dcm", "RTSTRUCT_3.dcm"]
    expected = {
        "RTSTRUCT.dcm": (CT_FRAME, {3, 5, 8, 32}),
        "RTSTRUCT_2.dcm": (MR_FRAME, {20, 22}),
        "RTSTRUCT_3.dcm": (OTHER_FRAME, {31}),
    }
    source = as_received(case.sources.structure_set)
    originals = {k: by_number(source, k) for k in ITEMS}
    for name, (frame, numbers) in expected.items():
        ds = sets[name]
        assert ds.FrameOfReferenceUID == frame
        (listed,) = ds.ReferencedFrameOfReferenceSequence
        assert listed.FrameOfReferenceUID == frame
        for keyword in ITEMS:
            found = by_number(ds, keyword)
            assert found.keys() == numbers
            kept = numbers & originals[keyword].keys()
            assert len(kept) == len(numbers) - (name == "RTSTRUCT.dcm")
            assert {n: found[n] for n in kept} == {n: originals[keyword][n] for n in kept}
        assert {r.ReferencedFrameOfReferenceUID for r in ds.StructureSetROISequence} == {frame}
        assert ds.ApprovalStatus == "UNAPPROVED"
        assert ds.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == STRUCTURE_SET
        assert ds.StructureSetLabel.isascii()
        assert len(ds.StructureSetLabel) <= 16
    uids = [{ds[k].value for ds in sets.values()} for k in ("SOPInstanceUID", "SeriesInstanceUID")]
    assert [len(each) for each in uids] == [3, 3]


def test_new_number_when_a_set_is_split_is_new_among_all(objects: dict[str, Dataset]) -> None:
    """A number of the source means one ROI, in whichever of the sets it went."""
    numbers = [r.ROINumber for r in objects["RTSTRUCT.dcm"].StructureSetROISequence]
    assert [int(number) for number in numbers] == [3, 5, 8, 32]


def test_split_set_names_the_registration_that_relates_it(case: EncodeCase) -> None:
    """Issue 6, 2: with the REG between them if it is known, and only if it may be used."""
    objects = structure_sets(case)
    result_set = ResultSet(case.result, case.sources, case.authorship)
    reg = registration_reference(result_set, case.result.registrations[0]).sop_instance_uid
    assert reg in objects["RTSTRUCT_2.dcm"].StructureSetDescription
    assert "No registration" in objects["RTSTRUCT_3.dcm"].StructureSetDescription
    failed = registration(MR_FRAME, [MR_SERIES], RegistrationStatus.FAIL, ("No overlap.",))
    quiet = structure_sets(case.with_result(registrations=(failed,), resampled=()))
    assert "No registration" in quiet["RTSTRUCT_2.dcm"].StructureSetDescription


def test_set_of_one_frame_is_not_split_and_lists_the_cts_frame_alone() -> None:
    """A frame that the source lists without an ROI in it is not passed on."""
    case = build_case()
    case.sources.structure_set.ReferencedFrameOfReferenceSequence = [
        frame_item(OTHER_FRAME),
        frame_item(CT_FRAME),
    ]
    objects = structure_sets(case)
    assert "RTSTRUCT_2.dcm" not in objects
    frames = objects["RTSTRUCT.dcm"].ReferencedFrameOfReferenceSequence
    assert [item.FrameOfReferenceUID for item in frames] == [CT_FRAME]


@pytest.mark.peers
def test_dciodvfy_accepts_every_part_of_a_split_set(
    objects: dict[str, Dataset], tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """An outside judge finds no error in any of the structure sets."""
    for name, ds in objects.items():
        if name.startswith("RTSTRUCT"):
            path = tmp_path / name
            path.write_bytes(bytes_of(ds))
            answer = subprocess.run(
                [peer_program("dciodvfy"), path], capture_output=True, text=True, check=False
            )
            told = (answer.stdout + answer.stderr).splitlines()
            assert [line for line in told if line.startswith("Error")] == [], name
            assert "RTStructureSet" in "".join(told)
