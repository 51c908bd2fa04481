"""The metrics of organ limits: what they are called, and what a histogram says of them.

Knows no organ and no table. What a histogram cannot tell has a reason instead of a value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from handlers.dose_results import COVERED_TOLERANCE, POINT_CM3, Dvh


class MetricKind(StrEnum):
    """What is measured."""

    POINT = "Dpoint"
    """Highest dose anywhere."""

    DOSE_TO_VOLUME = "D..cc"
    """Lowest dose within the hottest part of that volume."""

    DOSE_TO_PERCENT = "D..%"
    """Likewise, for a part of the whole volume."""

    MEAN = "Mean"
    VOLUME = "V..Gy"
    """What gets at least that dose."""

    SPARED = "CV..Gy"
    """What gets less than that dose."""


class Truth(StrEnum):
    """Where the truth lies beside a value."""

    EQUAL = "equal"
    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a limit.

    Attributes:
        kind: What is measured.
        at: For which volume in cm3, percentage or dose in Gy; 0 for a point and for the mean.
        units: Those in which a bound may stand.
    """

    kind: MetricKind
    at: float
    units: tuple[str, ...]

    @property
    def is_relative(self) -> bool:
        """Whether it relates to the whole organ: a part or a surrounding of it tells nothing."""
        return self.kind in (MetricKind.DOSE_TO_PERCENT, MetricKind.MEAN)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a histogram says of a metric.

    Attributes:
        value: In the unit that was asked for; None: it says nothing.
        truth: Where the truth lies, if the dose covers only a part of the structure.
        reason: Why there is no value, or what must be known of it.
    """

    value: float | None
    truth: Truth = Truth.EQUAL
    reason: str = ""


_NUMBER = r"(\d+(?:\.\d+)?)"

_FORMS: tuple[tuple[str, MetricKind, tuple[str, ...]], ...] = (
    (rf"D{_NUMBER}cc", MetricKind.DOSE_TO_VOLUME, ("Gy",)),
    (rf"D{_NUMBER}%", MetricKind.DOSE_TO_PERCENT, ("Gy",)),
    (rf"V{_NUMBER}Gy", MetricKind.VOLUME, ("%", "cm3")),
    (rf"CV{_NUMBER}Gy", MetricKind.SPARED, ("cm3",)),
)


def metric_of(text: str) -> Metric:
    """Return the metric that a table names.

    Raises:
        ValueError: There is no such metric.

    Example:
        >>> metric_of("D5cc").at, metric_of("Dmax").at, metric_of("CV19.2Gy").units
        (5.0, 0.035, ('cm3',))
    """
    if text == "Dmax":
        return Metric(MetricKind.DOSE_TO_VOLUME, POINT_CM3, ("Gy",))
    if text == "Dpoint":
        return Metric(MetricKind.POINT, 0.0, ("Gy",))
    if text == "Mean":
        return Metric(MetricKind.MEAN, 0.0, ("Gy",))
    for form, kind, units in _FORMS:
        if (match := re.fullmatch(form, text)) and (at := float(match[1])) > 0:
            if kind is MetricKind.DOSE_TO_PERCENT and at > 100:
                break
            return Metric(kind, at, units)
    raise ValueError(
        f"{text!r} is none of Dmax, Dpoint, Mean, D5cc, D10%, V20Gy, CV15Gy and their like"
    )


def measured(metric: Metric, unit: str, dvh: Dvh) -> Measured:
    """Return what a histogram says of a metric.

    Where the dose covers only a part of the structure, the rest may have got anything: doses to a
    volume, volumes that get a dose and the mean are then the least that is possible (the mean with
    zero for the rest), a spared volume is the most.

    Args:
        metric: What is asked for.
        unit: One of its units.
        dvh: Of the structure.
    """
    is_covered = dvh.covered_fraction >= 1.0 - COVERED_TOLERANCE
    truth = Truth.EQUAL if is_covered else Truth.AT_LEAST
    if metric.kind is MetricKind.POINT:
        return Measured(dvh.max_gy, truth)
    if metric.kind is MetricKind.MEAN:
        return Measured(dvh.mean_gy * (1.0 if is_covered else dvh.covered_fraction), truth)
    if metric.kind is MetricKind.VOLUME:
        scale = 100.0 / dvh.structure_cm3 if unit == "%" else 1.0
        return Measured(dvh.volume_at(metric.at) * scale, truth)
    if metric.kind is MetricKind.SPARED:
        truth = Truth.EQUAL if is_covered else Truth.AT_MOST
        return Measured(dvh.structure_cm3 - dvh.volume_at(metric.at), truth)
    if metric.kind is MetricKind.DOSE_TO_PERCENT:
        value_gy = dvh.dose_to_percent(metric.at)
    else:
        value_gy = dvh.dose_to_cm3(metric.at)
    if value_gy is not None:
        return Measured(value_gy, truth)
    if is_covered:
        told = f"the ROI has {dvh.structure_cm3:.2f} cm3 in all: is the organ wholly contoured?"
    else:
        told = f"the dose covers only {dvh.covered_cm3:.2f} cm3 of the ROI"
    return Measured(None, truth, told)


def summed(dvhs: Sequence[Dvh]) -> Dvh:
    """Return the histogram of structures that do not overlap, taken together."""
    doses = np.concatenate([dvh.dose_gy for dvh in dvhs])
    parts = np.concatenate([-np.diff(dvh.volume_cm3, append=0.0) for dvh in dvhs])
    order = np.argsort(doses, kind="stable")
    covered_cm3 = [dvh.covered_cm3 for dvh in dvhs]
    return Dvh(
        dose_gy=doses[order],
        volume_cm3=np.cumsum(parts[order][::-1])[::-1],
        structure_cm3=sum(dvh.structure_cm3 for dvh in dvhs),
        mean_gy=float(np.average([dvh.mean_gy for dvh in dvhs], weights=covered_cm3)),
    )
