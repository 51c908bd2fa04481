"""What a peer's answer means for a case: worked out by hand, without a network."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from node.assembly import CaseProposal, StoredInstance, assemble
from node.completeness import Elsewhere, Told
from node.config import Protocol
from node.protocol import FetchRule
from tests.stored_instances import LATER_S, PATIENCE, START, contours, ct, flat, mr

RULE = FetchRule(peer="pacs", priors=())
ASKING = Protocol(name="liver", targets=("GTV*",), fetch=(RULE,))
WITH_PRIORS = ASKING.model_copy(update={"fetch": (RULE.model_copy(update={"priors": ("CT",)}),)})
QUIET_OVER_S = 61.0
"""The quiet period (60 s) has passed, the patience for what is missing (600 s) has not."""


def told(asked_s: float = 61.0, **given: Any) -> Told:
    return Told(START + timedelta(seconds=asked_s), **{"is_answered": True, **given})


def counts(**by_series: Told) -> Elsewhere:
    """Return what peer `pacs` said of the series `ct` (1.1) and `mr` (2.1)."""
    uids = {"ct": "1.1", "mr": "2.1"}
    return Elsewhere({("count", "pacs", uids[name]): one for name, one in by_series.items()})


def only_case(
    *objects: StoredInstance | Sequence[StoredInstance],
    elsewhere: Elsewhere,
    at_s: float = QUIET_OVER_S,
    protocol: Protocol = ASKING,
) -> CaseProposal:
    now = START + timedelta(seconds=at_s)
    (case,) = assemble(flat(objects), (protocol,), PATIENCE, now, elsewhere)
    assert not re.search("MARKED|19500102", repr(case)), "a patient's identity was told"
    return case


def whole() -> list[StoredInstance]:
    return [*ct(), *mr(), contours()]


def findings(case: CaseProposal) -> list[tuple[str, str]]:
    return [(one.code, str(one.severity)) for one in case.findings]


def test_questions_when_the_quiet_period_is_over_are_put_for_ct_and_mr() -> None:
    """Each series of the case is asked about, once it is quiet, and the case waits for that."""
    early = only_case(whole(), elsewhere=Elsewhere(), at_s=30.0)
    assert early.questions == ()
    assert early.next_look_at == START + timedelta(seconds=60)
    case = only_case(whole(), elsewhere=Elsewhere())
    asked = [(q.kind, q.peer, q.subject, q.study_uid, q.held, q.by) for q in case.questions]
    assert asked == [
        ("count", "pacs", "1.1", "5.1", 5, "move"),
        ("count", "pacs", "2.1", "5.2", 5, "move"),
    ]
    assert case.waiting_for == (
        "peer pacs is being asked how many images CT series ...1.1 has",
        "peer pacs is being asked how many images MR series ...2.1 has",
    )


def test_nothing_is_asked_when_the_protocol_has_no_rule_or_an_association_is_open() -> None:
    """Without a rule all is as before; while objects still come, no count can be compared."""
    without = ASKING.model_copy(update={"fetch": ()})
    assert only_case(whole(), elsewhere=Elsewhere(), protocol=without).waiting_for == ()
    moving = [*ct(is_open=True), *mr(is_open=True), contours()]
    assert only_case(moving, elsewhere=Elsewhere()).questions == ()


def test_case_is_ready_when_the_peer_has_as_many() -> None:
    """Equal counts, or more here than there, are evidence: told, and nothing is waited for."""
    case = only_case(whole(), elsewhere=counts(ct=told(count=5), mr=told(count=4)))
    assert case.waiting_for == ()
    assert case.questions == ()
    assert findings(case) == [("complete_at_peer", "info")] * 2


def test_case_waits_when_the_peer_has_more_and_sends_it() -> None:
    """A case is not computed from 5 images while 7 are on their way."""
    coming = counts(ct=told(count=7, coming=1), mr=told(count=5))
    case = only_case(whole(), elsewhere=coming)
    assert case.waiting_for == (
        "2 of 7 images of CT series ...1.1 are still at pacs: being fetched",
    )
    late = only_case(whole(), elsewhere=coming, at_s=LATER_S)
    assert late.waiting_for == ()
    assert ("series_incomplete", "warning") in findings(late)


def test_case_goes_on_with_a_warning_when_fetching_was_given_up() -> None:
    """What the peer has and does not send is told, and waited for no longer."""
    case = only_case(
        whole(), elsewhere=counts(ct=told(count=7, not_come="refused"), mr=told(count=5))
    )
    assert case.waiting_for == ()
    (text,) = [one.text for one in case.findings if one.code == "series_incomplete"]
    assert text == "2 of 7 images of CT series ...1.1 are still at pacs: not fetched: refused"


def test_question_is_put_again_when_more_images_came_after_the_answer() -> None:
    """An answer is as old as it is: images that came later make it stale."""
    later = [*ct(count=4), *ct(count=5, at_s=100.0)[4:], *mr(), contours()]
    known = counts(ct=told(61.0, count=4), mr=told(61.0, count=5))
    assert only_case(later, elsewhere=known, at_s=130.0).questions == ()
    (question,) = only_case(later, elsewhere=known, at_s=161.0).questions
    assert (question.subject, question.held) == ("1.1", 5)


def test_question_is_not_put_again_when_the_same_images_came_with_other_bytes() -> None:
    """An archive that stamps the time into what it sends would be asked, and send, without end."""
    same = [*ct(count=5, at_s=100.0), *mr(), contours()]
    owes = told(61.0, count=6, held=5, not_come="not sent")
    known = counts(ct=owes, mr=told(61.0, count=5))
    case = only_case(same, elsewhere=known, at_s=161.0)
    assert case.questions == ()
    assert ("series_incomplete", "warning") in findings(case)
    assert case.waiting_for == ()


def test_question_is_put_again_when_the_ct_that_was_not_there_is_named_anew() -> None:
    """A structure set that came again is a reason to look whether its CT is at the peer now."""
    known = counts(ct=told(61.0, count=0))
    (question,) = only_case(contours(at_s=100.0), elsewhere=known, at_s=161.0).questions
    assert (question.subject, question.held) == ("1.1", 0)


def test_case_goes_on_after_its_patience_when_the_peer_is_down() -> None:
    """A peer that cannot be asked delays a case, and a finding tells of it; it does not stop it."""
    down = told(is_answered=False, reason="no connection")
    known = counts(ct=down, mr=down)
    case = only_case(whole(), elsewhere=known)
    assert case.waiting_for[0] == (
        "peer pacs could not be asked how many images CT series ...1.1 has yet: no connection"
    )
    late = only_case(whole(), elsewhere=known, at_s=LATER_S)
    assert late.waiting_for == ()
    assert findings(late) == [("completeness_unknown", "warning")] * 2


def test_case_goes_on_at_once_when_the_peer_refuses_for_good() -> None:
    """There is no use in waiting for an answer that will not come."""
    refused = told(is_answered=False, is_given_up=True, reason="not authorized")
    case = only_case(whole(), elsewhere=counts(ct=refused, mr=refused))
    assert case.waiting_for == ()
    assert findings(case) == [("completeness_unknown", "warning")] * 2


def test_case_is_ready_when_the_peer_does_not_hold_its_series() -> None:
    """A peer that never had the MR proves nothing about it."""
    case = only_case(whole(), elsewhere=counts(ct=told(count=0), mr=told(count=None)))
    assert case.waiting_for == ()
    assert findings(case) == [("not_at_peer", "info"), ("completeness_unknown", "warning")]


def test_ct_when_it_is_not_here_is_asked_for_by_the_reference_of_the_structure_set() -> None:
    """A structure set names the series it was drawn on: that series can be fetched."""
    case = only_case(mr(), contours(), elsewhere=Elsewhere())
    assert {(q.subject, q.held) for q in case.questions} == {("1.1", 0), ("2.1", 5)}
    coming = counts(ct=told(count=5, coming=1), mr=told(count=5))
    waiting = only_case(mr(), contours(), elsewhere=coming).waiting_for
    assert (
        "5 of 5 images of the CT that the structure set was drawn on are still at pacs: "
        "being fetched" in waiting
    )


def test_priors_when_wanted_are_asked_once_and_waited_for_within_the_patience() -> None:
    """A case waits for the patient's other studies as it waits for missing slices."""
    case = only_case(
        whole(), elsewhere=counts(ct=told(count=5), mr=told(count=5)), protocol=WITH_PRIORS
    )
    (question,) = case.questions
    assert (question.kind, question.subject, question.taken_on) == ("priors", "3.1", "20260301")
    assert question.known_studies == ("5.1",)
    assert (question.modalities, question.window_days) == (("CT",), 3650.0)
    known = counts(ct=told(count=5), mr=told(count=5))
    asked = ("priors", "pacs", "3.1")
    coming = Elsewhere({**known.told, asked: told(coming=2, notes=("1 study not fetched",))})
    waiting = only_case(whole(), elsewhere=coming, protocol=WITH_PRIORS)
    assert waiting.questions == ()
    assert waiting.waiting_for == ("2 series of other studies are being fetched from pacs",)
    late = only_case(whole(), elsewhere=coming, protocol=WITH_PRIORS, at_s=LATER_S)
    assert late.waiting_for == ()
    assert ("priors_not_fetched", "warning") in findings(late)
    assert ("priors", "warning") in findings(late)


@pytest.mark.parametrize("is_prior", [False, True])
def test_structure_set_that_was_fetched_as_a_prior_starts_no_case(*, is_prior: bool) -> None:
    """What we fetched to look at must not send an old plan's result to the planning system."""
    old = {"frame_of_reference_uid": "9.9", "study_date": "20250301", "study_instance_uid": "5.9"}
    objects = [*whole(), *ct("1.9", **old), contours("3.9", "1.9", **old)]
    prior = frozenset({"1.9", "3.9.series"}) if is_prior else frozenset()
    known = Elsewhere(counts(ct=told(count=5), mr=told(count=5)).told, prior)
    cases = assemble(flat(objects), (ASKING,), PATIENCE, START + timedelta(seconds=61), known)
    assert [case.structure_set_uid for case in cases] == (["3.1"] if is_prior else ["3.1", "3.9"])
    assert [other.series_uid for other in cases[0].other_ct] == ["1.9"]
