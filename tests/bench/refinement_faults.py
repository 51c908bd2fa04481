"""Planted faults: an MR that says nothing, or says it of another place, must move no contour.

The MR is spoilt after its registration passed, and the registration still says so: this tries the
refinement's own defence. `through_registration` tries both defences together: the wrong pose is
sent, ordered to be used as sent, and judged.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.contour_metrics import compare
from handlers.refinement import RefinementSettings
from handlers.registration import RegistrationSettings
from handlers.registration.consensus import moved_by
from handlers.results import RegistrationStatus, ResampledMr
from handlers.values import Mask
from tests.bench.refinement_cases import BenchCase, KitSpec, bench_case, load, open_kit, registered
from tests.bench.refinement_measures import HARM_DSC, timed, within

Floats = npt.NDArray[np.float32]
Series = tuple[ResampledMr, ...]
Spoil = Callable[[BenchCase, np.random.Generator], Series | None]

CRUMBS_CM3 = 0.1
"""Where a contoured vessel is taken away, so much may be cut off and go with it."""

MOST_SHOWN = 16
"""Moved contours that are listed, those with the greatest loss first."""

NEAR_VOXELS = 12
"""Around the target, in voxels: where the looks of an image are taken that noise is to imitate."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault did to one case.

    `beyond_contoured_cm3` is what changed other than that contoured structures were taken away;
    `harm` is the DSC of the drawn contour less that of the answer.
    """

    case: str
    fault: str
    is_unchanged: bool
    beyond_contoured_cm3: float
    harm: float
    reasons: tuple[str, ...]

    @property
    def is_trimmed(self) -> bool:
        """Whether nothing was done but to take contoured structures away."""
        return not self.is_unchanged and self.beyond_contoured_cm3 <= CRUMBS_CM3


def outcomes(arguments: tuple[Path, int, Sequence[str]]) -> list[Outcome]:
    """Return what the faults do to a kept case; empty where it abstains even without a fault.

    Args:
        arguments: File of the case, directions per misregistration, names of the faults (or none
            for all).
    """
    path, directions, only = arguments
    case = load(path)
    sound = outcome(case, "none", case.mr)
    if sound.is_unchanged:
        return []
    found = [sound]
    for name, spoil in FAULTS.items():
        if only and not any(word in name for word in only):
            continue
        for turn in range(directions if "misregistered" in name else 1):
            rng = np.random.default_rng(zlib.crc32(f"{case.name} {name} {turn}".encode()))
            spoilt = spoil(case, rng)
            if spoilt is not None:
                found.append(outcome(case, name, spoilt))
    return found


def outcome(case: BenchCase, fault: str, mr: Series) -> Outcome:
    """Return what comes of a case with another MR."""
    refinement, _, _ = timed(case, mr, RefinementSettings())
    answer = refinement.refined or case.drawn
    changed = answer.inside ^ case.drawn.inside
    allowed = case.drawn.inside & within(case)
    beyond = np.count_nonzero(changed & ~allowed) * case.drawn.geometry.voxel_volume_mm3 / 1000.0
    return Outcome(
        case.name,
        fault,
        refinement.refined is None,
        beyond,
        _dsc(case, case.drawn) - _dsc(case, answer),
        refinement.reasons,
    )


def _dsc(case: BenchCase, mask: Mask) -> float:
    return compare(case.truth, mask)["dsc"]


def through_registration(spec: KitSpec) -> list[Outcome]:
    """Return what the faults of a pose do that is sent, ordered to be used, and judged."""
    opened = open_kit(spec)
    free = registered(opened.case, opened.drawn)
    sound = bench_case(spec.name, opened, free)
    first = outcome(sound, "none", sound.mr)
    if first.is_unchanged:
        return []
    found = [first]
    for distance_mm in (5.0, 8.0, 10.0):
        name = f"all misregistered by {distance_mm:.0f} mm, sent"
        rng = np.random.default_rng(zlib.crc32(f"{spec.name} {name}".encode()))
        push = np.concatenate([np.zeros(3), distance_mm * _direction(rng)])
        sent = [
            moved_by(one.ct_from_mr.inverse(), push, one.centre_mm).inverse()
            for one in free
            if one.status is RegistrationStatus.PASS
        ]
        ordered = RegistrationSettings(use_as_sent=True)
        case = bench_case(spec.name, opened, registered(opened.case, opened.drawn, ordered, sent))
        verdicts = "/".join(f"registration '{one.status}'" for one in case.registrations)
        answer = outcome(case, name, case.mr)
        found.append(replace(answer, reasons=(verdicts, *answer.reasons)))
    return found


def table(found: Sequence[Outcome]) -> None:
    """Print a line for each fault."""
    print(
        f"{'fault':42s} {'tries':>5s} {'unchanged':>9s} {'contoured':>9s} {'harmed':>6s} "
        f"{'loss of DSC: mean':>17s} {'worst':>6s}  flagged most often with"
    )
    for fault in dict.fromkeys(one.fault for one in found):
        rows = [one for one in found if one.fault == fault]
        harm = [one.harm for one in rows]
        same = sum(one.is_unchanged for one in rows)
        only = sum(one.is_trimmed for one in rows)
        said = Counter(_kind_of(one.reasons) for one in rows if one.is_unchanged)
        flag = f"{said.most_common(1)[0][1]}x {said.most_common(1)[0][0]}" if said else "-"
        print(
            f"{fault:42s} {len(rows):5d} {same:9d} {only:9d} "
            f"{sum(h > HARM_DSC for h in harm):6d} {np.mean(harm):17.3f} {max(harm):6.3f}  "
            f"{flag[:48]}"
        )
    print("unchanged: abstained, as drawn; contoured: only contoured structures were taken away")


def verdict(found: Sequence[Outcome]) -> None:
    """Print the bar: faults that must leave the contour, and flag it."""
    must = [one for one in found if one.fault in MUST_STAY or one.fault.endswith("sent")]
    kept = [one for one in must if one.is_unchanged]
    some = [one for one in must if one.is_trimmed]
    if must:
        share = 100.0 * len(kept) / len(must)
        is_met = "met" if len(kept) + len(some) == len(must) else "NOT met"
        print(
            f"\nplanted faults that must leave the contour: {len(kept)} of {len(must)} unchanged "
            f"and flagged ({share:.0f} %), {len(some)} without contoured structures only; bar "
            f"100 %: {is_met}"
        )
    moved = [one for one in must if not one.is_unchanged and not one.is_trimmed]
    for one in sorted(moved, key=lambda one: -one.harm)[:MOST_SHOWN]:
        print(
            f"  moved: {one.case}, {one.fault}: {one.beyond_contoured_cm3:.2f} cm3, loss of DSC "
            f"{one.harm:+.3f}"
        )
    if len(moved) > MOST_SHOWN:
        print(f"  and {len(moved) - MOST_SHOWN} more")
    harmed = [one for one in found if one.fault in MUST_NOT_HARM and one.harm > HARM_DSC]
    tried = [one for one in found if one.fault in MUST_NOT_HARM]
    if tried:
        is_met = "NOT met" if harmed else "met"
        print(
            f"one series of several misregistered: harmed {len(harmed)} of {len(tried)}: {is_met}"
        )


def _kind_of(reasons: Sequence[str]) -> str:
    """Return the first reason without its numbers, the later of a list of series left out."""
    first = reasons[0] if reasons else "no reason"
    if first.startswith("fewer than") and len(reasons) > 1:
        faults = [r for r in reasons[1:] if "(series" in r]
        first = f"few contrasts: {faults[0].split(': ', 1)[1]}" if faults else first
    return re.sub(r"\d+(\.\d+)?", "#", first)


def _with_voxels(series: ResampledMr, voxels: npt.NDArray[np.floating]) -> ResampledMr:
    return replace(series, image=replace(series.image, voxels=voxels.astype(np.float32)))


def _every(change: Callable[[ResampledMr, BenchCase, np.random.Generator], Floats]) -> Spoil:
    def spoil(case: BenchCase, rng: np.random.Generator) -> Series:
        return tuple(_with_voxels(series, change(series, case, rng)) for series in case.mr)

    return spoil


def _near(series: ResampledMr, case: BenchCase) -> Floats:
    near = ndimage.binary_dilation(case.drawn.inside, iterations=NEAR_VOXELS) & series.valid.inside
    return np.asarray(series.image.voxels[near])


def _noise(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
    """Return noise of the image's mean and spread around the target."""
    values = _near(series, case)
    noise = rng.normal(values.mean(), values.std(), series.image.voxels.shape)
    return np.abs(noise).astype(np.float32)


def _grainy_noise(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
    """Return noise with a grain of MR voxels, as a resampled series of noise has."""
    values = _near(series, case)
    sigma = [1.0 / step for step in case.ct.geometry.spacing_mm]
    grain = ndimage.gaussian_filter(rng.normal(size=series.image.voxels.shape), sigma)
    return np.asarray(np.abs(values.mean() + values.std() * grain / grain.std()), dtype=np.float32)


def _own_noise(series: ResampledMr, case: BenchCase) -> float:
    """Return the standard deviation of what neighbours along a row do not share, near the target.

    Interpolation has smoothed it: what is put back is no more than the series itself shows.
    """
    fine = np.diff(series.image.voxels, axis=2) / np.sqrt(2.0)
    near = ndimage.binary_dilation(case.drawn.inside, iterations=NEAR_VOXELS)[:, :, 1:]
    return float(1.4826 * np.median(np.abs(fine[near])))


def _blurred(sigma_mm: float) -> Spoil:
    def change(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
        sigma = [sigma_mm / step for step in case.ct.geometry.spacing_mm]
        return np.asarray(ndimage.gaussian_filter(series.image.voxels, sigma))

    return _every(change)


def _coarse(sigma_mm: float) -> Spoil:
    """Shapes are kept, detail is gone, and fresh noise makes it look sharp."""

    def change(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
        sigma = [sigma_mm / step for step in case.ct.geometry.spacing_mm]
        noise = rng.normal(0, _own_noise(series, case), series.image.voxels.shape)
        return np.asarray(ndimage.gaussian_filter(series.image.voxels, sigma) + noise)

    return _every(change)


def _averaged(edge_mm: float, order: int) -> Spoil:
    """Voxels of that edge: shown as blocks (order 0) or interpolated (order 1)."""

    def change(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
        voxels, spacing = series.image.voxels, case.ct.geometry.spacing_mm
        size = [max(round(edge_mm / step), 1) for step in spacing]
        pad = [(0, -n % k) for n, k in zip(voxels.shape, size, strict=True)]
        padded = np.pad(voxels, pad, mode="edge")
        split = [m for n, k in zip(padded.shape, size, strict=True) for m in (n // k, k)]
        means = padded.reshape(split).mean(axis=(1, 3, 5))
        # the centre of voxel i lies at (i + 1/2) / k - 1/2 of the coarse voxels
        at = np.meshgrid(
            *((np.arange(n) + 0.5) / k - 0.5 for n, k in zip(voxels.shape, size, strict=True)),
            indexing="ij",
        )
        return np.asarray(ndimage.map_coordinates(means, at, order=order, mode="nearest"))

    return _every(change)


def _misregistered(distance_mm: float, only: str = "") -> Spoil:
    """All series together, or one of them, lie elsewhere than their registration says."""

    def spoil(case: BenchCase, rng: np.random.Generator) -> Series | None:
        push = distance_mm * _direction(rng)
        if only and only not in [series.image.contrast for series in case.mr]:
            return None
        return tuple(
            series if only and series.image.contrast != only else _pushed(series, push)
            for series in case.mr
        )

    return spoil


def _pushed(series: ResampledMr, push_mm: npt.NDArray[np.float64]) -> ResampledMr:
    """Return a series moved by x, y, z in mm along the grid's columns, rows and slices."""
    steps = push_mm[::-1] / np.array(series.image.geometry.spacing_mm)
    voxels = ndimage.shift(series.image.voxels, steps, order=1)
    valid = ndimage.shift(series.valid.inside.astype(np.float32), steps, order=1) > 0.999
    moved = _with_voxels(series, voxels)
    return replace(moved, valid=Mask(series.valid.geometry, valid))


def _direction(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    direction = rng.normal(size=3)
    return np.asarray(direction / np.linalg.norm(direction))


def _only(*contrasts: str) -> Spoil:
    def spoil(case: BenchCase, rng: np.random.Generator) -> Series | None:
        return tuple(s for s in case.mr if s.image.contrast in contrasts) or None

    return spoil


def _mirrored(series: ResampledMr, case: BenchCase, rng: np.random.Generator) -> Floats:
    """Return the image mirrored left to right about the crop's middle."""
    return np.asarray(series.image.voxels[:, :, ::-1])


CONTRASTS = ("T1", "T2", "DWI", "ADC")

MUST_STAY: dict[str, Spoil] = {
    "all misregistered by 5 mm": _misregistered(5.0),
    "all misregistered by 8 mm": _misregistered(8.0),
    "all misregistered by 10 mm": _misregistered(10.0),
    "noise": _every(_noise),
    "noise with a grain of 1 mm": _every(_grainy_noise),
    "blurred, sigma 3 mm": _blurred(3.0),
    "blurred, sigma 4.5 mm": _blurred(4.5),
    "blurred, sigma 6 mm": _blurred(6.0),
    "coarse shapes (sigma 3.4 mm), fresh noise": _coarse(3.4),
    "coarse shapes (sigma 8 mm), fresh noise": _coarse(8.0),
    "averaged to 8 mm, blocks": _averaged(8.0, order=0),
    "averaged to 8 mm, interpolated": _averaged(8.0, order=1),
    "mirrored": _every(_mirrored),
    **{f"only {name}": _only(name) for name in CONTRASTS},
    "only DWI and ADC": _only("DWI", "ADC"),
}
"""By these the contour must stay, and be flagged."""

MUST_NOT_HARM: dict[str, Spoil] = {
    f"{name} alone misregistered by 5 mm": _misregistered(5.0, name) for name in CONTRASTS
}

FAULTS: dict[str, Spoil] = {
    "all misregistered by 3 mm": _misregistered(3.0),
    **MUST_STAY,
    **MUST_NOT_HARM,
}
"""Misregistration by 3 mm is told only."""
