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


class EndCap(StrEnum):
    """Where a structure ends beyond its first and its last contour."""

    HALF_SLICE = "half-slice"
    """Half the distance to the neighbouring contour farther, with the end contour's area."""

    NONE = "none"
    """On the end contours themselves."""


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
        metric: `Dmax` (hottest `POINT_CM3`), `D5cc`, `D10%`, `Mean`, `V20Gy` (in percent or cm3, as
            `unit` says), `CV19.2Gy` (volume that gets less; at least `bound` is wanted).
        bound: What must not be exceeded (for `CV`, not be undercut).
        unit: `Gy`, `%` or `cm3`.
        fractions: For which the row was made; None: conventional fractionation.
        endpoint: What it guards against.
        source: Publication and table.
        certainty: Mark of how sure the number is, as `verified` or `secondary copy`.
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
        roi_name: The ROI that was taken for the organ; empty where there is none.
        status: The verdict.
        value: What was measured, in the limit's unit; None where it was not.
        is_bound: Only a part of the organ is covered by the dose: the truth is at least `value`
            (at most, for `CV`).
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
        unmatched: ROI names that no table knows, and so bear no limit.
        reasons: What must be known about the whole, in sentences.
    """

    label: str
    plan_uid: str
    dose_uids: tuple[str, ...]
    prescribed: Prescribed | None
    structures: tuple[StructureDose, ...]
    limits: tuple[LimitVerdict, ...] = ()
    unmatched: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True, eq=False)
class OrganCumulative:
    """Both courses in one organ, as EQD2.

    Attributes:
        name: ROI name on the current planning CT.
        alpha_beta_gy: By which it was converted.
        alpha_beta_said_by: Where that number comes from.
        recovery: Part of the prior courses' EQD2 that is forgiven, 0 to 1.
        dvh: Of the sum; None where it cannot be told.
        figures: `eqd2_max_gy`, `eqd2_d0.03cc_gy`, `eqd2_d0.1cc_gy`, `eqd2_d1cc_gy`,
            `eqd2_d5cc_gy`, `eqd2_mean_gy`.
        low: The same figures at their smallest over the shifts of the prior dose.
        high: At their largest.
        worst_case_gy: Sum of the maxima of all courses, wherever they lie.
        limit_gy: Cumulative limit on `eqd2_d0.03cc_gy`, where one is configured.
        reasons: What must be known, in sentences.
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


@dataclass(frozen=True, slots=True, eq=False)
class CumulativeDose:
    """All courses of a patient together.

    Attributes:
        courses: The current one first.
        registration_indices: By which registration of the result each prior course came here.
        organs: Per organ, targets included.
        shift_mm: Size of the shifts behind `low` and `high`.
        sums: EQD2 of all courses on the grid of the current dose, by alpha/beta in Gy.
        reasons: What must be known about the whole, in sentences.
    """

    courses: tuple[Course, ...]
    registration_indices: tuple[int, ...]
    organs: tuple[OrganCumulative, ...]
    shift_mm: float
    sums: Mapping[float, DoseGrid] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DoseMeasures:
    """All that was measured of dose; absent as a whole where no dose came.

    Attributes:
        plans: One for each plan on the current planning CT, in the order of the case.
        cumulative: None without a prior course.
        end_cap: By which the structures were ended.
    """

    plans: tuple[PlanMeasures, ...]
    cumulative: CumulativeDose | None
    end_cap: EndCap
