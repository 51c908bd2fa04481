"""From content alone to two opinions on the pose of the whole: starts, first engine, second engine.

Read first: `start` for the exhaustive search, `brightness` and `structure` for the engines.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from handlers.errors import RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.bone import climb_bone
from handlers.registration.brightness import climb_brightness
from handlers.registration.coarse import refine_pose
from handlers.registration.consensus import (
    box_corners,
    mean_pose,
    median_distance_mm,
    moved_by,
)
from handlers.registration.levelled import Views
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings
from handlers.registration.start import Explained
from handlers.registration.structure import climb_structure

CT_MARGIN_MM = 40.0
"""CT kept around the MR's extent once it is roughly placed."""

ROUGH, FINE = slice(0, -1), slice(-1, None)
"""Levels of an engine that are climbed from two sides, and from amid both ends. An engine that
merely stays where it was put must not look as if it agreed."""

SAME_POSE_MM = 10.0
"""Coarse poses closer than this at the corners of the box are one and the same."""


Climb = Callable[..., RigidTransform]
"""An engine: from a start, on some of its levels, to a pose."""


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """The poses (from CT to MR) that two engines ended in.

    Attributes:
        start: The rough pose from which all came.
        brightness: Highest mutual information.
        brightness_apart_mm: How far apart that engine ended from two starts, as the median at the
            corners of the box.
        structure: Best fit of structures (of another CT: of bones); None where that engine refused.
        structure_apart_mm: Likewise for that engine.
        rivals: Poses of other places that were tried too.
    """

    start: RigidTransform
    brightness: RigidTransform
    brightness_apart_mm: float
    structure: RigidTransform | None
    structure_apart_mm: float
    rivals: tuple[RigidTransform, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    nats: float
    start: RigidTransform
    pose: RigidTransform


def two_opinions(
    views: Views,
    mr: Prepared,
    starts: Sequence[RigidTransform],
    centre_mm: Points,
    settings: RegistrationSettings,
) -> Opinions:
    """Return where both engines end from the start that explains most.

    Args:
        views: The planning CT.
        mr: What is brought to it.
        starts: Rough poses, one at least.
        centre_mm: The middle of the targets, LPS mm in the CT frame.
        settings: How hard to try.

    Raises:
        RegistrationFailedError: From no start did the images overlap enough.
    """
    ct = views.whole
    corners = box_corners(centre_mm, settings.box_half_mm)
    coarse_mm = settings.start_spacing_mm / 2
    explained = Explained(ct.shrunk(coarse_mm), mr.shrunk(coarse_mm), settings)

    def followed(from_poses: Sequence[_Tried], level: int) -> list[_Tried]:
        found: list[_Tried] = []
        for tried in from_poses:
            try:
                pose = refine_pose(ct, mr, tried.pose, centre_mm, settings, level)
            except RegistrationFailedError:
                continue  # another start may overlap better
            if all(pose.largest_distance_mm(o.pose, corners) > SAME_POSE_MM for o in found):
                found.append(_Tried(explained.nats(pose), tried.start, pose))
        return sorted(found, key=lambda t: -t.nats)

    coarse = followed([_Tried(0.0, start, start) for start in starts], 0)
    finer = followed(coarse[: settings.followed_count], 1)
    if not finer:
        raise RegistrationFailedError("From no start did the images overlap enough.")
    best = finer[0]
    rivals = tuple(
        other.pose
        for other in (*finer[1:], *coarse[settings.followed_count :])
        if best.pose.largest_distance_mm(other.pose, corners) > SAME_POSE_MM
    )
    extent = best.pose.inverse().apply(mr.geometry.corners_mm())
    push = np.array([settings.apart_start_deg] * 3 + [settings.apart_start_mm] * 3)

    def from_both_sides(
        climb: Climb, seen: Prepared, amid: RigidTransform
    ) -> tuple[RigidTransform, float]:
        near = seen.cropped(extent, CT_MARGIN_MM)
        ends = [
            climb(
                near, mr, moved_by(amid, side * push, centre_mm), centre_mm, settings, levels=ROUGH
            )
            for side in (1.0, -1.0)
        ]
        between = mean_pose(ends, centre_mm)
        end = climb(near, mr, between, centre_mm, settings, levels=FINE)
        return end, median_distance_mm(ends[0], ends[1], corners)

    brightness, brightness_apart_mm = from_both_sides(climb_brightness, ct, best.pose)
    structure, structure_apart_mm = None, 0.0
    second: list[tuple[Climb, Prepared]] = [(climb_structure, ct)]
    if ct.is_levelled:  # what shows no bone shows structure
        second.insert(0, (climb_bone, views.second))
    for climb, seen in second:
        with suppress(RegistrationFailedError):
            structure, structure_apart_mm = from_both_sides(climb, seen, brightness)
            break
    return Opinions(
        best.start,
        brightness,
        brightness_apart_mm,
        structure,
        structure_apart_mm,
        rivals,
    )
