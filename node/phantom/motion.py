"""How the patient lies and breathes: smooth maps of space, given by formulas and inverted exactly.

Each map is a `Warp` that tells for a point of the later space where it comes from, as painting
needs it; the truth goes the other way and is found by iteration to `EXACT_MM`. Sliding along the
wall is a steep but continuous shear here: real organs slide with a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.geometry import Points
from node.phantom.solids import Point, Solid, as_point
from node.phantom.variety import Variety, Vector

Values = npt.NDArray[Any]
"""Coordinates: float32 for painting, float64 for the truth."""

Displacement = Callable[[Values, Values, Values], tuple[Values, Values, Values]]
"""From x, y, z (LPS mm, shapes that broadcast) to displacements in mm along x, y and z."""

EXACT_MM = 1e-9
MOST_ITERATIONS = 400

LARGEST_BOX_MM = 500.0
BOX_POINTS = 7
BULGE = 0.15
"""How the box of a moved solid is found: from points of its former box, unless that has no end."""

SPINE = ((0.0, 52.0), (34.0, 26.0))
"""Centre and half axes of the column that does not breathe, at the mean build, mm."""

CAVITY = (121.0, 74.0)
"""Half axes within which organs move: the cavity of the slimmest build, mm."""

WALL_MM = 14.0
"""Depth below the wall of the cavity over which breathing grows from nothing to all of it."""

LOWEST_SHARE = 0.4
"""Movement of the lowest organs, as a share of that of the liver's dome."""

FORWARDS = 0.15
"""Movement towards the front of what moves down, as a share of it."""

STOMACH = ((52.0, -34.0, 2.0), 32.0)
"""Centre and reach of the change that a fuller stomach makes, mm."""

GAS_SITES: tuple[tuple[Point, float], ...] = (
    ((44.0, -52.0, -8.0), 26.0),
    ((-46.0, -42.0, -28.0), 20.0),
    ((22.0, -66.0, -78.0), 24.0),
    ((0.0, -30.0, 88.0), 34.0),
)
"""Where air disturbs the field of an echo planar image: centre and reach in mm."""


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """A map `before_from_after` of space, x + displacement(x).

    Attributes:
        displacement: Formula of the displacement.
        largest_mm: No displacement within the phantom is longer.
    """

    displacement: Displacement
    largest_mm: float

    def before(self, x: Values, y: Values, z: Values) -> tuple[Values, Values, Values]:
        """Return where points of the space after the change were before it."""
        dx, dy, dz = self.displacement(x, y, z)
        return x + dx, y + dy, z + dz

    def after(self, points: npt.ArrayLike) -> Points:
        """Return where points (n, 3) of the space before the change are after it.

        Raises:
            ValueError: The map folds here, so that there is no single answer.
        """
        wanted = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        found = wanted
        for _ in range(MOST_ITERATIONS):
            moved = np.stack(np.broadcast_arrays(*self.displacement(*found.T)), axis=1)
            step = wanted - moved - found
            found = found + step
            if not step.size or np.abs(step).max() < EXACT_MM:
                return np.asarray(found)
        raise ValueError("the warp has no inverse at these points")

    def of(self, solid: Solid) -> Solid:
        """Return the solid of the space before the change as it lies after it."""
        lowest, highest = self._box_after(solid)
        return Solid(
            lambda x, y, z: np.asarray(solid.distance(*self.before(x, y, z)), dtype=np.float32),
            lowest,
            highest,
        )

    def _box_after(self, solid: Solid) -> tuple[Point, Point]:
        """Return corners of a box that holds a solid after the change."""
        size = np.subtract(solid.highest, solid.lowest)
        if size.max() > LARGEST_BOX_MM:
            return (
                as_point(np.subtract(solid.lowest, self.largest_mm)),
                as_point(np.add(solid.highest, self.largest_mm)),
            )
        shares = np.stack(np.meshgrid(*(np.linspace(0, 1, BOX_POINTS),) * 3), axis=-1)
        moved = self.after(np.array(solid.lowest) + shares.reshape(-1, 3) * size)
        # the map may bulge between these points
        margin = BULGE * size.max() / (BOX_POINTS - 1)
        return as_point(moved.min(axis=0) - margin), as_point(moved.max(axis=0) + margin)


def plain_breathing(breathing_mm: float) -> Warp:
    """Return the breathing of the plain patient: the front of the abdomen lies lower."""

    def displacement(x: Values, y: Values, z: Values) -> tuple[Values, Values, Values]:
        front = 1 - np.tanh((y - 25) / 20)
        return np.zeros_like(x), np.zeros_like(y), np.asarray(breathing_mm / 2 * front + 0 * z)

    return Warp(displacement, abs(breathing_mm))


def personal_shape(seed: int, variety: Variety) -> Warp:
    """Return the map from the patient to the anatomy of the plain one: size and individual form."""
    rng = np.random.default_rng([seed, 62])
    waves = _waves(rng, 2, (170.0, 280.0))
    size, height = 1 / variety.body_scale - 1, variety.shape_mm / 2

    def displacement(x: Values, y: Values, z: Values) -> tuple[Values, Values, Values]:
        return (
            size * x + height * _sum_of(waves[0], x, y, z),
            size * y + 0.6 * height * _sum_of(waves[1], x, y, z),
            size * z + height * _sum_of(waves[2], x, y, z),
        )

    return Warp(displacement, 260 * abs(size) + 3 * variety.shape_mm)


def organ_motion(
    seed: int, variety: Variety, shape: Warp, breathing_mm: float, shift_mm: Vector
) -> Warp:
    """Return the map from the patient in the MR, placed rigidly, to the patient in the CT.

    Spine and wall stay; organs follow the diaphragm, less so lower down; the stomach is fuller or
    emptier; smooth changes between the days come on top.

    Args:
        seed: The patient.
        variety: The case.
        shape: From `personal_shape`: tells where spine and wall of this patient are.
        breathing_mm: How much lower the liver lies in the MR.
        shift_mm: Change of the breath hold of this series, in the CT's frame: added to a point of
            the MR it gives that of the CT, where all of the breathing arrives.
    """
    rng = np.random.default_rng([seed, 63])
    waves = _waves(rng, 2, (95.0, 160.0))
    forwards = FORWARDS * breathing_mm
    hold = (shift_mm[0], shift_mm[1] + forwards, shift_mm[2] + breathing_mm)
    (sx, sy, sz), reach = STOMACH

    def displacement(x: Values, y: Values, z: Values) -> tuple[Values, Values, Values]:
        x, y, z = shape.before(x, y, z)
        inside = _inside(x, y)
        held = inside * (LOWEST_SHARE + (1 - LOWEST_SHARE) * _ramp((z + 160) / 220))
        day = inside * (variety.day_mm / 2)
        dx, dy, dz = x - sx, y - sy, z - sz
        push = np.exp((dx * dx + dy * dy + dz * dz) * (-0.5 / reach**2))
        push = inside * push * (-variety.stomach_mm / reach)
        return (
            hold[0] * held + day * _sum_of(waves[0], x, y, z) + push * dx,
            hold[1] * held + day * _sum_of(waves[1], x, y, z) + push * dy,
            hold[2] * held + day * _sum_of(waves[2], x, y, z) + push * dz,
        )

    largest = float(np.linalg.norm(hold)) + 2 * variety.day_mm + abs(variety.stomach_mm)
    return Warp(displacement, largest)


def echo_planar_distortion(seed: int, variety: Variety, along: Sequence[float]) -> Warp:
    """Return the distortion of an echo planar image along its phase encoding.

    Args:
        seed: The patient.
        variety: The case.
        along: Unit vector of the phase encoding in the CT's frame.
    """
    rng = np.random.default_rng([seed, 64])
    signs = rng.choice((-1.0, 1.0), len(GAS_SITES))
    strengths = [float(v) for v in signs * rng.uniform(0.4, 1.0, len(GAS_SITES))]
    slopes = [float(v) for v in rng.uniform(-0.2, 0.2, 3)]
    ax, ay, az = (float(v) for v in along)

    def displacement(x: Values, y: Values, z: Values) -> tuple[Values, Values, Values]:
        field = 0.0 * (x + y + z)
        for strength, ((cx, cy, cz), reach) in zip(strengths, GAS_SITES, strict=True):
            squared = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
            field = field + strength * np.exp(squared * (-0.5 / reach**2))
        # what is left of eddy currents: bounded slopes
        field = field + slopes[0] * np.tanh(x / 120) + slopes[1] * np.tanh(y / 90)
        shift = variety.epi_mm * (field + slopes[2] * np.tanh(z / 90))
        return ax * shift, ay * shift, az * shift

    return Warp(displacement, 2.0 * variety.epi_mm)


def _inside(x: Values, y: Values) -> Values:
    """Return 0 at spine and wall of the plain patient, 1 where nothing holds the organs."""
    a, b = CAVITY
    depth = (1 - np.sqrt((x / a) ** 2 + (y / b) ** 2)) * b
    (cx, cy), (rx, ry) = SPINE
    from_spine = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    return np.asarray(_ramp(depth / WALL_MM) * _ramp(from_spine - 1))


def _ramp(t: Values) -> Values:
    """Return 0 below 0, 1 above 1, smooth in between."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _waves(
    rng: np.random.Generator, count: int, lengths_mm: tuple[float, float]
) -> list[list[tuple[float, float, float, float]]]:
    """Return wave vectors in rad/mm with phases, `count` for each direction."""
    directions = rng.standard_normal((3, count, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    vectors = directions * 2 * np.pi / rng.uniform(*lengths_mm, (3, count, 1))
    phases = rng.uniform(0, 2 * np.pi, (3, count))
    return [
        [
            (float(a), float(b), float(c), float(p))
            for (a, b, c), p in zip(vectors[axis], phases[axis], strict=True)
        ]
        for axis in range(3)
    ]


def _sum_of(
    waves: Sequence[tuple[float, float, float, float]], x: Values, y: Values, z: Values
) -> Values:
    return np.asarray(sum(np.sin(a * x + b * y + c * z + p) for a, b, c, p in waves))
