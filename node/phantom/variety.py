"""What makes one case of the commissioning kit differ from the next: drawn from the seed.

Numbers only. `anatomy`, `motion`, `tissues` and the other modules act on them; a phantom without a
`Variety` is the plain patient of the demonstration. Ranges are those of the issue that asked for
the kit (breathing 4 to 18 mm) or of ordinary abdominal protocols (slices of 2 to 6 mm).
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Vector = tuple[float, float, float]
CtPhase = Literal["native", "arterial", "portal", "delayed"]
MrPhase = Literal["arterial", "portal", "hepatobiliary"]
Flaw = Literal["none", "blurred", "noise", "misses"]
T = TypeVar("T")

LARGE_BREATHING_MM = 10.0
THICK_SLICE_MM = 4.0
SHORT_FIELD = 0.75
"""Share of the usual slab below which a field of view counts as cut."""


@dataclass(frozen=True, slots=True)
class Variety:
    """One case.

    Attributes:
        is_hard: Drawn from the hard ranges.
        body_scale: Size of the patient relative to the plain one.
        fat_mm: Fat under the skin beyond that of the plain patient.
        shape_mm: Amplitude of the waves that make the patient's shape its own.
        lobes: Number of nodes that have grown together.
        necrosis: Depth of the dead core relative to the node's radius; 0: none.
        touches_duodenum: One lobe grows up to the duodenum.
        is_stranded: The fat about the node is hazy, as after an operation or pancreatitis.
        ct_phase: Timing of the iodine; `mr_phase` of the gadolinium.
        oral_hu: HU of what stomach and bowel hold in the CT.
        ct_slice_mm: Distance of the CT's slices.
        mr_slice_mm: Distance of the slices of T1, T2 and of DWI with ADC.
        mr_field: Share of the usual extent that the MR covers along x, y and z.
        mr_offset_mm: Where the MR's slab lies beyond its usual centre.
        stomach_mm: Fullness of the stomach in the MR against the CT; negative: emptier.
        day_mm: Amplitude of smooth changes between the days.
        t2_shift_mm: Change of the breath hold of T2 against T1; `dwi_shift_mm` likewise.
        epi_mm: Largest distortion of DWI and ADC along the phase encoding.
        bias: Strength of the coil profile.
        ghost: Share of the signal that motion repeats along the phase encoding.
        blur_mm: Standard deviation of the blur by motion in the MR.
        ct_gas, mr_gas: Amount of gas relative to the plain patient.
        flaw: What makes the MR useless, or `none`.
    """

    is_hard: bool
    body_scale: float
    fat_mm: float
    shape_mm: float
    lobes: int
    necrosis: float
    touches_duodenum: bool
    is_stranded: bool
    ct_phase: CtPhase
    mr_phase: MrPhase
    oral_hu: float
    ct_slice_mm: float
    mr_slice_mm: Vector
    mr_field: Vector
    mr_offset_mm: Vector
    stomach_mm: float
    day_mm: float
    t2_shift_mm: Vector
    dwi_shift_mm: Vector
    epi_mm: float
    bias: float
    ghost: float
    blur_mm: float
    ct_gas: float
    mr_gas: float
    flaw: Flaw = "none"

    @property
    def is_mr_useful(self) -> bool:
        """Whether the MR can tell anything about the target."""
        return self.flaw == "none"

    def features(self, breathing_mm: float, mr_plane: str) -> list[str]:
        """Return in words what is uncommon about the case."""
        found = {
            "conglomerate node": self.lobes > 1,
            "necrotic node": self.necrosis > 0,
            "node touches duodenum": self.touches_duodenum,
            "stranded fat about the node": self.is_stranded,
            "CT without portal venous contrast": self.ct_phase != "portal",
            "MR of another contrast phase": self.mr_phase != "portal",
            "oral contrast or food in the CT": self.oral_hu > 50,
            "thick CT slices": self.ct_slice_mm >= THICK_SLICE_MM,
            "thick T1 slices": self.mr_slice_mm[0] >= THICK_SLICE_MM,
            "cut field of view of the MR": min(self.mr_field) < SHORT_FIELD,
            "large breathing": abs(breathing_mm) >= LARGE_BREATHING_MM,
            "oblique or turned MR slices": mr_plane != "axial",
            "stomach fuller in the MR": self.stomach_mm > 4,
            "stomach emptier in the MR": self.stomach_mm < -4,
            f"useless MR: {self.flaw}": not self.is_mr_useful,
        }
        return [feature for feature, is_there in found.items() if is_there]


def draw_variety(seed: int, *, is_hard: bool) -> Variety:
    """Return the case that a seed stands for."""
    rng = np.random.default_rng([seed, 61, int(is_hard)])
    flaws: tuple[Flaw, ...] = ("blurred", "noise", "misses")
    flaw: Flaw = flaws[int(rng.integers(3))]
    is_useful = not is_hard or rng.uniform() > 0.25
    lowest = (0.58, 0.58, 0.7) if is_hard else (0.82, 0.82, 0.82)
    return Variety(
        is_hard=is_hard,
        body_scale=_of(rng, 0.91, 1.09),
        fat_mm=_of(rng, -6.0, 26.0),
        shape_mm=_of(rng, 4.0, 9.0),
        lobes=_choice(rng, (1, 2, 3, 4), (0.3, 0.25, 0.25, 0.2) if is_hard else (0.7, 0.2, 0.1, 0)),
        necrosis=_of(rng, 0.3, 0.5) * bool(rng.uniform() < (0.5 if is_hard else 0.2)),
        touches_duodenum=bool(rng.uniform() < (0.5 if is_hard else 0.15)),
        ct_phase=_choice(
            rng,
            ("native", "arterial", "portal", "delayed"),
            (0.25, 0.3, 0.25, 0.2) if is_hard else (0.08, 0.2, 0.57, 0.15),
        ),
        mr_phase=_choice(rng, ("arterial", "portal", "hepatobiliary"), (0.2, 0.65, 0.15)),
        oral_hu=_choice(rng, (14.0, 40.0, 75.0, 230.0), (0.5, 0.2, 0.15, 0.15)),
        ct_slice_mm=_choice(
            rng, (2.0, 2.5, 3.0, 5.0), (0.1, 0.3, 0.3, 0.3) if is_hard else (0.2, 0.5, 0.3, 0.0)
        ),
        mr_slice_mm=(
            _choice(
                rng, (2.5, 3.0, 4.0, 5.0), (0.1, 0.3, 0.3, 0.3) if is_hard else (0.4, 0.5, 0.1, 0)
            ),
            _choice(rng, (4.0, 5.0, 6.0), (0.2, 0.4, 0.4) if is_hard else (0.5, 0.4, 0.1)),
            _choice(rng, (4.0, 5.0, 6.0), (0.1, 0.4, 0.5) if is_hard else (0.4, 0.5, 0.1)),
        ),
        mr_field=_vector(rng.uniform(lowest, 1.0, 3)),
        mr_offset_mm=_vector(rng.uniform(-1, 1, 3) * (14.0, 10.0, 12.0)),
        stomach_mm=_of(rng, -8.0, 8.0),
        day_mm=_of(rng, 1.0, 2.2) if is_hard else _of(rng, 0.3, 1.2),
        t2_shift_mm=_breath_hold(rng, 4.5 if is_hard else 3.0),
        dwi_shift_mm=_breath_hold(rng, 4.5 if is_hard else 3.0),
        epi_mm=_of(rng, 4.0, 9.0) if is_hard else _of(rng, 2.0, 5.0),
        bias=_of(rng, 0.3, 0.9) if is_hard else _of(rng, 0.2, 0.5),
        ghost=_of(rng, 0.04, 0.10) if is_hard else _of(rng, 0.01, 0.05),
        blur_mm=_of(rng, 0.7, 1.6) if is_hard else _of(rng, 0.3, 0.9),
        ct_gas=_of(rng, 0.5, 1.5),
        mr_gas=_of(rng, 0.5, 1.5),
        flaw="none" if is_useful else flaw,
        is_stranded=bool(rng.uniform() < (0.6 if is_hard else 0.3)),
    )


def _of(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 3)


def _choice(rng: np.random.Generator, values: tuple[T, ...], shares: tuple[float, ...]) -> T:
    return values[int(rng.choice(len(values), p=shares))]


def _vector(values: object) -> Vector:
    x, y, z = (round(float(v), 3) for v in np.asarray(values))
    return x, y, z


def _breath_hold(rng: np.random.Generator, largest_mm: float) -> Vector:
    """Return a change of the breath hold, mostly along the body, at least 1 mm."""
    along = rng.uniform(1.0, largest_mm) * rng.choice((-1, 1))
    return _vector((rng.normal(0, 0.2), along * rng.uniform(0.0, 0.3), along))
