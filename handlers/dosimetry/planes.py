"""Contours by the planes that they were drawn on, and which planes follow each other as one body.

Takes contours on any parallel planes, along the slices of a CT or oblique to them, on a slice or
between two. Deliberately knows no voxels and no dose.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.errors import EmptyStructureError, InputRejectedError
from handlers.geometry import Geometry
from handlers.sampling.contours import PARALLEL_TOLERANCE_MM, lies_within, signed_area
from handlers.values import Contour

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

GAP_SPACINGS = 1.5
"""Planes farther apart than this many usual spacings do not belong together: between them is a gap,
not a body. One contour left out makes such a gap."""

LEAST_AREA_MM2 = 1e-4
"""A ring that encloses less has no inside."""


LEAST_CHANGE = 0.01
"""A width that changes by a smaller part of its square stays as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """What is drawn on one plane.

    Attributes:
        at_mm: Where it lies along the common normal.
        rings: Polygons (n, 2) in mm along the second and third axis of the layout.
        depths: How many of the others each ring lies within.
        is_exclusive_or: The rings are combined by exclusive-or.
    """

    at_mm: float
    rings: tuple[Floats, ...]
    depths: tuple[int, ...]
    is_exclusive_or: bool

    @property
    def shoelace_mm2(self) -> float:
        """Area by the shoelace formula, rings at odd depth taken off.

        It is the area of the plane unless a ring crosses itself or another.
        """
        areas = [abs(signed_area(ring)) for ring in self.rings]
        return float(
            sum(area * (-1) ** (depth % 2) for area, depth in zip(areas, self.depths, strict=True))
        )

    @property
    def spread_mm2(self) -> Floats:
        """Second moments about the middle of the area, 2 x 2, of the outer rings."""
        total, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
        for ring in (r for r, depth in zip(self.rings, self.depths, strict=True) if depth == 0):
            after = np.roll(ring, -1, axis=0)
            cross = ring[:, 0] * after[:, 1] - ring[:, 1] * after[:, 0]
            both = ring + after
            sign = 1.0 if cross.sum() >= 0 else -1.0
            total += sign * float(cross.sum()) / 2.0
            first += sign * (cross @ both) / 6.0
            parts = sum(np.einsum("n,ni,nj->ij", cross, p, p) for p in (ring, after, both))
            second += sign * parts / 24.0
        if abs(total) < LEAST_AREA_MM2:  # a ring whose lobes cancel out
            return np.full((2, 2), np.nan)
        middle = first / total
        return np.asarray(second / total - np.outer(middle, middle))


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The contours of one structure in order.

    Attributes:
        axes: Unit vectors in LPS as columns of a 3 x 3: the common normal, and two in the planes.
        stacks: Planes that follow each other without a gap, in order along the normal.
        spacing_mm: The usual distance of neighbouring planes (the median; of two the smaller); of
            a single plane that of the CT's slices, and None if it is not parallel to these.
        reasons: What must be known about it, in sentences.
    """

    axes: Floats
    stacks: tuple[tuple[Plane, ...], ...]
    spacing_mm: float | None
    reasons: tuple[str, ...]


def widening(first: Plane, second: Plane) -> float:
    """Return in how many directions, 1 to 2, the outline widens or narrows between two planes.

    2 for spheres and cones, which keep their shape, 1 for a cylinder that lies in the planes: its
    width changes, its length does not.
    """
    spreads = first.spread_mm2, second.spread_mm2
    if not all(np.all(np.isfinite(s)) and np.linalg.det(s) > 0 for s in spreads):
        return 2.0
    ratios = np.linalg.eigvals(np.linalg.solve(*spreads)).real
    if ratios.min() <= 0:
        return 2.0
    changes = np.log(ratios)
    strongest = float(changes[np.abs(changes).argmax()])
    if abs(strongest) < LEAST_CHANGE:
        return 2.0
    return float(np.clip(changes.sum() / strongest, 1.0, 2.0))


def layout_of(contours: Sequence[Contour], geometry: Geometry) -> Layout:
    """Return the contours of a structure by plane and stack.

    Args:
        contours: Closed, on parallel planes.
        geometry: Of the CT. Gives the direction of the planes where the contours follow its slices,
            and the thickness of a structure of one plane.

    Raises:
        EmptyStructureError: There is no contour, or none encloses an area.
        InputRejectedError: The contours do not lie on parallel planes.
    """
    if not contours:
        raise EmptyStructureError("the structure has no contour", hint="draw it or leave it out")
    lengths = [len(contour.points) for contour in contours]
    points = np.concatenate([contour.points for contour in contours])
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    axes, along_ct = _axes(contours, points, starts, geometry)
    planes, reasons = _planes(contours, points @ axes, starts)
    if not planes:
        raise EmptyStructureError(
            "no contour of the structure encloses an area", hint="draw it again"
        )
    steps = np.diff([plane.at_mm for plane in planes])
    usual = float(np.sort(steps)[(len(steps) - 1) // 2]) if len(steps) else 0.0
    ends = [i + 1 for i, step in enumerate(steps) if step > GAP_SPACINGS * usual]
    cuts = itertools.pairwise([0, *ends, len(planes)])
    stacks = tuple(tuple(planes[a:b]) for a, b in cuts)
    if ends:
        widest = max(float(steps[i - 1]) for i in ends)
        reasons.append(
            f"between its contours are {len(ends)} gaps, the widest of {widest:.1f} mm where "
            f"{usual:.1f} mm are usual: taken as empty, not as a body"
        )
    slice_mm = geometry.spacing_mm[0]
    if along_ct and usual > GAP_SPACINGS * slice_mm:
        reasons.append(
            f"its contours are {usual:.1f} mm apart on CT slices of {slice_mm:.1f} mm: what lies "
            "between them follows from both"
        )
    alone = slice_mm if along_ct else None
    return Layout(axes, stacks, usual or alone, tuple(reasons))


def _axes(
    contours: Sequence[Contour], points: Floats, starts: Indices, geometry: Geometry
) -> tuple[Floats, bool]:
    """Return the axes of the planes, and whether they are those of the CT."""
    if _are_flat(points @ geometry.axes[:, 0], starts):
        return geometry.axes, True
    largest = max(contours, key=lambda c: float(np.prod(np.sort(np.ptp(c.points, axis=0))[1:])))
    middle = largest.points.mean(axis=0)
    _, _, directions = np.linalg.svd(largest.points - middle, full_matrices=False)
    normal = directions[2] * (1.0 if directions[2][np.abs(directions[2]).argmax()] > 0 else -1.0)
    if not _are_flat(points @ normal, starts):
        raise InputRejectedError(
            ["the contours of the structure do not lie on parallel planes"],
            hint="draw the structure on parallel planes, best on the slices of the CT",
        )
    return np.column_stack((normal, directions[0], np.cross(normal, directions[0]))), False


def _are_flat(heights: Floats, starts: Indices) -> bool:
    spread = np.maximum.reduceat(heights, starts) - np.minimum.reduceat(heights, starts)
    return bool(np.all(spread <= PARALLEL_TOLERANCE_MM))


def _planes(
    contours: Sequence[Contour], points: Floats, starts: Indices
) -> tuple[list[Plane], list[str]]:
    """Return the planes in order, and what is told of rings that were left out."""
    ends = np.append(starts[1:], len(points))
    heights = np.add.reduceat(points[:, 0], starts) / (ends - starts)
    order = np.argsort(heights, kind="stable")
    planes: list[list[int]] = []
    last = -np.inf
    for i in order:
        at = float(heights[i])
        if at - last > PARALLEL_TOLERANCE_MM:
            planes.append([])
            last = at
        planes[-1].append(int(i))
    found, without_area, twice = [], 0, 0
    for members in planes:
        rings: list[Floats] = []
        kept: list[int] = []
        for i in members:
            ring = np.ascontiguousarray(points[starts[i] : ends[i], 1:])
            if _enclosed_mm2(ring) < LEAST_AREA_MM2:
                without_area += 1
            elif any(len(ring) == len(r) and np.allclose(ring, r, atol=1e-6) for r in rings):
                twice += 1
            else:
                rings.append(ring)
                kept.append(i)
        if rings:
            at = float(np.mean(heights[kept]))
            is_xor = any(contours[i].is_exclusive_or for i in kept)
            found.append(Plane(at, tuple(rings), _depths(rings), is_xor))
    told = []
    if without_area:
        told.append(f"{without_area} of its contours enclose no area and are left out")
    if twice:
        told.append(f"{twice} of its contours are there twice and count once")
    return found, told


def _enclosed_mm2(ring: Floats) -> float:
    """Return the area between a ring and its middle, lobes of either winding counted positive."""
    at = ring - ring.mean(axis=0)
    after = np.roll(at, -1, axis=0)
    return float(np.abs(at[:, 0] * after[:, 1] - at[:, 1] * after[:, 0]).sum() / 2.0)


def _depths(rings: Sequence[Floats]) -> tuple[int, ...]:
    if len(rings) == 1:
        return (0,)
    areas = [abs(signed_area(ring)) for ring in rings]
    return tuple(
        sum(
            areas[i] < areas[j] and lies_within(rings[i], rings[j])
            for j in range(len(rings))
            if j != i
        )
        for i in range(len(rings))
    )
