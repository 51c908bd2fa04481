"""A patient irradiated twice, made by hand: linear doses, a box as organ, a known registration.

Both doses change along x of the planning CT alone, so that everything in the box has a closed form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from handlers.displacement import DisplacementField
from handlers.dosimetry.solids import Solid
from handlers.geometry import Geometry, RigidTransform
from handlers.results import Registration, RegistrationStatus
from handlers.values import (
    Case,
    CtRole,
    DoseGrid,
    Image,
    Plan,
    PlanDose,
    StructureSet,
)
from tests.grids import HFS

FRAME, PRIOR_FRAME = "1.2.10", "1.2.20"
CT_SERIES, PRIOR_SERIES, OTHER_SERIES = "1.2.11", "1.2.21", "1.2.31"
DOSE_UID, PRIOR_DOSE_UID = "1.2.12", "1.2.22"
PLAN_UID, PRIOR_PLAN_UID = "1.2.13", "1.2.23"
FRACTIONS, PRIOR_FRACTIONS = 5, 10

BOX_MM = np.array([[30.0, 50.0], [30.0, 50.0], [24.0, 48.0]])
"""The organ: from and to, along x, y and z."""

CROSS_SECTION_MM2 = 20.0 * 24.0

TURN = RigidTransform.from_parameters(
    rotation_deg=(4.0, -7.0, 15.0),
    translation_mm=(12.0, -20.0, 31.0),
    centre_mm=(40.0, 40.0, 36.0),
    to_frame_uid=FRAME,
    from_frame_uid=PRIOR_FRAME,
)
"""How the earlier planning CT lies."""


def now_gy(x_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the physical dose of the current course at x."""
    return 20.0 + 0.25 * (np.asarray(x_mm) - 40.0)


def before_gy(x_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the physical dose of the prior course at x of the planning CT."""
    return 30.0 + 0.35 * (np.asarray(x_mm) - 40.0)


def worth_gy(dose_gy: npt.ArrayLike, fractions: int, ratio: float) -> npt.NDArray[np.float64]:
    """Return EQD2 by its formula, written anew."""
    dose = np.asarray(dose_gy)
    return np.asarray((dose**2 / fractions + dose * ratio) / (2.0 + ratio))


def geometry(
    frame: str,
    spacing_mm: float = 2.5,
    low_mm: Sequence[float] = (-30.0, -30.0, -30.0),
    high_mm: Sequence[float] = (110.0, 110.0, 102.0),
    axes: npt.ArrayLike = HFS,
) -> Geometry:
    """Return a grid whose voxel centres reach from one corner to another, or a little farther."""
    centre = (np.array(low_mm) + high_mm) / 2.0
    widths = np.abs(np.asarray(axes).T) @ (np.array(high_mm) - low_mm)
    shape = np.ceil(widths / spacing_mm).astype(int) + 1
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(axes) * spacing_mm
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((shape - 1) / 2.0)
    return Geometry(frame, matrix, (int(shape[0]), int(shape[1]), int(shape[2])))


def dose_on(
    grid: Geometry,
    of_points: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    uid: str,
    **changes: object,
) -> DoseGrid:
    """Return a dose from a function of points of the grid's frame."""
    points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
    told = of_points(points).astype(np.float32).reshape(grid.shape)
    return replace(DoseGrid(grid, told, uid), **changes)  # type: ignore[arg-type]


def plan_dose(
    dose: DoseGrid, plan_uid: str = "", fractions: int | None = None, approval: str = "APPROVED"
) -> PlanDose:
    """Return the dose of a plan; without a plan if it has no UID."""
    plan = Plan(plan_uid, f"plan {plan_uid[-2:]}", approval=approval, fractions=fractions)
    return PlanDose(dose, (dose.sop_instance_uid,), plan if plan_uid else None)


def current_plan(spacing_mm: float = 2.5) -> PlanDose:
    """Return the current course."""
    grid = geometry(FRAME, spacing_mm)
    dose = dose_on(grid, lambda p: np.maximum(now_gy(p[:, 0]), 0.0), DOSE_UID)
    return plan_dose(dose, PLAN_UID, FRACTIONS)


def prior_plan(
    ct_from_prior: RigidTransform = TURN, *, grid: Geometry | None = None, **changes: object
) -> PlanDose:
    """Return the prior course, on an oblique grid of its own frame that holds all of the CT."""
    if grid is None:
        ends = geometry(FRAME).corners_mm()
        there = ct_from_prior.inverse().apply(ends)
        oblique = RigidTransform.from_parameters(
            rotation_deg=(9.0, 14.0, -20.0), translation_mm=(0, 0, 0),
            to_frame_uid="", from_frame_uid="",
        ).matrix[:3, :3]  # fmt: skip
        grid = geometry(
            ct_from_prior.from_frame_uid,
            3.0,
            there.min(axis=0),
            there.max(axis=0),
            oblique @ HFS,
        )
    dose = dose_on(
        grid,
        lambda p: np.maximum(before_gy(ct_from_prior.apply(p)[:, 0]), 0.0),
        PRIOR_DOSE_UID,
        **changes,
    )
    return plan_dose(dose, PRIOR_PLAN_UID, PRIOR_FRACTIONS)


def ct(frame: str, series: str, role: CtRole) -> Image:
    """Return a CT of a few voxels: nothing looks at it here."""
    grid = geometry(frame, 20.0)
    return Image(grid, np.zeros(grid.shape, np.float32), "CT", series, role=role)


def case(
    current: Sequence[PlanDose],
    others: Mapping[str, Sequence[PlanDose]],
    role: CtRole = CtRole.PRIOR,
) -> Case:
    """Return a case of two planning CT."""
    return Case(
        ct=ct(FRAME, CT_SERIES, CtRole.PLANNING),
        structure_set=StructureSet("1.2.14", FRAME, "", ()),
        mr=(),
        other_ct=(ct(PRIOR_FRAME, PRIOR_SERIES, role),),
        plan_doses=tuple(current),
        other_plan_doses={uid: tuple(plans) for uid, plans in others.items()},
    )


def registration(
    ct_from_prior: RigidTransform = TURN,
    status: RegistrationStatus = RegistrationStatus.PASS,
    *,
    reasons: tuple[str, ...] = (),
    deformation: DisplacementField | None = None,
    series: str = PRIOR_SERIES,
    uncertainty_mm: float = 1.5,
) -> Registration:
    """Return the known registration of the earlier planning CT."""
    return Registration(
        ct_from_prior,
        status,
        reasons,
        uncertainty_mm,
        {},
        series,
        (series,),
        (40.0, 40.0, 36.0),
        deformation=deformation,
    )


def box(edge_mm: float = 1.0, bounds_mm: npt.ArrayLike = BOX_MM) -> Solid:
    """Return a box as cubes of that edge, or a little smaller."""
    low, high = np.asarray(bounds_mm, dtype=np.float64).T
    counts = np.ceil((high - low) / edge_mm).astype(int)
    edges = (high - low) / counts
    middles = [
        start + edge * (np.arange(n) + 0.5)
        for start, edge, n in zip(low, edges, counts, strict=True)
    ]
    centres = np.array(list(product(*middles)))
    return Solid(
        centres,
        np.full(len(centres), float(np.prod(edges))),
        np.eye(3),
        np.tile(edges, (len(centres), 1)),
    )


@dataclass(frozen=True, slots=True)
class Truth:
    """Closed forms in the box, for a prior dose that was moved along x by a step.

    Attributes:
        ratio: alpha/beta.
        kept: Part of the prior course that counts.
        step_mm: By how much it is moved.
    """

    ratio: float
    kept: float = 1.0
    step_mm: float = 0.0

    def at(self, x_mm: float) -> float:
        """Return the EQD2 of both courses at x."""
        now = worth_gy(now_gy(x_mm), FRACTIONS, self.ratio)
        before = worth_gy(before_gy(x_mm - self.step_mm), PRIOR_FRACTIONS, self.ratio)
        return float(now + self.kept * before)

    def hottest(self, volume_cm3: float) -> float:
        """Return the least EQD2 of the hottest part: both doses rise along x."""
        return self.at(float(BOX_MM[0, 1]) - 1000.0 * volume_cm3 / CROSS_SECTION_MM2)

    def mean(self) -> float:
        """Return the mean EQD2: the integral of two parabolas, by Simpson's rule, exact."""
        low, high = BOX_MM[0]
        return (self.at(low) + 4.0 * self.at((low + high) / 2.0) + self.at(high)) / 6.0

    def figures(self) -> dict[str, float]:
        """Return all figures of the box."""
        return {
            "eqd2_max_gy": self.at(float(BOX_MM[0, 1])),
            "eqd2_d0.03cc_gy": self.hottest(0.03),
            "eqd2_d0.1cc_gy": self.hottest(0.1),
            "eqd2_d1cc_gy": self.hottest(1.0),
            "eqd2_d5cc_gy": self.hottest(5.0),
            "eqd2_mean_gy": self.mean(),
        }
