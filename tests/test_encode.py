"""The objects of a result set: identity, repeatability, geometry, copies, references, refusals.

Truth is worked out by hand or read back with plain pydicom; outside judges are asked in
`test_encode_peers.py`.
"""

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from handlers.displacement import DisplacementField
from handlers.encode import MANUFACTURER, encode_result_set
from handlers.errors import EncodingError
from handlers.geometry import Geometry, RigidTransform
from handlers.results import RegistrationStatus
from handlers.values import Mask
from tests.encode_cases import (
    CT_FRAME,
    CT_SERIES,
    CT_STUDY,
    MR_FRAME,
    MR_SERIES,
    MR_SERIES_B,
    MR_STUDY,
    PATIENT_NAME,
    SHAPE,
    EncodeCase,
    as_received,
    build_case,
    bytes_of,
    changed,
    registration,
    standard_results,
    texts_of,
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


# --- identity -----------------------------------------------------------------------------------


def test_names_come_in_the_promised_order(objects: dict[str, Dataset]) -> None:
    """DESIGN 6: a REG per registration, a folder per resampled MR, SEG, RTSTRUCT, fused, SR."""
    images = [f"MR_{n}/{i:04d}.dcm" for n in (1, 2) for i in range(1, SHAPE[0] + 1)]
    fused = [f"fused/{role}_{n}.dcm" for role in ("OVERVIEW", "BLENDING") for n in (1, 2)]
    fused.append("fused/CONTOURS_1.dcm")
    expected = ["REG_1.dcm", "REG_2.dcm", *images, "SEG.dcm", "RTSTRUCT.dcm", *fused, "SR.dcm"]
    assert list(objects) == expected


def test_bytes_are_identical_when_a_case_is_encoded_twice() -> None:
    """DESIGN 6: a repeat is harmless, so not one byte may come from a clock or from chance."""
    for prone in (False, True):
        first, second = (build_case(is_prone_oblique=prone) for _ in range(2))
        twice = [
            [(n, bytes_of(ds)) for n, ds in encode_result_set(c.result, c.sources, c.authorship)]
            for c in (first, second)
        ]
        assert twice[0] == twice[1]


def test_uids_change_when_the_seed_changes(case: EncodeCase, objects: dict[str, Dataset]) -> None:
    """Every UID of ours derives from the seed: another algorithm version overwrites nothing."""
    other = written(replace(case, authorship=replace(case.authorship, uid_seed="other")))
    for name, ds in objects.items():
        assert ds.SOPInstanceUID.startswith("2.25.")
        assert len(ds.SOPInstanceUID) <= 64
        assert ds.SOPInstanceUID != other[name].SOPInstanceUID
        assert ds.SeriesInstanceUID != other[name].SeriesInstanceUID
    assert len({ds.SOPInstanceUID for ds in objects.values()}) == len(objects)
    assert len({ds.SeriesInstanceUID for ds in objects.values()}) == 12


def test_patient_and_study_are_the_ct_s(case: EncodeCase, objects: dict[str, Dataset]) -> None:
    """Receivers file by patient and study: both are byte-identical to the CT's, nothing added."""
    ct = case.sources.ct[0]
    for ds in objects.values():
        assert ds.StudyInstanceUID == CT_STUDY
        assert ds.SpecificCharacterSet == "ISO_IR 100"
        for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate"):
            assert as_received(ds).get_item(keyword).value == bytes_in_ct(ct, keyword)
        assert (ds.PatientSex, ds.StudyID, ds.AccessionNumber) == ("M", "S1", "A1")
        assert (ds.StudyDate, ds.StudyTime) == ("20260301", "101112.5")
        assert str(ds.ReferringPhysicianName) == "Arzt^Ä"
        assert (ds.Manufacturer, ds.ManufacturerModelName) == (MANUFACTURER, "Hilum")
        assert ds.SoftwareVersions == "0.1.0"
        assert "PatientAge" not in ds


def bytes_in_ct(ct: Dataset, keyword: str) -> object:
    """Return the value of an element of the CT as it was received."""
    return as_received(ct).get_item(keyword).value


def test_a_name_in_several_character_sets_is_copied_when_the_ct_has_one(case: EncodeCase) -> None:
    """PS3.5 H.3: ideographic and phonetic groups survive, with the escape sequences they need."""
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    ct = [as_received(changed(d, ["", "ISO 2022 IR 87"], name)) for d in case.sources.ct]
    objects = written(replace(case, sources=replace(case.sources, ct=tuple(ct))))
    for ds in objects.values():
        assert str(ds.PatientName) == name


def test_absent_type_2_attributes_are_written_empty(case: EncodeCase) -> None:
    """PS3.5 7.4.3: what the CT does not tell is empty in ours, never invented."""
    ct = tuple(as_received(ds) for ds in case.sources.ct)
    for ds in ct:
        for keyword in ("PatientName", "PatientSex", "StudyID", "StudyTime", "AccessionNumber"):
            delattr(ds, keyword)
    for ds in written(replace(case, sources=replace(case.sources, ct=ct))).values():
        for keyword in ("PatientName", "PatientSex", "StudyID", "StudyTime", "AccessionNumber"):
            assert keyword in ds
            assert not ds[keyword].value


# --- MR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["case", "oblique"])
def test_mr_lies_on_the_ct_slices_to_the_last_digit(
    which: str, request: pytest.FixtureRequest
) -> None:
    """A TPS overlays two series only if their planes agree: the CT's own text is used."""
    case: EncodeCase = request.getfixturevalue(which)
    objects = written(case, until=f"MR_1/{SHAPE[0]:04d}.dcm")
    for index, ct in enumerate(case.sources.ct):
        ds = objects[f"MR_1/{index + 1:04d}.dcm"]
        assert ds.FrameOfReferenceUID == CT_FRAME
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            received = as_received(ct).get_item(keyword).value
            assert ds.get_item(keyword).value == received
        assert ds.PatientPosition == ("HFS" if which == "case" else "HFP")
        assert ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID == ct.SOPInstanceUID


def test_real_values_come_back_from_the_words_of_the_derivation(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """MR Image Storage has no Modality LUT: the map stands in words and is exact to 1/32766."""
    resampled = case.result.resampled[0]
    real, inside = resampled.image.voxels, resampled.valid.inside
    step = (real[inside].max() - real[inside].min()) / 32766
    for index in range(SHAPE[0]):
        ds = objects[f"MR_1/{index + 1:04d}.dcm"]
        assert "RescaleSlope" not in ds
        words = re.search(r"stored value \* (\S+) \+ (\S+);", ds.DerivationDescription)
        assert words is not None
        read = ds.pixel_array * float(words[1]) + float(words[2])
        assert np.abs(read - real[index])[inside[index]].max(initial=0) <= step
        assert np.array_equal(ds.pixel_array == ds.PixelPaddingValue, ~inside[index])


def test_mr_says_that_it_is_derived_and_how_it_was_acquired(objects: dict[str, Dataset]) -> None:
    """PS3.3 C.8.3.1: what all source instances agree on is copied, what differs is not."""
    ds = objects["MR_1/0003.dcm"]
    assert ds.SOPClassUID == MRImageStorage
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "MPR", "RESAMPLED"]
    assert (list(ds.ScanningSequence), ds.SequenceVariant) == (["GR", "IR"], "SP")
    assert ds.get_item("EchoTime").value == b"2.40"
    assert ds.InversionTime is None
    assert "TriggerTime" not in ds
    assert (ds.MagneticFieldStrength, ds.AcquisitionDate) == (3, "20260228")
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 5)
    assert [i.ReferencedSOPInstanceUID for i in ds.SourceImageSequence] == [
        f"{MR_SERIES}.{n}" for n in (1, 2, 3)
    ]
    assert ds.ContributingEquipmentSequence[0].Manufacturer == "Scanner works"
    other = ds.StudiesContainingOtherReferencedInstancesSequence[0]
    assert other.StudyInstanceUID == MR_STUDY
    assert ds.SeriesDescription == "MR T1 reg CT t1 vibe tra"


def test_enhanced_mr_is_read_from_its_functional_groups(objects: dict[str, Dataset]) -> None:
    """PS3.3 C.8.13: the same facts under other names; CHECK stands early for a warning."""
    ds = objects["MR_2/0003.dcm"]
    assert (ds.ScanningSequence, ds.SequenceVariant) == ("SE", "NONE")
    assert (ds.EchoTime, ds.RepetitionTime, ds.FlipAngle) == (92.5, 4200, 150)
    assert (ds.MRAcquisitionType, ds.EchoTrainLength) == ("2D", 16)
    assert ds.SeriesDescription.startswith("MR CHECK T2 reg CT t2 tse über")
    assert len(ds.SeriesDescription) <= 64
    assert "Engines differ by 2.9 mm." in ds.DerivationDescription


# --- REG ----------------------------------------------------------------------------------------


def test_matrix_sends_mr_points_to_the_ct_when_read_by_plain_pydicom(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """PS3.3 C.20.2: source to registered. Truth: a rotation about z by 7.5 deg, worked by hand."""
    ds = objects["REG_1.dcm"]
    assert ds.FrameOfReferenceUID == CT_FRAME
    identity, moving = ds.RegistrationSequence
    assert (identity.FrameOfReferenceUID, moving.FrameOfReferenceUID) == (CT_FRAME, MR_FRAME)
    assert len(identity.ReferencedImageSequence) == SHAPE[0]
    assert len(moving.ReferencedImageSequence) == 3
    assert np.array_equal(matrix_of(identity), np.eye(4))
    points = np.array([[0, 0, 0], [100, 0, 0], [0, -250.5, 0], [33, 44, -500]])
    here = points @ matrix_of(moving)[:3, :3].T + matrix_of(moving)[:3, 3]
    there = case.result.registrations[0].ct_from_mr.apply(points)
    assert np.abs(here - there).max() < 0.01
    rotation = matrix_of(moving)[:3, :3]
    assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-12

    turned = RigidTransform.from_parameters(
        rotation_deg=(0, 0, 90),
        translation_mm=(1, 2, 3),
        to_frame_uid=CT_FRAME,
        from_frame_uid=MR_FRAME,
    )
    by_hand = case.with_result(
        registrations=(replace(case.result.registrations[0], ct_from_mr=turned),), resampled=()
    )
    matrix = matrix_of(written(by_hand, until="REG_1.dcm")["REG_1.dcm"].RegistrationSequence[1])
    # the MR's x axis points to the back of the CT: (10, 0, 0) goes to (0, 10, 0) + (1, 2, 3)
    assert np.allclose(matrix @ (10, 0, 0, 1), (1, 12, 3, 1), atol=1e-9)


def matrix_of(item: Dataset) -> np.ndarray:
    """Return the one matrix of an item of Registration Sequence."""
    (registration_item,) = item.MatrixRegistrationSequence
    (matrix,) = registration_item.MatrixSequence
    assert matrix.FrameOfReferenceTransformationMatrixType == "RIGID"
    assert all(len(str(v)) <= 16 for v in matrix.FrameOfReferenceTransformationMatrix)
    return np.array(matrix.FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)


def test_a_failed_registration_says_so(case: EncodeCase) -> None:
    """A best guess that failed must not be taken for a registration by someone who reads a list."""
    failed = registration(CT_FRAME, [MR_SERIES], RegistrationStatus.FAIL, ("No overlap.",))
    changed_case = case.with_result(registrations=(failed,), resampled=())
    ds = written(changed_case, until="REG_1.dcm")["REG_1.dcm"]
    assert ds.ContentLabel == "CTMR_FAILED"
    for text in (ds.ContentDescription, ds.SeriesDescription):
        assert text.startswith("FAILED")
        assert "MUST NOT BE USED" in text


def test_series_tell_the_items_apart_when_ct_and_mr_share_a_frame(case: EncodeCase) -> None:
    """PS3.3 C.20.2: with one frame of reference the matrix holds for the images listed."""
    shared = registration(CT_FRAME, [MR_SERIES], RegistrationStatus.WARN, ("Moved 23 mm.",))
    changed_case = case.with_result(registrations=(shared,), resampled=())
    ds = written(changed_case, until="REG_1.dcm")["REG_1.dcm"]
    assert (ds.ContentLabel, "CHECK" in ds.ContentDescription) == ("CTMR_RIGID", True)
    images = [
        {i.ReferencedSOPInstanceUID.rsplit(".", 1)[0] for i in item.ReferencedImageSequence}
        for item in ds.RegistrationSequence
    ]
    assert images == [{CT_SERIES}, {MR_SERIES}]


# --- SEG ----------------------------------------------------------------------------------------


def test_segments_are_described(case: EncodeCase, objects: dict[str, Dataset]) -> None:
    """A segment per target, drawn and refined, with codes and algorithm; no empty frame."""
    ds = objects["SEG.dcm"]
    assert [
        (s.SegmentLabel, s.SegmentAlgorithmType, s.SegmentedPropertyTypeCodeSequence[0].CodeValue)
        for s in ds.SegmentSequence
    ] == [
        ("GTVn1", "MANUAL", "130051"),
        ("GTVn1_CT1MR1", "SEMIAUTOMATIC", "130051"),
        ("GTVp", "MANUAL", "228791009"),
    ]
    refined = case.result.targets[0].refinement.refined
    assert refined is not None
    masks = [case.result.targets[0].drawn, refined, case.result.targets[1].drawn]
    assert ds.NumberOfFrames == sum(int(m.inside.any(axis=(1, 2)).sum()) for m in masks)
    assert ds.FrameOfReferenceUID == CT_FRAME


def test_no_segmentation_is_written_when_no_target_has_a_voxel(case: EncodeCase) -> None:
    """An empty SEG is not valid; the report then stands alone and still holds the reasons."""
    grid: Geometry = case.result.case.ct.geometry
    nothing = Mask(grid, np.zeros(grid.shape, dtype=bool))
    target = replace(case.result.targets[1], drawn=nothing)
    objects = written(case.with_result(targets=(target,)))
    assert "SEG.dcm" not in objects
    assert any("the drawn contour stands" in text for text in texts_of(objects["SR.dcm"]))


# --- refusals -----------------------------------------------------------------------------------


def test_an_mr_of_a_failed_registration_is_refused(case: EncodeCase) -> None:
    """DESIGN: an MR that is not where it says must never reach a TPS in the CT's frame."""
    failed = registration(MR_FRAME, [MR_SERIES], RegistrationStatus.FAIL, ("No overlap.",))
    resampled = replace(case.result.resampled[0], registration=failed)
    check_refused(
        case.with_result(registrations=(failed,), resampled=(resampled,)), "registration failed"
    )


def test_a_deformation_is_refused_when_it_cannot_be_right(case: EncodeCase) -> None:
    """A failed registration has none, and none lies in another frame than the CT's."""
    grid = Geometry(CT_FRAME, np.eye(4), (3, 3, 3))
    field = DisplacementField(grid, np.zeros((3, 3, 3, 3), dtype=np.float32))
    failed = registration(MR_FRAME, [MR_SERIES], RegistrationStatus.FAIL, ("No overlap.",))
    failed = replace(failed, deformation=field)
    check_refused(case.with_result(registrations=(failed,), resampled=()), "not have a deform")
    elsewhere = replace(field, geometry=Geometry(MR_FRAME, np.eye(4), (3, 3, 3)))
    strange = replace(case.result.registrations[0], deformation=elsewhere)
    check_refused(case.with_result(registrations=(strange,), resampled=()), "a deformation does")


def test_sources_of_another_case_are_refused(case: EncodeCase) -> None:
    """Wrong order, frame, structure set, missing MR or a naive time: each is named."""
    sources, result = case.sources, case.result
    turned = replace(sources, ct=sources.ct[::-1])
    check_refused(replace(case, sources=turned), "slice order")
    check_refused(replace(case, sources=replace(sources, ct=sources.ct[1:])), "13 CT datasets")
    check_refused(replace(case, sources=replace(sources, mr={})), "MR series .* are absent")
    other = as_received(sources.structure_set)
    other.SOPInstanceUID = "1.2.3"
    check_refused(replace(case, sources=replace(sources, structure_set=other)), "structure set")
    naive = replace(case.authorship, created=datetime(2026, 1, 1))  # noqa: DTZ001 - the fault
    check_refused(replace(case, authorship=naive), "time zone")
    away = replace(
        result.resampled[0], valid=Mask(result.case.ct.geometry, np.zeros(SHAPE, dtype=bool))
    )
    check_refused(case.with_result(resampled=(away,)), "covers no voxel")
    nameless = as_received(sources.ct[3])
    del nameless.FrameOfReferenceUID
    ct = (*sources.ct[:3], nameless, *sources.ct[4:])
    check_refused(replace(case, sources=replace(sources, ct=ct)), "FrameOfReferenceUID")


def test_mr_series_without_technique_is_written_with_the_standard_s_unknown(
    case: EncodeCase,
) -> None:
    """PS3.3 C.8.3.1: type 1 attributes that a de-identified source lacks become RM and NONE."""
    bare = tuple(as_received(ds) for ds in case.sources.mr[MR_SERIES])
    for ds in bare:
        for keyword in ("ScanningSequence", "SequenceVariant", "EchoTime", "Manufacturer"):
            delattr(ds, keyword)
    mr = {**case.sources.mr, MR_SERIES: bare}
    changed_case = replace(case, sources=replace(case.sources, mr=mr))
    ds = written(changed_case, until="MR_1/0001.dcm")["MR_1/0001.dcm"]
    assert (ds.ScanningSequence, ds.SequenceVariant, ds.EchoTime) == ("RM", "NONE", None)
    assert len(ds.ContributingEquipmentSequence) == 1
    assert MR_SERIES_B not in str(ds)
