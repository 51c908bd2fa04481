"""How the tissues look on CT and MR, and how an image is formed from the anatomy.

CT is portal-venous, in HU. T1 is a fat-suppressed gradient echo in the portal-venous phase, T2 a
single-shot spin echo, DWI b = 800 s/mm2, ADC in 1e-6 mm2/s; MR signals are arbitrary units. The
order of brightness follows general radiology, the numbers are ours. No k-space is simulated: no
chemical shift, no distortion, no ringing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry
from node.phantom.solids import FAR_MM, Array, Layer, Solid

LATTICE_MM = 3.0
"""Spacing of the lattice that holds the texture of the tissues."""

VOXELS_PER_SLAB = 300_000
"""About how much is painted at once: bounds the memory, changes nothing."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Mean signals, and the relative strength of texture (standard deviation)."""

    hu: float
    t1: float
    t2: float
    dwi: float
    adc: float
    texture: float = 0.03


TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 2, 2, 1, 0, 0.0),
    "gas": Tissue(-960, 4, 4, 2, 0, 0.0),
    "lung": Tissue(-810, 40, 35, 6, 0, 0.25),
    "skin": Tissue(20, 150, 160, 25, 600),
    "fat": Tissue(-103, 75, 560, 14, 150, 0.10),
    "muscle": Tissue(62, 230, 115, 62, 1350, 0.08),
    "rib": Tissue(320, 70, 120, 12, 300, 0.15),
    "cortical": Tissue(480, 45, 50, 6, 200, 0.15),
    "marrow": Tissue(190, 190, 300, 45, 450, 0.12),
    "disc": Tissue(85, 140, 330, 60, 1500, 0.06),
    "csf": Tissue(18, 70, 950, 12, 3000),
    "cord": Tissue(42, 210, 340, 230, 950),
    "liver": Tissue(112, 430, 175, 95, 1300, 0.05),
    "spleen": Tissue(122, 440, 330, 330, 820, 0.04),
    "kidney": Tissue(188, 640, 390, 190, 1950, 0.04),
    "medulla": Tissue(150, 520, 470, 160, 2050, 0.06),
    "pancreas": Tissue(98, 380, 270, 120, 1500, 0.12),
    "gallbladder_wall": Tissue(80, 320, 240, 80, 1500),
    "bile": Tissue(8, 95, 980, 40, 3000, 0.02),
    "stomach_wall": Tissue(80, 400, 240, 110, 1400, 0.06),
    "bowel_wall": Tissue(82, 400, 250, 120, 1400, 0.06),
    "fluid": Tissue(14, 90, 900, 55, 2700, 0.06),
    "stool": Tissue(15, 260, 190, 40, 1500, 0.5),
    "heart": Tissue(130, 560, 90, 30, 1600, 0.05),
    "aorta": Tissue(158, 700, 22, 6, 300, 0.02),
    "artery": Tissue(152, 640, 28, 8, 300, 0.02),
    "vena_cava": Tissue(138, 650, 45, 8, 300, 0.04),
    "vein": Tissue(150, 690, 40, 8, 300, 0.02),
    "portal_vein": Tissue(158, 740, 34, 7, 300, 0.02),
    "node": Tissue(88, 330, 345, 420, 920, 0.06),
}

CT_TEXTURE_HU = 120.0
"""HU to which the relative texture of a tissue applies: CT shows little of it."""

CT_NOISE_HU = 11.0
MR_NOISE = {"T1": 14.0, "T2": 16.0, "DWI": 10.0}
ADC_NOISE = 9000.0
"""Noise of the ADC is this over the DWI signal: unreliable where little signal is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """Smooth noise at several scales, fixed to the patient; mean 0, standard deviation 1."""

    lattice: npt.NDArray[np.float32]

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Return the texture at LPS points in mm; the arrays broadcast."""
        where = np.stack(np.broadcast_arrays(x, y, z)) / np.float32(LATTICE_MM)
        values = ndimage.map_coordinates(self.lattice, where, order=1, mode="grid-wrap")
        return np.asarray(values, dtype=np.float32)


def make_texture(seed: int) -> Texture:
    """Return the texture of a patient; it repeats after 192 mm."""
    rng = np.random.default_rng([seed, 21])
    total = np.zeros((64, 64, 64))
    for scale, weight in ((0.8, 0.7), (2.0, 0.6), (5.0, 0.4)):
        octave = ndimage.gaussian_filter(rng.standard_normal(total.shape), scale, mode="wrap")
        total += weight * octave / octave.std()
    return Texture(((total - total.mean()) / total.std()).astype(np.float32))


def paint(
    layers: Sequence[Layer],
    geometry: Geometry,
    texture: Texture,
    channels: Sequence[str],
    *,
    sub_slices: int,
    breathing_mm: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Return the noiseless signals on a grid.

    Edges are as wide as a pixel, and each slice is the mean of `sub_slices` planes within it: the
    partial volume effect.

    Args:
        layers: Tissues in the order of painting.
        geometry: The grid, in the patient's own frame (that of the anatomy).
        texture: Texture of the tissues.
        channels: Fields of `Tissue`, for instance `hu`.
        sub_slices: Planes per slice.
        breathing_mm: How much lower the front of the abdomen lies.

    Returns:
        Shape (channels, slices, rows, columns).
    """
    slices, rows, columns = geometry.shape
    signals = np.empty((len(channels), *geometry.shape), dtype=np.float32)
    step = max(1, VOXELS_PER_SLAB // (sub_slices * rows * columns))
    for first in range(0, slices, step):
        count = min(step, slices - first)
        slab = _fine_slab(geometry, first, count, sub_slices)
        fine = _paint_slab(layers, slab, texture, channels, breathing_mm)
        fine = fine.reshape(len(channels), count, sub_slices, rows, columns)
        signals[:, first : first + count] = fine.mean(axis=2)
    return signals


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
    texture: Texture,
    channels: Sequence[str],
    breathing_mm: float,
) -> npt.NDArray[np.float32]:
    x, y, z = coordinates(slab)
    if breathing_mm:
        front = 1 - np.tanh((y - np.float32(25)) / np.float32(20))
        z = np.asarray(z + np.float32(breathing_mm / 2) * front, dtype=np.float32)
    grain = texture.at(x, y, z)
    edge_mm = np.float32(min(slab.spacing_mm[1:]))
    air = [getattr(TISSUES["air"], channel) for channel in channels]
    signals = np.empty((len(channels), *slab.shape), dtype=np.float32)
    signals[:] = np.array(air, dtype=np.float32).reshape(-1, 1, 1, 1)
    for layer in layers:
        rim_mm = max(begins_mm for _, begins_mm in layer.coats)
        block = block_around(layer.solid, slab, rim_mm + float(edge_mm) + abs(breathing_mm))
        if block is None:
            continue
        distance = layer.solid.distance(*(_part(axis, block) for axis in (x, y, z)))
        for tissue, begins_mm in layer.coats:
            cover = np.clip(np.float32(0.5) - (distance - np.float32(begins_mm)) / edge_mm, 0, 1)
            if cover.any():
                for n, channel in enumerate(channels):
                    part = signals[n][block]
                    part += cover * (_own_signal(tissue, channel, grain[block]) - part)
    return signals


def _own_signal(tissue: str, channel: str, grain: Array) -> Array:
    mean = np.float32(getattr(TISSUES[tissue], channel))
    scale = np.float32(CT_TEXTURE_HU if channel == "hu" else mean)
    return np.asarray(mean + scale * np.float32(TISSUES[tissue].texture) * grain, dtype=np.float32)


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
