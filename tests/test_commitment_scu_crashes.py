"""A node that is killed while it delivers: nothing lost, nothing under two UIDs, nothing forgotten.

The moments are not random: the peer kills the node at the very message that is meant.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.index import Index
from node.outputs import OUTPUTS
from node.receiver import StandInReceiver
from tests.committing_peer import Behavior, CommittingPeer, committing
from tests.nodes import NodeProcess, wait_for
from tests.owed_results import KINDS, owe


def prepared(folder: Path, port: int, *, commits: bool) -> tuple[NodeProcess, set[str]]:
    """Return a node, not started, that owes a result set; and the UIDs of its objects."""
    node = NodeProcess(folder, {"tps": port})
    if commits:
        text = node.config.read_text().replace('["receive"]', '["receive", "commit"]')
        node.config.write_text(text)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    index = Index(f"sqlite:///{data / 'index.sqlite'}")
    index.create()
    results = owe(index, data, "c1", {"tps": OUTPUTS}, datetime.now(UTC))
    index.close()
    return node, set(results)


def once(action: Callable[[], None]) -> Callable[..., None]:
    """Return a function that does something the first time it is called."""
    pending = [action]
    return lambda *_: pending.pop()() if pending else None


def test_node_when_killed_between_send_and_record_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    """Issue 6, 5: the object is sent again under the same UID, with the same content."""
    calls = 0

    def kill_at_third(_uid: str, _times: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            node.kill()
        return 0x0000

    with StandInReceiver(tmp_path / "tps", "TPS", status_for=kill_at_third) as tps:
        node, uids = prepared(tmp_path / "node", tps.port, commits=False)
        node.start()
        wait_for(lambda: calls >= 3, timeout_s=60, what="the third object")
        with node:
            case = node.wait_for_state("delivered", "undelivered")
        receipts = tps.receipts
    assert case.state == "delivered"
    assert set(receipts) == uids
    assert sorted(len(digests) for digests in receipts.values()) == [1, 1, 1, 1, 2]
    assert {len(set(digests)) for digests in receipts.values()} == {1}


@contextmanager
def killed_when_asked(
    tmp_path: Path, hook: Callable[[CommittingPeer, Callable[..., None]], None]
) -> Iterator[tuple[CommittingPeer, NodeProcess]]:
    """Kill a node at the moment that `hook` arranges; give it, started again, with its peer."""
    with committing(Behavior(reports="never")) as peer:
        node, _ = prepared(tmp_path / "node", peer.port, commits=True)
        peer.node_port = node.port
        killed = threading.Event()

        def kill() -> None:
            node.kill()
            killed.set()

        hook(peer, once(kill))
        node.start()
        assert killed.wait(240)
        peer.behavior = Behavior()
        peer.on_commitment_request = None
        with node:
            yield peer, node


def test_node_when_killed_before_the_request_asks_under_the_same_transaction(
    tmp_path: Path,
) -> None:
    """The Transaction UID is written before it is sent: killed as the association opens."""

    def hook(peer: CommittingPeer, kill: Callable[..., None]) -> None:
        peer.on_commitment_request = lambda: kill()

    with killed_when_asked(tmp_path, hook) as (peer, node):
        assert peer.asked == []
        with closing(sqlite3.connect(tmp_path / "node" / "data" / "index.sqlite")) as index:
            written = index.execute("SELECT transaction_uid, asked_at FROM commitments").fetchall()
        assert node.wait_for_state("delivered").delivery_findings == ()
    assert [uid for uid, _ in peer.asked] == [uid for uid, _ in written]
    assert set(peer.stored.values()) == {1}


def test_node_when_killed_before_the_answer_asks_again_under_the_same_transaction(
    tmp_path: Path,
) -> None:
    """Killed between N-ACTION and its response: asked again, not sent again."""

    def hook(peer: CommittingPeer, kill: Callable[..., None]) -> None:
        def kill_first(_assoc: Any) -> int:
            kill()
            return 0x0000

        peer.behavior = Behavior(action_status=kill_first, reports="never")

    with killed_when_asked(tmp_path, hook) as (peer, node):
        assert node.wait_for_state("delivered").state == "delivered"
    assert len(peer.asked) == 2
    assert len({uid for uid, _ in peer.asked}) == 1
    assert len(peer.stored) == len(KINDS)
    assert set(peer.stored.values()) == {1}


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[CommittingPeer, NodeProcess]]:
    """Give a node that waits for the report of its peer, and runs."""
    with committing(Behavior(reports="never")) as peer:
        node, _ = prepared(tmp_path / "node", peer.port, commits=True)
        peer.node_port = node.port
        try:
            node.start()
            wait_for(
                lambda: "waited for" in node.case().reason, timeout_s=60, what="the report awaited"
            )
            yield peer, node
        finally:
            node.kill()


def test_node_when_killed_while_it_waits_takes_the_report_after_its_restart(
    waiting: tuple[CommittingPeer, NodeProcess],
) -> None:
    """Killed after the request: the transaction is known to the next process."""
    peer, node = waiting
    node.kill()
    node.start()
    ((transaction_uid, uids),) = peer.asked
    assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
    assert node.wait_for_state("delivered").state == "delivered"
    assert len(peer.asked) == 1


def test_node_when_killed_between_report_and_record_has_not_answered_it(
    waiting: tuple[CommittingPeer, NodeProcess],
) -> None:
    """A report is answered only when it is in the index; unanswered, it comes again."""
    peer, node = waiting
    ((transaction_uid, uids),) = peer.asked
    answers: list[int | None] = []
    path = node.folder / "data" / "index.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as lock:
        lock.execute("BEGIN IMMEDIATE")  # nobody can record anything now
        thread = threading.Thread(
            target=lambda: answers.append(peer.report_on_new_association(transaction_uid, uids))
        )
        thread.start()
        wait_for(lambda: peer.reports_sent, timeout_s=60, what="the report to be sent")
        thread.join(1.0)
        assert thread.is_alive(), "no answer before the record"
        node.kill()
        thread.join(60)
        lock.execute("ROLLBACK")
    assert answers == [None]
    node.start()
    assert node.case().state == "delivering"
    assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
    assert node.wait_for_state("delivered").state == "delivered"


def test_node_when_killed_between_record_and_deed_needs_no_second_report(
    waiting: tuple[CommittingPeer, NodeProcess],
) -> None:
    """What was answered with success is acted on, whatever dies next."""
    peer, node = waiting
    ((transaction_uid, uids),) = peer.asked
    assert peer.report_on_new_association(transaction_uid, uids) == 0x0000
    node.kill()
    node.start()
    assert node.wait_for_state("delivered").state == "delivered"
    assert len(peer.asked) == 1
