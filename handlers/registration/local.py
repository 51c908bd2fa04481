"""Where the target's surroundings lie beside the pose of the whole body: liver breathes, spine not.

Three measures that fail differently see a ball around the target: self-similarity (texture
whatever the brightness), directions of borders, and mutual information. Each is tried at every
shift and tells which it would choose. A shift is believed only where all three agree; otherwise
their disagreement is evidence of doubt. Moves nothing itself.

Read first: `structure` for self-similarity; Haber and Modersitzki 2006, LNCS 4191:726-733
(normalized gradient fields).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from handlers.geometry import Geometry, Points, RigidTransform
from handlers.registration.information import grey_bins, normalized_information
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings
from handlers.registration.structure import GAS_HU, descriptors

Volume = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

INFORMATION_POINTS = 15_000
"""Most CT points that the mutual information compares."""

LEAST_SEEN = 0.5
"""Fraction of the ball that the MR must show at a shift."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalShift:
    """What the surroundings of the target ask for.

    Attributes:
        shift_mm: Median of the estimates, each axis for itself: x, y, z in mm of the CT frame. The
            pose that sends x to `mr_from_ct(x + shift_mm)` fits there.
        estimates_mm: Each measure's own shift, by its name.
        apart_mm: Largest distance between two of them; infinite when one gave none.
    """

    shift_mm: Points
    estimates_mm: Mapping[str, Points]
    apart_mm: float


def local_shift(
    ct: Prepared,
    mr: Prepared,
    mr_from_ct: RigidTransform,
    centre_mm: Points,
    radius_mm: float,
    settings: RegistrationSettings,
) -> LocalShift:
    """Return the shift of the ball around the target relative to a pose.

    Args:
        ct: The planning CT.
        mr: The leading MR.
        mr_from_ct: The pose of the whole.
        centre_mm: Centre of the ball, LPS mm in the CT frame.
        radius_mm: Its radius.
        settings: Grid and reach of the search.
    """
    ball = _Ball.cut(ct, mr, mr_from_ct, centre_mm, radius_mm, settings)
    gas = ndimage.binary_dilation(ball.fixed < GAS_HU)
    estimates = _estimates(replace(ball, kept=ball.kept & ~gas))
    shifts = np.array(list(estimates.values())).reshape(-1, 3)
    return LocalShift(
        np.median(shifts, axis=0) if len(shifts) else np.zeros(3),
        estimates,
        _apart_mm(shifts) if len(shifts) == len(MEASURES) else float("inf"),
    )


def series_shift(
    leading: Prepared, other: Prepared, centre_mm: Points, settings: RegistrationSettings
) -> tuple[Points | None, str]:
    """Return where a series of the same frame shows what the leading one shows at a point.

    Every series has a breath-hold of its own. What is asked for is followed only if it is small and
    both measures agree.

    Args:
        leading: The series that was registered.
        other: Another one.
        centre_mm: Centre of the ball that is compared, LPS mm in their frame.
        settings: Radius, grid, and the bounds of what is believed.

    Returns:
        The shift (x, y, z) in mm, from the leading series' point to the other's; None where both
        are left as the scanner placed them. And the sentence that tells which.
    """
    still = RigidTransform(
        np.eye(4),
        other.geometry.frame_of_reference_uid,
        leading.geometry.frame_of_reference_uid,
    )
    ball = _Ball.cut(leading, other, still, centre_mm, settings.neighbourhood_mm, settings)
    shifts = np.array(list(_estimates(ball).values())).reshape(-1, 3)
    if len(shifts) < len(MEASURES):
        return None, "it shows too little near the target to be compared with the leading series."
    shift = shifts.mean(axis=0)
    length_mm, apart_mm = float(np.linalg.norm(shift)), _apart_mm(shifts)
    if apart_mm > settings.local_agreement_mm:
        return None, (
            f"two measures differ by {apart_mm:.1f} mm on whether it lies beside the leading "
            "series; it is left as the scanner placed it."
        )
    if length_mm > settings.largest_series_shift_mm:
        return None, (
            f"it seems to lie {length_mm:.1f} mm beside the leading series, more than a "
            "breath-hold explains; it is left as the scanner placed it."
        )
    return shift, f"it lies {length_mm:.1f} mm beside the leading series and is shifted onto it."


def _estimates(ball: "_Ball") -> dict[str, Points]:
    estimates: dict[str, Points] = {}
    for name, fit in MEASURES.items():
        place = _summit(fit(ball)) if ball.kept.any() else None
        if place is not None:
            estimates[name] = place * ball.spacing_mm
    return estimates


def _apart_mm(shifts: Points) -> float:
    return max(float(np.linalg.norm(a - b)) for a, b in combinations(shifts, 2))


@dataclass(frozen=True, slots=True, eq=False)
class _Ball:
    """Two images on one cubic lattice in the axes of the first; the second as a pose places it."""

    fixed: Volume
    moving: Volume
    seen: Bools
    kept: Bools
    reach: int
    spacing_mm: float

    @classmethod
    def cut(
        cls,
        fixed: Prepared,
        moving: Prepared,
        moving_from_fixed: RigidTransform,
        centre_mm: Points,
        radius_mm: float,
        settings: RegistrationSettings,
    ) -> "_Ball":
        spacing_mm = settings.local_spacing_mm
        reach = int(settings.local_reach_mm // spacing_mm)
        half = int(np.ceil(radius_mm / spacing_mm)) + reach + 1
        matrix = np.eye(4)
        matrix[:3, :3] = np.fliplr(np.eye(3)) * spacing_mm
        matrix[:3, 3] = np.asarray(centre_mm) - half * spacing_mm
        shape = (2 * half + 1, 2 * half + 1, 2 * half + 1)
        grid = Geometry(fixed.geometry.frame_of_reference_uid, matrix, shape)
        points = grid.points_from_indices(np.indices(shape).reshape(3, -1).T)
        here, inside = _near(fixed, points, spacing_mm / 2)
        there, seen = _near(moving, moving_from_fixed.apply(points), spacing_mm / 2)
        return cls(
            here.reshape(shape),
            there.reshape(shape),
            seen.reshape(shape),
            (grid.distances_mm(centre_mm) <= radius_mm) & inside.reshape(shape),
            reach,
            spacing_mm,
        )


def _near(volume: Prepared, points: Points, sigma_mm: float) -> tuple[Volume, Bools]:
    margin_mm = 4 * sigma_mm + max(volume.geometry.spacing_mm)
    return volume.cropped(points, margin_mm).smoothed(sigma_mm).at(points)


def _self_similarity(ball: _Ball) -> Volume:
    """Return minus the mean squared difference of descriptors for every shift (z, y, x)."""
    fixed, moving = descriptors(ball.fixed), descriptors(ball.moving)
    sums = _Correlations(ball)
    for k in range(fixed.shape[-1]):
        sums.add(-2.0, fixed[..., k], moving[..., k])
    sums.add(1.0, np.sum(fixed**2, axis=-1), np.ones_like(ball.moving))
    sums.add(1.0, np.ones_like(ball.fixed), np.sum(moving**2, axis=-1))
    return -sums.means()


def _directions(ball: _Ball) -> Volume:
    """Return how parallel the borders of both images run, up to their sign, for every shift."""
    fixed, moving = _normals(ball.fixed), _normals(ball.moving)
    sums = _Correlations(ball)
    for one, other in combinations_with_replacement(range(3), 2):
        # the squared scalar product of two normals, written as a product of sums
        weight = 1.0 if one == other else 2.0
        sums.add(weight, fixed[one] * fixed[other], moving[one] * moving[other])
    return sums.means()


def _normals(voxels: Volume) -> Volume:
    """Return the slope of an image, shortened to one where it is steep, shape (3, z, y, x)."""
    slopes = np.stack([np.asarray(slope) for slope in np.gradient(voxels)])
    squares = np.sum(slopes**2, axis=0)
    usual = float(np.mean(squares)) or 1.0
    return np.asarray(slopes / np.sqrt(squares + usual), dtype=np.float32)


class _Correlations:
    """Sums over the ball of products of two images, for every shift of the second (FFT)."""

    def __init__(self, ball: _Ball) -> None:
        self._ball = ball
        self._size = [fft.next_fast_len(n, real=True) for n in ball.fixed.shape]
        self._kept = ball.kept.astype(np.float32)
        self._seen = ball.seen.astype(np.float32)
        self._total = np.zeros_like(self._spectrum(self._kept))

    def add(self, weight: float, fixed: Volume, moving: Volume) -> None:
        """Add the weighted sum of `fixed` times the shifted `moving`."""
        here = self._spectrum(self._kept * fixed)
        self._total += weight * np.conj(here) * self._spectrum(self._seen * moving)

    def means(self) -> Volume:
        """Return the means per voxel seen, shape (z, y, x) of the shifts; nan: too little seen."""
        counts = self._window(np.conj(self._spectrum(self._kept)) * self._spectrum(self._seen))
        means = self._window(self._total) / np.maximum(counts, 1.0)
        return np.where(counts < LEAST_SEEN * self._kept.sum(), np.nan, means).astype(np.float32)

    def _spectrum(self, volume: Volume) -> npt.NDArray[np.complexfloating]:
        return np.asarray(fft.rfftn(volume, self._size))

    def _window(self, spectrum: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.floating]:
        steps = np.arange(-self._ball.reach, self._ball.reach + 1)
        window = np.ix_(*[steps % n for n in self._size])
        return np.asarray(fft.irfftn(spectrum, self._size)[window])


def _information(ball: _Ball) -> Volume:
    """Return the normalized mutual information for every shift (z, y, x)."""
    at = np.argwhere(ball.kept)
    at = at[:: max(1, int(np.ceil(len(at) / INFORMATION_POINTS)))]
    ct_bins = grey_bins(ball.fixed[tuple(at.T)])
    # nothing is shifted out of the lattice, so a shift is one distance along the flat voxels
    mr_bins, is_seen = grey_bins(ball.moving).ravel(), ball.seen.ravel()
    _, rows, columns = ball.moving.shape
    along = np.array([rows * columns, columns, 1])
    places = at @ along
    count = 2 * ball.reach + 1
    fit = np.full((count, count, count), np.nan, dtype=np.float32)
    for step in product(range(count), repeat=3):
        there = places + int((np.array(step) - ball.reach) @ along)
        seen = is_seen.take(there)
        if seen.mean() >= LEAST_SEEN:
            fit[step] = normalized_information(ct_bins[seen], mr_bins.take(there)[seen])
    return fit


def _summit(fit: Volume) -> Points | None:
    """Return the shift (x, y, z) of the best fit in fractions of grid steps; None if all fit."""
    shown = fit[np.isfinite(fit)]
    if shown.size == 0 or shown.max() == shown.min():
        return None
    best = np.unravel_index(int(np.nanargmax(fit)), fit.shape)
    place = []
    for axis, index in enumerate(best):
        line = fit[tuple(slice(None) if k == axis else best[k] for k in range(3))]
        offset = 0.0
        if 0 < index < len(line) - 1:
            before, here, after = (float(v) for v in line[index - 1 : index + 2])
            bend = before - 2 * here + after
            if np.isfinite(bend) and bend < 0:
                offset = 0.5 * (before - after) / bend
        place.append(int(index) - len(line) // 2 + offset)
    return np.array(place[::-1])


MEASURES: Mapping[str, Callable[[_Ball], Volume]] = {
    "self_similarity": _self_similarity,
    "directions": _directions,
    "information": _information,
}
"""What looks at the ball: each gives its fit for every shift (z, y, x); nan: too little is seen."""
