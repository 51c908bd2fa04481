"""Stomach and bowel of the phantom's patient, and what they hold on a given day.

Gas is told apart from the rest because CT and MR are made on different days.
"""

from collections.abc import Mapping

import numpy as np

from node.phantom.solids import (
    Layer,
    Solid,
    as_point,
    ellipsoid,
    half_space,
    random_waves,
    tube,
)

GAS_LEVEL_MM = 20.0
"""How far the level in the stomach falls when there is twice as much gas."""


def make_bowel(rng: np.random.Generator, cavity: Solid) -> dict[str, Solid]:
    """Return `Stomach`, `Duodenum`, `colon` and `jejunum`, walls included."""
    full = float(rng.uniform(0.8, 1.1))
    stomach = tube(
        [(62, 12, 66), (66, -16, 36), (58, -42, 4), (34, -58, -26), (6, -60, -34), (-20, -50, -26)],
        [29 * full, 29 * full, 24 * full, 18 * full, 15, 9],
        14,
    ).rippled(4.0, random_waves(rng, 32))
    onwards = [(24.0, 4.0, -92.0), (40.0, -10.0, -74.0)]
    duodenum = tube(
        [(-24, -48, -25), (-40, -37, -20), (-54, -14, -34), (-55, 0, -74), (-28, 8, -92), *onwards],
        [10, 13, 12, 12, 12, 11, 10],
        6,
    ).rippled(2.0, random_waves(rng, 18))
    sway = float(rng.uniform(-6, 6))
    leftwards = [(84.0, -44.0, -52.0), (98.0, -6.0, -30.0), (100.0, 20.0, -80.0)]
    colon = tube(
        [
            (-88, 10, -90),
            (-92, -30, -66),
            (-48, -58 + sway, -74),
            (20, -60, -80 + sway),
            *leftwards,
        ],
        [17, 18, 16, 15, 16, 15, 14],
        6,
    ).rippled(5.0, random_waves(rng, 24))
    loops = [
        ellipsoid(
            as_point(rng.uniform((15, -45, -110), (80, 5, -62))),
            as_point(rng.uniform((11, 10, 9), (20, 15, 13))),
        )
        for _ in range(7)
    ]
    jejunum = loops[0]
    for loop in loops[1:]:
        jejunum = jejunum.fused(loop, 3)
    inside = cavity.grown(-3)
    return {
        "Stomach": stomach & inside,
        "Duodenum": duodenum & inside,
        "colon": colon & inside,
        "jejunum": jejunum.rippled(3.0, random_waves(rng, 16)) & inside,
    }


def bowel_layers(bowel: Mapping[str, Solid]) -> tuple[Layer, ...]:
    """Return walls and fluid, each part in a rim of fat, the foremost last."""
    return (
        Layer("bowel_wall", bowel["colon"], (("fat", 1.5),), (("stool", 2.5),)),
        Layer("bowel_wall", bowel["jejunum"], (("fat", 1.5),), (("fluid", 3.5),)),
        Layer("bowel_wall", bowel["Duodenum"], (("fat", 1.5),), (("fluid", 3.0),)),
        Layer("stomach_wall", bowel["Stomach"], (("fat", 2.0),), (("fluid", 4.5),)),
    )


def bowel_gas(
    rng: np.random.Generator, bowel: Mapping[str, Solid], *, up: int, amount: float = 1.0
) -> tuple[Layer, ...]:
    """Return the gas: levels and bubbles differ from day to day.

    Args:
        rng: The day.
        bowel: From `make_bowel`.
        up: Where gas rises to along y: -1 for a patient on the back, 1 for one on the front.
        amount: How much gas there is, relative to the plain patient.
    """
    duodenum, colon = bowel["Duodenum"].grown(-3.0), bowel["colon"].grown(-2.5)
    level = float(rng.uniform(-58, -38) if up < 0 else rng.uniform(-45, -30))
    level -= up * (amount - 1) * GAS_LEVEL_MM
    above = half_space((0, float(up), 0), up * level)
    bubbles = [
        ellipsoid(as_point(centre + rng.normal(0, 5, 3)), as_point(amount * rng.uniform(5, 12, 3)))
        for centre in np.array([(-42, -40, -20), (-55, -10, -40), (-52, 2, -72), (10, 6, -92)])
        if rng.uniform() < 0.75
    ]
    wind = [
        ellipsoid(as_point(centre + rng.normal(0, 8, 3)), as_point(amount * rng.uniform(8, 18, 3)))
        for centre in np.array([(-90, -25, -68), (-45, -62, -74), (20, -66, -80), (88, -40, -50)])
    ]
    return (
        *[Layer("gas", bubble & duodenum) for bubble in bubbles],
        *[Layer("gas", bubble & colon) for bubble in wind],
        Layer("gas", above & bowel["Stomach"].grown(-4.5)),
    )
