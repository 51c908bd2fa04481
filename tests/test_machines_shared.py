"""What several processes share, piece by piece: turns, signs of life, names, starts that count."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from node.config import Config, NodeSection, Protocol, read_config
from node.doctor_sharing import check_offset, check_password_file, check_processes, check_sharing
from node.errors import ConfigError, NodeError
from node.index import Index
from node.index.cases import CaseBook
from node.index.heartbeats import Heartbeats, ProcessIdentity
from node.index.instances import InstanceBook
from node.index.tables import ASSOCIATIONS
from node.journal import Journal
from node.membership import SERVE, WORKER, Membership
from node.process_name import serve_name, worker_name
from node.receiver import StandInReceiver
from node.recovery import Recovery
from node.schedule import Schedule
from node.shared_folder import require_folder
from node.storage import StoredFile
from node.worker import Worker
from node.workflow import Workflow
from tests.nodes import free_port
from tests.owed_results import KINDS, owing, receiver
from tests.postgres import PostgresServer
from tests.receiving_node import LONG_S
from tests.receiving_node import ct as received_ct
from tests.stored_instances import ct
from tests.test_filing import Process

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMIT_S = 60.0


@pytest.fixture
def other_index(postgres_index: Index) -> Iterator[Index]:
    """Return the same index as another process has it."""
    other = Index(postgres_index.engine.url.render_as_string(hide_password=False))
    yield other
    other.close()


# --- turns ---------------------------------------------------------------------------------------


def clockwork(index: Index, folder: Path) -> Schedule:
    config = Config(
        node=NodeSection(data=folder, quiet_s=10.0),
        protocol=(Protocol(name="liver", targets=("GTV*",)),),
    )
    return Schedule(config, index, cast("Workflow", None), lambda: NOW)


def store_ct(index: Index) -> None:
    for number, one in enumerate(ct()):
        file = StoredFile(f"objects/{number}", f"{number:064}", 1)
        InstanceBook(index).add_instance(one.header, file, None, "scanner", NOW)


def test_patient_when_another_process_has_the_turn_is_looked_at_with_the_next_tick(
    postgres_index: Index, other_index: Index, tmp_path: Path
) -> None:
    """Two serves that look at one patient at the same time would each open a revision."""
    work = clockwork(postgres_index, tmp_path)
    store_ct(postgres_index)
    with other_index.turn() as is_ours:
        assert is_ours
        work.look()
        assert CaseBook(postgres_index).cases() == []
        assert InstanceBook(postgres_index).looked_row() == 0, "whoever dies now is not missed"
    work.look()
    assert len(CaseBook(postgres_index).cases()) == 1


def test_two_serves_when_they_look_at_the_same_moment_make_each_case_once(
    postgres_index: Index, other_index: Index, tmp_path: Path
) -> None:
    """Whoever is second sees what the first has made, or waits for the next tick."""
    both = [clockwork(index, tmp_path) for index in (postgres_index, other_index)]
    store_ct(postgres_index)
    start = threading.Barrier(2)

    def look(work: Schedule) -> None:
        start.wait()
        for _ in range(20):
            work.look()

    threads = [threading.Thread(target=look, args=(work,)) for work in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    (record,) = CaseBook(postgres_index).cases()
    case = CaseBook(postgres_index).case(record.case_id)
    assert case is not None
    assert [page["state"] for page in case.history] == ["waiting"]


def test_process_that_slept_through_its_turn_has_written_nothing(
    postgres_index: Index, other_index: Index
) -> None:
    """A zombie: the database has ended its transaction, another one has had the turn since."""
    book = Heartbeats(postgres_index)

    def sleep_in_turn() -> None:
        with postgres_index.turn() as is_ours:
            assert is_ours
            book.beat(ProcessIdentity("sleeper", SERVE, "1"), NOW)
            with other_index.begin() as connection:  # what the database does after a while
                end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                assert connection.exec_driver_sql(end).scalar()
            with other_index.turn() as is_theirs:
                assert is_theirs
            book.beat(ProcessIdentity("sleeper", SERVE, "1"), NOW)

    with pytest.raises(sa.exc.DBAPIError):
        sleep_in_turn()
    assert book.signs() == []


def test_transactions_end_when_they_do_nothing(postgres_index: Index) -> None:
    """Whoever is stopped in a transaction keeps its locks from the others for a while only."""
    with postgres_index.read() as connection:
        found = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
    assert found == "30s"


# --- signs of life -------------------------------------------------------------------------------


class Steady:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Crowd:
    """Processes that give signs of life, and one that looks."""

    def __init__(self, index: Index) -> None:
        self.book = Heartbeats(index)
        self.steady = Steady()
        self.me = self._member("b.serve", SERVE, NOW)
        # that clocks differ by hours matters to nobody
        self.other = self._member("a.serve", SERVE, NOW - timedelta(hours=11))
        self.worker = self._member("a.worker-1", WORKER, NOW + timedelta(hours=11))

    def _member(self, name: str, role: str, now: datetime) -> Membership:
        identity = ProcessIdentity(name, role, "1.0", "host")
        return Membership(self.book, identity, LIMIT_S, lambda: now, self.steady)

    def pass_time(self, seconds: float, *living: Membership) -> None:
        """Let time pass, in which some give signs and `me` looks."""
        for _ in range(round(seconds / 10)):
            self.steady.seconds += 10
            for one in (self.me, *living):
                one.beat()
            self.me.look()


@pytest.fixture
def crowd(postgres_index: Index) -> Crowd:
    found = Crowd(postgres_index)
    found.other.beat()
    found.worker.beat()
    found.me.look()
    return found


def test_process_when_its_signs_cease_is_silent_within_the_limit(crowd: Crowd) -> None:
    """And only then; that is noticed once."""
    crowd.pass_time(20, crowd.other)
    assert crowd.me.silent() == {}
    crowd.pass_time(20, crowd.other)
    assert list(crowd.me.silent()) == ["a.worker-1"]
    names = ("a.serve", "a.worker-1", "b.serve", "c.serve")
    assert [name for name in names if crowd.me.is_alive(name)] == ["a.serve", "b.serve"]
    crowd.pass_time(20, crowd.other)
    assert list(crowd.me.silent()) == ["a.worker-1"]
    crowd.pass_time(10, crowd.other, crowd.worker)
    assert crowd.me.silent() == {}


def test_nobody_when_the_looking_one_was_away_is_silent(crowd: Crowd) -> None:
    """The database was down, or this process was stopped: it cannot say what others did."""
    crowd.steady.seconds += 500
    crowd.me.look()
    assert crowd.me.silent() == {}
    crowd.pass_time(40)
    assert sorted(crowd.me.silent()) == ["a.serve", "a.worker-1"]


def test_version_works_elsewhere_while_another_process_of_it_lives(crowd: Crowd) -> None:
    """What this one cannot read is left to that one."""
    assert crowd.me.works_elsewhere("1.0")
    assert not crowd.me.works_elsewhere("1.1")
    crowd.pass_time(40)
    assert not crowd.me.works_elsewhere("1.0"), "all others are silent"
    crowd.pass_time(10, crowd.worker)
    assert crowd.me.works_elsewhere("1.0")


def test_first_of_a_role_is_the_first_that_lives(crowd: Crowd) -> None:
    """What one is to do passes to the next, and back."""
    assert not crowd.me.is_first()
    crowd.pass_time(40, crowd.worker)
    assert crowd.me.is_first()
    crowd.pass_time(10, crowd.other)
    assert not crowd.me.is_first()
    crowd.other.leave()
    assert crowd.me.look(), "one has ended: what it waited for is waited for by others"
    assert crowd.me.is_first()


def test_process_of_which_only_work_is_left_is_silent_in_time(crowd: Crowd) -> None:
    """It never gave a sign: of an earlier version, or long forgotten."""
    crowd.me.look(["gone"])
    assert "gone" not in crowd.me.silent()
    for _ in range(3):
        crowd.steady.seconds += 10
        crowd.me.look(["gone"])
    assert "gone" in crowd.me.silent()


# --- names ---------------------------------------------------------------------------------------


def shared(folder: Path, name: str | None = "h") -> NodeSection:
    return NodeSection(data=folder, database="postgresql://u@h/d", name=name)


def test_names_when_taken_are_of_one_process_each(tmp_path: Path) -> None:
    """A serve has its name for itself; workers take the first that is free; both come back."""
    serve = serve_name(shared(tmp_path))
    with pytest.raises(NodeError, match=r"another process named h\.serve works") as caught:
        serve_name(shared(tmp_path))
    assert "node.name" in caught.value.hint
    other = serve_name(shared(tmp_path, "g"))
    first, second = worker_name(shared(tmp_path)), worker_name(shared(tmp_path))
    names = [one.name for one in (serve, other, first, second)]
    assert names == ["h.serve", "g.serve", "h.worker-1", "h.worker-2"]
    first.release()
    third = worker_name(shared(tmp_path))
    assert third.name == "h.worker-1"
    for one in (serve, other, second, third):
        one.release()


def test_single_node_when_it_runs_refuses_a_second(tmp_path: Path) -> None:
    """SQLite: one process for a folder, as ever."""
    held = serve_name(NodeSection(data=tmp_path))
    with pytest.raises(NodeError, match="another node already works"):
        serve_name(NodeSection(data=tmp_path))
    held.release()
    assert held.name == "node"


def test_lone_node_and_processes_that_share_when_one_works_refuse_the_other(
    tmp_path: Path,
) -> None:
    """Two indexes in one folder; the lock of a lone node is also that of every earlier version."""
    lone = serve_name(NodeSection(data=tmp_path))
    for take in (serve_name, worker_name):
        with pytest.raises(NodeError, match="shares its work with nobody works") as caught:
            take(shared(tmp_path))
        assert caught.value.hint.startswith("stop it first")
    lone.release()
    worker = worker_name(shared(tmp_path))
    with pytest.raises(NodeError, match=r"that share PostgreSQL work in .*: h\.worker-1$"):
        serve_name(NodeSection(data=tmp_path))
    worker.release()
    serve_name(NodeSection(data=tmp_path)).release()


# --- starts that count ---------------------------------------------------------------------------


def test_sender_when_another_has_begun_the_delivery_sends_no_more(tmp_path: Path) -> None:
    """A zombie in the middle of a result set: the object at hand comes twice, and no other."""
    answered: list[str] = []

    def take_over(uid: str, _times: int) -> int:
        answered.append(uid)
        if len(answered) == 2:  # the first sender was stopped, and another one has begun
            (due,) = node.deliveries.due(node.clock())
            assert node.deliveries.begin(due) is not None
        return 0x0000

    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=take_over) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port)) as node,
    ):
        node.owe()
        (key,) = node.run_due()
        assert len(answered) == 2
        assert node.delivery("tps")["state"] == "pending"
        node.deliveries.put_off(key, "by the zombie", node.clock() + timedelta(hours=9), NOW)
        assert node.delivery("tps")["attempt"] == 0
        node.run_due()
        assert node.delivery("tps")["state"] == "delivered"
    times = [len(versions) for versions in tps.receipts.values()]
    assert sorted(times) == [1] * (len(KINDS) - 1) + [2]
    assert all(len(set(versions)) == 1 for versions in tps.receipts.values())


# --- filing for another --------------------------------------------------------------------------


def recovery_for(process: Process) -> Recovery:
    """Return what another process files with for this one."""
    journal = Journal(process.journal.folder)
    return Recovery(process.store, journal, InstanceBook(process.index), "node")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    process.recovery.recover(NOW)
    yield process
    process.filing.stop(LONG_S)
    process.index.close()


def test_promises_of_a_silent_process_when_filed_leave_its_journal_alone(silent: Process) -> None:
    """It may be alive: it goes on promising, and files what it promised itself, to no effect."""
    receipts = silent.promise(*[received_ct(n) for n in range(3)])
    other = recovery_for(silent)
    assert other.file_for(lambda: True, NOW) == {"filed": 3, "associations": 0}
    assert [row.path for row in silent.rows()] == [r.path for r in receipts]
    assert [row.outcome for row in silent.rows(ASSOCIATIONS)] == ["node stopped"]
    assert silent.journaled() == receipts
    assert other.file_for(lambda: True, NOW) == {"filed": 0, "associations": 0}
    receipts += silent.promise(received_ct(3))
    assert other.file_for(lambda: True, NOW) == {"filed": 1, "associations": 0}
    assert [row.path for row in silent.rows()] == [r.path for r in receipts]
    assert silent.files() == sorted(r.path for r in receipts)


def test_associations_of_a_process_that_is_back_stay_open(silent: Process) -> None:
    """Started again while another filed for it: what it receives now is still moving."""
    book = InstanceBook(silent.index)
    opened = book.open_association(
        calling_ae="CT1", peer_name="ct", address="h", opened_at=NOW, node_run="node"
    )
    recovery_for(silent).file_for(lambda: False, NOW)
    assert book.open_associations("node") == [opened]
    recovery_for(silent).file_for(lambda: True, NOW)
    assert book.open_associations("node") == []


def test_position_in_a_journal_when_two_file_from_it_never_goes_back(silent: Process) -> None:
    """Whoever is slower must not have what was filed filed again after a restart."""
    book = InstanceBook(silent.index)
    book.add_instances([], ("node", 9))
    book.add_instances([], ("node", 5))
    assert book.filed_up_to("node") == 9


# --- configuration and doctor --------------------------------------------------------------------


def test_password_when_it_stands_in_its_file_is_put_into_the_address(tmp_path: Path) -> None:
    """It never stands in the configuration; whatever characters it has."""
    (tmp_path / "secret").write_text("p@ss/word:ü \n", encoding="utf-8")
    (tmp_path / "hilum.toml").write_text(
        '[node]\ndatabase = "postgresql://hilum@db/hilum?sslmode=require"\n'
        'database_password_file = "secret"\n'
        '[[protocol]]\nname = "p"\ntargets = ["GTV"]\n',
        encoding="utf-8",
    )
    node = read_config(tmp_path / "hilum.toml").node
    url = sa.make_url(node.database_url)
    assert (url.drivername, url.password) == ("postgresql+psycopg", "p@ss/word:ü ")
    assert url.query["sslmode"] == "require"
    assert url.query["tcp_user_timeout"] == "30000"
    assert check_password_file(node).mend.startswith("chmod 640")
    (tmp_path / "secret").chmod(0o640)
    assert check_password_file(node).status == "ok"
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match=r"node.database_password_file: .*No such file"):
        assert node.database_url


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"database": "postgresql://u:secret@h/d"}, "database holds a password"),
        ({"database": "postgresql://u@h/d?password=secret"}, "database holds a password"),
        ({"database": "postgresql://u@h"}, "names no database"),
        ({"compute": False}, "compute = false needs workers"),
        ({"database_password_file": Path("x")}, "is for PostgreSQL"),
        ({"name": "a b"}, "should match pattern"),
    ],
)
def test_key_that_cannot_be_used_is_refused(keys: dict[str, object], problem: str) -> None:
    """And a password is not repeated in the message."""
    with pytest.raises(ValueError, match=problem) as caught:
        NodeSection.model_validate(keys)
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_doctor_tells_how_a_host_fits_in(postgres_index: Index, tmp_path: Path) -> None:
    """Issue 8: clock against the database, and who gave no sign of life."""
    url = postgres_index.engine.url.render_as_string(hide_password=False)
    node = NodeSection(data=tmp_path, database=url)
    now = datetime.now(UTC)
    book = Heartbeats(postgres_index)
    book.beat(ProcessIdentity("a.serve", SERVE, "1.0"), now)
    book.beat(ProcessIdentity("a.worker-1", WORKER, "1.0"), now)
    _folder, clock, processes = check_sharing(node)
    assert (clock.status, processes.status) == ("ok", "ok")
    assert processes.text == "1 serve, 1 worker; version 1.0"
    book.beat(ProcessIdentity("b.worker-1", WORKER, "1.1"), now)
    mixed = check_sharing(node)[-1]
    assert (mixed.status, mixed.text) == (
        "warn", "several versions work, 1.0: a.serve, a.worker-1; 1.1: b.worker-1"
    )  # fmt: skip
    late = check_processes(book.signs(), now + timedelta(seconds=61), 60.0)
    assert late.status == "warn"
    assert "a.serve since" in late.text
    assert check_offset(timedelta(seconds=-6)).text == "6.0 s behind the database"
    assert check_offset(timedelta(seconds=-6)).status == "warn"
    assert check_sharing(node.model_copy(update={"database": None})) == ()


def test_database_that_cannot_be_opened_is_told_with_the_mend(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """What the driver says is not repeated: it names hosts and users."""
    there = f"127.0.0.1:{postgres.port}"
    for address, why, mend in (
        (f"hilum@{there}/nothing", "it is not there", "createdb"),
        (f"hilum@127.0.0.1:{free_port()}/hilum", "nobody listens there", "start it"),
        ("hilum@nowhere.invalid/hilum", "its host is unknown", "correct node.database"),
    ):
        node = NodeSection(data=tmp_path, database=f"postgresql://{address}")
        index = Index(node.database_url)
        with pytest.raises(NodeError, match=why) as caught:
            index.create()
        assert mend in caught.value.hint
        index.close()


# --- the shared folder ---------------------------------------------------------------------------


def test_worker_without_the_shared_folder_is_refused(postgres_index: Index, tmp_path: Path) -> None:
    """A mount that is missing: every case would fail there for want of its objects."""
    url = postgres_index.engine.url.render_as_string(hide_password=False)
    config = Config(node=NodeSection(data=tmp_path / "unmounted", database=url, name="w"))
    store_ct(postgres_index)
    with pytest.raises(NodeError, match=r"the index knows objects, and .* holds none") as caught:
        Worker(config)
    assert "mount" in caught.value.hint
    (tmp_path / "unmounted" / "objects").mkdir()
    require_folder(config.node.data, postgres_index)
