"""Measures of contours: how two differ, and how a target lies to what is around it.

What is drawn is measured as it is drawn: surfaces come from the contours themselves, finer than the
voxels (`body`), and from voxels only where nothing else is known.

Read first: AAPM TG-132 (Brock et al. 2017, Med Phys 44:e43); Podobnik and Vrtovec 2024, arXiv
2410.02630 (why implementations of these measures disagree).
"""

from handlers.contour_metrics.comparing import Comparison, compare, compared, volumes_cm3
from handlers.contour_metrics.nearness import overlap_cm3, smallest_distance_mm
from handlers.contour_metrics.structure import Structure
from handlers.contour_metrics.targets import measured_target

__all__ = [
    "Comparison",
    "Structure",
    "compare",
    "compared",
    "measured_target",
    "overlap_cm3",
    "smallest_distance_mm",
    "volumes_cm3",
]
