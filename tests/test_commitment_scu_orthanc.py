"""Storage commitment as SCU against Orthanc: its reports, what it lost, what it still holds."""

import json
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from node.config import Role
from node.index.states import CaseState
from tests.archives import orthanc
from tests.nodes import free_port, wait_for
from tests.owed_results import COMMITMENT_H, KINDS, owing, receiver
from tests.test_commitment_scu import ROUND_S, listening

pytestmark = pytest.mark.peers


def rest(folder: Path, path: str, *, method: str = "GET", body: bytes | None = None) -> object:
    """Ask Orthanc over its REST interface."""
    port = json.loads((folder / "orthanc.json").read_text())["HttpPort"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - likewise
        return json.load(answer)


def lose(folder: Path, sop_instance_uid: str) -> None:
    """Have Orthanc lose an object."""
    found = rest(folder, "/tools/lookup", method="POST", body=sop_instance_uid.encode())
    assert isinstance(found, list)
    (instance,) = (one["ID"] for one in found if one["Type"] == "Instance")
    rest(folder, f"/instances/{instance}", method="DELETE")


def held(folder: Path) -> int:
    """Return how many objects Orthanc holds."""
    instances = rest(folder, "/instances")
    assert isinstance(instances, list)
    return len(instances)


@pytest.mark.parametrize("transport", ["fast", "plain"])
def test_orthanc_when_asked_commits_over_an_association_of_its_own(
    tmp_path: Path, peer_program: Callable[[str], str], transport: str
) -> None:
    """Issue 6: commitment against Orthanc; what it lost is sent again and then committed."""
    port, folder = free_port(), tmp_path / "orthanc"
    with owing(tmp_path / "plain", receiver("pacs", port)) as node:
        results = node.owe()
        with (
            owing(
                tmp_path / "plain", receiver("pacs", port, Role.COMMIT), clock=node.clock
            ) as asking,
            listening(asking, transport) as node_port,
            orthanc(peer_program, folder, {"HILUM": node_port}, name="pacs", port=port),
        ):
            node.run_due()
            assert node.case().state is CaseState.DELIVERED
            assert held(folder) == len(KINDS)
            lose(folder, sorted(results)[0])
            # from now on the peer is to commit; an operator asks for the delivery again
            with asking.index.begin() as connection:
                connection.exec_driver_sql("UPDATE deliveries SET state = 'undelivered'")
                connection.exec_driver_sql("UPDATE cases SET state = 'undelivered'")
            asking.orders.reopen("c1", timedelta(hours=5), asking.clock())
            asking.run_due()

            def is_reported() -> bool:
                asking.clock.advance(seconds=ROUND_S)
                asking.run_due()
                return asking.case().state is CaseState.DELIVERED

            wait_for(is_reported, timeout_s=60, what="Orthanc to commit")
            assert {r["commitment"] for r in asking.case().receipts} == {"committed"}
            assert held(folder) == len(KINDS), "what was lost was sent again"
            assert asking.case().delivery_findings == ()


def test_orthanc_when_its_report_does_not_come_is_asked_what_it_holds(
    tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, 6: the time-out falls back to C-FIND at IMAGE level; what is missing is resent."""
    port, folder = free_port(), tmp_path / "orthanc"
    peer = receiver("pacs", port, Role.COMMIT, Role.QUERY)
    with (
        orthanc(peer_program, folder, {"HILUM": free_port()}, name="pacs", port=port),
        owing(tmp_path / "n", peer) as node,
    ):
        results = node.owe()
        node.run_due()
        assert node.delivery("pacs")["state"] == "committing"
        lose(folder, sorted(results)[0])
        node.clock.advance(hours=COMMITMENT_H, seconds=1)
        node.run_due()
        case = node.case()
        assert case.state is CaseState.DELIVERING
        assert "does not hold 1 of the objects it took" in case.reason
        counts = {(r["outcome"], r["commitment"]): r["objects"] for r in case.receipts}
        assert ("not_held", "") in counts
        node.clock.advance(seconds=ROUND_S)
        node.run_due()
        assert held(folder) == len(KINDS)
        node.clock.advance(hours=COMMITMENT_H, seconds=1)
        node.run_due()
        case = node.case()
    assert case.state is CaseState.DELIVERED
    ((text, code),) = {(f["text"], f["code"]) for f in case.delivery_findings}
    assert code == "commitment-found"
    assert text.startswith("peer pacs holds 5 objects but did not commit to keep them")
