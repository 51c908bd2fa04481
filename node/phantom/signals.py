"""How an image is formed from the anatomy: painting with partial volume, then what scanners add.

How tissues look is in `look`, where the patient lies in `motion`. No k-space is simulated: no
chemical shift, no ringing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry
from node.phantom.look import Look
from node.phantom.motion import Warp
from node.phantom.solids import FAR_MM, Array, Layer, Solid

VOXELS_PER_SLAB = 300_000
"""About how much is painted at once: bounds the memory, changes nothing."""

FEWEST_PLANES = 2
PLANE_MM = 2.0
"""A slice is the mean of planes about this far apart, but of no fewer than that."""

SAMPLE_MM = 6.0
"""Distance of the voxels by which the part of a warped grid is found that a solid reaches."""

SAMPLE_MARGIN_MM = 12.0
"""No voxel lies farther from the nearest of these: half a cell's diagonal, stretched twice."""

CT_NOISE_HU = 11.0
MR_NOISE = {"T1": 14.0, "T2": 16.0, "DWI": 10.0}
ADC_NOISE = 9000.0
"""Noise of the ADC is this over the DWI signal: unreliable where little signal is left."""


def paint(
    layers: Sequence[Layer],
    geometry: Geometry,
    look: Look,
    channels: Sequence[str],
    *,
    sub_slices: int,
    warps: Sequence[Warp] = (),
) -> npt.NDArray[np.float32]:
    """Return the noiseless signals on a grid.

    Edges are as wide as a pixel, and each slice is the mean of `sub_slices` planes within it: the
    partial volume effect.

    Args:
        layers: Tissues in the order of painting; the first is the skin, which holds all others.
        geometry: The grid, placed rigidly in the patient's own frame.
        look: How the tissues look.
        channels: Fields of `Tissue`, for instance `hu`.
        sub_slices: Planes per slice.
        warps: Lead from the grid's points to those of the anatomy, in this order.

    Returns:
        Shape (channels, slices, rows, columns).
    """
    slices, rows, columns = geometry.shape
    signals = np.empty((len(channels), *geometry.shape), dtype=np.float32)
    step = max(1, VOXELS_PER_SLAB // (sub_slices * rows * columns))
    for first in range(0, slices, step):
        count = min(step, slices - first)
        slab = _fine_slab(geometry, first, count, sub_slices)
        fine = _paint_slab(layers, slab, look, channels, warps)
        fine = fine.reshape(len(channels), count, sub_slices, rows, columns)
        signals[:, first : first + count] = fine.mean(axis=2)
    return signals


def planes_within(grid: Geometry) -> int:
    """Return of how many planes a slice of a grid is the mean."""
    return max(FEWEST_PLANES, math.ceil(grid.spacing_mm[0] / PLANE_MM))


def _fine_slab(geometry: Geometry, first: int, count: int, sub_slices: int) -> Geometry:
    matrix = geometry.patient_from_index.copy()
    matrix[:3, 0] /= sub_slices
    start = first - 0.5 + 0.5 / sub_slices
    matrix[:3, 3] = geometry.points_from_indices((start, 0, 0))[0]
    shape = (count * sub_slices, geometry.shape[1], geometry.shape[2])
    return Geometry(geometry.frame_of_reference_uid, matrix, shape)


def _paint_slab(
    layers: Sequence[Layer],
    slab: Geometry,
    look: Look,
    channels: Sequence[str],
    warps: Sequence[Warp],
) -> npt.NDArray[np.float32]:
    """Return the signals on a slab; nothing is worked out outside the box of the first layer."""
    air = [getattr(look.tissues["air"], channel) for channel in channels]
    signals = np.empty((len(channels), *slab.shape), dtype=np.float32)
    signals[:] = np.array(air, dtype=np.float32).reshape(-1, 1, 1, 1)
    edge_mm = min(slab.spacing_mm[1:])
    reach_mm = edge_mm + sum(warp.largest_mm for warp in warps)
    body = block_around(layers[0].solid, slab, reach_mm)
    if body is not None:
        start, stop = ([getattr(s, end) for s in body] for end in ("start", "stop"))
        shape = tuple(int(n) for n in np.subtract(stop, start))
        part = slab.crop((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
        for n, painted in enumerate(_paint_body(layers, part, look, channels, warps)):
            signals[n][body] = painted
    return signals


def _paint_body(
    layers: Sequence[Layer],
    grid: Geometry,
    look: Look,
    channels: Sequence[str],
    warps: Sequence[Warp],
) -> npt.NDArray[np.float32]:
    x, y, z = coordinates(grid)
    for warp in warps:
        x, y, z = warp.before(x, y, z)
    fields = look.fields(channels, x, y, z)
    edge_mm = np.float32(min(grid.spacing_mm[1:]))
    signals = np.empty((len(channels), *grid.shape), dtype=np.float32)
    for n, channel in enumerate(channels):
        signals[n] = getattr(look.tissues["air"], channel)
    sample = _Sample.of(grid, x, y, z) if warps else None
    for layer in layers:
        margin_mm = max(begins_mm for _, begins_mm in layer.coats) + float(edge_mm)
        if sample:
            block = sample.block_around(layer.solid, margin_mm)
        else:
            block = block_around(layer.solid, grid, margin_mm)
        if block is None:
            continue
        distance = layer.solid.distance(*(_part(axis, block) for axis in (x, y, z)))
        for tissue, begins_mm in layer.coats:
            cover = np.clip(np.float32(0.5) - (distance - np.float32(begins_mm)) / edge_mm, 0, 1)
            if not cover.any():
                continue
            for n, (channel, (grain, sheet)) in enumerate(zip(channels, fields, strict=True)):
                part = signals[n][block]
                inside = sheet if sheet is None else sheet[block]
                part += cover * (look.signal(tissue, channel, grain[block], inside) - part)
    return signals


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Some voxels of a warped grid, close enough to tell where a solid may lie.

    Attributes:
        indices: Which slices, rows and columns were taken.
        points: Where these voxels lie in the space of the solids, shape (3, ...).
    """

    indices: tuple[npt.NDArray[np.int64], ...]
    points: Array

    @classmethod
    def of(cls, grid: Geometry, x: Array, y: Array, z: Array) -> "_Sample":
        indices = tuple(
            np.unique(np.append(np.arange(0, size, max(1, int(SAMPLE_MM / step_mm))), size - 1))
            for size, step_mm in zip(grid.shape, grid.spacing_mm, strict=True)
        )
        whole = np.broadcast_arrays(x, y, z)
        return cls(indices, np.stack([axis[np.ix_(*indices)] for axis in whole]))

    def block_around(self, solid: Solid, margin_mm: float) -> tuple[slice, slice, slice] | None:
        """Return the part of the grid that the solid's box may reach, or None."""
        margin_mm += SAMPLE_MARGIN_MM
        inside: npt.NDArray[np.bool_] | None = None
        for axis, low, high in zip(self.points, solid.lowest, solid.highest, strict=True):
            if low <= -FAR_MM and high >= FAR_MM:
                continue
            within = (axis > low - margin_mm) & (axis < high + margin_mm)
            inside = within if inside is None else inside & within
            if not inside.any():
                return None
        if inside is None:
            inside = np.ones(self.points.shape[1:], dtype=bool)
        found = []
        for n, taken in enumerate(self.indices):
            hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != n)))
            first, last = max(hits[0] - 1, 0), min(hits[-1] + 1, len(taken) - 1)
            found.append(slice(int(taken[first]), int(taken[last]) + 1))
        return found[0], found[1], found[2]


def coordinates(geometry: Geometry) -> tuple[Array, Array, Array]:
    """Return x, y and z in mm of all voxels, as arrays that broadcast to the grid's shape."""
    axes = []
    for row in geometry.patient_from_index[:3]:
        total = np.full((1, 1, 1), row[3], dtype=np.float32)
        for n, size in enumerate(geometry.shape):
            if row[n]:  # an axis that does not matter stays of length 1: cheap
                shape = [size if axis == n else 1 for axis in range(3)]
                total = total + (np.arange(size) * row[n]).astype(np.float32).reshape(shape)
        axes.append(total)
    return axes[0], axes[1], axes[2]


def block_around(
    solid: Solid, grid: Geometry, margin_mm: float = 0.0
) -> tuple[slice, slice, slice] | None:
    """Return the part of a grid that the solid's box reaches, or None."""
    lowest = np.maximum(solid.lowest, -FAR_MM) - margin_mm
    highest = np.minimum(solid.highest, FAR_MM) + margin_mm
    if np.any(lowest >= highest):
        return None
    pairs = list(zip(lowest, highest, strict=True))
    corners = [(a, b, c) for a in pairs[0] for b in pairs[1] for c in pairs[2]]
    indices = grid.indices_from_points(corners)
    first = np.clip(np.floor(indices.min(axis=0)), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(indices.max(axis=0)) + 1, 0, grid.shape).astype(int)
    if np.any(first >= last):
        return None
    s, r, c = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return s, r, c


def voxels_inside(solid: Solid, grid: Geometry) -> npt.NDArray[np.bool_]:
    """Return which voxel centres of a grid lie inside a solid."""
    inside = np.zeros(grid.shape, dtype=bool)
    block = block_around(solid, grid)
    if block is not None:
        x, y, z = (_part(axis, block) for axis in coordinates(grid))
        inside[block] = solid.distance(x, y, z) < 0
    return inside


def _part(axis: Array, block: tuple[slice, slice, slice]) -> Array:
    own = tuple(b if size > 1 else slice(None) for b, size in zip(block, axis.shape, strict=True))
    return axis[own]


def with_ct_noise(
    hu: npt.NDArray[np.float32], rng: np.random.Generator, strength: float
) -> npt.NDArray[np.float32]:
    """Return HU with noise that is slightly smooth within a slice, as a soft kernel leaves it."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal(hu.shape, dtype=np.float32), (0.0, 0.6, 0.6), mode="nearest"
    )
    scale = np.float32(CT_NOISE_HU * strength) / noise.std()
    return np.asarray(hu + scale * noise, dtype=np.float32)


def with_bias(
    signal: npt.NDArray[np.float32], rng: np.random.Generator, strength: float = 0.22
) -> npt.NDArray[np.float32]:
    """Return the signal under a smooth coil profile that belongs to the scanner."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in signal.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    a = rng.uniform(-1, 1, 6).astype(np.float32)
    profile = a[0] * x + a[1] * y + a[2] * z + a[3] * x * y + a[4] * (x * x - y * y) + a[5] * z * z
    return np.asarray(signal * np.exp(np.float32(strength / 2) * profile), dtype=np.float32)


def with_rician_noise(
    signal: npt.NDArray[np.float32], rng: np.random.Generator, sigma: float
) -> npt.NDArray[np.float32]:
    """Return the magnitude of the signal with complex noise."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    return np.asarray(np.hypot(signal + real, imaginary), dtype=np.float32)


def with_adc_noise(
    adc: npt.NDArray[np.float32],
    dwi: npt.NDArray[np.float32],
    rng: np.random.Generator,
    strength: float,
) -> npt.NDArray[np.float32]:
    """Return the ADC with an error that grows where the DWI signal is small; never negative."""
    sigma = np.float32(ADC_NOISE * strength) / (dwi + np.float32(15))
    noise = rng.standard_normal(adc.shape, dtype=np.float32)
    return np.asarray(np.clip(adc + sigma * noise, 0, 4095), dtype=np.float32)
