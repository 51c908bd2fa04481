"""The truth about a phantom as a document that others can judge by, without our code.

LPS millimetres throughout. Landmarks are points of tissue that CT and MR both show; what is in
stomach and bowel differs between the days and is left out. Nothing here is estimated from images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry, Points
from node.phantom import courses, grids, radiotherapy, signals
from node.phantom.courses import PriorCourse
from node.phantom.hiding import depth_mm
from node.phantom.options import MR_CONTRASTS
from node.phantom.solids import Solid
from node.phantom.study import PhantomStudy

FORMAT = "hilum phantom truth 1"

NEAR_MM = 40.0
NEAR_LANDMARKS = 400
BONE_LANDMARKS = 100
BONE_REACH_MM = 110.0

PASSING = ("air", "gas", "lung", "fluid", "stool", "stomach_wall", "bowel_wall")
"""Not the same on both days, or nothing that an MR shows."""

BONE = ("cortical", "marrow", "disc", "rib")

LATTICE_MM = 10.0
LATTICE_REACH_MM = 80.0
FINE_MM = 0.5
ORGAN_MM = 2.0

CONVENTIONS = {
    "points": "x, y, z in mm, LPS: to the left, to the back, to the head",
    "prior": "of an earlier course, where there is one: ct_from_prior is exact everywhere",
    "ct_from_mr": "4 x 4, row by row; sends points of the MR's frame of reference to the CT's; "
    "exact for spine and wall, which do not breathe",
    "landmarks": "mr[contrast][n] is where that series shows the CT point ct[n], all motion and "
    "distortion included; T1 is the leading series",
    "shift_mm": "at the target: the CT point is ct_from_mr(MR point) + shift_mm",
    "truth.npz": "lattice_ct and lattice_<contrast>: more such pairs on a lattice about the "
    "target; node: the true node, hidden: that part of it which the drawn target leaves out "
    "because the CT does not show it, node_patient_from_index: (slice, row, column) to LPS mm",
}


def truth_document(study: PhantomStudy) -> dict[str, Any]:
    """Return the truth as what JSON can hold."""
    options, variety = study.options, study.options.variety
    rng = np.random.default_rng([options.seed, 81])
    centre = np.array([study.target_centre_mm])
    return {
        "format": FORMAT,
        "conventions": CONVENTIONS,
        "seed": options.seed,
        "case": {
            "hard": bool(variety and variety.is_hard),
            "features": options.features,
            "mr_useful": variety is None or variety.is_mr_useful,
            "why_useless": None if variety is None or variety.is_mr_useful else variety.flaw,
        },
        "options": dataclasses.asdict(options),
        "frames_of_reference": {
            "ct": study.ct_from_mr.to_frame_uid,
            "mr": study.ct_from_mr.from_frame_uid,
        },
        "ct_from_mr": _rounded(study.ct_from_mr.matrix, 10),
        "prior": None if study.prior is None else _prior(study.prior),
        "series": {contrast: _series(study, contrast, centre) for contrast in study.mr},
        "target": _target(study),
        "organ_volumes_cm3": _organ_volumes(study),
        "landmarks": _landmarks(study, _near(study, rng)),
        "bone_landmarks": _landmarks(study, _bone(study, rng)),
    }


def truth_arrays(study: PhantomStudy) -> dict[str, npt.NDArray[Any]]:
    """Return what is too long for the document: a lattice of point pairs, and the node's mask."""
    steps = np.arange(-LATTICE_REACH_MM, LATTICE_REACH_MM + 1, LATTICE_MM)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    points = offsets + study.target_centre_mm
    node = _fine_grid(study.patient.in_ct(study.patient.anatomy.node), study, 2 * FINE_MM)
    inside = signals.voxels_inside(study.patient.in_ct(study.patient.anatomy.node), node)
    drawn = signals.voxels_inside(study.drawn, node)
    return {
        "lattice_ct": points,
        **{f"lattice_{contrast}": study.mr_points(points, contrast) for contrast in study.mr},
        "node": inside,
        "hidden": inside & ~drawn & _covered(study, node),
        "node_patient_from_index": node.patient_from_index,
    }


def _series(study: PhantomStudy, contrast: str, centre: Points) -> dict[str, Any]:
    shift = centre - study.ct_from_mr.apply(study.mr_points(centre, contrast))
    leading = centre - study.ct_from_mr.apply(study.mr_points(centre, MR_CONTRASTS[0]))
    return {
        "series_instance_uid": str(study.mr[contrast][0].SeriesInstanceUID),
        "folder": f"study/MR_{contrast}",
        "shift_mm": _rounded(shift[0]),
        "shift_against_t1_mm": _rounded((shift - leading)[0]),
        "shows_target": bool(_grid(study, contrast).contains(study.mr_points(centre, contrast))[0]),
    }


def _prior(course: PriorCourse) -> dict[str, Any]:
    return {
        "frame_of_reference": course.ct_from_prior.from_frame_uid,
        "ct_from_prior": _rounded(course.ct_from_prior.matrix, 10),
        "target_roi": radiotherapy.PRIOR_TARGET_NAME,
        "prescription_gy": courses.PRIOR_PRESCRIPTION_GY,
        "fractions": courses.PRIOR_FRACTIONS,
    }


def _target(study: PhantomStudy) -> dict[str, Any]:
    node = study.patient.in_ct(study.patient.anatomy.node)
    grid = _fine_grid(node.fused(study.drawn, 0.0), study, FINE_MM)
    true, drawn = (signals.voxels_inside(solid, grid) for solid in (node, study.drawn))
    voxel_cm3 = grid.voxel_volume_mm3 / 1000
    both = np.count_nonzero(true & drawn)
    hidden = true & ~drawn & _covered(study, grid)
    return {
        "drawn_roi": radiotherapy.TARGET_NAME,
        "true_roi": radiotherapy.TRUE_TARGET_NAME,
        "centre_mm": _rounded(np.array(study.target_centre_mm)),
        "centroid_mm": _rounded(grid.points_from_indices(np.argwhere(true)).mean(axis=0)),
        "true_volume_cm3": round(np.count_nonzero(true) * voxel_cm3, 4),
        "drawn_volume_cm3": round(np.count_nonzero(drawn) * voxel_cm3, 4),
        "drawn_dsc": round(2 * both / (np.count_nonzero(true) + np.count_nonzero(drawn)), 4),
        "hidden_by": study.options.hidden_by,
        "hidden_volume_cm3": round(np.count_nonzero(hidden) * voxel_cm3, 4),
        "hidden_depth_mm": round(depth_mm(hidden, drawn, grid.spacing_mm), 2),
    }


def _covered(study: PhantomStudy, grid: Geometry) -> npt.NDArray[np.bool_]:
    """Return the voxels of a grid over which something hides the patient in the CT."""
    if study.cover is None:
        return np.zeros(grid.shape, dtype=bool)
    return signals.voxels_inside(study.cover, grid)


def _organ_volumes(study: PhantomStudy) -> dict[str, float]:
    """Return the volumes of the organs within the CT."""
    found: dict[str, float] = {}
    for name, organ in study.patient.anatomy.organs.items():
        solid = study.patient.in_ct(organ)
        grid = _fine_grid(solid, study, ORGAN_MM)
        inside = np.count_nonzero(signals.voxels_inside(solid, grid))
        found[name] = round(inside * grid.voxel_volume_mm3 / 1000, 2)
    return found


def _fine_grid(solid: Solid, study: PhantomStudy, step_mm: float) -> Geometry:
    """Return a grid along x, y and z about a solid, as far as the CT reaches."""
    ct = study.true_target.geometry
    corners = ct.points_from_indices(
        np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * np.array(ct.shape)
        - 0.5
    )
    low = np.maximum(solid.lowest, corners.min(axis=0))
    high = np.minimum(solid.highest, corners.max(axis=0))
    shape = np.maximum(np.ceil((high - low) / step_mm), 1).astype(int)[::-1]
    matrix = np.eye(4)
    matrix[:3, :3] = np.fliplr(np.eye(3)) * step_mm
    matrix[:3, 3] = low + step_mm / 2
    return Geometry(ct.frame_of_reference_uid, matrix, (shape[0], shape[1], shape[2]))


def _near(study: PhantomStudy, rng: np.random.Generator) -> tuple[Points, list[str]]:
    directions = rng.standard_normal((40 * NEAR_LANDMARKS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reach = NEAR_MM * np.cbrt(rng.uniform(0, 1, (len(directions), 1)))
    points = np.round(study.target_centre_mm + directions * reach, 3)
    tissues = study.patient.tissues_at(points)
    kept = [n for n, tissue in enumerate(tissues) if tissue not in PASSING][:NEAR_LANDMARKS]
    return points[kept], [tissues[n] for n in kept]


def _bone(study: PhantomStudy, rng: np.random.Generator) -> tuple[Points, list[str]]:
    offsets = rng.uniform(-BONE_REACH_MM, BONE_REACH_MM, (200 * BONE_LANDMARKS, 3))
    points = np.round(offsets + study.target_centre_mm, 3)
    tissues = study.patient.tissues_at(points)
    kept = [n for n, tissue in enumerate(tissues) if tissue in BONE][:BONE_LANDMARKS]
    return points[kept], [tissues[n] for n in kept]


def _landmarks(study: PhantomStudy, found: tuple[Points, list[str]]) -> dict[str, Any]:
    points, tissues = found
    mr: Mapping[str, Points] = {c: study.mr_points(points, c) for c in study.mr}
    return {
        "ct": _rounded(points, 3),
        "tissue": tissues,
        "mr": {contrast: _rounded(there) for contrast, there in mr.items()},
        "in_field_of_view": {
            contrast: [bool(v) for v in _grid(study, contrast).contains(there)]
            for contrast, there in mr.items()
        },
    }


def _grid(study: PhantomStudy, contrast: str) -> Geometry:
    return grids.mr_geometry(study.options, contrast, study.ct_from_mr)


def _rounded(values: npt.NDArray[np.float64], digits: int = 4) -> Any:
    # adding zero turns -0.0 into 0.0
    return (np.round(values, digits) + 0.0).tolist()
