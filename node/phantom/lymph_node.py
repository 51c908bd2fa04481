"""The metastatic node: where it lies at the portal vein, and what has grown together with it.

Reads nothing but solids; how the node is drawn by a planner is in `study`.
"""

import numpy as np

from node.phantom.solids import Point, Solid, as_point, ellipsoid, random_waves, tube
from node.phantom.variety import Variety

START = (-19.0, -10.0, -8.0)
"""A point within the main portal vein, from which the node is placed."""

SMALLEST_LOBE_MM = 4.5
LARGEST_LOBE_MM = 10.0
"""Radii of a lobe that reaches out to the duodenum."""

TOUCH_MM = 1.0
"""How far that lobe and the duodenum overlap before the duodenum is cut from it."""


def make_node(
    rng: np.random.Generator, portal_main: Solid, diameter_mm: float
) -> tuple[Solid, Point, Point]:
    """Return a node, its centre, and the direction to the portal vein that it touches.

    Args:
        rng: The patient.
        portal_main: The main portal vein.
        diameter_mm: Mean diameter; 0 lets the patient choose 23 to 28 mm.
    """
    radius = (diameter_mm or float(rng.uniform(23.0, 28.0))) / 2
    axis = np.array((0.58, -0.66, 0.48)) + rng.uniform(-0.06, 0.06, 3)
    axis /= np.linalg.norm(axis)
    shape = np.array((1.0, 1.0, 1.0)) + rng.uniform(-0.08, 0.08, 3)
    radii = radius * shape / np.cbrt(np.prod(shape))
    # walk away from the vein until the surfaces overlap by 1 mm
    reach = np.linspace(0, 45, 181)
    places = (np.array(START) + np.outer(reach, axis)).astype(np.float32)
    from_vein = portal_main.distance(*places.T)
    centre = places[int(np.argmax(from_vein > radius - 1.0))].astype(np.float64)
    core = ellipsoid(centre, radii, float(rng.uniform(-40, 40))).rippled(1.5, random_waves(rng, 22))
    return core, as_point(centre), as_point(-axis)


def grown_together(
    rng: np.random.Generator,
    core: Solid,
    centre: Point,
    towards_vein: Point,
    duodenum: Solid,
    variety: Variety,
) -> Solid:
    """Return the node with its lobes: the first may reach the duodenum, the others lie at will."""
    radius = float(np.mean(np.subtract(core.highest, core.lowest))) / 2
    whole = core
    if variety.touches_duodenum:
        whole = whole.fused(_lobe_to(duodenum, centre, radius), 3.0)
    for _ in range(variety.lobes - 1):
        direction = rng.standard_normal(3)
        vein = np.array(towards_vein)
        # beside the vein, not through it
        direction -= max(0.0, float(direction @ vein) + 0.3) * vein
        direction /= np.linalg.norm(direction)
        own = radius * float(rng.uniform(0.5, 0.75))
        place = np.array(centre) + direction * (radius * 0.75 + own * 0.6)
        radii = own * rng.uniform(0.85, 1.15, 3)
        lobe = ellipsoid(as_point(place), as_point(radii)).rippled(0.8, random_waves(rng, 14))
        whole = whole.fused(lobe, 3.0)
    return whole


def _lobe_to(duodenum: Solid, centre: Point, radius: float) -> Solid:
    """Return a lobe from the node's centre to the nearest wall of the duodenum."""
    directions = _directions(400)
    reach = np.arange(0.0, 90.0, 0.5)
    places = np.array(centre) + reach[:, None, None] * directions
    inside = duodenum.distance(*np.moveaxis(places.astype(np.float32), 2, 0)) < 0
    first = np.where(inside.any(axis=0), inside.argmax(axis=0), len(reach))
    nearest = int(np.argmin(first))
    distance = float(reach[min(int(first[nearest]), len(reach) - 1)])
    own = float(np.clip((distance - 0.5 * radius) / 2, SMALLEST_LOBE_MM, LARGEST_LOBE_MM))
    end = np.array(centre) + directions[nearest] * max(distance - own + TOUCH_MM, 0.0)
    return tube([centre, as_point(end)], [0.6 * radius, own])


def _directions(count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Return unit vectors spread evenly over the sphere (a Fibonacci lattice), shape (n, 3)."""
    n = np.arange(count) + 0.5
    height, turn = 1 - 2 * n / count, np.pi * (1 + np.sqrt(5)) * n
    across = np.sqrt(1 - height * height)
    return np.column_stack([across * np.cos(turn), across * np.sin(turn), height])
