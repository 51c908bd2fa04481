"""The second opinion in use: weights that must be there, names, and what stands in for what."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from handlers.encode.new_rois import NO_ORGAN_PREFIX
from handlers.errors import GeometryMismatchError
from handlers.geometry import Geometry
from handlers.refinement import RefinementSettings
from handlers.roi_names import matches
from handlers.sampling import contours_from_mask
from handlers.values import Case, Image, Mask, Roi, Severity, StructureSet
from node.second_opinion import (
    ORGANS,
    SecondOpinionError,
    check,
    consult,
    second_opinion,
    with_second_opinion,
)
from tests.grids import grid
from tests.outline_stand_in import (
    CT_FAST_WEIGHTS,
    CT_WEIGHTS,
    LABELS,
    MR_FAST_WEIGHTS,
    MR_WEIGHTS,
    OUTLINE,
    RECORD,
    Bench,
    ct,
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return Bench(tmp_path, temporary)


@pytest.mark.parametrize(
    ("modality", "is_fast", "needed"),
    [
        ("CT", False, CT_WEIGHTS),
        ("CT", True, CT_FAST_WEIGHTS),
        ("MR", False, MR_WEIGHTS),
        ("MR", True, MR_FAST_WEIGHTS),
    ],
)
def test_weights_when_one_is_absent_are_refused_by_name(
    bench: Bench, modality: str, is_fast: bool, needed: list[str]
) -> None:
    """Task, folder and their command that fetches it are named; the program is not started."""
    settings = replace(bench.settings(RECORD), modalities=cast("Any", (modality,)), is_fast=is_fast)
    for absent in needed:
        settings = replace(settings, weights=bench.folder / f"without {needed.index(absent)}")
        bench.weights = settings.weights
        bench.lay_weights([name for name in needed if name != absent])
        (problem,) = check(settings)
        assert f": {absent};" in problem
        assert f"TOTALSEG_WEIGHTS_PATH={bench.weights} totalseg_download_weights -t " in problem
        image = Image(grid(), np.zeros(grid().shape, np.float32), modality, "1.2.3")
        task = {"CT": "total", "MR": "total_mr"}[modality]
        with pytest.raises(SecondOpinionError, match=f"weights of task {task} are not") as raised:
            second_opinion(image, settings)
        assert str(bench.folder) not in f"{raised.value} {raised.value.hint}"
        bench.lay_weights([absent], checkpoint=b"")
        assert absent in str(check(settings)), "an empty file is no checkpoint"
    assert not bench.seen_file.exists()


def test_weights_when_folder_is_absent_name_every_command(bench: Bench) -> None:
    """MR needs two of their downloads: the full task's does not bring the model that crops."""
    settings = replace(bench.settings(), weights=bench.folder / "nowhere", modalities=("CT", "MR"))
    problems = check(settings)
    assert [p.rpartition(" -t ")[2] for p in problems] == ["total", "total_mr", "total_fast_mr"]
    assert [name for name in CT_WEIGHTS if name not in problems[0]] == []
    with pytest.raises(SecondOpinionError) as raised:
        second_opinion(ct(), settings)
    assert "hilum doctor" in raised.value.hint
    assert "optional" in raised.value.hint


def test_settings_when_all_is_there_have_no_problem(bench: Bench) -> None:
    """Nothing to report, and the program is not started to find out."""
    assert check(bench.settings(RECORD)) == []
    assert not bench.seen_file.exists()


def test_names_when_compared_are_told_apart_from_drawn_ones() -> None:
    """At most 16 characters; organs for the refinement, but nothing once returned as an ROI."""
    settings = RefinementSettings()
    assert [organ.label for organ in ORGANS] == LABELS
    names = [organ.name + suffix for organ in ORGANS for suffix in ("_TS", "_TM")]
    assert len({name.casefold() for name in names}) == 2 * len(LABELS)
    assert max(len(NO_ORGAN_PREFIX + name) for name in names) <= 16
    assert not any(matches(name, settings.ignore_patterns) for name in names)
    assert all(matches(NO_ORGAN_PREFIX + name, settings.ignore_patterns) for name in names)
    never_target = [
        n for n in names if n.startswith(("V_", "A_", "Duo", "Sto", "Bow", "Col", "Gal"))
    ]
    assert len(never_target) == 16
    assert all(matches(name, settings.exclude_patterns) for name in never_target)


def case(drawn: StructureSet) -> Case:
    return Case(ct(), drawn, ())


def test_consultation_when_all_goes_well_tells_what_it_brought(bench: Bench) -> None:
    """Only what nobody drew is asked for; the finding names it and says that nobody looked."""
    target = Mask(grid(), ct().voxels == 500.0)  # all that the program takes for duodenum
    organs, (finding,) = consult(
        case(structures("Liver", "GTV_Liver", "Kidneys")),
        [target],
        bench.settings(RECORD + OUTLINE),
        ignore_patterns=RefinementSettings().ignore_patterns,
    )
    asked = bench.seen["arguments"][bench.seen["arguments"].index("--roi_subset") + 1 :]
    assert asked == [label for label in LABELS if label != "liver" and "kidney" not in label]
    assert len(organs) == len(asked) - 1
    assert "Duodenum_TS" not in organs
    assert np.array_equal(organs["Stomach_TS"].inside, ct().voxels == 600.0)
    assert (finding.code, finding.severity) == ("second_opinion.used", Severity.INFO)
    assert "not reviewed" in finding.text
    assert all(name in finding.text for name in organs)


def test_consultation_when_nothing_comes_of_it_is_a_finding(bench: Bench) -> None:
    """It is never required: the case goes on, a person is told why, no folder of ours is told."""
    failing = bench.settings("sys.exit(1)\n")
    nowhere = bench.folder / "nowhere"
    for settings, told in (
        (failing, "ended with code 1"),
        (replace(failing, weights=nowhere), "weights of task total are not in the configured"),
        (replace(failing, program=nowhere), "no program TotalSegmentator where it is configured"),
    ):
        organs, (finding,) = consult(case(structures()), [], settings, ignore_patterns=())
        assert organs == {}
        assert (finding.code, finding.severity) == ("second_opinion.none", Severity.WARNING)
        assert told in finding.text
        assert str(bench.folder) not in finding.text


def test_consultation_when_every_organ_is_drawn_starts_nothing(bench: Bench) -> None:
    """Minutes of computing for an answer that nobody may use."""
    drawn = structures(*(organ.name for organ in ORGANS))
    settings = bench.settings(RECORD)
    assert consult(case(drawn), [], settings, ignore_patterns=()) == ({}, ())
    assert not bench.seen_file.exists()


def block(geometry: Geometry, rows: slice) -> Mask:
    inside = np.zeros(geometry.shape, dtype=np.bool_)
    inside[1:4, rows, 5:15] = True
    return Mask(geometry, inside)


def structures(*names: str, contoured: bool = True) -> StructureSet:
    contours = contours_from_mask(block(grid(), slice(2, 9))) if contoured else ()
    rois = tuple(Roi(n, name, "ORGAN", contours) for n, name in enumerate(names, start=1))
    return StructureSet("1.2.9", "1.2", "plan", rois)


def check_stand_ins(drawn: StructureSet, *expected: str) -> None:
    opinion = {f"{o.name}_TS": block(grid(), slice(10, 18)) for o in ORGANS}
    target = block(grid(), slice(2, 5))
    ignore = RefinementSettings().ignore_patterns
    found = with_second_opinion(drawn, opinion, [target], ignore_patterns=ignore)
    assert sorted(set(opinion) - set(found)) == sorted(expected)


def test_stand_ins_when_organs_are_drawn_leave_those_out() -> None:
    """Only where the clinician drew no structure of that name, in the spellings of clinics."""
    check_stand_ins(structures())
    check_stand_ins(structures("Duodenum"), "Duodenum_TS")
    check_stand_ins(structures("DUODENUM exp", "portal vein"), "Duodenum_TS", "V_PortSplen_TS")
    check_stand_ins(structures("V_Splenic", "Vena cava inf"), "V_PortSplen_TS", "V_Venacava_I_TS")
    check_stand_ins(structures("Bowel_Small"), "Bowel_Small_TS")
    check_stand_ins(structures("Bowel"), "Bowel_Small_TS", "Colon_TS")
    check_stand_ins(structures("Kidney_R"), "Kidney_R_TS")
    check_stand_ins(structures("Left Kidney"), "Kidney_L_TS")
    check_stand_ins(structures("Kidneys"), "Kidney_L_TS", "Kidney_R_TS")


def test_stand_ins_when_a_name_draws_no_organ_stay() -> None:
    """Targets, margins, bags and empty ROIs are no organs; nor is an earlier opinion."""
    check_stand_ins(structures("GTV_Liver", "Duodenum_PRV03", "Bag_Bowel", "zLiver_TS"))
    check_stand_ins(structures("Liver", contoured=False))


def test_stand_ins_when_they_overlap_a_target_take_nothing_from_it() -> None:
    """The clinician's contour stands, unless it is said that it need not."""
    target, outline = block(grid(), slice(2, 9)), block(grid(), slice(6, 12))
    inner = block(grid(), slice(3, 5))
    opinion = {"Duodenum_TS": outline, "A_Aorta_TS": inner}
    found = with_second_opinion(structures(), opinion, [target], ignore_patterns=())
    assert list(found) == ["Duodenum_TS"]
    assert np.array_equal(found["Duodenum_TS"].inside, block(grid(), slice(9, 12)).inside)
    assert np.array_equal(outline.inside, block(grid(), slice(6, 12)).inside), "must stay"
    bold = with_second_opinion(
        structures(), opinion, [target], ignore_patterns=(), may_take_from_targets=True
    )
    assert np.array_equal(bold["Duodenum_TS"].inside, outline.inside)
    assert list(bold) == ["Duodenum_TS", "A_Aorta_TS"]


def test_stand_ins_when_a_target_lies_in_them_stay_whole() -> None:
    """Refinement lets a target grow within the organ it lies in: cut out, that organ would bar."""
    within, beside = block(grid(), slice(7, 10)), block(grid(), slice(10, 14))
    found = with_second_opinion(
        structures(),
        {"Liver_TS": block(grid(), slice(6, 12))},
        [within, beside],
        ignore_patterns=(),
        context_fraction=0.9,
    )
    # all of `within`, half of `beside`
    assert np.array_equal(found["Liver_TS"].inside, block(grid(), slice(6, 10)).inside)


def test_stand_ins_when_on_another_grid_are_refused() -> None:
    """An MR's outline must be brought to the CT first."""
    other = block(grid(spacing_mm=(3.0, 1.0, 1.1)), slice(6, 12))
    with pytest.raises(GeometryMismatchError, match="Liver_TM"):
        with_second_opinion(
            structures(), {"Liver_TM": other}, [block(grid(), slice(2, 5))], ignore_patterns=()
        )
