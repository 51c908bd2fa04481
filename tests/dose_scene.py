"""Balls drawn on a CT, and doses whose every figure is known in closed form."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry
from handlers.results import DerivedTarget, Refinement, TargetResult, TargetStatus
from handlers.values import (
    Case,
    Contour,
    DoseGrid,
    DoseKind,
    Image,
    Mask,
    Plan,
    PlanDose,
    PlannedTarget,
    Roi,
    StructureSet,
)
from tests.grids import grid

CT = grid((1.0, 1.0, 1.0), (70, 90, 110), origin_mm=(-40.0, -45.0, -35.0))
DOSE = grid((2.0, 2.0, 2.0), (60, 60, 70), origin_mm=(-59.0, -59.0, -59.0))
PEAK_GY = 50.0
SIGMA_MM = 14.0

Point = tuple[float, float, float]
ORIGIN: Point = (0.0, 0.0, 0.0)


def ball(radius_mm: float, centre: Point = ORIGIN, ct: Geometry = CT) -> tuple[Contour, ...]:
    """Return the rings of a ball on the slices of a CT; each has the area of its circle."""
    corners = 120
    turn = 2 * np.pi / corners
    swell = np.sqrt(turn / np.sin(turn))
    angle = turn * np.arange(corners)
    rings = []
    for z in ct.points_from_indices([(k, 0, 0) for k in range(ct.shape[0])])[:, 2]:
        left = radius_mm**2 - (z - centre[2]) ** 2
        if left > 0.05:
            radius = swell * np.sqrt(left)
            x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
            rings.append(Contour(np.column_stack((x, y, np.full(corners, z)))))
    return tuple(rings)


def mask(radius_mm: float, centre: Point = ORIGIN) -> Mask:
    return Mask(CT, CT.distances_mm(centre) <= radius_mm)


def drawn_roi(
    name: str, radius_mm: float, centre: Point = ORIGIN, *, number: int = 1, kind: str = "GTV"
) -> Roi:
    return Roi(number, name, kind, ball(radius_mm, centre))


def target(
    roi: Roi,
    drawn: Mask,
    refined: Mask | None = None,
    derived: Sequence[tuple[str, Mask]] = (),
) -> TargetResult:
    """Return what became of a target; it is called `<name>_MR` when refined."""
    status = TargetStatus.ABSTAINED if refined is None else TargetStatus.REFINED
    return TargetResult(
        roi,
        drawn,
        Refinement(status, refined, ()),
        None if refined is None else f"{roi.name}_MR",
        {},
        {},
        derived=tuple(DerivedTarget(name, "PTV", each, "grown") for name, each in derived),
    )


def gaussian(geometry: Geometry = DOSE, centre: Point = ORIGIN) -> npt.NDArray[np.float64]:
    return PEAK_GY * np.exp(-(geometry.distances_mm(centre) ** 2) / (2 * SIGMA_MM**2))


def gaussian_at(radius_mm: float) -> float:
    return float(PEAK_GY * np.exp(-(radius_mm**2) / (2 * SIGMA_MM**2)))


def dose_of(
    values: npt.ArrayLike, geometry: Geometry = DOSE, kind: DoseKind = DoseKind.PHYSICAL
) -> DoseGrid:
    return DoseGrid(geometry, np.asarray(values, dtype=np.float32), kind=kind)


def plan_of(
    *doses_gy: float, roi_number: int | None = 1, fractions: int | None = 5, label: str = "SBRT"
) -> Plan:
    planned = tuple(PlannedTarget(roi_number, dose_gy) for dose_gy in doses_gy)
    return Plan("1.9", label, "1.2.4", targets=planned, fractions=fractions)


def case_of(rois: Sequence[Roi], *plans: tuple[DoseGrid, Plan | None]) -> Case:
    image = Image(CT, np.zeros(CT.shape, dtype=np.float32), "CT", "1.2.3")
    structure_set = StructureSet("1.2.4", CT.frame_of_reference_uid, "SET", tuple(rois))
    doses = tuple(PlanDose(dose, (f"1.5.{n}",), plan) for n, (dose, plan) in enumerate(plans))
    return Case(image, structure_set, (), plan_doses=doses)


def organs_of(case: Case, masks: Mapping[str, Mask]) -> dict[str, Roi]:
    """Return the ROIs of those organs that are drawn."""
    return {roi.name: roi for roi in case.structure_set.rois if roi.name in masks}
