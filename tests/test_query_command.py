"""`hilum query`, and what doctor and configuration say of peers that are asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.config import Config, NodeSection, Protocol, read_config
from node.doctor_machine import CheckStatus
from node.doctor_query import check_queries
from node.errors import ConfigError
from node.index.tables import INSTANCES
from node.protocol import FetchRule
from node.query.find import FIND_MODELS
from node.query.retrieve import MOVE_MODELS
from tests.archives import archive_peer, fill, orthanc
from tests.nodes import free_port, hilum_here, write_datasets
from tests.odd_archive import Silent, odd_archive
from tests.receiving_node import running
from tests.test_query_find import SERIES, STUDY, slices

CONFIGURATION = """\
[node]
port = {port}
network_timeout_s = 20
[[peer]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive}
roles = ["send", "query"]
[[peer]]
name = "scanner"
ae_title = "SCANNER"
host = "127.0.0.1"
port = 11119
roles = ["send"]
[[protocol]]
name = "liver"
targets = ["GTV*"]
"""


def test_command_when_used_lists_and_fetches(
    tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """An operator sees what a peer holds, and has a series sent to the running node."""
    port = free_port()
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill(archive, write_datasets(slices(), tmp_path / "files"))
        path = tmp_path / "hilum.toml"
        path.write_text(CONFIGURATION.format(port=port, archive=archive.port), encoding="utf-8")

        def hilum(*arguments: str) -> str:
            answer = hilum_here("query", "orthanc", *arguments, "--config", str(path))
            assert answer.returncode == 0, answer.stderr
            assert "MARKEDNAME" not in answer.stdout + answer.stderr
            return answer.stdout

        studies = hilum("--patient-id", "MARKED-4711")
        assert studies.split() == ["20250101", "CT", STUDY, "orthanc", "answered", "1"]
        (series,) = json.loads(hilum("--study", STUDY, "--json"))["matches"]
        assert series["NumberOfSeriesRelatedInstances"] == "5"
        assert "orthanc answered 5" in hilum("--study", STUDY, "--series", SERIES)
        (tmp_path / "node").mkdir()
        settings = {"section": NodeSection(port=port), "peers": (archive,)}
        with running(tmp_path / "node", **settings) as node:
            told = hilum("--study", STUDY, "--series", SERIES, "--fetch")
            assert told.strip() == "orthanc says that it sent 5 objects"
            assert len(node.rows(INSTANCES)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("orthanc",), "nothing to ask"),
        (("orthanc", "--series", "1.2"), "nothing to ask"),
        (("orthanc", "--study", "1.2", "--fetch"), "nothing to ask"),
        (("scanner", "--study", "1.2"), "has not the role 'query'"),
        (("nobody", "--study", "1.2"), "no peer 'nobody'"),
        (("orthanc", "--patient-id", "MARKED*"), "matches other patients"),
        (("orthanc", "--study", "1.2"), "does not accept connections"),
    ],
)
def test_command_when_it_cannot_ask_says_why(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """Every bad use ends in one clear error, without a traceback."""
    path = tmp_path / "hilum.toml"
    text = CONFIGURATION.format(port=free_port(), archive=free_port())
    path.write_text(text, encoding="utf-8")
    if "MARKED*" in arguments:
        with odd_archive(Silent()) as peer:
            text = text.replace(text.split("port = ")[2].split("\n")[0], str(peer.port))
            path.write_text(text, encoding="utf-8")
            answer = hilum_here("query", *arguments, "--config", str(path))
    else:
        answer = hilum_here("query", *arguments, "--config", str(path))
    assert answer.returncode == 1
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "MARKED" not in answer.stderr


def configured(port: int, by: str, host: str = "127.0.0.1") -> Config:
    peer = archive_peer("odd", port).model_copy(update={"host": host})
    rule = FetchRule.model_validate({"peer": "odd", "by": by})
    protocol = Protocol(name="liver", targets=("GTV*",), fetch=(rule,))
    return Config(peer=(peer,), protocol=(protocol,))


def test_doctor_when_a_peer_lacks_what_a_rule_needs_says_so() -> None:
    """A rule that fetches by a service the peer does not offer is found before the first case."""
    with odd_archive(Silent(), (*FIND_MODELS, *MOVE_MODELS)) as peer:
        assert peer.port is not None
        (good,) = check_queries(configured(peer.port, "move"), timeout_s=10)
        (bad,) = check_queries(configured(peer.port, "get"), timeout_s=10)
    assert (good.status, bad.status) == (CheckStatus.OK, CheckStatus.FAIL)
    assert "takes C-FIND, C-MOVE" in good.text
    assert "lacks C-GET" in bad.text
    (down,) = check_queries(configured(free_port(), "move"), timeout_s=10)
    assert down.status is CheckStatus.FAIL


def test_doctor_when_a_far_peer_is_to_send_to_a_loopback_node_says_so() -> None:
    """C-MOVE to an address that nobody else reaches cannot work."""
    found = list(check_queries(configured(104, "move", host="192.0.2.1"), timeout_s=0.5))
    assert "we listen on 127.0.0.1 only" in found[-1].text


def test_configuration_when_a_fetch_peer_cannot_send_is_refused(tmp_path: Path) -> None:
    """C-MOVE brings objects through our listener: the peer must be allowed to send."""
    text = CONFIGURATION.format(port=11112, archive=4242).replace('["send", "query"]', '["query"]')
    path = tmp_path / "hilum.toml"
    path.write_text(f'{text}\n[[protocol.fetch]]\npeer = "orthanc"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_config(path)
    (problem,) = refused.value.problems
    assert "fetch peer 'orthanc'" in problem
    assert "role 'send'" in problem
    path.write_text(f'{text}\n[[protocol.fetch]]\npeer = "orthanc"\nby = "get"\n')
    assert read_config(path).protocol[0].fetch[0].by == "get"
    path.write_text(text.replace("port = 4242\n", ""), encoding="utf-8")
    with pytest.raises(ConfigError, match="a peer that is asked needs one"):
        read_config(path)
