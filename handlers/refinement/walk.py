"""From appearance to one answer per voxel: evidence, belief in the drawn contour, neighbours.

The walk was chosen by measurement on the phantom (T1, T2 and ADC, five patients, three drawn
contours each): mean DSC 0.970, 0.966 and 0.948, against 0.965, 0.952 and 0.933 for Gaussian
smoothing by 1.5 mm and 0.965, 0.957 and 0.936 for total variation, both of which shrink the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, logsumexp

from handlers.refinement.appearance import Look, fit_target, mixture_log_density
from handlers.refinement.evidence import Background, Channel, fit_background, presence
from handlers.refinement.prior import drawn_log_odds, drawn_offset_mm
from handlers.refinement.region import Region, stays
from handlers.refinement.rim import rim_look
from handlers.refinement.settings import RefinementSettings

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FAMILIAR_SCALES = (4.0, 8.0)
"""Within so many scales of a class in every channel a voxel may belong to it; beyond, it cannot."""

SOLVER_TOLERANCE = 1e-4
SOLVER_ROUNDS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What the target and its surroundings look like.

    Attributes:
        samples: Channels over the region, (..., d); `weights` likewise.
        weights: How much each channel counts.
        core: Modes of the target's core.
        background: Classes of the surroundings.
        rim: The living rim of a target whose core has died, where there is one.
    """

    samples: Array
    weights: Array
    core: tuple[Look, ...]
    background: Background
    rim: Look | None = None

    @property
    def target(self) -> tuple[Look, ...]:
        """All modes of the target."""
        return self.core if self.rim is None else (*self.core, self.rim)

    @classmethod
    def learn(
        cls,
        channels: Sequence[Channel],
        region: Region,
        places: dict[str, Bools],
        valid: Bools,
        settings: RefinementSettings,
    ) -> "Model":
        """Return the model of one target; the core must not be empty."""
        samples = np.stack([channel.scaled for channel in channels], axis=-1)
        weights = np.stack([channel.weight for channel in channels], axis=-1)
        target = fit_target(samples[region.core], settings)
        background = fit_background(samples, places, valid, settings)
        rim = rim_look(samples, weights, target, background, region, valid, settings)
        return cls(samples, weights, target, background, rim)

    def log_odds(self, where: Bools, region: Region, settings: RefinementSettings) -> Array:
        """Return log p(target look) - log p(background look) at `where`, shape (n,), bounded."""
        values, weights = self.samples[where], self.weights[where]
        shares = presence(self.background, where, region, settings)
        each = np.stack(
            [fitted.log_density(values, weights) for fitted, _ in self.background.values()]
        )
        background = logsumexp(each + np.log(shares), axis=0)
        odds = mixture_log_density(self.target, values, weights) - background
        odds = np.where(odds < 0, odds * self._familiarity(values, weights), odds)
        limit = settings.evidence_limit
        return np.asarray(np.clip(settings.evidence_share * odds, -limit, limit))

    def _familiarity(self, values: Array, weights: Array) -> Array:
        """Return how well a class of the background explains voxels (n, d), 1 to 0, shape (n,).

        What looks like nothing around in some channel is not taken for background, whatever the
        other channels say: the living rim of a node whose core has died, say.
        """
        farthest = [
            np.where(weights > 0, np.abs(values - fitted.centre) / fitted.scale, 0.0).max(axis=1)
            for fitted, _ in self.background.values()
        ]
        known, alien = FAMILIAR_SCALES
        near = (alien - np.min(farthest, axis=0)) / (alien - known)
        return np.asarray(np.clip(near, 0.0, 1.0))


def agreement(model: Model, region: Region) -> float:
    """Return the part of the core that looks more like the target than like any background."""
    values, weights = model.samples[region.core], model.weights[region.core]
    if not model.background:
        return 0.0
    each = [fitted.log_density(values, weights) for fitted, _ in model.background.values()]
    own = mixture_log_density(model.core, values, weights)
    return float((own > np.max(each, axis=0)).mean())


def probability(
    model: Model, region: Region, valid: Bools, ct_shows: Bools, settings: RefinementSettings
) -> tuple[Array, float]:
    """Return how much each voxel belongs to the target, 0 to 1, and the drawn contour's offset.

    Minimises the sum of w (x_i - x_j)^2 over neighbours and of (x_i - p_i)^2 over voxels, where
    p is the single voxel's answer; what `stays` is 1, what is not allowed is 0. Where the MR does
    not reach, only the drawn contour speaks; what the CT does not show was drawn blindly and is
    believed less. The answer is not calibrated. The offset (mm, inward) is that of
    `drawn_offset_mm`.
    """
    fixed = stays(region, settings)
    free = region.allowed & ~fixed
    odds = np.zeros(region.drawn.shape)
    known = free & valid
    odds[known] = model.log_odds(known, region, settings)
    offset_mm = drawn_offset_mm(odds, known & ct_shows, region, settings)
    odds += drawn_log_odds(region, ct_shows, offset_mm, settings)
    single = np.where(fixed, 1.0, np.where(region.allowed, expit(odds), 0.0))
    answer = single.copy()
    answer[free] = _walk(single, free, model.samples, region, settings)
    return np.clip(answer, 0.0, 1.0), offset_mm


def _walk(
    single: Array, free: Bools, samples: Array, region: Region, settings: RefinementSettings
) -> Array:
    numbers = np.full(free.shape, -1)
    count = int(free.sum())
    numbers[free] = np.arange(count)
    diagonal, right = np.ones(count), single[free].copy()
    rows, columns, weights = [], [], []
    spacing = region.geometry.spacing_mm
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        apart = ((samples[high] - samples[low]) ** 2).mean(axis=-1)
        bond = settings.stiffness * np.exp(-settings.edge_contrast * apart)
        bond *= (min(spacing) / spacing[axis]) ** 2
        for here, there in ((low, high), (high, low)):
            own, other = numbers[here], numbers[there]
            inner = own >= 0
            diagonal[own[inner]] += bond[inner]  # no voxel occurs twice in one direction
            border = inner & (other < 0)
            right[own[border]] += (bond * single[there])[border]
            both = inner & (other >= 0)
            rows.append(own[both])
            columns.append(other[both])
            weights.append(-bond[both])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.csr_matrix(entries, shape=(count, count)) + sparse.diags(diagonal)
    precondition = LinearOperator((count, count), matvec=lambda x: x / diagonal)
    solved, _ = cg(
        matrix, right, x0=single[free], rtol=SOLVER_TOLERANCE, maxiter=SOLVER_ROUNDS, M=precondition
    )
    return np.asarray(solved)
