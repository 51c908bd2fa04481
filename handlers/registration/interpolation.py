"""Several volumes of one grid, interpolated at the same points at once.

An engine asks for brightness and its three slopes at a few thousand points, hundreds of times: the
places of the neighbours and their shares are worked out once for all four.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Interpolated:
    """Volumes of one shape (slices, rows, columns) under trilinear interpolation."""

    def __init__(self, volumes: Sequence[npt.NDArray[np.float32]]) -> None:
        self._shape = np.array(volumes[0].shape)
        # the values of one voxel lie side by side: one look-up brings all
        self._values = np.stack(volumes, axis=-1).reshape(-1, len(volumes))
        self._strides = np.array([self._shape[1] * self._shape[2], self._shape[2], 1])

    def at(self, indices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the values (n, volumes) at indices (n, 3); beyond the border, those of the border.

        Accuracy:
            That of the volumes' own type, as `scipy.ndimage.map_coordinates` of order 1.
        """
        indices = np.clip(indices, 0.0, self._shape - 1.0)
        low = indices.astype(np.int64)
        far = indices - low
        near = 1.0 - far
        step = np.where(low + 1 < self._shape, self._strides, 0)
        first = low @ self._strides
        total = np.zeros((len(indices), self._values.shape[1]))
        for corner in np.ndindex(2, 2, 2):
            share, place = np.ones(len(indices)), first
            for axis, is_far in enumerate(corner):
                share = share * (far if is_far else near)[:, axis]
                place = place + step[:, axis] if is_far else place
            total += self._values.take(place, axis=0) * share[:, None]
        return total
