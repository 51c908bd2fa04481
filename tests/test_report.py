"""The metrics document: keys that scripts of others depend on, and plain values only."""

import json
from dataclasses import replace
from typing import Any

import pytest

from handlers.report import metrics_document
from tests.encode_cases import MR_SERIES, EncodeCase, build_case
from tests.test_encode_deformable import with_field


def registrations_of(case: EncodeCase) -> list[dict[str, Any]]:
    """Return `registrations[]` as a script reads it from the file."""
    document = json.loads(json.dumps(metrics_document(case.result, {"case_id": "1"})))
    found: list[dict[str, Any]] = document["registrations"]
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
