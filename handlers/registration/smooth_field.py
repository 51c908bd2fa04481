"""The smooth field that the costs of displacements make most likely: small where little is known.

Gaussian process regression of the windows' choices. Judges nothing.

Read first: Heinrich et al. 2014, IEEE TMI 33:1439-1448 (discrete search, coupled convex).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from handlers.displacement import DisplacementField
from handlers.geometry import Points
from handlers.registration.matching import LatticeCosts

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DeformableSettings:
    """How the deformation is sought, and what it must show to be used.

    Attributes:
        is_enabled: Whether it is tried at all.
        step_mm: Voxel edge of the search and its smallest step.
        half_mm: Half edge of the cube whose voxels are compared.
        reach_mm: Longest displacement looked at; the longest that can be found is one step less.
        window_mm: Width (sigma) of the windows over which similarity is summed.
        lattice_mm: Distance of the windows.
        lattice_radius_mm: Windows lie within this of the targets' centre.
        usual_mm: Displacement along one axis to be expected before the images are looked at.
        smoothness_mm: Distance over which displacements resemble each other. On nine hard phantoms
            50 left 0.6 to 1.3 mm within 40 mm of the target, 35 left the same on one and 0.04 to
            0.16 mm more on eight; on a warped sarcoma pair both did alike.
        evidence: Independent voxels that a window counts for.
        least_error_mm: Error along one axis that even a perfect window is believed to have.
        couplings_mm: How far, pass by pass, a window's choice may lie from the smooth field.
        second_reach_mm: Like `reach_mm`, for the second search, with the MR already deformed.
        second_window_mm: Like `window_mm`, likewise.
        second_couplings_mm: Like `couplings_mm`, likewise.
        doubt: Misfit in standard deviations at which a window loses half its weight.
        field_step_mm: Voxel edge of the resulting field.
        field_half_mm: Half edge of its cube.
        rim_mm: Width in which it falls to zero.
        ball_mm: Radius of the ball around the centre in which the evidence is looked at.
        least_median_mm: A smaller median displacement in the ball is not worth it.
        largest_mm: A longer displacement anywhere is not believed.
        jacobian_limits: Least and greatest local change of volume.
        least_information_gain: Factor by which the brightness of both must tell more of each other.
        least_held_out_gain: Fraction by which windows that were left out must cost less.
        most_apart_mm: Largest median distance of the fields from both halves, and of the field
            sought from MR to CT.
        most_apart_fraction: Likewise, over the median displacement.
    """

    is_enabled: bool = True
    step_mm: float = 2.5
    half_mm: float = 60.0
    reach_mm: float = 10.0
    window_mm: float = 10.0
    lattice_mm: float = 12.5
    lattice_radius_mm: float = 50.0
    usual_mm: float = 3.0
    smoothness_mm: float = 50.0
    evidence: float = 40.0
    least_error_mm: float = 1.0
    couplings_mm: tuple[float, ...] = (6.0, 4.0, 3.0, 2.5, 2.0)
    second_reach_mm: float = 7.5
    second_window_mm: float = 8.0
    second_couplings_mm: tuple[float, ...] = (3.0, 2.5, 2.0)
    doubt: float = 2.0
    field_step_mm: float = 5.0
    field_half_mm: float = 85.0
    rim_mm: float = 40.0
    ball_mm: float = 40.0
    least_median_mm: float = 0.6
    largest_mm: float = 12.0
    jacobian_limits: tuple[float, float] = (0.6, 1.7)
    least_information_gain: float = 1.05
    least_held_out_gain: float = 0.02
    most_apart_mm: float = 2.0
    most_apart_fraction: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SmoothField:
    """u(x) as a sum of Gaussians at lattice points: the mean of a Gaussian process."""

    points: Points
    weights_mm: Points
    smoothness_mm: float

    def at(self, points: Points) -> Points:
        """Return u in mm, shape (n, 3), at LPS points (n, 3)."""
        found = np.empty((len(points), 3))
        for first in range(0, len(points), 4096):  # to hold little memory
            part = points[first : first + 4096]
            found[first : first + 4096] = alike(part, self.points, self.smoothness_mm) @ (
                self.weights_mm
            )
        return found


def fitted(
    lattice: LatticeCosts,
    costs: npt.NDArray[np.float32],
    settings: DeformableSettings,
    before: DisplacementField | None = None,
) -> SmoothField:
    """Return the smooth field that the windows' costs make most likely.

    `before` is the field by which the MR was already deformed when it was searched; the result
    takes its place.

    Pass by pass each window chooses its cheapest displacement near the field so far; choice and
    curvature of its cost are a measurement with a covariance, and the field is their Gaussian
    process regression: zero where nothing is known.
    """
    n = len(lattice.points)
    prior = settings.usual_mm**2 * alike(lattice.points, lattice.points, settings.smoothness_mm)
    prior_xyz = np.kron(prior, np.eye(3))
    inner, neighbours, fit = _parabolas(lattice)
    offered_mm = lattice.labels[inner].astype(np.float64) * lattice.step_mm
    offered = _whole(before, lattice.points, offered_mm[None])
    scale = settings.evidence / np.maximum(costs.min(axis=1), 1e-6)
    field = np.zeros((n, 3))
    weights = np.zeros((n, 3))
    for turn, coupling_mm in enumerate(settings.couplings_mm):
        away = ((offered - field[:, None]) ** 2).sum(axis=-1)
        choice = (costs[:, inner] * scale[:, None] + 0.5 * away / coupling_mm**2).argmin(axis=1)
        terms = np.take_along_axis(costs, neighbours[choice], axis=1).astype(np.float64) @ fit.T
        step, precision = _measured(terms, scale, lattice.step_mm, settings.least_error_mm)
        left = offered_mm[choice] + step
        measured = _whole(before, lattice.points, left[:, None])[:, 0]
        if turn > 0:
            miss = measured - field
            squared = np.einsum("ni,nij,nj->n", miss, precision, miss)
            precision = precision / (1.0 + squared / settings.doubt**2)[:, None, None]
        spread = np.eye(3 * n)
        for k in range(n):
            spread[3 * k : 3 * k + 3] += precision[k] @ prior_xyz[3 * k : 3 * k + 3]
        pulled = np.einsum("nij,nj->ni", precision, measured).ravel()
        weights = np.linalg.solve(spread, pulled).reshape(n, 3)
        field = prior @ weights
    return SmoothField(lattice.points, settings.usual_mm**2 * weights, settings.smoothness_mm)


def _whole(before: DisplacementField | None, points: Points, left_mm: Reals) -> Reals:
    """Return displacements from the CT for those, (n, m, 3), that are left at points (n, 3)."""
    if before is None:
        return np.asarray(np.broadcast_to(left_mm, (len(points), *left_mm.shape[1:])))
    ends = points[:, None] + left_mm
    return np.asarray(left_mm + before.at(ends.reshape(-1, 3)).reshape(ends.shape))


def alike(some: Points, others: Points, smoothness_mm: float) -> Reals:
    """Return Gaussians of the distances between points (n, 3) and (m, 3), shape (n, m)."""
    squared = np.zeros((len(some), len(others)))
    for k in range(3):  # axis by axis: a third of the memory, and faster
        squared += (some[:, k, None] - others[None, :, k]) ** 2
    squared *= -0.5 / smoothness_mm**2
    return np.asarray(np.exp(squared, out=squared))


def _parabolas(
    lattice: LatticeCosts,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Reals]:
    """Return labels with all 26 neighbours, those neighbours, and the fit of a parabola to them.

    The fit is (10, 27): constant, slopes along x, y, z, squares, products xy, xz, yz.
    """
    place = {tuple(label): i for i, label in enumerate(lattice.labels.tolist())}
    around = np.array(list(product((-1, 0, 1), repeat=3)))
    inner, neighbours = [], []
    for i, label in enumerate(lattice.labels):
        found = [place.get(tuple((label + a).tolist()), -1) for a in around]
        if min(found) >= 0:
            inner.append(i)
            neighbours.append(found)
    x, y, z = (around * lattice.step_mm).T
    design = np.stack([np.ones(27), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)
    weight = np.exp(-0.5 * (around**2).sum(axis=1))
    fit = np.linalg.pinv(design * weight[:, None]) * weight
    return np.array(inner), np.array(neighbours), fit


def _measured(
    terms: Reals, scale: Reals, step_mm: float, least_error_mm: float
) -> tuple[Reals, Reals]:
    """Return the steps to the parabolas' minima, shape (n, 3), and the precisions (n, 3, 3)."""
    curvature = np.empty((len(terms), 3, 3))
    for k in range(3):
        curvature[:, k, k] = 2.0 * terms[:, 4 + k]
    for term, (i, j) in zip((7, 8, 9), ((0, 1), (0, 2), (1, 2)), strict=True):
        curvature[:, i, j] = curvature[:, j, i] = terms[:, term]
    bends, axes = np.linalg.eigh(curvature)
    bends = np.maximum(bends, 1e-9)
    slopes = np.einsum("nji,nj->ni", axes, terms[:, 1:4])
    # along an axis without a minimum a parabola says nothing: its step is bounded, its precision 0
    steps = np.clip(-slopes / bends, -step_mm, step_mm)
    precision = 1.0 / (1.0 / (bends * scale[:, None]) + least_error_mm**2)
    return (
        np.einsum("nij,nj->ni", axes, steps),
        np.einsum("nij,nj,nkj->nik", axes, precision, axes),
    )
