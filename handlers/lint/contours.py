"""Rules on single contours of an RT Structure Set: type, points, plane, rings within rings.

Beside the images they are judged in `structure_set_on_images`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydicom.uid import RTStructureSetStorage

from handlers.lint.reading import Floats, whole
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import DrawnContour, Subject, Together

Integers = npt.NDArray[np.intp]

_SETS = (RTStructureSetStorage,)

TOO_FEW = Rule(
    "contour.too-few-points",
    Level.ERROR,
    "a contour has fewer points than its type needs (3 closed, 2 open, exactly 1 POINT)",
    "PS3.3 C.8.8.6; qurit/rt-utils#87",
    "leave out contours that are smaller than a voxel",
    _SETS,
)
COUNT = Rule(
    "contour.count-wrong",
    Level.ERROR,
    "Number of Contour Points is not the number of points in Contour Data",
    "PS3.3 C.8.8.6",
    "write the number of x, y, z triples",
    _SETS,
)
NOT_TRIPLES = Rule(
    "contour.not-triples",
    Level.ERROR,
    "Contour Data is no list of x, y, z triples of numbers",
    "PS3.3 C.8.8.6",
    "write three finite numbers for each point",
    _SETS,
)
NOT_PLANAR = Rule(
    "contour.not-planar",
    Level.ERROR,
    "the points of a planar contour do not lie in one plane",
    "PS3.3 C.8.8.6.1",
    "write each contour in the plane of its slice",
    _SETS,
)
REPEATED = Rule(
    "contour.repeated-point",
    Level.WARNING,
    "a point stands twice in a row, or the first one again at the end",
    "PS3.3 C.8.8.6.1",
    "write each corner once; a closed contour closes by itself",
    _SETS,
)
CROSSING = Rule(
    "contour.crosses-itself",
    Level.WARNING,
    "a closed contour crosses itself: readers disagree on what is inside",
    "PS3.3 C.8.8.6.3; mghro/rad-collision#15",
    "write simple polygons; a hole by a keyhole along one line",
    _SETS,
)
NESTED = Rule(
    "contour.nested",
    Level.WARNING,
    "a CLOSED_PLANAR ring lies within another of the same ROI: hole for some readers, filled for "
    "others",
    "PS3.3 C.8.8.6.3; pyplati/platipy#244; SlicerRt/SlicerRT#171",
    "write the hole as a keyhole, or both rings as CLOSEDPLANAR_XOR",
    _SETS,
)
MIXED = Rule(
    "contour.mixed-xor",
    Level.ERROR,
    "CLOSEDPLANAR_XOR and CLOSED_PLANAR stand on one plane of an ROI",
    "PS3.3 C.8.8.6.3",
    "write all rings of an ROI as one type",
    _SETS,
)

FEWEST = {"CLOSED_PLANAR": 3, "CLOSEDPLANAR_XOR": 3, "OPEN_PLANAR": 2, "OPEN_NONPLANAR": 2}
"""Points that a contour type needs (PS3.3 C.8.8.6)."""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

PLANE_TOLERANCE_MM = 0.05
"""How far a point may lie off its contour's plane: half a step of the coarsest rounding in use."""

MOST_PAIRS = 1 << 18
"""Pairs of edges or corners that are compared at a time: it bounds memory, not what is found."""

SAME_POINT_MM = 1e-4
"""Points that are nearer than this are one point, written twice."""


@looks_for(TOO_FEW, COUNT, NOT_TRIPLES)
def points(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Count the points of each contour."""
    for contour in subject.contours:
        told = whole(contour.item, "NumberOfContourPoints")
        if contour.points is None:
            if contour.count is not None or "ContourData" in contour.item:
                count = "" if contour.count is None else f"{contour.count} values"
                yield Broken(contour.of_points, count, NOT_TRIPLES)
            continue
        held = len(contour.points)
        if told is not None and told != held:
            place = Place((*contour.place.steps, *Place.of("NumberOfContourPoints").steps))
            yield Broken(place, f"{told} told, {held} there", COUNT)
        is_wrong = held != 1 if contour.kind == "POINT" else held < FEWEST.get(contour.kind, 1)
        if is_wrong:
            yield Broken(contour.of_points, f"{held} points, {contour.kind}", TOO_FEW)


@looks_for(NOT_PLANAR, REPEATED, CROSSING)
def shapes(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the polygon that each contour is."""
    for contour in subject.contours:
        if contour.points is None or contour.kind not in (*CLOSED, "OPEN_PLANAR"):
            continue
        if len(contour.points) < 3:
            continue
        depth_mm, flat = _flattened(contour.points)
        if depth_mm > PLANE_TOLERANCE_MM:
            yield Broken(contour.of_points, f"{depth_mm:.3f} mm thick", NOT_PLANAR)
            continue
        if contour.kind not in CLOSED:
            continue
        is_new = np.abs(flat - np.roll(flat, 1, axis=0)).max(axis=1) > SAME_POINT_MM
        if not is_new.all():
            yield Broken(contour.of_points, f"{int((~is_new).sum())} points", REPEATED)
        crossings = _crossings(flat[is_new])
        if crossings:
            yield Broken(contour.of_points, f"{crossings} crossings", CROSSING)


@looks_for(NESTED, MIXED)
def rings(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the rings of one ROI that lie on one plane."""
    for same_plane in _by_plane(subject.contours).values():
        kinds = {contour.kind for contour in same_plane}
        if len(kinds) > 1:
            yield Broken(same_plane[0].place, f"ROI {same_plane[0].roi}", MIXED)
        elif kinds == {"CLOSED_PLANAR"} and len(same_plane) > 1:
            across = _axis_across(same_plane[0])
            flat = [np.delete(c.points, across, axis=1) for c in same_plane if c.points is not None]
            for number, contour in enumerate(same_plane):
                others = (ring for k, ring in enumerate(flat) if k != number)
                if any(_is_within(flat[number], ring) for ring in others):
                    yield Broken(contour.place, f"ROI {contour.roi}", NESTED)


def _by_plane(
    contours: Sequence[DrawnContour],
) -> dict[tuple[object, ...], list[DrawnContour]]:
    """Return closed contours by ROI and plane (the direction across it, and where it lies)."""
    found: dict[tuple[object, ...], list[DrawnContour]] = defaultdict(list)
    for contour in contours:
        if contour.points is not None and len(contour.points) >= 3 and contour.kind in CLOSED:
            normal = _normal(contour.points)
            middle = float((contour.points @ normal).mean())
            found[(contour.roi, *np.round(normal, 1) + 0.0, round(middle, 1))].append(contour)
    return found


def _normal(given: Floats) -> Floats:
    """Return the unit vector across a contour, its longest component positive."""
    extent = np.ptp(given, axis=0)
    axis = int(extent.argmin())
    if extent[axis] <= PLANE_TOLERANCE_MM:
        return np.asarray(np.eye(3)[axis])
    # twice the area as a vector: it needs no corner to be far from the others
    from_first = given - given[0]
    normal = np.cross(from_first, np.roll(from_first, -1, axis=0)).sum(axis=0)
    length = float(np.linalg.norm(normal))
    if not length:
        return np.asarray(np.eye(3)[axis])
    return np.asarray(normal / length * np.sign(normal[np.abs(normal).argmax()]))


def _axis_across(contour: DrawnContour) -> int:
    """Return the axis along which a contour is seen at its largest."""
    return 0 if contour.points is None else int(np.abs(_normal(contour.points)).argmax())


def _flattened(given: Floats) -> tuple[float, Floats]:
    """Return how thick a contour is across its plane, and its points in that plane."""
    extent = np.ptp(given, axis=0)
    axis = int(extent.argmin())
    if extent[axis] <= PLANE_TOLERANCE_MM:
        return float(extent[axis]), np.delete(given, axis, axis=1)
    centred = given - given.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ axes.T
    return float(np.ptp(turned[:, 2])) if turned.shape[1] > 2 else 0.0, turned[:, :2]


def _crossings(ring: Floats) -> int:
    """Return how many pairs of edges of a ring cross in their inside.

    Edges that only touch, or lie on each other (as in a keyhole), do not cross.
    """
    if len(ring) < 4:
        return 0
    begin, end = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    # along x, edges that meet stand near each other: the rest is not compared
    order = np.argsort(low[:, 0], kind="stable")
    beyond = np.searchsorted(low[order, 0], high[order, 0])
    counts = np.maximum(beyond - np.arange(len(ring)) - 1, 0)
    return sum(
        _crossings_of(part, order, counts, begin, end, low, high)
        for part in _parts_of_pairs(counts)
    )


def _parts_of_pairs(counts: Integers) -> Iterator[slice]:
    """Return runs of edges that have no more than `MOST_PAIRS` pairs together, or are alone."""
    parts = np.cumsum(counts) // MOST_PAIRS
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(counts)]
    return (slice(a, b) for a, b in pairwise(edges))


def _crossings_of(
    part: slice,
    order: Integers,
    counts: Integers,
    begin: Floats,
    end: Floats,
    low: Floats,
    high: Floats,
) -> int:
    """Return how many crossings the edges of a run have with those that stand behind them."""
    nearer = np.repeat(np.arange(part.start, part.stop), counts[part])
    starts = np.cumsum(counts[part]) - counts[part]
    steps = np.arange(len(nearer)) - np.repeat(starts, counts[part])
    first, second = order[nearer], order[nearer + 1 + steps]
    meets = (low[first, 1] < high[second, 1]) & (low[second, 1] < high[first, 1])
    meets &= np.abs(first - second) > 1
    first, second = first[meets], second[meets]
    if not len(first):
        return 0
    a, b, c, d = begin[first], end[first], begin[second], end[second]
    around_c, around_d = _turn(a, b, c), _turn(a, b, d)
    around_a, around_b = _turn(c, d, a), _turn(c, d, b)
    # a rounded keyhole lies within a hundredth of a millimetre of itself: that is no crossing
    least = 0.01 * np.maximum(np.linalg.norm(b - a, axis=1), np.linalg.norm(d - c, axis=1))
    is_clear = np.abs([around_a, around_b, around_c, around_d]).min(axis=0) > least
    crosses = (around_c * around_d < 0) & (around_a * around_b < 0) & is_clear
    return int(crosses.sum())


def _turn(a: Floats, b: Floats, c: Floats) -> Floats:
    along, to = b - a, c - a
    return np.asarray(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])


def _is_within(inner: Floats, outer: Floats) -> bool:
    """Return whether all corners of a ring lie within another, by the crossing number."""
    if (inner.min(axis=0) < outer.min(axis=0)).any() or (
        inner.max(axis=0) > outer.max(axis=0)
    ).any():
        return False
    step = max(1, MOST_PAIRS // len(outer))
    return all(_are_within(inner[i : i + step], outer) for i in range(0, len(inner), step))


def _are_within(corners: Floats, outer: Floats) -> bool:
    a, b = outer, np.roll(outer, -1, axis=0)
    x, y = corners[:, None, 0], corners[:, None, 1]
    straddles = (a[None, :, 1] > y) != (b[None, :, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = a[None, :, 0] + (y - a[None, :, 1]) / (b[:, 1] - a[:, 1])[None, :] * (
            b[:, 0] - a[:, 0]
        )
    return bool(((straddles & (x < at)).sum(axis=1) % 2 == 1).all())
