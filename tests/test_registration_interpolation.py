"""Volumes interpolated together give what scipy gives of each by itself."""

import numpy as np
import pytest
from scipy import ndimage

from handlers.registration.interpolation import Interpolated


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 9, 11), (2, 2, 2)])
def test_values_when_volumes_are_asked_together_are_those_of_scipy(
    shape: tuple[int, int, int],
) -> None:
    """Between voxels, on them, on the border and far beyond it; a single slice too."""
    rng = np.random.default_rng(4)
    volumes = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    last = np.array(shape) - 1.0
    at = np.concatenate(
        [
            rng.uniform(-3.0, last + 3.0, (200, 3)),
            rng.integers(0, last + 1, (50, 3)).astype(float),
            [np.zeros(3), last, last + 100.0, np.full(3, -100.0)],
        ]
    )
    found = Interpolated(volumes).at(at)
    for number, volume in enumerate(volumes):
        expected = ndimage.map_coordinates(volume, at.T, order=1, mode="nearest")
        np.testing.assert_allclose(found[:, number], expected, atol=1e-6)
