"""Colors of a fused picture: CT in grey, MR over it in warm colors, contours apart from both.

Where the MR is dark it lets the CT through, so that bone and gas stay legible beneath it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
"""RGB from 0 to 255, shape (rows, columns, 3)."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown between black and white, as Window Center and Width."""

    center: float
    width: float

    def apply(self, values: npt.ArrayLike) -> Floats:
        """Return brightness from 0 to 1."""
        low = self.center - self.width / 2
        return np.clip((np.asarray(values, dtype=np.float64) - low) / self.width, 0.0, 1.0)


SOFT_TISSUE = Window(40.0, 400.0)
"""Window of soft tissue in HU, as abdominal CT is usually read."""

DRAWN: Rgb = (0, 235, 255)
"""The drawn contour: solid."""

REFINED: Rgb = (255, 90, 255)
"""The refined contour: dashed, so that a grey print tells it from the drawn one, too."""

ORGAN: Rgb = (205, 215, 205)
"""Organs: thin."""

TEXT: Rgb = (235, 235, 235)
CAUTION: Rgb = (255, 205, 60)
"""Words that say that something is to be checked."""

PALETTE_STOPS = (
    (0.0, (0, 0, 0)),
    (0.35, (150, 20, 0)),
    (0.7, (255, 140, 0)),
    (1.0, (255, 250, 190)),
)
"""MR color by brightness: black, red, orange, pale yellow; brightness never falls."""

LEAST_OPACITY, LARGEST_OPACITY = 0.15, 0.6
"""Opacity of the MR where it is darkest and brightest."""


def mr_palette(entries: int = 256) -> npt.NDArray[np.uint8]:
    """Return the colors of MR from dark to bright, shape (entries, 3)."""
    at = np.linspace(0.0, 1.0, entries)
    stops = [stop for stop, _ in PALETTE_STOPS]
    channels = [np.interp(at, stops, [c[i] for _, c in PALETTE_STOPS]) for i in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def in_grey(brightness: Floats) -> Picture:
    """Return RGB from 0 to 255 for a CT's brightness from 0 to 1, shape (rows, columns, 3)."""
    grey = np.asarray(brightness, dtype=np.float32)[..., None] * np.float32(255.0)
    return np.broadcast_to(grey, (*grey.shape[:2], 3))


def blend(ct: Floats, mr: Floats, covered: Bools) -> Picture:
    """Return RGB from 0 to 255 of MR over CT, both as brightness from 0 to 1.

    Args:
        ct: Shape (rows, columns).
        mr: Likewise; counts only where `covered`.
        covered: Where there is MR.
    """
    bright = np.clip(mr, 0.0, 1.0).astype(np.float32)
    palette = mr_palette().astype(np.float32)
    color = palette[np.rint(bright * (len(palette) - 1)).astype(np.intp)]
    opacity = np.float32(LEAST_OPACITY) + np.float32(LARGEST_OPACITY - LEAST_OPACITY) * bright
    opacity = np.where(covered, opacity, np.float32(0.0))[..., None]
    mixed: Picture = in_grey(ct) * (1 - opacity) + color * opacity
    return mixed
