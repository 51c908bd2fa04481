"""Spatial Registration objects that arrived -> rigid maps of MR frames to the planning CT.

Reads what the standard says and nothing else: each item maps its source to the registered
coordinate system, which is that of the object's own frame of reference, be it the CT's, the MR's or
a third one. Never composes several matrices (readers disagree about their order), never takes a
scaled or sheared map for a rigid one, never judges whether a map is right, and reads no deformable
registration. An object that cannot be used is left out with a finding; it never rejects a case.

Read first: DICOM PS3.3 C.20.2 (Spatial Registration Module) and C.20.2.1.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import DeformableSpatialRegistrationStorage

from handlers.decode.attributes import items_of, note, numbers_of, tail, text_of, warning
from handlers.geometry import RIGID_TOLERANCE, Points, RigidTransform
from handlers.values import Finding, Image

SAME_MAP_MM = 0.01
"""Two maps are one if they agree so well at the corners of the MR."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredImages:
    """The images of the case, as registrations may name them.

    Attributes:
        ct: The planning CT.
        mr: The accepted MR series, and other CT of frames of their own.
        ct_instance_uids: SOP Instance UIDs of the planning CT.
        mr_series_of_instance: Series Instance UID by SOP Instance UID of an MR image.
    """

    ct: Image
    mr: Sequence[Image]
    ct_instance_uids: frozenset[str]
    mr_series_of_instance: Mapping[str, str]


@dataclass(slots=True, eq=False)
class _Claims:
    """What the items of one object say: `registered_from_*` of the images, and what is unusable."""

    of_ct: list[Matrix] = field(default_factory=list)
    of_mr: dict[str, list[Matrix]] = field(default_factory=dict)
    flaws: list["_RefusedItemError"] = field(default_factory=list)


class _RefusedItemError(Exception):
    """An item of a registration that cannot be used; holds code and sentence of the finding."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def decode_registrations(
    objects: Sequence[Dataset], images: RegisteredImages, patient: frozenset[str]
) -> tuple[tuple[RigidTransform, ...], list[Finding]]:
    """Return every `ct_from_mr` that the objects hold, and what became of each object.

    Args:
        objects: Spatial Registration objects, in any order.
        images: The case's images.
        patient: Patient ID of the CT.

    Returns:
        The maps, those of the newest object (Content Date and Time) first; equal ones once. The
        rotation is the nearest exact one: what rounding did to the matrix is spread about the
        middle of the MR.
    """
    found: list[Finding] = []
    maps: list[RigidTransform] = []
    for ds in sorted(objects, key=_age, reverse=True):
        where = f"Registration {tail(text_of(ds, 'SOPInstanceUID'))}"
        given, told = _decode_object(ds, where, images, patient)
        found += told
        maps += [each for each in given if not _is_known(each, maps, images)]
    return tuple(maps), [*found, *_tell_rivals(maps)]


def _age(ds: Dataset) -> tuple[str, str, str]:
    return text_of(ds, "ContentDate"), text_of(ds, "ContentTime"), text_of(ds, "SOPInstanceUID")


def _decode_object(
    ds: Dataset, where: str, images: RegisteredImages, patient: frozenset[str]
) -> tuple[list[RigidTransform], list[Finding]]:
    if text_of(ds, "SOPClassUID") == DeformableSpatialRegistrationStorage:
        text = f"{where}: it is deformable; only rigid registrations of others are read"
        return [], [note("reg.deformable", text)]
    if frozenset({text_of(ds, "PatientID")}) != patient:
        text = f"{where}: it belongs to another patient (Patient ID differs) and is not used"
        return [], [note("reg.other_patient", text)]
    try:
        claims = _claims(ds, images)
        maps = _maps(ds, claims, images)
    except _RefusedItemError as refused:
        return [], [warning(refused.code, f"{where}: {refused}; it is not used")]
    if not maps and not claims.flaws:
        text = f"{where}: it does not relate an MR of this case to the planning CT"
        return [], [note("reg.unrelated", text)]
    flaws = [warning(f.code, f"{where}: {f}; that item is not used") for f in claims.flaws]
    frames = dict.fromkeys(tail(each.from_frame_uid) for each in maps)
    used = [
        note("reg.used", f"{where}: it brings the MR frame of reference {frame} to the planning CT")
        for frame in frames
    ]
    return maps, [*flaws, *used]


def _claims(ds: Dataset, images: RegisteredImages) -> _Claims:
    """Return the matrices by what they move; items about anything else are passed over.

    Raises:
        _RefusedItemError: What is said about the CT cannot be used, and so nothing can.
    """
    claims = _Claims()
    registered = text_of(ds, "FrameOfReferenceUID")
    for item in items_of(ds, "RegistrationSequence"):
        listed = _listed_images(item)
        is_ct, mr_frames = _subjects(item, listed, registered, images)
        if not is_ct and not mr_frames:
            continue
        try:
            matrix = _matrix(item)
        except _RefusedItemError as refused:
            if is_ct:
                raise
            claims.flaws.append(refused)
            continue
        is_own_frame = text_of(item, "FrameOfReferenceUID") == registered and not listed
        if is_own_frame and not np.allclose(matrix, np.eye(4), atol=RIGID_TOLERANCE):
            text = "an item moves the registered frame of reference in itself and lists no images"
            raise _RefusedItemError("reg.contradiction", text)
        if is_ct:
            claims.of_ct.append(matrix)
        for frame in mr_frames:
            claims.of_mr.setdefault(frame, []).append(matrix)
    return claims


def _listed_images(item: Dataset) -> frozenset[str]:
    listed = items_of(item, "ReferencedImageSequence")
    return frozenset(text_of(image, "ReferencedSOPInstanceUID") for image in listed)


def _subjects(
    item: Dataset, listed: frozenset[str], registered: str, images: RegisteredImages
) -> tuple[bool, list[str]]:
    """Return whether an item moves the planning CT, and the frames of the MR that it moves.

    The images that it lists decide where they are known; otherwise its frame of reference does.
    """
    frame = text_of(item, "FrameOfReferenceUID")
    ct_frame = images.ct.geometry.frame_of_reference_uid
    frame_of_series = {i.series_instance_uid: i.geometry.frame_of_reference_uid for i in images.mr}
    is_ct = not listed.isdisjoint(images.ct_instance_uids)
    known = listed & images.mr_series_of_instance.keys()
    mr_frames = sorted({frame_of_series[images.mr_series_of_instance[uid]] for uid in known})
    if is_ct or mr_frames:
        named = {*mr_frames, *([ct_frame] if is_ct else [])}
        if frame and named != {frame}:
            text = "an item lists images that do not lie in the frame of reference it names"
            raise _RefusedItemError("reg.contradiction", text)
        return is_ct, mr_frames
    if listed and frame == registered:
        return False, []  # it moves other images of that frame within it
    # in the registered frame that CT and MR share, an item without images tells neither apart
    is_mr = frame in frame_of_series.values() and not frame == registered == ct_frame
    return frame == ct_frame, [frame] if is_mr else []


def _matrix(item: Dataset) -> Matrix:
    """Return the one rigid matrix of an item, as it was sent."""
    registrations = items_of(item, "MatrixRegistrationSequence")
    matrices = [m for r in registrations for m in items_of(r, "MatrixSequence")]
    if len(matrices) > 1:
        text = f"an item holds {len(matrices)} matrices, whose order programs read differently"
        raise _RefusedItemError("reg.several_matrices", text)
    values = (
        numbers_of(matrices[0], "FrameOfReferenceTransformationMatrix", 16) if matrices else None
    )
    if values is None:
        raise _RefusedItemError("reg.malformed", "an item holds no matrix of 16 numbers")
    matrix = values.reshape(4, 4)
    rotation = matrix[:3, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise _RefusedItemError("reg.malformed", "the last row of its matrix is not 0 0 0 1")
    if off > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        kind = text_of(matrices[0], "FrameOfReferenceTransformationMatrixType") or "no type given"
        text = f"its matrix scales, shears or mirrors ({kind}, off a rotation by {off:.1e})"
        raise _RefusedItemError("reg.not_rigid", text)
    return matrix


def _maps(ds: Dataset, claims: _Claims, images: RegisteredImages) -> list[RigidTransform]:
    """Return `ct_from_mr` by frame: what brings the CT to the registered frame, undone."""
    registered = text_of(ds, "FrameOfReferenceUID")
    ct_frame = images.ct.geometry.frame_of_reference_uid
    of_ct = _distinct(claims.of_ct)
    if len(of_ct) > 1:
        raise _RefusedItemError("reg.contradiction", "it moves the planning CT in several ways")
    if not of_ct and registered != ct_frame:
        return []
    registered_from_ct = of_ct[0] if of_ct else np.eye(4)
    maps = []
    for frame in dict.fromkeys(i.geometry.frame_of_reference_uid for i in images.mr):
        moves = _distinct(claims.of_mr.get(frame, []))
        if not moves and registered == frame and of_ct and (frame != ct_frame or _moves(of_ct)):
            moves = [np.eye(4)]  # the MR is what the CT was registered to
        middle = next(
            i.geometry.centre_mm() for i in images.mr if i.geometry.frame_of_reference_uid == frame
        )
        for registered_from_mr in moves:
            matrix = np.linalg.inv(registered_from_ct) @ registered_from_mr
            maps.append(RigidTransform(_nearest_rigid(matrix, middle), ct_frame, frame))
    return maps


def _moves(of_ct: Sequence[Matrix]) -> bool:
    return any(not np.array_equal(matrix, np.eye(4)) for matrix in of_ct)


def _distinct(matrices: Sequence[Matrix]) -> list[Matrix]:
    kept: list[Matrix] = []
    for matrix in matrices:
        if not any(np.array_equal(matrix, other) for other in kept):
            kept.append(matrix)
    return kept


def _nearest_rigid(matrix: Matrix, middle: Points) -> Matrix:
    """Return the matrix with the nearest exact rotation, which moves `middle` as it did."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = matrix[:3, :3] @ middle + matrix[:3, 3] - rigid[:3, :3] @ middle
    return rigid


def _is_known(
    given: RigidTransform, maps: Sequence[RigidTransform], images: RegisteredImages
) -> bool:
    corners = np.concatenate(
        [
            image.geometry.corners_mm()
            for image in images.mr
            if image.geometry.frame_of_reference_uid == given.from_frame_uid
        ]
    )
    return any(
        other.from_frame_uid == given.from_frame_uid
        and other.largest_distance_mm(given, corners) <= SAME_MAP_MM
        for other in maps
    )


def _tell_rivals(maps: Sequence[RigidTransform]) -> list[Finding]:
    frames = [each.from_frame_uid for each in maps]
    return [
        warning(
            "reg.several",
            f"Registrations: {frames.count(frame)} that differ bring the MR frame of reference "
            f"{tail(frame)} to the planning CT; where one is used as sent, it is the newest",
            count=frames.count(frame),
        )
        for frame in dict.fromkeys(frames)
        if frames.count(frame) > 1
    ]


__all__ = ["RegisteredImages", "decode_registrations"]
