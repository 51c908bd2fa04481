"""What a page needs to show a case: volumes in whole numbers, planes the right way up, outlines.

Values in, values and plain documents out: knows no file and no DICOM dataset. It is no result:
nothing of it is sent, and all of it can be made again from the objects of the case and its result
set. Measures nothing: figures come from `metrics.json`.

Read first: `orientation` (what is left and right), then `volumes`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.values import Case, StructureSet
from handlers.viewing.orientation import planes_document
from handlers.viewing.other_ct import MovedCt
from handlers.viewing.shown import ShownVolume
from handlers.viewing.structures import contours_document, rois_document, targets_document
from handlers.viewing.volumes import OnCt, shown_volumes

__all__ = ["MovedCt", "OnCt", "ShownVolume", "View", "view_of"]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is shown of one case.

    Attributes:
        document: Geometry, planes, targets and ROIs as plain values; `series` comes with the
            volumes.
        contours: The outlines of every ROI as plain values.
        volumes: The volumes, made one at a time: each is as large as the CT.
    """

    document: dict[str, Any]
    contours: dict[str, Any]
    volumes: Iterator[ShownVolume]


def view_of(
    case: Case,
    on_ct: Sequence[OnCt],
    others: Sequence[MovedCt],
    structure_set: StructureSet,
    metrics: Mapping[str, Any],
) -> View:
    """Return what is shown of a case.

    Args:
        case: As it was read.
        on_ct: Its MR on the CT's grid, in the order of the result set.
        others: Its other CT whose registration did not fail.
        structure_set: Of the result set: what was drawn and what was added.
        metrics: The content of `metrics.json`.
    """
    geometry = case.ct.geometry
    rois = rois_document(structure_set, metrics)
    targets = targets_document(structure_set, metrics, geometry)
    document = {
        "geometry": {
            "frame_of_reference_uid": geometry.frame_of_reference_uid,
            "patient_from_index": geometry.patient_from_index.tolist(),
            "shape": list(geometry.shape),
        },
        **planes_document(geometry),
        "patient_position": case.ct.patient_position,
        "targets": targets,
        "rois": rois,
    }
    return View(
        document,
        contours_document(structure_set, geometry),
        shown_volumes(case, on_ct, others, targets, metrics),
    )
