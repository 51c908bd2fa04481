"""How courses are added: what a protocol says about organs, fractions and shifts.

Holds settings only; nothing is computed here.
"""

from dataclasses import dataclass

SHIFT_MM = 3.0
"""Usual size of the shifts that stand for the uncertainty of a registration, along each axis."""


@dataclass(frozen=True, slots=True)
class OrganRule:
    """What holds for the organs of some names; None: as without the rule.

    Attributes:
        pattern: Pattern of ROI names or TG-263 names, ignoring case.
        alpha_beta_gy: Above zero.
        recovery: Part of the prior courses' EQD2 that is forgiven, 0 to 1.
        recovery_because: Why; told wherever the recovery is used.
        limit_gy: Cumulative limit on the EQD2 of the hottest 0.03 cm3.
        limit_source: Who says so.
    """

    pattern: str
    alpha_beta_gy: float | None = None
    recovery: float = 0.0
    recovery_because: str = ""
    limit_gy: float | None = None
    limit_source: str = ""

    def __post_init__(self) -> None:
        if self.alpha_beta_gy is not None and not self.alpha_beta_gy > 0:
            raise ValueError("alpha/beta must be above zero")
        if not 0 <= self.recovery <= 1:
            raise ValueError("recovery must lie between 0 and 1")
        if self.recovery and not self.recovery_because.strip():
            raise ValueError("a recovery needs a justification")
        if self.limit_gy is not None and not self.limit_gy > 0:
            raise ValueError("a cumulative limit must be above zero")


@dataclass(frozen=True, slots=True)
class ReirradiationSettings:
    """How the courses of a patient are added.

    Attributes:
        prior_fractions: Fractions of a prior course whose plan does not tell them; None: then there
            is no EQD2 of it.
        current_fractions: The same for the current course.
        organs: The first that fits an organ holds.
        shift_mm: Shifts of the prior doses, along each axis; 0: none.
        is_sum_wanted: Whether the sums are wanted as dose grids, one for each alpha/beta.
    """

    prior_fractions: int | None = None
    current_fractions: int | None = None
    organs: tuple[OrganRule, ...] = ()
    shift_mm: float = SHIFT_MM
    is_sum_wanted: bool = False

    def __post_init__(self) -> None:
        for fractions in (self.prior_fractions, self.current_fractions):
            if fractions is not None and fractions < 1:
                raise ValueError("a course has at least one fraction")
        if not 0 <= self.shift_mm <= 20:
            raise ValueError("shifts must lie between 0 and 20 mm")
