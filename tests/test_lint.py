"""The export gate finds each fault where it is, and leaves clean objects in peace."""

import tracemalloc
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

from handlers.lint import RULES, Level, Subject, lint
from tests.encode_cases import PATIENT_NAME
from tests.lint_faults import (
    CT,
    MR,
    MR_2,
    REG,
    SET,
    Fault,
    clean_world,
    found,
    judged,
    put,
    spoiled,
    unchecked,
)
from tests.lint_rows_others import OTHER_FAULTS
from tests.lint_rows_structures import STRUCTURE_FAULTS

FAULTS = (*STRUCTURE_FAULTS, *OTHER_FAULTS)

TOLD_ELSEWHERE = {"file.other-instance", "value.odd-length", "monaco.to-be-confirmed"}
"""Need a file that no library writes (`test_lint_command`); is no fault but a doubt."""


@lru_cache(maxsize=8)
def told_of_clean(tps: str | None) -> frozenset[tuple[str, str, str]]:
    report = judged(clean_world(), [tps] if tps else [])  # type: ignore[list-item]
    return frozenset(found(report.problems))


def test_clean_objects_when_judged_have_no_problem() -> None:
    """Issue 6, 4: whole objects of every kind that we make are not flagged."""
    assert told_of_clean(None) == set()


@pytest.mark.parametrize("tps", ["eclipse", "raystation", "monaco"])
def test_clean_objects_when_judged_for_a_planning_system_have_no_problem(tps: str) -> None:
    """Issue 6, 4: nor are they for a planning system that takes registrations."""
    assert told_of_clean(tps) == set()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_when_planted_is_found_at_its_place(fault: Fault) -> None:
    """Issue 6, 4: finds the faults of the cited issue threads, with rule and tag path."""
    report = judged(spoiled(fault), [fault.tps] if fault.tps else [])
    places = [place for name, rule, place in found(report.problems)
              if (name, rule) == (fault.name, fault.rule)]  # fmt: skip
    assert any(place.startswith(fault.place) for place in places), sorted(
        (p.name, p.rule.id, str(p.place), p.detail) for p in report.problems
    )


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.tps], ids=str)
def test_habit_of_a_planning_system_when_it_is_no_destination_is_not_told(fault: Fault) -> None:
    """Issue 6, 4: a profile speaks only where it was asked for."""
    report = judged(spoiled(fault))
    assert fault.rule not in {p.rule.id for p in report.problems}


def test_rules_when_listed_are_each_shown_by_a_fault() -> None:
    """STYLE: a rule that no test can break is no rule."""
    shown = {fault.rule for fault in FAULTS} | TOLD_ELSEWHERE
    assert {rule.id for rule in RULES} == shown


def test_rules_when_listed_have_source_and_mend_and_doubt_only_as_warnings() -> None:
    """Issue 6, 4: each rule names its source; general knowledge is a warning, told as such."""
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.what, rule.id
        assert rule.source, rule.id
        assert rule.mend, rule.id
        assert rule.is_confirmed or rule.level is Level.WARNING, rule.id
        if "general knowledge" in rule.source:
            assert not rule.is_confirmed, rule.id


def test_ct_when_absent_is_asked_for_and_nothing_is_blamed() -> None:
    """Issue 6, 4: without the images, what needs them is not checked, and that is told."""
    world = clean_world().only(SET, REG)
    report = judged(world)
    assert report.problems == ()
    assert {name for name, _ in report.not_checked} == {SET, REG}
    assert all("give" in text for _, text in report.not_checked)


def test_slice_when_absent_is_asked_for_and_nothing_is_blamed() -> None:
    """Issue 6, 4: a part of the CT is no reason to call references dangling."""
    world = clean_world()
    del world[CT]
    del world["CT/6.dcm"]
    report = judged(world)
    told = [p for p in report.problems if p.name == SET]
    assert told == []
    assert any("listed images" in text for name, text in report.not_checked if name == SET)


def test_unknown_class_when_judged_is_told_and_its_values_are_still_read() -> None:
    """Issue 6, 4: no rules for a class is no error; the rules for every element still hold."""
    world = clean_world().only(REG)
    put(REG, "SOPClassUID", "1.2.826.0.1.99.1")(world)
    report = judged(world)
    assert report.problems == ()
    assert any("no rules" in text for _, text in report.not_checked)
    with unchecked():
        put(REG, "SeriesInstanceUID", "1.02.3")(world)
    del world[REG].PatientID
    assert {p.rule.id for p in judged(world).problems} == {"uid.illegal", "type2.missing"}


def test_problems_when_told_quote_nothing_of_the_object() -> None:
    """Invariant 6: no identifier in what is told, whatever is wrong with it."""
    world = clean_world()
    with unchecked():
        for ds in [world[name] for name in world]:
            ds.PatientID = ds.AccessionNumber = PATIENT_NAME.replace("^", " ") + " GEHEIM" * 12
            ds.PatientBirthDate = "19630229GEHEIM"
            ds.PatientSex = "GEHEIM"
    report = judged(world, ["eclipse", "raystation", "monaco", "pinnacle"])
    assert {"value.too-long", "value.malformed", "value.enumerated"} <= {
        p.rule.id for p in report.problems
    }
    told = " ".join(f"{p.place} {p.detail}" for p in report.problems)
    assert "GEHEIM" not in told
    assert "Müller" not in told


def drawn_on(normal: np.ndarray, rings: Sequence[tuple[str, float, float, float]]) -> Subject:
    """Return squares on planes across a direction: type, depth, place along one axis, half side."""
    along = np.linalg.svd(normal[None])[2][1:]
    contours = []
    for kind, depth, middle, half in rings:
        corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        points = (corners + np.array([middle, 0.0])) @ along + depth * normal
        item = Dataset()
        item.ContourGeometricType = kind
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{value:.3f}" for value in points.ravel()]
        contours.append(item)
    of_roi, ds = Dataset(), Dataset()
    of_roi.ReferencedROINumber, of_roi.ContourSequence = 1, contours
    ds.SOPClassUID = RTStructureSetStorage
    ds.ROIContourSequence = [of_roi]
    return Subject("drawn", ds)


TILTED = np.array([0.0, np.sin(0.4), np.cos(0.4)])


def ring_problems(subject: Subject) -> set[str]:
    """Return the rules on rings within rings that a structure set breaks."""
    told = {p.rule.id for p in lint([subject]).problems}
    return told & {"contour.nested", "contour.mixed-xor"}


@pytest.mark.parametrize("normal", [np.array([0.0, 0.0, 1.0]), TILTED])
def test_rings_when_slices_are_tilted_are_compared_on_their_plane(normal: np.ndarray) -> None:
    """A CT may be oblique: rings side by side are not nested, other planes are other planes."""
    apart = drawn_on(normal, [("CLOSED_PLANAR", 5.0, -30.0, 10.0), ("CLOSED_PLANAR", 5.0, 30.0, 4)])
    assert ring_problems(apart) == set()
    within = drawn_on(normal, [("CLOSED_PLANAR", 5.0, 0.0, 10.0), ("CLOSED_PLANAR", 5.0, 3.0, 4)])
    assert ring_problems(within) == {"contour.nested"}
    planes = drawn_on(normal, [("CLOSED_PLANAR", 5.0, 0.0, 10.0), ("CLOSEDPLANAR_XOR", 8.0, 0, 9)])
    assert ring_problems(planes) == set()
    mixed = drawn_on(normal, [("CLOSED_PLANAR", 5.0, 0.0, 10.0), ("CLOSEDPLANAR_XOR", 5.0, 0, 9)])
    assert ring_problems(mixed) == {"contour.mixed-xor"}


def test_contours_when_long_and_wide_are_judged_in_little_memory() -> None:
    """The computing child is bounded: thousands of long edges must not be paired all at once."""
    count = 6000
    zigzag = np.zeros((count, 3))
    zigzag[:, 0], zigzag[:, 1] = np.where(np.arange(count) % 2, 100.0, -100.0), np.arange(count)
    turned = np.linspace(0, 2 * np.pi, count, endpoint=False)
    circle = np.stack([90 * np.cos(turned), 3000 + 90 * np.sin(turned), 0 * turned], axis=1)
    wide = np.stack([990 * np.cos(turned), 3000 + 990 * np.sin(turned), 0 * turned], axis=1)
    subject = drawn_on(np.array([0.0, 0.0, 1.0]), [("CLOSED_PLANAR", 0.0, 0.0, 1.0)] * 3)
    items = subject.ds.ROIContourSequence[0].ContourSequence
    for item, points in zip(items, (zigzag, circle, wide), strict=True):
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{value:.3f}" for value in points.ravel()]
    tracemalloc.start()
    told = ring_problems(subject)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == {"contour.nested"}
    assert peak < 300e6


def test_fault_when_repeated_in_images_of_a_series_is_told_for_each() -> None:
    """What was found whole is not read again; what was not is told as often as it stands there."""
    world = clean_world()
    names = (MR, MR_2)
    for name in names:
        with unchecked():
            world[name].DerivationCodeSequence[0].CodeValue = "x" * 20
    told = [p.name for p in judged(world).problems if p.rule.id == "value.too-long"]
    assert sorted(told) == sorted(names)
