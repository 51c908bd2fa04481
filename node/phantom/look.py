"""The look of a patient's tissues: mean signals, texture at several scales, thin sheets.

The plain patient has one texture, seen by CT and MR alike. A case of the kit has for each channel a
texture of which a part is its own: what CT and MR have in common is then mostly the shape of the
organs, as in real pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from node.phantom.solids import Array
from node.phantom.tissues import SEPTA, TISSUES, Tissue, tissues_of
from node.phantom.variety import Variety

LATTICE_MM = 3.0
"""Spacing of the lattice that holds the plain texture; it repeats after 192 mm."""

FINE_LATTICE = (96, 2.2)
"""Points and spacing in mm of the lattices of the kit: they repeat after 211 mm."""

CT_TEXTURE_HU = 120.0
"""HU to which the relative texture of a tissue applies: CT shows little of it."""

SHARED_TEXTURE = 0.45
"""Correlation of the textures of two channels of the kit."""

SHEET_STEEPNESS = 0.16
"""Sheets lie where a smooth noise passes zero: this much of its deviation makes their width."""

OWN_SHEETS = 0.8
"""Strength of the sheets of one channel against those that all channels show."""

MR_CHANNELS = ("t1", "t2", "dwi")
"""The ADC has the texture of the DWI from which it is made."""


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """A field that is fixed to the patient and repeats.

    Attributes:
        lattice: Its values, float32.
        spacing_mm: Distance of the lattice's points.
    """

    lattice: npt.NDArray[np.float32]
    spacing_mm: float = LATTICE_MM

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Return the field at LPS points in mm; the arrays broadcast."""
        where = np.stack(np.broadcast_arrays(x, y, z)) / np.float32(self.spacing_mm)
        values = ndimage.map_coordinates(self.lattice, where, order=1, mode="grid-wrap")
        return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How a patient's tissues look.

    Attributes:
        tissues: Mean signals by tissue.
        grain: Texture of mean 0 and deviation 1, by channel.
        sheets: Field of thin sheets, 0 to 1, by channel; empty: there are none.
    """

    tissues: Mapping[str, Tissue]
    grain: Mapping[str, Texture]
    sheets: Mapping[str, Texture]

    def fields(
        self, channels: Sequence[str], x: Array, y: Array, z: Array
    ) -> list[tuple[Array, Array | None]]:
        """Return grain and sheets of each channel at points."""
        once: dict[int, Array] = {}

        def at(texture: Texture) -> Array:
            if id(texture) not in once:
                once[id(texture)] = texture.at(x, y, z)
            return once[id(texture)]

        return [
            (at(self.grain[c]), at(self.sheets[c]) if c in self.sheets else None) for c in channels
        ]

    def signal(self, tissue: str, channel: str, grain: Array, sheet: Array | None) -> Array:
        """Return the signal of a tissue, given the fields at its points."""
        own = self.tissues[tissue]
        mean = np.float32(getattr(own, channel))
        scale = np.float32(CT_TEXTURE_HU if channel == "hu" else mean)
        found = mean + scale * np.float32(own.texture) * grain
        if sheet is not None and tissue in SEPTA:
            other, share = SEPTA[tissue]
            other_mean = np.float32(getattr(self.tissues[other], channel))
            found = found + sheet * np.float32(share) * (other_mean - mean)
        return np.asarray(found, dtype=np.float32)


def plain_look(seed: int) -> Look:
    """Return the look of the plain patient: one texture for all channels."""
    rng = np.random.default_rng([seed, 21])
    total = np.zeros((64, 64, 64))
    for scale, weight in ((0.8, 0.7), (2.0, 0.6), (5.0, 0.4)):
        octave = ndimage.gaussian_filter(rng.standard_normal(total.shape), scale, mode="wrap")
        total += weight * octave / octave.std()
    texture = Texture(((total - total.mean()) / total.std()).astype(np.float32))
    return Look(TISSUES, dict.fromkeys(("hu", *MR_CHANNELS, "adc"), texture), {})


def varied_look(seed: int, variety: Variety) -> Look:
    """Return the look of a case of the kit."""
    rng = np.random.default_rng([seed, 66])
    common, common_sheets = _noise(rng, (0.7, 1.6, 4.0)), _sheets(rng)
    own_part = np.float32(np.sqrt(1 - SHARED_TEXTURE))
    grain, sheets = {}, {}
    for channel in ("hu", *MR_CHANNELS):
        mixed = np.float32(np.sqrt(SHARED_TEXTURE)) * common
        mixed = mixed + own_part * _noise(rng, (0.7, 1.6, 4.0))
        grain[channel] = Texture(mixed, FINE_LATTICE[1])
        both = np.maximum(common_sheets, np.float32(OWN_SHEETS) * _sheets(rng))
        sheets[channel] = Texture(both, FINE_LATTICE[1])
    grain["adc"], sheets["adc"] = grain["dwi"], sheets["dwi"]
    return Look(tissues_of(seed, variety), grain, sheets)


def _noise(rng: np.random.Generator, scales: Sequence[float]) -> npt.NDArray[np.float32]:
    shape = (FINE_LATTICE[0],) * 3
    total = np.zeros(shape, dtype=np.float32)
    for scale in scales:
        octave = rng.standard_normal(shape, dtype=np.float32)
        octave = ndimage.gaussian_filter(octave, scale, mode="wrap", truncate=3.0)
        total += octave / octave.std()
    return np.asarray((total - total.mean()) / total.std(), dtype=np.float32)


def _sheets(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    surface = _noise(rng, (3.5,)) / np.float32(SHEET_STEEPNESS)
    return np.asarray(np.exp(-surface * surface), dtype=np.float32)
