"""The image planes of a series: its single-frame objects, or the frames of multi-frame objects.

Reads where each plane lies and how its stored values become real ones; judges no stack.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import Floats, failure, items_of, number_of, numbers_of, text_of
from handlers.decode.pixels import stored_values
from handlers.values import Finding

COSINE_TOLERANCE = 1e-3
"""Row and column direction must be unit vectors at right angles within this."""

DECODE_ERRORS = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What pydicom and gdcm raise for pixel data that cannot be decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One image plane.

    Attributes:
        dataset: The object that holds it.
        frame: Index of the frame in a multi-frame object, or None.
        position_mm: Centre of the first pixel, LPS mm.
        directions: Unit vectors along a row (growing column index) and a column, shape (2, 3).
        spacing_mm: Distance between rows and between columns.
        size: Numbers of rows and columns.
        slope: Rescale Slope; `intercept` likewise.
        stack: Stack ID of a multi-frame object, or empty.
    """

    dataset: Dataset
    frame: int | None
    position_mm: Floats
    directions: Floats
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float
    stack: str

    @property
    def normal(self) -> Floats:
        """Row direction x column direction."""
        return np.cross(self.directions[0], self.directions[1])

    def real_values(self) -> Floats:
        """Return rescaled values, shape (rows, columns).

        Raises:
            ValueError: Or another of `DECODE_ERRORS`: the pixel data cannot be decoded.
        """
        stored = stored_values(self.dataset, self.frame)
        if stored.shape != self.size:
            raise ValueError(f"decoded to {stored.shape} instead of {self.size} pixels")
        return np.asarray(stored * self.slope + self.intercept, dtype=np.float64)


def planes_of_series(
    datasets: Sequence[Dataset], kind: str, where: str
) -> tuple[list[Plane], list[Finding]]:
    """Return the planes that can be placed, and a failure for each kind of flaw with its count.

    Args:
        datasets: The objects of one series.
        kind: `ct` or `mr`; begins the codes of findings.
        where: Names the series in the texts.
    """
    planes: list[Plane] = []
    flaws: Counter[str] = Counter()
    total = 0
    for ds in datasets:
        frames = len(items_of(ds, "PerFrameFunctionalGroupsSequence"))
        if (number_of(ds, "NumberOfFrames") or 1) != max(frames, 1):
            flaws["the functional groups do not describe each frame"] += 1
        for frame in range(frames) if frames else (None,):
            total += 1
            plane, missing = _plane(ds, frame, kind)
            flaws.update(missing)
            planes += [plane] if plane else []
    return planes, [
        failure(
            f"{kind}.unusable_attribute",
            f"{where}: {flaw} in {count} of {total} images",
            count=count,
        )
        for flaw, count in sorted(flaws.items())
    ]


def _plane(ds: Dataset, frame: int | None, kind: str) -> tuple[Plane | None, list[str]]:
    place = _group(ds, frame, "PlanePositionSequence")
    facing = _group(ds, frame, "PlaneOrientationSequence")
    measures = _group(ds, frame, "PixelMeasuresSequence")
    position = numbers_of(place, "ImagePositionPatient", 3)
    cosines = numbers_of(facing, "ImageOrientationPatient", 6)
    spacing = numbers_of(measures, "PixelSpacing", 2)
    rows, columns = number_of(ds, "Rows"), number_of(ds, "Columns")
    flaws = []
    if position is None:
        flaws.append("Image Position (Patient) is absent or malformed")
    if cosines is None or not _is_orthonormal(cosines):
        flaws.append("Image Orientation (Patient) is absent or no pair of perpendicular directions")
    if spacing is None or spacing.min() <= 0:
        flaws.append("Pixel Spacing is absent or not positive")
    if not rows or not columns:
        flaws.append("Rows or Columns is absent")
    if number_of(ds, "SamplesPerPixel") != 1:
        flaws.append("Samples per Pixel is not 1 (a colour image, or an incomplete header)")
    if text_of(ds, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        flaws.append("Photometric Interpretation is not monochrome")
    scale, scale_flaws = _scale(_group(ds, frame, "PixelValueTransformationSequence"), kind)
    flaws += scale_flaws
    if flaws or position is None or cosines is None or spacing is None or not rows or not columns:
        return None, flaws
    directions = cosines.reshape(2, 3)
    stack = (
        text_of(_group(ds, frame, "FrameContentSequence"), "StackID") if frame is not None else ""
    )
    return Plane(
        dataset=ds,
        frame=frame,
        position_mm=position,
        directions=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        size=(int(rows), int(columns)),
        slope=scale[0],
        intercept=scale[1],
        stack=stack,
    ), []


def _group(ds: Dataset, frame: int | None, keyword: str) -> Dataset:
    """Return where a frame's attributes of a functional group stand; the object if single-frame."""
    if frame is None:
        return ds
    own = items_of(ds, "PerFrameFunctionalGroupsSequence")[frame]
    for groups in (own, *items_of(ds, "SharedFunctionalGroupsSequence")):
        for item in items_of(groups, keyword):
            return item
    return Dataset()


def _scale(place: Dataset, kind: str) -> tuple[tuple[float, float], list[str]]:
    """Return slope and intercept; a CT must have them, an MR need not (handbook A.5)."""
    names = ("RescaleSlope", "RescaleIntercept")
    if kind == "mr" and not any(name in place for name in names):
        return (1.0, 0.0), []
    slope, intercept = (number_of(place, name) for name in names)
    if slope is None or intercept is None or slope == 0:
        return (1.0, 0.0), ["Rescale Slope or Rescale Intercept is absent, not a number or zero"]
    if kind == "ct" and text_of(place, "RescaleType") not in ("", "HU", "US"):
        return (1.0, 0.0), ["Rescale Type is not HU, so the values are no Hounsfield units,"]
    return (slope, intercept), []


def _is_orthonormal(cosines: Floats) -> bool:
    pair = cosines.reshape(2, 3)
    return bool(np.abs(pair @ pair.T - np.eye(2)).max() <= COSINE_TOLERANCE)
