"""What the journal promised survives; what is damaged ends it and harms nothing before."""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.disk import DiskCalls
from node.journal import FIRST_ROOM_BYTES, Journal


def opened(folder: Path, disk: DiskCalls | None = None, segment_bytes: int = 4096) -> Journal:
    journal = Journal(folder, disk or DiskCalls(), segment_bytes=segment_bytes)
    list(journal.open(0))
    return journal


def entries(folder: Path) -> list[tuple[int, bytes]]:
    return list(Journal(folder).open(0))


def append(journal: Journal, *payloads: bytes) -> list[int]:
    sequences: list[int] = []
    for payload in payloads:
        journal.append(payload, sequences.append)
    return sequences


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    """Numbers rise over restarts, above what the index knows as well."""
    journal = opened(tmp_path / "j")
    assert append(journal, b"one", b"two") == [1, 2]
    again = Journal(tmp_path / "j")
    assert list(again.open(7)) == [(1, b"one"), (2, b"two")]
    assert append(again, b"three") == [8]
    assert entries(tmp_path / "j") == [(1, b"one"), (2, b"two"), (8, b"three")]


def test_segments_follow_each_other(tmp_path: Path) -> None:
    """A full segment is left; an entry larger than a segment has one of its own."""
    journal = opened(tmp_path / "j", segment_bytes=256)
    payloads = [bytes([n]) * 100 for n in range(1, 8)] + [b"x" * 1000]
    append(journal, *payloads)
    assert [payload for _, payload in entries(tmp_path / "j")] == payloads
    assert len(list((tmp_path / "j").iterdir())) >= 4


@pytest.mark.parametrize("damage", ["cut", "bit", "length"])
def test_damage_ends_a_segment(tmp_path: Path, damage: str) -> None:
    """A torn write: what stands before it counts, and new entries go to another segment."""
    journal = opened(tmp_path / "j")
    append(journal, b"first", b"second")
    journal.close()
    (path,) = (tmp_path / "j").iterdir()
    content = bytearray(path.read_bytes())
    place = content.index(b"second")
    if damage == "cut":
        del content[place + 3 :]
    elif damage == "bit":
        content[place] ^= 1
    else:
        content[place - 16 : place - 12] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    again = opened(tmp_path / "j")
    assert append(again, b"third") == [2], "the damaged entry never counted"
    assert entries(tmp_path / "j") == [(1, b"first"), (2, b"third")]


def test_forgets_whole_segments_only(tmp_path: Path) -> None:
    """What is not filed stays; the segment in use stays."""
    journal = opened(tmp_path / "j", segment_bytes=256)
    append(journal, *[b"x" * 100] * 6)
    assert journal.may_forget(4)
    assert not journal.may_forget(1)
    journal.forget(4)
    assert [sequence for sequence, _ in entries(tmp_path / "j")] == [5, 6]


def test_synced_before_it_counts(tmp_path: Path) -> None:
    """`then` is called after the sync, and not at all if that fails."""
    calls: list[str] = []
    is_failing = threading.Event()

    def sync(descriptor: int) -> None:
        calls.append("sync")
        if is_failing.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    journal = opened(tmp_path / "j", replace(DiskCalls(), sync=sync))
    journal.make_ready()
    calls.clear()
    journal.append(b"one", lambda sequence: calls.append(f"then {sequence}"))
    assert calls == ["sync", "then 1"]
    is_failing.set()
    with pytest.raises(OSError, match="Input/output error"):
        journal.append(b"two", lambda sequence: calls.append(f"then {sequence}"))
    assert calls == ["sync", "then 1", "sync"]
    is_failing.clear()
    assert append(journal, b"three") == [3]
    found = [payload for _, payload in entries(tmp_path / "j")]
    assert found == [b"one", b"three"], "what was refused does not come back"


def test_disk_that_fails_is_given_little_to_write(tmp_path: Path) -> None:
    """A sender that tries again and again makes no megabytes of zeros each time."""
    written: list[int] = []

    def sync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(descriptor: int, piece: bytes | memoryview) -> int:
        written.append(len(piece))
        return os.write(descriptor, piece)

    failing = replace(DiskCalls(), sync=sync, write=write)
    journal = opened(tmp_path / "j", failing, segment_bytes=1 << 20)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output error"):
            append(journal, b"refused")
    assert written == [1 << 20, FIRST_ROOM_BYTES, FIRST_ROOM_BYTES]
    assert list((tmp_path / "j").iterdir()) == []
    journal.disk = replace(DiskCalls(), write=write)
    written.clear()
    payloads = [bytes([n]) * 60_000 for n in range(1, 7)]
    append(journal, *payloads)
    assert [size for size in written if size > 60_100] == [
        FIRST_ROOM_BYTES,
        2 * FIRST_ROOM_BYTES,
        4 * FIRST_ROOM_BYTES,
    ], "a disk that is well again gets segments of growing room"
    assert [payload for _, payload in entries(tmp_path / "j")] == payloads


def test_waiting_threads_share_a_sync(tmp_path: Path) -> None:
    """Group commit: while one syncs the others wait, and then one sync serves them all."""
    syncing, go_on = threading.Event(), threading.Event()
    syncs: list[int] = []

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        syncing.set()
        assert go_on.wait(20)
        os.fdatasync(descriptor)

    go_on.set()
    journal = opened(tmp_path / "j", replace(DiskCalls(), sync=sync))
    journal.make_ready()
    syncs.clear()
    syncing.clear()
    go_on.clear()
    done: list[int] = []

    def work() -> None:
        journal.append(b"payload", done.append)

    threads = [threading.Thread(target=work) for _ in range(8)]
    threads[0].start()
    assert syncing.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(journal._waiting) < 7:
        pass
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert done == list(range(1, 9))
    assert len(syncs) == 2


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"x" * (1 << 17)], ids=["empty", "too long"])
def test_unfit_payload_is_a_mistake(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """It would not be read back."""
    with pytest.raises(ValueError, match="payload"):
        append(opened(tmp_path / "j"), make())


def fails(_file: object, **_options: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_room_that_could_not_be_made_ready_is_not_used(tmp_path: Path) -> None:
    """An entry behind zeros that begin the segment would not be found again."""
    journal = opened(tmp_path / "j", replace(DiskCalls(), sync=fails))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        journal.make_ready()
    journal.disk = DiskCalls()
    append(journal, b"one")
    assert entries(tmp_path / "j") == [(1, b"one")]


def test_disk_that_lets_nothing_be_removed_either_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that fails is mounted read-only by the system, until somebody looks."""
    journal = opened(tmp_path / "j", replace(DiskCalls(), sync=fails))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as raised:
            append(journal, b"one")
    assert raised.value.__cause__ is not None, "of the sync, as all who waited are told"
    journal.disk = DiskCalls()
    append(journal, b"two")
    assert entries(tmp_path / "j") == [(2, b"two")]
