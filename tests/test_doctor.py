"""The doctor: every check against a folder, port or peer that is fit and one that is not."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.__main__ import app
from node.config import (
    Config,
    NodeSection,
    Peer,
    Protocol,
    Role,
    SecondOpinionSection,
    WebSection,
    default_config,
)
from node.doctor import (
    check_origin,
    check_peer,
    check_peer_table,
    check_ports,
    check_protocols,
    check_second_opinion,
    run_checks,
)
from node.doctor_machine import (
    Check,
    CheckStatus,
    check_clock,
    check_data_folder,
    check_file_clock,
    check_free_space,
    check_memory,
    check_native,
    check_native_libraries,
    check_open_files,
    check_python,
    check_sync,
)
from node.doctor_upkeep import check_database
from node.receiver import Rejection, StandInReceiver
from tests.nodes import free_port
from tests.outline_stand_in import CT_FAST_WEIGHTS, CT_WEIGHTS, RECORD, Bench

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

PATIENCE_S = 30.0


def config_with(*peers: Peer, **node: object) -> Config:
    names = tuple(peer.name for peer in peers if Role.RECEIVE in peer.roles)
    return Config(
        node=NodeSection.model_validate({"port": 11112, **node}),
        peer=peers,
        protocol=(Protocol(name="sbrt", targets=("GTV*",), destinations=names),),
        origin="file",
    )


def peer_with(port: int | None = 11113, *roles: Role, **other: str) -> Peer:
    names = {"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", **other}
    return Peer(**names, port=port, roles=roles or (Role.SEND,))  # type: ignore[arg-type]


def check_finding(check: Check, status: str, *words: str) -> None:
    """A finding has its status and words, and says what to mend exactly if it is not in order."""
    assert check.status == status, check
    assert bool(check.mend) == (status != "ok")
    for word in words:
        assert word in check.text + check.mend


def port_check(config: Config, echo_timeout_s: float = PATIENCE_S) -> Check:
    (check,) = check_ports(config, echo_timeout_s=echo_timeout_s)
    return check


def test_everything_is_in_order_when_it_is(tmp_path: Path) -> None:
    """Section 6: a fit machine and a peer that answers leave nothing to mend, and no trace."""
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        config = config_with(
            peer_with(receiver.port, Role.RECEIVE),
            data=tmp_path / "data",
            port=free_port(),
            min_free_mib=1.0,
            compute_memory_mib=64.0,
            max_associations=2,
        ).model_copy(update={"web": WebSection(port=0)})
        checks = run_checks(config, echo_timeout_s=10 * PATIENCE_S)
        # an echo, and whether it takes the results
        assert [seen.calling_ae for seen in receiver.associations] == ["HILUM", "HILUM"]
    # how fast this machine's disk is, and who keeps its clock, is not in the test's hands
    left_out = ("disk", "time server")
    assert [c for c in checks if c.status != "ok" and c.name not in left_out] == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names)) == 25
    assert {path.name for path in tmp_path.iterdir()} == {"tps"}


def test_defaults_are_pointed_out() -> None:
    """Section 6: without a file the node runs on the loopback only, and says so."""
    check_finding(check_origin(default_config()), "warn", "loopback only", "--config")
    check_finding(check_origin(config_with(peer_with())), "ok", "1 peers")


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10), "warn"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warn"), ((4, 0), "warn")],
)
def test_python_is_one_that_was_tested(version: tuple[int, int], status: str) -> None:
    """pyproject.toml names the versions."""
    check_finding(check_python(version), status, "Python")


def test_native_libraries_give_right_answers() -> None:
    """A.1.1: what we accept compressed must be decoded; a resampled ramp has a known value."""
    simpleitk, gdcm = check_native_libraries()
    check_finding(simpleitk, "ok", "resamples")
    check_finding(gdcm, "ok", "JPEG-LS", "JPEG 2000")


@pytest.mark.parametrize(
    ("probe", "words"),
    [(os.abort, "crashes"), (partial(int, "x"), "ValueError"), (partial(os._exit, 3), "crashes")],
)
def test_native_library_that_fails_is_a_finding(probe: Callable[[], str], words: str) -> None:
    """A library built for another processor kills its process, but not the doctor."""
    check_finding(check_native("library", probe), "fail", words, "install")


def test_data_folder_is_there_or_can_be_made(tmp_path: Path) -> None:
    """The folder is proved by a synced write, and not created."""
    check_finding(check_data_folder(tmp_path, 1.0)[0], "ok", "is writable")
    check_finding(check_data_folder(tmp_path / "a" / "b", 1.0)[0], "ok", "will be made")
    assert list(tmp_path.iterdir()) == []


def test_data_folder_is_a_file(tmp_path: Path) -> None:
    """A file in the way is reported, whether it stands for the folder or for a parent."""
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "data"):
        (check,) = check_data_folder(place, 1.0)
        check_finding(check, "fail", "is not a folder", "node.data")


def test_data_folder_cannot_be_written() -> None:
    """/proc takes no file, not even from root."""
    (check,) = check_data_folder(Path("/proc/hilum"), 1.0)
    check_finding(check, "fail", "cannot be written", "node.data")


def test_data_folder_has_no_room(tmp_path: Path) -> None:
    """Below node.min_free_mib or min_free_percent senders are refused: so it is a failure here."""
    for limits in ((1e12,), (0.0, 100.0)):
        (room,) = (c for c in check_data_folder(tmp_path, *limits) if c.name == "free space")
        check_finding(room, "fail", "MiB free")


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (check_free_space(1023.0, 1024.0), "fail"),
        (check_free_space(1024.0, 1024.0), "warn"),
        (check_free_space(2048.0, 1024.0), "ok"),
        (check_sync(0.5), "ok"),
        (check_sync(51.0), "warn"),
        (check_clock(datetime(1970, 1, 1, tzinfo=UTC)), "fail"),
        (check_clock(NOON), "ok"),
        (check_clock(datetime(2106, 2, 7, tzinfo=UTC)), "fail"),
        (check_file_clock(NOON, NOON - timedelta(seconds=1)), "ok"),
        (check_file_clock(NOON, NOON - MINUTE), "warn"),
        (check_file_clock(NOON, NOON + MINUTE), "warn"),
        (check_open_files(1024, 25), "ok"),
        (check_open_files(resource.RLIM_INFINITY, 1000), "ok"),
        (check_open_files(256, 25), "warn"),
        (check_open_files(1024, 1000), "warn"),
        (check_memory(8192.0, 8192.0), "ok"),
        (check_memory(4096.0, 8192.0), "warn"),
    ],
)
def test_limits(check: Check, status: str) -> None:
    """Each limit from both sides."""
    check_finding(check, status)


def test_clock_names_its_time_zone() -> None:
    """DICOM dates and times are local: a wrong zone shows only if it is told."""
    assert "+0000" in check_clock(NOON).text


def test_port_is_free() -> None:
    """Nobody listens there."""
    config = config_with(port=free_port())
    check_finding(port_check(config), "ok", "is free")


def test_port_is_held_by_the_running_node(tmp_path: Path) -> None:
    """The doctor may be asked while the node runs; it calls as a peer that the node admits."""
    with StandInReceiver(tmp_path, "HILUM") as node:
        config = config_with(peer_with(), port=node.port)
        check_finding(port_check(config), "ok", "HILUM listens")
        (seen,) = node.associations
    assert (seen.calling_ae, seen.called_ae) == ("TPS", "HILUM")


def test_port_is_held_by_another_dicom_node(tmp_path: Path) -> None:
    """A rejection does not tell whose node it is: a person decides."""
    with StandInReceiver(tmp_path, "OTHER") as other:
        other.rejection = Rejection.CALLED_AE_UNKNOWN
        config = config_with(port=other.port)
        check = port_check(config)
    check_finding(check, "warn", "is taken", "AE title", "node.port")


def test_port_is_held_by_another_program() -> None:
    """A listener that does not speak DICOM."""
    with _mute_listener() as port:
        check = port_check(config_with(port=port), 0.3)
    check_finding(check, "fail", "is taken", "node.port")


@pytest.mark.parametrize(
    ("host", "port", "status", "words"),
    [
        # TEST-NET-1 (RFC 5737): nobody's address
        ("192.0.2.1", 11112, "fail", "set node.host to an address of this machine"),
        ("node.invalid", 11112, "fail", "unknown"),
        ("127.0.0.1", 0, "warn", "fixed"),
    ],
)
def test_port_cannot_be_used(host: str, port: int, status: str, words: str) -> None:
    """Each reason has its own advice."""
    check = port_check(config_with(host=host, port=port))
    check_finding(check, status, words)


def test_peer_table_is_in_order() -> None:
    """Two peers on one machine are told apart by their AE titles."""
    config = config_with(peer_with(), peer_with(104, name="pacs", ae_title="PACS"))
    (check,) = check_peer_table(config)
    check_finding(check, "ok", "2 told apart")


@pytest.mark.parametrize(
    ("peers", "status", "words"),
    [
        ((), "fail", "none is configured"),
        ((peer_with(ae_title="HILUM"),), "warn", "our own AE title"),
        ((peer_with(11112),), "fail", "host and port of this node"),
        ((peer_with(11112, host="localhost"),), "fail", "host and port of this node"),
        ((peer_with(104), peer_with(105, name="pacs")), "warn", "tps wins"),
    ],
)
def test_peer_table_holds_what_cannot_work(
    peers: tuple[Peer, ...], status: str, words: str
) -> None:
    """A peer that is the node itself makes a loop; one that cannot be told apart is a guess."""
    (check,) = check_peer_table(config_with(*peers))
    check_finding(check, status, words)


def test_protocol_without_a_destination() -> None:
    """Results that go nowhere are allowed, but nobody should wait for them."""
    (check,) = check_protocols(config_with(peer_with()))
    check_finding(check, "warn", "no destination")
    (check,) = check_protocols(config_with(peer_with(104, Role.RECEIVE)))
    check_finding(check, "ok", "tps")
    (check,) = check_protocols(Config())
    check_finding(check, "fail", "[[protocol]]")


@pytest.mark.parametrize(("role", "status"), [(Role.SEND, "warn"), (Role.RECEIVE, "fail")])
def test_peer_that_is_away(role: Role, status: str) -> None:
    """A sender may sleep; a receiver that sleeps gets nothing."""
    check = check_peer(peer_with(free_port(), role), "HILUM", PATIENCE_S)
    check_finding(check, status, "does not accept connections", "firewall")


def test_peer_that_does_not_know_us(tmp_path: Path) -> None:
    """The commonest fault of a new installation says what to ask its administrator for."""
    with StandInReceiver(tmp_path, "TPS") as receiver:
        receiver.rejection = Rejection.CALLING_AE_UNKNOWN
        check = check_peer(peer_with(receiver.port, Role.RECEIVE), "HILUM", PATIENCE_S)
    check_finding(check, "fail", "does not know our AE title", "add our AE title HILUM")


def test_peer_whose_host_is_unknown() -> None:
    """Without an address, even what it sends is rejected."""
    check = check_peer(peer_with(104, host="tps.invalid"), "HILUM", PATIENCE_S)
    check_finding(check, "fail", "unknown", "name service")


@pytest.mark.parametrize("peer", [peer_with(None), peer_with(104, ae_title="*")])
def test_peer_that_is_never_called(peer: Peer) -> None:
    """A sender without a port, or any sender of this machine, cannot be asked."""
    check_finding(check_peer(peer, "HILUM", PATIENCE_S), "ok", "not asked")


@contextmanager
def _mute_listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_database_when_damaged_is_found(tmp_path: Path) -> None:
    """A damaged index or a wrong address is named before the node is started."""
    section = config_with(data=tmp_path).node
    assert check_database(section)[0].status == "ok"
    (tmp_path / "index.sqlite").write_bytes(b"this is no database at all " * 100)
    assert check_database(section)[0].status == "fail"
    wrong = section.model_copy(update={"database": "nonsense"})
    assert "address" in check_database(wrong)[0].text


def test_second_opinion_when_off_is_not_spoken_of() -> None:
    """Off by default: nobody misses it."""
    assert check_second_opinion(None) == ()


def test_second_opinion_when_it_lacks_anything_is_a_warning_each(tmp_path: Path) -> None:
    """The case is computed without: program, and the weights of the task that is configured."""
    bench = Bench(tmp_path, tmp_path)
    section = SecondOpinionSection(weights=bench.weights, program=bench.program)
    (absent,) = check_second_opinion(section)
    check_finding(absent, "warn", str(bench.program), "no program that can be run")
    bench.settings(RECORD)
    (found,) = check_second_opinion(section)
    check_finding(found, "ok", "TotalSegmentator")
    assert not bench.seen_file.exists(), "it must not be started"
    (lacking,) = check_second_opinion(section.model_copy(update={"fast": True}))
    check_finding(lacking, "warn", CT_FAST_WEIGHTS[0], "totalseg_download_weights -t total_fast")
    bench.program.unlink()
    both = check_second_opinion(section.model_copy(update={"weights": tmp_path / "gone"}))
    assert [c.status for c in both] == ["warn", "warn"]
    check_finding(both[1], "warn", CT_WEIGHTS[0], str(tmp_path / "gone"))


def test_second_opinion_when_configured_is_among_the_checks(tmp_path: Path) -> None:
    """`hilum doctor` tells of it."""
    section = SecondOpinionSection(weights=tmp_path / "gone")
    config = config_with(data=tmp_path, port=free_port())
    checks = run_checks(
        config.model_copy(update={"second_opinion": section}), echo_timeout_s=PATIENCE_S
    )
    assert "second opinion" in [each.name for each in checks]


def test_what_is_to_be_mended_is_told_whole_where_the_terminal_is_narrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path has no blank at which a line could end."""
    path = f"/{'a' * 150}z"
    found = Check("files", CheckStatus.WARN, f"{path} is odd", f"look at {path}")
    monkeypatch.setattr("node.doctor_files.check_files", lambda _config, _files: [found])
    told = CliRunner().invoke(app, ["doctor", "--files", str(tmp_path)], env={"COLUMNS": "80"})
    assert told.exit_code == 0
    assert told.stdout.count("a") >= 300
    assert told.stdout.count("z") == 2
