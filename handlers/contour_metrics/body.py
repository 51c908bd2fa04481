"""Contours to a body: what lies between the planes they are drawn on, finer than any voxel.

In each plane a level tells how far inside a point lies; for a disc of radius r it is r^2 - rho^2.
Such a level is carried from plane to plane along the normal, with its curvature: balls and
ellipsoids, however tilted, come out as they are, and so does what has straight walls.

Beyond the last contour of a part the trend of the last three areas decides: if it comes to zero
before the next plane, the body closes there as a dome; if not, it ends flat, half a step beyond the
last contour, as the usual slice sum has it.

Deliberately not done here: no contour is altered, and no gap of the drawing is bridged.

Read first: Raya and Udupa 1990, IEEE Trans Med Imaging 9:32-42 (shape-based interpolation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from handlers.contour_metrics.stack import Plane, Stack, bounds_mm, filled
from handlers.sampling.contours import in_plane_mm

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

FINEST_MM = 0.5
"""Step of the body's grid for structures up to `STEPS_ACROSS` such steps; more for larger ones."""

COARSEST_MM = 2.0
STEPS_ACROSS = 40

FINER = 4
"""So many pixels of the planes to a step of the body's grid: there the contours are filled."""

BEYOND_STEPS = 3
"""How far the level is told around the structure."""

LATE = 1.05
"""A dome may end so much later than the next plane, where nothing is drawn: contours smaller than a
pixel count for nothing."""

LEAST_BEND, MOST_BEND = -8.0, 2.0
"""Bounds of the level's second derivative along the normal: -2 for a ball, 0 for straight walls, -8
for an ellipsoid half as high as wide. What falls faster than that ends between its planes."""

_TOUCHING = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A level on a fine grid along the axes of a CT's grid: above zero inside.

    Attributes:
        values: Shape (slices, rows, columns) of the fine grid.
        start_mm: Its first point, in mm along the CT's axes from the CT's first voxel centre.
        step_mm: Along each axis.
    """

    values: Floats
    start_mm: Array
    step_mm: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Section:
    """What one plane holds, on the pixels of the body's grid.

    Attributes:
        at_mm: Where the plane lies.
        distance: How far inside each pixel lies, in mm.
        radius: Largest distance within the region that is nearest to the pixel, in mm.
        nearest: Number of that region, from 1.
        areas: In mm2 by number; entry 0 is no region.
        labels: Regions on the finer pixels.
    """

    at_mm: float
    distance: Floats
    radius: Floats
    nearest: npt.NDArray[np.int64]
    areas: Array
    labels: Ints

    @property
    def level(self) -> Floats:
        """Above zero inside: r^2 - rho^2 for a disc."""
        return np.asarray(self.distance * (2.0 * self.radius - self.distance))


def step_for(size_mm: Array) -> float:
    """Return the step of the grid for a structure of that size."""
    return float(np.clip(size_mm.max() / STEPS_ACROSS, FINEST_MM, COARSEST_MM))


def level_of(
    stack: Stack, within: tuple[Array, Array] | None = None, *, least_step_mm: float = 0.0
) -> Level | None:
    """Return the level of a structure from its contours; None if they enclose nothing.

    Args:
        stack: Its contours.
        within: Lowest and highest place, in mm along the CT's axes, of what is wanted; the
            structure is cut there. None: all of it.
        least_step_mm: The grid is no finer than this.

    Accuracy:
        For balls of 5 to 20 mm, contoured every 1 to 3 mm, the surface is off by less than 0.06 mm
        everywhere, poles included; for ellipsoids of 6 x 12 x 8 mm nine tenths of it by less than
        0.05, 0.1 and 0.2 mm at steps of 1, 2 and 3 mm. Sharp edges are cut by about half a step of
        the grid: volumes of boxes come out up to 2 % low.
    """
    planes = [p for p in stack.planes if within is None or _is_near(p, stack.step_mm, within)]
    if not planes:
        return None
    bounds = [bounds_mm(plane.contours, stack.geometry) for plane in planes]
    low = np.min([b[0] for b in bounds], axis=0)
    high = np.max([b[1] for b in bounds], axis=0)
    if within is not None:
        low, high = np.maximum(low, within[0][1:]), np.minimum(high, within[1][1:])
        if np.any(high <= low):
            return None
    first, last = planes[0].at_mm - stack.step_mm, planes[-1].at_mm + stack.step_mm
    step_mm = max(step_for(np.append(high - low, last - first)), least_step_mm)
    low = low - BEYOND_STEPS * step_mm
    rows, columns = np.ceil((high - low) / step_mm).astype(int) + BEYOND_STEPS + 1
    count = int(np.ceil((last - first) / step_mm)) + 3
    start = np.array([first - step_mm, *low])
    values = np.full((count, rows, columns), -np.inf, dtype=np.float32)
    places = start[0] + np.arange(count) * step_mm
    wanted = {id(plane) for plane in planes}
    for run in stack.runs:
        sections = [
            _section(plane, stack, low, step_mm, (int(rows), int(columns)))
            for plane in run
            if id(plane) in wanted
        ]
        _fill([each for each in sections if each is not None], values, places, stack.step_mm)
    if not (values > 0).any():
        return None
    # as far outside as the grid is wide, where no contour says anything
    values[np.isneginf(values)] = -float((np.array(values.shape) * step_mm).max() ** 2)
    return Level(values, start, np.full(3, step_mm))


def _is_near(plane: Plane, step_mm: float, within: tuple[Array, Array]) -> bool:
    return bool(within[0][0] - step_mm <= plane.at_mm <= within[1][0] + step_mm)


def _section(
    plane: Plane, stack: Stack, low: Array, step_mm: float, shape: tuple[int, int]
) -> _Section | None:
    """Return what a plane holds; None if that is less than a pixel."""
    pixel_mm = step_mm / FINER
    fine_shape = (shape[0] * FINER, shape[1] * FINER)
    inside = filled(plane.contours, stack.geometry, low, pixel_mm, fine_shape)
    if not inside.any():
        return None
    labels, count = ndimage.label(inside, _TOUCHING)
    border = _border(plane, stack, labels, low, pixel_mm)
    if not len(border.places):
        return None
    rows, columns = (low[axis] + np.arange(shape[axis]) * step_mm for axis in (0, 1))
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    away, nearest = border.nearest(places)
    sign = np.where(inside[::FINER, ::FINER].ravel(), 1.0, -1.0)
    distance = away * sign
    radii = np.zeros(count + 1)
    around = np.stack(np.meshgrid(*[np.arange(-FINER, FINER + 1) * pixel_mm] * 2), axis=-1)
    for region in range(1, count + 1):
        own = np.flatnonzero((nearest == region) & (sign > 0))
        if len(own):
            deepest = places[own[distance[own].argmax()]]
            radii[region] = border.nearest(deepest + around.reshape(-1, 2))[0].max()
        else:
            radii[region] = pixel_mm
    return _Section(
        at_mm=plane.at_mm,
        distance=distance.reshape(shape).astype(np.float32),
        radius=radii[nearest].reshape(shape).astype(np.float32),
        nearest=nearest.reshape(shape),
        areas=np.asarray(np.bincount(labels.ravel(), minlength=count + 1) * pixel_mm**2),
        labels=labels,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Border:
    """Short straight pieces of contours: middles (n, 2) and directions, half length, region."""

    places: Array
    along: Array
    half_mm: Array
    regions: npt.NDArray[np.int64]
    tree: cKDTree

    def nearest(self, places: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return how far places (n, 2) lie from the border, and from that of which region."""
        _, found = self.tree.query(places)
        offset = places - self.places[found]
        along = np.einsum("ij,ij->i", offset, self.along[found])
        beyond = along - np.clip(along, -self.half_mm[found], self.half_mm[found])
        across = np.einsum("ij,ij->i", offset[:, ::-1] * (1.0, -1.0), self.along[found])
        return np.hypot(beyond, across), self.regions[found]


def _border(plane: Plane, stack: Stack, labels: Ints, low: Array, pixel_mm: float) -> _Border:
    """Return where inside and outside meet in a plane: no channel of a keyhole, no seam."""
    middles, directions, halves = [], [], []
    for contour in plane.contours:
        ring = in_plane_mm(contour, stack.geometry)
        edges = np.roll(ring, -1, axis=0) - ring
        lengths = np.linalg.norm(edges, axis=1)
        counts = np.ceil(lengths / pixel_mm).astype(int)
        which = np.repeat(np.arange(len(ring)), counts)
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        part = (step + 0.5) / counts[which]
        middles.append(ring[which] + part[:, None] * edges[which])
        directions.append(edges[which] / lengths[which, None])
        halves.append(lengths[which] / counts[which] / 2.0)
    at, along, half = np.concatenate(middles), np.concatenate(directions), np.concatenate(halves)
    aside = along[:, ::-1] * (1.0, -1.0) * pixel_mm
    sides = np.stack([_looked_up(labels, (at + way - low) / pixel_mm) for way in (aside, -aside)])
    real = np.flatnonzero((sides > 0).sum(axis=0) < 2)
    regions = sides.max(axis=0)[real]
    # a sliver thinner than the pixels bears no number of its own
    regions[regions == 0] = 1
    return _Border(at[real], along[real], half[real], regions, cKDTree(at[real]))


def _looked_up(labels: Ints, at: Array) -> npt.NDArray[np.int64]:
    rows, columns = np.rint(at).astype(int).T
    known = (rows >= 0) & (columns >= 0) & (rows < labels.shape[0]) & (columns < labels.shape[1])
    found = np.zeros(len(at), dtype=np.int64)
    found[known] = labels[rows[known], columns[known]]
    return found


def _fill(sections: Sequence[_Section], values: Floats, places: Array, step_mm: float) -> None:
    """Put the level of one run into `values`, whose slices lie at `places`."""
    bends = _bends(sections)
    for number, (below, above) in enumerate(pairwise(sections)):
        gap = above.at_mm - below.at_mm
        bend = _lesser(bends[number], bends[number + 1])
        before = sections[number - 1].level if number > 0 else None
        after = sections[number + 2].level if number + 2 < len(sections) else None
        lower, upper = (
            _held(above.level, below.level, after, gap),
            _held(below.level, above.level, before, gap),
        )
        for index in np.flatnonzero((places >= below.at_mm) & (places <= above.at_mm)):
            part = (places[index] - below.at_mm) / gap
            arch = -part * (1.0 - part) / 2.0 * gap**2
            between = (1.0 - part) * lower + part * upper + arch * bend
            np.maximum(values[index], between, out=values[index])
    for ordered, sign in ((list(sections), 1.0), (list(sections)[::-1], -1.0)):
        for number in range(len(ordered)):
            _close(ordered[: number + 2], number, values, places, sign * step_mm)


def _held(here: Floats, there: Floats, behind: Floats | None, gap_mm: float) -> Floats:
    """Return the level of a plane as seen from its neighbour: no lower than the walls can fall.

    What a plane holds and its neighbour does not (a spike, a lobe) would else end at once. It falls
    as steeply as `LEAST_BEND` allows, and ends half way at the latest.

    Args:
        here: Level of the neighbour.
        there: Level of the plane.
        behind: Level of the plane behind the neighbour, or None.
        gap_mm: Distance of both.
    """
    trend = np.zeros_like(here)
    if behind is not None:
        trend = np.where(behind > 0, here - behind, np.float32(0.0))
    least = here + trend + np.float32(LEAST_BEND * gap_mm**2)
    return np.asarray(np.maximum(there, np.minimum(least, -np.abs(here))))


def _bends(sections: Sequence[_Section]) -> list[Floats | None]:
    """Return the second derivative of the level along the normal in each plane, where known."""
    bends: list[Floats | None] = [None] * len(sections)
    for number in range(1, len(sections) - 1):
        before, here, after = sections[number - 1 : number + 2]
        up, down = after.at_mm - here.at_mm, here.at_mm - before.at_mm
        slopes = (after.level - here.level) / up - (here.level - before.level) / down
        bends[number] = np.clip(2.0 * slopes / (up + down), LEAST_BEND, MOST_BEND)
    return bends


def _lesser(one: Floats | None, other: Floats | None) -> Floats | float:
    """Return the smaller of two bends of one sign, 0 of two signs: no bend without agreement."""
    if one is None or other is None:
        known = other if one is None else one
        return 0.0 if known is None else known
    smaller = np.where(np.abs(one) < np.abs(other), one, other)
    return np.asarray(np.where(one * other > 0, smaller, np.float32(0.0)))


def _close(
    ordered: Sequence[_Section], number: int, values: Floats, places: Array, step_mm: float
) -> None:
    """End the regions of one plane that have no continuation in the plane after it.

    Args:
        ordered: Planes up to this one and the one after it, if any, in the direction of the ends.
        number: Which of them.
        values: The level of the body.
        places: Where its slices lie.
        step_mm: Usual distance of planes; negative where the ends point down.
    """
    here = ordered[number]
    after = ordered[number + 1] if number + 1 < len(ordered) else None
    ways = (places - here.at_mm) * np.sign(step_mm)
    reach = abs(step_mm)
    slices = np.flatnonzero((ways >= 0) & (ways <= reach + 2.0 * abs(places[1] - places[0])))
    for region in range(1, len(here.areas)):
        if after is not None and after.labels[here.labels == region].any():
            continue
        trend = _trend(ordered[: number + 1], region)
        end, is_dome = _end(trend, reach)
        own = here.nearest == region
        radius = here.radius
        rho = radius - here.distance
        for index in slices:
            way = ways[index]
            share = _share(trend, way, end, is_dome=is_dome)
            cap = np.where(own, share * radius**2 - rho**2, -np.inf)
            if not is_dome:
                cap = np.minimum(cap, 2.0 * radius * (end - way))
            np.maximum(values[index], cap, out=values[index], where=own)


def _trend(ordered: Sequence[_Section], region: int) -> Array:
    """Return how a region's area goes on, as a part of it: a polynomial of the way in mm."""
    constant = np.array([1.0])
    areas, at_mm = [ordered[-1].areas[region]], [ordered[-1].at_mm]
    here, number = ordered[-1], region
    for before in ordered[-2:-4:-1]:
        parents = np.unique(before.labels[here.labels == number])
        parents = parents[parents > 0]
        if len(parents) != 1:
            return constant
        children = np.unique(here.labels[before.labels == parents[0]])
        if np.count_nonzero(children) != 1:
            return constant
        here, number = before, int(parents[0])
        areas.append(here.areas[number])
        at_mm.append(here.at_mm)
    if len(areas) < 3:
        return constant
    ways = -np.abs(np.array(at_mm) - at_mm[0])
    return np.asarray(np.polyfit(ways, np.array(areas) / areas[0], 2))


def _end(trend: Array, reach_mm: float) -> tuple[float, bool]:
    """Return how far beyond its last contour a region ends, and whether as a dome."""
    roots = np.roots(trend) if len(trend) > 1 else np.array([])
    ahead = [float(r.real) for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < LATE * reach_mm]
    return (min(ahead), True) if ahead else (reach_mm / 2.0, False)


def _share(trend: Array, way: float, end: float, *, is_dome: bool) -> float:
    """Return a region's area beyond its last contour, as a part of it; below zero past a dome."""
    if is_dome and way > end:
        fall = abs(float(np.polyval(np.polyder(trend), end)))
        return -max(fall, 1.0 / end) * (way - end)
    return float(np.clip(np.polyval(trend, way), 0.0, 1.0))
