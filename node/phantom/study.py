"""One synthetic patient as a department would send it: CT, MR, structure set, plan and dose.

Everything follows from the options: the same options give the same bytes. The truth that a test
needs (pose of the MR, the node as it is) comes with the objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from handlers.geometry import Geometry, RigidTransform
from handlers.values import Mask
from node.phantom import grids, objects, radiotherapy, signals
from node.phantom.anatomy import Anatomy, make_anatomy
from node.phantom.options import MR_CONTRASTS, PhantomOptions
from node.phantom.solids import Solid, as_point

MEAN_MARGIN_BRACKET_MM = (0.0, 8.0)
"""Between these the margin is sought that gives the drawn target its Dice coefficient."""

CT_SUB_SLICES = 2
MR_SUB_SLICES = 2


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """All objects of a synthetic patient, and the truth about it.

    Attributes:
        ct: The planning CT, in the order of its slices.
        mr: MR series by contrast.
        structure_set: The drawn target `GTVn` and the organs.
        dose: RT Dose, or None.
        plan: RT Plan, or None.
        ct_from_mr: The true pose: sends points of the MR's frame to the CT's.
        true_target: The node as it is, on the CT grid.
        target_centre_mm: The node's centre, LPS mm in the CT's frame.
    """

    ct: tuple[Dataset, ...]
    mr: Mapping[str, tuple[Dataset, ...]]
    structure_set: Dataset
    dose: Dataset | None
    plan: Dataset | None
    ct_from_mr: RigidTransform
    true_target: Mask
    target_centre_mm: tuple[float, float, float]

    def instances(self) -> Iterator[Dataset]:
        """Yield all objects: the CT, the earlier MR, then what the planning system exports."""
        yield from self.ct
        for series in self.mr.values():
            yield from series
        yield self.structure_set
        for instance in (self.plan, self.dose):
            if instance is not None:
                yield instance


def make_study(options: PhantomOptions) -> PhantomStudy:
    """Return the synthetic patient that the options describe.

    Raises:
        ValueError: No margin gives the drawn target the wanted Dice coefficient.
    """
    key = repr(options)
    anatomy = make_anatomy(
        options.seed,
        node_diameter_mm=options.node_diameter_mm,
        is_prone=options.patient_position.endswith("P"),
    )
    texture = signals.make_texture(options.seed)
    ct_grid = grids.ct_geometry(options, objects.derived_uid(key, "frame CT"))
    ct_from_mr = _pose(options, key, ct_grid)
    ct = _ct(options, key, ct_grid, anatomy, texture)
    drawn = draw_target(anatomy, options.seed, options.drawn_dsc)
    structures = radiotherapy.structure_set(
        _planning_series(options, key, "RTSTRUCT", 11), ct, ct_grid, drawn, anatomy.organs
    )
    plan, dose = None, None
    if options.with_dose:
        plan, dose = _plan_and_dose(options, key, ct_grid, structures, drawn, anatomy)
    return PhantomStudy(
        ct=ct,
        mr=_mr(options, key, ct_from_mr, anatomy, texture),
        structure_set=structures,
        dose=dose,
        plan=plan,
        ct_from_mr=ct_from_mr,
        true_target=Mask(ct_grid, signals.voxels_inside(anatomy.node, ct_grid)),
        target_centre_mm=anatomy.centre,
    )


def draw_target(anatomy: Anatomy, seed: int, dsc: float) -> Solid:
    """Return what a planner drew: the node with a margin, shifted onto portal vein and artery.

    The margin is the larger of the two that give the wanted Dice coefficient with the node.
    """
    rng = np.random.default_rng([seed, 31])
    shift = np.array(anatomy.towards_vein) * rng.uniform(1.7, 2.3) + rng.normal(0, 0.3, 3)
    waves = [(float(a), float(b), float(c)) for a, b, c in rng.normal(0, 0.12, (3, 3))]
    shape = anatomy.node_core.moved(as_point(shift)).rippled(0.8, waves)
    low, high = np.array(anatomy.node_core.lowest) - 12, np.array(anatomy.node_core.highest) + 12
    axes = [np.arange(a, b, 1.0, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    node, distance = anatomy.node.distance(x, y, z) < 0, shape.distance(x, y, z)

    def overlap(margin: float) -> float:
        drawn = distance < margin
        return float(2 * np.count_nonzero(node & drawn) / (node.sum() + drawn.sum()))

    margins = np.arange(*MEAN_MARGIN_BRACKET_MM, 0.05)
    found = [margin for margin in margins if overlap(float(margin)) >= dsc]
    if not found:
        raise ValueError(f"no margin gives a Dice coefficient of {dsc}")
    return shape.grown(float(found[-1]))


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
    options: PhantomOptions,
    key: str,
    grid: Geometry,
    anatomy: Anatomy,
    texture: signals.Texture,
) -> tuple[Dataset, ...]:
    layers = (*anatomy.layers, *anatomy.ct_gas)
    hu = signals.paint(layers, grid, texture, ["hu"], sub_slices=CT_SUB_SLICES)[0]
    noisy = signals.with_ct_noise(hu, np.random.default_rng([options.seed, 41]), options.noise)
    series = objects.Series(
        key=key,
        patient_id=_patient_id(options),
        study="Planning CT",
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
    anatomy: Anatomy,
    texture: signals.Texture,
) -> dict[str, tuple[Dataset, ...]]:
    series_by_contrast = {}
    for number, contrast in enumerate(options.contrasts, start=1):
        grid = grids.mr_geometry(options, contrast, ct_from_mr)
        signal = _mr_signal(options, contrast, grid, ct_from_mr, anatomy, texture)
        series = objects.Series(
            key=key,
            patient_id=_patient_id(options),
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
    anatomy: Anatomy,
    texture: signals.Texture,
) -> npt.NDArray[np.float32]:
    """Return the signal on a grid of the MR's frame: the patient is looked at where it lies."""
    in_patient = Geometry(
        ct_from_mr.to_frame_uid, ct_from_mr.matrix @ grid.patient_from_index, grid.shape
    )
    channels = ["adc", "dwi"] if contrast == "ADC" else [contrast.lower()]
    painted = signals.paint(
        (*anatomy.layers, *anatomy.mr_gas),
        in_patient,
        texture,
        channels,
        sub_slices=MR_SUB_SLICES,
        breathing_mm=options.breathing_mm,
    )
    rng = np.random.default_rng([options.seed, 51, MR_CONTRASTS.index(contrast)])
    if contrast == "ADC":
        return signals.with_adc_noise(painted[0], painted[1], rng, options.noise)
    sigma = signals.MR_NOISE[contrast] * options.noise
    return signals.with_rician_noise(signals.with_bias(painted[0], rng), rng, sigma)


def _plan_and_dose(
    options: PhantomOptions,
    key: str,
    ct_grid: Geometry,
    structures: Dataset,
    drawn: Solid,
    anatomy: Anatomy,
) -> tuple[Dataset, Dataset]:
    plan = radiotherapy.plan(
        _planning_series(options, key, "RTPLAN", 12), options, structures, anatomy.centre
    )
    absorbed = radiotherapy.dose_gy(
        grids.dose_geometry(ct_grid),
        drawn,
        anatomy.organs["External"],
        anatomy.centre,
        options.prescription_gy,
    )
    series = _planning_series(options, key, "RTDOSE", 13)
    return plan, radiotherapy.dose(series, ct_grid, plan, absorbed)


def _planning_series(
    options: PhantomOptions, key: str, modality: str, number: int
) -> objects.Series:
    """Return a series of the planning system, within the CT's study."""
    return objects.Series(
        key=key,
        patient_id=_patient_id(options),
        study="Planning CT",
        date=options.ct_date,
        time=f"14{number:02d}00",
        modality=modality,
        number=number,
        description={"RTSTRUCT": "Structures", "RTPLAN": "Plan", "RTDOSE": "Dose"}[modality],
        manufacturer=objects.PLANNING_MANUFACTURER,
    )


def _patient_id(options: PhantomOptions) -> str:
    return f"HILUM-PHANTOM-{options.seed}"
