"""Tables of organ limits: what the shipped ones obey, and what is refused of a department's."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

from handlers.dose_results import Limit
from handlers.limit_metrics import MetricKind, metric_of
from node.case_job import case_job
from node.compute import pipeline_settings
from node.compute_job import Job
from node.config import read_config
from node.errors import ConfigError
from node.limit_tables import limits_of, names_of, shipped_table, table_name
from node.protocol import SHIPPED_LIMITS
from tests.stored_instances import START, contours, ct, look, mr

ROOT = Path(__file__).resolve().parent.parent
ALL = limits_of(SHIPPED_LIMITS, {}, unchecked=True)
CHECKED = limits_of(SHIPPED_LIMITS, {}, unchecked=False)


RIBS = {("Rib", "D1cc"), ("Rib", "D30cc")}
"""TG-101 allows 28.8 Gy to 1 cm3 of a rib in 3 fractions, and 30 Gy to 30 cm3: so it is printed."""


def rows(table: str, organ: str, fractions: int | None) -> list[Limit]:
    return [x for x in ALL if (x.table, x.organ, x.fractions) == (table, organ, fractions)]


# The shipped tables


def test_rows_when_shipped_can_be_used() -> None:
    """Every row names an organ that ROIs can be, a metric that can be measured, and its source."""
    names = names_of(())
    for each in ALL:
        assert names.organ_of(each.organ) == each.organ, each
        assert each.unit in metric_of(each.metric).units, each
        assert each.source, each
        assert each.endpoint, each
        assert each.certainty in ("verified", "secondary copy", "recalled"), each
    for name in SHIPPED_LIMITS:
        table = shipped_table(name)
        assert {row.certainty for row in table.limit} == set(table.seen), name


def test_rows_when_shipped_say_nothing_twice() -> None:
    told = [(x.table, x.organ, x.metric, x.bound, x.fractions, x.endpoint) for x in ALL]
    assert len(set(told)) == len(told)


def test_rows_when_recalled_only_are_not_used_by_default() -> None:
    """Issue 7.3: what nobody has read again judges nothing, unless a protocol asks for it."""
    assert {x.certainty for x in CHECKED} == {"verified", "secondary copy"}
    assert {x for x in ALL if x.certainty != "recalled"} == set(CHECKED)
    assert len(ALL) - len(CHECKED) > 10


def test_bounds_when_fractions_grow_grow_too() -> None:
    """More fractions are tolerated better: a number in the wrong column stands out."""
    for table, fractions in (("tg101", (1, 3, 5)), ("hytec", (1, 2, 3, 4, 5))):
        for organ in {x.organ for x in ALL if x.table == table and x.organ != "Liver-GTV"}:
            columns = [
                {
                    (x.metric if x.unit == "Gy" else f"CV {x.bound:g}"): (
                        x.bound if x.unit == "Gy" else metric_of(x.metric).at
                    )
                    for x in rows(table, organ, n)
                }
                for n in fractions
            ]
            for key in set().union(*columns):
                found = [column[key] for column in columns if key in column]
                assert found == sorted(set(found)), (table, organ, key)


def test_bounds_when_volumes_grow_fall() -> None:
    """A larger part of an organ tolerates less than the smaller part within it."""
    for each in ALL:
        for other in rows(each.table, each.organ, each.fractions):
            metrics = metric_of(each.metric), metric_of(other.metric)
            kinds = {metric.kind for metric in metrics}
            if {(each.organ, each.metric), (other.organ, other.metric)} == RIBS:
                continue
            if kinds == {MetricKind.DOSE_TO_VOLUME} and metrics[0].at < metrics[1].at:
                assert each.bound > other.bound, (each, other)
            if kinds == {MetricKind.VOLUME} and each.unit == other.unit == "%":
                assert (metrics[0].at < metrics[1].at) == (each.bound > other.bound), (each, other)


@pytest.mark.parametrize(
    ("table", "organ", "fractions", "metric", "bound", "certainty"),
    [
        # Benedict 2010, table III
        ("tg101", "SpinalCord", 1, "Dmax", 14.0, "verified"),
        ("tg101", "Duodenum", 1, "D10cc", 9.0, "verified"),
        ("tg101", "Liver", 1, "CV9.1Gy", 700.0, "verified"),
        ("tg101", "Liver", 3, "CV19.2Gy", 700.0, "secondary copy"),
        ("tg101", "Duodenum", 5, "D5cc", 18.0, "secondary copy"),
        ("tg101", "Stomach", 3, "Dmax", 22.2, "secondary copy"),
        ("tg101", "SpinalCord", 5, "Dmax", 30.0, "recalled"),
        # Sahgal 2021
        ("hytec", "SpinalCord", 3, "Dpoint", 20.3, "verified"),
        ("hytec", "SpinalCord", 5, "Dpoint", 25.3, "verified"),
        # Marks 2010, table 1; Pan 2010
        ("quantec", "SpinalCord", None, "Dmax", 50.0, "secondary copy"),
        ("quantec", "Liver-GTV", 6, "Mean", 20.0, "secondary copy"),
        ("quantec", "Esophagus", None, "V35Gy", 50.0, "secondary copy"),
        ("quantec", "Spc_Bowel", None, "V45Gy", 195.0, "secondary copy"),
    ],
)
def test_number_when_looked_up_is_that_of_the_source(
    table: str, organ: str, fractions: int | None, metric: str, bound: float, certainty: str
) -> None:
    found = {(x.metric, x.bound, x.certainty) for x in rows(table, organ, fractions)}
    assert (metric, bound, certainty) in found


def test_numbers_when_sources_disagree_are_not_shipped() -> None:
    """The liver in 5 fractions of TG-101 (21 or 21.5 Gy); no row of a source that was not read."""
    assert rows("tg101", "Liver", 5) == []
    assert {x.fractions for x in ALL if x.table == "tg101"} == {1, 3, 5}
    assert {x.organ for x in ALL if x.table == "hytec"} == {"SpinalCord", "Liver-GTV"}
    assert not {x.organ for x in ALL} & {"BileDuct_Common", "Gallbladder", "Pancreas", "V_Portal"}


def test_tables_when_the_distribution_is_built_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from a wheel, the node has its tables."""
    monkeypatch.chdir(ROOT)
    distribution = apply_configuration(Distribution(), ROOT / "pyproject.toml")
    distribution.set_defaults()
    assert "node.tables" in distribution.packages
    assert "*.toml" in distribution.package_data[""]


def test_guide_when_compared_counts_the_rows_that_there_are() -> None:
    """What an operator reads of the tables is true."""
    told = (ROOT / "deploy" / "limits.md").read_text(encoding="utf-8")
    for name in SHIPPED_LIMITS:
        assert f"| `{name}` | {len(shipped_table(name).limit)} |" in told, name
    for certainty in ("verified", "secondary copy", "recalled"):
        (line,) = (row for row in told.splitlines() if row.startswith(f"| `{certainty}` |"))
        assert f"({sum(x.certainty == certainty for x in ALL)} rows)" in line


def test_guide_when_followed_gives_a_table_that_is_read(tmp_path: Path) -> None:
    told = (ROOT / "deploy" / "limits.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", told, flags=re.DOTALL)
    organs, protocol, table = blocks
    config = read_config(written(tmp_path, protocol + organs, **{"our-limits": table}))
    assert [row.organ for row in config.own_limits["our-limits"].limit] == ["Duodenum", "cHBT"]
    assert config.organ[0].roi_names == ("Duo", "D1-D4")


# A department's own

CONFIGURATION = """\
[[protocol]]
name = "liver"
targets = ["GTV*"]
"""

OWN = """\
title = "Our own"
source = "Physics, 2026-01-07"
[[limit]]
organ = "Duodenum"
metric = "D0.5cc"
bound = 33
unit = "Gy"
fractions = 5
endpoint = "ulcer"
[[limit]]
organ = "cHBT"
metric = "V40Gy"
bound = 21.0
unit = "cm3"
fractions = 5
endpoint = "bile duct"
source = "Osmundson 2015"
certainty = "verified"
"""


def written(folder: Path, more: str, **tables: str) -> Path:
    for name, text in tables.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    path = folder / "hilum.toml"
    path.write_text(CONFIGURATION + more, encoding="utf-8")
    return path


def check_refused(path: Path, *problems: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(path)
    assert sorted(refused.value.problems) == sorted(problems)


def job_of(path: Path) -> Job:
    config = read_config(path)
    (case,) = look(ct(), mr(), contours(), protocols=config.protocol)
    job = case_job(case, config.protocol[0], config, root="/", created=START)
    return Job.model_validate_json(job.model_dump_json())


def limits_for(path: Path) -> tuple[Sequence[Limit], str]:
    """Return what the core is told of limits, and the seed of the results' UIDs."""
    job = job_of(path)
    return pipeline_settings(job.settings).dose.limits, job.uid_seed


def test_core_when_nothing_is_configured_gets_the_checked_rows(tmp_path: Path) -> None:
    limits, _ = limits_for(written(tmp_path, ""))
    assert limits == CHECKED


def test_own_table_when_named_reaches_the_core(tmp_path: Path) -> None:
    """With its own organs, sources and certainty; the machine's folders stay untold."""
    more = """\
[protocol.dose]
limits = ["own.toml", "hytec"]
[[organ]]
name = "cHBT"
roi_names = ["Zentraler Hilus"]
"""
    path = written(tmp_path, more, own=OWN)
    limits, seed = limits_for(path)
    assert [(x.organ, x.bound, x.source, x.certainty, x.table) for x in limits[:2]] == [
        ("Duodenum", 33.0, "Physics, 2026-01-07", "department", "own"),
        ("cHBT", 21.0, "Osmundson 2015", "verified", "own"),
    ]
    assert limits[2:] == limits_of(["hytec"], {}, unchecked=False)
    job = job_of(path)
    names = pipeline_settings(job.settings).dose.names
    assert [names.organ_of(name) for name in ("CHBT", "zentraler hilus", "Leber")] == [
        "cHBT", "cHBT", "Liver",
    ]  # fmt: skip
    assert str(tmp_path) not in job.settings.model_dump_json()
    written(tmp_path, more, own=OWN.replace("bound = 33", "bound = 35"))
    assert limits_for(path)[1] != seed


def test_unchecked_rows_when_wanted_reach_the_core(tmp_path: Path) -> None:
    path = written(tmp_path, "[protocol.dose]\nlimits = ['tg101']\nunchecked_limits = true\n")
    assert limits_for(path)[0] == limits_of(["tg101", "tg101"], {}, unchecked=True)
    assert set(limits_for(path)[0]) == {x for x in ALL if x.table == "tg101"}
    assert limits_for(written(tmp_path, "[protocol.dose]\nlimits = []\n"))[0] == ()


def test_path_when_it_is_a_tables_is_told_by_its_name() -> None:
    assert table_name("/etc/hilum/our limits.toml") == "our limits"
    assert table_name("tg101") == "tg101"


def test_own_table_when_wrong_is_refused_with_every_problem(tmp_path: Path) -> None:
    """Every problem at once, each with file and key."""
    wrong = """\
title = "Our own"
[[limit]]
organ = "Duodenm"
metric = "D5cc"
bound = 18.0
unit = "Gy"
fractions = 5
endpoint = "ulcer"
[[limit]]
organ = "Liver"
metric = "D5"
bound = 0
unit = "cGy"
fractions = "some"
endpont = "none"
[[limit]]
organ = "Liver"
metric = "V20Gy"
bound = 30
unit = "Gy"
fractions = 0
endpoint = "RILD"
certainty = "sure"
"""
    path = written(tmp_path, "[protocol.dose]\nlimits = ['own.toml', 'tg102']\n", own=wrong)
    with pytest.raises(ConfigError) as refused:
        read_config(path)
    told = refused.value.problems
    keys = (
        "own.toml: source: missing",
        "own.toml: limit[1].organ: 'Duodenm': did you mean Duodenum?",
        "own.toml: limit[2].bound: ",
        "own.toml: limit[2].unit: ",
        "own.toml: limit[2].metric: 'D5' is none of",
        "own.toml: limit[2].fractions: must be a number from 1 to 100, or 'conventional'",
        "own.toml: limit[2].endpoint: missing",
        "own.toml: limit[2].endpont: unknown key; did you mean endpoint?",
        "own.toml: limit[3].fractions: must be",
        "own.toml: limit[3].certainty: ",
        "protocol.dose.limits 'tg102' is none of tg101, quantec, hytec, nor a file (.toml)",
    )
    for key in keys:
        assert any(problem.startswith(key) for problem in told), (key, told)
    assert len(told) == len(keys)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (("D0.5cc", "D5"),
         "own.toml: limit[1].metric: 'D5' is none of Dmax, Dpoint, Mean, D5cc, D10%, V20Gy, CV15Gy "
         "and their like"),
        (('"D0.5cc"\nbound = 33\nunit = "Gy"', '"D0.5cc"\nbound = 33\nunit = "%"'),
         "own.toml: limit[1]: D0.5cc has the unit Gy, not %"),
        (('"V40Gy"\nbound = 21.0\nunit = "cm3"', '"V40Gy"\nbound = 121.0\nunit = "%"'),
         "own.toml: limit[2]: bound 121 is more than 100 %"),
        (("Duodenum", "Duodenm"),
         "own.toml: limit[1].organ: 'Duodenm': did you mean Duodenum?"),
        ((OWN[OWN.index("[[limit]]"):], "limit = []\n"), "own.toml: limit: there is none"),
        (("title", "[[title"), "own.toml: not valid TOML: Expected ']]' at the end of an array "
         "declaration (at line 1, column 9)"),
    ],
)  # fmt: skip
def test_own_row_when_wrong_is_refused(
    tmp_path: Path, changed: tuple[str, str], problem: str
) -> None:
    path = written(tmp_path, "[protocol.dose]\nlimits = ['own.toml']\n", own=OWN.replace(*changed))
    check_refused(path, problem)


def test_own_table_when_absent_or_doubled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own.toml").write_text(OWN, encoding="utf-8")
    (tmp_path / "tg101.toml").write_text(OWN, encoding="utf-8")
    entries = "['own.toml', 'more/own.toml', 'gone.toml', 'tg101.toml']"
    check_refused(
        written(tmp_path, f"[protocol.dose]\nlimits = {entries}\n", own=OWN),
        "protocol.dose.limits 'more/own.toml': another table is called 'own'",
        "protocol.dose.limits 'tg101.toml': another table is called 'tg101'",
        "gone.toml: No such file or directory",
    )


def test_names_when_wrong_are_refused(tmp_path: Path) -> None:
    """A slip in the name of an organ would leave its limits unjudged; one ROI is one organ."""
    more = """\
[[organ]]
name = "Stomac"
roi_names = ["Magen 2"]
[[organ]]
name = "Duodenum"
roi_names = ["Duo", "magen 2"]
[[organ]]
name = "Portal hilum"
roi_names = []
"""
    check_refused(
        written(tmp_path, more),
        "organ[1].name 'Stomac': did you mean Stomach?",
        "organ[2].roi_names 'magen 2' is already said to be Stomac",
        "organ[3].roi_names: Tuple should have at least 1 item after validation, not 0",
    )


@pytest.mark.parametrize(
    ("organ", "meant"),
    [
        ("Leber", "Liver"), ("small bowel", "Bowel_Small"), ("Rib05_L", "Rib"),
        ("Leber-GTV", "Liver-GTV"), ("Esophagous", "Esophagus"), ("Kidney_Hilum_R", "Kidney_Hilum"),
        ("Liver", ""), ("Lung_RLL", ""), ("Esophagus_S", ""), ("SpinalCord_Sac", ""), ("cHBT", ""),
        ("BrachialPlex_L", ""), ("Liver^MR", ""), ("Lungs-GTV", ""),
    ],
)  # fmt: skip
def test_organ_when_another_name_was_meant_is_refused(
    tmp_path: Path, organ: str, meant: str
) -> None:
    """Else no ROI could ever be it; what is no slip is an organ of the department."""
    changed = OWN.replace('"Duodenum"', f'"{organ}"')
    path = written(tmp_path, "[protocol.dose]\nlimits = ['own.toml']\n", own=changed)
    if meant:
        check_refused(path, f"own.toml: limit[1].organ: '{organ}': did you mean {meant}?")
    else:
        limits, _ = limits_for(path)
        names = pipeline_settings(job_of(path).settings).dose.names
        assert names.organ_of(limits[0].organ) == organ


@pytest.mark.parametrize("key", ["own_limits", "origin"])
def test_key_when_it_is_none_of_a_file_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "hilum.toml"
    path.write_text(f"{key} = 1\n{CONFIGURATION}", encoding="utf-8")
    check_refused(path, f"{key}: unknown key")
