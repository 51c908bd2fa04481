"""Several targets: refined ones never newly overlap, overlap that was drawn stays."""

from collections.abc import Mapping

import numpy as np
import pytest

from handlers.geometry import Geometry
from handlers.margins import shape_of
from handlers.neighbours import settle
from handlers.results import (
    MoveCause,
    Refinement,
    SurfaceMoves,
    TargetStatus,
    VolumeChange,
    VoxelField,
)
from handlers.values import Finding, Mask

GRID = Geometry("1.2", np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], (10, 10, 30))


def bar(first: int, last: int) -> Mask:
    """Return a bar of 6 x 6 voxels along x, from one column to another (inclusive)."""
    inside = np.zeros(GRID.shape, dtype=bool)
    inside[2:8, 2:8, first : last + 1] = True
    return Mask(GRID, inside)


def refined(mask: Mask, drawn: Mask, level: VoxelField | None = None) -> Refinement:
    added_cm3 = np.count_nonzero(mask.inside & ~drawn.inside) / 1000
    return Refinement(
        TargetStatus.REFINED,
        mask,
        ("used: T1 and the CT",),
        {"refined_cm3": mask.volume_cm3, "added_cm3": added_cm3, "separation": 0.95},
        level=level,
        changes=(VolumeChange(MoveCause.TARGET_SIGNAL, "", 0.0, added_cm3),),
        confidence=0.9,
    )


def settled(
    drawn: Mapping[str, Mask], proposed: Mapping[str, Mask]
) -> tuple[dict[str, Refinement], tuple[Finding, ...]]:
    """Settle; targets that nothing is proposed for stay as drawn."""
    refinements = {
        name: refined(proposed[name], mask)
        if name in proposed
        else Refinement(TargetStatus.ABSTAINED, None, ("no MR",))
        for name, mask in drawn.items()
    }
    return settle(drawn, refinements, {name: name for name in drawn})


def check_columns(refinement: Refinement, first: int, last: int) -> None:
    assert refinement.refined is not None
    assert np.array_equal(refinement.refined.inside, bar(first, last).inside)


def test_growth_when_it_enters_another_target_is_given_back() -> None:
    """Touching targets: what was drawn in one is never taken by the other, refined or not."""
    after, findings = settled({"a": bar(2, 10), "b": bar(11, 20)}, {"a": bar(1, 13)})
    check_columns(after["a"], 1, 10)
    assert after["a"].numbers == {
        "refined_cm3": pytest.approx(0.36),
        "added_cm3": pytest.approx(0.036),
        "separation": 0.95,
    }
    (change,) = after["a"].changes
    assert change.added_cm3 == pytest.approx(0.036)
    text = "it would have grown into 'b' by 0.11 cm3, which was given back"
    assert after["a"].reasons[-1] == text
    assert [(f.code, f.text) for f in findings] == [("target.gave_back", f"target 'a': {text}")]
    assert findings[0].numbers == {"volume_cm3": pytest.approx(0.108)}


def test_growth_when_it_reached_through_another_target_leaves_no_piece_behind() -> None:
    """Topology: what lies behind b (12 to 14) was reached only through it."""
    after, _ = settled({"a": bar(2, 8), "b": bar(10, 11)}, {"a": bar(1, 14)})
    check_columns(after["a"], 1, 9)


def test_voxels_when_two_targets_newly_claim_them_go_to_the_nearer() -> None:
    """Between a (to 8) and b (from 15), claimed by both: 9 to 11 are nearer to a, 12 to 14 to b."""
    after, findings = settled(
        {"a": bar(2, 8), "b": bar(15, 20)}, {"a": bar(2, 13), "b": bar(10, 20)}
    )
    check_columns(after["a"], 2, 11)
    check_columns(after["b"], 12, 20)
    assert len(findings) == 2


def test_voxels_when_equally_near_go_to_the_first() -> None:
    """One voxel column, in the middle of two targets, is nobody's twice."""
    after, _ = settled({"a": bar(2, 8), "b": bar(10, 20)}, {"a": bar(2, 9), "b": bar(9, 20)})
    check_columns(after["a"], 2, 9)
    assert after["b"].status is TargetStatus.ABSTAINED
    assert "nothing but growth into another target" in after["b"].reasons[0]


def test_overlap_when_it_was_drawn_stays() -> None:
    """Both drew 9 and 10; both keep them, and what they shrank elsewhere."""
    after, findings = settled(
        {"a": bar(2, 10), "b": bar(9, 20)}, {"a": bar(3, 10), "b": bar(9, 18)}
    )
    check_columns(after["a"], 3, 10)
    check_columns(after["b"], 9, 18)
    assert findings == ()


def test_targets_when_apart_are_left_as_they_are() -> None:
    """No rival, no change: the very same values."""
    drawn = {"a": bar(2, 8), "b": bar(15, 20)}
    proposed = {name: refined(mask, mask) for name, mask in drawn.items()}
    after, findings = settle(drawn, proposed, {name: name for name in drawn})
    assert all(after[name] is proposed[name] for name in drawn)
    assert findings == ()


def test_level_and_moves_when_growth_is_given_back_follow() -> None:
    """The contour ends between the two targets, and the displacement map says so."""
    drawn, other = bar(2, 10), bar(11, 20)
    grown = Mask(GRID, bar(1, 13).inside)
    at = np.array([[10.5, 5.0, 5.0], [2.0, 5.0, 5.0]])
    proposed = Refinement(
        TargetStatus.REFINED,
        grown,
        (),
        level=shape_of(grown).level,
        moves=SurfaceMoves(at, np.array([3.0, -0.2]), (MoveCause.TARGET_SIGNAL, None)),
        changes=(
            VolumeChange(MoveCause.TARGET_SIGNAL, "", 0.0, 0.144),
            VolumeChange(MoveCause.FAT, "", 0.05, 0.0),
        ),
    )
    staying = Refinement(TargetStatus.ABSTAINED, None, ("no MR",))
    after, _ = settle({"a": drawn, "b": other}, {"a": proposed, "b": staying}, {"a": "a", "b": "b"})
    result = after["a"]
    assert result.level is not None
    assert result.moves is not None
    assert result.refined is not None
    assert shape_of(result.refined, result.level).mask is result.refined
    assert result.moves.displacement_mm == pytest.approx([0.0, -0.2], abs=0.1)
    assert result.moves.causes == (None, None)
    # 108 of the 144 voxels that it would have won were given back
    told = [(change.cause, change.removed_cm3, change.added_cm3) for change in result.changes]
    assert told == [
        (MoveCause.FAT, 0.05, 0.0),
        (MoveCause.TARGET_SIGNAL, 0.0, pytest.approx(0.036)),
    ]


def test_outer_target_stays_as_drawn_and_the_inner_one_within_it() -> None:
    """A GTV within its CTV: refined apart, the GTV could leave it."""
    drawn = {"CTV": bar(5, 20), "GTV": bar(5, 10)}
    answers, _ = settled(drawn, {"CTV": bar(7, 16), "GTV": bar(3, 13)})
    assert answers["CTV"].status is TargetStatus.ABSTAINED
    assert "drawn around target 'GTV'" in answers["CTV"].reasons[0]
    check_columns(answers["GTV"], 5, 13)


def test_the_later_of_two_equal_targets_stays_as_drawn() -> None:
    """The same contour under two names: one answer, within the other."""
    drawn = {"GTV1": bar(5, 20), "GTV2": bar(5, 20)}
    answers, _ = settled(drawn, {"GTV1": bar(7, 20), "GTV2": bar(7, 20)})
    check_columns(answers["GTV1"], 7, 20)
    assert answers["GTV2"].status is TargetStatus.ABSTAINED
