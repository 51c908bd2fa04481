"""Which objects make a case: rows of objects and the answer expected, worked out by hand."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    LegacyConvertedEnhancedMRImageStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    RTBeamsTreatmentRecordStorage,
    SecondaryCaptureImageStorage,
)

from node.assembly import StoredInstance
from node.config import Protocol
from node.header import header_from_file
from tests.stored_instances import (
    AXIAL,
    LIVER,
    START,
    WEEK_S,
    check_only_case,
    contours,
    ct,
    images,
    linked,
    look,
    mr,
    stored,
)

# A case


def test_case_is_ready_when_all_has_arrived_and_is_quiet() -> None:
    """DESIGN 3: evidence complete, quiet period over: ready, with exactly its objects."""
    case = check_only_case(ct(), mr(), contours())
    assert (case.ct_series_uid, case.structure_set_uid) == ("1.1", "3.1")
    assert case.mr_series_uids == ("2.1",)
    assert case.protocol_name == "liver"
    assert len(case.instances) == 11


def test_no_case_is_made_when_nothing_is_held_or_all_is_ours() -> None:
    """DESIGN 3, loops: an object that Hilum made never starts a case."""
    assert look() == ()
    assert look(ct(is_ours=True), contours(is_ours=True)) == ()
    assert look(ct(), mr(), contours(), protocols=()) == ()


def test_result_of_ours_is_no_part_when_it_comes_back() -> None:
    """DESIGN 3, loops: our resampled MR does not join the case it was made from."""
    case = check_only_case(ct(), mr(), contours(), mr("2.9", is_ours=True))
    assert case.mr_series_uids == ("2.1",)


def test_case_id_is_the_same_when_objects_arrive_one_after_another() -> None:
    """The CT may come after the structure set: it stays the same case."""
    for structure_set in (
        contours(),
        contours(referenced_series_uid=""),
        contours(referenced_series_uid="", referenced_sop_instance_uids=()),
    ):
        ids = {
            case.case_id
            for held in ([], ct(count=2), ct(), [*ct(), *mr()])
            for case in look([*held, structure_set])
        }
        assert len(ids) == 1
        assert re.fullmatch("[0-9a-f]{16}", ids.pop())


def test_each_structure_set_makes_a_case_when_two_are_drawn_on_one_ct() -> None:
    """DESIGN 2: a case is one CT and one structure set."""
    cases = look(ct(), mr(), contours(), contours("3.2"))
    assert [case.structure_set_uid for case in cases] == ["3.1", "3.2"]
    assert len({case.case_id for case in cases}) == 2


# Which series a structure set was drawn on


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"referenced_series_uid": ""},
        {"referenced_series_uid": "8.8.unknown"},
        {"referenced_series_uid": "", "referenced_sop_instance_uids": ()},
    ],
    ids=["series", "instances", "instances of a renamed series", "frame of reference"],
)
def test_planning_ct_is_found_by_what_the_structure_set_names(given: dict[str, Any]) -> None:
    """By series, else by listed instances, else by the frame that only one CT has."""
    others = ct("1.2", frame_of_reference_uid="9.3"), mr(frame_of_reference_uid="9.1")
    alone = LIVER.model_copy(update={"other_ct": ()})
    cases = look(ct(), *others, contours(**given), protocols=[alone])
    assert [(c.ct_series_uid, c.structure_set_uid) for c in cases] == [("1.1", "3.1"), ("1.2", "")]
    assert cases[0].waiting_for == ()


def test_case_is_rejected_when_two_ct_share_the_only_frame_that_is_named() -> None:
    """Never guess which CT was drawn on; a scout in the same frame is no candidate."""
    vague = contours(referenced_series_uid="", referenced_sop_instance_uids=())
    scout = ct("1.0", count=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    check_only_case(ct(), scout, mr(), vague)
    check_only_case(
        ct(),
        ct("1.2"),
        mr(),
        vague,
        rejection="the structure set names neither series nor images, and 2 CT series lie in its "
        "frame of reference",
    )


def test_ct_with_most_listed_images_counts_when_no_series_is_named() -> None:
    """One stray reference does not hide the planning CT; a draw is no answer."""
    images_of_both = ("1.1.0", "1.1.1", "1.1.2", "1.1.3", "1.2.0")
    held = [*ct(), *ct("1.2"), *mr()]
    on_most = contours(referenced_series_uid="", referenced_sop_instance_uids=images_of_both)
    assert check_only_case(held, on_most).ct_series_uid == "1.1"
    on_both = contours(referenced_series_uid="", referenced_sop_instance_uids=images_of_both[3:])
    rejection = "the structure set lists images of 2 series alike and names none"
    check_only_case(held, on_both, rejection=rejection)


def test_another_ct_of_the_frame_is_not_taken_when_the_named_one_is_missing() -> None:
    """A CBCT in the CT's frame does not stand in for the CT that has not arrived."""
    case = check_only_case(
        ct("1.2"),
        mr(),
        contours(),
        waiting=["no CT that the structure set was drawn on has arrived (5 slices listed)"],
        next_look_s=WEEK_S,
        at_s=100,
    )
    assert case.ct_series_uid == "1.1"


def test_no_case_is_made_when_the_structure_set_is_drawn_on_mr() -> None:
    """Real shape (STS): an RTSTRUCT on CT and one on MR, all in one frame: one case."""
    on_mr = contours("3.2", series="2.1", roi_names=("GTV_Mass_MR_T1",))
    t1 = mr(frame_of_reference_uid="9.1")
    case = check_only_case(ct(), t1, contours(), on_mr)
    assert case.structure_set_uid == "3.1"
    (placeholder,) = look(ct(), t1, on_mr)
    assert placeholder.structure_set_uid == ""


# Protocols


@pytest.mark.parametrize(
    "kept",
    [
        stored("CT", "8.1", series_instance_uid="1.1", sop_class_uid=SecondaryCaptureImageStorage),
        stored("CT", "8.2", sop_class_uid=SecondaryCaptureImageStorage, frame_of_reference_uid=""),
        images("CT", "8.3", sop_class_uid=RawDataStorage),
        images("MR", "8.4", sop_class_uid=MRSpectroscopyStorage),
        stored(
            "MR",
            "8.5",
            series_instance_uid="2.1",
            sop_class_uid=LegacyConvertedEnhancedMRImageStorage,
            series_description="another",
        ),
        stored("PR", "8.6", series_instance_uid="1.1"),
        stored("RTSTRUCT", "8.7", sop_class_uid=RawDataStorage, referenced_series_uid="1.1"),
        stored("REG", "8.8", sop_class_uid=RawDataStorage, registered_frame_uids=("9.1", "9.2")),
        linked("RTPLAN", "8.9", "3.1", sop_class_uid=RTBeamsTreatmentRecordStorage),
        stored("PT", "8.10", is_open=True, replaces_other_content=True),
    ],
)
def test_case_is_the_same_when_objects_that_are_only_kept_lie_beside_it(
    kept: StoredInstance | Sequence[StoredInstance],
) -> None:
    """Issue 4, 15: whatever they call themselves, in series of their own or in the case's."""
    (plain,) = look(ct(), mr(), contours())
    (case,) = look(ct(), mr(), contours(), kept)
    assert case == plain


def test_structure_set_when_drawn_on_a_kept_series_makes_no_case() -> None:
    """A structure set on a PET does not wait for a CT."""
    pet = images("PT", "8.1")
    assert look(pet, contours(series="8.1")) == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "liver"),
        ({"roi_names": ("ptv",)}, "any"),
        ({"structure_set_label": "Lung 1"}, "lung"),
        ({"series_description": "LUNG"}, "lung"),
        ({"structure_set_label": "Lung 1", "roi_names": ("PTV",)}, "any"),
    ],
)
def test_first_protocol_counts_whose_patterns_match_set_and_target(
    given: dict[str, Any], expected: str
) -> None:
    """Protocols are tried in order; patterns ignore case; label or description may match."""
    protocols = (
        Protocol(name="lung", structure_sets=("lung*",), targets=("GTV*",)),
        LIVER,
        Protocol(name="any", targets=("PTV*",)),
    )
    case = check_only_case(ct(), mr(), contours(**given), protocols=protocols)
    assert case.protocol_name == expected


def test_case_is_rejected_when_no_roi_is_a_target() -> None:
    """The physicist reads which ROIs there are and which patterns are wanted; real ROI names."""
    names = ("Bowel_sm_planCT", "ROI")
    check_only_case(
        ct(),
        mr(),
        contours(roi_names=names),
        rejection="no ROI is a target: the structure set has Bowel_sm_planCT, ROI; wanted is "
        "GTVn*, GTV*",
    )
    protocols = (LIVER, Protocol(name="lung", targets=("GTV*", "PTV_lung")))
    (case,) = look(contours(roi_names=names), protocols=protocols)
    assert case.rejection.endswith("wanted is GTVn*, GTV*, PTV_lung")
    (case,) = look(contours(roi_names=tuple(f"R{i}" for i in range(25))))
    assert case.rejection.endswith("R19 and 5 more; wanted is GTVn*, GTV*")
    (case,) = look(contours(roi_names=()))
    assert "the structure set has none" in case.rejection


def test_neither_case_nor_placeholder_is_made_when_no_protocol_applies() -> None:
    """A structure set for nobody is no case, and its CT does not wait for one."""
    only_lung = (Protocol(name="lung", structure_sets=("lung*",), targets=("GTV*",)),)
    assert look(ct(), mr(), contours(), protocols=only_lung) == ()


# Placeholders


def test_ct_waits_for_a_structure_set_when_none_was_drawn_on_it() -> None:
    """DESIGN 3: what is missing is named; a placeholder never becomes ready."""
    case = check_only_case(
        ct(count=48),
        mr(),
        waiting=["no structure set drawn on this CT has arrived (48 CT slices here)"],
        at_s=10 * WEEK_S,
    )
    assert (case.ct_series_uid, case.structure_set_uid) == ("1.1", "")
    assert case.case_id not in {later.case_id for later in look(ct(count=48), mr(), contours())}


@pytest.mark.parametrize(
    "other",
    [
        ct("1.2"),
        ct("1.2", frame_of_reference_uid="9.3", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
        ct("1.2", frame_of_reference_uid="9.3", position_mm=None),
    ],
    ids=["CBCT in the frame of a CT with contours", "scout", "screen shots"],
)
def test_ct_does_not_wait_when_no_structure_set_is_to_be_expected(
    other: list[StoredInstance],
) -> None:
    """A CBCT, a scout or a dose page of the scanner is no CT that somebody will draw on."""
    check_only_case(ct(), other, mr(), contours())


# MR


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"patient_sex": "M"}, "it has the CT's Patient ID, but sex differ"),
        ({"patient_birth_date": "19500103"}, "it has the CT's Patient ID, but birth date differ"),
        (
            {"issuer_of_patient_id": "Elsewhere"},
            "it has the CT's Patient ID, but Issuer of Patient ID differ",
        ),
        ({"acquisition_date": "20251230"}, "61 days from the CT, the protocol allows 60"),
        ({"acquisition_date": "20260501"}, "61 days from the CT, the protocol allows 60"),
        ({"series_description": "DWI"}, "its description matches none of T1*, *t2*"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "it holds localizers only"),
        ({"count": 2}, "2 images with a position are no volume"),
        ({"position_mm": None}, "0 images with a position are no volume"),
    ],
)
def test_mr_is_left_out_with_its_reason_when_it_does_not_fit(
    given: dict[str, Any], reason: str
) -> None:
    """DESIGN 3 and peers.md 33: which series were not taken and why is shown, without values."""
    protocol = Protocol(name="liver", targets=("GTV*",), mr=("T1*", "*t2*"))
    good = mr(series_description="t1 vibe")
    bad = mr("2.0", **{"series_description": "T2", **given})
    is_conflict = "Patient ID" in reason
    code = "mr_identity_conflict" if is_conflict else "mr_left_out"
    case = check_only_case(ct(), good, bad, contours(), findings=[code], protocols=[protocol])
    assert case.mr_series_uids == ("2.1",)
    described = given.get("series_description", "T2")
    assert case.findings[0].text == f'MR series "{described}" left out: {reason}'
    assert case.findings[0].severity == ("warning" if is_conflict else "info")


@pytest.mark.parametrize(
    "given",
    [
        {"acquisition_date": "20251231"},
        {"acquisition_date": "", "study_date": ""},
        {"acquisition_date": "2026.1.1", "study_date": "20260231"},
        {"patient_birth_date": "", "patient_sex": ""},
        {"count": 1, "number_of_frames": 3, "position_mm": None},
        {"frame_of_reference_uid": "9.1"},
    ],
    ids=["60 days", "no date", "no such date", "less identity", "multi-frame", "frame of the CT"],
)
def test_mr_is_taken_when_it_fits(given: dict[str, Any]) -> None:
    """MR of another study or day counts; what is absent contradicts nothing."""
    case = check_only_case(ct(), mr(**given), contours())
    assert case.mr_series_uids == ("2.1",)


def test_mr_of_another_patient_is_never_mentioned_when_it_is_held() -> None:
    """Real shape (liver-mr beside pancreas-ct): no join, and nothing told about the other."""
    check_only_case(
        ct(),
        mr(patient_id="OTHER"),
        contours(),
        waiting=["no MR series of this patient has arrived"],
        next_look_s=WEEK_S,
    )


def test_mr_is_left_out_when_its_images_are_of_two_patients() -> None:
    """A series with mixed identities is nobody's."""
    mixed = [*mr(), stored("MR", "2.1.9", series_instance_uid="2.1", patient_id="OTHER")]
    (case,) = look(ct(), mixed, contours())
    assert case.mr_series_uids == ()
    assert [f.code for f in case.findings] == ["mr_identity_conflict"]


def test_mr_is_joined_by_study_only_when_no_patient_id_is_known() -> None:
    """Without Patient ID, two studies are two patients."""
    nobody: dict[str, Any] = {"patient_id": ""}
    (case,) = look(ct(**nobody), mr(**nobody), contours(**nobody))
    assert case.mr_series_uids == ()
    (case,) = look(ct(**nobody), mr(**nobody, study_instance_uid="5.1"), contours(**nobody))
    assert case.mr_series_uids == ("2.1",)


def test_mr_series_are_ordered_by_pattern_then_description_then_uid() -> None:
    """`mr` patterns stand in order of preference."""
    protocol = Protocol(name="liver", targets=("GTV*",), mr=("*T1*", "*"))
    named = {"2.1": "ADC", "2.2": "t1 b", "2.3": "T1 a", "2.4": "T1 a", "2.5": "A0"}
    series = [mr(uid, series_description=text) for uid, text in named.items()]
    case = check_only_case(ct(), *series, contours(), protocols=[protocol])
    assert case.mr_series_uids == ("2.3", "2.4", "2.2", "2.5", "2.1")


def test_localizers_within_a_series_are_left_out_with_a_finding() -> None:
    """A scout in the planning CT's series neither makes a gap nor reaches the computation."""
    scout = stored(
        "CT", "1.1.99", series_instance_uid="1.1", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        position_mm=(0.0, 0.0, 500.0), orientation=AXIAL,
    )  # fmt: skip
    case = check_only_case(ct(), scout, mr(), contours(), findings=["localizer_left_out"])
    assert scout not in case.instances


def test_ct_without_frame_does_not_wait_when_a_structure_set_names_it() -> None:
    """The reference alone says that it has contours."""
    bare: dict[str, Any] = {"frame_of_reference_uid": ""}
    check_only_case(ct(**bare), mr(), contours(**bare))


# Two patients


@pytest.mark.parametrize(
    ("given", "attributes"),
    [
        ({"patient_id": "OTHER"}, "Patient ID"),
        ({"patient_id": ""}, "Patient ID"),
        ({"patient_sex": "M", "patient_birth_date": "19600101"}, "birth date, sex"),
    ],
)
def test_case_is_rejected_when_ct_and_structure_set_are_of_two_patients(
    given: dict[str, Any], attributes: str
) -> None:
    """Patients are never mixed: named by attribute, no value told, no MR of either joined."""
    check_only_case(
        ct(),
        mr(),
        mr("2.2", **given),
        contours(**given),
        rejection="the structure set and the CT it was drawn on carry different patient "
        f"identities ({attributes} differ): correct them at the sender and send both again",
        uids=[*(f"1.1.{i}" for i in range(5)), "3.1"],
    )


def test_case_is_rejected_when_the_ct_itself_is_of_two_patients() -> None:
    """One foreign slice makes the planning CT unfit."""
    foreign = stored("CT", "1.1.9", series_instance_uid="1.1", patient_id="OTHER")
    (case,) = look(ct(), foreign, mr(), contours())
    assert case.rejection.startswith("the images of the planning CT carry more than one patient")
    assert case.mr_series_uids == ()


def test_structure_set_belongs_when_its_maker_dropped_issuer_and_birth_date() -> None:
    """A TPS that drops optional identity does not make another patient."""
    issued: dict[str, Any] = {"issuer_of_patient_id": "Here"}
    bare: dict[str, Any] = {"patient_birth_date": "", "patient_sex": ""}
    check_only_case(ct(**issued), mr(**issued), contours(**bare))


# Plan, dose, registration


def test_plan_dose_and_registration_join_when_they_refer_to_the_case() -> None:
    """peers.md 32: dose to plan to structure set; by frame if the dose names no plan."""
    plan, dose = linked("RTPLAN", "4.1", "3.1"), linked("RTDOSE", "4.2", "4.1")
    loose_dose = linked("RTDOSE", "4.3")
    registration = stored("REG", "4.4", registered_frame_uids=("9.2", "9.1"))
    strangers = [
        linked("RTPLAN", "4.5", "3.9"),
        stored("REG", "4.8", registered_frame_uids=("9.2", "9.7")),
        stored("REG", "4.9", registered_frame_uids=("9.1", "9.2"), is_ours=True),
    ]
    belonging = [*ct(), *mr(), contours(), plan, dose, loose_dose, registration]
    uids = [one.header.sop_instance_uid for one in belonging]
    case = check_only_case(belonging, strangers, uids=uids)
    assert (case.dose_uids, case.plan_uids) == (("4.2", "4.3"), ("4.1",))


@pytest.mark.parametrize("frames", [("9.1",), ("9.2",)])
def test_registration_joins_when_it_may_tell_images_of_one_frame_apart(
    frames: tuple[str, ...],
) -> None:
    """C.20.2: an item may name its images alone; which, is read by decoding."""
    registration = stored("REG", "4.4", registered_frame_uids=frames)
    belonging = [*ct(), *mr(), contours(), registration]
    check_only_case(belonging, uids=[one.header.sop_instance_uid for one in belonging])


def test_registration_of_other_images_makes_no_new_revision() -> None:
    """A REG between the CT and a PET changes nothing of this case, and is told of."""
    usual = (ct(), mr(), contours())
    (before,) = look(*usual)
    pet = stored("REG", "4.4", registered_frame_uids=("9.1", "9.7"))
    after = check_only_case(*usual, pet, findings=["registration_unrelated"])
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("objects", "code"),
    [
        (
            [stored("REG", "4.4", registered_frame_uids=("9.2", "9.1"), patient_id="OTHER")],
            "linked_identity_conflict",
        ),
        ([linked("RTPLAN", "4.1", "3.1", patient_id="OTHER")], "linked_identity_conflict"),
    ],
)
def test_plan_or_dose_is_left_out_with_a_finding_when_it_cannot_be_joined(
    objects: list[StoredInstance], code: str
) -> None:
    """A dose of an unknown plan, or another patient's plan, is not used silently."""
    (case,) = look(mr(), contours(), objects)
    assert [finding.code for finding in case.findings] == [code]
    check_only_case(ct(), mr(), contours(), objects, findings=[code], uids=[
        one.header.sop_instance_uid for one in [*ct(), *mr(), contours()]
    ])  # fmt: skip


# Real objects: the counts were read with pydicom


def real(folder: Path) -> list[StoredInstance]:
    return [
        StoredInstance(header_from_file(path), path.name, path.name, START, False, 60.0)
        for path in sorted(folder.rglob("*.dcm"))
    ]


@pytest.mark.real_data
def test_real_sarcoma_case_goes_on_when_patience_has_ended(real_data: Path) -> None:
    """STS_002: 267 slices listed, 48 others here; a second RTSTRUCT is drawn on the MR."""
    held = real(real_data / "sarcoma-ct-mr" / "STS_002")
    text = (
        "267 of 267 CT slices that the structure set lists have not arrived; none of the 48 that "
        "are here is listed"
    )
    check_only_case(held, waiting=[text], next_look_s=600, at_s=300)
    case = check_only_case(held, findings=["ct_incomplete"])
    assert len(case.instances) == 48 + 35 + 1


@pytest.mark.real_data
def test_real_patients_are_not_joined_when_they_lie_side_by_side(real_data: Path) -> None:
    """pancreas-ct (planning CT and CBCT, each with contours) and the liver MR of another."""
    protocol = Protocol(name="pancreas", targets=("Stomach*",))
    held = [*real(real_data / "pancreas-ct"), *real(real_data / "liver-mr")]
    cases = look(held, protocols=[protocol], at_s=300)
    missing = sorted(case.waiting_for[0].split(" CT slices")[0] for case in cases)
    assert missing == ["29 of 134", "55 of 134"]
    # the planning CT has the CBCT to be compared with; the CBCT has nothing
    later = look(held, protocols=[protocol], at_s=2 * WEEK_S)
    assert [case.mr_series_uids for case in later] == [(), ()]
    with_cbct, alone = sorted(later, key=lambda case: -len(case.other_ct))
    assert [len(with_cbct.other_ct), len(alone.other_ct)] == [1, 0]
    assert "no_mr" in [finding.code for finding in with_cbct.findings]
    assert alone.rejection == "no MR series of this patient arrived within 168 h"


@pytest.mark.real_data
def test_real_dose_and_plan_join_their_structure_set(real_data: Path) -> None:
    """rt-dose-plan: the dose refers to the plan, the plan to the structure set; 1 of 98 slices."""
    protocol = Protocol(name="breast", targets=("Tumor Bed",))
    (case,) = look(real(real_data / "rt-dose-plan"), protocols=[protocol])
    kinds = sorted(one.header.modality for one in case.instances)
    assert kinds == ["CT", "RTDOSE", "RTPLAN", "RTSTRUCT"]
    assert "97 of 98 CT slices" in case.waiting_for[0]
