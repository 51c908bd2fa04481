"""When a case is complete: missing slices, open associations, the clock, and what never changes."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.assembly import CaseProposal, Patience, StoredInstance
from node.readiness import ASK_AGAIN_S
from tests.stored_instances import (
    LIVER,
    START,
    WEEK_S,
    check_only_case,
    contours,
    ct,
    flat,
    images,
    linked,
    look,
    mr,
    stored,
)

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
    ("listed", "here", "missing", "more"),
    [
        (tuple(f"1.1.{i}" for i in range(267)), 48, "219 of 267", ""),
        (
            tuple(f"7.7.{i}" for i in range(267)),
            48,
            "267 of 267",
            "; none of the 48 that are here is listed",
        ),
        (tuple(f"1.1.{i}" for i in range(79 + 8)), 79, "8 of 87", ""),
    ],
    ids=["cropped series", "STS: new UIDs for slices, old references", "eight dangling references"],
)
def test_incomplete_ct_goes_on_with_a_warning_when_patience_has_ended(
    listed: tuple[str, ...], here: int, missing: str, more: str
) -> None:
    """Real shapes: what a structure set lists may never come; then time decides, and says so."""
    objects = [*ct(count=here), *mr(), contours(referenced_sop_instance_uids=listed)]
    text = f"{missing} CT slices that the structure set lists have not arrived{more}"
    check_only_case(objects, waiting=[text], next_look_s=600, at_s=599.9)
    case = check_only_case(objects, findings=["ct_incomplete"], at_s=600)
    assert case.findings[0].severity == "warning"
    assert case.findings[0].text == f"{text}; waiting has ended"


@pytest.mark.parametrize(
    ("z_mm", "sentence"),
    [
        ((0, 3, 6, 9), ""),
        ((0, 3, 6.01, 9), ""),
        ((0, 0, 3, 3, 6, 6, 9, 9), ""),
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
        check_only_case(objects, waiting=waiting, at_s=10 * WEEK_S, next_look_s=10 * WEEK_S + 2)
    slices = "1 of 6 CT slices that the structure set lists have not arrived"
    check_only_case(
        ct(is_open=True),
        mr(),
        contours(count=6),
        waiting=[slices, *waiting],
        at_s=10 * WEEK_S,
        next_look_s=10 * WEEK_S + 2,
    )
    no_mr = "no MR series of this patient has arrived"
    check_only_case(
        ct(is_open=True),
        contours(),
        waiting=[no_mr, *waiting],
        at_s=10 * WEEK_S,
        next_look_s=10 * WEEK_S + 2,
    )


def test_second_mr_blocks_when_it_has_only_begun_to_arrive() -> None:
    """Two slices of a series in an open association are not left behind."""
    check_only_case(
        ct(),
        mr(),
        mr("2.2", count=2, is_open=True),
        contours(),
        waiting=["an association that carries objects of this case is still open"],
        next_look_s=3602,
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
    plan = linked("RTPLAN", "4.1", "3.1", at_s=end_s - 100)
    check_only_case(objects, plan, rejection=rejection, at_s=end_s)
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
    one_way, other_way = (
        fingerprint(
            usual,
            mr("2.2", series_description="T2"),
            protocols=[LIVER.model_copy(update={"mr": patterns})],
        )
        for patterns in (("T2", "*"), ("", "*"))
    )
    assert one_way == other_way, "the order of preference is no content"
    others = [
        fingerprint(ct(), mr(), contours(sha256="other")),
        fingerprint(usual, mr("2.2")),
        fingerprint(usual, linked("RTPLAN", "4.1", "3.1")),
        fingerprint(usual, stored("REG", "4.4", registered_frame_uids=("9.2", "9.1"))),
        fingerprint(usual, protocols=[renamed]),
    ]
    assert len({first, *others}) == 6


# Properties

CROWD = flat(
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
        # the end of an association shows on no clock: it is asked for, again and again
        assert next_s == pytest.approx(at_s + ASK_AGAIN_S, abs=1e-3) or then(next_s) != answer(case)


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
