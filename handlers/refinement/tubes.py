"""How tube-like an image is at every voxel: the second derivatives of its brightness, over scales.

In the middle of a bright tube brightness falls off steeply in two directions and not at all in the
third; in a ball it falls off in all three, in a sheet only in one. Works in mm on voxels of any
spacing. Knows nothing of tissues: what is bright is the caller's affair.

Read first: Sato et al. 1998, Med Image Anal 2:143-168 (line filter from the Hessian's eigenvalues).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import fft

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

SCALES_MM = (1.2, 1.8, 2.7, 4.0, 5.7)
"""Standard deviations of the Gaussians: each answers best to a tube of `RADIUS_PER_SCALE` times."""

RADIUS_PER_SCALE = float(np.sqrt(2.0))
"""Radius of the tube for which a scale's answer is largest, from the integral of a blurred disc."""

GAIN = float(np.e)
"""Makes the answer to a long tube equal to its brightness, at the scale that fits its radius."""

BALL_RATIO = 0.35
"""Fall-off along the tube relative to that across it at which the answer is down to 0.6."""

SLOPE_RATIO = 0.5
"""Likewise for the slope along the tube, times the scale. Away from its middle a ball falls off
across in two directions as well, but goes downhill in the third; a tube keeps its height."""

PADDING_MM = 10.0
"""Room around the image before it is repeated by the Fourier transform."""


def tube_response(
    brightness: Floats, spacing_mm: Sequence[float], where: Bools
) -> tuple[Floats, Floats]:
    """Return how bright a tube runs through each voxel, and the tube's radius in mm.

    Args:
        brightness: Shape (slices, rows, columns); only what is brighter than its surroundings
            answers.
        spacing_mm: Of slices, rows and columns.
        where: Voxels to be answered for; all others get 0.

    Returns:
        Response in units of `brightness` and radius in mm (0 where there is no response), both of
        the shape of `brightness`.
    """
    response, radius_mm = np.zeros_like(brightness), np.zeros_like(brightness)
    count = int(where.sum())
    if count == 0:
        return response, radius_mm
    best, best_radius = np.zeros(count, np.float32), np.zeros(count, np.float32)
    padding = [int(np.ceil(PADDING_MM / step)) for step in spacing_mm]
    padded = np.pad(brightness.astype(np.float32), [(n, n) for n in padding], mode="edge")
    shape = [fft.next_fast_len(n, real=True) for n in padded.shape]
    spectrum = fft.rfftn(padded, shape)
    waves = _wave_numbers(shape, spacing_mm)
    inner = tuple(slice(n, n + size) for n, size in zip(padding, brightness.shape, strict=True))
    squared = waves[0] ** 2 + waves[1] ** 2 + waves[2] ** 2
    for scale_mm in SCALES_MM:
        blurred = spectrum * (GAIN * scale_mm**2 * np.exp(-0.5 * scale_mm**2 * squared))
        hessian, gradient = np.empty((count, 3, 3), np.float32), np.empty((count, 3), np.float32)
        for a in range(3):
            first = fft.irfftn(1j * blurred * waves[a], shape)[inner][where]
            gradient[:, a] = first / scale_mm
            for b in range(a, 3):
                second = fft.irfftn(-blurred * waves[a] * waves[b], shape)[inner][where]
                hessian[:, a, b] = hessian[:, b, a] = second
        answer = _line_strength(hessian, gradient)
        better = answer > best
        best[better] = answer[better]
        best_radius[better] = RADIUS_PER_SCALE * scale_mm
    response[where], radius_mm[where] = best, best_radius
    return response, radius_mm


def _wave_numbers(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[Floats]:
    """Return the angular wave numbers of each axis in rad/mm, shaped to broadcast."""
    slices, rows = (fft.fftfreq(n, d) for n, d in zip(shape[:2], spacing_mm[:2], strict=True))
    columns = fft.rfftfreq(shape[2], spacing_mm[2])
    turns = np.meshgrid(slices, rows, columns, indexing="ij", sparse=True)
    return [(2 * np.pi * axis).astype(np.float32) for axis in turns]


def _line_strength(hessian: Floats, gradient: Floats) -> Floats:
    """Return the weaker fall-off across, less where brightness changes along as well; (n,)."""
    curvature, axes = np.linalg.eigh(hessian)
    steepest, across, along = curvature.T
    mean = np.sqrt(np.maximum(steepest * across, 0)) + 1e-6
    slope = np.einsum("na,na->n", gradient, axes[:, :, 2])
    doubt = (np.minimum(along, 0) / (BALL_RATIO * mean)) ** 2 + (slope / (SLOPE_RATIO * mean)) ** 2
    return np.where(across < 0, -across * np.exp(-0.5 * doubt), 0).astype(np.float32)
