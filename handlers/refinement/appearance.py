"""What target and background look like over all channels, and where both tell them apart.

Student's t instead of a Gaussian, so that a few foreign voxels in the core do little harm. Knows
arrays only: rows are voxels, columns are channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

Array = npt.NDArray[np.float64]

FIT_ROUNDS = 12
"""Rounds of reweighting, of clustering: both have settled by then."""

MIN_SPREAD = 0.1
"""Smallest standard deviation of a class in a channel; channels are scaled to about 1."""

SHRINKAGE_VOXELS = 10.0
"""As many voxels' worth of belief that channels do not go together, and spread as usual."""

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


def fit_student_t(samples: Array, degrees_of_freedom: float) -> StudentT:
    """Return the t distribution of samples (n, d), n >= 1, fitted by reweighting."""
    n, d = samples.shape
    nu = degrees_of_freedom
    mean = np.median(samples, axis=0)
    fitted = StudentT(mean, np.eye(d), nu)
    usual = np.maximum(samples.var(axis=0), MIN_SPREAD**2)
    for _ in range(FIT_ROUNDS):
        weights = (nu + d) / (nu + fitted._squared(samples))
        mean = weights @ samples / weights.sum()
        offset = samples - mean
        scatter = (weights[:, None] * offset).T @ offset
        scale = (scatter + SHRINKAGE_VOXELS * np.diag(usual)) / (n + SHRINKAGE_VOXELS)
        scale[np.diag_indices(d)] = np.maximum(scale.diagonal(), MIN_SPREAD**2)
        fitted = StudentT(mean, scale, nu)
    return fitted


def clusters(samples: Array, count: int) -> npt.NDArray[np.int64]:
    """Return a cluster number (n,) for samples (n, d): k-means, begun along the widest direction."""
    count = max(1, min(count, len(samples)))
    centred = samples - samples.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    along = centred @ direction
    cuts = np.quantile(along, np.linspace(0, 1, count + 1)[1:-1])
    numbers = np.searchsorted(cuts, along)
    for _ in range(FIT_ROUNDS):
        present = np.unique(numbers)
        centres = np.stack([samples[numbers == k].mean(axis=0) for k in present])
        apart = ((samples[:, None, :] - centres[None]) ** 2).sum(axis=2)
        numbers = np.argmin(apart, axis=1)
    return np.asarray(numbers, dtype=np.int64)


def fit_target(samples: Array, degrees_of_freedom: float) -> tuple[StudentT, ...]:
    """Return the modes of the target: one, or two where the core plainly has two."""
    one = fit_student_t(samples, degrees_of_freedom)
    numbers = clusters(samples, 2)
    shares = np.bincount(numbers, minlength=2) / len(samples)
    if len(samples) < 40 or shares.min() < SECOND_MODE_SHARE:
        return (one,)
    two = tuple(fit_student_t(samples[numbers == k], degrees_of_freedom) for k in (0, 1))
    gain = float(
        (mixture_log_density(two, samples) - one.log_density(samples)).mean()
    )
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
