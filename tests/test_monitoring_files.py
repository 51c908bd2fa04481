"""What lies in deploy/monitoring: rules, dashboard and the table of events name what exists."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.config import Config, NodeSection, Peer, Role
from node.index import Index
from node.monitoring.collector import NodeCollector, make_registry
from node.monitoring.counts import COUNTED, TIMED, Counts
from node.monitoring.vitals import NOTHING_SEEN
from tests.event_names import events_in_code
from tests.receiving_node import running
from tests.test_monitoring_health import Watched, now

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
METRIC = re.compile(r"\b(?:hilum|process)_[a-z_]+\b")


def text_of(name: str) -> str:
    return (MONITORING / name).read_text(encoding="utf-8")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(text_of("alerts.yml"))["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return list(json.loads(text_of("grafana-dashboard.json"))["panels"])


def expressions() -> list[str]:
    told = [rule["expr"] for rule in rules()]
    return told + [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def labels_in(expression: str, metric: str) -> set[str]:
    """Return the labels that an expression picks a metric by."""
    picked = re.findall(rf"\b{metric}\{{([^}}]*)\}}", expression)
    return {label for inside in picked for label in re.findall(r"(\w+)\s*[=!]", inside)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of all samples that a receiving process exports."""
    root = tmp_path_factory.mktemp("exported")
    with running(root) as node:
        watched = Watched(node, stalled_s=60.0)
        config = Config(node=NodeSection(data=root))
        collector = NodeCollector(config, node.index, now, watched.vitals)
        families = list(make_registry(collector).collect())
        watched.schedule.stop()
    names = set()
    for family in families:
        suffixes = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
            "info": ("_info",),
        }.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_rules_and_dashboard_name_metrics_that_exist(exported: set[str]) -> None:
    """Issue 8, 4: a rule on a metric that is misspelt never fires."""
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    audit = {"hilum_audit_waiting", "hilum_audit_unsent_bytes", "hilum_audit_connected"}
    assert len(named) > 40
    assert named - exported - audit == set()


def test_rules_and_dashboard_pick_labels_that_exist() -> None:
    """Likewise a label that is misspelt."""
    known = {f"{c.name}_total": {*c.labels} for c in COUNTED}
    known |= {f"{t.name}_{part}": {*t.labels, "le"} for t in TIMED for part in
              ("bucket", "sum", "count")}  # fmt: skip
    known |= {"hilum_cases": {"state"}}
    given_by_prometheus = {"instance", "job"}
    for expression in expressions():
        for metric in set(METRIC.findall(expression)):
            picked = labels_in(expression, metric) - given_by_prometheus
            assert picked <= known.get(metric, set()), expression


def test_measures_when_compared_are_all_shown(exported: set[str]) -> None:
    """What nobody looks at need not be measured: each stands in a rule or on the dashboard."""
    shown = " ".join(expressions())
    ours = {re.sub(r"_(total|bucket|sum|count)$", "", n) for n in exported if n.startswith("hilum")}
    unseen = {name for name in ours if name not in shown}
    assert unseen <= {"hilum_uptime_seconds"}


def test_rules_when_read_say_how_bad_it_is_and_what_to_do() -> None:
    """Issue 8, 4: severity, how long it must last, and the section of the operator guide."""
    guide = (ROOT / "deploy" / "operations.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ (.+)$", guide, flags=re.MULTILINE))
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 20
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        file, _, section = rule["annotations"]["runbook"].partition(", ")
        assert file == "operations.md"
        assert section in sections, rule["alert"]


def test_scrape_example_when_read_loads_the_rules() -> None:
    """The two files belong together."""
    document = yaml.safe_load(text_of("prometheus.yml"))
    assert document["rule_files"] == ["alerts.yml"]
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "hilum"
    assert 'job="hilum"' in text_of("alerts.yml")


def test_dashboard_when_read_can_be_imported() -> None:
    """Unique panels on a grid of 24, each with a query."""
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found) > 20
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["targets"]
    boxes = [(p["gridPos"]["y"], p["gridPos"]["x"]) for p in found]
    assert len(set(boxes)) == len(boxes)


def test_table_of_events_when_compared_is_what_the_program_logs() -> None:
    """Issue 8, 4: every event with its level and fields; nothing that is gone."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text_of("events.md").splitlines()
        if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row for row in rows}
    code = events_in_code()
    assert set(code) - set(table) == set()
    assert set(table) - set(code) == set()
    assert list(table) == sorted(table)
    for name, event in code.items():
        _, level, fields, meaning = table[name]
        assert set(level.split(", ")) == event.levels, name
        assert event.fields <= set(fields.split(", ")), name
        assert len(meaning) > 10, name


def test_metrics_when_described_say_what_they_are(tmp_path: Path) -> None:
    """Units stand in the names, as Prometheus has them."""
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    config = Config(node=NodeSection(data=tmp_path))
    registry = make_registry(NodeCollector(config, index, now, NOTHING_SEEN))
    families = list(registry.collect())
    index.close()
    for family in families:
        assert len(family.documentation) > 8, family.name
        assert not re.search(r"_(ms|mib|mb|kb|minutes|hours|s)$", family.name), family.name


def test_series_whose_growth_alerts_ask_about_are_there_before_anything_happened(
    tmp_path: Path,
) -> None:
    """Prometheus sees no growth in a series that begins with its first failure (promtool)."""
    peers = [
        Peer(name="ct", ae_title="CT", host="127.0.0.1", roles=(Role.SEND,)),
        Peer(name="tps", ae_title="TPS", host="127.0.0.1", port=1, roles=(Role.RECEIVE,)),
    ]
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    config = Config(node=NodeSection(data=tmp_path), peer=tuple(peers))
    collector = NodeCollector(config, index, now, NOTHING_SEEN, Counts())
    shown = {
        (sample.name, *sample.labels.values())
        for family in make_registry(collector).collect()
        for sample in family.samples
    }
    index.close()
    asked = {
        (name, text)
        for rule in rules()
        for name, text in re.findall(r"increase\((\w+)(\{[^}]*\})?\[\d+m\]\) > 0", rule["expr"])
    }
    assert len(asked) >= 3
    for name, selector in asked:
        wanted = re.findall(r'=~?"([^"]+)"', selector)
        for value in wanted[0].split("|") if wanted else [""]:
            assert [s for s in shown if s[0] == name and (not value or value in s)], (name, value)
