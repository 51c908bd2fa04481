"""What target and background look like over all channels, and where both tell them apart.

Student's t instead of a Gaussian, so that a few foreign voxels in the core do little harm. Knows
arrays only: rows are voxels, columns are channels.
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
"""As many voxels' worth of belief that channels do not go together, and spread as usual."""

SAMPLE_LIMIT = 4000
"""Of larger classes every n-th voxel is taken: bounds the time, hardly moves a mean."""

SECOND_MODE_SHARE = 0.25
"""A second mode of the target (necrosis in its core, say) needs this part of the core."""


@dataclass(frozen=True, slots=True, eq=False)
class StudentT:
    """A multivariate t distribution: mean (d,), scale matrix (d, d), degrees of freedom."""

    mean: Array
    scale: Array
    degrees_of_freedom: float

    def log_density(self, samples: Array) -> Array:
        """Return log densities (n,) of samples (n, d)."""
        d, nu = len(self.mean), self.degrees_of_freedom
        _, logdet = np.linalg.slogdet(self.scale)
        constant = gammaln((nu + d) / 2) - gammaln(nu / 2) - 0.5 * (d * np.log(nu * np.pi) + logdet)
        return np.asarray(constant - 0.5 * (nu + d) * np.log1p(self._squared(samples) / nu))

    def _squared(self, samples: Array) -> Array:
        offset = samples - self.mean
        return np.asarray((offset * np.linalg.solve(self.scale, offset.T).T).sum(axis=1))


def fit_student_t(samples: Array, settings: RefinementSettings) -> StudentT:
    """Return the t distribution of samples (n, d), n >= 1, fitted by reweighting."""
    samples = thinned(samples)
    n, d = samples.shape
    nu = settings.degrees_of_freedom
    least = settings.class_spread**2
    mean = np.median(samples, axis=0)
    fitted = StudentT(mean, np.eye(d), nu)
    usual = np.maximum(samples.var(axis=0), least)
    for _ in range(FIT_ROUNDS):
        weights = (nu + d) / (nu + fitted._squared(samples))
        mean = weights @ samples / weights.sum()
        offset = samples - mean
        scatter = (weights[:, None] * offset).T @ offset
        scale = (scatter + SHRINKAGE_VOXELS * np.diag(usual)) / (n + SHRINKAGE_VOXELS)
        scale[np.diag_indices(d)] = np.maximum(scale.diagonal(), least)
        fitted = StudentT(mean, scale, nu)
    return fitted


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


def fit_target(samples: Array, settings: RefinementSettings) -> tuple[StudentT, ...]:
    """Return the modes of the target: one, or two where the core plainly has two."""
    samples = thinned(samples)
    one = fit_student_t(samples, settings)
    numbers = clusters(samples, 2)
    shares = np.bincount(numbers, minlength=2) / len(samples)
    if len(samples) < 40 or shares.min() < SECOND_MODE_SHARE:
        return (one,)
    two = tuple(fit_student_t(samples[numbers == k], settings) for k in (0, 1))
    gain = float((mixture_log_density(two, samples) - one.log_density(samples)).mean())
    return two if gain > 0.5 else (one,)


def mixture_log_density(modes: Sequence[StudentT], samples: Array) -> Array:
    """Return log densities (n,) of an even mixture."""
    each = np.stack([mode.log_density(samples) for mode in modes])
    return np.asarray(logsumexp(each, axis=0) - np.log(len(modes)))


def area_under_roc(positive: Array, negative: Array) -> float:
    """Return the chance that a positive score exceeds a negative one (ties count half)."""
    scores = np.concatenate([positive, negative])
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
