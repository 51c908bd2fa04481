"""The part of the grid around one target: what must stay, what may change, what is in the way.

Knows structures only, no image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry
from handlers.refinement.settings import RefinementSettings
from handlers.roi_names import matches
from handlers.sampling import signed_distance_mm
from handlers.values import Mask

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Block = tuple[slice, slice, slice]


FOUND_DOUBT_MM = 0.7
"""The border of a structure that was found is known no better."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A target and its surroundings, cropped; all arrays have the shape of `geometry`.

    Attributes:
        block: Where the crop lies in the full grid.
        geometry: Its grid.
        drawn: The target as drawn.
        distance_mm: Signed distance to its border, negative inside.
        core: What stays.
        allowed: What may be target afterwards; holds the core.
        shell: The surroundings that teach the background.
        structures: What bars or names the surroundings (neither context nor ignored), by ROI name.
        removed: Overlap of the drawn target with excluded structures that goes.
        removed_names: Their ROI names.
        context: ROI names that match an excluded pattern but hold nearly the whole target.
    """

    block: Block
    geometry: Geometry
    drawn: Bools
    distance_mm: Floats
    core: Bools
    allowed: Bools
    shell: Bools
    structures: Mapping[str, Bools]
    removed: Bools
    removed_names: tuple[str, ...]
    context: tuple[str, ...]

    @property
    def voxel_cm3(self) -> float:
        """Volume of one voxel in cm3."""
        return self.geometry.voxel_volume_mm3 / 1000.0

    @property
    def start(self) -> tuple[int, int, int]:
        """Slice, row and column of the full grid at which the crop begins."""
        z, y, x = (part.start for part in self.block)
        return z, y, x


def make_region(target: Mask, organs: Mapping[str, Mask], settings: RefinementSettings) -> Region:
    """Return the region of a target that has an inside."""
    block = _block(target, settings.shell_mm)
    start = (block[0].start, block[1].start, block[2].start)
    drawn = target.inside[block]
    geometry = target.geometry.crop(start, (drawn.shape[0], drawn.shape[1], drawn.shape[2]))
    distance_mm = signed_distance_mm(Mask(geometry, drawn.copy()))
    structures, context = _structures(drawn, block, organs, settings)
    excluded, barred = np.zeros_like(drawn), np.zeros_like(drawn)
    removed_names = []
    for name, inside in structures.items():
        if matches(name, settings.exclude_patterns) and settings.removes_overlap:
            excluded |= inside
            if (inside & drawn).any():
                removed_names.append(name)
        may_enter = matches(name, settings.may_enter_patterns) and bool((inside & drawn).any())
        if not may_enter:
            barred |= inside & ~drawn
    apart_mm = ndimage.distance_transform_edt(~drawn, sampling=geometry.spacing_mm)
    return Region(
        block=block,
        geometry=geometry,
        drawn=drawn,
        distance_mm=distance_mm,
        core=_core(drawn & ~excluded, drawn, geometry, settings),
        allowed=(apart_mm <= settings.max_outward_mm) & ~excluded & ~barred,
        shell=~drawn & (distance_mm <= settings.shell_mm),
        structures=structures,
        removed=drawn & excluded,
        removed_names=tuple(removed_names),
        context=tuple(context),
    )


def without_found(region: Region, found: Mapping[str, Bools]) -> Region:
    """Return the region with structures that were found there and are no target.

    They teach what the surroundings look like, and what lies within them, beyond the border's
    doubt, may not be target. What holds the whole core of a drawn piece is not believed there.

    Args:
        region: The target and its surroundings.
        found: Vessels, fluid and lumen by name.
    """
    taken = np.zeros_like(region.drawn)
    for inside in found.values():
        taken |= inside
    pieces, count = ndimage.label(region.drawn)
    for piece in range(1, count + 1):
        core = region.core & (pieces == piece)
        if core.any() and not (core & ~taken).any():
            taken &= pieces != piece
    if not taken.any():
        return region
    depth_mm = -signed_distance_mm(Mask(region.geometry, taken))
    return replace(
        region,
        core=region.core & ~taken,
        allowed=region.allowed & ~(depth_mm > FOUND_DOUBT_MM),
        structures={**region.structures, **{name: w & taken for name, w in found.items()}},
    )


def stays(region: Region, settings: RefinementSettings) -> Bools:
    """Return what no evidence takes away: the core, and what lies deeper than any way inward."""
    return region.core | (region.allowed & (region.distance_mm < -settings.max_inward_mm))


def tidy(inside: Bools, region: Region, settings: RefinementSettings) -> Bools:
    """Return the mask without islands and new holes: pieces of the drawn target only."""
    drawn_holes = ndimage.binary_fill_holes(region.drawn) & ~region.drawn
    filled = inside | (ndimage.binary_fill_holes(inside) & region.allowed & ~drawn_holes)
    labels, count = ndimage.label(filled)
    sizes = ndimage.sum_labels(filled, labels, np.arange(count + 1)) * region.voxel_cm3
    has_core = np.isin(np.arange(count + 1), labels[region.core])
    has_drawn = np.isin(np.arange(count + 1), labels[region.drawn & filled])
    keep = has_core | (has_drawn & (sizes >= settings.min_island_cm3))
    keep[0] = False
    return np.asarray(keep[labels])


def _block(target: Mask, margin_mm: float) -> Block:
    slices = []
    for axis, spacing in enumerate(target.geometry.spacing_mm):
        others = tuple(other for other in range(3) if other != axis)
        at = np.flatnonzero(target.inside.any(axis=others))
        margin = int(np.ceil(margin_mm / spacing)) + 2
        end = min(int(at[-1]) + margin + 1, target.geometry.shape[axis])
        slices.append(slice(max(int(at[0]) - margin, 0), end))
    return slices[0], slices[1], slices[2]


def _structures(
    drawn: Bools, block: Block, organs: Mapping[str, Mask], settings: RefinementSettings
) -> tuple[dict[str, Bools], list[str]]:
    """Return what bars or names the surroundings, and the excluded names that are context."""
    found: dict[str, Bools] = {}
    context = []
    for name, mask in organs.items():
        inside = mask.inside[block]
        if not inside.any() or matches(name, settings.ignore_patterns):
            continue
        held = int((inside & drawn).sum()) / int(drawn.sum())
        if held < settings.context_fraction:
            found[name] = inside
        elif matches(name, settings.exclude_patterns):
            context.append(name)
    return found, context


def _core(
    remaining: Bools, drawn: Bools, geometry: Geometry, settings: RefinementSettings
) -> Bools:
    """Return the innermost part of what remains of each drawn piece (of its largest fragment)."""
    core = np.zeros_like(drawn)
    if not remaining.any():
        return core
    depth_mm = -signed_distance_mm(Mask(geometry, remaining.copy()))
    pieces, count = ndimage.label(drawn)
    for piece in range(1, count + 1):
        fragments, parts = ndimage.label(remaining & (pieces == piece))
        if parts == 0:
            continue
        sizes = np.bincount(fragments.ravel())[1:]
        fragment = fragments == 1 + int(np.argmax(sizes))
        deepest = float(depth_mm[fragment].max())
        limit_mm = min(settings.core_fraction * deepest, settings.max_inward_mm)
        core |= fragment & (depth_mm >= limit_mm)
    return core
