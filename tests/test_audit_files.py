"""The audit trail's files: nothing torn, nothing lost, a new file each day, removed in time."""

import os
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from node.audit.files import AuditFiles, Place
from node.audit.subjects import installation_secret

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def lines(files: AuditFiles, place: Place | None = None) -> list[str]:
    return [line for line, _ in files.lines_after(place, 10_000)]


def test_lines_when_appended_are_there_in_order_and_not_for_everybody(tmp_path: Path) -> None:
    """Issue 8, 5: to file; patients may be named in it."""
    files = AuditFiles(tmp_path / "audit")
    files.append(["one", "two"], NOON)
    files.append(["Zoë"], NOON)
    assert lines(files) == ["one", "two", "Zoë"]
    (path,) = files.files()
    assert path.stat().st_mode & 0o007 == 0


def test_line_that_a_power_cut_tore_is_ended_before_the_next(tmp_path: Path) -> None:
    """What follows a torn line is whole."""
    files = AuditFiles(tmp_path)
    files.append(["whole"], NOON)
    (path,) = files.files()
    with path.open("ab") as file:
        file.write(b"<85>1 to")
    assert lines(files) == ["whole"]
    files.append(["next"], NOON)
    assert lines(files) == ["whole", "<85>1 to", "next"]


def test_file_when_the_day_ends_or_it_is_long_is_followed_by_another(tmp_path: Path) -> None:
    """Rotated by day and size; places lead from one to the next."""
    files = AuditFiles(tmp_path, largest_bytes=10)
    for number in range(4):
        files.append([f"line {number}"], NOON)
    files.append(["tomorrow"], NOON + timedelta(days=1))
    assert [path.name for path in files.files()] == [
        "audit-2026-03-01.0000.log",
        "audit-2026-03-01.0001.log",
        "audit-2026-03-02.0000.log",
    ]
    found = list(files.lines_after(None, 10))
    assert [line for line, _ in found] == ["line 0", "line 1", "line 2", "line 3", "tomorrow"]
    for at, (_, place) in enumerate(found):
        assert lines(files, place) == [line for line, _ in found[at + 1 :]]
    assert files.bytes_after(found[3][1]) == len("tomorrow\n")


def test_clock_when_put_back_goes_on_in_the_newest_file(tmp_path: Path) -> None:
    """The order of the lines is that in which they were written."""
    files = AuditFiles(tmp_path)
    files.append(["first"], NOON)
    files.append(["second"], NOON - timedelta(days=3))
    assert lines(files) == ["first", "second"]


def test_files_when_their_time_is_over_are_removed(tmp_path: Path) -> None:
    """Issue 8, 5: kept for audit.keep_days; what came after a removed file is still found."""
    files = AuditFiles(tmp_path)
    for day in range(3):
        files.append([f"day {day}"], NOON + timedelta(days=day))
    (_, place), *_ = files.lines_after(None, 1)
    assert files.remove_before(date(2026, 3, 3)) == 2
    assert lines(files) == lines(files, place) == ["day 2"]


def test_processes_when_they_write_at_once_tear_no_line(tmp_path: Path) -> None:
    """A command writes beside a running node."""

    def write(name: str) -> None:
        files = AuditFiles(tmp_path, largest_bytes=2000)
        for number in range(30):
            files.append([f"{name} {number} " + "x" * 200], NOON)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(AuditFiles(tmp_path))
    assert len(found) == 120
    for name in "abcd":
        mine = [line.split()[1] for line in found if line.startswith(f"{name} ")]
        assert mine == [str(number) for number in range(30)]


def test_secret_when_two_begin_at_once_is_one_and_for_nobody_else(tmp_path: Path) -> None:
    """The same patient has the same pseudonym, whoever writes."""
    found: list[bytes] = []
    start = threading.Barrier(4)

    def make() -> None:
        start.wait()
        found.append(installation_secret(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found[0]) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["audit.secret"]
    assert (tmp_path / "audit.secret").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_when_it_may_not_be_written_is_told(tmp_path: Path) -> None:
    """The caller decides what to do about it."""
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        AuditFiles(tmp_path / "audit").append(["x"], NOON)
