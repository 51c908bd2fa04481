"""A structure as many small boxes, made of its contours: what doses and volumes are measured in.

Between two contours the body has the outline that lies between theirs; beyond the first and the
last it ends as `EndCap` says. Deliberately knows no dose: boxes are small enough for any.

Read first: Nelms et al. 2015, Med Phys 42:4435 (what contours and ends do to a histogram).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.dose_results import EndCap
from handlers.dosimetry.coverage import Patch, patch_of
from handlers.dosimetry.ends import AreaCurve, curve_of
from handlers.dosimetry.layers import Layer, layers_of
from handlers.dosimetry.planes import Layout, Plane, layout_of, widening
from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry, Points
from handlers.results import VoxelField
from handlers.values import Contour, Mask

Floats = npt.NDArray[np.float64]

BOXES = 40_000
"""About so many boxes make a structure: those of a structure of 5 cm3 are 0.5 mm wide."""

FINEST_MM = 0.25
"""No box is made smaller: that of structures below 0.6 cm3."""

MOST_PIXELS = 400_000
"""Pixels of the raster of one plane, at most: a structure of small parts far apart gets coarser
boxes."""

MOST_VOXELS = 500_000
"""Voxels of a mask, at most, that each make a box of its own."""

AREA_MISTRUST = 0.02
"""Where scan lines and shoelace formula differ by more, a ring crosses itself or another."""


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """A structure as small boxes.

    Attributes:
        centres_mm: Middles of the boxes, shape (n, 3), LPS mm, n >= 1.
        volumes_mm3: What of the structure lies in each box, shape (n,), > 0.
        axes: Directions of the edges of all boxes: unit vectors in LPS as columns of a 3 x 3.
        widths_mm: Lengths of the edges of each box along these, shape (n, 3).
        reasons: What must be known of how it was made, in sentences.
    """

    centres_mm: Points
    volumes_mm3: Floats
    axes: Floats
    widths_mm: Floats
    reasons: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for array in (self.centres_mm, self.volumes_mm3, self.axes, self.widths_mm):
            array.setflags(write=False)

    @property
    def volume_cm3(self) -> float:
        """Volume of the structure in cm3."""
        return float(self.volumes_mm3.sum()) / 1000.0

    @property
    def points_mm(self) -> Points:
        """One point in each box, shape (n, 3), LPS mm: where doses are sampled.

        Not the middles, but spread evenly over the boxes in every direction: else all boxes of a
        layer would share one dose where this changes across the layers alone, and a histogram would
        have steps as high as a layer is thick.
        """
        off = (_spread(len(self.centres_mm)) - 0.5) * self.widths_mm
        return np.asarray(self.centres_mm + off @ self.axes.T)

    def parted(self, boxes: npt.NDArray[np.int64], parts: Sequence[int]) -> Points:
        """Return points in the parts of some boxes, shape (len(boxes), product of parts, 3).

        Spread as those of whole boxes.

        Args:
            boxes: Which.
            parts: Into how many parts each is cut along its three edges.
        """
        cells = _cells(parts)
        spread = (_spread(len(boxes) * len(cells)) - 0.5).reshape(len(boxes), -1, 3)
        within = (cells + spread / np.array(parts)) * self.widths_mm[boxes][:, None]
        return np.asarray(self.centres_mm[boxes][:, None] + within @ self.axes.T)


def solid_from_contours(contours: Sequence[Contour], geometry: Geometry, end_cap: EndCap) -> Solid:
    """Return the body that contours on parallel planes describe.

    The area of every cross-section is that of `AreaCurve`, its outline is the level of that area in
    the depth field midway between the two outlines next to it. Where outlines do not match one to
    one (a branch, an island) and in structures of many planes each contour is a slab that reaches
    halfway to its neighbours. Rings combine as in `mask_from_roi`; a ring that crosses itself
    counts by the even-odd rule, and a reason says so.

    Args:
        contours: Closed, on planes parallel to each other; on a slice of the CT or not.
        geometry: Of the CT; see `layout_of`.
        end_cap: Where the body ends. Every stack of planes has ends of its own (`GAP_SPACINGS`).

    Raises:
        EmptyStructureError: Nothing is enclosed; or one plane alone has no thickness, by `end_cap`
            or because it lies across the slices of the CT.
        InputRejectedError: The planes are not parallel.
    """
    layout = layout_of(contours, geometry)
    pixel_mm = _pixel_mm(layout)
    stacks, reasons = _measured(layout, pixel_mm)
    layers: list[Layer] = []
    for stack in stacks:
        curve = _curve(stack, end_cap, layout)
        if curve.first_mm < curve.last_mm:
            layers += layers_of(stack.planes, stack.patches, curve, pixel_mm)
        else:
            reasons.append("parts of it on one plane alone have no thickness and do not count")
    if not layers:
        raise EmptyStructureError(
            "contours on one plane alone have no thickness",
            hint="let structures end half a slice beyond their contours, or draw on more slices",
        )
    return _solid(layers, layout.axes, pixel_mm, (*layout.reasons, *dict.fromkeys(reasons)))


def slice_sum_cm3(contours: Sequence[Contour], geometry: Geometry, end_cap: EndCap) -> float:
    """Return the volume as the sum of the contours' areas times their share of the length.

    A contour's share reaches halfway to its neighbours; the first and the last one's half a slice
    beyond themselves (`HALF_SLICE`) or no farther (`NONE`). For `TAPERED` it is the integral of
    `AreaCurve`. Raises as `solid_from_contours`, but a single plane without thickness is 0.
    """
    layout = layout_of(contours, geometry)
    stacks, _ = _measured(layout, _pixel_mm(layout))
    if end_cap is EndCap.TAPERED:
        return float(sum(_curve(s, end_cap, layout).volume_mm3 for s in stacks)) / 1000.0
    total_mm3 = 0.0
    for stack in stacks:
        at = stack.at_mm
        usual = layout.spacing_mm or 0.0
        first, last = (at[1] - at[0], at[-1] - at[-2]) if len(at) > 1 else (usual, usual)
        borders = np.concatenate(([at[0] - first / 2], (at[1:] + at[:-1]) / 2, [at[-1] + last / 2]))
        if end_cap is EndCap.NONE:
            borders = np.clip(borders, at[0], at[-1])
        total_mm3 += float(stack.areas_mm2 @ np.diff(borders))
    return total_mm3 / 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """Planes that follow each other, what they cover, and their areas."""

    planes: tuple[Plane, ...]
    patches: tuple[Patch, ...]
    areas_mm2: Floats

    @property
    def at_mm(self) -> Floats:
        return np.array([plane.at_mm for plane in self.planes])


def _curve(stack: _Stack, end_cap: EndCap, layout: Layout) -> AreaCurve:
    if end_cap is EndCap.HALF_SLICE:
        directions = np.full(len(stack.planes) - 1, 2.0)
    else:
        directions = np.array([widening(*pair) for pair in itertools.pairwise(stack.planes)])
    return curve_of(stack.at_mm, stack.areas_mm2, directions, end_cap, layout.spacing_mm)


def _measured(layout: Layout, pixel_mm: float) -> tuple[list[_Stack], list[str]]:
    """Return the stacks with what their planes cover, and what is told of crossings."""
    crossing = 0
    found = []
    for planes in layout.stacks:
        kept = []
        for plane in planes:
            patch = patch_of(plane, pixel_mm)
            exact, by_lines = plane.shoelace_mm2, float(patch.covered.sum()) * pixel_mm**2
            slack = AREA_MISTRUST * max(exact, by_lines) + pixel_mm**2
            if abs(by_lines - exact) > slack or exact < by_lines / 2.0:
                crossing += 1
                finer_mm = pixel_mm / 8.0
                exact = float(patch_of(plane, finer_mm).covered.sum()) * finer_mm**2
            if exact > 0 and by_lines > 0:
                kept.append((plane, patch, exact))
        if kept:
            places, patches, areas = zip(*kept, strict=True)
            found.append(_Stack(places, patches, np.array(areas)))
    if crossing:
        return found, [
            f"on {crossing} planes its contours cross themselves or each other: inside is what a "
            "line meets after an odd number of crossings of a contour"
        ]
    return found, []


def _pixel_mm(layout: Layout) -> float:
    rough_mm3, widest_mm2 = 0.0, 0.0
    for plane in itertools.chain.from_iterable(layout.stacks):
        low = np.min([ring.min(axis=0) for ring in plane.rings], axis=0)
        extent = np.max([ring.max(axis=0) for ring in plane.rings], axis=0) - low
        widest_mm2 = max(widest_mm2, float(extent[0] * extent[1]))
        rough_mm3 += plane.shoelace_mm2 * (layout.spacing_mm or 0.0)
    pixel_mm = float(np.cbrt(max(rough_mm3, 0.0) / BOXES))
    return max(pixel_mm, FINEST_MM, float(np.sqrt(widest_mm2 / MOST_PIXELS)))


def _solid(
    layers: Sequence[Layer], axes: Floats, pixel_mm: float, reasons: tuple[str, ...]
) -> Solid:
    counts = [int(np.count_nonzero(layer.patch.covered)) for layer in layers]
    middles, widths = np.empty((sum(counts), 3)), np.full((sum(counts), 3), pixel_mm)
    volumes = np.empty(sum(counts))
    begin = 0
    for layer, count in zip(layers, counts, strict=True):
        part = slice(begin, begin + count)
        begin += count
        middles[part, 0], widths[part, 0] = layer.at_mm, layer.thickness_mm
        covered = _cover(layer.patch, middles[part, 1:], widths[part, 1:], pixel_mm)
        volumes[part] = covered * (layer.area_mm2 * layer.thickness_mm / covered.sum())
    return Solid(middles @ axes.T, volumes, axes, widths, reasons)


def _cover(patch: Patch, middles: Floats, widths: Floats, pixel_mm: float) -> Floats:
    """Fill in middles and widths (n, 2) of what is covered of pixels; return how much it is.

    A pixel that is covered in part counts as a smaller box on the side where more is covered.
    """
    row, column = np.nonzero(patch.covered)
    covered = patch.covered[row, column]
    middles[:, 0] = (row + (patch.start[0] + 0.5)) * pixel_mm
    middles[:, 1] = (column + (patch.start[1] + 0.5)) * pixel_mm
    rim = np.flatnonzero(covered < 1.0)
    row, column, part = row[rim], column[rim], covered[rim]
    around = np.pad(patch.covered, 1)
    down = around[row + 2, column + 1] - around[row, column + 1]
    across = around[row + 1, column + 2] - around[row + 1, column]
    axis = (np.abs(across) > np.abs(down)).astype(np.int64)
    rise = np.where(axis == 1, across, down)
    middles[rim, axis] += np.sign(rise) * (1.0 - part) / 2.0 * pixel_mm
    widths[rim, axis] = part * pixel_mm
    return covered


def _spread(count: int) -> Floats:
    """Return places in a unit box for so many boxes in a row, evenly spread in every direction.

    Sources:
        The additive recurrence of three dimensions, from the real root of g^4 = g + 1.
    """
    g = 1.2207440846057596
    places = np.empty((count, 3))
    for axis in range(3):
        way = np.arange(1, count + 1) * g ** -(axis + 1.0) + 0.5
        places[:, axis] = way - np.floor(way)
    return places


def _cells(parts: Sequence[int]) -> Floats:
    """Return the middles of the parts of a unit box about its own middle, shape (n, 3)."""
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in parts]
    return np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)


def solid_from_mask(mask: Mask, level: VoxelField | None = None) -> Solid:
    """Return a body given as voxels, or finer, as what lies above zero in a field.

    Args:
        mask: Each of its voxels counts whole, edge to edge; of more than `MOST_VOXELS` several in
            the plane of a slice make one box.
        level: Above zero in the voxels of `mask`, below zero in all others. Voxels are parted until
            the boxes are as small as those of contours, and each box counts by the level at its
            middle, linear between voxel centres.

    Raises:
        EmptyStructureError: The mask has no voxel inside.
        GeometryMismatchError: The level reaches beyond the grid of the mask.
    """
    if not mask.inside.any():
        raise EmptyStructureError("the structure has no voxel inside")
    geometry = mask.geometry
    if level is None and np.count_nonzero(mask.inside) > MOST_VOXELS:
        return _of_blocks(mask)
    if level is None:
        values, start, seen = None, np.zeros(3), np.argwhere(mask.inside)
    else:
        if not all(
            block.start >= 0 and block.stop <= size
            for block, size in zip(level.block, geometry.shape, strict=True)
        ):
            raise GeometryMismatchError("a level reaches beyond the grid of its mask")
        start = np.array(level.start, dtype=np.float64)
        values = level.values
        near = ndimage.binary_dilation(mask.inside[level.block], np.ones((3, 3, 3)))
        seen = np.argwhere(near) + level.start
    wanted_mm = max((mask.volume_cm3 * 1000.0 / BOXES) ** (1.0 / 3.0), FINEST_MM)
    parts = [max(round(side / wanted_mm), 1) for side in geometry.spacing_mm]
    at = (seen[:, None] + _cells(parts)[None]).reshape(-1, 3)
    box_mm3 = geometry.voxel_volume_mm3 / float(np.prod(parts))
    volumes = np.full(len(at), box_mm3)
    if values is not None:
        inside = ndimage.map_coordinates(values, (at - start).T, order=1, mode="nearest") > 0
        at, volumes = at[inside], volumes[inside]
    widths = np.broadcast_to(np.array(geometry.spacing_mm) / parts, at.shape).copy()
    return Solid(geometry.points_from_indices(at), volumes, geometry.axes, widths)


def _of_blocks(mask: Mask) -> Solid:
    many = int(np.ceil(np.sqrt(np.count_nonzero(mask.inside) / MOST_VOXELS)))
    slices, rows, columns = mask.inside.shape
    spare = (0, 0), (0, -rows % many), (0, -columns % many)
    blocks = np.pad(mask.inside, spare).reshape(
        slices, -1, many, (columns + many - 1) // many, many
    )
    counts = np.count_nonzero(blocks, axis=(2, 4))
    at = np.argwhere(counts) * (1, many, many) + (0, (many - 1) / 2.0, (many - 1) / 2.0)
    volumes = counts[counts > 0] * mask.geometry.voxel_volume_mm3
    widths = np.broadcast_to(np.array(mask.geometry.spacing_mm) * (1, many, many), at.shape).copy()
    return Solid(mask.geometry.points_from_indices(at), volumes, mask.geometry.axes, widths)
