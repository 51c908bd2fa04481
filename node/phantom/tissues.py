"""How bright the tissues are on CT and MR, by the timing of the contrast agents.

CT in HU. T1 is a fat-suppressed gradient echo, T2 a single-shot spin echo, DWI b = 800 s/mm2, ADC
in 1e-6 mm2/s; MR signals are arbitrary units. The order of brightness follows general radiology,
the numbers are ours.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from node.phantom.variety import Variety


@dataclass(frozen=True, slots=True)
class Tissue:
    """Mean signals, and the relative strength of texture (standard deviation)."""

    hu: float
    t1: float
    t2: float
    dwi: float
    adc: float
    texture: float = 0.03


TISSUES: Mapping[str, Tissue] = {
    "air": Tissue(-1000, 2, 2, 1, 0, 0.0),
    "gas": Tissue(-960, 4, 4, 2, 0, 0.0),
    "lung": Tissue(-810, 40, 35, 6, 0, 0.25),
    "skin": Tissue(20, 150, 160, 25, 600),
    "fat": Tissue(-103, 75, 560, 14, 150, 0.10),
    "muscle": Tissue(62, 230, 115, 62, 1350, 0.08),
    "rib": Tissue(320, 70, 120, 12, 300, 0.15),
    "cortical": Tissue(480, 45, 50, 6, 200, 0.15),
    "marrow": Tissue(190, 190, 300, 45, 450, 0.12),
    "disc": Tissue(85, 140, 330, 60, 1500, 0.06),
    "csf": Tissue(18, 70, 950, 12, 3000),
    "cord": Tissue(42, 210, 340, 230, 950),
    "liver": Tissue(112, 430, 175, 95, 1300, 0.05),
    "spleen": Tissue(122, 440, 330, 330, 820, 0.04),
    "kidney": Tissue(188, 640, 390, 190, 1950, 0.04),
    "medulla": Tissue(150, 520, 470, 160, 2050, 0.06),
    "pancreas": Tissue(98, 380, 270, 120, 1500, 0.12),
    "gallbladder_wall": Tissue(80, 320, 240, 80, 1500),
    "bile": Tissue(8, 95, 980, 40, 3000, 0.02),
    "stomach_wall": Tissue(80, 400, 240, 110, 1400, 0.06),
    "bowel_wall": Tissue(82, 400, 250, 120, 1400, 0.06),
    "fluid": Tissue(14, 90, 900, 55, 2700, 0.06),
    "stool": Tissue(15, 260, 190, 40, 1500, 0.5),
    "heart": Tissue(130, 560, 90, 30, 1600, 0.05),
    "aorta": Tissue(158, 700, 22, 6, 300, 0.02),
    "artery": Tissue(152, 640, 28, 8, 300, 0.02),
    "vena_cava": Tissue(138, 650, 45, 8, 300, 0.04),
    "vein": Tissue(150, 690, 40, 8, 300, 0.02),
    "portal_vein": Tissue(158, 740, 34, 7, 300, 0.02),
    "node": Tissue(88, 330, 345, 420, 920, 0.06),
    "necrosis": Tissue(30, 130, 640, 130, 2200, 0.10),
    "cyst": Tissue(6, 60, 960, 30, 3000, 0.02),
    "small_duct": Tissue(112, 430, 800, 60, 2400, 0.05),
    "haemangioma": Tissue(112, 560, 560, 190, 1900, 0.04),
    "perfused": Tissue(130, 430, 175, 95, 1300, 0.05),
    "hazy": Tissue(-78, 110, 500, 25, 700, 0.16),
    "stranded": Tissue(-48, 160, 430, 45, 1200, 0.25),
    "calcium": Tissue(650, 40, 40, 4, 200, 0.0),
    # fibrous: as dense as the node, dark where that is bright
    "scar": Tissue(85, 215, 95, 55, 1050, 0.06),
}
"""Of the plain patient: portal venous CT and T1."""

CT_PHASES: Mapping[str, Mapping[str, float]] = {
    "portal": {},
    "native": {
        **dict.fromkeys(("aorta", "artery", "vena_cava", "vein", "portal_vein", "heart"), 42.0),
        **{"liver": 58.0, "perfused": 58.0, "haemangioma": 44.0, "spleen": 48.0, "kidney": 34.0},
        **{"medulla": 32.0, "pancreas": 42.0, "node": 40.0, "stomach_wall": 42.0},
        **{"bowel_wall": 42.0, "gallbladder_wall": 38.0, "muscle": 56.0},
    },
    "arterial": {
        **{"aorta": 310.0, "artery": 280.0, "vena_cava": 70.0, "vein": 72.0, "portal_vein": 92.0},
        **{"heart": 240.0, "liver": 72.0, "perfused": 94.0, "haemangioma": 60.0, "spleen": 128.0},
        **{"kidney": 205.0, "medulla": 95.0, "pancreas": 118.0, "node": 72.0},
        **{"stomach_wall": 92.0, "bowel_wall": 96.0},
    },
    "delayed": {
        **{"aorta": 122.0, "artery": 118.0, "vena_cava": 120.0, "vein": 118.0},
        **{"portal_vein": 120.0, "heart": 112.0, "liver": 98.0, "perfused": 100.0},
        **{"haemangioma": 112.0, "spleen": 100.0, "kidney": 150.0, "medulla": 160.0},
        **{"pancreas": 82.0, "node": 84.0},
    },
}
"""HU by phase, where they differ from the table."""

T1_PHASES: Mapping[str, Mapping[str, float]] = {
    "portal": {},
    "arterial": {
        **{"aorta": 900.0, "artery": 840.0, "vena_cava": 320.0, "vein": 310.0},
        **{"portal_vein": 420.0, "liver": 340.0, "perfused": 340.0, "spleen": 560.0},
        **{"kidney": 720.0, "medulla": 360.0, "pancreas": 520.0, "node": 290.0},
    },
    "hepatobiliary": {
        **{"liver": 640.0, "perfused": 640.0, "haemangioma": 300.0, "bile": 420.0},
        **{"aorta": 330.0, "artery": 320.0, "vena_cava": 330.0, "vein": 320.0},
        **{"portal_vein": 320.0, "spleen": 300.0, "kidney": 470.0, "medulla": 480.0},
        **{"node": 260.0, "cyst": 60.0},
    },
}
"""T1 signal by phase; after a hepatobiliary agent the vessels are darker than the liver."""

CHANNEL_JITTER = {"hu": 0.0, "t1": 0.12, "t2": 0.15, "dwi": 0.2, "adc": 0.08}
"""Relative spread of a tissue's MR signals between patients; HU spread by `HU_JITTER`."""

HU_JITTER = 6.0
SCAR_HU = -4.0
"""By how much the CT shows scar denser than the node, at every phase: next to nothing."""

FAT_SUPPRESSION = (0.6, 3.0)
"""From good to failed: the range of fat on T1 relative to the table."""

SEPTA: Mapping[str, tuple[str, float]] = {
    "fat": ("muscle", 0.40),
    "hazy": ("muscle", 0.50),
    "stranded": ("muscle", 0.60),
    "muscle": ("fat", 0.50),
    "pancreas": ("fat", 0.50),
    "marrow": ("fat", 0.35),
    "stool": ("gas", 0.25),
    "scar": ("fat", 0.35),
}
"""What thin sheets within a tissue are made of, and how much of it they hold."""


def tissues_of(seed: int, variety: Variety) -> dict[str, Tissue]:
    """Return how the tissues of one case look."""
    rng = np.random.default_rng([seed, 65])
    ct_phase, t1_phase = CT_PHASES[variety.ct_phase], T1_PHASES[variety.mr_phase]
    fat = float(rng.uniform(*FAT_SUPPRESSION))
    found = {}
    for name, plain in TISSUES.items():
        factors = {c: max(0.5, 1 + float(rng.normal(0, s))) for c, s in CHANNEL_JITTER.items()}
        hu = ct_phase.get(name, plain.hu) + float(rng.normal(0, HU_JITTER))
        found[name] = dataclasses.replace(
            plain,
            hu=plain.hu if name in ("air", "gas") else hu,
            t1=t1_phase.get(name, plain.t1) * factors["t1"],
            t2=plain.t2 * factors["t2"],
            dwi=plain.dwi * factors["dwi"],
            adc=min(plain.adc * factors["adc"], 3300.0),
            texture=1.5 * plain.texture,
        )
    found["fat"] = dataclasses.replace(found["fat"], t1=TISSUES["fat"].t1 * fat)
    found["fluid"] = dataclasses.replace(found["fluid"], hu=variety.oral_hu, texture=0.15)
    # what is the liver but for one modality must not differ from it in the other
    liver, perfused = found["liver"], ct_phase.get("perfused", TISSUES["perfused"].hu)
    shift = perfused - ct_phase.get("liver", TISSUES["liver"].hu)
    found["perfused"] = dataclasses.replace(liver, hu=liver.hu + shift)
    found["small_duct"] = dataclasses.replace(found["small_duct"], hu=liver.hu, t1=liver.t1)
    found["scar"] = dataclasses.replace(found["scar"], hu=found["node"].hu + SCAR_HU)
    found["haemangioma"] = dataclasses.replace(found["haemangioma"], hu=liver.hu)
    return found
