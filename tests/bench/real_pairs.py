"""Registration on the public real pairs: tables to read and checkerboards to look at.

Run by hand: `HILUM_REAL_DATA=FOLDER python tests/bench/real_pairs.py OUT [--pairs STS_010 ...]`.
Reference: the two independent engines of `two_engines.json`; there is no exact truth.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pydicom
from skimage.draw import polygon2mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from handlers.geometry import Geometry, RigidTransform
from handlers.registration import RegistrationSettings, register_frame
from handlers.registration.consensus import box_corners, median_distance_mm, moved_by
from handlers.results import Registration, RegistrationStatus
from handlers.sampling import resample
from handlers.values import Image, Mask

mpl.use("Agg")
from matplotlib import pyplot as plt

NEW_FRAME = "1.2.826.0.1.77"
HARD_PAIRS = ("STS_006", "STS_028", "STS_034")
"""The outside engines disagree on them by more than 2 mm."""

MOTIONS = (
    ((5, -4, 6), (15, -10, 20)),
    ((-8, 5, -7), (-30, 25, -40)),
    ((14, 10, -9), (40, -30, 30)),
    ((-11, 12, 11), (-20, 40, 45)),
    ((3, -18, 5), (10, 20, -55)),
)
"""Angles in degrees and shifts in mm."""
SETTINGS = RegistrationSettings()


def read_series(folder: Path, modality: str, contrast: str = "") -> Image:
    """Return an evenly spaced axial series."""
    slices = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    begin, end = (np.array(slices[k].ImagePositionPatient, dtype=float) for k in (0, -1))
    row_mm, column_mm = (float(s) for s in slices[0].PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack(
        [(end - begin) / (len(slices) - 1), (0.0, row_mm, 0.0), (column_mm, 0.0, 0.0)]
    )
    matrix[:3, 3] = begin
    voxels = np.stack(
        [
            ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
            for ds in slices
        ]
    )
    geometry = Geometry(str(slices[0].FrameOfReferenceUID), matrix, voxels.shape)
    uid = str(slices[0].SeriesInstanceUID)
    return Image(geometry, voxels.astype(np.float32), modality, uid, contrast, contrast)


def read_roi(path: Path, name: str, ct: Image) -> Mask:
    """Return an ROI's voxels on the CT grid."""
    ds = pydicom.dcmread(path)
    number = next(int(r.ROINumber) for r in ds.StructureSetROISequence if r.ROIName == name)
    inside = np.zeros(ct.geometry.shape, dtype=bool)
    for roi in ds.ROIContourSequence:
        if int(roi.ReferencedROINumber) != number:
            continue
        for contour in roi.ContourSequence:
            corners = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            at = ct.geometry.indices_from_points(corners)
            if 0 <= round(at[0, 0]) < len(inside):
                inside[round(at[0, 0])] ^= polygon2mask(ct.geometry.shape[1:], at[:, 1:])
    return Mask(ct.geometry, inside)


def read_pair(root: Path, name: str) -> tuple[Image, Image, Mask]:
    """Return CT, MR and target of a sarcoma patient."""
    folder = root / "sarcoma-ct-mr" / name
    ct = read_series(folder / "CT/image", "CT")
    mr = read_series(folder / "MR_T1/image", "MR", "T1")
    return ct, mr, read_roi(folder / "CT/mask/RS.dcm", "GTV_Mass_CT", ct)


def moved(mr: Image, rotation_deg: Any, translation_mm: Any) -> tuple[Image, RigidTransform]:
    """Return the MR moved about its centre in a frame of its own, and the motion."""
    moved_from_mr = RigidTransform.from_parameters(
        rotation_deg=rotation_deg,
        translation_mm=translation_mm,
        centre_mm=mr.geometry.centre_mm(),
        to_frame_uid=NEW_FRAME,
        from_frame_uid=mr.geometry.frame_of_reference_uid,
    )
    matrix = moved_from_mr.matrix @ mr.geometry.patient_from_index
    geometry = Geometry(NEW_FRAME, matrix, mr.geometry.shape)
    uid = mr.series_instance_uid
    return Image(geometry, mr.voxels, "MR", uid, mr.description, mr.contrast), moved_from_mr


def timed(ct: Image, mr: list[Image], target: Mask) -> tuple[Registration, float]:
    """Return a registration and the CPU seconds it took."""
    began = time.process_time()
    registration = register_frame(ct, mr, [target], SETTINGS)
    return registration, time.process_time() - began


def from_nearer_engine_mm(registration: Registration, engines: dict[str, Any]) -> float:
    """Return the median distance at the box corners from the nearer of the two engines."""
    corners = box_corners(engines["box_centre_mm"], SETTINGS.box_half_mm)
    ours = registration.ct_from_mr.inverse().apply(corners)
    theirs = [np.array(m) for m in engines["mr_from_ct"].values()]
    apart = [np.linalg.norm(ours - corners @ m[:3, :3].T - m[:3, 3], axis=1) for m in theirs]
    return float(min(np.median(a) for a in apart))


def row(name: str, registration: Registration, seconds: float, distance_mm: float) -> None:
    """Print one line of a table, and the reasons below it."""
    q = registration.quality
    figures = " ".join(f"{key}={value:.2f}" for key, value in q.items())
    print(
        f"{name:24s} {registration.status!s:5s} uncertainty {registration.uncertainty_mm:6.1f} mm"
        f"  engine {distance_mm:5.1f} mm  {seconds:5.1f} s  {figures}",
        flush=True,
    )
    for reason in registration.reasons:
        print(f"{'':24s}   {reason}")


def checkerboard(path: Path, ct: Image, mr: Image, target: Mask, found: Registration) -> None:
    """Write CT against resampled MR through the target, axial, coronal and sagittal."""
    shown, _ = resample(mr, ct.geometry, found.ct_from_mr)
    bright = np.percentile(mr.voxels, 99)
    pictures = (np.clip((ct.voxels + 160) / 400, 0, 1), np.clip(shown.voxels / bright, 0, 1))
    middle = np.argwhere(target.inside).mean(axis=0).round().astype(int)
    spacing = ct.geometry.spacing_mm
    figure, axes = plt.subplots(2, 3, figsize=(15, 10))
    for axis in range(3):
        a, b, outline = (np.take(v, middle[axis], axis=axis) for v in (*pictures, target.inside))
        edges_mm = [s for k, s in enumerate(spacing) if k != axis]
        tile = np.indices(a.shape) * np.array(edges_mm).reshape(2, 1, 1) // 25.0
        board = np.where(tile.sum(axis=0) % 2 == 0, a, b)
        for place, picture in enumerate((board, b)):
            view = axes[place, axis]
            view.imshow(
                picture,
                cmap="gray",
                aspect=edges_mm[0] / edges_mm[1],
                origin="upper" if axis == 0 else "lower",
            )
            view.contour(outline, [0.5], colors="r", linewidths=0.8)
            if place:
                view.contour(a, [0.05], colors="c", linewidths=0.5)
            view.axis("off")
    figure.suptitle(f"{path.stem}: {found.status}")
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    plt.close(figure)


def table_of_pairs(root: Path, names: list[str], out: Path) -> dict[str, Registration]:
    """Bar 2: every pair as it is."""
    listed = json.loads((root / "sarcoma-ct-mr/two_engines.json").read_text())
    engines = {entry["case"]: entry for entry in listed}
    found, distances = {}, []
    for name in names:
        ct, mr, target = read_pair(root, name)
        found[name], seconds = timed(ct, [mr], target)
        distance = float("nan")
        if name in engines:
            distance = from_nearer_engine_mm(found[name], engines[name])
            distances.append(distance)
        row(name, found[name], seconds, distance)
        checkerboard(out / f"{name}.png", ct, mr, target, found[name])
    if distances:
        print(f"median {np.median(distances):.2f} mm, worst {max(distances):.2f} mm")
    return found


def table_of_moved(root: Path, found: dict[str, Registration]) -> None:
    """Bar 1: the same pair after five known motions each, the motion taken out."""
    apart_mm, passed = [], []
    for name in (n for n in found if n not in HARD_PAIRS):
        ct, mr, target = read_pair(root, name)
        for rotation_deg, translation_mm in MOTIONS:
            other, moved_from_mr = moved(mr, rotation_deg, translation_mm)
            again, seconds = timed(ct, [other], target)
            plain = found[name].ct_from_mr
            corners = box_corners(found[name].centre_mm, 40.0)
            poses = ((again.ct_from_mr @ moved_from_mr).inverse(), plain.inverse())
            apart_mm.append(median_distance_mm(*poses, corners))
            passed.append(again.status is RegistrationStatus.PASS)
            print(
                f"{name} moved by {translation_mm} mm, {rotation_deg} deg: {apart_mm[-1]:.2f} mm "
                f"from the unmoved result, {again.status}, {seconds:.1f} s {again.reasons or ''}",
                flush=True,
            )
    if apart_mm:
        print(
            f"moved: median {np.median(apart_mm):.2f} mm (bar 0.7), worst {max(apart_mm):.2f} mm "
            f"(bar 2.0); not passed {passed.count(False)} of {len(passed)}"
        )


def table_of_planted(root: Path, found: dict[str, Registration]) -> None:
    """Bar 2: a wrong alignment that is sent and ordered to be used must be flagged."""
    ordered = replace(SETTINGS, use_as_sent=True)
    random = np.random.default_rng(5)
    flagged: dict[str, list[bool]] = {}
    for name in (n for n in found if n not in HARD_PAIRS):
        ct, mr, target = read_pair(root, name)
        pose = found[name].ct_from_mr.inverse()
        for fault in ("none", "5 mm", "10 mm", "15 degrees"):
            direction = random.normal(size=3)
            direction /= np.linalg.norm(direction)
            push = {
                "none": np.zeros(6),
                "5 mm": np.concatenate([np.zeros(3), 5 * direction]),
                "10 mm": np.concatenate([np.zeros(3), 10 * direction]),
                "15 degrees": np.array([15.0, 0, 0, 0, 0, 0]),
            }[fault]
            sent = moved_by(pose, push, found[name].centre_mm).inverse()
            judged = register_frame(ct, [mr], [target], ordered, sent=[sent])
            is_flagged = judged.status is not RegistrationStatus.PASS
            flagged.setdefault(fault, []).append(is_flagged)
            print(f"{name} planted {fault}: {judged.status} {judged.reasons or ''}", flush=True)
    for fault, answers in flagged.items():
        print(f"planted {fault}: flagged {answers.count(True)} of {len(answers)}")


def table_of_negatives(root: Path, out: Path) -> None:
    """Bar 3: another patient, noise, and a mirrored MR must not pass."""
    ct = read_series(root / "pancreas-ct/CT", "CT")
    target = read_roi(root / "pancreas-ct/RTSTRUCT.dcm", "ROI", ct)
    t2 = read_series(root / "liver-mr/T2", "MR", "T2")
    adc = read_series(root / "liver-mr/ADC", "MR", "ADC")
    for name, series in (("other-T2", [t2]), ("other-ADC", [adc]), ("other-both", [adc, t2])):
        found, seconds = timed(ct, series, target)
        row(name, found, seconds, float("nan"))
        checkerboard(out / f"{name}.png", ct, series[-1], target, found)
    ct, mr, target = read_pair(root, "STS_010")
    spoilt: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "noise": lambda v: np.random.default_rng(0).uniform(0, 500, v.shape),
        "mirrored": lambda v: v[::-1].copy(),
    }
    for name, spoil in spoilt.items():
        voxels = np.asarray(spoil(mr.voxels), dtype=np.float32)
        image = Image(mr.geometry, voxels, "MR", mr.series_instance_uid, name, "T1")
        row(name, *timed(ct, [image], target), float("nan"))


def main() -> None:
    """Print the tables and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkerboards")
    parser.add_argument("--pairs", nargs="*", help="folders of sarcoma-ct-mr; default: all")
    parser.add_argument("--only", choices=("pairs", "negatives"), help="that table only")
    arguments = parser.parse_args()
    root = Path(os.environ["HILUM_REAL_DATA"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only != "negatives":
        names = arguments.pairs or sorted(p.name for p in root.glob("sarcoma-ct-mr/STS_*"))
        found = table_of_pairs(root, names, arguments.out)
        if arguments.only != "pairs":
            table_of_moved(root, found)
            table_of_planted(root, found)
    if arguments.only != "pairs":
        table_of_negatives(root, arguments.out)


if __name__ == "__main__":
    main()
