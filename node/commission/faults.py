"""Faults planted into cases that passed: each must be flagged.

Wrong registrations arrive as Spatial Registration objects that the protocol orders to be used as
they were sent, so that nothing but the judgement stands between them and the target. Spoilt MR goes
the ordinary way.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset

from handlers.geometry import Points
from node.commission import accuracy, altered, limits
from node.commission.computing import computed_result, kit_config
from node.commission.kit import MeasuredCase
from node.commission.limits import Limit, Measurement
from node.config import Config
from node.phantom import PhantomOptions, export, make_study
from node.phantom.options import Size

SHIFT_DIRECTIONS = ((1, 0, 0), (0, 0, -1), (0, 1, 0), (-1, 0, 0), (0, 0, 1), (0, -1, 0))
TURN_AXES = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
OTHER_PATIENT_OFFSET = 500_000
"""The other patient's seed lies this far from the case's: never one of the kit's own."""

ALWAYS, OTHERS = (
    "5 mm shift",
    (
        "10 mm shift",
        "15 degree turn",
        "another patient's MR",
        "mirrored MR",
        "noise instead of MR",
    ),
)

PREFIX = "planted: "
LEADING_FOLDER = "MR_T1"


class FaultPlan:
    """Which faults are planted into which case: small shifts into all, the others in turn.

    Args:
        cases: How many cases there will be.
    """

    def __init__(self, cases: int) -> None:
        self._others = deque(OTHERS)
        self._each = -(-len(OTHERS) // max(cases, 1))
        self._directions = itertools.cycle(SHIFT_DIRECTIONS)
        self._axes = itertools.cycle(TURN_AXES)

    def next_faults(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the faults for the next case that passed, each with the direction it takes."""
        kinds = [ALWAYS]
        for _ in range(self._each):
            kinds.append(self._others[0])
            self._others.rotate(-1)
        return [(kind, next(self._axes if "turn" in kind else self._directions)) for kind in kinds]


def plant(
    measured: MeasuredCase, kind: str, direction: Sequence[int], folder: Path
) -> list[Measurement]:
    """Plant one fault into a case, compute it, and tell whether it was flagged.

    Args:
        measured: A case of which the MR is useful and the registration passed.
        kind: One of `limits.PLANTED_SHARE`.
        direction: Of the shift, or axis of the turn.
        folder: A new folder.

    Raises:
        CaseFailedError: It was refused or failed.
    """
    study = measured.folder / export.STUDY_FOLDER
    inputs = [study / "CT", study / "RTSTRUCT.dcm"]
    if kind in ("5 mm shift", "10 mm shift", "15 degree turn"):
        config = kit_config(as_sent=True)
        inputs += [study / LEADING_FOLDER, _wrong_registration(measured, kind, direction, folder)]
    else:
        config = kit_config()
        inputs.append(_spoilt_series(measured, kind, folder))
    return list(_judged(measured, kind, inputs, config, folder / "result"))


def _wrong_registration(
    measured: MeasuredCase, kind: str, direction: Sequence[int], folder: Path
) -> Path:
    size, unit, _ = kind.split(" ")
    amount = [float(size) * d for d in direction]
    right = measured.result.only.ct_from_mr
    at_mm = measured.study.target_centre_mm
    wrong = (
        altered.off_by(right, at_mm, shift_mm=amount)
        if unit == "mm"
        else altered.off_by(right, at_mm, turn_deg=amount)
    )
    return altered.write_datasets(
        [altered.spatial_registration(measured.study.ct[0], wrong)], folder / "REG"
    )


def _spoilt_series(measured: MeasuredCase, kind: str, folder: Path) -> Path:
    series = folder / "MR"
    seed = measured.case.seed
    if kind == "another patient's MR":
        return altered.write_datasets(
            _of_another_patient(seed + OTHER_PATIENT_OFFSET, measured.case.size, measured), series
        )
    own = measured.folder / export.STUDY_FOLDER / LEADING_FOLDER
    datasets = altered.read_datasets(sorted(own.iterdir()))
    change: Callable[[altered.Voxels], altered.Voxels] = (
        altered.mirrored if kind == "mirrored MR" else altered.noise(seed)
    )
    altered.change_voxels(datasets, change)
    return altered.write_datasets(datasets, series)


def _of_another_patient(seed: int, size: Size, measured: MeasuredCase) -> Sequence[Dataset]:
    options = PhantomOptions.for_seed(seed, small=size != "full")
    other = make_study(replace(options, size=size, contrasts=("T1",), with_dose=False)).mr["T1"]
    altered.identify_as(other, measured.study.ct[0])
    return other


def _judged(
    measured: MeasuredCase, kind: str, inputs: Sequence[Path], config: Config, out: Path
) -> Iterator[Measurement]:
    name = f"{measured.case.name}, {kind}"
    found = computed_result(inputs, out, config).only
    # mirrored content has no right pose: it counts like the others
    flagged = limits.FLAGGED if found.status != "pass" else limits.UNNOTICED
    if "shift" in kind or "turn" in kind:
        pairs = accuracy.TruePairs(*_leading_pairs(measured))
        error = float(np.median(np.linalg.norm(accuracy.errors_mm(found, pairs), axis=1)))
        yield Measurement(name, "planted error, TRE median", error, "mm")
    yield Measurement(name, "verdict", found.status)
    if found.told["reasons"]:
        yield Measurement(name, "reasons", " ".join(found.told["reasons"]))
    yield Measurement(name, f"{PREFIX}{kind}", flagged, limit=_limit(kind))


def _limit(kind: str) -> Limit | None:
    """Return the limit of a single planted fault: none where a share of them may be missed."""
    return limits.NOT_UNNOTICED if limits.PLANTED_SHARE[kind].bound >= 100.0 else None


def _leading_pairs(measured: MeasuredCase) -> tuple[Points, Points]:
    offsets = np.random.default_rng(measured.case.seed).uniform(-25.0, 25.0, (200, 3))
    points = offsets + np.array(measured.study.target_centre_mm)
    return points, measured.study.mr_points(points, "T1")


def share_rows(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return, for each kind of fault, the share in percent that was flagged.

    What was not tested is not met: a commissioning without it is none.
    """
    shares = []
    for kind, limit in limits.PLANTED_SHARE.items():
        found = [r.value for r in rows if r.what == f"{PREFIX}{kind}"]
        if not found:
            shares.append(Measurement("all", f"{PREFIX}{kind}", "not tested", limit=limit))
            continue
        share = 100.0 * sum(v in (limits.FLAGGED, limits.RIGHT) for v in found) / len(found)
        what = f"{PREFIX}{kind}, share flagged of {len(found)}"
        shares.append(Measurement("all", what, share, "%", limit=limit))
    return shares
