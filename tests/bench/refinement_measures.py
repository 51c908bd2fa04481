"""How good an answer of the refinement is, and the simple answers it must beat.

Every figure comes from `handlers.contour_metrics.compare`, with the truth as its reference.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.contour_metrics import compare
from handlers.refinement import RefinementSettings, refine
from handlers.refinement.settings import EXCLUDE_PATTERNS
from handlers.results import Refinement, ResampledMr
from handlers.sampling import signed_distance_mm
from handlers.values import Mask
from tests.bench.refinement_cases import BenchCase

VESSEL_PATTERNS = ("A_*", "V_*", "GreatVes*")
GROWING_SD = 2.5
GROWING_MM = 5.0
HARM_DSC = 0.01
"""Worse than drawn by more than this is harm."""

SIMPLE_ANSWERS = ("drawn", "without vessels", "T1 growing")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Figures:
    """One contour against the truth; volume errors are signed, in percent of the truth."""

    dsc: float
    hd95_mm: float
    surface_mm: float
    volume_percent: float
    vessel_cm3: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured on one case; the figures are by answer, `refined` and the simple ones.

    `peak_mib` is that of the whole process, which did nothing else but read the case.
    """

    name: str
    is_useful: bool
    is_refined: bool
    reasons: tuple[str, ...]
    figures: dict[str, Figures]
    hidden: dict[str, float]
    cpu_s: float
    peak_mib: float
    error_mm: float
    uncertainty_mm: float
    registration: str
    features: tuple[str, ...]

    @property
    def gain(self) -> float:
        """DSC beyond that of the drawn contour."""
        return self.figures["refined"].dsc - self.figures["drawn"].dsc

    @property
    def is_harmed(self) -> bool:
        """Whether the answer is worse than the drawn contour."""
        return self.gain < -HARM_DSC


def judged(case: BenchCase, mask: Mask) -> Figures:
    """Return the figures of one contour of a case."""
    found = compare(case.truth, mask)
    vessels = within(case, VESSEL_PATTERNS)
    left = np.count_nonzero(mask.inside & vessels) * mask.geometry.voxel_volume_mm3 / 1000.0
    return Figures(
        found["dsc"],
        found["hd95_mm"],
        found["mean_surface_distance_mm"],
        100.0 * (found["volume_ratio"] - 1.0),
        left,
    )


def measured(
    case: BenchCase, settings: RefinementSettings | None = None, *, with_simple: bool = True
) -> Row:
    """Refine a case and return what came of it."""
    refinement, cpu_s, peak_mib = timed(case, case.mr, settings)
    masks = {"refined": refinement.refined or case.drawn, "drawn": case.drawn}
    if with_simple:
        masks["without vessels"] = without_vessels(case)
        masks["T1 growing"] = grown_on_t1(case)
    hidden = {}
    if case.hidden is not None and case.hidden.inside.any():
        hidden = {name: _sensitivity(case.hidden, mask) for name, mask in masks.items()}
    return Row(
        name=case.name,
        is_useful=case.is_useful,
        is_refined=refinement.refined is not None,
        reasons=refinement.reasons,
        figures={name: judged(case, mask) for name, mask in masks.items()},
        hidden=hidden,
        cpu_s=cpu_s,
        peak_mib=peak_mib,
        error_mm=max(case.error_mm.values(), default=float("nan")),
        uncertainty_mm=case.uncertainty_mm,
        registration="/".join(str(found.status) for found in case.registrations),
        features=case.features,
    )


def timed(
    case: BenchCase, mr: Sequence[ResampledMr], settings: RefinementSettings | None = None
) -> tuple[Refinement, float, float]:
    """Return a refinement, its CPU seconds and the peak memory of this process in MiB."""
    began = time.process_time()
    found = refine(case.drawn, case.ct, mr, case.organs, settings or RefinementSettings())
    cpu_s = time.process_time() - began
    return found, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def within(case: BenchCase, patterns: Sequence[str] = EXCLUDE_PATTERNS) -> Bools:
    """Return the voxels of the contoured structures that are named so."""
    found = np.zeros(case.drawn.inside.shape, dtype=bool)
    for name, mask in case.organs.items():
        if any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in patterns):
            found |= mask.inside
    return found


def without_vessels(case: BenchCase) -> Mask:
    """Return the drawn contour without the contoured vessels."""
    rest = case.drawn.inside & ~within(case, VESSEL_PATTERNS)
    return Mask(case.drawn.geometry, rest) if rest.any() else case.drawn


def grown_on_t1(case: BenchCase) -> Mask:
    """Return what looks like the drawn target's core on T1 and is joined to it.

    Plain region growing: within 2.5 standard deviations of the core's mean, at most 5 mm outside
    of the drawn contour; its largest piece, closed. Without T1, the drawn contour.
    """
    t1 = next((s.image.voxels for s in case.mr if s.image.contrast == "T1"), None)
    if t1 is None:
        return case.drawn
    distance_mm = signed_distance_mm(case.drawn)
    core = distance_mm <= 0.5 * distance_mm.min()
    like_core = np.abs(t1 - t1[core].mean()) <= GROWING_SD * t1[core].std()
    reach = distance_mm <= GROWING_MM
    grown = ndimage.binary_propagation(core, mask=(like_core | core) & reach)
    closed = ndimage.binary_closing(grown) & reach
    pieces, count = ndimage.label(closed)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel(), minlength=count + 1)[1:]))
    return Mask(case.drawn.geometry, ndimage.binary_fill_holes(pieces == largest))


def _sensitivity(hidden: Mask, mask: Mask) -> float:
    return float(np.count_nonzero(hidden.inside & mask.inside) / np.count_nonzero(hidden.inside))
