"""The volumes of a case in whole numbers, on the CT's grid: CT, each MR, the MR as it came.

CT is kept in HU. MR is mapped linearly to 1 to 4095, 0 where there is none: a step is a four
thousandth of its range, which no screen shows; the map is told, so that its own values can be read.
What came to be registered is there as it was around the targets only, to be compared with what it
became.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.values import Case, Image, Mask
from handlers.viewing.before import before_registration
from handlers.viewing.doses import shown_doses
from handlers.viewing.other_ct import SCALE, MovedCt, shown_ct
from handlers.viewing.shown import Scale, ShownVolume, block_document

CT_WINDOWS = (
    ("abdomen", 40.0, 400.0),
    ("lung", -600.0, 1500.0),
    ("bone", 400.0, 1800.0),
    ("brain", 40.0, 80.0),
)
"""Name, center and width in HU, as they are usually read."""

MR_HIGHEST = 4095
"""Stored value of the brightest voxel of an MR."""

MR_PERCENTILES = (1.0, 99.5)
"""MR values from black to white, in percent of the covered voxels."""

SAMPLED = (2, 4, 4)
"""Every so manieth slice, row and column is looked at for the window."""


@dataclass(frozen=True, slots=True, eq=False)
class OnCt:
    """An MR series on the CT's grid.

    Attributes:
        image: The MR there.
        valid: Which voxels it covers.
        registration: Number of its registration in the metrics, from 1.
    """

    image: Image
    valid: Mask
    registration: int


def shown_volumes(
    case: Case,
    on_ct: Sequence[OnCt],
    others: Sequence[MovedCt],
    targets: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
) -> Iterator[ShownVolume]:
    """Yield the CT, each MR and other CT on it, and the doses.

    Each MR or other CT is followed by itself as it came, if that meets the targets.

    Args:
        case: As it was read.
        on_ct: Its MR on the CT's grid.
        others: Its other CT.
        targets: As `targets_document` tells them.
        metrics: The content of `metrics.json`.
    """
    yield _ct(case.ct)
    unregistered = {image.series_instance_uid: image for image in case.mr}
    for number, each in enumerate(on_ct, start=1):
        scale = Scale.spanning(each.image.voxels, each.valid.inside, MR_HIGHEST)
        shown = _mr(each, number, scale, metrics["registrations"][each.registration - 1])
        yield shown
        source = unregistered.get(each.image.series_instance_uid)
        if source is not None:
            before = before_registration(case, source, targets, scale, shown, number)
            if before is not None:
                yield before
    for number, moved in enumerate(others, start=1):
        shown = shown_ct(moved, case.ct.geometry, number)
        shown.document["windows"] = _windows()
        yield shown
        at = len(on_ct) + number
        before = before_registration(case, moved.image, targets, SCALE, shown, at)
        if before is not None:
            yield before
    yield from shown_doses(case.plan_doses, case.ct.geometry)


def _mr(shown: OnCt, number: int, scale: Scale, told: Mapping[str, Any]) -> ShownVolume:
    series_uid = shown.image.series_instance_uid
    document = {
        "key": f"mr{number}",
        "kind": "mr",
        "word": "MR",
        "label": _label(shown.image, number),
        "registration": shown.registration,
        "status": told["status"],
        "contrast": shown.image.contrast,
        "is_leading": series_uid == told.get("leading_series_uid"),
        "series_instance_uid": series_uid,
        **scale.document(),
        "windows": [_mr_window(shown.image.voxels, shown.valid.inside)],
        **block_document((0, 0, 0), shown.image.geometry.shape),
    }
    return ShownVolume(document, scale.stored(shown.image.voxels, shown.valid.inside))


def _windows() -> list[dict[str, str | float]]:
    return [{"name": n, "center": c, "width": w} for n, c, w in CT_WINDOWS]


def _ct(ct: Image) -> ShownVolume:
    document = {
        "key": "ct",
        "kind": "ct",
        "label": "Planning CT",
        "slope": 1.0,
        "intercept": 0.0,
        "has_padding": False,
        "windows": _windows(),
        **block_document((0, 0, 0), ct.geometry.shape),
    }
    limits = np.iinfo(np.int16)
    stored = np.empty(ct.geometry.shape, dtype=np.int16)
    for index, plane in enumerate(ct.voxels):
        stored[index] = np.clip(np.rint(plane), limits.min, limits.max)
    return ShownVolume(document, stored)


def _label(image: Image, number: int) -> str:
    contrast = f" {image.contrast}" if image.contrast else ""
    told = f": {image.description}" if image.description else ""
    return f"MR {number}{contrast}{told}"


def _mr_window(
    voxels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]
) -> dict[str, str | float]:
    z, y, x = SAMPLED
    some = voxels[::z, ::y, ::x][inside[::z, ::y, ::x]]
    values = some if len(some) else voxels[inside]
    if not len(values):
        return {"name": "automatic", "center": 0.5, "width": 1.0}
    low, high = (float(each) for each in np.percentile(values, MR_PERCENTILES))
    return {"name": "automatic", "center": (low + high) / 2, "width": max(high - low, 1e-6)}
