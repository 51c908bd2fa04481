"""Several targets side by side: what was refined must not make two of them overlap anew.

Overlap that the clinician drew stays. Deliberately never takes from a target what was drawn in it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.margins import block_around, cut_out, shape_of
from handlers.results import MoveCause, Refinement, SurfaceMoves, TargetStatus, VolumeChange
from handlers.sampling import signed_distance_of_array
from handlers.surface_figures import MOVED_MM
from handlers.values import Finding, Mask, Severity

Bools = npt.NDArray[np.bool_]
_T = TypeVar("_T", bound=Hashable)

HELD_SHARE = 0.9
"""A target that holds this much of another was drawn around it."""


def settle(
    drawn: Mapping[_T, Mask], refinements: Mapping[_T, Refinement], names: Mapping[_T, str]
) -> tuple[dict[_T, Refinement], tuple[Finding, ...]]:
    """Return refinements that do not newly overlap, and what was given back for it.

    A voxel that a target has newly claimed stays out of it if another was drawn there; if others
    have newly claimed it too, it goes to the one whose drawn contour is nearest (of equals: to the
    first). What is thereby cut off from all that was drawn in the target goes as well. A target
    that nothing new is left of abstains.

    Args:
        drawn: The targets as drawn, on one grid, by whatever tells them apart.
        refinements: What was proposed for each.
        names: ROI names, for people.
    """
    inner_of = _drawn_around(drawn)
    refinements = {
        key: _as_drawn(refinement, names[inner_of[key][0]]) if key in inner_of else refinement
        for key, refinement in refinements.items()
    }
    settled = dict(refinements)
    findings: list[Finding] = []
    for key, others in _rivals(drawn, refinements, inner_of).items():
        before = refinements[key]
        after = _given_back(drawn[key], before, others)
        if after is before or before.refined is None:
            continue
        left = after.refined if after.refined is not None else drawn[key]
        voxels = int(np.count_nonzero(before.refined.inside & ~left.inside))
        volume_cm3 = voxels * left.geometry.voxel_volume_mm3 / 1000.0
        rivals = " and ".join(f"'{names[other]}'" for other in others)
        text = f"it would have grown into {rivals} by {volume_cm3:.2f} cm3, which was given back"
        settled[key] = replace(after, reasons=(*after.reasons, text))
        findings.append(
            Finding(
                "target.gave_back",
                Severity.INFO,
                f"target '{names[key]}': {text}",
                {"volume_cm3": volume_cm3},
            )
        )
    return settled, tuple(findings)


def _drawn_around(drawn: Mapping[_T, Mask]) -> dict[_T, list[_T]]:
    """Return which targets hold which others; of two equal ones the later holds the first."""
    keys = list(drawn)
    sizes = {key: int(np.count_nonzero(drawn[key].inside)) for key in keys}
    found: dict[_T, list[_T]] = {}
    for outer in keys:
        for inner in keys:
            is_later = (sizes[outer], keys.index(outer)) > (sizes[inner], keys.index(inner))
            if inner == outer or not is_later:
                continue
            common = int(np.count_nonzero(drawn[outer].inside & drawn[inner].inside))
            if common >= HELD_SHARE * sizes[inner]:
                found.setdefault(outer, []).append(inner)
    return found


def _as_drawn(refinement: Refinement, inner: str) -> Refinement:
    if refinement.refined is None:
        return refinement
    reason = (
        f"it was drawn around target '{inner}' and stays as drawn: refined apart, they would no "
        "longer fit; let the protocol derive it from the inner one by a margin"
    )
    drawn_cm3 = {k: v for k, v in refinement.numbers.items() if k == "drawn_cm3"}
    return Refinement(
        TargetStatus.ABSTAINED,
        None,
        (reason, *refinement.reasons),
        drawn_cm3,
        probability=refinement.probability,
        found=refinement.found,
    )


def _rivals(
    drawn: Mapping[_T, Mask],
    refinements: Mapping[_T, Refinement],
    inner_of: Mapping[_T, Sequence[_T]],
) -> dict[_T, dict[_T, Bools]]:
    """Return for each refined target which voxels it must leave to which other target."""
    claims = {
        key: refined.inside & ~drawn[key].inside
        for key, refinement in refinements.items()
        if (refined := refinement.refined) is not None
    }
    found: dict[_T, dict[_T, Bools]] = {key: {} for key in claims}
    keys = list(drawn)
    for key, claim in claims.items():
        for other in keys:
            if other == key:
                continue
            is_held = key in inner_of.get(other, ())
            lost = claim & (drawn[other].inside != is_held)
            if other in claims and (both := claim & claims[other]).any():
                is_first = keys.index(key) < keys.index(other)
                lost |= both & ~_is_nearer(both, drawn[key], drawn[other], wins_ties=is_first)
            if lost.any():
                found[key][other] = lost
    return {key: others for key, others in found.items() if others}


def _is_nearer(places: Bools, one: Mask, other: Mask, *, wins_ties: bool) -> Bools:
    """Tell which of these voxels lie nearer to one target than to another; False elsewhere."""
    block = block_around(Mask(one.geometry, places | one.inside | other.inside), 0.0)
    one_mm, other_mm = (
        signed_distance_of_array(np.pad(mask.inside[block], 1), mask.geometry.spacing_mm)
        for mask in (one, other)
    )
    is_nearer = one_mm <= other_mm if wins_ties else one_mm < other_mm
    found = np.zeros(places.shape, dtype=np.bool_)
    found[block] = is_nearer[1:-1, 1:-1, 1:-1]
    return found & places


def _given_back(drawn: Mask, refinement: Refinement, others: Mapping[_T, Bools]) -> Refinement:
    """Return a refinement without the voxels of others; level, moves and volumes follow."""
    if refinement.refined is None:
        return refinement
    inside = _without_splinters(
        refinement.refined.inside & ~np.logical_or.reduce(list(others.values())), drawn
    )
    lost = refinement.refined.inside & ~inside
    shape = shape_of(refinement.refined, refinement.level)
    if np.array_equal(inside, drawn.inside):
        return Refinement(
            TargetStatus.ABSTAINED,
            None,
            ("nothing but growth into another target differed from the drawn contour",),
            {"drawn_cm3": drawn.volume_cm3},
            probability=refinement.probability,
            found=refinement.found,
        )
    cut = cut_out(shape, Mask(drawn.geometry, lost))
    voxel_cm3 = drawn.geometry.voxel_volume_mm3 / 1000.0
    lost_cm3 = float(np.count_nonzero(lost)) * voxel_cm3
    return replace(
        refinement,
        refined=cut.mask,
        level=cut.level if refinement.level is not None else None,
        numbers=_numbers(refinement.numbers, drawn, cut.mask),
        changes=_changes(refinement.changes, lost_cm3),
        moves=_moves(refinement.moves, cut.mask),
    )


def _without_splinters(inside: Bools, drawn: Mask) -> Bools:
    """Return a target without the pieces in which nothing was drawn, as lie behind a rival."""
    block = block_around(Mask(drawn.geometry, inside | drawn.inside), 0.0)
    pieces, count = ndimage.label(inside[block], ndimage.generate_binary_structure(3, 3))
    is_kept = np.zeros(count + 1, dtype=np.bool_)
    is_kept[np.unique(pieces[drawn.inside[block]])] = True
    is_kept[0] = False
    kept = np.zeros(inside.shape, dtype=np.bool_)
    kept[block] = is_kept[pieces]
    return kept


def _numbers(numbers: Mapping[str, float], drawn: Mask, refined: Mask) -> dict[str, float]:
    added = int(np.count_nonzero(refined.inside & ~drawn.inside))
    current = {
        "refined_cm3": refined.volume_cm3,
        "added_cm3": added * drawn.geometry.voxel_volume_mm3 / 1000.0,
        "volume_ratio": refined.volume_cm3 / drawn.volume_cm3,
    }
    return {name: current.get(name, value) for name, value in numbers.items()}


def _changes(changes: tuple[VolumeChange, ...], lost_cm3: float) -> tuple[VolumeChange, ...]:
    """Return the volumes by cause without what was added and given back, largest first."""
    left = []
    for change in changes:
        given_cm3 = min(lost_cm3, change.added_cm3)
        lost_cm3 -= given_cm3
        changed = replace(change, added_cm3=change.added_cm3 - given_cm3)
        if changed.added_cm3 > 1e-9 or changed.removed_cm3 > 0:
            left.append(changed)
    return tuple(sorted(left, key=lambda c: -(c.removed_cm3 + c.added_cm3)))


def _moves(moves: SurfaceMoves | None, refined: Mask) -> SurfaceMoves | None:
    """Return how far the drawn surface went outward now that some of it was given back."""
    if moves is None:
        return None
    block = block_around(refined, float(np.abs(moves.displacement_mm).max()))
    spacing_mm = refined.geometry.spacing_mm
    distance_mm = signed_distance_of_array(np.pad(refined.inside[block], 1), spacing_mm)
    at = refined.geometry.indices_from_points(moves.points_mm) - [side.start - 1 for side in block]
    way_mm = -ndimage.map_coordinates(distance_mm, at.T, order=1, mode="nearest")
    before = moves.displacement_mm
    after = np.where(before > 0, np.minimum(before, np.maximum(way_mm, 0.0)), before)
    causes = tuple(
        None if cause is MoveCause.TARGET_SIGNAL and way <= MOVED_MM else cause
        for cause, way in zip(moves.causes, after, strict=True)
    )
    return SurfaceMoves(moves.points_mm.copy(), after.astype(np.float64), causes)
