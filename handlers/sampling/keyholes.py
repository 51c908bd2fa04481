"""Rings of one slice -> polygons without holes in them, each hole reached by a channel of no width.

The form that most planning systems import (PS3.3 C.8.8.6.3). A channel runs from corner to corner
and crosses nothing, so that a polygon touches itself along its channels and nowhere else. It keeps
off the centres of pixels: programs that fill polygons disagree about what lies on a border.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CLEARANCE_PIXELS = 0.05
"""How far a channel keeps off the centres of pixels, where there is a choice."""

MOST_CHANNELS_TRIED = 2000
"""Pairs of corners, nearest first, among which a channel is sought."""

TOUCHING_MM = 1e-6
"""Nearer than this, two edges touch: the decimals to which points on a plane are known."""


def joined(ring: Floats, holes: Sequence[Floats], spacing_mm: Sequence[float]) -> Floats:
    """Return one polygon that walks from a ring to each hole, round it and back the same way.

    Args:
        ring: Corners, shape (n, k); the first two columns are millimetres in the plane.
        holes: Of the same form; each lies within the ring, and none within another.
        spacing_mm: Of the pixels in the plane, whose centres lie at multiples of it.
    """
    left = list(holes)
    is_channel = np.zeros(len(ring), dtype=np.bool_)
    while left:
        which, start, end = _channel(ring, is_channel, left, np.array(spacing_mm))
        hole = np.roll(left.pop(which), -end, axis=0)
        ring = np.concatenate((ring[: start + 1], hole, hole[:1], ring[start:]))
        middle = np.zeros(len(hole) + 1, dtype=np.bool_)
        middle[[0, -1]] = True
        is_channel = np.concatenate((is_channel[: start + 1], middle, is_channel[start:]))
        is_channel[[start, start + len(middle) + 1]] = True
    return ring


def has_crossings(ring: Floats) -> bool:
    """Tell whether two edges of a closed polygon (n, 2) in millimetres cross each other.

    Edges that only touch do not cross: a keyhole's channel goes there and back.
    """
    a, b = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.argsort(low[:, 0], kind="stable")
    begins = low[order, 0]
    # only edges that begin before this one ends can meet it
    last = np.searchsorted(begins, high[order, 0], side="right")
    counts = last - np.arange(len(order)) - 1
    first = np.repeat(np.arange(len(order)), counts)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    one, other = order[first], order[first + steps + 1]
    meets = (low[one, 1] <= high[other, 1]) & (low[other, 1] <= high[one, 1])
    one, other = one[meets], other[meets]
    return bool(
        np.any(
            _are_apart(a[one], b[one], a[other], b[other])
            & _are_apart(a[other], b[other], a[one], b[one])
        )
    )


def _channel(
    ring: Floats, is_channel: Bools, holes: Sequence[Floats], spacing_mm: Floats
) -> tuple[int, int, int]:
    """Return the nearest free channel: which hole, corner of the ring, corner of the hole.

    A corner that a channel uses already serves no second one where another can be had: there it
    would be open on which side of the first the second leaves.
    """
    sizes = [len(hole) for hole in holes]
    corners = np.concatenate(holes)[:, :2]
    apart = np.linalg.norm(ring[:, None, :2] - corners[None], axis=2)
    apart[is_channel] += float(apart.max()) + 1.0
    edges = _edges([ring, *holes])
    nearest = int(apart.argmin())
    chosen, is_free = nearest, False
    for place in _by_distance(apart, nearest):
        at, corner = divmod(place, len(corners))
        a, b = ring[at, :2], corners[corner]
        if not _is_free(a, b, *edges):
            continue
        if not is_free:  # the nearest of all, should none be clear
            chosen, is_free = place, True
        if _is_clear(a, b, spacing_mm):
            chosen = place
            break
    at, corner = divmod(chosen, len(corners))
    which = int(np.searchsorted(np.cumsum(sizes), corner, side="right"))
    return which, at, corner - sum(sizes[:which])


def _by_distance(apart: Floats, nearest: int) -> Iterator[int]:
    """Yield places in the flat array, smallest first; sorts only if the first is not enough."""
    yield nearest
    for place in np.argsort(apart, axis=None, kind="stable")[:MOST_CHANNELS_TRIED]:
        yield int(place)


def _is_clear(a: Floats, b: Floats, spacing_mm: Floats) -> bool:
    """Tell whether the way from a to b keeps off the centres of pixels."""
    a, b = a / spacing_mm, b / spacing_mm
    low, high = np.floor(np.minimum(a, b)), np.ceil(np.maximum(a, b))
    rows, columns = (np.arange(first, last + 1) for first, last in zip(low, high, strict=True))
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    along = b - a
    part = np.clip((centres - a) @ along / max(float(along @ along), TOUCHING_MM**2), 0, 1)
    return bool(
        np.linalg.norm(centres - a - part[:, None] * along, axis=1).min() > CLEARANCE_PIXELS
    )


def _edges(rings: Sequence[Floats]) -> tuple[Floats, Floats]:
    starts = np.concatenate([ring[:, :2] for ring in rings])
    ends = np.concatenate([np.roll(ring[:, :2], -1, axis=0) for ring in rings])
    return starts, ends


def _is_free(a: Floats, b: Floats, starts: Floats, ends: Floats) -> bool:
    """Tell whether the way from a to b touches no edge but those that end in a or b."""
    shares = np.zeros(len(starts), dtype=np.bool_)
    for corner in (a, b):
        shares |= np.all(starts == corner, axis=1) | np.all(ends == corner, axis=1)
    starts, ends = starts[~shares], ends[~shares]
    many = np.broadcast_to(a, starts.shape), np.broadcast_to(b, starts.shape)
    sides = [_side_mm(*many, starts), _side_mm(*many, ends)]
    others = [_side_mm(starts, ends, many[0]), _side_mm(starts, ends, many[1])]
    meets = np.ones(len(starts), dtype=np.bool_)
    for one, two in (sides, others):
        meets &= ~(
            ((one > TOUCHING_MM) & (two > TOUCHING_MM))
            | ((one < -TOUCHING_MM) & (two < -TOUCHING_MM))
        )
    # in one line with the way, yet beside it
    low, high = np.minimum(a, b) - TOUCHING_MM, np.maximum(a, b) + TOUCHING_MM
    meets &= np.all((np.maximum(starts, ends) >= low) & (np.minimum(starts, ends) <= high), axis=1)
    return not bool(meets.any())


def _side_mm(a: Floats, b: Floats, points: Floats) -> Floats:
    """Return how far points lie beside the lines from a to b, positive on the left."""
    along, to = b - a, points - a
    length = np.maximum(np.linalg.norm(along, axis=1), TOUCHING_MM)
    return np.asarray((along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]) / length)


def _are_apart(a: Floats, b: Floats, c: Floats, d: Floats) -> Bools:
    """Tell whether c and d lie properly on different sides of the lines from a to b."""
    one, two = _side_mm(a, b, c), _side_mm(a, b, d)
    return np.asarray(
        ((one > TOUCHING_MM) & (two < -TOUCHING_MM)) | ((one < -TOUCHING_MM) & (two > TOUCHING_MM))
    )
