"""The ROIs of a result as a page shows them: what each is, its color, its outlines.

Which ROI is a target, a proposal or derived is told by the metrics; the outlines are those of the
structure set that goes to the planning system, contour for contour.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.geometry import Geometry
from handlers.pictures.colors import DRAWN, REFINED
from handlers.pictures.overview import BODY_TYPES, TARGET_TYPES
from handlers.sampling import contours_by_slice
from handlers.values import Roi, StructureSet

DERIVED_COLOR = (255, 205, 60)
ORGAN_COLORS = (
    (120, 220, 120), (255, 150, 110), (140, 170, 255), (240, 215, 120),
    (200, 150, 255), (120, 225, 225), (255, 170, 210), (190, 200, 140),
)  # fmt: skip
"""Bright enough for a dark picture, none of them near the colors of the targets."""

BODY_COLOR = (170, 170, 170)

DECIMALS = 2
"""Coordinates are told in steps of 0.01 mm."""


def rois_document(structure_set: StructureSet, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ROIs that have outlines.

    Returns:
        For each `number`, `name`, `type`, `color` (three numbers to 255), `target` (ROI number of
        the drawn target that it belongs to, or None) and `role`: `drawn` or `refined` (of a
        target), `derived`, `organ`, `other` (a target that was not treated) or `body`.
    """
    told = _told_by_metrics(metrics)
    found = []
    organs = 0
    for roi in structure_set.rois:
        if not roi.contours:
            continue
        role, target = _role(roi, told)
        color = {"drawn": DRAWN, "refined": REFINED, "derived": DERIVED_COLOR}.get(role, BODY_COLOR)
        if role in ("organ", "other"):
            color = ORGAN_COLORS[organs % len(ORGAN_COLORS)]
            organs += 1
        found.append(
            {
                "number": roi.number,
                "name": roi.name,
                "type": roi.interpreted_type,
                "role": role,
                "target": target,
                "color": list(color),
            }
        )
    return found


def targets_document(
    structure_set: StructureSet, metrics: Mapping[str, Any], geometry: Geometry
) -> list[dict[str, Any]]:
    """Return the targets in the order of the metrics.

    Returns:
        For each `number`, `name`, `refined` (name of the proposal, or None), `status`, and where it
        lies as drawn: `middle_mm` (centre of its box), `low_mm` and `high_mm`, LPS mm. A target
        whose contours lie on no slice is left out.
    """
    by_number = {roi.number: roi for roi in structure_set.rois}
    found = []
    for told in metrics.get("targets", ()):
        roi = by_number.get(told["source_roi_number"])
        contours = () if roi is None else _placed(roi, geometry)
        if not contours:
            continue
        points = np.concatenate([contour for _, contour in contours])
        low, high = points.min(axis=0), points.max(axis=0)
        found.append(
            {
                "number": told["source_roi_number"],
                "name": told["source_roi"],
                "refined": told["refined_roi"],
                "status": told["status"],
                "middle_mm": ((low + high) / 2).round(DECIMALS).tolist(),
                "low_mm": low.round(DECIMALS).tolist(),
                "high_mm": high.round(DECIMALS).tolist(),
            }
        )
    return found


def contours_document(structure_set: StructureSet, geometry: Geometry) -> dict[str, Any]:
    """Return the outlines: by ROI number a list of [slice index, [x, y, z, x, y, z, ...]].

    Points in LPS mm; contours of one slice are combined by the even-odd rule. Contours on no slice
    of the grid are left out.
    """
    return {
        "contours": {
            str(roi.number): [
                [index, points.round(DECIMALS).ravel().tolist()]
                for index, points in _placed(roi, geometry)
            ]
            for roi in structure_set.rois
            if roi.contours
        }
    }


def _placed(roi: Roi, geometry: Geometry) -> tuple[tuple[int, Any], ...]:
    return tuple(
        (index, contour.points)
        for index, contours in contours_by_slice(roi, geometry).items()
        for contour in contours
    )


def _told_by_metrics(metrics: Mapping[str, Any]) -> dict[int | str, tuple[str, int]]:
    """Return role and target: of drawn targets by ROI number, of what was added by its name."""
    told: dict[int | str, tuple[str, int]] = {}
    for target in metrics.get("targets", ()):
        number = int(target["source_roi_number"])
        told[number] = ("drawn", number)
        if target["refined_roi"]:
            told[str(target["refined_roi"])] = ("refined", number)
        for derived in target.get("derived", ()):
            told[str(derived["name"])] = ("derived", number)
    return told


def _role(roi: Roi, told: Mapping[int | str, tuple[str, int]]) -> tuple[str, int | None]:
    known = told.get(roi.number) or told.get(roi.name)
    if known is not None:
        return known
    kind = roi.interpreted_type.strip().upper()
    if kind in BODY_TYPES:
        return "body", None
    return ("other" if kind in TARGET_TYPES else "organ"), None
