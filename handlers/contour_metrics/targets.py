"""All contour measures of one target: its versions against each other and against what is around.

Knows no order of steps: what was proposed and derived comes with the target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from handlers.contour_metrics.comparing import compared, volumes_cm3
from handlers.contour_metrics.nearness import overlap_cm3, smallest_distance_mm
from handlers.contour_metrics.structure import Structure
from handlers.dose_results import EndCap
from handlers.results import (
    Content,
    DerivedTarget,
    MoveCause,
    Neighbour,
    SurfaceMap,
    TargetResult,
    VoxelField,
)
from handlers.sampling import contours_from_level, contours_from_mask
from handlers.values import Mask

INSIDE_CAUSES = (MoveCause.VESSEL, MoveCause.DUCT, MoveCause.BOWEL)
"""What is no target wherever it lies in one."""


def measured_target(
    target: TargetResult,
    organs: Mapping[str, Structure],
    cause_of: Callable[[str], MoveCause],
    end_cap: EndCap,
) -> TargetResult:
    """Return a target with all that is measured of its contours.

    The drawn target is measured by its own contours, what was proposed or derived by those that go
    out, so that all of them are measured as other systems will see them.

    Args:
        target: Its versions; what it holds of measures is replaced.
        organs: All other structures on the same grid, by ROI name; may be empty ones.
        cause_of: Tells what kind of thing an ROI name stands for.
        end_cap: Where structures end, for volumes by slices.

    Raises:
        GeometryMismatchError: Something lies on another grid.
        EmptyStructureError: A version of the target has no voxel inside.
    """
    drawn = Structure(target.drawn, target.source_roi.contours)
    refinement = target.refinement
    refined, metrics = None, dict[str, float]()
    surface_map: SurfaceMap | None = None
    if refinement.refined is not None:
        refined = _as_written(refinement.refined, refinement.level)
        comparison = compared(drawn, refined, end_cap)
        metrics, surface_map = comparison.figures, comparison.surface_map
    neighbours = _neighbours(drawn, refined, organs)
    masks = {
        **refinement.found,
        **{name: organ.mask for name, organ in organs.items() if not organ.is_empty},
    }
    return replace(
        target,
        metrics=metrics,
        organ_distances_mm={each.name: each.distance_mm for each in neighbours},
        derived=tuple(_measured_derived(each, drawn, organs, end_cap) for each in target.derived),
        volumes_cm3=volumes_cm3(drawn, end_cap),
        neighbours=neighbours,
        contents=_contents((drawn, refined or drawn), masks, cause_of),
        surface_map=surface_map,
    )


def _as_written(mask: Mask, level: VoxelField | None) -> Structure:
    """Return a new structure with the contours that are written of it."""
    if level is None:
        return Structure(mask, contours_from_mask(mask))
    return Structure(mask, contours_from_level(level, mask))


def _measured_derived(
    derived: DerivedTarget,
    drawn: Structure,
    organs: Mapping[str, Structure],
    end_cap: EndCap,
) -> DerivedTarget:
    made = _as_written(derived.mask, derived.level)
    return replace(
        derived,
        metrics=compared(drawn, made, end_cap).figures,
        neighbours=_neighbours(drawn, made, organs),
    )


def _neighbours(
    drawn: Structure, final: Structure | None, organs: Mapping[str, Structure]
) -> tuple[Neighbour, ...]:
    """Return how two versions of a target lie to each other structure that has an inside."""
    found = []
    for name, organ in organs.items():
        if organ.is_empty:
            continue
        before = overlap_cm3(drawn, organ), smallest_distance_mm(drawn, organ)
        after = before
        if final is not None:
            after = overlap_cm3(final, organ), smallest_distance_mm(final, organ)
        found.append(Neighbour(name, *after, *before))
    return tuple(found)


def _contents(
    versions: Sequence[Structure],
    masks: Mapping[str, Mask],
    cause_of: Callable[[str], MoveCause],
) -> tuple[Content, ...]:
    """Return what of the drawn and of the final target lies in vessels, ducts and bowel."""
    contents = []
    for cause in INSIDE_CAUSES:
        suspects = {name: mask for name, mask in masks.items() if cause_of(name) is cause}
        names, volumes = set[str](), []
        for version in versions:
            target = version.mask.inside[version.box]
            held = np.zeros_like(target)
            for name, mask in suspects.items():
                part = target & mask.inside[version.box]
                if part.any():
                    names.add(name)
                    held |= part
            voxel_cm3 = version.mask.geometry.voxel_volume_mm3 / 1000.0
            volumes.append(float(np.count_nonzero(held)) * voxel_cm3)
        if names:
            contents.append(Content(cause, tuple(sorted(names)), volumes[0], volumes[1]))
    return tuple(contents)
