"""The phantom's patient: an upper abdomen with a metastatic node at the liver hilum.

Numbers only: solids in LPS mm about the hilum, in the frame of reference of the CT, and the order
in which they cover each other; stomach and bowel are in `bowel`. How tissues
look is told in `signals`; nothing here knows voxels.

Read first: figures of size are those of adults (portal vein 15 mm, bile duct 4 to
6 mm, aorta 20 mm; Stamm et al. for the portal vein), the rest is drawn to look right, not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from node.phantom.bowel import bowel_gas, bowel_layers, make_bowel
from node.phantom.detail import calcifications, fat_detail, liver_detail, stranding
from node.phantom.lymph_node import grown_together, make_node
from node.phantom.solids import (
    Array,
    Layer,
    Point,
    Solid,
    as_point,
    column,
    ellipsoid,
    half_space,
    random_waves,
    tube,
)
from node.phantom.variety import Variety

CAVITY = (127.0, 77.0)
"""Half axes of the space inside the muscular wall, at the mean build, mm."""


WALL_WAVES = ((0.06, 0.0, 0.01), (0.0, 0.08, 0.02), (0.05, 0.07, 0.0), (-0.1, 0.04, 0.03))
"""Uneven thickness of the abdominal wall, rad/mm."""


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """One patient.

    Attributes:
        organs: What a planner contours, by TG-263 name.
        layers: Tissues in the order of painting, without gas.
        trunk_layers: How many of these are of the trunk; what lies in its fat comes next.
        ct_gas: Gas in stomach and bowel on the day of the CT, and what else is seen only then.
        mr_gas: Likewise on the day of the MR.
        node: The metastatic node as it is.
        node_core: The node before the portal vein dents it.
        centre: Centre of the node, LPS mm.
        towards_vein: Unit vector from the node's centre to the portal vein.
    """

    organs: Mapping[str, Solid]
    layers: tuple[Layer, ...]
    trunk_layers: int
    ct_gas: tuple[Layer, ...]
    mr_gas: tuple[Layer, ...]
    node: Solid
    node_core: Solid
    centre: Point
    towards_vein: Point


def make_anatomy(
    seed: int,
    *,
    node_diameter_mm: float = 0.0,
    is_prone: bool = False,
    variety: Variety | None = None,
) -> Anatomy:
    """Return a patient, of the plain size and form.

    Args:
        seed: Chooses build, node and bowel content.
        node_diameter_mm: Mean diameter; 0 lets the seed choose 23 to 28 mm.
        is_prone: Gas in the CT rises to the back instead of the front.
        variety: What else is varied; None: nothing.
    """
    rng = np.random.default_rng([seed, 11])
    build = float(rng.uniform(0.96, 1.04))
    vessels = _vessels(rng)
    core, centre, to_vein = make_node(rng, vessels["portal_main"], node_diameter_mm)
    vessels.update(_arteries(centre, float(np.max(np.subtract(core.highest, centre)))))
    trunk = _trunk(build, variety.fat_mm if variety else 0.0)
    bowel = make_bowel(rng, trunk["cavity"])
    if variety:
        lobes = np.random.default_rng([seed, 67])
        core = grown_together(lobes, core, centre, to_vein, bowel["Duodenum"], variety)
    node = _node_beside(core, vessels, bowel, is_plain=variety is None)
    organs = _organs(rng, trunk, bowel, centre)
    trunk_layers = _trunk_layers(trunk)
    layers = (
        *trunk_layers,
        *(
            stranding(np.random.default_rng([seed, 72]), centre)
            if variety and variety.is_stranded
            else ()
        ),
        *_organ_layers(organs, bowel, rng, np.random.default_rng([seed, 68]) if variety else None),
        Layer("lung", trunk["lung"], around=(("muscle", 2.5),)),
        Layer("heart", organs["heart"]),
        *_vessel_layers(vessels),
        Layer("node", node, within=_necrosis(node_diameter_mm, variety)),
        *(calcifications(np.random.default_rng([seed, 69]), vessels["A_Aorta"]) if variety else ()),
    )
    return Anatomy(
        organs=_contoured(organs, bowel, trunk, vessels),
        layers=layers,
        trunk_layers=len(trunk_layers),
        ct_gas=bowel_gas(
            np.random.default_rng([seed, 12]),
            bowel,
            up=1 if is_prone else -1,
            amount=variety.ct_gas if variety else 1.0,
        ),
        mr_gas=bowel_gas(
            np.random.default_rng([seed, 13]),
            bowel,
            up=-1,
            amount=variety.mr_gas if variety else 1.0,
        ),
        node=node,
        node_core=core,
        centre=centre,
        towards_vein=to_vein,
    )


def _node_beside(
    core: Solid, vessels: Mapping[str, Solid], bowel: Mapping[str, Solid], *, is_plain: bool
) -> Solid:
    """Return the node as it is: dented by what it touches."""
    node = core - vessels["V_Portal"]
    if is_plain:
        return node
    for name in ("A_Hepatic", "A_Aorta", "V_Venacava_I"):
        node = node - vessels[name].grown(0.4)
    return node - bowel["Duodenum"]


def _necrosis(diameter_mm: float, variety: Variety | None) -> tuple[tuple[str, float], ...]:
    if variety is None or not variety.necrosis:
        return ()
    return (("necrosis", variety.necrosis * diameter_mm / 2),)


def _trunk(build: float, fat_mm: float) -> dict[str, Solid]:
    a, b = CAVITY[0] * build, CAVITY[1] * build
    cavity = column((0, 0), (a, b))
    parts = {
        "body": column((0, 0), (a + 28 + fat_mm, b + 28 + fat_mm))
        & half_space((0, -1, 0), -(b + 19 + 0.3 * fat_mm)),
        "wall": column((0, 1), (a + 12, b + 13)).rippled(5.0, WALL_WAVES),
        "cavity": cavity,
        "canal": column((0, b - 1), (8.5, 8.0)),
        "cord": column((0, b - 1), (5.0, 4.0)),
        "vertebra": column((0, 50), (23, 18)),
        "arch": column((0, b - 1), (16, 13)) | ellipsoid((0, b + 10, 0), (4, 10, 400)),
    }

    def above_diaphragm(x: Array, y: Array, z: Array) -> Array:
        q2 = (x / np.float32(a)) ** 2 + (y / np.float32(b)) ** 2
        # a slope of up to 2: the distance is nearer than the height
        return np.asarray((np.float32(86) - 66 * q2 - z) * np.float32(0.7), dtype=np.float32)

    above = Solid(above_diaphragm, (-a, -b, 5.0), (a, b, cavity.highest[2]))
    parts["lung"] = cavity.grown(-1) & above - column((0, 48), (38, 40))
    parts["ribs"] = _ribs(a + 7, b + 7)
    return parts


def _ribs(a: float, b: float, pitch_mm: float = 27.0) -> Solid:
    """Return ribs that descend from the back to the front inside the wall."""
    wall = column((0, 0), (a, b))

    def distance(x: Array, y: Array, z: Array) -> Array:
        height = (z - np.float32(0.45) * y + pitch_mm / 2) % np.float32(pitch_mm) - pitch_mm / 2
        radial = wall.distance(x, y, z)
        return np.asarray(
            np.sqrt(radial * radial + np.float32(0.55) * height * height) - np.float32(4.0),
            dtype=np.float32,
        )

    cage = Solid(distance, (-a - 5, -b - 5, -90.0), (a + 5, b + 5, 400.0))
    # the costal margin rises towards the front
    return cage & half_space((0, 0.573, 0.819), -42.0)


def _trunk_layers(trunk: Mapping[str, Solid]) -> list[Layer]:
    back = trunk["body"].grown(-2)
    muscles = [Layer("muscle", column((s * 36, 78), (25, 17)) & back) for s in (-1, 1)]
    psoas = [
        Layer("muscle", tube([(s * 27, 46, 0), (s * 33, 50, -50), (s * 45, 48, -160)], [3, 13, 20]))
        for s in (-1, 1)
    ]
    discs = [
        Layer("disc", trunk["vertebra"].grown(-0.5) & _slab(low, low + 8.0))
        for low in range(-155, 200, 34)
    ]
    return [
        Layer("skin", trunk["body"], within=(("fat", 2.0),)),
        Layer("muscle", trunk["wall"]),
        Layer("fat", trunk["cavity"]),
        Layer("rib", trunk["ribs"]),
        *psoas,
        *muscles,
        Layer("muscle", tube([(12, 26, -60), (14, 22, 60), (0, 5, 95)], [5, 8, 6])),
        Layer("muscle", tube([(-12, 28, -50), (-12, 24, 60), (0, 5, 95)], [4, 7, 6])),
        Layer("cortical", trunk["vertebra"], within=(("marrow", 2.5),)),
        *discs,
        Layer("cortical", trunk["arch"]),
        Layer("csf", trunk["canal"]),
        Layer("cord", trunk["cord"]),
    ]


def _slab(low: float, high: float) -> Solid:
    return half_space((0, 0, 1), low) & half_space((0, 0, -1), -high)


def _vessels(rng: np.random.Generator) -> dict[str, Solid]:
    width = float(rng.uniform(7.0, 8.2))
    meeting, hilum = (3.0, -7.0, -36.0), (-36.0, -12.0, 13.0)
    main = tube([meeting, (-19.0, -10.0, -8.0), hilum], [width, width, width - 0.7], 4)
    right = tube([hilum, (-62, -4, 20), (-92, 8, 14)], [width - 1.5, 5, 2.5], 4)
    left = tube([hilum, (-24, -34, 30), (6, -46, 36)], [width - 2, 4.5, 2.5], 4)
    splenic = tube([meeting, (40, 4, -22), (84, 26, 2)], [5.5, 4.5, 3.5], 4)
    mesenteric = tube([(6, -14, -130), (4, -13, -80), meeting], [5.5, 6, width - 1], 4)
    portal = main.fused(right, 4).fused(left, 4)
    hepatic_veins = (
        tube([(-22, 8, 66), (-70, -12, 45), (-100, -25, 25)], [6, 4, 2]),
        tube([(-20, 4, 70), (-38, -40, 48)], [5, 2.5]),
        tube([(-18, 6, 70), (8, -36, 52)], [5, 2.5]),
    )
    cava = tube([(-24, 22, -160), (-23, 19, -30), (-22, 12, 60), (-14, 2, 160)], [10, 11, 12, 12])
    duct = [(-46, -25, 23), (-38, -23, 6), (-33, -17, -18), (-31, -3, -46), (-41, 2, -62)]
    return {
        "portal_main": main,
        "V_Portal": portal,
        "splenic": splenic.fused(mesenteric, 4),
        "hepatic_veins": hepatic_veins[0] | hepatic_veins[1] | hepatic_veins[2],
        "V_Venacava_I": cava,
        "A_Aorta": tube([(8, 20, -160), (11, 19, 0), (9, 24, 80), (8, 26, 160)], [8.5, 10, 11, 11]),
        "BileDuct_Common": tube([as_point(p) for p in duct], float(rng.uniform(2.6, 3.4)), 2),
    }


def _arteries(centre: Point, reach: float) -> dict[str, Solid]:
    """Return the arteries; the common hepatic artery winds round the node from below."""
    c = np.array(centre)
    round_node = [
        as_point(c + np.array(d) / np.linalg.norm(d) * (reach + 2.6))
        for d in ((0.45, 0.35, -0.9), (0.05, -0.1, -1.0), (-0.4, -0.55, -0.75), (-0.7, -0.75, 0.1))
    ]
    celiac = [(10.0, 12.0, -16.0), (9.0, 0.0, -16.0)]
    hepatic = [(9.0, 0.0, -16.0), *round_node, (-38.0, -27.0, 22.0)]
    splenic = [(9.0, 0.0, -16.0), (35.0, 8.0, -8.0), (62.0, 14.0, -2.0), (86.0, 28.0, 10.0)]
    superior = [(9.0, 12.0, -28.0), (9.0, -1.0, -44.0), (10.0, -6.0, -130.0)]
    return {
        "A_Hepatic": tube([as_point(p) for p in hepatic], [3.2, 3.0, 2.8, 2.7, 2.5, 2.0], 1),
        "arteries": tube([as_point(p) for p in celiac], 4.0)
        | tube([as_point(p) for p in splenic], [3.0, 2.8, 2.6, 2.4])
        | tube([as_point(p) for p in superior], 4.0),
    }


def _vessel_layers(vessels: Mapping[str, Solid]) -> list[Layer]:
    return [
        Layer("vein", vessels["hepatic_veins"]),
        Layer("vena_cava", vessels["V_Venacava_I"]),
        Layer("aorta", vessels["A_Aorta"]),
        Layer("artery", vessels["arteries"]),
        Layer("vein", vessels["splenic"]),
        Layer("artery", vessels["A_Hepatic"]),
        Layer("bile", vessels["BileDuct_Common"]),
        Layer("portal_vein", vessels["V_Portal"]),
    ]


def _organs(
    rng: np.random.Generator, trunk: Mapping[str, Solid], bowel: Mapping[str, Solid], node: Point
) -> dict[str, Solid]:
    large = float(rng.uniform(0.95, 1.05))
    kidney_l, kidney_r = (
        (ellipsoid((s * 61, 37, z), (27, 23, 52), -20 * s) - _sinus(s, z)).rippled(
            1.5, random_waves(rng, 35)
        )
        for s, z in ((1, rng.uniform(-36, -20)), (-1, rng.uniform(-48, -32)))
    )
    right = ellipsoid((-72, -2, 14), (64 * large, 76, 78 * large), 8)
    length = float(rng.uniform(54, 74))
    left = ellipsoid((-8, -46, 30), (length, 27, 36 * large), float(rng.uniform(-16, -4)))
    # fat of the hepatoduodenal ligament lies about the node and the vessels
    cleft = ellipsoid((-14, -14, -6), (36, 25, 30)).fused(ellipsoid(node, (21, 20, 21)), 6)
    cleft = cleft.fused(ellipsoid((4, 12, 10), (36, 26, 70)), 8)
    liver = right.fused(left, 18).rippled(5.0, random_waves(rng, 70)) & trunk["cavity"].grown(-2)
    size = rng.uniform(0.85, 1.1)
    spleen = ellipsoid((94, 28, 26), (25 * size, 38 * size, 46 * size), 20).rippled(
        3.0, random_waves(rng, 50)
    )
    pancreas = tube(
        [(-36, -6, -56), (-26, -12, -44), (3, -23, -38), (34, -14, -24), (78, 16, 2)],
        [13, 14, 8.5, 10, 8],
        6,
    ).rippled(2.5, random_waves(rng, 14))
    return {
        "Liver": liver - cleft,
        "Kidney_L": kidney_l,
        "Kidney_R": kidney_r,
        "Spleen": spleen & trunk["cavity"].grown(-2),
        "Pancreas": pancreas,
        "Stomach": bowel["Stomach"],
        "Duodenum": bowel["Duodenum"],
        "gallbladder": ellipsoid((-62, -50, -24), (14, 20, 27), 25),
        "heart": ellipsoid((18, -34, 122), (54, 40, 36)) & trunk["cavity"].grown(-4),
    }


def _contoured(
    organs: Mapping[str, Solid],
    bowel: Mapping[str, Solid],
    trunk: Mapping[str, Solid],
    vessels: Mapping[str, Solid],
) -> dict[str, Solid]:
    """Return what a planner draws, organs without what is painted over them."""
    lung = trunk["lung"]
    kidneys = (organs["Kidney_L"].grown(3), organs["Kidney_R"].grown(3))
    stomach, duodenum = bowel["Stomach"].grown(2), bowel["Duodenum"].grown(1.5)
    liver = organs["Liver"] - lung.grown(2.5) - kidneys[1] - organs["gallbladder"]
    drawn_vessels = ("V_Portal", "A_Hepatic", "A_Aorta", "V_Venacava_I", "BileDuct_Common")
    return {
        "Liver": liver - stomach - duodenum - bowel["colon"].grown(1.5),
        "Duodenum": bowel["Duodenum"] - stomach,
        "Stomach": bowel["Stomach"],
        "Kidney_L": organs["Kidney_L"],
        "Kidney_R": organs["Kidney_R"],
        "Spleen": organs["Spleen"] - lung.grown(2.5) - kidneys[0] - stomach,
        "Pancreas": organs["Pancreas"] - duodenum - stomach,
        "SpinalCanal": trunk["canal"],
        **{name: vessels[name] for name in drawn_vessels},
        "External": trunk["body"],
    }


def _sinus(side: int, z: float) -> Solid:
    """Return the hollow of a kidney: fat and vessels enter from the middle."""
    return ellipsoid((side * 45, 27, z), (15, 8, 19), 25 * side)


def _organ_layers(
    organs: Mapping[str, Solid],
    bowel: Mapping[str, Solid],
    rng: np.random.Generator,
    detail: np.random.Generator | None,
) -> list[Layer]:
    strands = [
        Layer("vein", tube([as_point(p), as_point(p + rng.normal(0, 14, 3))], [1.6, 1.0]))
        for p in rng.uniform((-20, -62, -80), (90, 0, -50), (10, 3))
    ]
    adrenals = [
        Layer("pancreas", tube([(s * 34, 26, 4), (s * 36, 36, 22)], [2.5, 3.5])) for s in (-1, 1)
    ]
    return [
        *strands,
        *(fat_detail(detail) if detail else ()),
        *adrenals,
        Layer("pancreas", organs["Pancreas"]),
        Layer("liver", organs["Liver"]),
        *(liver_detail(detail, organs["Liver"]) if detail else ()),
        Layer("spleen", organs["Spleen"]),
        Layer("kidney", organs["Kidney_L"], (("fat", 3.0),), (("medulla", 7.0),)),
        Layer("kidney", organs["Kidney_R"], (("fat", 3.0),), (("medulla", 7.0),)),
        Layer("gallbladder_wall", organs["gallbladder"], within=(("bile", 1.5),)),
        *bowel_layers(bowel),
    ]
