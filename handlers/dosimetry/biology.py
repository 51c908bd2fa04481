"""What a dose in n fractions is worth: BED, EQD2, and back, by the linear-quadratic model.

Knows no time factor, no incomplete repair, no recovery, and no departure from the model at large
doses per fraction, where it tells too much: above some 8 to 10 Gy per fraction the true effect is
smaller. Converts physical dose only, and never the axis of a histogram: EQD2 is not linear in dose.

Read first: Fowler 1989, Br J Radiol 62:679-694; Joiner and Bentzen, in Basic Clinical Radiobiology.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.dose_results import Array

REFERENCE_GY = 2.0
"""Dose per fraction to which EQD2 refers."""

LARGE_FRACTION_GY = 8.0
"""Above this dose per fraction the model tells too much effect."""


def bed(dose_gy: npt.ArrayLike, *, fractions: npt.ArrayLike, alpha_beta_gy: npt.ArrayLike) -> Array:
    """Return the biologically effective dose in Gy: D (1 + d / (alpha/beta)), d = D / n.

    Args:
        dose_gy: Physical dose of the whole course, of any shape.
        fractions: Number of equal fractions n.
        alpha_beta_gy: Of the tissue.

    Raises:
        ValueError: A dose is negative or not finite, or `fractions` or `alpha_beta_gy` is not
            above zero.
    """
    dose, number, ratio = _checked(dose_gy, fractions, alpha_beta_gy)
    return np.asarray(dose * (1.0 + dose / number / ratio))


def eqd2(
    dose_gy: npt.ArrayLike, *, fractions: npt.ArrayLike, alpha_beta_gy: npt.ArrayLike
) -> Array:
    """Return the dose in Gy that does the same in fractions of 2 Gy: D (d + a/b) / (2 + a/b).

    Arguments and errors as of `bed`.

    Example:
        >>> round(float(eqd2(40.0, fractions=5, alpha_beta_gy=3.0)), 1)
        88.0
    """
    dose, number, ratio = _checked(dose_gy, fractions, alpha_beta_gy)
    return np.asarray(dose * (dose / number + ratio) / (REFERENCE_GY + ratio))


def dose_of_eqd2(
    eqd2_gy: npt.ArrayLike, *, fractions: npt.ArrayLike, alpha_beta_gy: npt.ArrayLike
) -> Array:
    """Return the physical dose in Gy that has this EQD2 when given in so many fractions.

    The inverse of `eqd2`; errors as of `bed`.
    """
    worth, number, ratio = _checked(eqd2_gy, fractions, alpha_beta_gy)
    root = np.sqrt(ratio**2 + 4.0 * worth * (REFERENCE_GY + ratio) / number)
    return np.asarray(number * (root - ratio) / 2.0)


def _checked(
    dose_gy: npt.ArrayLike, fractions: npt.ArrayLike, alpha_beta_gy: npt.ArrayLike
) -> tuple[Array, Array, Array]:
    dose, number, ratio = (
        np.asarray(each, dtype=np.float64) for each in (dose_gy, fractions, alpha_beta_gy)
    )
    if not np.all(np.isfinite(dose)) or np.any(dose < 0):
        raise ValueError("a dose must be finite and not negative")
    for what, each in (("the number of fractions", number), ("alpha/beta", ratio)):
        if not np.all(np.isfinite(each)) or np.any(each <= 0):
            raise ValueError(f"{what} must be above zero")
    return dose, number, ratio


# --- alpha/beta -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlphaBeta:
    """An alpha/beta with the account of where it comes from.

    Attributes:
        tissue: What it is of.
        gy: The value.
        source: Who says so; where sources give a range, its lower end is taken, which gives the
            larger EQD2 wherever the dose per fraction is above 2 Gy.
        certainty: `verified`, `secondary copy` or `convention`.
        organs: TG-263 names that it holds for; side, number and margin may follow.
    """

    tissue: str
    gy: float
    source: str
    certainty: str
    organs: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """Source and certainty in words."""
        return f"{self.source}; {self.certainty}"


TUMOR = AlphaBeta("tumor", 10.0, "generic for tumor", "convention")
LATE = AlphaBeta("late effects", 3.0, "generic for late effects", "convention")
"""For targets, and for whatever no row below names."""

_REVIEWS = "reviews"

ALPHA_BETA: tuple[AlphaBeta, ...] = (
    AlphaBeta(
        "colon, rectum, late",
        3.0,
        f"{_REVIEWS}, 3 to 5",
        "secondary copy",
        ("Colon", "Cecum", "Bowel_Large", "Rectum"),
    ),
    AlphaBeta(
        "spinal cord",
        2.0,
        "HyTEC, Sahgal, Nieder",
        "verified",
        ("SpinalCord", "SpinalCanal", "ThecalSac"),
    ),
    AlphaBeta("liver", 2.0, "focal reaction on MR, 2 to 3", "verified", ("Liver",)),
    AlphaBeta(
        "duodenum, small bowel, stomach, late",
        3.0,
        "review of pancreatic NTCP, 3 to 4",
        "verified",
        ("Duodenum", "Bowel", "Bowel_Small", "Bowel_Bag", "Spc_Bowel", "SmallBowel",
         "Jejunum", "Ileum", "Stomach"),
    ),
    AlphaBeta("esophagus, late", 3.0, _REVIEWS, "secondary copy", ("Esophagus",)),
    AlphaBeta("kidney", 2.0, f"{_REVIEWS}, 2 to 2.5", "secondary copy", ("Kidney", "Kidneys")),
    AlphaBeta(
        "great vessels, heart, ribs, chest wall, lung",
        3.0,
        _REVIEWS,
        "secondary copy",
        ("GreatVes", "A_Aorta", "V_Venacava_I", "V_Venacava_S", "Heart", "Rib", "Ribs",
         "Chestwall", "Lung", "Lungs"),
    ),
    AlphaBeta("skin, late", 2.0, f"{_REVIEWS}, 2 to 3", "secondary copy", ("Skin",)),
)  # fmt: skip
"""Alpha/beta by organ. Bile ducts have no row: what was published of them was told as BED with 10,
a choice of the authors that would make the late effect look smaller."""

_FOLLOWS = re.compile(r"(?:\d{1,2})?(?:[_~^-].*)?$")
"""What may follow the name of an organ: a number, then side, margin or what was taken out of it."""


def alpha_beta_of(organ: str, *, is_target: bool = False) -> AlphaBeta:
    """Return the alpha/beta of an organ: the row that names it, else the generic one.

    Args:
        organ: TG-263 name, or the ROI name where none is known; case is ignored.
        is_target: A target has the generic one of tumors, however it is called.

    Example:
        >>> alpha_beta_of("Kidney_L").gy, alpha_beta_of("Gallbladder").certainty
        (2.0, 'convention')
    """
    if is_target:
        return TUMOR
    found = (row for row in ALPHA_BETA if is_organ(organ, row.organs))
    return next(found, LATE)


def is_organ(name: str, organs: Sequence[str]) -> bool:
    """Tell whether a name is one of these TG-263 names, with or without side, number or margin."""
    told = name.strip().casefold()
    return any(
        told.startswith(organ.casefold()) and _FOLLOWS.match(told[len(organ) :]) is not None
        for organ in organs
    )
