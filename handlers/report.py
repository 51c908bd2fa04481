"""What a person or a script reads of a result: the metrics document.

Makes plain values only (what `json` can write); knows no file. Keys are fixed by the product's
design: scripts depend on them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.dose_report import dose_document
from handlers.results import (
    CaseResult,
    Neighbour,
    Registration,
    ResampledMr,
    SurfaceMoves,
    TargetResult,
)
from handlers.surface_figures import MOVED_MM, surface_figures
from handlers.surface_file import surface_file_name
from handlers.values import Finding


def metrics_document(result: CaseResult, case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    Args:
        result: What was computed.
        case: Identity of the computation (UIDs, protocol, software version, settings), to be told
            as it is.

    Returns:
        `case`, `registrations`, `targets`, `dose`, `timing_s`, `findings`. Lengths in mm, volumes
        in cm3, angles in degrees (R = Rz Ry Rx), times in seconds; transforms act on LPS mm.
    """
    return {
        "case": dict(case),
        "registrations": [
            _registration(registration, result) for registration in result.registrations
        ],
        "targets": [_target(target, n) for n, target in enumerate(result.targets, start=1)],
        "dose": dose_document(result.dose),
        "timing_s": {step: round(seconds, 3) for step, seconds in result.timing_s.items()},
        "findings": findings_document(result.findings),
    }


def findings_document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    return [
        {
            "code": finding.code,
            "severity": str(finding.severity),
            "text": finding.text,
            "numbers": dict(finding.numbers),
        }
        for finding in findings
    ]


def _registration(registration: Registration, result: CaseResult) -> dict[str, Any]:
    return {
        "kind": registration.kind_in(result.case),
        "status": str(registration.status),
        "reasons": list(registration.reasons),
        "frame_of_reference_uid": registration.ct_from_mr.from_frame_uid,
        "translation_mm": list(registration.translation_mm),
        "rotation_deg": list(registration.ct_from_mr.rotation_deg),
        "at_mm": list(registration.centre_mm),
        "ct_from_mr": registration.ct_from_mr.matrix.tolist(),
        "uncertainty_mm": registration.uncertainty_mm,
        "quality": dict(registration.quality),
        "notes": list(registration.notes),
        "deformation": _deformation(registration),
        "series_shifts_mm": {uid: list(s) for uid, s in registration.series_shifts_mm.items()},
        "leading_series_uid": registration.leading_series_uid,
        "series": [
            {
                "series_instance_uid": uid,
                "covers_ct_fraction": _covered(uid, result.resampled),
            }
            for uid in registration.series_uids
        ],
        "daily_position": _daily_position(registration, result),
    }


def _daily_position(registration: Registration, result: CaseResult) -> dict[str, Any] | None:
    """Return how the patient lay for a CBCT in IEC 61217 fixed axes; None for anything else."""
    daily = result.daily_positions.get(registration.leading_series_uid)
    if daily is None:
        return None
    return {
        "system": "IEC 61217 fixed; how far the patient lies from plan, R = Rz Ry Rx",
        "shift_mm": dict(zip("xyz", daily.shift_mm, strict=True)),
        "rotation_deg": dict(zip("xyz", daily.rotation_deg, strict=True)),
        "at_mm": list(daily.at_mm),
        "patient_position": daily.patient_position,
        "is_frame_of_reference_shared": daily.is_frame_shared,
        "organ_distances_mm": {
            target: dict(distances) for target, distances in daily.organ_distances_mm.items()
        },
    }


def _deformation(registration: Registration) -> dict[str, Any]:
    """Return whether a deformation is used, how large it is, and the box in which it lies."""
    if registration.deformation is None:
        return {"accepted": False}
    corners = registration.deformation.geometry.corners_mm()
    return {
        "accepted": True,
        **registration.deformation_figures,
        "region_mm": {"low": corners.min(axis=0).tolist(), "high": corners.max(axis=0).tolist()},
    }


def _covered(series_uid: str, resampled: Sequence[ResampledMr]) -> float | None:
    for item in resampled:
        if item.image.series_instance_uid == series_uid:
            return float(item.valid.inside.mean())
    return None


def _target(target: TargetResult, number: int) -> dict[str, Any]:
    return {
        "source_roi": target.source_roi.name,
        "source_roi_number": target.source_roi.number,
        "refined_roi": target.refined_roi_name,
        "status": str(target.refinement.status),
        "reasons": list(target.refinement.reasons),
        "drawn_volume_cm3": target.drawn_cm3,
        "refined_volume_cm3": target.refined_cm3,
        "metrics": dict(target.metrics),
        "evidence": dict(target.refinement.numbers),
        "volumes_cm3": dict(target.volumes_cm3),
        "organ_distances_mm": dict(target.organ_distances_mm),
        "organs": _organs(target.neighbours),
        "contents": [
            {
                "cause": str(content.cause),
                "structures": list(content.structures),
                "drawn_cm3": content.drawn_cm3,
                "final_cm3": content.final_cm3,
            }
            for content in target.contents
        ],
        "confidence": target.refinement.confidence,
        "changes": [
            {
                "cause": str(change.cause),
                "structure": change.structure,
                "removed_cm3": change.removed_cm3,
                "added_cm3": change.added_cm3,
            }
            for change in target.refinement.changes
        ],
        "surface": _surface(target.refinement.moves),
        "surface_file": None if target.surface_map is None else surface_file_name(number),
        "found": [
            {"name": name, "volume_cm3": mask.volume_cm3}
            for name, mask in target.refinement.found.items()
        ],
        "derived": [
            {
                "name": derived.name,
                "type": derived.interpreted_type,
                "volume_cm3": derived.volume_cm3,
                "description": derived.description,
                "metrics": dict(derived.metrics),
                "organs": _organs(derived.neighbours),
            }
            for derived in target.derived
        ],
    }


def _organs(neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """Return how a target lies to each other ROI, and how the drawn one did."""
    return [
        {
            "name": each.name,
            "overlap_cm3": each.overlap_cm3,
            "distance_mm": each.distance_mm,
            "drawn_overlap_cm3": each.drawn_overlap_cm3,
            "drawn_distance_mm": each.drawn_distance_mm,
        }
        for each in neighbours
    ]


def _surface(moves: SurfaceMoves | None) -> dict[str, Any] | None:
    """Return where the drawn surface went, shares as parts of 1; None after an abstention."""
    figures = surface_figures(moves)
    if figures is None:
        return None
    return {
        "moved_beyond_mm": MOVED_MM,
        "inward_share": figures.inward_share,
        "outward_share": figures.outward_share,
        "largest_inward_mm": figures.largest_inward_mm,
        "largest_outward_mm": figures.largest_outward_mm,
        "mean_absolute_mm": figures.mean_absolute_mm,
        "causes": [
            {"cause": str(each.cause), "share": each.share, "mean_mm": each.mean_mm}
            for each in figures.causes
        ],
    }
