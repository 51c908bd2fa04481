"""Streaks that moving gas leaves in a CT.

A part of the views of a slice sees the gas displaced; what their filtered back projection differs
by are streaks along the edges of the gas, bright and dark. Parallel beams, gas alone: no beam
hardening, no scatter.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.transform import iradon, radon

from handlers.geometry import Geometry
from node.phantom.signals import voxels_inside
from node.phantom.solids import Solid

RASTER_MM = 1.5
REACH_MM = 60.0
"""Raster on which streaks are reconstructed, and how far they go from the middle of the gas."""

VIEWS = 90
SHIFT_MM = (2.0, 4.5)
"""How far the gas moves while the CT turns once."""

STRENGTH_HU = (35.0, 65.0)
NEAR_MM = (2.0, 12.0)
"""Between these distances from the gas one voxel in twenty is changed by more than that."""

OFTEN = 95.0


def gas_streaks(gas: Solid, grid: Geometry, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the change of HU about gas that moves while each slice is acquired.

    Args:
        gas: In the frame of the grid.
        grid: The CT's.
        rng: The acquisition.

    Returns:
        Shape of the grid; 0 far from the gas and where there is none.
    """
    angle, shift_mm = rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT_MM)
    strength = rng.uniform(*STRENGTH_HU)
    raster = _Raster(gas, grid, max(RASTER_MM, *grid.spacing_mm[1:]))
    shift = np.array((np.cos(angle), np.sin(angle))) * shift_mm / raster.pitch_mm
    covered = voxels_inside(gas, grid)
    found = np.zeros(grid.shape, dtype=np.float32)
    sizes = []
    for s in np.flatnonzero(covered.any(axis=(1, 2))):
        middle = np.argwhere(covered[s]).mean(axis=0)
        distance = raster.distance(int(s), middle)
        still = np.clip(0.5 - distance / raster.pitch_mm, 0, 1)
        streaks = _streaks(still, ndimage.shift(still, shift, order=1), rng)
        near = (distance > NEAR_MM[0]) & (distance < NEAR_MM[1])
        sizes.append(np.percentile(np.abs(streaks[near]), OFTEN))
        raster.onto(found[s], streaks, middle)
    return found * np.float32(strength / max(sizes)) if sizes else found


def _streaks(
    still: npt.NDArray[np.float64], moved: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return by how much a slice differs when the later views see the gas moved."""
    angles = np.linspace(0, 180, VIEWS, endpoint=False)
    half = len(still) // 2
    steps = np.arange(-half, half + 1) / half
    radius = np.minimum(np.hypot(steps[:, None], steps), 1.0)
    # nothing may lie outside the circle that all views see
    changed = radon((moved - still) * (radius < 1), angles)
    changed[:, : int(rng.integers(VIEWS // 4, 3 * VIEWS // 4))] = 0
    return np.asarray(iradon(changed, angles) * (1 + np.cos(np.pi * radius)) / 2)


class _Raster:
    """Square rasters within slices of a CT, about the gas that lies in them."""

    def __init__(self, gas: Solid, grid: Geometry, pitch_mm: float) -> None:
        self.gas, self.grid, self.pitch_mm = gas, grid, pitch_mm
        half = int(REACH_MM / pitch_mm)
        self._steps_mm = np.arange(-half, half + 1) * pitch_mm

    def distance(self, s: int, middle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the distance to the gas, in mm, on the raster about a (row, column) of a slice."""
        rows, columns = (
            m + self._steps_mm / step
            for m, step in zip(middle, self.grid.spacing_mm[1:], strict=True)
        )
        r, c = np.meshgrid(rows, columns, indexing="ij")
        indices = np.column_stack([np.full(r.size, s), r.ravel(), c.ravel()])
        points = self.grid.points_from_indices(indices).astype(np.float32)
        return self.gas.distance(*points.T).reshape(r.shape).astype(np.float64)

    def onto(
        self,
        pixels: npt.NDArray[np.float32],
        raster: npt.NDArray[np.float64],
        middle: npt.NDArray[np.float64],
    ) -> None:
        """Put what is known on a raster into the pixels of its slice."""
        axes = []
        for size, step_mm, at in zip(pixels.shape, self.grid.spacing_mm[1:], middle, strict=True):
            axes.append((np.arange(size) - at) * step_mm / self.pitch_mm + len(raster) // 2)
        where = np.meshgrid(*axes, indexing="ij")
        pixels[...] = ndimage.map_coordinates(raster, where, order=1, mode="constant")
