"""What is stored of a volume: whole numbers, how values follow from them, and where they lie."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Stored = npt.NDArray[np.int16]

LOWEST = 1
"""Stored where there is a value; 0 is where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownVolume:
    """A volume, or a block of it, and what a page must know of it.

    Attributes:
        document: `key`, `kind` (`ct`, `mr`, `other`: a CBCT or another CT, `before` or `dose`),
            `label`, `slope` and `intercept` (value = stored * slope + intercept), `has_padding` (0
            is no value), `windows` (in values), `start` and `shape` of the block. Of an MR or other
            CT also `word` (what people call it), `registration` and its `status`, `contrast`,
            `is_leading` and `series_instance_uid`; of a `before` `of` (the key of what it became)
            and `placed_by`; of a dose `largest_gy` and `prescribed_gy` (0: not known).
        stored: The block, int16.
    """

    document: dict[str, Any]
    stored: Stored


@dataclass(frozen=True, slots=True)
class Scale:
    """The linear map between values and the stored ones, of which 0 is no value.

    Attributes:
        lowest: The value that is stored as 1.
        step: Between neighbouring stored values.
        highest: The last stored value; what lies above is shown as it.
    """

    lowest: float
    step: float
    highest: int

    @classmethod
    def spanning(
        cls, voxels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], highest: int
    ) -> "Scale":
        """Return the scale that reaches from the lowest to the highest value within."""
        low = float(np.min(voxels, where=inside, initial=np.inf))
        high = float(np.max(voxels, where=inside, initial=-np.inf))
        if not high > low:
            return cls(low if np.isfinite(low) else 0.0, 1.0, highest)
        return cls(low, (high - low) / (highest - LOWEST), highest)

    def stored(self, voxels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> Stored:
        """Return stored values; what lies beyond the scale is shown as its end."""
        stored = np.zeros(voxels.shape, dtype=np.int16)
        for index in range(len(voxels)):
            values = np.rint((voxels[index] - self.lowest) / self.step) + LOWEST
            clipped = np.clip(values, LOWEST, self.highest)
            stored[index] = np.where(inside[index], clipped, 0)
        return stored

    def document(self) -> dict[str, Any]:
        """Return how values follow from the stored ones."""
        return {
            "slope": self.step,
            "intercept": self.lowest - LOWEST * self.step,
            "has_padding": True,
        }


def block_document(start: tuple[int, int, int], shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return where a block lies on the CT's grid: its first voxel, its size."""
    return {"start": list(start), "shape": list(shape)}
