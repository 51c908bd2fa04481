"""What MR and CT show of a target and its surroundings, and how well they tell the two apart.

Every MR series is either a channel or set aside with its reasons (see `fitness`).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.refinement.alignment import GAS_HU
from handlers.refinement.appearance import (
    Look,
    area_under_roc,
    clusters,
    fit_look,
    fit_target,
    mixture_log_density,
    thinned,
)
from handlers.refinement.fitness import KIND_OF_CONTRAST, astray, faults_of
from handlers.refinement.region import Region
from handlers.refinement.settings import RefinementSettings
from handlers.results import MoveCause, ResampledMr
from handlers.values import Image

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CT_WINDOW_HU = (-200.0, 300.0)
"""HU beyond which the CT channel says nothing more about soft tissue."""

FAT_HU = (-190.0, -30.0)
METAL_HU = 2000.0

UNTRUSTED_MM = 3.0
"""The CT is not believed this near to gas and metal: it smears both, and gas moves."""

MIN_CLASS_VOXELS = 12
"""A class of the background needs as many voxels near the target."""

MIN_HALF_VOXELS = 4
"""Half a core of fewer voxels teaches nothing."""

PRESENCE_FLOOR = 0.02
"""Share of a background class that is nowhere near: something of it may lie hidden anywhere."""

Background = dict[str, tuple[Look, Bools]]
"""By class: how it looks, and where it was seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One image over the region, scaled to median 0 and spread 1 around the target.

    Attributes:
        name: Its contrast, or `CT`.
        scaled: Its values.
        uncertainty_mm: Of its registration.
        weight: How much each voxel's value counts, 0 to 1.
    """

    name: str
    scaled: Array
    uncertainty_mm: float
    weight: Array


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The MR channels, where all of them are known, and what was set aside and why.

    Attributes:
        channels: At most one for each contrast, in the order given.
        valid: Voxels that all of them cover.
        faults: Why a series cannot be used although it should have been usable.
        unknown: How many series name no contrast.
    """

    channels: tuple[Channel, ...]
    valid: Bools
    faults: tuple[str, ...]
    unknown: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of contrast among the channels, sorted."""
        return tuple(sorted({KIND_OF_CONTRAST[channel.name] for channel in self.channels}))


def gather(
    region: Region,
    ct: Image,
    mr: Sequence[ResampledMr],
    places: dict[str, Bools],
    settings: RefinementSettings,
) -> Evidence:
    """Return what the series say: the first fit one of each contrast is used."""
    elsewhere = astray(region, ct, mr, settings)
    channels: dict[str, Channel] = {}
    faults: list[str] = []
    unknown = 0
    valid = np.ones_like(region.drawn)
    for number, series in enumerate(mr, start=1):
        contrast = series.image.contrast
        if contrast not in KIND_OF_CONTRAST:
            unknown += 1
            continue
        if contrast in channels:
            continue
        named = f"{contrast} (series {number} of {len(mr)})"
        reasons = [*faults_of(region, series, places, settings), *elsewhere.get(number, ())]
        if reasons:
            faults += [f"{named}: {reason}" for reason in reasons]
            continue
        near = (region.drawn | region.shell) & series.valid.inside[region.block]
        scaled = scale(series.image.voxels[region.block].astype(np.float64), near)
        same = [
            channel.name
            for channel in channels.values()
            if _likeness(scaled[near & valid], channel.scaled[near & valid]) > settings.max_likeness
        ]
        if same:
            faults.append(f"{named}: it shows the same as {same[0]}, and nothing of its own")
            continue
        channels[contrast] = Channel(
            contrast,
            scaled,
            series.registration.uncertainty_mm,
            np.ones(region.drawn.shape),
        )
        valid &= series.valid.inside[region.block]
    return Evidence(_shared_weights(channels.values()), valid, tuple(faults), unknown)


def _likeness(one: Array, other: Array) -> float:
    """Return how well one image (n,) tells another, 0 to 1: the size of their correlation."""
    if one.std() <= 0 or other.std() <= 0:
        return 1.0
    return float(abs(np.corrcoef(one, other)[0, 1]))


def _shared_weights(channels: Collection[Channel]) -> tuple[Channel, ...]:
    """Return channels of which those of one kind share the weight of one."""
    kinds = Counter(KIND_OF_CONTRAST[channel.name] for channel in channels)
    return tuple(
        replace(channel, weight=channel.weight / kinds[KIND_OF_CONTRAST[channel.name]])
        for channel in channels
    )


def scale(values: Array, near: Bools) -> Array:
    """Return values with median 0 and a robust spread of 1 at `near`."""
    low, middle, high = np.percentile(values[near], (10, 50, 90))
    return np.asarray((values - middle) / max((high - low) / 2.56, 1e-6))


def ct_channel(ct: Image, region: Region, ct_shows: Bools) -> Channel:
    """Return the CT as a channel, which says nothing where it is not believed."""
    hu = np.clip(ct.voxels[region.block].astype(np.float64), *CT_WINDOW_HU)
    near = region.drawn | region.shell
    return Channel("CT", scale(hu, near), 0.0, ct_shows.astype(np.float64))


def believed(ct: Image, region: Region) -> Bools:
    """Return where the CT shows what lies there: away from gas and metal."""
    hu = ct.voxels[region.block]
    spoiled = (hu < GAS_HU) | (hu > METAL_HU)
    if not spoiled.any():
        return np.ones(hu.shape, dtype=bool)
    away_mm = ndimage.distance_transform_edt(~spoiled, sampling=region.geometry.spacing_mm)
    return np.asarray(away_mm > UNTRUSTED_MM)


def known_by_ct(ct: Image, region: Region, ct_shows: Bools) -> dict[MoveCause, Bools]:
    """Return the voxels that the CT alone tells from the target, by what they are.

    Fat is what lies nearer to the HU of fat than to those of the target's core.
    """
    hu = ct.voxels[region.block]
    middle = 0.5 * (float(np.median(hu[region.core])) + 0.5 * (FAT_HU[0] + FAT_HU[1]))
    return {
        MoveCause.GAS: hu < GAS_HU,
        MoveCause.FAT: (hu >= GAS_HU) & (hu < middle) & ct_shows,
    }


def background_places(
    region: Region, ct: Image, ct_shows: Bools, settings: RefinementSettings
) -> dict[str, Bools]:
    """Return where in the surroundings each class is known without the MR.

    Named structures count anywhere (within the drawn target too: they were contoured), fat by HU,
    and `rest` only beyond the reach of any change, where no target is to be expected. Gas is no
    class: it lies elsewhere on the day of the MR, which may show the target in its place.
    """
    hu = ct.voxels[region.block]
    places = {
        name: inside & (region.shell | region.drawn) for name, inside in region.structures.items()
    }
    named = np.zeros_like(region.drawn)
    for inside in places.values():
        named |= inside
    beyond = region.shell & (region.distance_mm > settings.max_outward_mm) & ~named
    fat = region.shell & ~named & (hu >= FAT_HU[0]) & (hu <= FAT_HU[1]) & ct_shows
    places |= {"fat": fat, "rest": beyond & ~fat}
    return places


def fit_background(
    samples: Array, places: dict[str, Bools], valid: Bools, settings: RefinementSettings
) -> Background:
    """Return the classes of the background that have enough voxels; `samples` are (..., d)."""
    background: Background = {}
    for name, where in places.items():
        inside = where & valid
        if np.count_nonzero(inside) < MIN_CLASS_VOXELS:
            continue
        values = samples[inside]
        count = settings.background_classes if name == "rest" else 1
        numbers = clusters(values, count)
        for k in np.unique(numbers):
            if np.count_nonzero(numbers == k) < MIN_CLASS_VOXELS:
                continue
            part = np.zeros_like(inside)
            part[inside] = numbers == k
            fitted = fit_look(values[numbers == k], settings)
            background[f"{name} {k}"] = (fitted, part)
    return background


def presence(
    background: Background, where: Bools, region: Region, settings: RefinementSettings
) -> Array:
    """Return the shares (classes, n) of the background's classes near each voxel of `where`."""
    sigma = [settings.presence_mm / step for step in region.geometry.spacing_mm]
    near = np.stack(
        [
            ndimage.gaussian_filter(place.astype(np.float32), sigma)[where]
            for _, place in background.values()
        ]
    ).astype(np.float64)
    shares = near / np.maximum(near.sum(axis=0), 1e-9) + PRESENCE_FLOOR
    return np.asarray(shares / shares.sum(axis=0))


def separation(
    evidence: Evidence,
    region: Region,
    places: dict[str, Bools],
    settings: RefinementSettings,
) -> float | None:
    """Return how well core and surroundings are told apart where it was not learned.

    The region is cut in halves through the core's centre, along each axis; learned in one half,
    tried in the other. Mean area under the ROC curve, or None where the halves are too small.
    """
    samples = np.stack([channel.scaled for channel in evidence.channels], axis=-1)
    weights = np.array([float(channel.weight.max()) for channel in evidence.channels])
    valid = evidence.valid
    surroundings = np.zeros_like(region.drawn)
    for where in places.values():
        surroundings |= where
    surroundings &= valid & ~region.core
    found = []
    at = np.indices(region.drawn.shape)
    for axis in range(3):
        half = at[axis] < np.median(at[axis][region.core])
        for learned in (half, ~half):
            core, other = region.core & learned, surroundings & ~learned
            tried = region.core & ~learned
            background = fit_background(samples, places, valid & learned, settings)
            if min(core.sum(), tried.sum(), other.sum()) < MIN_HALF_VOXELS or not background:
                continue
            target = fit_target(samples[core], settings)
            scores = []
            for where in (tried, other):
                values = thinned(samples[where])
                likely = mixture_log_density([t for t, _ in background.values()], values, weights)
                scores.append(mixture_log_density(target, values, weights) - likely)
            found.append(area_under_roc(scores[0], scores[1]))
    return float(np.mean(found)) if found else None
