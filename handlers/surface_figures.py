"""Where a target's surface went, in a few numbers: what report and encoder tell of it.

Counts the points of `values.SurfaceMoves`, which lie evenly on the drawn surface, so that a share
of points is a share of area. Measures nothing anew, and judges nothing.
"""

from dataclasses import dataclass

import numpy as np

from handlers.results import MoveCause, SurfaceMoves

MOVED_MM = 0.5
"""What lies closer to the drawn surface counts as not moved: half a fine pixel of a planning CT."""


@dataclass(frozen=True, slots=True)
class CauseFigures:
    """What one cause did to a surface.

    Attributes:
        cause: Because of what.
        share: Part of the whole drawn surface that bears this cause, 0 to 1.
        mean_mm: Mean displacement of that part; positive outward.
    """

    cause: MoveCause
    share: float
    mean_mm: float


@dataclass(frozen=True, slots=True)
class SurfaceFigures:
    """What became of a drawn surface.

    Attributes:
        inward_share: Part of it that moved inward by more than `MOVED_MM`, 0 to 1.
        outward_share: Part of it that moved outward by more than that.
        largest_inward_mm: Farthest way inward, positive; zero if no point lies inward.
        largest_outward_mm: Farthest way outward, likewise.
        mean_absolute_mm: Mean size of the displacement, over all of it.
        causes: Those that a point names, the largest share first.
    """

    inward_share: float
    outward_share: float
    largest_inward_mm: float
    largest_outward_mm: float
    mean_absolute_mm: float
    causes: tuple[CauseFigures, ...]


def surface_figures(moves: SurfaceMoves | None) -> SurfaceFigures | None:
    """Return the figures of a surface; None if nothing is known of it, or it has no point.

    Example:
        >>> moves = SurfaceMoves(np.zeros((4, 3)), np.array([-2.0, -0.4, 0.0, 1.0]),
        ...                      (MoveCause.VESSEL, None, None, MoveCause.TARGET_SIGNAL))
        >>> figures = surface_figures(moves)
        >>> figures.inward_share, figures.largest_inward_mm, figures.mean_absolute_mm
        (0.25, 2.0, 0.85)
    """
    if moves is None or len(moves.displacement_mm) == 0:
        return None
    way_mm = moves.displacement_mm
    return SurfaceFigures(
        inward_share=float(np.mean(way_mm < -MOVED_MM)),
        outward_share=float(np.mean(way_mm > MOVED_MM)),
        largest_inward_mm=max(0.0, -float(way_mm.min())),
        largest_outward_mm=max(0.0, float(way_mm.max())),
        mean_absolute_mm=float(np.abs(way_mm).mean()),
        causes=_causes(moves),
    )


def _causes(moves: SurfaceMoves) -> tuple[CauseFigures, ...]:
    figures = []
    for cause in MoveCause:
        ways_mm = moves.displacement_mm[[named is cause for named in moves.causes]]
        if len(ways_mm):
            share = len(ways_mm) / len(moves.causes)
            figures.append(CauseFigures(cause, share, float(ways_mm.mean())))
    return tuple(sorted(figures, key=lambda each: -each.share))
