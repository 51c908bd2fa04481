"""One MR frame of reference brought to the planning CT, from the first look to the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from handlers.errors import EmptyStructureError, GeometryMismatchError, RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.judgement import (
    LIMITS,
    Judgement,
    Neighbourhood,
    box_corners,
    judge,
)
from handlers.registration.leading import by_preference, leading_series
from handlers.registration.prepare import Prepared, prepared_ct, prepared_mr
from handlers.registration.rigid import follow, refine_pose
from handlers.registration.settings import RegistrationSettings
from handlers.registration.start import Candidate, Explained, find_starts
from handlers.values import Image, Mask, Registration, RegistrationStatus

CT_MARGIN_MM = 40.0
"""CT kept around the MR's extent once it is roughly placed."""

SAME_POSE_MM = 10.0
"""Coarse poses closer than this at the corners of the box are one and the same."""

LEAST_UNCERTAINTY_MM = 2.0
"""Even runs that agree exactly share errors: on the sarcoma pairs the main run lies 0.5 to 2.0 mm
from the nearer of two independent engines."""

NO_POSE_UNCERTAINTY_MM = 1000.0
"""Stands for: nothing is known."""


@dataclass(frozen=True, slots=True, eq=False)
class _Leader:
    """The leading series, made ready, with its starts."""

    image: Image
    volume: Prepared
    starts: tuple[Candidate, ...]
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The poses (from CT to MR) that the runs ended in, and what they explain."""

    start: RigidTransform
    by_brightness: RigidTransform
    by_finer_bins: RigidTransform
    by_edges: RigidTransform
    rival_ratio: float


def register_frame(
    ct: Image, mr: Sequence[Image], targets: Sequence[Mask], settings: RegistrationSettings
) -> Registration:
    """Return the rigid registration of one MR frame of reference to the planning CT.

    Coordinates are not believed: the place is found from content, wherever the MR lies, also where
    it claims to lie in the CT's own frame.

    Args:
        ct: The planning CT.
        mr: All MR series of one frame of reference.
        targets: The targets, in the CT's frame; together they need one voxel at least.
        settings: How hard to try.

    Returns:
        The registration with its verdict. Images that cannot be registered give `fail` with
        reasons, never an error.

    Raises:
        EmptyStructureError: No target has a voxel.
        GeometryMismatchError: The series or the targets lie in different frames of reference.
        ValueError: `mr` is empty.
    """
    _require_one_frame(ct, mr, targets)
    points = np.concatenate(
        [t.geometry.points_from_indices(np.argwhere(t.inside)) for t in targets]
    )
    centre_mm = points.mean(axis=0)
    try:
        ct_fine = prepared_ct(ct, settings.level_spacings_mm[-1])
        leader = _leader(ct_fine, by_preference(mr), points, settings)
    except RegistrationFailedError as error:
        return _without_pose(ct, mr, centre_mm, str(error))
    try:
        found = _search(ct_fine, leader, centre_mm, settings)
    except RegistrationFailedError as error:
        return _without_pose(ct, mr, centre_mm, str(error), leader)
    verdict = _judged(ct_fine, leader.volume, found, points, settings)
    return Registration(
        ct_from_mr=found.by_brightness.inverse(),
        status=verdict.status,
        reasons=verdict.reasons,
        uncertainty_mm=verdict.uncertainty_mm,
        quality=verdict.quality,
        leading_series_uid=leader.image.series_instance_uid,
        series_uids=tuple(image.series_instance_uid for image in mr),
        centre_mm=_triple(centre_mm),
        notes=(leader.note,),
    )


def _require_one_frame(ct: Image, mr: Sequence[Image], targets: Sequence[Mask]) -> None:
    if not mr:
        raise ValueError("a frame of reference without a series cannot be registered")
    if len({image.geometry.frame_of_reference_uid for image in mr}) > 1:
        raise GeometryMismatchError("the MR series lie in different frames of reference")
    frame = ct.geometry.frame_of_reference_uid
    if any(target.geometry.frame_of_reference_uid != frame for target in targets):
        raise GeometryMismatchError("a target does not lie in the frame of reference of the CT")
    if not any(target.inside.any() for target in targets):
        raise EmptyStructureError(
            "no target has a voxel on the planning CT", hint="Check the contours of the target."
        )


def _leader(
    ct: Prepared, preferred: Sequence[Image], points: Points, settings: RegistrationSettings
) -> _Leader:
    """Return the series that is to lead, chosen once a first one has been roughly placed."""
    volumes = {
        image.series_instance_uid: prepared_mr(image, settings.level_spacings_mm[-1])
        for image in preferred
    }
    shown = [i for i in preferred if volumes[i.series_instance_uid].has_contrast()]
    coarse_mm = settings.start_spacing_mm / 2
    ct_coarse = ct.shrunk(coarse_mm)
    for image in shown:
        volume = volumes[image.series_instance_uid]
        starts = find_starts(ct_coarse, volume.shrunk(coarse_mm), settings)
        if starts:
            break
    else:
        raise RegistrationFailedError(
            "No MR series of this frame of reference shows anything that meets the CT."
        )
    pose = starts[0].mr_from_ct
    coverage = {
        i.series_instance_uid: _coverage(volumes[i.series_instance_uid], points, pose)
        for i in shown
    }
    chosen, why = leading_series(shown, coverage)
    if chosen is not image:
        volume = volumes[chosen.series_instance_uid]
        starts = find_starts(ct_coarse, volume.shrunk(coarse_mm), settings) or starts
    return _Leader(chosen, volume, starts, why)


def _search(
    ct: Prepared, leader: _Leader, centre_mm: Points, settings: RegistrationSettings
) -> _Found:
    """Return where the run on brightness and the run on edges end, from the best start."""
    mr = leader.volume
    corners = box_corners(centre_mm, settings.box_half_mm)
    explained = Explained(
        ct.shrunk(settings.start_spacing_mm / 2),
        mr.shrunk(settings.start_spacing_mm / 2),
        settings,
    )
    tried: list[tuple[float, RigidTransform, RigidTransform]] = []
    for start in _start_poses(ct, leader, settings):
        try:
            pose = refine_pose(ct, mr, start, centre_mm, settings, 0)
        except RegistrationFailedError:
            continue  # another start may overlap better
        nats = explained.nats(pose)
        apart = [pose.largest_distance_mm(other, corners) for _, _, other in tried]
        if not apart or min(apart) > SAME_POSE_MM:
            tried.append((nats, start, pose))
    if not tried:
        raise RegistrationFailedError("From no start did the MR and the CT overlap enough.")
    tried.sort(key=lambda t: -t[0])
    followed: list[tuple[float, RigidTransform, RigidTransform]] = []
    for _, start, pose in tried[: settings.followed_count]:
        try:
            finer = refine_pose(ct, mr, pose, centre_mm, settings, 1)
        except RegistrationFailedError:
            continue
        followed.append((explained.nats(finer), start, finer))
    if not followed:
        raise RegistrationFailedError("Every start lost the overlap of MR and CT on the way.")
    followed.sort(key=lambda t: -t[0])
    best, start, pose = followed[0]
    rivals = [
        nats
        for nats, _, other in (*followed[1:], *tried[settings.followed_count :])
        if pose.largest_distance_mm(other, corners) > SAME_POSE_MM
    ]
    near = ct.cropped(pose.inverse().apply(mr.geometry.corners_mm()), CT_MARGIN_MM)
    by_brightness = follow(near, mr, pose, centre_mm, settings, first_level=2)
    more_bins = replace(settings, histogram_bins=settings.checking_bins)
    by_finer_bins = follow(near, mr, start, centre_mm, more_bins)
    sigma_mm = settings.edge_sigma_mm
    # edges of a few coarse voxels lead astray (STS_002: 48 mm): this run leaves out that level
    by_edges = follow(
        near.edges(sigma_mm), mr.edges(sigma_mm), start, centre_mm, settings, first_level=1
    )
    rival_ratio = max(rivals, default=0.0) / best if best > 0 else 1.0
    return _Found(start, by_brightness, by_finer_bins, by_edges, rival_ratio)


def _start_poses(
    ct: Prepared, leader: _Leader, settings: RegistrationSettings
) -> list[RigidTransform]:
    poses = [start.mr_from_ct for start in leader.starts[: settings.start_count]]
    ct_frame = ct.geometry.frame_of_reference_uid
    if leader.volume.geometry.frame_of_reference_uid == ct_frame:
        poses.append(RigidTransform(np.eye(4), ct_frame, ct_frame))
    return poses


def _judged(
    ct: Prepared, mr: Prepared, found: _Found, points: Points, settings: RegistrationSettings
) -> Judgement:
    centre_mm = points.mean(axis=0)
    corners = box_corners(centre_mm, settings.box_half_mm)
    pose = found.by_brightness
    apart_mm = [
        np.linalg.norm(pose.apply(corners) - other.apply(corners), axis=1)
        for other in (found.by_finer_bins, found.by_edges)
    ]
    spread_mm = max(float(np.median(apart)) for apart in apart_mm)
    neighbourhood = Neighbourhood(ct, mr, centre_mm, settings)
    figures = {
        "runs_apart_mm": float(np.max(apart_mm)),
        "bins_apart_mm": float(apart_mm[0].max()),
        "edges_apart_mm": float(apart_mm[1].max()),
        "uncertainty_mm": max(LEAST_UNCERTAINTY_MM, spread_mm),
        "target_coverage": _coverage(mr, points, pose),
        "similarity": neighbourhood.similarity(pose),
        "sharpness": neighbourhood.sharpness(pose),
        "rotation_angle_deg": pose.rotation_angle_deg,
        "moved_from_start_mm": pose.largest_distance_mm(found.start, corners),
        "rival_ratio": found.rival_ratio,
    }
    return judge(figures, LIMITS)


def _coverage(mr: Prepared, points: Points, mr_from_ct: RigidTransform) -> float:
    """Return the fraction of LPS points in the CT frame at which the MR holds data."""
    _, valid = mr.at(mr_from_ct.apply(points))
    return float(valid.mean())


def _without_pose(
    ct: Image,
    mr: Sequence[Image],
    centre_mm: Points,
    reason: str,
    leader: _Leader | None = None,
) -> Registration:
    """Return a `fail` whose transform merely puts the middle of the MR on the targets."""
    leading = leader.image if leader else by_preference(mr)[0]
    matrix = np.eye(4)
    matrix[:3, 3] = centre_mm - leading.geometry.centre_mm()
    return Registration(
        ct_from_mr=RigidTransform(
            matrix,
            ct.geometry.frame_of_reference_uid,
            leading.geometry.frame_of_reference_uid,
        ),
        status=RegistrationStatus.FAIL,
        reasons=(reason,),
        uncertainty_mm=NO_POSE_UNCERTAINTY_MM,
        quality={},
        leading_series_uid=leading.series_instance_uid,
        series_uids=tuple(image.series_instance_uid for image in mr),
        centre_mm=_triple(centre_mm),
        notes=(leader.note,) if leader else (),
    )


def _triple(point: Points) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])
