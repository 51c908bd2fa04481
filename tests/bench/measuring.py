"""How long the whole measuring of a large case takes, contours and dose, and how much memory.

    python -m tests.bench.measuring [--structures 20] [--dose-mm 2.0] [--plans 1] [--prior]

Run by hand, from the project's folder, on an idle machine. The case: a CT of 512 x 512 x 200
voxels, a body, a liver, a target with its refined version and a margin round that, and ellipsoids
of many sizes up to the wanted number of structures; a dose over the trunk. All limits that come
with Hilum are judged. Prints seconds by step and the largest memory of the process, and exits 1 if
the whole takes longer than 10 s or more than 2 GiB. The making of the case is not counted. With
`--prior` there is an earlier course beside it, on a CT that lies turned and moved, its dose as
fine; it is added in every structure, and once more for each of the 26 shifts.
"""

import argparse
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from handlers.contour_metrics import Structure, measured_target
from handlers.dosimetry import DoseSettings, measure_dose
from handlers.geometry import Geometry, RigidTransform
from handlers.refinement.account import cause_of_structure
from handlers.results import (
    DerivedTarget,
    Refinement,
    Registration,
    RegistrationStatus,
    TargetResult,
    TargetStatus,
)
from handlers.sampling import mask_from_roi
from handlers.values import (
    Case,
    Contour,
    CtRole,
    DoseGrid,
    Image,
    Mask,
    Plan,
    PlanDose,
    PlannedTarget,
    Roi,
    StructureSet,
)
from node.limit_tables import limits_of, names_of
from tests.grids import grid

LONGEST_S = 10.0
LARGEST_MIB = 2048.0

CT = grid((1.5, 0.977, 0.977), (200, 512, 512), origin_mm=(-250.0, -250.0, -150.0))
CORNERS = 200
PRESCRIBED_GY = 40.0

ORGANS = ("Duodenum", "Stomach", "Kidney_L", "Kidney_R", "SpinalCord", "Colon", "Heart", "Lung_L")
"""Names of the first ellipsoids: those that limits are known for."""

Triple = tuple[float, float, float]


def ellipsoid(centre: Triple, radii: Triple) -> tuple[Contour, ...]:
    """Return the rings of an ellipsoid on the slices of the CT."""
    angle = np.arange(CORNERS) / CORNERS * 2 * np.pi
    rings = []
    for z in CT.points_from_indices([(k, 0, 0) for k in range(CT.shape[0])])[:, 2]:
        left = 1 - ((z - centre[2]) / radii[2]) ** 2
        if left > 1e-3:
            x = centre[0] + radii[0] * np.sqrt(left) * np.cos(angle)
            y = centre[1] + radii[1] * np.sqrt(left) * np.sin(angle)
            rings.append(Contour(np.column_stack((x, y, np.full(CORNERS, z)))))
    return tuple(rings)


def drawn(structures: int) -> list[Roi]:
    """Return the target, then the organs."""
    rng = np.random.default_rng(7)
    shapes: list[tuple[str, str, Triple, Triple]] = [
        ("GTVn", "GTV", (0.0, 0.0, 0.0), (20.0, 18.0, 22.0)),
        ("External", "EXTERNAL", (0.0, 0.0, 0.0), (190.0, 120.0, 400.0)),
        ("Liver", "ORGAN", (-70.0, 0.0, 20.0), (90.0, 80.0, 80.0)),
    ]
    for number in range(structures - len(shapes)):
        x, y, z = rng.uniform(-90, 90, 3) * (1.0, 0.7, 0.9)
        a, b, c = rng.uniform(8, 50, 3)
        name = ORGANS[number] if number < len(ORGANS) else f"Organ{number}"
        shapes.append((name, "ORGAN", (x, y, z), (a, b, c)))
    return [
        Roi(number, name, kind, ellipsoid(centre, radii))
        for number, (name, kind, centre, radii) in enumerate(shapes, start=1)
    ]


def dose_at(geometry: Geometry, factor: float) -> npt.NDArray[np.float32]:
    away = geometry.distances_mm((0.0, 0.0, 0.0))
    values = factor * (
        1.25 * PRESCRIBED_GY / (1 + np.exp((away - 26) / 5)) + 4 * np.exp(-away / 60)
    )
    return np.asarray(values, dtype=np.float32)


def large_case(structures: int, dose_mm: float, plans: int) -> tuple[Case, dict[str, Mask]]:
    """Return the case and the voxels of its structures."""
    rois = drawn(structures)
    shape = tuple(int(mm / dose_mm) for mm in (280.0, 260.0, 360.0))
    geometry = grid(
        (dose_mm, dose_mm, dose_mm),
        (shape[0], shape[1], shape[2]),
        origin_mm=(-180.0, -130.0, -140.0),
    )
    doses = []
    for number in range(plans):
        plan = Plan(f"1.9.{number}", f"plan {number}", "1.2.4", "", (PlannedTarget(1, 40.0),), 5)
        dose = DoseGrid(geometry, dose_at(geometry, 1 + 0.02 * number))
        doses.append(PlanDose(dose, (f"1.5.{number}",), plan))
    image = Image(CT, np.zeros(CT.shape, dtype=np.float32), "CT", "1.2.3")
    structure_set = StructureSet("1.2.4", CT.frame_of_reference_uid, "SET", tuple(rois))
    case = Case(image, structure_set, (), plan_doses=tuple(doses))
    return case, {roi.name: mask_from_roi(roi, CT) for roi in rois}


PRIOR_FRAME, PRIOR_SERIES = "1.7.1", "1.7.2"

CT_FROM_PRIOR = RigidTransform.from_parameters(
    rotation_deg=(3.0, -2.0, 4.0),
    translation_mm=(12.0, -8.0, 20.0),
    to_frame_uid=CT.frame_of_reference_uid,
    from_frame_uid=PRIOR_FRAME,
)


def with_prior(case: Case) -> tuple[Case, tuple[Registration, ...]]:
    """Return a case with an earlier course, and the registration of its CT."""
    (now, *_) = case.plan_doses
    there = now.dose.geometry
    geometry = Geometry(PRIOR_FRAME, there.patient_from_index, there.shape)
    dose = DoseGrid(geometry, dose_at(geometry, 0.7), plan_uids=("1.7.3",))
    plan = Plan("1.7.3", "earlier", fractions=10)
    voxels = np.zeros((2, 2, 2), dtype=np.float32)  # nothing looks at the images here
    prior_ct = Image(
        Geometry(PRIOR_FRAME, CT.patient_from_index, (2, 2, 2)),
        voxels,
        "CT",
        PRIOR_SERIES,
        role=CtRole.PRIOR,
    )
    registration = Registration(
        CT_FROM_PRIOR,
        RegistrationStatus.PASS,
        (),
        1.5,
        {},
        PRIOR_SERIES,
        (PRIOR_SERIES,),
        (0.0, 0.0, 0.0),
    )
    planned = {PRIOR_SERIES: (PlanDose(dose, ("1.7.4",), plan),)}
    return replace(case, other_ct=(prior_ct,), other_plan_doses=planned), (registration,)


def proposed(roi: Roi, mask: Mask) -> TargetResult:
    """Return a target with a refined version, and a margin round that."""
    middle = (1.0, 0.0, 0.0)
    smaller = mask_from_roi(Roi(99, "", "", ellipsoid(middle, (18.0, 17.0, 20.0))), CT)
    wider = mask_from_roi(Roi(99, "", "", ellipsoid(middle, (23.0, 22.0, 25.0))), CT)
    return TargetResult(
        roi,
        mask,
        Refinement(TargetStatus.REFINED, smaller, ()),
        "GTVn_CT1MR1",
        {},
        {},
        derived=(DerivedTarget("PTVn_CT1MR1", "PTV", wider, "5 mm"),),
    )


@dataclass(frozen=True)
class Spent:
    """What a step took: seconds on the wall and of the processor, largest memory until its end."""

    wall_s: float
    cpu_s: float
    memory_mib: float


class Watch:
    """Measures one step after another."""

    def __init__(self) -> None:
        self.steps: dict[str, Spent] = {}
        self._began = (time.perf_counter(), time.process_time())

    def end(self, step: str) -> None:
        """Note what passed since the last step ended."""
        now = (time.perf_counter(), time.process_time())
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall_s, cpu_s = now[0] - self._began[0], now[1] - self._began[1]
        self.steps[step] = Spent(wall_s, cpu_s, memory_mib)
        self._began = now


def measure(
    case: Case, masks: Mapping[str, Mask], registrations: tuple[Registration, ...] = ()
) -> dict[str, Spent]:
    """Measure all and return what each step took."""
    target_roi, *others = case.structure_set.rois
    target = proposed(target_roi, masks[target_roi.name])
    organs = {roi.name: masks[roi.name] for roi in others}
    limits = limits_of(("tg101", "quantec", "hytec"), {}, unchecked=False)
    settings = DoseSettings(limits=limits, names=names_of((), limits))
    watch = Watch()
    around = {roi.name: Structure(masks[roi.name], roi.contours) for roi in others}
    target = measured_target(target, around, cause_of_structure, settings.end_cap)
    watch.end("contours")
    dose, findings = measure_dose(
        case, [target], organs, {roi.name: roi for roi in others}, registrations, settings
    )
    watch.end("dose")
    assert dose is not None
    for plan in dose.plans:
        figures = plan.structures[0].figures
        print(
            f"{plan.label}: {len(plan.structures)} structures, {len(plan.limits)} limits, "
            f"coverage {figures['coverage_percent']:.1f} %, CI {figures['ci_rtog']:.2f}"
        )
    if dose.cumulative is not None:
        ranged = [each for each in dose.cumulative.organs if each.low]
        print(
            f"both courses in {len(dose.cumulative.organs)} structures, {len(ranged)} with a range"
        )
    print(f"{len(findings)} findings")
    return watch.steps


def main() -> int:
    """Run the bench; return 0 if it stays within its bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=20)
    parser.add_argument("--dose-mm", type=float, default=2.0)
    parser.add_argument("--plans", type=int, default=1)
    parser.add_argument("--prior", action="store_true")
    options = parser.parse_args()
    case, masks = large_case(options.structures, options.dose_mm, options.plans)
    print(f"made with {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    registrations: tuple[Registration, ...] = ()
    if options.prior:
        case, registrations = with_prior(case)
    steps = measure(case, masks, registrations)
    for step, spent in steps.items():
        print(
            f"{step:10s} {spent.wall_s:6.2f} s, {spent.cpu_s:6.2f} s of CPU, "
            f"{spent.memory_mib:5.0f} MiB at most"
        )
    whole_s = sum(spent.wall_s for spent in steps.values())
    largest_mib = max(spent.memory_mib for spent in steps.values())
    print(f"whole      {whole_s:6.2f} s, bound {LONGEST_S:g} s; bound {LARGEST_MIB:g} MiB")
    return 0 if whole_s <= LONGEST_S and largest_mib <= LARGEST_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
