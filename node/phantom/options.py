"""What a phantom can be asked for, and the sizes of its grids.

Holds choices only; the anatomy is in `anatomy`, the DICOM in `objects` and `radiotherapy`.
"""

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import numpy as np

from node.phantom.variety import Variety, draw_variety

Size = Literal["tiny", "small", "full"]
PatientPosition = Literal["HFS", "HFP", "FFS", "FFP"]
MrPlane = Literal["axial", "sagittal", "coronal", "oblique"]
HiddenBy = Literal["nothing", "gas", "scar"]
Vector = tuple[float, float, float]

MR_CONTRASTS = ("T1", "T2", "DWI", "ADC")
"""The MR series that can be made."""


@dataclass(frozen=True, slots=True)
class PhantomOptions:
    """Everything a phantom depends on: the same options give the same bytes.

    Attributes:
        seed: The patient: anatomy varies a little, as do texture and noise.
        size: `tiny` for unit tests, `small` for a demonstration, `full` for a load.
        patient_position: Of the CT; its rows and columns turn with it, the patient does not.
        mr_plane: Plane of the MR slices.
        mr_rotation_deg: Angles of the truth `ct_from_mr`, about x, y and z of the CT's frame.
        mr_translation_mm: Translation of `ct_from_mr`.
        shares_frame_of_reference: The MR claims the CT's frame of reference UID; its pose stays.
        contrasts: The MR series, from `MR_CONTRASTS`.
        with_dose: Whether there are an RT Plan and an RT Dose.
        node_diameter_mm: Mean diameter of the metastatic node; 0 lets the seed choose 23 to 28 mm.
        drawn_dsc: Dice coefficient of the drawn target with the node, nothing hidden.
        breathing_mm: How far the front of the abdomen lies lower in the MR; the spine stays. Then
            the truth `ct_from_mr` holds near the spine only.
        noise: Factor on the noise of all images.
        prescription_gy: Prescribed dose, with `fractions`.
        ct_date: Of CT, structure set, plan and dose, YYYYMMDD; `mr_date` likewise.
        variety: What else is varied, as in a case of the commissioning kit; None: nothing. With it
            `breathing_mm` is the descent of the liver's dome.
        hidden_by: What hides a part of the node in the CT, so that it was drawn without that part:
            gas of a loop of bowel that lies elsewhere in the MR, or scar as dense as the node.
        prior: Whether there is an earlier course beside it: CT, structure set, plan and dose.
        dose_by_beam: Whether the dose comes beam by beam instead of as that of the plan.
        second_plan: Whether there is a second plan, with a dose, on the same structure set.
    """

    seed: int = 1
    size: Size = "small"
    patient_position: PatientPosition = "HFS"
    mr_plane: MrPlane = "axial"
    mr_rotation_deg: Vector = (4.0, -3.0, 5.0)
    mr_translation_mm: Vector = (18.0, -12.0, 25.0)
    shares_frame_of_reference: bool = False
    contrasts: tuple[str, ...] = ("T1", "T2", "ADC")
    with_dose: bool = True
    node_diameter_mm: float = 0.0
    drawn_dsc: float = 0.785
    breathing_mm: float = 0.0
    noise: float = 1.0
    prescription_gy: float = 40.0
    fractions: int = 5
    ct_date: str = "20250311"
    mr_date: str = "20250304"
    variety: Variety | None = None
    hidden_by: HiddenBy = field(default="nothing", repr=False)
    prior: bool = field(default=False, repr=False)
    dose_by_beam: bool = field(default=False, repr=False)
    second_plan: bool = field(default=False, repr=False)

    @classmethod
    def for_seed(
        cls, seed: int, *, hard: bool = False, small: bool = False, hidden_by: HiddenBy = "nothing"
    ) -> Self:
        """Return the case of the commissioning kit that a seed stands for.

        Args:
            seed: Which case.
            hard: Draw from the hard ranges; one case in four then has a useless MR.
            small: The small grids instead of those of full size.
            hidden_by: What hides a part of the node in the CT.
        """
        rng = np.random.default_rng([seed, 71, int(hard)])
        variety = draw_variety(seed, is_hard=hard)
        breathing = rng.uniform(9.0, 18.0) if hard else rng.uniform(4.0, 11.0)
        turn = (3.0, 3.0, 4.0) if hard else (1.8, 1.8, 2.4)
        planes: tuple[MrPlane, ...] = ("axial", "oblique", "coronal")
        return cls(
            seed=seed,
            size="small" if small else "full",
            mr_plane=planes[int(rng.choice(3, p=(0.5, 0.3, 0.2) if hard else (0.8, 0.2, 0.0)))],
            mr_rotation_deg=_rounded(np.clip(rng.normal(0, turn), -8, 8)),
            mr_translation_mm=_rounded(rng.uniform((-30, -30, -60), (30, 30, 60))),
            contrasts=MR_CONTRASTS,
            node_diameter_mm=round(float(rng.uniform(15.0, 29.0)), 1),
            drawn_dsc=round(float(rng.uniform(0.68, 0.8) if hard else rng.uniform(0.74, 0.84)), 3),
            breathing_mm=round(float(breathing * rng.choice((-1, 1), p=(0.3, 0.7))), 2),
            noise=round(float(rng.uniform(0.9, 2.0) if hard else rng.uniform(0.7, 1.4)), 2),
            variety=variety,
            hidden_by=hidden_by,
        )

    @property
    def features(self) -> list[str]:
        """What is uncommon about the case, in words."""
        varied = self.variety.features(self.breathing_mm, self.mr_plane) if self.variety else []
        hidden = [] if self.hidden_by == "nothing" else [f"node hidden by {self.hidden_by}"]
        return varied + hidden

    @property
    def key(self) -> str:
        """The text from which UIDs derive; where nothing is hidden that of before this option.

        Further plans change nothing of what stands beside them.
        """
        return repr(self) if self.hidden_by == "nothing" else f"{self!r} {self.hidden_by}"

    @property
    def patient_id(self) -> str:
        """The made-up identifier of the patient."""
        hidden = "" if self.hidden_by == "nothing" else f"{self.hidden_by.upper()}-"
        if self.variety is None:
            return f"HILUM-PHANTOM-{hidden}{self.seed}"
        # a case of the kit is another patient than the plain one, at every size and difficulty
        kind = "HARD" if self.variety.is_hard else "KIT"
        return f"HILUM-{kind}-{self.size.upper()}-{hidden}{self.seed}"

    def __post_init__(self) -> None:
        unknown = [name for name in self.contrasts if name not in MR_CONTRASTS]
        if unknown or len(set(self.contrasts)) != len(self.contrasts):
            raise ValueError(f"contrasts must be different ones of {MR_CONTRASTS}")
        for choice, choices in (
            (self.size, CT_GRIDS),
            (self.patient_position, CT_AXES),
            (self.mr_plane, MR_AXES),
            (self.hidden_by, get_args(HiddenBy)),
        ):
            if choice not in choices:
                raise ValueError(f"{choice!r} is none of {', '.join(choices)}")
        if self.fractions < 1 or self.prescription_gy <= 0 or self.noise < 0:
            raise ValueError("fractions and prescription must be positive, noise not negative")
        if not 0.6 <= self.drawn_dsc <= 0.9:
            raise ValueError("drawn_dsc must lie between 0.6 and 0.9")
        if self.node_diameter_mm and not 8.0 <= self.node_diameter_mm <= 32.0:
            raise ValueError("node_diameter_mm must lie between 8 and 32, or be 0")
        if not self.with_dose and (self.prior or self.dose_by_beam or self.second_plan):
            raise ValueError("an earlier course, a second plan and doses of beams need with_dose")
        if self.variety and not self.node_diameter_mm:
            raise ValueError("node_diameter_mm must be told where there is a variety")


@dataclass(frozen=True, slots=True)
class GridSize:
    """Numbers of slices, rows and columns, and their spacing in mm in the same order."""

    shape: tuple[int, int, int]
    spacing_mm: Vector


@dataclass(frozen=True, slots=True)
class MrGridSize:
    """Spacing of MR slices and of the pixels in them, and the volume they cover, in mm."""

    slice_mm: float
    pixel_mm: float
    extent_mm: Vector


CT_GRIDS: dict[str, GridSize] = {
    "tiny": GridSize((28, 56, 80), (4.0, 4.0, 4.0)),
    "small": GridSize((60, 128, 160), (3.0, 2.5, 2.5)),
    "full": GridSize((120, 512, 512), (2.5, 0.9, 0.9)),
}

CT_AXES: dict[str, tuple[Vector, Vector]] = {
    "HFS": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "HFP": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "FFS": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "FFP": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
}
"""Directions of a row and of a column when the picture is seen from the foot of the table."""

MR_AXES: dict[str, tuple[Vector, Vector]] = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    # turned by 20 degrees about x: a slab along the portal vein
    "oblique": ((1.0, 0.0, 0.0), (0.0, 0.9396926207859084, 0.3420201433256687)),
}

MR_GRIDS: dict[str, dict[str, MrGridSize]] = {
    "tiny": {
        "T1": MrGridSize(4.0, 3.5, (300.0, 210.0, 108.0)),
        "T2": MrGridSize(4.0, 3.5, (300.0, 210.0, 108.0)),
        "DWI": MrGridSize(4.0, 4.0, (300.0, 210.0, 108.0)),
        "ADC": MrGridSize(4.0, 4.0, (300.0, 210.0, 108.0)),
    },
    "small": {
        "T1": MrGridSize(3.0, 1.8, (336.0, 240.0, 150.0)),
        "T2": MrGridSize(4.0, 1.6, (336.0, 240.0, 152.0)),
        "DWI": MrGridSize(4.0, 2.5, (336.0, 240.0, 152.0)),
        "ADC": MrGridSize(4.0, 2.5, (336.0, 240.0, 152.0)),
    },
    "full": {
        "T1": MrGridSize(3.0, 1.2, (380.0, 290.0, 216.0)),
        "T2": MrGridSize(4.0, 1.0, (380.0, 290.0, 216.0)),
        "DWI": MrGridSize(4.0, 2.0, (380.0, 290.0, 216.0)),
        "ADC": MrGridSize(4.0, 2.0, (380.0, 290.0, 216.0)),
    },
}
"""Extents along x, y and z of the MR's frame; sagittal and coronal slices cover the same volume."""


def _rounded(values: object) -> Vector:
    x, y, z = (round(float(v), 2) for v in np.asarray(values))
    return x, y, z
