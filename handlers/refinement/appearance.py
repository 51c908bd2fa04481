"""What target and background look like over all channels, and where both tell them apart.

Each channel speaks for itself: a Student t of its own, mixed with a flat chance that the channel
errs at this voxel (a distorted echo, a voxel of two tissues). So one channel that errs is outvoted,
and a few foreign voxels among the samples do little harm. Knows arrays only: rows are voxels,
columns are channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from handlers.refinement.settings import RefinementSettings

Array = npt.NDArray[np.float64]

FIT_ROUNDS = 12
"""Rounds of reweighting, of clustering: both have settled by then."""

SHRINKAGE_VOXELS = 10.0
"""As many voxels' worth of belief that a channel is spread as usual."""

SAMPLE_LIMIT = 4000
"""Of larger classes every n-th voxel is taken: bounds the time, hardly moves a mean."""

SECOND_MODE_SHARE = 0.25
"""A second mode of the target (necrosis in its core, say) needs this part of the core."""

SECOND_MODE_GAIN = 0.5
"""And it must make the core's voxels this much likelier, in the mean of their logarithms."""

FLAT_DENSITY = 0.1
"""Density of a channel that errs: anything within about ten spreads."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How one tissue looks: for each channel the centre and scale of a t distribution, (d,)."""

    centre: Array
    scale: Array
    degrees_of_freedom: float
    error_share: float

    def log_densities(self, samples: Array) -> Array:
        """Return the log density of each channel of each sample, shape (n, d)."""
        nu = self.degrees_of_freedom
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
        squared = ((samples - self.centre) / self.scale) ** 2
        density = np.exp(constant - 0.5 * (nu + 1) * np.log1p(squared / nu)) / self.scale
        return np.asarray(
            np.log((1 - self.error_share) * density + self.error_share * FLAT_DENSITY)
        )

    def log_density(self, samples: Array, weights: Array | float = 1.0) -> Array:
        """Return log densities (n,) of samples (n, d), channels weighted by (n, d) or one number.

        A channel of weight 0 says nothing, one of 1 counts in full.
        """
        return np.asarray((weights * self.log_densities(samples)).sum(axis=1))


def fit_look(samples: Array, settings: RefinementSettings) -> Look:
    """Return the look of samples (n, d), n >= 1, fitted by reweighting."""
    samples = thinned(samples)
    nu, least = settings.degrees_of_freedom, settings.class_spread
    centre = np.median(samples, axis=0)
    usual = np.maximum(samples.std(axis=0), least)
    scale = usual
    for _ in range(FIT_ROUNDS):
        weights = (nu + 1) / (nu + ((samples - centre) / scale) ** 2)
        centre = (weights * samples).sum(axis=0) / weights.sum(axis=0)
        scatter = (weights * (samples - centre) ** 2).sum(axis=0)
        belief = SHRINKAGE_VOXELS * usual**2
        scale = np.sqrt((scatter + belief) / (len(samples) + SHRINKAGE_VOXELS))
        scale = np.maximum(scale, least)
    return Look(centre, scale, nu, settings.error_share)


def thinned(samples: Array) -> Array:
    """Return at most `SAMPLE_LIMIT` of the samples (n, d), evenly spread over their order."""
    return samples[:: -(-len(samples) // SAMPLE_LIMIT) or 1]


def clusters(samples: Array, count: int) -> npt.NDArray[np.int64]:
    """Return a cluster number (n,) for samples (n, d): k-means, begun along the widest axis."""
    seen = thinned(samples)
    centred = seen - seen.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    cuts = np.quantile(along, np.linspace(0, 1, count + 1)[1:-1])
    numbers = np.searchsorted(cuts, along)
    for _ in range(FIT_ROUNDS):
        centres = np.stack([seen[numbers == k].mean(axis=0) for k in np.unique(numbers)])
        numbers = _nearest(seen, centres)
    return _nearest(samples, centres)


def _nearest(samples: Array, centres: Array) -> npt.NDArray[np.int64]:
    apart = np.stack([((samples - centre) ** 2).sum(axis=1) for centre in centres])
    return np.asarray(np.argmin(apart, axis=0), dtype=np.int64)


def fit_target(samples: Array, settings: RefinementSettings) -> tuple[Look, ...]:
    """Return the modes of the target: one, or two where the core plainly has two."""
    samples = thinned(samples)
    one = fit_look(samples, settings)
    numbers = clusters(samples, 2)
    shares = np.bincount(numbers, minlength=2) / len(samples)
    if len(samples) < 40 or shares.min() < SECOND_MODE_SHARE:
        return (one,)
    two = tuple(fit_look(samples[numbers == k], settings) for k in (0, 1))
    gain = float((mixture_log_density(two, samples) - one.log_density(samples)).mean())
    return two if gain > SECOND_MODE_GAIN else (one,)


def mixture_log_density(
    modes: Sequence[Look], samples: Array, weights: Array | float = 1.0
) -> Array:
    """Return log densities (n,) of an even mixture, channels weighted as in `Look.log_density`."""
    each = np.stack([mode.log_density(samples, weights) for mode in modes])
    return np.asarray(logsumexp(each, axis=0) - np.log(len(modes)))


def area_under_roc(positive: Array, negative: Array) -> float:
    """Return the chance that a positive score exceeds a negative one (ties count half)."""
    scores = np.concatenate([positive, negative])
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
