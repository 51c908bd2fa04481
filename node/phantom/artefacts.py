"""What scanner and motion do to the images of the kit, on their own grids.

Blur and ghosts are symmetric about where things are, so the truth stays. Not a simulation of
k-space.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry
from node.phantom.variety import Variety

PLAIN_BIAS = 0.22
"""Strength of the coil profile over the plain patient."""

KERNEL_MM = 0.8
"""Standard deviation of the blur of a CT."""

USELESS_BLUR_MM = 6.0
USELESS_NOISE = 25.0
GHOST_SHARES = (0.21, 0.42)
"""How far along the phase encoding ghosts lie, as shares of the field of view."""


def with_kernel(hu: npt.NDArray[np.float32], grid: Geometry) -> npt.NDArray[np.float32]:
    """Return HU (slices, rows, columns) as a soft kernel blurs them within the slices."""
    _, rows, columns = grid.spacing_mm
    widths = (0.0, KERNEL_MM / rows, KERNEL_MM / columns)
    return np.asarray(ndimage.gaussian_filter(hu, widths, mode="nearest", truncate=3.0))


def with_motion(
    painted: npt.NDArray[np.float32], grid: Geometry, rng: np.random.Generator, variety: Variety
) -> npt.NDArray[np.float32]:
    """Return the signals (channels, slices, rows, columns) blurred and with ghosts along columns.

    Args:
        painted: The signals.
        grid: Their grid.
        rng: The acquisition.
        variety: The case; a `blurred` one loses all detail.
    """
    slices, rows, columns = grid.spacing_mm
    blur = variety.blur_mm
    sigma_mm = (0.5 * blur, blur, 0.4 * blur)
    if variety.flaw == "blurred":
        sigma_mm = (USELESS_BLUR_MM,) * 3
    widths = [s / v for s, v in zip(sigma_mm, (slices, rows, columns), strict=True)]
    moved = np.empty_like(painted)
    phase = rng.uniform(0, 2 * np.pi, len(GHOST_SHARES))
    for n, channel in enumerate(painted):
        blurred = ndimage.gaussian_filter(channel, widths, mode="nearest", truncate=3.0)
        real, imaginary = blurred.copy(), np.zeros_like(blurred)
        for share, angle in zip(GHOST_SHARES, phase, strict=True):
            step = round(share * blurred.shape[1])
            ghost = np.roll(blurred, step, axis=1) + np.roll(blurred, -step, axis=1)
            ghost *= np.float32(variety.ghost / 2)
            real += np.float32(np.cos(angle)) * ghost
            imaginary += np.float32(np.sin(angle)) * ghost
        moved[n] = np.hypot(real, imaginary)
    return moved


def noise_factor(variety: Variety) -> float:
    """Return by how much the noise of the case exceeds that of its options."""
    return USELESS_NOISE if variety.flaw == "noise" else 1.0
