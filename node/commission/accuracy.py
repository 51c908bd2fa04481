"""How far a computed case lies from the known truth of its phantom.

Errors are told in the axes of the CT, as TG-132 asks: transformed landmark minus true landmark.
Overlap is that of a structure carried into the CT by the found map with the structure as it lies
there, taken from the phantom's exact shapes, so that no contour takes part in it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydicom

from handlers.contour_metrics import compare
from handlers.decode.images import DecodedSeries, decode_series, slice_index_of_instances
from handlers.decode.structures import decode_structures
from handlers.geometry import Geometry, Points
from handlers.sampling import mask_from_roi
from handlers.values import Mask
from node.commission import limits
from node.commission.found_map import FoundRegistration, FoundResult
from node.commission.limits import Limit, Measurement
from node.errors import NodeError
from node.phantom.solids import Solid
from node.phantom.study import PhantomStudy

NODE_STEP_MM = 0.75
ORGAN_STEP_MM = 3.0
NODE_MARGIN_MM = 12.0
PERCENT = 100.0

DRAWN_DSC = "DSC of the drawn target with the true node"
REFINED_DSC = "DSC of the refined target with the true node"
LARGEST, SHARE = "TRE within 40 mm, largest", "TRE within 40 mm, share within 2 mm"


@dataclass(frozen=True, slots=True, eq=False)
class TruePairs:
    """Landmarks of one phantom that a series shows.

    Attributes:
        ct: Shape (n, 3), LPS mm in the CT's frame.
        mr: Where the series shows them, in the MR's frame.
    """

    ct: Points
    mr: Points


def true_pairs(truth: dict[str, Any], contrast: str) -> TruePairs:
    """Return the landmarks within 40 mm of the target, from the phantom's truth document."""
    told = truth["landmarks"]
    return TruePairs(np.array(told["ct"]), np.array(told["mr"][contrast]))


def errors_mm(found: FoundRegistration, pairs: TruePairs, series_uid: str = "") -> Points:
    """Return the error of each landmark as a vector along the CT's axes, shape (n, 3), mm."""
    return found.in_ct_axes(found.mr_points(pairs.ct, series_uid) - pairs.mr)


def error_rows(
    case: str, errors: Points, *, series: str, axis_limit: Limit | None
) -> list[Measurement]:
    """Return what TG-132 asks of a set of landmark errors.

    Args:
        case: Name of the case.
        errors: Shape (n, 3), mm.
        series: Name of the series.
        axis_limit: For the largest error along any axis; None: only told.
    """
    lengths = np.linalg.norm(errors, axis=1)
    axes = np.abs(errors).max(axis=0)
    within = PERCENT * float(np.mean(lengths <= limits.WARPED_MM))
    figures = {
        "TRE within 40 mm, median": (float(np.median(lengths)), "mm"),
        "TRE within 40 mm, 95th percentile": (float(np.percentile(lengths, 95)), "mm"),
        LARGEST: (float(lengths.max()), "mm"),
        "TRE within 40 mm, largest along x": (float(axes[0]), "mm"),
        "TRE within 40 mm, largest along y": (float(axes[1]), "mm"),
        "TRE within 40 mm, largest along z": (float(axes[2]), "mm"),
        SHARE: (within, "%"),
    }
    rows = [Measurement(case, what, v, unit, series) for what, (v, unit) in figures.items()]
    mean = float(np.abs(errors.mean(axis=0)).max())
    what = "TRE within 40 mm, largest mean along an axis"
    return [*rows, Measurement(case, what, mean, "mm", series, axis_limit)]


def warp_limits(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return rows with the limits for a known deformation that a deformable step must follow."""
    bounds = {SHARE: limits.WARPED_SHARE, LARGEST: limits.WARPED_LARGEST}
    return [replace(r, limit=bounds[r.what]) if r.what in bounds else r for r in rows]


def true_ct_points(study: PhantomStudy, mr_points: Points, contrast: str) -> Points:
    """Return which CT points an MR series shows at points of its frame: the truth, undone."""
    x, y, z = study.ct_from_mr.apply(mr_points).astype(np.float32).T
    for warp in study.patient.changes[contrast]:
        x, y, z = warp.before(x, y, z)
    return np.stack([x, y, z], axis=1).astype(np.float64)


def carried_dsc(
    study: PhantomStudy, found: FoundRegistration, solid: Solid, contrast: str, step_mm: float
) -> tuple[float, float]:
    """Return Dice coefficient and ratio of volumes of a carried structure to the true one.

    Args:
        study: The phantom.
        found: What brings its MR to the CT.
        solid: The structure in the CT.
        contrast: The leading series.
        step_mm: Distance of the points that are asked.
    """
    points = _points_about(solid, study.true_target.geometry, step_mm)
    true = np.asarray(solid.distance(*points.T.astype(np.float32))) < 0
    origin = true_ct_points(study, found.mr_points(points), contrast)
    carried = np.asarray(solid.distance(*origin.T.astype(np.float32))) < 0
    if not true.any():
        raise NodeError("a structure of the phantom lies outside its CT")
    both = int(np.count_nonzero(true & carried))
    total = int(np.count_nonzero(true)) + int(np.count_nonzero(carried))
    return 2.0 * both / total, float(np.count_nonzero(carried) / np.count_nonzero(true))


def _points_about(solid: Solid, ct: Geometry, step_mm: float) -> Points:
    low = np.maximum(np.array(solid.lowest) - NODE_MARGIN_MM, ct.corners_mm().min(axis=0))
    high = np.minimum(np.array(solid.highest) + NODE_MARGIN_MM, ct.corners_mm().max(axis=0))
    axes = [np.arange(a, b, step_mm) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def masks_by_name(
    ds: pydicom.Dataset, ct: DecodedSeries, names: Collection[str]
) -> dict[str, Mask]:
    """Return the named ROIs of a structure set as voxels; those that are not there are left out.

    Raises:
        NodeError: The CT or the structure set cannot be read.
    """
    if ct.image is None:
        raise NodeError("the CT of the case cannot be read")
    geometry = ct.image.geometry
    decoded = decode_structures(ds, geometry, slice_index_of_instances(ct.datasets))
    if decoded.structure_set is None:
        raise NodeError("a structure set of the case cannot be read")
    rois = decoded.structure_set.rois
    return {r.name: mask_from_roi(r, geometry) for r in rois if r.name in names}


def contour_rows(
    case: str, result: FoundResult, study: PhantomStudy, volumes_cm3: dict[str, float]
) -> list[Measurement]:
    """Return how the written contours compare with the true node and the true organs.

    Args:
        case: Name of the case.
        result: Its result set.
        study: Its phantom.
        volumes_cm3: True volume of each organ within the CT.
    """
    (target,) = result.metrics["targets"]
    drawn, refined = str(target["source_roi"]), str(target["refined_roi"] or "")
    ct, names = decode_series(study.ct, "CT"), {drawn, refined, *volumes_cm3}
    masks = masks_by_name(pydicom.dcmread(result.folder / "RTSTRUCT.dcm"), ct, names)
    sent = masks_by_name(study.structure_set, ct, names)
    if missing := sorted(sent.keys() - masks.keys()):
        raise NodeError(f"the written structure set has lost {', '.join(missing)}")
    truth = study.true_target
    true = Mask(masks[drawn].geometry, truth.inside) if drawn in masks else truth
    before = compare(true, masks[drawn])["dsc"]
    rows = [
        Measurement(case, "target contour", str(target["status"])),
        Measurement(case, DRAWN_DSC, before),
    ]
    if refined:
        after = compare(true, masks[refined])["dsc"]
        limit = Limit(">=", f"{limits.OWN_RULE}: no worse than drawn", before - 0.01)
        rows.append(Measurement(case, REFINED_DSC, after, limit=limit))
    for name, before_it in sent.items():
        changed = int(np.count_nonzero(masks[name].inside != before_it.inside))
        what = f"voxels of {name}, written against sent"
        rows.append(Measurement(case, what, float(changed), limit=limits.UNALTERED))
    for name, volume in volumes_cm3.items():
        off = PERCENT * abs(masks[name].volume_cm3 / volume - 1.0)
        rows.append(Measurement(case, f"volume of {name} off its true volume", off, "%"))
    return rows


def overlap_rows(
    case: str, found: FoundRegistration, study: PhantomStudy, contrast: str, *, is_used: bool
) -> list[Measurement]:
    """Return overlap and volume of the node and the organs, carried by the found map."""
    node = study.patient.in_ct(study.patient.anatomy.node)
    dsc, ratio = carried_dsc(study, found, node, contrast, NODE_STEP_MM)
    is_large = study.true_target.volume_cm3 >= limits.DSC_LEAST_CM3
    limit = limits.NODE_DSC if is_used and is_large else None
    rows = [
        Measurement(case, "DSC of the true node, carried", dsc, limit=limit),
        Measurement(case, "volume of the true node, carried over true", ratio),
    ]
    for name, organ in study.patient.anatomy.organs.items():
        if name == "External":
            continue
        solid = study.patient.in_ct(organ)
        dsc, ratio = carried_dsc(study, found, solid, contrast, ORGAN_STEP_MM)
        rows.append(Measurement(case, f"DSC of {name}, carried", dsc))
        rows.append(Measurement(case, f"volume of {name}, carried over true", ratio))
    return rows


def largest_edge_mm(*geometries: Geometry) -> float:
    """Return the longest edge of a voxel of any of the grids."""
    return max(max(geometry.spacing_mm) for geometry in geometries)
