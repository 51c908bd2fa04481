"""Cross-sections of a body, layer by layer: between its outlines, and where it ends.

Between two outlines that match and are convex, the outline of the convex body that holds both; else
the level of the wanted area in the depth field midway between theirs; of outlines that do not
match each as a slab that reaches halfway. Deliberately knows no patient axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.dosimetry.convex import convex_pair, hull_of
from handlers.dosimetry.coverage import Patch, depth_in_pixels, patch_of
from handlers.dosimetry.ends import MOST_GROWTH, AreaCurve
from handlers.dosimetry.planes import Plane

Floats = npt.NDArray[np.float64]

MOST_BLENDED_PLANES = 40
"""A body of more planes is made of slabs: from plane to plane it hardly changes."""

LEAST_COMMON_PART = 0.5
"""So much of the smaller of two neighbouring outlines lies in the other, or both stay slabs."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A cross-section: its middle height, what it covers, and the area that this stands for."""

    at_mm: float
    thickness_mm: float
    patch: Patch
    area_mm2: float


def layers_of(
    planes: Sequence[Plane], patches: Sequence[Patch], curve: AreaCurve, pixel_mm: float
) -> list[Layer]:
    """Return the body between and beyond the outlines of a stack of planes, layer by layer.

    Args:
        planes: Their outlines.
        patches: What the outlines cover, plane by plane.
        curve: Their heights and areas, and those between.
        pixel_mm: Of the raster of the patches; layers are about as thick.
    """
    found: list[Layer] = []
    for is_last, patch in ((False, patches[0]), (True, patches[-1])):
        found += _end_layers(patch, curve, pixel_mm, is_last=is_last)
    if len(patches) > MOST_BLENDED_PLANES:
        at = curve.at_mm
        borders = np.concatenate((at[:1], (at[1:] + at[:-1]) / 2.0, at[-1:]))
        for i, patch in enumerate(patches):
            ends = float(borders[i]), float(borders[i + 1])
            found += _slab(patch, *ends, float(curve.areas_mm2[i]), pixel_mm)
        return found
    hulls = [hull_of(plane) for plane in planes]
    for i in range(len(patches) - 1):
        pair = patches[i], patches[i + 1]
        found += (
            _convex_between(hulls, pair, i, curve, pixel_mm)
            or _between(pair, i, curve, pixel_mm)
            or _two_slabs(pair, i, curve, pixel_mm)
        )
    return found


def _cuts(low_mm: float, high_mm: float, pixel_mm: float) -> tuple[Floats, float]:
    """Return the middles of the layers between two heights, and their thickness."""
    count = max(int(np.ceil((high_mm - low_mm) / pixel_mm - 1e-6)), 1)
    thickness = (high_mm - low_mm) / count
    return np.asarray(low_mm + thickness * (np.arange(count) + 0.5)), thickness


def _end_layers(patch: Patch, curve: AreaCurve, pixel_mm: float, *, is_last: bool) -> list[Layer]:
    low, high = curve.end(is_last=is_last)
    if high <= low:
        return []
    middles, thickness = _cuts(low, high, pixel_mm)
    areas = [curve.area_mm2(float(at)) for at in middles]
    full = float(curve.areas_mm2[-1 if is_last else 0])
    if np.allclose(areas, full, rtol=1e-9):
        return [Layer(float(at), thickness, patch, full) for at in middles]
    wider = int(np.ceil((np.sqrt(MOST_GROWTH) - 1.0) * max(patch.covered.shape))) + 1
    start = (patch.start[0] - wider, patch.start[1] - wider)
    rows, columns = patch.covered.shape
    depth = depth_in_pixels(patch.within(start, (rows + 2 * wider, columns + 2 * wider)))
    return [
        Layer(float(at), thickness, Patch(start, _level_of_area(depth, area / pixel_mm**2)), area)
        for at, area in zip(middles, areas, strict=True)
        if area > 0
    ]


def _slab(
    patch: Patch, low_mm: float, high_mm: float, area_mm2: float, pixel_mm: float
) -> list[Layer]:
    middles, thickness = _cuts(low_mm, high_mm, pixel_mm)
    return [Layer(float(at), thickness, patch, area_mm2) for at in middles]


def _two_slabs(pair: tuple[Patch, Patch], i: int, curve: AreaCurve, pixel_mm: float) -> list[Layer]:
    low, high = float(curve.at_mm[i]), float(curve.at_mm[i + 1])
    middle = (low + high) / 2.0
    first, second = (float(area) for area in curve.areas_mm2[i : i + 2])
    return _slab(pair[0], low, middle, first, pixel_mm) + _slab(
        pair[1], middle, high, second, pixel_mm
    )


def _convex_between(
    hulls: Sequence[Floats | None],
    pair: tuple[Patch, Patch],
    i: int,
    curve: AreaCurve,
    pixel_mm: float,
) -> list[Layer] | None:
    """Return the layers between two planes of convex outlines that match; None of others."""
    between = convex_pair(curve.at_mm.tolist(), hulls, i)
    start, shape = _block_of(pair)
    if between is None or not _match(*(patch.within(start, shape) for patch in pair)):
        return None
    low, high = float(curve.at_mm[i]), float(curve.at_mm[i + 1])
    middles, thickness = _cuts(low, high, min(pixel_mm, (high - low) / 3.0))
    found = []
    for at in middles:
        area = curve.area_mm2(float(at))
        ring = between.ring(float((at - low) / (high - low)), area)
        patch = patch_of(Plane(float(at), (ring,), (0,), is_exclusive_or=False), pixel_mm)
        found.append(Layer(float(at), thickness, patch, area))
    return found


def _block_of(pair: tuple[Patch, Patch]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return start and shape of the block that holds two patches, and a pixel around them."""
    start = (
        min(patch.start[0] for patch in pair) - 1,
        min(patch.start[1] for patch in pair) - 1,
    )
    stop = np.max([np.add(patch.start, patch.covered.shape) for patch in pair], axis=0) + 1
    return start, (int(stop[0]) - start[0], int(stop[1]) - start[1])


def _between(
    pair: tuple[Patch, Patch], i: int, curve: AreaCurve, pixel_mm: float
) -> list[Layer] | None:
    """Return the layers between two planes; None where their outlines do not match."""
    start, shape = _block_of(pair)
    first, second = (patch.within(start, shape) for patch in pair)
    if not _match(first, second):
        return None
    depths = depth_in_pixels(first), depth_in_pixels(second)
    low, high = float(curve.at_mm[i]), float(curve.at_mm[i + 1])
    middles, thickness = _cuts(low, high, min(pixel_mm, (high - low) / 3.0))
    found = []
    for at in middles:
        part = (at - low) / (high - low)
        area = curve.area_mm2(float(at))
        level = _level_of_area((1.0 - part) * depths[0] + part * depths[1], area / pixel_mm**2)
        found.append(Layer(float(at), thickness, Patch(start, level), area))
    return found


def _match(first: Floats, second: Floats) -> bool:
    """Tell whether every piece of one outline lies on one piece of the other, for the most part."""
    a, b = first > 0.5, second > 0.5
    common = int(np.count_nonzero(a & b))
    if common < LEAST_COMMON_PART * min(np.count_nonzero(a), np.count_nonzero(b)) or not common:
        return False
    (one, many), (other, others) = ndimage.label(a), ndimage.label(b)
    pairs = np.unique(one[a & b].astype(np.int64) * (others + 1) + other[a & b])
    return bool(many == others == len(pairs))


def _level_of_area(depth: Floats, pixels: float) -> Floats:
    """Return the covered parts of the level set of a depth field that covers so many pixels."""
    count = int(np.clip(round(pixels), 1, depth.size - 1))
    level = float(-np.partition(-depth, count, axis=None)[count])
    covered = np.clip(depth - level + 0.5, 0.0, 1.0)
    for _ in range(3):
        rim = int(np.count_nonzero((covered > 0.0) & (covered < 1.0)))
        level += (float(covered.sum()) - pixels) / max(rim, 1)
        covered = np.clip(depth - level + 0.5, 0.0, 1.0)
    if not covered.any():
        covered = (depth >= depth.max()).astype(np.float64)
    return covered
