"""Small things in the patient of the kit: vessel trees, ducts, lesions, strands, other nodes.

Some are bright in one modality and equal to their surroundings in the other: edges that CT and MR
do not share. Which ones, the table of tissues decides.
"""

from collections.abc import Sequence

import numpy as np

from node.phantom.solids import Layer, Point, Solid, as_point, ellipsoid, random_waves, tube

PORTAL_ENDS: tuple[tuple[Point, Point], ...] = (
    ((-62.0, -4.0, 20.0), (-0.4, -0.6, 0.7)),
    ((-62.0, -4.0, 20.0), (-0.4, 0.6, -0.7)),
    ((-92.0, 8.0, 14.0), (-0.6, 0.4, 0.6)),
    ((-92.0, 8.0, 14.0), (-0.5, 0.3, -0.8)),
    ((-24.0, -34.0, 30.0), (-0.5, -0.6, 0.6)),
    ((6.0, -46.0, 36.0), (0.8, -0.3, 0.3)),
)
"""Where the portal vein's large branches give off small ones, and in which direction."""

HEPATIC_ENDS: tuple[tuple[Point, Point], ...] = (
    ((-70.0, -12.0, 45.0), (-0.5, 0.7, 0.3)),
    ((-100.0, -25.0, 25.0), (-0.4, -0.5, -0.7)),
    ((-38.0, -40.0, 48.0), (-0.4, -0.8, -0.3)),
    ((8.0, -36.0, 52.0), (0.8, -0.5, 0.2)),
)

GENERATIONS = ((30.0, 2.3), (20.0, 1.6), (13.0, 1.1))
"""Length and radius of a branch in mm, from one generation to the next."""


def liver_detail(rng: np.random.Generator, liver: Solid) -> list[Layer]:
    """Return what lies within the liver, painted over it."""
    layers = [
        Layer(tissue, ellipsoid(as_point(centre), as_point(radii)) & liver)
        for tissue, most, (small, large) in (
            ("perfused", 3, (12.0, 26.0)),
            ("haemangioma", 3, (4.0, 11.0)),
            ("cyst", 4, (2.5, 8.0)),
        )
        for centre, radii in zip(
            rng.uniform((-115, -55, -40), (0, 40, 70), (int(rng.integers(most + 1)), 3)),
            rng.uniform(small, large, (most, 3)),
            strict=False,
        )
    ]
    portal = [branch for end in PORTAL_ENDS for branch in _branches(rng, *end)]
    hepatic = [branch for end in HEPATIC_ENDS for branch in _branches(rng, *end)]
    layers += [Layer("portal_vein", tube(path, r) & liver) for path, r in portal]
    layers += [Layer("vein", tube(path, r) & liver) for path, r in hepatic]
    for path, radii in portal[::3]:
        beside = [as_point(np.add(point, (2.0, -2.0, 1.0))) for point in path]
        layers.append(Layer("small_duct", tube(beside, [0.7 * r for r in radii]) & liver))
    return layers


def _branches(
    rng: np.random.Generator, start: Point, towards: Sequence[float], generation: int = 0
) -> list[tuple[list[Point], list[float]]]:
    """Return paths and radii of two branches and of all that spring from them."""
    if generation == len(GENERATIONS):
        return []
    length, radius = GENERATIONS[generation]
    thinner = GENERATIONS[min(generation + 1, len(GENERATIONS) - 1)][1]
    found = []
    for _ in range(2):
        direction = np.array(towards) + rng.normal(0, 0.55, 3)
        direction /= np.linalg.norm(direction)
        end = as_point(np.array(start) + direction * length * rng.uniform(0.7, 1.2))
        found.append(([start, end], [radius, thinner]))
        found += _branches(rng, end, as_point(direction), generation + 1)
    return found


def fat_detail(rng: np.random.Generator) -> list[Layer]:
    """Return vessels and small nodes in the fat, painted before the organs."""
    starts = rng.uniform((-70, -64, -95), (90, 20, 40), (70, 3))
    strands = [
        Layer(
            str(rng.choice(("vein", "artery"), p=(0.7, 0.3))),
            tube([as_point(p), as_point(p + rng.normal(0, 13, 3))], [rng.uniform(0.9, 2.2), 0.8]),
        )
        for p in starts
    ]
    places = rng.uniform((-40, -35, -60), (50, 20, 20), (8, 3))
    small = [
        Layer("node", ellipsoid(as_point(p), as_point(rng.uniform(2.0, 4.2, 3)))) for p in places
    ]
    return strands + small


def stranding(rng: np.random.Generator, about: Point) -> list[Layer]:
    """Return hazy fat about a point, painted before the organs."""
    centre = np.array(about) + rng.normal(0, 6, 3)
    core = ellipsoid(as_point(centre), as_point(rng.uniform(16, 30, 3)))
    uneven = core.rippled(6.0, random_waves(rng, 26))
    return [Layer("hazy", uneven.grown(7.0), within=(("stranded", 7.0),))]


def calcifications(rng: np.random.Generator, aorta: Solid) -> list[Layer]:
    """Return spots of calcium in the wall of the aorta, painted last."""
    layers = []
    for height in rng.uniform(-100, 90, int(rng.integers(0, 7))):
        turn = rng.uniform(0, 2 * np.pi)
        reach = np.arange(0.0, 20.0, 0.25)
        axis_x, axis_y = 10.0, 20.0
        ray = np.stack(
            [
                axis_x + reach * np.cos(turn),
                axis_y + reach * np.sin(turn),
                np.full_like(reach, height),
            ]
        ).astype(np.float32)
        wall = int(np.argmax(aorta.distance(*ray) > -0.5))
        spot = as_point(ray[:, wall])
        layers.append(Layer("calcium", ellipsoid(spot, as_point(rng.uniform(0.9, 2.4, 3)))))
    return layers
