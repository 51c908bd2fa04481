"""A local deformation around the targets, offered only where evidence it did not use supports it.

An estimator that does nothing by default: displacements are small and smooth unless large windows
of the images say otherwise. Its result is then tried by what the fit did not see: the half of the
windows that was left out, the brightness of the images, and the search from MR to CT. Where any of
these does not agree, the rigid map stands. Never changes the rigid map.

Read first: Heinrich et al. 2014, IEEE TMI 33:1439-1448 (discrete search, coupled convex), and
AAPM TG-132 (Brock et al. 2017, Med Phys 44:e43-e76) on what must hold before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from handlers.displacement import DisplacementField
from handlers.geometry import Points, RigidTransform
from handlers.registration.information import grey_bins, normalized_information
from handlers.registration.matching import LatticeCosts, Surroundings, cube
from handlers.registration.prepare import Prepared
from handlers.registration.smooth_field import DeformableSettings, SmoothField, alike, fitted

__all__ = ["DeformableSettings", "Deformation", "estimate", "find_deformation"]

Reals = npt.NDArray[np.float64]

LEAST_POINTS = 60
"""Lattice points without which the surroundings are too poorly seen to be deformed."""

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6)
"""A field that is too steep somewhere is used in part before it is given up."""

BRIGHTNESS_SIGMA_MM = 1.0
"""Smoothing before brightness is compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Deformation:
    """What came of the attempt.

    Attributes:
        field: The accepted displacements, or None: the rigid map stands.
        figures: The evidence: named figures, unit in the name; empty if nothing could be sought.
            `shift_mm` is the length of the mean displacement around the target: what the rigid map
            is off by, if the deformation is right.
        reason: Why it was accepted or refused, in one sentence.
    """

    field: DisplacementField | None
    figures: Mapping[str, float]
    reason: str


def find_deformation(
    ct: Prepared,
    mr: Prepared,
    mr_from_ct: RigidTransform,
    centre_mm: npt.ArrayLike,
    settings: DeformableSettings,
) -> Deformation:
    """Return the local deformation around a point, or why there is none.

    Args:
        ct: The planning CT, on a grid of 1 to 2.5 mm.
        mr: The leading MR series, likewise.
        mr_from_ct: The rigid map that it adds to: the MR point of x is `mr_from_ct(x + u(x))`.
        centre_mm: Centre of the targets, LPS mm in the CT's frame.
        settings: How it is sought and judged.

    Returns:
        With a field only if all of the evidence supports it.
    """
    if not settings.is_enabled:
        return Deformation(None, {}, "Deformable registration is switched off.")
    centre = np.asarray(centre_mm, dtype=np.float64).reshape(3)
    attempt = estimate(ct, mr, mr_from_ct, centre, settings)
    if attempt is None:
        return Deformation(
            None, {}, "Too little around the target is shown by both images to deform one."
        )
    field, figures = attempt
    if found := objections(figures, settings):
        return Deformation(None, figures, found[0])
    return Deformation(
        field,
        figures,
        f"A deformation of {figures['median_mm']:.1f} mm around the target is supported by windows "
        "that were left out, by brightness and by the search back to the planning CT.",
    )


def estimate(
    ct: Prepared,
    mr: Prepared,
    mr_from_ct: RigidTransform,
    centre_mm: Points,
    settings: DeformableSettings,
) -> tuple[DisplacementField, Mapping[str, float]] | None:
    """Return the most likely field and the evidence on it, unjudged; None if too little is seen."""
    if not (ct.has_contrast() and mr.has_contrast()):
        return None
    seen = Surroundings(
        ct,
        mr,
        mr_from_ct,
        centre_mm,
        half_mm=settings.half_mm,
        step_mm=settings.step_mm,
        reach_mm=settings.reach_mm,
    )
    lattice = (settings.window_mm, settings.lattice_mm, settings.lattice_radius_mm)
    costs = seen.costs(*lattice)
    reverse = seen.reverse_costs(*lattice)
    ball = _body_points(ct, centre_mm, settings.ball_mm)
    if min(len(costs.points), len(reverse.points)) < LEAST_POINTS or len(ball) == 0:
        return None
    first = fitted(costs, costs.costs, settings)
    polished = _polished(ct, mr, mr_from_ct, centre_mm, settings, first)
    field, share = _less_steep(polished, settings)
    figures = {
        "share": share,
        "largest_mm": polished.largest_mm,  # a search at its end is not made right by a share
        **_size(field, ball),
        **_halves(costs, ball, settings),
        **_there_and_back(first, fitted(reverse, reverse.costs, settings), ball),
        **_information(ct, mr, mr_from_ct, field, ball),
    }
    return field, figures


def _polished(
    ct: Prepared,
    mr: Prepared,
    mr_from_ct: RigidTransform,
    centre_mm: Points,
    settings: DeformableSettings,
    first: SmoothField,
) -> DisplacementField:
    """Return the field after a second, finer search with the MR deformed by the first field."""
    before = _on_grid(ct, centre_mm, settings, first)
    seen = Surroundings(
        ct,
        mr,
        mr_from_ct,
        centre_mm,
        half_mm=settings.half_mm,
        step_mm=settings.step_mm,
        reach_mm=settings.second_reach_mm,
        displacements_mm=before.at,
    )
    costs = seen.costs(settings.second_window_mm, settings.lattice_mm, settings.lattice_radius_mm)
    if len(costs.points) < LEAST_POINTS:
        return before
    finer = replace(settings, couplings_mm=settings.second_couplings_mm)
    return _on_grid(ct, centre_mm, settings, fitted(costs, costs.costs, finer, before))


def _less_steep(
    field: DisplacementField, settings: DeformableSettings
) -> tuple[DisplacementField, float]:
    """Return the largest share of the field that keeps the limits of the Jacobian, and that share.

    The whole field if no share does.
    """
    low, high = settings.jacobian_limits
    for share in SHARES:
        smaller = DisplacementField(field.geometry, np.float32(share) * field.vectors_mm)
        least, greatest = smaller.jacobian_bounds()
        if low <= least and greatest <= high:
            return smaller, share
    return field, 1.0


def _on_grid(
    ct: Prepared, centre_mm: Points, settings: DeformableSettings, smooth: SmoothField
) -> DisplacementField:
    grid = cube(
        ct.geometry.frame_of_reference_uid,
        centre_mm,
        settings.field_half_mm,
        settings.field_step_mm,
    )
    vectors = smooth.at(grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T))
    return DisplacementField.blended(grid, vectors.reshape(*grid.shape, 3), settings.rim_mm)


def _body_points(ct: Prepared, centre_mm: Points, radius_mm: float) -> Points:
    near = ct.cropped(centre_mm.reshape(1, 3), radius_mm)
    points = near.geometry.points_from_indices(np.argwhere(near.body))
    return np.asarray(points[np.linalg.norm(points - centre_mm, axis=1) <= radius_mm])


def _size(field: DisplacementField, ball: Points) -> dict[str, float]:
    u_mm = field.at(ball)
    lengths = np.linalg.norm(u_mm, axis=1)
    least, greatest = field.jacobian_bounds()
    return {
        "median_mm": float(np.median(lengths)),
        "shift_mm": float(np.linalg.norm(u_mm.mean(axis=0))),
        "jacobian_least": least,
        "jacobian_greatest": greatest,
    }


def _halves(lattice: LatticeCosts, ball: Points, settings: DeformableSettings) -> dict[str, float]:
    """Return what either half of the voxels says of the field that the other half alone gives."""
    fields = [fitted(lattice, half, settings) for half in lattice.halves]
    gains = []
    for field, other in zip(fields, reversed(lattice.halves), strict=True):
        moved = _cost_at(lattice, other, field.at(lattice.points))
        still = _cost_at(lattice, other, np.zeros_like(lattice.points))
        gains.append(1.0 - float(moved.mean() / max(float(still.mean()), 1e-9)))
    apart = np.linalg.norm(fields[0].at(ball) - fields[1].at(ball), axis=1)
    return {"held_out_gain": min(gains), "halves_apart_mm": float(np.median(apart))}


def _cost_at(
    lattice: LatticeCosts, costs: npt.NDArray[np.float32], displacements_mm: Points
) -> Reals:
    """Return the windows' costs, shape (n,), between the displacements that were tried."""
    labels = lattice.step_mm * lattice.labels.astype(np.float64)
    near = alike(displacements_mm, labels, 0.6 * lattice.step_mm)
    return np.asarray((near * costs).sum(axis=1) / np.maximum(near.sum(axis=1), 1e-12))


def _there_and_back(there: SmoothField, back: SmoothField, ball: Points) -> dict[str, float]:
    u_mm = there.at(ball)
    apart = np.linalg.norm(u_mm + back.at(ball + u_mm), axis=1)
    return {"reverse_apart_mm": float(np.median(apart))}


def _information(
    ct: Prepared,
    mr: Prepared,
    mr_from_ct: RigidTransform,
    field: DisplacementField,
    ball: Points,
) -> dict[str, float]:
    """Return by which factor brightness tells more after the field, and after its opposite."""
    ct_grey, _ = ct.cropped(ball, 5.0).smoothed(BRIGHTNESS_SIGMA_MM).at(ball)
    mr_smooth = mr.cropped(mr_from_ct.apply(ball), 20.0).smoothed(BRIGHTNESS_SIGMA_MM)
    u_mm = field.at(ball)
    grey, known = zip(
        *(mr_smooth.at(mr_from_ct.apply(ball + k * u_mm)) for k in (0.0, 1.0, -1.0)), strict=True
    )
    everywhere = np.all(known, axis=0)
    if not everywhere.any():
        return {"information_gain": 0.0, "opposite_gain": 0.0}
    ct_bins = grey_bins(ct_grey[everywhere])
    before, after, opposite = (
        normalized_information(ct_bins, grey_bins(v[everywhere])) for v in grey
    )
    usual = max(before, 1e-9)
    return {"information_gain": after / usual, "opposite_gain": opposite / usual}


def objections(figures: Mapping[str, float], settings: DeformableSettings) -> tuple[str, ...]:
    """Return what speaks against a field, in sentences; none if all of the evidence is for it."""
    median_mm = figures["median_mm"]
    most_apart_mm = min(settings.most_apart_mm, settings.most_apart_fraction * median_mm)
    low, high = settings.jacobian_limits
    least, greatest = figures["jacobian_least"], figures["jacobian_greatest"]
    conditions = (
        (
            median_mm >= settings.least_median_mm,
            f"The deformation found is only {median_mm:.1f} mm: the rigid map is as good.",
        ),
        (
            figures["largest_mm"] <= settings.largest_mm,
            f"A displacement of {figures['largest_mm']:.1f} mm is not believed "
            f"(at most {settings.largest_mm:.0f} mm).",
        ),
        (
            low <= least and greatest <= high,
            f"The deformation changes volumes by factors of {least:.2f} to {greatest:.2f} "
            f"(believed: {low} to {high}).",
        ),
        (
            figures["held_out_gain"] >= settings.least_held_out_gain,
            "Windows that were left out do not match better after the deformation.",
        ),
        (
            figures["halves_apart_mm"] <= most_apart_mm,
            f"Two halves of the images ask for deformations {figures['halves_apart_mm']:.1f} mm "
            f"apart, beside {median_mm:.1f} mm found.",
        ),
        (
            figures["reverse_apart_mm"] <= most_apart_mm,
            f"The reverse search comes back {figures['reverse_apart_mm']:.1f} mm off.",
        ),
        (
            figures["information_gain"] >= settings.least_information_gain
            and figures["opposite_gain"] < figures["information_gain"],
            "The brightness of the images does not tell more of each other after the deformation "
            f"(factor {figures['information_gain']:.2f}).",
        ),
    )
    return tuple(sentence for is_met, sentence in conditions if not is_met)
