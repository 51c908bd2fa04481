"""Results made of values alone, for the tests of the report: dose, limits, organs, odd names."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from handlers.dose_results import (
    Course,
    CumulativeDose,
    DoseMeasures,
    Dvh,
    EndCap,
    Limit,
    LimitStatus,
    LimitVerdict,
    OrganCumulative,
    PlanMeasures,
    Prescribed,
    RemainingDose,
    StructureDose,
    TargetVersion,
)
from handlers.pages.about import About, Source
from handlers.results import CaseResult, Content, MoveCause, Neighbour, VolumeChange
from handlers.sampling import contours_from_mask
from handlers.values import Roi
from tests.encode_cases import ball
from tests.picture_cases import case_of, grid_of

ABOUT = About(
    patient_name="Müller, Jürgen",
    patient_id="4711",
    birth_date="1950-01-02",
    sex="M",
    study_date="2026-03-01",
    created_date="2026-03-04",
    created_time="05:06:07",
    software_version="0.1.0",
    protocol="periportal-sbrt",
    settings_digest="9f" * 32,
    fingerprint="ab" * 32,
    sources=tuple(
        Source(what, f"1.2.826.0.1.3680043.8.498.{at}0000000000000000000000000000000000")
        for at, what in enumerate(
            ("Planning CT", "Structure set", "MR T1", "MR T2", "MR ADC", "RT Dose", "RT Plan"), 1
        )
    ),
    proposals=(Source("New structure set", "2.25.123"), Source("Registration 1", "2.25.124")),
)

ORGANS = (
    "Duodenum", "Stomach", "Liver", "Bowel", "Kidney_L", "Kidney_R", "SpinalCanal", "Pancreas",
    "Spleen", "V_Portal", "A_Hepatic", "A_Aorta", "V_Venacava_I", "BileDuct_Common",
)  # fmt: skip


def dvh_of(doses_gy: Sequence[float], structure_cm3: float) -> Dvh:
    """Return the histogram of equal parts of a structure that get these doses."""
    doses = np.sort(np.array(doses_gy, dtype=np.float64))
    part = structure_cm3 / len(doses)
    volumes = part * np.arange(len(doses), 0, -1)
    return Dvh(doses, volumes, structure_cm3, float(doses.mean()))


def structure_dose(
    name: str, highest_gy: float, *, target: str = "", version: TargetVersion | None = None
) -> StructureDose:
    """Return what a structure of 20 cm3 got: doses from nothing (a target: 0.9 of it) upwards."""
    lowest = 0.0 if version is None else 0.9 * highest_gy
    dvh = dvh_of(np.linspace(lowest, highest_gy, 200).tolist(), 20.0)
    figures = {"mean_gy": dvh.mean_gy, "max_gy": highest_gy, "d0.03cc_gy": highest_gy}
    figures |= {"d1cc_gy": 0.95 * highest_gy, "d5cc_gy": 0.75 * highest_gy}
    if version is not None:
        figures |= {"coverage_percent": 91.25 if version is TargetVersion.REFINED else 97.5}
        figures |= {"d98_gy": 38.11, "d95_gy": 39.22, "d50_gy": 44.33, "d2_gy": 49.44}
        figures |= {"v95_percent": 98.5, "ci_paddick": 0.7125, "ci_rtog": 1.2125}
        figures |= {"gradient_index": 4.125, "r50": 5.125, "hi_icru83": 0.2125}
    return StructureDose(name, target, version, dvh, figures)


def limit(organ: str, metric: str, bound: float, unit: str = "Gy") -> Limit:
    """Return a row of a table of five fractions."""
    return Limit(organ, metric, bound, unit, 5, "ulceration", "AAPM TG-101", "verified", "tg101")


def plan_of(
    organs: Sequence[str], *, label: str = "SBRT 5x8", target: str = "GTVn1", scale: float = 1.0
) -> PlanMeasures:
    """Return a plan: its first organ gets most; three limits of every kind of verdict."""
    structures = [
        structure_dose(target, 50.0 * scale, target=target, version=TargetVersion.DRAWN),
        structure_dose(f"{target}_R", 48.0 * scale, target=target, version=TargetVersion.REFINED),
    ]
    structures += [
        structure_dose(name, scale * (34.0 - 30.0 * at / max(1, len(organs))))
        for at, name in enumerate(organs)
    ]
    first = organs[0] if organs else "Duodenum"
    verdicts = (
        LimitVerdict(limit(first, "D5cc", 18.0), first, LimitStatus.MET, 12.34),
        LimitVerdict(limit(first, "Dmax", 32.0), first, LimitStatus.EXCEEDED, 34.0),
        LimitVerdict(limit("Liver", "CV21Gy", 700.0, "cm3"), "Liver", LimitStatus.EXCEEDED, 612.5),
        LimitVerdict(
            limit("Stomach", "D10cc", 18.0),
            "Stomach",
            LimitStatus.NOT_EVALUABLE,
            None,
            reason="the dose covers only 4.00 cm3 of the ROI",
        ),
        LimitVerdict(limit("Colon", "Dmax", 38.0), "", LimitStatus.NOT_EVALUABLE, None),
    )
    return PlanMeasures(
        label,
        "2.25.7",
        ("2.25.8",),
        Prescribed(40.0, 5, "plan"),
        tuple(structures),
        verdicts,
        {"A_Aorta": "no table in use has a limit for this organ"},
    )


def courses_of(organs: Sequence[str]) -> CumulativeDose:
    """Return both courses in some organs; the first is above its limit."""
    made = []
    for at, organ in enumerate(organs):
        figures = {"eqd2_d0.03cc_gy": 70.5 - at, "eqd2_d1cc_gy": 60.5, "eqd2_mean_gy": 12.5}
        made.append(
            OrganCumulative(
                name=organ,
                alpha_beta_gy=3.0,
                alpha_beta_said_by="handbook",
                recovery=0.25,
                dvh=None,
                figures=figures,
                low={key: 0.9 * value for key, value in figures.items()},
                high={key: 1.1 * value for key, value in figures.items()},
                worst_case_gy=81.25,
                limit_gy=70.0 if at < 2 else None,
                remaining=RemainingDose(22.25, 17.75, 5) if at < 2 else None,
            )
        )
    return CumulativeDose(
        (
            Course("SBRT 5x8", ("2.25.8",), 5, "plan", is_prior=False),
            Course("Liver 2019", ("2.25.9",), 28, "protocol", is_prior=True, interval_days=1203),
        ),
        (1,),
        tuple(made),
        3.0,
    )


def dose_of(
    organs: Sequence[str], *, target: str = "GTVn1", has_prior: bool = False
) -> DoseMeasures:
    """Return the dose of one plan, and of a prior course."""
    plan = plan_of(organs, target=target)
    return DoseMeasures((plan,), courses_of(organs) if has_prior else None, EndCap.HALF_SLICE)


def organ_rois(names: Sequence[str]) -> tuple[Roi, ...]:
    """Return a ball of 5 mm for each name, on a ring around the target, as organs."""
    grid = grid_of()
    rois = []
    for at, name in enumerate(names):
        angle = 2 * np.pi * at / len(names)
        centre = (24.0 * np.cos(angle), 24.0 * np.sin(angle), 0.0)
        rois.append(Roi(at + 10, name, "ORGAN", contours_from_mask(ball(grid, centre, 5.0))))
    return tuple(rois)


def refined_case(
    *, organs: Sequence[str] = ORGANS, target: str = "GTVn1", position: str = "HFS"
) -> CaseResult:
    """Return a target of 12 mm radius that was refined to 10 mm, with all its numbers."""
    grid = grid_of(position)
    noise = np.random.default_rng(3).normal(40.0, 60.0, grid.shape).astype(np.float32)
    result = case_of(
        grid,
        voxels=noise,
        refined=ball(grid, (0, 0, 0), 10.0),
        name=target,
        organs=organ_rois(organs) if position == "HFS" else (),
    )
    (only,) = result.targets
    changes = (
        VolumeChange(MoveCause.FAT, "", 1.25, 0.0),
        VolumeChange(MoveCause.VESSEL, "V_Portal", 0.75, 0.0),
        VolumeChange(MoveCause.TARGET_SIGNAL, "", 0.0, 0.125),
    )
    measured = replace(
        only,
        refinement=replace(only.refinement, changes=changes, confidence=0.875),
        refined_roi_name=f"{target[:11]}_CT1",
        metrics=METRICS,
        volumes_cm3={"voxels": only.drawn.volume_cm3, "slices": 7.31, "mesh": 7.29},
        neighbours=tuple(
            Neighbour(name, 0.031 * (at == 0), 4.25 + at, 0.5, 2.25 + at)
            for at, name in enumerate(organs)
        ),
        contents=(Content(MoveCause.VESSEL, ("V_Portal",), 0.81, 0.02),),
    )
    return replace(result, targets=(measured,))


METRICS = {
    "volume_reference_cm3": 7.24,
    "volume_evaluated_cm3": 4.19,
    "volume_slices_reference_cm3": 7.31,
    "volume_slices_evaluated_cm3": 4.21,
    "volume_mesh_reference_cm3": 7.29,
    "volume_mesh_evaluated_cm3": 4.17,
    "dsc": 0.7341,
    "jaccard": 0.5798,
    "sensitivity": 0.5791,
    "over_contour": 0.0012,
    "removed_cm3": 3.05,
    "added_cm3": 0.01,
    "hd_mm": 2.65,
    "hd95_mm": 2.36,
    "hd95_pooled_mm": 2.15,
    "mean_surface_distance_mm": 1.95,
    "mean_distance_to_agreement_mm": 1.85,
    "surface_dsc_1mm": 0.1234,
    "surface_dsc_2mm": 0.6789,
    "added_path_length_mm": 312.5,
    "added_path_slices": 8.0,
    "centroid_shift_x_mm": -0.35,
    "centroid_shift_y_mm": 0.45,
    "centroid_shift_z_mm": -0.55,
    "centroid_shift_mm": 0.79,
    "some_new_share_mm": 3.25,
}
