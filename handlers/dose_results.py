"""The nouns of what dose did: histograms, what targets and organs got, limits, both courses.

Frozen like those of `values`. Doses in Gy, volumes in cm3. A figure that cannot be told is absent
from its mapping, and a reason says why: never zero, never a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from handlers.values import DoseGrid

Array = npt.NDArray[np.float64]

COVERED_TOLERANCE = 1e-6
"""So much of a volume may be missing by rounding where all of it is asked for."""

COVERAGE_GOAL_PERCENT = 95.0
"""So much of a target, at least, is to get the prescription."""

POINT_CM3 = 0.035
"""The hottest part of an organ that a maximum is taken over: AAPM TG-101, table III, footnote."""


class EndCap(StrEnum):
    """Where a structure ends beyond its first and its last contour."""

    HALF_SLICE = "half-slice"
    """Half the distance to the neighbouring contour farther, with the end contour's area."""

    NONE = "none"
    """On the end contours themselves."""

    TAPERED = "tapered"
    """As the outlines lead on: where they would close before the next plane; half the distance to
    the neighbouring contour farther where they would not."""


@dataclass(frozen=True, slots=True, eq=False)
class Dvh:
    """A cumulative dose-volume histogram: steps at samples of the dose, no bins.

    Attributes:
        dose_gy: Ascending, shape (n,), n >= 1.
        volume_cm3: Volume that gets at least that dose, shape (n,), falling; the first is the whole
            volume that the dose covers.
        structure_cm3: Volume of the structure, covered by the dose or not.
        mean_gy: Mean over what is covered.
    """

    dose_gy: Array
    volume_cm3: Array
    structure_cm3: float
    mean_gy: float

    def __post_init__(self) -> None:
        dose_gy = np.asarray(self.dose_gy, dtype=np.float64)
        volume_cm3 = np.asarray(self.volume_cm3, dtype=np.float64)
        if dose_gy.ndim != 1 or len(dose_gy) == 0 or dose_gy.shape != volume_cm3.shape:
            raise ValueError("a histogram needs as many doses as volumes, one at least")
        if not (np.isfinite(dose_gy).all() and np.isfinite(volume_cm3).all()):
            raise ValueError("a histogram holds a value that is not finite")
        if np.any(np.diff(dose_gy) < 0) or np.any(np.diff(volume_cm3) > 0) or volume_cm3[-1] < 0:
            raise ValueError("doses of a histogram must rise, its volumes fall")
        for name, array in (("dose_gy", dose_gy), ("volume_cm3", volume_cm3)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def covered_cm3(self) -> float:
        """Volume of the structure that the dose covers."""
        return float(self.volume_cm3[0])

    @property
    def covered_fraction(self) -> float:
        """Part of the structure that the dose covers, 0 to 1."""
        return min(self.covered_cm3 / self.structure_cm3, 1.0)

    @property
    def min_gy(self) -> float:
        """Lowest dose in what is covered."""
        return float(self.dose_gy[0])

    @property
    def max_gy(self) -> float:
        """Highest dose in what is covered: of a single point, so take `dose_to_cm3` for limits."""
        return float(self.dose_gy[-1])

    def dose_to_cm3(self, volume_cm3: float) -> float | None:
        """Return the least dose in the hottest part of this volume (D0.03cc and its kin), in Gy.

        None where the dose covers less than that volume. Of a structure that is covered in part it
        is a lower bound: what is not covered may be hotter.

        Raises:
            ValueError: The volume is not above zero.
        """
        if not volume_cm3 > 0:
            raise ValueError("the hottest part of a structure needs a volume above zero")
        if volume_cm3 > self.covered_cm3 * (1.0 + COVERED_TOLERANCE):
            return None
        falling = -self.volume_cm3
        reached = int(np.searchsorted(falling, -volume_cm3, side="right")) - 1
        return float(self.dose_gy[max(reached, 0)])

    def dose_to_percent(self, percent: float) -> float | None:
        """Return the least dose in the hottest part of `percent` of the structure (D95%), in Gy.

        Percent are of the whole structure, covered or not; else as `dose_to_cm3`.

        Raises:
            ValueError: `percent` is not above 0 and at most 100.
        """
        if not 0 < percent <= 100:
            raise ValueError("a part of a structure must be above 0 and at most 100 %")
        return self.dose_to_cm3(percent / 100.0 * self.structure_cm3)

    def volume_at(self, dose_gy: float) -> float:
        """Return the volume that gets at least a dose (V20Gy), in cm3, of what is covered."""
        first = int(np.searchsorted(self.dose_gy, dose_gy, side="left"))
        return float(self.volume_cm3[first]) if first < len(self.volume_cm3) else 0.0

    def geud(self, a: float) -> float:
        """Return the generalised equivalent uniform dose of what is covered, in Gy.

        (sum of v D^a)^(1/a), v parts of the covered volume: the mean for a = 1, near the highest
        dose for large a, near the lowest for very negative a (and 0 then if any part gets none).

        Raises:
            ValueError: a is 0 or not finite.

        Sources:
            Niemierko 1999, Med Phys 26:1100 (abstract).
        """
        if a == 0 or not np.isfinite(a):
            raise ValueError("the exponent of a gEUD must be a finite number other than 0")
        parts = -np.diff(self.volume_cm3, append=0.0) / self.covered_cm3
        doses = self.dose_gy[parts > 0]
        parts = parts[parts > 0]
        if doses[-1] <= 0 or (a < 0 and doses[0] <= 0):
            return 0.0
        scale = doses[-1] if a > 0 else doses[0]  # no power leaves the range of floats
        return float(scale * (parts @ (doses / scale) ** a) ** (1.0 / a))


class TargetVersion(StrEnum):
    """Which of the contours of a target a structure is."""

    DRAWN = "drawn"
    REFINED = "refined"
    DERIVED = "derived"


@dataclass(frozen=True, slots=True, eq=False)
class StructureDose:
    """What one structure got from one plan.

    Attributes:
        name: ROI name; of a refined or derived target that of the new ROI.
        target: ROI name of the drawn target that it is a version of; empty for an organ.
        version: None for an organ.
        dvh: None where no dose can be told.
        figures: By key, unit as suffix: `mean_gy`, `max_gy`, `min_gy`, `d98_gy`, `d95_gy`,
            `d50_gy`, `d5_gy`, `d2_gy`, `d0.03cc_gy`, `d0.1cc_gy`, `d1cc_gy`, `d5cc_gy`; of targets
            also their indices.
        reasons: Why figures are absent or hold for a part only, in sentences.
    """

    name: str
    target: str
    version: TargetVersion | None
    dvh: Dvh | None
    figures: Mapping[str, float]
    reasons: tuple[str, ...] = ()


class LimitStatus(StrEnum):
    """The verdict on one limit."""

    MET = "met"
    EXCEEDED = "exceeded"
    NOT_EVALUABLE = "not evaluable"


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of a table of organ limits: `metric` of `organ` shall stay below `bound`.

    Attributes:
        organ: TG-263 name of the organ, as the table has it.
        metric: `Dmax` (hottest `POINT_CM3`), `Dpoint` (highest anywhere), `D5cc`, `D10%`, `Mean`,
            `V20Gy` (in percent or cm3, as `unit` says), `CV19.2Gy` (volume that gets less; at least
            `bound` is wanted).
        bound: What must not be exceeded (for `CV`, not be undercut).
        unit: `Gy`, `%` or `cm3`.
        fractions: For which the row was made; None: conventional fractionation.
        endpoint: What it guards against.
        source: Publication and table.
        certainty: How sure the number is: `verified`, `secondary copy`, `recalled`, `department`.
        table: Name of the table that it is of.
    """

    organ: str
    metric: str
    bound: float
    unit: str
    fractions: int | None
    endpoint: str
    source: str
    certainty: str
    table: str


@dataclass(frozen=True, slots=True)
class LimitVerdict:
    """What became of a limit in one plan.

    Attributes:
        limit: The row.
        roi_name: The ROI that was taken for the organ, or both of a pair; empty: there is none.
        status: The verdict.
        value: What was measured, in the limit's unit; None where it was not.
        is_bound: Only a part of the organ is drawn, or covered by the dose: the truth is at least
            `value` (at most, for `CV`).
        reason: Why it is not evaluable, or what else must be known; empty else.
    """

    limit: Limit
    roi_name: str
    status: LimitStatus
    value: float | None
    is_bound: bool = False
    reason: str = ""

    @property
    def excess(self) -> float | None:
        """By how much the limit is exceeded, in its unit; None unless it is."""
        if self.status is not LimitStatus.EXCEEDED or self.value is None:
            return None
        return abs(self.value - self.limit.bound)


@dataclass(frozen=True, slots=True)
class Prescribed:
    """What a target is to receive, and who says so (`plan` or `protocol`)."""

    dose_gy: float
    fractions: int | None
    said_by: str


@dataclass(frozen=True, slots=True, eq=False)
class PlanMeasures:
    """What one plan does to the structures of a case.

    Attributes:
        label: RT Plan Label, or how the dose is called where no plan came with it.
        plan_uid: SOP Instance UID of the RT Plan; empty if none came.
        dose_uids: SOP Instance UIDs of the RT Doses that were summed.
        prescribed: What the plan was measured by; None: nobody says.
        structures: Targets in all versions first, then organs.
        limits: Verdicts, in the order of the tables.
        unmatched: ROI names that bear no limit, and why.
        reasons: What must be known about the whole, in sentences.
    """

    label: str
    plan_uid: str
    dose_uids: tuple[str, ...]
    prescribed: Prescribed | None
    structures: tuple[StructureDose, ...]
    limits: tuple[LimitVerdict, ...] = ()
    unmatched: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """One course of a cumulative dose.

    Attributes:
        label: RT Plan Label, or how the dose is called.
        dose_uids: SOP Instance UIDs of the RT Doses.
        fractions: Number of fractions.
        fractions_said_by: `plan` or `protocol`.
        is_prior: Delivered before, on an earlier planning CT.
        interval_days: Days from this course's planning CT to the current one; None if unknown.
    """

    label: str
    dose_uids: tuple[str, ...]
    fractions: int
    fractions_said_by: str
    is_prior: bool
    interval_days: int | None = None


@dataclass(frozen=True, slots=True)
class RemainingDose:
    """What a cumulative limit leaves in one organ, if the hottest 0.03 cm3 of all courses meet.

    Attributes:
        eqd2_gy: Limit less what the prior courses gave, recovery taken into account; below zero:
            they alone exceed it.
        dose_gy: Physical dose with that EQD2, in the fractions of the current course; 0 where
            nothing is left.
        fractions: Of the current course.
    """

    eqd2_gy: float
    dose_gy: float
    fractions: int


@dataclass(frozen=True, slots=True, eq=False)
class OrganCumulative:
    """All courses in one organ, as EQD2.

    Attributes:
        name: ROI name on the current planning CT.
        alpha_beta_gy: By which it was converted.
        alpha_beta_said_by: Where that number comes from.
        recovery: Part of the prior courses' EQD2 that is forgiven, 0 to 1.
        dvh: Of the sum; None where it cannot be told.
        figures: `eqd2_max_gy`, `eqd2_d0.03cc_gy`, `eqd2_d0.1cc_gy`, `eqd2_d1cc_gy`,
            `eqd2_d5cc_gy`, `eqd2_mean_gy`; recovery taken into account.
        low: The same figures at their smallest over the shifts of the prior doses.
        high: At their largest.
        worst_case_gy: Sum of the EQD2 maxima of all courses, wherever they lie, without recovery.
        limit_gy: Cumulative limit on `eqd2_d0.03cc_gy`, where one is configured.
        reasons: What must be known, in sentences.
        is_at_least: Not all courses cover the whole organ, or a course is left out: the truth is at
            least each figure.
        by_course: The same figures of each course alone, in the order of the courses, without
            recovery; empty for a course that does not reach the organ.
        without_recovery: The figures of the sum without recovery; empty where there is none.
        remaining: What `limit_gy` leaves; None without a limit, or where it cannot be told.
    """

    name: str
    alpha_beta_gy: float
    alpha_beta_said_by: str
    recovery: float
    dvh: Dvh | None
    figures: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    worst_case_gy: float | None
    limit_gy: float | None = None
    reasons: tuple[str, ...] = ()
    is_at_least: bool = False
    by_course: tuple[Mapping[str, float], ...] = ()
    without_recovery: Mapping[str, float] = field(default_factory=dict)
    remaining: RemainingDose | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CumulativeDose:
    """All courses of a patient together.

    Attributes:
        courses: Those that are in the sum, the current one first.
        registration_indices: Registrations of the result by which prior courses came here; those
            that were planned on the same CT needed none.
        organs: Per organ, targets included; none where nothing could be summed.
        shift_mm: Size of the shifts behind `low` and `high`, along each axis of the patient.
        sums: EQD2 of all courses on the grid of the current dose, by alpha/beta in Gy, without
            recovery; only where it was asked for.
        reasons: What must be known about the whole, in sentences; also which courses are left out.
    """

    courses: tuple[Course, ...]
    registration_indices: tuple[int, ...]
    organs: tuple[OrganCumulative, ...]
    shift_mm: float
    sums: Mapping[float, DoseGrid] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The figures of two structures, or of one structure in two plans, side by side.

    Attributes:
        plans: Which plans, as places in `DoseMeasures.plans`; twice the same for two versions of a
            target in one plan.
        structures: Names of the structures; twice the same for two plans.
        figures: Both values by key, for those that both have.
    """

    plans: tuple[int, int]
    structures: tuple[str, str]
    figures: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class DoseMeasures:
    """All that was measured of dose; absent as a whole where no dose came.

    Attributes:
        plans: One for each plan on the current planning CT, in the order of the case; none where
            only prior courses have a dose.
        cumulative: None without a prior course.
        end_cap: By which the structures were ended.
        comparisons: Versions of each target in each plan, then further plans against the first.
    """

    plans: tuple[PlanMeasures, ...]
    cumulative: CumulativeDose | None
    end_cap: EndCap
    comparisons: tuple[Comparison, ...] = ()
