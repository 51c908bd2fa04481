"""Further plans of a synthetic patient: an earlier course, a second plan, doses beam by beam.

The earlier course has a planning CT of its own, in a frame of reference of its own, in which the
patient lies turned and moved by a known rigid map. Nothing else differs between the two days.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from handlers.geometry import Geometry, RigidTransform
from node.phantom import grids, objects, radiotherapy, signals
from node.phantom.options import PhantomOptions
from node.phantom.patient import Patient
from node.phantom.solids import Array, Solid, as_point, ellipsoid

PLANNING_STUDY, PRIOR_STUDY = "Planning CT", "Earlier planning CT"

PRIOR_DATE = "20230214"
PRIOR_ROTATION_DEG = (2.5, -3.0, 4.0)
PRIOR_TRANSLATION_MM = (11.0, -8.0, 14.0)
"""The truth `ct_from_prior` about x, y and z of the CT's frame: within what a table allows."""

PRIOR_PRESCRIPTION_GY, PRIOR_FRACTIONS = 50.4, 28
PRIOR_TARGET_RADII_MM = (17.0, 15.0, 19.0)
PRIOR_TARGET_OFFSET_MM = (-20.0, 8.0, 16.0)
"""From the node, in the CT's frame: the doses of both courses overlap, the targets hardly."""

SECOND_MARGIN_MM = 1.0
"""Of the second plan's target about the node as it is: as planned on the MR."""

BEAMS = 3

SERIES_NUMBERS = {"RTSTRUCT": 11, "RTPLAN": 12, "RTDOSE": 13}
BY_BEAM, SECOND = 10, 20
"""Added to the series numbers, so that no object of one request bears a UID of another's."""


@dataclass(frozen=True, slots=True, eq=False)
class PriorCourse:
    """An earlier course, and the truth about it.

    Attributes:
        ct: Its planning CT.
        structure_set: `PRIOR_TARGET_NAME` and the organs, drawn on it.
        plan: Its RT Plan.
        dose: Its RT Dose.
        ct_from_prior: Sends points of its frame to the planning CT's, exactly.
    """

    ct: tuple[Dataset, ...]
    structure_set: Dataset
    plan: Dataset
    dose: Dataset
    ct_from_prior: RigidTransform


def planning_series(
    options: PhantomOptions,
    modality: str,
    *,
    study: str = PLANNING_STUDY,
    date: str = "",
    further: int = 0,
) -> objects.Series:
    """Return a series of the planning system, within a CT's study."""
    number = SERIES_NUMBERS[modality] + further
    return objects.Series(
        key=options.key,
        patient_id=options.patient_id,
        study=study,
        date=date or options.ct_date,
        time=f"14{number:02d}00",
        modality=modality,
        number=number,
        description={"RTSTRUCT": "Structures", "RTPLAN": "Plan", "RTDOSE": "Dose"}[modality],
        manufacturer=objects.PLANNING_MANUFACTURER,
    )


def plan_and_doses(
    options: PhantomOptions, ct_grid: Geometry, structures: Dataset, drawn: Solid, patient: Patient
) -> tuple[Dataset, tuple[Dataset, ...]]:
    """Return the plan for the drawn target, and its dose: one, or one for each beam."""
    further = BY_BEAM if options.dose_by_beam else 0
    plan = radiotherapy.plan(
        planning_series(options, "RTPLAN", further=further),
        options,
        structures,
        patient.centre,
        beams=BEAMS if options.dose_by_beam else 1,
    )
    absorbed = _absorbed(options, grids.dose_geometry(ct_grid), drawn, patient)
    series = planning_series(options, "RTDOSE", further=further)
    if not options.dose_by_beam:
        return plan, (radiotherapy.dose(series, ct_grid, plan, absorbed),)
    shares = _shares(grids.dose_geometry(ct_grid), patient.centre)
    return plan, tuple(
        radiotherapy.dose(series, ct_grid, plan, absorbed * share, beam=number)
        for number, share in enumerate(shares, start=1)
    )


def second_plan(
    options: PhantomOptions, ct_grid: Geometry, structures: Dataset, patient: Patient
) -> tuple[Dataset, Dataset]:
    """Return another plan on the same structure set, and its dose: it irradiates the true node."""
    plan = radiotherapy.plan(
        planning_series(options, "RTPLAN", further=SECOND),
        options,
        structures,
        patient.centre,
        label="SBRT MR",
    )
    node = patient.in_ct(patient.anatomy.node).grown(SECOND_MARGIN_MM)
    absorbed = _absorbed(options, grids.dose_geometry(ct_grid), node, patient)
    series = planning_series(options, "RTDOSE", further=SECOND)
    return plan, radiotherapy.dose(series, ct_grid, plan, absorbed)


def prior_course(options: PhantomOptions, patient: Patient, ct_frame_uid: str) -> PriorCourse:
    """Return the earlier course of the patient."""
    frame_uid = objects.derived_uid(options.key, "frame earlier CT")
    ct_from_prior = RigidTransform.from_parameters(
        rotation_deg=PRIOR_ROTATION_DEG,
        translation_mm=PRIOR_TRANSLATION_MM,
        to_frame_uid=ct_frame_uid,
        from_frame_uid=frame_uid,
    )
    earlier = replace(
        options, prescription_gy=PRIOR_PRESCRIPTION_GY, fractions=PRIOR_FRACTIONS, prior=False
    )
    grid = grids.ct_geometry(options, frame_uid)
    ct = _prior_ct(options, patient, grid, ct_from_prior)
    centre = np.add(patient.centre, PRIOR_TARGET_OFFSET_MM)
    target = ellipsoid(as_point(centre), PRIOR_TARGET_RADII_MM)
    organs = {name: patient.in_ct(organ) for name, organ in patient.anatomy.organs.items()}
    there = {
        name: _seen_from(solid, ct_from_prior)
        for name, solid in {radiotherapy.PRIOR_TARGET_NAME: target, **organs}.items()
    }
    series = partial(planning_series, options, study=PRIOR_STUDY, date=PRIOR_DATE)
    structures = radiotherapy.structure_set(series("RTSTRUCT"), ct, grid, there)
    isocentre = as_point(ct_from_prior.inverse().apply(centre)[0])
    plan = radiotherapy.plan(series("RTPLAN"), earlier, structures, isocentre, label="First")
    absorbed = radiotherapy.dose_gy(
        _in_patient(grids.dose_geometry(grid), ct_from_prior),
        target,
        organs["External"],
        as_point(centre),
        PRIOR_PRESCRIPTION_GY,
    )
    dose = radiotherapy.dose(series("RTDOSE"), grid, plan, absorbed)
    return PriorCourse(ct, structures, plan, dose, ct_from_prior)


def _prior_ct(
    options: PhantomOptions, patient: Patient, grid: Geometry, ct_from_prior: RigidTransform
) -> tuple[Dataset, ...]:
    (hu,) = signals.paint(
        (*patient.anatomy.layers, *patient.anatomy.ct_gas),
        _in_patient(grid, ct_from_prior),
        patient.look,
        ["hu"],
        sub_slices=signals.planes_within(grid),
        warps=patient.ct_warps,
    )
    noisy = signals.with_ct_noise(hu, np.random.default_rng([options.seed, 43]), options.noise)
    series = objects.Series(
        key=options.key,
        patient_id=options.patient_id,
        study=PRIOR_STUDY,
        date=PRIOR_DATE,
        time="083000",
        modality="CT",
        number=2,
        description="Abdomen portal venous",
    )
    return objects.ct_instances(series, grid, noisy, options.patient_position)


def _in_patient(grid: Geometry, ct_from_prior: RigidTransform) -> Geometry:
    """Return where the voxels of a grid of the earlier frame lie in the planning CT's."""
    matrix = ct_from_prior.matrix @ grid.patient_from_index
    return Geometry(ct_from_prior.to_frame_uid, matrix, grid.shape)


def _seen_from(solid: Solid, ct_from_prior: RigidTransform) -> Solid:
    """Return a solid of the planning CT's frame as it lies in the earlier one."""
    rows = ct_from_prior.matrix[:3].astype(np.float32)
    corners = [
        (x, y, z)
        for x in (solid.lowest[0], solid.highest[0])
        for y in (solid.lowest[1], solid.highest[1])
        for z in (solid.lowest[2], solid.highest[2])
    ]
    there = ct_from_prior.inverse().apply(corners)

    def distance(x: Array, y: Array, z: Array) -> Array:
        u, v, w = (a * x + b * y + c * z + d for a, b, c, d in rows)
        return solid.distance(u, v, w)

    return Solid(distance, as_point(there.min(axis=0)), as_point(there.max(axis=0)))


def _absorbed(
    options: PhantomOptions, grid: Geometry, target: Solid, patient: Patient
) -> npt.NDArray[np.float64]:
    return radiotherapy.dose_gy(
        grid,
        target,
        patient.in_ct(patient.anatomy.organs["External"]),
        patient.centre,
        options.prescription_gy,
    )


def _shares(grid: Geometry, centre: tuple[float, ...]) -> list[npt.NDArray[np.float64]]:
    """Return the share of each beam in the dose of each voxel: more on the side it enters by."""
    x, y, _ = signals.coordinates(grid)
    angles = 2 * np.pi * np.arange(BEAMS) / BEAMS
    weights = [
        1.5 + np.tanh(((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / 60.0)
        for angle in angles
    ]
    total = np.sum([np.broadcast_to(weight, grid.shape) for weight in weights], axis=0)
    return [np.asarray(weight / total, dtype=np.float64) for weight in weights]
