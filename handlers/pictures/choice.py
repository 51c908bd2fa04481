"""Which planes through a target are worth a look, and how much of its surroundings they show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.pictures.planes import Plane, direction_letters
from handlers.results import TargetResult

PANEL_PIXELS = 384
"""Rows and columns of one picture: 13 frames of two stay below 15 MB."""

SURROUNDINGS_MM = 35.0
"""Shown around a target on each side, at least."""

LEAST_VIEW_MM, LARGEST_VIEW_MM = 90.0, 420.0
"""Side of a picture: bounds, so that a node is not lost and a body fits."""

INWARD = 0.12
"""Part of the width by which the outer planes across the slices are moved in: at the very end they
would cut a sliver."""

NEAR = 0.12
"""Planes nearer to each other than this part of the target's width show the same."""

CENTER, CHANGE = "center", "largest change"


@dataclass(frozen=True, slots=True, eq=False)
class ChosenPlane:
    """A plane, and in a word why it is shown."""

    plane: Plane
    why: str


def planes_of(target: TargetResult) -> tuple[ChosenPlane, ...]:
    """Return axial, sagittal and coronal planes through a target, in this order.

    On each axis: both ends of what is drawn or refined, its center, and where the two differ most;
    axial ones a quarter from both ends, too, if that leaves no more than five.

    Returns:
        At most 5 + 4 + 4 planes, all of one scale and center; none for a target without a voxel.
    """
    drawn = target.drawn.inside
    refined = drawn if target.refinement.refined is None else target.refinement.refined.inside
    low, high = _bounds(drawn, refined)
    if low is None or high is None:
        return ()
    geometry = target.drawn.geometry
    block = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    drawn, refined = drawn[block], refined[block]
    extent_mm = [(b - a + 1) * mm for a, b, mm in zip(low, high, geometry.spacing_mm, strict=True)]
    view_mm = min(max(max(extent_mm) + 2 * SURROUNDINGS_MM, LEAST_VIEW_MM), LARGEST_VIEW_MM)
    z, y, x = ((a + b) / 2 for a, b in zip(low, high, strict=True))

    def plane(axis: int, index: int) -> Plane:
        return Plane.through(
            geometry,
            axis,
            index,
            centre=(z, y, x),
            size=PANEL_PIXELS,
            pixel_mm=view_mm / PANEL_PIXELS,
        )

    chosen = []
    for axis in (0, 2, 1):
        others = tuple(each for each in range(3) if each != axis)
        changed = np.count_nonzero(drawn != refined, axis=others)
        occupied = np.count_nonzero(drawn | refined, axis=others)
        chosen += _on_axis(axis, low[axis], changed, occupied, plane)
    return tuple(chosen)


def _bounds(
    drawn: npt.NDArray[np.bool_], refined: npt.NDArray[np.bool_]
) -> tuple[list[int] | None, list[int] | None]:
    """Return first and last occupied index on each axis, or None twice."""
    low, high = [], []
    for axis in range(3):
        others = tuple(each for each in range(3) if each != axis)
        at = np.flatnonzero(drawn.any(axis=others) | refined.any(axis=others))
        if not len(at):
            return None, None
        low.append(int(at[0]))
        high.append(int(at[-1]))
    return low, high


def _on_axis(
    axis: int,
    first: int,
    changed: Sequence[int] | npt.NDArray[np.intp],
    occupied: npt.NDArray[np.intp],
    plane: Callable[[int, int], Plane],
) -> list[ChosenPlane]:
    last = len(occupied) - 1
    inward = round(last * INWARD) if axis != 0 else 0
    growing = plane(axis, first).geometry.axes[:, axis]
    middle = round(float(np.average(np.arange(last + 1), weights=occupied)))
    wanted = [(middle, CENTER)]
    if np.any(changed):
        wanted.append((int(np.argmax(changed)), CHANGE))
    wanted.append((inward, f"{direction_letters(-growing)} end"))
    wanted.append((last - inward, f"{direction_letters(growing)} end"))
    if axis == 0:
        wanted += [((middle + end) // 2, "between") for end in (0, last)]
    most = 5 if axis == 0 else 4
    apart = max(1, round((last + 1) * NEAR))
    kept: dict[int, str] = {}
    for index, why in wanted:
        near = [other for other in kept if abs(other - index) < apart]
        if near and why == CHANGE:
            # the plane of the largest change is shown itself, not one beside it
            kept.pop(near[0])
            kept[index] = f"{CENTER}, {CHANGE}"
        elif not near and len(kept) < most:
            kept[index] = why
    return [ChosenPlane(plane(axis, first + index), kept[index]) for index in sorted(kept)]
