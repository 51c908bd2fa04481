"""What a dose did to one structure, in named figures; of targets also their indices.

A figure is absent where it would not be true: of a structure that the dose covers in part only
those remain that bound the truth from below, and none that needs a prescription where nobody tells
one. Why is said in sentences.

Read first: ICRU Report 83 (2010), chapter 3; ICRU Report 91 (2017), chapter 6.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.dose_results import Dvh
from handlers.dosimetry.indices import (
    ROUNDING,
    Isodose,
    hottest_beyond,
    isodose,
)
from handlers.geometry import Points
from handlers.values import DoseGrid

Array = npt.NDArray[np.float64]

PERCENT_DOSES = (98, 95, 50, 5, 2)
"""Hottest parts of a structure, in percent, whose least dose is told."""

CM3_DOSES = (0.03, 0.1, 1.0, 5.0)
"""The same in cm3."""

SMALL_TARGET_CM3 = 2.0
"""Below this ICRU 91 wants the near-maximum and near-minimum dose of `NEAR_EXTREME_CM3`."""

NEAR_EXTREME_CM3 = 0.035
"""ICRU 91: 35 mm3."""

FAR_MM = 20.0
"""D2cm: so far from the target in any direction."""

WHOLE = 1.0 - 1e-6
"""A structure counts as covered by the dose from this part of it on."""

TOLD_CM3 = 0.01
"""Volumes below this are not worth a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A structure as points, and the dose at each.

    Attributes:
        points: Middle of the boxes that it is made of, LPS mm; those that the dose covers.
        dose_gy: There.
        dvh: Of the whole.
    """

    points: Points
    dose_gy: Array
    dvh: Dvh


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures by key, and what must be known about them, in sentences."""

    values: Mapping[str, float]
    reasons: tuple[str, ...] = ()


class Isodoses:
    """The isodoses of one dose grid, each made once."""

    def __init__(self, dose: DoseGrid) -> None:
        self.dose = dose
        self._made: dict[float, Isodose] = {}

    def at(self, threshold_gy: float) -> Isodose:
        """Return the volume that gets at least a dose."""
        if threshold_gy not in self._made:
            self._made[threshold_gy] = isodose(self.dose, threshold_gy)
        return self._made[threshold_gy]


def is_whole(dvh: Dvh) -> bool:
    """Tell whether the dose covers a structure as a whole."""
    return dvh.covered_fraction >= WHOLE


def told_percent(percent: float) -> str:
    """Return a percentage that is never rounded up to the whole."""
    return f"{math.floor(10.0 * percent + 1e-6) / 10.0:.1f}"


def dose_figures(dvh: Dvh) -> Figures:
    """Return the figures that every structure has.

    Keys: `mean_gy`, `min_gy`, `max_gy`, `d98_gy`, `d95_gy`, `d50_gy`, `d5_gy`, `d2_gy`,
    `d0.03cc_gy`, `d0.1cc_gy`, `d1cc_gy`, `d5cc_gy`; where the dose covers a part only
    `covered_percent`, `max_gy` and those of hottest volumes in cm3, which the truth is not below.
    """
    values: dict[str, float] = {}
    reasons: list[str] = []
    if is_whole(dvh):
        values |= {"mean_gy": dvh.mean_gy, "min_gy": dvh.min_gy, "max_gy": dvh.max_gy}
    else:
        covered = 100.0 * dvh.covered_fraction
        values |= {"covered_percent": covered, "max_gy": dvh.max_gy}
        reasons.append(
            f"The dose covers {told_percent(covered)} % of it: maximum and doses to a volume are "
            "at least what is told, all else is left out."
        )
    doses = {f"d{cm3:g}cc_gy": dvh.dose_to_cm3(cm3) for cm3 in CM3_DOSES}
    if is_whole(dvh):
        doses = {f"d{part}_gy": dvh.dose_to_percent(part) for part in PERCENT_DOSES} | doses
    values |= {key: dose_gy for key, dose_gy in doses.items() if dose_gy is not None}
    return Figures(values, tuple(reasons))


def wanted_figures(
    dvh: Dvh, volumes_at_gy: Sequence[float], geud_a: float | None
) -> dict[str, float]:
    """Return the figures that a department asks for.

    Keys: for a dose of 20 Gy `v20gy_percent` and `v20gy_cm3` (that get at least so much) and
    `cv20gy_cm3` (that gets less); for an exponent of 8 `geud_a8_gy`. Empty for a structure that the
    dose covers in part.
    """
    if not is_whole(dvh):
        return {}
    values: dict[str, float] = {}
    for dose_gy in volumes_at_gy:
        reached_cm3 = dvh.volume_at(dose_gy * (1.0 - ROUNDING))
        values[f"v{dose_gy:g}gy_percent"] = 100.0 * reached_cm3 / dvh.structure_cm3
        values[f"v{dose_gy:g}gy_cm3"] = reached_cm3
        values[f"cv{dose_gy:g}gy_cm3"] = dvh.structure_cm3 - reached_cm3
    if geud_a is not None:
        values[f"geud_a{geud_a:g}_gy"] = dvh.geud(geud_a)
    return values


def target_figures(
    dvh: Dvh, figures: Mapping[str, float], prescribed_gy: float | None
) -> dict[str, float]:
    """Return what the histogram of a target tells beside `dose_figures`.

    Keys: `hi_icru83`; below `SMALL_TARGET_CM3` also `d35mm3_gy` and `d_all_but_35mm3_gy` (the
    near-maximum and near-minimum of ICRU 91); with a prescription `prescription_gy`,
    `coverage_percent` (of the target by the prescription), `v95_percent` and `v90_percent` (of the
    target by that part of it) and `hi_rtog` (maximum in the target over prescription). Empty for a
    target that the dose covers in part.
    """
    values: dict[str, float] = {}
    if prescribed_gy is not None:
        values["prescription_gy"] = prescribed_gy
    if not is_whole(dvh):
        return values
    if figures["d50_gy"] > 0:
        values["hi_icru83"] = (figures["d2_gy"] - figures["d98_gy"]) / figures["d50_gy"]
    if NEAR_EXTREME_CM3 < dvh.structure_cm3 < SMALL_TARGET_CM3:
        extremes = {
            "d35mm3_gy": dvh.dose_to_cm3(NEAR_EXTREME_CM3),
            "d_all_but_35mm3_gy": dvh.dose_to_cm3(dvh.structure_cm3 - NEAR_EXTREME_CM3),
        }
        values |= {key: dose_gy for key, dose_gy in extremes.items() if dose_gy is not None}
    if prescribed_gy is not None:
        for key, part in (("coverage", 1.0), ("v95", 0.95), ("v90", 0.9)):
            reached_cm3 = dvh.volume_at(part * prescribed_gy * (1.0 - ROUNDING))
            values[f"{key}_percent"] = 100.0 * reached_cm3 / dvh.structure_cm3
        values["hi_rtog"] = dvh.max_gy / prescribed_gy
    return values


def isodose_figures(
    target: Sample,
    isodoses: Isodoses,
    prescribed_gy: float,
    others: Mapping[str, Sample],
    apart: Collection[str],
) -> Figures:
    """Return the indices that rest on the isodoses round a target.

    Keys: `piv_cm3` and `piv50_cm3` (volume that gets the prescription, and half of it), `ci_rtog`
    (PIV over target), `ci_paddick`, `selectivity` (part of the PIV that lies in the target),
    `gradient_index` (half over full PIV), `r50` (half PIV over target).

    An isodose counts as a whole, body and all, but for those parts that hang together and touch
    other targets, not this one. One that also holds another target is told.

    Args:
        target: The dose covers it as a whole.
        isodoses: Of the plan's dose.
        prescribed_gy: Above zero.
        others: The other targets of the case, by name.
        apart: Those of them that share no voxel with this one.
    """
    found: dict[float, float | None] = {}
    reasons: list[str] = []
    for part in (1.0, 0.5):
        found[part], told = _isodose_cm3(target, isodoses, part * prescribed_gy, others, apart)
        reasons += told
    values: dict[str, float] = {}
    target_cm3 = target.dvh.structure_cm3
    inside_cm3 = target.dvh.volume_at(prescribed_gy * (1.0 - ROUNDING))
    piv, half = found[1.0], found[0.5]
    if piv is not None:
        # an isodose holds at least what of it lies in the target
        piv = max(piv, inside_cm3)
        values["piv_cm3"] = piv
        if piv > 0:
            values["ci_rtog"] = piv / target_cm3
            values["ci_paddick"] = inside_cm3**2 / (target_cm3 * piv)
            values["selectivity"] = inside_cm3 / piv
        else:
            reasons.append(f"No {prescribed_gy:g} Gy isodose counts for it: no conformity is told.")
    if half is not None:
        values["piv50_cm3"] = half
        if half > 0:
            values["r50"] = half / target_cm3
        if piv is not None and piv > 0:
            values["gradient_index"] = half / piv
    return Figures(values, tuple(reasons))


def _isodose_cm3(
    target: Sample,
    isodoses: Isodoses,
    threshold_gy: float,
    others: Mapping[str, Sample],
    apart: Collection[str],
) -> tuple[float | None, list[str]]:
    """Return the volume of an isodose as far as it counts for a target, and what is told of it."""
    found = isodoses.at(threshold_gy)
    grid = isodoses.dose.geometry
    if min(grid.shape) < 2:
        return None, ["The dose has a single voxel along one axis: no isodose has a volume."]
    own = found.parts_at(grid, target.points, target.dose_gy)
    touched = {
        name: found.parts_at(grid, other.points, other.dose_gy) for name, other in others.items()
    }
    theirs = frozenset().union(*touched.values()) - own
    counted = found.parts - theirs
    called = f"{threshold_gy:g} Gy isodose"
    if found.reaches_rim(counted):
        text = f"The {called} reaches the rim of the dose grid, so its volume is not known."
        return None, [text]
    reasons = []
    shared = [name for name in touched if name in apart and touched[name] & own]
    if shared:
        text = f"The {called} round it also holds {_quoted(shared)}: its volume serves all of them."
        reasons.append(text)
    if found.cm3(theirs) >= TOLD_CM3:
        round_others = [name for name, parts in touched.items() if parts & theirs]
        reasons.append(
            f"Of the {called} {found.cm3(theirs):.2f} cm3 round {_quoted(round_others)} are not "
            "counted."
        )
    if found.cm3(counted - own) >= TOLD_CM3:
        reasons.append(
            f"Of the {called} {found.cm3(counted - own):.2f} cm3 lie apart from it and are counted."
        )
    return found.cm3(counted), reasons


def far_figures(
    dose: DoseGrid, body: Points, surface: Sequence[Points], prescribed_gy: float | None
) -> Figures:
    """Return `d2cm_gy`, the hottest dose 2 cm or more from a target, and `d2cm_percent`.

    Args:
        dose: Of the plan.
        body: Points that fill the target.
        surface: Points on its surface, in any number of pieces.
        prescribed_gy: What the percentage is of.
    """
    if min(dose.geometry.shape) < 2:
        return Figures({})
    far = hottest_beyond(dose, body, np.concatenate([*surface, body[:0]]), FAR_MM)
    if far is None:
        return Figures({}, ("The dose grid ends within 2 cm of it on all sides: no D2cm.",))
    values = {"d2cm_gy": far.dose_gy}
    if prescribed_gy is not None:
        values["d2cm_percent"] = 100.0 * far.dose_gy / prescribed_gy
    text = "The dose grid ends nearer than 2 cm on a side: D2cm is at least what is told."
    return Figures(values, (text,) if far.is_bound else ())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
