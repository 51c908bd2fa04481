"""Instance files survive a power cut, or are not there at all."""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.disk import DiskCalls, DiskRoom, read_at_once
from node.errors import StorageFullError
from node.spare_files import SPARE_FILES
from node.storage import PROBE_S, READ_AT_ONCE_BYTES, ROOM_LOOKED_AT_S, ObjectStore

FRONT = b"\0" * 128 + b"DICM" + b"meta"
UID = "1.2.826.0.1"


def written(root: Path) -> list[str]:
    """Return every file that is not empty."""
    found = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size]
    return sorted(p.relative_to(root).as_posix() for p in found)


def raiser(number: int) -> Callable[..., int]:
    def fail(*_arguments: object, **_options: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def keep(store: ObjectStore, content: bytes = b"data set", uid: str = UID) -> str:
    file = store.receive(uid)
    file.write([FRONT, content])
    file.keep()
    return file.path


def test_file_holds_what_was_written(tmp_path: Path) -> None:
    """Pieces follow each other; the content can be read before and after it is kept."""
    store = ObjectStore(tmp_path, 0)
    file = store.receive(UID)
    file.write([FRONT, memoryview(b"data")])
    file.write([b" set"])
    with file.content(len(FRONT)) as content:
        assert bytes(content) == b"data set"
    assert written(tmp_path) == [file.spare]
    file.keep()
    assert written(tmp_path) == [file.path]
    assert store.read_path(file.path).read_bytes() == FRONT + b"data set"
    with store.content(file.path, len(FRONT)) as content:
        assert bytes(content) == b"data set"
    store.close()


def test_large_file_is_read_whole(tmp_path: Path) -> None:
    """Of any size, and a file that ends early is an error: no other hash is made of it."""
    store = ObjectStore(tmp_path, 0)
    large = os.urandom(2 * READ_AT_ONCE_BYTES + 5)
    path = keep(store, large)
    with store.content(path, len(FRONT)) as content:
        assert content == large
    descriptor = os.open(store.read_path(path), os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output error"):
        read_at_once(descriptor, len(FRONT) + len(large) + 1)
    os.close(descriptor)
    store.close()


def test_order_of_durability(tmp_path: Path) -> None:
    """Written into a file whose name is synced, synced, renamed: a cut never shows half."""
    calls: list[str] = []

    def noting(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            calls.append(name)
            return call(*arguments)

        return run

    names = ("write_pieces", "sync", "rename", "sync_directory")
    noted = {name: noting(name, getattr(DiskCalls(), name)) for name in names}
    store = ObjectStore(tmp_path, 0, disk=replace(DiskCalls(), **noted))  # type: ignore[arg-type]
    calls.clear()
    file = store.receive(UID)
    assert calls[:1] == ["sync_directory"], "of the spare files, before the first is used"
    file.write([FRONT])
    file.keep()
    assert [call for call in calls if call != "sync_directory"] == [
        "write_pieces",
        "sync",
        "rename",
    ]
    store.close()


def test_spare_files_are_made_ahead(tmp_path: Path) -> None:
    """A lot at a time, and none is left when the store is closed."""
    store = ObjectStore(tmp_path, 0)
    paths = {keep(store, uid=f"1.{n}") for n in range(3 * SPARE_FILES)}
    assert len(paths) == 3 * SPARE_FILES
    store.close()
    assert [p for p in (tmp_path / "spare").rglob("*") if p.is_file()] == []


def test_closed_stock_lets_nobody_wait(tmp_path: Path) -> None:
    """Who asks while the node stops is told, and does not hang; what was begun can be finished."""
    store = ObjectStore(tmp_path, 0)
    begun = store.receive(UID)
    store.close()
    with pytest.raises(OSError, match="stopping"):
        store.receive(UID)
    begun.write([FRONT])
    begun.keep()
    assert written(tmp_path) == [begun.path]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "x" * 300, "1.2.3/../4"])
def test_names_never_come_from_a_peer(tmp_path: Path, name: str) -> None:
    """Path traversal (peers.md 38): a name is a hash and nothing else."""
    store = ObjectStore(tmp_path, 0)
    path = keep(store, uid=name)
    assert written(tmp_path) == [path]
    folder, bucket, file = path.split("/")
    assert folder == "objects"
    assert file.startswith(bucket)
    assert set(file.removesuffix(".dcm")) <= set("0123456789abcdef")
    store.close()


@pytest.mark.parametrize("call", ["write_pieces", "sync", "rename"])
@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENOTCONN, errno.EMFILE],
)
def test_disk_that_refuses_leaves_nothing(tmp_path: Path, call: str, number: int) -> None:
    """A disk that is full, fails or is out of reach is told, and what was begun is removed."""
    disk = replace(DiskCalls(), **{call: raiser(number)})  # type: ignore[arg-type]
    store = ObjectStore(tmp_path, 0, disk=disk)
    file = store.receive(UID)

    def attempt() -> None:
        file.write([FRONT])
        file.keep()

    with pytest.raises(StorageFullError, match="the disk refuses to write"):
        attempt()
    file.discard()
    assert written(tmp_path) == []
    store.close()


def test_disk_that_makes_no_files_is_told_and_passes(tmp_path: Path) -> None:
    """No spare file can be made: refused, and as before once it can."""
    is_failing = threading.Event()

    def sync_directory(path: Path) -> None:
        if is_failing.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        DiskCalls().sync_directory(path)

    store = ObjectStore(tmp_path, 0, disk=replace(DiskCalls(), sync_directory=sync_directory))
    is_failing.set()
    for _ in range(3):
        with pytest.raises(StorageFullError):
            store.receive(UID)
    is_failing.clear()
    assert store.read_path(keep(store)).exists()
    store.close()
    assert written(tmp_path / "spare") == []


def test_unforeseen_error_is_not_called_a_full_disk(tmp_path: Path) -> None:
    """A mistake of ours must not look like the operator's."""
    disk = replace(DiskCalls(), write_pieces=raiser(errno.EINVAL))
    store = ObjectStore(tmp_path, 0, disk=disk)
    with pytest.raises(OSError, match="Invalid argument"):
        store.receive(UID).write([FRONT])
    store.close()


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """The system may write less than it was given."""
    disk = replace(
        DiskCalls(),
        write_pieces=lambda descriptor, pieces: os.write(descriptor, b"".join(pieces)[:5]),
        write=lambda descriptor, piece: os.write(descriptor, piece[:3]),
    )
    store = ObjectStore(tmp_path, 0, disk=disk)
    path = keep(store, b"a longer data set")
    assert store.read_path(path).read_bytes() == FRONT + b"a longer data set"
    store.close()


@pytest.mark.parametrize(("floor", "share"), [(100, 0.0), (0, 0.1)])
def test_floor_of_free_room(tmp_path: Path, floor: int, share: float) -> None:
    """In bytes or as a share of the disk; below it nothing is taken, and why is told."""
    room = [DiskRoom(100, 1000)]
    disk = replace(DiskCalls(), room=lambda _path: room[0])
    store = ObjectStore(tmp_path, floor, min_free_share=share, disk=disk)
    assert store.why_closed() == ""
    room[0] = DiskRoom(99, 1000)
    time.sleep(ROOM_LOOKED_AT_S)
    with pytest.raises(StorageFullError, match="min_free_mib"):
        store.receive(UID)
    assert "less free room" in store.why_closed()
    room[0] = DiskRoom(100, 1000)
    assert store.why_closed() == ""
    store.close()


def test_disk_that_failed_is_tried_again(tmp_path: Path) -> None:
    """Nobody writes to a closed store: it finds out by itself when the disk is well."""
    is_failing = threading.Event()
    is_failing.set()

    def sync(descriptor: int) -> None:
        if is_failing.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    store = ObjectStore(tmp_path, 0, disk=replace(DiskCalls(), sync=sync))
    with pytest.raises(StorageFullError):
        keep(store)
    assert "refused to write" in store.why_closed()
    time.sleep(PROBE_S * 1.1)
    assert "refuses to write" in store.why_closed()
    is_failing.clear()
    time.sleep(PROBE_S * 1.1)
    assert store.why_closed() == ""
    assert written(tmp_path) == []
    store.close()


def test_recovery_finishes_what_was_promised_and_removes_the_rest(tmp_path: Path) -> None:
    """The journal tells which spare file was renamed to what; others were never promised."""
    store = ObjectStore(tmp_path, 0)
    promised, other = store.receive(UID), store.receive("1.3")
    for file in (promised, other):
        file.write([FRONT])
        file.keep()
        store.read_path(file.path).rename(tmp_path / file.spare)  # as a power cut leaves it
    assert store.finish_rename(promised.spare, promised.path)
    assert store.finish_rename(promised.spare, promised.path), "twice is once"
    assert not store.finish_rename("spare/0/absent", f"objects/00/{'0' * 64}.dcm")
    store.close()
    assert store.recover() == 1
    assert written(tmp_path) == [promised.path]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside", "objects/../../outside", "spare/x", "index.sqlite"]
)
def test_paths_out_of_the_store_are_refused(tmp_path: Path, path: str) -> None:
    """Also where the index was tampered with."""
    with pytest.raises(ValueError, match="out of the store"):
        ObjectStore(tmp_path, 0).read_path(path)


def test_many_threads_at_once(tmp_path: Path) -> None:
    """Each file is its own, whatever the others do."""
    store = ObjectStore(tmp_path, 0)
    found: list[tuple[str, bytes]] = []

    def work(number: int) -> None:
        for n in range(50):
            content = f"{number} {n}".encode()
            found.append((keep(store, content, f"1.{number}.{n}"), FRONT + content))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({path for path, _ in found}) == 400
    assert all(store.read_path(path).read_bytes() == content for path, content in found)
    store.close()


def test_file_is_read_whole_where_the_system_gives_less_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems do: what was promised must not count as damaged."""
    (tmp_path / "a").write_bytes(b"data set")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 3)))
    assert read_at_once(descriptor, 8) == b"data set"
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        read_at_once(descriptor, 1)
    os.close(descriptor)


@pytest.mark.parametrize(
    "failure", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()], ids=["disk", "memory"]
)
def test_disk_that_lets_nothing_be_removed_either_is_told_and_passes(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that fails is mounted read-only by the system, until somebody looks."""
    is_failing = threading.Event()

    def sync_directory(path: Path) -> None:
        if is_failing.is_set():
            raise failure
        DiskCalls().sync_directory(path)

    store = ObjectStore(tmp_path, 0, disk=replace(DiskCalls(), sync_directory=sync_directory))
    is_failing.set()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", raiser(errno.EROFS))
        for _ in range(2):
            with pytest.raises(StorageFullError):
                store.receive(UID)
    is_failing.clear()
    assert store.read_path(keep(store)).exists()
    store.close()


def test_descriptor_is_closed_once_though_closing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server tells then what it could not write; the number is soon another file's."""
    store = ObjectStore(tmp_path, 0)
    file = store.receive(UID)
    file.write([FRONT])
    descriptor, closed, close = file._descriptor, list[int](), os.close

    def fail(number: int) -> None:
        if number == descriptor:
            closed.append(number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        close(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(StorageFullError):
            file.keep()
        file.discard()
    assert closed == [descriptor]
    assert written(tmp_path) == []
    close(descriptor)
    store.close()
