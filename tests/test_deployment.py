"""The files by which others run Hilum say what the program knows: commands, ports, paths, keys."""

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from node.__main__ import app
from node.config import Config, NodeSection, TlsSection, WebSection, read_config
from node.web.access.guard import PROBES
from tests.nodes import ROOT

DEPLOY = ROOT / "deploy"
UNITS = ("hilum.service", "hilum-worker.service", "hilum-backup.service", "hilum-backup.timer")
API_VERSIONS = {
    "PersistentVolumeClaim": "v1",
    "StatefulSet": "apps/v1",
    "Service": "v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
UNIT_KEYS = {
    "Unit": {"Description", "Wants", "After", "RequiresMountsFor"},
    "Timer": {"OnCalendar", "RandomizedDelaySec", "Persistent"},
    "Install": {"WantedBy"},
}


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def manifests() -> list[dict[str, Any]]:
    files = ("hilum.yaml", "hilum-first-user.yaml")
    texts = [(DEPLOY / "kubernetes" / name).read_text() for name in files]
    return [one for text in texts for one in yaml.safe_load_all(text)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in manifests() if one["kind"] == kind]


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = of_kind("StatefulSet") + of_kind("Job")
    return [(one["metadata"]["name"], one["spec"]["template"]["spec"]) for one in found]


def dockerfile() -> list[tuple[str, str]]:
    """Return instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = text.replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each call of hilum that stands in a file, without the program's name."""
    for name in UNITS:
        start = unit(name).get("Service", "ExecStart", fallback="")
        if start:
            yield name, shlex.split(start)[1:]
    (cmd,) = [json.loads(args) for kind, args in dockerfile() if kind == "CMD"]
    yield "Dockerfile", cmd
    for name in ("node", "worker"):
        yield f"compose.yaml {name}", compose()["services"][name]["command"]
    for name, pod in pods():
        args = pod["containers"][0]["args"]
        yield name, args if len(args) > 1 else shlex.split(args[0].partition("<")[0])[1:]


@pytest.mark.parametrize(("where", "words"), list(commands()), ids=lambda v: str(v)[:20])
def test_commands_exist_with_their_options(where: str, words: list[str]) -> None:
    """A unit or image that calls what the program does not know would never start."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("hilum", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        word, *words = words
        command = command.get_command(context, word)
        assert command is not None, f"{where}: no command {word}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, where


def test_configurations_are_sound_and_name_the_mounted_places() -> None:
    """What is mounted is where the configuration looks."""
    trial = read_config(DEPLOY / "container" / "hilum.toml")
    cluster = read_config(DEPLOY / "kubernetes" / "hilum.toml")
    for config in (trial, cluster):
        assert str(config.node.data) == "/var/lib/hilum"
        assert str(config.node.database_password_file) == "/run/secrets/database-password"
        assert not config.node.compute, "workers are started beside it"
    for name in ("node", "worker"):
        service = compose()["services"][name]
        assert "data:/var/lib/hilum" in service["volumes"]
        assert "./container/hilum.toml:/etc/hilum/hilum.toml:ro" in service["volumes"]
        assert service["secrets"] == ["database-password"]
    for name, pod in pods():
        mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        places = {"data": "/var/lib/hilum", "settings": "/etc/hilum", "secrets": "/run/secrets"}
        assert mounts.items() >= places.items(), name
        assert set(mounts) <= {one["name"] for one in pod["volumes"]}, name
    state = unit("hilum.service").get("Service", "StateDirectory")
    assert f"/var/lib/{state}" in unit("hilum-backup.service").get("Service", "ReadWritePaths")


def test_ports_are_those_of_the_program() -> None:
    """Published, exposed and probed ports are the ones that the node opens."""
    trial = read_config(DEPLOY / "container" / "hilum.toml")
    cluster = read_config(DEPLOY / "kubernetes" / "hilum.toml")
    defaults = NodeSection(), WebSection(), TlsSection.model_fields["port"].default
    (exposed,) = [args.split() for kind, args in dockerfile() if kind == "EXPOSE"]
    assert sorted(map(int, exposed)) == sorted([defaults[0].port, defaults[1].port, defaults[2]])
    (published,) = compose()["services"]["node"]["ports"]
    assert published.split(":")[-1] == str(trial.node.port)
    ports = {"dicom": cluster.node.port, "page": cluster.web.port}
    (serve,) = [pod for name, pod in pods() if name == "hilum-serve"]
    opened = {one["name"]: one["containerPort"] for one in serve["containers"][0]["ports"]}
    assert opened == ports
    for service in of_kind("Service"):
        for port in service["spec"].get("ports", ()):
            assert port["port"] == ports[port.get("targetPort", port["name"])], service
    for policy in of_kind("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= set(ports)


def test_probes_ask_what_is_answered_without_login() -> None:
    """A probe that is told to log in would have the node restarted for ever."""
    (serve,) = [pod["containers"][0] for name, pod in pods() if name == "hilum-serve"]
    paths = {
        kind: serve[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths["livenessProbe"] == paths["startupProbe"] == "/health"
    assert paths["readinessProbe"] == "/ready"
    assert set(paths.values()) <= PROBES
    (worker,) = [pod["containers"][0] for name, pod in pods() if name == "hilum-worker"]
    asked_of_worker = [worker[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe")]
    assert asked_of_worker == [{"path": "/health", "port": "page"}] * 2
    (check,) = [args for kind, args in dockerfile() if kind == "HEALTHCHECK"]
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert asked is not None
    assert asked[2] in PROBES
    trial = read_config(DEPLOY / "container" / "hilum.toml")
    assert int(asked[1]) == trial.web.port
    compile(re.search(r'"-c", "(.*)"\]', check)[1], "healthcheck", "exec")  # type: ignore[index]


def test_image_is_made_of_what_is_there_and_runs_as_nobody_in_particular() -> None:
    """Every source exists and is let through, versions are pinned, the user is not root."""
    steps = dockerfile()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for kind, args in steps:
        if kind == "COPY" and not args.startswith("--from"):
            *sources, _target = args.split()
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored
    runs = " ".join(args for kind, args in steps if kind == "RUN")
    assert "--require-hashes -r deploy/requirements.lock" in runs
    users = [args for kind, args in steps if kind == "USER"]
    assert users == ["10001"]
    assert f"--uid {users[0]}" in runs
    assert f"--gid {users[0]}" in runs, "the group of the files, as fsGroup has it"
    assert "pip uninstall --yes setuptools pip" in runs
    assert all(pod["securityContext"]["runAsUser"] == int(users[0]) for _, pod in pods())
    assert all(pod["securityContext"]["runAsNonRoot"] for _, pod in pods())
    assert [kind for kind, _ in steps][-2:] == ["ENTRYPOINT", "CMD"]
    for name in ("node", "worker"):
        service = compose()["services"][name]
        assert service["read_only"]
        assert service["hostname"], "else a new container would not know its work again"
        assert service["cap_drop"] == ["ALL"]


def test_trial_pacs_and_node_know_each_other() -> None:
    """AE titles, hosts and ports agree on both sides, and with the names of the services."""
    config = read_config(DEPLOY / "container" / "hilum.toml")
    orthanc = json.loads((DEPLOY / "container" / "orthanc.json").read_text())
    services = compose()["services"]
    pacs = config.peer_named("pacs")
    assert pacs is not None
    assert (pacs.ae_title, pacs.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    us = orthanc["DicomModalities"]["hilum"]
    assert (us["AET"], us["Port"]) == (config.node.ae_title, config.node.port)
    assert {pacs.host, us["Host"]} <= set(services)
    (network,) = compose()["networks"]["dicom"]["ipam"]["config"]
    sender = config.peer_named("sender")
    assert sender is not None
    assert sender.host == network["gateway"]
    database = services["database"]["environment"]
    assert f"//{database['POSTGRES_USER']}@database/{database['POSTGRES_DB']}" in str(
        config.node.database
    )


def test_compose_file_refers_to_what_it_defines() -> None:
    """Volumes, secrets, networks and conditions by their names."""
    document = compose()
    volumes, secrets = set(document["volumes"]), set(document["secrets"])
    for name, service in document["services"].items():
        named = (
            {v.split(":")[0] for v in service["volumes"] if not v.startswith(".")}
            if ("volumes" in service)
            else set()
        )
        assert named <= volumes, name
        assert set(service.get("secrets", ())) <= secrets, name
        assert set(service["networks"]) <= set(document["networks"]), name
        for other, needed in service.get("depends_on", {}).items():
            assert needed == {"condition": "service_healthy"}
            has_check = "healthcheck" in document["services"][other]
            assert has_check or document["services"][other].get("image") == "hilum", name
    for path in re.findall(r"\./(container/[\w.]+):", (DEPLOY / "compose.yaml").read_text()):
        assert (DEPLOY / path).is_file()


def test_manifests_select_what_they_make() -> None:
    """Kinds and versions that clusters know; selectors, names and claims that fit."""
    found = manifests()
    assert all(API_VERSIONS[one["kind"]] == one["apiVersion"] for one in found)
    labels = []
    for one in of_kind("StatefulSet"):
        made = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"] == made
        labels.append(made)
        names = {service["metadata"]["name"] for service in of_kind("Service")}
        assert one["spec"]["serviceName"] in names
    selectors = [one["spec"]["selector"] for one in of_kind("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind("NetworkPolicy")]
    assert all(selector in labels for selector in selectors)
    (claim,) = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for _, pod in pods():
        claims = [
            v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        ]
        assert claims == [{"claimName": claim["metadata"]["name"]}]
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in generated["files"])
    configs = {v["configMap"]["name"] for _, p in pods() for v in p["volumes"] if "configMap" in v}
    assert configs == {generated["name"]}


def test_memory_of_workers_is_more_than_a_case_may_take() -> None:
    """Else the cluster kills what the node would have refused in words."""
    default = Config().node.compute_memory_mib / 1024
    (worker,) = [pod["containers"][0] for name, pod in pods() if name == "hilum-worker"]
    assert float(worker["resources"]["limits"]["memory"].removesuffix("Gi")) > default
    assert float(compose()["services"]["worker"]["mem_limit"].removesuffix("g")) > default


@pytest.mark.parametrize("name", UNITS)
def test_units_have_sections_and_keys_that_systemd_knows(name: str) -> None:
    """Misspelt keys are ignored by systemd, with the protection that they were to give."""
    found = unit(name)
    for section, keys in UNIT_KEYS.items():
        if found.has_section(section):
            assert set(found[section]) <= keys
    if found.has_section("Service"):
        service = found["Service"]
        assert service["User"] == "hilum"
        protections = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
        assert protections.items() <= dict(service).items()
        assert "WatchdogSec" not in service, "nothing of ours tells systemd that it lives"
        assert Path(shlex.split(service["ExecStart"])[0]).is_relative_to("/opt/hilum/.venv/bin")
