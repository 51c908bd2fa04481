"""What two images tell of each other, from their joint histogram. Never moves anything.

Read first: Studholme et al. 1999, Pattern Recognit 32:71-86 (normalized mutual information).
"""

import numpy as np
import numpy.typing as npt

BINS = 24
"""Grey values told apart in each image."""


def grey_bins(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the bin of each voxel: equal widths between the 1st and 99th percentile."""
    if voxels.size == 0:
        return np.zeros(0, dtype=np.int64)
    low, high = np.percentile(voxels, (1.0, 99.0))
    width = max(float(high - low), 1e-6)
    return np.asarray(np.clip((voxels - low) / width * BINS, 0, BINS - 1), dtype=np.int64)


def normalized_information(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Return normalized mutual information minus one for bins (n,) of n > 0 places: 0 to 1."""
    joint = np.bincount(one * BINS + other, minlength=BINS * BINS).reshape(BINS, BINS) / len(one)
    both = _entropy(joint.ravel())
    alone = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return alone / both - 1.0 if both > 0 else 0.0


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    shown = shares[shares > 0]
    return float(-(shown * np.log(shown)).sum())
