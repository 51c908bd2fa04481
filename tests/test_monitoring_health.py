"""Health: a stuck process is found, one that takes nothing says why; who may read the metrics."""

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from node.config import Config, NodeSection
from node.index import Index
from node.index.instances import AssociationOutcome
from node.listener import AssociationServer
from node.monitoring.node_vitals import serve_vitals
from node.monitoring.vitals import Sign, Vitals
from node.recording import Carrier
from node.schedule import Schedule
from node.transport import Limits
from node.web.app import make_app
from node.web.desk import Desk
from node.web.monitoring import make_monitoring_app, may_read_metrics
from node.web.section import WebSection
from tests.nodes import wait_for
from tests.receiving_node import Node, associated, ct, encoded, running, status_of

LONG_S = 60.0
SOON_S = 0.3
"""How long a thread may stand still in these tests before it counts as stuck."""

THREADS_MAY_DIE = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""Here they are made to."""


def now() -> datetime:
    return datetime.now(UTC)


class Gate:
    """Work that takes as long as a test lets it."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_entered = threading.Event()

    def start_what_is_due(self) -> None:
        self.is_entered.set()
        self.goes_on.wait(LONG_S)

    def forget_ended(self, _before: datetime) -> None:
        pass


class Watched:
    """A receiving node with a schedule, and the routes that tell how it fares."""

    def __init__(self, node: Node, *, stalled_s: float) -> None:
        self.node, self.gate = node, Gate()
        config = Config(node=NodeSection(data=node.root, echo_every_min=0))
        workflow: Any = self.gate
        self.schedule = Schedule(config, node.index, workflow, now)
        self.vitals = serve_vitals(node.scp, self.schedule, None, now, stalled_s=stalled_s)
        desk = Desk(config, node.index, now, vitals=self.vitals)
        self.client = TestClient(make_monitoring_app(desk))
        self.schedule.start()

    def health(self) -> tuple[int, dict[str, str]]:
        answer = self.client.get("/health")
        return answer.status_code, answer.json()["troubles"]

    def ready(self) -> tuple[int, dict[str, str]]:
        answer = self.client.get("/ready")
        return answer.status_code, answer.json()["troubles"]

    def wait_for_trouble(self, name: str) -> str:
        """Wait until the process says that something of it is stuck; return what it says."""

        def told() -> str | None:
            status, troubles = self.health()
            assert (status == 503) is bool(troubles)
            return troubles.get(name)

        found: str = wait_for(told, timeout_s=LONG_S, what=f"{name} to be told")
        return found

    def wait_for_health(self) -> None:
        wait_for(lambda: self.health() == (200, {}), timeout_s=LONG_S, what="health")


@contextmanager
def watching(folder: Path, *, stalled_s: float) -> Iterator[Watched]:
    with running(folder) as node:
        found = Watched(node, stalled_s=stalled_s)
        try:
            yield found
        finally:
            found.gate.goes_on.set()
            found.schedule.stop()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Return a node in which nothing counts as stuck, however slow the machine is."""
    with watching(tmp_path, stalled_s=LONG_S) as found:
        yield found


@pytest.fixture
def soon_stuck(tmp_path: Path) -> Iterator[Watched]:
    with watching(tmp_path, stalled_s=SOON_S) as found:
        yield found


def test_process_when_all_is_well_lives_and_is_ready(watched: Watched) -> None:
    """Issue 8, 4: /health and /ready."""
    watched.wait_for_health()
    assert watched.ready() == (200, {})
    answer = watched.client.get("/metrics")
    assert answer.status_code == 401  # the test client comes from nowhere


def test_schedule_when_it_hangs_is_found_and_found_well_again(soon_stuck: Watched) -> None:
    """A tick that never ends: nothing would be computed or delivered any more."""
    soon_stuck.gate.is_entered.clear()
    soon_stuck.gate.goes_on.clear()
    assert "the schedule has stood still" in soon_stuck.wait_for_trouble("schedule")
    assert soon_stuck.ready()[0] == 503
    soon_stuck.gate.goes_on.set()
    soon_stuck.wait_for_health()


@THREADS_MAY_DIE
def test_filing_when_its_thread_has_ended_is_found(watched: Watched) -> None:
    """Objects would be promised and never reach the index."""

    def end() -> None:
        raise SystemExit

    filing = watched.node.scp._filing
    filing.end(Carrier(), AssociationOutcome.RELEASED, now(), end)
    assert "files what was received has ended" in watched.wait_for_trouble("receiving")


def test_filing_when_it_hangs_is_found(soon_stuck: Watched) -> None:
    """A database that neither takes nor refuses."""
    goes_on = threading.Event()
    filing = soon_stuck.node.scp._filing
    filing.end(Carrier(), AssociationOutcome.RELEASED, now(), lambda: goes_on.wait(LONG_S) and None)
    assert "has been stuck" in soon_stuck.wait_for_trouble("receiving")
    goes_on.set()
    soon_stuck.wait_for_health()


def test_index_when_somebody_else_holds_it_is_not_mistaken_for_a_dead_thread(
    watched: Watched,
) -> None:
    """Objects are safe in the journal meanwhile; how many, and since when, is told."""
    path = watched.node.root / "index.sqlite"
    with closing(sqlite3.connect(path, timeout=LONG_S)) as other:
        other.execute("BEGIN IMMEDIATE")
        with associated(watched.node) as assoc:
            assert status_of(assoc, encoded(ct()), ct()) == 0
        wait_for(
            lambda: watched.node.scp.unfiled()[0] or watched.health()[1],
            timeout_s=LONG_S,
            what="something unfiled",
        )
        other.rollback()
    watched.wait_for_health()
    wait_for(lambda: watched.node.scp.unfiled() == (0, None), timeout_s=LONG_S, what="filing")


def limits() -> Limits:
    return Limits(connections=10, pdu_bytes=16_384, negotiation_s=10, silence_s=10)


def listener(may_connect: Callable[[str], bool]) -> AssociationServer:
    ae = AE("HILUM")
    ae.add_supported_context(Verification)

    def no_objects(*_asked: Any) -> Any:
        raise AssertionError("nobody sends")

    return AssociationServer(
        ae, ("127.0.0.1", 0), [], limits(), no_objects, may_connect=may_connect
    )


def test_listener_when_nobody_accepts_is_found() -> None:
    """Connections are taken by the system and wait: to their senders the node is silent."""
    goes_on = threading.Event()
    server = listener(lambda _address: goes_on.wait(LONG_S))
    port = server.start()
    assert server.why_stuck(0.0) == ""
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    found = wait_for(lambda: server.why_stuck(0.2), timeout_s=LONG_S, what="the trouble")
    assert found == "connections wait, and nobody accepts them"
    for line in lines:
        line.close()
    goes_on.set()
    wait_for(lambda: server.why_stuck(0.2) == "", timeout_s=LONG_S, what="the listener")
    server.stop(1.0)
    assert server.why_stuck(0.0) == ""  # it was asked to


@THREADS_MAY_DIE
def test_listener_when_its_thread_has_ended_is_found() -> None:
    """Nobody would ever be heard again."""

    def end(_address: str) -> bool:
        raise SystemExit

    server = listener(end)
    port = server.start()
    with closing(socket.create_connection(("127.0.0.1", port))):
        found = wait_for(lambda: server.why_stuck(60), timeout_s=LONG_S, what="the trouble")
    assert found == "the thread that accepts associations has ended"
    server.stop(1.0)


def test_disk_when_it_has_no_room_makes_the_node_not_ready_but_alive(tmp_path: Path) -> None:
    """Issue 8, 4: a full disk is no reason to start the process anew; senders go elsewhere."""
    with running(tmp_path, min_free_bytes=1 << 60) as node:
        watched = Watched(node, stalled_s=LONG_S)
        try:
            watched.wait_for_health()
            status, troubles = watched.ready()
        finally:
            watched.schedule.stop()
    assert status == 503
    assert troubles == {
        "storage": "the disk has less free room than node.min_free_mib and min_free_percent demand"
    }
    assert str(tmp_path) not in str(troubles)


def test_node_when_it_stops_is_not_ready(watched: Watched) -> None:
    """A balancer sends nobody here any more."""
    watched.node.scp.stop()
    assert watched.ready() == (503, {"storage": "the node is stopping"})


def test_sign_when_it_cannot_be_read_is_a_bad_sign_without_its_text() -> None:
    """What an exception quotes is nobody's business."""

    def secret() -> str:
        raise RuntimeError("password=4711")

    vitals = Vitals(life=(Sign("disk", secret),), readiness=(Sign("other", lambda: "no"),))
    assert vitals.troubles_of_life() == {"disk": "cannot be told (RuntimeError)"}
    assert vitals.troubles() == {"disk": "cannot be told (RuntimeError)", "other": "no"}


# --- who may read the metrics -----------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    found = Index(f"sqlite:///{tmp_path_factory.mktemp('index') / 'index.sqlite'}")
    found.create()
    yield found
    found.close()


@pytest.mark.parametrize(
    ("address", "settings", "may"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("10.1.2.3", {}, False),
        ("10.1.2.3", {"metrics_open_to": ["10.1.0.0/16"]}, True),
        ("10.2.2.3", {"metrics_open_to": ["10.1.0.0/16"]}, False),
        ("127.0.0.1", {"behind_proxy": True, "hosts": ["h"]}, False),
        ("nowhere", {}, False),
    ],
)
def test_metrics_are_open_on_this_machine_and_where_the_operator_says(
    address: str, settings: dict[str, Any], may: bool
) -> None:
    """Issue 8, 4: behind a proxy everybody seems to be here."""
    assert may_read_metrics(address, WebSection.model_validate(settings)) is may


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("10.1.2.3", "node.clinic.example", 200),
        ("10.9.9.9", "node.clinic.example", 401),
        ("127.0.0.1", "evil.example", 421),  # DNS rebinding: a page elsewhere reads along
    ],
)
def test_metrics_when_asked_through_the_guard_of_the_page(
    address: str, host: str, status: int, index: Index
) -> None:
    """The page's guard lets monitoring in without a login, and nobody else."""
    section = WebSection.model_validate({
        "metrics_open_to": ["10.1.0.0/16"],
        "login": True,
        "hosts": ["node.clinic.example"],
    })  # fmt: skip
    app = make_app(Desk(Config(web=section), index, now))
    client = TestClient(app, base_url="http://127.0.0.1", client=(address, 4711))
    headers = {"accept": "text/plain", "host": host}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == status
    assert ("hilum_cases" in answer.text) is (status == 200)
    assert client.get("/health", headers=headers).status_code == 200
