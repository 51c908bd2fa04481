"""Does the local deformable step beat doing nothing after a known smooth warp of the MR?

Run by hand: `HILUM_REAL_DATA=FOLDER python -m tests.bench.known_warp [--pairs STS_010 ...]
[--phantoms 1 2 ...]`. Rigid pose of a real pair: of the two engines of `two_engines.json` the one
with the higher mutual information near the target; ours where there is none.

Real pairs are not aligned by any rigid map, so there are three errors, all medians within 40 mm of
the target and inside the body, of the result (the accepted field, or none):
`rigid`: the rigid pose followed by the warp is the truth: blames the step for real corrections.
`change`: what the result on the warped pair adds to the result on the unwarped pair against the
warp; doing nothing has the warp itself.
`full`: what the estimator found on the unwarped pair, followed by the warp, is the truth.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from handlers.geometry import Geometry, RigidTransform
from handlers.registration import RegistrationSettings, register_frame
from handlers.registration.deformable import DeformableSettings, estimate, objections
from handlers.registration.information import grey_bins, normalized_information
from handlers.registration.prepare import Prepared, prepared_ct, prepared_moving
from handlers.values import Image
from node.phantom import PhantomOptions, make_study
from node.phantom.motion import plain_breathing
from tests.bench.real_pairs import read_pair

BALL_MM = 40.0
SPACING_MM = 1.5
SMOOTH_MM, ROUGH_MM = 50.0, 30.0
WARPS = tuple((size, seed) for k, size in enumerate((2, 3, 4, 6)) for seed in (2 * k, 2 * k + 1))
BREATHING_MM = (0.0, 2.0, 4.0, 6.0, 10.0, 18.0)
SETTINGS = DeformableSettings()


class Warp:
    """A random smooth field u(x), whose length in the ball has the given median."""

    def __init__(self, centre_mm: np.ndarray, size_mm: float, seed: int) -> None:
        rng = np.random.default_rng([seed, 7])
        self.length_mm = ROUGH_MM if seed % 2 else SMOOTH_MM
        self._centre = centre_mm
        self._waves = rng.standard_normal((24, 3)) / self.length_mm
        self._phases = rng.uniform(0, 2 * np.pi, 24)
        self._vectors = rng.standard_normal((24, 3))
        self._vectors *= size_mm / np.median(np.linalg.norm(self.at(ball(centre_mm)), axis=1))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return u in mm at LPS points (n, 3)."""
        waves = np.cos((points - self._centre) @ self._waves.T + self._phases)
        return np.asarray(waves @ self._vectors)

    def undo(self, points: np.ndarray) -> np.ndarray:
        """Return the x whose x + u(x) are `points`."""
        found = points - self.at(points)
        for _ in range(30):
            found = points - self.at(found)
        return np.asarray(found)


def ball(centre_mm: np.ndarray) -> np.ndarray:
    """Return points every 4 mm in the ball around the target's centre."""
    axis = np.arange(-BALL_MM, BALL_MM + 0.1, 4.0)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(centre_mm + offsets[np.linalg.norm(offsets, axis=1) <= BALL_MM])


def in_body(ct: Prepared, points: np.ndarray) -> np.ndarray:
    """Return those of the points that lie in the body."""
    return np.asarray(points[Prepared(ct.geometry, ct.voxels, ct.body, ct.body).at(points)[1]])


def warped(mr: Image, mr_from_ct: RigidTransform, warp: Warp) -> Image:
    """Return the MR in which mr_from_ct(x + u(x)) shows what mr_from_ct(x) showed.

    The inverse is worked out every 6 mm and interpolated by cubic splines.
    """
    shape = mr.geometry.shape
    every = [max(1, round(6.0 / s)) for s in mr.geometry.spacing_mm]
    coarse = [int(np.ceil((n - 1) / k)) + 1 for n, k in zip(shape, every, strict=True)]
    indices = np.indices(coarse).reshape(3, -1).T * every
    ends = mr_from_ct.inverse().apply(mr.geometry.points_from_indices(indices))
    begins = mr.geometry.indices_from_points(mr_from_ct.apply(warp.undo(ends)))
    splines = [ndimage.spline_filter((begins - indices)[:, k].reshape(coarse)) for k in range(3)]
    voxels = np.empty(shape, dtype=np.float32)
    rows, columns = np.indices(shape[1:])
    for i in range(shape[0]):
        place = (np.full(rows.shape, i), rows, columns)
        knots = [p / k for p, k in zip(place, every, strict=True)]
        at = [
            p + ndimage.map_coordinates(s, knots, prefilter=False, mode="nearest")
            for p, s in zip(place, splines, strict=True)
        ]
        voxels[i] = ndimage.map_coordinates(mr.voxels, at, order=1)
    return Image(mr.geometry, voxels, "MR", mr.series_instance_uid, mr.description, mr.contrast)


def similarity(ct: Prepared, mr: Prepared, mr_from_ct: RigidTransform, points: np.ndarray) -> float:
    """Return how much the brightness of both tells of each other at CT points."""
    ct_grey, _ = ct.at(points)
    mr_grey, known = mr.at(mr_from_ct.apply(points))
    return normalized_information(grey_bins(ct_grey[known]), grey_bins(mr_grey[known]))


def rigid_pose(root: Path, name: str, ct: Image, mr: Image, target: Any) -> RigidTransform:
    """Return the rigid map from CT to MR that the deformation adds to."""
    listed = json.loads((root / "sarcoma-ct-mr/two_engines.json").read_text())
    engines = next((e["mr_from_ct"] for e in listed if e["case"] == name), None)
    if engines is None:
        found = register_frame(ct, [mr], [target], RegistrationSettings())
        return found.ct_from_mr.inverse()
    frames = (mr.geometry.frame_of_reference_uid, ct.geometry.frame_of_reference_uid)
    poses = []
    for matrix in engines.values():
        exact = np.array(matrix, dtype=float)
        left, _, right = np.linalg.svd(exact[:3, :3])
        exact[:3, :3] = left @ right
        poses.append(RigidTransform(exact, *frames))
    ct_fine, mr_fine = prepared_ct(ct, SPACING_MM), prepared_moving(mr, SPACING_MM)
    points = in_body(ct_fine, ball(target_centre(target)))
    return max(poses, key=lambda pose: similarity(ct_fine, mr_fine, pose, points))


def target_centre(target: Any) -> np.ndarray:
    """Return the mean of a mask's voxels, LPS mm."""
    points = target.geometry.points_from_indices(np.argwhere(target.inside))
    return np.asarray(points.mean(axis=0))


@dataclass(frozen=True, eq=False)
class Attempt:
    """What came out, at the points of the ball."""

    figures: tuple[tuple[str, float], ...]
    against: tuple[str, ...]
    forced_mm: np.ndarray
    result_mm: np.ndarray
    seconds: float


def attempt(
    ct: Prepared, mr: Prepared, pose: RigidTransform, centre_mm: np.ndarray, points: np.ndarray
) -> Attempt:
    """Return result and unjudged estimate of the deformable step."""
    began = time.process_time()
    unjudged = estimate(ct, mr, pose, centre_mm, SETTINGS)
    seconds = time.process_time() - began
    still = np.zeros_like(points)
    if unjudged is None:
        return Attempt((), ("too little to see",), still, still, seconds)
    field, figures = unjudged
    against = objections(figures, SETTINGS)
    forced = field.at(points)
    return Attempt(tuple(figures.items()), against, forced, still if against else forced, seconds)


def middle(vectors: np.ndarray) -> float:
    """Return the median length."""
    return float(np.median(np.linalg.norm(vectors, axis=1)))


def pair_rows(root: Path, name: str, *, verbose: bool) -> list[dict[str, float]]:
    """Print the lines of a real pair; return them as numbers."""
    ct_image, mr_image, target = read_pair(root, name)
    pose = rigid_pose(root, name, ct_image, mr_image, target)
    centre_mm = target_centre(target)
    ct = prepared_ct(ct_image, SPACING_MM)
    points = in_body(ct, ball(centre_mm))
    plain = attempt(ct, prepared_moving(mr_image, SPACING_MM), pose, centre_mm, points)
    print(
        f"{name} as it is: {'refused ' if plain.against else 'accepted'} "
        f"{middle(plain.forced_mm):.1f} mm, {plain.seconds:.1f} s.",
        *plain.against,
        flush=True,
    )
    print("    ", *(f"{k}={v:.2f}" for k, v in plain.figures))
    rows = []
    for size_mm, seed in WARPS:
        warp = Warp(centre_mm, size_mm, seed)
        mr = prepared_moving(warped(mr_image, pose, warp), SPACING_MM)
        now = attempt(ct, mr, pose, centre_mm, points)
        alone = warp.at(points)
        full = plain.forced_mm + warp.at(points + plain.forced_mm)
        expected = plain.result_mm + warp.at(points + plain.result_mm)
        row = {
            "warp": size_mm,
            "smooth": warp.length_mm,
            "accepted": float(not now.against),
            "nothing": middle(alone),
            "rigid": middle(now.result_mm - alone),
            "change": middle(now.result_mm - expected),
            "nothing full": middle(full),
            "full": middle(now.result_mm - full),
            "forced full": middle(now.forced_mm - full),
        }
        rows.append(row)
        print("    ", *(f"{key} {value:4.1f} " for key, value in row.items()), flush=True)
        if verbose:
            print("        ", *(f"{k}={v:.2f}" for k, v in now.figures))
        if now.against:
            print("        ", *now.against)
    return rows


def summary(rows: list[dict[str, float]]) -> None:
    """Print means over the pairs, per size and smoothness of the warp."""
    print("\nmeans over pairs (median errors within 40 mm, mm)")
    for size_mm in sorted({r["warp"] for r in rows}):
        for length_mm in (SMOOTH_MM, ROUGH_MM):
            chosen = [r for r in rows if r["warp"] == size_mm and r["smooth"] == length_mm]
            means = {k: float(np.mean([r[k] for r in chosen])) for k in rows[0]}
            means["worst change - nothing"] = max(r["change"] - r["nothing"] for r in chosen)
            means["worst full - nothing full"] = max(r["full"] - r["nothing full"] for r in chosen)
            print("  ", *(f"{key} {value:5.2f} " for key, value in means.items()))


def series_image(datasets: Any, modality: str) -> Image:
    """Return an image of the phantom's datasets."""
    ordered = list(datasets)
    begin, end = (np.array(ordered[k].ImagePositionPatient, dtype=float) for k in (0, -1))
    row, column = np.array(ordered[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_mm, column_mm = (float(s) for s in ordered[0].PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack(
        [(end - begin) / (len(ordered) - 1), column * row_mm, row * column_mm]
    )
    matrix[:3, 3] = begin
    voxels = np.stack(
        [
            ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
            for ds in ordered
        ]
    )
    geometry = Geometry(str(ordered[0].FrameOfReferenceUID), matrix, voxels.shape)
    uid = str(ordered[0].SeriesInstanceUID)
    return Image(geometry, voxels.astype(np.float32), modality, uid, "", "T1")


def phantom_rows(seed: int) -> None:
    """Print what becomes of breathing when the rigid map is the one that holds at the spine."""
    for breathing_mm in BREATHING_MM:
        study = make_study(
            PhantomOptions(seed=seed, breathing_mm=breathing_mm, contrasts=("T1",), with_dose=False)
        )
        centre_mm = np.array(study.target_centre_mm)
        breathed = plain_breathing(breathing_mm).after
        ct = prepared_ct(series_image(study.ct, "CT"), SPACING_MM)
        mr = prepared_moving(series_image(study.mr["T1"], "MR"), SPACING_MM)
        pose = study.ct_from_mr.inverse()
        points = in_body(ct, ball(centre_mm))
        truth = breathed(points) - points
        now = attempt(ct, mr, pose, centre_mm, points)
        print(
            f"phantom {seed}, breathing {breathing_mm:4.0f} mm: nothing {middle(truth):.2f}, "
            f"result {middle(now.result_mm - truth):.2f}, "
            f"forced {middle(now.forced_mm - truth):.2f} mm, {now.seconds:.1f} s.",
            *now.against,
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="*", default=None, help="default: all")
    parser.add_argument("--phantoms", nargs="*", type=int, default=(), help="seeds")
    parser.add_argument("--verbose", action="store_true", help="every figure")
    arguments = parser.parse_args()
    root = Path(os.environ["HILUM_REAL_DATA"])
    names = arguments.pairs
    if names is None:
        names = sorted(p.name for p in root.glob("sarcoma-ct-mr/STS_*"))
    rows = [row for name in names for row in pair_rows(root, name, verbose=arguments.verbose)]
    if rows:
        summary(rows)
    for seed in arguments.phantoms:
        phantom_rows(seed)


if __name__ == "__main__":
    main()
