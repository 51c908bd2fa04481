"""Shapes of the phantom: smooth solids given by their distance to the surface.

A solid is evaluated at any LPS point, so CT and MR look at the same patient without either being
resampled. Distances are near enough to mm close to the surface (ellipsoids are not exact farther
away). Knows nothing of tissues, voxels or DICOM.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Point = tuple[float, float, float]
Distance = Callable[[Array, Array, Array], Array]
"""From x, y, z (LPS mm, shapes that broadcast) to mm from the surface, negative inside."""

FAR_MM = 1.0e4
"""Half size of the box of a solid that does not end."""


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """A shape in the patient.

    Attributes:
        distance: Distance to the surface in mm, negative inside.
        lowest: Corner of a box around the solid, LPS mm.
        highest: The opposite corner.
    """

    distance: Distance
    lowest: Point
    highest: Point

    def __and__(self, other: "Solid") -> "Solid":
        """Return what both have in common."""
        return Solid(
            lambda x, y, z: np.maximum(self.distance(x, y, z), other.distance(x, y, z)),
            _each(max, self.lowest, other.lowest),
            _each(min, self.highest, other.highest),
        )

    def __sub__(self, other: "Solid") -> "Solid":
        """Return this solid without the other."""
        return Solid(
            lambda x, y, z: np.maximum(self.distance(x, y, z), -other.distance(x, y, z)),
            self.lowest,
            self.highest,
        )

    def __or__(self, other: "Solid") -> "Solid":
        """Return both together."""
        return self.fused(other, 0.0)

    def fused(self, other: "Solid", fillet_mm: float) -> "Solid":
        """Return both together, the edge between them filled with a radius of `fillet_mm`."""

        def distance(x: Array, y: Array, z: Array) -> Array:
            a, b = self.distance(x, y, z), other.distance(x, y, z)
            nearest = np.minimum(a, b)
            if fillet_mm > 0:
                overlap = np.maximum(fillet_mm - np.abs(a - b), 0) / np.float32(fillet_mm)
                nearest = nearest - overlap * overlap * np.float32(fillet_mm / 4)
            return np.asarray(nearest, dtype=np.float32)

        return Solid(
            distance,
            _each(min, self.lowest, other.lowest),
            _each(max, self.highest, other.highest),
        ).with_margin(fillet_mm / 4)

    def without(self, other: "Solid", rounding_mm: float) -> "Solid":
        """Return this solid without the other, the edge between them rounded off."""
        return Solid(
            lambda x, y, z: smooth_maximum(
                self.distance(x, y, z), -other.distance(x, y, z), rounding_mm
            ),
            self.lowest,
            self.highest,
        )

    def grown(self, by_mm: float) -> "Solid":
        """Return the solid with its surface moved outwards (inwards when negative)."""
        moved = Solid(
            lambda x, y, z: self.distance(x, y, z) - np.float32(by_mm), self.lowest, self.highest
        )
        return moved.with_margin(max(by_mm, 0.0))

    def moved(self, by_mm: Sequence[float]) -> "Solid":
        """Return the solid moved by a vector in LPS mm."""
        dx, dy, dz = (np.float32(v) for v in by_mm)
        return Solid(
            lambda x, y, z: self.distance(x - dx, y - dy, z - dz),
            _each(operator.add, self.lowest, as_point(by_mm)),
            _each(operator.add, self.highest, as_point(by_mm)),
        )

    def rippled(self, height_mm: float, waves: Sequence[Point]) -> "Solid":
        """Return the solid with an uneven surface.

        Args:
            height_mm: Largest change of the surface.
            waves: Wave vectors in rad/mm.
        """

        def distance(x: Array, y: Array, z: Array) -> Array:
            ripple = sum(
                np.sin(np.float32(a) * x + np.float32(b) * y + np.float32(c) * z + np.float32(n))
                for n, (a, b, c) in enumerate(waves)
            )
            return np.asarray(
                self.distance(x, y, z) + np.float32(height_mm / len(waves)) * ripple,
                dtype=np.float32,
            )

        return Solid(distance, self.lowest, self.highest).with_margin(height_mm)

    def with_margin(self, by_mm: float) -> "Solid":
        """Return the same solid in a larger box."""
        return Solid(
            self.distance,
            _each(operator.sub, self.lowest, (by_mm,) * 3),
            _each(operator.add, self.highest, (by_mm,) * 3),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A solid and its tissues, painted over all layers before it.

    Attributes:
        tissue: What lies at the surface, inwards.
        solid: The shape.
        around: Tissues around it, outermost first, with the thickness of each rim in mm.
        within: Tissues inside it, with the depth in mm below the surface at which they begin.
    """

    tissue: str
    solid: Solid
    around: tuple[tuple[str, float], ...] = ()
    within: tuple[tuple[str, float], ...] = ()

    @property
    def coats(self) -> tuple[tuple[str, float], ...]:
        """Tissues in the order of painting, with the distance in mm at which each begins."""
        inner = tuple((tissue, -depth) for tissue, depth in self.within)
        return (*self.around, (self.tissue, 0.0), *inner)


def ellipsoid(centre: Sequence[float], radii: Sequence[float], turn_deg: float = 0.0) -> Solid:
    """Return an ellipsoid, turned about the z axis."""
    (cx, cy, cz), (rx, ry, rz) = map(_float32, (centre, radii))
    cosine, sine = _float32((np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))))

    def distance(x: Array, y: Array, z: Array) -> Array:
        dx, dy, dz = x - cx, y - cy, z - cz
        u, v, w = (cosine * dx + sine * dy) / rx, (cosine * dy - sine * dx) / ry, dz / rz
        return _from_norms(u * u + v * v + w * w, (u / rx) ** 2 + (v / ry) ** 2 + (w / rz) ** 2)

    reach = (max(radii[:2]),) * 2 if turn_deg else (radii[0], radii[1])
    return Solid(
        distance,
        as_point(np.subtract(centre, (*reach, radii[2]))),
        as_point(np.add(centre, (*reach, radii[2]))),
    )


def column(centre: Sequence[float], radii: Sequence[float]) -> Solid:
    """Return an elliptic cylinder along z without ends."""
    (cx, cy), (rx, ry) = map(_float32, (centre, radii))

    def distance(x: Array, y: Array, z: Array) -> Array:  # noqa: ARG001 - the same at every z
        u, v = (x - cx) / rx, (y - cy) / ry
        return _from_norms(u * u + v * v, (u / rx) ** 2 + (v / ry) ** 2)

    return Solid(
        distance,
        (centre[0] - radii[0], centre[1] - radii[1], -FAR_MM),
        (centre[0] + radii[0], centre[1] + radii[1], FAR_MM),
    )


def half_space(towards: Sequence[float], offset_mm: float) -> Solid:
    """Return all points with towards . point > offset; `towards` is a unit vector."""
    a, b, c = _float32(towards)
    offset = np.float32(offset_mm)
    lowest, highest = [-FAR_MM] * 3, [FAR_MM] * 3
    for n, direction in enumerate(towards):
        if abs(direction) == 1:
            (lowest if direction > 0 else highest)[n] = offset_mm * direction
    return Solid(
        lambda x, y, z: offset - (a * x + b * y + c * z), as_point(lowest), as_point(highest)
    )


def tube(path: Sequence[Point], radii: Sequence[float] | float, fillet_mm: float = 0.0) -> Solid:
    """Return a round tube along a path, its radius changing evenly between the path's points."""
    r = [float(radii)] * len(path) if isinstance(radii, int | float) else [float(v) for v in radii]
    whole = _capsule(path[0], path[1], r[0], r[1])
    for n in range(1, len(path) - 1):
        whole = whole.fused(_capsule(path[n], path[n + 1], r[n], r[n + 1]), fillet_mm)
    return whole


def _capsule(start: Point, end: Point, radius_start: float, radius_end: float) -> Solid:
    (ax, ay, az), (bx, by, bz) = _float32(start), _float32(end)
    ux, uy, uz = bx - ax, by - ay, bz - az
    length2 = np.float32(max(float(ux * ux + uy * uy + uz * uz), 1e-6))
    first, growth = _float32((radius_start, radius_end - radius_start))

    def distance(x: Array, y: Array, z: Array) -> Array:
        dx, dy, dz = x - ax, y - ay, z - az
        # |d - t u|2 = d.d - t (2 d.u - t u.u): fewer passes over the arrays
        dot = ux * dx + uy * dy + uz * dz
        along = np.clip(dot / length2, 0, 1)
        across2 = dx * dx + dy * dy + dz * dz - along * (2 * dot - along * length2)
        return np.asarray(
            np.sqrt(np.maximum(across2, 0)) - (first + growth * along), dtype=np.float32
        )

    reach = (max(radius_start, radius_end),) * 3
    return Solid(
        distance,
        as_point(np.minimum(start, end) - reach),
        as_point(np.maximum(start, end) + reach),
    )


def smooth_maximum(a: Array, b: Array, rounding_mm: float) -> Array:
    """Return the larger of two distances, and a little more where they are alike."""
    alike = np.maximum(rounding_mm - np.abs(a - b), 0) / np.float32(rounding_mm)
    larger = np.maximum(a, b) + alike * alike * np.float32(rounding_mm / 4)
    return np.asarray(larger, dtype=np.float32)


def _from_norms(k0_squared: npt.ArrayLike, k1_squared: npt.ArrayLike) -> Array:
    """Return about the distance to an ellipsoid: k0 (k0 - 1) / k1, a first-order estimate."""
    k0 = np.sqrt(k0_squared)
    k1 = np.sqrt(np.add(k1_squared, np.float32(1e-9)))
    return np.asarray(k0 * (k0 - 1) / k1, dtype=np.float32)


def random_waves(rng: np.random.Generator, length_mm: float) -> list[Point]:
    """Return wave vectors in random directions for `Solid.rippled`, of about one wave length."""
    directions = rng.standard_normal((3, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = length_mm * rng.uniform(0.7, 1.4, (3, 1))
    return [as_point(wave) for wave in 2 * np.pi * directions / lengths]


def as_point(values: npt.ArrayLike) -> Point:
    """Return three numbers as a point."""
    x, y, z = (float(v) for v in np.asarray(values))
    return x, y, z


def _float32(values: Sequence[float]) -> tuple[np.float32, ...]:
    return tuple(np.float32(v) for v in values)


def _each(chosen: Callable[[float, float], float], a: Point, b: Point) -> Point:
    return chosen(a[0], b[0]), chosen(a[1], b[1]), chosen(a[2], b[2])
