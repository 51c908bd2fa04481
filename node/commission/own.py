"""A department's own pairs: CT, MR and structure set, with landmarks or a trusted REG beside them.

The REG is never shown to the computation that is judged by it: it goes in a second time, as an
order, and both poses are compared. Every pair is also moved by a known motion and found again.
Nothing that could tell a patient leaves this module: pairs have numbers, series have numbers, and
sentences of the computation go through `anonymous`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from handlers.decode.images import decode_series
from handlers.geometry import Points
from node.commission import accuracy, altered, limits
from node.commission.computing import CaseFailedError, compute
from node.commission.figures import checkerboard
from node.commission.found_map import FoundRegistration, FoundResult
from node.commission.landmarks import read_landmarks
from node.commission.limits import Measurement
from node.commission.orientation import REPEATED, apart_mm, box_corners
from node.config import Config
from node.errors import NodeError
from node.process import gather

MOTION = ((5.0, -4.0, 6.0), (15.0, -10.0, 20.0))
"""Rotation in degrees and translation in mm by which an own pair's MR is moved."""

FROM_REG = "distance from the given REG at the +-40 mm box"
IDENTIFIERS = ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber")
SHORTEST_IDENTIFIER = 3


@dataclass(frozen=True, slots=True, eq=False)
class OwnPair:
    """What lies in one folder.

    Attributes:
        name: How the report calls it.
        images: All DICOM files but registrations.
        registrations: Spatial Registration objects of others.
        mr: Files of the MR.
        ct: Files of all CT.
        landmarks: Point pairs, or None.
        identifiers: What must never be told.
    """

    name: str
    images: tuple[Path, ...]
    registrations: tuple[Path, ...]
    mr: tuple[Path, ...]
    ct: tuple[Path, ...]
    landmarks: accuracy.TruePairs | None
    identifiers: frozenset[str]

    def anonymous(self, text: str) -> str:
        """Return a sentence without quotations, paths and known identifiers."""
        text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "…", text)
        for told in sorted(self.identifiers, key=len, reverse=True):
            text = re.sub(re.escape(told), "…", text, flags=re.IGNORECASE)
        return text


def read_own_pair(folder: Path, number: int) -> OwnPair:
    """Return what a folder holds.

    Raises:
        NodeError: There is no such folder, or its CSV files are not as they must be.
    """
    name = f"own {number}"
    if not folder.is_dir():
        raise NodeError(f"{name} is no folder", hint="name a folder with CT, MR and RTSTRUCT")
    tables = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".csv")
    if len(tables) > 1:
        raise NodeError(f"{name} holds {len(tables)} CSV files", hint="leave the landmarks' only")
    landmarks = read_landmarks(tables[0], f"{name}, landmarks") if tables else None
    instances = gather([folder]).instances
    paths: dict[str, list[Path]] = {}
    for instance in instances:
        paths.setdefault(instance.header.modality, []).append(Path(instance.path))
    return OwnPair(
        name=name,
        images=tuple(p for m, found in paths.items() if m != "REG" for p in found),
        registrations=tuple(paths.get("REG", ())),
        mr=tuple(paths.get("MR", ())),
        ct=tuple(paths.get("CT", ())),
        landmarks=landmarks,
        identifiers=_identifiers([found[0] for found in paths.values()]),
    )


def _identifiers(paths: Sequence[Path]) -> frozenset[str]:
    told = set()
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*IDENTIFIERS])
        for keyword in IDENTIFIERS:
            text = str(ds.get(keyword, ""))
            told |= {text, *re.split(r"[\^\s=,]+", text)}
    return frozenset(t for t in told if len(t) >= SHORTEST_IDENTIFIER)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPair:
    """What one own pair gave.

    Attributes:
        rows: What was measured.
        status: The verdict.
        picture: A checkerboard as PNG, or None.
        errors_mm: Lengths of the landmarks' errors; empty without landmarks.
    """

    rows: tuple[Measurement, ...]
    status: str
    picture: bytes | None
    errors_mm: Points


def measure_pair(pair: OwnPair, folder: Path, config: Config) -> MeasuredPair:
    """Compute and measure one pair below a new folder.

    Raises:
        CaseFailedError: It was refused or failed; without identifiers.
    """
    result = _result(pair, pair.images, folder / "result", config)
    found = result.only
    leading = _series(pair.mr, found.leading_series_uid)
    voxel_mm = _largest_voxel_mm(pair, result, leading)
    rows = list(_verdict_rows(pair, result, found))
    errors = np.zeros((0, 3))
    if pair.landmarks is not None:
        errors = accuracy.errors_mm(found, pair.landmarks)
        rows += _landmark_rows(pair, found, errors, voxel_mm)
    if pair.registrations:
        rows += _registration_rows(pair, found, folder, config, voxel_mm)
    rows += _repeated_rows(pair, found, folder, config)
    uids = {str(ds.SOPInstanceUID) for ds in leading}
    ct = _series(pair.ct, str(result.metrics["case"]["ct_series_uid"]), with_pixels=True)
    picture = checkerboard(ct, result.folder, uids, found.told["at_mm"])
    return MeasuredPair(tuple(rows), found.status, picture, np.linalg.norm(errors, axis=1))


def _result(pair: OwnPair, inputs: Sequence[Path], out: Path, config: Config) -> FoundResult:
    computed = compute(inputs, out, config)
    if computed.result is None:
        raise CaseFailedError(pair.anonymous(computed.reason))
    return computed.result


def _series(paths: Sequence[Path], uid: str, *, with_pixels: bool = False) -> list[pydicom.Dataset]:
    found: list[pydicom.Dataset] = []
    for path in paths:
        if pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID == uid:
            found.append(pydicom.dcmread(path, stop_before_pixels=not with_pixels))
    return found


def _largest_voxel_mm(
    pair: OwnPair, result: FoundResult, leading: Sequence[pydicom.Dataset]
) -> float:
    ct_uid = str(result.metrics["case"]["ct_series_uid"])
    ct = decode_series(_series(pair.ct, ct_uid, with_pixels=True), "CT").image
    mr_uid = str(leading[0].SeriesInstanceUID)
    mr = decode_series(_series(pair.mr, mr_uid, with_pixels=True), "MR").image
    if ct is None or mr is None:
        raise NodeError("the voxels of CT or MR cannot be measured")
    return accuracy.largest_edge_mm(ct.geometry, mr.geometry)


def _verdict_rows(
    pair: OwnPair, result: FoundResult, found: FoundRegistration
) -> Iterator[Measurement]:
    yield Measurement(pair.name, "verdict", found.status)
    if found.told["reasons"]:
        yield Measurement(pair.name, "reasons", pair.anonymous(" ".join(found.told["reasons"])))
    yield Measurement(pair.name, "stated uncertainty", found.uncertainty_mm, "mm")
    if found.grid is not None:
        low, high = found.grid.jacobian_bounds()
        yield Measurement(pair.name, "Jacobian, smallest", low, limit=limits.NO_FOLD)
        yield Measurement(pair.name, "Jacobian, largest", high)
    spent = float(result.metrics["timing_s"].get("registration", float("nan")))
    yield Measurement(pair.name, "time of registration", spent, "s")


def _landmark_rows(
    pair: OwnPair, found: FoundRegistration, errors: Points, voxel_mm: float
) -> Iterator[Measurement]:
    is_used = found.status == "pass"
    lengths = np.linalg.norm(errors, axis=1)
    outcome = limits.pose_outcome(found.status, float(np.median(lengths)))
    limit = limits.voxel_limit(voxel_mm)
    yield Measurement(pair.name, "pose against the verdict", outcome, limit=limits.NEVER_WRONG)
    for what, value in (
        (f"TRE of {len(errors)} own landmarks, median", float(np.median(lengths))),
        ("TRE of own landmarks, 95th percentile", float(np.percentile(lengths, 95))),
        ("TRE of own landmarks, largest", float(lengths.max())),
    ):
        yield Measurement(pair.name, what, value, "mm")
    mean = float(np.abs(errors.mean(axis=0)).max())
    yield Measurement(
        pair.name,
        "TRE of own landmarks, largest mean along an axis",
        mean,
        "mm",
        limit=limit if is_used else None,
    )
    largest = float(np.abs(errors).max())
    yield Measurement(pair.name, "TRE of own landmarks, largest along an axis", largest, "mm")


def _registration_rows(
    pair: OwnPair, found: FoundRegistration, folder: Path, config: Config, voxel_mm: float
) -> list[Measurement]:
    """Compare with the given REG, which is let in as an order."""
    ordered = config.model_copy(
        update={
            "protocol": tuple(
                p.model_copy(update={"registration": "as-sent"}) for p in config.protocol
            )
        }
    )
    result = _result(pair, [*pair.images, *pair.registrations], folder / "as-sent", ordered)
    findings = result.metrics["findings"]
    if not any(f["code"] == "reg.used" for f in findings):
        told = " ".join(f["text"] for f in findings if f["code"].startswith("reg."))
        raise CaseFailedError(f"the given REG cannot be used: {pair.anonymous(told)}")
    given = result.only
    corners = box_corners(found.told["at_mm"])
    apart = found.in_ct_axes(found.mr_points(corners) - given.ct_from_mr.inverse().apply(corners))
    limit = limits.voxel_limit(voxel_mm) if found.status == "pass" else None
    lengths = np.linalg.norm(apart, axis=1)
    axis = float(np.abs(apart).max())
    return [
        Measurement(pair.name, "verdict on the given REG", given.status),
        Measurement(pair.name, f"{FROM_REG}, median", float(np.median(lengths)), "mm"),
        Measurement(pair.name, f"{FROM_REG}, largest", float(lengths.max()), "mm"),
        Measurement(pair.name, f"{FROM_REG}, largest along an axis", axis, "mm", limit=limit),
    ]


def _repeated_rows(
    pair: OwnPair, found: FoundRegistration, folder: Path, config: Config
) -> list[Measurement]:
    """Move the MR by a known motion and find it again."""
    frame = found.ct_from_mr.from_frame_uid
    series = [ds for ds in altered.read_datasets(pair.mr) if ds.get("FrameOfReferenceUID") == frame]
    motion = altered.move(series, *MOTION)
    moved = altered.write_datasets(series, folder / "moved")
    rest = [path for path in pair.images if path not in pair.mr]
    again = _result(pair, [*rest, moved], folder / "moved-result", config).only
    apart = apart_mm(found, again, motion, found.told["at_mm"])
    is_used = found.status == again.status == "pass"
    limit = limits.REPEATABILITY_WORST if is_used else None
    return [
        Measurement(pair.name, "verdict on the moved MR", again.status),
        Measurement(pair.name, REPEATED, apart, "mm", limit=limit),
    ]
