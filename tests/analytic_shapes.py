"""Bodies whose volume and dose histogram have closed forms, drawn as outlines on slice planes.

Convex bodies of many corners; what a plane cuts of one is the outline. Doses run evenly along a
line, or fall from a point as a Gaussian. Knows nothing of how a histogram is made.

Closed forms: for a dose D0 + g s along the unit vector n, with s measured from the body's middle
(of a cone: from its base), V(s > h)/V is (2R^3 - 3R^2 h + h^3)/(4R^3) for a sphere; for a cylinder
across its axis (acos t - t sqrt(1 - t^2))/pi with t = h/R; along the axis, as for a box, 1/2 - h/L;
for a cone along its axis ((H - h)/H)^3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.spatial import ConvexHull, QhullError

from handlers.geometry import Geometry, RigidTransform
from handlers.values import Contour, DoseGrid

Floats = npt.NDArray[np.float64]

FRAME = "1.2.3"
CORNERS = 360
LEAST_OUTLINE_MM2 = 0.05
_TURN = np.arange(CORNERS) * 2.0 * np.pi / CORNERS
_RING = np.column_stack((np.cos(_TURN), np.sin(_TURN)))


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A convex body and its closed forms.

    Attributes:
        corners: Shape (n, 3), mm; None: a ball about the origin.
        volume_cm3: Exact, of the smooth body.
        along: Unit vector of the dose that `hotter` is of.
        hotter: Part of the volume beyond s along it.
        reach: From where to where s goes.
    """

    corners: Floats | None
    volume_cm3: float
    along: Floats
    hotter: Callable[[float], float]
    reach: tuple[float, float]

    def place_of(self, part: float) -> float:
        """Return beyond which s that part of the volume lies."""
        return float(brentq(lambda s: self.hotter(s) - part, *self.reach))

    def turned(self, rotation: Floats) -> "Body":
        corners = None if self.corners is None else self.corners @ rotation.T
        return Body(
            corners,
            self.volume_cm3,
            rotation @ self.along,
            self.hotter,
            self.reach,
        )


def rotation(*angles_deg: float) -> Floats:
    return RigidTransform.from_parameters(
        rotation_deg=angles_deg, translation_mm=(0, 0, 0), to_frame_uid="", from_frame_uid=""
    ).matrix[:3, :3]


def ball(radius: float, along: Sequence[float] = (0, 0, 1)) -> Body:
    return Body(
        None,
        4.0 / 3.0 * np.pi * radius**3 / 1000.0,
        np.asarray(along, dtype=np.float64),
        lambda h: (2 * radius**3 - 3 * radius**2 * h + h**3) / (4 * radius**3),
        (-radius, radius),
    )


def _prism(radius: float, length: float) -> Floats:
    return np.concatenate(
        [np.column_stack((radius * _RING, np.full(CORNERS, z))) for z in (-length / 2, length / 2)]
    )


def cylinder_across(radius: float, length: float) -> Body:
    def hotter(h: float) -> float:
        t = h / radius
        return float((np.arccos(t) - t * np.sqrt(1 - t**2)) / np.pi)

    volume = np.pi * radius**2 * length / 1000.0
    y = np.array([0.0, 1.0, 0.0])
    return Body(_prism(radius, length), volume, y, hotter, (-radius, radius))


def cylinder_along(radius: float, length: float) -> Body:
    volume = np.pi * radius**2 * length / 1000.0
    ends = (-length / 2, length / 2)
    z = np.array([0.0, 0.0, 1.0])
    return Body(_prism(radius, length), volume, z, lambda h: 0.5 - h / length, ends)


def cone(radius: float, height: float) -> Body:
    corners = np.concatenate(
        (np.column_stack((radius * _RING, np.zeros(CORNERS))), [[0.0, 0.0, height]])
    )
    return Body(
        corners,
        np.pi * radius**2 * height / 3000.0,
        np.array([0.0, 0.0, 1.0]),
        lambda h: ((height - h) / height) ** 3,
        (0.0, height),
    )


def box(sides: Sequence[float], axis: int) -> Body:
    corners = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)])
    length = sides[axis]
    return Body(
        corners * np.asarray(sides),
        float(np.prod(sides)) / 1000.0,
        np.eye(3)[axis],
        lambda h: 0.5 - h / length,
        (-length / 2, length / 2),
    )


def outlines(
    body: Body, step_mm: float, shift_mm: float, normal: Sequence[float] = (0, 0, 1)
) -> tuple[Contour, ...]:
    """Return what planes at shift + k step along a normal cut of a body."""
    to = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
    cut = _cut_of_ball(body.reach[1], to) if body.corners is None else _cut_of(body.corners, to)
    farthest = np.array(body.reach) if body.corners is None else body.corners @ to
    first = int(np.ceil((farthest.min() - shift_mm) / step_mm))
    last = int(np.floor((farthest.max() - shift_mm) / step_mm))
    cuts = (cut(shift_mm + k * step_mm) for k in range(first, last + 1))
    return tuple(Contour(points) for points in cuts if points is not None)


def _cut_of_ball(radius: float, to: Floats) -> Callable[[float], Floats | None]:
    across = np.linalg.svd(to[None])[2][1:]

    def cut(height: float) -> Floats | None:
        square = radius**2 - height**2
        if np.pi * square < LEAST_OUTLINE_MM2:
            return None
        return height * to + np.sqrt(square) * (_RING @ across)

    return cut


def _cut_of(corners: Floats, to: Floats) -> Callable[[float], Floats | None]:
    simplices = ConvexHull(corners).simplices
    pairs = np.concatenate([simplices[:, [i, i - 1]] for i in range(3)])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    a, b = corners[pairs[:, 0]], corners[pairs[:, 1]]
    across = np.linalg.svd(to[None])[2][1:]

    def cut(height: float) -> Floats | None:
        above, beyond = a @ to - height, b @ to - height
        met = above * beyond < 0
        part = above[met] / (above[met] - beyond[met])
        points = a[met] + part[:, None] * (b[met] - a[met])
        try:
            hull = ConvexHull(points @ across.T)
        except (QhullError, ValueError):
            return None  # nothing, or a point: the plane touches the body
        return points[hull.vertices] if hull.volume > LEAST_OUTLINE_MM2 else None

    return cut


def slices(step_mm: float, normal_axes: Floats | None = None) -> Geometry:
    """Return the grid of a CT of 1 mm pixels about the origin."""
    axes = np.eye(3)[:, ::-1] if normal_axes is None else normal_axes
    matrix = np.eye(4)
    matrix[:3, :3] = axes * (step_mm, 1.0, 1.0)
    matrix[:3, 3] = axes @ (-50.0, -50.0, -50.0)
    return Geometry(FRAME, matrix, (round(100 / step_mm), 100, 100))


def dose_grid(
    value: "Field",
    spacing_mm: float,
    shift_mm: float = 0.0,
    axes: Floats | None = None,
    reach_mm: float = 42.0,
) -> DoseGrid:
    """Return a dose from its value at points (n, 3), on a cube about the origin."""
    count = 2 * int(reach_mm / spacing_mm) + 1
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3)[:, ::-1] if axes is None else axes) * spacing_mm
    matrix[:3, 3] = matrix[:3, :3] @ np.full(3, -(count - 1) / 2.0) + shift_mm
    geometry = Geometry(FRAME, matrix, (count,) * 3)
    points = geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)
    return DoseGrid(geometry, value(points).reshape(geometry.shape).astype(np.float32))


Field = Callable[[Floats], Floats]


def rising(along: Floats, *, gradient: float = 1.0, middle_gy: float = 45.0) -> Field:
    """Return a linear dose, cut off where it would be below zero (far outside of the bodies)."""
    return lambda points: np.maximum(middle_gy + gradient * (points @ along), 0.0)


def peaked(sigma_mm: float, *, top_gy: float = 60.0) -> Field:
    return lambda points: top_gy * np.exp(-(points**2).sum(axis=1) / (2.0 * sigma_mm**2))
