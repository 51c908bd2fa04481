"""Vessels around a target that nobody contoured: tubes with the look of a vessel.

A vessel is brighter than all soft tissue on CT, or is shown by two MR contrasts (bright on T1, dark
on T2, dark on DWI); no phase of a contrast agent is assumed, and without one the CT shows nothing.
Where only the CT speaks, blood must be even: marrow and calcium are not.

Deliberately not done here: arteries and veins are not told apart, and nothing is found at a bone.
Bowel full of contrast agent is a bright tube, too: only T2 tells it from a vessel.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.refinement.surroundings import SOFT_HU, Surroundings
from handlers.refinement.tubes import tube_response

Array = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CONTRAST_HU = 70.0
"""Blood without contrast is darker than this."""
ENHANCEMENT_HU = 35.0
"""So much brighter than soft tissue and target is full evidence of contrast."""
NOISE_SPREADS = 2.5
"""Or so many spreads of the target's core, in a noisy CT."""

T1_ENHANCEMENT = 0.35
"""Likewise on T1, relative to the height of soft tissue above the darkest of the image."""
VOID_ONSET, VOID_DEPTH = 0.4, 0.6
"""A flow void: where it begins between soft tissue and the darkest of T2, and over what range."""
DWI_VOICE = 0.5
"""DWI is coarse and distorted: it only supports."""
T2_VETO = -0.8
"""What is as bright as this on T2 is no vessel, whatever the CT shows."""

MR_THRESHOLD = 0.75
"""Taken from the sum of MR votes: one contrast alone is not enough."""
FULL_VOTE, FULL_EVIDENCE = 1.2, 1.5
"""No vote and no sum counts more: a plateau, however bright the vessel."""

SEED = 0.5
"""Response of a tube, and evidence at its middle, from which a vessel is believed."""
SEED_LENGTH_MM = 12.0
MIN_VESSEL_CM3 = 0.15
MAX_SHARE_INSIDE = 0.6
"""A vessel comes from somewhere: what lies within the drawn target by more is part of it."""

UNEVEN, UNEVEN_MIDDLE = 0.27, 0.17
"""Middle half of a vessel's HU over their median, without its rim and along its middle. Of what
the CT alone showed, blood was at 0.25 and 0.18 at most (16 phantoms; mostly below 0.2 and 0.1);
of 17 pieces of marrow or calcium (ten sarcomas) one was below 0.27, none below both."""
BRIGHTEST_BLOOD_HU = 350.0

REACH_SHARE, REACH_MM = 0.85, 1.0
"""How far a vessel reaches from a seed, which need not be its middle: share of its radius, more."""
AROUND_CT_MM, AROUND_MR_MM = 2.0, 4.0
"""How far away a voxel's surroundings are looked for."""
CT_SHOWS_HU = 25.0
"""A vessel that is so much brighter than the target is outlined on the CT, else on the MR."""
MR_AGREES, MR_HALF = 0.3, 0.5
DARKEST_AROUND_HU, DARKEST_RIM_HU = -110.0, -20.0


def find_vessels(scene: Surroundings, taken: Bools) -> tuple[Bools, dict[str, float]]:
    """Return vessels and which image shows them.

    Args:
        scene: What is seen around a target.
        taken: Voxels that are known to be something else.

    Returns:
        Mask of the region's shape, empty without sound evidence, and by image (`CT`, `T1`, `T2`,
        `DWI`) how plainly it shows them, 0 to 1.
    """
    votes = _votes(scene)
    by_mr = _by_mr(votes, scene)
    evidence = _evidence(votes, by_mr, scene)
    free = ~scene.bone & ~taken
    nothing = np.zeros_like(taken)
    bright = _longer_than(scene, free & (evidence > SEED), SEED_LENGTH_MM)
    if not bright.any():
        return nothing, {}
    response, radius_mm = tube_response(evidence, scene.spacing_mm, bright)
    seeds = _longer_than(scene, response > SEED, SEED_LENGTH_MM)
    if not seeds.any():
        return nothing, {}
    inside = _grown(scene, seeds, radius_mm)
    inside = np.stack([ndimage.binary_fill_holes(part) for part in inside])
    inside &= free
    inside &= ~scene.like_target(inside)
    pieces = scene.pieces(inside)
    sizes = pieces.cm3()
    wanted = (sizes >= MIN_VESSEL_CM3) & (pieces.cm3(within=seeds) > 0)
    wanted &= pieces.cm3(within=scene.region.drawn) <= MAX_SHARE_INSIDE * sizes
    for number in np.flatnonzero(wanted):
        own = (pieces.labels == number) if number else nothing
        wanted[number] = own.any() and _is_blood(scene, own, own & seeds, by_mr)
    inside = pieces.only(wanted)
    seeds &= inside
    if not seeds.any():
        return nothing, {}
    return inside, {name: float(np.clip(vote[seeds].mean(), 0, 1)) for name, vote in votes.items()}


def _votes(scene: Surroundings) -> dict[str, Array]:
    """Return by image how much each voxel looks like a vessel: about 1 is all one can ask for."""
    hu = scene.ct.values
    soft_hu = float(np.median(hu[scene.soft])) if scene.soft.any() else CONTRAST_HU
    least = max(soft_hu, scene.ct.target + scene.ct.spread, CONTRAST_HU)
    range_hu = max(ENHANCEMENT_HU, NOISE_SPREADS * scene.ct.spread)
    votes = {"CT": np.clip((hu - least) / range_hu, 0, FULL_VOTE)}
    soft, known = scene.soft & scene.valid, scene.near & scene.valid
    if not soft.any():
        return votes
    for name, sight in scene.mr.items():
        usual = float(np.median(sight.values[soft]))
        darkest = float(np.percentile(sight.values[known], 1))
        if name == "T1":
            usual = max(usual, sight.target + sight.spread)
            height = (sight.values - usual) / (T1_ENHANCEMENT * max(usual - darkest, 1e-3))
            votes[name] = np.clip(height, 0, FULL_VOTE) * scene.valid
        elif name in ("T2", "DWI"):
            if name == "T2":
                usual = min(usual, sight.target - sight.spread)
            depth = (usual - sight.values) / (VOID_DEPTH * max(usual - darkest, 1e-3))
            votes[name] = np.clip(depth - VOID_ONSET, -1.0, FULL_VOTE) * scene.valid
    return votes


def _by_mr(votes: dict[str, Array], scene: Surroundings) -> Array:
    total = np.zeros_like(scene.ct.values)
    for name, voice in (("T1", 1.0), ("T2", 1.0), ("DWI", DWI_VOICE)):
        if name in votes:
            total += np.float32(voice) * votes[name]
    return np.asarray(np.clip(total - MR_THRESHOLD, 0, FULL_VOTE))


def _evidence(votes: dict[str, Array], by_mr: Array, scene: Surroundings) -> Array:
    hu = scene.ct.values
    by_ct = votes["CT"]
    if "T2" in votes:
        by_ct = by_ct * (votes["T2"] > T2_VETO)
    is_soft = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    return np.where(is_soft, np.clip(by_ct + by_mr, 0, FULL_EVIDENCE), 0).astype(np.float32)


def _longer_than(scene: Surroundings, seeds: Bools, length_mm: float) -> Bools:
    """Return the pieces whose box has at least this diagonal."""
    pieces = scene.pieces(seeds)
    wanted = np.zeros(pieces.count + 1, dtype=bool)
    for number, block in enumerate(ndimage.find_objects(pieces.labels), start=1):
        sides_mm = [
            (side.stop - side.start) * step
            for side, step in zip(block, scene.spacing_mm, strict=True)
        ]
        wanted[number] = np.linalg.norm(sides_mm) >= length_mm
    return pieces.only(wanted)


def _is_blood(scene: Surroundings, inside: Bools, seeds: Bools, by_mr: Array) -> bool:
    """Tell whether the MR confirms a piece, or the CT shows it even enough."""
    if float(np.median(by_mr[seeds])) > SEED:
        return True
    deep = ndimage.binary_erosion(inside, np.ones((1, 3, 3)))
    places = (deep if deep.any() else inside, deep & seeds if (deep & seeds).any() else seeds)
    for where, limit in zip(places, (UNEVEN, UNEVEN_MIDDLE), strict=True):
        low, middle, high = np.percentile(scene.ct.values[where], (25, 50, 75))
        if middle > BRIGHTEST_BLOOD_HU or high - low > limit * middle:
            return False
    return True


def _grown(scene: Surroundings, seeds: Bools, radius_mm: Array) -> Bools:
    """Return the vessels whose middles are known, up to half way to what lies around.

    On CT the surroundings are whatever is near (a voxel half vessel, half fat looks like a node),
    on MR they are the target, too: what is nearer to its look is not taken.
    """
    away_mm, nearest = ndimage.distance_transform_edt(
        ~seeds, sampling=scene.spacing_mm, return_indices=True
    )
    middle = tuple(nearest)
    reach = away_mm <= REACH_SHARE * radius_mm[middle] + REACH_MM
    hu = scene.ct.values
    level = _middle_hu(hu, seeds)[middle]
    around = np.maximum(_lowest_around(hu, AROUND_CT_MM, scene.spacing_mm), DARKEST_AROUND_HU)
    share, weight = _share_on_mr(scene, middle)
    shown_by_mr = weight > 0.5
    safe = np.maximum(around, scene.ct.target)
    half = (level + np.where(shown_by_mr, around, safe)) / 2
    by_ct = (hu >= half) & (~shown_by_mr | (share >= MR_AGREES))
    by_mr = shown_by_mr & (share >= MR_HALF) & (hu > DARKEST_RIM_HU)
    shown_by_ct = level - scene.ct.target >= CT_SHOWS_HU
    inside = reach & np.where(shown_by_ct, by_ct, by_mr) & (hu < SOFT_HU[1])
    return np.asarray(ndimage.binary_opening(inside, np.ones((1, 2, 2))) | (inside & seeds))


def _middle_hu(hu: Array, seeds: Bools) -> Array:
    """Return the HU of the seeds, each the median of its neighbours; 0 elsewhere."""
    padded = np.pad(hu, 1, mode="edge")
    at = np.argwhere(seeds)
    steps = np.indices((3, 3, 3)).reshape(3, -1).T
    around = np.stack([padded[tuple((at + step).T)] for step in steps])
    middle = np.zeros_like(hu)
    middle[seeds] = np.median(around, axis=0)
    return middle


def _lowest_around(values: Array, distance_mm: float, spacing_mm: Sequence[float]) -> Array:
    size = [max(3, 2 * round(distance_mm / step) + 1) for step in spacing_mm]
    return np.asarray(ndimage.minimum_filter(values, size=size))


def _share_on_mr(
    scene: Surroundings, middle: tuple[npt.NDArray[np.int32], ...]
) -> tuple[Array, Array]:
    """Return how far each voxel is from its surroundings' look to its vessel's, and who says so."""
    total, weight = np.zeros_like(scene.ct.values), np.zeros_like(scene.ct.values)
    for name, sign, voice in (("T1", 1.0, 1.0), ("T2", -1.0, 1.0), ("DWI", -1.0, DWI_VOICE)):
        if name not in scene.mr:
            continue
        sight = scene.mr[name]
        values, target = np.float32(sign) * sight.values, sign * sight.target
        around = np.maximum(_lowest_around(values, AROUND_MR_MM, scene.spacing_mm), target)
        height = values[middle] - around
        apart = (values[middle] - target) / max(sight.spread, 1e-3)
        own = voice * np.clip((apart - 2) / 3, 0, 1) * scene.valid * (height > 0)
        total += own * np.clip((values - around) / np.maximum(height, 1e-3), -0.5, 1.5)
        weight += own
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32), weight
