"""The volumes of a case in whole numbers, on the CT's grid: CT, each MR, the MR as it came.

CT is kept in HU. MR is mapped linearly to 1 to 4095, 0 where there is none: a step is a four
thousandth of its range, which no screen shows; the map is told, so that its own values can be read.
The MR as it came is there around the targets only, to be compared with the registered one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import resample
from handlers.values import Case, Image, Mask

Stored = npt.NDArray[np.int16]

CT_WINDOWS = (
    ("abdomen", 40.0, 400.0),
    ("lung", -600.0, 1500.0),
    ("bone", 400.0, 1800.0),
    ("brain", 40.0, 80.0),
)
"""Name, center and width in HU, as they are usually read."""

MR_LOWEST, MR_HIGHEST = 1, 4095
"""Stored values of the MR; 0 is where there is none."""

MR_PERCENTILES = (1.0, 99.5)
"""MR values from black to white, in percent of the covered voxels."""

SAMPLED = (2, 4, 4)
"""Every so manieth slice, row and column is looked at for the window."""

AROUND_MM = 60.0
"""How far around the targets the MR as it came is shown."""

SENT, SHARED, AS_TOLD = "registration received", "shared frame of reference", "coordinates as told"
"""What put the MR where it was before: an object that came, one frame of reference, or nothing but
the numbers of two frames."""


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


@dataclass(frozen=True, slots=True, eq=False)
class ShownVolume:
    """A volume, or a block of it, and what a page must know of it.

    Attributes:
        document: `key`, `kind` (`ct`, `mr` or `before`), `label`, `slope` and `intercept` (value =
            stored * slope + intercept), `has_padding` (0 is no value), `windows` (in values),
            `start` and `shape` of the block. Of an MR also `registration` and its `status`,
            `contrast`, `is_leading` and `series_instance_uid`; of a `before` `of` (the key of its
            MR) and `placed_by`.
        stored: The block, int16.
    """

    document: dict[str, Any]
    stored: Stored


def shown_volumes(
    case: Case,
    on_ct: Sequence[OnCt],
    targets: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
) -> Iterator[ShownVolume]:
    """Yield the CT, then each MR on it, followed by that MR as it came (if it meets the targets).

    Args:
        case: As it was read.
        on_ct: Its MR on the CT's grid.
        targets: As `targets_document` tells them.
        metrics: The content of `metrics.json`.
    """
    yield _ct(case.ct)
    unregistered = {image.series_instance_uid: image for image in case.mr}
    for number, shown in enumerate(on_ct, start=1):
        scale = _Scale.spanning(shown.image.voxels, shown.valid.inside)
        told = metrics["registrations"][shown.registration - 1]
        key, series_uid = f"mr{number}", shown.image.series_instance_uid
        yield ShownVolume(
            {
                "key": key,
                "kind": "mr",
                "label": _label(shown.image, number),
                "registration": shown.registration,
                "status": told["status"],
                "contrast": shown.image.contrast,
                "is_leading": series_uid == told.get("leading_series_uid"),
                "series_instance_uid": series_uid,
                **scale.document(),
                "windows": [_mr_window(shown.image.voxels, shown.valid.inside)],
                **_block((0, 0, 0), shown.image.geometry.shape),
            },
            scale.stored(shown.image.voxels, shown.valid.inside),
        )
        source = unregistered.get(series_uid)
        if source is not None and targets:
            before = _before(case, source, targets, scale)
            if before is not None:
                before.document.update(key=f"before{number}", of=key)
                yield before


def _ct(ct: Image) -> ShownVolume:
    document = {
        "key": "ct",
        "kind": "ct",
        "label": "Planning CT",
        "slope": 1.0,
        "intercept": 0.0,
        "has_padding": False,
        "windows": [{"name": n, "center": c, "width": w} for n, c, w in CT_WINDOWS],
        **_block((0, 0, 0), ct.geometry.shape),
    }
    limits = np.iinfo(np.int16)
    stored = np.empty(ct.geometry.shape, dtype=np.int16)
    for index, plane in enumerate(ct.voxels):
        stored[index] = np.clip(np.rint(plane), limits.min, limits.max)
    return ShownVolume(document, stored)


def _before(
    case: Case, source: Image, targets: Sequence[Mapping[str, Any]], scale: "_Scale"
) -> ShownVolume | None:
    """Return the MR around the targets as it came; None if it does not reach them."""
    start, shape = _around(case.ct.geometry, targets)
    pose, placed_by = _pose_before(case, source)
    block = case.ct.geometry.crop(start, shape)
    image, valid = resample(source, block, pose)
    if not valid.inside.any():
        return None
    document = {
        "kind": "before",
        "label": "MR before registration",
        "placed_by": placed_by,
        **scale.document(),
        "windows": [],
        **_block(start, shape),
    }
    return ShownVolume(document, scale.stored(image.voxels, valid.inside))


def _pose_before(case: Case, source: Image) -> tuple[RigidTransform, str]:
    """Return `ct_from_mr` as it was known before, and what told it."""
    ct_frame = case.ct.geometry.frame_of_reference_uid
    mr_frame = source.geometry.frame_of_reference_uid
    for sent in case.registrations:
        if (sent.to_frame_uid, sent.from_frame_uid) == (ct_frame, mr_frame):
            return sent, SENT
    identity = RigidTransform(np.eye(4), ct_frame, mr_frame)
    return identity, SHARED if mr_frame == ct_frame else AS_TOLD


def _around(
    geometry: Geometry, targets: Sequence[Mapping[str, Any]]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return start and shape of the block of the grid around all targets."""
    low = np.min([target["low_mm"] for target in targets], axis=0)
    high = np.max([target["high_mm"] for target in targets], axis=0)
    ends = np.stack([low, high])
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])
    at = geometry.indices_from_points(corners)
    margin = AROUND_MM / np.array(geometry.spacing_mm)
    last = np.array(geometry.shape) - 1
    first = np.clip(np.floor(at.min(axis=0) - margin), 0, last).astype(int)
    end = np.clip(np.ceil(at.max(axis=0) + margin), 0, last).astype(int) + 1
    z, y, x = (int(n) for n in first)
    slices, rows, columns = (int(n) for n in end - first)
    return (z, y, x), (slices, rows, columns)


def _block(start: tuple[int, int, int], shape: tuple[int, int, int]) -> dict[str, Any]:
    return {"start": list(start), "shape": list(shape)}


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


@dataclass(frozen=True, slots=True)
class _Scale:
    """The linear map between an MR's values and the stored ones."""

    lowest: float
    step: float

    @classmethod
    def spanning(cls, voxels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> "_Scale":
        low = float(np.min(voxels, where=inside, initial=np.inf))
        high = float(np.max(voxels, where=inside, initial=-np.inf))
        if not high > low:
            return cls(low if np.isfinite(low) else 0.0, 1.0)
        return cls(low, (high - low) / (MR_HIGHEST - MR_LOWEST))

    def stored(self, voxels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> Stored:
        """Return stored values; the MR as it came may hold values beyond the registered one's."""
        stored = np.zeros(voxels.shape, dtype=np.int16)
        for index in range(len(voxels)):
            values = np.rint((voxels[index] - self.lowest) / self.step) + MR_LOWEST
            clipped = np.clip(values, MR_LOWEST, MR_HIGHEST)
            stored[index] = np.where(inside[index], clipped, 0)
        return stored

    def document(self) -> dict[str, Any]:
        return {
            "slope": self.step,
            "intercept": self.lowest - MR_LOWEST * self.step,
            "has_padding": True,
        }
