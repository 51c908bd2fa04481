"""Why a target's surface moved: volumes by cause, the way of each part, and how sure all that is.

Accounts for a refinement that is made already; decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import measure

from handlers.refinement.region import Region
from handlers.refinement.settings import BOWEL_PATTERNS, DUCT_PATTERNS, VESSEL_PATTERNS
from handlers.results import MoveCause, SurfaceMoves, VolumeChange
from handlers.roi_names import matches
from handlers.sampling import signed_distance_of_array

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

POINT_LIMIT = 3000
"""Points on a surface; smaller ones have one for each square millimetre."""

UNMOVED_MM = 0.5
"""A part of the surface that moved less has no cause: half a fine pixel of a planning CT."""


@dataclass(frozen=True, slots=True, eq=False)
class Reason:
    """A cause, the name of its structure if it has one, and the voxels it accounts for."""

    cause: MoveCause
    structure: str
    where: Bools


def cause_of_structure(name: str) -> MoveCause:
    """Return what kind of thing an ROI name stands for."""
    for cause, patterns in (
        (MoveCause.VESSEL, (*VESSEL_PATTERNS, "zVessel*")),
        (MoveCause.DUCT, (*DUCT_PATTERNS, "zDuct*")),
        (MoveCause.BOWEL, (*BOWEL_PATTERNS, "zBowel*")),
    ):
        if matches(name, patterns):
            return cause
    return MoveCause.ORGAN


def reasons_of(
    inside: Bools, region: Region, tissue: Mapping[MoveCause, Bools]
) -> tuple[Reason, ...]:
    """Return why each voxel changed, every one under one cause.

    What was removed goes to the contoured or found structure it lies in, else to the tissue that
    the CT shows, else to other tissue; what was added, to the target's own signal.
    """
    left = region.drawn & ~inside
    reasons = []
    contoured = [Reason(cause_of_structure(n), n, w) for n, w in region.structures.items()]
    seen = [Reason(cause, "", where) for cause, where in tissue.items()]
    for reason in (*contoured, *seen):
        part = left & reason.where
        if part.any():
            reasons.append(Reason(reason.cause, reason.structure, part))
            left = left & ~part
    for cause, part in (
        (MoveCause.OTHER_TISSUE, left),
        (MoveCause.TARGET_SIGNAL, inside & ~region.drawn),
    ):
        if part.any():
            reasons.append(Reason(cause, "", part))
    return tuple(reasons)


def volume_changes(reasons: Sequence[Reason], region: Region) -> tuple[VolumeChange, ...]:
    """Return the volumes by cause, largest first."""
    changes = []
    for reason in reasons:
        cm3 = float(np.count_nonzero(reason.where)) * region.voxel_cm3
        is_added = reason.cause is MoveCause.TARGET_SIGNAL
        changes.append(
            VolumeChange(
                reason.cause, reason.structure, 0.0 if is_added else cm3, cm3 if is_added else 0.0
            )
        )
    return tuple(sorted(changes, key=lambda c: -(c.removed_cm3 + c.added_cm3)))


def surface_moves(inside: Bools, reasons: Sequence[Reason], region: Region) -> SurfaceMoves:
    """Return where each part of the drawn surface went."""
    spacing = np.array(region.geometry.spacing_mm)
    at = _surface_points(region, spacing)
    distance_mm = signed_distance_of_array(inside, region.geometry.spacing_mm)
    way_mm = -ndimage.map_coordinates(distance_mm, at.T, order=1, mode="nearest").astype(np.float64)
    causes: list[MoveCause | None] = [None] * len(at)
    changed = np.zeros(inside.shape, dtype=np.int64)
    for number, reason in enumerate(reasons, start=1):
        changed[reason.where] = number
    if changed.any():
        _, nearest = ndimage.distance_transform_edt(
            changed == 0, sampling=tuple(spacing), return_indices=True
        )
        cells = np.clip(np.rint(at).astype(int), 0, np.array(inside.shape) - 1)
        here = tuple(cells.T)
        there = tuple(axis[here] for axis in nearest)
        numbers = changed[there]
        causes = [
            reasons[number - 1].cause if abs(way) > UNMOVED_MM else None
            for number, way in zip(numbers, way_mm, strict=True)
        ]
    return SurfaceMoves(region.geometry.points_from_indices(at), way_mm, tuple(causes))


def _surface_points(region: Region, spacing: Floats) -> Floats:
    """Return fractional indices (n, 3) spread evenly over the drawn surface."""
    # beyond the grid is outside
    found = measure.marching_cubes(np.pad(region.distance_mm, 1, constant_values=1.0), 0.0)
    corners, faces = np.asarray(found[0], dtype=np.float64) - 1.0, found[1]
    triangles = corners[faces]
    edges = (triangles[:, 1:] - triangles[:, :1]) * spacing
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2.0
    total = np.cumsum(areas)
    count = int(np.clip(total[-1], 12, POINT_LIMIT))
    chosen = np.searchsorted(total, (np.arange(count) + 0.5) * total[-1] / count)
    return np.asarray(triangles[chosen].mean(axis=1))


def confidence(inside: Bools, likely: Floats, region: Region, uncertainty_mm: float) -> float:
    """Return the overlap (Dice) that is expected of the proposal with the truth, 0 to 1.

    The probabilities, blurred by the registration's uncertainty (taken as two standard deviations),
    are believed: they are not calibrated, and neither is this.
    """
    widths = [uncertainty_mm / 2.0 / step for step in region.geometry.spacing_mm]
    chance = ndimage.gaussian_filter(likely, widths, mode="nearest")
    both = 2.0 * float(chance[inside].sum())
    return both / (float(np.count_nonzero(inside)) + float(chance.sum()))
