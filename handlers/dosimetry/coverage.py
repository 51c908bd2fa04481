"""How much of each pixel of a fine raster the rings of one plane cover, and how deep it lies.

Scan lines with exact crossings: along a line the covered part of a pixel is exact, across the lines
it is sampled. Deliberately knows no patient axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.dosimetry.planes import Plane

Floats = npt.NDArray[np.float64]

LINES_PER_PIXEL = 4
"""Scan lines through one pixel."""


COVERED_DECIMALS = 6
"""So a pixel inside counts as wholly covered, whatever the rounding of a sum."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Covered parts of pixels, 0 to 1, of a block of an endless raster of square pixels.

    Attributes:
        start: Row and column of the raster at which the block begins.
        covered: Shape (rows, columns).
    """

    start: tuple[int, int]
    covered: Floats

    def within(self, start: tuple[int, int], shape: tuple[int, int]) -> Floats:
        """Return the covered parts on a larger block."""
        larger = np.zeros(shape)
        row, column = self.start[0] - start[0], self.start[1] - start[1]
        rows, columns = self.covered.shape
        larger[row : row + rows, column : column + columns] = self.covered
        return larger


def patch_of(plane: Plane, pixel_mm: float) -> Patch:
    """Return what the rings of a plane cover of pixels of `pixel_mm`, pixel (0, 0) at 0 mm.

    Rings combine as in a mask: exclusive-or if one asks for it; else those at even depth are filled
    and those at odd depth cut out.
    """
    rings = [ring / pixel_mm for ring in plane.rings]
    low = np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)).astype(int)
    high = np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0)).astype(int)
    shape = (int(high[0] - low[0]) or 1, int(high[1] - low[1]) or 1)
    rings = [ring - low for ring in rings]
    start = (int(low[0]), int(low[1]))
    if plane.is_exclusive_or or len(rings) == 1:
        return Patch(start, _even_odd(rings, shape))
    covered = np.zeros(shape)
    for depth, ring in sorted(zip(plane.depths, rings, strict=True), key=lambda pair: pair[0]):
        part = _even_odd([ring], shape)
        if depth % 2 == 1:
            covered = np.maximum(covered - part, 0.0)
        elif np.any((covered == 1.0) & (part == 1.0)):  # they overlap
            covered = np.maximum(covered, part)
        else:  # they lie side by side, and may share a pixel
            covered = np.minimum(covered + part, 1.0)
    return Patch(start, covered)


def _even_odd(rings: Sequence[Floats], shape: tuple[int, int]) -> Floats:
    """Return the covered part of each pixel; pixel i reaches from i to i + 1."""
    rows, columns = shape
    a = np.concatenate(rings)
    b = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    ya, yb = a[:, 0] * LINES_PER_PIXEL - 0.5, b[:, 0] * LINES_PER_PIXEL - 0.5
    lowest = np.ceil(np.minimum(ya, yb)).astype(np.int64)
    count = np.ceil(np.maximum(ya, yb)).astype(np.int64) - lowest
    edge = np.repeat(np.arange(len(a)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + lowest[edge]
    part = (line - ya[edge]) / (yb[edge] - ya[edge])
    x = np.clip(a[edge, 1] + part * (b[edge, 1] - a[edge, 1]), 0.0, float(columns))
    order = np.lexsort((x, line))
    x, row = x[order], line[order] // LINES_PER_PIXEL
    # sorted crossings enter and leave in turn
    sign = np.where(np.arange(len(x)) % 2 == 0, 1.0, -1.0) / LINES_PER_PIXEL
    column = np.minimum(x.astype(np.int64), columns - 1)
    beyond = x - column
    width = columns + 1
    size = rows * width
    rise = np.bincount(row * width + column, weights=sign * (1.0 - beyond), minlength=size)
    rise += np.bincount(row * width + column + 1, weights=sign * beyond, minlength=size)
    covered = np.cumsum(rise.reshape(rows, width)[:, :columns], axis=1)
    return np.clip(np.round(covered, COVERED_DECIMALS), 0.0, 1.0)


def depth_in_pixels(covered: Floats) -> Floats:
    """Return how deep the middle of each pixel lies inside, in pixels, negative outside.

    From the nearest pixel that the border crosses, whose covered part tells where in it the border
    runs.

    Args:
        covered: Covered parts, with something covered.

    Accuracy:
        Within 0.1 pixels for rings of more than a few pixels.
    """
    inside = covered > 0.5
    beside = np.zeros(covered.shape, dtype=np.bool_)
    for axis in (0, 1):
        there, back = np.moveaxis(beside, axis, 0), np.moveaxis(inside, axis, 0)
        there[1:] |= back[1:] & ~back[:-1]
        there[:-1] |= back[:-1] & ~back[1:]
        there[0] |= back[0]
        there[-1] |= back[-1]
    rim = ((covered > 0.0) & (covered < 1.0)) | beside
    far, (row, column) = ndimage.distance_transform_edt(~rim, return_indices=True)
    return np.asarray(np.where(inside, far, -far) + covered[row, column] - 0.5)
