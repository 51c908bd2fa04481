"""How the area of a body's cross-section runs between its contours and beyond the end ones.

Deliberately knows no outlines: areas, heights, and in how many directions a body widens.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.dose_results import EndCap

Floats = npt.NDArray[np.float64]

CLOSED_PART = 0.05
"""A trend that comes down to this part of the end contour's, and turns, has closed."""

LATE_STEPS = 1.25
"""A trend that closes within so many slice distances counts as closed by the next plane."""

LEAST_PART = 0.05
"""Between two contours the area is never less than this part of the smaller one's."""

MOST_GROWTH = 1.25
"""Beyond its end contour a body never has more than so many times its area."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True, slots=True, eq=False)
class AreaCurve:
    """Area of the cross-section by height.

    Between each two contours, and beyond the end ones, a power of the area runs as a parabola.

    Attributes:
        at_mm: Heights of the contours, ascending, shape (n,).
        areas_mm2: Their areas.
        powers: Between each two of them, shape (n - 1,).
        bends: Second derivatives of that power of the area there.
        first_mm: Where the body begins.
        last_mm: Where it ends.
        slopes: How the power of the area goes on beyond the first and the last contour, per mm
            outwards; None: the area stays.
    """

    at_mm: Floats
    areas_mm2: Floats
    powers: Floats
    bends: Floats
    first_mm: float
    last_mm: float
    slopes: tuple[float, float] | None = None

    def end(self, *, is_last: bool) -> tuple[float, float]:
        """Return from where to where the body goes beyond an end contour."""
        if is_last:
            return float(self.at_mm[-1]), self.last_mm
        return self.first_mm, float(self.at_mm[0])

    def area_mm2(self, at_mm: float) -> float:
        """Return the area at a height; 0 outside the body."""
        if at_mm < self.first_mm or at_mm > self.last_mm:
            return 0.0
        if at_mm < self.at_mm[0]:
            return self._beyond_mm2(0, float(self.at_mm[0]) - at_mm)
        if at_mm >= self.at_mm[-1]:
            return self._beyond_mm2(-1, at_mm - float(self.at_mm[-1]))
        i = int(np.searchsorted(self.at_mm, at_mm, side="right")) - 1
        from_low, to_high = at_mm - self.at_mm[i], self.at_mm[i + 1] - at_mm
        a, b = self.areas_mm2[i : i + 2] ** self.powers[i]
        straight = (a * to_high + b * from_low) / (to_high + from_low)
        bent = straight - self.bends[i] * from_low * to_high / 2.0
        return float(max(bent, LEAST_PART * min(a, b)) ** (1.0 / self.powers[i]))

    def _beyond_mm2(self, end: int, beyond_mm: float) -> float:
        area = float(self.areas_mm2[end])
        if self.slopes is None or beyond_mm <= 0:
            return area
        power, bend = float(self.powers[end]), float(self.bends[end])
        there = area**power + self.slopes[end] * beyond_mm + bend * beyond_mm**2 / 2.0
        return float(min(max(there, 0.0) ** (1.0 / power), MOST_GROWTH * area))

    @property
    def volume_mm3(self) -> float:
        """Integral of the area."""
        borders = [self.first_mm, *(float(at) for at in self.at_mm), self.last_mm]
        total = 0.0
        for low, high in itertools.pairwise(borders):
            half = (high - low) / 2.0
            if half > 0:
                areas = [self.area_mm2(low + half * (1.0 + node)) for node in _NODES]
                total += half * float(_WEIGHTS @ areas)
        return total


def curve_of(
    at_mm: Floats,
    areas_mm2: Floats,
    widening: Floats,
    end_cap: EndCap,
    spacing_mm: float | None,
) -> AreaCurve:
    """Return how the area of a body runs that was drawn on planes at these heights.

    By `HALF_SLICE` the area runs straight from contour to contour, which makes the volume exactly
    the sum of areas times slice distances. Else the square of the width that changes runs along the
    parabola through neighbouring contours, bent no more than the weaker of both ends' second
    differences and not at all where these differ in sign: exact for spheres, ellipsoids, cones and
    cylinders however they lie, straight for uneven drawings.

    Args:
        at_mm: Ascending, n >= 1.
        areas_mm2: Above zero.
        widening: In how many directions, 1 to 2, the outline widens or narrows between each two
            planes, shape (n - 1,).
        end_cap: Where the body ends.
        spacing_mm: Thickness of a body of one plane; None: it has none.
    """
    first, last = float(at_mm[0]), float(at_mm[-1])
    if len(at_mm) == 1:
        half = 0.0 if end_cap is EndCap.NONE else (spacing_mm or 0.0) / 2.0
        return AreaCurve(at_mm, areas_mm2, np.zeros(0), np.zeros(0), first - half, last + half)
    steps = np.diff(at_mm)
    if end_cap is EndCap.HALF_SLICE:
        ends = first - float(steps[0]) / 2.0, last + float(steps[-1]) / 2.0
        return AreaCurve(at_mm, areas_mm2, np.ones(len(steps)), np.zeros(len(steps)), *ends)
    powers = 2.0 / widening
    bends = np.array([_bend(at_mm, areas_mm2, i, float(p)) for i, p in enumerate(powers)])
    if end_cap is EndCap.NONE:
        return AreaCurve(at_mm, areas_mm2, powers, bends, first, last)
    slopes, reach = [], []
    for end, inner in ((0, 1), (-1, -2)):
        a, b = areas_mm2[end] ** powers[end], areas_mm2[inner] ** powers[end]
        step, bend = float(steps[end]), float(bends[end])
        slope = float(a - b) / step + bend * step / 2.0
        slopes.append(slope)
        reach.append(_reach_mm(float(a), slope, bend, step))
    return AreaCurve(
        at_mm,
        areas_mm2,
        powers,
        bends,
        first - reach[0],
        last + reach[1],
        (slopes[0], slopes[1]),
    )


def _bend(at_mm: Floats, areas: Floats, i: int, power: float) -> float:
    """Return the second derivative of a power of the area between contour i and the next."""
    if len(areas) == 2:  # a cone between them
        rise = (areas[1] ** (power / 2.0) - areas[0] ** (power / 2.0)) / (at_mm[1] - at_mm[0])
        return float(2.0 * rise**2)
    found = []
    for middle in (i, i + 1):
        if 0 < middle < len(areas) - 1:
            three = slice(middle - 1, middle + 2)
            steps = np.diff(at_mm[three])
            rise = np.diff(areas[three] ** power) / steps
            found.append(float(2.0 * (rise[1] - rise[0]) / steps.sum()))
    if min(found) * max(found) <= 0:
        return 0.0
    return min(found, key=abs)


def _reach_mm(amount: float, slope: float, bend: float, step_mm: float) -> float:
    """Return how far beyond its end contour a body goes by its trend.

    To where its width would be zero, at most to the next plane, on which nothing was drawn; half a
    slice where it would not close by then (`LATE_STEPS`).

    Args:
        amount: Power of the area on the end contour.
        slope: Its first derivative there, outwards.
        bend: Its second derivative.
        step_mm: Distance of the neighbouring contour.
    """
    if slope >= 0.0:
        return step_mm / 2.0
    lowest = -slope / bend if bend > 0 else np.inf
    rest = amount + slope * lowest / 2.0 if bend > 0 else -np.inf
    if rest > CLOSED_PART * amount:
        return step_mm / 2.0
    if rest >= 0:
        closed = lowest
    elif bend == 0:
        closed = -amount / slope
    else:
        closed = (-slope - np.sqrt(slope**2 - 2.0 * bend * amount)) / bend
    return min(float(closed), step_mm) if closed <= LATE_STEPS * step_mm else step_mm / 2.0
