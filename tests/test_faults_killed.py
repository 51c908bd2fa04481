"""A node that is killed at random moments of a case's life finishes the case, once."""

import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.phantom import PhantomOptions, make_study
from node.receiver import StandInReceiver
from tests.nodes import LONG_S, RESULTS_WITHOUT_MR, NodeProcess, wait_for, write_datasets


@dataclass(frozen=True)
class Kills:
    """How often the node is killed beside once in receiving and once in the quiet period."""

    in_computing: int
    before_an_answer: int
    in_delivering: int


class Destination:
    """Decides what a planning system answers, and keeps one answer back until the node is dead."""

    def __init__(self) -> None:
        self.reached, self.node_is_dead = threading.Event(), threading.Event()
        self._left: int | None = None
        self._holds = False

    def expect(self, objects: int, *, holds: bool) -> None:
        """Tell by `reached` when so many objects have come; the last may wait for its answer."""
        self.reached.clear()
        self.node_is_dead.clear()
        self._left, self._holds = objects, holds

    def status_for(self, _uid: str, _times: int) -> int:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.reached.set()
                if self._holds:
                    self.node_is_dead.wait(LONG_S)
        return 0x0000


def wait_until(node: NodeProcess, *states: str) -> None:
    """Wait until the only case is in one of the states."""
    wait_for(lambda: set(node.states()) & set(states), timeout_s=LONG_S, what=" or ".join(states))


def start_sending(storescu: str, node: NodeProcess, folder: Path) -> "subprocess.Popen[bytes]":
    """Send in the background with DCMTK, as a scanner that is cut off in the middle."""
    arguments = ["-aec", "HILUM", "-aet", "SCANNER", "127.0.0.1", str(node.port)]
    return subprocess.Popen(
        [storescu, "--scan-directories", *arguments, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kills", [Kills(1, 2, 1), pytest.param(Kills(2, 4, 2), marks=pytest.mark.slow)], ids=str
)
def test_node_when_killed_at_random_moments_delivers_the_same_result_set(
    kills: Kills, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 2: SIGKILL at six or ten random moments of one case's life; the same result, once.

    The moments lie in every part of the life, from the first received object to the last delivered
    one. How long the computing takes is seen in an undisturbed life first.
    """
    storescu = peer_program("storescu")
    study = make_study(PhantomOptions(seed=7, size="tiny", contrasts=("T1",), with_dose=False))
    files = write_datasets(study.instances(), tmp_path / "study")
    with (
        StandInReceiver(tmp_path / "undisturbed-tps", "TPS") as quiet_tps,
        NodeProcess(tmp_path / "undisturbed", {"tps": quiet_tps.port}) as node,
    ):
        node.send(files)
        wait_until(node, "running", "delivering", "delivered")
        began_s = time.monotonic()
        wait_until(node, "delivering", "delivered")
        computing_s = time.monotonic() - began_s
        node.wait_for_state("delivered")
        expected = set(quiet_tps.receipts)
    # for the MR its registration, its images and a blending
    assert len(expected) == RESULTS_WITHOUT_MR + 1 + len(study.ct) + 1

    moments, destination = random.Random(20260301), Destination()
    with StandInReceiver(tmp_path / "tps", "TPS", status_for=destination.status_for) as tps:
        node = NodeProcess(tmp_path / "node", {"tps": tps.port})
        node.start()
        sender = start_sending(storescu, node, files[0].parent)
        time.sleep(moments.uniform(0.0, 1.0))
        node.kill()
        sender.wait()

        node.start()
        node.send(files)  # again, as a scanner does after a failed transfer
        time.sleep(moments.uniform(0.0, 1.0))
        node.kill()

        for _ in range(kills.in_computing):
            node.start()
            wait_until(node, "running", "delivering", "delivered")
            time.sleep(moments.uniform(0.0, 0.9 * computing_s))
            node.kill()

        for kill in range(kills.before_an_answer + kills.in_delivering):
            holds = kill < kills.before_an_answer
            destination.expect(moments.randint(1, 6), holds=holds)
            node.start()
            wait_for(
                lambda: destination.reached.is_set() or node.states() == ["delivered"],
                timeout_s=LONG_S,
                what="an object to be delivered",
            )
            node.kill()
            destination.node_is_dead.set()

        with node:
            case = node.wait_for_state("delivered", "failed", "rejected", "undelivered")
            assert case.state == "delivered", case
            assert case.revision == 1
            stored = list((node.folder / "data" / "objects").rglob("*.dcm"))
            spare = (node.folder / "data" / "spare").rglob("*")
            leftovers = [p for p in spare if p.is_file() and p.stat().st_size]
        receipts = tps.receipts
    assert len(stored) == len(files), "no instance lost, none twice"
    assert leftovers == []
    assert set(receipts) == expected, "the same UIDs, none more"
    for uid, versions in receipts.items():
        assert len(set(versions)) == 1, f"{uid} was delivered with two contents"
