"""All cases together, against the limits: the first page of the report.

Pure: rows in, rows out. A question that no case could answer is told as `not tested`;
where a commissioning cannot do without the answer, the limit counts as not met.
"""

from collections.abc import Callable, Sequence

import numpy as np

from node.commission import faults, kit, limits, orientation
from node.commission.limits import Limit, Measurement

ALL = "all"
NOT_TESTED = "not tested"
STATUS = "case"
"""Name of the row that tells of a case that failed."""

Reduce = Callable[[list[float]], float]


def summary_rows(
    rows: Sequence[Measurement], *, is_full_size: bool, with_kit: bool
) -> list[Measurement]:
    """Return the measurements of all cases together.

    Args:
        rows: All rows of the cases.
        is_full_size: Whether the bars for time hold.
        with_kit: Whether cases of the kit were asked for, or only own pairs.
    """
    found = _kit_rows(rows, is_full_size=is_full_size) if with_kit else []
    repeated = _values(rows, orientation.REPEATED)
    what = "repeatability over known motions"
    found += [
        _reduced(f"{what}, median", repeated, np.median, "mm", limits.REPEATABILITY_MEDIAN),
        _reduced(f"{what}, worst", repeated, max, "mm", limits.REPEATABILITY_WORST),
    ]
    wrong = sum(r.value == limits.WRONG for r in rows)
    failed = sum(r.what == STATUS for r in rows)
    folds = _values(rows, "Jacobian, smallest")
    return [
        *found,
        _reduced("smallest Jacobian of any deformation", folds, min, "", limits.NO_FOLD),
        Measurement(ALL, "wrong poses accepted", float(wrong), limit=limits.NONE_WRONG),
        Measurement(
            ALL, "cases that failed or were cut short", float(failed), limit=limits.NONE_FAILED
        ),
    ]


def _kit_rows(rows: Sequence[Measurement], *, is_full_size: bool) -> list[Measurement]:
    verdicts = [r for r in rows if r.what == kit.VERDICT and r.series]
    passed = {(r.case, r.series) for r in verdicts if r.value == "pass"}
    medians = [
        float(r.value) for r in rows if r.what == kit.MEDIAN and (r.case, r.series) in passed
    ]
    below, alarms = _values(rows, kit.BELOW), _values(rows, kit.NOT_PASSED)
    times = [float(r.value) for r in rows if r.what == kit.REGISTRATION_TIME and "kit" in r.case]
    time_limit = limits.REGISTRATION_S if is_full_size else None
    tre = f"TRE within 40 mm, {len(medians)} accepted cases"
    poses = [r.value for r in rows if r.what == orientation.OUTCOME]
    right = [100.0 * (value == limits.RIGHT) for value in poses]
    return [
        _reduced(
            f"{tre}, mean of medians",
            medians,
            np.mean,
            "mm",
            limits.TRE_MEAN_OF_MEDIANS,
            is_required=True,
        ),
        _reduced(
            f"{tre}, worst median", medians, max, "mm", limits.TRE_WORST_MEDIAN, is_required=True
        ),
        _share(
            f"true error below the stated one, {len(below)} targets",
            below,
            limits.UNCERTAINTY_SHARE,
        ),
        _share(f"false alarms, {len(alarms)} good cases", alarms, limits.FALSE_ALARMS),
        _reduced("longest registration", times, max, "s", time_limit),
        _reduced(
            "largest peak memory of a computing process",
            _values(rows, kit.PEAK),
            max,
            "MiB",
            limits.PEAK_MIB if is_full_size else None,
        ),
        *faults.share_rows(rows),
        _reduced(
            f"orientation tests right, of {len(poses)}",
            right,
            np.mean,
            "%",
            limits.RIGHT_SHARE,
            is_required=True,
        ),
    ]


def _values(rows: Sequence[Measurement], what: str) -> list[float]:
    return [float(r.value) for r in rows if r.what == what]


def _share(what: str, values: list[float], limit: Limit) -> Measurement:
    return _reduced(what, [100.0 * v for v in values], np.mean, "%", limit)


def _reduced(
    what: str,
    values: list[float],
    reduce: Reduce,
    unit: str,
    limit: Limit | None,
    *,
    is_required: bool = False,
) -> Measurement:
    if not values:
        return Measurement(ALL, what, NOT_TESTED, limit=limit if is_required else None)
    return Measurement(ALL, what, float(reduce(values)), unit, limit=limit)
