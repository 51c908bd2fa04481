"""A node that is killed under load keeps what it answered; the long run is tests/bench/kill.py."""

from pathlib import Path

from tests.bench.kill import kill_often
from tests.serve_process import ServeProcess

KILLS = 5


def test_node_when_killed_under_load_keeps_what_it_answered(tmp_path: Path) -> None:
    """Issue 4, point 7: SIGKILL of the node, and of its group, while four senders push.

    Every answered object is there, byte for byte, and indexed once; every other one is whole or
    absent; resent objects are not doubled; no temporary file remains.
    """
    with ServeProcess(tmp_path / "node").ending() as node:
        report = kill_often(node, kills=KILLS, longest_s=0.5, seed=20261124, at_least=11)
    assert report.problems == []
    assert report.answered > 10 * KILLS, "there was load"
    allowed = ("index.sqlite", "workflow.sqlite", "node.lock", "journal", "spare/", "audit")
    assert [name for name in report.beside if not name.startswith(allowed)] == []
