"""Where the planes of an RT Dose lie, and the even grid that they make.

Planes that are unevenly spaced, but all lie on one even finer grid, become that grid: between two
planes dose is a straight line, so nothing that is measured by linear interpolation changes.
Read first: DICOM PS3.3 C.8.8.3.2 (Grid Frame Offset Vector).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from handlers.decode.attributes import (
    Floats,
    failure,
    note,
    number_of,
    numbers_of,
    text_of,
)
from handlers.decode.planes import COSINE_TOLERANCE
from handlers.geometry import Geometry
from handlers.values import Finding

OFFSET_TOLERANCE_MM = 0.01
"""A plane of the dose may lie this far from its even place; offsets nearer than this are equal."""

FINEST_STEP_MM = 0.5
"""Uneven planes are expanded to no finer grid than this: then they are uneven by intent."""

WIDEST_STEP_MM = 25.0
"""No dose is calculated on planes farther apart: such offsets are nonsense, or in another unit."""

Planes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DosePlanes:
    """The even grid of a dose, and how its planes fill it.

    Attributes:
        geometry: The grid.
        places: Slice index of each plane as stored, shape (planes,).
        size: Numbers of planes, rows and columns as stored.
    """

    geometry: Geometry
    places: npt.NDArray[np.intp]
    size: tuple[int, int, int]

    def fill(self, stored: Planes) -> Planes:
        """Return the whole grid from the stored planes; straight lines between them."""
        order = np.argsort(self.places)
        if len(order) == self.geometry.shape[0]:
            is_sorted = bool(np.all(np.diff(order) > 0))
            return stored if is_sorted else np.ascontiguousarray(stored[order])
        whole = np.empty(self.geometry.shape, dtype=np.float32)
        for low, high in pairwise(order):
            first, last = int(self.places[low]), int(self.places[high])
            for index in range(first, last + 1):
                weight = np.float32((index - first) / (last - first))
                whole[index] = stored[low] * (1 - weight) + stored[high] * weight
        return whole


def dose_planes(ds: Dataset, where: str) -> tuple[DosePlanes | None, list[Finding]]:
    """Return the grid of an RT Dose, or None with every reason.

    Any orientation and patient position; offsets relative or absolute, growing or falling.

    Args:
        ds: An RT Dose.
        where: Names it in the texts.
    """
    position = numbers_of(ds, "ImagePositionPatient", 3)
    cosines = numbers_of(ds, "ImageOrientationPatient", 6)
    spacing = numbers_of(ds, "PixelSpacing", 2)
    rows, columns = number_of(ds, "Rows"), number_of(ds, "Columns")
    if position is None or cosines is None or spacing is None or not rows or not columns:
        text = f"{where}: position, orientation, pixel spacing, rows or columns is absent or "
        return None, [failure("dose.geometry", f"{text}malformed")]
    if spacing.min() <= 0:
        return None, [failure("dose.geometry", f"{where}: Pixel Spacing is not positive")]
    along_row, along_column = cosines.reshape(2, 3)
    if np.abs(cosines.reshape(2, 3) @ cosines.reshape(2, 3).T - np.eye(2)).max() > COSINE_TOLERANCE:
        text = f"{where}: Image Orientation (Patient) is no pair of perpendicular directions"
        return None, [failure("dose.geometry", text)]
    relative_mm, flaws = _relative_offsets_mm(ds, position, cosines, where)
    if relative_mm is None:
        return None, flaws
    placed, told = _even_places(relative_mm, where)
    if placed is None:
        return None, told
    places, step_mm = placed
    normal = np.cross(along_row, along_column)
    normal = normal / np.linalg.norm(normal)
    matrix = np.eye(4)
    matrix[:3, 0] = normal * step_mm
    matrix[:3, 1] = along_column / np.linalg.norm(along_column) * spacing[0]
    matrix[:3, 2] = along_row / np.linalg.norm(along_row) * spacing[1]
    matrix[:3, 3] = position + normal * relative_mm.min()
    shape = (int(places.max()) + 1, int(rows), int(columns))
    geometry = Geometry(text_of(ds, "FrameOfReferenceUID") or "unknown", matrix, shape)
    return DosePlanes(geometry, places, (len(places), int(rows), int(columns))), told


def _relative_offsets_mm(
    ds: Dataset, position: Floats, cosines: Floats, where: str
) -> tuple[Floats | None, list[Finding]]:
    """Return offsets of the planes from Image Position along row x column."""
    offsets = numbers_of(ds, "GridFrameOffsetVector")
    frames = number_of(ds, "NumberOfFrames") or 1
    if offsets is None or len(offsets) < 2 or len(offsets) != frames:
        count = 0 if offsets is None else len(offsets)
        text = f"{where}: Grid Frame Offset Vector has {count} values for {frames:g} planes"
        return None, [failure("dose.offsets", f"{text}; at least two planes are needed")]
    is_axial = np.abs(cosines - (1, 0, 0, 0, 1, 0)).max() <= COSINE_TOLERANCE
    is_relative = abs(offsets[0]) <= OFFSET_TOLERANCE_MM
    is_absolute = is_axial and abs(offsets[0] - position[2]) <= OFFSET_TOLERANCE_MM
    if not (is_relative or is_absolute):
        text = f"{where}: Grid Frame Offset Vector begins neither with 0 nor, on axial planes, with"
        text += " the z of the position, so the planes cannot be placed"
        return None, [failure("dose.offsets", text)]
    steps = np.diff(offsets)
    if not (np.all(steps > OFFSET_TOLERANCE_MM) or np.all(steps < -OFFSET_TOLERANCE_MM)):
        text = f"{where}: Grid Frame Offset Vector neither grows nor falls from plane to plane"
        return None, [failure("dose.offsets", text)]
    if np.abs(steps).max() > WIDEST_STEP_MM:
        text = f"{where}: Grid Frame Offset Vector has planes {np.abs(steps).max():g} mm apart"
        return None, [failure("dose.offsets", f"{text}, which no calculation has")]
    return offsets - offsets[0], []


def _even_places(
    relative_mm: Floats, where: str
) -> tuple[tuple[npt.NDArray[np.intp], float] | None, list[Finding]]:
    """Return each plane's place on an even grid, and the grid's step in mm."""
    from_lowest = relative_mm - relative_mm.min()
    extent, steps = float(from_lowest.max()), np.abs(np.diff(relative_mm))
    narrowest, count = float(steps.min()), len(relative_mm)
    even = np.abs(np.sort(from_lowest) - np.linspace(0, extent, count)).max()
    if even <= OFFSET_TOLERANCE_MM:
        places = np.argsort(np.argsort(from_lowest))
        return (places.astype(np.intp), extent / (count - 1)), []
    for parts in range(1, int(narrowest / FINEST_STEP_MM + OFFSET_TOLERANCE_MM) + 1):
        intervals = round(extent / (narrowest / parts))
        step = extent / intervals
        places = np.rint(from_lowest / step).astype(np.intp)
        if np.abs(from_lowest - places * step).max() <= OFFSET_TOLERANCE_MM:
            text = f"{where}: its planes are unevenly spaced ({narrowest:.3f} to "
            text += f"{steps.max():.3f} mm); they are taken as planes of one even grid of "
            text += f"{step:.3f} mm, with straight lines between them"
            return (places, step), [note("dose.planes_filled", text, step_mm=step)]
    text = f"{where}: its planes are unevenly spaced ({narrowest:.3f} to {steps.max():.3f} mm) and "
    text += "lie on no even grid; calculate or export on an even grid"
    return None, [failure("dose.uneven_planes", text)]
