"""Margins round a target, cut at organs, and the union and intersection of two of its versions.

A margin is the Minkowski sum of the target with a body that reaches as far as told in each of the
patient's six directions and is an ellipsoid in each octant between them. The square of how far a
point lies from the target, in parts of the margin, is then a sum over the axes, so that its minimum
is found axis by axis, exactly. The target's surface counts where it lies between the voxels.

Deliberately not done here: no margin is chosen, and nothing ever shrinks.

Read first: Felzenszwalb and Huttenlocher 2012, Theory of Computing 8:415-428 (distance transforms
of sampled functions, axis by axis).
"""

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry
from handlers.results import VoxelField
from handlers.sampling.distance import signed_distance_of_array
from handlers.values import Mask

Floats = npt.NDArray[np.float32]
Block = tuple[slice, slice, slice]

WORK_MM = 1.0
"""Margins are grown on a grid at least this fine."""

ALIGNED_TOLERANCE = 1e-4
"""A grid whose axes differ from the patient's by no more (as cosines) counts as aligned."""

SMOOTHING_VOXELS = 0.8
"""Width (sigma) of the Gaussian that takes the staircase from the distance to a mask's border."""

LEAST_LEVEL_MM = 0.05
"""A voxel's level is at least so far from zero, on its side."""

PAD_VOXELS = 3
"""How far beyond its voxels a level is told."""


@dataclass(frozen=True, slots=True)
class Margins:
    """How far a target is grown towards the patient's six sides, in mm; never negative."""

    left_mm: float
    right_mm: float
    anterior_mm: float
    posterior_mm: float
    superior_mm: float
    inferior_mm: float

    def __post_init__(self) -> None:
        if not all(np.isfinite(mm) and mm >= 0 for mm in astuple(self)):
            raise ValueError("a margin must be zero or more")

    @classmethod
    def even(cls, margin_mm: float) -> "Margins":
        """Return the same margin on all sides."""
        return cls(*[margin_mm] * 6)

    @property
    def largest_mm(self) -> float:
        """The widest of the six."""
        return float(max(astuple(self)))

    def along_lps(self) -> npt.NDArray[np.float64]:
        """Return the margins towards growing and falling x, y, z of LPS, shape (3, 2), in mm."""
        return np.array(
            [
                [self.left_mm, self.right_mm],
                [self.posterior_mm, self.anterior_mm],
                [self.superior_mm, self.inferior_mm],
            ]
        )

    def told(self) -> str:
        """Return the margins in words."""
        if len(set(astuple(self))) == 1:
            return f"{self.left_mm:g} mm on all sides"
        sides = ("left", "right", "anterior", "posterior", "superior", "inferior")
        return ", ".join(f"{side} {mm:g} mm" for side, mm in zip(sides, astuple(self), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A structure and its surface: the level is above zero in the voxels of the mask alone."""

    mask: Mask
    level: VoxelField


def shape_of(mask: Mask, level: VoxelField | None = None) -> Shape:
    """Return a structure with its surface: the one given, or that of the mask without staircase.

    Raises:
        EmptyStructureError: The mask has no voxel inside.
        GeometryMismatchError: The level is above zero elsewhere than in the mask.
    """
    if not mask.inside.any():
        raise EmptyStructureError("an empty structure has no surface")
    if level is None:
        block = block_around(mask, 0.0)
        return Shape(mask, _field(mask.geometry, block, _smooth_distance(mask, block)))
    inside = np.zeros(mask.geometry.shape, dtype=bool)
    inside[level.block] = level.values > 0
    if not np.array_equal(inside, mask.inside):
        raise GeometryMismatchError("the level of a structure does not have the sign of its mask")
    return Shape(mask, level)


def union(first: Shape, second: Shape) -> Shape:
    """Return what lies in either of two structures on one grid."""
    block = _both(first.level, second.level)
    values = np.maximum(_values(first.level, block), _values(second.level, block))
    return _shape(first.mask.geometry, block, values)


def intersection(first: Shape, second: Shape) -> Shape:
    """Return what lies in both of two structures on one grid; its mask may be empty."""
    block = _both(first.level, second.level)
    values = np.minimum(_values(first.level, block), _values(second.level, block))
    return _shape(first.mask.geometry, block, values)


def cut_out(
    shape: Shape, organ: Mask, *, kept: Shape | None = None, margin_mm: float = 0.0
) -> Shape:
    """Return a structure without what lies in an organ, or nearer to it than a margin.

    Args:
        shape: The structure.
        organ: On the same grid; may be empty.
        kept: Part of it that is never cut, even if it lies in the organ.
        margin_mm: How far the result stays from the organ.
    """
    block = shape.level.block
    wider = block_around(shape.mask, margin_mm + 2.0 * max(organ.geometry.spacing_mm))
    if not organ.inside[wider].any():
        return shape
    distance = _smooth_distance(organ, wider)
    shared = _overlap(block, wider)
    values = shape.level.values.copy()
    place = _within(shared, block)
    values[place] = np.minimum(
        values[place], -(distance[_within(shared, wider)] + np.float32(margin_mm))
    )
    if kept is not None:
        values = np.maximum(values, _values(kept.level, block))
    return _shape(shape.mask.geometry, block, values)


def grow(shape: Shape, margins: Margins) -> Shape:
    """Return a structure with a margin, which ends where the grid ends.

    Args:
        shape: The structure, on a grid of any orientation.
        margins: In the patient's directions.

    Accuracy:
        For a sphere of 10 mm and a margin of 5 mm at 1 x 1 x 2.5 mm, volume within 1 % and surface
        within 0.2 mm (mean), on turned and oblique grids too. Sharp edges are rounded by about half
        a voxel before they grow.
    """
    if margins.largest_mm == 0:
        return shape
    geometry = shape.mask.geometry
    block = block_around(shape.mask, margins.largest_mm)
    part = geometry.crop((block[0].start, block[1].start, block[2].start), _size(block))
    work, by_axis_mm = _work_grid(part, margins)
    work_from_part = np.linalg.inv(part.patient_from_index) @ work.patient_from_index
    surface = _pulled(_scaled(_values(shape.level, block), part), work_from_part, work.shape)
    apart = _parts_of_margin(surface, work.spacing_mm, by_axis_mm)
    level = _level_mm(surface, apart, work.spacing_mm, by_axis_mm)
    part_from_work = np.linalg.inv(work.patient_from_index) @ part.patient_from_index
    values = _pulled(level, part_from_work, part.shape)
    # what it grew from stays in it, whatever was lost between the grids
    values = np.maximum(values, _values(shape.level, block))
    return _shape(geometry, block, values)


def _work_grid(part: Geometry, margins: Margins) -> tuple[Geometry, npt.NDArray[np.float64]]:
    """Return a fine grid along the patient's axes over `part`, and the margins along its axes.

    Where the axes of `part` are the patient's, in whatever order, its voxel centres are kept.
    """
    along_lps = margins.along_lps()
    order = np.abs(part.axes).argmax(axis=0)
    signs = np.sign(part.axes[order, range(3)])
    turned = np.zeros((3, 3))
    turned[order, range(3)] = signs
    if np.abs(part.axes - turned).max() <= ALIGNED_TOLERANCE:
        steps = np.array([int(np.ceil(mm / WORK_MM - 0.05)) for mm in part.spacing_mm])
        matrix = part.patient_from_index.copy()
        matrix[:3, :3] = matrix[:3, :3] / steps
        slices, rows, columns = (np.array(part.shape) - 1) * steps + 1
        by_axis = np.array(
            [along_lps[axis][:: int(sign)] for axis, sign in zip(order, signs, strict=True)]
        )
        work = Geometry(part.frame_of_reference_uid, matrix, (slices, rows, columns))
        return work, by_axis
    corners = part.corners_mm()
    low, high = corners.min(axis=0), corners.max(axis=0)
    step = min(WORK_MM, *part.spacing_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, ::-1] * step
    matrix[:3, 3] = low
    slices, rows, columns = (np.ceil((high - low)[::-1] / step) + 1).astype(int)
    return Geometry(part.frame_of_reference_uid, matrix, (slices, rows, columns)), along_lps[::-1]


def _parts_of_margin(
    surface: Floats, spacing_mm: tuple[float, ...], by_axis_mm: npt.NDArray[np.float64]
) -> Floats:
    """Return how far each voxel lies from where `surface` is positive, in parts of the margin.

    0 inside, 1 on the surface of what was grown, infinite where no margin leads to. Along one axis
    the surface is met where it lies between the voxels; since this helps little where it is seen
    from aside, each axis has its turn as the first, and the least counts.
    """
    least = np.full(surface.shape, np.inf, dtype=np.float32)
    for first in range(3):
        squares = _met_along(surface, first, spacing_mm[first], by_axis_mm[first])
        for axis in {0, 1, 2} - {first}:
            squares = _least_along(squares, axis, spacing_mm[axis], by_axis_mm[axis])
        np.minimum(least, squares, out=least)
    return np.sqrt(least)


def _met_along(
    surface: Floats, axis: int, step_mm: float, margins_mm: npt.NDArray[np.float64]
) -> Floats:
    """Return the squared distance, in parts of the margin, from the surface along one axis."""
    lines = np.moveaxis(surface, axis, 0)
    squares = np.full(lines.shape, np.inf, dtype=np.float32)
    for sign, margin_mm in zip((1, -1), margins_mm, strict=True):
        if margin_mm == 0:
            continue
        seen = lines[::sign]
        before, after = seen[:-1], seen[1:]
        leaves = (before > 0) & (after <= 0)
        crossing = np.full(seen.shape, -np.inf, dtype=np.float32)
        index = np.broadcast_to(np.arange(len(seen) - 1).reshape(-1, 1, 1), leaves.shape)
        crossing[1:][leaves] = index[leaves] + before[leaves] / (before[leaves] - after[leaves])
        latest = np.maximum.accumulate(crossing, axis=0)
        away = (np.arange(len(seen), dtype=np.float32).reshape(-1, 1, 1) - latest) * (
            step_mm / margin_mm
        )
        np.minimum(squares[::sign], away**2, out=squares[::sign])
    squares[lines > 0] = 0.0
    return np.asarray(np.moveaxis(squares, 0, axis))


def _least_along(
    squares: Floats, axis: int, step_mm: float, margins_mm: npt.NDArray[np.float64]
) -> Floats:
    """Return the least sum of a voxel's value and the squared way to it, along one axis."""
    values = np.ascontiguousarray(np.moveaxis(squares, axis, 0))
    least = values.copy()
    for sign, margin_mm in zip((1, -1), margins_mm, strict=True):
        if margin_mm == 0:
            continue
        # two steps farther than the margin: the level is told on both sides of the surface
        for steps in range(1, min(int(margin_mm / step_mm) + 3, len(values))):
            way = np.float32((steps * step_mm / margin_mm) ** 2)
            ends, starts = least[::sign][steps:], values[::sign][:-steps]
            np.minimum(ends, starts + way, out=ends)
    return np.asarray(np.moveaxis(least, 0, axis))


def _level_mm(
    surface: Floats,
    apart: Floats,
    spacing_mm: tuple[float, ...],
    by_axis_mm: npt.NDArray[np.float64],
) -> Floats:
    """Return how far within the grown surface each voxel lies, about in mm near it.

    Parts of a margin become mm by how far the margin reaches in the direction in which the surface
    looks. Where that is nowhere (a side without margin), the surface is the one before.
    """
    distance = -signed_distance_of_array(surface > 0, spacing_mm)
    slopes = np.gradient(ndimage.gaussian_filter(distance, 1.0), *spacing_mm)
    steepness = np.maximum(np.sqrt(sum(slope**2 for slope in slopes)), 1e-3)
    reach = np.zeros(surface.shape, dtype=np.float32)
    for slope, (up_mm, down_mm) in zip(slopes, by_axis_mm, strict=True):
        # the level falls outward
        outward = -slope / steepness
        reach += (np.where(outward > 0, up_mm, down_mm) * outward).astype(np.float32) ** 2
    np.sqrt(reach, out=reach)
    is_between = (apart > 0) & (apart < 2.0)
    level = np.where(is_between, reach * (1.0 - np.where(is_between, apart, 0.0)), surface + reach)
    least = np.float32(LEAST_LEVEL_MM / 10)
    inside = apart < 1.0
    return np.where(inside, np.maximum(level, least), np.minimum(level, -least)).astype(np.float32)


def _scaled(values: Floats, part: Geometry) -> Floats:
    """Return a level of any unit as mm from its zero, near it."""
    slopes = np.gradient(values, *part.spacing_mm)
    steepness = np.sqrt(sum(slope**2 for slope in slopes))
    farthest = 2.0 * max(part.spacing_mm)
    # where a level is flat, its zero is far away
    scaled = np.asarray(values / np.maximum(steepness, np.abs(values) / farthest + 1e-9))
    least = LEAST_LEVEL_MM / 10
    signed = np.where(values > 0, np.maximum(scaled, least), np.minimum(scaled, -least))
    return np.asarray(signed, dtype=np.float32)


def _pulled(
    values: Floats, source_from_target: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> Floats:
    """Return values on another grid, linear between the voxels."""
    matrix = np.round(source_from_target, 9)
    pulled = np.empty(shape, dtype=np.float32)
    ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], shape, output=pulled, order=1, mode="nearest"
    )
    return pulled


def block_around(mask: Mask, margin_mm: float) -> Block:
    """Return the part of the grid that holds a mask and so much around it, as far as it goes."""
    found = ndimage.find_objects(mask.inside.view(np.uint8))[0]
    pads = [int(np.ceil(margin_mm / mm)) + PAD_VOXELS for mm in mask.geometry.spacing_mm]
    z, y, x = (
        slice(max(side.start - pad, 0), min(side.stop + pad, size))
        for side, pad, size in zip(found, pads, mask.geometry.shape, strict=True)
    )
    return z, y, x


def _smooth_distance(mask: Mask, block: Block) -> Floats:
    """Return the distance to a mask's border in mm, above zero in its voxels alone, smoothed."""
    pad = 4
    inside = np.pad(mask.inside[block], pad)
    distance = -signed_distance_of_array(inside, mask.geometry.spacing_mm)
    smooth = ndimage.gaussian_filter(distance, SMOOTHING_VOXELS)
    smooth = 2.0 * smooth - ndimage.gaussian_filter(smooth, SMOOTHING_VOXELS)  # less shrinking
    least = np.float32(LEAST_LEVEL_MM)
    signed = np.where(inside, np.maximum(smooth, least), np.minimum(smooth, -least))
    return np.asarray(signed[pad:-pad, pad:-pad, pad:-pad], dtype=np.float32)


def _both(first: VoxelField, second: VoxelField) -> Block:
    z, y, x = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first.block, second.block, strict=True)
    )
    return z, y, x


def _overlap(first: Block, second: Block) -> Block:
    z, y, x = (
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return z, y, x


def _within(inner: Block, outer: Block) -> Block:
    """Return where a part of the grid lies in a part that holds it."""
    z, y, x = (
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )
    return z, y, x


def _values(level: VoxelField, block: Block) -> Floats:
    """Return a level on another part of the grid; beyond its own, as low as it ever is."""
    values = np.full(_size(block), min(float(level.values.min()), -1.0), dtype=np.float32)
    shared = _overlap(level.block, block)
    values[_within(shared, block)] = level.values[_within(shared, level.block)]
    return values


def _size(block: Block) -> tuple[int, int, int]:
    z, y, x = (side.stop - side.start for side in block)
    return z, y, x


def _field(geometry: Geometry, block: Block, values: Floats) -> VoxelField:
    start = (block[0].start, block[1].start, block[2].start)
    return VoxelField(geometry.crop(start, _size(block)), start, values)


def _shape(geometry: Geometry, block: Block, values: Floats) -> Shape:
    inside = np.zeros(geometry.shape, dtype=bool)
    inside[block] = values > 0
    return Shape(Mask(geometry, inside), _field(geometry, block, values))
