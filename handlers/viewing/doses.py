"""Planned dose on the CT's grid, to be laid over the pictures."""

from collections.abc import Iterator, Sequence

import numpy as np

from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import resample
from handlers.values import DoseKind, Image, PlanDose
from handlers.viewing.shown import Scale, ShownVolume, block_document

MOST_DOSES = 4
"""Of so many plans the dose is shown, those of the structure set first."""

LEAST_STEP_GY = 0.01
"""Dose is told no finer."""

MOST_STEPS = 30000


def shown_doses(doses: Sequence[PlanDose], onto: Geometry) -> Iterator[ShownVolume]:
    """Yield the dose of each plan on the part of the CT's grid that it covers, linear between.

    Args:
        doses: Of the case, in its order.
        onto: The CT's grid.
    """
    for number, planned in enumerate(doses[:MOST_DOSES], start=1):
        grid = planned.dose.geometry
        where = _part_of(onto, grid)
        if where is None:
            continue
        start, shape = where
        as_image = Image(grid, planned.dose.dose_gy, "RTDOSE", planned.dose.sop_instance_uid)
        frame = onto.frame_of_reference_uid
        identity = RigidTransform(np.eye(4), frame, grid.frame_of_reference_uid)
        dose, valid = resample(as_image, onto.crop(start, shape), identity)
        largest = float(planned.dose.dose_gy.max())
        scale = Scale(0.0, max(LEAST_STEP_GY, largest / MOST_STEPS), MOST_STEPS + 1)
        plan = planned.plan
        document = {
            "key": f"dose{number}",
            "kind": "dose",
            "label": _label(planned, number),
            "largest_gy": largest,
            "prescribed_gy": 0.0 if plan is None else plan.largest_prescription_gy,
            **scale.document(),
            "windows": [],
            **block_document(start, shape),
        }
        yield ShownVolume(document, scale.stored(dose.voxels, valid.inside))


def _label(planned: PlanDose, number: int) -> str:
    """Return what a dose is called: by its number in the figures, as two plans may share a label.

    Physical and effective dose of one plan are two doses in Gy, and told apart.
    """
    label = "" if planned.plan is None else planned.plan.label
    called = f"Plan {number}: {label}" if label else f"Dose {number}"
    return f"{called} (effective dose)" if planned.dose.kind is DoseKind.EFFECTIVE else called


def _part_of(
    onto: Geometry, grid: Geometry
) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """Return start and shape of the part of a grid that another one reaches; None if nothing."""
    at = onto.indices_from_points(grid.corners_mm())
    last = np.array(onto.shape) - 1
    low = np.clip(np.floor(at.min(axis=0)), 0, last + 1).astype(int)
    high = np.clip(np.ceil(at.max(axis=0)), -1, last).astype(int)
    z, y, x = (int(n) for n in low)
    slices, rows, columns = (int(n) for n in high - low + 1)
    if min(slices, rows, columns) < 1:
        return None
    return (z, y, x), (slices, rows, columns)
