"""Contours as a stack of planes along the slice normal: where they lie, and their volume by slices.

Deliberately looks at no voxel of the CT: contours may lie on other slices than it has.

Read first: DICOM PS3.3 C.8.8.6.3 (Representing Inner and Outer Contours).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.dose_results import EndCap
from handlers.geometry import Geometry
from handlers.sampling.contours import (
    PARALLEL_TOLERANCE_MM,
    fill_slice,
    slice_of_contour,
)
from handlers.values import Contour

Bools = npt.NDArray[np.bool_]

GAP = 1.5
"""Planes farther apart than so many times the usual step have nothing between them."""

AREA_STEPS = 400
"""An area is counted in as many pixels across."""

LEAST_PIXEL_MM = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """All contours of one plane, and where it lies along the slice normal (first slice: zero)."""

    at_mm: float
    contours: tuple[Contour, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Planes in order, and what joins them.

    Attributes:
        geometry: Whose slice normal and in-plane axes hold; its spacing along them does not.
        planes: Neighbours differ in place.
        step_mm: Usual distance of two neighbours; of a single plane the spacing of the slices.
    """

    geometry: Geometry
    planes: tuple[Plane, ...]
    step_mm: float

    @property
    def runs(self) -> tuple[tuple[Plane, ...], ...]:
        """Its parts without a gap in them."""
        runs: list[list[Plane]] = []
        for plane in self.planes:
            if runs and plane.at_mm - runs[-1][-1].at_mm <= GAP * self.step_mm:
                runs[-1].append(plane)
            else:
                runs.append([plane])
        return tuple(tuple(run) for run in runs)


def stack_of(contours: Sequence[Contour], geometry: Geometry) -> Stack:
    """Return contours as planes; those that are not parallel to the slices, or off them, are out.

    Args:
        contours: In the frame of reference of `geometry`; of one structure.
        geometry: The grid that they were drawn on, or another with the same slice normal.
    """
    placed = sorted(
        (
            (_along_mm(contour, geometry), number)
            for number, contour in enumerate(contours)
            if slice_of_contour(contour, geometry) is not None
        ),
    )
    groups: list[list[tuple[float, int]]] = []
    for at_mm, number in placed:
        if groups and at_mm - groups[-1][0][0] <= PARALLEL_TOLERANCE_MM:
            groups[-1].append((at_mm, number))
        else:
            groups.append([(at_mm, number)])
    planes = tuple(
        Plane(float(np.mean([at for at, _ in group])), tuple(contours[n] for _, n in group))
        for group in groups
    )
    steps = np.diff([plane.at_mm for plane in planes])
    return Stack(
        geometry, planes, float(np.median(steps)) if len(steps) else geometry.spacing_mm[0]
    )


def slice_sum_cm3(stack: Stack, end_cap: EndCap) -> float:
    """Return the volume by slices: the area of each plane times half the way to both neighbours.

    Args:
        stack: The structure; without a plane its volume is zero.
        end_cap: How far it reaches beyond the first and the last plane of each run. With `NONE` a
            single plane has no volume. A sum of slices knows no taper: `TAPERED` is `HALF_SLICE`.

    Accuracy:
        Areas to about 0.1 %. Of a sphere the sum itself is off by up to about (step / radius)^2.
    """
    volume_mm3 = 0.0
    for run in stack.runs:
        at_mm = np.array([plane.at_mm for plane in run])
        halves = np.diff(at_mm) / 2.0
        first, last = (halves[0], halves[-1]) if len(halves) else [stack.step_mm / 2.0] * 2
        if end_cap is EndCap.NONE:
            first = last = 0.0
        thickness_mm = np.append(halves, last) + np.append(first, halves)
        areas = [area_mm2(plane.contours, stack.geometry) for plane in run]
        volume_mm3 += float(np.array(areas) @ thickness_mm)
    return volume_mm3 / 1000.0


def area_mm2(contours: Sequence[Contour], geometry: Geometry) -> float:
    """Return the area that the contours of one plane enclose, as `mask_from_roi` combines them."""
    low, high = bounds_mm(contours, geometry)
    pixel_mm = max(float((high - low).max()) / AREA_STEPS, LEAST_PIXEL_MM)
    rows, columns = np.ceil((high - low) / pixel_mm).astype(int) + 1
    inside = filled(contours, geometry, low + pixel_mm / 2.0, pixel_mm, (int(rows), int(columns)))
    return float(np.count_nonzero(inside)) * pixel_mm**2


def bounds_mm(
    contours: Sequence[Contour], geometry: Geometry
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and the highest place of contours along column and row direction, in mm."""
    points = np.concatenate([contour.points for contour in contours])
    at = geometry.indices_from_points(points)[:, 1:] * np.array(geometry.spacing_mm[1:])
    return at.min(axis=0), at.max(axis=0)


def filled(
    contours: Sequence[Contour],
    geometry: Geometry,
    start_mm: npt.NDArray[np.float64],
    pixel_mm: float,
    shape: tuple[int, int],
) -> Bools:
    """Return which pixels of a finer plane lie inside; the first one's centre is at `start_mm`."""
    matrix = np.array(geometry.patient_from_index)
    first = np.concatenate(([0.0], start_mm / np.array(geometry.spacing_mm[1:])))
    matrix[:3, 3] = geometry.points_from_indices(first)[0]
    matrix[:3, 1:3] = geometry.axes[:, 1:] * pixel_mm
    inside = np.zeros(shape, dtype=np.bool_)
    fill_slice(inside, contours, Geometry(geometry.frame_of_reference_uid, matrix, (1, *shape)))
    return inside


def _along_mm(contour: Contour, geometry: Geometry) -> float:
    along = geometry.indices_from_points(contour.points)[:, 0].mean()
    return float(along) * geometry.spacing_mm[0]
