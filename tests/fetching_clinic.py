"""A receiving node, its schedule and its fetching in one process, driven step by step.

Objects travel over real sockets, the index is real SQLite, the clock is the real one plus what a
test adds; only computing is left out.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset

from node.config import Config, NodeSection, Peer, Protocol
from node.delivery import InstanceOutcome, send_instances
from node.fetching import Fetching
from node.index.case_rows import REVISIONS
from node.index.cases import CaseBook, CaseRecord
from node.index.fetch_rows import FETCHES, QUESTIONS
from node.index.tables import INSTANCES
from node.protocol import FetchRule
from node.schedule import Schedule
from tests.nodes import write_datasets
from tests.receiving_node import LONG_S, PEERS, Node, running

QUIET_S = 10.0
PATIENCE_S = 1000.0
MOST_ROUNDS = 60


@dataclass
class Clinic:
    """What a test drives."""

    node: Node
    peers: tuple[Peer, ...]
    rules: tuple[FetchRule, ...]
    port: int
    later: timedelta = field(default_factory=timedelta)

    def __post_init__(self) -> None:
        section = NodeSection(
            data=self.node.root,
            port=self.port,
            quiet_s=QUIET_S,
            incomplete_s=PATIENCE_S,
            network_timeout_s=20.0,
            delivery_retry_s=1.0,
        )
        protocol = Protocol(name="liver", targets=("GTV*",), fetch=self.rules)
        config = Config(node=section, peer=(*PEERS, *self.peers), protocol=(protocol,))
        self.fetching = Fetching(config, self.node.index, self.node.scp, self.now)
        self.schedule = Schedule(
            config, self.node.index, cast("Any", None), self.now, self.fetching
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.later

    def send(self, datasets: Sequence[Dataset], folder: Path) -> None:
        """Send objects to the node, from peer `ct`; every one must be taken."""
        paths = write_datasets(datasets, folder)
        peer = Peer(
            name="node", ae_title="HILUM", host="127.0.0.1", port=self.port, roles=("send",)
        )
        answers = send_instances(peer, "CT1", paths, timeout_s=LONG_S)
        assert all(one.outcome is InstanceOutcome.SENT for one in answers), answers
        assert self.node.scp.wait_until_filed(LONG_S)

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.later += timedelta(seconds=seconds)

    def look(self) -> CaseRecord:
        """Look at the cases and return the one that is there."""
        self.schedule.look()
        (case,) = CaseBook(self.node.index).cases()
        return case

    def work(self) -> int:
        """Let every peer be asked as long as anything is due; return how often that was."""
        for rounds in range(MOST_ROUNDS):
            done = [self.fetching.work_once(peer) for peer in self.peers]
            if not any(done):
                return rounds
        raise AssertionError("peers are asked without end")

    def settle(self) -> CaseRecord:
        """Let quiet periods pass and peers be asked, until nothing changes; return the case."""
        for _ in range(8):
            self.turn(QUIET_S + 1)
            self.look()
            if not self.work():
                break
        return self.look()

    def held(self) -> set[str]:
        return {str(row.sop_instance_uid) for row in self.node.rows(INSTANCES)}

    def fetched(self) -> dict[str, tuple[str, str]]:
        """Return state and reason of each fetch by series."""
        with self.node.index.read() as connection:
            rows = connection.execute(FETCHES.select()).all()
        return {row.series: (row.state, row.reason) for row in rows}

    def job(self) -> dict[str, Any]:
        """Return what the computing child would be told."""
        with self.node.index.read() as connection:
            (row,) = connection.execute(REVISIONS.select()).all()
        found: dict[str, Any] = json.loads(row.job)
        return found

    def asked(self) -> list[Any]:
        with self.node.index.read() as connection:
            return list(connection.execute(QUESTIONS.select()).all())

    def findings(self) -> dict[str, list[str]]:
        """Return the texts of the case's findings by code."""
        found: dict[str, list[str]] = {}
        for one in self.look().findings:
            found.setdefault(one["code"], []).append(one["text"])
        return found


@contextmanager
def clinic(root: Path, port: int, peers: Sequence[Peer], *rules: FetchRule) -> Iterator[Clinic]:
    """Run a clinic whose node listens on a port."""
    root.mkdir(parents=True, exist_ok=True)
    section = NodeSection(port=port, network_timeout_s=30)
    with running(root, section=section, peers=(*PEERS, *peers)) as node:
        yield Clinic(node, tuple(peers), rules, port)
