"""Why a target's surface moved, and what lies near it -> measurements of its group.

A volume or share by cause bears the cause as a coded concept modifier, standard where a standard
code means the same, and the name of the structure as a text modifier. A volume of zero is left out:
what stands there moved something.

Measures nothing: volumes come from the refinement, shares from `surface_figures`.
"""

from collections.abc import Mapping
from typing import Any

import highdicom as hd
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from handlers.encode.identity import ResultSet
from handlers.encode.measurements import measurements_of
from handlers.encode.metric_codes import private_code
from handlers.encode.text import LO_LENGTH
from handlers.results import MoveCause, TargetResult
from handlers.surface_figures import surface_figures

MOVE_CAUSE = private_code("MOVE_CAUSE", "Because of what")
MOVE_STRUCTURE = private_code("MOVE_STRUCTURE", "Structure that is the cause")
CONTENT_STRUCTURES = private_code("CONTENT_NAMES", "Structures that lie in the target")
FOUND_STRUCTURE = private_code("FOUND_STRUCTURE", "Structure that nobody contoured")
"""Names of our concept modifiers."""

CAUSES: dict[MoveCause, Code] = {
    MoveCause.VESSEL: codes.SCT.BloodVessel,
    MoveCause.DUCT: private_code("DUCT", "Bile or other duct"),
    MoveCause.BOWEL: private_code("BOWEL", "Bowel or another hollow organ"),
    MoveCause.ORGAN: codes.SCT.Organ,
    MoveCause.FAT: codes.SCT.AdiposeTissue,
    MoveCause.GAS: codes.SCT.Gas,
    MoveCause.OTHER_TISSUE: private_code("OTHER_TISSUE", "Tissue that does not look like target"),
    MoveCause.TARGET_SIGNAL: private_code("TARGET_SIGNAL", "Tissue that looks like the target"),
}
"""Values of `MOVE_CAUSE`."""


def evidence_measurements(
    result_set: ResultSet, target: TargetResult
) -> tuple[list[Any], list[str]]:
    """Return what moved a target's surface as measurements, and sentences on what is no number.

    Volumes taken and given by cause, the surface as a whole and by cause, the confidence, and the
    volumes of structures that were found; an abstention may have some of them.
    """
    parts = [
        *_changes(result_set, target),
        *_surface(target),
        *_found(result_set, target),
    ]
    if target.refinement.confidence is not None:
        parts.insert(0, measurements_of({"proposal_confidence": target.refinement.confidence}))
    measurements = [each for made, _ in parts for each in made]
    return measurements, [text for _, texts in parts for text in texts]


def organ_measurements(
    result_set: ResultSet, uid: str, key: str, values: Mapping[str, float]
) -> tuple[list[Any], list[str]]:
    """Return a figure of a target against organs: measurements tracked by the organ's name.

    Args:
        result_set: Gives the UIDs.
        uid: Tracking UID of the target.
        key: Of the figure.
        values: By ROI name of the organ.
    """
    measurements, unmeasured = [], []
    for organ, value in values.items():
        tracking = hd.sr.TrackingIdentifier(
            uid=result_set.uid(f"{key} {uid} {organ}"),
            identifier=result_set.text(organ, LO_LENGTH) or "unnamed",
        )
        more, missing = measurements_of({key: value}, tracking=tracking, about=organ)
        measurements += more
        unmeasured += missing
    return measurements, unmeasured


def surroundings(
    result_set: ResultSet, uid: str, target: TargetResult, *, is_final: bool
) -> tuple[list[Any], list[str]]:
    """Return how a target lies to organs, and what of it is vessel, duct or bowel.

    Args:
        result_set: Gives the UIDs.
        uid: Tracking UID of the target.
        target: Before and after.
        is_final: Of the refined target, or of one that stays; else of a target as it was drawn.
    """
    near = target.neighbours
    if is_final:
        distances = {**target.organ_distances_mm, **{each.name: each.distance_mm for each in near}}
        overlaps = {each.name: each.overlap_cm3 for each in near}
        contents = [(each, each.final_cm3) for each in target.contents]
    else:
        distances = {each.name: each.drawn_distance_mm for each in near}
        overlaps = {each.name: each.drawn_overlap_cm3 for each in near}
        contents = [(each, each.drawn_cm3) for each in target.contents]
    parts = [
        organ_measurements(result_set, uid, "organ_distance_mm", distances),
        organ_measurements(result_set, uid, "organ_overlap_cm3", overlaps),
    ]
    for content, volume_cm3 in contents:
        structures = result_set.text(", ".join(content.structures), LO_LENGTH)
        modifiers = [_coded(content.cause)]
        if structures:
            modifiers.append(_text(CONTENT_STRUCTURES, structures))
        figures = {"content_cm3": volume_cm3}
        parts.append(measurements_of(figures, about=str(content.cause), modifiers=modifiers))
    return [each for made, _ in parts for each in made], [t for _, texts in parts for t in texts]


def _changes(result_set: ResultSet, target: TargetResult) -> list[tuple[list[Any], list[str]]]:
    parts = []
    for change in target.refinement.changes:
        figures = {
            "cause_removed_cm3": change.removed_cm3,
            "cause_added_cm3": change.added_cm3,
        }
        modifiers = [_coded(change.cause)]
        structure = result_set.text(change.structure, LO_LENGTH)
        if structure:
            modifiers.append(_text(MOVE_STRUCTURE, structure))
        parts.append(
            measurements_of(
                {key: value for key, value in figures.items() if value != 0.0},
                about=f"{change.cause} {structure}".strip(),
                modifiers=modifiers,
            )
        )
    return parts


def _surface(target: TargetResult) -> list[tuple[list[Any], list[str]]]:
    figures = surface_figures(target.refinement.moves)
    if figures is None:
        return []
    whole = measurements_of(
        {
            "surface_inward_mm": figures.largest_inward_mm,
            "surface_outward_mm": figures.largest_outward_mm,
            "surface_mean_absolute_mm": figures.mean_absolute_mm,
            "surface_inward_share": figures.inward_share,
            "surface_outward_share": figures.outward_share,
        }
    )
    by_cause = [
        measurements_of(
            {"cause_surface_share": each.share, "cause_surface_mean_mm": each.mean_mm},
            about=str(each.cause),
            modifiers=[_coded(each.cause)],
        )
        for each in figures.causes
    ]
    return [whole, *by_cause]


def _found(result_set: ResultSet, target: TargetResult) -> list[tuple[list[Any], list[str]]]:
    return [
        measurements_of(
            {"found_cm3": mask.volume_cm3},
            about=name,
            modifiers=[_text(FOUND_STRUCTURE, result_set.text(name, LO_LENGTH) or "unnamed")],
        )
        for name, mask in target.refinement.found.items()
    ]


def _coded(cause: MoveCause) -> Any:
    return hd.sr.CodeContentItem(
        name=MOVE_CAUSE,
        value=CAUSES[cause],
        relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )


def _text(name: Code, value: str) -> Any:
    return hd.sr.TextContentItem(
        name=name,
        value=value,
        relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
