"""What a report says and draws: its numbers are the result's, its contours lie where they are."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from handlers.dose_results import DoseMeasures, LimitStatus, LimitVerdict
from handlers.pages.content import Document, Figure
from handlers.pages.document import document_of
from handlers.pages.drawing import Area, Clip, Raster, Stroke, Words
from handlers.pages.dvh_figure import MOST_ORGANS, PLOT, curves_of, dvh_figure, limit_point
from handlers.pages.target_figure import SIDE_MM, target_figure
from handlers.pictures.colors import DRAWN, REFINED
from handlers.results import RegistrationStatus
from tests.picture_cases import case_of, grid_of
from tests.report_cases import (
    ABOUT,
    ORGANS,
    courses_of,
    dose_of,
    dvh_of,
    limit,
    plan_of,
    refined_case,
)
from tests.report_reading import said, table_called, tables_of


@pytest.fixture(scope="module")
def ordinary() -> Document:
    """A refined target with fourteen organs, one plan and its limits."""
    return document_of(replace(refined_case(), dose=dose_of(ORGANS)), ABOUT)


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_of_a_target_are_those_of_the_result(ordinary: Document) -> None:
    volumes = tables_of(ordinary)[1].rows
    assert ("Volume, sum of slices", "7.31", "4.21", "−3.10 (−42 %)") in volumes
    assert ("Volume, closed surface", "7.29", "4.17", "−3.12 (−43 %)") in volumes
    assert ("Vessel inside (V_Portal)", "0.81", "0.02", "−0.79 (−98 %)") in volumes
    surfaces = dict(table_called(ordinary, "Surfaces, refined to drawn").rows)
    assert surfaces["HD95, larger direction"] == "2.4 mm"
    assert surfaces["Surface DSC at 2 mm"] == "0.679"
    assert surfaces["Some new share"] == "3.2 mm"
    overlap = dict(table_called(ordinary, "Overlap").rows)
    assert overlap["Dice coefficient (DSC)"] == "0.734"
    causes = table_called(ordinary, "GTVn1: volumes by cause").rows
    assert causes[1] == ("Vessel (V_Portal)", "0.75", "0.00", "–", "–")
    organs = table_called(ordinary, "GTVn1_CT1 to organs").rows
    assert organs[0] == ("Duodenum", "4.2", "0.03")
    assert len(organs) == len(ORGANS)


def test_limits_tell_what_is_exceeded_first_and_why_others_are_open(ordinary: Document) -> None:
    table = table_called(ordinary, "Organ limits")
    assert table.caption == "Organ limits: AAPM TG-101, 5 fractions (verified)"
    assert table.rows == (
        ("Duodenum", "Dmax ≤ 32 Gy", "34.00 Gy", "EXCEEDED by 2.00 Gy"),
        ("Liver", "CV21Gy ≥ 700 cm³", "612.50 cm³", "MISSED by 87.50 cm³"),
        ("Duodenum", "D5cc ≤ 18 Gy", "12.34 Gy", "met"),
    )
    assert set(table.tones) == {0, 1}
    words = " ".join(said(ordinary))
    assert "Stomach D10cc ≤ 18 Gy: The dose covers only 4.00 cm3 of the ROI." in words
    assert "No ROI is named like the organ of these limits: Colon." in words
    assert "No limit for A_Aorta: no table in use has a limit for this organ." in words


def test_several_sources_are_told_below_the_limits(ordinary: Document) -> None:
    plan = plan_of(ORGANS)
    other = replace(limit("Stomach", "D5cc", 20.0), source="QUANTEC", certainty="secondary copy")
    further = LimitVerdict(other, "Stomach", LimitStatus.MET, 3.0, is_bound=True)
    plan = replace(plan, limits=(*plan.limits, further))
    dose = DoseMeasures((plan,), None, dose_of(()).end_cap)
    document = document_of(replace(refined_case(organs=()), dose=dose), ABOUT)
    rows = table_called(document, "Organ limits").rows
    assert rows[0][1] == "Dmax ≤ 32 Gy [1]"
    assert rows[-1] == ("Stomach", "D5cc ≤ 20 Gy [2]", "≥ 3.00 Gy", "met")
    words = " ".join(said(document))
    assert "[1] AAPM TG-101, 5 fractions (verified). [2] QUANTEC, 5 fractions (secondary" in words


def test_courses_tell_ranges_limits_and_what_is_left() -> None:
    dose = DoseMeasures((plan_of(ORGANS[:3]),), courses_of(ORGANS[:3]), dose_of(()).end_cap)
    document = document_of(replace(refined_case(organs=ORGANS[:3]), dose=dose), ABOUT)
    rows = table_called(document, "EQD2 of all courses").rows
    first, second, third = rows
    assert first[0] == "Duodenum"
    assert "70.50 (63.45 to 77.55)" in first
    assert first[-1] == "22.25 (17.75 in 5) EXCEEDED by 0.50"
    assert second[-1] == "22.25 (17.75 in 5)"
    assert third[-2:] == ("–", "–")
    assert ("Liver 2019", "prior", "28", "protocol", "1203") in table_called(
        document, "Courses"
    ).rows


# --- drawings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "letters"), [("HFS", "RLAP"), ("HFP", "LRPA"), ("FFS", "LRAP")]
)
def test_contours_lie_where_the_target_is(position: str, letters: str) -> None:
    """A ball of 12 mm around the origin, refined to 10 mm: solid and dashed circles, on paper."""
    result = refined_case(organs=(), position=position)
    figures = target_figure(result, result.targets[0])
    assert figures is not None
    axial = figures[0].drawing.parts[0]
    assert isinstance(axial, Clip)
    centre = np.array([axial.box.left, axial.box.top]) + SIDE_MM / 2
    words = [part.text for part in axial.parts if isinstance(part, Words)]
    assert words[:4] == list(letters)
    assert words[4].startswith("ax z ")
    at_mm = float(words[4].removeprefix("ax z ").replace("\N{MINUS SIGN}", "-"))
    view_mm = 24.0 + 2 * 35.0  # the target, and what is shown around it at least
    strokes = [part for part in axial.parts if isinstance(part, Stroke)]
    for color, radius_mm, is_dashed in ((DRAWN, 12.0, False), (REFINED, 10.0, True)):
        (line,) = [stroke for stroke in strokes if stroke.color == color]
        assert bool(line.dash_mm) is is_dashed
        assert line.is_closed
        radii = np.linalg.norm(line.points - centre, axis=1) * view_mm / SIDE_MM
        # voxels of 1 and 1.25 mm
        assert float(radii.mean()) == pytest.approx(np.sqrt(radius_mm**2 - at_mm**2), abs=0.5)
        assert float(np.ptp(radii)) < 2.0


def test_checkerboard_shows_ct_and_mr_by_turns() -> None:
    """A CT of air and an MR that is bright to the left: fields of 20 mm, none where no MR is."""
    result = case_of(grid_of(), status=RegistrationStatus.PASS)
    document = document_of(result, ABOUT)
    section = next(s for s in document.sections if s.title.startswith("Registration"))
    (figure,) = [b for b in section.blocks if isinstance(b, Figure)]
    board = figure.drawing.parts[0]
    assert isinstance(board, Clip)
    (picture,) = [part for part in board.parts if isinstance(part, Raster)]
    pixels = np.asarray(Image.open(io.BytesIO(picture.jpeg)))
    # the grid is 90 mm across: its view is that wide, and its middle lies on a corner of fields
    middle, field = pixels.shape[0] // 2, round(20.0 / 90.0 * pixels.shape[0])
    places = [middle - field // 2, middle + field // 2]
    corner = np.array([[pixels[y, x] for x in places] for y in places], dtype=float)
    is_ct = corner < 20  # air is black, an MR is not
    assert is_ct.tolist() == [[True, False], [False, True]]


def test_curves_and_limits_lie_where_their_numbers_say() -> None:
    """Half of a structure gets 10 Gy, half 20 Gy; its D50% limit of 15 Gy is exceeded."""
    plan = plan_of(())
    organ = replace(plan.structures[0], name="Cord", target="", version=None)
    organ = replace(organ, dvh=dvh_of([10.0, 20.0], 8.0))
    exceeded = LimitVerdict(limit("Cord", "D50%", 15.0), "Cord", LimitStatus.EXCEEDED, 20.0)
    met = LimitVerdict(limit("Cord", "V18Gy", 4.0, "cm3"), "Cord", LimitStatus.MET, 4.0)
    plan = replace(plan, structures=(organ,), limits=(exceeded, met), prescribed=None)
    figure = dvh_figure(plan, curves_of(plan, ()), "a plan", has_legend=True)
    lines = next(part for part in figure.drawing.parts if isinstance(part, Clip)).parts
    (curve,) = lines
    assert isinstance(curve, Stroke)
    # the axis ends at 21 Gy, with steps of 5 Gy rounded up to 25 Gy
    per_gy = PLOT.width / 25.0
    x, y = (curve.points - (PLOT.left, PLOT.top)).T
    half = np.isclose(y, PLOT.height / 2)
    assert float(x[half].min()) == pytest.approx(10.0 * per_gy, abs=0.3)
    assert float(x[half].max()) == pytest.approx(20.0 * per_gy, abs=0.3)
    assert y[x < 9.9 * per_gy] == pytest.approx(0.0)
    triangles = [
        part for part in figure.drawing.parts if isinstance(part, Area) and len(part.points) == 3
    ]
    for area, (dose, fraction), is_filled in zip(
        triangles, ((15.0, 0.5), (18.0, 0.5)), (True, False), strict=True
    ):
        assert area.points[0] == pytest.approx(
            (PLOT.left + dose * per_gy, PLOT.top + (1 - fraction) * PLOT.height)
        )
        assert (area.fill == area.edge) is is_filled


def test_limits_that_are_no_point_of_a_curve_get_no_mark() -> None:
    """V20Gy in % and cm3, the spared volume and the mean, by hand for an organ of 50 cm3."""
    for metric, bound, unit, expected in (
        ("Dmax", 30.0, "Gy", (30.0, 0.07)),
        ("Dpoint", 30.0, "Gy", (30.0, 0.0)),
        ("V20Gy", 35.0, "%", (20.0, 35.0)),
        ("V20Gy", 10.0, "cm3", (20.0, 20.0)),
        ("CV21Gy", 40.0, "cm3", (21.0, 20.0)),
        ("D5cc", 18.0, "Gy", (18.0, 10.0)),
        ("Mean", 10.0, "Gy", None),
    ):
        verdict = LimitVerdict(limit("Liver", metric, bound, unit), "", LimitStatus.MET, 1.0)
        point = limit_point(verdict, 50.0)
        assert point == (None if expected is None else pytest.approx(expected))


def test_organs_above_a_limit_are_drawn_whatever_else_there_is() -> None:
    names = [f"Organ {at:02d}" for at in range(40)]
    plan = plan_of(names)
    coldest = LimitVerdict(limit("x", "Mean", 0.1), names[-1], LimitStatus.EXCEEDED, 2.0)
    curves = curves_of(replace(plan, limits=(coldest,)), {names[0]})
    organs = [c.structure.name for c in curves if c.structure.version is None]
    assert len(organs) == MOST_ORGANS
    assert names[-1] in organs
    assert names[0] not in organs  # the outside of the patient is no organ
    keys = [curve.key for curve in curves]
    assert len(keys) == len(set(keys))
    looks = {(c.color, c.dash_mm, c.width_mm) for c in curves}
    assert len(looks) == len(curves)
