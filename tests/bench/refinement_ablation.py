"""What earns its place in the refinement: the same cases without each of its parts in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from handlers.refinement import RefinementSettings
from handlers.refinement.settings import BOUNDS
from handlers.values import Image
from tests.bench.refinement_cases import BenchCase, load
from tests.bench.refinement_measures import HARM_DSC, Figures, judged, timed

Variant = Callable[[BenchCase, RefinementSettings], tuple[BenchCase, RefinementSettings]]

WHOLE = "whole"
FLAT_HU = 40.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One case refined by one variant."""

    case: str
    variant: str
    is_refined: bool
    drawn: Figures
    now: Figures
    cpu_s: float


def trials(path: Path) -> list[Trial]:
    """Return what every variant makes of a kept case."""
    case = load(path)
    drawn = judged(case, case.drawn)
    found = []
    for name, variant in VARIANTS.items():
        changed, settings = variant(case, RefinementSettings())
        refinement, cpu_s, _ = timed(changed, changed.mr, settings)
        # vessels are counted by the contours of the whole case, also where the variant has none
        now = drawn if refinement.refined is None else judged(case, refinement.refined)
        found.append(Trial(case.name, name, refinement.refined is not None, drawn, now, cpu_s))
    return found


def table(found: Sequence[Trial]) -> None:
    """Print a line for each variant: means over all cases, and what it costs against the whole."""
    whole = {one.case: one.now.dsc for one in found if one.variant == WHOLE}
    print(
        f"\n{'variant':34s} {'DSC':>6s} {'against whole: mean':>19s} {'worst':>6s} {'best':>6s} "
        f"{'HD95':>5s} {'surface':>7s} {'bias %':>6s} {'|error| %':>9s} {'vessel':>6s} "
        f"{'refined':>8s} {'harmed':>6s} {'CPU s':>5s}"
    )
    for name in VARIANTS:
        rows = [one for one in found if one.variant == name]
        gains = [one.now.dsc - whole[one.case] for one in rows]
        volume = np.array([one.now.volume_percent for one in rows])
        harmed = sum(one.now.dsc < one.drawn.dsc - HARM_DSC for one in rows)
        print(
            f"{name:34s} {_mean(rows, 'dsc'):6.3f} {np.mean(gains):+19.3f} {min(gains):+6.3f} "
            f"{max(gains):+6.3f} {_mean(rows, 'hd95_mm'):5.2f} {_mean(rows, 'surface_mm'):7.2f} "
            f"{volume.mean():+6.1f} {np.abs(volume).mean():9.1f} {_mean(rows, 'vessel_cm3'):6.3f} "
            f"{sum(one.is_refined for one in rows):2d} of {len(rows):2d} {harmed:6d} "
            f"{np.mean([one.cpu_s for one in rows]):5.1f}"
        )


def _mean(rows: Sequence[Trial], figure: str) -> float:
    return float(np.mean([getattr(one.now, figure) for one in rows]))


def _whole(case: BenchCase, settings: RefinementSettings) -> tuple[BenchCase, RefinementSettings]:
    return case, settings


def _without(*contrasts: str) -> Variant:
    def variant(
        case: BenchCase, settings: RefinementSettings
    ) -> tuple[BenchCase, RefinementSettings]:
        rest = tuple(series for series in case.mr if series.image.contrast not in contrasts)
        return replace(case, mr=rest), settings

    return variant


def _flat_ct(case: BenchCase, settings: RefinementSettings) -> tuple[BenchCase, RefinementSettings]:
    """The CT as soft tissue throughout: neither channel nor fat nor gas."""
    flat: Image = replace(case.ct, voxels=np.full_like(case.ct.voxels, FLAT_HU))
    return replace(case, ct=flat), settings


def _rigid(case: BenchCase, settings: RefinementSettings) -> tuple[BenchCase, RefinementSettings]:
    return replace(case, mr=case.mr_rigid), settings


def _without_organs(
    case: BenchCase, settings: RefinementSettings
) -> tuple[BenchCase, RefinementSettings]:
    return replace(case, organs={}), settings


def _without_finding(
    case: BenchCase, settings: RefinementSettings
) -> tuple[BenchCase, RefinementSettings]:
    return case, replace(settings, finds_structures=False)


def _without_prior(
    case: BenchCase, settings: RefinementSettings
) -> tuple[BenchCase, RefinementSettings]:
    """The drawn contour is believed as little as the settings allow."""
    return case, replace(settings, drawn_error_mm=BOUNDS["drawn_error_mm"][1])


def _without_offset(
    case: BenchCase, settings: RefinementSettings
) -> tuple[BenchCase, RefinementSettings]:
    """The border is expected where it was drawn, however generously that was."""
    return case, replace(settings, max_drawn_offset_mm=0.0)


def _without_rim(
    case: BenchCase, settings: RefinementSettings
) -> tuple[BenchCase, RefinementSettings]:
    """The target's look is learned from its core alone."""
    return case, replace(settings, learns_rim=False)


def _both(*variants: Variant) -> Variant:
    def variant(
        case: BenchCase, settings: RefinementSettings
    ) -> tuple[BenchCase, RefinementSettings]:
        for one in variants:
            case, settings = one(case, settings)
        return case, settings

    return variant


VARIANTS: dict[str, Variant] = {
    WHOLE: _whole,
    **{f"without {name}": _without(name) for name in ("T1", "T2", "DWI", "ADC")},
    "without DWI and ADC": _without("DWI", "ADC"),
    "without the CT's HU": _flat_ct,
    "without deformable registration": _rigid,
    "without finding structures": _without_finding,
    "without contoured organs": _without_organs,
    "without contoured organs, finding": _both(_without_organs, _without_finding),
    "without the distance prior": _without_prior,
    "without the offset of the drawn": _without_offset,
    "without the look of a living rim": _without_rim,
    "without offset and rim": _both(_without_offset, _without_rim),
}
"""Each leaves one part out."""
