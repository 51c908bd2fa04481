"""Further ROIs from a target, by the protocol's rules: variants of it, and margins round them.

Deliberately decides nothing: every number comes from the protocol, and each ROI says of itself how
it was made.

Read first: ICRU Report 83 (2010), chapter 4 (target volumes and margins).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from handlers.margins import Margins, Shape, cut_out, grow, intersection, shape_of, union
from handlers.results import DerivedTarget, Refinement
from handlers.roi_names import derived_name, matches
from handlers.values import Finding, Mask, Roi, Severity


@dataclass(frozen=True, slots=True)
class ClipRule:
    """Organs (ROI name patterns) that a margin stays away from, and how far in mm."""

    organ_patterns: tuple[str, ...]
    margin_mm: float = 0.0


@dataclass(frozen=True, slots=True)
class DerivedRule:
    """What to make from each target of these names.

    Attributes:
        name: Template of its name, or None for one by TG-263.
        interpreted_type: `GTV`, `CTV` or `PTV`.
        source: `drawn`, `refined`, `union`, `intersection`, or the name of an earlier rule.
        target_patterns: ROI name patterns of its targets.
        when_abstained: Whether a target that stays as drawn counts as its drawn contour.
        margins: What is added around it.
        clips: What the margin leaves out.
    """

    name: str | None
    interpreted_type: str
    source: str
    target_patterns: tuple[str, ...] = ("*",)
    when_abstained: Literal["drawn", "none"] = "drawn"
    margins: Margins = Margins.even(0.0)  # noqa: RUF009 - a frozen value
    clips: tuple[ClipRule, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TargetVersions:
    """A target as drawn and as refined (None: it stays as drawn), and what each is called."""

    roi: Roi
    drawn: Mask
    refinement: Refinement
    refined_name: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    shape: Shape
    told: str
    has_mr: bool
    is_drawn: bool = False


def derive(
    target: TargetVersions,
    rules: Sequence[DerivedRule],
    organs: Mapping[str, Mask],
    taken: set[str],
) -> tuple[tuple[DerivedTarget, ...], tuple[Finding, ...]]:
    """Return the further ROIs of one target, and why any of them was not made as told.

    Args:
        target: Its versions.
        rules: In order; a rule may build on those before it.
        organs: All structures that are no target, on the same grid, by ROI name.
        taken: Case-folded ROI names that are in use; the new ones are added.
    """
    rules = [rule for rule in rules if matches(target.roi.name, rule.target_patterns)]
    versions = _versions(target) if rules else {}
    made: list[DerivedTarget] = []
    findings: list[Finding] = []
    for rule in rules:
        start = versions.get(rule.source)
        if target.refinement.refined is None and rule.when_abstained == "none":
            start, reason = None, "the target stays as drawn"
        else:
            reason = f"'{rule.source}' was not made from it, or is empty"
        if start is None or not start.shape.mask.inside.any():
            called = rule.name or rule.interpreted_type
            text = f"no '{called}' is made from target '{target.roi.name}': {reason}"
            findings.append(Finding("derived.not_made", Severity.WARNING, text))
            continue
        result, missing = _with_margin(start, rule, organs)
        name = derived_name(
            rule.name, rule.interpreted_type, target.roi.name, taken, has_mr=result.has_mr
        )
        taken.add(name.casefold())
        if rule.name is not None:
            versions[rule.name] = result
        level = None if result.is_drawn else result.shape.level
        made.append(
            DerivedTarget(name, rule.interpreted_type, result.shape.mask, result.told, level)
        )
        findings += [
            Finding(
                "derived.organ_absent",
                Severity.WARNING,
                f"'{name}' was to stay away from {pattern}, but no such ROI is drawn",
            )
            for pattern in missing
        ]
    return tuple(made), tuple(findings)


def _versions(target: TargetVersions) -> dict[str, _Made]:
    """Return what a rule can start from; all are the drawn contour if the target stays so."""
    named = f"ROI {target.roi.number} ({target.roi.name})"
    drawn = _Made(shape_of(target.drawn), f"Drawn {named}.", has_mr=False, is_drawn=True)
    if target.refinement.refined is None:
        told = f"Drawn {named}, since it was not refined."
        stays = _Made(drawn.shape, told, has_mr=False, is_drawn=True)
        return {"drawn": drawn, "refined": stays, "union": stays, "intersection": stays}
    refined = shape_of(target.refinement.refined, target.refinement.level)
    other = f"refined {target.refined_name}"
    return {
        "drawn": drawn,
        "refined": _Made(refined, f"From {named}: {other}.", has_mr=True),
        "union": _Made(
            union(drawn.shape, refined), f"Union of drawn {named} and {other}.", has_mr=True
        ),
        "intersection": _Made(
            intersection(drawn.shape, refined),
            f"Intersection of drawn {named} and {other}.",
            has_mr=True,
        ),
    }


def _with_margin(
    start: _Made, rule: DerivedRule, organs: Mapping[str, Mask]
) -> tuple[_Made, list[str]]:
    """Return a structure with its margin, and the patterns of organs that nobody drew."""
    if rule.margins.largest_mm == 0:
        return start, []
    grown = grow(start.shape, rule.margins)
    told = [start.told, f"Margin {rule.margins.told()}."]
    if _touches_border(grown.mask):
        told.append("It ends where the CT ends.")
    missing: list[str] = []
    voxel_cm3 = grown.mask.geometry.voxel_volume_mm3 / 1000.0
    for clip in rule.clips:
        missing += [
            p for p in clip.organ_patterns if not any(matches(name, [p]) for name in organs)
        ]
        for name, organ in organs.items():
            if not matches(name, clip.organ_patterns):
                continue
            before = grown.mask.inside
            grown = cut_out(grown, organ, kept=start.shape, margin_mm=clip.margin_mm)
            cut_cm3 = float(np.count_nonzero(before & ~grown.mask.inside)) * voxel_cm3
            shared_cm3 = float(np.count_nonzero(start.shape.mask.inside & organ.inside)) * voxel_cm3
            way = f"Stays {clip.margin_mm:g} mm from" if clip.margin_mm else "Stays out of"
            told.append(f"{way} {name} ({cut_cm3:.2f} cm3 left out).")
            if shared_cm3 > 0:
                told.append(
                    f"What it grew from overlaps {name} by {shared_cm3:.2f} cm3, which stays."
                )
    told += [f"No ROI {pattern} is drawn to stay away from." for pattern in missing]
    return _Made(grown, " ".join(told), has_mr=start.has_mr), missing


def _touches_border(mask: Mask) -> bool:
    return any(
        bool(side.any())
        for axis in range(3)
        for side in (mask.inside.take(0, axis), mask.inside.take(-1, axis))
    )
