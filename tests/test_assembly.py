"""Which objects make a case, and when it is complete: rows of objects and the answer expected.

Times are seconds after `START`; the clock is an argument. Truth is worked out by hand.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.assembly import CaseProposal, Patience, StoredInstance, assemble
from node.config import Protocol
from node.header import InstanceHeader, header_from_file

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PATIENCE = Patience(incomplete_s=600.0, mr_wait_h=168.0)
LIVER = Protocol(name="liver", targets=("GTVn*", "GTV*"))
LATER_S = 3600.0
"""Every quiet period and all patience for slices has ended, the wait for MR has not."""

WEEK_S = 168 * 3600.0
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored(
    modality: str,
    uid: str,
    *,
    at_s: float = 0.0,
    sha256: str = "",
    is_open: bool = False,
    quiet_s: float = 60.0,
    replaces_other_content: bool = False,
    **given: Any,
) -> StoredInstance:
    """Return an object that arrived at START + `at_s`; `given` are attributes of its header."""
    usual = {
        "study_instance_uid": "5.1",
        "series_instance_uid": f"{uid}.series",
        "patient_id": "MARKED-ID",
        "patient_name": "MARKED^NAME",
        "patient_birth_date": "19500102",
        "patient_sex": "F",
        "study_date": "20260301",
        "frame_of_reference_uid": "9.1",
    }
    return StoredInstance(
        header=InstanceHeader(uid, "1.2.3", "1.2.4", modality, **{**usual, **given}),
        sha256=sha256 or f"content of {uid}",
        path=f"objects/{uid}",
        received_at=START + timedelta(seconds=at_s),
        association_is_open=is_open,
        quiet_s=quiet_s,
        replaces_other_content=replaces_other_content,
    )


def images(
    modality: str, series: str, count: int = 5, *, z_mm: Sequence[float] = (), **given: Any
) -> list[StoredInstance]:
    """Return a series of axial slices, 3 mm apart unless `z_mm` says otherwise."""
    positions = z_mm or [3.0 * i for i in range(count)]
    return [
        stored(
            modality,
            f"{series}.{i}",
            series_instance_uid=series,
            **{"position_mm": (0.0, 0.0, z), "orientation": AXIAL, **given},
        )
        for i, z in enumerate(positions)
    ]


def ct(series: str = "1.1", count: int = 5, **given: Any) -> list[StoredInstance]:
    return images("CT", series, count, **given)


def mr(series: str = "2.1", count: int = 5, **given: Any) -> list[StoredInstance]:
    usual = {"frame_of_reference_uid": "9.2", "study_instance_uid": "5.2"}
    return images("MR", series, count, **{**usual, **given})


def contours(uid: str = "3.1", series: str = "1.1", count: int = 5, **given: Any) -> StoredInstance:
    """Return a structure set that names `series` and lists its first `count` images."""
    listed = tuple(f"{series}.{i}" for i in range(count))
    usual = {
        "referenced_series_uid": series,
        "referenced_sop_instance_uids": listed,
        "roi_names": ("BODY", "gtvn_liver"),
    }
    return stored("RTSTRUCT", uid, **{**usual, **given})


def look(
    *objects: StoredInstance | Sequence[StoredInstance],
    at_s: float = LATER_S,
    protocols: Sequence[Protocol] = (LIVER,),
    patience: Patience = PATIENCE,
) -> tuple[CaseProposal, ...]:
    return assemble(_flat(objects), protocols, patience, START + timedelta(seconds=at_s))


def _flat(objects: Sequence[StoredInstance | Sequence[StoredInstance]]) -> list[StoredInstance]:
    return [
        one for part in objects for one in ([part] if isinstance(part, StoredInstance) else part)
    ]


def check_only_case(
    *objects: StoredInstance | Sequence[StoredInstance],
    waiting: Sequence[str] = (),
    rejection: str = "",
    next_look_s: float | None = None,
    findings: Sequence[str] = (),
    uids: Sequence[str] | None = None,
    **situation: Any,
) -> CaseProposal:
    """Check the one case that the objects make: sentences, next look, codes, objects by UID."""
    (case,) = look(*objects, **situation)
    assert case.waiting_for == tuple(waiting)
    assert case.rejection == rejection
    next_look = None if next_look_s is None else START + timedelta(seconds=next_look_s)
    assert case.next_look_at == next_look
    assert [finding.code for finding in case.findings] == list(findings)
    if uids is not None:
        assert sorted(i.header.sop_instance_uid for i in case.instances) == sorted(uids)
    assert not re.search("MARKED|19500102", repr(case)), "a patient's identity was told"
    return case


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
    cases = look(ct(), *others, contours(**given))
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
    nobody = {"patient_id": ""}
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
    issued = {"issuer_of_patient_id": "Here"}
    bare = {"patient_birth_date": "", "patient_sex": ""}
    check_only_case(ct(**issued), mr(**issued), contours(**bare))


# Plan, dose, registration


def linked(modality: str, uid: str, *referenced: str, **given: Any) -> StoredInstance:
    return stored(modality, uid, referenced_sop_instance_uids=referenced, **given)


def test_plan_dose_and_registration_join_when_they_refer_to_the_case() -> None:
    """peers.md 32: dose to plan to structure set; by frame if the dose names no plan."""
    plan, dose = linked("RTPLAN", "4.1", "3.1"), linked("RTDOSE", "4.2", "4.1")
    loose_dose = linked("RTDOSE", "4.3")
    registration = stored("REG", "4.4", registered_frame_uids=("9.2", "9.1"))
    strangers = [
        linked("RTPLAN", "4.5", "3.9"),
        linked("RTDOSE", "4.6", "4.5"),
        linked("RTDOSE", "4.7", frame_of_reference_uid="9.7"),
        stored("REG", "4.8", registered_frame_uids=("9.2", "9.7")),
    ]
    belonging = [*ct(), *mr(), contours(), plan, dose, loose_dose, registration]
    uids = [one.header.sop_instance_uid for one in belonging]
    check_only_case(belonging, strangers, uids=uids)


@pytest.mark.parametrize(
    ("objects", "code"),
    [
        ([linked("RTDOSE", "4.2", "4.1")], "dose_without_plan"),
        ([linked("RTPLAN", "4.1", "3.1", patient_id="OTHER")], "linked_identity_conflict"),
    ],
)
def test_plan_or_dose_is_left_out_with_a_finding_when_it_cannot_be_joined(
    objects: list[StoredInstance], code: str
) -> None:
    """A dose of an unknown plan, or another patient's plan, is not used silently."""
    check_only_case(ct(), mr(), contours(), objects, findings=[code], uids=[
        one.header.sop_instance_uid for one in [*ct(), *mr(), contours()]
    ])  # fmt: skip


# Evidence


def test_missing_slices_are_counted_when_the_structure_set_lists_more() -> None:
    """DESIGN 3: what is missing is named on the case."""
    partial = ct(count=212)[:-3]
    check_only_case(
        partial,
        mr(),
        contours(count=212),
        waiting=["3 of 212 CT slices that the structure set lists have not arrived"],
        next_look_s=600,
        at_s=599,
    )


@pytest.mark.parametrize(
    ("listed", "here", "missing"),
    [(267, 48, "219 of 267"), (79 + 8, 79, "8 of 87")],
    ids=["STS: cropped by the publisher", "pancreas-ct: eight dangling references"],
)
def test_incomplete_ct_goes_on_with_a_warning_when_patience_has_ended(
    listed: int, here: int, missing: str
) -> None:
    """Real shapes: what a structure set lists may never come; then time decides, and says so."""
    objects = [*ct(count=here), *mr(), contours(count=listed)]
    text = f"{missing} CT slices that the structure set lists have not arrived"
    check_only_case(objects, waiting=[text], next_look_s=600, at_s=599.9)
    case = check_only_case(objects, findings=["ct_incomplete"], at_s=600)
    assert case.findings[0].severity == "warning"
    assert case.findings[0].text == f"{text}; waiting has ended"


@pytest.mark.parametrize(
    ("z_mm", "sentence"),
    [
        ((0, 3, 6, 9), ""),
        ((0, 3, 6.01, 9), ""),
        ((0, 3, 3, 6, 6, 9), ""),
        ((0, 3, 7.4, 10.4), ""),
        ((0, 9), ""),
        ((-9, -6, 0, 3), "a gap: 6.0 mm between slice positions -6.0 and 0.0 mm"),
        ((3, 0, 12, 9), "a gap: 6.0 mm between slice positions 3.0 and 9.0 mm"),
        ((0, 3, 9, 12, 15, 24), "2 gaps, the largest 9.0 mm between slice positions 15.0 and 24.0"
         " mm"),
    ],
)  # fmt: skip
def test_gap_is_named_when_slices_are_unevenly_spaced(
    z_mm: tuple[float, ...], sentence: str
) -> None:
    """A step above 1.5 usual steps is a gap; repeated positions and rounding are not."""
    objects = [*ct(z_mm=z_mm), *mr(), contours(count=len(z_mm))]
    waiting = [f"the CT has {sentence} (usual spacing 3.0 mm)"] if sentence else []
    check_only_case(objects, waiting=waiting, next_look_s=600 if waiting else None, at_s=599)
    check_only_case(objects, findings=["ct_incomplete"] if waiting else [], at_s=600)


def test_gap_is_measured_along_the_normal_when_the_series_is_oblique() -> None:
    """Sagittal slices: steps are along x, whatever z does."""
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    even = [
        one
        for x in (0, 3, 6, 9)
        for one in images("CT", "1.1", 1, position_mm=(x, 0.0, x * x), orientation=sagittal)
    ]
    renamed = [
        stored("CT", f"1.1.{i}", series_instance_uid="1.1", orientation=sagittal,
               position_mm=one.header.position_mm)
        for i, one in enumerate(even)
    ]  # fmt: skip
    check_only_case(renamed, mr(), contours(count=4))


# Associations and the clock


def test_open_association_blocks_always() -> None:
    """Never start while something of the case is still being sent, however long it takes."""
    waiting = ["an association that carries objects of this case is still open"]
    for objects in (
        [*ct(is_open=True), *mr(), contours()],
        [*ct(), *mr(is_open=True), contours()],
        [*ct(), *mr(), contours(is_open=True)],
        [*ct(), *mr(), contours(), linked("RTPLAN", "4.1", "3.1", is_open=True)],
    ):
        check_only_case(objects, waiting=waiting, at_s=10 * WEEK_S)
    slices = "1 of 6 CT slices that the structure set lists have not arrived"
    check_only_case(
        ct(is_open=True), mr(), contours(count=6), waiting=[slices, *waiting], at_s=10 * WEEK_S
    )
    no_mr = "no MR series of this patient has arrived"
    check_only_case(ct(is_open=True), contours(), waiting=[no_mr, *waiting], at_s=10 * WEEK_S)


def test_second_mr_blocks_when_it_has_only_begun_to_arrive() -> None:
    """Two slices of a series in an open association are not left behind."""
    check_only_case(
        ct(),
        mr(),
        mr("2.2", count=2, is_open=True),
        contours(),
        waiting=["an association that carries objects of this case is still open"],
        findings=["mr_left_out"],
    )


@pytest.mark.parametrize(
    ("at_s", "waiting"),
    [
        (130.0, ["quiet period: 90 s left"]),
        (219.2, ["quiet period: 1 s left"]),
        (220.0, []),
    ],
)
def test_quiet_period_is_the_longest_since_the_newest_object(
    at_s: float, waiting: list[str]
) -> None:
    """Time only confirms: the newest object (of any kind) plus the slowest sender's quiet time."""
    check_only_case(
        ct(quiet_s=120.0),
        mr(at_s=50),
        contours(at_s=20),
        linked("RTPLAN", "4.1", "3.1", at_s=100),
        waiting=waiting,
        next_look_s=220 if waiting else None,
        at_s=at_s,
    )


def test_quiet_period_still_counts_when_patience_is_shorter() -> None:
    """Giving up on missing slices does not shorten the quiet period."""
    check_only_case(
        ct(quiet_s=1000.0),
        mr(),
        contours(count=6),
        waiting=["quiet period: 300 s left"],
        findings=["ct_incomplete"],
        next_look_s=1000,
        at_s=700,
    )


def test_case_without_mr_is_rejected_when_the_wait_has_ended_and_revives() -> None:
    """Every wait has an end; a late MR revives the case under the same id."""
    waiting = ["no MR series of this patient has arrived"]
    objects = [*ct(at_s=100), contours()]
    end_s = WEEK_S + 100
    first = check_only_case(objects, waiting=waiting, next_look_s=end_s, at_s=end_s - 1)
    rejection = "no MR series of this patient arrived within 168 h"
    check_only_case(objects, rejection=rejection, at_s=end_s)
    late = check_only_case(objects, mr(at_s=end_s + 5), at_s=end_s + 65)
    assert late.case_id == first.case_id
    assert late.fingerprint != first.fingerprint


def test_wait_for_mr_does_not_end_before_the_quiet_period() -> None:
    """With no patience at all the objects of one sending are still waited for."""
    none = Patience(incomplete_s=0.0, mr_wait_h=0.0)
    waiting = ["no MR series of this patient has arrived"]
    objects = [*ct(), contours()]
    check_only_case(objects, waiting=waiting, next_look_s=60, at_s=59, patience=none)
    check_only_case(objects, rejection="no MR series of this patient arrived within 0 h",
                    at_s=60, patience=none)  # fmt: skip


def test_only_unfit_mr_is_told_apart_from_none() -> None:
    """The operator learns that MR came and why it was not taken."""
    check_only_case(
        ct(),
        mr(count=2),
        contours(),
        waiting=["no MR series that the protocol wants has arrived (1 left out, see the findings)"],
        findings=["mr_left_out"],
        next_look_s=WEEK_S,
    )


def test_case_without_ct_is_rejected_when_the_wait_has_ended() -> None:
    """A structure set whose CT never comes does not wait for ever."""
    check_only_case(
        contours(),
        mr(),
        rejection="no CT that the structure set was drawn on arrived within 168 h (5 slices "
        "listed)",
        at_s=WEEK_S,
    )


# Content


def test_replaced_content_is_told_when_an_object_of_the_case_has_two_versions() -> None:
    """STYLE 4.1: same UID, other content: the newest counts, with a finding on every case."""
    replaced = contours(replaces_other_content=True)
    case = check_only_case(ct(), mr(), replaced, findings=["replaced_content"])
    assert case.findings[0].severity == "warning"
    assert "1 RTSTRUCT objects" in case.findings[0].text
    check_only_case(ct(), mr(), contours(), mr("2.2", count=2, replaces_other_content=True),
                    findings=["mr_left_out"])  # fmt: skip


def test_fingerprint_follows_content_and_protocol_and_nothing_else() -> None:
    """Another fingerprint makes another revision: content counts, time and circumstances do not."""
    usual = [*ct(), *mr(), contours()]
    renamed = LIVER.model_copy(update={"name": "other"})

    def fingerprint(*objects: Any, **situation: Any) -> str:
        return look(*objects, **situation)[0].fingerprint

    first = fingerprint(usual)
    assert re.fullmatch("[0-9a-f]{64}", first)
    for same in (
        fingerprint(usual, at_s=30),
        fingerprint(ct(at_s=900, quiet_s=5), mr(is_open=True), contours()),
        fingerprint(usual, mr("2.2", count=2)),
        fingerprint(usual, stored("SR", "7.1")),
    ):
        assert same == first
    others = [
        fingerprint(ct(), mr(), contours(sha256="other")),
        fingerprint(usual, mr("2.2")),
        fingerprint(usual, linked("RTPLAN", "4.1", "3.1")),
        fingerprint(usual, stored("REG", "4.4", registered_frame_uids=("9.2", "9.1"))),
        fingerprint(usual, protocols=[renamed]),
    ]
    assert len({first, *others}) == 6


# Properties

CROWD = _flat(
    [
        ct(count=6),
        ct("1.2", z_mm=(0, 3, 9, 12), frame_of_reference_uid="9.3", at_s=40, is_open=True),
        ct("1.3", count=3, frame_of_reference_uid="9.4", patient_id="OTHER"),
        mr(series_description="T1", at_s=200),
        mr("2.2", count=2, at_s=10),
        mr("2.3", acquisition_date="20200101"),
        mr("2.4", patient_sex="M", frame_of_reference_uid="9.1"),
        contours(count=7, at_s=100),
        contours("3.2", series="1.2", count=4, roi_names=("BODY",)),
        contours("3.3", series="2.1"),
        contours("3.4", referenced_series_uid="", referenced_sop_instance_uids=()),
        contours("3.5", series="1.9", frame_of_reference_uid="9.8"),
        contours("3.6", series="1.3", count=3, replaces_other_content=True),
        linked("RTPLAN", "4.1", "3.1", at_s=300),
        linked("RTDOSE", "4.2", "4.1"),
        linked("RTDOSE", "4.3"),
        linked("RTDOSE", "4.4", "4.9"),
        stored("REG", "4.5", registered_frame_uids=("9.1", "9.2")),
    ]
)
TIMES_S = st.floats(0, 2 * WEEK_S) | st.floats(0, 1200)


@settings(max_examples=60, deadline=None)
@given(st.permutations(CROWD), TIMES_S)
def test_answer_is_the_same_for_any_order_of_the_objects(
    shuffled: list[StoredInstance], at_s: float
) -> None:
    """Pure and deterministic: order of arrival in the index changes nothing."""
    assert look(shuffled, at_s=at_s) == look(CROWD, at_s=at_s)


@settings(max_examples=60, deadline=None)
@given(st.permutations(CROWD))
def test_case_ids_never_change_while_objects_arrive_in_any_order(
    arriving: list[StoredInstance],
) -> None:
    """A case keeps its id from its first object on: one id per structure set."""
    ids: dict[str, set[str]] = {}
    for count in range(len(arriving) + 1):
        for case in look(arriving[:count]):
            if case.structure_set_uid:
                ids.setdefault(case.structure_set_uid, set()).add(case.case_id)
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == len(ids)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, len(CROWD) - 1)), TIMES_S)
def test_nothing_changes_before_the_next_look_and_something_does_at_it(
    chosen: set[int], at_s: float
) -> None:
    """The scheduler may sleep until `next_look_at`: it misses nothing and wakes for a reason."""
    held = [CROWD[i] for i in sorted(chosen)]

    def answer(case: CaseProposal) -> tuple[Any, ...]:
        sentences = tuple(text.split(":")[0] for text in case.waiting_for)
        return case.case_id, sentences, case.rejection, case.findings

    for case in look(held, at_s=at_s):

        def then(moment_s: float, case_id: str = case.case_id) -> tuple[Any, ...]:
            return next(answer(c) for c in look(held, at_s=moment_s) if c.case_id == case_id)

        if case.next_look_at is None:
            assert then(at_s + 10 * WEEK_S) == answer(case)
            continue
        next_s = (case.next_look_at - START).total_seconds()
        assert next_s > at_s
        assert then(at_s + (next_s - at_s) * 0.99) == answer(case)
        assert then(next_s) != answer(case)


def test_answer_comes_quickly_when_a_patient_has_20000_instances() -> None:
    """Not quadratic: 40 CT and 40 MR series of 250 images, a structure set on each CT.

    Measured 0.5 s on two shared cores; a quadratic search over instances takes minutes.
    """
    held: list[StoredInstance] = []
    for i in range(40):
        held += ct(f"1.{i}", 250, frame_of_reference_uid=f"9.1.{i}")
        held += mr(f"2.{i}", 250)
        held.append(contours(f"3.{i}", f"1.{i}", 250, frame_of_reference_uid=f"9.1.{i}"))
    begun = datetime.now(UTC)
    cases = look(held)
    assert (datetime.now(UTC) - begun).total_seconds() < 20
    assert len(cases) == 40
    assert all(not case.waiting_for for case in cases)


# Real objects


def real(folder: Path) -> list[StoredInstance]:
    return [
        StoredInstance(header_from_file(path), path.name, path.name, START, False, 60.0)
        for path in sorted(folder.rglob("*.dcm"))
    ]


@pytest.mark.real_data
def test_real_sarcoma_case_goes_on_when_patience_has_ended(real_data: Path) -> None:
    """STS_002: 267 slices listed, 48 exist; a second RTSTRUCT is drawn on the MR."""
    held = real(real_data / "sarcoma-ct-mr" / "STS_002")
    text = "219 of 267 CT slices that the structure set lists have not arrived"
    check_only_case(held, waiting=[text], next_look_s=600, at_s=300)
    case = check_only_case(held, findings=["ct_incomplete"])
    assert len(case.instances) == 48 + 35 + 1


@pytest.mark.real_data
def test_real_patients_are_not_joined_when_they_lie_side_by_side(real_data: Path) -> None:
    """pancreas-ct (planning CT and CBCT, each with contours) and the liver MR of another."""
    protocol = Protocol(name="pancreas", targets=("ROI",))
    held = [*real(real_data / "pancreas-ct"), *real(real_data / "liver-mr")]
    cases = look(held, protocols=[protocol], at_s=2 * WEEK_S)
    assert sorted(bool(re.match("no MR series of this patient", c.rejection)) for c in cases) == [
        False,
        True,
    ]
    assert any(case.rejection.startswith("no ROI is a target") for case in cases)
    assert all(case.mr_series_uids == () for case in cases)


@pytest.mark.real_data
def test_real_dose_and_plan_join_their_structure_set(real_data: Path) -> None:
    """rt-dose-plan: the dose refers to the plan, the plan to the structure set; 1 of 98 slices."""
    protocol = Protocol(name="breast", targets=("Tumor Bed",))
    (case,) = look(real(real_data / "rt-dose-plan"), protocols=[protocol])
    kinds = sorted(one.header.modality for one in case.instances)
    assert kinds == ["CT", "RTDOSE", "RTPLAN", "RTSTRUCT"]
    assert "97 of 98 CT slices" in case.waiting_for[0]
