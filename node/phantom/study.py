"""One synthetic patient as a department would send it: CT, MR, structure set, plan and dose.

Everything follows from the options: the same options give the same bytes. The truth that a test
needs (pose of the MR, the node as it is) comes with the objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from handlers.geometry import Geometry, Points, RigidTransform
from handlers.values import Mask
from node.phantom import artefacts, grids, objects, radiotherapy, signals
from node.phantom.anatomy import Anatomy
from node.phantom.courses import (
    PLANNING_STUDY,
    PriorCourse,
    plan_and_doses,
    planning_series,
    prior_course,
    second_plan,
)
from node.phantom.hiding import hide
from node.phantom.options import MR_CONTRASTS, PhantomOptions
from node.phantom.patient import Patient, make_patient
from node.phantom.solids import Solid, as_point
from node.phantom.streaks import gas_streaks

MEAN_MARGIN_BRACKET_MM = (0.0, 8.0)
"""Between these the margin is sought that gives the drawn target its Dice coefficient."""


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """All objects of a synthetic patient, and the truth about it.

    Attributes:
        ct: The planning CT, in the order of its slices.
        mr: MR series by contrast.
        structure_set: The drawn target `GTVn` and the organs.
        dose: RT Dose of the plan, or None.
        plan: RT Plan, or None.
        ct_from_mr: The true pose: sends points of the MR's frame to the CT's, exactly so where
            nothing breathes; `mr_points` is the whole truth.
        true_target: The node as it is, on the CT grid.
        target_centre_mm: The node's centre, LPS mm in the CT's frame.
        options: What was asked for.
        patient: The patient, of whom every point can be asked for.
        drawn: The target as drawn.
        hidden_target: The voxels of the node that the drawn target leaves out because they were
            hidden in the CT, on its grid; empty unless that was asked for.
        cover: What hides them, in the CT's frame, or None.
        beam_doses: RT Doses of the plan's beams, where they were asked for instead.
        second: A second plan with its dose, or None.
        prior: An earlier course, or None.
    """

    ct: tuple[Dataset, ...]
    mr: Mapping[str, tuple[Dataset, ...]]
    structure_set: Dataset
    dose: Dataset | None
    plan: Dataset | None
    ct_from_mr: RigidTransform
    true_target: Mask
    target_centre_mm: tuple[float, float, float]
    options: PhantomOptions
    patient: Patient
    drawn: Solid
    hidden_target: Mask
    cover: Solid | None
    beam_doses: tuple[Dataset, ...] = ()
    second: tuple[Dataset, Dataset] | None = None
    prior: PriorCourse | None = None

    def mr_points(self, ct_points: npt.ArrayLike, contrast: str = "T1") -> Points:
        """Return where an MR series shows points of the CT: the exact truth.

        Breathing, the series' own breath hold and, in DWI and ADC, the distortion are in it.

        Args:
            ct_points: LPS mm in the CT's frame, shape (n, 3).
            contrast: One of `MR_CONTRASTS`.

        Returns:
            LPS mm in the MR's frame, shape (n, 3), exact to far less than 0.001 mm.
        """
        return self.ct_from_mr.inverse().apply(self.patient.seen_in_mr(ct_points, contrast))

    def true_structure_set(self) -> Dataset:
        """Return an RT Structure Set of the node as it is: not for sending, for whoever judges."""
        series = planning_series(self.options, "RTSTRUCT", further=10)
        return radiotherapy.structure_set(
            series,
            self.ct,
            self.true_target.geometry,
            {radiotherapy.TRUE_TARGET_NAME: self.patient.in_ct(self.patient.anatomy.node)},
            label="TRUTH",
        )

    def instances(self) -> Iterator[Dataset]:
        """Yield all objects: the CT, the earlier MR, then what the planning system exports.

        An earlier course comes last.
        """
        yield from self.ct
        for series in self.mr.values():
            yield from series
        yield self.structure_set
        for instance in (self.plan, self.dose, *self.beam_doses, *(self.second or ())):
            if instance is not None:
                yield instance
        if self.prior is not None:
            yield from self.prior.ct
            yield from (self.prior.structure_set, self.prior.plan, self.prior.dose)


def make_study(options: PhantomOptions) -> PhantomStudy:
    """Return the synthetic patient that the options describe.

    Raises:
        NodeError: No part of this node can be hidden as asked.
        ValueError: No margin gives the plain patient the wanted Dice coefficient.
    """
    key = options.key
    ct_grid = grids.ct_geometry(options, objects.derived_uid(key, "frame CT"))
    ct_from_mr = _pose(options, key, ct_grid)
    patient = make_patient(options, ct_from_mr)
    hiding = hide(options, patient, _drawn(options, patient.anatomy))
    patient, drawn = hiding.patient, hiding.drawn
    ct = _ct(options, key, ct_grid, patient, hiding.gas)
    organs = {name: patient.in_ct(organ) for name, organ in patient.anatomy.organs.items()}
    structures = radiotherapy.structure_set(
        planning_series(options, "RTSTRUCT"),
        ct,
        ct_grid,
        {radiotherapy.TARGET_NAME: drawn, **organs},
    )
    plan: Dataset | None = None
    doses: tuple[Dataset, ...] = ()
    if options.with_dose:
        plan, doses = plan_and_doses(options, ct_grid, structures, drawn, patient)
    true = signals.voxels_inside(patient.in_ct(patient.anatomy.node), ct_grid)
    return PhantomStudy(
        ct=ct,
        mr=_mr(options, key, ct_from_mr, patient),
        structure_set=structures,
        dose=None if options.dose_by_beam or not doses else doses[0],
        plan=plan,
        ct_from_mr=ct_from_mr,
        true_target=Mask(ct_grid, true),
        target_centre_mm=patient.centre,
        options=options,
        patient=patient,
        drawn=drawn,
        hidden_target=Mask(ct_grid, true & hiding.hidden(ct_grid)),
        cover=hiding.cover,
        beam_doses=doses if options.dose_by_beam else (),
        second=second_plan(options, ct_grid, structures, patient) if options.second_plan else None,
        prior=prior_course(options, patient, ct_grid.frame_of_reference_uid)
        if options.prior
        else None,
    )


def _drawn(options: PhantomOptions, anatomy: Anatomy) -> Solid:
    """Return what a planner drew: the node with a margin, shifted onto portal vein and artery.

    The margin is the larger of the two that give the wanted Dice coefficient with the node; in a
    case of the kit, whose nodes can be small and ragged, it may be the best there is.
    """
    rng = np.random.default_rng([options.seed, 31])
    shift = np.array(anatomy.towards_vein) * rng.uniform(1.7, 2.3) + rng.normal(0, 0.3, 3)
    waves = [(float(a), float(b), float(c)) for a, b, c in rng.normal(0, 0.12, (3, 3))]
    shape = anatomy.node_core.moved(as_point(shift)).rippled(0.8, waves)
    low, high = np.array(anatomy.node_core.lowest) - 12, np.array(anatomy.node_core.highest) + 12
    axes = [np.arange(a, b, 1.0, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    node, distance = anatomy.node.distance(x, y, z) < 0, shape.distance(x, y, z)
    margins = np.arange(*MEAN_MARGIN_BRACKET_MM, 0.05)
    overlaps = np.array([_dice(node, distance < margin) for margin in margins])
    found = np.flatnonzero(overlaps >= options.drawn_dsc)
    if found.size:
        return shape.grown(float(margins[found[-1]]))
    if options.variety is None:
        raise ValueError(
            f"no margin gives a Dice coefficient of {options.drawn_dsc}: {overlaps.max():.3f} "
            "at most"
        )
    return shape.grown(float(margins[int(np.argmax(overlaps))]))


def _dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (one.sum() + other.sum()))


def _pose(options: PhantomOptions, key: str, ct_grid: Geometry) -> RigidTransform:
    ct_frame = ct_grid.frame_of_reference_uid
    own = ct_frame if options.shares_frame_of_reference else objects.derived_uid(key, "frame MR")
    return RigidTransform.from_parameters(
        rotation_deg=options.mr_rotation_deg,
        translation_mm=options.mr_translation_mm,
        to_frame_uid=ct_frame,
        from_frame_uid=own,
    )


def _ct(
    options: PhantomOptions, key: str, grid: Geometry, patient: Patient, moving_gas: Solid | None
) -> tuple[Dataset, ...]:
    (hu,) = signals.paint(
        (*patient.anatomy.layers, *patient.anatomy.ct_gas),
        grid,
        patient.look,
        ["hu"],
        sub_slices=signals.planes_within(grid),
        warps=patient.ct_warps,
    )
    if moving_gas:
        streaks = np.random.default_rng([options.seed, 92])
        hu = hu + gas_streaks(moving_gas, grid, streaks)
    if options.variety:
        hu = artefacts.with_kernel(hu, grid)
    noisy = signals.with_ct_noise(hu, np.random.default_rng([options.seed, 41]), options.noise)
    series = objects.Series(
        key=key,
        patient_id=options.patient_id,
        study=PLANNING_STUDY,
        date=options.ct_date,
        time="081500",
        modality="CT",
        number=2,
        description="Abdomen portal venous",
    )
    return objects.ct_instances(series, grid, noisy, options.patient_position)


def _mr(
    options: PhantomOptions,
    key: str,
    ct_from_mr: RigidTransform,
    patient: Patient,
) -> dict[str, tuple[Dataset, ...]]:
    series_by_contrast = {}
    for number, contrast in enumerate(options.contrasts, start=1):
        grid = grids.mr_geometry(options, contrast, ct_from_mr)
        signal = _mr_signal(options, contrast, grid, ct_from_mr, patient)
        series = objects.Series(
            key=key,
            patient_id=options.patient_id,
            study="MR upper abdomen",
            date=options.mr_date,
            time=f"09{10 + 5 * number:02d}00",
            modality="MR",
            number=100 * number + 1,
            description=objects.MR_DESCRIPTIONS[contrast],
        )
        series_by_contrast[contrast] = objects.mr_instances(series, grid, signal, contrast)
    return series_by_contrast


def _mr_signal(
    options: PhantomOptions,
    contrast: str,
    grid: Geometry,
    ct_from_mr: RigidTransform,
    patient: Patient,
) -> npt.NDArray[np.float32]:
    """Return the signal on a grid of the MR's frame: the patient is looked at where it lies."""
    in_patient = Geometry(
        ct_from_mr.to_frame_uid, ct_from_mr.matrix @ grid.patient_from_index, grid.shape
    )
    channels = ["adc", "dwi"] if contrast == "ADC" else [contrast.lower()]
    painted = signals.paint(
        (*patient.anatomy.layers, *patient.anatomy.mr_gas),
        in_patient,
        patient.look,
        channels,
        sub_slices=signals.planes_within(grid),
        warps=patient.mr_warps(contrast),
    )
    rng = np.random.default_rng([options.seed, 51, MR_CONTRASTS.index(contrast)])
    noise, bias = options.noise, artefacts.PLAIN_BIAS
    if options.variety:
        painted = artefacts.with_motion(painted, grid, rng, options.variety)
        noise, bias = noise * artefacts.noise_factor(options.variety), options.variety.bias
    if contrast == "ADC":
        return signals.with_adc_noise(painted[0], painted[1], rng, noise)
    sigma = signals.MR_NOISE[contrast] * noise
    return signals.with_rician_noise(signals.with_bias(painted[0], rng, bias), rng, sigma)
