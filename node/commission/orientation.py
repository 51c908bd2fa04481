"""Orientation: the same patient from other starts, positions and planes, and with turned labels.

On small grids and the leading series alone: it is the pose that is tested, not the last tenth of a
millimetre. Each answer is right, flagged, or wrong and accepted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handlers.geometry import Points, RigidTransform
from node.commission import accuracy, altered, limits
from node.commission.computing import computed_result, kit_config
from node.commission.found_map import FoundRegistration
from node.commission.limits import Measurement
from node.phantom import PhantomOptions, PhantomStudy, export, make_study
from node.phantom.options import Size

PREFIX = "orientation: "
OUTCOME = "orientation, pose against the verdict"
REPEATED = "repeatability, same MR moved by a known motion"

MOTIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "start 60 mm off": ((0.0, 0.0, 0.0), (35.0, -35.0, 35.0)),
    "start 20 degrees off": ((11.0, -11.0, 12.5), (0.0, 0.0, 0.0)),
    "start 400 mm off along z": ((0.0, 0.0, 0.0), (0.0, 0.0, -400.0)),
    "label turned by 180 degrees about x": ((180.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "label turned by 180 degrees about y": ((0.0, 180.0, 0.0), (0.0, 0.0, 0.0)),
    "label turned by 180 degrees about z": ((0.0, 0.0, 180.0), (0.0, 0.0, 0.0)),
}
"""Rotation in degrees about x, y and z, and translation in mm, of the MR in a frame of its own."""

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"CT in position {p}": {"patient_position": p} for p in ("HFP", "FFS", "FFP")},
    **{f"MR plane {p}": {"mr_plane": p} for p in ("sagittal", "coronal", "oblique")},
}
"""Options of a phantom of its own for each."""

TESTS = ("as it is", *MOTIONS, *VARIANTS)


@dataclass(frozen=True, slots=True, eq=False)
class PlainCase:
    """The case as it is, against which the moved ones are held."""

    study: PhantomStudy
    folder: Path
    found: FoundRegistration


def orientation_options(seed: int, size: Size, **change: Any) -> PhantomOptions:
    """Return an ordinary case with axial MR of one series."""
    options = PhantomOptions.for_seed(seed, small=size != "full")
    plain = {"mr_plane": "axial", "contrasts": ("T1",), "with_dose": False, "size": size}
    return replace(options, **{**plain, **change})


class OrientationTests:
    """The tests of one seed, one after the other.

    Args:
        seed: The patient.
        size: Of the grids.
        folder: A new folder for all their files.
    """

    def __init__(self, seed: int, size: Size, folder: Path) -> None:
        self._seed, self._size, self._folder = seed, size, folder
        self._plain: PlainCase | None = None

    def run(self, test: str) -> list[Measurement]:
        """Return what one of `TESTS` gave.

        Raises:
            CaseFailedError: It was refused or failed.
        """
        if test in VARIANTS:
            study = make_study(orientation_options(self._seed, self._size, **VARIANTS[test]))
            out = self._folder / _file_name(test)
            export.write_study(study, out)
            found = computed_result([out / export.STUDY_FOLDER], out / "result", kit_config()).only
            return list(_judged(test, found, _errors(study, found, None)))
        plain = self._as_it_is()
        if test not in MOTIONS:
            return list(_judged(test, plain.found, _errors(plain.study, plain.found, None)))
        return self._moved(test, plain)

    def _as_it_is(self) -> PlainCase:
        if self._plain is None:
            study = make_study(orientation_options(self._seed, self._size))
            out = self._folder / "plain"
            export.write_study(study, out)
            found = computed_result([out / export.STUDY_FOLDER], out / "result", kit_config()).only
            self._plain = PlainCase(study, out, found)
        return self._plain

    def _moved(self, test: str, plain: PlainCase) -> list[Measurement]:
        study = plain.folder / export.STUDY_FOLDER
        series = altered.read_datasets(sorted((study / "MR_T1").iterdir()))
        motion = altered.move(series, *MOTIONS[test])
        out = self._folder / _file_name(test)
        moved = altered.write_datasets(series, out / "MR")
        inputs = [study / "CT", study / "RTSTRUCT.dcm", moved]
        found = computed_result(inputs, out / "result", kit_config()).only
        rows = list(_judged(test, found, _errors(plain.study, found, motion)))
        is_start = test.startswith("start")
        if is_start and found.status == plain.found.status == "pass":
            apart = apart_mm(plain.found, found, motion, plain.study.target_centre_mm)
            rows.append(Measurement(f"{PREFIX}{test}", REPEATED, apart, "mm"))
        return rows


def apart_mm(
    plain: FoundRegistration,
    again: FoundRegistration,
    moved_from_mr: RigidTransform,
    centre_mm: Sequence[float],
) -> float:
    """Return how far both maps lie apart at the corners of a +-40 mm box, at worst, in mm.

    Args:
        plain: Of the MR as it is.
        again: Of the moved MR.
        moved_from_mr: The known motion.
        centre_mm: Middle of the box, LPS mm in the CT's frame.
    """
    corners = box_corners(centre_mm)
    expected = moved_from_mr.apply(plain.mr_points(corners))
    return float(np.linalg.norm(again.mr_points(corners) - expected, axis=1).max())


def box_corners(centre_mm: Sequence[float], half_mm: float = 40.0) -> Points:
    """Return the corners of a box about a point, shape (8, 3), LPS mm."""
    signs = np.indices((2, 2, 2)).reshape(3, -1).T * 2.0 - 1.0
    return np.asarray(np.array(centre_mm, dtype=np.float64) + half_mm * signs)


def _errors(
    study: PhantomStudy, found: FoundRegistration, moved_from_mr: RigidTransform | None
) -> Points:
    offsets = np.random.default_rng(1).uniform(-25.0, 25.0, (200, 3))
    points = offsets + np.array(study.target_centre_mm)
    true = study.mr_points(points, "T1")
    pairs = accuracy.TruePairs(points, true if moved_from_mr is None else moved_from_mr.apply(true))
    lengths: Points = np.linalg.norm(accuracy.errors_mm(found, pairs), axis=1)
    return lengths


def _judged(test: str, found: FoundRegistration, errors: Points) -> Iterator[Measurement]:
    name, median = f"{PREFIX}{test}", float(np.median(errors))
    outcome = limits.pose_outcome(found.status, median)
    yield Measurement(name, "verdict", found.status)
    if found.told["reasons"]:
        yield Measurement(name, "reasons", " ".join(found.told["reasons"]))
    yield Measurement(name, "error about the target, median", median, "mm")
    yield Measurement(name, OUTCOME, outcome, limit=limits.NEVER_WRONG)


def _file_name(test: str) -> str:
    return test.replace(" ", "-")
