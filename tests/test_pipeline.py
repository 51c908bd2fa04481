"""The pipeline's own decisions: which targets are refined and how, and what is derived from them.

Cases without MR, so that nothing is registered: what MR does to a target is tested elsewhere.
"""

import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.geometry import Geometry
from handlers.pipeline import Settings, TargetSwitch, run
from handlers.refinement import RefinementSettings, refine
from handlers.refinement.settings import BOUNDS
from handlers.results import CaseResult, Refinement, TargetResult, TargetStatus
from handlers.sampling import contours_from_mask
from handlers.values import Case, Image, Mask, Roi, StructureSet
from node.compute import pipeline_settings
from node.compute_job import ComputeSettings
from node.config import Protocol, read_config
from tests.grids import grid

GRID = grid((2.0, 1.0, 1.0), (30, 60, 70), origin_mm=(-30.0, -30.0, -30.0))

RECIPE = """
[[protocol]]
name = "liver"
targets = ["GTV*"]
max_outward_mm = 4
max_inward_mm = 8
max_uncertainty_mm = 2.5
may_enter = ["Liver*"]
review = ["structures"]
[[protocol.target]]
name = "GTVp*"
refine = false
[[protocol.target]]
name = "*"
max_outward_mm = 3
[[protocol.derived]]
name = "CTV_u"
type = "CTV"
from = "union"
[[protocol.derived]]
type = "PTV"
from = "CTV_u"
[protocol.derived.margin_mm]
left_mm = 1
right_mm = 2
anterior_mm = 3
posterior_mm = 4
superior_mm = 5
inferior_mm = 6
[[protocol.derived.clip]]
organs = ["Duo*"]
margin_mm = 3
"""


def ball(x_mm: float, radius_mm: float) -> Mask:
    return Mask(GRID, GRID.distances_mm((x_mm, 0.0, 0.0)) <= radius_mm)


def case(**masks: Mask) -> Case:
    """Return a case of that anatomy, each ROI with its contours."""
    rois = tuple(
        Roi(number, name, "GTV" if name.startswith("GTV") else "ORGAN", contours_from_mask(mask))
        for number, (name, mask) in enumerate(masks.items(), start=1)
    )
    ct = Image(GRID, np.zeros(GRID.shape, dtype=np.float32), "CT", "1.2.3")
    return Case(ct, StructureSet("1.2.4", GRID.frame_of_reference_uid, "PLAN", rois), ())


def computed(
    anatomy: Case, settings: Settings, further_organs: dict[str, Mask] | None = None
) -> CaseResult:
    clock = itertools.count()
    return run(
        anatomy,
        settings,
        seconds=lambda: float(next(clock)),
        on_step=lambda _: None,
        further_organs=further_organs,
    )


def protocol(folder: Path) -> Protocol:
    path = folder / "hilum.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return read_config(path).protocol[0]


def told(recipe: Protocol) -> ComputeSettings:
    """Return the recipe as the child process gets it, through JSON."""
    settings = ComputeSettings(
        target_patterns=recipe.targets,
        **{
            name: getattr(recipe, name)
            for name in ComputeSettings.model_fields
            if name in Protocol.model_fields
        },
    )
    text = settings.model_dump_json()
    assert '"from":"CTV_u"' in text
    assert json.loads(text)["derived"][1]["margin_mm"]["inferior_mm"] == 6.0
    again = ComputeSettings.model_validate_json(text)
    assert again == settings
    return again


def by_name(result: CaseResult) -> dict[str, TargetResult]:
    return {target.source_roi.name: target for target in result.targets}


def test_recipe_when_passed_on_reaches_the_core_whole(tmp_path: Path) -> None:
    """From the file to the settings of the refinement, through the record of the child process."""
    settings = pipeline_settings(told(protocol(tmp_path)))
    usual = settings.refinement
    assert (usual.max_outward_mm, usual.max_inward_mm, usual.max_uncertainty_mm) == (4, 8, 2.5)
    assert usual.may_enter_patterns == ("Liver*",)
    assert settings.review == {"structures"}
    assert settings.of_target("GTVp") is None
    own = settings.of_target("GTVn")
    assert own is not None
    assert (own.max_outward_mm, own.max_inward_mm) == (3, 8)
    ptv = settings.derived[1]
    assert (ptv.interpreted_type, ptv.source) == ("PTV", "CTV_u")
    assert ptv.margins.along_lps().tolist() == [[1, 2], [4, 3], [5, 6]]
    assert [(c.organ_patterns, c.margin_mm) for c in ptv.clips] == [(("Duo*",), 3.0)]


def test_bounds_of_the_protocol_when_compared_are_those_of_the_refinement() -> None:
    """A value that the configuration lets through is never refused by the computing child."""
    defaults = RefinementSettings()
    for name in ("max_outward_mm", "max_inward_mm", "max_uncertainty_mm"):
        field = Protocol.model_fields[name]
        bounds = {type(m).__name__: m for m in field.metadata}
        assert (bounds["Ge"].ge, bounds["Le"].le) == BOUNDS[name]
        assert field.default == getattr(defaults, name)
    assert {"may_enter_patterns"} <= {each.name for each in fields(RefinementSettings)}


def test_target_when_switched_off_is_measured_and_never_changed(tmp_path: Path) -> None:
    """Issue 5, point 5: per-target switches. Its overlap with a vessel stays; the other's goes."""
    vessel = Mask(GRID, np.abs(GRID.distances_mm((0.0, -6.0, 0.0))) <= 3.0)
    far = Mask(GRID, GRID.distances_mm((18.0, -6.0, 0.0)) <= 3.0)
    anatomy = case(GTVn=ball(0.0, 9.0), GTVp=ball(20.0, 8.0), V_Portal=Mask(
        GRID, vessel.inside | far.inside
    ))  # fmt: skip
    settings = Settings(("GTV*",), targets=(TargetSwitch("GTVp", is_refined=False),))
    targets = by_name(computed(anatomy, settings))
    left_alone = targets["GTVp"]
    assert left_alone.refinement.status is TargetStatus.ABSTAINED
    assert left_alone.refinement.reasons == ("switched off by the protocol",)
    assert left_alone.organ_distances_mm["V_Portal"] <= 0.0
    assert left_alone.refined_roi_name is None
    assert targets["GTVn"].refinement.reasons != left_alone.refinement.reasons


def test_further_rois_when_several_targets_share_a_rule_are_named_apart(tmp_path: Path) -> None:
    """Names are unique ignoring case, also against those drawn; findings reach the result."""
    settings = pipeline_settings(told(protocol(tmp_path)))
    anatomy = case(
        GTVn1=ball(-12.0, 8.0), GTVn2=ball(12.0, 8.0), ctv_U=ball(0.0, 4.0), Kidney=ball(30.0, 5.0)
    )
    result = computed(anatomy, settings)
    targets = by_name(result)
    assert list(targets) == ["GTVn1", "GTVn2"]
    names = {name: [d.name for d in target.derived] for name, target in targets.items()}
    assert names == {"GTVn1": ["CTV_u1", "PTVn1_CT1"], "GTVn2": ["CTV_u2", "PTVn2_CT1"]}
    assert result.review == {"structures"}
    ctv, ptv = targets["GTVn2"].derived
    assert np.array_equal(ctv.mask.inside, targets["GTVn2"].drawn.inside)
    grown = ptv.mask.inside & ~ctv.mask.inside
    at = GRID.points_from_indices(np.argwhere(grown)) - (12.0, 0.0, 0.0)
    # left 1, right 2, anterior 3, posterior 4, superior 5, inferior 6 mm round a ball of 8 mm
    assert at.max(axis=0) == pytest.approx([9, 12, 13], abs=1.1)
    assert at.min(axis=0) == pytest.approx([-10, -11, -14], abs=1.1)
    absent = [f for f in result.findings if f.code == "derived.organ_absent"]
    assert len(absent) == 2
    assert "Duo*" in absent[0].text


def test_organs_that_nobody_drew_when_given_count_where_they_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach the refinement and the distances; a drawn ROI wins, and no margin is cut."""
    settings = pipeline_settings(told(protocol(tmp_path)))
    anatomy = case(GTVn=ball(0.0, 9.0), Spleen=ball(25.0, 4.0))
    duodenum, bound_by = ball(12.0, 2.0), dict[str, Mask]()

    def refine_noting(target: Mask, ct: Image, mr: Any, organs: Any, own: Any) -> Refinement:
        bound_by.update(organs)
        return refine(target, ct, mr, organs, own)

    monkeypatch.setattr("handlers.pipeline.refine", refine_noting)
    result = computed(anatomy, settings, {"Duodenum_TS": duodenum, "Spleen": duodenum})
    (target,) = result.targets
    assert set(bound_by) == {"Duodenum_TS", "Spleen"}
    assert bound_by["Duodenum_TS"] is duodenum
    assert not bound_by["Spleen"].inside[duodenum.inside].any()
    # from the ball of 9 mm to the one of 2 mm, 12 mm away, and to the one of 4 mm, 25 mm away
    assert target.organ_distances_mm == {
        "Duodenum_TS": pytest.approx(1.0, abs=0.7),
        "Spleen": pytest.approx(12.0, abs=0.7),
    }
    # the protocol's margin to the left is 1 mm, from which "Duo*" is left out with 3 mm
    assert target.derived[1].mask.inside[_x() > 9.0].any()
    assert [f.code for f in result.findings].count("derived.organ_absent") == 1


def test_targets_when_touching_are_no_organs_to_each_other() -> None:
    """Issue 5, point 5: touching targets: no distance between them counts, none changes."""
    left = Mask(GRID, (ball(0.0, 12.0).inside) & (_x() <= 0))
    right = Mask(GRID, (ball(0.0, 12.0).inside) & (_x() > 0))
    result = computed(case(GTVn1=left, GTVn2=right), Settings(("GTV*",)))
    for target in result.targets:
        assert target.refinement.status is TargetStatus.ABSTAINED
        assert target.organ_distances_mm == {}
    assert not [f for f in result.findings if f.code == "target.gave_back"]


def _x() -> np.ndarray:
    geometry: Geometry = GRID
    return geometry.points_from_indices(np.indices(geometry.shape).reshape(3, -1).T)[:, 0].reshape(
        geometry.shape
    )
