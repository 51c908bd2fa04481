"""What hides a part of the node in the CT, so that the planner drew without it.

Gas: a loop of bowel lies against the node on the day of the CT, and its blurred gas covers a rim of
the node; on the day of the MR the loop lies elsewhere. Scar: tissue as dense as the node surrounds
it, so that the planner misses a rim on one side and takes in scar on another; T2 and DWI tell them
apart. How deep the hidden part reaches and how much of the node it is are sought by measuring on a
fine raster in the CT's frame. Streaks about the gas are in `artefacts`.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry
from node.errors import NodeError
from node.phantom.anatomy import Anatomy
from node.phantom.options import HiddenBy, PhantomOptions
from node.phantom.patient import Patient
from node.phantom.signals import voxels_inside
from node.phantom.solids import (
    Array,
    Layer,
    Point,
    Solid,
    as_point,
    ellipsoid,
    random_waves,
    smooth_maximum,
    tube,
)

DEPTH_MM = (3.0, 5.0)
"""How far the hidden part reaches beyond the drawn contour."""

SHARE = (0.10, 0.25)
"""How much of the node's volume is hidden."""

WANTED_DEPTH_MM = (3.4, 4.6)
WANTED_SHARE = (0.12, 0.22)
"""From these the seed draws what is sought, within the bounds above."""

GAP_MM = 0.4
"""How far from what hides the node the planner stopped."""

ROUNDING_MM = 3.0
"""Planners draw no sharp edges."""

RASTER_MM = 0.8
RASTER_MARGIN_MM = 7.0
"""Step and margin of the raster on which the hidden part is measured."""

SHAPES = tuple(
    (reach, radius) for reach in (72.0, 58.0, 44.0, 28.0) for radius in (18.0, 12.0, 7.0)
)
"""How far what hides the node bends round it, to each side in degrees, and its radius in mm."""

NEAR_ENOUGH = 0.02
MOST_MISSES = 5
"""No better share is sought than this; after so many shapes that hide too little, another side."""

INDENTS_MM = (0.5, 10.0)
BISECTIONS = 6
MOST_SIDES = 30
"""Sides of the node that are tried."""

CONE = (0.4, 1.0)
"""Spread of the sides about the one away from the portal vein, where the fat is: grows from the
first side that is tried to the last.
"""

SPARE_PIECES = 2
"""In so many slices more than before the drawn target may be cut in two."""

WALL_MM = 1.2
"""Wall of a loop that gas distends."""

TAIL_MM = 22.0
"""How far the loop goes on beyond the node."""

OTHER_DAY = (46.0, -42.0, -62.0)
"""About where the loop lies on the day of the MR: among the jejunum."""

CLEAR_MM = 8.0
"""No nearer to the node than this."""

SCAR_MM = 5.0
"""Thickness of the scar about the node."""

BULGE_MM = (2.5, 4.0)
BULGE_RADIUS_MM = 7.0
SIDES_OF_BULGE = 16
"""How far the planner took in scar, how round, and on how many sides that is tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Hiding:
    """The patient and the drawn target with a part of the node hidden, or as they were.

    Attributes:
        patient: With the loop of bowel or the scar.
        drawn: The target as drawn, in the CT's frame.
        cover: What the planner kept away from, in the CT's frame; None: nothing is hidden.
        gas: The gas that covers the node in the CT, in the CT's frame, or None.
    """

    patient: Patient
    drawn: Solid
    cover: Solid | None = None
    gas: Solid | None = None

    def hidden(self, grid: Geometry) -> npt.NDArray[np.bool_]:
        """Return the voxels that the drawn target leaves out because of the cover."""
        if self.cover is None:
            return np.zeros(grid.shape, dtype=bool)
        return voxels_inside(self.cover, grid) & ~voxels_inside(self.drawn, grid)


def hide(options: PhantomOptions, patient: Patient, drawn: Solid) -> Hiding:
    """Return the patient with that part of the node hidden that the options ask for.

    Args:
        options: Tell by what it is hidden.
        patient: With everything in sight.
        drawn: What would be drawn of it, in the plain form.

    Raises:
        NodeError: On no side can enough of this node be hidden within the bounds.
    """
    if options.hidden_by == "nothing":
        return Hiding(patient, patient.in_ct(drawn))
    rng = np.random.default_rng([options.seed, 91, len(options.hidden_by)])
    site = _Site.of(patient, drawn)
    cover, side = _sought_cover(rng, site, options.hidden_by)
    left = drawn.without(cover.grown(GAP_MM), ROUNDING_MM)
    is_gas = options.hidden_by == "gas"
    if is_gas:
        anatomy = _with_loop(rng, site, cover)
    else:
        taken_in = _taken_in(rng, site, side, cover)
        anatomy = _with_scar(rng, site, cover, taken_in)
        left = left.fused(taken_in, ROUNDING_MM)
    return Hiding(
        patient=dataclasses.replace(patient, anatomy=anatomy),
        drawn=patient.in_ct(left),
        cover=patient.in_ct(cover.grown(GAP_MM)),
        gas=patient.in_ct(cover.grown(-WALL_MM)) if is_gas else None,
    )


def depth_mm(
    hidden: npt.NDArray[np.bool_], drawn: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> float:
    """Return how far hidden voxels lie beyond the drawn ones, at most; 0 where there are none."""
    if not hidden.any():
        return 0.0
    away = ndimage.distance_transform_edt(~drawn, sampling=spacing_mm)
    # between centres: the surface lies half a voxel before the first one outside
    return max(float(away[hidden].max()) - 0.5 * min(spacing_mm), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """The node and what lies about it, on a raster along the axes of the CT's frame.

    Attributes:
        patient: The patient.
        drawn: What would be drawn, in the plain form.
        obstacles: What bowel does not press aside: contoured organs and vessels beside the node.
        points: The raster's points in the plain form.
        node, outside, blocked: At these: whether the node is there, distance to what would be
            drawn, distance to the obstacles.
        pieces: Of what would be drawn, counted slice by slice.
    """

    patient: Patient
    drawn: Solid
    obstacles: Solid
    points: tuple[Array, Array, Array]
    node: npt.NDArray[np.bool_]
    outside: Array
    blocked: Array
    pieces: int

    @classmethod
    def of(cls, patient: Patient, drawn: Solid) -> "_Site":
        node = patient.anatomy.node
        box = patient.in_ct(node)
        axes = [
            np.arange(low - RASTER_MARGIN_MM, high + RASTER_MARGIN_MM, RASTER_MM, dtype=np.float32)
            for low, high in zip(box.lowest, box.highest, strict=True)
        ]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        for warp in patient.ct_warps:
            x, y, z = warp.before(x, y, z)
        organs = patient.anatomy.organs
        beside = [s.grown(0.5) for name, s in organs.items() if name != "External"]
        all_beside = beside[0]
        for organ in beside[1:]:
            all_beside = all_beside | organ
        obstacles = all_beside - node.grown(1.5)
        inside = node.distance(x, y, z) < 0
        # a box with much room beside the node costs time
        filled = ndimage.find_objects(inside.astype(np.int8))[0]
        margin = int(RASTER_MARGIN_MM / RASTER_MM)
        part = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in filled)
        x, y, z = (np.ascontiguousarray(axis[part]) for axis in np.broadcast_arrays(x, y, z))
        outside = drawn.distance(x, y, z)
        return cls(
            patient,
            drawn,
            obstacles,
            (x, y, z),
            inside[part],
            outside,
            obstacles.distance(x, y, z),
            _pieces(outside < 0),
        )

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """The node's centre, in the plain form."""
        return np.array(self.patient.anatomy.centre)

    def measured(self, cover: Solid) -> tuple[float, float]:
        """Return depth in mm and share of the node that something hides; obstacles are cut."""
        near = np.maximum(cover.distance(*self.points), -self.blocked) - np.float32(GAP_MM)
        drawn = smooth_maximum(self.outside, -near, ROUNDING_MM) < 0
        hidden = self.node & (near < 0) & ~drawn
        if _pieces(drawn) > self.pieces + SPARE_PIECES:
            return np.inf, 1.0
        share = np.count_nonzero(hidden) / np.count_nonzero(self.node)
        return depth_mm(hidden, drawn, (RASTER_MM,) * 3), share


def _pieces(inside: npt.NDArray[np.bool_]) -> int:
    """Return the number of pieces on a raster, slice by slice of the CT."""
    within_slices = ndimage.generate_binary_structure(3, 1)
    within_slices[:, :, (0, 2)] = False
    return int(ndimage.label(inside, within_slices)[1])


def _sought_cover(rng: np.random.Generator, site: _Site, by: HiddenBy) -> tuple[Solid, Point]:
    """Return what covers a part of the node within the bounds, and on which side."""
    depth, share = rng.uniform(*WANTED_DEPTH_MM), rng.uniform(*WANTED_SHARE)
    waves = random_waves(rng, 14)
    for tried in np.linspace(0, 1, MOST_SIDES):
        spread = CONE[0] + tried * (CONE[1] - CONE[0])
        wanted = depth + tried * (WANTED_DEPTH_MM[1] - depth)
        side = _direction(rng, -np.array(site.patient.anatomy.towards_vein), spread)
        turn = _direction(rng, np.zeros(3), 1.0)
        turn = turn - (turn @ side) * side
        turn /= np.linalg.norm(turn)
        found, misses = [], 0
        for reach_deg, radius in SHAPES:
            shape = _Bent(site, side, turn, reach_deg, radius, waves if by == "scar" else None)
            pressed = shape.pressed_in(wanted)
            if pressed is None or pressed[1] < DEPTH_MM[0] or pressed[2] < SHARE[0]:
                misses += 1
            elif pressed[2] < SHARE[1]:
                found.append((abs(pressed[2] - share), pressed[0]))
            if misses == MOST_MISSES or (found and found[-1][0] < NEAR_ENOUGH):
                break
        if found:
            return min(found, key=lambda one: one[0])[1] - site.obstacles, as_point(side)
    raise NodeError(
        f"on no side can {by} hide a part of this node within the bounds", hint="take another seed"
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Bent:
    """A tube that bends round one side of the node.

    Attributes:
        site: The node.
        side: Unit vector to the middle of the tube.
        turn: Unit vector across `side`, along the tube.
        reach_deg: How far it bends to both sides.
        radius_mm: Of the tube.
        waves: Of its uneven surface, or None.
    """

    site: _Site
    side: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]
    reach_deg: float
    radius_mm: float
    waves: list[Point] | None

    def pressed_in(self, wanted_mm: float) -> tuple[Solid, float, float] | None:
        """Return the tube that hides the node to a depth, with the depth and the share it hides."""
        low, high = INDENTS_MM
        surface_mm = self._surface()
        found = None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            solid = self._tube(surface_mm, middle)
            depth, share = self.site.measured(solid)
            if depth > wanted_mm:
                high = middle
            else:
                low, found = middle, (solid, depth, share)
        return found

    def _surface(self) -> npt.NDArray[np.float64]:
        """Return how far the node reaches in the directions of the tube's path, mm."""
        steps = np.arange(0.0, 60.0, 0.5)
        places = self.site.centre + steps[:, None, None] * self._directions()
        node = self.site.patient.anatomy.node
        inside = node.distance(*np.moveaxis(places.astype(np.float32), 2, 0)) < 0
        reach = steps[len(steps) - 1 - inside[::-1].argmax(axis=0)]
        return np.asarray(ndimage.gaussian_filter1d(reach, 1.0, mode="nearest"))

    def _directions(self) -> npt.NDArray[np.float64]:
        angles = np.deg2rad(np.linspace(-self.reach_deg, self.reach_deg, 9))[:, None]
        return np.asarray(np.cos(angles) * self.side + np.sin(angles) * self.turn)

    def _tube(self, surface_mm: npt.NDArray[np.float64], indent_mm: float) -> Solid:
        directions = self._directions()
        path = self.site.centre + directions * (surface_mm + self.radius_mm - indent_mm)[:, None]
        first = path[0] + TAIL_MM * _unit(directions[0] - self.turn)
        last = path[-1] + TAIL_MM * _unit(directions[-1] + self.turn)
        whole = tube([as_point(p) for p in (first, *path, last)], self.radius_mm, 2.0)
        return whole.rippled(1.5, self.waves) if self.waves else whole


def _with_loop(rng: np.random.Generator, site: _Site, loop: Solid) -> Anatomy:
    """Return the anatomy with a loop of bowel against the node, on the other day elsewhere."""
    anatomy = site.patient.anatomy
    away = np.array(OTHER_DAY) - site.centre + rng.normal(0, 5, 3)
    other_day = loop.moved(as_point(away)) - site.obstacles - anatomy.node.grown(CLEAR_MM)
    on_ct, on_mr = (
        Layer("bowel_wall", solid, within=(("gas", WALL_MM),)) for solid in (loop, other_day)
    )
    return dataclasses.replace(
        anatomy, ct_gas=(*anatomy.ct_gas, on_ct), mr_gas=(*anatomy.mr_gas, on_mr)
    )


def _with_scar(rng: np.random.Generator, site: _Site, cover: Solid, taken_in: Solid) -> Anatomy:
    """Return the anatomy with scar about the hidden part and what was taken in.

    In the CT the hidden part of the node looks like the scar, strands included.
    """
    anatomy = site.patient.anatomy
    collar = anatomy.node_core.grown(SCAR_MM).rippled(3.5, random_waves(rng, 11))
    scar = (collar & cover.grown(3.0)).fused(taken_in.grown(1.5), 6.0)
    about = Layer("scar", scar, around=(("hazy", 6.0), ("stranded", 3.0)))
    first = anatomy.trunk_layers
    return dataclasses.replace(
        anatomy,
        layers=(*anatomy.layers[:first], about, *anatomy.layers[first:]),
        trunk_layers=first + 1,
        ct_gas=(*anatomy.ct_gas, Layer("scar", cover & anatomy.node)),
    )


def _taken_in(rng: np.random.Generator, site: _Site, side: Point, cover: Solid) -> Solid:
    """Return what the planner added to the drawn target, where that is most: across the cover."""
    kept_away = site.obstacles | cover.grown(2 * ROUNDING_MM)
    beyond = float(rng.uniform(*BULGE_MM))
    found = []
    for _ in range(SIDES_OF_BULGE):
        way = _direction(rng, -np.array(side), 1.0)
        bulge = _bulge(site, way, beyond) - kept_away
        added = (bulge.distance(*site.points) < 0) & (site.outside > 0)
        found.append((np.count_nonzero(added), way, bulge))
    return max(found, key=lambda one: one[0])[2]


def _bulge(site: _Site, side: npt.NDArray[np.float64], beyond_mm: float) -> Solid:
    """Return a ball that looks out of what would be drawn."""
    steps = np.arange(0.0, 60.0, 0.25)
    places = (site.centre + steps[:, None] * side).astype(np.float32)
    reach = float(steps[np.flatnonzero(site.drawn.distance(*places.T) < 0)[-1]])
    middle = site.centre + (reach + beyond_mm - BULGE_RADIUS_MM) * side
    return ellipsoid(as_point(middle), (BULGE_RADIUS_MM,) * 3)


def _direction(
    rng: np.random.Generator, about: npt.NDArray[np.float64], spread: float
) -> npt.NDArray[np.float64]:
    return _unit(about + spread * rng.standard_normal(3))


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector))
