"""One MR frame of reference brought to the planning CT, from the first look to the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from handlers.errors import EmptyStructureError, GeometryMismatchError, RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.consensus import box_corners, mean_pose, median_distance_mm, shifted
from handlers.registration.deformable import Deformation, find_deformation
from handlers.registration.judgement import (
    LIMITS,
    LIMITS_OF_CT,
    NOTHING_KNOWN_MM,
    Judgement,
    Neighbourhood,
    judge,
)
from handlers.registration.leading import by_preference, leading_series
from handlers.registration.levelled import Views, levelled_moving, views_for_ct
from handlers.registration.local import LocalShift, local_shift, series_shift
from handlers.registration.prepare import Prepared, prepared_ct, prepared_moving
from handlers.registration.search import Opinions, two_opinions
from handlers.registration.settings import RegistrationSettings
from handlers.registration.start import find_starts
from handlers.results import Registration, RegistrationStatus
from handlers.values import CtRole, Image, Mask

UNCERTAINTY_FACTOR = 2.0
LEAST_UNCERTAINTY_MM = 1.5
"""95 % figure from the scatter of the opinions at the target, and the least that is claimed."""

DOUBTED_UNCERTAINTY_MM = 5.0
"""The least that is claimed of a registration that did not pass: one on the kit was 3.9 mm off
although its opinions agreed within 1.5 mm."""

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Leader:
    """The leading series, made ready, with its starts."""

    image: Image
    volume: Prepared
    others: Mapping[str, Prepared]
    starts: tuple[RigidTransform, ...]
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class _Pose:
    """The pose that counts, that of the whole body before the local shift, and their evidence.

    `beside_mm` tells by how much the surroundings of the target lie beside the whole body.
    """

    mr_from_ct: RigidTransform
    whole: RigidTransform
    opinions: Opinions
    local: LocalShift
    is_local_followed: bool
    beside_mm: float
    notes: tuple[str, ...]


def register_frame(
    ct: Image,
    mr: Sequence[Image],
    targets: Sequence[Mask],
    settings: RegistrationSettings,
    *,
    sent: Sequence[RigidTransform] = (),
) -> Registration:
    """Return the registration of one MR frame of reference (or another CT's) to the planning CT.

    Coordinates are not believed: the place is found from content, wherever the MR lies, also where
    it claims to lie in the CT's own frame.

    Args:
        ct: The planning CT.
        mr: All series of one frame of reference: MR, or one other CT.
        targets: The targets, in the CT's frame; together they need one voxel at least.
        settings: How hard to try.
        sent: Registrations that arrived, as `ct_from_mr`; those of other frames are passed over.
            Each is a start among others, unless `settings.use_as_sent`.

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
    voxel_mm3 = ct.geometry.voxel_volume_mm3
    target_mm = (len(points) * voxel_mm3 * 0.75 / np.pi) ** (1 / 3)
    centre_mm = points.mean(axis=0)
    given = _given_poses(ct, mr[0], sent)
    ordered = given[0] if given and settings.use_as_sent else None
    leader = None
    try:
        views = _views(prepared_ct(ct, settings.fine_spacing_mm), mr)
        leader = _leader(views.whole, by_preference(mr), points, settings)
        starts = [*leader.starts[: settings.start_count], *given]
        opinions = two_opinions(views, leader.volume, starts, centre_mm, settings)
    except RegistrationFailedError as error:
        return _without_pose(ct, mr, centre_mm, str(error), leader, ordered)
    found = _pose(
        views.around,
        leader.volume,
        opinions,
        ordered,
        centre_mm,
        target_mm,
        settings,
    )
    pose = found.mr_from_ct
    quality = {
        **_figures(views.whole, leader.volume, found, points, settings),
        "is_as_sent": float(ordered is not None),
    }
    limits = LIMITS_OF_CT if views.whole.is_levelled else LIMITS
    verdict = judge(quality, limits, moving=_called(leader.image))
    quality["uncertainty_mm"] = _stated_mm(quality["uncertainty_mm"], verdict)
    shifts, notes = _series_shifts(leader, pose, centre_mm, settings)
    deformed = _deformation(views.whole, leader.volume, found, centre_mm, verdict, settings)
    quality |= {f"deformation_{name}": value for name, value in deformed.figures.items()}
    return Registration(
        ct_from_mr=pose.inverse(),
        status=verdict.status,
        reasons=verdict.reasons,
        uncertainty_mm=quality["uncertainty_mm"],
        quality=quality,
        leading_series_uid=leader.image.series_instance_uid,
        series_uids=tuple(image.series_instance_uid for image in mr),
        centre_mm=_triple(centre_mm),
        notes=(leader.note, *found.notes, deformed.reason, *notes),
        deformation=deformed.field,
        series_shifts_mm=shifts,
    )


def _require_one_frame(ct: Image, mr: Sequence[Image], targets: Sequence[Mask]) -> None:
    if not mr:
        raise ValueError("a frame of reference without a series cannot be registered")
    if len({image.geometry.frame_of_reference_uid for image in mr}) > 1:
        raise GeometryMismatchError("the moving series lie in different frames of reference")
    frame = ct.geometry.frame_of_reference_uid
    if any(target.geometry.frame_of_reference_uid != frame for target in targets):
        raise GeometryMismatchError("a target does not lie in the frame of reference of the CT")
    if not any(target.inside.any() for target in targets):
        raise EmptyStructureError(
            "no target has a voxel on the planning CT", hint="Check the contours of the target."
        )


def _views(ct: Prepared, moving: Sequence[Image]) -> Views:
    """Return the planning CT as it is to be seen beside an MR, or beside another CT."""
    return views_for_ct(ct) if moving[0].modality == "CT" else Views(ct, ct, ct)


def _called(image: Image) -> str:
    """Return what people call the image that is brought to the planning CT."""
    if image.modality != "CT":
        return "MR"
    return "CBCT" if image.role is CtRole.CBCT else "other CT"


def _moving(image: Image, settings: RegistrationSettings) -> Prepared:
    volume = prepared_moving(image, settings.fine_spacing_mm)
    return levelled_moving(volume) if image.modality == "CT" else volume


def _leader(
    ct: Prepared, preferred: Sequence[Image], points: Points, settings: RegistrationSettings
) -> _Leader:
    """Return the series that is to lead, chosen once a first one has been roughly placed."""
    volumes = {image.series_instance_uid: _moving(image, settings) for image in preferred}
    shown = [i for i in preferred if volumes[i.series_instance_uid].has_contrast()]
    coarse_mm = settings.start_spacing_mm / 2
    ct_coarse = ct.shrunk(coarse_mm)
    for image in shown:
        starts = find_starts(
            ct_coarse, volumes[image.series_instance_uid].shrunk(coarse_mm), settings
        )
        if starts:
            break
    else:
        raise RegistrationFailedError(
            "No series of this frame of reference shows anything that meets the planning CT."
        )
    pose = starts[0].mr_from_ct
    coverage = {
        i.series_instance_uid: _coverage(volumes[i.series_instance_uid], points, pose)
        for i in shown
    }
    chosen, why = leading_series(shown, coverage)
    leading = volumes.pop(chosen.series_instance_uid)
    if chosen is not image:
        starts = find_starts(ct_coarse, leading.shrunk(coarse_mm), settings) or starts
    return _Leader(chosen, leading, volumes, tuple(s.mr_from_ct for s in starts), why)


def _given_poses(ct: Image, leading: Image, sent: Sequence[RigidTransform]) -> list[RigidTransform]:
    """Return, from CT to MR, what was sent for these frames, then the shared frame if it is one."""
    ct_frame = ct.geometry.frame_of_reference_uid
    mr_frame = leading.geometry.frame_of_reference_uid
    poses = [
        ct_from_mr.inverse()
        for ct_from_mr in sent
        if (ct_from_mr.to_frame_uid, ct_from_mr.from_frame_uid) == (ct_frame, mr_frame)
    ]
    if mr_frame == ct_frame:
        poses.append(RigidTransform(np.eye(4), ct_frame, ct_frame))
    return poses


def _pose(
    ct: Prepared,
    mr: Prepared,
    opinions: Opinions,
    ordered: RigidTransform | None,
    centre_mm: Points,
    target_mm: float,
    settings: RegistrationSettings,
) -> _Pose:
    """Return the pose of the whole, and at the target what its surroundings agree on."""
    corners = box_corners(centre_mm, settings.box_half_mm)
    whole, other, notes = opinions.brightness, opinions.structure, []
    if other is not None and median_distance_mm(whole, other, corners) < settings.engines_agree_mm:
        whole = mean_pose((whole, other), centre_mm)
    if ordered is not None:
        whole = ordered
        notes.append("The protocol orders the alignment that was sent; it is judged, not improved.")
    radius_mm = min(target_mm + settings.local_margin_mm, settings.local_radius_mm)
    local = local_shift(ct, mr, whole, centre_mm, radius_mm, settings)
    length_mm = float(np.linalg.norm(local.shift_mm))
    is_followed = (
        ordered is None
        and (local.apart_mm <= settings.local_agreement_mm or (ct.is_levelled and _is_due(local)))
        and length_mm <= settings.largest_local_shift_mm
    )
    pose = whole
    if is_followed:
        pose = shifted(whole, local.shift_mm)
        notes.append(
            f"Around the target it was moved by {length_mm:.1f} mm more than the whole body: "
            f"three measures agree within {local.apart_mm:.1f} mm."
        )
    if is_followed and length_mm >= settings.least_local_shift_mm:
        # what is near moves less alike than what is nearest: a smaller ball says the rest
        radius_mm = min(target_mm + settings.close_margin_mm, settings.local_radius_mm)
        close = local_shift(ct, mr, pose, centre_mm, radius_mm, settings)
        rest_mm = float(np.linalg.norm(close.shift_mm))
        if close.apart_mm <= settings.local_agreement_mm and rest_mm <= settings.largest_rest_mm:
            pose = shifted(pose, close.shift_mm)
            local = close
    return _Pose(pose, whole, opinions, local, is_followed, length_mm, tuple(notes))


def _is_due(local: LocalShift) -> bool:
    """Tell whether the measures are nearer to each other than any of them is to no shift.

    Between an MR and a CT that is not enough, for what is followed may change a contour. Another
    CT changes none: its pose is the better for it, and the verdict tells the disagreement.
    """
    lengths = [float(np.linalg.norm(shift)) for shift in local.estimates_mm.values()]
    return local.apart_mm < min(lengths, default=0.0)


def _figures(
    ct: Prepared, mr: Prepared, found: _Pose, points: Points, settings: RegistrationSettings
) -> dict[str, float]:
    centre_mm = points.mean(axis=0)
    corners = box_corners(centre_mm, settings.box_half_mm)
    pose, opinions, local = found.mr_from_ct, found.opinions, found.local
    engines = [p for p in (opinions.brightness, opinions.structure) if p is not None]
    left = np.zeros(3) if found.is_local_followed else local.shift_mm
    neighbourhood = Neighbourhood(ct, mr, centre_mm, settings)
    similarity = neighbourhood.similarity(pose)
    rivals = [neighbourhood.similarity(rival) for rival in opinions.rivals]
    return {
        "engines": float(len(engines)),
        "engines_apart_mm": median_distance_mm(engines[0], engines[-1], corners),
        "brightness_apart_mm": opinions.brightness_apart_mm,
        "structure_apart_mm": opinions.structure_apart_mm,
        "from_engines_mm": median_distance_mm(found.whole, mean_pose(engines, centre_mm), corners),
        "local_measures": float(len(local.estimates_mm)),
        "local_apart_mm": min(local.apart_mm, NOTHING_KNOWN_MM),
        "local_shift_mm": float(np.linalg.norm(local.shift_mm)),
        "local_left_mm": float(np.linalg.norm(left)),
        "local_disputed_mm": local.apart_mm if found.is_local_followed else 0.0,
        "uncertainty_mm": _uncertainty_mm(found, centre_mm),
        "target_coverage": _coverage(mr, points, pose),
        "similarity": similarity,
        "sharpness": neighbourhood.sharpness(pose),
        "rotation_angle_deg": pose.rotation_angle_deg,
        "moved_from_start_mm": opinions.brightness.largest_distance_mm(opinions.start, corners),
        "rival_ratio": max(rivals, default=0.0) / similarity if similarity > 0 else 1.0,
    }


def _deformation(
    ct: Prepared,
    mr: Prepared,
    found: _Pose,
    centre_mm: Points,
    verdict: Judgement,
    settings: RegistrationSettings,
) -> Deformation:
    if ct.is_levelled:
        return Deformation(None, {}, "Between two CT no deformation is sought.")
    if verdict.status is not RegistrationStatus.PASS:
        return Deformation(None, {}, "What does not pass rigidly is not deformed.")
    if not found.is_local_followed:
        return Deformation(
            None, {}, "Where the measures do not agree on a local shift, nothing is deformed."
        )
    if found.beside_mm < settings.least_local_shift_mm:
        return Deformation(
            None, {}, "The target lies as the whole body does: no deformation is sought."
        )
    return find_deformation(ct, mr, found.mr_from_ct, centre_mm, settings.deformable)


def _uncertainty_mm(found: _Pose, centre_mm: Points) -> float:
    """Return the distance within which the target's true place is expected in 95 of 100 cases."""
    pose = found.mr_from_ct
    places = [
        pose.inverse().apply(other.apply(centre_mm))[0] - centre_mm
        for other in (found.opinions.brightness, found.opinions.structure)
        if other is not None and not found.is_local_followed
    ]
    moved = found.local.shift_mm if found.is_local_followed else np.zeros(3)
    places += [shift - moved for shift in found.local.estimates_mm.values()]
    scatter_mm = float(np.sqrt(np.mean(np.sum(np.square(places), axis=1))))
    return max(LEAST_UNCERTAINTY_MM, UNCERTAINTY_FACTOR * scatter_mm)


def _stated_mm(uncertainty_mm: float, verdict: Judgement) -> float:
    """Return what is claimed: the scatter says too little where a check was not passed."""
    if verdict.status is RegistrationStatus.PASS:
        return uncertainty_mm
    return max(uncertainty_mm, DOUBTED_UNCERTAINTY_MM)


def _series_shifts(
    leader: _Leader, mr_from_ct: RigidTransform, centre_mm: Points, settings: RegistrationSettings
) -> tuple[dict[str, Vector], tuple[str, ...]]:
    """Return how each other series must be shifted onto the leading one, in the CT frame."""
    shifts: dict[str, Vector] = {}
    notes = []
    turn = mr_from_ct.inverse().matrix[:3, :3]
    for uid, volume in leader.others.items():
        shift, note = series_shift(leader.volume, volume, mr_from_ct.apply(centre_mm)[0], settings)
        if shift is not None:
            shifts[uid] = _triple(-turn @ shift)
        notes.append(f"Series …{uid[-8:]}: {note}")
    return shifts, tuple(notes)


def _coverage(mr: Prepared, points: Points, mr_from_ct: RigidTransform) -> float:
    """Return the fraction of LPS points in the CT frame at which the MR holds data."""
    _, valid = mr.at(mr_from_ct.apply(points))
    return float(valid.mean())


def _without_pose(
    ct: Image,
    mr: Sequence[Image],
    centre_mm: Points,
    reason: str,
    leader: _Leader | None,
    ordered: RigidTransform | None,
) -> Registration:
    """Return a `fail`: what was ordered, or the middle of the MR put on that of the targets."""
    leading = leader.image if leader else by_preference(mr)[0]
    matrix = np.eye(4)
    matrix[:3, 3] = centre_mm - leading.geometry.centre_mm()
    guess = RigidTransform(
        matrix, ct.geometry.frame_of_reference_uid, leading.geometry.frame_of_reference_uid
    )
    return Registration(
        ct_from_mr=guess if ordered is None else ordered.inverse(),
        status=RegistrationStatus.FAIL,
        reasons=(reason,),
        uncertainty_mm=NOTHING_KNOWN_MM,
        quality={},
        leading_series_uid=leading.series_instance_uid,
        series_uids=tuple(image.series_instance_uid for image in mr),
        centre_mm=_triple(centre_mm),
        notes=(leader.note,) if leader else (),
    )


def _triple(point: Points) -> Vector:
    return float(point[0]), float(point[1]), float(point[2])
