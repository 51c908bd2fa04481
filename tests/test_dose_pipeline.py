"""Dose through the whole core, from DICOM objects to the metrics document, and its settings."""

import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from handlers.decode import CaseDatasets, decode_case
from handlers.derived import DerivedRule
from handlers.dose_report import CURVE_POINTS
from handlers.dose_results import EndCap, Prescribed
from handlers.dosimetry import DoseSettings, GeudRule
from handlers.geometry import Geometry
from handlers.margins import Margins
from handlers.pipeline import Settings, run
from handlers.report import metrics_document
from handlers.results import CaseResult
from handlers.values import CtRole
from node.compute import pipeline_settings
from node.compute_job import ComputeSettings
from node.config import read_config
from node.limit_tables import limits_of, names_of
from node.phantom import PhantomOptions, PhantomStudy, make_study, radiotherapy

UNITS = ("_gy", "_cm3", "_percent", "_mm")
WITHOUT_UNIT = {
    "ci_rtog",
    "ci_paddick",
    "selectivity",
    "gradient_index",
    "r50",
    "hi_icru83",
    "hi_rtog",
}

ROIS = ("GTVn", "Liver", "Duodenum", "Stomach", "External")


@dataclass(frozen=True, eq=False)
class Computed:
    """A phantom with two plans, and what was computed of it without MR."""

    study: PhantomStudy
    result: CaseResult

    @property
    def document(self) -> dict[str, Any]:
        """What a script reads."""
        document: dict[str, Any] = json.loads(json.dumps(metrics_document(self.result, {})))
        return document


@pytest.fixture(scope="module")
def computed() -> Computed:
    study = make_study(PhantomOptions(seed=5, size="tiny", contrasts=(), second_plan=True))
    assert study.dose is not None
    assert study.plan is not None
    assert study.second is not None
    decoded = decode_case(
        CaseDatasets(
            study.ct,
            study.structure_set,
            {},
            doses=[study.dose, study.second[1]],
            plans=[study.plan, study.second[0]],
        )
    )
    case = decoded.case
    assert case.ct.role is CtRole.PLANNING
    few = tuple(roi for roi in case.structure_set.rois if roi.name in ROIS)
    case = replace(case, structure_set=replace(case.structure_set, rois=few))
    limits = limits_of(("tg101", "quantec", "hytec"), {}, unchecked=False)
    settings = Settings(
        ("GTVn",),
        derived=(DerivedRule(None, "PTV", "drawn", margins=Margins.even(5.0)),),
        dose=DoseSettings(limits=limits, names=names_of((), limits)),
    )
    clock = itertools.count()
    result = run(case, settings, seconds=lambda: float(next(clock)), on_step=lambda _: None)
    return Computed(study, result)


def sampled(study: PhantomStudy, spacing_mm: float = 0.75) -> npt.NDArray[np.float64]:
    """Return the dose of the first plan at points that fill the drawn target: no contour, no grid.

    The phantom's target and its dose are functions of the place.
    """
    low, high = np.array(study.drawn.lowest), np.array(study.drawn.highest)
    shape = np.ceil((high - low) / spacing_mm).astype(int)[::-1]
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, ::-1] * spacing_mm
    matrix[:3, 3] = low + spacing_mm / 2
    frame = study.true_target.geometry.frame_of_reference_uid
    fine = Geometry(frame, matrix, (int(shape[0]), int(shape[1]), int(shape[2])))
    body = study.patient.in_ct(study.patient.anatomy.organs["External"])
    options = study.options
    dose = radiotherapy.dose_gy(
        fine, study.drawn, body, study.patient.centre, options.prescription_gy
    )
    at = fine.points_from_indices(np.indices(fine.shape).reshape(3, -1).T).T
    inside = study.drawn.distance(*at.astype(np.float32)) <= 0
    return np.asarray(dose.ravel()[inside])


def plan_labelled(document: dict[str, Any], label: str) -> dict[str, Any]:
    (found,) = [plan for plan in document["dose"]["plans"] if plan["label"] == label]
    return dict(found)


def structure(plan: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in plan["structures"] if each["name"] == name]
    return dict(found)


def test_target_of_the_phantom_has_the_dose_that_was_put_there(computed: Computed) -> None:
    """Contours at 3 mm, dose at 3 mm, against the functions that both were made of."""
    truth = np.sort(sampled(computed.study))
    volume_cm3 = len(truth) * 0.75**3 / 1000
    found = structure(plan_labelled(computed.document, "SBRT"), "GTVn")
    assert found["volume_cm3"] == pytest.approx(volume_cm3, rel=0.03)
    figures = found["figures"]
    for key, percent in (("d98_gy", 2), ("d95_gy", 5), ("d50_gy", 50), ("d5_gy", 95)):
        assert figures[key] == pytest.approx(np.percentile(truth, percent), rel=0.015), key
    assert figures["mean_gy"] == pytest.approx(truth.mean(), rel=0.01)
    assert figures["coverage_percent"] == pytest.approx(100 * np.mean(truth >= 40.0), abs=0.5)


def test_document_has_plans_versions_and_comparisons(computed: Computed) -> None:
    document = computed.document["dose"]
    assert document["end_cap"] == "tapered"
    assert document["coverage_goal_percent"] == 95.0
    assert document["cumulative"] is None
    assert {plan["label"] for plan in document["plans"]} == {"SBRT", "SBRT MR"}
    for number, plan in enumerate(document["plans"], start=1):
        assert plan["plan"] == number
        assert plan["prescription"] == {"dose_gy": 40.0, "fractions": 5, "said_by": "plan"}
        names = [each["name"] for each in plan["structures"]]
        assert names[:2] == ["GTVn", computed.result.targets[0].derived[0].name]
        assert {"Liver", "Duodenum", "Stomach"} <= set(names)
        assert structure(plan, "GTVn")["version"] == "drawn"
    pairs = [(c["first"]["plan"], c["second"]["plan"]) for c in document["comparison"]]
    assert pairs[:2] == [(1, 1), (2, 2)]
    assert set(pairs[2:]) == {(1, 2)}
    between = [c for c in document["comparison"] if c["second"]["plan"] > c["first"]["plan"]]
    assert {c["first"]["structure"] for c in between} >= {"GTVn", "Liver"}


def test_numbers_of_the_document_are_finite_and_their_keys_tell_the_unit(
    computed: Computed,
) -> None:
    for plan in computed.document["dose"]["plans"]:
        for each in plan["structures"]:
            for key, value in each["figures"].items():
                assert key.endswith(UNITS) or key in WITHOUT_UNIT, key
                assert math.isfinite(value), key
            if each["dvh"] is not None:
                curve = each["dvh"]
                assert len(curve["dose_gy"]) == len(curve["volume_cm3"]) <= CURVE_POINTS


def test_limits_of_the_document_stand_with_verdict_source_and_reason(computed: Computed) -> None:
    plan = plan_labelled(computed.document, "SBRT")
    assert plan["limits"]
    for limit in plan["limits"]:
        assert limit["status"] in ("met", "exceeded", "not evaluable")
        assert limit["source"]
        assert limit["certainty"]
        assert (limit["status"] == "exceeded") is (limit["excess"] is not None)
        assert limit["reason"] or limit["status"] != "not evaluable"
    assert "External" in plan["unmatched_rois"]
    assert plan["unmatched_reasons"]["External"] == "it is the outline of the body"
    assert not {"GTVn", "Liver"} & set(plan["unmatched_rois"])


def test_step_is_told_and_timed(computed: Computed) -> None:
    assert "dose" in computed.document["timing_s"]


RECIPE = """
[[protocol]]
name = "liver"
targets = ["GTV*"]
[protocol.prescription]
dose_gy = 50
fractions = 5
[protocol.dose]
end_cap = "tapered"
limits = ["tg101"]
volumes_at_gy = [20]
[[protocol.dose.geud]]
name = "Liver*"
a = 1
"""


def test_recipe_reaches_the_core_through_the_record_of_the_child_process(tmp_path: Path) -> None:
    path = tmp_path / "hilum.toml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = read_config(path).protocol[0]
    given = ComputeSettings(
        target_patterns=recipe.targets,
        max_outward_mm=5.0,
        prescription=recipe.prescription,
        dose=recipe.dose,
    )
    again = ComputeSettings.model_validate_json(given.model_dump_json())
    settings = pipeline_settings(again).dose
    assert settings.end_cap is EndCap.TAPERED
    assert settings.prescribed == Prescribed(50.0, 5, "protocol")
    assert settings.volumes_at_gy == (20.0,)
    assert settings.geud == (GeudRule("Liver*", 1.0),)
    assert {limit.table for limit in settings.limits} == {"tg101"}
    assert settings.names.organ_of("Leber") == "Liver"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('end_cap = "round"', "end_cap"),
        ("volumes_at_gy = [0]", "volumes_at_gy"),
        ('geud = [{ name = "Liver", a = 0 }]', "must not be 0"),
    ],
)
def test_recipe_with_a_slip_of_the_pen_is_refused_with_the_key(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "hilum.toml"
    text = f'[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n[protocol.dose]\n{line}\n'
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match=problem):
        read_config(path)
