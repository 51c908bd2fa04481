"""The pictures of an overview: what is seen where, in which words, and the same every time.

Truth is placed by hand in patient coordinates; the pictures are looked at as pixels.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from handlers.geometry import Geometry
from handlers.pictures import Overview, target_overview
from handlers.pictures.canvas import Canvas, drawable
from handlers.pictures.choice import PANEL_PIXELS
from handlers.pictures.colors import CAUTION, DRAWN, ORGAN, REFINED
from handlers.pictures.overview import HEADER_PIXELS, LARGE
from handlers.results import CaseResult, RegistrationStatus
from handlers.sampling import contours_from_mask
from handlers.values import Mask, Roi
from tests.encode_cases import ball
from tests.picture_cases import (
    AIR_HU,
    BRIGHT_HU,
    POSITIONS,
    SHAPE,
    case_of,
    grid_of,
    mr_of,
    near,
    panel,
    registration_of,
    with_further_mr,
)

HOSTILE = "GTV\x00\n\u202e\U0001f480\u200b<b>'; DROP\\%n" + "Ж大é" * 400


def shown(result: CaseResult, index: int = 0) -> Overview:
    """Return the overview of a target that has one."""
    overview = target_overview(result, index)
    assert overview is not None
    return overview


def words_of(overview: Overview) -> set[str]:
    """Return every line on the pictures."""
    return {line for frame in overview.frames for line in frame.words}


def smaller(grid: Geometry) -> Mask:
    """Return a refined target: the ball of 12 mm less what lies to the patient's left."""
    points = grid.points_from_indices(np.indices(grid.shape).reshape(3, -1).T)
    return Mask(grid, ball(grid, (0, 0, 0), 12.0).inside & (points[:, 0] < 5).reshape(grid.shape))


# --- where the patient's left is -----------------------------------------------------------------


def letter_at(pixels: np.ndarray, side: int, letters: str) -> bool:
    """Tell whether letters are written at a side (left, right, top, bottom) of a black picture."""
    canvas = Canvas(*pixels.shape[:2])
    middle_y, middle_x = HEADER_PIXELS + PANEL_PIXELS / 2, PANEL_PIXELS / 2
    x, y, anchor = (
        (5, middle_y, "lm"),
        (PANEL_PIXELS - 6, middle_y, "rm"),
        (middle_x, HEADER_PIXELS + 5, "ma"),
        (middle_x, HEADER_PIXELS + PANEL_PIXELS - 6, "md"),
    )[side]
    canvas.text(letters, x, y, color=CAUTION, size=LARGE, anchor=anchor)
    expected = canvas.finished()
    inked = expected.any(axis=-1)
    return bool(inked.any() and np.array_equal(pixels[inked], expected[inked]))


MARKERS = {15.0: ("L", (1, 0, 0)), 19.0: ("A", (0, -1, 0)), 23.0: ("H", (0, 0, 1))}
"""Bright balls in the air around the origin, by distance in mm: where they lie in the patient."""


@pytest.mark.parametrize("position", POSITIONS)
def test_markers_in_the_patient_when_he_lies_so_are_at_their_letters(position: str) -> None:
    """Issue 6: left, front and head are the patient's, in every position and on every plane."""
    grid = grid_of(position)
    marked = [ball(grid, far * np.array(to), 3.5).inside for far, (_, to) in MARKERS.items()]
    voxels = np.where(np.any(marked, axis=0), BRIGHT_HU, AIR_HU).astype(np.float32)
    drawn = ball(grid, (0, 0, 0), 6.0)
    overview = shown(case_of(grid, voxels=voxels, drawn=drawn, status=None))
    seen = set()
    for frame in overview.frames:
        bright = panel(frame.pixels, 1).min(axis=-1) > 200
        bright[:40], bright[-40:], bright[:, :25], bright[:, -25:] = False, False, False, False
        labels, count = ndimage.label(bright)
        for number in range(1, count + 1):
            row, column = ndimage.center_of_mass(labels == number)
            x, y = np.array([column, row]) - (PANEL_PIXELS - 1) / 2
            far = min(MARKERS, key=lambda mm: abs(mm - np.hypot(x, y) * overview.pixel_mm))
            assert np.hypot(x, y) * overview.pixel_mm == pytest.approx(far, abs=1.0)
            side = (0 if x < 0 else 1) if abs(x) > abs(y) else (2 if y < 0 else 3)
            letter = MARKERS[far][0]
            assert letter_at(frame.pixels, side, letter), (frame.label, letter)
            seen.add((frame.label.split()[0], letter))
        if not frame.label.startswith("AX"):
            assert letter_at(frame.pixels, 2, "H"), "the head is at the top"
    assert seen == {
        *(("AX", letter) for letter in "LA"),
        *(("SAG", letter) for letter in "AH"),
        *(("COR", letter) for letter in "LH"),
    }


def test_letters_name_two_directions_when_the_slices_are_tilted() -> None:
    """PS3.3 C.7.6.1.1.1: an oblique direction has the letters of both axes, the nearer first."""
    grid = grid_of()
    angle = np.deg2rad(25.0)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = Geometry(grid.frame_of_reference_uid, tilt @ grid.patient_from_index, SHAPE)
    frame = shown(case_of(tilted, status=None)).frames[0]
    assert letter_at(frame.pixels, 1, "L")
    assert letter_at(frame.pixels, 2, "AF")
    assert any(line.startswith("tilted axial, z = ") for line in frame.words)


# --- shape and place ------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_ball_is_round_and_of_its_size_when_voxels_are_not_cubes(position: str) -> None:
    """Issue 6: true aspect ratio on all planes (voxels of 3 x 1.25 x 1 mm)."""
    grid = grid_of(position)
    overview = shown(case_of(grid, status=None))
    for start in ("AX", "SAG", "COR"):
        frames = [f for f in overview.frames if f.label.startswith(start)]
        middle = next(f for f in frames if any("center" in line for line in f.words))
        rows, columns = np.nonzero(near(panel(middle.pixels, 0), DRAWN))
        for extent in (np.ptp(rows), np.ptp(columns)):
            assert extent * overview.pixel_mm == pytest.approx(24.0, abs=2.0)


def test_contour_lies_on_the_edge_of_what_it_outlines_when_drawn_on_the_ct() -> None:
    """The contour and the CT beneath are not half a pixel apart: the ball's edge is under it."""
    grid = grid_of()
    drawn = ball(grid, (0, 0, 0), 12.0)
    # black outside, white inside: half-way between their voxels is half grey
    voxels = np.where(drawn.inside, 240.0, -160.0).astype(np.float32)
    overview = shown(case_of(grid, voxels=voxels, drawn=drawn, status=None))
    frame = next(f for f in overview.frames if any("axial" in w and "center" in w for w in f.words))
    bare = shown(case_of(grid, voxels=voxels, drawn=ball(grid, (0, 0, 0), 3.0), status=None))
    plain = next(f for f in bare.frames if any("axial" in w and "center" in w for w in f.words))
    # both views are centred at the origin, in scales of their own
    middle = (PANEL_PIXELS - 1) / 2
    bright = panel(plain.pixels, 1).min(axis=-1) > 127
    row = round(middle + 6.0 / bare.pixel_mm)
    edges_mm = (np.flatnonzero(bright[row])[[0, -1]] - middle) * bare.pixel_mm
    row = round(middle + 6.0 / overview.pixel_mm)
    line = np.flatnonzero(near(panel(frame.pixels, 0), DRAWN, 110)[row])
    sides = [line[line < middle].mean(), line[line > middle].mean()]
    lines_mm = (np.array(sides) - middle) * overview.pixel_mm
    assert lines_mm == pytest.approx(edges_mm, abs=0.5 * grid.spacing_mm[2])
    assert np.mean(lines_mm) == pytest.approx(np.mean(edges_mm), abs=0.15)


def test_planes_when_a_target_was_refined_show_the_largest_change_and_both_ends() -> None:
    """Drawn and refined differ visibly: the plane where they differ most is among them."""
    grid = grid_of()
    overview = shown(case_of(grid, refined=smaller(grid)))
    lines = words_of(overview)
    for why in ("largest change", "center", "F end", "H end", "R end", "L end", "A end", "P end"):
        assert any(why in line for line in lines), why
    assert [f.label.split()[0] for f in overview.frames] == sorted(
        (f.label.split()[0] for f in overview.frames), key=["AX", "SAG", "COR"].index
    )
    # the change is on the left, x > 5 mm: a sagittal plane shows nothing refined there
    (change,) = (
        f for f in overview.frames if f.label.startswith("SAG") and "change" in str(f.words)
    )
    assert float(change.label.split()[-1]) >= 5.0
    assert near(panel(change.pixels, 0), DRAWN).any()
    assert not near(panel(change.pixels, 0), REFINED).any()


def test_refined_contour_is_dashed_and_drawn_solid_when_both_are_shown() -> None:
    """Told apart without color, too: a solid ring is one piece, a dashed one many."""
    grid = grid_of()
    result = case_of(grid, refined=ball(grid, (0, 0, 0), 7.0), status=None)
    middle = next(f for f in shown(result).frames if "center" in str(f.words))
    part = panel(middle.pixels, 0)
    everywhere = np.ones((3, 3))
    _, solid = ndimage.label(near(part, DRAWN, 110), everywhere)
    _, dashes = ndimage.label(near(part, REFINED, 110), everywhere)
    assert solid == 1
    assert dashes >= 8


def test_organs_are_thin_lines_when_there_are_others_and_the_body_is_none() -> None:
    """Organs are shown on all planes; the outline of the body, and other targets, are not."""
    grid = grid_of()
    at = ball(grid, (0, 0, 0), 20.0)
    organ = Roi(2, "Liver", "ORGAN", contours_from_mask(at))
    for kind, is_shown in (("ORGAN", True), ("", True), ("EXTERNAL", False), ("PTV", False)):
        result = case_of(grid, organs=(replace(organ, interpreted_type=kind),), status=None)
        overview = shown(result)
        for frame in (f for f in overview.frames if "center" in str(f.words)):
            part = panel(frame.pixels, 0)
            part[:25] = part[-25:] = 0
            assert near(part, ORGAN, 75).any() == is_shown, (kind, frame.label)
        assert ("organs" in words_of(overview)) == is_shown


# --- MR, or none ----------------------------------------------------------------------------------


def is_colored(pixels: np.ndarray) -> bool:
    """Tell whether the middle of the fused picture, off the contours, has color."""
    part = panel(pixels, 0)[60:-60, 60:-60]
    part = part[~near(part, DRAWN, 200)]
    return bool((np.ptp(part, axis=-1) > 30).mean() > 0.2)


def test_mr_is_fused_in_color_when_its_registration_passed() -> None:
    """CT grey under MR color; the other half stays grey."""
    overview = shown(case_of(grid_of()))
    assert overview.fused is not None
    assert all(is_colored(frame.pixels) for frame in overview.frames)
    for frame in overview.frames:
        assert {"CT + MR 1 (T1)", "registration: pass, 1.3 mm (95 %)"} <= set(frame.words)
        assert "Hilum proposal, not approved" in frame.words


def test_picture_says_check_when_the_registration_warns() -> None:
    """The verdict goes with the picture."""
    overview = shown(case_of(grid_of(), status=RegistrationStatus.WARN))
    assert "registration: warn, 1.3 mm (95 %), CHECK" in words_of(overview)
    assert all(is_colored(frame.pixels) for frame in overview.frames)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (RegistrationStatus.FAIL, "registration: FAIL, so no MR is fused"),
        (None, "no MR: CT alone"),
    ],
)
def test_nothing_is_fused_when_there_is_no_registered_mr(
    status: RegistrationStatus | None, words: str
) -> None:
    """Issue 6: where the registration failed no MR is shown, and the picture says so."""
    overview = shown(case_of(grid_of(), status=status))
    assert overview.fused is None
    assert {words, "CT alone, no MR fused"} <= words_of(overview)
    assert not any(is_colored(frame.pixels) for frame in overview.frames)


def test_plane_without_mr_says_so_when_the_mr_covers_only_a_part() -> None:
    """Where there is no MR the CT stands alone, and the frame says so."""
    overview = shown(case_of(grid_of(), covers=lambda g: np.indices(g.shape)[0] >= g.shape[0] // 2))
    axial = [f for f in overview.frames if f.label.startswith("AX")]
    assert not is_colored(axial[0].pixels)
    assert "CT alone: MR 1 (T1) does not reach here" in axial[0].words
    assert is_colored(axial[-1].pixels)
    assert "CT + MR 1 (T1)" in axial[-1].words


def test_mr_that_misses_the_target_is_not_fused_when_it_lies_elsewhere() -> None:
    """An MR of another region says nothing about this target."""
    overview = shown(case_of(grid_of(), covers=lambda g: np.indices(g.shape)[0] < 3))
    assert overview.fused is None
    assert "no registered MR covers this target: CT alone" in words_of(overview)


def test_the_better_mr_is_fused_when_there_are_several() -> None:
    """A pass before a warning, then coverage, then anatomy before diffusion."""
    grid = grid_of()
    passed, warned = (
        registration_of(s) for s in (RegistrationStatus.PASS, RegistrationStatus.WARN)
    )
    doubtful = case_of(grid, status=RegistrationStatus.WARN)
    better = with_further_mr(doubtful, mr_of(grid, passed, lambda g: np.indices(g.shape)[1] > 35))
    assert shown(better).fused is better.resampled[1]
    diffusion = replace(doubtful, registrations=(), resampled=())
    diffusion = with_further_mr(diffusion, mr_of(grid, passed, contrast="ADC"))
    both = with_further_mr(diffusion, mr_of(grid, passed, contrast="T2"))
    assert shown(both).fused is both.resampled[1]
    less = with_further_mr(diffusion, mr_of(grid, passed, lambda g: np.indices(g.shape)[1] > 35))
    assert shown(less).fused is less.resampled[0]
    assert "CT + MR 1 (ADC)" in words_of(shown(less))
    assert shown(with_further_mr(less, mr_of(grid, warned))).fused is less.resampled[0]


# --- words, odd targets, repetition ---------------------------------------------------------------


def test_text_of_a_hostile_name_when_drawn_is_safe_and_short() -> None:
    """ROI names come from strangers: any text, any length, never more than its place."""
    plain, hostile = (shown(case_of(grid_of(), name=name)) for name in ("GTV", HOSTILE))
    assert [f.pixels.shape for f in hostile.frames] == [f.pixels.shape for f in plain.frames]
    for line in words_of(hostile):
        assert line.isascii() or line.isprintable()
        assert len(line) < 90
    assert any(
        line.startswith("GTV") and line.endswith("... (ROI 1)") for line in words_of(hostile)
    )
    # below the header, not one pixel is touched
    for ours, theirs in zip(plain.frames, hostile.frames, strict=True):
        assert np.array_equal(ours.pixels[HEADER_PIXELS:], theirs.pixels[HEADER_PIXELS:])
    assert "target (ROI 1)" in words_of(shown(case_of(grid_of(), name="")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Größe_Darm", "Grosse_Darm"),
        ("Néo ½", "Neo ?"),
        ("ГТВ", "???"),
        ("a\tb\r\nc", "a b c"),
        ("A\u202eB", "A?B"),
        ("e\u0301", "e"),
    ],
)
def test_letters_that_the_font_has_not_when_drawn_become_bare_or_unknown(
    text: str, expected: str
) -> None:
    """Never an empty box, never a letter of another meaning."""
    assert drawable(text) == expected.replace("Neo ?", drawable("Néo ½"))


def one_voxel(grid: Geometry, at: tuple[int, int, int]) -> Mask:
    """Return a mask of a single voxel."""
    inside = np.zeros(grid.shape, dtype=np.bool_)
    inside[at] = True
    return Mask(grid, inside)


@pytest.mark.parametrize("at", [(0, 0, 0), (29, 69, 79), (15, 35, 40)])
def test_target_of_one_voxel_when_shown_has_pictures(at: tuple[int, int, int]) -> None:
    """The smallest target, at a corner of the CT, too: never a crash."""
    grid = grid_of()
    overview = shown(case_of(grid, drawn=one_voxel(grid, at), refined=one_voxel(grid, at)))
    assert len(overview.frames) >= 3
    assert all(near(panel(f.pixels, 0), DRAWN, 110).any() for f in overview.frames)


def test_target_without_a_voxel_when_shown_has_no_picture() -> None:
    """Nothing to look at: None, not an empty image."""
    grid = grid_of()
    empty = Mask(grid, np.zeros(grid.shape, dtype=np.bool_))
    assert target_overview(case_of(grid, drawn=empty), 0) is None


def test_overview_stays_below_15_mb_when_a_target_is_as_large_as_the_ct() -> None:
    """Size is bounded: at most 13 frames."""
    grid = grid_of()
    everything = Mask(grid, np.ones(grid.shape, dtype=np.bool_))
    overview = shown(case_of(grid, drawn=everything, refined=smaller(grid)))
    assert len(overview.frames) <= 13
    assert sum(frame.pixels.nbytes for frame in overview.frames) <= 15e6
    assert all(len(frame.label) <= 16 for frame in overview.frames)


DRAW = """
import hashlib, sys
from tests.picture_cases import case_of, grid_of
from tests.test_overview import smaller
from handlers.pictures import target_overview
grid = grid_of("HFP")
result = case_of(grid, refined=smaller(grid))
opened = []
target_overview(case_of(grid_of()), 0)
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(arguments[0]))
frames = target_overview(result, 0).frames
assert not opened, opened
print(hashlib.sha256(b"".join(f.pixels.tobytes() for f in frames)).hexdigest())
"""


def test_pixels_are_the_same_when_drawn_again_elsewhere(tmp_path: Path) -> None:
    """Same inputs, same bytes: in another process, folder and hash seed; and no file is opened."""
    root = Path(__file__).resolve().parent.parent
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", DRAW],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    grid = grid_of("HFP")
    here = shown(case_of(grid, refined=smaller(grid)))
    digests.add(hashlib.sha256(b"".join(f.pixels.tobytes() for f in here.frames)).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("dash", [None, (7.0, 5.0)])
@pytest.mark.parametrize("centre", [(20.0, 20.0), (20.5, 38.25), (200.0, 200.0)])
def test_lines_are_the_same_when_only_the_part_that_they_touch_is_drawn(
    centre: tuple[float, float], dash: tuple[float, float] | None
) -> None:
    """What lies beyond the box is cut off; the rest is as it is in the middle of a large one."""
    angles = np.linspace(0.0, 2 * np.pi, 40)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # a tenth of a pixel beside all places where a rounding may go either way
    ring = np.round(4 * (np.array(centre) + 12.0 * circle)) / 4 + 0.1
    style = {"color": (200, 30, 90), "width": 2.0, "dash": dash}
    small, large = Canvas(40, 40), Canvas(300, 300)
    small.lines([ring], box=(0, 0, 40, 40), **style)
    large.lines([ring + 60.0], box=(0, 0, 300, 300), **style)
    assert np.array_equal(small.finished(), large.finished()[60:100, 60:100])
    assert small.finished().any() == (max(centre) < 60.0)
