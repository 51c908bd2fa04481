"""An MR or another CT as it came, before it was registered: around the targets only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import resample
from handlers.values import Case, Image
from handlers.viewing.shown import Scale, ShownVolume, block_document

AROUND_MM = 60.0
"""How far around the targets an image as it came is shown."""

SENT, SHARED, AS_TOLD = "registration received", "shared frame of reference", "coordinates as told"
"""What put an image where it was before: an object that came, one frame of reference, or no more
than the numbers of two frames."""


def before_registration(
    case: Case,
    source: Image,
    targets: Sequence[Mapping[str, Any]],
    scale: Scale,
    shown: ShownVolume,
    number: int,
) -> ShownVolume | None:
    """Return an image around the targets as it came; None if it does not reach them.

    Args:
        case: The case.
        source: The image as it was taken.
        targets: As `targets_document` tells them.
        scale: By which the registered one is stored.
        shown: The registered one.
        number: Of all that are shown as they came, from 1.
    """
    if not targets:
        return None
    start, shape = _around(case.ct.geometry, targets)
    pose, placed_by = _pose_before(case, source)
    block = case.ct.geometry.crop(start, shape)
    image, valid = resample(source, block, pose)
    if not valid.inside.any():
        return None
    document = {
        "key": f"before{number}",
        "kind": "before",
        "of": shown.document["key"],
        "label": f"{shown.document['word']} before registration",
        "placed_by": placed_by,
        **scale.document(),
        "windows": [],
        **block_document(start, shape),
    }
    return ShownVolume(document, scale.stored(image.voxels, valid.inside))


def _pose_before(case: Case, source: Image) -> tuple[RigidTransform, str]:
    """Return how the image lay as it was known before, and what told it."""
    ct_frame = case.ct.geometry.frame_of_reference_uid
    own_frame = source.geometry.frame_of_reference_uid
    for sent in case.registrations:
        if (sent.to_frame_uid, sent.from_frame_uid) == (ct_frame, own_frame):
            return sent, SENT
    identity = RigidTransform(np.eye(4), ct_frame, own_frame)
    return identity, SHARED if own_frame == ct_frame else AS_TOLD


def _around(
    geometry: Geometry, targets: Sequence[Mapping[str, Any]]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return start and shape of the block of the grid around all targets."""
    low = np.min([target["low_mm"] for target in targets], axis=0)
    high = np.max([target["high_mm"] for target in targets], axis=0)
    ends = np.stack([low, high])
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])
    at = geometry.indices_from_points(corners)
    margin = AROUND_MM / np.array(geometry.spacing_mm)
    last = np.array(geometry.shape) - 1
    first = np.clip(np.floor(at.min(axis=0) - margin), 0, last).astype(int)
    end = np.clip(np.ceil(at.max(axis=0) + margin), 0, last).astype(int) + 1
    z, y, x = (int(n) for n in first)
    slices, rows, columns = (int(n) for n in end - first)
    return (z, y, x), (slices, rows, columns)
