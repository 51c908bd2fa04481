"""What is measured and what it must be: rows of the report, limits, and where each limit is from.

Pure. A limit belongs to a row; a row without one only tells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TG132 = "AAPM TG-132 (Brock et al. 2017)"
BAR = "Hilum's bar for the kit"
PAIRS_BAR = "Hilum's bar for real pairs"
OWN_RULE = "Hilum's own rule"

Relation = Literal["<=", "<", ">=", ">", "one of"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a value must be.

    Attributes:
        relation: How the value stands to the bound; `one of` for words.
        source: Who asks for it.
        bound: In the unit of the row.
        allowed: The words that are accepted, for `one of`.
    """

    relation: Relation
    source: str
    bound: float = math.nan
    allowed: tuple[str, ...] = ()

    def is_met_by(self, value: float | str) -> bool:
        """Tell whether a value keeps the limit; what is not a number keeps none.

        Example:
            >>> Limit("<=", TG132, 2.0).is_met_by(2.0), Limit("<", TG132, 2.0).is_met_by(2.0)
            (True, False)
        """
        if isinstance(value, str):
            return self.relation == "one of" and value in self.allowed
        if self.relation == "<=":
            return value <= self.bound
        if self.relation == "<":
            return value < self.bound
        if self.relation == ">=":
            return value >= self.bound
        return self.relation == ">" and value > self.bound

    def __str__(self) -> str:
        if self.relation == "one of":
            return " or ".join(self.allowed)
        return f"{self.relation} {self.bound:.3g}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the report.

    Attributes:
        case: What was computed, as `kit 1003`, or `all`.
        what: The quantity.
        series: The MR series it holds for, or empty.
        value: A number in `unit`, or a word.
        unit: As `mm`; empty for words and ratios.
        limit: What it must be; None: it only tells.
    """

    case: str
    what: str
    value: float | str
    unit: str = ""
    series: str = ""
    limit: Limit | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the limit is kept; None without a limit."""
        return None if self.limit is None else self.limit.is_met_by(self.value)


RIGHT = "right"
INACCURATE = "inaccurate"
FLAGGED = "flagged"
WRONG = "WRONG AND ACCEPTED"
UNNOTICED = "NOT FLAGGED"
FAILED = "failed"

RIGHT_MM = 3.0
"""Median error about the target up to which a pose is right (local TRE that passes, TG-132)."""

WRONG_MM = 5.0
"""Median error about the target above which an accepted pose is a wrong one."""

NEVER_WRONG = Limit("one of", BAR, allowed=(RIGHT, INACCURATE, FLAGGED))
NOT_UNNOTICED = Limit("one of", BAR, allowed=(RIGHT, FLAGGED))
NO_FOLD = Limit(">", TG132, 0.0)
WRITTEN_AS_COMPUTED = Limit("<=", BAR, 0.01)
NODE_DSC = Limit(">=", f"{TG132}: within contouring uncertainty, 0.80 to 0.90", 0.80)
DSC_LEAST_CM3 = 5.0
"""The Dice coefficient of smaller structures only describes: a millimetre moves it too far."""

TRE_MEAN_OF_MEDIANS = Limit("<=", BAR, 1.0)
TRE_WORST_MEDIAN = Limit("<=", BAR, 1.5)
UNCERTAINTY_SHARE = Limit(">=", BAR, 90.0)
FALSE_ALARMS = Limit("<=", f"{BAR}: 1 in 12", 100.0 / 12.0)
NONE_WRONG = Limit("<=", BAR, 0.0)
NONE_FAILED = Limit("<=", OWN_RULE, 0.0)
RIGHT_SHARE = Limit(">=", BAR, 98.0)
REGISTRATION_S = Limit("<=", f"{BAR}, two cores", 20.0)
PEAK_MIB = Limit("<=", BAR, 1536.0)
REPEATABILITY_MEDIAN = Limit("<=", PAIRS_BAR, 0.7)
REPEATABILITY_WORST = Limit("<=", PAIRS_BAR, 2.0)
WARPED_SHARE = Limit(">=", f"{TG132}: known deformation, 95 % within 2 mm", 95.0)
WARPED_LARGEST = Limit("<", f"{TG132}: known deformation, largest below 5 mm", 5.0)
WARPED_MM = 2.0
UNALTERED = Limit("<=", f"{TG132}: data integrity, exact", 0.0)

PLANTED_SHARE: Mapping[str, Limit] = {
    "5 mm shift": Limit(">=", BAR, 90.0),
    "10 mm shift": Limit(">=", BAR, 100.0),
    "15 degree turn": Limit(">=", BAR, 100.0),
    "another patient's MR": Limit(">=", BAR, 100.0),
    "mirrored MR": Limit(">=", BAR, 100.0),
    "noise instead of MR": Limit(">=", BAR, 100.0),
}
"""Share in percent of each planted fault that must be flagged (mirrored: or right)."""


def voxel_limit(largest_voxel_mm: float) -> Limit:
    """Return TG-132's limit for errors: the largest edge of a voxel of either image."""
    return Limit("<=", f"{TG132}: largest voxel edge", largest_voxel_mm)


def pose_outcome(status: str, median_error_mm: float) -> str:
    """Return what a verdict is worth, given the true error about the target.

    Example:
        >>> pose_outcome("pass", 9.0), pose_outcome("warn", 9.0), pose_outcome("pass", 1.0)
        ('WRONG AND ACCEPTED', 'flagged', 'right')
    """
    if median_error_mm <= RIGHT_MM:
        return RIGHT
    if status != "pass":
        return FLAGGED
    return INACCURATE if median_error_mm <= WRONG_MM else WRONG
