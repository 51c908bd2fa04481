"""Instance files survive a power cut, or are not there at all."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import StorageFullError
from node.storage import DiskCalls, ObjectStore, StoredFile

HEADER = b"\0" * 128 + b"DICM" + b"meta"
UID = "1.2.826.0.1"


def files_below(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def raiser(number: int) -> Callable[..., int]:
    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def recorder(calls: list[str], disk: DiskCalls) -> DiskCalls:
    """Return calls that do what `disk` does and note their names in order."""

    def noting(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            calls.append(name)
            return call(*arguments)

        return run

    names = ("write", "sync", "rename", "sync_directory")
    return replace(disk, **{name: noting(name, getattr(disk, name)) for name in names})  # type: ignore[arg-type]


def test_file_holds_header_and_bytes_as_sent(tmp_path: Path) -> None:
    """PS3.10 7.1: preamble, prefix, meta information, then the data set untouched."""
    store = ObjectStore(tmp_path, 0)
    stored = store.write(HEADER, b"data set", UID)
    assert store.read_path(stored.path).read_bytes() == HEADER + b"data set"
    assert stored.sha256 == hashlib.sha256(b"data set").hexdigest()
    assert stored.size_bytes == len(HEADER) + 8


def test_order_of_durability(tmp_path: Path) -> None:
    """Written, then synced, then renamed, then the directory synced: a cut never shows half."""
    calls: list[str] = []
    store = ObjectStore(tmp_path, 0, recorder(calls, DiskCalls()))
    calls.clear()
    store.write(HEADER, b"data set", UID)
    assert calls == ["write", "write", "sync", "rename", "sync_directory"]


def test_same_bytes_again_write_nothing_but_sync_the_directory(tmp_path: Path) -> None:
    """A sender that got no answer sends again; the first time may have stopped after the rename."""
    calls: list[str] = []
    store = ObjectStore(tmp_path, 0, recorder(calls, DiskCalls()))
    first = store.write(HEADER, b"data set", UID)
    calls.clear()
    assert store.write(HEADER, b"data set", UID) == first
    assert calls == ["sync_directory"]
    assert files_below(tmp_path) == [first.path]


def test_other_content_or_instance_is_another_file(tmp_path: Path) -> None:
    """Both versions of an instance are kept."""
    store = ObjectStore(tmp_path, 0)
    paths = {
        store.write(HEADER, b"one", UID).path,
        store.write(HEADER, b"two", UID).path,
        store.write(HEADER, b"one", UID + ".1").path,
    }
    assert len(paths) == 3


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a\0b", "ä" * 300])
def test_names_never_come_from_a_peer(tmp_path: Path, name: str) -> None:
    """Nothing that a peer sends may become part of a path."""
    stored = ObjectStore(tmp_path / "data", 0).write(HEADER, b"x", name)
    folder, inner, file = stored.path.split("/")
    assert folder == "objects"
    assert file.startswith(inner)
    assert set(file.removesuffix(".dcm")) <= set("0123456789abcdef")
    assert files_below(tmp_path) == [f"data/{stored.path}"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["write", "sync", "rename"])
def test_disk_that_refuses_leaves_nothing(tmp_path: Path, call: str, number: int) -> None:
    """0xA700 and a store as it was before; the next object is welcome again."""
    failing = replace(DiskCalls(), **{call: raiser(number)})  # type: ignore[arg-type]
    with pytest.raises(StorageFullError):
        ObjectStore(tmp_path, 0, failing).write(HEADER, b"x", UID)
    assert files_below(tmp_path) == []
    assert ObjectStore(tmp_path, 0).write(HEADER, b"x", UID).size_bytes == len(HEADER) + 1


def test_unforeseen_error_is_not_called_a_full_disk(tmp_path: Path) -> None:
    """A mistake of ours must not tell the sender to make room."""
    failing = replace(DiskCalls(), write=raiser(errno.EBADF))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        ObjectStore(tmp_path, 0, failing).write(HEADER, b"x", UID)
    assert files_below(tmp_path) == []


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A system may write less than it was given."""
    slow = replace(DiskCalls(), write=lambda fd, part: os.write(fd, bytes(part)[:3]))
    store = ObjectStore(tmp_path, 0, slow)
    assert (
        store.read_path(store.write(HEADER, b"data set", UID).path)
        .read_bytes()
        .endswith(b"data set")
    )


def test_room_is_asked_for_before_writing(tmp_path: Path) -> None:
    """The reserve of the configuration stays free."""
    calls: list[str] = []
    disk = recorder(calls, replace(DiskCalls(), free_bytes=lambda _path: 1000))
    store = ObjectStore(tmp_path, 1000 - len(HEADER) - 1, disk)
    store.write(HEADER, b"x", UID)
    calls.clear()
    with pytest.raises(StorageFullError, match="min_free_mib"):
        store.write(HEADER, b"xx", UID)
    assert calls == []


def test_recovery_removes_half_written_files_only(tmp_path: Path) -> None:
    """A killed process leaves its temporary file."""
    store = ObjectStore(tmp_path, 0)
    kept = store.write(HEADER, b"x", UID)
    (tmp_path / "incoming" / "dead.part").write_bytes(b"half")
    assert ObjectStore(tmp_path, 0).recover() == 1
    assert files_below(tmp_path) == [kept.path]


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "objects/../../x", "index.sqlite", "link/x"]
)
def test_paths_out_of_the_store_are_refused(tmp_path: Path, path: str) -> None:
    """A damaged index must not open other files."""
    store = ObjectStore(tmp_path, 0)
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="out of the store"):
        store.read_path(path)


def test_same_object_from_many_threads(tmp_path: Path) -> None:
    """Two senders may send the same object at the same moment."""
    store = ObjectStore(tmp_path, 0)
    start = threading.Barrier(8)
    results: list[StoredFile] = []

    def send() -> None:
        start.wait(timeout=10)
        results.append(store.write(HEADER, b"x" * 100_000, UID))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(results) == 8
    assert len(set(results)) == 1
    assert files_below(tmp_path) == [results[0].path]
