"""Many cases as one table: what drawn and refined targets were, and whether they differ.

Reads metrics documents (`report.metrics_document`), one for each case. A row is a target. Targets
that were left as drawn are counted and listed, but are no pair: there was nothing to compare.

Targets of one patient are not independent of each other, and the statistics here take them as if
they were: whoever publishes them must say so, or choose one target for each patient.

Read first: Bland and Altman 1986, Lancet 327:307 (agreement); Wilcoxon 1945 (signed ranks).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEAST_PAIRS = 6
"""With fewer pairs no result of the signed-rank test could be below 0.05: it is not made."""

AGREEMENT_SD = 1.96
"""Limits of agreement: so many standard deviations to both sides of the mean difference."""

FIGURES: Mapping[str, str] = {
    "volume_cm3": "Volume (cm3)",
    "vessels_cm3": "Vessel, duct, bowel inside (cm3)",
    "coverage_percent": "Covered by the prescription (%)",
    "ci_rtog": "Conformity, RTOG",
    "ci_paddick": "Conformity, Paddick",
    "gradient_index": "Gradient index",
    "d95_gy": "D95% (Gy)",
}
"""What is compared between the drawn and the refined target, and how it is called."""

DESCRIBED: Mapping[str, str] = {
    "dsc": "DSC",
    "hd95_mm": "HD95 (mm)",
    "mean_surface_distance_mm": "Mean surface distance (mm)",
    "centroid_shift_mm": "Centroid shift (mm)",
}
"""What describes a pair as a whole, and how it is called."""


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One target of one case.

    Attributes:
        case_id: Of the case; no identity of the patient.
        protocol: By which it was computed.
        target: ROI name of the drawn target.
        is_refined: A refined target was proposed.
        drawn: Figures of the drawn target, by key of `FIGURES`; absent where not told.
        refined: Likewise of the refined one; empty after an abstention.
        between: Figures of the pair, by key of `DESCRIBED`.
    """

    case_id: str
    protocol: str
    target: str
    is_refined: bool
    drawn: Mapping[str, float]
    refined: Mapping[str, float]
    between: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedSummary:
    """One figure, drawn against refined.

    Attributes:
        key: Of `FIGURES`.
        pairs: How many targets have it in both forms.
        drawn: Of the drawn targets.
        refined: Of the refined targets.
        difference: Of refined minus drawn, target by target.
        p: Two-sided p of the Wilcoxon signed-rank test; None: too few pairs that differ.
        bias: Mean difference.
        agreement: Lower and upper limit of agreement; None with fewer than two pairs.
    """

    key: str
    pairs: int
    drawn: Spread
    refined: Spread
    difference: Spread
    p: float | None
    bias: float
    agreement: tuple[float, float] | None


def cohort_rows(documents: Iterable[Mapping[str, Any]]) -> tuple[CohortRow, ...]:
    """Return the targets of all cases, in the order of the documents."""
    return tuple(
        _row(document, target) for document in documents for target in document.get("targets", ())
    )


def paired_values(rows: Sequence[CohortRow], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a figure of all targets that have it in both forms: drawn and refined, each (n,)."""
    pairs = [
        (row.drawn[key], row.refined[key])
        for row in rows
        if row.is_refined and key in row.drawn and key in row.refined
    ]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def summarize(rows: Sequence[CohortRow]) -> tuple[PairedSummary, ...]:
    """Return the paired statistics of every figure that at least one target has in both forms.

    The test leaves out pairs without a difference (Wilcoxon's own rule) and is exact where none of
    the differences are tied, for up to 50 pairs.
    """
    return tuple(
        _summary(key, drawn, refined)
        for key in FIGURES
        for drawn, refined in (paired_values(rows, key),)
        if len(drawn)
    )


def describe(rows: Sequence[CohortRow]) -> dict[str, tuple[int, Spread]]:
    """Return number and spread of what describes pairs as a whole, by key of `DESCRIBED`."""
    described = {}
    for key in DESCRIBED:
        values = np.array([row.between[key] for row in rows if key in row.between])
        if len(values):
            described[key] = (len(values), _spread(values))
    return described


def _summary(key: str, drawn: np.ndarray, refined: np.ndarray) -> PairedSummary:
    difference = refined - drawn
    bias = float(difference.mean())
    agreement = None
    if len(difference) > 1:
        reach = AGREEMENT_SD * float(difference.std(ddof=1))
        agreement = bias - reach, bias + reach
    p = None
    if np.count_nonzero(difference) >= LEAST_PAIRS:
        p = float(stats.wilcoxon(difference, zero_method="wilcox").pvalue)
    return PairedSummary(
        key=key,
        pairs=len(difference),
        drawn=_spread(drawn),
        refined=_spread(refined),
        difference=_spread(difference),
        p=p,
        bias=bias,
        agreement=agreement,
    )


def _spread(values: np.ndarray) -> Spread:
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def _row(document: Mapping[str, Any], target: Mapping[str, Any]) -> CohortRow:
    case = document["case"]
    is_refined = target["refined_roi"] is not None
    drawn, refined = _figures(document, target)
    metrics = target["metrics"]
    return CohortRow(
        case_id=str(case["case_id"]),
        protocol=str(case["protocol"]),
        target=str(target["source_roi"]),
        is_refined=is_refined,
        drawn=drawn,
        refined=refined if is_refined else {},
        between={key: float(metrics[key]) for key in DESCRIBED if key in metrics},
    )


def _figures(
    document: Mapping[str, Any], target: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures of the drawn and the refined target; of dose by the first plan."""
    figures: dict[str, dict[str, float]] = {
        "drawn": {"volume_cm3": target["drawn_volume_cm3"]},
        "refined": {"volume_cm3": target["refined_volume_cm3"]},
    }
    contents = target.get("contents")
    if contents is not None:
        for version, key in (("drawn", "drawn_cm3"), ("refined", "final_cm3")):
            figures[version]["vessels_cm3"] = sum(content[key] for content in contents)
    plans = (document.get("dose") or {}).get("plans") or ()
    for structure in plans[0]["structures"] if plans else ():
        version = structure["version"]
        if structure["target"] == target["source_roi"] and version in figures:
            told = structure["figures"]
            figures[version] |= {key: told[key] for key in FIGURES if key in told}
    return figures["drawn"], figures["refined"]
