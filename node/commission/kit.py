"""The kit's cases: each made from its seed, sent through the node, and measured against its truth.

Read first: `node.phantom.truth` (what is known about a case).
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handlers.geometry import Points
from node.commission import accuracy, limits
from node.commission.computing import CaseFailedError, Computed, compute, kit_config
from node.commission.figures import checkerboard
from node.commission.found_map import FoundRegistration, FoundResult
from node.commission.limits import Limit, Measurement
from node.phantom import PhantomOptions, PhantomStudy, export, make_study
from node.phantom.options import Size

MEDIAN = "TRE within 40 mm, median"
TRUE_ERROR = "true error at the target's centre"
STATED = "stated uncertainty"
VERDICT = "verdict"
POSE = "pose against the verdict"
BELOW = "true error below the stated uncertainty"
REGISTRATION_TIME = "time of registration"
NOT_PASSED = "good case not passed"
PEAK = "peak memory of the computing process"
USELESS_CHANGED = "useless MR: target contour"
"""Names of rows that the summary looks for."""


@dataclass(frozen=True, slots=True)
class KitCase:
    """One case of the kit.

    Attributes:
        seed: Which.
        is_hard: Drawn from the hard ranges.
        size: Of the grids.
    """

    seed: int
    is_hard: bool
    size: Size

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"kit {self.seed}{' hard' if self.is_hard else ''}"

    @property
    def options(self) -> PhantomOptions:
        """What the phantom is asked for."""
        options = PhantomOptions.for_seed(self.seed, hard=self.is_hard, small=self.size != "full")
        return replace(options, size=self.size)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCase:
    """A case that was computed and measured.

    Attributes:
        case: Which.
        study: The phantom.
        folder: Holds `study/` and `truth/`.
        result: What was found.
        rows: What was measured.
        errors_mm: Length of the error of each landmark in the leading series.
        picture: A checkerboard as PNG, or None.
    """

    case: KitCase
    study: PhantomStudy
    folder: Path
    result: FoundResult
    rows: tuple[Measurement, ...]
    errors_mm: Points
    picture: bytes | None

    @property
    def is_useful(self) -> bool:
        """Whether the MR can tell anything about the target."""
        variety = self.study.options.variety
        return variety is None or variety.is_mr_useful


def measure_case(case: KitCase, folder: Path, on_step: Callable[[str], None]) -> MeasuredCase:
    """Make, compute and measure one case below a new folder.

    Raises:
        CaseFailedError: It was refused or failed.
    """
    on_step(f"{case.name}: make the patient")
    study = make_study(case.options)
    export.write_study(study, folder)
    truth = json.loads((folder / export.TRUTH_FOLDER / "truth.json").read_text(encoding="utf-8"))
    on_step(f"{case.name}: compute")
    computed = compute([folder / export.STUDY_FOLDER], folder / "result", kit_config())
    if computed.result is None:
        raise CaseFailedError(computed.reason)
    on_step(f"{case.name}: measure")
    began = time.monotonic()
    result = computed.result
    found, leading = result.only, _contrast(truth, result.only.leading_series_uid)
    rows = [
        *_verdict_rows(case, truth, result, found, leading),
        *_error_rows(case, study, truth, found, leading),
        *_map_rows(case, study, truth, found),
        *accuracy.overlap_rows(case.name, found, study, leading, is_used=found.status == "pass"),
        *accuracy.contour_rows(case.name, result, study, _organ_volumes(truth)),
        *_time_rows(case, computed, result),
    ]
    rows.append(Measurement(case.name, "time of measuring", time.monotonic() - began, "s"))
    errors = accuracy.errors_mm(found, accuracy.true_pairs(truth, leading))
    return MeasuredCase(
        case=case,
        study=study,
        folder=folder,
        result=result,
        rows=tuple(rows),
        errors_mm=np.linalg.norm(errors, axis=1),
        picture=checkerboard(
            study.ct,
            result.folder,
            {str(ds.SOPInstanceUID) for ds in study.mr[leading]},
            study.target_centre_mm,
        ),
    )


def _contrast(truth: dict[str, Any], series_uid: str) -> str:
    names = [c for c, s in truth["series"].items() if s["series_instance_uid"] == series_uid]
    return str(names[0])


def _organ_volumes(truth: dict[str, Any]) -> dict[str, float]:
    # the outline of the body is cut by the couch in no phantom, but says nothing about the target
    return {n: v for n, v in truth["organ_volumes_cm3"].items() if n != "External" and v > 0}


def _verdict_rows(
    case: KitCase,
    truth: dict[str, Any],
    result: FoundResult,
    found: FoundRegistration,
    leading: str,
) -> Iterator[Measurement]:
    name = case.name
    pairs = accuracy.true_pairs(truth, leading)
    median = float(np.median(np.linalg.norm(accuracy.errors_mm(found, pairs), axis=1)))
    outcome = limits.pose_outcome(found.status, median)
    is_useful = bool(truth["case"]["mr_useful"])
    yield Measurement(name, "features", "; ".join(truth["case"]["features"]) or "nothing uncommon")
    yield Measurement(name, VERDICT, found.status, series=leading)
    if found.told["reasons"]:
        yield Measurement(name, "reasons", " ".join(found.told["reasons"]), series=leading)
    yield Measurement(name, POSE, outcome, series=leading, limit=limits.NEVER_WRONG)
    if is_useful and outcome == limits.RIGHT:
        yield Measurement(name, NOT_PASSED, float(found.status != "pass"))
    if not is_useful:
        (target,) = result.metrics["targets"]
        limit = Limit("one of", limits.OWN_RULE, allowed=("abstained",))
        yield Measurement(name, USELESS_CHANGED, str(target["status"]), limit=limit)


def _error_rows(
    case: KitCase,
    study: PhantomStudy,
    truth: dict[str, Any],
    found: FoundRegistration,
    leading: str,
) -> Iterator[Measurement]:
    is_used = found.status == "pass"
    spacings = _spacings_mm(study)
    for contrast, told in truth["series"].items():
        is_limited = is_used and contrast == leading
        limit = limits.voxel_limit(max(spacings["CT"], spacings[contrast]))
        errors = accuracy.errors_mm(
            found, accuracy.true_pairs(truth, contrast), told["series_instance_uid"]
        )
        rows = accuracy.error_rows(
            case.name, errors, series=contrast, axis_limit=limit if is_limited else None
        )
        is_warped = is_limited and found.grid is not None
        yield from accuracy.warp_limits(rows) if is_warped else rows
    centre = np.array([truth["target"]["centre_mm"]])
    pair = accuracy.TruePairs(centre, study.mr_points(centre, leading))
    at_centre = accuracy.errors_mm(found, pair)[0]
    error = float(np.linalg.norm(at_centre))
    yield Measurement(case.name, STATED, found.uncertainty_mm, "mm", leading)
    yield Measurement(case.name, TRUE_ERROR, error, "mm", leading)
    voxel = limits.voxel_limit(max(spacings["CT"], spacings[leading])) if is_used else None
    what, along = f"{TRUE_ERROR}, largest along an axis", float(np.abs(at_centre).max())
    yield Measurement(case.name, what, along, "mm", leading, voxel)
    if found.status != "fail":
        is_below = float(error <= found.uncertainty_mm)
        yield Measurement(case.name, BELOW, is_below, series=leading)


def _spacings_mm(study: PhantomStudy) -> dict[str, float]:
    """Return the longest edge of a voxel of the CT and of each series."""
    series = {"CT": study.ct, **study.mr}
    return {
        name: max(float(v) for v in (images[0].SliceThickness, *images[0].PixelSpacing))
        for name, images in series.items()
    }


def _map_rows(
    case: KitCase, study: PhantomStudy, truth: dict[str, Any], found: FoundRegistration
) -> Iterator[Measurement]:
    name = case.name
    points = np.array(truth["landmarks"]["ct"])
    pose = found.ct_from_mr.inverse().apply(points)
    apart = found.ct_from_mr.largest_distance_mm(found.told_ct_from_mr, pose)
    yield Measurement(
        name, "written map off the computed one", apart, "mm", limit=limits.WRITTEN_AS_COMPUTED
    )
    spacings = _spacings_mm(study)
    leading = _contrast(truth, found.leading_series_uid)
    voxel = limits.voxel_limit(max(spacings["CT"], spacings[leading]))
    back = found.forth_and_back_mm(points)
    yield Measurement(name, "forth and back", back, "mm", limit=voxel)
    yield Measurement(name, "deformation", "used" if found.grid else "none: rigid stands")
    if found.grid is not None:
        low, high = found.grid.jacobian_bounds()
        yield Measurement(name, "Jacobian, smallest", low, limit=limits.NO_FOLD)
        yield Measurement(name, "Jacobian, largest", high)
    for key, value in found.told["quality"].items():
        yield Measurement(name, f"figure: {key}", float(value))


def _time_rows(case: KitCase, computed: Computed, result: FoundResult) -> Iterator[Measurement]:
    limit = limits.REGISTRATION_S if case.size == "full" else None
    spent = result.metrics["timing_s"]
    if "registration" in spent:
        yield Measurement(case.name, REGISTRATION_TIME, spent["registration"], "s", limit=limit)
    for step, value in spent.items():
        if step != "registration":
            yield Measurement(case.name, f"time of {step}", float(value), "s")
    yield Measurement(case.name, "time of all, reading and writing included", computed.seconds, "s")
    if computed.peak_mib:
        peak_limit = limits.PEAK_MIB if case.size == "full" else None
        yield Measurement(case.name, PEAK, computed.peak_mib, "MiB", limit=peak_limit)
