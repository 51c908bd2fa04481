"""A department in simulated time: cases arrive, are computed by a stand-in, go to peers that fail.

Index, assembly, delivery decisions, association, commitment and retention are the node's own; the
sockets are real. Time is a clock that is moved, and computing leaves a result set of three small
objects after some minutes of it, or fails.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import cast

from node.commitment.committing import Committing
from node.commitment.holding import held_results
from node.commitment.reports import ReportDesk
from node.config import Config, NodeSection, Peer, Protocol
from node.delivering import Delivering
from node.index import Index
from node.index.commitments import CommitmentBook
from node.index.deliveries import DeliveryBook
from node.index.history_pruning import prune_history
from node.index.instances import InstanceBook
from node.index.runs import RevisionKey, RunBook
from node.index.standings import StandingBook
from node.outputs import OUTPUTS, Output
from node.peer_line import PeerLines
from node.retention import Retention
from node.retention_section import RetentionSection
from node.schedule import Schedule
from node.workflow import Workflow
from tests.bench.grown_index import Pattern, newcomer
from tests.owed_results import Clock, write_object

DAY_BEGINS_H, DAY_ENDS_H = 7.0, 18.0
TICK = timedelta(minutes=5)
COMPUTED_IN_A_TICK = 2
"""Cases that the machine computes in a tick: two at a time, four minutes each."""

KEEP_DAYS = 3.0
KINDS: tuple[Output, ...] = ("structure-set", "registration", "report")

LATE_SLICE, NEVER_WHOLE, FAILS = 0.05, 0.02, 0.03
"""Which part of the cases lacks a slice for two hours, lacks it for ever, cannot be computed."""

LATE = timedelta(hours=2)


@dataclass
class Department:
    """The node of a department, and what comes to it.

    Args:
        root: The data folder.
        one: What a case is made of.
        peers: Where results go: the first gets all, the others in turn.
        cases_a_day: How many come between morning and evening.
        seed: Of what arrives when, and what goes wrong with it.
    """

    root: Path
    one: Pattern
    peers: Sequence[Peer]
    cases_a_day: int
    seed: int = 1
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        names = tuple(peer.name for peer in self.peers)
        self.config = Config(
            node=NodeSection(
                port=0,
                data=self.root,
                quiet_s=600.0,
                incomplete_s=6 * 3600.0,
                network_timeout_s=0.3,
                delivery_retry_s=60.0,
                delivery_retry_cap_s=3600.0,
                delivery_give_up_h=36.0,
                commitment_timeout_h=12.0,
            ),
            peer=tuple(self.peers),
            protocol=(Protocol(name="liver", targets=("GTV*",), destinations=names),),
            retention=RetentionSection(
                keep_objects_days=KEEP_DAYS,
                keep_results_days=KEEP_DAYS,
                keep_unfinished_days=KEEP_DAYS,
            ),
        )
        self.index = Index(self.config.node.database_url)
        self.index.create()
        self.instances = InstanceBook(self.index)
        self.runs = RunBook(self.index)
        self.deliveries = DeliveryBook(self.index)
        workflow = cast(Workflow, None)  # what it would start, `tick` does
        self.schedule = Schedule(self.config, self.index, workflow, self.clock)
        self.schedule.resume()
        self.retention = Retention(self.config, self.index, self.clock)
        commitments = CommitmentBook(self.index)
        committing = Committing(
            self.config,
            commitments,
            ReportDesk(self.config, commitments, self.clock),
            self.clock,
            partial(held_results, self.config),
            report_wait_s=0.1,
        )
        self.lines = PeerLines(self.config.node.ae_title)
        self.delivering = Delivering(
            self.config,
            self.deliveries,
            StandingBook(self.index),
            committing,
            self.lines,
            self.clock,
        )
        self.attempts = 0
        self._random = random.Random(self.seed)
        self._number = 0
        self._results = 0
        self._late: list[tuple[datetime, int]] = []
        self._arrivals: list[datetime] = []
        self._planned: datetime | None = None

    def tick(self) -> None:
        """Let five minutes pass: what comes in them, and what is due at their end."""
        self.clock.now += TICK
        self._plan_the_day()
        while self._arrivals and self._arrivals[0] <= self.clock.now:
            self._arrivals.pop(0)
            self._arrive()
        while self._late and self._late[0][0] <= self.clock.now:
            _, number = self._late.pop(0)
            self._receive(number, slice(0, 1))
        self.schedule.look()
        for key in self.runs.due(self.clock.now)[:COMPUTED_IN_A_TICK]:
            self._compute(key)
        for delivery in self.deliveries.due(self.clock.now):
            self.attempts += 1
            self.delivering.attempt(delivery)

    def tidy(self) -> None:
        """Remove and forget what retention allows, as the schedule does."""
        while self.retention.run().is_more_due:
            pass
        # sooner than any configuration may ask for: two weeks are to show where it ends
        prune_history(self.index, self.clock.now - timedelta(days=KEEP_DAYS))

    def _plan_the_day(self) -> None:
        midnight = self.clock.now.replace(hour=0, minute=0, second=0, microsecond=0)
        if midnight == self._planned:
            return
        self._planned = midnight
        hours = (self._random.uniform(DAY_BEGINS_H, DAY_ENDS_H) for _ in range(self.cases_a_day))
        times = (midnight + timedelta(hours=h) for h in hours)
        self._arrivals = sorted(at for at in times if at > self.clock.now - TICK)

    def _arrive(self) -> None:
        self._number += 1
        fate = self._random.random()
        lacks_slice = fate < LATE_SLICE + NEVER_WHOLE
        self._receive(self._number, slice(1 if lacks_slice else 0, None))
        if fate < LATE_SLICE:
            self._late.append((self.clock.now + LATE, self._number))

    def _receive(self, number: int, part: slice) -> None:
        arrivals = newcomer(self.one, number, self.clock.now)[part]
        for arrival in arrivals:
            path = self.root / arrival.stored_file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(2048))
        self.instances.add_instances(arrivals)

    def _compute(self, key: RevisionKey) -> None:
        begun = self.runs.begin(key, self.clock.now)
        if begun is None:
            return
        self._results += 1
        if self._random.random() < FAILS:
            self.runs.fail(begun.key, "the stand-in was told to fail", self.clock.now)
            return
        folder = f"results/{key.case_id}/{key.revision}/out"
        paths = {}
        for place, kind in enumerate(KINDS):
            path = f"{folder}/{place}.dcm"
            paths[write_object(self.root / path, 10 * self._results + place)] = (path, kind)
        first, *others = (peer.name for peer in self.peers)
        destinations = {first: OUTPUTS, others[self._results % len(others)]: OUTPUTS}
        give_up = timedelta(hours=self.config.node.delivery_give_up_h)
        self.runs.adopt(begun.key, paths, {}, destinations, give_up, self.clock.now)


@contextmanager
def department(
    root: Path, one: Pattern, peers: Sequence[Peer], clock: Clock, cases_a_day: int
) -> Iterator[Department]:
    """Give a department whose lines and index are closed at the end."""
    root.mkdir(parents=True, exist_ok=True)
    found = Department(root, one, peers, cases_a_day, clock=clock)
    try:
        yield found
    finally:
        found.lines.close()
        found.index.close()
