"""The metrics document: keys that scripts of others depend on, and plain values only."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handlers.report import metrics_document
from handlers.results import Content, MoveCause, Neighbour, SurfaceMoves
from handlers.surface_figures import surface_figures
from tests.encode_cases import MR_SERIES, EncodeCase, build_case
from tests.test_encode_deformable import with_field
from tests.test_encode_review import with_evidence


def registrations_of(case: EncodeCase) -> list[dict[str, Any]]:
    """Return `registrations[]` as a script reads it from the file."""
    return list_of("registrations", case)


def list_of(key: str, case: EncodeCase) -> list[dict[str, Any]]:
    """Return one list of the document as a script reads it from the file."""
    document = json.loads(json.dumps(metrics_document(case.result, {"case_id": "1"})))
    found: list[dict[str, Any]] = document[key]
    return found


def test_rigid_registration_says_that_no_deformation_is_used() -> None:
    """Issue 3: rigid stands, and said so."""
    for each in registrations_of(build_case()):
        assert each["deformation"] == {"accepted": False}
        assert each["series_shifts_mm"] == {}


def test_deformation_is_told_with_size_jacobian_and_region() -> None:
    """Issue 3: whether accepted, how large, whether it folds, where it lies."""
    case = with_field(build_case())
    first, second = registrations_of(case)
    field = case.result.registrations[0].deformation
    assert field is not None
    told = first["deformation"]
    assert told["accepted"] is True
    assert 5.0 < told["largest_displacement_mm"] < 6.5
    assert told["jacobian_min"] < 1 < told["jacobian_max"]
    corners = field.geometry.corners_mm()
    assert told["region_mm"]["low"] == pytest.approx(list(corners.min(axis=0)))
    assert told["region_mm"]["high"] == pytest.approx(list(corners.max(axis=0)))
    assert second["deformation"] == {"accepted": False}


def test_shifts_and_notes_are_told() -> None:
    """Issue 3: a series of another breath-hold, and why a series led."""
    case = build_case()
    first, second = case.result.registrations
    shifted = replace(first, series_shifts_mm={MR_SERIES: (0.0, 1.5, -4.0)}, notes=("T1 leads.",))
    told = registrations_of(case.with_result(registrations=(shifted, second)))[0]
    assert told["series_shifts_mm"] == {MR_SERIES: [0.0, 1.5, -4.0]}
    assert told["notes"] == ["T1 leads."]


def test_evidence_of_a_refinement_is_told() -> None:
    """Issue 5, 2 and 3: volumes and surface by cause, confidence, what was found and derived."""
    told, other = list_of("targets", with_evidence(build_case()))
    assert told["confidence"] == 0.8125
    assert [tuple(change.values()) for change in told["changes"]] == [
        ("vessel", "Größe_Darm", 1.25, 0.0),
        ("target signal", "", 0.0, 0.5),
        ("fat", "", 0.0625, 0.125),
    ]
    assert list(told["changes"][0]) == ["cause", "structure", "removed_cm3", "added_cm3"]
    # by hand from -3, -1, -0.5, 0.25, 0, 0, 0.75 and 1.5 mm: half a millimetre itself is no move
    assert told["surface"] == {
        "moved_beyond_mm": 0.5,
        "inward_share": 0.25,
        "outward_share": 0.25,
        "largest_inward_mm": 3.0,
        "largest_outward_mm": 1.5,
        "mean_absolute_mm": 0.875,
        "causes": [
            {"cause": "vessel", "share": 0.25, "mean_mm": -2.0},
            {"cause": "target signal", "share": 0.25, "mean_mm": 1.125},
            {"cause": "fat", "share": 0.125, "mean_mm": -0.5},
        ],
    }
    volume_cm3 = pytest.approx(20 * 2.5 * 1.25 * 1.5 / 1000)
    assert told["found"] == [{"name": "zVessel_MR", "volume_cm3": volume_cm3}]
    assert told["derived"] == [
        {
            "name": "PTVn1",
            "type": "PTV",
            "volume_cm3": volume_cm3,
            "description": "GTVn1_CT1MR1 with 5 mm.",
            "metrics": {},
            "organs": [],
        }
    ]
    assert other["status"] == "abstained"
    assert (other["confidence"], other["surface"]) == (None, None)
    assert other["changes"] == other["found"] == other["derived"] == []


def test_volumes_neighbours_and_contents_are_told() -> None:
    """Issue 7, 1: volumes by method, every organ before and after, what of the target is vessel."""
    case = build_case()
    first, *others = case.result.targets
    portal = Neighbour("V_Portal", 0.5, 0.0, 0.75, 0.0)
    measured = replace(
        first,
        volumes_cm3={"voxels": 4.0, "slices": 4.25, "mesh": 4.125},
        neighbours=(portal,),
        contents=(Content(MoveCause.VESSEL, ("V_Portal",), 0.75, 0.5),),
    )
    told = list_of("targets", case.with_result(targets=(measured, *others)))[0]
    assert told["volumes_cm3"] == {"voxels": 4.0, "slices": 4.25, "mesh": 4.125}
    assert told["organs"] == [
        {
            "name": "V_Portal",
            "overlap_cm3": 0.5,
            "distance_mm": 0.0,
            "drawn_overlap_cm3": 0.75,
            "drawn_distance_mm": 0.0,
        }
    ]
    assert told["contents"] == [
        {"cause": "vessel", "structures": ["V_Portal"], "drawn_cm3": 0.75, "final_cm3": 0.5}
    ]


def test_surface_figures_of_one_side_have_no_way_to_the_other() -> None:
    """A surface that only went inward has no largest way outward, not a negative one."""
    inward = SurfaceMoves(np.zeros((2, 3)), np.array([-2.0, -1.0]), (None, None))
    figures = surface_figures(inward)
    assert figures is not None
    assert (figures.largest_inward_mm, figures.largest_outward_mm) == (2.0, 0.0)
    assert (figures.inward_share, figures.outward_share, figures.causes) == (1.0, 0.0, ())
    nothing = SurfaceMoves(np.zeros((0, 3)), np.zeros(0), ())
    assert surface_figures(nothing) is None
    assert surface_figures(None) is None
