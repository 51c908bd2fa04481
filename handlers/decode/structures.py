"""RT Structure Set -> `values.StructureSet`, and what of it the CT cannot hold.

Alters no contour and moves none to another slice. Where a contour lies is told by its points; the
image instances that it references only confirm it.
Read first: DICOM PS3.3 C.8.8.5 and C.8.8.6 (Structure Set, ROI Contour).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    Floats,
    failure,
    items_of,
    note,
    number_of,
    numbers_of,
    tail,
    text_of,
    warning,
)
from handlers.geometry import Geometry
from handlers.sampling import contours_by_slice, nesting_depths, slice_of_contour
from handlers.values import Contour, Finding, Roi, StructureSet

CLOSED_PLANAR = "CLOSED_PLANAR"
"""PS3.3 C.8.8.6.3"""

CLOSEDPLANAR_XOR = "CLOSEDPLANAR_XOR"
"""PS3.3 C.8.8.6.3; spelled without an underscore after CLOSED"""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedStructures:
    """A structure set and what was found; `structure_set` is None if a finding is a failure."""

    structure_set: StructureSet | None
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Contours:
    """What was read of one ROI's contours, with counts of what was not."""

    kept: list[Contour] = field(default_factory=list)
    flaws: Counter[str] = field(default_factory=Counter)
    open_types: Counter[str] = field(default_factory=Counter)


def check_structures(ds: Dataset, ct_frame_of_reference_uid: str) -> list[Finding]:
    """Return what is wrong with a structure set as a whole, wherever the CT's slices lie.

    Args:
        ds: The object that should be an RT Structure Set.
        ct_frame_of_reference_uid: Empty if unknown; frames of reference are then not compared.
    """
    if text_of(ds, "Modality") != "RTSTRUCT":
        text = "Structure set: the object is no RT Structure Set"
        return [failure("structures.modality", text)]
    entries = items_of(ds, "StructureSetROISequence")
    found = _check_entries(entries)
    if ct_frame_of_reference_uid:
        contour_items, _ = _contour_items(ds, entries)
        found += _check_frames(ds, entries, contour_items, ct_frame_of_reference_uid)
    return found


def decode_structures(
    ds: Dataset, ct: Geometry, slice_of_instance: Mapping[str, int]
) -> DecodedStructures:
    """Return the ROIs of a structure set that was drawn on a CT.

    Args:
        ds: An RT Structure Set in which `check_structures` found no failure.
        ct: The grid of the planning CT.
        slice_of_instance: Slice index of each CT instance, by SOP Instance UID; -1 for a
            multi-frame object, whose slices are not compared.
    """
    entries = items_of(ds, "StructureSetROISequence")
    contour_items, found = _contour_items(ds, entries)
    elsewhere = _frames_elsewhere(ds, entries, contour_items, ct.frame_of_reference_uid)
    if elsewhere:
        text = (
            f"Structure set: its {len(elsewhere)} ROIs of other frames of reference go back "
            "unchanged, in a structure set of their own for each frame"
        )
        found.append(note("structures.split", text, count=len(elsewhere)))
    types = {
        number_of(item, "ReferencedROINumber"): text_of(item, "RTROIInterpretedType")
        for item in items_of(ds, "RTROIObservationsSequence")
    }
    rois: list[Roi] = []
    for entry in entries:
        number = int(number_of(entry, "ROINumber") or 0)
        if number in elsewhere:
            continue
        read = _read_contours(contour_items.get(number, ()))
        name = text_of(entry, "ROIName")
        roi = Roi(number, name, types.get(number, ""), tuple(read.kept))
        found += _tell_unread(read, roi)
        placed, lost_here = _tell_placed(roi, ct, slice_of_instance)
        found += placed
        lost_here += sum(read.flaws[flaw] for flaw in ("malformed", "not_planar"))
        rois.append(replace(roi, lost_contours=lost_here))
    if not any(roi.contours for roi in rois):
        text = "Structure set: no ROI has a closed contour; draw the target and send it again"
        found.append(failure("structures.nothing_drawn", text))
        return DecodedStructures(None, tuple(found))
    structure_set = StructureSet(
        text_of(ds, "SOPInstanceUID"),
        ct.frame_of_reference_uid,
        text_of(ds, "StructureSetLabel"),
        tuple(rois),
        elsewhere,
    )
    return DecodedStructures(structure_set, tuple(found))


def _check_entries(entries: Sequence[Dataset]) -> list[Finding]:
    if not entries:
        return [failure("structures.no_roi", "Structure set: it holds no ROI; draw the target")]
    found = []
    numbers = [number_of(entry, "ROINumber") for entry in entries]
    if None in numbers:
        text = f"Structure set: {numbers.count(None)} ROIs have no ROI Number"
        found.append(failure("structures.no_roi_number", text))
    twice = sorted(f"{n:g}" for n, count in Counter(numbers).items() if n is not None and count > 1)
    if twice:
        text = f"Structure set: ROI Number {', '.join(twice)} is given to several ROIs"
        found.append(failure("structures.roi_number_not_unique", text))
    names = Counter(text_of(entry, "ROIName") for entry in entries)
    for name in sorted(name for name, count in names.items() if count > 1):
        text = f'Structure set: {names[name]} ROIs are called "{name}"'
        found.append(warning("structures.same_name", text, count=names[name]))
    return found


def _contour_items(
    ds: Dataset, entries: Sequence[Dataset]
) -> tuple[dict[int, list[Dataset]], list[Finding]]:
    """Return the items of Contour Sequence by ROI number."""
    known = {number_of(entry, "ROINumber") for entry in entries}
    items: dict[int, list[Dataset]] = {}
    orphans = 0
    for roi_contour in items_of(ds, "ROIContourSequence"):
        number = number_of(roi_contour, "ReferencedROINumber")
        contours = items_of(roi_contour, "ContourSequence")
        if number is None or number not in known:
            orphans += len(contours)
        else:
            items.setdefault(int(number), []).extend(contours)
    if not orphans:
        return items, []
    text = f"Structure set: {orphans} contours belong to no ROI of it and are left out"
    return items, [warning("contours.without_roi", text, count=orphans)]


def _check_frames(
    ds: Dataset,
    entries: Sequence[Dataset],
    contour_items: Mapping[int, Sequence[Dataset]],
    ct_frame_uid: str,
) -> list[Finding]:
    """Return a finding for each frame of reference in which ROIs are drawn, but the CT's.

    Where the structure set as a whole names the CT's frame alone, an ROI of its own mind is a slip
    of the sender (real exports have it): a warning, since contours that lie on no slice of the CT
    are told apart by their geometry anyway. A set of several frames (some systems write such) is
    read as far as it lies in the CT's; only one with nothing there is a failure.
    """
    listed = _listed_frames(ds)
    common = listed or {text_of(ds, "FrameOfReferenceUID")}
    strangers: dict[str, list[str]] = {}
    for entry in entries:
        if contour_items.get(int(number_of(entry, "ROINumber") or 0)):
            own = text_of(entry, "ReferencedFrameOfReferenceUID")
            for frame in ({own} if own else common) - {ct_frame_uid}:
                strangers.setdefault(frame, []).append(f'"{text_of(entry, "ROIName")}"')
    elsewhere = _frames_elsewhere(ds, entries, contour_items, ct_frame_uid)
    found = []
    for frame, names in sorted(strangers.items()):
        listing = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
        if not frame:
            text = f"Structure set: the frame of reference of {listing} is not given"
            found.append(failure("structures.no_frame_of_reference", text, count=len(names)))
            continue
        if listed == {ct_frame_uid}:
            text = (
                f"Structure set: it contradicts itself: {listing} name the frame of reference "
                f"{tail(frame)}, the structure set as a whole that of the planning CT "
                f"({tail(ct_frame_uid)}); the latter was believed: check where the contours lie"
            )
            found.append(warning("structures.contradiction", text, count=len(names)))
            continue
        if frame in elsewhere.values():
            text = (
                f"Structure set: {listing} were drawn in the frame of reference {tail(frame)}; "
                f"only what was drawn in that of the planning CT ({tail(ct_frame_uid)}) is used"
            )
            found.append(warning("structures.several_frames", text, count=len(names)))
            continue
        text = (
            f"Structure set: {listing} were drawn in the frame of reference {tail(frame)}, not in "
            f"that of the planning CT ({tail(ct_frame_uid)}); send the CT that they were drawn on, "
            "or copy them to this CT"
        )
        found.append(failure("structures.frame_of_reference", text, count=len(names)))
    return found


def _listed_frames(ds: Dataset) -> set[str]:
    return {
        text_of(item, "FrameOfReferenceUID")
        for item in items_of(ds, "ReferencedFrameOfReferenceSequence")
    }


def _frames_elsewhere(
    ds: Dataset,
    entries: Sequence[Dataset],
    contour_items: Mapping[int, Sequence[Dataset]],
    ct_frame_uid: str,
) -> dict[int, str]:
    """Return by number the ROIs of other frames than the CT's, in a set that tells them apart.

    That is one in which every drawn ROI names its frame and one at least is drawn in the CT's. A
    set that as a whole names the CT's frame alone holds no other: there the ROI is mistaken.
    """
    own = {
        int(number_of(entry, "ROINumber") or 0): text_of(entry, "ReferencedFrameOfReferenceUID")
        for entry in entries
    }
    drawn = {frame for number, frame in own.items() if contour_items.get(number)}
    if ct_frame_uid not in drawn or "" in drawn or _listed_frames(ds) == {ct_frame_uid}:
        return {}
    return {n: frame for n, frame in own.items() if frame in drawn - {ct_frame_uid}}


def _read_contours(items: Sequence[Dataset]) -> _Contours:
    read = _Contours()
    for item in items:
        kind = text_of(item, "ContourGeometricType")
        if kind not in (CLOSED_PLANAR, CLOSEDPLANAR_XOR):
            read.open_types[kind or "without type"] += 1
            continue
        values = numbers_of(item, "ContourData")
        if values is None or len(values) % 3:
            read.flaws["malformed"] += 1
            continue
        points = _without_closing_point(values.reshape(-1, 3))
        if len(points) < 3:
            read.flaws["too_few_points"] += 1
            continue
        images = items_of(item, "ContourImageSequence")
        uid = text_of(images[0], "ReferencedSOPInstanceUID") if images else ""
        try:
            read.kept.append(Contour(points, uid, is_exclusive_or=kind == CLOSEDPLANAR_XOR))
        except ValueError:  # the one invariant of a contour that was not checked above
            read.flaws["not_planar"] += 1
    return read


def _without_closing_point(points: Floats) -> Floats:
    return points[:-1] if len(points) > 1 and np.array_equal(points[0], points[-1]) else points


def _tell_unread(read: _Contours, roi: Roi) -> list[Finding]:
    found = []
    if read.open_types:
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(read.open_types.items()))
        text = f'ROI "{roi.name}": contours that enclose no area are left out: {counts}'
        found.append(note("contours.not_closed", text, count=read.open_types.total()))
    texts = {
        "malformed": "Contour Data is absent or no list of points (x, y, z)",
        "too_few_points": "less than three points",
        "not_planar": "the points do not lie in one plane",
    }
    for flaw, count in sorted(read.flaws.items()):
        text = f'ROI "{roi.name}": {count} contours are left out: {texts[flaw]}'
        found.append(warning(f"contours.{flaw}", text, count=count))
    return found


def _tell_placed(
    roi: Roi, ct: Geometry, slice_of_instance: Mapping[str, int]
) -> tuple[list[Finding], int]:
    """Return how an ROI's contours fit the CT's slices, and how many fit none."""
    slices = [slice_of_contour(contour, ct) for contour in roi.contours]
    tally: Counter[str] = Counter()
    for contour, index in zip(roi.contours, slices, strict=True):
        if index is None:
            tally[_why_without_slice(contour, ct)] += 1
        uid = contour.referenced_sop_instance_uid
        named = slice_of_instance.get(uid)
        if uid and named is None:
            tally["dangling_reference" if index is not None else "dangling_without_slice"] += 1
        elif named is not None and named >= 0 and index is not None and named != index:
            tally["wrong_reference"] += 1
        if index is not None and not _is_within_image(contour, ct):
            tally["beyond_image"] += 1
    by_slice = contours_by_slice(roi, ct)
    tally["several_planes"] = sum(i is not None for i in slices) - sum(map(len, by_slice.values()))
    tally["nested_rings"] = sum(_is_nested(contours, ct) for contours in by_slice.values())
    if by_slice:
        tally["undrawn_slices"] = max(by_slice) - min(by_slice) + 1 - len(by_slice)
    found = [_placement(code, count, roi) for code, count in sorted(tally.items()) if count]
    return [f for f in found if f is not None], slices.count(None)


_WARNINGS = {
    "without_slice": "contours lie on no slice of the CT and do not count; send the missing slices",
    "not_parallel": "contours are not parallel to the CT's slices and do not count",
    "wrong_reference": "contours reference another CT slice than the one they lie on; where they "
    "lie is believed",
    "beyond_image": "contours reach beyond the CT image; what lies outside does not count",
    "several_planes": "contours do not count: another plane of the same slice lies nearer to its "
    "middle (drawn on thinner slices?)",
}
_NOTES = {
    "dangling_reference": "contours reference CT images that are not here; the CT has a slice at "
    "their position, and where they lie is believed",
    "dangling_without_slice": "of the contours without a CT slice reference CT images that are not "
    "here",
    "nested_rings": "slices have rings within rings; the inner ones are taken for holes",
    "undrawn_slices": "slices between the first and the last drawn one have no contour; nothing is "
    "filled in",
}


def _placement(code: str, count: int, roi: Roi) -> Finding:
    make = warning if code in _WARNINGS else note
    text = f'ROI "{roi.name}": {count} {(_WARNINGS | _NOTES)[code]}'
    return make(f"contours.{code}", text, count=count)


def _why_without_slice(contour: Contour, ct: Geometry) -> str:
    """Return whether the contour is tilted or off the grid: its mean alone has a slab or not."""
    middle = np.repeat(contour.points.mean(axis=0)[None], 3, axis=0)
    return "without_slice" if slice_of_contour(Contour(middle), ct) is None else "not_parallel"


def _is_within_image(contour: Contour, ct: Geometry) -> bool:
    at = ct.indices_from_points(contour.points)[:, 1:]
    return bool(np.all((at >= -0.5) & (at <= np.array(ct.shape[1:]) - 0.5)))


def _is_nested(contours: Sequence[Contour], ct: Geometry) -> bool:
    if len(contours) < 2 or any(contour.is_exclusive_or for contour in contours):
        return False
    return max(nesting_depths(contours, ct)) > 0
