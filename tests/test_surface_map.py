"""The signed distance map of a surface: the file for viewers, and the figure of the report."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from handlers.contour_metrics import compared
from handlers.pages.document import document_of
from handlers.pages.html import html_of
from handlers.pages.surface_figure import NARROW, surface_figure
from handlers.pages.surface_views import PIXELS, SIDES, seen_from
from handlers.results import CaseResult, SurfaceMap
from handlers.surface_file import SCALARS, surface_text
from tests.drawn_shapes import ball
from tests.grids import FACINGS, grid
from tests.report_cases import ABOUT, ORGANS, refined_case

RADIUS_MM, SHIFT_MM = 15.0, 1.5
CENTER = np.array((30.4, 29.3, 29.6))


def moved_ball(axes: npt.ArrayLike) -> tuple[SurfaceMap, npt.NDArray[np.float64]]:
    """Return the map from a ball to the same ball moved to the left, and its centre in LPS mm."""
    geometry = grid((2.0, 1.0, 1.0), (32, 64, 64), axes)
    along = geometry.axes.T @ np.array((SHIFT_MM, 0.0, 0.0))
    first = ball(geometry, CENTER, RADIUS_MM)
    second = ball(geometry, CENTER + along, RADIUS_MM)
    return compared(first, second).surface_map, geometry.points_from_indices(
        CENTER / geometry.spacing_mm
    )[0]


def read_surface(
    text: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return corners, triangles and their numbers, as the VTK formats describe the file."""
    lines = text.splitlines()
    assert lines[0].startswith("# vtk DataFile Version")
    assert len(lines[1]) <= 256
    assert lines[2:4] == ["ASCII", "DATASET POLYDATA"]
    keyword, count, _ = lines[4].split()
    assert keyword == "POINTS"
    at = 5 + int(count)
    corners = np.array([line.split() for line in lines[5:at]], dtype=float)
    keyword, faces, size = lines[at].split()
    assert (keyword, int(size)) == ("POLYGONS", 4 * int(faces))
    cells = np.array([line.split() for line in lines[at + 1 : at + 1 + int(faces)]], dtype=int)
    assert np.all(cells[:, 0] == 3)
    at += 1 + int(faces)
    assert lines[at : at + 3] == [
        f"CELL_DATA {faces}",
        f"SCALARS {SCALARS} float 1",
        "LOOKUP_TABLE default",
    ]
    values = np.array(lines[at + 3 :], dtype=float)
    assert len(values) == int(faces)
    return corners, cells[:, 1:], values


@pytest.mark.parametrize("facing", ["head first supine", "oblique"])
def test_file_tells_the_distance_of_shifted_balls_where_they_are(facing: str) -> None:
    """Signed distance = shift x cosine of the angle to it, within 0.1 mm, at every triangle."""
    surface, center = moved_ball(FACINGS[facing])
    corners, faces, distance_mm = read_surface(surface_text(surface))
    from_center = corners[faces].mean(axis=1) - center
    away = np.linalg.norm(from_center, axis=1)
    assert away == pytest.approx(RADIUS_MM, abs=0.15)
    cosine = from_center[:, 0] / away
    assert np.abs(distance_mm - SHIFT_MM * cosine).max() < 0.1
    # all of the ball is there, once
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) == {2}
    sides = np.diff(corners[faces], axis=1)
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2.0
    assert areas.sum() == pytest.approx(4.0 * np.pi * RADIUS_MM**2, rel=0.01)


def test_views_show_each_side_of_the_patient_the_right_way_round() -> None:
    """What moved to the patient's left lies outside on the views where L stands."""
    surface, center = moved_ball(FACINGS["oblique"])
    rows, columns = np.indices((PIXELS, PIXELS)) / PIXELS - 0.5
    for side in SIDES:
        seen, distance_mm = seen_from(side, surface, center, 40.0)
        assert seen.mean() == pytest.approx(np.pi * (RADIUS_MM / 40.0) ** 2, rel=0.08), side.title
        mean_mm = {
            letter: float(distance_mm[seen & part].mean())
            for letter, part in zip(
                side.letters,
                (columns < -0.2, columns > 0.2, rows < -0.2, rows > 0.2),
                strict=True,
            )
        }
        middle_mm = float(distance_mm[seen & (np.hypot(rows, columns) < 0.1)].mean())
        expected = {"L": 1.0, "R": -1.0}
        for letter, found_mm in mean_mm.items():
            assert found_mm == pytest.approx(expected.get(letter, found_mm), abs=0.4), side.title
        toward = {"left": SHIFT_MM, "right": -SHIFT_MM}.get(side.title, 0.0)
        assert middle_mm == pytest.approx(toward, abs=0.15), side.title


def measured_case(organs: int) -> CaseResult:
    """Return a refined case with a surface map and so many organs."""
    result = refined_case(organs=ORGANS[:organs])
    (target,) = result.targets
    surface, _ = moved_ball(FACINGS["head first supine"])
    return replace(result, targets=(replace(target, surface_map=surface),))


@pytest.mark.parametrize("organs", [3, 14])
def test_report_shows_the_surface_once_wherever_it_has_room(organs: int) -> None:
    """Below few organs on the first page, else among the numbers; with its range in words."""
    page = html_of(document_of(measured_case(organs), ABOUT))
    words = "Signed distance from the drawn to the refined surface of GTVn1, \u22121.5 to +1.5 mm"
    assert page.count(words) == 1
    is_beside = page.index(words) < page.index("GTVn1: volumes")
    assert is_beside == (organs == 3)


def test_surface_that_stays_makes_no_figure() -> None:
    """Without a map, or where all of it lies within half a millimetre."""
    (target,) = measured_case(3).targets
    assert target.surface_map is not None
    still = replace(target.surface_map, distance_mm=np.full(len(target.surface_map.faces), 0.2))
    assert surface_figure(target, NARROW) is not None
    assert surface_figure(replace(target, surface_map=still), NARROW) is None
    assert surface_figure(replace(target, surface_map=None), NARROW) is None
