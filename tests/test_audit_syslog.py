"""The trail on its way to a syslog collector over TLS: nothing lost, nobody trusted unseen."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.audit.files import AuditFiles
from node.audit.section import AuditSyslog
from node.audit.syslog import SyslogSender
from tests.audit_schema import syslog_message
from tests.authority import Authority
from tests.collector import SyslogCollector, collecting
from tests.nodes import free_port, wait_for

LONG_S = 60.0


def now() -> datetime:
    return datetime.now(UTC)


def write(files: AuditFiles, *numbers: int) -> None:
    files.append(
        [f"<85>1 2026-03-01T12:00:00Z h hilum 1 M - \ufeff<n{n}/>" for n in numbers], now()
    )


def numbers_of(lines: list[str]) -> list[int]:
    return [int(syslog_message(line).message[2:-2]) for line in lines]


def section(collector: SyslogCollector | int, authority: Authority, **more: Path) -> AuditSyslog:
    port = collector if isinstance(collector, int) else collector.port
    return AuditSyslog(host="127.0.0.1", port=port, authorities=authority.certificate, **more)


def wait_for_lines(collector: SyslogCollector, count: int) -> None:
    wait_for(lambda: len(set(collector.lines)) >= count, timeout_s=LONG_S, what=f"{count} lines")


@pytest.fixture
def files(tmp_path: Path) -> AuditFiles:
    return AuditFiles(tmp_path / "trail", largest_bytes=1000)


@pytest.fixture
def senders() -> Iterator[list[SyslogSender]]:
    started: list[SyslogSender] = []
    yield started
    for sender in started:
        sender.stop(10)


def start(
    senders: list[SyslogSender], settings: AuditSyslog, files: AuditFiles, folder: Path
) -> SyslogSender:
    sender = SyslogSender(settings, files, folder)
    senders.append(sender)
    sender.start()
    return sender


def test_lines_when_written_reach_the_collector_framed_and_in_order(
    files: AuditFiles, tmp_path: Path, authority: Authority, senders: list[SyslogSender]
) -> None:
    """Issue 8, 5: syslog over TLS with a certificate of our own, too (RFC 5425)."""
    own = authority.issue("node")
    write(files, *range(60))
    with collecting(authority, asks_certificate=True) as collector:
        settings = section(collector, authority, certificate=own.certificate, key=own.key)
        sender = start(senders, settings, files, tmp_path / "trail")
        wait_for_lines(collector, 60)
        write(files, *range(60, 75))
        sender.notice()
        wait_for_lines(collector, 75)
        assert sender.is_connected
        assert sender.unsent_bytes() == 0
        assert numbers_of(collector.lines) == list(range(75))
        assert collector.connections == 1
        sender.stop(10)


def test_collector_when_it_comes_late_gets_all_that_was_written(
    files: AuditFiles, tmp_path: Path, authority: Authority, senders: list[SyslogSender]
) -> None:
    """The files are the spool: a collector that is away costs nothing but time."""
    port = free_port()
    sender = start(senders, section(port, authority), files, tmp_path / "trail")
    write(files, *range(30))
    assert sender.unsent_bytes() > 0
    with collecting(authority, port=port) as collector:
        wait_for_lines(collector, 30)
        assert numbers_of(collector.lines) == list(range(30))
        sender.stop(10)


def test_connection_when_it_breaks_costs_no_message(
    files: AuditFiles, tmp_path: Path, authority: Authority, senders: list[SyslogSender]
) -> None:
    """What may not have arrived is sent again; each arrives, perhaps twice, in order."""
    with collecting(authority, hang_ups=(20, 3)) as collector:
        write(files, *range(300))
        sender = start(senders, section(collector, authority), files, tmp_path / "trail")
        wait_for_lines(collector, 300)
        sender.stop(10)
    first_seen = list(dict.fromkeys(numbers_of(collector.lines)))
    assert first_seen == list(range(300))
    assert collector.connections == 3


def test_sender_when_started_again_goes_on_where_it_was(
    files: AuditFiles, tmp_path: Path, authority: Authority, senders: list[SyslogSender]
) -> None:
    """A restart sends neither all of it again nor leaves anything out."""
    with collecting(authority) as collector:
        write(files, *range(40))
        start(senders, section(collector, authority), files, tmp_path / "trail")
        wait_for_lines(collector, 40)
        senders[0].stop(10)
        write(files, *range(40, 45))
        start(senders, section(collector, authority), files, tmp_path / "trail")
        wait_for_lines(collector, 45)
        senders[1].stop(10)
    assert numbers_of(collector.lines) == list(range(45))


def test_collector_when_nobody_vouches_for_it_gets_nothing(
    files: AuditFiles,
    tmp_path: Path,
    authority: Authority,
    senders: list[SyslogSender],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Patients may be named in the trail: it goes to whom we trust only."""
    stranger = Authority(tmp_path / "stranger", authority.openssl, "stranger")
    write(files, 1)
    with collecting(stranger) as collector, caplog.at_level(logging.WARNING):
        start(senders, section(collector, authority), files, tmp_path / "trail")
        wait_for(lambda: caplog.records, timeout_s=LONG_S, what="the refusal")
        senders[0].stop(10)
    assert collector.lines == []
    assert {record.message for record in caplog.records} == {"audit.not_sent"}


def test_processes_of_one_machine_take_turns(
    files: AuditFiles, tmp_path: Path, authority: Authority, senders: list[SyslogSender]
) -> None:
    """Two processes that share the folder send each line once; the second takes over."""
    with collecting(authority) as collector:
        settings = section(collector, authority)
        for _ in range(2):
            start(senders, settings, files, tmp_path / "trail")
        write(files, *range(10))
        wait_for_lines(collector, 10)
        assert collector.connections == 1
        for sender in senders:
            if sender.is_connected:
                sender.stop(10)
        write(files, *range(10, 20))
        wait_for_lines(collector, 20)
        for sender in senders:
            sender.stop(10)
    assert numbers_of(collector.lines) == list(range(20))
