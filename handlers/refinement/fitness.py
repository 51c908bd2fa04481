"""Whether an MR series is fit to speak about a target: registered, covering, sharp, in its place.

Says why not, in plain words; mends nothing, and knows nothing of what the target looks like.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.refinement.alignment import GAS_HU, best_offset
from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings
from handlers.results import RegistrationStatus, ResampledMr
from handlers.values import Image

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KIND_OF_CONTRAST = {"T1": "T1", "T2": "T2", "DWI": "diffusion", "ADC": "diffusion"}
"""DWI and ADC come from the same echoes and share their distortion: one kind of evidence."""

EQUAL = 1e-4
"""Voxels are equal if they differ by less than this share of the spread around the target."""

OFFSET_MARGIN_MM = 10.0
"""How far around the region a series is compared with the CT for its place."""


def faults_of(
    region: Region, series: ResampledMr, places: dict[str, Bools], settings: RefinementSettings
) -> list[str]:
    """Return why a series cannot be used, in sentences without its number."""
    registration = series.registration
    faults = []
    if registration.status is not RegistrationStatus.PASS:
        why = "; ".join(registration.reasons) or "no reason was given"
        faults.append(f"its registration is '{registration.status}', not 'pass' ({why})")
    elif not 0.0 <= registration.uncertainty_mm <= settings.max_uncertainty_mm:
        faults.append(
            f"its registration is uncertain by {registration.uncertainty_mm:.1f} mm, more than "
            f"{settings.max_uncertainty_mm:.1f} mm"
        )
    valid = series.valid.inside[region.block]
    needed = region.distance_mm <= settings.coverage_margin_mm
    covered = np.count_nonzero(valid & needed) / np.count_nonzero(needed)
    if covered < 1.0:
        faults.append(
            f"it covers {100 * covered:.1f} % of the target with {settings.coverage_margin_mm:.0f} "
            "mm around it, not all"
        )
        return faults
    return faults + _quality_faults(region, places, series.image, valid, settings)


def astray(
    region: Region, ct: Image, mr: Sequence[ResampledMr], settings: RefinementSettings
) -> dict[int, list[str]]:
    """Return which series, numbered from 1, do not lie where the CT says they should, and why.

    Where one that is not distorted (DWI and ADC are) lies elsewhere, its registration is wrong, and
    so is the place of all others that it brought.
    """
    found: dict[int, list[str]] = {}
    for number, series in enumerate(mr, start=1):
        is_used = series.registration.status is RegistrationStatus.PASS
        if is_used and series.image.contrast in KIND_OF_CONTRAST:
            reasons = _offset_faults(region, ct, series, settings)
            if reasons:
                found[number] = reasons
    wrong = {
        id(mr[number - 1].registration): number
        for number in found
        if KIND_OF_CONTRAST[mr[number - 1].image.contrast] != "diffusion"
    }
    for number, series in enumerate(mr, start=1):
        if number not in found and id(series.registration) in wrong:
            first = wrong[id(series.registration)]
            found[number] = [
                f"it was brought here by the registration of series {first}, see there"
            ]
    return found


def _offset_faults(
    region: Region, ct: Image, series: ResampledMr, settings: RefinementSettings
) -> list[str]:
    grid = ct.geometry
    margins = [int(OFFSET_MARGIN_MM / step) for step in grid.spacing_mm]
    block = tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, margin, size in zip(region.block, margins, grid.shape, strict=True)
    )
    hu = ct.voxels[block]
    valid = series.valid.inside[block]
    where = valid & (hu > GAS_HU)
    if not where.any():
        return ["it cannot be compared with the CT, which shows nothing but gas there"]
    spacing_mm = region.geometry.spacing_mm
    offset = best_offset(hu, series.image.voxels[block], where, valid, spacing_mm)
    if offset.similarity < settings.min_similarity:
        return [
            f"it has too little in common with the CT to see whether it lies in its place: "
            f"{offset.similarity:.3f}, needed are {settings.min_similarity:.3f}"
        ]
    if offset.shift_mm <= settings.max_offset_mm or offset.gain <= settings.min_offset_gain:
        return []
    return [
        f"it fits the CT {100 * (offset.gain - 1):.0f} % better when shifted by "
        f"{offset.shift_mm:.1f} mm, more than {settings.max_offset_mm:.1f} mm: it lies elsewhere"
    ]


def _quality_faults(
    region: Region,
    places: dict[str, Bools],
    image: Image,
    valid: Bools,
    settings: RefinementSettings,
) -> list[str]:
    near = (region.drawn | region.shell) & valid
    values = image.voxels[region.block]
    labels = np.zeros(region.drawn.shape, dtype=np.int64)
    for label, where in enumerate((*places.values(), region.core), start=1):
        labels[where] = label
    known = near & (labels > 0)
    faults = []
    explained = variance_explained(values[known].astype(np.float64), labels[known])
    if explained < settings.min_variance_explained:
        faults.append(
            f"it does not show the structures of the CT: they explain {100 * explained:.0f} % of "
            f"its variance, less than {100 * settings.min_variance_explained:.0f} %"
        )
    spacing_mm = region.geometry.spacing_mm
    blur = blur_mm(_continued(values, valid, spacing_mm), near, spacing_mm)
    if blur > settings.max_blur_mm:
        faults.append(
            f"its detail is blurred away: edges by {blur:.1f} mm at least, more than "
            f"{settings.max_blur_mm:.1f} mm"
        )
    blocks = block_mm(values, near, spacing_mm)
    if blocks / np.sqrt(12.0) > settings.max_blur_mm:
        faults.append(
            f"it is made of blocks of {blocks:.0f} mm, larger than "
            f"{np.sqrt(12.0) * settings.max_blur_mm:.1f} mm: their edges are no detail"
        )
    return faults


def block_mm(values: npt.NDArray[np.float32], where: Bools, spacing_mm: Sequence[float]) -> float:
    """Return how long runs of equal voxels are: in mm, the middle one of the three axes.

    Coarse voxels that were repeated on a finer grid have sharp edges, and yet no more detail than
    an image blurred by their edge over the square root of 12. Where there is noise, or values were
    interpolated, a run is one voxel. The lowest value, that of masked air, does not count.
    """
    level = EQUAL * float(np.subtract(*np.percentile(values[where], (90, 10))))
    shown = where & (values > values[where].min())
    runs_mm = []
    for axis, step in enumerate(spacing_mm):
        pairs = np.moveaxis(shown, axis, 0)
        both = pairs[1:] & pairs[:-1]
        if not both.any():
            continue
        apart = np.abs(np.diff(np.moveaxis(values, axis, 0), axis=0))[both]
        runs_mm.append(step / max(float((apart > level).mean()), 1.0 / len(apart)))
    return float(np.median(runs_mm)) if runs_mm else 0.0


def blur_mm(values: npt.NDArray[np.float32], where: Bools, spacing_mm: Sequence[float]) -> float:
    """Return the blur of the edges in an image, as the standard deviation of a Gaussian in mm.

    The energy of the gradient of a step blurred by s falls as 1 / s. Blurring the image further, by
    two known amounts, gives two energies whose ratio tells s. Structures finer than a step and
    noise make the answer too small, never too large.
    """
    fine = max(1.0, 0.5 * max(spacing_mm))
    coarse = 2.5 * fine
    energies = []
    for sigma in (fine, coarse):
        widths = [sigma / step for step in spacing_mm]
        smooth = ndimage.gaussian_filter(values.astype(np.float64), widths)
        slopes = [
            np.gradient(smooth, step, axis=axis)[where]
            for axis, step in enumerate(spacing_mm)
            if smooth.shape[axis] > 1
        ]
        energies.append(sum(float((slope**2).sum()) for slope in slopes))
    if energies[0] <= 0:
        return float("inf")
    ratio = (energies[1] / energies[0]) ** 2
    if ratio >= 1:
        return float("inf")
    return float(np.sqrt(max((ratio * coarse**2 - fine**2) / (1 - ratio), 0.0)))


def _continued(
    values: npt.NDArray[np.float32], valid: Bools, spacing_mm: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Return an image continued by its nearest values, so that its own end is no edge."""
    if valid.all():
        return values
    nearest = ndimage.distance_transform_edt(
        ~valid, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return np.asarray(values[tuple(nearest)])


def variance_explained(values: Array, labels: npt.NDArray[np.int64]) -> float:
    """Return the part of the variance of values (n,) that lies between labels (n,), 0 to 1."""
    clipped = np.clip(values, *np.percentile(values, (1, 99)))
    total = float(clipped.var()) * len(clipped)
    if total <= 0:
        return 0.0
    within = sum(
        float(clipped[labels == k].var()) * np.count_nonzero(labels == k) for k in np.unique(labels)
    )
    return 1.0 - within / total
